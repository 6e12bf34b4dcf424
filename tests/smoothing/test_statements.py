"""What is claimed, how often it is wrong: coverage, several looks, runner-up bounds, joint statements, float32."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jrobust as jr
from jrobust import smoothing
from jrobust._placement import Placement
from jrobust._statistics import at_least, average, clopper_pearson, clopper_pearson_upper, proportion, reject
from jrobust.smoothing._plan import Plan, estimated
from jrobust.smoothing._run import Run

KEY = jax.random.key(0)
NOISE = smoothing.gaussian(0.5)
W, B = jnp.array([0.6, -0.3, 0.2]), 0.1
M = 10_000


def linear(x):
    score = x @ W + B
    return jnp.stack([score, -score, jnp.full_like(score, -9.0)], -1)


class Dice(Run):
    """A run whose votes are drawn from known probabilities."""

    def __init__(self, p, rng):
        super().__init__(NOISE, (), None, KEY, np.zeros((M, 3)), 10, Placement())
        object.__setattr__(self, "drawn", lambda n, size: rng.multinomial(n, p, size=size))

    def votes(self, stage, group, begin, end, width):
        return self.drawn(end - begin, len(group))


@pytest.mark.parametrize("runner_up", [False, True])
@pytest.mark.parametrize("stages", [(200,), (50, 200, 800)])
@pytest.mark.parametrize("p", [(0.7, 0.2, 0.1), (0.45, 0.3, 0.25), (0.97, 0.03, 0.0)])
def test_coverage(p, stages, runner_up):
    """10,000 certifications of known probabilities: wrong ones are no more than alpha, with its interval, whenever they stopped."""
    p, alpha = np.array(p), 0.05
    true = float(NOISE.certify(p[0], p[1]))
    plan = Plan(10, stages, alpha, 0.8 * true, runner_up)
    dice = Dice(p, np.random.default_rng(0))
    rows = estimated(dice, plan, np.arange(M), np.tile([9, 1, 0], (M, 1)))
    binary = float(NOISE.certify(p[0]))
    reached = true if runner_up else binary
    wrong = sum(row["radius"] > reached + 1e-9 for row in rows)
    assert proportion(wrong, M, side="exact", level=0.999).low <= alpha
    assert all(row["radius"] == 0 for row in rows if row["prediction"] == -1)
    draws = np.array([row["draws"] for row in rows])
    assert set(np.unique(draws)) <= set(stages)
    assert (np.array([row["counts"] for row in rows]).sum(1) == draws).all()


def test_an_invalid_look_is_found():
    """The same check fails where every look takes all of alpha and the best one counts: coverage can be broken."""
    p, alpha, wrong = 0.7, 0.05, 0
    votes = np.cumsum(np.random.default_rng(0).binomial(50, p, size=(M, 40)), axis=1)
    n = np.broadcast_to(50 * np.arange(1, 41), votes.shape)
    wrong = int((clopper_pearson(votes, n, alpha) > p).any(1).sum())
    assert proportion(wrong, M, side="exact", level=0.999).low > alpha


def test_examples_stop_when_more_draws_do_not_help():
    distance = np.array([2.0, 0.3, 0.0])
    x = jnp.asarray(distance / float(jnp.linalg.norm(W)) - B / float(jnp.vdot(W, W)))[:, None] * W
    options = {"noise": NOISE, "key": KEY, "batch_size": 100}
    cert = smoothing.certify(linear, x, n=(100, 1000, 10_000), target=0.25, **options)
    assert cert.draws.tolist() == [100, 10_000, 1000]  # enough; on and on; hopeless
    assert cert.radius[0] >= 0.25
    assert (cert.counts.sum(1) == cert.draws).all()
    # the draws are the first ones of a longer run, and do not depend on the others
    whole = smoothing.certify(linear, x, n=10_000, **options)
    np.testing.assert_array_equal(cert.counts[1], whole.counts[1])
    alone = smoothing.certify(linear, x[:1], n=(100, 1000, 10_000), target=0.25, **options)
    np.testing.assert_array_equal(alone.counts, cert.counts[:1])
    plain = smoothing.certify(
        linear, x, n=(100, 1000), **options
    )  # without a target: only what cannot be certified stops
    assert plain.draws[:2].tolist() == [1000, 1000]
    # the price of three looks: alpha / 3
    share = smoothing.certify(linear, x, n=10_000, alpha=1e-3 / 3, **options)
    assert cert.lower[1] == share.lower[1] < whole.lower[1]


def test_the_runner_up():
    spread = lambda x: jnp.zeros((len(x), 10)).at[:, 0].set(jnp.where(x[:, 0] > 0, 1.0, -1.0))  # noqa: E731

    def model(x):  # class 0 half the time, the others share the rest
        other = 1 + jnp.floor(9 * jax.scipy.stats.norm.cdf(x[:, 1] / 0.5)).astype(int) % 9
        return spread(x) + jax.nn.one_hot(other, 10) * 0.5

    x = jnp.array([[0.1, 0.0]])
    options = {"noise": NOISE, "n": 20_000, "key": KEY, "batch_size": 2000}
    one = smoothing.certify(model, x, **options)
    two = smoothing.certify(model, x, runner_up=True, **options)
    np.testing.assert_array_equal(one.counts, two.counts)
    assert two.lower[0] < one.lower[0]  # half of alpha
    assert two.upper[0] < 1 - two.lower[0]
    assert two.radius[0] > one.radius[0] + 0.1
    most = int(np.delete(two.counts[0], 0).max())
    assert two.upper[0] == clopper_pearson_upper(most, 20_000, 1e-3 / 2 / 9)
    assert two.radius[0] == NOISE.certify(two.lower[0], two.upper[0])


def test_statistics_against_scipy():
    k = np.array([0, 3, 50, 99, 100])
    upper = [stats.binomtest(int(i), 100, alternative="less").proportion_ci(0.999).high for i in k]
    np.testing.assert_allclose(clopper_pearson_upper(k, 100, 0.001), upper, atol=2e-9)
    assert (clopper_pearson_upper(k, 100, 0.001) >= upper).all()
    for n in (10, 1000, 100_000):
        hits = np.unique(np.linspace(0, n, 30).astype(int))
        for p in (0.5, 0.75, 0.99):
            exact = [stats.binomtest(int(i), n, p, alternative="greater").pvalue for i in hits]
            np.testing.assert_allclose(at_least(hits, n, p), exact, rtol=1e-9, atol=1e-11)
    values = np.random.default_rng(0).normal(1.0, 2.0, size=50)
    low, high = stats.t.interval(0.9, 49, values.mean(), stats.sem(values))
    np.testing.assert_allclose(average(values, side="lower", level=0.9)[:3], [values.mean(), low, high])


def test_a_mean_of_equal_numbers_is_not_known_beyond_its_ends():
    for values in ([0.1], [0.1, 0.1], np.full(30, 0.1) + 1e-9 * np.arange(30)):
        n = len(values)
        missed = 1 - 0.025 ** (1 / n)  # that share of others may have been missed
        mean, low, high, *_ = average(values, side="estimate", least=0.0)
        np.testing.assert_allclose((mean, low, high), (0.1, 0.1 * (1 - missed), np.inf), rtol=1e-6)
        _, low, high, *_ = average(values, side="estimate")
        assert (low, high) == (-np.inf, np.inf)
        _, low, high, *_ = average(values, side="estimate", least=0.0, most=1.0)
        np.testing.assert_allclose((low, high), (0.1 * (1 - missed), 0.1 + 0.9 * missed), rtol=1e-6)
    assert average([np.inf] * 3, side="estimate", least=0.0)[:3] == (np.inf, np.inf, np.inf)
    assert average([0.0] * 3, side="exact", least=0.0)[1:3] == (0.0, np.inf)


def test_holm_against_its_definition():
    rng = np.random.default_rng(0)
    for m in (1, 2, 7, 40):
        p = rng.uniform(size=m) ** 3
        order, expected = np.argsort(p), np.zeros(m, bool)
        for k, i in enumerate(order):
            if p[i] > 0.05 / (m - k):
                break
            expected[i] = True
        np.testing.assert_array_equal(reject(p, 0.05), expected)
        assert (reject(p, 0.05, method="bonferroni") <= expected).all()
    true = rng.uniform(size=(M, 20))  # all hypotheses true: some rejection in at most alpha of the families
    some = sum(reject(row, 0.05).any() for row in true)
    assert proportion(int(some), M, side="exact", level=0.999).low <= 0.05
    for bad in ([1.5], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match="p-values"):
            reject(bad, 0.05)


def test_joint_statements():
    x = jax.random.normal(KEY, (30, 3))
    cert = smoothing.certify(linear, x, noise=NOISE, n=5000, key=KEY, batch_size=5000)
    each = cert.radius >= 0.3
    holm = cert.jointly(NOISE, 0.3)
    bonferroni = cert.jointly(NOISE, 0.3, method="bonferroni")
    assert bonferroni.sum() <= holm.sum() <= each.sum()
    assert holm.sum() > 10
    # Bonferroni is certifying each at alpha / N
    strict = smoothing.certify(linear, x, noise=NOISE, n=5000, alpha=1e-3 / 30, key=KEY, batch_size=5000)
    np.testing.assert_array_equal(bonferroni, strict.radius >= 0.3)
    staged = smoothing.certify(linear, x, noise=NOISE, n=(500, 5000), target=0.1, key=KEY, batch_size=500)
    with pytest.raises(ValueError, match="different numbers of draws"):
        staged.jointly(NOISE, 0.3)
    with pytest.raises(ValueError, match="gaussian 1, is another"):
        cert.jointly(smoothing.gaussian(1.0), 0.3)


def test_float32_would_overclaim():
    """The bisection that runs on the device finds bounds above the exact ones: so bounds are made on the host, in float64."""
    n, alpha = 100_000, 1e-3
    k = np.linspace(50_000, 99_999, 400).astype(int)

    @partial(jax.jit, static_argnames="steps")
    def single(k, steps=40):
        def body(_, ends):
            lo, hi = ends
            middle = (lo + hi) / 2
            above = jax.scipy.special.betainc(k, n - k + 1, middle) > alpha
            return jnp.where(above, lo, middle), jnp.where(above, middle, hi)

        return jax.lax.fori_loop(0, steps, body, (jnp.zeros_like(k), jnp.ones_like(k)))[0]

    device = np.asarray(single(jnp.asarray(k, jnp.float32)), np.float64)
    exact = stats.beta.ppf(alpha, k, n - k + 1)
    assert (device > exact + 1e-6).mean() > 0.05
    assert (clopper_pearson(k, n, alpha) <= exact).all()
    # and a radius in float32 would be rounded up as often as down: the oracle's is rounded down
    from jrobust import objectives, sets

    cert = smoothing.certify(linear, jnp.ones((1, 3)), noise=NOISE, n=777, key=KEY, batch_size=777)
    oracle = smoothing.cohen(NOISE, n=777, batch_size=777)
    one = oracle.solve(KEY, objectives.classification(linear, 0), sets.l2(1.0), jnp.ones(3)).value
    assert 0 < float(one) < 2
    assert cert.radius.dtype == np.float64


def test_tsv(tmp_path):
    x = jax.random.normal(KEY, (6, 3))
    cert = smoothing.certify(linear, x, noise=NOISE, n=300, key=KEY, batch_size=300)
    y = np.zeros(6, int)
    lines = [line.split("\t") for line in cert.write_tsv(tmp_path / "c.tsv", y).read_text().splitlines()]
    assert lines[0] == ["idx", "label", "predict", "radius", "correct", "time"]
    for i, (idx, label, predict, radius, correct, time) in enumerate(lines[1:]):
        assert (int(idx), int(label), int(predict)) == (i, 0, cert.prediction[i])
        assert cert.radius[i] - 2e-6 < float(radius) <= cert.radius[i]
        assert int(correct) == (cert.prediction[i] == 0)
        assert time.count(":") == 2
    a = cert.average_radius(y)
    assert a.low < a.value < a.high
    assert (a.side, a.n, a.confidence) == ("lower", 6, 0.999)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": ()}, "growing order"),
        ({"n": (100, 100)}, "growing order"),
        ({"n": (100, 10)}, "growing order"),
        ({"target": -1.0}, "target is a radius"),
        ({"target": 0.5}, "for several n"),
        ({"target": float("nan")}, "target is a radius"),
    ],
)
def test_bad_plans(change, message):
    with pytest.raises(ValueError, match=message):
        smoothing.certify(linear, np.zeros((2, 3)), **({"noise": NOISE, "n": 100, "key": KEY} | change))


def test_batches_by_memory():
    from jrobust._jaxpr import trace
    from jrobust.smoothing._memory import fitting, largest

    small = fitting(lambda leaves, x: x @ leaves, jnp.zeros((3, 2)), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    assert small == 1024
    wide = fitting(lambda leaves, x: jnp.tile(x, (1, 2**32)).sum(1), (), jax.ShapeDtypeStruct((1, 3), jnp.float32))
    assert wide == 1
    nested = jax.jit(lambda x: jnp.tile(x, 5).sum())
    assert largest(trace(nested, jnp.zeros(10)).jaxpr) == 4 * (10 + 50)
    x = jax.random.normal(KEY, (3, 3))
    chosen = smoothing.certify(linear, x, noise=NOISE, n=500, key=KEY)
    np.testing.assert_array_equal(
        chosen.counts, smoothing.certify(linear, x, noise=NOISE, n=500, key=KEY, batch_size=77).counts
    )


def test_no_attack_breaks_a_certificate():
    """PGD through the smoothed probabilities, at the certified radius; the smoothed class at each witness by draws of its own."""
    noise, w = smoothing.gaussian(0.3), jax.random.normal(jax.random.key(3), (2, 24)) * 3
    v = jax.random.normal(jax.random.key(4), (24, 3))
    model = lambda x: jnp.tanh(x @ w + jnp.linspace(-3, 3, 24)) @ v  # noqa: E731
    x = jax.random.normal(KEY, (24, 2))
    cert = smoothing.certify(model, x, noise=noise, n=4000, key=KEY, batch_size=4000)
    held = np.flatnonzero(cert.radius > 0.02)
    assert len(held) >= 8

    def votes_at(z):
        return smoothing.predict(model, z, noise=noise, n=4000, key=jax.random.key(9), batch_size=4000).counts

    def broken(times):
        """Certified examples whose class is shown not to win at the witness within so many radii."""
        attack = jr.attacks.pgd(steps=15)

        def one(key, x, y, radius):
            soft = smoothing.smooth(lambda z: jax.nn.softmax(model(z[None])[0]), noise, 128)
            f = jr.objectives.classification(lambda z: jnp.log(soft(key, z)), y)
            return attack.solve(key, f, jr.sets.l2(radius, clip=None)(x)).witness

        keys = jax.random.split(KEY, len(held))
        radius = jnp.asarray(times * cert.radius[held], jnp.float32)
        witness = jax.jit(jax.vmap(one))(keys, x[held], jnp.asarray(cert.prediction[held]), radius)
        assert (np.linalg.norm(witness - x[held], axis=1) <= times * cert.radius[held] + 1e-5).all()
        counts = votes_at(witness)
        mine = counts[np.arange(len(held)), cert.prediction[held]]
        return int((clopper_pearson_upper(mine, 4000, 1e-4) < 0.5).sum())

    assert broken(0.999) == 0
    assert broken(3.0) > len(held) // 2  # the attack is no straw man


def test_random_models_are_refused():
    coin = jr.objectives.stochastic(lambda key, x: x @ jnp.eye(3) * jax.random.normal(key, ()), 4)
    for driver in (smoothing.certify, smoothing.predict):
        with pytest.raises(TypeError, match="random model"):
            driver(coin, np.zeros((2, 3)), noise=NOISE, n=100, key=KEY)
    f = jr.objectives.classification(coin, 0)
    with pytest.raises(TypeError, match="model is random"):
        smoothing.cohen(NOISE, n=100).solve(KEY, f, jr.sets.l2(0.1), jnp.zeros(3))


def test_noise_cannot_be_taken_out_again():
    """Two copies of x with noise of two sizes, drawn together, would give x itself away."""
    noise = smoothing.anisotropic(jnp.array([[0.5] * 3, [1.0] * 3]))
    with pytest.raises(ValueError, match="does not broadcast to an example"):
        smoothing.certify(lambda x: x[:, 0], np.zeros((2, 3)), noise=noise, n=100, key=KEY)


def test_joint_statements_are_of_one_noise():
    x = np.ones((1, 4, 4, 3), np.float32)
    noise = smoothing.ablation(2, pixels=True)
    model = lambda z: jnp.stack([z.mean((1, 2, 3)), 0 * z.mean((1, 2, 3))], -1)  # noqa: E731
    cert = smoothing.certify(model, x, noise=noise, n=500, key=KEY)
    assert cert.jointly(noise, 1, shape=(4, 4, 3)).all()
    for other in (smoothing.ablation(2), smoothing.ablation(3, pixels=True)):
        with pytest.raises(ValueError, match="is another"):
            cert.jointly(other, 1, shape=(4, 4, 3))


@pytest.mark.parametrize(
    "change",
    [
        {"radius": 9.9},
        {"counts": [1, 299, 0]},
        {"counts": [300]},
        {"counts": [-1, 301, 0]},
        {"draws": 200},
        {"selected": 7},
        {"prediction": 1},
        {"radius": None},
        {"i": 9},
    ],
    ids=str,
)
def test_edited_rows_are_refused(change, tmp_path):
    options = {"noise": NOISE, "n": 300, "key": KEY, "batch_size": 300, "out": tmp_path}
    x = np.ones((2, 3), np.float32)
    cert = smoothing.certify(linear, x, **options)
    assert cert.prediction.tolist() == [0, 0]
    path = tmp_path / "certification.jsonl"
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    path.write_text("\n".join(json.dumps(row) for row in (first | change, second)) + "\n")
    with pytest.raises(ValueError, match="not one of this run"):
        smoothing.certify(linear, x, **options)


def test_labels_out_of_range():
    cert = smoothing.certify(linear, np.zeros((2, 3)), noise=NOISE, n=20, key=KEY)
    for bad in (np.full(2, -1), np.full(2, 3)):
        with pytest.raises(ValueError, match="out of range"):
            cert.accuracy(bad)
    with pytest.raises(TypeError, match="integer labels"):
        cert.accuracy(np.zeros(2))
