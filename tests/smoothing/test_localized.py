"""Localized smoothing: the collective certificate against enumeration, and the whole against exact probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import norm

from jrobust import smoothing

KEY = jax.random.key(0)


def enumerated(weights, eta, eps):
    """The exact worst case for two cells: the outputs that fall change only at ends of intervals of the first cell's share."""
    budget = eps**2 * (1 + 1e-6)
    slope, start = (weights[:, 0] - weights[:, 1]) * budget, weights[:, 1] * budget
    ends = np.clip((eta - start) / np.where(slope == 0, 1, slope), 0, 1)
    shares = np.unique(np.r_[0, 1, ends, np.clip(ends + 1e-9, 0, 1), np.clip(ends - 1e-9, 0, 1)])
    return int(min((~(start + slope * s >= eta)).sum() for s in shares))


def alone(weights, eta, eps):
    return int((eps**2 * weights.max(1) < eta).sum())


@pytest.mark.parametrize("seed", range(30))
def test_the_integer_program_is_enumeration_and_the_relaxation_lies_between(seed):
    rng = np.random.default_rng(seed)
    weights, eta = rng.uniform(0.2, 4, (8, 2)), rng.uniform(0.2, 4, 8)
    for eps in (0.3, 0.7, 1.0, 1.5):
        exact = enumerated(weights, eta, eps)
        integer = smoothing.collective(weights, eta, eps, integer=True)
        relaxed = smoothing.collective(weights, eta, eps)
        assert integer == exact
        assert alone(weights, eta, eps) <= relaxed <= exact


def test_it_says_more_than_each_output_by_itself():
    weights = np.array([[25.0, 1.0], [1.0, 25.0]])
    assert smoothing.collective(np.repeat(weights, 5, 0), np.full(10, 9.0), 0.7) == 3
    assert smoothing.collective(np.repeat(weights, 5, 0), np.full(10, 9.0), 0.7, integer=True) == 5
    assert alone(np.repeat(weights, 5, 0), np.full(10, 9.0), 0.7) == 0
    assert smoothing.collective(weights, np.full(2, 9.0), 0.7, many=[5, 5]) == 3


def test_one_sigma_is_a_count_and_the_bare_relaxation_says_less():
    eta = np.linspace(0.1, 3, 30)
    weights, eps = np.full((30, 4), 2.0), 0.8
    exact = int((eta > 2 * eps**2).sum())
    assert smoothing.collective(weights, eta, eps) == exact == alone(weights, eta, eps)
    part = weights / eta[:, None] * eps**2  # the program as published, with every output in it
    bare = linprog(
        np.r_[np.zeros(4), np.ones(30)],
        A_ub=np.block([[-part, -np.eye(30)], [np.ones((1, 4)), np.zeros((1, 30))]]),
        b_ub=np.r_[-np.ones(30), 1.0],
    )
    assert bare.fun < exact - 3


SIGMA = np.array([[0.2, 0.6], [0.6, 0.2]])
MIX = np.array([[1.0, 0.3], [0.2, 1.0]])


def mixed(x):
    """Two outputs, each the sign of a mixture of the two inputs."""
    score = x @ MIX.T
    return jnp.stack([score, -score], -1)


