"""Corruptions: the changes of ImageNet-C, CIFAR-C and MNIST-C at their severities, in pure JAX, one image at a time.

``corrupted(cifar_c["fog"], x, severity=3, key=key)`` is a data set in fog; a suite is a mapping from names to corruptions.
``cifar_p["tilt"].sequence(key, image)`` is a sequence of frames.
"""

from jrobust.corruptions._base import Corruption, corrupted, corruption
from jrobust.corruptions._search import searched
from jrobust.corruptions._sequences import Perturbation, cifar_p, imagenet_p
from jrobust.corruptions._suites import (
    cifar_c,
    held_out,
    imagenet_c,
    mnist_c,
    mnist_c_severity,
    scored,
    with_textures,
)

__all__ = [
    "Corruption",
    "Perturbation",
    "cifar_c",
    "cifar_p",
    "corrupted",
    "corruption",
    "held_out",
    "imagenet_c",
    "imagenet_p",
    "mnist_c",
    "mnist_c_severity",
    "scored",
    "searched",
    "with_textures",
]
