"""Numbers over results, witnesses, predictions and models; each says which side it bounds, or that it is an estimate."""

from jrobust.evaluation.metrics._accuracy import (
    Bracket,
    WorstClass,
    accuracy,
    adversarial_accuracy,
    attack_success_rate,
    bracket,
    certified_accuracy,
    class_accuracy,
    clean_accuracy,
    robust_accuracy,
    successes,
    worst_class_accuracy,
)
from jrobust.evaluation.metrics._corruptions import (
    flip_probability,
    mce,
    mean_corruption_error,
    relative_mce,
    top5_distance,
)
from jrobust.evaluation.metrics._distances import empirical_robustness, optimality, radius_area, radius_curve
from jrobust.evaluation.metrics._predictions import fooling_rate, pareto, retention_rate

__all__ = [
    "Bracket",
    "WorstClass",
    "accuracy",
    "adversarial_accuracy",
    "attack_success_rate",
    "bracket",
    "certified_accuracy",
    "class_accuracy",
    "clean_accuracy",
    "empirical_robustness",
    "flip_probability",
    "fooling_rate",
    "mce",
    "mean_corruption_error",
    "optimality",
    "pareto",
    "radius_area",
    "radius_curve",
    "relative_mce",
    "retention_rate",
    "robust_accuracy",
    "successes",
    "top5_distance",
    "worst_class_accuracy",
]
