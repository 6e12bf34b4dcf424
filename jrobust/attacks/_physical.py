"""Attacks that could be printed: the adversarial patch, LaVAN, and RP2, as presets of `universal`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jrobust._objective import Stochastic
from jrobust._tree import bind
from jrobust.attacks import placements
from jrobust.attacks._universal import Universal, check_images, universal
from jrobust.objectives import logit_difference
from jrobust.sets import box, linf
from jrobust.typing import Array


def _grey(x: Any, size: tuple[int, int], clip: tuple[Any, Any], by: str) -> Array:
    """The patch at the start: the middle of the box; raises where it does not fit the images."""
    shape = jnp.shape(x)
    if len(shape) not in (3, 4):
        raise ValueError(f"{by} needs images [N, H, W] or [N, H, W, C], got shape {shape}")
    if len(size) != 2 or not all(isinstance(a, int) and 1 <= a <= b for a, b in zip(size, shape[1:3], strict=True)):
        raise ValueError(
            f"{by}: size is (rows, columns) of the patch, each from 1 to the image's {shape[1:3]}, got {size!r}"
        )
    return jnp.full((*size, *shape[3:]), 0.5 * (clip[0] + clip[1]), jnp.result_type(x))


def patch(
    model: Callable[[Any], Any] | Stochastic,
    x: Any,
    y: Any,
    *,
    size: tuple[int, int],
    key: Any,
    target: Any = None,
    at: tuple[Any, Any] | None = None,
    scale: tuple[Any, Any] = (0.8, 1.2),
    rotation: Any = 22.5,
    contrast: Any = 0.0,
    brightness: Any = 0.0,
    alpha: Any = None,
    clip: tuple[Any, Any] = (0.0, 1.0),
    steps: int = 400,
    batch_size: int = 64,
    draws: int = 1,
    restarts: int = 1,
    step: Any = None,
) -> Universal:
    """The adversarial patch: pasted on any image at a random place, size, angle and light, it makes it the target's class.

    Args:
      model, x, y, key, target, steps, batch_size, draws, restarts, step: as in `universal`; x are images [N, H, W] or [N, H, W, C]. With a
        target the cross-entropy towards it is descended, without one the label's is climbed.
      size: (rows, columns) of the patch, in pixels.
      at, scale, rotation, contrast, brightness, alpha, clip: as in `placements.pasted`; ``alpha=placements.disk(n)`` is a round one.

    Returns:
      A `Universal`; its perturbation is the patch [h, w] or [h, w, C] in the box.

    Guarantee: as `universal`, of the set of all patches of this size.

    >>> import jax, jax.numpy as jnp
    >>> model = lambda x: jnp.stack([x.sum((1, 2)), 8 - x.sum((1, 2))], 1)  # bright or dark
    >>> x, y = jnp.full((4, 4, 4), 0.2), jnp.ones(4, int)
    >>> print(patch(model, x, y, size=(2, 2), key=jax.random.key(0), scale=(1, 1), steps=20).perturbation)
    [[1. 1.]
     [1. 1.]]

    References:
      Brown et al., Adversarial patch, 2017.
    Deviations:
      Steps are signs, within the box; the ranges of size and angle are this library's.
    """
    place = placements.pasted(
        at=at, scale=scale, rotation=rotation, contrast=contrast, brightness=brightness, alpha=alpha, clip=clip
    )
    check_images(x, clip)
    return universal(
        model, x, y, threat=box(*clip), key=key, start=_grey(x, size, clip, "patch"), place=place, target=target, steps=steps,
        batch_size=batch_size, draws=draws, restarts=restarts, step=step,
    )  # fmt: skip


def lavan(
    model: Callable[[Any], Any] | Stochastic,
    x: Any,
    y: Any,
    *,
    size: tuple[int, int],
    at: tuple[Any, Any],
    key: Any,
    target: Any = None,
    clip: tuple[Any, Any] = (0.0, 1.0),
    steps: int = 400,
    batch_size: int = 64,
    restarts: int = 1,
    step: Any = None,
) -> Universal:
    """Localized and visible noise: a patch at one fixed place, off the main object, that climbs the target's logit minus the label's.

    Args:
      model, x, y, key, target, steps, batch_size, restarts, step: as in `universal`; x are images [N, H, W] or [N, H, W, C], one
        is enough. Without a target the largest wrong logit takes its part.
      size, at: (rows, columns) of the patch and (row, column) of its upper left corner, in pixels.
      clip: the box of images.

    Returns:
      A `Universal`; its perturbation is the patch [h, w] or [h, w, C] in the box.

    Guarantee: as `universal`, of the set of all patches of this size at this place.

    >>> import jax, jax.numpy as jnp
    >>> model = lambda x: jnp.stack([x[:, 0, 0], x[:, 3, 3]], 1)
    >>> x, y = jnp.full((2, 4, 4), 0.5), jnp.array([1, 1])
    >>> print(lavan(model, x, y, size=(1, 2), at=(0, 0), key=jax.random.key(0), steps=20).perturbation)  # the second is not looked at
    [[1.  0.5]]

    References:
      Karmon, Zoran & Goldberg, LaVAN: Localized and visible adversarial noise, ICML 2018.
    Deviations:
      The source is the label, not the prediction. Steps are signs.
    """
    check_images(x, clip)
    return universal(
        model, x, y, threat=box(*clip), key=key, start=_grey(x, size, clip, "lavan"), place=placements.pasted(at=at, clip=clip),
        target=target, surrogate=logit_difference, steps=steps, batch_size=batch_size, restarts=restarts, step=step,
    )  # fmt: skip


def _cost(weight: Any, mask: Array, terms: tuple[Any, ...], p: Array) -> Array:
    return weight * jnp.sum(jnp.abs(mask * p)) + sum((term(mask * p) for term in terms), jnp.zeros(()))


def rp2(
    model: Callable[[Any], Any] | Stochastic,
    x: Any,
    y: Any,
    *,
    mask: Any,
    key: Any,
    target: Any = None,
    eps: Any = 1.0,
    weight: Any = 1e-3,
    colours: Any = None,
    printable: Any = 1e-2,
    smooth: Any = 0.0,
    shift: Any = 0.0,
    scale: tuple[Any, Any] = (1.0, 1.0),
    rotation: Any = 0.0,
    contrast: Any = 0.0,
    brightness: Any = 0.0,
    clip: tuple[Any, Any] = (0.0, 1.0),
    steps: int = 400,
    batch_size: int = 64,
    draws: int = 1,
    restarts: int = 1,
    step: Any = None,
) -> Universal:
    """Robust physical perturbations: one masked perturbation of an object in many views, small, printable and smooth.

    Climbs the mean surrogate over examples and views less ``weight * ||mask p||_1 + printable * NPS(mask p) + smooth * TV(mask p)``.

    Args:
      model, x, y, key, target, steps, batch_size, draws, restarts, step: as in `universal`; x are images of the object [N, H, W] or
        [N, H, W, C].
      mask: where the perturbation may be, in [0, 1]; of an image's shape or broadcasting to it.
      eps: the most that an entry may change, one number or one an entry; traced.
      weight, printable, smooth: of the three penalties, >= 0; traced.
      colours: [k, C] that can be printed; None: no printability score.
      shift, scale, rotation, contrast, brightness, clip: of the views, as in `placements.seen`.

    Returns:
      A `Universal`; its perturbation has an image's shape, and is 0 where the mask is.

    Guarantee: as `universal`, of the masked perturbations within eps.

    >>> import jax, jax.numpy as jnp
    >>> model = lambda x: jnp.stack([x.sum((1, 2)), 4 - x.sum((1, 2))], 1)
    >>> x, y, mask = jnp.full((4, 2, 2), 0.4), jnp.ones(4, int), jnp.array([[1.0, 0.0], [0.0, 0.0]])
    >>> print(rp2(model, x, y, mask=mask, key=jax.random.key(0), eps=0.5, steps=20).perturbation)
    [[0.5 0. ]
     [0.  0. ]]

    References:
      Eykholt et al., Robust physical-world attacks on deep learning visual classification, CVPR 2018.
    Deviations:
      Views are made by random transformations of the images given, and the perturbation moves with the whole image. The
      cross-entropy of a fixed set of steps is climbed by signs, within eps; the defaults of the weights are this library's.
    """
    shape, mask = jnp.shape(x), jnp.asarray(mask, jnp.result_type(x))
    if len(shape) not in (3, 4):
        raise ValueError(f"rp2 needs images [N, H, W] or [N, H, W, C], got shape {shape}")
    try:
        mask = jnp.broadcast_to(mask, shape[1:])
    except ValueError:
        raise ValueError(f"rp2: the mask of shape {mask.shape} does not fit images of shape {shape[1:]}") from None
    terms = (placements.variation(smooth),)
    if colours is not None:
        terms += (placements.printability(colours, printable),)
    place = placements.seen(
        placements.masked(mask, clip=clip), shift=shift, scale=scale, rotation=rotation, contrast=contrast,
        brightness=brightness, clip=clip,
    )  # fmt: skip
    check_images(x, clip)
    return universal(
        model, x, y, threat=linf(jnp.where(mask > 0, eps, 0.0)), key=key, place=place, target=target,
        penalty=bind(_cost, weight, mask, terms), steps=steps,
        batch_size=batch_size, draws=draws, restarts=restarts, step=step,
    )  # fmt: skip
