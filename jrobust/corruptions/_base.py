"""`Corruption`: five severities of one change of an image, and the driver over a data set."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_count, check_inside, check_key
from jrobust._jaxpr import trace
from jrobust._tree import as_pytree, is_traced
from jrobust.typing import Array, Float


@partial(
    jax.tree_util.register_dataclass, data_fields=["render"], meta_fields=["name", "settings", "channels", "least"]
)
@dataclasses.dataclass(frozen=True)
class Corruption:
    """One change of an image, at five severities.

    Attributes:
      render: ``(key, x[H, W, C], *setting) -> x`` of one image in [0, 1]; a pytree, whose arrays are traced.
      name: as the benchmark spells it.
      settings: the row of the table for each severity, 1 first.
      channels: how many an image may have, or None: any.
      least: the fewest pixels along each axis.
    """

    render: Callable[..., Any]
    name: str
    settings: tuple[tuple[Any, ...], ...]
    channels: tuple[int, ...] | None = None
    least: int = 1

    def corrupt(self, key: Any, x: Any, severity: Any) -> Float[Array, "H W C"]:
        """One image in [0, 1], corrupted; pure, under jit and vmap.

        Args:
          key: typed; deterministic corruptions ignore it.
          x: [H, W, C] in [0, 1].
          severity: 1..5. A traced one chooses between all five at run time (under vmap all five are computed), and is clipped.

        Raises:
          ValueError: another severity, an image of other channels or too few pixels.
          TypeError: an image of integers, or a key that is none.
        """
        check_key(key)
        self.check(np.shape(x), severity)
        x = jnp.asarray(x)
        check_image(x, self.name)
        if not is_traced(severity):
            return self.render(key, x, *self.settings[int(severity) - 1])
        branches = [lambda key, x, row=row: self.render(key, x, *row) for row in self.settings]
        return jax.lax.switch(jnp.clip(severity, 1, len(branches)) - 1, branches, key, x)

    def draws(self, shape: tuple[int, ...], severity: int = 1) -> bool:
        """Whether the key changes images [H, W, C] of this shape: read off the traced program, nothing is computed."""
        key, x = jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
        jaxpr = trace(lambda key, x: self.corrupt(key, x, severity), key, x).jaxpr
        needed = {id(v) for v in jaxpr.outvars}
        for eqn in reversed(jaxpr.eqns):
            if any(id(v) in needed for v in eqn.outvars):
                needed |= {id(v) for v in eqn.invars}
        return id(jaxpr.invars[0]) in needed

    def check(self, shape: tuple[int, ...], severity: Any) -> None:
        """Refuse what cannot be corrupted, in words."""
        if len(shape) != 3:
            raise ValueError(f"{self.name} takes an image [H, W, C], got shape {shape}")
        if self.channels is not None and shape[2] not in self.channels:
            some = " or ".join(map(str, self.channels))
            raise ValueError(f"{self.name} takes images of {some} channels, got {shape[2]} (shape {shape})")
        if min(shape[:2]) < self.least:
            raise ValueError(
                f"{self.name} needs at least {self.least} x {self.least} pixels, got {shape[0]} x {shape[1]}"
            )
        if not is_traced(severity) and not (
            isinstance(severity, int | np.integer) and 1 <= severity <= len(self.settings)
        ):
            raise ValueError(f"{self.name}: severity is an int in 1..{len(self.settings)}, got {severity!r}")


def check_image(x: Any, by: str) -> None:
    """Floating point: bytes would be read as one hundred times too bright."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{by} takes one image of floats in [0, 1], got {x.dtype}; divide it by 255 (jr.corruptions.corrupted takes bytes)"
        )


def corruption(
    render: Callable[..., Any], name: str, settings: Any, *, channels: tuple[int, ...] | None = None, least: int = 1
) -> Corruption:
    """A corruption of your own.

    Args:
      render: ``(key, x[H, W, C], *setting) -> x`` of one image in [0, 1].
      name: for tables and errors.
      settings: the arguments of ``render`` at each severity, one tuple each (hashable), the mildest first.
      channels: how many an image may have; None: any.
      least: the fewest pixels along each axis.

    >>> darker = corruption(lambda key, x, by: x * by, "darker", [(0.8,), (0.5,)])
    >>> float(darker.corrupt(jax.random.key(0), jnp.ones((1, 1, 1)), 2)[0, 0, 0])
    0.5
    """
    return Corruption(as_pytree(render), name, tuple(map(tuple, settings)), channels, least)


@partial(jax.jit, static_argnames="severity")
def rendered(corruption: Any, key: Any, x: Any, index: Any, *, severity: int) -> Any:
    """A batch of images in floats or bytes, example ``index[k]`` with the key ``fold_in(key, index[k])``."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    as_bytes = x.dtype == jnp.uint8
    images = x.astype(jnp.float32) / 255 if as_bytes else x
    out = jax.vmap(lambda k, a: jnp.clip(corruption.corrupt(k, a, severity), 0.0, 1.0))(keys, images)
    return jnp.floor(255 * out + 1e-3).astype(jnp.uint8) if as_bytes else out


def corrupted(corruption: Any, x: Any, *, severity: Any, key: Any, batch_size: int = 256) -> np.ndarray:
    """A data set corrupted: example i with the key ``fold_in(key, i)``, so the batch size changes nothing.

    Args:
      corruption: of a suite, ``jr.corruptions.cifar_c["fog"]``, or of your own.
      x: images [N, H, W, C], float in [0, 1] or uint8 in 0..255; a memory map is read a batch at a time.
      severity: 1..5.
      key: typed.
      batch_size: images at a time.

    Returns:
      Images on the host, of the dtype of ``x``. Bytes are cut off to whole levels, as in the released data sets; floats are not rounded.

    Raises:
      ValueError: another severity, no images, pixels outside [0, 1], channels or sizes that the corruption does not take.

    >>> from jrobust import corruptions
    >>> x = np.full((3, 8, 8, 3), 0.5, np.float32)
    >>> noisy = corrupted(corruptions.cifar_c["gaussian_noise"], x, severity=5, key=jax.random.key(0))
    >>> noisy.shape, bool(abs(noisy.std() - 0.1) < 0.02)
    ((3, 8, 8, 3), True)
    """
    if not isinstance(corruption, Corruption):
        raise TypeError(f'corruption is one of a suite, such as cifar_c["fog"]; got {corruption!r}')
    check_key(key)
    check_count(batch_size, "batch_size", "corrupted")
    x = x if hasattr(x, "shape") and hasattr(x, "dtype") else np.asarray(x)
    if len(x.shape) != 4 or x.shape[0] == 0:
        raise ValueError(f"corrupted takes images [N, H, W, C], at least one, got shape {x.shape}")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"x must be uint8 in 0..255 or floating point in [0, 1], got {x.dtype}")
    corruption.check(tuple(x.shape[1:]), severity)
    n, parts = len(x), []
    size = min(batch_size, n)
    for first in range(0, n, size):
        index = np.arange(first, first + size)
        rows = np.asarray(x[first : first + size])
        if rows.dtype != np.uint8:
            rows = rows.astype(jnp.result_type(float) if rows.dtype == np.float64 else np.float32)
            check_inside(rows, first, 0.0, 1.0)
        full = rows if len(rows) == size else np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), 0)])
        parts.append(np.asarray(rendered(corruption, key, full, index, severity=int(severity)))[: len(rows)])
    return np.concatenate(parts)
