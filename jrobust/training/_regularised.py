"""Losses that ask more of themselves near an example: small input gradients, a small Jacobian, little curvature, local linearity."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._objective import Loss, Objective
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, crafting_by, example_keys
from jrobust._tree import stop_gradient, vdot
from jrobust.sets import Threat, eps_axes
from jrobust.training._paired import inner
from jrobust.typing import Array, Float


def input_gradient(loss: Loss, params: Any, rest: Any, x: Any, y: Any, *, train: bool) -> tuple[Any, Array, Any]:
    """The gradient of each example's loss by its input, the losses [B], and ``rest'``, by one pass over the batch.

    It is that of the losses' sum: with ``train`` statistics of the batch tie its examples together, and count.
    """

    def total(v: Any) -> tuple[Array, tuple[Array, Any]]:
        losses, after = loss(params, rest, v, y, train=train)
        return jnp.sum(losses), (losses, after)

    slope, (losses, after) = jax.grad(total, has_aux=True)(x)
    return slope, losses, after


def _dots(a: Any, b: Any) -> Float[Array, " B"]:
    return jax.vmap(vdot)(a, b)


def _sizes(a: Any) -> Float[Array, " B"]:
    """The l2 norm of each example; its gradient at 0 is 0."""
    squares = _dots(a, a)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)


def gradient_penalty(loss: Loss, *, weight: Any, norm: Literal["l2", "l1"] = "l2") -> Callable[..., Any]:
    """The loss plus ``weight ||g||``, g its gradient by the input: double backpropagation.

    Args:
      loss: a `jr.Loss`.
      weight: of the penalty, in units of one example's loss; the papers choose it anew for each data set. With "l1" and ``weight``
        eps it is the worst case over the Linf ball of the loss taken for linear: what FGSM finds where it is.
      norm: "l2": ``||g||_2^2`` (published), or "l1": ``||g||_1``.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``; loss and gradient are of one pass, in its mode.

    Raises:
      ValueError: another norm.

    References:
      Drucker & Le Cun, Improving generalization performance using double backpropagation, IEEE TNN 1992; Ross & Doshi-Velez, Improving
      the adversarial robustness and interpretability of deep neural networks by regularizing their input gradients, AAAI 2018; Lyu et
      al., A unified gradient regularization family for adversarial examples, ICDM 2015 ("l1").

    >>> import jrobust as jr
    >>> margin = jr.Loss(lambda p, rest, x, *, train: (x @ p, rest), lambda out, y: out[:, 0])
    >>> args, how = (jnp.array([[3.0], [-4.0]]), None, jnp.zeros((1, 2)), jnp.array([0])), {"key": None, "train": True}
    >>> print(gradient_penalty(margin, weight=1.0)(*args, **how)[0], gradient_penalty(margin, weight=1.0, norm="l1")(*args, **how)[0])
    [25.] [7.]
    """
    if norm not in ("l2", "l1"):
        raise ValueError(f"gradient_penalty: norm is 'l2' or 'l1', got {norm!r}")

    def robust(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        slope, losses, after = input_gradient(loss, params, rest, x, y, train=train)
        by = slope if norm == "l2" else jax.tree.map(jnp.sign, slope)
        return losses + weight * _dots(slope, by), after

    return robust


def jacobian_penalty(loss: Loss, *, weight: Any = 0.01, projections: int | None = 1) -> Callable[..., Any]:
    """The loss plus ``weight / 2 ||J||_F^2``, J the Jacobian of the outputs by the input, estimated by random projections.

    ``||J||_F^2 = K E ||v J||^2`` for v uniform on the unit sphere of the K outputs.

    Args:
      loss: a `jr.Loss`; its outputs [B, K] are what J is of.
      weight: 0.01 in the authors' code.
      projections: how many v for each example, drawn anew in each step; one backward pass each. None: all K rows, exactly.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``.

    Raises:
      ValueError: fewer than one projection.

    References:
      Hoffman, Roberts & Yaida, Robust learning with Jacobian regularization, 2019.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.diag(jnp.array([3.0, 4.0])), None, jnp.zeros((1, 2)), jnp.array([0])), {"key": None, "train": True}
    >>> exact = jacobian_penalty(loss, weight=1.0, projections=None)
    >>> print(exact(*args, **how)[0] - loss(*args)[0])  # (9 + 16) / 2
    [12.5]
    """
    if projections is not None:
        check_count(projections, "projections", "jacobian_penalty")

    def robust(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        out, pull, after = jax.vjp(lambda v: loss.outputs(params, rest, v, train=train), x, has_aux=True)
        classes = out.shape[-1]
        count = classes if projections is None else projections
        if projections is None:
            rows = jnp.broadcast_to(jnp.eye(classes, dtype=out.dtype)[:, None], (classes, *out.shape))
        else:
            keys = example_keys(key, jnp.arange(out.shape[0]))
            rows = jax.vmap(lambda k: jax.random.normal(k, (count, classes), out.dtype), out_axes=1)(keys)
            rows = rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
        (slopes,) = jax.vmap(pull)(rows)
        squares = classes / count * jnp.sum(jax.vmap(_dots)(slopes, slopes), 0)
        return loss.reduce(out, y) + 0.5 * weight * squares, after

    return robust


def cure(loss: Loss, *, weight: Any = 4.0, h: Any = 3.0) -> Callable[..., Any]:
    """CURE: the loss plus ``weight ||g(x + h d) - g(x)||_2``, its curvature along ``d = sign(g) / ||sign(g)||_2``.

    g is the gradient of the loss by the input; d is a constant. Published as fine-tuning of a trained net, with h ramped up (`scheduled`).

    Args:
      loss: a `jr.Loss`.
      weight: 4 in the authors' code.
      h: length of the difference in l2, in units of the input; 3 in the authors' code, on CIFAR-10.

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``; the penalty sees BatchNorm's running statistics, as
      in the authors' code, the loss those of the mode.

    References:
      Moosavi-Dezfooli et al., Robustness via curvature regularization, and vice versa, CVPR 2019.

    Deviations: the norm is not squared and not divided by h, as in the authors' code and unlike the formula of the paper.

    >>> import jrobust as jr
    >>> square = jr.Loss(lambda p, rest, x, *, train: (p * x, rest), lambda out, y: 0.5 * jnp.sum(out**2, -1))
    >>> args, how = (jnp.array([2.0]), None, jnp.ones((1, 1)), jnp.array([0])), {"key": None, "train": True}
    >>> print(cure(square, weight=1.0, h=0.5)(*args, **how)[0])  # 2 + 4 * 0.5, the second derivative being 4
    [4.]
    """

    def robust(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        losses, after = loss(params, rest, x, y, train=train)
        here, _, _ = input_gradient(loss, params, rest, x, y, train=False)
        signs = jax.tree.map(jnp.sign, stop_gradient(here))
        length = h / jnp.maximum(_sizes(signs), 1e-7)
        moved = jax.tree.map(lambda a, s: a + length.reshape(-1, *[1] * (s.ndim - 1)) * s, x, signs)
        there, _, _ = input_gradient(loss, params, rest, moved, y, train=False)
        return losses + weight * _sizes(jax.tree.map(jnp.subtract, there, here)), after

    return robust


def llr(loss: Loss, threat: Threat, *, weight: Any = 4.0, mu: Any = 3.0, attack: Oracle | int = 2) -> AtWitnesses:
    """LLR: the loss plus ``weight gap(d) + mu |d . g|``, where ``gap(d) = |l(x + d) - l(x) - d . g|`` is large over the set.

    g is the gradient of the loss l by the input. A loss that is linear near x grows by at most ``|d . g|`` there.

    Args:
      loss: a `jr.Loss`.
      threat: the perturbations.
      weight, mu: of the gap and of the linear part; their defaults are ours, checked against no source.
      attack: a lower oracle, or how many steps of PGD climb the gap, from a sample of the set.

    Returns:
      A loss in two stages. Gap and gradient see BatchNorm's running statistics, the loss those of the mode.

    Raises:
      ValueError: an oracle of another side, or that stops early.

    References:
      Qin et al., Adversarial robustness through local linearization, NeurIPS 2019.

    Deviations: the inner steps are the steepest of the set's norm, not an optimiser's.

    >>> import jrobust as jr
    >>> square = jr.Loss(lambda p, rest, x, *, train: (p * x, rest), lambda out, y: 0.5 * jnp.sum(out**2, -1))
    >>> args, how = (jnp.array([2.0]), None, jnp.ones((1, 1)), jnp.array([0])), {"key": jax.random.key(0), "train": True}
    >>> print(llr(square, jr.sets.linf(0.5), weight=1.0, mu=0.0)(*args, **how)[0])  # 2 + 4 * 0.5^2 / 2
    [2.5]
    """
    oracle = inner(attack, "random")
    crafting_by(loss, threat, oracle, by="llr")  # refuses what cannot serve

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        params = stop_gradient(params)

        def one(k: Any, xi: Any, yi: Any, t: Threat) -> Any:
            value = lambda z: loss(params, rest, jax.tree.map(lambda a: a[None], z), yi[None], train=False)[0][0]  # noqa: E731
            start, slope = jax.value_and_grad(value)(xi)
            line = lambda z: start + vdot(slope, jax.tree.map(jnp.subtract, z, xi))  # noqa: E731
            f = Objective(lambda z: jnp.abs(value(z) - line(z)), jnp.atleast_1d, label=yi)
            return oracle.solve(k, f, t(xi)).witness

        keys = example_keys(key, jnp.arange(y.shape[0]))
        return stop_gradient(jax.vmap(one, in_axes=(0, 0, 0, eps_axes(threat, x)))(keys, x, y, threat))

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        losses, after = loss(params, rest, x, y, train=train)
        slope, here, _ = input_gradient(loss, params, rest, x, y, train=False)
        rise = _dots(slope, jax.tree.map(jnp.subtract, z, x))
        gap = jnp.abs(loss(params, rest, z, y, train=False)[0] - here - rise)
        return losses + weight * gap + mu * jnp.abs(rise), after

    return AtWitnesses(craft, at)
