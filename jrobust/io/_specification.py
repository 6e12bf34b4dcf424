"""What a VNN-LIB file asks: boxes of inputs, and for each the unsafe outputs as a union of polyhedra."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jrobust import sets
from jrobust._objective import Objective, objective
from jrobust._tree import as_pytree, bind
from jrobust.sets import Threat
from jrobust.typing import Array


def inward(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest float32 box inside a float64 box; an entry without any float32 between its ends becomes the nearest one."""
    a, b = lo.astype(np.float32), hi.astype(np.float32)
    nearest = a
    a = np.where(a < lo, np.nextafter(a, np.float32(np.inf)), a)
    b = np.where(b > hi, np.nextafter(b, np.float32(-np.inf)), b)
    empty = a > b
    return np.where(empty, nearest, a), np.where(empty, nearest, b)


def outward(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest float32 box that contains a float64 box."""
    return -up(-lo), up(hi)


def up(a: np.ndarray) -> np.ndarray:
    """Float64 to float32, never down."""
    with np.errstate(over="ignore"):
        b = a.astype(np.float32)
    return np.where(b < a, np.nextafter(b, np.float32(np.inf)), b)


def padded(disjuncts: list[tuple[np.ndarray, np.ndarray]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjuncts as arrays A[d, rows, m], b[d, rows]: the first row is repeated; a disjunct without rows always holds."""

    def fill(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(b):
            A, b = np.zeros((1, A.shape[1])), np.full(1, np.inf)
        at = np.concatenate([np.arange(len(b)), np.zeros(rows - len(b), int)])
        return A[at], b[at]

    A, b = zip(*(fill(*pair) for pair in disjuncts), strict=True)
    return np.stack(A), np.stack(b)


def _violations(fn: Callable[[Any], Any], A1: Any, b1: Any, A: Any, b: Any, order: Any, z: Any) -> Array:
    y = jnp.ravel(fn(z))
    parts = []
    if len(b1):  # one affine map: bounds fold it into the last layer
        parts.append(b1 - A1 @ y)
    if len(b):
        parts.append(jnp.min(b - A @ y, axis=-1))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)[order]


class Case(NamedTuple):
    """One box of inputs with its unsafe outputs: the UNSAFE set is ``x in [lo, hi]`` and for some disjunct all rows ``A y <= b``.

    Attributes:
      lo, hi: the box [n], float64, in the C-order of the network's input.
      disjuncts: pairs ``(A[r, m], b[r])``, float64; y is the network's output in C-order. Without rows every y is unsafe.
    """

    lo: np.ndarray
    hi: np.ndarray
    disjuncts: list[tuple[np.ndarray, np.ndarray]]

    def unsafe(self, x: Any, y: Any) -> bool:
        """Whether a point is in the unsafe set, in float64, without tolerance; NaN is in no polyhedron."""
        x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
        inside = bool(np.all((self.lo <= x) & (x <= self.hi)))
        return inside and any(bool(np.all(A @ y <= b)) for A, b in self.disjuncts)

    def objective(self, fn: Callable[[Any], Any]) -> Objective:
        """The property that no output is unsafe, as an objective of one example.

        Args:
          fn: one example -> outputs (any shape of m entries).

        Returns:
          An `Objective` with one violation a disjunct, ``min_r (b - A y)_r`` (of one row: an affine map), so ``>= 0`` iff y is in
          that polyhedron and the property holds iff all are < 0. ``b`` is rounded up to float32.

        >>> import numpy as np
        >>> case = Case(np.zeros(2), np.ones(2), [(np.array([[1.0, -1.0]]), np.zeros(1))])  # unsafe: y_0 <= y_1
        >>> print(case.objective(lambda z: z)(jnp.array([0.75, 0.5])))
        [-0.25]
        """
        single = [pair for pair in self.disjuncts if len(pair[1]) <= 1]
        several = [pair for pair in self.disjuncts if len(pair[1]) > 1]
        m = self.disjuncts[0][0].shape[1]
        A1, b1 = padded(single, 1) if single else (np.zeros((0, 1, m)), np.zeros((0, 1)))
        A, b = padded(several, max(len(pair[1]) for pair in several)) if several else (np.zeros((0, 1, m)), b1[:0])
        places = np.argsort([len(pair[1]) > 1 for pair in self.disjuncts], kind="stable")
        f32 = np.float32
        arrays = (A1[:, 0].astype(f32), up(b1[:, 0]), A.astype(f32), up(b), np.argsort(places))
        return objective(bind(_violations, as_pytree(fn), *arrays))

    def threat_set(self, shape: tuple[int, ...], *, inside: bool = False) -> Any:
        """The box as a set of float32 points of the network's input shape.

        Args:
          shape: of one example, n entries.
          inside: the largest float32 box inside (for a counterexample) instead of the smallest one around it (for a proof).

        Raises:
          ValueError: the shape does not have n entries.

        >>> import numpy as np
        >>> case = Case(np.array([0.1]), np.array([0.1 + 1e-12]), [])
        >>> lo, hi = case.threat_set((1,)).hull()
        >>> float(lo[0]) < 0.1 < float(hi[0])
        True
        """
        lo, hi = (a.reshape(shape) for a in (inward if inside else outward)(*self.box(shape)))
        threat: Threat = sets.box(lo, hi)
        return threat(np.clip((0.5 * lo + 0.5 * hi).astype(np.float32), lo, hi))

    def box(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """``(lo, hi)``, once it is certain that they fit an input of this shape."""
        if int(np.prod(shape)) != len(self.lo):
            raise ValueError(
                f"the specification speaks of {len(self.lo)} inputs, the network's input of shape {tuple(shape)} has {int(np.prod(shape))}"
            )
        return self.lo, self.hi

    def point(self, x: Any) -> np.ndarray:
        """The point of the float64 box next to a float32 one. It lies in the box exactly; read as float32 it is x again where x came
        from the box ``inside``."""
        return np.clip(np.asarray(x, np.float64).ravel(), self.lo, self.hi)


class Specification(NamedTuple):
    """What a VNN-LIB file says: the UNSAFE set is the union of its cases' (see `Case`); no case: nothing is unsafe.

    Attributes:
      cases: boxes with their unsafe outputs; no two have the same box.
      inputs, outputs: n and m, how many X and Y are declared.
      name: the file.
    """

    cases: list[Case]
    inputs: int
    outputs: int
    name: str
