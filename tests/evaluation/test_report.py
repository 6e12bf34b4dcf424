"""The report: what it says is in the results, what is missing is said, and what contradicts is on top."""

import dataclasses
import itertools
import json
import re
from html import unescape
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

import jrobust as jr
from jrobust._statistics import proportion
from jrobust.evaluation import (
    Curve,
    Evaluation,
    Gallery,
    Result,
    Section,
    card_of,
    corruption_rows,
    costs_of,
    outcomes_of,
    protocol_of,
    read_sections,
    report,
    rows_of,
    smoothed_outcomes,
    smoothed_rows,
    smoothing_cost,
    smoothing_protocol,
)
from jrobust.evaluation._markdown import markdown
from jrobust.evaluation._models import models_of
from jrobust.evaluation._outcomes import Outcomes, alarms, between
from jrobust.evaluation._page import page
from jrobust.evaluation._pictures import png
from jrobust.evaluation._plots import _band, _staircase
from jrobust.evaluation._protocol import boards, difference

LABEL = np.array([0, 0, 1, 1, 1, 2])
CORRECT = np.array([1, 1, 1, 1, 0, 1], bool)
HOSTILE = "<script>alert('1')</script>|`*_&\"\n"


def result(name, side, holds, confidence=1.0, **info):
    holds = np.array(holds, bool)
    value = np.where(holds, -1.0, 1.0)
    return Result(name, side, holds, value, None, {k: np.array(v) for k, v in info.items()}, confidence, CORRECT, name)


def evaluation(eps, *, attack, proof, other=None):
    results = [
        result("clean", "exact", CORRECT),
        result("pgd", "lower", attack, forwards=[3, 3, 3, 3, 0, 3], backwards=[2, 2, 2, 2, 0, 2]),
        result("crown", "upper", proof),
    ]
    results += [] if other is None else [result("ibp", "upper", other, 0.99)]
    return Evaluation({r.name: r for r in results}, f"linf {eps:g}", 1.5)


SMALL = evaluation(0.1, attack=[1, 1, 1, 1, 0, 0], proof=[1, 0, 1, 0, 0, 0], other=[0, 1, 0, 0, 0, 0])
LARGE = evaluation(0.2, attack=[1, 0, 1, 0, 0, 0], proof=[1, 0, 0, 0, 0, 0], other=[0, 0, 0, 0, 0, 0])
CURVE = Curve(np.array([0.1, 0.2]), (SMALL, LARGE))
ASKED = {"threat": jr.sets.linf(0.1, clip=(0, 1)), "eps": (0.1, 0.2), "seed": 0}


def section(title="net", curve=CURVE, *, x=None, oracles=None, **fields):
    oracles = {"pgd": jr.attacks.pgd(steps=3), "crown": jr.bounds.crown()} if oracles is None else oracles
    x = np.zeros((6, 2, 2, 1)) if x is None else x
    asked = {**ASKED, **fields.pop("asked", {})}
    return Section(
        title,
        rows_of(curve, model=title, seed=0),
        outcomes=outcomes_of(curve, LABEL),
        protocol=protocol_of(x, LABEL, oracles=oracles, dataset="toy", split="test", **asked),
        costs=costs_of(curve),
        **fields,
    )


def words(sections, tmp_path, ending="html", title="page"):
    return unescape(report(sections, tmp_path / f"r.{ending}", title=title).read_text())


# both sides, by example


def test_all_oracles_of_a_radius_together_by_hand():
    (small, large) = between(outcomes_of(CURVE, LABEL), "linf")
    assert small.proven.tolist() == [1, 1, 1, 0, 0, 0]
    assert small.unbroken.tolist() == [1, 1, 1, 1, 0, 0]
    assert (small.confidence, small.proofs, small.attacks) == (pytest.approx(0.99), ("crown", "ibp"), ("pgd",))
    assert small.floor().count == 3
    assert large.ceiling().count == 2
    by_class = [(small.floor(0.95, k == LABEL).count, small.ceiling(0.95, k == LABEL).count) for k in range(3)]
    assert by_class == [(2, 2), (1, 2), (0, 0)]
    expected = binomtest(1, 3).proportion_ci(0.95, method="exact")
    a = small.floor(0.95, LABEL == 1)
    np.testing.assert_allclose([a.low, a.high], [expected.low, expected.high], rtol=1e-9)
    assert between(Outcomes(LABEL, (), np.zeros((0, 6), bool)), "linf") == ()


