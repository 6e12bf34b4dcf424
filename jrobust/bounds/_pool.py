"""The domains of a search that wait on the host, and how they are cut."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jrobust.bounds._domains import Domain


class Pool:
    """Domains on the host, in arrays that grow by doubling."""

    def __init__(self) -> None:
        self.leaves: list[np.ndarray] = []
        self.tree: Any = None
        self.free: list[int] = []
        self.bound: dict[int, float] = {}  # of the domains in the pool, in order of arrival

    def push(self, batch: Any, bounds: np.ndarray) -> None:
        leaves, self.tree = jax.tree.flatten(batch)
        leaves = [np.asarray(leaf) for leaf in leaves]
        if not self.leaves:
            self.leaves = [np.empty((0, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
        n, size = len(bounds), len(self.leaves[0])
        if len(self.free) < n:
            more = max(n, size, 64)
            self.leaves = [np.concatenate([a, np.empty((more, *a.shape[1:]), a.dtype)]) for a in self.leaves]
            self.free += range(size, size + more)
        slots = [self.free.pop() for _ in range(n)]
        for mine, new in zip(self.leaves, leaves, strict=True):
            mine[slots] = new
        self.bound |= dict(zip(slots, bounds.tolist(), strict=True))

    def pop(self, n: int, order: str) -> Any:
        slots = list(self.bound)
        if order == "best":
            values = np.fromiter(self.bound.values(), float, len(slots))
            slots = [slots[j] for j in np.argsort(-values, kind="stable")[:n]]
        else:
            slots = slots[: -n - 1 : -1]
        for slot in slots:
            del self.bound[slot]
        self.free += slots
        return self.tree.unflatten([leaf[slots] for leaf in self.leaves])

    def everything(self) -> Any:
        return self.tree.unflatten([leaf[list(self.bound)] for leaf in self.leaves]) if self.bound else None


class Waiting(NamedTuple):
    """A bounded domain that waits: its ends, what is known of it, and how often it was bounded without a cut."""

    domain: Domain
    elements: np.ndarray
    entries: np.ndarray
    points: np.ndarray
    tries: np.ndarray


def children(parents: Waiting, depth: int) -> tuple[Domain, np.ndarray]:
    """Every parent cut at its first ``depth`` entries: up to ``2**depth`` domains each, itself where nothing can be cut."""
    n = len(parents.tries)
    domain, tries = parents.domain, parents.tries + (parents.entries[:, 0] < 0)
    who = np.arange(n)
    lo, hi = domain.lo.copy(), domain.hi.copy()
    for j in range(min(depth, parents.entries.shape[1])):
        entry, point = parents.entries[who, j], parents.points[who, j]
        cut = np.flatnonzero(entry >= 0)
        low, high = (lo.copy(), hi.copy()), (lo[cut], hi[cut])
        low[1][cut, entry[cut]] = point[cut]
        high[0][np.arange(len(cut)), entry[cut]] = point[cut]
        lo, hi = np.concatenate([low[0], high[0]]), np.concatenate([low[1], high[1]])
        who = np.concatenate([who, who[cut]])
    return jax.tree.map(lambda a: a[who], domain)._replace(lo=lo, hi=hi), tries[who]


def filled_up(batch: Any, size: int) -> Any:
    """Exactly ``size`` domains, the last one repeated."""
    return jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], size - len(a), axis=0)]), batch)
