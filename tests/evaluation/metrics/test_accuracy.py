"""Shares over results, by hand; the curve of one minimum-norm run against the driver's own."""

import jax
import numpy as np
import pytest

import jrobust as jr
from jrobust import metrics
from jrobust._statistics import average, proportion
from jrobust.evaluation import Result, curve
from tests.evaluation.common import data, linear, linear_radius


def result(name, side, holds, correct, value=None, quantity="margin"):
    holds, correct = np.array(holds, bool), np.array(correct, bool)
    value = np.where(holds, -1.0, 1.0) if value is None else np.array(value, float)
    return Result(name, side, holds, value, None, {}, 1.0, correct, f"{name} oracle", quantity)


CORRECT = [1, 1, 1, 1, 1, 0]
PGD = result("pgd", "lower", [1, 1, 1, 0, 0, 0], CORRECT)
SQUARE = result("square", "lower", [1, 1, 0, 0, 1, 0], CORRECT)
PROOF = result("proof", "upper", [1, 0, 0, 0, 0, 0], CORRECT)
GUESS = result("guess", "estimate", [1, 1, 1, 1, 1, 1], CORRECT)
Y = [0, 0, 1, 1, 1, 2]


def test_worst_over_attacks():
    assert metrics.clean_accuracy(PROOF).value == 5 / 6
    assert metrics.clean_accuracy(PROOF).side == "exact"
    both = metrics.adversarial_accuracy([PGD, SQUARE])
    assert (both.value, both.side, both.n) == (2 / 6, "lower", 6)
    assert metrics.adversarial_accuracy({"a": PGD}) == metrics.robust_accuracy(PGD)
    assert metrics.successes(PGD).tolist() == [False, False, False, True, True, False]
    for wrong, word in [([PGD, PROOF], "proof"), ([], "at least one"), ([GUESS], "guess")]:
        with pytest.raises(ValueError, match=word):
            metrics.adversarial_accuracy(wrong)
    with pytest.raises(ValueError, match="same examples"):
        metrics.adversarial_accuracy([PGD, result("other", "lower", [1, 1], [1, 1])])


def test_a_rate_reads_the_other_way_round():
    rate = metrics.attack_success_rate(PGD)
    assert repr(rate).startswith("Accuracy(at least 0.4")
    assert repr(metrics.robust_accuracy(PGD)).startswith("Accuracy(at most 0.5")


@pytest.mark.parametrize(
    ("side", "share", "mean"),
    [
        ("lower", "at most", "at least"),
        ("upper", "at least", "at most"),
        ("exact", "exact", "exact"),
        ("estimate", "estimate", "estimate"),
    ],
)
def test_a_printed_number_says_its_side_and_n(side, share, mean):
    a = proportion(3, 4, side=side)
    assert str(a) == f"{a}" == f"{share} 0.7500 [{a.low:.4f}, {a.high:.4f}], n=4"
    assert f"{a:.1f}" == f"{share} 0.8 [{a.low:.1f}, {a.high:.1f}], n=4"
    assert repr(a) == f"Accuracy({a})"
    b = average([1.0, 2.0], side=side, confidence=0.999)
    assert str(b) == f"{mean} 1.5000 [{b.low:.4f}, {b.high:.4f}], n=2, confidence 0.999"
    assert repr(b) == f"Average({b})"
    assert f"{b:.2f}".startswith(f"{mean} 1.50 [")


def test_classes():
    each = metrics.class_accuracy(PGD, Y)
    assert {k: (a.value, a.n, a.side) for k, a in each.items()} == {
        0: (1.0, 2, "lower"),
        1: (1 / 3, 3, "lower"),
        2: (0.0, 1, "lower"),
    }
    worst = metrics.worst_class_accuracy(PGD, Y, level=0.9)
    assert (worst.label, worst.accuracy.value, worst.accuracy.level) == (2, 0.0, 0.9)
    wide = [proportion(c, n, side="lower", level=1 - 0.1 / 3) for c, n in ((2, 2), (1, 3), (0, 1))]
    assert worst.accuracy.low == min(a.low for a in wide)
    assert worst.accuracy.high == pytest.approx(min(a.high for a in wide))
    with pytest.raises(ValueError, match=r"class_accuracy: y must be integer labels \(6,\)"):
        metrics.class_accuracy(PGD, Y[:5])
    with pytest.raises(ValueError, match="guess"):
        metrics.class_accuracy(GUESS, Y)
    with pytest.raises(ValueError, match="level"):
        metrics.worst_class_accuracy(PGD, Y, level=95.0)


