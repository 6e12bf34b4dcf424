"""Certified training from a short warm-up: bounds that stay tight and ReLUs that stay balanced while eps grows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Loss
from jrobust._oracle import Oracle, require
from jrobust._transforms import Crafting, at_bounds
from jrobust.bounds import ibp, inside
from jrobust.sets import Threat
from jrobust.training._schedules import Schedule
from jrobust.training._step import Scheduled
from jrobust.typing import Array, Float


def _ball(interval: Any) -> tuple[Array, Array, Array]:
    """Centre, radius, and whether all of it is finite; 0 where it is not, so that no gradient is NaN."""
    finite = jnp.all(jnp.isfinite(interval[0]) & jnp.isfinite(interval[1]))
    lo, hi = (jnp.where(finite, end, 0.0) for end in interval)
    return 0.5 * (lo + hi), 0.5 * (hi - lo), finite


def _over(a: Array, b: Array) -> Array:
    """``a / b``, 0 where b is too small to divide by, its gradient too."""
    return jnp.where(b > 1e-12, a / jnp.where(b > 1e-12, b, 1.0), 0.0)


def tightness(inputs: Sequence[Any], relus: Sequence[Any], tau: Any = 0.5) -> Float[Array, ""]:
    """``mean_i relu(tau - r_0 / r_i) / tau`` with r_0 the mean radius of the input and r_i that of what enters ReLU i.

    Args:
      inputs, relus: intervals ``(lo, hi)``, of a batch too.
      tau: above this ratio the bounds count as tight.

    >>> print(tightness([(jnp.zeros(2), jnp.ones(2))], [(jnp.zeros(2), 4 * jnp.ones(2))]))  # (0.5 - 0.25) / 0.5
    0.5
    """
    radii = [_ball(v)[1] for v in inputs]
    first = jnp.mean(jnp.concatenate([jnp.ravel(r) for r in radii]))
    lost = []
    for _, radius, finite in map(_ball, relus):
        lost.append(jnp.where(finite, jax.nn.relu(tau - _over(first, jnp.mean(radius))) / tau, 0.0))
    return jnp.mean(jnp.stack(lost))


def balance(relus: Sequence[Any], tau: Any = 0.5) -> Float[Array, ""]:
    """``mean_i [relu(tau - min(a, 1/a)) + relu(tau - min(v, 1/v))] / tau``: neurons that are always on against those that are always off.

    Over the centres c of what enters ReLU i, ``a = sum_{lo > 0} c / -sum_{hi < 0} c`` and ``v`` the ratio of their sums of
    ``(c - mean c)^2``. A ReLU with a bound or a ratio that is not finite (no neuron always off) counts 0.

    Args:
      relus, tau: as of `tightness`.

    >>> on, off = (1 + jnp.arange(2.0), 3 + jnp.arange(2.0)), (-jnp.arange(2.0) - 3, -jnp.arange(2.0) - 1)
    >>> print(balance([[jnp.concatenate(ends) for ends in zip(on, off)]]))
    0.0
    """
    lost = []
    for interval in relus:
        centre, _, finite = _ball(interval)
        on, off = interval[0] > 0, interval[1] < 0
        sizes, squares = jnp.abs(centre), (centre - jnp.mean(centre)) ** 2
        both = [[jnp.sum(jnp.where(side, v, 0.0)) for side in (on, off)] for v in (sizes, squares)]
        each = [jax.nn.relu(tau - jnp.minimum(_over(a, b), _over(b, a))) / tau for a, b in both]
        lost.append(jnp.where(finite & (both[0][1] > 0) & (both[1][1] > 0), each[0] + each[1], 0.0))
    return jnp.mean(jnp.stack(lost))


def shi(
    loss: Loss,
    threat: Threat,
    *,
    eps: Schedule,
    kappa: Schedule | int | float = 0.0,
    weight: Any = 0.5,
    tau: Any = 0.5,
    bound: Oracle | None = None,
    crafting: Crafting = "batch",
) -> Scheduled:
    """Certified training with a short warm-up: `certified` plus ``weight (1 - eps / eps_max) (tightness + balance)``.

    With it go `jr.models.ibp_init` and BatchNorm before every ReLU (the model ``cnn-7``).

    Args:
      loss: a `jr.Loss`.
      threat: the perturbations at their full size: its eps is eps_max.
      eps: step -> eps, as `smoothed` makes it; ``threat.family(eps(step))`` is bounded.
      kappa: weight of the clean loss beside the bound's, as of `certified`; 0 in the paper.
      weight, tau: of the regularisers, published.
      bound: a method that shows what is `jr.bounds.inside`, or such a one on small boxes (`jr.shrink`); IBP by default.
      crafting: which statistics of BatchNorm the bound sees: the batch's own, as published, or the running ones ("inference").

    Returns:
      A scheduled loss for `make_step`. The regularisers speak of the batch: their value is added to every example's loss.

    Raises:
      ValueError: a lower oracle; at trace time, a bound that does not show its inside, a net without ReLU.

    References:
      Shi et al., Fast certified robust training with short warmup, NeurIPS 2021.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (jax.nn.relu(x @ p), rest))
    >>> robust = shi(loss, jr.sets.linf(0.1, clip=(0, 1)), eps=jr.training.smoothed(0.1, end=1000))
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> bool(robust.build(0)(*args, **how)[0][0] > robust.build(1000)(*args, **how)[0][0] - 0.2)
    True
    """
    bound = inside(ibp()) if bound is None else bound
    require(("upper", "estimate"), bound, by="shi")

    def build(step: Any) -> Callable[..., Any]:
        now, clean_weight = eps(step), kappa(step) if callable(kappa) else kappa
        robust = at_bounds(loss, threat.family(now), bound, crafting=crafting)

        def both(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
            found, after = robust.bound(params, rest, x, y, key=key, train=train)
            if "inside" not in found.info:
                raise ValueError(
                    f"shi: {bound.name} does not show its intervals; give jr.bounds.inside(jr.bounds.ibp())"
                )
            inputs, relus = found.info["inside"]
            if not relus:
                raise ValueError(
                    "shi: the model has no ReLU, so there is nothing to balance; use jr.training.certified"
                )
            share = weight * jnp.clip(1.0 - now / threat.eps, 0.0, 1.0)
            lift = share * (tightness(inputs, relus, tau) + balance(relus, tau))
            losses = robust.at(found, y)
            if callable(kappa) or kappa:
                losses = clean_weight * loss(params, rest, x, y, train=train)[0] + (1.0 - clean_weight) * losses
            return losses + lift, after

        return both

    return Scheduled(build)
