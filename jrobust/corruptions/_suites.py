"""The tables of the benchmarks: five settings of each corruption, severity 1 first."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jrobust._tree import bind
from jrobust.corruptions import _blur, _digital, _jpeg, _mnist, _noise, _spatter, _weather
from jrobust.corruptions._base import Corruption, corruption
from jrobust.typing import Array

_ANY: dict[str, Any] = {}
_COLOUR = {"channels": (3,)}
_GREY_OR_COLOUR = {"channels": (1, 3)}

# what each one is, and what it asks of an image
_KINDS: dict[str, tuple[Callable[..., Array], dict[str, Any]]] = {
    "gaussian_noise": (_noise.gaussian_noise, _ANY),
    "shot_noise": (_noise.shot_noise, _ANY),
    "impulse_noise": (_noise.impulse_noise, _ANY),
    "defocus_blur": (_blur.defocus_blur, {"least": 2}),
    "glass_blur": (_blur.glass_blur, {"least": 2}),
    "motion_blur": (_blur.motion_blur, {"least": 2}),
    "zoom_blur": (_blur.zoom_blur, {"least": 2}),
    "snow": (_weather.snow, {"least": 2, **_GREY_OR_COLOUR}),
    "frost": (_weather.frost, {"least": 2, **_GREY_OR_COLOUR}),
    "fog": (_weather.fog, {"least": 2}),
    "brightness": (_digital.brightness, _ANY),
    "contrast": (_digital.contrast, _ANY),
    "elastic_transform": (_digital.elastic_transform, {"least": 3}),
    "pixelate": (_digital.pixelate, {"least": 4}),
    "jpeg_compression": (_jpeg.jpeg_compression, _GREY_OR_COLOUR),
    "speckle_noise": (_noise.speckle_noise, _ANY),
    "gaussian_blur": (_blur.gaussian_blur, {"least": 2}),
    "spatter": (_spatter.spatter, {"least": 2, **_GREY_OR_COLOUR}),
    "saturate": (_digital.saturate, _COLOUR),
}
scored = tuple(_KINDS)[:15]
held_out = tuple(_KINDS)[15:]

_ELASTIC = 244 / 224  # their constant is 244 pixels where images have 224

_IMAGENET: dict[str, Any] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": tuple(
        (a * _ELASTIC, b * _ELASTIC, c * _ELASTIC)
        for a, b, c in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": (25, 18, 15, 10, 7),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "spatter": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}

_CIFAR: dict[str, Any] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}


def _rows(table: Any) -> list[tuple[Any, ...]]:
    return [row if isinstance(row, tuple) else (row,) for row in table]


def _suite(table: Mapping[str, Any]) -> Mapping[str, Corruption]:
    kinds = {name: corruption(render, name, _rows(table[name]), **asks) for name, (render, asks) in _KINDS.items()}
    return MappingProxyType(kinds)


imagenet_c = _suite(_IMAGENET)
cifar_c = _suite(_CIFAR)


_GREYS = 63 / 255  # the mud of MNIST-C
_MNIST: dict[str, tuple[Callable[..., Array], dict[str, Any], Any, int]] = {
    # what it is, what it asks, its table, the severity of the released set
    "shot_noise": (_noise.shot_noise, _ANY, _IMAGENET["shot_noise"], 5),
    "impulse_noise": (_noise.impulse_noise, _ANY, _IMAGENET["impulse_noise"], 4),
    "glass_blur": (bind(_blur.glass_blur, share=0.5, upright=True), {"least": 2}, _IMAGENET["glass_blur"], 1),
    "motion_blur": (_blur.motion_blur, {"least": 2}, _IMAGENET["motion_blur"], 1),
    "shear": (_mnist.shear, _ANY, (0.2, 0.4, 0.6, 0.8, 1.0), 2),
    "scale": (_mnist.scale, _ANY, (1 / 0.9, 1 / 0.8, 1 / 0.7, 1 / 0.6, 1 / 0.5), 3),
    "rotate": (_mnist.rotate, _ANY, (0.2, 0.4, 0.6, 0.8, 1.0), 2),
    "brightness": (_digital.brightness, _ANY, _IMAGENET["brightness"], 5),
    "translate": (_mnist.translate, _ANY, (1, 2, 3, 4, 5), 3),
    "stripe": (_mnist.stripe, {"least": 4}, ((),), 1),
    "fog": (bind(_weather.fog, least=256), {"least": 2}, _IMAGENET["fog"], 5),
    # theirs reads neither the strength of water nor which liquid it is: always mud
    "spatter": (
        bind(_spatter.spatter, splash=_GREYS),
        {"least": 2, **_GREY_OR_COLOUR},
        tuple((*row[:5], 1) for row in _IMAGENET["spatter"]),
        4,
    ),
    "dotted_line": (_mnist.dotted_line, {"least": 4}, ((),), 1),
    "zigzag": (_mnist.zigzag, {"least": 4}, ((),), 1),
    "canny_edges": (_mnist.canny_edges, {"least": 3, **_GREY_OR_COLOUR}, ((),), 1),
}
mnist_c: Mapping[str, Corruption] = MappingProxyType(
    {name: corruption(render, name, _rows(table), **asks) for name, (render, asks, table, _) in _MNIST.items()}
)
mnist_c_severity: Mapping[str, int] = MappingProxyType({name: entry[3] for name, entry in _MNIST.items()})


def with_textures(frosted: Corruption, textures: Any) -> Corruption:
    """The frost of a suite with textures of your own, such as the authors' photographs (which are not ours to ship).

    Args:
      frosted: ``imagenet_c["frost"]`` or ``cifar_c["frost"]``; the latter takes textures at a fifth of their size.
      textures: [T, h, w, C] in [0, 1], at least as large as the images; a random piece of a random one is laid on each.

    Raises:
      ValueError: another corruption, or no stack of textures.

    >>> import jax, numpy as np
    >>> icy = with_textures(cifar_c["frost"], np.ones((1, 9, 9, 3), np.float32))
    >>> print(icy.corrupt(jax.random.key(0), np.zeros((2, 2, 3), np.float32), 5)[0, 0])
    [0.45 0.45 0.45]
    """
    if frosted.name != "frost":
        raise ValueError(f"with_textures takes the frost of a suite, got {frosted.name}")
    if getattr(textures, "ndim", 0) != 4 or len(textures) == 0:
        raise ValueError(f"textures must be an array [T, h, w, C], got shape {getattr(textures, 'shape', None)}")
    return corruption(
        bind(_weather.frost_from, textures), "frost", frosted.settings, channels=frosted.channels, least=frosted.least
    )
