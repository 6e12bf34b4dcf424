"""What every oracle said about every example, in a few bits each; and what follows: both sides at once, by class, contradictions."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jrobust._checks import check_labels
from jrobust._digest import digest
from jrobust._statistics import Accuracy, proportion
from jrobust.evaluation._results import Curve, Evaluation, Result

NESTED = ("linf", "l2", "l1", "l0", "l0-pixels")
"""Threats whose sets lie in one another as the radius grows, by name."""


class Question(NamedTuple):
    """What was asked about every example.

    Attributes:
      name: the method.
      threat, eps: norm and radius; "none" and 0 of clean accuracy.
      side: of the worst case.
      subject: "model", or "smoothed".
      confidence: of each answer.
      set: digest of the family of sets, its box included; empty where it is not known (or of clean accuracy).
    """

    name: str
    threat: str
    eps: float
    side: str
    subject: str = "model"
    confidence: float = 1.0
    set: str = ""


class Radius(NamedTuple):
    """The set around every example, as data: two are the same question where all three agree.

    Attributes:
      threat: name of the norm. Where the parts of a product or the examples have different radii there is no one number: then they all
        stand here (ranges, with a digest), and ``eps`` is 1, times these radii.
      eps: the one radius.
      set: digest of the family, as in `protocol_of`; empty where it is not known.
    """

    threat: str
    eps: float
    set: str = ""


class Outcomes(NamedTuple):
    """The answers.

    Attributes:
      label: int [N], the true classes.
      questions: Q of them.
      holds: bool [Q, N].
    """

    label: np.ndarray
    questions: tuple[Question, ...]
    holds: np.ndarray

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.label)

    def joined(self, other: "Outcomes") -> "Outcomes":
        """With the answers to other questions about the same examples.

        Raises:
          ValueError: the labels differ, so the examples do.
        """
        if not np.array_equal(self.label, other.label):
            raise ValueError(
                f"outcomes about other examples cannot be joined: {self.n} labels and {other.n}, not the same"
            )
        return Outcomes(self.label, self.questions + other.questions, np.concatenate([self.holds, other.holds]))

    def around(self, family: str) -> "Outcomes":
        """The same, where a question about the model does not say its set: it is this family."""
        unknown = (q.subject == "model" and q.threat != "none" and not q.set for q in self.questions)
        asked = tuple(q._replace(set=family) if u else q for q, u in zip(self.questions, unknown, strict=True))
        return self._replace(questions=asked)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file, whole or not at all."""
        questions = json.dumps([q._asdict() for q in self.questions])
        arrays = {"label": self.label, "holds": np.packbits(self.holds, axis=1), "questions": np.array(questions)}
        path = Path(path)
        unfinished = path.with_name(f".{path.name}")
        np.savez_compressed(unfinished, allow_pickle=False, **arrays)
        os.replace(unfinished, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Outcomes":
        """Read what `save` wrote.

        Raises:
          ValueError: the file holds something else.
        """
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            label, packed = file["label"], file["holds"]
            questions = tuple(Question(**q) for q in json.loads(str(file["questions"])))
        if len(packed) != len(questions) or label.ndim != 1:
            raise ValueError(f"{path} holds {len(packed)} rows of answers to {len(questions)} questions")
        return Outcomes(label, questions, np.unpackbits(packed, axis=1, count=len(label)).astype(bool))


def answers(evaluation: Evaluation | Curve) -> Iterator[tuple[Radius, Result]]:
    """Radius and result of all that bounds something, clean accuracy once."""
    for i, ev in enumerate(evaluation.evaluations if isinstance(evaluation, Curve) else (evaluation,)):
        radius = radius_of(ev)
        for r in ev.results.values():
            if r.name == "clean":
                if not i:
                    yield Radius("none", 0.0), r
            elif r.side != "estimate":
                yield radius, r


SCALED = ", times"
"""How the name of a threat of several radii ends, before the 1 that is its eps."""


def radius_of(evaluation: Evaluation) -> Radius:
    """The set that was asked about; several radii are never read as one of them.

    Raises:
      ValueError: an `Evaluation` made by hand whose threat is not a name and one radius.
    """
    asked = evaluation.asked
    if asked is None:
        name, _, eps = evaluation.threat.rpartition(" ")
        if not name or "," in name or not re.fullmatch(r"[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", eps):
            raise ValueError(
                "the threat of an Evaluation made by hand is a name and one radius, such as 'linf 0.1'; got "
                f"{evaluation.threat!r} (asked=threat says more)"
            )
        return Radius(name, float(eps))
    family = digest(asked.family(0.0))
    radii = [np.asarray(e) for e in jax.tree.leaves(asked.eps)]
    ends = [tuple(float(str(end)) for end in (e.min(), e.max())) for e in radii]  # as short as its precision allows
    if len({e for pair in ends for e in pair}) == 1:
        return Radius(asked.name, ends[0][0], family)
    each = ", ".join(f"{lo:g}" if lo == hi else f"{lo:g} to {hi:g}" for lo, hi in ends)
    return Radius(f"{asked.name} {each} (radii {digest(radii)[:8]}){SCALED}", 1.0, family)


def outcomes_of(evaluation: Evaluation | Curve, y: Any) -> Outcomes:
    """The answers in an `Evaluation` or `Curve` about examples of the classes ``y`` [N].

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> ev = jr.evaluate(lambda x: x, jnp.array([[0.2, 0.8]]), jnp.array([1]), threat=jr.sets.linf(0.1), oracles={},
    ...                  key=jax.random.key(0))
    >>> outcomes_of(ev, [1]).holds.tolist()
    [[True]]
    """
    said = list(answers(evaluation))
    label = check_labels(y, len(said[0][1].holds))
    questions = [Question(r.name, at.threat, at.eps, r.side, r.about, r.confidence, at.set) for at, r in said]
    return Outcomes(label, tuple(questions), np.stack([np.asarray(r.holds, bool) for _, r in said]))


def smoothed_outcomes(certificate: Any, y: Any, radii: Sequence[float]) -> Outcomes:
    """The answers of a `Certificate` at some radii."""
    label = check_labels(y, len(certificate.prediction))
    right = certificate.prediction == label
    name = f"smoothing {certificate.noise}"
    questions = [Question(name, certificate.norm, float(r), "upper", "smoothed", certificate.confidence) for r in radii]
    return Outcomes(label, tuple(questions), np.stack([right & (certificate.radius >= r) for r in radii]))


class Between(NamedTuple):
    """What is known at one radius, example by example.

    Attributes:
      eps: the radius.
      proven: bool [N], some certificate holds; None where none was asked.
      unbroken: bool [N], no attack broke it; None where none was asked.
      confidence: of each statement in ``proven``, all certificates together.
      proofs, attacks: names.
    """

    eps: float
    proven: np.ndarray | None
    unbroken: np.ndarray | None
    confidence: float
    proofs: tuple[str, ...]
    attacks: tuple[str, ...]

    def floor(self, level: float = 0.95, only: Any = slice(None)) -> Accuracy | None:
        """The share proven (among some examples)."""
        return _share(self.proven, only, "upper", self.confidence, level)

    def ceiling(self, level: float = 0.95, only: Any = slice(None)) -> Accuracy | None:
        """The share that no attack broke."""
        return _share(self.unbroken, only, "lower", 1.0, level)


def _share(holds: np.ndarray | None, only: Any, side: Any, confidence: float, level: float) -> Accuracy | None:
    if holds is None:
        return None
    some = holds[only]
    return proportion(int(some.sum()), len(some), side=side, confidence=confidence, level=level)


def threats_of(outcomes: Outcomes, subject: str = "model") -> tuple[str, ...]:
    """The threats asked about, in order."""
    asked = (q.threat for q in outcomes.questions if q.subject == subject and q.threat != "none")
    return tuple(dict.fromkeys(asked))


def between(outcomes: Outcomes, threat: str, subject: str = "model") -> tuple[Between, ...]:
    """Both sides at every radius: all attacks of a radius together, and all proofs.

    Raises:
      ValueError: they speak of several sets of that name, such as inside boxes that differ.
    """
    asked = [
        (q, h)
        for q, h in zip(outcomes.questions, outcomes.holds, strict=True)
        if q.threat == threat and q.subject == subject
    ]
    if len({q.set for q, _ in asked if q.set}) > 1:
        raise ValueError(
            f"these outcomes speak of several sets of the name {threat} (other clips, or other parts): give each its own Section"
        )
    out = []
    for eps in sorted({q.eps for q, _ in asked}):
        here = [(q, h) for q, h in asked if q.eps == eps]
        proofs = [(q, h) for q, h in here if q.side in ("upper", "exact")]
        attacks = [(q, h) for q, h in here if q.side in ("lower", "exact")]
        out.append(
            Between(
                eps,
                np.logical_or.reduce([h for _, h in proofs]) if proofs else None,
                np.logical_and.reduce([h for _, h in attacks]) if attacks else None,
                max(0.0, 1.0 - sum(1.0 - q.confidence for q, _ in proofs)),
                tuple(q.name for q, _ in proofs),
                tuple(q.name for q, _ in attacks),
            )
        )
    return tuple(out)


def clean(outcomes: Outcomes) -> np.ndarray | None:
    """bool [N], classified right; None where that was not asked."""
    rows = [h for q, h in zip(outcomes.questions, outcomes.holds, strict=True) if q.threat == "none"]
    return rows[0] if rows else None


class Alarm(NamedTuple):
    """An attack broke what a certificate proves: one of the two is wrong (or, where confidence < 1, a rare draw).

    Attributes:
      attack, certificate: the questions that disagree; of several radii those of the first example.
      index: int [M], the examples.
    """

    attack: Question
    certificate: Question
    index: np.ndarray

    def __str__(self) -> str:
        a, c = self.attack, self.certificate
        more = f" and {len(self.index) - 5} more" if len(self.index) > 5 else ""
        some = ", ".join(map(str, self.index[:5])) + more
        lucky = f" (each of its statements may fail with probability {1 - c.confidence:g})" if c.confidence < 1 else ""
        many = f"{len(self.index)} example{'s' * (len(self.index) > 1)}"
        return (
            f"{a.name} breaks {many} at {a.threat} {a.eps:g} that {c.name} certifies at {c.threat} {c.eps:g}: number "
            f"{some}. One of the two is wrong{lucky}."
        )


def alarms(outcomes: Outcomes) -> tuple[Alarm, ...]:
    """Every attack and certificate that contradict each other, across radii too: what is broken is not provable at a larger radius.

    Only where both speak of one family of sets: inside another box there are other points.
    """
    asked = list(zip(outcomes.questions, outcomes.holds, strict=True))
    attacks = [(q, h) for q, h in asked if q.side in ("lower", "exact") and q.threat != "none"]
    proofs = [(q, h) for q, h in asked if q.side in ("upper", "exact") and q.threat != "none"]
    found: dict[tuple[str, str, str], list[tuple[Question, Question, np.ndarray]]] = {}
    for a, broken in attacks:
        for p, proven in proofs:
            reaches = a.eps == p.eps or (a.eps < p.eps and a.threat in NESTED)
            if a is p or (a.threat, a.set, a.subject) != (p.threat, p.set, p.subject) or not reaches:
                continue
            index = np.flatnonzero(proven & ~broken)
            if len(index):
                found.setdefault((a.name, p.name, a.threat), []).append((a, p, index))
    out = []
    for pairs in found.values():
        index = np.unique(np.concatenate([i for *_, i in pairs]))
        a, p, _ = next(pair for pair in pairs if index[0] in pair[2])
        out.append(Alarm(a, p, index))
    return tuple(out)


def checked(outcomes: Outcomes) -> int:
    """How many pairs of an attack and a certificate `alarms` could compare."""
    sides = [(q.side, (q.threat, q.set), q.subject, q.name) for q in outcomes.questions if q.threat != "none"]
    attacks = {(n, t, s) for side, t, s, n in sides if side in ("lower", "exact")}
    proofs = {(n, t, s) for side, t, s, n in sides if side in ("upper", "exact")}
    return sum(a[1:] == p[1:] and a != p for a in attacks for p in proofs)
