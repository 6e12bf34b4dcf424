"""The smoothing drivers: predict and certify as Cohen et al., over data sets."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_batch, check_inside, check_key
from jrobust._digest import digest
from jrobust._model import functional, warn_if_random
from jrobust._oracle import Radius, RadiusOracle
from jrobust._placement import Placement
from jrobust._progress import progress_bar
from jrobust._records import open_records
from jrobust._statistics import clopper_pearson, sign_test
from jrobust._tree import bind
from jrobust.smoothing._certificate import Certificate, Prediction
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._votes import votes


def certify(
    model: Any,
    x: Any,
    *,
    noise: Noise,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 1e-3,
    key: Any,
    batch_size: int = 1000,
    mesh: Any = None,
    out: Any = None,
    progress: bool = False,
) -> Certificate:
    """A class and a certified radius for each example, for the classifier that predicts the most likely class under noise.

    ``n0`` draws select a class; ``n`` independent draws bound its probability from below (one-sided Clopper-Pearson,
    float64 on the host); where the bound is below 1/2 it abstains. The answer about example i uses the key
    ``fold_in(key, i)`` and depends neither on the batch size nor on the devices (up to float ties in the logits).

    Args:
      model: the base classifier, batched, ``model(x[B, ...]) -> logits[B, K]``; normalisation belongs inside.
      x: examples [N, ...], floating.
      noise: such as ``gaussian(0.25)``, added in input units.
      n0: selection draws, >= 1.
      n: estimation draws, >= 1. The largest radius that n can certify at alpha is ``noise.certify(alpha**(1/n))``.
      alpha: failure probability of the statement about one example, in (0, 1).
      key: one typed PRNG key.
      batch_size: noisy inputs evaluated at once (rounded up to a multiple of the mesh's devices).
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.
      out: a directory to which results are written; the same call goes on where it stopped, another call is refused.
      progress: draw a bar with rate and time left (needs rich).

    Returns:
      A `Certificate` with ``prediction``, ``radius``, ``counts``.

    Raises:
      ValueError, TypeError: bad input, before any work; ``out`` holds another run.
      OSError: the disk is full (what was written is kept).

    Guarantee: for each example, with probability >= 1 - alpha over the draws: the smoothed classifier is constant,
      equal to ``prediction``, within ``radius``. About the smoothed classifier, not the base one. Assumes real
      arithmetic and ideal noise.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019.

    >>> from jrobust.smoothing import gaussian
    >>> cert = certify(lambda x: jnp.stack([x[:, 0], -x[:, 0]], 1), jnp.array([[1.0, 0.0], [0.01, 0.0]]),
    ...                noise=gaussian(0.5), n=1000, key=jax.random.key(0))
    >>> cert.prediction.tolist(), bool(0.8 < cert.radius[0] <= 1.0)
    ([0, -1], True)
    """
    n0, n = _count("n0", n0), _count("n", n)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    if alpha ** (1 / n) < 0.5:
        warnings.warn(
            f"n={n} draws cannot certify anything at alpha={alpha:g}: even unanimous votes bound the probability by "
            f"{alpha ** (1 / n):.3f} < 1/2, so every example will abstain; take n >= {int(np.ceil(np.log(alpha) / np.log(0.5)))}",
            UserWarning,
            stacklevel=2,
        )
    run = _start(model, x, noise, key, batch_size, mesh)
    header = {
        "kind": "certification",
        "noise": _describe(noise),
        "noise_digest": digest(noise),
        "n0": n0,
        "n": n,
        "alpha": alpha,
    }
    rows: dict[int, dict[str, Any]] = {}
    records = None if out is None else open_records(out, {**header, **run.header()}, name="certification")
    if records is not None:
        rows.update(records.rows)
    try:
        todo = np.array([i for i in range(run.n) if i not in rows], int)
        with progress_bar(progress, run.n, "certify", len(rows)) as advance:
            for index, selection, estimation in run.counts(todo, n0, n):
                chosen = selection.argmax(1)
                hits = estimation[np.arange(len(index)), chosen]
                lower = clopper_pearson(hits, n, alpha)
                certain = lower >= 0.5
                done = [
                    {
                        "i": int(i),
                        "prediction": int(c) if sure else -1,
                        "radius": float(r),
                        "lower": float(p),
                        "selected": int(c),
                        "counts": votes.tolist(),
                    }
                    for i, c, sure, r, p, votes in zip(
                        index, chosen, certain, noise.certify(lower), lower, estimation, strict=True
                    )
                ]
                if records is not None:
                    records.append(done)
                rows.update((row["i"], row) for row in done)
                advance(len(index))
    finally:
        if records is not None:
            records.close()
    column = {k: [rows[i][k] for i in range(run.n)] for k in ("prediction", "radius", "counts", "lower", "selected")}
    return Certificate(
        np.array(column["prediction"], np.int32),
        np.array(column["radius"], np.float64),
        np.array(column["counts"], np.int32),
        np.array(column["lower"], np.float64),
        np.array(column["selected"], np.int32),
        n0,
        n,
        1 - alpha,
        noise.norm,
        _describe(noise),
    )


def predict(
    model: Any,
    x: Any,
    *,
    noise: Noise,
    n: int = 1000,
    alpha: float = 1e-3,
    key: Any,
    batch_size: int = 1000,
    mesh: Any = None,
) -> Prediction:
    """The smoothed classifier's class for each example, or -1 where ``n`` draws do not settle which of two classes leads.

    Args:
      model: the base classifier, batched, ``model(x[B, ...]) -> logits[B, K]``.
      x: examples [N, ...], floating.
      noise: such as ``gaussian(0.25)``.
      n: draws, >= 1; at alpha 0.001 at least 11 are needed to answer at all.
      alpha: probability of a wrong class (other than the most likely one) for each example, in (0, 1).
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `Prediction`.

    Guarantee: an answer other than -1 is the most likely class under the noise, with probability >= 1 - alpha.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019. Hung, Fithian.
      Rank verification for exponential families. Annals of Statistics 2019.

    >>> from jrobust.smoothing import gaussian
    >>> predict(lambda x: jnp.stack([x[:, 0], -x[:, 0]], 1), jnp.array([[1.0], [0.0]]), noise=gaussian(0.5),
    ...         n=100, key=jax.random.key(0)).prediction.tolist()
    [0, -1]
    """
    n = _count("n", n)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    run = _start(model, x, noise, key, batch_size, mesh)
    counts = np.concatenate([selection for _, selection, _ in run.counts(np.arange(run.n), n, 0)])
    top = np.sort(counts, axis=1)
    p = sign_test(top[:, -1], top[:, -2] if counts.shape[1] > 1 else np.zeros(run.n, int))
    return Prediction(np.where(p <= alpha, counts.argmax(1), -1).astype(np.int32), counts, p, n, 1 - alpha)


def cohen(
    noise: Noise, *, n0: int = 100, n: int = 100_000, alpha: float = 1e-3, batch_size: int = 1000
) -> RadiusOracle:
    """`certify` as a `RadiusOracle` on the host: a lower bound on the radius within which the smoothed classifier keeps the label.

    Args:
      noise: such as ``gaussian(0.25)``; the threat must be of its norm.
      n0: selection draws.
      n: estimation draws.
      alpha: failure probability for each example.
      batch_size: noisy inputs evaluated at once.

    Guarantee: probabilistic, confidence 1 - alpha, about the *smoothed* classifier of the objective's outputs. The
      radius is 0 where it abstains or predicts another class than ``f.label``.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    solve = bind(
        _solve,
        noise,
        n0=_count("n0", n0),
        n=_count("n", n),
        alpha=float(alpha),
        batch_size=_count("batch_size", batch_size),
    )
    return RadiusOracle("lower", solve, confidence=1 - alpha, host=True, name=f"cohen({_describe(noise)})")


def _solve(
    noise: Noise, key: Any, f: Any, threat: Any, x: Any, *, n0: int, n: int, alpha: float, batch_size: int
) -> Radius:
    if threat.name != noise.norm:
        raise ValueError(f"{noise.name} noise certifies {noise.norm} radii; the threat is {threat.name}")
    if f.label is None:
        raise ValueError("cohen needs an objective with a label (jr.objectives.classification)")
    run = _Run(noise, f, _outputs, key, x[None], 1, batch_size, Placement())
    ((_, selection, estimation),) = run.counts(np.zeros(1, int), n0, n)
    chosen = int(selection[0].argmax())
    lower = clopper_pearson(estimation[0, chosen], n, alpha)
    radius = noise.certify(lower) if chosen == int(f.label) else np.zeros(())
    return Radius(jnp.asarray(radius, jnp.float32), None, {"lower": jnp.asarray(lower, jnp.float32)})


def _outputs(f: Any, x: Any) -> Any:
    return jax.vmap(f.outputs)(x)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A model, its noise and its data, ready to be counted."""

    noise: Noise
    leaves: Any
    apply: Callable[..., Any]
    key: Any
    x: Any
    n: int
    batch_size: int
    placement: Placement

    def counts(self, todo: np.ndarray, n0: int, n: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Votes of ``n0`` selection draws and ``n`` estimation draws, a group of examples at a time, in the order of ``todo``.

        A selection fills a batch with the draws of several examples; estimations go a few examples at a time, so that
        little is lost at a stop.
        """
        wide = max(1, -(-self.batch_size // n0))
        narrow = min(wide, max(1, -(-8 * self.batch_size // max(n, 1))))
        for start in range(0, len(todo), wide):
            group = todo[start : start + wide]
            selection = self.votes(0, group, 0, n0, wide)
            for first in range(0, len(group), narrow):
                part = slice(first, first + narrow)
                estimation = self.votes(1, group[part], 0, n, wide) if n else selection[part]
                yield group[part], selection[part], estimation

    def votes(self, stage: int, group: np.ndarray, begin: int, end: int, width: int) -> np.ndarray:
        """Counts [len(group), ..., K] of the draws ``begin`` to ``end``, by a program made for ``width`` examples."""
        padded = np.resize(group, width)
        index, x = self.placement.everywhere((padded.astype(np.int32), jnp.asarray(self.x[padded], jnp.float32)))
        out = votes(
            self.noise, self.leaves, self.key, stage, index, x, begin, end, len(group),
            apply=self.apply, batch_size=self.batch_size, placement=self.placement,
        )  # fmt: skip
        return np.asarray(out)[: len(group)]

    def header(self) -> dict[str, Any]:
        from jrobust import __version__

        blocks = [digest(np.asarray(self.x[i : i + 1024], np.float32)) for i in range(0, self.n, 1024)]
        return {
            "jrobust": __version__,
            "examples": self.n,
            "data": digest(tuple(blocks)),
            "model": digest((self.apply, self.leaves)),
            "key": [str(jax.random.key_impl(self.key)), np.asarray(jax.random.key_data(self.key)).tolist()],
        }


def _start(model: Any, x: Any, noise: Noise, key: Any, batch_size: int, mesh: Any) -> _Run:
    """Check the input, take the model apart, place it on the mesh."""
    if not isinstance(noise, Noise):
        raise TypeError(f"noise is made by jr.smoothing.gaussian(sigma), got {type(noise).__name__}")
    check_key(key)
    batch_size = _count("batch_size", batch_size)
    x = x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x)
    check_batch(x)
    if x.ndim < 2:
        raise ValueError(f"x must be a batch [N, ...], got shape {tuple(x.shape)}")
    for start in range(0, len(x), 1024):
        check_inside(np.asarray(x[start : start + 1024]), start)
    first = np.asarray(x[:4], np.float32)
    f = functional(model, first)
    warn_if_random(model, first)
    placement = Placement(mesh)
    if mesh is not None:
        batch_size = -(-batch_size // mesh.size) * mesh.size
    leaves, key = placement.everywhere((f.leaves, key))
    return _Run(
        noise, leaves, f.apply, key, x if isinstance(x, np.ndarray) else np.asarray(x), len(x), batch_size, placement
    )


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < 2**27:
        raise ValueError(f"{name} must be an int in 1..{2**27 - 1}, got {value!r}")
    return int(value)


def _describe(noise: Noise) -> str:
    return f"{noise.name} {float(noise.scale):g}"
