"""The worst of a corruption: its severity and its randomness as parameters that an attack chooses."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._tree import bind
from jrobust.corruptions._base import Corruption
from jrobust.corruptions._blur import moved
from jrobust.corruptions._suites import cifar_c, imagenet_c
from jrobust.corruptions._weather import fogged, landscape, power_of_two
from jrobust.transforms import Transform
from jrobust.typing import Array, Float

_FAR = 3.0  # standard deviations that a chosen normal number may lie away


class _Field(NamedTuple):
    """What a corruption draws, as an array to be chosen.

    Attributes:
      render: ``(field, x, *setting) -> x``.
      shape: of the field, by that of the image.
      reach: entries lie in ``[-reach, reach]``.
      normal: whether the corruption draws them from a normal distribution instead of evenly.
    """

    render: Callable[..., Any]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    reach: float
    normal: bool = False


def _added(field: Any, x: Any, sd: Any) -> Array:
    return jnp.clip(x + sd * field, 0.0, 1.0)


def _speckled(field: Any, x: Any, sd: Any) -> Array:
    return jnp.clip(x + x * sd * field, 0.0, 1.0)


def _foggy(field: Any, x: Any, thickness: Any, decay: Any) -> Array:
    return fogged(x, landscape(field, decay), thickness)


def _moved(field: Any, x: Any, radius: Any, sigma: Any) -> Array:
    return jnp.clip(moved(x, radius, sigma, field), 0.0, 1.0)


_FIELDS = {
    "gaussian_noise": _Field(_added, lambda shape: shape, _FAR, normal=True),
    "speckle_noise": _Field(_speckled, lambda shape: shape, _FAR, normal=True),
    "fog": _Field(_foggy, lambda shape: (power_of_two(max(shape[:2])) ** 2 - 1,), 1.0),
    "motion_blur": _Field(_moved, lambda shape: (), 45.0),
}


def _mixed(x: Any, strength: Any, images: Any) -> Float[Array, "H W C"]:
    """The image at strength 0, at 1, 2, ... those of the severities, between them the mix of both neighbours."""
    stack = jnp.stack([x, *images])
    share = jnp.maximum(1 - jnp.abs(strength - jnp.arange(len(stack))), 0.0).astype(stack.dtype)
    return jnp.tensordot(share, stack, 1, precision="highest")


def _by_draw(corruption: Any, x: Any, strength: Any, draw: Any = 0.0, *, seed: int, draws: int = 1) -> Array:
    number = jnp.clip(jnp.floor(jax.lax.stop_gradient(jnp.asarray(draw))).astype(jnp.int32), 0, draws - 1)
    key = jax.random.fold_in(jax.random.key(seed), number)
    images = [corruption.corrupt(key, x, s) for s in range(1, len(corruption.settings) + 1)]
    return _mixed(x, strength, [jnp.clip(image, 0.0, 1.0) for image in images])


def _by_field(x: Any, strength: Any, field: Any, *, name: str, settings: Any) -> Array:
    return _mixed(x, strength, [_FIELDS[name].render(field, x, *row) for row in settings])


def _first(shape: tuple[int, ...], *, over: str | None, name: str, seed: int) -> tuple[np.ndarray, ...]:
    if over is None:
        return (np.zeros(()),)
    if over == "draw":
        return np.zeros(()), np.zeros(())
    kind, rng = _FIELDS[name], np.random.default_rng(seed)
    # of a field of zeros a first-order attack would learn nothing
    size = kind.shape(shape)
    drawn = rng.normal(size=size) if kind.normal else rng.uniform(-kind.reach, kind.reach, size)
    return np.zeros(()), np.asarray(np.clip(drawn, -kind.reach, kind.reach), np.float32)


def searched(
    corruption: Corruption, *, over: Literal["draw", "values"] | None = "draw", draws: int = 1000, seed: int = 0
) -> Transform:
    """A corruption whose severity and randomness an adversary chooses: a threat by composition. theta: the strength, and what was drawn.

    Strength 0 is the image, 1..5 are the severities, and between two of them lies the mix of their images. ``threat(share)`` allows
    strengths up to that share of the most.

    Args:
      corruption: of a suite or your own.
      over: "draw": the number of the key, in [0, draws); its gradient is 0, so `jr.attacks.sampling`, `grid` and `jr.restarts` choose it.
        "values": the random numbers themselves, for first-order attacks too: of gaussian_noise and speckle_noise a field within 3
        standard deviations, of fog the landscape's draws; and of motion_blur the angle (it moves whole pixels, so its gradient is 0).
        None: the strength alone, with draw 0.
      draws: how many keys there are.
      seed: of the keys, and of the field that attacks start from.

    Returns:
      A `jr.transforms.Transform`; at every share the randomness has its whole range.

    Raises:
      ValueError: ``over="values"`` of a corruption whose values have no such form here.

    Guarantee: what an attack over it finds is a lower bound on the worst case over these draws, attained at the witness.

    >>> import jrobust as jr
    >>> foggy = searched(jr.corruptions.cifar_c["fog"], over="values")
    >>> x, strength, field = foggy.inputs(np.full((1, 8, 8, 3), 0.5, np.float32))
    >>> field.shape, bool((foggy.images(x, strength, field) == x).all())
    ((1, 63), True)

    References:
      Kang, Sun, Hendrycks, Brown & Steinhardt, Testing robustness against unforeseen adversaries, 2019: fog whose landscape is climbed.
    Deviations:
      Strength is searched, where theirs climbs the landscape of one. Parts of a severity are mixes of images, not of settings.
    """
    if not isinstance(corruption, Corruption):
        raise TypeError(f'searched takes a corruption of a suite, such as cifar_c["fog"]; got {corruption!r}')
    check_count(draws, "draws", "searched")
    check_count(seed, "seed", "searched", least=0)
    name, strength = f"{corruption.name}-search", (0.0, float(len(corruption.settings)))
    first: Any = bind(_first, over=over, name=corruption.name, seed=seed)
    if over == "values":
        suites = (imagenet_c, cifar_c)
        if corruption.name not in _FIELDS or all(suite[corruption.name] is not corruption for suite in suites):
            raise ValueError(
                f"searched: over='values' is for {', '.join(_FIELDS)} of imagenet_c and cifar_c; got another {corruption.name} "
                "(over='draw' takes any)"
            )
        reach = _FIELDS[corruption.name].reach
        render: Any = bind(_by_field, name=corruption.name, settings=corruption.settings)
        return Transform(name, render, first, (strength, (-reach, reach)), _channels(corruption), (1,))
    ranges = (strength,) if over is None else (strength, (0.0, float(draws)))
    return Transform(
        name,
        bind(_by_draw, corruption, seed=seed, draws=draws),
        first,
        ranges,
        _channels(corruption),
        (1,)[: len(ranges) - 1],
    )


def _channels(corruption: Corruption) -> int | None:
    """The one number of channels that a corruption takes, where there is one; else it says so itself."""
    return corruption.channels[0] if corruption.channels is not None and len(corruption.channels) == 1 else None
