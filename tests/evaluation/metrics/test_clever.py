"""The extreme value fit against its own law and SciPy's likelihood; CLEVER where the answer is known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jrobust as jr
from jrobust import metrics
from jrobust.evaluation.metrics._extreme import _profile, upper_end

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("shape", "end"), [(1.3, 2.0), (3.0, -5.0), (8.0, 100.0)])
def test_the_end_of_a_reversed_weibull_law(shape, end):
    law = stats.weibull_max(shape, loc=end, scale=0.5)
    seen = law.rvs(600, random_state=1)
    fit = upper_end(seen)
    assert not fit.degenerate
    assert fit.p_value > 0.05
    assert fit.value > seen.max()
    spread = end - seen.mean()
    assert abs(fit.value - end) < 0.4 * spread
    # no worse a likelihood than at the truth or at SciPy's optimum
    c, _, ours = (v[0] for v in _profile(fit.value - seen[None]))
    assert ours >= law.logpdf(seen).sum()
    assert ours >= stats.weibull_max(*stats.weibull_max.fit(seen, shape, loc=end, scale=0.5)).logpdf(seen).sum() - 1e-3
    again = stats.weibull_min.fit(fit.value - seen, floc=0)
    assert c == pytest.approx(again[0], rel=1e-3)
    assert ours == pytest.approx(stats.weibull_min(*again).logpdf(fit.value - seen).sum(), rel=1e-5)
    # in other units it is the same fit
    moved = upper_end(1000 * seen - 7)
    assert moved.value == pytest.approx(1000 * fit.value - 7, rel=1e-6)


def test_fits_that_fail():
    flat = upper_end(np.full(20, 3.0) + 1e-8 * np.arange(20))
    assert (flat.degenerate, flat.value) == (True, 3.0 + 19e-8)
    assert upper_end(np.zeros(10)).degenerate
    heavy = RNG.pareto(1.0, 300)  # no end at all
    fit = upper_end(heavy)
    assert (fit.degenerate, fit.value) == (True, heavy.max())
    two = np.concatenate(
        [np.full(200, 1.0) + 1e-3 * RNG.uniform(size=200), np.full(200, 2.0) + 1e-3 * RNG.uniform(size=200)]
    )
    assert upper_end(two).degenerate  # two heaps: p below 0.001
    assert np.isnan(upper_end(np.array([1.0, np.nan, 2.0])).value)


@pytest.mark.parametrize(("threat", "q"), [(jr.sets.linf(3.0), 1), (jr.sets.l2(3.0), 2), (jr.sets.l1(3.0), np.inf)])
def test_a_linear_model_is_exact_by_the_fallback(threat, q, key):
    w = RNG.normal(size=(4, 3)).astype(np.float32)
    x = RNG.normal(size=(5, 4)).astype(np.float32)
    z = x @ w
    y = z.argmax(1)
    y[0] = z[0].argmin()
    exact = []
    for i, c in enumerate(y):
        others = [j for j in range(3) if j != c]
        each = [(z[i, c] - z[i, j]) / np.linalg.norm(w[:, c] - w[:, j], ord=q) for j in others]
        exact.append((min(max(min(each), 0), 3.0), others[int(np.argmin(each))]))
    options = {"threat": threat, "key": key, "samples": 2, "batches": 5}
    found = metrics.clever(lambda x: x @ w, x, y, **options)
    np.testing.assert_allclose(found.values, [e[0] for e in exact], rtol=1e-5)
    assert found.info["degenerate"].all()
    right = found.values > 0
    assert found.info["target"][right].tolist() == [e[1] for e, r in zip(exact, right) if r]
    assert found.side == "estimate"
    assert found.average().value == pytest.approx(found.values.mean())
    one = metrics.clever(lambda x: x @ w, x, y, targets=1, **options)
    assert (one.values >= found.values - 1e-6).all()


def bowl(x):
    """Margin of class 0: 4 - x0 - |x|^2 / 2; its gradient's norm is at most 1 + R in a ball of radius R about 0."""
    g = 4 - x[:, 0] - jnp.sum(x**2, 1) / 2
    return jnp.stack([g, jnp.zeros_like(g)], 1)


def test_first_order_on_a_bowl(key):
    x, y = np.zeros((2, 2), np.float32), np.zeros(2, int)
    found = metrics.clever(bowl, x, y, threat=jr.sets.l2(1.0), key=key, samples=64, batches=60)
    assert not found.info["degenerate"].any()
    np.testing.assert_allclose(found.info["lipschitz"], 2.0, rtol=0.05)
    np.testing.assert_allclose(found.values, np.minimum(4 / found.info["lipschitz"], 1.0))
    assert found.info["lipschitz"][0] != found.info["lipschitz"][1]  # a key an example
    alone = metrics.clever(bowl, x, y, threat=jr.sets.l2(1.0), key=key, samples=64, batches=60, batch_size=1)
    np.testing.assert_allclose(alone.info["lipschitz"], found.info["lipschitz"], rtol=1e-4)


def test_second_order_is_exact_on_a_bowl(key):
    x, y = np.zeros((1, 2), np.float32), np.zeros(1, int)
    found = metrics.clever(bowl, x, y, threat=jr.sets.l2(5.0), key=key, order=2, samples=4, batches=5)
    assert found.info["degenerate"].all()  # the Hessian is the same everywhere
    assert found.info["lipschitz"][0] == pytest.approx(1.0, rel=1e-4)
    assert found.values[0] == pytest.approx(2.0, rel=1e-4)  # 4 - r - r^2 / 2 = 0
    flat = metrics.clever(
        lambda x: x, np.array([[1.0, 0.0]]), y, threat=jr.sets.l2(5.0), key=key, order=2, samples=2, batches=5
    )
    assert flat.values[0] == pytest.approx(np.sqrt(0.5), rel=1e-5)


def test_bad_input(key):
    x, y = np.zeros((2, 2), np.float32), np.zeros(2, int)
    for options, word in [
        ({"threat": jr.sets.l0(2, clip=(0, 1))}, "needs a ball"),
        ({"threat": jr.sets.linf(1.0), "order": 2}, "needs a ball of l2, got linf"),
        ({"threat": jr.sets.l2(0.0)}, "one number > 0"),
        ({"threat": jr.sets.l2(1.0), "batches": 2}, "batches must be an int >= 5"),
        ({"threat": jr.sets.l2(1.0), "targets": 0}, "targets"),
    ]:
        with pytest.raises(ValueError, match=word):
            metrics.clever(bowl, x, y, key=key, **options)
    with pytest.raises(TypeError, match="threat is made by"):
        metrics.clever(bowl, x, y, key=key, threat=0.5)
