"""Transfer: witnesses crafted on models at hand, judged by the model in question."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle, require
from jrobust._tree import as_pytree, bind, is_traced
from jrobust.objectives import classification, with_label
from jrobust.typing import Float, Point


def _fused(surrogates: tuple[Any, ...], weights: Any, z: Point) -> Float[Any, " K"]:
    alone = jax.tree.map(lambda a: a[None], z)
    each = jnp.stack([model(alone)[0] for model in surrogates])
    return jnp.tensordot(weights / jnp.sum(weights), each, 1)


def _transfer(attack: Oracle, surrogates: tuple[Any, ...], weights: Any, key: Any, f: Objective, s: Any) -> Bound:
    label = with_label(f, "transfer")
    crafted = attack.solve(key, classification(bind(_fused, surrogates, weights), label, target=f.target), s)
    value = f.value(f.outputs(crafted.witness))
    info = {f"surrogate_{k}": v for k, v in crafted.info.items() if k in ("forwards", "backwards")}
    passes = {"forwards": jnp.asarray(1, jnp.int32), "backwards": jnp.asarray(0, jnp.int32)}
    return Bound(value, crafted.witness, passes | info)


def transfer(attack: Oracle, *surrogates: Callable[[Any], Any], weights: Any = None) -> Oracle:
    """The attack on other models, carried over: it never looks at the model in question but to judge the witness.

    Args:
      attack: an oracle of side "lower". One that stops at its first violation stops at the surrogates' own (at once, where they are wrong
        already); those that climb on (`jr.attacks.mim`, `vmi_fgsm`, `pgd`) carry further.
      *surrogates: batched models, ``model(x[B, ...]) -> logits[B, K]``; of several, the weighted mean of the logits is attacked.
      weights: one a surrogate, >= 0; traced. None: equal.

    Returns:
      An `Oracle` of side "lower", for objectives of `jr.objectives.classification` (targeted ones keep their target).
      ``info["forwards"]`` is the one query of the model in question, ``info["surrogate_forwards"]`` what crafting took.

    Raises:
      ValueError: no surrogate, another number of weights, an oracle of another side.

    Guarantee: a lower bound, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> known, asked = jnp.array([[1.0, -1.0], [0.5, -0.5]]), jnp.array([[1.0, -1.0], [0.4, -0.6]])
    >>> f = jr.objectives.classification(lambda z: z @ asked, 0)
    >>> attack = transfer(jr.attacks.fgsm(), lambda x: x @ known)
    >>> print(f"{attack.solve(jax.random.key(0), f, jr.sets.linf(0.3)(jnp.array([0.2, 0.1]))).value:.1f}")
    0.4

    References:
      Papernot, McDaniel & Goodfellow, Transferability in machine learning, 2016.
      Dong et al., Boosting adversarial attacks with momentum, CVPR 2018 (the mean of logits).
    """
    require(("lower",), attack, by="transfer")
    if not surrogates:
        raise ValueError("transfer takes at least one surrogate: transfer(attack, model)")
    weights = jnp.ones(len(surrogates)) if weights is None else jnp.asarray(weights)
    if weights.shape != (len(surrogates),):
        raise ValueError(f"transfer: weights must be [{len(surrogates)}], one a surrogate, got shape {weights.shape}")
    if not is_traced(weights) and not (float(jnp.sum(weights)) > 0 and bool(jnp.all(weights >= 0))):
        raise ValueError(f"transfer: weights must be >= 0 and not all 0, got {weights.tolist()}")
    models = tuple(as_pytree(model) for model in surrogates)
    return Oracle("lower", bind(_transfer, attack, models, weights), name=f"transfer of {attack.name}")
