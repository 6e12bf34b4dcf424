"""Errors under corruptions: those of images corrupted by hand, whatever the batches; resumed, saved, refused in words."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.corruptions import cifar_c, corrupted, corruption, mnist_c
from jrobust.data import Corrupted
from jrobust.evaluation import corruption_errors

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(7, 8, 8, 1)).astype(np.float32)
W = RNG.normal(size=(64, 4)).astype(np.float32)
NAMES = ("gaussian_noise", "contrast")
SOME = {name: cifar_c[name] for name in NAMES}


def net(x):
    return x.reshape(len(x), -1) @ W


Y = np.array(jnp.argmax(net(X), 1))
Y[0] = (Y[0] + 1) % 4  # one error on clean images


@pytest.fixture(scope="module")
def found():
    return corruption_errors(net, X, Y, corruptions=SOME, severities=[2, 5], key=KEY, batch_size=3)


def test_errors_are_those_of_images_corrupted_by_hand(found):
    for name in NAMES:
        for k, severity in enumerate((2, 5)):
            images = corrupted(SOME[name], X, severity=severity, key=KEY)
            cut = np.floor(255 * images + 1e-3).astype(np.float32) / np.float32(255)
            np.testing.assert_array_equal(found.wrong[name][k], np.argmax(net(cut), 1) != Y)
    np.testing.assert_array_equal(found.clean, np.arange(7) == 0)
    errors = found.errors()
    assert jr.metrics.mean_corruption_error(errors) == pytest.approx(float(found.mean()))
    assert found.error("contrast", 5).value == errors["contrast"][1]
    assert (found.error().value, found.error().n) == (1 / 7, 7)
    assert any(0 < e < 1 for row in errors.values() for e in row)


def test_table_and_summary_carry_n_and_intervals(found, tmp_path):
    table = found.table(level=0.9)
    assert [row["corruption"] for row in table.rows] == list(NAMES)
    assert table.rows[0]["severity 5"] == str(found.error("gaussian_noise", 5, level=0.9))
    assert "n=7, intervals at 90%" in str(table)
    path = found.save(tmp_path, model="net", suite="cifar-c", seed=3)
    assert path.name == "corruption_errors.json"
    summary = json.loads(path.read_text())
    assert (summary["model"], summary["suite"], summary["n"], summary["level"]) == ("net", "cifar-c", 7, 0.95)
    assert [(c["corruption"], c["severity"]) for c in summary["cells"]] == [(n, s) for n in NAMES for s in (2, 5)]
    for cell in summary["cells"]:
        a = found.error(cell["corruption"], cell["severity"])
        assert (cell["error"], cell["low"], cell["high"]) == (a.value, a.low, a.high)
    assert summary["mean"]["error"] == float(found.mean())
    assert summary["mean"]["low"] < summary["mean"]["error"] < summary["mean"]["high"]


def test_what_was_drawn_is_no_exact_number(found):
    assert found.drawn == {"gaussian_noise"}
    assert found.error().side == found.error("contrast", 2).side == "exact"
    assert found.error("gaussian_noise", 2).side == found.mean().side == "estimate"
    assert "one draw of the noise: gaussian_noise" in str(found.table())
    cells = found.summary()["cells"]
    assert [(c["corruption"], c["drawn"]) for c in cells[::2]] == [("gaussian_noise", True), ("contrast", False)]


def test_it_goes_on_where_it_stopped(found, tmp_path):
    def ask(**more):
        options = {"corruptions": SOME, "severities": [2, 5], "key": KEY, "batch_size": 4, "out": tmp_path}
        return corruption_errors(net, X, Y, **(options | more))

    whole = ask()
    for name in NAMES:
        np.testing.assert_array_equal(whole.wrong[name], found.wrong[name])
    lines = (tmp_path / "corruptions.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 7
    (tmp_path / "corruptions.jsonl").write_text("".join(lines[:5]) + lines[5][:9])  # a kill
    again = ask(batch_size=2)
    np.testing.assert_array_equal(again.wrong["contrast"], found.wrong["contrast"])
    assert (tmp_path / "corruptions.jsonl").read_text() == "".join(lines)
    for other in ({"severities": [2]}, {"key": jax.random.key(4)}, {"corruptions": {"contrast": mnist_c["stripe"]}}):
        with pytest.raises(ValueError, match="results of another run"):
            ask(**other)
    (tmp_path / "corruptions.jsonl").write_text("".join(lines).replace('"contrast": [', '"contrast": [1, '))
    with pytest.raises(ValueError, match="not of this run; the file was damaged"):
        ask()


def test_released_arrays_and_single_severities():
    """Released images are shown as they are; what has one severity is asked at that one."""
    arrays = RNG.integers(0, 256, (5, 9, 8, 8, 1), np.uint8)
    released = Corrupted("fog", arrays, np.concatenate([Y, [0, 0]]).astype(np.int32))
    found = corruption_errors(
        net, X, Y, corruptions={"fog": released, "stripe": mnist_c["stripe"]}, severities=[1, 4], key=KEY
    )
    assert found.severities == {"fog": (1, 4), "stripe": (1,)}
    wanted = np.argmax(net(arrays[3, :7] / np.float32(255)), 1) != Y
    np.testing.assert_array_equal(found.wrong["fog"][1], wanted)
    by_name = corruption_errors(
        net, X, Y, corruptions=SOME, severities={"gaussian_noise": [1], "contrast": [4, 5]}, key=KEY
    )
    assert [len(e) for e in by_name.errors().values()] == [1, 2]
    assert float(by_name.mean()) == pytest.approx(np.mean([np.mean(e) for e in by_name.errors().values()]))
    with pytest.raises(ValueError, match="released images"):
        corruption_errors(net, X, Y[::-1], corruptions={"fog": released}, key=KEY)


def test_ties_and_nan_are_errors():
    still = {"same": corruption(lambda key, x: x, "same", [()])}
    constant = corruption_errors(lambda x: jnp.zeros((len(x), 4)) + 0 * x[:, 0, 0], X, Y, corruptions=still, key=KEY)
    assert constant.errors() == {"same": [1.0]}
    silent = corruption_errors(lambda x: net(x).at[:, 3].set(jnp.nan), X, np.zeros(7, int), corruptions=still, key=KEY)
    assert silent.clean.all()


def test_bad_input():
    ask = {"corruptions": SOME, "key": KEY}
    for severity in (0, 6):
        with pytest.raises(ValueError, match=r"severity is an int in 1\.\.5"):
            corruption_errors(net, X, Y, severities=[severity], **ask)
    with pytest.raises(ValueError, match="at least one of"):
        corruption_errors(net, X, Y, severities=[], **ask)
    with pytest.raises(TypeError, match="at least one"):
        corruption_errors(net, X, Y, corruptions={}, key=KEY)
    with pytest.raises(TypeError, match="fog"):
        corruption_errors(net, X, Y, corruptions={"fog": "fog"}, key=KEY)
    with pytest.raises(ValueError, match="string other than"):
        corruption_errors(net, X, Y, corruptions={"clean": cifar_c["fog"]}, key=KEY)
    with pytest.raises(ValueError, match="saturate takes images of 3 channels"):
        corruption_errors(net, X, Y, corruptions={"saturate": cifar_c["saturate"]}, key=KEY)
    with pytest.raises(ValueError, match=r"images \[N, H, W, C\]"):
        corruption_errors(net, X.reshape(7, -1), Y, **ask)
    with pytest.raises(ValueError, match="is not finite"):
        corruption_errors(net, np.where(X > 0.5, np.nan, X).astype(np.float32), Y, **ask)
    with pytest.raises(TypeError, match="divide images by 255"):
        corruption_errors(net, np.ones(X.shape, np.uint8), Y, **ask)
    with pytest.raises(ValueError, match="the model has 4 classes"):
        corruption_errors(net, X, Y + 4, **ask)


def test_a_random_model_is_judged_by_draws_of_each_example(tmp_path):
    noise = lambda k, z: jax.random.normal(k, (len(z), 2)) + 0 * z.mean()  # noqa: E731
    x, y, some = np.full((60, 8, 8, 1), 0.5, np.float32), np.zeros(60, int), {"brightness": cifar_c["brightness"]}

    def run(n=1, key=KEY, **more):
        net = jr.objectives.stochastic(noise, n)
        return corruption_errors(net, x, y, corruptions=some, severities=[1], key=key, **more)

    first, *others = (run(batch_size=size) for size in (60, 7, 1))
    for other in others:
        np.testing.assert_array_equal(other.wrong["brightness"], first.wrong["brightness"])
        np.testing.assert_array_equal(other.clean, first.clean)
    assert 15 < first.clean.sum() < 45  # a fair coin an example, not one for all
    np.testing.assert_array_equal(
        first.clean, first.wrong["brightness"][0]
    )  # noise alone: the same draws at every image
    assert (run(n=9).clean != first.clean).any()
    assert (run(key=jax.random.key(4)).clean != first.clean).any()
    ev = jr.evaluate(jr.objectives.stochastic(noise, 1), x, y, threat=jr.sets.linf(0.1), oracles={}, key=KEY)
    np.testing.assert_array_equal(ev["clean"].holds, ~first.clean)  # one judge in both
    assert {first.error().side, first.error("brightness", 1).side, first.mean().side} == {"estimate"}
    assert "mean of 1 draws" in str(first.table())
    assert first.summary()["cells"][0]["drawn"]
    assert first.summary()["draws"] == 1
    run(out=tmp_path)
    np.testing.assert_array_equal(run(out=tmp_path, batch_size=9).clean, first.clean)
    with pytest.raises(ValueError, match="another"):
        run(n=2, out=tmp_path)
