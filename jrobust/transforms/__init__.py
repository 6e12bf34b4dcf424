"""Transforms: threats by composition. What may change in an image is a box of numbers, and an attack climbs ``f . g(x, .)`` over it.

One line each: ``evaluate(t.model(net), t.inputs(x), y, threat=t.threat(), oracles=...)``.
"""

from jrobust.transforms._base import Transform, any_order, chain
from jrobust.transforms._colour import (
    brightness,
    caa,
    caa_any_order,
    colour_filter,
    contrast,
    hsv_shift,
    hue,
    pixels,
    saturation,
)
from jrobust.transforms._geometric import flow, interpolate, rotation, rotation_translation, translation
from jrobust.transforms._recolour import recolour

__all__ = [
    "Transform",
    "any_order",
    "brightness",
    "caa",
    "caa_any_order",
    "chain",
    "colour_filter",
    "contrast",
    "flow",
    "hsv_shift",
    "hue",
    "interpolate",
    "pixels",
    "recolour",
    "rotation",
    "rotation_translation",
    "saturation",
    "translation",
]
