"""Numbers that change with the step (eps, kappa): traced functions of it, so that training never recompiles."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jrobust._tree import bind
from jrobust.typing import Array, Float

Schedule = Callable[[Any], Any]
"""``schedule(step) -> number``; the step may be traced."""


def _progress(begin: Any, end: Any, step: Any) -> Float[Array, ""]:
    """0 until ``begin``, 1 from ``end`` on, linear between."""
    # end == begin is a jump: nothing before it, everything from it on
    ramp = (jnp.asarray(step, jnp.float32) - begin + (end == begin)) / jnp.maximum(end - begin, 1)
    return jnp.clip(ramp, 0.0, 1.0)


def _linear(first: Any, last: Any, begin: Any, end: Any, step: Any) -> Float[Array, ""]:
    return first + (last - first) * _progress(begin, end, step)


def linear(first: Any, last: Any, *, begin: int = 0, end: int) -> Schedule:
    """``first`` until step ``begin``, ``last`` from step ``end`` on, a straight line between.

    Args:
      first: value before the ramp.
      last: value after it.
      begin: step at which the ramp starts.
      end: step at which it ends, >= begin.

    >>> kappa = linear(1.0, 0.5, begin=100, end=200)
    >>> [float(kappa(t)) for t in (0, 100, 150, 200, 900)]
    [1.0, 1.0, 0.75, 0.5, 0.5]
    """
    _check(begin, end, "linear")
    return bind(_linear, first, last, begin, end)


def _smoothed(last: Any, begin: Any, end: Any, middle: Any, step: Any, *, power: int) -> Float[Array, ""]:
    t = _progress(begin, end, step)
    # last = alpha (middle^power + (1 - middle) power middle^(power - 1)), so that value and slope agree at the middle
    slope = power * middle ** (power - 1)
    alpha = 1.0 / (middle**power + (1.0 - middle) * slope)
    return last * alpha * jnp.where(t < middle, t**power, middle**power + slope * (t - middle))


def smoothed(last: Any, *, begin: int = 0, end: int, middle: int | float = 0.25, power: int = 4) -> Schedule:
    """The eps schedule of certified training: 0 until ``begin``, a power law, then a line of the same slope up to ``last`` at ``end``.

    Args:
      last: value from step ``end`` on.
      begin: step at which the ramp starts.
      end: step at which it ends, >= begin.
      middle: fraction of the ramp at which the power law becomes a line, in (0, 1].
      power: exponent, >= 1.

    References:
      Xu et al. Automatic perturbation analysis for scalable certified robustness and beyond. NeurIPS 2020 (auto_LiRPA).

    >>> eps = smoothed(0.1, begin=100, end=200)
    >>> [round(float(eps(t)), 5) for t in (0, 110, 125, 150, 200, 900)]
    [0.0, 0.0002, 0.00769, 0.03846, 0.1, 0.1]
    """
    _check(begin, end, "smoothed")
    if not 0 < middle <= 1 or power < 1:
        raise ValueError(f"smoothed: middle lies in (0, 1] and power is >= 1, got {middle} and {power}")
    return bind(_smoothed, last, begin, end, middle, power=power)


def _check(begin: int, end: int, name: str) -> None:
    if not 0 <= begin <= end:
        raise ValueError(f"{name}: the ramp runs from begin >= 0 to end >= begin, got begin={begin}, end={end}")
