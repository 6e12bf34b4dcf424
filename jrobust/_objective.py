"""What is bounded: an `Objective` for one example, and a `Loss` over a batch for training."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._tree import as_pytree
from jrobust.typing import Array, Float, Point


def largest(f: "Objective", outputs: Any) -> Float[Array, ""]:
    """The surrogate that is the objective itself: the largest violation."""
    return jnp.max(f.violation(outputs))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["outputs", "violation", "label", "target"],
    meta_fields=["surrogate"],
)
@dataclasses.dataclass(frozen=True)
class Objective:
    """A property of one example: it holds at ``z`` iff every entry of ``violation(outputs(z))`` is < 0 (so NaN and ties do not hold).

    Attributes:
      outputs: ``z -> outputs``, usually logits [K].
      violation: ``outputs -> [m]``.
      surrogate: ``(objective, outputs) -> scalar``, what a gradient attack climbs unless told otherwise.
      label, target: classes, where the objective has them (surrogates such as cross-entropy read them).
    """

    outputs: Callable[[Point], Any]
    violation: Callable[[Any], Float[Array, " m"]]
    surrogate: Callable[["Objective", Any], Float[Array, ""]] = largest
    label: Any = None
    target: Any = None

    def __call__(self, z: Point) -> Float[Array, " m"]:
        """The violations [m] at ``z``."""
        return self.violation(self.outputs(z))

    def value(self, outputs: Any) -> Float[Array, ""]:
        """The largest violation, the number that a `Bound` bounds; NaN where any entry is NaN."""
        return jnp.max(self.violation(outputs))


def objective(fn: Callable[[Point], Float[Array, " m"]]) -> Objective:
    """The objective whose violations are ``fn(z)`` themselves.

    >>> import jax.numpy as jnp
    >>> f = objective(lambda z: jnp.sum(z, keepdims=True) - 1)
    >>> f(jnp.array([0.25, 0.5]))
    Array([-0.25], dtype=float32)
    """
    return Objective(as_pytree(fn), jax.tree_util.Partial(_identity))


def _identity(outputs: Any) -> Any:
    return jnp.atleast_1d(outputs)


@partial(jax.tree_util.register_dataclass, data_fields=["outputs", "reduce"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Loss:
    """A training loss as data, so that an oracle can look inside.

    Attributes:
      outputs: ``outputs(params, rest, x[B, ...], *, train) -> (out[B, K], rest')``; ``rest`` carries BatchNorm statistics and the like.
      reduce: ``reduce(out[B, K], y[B]) -> [B]``; with upper oracles it must not decrease in the margins ``out_j - out_y``.
    """

    outputs: Callable[..., Any]
    reduce: Callable[..., Float[Array, " b"]]

    def __call__(self, params: Any, rest: Any, x: Any, y: Any, *, key: Any = None, train: bool = False) -> Any:
        """The plain loss ([B], rest'), of the shape that `worst_case` returns."""
        del key
        out, rest = self.outputs(params, rest, x, train=train)
        return self.reduce(out, y), rest
