"""Smoothing along a family of images with one parameter: rotation, scaling. Between two images looked at, l2 noise bridges the gap."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._statistics import clopper_pearson
from jrobust.smoothing._certificate import Certificate
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._run import check_alpha, count, start, warn_if_vain
from jrobust.transforms import interpolate
from jrobust.typing import Array, Float


class Places(NamedTuple):
    """Where each pixel of a changed image is read, and how far that place moves while the parameter does.

    Attributes:
      rows, columns: fractional places [h, w] in the image.
      reach: the longest way [h, w] of a place, in pixels, while the parameter moves by half a width to either side.
      down, across: bounds [h, w] on the absolute cosines of that way with the rows' and the columns' direction.
    """

    rows: Float[Array, "h w"]
    columns: Float[Array, "h w"]
    reach: Float[Array, "h w"]
    down: Float[Array, "h w"]
    across: Float[Array, "h w"]


class Path(NamedTuple):
    """Images with one parameter t, the image itself at 0: bilinear, zeros from outside.

    Attributes:
      places: ``((h, w), t, width) -> Places``.
      unit: what the parameter counts, for tables.

    >>> image = jnp.zeros((3, 3, 1)).at[1, 2].set(1.0)
    >>> jnp.round(rotation_path().render(image, 90.0)[..., 0]).astype(int).tolist()
    [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    """

    places: Callable[[tuple[int, ...], Any, Any], Places]
    unit: str

    def render(self, image: Float[Array, "h w c"], t: Any) -> Float[Array, "h w c"]:
        """The image at parameter t."""
        at = self.places(image.shape[:2], jnp.asarray(t, image.dtype), 0.0)
        return interpolate(image, at.rows, at.columns)

    def gap(self, image: Float[Array, "h w c"], t: Any, width: Any) -> Float[Array, ""]:
        """An upper bound on the l2 distance of ``render(image, t)`` and ``render(image, s)`` for all ``|s - t| <= width / 2``.

        A place that moves at most half a pixel stays within four cells, in each of which the interpolated image has at most the
        slopes of its corners. Infinite where some place moves farther.
        """
        at = self.places(image.shape[:2], jnp.asarray(t, image.dtype), width)
        ringed = jnp.pad(image, ((2, 2), (2, 2), (0, 0)))
        fall, rise = jnp.abs(jnp.diff(ringed, axis=0)), jnp.abs(jnp.diff(ringed, axis=1))
        steep = jnp.maximum(fall[:, :-1], fall[:, 1:]), jnp.maximum(rise[:-1], rise[1:])  # of the cells from -2 on

        def worst(slopes: Array) -> Array:
            def cell(places: Array, last: int) -> Array:
                return jnp.clip(jnp.floor(places).astype(jnp.int32) + 2, 0, last)

            ends = [
                slopes[
                    cell(at.rows + a * at.reach, len(slopes) - 1), cell(at.columns + b * at.reach, slopes.shape[1] - 1)
                ]
                for a in (-1, 1)
                for b in (-1, 1)
            ]
            return jnp.max(jnp.stack(ends), 0)

        along = worst(steep[0]) * at.down[..., None] + worst(steep[1]) * at.across[..., None]
        bound = jnp.sqrt(jnp.sum((at.reach[..., None] * along) ** 2)) * (1 + 1e-5)
        return jnp.where(jnp.max(at.reach) <= 0.5, bound, jnp.inf)


def rotation_path() -> Path:
    """Rotations about the centre, counter-clockwise; the parameter counts degrees.

    References:
      Li, Weber, Xu, Rimanic, Kailkhura, Xie, Zhang, Li. TSS: transformation-specific smoothing for robustness certification. CCS 2021.
    """
    return Path(_turned, "degrees of rotation")


def scaling_path() -> Path:
    """Sizes about the centre; the parameter is the natural logarithm of the factor (0.1: about 10 % larger).

    References:
      Li et al., TSS, CCS 2021.
    """
    return Path(_scaled, "log size")


def _centred(shape: tuple[int, ...]) -> tuple[Array, Array]:
    rows, columns = jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return rows, columns


def _turned(shape: tuple[int, ...], degrees: Any, width: Any) -> Places:
    y, x = _centred(shape)
    angle, half = degrees * (math.pi / 180), width * (math.pi / 360)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows, columns, from_centre = cos * y + sin * x, cos * x - sin * y, jnp.hypot(y, x)
    safe = jnp.maximum(from_centre, 0.5)  # the centre itself does not move
    return Places(
        rows + (shape[0] - 1) / 2,
        columns + (shape[1] - 1) / 2,
        from_centre * half,
        jnp.minimum(jnp.abs(columns) / safe + half, 1.0),  # the way is at a right angle to the place, and turns by half
        jnp.minimum(jnp.abs(rows) / safe + half, 1.0),
    )


def _scaled(shape: tuple[int, ...], log_size: Any, width: Any) -> Places:
    y, x = _centred(shape)
    rows, columns = y * jnp.exp(-log_size), x * jnp.exp(-log_size)
    from_centre = jnp.hypot(rows, columns)
    safe = jnp.maximum(from_centre, 1e-6)
    return Places(
        rows + (shape[0] - 1) / 2,
        columns + (shape[1] - 1) / 2,
        from_centre * jnp.expm1(width / 2),
        jnp.abs(rows) / safe,
        jnp.abs(columns) / safe,
    )


def along(
    model: Any,
    x: Any,
    path: Any,
    *,
    reach: Any,
    step: Any,
    noise: Any,
    n0: int = 100,
    n: int = 1000,
    alpha: Any = 1e-3,
    key: Any,
    batch_size: int | None = None,
    mesh: Any = None,
) -> Certificate:
    """Up to which parameter of a path the smoothed class of an image provably stays: every rotation up to 10 degrees, say.

    The images at 0, +step, -step, +2 step ... are smoothed one after the other until one fails: its class is no longer that of ``n0``
    draws at 0, or its l2 radius, from ``n`` draws of its own, does not reach the images between it and its neighbours.

    Args:
      model: ``model(z[B, H, W, C]) -> logits[B, K]``.
      x: images [N, H, W, C], floating.
      path: `rotation_path` or `scaling_path`, or one of your own.
      reach: the largest parameter asked for, > 0, in the path's unit.
      step: between two images looked at, > 0, at most twice ``reach``; small enough that no place moves by half a pixel in half of it.
      noise: with a radius in l2 (`gaussian`).
      n0: selection draws of an example, >= 1.
      n: draws at each parameter, >= 1.
      alpha: failure probability of the statement about one example, in (0, 1).
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `Certificate` whose radius is in the path's unit, at most ``reach``; ``counts``, ``lower`` are those at 0, ``draws`` those of all
      parameters together. Radius 0: the answer at 0 alone.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: for each example, with probability >= 1 - alpha over the draws, the smoothed classifier answers ``prediction`` at every
      parameter t with ``|t| <= radius``. The order of the looks is fixed and the first failure ends it, so that each is made at alpha
      and all hold together. Assumes real arithmetic and ideal noise; speaks of bilinear interpolation with zeros outside.

    References:
      Li et al., TSS, CCS 2021.

    Deviations: the distance of the images in between is bounded by the slopes of the image where each pixel is read, without TSS's
      finer sampling; one bound for the whole path by a fixed sequence of tests, where a union bound would take alpha / looks each.

    >>> from jrobust.smoothing import gaussian
    >>> def upper_half(z):
    ...     s = z[:, :2].sum((1, 2, 3)) - z[:, 2:].sum((1, 2, 3))
    ...     return jnp.stack([s, -s], 1)
    >>> x = jnp.zeros((1, 4, 4, 1)).at[:, 0].set(1.0)
    >>> done = along(upper_half, x, rotation_path(), reach=90.0, step=5.0, noise=gaussian(0.5), n=500, key=jax.random.key(0))
    >>> done.prediction.tolist(), bool(20 < done.radius[0] < 90)
    ([0], True)
    """
    n0, n, alpha = count("n0", n0), count("n", n), check_alpha(alpha)
    run = start(model, x, noise, key, batch_size, mesh)
    _check(run.shape, noise, path, reach, step)
    warn_if_vain(lambda m: bool(clopper_pearson(m, m, alpha) > 0.5), n, alpha)
    looks = 1 + max(0, math.ceil(reach / step - 0.5))

    began, width, wide = time.perf_counter(), run.width(n), run.width(n0)
    groups = [np.arange(i, min(i + wide, run.n)) for i in range(0, run.n, wide)]
    chosen = np.concatenate([run.votes(0, group, 0, n0, wide).argmax(1) for group in groups]).astype(np.int32)
    counts, lower, passed, draws = None, np.zeros(run.n), np.full(run.n, -1), np.zeros(run.n, np.int32)
    going, moved = np.arange(run.n), np.array(run.x, np.float32)
    for stage, signed in enumerate([0] + [sign * k for k in range(1, looks) for sign in (1, -1)], 1):
        held = np.zeros(run.n, bool)
        for first in range(0, len(going), width):
            group = going[first : first + width]
            images, gaps = _at(jnp.asarray(run.x[np.resize(group, width)], jnp.float32), signed * step, step, path=path)
            moved[group] = np.asarray(images)[: len(group)]
            votes = dataclasses.replace(run, x=moved).votes(stage, group, 0, n, width)
            least = clopper_pearson(votes[np.arange(len(group)), chosen[group]], n, alpha)
            held[group] = (least > 0.5) & (
                noise.certify(least, shape=run.shape) > np.asarray(gaps, np.float64)[: len(group)]
            )
            draws[group] += n
            if signed == 0:
                counts = np.zeros((run.n, votes.shape[1]), np.int32) if counts is None else counts
                counts[group], lower[group] = votes, least
        going = going[held[going]]
        if signed <= 0:  # both sides
            passed[going] += 1
        if not len(going):
            break
    assert counts is not None
    return Certificate(
        prediction=np.where(lower > 0.5, chosen, -1).astype(np.int32),
        radius=np.where(passed >= 0, np.minimum((passed + 0.5) * step, reach), 0.0),
        counts=counts,
        lower=lower,
        upper=1 - lower,
        selected=chosen,
        draws=draws,
        seconds=np.full(run.n, (time.perf_counter() - began) / run.n),
        n0=n0,
        n=n,
        noise_digest="",  # the radius is not of the noise: there are no joint statements
        confidence=1 - alpha,
        norm=path.unit,
        most=float(reach),
        noise=f"{noise} along a path in steps of {step:g}",
    )


@partial(jax.jit, static_argnames="path")
def _at(images: Any, t: Any, width: Any, *, path: Path) -> tuple[Any, Any]:
    """Images at a parameter, and how far those between them and their neighbours are."""
    return jax.vmap(path.render, (0, None))(images, t), jax.vmap(path.gap, (0, None, None))(images, t, width)


def _check(shape: tuple[int, ...], noise: Noise, path: Any, reach: Any, step: Any) -> None:
    if not isinstance(path, Path):
        raise TypeError(f"path is made by jr.smoothing.rotation_path() and the like, got {type(path).__name__}")
    if len(shape) != 3:
        raise ValueError(f"x must be images [N, H, W, C], got examples of shape {shape}")
    if noise.norm != "l2":
        raise ValueError(f"along needs a noise with a radius in l2, {noise.name} has one in {noise.norm}")
    for name, value in (("reach", reach), ("step", step)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    if step > 2 * reach:
        raise ValueError(f"a step of {step:g} does not fit into a reach of {reach:g}")
    ends = [sign * math.ceil(reach / step - 0.5) * step for sign in (-1, 1)]
    most = max(float(jnp.max(path.places(shape[:2], jnp.float32(t), step).reach)) for t in ends)
    if not most <= 0.5:
        raise ValueError(
            f"a step of {step:g} moves a pixel by {most:.2g} in half of it, at most 0.5 is allowed: take a smaller step"
        )
