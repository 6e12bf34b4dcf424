"""`Transform`: what may change in an image as numbers in boxes, so that every attack and driver works on it as it is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._tree import as_pytree, bind
from jrobust.objectives import through
from jrobust.sets import Threat, box, point, product
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
    """

    name: str
    render: Callable[..., Any]
    identity: Callable[[Shape], tuple[np.ndarray, ...]]
    ranges: tuple[tuple[Any, Any], ...]
    channels: int | None = None

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
        boxes = (box(lo, hi) for lo, hi in self.ranges)
        threat = product(point(clip=(0.0, 1.0)), *boxes).family(check_eps(share, self.name))
        return dataclasses.replace(threat, name=self.name)

    def images(self, x: Any, *theta: Any) -> Float[Array, "N H W C"]:
        """A batch rendered: what the witness of an attack looks like."""
        return jax.vmap(self.render)(x, *theta)


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
    return Transform(
        name or "+".join(t.name for t in transforms),
        bind(_in_turn, tuple(as_pytree(t.render) for t in transforms), counts=tuple(len(t.ranges) for t in transforms)),
        lambda shape: tuple(theta for t in transforms for theta in t.identity(shape)),
        tuple(ends for t in transforms for ends in t.ranges),
        channels.pop() if channels else None,
    )


def unchanged(at_identity: Any, image: Array, rendered: Array) -> Array:
    """``rendered``, where the parameters are the identity's with the bits of ``image``; the gradient is always that of ``rendered``."""
    same = jax.lax.stop_gradient(image) + (rendered - jax.lax.stop_gradient(rendered))
    return jnp.where(at_identity, same, rendered)
