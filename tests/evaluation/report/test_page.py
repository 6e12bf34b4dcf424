"""What a page says is in the results, and what is missing is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

import jrobust as jr
from jrobust._statistics import proportion
from jrobust.evaluation import (
    Gallery,
    Section,
    card_of,
    corruption_rows,
    read_sections,
    smoothed_outcomes,
    smoothed_rows,
    smoothing_cost,
    smoothing_protocol,
)
from jrobust.evaluation._report._pictures import png
from jrobust.evaluation._report._plots import _band, _staircase
from tests.evaluation.report.common import (
    section,
    words,
)


def test_every_part_is_there_or_said_to_be_missing(tmp_path):
    text = words(section(card=card_of({"dataset": "toy", "method": "ibp", "eps": 0.1})), tmp_path)
    for said in (
        "data set", "not recorded", "hash of the examples", "attack pgd", "proof crown",
        "Robust accuracy over the linf radius; n = 6, 95% intervals",
        "By class at linf 0.1; n = 1 to 3 a class", "Not measured: the model was not smoothed.", "None kept", "Not measured.",
        "No contradiction", "30 (3.0 each)", "not counted", "3.0", "at most", "at least", "exact", "The command was not recorded.",
    ):  # fmt: skip
        assert said in text, said
    empty = words(Section("net"), tmp_path)
    for said in (
        "Not measured: no attack and no proof",
        "Not measured: no answers",
        "Not checked",
        "was not recorded",
        "No record of the training",
    ):
        assert said in empty, said
    one = Section("net", tuple(r for r in section().rows if r.side != "upper"))
    assert "No proof was asked: the floor is not measured." in words(one, tmp_path)


def test_smoothing_and_losses_and_pictures(tmp_path, key):
    x = jnp.array([[2.0, 0.0], [-1.0, 0.0], [0.01, 0.0]])
    y = np.array([0, 1, 0])
    certificate = jr.smoothing.certify(
        lambda x: jnp.stack([x[:, 0], -x[:, 0]], 1), x, noise=jr.smoothing.gaussian(0.5), n=200, key=key
    )
    gallery = Gallery(
        *(np.random.default_rng(0).random((2, 1, 4, 4, c))[0] for c in (3, 3)),
        np.array([1]),
        np.array([1]),
        np.array([0]),
        "pgd",
    )
    made = Section(
        "net",
        smoothed_rows(certificate, y, model="net", seed=0, radii=(0.25,)),
        radii=tuple(certificate.radius.tolist()),
        noise=certificate.noise,
        smoothing=smoothing_protocol(x, y, certificate, seed=0),
        outcomes=smoothed_outcomes(certificate, y, (0.25,)),
        costs=(smoothing_cost(certificate),),
        losses=tuple({"step": i, "loss": 1 / (i + 1)} for i in range(4)),
        gallery=gallery,
    )
    text = words(made, tmp_path)
    assert "Certified accuracy of the smoothed classifier over the radius; n = 3" in text
    assert "The loss that was minimised" in text
    assert "900 (300.0 each)" in text
    assert made.outcomes.holds.tolist() == [(certificate.radius >= 0.25).tolist()]
    assert text.count('src="data:image/png;base64,') == 3
    assert text.count("<svg") == 3  # by class, radii, loss


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def _npy(path):
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)


def _flipped(path):  # inside the compressed images: the archive opens, its sums are wrong
    data = bytearray(path.read_bytes())
    data[120:140] = bytes(20)
    path.write_bytes(data)


def _reshaped(**changes):
    def damage(path):
        with np.load(path) as file:
            arrays = {**file, **changes}
        np.savez_compressed(path, **arrays)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _truncated, _flipped, _npy, lambda path: path.write_bytes(b""), _reshaped(witness=np.zeros((1, 4, 5, 3))),
        _reshaped(label=np.zeros(2, int)), _reshaped(before=np.zeros(1)), _reshaped(extra=np.zeros(1)),
        _reshaped(clean=np.array(["a"]), witness=np.array(["a"])),
        _reshaped(clean=np.zeros(1), witness=np.zeros(1)),
    ],
)  # fmt: skip
def test_damaged_pictures_cost_the_pictures_alone(tmp_path, damage):
    rng = np.random.default_rng(0)
    pictures = Gallery(*rng.random((2, 1, 8, 8, 3)), np.array([1]), np.array([1]), np.array([0]), "pgd")
    section("net", gallery=pictures).save(tmp_path / "net")
    assert read_sections(tmp_path / "net")[0].gallery is not None
    damage(tmp_path / "net" / "gallery.npz")
    with pytest.warns(UserWarning, match=r"The pictures of witnesses are left out: gallery\.npz of net cannot be read"):
        read = read_sections(tmp_path / "net")
    text = words(read, tmp_path)
    assert text.count("The pictures of witnesses are left out: gallery.npz of net cannot be read") == 1
    assert "Not shown: their file is damaged." in text
    assert "None kept" not in text
    assert "<img" not in text
    assert read[0].rows == section("net").rows


def test_png_is_read_back_exactly():
    import base64
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    for channels in (1, 3):
        image = rng.integers(0, 256, (5, 7, channels)).astype(np.uint8)
        data = base64.b64decode(png(image / 255).split(",")[1])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))).reshape(image.shape), image)


def test_between_radii_only_the_steps_follow():
    share = lambda value: proportion(round(4 * value), 4, side="lower")  # noqa: E731
    below = [(0.0, share(1.0)), (0.2, share(0.5)), (0.4, share(0.25))]
    above = [(0.0, share(1.0)), (0.1, share(0.75))]
    assert _staircase(below, late=False) == ([0.0, 0.0, 0.2, 0.2, 0.4], [1.0, 0.5, 0.5, 0.25, 0.25])
    assert _staircase(above, late=True) == ([0.0, 0.1, 0.1], [1.0, 1.0, 0.75])
    xs, low, high = _band(below, above)
    assert xs == [0.0, 0.1, 0.1, 0.2, 0.2, 0.4]
    assert low == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert high == [1.0, 1.0, 0.75, 0.75, 0.75, 0.75]


def test_corruptions_are_a_heat_map_with_numbers(tmp_path):
    rows = [
        {"corruption": c, "severity": s, "n": 10, "errors": e}
        for c, s, e in (("fog", 1, 2), ("fog", 2, 5), ("snow", 1, 10))
    ]
    made = corruption_rows(rows)
    assert [c.error for c in made] == [0.2, 0.5, 1.0]
    expected = binomtest(5, 10).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose([made[1].low, made[1].high], [expected.low, expected.high], rtol=1e-9)
    text = words(Section("net", corruptions=made), tmp_path)
    assert "The suite was not recorded, severities as below" in text
    assert "<td>not recorded</td>" in text
    assert '<td class="num shade" style="--e:0.500">0.500</td>' in text
    assert "<td>snow</td>" in text
    assert "not measured</td>" in text  # snow at 2
    assert "incomplete" in text  # so it has no mean
    assert "n = 10 images a cell" in text
    two = [
        {**row, "suite": suite, "drawn": drawn}
        for suite, drawn in (("cifar-c", True), ("own", False))
        for row in rows[:2]
    ]
    text = words(Section("net", corruptions=corruption_rows(two)), tmp_path)
    first, second = (
        text.index("cifar-c, severities 1 to 2. Error, counted"),
        text.index("own, severities 1 to 2. Error, counted"),
    )
    assert "one draw of its noise" in text[first:second]
    assert "one draw of its noise" not in text[second:]
    each = [
        {**rows[0], "suite": "mnist-c", "drawn": False},
        {**rows[2], "severity": 3, "suite": "mnist-c", "drawn": True},
    ]
    text = words(Section("net", corruptions=corruption_rows(each)), tmp_path, "md")
    assert "mnist-c, one severity each" in text
    assert "| snow | one draw | 3 | 1.000 |" in text
    assert "incomplete" not in text
    for wrong, message in (
        ({"errors": 11}, "0..n"), ({"severity": -1}, "severity"), ({"n": 0, "errors": 0}, "n >= 1"), ({"errors": 0.5}, "integers"),
        ({"severity": True}, "integers"), ({"drawn": 1}, "drawn is True, False or None"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            corruption_rows([{**rows[0], **wrong}])
    with pytest.raises(ValueError, match="twice"):
        corruption_rows([rows[0], rows[0]])
    with pytest.raises(ValueError, match="errors is missing"):
        corruption_rows([{"corruption": "fog", "severity": 1, "n": 3}])


@pytest.mark.parametrize("n", [1, 5, 6])
def test_the_median_radius_of_few_examples_is_at_most_what_the_draws_could_certify(n):
    x = jnp.tile(jnp.array([[1.0, 0.0]]), (n, 1))
    cert = jr.smoothing.certify(lambda x: x, x, noise=jr.smoothing.gaussian(0.25), n=200, key=jax.random.key(0))
    median = smoothed_rows(cert, np.zeros(n, int), model="net", seed=0, radii=(0.0,))[-1]
    assert median.low <= median.value <= median.high
    np.testing.assert_allclose(median.high, cert.most if n < 6 else cert.radius.max())
    assert (median.low == 0) == (n < 6)
