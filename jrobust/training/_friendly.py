"""Friendly adversarial training: an attack that stops soon after it succeeds, so that a model is not asked for more than it can give."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jrobust._iterate import Algorithm, Iteration, iterate, violated
from jrobust._objective import Loss, Objective
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, at_witnesses
from jrobust._tree import bind, where
from jrobust.attacks._gradient import AscentState
from jrobust.objectives import classification, kl
from jrobust.sets import Threat
from jrobust.training._paired import inner, near, trades


class Friendly(NamedTuple):
    """The ascent, and how many more steps it may take at points that are misclassified."""

    ascent: AscentState
    left: Any


def _judged(f: Objective) -> Objective:
    """The same thing to climb, judged by whether the label is left: the violation of a loss is the loss, which never says so."""
    margins = classification(f.outputs, f.label)
    climbed = lambda _, outputs: f.surrogate(f, outputs)  # noqa: E731
    return Objective(f.outputs, margins.violation, climbed, label=f.label, reference=f.reference)


def _init(algorithm: Algorithm, tau: Any, key: Any, f: Objective, s: Any) -> Friendly:
    ascent = algorithm.init(key, f, s)
    if not isinstance(ascent, AscentState):
        raise TypeError(
            "friendly takes an ascent, jr.attacks.pgd; another attack does not say where it stood before a step"
        )
    return Friendly(ascent, jnp.asarray(tau, jnp.float32))


def _step(algorithm: Algorithm, key: Any, state: Friendly, f: Objective, s: Any) -> Friendly:
    further = algorithm.step(key, state.ascent, _judged(f), s)
    wrong = violated(further.last)  # where the step began
    return Friendly(where(wrong & (state.left <= 0), state.ascent, further), state.left - wrong)


def _best(algorithm: Algorithm, state: Friendly, f: Objective, s: Any) -> Any:
    return algorithm.best(state.ascent, f, s)


def friendly(attack: Oracle, tau: Any) -> Oracle:
    """PGD that takes ``tau`` steps from misclassified points and then stays, example by example: the least, not the most, adversarial.

    Args:
      attack: `jr.attacks.pgd` with ``keep="last"``, without early stop.
      tau: steps after the label was left, >= 0; traced, so that a schedule may raise it. 0 stays at the first point that is misclassified.

    Returns:
      An `Oracle` of side "lower". All steps are computed, the last ones without effect: a batch takes as long as its slowest example.

    Raises:
      TypeError: another attack.
      ValueError: a concrete ``tau`` below 0.

    Guarantee: a lower bound, attained at ``witness``, which lies in the set to rounding.

    References:
      Zhang et al., Attacks which do not kill training make adversarial learning stronger, ICML 2020.

    >>> import jax, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> attack = friendly(jr.attacks.pgd(steps=10, step=0.1, start="center", keep="last"), 0)
    >>> x, y = jnp.array([[0.35, 0.0]]), jnp.array([0])
    >>> z = jr.worst_case(loss, jr.sets.linf(0.5), attack).craft(jnp.eye(2), None, x, y, key=jax.random.key(0))
    >>> print(f"{z[0, 0]:.2f} {z[0, 1]:.2f}")  # two steps of ten: the label is left
    0.15 0.20
    """
    if len(attack.stages) != 1 or not isinstance(attack.stages[0], Iteration):
        raise TypeError(f"friendly takes jr.attacks.pgd, got {attack.name}")
    if isinstance(tau, int | float) and tau < 0:
        raise ValueError(f"friendly: tau is >= 0, got {tau}")
    base = attack.stages[0]
    if base.until is not None:
        raise ValueError(f"friendly stops {attack.name} by itself; give it without early stop")
    a = base.algorithm
    steps = Algorithm(bind(_init, a, tau), bind(_step, a), bind(_best, a), anchored=a.anchored)
    return iterate(steps, base.steps, name=f"friendly({attack.name})")


def fat(loss: Loss, threat: Threat, *, tau: Any = 1, beta: Any = None, attack: Oracle | int = 10) -> AtWitnesses:
    """Friendly adversarial training: the loss, or TRADES, at the witnesses of a `friendly` attack.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      tau: steps after the label was left. The authors raise it from 0 over 1 to 2:
        ``scheduled(lambda t: fat(loss, threat, tau=1 * (t > first) + 1 * (t > second)))``, for them after 50 and 90 of 120 epochs.
      beta: weight of the divergence of FAT-TRADES (published: 6); None is FAT for the loss itself.
      attack: PGD with ``keep="last"``, or how many steps of it; it crafts in inference mode.

    References:
      Zhang et al., Attacks which do not kill training make adversarial learning stronger, ICML 2020.

    Deviations: no noise is added when a point is misclassified.

    >>> import jax, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, 0.2 * jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> gentle, full = fat(loss, jr.sets.linf(0.5), tau=0), jr.worst_case(loss, jr.sets.linf(0.5), jr.attacks.pgd(steps=10))
    >>> bool(jnp.all(gentle(*args, **how)[0] < full(*args, **how)[0]))
    True
    """
    ascent = inner(attack, "random") if beta is None else inner(attack, near, kl)
    if beta is None:
        return at_witnesses(loss, threat, friendly(ascent, tau))
    return trades(loss, threat, beta=beta, attack=friendly(ascent, tau))
