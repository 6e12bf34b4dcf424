"""How confident, how far and how visible successful adversarial examples are; all are estimates, means over the successes."""

from typing import Any, Literal

import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Average
from jrobust.evaluation.metrics._inputs import (
    check_logits,
    check_moved,
    check_success,
    flat_norms,
    mean_over,
    softmax,
)


def acac(logits: Any, success: Any, *, level: float = 0.95) -> Average:
    """Average confidence of the adversarial class: the mean of the largest probability at successful adversarial examples.

    Args:
      logits: [N, K] at the witnesses, such as ``jr.metrics.logits(model, result.witness)``.
      success: bool [N], such as `successes` (result).
      level: of the interval.

    Returns:
      An estimate; NaN with n = 0 where nothing succeeded.

    Raises:
      ValueError: logits that are not finite [N, K], or ``success`` of another shape.

    >>> print(acac([[0.0, 0.0], [0.0, 9.0]], [True, False]).value)
    0.5

    References:
      Ling et al., DEEPSEC: a uniform platform for security analysis of deep learning models, S&P 2019.
    """
    p = softmax(check_logits(logits, "logits", "acac"))
    chosen = check_success(success, len(p), "acac")
    return mean_over(p.max(1), chosen, level=level, least=1 / p.shape[1], most=1.0)


def actc(logits: Any, y: Any, success: Any, *, level: float = 0.95) -> Average:
    """Average confidence of the true class: the mean probability of the label at successful adversarial examples.

    Args:
      logits, success: as `acac` takes them.
      y: labels [N].
      level: of the interval.

    Returns:
      An estimate; NaN with n = 0 where nothing succeeded.

    Raises:
      ValueError: as `acac`, or labels that do not fit.

    >>> print(actc([[0.0, 0.0], [0.0, 9.0]], [0, 1], [True, False]).value)
    0.5

    References:
      Ling et al., DEEPSEC, S&P 2019.
    """
    p = softmax(check_logits(logits, "logits", "actc"))
    y = check_truth(y, (len(p),), p.shape[1], by="actc")
    return mean_over(p[np.arange(len(p)), y], check_success(success, len(p), "actc"), level=level, most=1.0)


def nte(logits: Any, success: Any, *, level: float = 0.95) -> Average:
    """Noise tolerance estimation: the mean gap between the two largest probabilities at successful adversarial examples.

    Args:
      logits, success: as `acac` takes them.
      level: of the interval.

    Returns:
      An estimate; NaN with n = 0 where nothing succeeded.

    Raises:
      ValueError: as `acac`.

    References:
      Luo et al., Towards imperceptible and robust adversarial example attacks against neural networks, AAAI 2018; Ling et al., DEEPSEC.
    """
    p = np.sort(softmax(check_logits(logits, "logits", "nte")), axis=1)
    return mean_over(p[:, -1] - p[:, -2], check_success(success, len(p), "nte"), level=level, most=1.0)


def ald(
    x: Any, witness: Any, success: Any, *, p: Any, relative: bool = False, levels: int = 255, level: float = 0.95
) -> Average:
    """Average distortion in the p-norm (ALD_p): how far successful adversarial examples are from their examples.

    Args:
      x: examples [N, ...] in [0, 1].
      witness: [N, ...].
      success: bool [N].
      p: 0, 2 or inf. 0 is the share of entries (not pixels) that change once both are rounded to whole levels.
      relative: divide the L2 norm by that of the example (Guo et al.); the plain norm is DEEPSEC's.
      levels: of the rounding for p = 0; 255 as for bytes.
      level: of the interval.

    Returns:
      An estimate; NaN with n = 0 where nothing succeeded. Its interval ends where distances in [0, 1] do; where all are the same and no end
      is known (``relative``, or arrays outside of [0, 1]) it is infinite.

    Raises:
      ValueError: shapes differ, another ``p``, ``relative`` with another norm than L2 or with an example that is 0 everywhere.

    >>> x, z = [[0.6, 0.8, 0.0, 0.0]], [[0.6, 0.8, 0.5, 0.001]]
    >>> print(ald(x, z, [True], p=0).value, ald(x, z, [True], p=np.inf).value)
    0.25 0.5

    References:
      Ling et al., DEEPSEC, S&P 2019; Guo et al., Pattern Recognition 2023.
    """
    a, b = check_moved(x, witness, "ald")
    success = check_success(success, len(a), "ald")
    if p not in (0, 2, np.inf):
        raise ValueError(f"ald: p is 0, 2 or inf, got {p!r}")
    if relative and p != 2:
        raise ValueError(f"ald: relative distortion is defined for p=2, got p={p!r}")
    if p == 0:
        changed = np.round(levels * a) != np.round(levels * b)
        return mean_over(changed.reshape(len(a), -1).mean(1), success, level=level, most=1.0)
    size = flat_norms(b - a, p)
    if relative:
        own = flat_norms(a, 2)
        if np.any(success & (own == 0)):
            raise ValueError(
                f"ald: x[{int(np.argmax(success & (own == 0)))}] is 0 everywhere: no distance is relative to it"
            )
        size = size / np.where(own > 0, own, 1.0)
    inside = min(a.min(), b.min()) >= -1e-6 and max(a.max(), b.max()) <= 1 + 1e-6
    longest = 1.0 if p == np.inf else float(np.sqrt(a[0].size))
    return mean_over(size, success, level=level, most=longest if inside and not relative else np.inf)


