"""Training for smoothing where mistakes cost differently: certified radii of sensitive classes, by their margins under noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jrobust._checks import check_classes, check_count
from jrobust._objective import Loss, log_mean
from jrobust._transforms import AtWitnesses
from jrobust.training._noisy import under_noise
from jrobust.typing import Array, Bool, Float, Int


def gaussian_margins(
    p: Float[Array, "B K"], y: Int[Array, " B"], against: Bool[Array, "B K"]
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """``Phi^-1(p_y) - Phi^-1(max_{j against} p_j)``, and where it is a number: elsewhere it is 0, with gradient 0.

    >>> m, finite = gaussian_margins(jnp.array([[0.75, 0.25], [1.0, 0.0]]), jnp.array([0, 0]), jnp.array([[False, True]] * 2))
    >>> print(jnp.round(m, 4), finite)
    [1.349 0.   ] [ True False]
    """
    label = jnp.arange(p.shape[-1]) == y[:, None]
    pair = [jnp.max(jnp.where(which, p, 0.0), -1) for which in (label, against & ~label)]
    least, most = jnp.finfo(p.dtype).tiny, 1.0 - jnp.finfo(p.dtype).eps
    finite = jnp.all(jnp.stack([(v >= least) & (v <= most) for v in pair]), 0)
    mine, other = (ndtri(jnp.where(finite, v, 0.5)) for v in pair)
    return mine - other, finite


def softened_margins(
    logits: Float[Array, "m B K"], y: Int[Array, " B"], against: Bool[Array, "K K"] | None, sharpness: Any
) -> tuple[Float[Array, " B"], Float[Array, " B"], Bool[Array, " B"]]:
    """``-log p_y`` of the mean softmax over the copies, and `gaussian_margins` of that of the logits times ``sharpness``.

    ``against[y]`` are the classes that the margin is to; None: all but y.
    """
    k = logits.shape[-1]
    check_classes(y, k, "label", index=False)
    nll = -jnp.take_along_axis(log_mean(logits), y[:, None], -1)[:, 0]
    q = jnp.mean(jax.nn.softmax(sharpness * logits), axis=0)
    return nll, *gaussian_margins(q, y, jnp.ones((y.shape[0], k), bool) if against is None else against[y])


def hinge(m: Float[Array, " B"], sensitive: Bool[Array, " B"], gamma: tuple[Any, Any]) -> Float[Array, " B"]:
    """``gamma_1 - m`` of sensitive examples with ``|m| < gamma_1``, misclassified ones too; of others ``gamma_2 - m`` where
    ``0 < m < gamma_2``.

    >>> m = jnp.array([-1.0, 1.0, -1.0, 1.0, 5.0])
    >>> print(hinge(m, jnp.array([True, True, False, False, False]), (8.0, 4.0)))
    [9. 7. 0. 3. 0.]
    """
    of_sensitive = jnp.where(jnp.abs(m) < gamma[0], gamma[0] - m, 0.0)
    return jnp.where(sensitive, of_sensitive, jnp.where((m > 0) & (m < gamma[1]), gamma[1] - m, 0.0))


def margin_cs(
    loss: Loss,
    costs: Any,
    *,
    sigma: Any = 0.5,
    samples: int = 16,
    weight: Any = 3.0,
    gamma: tuple[Any, Any] = (16.0, 4.0),
    sharpness: Any = 16.0,
) -> AtWitnesses:
    """Margin-CS: cross-entropy under Gaussian noise, plus a hinge on the certified radius against the mistakes that cost something.

    ``-log p_y + weight sigma / 2 hinge(Phi^-1(q_y) - Phi^-1(max_j q_j))``, where p is the mean softmax over the noise and q that of
    the logits times ``sharpness``. Of a sensitive class (a row of ``costs`` that is not 0) j runs over the classes that cost
    something, of the others over all but y. Evaluate the net with `jr.smoothing.certify`.

    Args:
      loss: a `jr.Loss` of logits.
      costs: [K, K], ``costs[y, j] >= 0`` what it costs to take y for j; the diagonal is not looked at. Only which are > 0 matters.
      sigma: standard deviation of the noise, in input units.
      samples: noisy copies of each example; the net sees them as one batch, BatchNorm in training mode included.
      weight: of the hinge.
      gamma: thresholds of the hinge, for sensitive examples and for the others.
      sharpness: inverse temperature of the softmax in the hinge, as MACER has it.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. An example with a margin that is not finite has no hinge.

    Raises:
      ValueError: costs of another shape, negative or not finite; at trace time, a net of another number of classes.

    References:
      Xin, Backes & Zhang, Provably cost-sensitive adversarial defense via randomized smoothing, ICML 2025; Zhai et al., MACER: attack-free
      and scalable robust training via maximizing certified radius, ICLR 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = margin_cs(loss, [[0, 1], [0, 0]], sharpness=1.0)  # class 0 must not be taken for class 1
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    table = np.asarray(costs, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not np.all(np.isfinite(table) & (table >= 0)):
        raise ValueError(f"margin_cs: costs are [K, K], finite and >= 0, got shape {table.shape} and {table.tolist()}")
    check_count(samples, "samples", "margin_cs")
    wanted = np.where(np.eye(len(table), dtype=bool), 0.0, table) > 0
    sensitive = np.any(wanted, axis=1)
    against = wanted | ~sensitive[:, None]

    def outer(logits: Any, y: Any) -> Any:
        if logits.shape[-1] != len(table):
            raise ValueError(f"margin_cs: costs of {len(table)} classes, a model of {logits.shape[-1]}")
        nll, m, finite = softened_margins(logits, y, jnp.asarray(against), sharpness)
        lost = jnp.where(finite, hinge(m, jnp.asarray(sensitive)[y], gamma), 0.0)
        return nll + weight * sigma / 2 * lost

    return under_noise(loss, sigma, samples, outer)
