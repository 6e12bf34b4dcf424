"""Cost-sensitive smoothing: exact probabilities of half-spaces, the levels of its bounds, and the level that fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jrobust import smoothing
from jrobust._statistics import clopper_pearson_upper
from jrobust.smoothing._costs import bounds

KEY = jax.random.key(0)
SIGMA = 0.5
NOISE = smoothing.gaussian(SIGMA)
CUTS = np.array([-0.3, 0.6])  # classes 0 | 1 | 2 along the first coordinate


def strips(x):
    """Class 0 below the first cut, 1 between, 2 above the second."""
    z = x[:, 0]
    return jnp.stack([CUTS[0] - z, jnp.minimum(z - CUTS[0], CUTS[1] - z), z - CUTS[1]], 1)


def exact(z):
    """Probabilities of the three strips under the noise."""
    below = norm.cdf((CUTS - np.asarray(z)[..., None]) / SIGMA)
    return np.concatenate([below[..., :1], np.diff(below), 1 - below[..., 1:]], -1)


COSTS = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0.0]])


def test_no_costly_mistake_within_the_radius():
    z = np.linspace(-1.2, 1.2, 25)
    x = jnp.stack([jnp.asarray(z, jnp.float32), jnp.zeros(25)], 1)
    y = np.arange(25) % 3
    done = smoothing.cost_sensitive(strips, x, y, COSTS, noise=NOISE, n=20_000, key=KEY, batch_size=5000)
    grid = np.linspace(-3, 3, 6001)
    takes = grid[
        exact(grid).argmax(-1) == 2
    ]  # where the smoothed classifier answers 2, which costs something of 0 and 1
    for i in range(25):
        if y[i] == 2:
            assert np.isinf(done.radius[i])
            assert not done.sensitive[i]
            continue
        distance = np.abs(takes - z[i]).min()
        assert done.radius[i] <= distance + 1e-3
        assert (done.radius[i] == 0) == (done.selected[i] == 2 or done.lower[i] <= done.upper[i])
        if done.selected[i] != 2:
            assert done.radius[i] >= done.plain[i]
    gains = done.radius - done.plain
    assert gains[(y != 2) & (done.selected != 2)].max() > 0.3
    near = (y != 2) & (np.abs(z + 0.3) < 0.06)
    assert (done.plain[near] < 0.12).all()
    assert (done.radius[near] > 0.2).all()  # undecided between 0 and 1, and safe from 2
    safe = done.safe(0.1)
    assert safe.n == (y != 2).sum()
    assert safe.count == ((done.radius >= 0.1) & (y != 2)).sum()
    assert (safe.side, safe.confidence) == ("upper", 0.999)


def test_the_levels_of_the_bounds_and_the_one_that_fails():
    m, n, alpha, times = 9, 2000, 0.05, 20_000
    p = np.array([0.5, 0.45, *[0.05 / (m - 1)] * (m - 1)])  # one of the m costly classes is close to the winner
    counts = np.random.default_rng(0).multinomial(n, p, times)
    costly = np.broadcast_to(np.arange(m + 1) > 0, counts.shape)
    lower, upper = bounds(counts, np.zeros(times, int), costly, n, alpha)
    true = SIGMA / 2 * (norm.ppf(p[0]) - norm.ppf(p[1]))
    assert ((lower > p[0]) | (upper < p[1])).mean() <= alpha
    assert (NOISE.certify(lower, upper) > true).mean() <= alpha
    public = clopper_pearson_upper(counts[:, 1:], n, alpha / 2 * m).max(1)  # alpha m / 2 where alpha / 2m is meant
    assert (public < p[1]).mean() > 4 * alpha
    assert (NOISE.certify(lower, public) > true).mean() > 1.3 * alpha  # and with it the radius


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.array([0, 3])}, ValueError, "out of range"),
        ({"y": np.array([0, -1])}, ValueError, "out of range"),
        ({"y": np.array([0.0, 1.0])}, TypeError, "integer labels"),
        ({"costs": -COSTS}, ValueError, "finite and >= 0"),
        ({"costs": np.zeros((2, 2))}, ValueError, r"\[3, 3\]"),
        ({"alpha": 0}, ValueError, "alpha"),
        ({"n": 0}, ValueError, "n must be"),
    ],
)
def test_bad_input(change, error, message):
    call = {"model": strips, "x": np.zeros((2, 2)), "y": np.array([0, 1]), "costs": COSTS} | change
    rest = {"noise": NOISE, "n": 10, "key": KEY} | {k: call.pop(k) for k in ("alpha", "n") if k in call}
    with pytest.raises(error, match=message):
        smoothing.cost_sensitive(*call.values(), **rest)


def test_nothing_at_stake():
    done = smoothing.cost_sensitive(strips, jnp.zeros((2, 2)), [0, 1], np.zeros((3, 3)), noise=NOISE, n=10, key=KEY)
    assert np.isinf(done.radius).all()
    with pytest.raises(ValueError, match="no example is sensitive"):
        done.safe()
