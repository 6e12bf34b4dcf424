"""A measure of one example over a data set: one jitted program, examples vmapped in batches, example i with ``fold_in(key, i)``."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_batch, check_classes, check_count, check_inside, check_key
from jrobust._model import functional, warn_if_random
from jrobust._objective import Stochastic
from jrobust._statistics import Average
from jrobust._tree import bind
from jrobust.evaluation._checks import check_data
from jrobust.evaluation._execute import objective
from jrobust.evaluation._stream import batches
from jrobust.evaluation.metrics._inputs import mean_over
from jrobust.sets import Threat
from jrobust.typing import Side

BALLS = ("l1", "l2", "linf")


class Scores(NamedTuple):
    """A number for each example.

    Attributes:
      values: float64 [N]; NaN where the number is not defined.
      side: of each number: it lies below ("lower") or above what it speaks of, is "exact", or an "estimate".
      info: further arrays [N] by name.
      least, most: no number can lie outside of these, nor does the interval of the mean.
    """

    values: np.ndarray
    side: Side
    info: dict[str, np.ndarray]
    least: float = 0.0
    most: float = np.inf

    def average(self, level: float = 0.95) -> Average:
        """The mean over the examples where the number is defined, with its interval."""
        chosen = ~np.isnan(self.values)
        return mean_over(self.values, chosen, side=self.side, level=level, least=self.least, most=self.most)

    def __repr__(self) -> str:
        return f"Scores({self.average()!r})"


def check_ball(threat: Any, by: str, kinds: tuple[str, ...] = BALLS) -> Threat:
    """A threat that is a norm ball of one radius > 0."""
    if not isinstance(threat, Threat):
        raise TypeError(f"{by}: threat is made by jr.sets (l2(0.5, clip=(0, 1)), ...), got {type(threat).__name__}")
    if threat.name not in kinds:
        raise ValueError(f"{by} needs a ball of {', '.join(kinds)}, got {threat.name}")
    if np.ndim(threat.eps) != 0 or not (np.isfinite(threat.eps) and threat.eps > 0):
        raise ValueError(f"{by}: the threat's eps must be one number > 0, got {threat.eps!r}")
    return threat


def length(d: Any, kind: str) -> Any:
    """The norm of a ball's kind, "l1", "l2" or "linf", of all entries; the gradient at 0 is 0, not NaN."""
    d = d.reshape(-1)
    if kind == "linf":
        return jnp.max(jnp.abs(d))
    if kind == "l1":
        return jnp.sum(jnp.abs(d))
    square = jnp.sum(d * d)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


@partial(jax.jit, static_argnames="apply")
def _run(measure: Any, leaves: Any, key: Any, index: Any, x: Any, y: Any, more: Any, *, apply: Any) -> Any:
    def one(i: Any, z: Any, label: Any, *more: Any) -> Any:
        key_i, f = jax.random.fold_in(key, i), objective(apply, leaves, label)
        if f.draws is not None:  # each example keeps draws of its own: what differs between points is the point
            key_i, drawn = jax.random.split(key_i)
            f = f.at(drawn)
        return measure(key_i, f, z, *more)

    return jax.vmap(one)(index, x, y, *more)


def each(
    measure: Any, model: Any, x: Any, y: Any, *, key: Any, batch_size: int, by: str, more: tuple[Any, ...] = ()
) -> Any:
    """What ``measure(key, f, x[i], *more[i])`` says of every example, arrays [N, ...] on the host.

    Args:
      measure: made with `bind` (its arrays are traced); ``f`` is the objective of one example, whose ``outputs`` are the logits. Of a
        random model they are of the mean of n draws that the example keeps, those of ``f.at(key)`` of others.
      model, x, y: as in `jr.evaluate`; x is one array.
      key: one typed PRNG key; None where the measure draws nothing (a random model still needs one).
      batch_size: examples at a time.
      by: the metric, for errors.
      more: further arrays [N, ...], floating ones as x.
    """
    if key is None:
        if isinstance(model, Stochastic):
            raise TypeError(f"{by}: a random model needs a key, jax.random.key(seed)")
        key = jax.random.key(0)  # nothing is drawn
    check_key(key)
    check_count(batch_size, "batch_size", by)
    if isinstance(x, tuple | dict):
        raise TypeError(f"{by} takes one array of examples [N, ...], got a {type(x).__name__}")
    data = check_data(x, y)
    extra = tuple(a if hasattr(a, "shape") and hasattr(a, "dtype") else np.asarray(a) for a in more)
    for a in extra:
        if a.shape[:1] != (data.n,):
            raise ValueError(f"{by}: one entry an example is needed, [{data.n}, ...], got shape {tuple(a.shape)}")
    first = data.rows(np.arange(min(4, data.n)))
    f = functional(model, first)
    check_classes(data.y, jax.eval_shape(f.apply, f.leaves, first).shape[1])
    warn_if_random(model, first, f)
    leaves, size, parts = jax.device_put(f.leaves), min(batch_size, data.n), []
    for index in batches(np.arange(data.n), size):
        rows = data.rows(index)
        check_inside(rows, int(index[0]))
        count = len(index)
        given = (index.astype(np.int32), rows, data.y[index], tuple(_like(a[index], rows) for a in extra))
        full = jax.tree.map(partial(_filled, missing=size - count), given)
        out = _run(measure, leaves, key, *full, apply=f.apply)
        parts.append(jax.tree.map(partial(_cut, count=count), out))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)


def _like(a: Any, rows: np.ndarray) -> np.ndarray:
    a = np.asarray(a)
    return a.astype(rows.dtype) if np.issubdtype(a.dtype, np.floating) else a


def _filled(a: np.ndarray, missing: int) -> np.ndarray:
    """Rows up to the batch size: one program for all batches."""
    return np.concatenate([a, np.repeat(a[-1:], missing, 0)]) if missing else a


def _cut(a: Any, count: int) -> np.ndarray:
    return np.asarray(a)[:count]


def _outputs(key: Any, f: Any, x: Any) -> Any:
    del key
    return f.outputs(x)


def logits(model: Any, x: Any, *, key: Any = None, batch_size: int = 256) -> np.ndarray:
    """The model's logits [N, K] of a data set, for the metrics that take them.

    Args:
      model: as in `jr.evaluate`.
      x: [N, ...], floating.
      key: one typed PRNG key, needed for a model wrapped by `jr.objectives.stochastic` alone: logits are then those of its mean, over
        the draws that example i keeps in all metrics under this key.
      batch_size: examples at a time.

    >>> import jax.numpy as jnp
    >>> logits(lambda x: 2 * x, jnp.eye(2)).argmax(1).tolist()
    [0, 1]
    """
    x = x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x)
    nothing = np.zeros(check_batch(x), np.int32)
    return each(bind(_outputs), model, x, nothing, key=key, batch_size=batch_size, by="logits")
