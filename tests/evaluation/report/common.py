"""Results by hand, and sections made of them."""

from html import unescape

import numpy as np

import jrobust as jr
from jrobust.evaluation import (
    Curve,
    Evaluation,
    Result,
    Section,
    costs_of,
    outcomes_of,
    protocol_of,
    report,
    rows_of,
)

LABEL = np.array([0, 0, 1, 1, 1, 2])
CORRECT = np.array([1, 1, 1, 1, 0, 1], bool)
HOSTILE = "<script>alert('1')</script>|`*_&\"\n"


def result(name, side, holds, confidence=1.0, **info):
    holds = np.array(holds, bool)
    value = np.where(holds, -1.0, 1.0)
    return Result(name, side, holds, value, None, {k: np.array(v) for k, v in info.items()}, confidence, CORRECT, name)


def evaluation(eps, *, attack, proof, other=None):
    results = [
        result("clean", "exact", CORRECT),
        result("pgd", "lower", attack, forwards=[3, 3, 3, 3, 0, 3], backwards=[2, 2, 2, 2, 0, 2]),
        result("crown", "upper", proof),
    ]
    results += [] if other is None else [result("ibp", "upper", other, 0.99)]
    return Evaluation({r.name: r for r in results}, f"linf {eps:g}", 1.5)


SMALL = evaluation(0.1, attack=[1, 1, 1, 1, 0, 0], proof=[1, 0, 1, 0, 0, 0], other=[0, 1, 0, 0, 0, 0])
LARGE = evaluation(0.2, attack=[1, 0, 1, 0, 0, 0], proof=[1, 0, 0, 0, 0, 0], other=[0, 0, 0, 0, 0, 0])
CURVE = Curve(np.array([0.1, 0.2]), (SMALL, LARGE))
ASKED = {"threat": jr.sets.linf(0.1, clip=(0, 1)), "eps": (0.1, 0.2), "seed": 0}


def section(title="net", curve=CURVE, *, x=None, oracles=None, **fields):
    oracles = {"pgd": jr.attacks.pgd(steps=3), "crown": jr.bounds.crown()} if oracles is None else oracles
    x = np.zeros((6, 2, 2, 1)) if x is None else x
    asked = {**ASKED, **fields.pop("asked", {})}
    return Section(
        title,
        rows_of(curve, model=title, seed=0),
        outcomes=outcomes_of(curve, LABEL),
        protocol=protocol_of(x, LABEL, oracles=oracles, dataset="toy", split="test", **asked),
        costs=costs_of(curve),
        **fields,
    )


def words(sections, tmp_path, ending="html", title="page"):
    return unescape(report(sections, tmp_path / f"r.{ending}", title=title).read_text())


def better(title):
    """Proven on all that is right, unbroken there."""
    return section(title, Curve(CURVE.eps, tuple(evaluation(e, attack=CORRECT, proof=CORRECT) for e in (0.1, 0.2))))
