"""Randomised smoothing: the class that wins most votes under noise, and how far it provably goes on winning."""

from jrobust.smoothing._certificate import Certificate, Prediction, needed
from jrobust.smoothing._certify import certify, cohen, predict
from jrobust.smoothing._diffusion import cosine_schedule, denoised, edm_noise, linear_schedule, one_step, timestep
from jrobust.smoothing._discrete import ablation, certified_flips, flips
from jrobust.smoothing._likelihood import diffusion_classifier
from jrobust.smoothing._noise import Noise, anisotropic, gaussian, smooth
from jrobust.smoothing._purify import diffpure
from jrobust.smoothing._shapes import exponential, laplace, uniform, uniform_ball

__all__ = [
    "Certificate",
    "Noise",
    "Prediction",
    "ablation",
    "anisotropic",
    "certified_flips",
    "certify",
    "cohen",
    "cosine_schedule",
    "denoised",
    "diffpure",
    "diffusion_classifier",
    "edm_noise",
    "exponential",
    "flips",
    "gaussian",
    "laplace",
    "linear_schedule",
    "needed",
    "one_step",
    "predict",
    "smooth",
    "timestep",
    "uniform",
    "uniform_ball",
]
