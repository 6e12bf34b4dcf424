"""How a number was got, as plain data: what must be equal before two models may be ranked, and which of several models it is equal for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jrobust._digest import digest
from jrobust._statistics import Accuracy
from jrobust.evaluation._rows import accuracy_of, sides_of
from jrobust.evaluation._sections import Section
from jrobust.sets import Threat

_SHARED = ("dataset", "split", "n", "examples")
_ASKED = (*_SHARED, "threat", "set", "attacks", "nested")
_SMOOTHED = (*_SHARED, "noise", "noise_digest", "n0", "draws", "alpha", "runner_up", "target")
_WORDS = {
    "dataset": "data set", "set": "set around an example", "n": "number of examples (n)", "noise_digest": "noise",
    "n0": "selection draws", "runner_up": "bound on the second class", "threat": "norm or transform",
}  # fmt: skip


def protocol_of(
    x: Any, y: Any, *, threat: Threat, eps: Sequence[Any], oracles: Mapping[str, Any], seed: int, **more: Any
) -> dict[str, Any]:
    """What `evaluate` or `curve` was asked, for a `Section`; two models are ranked together only where this agrees.

    Args:
      x, y: examples [N, ...] and labels [N]; of both a hash is kept, of the numbers themselves nothing.
      threat: its family is meant, not its eps.
      eps: the radii.
      oracles: as given to the driver.
      seed: of the key.
      **more: what else there is to say, such as ``dataset``, ``split``, ``batch_size``, ``box``, ``nested``; JSON values.

    >>> import numpy as np, jrobust as jr
    >>> p = protocol_of(np.zeros((2, 3)), [0, 1], threat=jr.sets.linf(0.1), eps=[0.1], oracles={}, seed=0, split="test")
    >>> p["n"], p["threat"], p["split"]
    (2, 'linf', 'test')
    """
    asked = {
        name: {"oracle": o.name, "side": getattr(o, "sup_side", o.side), "confidence": o.confidence, "digest": digest(o)}
        for name, o in oracles.items()
    }  # fmt: skip
    family = digest(threat.family(0.0))
    attacks = sorted(str(o["digest"]) for o in asked.values() if o["side"] in ("lower", "exact"))
    return {
        **_examples(x, y), "threat": threat.name, "set": family, "eps": [float(e) for e in eps], "oracles": asked, "attacks": attacks,
        "seed": seed, **more,
    }  # fmt: skip


def smoothing_protocol(
    x: Any, y: Any, certificate: Any, *, seed: int, runner_up: bool = False, target: float | None = None, **more: Any
) -> dict[str, Any]:
    """What `jrobust.smoothing.certify` was asked, for a `Section`.

    Args:
      x, y: examples and labels.
      certificate: the result.
      seed: of the key.
      runner_up, target: as given to `certify`.
      **more: such as ``dataset``, ``split``, ``batch_size``.
    """
    return {
        **_examples(x, y), "threat": certificate.norm, "noise": certificate.noise, "noise_digest": certificate.noise_digest,
        "n0": certificate.n0, "draws": certificate.n, "alpha": round(1 - certificate.confidence, 12), "runner_up": runner_up,
        "target": target, "seed": seed, **more,
    }  # fmt: skip


def _examples(x: Any, y: Any) -> dict[str, Any]:
    y = np.asarray(y)
    return {"n": len(y), "examples": digest((jax.tree.map(np.asarray, x), y.astype(np.int32)))}


class Standing(NamedTuple):
    """A model at one radius.

    Attributes:
      title: of its section.
      floor, ceiling: proven, and left by the attacks; None where not asked.
      above: titles of models that it certainly beats on these examples: its floor exceeds their ceiling.
      rank: 1 is best, None where nothing ranks it.
    """

    title: str
    floor: Accuracy | None
    ceiling: Accuracy | None
    above: tuple[str, ...] = ()
    rank: int | None = None


class Board(NamedTuple):
    """Models that were asked the same, at every radius.

    Attributes:
      kind: "model", or "smoothed".
      protocol: what they share; None where it was not recorded (then there is one model).
      titles: the models.
      standings: (threat, radius) -> its models, best first.
      clean: title -> clean accuracy, where it was measured.
    """

    kind: str
    protocol: Mapping[str, Any] | None
    titles: tuple[str, ...]
    standings: Mapping[tuple[str, float], tuple[Standing, ...]]
    clean: Mapping[str, Accuracy]


def boards(sections: Sequence[Section], level: float = 0.95) -> tuple[Board, ...]:
    """Models grouped by protocol: none is ranked against one that was asked something else, or of which it is not known what was asked.

    Within a radius models are ordered by what the (same) attacks left, or where nothing attacked by what is proven.
    """
    out = []
    for kind, fields, of in (
        ("model", _ASKED, lambda s: s.protocol),
        ("smoothed", _SMOOTHED, lambda s: s.smoothing),
    ):
        groups: dict[Any, list[Section]] = {}
        for i, s in enumerate(sections):
            if sides_of(s, kind, level):
                key = tuple(str(of(s).get(f)) for f in fields) if of(s) else i
                groups.setdefault(key, []).append(s)
        for group in groups.values():
            protocol = {f: of(group[0]).get(f) for f in fields} if of(group[0]) else None
            out.append(_board(kind, protocol, group, level))
    return tuple(out)


def _board(kind: str, protocol: Mapping[str, Any] | None, group: Sequence[Section], level: float) -> Board:
    at: dict[tuple[str, float], list[Standing]] = {}
    right = {}
    for s in group:
        for threat, sides in sides_of(s, kind, level).items():
            for eps, floor, ceiling in sides:
                at.setdefault((threat, eps), []).append(Standing(s.title, floor, ceiling))
        for r in s.rows:
            if r.threat == "none" and r.quantity == "accuracy":
                right[s.title] = accuracy_of(r)
    standings = {where: _ranked(at[where]) for where in sorted(at)}
    return Board(kind, protocol, tuple(dict.fromkeys(s.title for s in group)), standings, right)


def _ranked(entries: Sequence[Standing]) -> tuple[Standing, ...]:
    """Ordered by the ceiling where all have one, else by the floor where all have one, else as they came."""
    by = next((side for side in ("ceiling", "floor") if all(getattr(e, side) is not None for e in entries)), None)
    if by is None or len(entries) < 2:
        return tuple(entries)
    ordered = sorted(entries, key=lambda e: -float(getattr(e, by)))
    values = [float(getattr(e, by)) for e in ordered]
    return tuple(
        e._replace(
            rank=1 + values.index(v),
            above=tuple(o.title for o in ordered if o is not e and _beats(e.floor, o.ceiling)),
        )
        for e, v in zip(ordered, values, strict=True)
    )


def _beats(floor: Accuracy | None, ceiling: Accuracy | None) -> bool:
    """For certain: proofs that hold with a probability do not count."""
    return floor is not None and ceiling is not None and floor.confidence == 1 and float(floor) > float(ceiling)


def difference(a: Board, b: Board) -> str:
    """Why the models of two boards are not ranked together, in words."""
    if a.kind != b.kind:
        return "the one is about the model, the other about the smoothed classifier"
    if a.protocol is None or b.protocol is None:
        return "of one it was not recorded which examples and attacks were asked"
    fields = [f for f in a.protocol if str(a.protocol[f]) != str(b.protocol.get(f))]
    if "noise" in fields and "noise_digest" in fields:
        fields.remove("noise_digest")
    if "threat" in fields and "set" in fields:
        fields.remove("set")
    said = []
    for f in fields:
        there = "" if f in ("examples", "set", "attacks", "noise_digest") else f" ({a.protocol[f]} and {b.protocol[f]})"
        said.append(_WORDS.get(f, f) + there)
    return "they differ in " + ", ".join(said) if said else "they were not asked at a common radius"
