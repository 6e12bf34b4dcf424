"""The optimiser of ``jrobust train``: Adam, AdamW or SGD as the papers use them, with one of three schedules."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

if TYPE_CHECKING:
    from jrobust.cli._train import Train


def rate(config: "Train", updates: int) -> Callable[[Any], Any]:
    """Update -> learning rate."""
    if config.schedule == "steps":
        return optax.piecewise_constant_schedule(config.lr, {int(d * updates): config.drop for d in config.drops})
    if config.schedule == "cyclic":  # up to lr and down to 0, straight
        top = max(config.peak * updates, 1e-6)
        return lambda t: config.lr * jnp.clip(jnp.minimum(t / top, (updates - t) / max(updates - top, 1e-6)), 0.0, 1.0)
    rise = int(config.peak * updates)
    return optax.warmup_cosine_decay_schedule(config.lr if rise == 0 else 0.0, config.lr, rise, max(updates, rise + 1))


def optimiser(config: "Train", updates: int) -> optax.GradientTransformation:
    """Clipping of the gradient, weight decay as a part of the gradient (as in the papers' SGD) or beside the rule (AdamW), the rule.

    AdamW decays arrays of two or more axes alone, as the recipes for transformers have it: no biases, no norms.
    """
    scale = rate(config, updates)
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    if config.optimiser == "adamw":
        wide = lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)  # noqa: E731
        return optax.chain(*clip, optax.adamw(scale, weight_decay=config.weight_decay, mask=wide))
    rule = optax.adam(scale) if config.optimiser == "adam" else optax.sgd(scale, config.momentum, config.nesterov)
    decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
    return optax.chain(*clip, *decay, rule)
