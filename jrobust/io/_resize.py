"""Resizing: along each axis a known choice of entries, or a product with a known matrix."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust.io._tables import Call, defop, ints, refuse


def _coordinates(c: Call, mode: str, size: int, new: int, factor: float, roi: Sequence[float]) -> np.ndarray:
    """Where each new entry lies among the old ones (float32, as other runtimes round)."""
    f, at = np.float32, np.arange(new, dtype=np.float32)
    scale = f(factor)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * f(size - 1) / f(new - 1) if new > 1 else f(0) * at
    if mode == "tf_crop_and_resize":
        start, end = map(f, roi)
        step = (end - start) * f(size - 1) / f(new - 1) if new > 1 else f(0)
        return start * f(size - 1) + at * step if new > 1 else f(0.5) * (start + end) * f(size - 1) + at
    if mode == "pytorch_half_pixel" and new == 1:
        return f(0) * at
    if mode == "half_pixel_symmetric":
        centre = f(size) / f(2)
        return centre * (f(1) - f(new) / (scale * f(size))) + (at + f(0.5)) / scale - f(0.5)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (at + f(0.5)) / scale - f(0.5)
    raise refuse(f"resizing with coordinates {mode!r}")


_ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda v: np.ceil(v - np.float32(0.5)),
    "round_prefer_ceil": lambda v: np.floor(v + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _taps(kind: str, at: np.ndarray, sharp: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every coordinate the old entries that it draws on, and their weights."""
    low = np.floor(at)
    t = (at - low).astype(np.float64)
    if kind == "linear":
        return [(low, 1 - t), (low + 1, t)]

    def cubic(d: np.ndarray) -> np.ndarray:
        near = ((sharp + 2) * d - (sharp + 3)) * d * d + 1
        return np.where(d <= 1, near, sharp * (((d - 5) * d + 8) * d - 4))

    return [(low + j, cubic(np.abs(t - j))) for j in (-1, 0, 1, 2)]


def _resize_axis(
    c: Call, x: Any, axis: int, new: int, scale: float, roi: Sequence[float], settings: dict[str, Any]
) -> Any:
    """One axis: a known choice of entries, or a product with a known matrix."""
    size, mode = x.shape[axis], settings["coordinates"]
    at = _coordinates(c, mode, size, new, scale, roi)
    outside = (at < 0) | (at > size - 1) if mode == "tf_crop_and_resize" else np.zeros(new, bool)
    if settings["kind"] == "nearest":
        if outside.any():
            raise refuse("a nearest resize of a crop beyond the input")
        return jnp.take(x, np.clip(settings["round"](at, scale), 0, size - 1).astype(np.int32), axis, mode="clip")
    matrix = np.zeros((new, size))
    for entry, weight in _taps(settings["kind"], at, c.get("cubic_coeff_a", -0.75)):
        inside = (entry >= 0) & (entry < size)
        weight = weight * inside if c.get("exclude_outside", 0) else weight
        np.add.at(matrix, (np.arange(new), np.clip(entry, 0, size - 1).astype(int)), weight)
    if c.get("exclude_outside", 0):
        matrix /= matrix.sum(1, keepdims=True)
    matrix[outside] = 0
    if outside.any() and c.get("extrapolation_value", 0.0):
        raise refuse("a resize with an extrapolation value other than 0")
    return jnp.moveaxis(jnp.tensordot(x, matrix.astype(x.dtype), ((axis,), (1,))), -1, axis)


def _resize(c: Call, x: Any, *operands: Any) -> Any:
    # opset 10: (scales); later: (roi, scales, sizes)
    roi, scales, sizes = (*((None,) if c.opset < 11 else ()), *operands, None, None, None)[:3]
    axes = ints(c.get("axes")) or tuple(range(x.ndim))
    if c.get("antialias", 0):
        raise refuse("resizing with antialias")
    old = [x.shape[a] for a in axes]
    if sizes is not None and np.size(sizes):
        new, factors = list(ints(sizes)), [n / o for n, o in zip(ints(sizes), old, strict=True)]
        policy = c.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            one = (min if policy == "not_larger" else max)(factors)
            new, factors = [math.floor(one * o + 0.5) for o in old], [one] * len(old)
    else:
        factors = [float(s) for s in np.ravel(np.asarray(scales))]
        new = [math.floor(np.float32(o) * np.float32(f)) for o, f in zip(old, factors, strict=True)]
    regions = np.ravel(roi).tolist() if roi is not None and np.size(roi) else [0.0] * len(axes) + [1.0] * len(axes)
    return _resized(c, jnp.asarray(x), axes, new, factors, regions)


def _resized(
    c: Call, x: Any, axes: Sequence[int], new: Sequence[int], factors: Sequence[float], roi: Sequence[float]
) -> Any:
    rounding = c.get("nearest_mode", "round_prefer_floor")

    def simple(at: np.ndarray, scale: float) -> np.ndarray:
        return np.ceil(at) if scale < 1 else np.floor(at)

    settings = {
        "kind": c.get("mode", "nearest"),
        "coordinates": c.get("coordinate_transformation_mode", "half_pixel") if c.opset >= 11 else "asymmetric",
        "round": (lambda at, scale: _ROUNDED[rounding](at)) if c.opset >= 11 else simple,
    }
    if settings["kind"] not in ("nearest", "linear", "cubic"):
        raise refuse(f"resizing of mode {settings['kind']!r}")
    for i, a in enumerate(axes):
        whole = settings["coordinates"] != "tf_crop_and_resize" or (roi[i] == 0 and roi[len(axes) + i] == 1)
        if new[i] != x.shape[a] or factors[i] != 1 or not whole:
            x = _resize_axis(c, x, a % x.ndim, new[i], factors[i], (roi[i], roi[len(axes) + i]), settings)
    return x


def _upsample(c: Call, x: Any, scales: Any = None) -> Any:
    return _resize(c, x, np.asarray(c.get("scales", scales)))


defop("Resize", _resize, static=(1, 2, 3))
defop("Upsample", _upsample, static=(1,))