def test_end_to_end_against_exact_probabilities():
    x = jnp.array([[0.5, 0.4], [0.3, -0.6], [0.02, 0.9]])
    options = {"sigma": SIGMA, "inputs": [0, 1], "outputs": [0, 1], "n": 4000, "key": KEY}
    done = smoothing.localized(mixed, x, **options, batch_size=500)
    score = np.asarray(x) @ MIX.T
    spread = np.sqrt((MIX**2 * SIGMA**2).sum(1))
    p = norm.cdf(np.abs(score) / spread)
    assert done.prediction[0].tolist() == [0, 0]
    sure = done.lower > 0.5
    assert (done.prediction == (score < 0))[sure].all()
    assert (done.lower <= p).all()
    assert (done.lower > p - 0.06).all()
    # the worst perturbations, searched: no direction of that length changes more outputs than is said
    angle = np.linspace(0, 2 * np.pi, 721)
    way = np.stack([np.cos(angle), np.sin(angle)], 1)
    for eps in (0.1, 0.3, 0.5, 0.9):
        robust, one_by_one = done.robust(eps), done.robust(eps, together=False)
        exactly = done.robust(eps, integer=True)
        moved = (np.asarray(x)[:, None] + eps * way) @ MIX.T
        kept = ((moved < 0) == done.prediction[:, None]).sum(-1).min(1)
        assert (one_by_one <= robust).all()
        assert (robust <= exactly).all()
        assert (exactly <= kept).all()
    assert (done.robust(0.1, y=1 - done.prediction) == 0).all()
    assert done.robust(0.1).sum() >= 4
    again = smoothing.localized(mixed, x[:2], **options, batch_size=7)
    np.testing.assert_array_equal(again.lower, done.lower[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": [[0.1, 0.0], [0.1, 0.1]]}, r"table \[I, J\]"),
        ({"inputs": [0, 2]}, "inputs are cells"),
        ({"outputs": [0.0, 1.0]}, "outputs are cells"),
        ({"outputs": [0, 1, 1]}, r"the model has outputs \(2,\)"),
        ({"alpha": 2.0}, "alpha"),
    ],
)
def test_bad_input(change, message):
    call = {"sigma": SIGMA, "inputs": [0, 1], "outputs": [0, 1], "n": 10, "key": KEY} | change
    with pytest.raises(ValueError, match=message):
        smoothing.localized(mixed, np.zeros((1, 2)), **call)
    with pytest.raises(ValueError, match="weights are"):
        smoothing.collective(SIGMA, [1.0], 0.1)


def test_many_draws_of_many_examples_are_counted_a_few_at_a_time(monkeypatch):
    asked = []

    def instead(noise, leaves, key, stage, index, x, begin, end, size, **rest):
        asked.append(size * (end - begin))
        return np.tile(np.array([end - begin, 0]), (len(x), 2, 1))

    monkeypatch.setattr("jrobust.smoothing._run.votes", instead)
    done = smoothing.localized(
        mixed,
        np.zeros((1000, 2)),
        sigma=SIGMA,
        inputs=[0, 1],
        outputs=[0, 1],
        n0=1,
        n=3_000_000,
        key=KEY,
        batch_size=1000,
    )
    assert (done.prediction == 0).all()
    assert (done.lower > 0.999).all()
    assert max(asked) < 2**31


def test_outputs_that_do_not_fit_are_refused_before_any_draw(monkeypatch):
    monkeypatch.setattr("jrobust.smoothing._run.votes", lambda *_, **__: pytest.fail("it has drawn"))
    with pytest.raises(ValueError, match=r"the model has outputs \(2,\)"):
        smoothing.localized(mixed, np.zeros((1, 2)), sigma=SIGMA, inputs=[0, 1], outputs=[0, 1, 1], key=KEY)


def test_robust_refuses_what_it_cannot_count():
    cert = smoothing.LocalizedCertificate(
        np.array([[0, 1, 1]], np.int32), np.full((1, 3), 0.99), np.arange(3) % 2, SIGMA, 2, 10, 100, 0.999
    )
    assert cert.robust(0.0, np.array([[0, -1, 1]])).tolist() == [2]  # void is not counted
    for eps in (np.inf, np.nan, -0.1, np.array([0.1, 0.2])):
        with pytest.raises(ValueError, match="eps is one length"):
            cert.robust(eps, together=False)
        with pytest.raises(ValueError, match="eps is one length"):
            smoothing.collective(SIGMA, [1.0, 1.0], eps)
    with pytest.raises(ValueError, match="bins must be an int >= 2"):
        cert.robust(0.1, bins=1)
    for y, error in [
        ([[0, 1, 2]], ValueError),
        ([[0, -2, 1]], ValueError),
        ([0, 1, 1], ValueError),
        ([[0.0, 1, 1]], TypeError),
    ]:
        with pytest.raises(error, match=r"out of range: labels are 0\.\.1, or -1|integer labels"):
            cert.robust(0.1, np.array(y))


def test_fewer_bins_say_less_and_the_largest_keeps_its_own():
    lower = np.array([[*np.linspace(0.6, 0.95, 12), 0.99, 0.99, 0.99]])
    cells = np.arange(15) % 2
    cert = smoothing.LocalizedCertificate(np.zeros((1, 15), np.int32), lower, cells, SIGMA, 2, 10, 100, 0.999)
    for eps in (0.1, 0.2, 0.3):
        many, few = (int(cert.robust(eps, bins=b)[0]) for b in (32, 2))
        assert 3 <= few <= many
        assert cert.robust(eps, together=False)[0] <= many
    assert cert.robust(0.0)[0] == 15
