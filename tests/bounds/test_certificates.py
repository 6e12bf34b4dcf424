"""Certificates: what is proven is accepted by the independent checker, in floats and in fractions; what is false never is."""

import ast
import functools
import json
import pathlib
import shutil
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from jrobust._tree import bind
from jrobust.bounds import checker
from jrobust.bounds._lowering import lower
from jrobust.bounds._problem import program_of
from tests.bounds.test_optimise import weights
from tests.thin import thinned

CHECKER = pathlib.Path(checker.__file__).parent
CENTRE = jnp.array([0.3, -0.2])
SET = jr.sets.linf(0.6)(CENTRE)


def net(w, c, z):
    return jax.nn.relu(jax.nn.relu(z @ w[0] + 0.1) @ w[1]) @ w[2] - c


@functools.cache
def known():
    """The net's weights; the points of a grid where its outputs are largest; the largest of all."""
    w = weights(jax.random.key(5), (2, 5, 5, 2))
    grid = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 301)] * 2), -1).reshape(-1, 2) + np.asarray(CENTRE)
    values = np.asarray(jax.jit(jax.vmap(lambda z: net(w, 0.0, z)))(grid.astype(np.float32)))
    return w, grid[values.argmax(0)], float(values.max())


def problem(c):
    return jr.objectives.objective(bind(net, known()[0], jnp.asarray(c, jnp.float32)))


def solved(method, s):
    """Elementwise bounds of the net over a set."""
    return np.asarray(jax.jit(lambda: method.solve(None, problem(0.0), s).info["elements"])())


METHODS = {
    "ibp": (jr.bounds.ibp(), None),
    "crown": (jr.bounds.crown(), None),
    "crown-ibp": (jr.bounds.crown_ibp(), None),
    "alpha": (jr.bounds.alpha_crown(steps=4), None),
    "input": (jr.bounds.crown_ibp(), "input"),
    "neurons": (jr.bounds.alpha_crown(steps=10, target=0.0, intermediates=jr.bounds.crown_ibp()), "neurons"),
}


def some(*names):
    """Names of methods; alpha-CROWN, dear to compile, in the sweep."""
    return [pytest.param(n, marks=pytest.mark.sweep) if n == "alpha" else n for n in names]


@functools.cache
def made(name):
    """A certificate, once a process; of a property that holds by 0.0001, or by so much that the whole set has to be cut."""
    method, over = METHODS[name]
    best = known()[2]
    if over is None:
        top = float(solved(method, SET).max()) + 1e-4
        proof = jr.bounds.prove(problem(top), SET, method=method, over=None)
    else:
        top = best + 0.4 * (float(solved(jr.bounds.crown(), SET).max()) - best)
        proof = jr.bounds.prove(problem(top), SET, method=method, over=over, batch=8, tried=1)
    assert proof is not None, name
    return proof


def worst(proof):
    """The largest outputs [m] on a grid of 90601 points (all certificates here are of one net, up to a constant)."""
    return np.max([proof.evaluate(z) for z in known()[1]], axis=0)


def changed(proof, name, fn):
    """A certificate with one array changed, its digests brought into line."""
    arrays = proof.arrays | {name: fn(proof.arrays[name].copy())}
    meta = proof.meta | dict(zip(("function", "set"), checker.digests(proof.meta, arrays), strict=True))
    return jr.bounds.Certificate(meta, arrays)


def violated(proof, by=0.02):
    """The same proof of a property that does not hold: outputs moved up so that some point is above 0."""
    (shift,) = {row["data"] for row in proof.meta["ops"] if row["op"] == "const" and _is_shift(proof, row)}
    top = worst(proof).max()
    return changed(proof, shift, lambda a: (a - np.float32(by - top)).astype(np.float32))


def _is_shift(proof, row):
    return float(np.max(np.abs(proof.arrays[row["data"]]))) > 0.11  # the others are relu's 0 and the bias 0.1


