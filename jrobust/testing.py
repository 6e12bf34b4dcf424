"""Checkers for contributors: what every set, oracle and bounding method must satisfy, as functions that raise AssertionError.

Each is run over the tables in ``tests/contracts``; run them on your own additions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._objective import Objective
from jrobust._oracle import Oracle
from jrobust._tree import bind, normal_like, vdot
from jrobust.objectives import classification
from jrobust.sets import Set, Threat
from jrobust.smoothing import Noise, needed

__all__ = ["Linear", "check_domain", "check_noise", "check_oracle", "check_set", "linear_problem"]


def _size(point: Any) -> float:
    return float(max(jnp.max(jnp.abs(leaf), initial=1.0) for leaf in jax.tree.leaves(point)))


def check_set(threat: Threat, x: Any, *, key: Any, samples: int = 256, tol: float = 1e-4) -> None:
    """Check that the facts of a set agree with one another, under jit, vmap and grad.

    Samples, projections, maximisers and the centre lie in the set; no sample exceeds the support, which `argsup` attains and whose
    gradient is `argsup`; projections are idempotent, no sample is nearer, and of a convex set they satisfy the variational inequality
    ``<v - Pv, w - Pv> <= 0`` for all w in the set; the hull contains samples; scaling is monotone; a point lies in the set resized to
    its distance.

    Args:
      threat: what to check.
      x: one example (a tuple for products).
      key: consumed.
      samples: how many points and directions.
      tol: absolute tolerance, times the size of the numbers involved.

    Raises:
      AssertionError: naming the fact that fails.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> check_set(jr.sets.l2(0.5, clip=(0, 1)), jnp.full(4, 0.3), key=jax.random.key(0), samples=16)
    """
    s = threat(x)
    k_sample, k_c, k_v = (jax.random.split(k, samples) for k in jax.random.split(key, 3))

    def facts(s: Set, k_sample: Any, k_c: Any, k_v: Any) -> dict[str, Any]:
        w, c = s.sample(k_sample), normal_like(k_c, s.center)
        v = jax.tree.map(jnp.add, s.center, normal_like(k_v, s.center, 2.0))
        best, nearest = s.argsup(c), s.project(v)
        residual = jax.tree.map(jnp.subtract, v, nearest)

        def off(z: Any) -> Any:
            d = jax.tree.map(jnp.subtract, v, z)
            return vdot(d, d)

        lo, hi = s.hull()
        grown = jax.tree.map(lambda e: 1.001 * e, s.distance(nearest))
        outside = [
            jnp.max(jnp.maximum(a - h, b - a), initial=0.0)
            for a, h, b in zip(*map(jax.tree.leaves, (w, hi, lo)), strict=True)
        ]
        return {
            "sample in set": jnp.where(s.contains(w), 0.0, jnp.inf),
            "argsup in set": jnp.where(s.contains(best), 0.0, jnp.inf),
            "projection in set": jnp.where(s.contains(nearest), 0.0, jnp.inf),
            "sample below support": vdot(c, w) - s.support(c),
            "support attained": jnp.abs(s.support(c) - vdot(c, best)),
            "gradient of support is argsup": _distance(jax.grad(s.support)(c), best),
            "projection optimal": s.support(residual) - vdot(residual, nearest) if s.geometry.convex else 0.0,
            "projection nearest": vdot(residual, residual) - jnp.minimum(off(w), off(best)),
            "projection idempotent": _distance(s.project(nearest), nearest),
            "sample in hull": jnp.stack(outside).max(),
            "scale monotone": s.scale(0.5).support(c) - s.support(c),
            "scale zero": jnp.abs(s.scale(0.0).support(c) - vdot(c, s.center)),
            "distance within resize": jnp.where(s.resize(grown).contains(nearest), 0.0, jnp.inf),
            "distance within the radius": jnp.where(s.resize(s.distance(w)).contains(w), 0.0, jnp.inf),
            "centre in set": jnp.where(s.contains(s.center), 0.0, jnp.inf),
        }

    size = _size(s.center) + _size(s.hull())
    limit = tol * size * max(1.0, sum(leaf.size for leaf in jax.tree.leaves(s.center)) ** 0.5)
    for name, values in jax.jit(jax.vmap(facts, in_axes=(None, 0, 0, 0)))(s, k_sample, k_c, k_v).items():
        worst = float(jnp.max(values))
        assert worst <= limit, f"{threat.name}: {name} is off by {worst:.3g} (limit {limit:.3g})"
    assert s.scale(0.5).geometry == s.geometry, f"{threat.name}: scaling changes the kind of set"


def check_noise(noise: Noise, x: Any, *, key: Any) -> None:
    """Check a smoothing noise: pure under jit and vmap, its level a leaf, its radii those of a certificate.

    Samples are finite floats, the same for the same key, others for another, whether drawn alone, under jit or under vmap. Radii are
    float64, 0 where no class leads, never less for a larger probability or for a smaller bound on the others', and
    `jrobust.smoothing.needed` inverts them. That the radii are *sound* is not checked: that takes the noise's worst classifier.

    Args:
      noise: what to check.
      x: one example that it takes.
      key: consumed.
    """
    keys = jax.random.split(key, 3)
    alone = noise.sample(keys[0], x)
    assert alone.dtype == x.dtype, f"samples are {alone.dtype}, the example {x.dtype}"
    assert np.isfinite(alone).all(), "a sample is not finite"
    np.testing.assert_array_equal(alone, noise.sample(keys[0], x), "one key gave two samples")
    assert (np.asarray(alone) != np.asarray(noise.sample(keys[1], x))).any(), "two keys gave one sample"
    many = jax.jit(jax.vmap(lambda n, k: n.sample(k, x), (None, 0)))(noise, keys)
    np.testing.assert_allclose(many[0], alone, rtol=1e-5, atol=1e-6, err_msg="a sample depends on jit or vmap")

    shape = tuple(x.shape)
    p = np.r_[0.0, 0.3, 0.5, np.linspace(0.5, 1, 40)[1:-1], 0.999, 1 - 1e-6]
    radius = noise.certify(p, shape=shape)
    assert radius.dtype == np.float64, f"radii are {radius.dtype}"
    assert (radius[:3] == 0).all(), "there is a radius where no class leads"
    assert (np.diff(radius) >= 0).all(), "a larger probability has a smaller radius"
    assert radius[-1] > 0, "no probability has a radius"
    assert (noise.certify(p, 1 - p, shape=shape) == radius).all(), (
        "two classes: an upper bound of 1 - lower changes nothing"
    )
    assert (noise.certify(p, (1 - p) / 2, shape=shape) >= radius - 1e-12).all(), (
        "less likely rivals have made the radius smaller"
    )
    assert (noise.certify(p, p, shape=shape)[p >= 0.5] == radius[p >= 0.5]).all(), (
        "upper bounds above 1 - lower say nothing"
    )
    some = radius[-1] / 2 if radius[-1] < 1 else 1.0
    probability = needed(noise, some, shape=shape)
    assert noise.certify(probability, shape=shape) >= some > noise.certify(probability - 1e-6, shape=shape), (
        "needed() is not the inverse"
    )


def _distance(a: Any, b: Any) -> Any:
    return jnp.stack(
        [jnp.max(jnp.abs(p - q), initial=0.0) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    ).max()


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear classifier on one set, with the exact worst-case margins."""

    f: Objective
    s: Set
    exact: Any


