"""Randomised smoothing: the class that wins most votes under noise, and how far it provably goes on winning."""

from jrobust.smoothing._certificate import Certificate, Prediction
from jrobust.smoothing._certify import certify, cohen, predict
from jrobust.smoothing._noise import Noise, gaussian, smooth

__all__ = ["Certificate", "Noise", "Prediction", "certify", "cohen", "gaussian", "predict", "smooth"]