def _images(x: Any, witness: Any, by: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = check_moved(x, witness, by)
    if a.ndim != 4:
        raise ValueError(f"{by} takes images [N, H, W, C], got shape {a.shape}")
    if min(a.min(), b.min()) < -1e-6 or max(a.max(), b.max()) > 1 + 1e-6:
        raise ValueError(f"{by} takes images in [0, 1], got {min(a.min(), b.min()):g}..{max(a.max(), b.max()):g}")
    return a, b


def psd(
    x: Any,
    witness: Any,
    success: Any,
    *,
    sensitivity: Literal["complement", "inverse", "deviation"] = "complement",
    level: float = 0.95,
) -> Average:
    """Perturbation sensitivity distance: the sum over entries of the change, weighted by how visible it is there.

    Args:
      x: images [N, H, W, C] in [0, 1].
      witness: [N, H, W, C].
      success: bool [N].
      sensitivity: by the standard deviation of the 3 x 3 neighbours in the channel (the image mirrored without its edge pixel):
        "complement", 1 - deviation, is what DEEPSEC computes; "inverse", 1 / deviation, what Luo et al. define; "deviation"
        itself what the code of Guo et al. computes, which weighs textured places most, not least.
      level: of the interval.

    Returns:
      An estimate; NaN with n = 0 where nothing succeeded.

    Raises:
      ValueError: no images of at least 2 x 2 pixels, or another sensitivity.

    References:
      Luo et al., AAAI 2018; Ling et al., DEEPSEC, S&P 2019.
    Deviations:
      "inverse" takes deviations below 1 / 255 for 1 / 255: a flat place would have an infinite weight.
    """
    if sensitivity not in ("complement", "inverse", "deviation"):
        raise ValueError(f'psd: sensitivity is "complement", "inverse" or "deviation", got {sensitivity!r}')
    a, b = _images(x, witness, "psd")
    if min(a.shape[1:3]) < 2:
        raise ValueError(f"psd needs images of at least 2 x 2 pixels, got {a.shape[1]} x {a.shape[2]}")
    success = check_success(success, len(a), "psd")
    padded = np.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    weight = around.std(axis=(-2, -1))
    if sensitivity == "complement":
        weight = 1 - weight
    elif sensitivity == "inverse":
        weight = 1 / np.maximum(weight, 1 / 255)
    heaviest = {"complement": 1.0, "inverse": 255.0, "deviation": 0.5}[sensitivity]
    return mean_over((np.abs(b - a) * weight).sum((1, 2, 3)), success, level=level, most=heaviest * a[0].size)


def ssim(x: Any, witness: Any, *, window: int = 11, sigma: float | int = 1.5) -> np.ndarray:
    """Structural similarity of pairs of images, 1 where they are equal.

    Args:
      x: images [N, H, W, C] in [0, 1].
      witness: [N, H, W, C].
      window: pixels along the sides of the Gaussian window, odd.
      sigma: of it, in pixels.

    Returns:
      [N], the mean over the places where the whole window lies in the image, and over channels.

    Raises:
      ValueError: no images, a window that is even or larger than the image.

    >>> x = np.full((1, 12, 12, 1), 0.5)
    >>> print(ssim(x, x)[0])
    1.0

    References:
      Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004 (K1 = 0.01, K2 = 0.03).
    Deviations:
      Colour channels are averaged (the paper is about grey images); large images are not made smaller first.
    """
    a, b = _images(x, witness, "ssim")
    if window < 1 or window % 2 == 0 or window > min(a.shape[1:3]):
        raise ValueError(
            f"ssim: window must be odd and at most the image, {a.shape[1]} x {a.shape[2]}, got {window}; small images need a "
            "smaller one"
        )
    if not 0 < sigma < np.inf:
        raise ValueError(f"ssim: sigma must be finite and > 0, got {sigma!r}")
    at = np.arange(window) - window // 2
    weight = np.exp(-(at**2) / (2 * sigma**2))
    weight /= weight.sum()

    def smooth(z: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            z = np.lib.stride_tricks.sliding_window_view(z, window, axis=axis) @ weight
        return z

    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))


def average_ssim(
    x: Any, witness: Any, success: Any, *, window: int = 11, sigma: float | int = 1.5, level: float = 0.95
) -> Average:
    """Average structural similarity (ASS): the mean of `ssim` over successful adversarial examples.

    Args:
      x, witness, window, sigma: as `ssim` takes them.
      success: bool [N].
      level: of the interval.

    Returns:
      An estimate; NaN with n = 0 where nothing succeeded.

    Raises:
      ValueError: as `ssim`.

    References:
      Ling et al., DEEPSEC, S&P 2019.
    Deviations:
      Wang's Gaussian window on images as they are; DEEPSEC rounds to bytes and takes scikit-image's uniform window of 7 x 7.
    """
    each = ssim(x, witness, window=window, sigma=sigma)
    chosen = check_success(success, len(each), "average_ssim")
    return mean_over(each, chosen, level=level, least=-1.0, most=1.0)
