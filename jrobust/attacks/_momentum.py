"""The iterative FGSM family: sign steps along accumulated gradients, of transformed inputs where they are to transfer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._iterate import Algorithm, iterate
from jrobust._objective import Objective
from jrobust._oracle import Oracle
from jrobust._tree import as_pytree, bind
from jrobust.attacks._state import Surrogate, climb, keep, nothing, with_last
from jrobust.typing import Array, Float, Point

View = Callable[[Any, Point, Any], Point]


class MomentumState(NamedTuple):
    """The iterate, the accumulated gradient, the variance correction, and the worst case among evaluated points."""

    z: Point
    momentum: Point
    variance: Point
    value: Float[Array, ""]
    witness: Point


class Recipe(NamedTuple):
    """What tells the members of the family apart; all structure.

    Attributes:
      nesterov: take gradients one momentum step ahead.
      views: copies of the input that a gradient is averaged over; 0 takes the input itself.
      neighbours: points around the iterate that the variance correction is averaged over; 0 leaves it out.
      kernel: side of the Gaussian that gradients are smoothed with; 0 does not smooth.
    """

    nesterov: bool = False
    views: int = 0
    neighbours: int = 0
    kernel: int = 0


def _init(key: Any, f: Objective, s: Any) -> MomentumState:
    del key, f
    blank = jax.tree.map(jnp.zeros_like, s.center)
    return MomentumState(s.center, blank, blank, nothing(s.center), s.center)


def _ahead(z: Point, step: Any, direction: Point) -> Point:
    return jax.tree.map(lambda a, d: a + step * d, z, direction)


def _mean_gradient(
    key: Any, f: Objective, surrogate: Surrogate | None, view: View | None, z: Point, copies: int
) -> tuple[Float[Array, ""], Point]:
    """The objective's value at ``z`` (at its first view) and the surrogate's gradient, averaged over the views."""
    if view is None:
        value, _, gradient = climb(f, surrogate, z)
        return value, gradient

    def height(z: Point, index: Array, k: Any) -> Any:
        return f.climb(surrogate or f.surrogate, view(k, z, index))[0]

    def mean(z: Point) -> Any:
        return jnp.mean(jax.vmap(height, (None, 0, 0))(z, jnp.arange(copies), jax.random.split(key, copies)))

    return jnp.asarray(-jnp.inf), jax.grad(mean)(z)


def _step(
    length: Any,
    decay: Any,
    reach: Any,
    view: View | None,
    key: Any,
    state: MomentumState,
    f: Objective,
    s: Any,
    *,
    recipe: Recipe,
    surrogate: Surrogate | None,
) -> MomentumState:
    k_view, k_near = jax.random.split(key)
    at = state.z
    if recipe.nesterov:
        at = _ahead(at, length * decay, s.steepest(state.momentum, relative=True))
    value, gradient = _mean_gradient(k_view, f, surrogate, view, at, recipe.views)
    if view is None and not recipe.nesterov:
        state = keep(state, state.z, value)
    total = jax.tree.map(jnp.add, gradient, state.variance)
    variance = state.variance
    if recipe.neighbours:

        def near(k: Any) -> Point:
            noise = jax.random.uniform(k, at.shape, at.dtype, -1, 1)
            return climb(f, surrogate, at + reach * s.params[0] * noise)[2]

        around = jax.vmap(near)(jax.random.split(k_near, recipe.neighbours))
        variance = jax.tree.map(lambda a, g: jnp.mean(a, axis=0) - g, around, gradient)
    if recipe.kernel:
        total = smoothed(total, recipe.kernel)
    size = sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(total))
    count = sum(g.size for g in jax.tree.leaves(total))
    scale = count / jnp.where(size > 0, size, 1.0)
    momentum = jax.tree.map(lambda m, g: decay * m + scale * g, state.momentum, total)
    z = s.project(_ahead(state.z, length, s.steepest(momentum, relative=True)))
    return state._replace(z=z, momentum=momentum, variance=variance)


def smoothed(gradient: Array, side: int, nsig: float = 3.0) -> Array:
    """An image's gradient [H, W, C] convolved with a Gaussian of ``side`` pixels that ends at ``nsig`` deviations."""
    if gradient.ndim < 2:
        raise ValueError(f"a gradient is smoothed over the pixels of an image [H, W, C], got shape {gradient.shape}")
    taps = np.exp(-0.5 * np.linspace(-nsig, nsig, side) ** 2)
    taps = jnp.asarray(taps / taps.sum(), gradient.dtype)

    def along(a: Array, axis: int) -> Array:
        pad = [(0, 0)] * a.ndim
        pad[axis] = (side // 2, (side - 1) // 2)
        a = jnp.pad(a, pad)
        n = gradient.shape[axis]
        return sum(t * jax.lax.slice_in_dim(a, i, i + n, axis=axis) for i, t in enumerate(taps))  # pyright: ignore

    return along(along(gradient, 0), 1)


def _diverse(resize: Any, probability: Any, key: Any, z: Array, index: Any) -> Array:
    """The image shrunk to a random size and put at a random place on black, with some probability."""
    del index
    h, w = z.shape[0], z.shape[1]
    k_use, k_size, k_y, k_x = jax.random.split(key, 4)
    scale = jax.random.uniform(k_size, (), z.dtype, resize, 1.0)
    room = (1 - scale) * jnp.asarray([h, w], z.dtype)
    corner = room * jnp.stack([jax.random.uniform(k_y), jax.random.uniform(k_x)])
    placed = jax.image.scale_and_translate(
        z, z.shape, (0, 1), jnp.stack([scale, scale]).astype(z.dtype), corner.astype(z.dtype), "linear", antialias=False
    )
    return jnp.where(jax.random.uniform(k_use) < probability, placed, z)


def _scaled(key: Any, z: Array, index: Any) -> Array:
    """The image dimmed to 1, 1/2, 1/4, ... of its values."""
    del key
    return z * jnp.exp2(-index.astype(z.dtype))


def mim(
    *,
    steps: int = 10,
    step: Any = None,
    decay: Any = 1.0,
    surrogate: Surrogate | None = None,
    nesterov: bool = False,
    view: View | None = None,
    views: int = 1,
    neighbours: int = 0,
    reach: Any = 1.5,
    kernel: int = 0,
    name: str = "mim",
) -> Oracle:
    """Momentum iterative FGSM, and the general member of its family: the others are this with one option set.

    ``m <- decay m + g / mean|g|``, ``z <- project(z + step direction(m))``, from the example itself.

    Args:
      steps: gradient steps, >= 1.
      step: length of a step in units of the set's radius; traced. None: ``1 / steps``.
      decay: of the accumulated gradient, >= 0; 0 is `bim`.
      surrogate: what is climbed; None takes the objective's own.
      nesterov: take gradients one momentum step ahead.
      view: ``(key, z, index) -> z'``, a random or numbered copy of the input; the gradient is averaged over ``views`` of them.
      views: how many copies, >= 1.
      neighbours: points within ``reach`` radii of the iterate whose gradients tune the variance; 0 leaves it out.
      reach: of the neighbourhood, in radii.
      kernel: side in pixels of the Gaussian that smooths gradients of images [H, W, C]; 0 does not smooth.
      name: for tables.

    Returns:
      An `Oracle` of side "lower". With a view or nesterov gradients are not taken at the iterates, and only the last one is judged.

    Guarantee: a lower bound, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> print(f"{mim(steps=5).solve(jax.random.key(0), f, jr.sets.linf(0.3)(jnp.array([0.5]))).value:.4f}")
    -0.4000

    Raises:
      ValueError: views < 1, neighbours or kernel < 0.

    References:
      Dong et al., Boosting adversarial attacks with momentum, CVPR 2018.
    """
    if views < 1 or neighbours < 0 or kernel < 0:
        raise ValueError(
            f"{name}: views >= 1, neighbours >= 0 and kernel >= 0 are needed, got {views}, {neighbours}, {kernel}"
        )
    length = 1.0 / steps if step is None and isinstance(steps, int) and steps > 0 else step
    recipe = Recipe(nesterov, 0 if view is None else views, neighbours, kernel)
    each = views + neighbours
    algorithm = Algorithm(
        _init,
        bind(
            _step, length, decay, reach, None if view is None else as_pytree(view), recipe=recipe, surrogate=surrogate
        ),
        with_last,
        step_cost=(each, each),
    )
    return iterate(algorithm, steps, name=f"{name}-{steps}")


def bim(*, steps: int = 10, step: Any = None, surrogate: Surrogate | None = None) -> Oracle:
    """The basic iterative method: projected steepest ascent from the example itself; `mim` without memory.

    Args:
      steps, step, surrogate: as in `mim`.

    >>> bim(steps=5).name
    'bim-5'

    References:
      Kurakin, Goodfellow & Bengio, Adversarial examples in the physical world, ICLR workshop 2017.
    """
    return mim(steps=steps, step=step, decay=0.0, surrogate=surrogate, name="bim")


def ni_fgsm(*, steps: int = 10, step: Any = None, decay: Any = 1.0, surrogate: Surrogate | None = None) -> Oracle:
    """`mim` with Nesterov's look ahead.

    Args:
      steps, step, decay, surrogate: as in `mim`.

    >>> ni_fgsm(steps=5).name
    'ni_fgsm-5'

    References:
      Lin et al., Nesterov accelerated gradient and scale invariance for adversarial attacks, ICLR 2020.
    """
    return mim(steps=steps, step=step, decay=decay, surrogate=surrogate, nesterov=True, name="ni_fgsm")


def si_fgsm(
    *, steps: int = 10, step: Any = None, decay: Any = 1.0, surrogate: Surrogate | None = None, scales: int = 5
) -> Oracle:
    """`ni_fgsm` on the mean gradient over copies dimmed to 1, 1/2, 1/4, ... (SI-NI-FGSM); values near 0 must mean black.

    Args:
      steps, step, decay, surrogate: as in `mim`.
      scales: how many copies, >= 1.

    >>> si_fgsm(steps=5).name
    'si_fgsm-5'

    References:
      Lin et al., Nesterov accelerated gradient and scale invariance for adversarial attacks, ICLR 2020.
    """
    return mim(
        steps=steps, step=step, decay=decay, surrogate=surrogate, nesterov=True, view=_scaled, views=scales, name="si_fgsm"
    )  # fmt: skip


def di_fgsm(
    *,
    steps: int = 10,
    step: Any = None,
    decay: Any = 1.0,
    surrogate: Surrogate | None = None,
    probability: Any = 0.5,
    resize: Any = 0.9,
    kernel: int = 0,
) -> Oracle:
    """`mim` on randomly shrunk and shifted copies of an image [H, W, C]: diverse inputs.

    Args:
      steps, step, decay, surrogate, kernel: as in `mim`.
      probability: of a transformed copy in a step, in [0, 1].
      resize: smallest relative size, in (0, 1].

    >>> di_fgsm(steps=5).name
    'di_fgsm-5'

    References:
      Xie et al., Improving transferability of adversarial examples with input diversity, CVPR 2019.
    Deviations:
      The size is drawn from a continuous range and pixels are interpolated linearly, so that one program serves all sizes.
    """
    view = bind(_diverse, resize, probability)
    return mim(steps=steps, step=step, decay=decay, surrogate=surrogate, view=view, kernel=kernel, name="di_fgsm")


def ti_fgsm(
    *, steps: int = 10, step: Any = None, decay: Any = 1.0, surrogate: Surrogate | None = None, kernel: int = 15
) -> Oracle:
    """`mim` on gradients smoothed by a Gaussian of ``kernel`` pixels that ends at three deviations: translation invariance.

    Args:
      steps, step, decay, surrogate, kernel: as in `mim`.

    >>> ti_fgsm(steps=5).name
    'ti_fgsm-5'

    References:
      Dong et al., Evading defenses to transferable adversarial examples by translation-invariant attacks, CVPR 2019.
    """
    return mim(steps=steps, step=step, decay=decay, surrogate=surrogate, kernel=kernel, name="ti_fgsm")


def vmi_fgsm(
    *,
    steps: int = 10,
    step: Any = None,
    decay: Any = 1.0,
    surrogate: Surrogate | None = None,
    neighbours: int = 5,
    reach: Any = 1.5,
) -> Oracle:
    """`mim` with the gradient tuned by its difference to the mean one around the last iterate.

    Args:
      steps, step, decay, surrogate, neighbours, reach: as in `mim`; a radius that is one number is needed.

    >>> vmi_fgsm(steps=5).name
    'vmi_fgsm-5'

    References:
      Wang & He, Enhancing the transferability of adversarial attacks through variance tuning, CVPR 2021.
    """
    return mim(
        steps=steps, step=step, decay=decay, surrogate=surrogate, neighbours=neighbours, reach=reach, name="vmi_fgsm"
    )
