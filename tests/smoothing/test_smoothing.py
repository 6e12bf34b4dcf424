import json
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jrobust import objectives, sets, smoothing
from jrobust._placement import Placement
from jrobust._statistics import clopper_pearson, sign_test
from jrobust.smoothing._votes import batch_votes, votes
from tests.processes import ROOT, environment, in_processes
from tests.smoothing.processes import certified

KEY = jax.random.key(0)
NOISE = smoothing.gaussian(0.5)
W, B = jnp.array([0.6, -0.3, 0.2]), 0.1


def linear(x):
    """sign(w.x + b) as two logits."""
    score = x @ W + B
    return jnp.stack([score, -score], -1)


def points(n, key=1):
    return jax.random.normal(jax.random.key(key), (n, 3))


def test_clopper_pearson_against_scipy():
    for n in (1, 10, 1000, 100_000):
        k = np.unique(np.r_[0, np.linspace(0, n, 60).astype(int), n - 1, n])
        exact = np.array([stats.binomtest(int(i), n, alternative="greater").proportion_ci(0.999).low for i in k])
        bound = clopper_pearson(k, n, 0.001)
        assert bound.dtype == np.float64
        assert (bound <= exact).all()
        np.testing.assert_allclose(bound, exact, atol=2e-9)
        assert (np.diff(bound) > 0).all()
        assert (clopper_pearson(k[1:], n, 0.01) > bound[1:]).all()
    assert clopper_pearson(0, 100, 0.001) == 0


