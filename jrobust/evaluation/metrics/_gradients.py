"""What gradients with respect to the input look like: their size, their frequencies, whether they point along the image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._tree import bind
from jrobust.evaluation.metrics._driver import Scores, each, length
from jrobust.objectives import ce


def _loss_gradient(f: Any, x: Any) -> Any:
    return jax.grad(lambda z: f.climb(ce, z)[0])(x)


def _sensitivity(key: Any, f: Any, x: Any) -> Any:
    del key
    return length(_loss_gradient(f, x), "l2")


def loss_sensitivity(model: Any, x: Any, y: Any, *, key: Any = None, batch_size: int = 256) -> Scores:
    """The L2 norm of the gradient of the label's cross-entropy with respect to the input, at each example.

    Args:
      model, x, y, batch_size: as in `jr.evaluate`.
      key: for a random model alone.

    Returns:
      `Scores` of side "estimate": a slope at a point bounds nothing around it.

    >>> found = loss_sensitivity(lambda x: x, jnp.zeros((1, 2)), jnp.array([0]))
    >>> print(found.values.round(4))  # (1/2, 1/2)
    [0.7071]

    References:
      Arpit et al., A closer look at memorization in deep networks, ICML 2017.
    """
    values = each(bind(_sensitivity), model, x, y, key=key, batch_size=batch_size, by="loss_sensitivity")
    return Scores(values.astype(np.float64), "estimate", {})


class GradientStructure(NamedTuple):
    """What `gradient_structure` measures, each one `Scores` of side "estimate".

    Attributes:
      l1, l2, linf: norms of the gradient of the label's cross-entropy.
      high_frequency: share of that gradient's spectral power beyond the cutoff, in [0, 1].
      alignment: ``|<x, g>| / ||g||_2`` with the gradient g of the predicted class's logit.
      cosine: that over ``||x||_2``, in [0, 1].
    """

    l1: Scores
    l2: Scores
    linf: Scores
    high_frequency: Scores
    alignment: Scores
    cosine: Scores


def _high(g: Any, cutoff: Any) -> Any:
    """The share of power at spatial frequencies beyond ``cutoff`` half cycles a pixel, channels together."""
    if g.ndim != 3:
        return jnp.asarray(jnp.nan, g.dtype)
    power = jnp.sum(jnp.abs(jnp.fft.fft2(g, axes=(0, 1))) ** 2, axis=2)
    rows, columns = (jnp.fft.fftfreq(n) for n in g.shape[:2])
    high = jnp.sqrt(rows[:, None] ** 2 + columns**2) > cutoff / 2
    total = jnp.sum(power)
    return jnp.where(total > 0, jnp.sum(jnp.where(high, power, 0.0)) / jnp.where(total > 0, total, 1.0), jnp.nan)


def _structure(cutoff: Any, key: Any, f: Any, x: Any) -> dict[str, Any]:
    del key
    g = _loss_gradient(f, x)
    scale = length(g, "linf")
    unit = g / jnp.where(scale > 0, scale, 1.0)  # squares of tiny gradients would vanish
    top = jnp.argmax(f.outputs(x))
    logit = jax.grad(lambda z: f.outputs(z)[top])(x)
    size, own = length(logit, "l2"), length(x, "l2")
    along = jnp.where(size > 0, jnp.abs(jnp.sum(x * logit)) / jnp.where(size > 0, size, 1.0), jnp.nan)
    return {
        "l1": scale * length(unit, "l1"),
        "l2": scale * length(unit, "l2"),
        "linf": scale,
        "high_frequency": _high(unit, cutoff),
        "alignment": along,
        "cosine": jnp.where(own > 0, along / jnp.where(own > 0, own, 1.0), jnp.nan),
    }


def gradient_structure(
    model: Any, x: Any, y: Any, *, cutoff: float | int = 0.5, key: Any = None, batch_size: int = 256
) -> GradientStructure:
    """Size, frequencies and alignment of input gradients; robust models' are smoother and point along the image.

    Args:
      model, x, y, batch_size: as in `jr.evaluate`.
      cutoff: where high frequencies begin, as a share of the highest along an axis (half a cycle a pixel), in [0, sqrt(2)).
      key: for a random model alone.

    Returns:
      `GradientStructure`. Frequencies are NaN where examples are not images [H, W, C] or the gradient is 0, alignments where the
      gradient (or, for the cosine, the example) is 0.

    Raises:
      ValueError: another cutoff.

    References:
      Etmann et al., On the connection between adversarial robustness and saliency map interpretability, ICML 2019 (alignment).
    Deviations:
      No paper pins the share of high frequencies; the radial cutoff, with both axes and all channels together, is ours.
    """
    if not 0 <= cutoff < np.sqrt(2):
        raise ValueError(f"gradient_structure: cutoff lies in [0, sqrt(2)), got {cutoff!r}")
    found = each(bind(_structure, cutoff), model, x, y, key=key, batch_size=batch_size, by="gradient_structure")
    # rounding may put a share above 1
    shares = {name: np.minimum(found[name].astype(np.float64), 1.0) for name in ("high_frequency", "cosine")}
    sizes = {name: found[name].astype(np.float64) for name in ("l1", "l2", "linf", "alignment")}
    return GradientStructure(
        **{name: Scores(v, "estimate", {}) for name, v in sizes.items()},
        **{name: Scores(v, "estimate", {}, most=1.0) for name, v in shares.items()},
    )
