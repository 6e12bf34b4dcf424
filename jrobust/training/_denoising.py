"""Losses of denoisers, for smoothing a classifier that never saw noise: squared error, a frozen classifier's answer, DDPM's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jrobust._tree import is_traced, stop_gradient
from jrobust.smoothing._diffusion import check_callable, check_schedule
from jrobust.training._noisy import check_level, noisy_copies, streams
from jrobust.typing import Array, Float

Apply = Callable[..., Any]


def _denoised(apply: Apply, params: Any, rest: Any, x: Any, sigma: Any, key: Any, train: bool) -> Any:
    noisy = noisy_copies(streams(key)[0], x, sigma, 1)[0]
    found, after = apply(params, rest, noisy, train=train)
    if found.shape != x.shape:
        raise ValueError(f"a denoiser returns images of the shape of its input, {x.shape}, got {found.shape}")
    return found, after


def _entries(a: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.mean(a.reshape(a.shape[0], -1), 1)


def denoise(apply: Apply, sigma: Any) -> Callable[..., Any]:
    """The squared error of a denoiser, ``mean (D(x + n) - x)^2`` over the entries of each example.

    Args:
      apply: ``apply(params, rest, x[B, ...], *, train) -> (x[B, ...], rest')``, such as `jr.nnx.functional` gives of a net from images
        to images.
      sigma: standard deviation of the noise in input units, >= 0, traced; or a `jr.smoothing.Noise`.

    Returns:
      ``loss(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``, for `make_step` and `fit`; labels are not looked at (any
      integers [B] will do).

    Raises:
      ValueError: a sigma that is negative or not finite; a net whose output has another shape (at the first call).

    References:
      Salman, Sun, Yang, Kapoor & Kolter, Denoised smoothing: a provable defense for pretrained classifiers, NeurIPS 2020.

    >>> loss = denoise(lambda shift, rest, x, *, train: (x + shift, rest), 0.0)
    >>> print(loss(0.5, None, jnp.zeros((2, 3)), jnp.zeros(2, int), key=jax.random.key(0), train=True)[0])
    [0.25 0.25]
    """
    check_callable(apply, "apply", "denoise", "(params, rest, x, *, train) -> (x, rest')")
    check_level(sigma, "denoise")

    def loss(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        del y
        found, after = _denoised(apply, params, rest, x, sigma, key, train)
        return _entries((found - x) ** 2), after

    return loss


def denoise_stably(
    apply: Apply, sigma: Any, classifier: Callable[[Any], Any], *, target: str = "class"
) -> Callable[..., Any]:
    """What a frozen classifier says of the denoised example, against what it says of the clean one: ``CE(f(D(x + n)), f(x))``.

    With several classifiers none of which is the one that is certified (`blend` of such losses) no access to it is needed; the authors
    train with the squared error first, then go on with this.

    Args:
      apply: as of `denoise`.
      sigma: as of `denoise`.
      classifier: frozen, batched, in inference mode: ``x[B, ...] -> logits[B, K]``; gradients pass through it to the denoiser.
      target: "class", the classifier's decision at x (the authors' stability objective); "soft", its probabilities; "label", ``y``
        (their classification objective).

    Returns:
      ``loss(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``; labels are looked at with "label" alone.

    Raises:
      ValueError: another ``target``; a sigma as of `denoise`.

    References:
      Salman, Sun, Yang, Kapoor & Kolter, Denoised smoothing: a provable defense for pretrained classifiers, NeurIPS 2020.

    >>> loss = denoise_stably(lambda p, rest, x, *, train: (x + p, rest), 0.0, lambda x: 9 * x)
    >>> args = None, jnp.eye(2), jnp.zeros(2, int)
    >>> print(*(loss(p, *args, key=jax.random.key(0), train=True)[0].round(2) for p in (0.0, -jnp.eye(2))))
    [0. 0.] [0.69 0.69]
    """
    check_callable(apply, "apply", "denoise_stably", "(params, rest, x, *, train) -> (x, rest')")
    check_callable(classifier, "classifier", "denoise_stably", "x[B, ...] -> logits[B, K]")
    check_level(sigma, "denoise_stably")
    if target not in ("class", "soft", "label"):
        raise ValueError(f"denoise_stably: target is 'class', 'soft' or 'label', got {target!r}")

    def loss(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        found, after = _denoised(apply, params, rest, x, sigma, key, train)
        logits = classifier(found)
        if target == "soft":
            return optax.softmax_cross_entropy(logits, stop_gradient(jax.nn.softmax(classifier(x)))), after
        wanted = y if target == "label" else jnp.argmax(classifier(x), -1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, wanted), after

    return loss


def diffusion(apply: Apply, schedule: Any, *, classes: int | None = None, drop: Any = 0.1) -> Callable[..., Any]:
    """The loss of a diffusion model that predicts the noise: ``mean (eps - eps_theta(x_t, t))^2``, t and eps drawn anew for each example.

    ``x_t = sqrt(abar_t) (2 x - 1) + sqrt(1 - abar_t) eps``, t uniform in 0..T - 1: the model learns on [-1, 1] as
    `jr.smoothing.one_step` expects it.

    Args:
      apply: ``apply(params, rest, (x_t[B, ...], t[B]), *, train) -> (noise[B, ...], rest')``, with the label as a third of the tuple
        where there are ``classes``; of `jr.models.unet` that is ``functional(net, call=type(net).of).apply``.
      schedule: abar [T] (`jr.smoothing.linear_schedule`, `cosine_schedule`).
      classes: K, for a model that is told the label y; None for one that is not.
      drop: with what probability the label is withheld, as the class K, so that one net is both; the default is ours.

    Returns:
      ``loss(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``, for `make_step` and `fit`.

    Raises:
      ValueError: a schedule that is none, ``drop`` outside [0, 1]; a net whose output has another shape (at the first call).

    References:
      Ho, Jain & Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020. Ho & Salimans, Classifier-free diffusion guidance, 2022
      (``drop``).

    >>> from jrobust.smoothing import linear_schedule
    >>> loss = diffusion(lambda p, rest, given, *, train: (p * given[0], rest), linear_schedule())
    >>> losses, _ = loss(0.0, None, jnp.zeros((500, 8)), jnp.zeros(500, int), key=jax.random.key(0), train=True)
    >>> bool(abs(losses.mean() - 1) < 0.1)  # "no noise" is wrong by its variance
    True
    """
    check_callable(apply, "apply", "diffusion", "(params, rest, (x_t, t), *, train) -> (noise, rest')")
    abar = check_schedule(schedule, "diffusion")
    if classes is not None and not (isinstance(classes, int) and classes >= 1):
        raise ValueError(f"diffusion: classes is an int >= 1 or None, got {classes!r}")
    if not is_traced(drop) and not (np.ndim(drop) == 0 and 0 <= drop <= 1):
        raise ValueError(f"diffusion: drop lies in [0, 1], got {drop!r}")

    def loss(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        for_noise, for_time, for_label = jax.random.split(key, 3)
        n, column = x.shape[0], (-1, *(1 for _ in x.shape[1:]))
        t = jax.random.randint(for_time, (n,), 0, abar.shape[0])
        noise = jax.random.normal(for_noise, x.shape, x.dtype)
        keep, level = (jnp.asarray(a**0.5, x.dtype)[t].reshape(column) for a in (abar, 1 - abar))
        given = (keep * (2 * x - 1) + level * noise, t)
        if classes is not None:
            given = (*given, jnp.where(jax.random.bernoulli(for_label, drop, (n,)), classes, y))
        found, after = apply(params, rest, given, train=train)
        if found.shape != x.shape:
            raise ValueError(f"diffusion: the net returns the noise, {x.shape}, got {found.shape}")
        return _entries((found - noise) ** 2), after

    return loss
