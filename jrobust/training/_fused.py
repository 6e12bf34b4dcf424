"""Certified training by one walk back an example instead of one a class: loss fusion."""

from collections.abc import Callable
from typing import Any

import jax

from jrobust._objective import Loss, Objective
from jrobust._oracle import Bound, Oracle, require
from jrobust._transforms import Crafting, at_bounds
from jrobust._tree import bind
from jrobust.bounds import crown_ibp
from jrobust.bounds._fused import fusing, log_sum_exp
from jrobust.sets import Threat
from jrobust.training._losses import blend
from jrobust.training._schedules import Schedule
from jrobust.training._step import Scheduled


def _solve(method: Oracle, key: Any, f: Objective, s: Any) -> Bound:
    """``log sum_j exp(margin_j)`` of a classification."""
    del key
    return Bound(log_sum_exp(f, s, method), None, {})


def fused(
    loss: Loss,
    threat: Threat,
    bound: Oracle | None = None,
    *,
    eps: Schedule | None = None,
    kappa: Schedule | int | float = 0.0,
    crafting: Crafting = "inference",
) -> Scheduled:
    """Certified training with the loss fused into the bound: ``kappa * clean + (1 - kappa) * log(1 + S)``.

    S is an upper bound of ``sum_{j != y} exp(z_j - z_y)`` over the set, found as one quantity: an exponential lies below its chord
    between the ends that IBP gives the margin, so one walk back serves where `certified` by `jr.bounds.crown_ibp` takes one a class.

    Args:
      loss: a `jr.Loss` of logits; the bounded part is their cross-entropy whatever it reduces them by.
      threat: the perturbations; its own eps is used where ``eps`` is None.
      bound: `jr.bounds.crown_ibp` (by default), `ibp`, `crown` or `alpha_crown`.
      eps, kappa: as of `certified`.
      crafting: which statistics of BatchNorm the bound sees, as of `jr.worst_case`.

    Returns:
      A scheduled loss for `make_step`.

    Raises:
      ValueError: a lower oracle; an unknown ``crafting``.
      TypeError: an upper oracle that is none of these.

    Guarantee: the bounded part is an upper bound of the cross-entropy at every point of the set, in exact arithmetic, of the model in
      inference mode, never above that of `certified` by `jr.bounds.ibp`. Beside that by `jr.bounds.crown_ibp` it may lie on either side:
      a chord is coarser than a margin's own bound, but the worst points of all margins need not be one point.

    References:
      Xu et al., Automatic perturbation analysis for scalable certified robustness and beyond, NeurIPS 2020.

    Deviations: the chords stand between the margins' ends by IBP with the last layer elided, not those of the single logits.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> print(fused(loss, jr.sets.linf(0.5)).build(0)(*args, **how)[0])  # of two classes there is one margin, at most -1 + 2 * 0.5
    [0.6931472 0.6931472]
    """
    method = crown_ibp() if bound is None else bound
    require(("upper",), method, by="fused")
    fusing(method)
    oracle = Oracle("upper", bind(_solve, method), host=method.host, name=f"fused({method.name})")
    at_bounds(loss, threat, oracle, crafting=crafting)  # refuses what cannot serve

    def build(step: Any) -> Callable[..., Any]:
        weight = kappa(step) if callable(kappa) else kappa
        robust = at_bounds(loss, threat if eps is None else threat.family(eps(step)), oracle, crafting=crafting)

        def bounded(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
            found, after = robust.bound(params, rest, x, y, key=key, train=train)
            return jax.nn.softplus(found.value), after

        return blend((weight, loss), (1.0 - weight, bounded))

    return Scheduled(build)