def test_alarms_within_a_radius_and_across():
    assert alarms(outcomes_of(CURVE, LABEL)) == ()
    wrong = evaluation(0.2, attack=[1, 0, 1, 0, 0, 0], proof=[1, 0, 0, 0, 0, 1])  # example 5 was broken at 0.1 already
    (found,) = alarms(outcomes_of(Curve(CURVE.eps, (SMALL, wrong)), LABEL))
    assert (found.attack.name, found.certificate.name, found.index.tolist()) == ("pgd", "crown", [5])
    assert (found.attack.eps, found.certificate.eps) == (0.1, 0.2)
    # a proof at a smaller radius than the attack's contradicts nothing, nor does one about another threat
    fine = evaluation(0.1, attack=[1] * 6, proof=CORRECT)
    assert alarms(outcomes_of(Curve(CURVE.eps, (fine, LARGE)), LABEL)) == ()
    other = dataclasses.replace(wrong, threat="l2 0.2")
    (still,) = alarms(outcomes_of(Curve(CURVE.eps, (SMALL, other)), LABEL))
    assert still.attack.threat == still.certificate.threat == "l2"
    # what does not nest is compared at one radius alone
    pair = [dataclasses.replace(e, threat=f"hue {eps}") for e, eps in ((SMALL, 0.1), (wrong, 0.2))]
    (at,) = alarms(outcomes_of(Curve(CURVE.eps, tuple(pair)), LABEL))
    assert at.attack.eps == at.certificate.eps == 0.2


def test_an_alarm_is_at_the_top_in_red_and_across_results(tmp_path):
    attacked = Evaluation({k: SMALL[k] for k in ("clean", "pgd")}, "linf 0.1", 1.0)
    proven = Evaluation(
        {"clean": SMALL["clean"], "crown": result("crown", "upper", [0, 0, 0, 0, 0, 1])}, "linf 0.2", 1.0
    )
    pair = [section(curve=attacked), section(curve=proven)]
    text = report(pair, tmp_path / "r.html").read_text()
    assert text.index('class="alarm"') < text.index("<h2")
    assert "pgd breaks 1 example at linf 0.1 that crown certifies at linf 0.2: number 5" in unescape(text)
    assert "No contradiction" not in text
    assert json.loads(report(pair, tmp_path / "r.json").read_text())["entries"][0]["unreliable"] is True
    both = words([*pair, better("good")], tmp_path)
    assert "net (contradicted)" in both
    # of other examples nothing follows
    apart = [pair[0], section(curve=proven, x=np.ones((6, 2, 2, 1)))]
    assert 'class="alarm"' not in report(apart, tmp_path / "r.html").read_text()
    assert "Not checked" in words(apart, tmp_path)


