"""The results of a driver while they grow: one tally an oracle."""

import dataclasses
from typing import Any
from urllib.parse import quote

import jax
import numpy as np

from jrobust._oracle import Oracle, RadiusOracle
from jrobust._records import Records
from jrobust.evaluation._checks import Data
from jrobust.evaluation._results import Result


@dataclasses.dataclass
class Tally:
    """The growing result of one oracle over all examples."""

    name: str
    oracle: Oracle | RadiusOracle | None
    holds: np.ndarray
    value: np.ndarray
    correct: np.ndarray
    info: dict[str, np.ndarray]
    witness: Any  # arrays, or their shapes where they live in the records
    rejected: int = 0

    @staticmethod
    def new(name: str, oracle: Any, data: Data, keep: bool) -> "Tally":
        n = data.n
        shapes = jax.tree.map(lambda a: (n, *a.shape[1:]), data.x) if keep else None
        return Tally(name, oracle, np.zeros(n, bool), np.full(n, np.nan), np.zeros(n, bool), {}, shapes)

    def row(self, i: int) -> dict[str, Any]:
        return {"holds": self.holds[i], "value": self.value[i], "info": {k: v[i] for k, v in self.info.items()}}

    def add(self, index: Any, holds: Any, value: Any, info: dict[str, Any], correct: Any) -> None:
        self.holds[index], self.value[index], self.correct[index] = holds, value, correct
        for k, v in info.items():
            self.info.setdefault(k, blank(k, len(self.holds), np.asarray(v).dtype))[index] = v

    def result(self, records: Records | None, draws: int | None = None) -> Result:
        oracle = self.oracle
        radius = isinstance(oracle, RadiusOracle)
        clean = "exact" if draws is None else "estimate"
        side = clean if oracle is None else oracle.sup_side if radius else oracle.side
        witness = self.witness
        if witness is not None and records is not None:
            files = [records.read(self.file(k)) for k in range(len(jax.tree.leaves(witness, is_leaf=is_shape)))]
            witness = jax.tree.unflatten(jax.tree.structure(witness, is_leaf=is_shape), files)
        return Result(
            self.name, side, self.holds, self.value, witness, self.info, 1.0 if oracle is None else oracle.confidence,
            self.correct, "prediction" if oracle is None else oracle.name, "radius" if radius else "margin", self.rejected,
            oracle.about if isinstance(oracle, RadiusOracle) else "model", draws,
        )  # fmt: skip

    def file(self, k: int) -> str:
        return f"{quote(self.name, safe='')}-witness{k or ''}"  # two names are two files


def blank(name: str, n: int, dtype: Any) -> np.ndarray:
    """An entry of ``info`` [n] where nothing ran: counts are 0, no stage decided (-1), other numbers are not known (NaN)."""
    return np.full(n, -1 if name == "stage" else np.nan if np.issubdtype(dtype, np.floating) else 0, dtype)


def is_shape(node: Any) -> bool:
    """Whether a node of a witness is a shape, a leaf."""
    return isinstance(node, tuple) and all(isinstance(d, int) for d in node)
