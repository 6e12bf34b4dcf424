"""jrobust: how bad can a function get over a set of inputs, and who says so?

One type, `Oracle`, bounds ``sup { f(z) : z in S }`` from a stated side; one transform, `worst_case`, turns a loss into its robust
form. Attacks are lower oracles, bound propagation upper ones, smoothing bounds a radius with a confidence.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jrobust import attacks, bounds, objectives, sets, smoothing, transforms
from jrobust._combinators import cascade, mix, restarts, shrink, strongest, tightest
from jrobust._objective import Loss, Objective
from jrobust._oracle import Bound, Oracle, Radius, RadiusOracle
from jrobust._transforms import critical_radius, worst_case
from jrobust._verify import Verdict, verify

if TYPE_CHECKING:
    from jrobust import corruptions, data, evaluation, io, models, nnx, testing, training
    from jrobust.evaluation import evaluate, metrics

__all__ = [
    "Bound",
    "Loss",
    "Objective",
    "Oracle",
    "Radius",
    "RadiusOracle",
    "Verdict",
    "attacks",
    "bounds",
    "cascade",
    "corruptions",
    "critical_radius",
    "data",
    "evaluate",
    "evaluation",
    "io",
    "metrics",
    "mix",
    "models",
    "nnx",
    "objectives",
    "restarts",
    "sets",
    "shrink",
    "smoothing",
    "strongest",
    "testing",
    "tightest",
    "training",
    "transforms",
    "verify",
    "worst_case",
]

__version__ = "0.1.0"

# The upper floors load on first use: they bring flax, orbax, or data sets with them.
_LAZY = {
    name: f"jrobust.{name}"
    for name in ("corruptions", "data", "evaluation", "io", "models", "nnx", "testing", "training")
}
_LAZY["metrics"] = "jrobust.evaluation.metrics"


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        return importlib.import_module("jrobust.evaluation").evaluate
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    raise AttributeError(f"module 'jrobust' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
