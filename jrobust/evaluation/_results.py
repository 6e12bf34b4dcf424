"""What `evaluate` returns: every number with its n, its side, its confidence and its interval."""

import dataclasses
from collections.abc import ItemsView, Iterator, KeysView, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jrobust._statistics import Accuracy, proportion, reads
from jrobust.sets import Threat
from jrobust.typing import Side


@dataclasses.dataclass(frozen=True)
class Result:
    """What one oracle said about every example; arrays on the host.

    Attributes:
      name: the key under which the oracle was given.
      side: of the worst case; for a radius oracle the matching side of the sup.
      holds: bool [N]; no violation found ("lower") or proven ("upper"). False wherever the clean prediction is wrong.
      value: float [N]; the bound on the largest margin, or the radius where ``quantity`` is "radius". Misclassified examples
        are not attacked: they have their clean margin (attacks), ``+inf`` (certificates) or radius 0.
      witness: [N, ...] or None; the worst point found (the clean example itself where it is misclassified).
      info: arrays [N] of the oracle's numbers for one example. Where it did not run passes are 0 and other numbers NaN; ``stage`` of a
        cascade is the place of the stage that decided, -1 where none did.
      confidence: of each statement.
      correct: bool [N]; the clean prediction is right.
      oracle: the oracle's own name.
      quantity: "margin" or "radius".
      about: "model", or "smoothed": of the model under noise, which is another function.
      draws: of a random model, over how many draws (an example's own) its decision is the mean; clean accuracy is then an estimate.
        None: the model is not random.
      rejected: claims of a violation that the driver could not confirm at the witness (they count as nothing found).
    """

    name: str
    side: Side
    holds: np.ndarray
    value: np.ndarray
    witness: Any
    info: dict[str, np.ndarray]
    confidence: float
    correct: np.ndarray
    oracle: str
    quantity: str = "margin"
    rejected: int = 0
    about: str = "model"
    draws: int | None = None

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.holds)

    def part(self, at: Any) -> "Result":
        """Of the examples ``at`` (a slice or indices)."""
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[at] for name in ("holds", "value", "correct")},
            witness=jax.tree.map(lambda a: a[at], self.witness),
            info={k: v[at] for k, v in self.info.items()},
        )

    def accuracy(self, level: float = 0.95) -> Accuracy:
        """The share of examples that hold (and are classified right), with its interval.

        Raises:
          ValueError: an estimate, which bounds nothing (but of clean predictions, those of a random model).
        """
        if self.side == "estimate" and self.name != "clean":
            raise ValueError(
                f"{self.name} ({self.oracle}) is an estimate: it bounds nothing, so no accuracy follows from it"
            )
        return proportion(int(self.holds.sum()), self.n, side=self.side, confidence=self.confidence, level=level)

    def __repr__(self) -> str:
        share = f"accuracy {reads(self.side)} {self.holds.mean():.4f}"
        if self.side == "estimate":
            share = f"accuracy about {self.holds.mean():.4f}" if self.name == "clean" else "an estimate"
        return f"Result({self.name!r}: {share}, n={self.n}, side={self.side!r}, oracle={self.oracle!r})"