def test_the_oracle_numbers():
    p = clopper_pearson([100, 100_000], [100, 100_000], 0.001)
    np.testing.assert_allclose(p, [0.93325, 0.99993092], atol=5e-6)
    np.testing.assert_allclose(smoothing.gaussian(1.0).certify(p), [1.50048, 3.81146], atol=2e-5)
    np.testing.assert_allclose(smoothing.gaussian(1.0).certify([0.75, 0.5, 0.2, 0.0]), [0.67449, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(sign_test([10, 11, 5, 0], [0, 0, 5, 0]), [2 * 0.5**10, 2 * 0.5**11, 1, 1])
    for a, b in ((30, 12), (7, 9), (1000, 900)):
        np.testing.assert_allclose(sign_test(a, b), stats.binomtest(a, a + b).pvalue)


def test_float_counts_are_refused():
    with pytest.raises(TypeError, match="float32 would make the bound unsound"):
        clopper_pearson(np.float32(99), 100, 0.001)


def test_linear_classifier_end_to_end():
    x = points(40)
    score = np.asarray(x @ W + B, np.float64)
    distance = np.abs(score) / np.linalg.norm(W)
    cert = smoothing.certify(linear, x, noise=NOISE, n0=200, n=20_000, key=KEY, batch_size=4096)
    sure = cert.prediction >= 0
    assert (cert.prediction[sure] == (score < 0)[sure]).all()
    assert (cert.radius <= distance).all()
    reachable = sure & (distance < 1.2)
    np.testing.assert_allclose(cert.radius[reachable], distance[reachable], atol=0.06)
    assert sure[distance > 0.2].all()
    assert (cert.counts.sum(1) == 20_000).all()
    assert cert.counts.dtype == np.int32
    y = (score < 0).astype(int)
    a = cert.accuracy(y, 0.5)
    assert (a.count, a.n, a.side, a.confidence) == (int((cert.radius >= 0.5).sum()), 40, "upper", 0.999)
    assert [c.value for c in cert.curve(y, (0.0, 0.5))] == [sure.mean(), a.value]
    np.testing.assert_allclose(float(cert.average_radius(y)), cert.radius.mean())
    assert cert.accuracy(1 - y).value == 0
    assert "l2 0.5   40  at least" in cert.table(y)


@pytest.mark.parametrize("batch_size", [7, 64, 500])
def test_counts_do_not_depend_on_the_batch_size(batch_size):
    x = points(11)
    options = {"noise": NOISE, "n0": 13, "n": 101, "key": KEY}
    reference = smoothing.certify(linear, x, **options, batch_size=101)
    other = smoothing.certify(linear, x, **options, batch_size=batch_size)
    np.testing.assert_array_equal(other.counts, reference.counts)
    np.testing.assert_array_equal(other.selected, reference.selected)
    np.testing.assert_array_equal(other.radius, reference.radius)
    assert (other.counts.sum(1) == 101).all()  # n is no multiple of the batch
    first = smoothing.certify(linear, x[:3], **options, batch_size=batch_size)  # nor on the other examples
    np.testing.assert_array_equal(first.counts, reference.counts[:3])


def test_counts_by_hand():
    x, n = points(3), 20
    counts = votes(
        NOISE,
        (),
        KEY,
        1,
        jnp.array([4, 5, 9]),
        x,
        0,
        n,
        3,
        apply=lambda leaves, z: linear(z),
        batch_size=16,
        placement=Placement(),
    )
    for row, i in enumerate((4, 5, 9)):
        key = jax.random.fold_in(jax.random.fold_in(KEY, i), 1)
        draws = [NOISE.sample(jax.random.fold_in(key, j), x[row]) for j in range(n)]
        np.testing.assert_array_equal(counts[row], np.bincount(linear(jnp.stack(draws)).argmax(-1), minlength=2))


def test_selection_and_estimation_are_independent_draws():
    x = jnp.zeros((64, 3)) - B * W / jnp.vdot(W, W)  # on the boundary: every vote is a fair coin
    cert = smoothing.certify(linear, x, noise=NOISE, n0=1, n=1, alpha=0.6, key=KEY, batch_size=64)
    agree = (cert.counts.argmax(1) == cert.selected).mean()
    assert 0.2 < agree < 0.8


def test_abstention_and_prediction():
    x = jnp.stack([-B * W / jnp.vdot(W, W), jnp.array([3.0, 0.0, 0.0])])
    cert = smoothing.certify(linear, x, noise=NOISE, n=1000, key=KEY)
    assert cert.prediction.tolist() == [-1, 0]
    assert cert.radius[0] == 0 < cert.radius[1]
    assert cert.accuracy([0, 0]).count == 1  # an abstention is wrong at radius 0 too
    predicted = smoothing.predict(linear, x, noise=NOISE, n=1000, key=KEY)
    assert predicted.prediction.tolist() == [-1, 0]
    with pytest.warns(UserWarning, match="take n >= 11"):  # 2^-9 > 0.001
        assert smoothing.predict(linear, x[1:], noise=NOISE, n=10, key=KEY).prediction.tolist() == [-1]
    assert smoothing.predict(linear, x[1:], noise=NOISE, n=11, key=KEY).prediction.tolist() == [0]
    np.testing.assert_allclose(predicted.p_value[0], stats.binomtest(int(predicted.counts[0, 0]), 1000).pvalue)


def test_a_nan_votes_for_nobody():
    x = jnp.zeros((4, 3)) + jnp.array([1.0, 0, 0])
    cert = smoothing.certify(
        lambda x: linear(x) * jnp.where(x[:, :1] > 1, jnp.nan, 1.0), x, noise=NOISE, n=500, key=KEY
    )
    assert ((cert.counts.sum(1) > 150) & (cert.counts.sum(1) < 350)).all()


def test_one_program_for_every_n_sigma_and_new_weights():
    x = points(4)
    model = jax.tree_util.Partial(_matmul, jnp.ones((3, 2)))
    smoothing.certify(model, x, noise=NOISE, n=100, n0=16, key=KEY, batch_size=32)
    size = batch_votes._cache_size()
    model = jax.tree_util.Partial(_matmul, jnp.ones((3, 2)) * 2)
    smoothing.certify(model, x, noise=smoothing.gaussian(0.1), n=150, n0=16, key=KEY, batch_size=32)
    assert batch_votes._cache_size() == size


def _matmul(w, z):
    return z @ w


def test_resume(tmp_path):
    x, options = points(10), {"noise": NOISE, "n": 50, "n0": 8, "key": KEY, "batch_size": 16}
    whole = smoothing.certify(linear, x, **options, out=tmp_path)
    lines = (tmp_path / "certification.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "certification.jsonl").write_text("".join(lines[:4]) + lines[4][:9])  # a kill in the middle of a line
    again = smoothing.certify(linear, x, **options, out=tmp_path)
    np.testing.assert_array_equal(again.counts, whole.counts)
    np.testing.assert_array_equal(again.radius, whole.radius)
    assert len((tmp_path / "certification.jsonl").read_text().splitlines()) == 10
    with pytest.raises(ValueError, match=r"another run.*alpha"):
        smoothing.certify(linear, x, **options, alpha=0.01, out=tmp_path)
    with pytest.raises(ValueError, match=r"another run.*data"):
        smoothing.certify(linear, x + 1, **options, out=tmp_path)


def test_eight_devices_give_the_same_counts():
    script = """
import jax, numpy as np
from tests.smoothing.processes import certified
assert jax.device_count() == 8
np.testing.assert_array_equal(certified(None).counts, certified(jax.make_mesh((8,), ("d",))).counts)
np.testing.assert_array_equal(certified(None).counts, certified(jax.make_mesh((4, 2), ("a", "b"))).counts)
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment(8), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_devices_do_not_wait_for_each_other_in_a_batch():
    """Many sums over the devices under way at once lock the threads of a small machine: there is one, at the end."""
    script = """
import jax, numpy as np
from jrobust.smoothing import _votes
from tests.smoothing.processes import certified
compiled, programs = _votes.batch_votes, []
def spied(*args, **kwargs):
    programs.append(compiled.lower(*args, **kwargs).compile().as_text())
    return compiled(*args, **kwargs)
_votes.batch_votes = spied
certified(jax.make_mesh((2,), ("d",)))
assert programs and "num_partitions=2" in programs[0]
assert not any(op in text for text in programs for op in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment(2), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_processes_of_two_devices_count_as_one_device_and_go_on_where_they_stopped(tmp_path):
    alone = certified(None)
    in_processes("tests.smoothing.processes", 2, tmp_path)
    written = (tmp_path / "certification.jsonl").read_text().splitlines(keepends=True)
    assert len(written) == 6
    (tmp_path / "certification.jsonl").write_text(
        "".join(written[:2]) + written[2][:20]
    )  # both killed in the middle of a line
    in_processes("tests.smoothing.processes", 2, tmp_path)
    again = (tmp_path / "certification.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["i"] for line in again] == list(range(6))
    assert again[:2] == written[:2]
    for process in (0, 1):
        found = np.load(tmp_path / f"{process}.npz")
        np.testing.assert_array_equal(found["counts"], alone.counts)
        np.testing.assert_array_equal(found["radius"], alone.radius)
        np.testing.assert_array_equal(found["draws"], alone.draws)


def test_smooth_is_the_expectation():
    x = jnp.array([0.5, -1.0, 2.0])
    g = smoothing.smooth(lambda z: jnp.sum(z**2), NOISE, 40_000, batch_size=5_000)
    value, slope = jax.jit(jax.value_and_grad(lambda z: g(KEY, z)))(x)
    np.testing.assert_allclose(value, jnp.sum(x**2) + 3 * 0.25, atol=0.05)
    np.testing.assert_allclose(slope, 2 * x, atol=0.03)
    once = smoothing.smooth(lambda z: jnp.sum(z**2), NOISE, 40_000, batch_size=40_000)
    np.testing.assert_allclose(once(KEY, x), value, rtol=1e-4)  # the draws do not depend on the batch size
    batch = jax.vmap(smoothing.smooth(jnp.sin, NOISE, 8), (None, 0))(KEY, points(4))
    assert batch.shape == (4, 3)


def test_sigma_is_a_leaf():
    draws = jax.jit(jax.vmap(lambda s: smoothing.gaussian(s).sample(KEY, jnp.zeros(3))))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(draws[1], 2 * draws[0], rtol=1e-6)
    assert len(jax.tree.leaves(NOISE)) == 1


def test_the_radius_oracle():
    x = jnp.array([1.0, 0.0, 0.0])
    oracle = smoothing.cohen(NOISE, n0=20, n=5000, batch_size=1000)
    assert (oracle.side, oracle.confidence, oracle.host, oracle.sup_side) == ("lower", 0.999, True, "upper")
    distance = float(x @ W + B) / float(jnp.linalg.norm(W))
    f = objectives.classification(linear, 0)
    radius = oracle.solve(KEY, f, sets.l2(1.0), x).value
    assert distance - 0.1 < radius <= distance
    assert oracle.solve(KEY, objectives.classification(linear, 1), sets.l2(1.0), x).value == 0
    with pytest.raises(ValueError, match="certifies l2 radii; the threat is linf"):
        oracle.solve(KEY, f, sets.linf(0.1), x)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda z: oracle.solve(KEY, f, sets.l2(1.0), z).value)(x)


def test_a_warning_before_hopeless_work():
    with pytest.warns(UserWarning, match=r"n=9 draws cannot certify anything at alpha=0.001.*n >= 10"):
        cert = smoothing.certify(linear, points(2), noise=NOISE, n=9, key=KEY)
    assert (cert.prediction == -1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoothing.certify(linear, points(2), noise=NOISE, n=10, key=KEY)


nan = np.zeros((2, 3))
nan[1, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": nan}, ValueError, r"x\[1, 2\] = nan is not finite"),
        ({"x": np.zeros((2, 3), np.uint8)}, TypeError, "divide images by 255"),
        ({"x": np.zeros((0, 3))}, ValueError, "at least one example"),
        ({"alpha": 1.0}, ValueError, "alpha lies in"),
        ({"n": 0}, ValueError, "n must be an int"),
        ({"n0": -1}, ValueError, "n0 must be an int"),
        ({"batch_size": 0}, ValueError, "batch_size must be an int"),
        ({"noise": 0.5}, TypeError, "gaussian|Noise"),
        ({"key": 0}, TypeError, "typed PRNG key"),
        ({"model": lambda x: x[:, 0]}, ValueError, r"\[B, K\]"),
    ],
)
def test_bad_input(change, error, message):
    call = {"model": linear, "x": np.zeros((2, 3)), "noise": NOISE, "n": 100, "key": KEY} | change
    with pytest.raises(error, match=message):
        smoothing.certify(call.pop("model"), call.pop("x"), **call)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), jnp.ones(2)])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match="one finite number > 0"):
        smoothing.gaussian(sigma)
