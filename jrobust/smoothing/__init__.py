"""Randomised smoothing: the class that wins most votes under noise, and how far it provably goes on winning."""

from jrobust.smoothing._bands import Bands, PatchCertificate, bands, derandomized
from jrobust.smoothing._certificate import Certificate, Prediction
from jrobust.smoothing._certify import certify, cohen, predict
from jrobust.smoothing._dual import dual, halves
from jrobust.smoothing._noise import Noise, gaussian, smooth
from jrobust.smoothing._segment import Hierarchy, Segmentation, hierarchy, segment

__all__ = [
    "Bands",
    "Certificate",
    "Hierarchy",
    "Noise",
    "PatchCertificate",
    "Prediction",
    "Segmentation",
    "bands",
    "certify",
    "cohen",
    "derandomized",
    "dual",
    "gaussian",
    "halves",
    "hierarchy",
    "predict",
    "segment",
    "smooth",
]
