"""Robust losses put together from others: weighted sums, and the certified training of Gowal et al."""

from collections.abc import Callable
from typing import Any

import jax

from jrobust._objective import Loss
from jrobust._oracle import Oracle, require
from jrobust._transforms import worst_case
from jrobust._tree import bind
from jrobust.sets import Threat
from jrobust.training._schedules import Schedule
from jrobust.training._step import Scheduled


def blend(*parts: tuple[Any, Callable[..., Any]]) -> Callable[..., Any]:
    """The weighted sum of losses, a loss again.

    Args:
      *parts: ``(weight, loss)`` pairs; weights may be traced. Each loss gets its own key. ``rest'`` is that of the **first**
        loss, so put first the one whose batch should update the BatchNorm statistics.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> clean = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = jr.worst_case(clean, jr.sets.linf(0.5), jr.attacks.fgsm())
    >>> args = jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> losses, _ = blend((0.5, clean), (0.5, robust))(*args, key=jax.random.key(0), train=True)
    >>> round(float(losses[0]), 4)  # (log(1 + 1/e) + log 2) / 2
    0.5032
    """
    if not parts:
        raise ValueError("blend takes at least one (weight, loss)")

    def loss(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        keys = jax.random.split(key, len(parts))
        values = [part(params, rest, x, y, key=k, train=train) for k, (_, part) in zip(keys, parts, strict=True)]
        total = sum(weight * losses for (weight, _), (losses, _) in zip(parts, values, strict=True))
        return total, values[0][1]

    return loss


def _times(outputs: Any, scale: Any, params: Any, rest: Any, x: Any, *, train: bool) -> Any:
    out, rest = outputs(params, rest, x, train=train)
    return scale * out, rest


def sharpened(loss: Loss, scale: Any) -> Loss:
    """The loss of the logits times ``scale``: of a net that cannot stretch they differ by little, and its softmax stays flat.

    Args:
      loss: a `jr.Loss`.
      scale: > 0, traced; 10, say, for `jr.models.lipschitz_mlp`. The net itself and its certificates stay as they are.

    Returns:
      A `jr.Loss`, for any method of training.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> losses, _ = sharpened(loss, 10.0)(jnp.eye(2), None, jnp.array([[0.1, 0.0]]), jnp.array([0]))
    >>> round(float(losses[0]), 4)  # log(1 + 1/e)
    0.3133
    """
    return Loss(bind(_times, loss.outputs, scale), loss.reduce)


def certified(
    loss: Loss, threat: Threat, bound: Oracle, *, eps: Schedule | None = None, kappa: Schedule | int | float = 0.0
) -> Scheduled:
    """Certified training: ``kappa * clean + (1 - kappa) * worst case as the bound sees it``, eps and kappa by schedule.

    Args:
      loss: a `jr.Loss`.
      threat: the perturbations; its own eps is used where ``eps`` is None.
      bound: an upper oracle such as ``jr.bounds.ibp()``, or an estimate (`jr.mix`, `jr.shrink`).
      eps: step -> eps, as `smoothed` makes it (then ``threat.family(eps(step))`` is bounded).
      kappa: weight of the clean loss in [0, 1], a number or step -> number.

    Returns:
      A scheduled loss for `make_step`.

    Raises:
      ValueError: a lower oracle: the same line with an attack is ``jr.worst_case``.

    References:
      Gowal et al. Scalable verified training for provably robust image classification. ICCV 2019.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> eps, kappa = jr.training.smoothed(0.1, end=1000), jr.training.linear(1.0, 0.5, end=1000)
    >>> robust = certified(loss, jr.sets.linf(0.1, clip=(0, 1)), jr.bounds.ibp(), eps=eps, kappa=kappa)
    """
    require(("upper", "estimate"), bound, by="certified")

    def build(step: Any) -> Callable[..., Any]:
        weight = kappa(step) if callable(kappa) else kappa
        robust = worst_case(loss, threat if eps is None else threat.family(eps(step)), bound)
        return blend((weight, loss), (1.0 - weight, robust))

    return Scheduled(build)
