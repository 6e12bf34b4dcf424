"""Whether adversarial examples survive what happens to images on their way: a blur, a compression."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jrobust._checks import check_truth
from jrobust._statistics import Accuracy, proportion
from jrobust.corruptions import Corruption, cifar_c, corrupted
from jrobust.evaluation.metrics._driver import logits
from jrobust.evaluation.metrics._inputs import check_success


def _survivors(
    change: Corruption,
    model: Any,
    witness: Any,
    y: Any,
    success: Any,
    target: Any,
    batch_size: int,
    level: float,
    by: str,
) -> Accuracy:
    z = np.asarray(witness)
    if z.ndim != 4:
        raise ValueError(f"{by} takes images [N, H, W, C], got shape {z.shape}")
    chosen = check_success(success, len(z), by)
    if not chosen.any():
        raise ValueError(f"{by}: no adversarial example succeeded, so none could survive")
    labels = check_truth(y if target is None else target, (len(z),), by=by)[chosen]
    changed = corrupted(change, z[chosen], severity=1, key=jax.random.key(0), batch_size=batch_size)
    answers = logits(model, changed, batch_size=batch_size)
    labels, predicted = check_truth(labels, labels.shape, answers.shape[1], by=by), answers.argmax(1)
    still = predicted != labels if target is None else predicted == labels
    return proportion(int(still.sum()), len(still), side="estimate", level=level, quantity="rate")


def blur_robustness(
    model: Any,
    witness: Any,
    y: Any,
    success: Any,
    *,
    sigma: float | int = 0.5,
    target: Any = None,
    batch_size: int = 256,
    level: float = 0.95,
) -> Accuracy:
    """Robustness to Gaussian blur (RGB): the share of successful adversarial examples that are still adversarial after a blur.

    Args:
      model: as in `jr.evaluate`.
      witness: adversarial images [N, H, W, C] in [0, 1].
      y: labels [N].
      success: bool [N], such as `successes` (result).
      sigma: of the blur in pixels (DEEPSEC 0.5, Guo et al. 2), >= 0.
      target: classes [N] of a targeted attack: still adversarial is then "predicted as the target", else "not as the label".
      batch_size: images at a time.
      level: of the interval.

    Returns:
      An estimate.

    Raises:
      ValueError: no success, no images in [0, 1], or arrays that do not fit.

    References:
      Ling et al., DEEPSEC, S&P 2019.
    Deviations:
      A Gaussian filter of floats; DEEPSEC rounds to bytes, and Pillow approximates the filter by box means.
    """
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"blur_robustness: sigma must be finite and >= 0, got {sigma!r}")
    change = dataclasses.replace(cifar_c["gaussian_blur"], settings=((float(sigma),),))
    return _survivors(change, model, witness, y, success, target, batch_size, level, "blur_robustness")


def compression_robustness(
    model: Any,
    witness: Any,
    y: Any,
    success: Any,
    *,
    quality: int = 90,
    target: Any = None,
    batch_size: int = 256,
    level: float = 0.95,
) -> Accuracy:
    """Robustness to image compression (RIC): the share of successful adversarial examples that are still adversarial after JPEG.

    Args:
      quality: of libjpeg's scale, 1..100.
      model, witness, y, success, target, batch_size, level: as `blur_robustness` takes them; images of 1 or 3 channels.

    Returns:
      An estimate.

    Raises:
      ValueError: as `blur_robustness`, or another quality.

    References:
      Ling et al., DEEPSEC, S&P 2019.
    Deviations:
      libjpeg's default coding with halved chroma; DEEPSEC runs Guetzli, which chooses its own tables, at quality 90.
    """
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ValueError(f"compression_robustness: quality is an int in 1..100, got {quality!r}")
    change = dataclasses.replace(cifar_c["jpeg_compression"], settings=((quality,),))
    return _survivors(change, model, witness, y, success, target, batch_size, level, "compression_robustness")
