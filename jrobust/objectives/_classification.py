"""Classification objectives for one example, and the surrogates of the attack literature."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jrobust._checks import check_classes
from jrobust._objective import Objective, Stochastic, anchored
from jrobust._tree import as_pytree, bind, is_traced
from jrobust.typing import Array, Float, Int


def _others(y: Any, k: int) -> Int[Array, " m"]:
    """The classes other than ``y``, in increasing order; ``y`` may be traced."""
    j = jnp.arange(k - 1)
    return j + (j >= y)


def margins(logits: Float[Array, " K"], y: Any) -> Float[Array, " K-1"]:
    """``z_j - z_y`` for j != y in increasing j: all negative iff the prediction is y, with no tie.

    >>> import jax.numpy as jnp
    >>> print(margins(jnp.array([1.0, 3.0, 2.0]), 1))
    [-2. -1.]
    """
    return logits[_others(y, logits.shape[0])] - logits[y]


def _untargeted(y: Any, logits: Float[Array, " K"]) -> Float[Array, " K-1"]:
    _check_logits(logits)
    check_classes(y, logits.shape[0])
    return margins(logits, y)


def _targeted(y: Any, target: Any, logits: Float[Array, " K"]) -> Float[Array, " 1"]:
    _check_logits(logits)
    check_classes(y, logits.shape[0])
    check_classes(target, logits.shape[0], "target")
    return -jnp.max(margins(logits, target), keepdims=True)


def _check_logits(logits: Any) -> None:
    if jnp.ndim(logits) != 1 or logits.shape[0] < 2:
        raise ValueError(
            f"a classification objective needs logits of shape [K], K >= 2, for one example; got shape {jnp.shape(logits)} "
            "(over a batch use jax.vmap, or jr.evaluate)"
        )


def classification(logits_fn: Callable[[Any], Any] | Stochastic, y: Any, *, target: Any = None) -> Objective:
    """The property "``z`` is classified as ``y``" (with a target: "``z`` is not classified as ``target``").

    Violations are the margins ``z_j - z_y`` [K-1], j != y in increasing j; with a target the one number
    ``z_t - max_{j != t} z_j``. NaN and ties do not hold.

    Args:
      logits_fn: one example -> logits [K]. If it is a pytree (``jax.tree_util.Partial``), its arrays are leaves. A random one:
        ``stochastic(logits_fn, n)``.
      y: the label, an int in [0, K) (may be traced).
      target: the class that a targeted attack wants, != y.

    Returns:
      An `Objective` with `ce` as surrogate.

    Raises:
      ValueError: ``target`` is ``y``; where the objective meets the logits: a class out of range, logits that are not [K].

    >>> import jax.numpy as jnp
    >>> f = classification(lambda z: jnp.array([1.0, 2.0, 0.5]) * z, 1)
    >>> print(f(1.0))
    [-1.  -1.5]
    """
    if target is not None and not is_traced(y, target) and np.any(np.asarray(y) == np.asarray(target)):
        raise ValueError(f"classification: the target must be another class than the label, both are {target}")
    violation = bind(_untargeted, y) if target is None else bind(_targeted, y, target)
    if isinstance(logits_fn, Stochastic):
        random = Objective(bind(jnp.zeros, 0), violation, ce, y, target, draws=bind(Stochastic.draws, logits_fn))
        return random.at(jax.random.key(0))
    return Objective(as_pytree(logits_fn), violation, ce, y, target)


def with_label(f: Objective, by: str) -> Any:
    """The objective's label; raises where it has none."""
    if f.label is None:
        raise TypeError(
            f"{by} needs an objective with a label; make it with jr.objectives.classification(logits_fn, y)"
        )
    return f.label


def ce(f: Objective, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """Cross-entropy: of the label (climbing leaves it), or minus that of the target (climbing enters it)."""
    _check_logits(logits)
    if f.target is not None:
        return -optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(f.target))
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(with_label(f, "ce")))


def largest_logits(logits: Float[Array, " K"], n: int) -> Float[Array, " n"]:
    """The ``n`` largest in falling order, by as many maxima: `jax.lax.top_k` sorts, which on CPU costs a third of a gradient step."""
    left, at = jax.lax.stop_gradient(logits), []
    for _ in range(n):
        at.append(jnp.argmax(left))
        left = jnp.where(jnp.arange(logits.shape[0]) == at[-1], -jnp.inf, left)
    return logits[jnp.stack(at)]


def dlr(f: Objective, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """The difference-of-logits ratio, invariant to shift and scale of the logits (targeted where there is a target).

    ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))``; targeted ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)``.

    Raises:
      ValueError: fewer than 4 classes, where the ratio is not defined (its targeted form needs 4).

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML 2020.
    """
    _check_logits(logits)
    y = with_label(f, "dlr")
    k = logits.shape[0]
    if k < 4:
        raise ValueError(
            f"the DLR surrogate needs at least 4 classes, the model has {k}; use surrogate=jr.objectives.largest (the margin)"
        )
    top = largest_logits(logits, 4)
    if f.target is None:
        return jnp.max(margins(logits, y)) / (top[0] - top[2] + 1e-12)
    return (logits[f.target] - logits[y]) / (top[0] - 0.5 * (top[2] + top[3]) + 1e-12)


def logit_difference(f: Objective, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """``z_t - z_y`` for a targeted objective, ``max_{j != y} z_j - z_y`` (the margin) for an untargeted one."""
    _check_logits(logits)
    y = with_label(f, "logit_difference")
    return jnp.max(margins(logits, y)) if f.target is None else logits[f.target] - logits[y]


def divergence(clean: Float[Array, "*b K"], logits: Float[Array, "*b K"]) -> Float[Array, "*b"]:
    """``KL(p(clean) || p(logits))`` along the last axis."""
    reference = jax.nn.log_softmax(clean)
    return jnp.sum(jnp.exp(reference) * (reference - jax.nn.log_softmax(logits)), axis=-1)


@anchored
def kl(f: Objective, logits: Float[Array, " K"]) -> Float[Array, ""]:
    """``KL(p(x) || p(z))`` from the probabilities at the clean example, the inner loss of TRADES; labels do not matter.

    At the clean example itself it is 0 with gradient 0: an attack has to start elsewhere (``start="random"``).

    Raises:
      TypeError: an attack that does not take the outputs at the clean example.

    References:
      Zhang et al., Theoretically principled trade-off between robustness and accuracy, ICML 2019.
    """
    _check_logits(logits)
    with_label(f, "kl")  # of a classifier, not of a batch of losses
    if f.reference is None:
        raise TypeError(
            "kl compares with the outputs at the clean example, which this attack does not take; pgd, rfgsm, apgd, square, nes, spsa, "
            "bandits, simba, sparse_rs and one_pixel do"
        )
    return divergence(f.reference, logits)