# -- Accepted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(*METHODS))
def test_accepted_in_floats_and_in_fractions(name):
    proof = made(name)
    report, exact = proof.check(), proof.check(rational=True)
    assert report.accepted, report.reason
    assert exact.accepted, exact.reason
    assert (report.leaves > 1) == (METHODS[name][1] is not None)
    assert np.all(np.array(report.bounds) >= worst(proof))
    # floats never claim more than fractions, and lose little
    assert np.all(np.array(report.bounds) >= np.array(exact.bounds))
    np.testing.assert_allclose(report.bounds, exact.bounds, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", some("ibp", "crown", "crown-ibp", "alpha"))
def test_the_checker_finds_the_bounds_of_the_method(name):
    elements = solved(METHODS[name][0], SET)
    np.testing.assert_allclose(made(name).check().bounds, elements - elements.max() - 1e-4, atol=2e-6)


def test_nothing_where_nothing_is_proven():
    assert jr.bounds.prove(problem(known()[2] - 0.01), SET, method=jr.bounds.ibp(), over="input", batch=8) is None
    assert jr.bounds.prove(problem(known()[2] + 0.01), SET, method=jr.bounds.ibp(), over=None) is None


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_balls(norm):
    s = getattr(jr.sets, norm)(0.6)(CENTRE)
    top = float(solved(jr.bounds.crown_ibp(), s).max()) + 1e-4
    proof = jr.bounds.prove(problem(top), s, method=jr.bounds.crown_ibp(), over=None)
    assert proof.check(rational=True).accepted
    assert not changed(proof, "set/radius", lambda a: a * np.float32(1.05)).check().accepted


def test_saved_and_read_again(tmp_path):
    proof = made("neurons")
    proof.save(tmp_path / "proof.npz")
    again = jr.bounds.load_certificate(tmp_path / "proof.npz")
    assert again.meta == proof.meta
    assert again.check() == proof.check()
    assert again.check(expect=proof.function).accepted
    assert "expected" in again.check(expect="0" * 64).reason
    assert again.check(expect_set=proof.set).accepted
    assert "the set is not" in again.check(expect_set="0" * 64).reason


def test_what_cannot_be_said_is_refused():
    f = jr.objectives.objective(lambda z: jnp.sin(z) - 2)
    with pytest.raises(NotImplementedError, match=r"'sin' at .*test_certificates"):
        jr.bounds.prove(f, SET)
    with pytest.raises(TypeError, match="prove takes ibp"):
        jr.bounds.prove(problem(9.0), SET, method=jr.bounds.zonotope())
    with pytest.raises(NotImplementedError, match="kind 'l0'"):
        jr.bounds.prove(problem(9.0), jr.sets.l0(1, clip=(0, 1))(jnp.array([0.5, 0.5])), method=jr.bounds.ibp())


# -- Rejected -----------------------------------------------------------------------------------------------------------


def _steepest(proof, prefix):
    return next(n for n in proof.arrays if n.startswith(prefix) and n.endswith("lower") and np.ptp(proof.arrays[n]) > 0)


def _moved(a, by=0.3):
    a[len(a) // 2] += by
    return a


TAMPERED = {
    "a slope that cuts": ("input", lambda p: changed(p, _steepest(p, "final"), lambda a: 1 - 2 * a)),
    "slopes of a leaf": ("neurons", lambda p: changed(p, _steepest(p, "cuts"), lambda a: 3 - a)),
    "no number": ("input", lambda p: changed(p, _steepest(p, "final"), lambda a: a * np.nan)),
    "infinite": ("neurons", lambda p: changed(p, "cuts/multipliers", lambda a: a + np.inf)),
    "multipliers negated": ("neurons", lambda p: changed(p, "cuts/multipliers", np.negative)),
    "a cut moved": ("input", lambda p: changed(p, "input/points", _moved)),
    "a cut of neurons moved": ("neurons", lambda p: changed(p, "cuts/points", _moved)),
    "a cut at no number": ("input", lambda p: changed(p, "input/points", lambda a: _moved(a, np.nan))),
    "a leaf removed": ("input", lambda p: changed(p, "claimed", lambda a: a[:-1])),
    "a leaf of neurons removed": ("neurons", lambda p: changed(p, "cuts/claimed", lambda a: a[:-1])),
    "a node removed": ("input", lambda p: changed(p, "input/nodes", lambda a: a[:-1])),
    "half of the tree": ("input", lambda p: p._replace(meta=p.meta | {"root": int(p.arrays["input/nodes"][0, 2])})),
    "a circle": ("input", lambda p: changed(p, "input/nodes", lambda a: np.where(np.arange(4) > 1, 0, a))),
    "cuts of another value": ("input", lambda p: changed(p, "input/nodes", lambda a: a + np.array([1, 0, 0, 0]))),
    "a lower claim": ("crown", lambda p: changed(p, "claimed", lambda a: a - 1e-4)),
    "a lower claim of a leaf": ("neurons", lambda p: changed(p, "cuts/claimed", lambda a: a - 1e-4)),
    "no claim": ("crown", lambda p: changed(p, "claimed", lambda a: a * np.nan)),
    "a wider box": ("crown", lambda p: changed(p, "set/0/hi", lambda a: a + np.float32(0.05))),
    "no box": ("crown", lambda p: changed(p, "set/0/hi", lambda a: a - np.float32(9))),
    "no passes": (
        "crown",
        lambda p: p._replace(meta=p.meta | {"finals": [], "walks": [{"relax": False, "refine": []}]}),
    ),
    "no walk": ("crown", lambda p: p._replace(meta=p.meta | {"walks": []})),
    "an operation of the future": ("crown", lambda p: _with_ops(p, {"op": "sin", "in": [1]})),
    "an operation on what is not yet there": ("crown", lambda p: _with_ops(p, {"op": "tanh", "in": [99]})),
}


def _with_ops(proof, row):
    return changed(
        jr.bounds.Certificate(proof.meta | {"ops": [*proof.meta["ops"], row]}, proof.arrays), "claimed", lambda a: a
    )


@pytest.mark.parametrize("rational", [False, True])
@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_rejected(case, rational):
    name, tamper = TAMPERED[case]
    report = tamper(made(name)).check(rational=rational)
    assert not report.accepted
    assert report.reason


def test_digests_bind_weights_and_set():
    proof = made("crown")
    for name in (n for n in proof.arrays if n.startswith(("function/", "set/"))):
        other = proof.arrays[name].copy()
        other.flat[0] += 1
        report = proof._replace(arrays=proof.arrays | {name: other}).check()
        assert "not the recorded one" in report.reason


def test_damaged_files(tmp_path):
    path = tmp_path / "proof.npz"
    made("crown").save(path)
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, x=np.zeros(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, meta=np.array([{"format": checker.FORMAT}], object))
    for data in (b"", b"text", whole[: len(whole) // 2], foreign.read_bytes(), pickled.read_bytes()):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="certificate"):
            jr.bounds.load_certificate(path)
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            other = jr.bounds.load_certificate(path)
        except ValueError:
            continue
        # bytes that nothing reads
        same = other.arrays.keys() == made("crown").arrays.keys()
        same = same and all(np.array_equal(other.arrays[n], a) for n, a in made("crown").arrays.items())
        assert same or not other.check().accepted


# -- A false claim is never accepted --------------------------------------------------------------------------------------


def forged(proof, draw):
    """Any proof of the same form: choices, claims, trees and steps at random."""
    arrays, meta = dict(proof.arrays), dict(proof.meta)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0, 1e4, 1e30]))
    for name, a in proof.arrays.items():
        if name.startswith(("function/", "set/")) or rng.random() < 0.4:
            continue
        if name.endswith(("claimed",)):
            # claims that say nothing leave the verdict to the bounds themselves
            arrays[name] = rng.choice([a - scale * rng.random(), np.full(a.shape, -1e-7), np.full(a.shape, 1e9)])
        elif name.endswith("nodes"):
            broken = np.where(rng.random(a.shape) < 0.3, rng.integers(-len(a) - 2, len(a) + 3, a.shape), a)
            other = np.where(np.arange(4) == 1, rng.integers(0, 2, a.shape), a)  # cuts of other entries
            arrays[name] = broken if rng.random() < 0.2 else other
        elif name.endswith("multipliers"):
            arrays[name] = np.abs(a + scale * rng.standard_normal(a.shape)).astype(a.dtype)
        else:
            arrays[name] = np.where(rng.random(a.shape) < 0.5, a + scale * rng.standard_normal(a.shape), a).astype(
                a.dtype
            )
            if rng.random() < 0.05:
                arrays[name].flat[: rng.integers(1, 3)] = rng.choice([np.nan, np.inf, -np.inf])
    if rng.random() < 0.1:
        meta["root"] = int(rng.integers(-3, 3))
    if rng.random() < 0.2:
        n = len(meta["ops"])
        meta["walks"] = [{"relax": True, "refine": rng.integers(-2, n + 2, 3).tolist()} for _ in meta["walks"]]
    if rng.random() < 0.1:
        meta["trees"] = {str(rng.integers(-1, 3)): int(rng.integers(-3, 3)) for _ in range(2)}
    return jr.bounds.Certificate(meta, arrays)


@pytest.mark.parametrize("name", some("crown", "alpha", "input", "neurons"))
def test_forgery_of_a_false_property_is_rejected(name):
    false = violated(made(name))
    assert worst(false).max() >= 0.019

    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.data())
    def attempt(data):
        with np.errstate(all="ignore"):
            assert not forged(false, data.draw).check().accepted

    attempt()


