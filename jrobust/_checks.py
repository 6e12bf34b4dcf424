"""Bad input, found before any work: what more than one entry asks of its arguments, said in the same words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._tree import is_traced


def check_key(key: Any) -> None:
    """A typed PRNG key."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0):
        raise TypeError(
            f"key must be one typed PRNG key, jax.random.key(seed); got {getattr(key, 'dtype', type(key).__name__)}"
        )


def check_count(count: Any, name: str, by: str, *, least: int = 1) -> None:
    """How many of something: an int, not too small."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise ValueError(f"{by}: {name} must be an int >= {least}, got {count!r}")


def check_shard(shard: Any, by: str) -> None:
    """None, or which of how many processes this is: (index, count) with 0 <= index < count."""
    if shard is None:
        return
    ints = isinstance(shard, tuple) and all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in shard)
    if not (ints and len(shard) == 2 and 0 <= shard[0] < shard[1]):
        raise ValueError(
            f"{by}: shard is (index, count) with 0 <= index < count, such as (0, 3), or None; got {shard!r}"
        )


def check_floating(x: Any, name: str = "x") -> None:
    """An array or a tuple of arrays, of floats: an integer would round every radius around it."""
    if isinstance(x, dict):
        raise TypeError(f"{name} is one array, or a tuple of arrays (a product set); got a dictionary")
    for part in x if isinstance(x, tuple) else (x,):
        if isinstance(part, tuple):
            check_floating(part, name)
            continue
        dtype = getattr(part, "dtype", None)
        dtype = np.asarray(part).dtype if dtype is None else dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name} must be floating point (inputs in [0, 1] or a stated box), got {dtype}; divide images by 255"
            )


def check_precision(x: Any, by: str) -> None:
    """Single or double precision: small distances and differences of scores vanish in less."""
    if x.dtype.name not in ("float32", "float64"):
        raise TypeError(f"{by} needs inputs of float32 or float64, got {x.dtype}; cast them (jr.evaluate does)")


def check_batch(x: Any) -> int:
    """Floating examples [N, ...], or a tuple of such arrays; the N, which is at least 1."""
    check_floating(x)
    lengths = set()
    for a in jax.tree.leaves(x):
        if np.ndim(a) < 1:
            raise ValueError("x must be a batch [N, ...], got a single number")
        lengths.add(a.shape[0])
    if len(lengths) != 1:
        raise ValueError(f"the parts of x must have one length, got {sorted(lengths)}")
    if lengths == {0}:
        raise ValueError("x is empty; it must hold at least one example")
    return lengths.pop()


def check_labels(y: Any, n: int) -> np.ndarray:
    """Integer labels [n], as int32 on the host."""
    y = np.asarray(y)
    if y.dtype.kind not in "iu":
        raise TypeError(f"y must be integer labels [N], got dtype {y.dtype}")
    if y.shape != (n,):
        raise ValueError(f"y must have shape ({n},), one label an example of x, got {y.shape}")
    labels = y.astype(np.int32)
    if (labels != y).any():
        at = int(np.flatnonzero(labels != y)[0])
        raise ValueError(f"y[{at}] = {y[at]} is out of range: labels are int32")
    return labels


def check_classes(y: Any, classes: int, name: str = "y", *, index: bool = True) -> None:
    """Labels within the model's classes, looked at only where they are concrete; ``index``: say which one is not."""
    if is_traced(y):
        return
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer class, got dtype {labels.dtype}")
    bad = np.argwhere((labels < 0) | (labels >= classes))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        where = f"[{', '.join(map(str, at))}]" if at and index else ""
        raise ValueError(
            f"{name}{where} = {labels[at]} is out of range: the model has {classes} classes, labels are 0..{classes - 1}"
        )


def check_truth(
    y: Any, shape: tuple[int, ...], classes: int | None = None, *, void: bool = False, by: str | None = None
) -> np.ndarray:
    """The true labels of a result, int32 on the host.

    Args:
      y: what was given.
      shape: of the predictions.
      classes: how many there are; None: not known here.
      void: -1 is allowed, an output whose class is not known.
      by: the caller, for errors.
    """
    labels, start = np.asarray(y), "" if by is None else f"{by}: "
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{start}y must be integer labels {shape}, got dtype {labels.dtype}")
    if labels.shape != shape:
        raise ValueError(f"{start}y must be integer labels {shape}, one for each prediction, got shape {labels.shape}")
    last = np.iinfo(np.int32).max if classes is None else classes - 1
    bad = np.argwhere((labels < (-1 if void else 0)) | (labels > last))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        none = ", or -1 where there is none" if void else ""
        raise ValueError(
            f"{start}y[{', '.join(map(str, at))}] = {labels[at]} is out of range: labels are 0..{last}{none}"
        )
    return labels.astype(np.int32)


def check_inside(a: np.ndarray, first: int, lo: Any = None, hi: Any = None) -> None:
    """No NaN or inf, and within ``[lo, hi]``; ``first`` is the index of the first row of this batch."""
    refuse(~np.isfinite(a), a, first, "is not finite")
    box = "[" + ", ".join("array" if np.ndim(end) else f"{end}" for end in (lo, hi)) + "]"
    slack = 1e-6  # float32 rounding of x / 255 and the like
    if lo is not None:
        refuse(a < np.asarray(lo, a.dtype) - slack, a, first, f"is below the box of allowed values {box}")
    if hi is not None:
        refuse(a > np.asarray(hi, a.dtype) + slack, a, first, f"is above the box of allowed values {box}")


def refuse(bad: np.ndarray, a: np.ndarray, first: int, what: str) -> None:
    """Raise about the first entry that is ``bad``, by index and value."""
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        index = ", ".join(map(str, (first + at[0], *at[1:])))
        raise ValueError(f"x[{index}] = {a[at]} {what}")


def check_transformation(tx: Any, by: str) -> None:
    """An optax transformation."""
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        name = getattr(tx, "__name__", None)
        given = f"the function {name}: call it" if name else f"{tx!r}"
        raise TypeError(f"{by} is an optax transformation such as optax.adam(1e-3), got {given}")