def linear_problem(threat: Threat, *, key: Any, shape: tuple[int, ...] = (6,), classes: int = 5) -> Linear:
    """A random linear classifier, correct at the centre of its set; its worst margins are the set's own support.

    Returns:
      A `Linear`: objective, set, and ``exact`` [K-1], the suprema of the margins.
    """
    k_w, k_x = jax.random.split(key)
    w = jax.random.normal(k_w, (classes, *shape))
    x = jax.random.uniform(k_x, shape, minval=0.2, maxval=0.8)
    y = jnp.argmax(jnp.tensordot(w, x, len(shape)))
    others = jnp.array([j for j in range(classes) if j != int(y)])
    s = threat(x)
    f = classification(bind(_linear, w), y)
    return Linear(f, s, jax.vmap(s.support)(w[others] - w[y]))


def _linear(w: Any, z: Any) -> Any:
    return jnp.tensordot(w, z, jnp.ndim(z))


def check_oracle(
    oracle: Oracle, f: Objective, s: Set, *, key: Any, exact: Any = None, samples: int = 512, tol: float = 1e-4
) -> None:
    """Check one oracle on one problem: its side, its witness, and that jit, vmap and eager runs agree.

    Lower: the witness lies in the set and attains ``value``. Upper: no sample exceeds the elementwise bounds, ``value`` is their
    largest. With ``exact`` (the suprema of the violations): a lower bound is not above, an upper one not below.

    Args:
      oracle: any oracle; a host oracle is run eagerly only.
      f, s: the problem.
      key: consumed.
      exact: the true suprema [m], where known.
      samples: random points of the set.
      tol: absolute tolerance.

    Raises:
      AssertionError: naming the fact that fails.
    """
    bound = oracle.solve(key, f, s)
    value = float(bound.value)
    if not oracle.host:
        jitted = jax.jit(oracle.solve)(key, f, s)
        mapped = jax.vmap(lambda k: oracle.solve(k, f, s))(jnp.stack([key, key]))
        for how, other in (("jit", jitted.value), ("vmap", mapped.value[1])):
            assert np.allclose(value, other, atol=tol, rtol=1e-4), (
                f"{oracle.name}: {value} eagerly, {other} under {how}"
            )
    points = jax.vmap(s.sample)(jax.random.split(jax.random.fold_in(key, 1), samples))
    sampled = jnp.max(jax.vmap(f)(points), axis=0)
    if oracle.side in ("lower", "exact") and bound.witness is not None:
        assert bool(s.contains(bound.witness)), f"{oracle.name}: the witness leaves the set"
        attained = float(f.value(f.outputs(bound.witness)))
        assert abs(attained - value) <= tol * max(1.0, abs(value)), (
            f"{oracle.name}: claims {value}, its witness attains {attained}"
        )
    if oracle.side in ("upper", "exact"):
        elements = bound.info.get("elements", bound.value)
        excess = float(jnp.max(sampled - elements))
        assert excess <= tol, f"{oracle.name}: a sample exceeds the bound by {excess}"
        assert np.isclose(value, float(jnp.max(elements)), equal_nan=True), (
            f"{oracle.name}: value is not the largest element"
        )
    if exact is not None:
        top = float(jnp.max(exact))
        if oracle.side in ("lower", "exact"):
            assert value <= top + tol, f"{oracle.name}: a lower bound {value} above the supremum {top}"
        if oracle.side in ("upper", "exact"):
            assert value >= top - tol, f"{oracle.name}: an upper bound {value} below the supremum {top}"


