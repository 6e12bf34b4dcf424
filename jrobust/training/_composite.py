"""Against several changes one after another, in any order: generalized adversarial training (GAT)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._objective import Loss
from jrobust._transforms import AtWitnesses, Crafting, example_keys
from jrobust._tree import stop_gradient
from jrobust.objectives._classification import divergence
from jrobust.sets import Threat
from jrobust.training._paired import at_pairs
from jrobust.transforms import Transform


class _Change(NamedTuple):
    """One change of one example, as a set of points and what each of them looks like.

    Attributes:
      around: ``x -> Set``, what the change may do to ``x``.
      first: ``(key, Set) -> point``, where the ascent begins.
      seen: ``point -> x'``.
    """

    around: Callable[[Any], Any]
    first: Callable[[Any, Any], Any]
    seen: Callable[[Any], Any]


def _change(given: Transform | Threat) -> _Change:
    if isinstance(given, Threat):
        return _Change(given, lambda key, s: s.center, lambda z: z)
    threat = given.threat()

    def around(x: Any) -> Any:
        return threat((x, *(jnp.asarray(t, x.dtype) for t in given.identity(np.shape(x)))))

    return _Change(around, lambda key, s: s.sample(key), lambda z: given.render(*z))


def gat(
    loss: Loss,
    *changes: Transform | Threat,
    beta: int | float | None = None,
    attack: int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Generalized adversarial training: the loss at images that were changed in several ways, one after another in a random order.

    The order is drawn for each batch. In its turn each change climbs the loss of what the changes before it have left, by steps of 2.5 /
    ``attack`` half-widths of its range (signed steps, on a box); those after it are not looked at yet.

    Args:
      loss: a `jr.Loss`, of images [H, W, C] in [0, 1] where there are transforms.
      *changes: what may happen, each once: `jr.transforms`, which begin at random parameters, and sets (one eps for all examples), which
        begin at the image as it is by then. Published: hue, saturation, rotation by 10 degrees, brightness, contrast, linf 8/255.
      beta: None: the loss at the changed images (Madry form). A number >= 0: the loss at the clean ones and ``beta KL(p(x) || p(x'))``
        (TRADES form, published with 6).
      attack: steps of each change, >= 1; n changes cost n times as many passes.
      crafting: as of `jr.worst_case`.

    Returns:
      A robust loss; its witnesses are the changed images. `jr.transforms.caa` and `any_order` are the same threat for `jr.evaluate`.

    Raises:
      TypeError: something that is neither a transform nor a threat. ValueError: no change at all, or ``beta`` < 0.

    Guarantee: a lower bound of the worst composition of the changes, per example.

    References:
      Hsiung, Tsai, Chen & Ho, Towards compositional adversarial robustness: generalizing adversarial training to composite semantic
      perturbations, CVPR 2023.
    Deviations:
      No noise of deviation 1e-3 is added to the image first. The authors' code divides the divergence by classes and batch once more.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x[:, 0, 0, :1] * p, rest))
    >>> robust = gat(loss, jr.transforms.brightness((-0.2, 0.2)), jr.sets.linf(0.1, clip=(0, 1)))
    >>> args = jnp.array([1.0, -1.0]), None, jnp.full((1, 1, 1, 1), 0.5), jnp.array([0])
    >>> print(f"{robust.craft(*args, key=jax.random.key(0)).item():.2f}")  # 0.5 - 0.2 - 0.1, in either order
    0.20
    """
    if not changes:
        raise ValueError(
            "gat takes at least one change: gat(loss, jr.transforms.rotation(), jr.sets.linf(8 / 255, clip=(0, 1)))"
        )
    for given in changes:
        if not isinstance(given, Transform | Threat):
            raise TypeError(
                f"gat: a change is a jr.transforms.Transform or a threat of jr.sets, got {type(given).__name__}"
            )
        if isinstance(given, Threat) and jnp.ndim(given.eps):
            raise ValueError(f"gat: a set has one eps for all examples, got eps of shape {jnp.shape(given.eps)}")
    check_count(attack, "attack", "gat")
    if beta is not None and not beta >= 0:
        raise ValueError(f"gat: beta is None or a number >= 0, got {beta!r}")
    parts = [_change(given) for given in changes]
    size = 2.5 / attack

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        params, (for_order, key) = stop_gradient(params), jax.random.split(key)
        keys = example_keys(key, jnp.arange(x.shape[0]))

        def turn(x: Any, which: Any) -> tuple[Any, None]:
            drawn = jax.vmap(lambda k: jax.random.fold_in(k, which))(keys)
            points = tuple(jax.vmap(lambda k, x, p=p: p.first(k, p.around(x)))(drawn, x) for p in parts)
            seen = [lambda points, i=i, p=p: jax.vmap(p.seen)(points[i]) for i, p in enumerate(parts)]

            def total(points: Any) -> Any:
                out, _ = loss.outputs(params, rest, jax.lax.switch(which, seen, points), train=crafting == "batch")
                return jnp.sum(loss.reduce(out, y))

            def climb(points: Any, _: None) -> tuple[Any, None]:
                # the gradient of what is not looked at is 0, and its step too
                return tuple(map(step, parts, points, jax.grad(total)(points))), None

            def step(p: _Change, points: Any, slopes: Any) -> Any:
                def one(x: Any, z: Any, g: Any) -> Any:
                    s = p.around(x)
                    return s.project(jax.tree.map(lambda a, d: a + size * d, z, s.steepest(g, relative=True)))

                return jax.vmap(one)(x, points, slopes)

            points, _ = _loops.scan(climb, points, None, length=attack)
            return jax.lax.switch(which, seen, points), None

        order = jax.random.permutation(for_order, len(parts))
        return stop_gradient(_loops.scan(turn, x, order)[0])

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del x, key
        return loss(params, rest, z, y, train=train)

    if beta is None:
        return AtWitnesses(craft, at)
    outer = lambda x, z, clean, changed, y: loss.reduce(clean, y) + beta * divergence(clean, changed)  # noqa: E731
    return at_pairs(loss, craft, outer)
