"""A denoiser in front of a classifier that never saw noise, and one step of a diffusion model as that denoiser."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count
from jrobust._tree import as_pytree, bind, is_traced

Predictor = Callable[..., Any]
"""``predict(x_t[B, ...], t[B]) -> noise[B, ...]``: the noise in ``x_t = sqrt(abar_t) u + sqrt(1 - abar_t) noise``, u in [-1, 1]."""


def check_callable(fn: Any, name: str, by: str, what: str) -> None:
    """A function, said with what it is to compute."""
    if not callable(fn):
        raise TypeError(f"{by}: {name} is a callable {what}, got {type(fn).__name__}")


def _composed(denoiser: Any, classifier: Any, x: Any) -> Any:
    return classifier(denoiser(x))


def denoised(denoiser: Callable[[Any], Any], classifier: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A classifier that sees what a denoiser makes of its input: a base classifier for `certify` out of one that never saw noise.

    Args:
      denoiser: batched, noisy ``x[B, ...]`` -> clean ``x[B, ...]``: a net trained by `jr.training.denoise` or `denoise_stably`, or
        `one_step` of a diffusion model; trained for the level of noise that is certified.
      classifier: batched, ``x[B, ...] -> logits[B, K]``, any.

    Returns:
      ``classifier(denoiser(x))``; the arrays of both are leaves where both are pytrees.

    Raises:
      TypeError: either is not callable.

    References:
      Salman, Sun, Yang, Kapoor & Kolter, Denoised smoothing: a provable defense for pretrained classifiers, NeurIPS 2020.

    >>> halved = denoised(lambda x: x / 2, lambda x: jnp.stack([x[:, 0], 1 - x[:, 0]], 1))
    >>> print(halved(jnp.array([[1.0]])))
    [[0.5 0.5]]
    """
    check_callable(denoiser, "denoiser", "denoised", "x[B, ...] -> x[B, ...]")
    check_callable(classifier, "classifier", "denoised", "x[B, ...] -> logits[B, K]")
    if jax.tree_util.all_leaves([denoiser]) or jax.tree_util.all_leaves([classifier]):
        return lambda x: classifier(denoiser(x))  # a closure stays one: the driver finds its arrays
    return bind(_composed, denoiser, classifier)


def linear_schedule(steps: int = 1000, *, first: float | None = None, last: float | None = None) -> np.ndarray:
    """``abar[t]`` of a diffusion whose ``beta`` grows linearly: the share of the data's variance that is left at step t.

    Args:
      steps: T, >= 2.
      first, last: beta at both ends, 0 < first <= last < 1; by default ``0.1 / T`` and ``20 / T`` (at T = 1000 those of DDPM, 1e-4
        and 0.02), the last at most 0.999.

    Returns:
      abar [T], float64, decreasing.

    References:
      Ho, Jain & Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020.

    >>> abar = linear_schedule()
    >>> abar.shape, round(float(abar[0]), 6), bool(abar[-1] < 1e-4)
    ((1000,), 0.9999, True)
    """
    check_count(steps, "steps", "linear_schedule", least=2)
    low, high = 0.1 / steps if first is None else first, min(20 / steps, 0.999) if last is None else last
    if not 0 < low <= high < 1:
        raise ValueError(f"linear_schedule: 0 < first <= last < 1, got {low!r} and {high!r}")
    return np.cumprod(1 - np.linspace(low, high, steps))


def cosine_schedule(steps: int = 1000, *, offset: float = 0.008) -> np.ndarray:
    """``abar[t]`` along a squared cosine, with every beta at most 0.999.

    Args:
      steps: T, >= 2.
      offset: > 0, so that the first beta is not too small.

    Returns:
      abar [T], float64, decreasing.

    References:
      Nichol & Dhariwal, Improved denoising diffusion probabilistic models, ICML 2021.

    >>> round(float(cosine_schedule(1000)[499]), 2)
    0.49
    """
    check_count(steps, "steps", "cosine_schedule", least=2)
    if not offset > 0:
        raise ValueError(f"cosine_schedule: offset is > 0, got {offset!r}")
    curve = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - curve[1:] / curve[:-1], 0.999))


def check_schedule(schedule: Any, by: str) -> Any:
    """The schedule, as float64 on the host unless it is traced."""
    if is_traced(schedule):
        return schedule
    abar = np.asarray(schedule, np.float64)
    if abar.ndim != 1 or len(abar) < 2 or not (np.diff(abar) < 0).all() or not (abar[-1] > 0 and abar[0] <= 1):
        raise ValueError(f"{by}: a schedule is abar [T], decreasing, in (0, 1]; got {np.asarray(schedule)!r:.80}")
    return abar