def check_domain(
    method: Oracle, fn: Callable[[Any], Any], s: Set, *, key: Any, samples: int = 1000, tol: float = 1e-5
) -> tuple[Any, Any]:
    """Check one bounding method on one function and set: no sample, vertex or centre leaves ``output_bounds``.

    Args:
      method: an upper oracle of `jr.bounds`.
      fn: one example -> array.
      s: the set.
      key: consumed.
      samples: random points; as many vertices of the hull are tried where the set contains them.
      tol: allowed rounding, relative to the size of the outputs.

    Returns:
      The bounds ``(lo, hi)``, for further tests.

    Raises:
      AssertionError: a point outside the bounds, lo > hi, or NaN.
    """
    from jrobust.bounds import output_bounds  # the wing is above this file only when it is used

    @jax.jit
    def seen(s: Set, key: Any) -> tuple[Any, dict[str, Any]]:
        k_s, k_v = jax.random.split(key)
        points = {
            "sample": jax.vmap(s.sample)(jax.random.split(k_s, samples)),
            "vertex": jax.vmap(lambda k: s.argsup(normal_like(k, s.center)))(jax.random.split(k_v, samples)),
            "centre": jax.tree.map(lambda a: a[None], s.center),
        }
        return output_bounds(fn, s, method=method), {kind: jax.vmap(fn)(zs) for kind, zs in points.items()}

    (lo, hi), outputs = seen(s, key)
    assert not bool(jnp.any(jnp.isnan(lo) | jnp.isnan(hi))), f"{method.name}: NaN bounds"
    for kind, out in outputs.items():
        slack = tol * (1.0 + jnp.max(jnp.abs(out), axis=0))
        over = jnp.maximum(jnp.max(out, axis=0) - hi, lo - jnp.min(out, axis=0)) - slack
        assert float(jnp.max(over, initial=-1.0)) <= 0, (
            f"{method.name}: a {kind} leaves the bounds by {float(jnp.max(over)):.3g}"
        )
    return lo, hi
