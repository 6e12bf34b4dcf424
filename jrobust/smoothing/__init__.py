"""Randomised smoothing: the class that wins most votes under noise, and how far it provably goes on winning."""

from jrobust.smoothing._bands import Bands, PatchCertificate, bands, derandomized
from jrobust.smoothing._certificate import Certificate, Prediction, needed
from jrobust.smoothing._certify import certify, cohen, predict
from jrobust.smoothing._costs import CostCertificate, cost_sensitive
from jrobust.smoothing._diffusion import cosine_schedule, denoised, edm_noise, linear_schedule, one_step, timestep
from jrobust.smoothing._discrete import ablation, certified_flips, flips
from jrobust.smoothing._dual import dual, halves
from jrobust.smoothing._hierarchical import hierarchical, hierarchical_flips
from jrobust.smoothing._likelihood import diffusion_classifier
from jrobust.smoothing._localized import LocalizedCertificate, collective, localized
from jrobust.smoothing._medians import iou_lower, median_bounds, noisy_outputs
from jrobust.smoothing._noise import Noise, anisotropic, gaussian, smooth
from jrobust.smoothing._parameters import blur, blurred, brightness, brightness_contrast, contrast, translation
from jrobust.smoothing._paths import Path, Places, along, rotation_path, scaling_path
from jrobust.smoothing._points import Parts, PointCertificate, parts, pointcert, subsample
from jrobust.smoothing._purify import diffpure
from jrobust.smoothing._segment import Hierarchy, Segmentation, hierarchy, segment
from jrobust.smoothing._shapes import exponential, laplace, uniform, uniform_ball

__all__ = [
    "Bands",
    "Certificate",
    "CostCertificate",
    "Hierarchy",
    "LocalizedCertificate",
    "Noise",
    "Parts",
    "PatchCertificate",
    "Path",
    "Places",
    "PointCertificate",
    "Prediction",
    "Segmentation",
    "ablation",
    "along",
    "anisotropic",
    "bands",
    "blur",
    "blurred",
    "brightness",
    "brightness_contrast",
    "certified_flips",
    "certify",
    "cohen",
    "collective",
    "contrast",
    "cosine_schedule",
    "cost_sensitive",
    "denoised",
    "derandomized",
    "diffpure",
    "diffusion_classifier",
    "dual",
    "edm_noise",
    "exponential",
    "flips",
    "gaussian",
    "halves",
    "hierarchical",
    "hierarchical_flips",
    "hierarchy",
    "iou_lower",
    "laplace",
    "linear_schedule",
    "localized",
    "median_bounds",
    "needed",
    "noisy_outputs",
    "one_step",
    "parts",
    "pointcert",
    "predict",
    "rotation_path",
    "scaling_path",
    "segment",
    "smooth",
    "subsample",
    "timestep",
    "translation",
    "uniform",
    "uniform_ball",
]
