"""Square attack: random search over windows of the image, by scores alone."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._iterate import improves, violated
from jrobust._objective import Objective
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind, where
from jrobust.attacks._queries import asking, one_array, spending
from jrobust.attacks._state import Surrogate, keep, nothing
from jrobust.typing import Array, Float, Point

# The window's share of the image is halved after these proposals (of 10,000, where the schedule is rescaled).
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12


def _halvings(queries: int, resc_schedule: bool) -> tuple[int, ...]:
    """The proposals (counted from 0) at which the window's share of the image is halved."""
    return tuple(math.ceil((n + 1) * queries / 10_000) if resc_schedule else n + 1 for n in _HALVED_AFTER)


# -- Images -----------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How an example is seen as an image [H, W, C]: a vector is one row, a matrix has one channel, more axes are more rows."""

    shape: tuple[int, ...]
    channels: int

    def image(self, a: Array) -> Float[Array, "H W C"]:
        a = jnp.broadcast_to(a, self.shape)
        if a.ndim < 3:
            return a.reshape(*((1, -1) if a.ndim < 2 else a.shape), 1)
        a = jnp.moveaxis(a, self.channels, -1)
        return a.reshape(-1, *a.shape[-2:])

    def example(self, image: Float[Array, "H W C"]) -> Array:
        if len(self.shape) < 3:
            return image.reshape(self.shape)
        moved = list(self.shape)
        moved.append(moved.pop(self.channels))
        return jnp.moveaxis(image.reshape(moved), -1, self.channels)


def _layout(s: Any, channels: int) -> _Layout:
    return _Layout(s.center.shape, channels)


def _window(share: Any, height: int, width: int, *, least: int, odd: bool) -> tuple[Array, Array]:
    """Rows and columns of the window that covers a share of the image: a square, or a band where the image is too narrow."""

    def fit(side: Any) -> Array:
        side = jnp.maximum(jnp.round(side).astype(jnp.int32), least)
        return side | 1 if odd else side

    area = share * height * width
    square = jnp.sqrt(area)
    rows = jnp.where(jnp.round(square) > width, fit(area / width), fit(square))
    columns = jnp.where(jnp.round(square) > height, fit(area / height), fit(square))
    return jnp.minimum(rows, height), jnp.minimum(columns, width)


def _place(u: Float[Array, ""], length: int, window: Array) -> Array:
    """Coordinates [length] relative to a window placed uniformly, u in [0, 1)."""
    return jnp.arange(length) - (u * (length - window + 1)).astype(jnp.int32)


def _within(r: Array, c: Array, rows: Any, columns: Any) -> Array:
    return ((r >= 0) & (r < rows))[:, None] & ((c >= 0) & (c < columns))[None, :]


def _signs(u: Array) -> Array:
    return jnp.where(u < 0.5, -1.0, 1.0).astype(u.dtype)


# -- Linf, and whatever has a bounding box ----------------------------------------------------------------------------


def _stripes(key: Any, s: Any, layout: _Layout) -> Point:
    """The start: each column and channel at one of the two ends of the box."""
    lo, hi = map(layout.image, s.hull())
    _, width, channels = lo.shape
    up = jax.random.bernoulli(key, shape=(1, width, channels))
    return layout.example(jnp.where(up, hi, lo))


def _recoloured(key: Any, z: Point, s: Any, layout: _Layout, share: Any) -> Point:
    """A window at one end of the box, each channel at its own."""
    image, lo, hi = layout.image(z), *map(layout.image, s.hull())
    height, width, channels = image.shape
    rows, columns = _window(share, height, width, least=1, odd=False)
    u = jax.random.uniform(key, (2 + channels,), image.dtype)
    window = _within(_place(u[0], height, rows), _place(u[1], width, columns), rows, columns)
    return layout.example(jnp.where(window[..., None], jnp.where(u[2:] < 0.5, lo, hi), image))


# -- L2 and L1 --------------------------------------------------------------------------------------------------------


def _norm(v: Array, p: int, axis: Any = None) -> Array:
    return jnp.sum(jnp.abs(v), axis) if p == 1 else jnp.sqrt(jnp.sum(v * v, axis))


