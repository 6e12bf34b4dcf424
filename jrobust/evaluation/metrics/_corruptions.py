"""Numbers of the corruption benchmarks: errors by corruption and severity, relative to AlexNet or not; stability along sequences.

They are means over given images, and bound nothing: a corruption is no adversary.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

# Mean errors of AlexNet over the five severities of ImageNet-C, which normalise the scores of the 15
ALEXNET: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }
)


def _errors(errors: Any, by: str) -> dict[str, np.ndarray]:
    if not isinstance(errors, Mapping) or not errors:
        raise TypeError(f"{by} takes errors by corruption, {{name: [one a severity]}}; got {errors!r}")
    out = {name: np.asarray(e, np.float64) for name, e in errors.items()}
    for name, e in out.items():
        if e.ndim != 1 or e.size == 0 or not np.all((e >= 0) & (e <= 1)):
            raise ValueError(f"{by}: errors[{name!r}] must be shares in [0, 1], one a severity, got {e.tolist()}")
    lengths = {len(e) for e in out.values()}
    if len(lengths) > 1:
        raise ValueError(f"{by}: all corruptions must have equally many severities, got {sorted(lengths)}")
    return out


def mean_corruption_error(errors: Any) -> float:
    """The mean error over corruptions and severities, unnormalised: the convention of CIFAR-10-C.

    Args:
      errors: error rates in [0, 1] by corruption, ``{name: [one a severity]}``.

    Raises:
      ValueError: an error outside [0, 1], or severities of different number.

    >>> mean_corruption_error({"fog": [0.1, 0.3], "snow": [0.2, 0.4]})
    0.25

    References:
      Croce et al., RobustBench, NeurIPS 2021 datasets track, whose accuracy is 1 minus this over 15 corruptions and 5 severities.
    """
    return float(np.mean([e.mean() for e in _errors(errors, "mean_corruption_error").values()]))


def _reference(errors: Any, by: str, reference: Any) -> tuple[np.ndarray, np.ndarray]:
    own, known = _errors(errors, by), ALEXNET if reference is None else reference
    other = {
        name: float(np.mean(known[name])) for name in known
    }  # one number is the mean over severities, as is one a severity
    if set(own) != set(other):
        missing, extra = sorted(set(other) - set(own)), sorted(set(own) - set(other))
        raise ValueError(f"{by} is over the corruptions of the reference: missing {missing}, not among them {extra}")
    if reference is None and len(next(iter(own.values()))) != 5:
        raise ValueError(f"{by}: AlexNet's errors are over 5 severities, got {len(next(iter(own.values())))}")
    return np.array([own[n].mean() for n in other]), np.array([other[n] for n in other])


def mce(errors: Any, *, reference: Any = None) -> float:
    """Mean corruption error: the sum of a corruption's errors over that of a reference model's, averaged over corruptions.

    Args:
      errors: top-1 error rates in [0, 1] by corruption, ``{name: [one a severity]}``.
      reference: error rates of the reference, one a severity or their mean; None: AlexNet's on ImageNet-C, 15 corruptions.

    Returns:
      1 for the reference itself; papers print 100 times that.

    Raises:
      ValueError: other corruptions than the reference's, or errors outside [0, 1].

    >>> from jrobust.evaluation.metrics._corruptions import ALEXNET
    >>> mce({name: [error / 2] * 5 for name, error in ALEXNET.items()})
    0.5

    References:
      Hendrycks & Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019.
      AlexNet's errors are those in the code of Hendrycks et al., AugMix, ICLR 2020.
    """
    own, other = _reference(errors, "mce", reference)
    return float(np.mean(own / other))


def relative_mce(errors: Any, *, clean: float, reference_clean: float, reference: Any = None) -> float:
    """What corruptions add to the clean error, over what they add to a reference model's, averaged over corruptions.

    Args:
      errors: as `mce` takes them.
      clean: the model's error on clean images.
      reference_clean: the reference's; of AlexNet it depends on the copy of its weights, so it is not built in.
      reference: as `mce` takes it.

    Raises:
      ValueError: as `mce`, or a corruption that does not raise the error of the reference.

    >>> relative_mce({"fog": [0.25, 0.5]}, clean=0.125, reference={"fog": [0.75, 0.75]}, reference_clean=0.5)
    1.0

    References:
      Hendrycks & Dietterich, ICLR 2019.
    """
    own, other = _reference(errors, "relative_mce", reference)
    if not (0 <= clean <= 1 and 0 <= reference_clean <= 1):
        raise ValueError(f"relative_mce: clean errors lie in [0, 1], got {clean!r} and {reference_clean!r}")
    if np.any(other <= reference_clean):
        raise ValueError(
            f"relative_mce: the reference errs no more on a corruption than on clean images ({reference_clean})"
        )
    return float(np.mean((own - clean) / (other - reference_clean)))


def _pairs(frames: int, noise: bool, stride: int, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Which frame each one is compared with."""
    if not (isinstance(stride, int) and 1 <= stride < frames):
        raise ValueError(f"{by}: stride is an int in 1..{frames - 1}, one less than the frames; got {stride!r}")
    later = np.arange(1 if noise else stride, frames)
    return (np.zeros_like(later) if noise else later - stride), later


