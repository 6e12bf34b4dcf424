"""Adversarial training at the price of a step or two: FGSM from a random start or from noise, GradAlign, and a watch over them."""

from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Loss
from jrobust._transforms import AtWitnesses, Crafting, at_witnesses, example_keys
from jrobust._tree import stop_gradient, vdot
from jrobust.sets import Threat, eps_axes
from jrobust.training._paired import inner
from jrobust.training._regularised import input_gradient


def fgsm_rs(loss: Loss, threat: Threat, *, alpha: Any = 1.25, crafting: Crafting = "inference") -> AtWitnesses:
    """FGSM from a random start: one step of ``alpha`` radii from a point of the set, projected ("fast is better than free").

    Args:
      loss, threat: as of `jr.worst_case`.
      alpha: length of the step in radii; the published 10/255 at 8/255.
      crafting: as of `jr.worst_case`; the authors craft in training mode ("batch").

    Watch it with `overfitting_guard`: from some eps on it collapses.

    References:
      Wong, Rice & Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = fgsm_rs(loss, jr.sets.linf(0.1, clip=(0, 1)))
    """
    return at_witnesses(loss, threat, inner(1, "random", share=alpha), crafting=crafting)


def _noise(share: Any, key: Any, s: Any) -> Any:
    """A sample of the set, drawn towards its centre."""
    return jax.tree.map(lambda a, z: a + share * (z - a), s.center, s.sample(key))


def n_fgsm(
    loss: Loss, threat: Threat, *, k: Any = 2.0, alpha: Any = 1.0, crafting: Crafting = "inference"
) -> AtWitnesses:
    """Noise and FGSM: noise of ``k`` radii, then a step of ``alpha`` radii that is not projected onto the threat.

    It is one step of PGD on the threat of ``k + alpha`` radii, from its inner part.

    Args:
      loss, threat: as of `jr.worst_case`; a threat of one eps.
      k: size of the noise in radii.
      alpha: length of the step in radii.
      crafting: as of `jr.worst_case`.

    References:
      de Jorge et al., Make some noise: reliable and efficient single-step adversarial training, NeurIPS 2022.

    Deviations: noise is a sample of the set within its clip, scaled, where the authors cut uniform noise at the clip.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = n_fgsm(loss, jr.sets.linf(0.1))
    >>> z = robust.craft(jnp.eye(2), None, jnp.zeros((1, 2)), jnp.array([0]), key=jax.random.key(0))
    >>> bool(jnp.max(jnp.abs(z)) > 0.1)  # further than eps, on purpose
    True
    """
    wide = threat.family(jax.tree.map(lambda eps: (k + alpha) * eps, threat.eps))
    start = jax.tree_util.Partial(_noise, k / (k + alpha))
    return at_witnesses(loss, wide, inner(1, start, share=alpha / (k + alpha)), crafting=crafting)


def gradalign(loss: Loss, threat: Threat, *, weight: Any = 0.2, crafting: Crafting = "inference") -> AtWitnesses:
    """FGSM from the clean example, plus ``weight (1 - cos(g(x), g(x + u)))``: the loss kept as linear as one step assumes.

    g is the gradient of the loss by the input, u a sample of the set; the first of them is a constant. Examples whose gradient is
    zero do not count.

    Args:
      loss: a `jr.Loss`.
      threat: the perturbations.
      weight: 0.2 at 8/255 on CIFAR-10, more for larger eps.
      crafting: as of `jr.worst_case`.

    References:
      Andriushchenko & Flammarion, Understanding and improving fast adversarial training, NeurIPS 2020.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = gradalign(loss, jr.sets.linf(0.1))
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    base = at_witnesses(loss, threat, inner(1, "center", share=1.0), crafting=crafting)

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        losses, after = base.at(params, rest, x, z, y, key=key, train=train)
        keys = example_keys(key, jnp.arange(y.shape[0]))
        near = jax.vmap(lambda t, xi, k: t(xi).sample(k), in_axes=(eps_axes(threat, x), 0, 0))(threat, x, keys)
        slope = lambda v: input_gradient(loss, params, rest, v, y, train=train)[0]  # noqa: E731
        g, h = stop_gradient(slope(x)), slope(stop_gradient(near))
        dot, left, right = (jax.vmap(vdot)(a, b) for a, b in ((g, h), (g, g), (h, h)))
        counts = (left > 0) & (right > 0)
        cosine = dot / jnp.sqrt(jnp.where(counts, left * right, 1.0))
        share = y.shape[0] / jnp.maximum(jnp.sum(counts), 1)
        return losses + weight * share * jnp.where(counts, 1.0 - cosine, 0.0), after

    return AtWitnesses(base.craft, at)
