"""Point clouds: votes of random subsamples (PointGuard), and of disjoint parts made by a hash (PointCert)."""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count, check_truth
from jrobust._model import functional
from jrobust._statistics import Accuracy, proportion
from jrobust._tree import bind
from jrobust.smoothing._ballot import ballots, leads
from jrobust.smoothing._discrete import _counted, share
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._run import count, start
from jrobust.smoothing._votes import won
from jrobust.typing import Array, Float, Int, PRNGKeyArray

CHANGES = ("modify", "add", "delete", "any")


def subsample(keep: int, *, change: str = "any") -> Noise:
    """PointGuard: ``keep`` of the n points of a cloud, at random and in random order; certifies how many points may change.

    Args:
      keep: points of a subsample, >= 1. Structure.
      change: "modify" moves points, "add" and "delete" change their number, "any" does all three (r is then the larger cloud's size less
        the points that both share). Structure; the samples do not depend on it.

    Returns:
      A `Noise` on clouds [n, C] whose samples are [keep, C]: the base classifier is one of such clouds. Its radius counts points and
      depends on n, so `Noise.certify` is told ``shape``.

    Guarantee: of the C(n, k) subsamples, the C(m, k) that lie in the m points which both clouds share are the same; the class wins while
      ``p - q > 1 - 2 C(m, k) / C(n, k) + C(n', k) / C(n, k)`` with n' points after the change, for it and all smaller changes. In "any"
      every n' is tried. A cloud of fewer than ``keep`` points is not certified.

    References:
      Liu, Jia, Gong. PointGuard: provably robust 3D point cloud classification. CVPR 2021.

    >>> [float(subsample(16, change=c).certify(0.99, shape=(1024, 3))) for c in ("modify", "add", "delete", "any")]
    [41.0, 44.0, 220.0, 41.0]
    """
    check_count(keep, "keep", "subsample")
    if change not in CHANGES:
        raise ValueError(f"subsample: change is one of {', '.join(CHANGES)}, got {change!r}")
    draw, radius = _subsamples(keep, change)
    return Noise((), draw, radius, f"points ({change})", f"subsample {keep}")


@lru_cache
def _subsamples(keep: int, change: str) -> tuple[Any, Any]:
    def draw(scale: Any, key: PRNGKeyArray, x: Array) -> Array:
        _check_cloud(x.shape, keep)
        return x[jax.random.choice(key, x.shape[0], (keep,), replace=False)]

    def radius(scale: Any, lower: Any, upper: Any, shape: Any, norm: str) -> Any:
        if shape is None:
            raise ValueError("the radius of subsample depends on the number of points: pass shape=")
        n = _check_cloud(shape, keep)
        return _counted(lambda p, q, r: p - q > _needed(n, keep, r, change) + 1e-9, lower, upper, n)

    return draw, radius


def _needed(n: int, k: int, r: int, change: str) -> float:
    """The lead above which r changes of n points cannot turn the vote of subsamples of k."""
    if change == "any":
        return max(_lead(n, k, other, max(n, other) - r) for other in range(max(0, n - r), n + r + 1))
    other = {"modify": n, "add": n + r, "delete": n - r}[change]
    return _lead(n, k, other, n if change == "add" else n - r)


def _lead(n: int, k: int, other: int, shared: int) -> float:
    """``1 - 2 C(shared, k) / C(n, k) + C(other, k) / C(n, k)``."""
    if other < k:
        return np.inf
    return 1 - 2 * share(shared, n, k) + share(other, n, k)


def _check_cloud(shape: tuple[int, ...], least: int) -> int:
    if len(shape) != 2 or shape[0] < least:
        raise ValueError(f"a cloud is [n, C] with n >= {least} points, got shape {tuple(shape)}")
    return shape[0]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Parts:
    """The disjoint parts of a point cloud; `parts` makes one.

    Attributes:
      groups: how many there are.
    """

    groups: int

    def of(self, x: Float[Array, "n c"]) -> Int[Array, " n"]:
        """The part of every point: a hash of its coordinates, whatever else is in the cloud."""
        bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x).astype(jnp.float32), jnp.uint32)  # -0 is 0
        h = jnp.full(x.shape[0], 2166136261, jnp.uint32)
        for column in range(x.shape[1]):
            h = (h ^ bits[:, column]) * jnp.uint32(0x9E3779B1)
            h = (h ^ (h >> 15)) * jnp.uint32(0x85EBCA6B)
            h = h ^ (h >> 13)
        return (h % jnp.uint32(self.groups)).astype(jnp.int32)

    def at(self, x: Float[Array, "n c"], group: Any) -> Float[Array, "n c1"]:
        """One part: its points with a mark of 1 as one channel more, all others zero."""
        mine = (self.of(x) == group)[:, None]
        return jnp.where(mine, jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1), 0)

    def sample(self, key: PRNGKeyArray, x: Float[Array, "n c"]) -> Float[Array, "n c1"]:
        """A random part: what the base classifier is trained on."""
        return self.at(x, jax.random.randint(key, (), 0, self.groups))


def parts(groups: int) -> Parts:
    """A cloud cut into disjoint parts by a hash of each point's coordinates.

    Args:
      groups: how many, >= 1.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(12.0).reshape(4, 3)
    >>> bool((sum(parts(5).at(x, g) for g in range(5))[:, :3] == x).all())
    True
    """
    return Parts(count("groups", groups))


