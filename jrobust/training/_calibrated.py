"""A radius of its own for each example (IAAT) or each class (CFA), learnt while training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_classes, check_count
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import Crafting, crafting_by
from jrobust._tree import is_traced, stop_gradient
from jrobust.objectives import kl
from jrobust.objectives._classification import divergence
from jrobust.sets import Threat
from jrobust.training._classes import ClassMeans, check_epoch, class_means, remembered
from jrobust.training._paired import both, inner, near
from jrobust.training._step import Remembering
from jrobust.typing import Array, Float, Int


def of_each(threat: Threat, share: Float[Array, " B"], x: Any) -> Threat:
    """The threat whose radius is ``share[i]`` of its own at example i of a batch."""
    ones = [1] * (jax.tree.leaves(x)[0].ndim - 1)
    # a box takes one radius an entry too: all its axes say which is meant
    full = share.reshape(-1, *ones) if threat.name == "linf" else share
    return threat.family(jax.tree.map(lambda eps: full * eps, threat.eps))


def _crafting_each(loss: Loss, threat: Threat, attack: Oracle, crafting: Crafting, by: str) -> Callable[..., Any]:
    """``craft(share, params, rest, x, y, key)``: witnesses at a share of the radius for each example."""
    crafting_by(loss, threat, attack, crafting=crafting, by=by)  # refuses at once what cannot be

    def craft(share: Any, params: Any, rest: Any, x: Any, y: Any, key: Any) -> Any:
        now = of_each(threat, stop_gradient(share), x)
        return crafting_by(loss, now, attack, crafting=crafting, by=by)(params, rest, x, y, key=key)

    return craft


class Radii(NamedTuple):
    """The share of the radius of each training example, and how many batches were seen."""

    share: Float[Array, " N"]
    batches: Int[Array, ""]


def iaat(
    loss: Loss,
    threat: Threat,
    *,
    examples: int,
    warmup: int = 0,
    gamma: Any = 0.24,
    smoothing: Any = 0.1,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> Remembering:
    """Instance adaptive adversarial training: the loss at witnesses of a radius that each example has earned.

    An example that is still classified correctly under attack at ``eps_i + gamma`` proposes that radius, one that is so at ``eps_i``
    keeps its own, any other proposes ``eps_i - gamma``; ``eps_i <- (1 - smoothing) eps_i + smoothing * proposal``, at least 0. There is
    no upper limit: an example far from every boundary may earn more than the threat's own radius.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations; its radius is where all examples start.
      examples: N, how many the training set has (with ``fit(extra=)``: with those).
      warmup: batches in which every radius stays as it is.
      gamma: the step, in radii of the threat; the default is ours.
      smoothing: in [0, 1]; the default is ours.
      attack: a lower oracle, or how many steps of PGD climb the loss from a random start.
      crafting: as of `jr.worst_case`. Whether an example is correct is asked in inference mode.

    Returns:
      A loss that is `Remembering` (``indexed``): its memory holds the shares of the radius, one an example. It attacks three times a
      batch: twice to choose, once to train.

    Raises:
      ValueError: ``examples`` or ``warmup`` that are no counts; at trace time, a memory of another size, or an example beyond ``examples``
        (`fit` knows the last one; of a traced index nothing is known, nor with ``accumulate``).

    References:
      Balaji, Goldstein & Hoffman, Instance adaptive adversarial training: improved accuracy tradeoffs in neural nets, 2019.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = iaat(loss, jr.sets.linf(0.1), examples=3, gamma=1.0, smoothing=0.5)
    >>> how = {"key": jax.random.key(0), "train": True, "memory": robust.start, "index": jnp.array([2, 0])}
    >>> x = jnp.array([[1.0, 0.0], [0.0, 0.01]])  # easy, and wrong
    >>> *_, memory = robust.loss(jnp.eye(2), None, x, jnp.array([0, 0]), **how)
    >>> memory.share.tolist()
    [0.5, 1.0, 1.5]
    """
    check_count(examples, "examples", "iaat")
    check_count(warmup, "warmup", "iaat", least=0)
    craft = _crafting_each(loss, threat, inner(attack, "random"), crafting, "iaat")

    def remembering(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool, memory: Radii, index: Any) -> Any:
        if memory.share.shape[0] != examples:
            raise ValueError(f"iaat: {examples} examples, but the state remembers {memory.share.shape[0]}")
        if not is_traced(index):
            rows = np.asarray(index)
            if rows.min() < 0 or rows.max() >= examples:
                raise ValueError(
                    f"iaat: examples={examples}, but a batch holds example {rows.max()} of the training set"
                )
        own = memory.share[index]
        keys = jax.random.split(key, 3)

        def holds(share: Any, k: Any) -> Any:
            z = craft(share, params, rest, x, y, k)
            return jnp.argmax(loss.outputs(stop_gradient(params), rest, z, train=False)[0], -1) == y

        proposal = jnp.where(holds(own, keys[1]), own, own - gamma)
        proposal = jnp.where(holds(own + gamma, keys[0]), own + gamma, proposal)
        moved = jnp.maximum((1.0 - smoothing) * own + smoothing * proposal, 0.0)
        share = jnp.where(memory.batches < warmup, own, moved)
        out, rest = loss.outputs(params, rest, craft(share, params, rest, x, y, keys[2]), train=train)
        check_classes(y, out.shape[-1], "label", index=False)
        return loss.reduce(out, y), rest, Radii(memory.share.at[index].set(share), memory.batches + 1)

    return Remembering(remembering, Radii(jnp.ones(examples), jnp.zeros((), jnp.int32)), indexed=True)


def cfa(
    loss: Loss,
    threat: Threat,
    *,
    classes: int,
    epoch: int,
    beta: Any = None,
    begin: int = 10,
    margin: Any = 0.5,
    weight: Any = 0.5,
    attack: Oracle | int = 10,
    crafting: Crafting = "inference",
) -> Remembering:
    """Class-wise calibrated fair adversarial training: radius and weight by how robust a class was in the epoch before.

    With ``a_k`` the accuracy of class k on its adversarial training examples, its radius is ``(margin + a_k) eps``. With ``beta`` the
    loss is that of TRADES with ``b = (weight + a_y) beta`` by class: ``CE(x, y) / (1 + b) + b / (1 + b) KL(p(x) || p(x'))``.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      classes: K.
      epoch: batches in an epoch (`epoch_steps`), after which the accuracies are renewed.
      beta: weight of the divergence of TRADES (published: 6); None trains at the adversarial examples alone.
      begin: epochs before the classes differ, >= 1; radius and weight are the plain ones until then.
      margin, weight: lambda_1 and lambda_2 (published: 0.5).
      attack: a lower oracle, or how many steps of PGD climb the loss from a random start (with ``beta``, as of `trades`).
      crafting: as of `jr.worst_case`.

    Returns:
      A loss that is `Remembering`: ``memory.means`` are the accuracies by class. `fawa` is the averaging that goes with it.

    References:
      Wei, Wang, Guo & Wang, CFA: class-wise calibrated fair adversarial training, CVPR 2023.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = cfa(loss, jr.sets.linf(0.1), classes=2, epoch=1)
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.array([0, 0])), {"key": jax.random.key(0), "train": True}
    >>> *_, memory = robust.loss(*args, memory=robust.start, **how)
    >>> memory.means.tolist()  # half of class 0 holds; class 1 was not seen
    [0.5, 1.0]
    """
    check_epoch(classes, epoch, "cfa")
    check_count(begin, "begin", "cfa")
    ascent = inner(attack, "random") if beta is None else inner(attack, near, kl)
    craft = _crafting_each(loss, threat, ascent, crafting, "cfa")

    def remembering(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool, memory: ClassMeans) -> Any:
        plain, right = memory.batches < begin * epoch, memory.means[y]
        z = craft(jnp.where(plain, 1.0, margin + right), params, rest, x, y, key)
        if beta is None:
            adversarial, rest = loss.outputs(params, rest, z, train=train)
            check_classes(y, adversarial.shape[-1], "label", index=False)
            losses = loss.reduce(adversarial, y)
        else:
            clean, adversarial, rest = both(loss, params, rest, x, z, y, train=train)
            b = beta * jnp.where(plain, 1.0, weight + right)
            losses = (loss.reduce(clean, y) + b * divergence(clean, adversarial)) / (1.0 + b)
        now = (jnp.argmax(adversarial, -1) == y).astype(memory.means.dtype)
        return losses, rest, remembered(memory, now, y, epoch)

    return Remembering(remembering, class_means(jnp.ones(classes)))
