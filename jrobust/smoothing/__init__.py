"""Randomised smoothing: the class that wins most votes under noise, and how far it provably goes on winning."""

from jrobust.smoothing._certificate import Certificate, Prediction, needed
from jrobust.smoothing._certify import certify, cohen, predict
from jrobust.smoothing._discrete import ablation, certified_flips, flips
from jrobust.smoothing._noise import Noise, anisotropic, gaussian, smooth
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
    "exponential",
    "flips",
    "gaussian",
    "laplace",
    "needed",
    "predict",
    "smooth",
    "uniform",
    "uniform_ball",
]