def test_outcomes_on_disk(tmp_path):
    made = section(
        corruptions=corruption_rows([{"corruption": "fog", "severity": 1, "n": 4, "errors": 1}]),
        classes=("a", "b", "c"),
    )
    made.save(tmp_path / "net")
    (read,) = read_sections(tmp_path / "net")
    assert read.outcomes.questions == made.outcomes.questions
    np.testing.assert_array_equal(read.outcomes.holds, made.outcomes.holds)
    np.testing.assert_array_equal(read.outcomes.label, LABEL)
    assert (read.rows, read.costs, read.corruptions, read.classes) == (
        made.rows,
        made.costs,
        made.corruptions,
        made.classes,
    )
    assert dict(read.protocol) == json.loads(json.dumps(dict(made.protocol)))
    (tmp_path / "net" / "outcomes.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match="cannot be read as a result"):
        read_sections(tmp_path / "net")
    with pytest.raises(ValueError, match="other examples"):
        made.outcomes.joined(made.outcomes._replace(label=LABEL + 1))


def test_costs_by_hand():
    costs = {(c.name, c.eps): c for c in costs_of(CURVE)}
    assert costs["pgd", 0.1][3:] == (5, 15, 10, None)
    assert costs["crown", 0.2][3:] == (5, None, None, None)
    assert costs["all together", 0.2].seconds == 1.5
    assert costs_of(SMALL, seconds=False)[-1].seconds is None


# what the page says


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
    assert '<td class="num shade" style="--e:0.500">0.500</td>' in text
    assert "<td>snow</td>" in text
    assert "not measured</td>" in text  # snow at 2
    assert "incomplete" in text  # so it has no mean
    assert "n = 10 images a cell" in text
    for wrong, message in (
        ({"errors": 11}, "0..n"), ({"severity": -1}, "severity"), ({"n": 0, "errors": 0}, "n >= 1"), ({"errors": 0.5}, "integers"),
        ({"severity": True}, "integers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            corruption_rows([{**rows[0], **wrong}])
    with pytest.raises(ValueError, match="twice"):
        corruption_rows([rows[0], rows[0]])
    with pytest.raises(ValueError, match="errors is missing"):
        corruption_rows([{"corruption": "fog", "severity": 1, "n": 3}])


# several models


def better(title):
    """Proven on all that is right, unbroken there."""
    return section(title, Curve(CURVE.eps, tuple(evaluation(e, attack=CORRECT, proof=CORRECT) for e in (0.1, 0.2))))


def test_models_of_one_protocol_are_ranked():
    (board,) = boards([section("a"), better("b")])
    at = board.standings["linf", 0.2]
    assert [(s.title, s.rank, s.above) for s in at] == [("b", 1, ("a",)), ("a", 2, ())]
    tie = boards([section("a"), section("c")])[0].standings["linf", 0.1]
    assert [s.rank for s in tie] == [1, 1]
    assert not any(s.above for s in tie)
    likely = Curve(CURVE.eps, tuple(evaluation(e, attack=CORRECT, proof=[0] * 6, other=CORRECT) for e in (0.1, 0.2)))
    (board,) = boards([section("a"), section("b", likely)])  # b's proofs hold with confidence 0.99 each
    assert [(s.title, s.above) for s in board.standings["linf", 0.2]] == [("b", ()), ("a", ())]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"x": np.ones((6, 2, 2, 1))}, "examples"),
        ({"asked": {"threat": jr.sets.l2(0.1, clip=(0, 1))}}, "norm or transform"),
        ({"asked": {"threat": jr.sets.linf(0.1)}}, "set around an example"),
        ({"asked": {"nested": True}}, "nested"),
        ({"oracles": {"pgd": jr.attacks.pgd(steps=4), "crown": jr.bounds.crown()}}, "attacks"),
    ],
)
def test_models_of_other_protocols_are_not(changed, why, tmp_path):
    pair = [section("a"), section("b", **changed)]
    first, second = boards(pair)
    assert all(s.rank is None for b in (first, second) for here in b.standings.values() for s in here)
    assert re.search(why, difference(first, second))
    text = words(pair, tmp_path)
    assert re.search(f"are not ranked together: they differ in .*{why}", text)
    assert text.count(">alone<") == 4
    # another proof is the same protocol: a floor is true whichever proof gave it
    other = section("b", oracles={"pgd": jr.attacks.pgd(steps=3), "ibp": jr.bounds.ibp()})
    assert len(boards([pair[0], other])) == 1