@pytest.mark.parametrize("name", ["crown", "input", "neurons"])
def test_whatever_the_proof_its_bounds_hold(name):
    """Sharper than verdicts: any choices at all give upper bounds of the outputs, part by part."""
    proof = made(name)
    top = worst(proof)

    @hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.data())
    def attempt(data):
        other = forged(proof, data.draw)
        arrays = {n: np.full(a.shape, 1e9) if n.endswith("claimed") else a for n, a in other.arrays.items()}
        bounds = np.full(len(top), -np.inf)
        try:
            with np.errstate(all="ignore"):
                cert = checker._proof.parse(other.meta, arrays, False)
                for _, _, row, bound in checker._proof._established(cert):
                    bounds[row] = max(bounds[row], bound)
        except (checker.Rejected, IndexError, KeyError, TypeError, ValueError):
            return
        assert np.all(bounds >= top), (bounds, top)

    attempt()


def tiny(rng):
    """A net of one input and one to three neurons whose largest output on a grid is 1e-6, with choices at random, as certificates go."""
    h, kind = rng.integers(1, 4), rng.choice(["max", "abs", "tanh"])
    w, bias, last = rng.normal(size=(1, 1, h)), rng.normal(size=h) / 2, rng.normal(size=(1, h, 1))
    inner = np.linspace(-1, 1, 4001)[:, None] * w[0] + bias
    bent = {"max": lambda v: np.maximum(v, 0), "abs": np.abs, "tanh": np.tanh}[kind](inner)
    bend = {"op": kind, "in": [3, 4] if kind == "max" else [3]}
    ops = [{"op": "input", "size": 1}, {"op": "matmul", "in": [0], "data": "function/1", "places": 1}]
    ops += [
        {"op": "const", "data": "function/2"},
        {"op": "add", "in": [1, 2]},
        {"op": "const", "data": "function/4"},
        bend,
    ]
    ops += [{"op": "matmul", "in": [5], "data": "function/6", "places": 1}, {"op": "const", "data": "function/7"}]
    ops += [{"op": "add", "in": [6, 7]}]
    arrays = {
        "set/0/lo": -np.ones(1),
        "set/0/hi": np.ones(1),
        "function/1": w,
        "function/2": bias,
        "function/4": np.zeros(h),
    }
    arrays |= {"function/6": last, "function/7": 1e-6 - (bent @ last[0]).max(keepdims=True).ravel()}
    # near what is tight, so that a line a little off shows
    for prefix, shape in {"walks/0": (1, h), "final": (1, 1, h), "cuts": (2, h)}.items():
        for side in ("lower", "upper", "flat"):
            slopes = rng.choice([rng.random(shape), rng.integers(0, 2, shape), rng.normal(0, 2, shape)])
            arrays[f"{prefix}/5/{side}"] = slopes.astype(float).round() if side == "flat" else slopes.astype(float)
    nodes = {"cuts": [3, rng.integers(h), -1, -2], "input": [0, 0, -1, -2]}
    where = rng.choice(["cuts", "input", "nothing"])
    for name, node in nodes.items():
        arrays |= {f"{name}/nodes": np.array([node]), f"{name}/points": rng.normal(size=1) / 2}
    if where == "input":
        arrays |= {n: np.concatenate([a, a]) for n, a in arrays.items() if n.startswith(("walks", "final"))}
    multipliers = rng.exponential(0.5, (2, 1)) * (rng.random((2, 1)) < 0.8) * rng.choice([1, 1, -1])
    arrays |= {"cuts/multipliers": multipliers, "claimed": np.full((2, 1), 1e9), "cuts/claimed": np.full(2, 1e9)}
    meta = {"ops": ops, "output": 8, "ball": None, "walks": [{"relax": True, "refine": [3]}], "finals": [True]}
    meta |= {"trees": {"0": 0} if where == "cuts" else {}, "root": 0 if where == "input" else -1}
    meta["function"], meta["set"] = checker.digests(meta, arrays)
    return meta, arrays


