"""Whose answers these are and around which sets: nothing is joined that was not asked the same."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.evaluation import Evaluation, Section, costs_of, metrics, outcomes_of, protocol_of, report, rows_of
from jrobust.evaluation._report._models import models_of
from jrobust.evaluation._report._outcomes import alarms, between, threats_of
from tests.evaluation.report.common import LABEL, SMALL

KEY = jax.random.key(0)
PGD, IBP = {"pgd": jr.attacks.pgd(steps=3)}, {"ibp": jr.bounds.ibp()}


def asked(model, x, y, threat, oracles, title="net"):
    """One evaluation as a section."""
    ev = jr.evaluate(model, x, y, threat=threat, oracles=oracles, key=KEY)
    return Section(
        title,
        rows_of(ev, model=title, seed=0),
        outcomes=outcomes_of(ev, y),
        protocol=protocol_of(x, y, threat=threat, eps=[0.1], oracles=oracles, seed=0),
        costs=costs_of(ev),
    )


def test_a_proof_about_the_smoothed_classifier_is_none_about_the_model(tmp_path):
    smoothed = dataclasses.replace(SMALL["crown"], holds=SMALL["clean"].holds, about="smoothed", confidence=0.999)
    ev = Evaluation({**SMALL.results, "crown": smoothed}, "linf 0.1", 1.0)
    assert ev.contradictions() == []
    both = metrics.bracket(ev)
    assert (both.certified.value, both.attacked.value) == (pytest.approx(1 / 6), pytest.approx(4 / 6))  # ibp alone
    assert {r.name: r.subject for r in rows_of(ev, model="net", seed=0)} == {
        "clean": "model", "pgd": "model", "ibp": "model", "crown": "smoothed"
    }  # fmt: skip
    outcomes = outcomes_of(ev, LABEL)
    assert alarms(outcomes) == ()
    ((mine,), (other,)) = between(outcomes, "linf"), between(outcomes, "linf", "smoothed")
    assert (mine.proofs, other.proofs, other.attacks) == (("ibp",), ("crown",), ())
    page = json.loads(
        report(Section("net", rows_of(ev, model="net", seed=0), outcomes=outcomes), tmp_path / "r.json").read_text()
    )
    shares = {e["jrobust"]["subject"]: e["jrobust"] for e in page["entries"]}
    assert shares["model"]["at_least"]["value"] == pytest.approx(1 / 6)
    assert shares["smoothed"]["at_least"]["value"] == pytest.approx(5 / 6)
    assert shares["smoothed"]["at_most"] is None
    with pytest.raises(
        ValueError, match=r"crown .* speaks of the smoothed classifier, not of the model; about='smoothed'"
    ):
        metrics.certified_accuracy(ev["crown"])
    assert metrics.certified_accuracy(ev["crown"], about="smoothed").value == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="speaks of the model, not of the smoothed"):
        metrics.certified_accuracy(ev["ibp"], about="smoothed")
    attack = dataclasses.replace(SMALL["pgd"], about="smoothed")
    with pytest.raises(ValueError, match="not about one model"):
        metrics.adversarial_accuracy([SMALL["pgd"], attack])


def test_radii_of_each_example_are_not_read_as_the_largest(tmp_path):
    def model(x):
        return jnp.stack([x[:, 0], 1 - x[:, 0]], 1)

    x, y = jnp.array([[0.52]] * 7 + [[0.95]]), jnp.zeros(8, int)
    eps = jnp.array([0.001] * 7 + [0.3])
    each = asked(model, x, y, jr.sets.linf(eps, clip=(0, 1)), IBP)
    uniform = asked(model, x, y, jr.sets.linf(0.3, clip=(0, 1)), PGD)
    (threat,) = threats_of(each.outcomes)
    assert threat.startswith("linf 0.001 to 0.3 (radii ")
    assert each.rows[-1].value == 1.0
    assert {r.eps for r in each.rows} == {0.0, 1.0}  # times those radii
    assert (uniform.rows[-1].threat, uniform.rows[-1].eps, uniform.rows[-1].value) == ("linf", 0.3, 0.125)
    assert alarms(each.outcomes.joined(uniform.outcomes)) == ()
    document = json.loads(report([each, uniform], tmp_path / "r.json").read_text())
    assert [e["eps"] for e in document["entries"]] == [None, "0.3"]
    assert not any(e["unreliable"] for e in document["entries"])
    swapped = asked(model, x, y, jr.sets.linf(eps[::-1], clip=(0, 1)), PGD)
    assert threats_of(swapped.outcomes) != (threat,)  # other radii of the same range are another question
    same = asked(model, x, y, jr.sets.linf(jnp.full(8, 0.3), clip=(0, 1)), PGD)
    assert same.rows == uniform.rows


def test_products_are_told_apart_by_all_of_their_radii(tmp_path):
    x = tuple(jax.random.uniform(k, (12, 2)) for k in jax.random.split(KEY))

    def model(z):
        return z[0] + z[1]

    y = model(x).argmax(1)
    linf = jr.sets.linf
    small, large = jr.sets.product(linf(0.01), linf(0.01)), jr.sets.product(linf(0.01), linf(0.5))
    proven, broken = asked(model, x, y, small, IBP), asked(model, x, y, large, PGD)
    assert [(r.threat, r.eps) for r in proven.rows] == [("none", 0.0), ("linf x linf", 0.01)]
    assert broken.rows[1].threat.startswith("linf x linf 0.01, 0.5 (radii ")
    assert {(c.threat, c.eps) for c in proven.costs} == {("linf x linf", 0.01)}
    assert proven.rows[1].value > broken.rows[1].value
    (model_,) = models_of([proven, broken])
    assert model_.alarms == ()
    assert model_.checked == 0
    text = report([proven, broken], tmp_path / "r.md").read_text()
    assert "linf x linf 0.01, 0.5" in text
    curve = jr.evaluation.curve(model, x, y, threat=small, eps=[0.01, 0.02], oracles=PGD, key=KEY)
    assert [r.eps for r in rows_of(curve, model="net", seed=0)[1:]] == [0.01, 0.02]
    assert len(outcomes_of(curve, y).questions) == 3


def test_the_radius_is_the_one_given_not_the_one_printed():
    x, y = jnp.array([[0.2, 0.8]]), jnp.array([1])
    for eps in (8 / 255, jnp.float32(0.1), 0.123456):
        ev = jr.evaluate(lambda x: x, x, y, threat=jr.sets.linf(eps), oracles=IBP, key=KEY)
        np.testing.assert_allclose(rows_of(ev, model="net", seed=0)[1].eps, float(eps), rtol=1e-7)
    for text in ("linf", "linf 0.1..0.2", "linf x linf 0.1, 0.2", "linf 0.1,0.2"):
        with pytest.raises(ValueError, match="made by hand"):
            rows_of(dataclasses.replace(SMALL, threat=text), model="net", seed=0)


def test_sets_inside_other_boxes_do_not_contradict_each_other(tmp_path):
    def model(x):  # right (class 0) where x[0] > -0.05: certain inside [0, 1], broken outside
        return jnp.stack([x[:, 0] + 0.05, jnp.zeros(len(x))], 1)

    x, y = jnp.full((8, 3), 0.02), jnp.zeros(8, int)
    inside = asked(model, x, y, jr.sets.linf(0.1, clip=(0, 1)), IBP)
    outside = asked(model, x, y, jr.sets.linf(0.1), PGD)
    assert (inside.rows[-1].value, outside.rows[-1].value) == (1.0, 0.0)

    def old(s):  # as outcomes were written before they knew their set
        return dataclasses.replace(
            s,
            outcomes=s.outcomes._replace(questions=tuple(q._replace(set="") for q in s.outcomes.questions)),
        )

    for pair in ([inside, outside], [old(inside), outside], [old(inside), old(outside)]):
        (model_,) = models_of(pair)
        assert model_.alarms == ()
        assert model_.checked == 0
        assert "**Contradiction" not in report(pair, tmp_path / "r.md").read_text()
    joined = inside.outcomes.joined(outside.outcomes)
    assert alarms(joined) == ()
    with pytest.raises(ValueError, match="several sets of the name linf"):
        between(joined, "linf")
    # the same box is compared, at other radii too
    lie = old(inside).outcomes.around(outside.protocol["set"])
    for section in (outside, old(outside)):
        (model_,) = models_of([dataclasses.replace(section, outcomes=section.outcomes.joined(lie))])
        assert [len(a.index) for a in model_.alarms] == [8]
