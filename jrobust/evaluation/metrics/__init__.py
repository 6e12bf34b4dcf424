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
from jrobust.evaluation.metrics._boundary import ebd1, ebd2, eni
from jrobust.evaluation.metrics._calibration import Reliability, brier, ece, nll, reliability
from jrobust.evaluation.metrics._clever import clever
from jrobust.evaluation.metrics._corruptions import (
    flip_probability,
    mce,
    mean_corruption_error,
    relative_mce,
    top5_distance,
)
from jrobust.evaluation.metrics._defences import cav, ccv, cos, crr, csr
from jrobust.evaluation.metrics._distances import empirical_robustness, optimality, radius_area, radius_curve
from jrobust.evaluation.metrics._driver import Scores, logits
from jrobust.evaluation.metrics._geometry import boundary_thickness, local_lipschitz
from jrobust.evaluation.metrics._gradients import GradientStructure, gradient_structure, loss_sensitivity
from jrobust.evaluation.metrics._irreducible import Irreducible, irreducible_error
from jrobust.evaluation.metrics._neurons import (
    Profile,
    kmnc,
    nbc,
    neuron_coverage,
    neuron_profile,
    neuron_sensitivity,
    neuron_uncertainty,
    snac,
    tknc,
)
from jrobust.evaluation.metrics._predictions import fooling_rate, pareto, retention_rate
from jrobust.evaluation.metrics._survival import blur_robustness, compression_robustness
from jrobust.evaluation.metrics._witnesses import acac, actc, ald, average_ssim, nte, psd, ssim

__all__ = [
    "Bracket",
    "GradientStructure",
    "Irreducible",
    "Profile",
    "Reliability",
    "Scores",
    "WorstClass",
    "acac",
    "accuracy",
    "actc",
    "adversarial_accuracy",
    "ald",
    "attack_success_rate",
    "average_ssim",
    "blur_robustness",
    "boundary_thickness",
    "bracket",
    "brier",
    "cav",
    "ccv",
    "certified_accuracy",
    "class_accuracy",
    "clean_accuracy",
    "clever",
    "compression_robustness",
    "cos",
    "crr",
    "csr",
    "ebd1",
    "ebd2",
    "ece",
    "empirical_robustness",
    "eni",
    "flip_probability",
    "fooling_rate",
    "gradient_structure",
    "irreducible_error",
    "kmnc",
    "local_lipschitz",
    "logits",
    "loss_sensitivity",
    "mce",
    "mean_corruption_error",
    "nbc",
    "neuron_coverage",
    "neuron_profile",
    "neuron_sensitivity",
    "neuron_uncertainty",
    "nll",
    "nte",
    "optimality",
    "pareto",
    "psd",
    "radius_area",
    "radius_curve",
    "relative_mce",
    "reliability",
    "retention_rate",
    "robust_accuracy",
    "snac",
    "ssim",
    "successes",
    "tknc",
    "top5_distance",
    "worst_class_accuracy",
]
