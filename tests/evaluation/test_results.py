"""Intervals, tables, and metrics that accept only the sides from which they follow."""

import numpy as np
import pytest
from scipy.stats import binomtest

import jrobust as jr
from jrobust._statistics import proportion
from jrobust.evaluation import Curve, Evaluation, Result, Section, metrics, report, rows_of


def result(name, side, holds, correct=None, confidence=1.0):
    holds = np.array(holds, bool)
    correct = np.ones(len(holds), bool) if correct is None else np.array(correct, bool)
    return Result(name, side, holds, np.where(holds, -1.0, 1.0), None, {}, confidence, correct, f"{name} oracle")


CLEAN = result("clean", "exact", [1, 1, 1, 1, 0], [1, 1, 1, 1, 0])
ATTACK = result("attack", "lower", [1, 1, 1, 0, 0], CLEAN.holds)
OTHER = result("other", "lower", [1, 1, 0, 1, 0], CLEAN.holds)
PROOF = result("proof", "upper", [1, 0, 0, 0, 0], CLEAN.holds)
SMOOTH = result("smooth", "upper", [0, 1, 0, 0, 0], CLEAN.holds, 0.999)
GUESS = result("guess", "estimate", [1, 1, 1, 1, 1], CLEAN.holds)
ALL = Evaluation({r.name: r for r in (CLEAN, ATTACK, OTHER, PROOF, SMOOTH, GUESS)}, "linf 0.1", 1.0)


def test_intervals_are_clopper_pearson():
    for count, n in ((0, 5), (3, 5), (5, 5), (480, 1000)):
        for level in (0.9, 0.95):
            a = proportion(count, n, side="lower", level=level)
            expected = binomtest(count, n).proportion_ci(level, method="exact")
            np.testing.assert_allclose([a.low, a.high], [expected.low, expected.high], rtol=1e-9)
            assert float(a) == count / n
    with pytest.raises(ValueError, match="level"):
        proportion(1, 2, side="lower", level=95.0)


def test_accuracy_carries_its_side():
    a = ATTACK.accuracy()
    assert (a.value, a.count, a.n, a.side, a.confidence) == (0.6, 3, 5, "lower", 1.0)
    assert PROOF.accuracy() < ATTACK.accuracy() < CLEAN.accuracy()
    assert SMOOTH.accuracy().confidence == 0.999


@pytest.mark.parametrize(
    ("metric", "refused"),
    [
        (metrics.certified_accuracy, (ATTACK, GUESS)),
        (metrics.robust_accuracy, (PROOF, SMOOTH, GUESS)),
        (metrics.attack_success_rate, (PROOF, GUESS)),
        (metrics.accuracy, (GUESS,)),
        (Result.accuracy, (GUESS,)),
    ],
)
def test_metrics_refuse_the_wrong_side(metric, refused):
    for r in refused:
        with pytest.raises(ValueError, match=r.name):
            metric(r)


def test_metrics():
    assert metrics.certified_accuracy(PROOF).value == 0.2
    assert metrics.robust_accuracy(ATTACK).value == 0.6
    assert metrics.robust_accuracy(CLEAN).value == metrics.certified_accuracy(CLEAN).value == 0.8
    rate = metrics.attack_success_rate(ATTACK)
    assert (rate.value, rate.n) == (0.25, 4)
    with pytest.raises(ValueError, match="nothing to attack"):
        metrics.attack_success_rate(result("a", "lower", [0], [0]))
    both = metrics.bracket(ALL)
    assert both.certified is not None
    assert (both.certified.value, both.attacked.value) == (0.4, 0.4)
    assert both.certified.confidence == pytest.approx(0.999)
    assert metrics.bracket({"clean": CLEAN}).certified is None
    assert jr.metrics is metrics


def test_table_says_n_side_confidence_and_interval():
    table = ALL.table()
    assert [row["name"] for row in table.rows] == list(ALL) == ["clean", "attack", "other", "proof", "smooth", "guess"]
    for row in table.rows:
        assert row["n"] == 5
        assert row["side"] == ALL[row["name"]].side
    words = {row["name"]: row["true value"] for row in table.rows}
    assert (words["clean"], words["attack"], words["proof"], words["guess"]) == (
        "exact",
        "at most",
        "at least",
        "bounds nothing",
    )
    text = str(table)
    assert "0.6000" in text
    assert "[0.1466, 0.9473]" in text
    assert "0.999" in text
    assert "bounds nothing" in text
    assert len({len(line) for line in text.splitlines()[:2]}) <= 2


def test_contradictions():
    assert ALL.contradictions() == []
    wrong = result("wrong", "upper", [0, 0, 0, 1, 0], CLEAN.holds)
    (found,) = Evaluation({**ALL.results, "wrong": wrong}, "linf 0.1", 1.0).contradictions()
    assert (found.attack, found.certificate, found.index.tolist()) == ("attack", "wrong", [3])


def test_a_missing_name_is_named():
    with pytest.raises(KeyError, match="there are clean, attack"):
        ALL["none"]


def test_reprs_are_one_line_and_a_curve_is_clean_once():
    curve = Curve(np.array([0.1, 0.2]), (ALL, ALL))
    for shown in (repr(ALL), repr(ATTACK), repr(GUESS), repr(ATTACK.accuracy()), repr(curve)):
        assert len(shown) < 160
        assert "\n" not in shown
    assert "at most 0.6" in repr(ATTACK)
    assert [row["name"] for row in curve.table().rows].count("clean") == 1
    assert len(curve.table().rows) == 2 * len(ALL) - 1


def test_a_report_takes_a_section_and_says_how_to_make_one(tmp_path):
    section = Section("net", rows_of(ALL, model="net", seed=0))
    assert "at most" in report(section, tmp_path / "r.html").read_text()
    with pytest.raises(TypeError, match=r"Section\(title, rows_of\(evaluation"):
        report([ALL], tmp_path / "r.html")


def test_optimality_by_hand():
    best = [0.0, 1.0, 2.0, 3.0, np.inf]  # one misclassified, one never broken: the areas end at 3
    assert metrics.optimality(best, best) == 1.0
    with pytest.raises(ValueError, match="misclassified"):
        metrics.optimality([5.0, 2.0], [0.0, 2.0])
    # areas 9/5 and, of the attack that misses one and is late at another, 11.5/5; without an attack 12/5
    np.testing.assert_allclose(metrics.optimality([0.0, 2.5, 3.0, np.inf, np.inf], best), 1 - 2.5 / 3)
    np.testing.assert_allclose(metrics.optimality([0.0, np.inf, np.inf, np.inf, np.inf], best), 0.0, atol=1e-12)
    # beyond the end nothing counts
    assert metrics.optimality([0.0, 1.0, 2.0, 7.0, np.inf], best) == 1.0
    for distances, message in [(best[:2], "length"), ([0.0, 0.5, 2.0, 3.0, 3.0], "below"), ([np.nan] * 5, "NaN")]:
        with pytest.raises(ValueError, match=message):
            metrics.optimality(distances, best)
    with pytest.raises(ValueError, match="no attack"):
        metrics.optimality([0.0, np.inf], [0.0, np.inf])