@dataclasses.dataclass(frozen=True)
class PointCertificate:
    """Votes of the parts, and how many points may change; arrays on the host.

    Attributes:
      prediction: int32 [N]; never abstains (the smaller index wins a tie).
      counts: int32 [N, K]: parts that voted for the class.
      slack: int32 [N]: by how many votes the class leads each other, one less where the other would win a tie; the least of them.
      confidence: 1, nothing is drawn.
    """

    prediction: np.ndarray
    counts: np.ndarray
    slack: np.ndarray
    confidence: float = 1.0

    def certified(self, change: str = "any") -> np.ndarray:
        """int [N]: how many points may be added or deleted ("add", "delete"), or moved as well ("modify", "any")."""
        if change not in CHANGES:
            raise ValueError(f"change is one of {', '.join(CHANGES)}, got {change!r}")
        return self.slack // (2 if change in ("add", "delete") else 4)

    def accuracy(self, y: Any, points: int = 0, change: str = "any", *, level: float = 0.95) -> Accuracy:
        """The share that is predicted as ``y`` and certified against that many changes."""
        y = check_truth(y, self.prediction.shape, self.counts.shape[1])
        held = (self.prediction == y) & (self.certified(change) >= points)
        return proportion(int(held.sum()), len(held), side="upper", level=level)


def pointcert(model: Any, x: Any, *, parts: Any, batch_size: int | None = None) -> PointCertificate:
    """The vote of the disjoint parts of each cloud, and how many points may change; needs no sampling.

    A point that is added or deleted changes one part, a point that moves two, and a part one vote of the winner's and one of another's.

    Args:
      model: the base classifier of marked clouds, ``model(z[B, n, C + 1]) -> logits[B, K]``; train it on ``parts.sample(key, x)``. It
        answers by the marked rows alone: neither their order nor where the others stand matters, nor how many of those there are,
        none included (multiply features by the mark before a sum, and before a maximum if they are >= 0). This is looked at in the
        fullest part, the smallest with a point and one without of each of the first four clouds: as they are, shuffled, with three
        more unmarked rows, and without any.
      x: clouds [N, n, C], floating.
      parts: such as ``parts(16)``.
      batch_size: parts evaluated at once; None: by the memory that is left.

    Returns:
      A `PointCertificate`.

    Raises:
      ValueError, TypeError: bad input, or a model that is seen to look at more than the marked rows, before any work.

    Guarantee: deterministic. No change of at most ``certified(change)`` points changes the voted class. Assumes that the model's class
      of one part depends on its marked points alone (a maximum over them does; a sum up to rounding), in all clouds and parts and not
      only in those that were looked at.

    References:
      Zhang, Jia, Liu, Gong. PointCert: point cloud classification with deterministic certified robustness guarantees. CVPR 2023.

    Deviations: a mixing hash of 32 bits instead of MD5; a part without points votes as the model says of an empty cloud.

    >>> import jax.numpy as jnp
    >>> def high(z):  # are the marked points above 0?
    ...     s = (z[..., 2] * z[..., 3]).sum(1)
    ...     return jnp.stack([-s, s], 1)
    >>> done = pointcert(high, jnp.arange(1.0, 97).reshape(1, 32, 3), parts=parts(8))
    >>> done.prediction.tolist(), done.certified("add").tolist(), done.certified("modify").tolist()
    ([1], [3], [1])
    """
    if not isinstance(parts, Parts):
        raise TypeError(f"parts are made by jr.smoothing.parts(groups), got {type(parts).__name__}")
    if np.ndim(x) != 3:
        raise ValueError(f"x must be clouds [N, n, C], got shape {np.shape(x)}")
    noise = Noise((), bind(_part, parts=parts), bind(_part), "points", "parts")
    run = start(model, x, noise, jax.random.key(0), batch_size, None)
    _check_sets(model, run.x[:4], parts)
    counts = ballots(run, parts, parts.groups, bind(_one))
    prediction, slack = leads(counts, 4 * parts.groups)
    return PointCertificate(prediction, counts, slack)


def _one(logits: Array) -> Array:
    """A vote for the largest logit, none where there is a NaN."""
    return won(logits) * ~jnp.isnan(logits).any(-1, keepdims=True)


def _part(scale: Any, key: PRNGKeyArray, x: Array, *, parts: Parts) -> Array:
    return parts.sample(key, x)


def _check_sets(model: Any, clouds: np.ndarray, parts: Parts) -> None:
    """The model must see the marked rows alone, as a set, whatever else is in the list."""
    looked = []
    for x in jnp.asarray(clouds, jnp.float32):
        many = np.bincount(parts.of(x), minlength=parts.groups)
        least = np.where(many > 0, many, many.max() + 1).argmin()
        looked += [parts.at(x, group) for group in sorted({int(many.argmax()), int(least), int(many.argmin())})]
    z = np.stack(looked)
    shuffled = np.random.default_rng(0).permutation(z, axis=1)
    wider = np.concatenate([np.zeros_like(z[:, :3]), z[:, ::-1]], 1)
    said = _answers(model, z)
    others = [
        (_answers(model, shuffled), said, "the order of the rows"),
        (_answers(model, wider), said, "how many rows are not marked"),
    ]
    marked = z[..., -1] > 0
    for rows in np.unique(marked.sum(1)):
        if rows:
            of = marked.sum(1) == rows
            alone = z[of][marked[of]].reshape(of.sum(), rows, -1)
            others.append((_answers(model, alone), said[of], "whether any rows are not marked"))
    for a, b, what in others:
        if not np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise ValueError(f"the model's answer must depend on the marked points alone; it depends on {what}")


def _answers(model: Any, z: np.ndarray) -> np.ndarray:
    """What the model says of lists of that many rows; it is taken apart anew, as the program of one length is none of another."""
    try:
        f = functional(model, z)
        return np.asarray(jax.jit(f.apply)(f.leaves, z))
    except Exception as error:
        raise ValueError(f"the model must take clouds of any number of points; it failed on {z.shape[1]}") from error
