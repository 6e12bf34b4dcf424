"""What is bounded: an `Objective` for one example, and a `Loss` over a batch for training."""

import dataclasses
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._tree import as_pytree, bind
from jrobust.typing import Array, Float, Point


def largest(f: "Objective", outputs: Any) -> Float[Array, ""]:
    """The surrogate that is the objective itself: the largest violation."""
    return jnp.max(f.violation(outputs))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["outputs", "violation", "label", "target", "draws", "key", "reference"],
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
      draws: ``(key, z) -> outputs[n, ...]`` of a random model (`Stochastic`), whose ``outputs`` are the expectation over them.
      key: of the draws that ``outputs`` are made of; `at` takes new ones.
      reference: the outputs at the clean example, while an attack climbs a surrogate that is `anchored`.
    """

    outputs: Callable[[Point], Any]
    violation: Callable[[Any], Float[Array, " m"]]
    surrogate: Callable[["Objective", Any], Float[Array, ""]] = largest
    label: Any = None
    target: Any = None
    draws: Callable[[Any, Point], Any] | None = None
    key: Any = None
    reference: Any = None

    def at(self, key: Any) -> "Objective":
        """With fresh draws of a random model; itself where the model is not random. Oracles call it once a step."""
        if self.draws is None:
            return self
        return dataclasses.replace(self, outputs=bind(_expected, self.draws, key), key=key)

    def climb(
        self, surrogate: Callable[["Objective", Any], Any], z: Point
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """``(surrogate, value)`` at ``z``; of a random model the mean surrogate and the value of the expected outputs."""
        if self.draws is None:
            outputs = self.outputs(z)
            return surrogate(self, outputs), self.value(outputs)
        each = self.draws(self.key, z)
        return jnp.mean(jax.vmap(lambda outputs: surrogate(self, outputs))(each)), self.value(log_mean(each))

    def __call__(self, z: Point) -> Float[Array, " m"]:
        """The violations [m] at ``z``."""
        return self.violation(self.outputs(z))

    def value(self, outputs: Any) -> Float[Array, ""]:
        """The largest violation, the number that a `Bound` bounds; NaN where any entry is NaN."""
        return jnp.max(self.violation(outputs))


def anchored(surrogate: Callable[[Objective, Any], Any]) -> Callable[[Objective, Any], Any]:
    """A surrogate that reads ``f.reference``, the outputs at the clean example, so marked that an attack takes them once, at its start.

    `jr.objectives.kl` is one. Mark it once, outside of loops: each call makes a new function, which compiles anew.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> away = anchored(lambda f, logits: jnp.sum((logits - f.reference) ** 2))
    >>> f = jr.objectives.classification(lambda z: z, 0)
    >>> bound = jr.attacks.pgd(steps=5, surrogate=away).solve(jax.random.key(0), f, jr.sets.l2(1.0)(jnp.array([2.0, 0.0])))
    >>> print(bound.info["forwards"])  # at the example, at each step, and after the last
    7
    """

    @wraps(surrogate)  # the one that was given stays as it is
    def marked(f: Objective, outputs: Any) -> Any:
        return surrogate(f, outputs)

    marked.anchored = True  # pyright: ignore[reportAttributeAccessIssue]
    return marked


def is_anchored(surrogate: Any) -> bool:
    """Whether a surrogate was marked by `anchored`."""
    return getattr(surrogate, "anchored", False)


def log_mean(logits: Float[Array, "n ... K"]) -> Float[Array, "... K"]:
    """The logarithm of the mean probabilities: logits again, of the decision in expectation over the first axis."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(logits.shape[0])


def _expected(draws: Callable[[Any, Point], Any], key: Any, z: Point) -> Any:
    return log_mean(draws(key, z))


@partial(jax.tree_util.register_dataclass, data_fields=["model"], meta_fields=["n"])
@dataclasses.dataclass(frozen=True)
class Stochastic:
    """A random model and how many draws its expectation is taken over: what `stochastic` makes.

    Attributes:
      model: ``model(key, x) -> logits``, a batch for drivers, one example for `classification`.
      n: draws, each with a key of its own.
    """

    model: Callable[[Any, Any], Any]
    n: int

    def draws(self, key: Any, x: Any) -> Any:
        """Its answers [n, ...] to one input."""
        return jax.vmap(lambda k: self.model(k, x))(jax.random.split(key, self.n))


def stochastic(model: Callable[[Any, Any], Any], n: int) -> Stochastic:
    """Wrap a random model: gradient, loss *and* decision are then expectations over ``n`` draws (EOT).

    Args:
      model: ``model(key, x[B, ...]) -> logits[B, K]`` for `evaluate`; for `classification`, of one example, -> [K].
      n: draws an evaluation, >= 1; passes are counted as one each.

    Returns:
      What `evaluate` takes as a model and `classification` as ``logits_fn``. The decision is that of the mean probabilities. Every
      step of an attack takes fresh draws, and the driver confirms a witness on draws that the attack did not see.

    >>> import jax, jax.numpy as jnp
    >>> noisy = stochastic(lambda key, z: jnp.array([1.0, 0.0]) + 0.1 * jax.random.normal(key, (2,)), 50)
    >>> noisy.draws(jax.random.key(0), jnp.zeros(3)).shape
    (50, 2)

    References:
      Athalye et al., Synthesizing robust adversarial examples, ICML 2018.
    """
    check_count(n, "n", "stochastic")
    return Stochastic(as_pytree(model), n)


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
