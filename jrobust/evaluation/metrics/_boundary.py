"""Distances to the decision boundary by walking: along random directions, by small gradient steps; and how noise moves the loss."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_count, check_inside
from jrobust._tree import bind
from jrobust.evaluation.metrics._driver import Scores, check_ball, each, length
from jrobust.objectives import ce
from jrobust.sets._base import check_clip


def _walk(magnitudes: Any, key: Any, f: Any, x: Any, *, directions: int) -> dict[str, Any]:
    first = jnp.argmax(f.outputs(x))
    basis = jnp.linalg.qr(jax.random.normal(key, (x.size, directions), x.dtype))[0].T

    def flips(u: Any) -> Any:
        z = x + magnitudes.astype(x.dtype).reshape(-1, *[1] * x.ndim) * u.reshape(x.shape)
        turned = jax.vmap(lambda z: jnp.argmax(f.outputs(z)) != first)(z)
        return jnp.where(turned.any(), jnp.argmax(turned), len(magnitudes))

    at = jnp.min(_loops.map(flips, basis))
    return {"at": jnp.minimum(at, len(magnitudes) - 1), "flips": at < len(magnitudes)}


def ebd1(
    model: Any, x: Any, y: Any, *, magnitudes: Any, key: Any, directions: int = 10, batch_size: int = 64
) -> Scores:
    """Empirical boundary distance: the least L2 distance at which the prediction changes along random orthonormal directions.

    Args:
      model, x, y, batch_size: as in `jr.evaluate`; the labels play no part, nor does a box: points may leave [0, 1].
      magnitudes: distances to look at [M], > 0 and increasing.
      directions: 1 .. size of an example.
      key: also of a random model's draws, of which the example keeps one mean: with new ones at each point the first flip by chance
        would count.

    Returns:
      `Scores` of side "estimate": the first distance of the grid at which the class differs, least over directions. Where none of
      them flips it is the largest one, and ``info["flips"]`` is False; elsewhere it bounds the example's radius from above.

    Raises:
      ValueError: magnitudes that do not increase from above 0, more directions than entries.

    References:
      He, Li & Song, Decision boundary analysis of adversarial examples, ICLR 2018; Guo et al., Pattern Recognition 2023.
    """
    grid = np.asarray(magnitudes, np.float64)
    if grid.ndim != 1 or len(grid) == 0 or not (np.isfinite(grid).all() and grid[0] > 0 and np.all(np.diff(grid) > 0)):
        raise ValueError(
            f"ebd1: magnitudes must be finite distances [M] that increase from above 0, got {grid.tolist()}"
        )
    check_count(directions, "directions", "ebd1")
    size = int(np.prod(np.shape(x)[1:]))
    if directions > size:
        raise ValueError(f"ebd1: {directions} directions cannot be orthonormal in examples of {size} entries")
    found = each(
        bind(_walk, jnp.asarray(grid), directions=directions), model, x, y, key=key, batch_size=batch_size, by="ebd1"
    )
    return Scores(grid[found["at"]], "estimate", {"flips": found["flips"]}, float(grid[0]), float(grid[-1]))


def _steps(size: Any, lo: Any, hi: Any, key: Any, f: Any, x: Any, *, limit: int) -> dict[str, Any]:
    def holds(z: Any) -> Any:
        return f.value(f.outputs(z)) < 0

    def go(state: Any) -> Any:
        z, count = state
        fresh = f.at(jax.random.fold_in(key, count))  # a walk along what judges a random model would fit its draws
        gradient = jax.grad(lambda z: fresh.climb(ce, z)[0])(z)
        return jnp.clip(z + size * jnp.sign(gradient), lo, hi).astype(z.dtype), count + 1

    right = holds(x)
    start = x, jnp.where(right, 0, limit)
    z, count = _loops.while_loop(lambda s: (s[1] < limit) & holds(s[0]), go, start)
    return {"steps": count, "right": right, "flips": right & ~holds(z)}


def ebd2(
    model: Any,
    x: Any,
    y: Any,
    *,
    step: float | int = 0.0005,
    limit: int = 1000,
    clip: Any = (0.0, 1.0),
    key: Any = None,
    batch_size: int = 256,
) -> Scores:
    """Empirical boundary distance in gradient steps: how many steps along the sign of the loss's gradient leave the label.

    Args:
      model, x, y, batch_size: as in `jr.evaluate`.
      step: of each entry, > 0.
      limit: of steps, >= 1.
      clip: the box ``(lo, hi)``; None: none.
      key: for a random model alone. Each gradient is of fresh draws, the label is judged by the mean of draws that no gradient saw.

    Returns:
      `Scores` of side "estimate": counts of steps; ``step`` times it bounds the Linf radius from above. NaN, left out of the mean, where
      the prediction is wrong or still right after ``limit`` steps; ``info["flips"]`` tells the two apart with ``info["right"]``.

    Raises:
      ValueError: a step that is not > 0, a limit below 1.

    References:
      Guo et al., A comprehensive evaluation framework for deep model robustness, Pattern Recognition 2023.
    """
    if not (np.isfinite(step) and step > 0):
        raise ValueError(f"ebd2: step must be finite and > 0, got {step!r}")
    check_count(limit, "limit", "ebd2")
    lo, hi = (
        nowhere if end is None else end
        for end, nowhere in zip(check_clip(clip, "ebd2"), (-np.inf, np.inf), strict=True)
    )
    check_inside(np.asarray(x), 0, lo, hi)
    found = each(bind(_steps, step, lo, hi, limit=limit), model, x, y, key=key, batch_size=batch_size, by="ebd2")
    values = np.where(found["flips"], found["steps"], np.nan)
    return Scores(values, "estimate", {"flips": found["flips"], "right": found["right"]}, 1.0, float(limit))


def _noise(threat: Any, key: Any, f: Any, x: Any, *, samples: int) -> Any:
    s, clean = threat(x), ce(f, f.outputs(x))

    def one(key: Any) -> Any:
        z = s.sample(key)
        distance = length(z - x, "linf")
        return jnp.where(distance > 0, jnp.abs(ce(f, f.outputs(z)) - clean) / jnp.where(distance > 0, distance, 1), 0)

    return jnp.mean(_loops.map(one, jax.random.split(key, samples), batch_size=min(samples, 16)))


def eni(model: Any, x: Any, y: Any, *, threat: Any, key: Any, samples: int = 10, batch_size: int = 256) -> Scores:
    """Empirical noise insensitivity: the mean of ``|loss(x + d) - loss(x)| / ||d||_inf`` over random d of a ball; small is insensitive.

    Args:
      model, x, y, key, batch_size: as in `jr.evaluate`; the loss is the cross-entropy of the label. A random model's draws are the same
        at both ends of each d.
      threat: `jr.sets.linf`, `l2` or `l1`, sampled uniformly (and clipped).
      samples: draws an example.

    Returns:
      `Scores` of side "estimate": each example's mean over its draws, a lower bound on the loss's steepest secant in the ball.

    Raises:
      ValueError: another threat or count.

    References:
      Liu et al., Training robust deep neural networks via adversarial noise propagation, IEEE TIP 2021; Guo et al.
    Deviations:
      The mean of ratios, as the papers define it; the framework's code takes the difference of summed losses over one maximum.
    """
    threat = check_ball(threat, "eni")
    check_count(samples, "samples", "eni")
    found = each(bind(_noise, threat, samples=samples), model, x, y, key=key, batch_size=batch_size, by="eni")
    return Scores(found.astype(np.float64), "estimate", {})
