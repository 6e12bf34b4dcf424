"""CLEVER: how far the nearest boundary lies, guessed from the largest gradients seen around an example. No certificate."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._tree import bind
from jrobust.evaluation.metrics._driver import BALLS, Scores, check_ball, each, length
from jrobust.evaluation.metrics._extreme import upper_end

_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def _slopes(rows: Any, f: Any, z: Any, kind: str) -> Any:
    gradients = jax.jacrev(lambda z: f(z)[rows])(z)
    return jax.vmap(lambda g: length(g, _DUAL[kind]))(gradients)


def _curvatures(key: Any, rows: Any, f: Any, z: Any, iterations: int) -> Any:
    """The largest singular value of the Hessian of each margin, by the power method."""

    def one(row: Any) -> Any:
        slope = jax.grad(lambda z: f(z)[row])

        def step(_: Any, v: Any) -> Any:
            size = jnp.sqrt(jnp.sum(v * v))
            return jax.jvp(slope, (z,), (v / jnp.where(size > 0, size, 1.0),))[1]

        v = _loops.fori_loop(0, iterations, step, jax.random.normal(key, z.shape, z.dtype))
        return jnp.sqrt(jnp.sum(v * v))

    return jax.vmap(one)(rows)


def _measure(
    threat: Any,
    key: Any,
    f: Any,
    x: Any,
    *,
    kind: str,
    targets: Any,
    samples: int,
    batches: int,
    order: int,
    iterations: int,
) -> dict[str, Any]:
    s = threat(x)
    others = f(x)
    largest, rows = jax.lax.top_k(others, others.shape[0] if targets is None else min(targets, others.shape[0]))

    def maxima(key: Any) -> Any:
        def one(key: Any) -> Any:
            where, start = jax.random.split(key)
            z = s.sample(where)
            return _slopes(rows, f, z, kind) if order == 1 else _curvatures(start, rows, f, z, iterations)

        return jnp.max(jax.vmap(one)(jax.random.split(key, samples)), axis=0)

    found = _loops.map(maxima, jax.random.split(key, batches))
    return {"margin": -largest, "row": rows, "slope": _slopes(rows, f, x, kind), "maxima": found}


def clever(
    model: Any,
    x: Any,
    y: Any,
    *,
    threat: Any,
    key: Any,
    order: Literal[1, 2] = 1,
    targets: int | None = None,
    samples: int = 1024,
    batches: int = 500,
    iterations: int = 10,
    batch_size: int = 4,
) -> Scores:
    """CLEVER: the margin over the largest gradient norm in a ball, the latter guessed by extreme value theory.

    First order: ``min_j min(g_j(x) / L_j, R)`` with the margins ``g_j = z_y - z_j`` and L_j the end of the reversed Weibull law fitted
    to ``batches`` maxima over ``samples`` of the dual norm of the gradient. Second order: L_j is that of the spectral norm of the
    Hessian, and the radius solves ``g_j - |grad g_j| r - L_j r^2 / 2 = 0``.

    Args:
      model: as in `jr.evaluate`; for the second order twice differentiable (a ReLU net's Hessian is 0 almost everywhere). Of a random
        one the mean of the n draws that the example keeps.
      x: [N, ...].
      y: labels [N].
      threat: `jr.sets.linf`, `l2` or `l1` (second order: l2) of radius R; points are drawn from it uniformly, then clipped.
      key: one typed PRNG key.
      order: 1 or 2.
      targets: how many of the classes nearest in margin to ask; None: all others (one backward pass each).
      samples: points a batch, >= 1.
      batches: maxima for the fit, >= 5.
      iterations: of the power method (second order).
      batch_size: examples at a time; each holds ``samples`` points at once.

    Returns:
      `Scores` of side "estimate": radii in [0, R], 0 where the prediction is wrong. ``info``: ``target``, the class that decides,
      its ``lipschitz`` (L_j) and ``p_value`` of the fit, and ``degenerate``: the fit failed (maxima all but equal, no interior optimum,
      or p-value < 0.001) and the largest value seen stands in for L_j.

    Guarantee: none. Gradients may be larger where no sample fell, and a model whose gradients are masked has a large score.

    Raises:
      ValueError: another threat, order or count.

    >>> import jrobust as jr
    >>> w = jnp.array([[3.0, 0.0], [4.0, 0.0]])  # a linear model: the exact distance, by the fallback
    >>> found = clever(lambda x: x @ w, jnp.ones((1, 2)), jnp.array([0]), threat=jr.sets.l2(5.0), key=jax.random.key(0),
    ...                samples=4, batches=5)
    >>> print(found.values.round(4), found.info["degenerate"])
    [1.4] [ True]

    References:
      Weng et al., Evaluating the robustness of neural networks: an extreme value theory approach, ICLR 2018; On extensions of CLEVER,
      GlobalSIP 2018. Goodfellow, Gradient masking causes CLEVER to overestimate adversarial perturbation size, 2018.
    Deviations:
      The likelihood is profiled over the end (shape >= 1, where it is bounded) from 36 starts, not climbed from 7 shapes; a fit
      whose end runs off to infinity is degenerate here. Batches are drawn independently, not from one pool.
    """
    threat = check_ball(threat, "clever", ("l2",) if order == 2 else BALLS)
    if order not in (1, 2):
        raise ValueError(f"clever: order is 1 or 2, got {order!r}")
    for name, count, least in (("samples", samples, 1), ("batches", batches, 5), ("iterations", iterations, 1)):
        check_count(count, name, "clever", least=least)
    if targets is not None:
        check_count(targets, "targets", "clever")
    measure = bind(
        _measure,
        threat,
        kind=threat.name,
        targets=targets,
        samples=samples,
        batches=batches,
        order=order,
        iterations=iterations,
    )
    found = each(measure, model, x, y, key=key, batch_size=batch_size, by="clever")
    return _scores(found, np.asarray(y), float(threat.eps), order)


def _scores(found: dict[str, np.ndarray], y: np.ndarray, radius: float, order: int) -> Scores:
    maxima = found["maxima"].astype(np.float64)  # [N, batches, targets]
    n, _, top = maxima.shape
    ends = [[upper_end(maxima[i, :, j]) for j in range(top)] for i in range(n)]
    bound = np.array([[e.value for e in row] for row in ends])
    margin, slope = found["margin"].astype(np.float64), found["slope"].astype(np.float64)
    speed = bound if order == 1 else (slope + np.sqrt(slope**2 + 2 * bound * np.maximum(margin, 0))) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.where(speed > 0, margin / speed, np.where(np.isnan(speed), np.nan, np.inf))
    radii = np.where(margin > 0, np.minimum(radii, radius), np.where(np.isnan(margin), np.nan, 0.0))
    at = np.arange(n), radii.argmin(1)  # NaN first
    row = found["row"][at]
    info = {
        "target": row + (row >= y),
        "lipschitz": bound[at],
        "p_value": np.array([[e.p_value for e in r] for r in ends])[at],
        "degenerate": np.array([[e.degenerate for e in r] for r in ends])[at],
    }
    return Scores(radii[at], "estimate", info, most=radius)
