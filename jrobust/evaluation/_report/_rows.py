"""The numbers of a section, from what the drivers returned: accuracies, radii, costs, corruption errors, each with its interval."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jrobust._statistics import Accuracy, proportion
from jrobust.evaluation._report._outcomes import answers, between, radius_of, threats_of
from jrobust.evaluation._report._sections import CorruptionRow, Cost, Row, Section
from jrobust.evaluation._results import Curve, Evaluation


def accuracy_of(row: Row) -> Accuracy:
    """A row's number with its interval."""
    side: Any = row.side
    return Accuracy(row.value, row.low, row.high, round(row.value * row.n), row.n, row.level, side, row.confidence)


def sides_of(
    section: Section, subject: str = "model", level: float = 0.95
) -> dict[str, tuple[tuple[float, Accuracy | None, Accuracy | None], ...]]:
    """Threat -> (radius, proven, left by attacks) at every radius.

    All proofs of a radius together, example by example, and all attacks; without outcomes the best number of each side.
    """
    if section.outcomes is not None:
        return {
            threat: tuple((b.eps, b.floor(level), b.ceiling(level)) for b in between(section.outcomes, threat, subject))
            for threat in threats_of(section.outcomes, subject)
        }
    rows = [r for r in section.rows if r.quantity == "accuracy" and r.subject == subject and r.threat != "none"]
    found = {}
    for threat in dict.fromkeys(r.threat for r in rows):
        here = [r for r in rows if r.threat == threat]
        found[threat] = tuple(
            (
                eps,
                max((accuracy_of(r) for r in here if r.eps == eps and r.side in ("upper", "exact")), default=None, key=float),
                min((accuracy_of(r) for r in here if r.eps == eps and r.side in ("lower", "exact")), default=None, key=float),
            )
            for eps in sorted({r.eps for r in here})
        )  # fmt: skip
    return found


def costs_of(evaluation: Evaluation | Curve, *, seconds: bool = True) -> tuple[Cost, ...]:
    """Passes of every method at every radius, and the seconds of each radius.

    Args:
      evaluation: the result; proofs do not count passes.
      seconds: the driver's clock is about this result (not where it was read back from disk).
    """
    out = []
    for at, r in answers(evaluation):
        if r.name != "clean":
            passes = {k: int(r.info[k].sum()) for k in ("forwards", "backwards") if k in r.info}
            out.append(Cost(r.name, at.threat, at.eps, int(r.correct.sum()), **passes))
    evaluations = evaluation.evaluations if isinstance(evaluation, Curve) else (evaluation,)
    for ev in evaluations:
        at = radius_of(ev)
        out.append(Cost("all together", at.threat, at.eps, ev.n, seconds=float(ev.seconds) if seconds else None))
    return tuple(out)


def corruption_rows(rows: Iterable[Mapping[str, Any]], *, level: float = 0.95) -> tuple[CorruptionRow, ...]:
    """Rows of corruption, severity and errors, checked, with their intervals, for ``Section(corruptions=...)``.

    Args:
      rows: mappings with ``corruption`` (name), ``severity`` (an integer >= 0), ``n`` (images) and ``errors`` (how many of them are
        classified wrong), and where known ``suite`` (such as "cifar-c") and ``drawn`` (whether the images are one draw of its noise);
        other entries are left aside.
      level: of the (Clopper-Pearson) interval of each error.

    Raises:
      ValueError: a row without one of the four, a count out of range, the same corruption and severity twice.

    >>> corruption_rows([{"corruption": "fog", "severity": 1, "n": 10, "errors": 2}])[0].error
    0.2
    """
    out: dict[tuple[str, str, int], CorruptionRow] = {}
    for row in rows:
        if lost := [k for k in ("corruption", "severity", "n", "errors") if k not in row]:
            raise ValueError(
                f"a row of corruptions needs corruption, severity, n and errors; {lost[0]} is missing in {dict(row)}"
            )
        name, severity, n, errors = str(row["corruption"]), row["severity"], row["n"], row["errors"]
        whole = all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in (severity, n, errors))
        if not whole or severity < 0 or not 0 <= errors <= n or n < 1:
            raise ValueError(
                f"{name}: severity >= 0, n >= 1 and errors in 0..n are integers, got severity {severity!r}, n {n!r}, errors {errors!r}"
            )
        suite, drawn = str(row.get("suite") or ""), row.get("drawn")
        if not (drawn is None or isinstance(drawn, bool | np.bool_)):
            raise ValueError(f"{name}: drawn is True, False or None (not known), got {drawn!r}")
        if (suite, name, int(severity)) in out:
            raise ValueError(f"{name} at severity {severity} is there twice")
        a = proportion(int(errors), int(n), side="exact", level=level)
        known = None if drawn is None else bool(drawn)
        out[suite, name, int(severity)] = CorruptionRow(
            name, int(severity), a.value, a.low, a.high, a.n, level, suite, known
        )
    return tuple(out.values())