def test_other_splits_radii_counts_and_unknown_protocols_are_not_ranked(tmp_path):
    half = Curve(np.array([0.3]), (dataclasses.replace(LARGE, threat="linf 0.3"),))
    (board,) = boards([section("a"), section("b", half)])
    assert all(len(here) == 1 and here[0].rank is None for here in board.standings.values())
    split = dataclasses.replace(section("b"), protocol={**section("b").protocol, "split": "train", "n": 7})
    first, second = boards([section("a"), split])
    assert difference(first, second) == "they differ in split (test and train), number of examples (n) (6 and 7)"
    unknown = [Section(t, rows_of(CURVE, model=t, seed=0)) for t in "ab"]
    first, second = boards(unknown)
    assert "was not recorded" in difference(first, second)
    assert "ranked against nothing" in words(unknown, tmp_path)
    noise = {
        "n": 3,
        "examples": "e",
        "noise": "gaussian 0.25",
        "noise_digest": "d",
        "n0": 1,
        "draws": 10,
        "alpha": 0.001,
    }
    smooth = [
        Section(t, tuple(r._replace(subject="smoothed", side="upper") for r in section(t).rows[1:2]), smoothing={**noise, **more})
        for t, more in (("a", {}), ("b", {}), ("c", {"noise": "gaussian 0.5", "noise_digest": "f"}), ("d", {"alpha": 0.01}))
    ]  # fmt: skip
    found = boards(smooth)
    assert [b.titles for b in found] == [("a", "b"), ("c",), ("d",)]
    assert difference(found[1], found[0]) == "they differ in noise (gaussian 0.5 and gaussian 0.25)"
    assert difference(found[2], found[0]) == "they differ in alpha (0.01 and 0.001)"


def test_sections_of_one_model_are_one_and_twins_are_told_apart():
    run = [dataclasses.replace(section("ibp"), origin=f"/runs/{who}/ibp") for who in ("ann", "bob")]
    names = [m.name for m in models_of([*run, dataclasses.replace(Section("ibp"), origin="/runs/ann/ibp")])]
    assert names == ["ann/ibp", "bob/ibp"]
    assert [m.name for m in models_of([section("a"), Section("a")])] == ["a"]


# outputs


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "rect", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "rect", "polyline", "polygon"):
            assert self.open.pop() == tag


def test_hostile_names_are_text_everywhere(tmp_path):
    names = tuple(f"{HOSTILE}{k}" for k in range(3))
    gallery = Gallery(*np.zeros((2, 1, 4, 4, 1)), np.array([1]), np.array([0]), np.array([2]), HOSTILE)
    hostile = section(
        HOSTILE, gallery=gallery, classes=names, command=HOSTILE, versions={HOSTILE: HOSTILE}, config={HOSTILE: HOSTILE}, notes=(HOSTILE,),
        card={"data set": HOSTILE, HOSTILE: HOSTILE},
        corruptions=corruption_rows([{"corruption": HOSTILE, "severity": 1, "n": 1, "errors": 1}]),
        radii=(1.0,), noise=HOSTILE,
    )  # fmt: skip
    folder = tmp_path / "<b onload=x>&"
    hostile.save(folder)
    text = report([hostile, *read_sections(folder), section("b")], tmp_path / "r.html", title=HOSTILE).read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "b", "link", "iframe"}
    assert {k for _, attributes in reader.seen for k in attributes if k.startswith("on")} == set()
    assert all(a["src"].startswith("data:image/png") for t, a in reader.seen if t == "img")
    plain = report([hostile, section("b")], tmp_path / "r.md", title=HOSTILE).read_text()
    outside = "".join(plain.split("```")[::2])
    assert "<script" not in outside
    for line in plain.splitlines():  # a bar in a name makes no column
        if line.startswith("| adversarial") or line.startswith("| &lt;"):
            assert "\\|" in line
    json.loads(report([hostile], tmp_path / "r.json", title=HOSTILE).read_text())


