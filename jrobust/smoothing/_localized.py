"""Localized smoothing: outputs with noises of their own, and how many of them one perturbation can change at most."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count, check_truth
from jrobust._statistics import clopper_pearson
from jrobust.smoothing._noise import anisotropic
from jrobust.smoothing._run import check_alpha, count, start


@dataclasses.dataclass(frozen=True)
class LocalizedCertificate:
    """What is known of every output of the locally smoothed model; arrays on the host.

    Attributes:
      prediction: int32 [N, ...]: the class that won the output's selection draws.
      lower: float64 [N, ...]: the lower confidence bound on its probability, all outputs of an example together.
      cells: int [...]: the cell of every output.
      sigma: float64 [I, J]: noise in input cell j for the outputs of cell i.
      classes: that the model knows.
      n0, n: selection and estimation draws of each output cell.
      confidence: 1 - alpha, all outputs of an example together.
      norm: of the perturbations counted against.
      side: "lower": at least so many outputs stay.
    """

    prediction: np.ndarray
    lower: np.ndarray
    cells: np.ndarray
    sigma: np.ndarray
    classes: int
    n0: int
    n: int
    confidence: float
    norm: str = "l2"
    side: Literal["lower"] = "lower"

    def robust(
        self, eps: Any, y: Any = None, *, together: bool = True, integer: bool = False, bins: int = 32
    ) -> np.ndarray:
        """int [N]: how many outputs keep their class under every perturbation of l2 length ``eps``.

        Args:
          eps: >= 0, finite, in input units.
          y: int labels [N, ...]: count those outputs alone that are predicted right; -1 is an output without a true class (void),
            which is not counted.
          together: one perturbation for all outputs (`collective`); False: each output at its own worst one.
          integer: solve the integer program instead of its relaxation.
          bins: distinct radii of a cell, >= 2; where there are more they are rounded down to so many of them.

        Raises:
          ValueError, TypeError: bad input.
        """
        from scipy.special import ndtri

        _check_length(eps)
        check_count(bins, "bins", "robust", least=2)
        counted = np.ones(self.prediction.shape, bool)
        if y is not None:
            counted = self.prediction == check_truth(y, self.prediction.shape, self.classes, void=True)
        weights, out = 1 / self.sigma**2, []
        for lower, of in zip(self.lower, counted, strict=True):
            held = of & (lower > 0.5)
            eta = np.where(held, ndtri(np.where(held, lower, 0.75)) ** 2, 0.0)
            rows, etas, many = [], [], []
            for i in range(len(weights)):
                mine = eta[held & (self.cells == i)]
                if not len(mine):
                    continue
                distinct = np.unique(mine)
                levels = distinct[np.unique(np.linspace(0, len(distinct) - 1, bins).astype(int))]
                of_level = np.bincount(np.searchsorted(levels, mine, side="right") - 1)
                rows += [weights[i]] * len(levels)
                etas += levels.tolist()
                many += of_level.tolist()
            if not rows:
                out.append(0)
            elif together:
                out.append(collective(np.array(rows), np.array(etas), eps, many=np.array(many), integer=integer))
            else:
                out.append(int(sum(m for w, e, m in zip(rows, etas, many, strict=True) if _safe(w, e, eps))))
        return np.array(out)


def localized(
    model: Any,
    x: Any,
    *,
    sigma: Any,
    inputs: Any,
    outputs: Any,
    n0: int = 100,
    n: int = 1000,
    alpha: Any = 1e-3,
    key: Any,
    batch_size: int | None = None,
) -> LocalizedCertificate:
    """A model with several outputs, smoothed for each cell of outputs with a noise of its own: little nearby, more far away.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, ..., K]``, an output for each pixel.
      x: examples [N, ...], floating.
      sigma: [I, J], > 0: standard deviation in input cell j for the outputs of cell i. One for all examples, chosen without them.
      inputs: int array that broadcasts to an example: the cell of each entry, 0..J-1.
      outputs: int array [...] of the outputs' shape: the cell of each, 0..I-1.
      n0: selection draws for each output cell, >= 1.
      n: estimation draws for each output cell, >= 1.
      alpha: failure probability of the statement about all outputs of one example, in (0, 1); shared equally among them.
      key: one typed PRNG key.
      batch_size: noisy inputs evaluated at once; None: by the memory that is left.

    Returns:
      A `LocalizedCertificate`; ``.robust(eps)`` counts the outputs that one perturbation cannot change.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: for each example, with probability >= 1 - alpha over the draws and for every eps: whatever the perturbation of l2 length
      eps, at least ``robust(eps)`` outputs of the smoothed model keep ``prediction``. Assumes real arithmetic and ideal noise.

    References:
      Schuchardt, Wollschlaeger, Bojchevski, Guennemann. Localized randomized smoothing for collective robustness certification. ICLR 2023.

    Deviations: Gaussian noise alone. Outputs that no perturbation of that length changes are counted before the linear program, which may
      otherwise say less than they do.

    >>> import jax
    >>> done = localized(lambda x: jnp.stack([x, -x], -1), jnp.array([[0.6, -0.6]]), sigma=[[0.2, 0.8], [0.8, 0.2]],
    ...                  inputs=[0, 1], outputs=[0, 1], key=jax.random.key(0))
    >>> done.prediction.tolist(), [done.robust(eps).tolist() for eps in (0.2, 0.55, 1.0)]
    ([[0, 1]], [[2], [1], [0]])
    """
    n0, n, alpha = count("n0", n0), count("n", n), check_alpha(alpha)
    sigma, inputs, outputs = np.asarray(sigma, np.float64), np.asarray(inputs), np.asarray(outputs)
    if sigma.ndim != 2 or not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ValueError(f"sigma is a table [I, J] of numbers > 0, got shape {sigma.shape}")
    for name, cells, most in (("inputs", inputs, sigma.shape[1]), ("outputs", outputs, sigma.shape[0])):
        if cells.dtype.kind not in "iu" or cells.min() < 0 or cells.max() >= most:
            raise ValueError(f"{name} are cells 0..{most - 1}, got {cells.dtype} from {cells.min()} to {cells.max()}")
    levels = sigma[:, inputs]
    run = start(model, x, anisotropic(jnp.asarray(levels[0], jnp.float32)), key, batch_size, None, dense=True)
    *has, classes = jax.eval_shape(run.apply, run.leaves, jax.ShapeDtypeStruct((1, *run.shape), jnp.float32)).shape[1:]
    if tuple(has) != outputs.shape:
        raise ValueError(f"the model has outputs {tuple(has)}, their cells are {outputs.shape}")
    width = min(
        run.width(n0), max(1, 8 * run.batch_size // n)
    )  # examples worked on together: few, where each has many draws
    predictions, lowers = [], []
    for first in range(0, run.n, width):
        group = np.arange(first, min(first + width, run.n))
        prediction = np.zeros((len(group), *outputs.shape), np.int32)
        hits = np.zeros(prediction.shape, int)
        for i, level in enumerate(levels):
            # float32 rounds the level that is drawn; what is certified with is the table's, at most that by a part in 10 million
            mine = dataclasses.replace(run, noise=anisotropic(jnp.asarray(level, jnp.float32)))
            chosen = mine.votes(2 * i, group, 0, n0, width).argmax(-1)
            estimation = mine.votes(2 * i + 1, group, 0, n, width)
            votes = np.take_along_axis(estimation, chosen[..., None], -1)[..., 0]
            prediction, hits = np.where(outputs == i, chosen, prediction), np.where(outputs == i, votes, hits)
        predictions.append(prediction.astype(np.int32))
        lowers.append(clopper_pearson(hits, n, alpha / outputs.size))
    prediction, lower = np.concatenate(predictions), np.concatenate(lowers)
    return LocalizedCertificate(prediction, lower, outputs, sigma, classes, n0, n, 1 - alpha)


def _check_length(eps: Any) -> None:
    if np.ndim(eps) or not 0 <= eps < np.inf:
        raise ValueError(f"eps is one length, >= 0 and finite, got {eps!r}")


def _safe(weights: np.ndarray, eta: Any, eps: Any) -> Any:
    """Whether no perturbation of length eps reaches ``eta``, wherever it lies."""
    return eps**2 * weights.max(-1) * (1 + 1e-6) < eta


def collective(weights: Any, eta: Any, eps: Any, *, many: Any = None, integer: bool = False) -> int:
    """How many of several outputs one perturbation leaves, at least, if output g falls only where ``weights[g] @ b >= eta[g]``.

    Args:
      weights: [G, J], >= 0: what an output loses by a squared length of 1 in input cell j, ``1 / sigma[g, j]**2``.
      eta: [G], >= 0: what it can lose, ``Phi^-1(q)**2``.
      eps: the perturbation's length, finite; ``b >= 0`` are squared lengths in the cells, at most ``eps**2`` together.
      many: int [G]: how many outputs a row stands for; 1 by default.
      integer: solve the integer program (exact, slower) instead of its relaxation.

    Returns:
      A number of outputs. Of the relaxation: from the multipliers that the solver returns, by weak duality, so that its tolerance
      does not matter; at least the number of outputs that are safe each by itself.

    Raises:
      ValueError: shapes, or negative numbers.

    >>> near, far = 25.0, 25.0 / 16
    >>> [collective([[near, far], [far, near]], [9.0, 9.0], eps) for eps in (0.5, 0.7, 0.82, 0.9)]
    [2, 1, 1, 0]
    """
    weights, eta = np.asarray(weights, np.float64), np.asarray(eta, np.float64)
    many = np.ones(len(eta), int) if many is None else np.asarray(many)
    if weights.ndim != 2 or eta.shape != weights.shape[:1] or many.shape != eta.shape:
        raise ValueError(f"weights are [G, J] and eta [G], got {weights.shape} and {eta.shape}")
    _check_length(eps)
    if not ((weights >= 0).all() and (eta >= 0).all() and (many >= 0).all()):
        raise ValueError("weights, eta and many are >= 0")
    safe = _safe(weights, eta, eps)
    open_ = ~safe & (eta > 0)
    alone = int(many[safe].sum())
    if not open_.any():
        return alone
    part = (
        (weights / np.where(eta > 0, eta, 1)[:, None])[open_] * eps**2 * (1 + 1e-6)
    )  # of eta, if all goes into cell j
    return alone + (_integer if integer else _relaxed)(part, many[open_])


def _relaxed(part: np.ndarray, many: np.ndarray) -> int:
    """A bound from below on ``min sum many t``, ``t >= 1 - part @ b``, t >= 0, b in the simplex, by the dual solution."""
    from scipy.optimize import linprog

    groups, cells = part.shape
    solved = linprog(
        np.r_[np.zeros(cells), many],
        A_ub=np.block([[-part, -np.eye(groups)], [np.ones((1, cells)), np.zeros((1, groups))]]),
        b_ub=np.r_[-np.ones(groups), 1.0],
        method="highs",
    )
    if solved.status != 0:
        return 0
    # any multipliers in [0, many] give a bound: sum of them less the most that one cell takes off
    duals = np.clip(-solved.ineqlin.marginals[:groups], 0, many)
    return max(0, int(np.ceil(duals.sum() - (duals @ part).max() - 1e-7)))


def _integer(part: np.ndarray, many: np.ndarray) -> int:
    """The same with t in {0, 1}: the solver's bound."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    groups, cells = part.shape
    solved = milp(
        np.r_[np.zeros(cells), many],
        constraints=[
            LinearConstraint(np.hstack([part, np.eye(groups)]), lb=1.0),
            LinearConstraint(np.r_[np.ones(cells), np.zeros(groups)][None], ub=1.0),
        ],
        integrality=np.r_[np.zeros(cells), np.ones(groups)],
        bounds=Bounds(0, 1),
        options={"time_limit": 60.0},  # a bound it is whenever it stops
    )
    bound = solved.mip_dual_bound
    return max(0, int(np.ceil(bound - 1e-6))) if bound is not None and np.isfinite(bound) else 0