def rows_of(evaluation: Evaluation | Curve, *, model: str, seed: int, level: float = 0.95) -> tuple[Row, ...]:
    """The numbers of an `Evaluation`, or of every radius of a `Curve` (clean accuracy once); estimates bound nothing and give none.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> ev = jr.evaluate(lambda x: x, jnp.array([[0.2, 0.8]]), jnp.array([1]), threat=jr.sets.linf(0.1), oracles={},
    ...                  key=jax.random.key(0))
    >>> rows_of(ev, model="identity", seed=0)[0].side
    'exact'
    """
    rows = []
    for at, r in answers(evaluation):
        a = r.accuracy(level)
        rows.append(
            Row(
                model,
                r.name,
                at.threat,
                at.eps,
                a.side,
                a.value,
                a.low,
                a.high,
                a.n,
                a.confidence,
                seed,
                subject=r.about,
                level=level,
            )
        )
    return tuple(rows)


def smoothed_rows(
    certificate: Any, y: Any, *, model: str, seed: int, radii: Sequence[float], level: float = 0.95
) -> tuple[Row, ...]:
    """Certified accuracy at some radii and the median certified radius (with its exact order-statistic interval).

    Of few examples (5 at 95 %) order statistics bound the median from neither side: it lies between 0 and the largest radius that the
    draws could certify.
    """
    from scipy.stats import binom

    rows = []
    for radius, a in zip(radii, certificate.curve(y, radii, level=level), strict=True):
        name = f"smoothing {certificate.noise}"
        rows.append(
            Row(model, name, certificate.norm, float(radius), a.side, a.value, a.low, a.high, a.n, a.confidence, seed,
                subject="smoothed", level=level)
        )  # fmt: skip
    ordered = np.sort(correct_radii(certificate, y))
    n = len(ordered)
    below = int(binom.ppf((1 - level) / 2, n, 0.5))  # P(X < below) <= tail, X examples below the median
    low = float(ordered[below - 1]) if below >= 1 else 0.0
    high = float(ordered[n - below]) if below >= 1 else max(float(certificate.most), float(ordered[-1]))
    rows.append(
        Row(model, "median certified radius", certificate.norm, 0.0, certificate.side, float(np.median(ordered)), low, high,
            n, certificate.confidence, seed, "radius", "smoothed", level)
    )  # fmt: skip
    return tuple(rows)


def correct_radii(certificate: Any, y: Any) -> np.ndarray:
    """Certified radii [N], 0 where the smoothed classifier abstains or is wrong."""
    return np.where(np.asarray(certificate.prediction) == np.asarray(y), certificate.radius, 0.0)


def notes_of(evaluation: Evaluation | Curve) -> tuple[str, ...]:
    """Contradictions and rejected claims, as the tables print them."""
    return tuple(evaluation.table().notes)


def smoothing_cost(certificate: Any) -> Cost:
    """Draws (the selection's too) and seconds of a `Certificate`; the seconds are those of its own record."""
    draws = int(certificate.draws.sum()) + certificate.n0 * len(certificate.draws)
    return Cost(
        f"smoothing {certificate.noise}",
        certificate.norm,
        0.0,
        len(certificate.draws),
        draws,
        0,
        float(certificate.seconds.sum()),
    )
