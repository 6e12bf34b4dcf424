"""A base classifier, its noise and its data, checked, placed and ready to be counted."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_batch, check_inside, check_key
from jrobust._digest import digest
from jrobust._model import functional, warn_if_random
from jrobust._objective import Stochastic
from jrobust._placement import Placement
from jrobust._records import Records, header_of, open_records, read_records
from jrobust.smoothing._memory import fitting
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._votes import votes, won


@dataclasses.dataclass(frozen=True)
class Run:
    """What a smoothing driver works on; `start` makes one.

    Attributes:
      noise, leaves, apply: the distribution, the model's arrays, the model.
      key: example i uses ``fold_in(key, i)``.
      x: examples [N, ...] on the host, read a few at a time.
      batch_size: noisy inputs evaluated at once.
      placement: on one device or over a mesh.
    """

    noise: Noise
    leaves: Any
    apply: Any
    key: Any
    x: Any
    batch_size: int
    placement: Placement

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example."""
        return tuple(self.x.shape[1:])

    @cached_property
    def classes(self) -> int:
        """That the model knows."""
        noisy = jax.eval_shape(
            jax.vmap(self.noise.sample, (None, 0)), self.key, jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        )
        return jax.eval_shape(self.apply, self.leaves, noisy).shape[-1]

    def parts(self, todo: np.ndarray, n0: int, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Examples with the votes of their ``n0`` selection draws, a few at a time, in the order of ``todo``.

        A selection fills a batch with the draws of several examples; fewer come out at a time, so that the ``n`` draws of each are not
        much to lose at a stop.
        """
        wide = self.width(n0)
        narrow = min(wide, max(1, -(-8 * self.batch_size // n)))
        for start in range(0, len(todo), wide):
            group = todo[start : start + wide]
            selection = self.votes(0, group, 0, n0, wide)
            for first in range(0, len(group), narrow):
                part = slice(first, first + narrow)
                yield group[part], selection[part]

    def width(self, n0: int) -> int:
        """Examples of the compiled program: those whose selection draws fill a batch."""
        return max(1, -(-self.batch_size // n0))

    def votes(self, stage: int, group: np.ndarray, begin: int, end: int, width: int, tally: Any = won) -> np.ndarray:
        """Counts [len(group), ..., K] of the draws ``begin`` to ``end``, by a program made for ``width`` examples.

        ``tally`` of the logits is what is summed: votes, if nothing else is said.
        """
        padded = np.resize(group, width)
        index, x = self.placement.everywhere((padded.astype(np.int32), jnp.asarray(self.x[padded], jnp.float32)))
        out = votes(
            self.noise, self.leaves, self.key, stage, index, x, begin, end, len(group),
            apply=self.apply, batch_size=self.batch_size, placement=self.placement, tally=tally,
        )  # fmt: skip
        return np.asarray(out)[: len(group)]

    def records(
        self, out: Any, asked: dict[str, Any], name: str, shard: tuple[int, int] | None = None
    ) -> tuple[Records | None, dict[int, dict[str, Any]]]:
        """The open file (None: nothing is written, or by another process) and the rows that were there.

        Raises:
          ValueError: ``out`` holds another run.
        """
        if out is None:
            return None, {}
        header = {**asked, **self._header()}
        records = open_records(out, header, name=name, shard=shard) if self.placement.writes or shard else None
        if records is not None:
            records.adopt()
        done = np.zeros(self.n, bool)
        if records is not None:
            done[[i for i in records.rows if i < self.n]] = True
        if self.placement.mesh is None or shard is not None or jax.process_count() == 1:
            return records, {} if records is None else records.rows
        from jax.experimental import multihost_utils

        done = np.asarray(multihost_utils.broadcast_one_to_all(done))  # what the first process saw counts for all
        if records is None and not Path(out).is_dir():
            raise FileNotFoundError(f"{out} is not there on process {jax.process_index()}: all processes must see it")
        rows = read_records(out, name=name)[1]
        return records, {row["i"]: row for row in rows if done[row["i"]]}

    def _header(self) -> dict[str, Any]:
        blocks = [digest(np.asarray(self.x[i : i + 1024], np.float32)) for i in range(0, self.n, 1024)]
        return header_of((self.apply, self.leaves), self.key, blocks) | {
            "noise": str(self.noise),
            "noise_digest": digest(self.noise),
            "examples": self.n,
        }


def start(model: Any, x: Any, noise: Noise, key: Any, batch_size: int | None, mesh: Any, *, dense: bool = False) -> Run:
    """Check the input, take the model apart, place it on the mesh; ``dense``: it may have several outputs, logits [B, ..., K].

    Raises:
      ValueError, TypeError: bad input.
    """
    if not isinstance(noise, Noise):
        raise TypeError(f"noise is made by jr.smoothing.gaussian(sigma) and the like, got {type(noise).__name__}")
    if isinstance(model, Stochastic):
        raise TypeError(
            "a random model's votes are not those of its mean, and one frozen draw of it is another model: smooth a model that gives one "
            "answer (or make its randomness a jr.smoothing.Noise)"
        )
    check_key(key)
    x = x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x)
    check_batch(x)
    if x.ndim < 2:
        raise ValueError(f"x must be a batch [N, ...], got shape {tuple(x.shape)}")
    for first in range(0, len(x), 1024):
        rows = np.asarray(x[first : first + 1024])
        check_inside(rows, first)
        if noise.domain == "binary" and not np.isin(rows, (0, 1)).all():
            at = tuple(int(i) for i in np.argwhere(~np.isin(rows, (0, 1)))[0])
            raise ValueError(f"{noise.name} needs zeros and ones, got {rows[at]} in example {first + at[0]}")
    some = jnp.asarray(x[:4], jnp.float32)
    noisy = jax.vmap(noise.sample)(jax.random.split(key, len(some)), some)
    warn_if_faint(noise, some, noisy)
    f = functional(model, noisy, dense=dense)
    check_answers(warn_if_random(model, noisy, f))
    placement = Placement(mesh)
    devices = 1 if mesh is None else mesh.size
    if batch_size is None:
        batch_size = fitting(f.apply, f.leaves, jax.eval_shape(lambda a: a[:1], noisy)) * devices
    whole = -(-count("batch_size", batch_size) // devices) * devices
    leaves, key = placement.everywhere((f.leaves, key))
    x = x if isinstance(x, np.ndarray) else np.asarray(x)
    return Run(noise, leaves, f.apply, key, x, whole, placement)


def check_answers(logits: Any) -> None:
    """Warn where the logits of all noisy examples tried are NaN (of some they may be: an empty part of a point cloud has no answer)."""
    if np.isnan(logits).all():
        warnings.warn(
            f"the model gave NaN for all of {len(logits)} noisy examples that were tried: no class gets their votes",
            UserWarning,
            stacklevel=4,
        )


_INPUT_UNITS = ("l1", "l2", "linf", "brightness")
"""Norms of noises that are added to the values; others move, erase or choose them."""


def warn_if_faint(noise: Noise, x: Any, noisy: Any) -> None:
    """Say before the work that the noise is next to nothing on these inputs, as on images in 0..255 where [0, 1] was meant."""
    x, noisy = np.asarray(x, np.float64), np.asarray(noisy, np.float64)
    if noise.domain == "binary" or noise.norm not in _INPUT_UNITS or noisy.shape != x.shape:
        return
    high, moved = float(np.abs(x).max()), float(np.abs(noisy - x).mean())
    if high > 10 and moved < 0.01 * high:
        warnings.warn(
            f"inputs reach {high:g}, and {noise} noise moves them by {moved:.3g} on average: next to nothing. The noise and the radius are "
            "in the inputs' units: for images in 0..255 divide by 255, or multiply the noise's level by 255",
            UserWarning,
            stacklevel=4,
        )


def warn_if_vain(certifies: Callable[[int], bool], n: int, alpha: float) -> None:
    """Say before the work that it will be in vain; ``certifies(n)``: n unanimous draws can say anything at all."""
    if certifies(n):
        return
    high = next((m for m in (2**i for i in range(27)) if certifies(m)), None)
    advice = "no number of draws can: the noise hides too little" if high is None else ""
    if high is not None:
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if certifies(middle) else (middle, high)
        advice = f"take n >= {high}"
    warnings.warn(
        f"n={n} draws cannot certify anything at alpha={alpha:g}: even unanimous votes are not enough, so every example will abstain "
        f"or have radius 0; {advice}",
        UserWarning,
        stacklevel=4,
    )


def count(name: str, value: Any) -> int:
    """A number of draws or the like, as an int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < 2**27:
        raise ValueError(f"{name} must be an int in 1..{2**27 - 1}, got {value!r}")
    return int(value)


def stages(n: int | Sequence[int]) -> tuple[int, ...]:
    """The numbers of draws, growing, after which it is looked whether more are needed.

    >>> stages(100), stages((10, 100))
    ((100,), (10, 100))
    """
    many = tuple(count("n", m) for m in (n if isinstance(n, Sequence) and not isinstance(n, str) else (n,)))
    if not many or any(b <= a for a, b in pairwise(many)):
        raise ValueError(f"n is a number of draws, or several in growing order, got {n!r}")
    return many


def check_alpha(alpha: Any) -> float:
    """A failure probability."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.floating) or not 0 < alpha < 1:
        raise ValueError(f"alpha lies in (0, 1), got {alpha!r}")
    return float(alpha)
