"""A class-conditional diffusion model as a classifier, by which class explains the example best; also of noisy examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._tree import as_pytree, bind
from jrobust.smoothing._diffusion import Predictor, check_callable, check_schedule, timestep

FURTHEST = 10.0  # noise on data in [-1, 1], beyond which a level tells no class from another


def _evidence(predict: Any, key: Any, x: Any, *, classes: int, grid: Any) -> Any:
    u, n = 2 * x - 1, x.shape[0]
    y = jnp.repeat(jnp.arange(classes), n)

    def add(total: Any, given: Any) -> tuple[Any, None]:
        k, sign, t, v, gap, weight = given
        # of all classes and all examples, so that an answer is no matter of the batch
        eps = sign * jax.random.normal(k, x.shape[1:], x.dtype)[None]
        z = u + jnp.sqrt(gap) * eps
        z_t = jnp.tile(z / jnp.sqrt(1 + v), (classes, *(1 for _ in x.shape[1:])))
        found = predict(z_t, jnp.full(classes * n, t, jnp.int32), y).reshape(classes, *x.shape)
        # the score of the class's model at z, against that of z given the example: -eps_theta / s and -eps / sqrt(s^2 - s_tau^2)
        away = (found / jnp.sqrt(v) - eps / jnp.sqrt(gap)).reshape(classes, n, -1)
        return total - weight / 4 * jnp.sum(away**2, -1).T, None

    t, *rest = (np.asarray(a) for a in zip(*grid, strict=True))
    t, *rest = (np.repeat(a, 2) for a in (t, *rest))  # each level twice, with one noise and its opposite
    keys = jnp.repeat(jax.random.split(key, len(t) // 2), 2)
    sign = jnp.asarray(np.resize([1, -1], len(t)), x.dtype)
    given = (keys, sign, jnp.asarray(t, jnp.int32), *(jnp.asarray(a, x.dtype) for a in rest))
    return _loops.scan(jax.checkpoint(add), jnp.zeros((n, classes), x.dtype), given)[0]


def diffusion_classifier(
    predict_noise: Predictor, schedule: Any, *, classes: int, levels: int = 16, sigma: float = 0.0
) -> Callable[[Any, Any], Any]:
    """Bayes' rule with a diffusion model: the logit of a class is the evidence lower bound of ``log p(x | y)``, estimated.

    The bound is ``-1/2`` times the integral, over the variance v of noise added to the example, of the mean of
    ``||score_theta(z | y) - score(z | x)||^2``; at each of ``levels`` values of v one draw and its opposite stand for the mean, the
    same for all classes. With ``sigma`` it classifies examples that have that much noise in them already (the likelihood is the noisy
    example's, EPNDC), so that `certify` at that sigma has a base classifier made of the generative model alone.

    Args:
      predict_noise: ``(x_t[B, ...], t[B], y[B]) -> noise[B, ...]`` (`jr.training.diffusion` with ``classes``).
      schedule: abar [T], the model's own.
      classes: K.
      levels: of noise, >= 2; an answer costs ``2 * levels * classes`` passes. With few the logits keep their order and are too large.
      sigma: the noise that is in the examples, in units of [0, 1]; a number, not traced.

    Returns:
      ``model(key, x[B, ...]) -> logits[B, K]``, random: ``jr.objectives.stochastic(model, n)`` for attacks, whose gradient is the full one.
      With the key bound (``jax.tree_util.Partial(model, key)``) it is a fixed function of x: for `certify`.

    Guarantee: none of its own; that of `certify` holds for whatever function is smoothed.

    Raises:
      ValueError: levels that the schedule does not have above ``sigma``; a schedule that is none.

    References:
      Chen et al., Robust classification via a single diffusion model, ICML 2024. Chen et al., Diffusion models are certifiably robust
      classifiers, NeurIPS 2024 (noisy examples).

    Deviations:
      The weights are those of the bound in continuous time, by the trapezoidal rule in log v, where the authors weight as in training or
      take discrete steps; levels end at a noise of 10. Each draw is taken with both signs, so that what is odd in it cancels, and is the
      same for all examples of a call, so that an answer does not depend on the batch. Without the authors' likelihood maximisation before
      it, and without their search among many classes. The prior is uniform.

    >>> from jrobust.smoothing import cosine_schedule
    >>> def gaussian(x_t, t, y):  # classes at -1 and 1 in [-1, 1], each N(., 0.1^2)
    ...     a = jnp.asarray(cosine_schedule(), jnp.float32)[t][:, None]
    ...     return (x_t - jnp.sqrt(a) * (2.0 * y[:, None] - 1)) * jnp.sqrt(1 - a) / (0.01 * a + 1 - a)
    >>> model = diffusion_classifier(gaussian, cosine_schedule(), classes=2)
    >>> print(jnp.argmax(model(jax.random.key(0), jnp.array([[0.1], [0.8]])), -1))
    [0 1]
    """
    by = "diffusion_classifier"
    check_callable(predict_noise, "predict_noise", by, "(x_t[B, ...], t[B], y[B]) -> noise[B, ...]")
    abar = np.asarray(check_schedule(schedule, by))
    check_count(classes, "classes", by, least=2)
    check_count(levels, "levels", by, least=2)
    first = timestep(abar, sigma)
    known = 4 * float(sigma) ** 2
    squared = (1 - abar) / abar
    first += bool(squared[first] <= known * (1 + 1e-6))  # strictly above
    last = int(np.sum(squared <= FURTHEST**2)) - 1
    if last + 1 - first < levels:
        raise ValueError(
            f"{by}: the schedule has {max(last + 1 - first, 0)} steps above sigma = {sigma:g}, not {levels} levels"
        )
    at = np.round(np.linspace(first, last, levels)).astype(int)
    gap = squared[at] - known
    columns = (at, squared[at], gap, gap * np.gradient(np.log(gap)))
    grid = tuple(zip(*(c.tolist() for c in columns), strict=True))
    return bind(_evidence, as_pytree(predict_noise), classes=classes, grid=grid)