def test_predictions():
    clean, changed, y = np.array([0, 1, 2, 2]), np.array([1, 1, 0, 2]), [0, 1, 2, 0]
    fooled = metrics.fooling_rate(clean, changed)
    assert (fooled.value, fooled.n, fooled.quantity) == (0.5, 4, "rate")
    kept = metrics.retention_rate(clean, changed, y)
    assert (kept.count, kept.n) == (1, 3)
    with pytest.raises(ValueError, match="nothing could be retained"):
        metrics.retention_rate([0], [0], [1])
    with pytest.raises(ValueError, match="changed must be integer classes"):
        metrics.fooling_rate([0, 1], [0])
    with pytest.raises(ValueError, match="clean must be integer classes"):
        metrics.fooling_rate([0.5], [0])


def test_pareto():
    models = {"a": (0.9, 0.5), "b": (0.9, 0.4), "c": (0.8, 0.5), "d": (0.7, 0.6), "e": (0.9, 0.5)}
    assert metrics.pareto(models) == ("a", "e", "d")
    shares = {"a": (metrics.clean_accuracy(PGD), metrics.robust_accuracy(PGD)), "b": (0.9, 0.2)}
    assert metrics.pareto(shares) == ("b", "a")
    with pytest.raises(ValueError, match="lower and upper"):
        metrics.pareto({"a": (0.9, metrics.robust_accuracy(PGD)), "b": (0.9, metrics.certified_accuracy(PROOF))})
    with pytest.raises(ValueError, match="not two numbers"):
        metrics.pareto({"a": (0.9, np.nan)})


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_one_run_is_the_whole_curve(side, key):
    x, y = data(24)
    grid = [0.0, 0.02, 0.05, 0.1, 0.3]
    options = {"threat": jr.sets.linf(0.1), "oracles": {"r": linear_radius(side)}, "key": key}
    run = jr.evaluate(linear(0), x, y, **options)["r"]
    swept = curve(linear(0), x, y, **options | {"eps": grid}).accuracy("r")
    assert metrics.radius_curve(run, grid) == swept
    # the area of the staircase, summed step by step
    ends = np.concatenate([[0.0], np.sort(run.value[run.value < 0.3]), [0.3]])
    middle = (ends[1:] + ends[:-1]) / 2
    steps = [a.value for a in metrics.radius_curve(run, middle)]
    area = metrics.radius_area(run, 0.3)
    assert area.value == pytest.approx(np.dot(np.diff(ends), steps))
    assert area.side == side
    with pytest.raises(ValueError, match="needs the result of a RadiusOracle"):
        metrics.radius_curve(PGD, grid)
    with pytest.raises(ValueError, match="finite radius"):
        metrics.radius_area(run, np.inf)
    with pytest.raises(ValueError, match="radii"):
        metrics.radius_curve(run, [-0.1])


def test_empirical_robustness_of_a_linear_model():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=5), rng.normal(size=(8, 5))
    step = -(x @ w)[:, None] * w / (w @ w)
    success = np.arange(8) % 2 == 0
    found = metrics.empirical_robustness(x, x + step, success)
    exact = np.abs(x @ w) / np.linalg.norm(w) / np.linalg.norm(x, axis=1)
    assert found.value == pytest.approx(exact[success].mean())
    assert (found.n, found.side) == (4, "estimate")
    none = metrics.empirical_robustness(x, x, np.zeros(8, bool), p=np.inf)
    assert np.isnan(none.value)
    assert none.n == 0
    with pytest.raises(ValueError, match=r"x\[0\] is 0 everywhere"):
        metrics.empirical_robustness(0 * x, x, success)
    with pytest.raises(ValueError, match="p is 1, 2 or inf"):
        metrics.empirical_robustness(x, x, success, p=3)
    with pytest.raises(ValueError, match="one shape"):
        metrics.empirical_robustness(x, x[:3], success)
    with pytest.raises(ValueError, match="success must be bool"):
        metrics.empirical_robustness(x, x, [1] * 8)


def test_successes_of_an_attack_leave_out_what_was_wrong():
    x, y = data(20)
    ev = jr.evaluate(linear(0), x, y, threat=jr.sets.linf(0.3), oracles={"a": jr.attacks.fgsm()}, key=jax.random.key(1))
    broken = metrics.successes(ev["a"])
    moved = np.abs(np.asarray(ev["a"].witness) - x).max(1)
    assert broken.any()
    assert (moved[broken] > 0).all()
    assert (moved[~ev["a"].correct] == 0).all()
    rate = metrics.attack_success_rate(ev["a"])
    assert rate.count == broken.sum()
