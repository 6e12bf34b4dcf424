"""Sequences of slightly perturbed frames: ImageNet-P and CIFAR-10-P."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_key
from jrobust._tree import bind
from jrobust.corruptions._base import check_image
from jrobust.corruptions._blur import moved
from jrobust.corruptions._digital import brightness
from jrobust.corruptions._linear import clamped, sampled
from jrobust.corruptions._noise import gaussian_noise, shot_noise
from jrobust.corruptions._weather import flakes_of, snowed
from jrobust.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A way to make a sequence of frames of one image.

    Attributes:
      name: as the benchmark spells it.
      render: ``(key, x[H, W, C], setting) -> frames [T, H, W, C]`` of one image in [0, 1].
      settings: for each difficulty; one, where all difficulties have the same frames and differ in the stride between those compared.
      noise: whether frames are compared with the first one, which is the image itself, as `jr.metrics.flip_probability` asks.
      outside: whether the frames show what lies outside the middle of an image.
      channels: how many an image may have, or None: any.
    """

    name: str
    render: Callable[..., Any]
    settings: tuple[Any, ...] = (None,)
    noise: bool = False
    outside: bool = False
    channels: tuple[int, ...] | None = None

    def sequence(self, key: Any, x: Any, *, difficulty: int = 1, crop: int | None = None) -> Float[Array, "T h w C"]:
        """The frames of one image; pure, under jit and vmap.

        Args:
          key: typed; the same for all frames. Perturbations without noise or snow ignore it.
          x: [H, W, C] in [0, 1], at least 2 x 2 pixels.
          difficulty: 1..3. Of noise, its strength. Of all others the frames are the same, and it is the ``stride`` of the metric.
          crop: side of the middle that the frames show; moved frames then show what lay around it. None: all, and black comes in.

        Raises:
          ValueError: another difficulty, channels that the perturbation does not take, a crop larger than the image.
          TypeError: an image of integers.

        >>> from jrobust.corruptions import cifar_p
        >>> x = jnp.zeros((8, 8, 1)).at[4, 4].set(1.0)
        >>> frames = cifar_p["translate"].sequence(jax.random.key(0), x)
        >>> frames.shape, [int(i) for i in jnp.argmax(frames[5:9, 4, :, 0], 1)]
        ((16, 8, 8, 1), [2, 3, 4, 5])
        """
        check_key(key)
        shape = np.shape(x)
        if len(shape) != 3 or min(shape[:2]) < 2:
            raise ValueError(f"{self.name} takes an image [H, W, C] of at least 2 x 2 pixels, got shape {shape}")
        if self.channels is not None and shape[2] not in self.channels:
            some = " or ".join(map(str, self.channels))
            raise ValueError(f"{self.name} takes images of {some} channels, got {shape[2]} (shape {shape})")
        if not isinstance(difficulty, int) or not 1 <= difficulty <= 3:
            raise ValueError(f"{self.name}: difficulty is an int in 1..3, got {difficulty!r}")
        if crop is not None and not (isinstance(crop, int) and 2 <= crop <= min(shape[:2])):
            raise ValueError(f"{self.name}: crop is an int in 2..{min(shape[:2])}, the shorter side; got {crop!r}")
        setting = self.settings[min(difficulty, len(self.settings)) - 1]
        x = jnp.asarray(x)
        check_image(x, self.name)
        frames = self.render(key, x if self.outside else _middle(x, crop), setting)
        return _middle(frames, crop) if self.outside else frames


def _middle(x: Array, side: int | None) -> Array:
    """The middle of images [..., H, W, C]."""
    if side is None:
        return x
    top, left = (round((n - side) / 2) for n in x.shape[-3:-1])
    return x[..., top : top + side, left : left + side, :]


def _noisy(key: Any, x: Array, setting: Any, *, draw: Callable[..., Any]) -> Array:
    frames = jax.vmap(lambda k: draw(k, x, setting))(jax.random.split(key, 30))
    return jnp.concatenate([x[None], frames])


def _motion(key: Any, x: Array, setting: Any, *, radius: int, sigma: float, angles: tuple[float, ...]) -> Array:
    del key, setting
    return jnp.clip(jax.vmap(lambda a: moved(x, radius, sigma, a))(jnp.asarray(angles, x.dtype)), 0.0, 1.0)


def _snow(key: Any, x: Array, setting: Any, *, zoom: float, radius: int, sigma: float) -> Array:
    del setting
    layer = flakes_of(key, x, 0.05, 0.3, zoom, 0.5)
    angles = jnp.asarray(4.0 * np.arange(31) - 150, x.dtype)
    return jax.vmap(lambda a: snowed(x, layer, radius, sigma, a, 0.85))(angles)


def _brightness(key: Any, x: Array, setting: Any, *, step: float) -> Array:
    del setting
    return jax.vmap(lambda shift: brightness(key, x, shift))(jnp.asarray(step * (np.arange(31) - 15), x.dtype))


def _translate(key: Any, x: Array, setting: Any, *, first: int, last: int) -> Array:
    del key, setting
    reach = max(-first, last)
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
    return jnp.stack([padded[:, reach - i : reach - i + x.shape[1]] for i in range(first, last + 1)])