def test_html_needs_nothing_else(tmp_path):
    text = report([section("a"), better("b")], tmp_path / "r.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    for tag, attributes in reader.seen:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in text
    assert "http" not in text


def test_markdown_holds_every_number(tmp_path):
    text = words([section("a"), better("b")], tmp_path, "md")
    for row in section("a").rows:
        assert f"{row.value:.3f}" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables
    counts = set()
    for before, line in itertools.pairwise(tables):
        if set(line) <= set("|-:"):
            counts.add(before.count("|") == line.count("|"))
    assert counts == {True}
    assert "```" in markdown(page(models_of([Section("a", command="jrobust evaluate")]), "t"))


def test_json_has_robustbenchs_keys_and_our_sides(tmp_path):
    auto = Evaluation(
        {**SMALL.results, "autoattack": result("autoattack", "lower", [1, 1, 1, 0, 0, 0])}, "linf 0.1", 1.0
    )
    document = json.loads(report([section("a"), section("b", auto)], tmp_path / "r.json").read_text())
    first, second, third = document["entries"]
    keys = {
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps", "clean_acc",
        "reported", "footnote", "unreliable",
    }  # fmt: skip
    assert keys < set(first)
    assert "autoattack_acc" not in first
    assert (first["name"], first["eps"], first["clean_acc"], first["external"]) == ("a", "0.1", "83.33", "66.67")
    assert (second["eps"], second["external"]) == ("0.2", "33.33")
    assert third["autoattack_acc"] == "50.00"
    assert "external" not in third  # pgd left more
    ours = third["jrobust"]
    assert (ours["at_least"]["value"], ours["at_most"]["value"], ours["at_most"]["n"]) == (0.5, 0.5, 6)
    assert ours["at_least"]["low"] < 0.5 < ours["at_least"]["high"]
    assert ours["at_least"]["confidence"] == pytest.approx(0.99)
    assert document["models"][0]["rows"][0]["side"] == "exact"


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"\.html, \.md or \.json, got 'r\.pdf'"):
        report(section(), tmp_path / "r.pdf")
    with pytest.raises(ValueError, match="at least one section"):
        report([], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_a_real_curve_all_the_way(tmp_path, key):
    w = jax.random.normal(key, (4, 3))
    x = np.asarray(jax.random.uniform(key, (24, 4)))
    y = np.asarray(jnp.argmax(x @ w, 1))
    oracles = {"fgsm": jr.attacks.fgsm(), "ibp": jr.bounds.ibp()}
    threat = jr.sets.linf(0.0, clip=(0, 1))
    found = jr.evaluation.curve(lambda x: x @ w, x, y, threat=threat, eps=[0.05, 0.1], oracles=oracles, key=key)
    made = Section(
        "linear", rows_of(found, model="linear", seed=0), outcomes=outcomes_of(found, y), costs=costs_of(found),
        protocol=protocol_of(x, y, threat=threat, eps=[0.05, 0.1], oracles=oracles, seed=0),
    )  # fmt: skip
    for b in between(made.outcomes, "linf"):  # of a linear model on one step both sides agree, up to the clip
        assert (b.proven <= b.unbroken).all()
    assert "No contradiction" in words(made, tmp_path)
    assert made.costs[0].forwards > 0


def test_results_inside_a_training_run_are_about_its_model(tmp_path):
    run = tmp_path / "runs" / "ibp"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    config = {"command": "train", "dataset": "toy", "method": "ibp", "eps": 0.2, "model": {"name": "mlp"}}
    (run / "config.json").write_text(json.dumps(config))
    section("ibp", config={"run": "elsewhere/ibp"}).save(run / "evaluate-1")
    for folder in (run, tmp_path / "runs"):
        sections = read_sections(folder)
        assert [len(s.rows) > 0 for s in sections] == [False, True]
        (model,) = models_of(sections)
        assert model.card == {"data set": "toy", "architecture": "mlp", "training": "ibp", "trained at eps": 0.2}
        assert "By class at linf 0.2" in words(sections, tmp_path)  # where it was trained