def test_a_tiny_false_property_is_rejected_whatever_the_choices():
    """Nets so small that bounds are nearly tight: one unsound line, multiplier or leaf in the checker accepts some of these."""
    rng, close, reasons = np.random.default_rng(0), 0, []
    for _ in range(1000):
        meta, arrays = tiny(rng)
        report = checker.check(meta, arrays)
        assert not report.accepted, (meta, arrays)
        reasons.append("found to be at most" in report.reason or "multiplier that is not >= 0" in report.reason)
        close += (
            "found to be at most" in report.reason and float(report.reason.split("at most ")[1].split(",")[0]) < 0.01
        )
    assert all(reasons), "forgeries must be rejected for their bounds"
    assert close > 300


# -- The language -------------------------------------------------------------------------------------------------------

IMAGE = (5, 6, 2)


def _key(n, *shape):
    return jax.random.normal(jax.random.key(n), shape)


def _conv(z, kernel, **options):
    return lax.conv_general_dilated(z[None], kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)[0]


FUNCTIONS = {
    "dense": lambda z: z.reshape(-1) @ _key(0, 60, 3) + _key(1, 3),
    "known first": lambda z: _key(0, 4, 5) @ z[:, :, 0],
    "batched": lambda z: jnp.einsum("hwc,hck->hwk", z, _key(0, 5, 2, 3)),
    "einsum": lambda z: jnp.einsum("hwc,kch->wk", z, _key(0, 3, 2, 5)),
    "strided": lambda z: _conv(z, _key(0, 3, 2, 2, 4), window_strides=(2, 1), padding="SAME"),
    "dilated": lambda z: _conv(z, _key(0, 2, 2, 2, 3), window_strides=(1, 2), padding=((2, 1), (-1, 3)), rhs_dilation=(2, 1)),
    "grouped": lambda z: _conv(z, _key(0, 3, 3, 1, 4), window_strides=(1, 1), padding="VALID", feature_group_count=2),
    "transposed": lambda z: lax.conv_transpose(z[None], _key(0, 3, 3, 2, 2), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
    "channels first": lambda z: lax.conv_general_dilated(z.transpose(2, 0, 1)[None], _key(0, 3, 2, 3, 3), (1, 1), "SAME"),
    "average pool": lambda z: lax.reduce_window(z, 0.0, lax.add, (2, 3, 1), (2, 1, 1), "SAME") / 6,
    "max pool": lambda z: lax.reduce_window(z, -jnp.inf, lax.max, (3, 2, 1), (2, 2, 1), "SAME"),
    "min pool": lambda z: lax.reduce_window(z, jnp.inf, lax.min, (2, 2, 1), (1, 2, 1), "VALID"),
    "reductions": lambda z: jnp.stack([z.sum(), z.mean(), z.max(), z.min(), jnp.max(z, axis=(0, 2))[1]]),
    "moves": lambda z: jnp.pad(jnp.concatenate([z[::-1, 1:4], z[:, ::2]], 1), ((1, 0), (0, 2), (0, 0)), constant_values=0.3),
    "gather": lambda z: z[jnp.array([4, 0, 2]), jnp.array([1, 1, 5])] - z[0, 0, 0],
    "select": lambda z: jnp.where(_key(0, *IMAGE) > 0, z, 0.5),
    "clip": lambda z: jnp.clip(3 * z, -0.5, 0.7) - jnp.minimum(z, 0.1),
    "abs": lambda z: jnp.abs(z - 0.1) / jnp.linspace(1, 3, 2),
    "leaky": lambda z: jax.nn.leaky_relu(z, 0.2) + jax.nn.leaky_relu(-z) + jax.nn.relu6(9 * z),
    "pairs": lambda z: jnp.maximum(z[1:], z[:-1]) - jnp.minimum(z[1:], 2 * z[:-1]),
    "curves": lambda z: jnp.tanh(2 * z) - jax.nn.sigmoid(3 * z - 1),
    "argument order": lambda z: jnp.maximum(0.1, z) - (1 - z),
}  # fmt: skip


@pytest.mark.parametrize("name", thinned(FUNCTIONS, 4, ("strided", "reductions", "abs", "pairs", "curves")))
def test_every_operation_says_what_jax_says(name):
    """Values as JAX computes them; bounds, with slopes at random, above all samples, in floats and in fractions alike."""
    fn = lambda z: jnp.ravel(FUNCTIONS[name](z))  # noqa: E731
    s = jr.sets.linf(0.4)(0.5 * _key(7, *IMAGE))
    lowered, out = lower(program_of(fn, s.center), list(zip(*map(jax.tree.leaves, s.hull()), strict=True)))
    bends = [(k, row["op"]) for k, row in enumerate(lowered.ops) if row["op"] in ("max", "abs", "tanh")]
    rng, arrays = np.random.default_rng(0), dict(lowered.arrays)
    for k, kind in bends:
        for side in ("lower", "upper" if kind == "tanh" else "flat"):
            slopes = rng.random((1, 1, lowered.size[k])).astype(np.float32)
            arrays |= {
                f"walks/0/{k}/{side}": slopes[0],
                f"final/{k}/{side}": slopes.round() if side == "flat" else slopes,
            }
    bent = [i for k, _ in bends for i in lowered.ops[k]["in"]]
    meta = {"ops": lowered.ops, "output": out, "trees": {}, "root": -1, "ball": None, "finals": [True]}
    meta["walks"] = [{"relax": True, "refine": bent[:2]}]
    arrays |= {
        "input/nodes": np.zeros((0, 4), int),
        "input/points": np.zeros(0),
        "claimed": np.zeros((1, lowered.size[out])),
    }
    rng = np.random.default_rng(1)
    points = np.float32(np.asarray(s.center) + rng.choice([-0.4, 0.0, 0.4], (100, *IMAGE)) * rng.random((100, 1, 1, 1)))
    values = np.stack([checker.evaluate(meta, arrays, z) for z in points])
    np.testing.assert_allclose(values, jax.jit(jax.vmap(fn))(points), rtol=2e-5, atol=2e-5)
    bounds = checker.derived(meta, arrays)["claimed"][0]
    assert np.all(bounds >= values.max(0) - 1e-12)
    assert np.all(bounds <= values.max(0) + 30)
    if name in ("dense", "strided", "max pool", "clip", "pairs", "leaky", "abs"):
        cert = checker._proof.parse(meta, arrays, True)
        exact = np.array([float(b) for *_, b in checker._proof._established(cert)])
        assert np.all(bounds >= exact - 1e-15)
        np.testing.assert_allclose(bounds, exact, rtol=0, atol=1e-9)


def test_rounding_is_charged():
    """Where float64 loses digits the bound in floats stays above the one in fractions, by no more than was charged."""
    big = 1e7 * _key(0, 6, 8)

    def fn(z):
        hidden = jax.nn.relu(z @ big + 3e7)
        return hidden @ _key(1, 8, 4) - hidden @ (_key(1, 8, 4) * (1 + 1e-6))

    s = jr.sets.linf(1e-3)(_key(2, 6))
    f = jr.objectives.objective(lambda z: fn(z) - 1e4)
    proof = jr.bounds.prove(f, s, method=jr.bounds.crown_ibp(), over=None)
    report, exact = proof.check(), proof.check(rational=True)
    assert exact.accepted, exact.reason
    gap = np.array(report.bounds) - np.array(exact.bounds)
    assert np.all(gap > 0)
    assert np.all(gap < 1e-3)


def test_curves_lie_between_their_lines():
    """``tanh`` on random intervals: offsets at any slope lie outside of it, and touch it."""
    rng = np.random.default_rng(0)
    lo, width = rng.normal(0, 3, 4000), rng.exponential(2, 4000)
    k = rng.normal(0.4, 0.5, 4000)
    hi = lo + width * (rng.random(4000) < 0.95)
    tops = checker._arithmetic.tanh_top(k, lo, hi)
    x = np.linspace(lo, hi, 2001)
    most = (np.tanh(x) - k * x).max(0)
    assert np.all(tops >= most)
    assert np.all(tops <= most + 1e-4 * (1 + width) ** 2)


def test_a_convolutional_and_a_smooth_net():
    kernel, last = _key(0, 3, 3, 2, 3), 0.3 * _key(1, 27, 2)

    def conv(z):
        return jax.nn.relu(_conv(z, kernel, window_strides=(2, 2), padding="SAME")).reshape(-1) @ last

    def smooth(z):
        return jax.nn.sigmoid(jnp.tanh(z[:, 0, 0] @ _key(0, 5, 6)) @ _key(1, 6, 3))

    s = jr.sets.linf(0.05, clip=(-1, 1))(0.5 * _key(7, *IMAGE))
    for fn in (conv, smooth):
        method = jr.bounds.crown_ibp()
        top = float(jax.jit(lambda fn=fn, by=method: by.solve(None, jr.objectives.objective(fn), s).value)())
        f = jr.objectives.objective(lambda z, fn=fn, top=top: fn(z) - top - 1e-4)
        proof = jr.bounds.prove(f, s, method=method, over=None)
        assert proof.check().accepted
        exact = proof.check(rational=True)
        assert exact.accepted == (fn is conv)
        assert fn is conv or "tanh is not checkable in rationals" in exact.reason
        assert not changed(proof, "claimed", lambda a: a - 1e-3).check().accepted


# -- Independence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CHECKER.glob("*.py")), ids=lambda p: p.name)
def test_the_checker_imports_numpy_and_the_standard_library_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path.name} looks outside of the checker"
            names = [node.module] if node.level == 0 else []
        for name in names:
            top = name.split(".")[0]
            assert top in ("numpy", "checker") or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_the_checker_runs_alone(tmp_path):
    shutil.copytree(CHECKER, tmp_path / "checker", ignore=shutil.ignore_patterns("__pycache__"))
    made("neurons").save(tmp_path / "good.npz")
    changed(made("neurons"), "cuts/claimed", lambda a: a - 0.1).save(tmp_path / "bad.npz")
    (tmp_path / "other.npz").write_bytes(b"no certificate")

    def run(*args):
        return subprocess.run([sys.executable, "-I", "checker", *args], cwd=tmp_path, capture_output=True, text=True)

    good = run("good.npz", "--rational", "--expect", made("neurons").function, "--expect-set", made("neurons").set)
    assert good.returncode == 0, good.stderr
    assert "accepted" in good.stdout
    assert made("neurons").function in good.stdout
    bad = run("bad.npz")
    assert bad.returncode == 1
    assert "rejected: cuts/claimed" in bad.stdout
    assert run("other.npz").returncode == 2
    probe = "import sys; sys.path.insert(0, '.'); import checker; print([m for m in sys.modules if m.startswith(('jax', 'jrobust'))])"
    alone = subprocess.run(
        [sys.executable, "-I", "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert alone.stdout.strip() == "[]"


def test_a_certificate_is_plain_data():
    proof = made("neurons")
    assert json.loads(json.dumps(proof.meta)) == proof.meta
    assert all(a.dtype.kind in "fi" for a in proof.arrays.values())
