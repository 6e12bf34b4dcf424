"""What the evaluation driver asks of its input beyond `jrobust._checks`: oracles, radii, rows of a batch."""

import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_batch, check_inside, check_labels
from jrobust._oracle import Oracle, RadiusOracle
from jrobust.sets import Threat, eps_axes


class Data(NamedTuple):
    """Examples by index; ``x`` stays where it is (a memory map included) and is read a batch at a time."""

    x: Any
    y: np.ndarray
    n: int

    def rows(self, index: np.ndarray) -> Any:
        """The examples ``index``, float32 (float64 under x64), on the host."""
        return jax.tree.map(lambda a: _floats(_slice(a, index)), self.x)


def _slice(a: Any, index: np.ndarray) -> np.ndarray:
    if len(index) and index[-1] - index[0] + 1 == len(
        index
    ):  # a slice reads less than fancy indexing, where rows are in order
        return np.asarray(a[int(index[0]) : int(index[-1]) + 1])
    return np.asarray(a[index])


def _floats(a: np.ndarray) -> np.ndarray:
    return np.asarray(a, jnp.result_type(float) if a.dtype == np.float64 else np.float32)


def check_oracles(oracles: Any) -> None:
    """A mapping from names to oracles."""
    if not isinstance(oracles, Mapping):
        raise TypeError(f'oracles is a dictionary {{"name": oracle}}, got {type(oracles).__name__}')
    for name, oracle in oracles.items():
        if not isinstance(name, str) or name in ("clean", "i", "y"):  # columns of the records
            raise ValueError(f"an oracle's name is a string other than 'clean', 'i' and 'y', got {name!r}")
        if not isinstance(oracle, Oracle | RadiusOracle):
            raise TypeError(f"oracles[{name!r}] is not an Oracle or RadiusOracle but {type(oracle).__name__}")


def check_data(x: Any, y: Any) -> Data:
    """Shapes, dtypes and lengths; the values are looked at by `check_values`, batch by batch."""
    x = x if isinstance(x, tuple | dict) or (hasattr(x, "shape") and hasattr(x, "dtype")) else np.asarray(x)
    n = check_batch(x)
    return Data(x, check_labels(y, n), n)


def check_eps(threat: Any, data: Data) -> Threat:
    """A threat whose radii are >= 0 and of a shape that fits the examples."""
    if not isinstance(threat, Threat):
        raise TypeError(f"threat is made by jr.sets (linf(8 / 255, clip=(0, 1)), ...), got {type(threat).__name__}")
    shapes = [tuple(a.shape[1:]) for a in jax.tree.leaves(data.x)]
    for eps in map(np.asarray, jax.tree.leaves(threat.eps)):
        bad = np.argwhere(~(np.isfinite(eps) & (eps >= 0)))
        if len(bad):
            where = "".join(f"[{i}]" for i in bad[0])
            raise ValueError(f"eps must be finite and >= 0, got eps{where} = {eps[tuple(bad[0])]}")
        entry = any(_fits(eps.shape, shape) for shape in shapes)
        if eps.ndim and eps.shape[0] != data.n and not entry:
            raise ValueError(
                f"eps has shape {eps.shape}; expected one number, one an example ({data.n},), or the shape of an example"
            )
    eps_axes(threat, data.x)
    return threat


def are_probabilities(answers: np.ndarray) -> bool:
    """Whether answers [B, K] lie in [0, 1] and sum to 1: then gradients through them saturate."""
    tiny = 1e-5
    inside = (answers < 1 + tiny).all() and (answers > -tiny).all()
    return bool(inside and (np.abs(answers.sum(1) - 1) < tiny).all())


def warn_if_probabilities(answers: np.ndarray, message: str, stacklevel: int) -> None:
    """Warn where what should be logits are probabilities; the two scores of a few examples may sum to 1 by chance."""
    if (answers.shape[1] > 2 or len(answers) >= 16) and are_probabilities(answers):
        warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


def _fits(shape: tuple[int, ...], example: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, example) == example
    except ValueError:
        return False


def eps_rows(threat: Threat, n: int, index: np.ndarray) -> Any:
    """The radii of the examples ``index``, each leaf with a leading axis."""

    def rows(eps: Any) -> np.ndarray:
        eps = np.asarray(eps, jnp.result_type(float))
        per_example = eps.ndim >= 1 and eps.shape[0] == n
        return eps[index] if per_example else np.broadcast_to(eps, (len(index), *eps.shape))

    return jax.tree.map(rows, threat.eps)


def check_values(threat: Threat, x: Any, first: int) -> None:
    """No NaN or inf, and inside the threat's box; ``first`` is the index of the first row."""
    parts = threat.args if isinstance(x, tuple) else (threat,)
    for part, a in zip(parts, jax.tree.leaves(x), strict=False):
        bounded = re.fullmatch(r"l(inf|[\d.]+)(-pixels)?|box|point", part.name)  # the others say nothing about a box
        check_inside(a, first, *(part.args if bounded else ()))