def timestep(schedule: Any, sigma: Any) -> Any:
    """The first step of a diffusion whose noise covers ``sigma``: ``sqrt((1 - abar_t) / abar_t) >= 2 sigma``.

    The factor is 2 because diffusion models are trained on data in [-1, 1], where the noise of data in [0, 1] is twice as large.

    Args:
      schedule: abar [T].
      sigma: standard deviation of the noise on data in [0, 1], >= 0; traced or not.

    Returns:
      t in 0..T - 1, an int where nothing is traced; where something is and no step covers sigma, the last.

    Raises:
      ValueError: the noise of no step covers sigma (where nothing is traced).

    >>> timestep(linear_schedule(), 0.25)
    145
    """
    abar = check_schedule(schedule, "timestep")
    if is_traced(abar, sigma):
        abar = jnp.asarray(abar)
        covered = (1 - abar) >= 4 * sigma**2 * abar
        return jnp.where(covered[-1], jnp.argmax(covered), len(abar) - 1)
    if not (np.ndim(sigma) == 0 and np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"timestep: sigma is one finite number >= 0, got {sigma!r}")
    noise = np.sqrt((1 - abar) / abar)
    if noise[-1] < 2 * float(sigma):
        raise ValueError(
            f"timestep: no step of the schedule has the noise of sigma = {float(sigma):g}; the last has that of {noise[-1] / 2:g}"
        )
    # a level that is a step's own is that step's, whatever the last bit says
    return int(np.argmax(noise >= 2 * float(sigma) * (1 - 1e-9)))


def _one_step(predict: Any, t: Any, keep: Any, noise: Any, x: Any, *, clip: bool) -> Any:
    x_t = keep * (2 * x - 1)
    u = (x_t - noise * predict(x_t, jnp.full(x.shape[0], t, jnp.int32))) / keep
    return (jnp.clip(u, -1.0, 1.0) + 1) / 2 if clip else (u + 1) / 2


def one_step(predict_noise: Predictor, schedule: Any, sigma: Any, *, clip: bool = True) -> Callable[[Any], Any]:
    """One step of a diffusion model as a denoiser of ``x + N(0, sigma^2)``: with `denoised`, diffusion denoised smoothing (DDS).

    The noisy example, ``2 x - 1`` and times ``sqrt(abar_t)``, is what the model meets at step t = `timestep`; from the noise that it
    predicts there follows the clean example.

    Args:
      predict_noise: ``(x_t[B, ...], t[B]) -> noise[B, ...]``, trained on data in [-1, 1] (`jr.training.diffusion`); a pytree where its
        arrays are to be leaves, such as an NNX module or ``jax.tree_util.Partial``. Of EDM: `edm_noise`.
      schedule: abar [T], as `linear_schedule` makes it: the one that the model was trained with.
      sigma: of the noise that is certified, in units of [0, 1]; traced or not.
      clip: the prediction to [0, 1], as DDPM does at every step.

    Returns:
      ``x[B, ...] -> x[B, ...]``, batched, in units of [0, 1].

    Raises:
      ValueError: no step of the schedule has that much noise; a schedule that is none.
      TypeError: ``predict_noise`` is not callable.

    Guarantee: none of its own; whatever it computes, `certify` speaks of the smoothed ``denoised(one_step(...), classifier)``.

    References:
      Carlini, Tramèr, Dvijotham, Rice, Sun & Kolter, (Certified!!) adversarial robustness for free!, ICLR 2023.

    Deviations:
      The schedule is discrete, so the model expects up to one step more noise than there is. Images are not rescaled between model and
      classifier: compose that yourself.

    >>> known = one_step(lambda x_t, t: x_t * 0, linear_schedule(), 0.25, clip=False)  # "there is no noise": the input itself
    >>> print(known(jnp.array([[0.25, 1.5]])))
    [[0.25 1.5 ]]
    """
    check_callable(predict_noise, "predict_noise", "one_step", "(x_t[B, ...], t[B]) -> noise[B, ...]")
    abar = check_schedule(schedule, "one_step")
    t = timestep(abar, sigma)
    here = jnp.asarray(abar)[t] if is_traced(abar, t) else abar[t]
    root = jnp.sqrt if is_traced(here) else lambda v: float(np.sqrt(v))
    return bind(_one_step, as_pytree(predict_noise), t, root(here), root(1 - here), clip=clip)


def _edm_noise(denoise: Any, levels: Any, x_t: Any, t: Any) -> Any:
    column = lambda a: a.reshape(-1, *(1 for _ in x_t.shape[1:]))  # noqa: E731
    s = jnp.asarray(levels, x_t.dtype)[t]
    z = x_t * jnp.sqrt(1 + column(s) ** 2)
    return (z - denoise(z, s)) / column(s)


def edm_noise(denoise: Callable[..., Any], schedule: Any) -> Predictor:
    """A denoiser of EDM's kind as a predictor of noise, for `one_step` and the rest.

    Args:
      denoise: ``D(z[B, ...], s[B]) -> u[B, ...]``, the clean example in ``z = u + s noise``, u in [-1, 1].
      schedule: abar [T]: which levels the steps stand for, ``s_t = sqrt((1 - abar_t) / abar_t)``.

    Returns:
      ``predict(x_t, t) = (z - D(z, s_t)) / s_t`` with ``z = x_t / sqrt(abar_t)``.

    References:
      Karras, Aittala, Aila & Laine, Elucidating the design space of diffusion-based generative models, NeurIPS 2022.

    >>> shrink = edm_noise(lambda z, s: z / (1 + s[:, None] ** 2), linear_schedule())  # the best for data of N(0, 1)
    >>> x = one_step(shrink, linear_schedule(), 0.25, clip=False)(jnp.array([[1.0]]))  # 1 / (1 + 0.5^2), and back from [-1, 1]
    >>> print(x.round(2))
    [[0.9]]
    """
    check_callable(denoise, "denoise", "edm_noise", "(z[B, ...], s[B]) -> u[B, ...]")
    abar = check_schedule(schedule, "edm_noise")
    return bind(_edm_noise, as_pytree(denoise), ((1 - abar) / abar) ** 0.5)
