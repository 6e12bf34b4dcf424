"""Arrays whose dimensions have names, so that code says which it means and not where it is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jrobust.typing import Array


class Named(NamedTuple):
    """An array and the names of its dimensions."""

    array: Array
    names: list[str]

    def size(self, name: str) -> int:
        return self.array.shape[self.names.index(name)]

    def ordered(self, names: Sequence[str]) -> "Named":
        names = list(names)
        if self.names == names:
            return self
        return Named(self.array.transpose([self.names.index(n) for n in names]), names)

    def split(self, name: str, outer: str, inner: str, size: int) -> "Named":
        """One dimension as two, of which the inner has ``size``."""
        i = self.names.index(name)
        shape = self.array.shape
        array = self.array.reshape(*shape[:i], shape[i] // size, size, *shape[i + 1 :])
        return Named(array, [*self.names[:i], outer, inner, *self.names[i + 1 :]])

    def joined(self, names: Sequence[str], name: str) -> "Named":
        """Neighbouring dimensions as one."""
        i, n = self.names.index(names[0]), len(names)
        shape = self.array.shape
        array = self.array.reshape(*shape[:i], math.prod(shape[i : i + n]), *shape[i + n :])
        return Named(array, [*self.names[:i], name, *self.names[i + n :]])

    def padded(self, config: dict[str, tuple[int, int, int]]) -> "Named":
        if all(c == (0, 0, 0) for c in config.values()):
            return self
        full = [config.get(n, (0, 0, 0)) for n in self.names]
        return self._replace(array=lax.pad(self.array, jnp.zeros((), self.array.dtype), full))

    def cut(self, spans: dict[str, tuple[int, int, int]]) -> "Named":
        """From (start, stop, step) of the named dimensions; the others stay whole."""
        low, high, step = zip(
            *(spans.get(n, (0, d, 1)) for n, d in zip(self.names, self.array.shape, strict=True)), strict=True
        )
        return self._replace(array=lax.slice(self.array, low, high, step))

    def settled(self) -> "Named":
        """Computed once: without the barrier XLA fuses what comes before into every slice that comes after."""
        return self._replace(array=lax.optimization_barrier(self.array))


def concatenated(parts: Sequence[Named], name: str) -> Named:
    if len(parts) == 1:
        return parts[0]
    return parts[0]._replace(array=lax.concatenate([p.array for p in parts], parts[0].names.index(name)))
