"""Purification by a diffusion model: noise is added, and taken away again with whatever else is not like the data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._tree import as_pytree, bind
from jrobust.smoothing._diffusion import Predictor, check_callable, check_schedule


def _purify(predict: Any, key: Any, x: Any, *, start: Any, grid: Any) -> Any:
    first, second = jax.random.split(key)
    u = start[0] * (2 * x - 1) + start[1] * jax.random.normal(first, x.shape, x.dtype)

    def back(u: Any, given: Any) -> tuple[Any, None]:
        k, t, beta, level, fresh = given
        eps = predict(u, jnp.full(x.shape[0], t, jnp.int32))
        noise = jax.random.normal(k, x.shape, x.dtype)
        return (1 + beta / 2) * u - beta / level * eps + fresh * noise, None

    t, *rest = (np.asarray(a) for a in zip(*grid, strict=True))
    given = (jax.random.split(second, len(t)), jnp.asarray(t, jnp.int32), *(jnp.asarray(a, x.dtype) for a in rest))
    u, _ = _loops.scan(jax.checkpoint(back), u, given)
    return (u + 1) / 2


def diffpure(predict_noise: Predictor, schedule: Any, *, t_star: int, steps: int | None = None) -> Any:
    """Diffuse an example to step ``t_star``, then run the reverse diffusion back: a random purifier (DiffPure).

    ``x(t*) = sqrt(abar) (2 x - 1) + sqrt(1 - abar) eps``, then Euler's method for ``du = -beta (u / 2 + score) dt + sqrt(beta) dW``
    backwards. As a defence it is ``jr.objectives.eot(classifier, diffpure(...), n)``, which `jr.evaluate` takes: its attacks see the full
    gradient, each step of the purifier computed again in the backward pass. That it may hide its gradient is checked with the same
    defence behind ``jr.objectives.straight_through`` (BPDA): report the smaller accuracy of the two.

    Args:
      predict_noise: as of `one_step`.
      schedule: abar [T], the model's own.
      t_star: where to turn round, 0 <= t_star < T: 99 of 999 is the authors' choice for CIFAR-10.
      steps: of Euler's method, 1..t_star + 1; None takes every step of the schedule.

    Returns:
      ``sampler(key, x[B, ...]) -> x[B, ...]`` in units of [0, 1], not clipped.

    Guarantee: none. It is a defence of experience: attacks that came after it leave less of it than was published.

    Raises:
      ValueError: ``t_star`` or ``steps`` out of range; a schedule that is none.

    References:
      Nie, Guo, Huang, Xiao, Vahdat & Anandkumar, Diffusion models for adversarial purification, ICML 2022. Lee & Kim, Robust evaluation
      of diffusion-based adversarial purification, ICCV 2023 (the full gradient, fewer steps).

    Deviations:
      Steps are those of the discrete schedule, or every so-manieth of them; the last adds no noise. The gradient is that of the steps
      themselves, where the authors solve an adjoint equation.

    >>> from jrobust.smoothing import linear_schedule
    >>> purify = diffpure(lambda u, t: 0 * u, linear_schedule(), t_star=0)
    >>> purify(jax.random.key(0), jnp.ones((2, 3))).shape
    (2, 3)
    """
    check_callable(predict_noise, "predict_noise", "diffpure", "(x_t[B, ...], t[B]) -> noise[B, ...]")
    abar = np.asarray(check_schedule(schedule, "diffpure"))
    check_count(t_star, "t_star", "diffpure", least=0)
    steps = t_star + 1 if steps is None else steps
    check_count(steps, "steps", "diffpure")
    if t_star >= len(abar) or steps > t_star + 1:
        raise ValueError(
            f"diffpure: t_star < {len(abar)}, the length of the schedule, and steps <= t_star + 1; got {t_star} and {steps}"
        )
    at = np.round(np.linspace(t_star, -1, steps + 1)).astype(int)
    here, there = abar[at[:-1]], np.append(abar[at[1:-1]], 1.0)
    beta = 1 - here / there
    fresh = np.where(np.arange(steps) < steps - 1, np.sqrt(beta), 0.0)
    columns = (at[:-1], beta, np.sqrt(1 - here), fresh)
    grid = tuple(zip(*(c.tolist() for c in columns), strict=True))
    start = (float(np.sqrt(here[0])), float(np.sqrt(1 - here[0])))
    return bind(_purify, as_pytree(predict_noise), start=start, grid=grid)
