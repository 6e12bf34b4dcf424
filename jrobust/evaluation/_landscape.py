"""The loss around an input or around the weights, and the decisions over a plane of inputs: data first, plots of them on request."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_classes, check_count, check_key
from jrobust._model import functional
from jrobust._tree import normal_like, vdot
from jrobust.evaluation._checks import Data, check_data
from jrobust.evaluation._execute import objective
from jrobust.objectives import ce
from jrobust.sets._base import check_clip, clamp


class Landscape(NamedTuple):
    """Loss and decisions over a plane of inputs through each example: row i, column j is the input ``x + a[i] u + b[j] v``.

    Attributes:
      a, b: coordinates [A], [B]; 0 is the example.
      loss: cross-entropy [N, A, B].
      margin: the largest of the other logits less the label's [N, A, B]; the prediction is right where it is < 0.
      prediction: the class with the largest logit, int [N, A, B].
      u, v: the directions [N, ...].
      marks: coordinates [N, M, 2] of what the plane was laid through: the example, then the two witnesses, where there were such.
      label: int [N].
    """

    a: np.ndarray
    b: np.ndarray
    loss: np.ndarray
    margin: np.ndarray
    prediction: np.ndarray
    u: np.ndarray
    v: np.ndarray
    marks: np.ndarray
    label: np.ndarray

    def plot(self, kind: str = "loss", *, most: int = 4) -> Any:
        """A matplotlib figure with one panel for each of the first ``most`` examples; ``figure.savefig(path)`` writes it.

        Args:
          kind: "loss"; "margin" with the line on which the decision changes; "decision", the regions of the classes.
          most: examples shown, >= 1.

        Raises:
          ValueError: an unknown kind.
          ImportError: matplotlib is missing.
        """
        from jrobust.evaluation._landscape_plots import plot_inputs

        if kind not in ("loss", "margin", "decision"):
            raise ValueError(f'kind is "loss", "margin" or "decision", got {kind!r}')
        check_count(most, "most", "plot")
        return plot_inputs(self, kind, most)


class WeightLandscape(NamedTuple):
    """Mean loss over a plane of weights: row i, column j is the model with weights ``w + a[i] u + b[j] v``.

    Attributes:
      a, b: coordinates [A], [B]; 0 is the model as it is. A random direction has length 1 in units of each filter's own norm.
      loss: mean cross-entropy [A, B].
      accuracy: share of examples classified right [A, B].
      n: examples behind each number.
    """

    a: np.ndarray
    b: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    n: int

    def plot(self, kind: str = "loss") -> Any:
        """A matplotlib figure; ``figure.savefig(path)`` writes it.

        Raises:
          ValueError: an unknown kind.
          ImportError: matplotlib is missing.
        """
        from jrobust.evaluation._landscape_plots import plot_weights

        if kind not in ("loss", "accuracy"):
            raise ValueError(f'kind is "loss" or "accuracy", got {kind!r}')
        return plot_weights(self, kind)


def landscape(
    model: Any,
    x: Any,
    y: Any,
    *,
    span: Any = 0.1,
    directions: str | tuple[Any, Any] = "gradient",
    points: int = 21,
    clip: Any = None,
    key: Any,
    batch_size: int = 1024,
) -> Landscape:
    """The loss surface and the decision surface over a plane of inputs through each example.

    Args:
      model: as in `evaluate`.
      x: examples [N, ...] of at least two entries, floating; a handful, all run in one program.
      y: integer labels [N].
      span: how far the plane goes to either side of the example, > 0, in units of the directions (input units for signs, 1 is the
        witness for witnesses): coordinates are ``linspace(-span, span, points)``.
      directions: "gradient": u is the sign of the loss's gradient at the example, v random signs made orthogonal to u;
        "random": both are random signs, v made orthogonal to u; two arrays of witnesses [N, ...]: u leads from the example to the
        first, v to the second (less its part along u), so that all three lie in the plane.
      points: on each axis, >= 2; an odd number has the example itself among them.
      clip: (lo, hi) into which every input is moved before it is looked at; the plane then has kinks. None: nothing is moved.
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: inputs evaluated at once, >= 1.

    Returns:
      A `Landscape`; ``.plot()``, ``.plot("decision")`` make figures.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: none; a picture bounds nothing. Values are the model's own at the inputs named.

    >>> import jax, jax.numpy as jnp
    >>> found = landscape(lambda x: x, jnp.array([[0.3, 0.7]]), jnp.array([1]), span=0.5, points=3, key=jax.random.key(0))
    >>> found.prediction[0].tolist()  # up is along the gradient: there class 0 wins
    [[1, 1, 1], [1, 1, 1], [0, 0, 0]]

    References:
      Liu et al., On the loss landscape of adversarial training, NeurIPS 2020. Tramer et al., Ensemble adversarial training, ICLR 2018
      (gradient and random signs). Somepalli et al., Can neural nets learn the same model twice?, CVPR 2022 (planes through three points).
    """
    check_key(key)
    check_count(points, "points", "landscape", least=2)
    check_count(batch_size, "batch_size", "landscape")
    lo, hi = check_clip(clip, "landscape")
    data = check_data(x, y)
    if isinstance(data.x, tuple):
        raise TypeError("landscape: x is one array [N, ...]; a plane through a tuple of arrays is not offered")
    if np.prod(np.shape(data.x)[1:]) < 2:
        raise ValueError(f"landscape: a plane needs examples of at least 2 entries, got x of shape {np.shape(data.x)}")
    rows, labels = data.rows(np.arange(data.n)), jnp.asarray(data.y)
    _check_span(span, "landscape")
    given = _check_witnesses(directions, data)
    f = functional(model, rows)
    check_classes(data.y, jax.eval_shape(f.apply, f.leaves, rows).shape[1])
    axis = np.linspace(-float(span), float(span), points)
    out = _inputs(
        f.leaves, key, rows, labels, given, axis, (lo, hi), apply=f.apply, directions=_kind(directions), batch_size=batch_size,
    )  # fmt: skip
    loss, margin, prediction, u, v, marks = jax.tree.map(np.asarray, out)
    return Landscape(axis, axis.copy(), loss, margin, prediction, u, v, marks, data.y)


def _kind(directions: Any) -> str:
    return directions if isinstance(directions, str) else "witnesses"


def _check_span(span: Any, by: str) -> None:
    if not (np.ndim(span) == 0 and np.isfinite(span) and span > 0):
        raise ValueError(f"{by}: span is one number > 0, got {span!r}")


def _check_witnesses(directions: Any, data: Data) -> Any:
    if isinstance(directions, str):
        if directions not in ("gradient", "random"):
            raise ValueError(f'directions is "gradient", "random" or two arrays of witnesses, got {directions!r}')
        return None
    if not (isinstance(directions, tuple) and len(directions) == 2):
        raise ValueError('directions is "gradient", "random" or a tuple of two arrays of witnesses')
    given = tuple(np.asarray(w, np.float32) for w in directions)
    for k, w in enumerate(given):
        if w.shape != np.shape(data.x):
            raise ValueError(f"directions[{k}] must be witnesses of shape {np.shape(data.x)}, got {w.shape}")
        if not np.isfinite(w).all():
            raise ValueError(f"directions[{k}] must be finite")
    return given


def _orthogonal(v: Any, u: Any) -> tuple[Any, Any]:
    """``v`` less its part along ``u``, and how much of ``u`` that part was."""
    along = vdot(u, v) / jnp.maximum(vdot(u, u), jnp.finfo(u.dtype).tiny)
    return v - along * u, along


def _signs_beside(key: Any, u: Any) -> Any:
    """Random signs that do not lie along the signs ``u``: one of them, at random, is turned where they would."""
    signs = jax.random.rademacher(key, u.shape, u.dtype)
    along = jnp.all(signs == u) | jnp.all(signs == -u)
    one = jnp.arange(u.size).reshape(u.shape) == jax.random.randint(jax.random.fold_in(key, 1), (), 0, u.size)
    return jnp.where(along & one, -signs, signs)


@partial(jax.jit, static_argnames=("apply", "directions", "batch_size"))
def _inputs(
    leaves: Any, key: Any, x: Any, y: Any, given: Any, axis: Any, clip: Any, *, apply: Any, directions: str, batch_size: int
) -> Any:  # fmt: skip
    def plane(i: Any, z: Any, label: Any, witnesses: Any) -> Any:
        k_u, k_v = jax.random.split(jax.random.fold_in(key, i))
        if directions == "witnesses":
            u, to = (w - z for w in witnesses)
            v, along = _orthogonal(to, u)
            return u, v, jnp.array([[0.0, 0.0], [1.0, 0.0], [along, 1.0]])
        u = jax.random.rademacher(k_u, z.shape, z.dtype)
        if directions == "gradient":
            f = objective(apply, leaves, label)
            u = jnp.sign(jax.grad(lambda z: f.climb(ce, z)[0])(z))
        v, _ = _orthogonal(_signs_beside(k_v, u), u)
        return u, v, jnp.zeros((1, 2))

    n, points = len(y), len(axis)
    u, v, marks = jax.vmap(plane)(jnp.arange(n), x, y, given)
    axis = jnp.asarray(axis, x.dtype)

    def at(place: Any) -> Any:
        example, i, j = place

        def take(a: Any) -> Any:
            return a[example]

        z = clamp(take(x) + axis[i] * take(u) + axis[j] * take(v), *clip)
        f = objective(apply, leaves, take(y))
        logits = f.outputs(z)
        return ce(f, logits), f.value(logits), jnp.argmax(logits)

    grid = jnp.meshgrid(jnp.arange(n), jnp.arange(points), jnp.arange(points), indexing="ij")
    out = _loops.map(at, tuple(g.ravel() for g in grid), batch_size=min(batch_size, n * points * points))
    return *(o.reshape(n, points, points) for o in out), u, v, marks


def weight_landscape(
    model: Any,
    x: Any,
    y: Any,
    *,
    span: Any = 1.0,
    directions: tuple[Any, Any] | None = None,
    points: int = 21,
    key: Any,
) -> WeightLandscape:
    """The mean loss over a plane of weights around a trained model, in filter-normalised directions.

    A random direction is normal noise; of every filter (all entries of a weight array that share an index of the last axis, the output
    in Flax) it is scaled to the norm of the model's own filter, so that models of different scale can be compared. Arrays of less than
    two axes (biases, normalisation) stay as they are.

    Args:
      model: as in `evaluate`: an ``nnx.Module``, another pytree of arrays, or a closure, whose arrays are then hoisted. In inference mode.
      x: examples [N, ...] over which the loss is averaged, all at once: some hundreds.
      y: integer labels [N].
      span: coordinates are ``linspace(-span, span, points)``, > 0; at 1 a filter has moved by its own norm.
      directions: None: two random ones, normalised; else two models of the same structure as ``model``: u leads to the first, v to
        the second, neither normalised, biases and normalisation included.
      points: on each axis, >= 2; an odd number has the model itself among them.
      key: one typed PRNG key.

    Returns:
      A `WeightLandscape`; ``.plot()`` makes a figure.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: none; a picture bounds nothing.

    >>> import jax, jax.numpy as jnp
    >>> net = jax.tree_util.Partial(lambda w, x: x @ w, 5 * jnp.eye(2))
    >>> found = weight_landscape(net, jnp.eye(2), jnp.array([0, 1]), points=3, key=jax.random.key(0))
    >>> found.loss.shape, bool(found.loss[1, 1] < 0.01), float(found.accuracy[1, 1])
    ((3, 3), True, 1.0)

    References:
      Li, Xu, Taylor, Studer & Goldstein, Visualizing the loss landscape of neural nets, NeurIPS 2018.
    Deviations:
      A filter is an index of the last axis (Flax's output axis), where PyTorch has the first. Every floating array of two axes and more
      counts as weights: a constant image inside the model would, too.
    """
    check_key(key)
    check_count(points, "points", "weight_landscape", least=2)
    _check_span(span, "weight_landscape")
    data = check_data(x, y)
    rows, labels = data.rows(np.arange(data.n)), jnp.asarray(data.y)
    f = functional(model, rows)
    check_classes(data.y, jax.eval_shape(f.apply, f.leaves, rows).shape[1])
    least = 2 if directions is None else 0  # towards another model everything moves
    moved = [i for i, leaf in enumerate(f.leaves) if _is_weight(leaf, least)]
    if not moved:
        raise ValueError("weight_landscape: the model has no floating array of two axes or more to move")
    weights = [jnp.asarray(f.leaves[i]) for i in moved]
    if directions is None:
        plane = tuple(filter_normalised(k, weights) for k in jax.random.split(key))
    else:
        plane = tuple(_towards(other, k, f, rows, moved) for k, other in enumerate(_pair(directions)))
    axis = np.linspace(-float(span), float(span), points)
    loss, right = _weights(f.leaves, plane, rows, labels, axis, apply=f.apply, moved=tuple(moved))
    return WeightLandscape(axis, axis.copy(), np.asarray(loss), np.asarray(right), data.n)


def filter_normalised(key: Any, weights: Any) -> Any:
    """Normal noise like ``weights`` in which each filter (index of the last axis) has the norm of the weights' own.

    Args:
      key: one typed PRNG key.
      weights: a pytree of floating arrays; where one has less than two axes, its part is zero.

    >>> import jax, jax.numpy as jnp
    >>> w = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
    >>> d = filter_normalised(jax.random.key(0), w)
    >>> jnp.linalg.norm(d["kernel"], axis=0).round(4).tolist(), d["bias"].tolist()
    ([5.0, 2.0], [0.0, 0.0])
    """

    def one(d: Any, w: Any) -> Any:
        if jnp.ndim(w) < 2:
            return jnp.zeros_like(w)
        axes = tuple(range(w.ndim - 1))
        own, drawn = (jnp.sqrt(jnp.sum(a * a, axis=axes, keepdims=True)) for a in (w, d))
        return d * own / (drawn + 1e-10)

    # a module initialised from the same seed drew the same numbers: the direction would be the weights themselves
    return jax.tree.map(one, normal_like(jax.random.fold_in(key, 0x57E1), weights), weights)


def _is_weight(leaf: Any, axes: int) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and np.ndim(leaf) >= axes


def _pair(directions: Any) -> tuple[Any, Any]:
    if not (isinstance(directions, tuple) and len(directions) == 2):
        raise ValueError("directions is None or a tuple of two models of the same structure")
    return directions


def _towards(other: Any, k: int, f: Any, rows: Any, moved: list[int]) -> list[Any]:
    g = functional(other, rows)
    same = g.apply == f.apply and [np.shape(a) for a in g.leaves] == [np.shape(a) for a in f.leaves]
    if not same:
        raise ValueError(f"directions[{k}] is a model of another structure than the one in the middle")
    return [jnp.asarray(g.leaves[i]) - jnp.asarray(f.leaves[i]) for i in moved]


@partial(jax.jit, static_argnames=("apply", "moved"))
def _weights(leaves: Any, plane: Any, x: Any, y: Any, axis: Any, *, apply: Any, moved: tuple[int, ...]) -> Any:
    u, v = plane

    def at(place: Any) -> Any:
        a, b = place
        new = list(leaves)
        for i, du, dv in zip(moved, u, v, strict=True):
            new[i] = (leaves[i] + a * du + b * dv).astype(leaves[i].dtype)

        def one(z: Any, label: Any) -> Any:
            f = objective(apply, tuple(new), label)
            logits = f.outputs(z)
            return ce(f, logits), f.value(logits) < 0

        loss, right = jax.vmap(one)(x, y)
        return jnp.mean(loss), jnp.mean(right)

    a, b = (
        g.ravel() for g in jnp.meshgrid(jnp.asarray(axis, jnp.float32), jnp.asarray(axis, jnp.float32), indexing="ij")
    )
    loss, right = _loops.map(at, (a, b))
    return loss.reshape(len(axis), len(axis)), right.reshape(len(axis), len(axis))