def _placed(x: Array, matrices: np.ndarray, place: Callable[..., Any]) -> Array:
    """Images whose pixels are fetched where ``place(matrix, right, down)`` says."""
    down, right = jnp.meshgrid(*(jnp.arange(n, dtype=x.dtype) for n in x.shape[:2]), indexing="ij")
    return jax.vmap(lambda m: place(x, m, right, down))(jnp.asarray(matrices, x.dtype))


def _pillow(x: Array, m: Array, right: Array, down: Array) -> Array:
    """An affine map as Pillow makes it: bilinear, the edge pixel going on for half a pixel, then black."""
    height, width = x.shape[:2]
    # torchvision of that time turned about a point half a pixel below and right of the middle
    columns, rows = right - width / 2, down - height / 2
    columns, rows = m[0, 0] * columns + m[0, 1] * rows + width / 2, m[1, 0] * columns + m[1, 1] * rows + height / 2
    inside = (columns >= -0.5) & (columns < width - 0.5) & (rows >= -0.5) & (rows < height - 0.5)
    return jnp.where(inside[..., None], sampled(x, rows, columns, clamped), 0.0)


def _opencv(x: Array, m: Array, right: Array, down: Array) -> Array:
    """A perspective map as OpenCV makes it: bilinear, black outside."""
    third = m[2, 0] * right + m[2, 1] * down + m[2, 2]
    columns = (m[0, 0] * right + m[0, 1] * down + m[0, 2]) / third
    rows = (m[1, 0] * right + m[1, 1] * down + m[1, 2]) / third
    framed = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]
    return sampled(framed, jnp.clip(rows, -1, height) + 1, jnp.clip(columns, -1, width) + 1, clamped)


def _scales(x: Array, factors: np.ndarray) -> Array:
    return _placed(x, np.eye(2) / factors[:, None, None], _pillow)


def _zoom_blur(key: Any, x: Array, setting: Any) -> Array:
    del key, setting
    frames = jnp.concatenate([x[None], _scales(x, 1 + 0.004 * np.arange(1, 31))])
    return jnp.cumsum(frames, 0) / jnp.arange(1, 32, dtype=x.dtype)[:, None, None, None]


def _scale(key: Any, x: Array, setting: Any, *, first: float, step: float) -> Array:
    del key, setting
    return _scales(x, (first + step * np.arange(31)) / 100)


def _rotate(key: Any, x: Array, setting: Any) -> Array:
    del key, setting
    turn = np.deg2rad(np.arange(31) - 15.0)
    cos, sin = np.cos(turn), np.sin(turn)
    return _placed(x, np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1), _pillow)


def tilts(width: int, height: int, degrees: np.ndarray) -> np.ndarray:
    """Perspective maps [T, 3, 3] from places in the image to places in the frame: the image turned about both its axes alike."""
    far = np.hypot(width, height)
    before = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    screen = np.array([[far, 0, width / 2], [0, far, height / 2], [0, 0, 1]])
    maps = []
    for a in np.deg2rad(degrees):
        cos, sin = np.cos(a), np.sin(a)
        # a point of the image lies at depth 1, is turned, and is then moved away by ``far``
        about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        about_y = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
        away = np.array([[0, 0, 0], [0, 0, 0], [0, 0, far]])
        maps.append(screen @ (about_x @ about_y + away) @ before)
    return np.stack(maps)


def _tilt(key: Any, x: Array, setting: Any, *, step: float) -> Array:
    del key, setting
    maps = np.linalg.inv(tilts(x.shape[1], x.shape[0], step * (np.arange(31) - 15)))
    return _placed(x, maps, _opencv)


def _suite(
    sds: Any, photons: Any, motion: Any, snow: Any, step: float, shifts: Any, tilt: float, scale: Any
) -> Mapping[str, Perturbation]:
    """The ten of a benchmark from what tells one from the other."""
    radius, sigma, angles = motion
    zoom, fall, spread = snow
    kinds = (
        Perturbation("gaussian_noise", bind(_noisy, draw=gaussian_noise), sds, noise=True),
        Perturbation("shot_noise", bind(_noisy, draw=shot_noise), photons, noise=True),
        Perturbation("motion_blur", bind(_motion, radius=radius, sigma=sigma, angles=angles)),
        Perturbation("zoom_blur", _zoom_blur, outside=True),
        Perturbation("snow", bind(_snow, zoom=zoom, radius=fall, sigma=spread), channels=(1, 3)),
        Perturbation("brightness", bind(_brightness, step=step)),
        Perturbation("translate", bind(_translate, first=shifts[0], last=shifts[1]), outside=True),
        Perturbation("rotate", _rotate, outside=True),
        Perturbation("tilt", bind(_tilt, step=tilt), outside=True),
        Perturbation("scale", bind(_scale, first=scale[0], step=scale[1]), outside=True),
    )
    return MappingProxyType({kind.name: kind for kind in kinds})


imagenet_p = _suite(
    (0.03, 0.05, 0.08), (300, 120, 60), (10, 3.0, tuple(4.0 * i for i in range(-30, 1))), (3.0, 14, 4.0), 0.02,
    (-20, 20), 1.0, (40.0, 2.5),
)  # fmt: skip
cifar_p = _suite(
    (0.02, 0.04, 0.06), (700, 400, 200), (6, 1.8, tuple(9.0 * i for i in range(-20, 1))), (2.0, 10, 2.0), 0.015,
    (-7, 8), 0.75, (70.0, 2.0),
)  # fmt: skip
