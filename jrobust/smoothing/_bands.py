"""De-randomised smoothing against patches: a vote over every band of the image, of which a patch meets only so many."""

import dataclasses
import warnings
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Accuracy, proportion
from jrobust._tree import bind
from jrobust.smoothing._ballot import ballots, leads
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._run import count, start
from jrobust.typing import Array, Float, PRNGKeyArray


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Bands:
    """Which parts of an image are kept, one at a time, the rest erased; `bands` makes one.

    Attributes:
      size: width of a band or side of a block, in pixels.
      kind: "columns", "rows" or "blocks"; all wrap around the edges.
    """

    size: int
    kind: str

    def at(self, x: Float[Array, "h w c"], position: Any) -> Float[Array, "h w c2"]:
        """``x`` with all but one part erased, and 1 - x likewise: 2C channels, both 0 where erased."""
        height, width = x.shape[:2]
        row, column = jnp.arange(height)[:, None], jnp.arange(width)[None]
        if self.kind == "columns":
            kept = jnp.broadcast_to((column - position) % width < self.size, (height, width))
        elif self.kind == "rows":
            kept = jnp.broadcast_to((row - position) % height < self.size, (height, width))
        else:
            kept = ((row - position // width) % height < self.size) & ((column - position % width) % width < self.size)
        return jnp.where(kept[..., None], jnp.concatenate([x, 1 - x], -1), 0)

    def sample(self, key: PRNGKeyArray, x: Float[Array, "h w c"]) -> Float[Array, "h w c2"]:
        """``x`` at a random position: what the base classifier is trained on."""
        return self.at(x, jax.random.randint(key, (), 0, self.positions(x.shape)))

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many positions there are in an image [H, W, C]."""
        return {"columns": shape[1], "rows": shape[0], "blocks": prod(shape[:2])}[self.kind]

    def touched(self, shape: tuple[int, ...], height: int, width: int) -> int:
        """At how many positions the part kept meets a patch of ``height`` x ``width`` pixels, at most."""
        down, across = min(height + self.size - 1, shape[0]), min(width + self.size - 1, shape[1])
        return {"columns": across, "rows": down, "blocks": down * across}[self.kind]


def bands(size: int, *, kind: str = "columns") -> Bands:
    """Columns, rows or blocks of an image, kept one at a time.

    Args:
      size: width of a band or side of a block, in pixels, >= 1.
      kind: "columns", "rows" or "blocks".

    >>> bands(4).touched((32, 32, 3), 5, 5), bands(4, kind="blocks").touched((32, 32, 3), 5, 5)
    (8, 64)
    """
    if kind not in ("columns", "rows", "blocks"):
        raise ValueError(f"kind is columns, rows or blocks, got {kind!r}")
    return Bands(count("size", size), kind)


@dataclasses.dataclass(frozen=True)
class PatchCertificate:
    """Votes of the bands, and the patches that cannot change who wins; arrays on the host.

    Attributes:
      prediction: int32 [N], the smaller index at a tie; -1 where no class has a vote.
      counts: int32 [N, K]: positions at which the class reached the threshold.
      slack: int32 [N]: by how many votes the class leads each other, one less where the other would win a tie; the least of them.
      shape: of an image, (H, W, C).
      bands: what was voted on.
      confidence: 1, nothing is drawn.
    """

    prediction: np.ndarray
    counts: np.ndarray
    slack: np.ndarray
    shape: tuple[int, ...]
    bands: Bands
    confidence: float = 1.0

    def certified(self, height: int, width: int | None = None) -> np.ndarray:
        """bool [N]: no patch of ``height`` x ``width`` pixels (square if one is given), anywhere, changes the prediction."""
        height, width = count("height", height), count("width", height if width is None else width)
        return self.slack >= 2 * self.bands.touched(self.shape, height, width)

    def largest(self) -> np.ndarray:
        """int [N]: side of the largest square patch that is certified, 0 where none is."""
        sides = [self.certified(m) for m in range(1, max(self.shape[:2]) + 1)]
        return np.sum(np.logical_and.accumulate(sides), 0)

    def accuracy(self, y: Any, height: int | None = None, width: int | None = None, *, level: float = 0.95) -> Accuracy:
        """The share that is predicted as ``y``; with a patch given (as in `certified`), that is certified against it besides."""
        if height is None and width is not None:
            raise ValueError(f"a patch is given by its height, or its height and width; got width={width!r} alone")
        y = check_truth(y, self.prediction.shape, self.counts.shape[1])
        held = (self.prediction == y) & (True if height is None else self.certified(height, width))
        return proportion(int(held.sum()), len(held), side="upper", level=level)


def derandomized(
    model: Any,
    x: Any,
    *,
    bands: Any,
    threshold: Any = 0.3,
    batch_size: int | None = None,
) -> PatchCertificate:
    """The vote over all bands of each image, and a certificate against patches that needs no sampling.

    At every position a class gets a vote if its softmax is at least ``threshold`` there (several classes may, or none).
    A patch meets D positions, takes at most D votes from the winner and gives at most D to another class.

    Args:
      model: the base classifier of erased images, ``model(z[B, H, W, 2C]) -> logits[B, K]``; train it on ``bands.sample(key, x)``.
      x: images [N, H, W, C] in [0, 1].
      bands: such as ``bands(4)``.
      threshold: in (0, 1].
      batch_size: erased images evaluated at once; None: by the memory that is left.

    Returns:
      A `PatchCertificate`; ``.certified(5)`` asks for patches of 5 x 5.

    Raises:
      ValueError, TypeError: bad input, before any work.

    Guarantee: deterministic. No change of the pixels within one rectangle of the given size, wherever it lies, changes the voted
      class. Assumes that the model answers one erased image in one way, whatever the rest of the batch.

    References:
      Levine, Feizi. (De)randomized smoothing for certifiable defense against patch attacks. NeurIPS 2020.

    >>> import jax.numpy as jnp
    >>> def bright(z):  # one output for "the band is bright", one for "it is dark"
    ...     return 99.0 * jnp.stack([z[..., 0].sum((1, 2)), z[..., 1].sum((1, 2))], 1)
    >>> done = derandomized(bright, jnp.ones((1, 8, 8, 1)), bands=bands(2))
    >>> done.prediction.tolist(), done.counts.tolist(), done.largest().tolist()
    ([0], [[8, 0]], [3])
    """
    if not isinstance(bands, Bands):
        raise TypeError(f"bands are made by jr.smoothing.bands(size), got {type(bands).__name__}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold lies in (0, 1], got {threshold!r}")
    if np.ndim(x) != 4:
        raise ValueError(f"x must be images [N, H, W, C], got shape {np.shape(x)}")
    if not (np.asarray(x).min(initial=0) >= 0 and np.asarray(x).max(initial=1) <= 1):
        raise ValueError(
            f"x must lie in [0, 1]: erased pixels are told by (x, 1 - x); got {np.min(x):g}..{np.max(x):g}"
        )
    if bands.size > min(np.shape(x)[1:3]):
        raise ValueError(f"bands of {bands.size} pixels are larger than the images, {np.shape(x)[1:3]}")
    erased = Noise((), bind(_erased, bands=bands), bind(_erased), "patch", "bands")
    run = start(model, x, erased, jax.random.key(0), batch_size, None)
    positions = bands.positions(run.shape)
    counts = ballots(run, bands, positions, bind(_reached, threshold))
    prediction, slack = leads(counts, 2 * positions)
    silent = counts.max(1) == 0
    if silent.all():
        warnings.warn(
            f"no class reaches {threshold} anywhere, in any image: does the model return probabilities instead of logits?",
            UserWarning,
            stacklevel=2,
        )
    prediction = np.where(silent, -1, prediction).astype(np.int32)
    return PatchCertificate(prediction, counts, slack, run.shape, bands)


def _reached(threshold: Any, logits: Array) -> Array:
    return jax.nn.softmax(logits) >= threshold


def _erased(scale: Any, key: PRNGKeyArray, x: Array, *, bands: Bands) -> Array:
    return bands.sample(key, x)
