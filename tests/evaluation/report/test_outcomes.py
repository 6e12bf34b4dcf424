"""Every answer about every example: both sides, contradictions, cost, on disk."""

import dataclasses
import json
from html import unescape

import numpy as np
import pytest
from scipy.stats import binomtest

from jrobust.evaluation import (
    Curve,
    Evaluation,
    corruption_rows,
    costs_of,
    outcomes_of,
    read_sections,
    report,
)
from jrobust.evaluation._report._outcomes import Outcomes, alarms, between
from tests.evaluation.report.common import (
    CORRECT,
    CURVE,
    LABEL,
    LARGE,
    SMALL,
    better,
    evaluation,
    result,
    section,
    words,
)


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