def flip_probability(predictions: Any, *, noise: bool = False, stride: int = 1) -> float:
    """How often a prediction differs from that of the frame before, over sequences of slightly perturbed frames (ImageNet-P).

    Args:
      predictions: classes [N, T], T frames each.
      noise: compare with the first frame instead: frames of a noise sequence are no neighbours.
      stride: frames between those compared (the difficulty; without noise).

    Returns:
      The mean over sequences. Over that of AlexNet it is the flip rate, averaged over perturbations mFR.

    Raises:
      ValueError: not [N, T] with T >= 2, or a stride that no two frames have.

    >>> flip_probability([[0, 0, 1, 1, 0]])
    0.5
    >>> flip_probability([[0, 0, 1, 1, 0]], noise=True)
    0.5

    References:
      Hendrycks & Dietterich, ICLR 2019.
    """
    p = np.asarray(predictions)
    if p.ndim != 2 or p.shape[0] == 0 or p.shape[1] < 2:
        raise ValueError(f"flip_probability takes predictions [N, T] with T >= 2 frames, got shape {p.shape}")
    before, later = _pairs(p.shape[1], noise, stride, "flip_probability")
    return float(np.mean(p[:, later] != p[:, before]))


def top5_distance(logits: Any, *, noise: bool = False, stride: int = 1) -> float:
    """How far the five best classes move in the ranking from frame to frame, over sequences (ImageNet-P's T5D, unnormalised).

    With ``c(r) = min(r - 1, 5)`` of a rank r = 1, 2, ..., the distance of two frames is the sum over the ranks 1..5 of the earlier
    one of ``|c(r) - c(r')|``, r' the rank of the same class later.

    Args:
      logits: [N, T, K], K >= 5.
      noise: as `flip_probability`.
      stride: as `flip_probability`.

    Raises:
      ValueError: not [N, T, K] with T >= 2 and K >= 5.

    >>> top5_distance([[[6.0, 5, 4, 3, 2, 1], [5.0, 6, 4, 3, 2, 1]]])  # the first two change places
    2.0

    References:
      Hendrycks & Dietterich, ICLR 2019; their code, whose cut is at rank 6: any worse rank counts as 5.
    """
    z = np.asarray(logits)
    if z.ndim != 3 or z.shape[0] == 0 or z.shape[1] < 2 or z.shape[2] < 5:
        raise ValueError(
            f"top5_distance takes logits [N, T, K] with T >= 2 frames and K >= 5 classes, got shape {z.shape}"
        )
    before, later = _pairs(z.shape[1], noise, stride, "top5_distance")
    order = np.argsort(-z, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)  # of a class, from 0
    moved = np.take_along_axis(rank[:, later], order[:, before, :5], -1)
    return float(np.mean(np.abs(np.minimum(moved, 5) - np.arange(5)).sum(-1)))