class Contradiction(NamedTuple):
    """Examples where an attack found a violation that a certificate rules out: a bug, rounding, or (confidence < 1) bad luck."""

    attack: str
    certificate: str
    index: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under column names; prints as plain text."""

    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        cells = [self.columns, *([_cell(row[c]) for c in self.columns] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:], *self.notes])

    __repr__ = __str__


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results by name, "clean" first; a mapping.

    Attributes:
      results: name -> `Result`.
      threat: name and radius, for tables.
      seconds: wall time of this call.
      asked: the threat itself, from which reports take its radii; None where an `Evaluation` was made by hand, whose ``threat`` is then
        a name and one radius.
    """

    results: dict[str, Result]
    threat: str
    seconds: float
    asked: Threat | None = dataclasses.field(default=None, compare=False)

    def __getitem__(self, name: str) -> Result:
        if name not in self.results:
            raise KeyError(f"no result {name!r}; there are {', '.join(self.results)}")
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self.results.keys()

    def items(self) -> ItemsView[str, Result]:
        """Names and results."""
        return self.results.items()

    @property
    def n(self) -> int:
        """The number of examples."""
        return self.results["clean"].n

    def contradictions(self) -> list[Contradiction]:
        """Every pair of an attack and a certificate of one function that disagree, with the examples; empty when all is well."""
        found = []
        attacks = [r for r in self.results.values() if r.side in ("lower", "exact") and r.name != "clean"]
        proofs = [r for r in self.results.values() if r.side in ("upper", "exact") and r.name != "clean"]
        for attack in attacks:
            for proof in proofs:
                index = np.flatnonzero(proof.holds & ~attack.holds)
                if attack is not proof and attack.about == proof.about and len(index):
                    found.append(Contradiction(attack.name, proof.name, index))
        return found

    def table(self, level: float = 0.95) -> Table:
        """One row a result: n, how its accuracy reads ("at most", "at least", "exact"), its interval, confidence.

        Each row also holds the ``side`` behind the words.
        """
        columns = ("name", "threat", "n", "true value", "accuracy", f"{level:.0%} interval", "confidence", "oracle")
        rows = tuple(
            {**dict(zip(columns, self._row(r, level), strict=True)), "side": r.side} for r in self.results.values()
        )
        return Table(columns, rows, tuple(self._notes()))

    def _row(self, r: Result, level: float) -> Sequence[Any]:
        threat = "none" if r.name == "clean" else self.threat
        if r.side == "estimate" and r.name != "clean":
            return r.name, threat, r.n, reads(r.side), "-", "-", f"{r.confidence:g}", r.oracle
        a = r.accuracy(level)
        return (
            r.name,
            threat,
            r.n,
            "estimate" if r.side == "estimate" else reads(r.side),
            a.value,
            f"[{a.low:.4f}, {a.high:.4f}]",
            f"{r.confidence:g}",
            r.oracle,
        )

    def _notes(self) -> Iterator[str]:
        draws = self.results["clean"].draws
        if draws is not None:
            yield f"a random model: every row is of the mean of {draws} draws, each example's own (another key, other draws)"
        for c in self.contradictions():
            yield f"CONTRADICTION: {c.attack} breaks {len(c.index)} examples that {c.certificate} certifies"
        for r in self.results.values():
            if r.about != "model":
                yield f"{r.name} speaks of the {r.about} model, the other rows of the model itself"
            if r.rejected:
                yield f"{r.name}: {r.rejected} claimed violations were not confirmed at their witness and do not count"

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(self.results)}; {self.threat}, n={self.n})"


class Curve(NamedTuple):
    """Evaluations at several radii.

    Attributes:
      eps: the radii [E].
      evaluations: one `Evaluation` a radius.
    """

    eps: np.ndarray
    evaluations: tuple[Evaluation, ...]

    def accuracy(self, name: str, level: float = 0.95) -> tuple[Accuracy, ...]:
        """The accuracy of one result at every radius."""
        return tuple(e[name].accuracy(level) for e in self.evaluations)

    def table(self, level: float = 0.95) -> Table:
        """The tables of all radii, one below the other; the clean row, which is the same in all, once."""
        tables = [e.table(level) for e in self.evaluations]
        rows = [row for i, t in enumerate(tables) for row in t.rows if not (i and row["name"] == "clean")]
        return Table(tables[0].columns, tuple(rows), tuple(n for t in tables for n in t.notes))

    def __str__(self) -> str:
        return str(self.table())

    def __repr__(self) -> str:
        return f"Curve({', '.join(self.evaluations[0])}; eps {', '.join(f'{e:g}' for e in self.eps)}, n={self.evaluations[0].n})"
