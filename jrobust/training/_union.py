"""Several threats at once: the worst of them or their mean, and how much they pull against each other."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, at_witnesses
from jrobust._tree import vdot
from jrobust.sets import Threat
from jrobust.training._paired import inner
from jrobust.typing import Array, Float


def _each(loss: Loss, threats: Any, attack: Oracle | int, crafting: Crafting, by: str) -> list[AtWitnesses]:
    if not threats:
        raise ValueError(f"{by} takes at least one threat")
    ascent = inner(attack, "random")
    return [at_witnesses(loss, threat, ascent, crafting=crafting) for threat in threats]


def union(
    loss: Loss,
    *threats: Threat,
    how: Literal["max", "mean"] = "max",
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Adversarial training against a union of threats: each example at the worst of its witnesses, or the mean over all of them.

    Args:
      loss: a `jr.Loss`.
      *threats: the perturbations, such as ``jr.sets.linf(8 / 255), jr.sets.l2(0.5), jr.sets.l1(12)``, all with the same clip.
      how: "max" trains at the witness of largest loss, example by example; "mean" at all witnesses alike, for as many passes.
      attack: a lower oracle that works on each threat, or how many steps of PGD climb the loss from a random start.
      crafting: as of `jr.worst_case`; which witness is worst is asked in the same mode.

    Returns:
      A robust loss; with "mean" its witnesses are a tuple, one for each threat. `conflict` measures whether the threats get on.

    References:
      Tramer & Boneh, Adversarial training and robustness for multiple perturbations, NeurIPS 2019.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> threats, args = (jr.sets.linf(0.1), jr.sets.l2(0.5)), (jnp.eye(2), None, jnp.eye(2), jnp.arange(2))
    >>> how = {"key": jax.random.key(0), "train": True}
    >>> worst, mean = (union(loss, *threats, how=h)(*args, **how)[0] for h in ("max", "mean"))
    >>> bool(jnp.all(worst > mean))
    True
    """
    parts = _each(loss, threats, attack, crafting, "union")
    if how not in ("max", "mean"):
        raise ValueError(f"union: how is 'max' or 'mean', got {how!r}")

    def craft_all(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        keys = jax.random.split(key, len(parts))
        return tuple(part.craft(params, rest, x, y, key=k) for part, k in zip(parts, keys, strict=True))

    def craft_worst(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        found = craft_all(params, rest, x, y, key=key)
        losses = jnp.stack([loss(params, rest, z, y, train=crafting == "batch")[0] for z in found])
        worst = jnp.argmax(losses, 0)  # the first NaN, if any
        choose = lambda *leaves: jax.vmap(lambda leaf, i: leaf[i], (1, 0))(jnp.stack(leaves), worst)  # noqa: E731
        return jax.lax.stop_gradient(jax.tree.map(choose, *found))

    def at_all(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        total: Any = 0.0
        for part, witness in zip(parts, z, strict=True):
            losses, rest = part.at(params, rest, x, witness, y, key=key, train=train)
            total = total + losses / len(parts)
        return total, rest

    return AtWitnesses(craft_worst, parts[0].at) if how == "max" else AtWitnesses(craft_all, at_all)


def conflict(
    loss: Loss, *threats: Threat, attack: Oracle | int = 10
) -> Callable[..., tuple[Float[Array, "M M"], Float[Array, " M"]]]:
    """How threats pull at the parameters: cosines between the gradients of their adversarial losses, in inference mode.

    1: training against one is training against the other; 0: neither helps; below 0: a step for one undoes the other.

    Args:
      loss, threats, attack: as of `union`.

    Returns:
      ``measure(params, rest, x, y, *, key) -> (cosines[M, M], losses[M])``.

    References:
      Yu et al., Gradient surgery for multi-task learning, NeurIPS 2020 (the measure).

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> measure = conflict(loss, jr.sets.linf(0.1), jr.sets.linf(0.1))
    >>> cosines, losses = measure(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0))
    >>> print(jnp.round(cosines, 3))
    [[1. 1.]
     [1. 1.]]
    """
    parts = _each(loss, threats, attack, "inference", "conflict")

    def measure(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        of = [
            jax.value_and_grad(lambda p, part=part: jnp.mean(part(p, rest, x, y, key=key, train=False)[0]))(params)
            for part in parts
        ]
        products = jnp.stack([jnp.stack([vdot(a, b) for _, b in of]) for _, a in of])
        size = jnp.sqrt(jnp.diagonal(products))
        scale = size[:, None] * size[None]
        return products / jnp.where(scale > 0, scale, 1.0), jnp.stack([value for value, _ in of])

    return measure