def _bumps(r: Array, c: Array, rows: Any, columns: Any, across: Any, p: int) -> Array:
    """Two bumps of opposite sign that share a window, of norm one; ``r`` [H] and ``c`` [W] are coordinates within it.

    One above the other, or (``across``) side by side. A bump falls off in square rings around its centre: at ring d it is
    ``sum_{k >= d} 1 / (k + 1)^power`` up to the outermost ring. A window of one row that is not cut across holds one bump.
    """
    rings = 1.0 / np.arange(1, max(r.size, c.size) // 2 + 2) ** (4.0 if p == 1 else 2.0)
    inner = jnp.asarray(
        np.cumsum([0.0, *rings]), jnp.float32
    )  # of the rings within d; the sum from d outwards is a difference

    def halves(i: Array, n: Any, cut: Any) -> tuple[Array, Array, Array]:
        second = i >= cut
        size = jnp.where(second, n - cut, cut)
        ring = jnp.abs(i - jnp.where(second, cut, 0) - size // 2)
        return second, inner.at[ring].get(mode="clip"), inner.at[size // 2 + 1].get(mode="clip")

    below, from_row, to_row = halves(r, rows, jnp.where(across, 0, rows // 2))
    right, from_column, to_column = halves(c, columns, jnp.where(across, columns // 2, 0))
    # the ring is the larger of the two distances, and the sums grow with it
    bump = jnp.maximum(to_row[:, None], to_column) - jnp.maximum(from_row[:, None], from_column)
    bump = jnp.where(_within(r, c, rows, columns), bump, 0.0)
    second = below[:, None] & right
    sizes = _norm(jnp.where(second, 0.0, bump), p), _norm(jnp.where(second, bump, 0.0), p)
    both = sum((size > 0).astype(bump.dtype) for size in sizes) ** (1 / p)
    first, other = (jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1.0), 0.0) / both for size in sizes)
    return bump * jnp.where(second, -other, first)


def _inside(s: Any, z: Point, p: int) -> Point:
    """The nearest point of the set; a point already at distance eps in L2 only needs its clip."""
    return jnp.clip(z, *s.hull()) if p == 2 else s.project(z)


def _tiled(key: Any, s: Any, layout: _Layout, *, p: int) -> Point:
    """The start: five by five windows of bumps, each cut one way or the other, each channel with its own sign."""
    center = layout.image(s.center)
    height, width, channels = center.shape
    rows, columns = max(height // 5, 1), max(width // 5, 1)
    down, along = min(height // rows, 5), min(width // columns, 5)
    u = jax.random.uniform(key, (down, along, 1 + channels), center.dtype)
    kinds = [_bumps(jnp.arange(rows), jnp.arange(columns), rows, columns, across, p) for across in (False, True)]
    tiles = jnp.where(u[:, :, None, None, :1] < 0.5, kinds[0][..., None], kinds[1][..., None])
    tiles = tiles * _signs(u[:, :, None, None, 1:])
    d = jnp.moveaxis(tiles, 2, 1).reshape(down * rows, along * columns, channels)
    before = (height - down * rows) // 2, (width - along * columns) // 2
    d = jnp.pad(
        d, [(n, size - n - used) for n, size, used in zip(before, (height, width), d.shape, strict=False)] + [(0, 0)]
    )
    size = _norm(d, p)
    d = d * s.params[0] / (size if p == 2 else jnp.minimum(size, s.params[0]) + _TINY)
    return _inside(s, s.center + layout.example(d), p)


def _shifted(key: Any, z: Point, s: Any, layout: _Layout, share: Any, *, p: int) -> Point:
    """The mass of a second window moved to a first one, where new bumps are added to what was there."""
    eps = s.params[0]
    d = layout.image(z - s.center)
    height, width, channels = d.shape
    rows, columns = _window(share, height, width, least=3, odd=True)
    u = jax.random.uniform(key, (5 + channels,), d.dtype)
    r, c = _place(u[0], height, rows), _place(u[1], width, columns)
    first = _within(r, c, rows, columns)[..., None]
    second = _within(_place(u[2], height, rows), _place(u[3], width, columns), rows, columns)[..., None]
    norm = partial(_norm, p=p, axis=(0, 1))
    there = jnp.where(first, d, 0.0)
    bumps = _bumps(r, c, rows, columns, u[4] < 0.5, p)[..., None] * _signs(u[5:])
    new = there / (norm(there) + _TINY) + bumps
    cancelled = norm(new) < 0.01  # what is left is rounding, not to be blown up
    new, size = jnp.where(cancelled, bumps, new), jnp.where(cancelled, 1.0, norm(new))
    unspent = jnp.maximum(eps**p - _norm(d, p) ** p, 0.0) / channels
    budget = (unspent + norm(jnp.where(first | second, d, 0.0)) ** p) ** (1 / p)
    budget = channels * budget if p == 1 else budget  # published so: the projection takes back what is too much
    d = jnp.where(first, new / size * budget, jnp.where(second, 0.0, d))
    d = d * (eps / (_norm(d, p) + _TINY)) if p == 2 else d
    return _inside(s, s.center + layout.example(d), p)


# -- The oracle -------------------------------------------------------------------------------------------------------


class SearchState(NamedTuple):
    """The point that the search stands on with its surrogate, the worst case so far, and the queries spent."""

    z: Point
    height: Float[Array, ""]
    value: Float[Array, ""]
    witness: Point
    queries: Array


def _start(s: Any, key: Any, *, kind: str, channels: int) -> Point:
    layout = _layout(s, channels)
    if kind in ("l1", "l2"):
        return _tiled(key, s, layout, p=int(kind[1]))
    z = _stripes(key, s, layout)
    return z if kind == "linf" else s.project(z)


def _proposed(key: Any, z: Point, s: Any, share: Any, *, kind: str, channels: int) -> Point:
    layout = _layout(s, channels)
    if kind in ("l1", "l2"):
        return _shifted(key, z, s, layout, share, p=int(kind[1]))
    z = _recoloured(key, z, s, layout, share)
    return z if kind == "linf" else s.project(z)


def _init(key: Any, f: Objective, s: Any, *, kind: str, channels: int) -> SearchState:
    del f
    one_array(s, "square")
    z = _start(s, key, kind=kind, channels=channels)
    return SearchState(z, nothing(z), nothing(z), z, jnp.asarray(0, jnp.int32))


def _step(
    p_init: Any,
    key: Any,
    state: SearchState,
    f: Objective,
    s: Any,
    *,
    kind: str,
    channels: int,
    halvings: tuple[int, ...],
    surrogate: Surrogate | None,
) -> SearchState:
    proposals = state.queries - 1  # the first query is the start itself
    share = p_init * 0.5 ** jnp.sum(proposals >= np.asarray(halvings))
    z = _proposed(key, state.z, s, share, kind=kind, channels=channels)
    z = where(state.queries > 0, z, state.z)
    outputs = f.outputs(z)
    value = f.value(outputs)
    height = (value if surrogate is None else surrogate(f, outputs)).astype(state.height.dtype)
    accept = improves(height, state.height) | violated(value)
    return keep(state, z, value)._replace(
        z=where(accept, z, state.z), height=jnp.where(accept, height, state.height), queries=state.queries + 1
    )


def _for_set(
    p_init: Any,
    kind: str,
    classes: int,
    *,
    queries: int,
    halvings: tuple[int, ...],
    surrogate: Surrogate | None,
    channels: int,
    name: str,
) -> Oracle:
    del classes
    step = bind(_step, p_init, kind=kind, channels=channels, halvings=halvings, surrogate=surrogate)
    return spending(asking(bind(_init, kind=kind, channels=channels), step, surrogate), queries, name)


def square(
    *,
    queries: int = 5000,
    p_init: Any = 0.8,
    resc_schedule: bool = False,
    surrogate: Surrogate | None = None,
    channels: int = -1,
    name: str = "square",
) -> Oracle:
    """Square attack: random windows are recoloured, and a change is kept where the surrogate rises. No gradients.

    On Linf sets a window goes to one end of the box, a random one for each channel; on L2 and L1 sets a window takes over the
    mass of another one and gets two bumps of opposite sign. Windows cover a share of the image that is halved again and again.
    Each example draws its own places and signs.

    Args:
      queries: forward passes at most, >= 1 (structure); the first evaluates the start.
      p_init: the share of the image that the first windows cover, in (0, 1]; traced.
      resc_schedule: halve the share at the same fractions of ``queries`` as in a run of 10,000, not at the same query numbers.
      surrogate: what has to rise, ``(objective, outputs) -> scalar``; None takes the objective's own value (the margin).
      channels: the axis of the channels, for examples of three axes and more (``0`` for [C, H, W]). Else a matrix is an image of
        one channel, and a vector an image of one row whose windows are intervals. Axes before the last two are rows.
      name: for tables.

    Returns:
      An `Oracle` of side "lower"; each example stops at its first violation, and ``info["forwards"]`` are the queries it took.
      Sets that are no Lp ball of order 1, 2, or inf are searched as their bounding box, each proposal projected onto the set.

    Raises:
      ValueError: no queries; a concrete share outside (0, 1].
      TypeError: a product set (when it runs).

    Guarantee: a lower bound, attained at ``witness``, which lies in the set to rounding.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z.sum(), 0)
    >>> print(f"{square(queries=50).solve(jax.random.key(0), f, jr.sets.linf(0.1)(jnp.ones((4, 4)))).value:.1f}")
    -28.8

    References:
      Andriushchenko, Croce, Flammarion & Hein, Square attack: a query-efficient black-box adversarial attack via random search, ECCV 2020.
      Croce & Hein, Mind the box: l1-APGD for sparse adversarial attacks on image classifiers, ICML 2021 (the L1 form).
    Deviations:
      Places (on Linf also signs) are drawn for each example, not for the batch, and reach the last row and column. The start counts
      as a query. Where an image is too narrow for the square, the window is a band of the same area (the official code cuts it).
      On L1 sets the start is grown to the boundary.
    """
    check_count(queries, "queries", "square")
    if isinstance(p_init, int | float) and not 0 < p_init <= 1:
        raise ValueError(f"square: p_init must lie in (0, 1], got {p_init}")
    choose = bind(
        _for_set,
        p_init,
        queries=queries,
        halvings=_halvings(queries, resc_schedule),
        surrogate=surrogate,
        channels=channels,
        name=f"{name}-{queries}",
    )
    return adaptive("lower", choose, name=f"{name}-{queries}")
