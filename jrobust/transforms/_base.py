"""`Transform`: what may change in an image as numbers in boxes, so that every attack and driver works on it as it is."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._tree import as_pytree, bind
from jrobust.objectives import through
from jrobust.sets import Set, Threat, box, point, product
from jrobust.sets._base import check_eps
from jrobust.typing import Array, Float

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A rendering of images by parameters, and the box that they come from: a threat by composition, not a set of its own.

    Attributes:
      name: for tables.
      render: ``(image[H, W, C], *theta) -> image``, of one image in [0, 1], differentiable.
      identity: ``shape of an image -> theta`` at which ``render`` gives the image itself, to the bit; a tuple of arrays.
      ranges: ``(lo, hi)`` of each entry of theta, as `jr.sets.box` takes them.
      channels: that an image must have, or None.
      free: which entries of theta have their whole range at every share: those that are no amount, such as an order.
    """

    name: str
    render: Callable[..., Any]
    identity: Callable[[Shape], tuple[np.ndarray, ...]]
    ranges: tuple[tuple[Any, Any], ...]
    channels: int | None = None
    free: tuple[int, ...] = ()

    def model(self, model: Any) -> Any:
        """The model of ``(x, *theta)`` that sees the rendered images; see `jr.objectives.through`."""
        return through(model, self.render)

    def inputs(self, x: Any) -> tuple[Any, ...]:
        """The batch ``(x[N, H, W, C], *theta[N, ...])`` that changes nothing: what an attack starts from.

        Raises:
          ValueError: no images, or not of the channels that the transform needs.
        """
        shape = np.shape(x)
        if len(shape) != 4:
            raise ValueError(f"{self.name} takes images [N, H, W, C], got shape {shape}")
        if self.channels is not None and shape[3] != self.channels:
            raise ValueError(f"{self.name} takes images of {self.channels} channels (RGB), got {shape[3]}")
        theta = self.identity(shape[1:])
        return (x, *(np.broadcast_to(np.asarray(t, np.float32), (shape[0], *np.shape(t))) for t in theta))

    def threat(self, share: Any = 1.0) -> Threat:
        """The product of the image alone and the boxes of theta; its eps is the share of every range, about the identity.

        Args:
          share: in [0, 1] of the ranges; traced, or one an example.
        """
        boxes = (_whole(lo, hi) if i in self.free else box(lo, hi) for i, (lo, hi) in enumerate(self.ranges))
        threat = product(point(clip=(0.0, 1.0)), *boxes).family(check_eps(share, self.name))
        return dataclasses.replace(threat, name=self.name)

    def images(self, x: Any, *theta: Any) -> Float[Array, "N H W C"]:
        """A batch rendered: what the witness of an attack looks like."""
        return jax.vmap(self.render)(x, *theta)


def _build_whole(eps: Any, ends: tuple[Any, Any], x: Any) -> Set:
    del eps
    return box(*ends)(x)


def _whole(lo: Any, hi: Any) -> Threat:
    """The box, whatever its eps."""
    return dataclasses.replace(box(lo, hi), build=_build_whole)


def _in_turn(renders: tuple[Any, ...], image: Any, *theta: Any, counts: tuple[int, ...]) -> Any:
    for render, count in zip(renders, counts, strict=True):
        image, theta = render(image, *theta[:count]), theta[count:]
    return image


def chain(*transforms: Transform, name: str | None = None) -> Transform:
    """One transform after another, the first one on the image itself; the ranges of all at once.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> both = chain(jr.transforms.brightness(), jr.transforms.contrast())
    >>> print(np.asarray(both.render(jnp.full((1, 1, 1), 0.5), 0.1, 1.2).ravel()).round(3))  # (0.5 + 0.1) * 1.2
    [0.72]
    """
    if not transforms or not all(isinstance(t, Transform) for t in transforms):
        given = ", ".join(type(t).__name__ for t in transforms) or "none"
        raise TypeError(f"chain takes transforms: chain(rotation(), brightness()); got {given}")
    channels = {t.channels for t in transforms if t.channels is not None}
    firsts = np.cumsum([0] + [len(t.ranges) for t in transforms]).tolist()
    return Transform(
        name or "+".join(t.name for t in transforms),
        bind(_in_turn, tuple(as_pytree(t.render) for t in transforms), counts=tuple(len(t.ranges) for t in transforms)),
        lambda shape: tuple(theta for t in transforms for theta in t.identity(shape)),
        tuple(ends for t in transforms for ends in t.ranges),
        channels.pop() if channels else None,
        tuple(first + i for t, first in zip(transforms, firsts, strict=False) for i in t.free),
    )


def _in_order(renders: tuple[Any, ...], image: Any, order: Any, *theta: Any, counts: tuple[int, ...]) -> Any:
    orders = np.array(list(itertools.permutations(range(len(counts)))))
    turns = jnp.asarray(orders)[jnp.clip(jnp.floor(order), 0, len(orders) - 1).astype(jnp.int32)]
    ends = np.cumsum(counts)
    steps = [
        lambda z, render=render, own=theta[end - count : end]: render(z, *own)
        for render, count, end in zip(renders, counts, ends, strict=True)
    ]
    # a loop: written out, a program would hold each of them once a turn
    return _loops.scan(lambda z, turn: (jax.lax.switch(turn, steps, z), None), image, turns)[0]


def any_order(*transforms: Transform, name: str | None = None) -> Transform:
    """Some transforms one after another in any order: theta begins with the number of the order, 0 is the one given.

    Orders are numbered as ``itertools.permutations`` does; parts of a number are dropped. An attack that climbs keeps the order that it
    started from (its gradient is 0): `jr.restarts` and `jr.attacks.sampling` draw others, `jr.attacks.each` tries all.

    Args:
      *transforms: 2 to 6 of them.
      name: for tables.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> t = any_order(jr.transforms.brightness(), jr.transforms.contrast())
    >>> image = jnp.full((1, 1, 1), 0.5)
    >>> print([f"{t.render(image, order, 0.1, 1.2).item():.2f}" for order in (0.0, 1.0)])  # (0.5 + 0.1) * 1.2, 0.5 * 1.2 + 0.1
    ['0.72', '0.70']
    """
    if not 2 <= len(transforms) <= 6:
        raise ValueError(f"any_order takes 2 to 6 transforms, got {len(transforms)}")
    fixed = chain(*transforms)
    render = bind(_in_order, *fixed.render.data, counts=tuple(len(t.ranges) for t in transforms))
    return Transform(
        name or f"any-order({fixed.name})",
        render,
        lambda shape: (np.zeros(()), *fixed.identity(shape)),
        ((0.0, float(math.factorial(len(transforms)))), *fixed.ranges),
        fixed.channels,
        (0, *(1 + i for i in fixed.free)),
    )


def unchanged(at_identity: Any, image: Array, rendered: Array) -> Array:
    """``rendered``, where the parameters are the identity's with the bits of ``image``; the gradient is always that of ``rendered``."""
    same = jax.lax.stop_gradient(image) + (rendered - jax.lax.stop_gradient(rendered))
    return jnp.where(at_identity, same, rendered)
