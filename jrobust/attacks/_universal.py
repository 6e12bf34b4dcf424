"""One perturbation for many examples: minibatch ascent of the mean surrogate over examples and random placements."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jrobust import _loops
from jrobust._checks import (
    check_batch,
    check_classes,
    check_count,
    check_inside,
    check_key,
    check_labels,
    check_transformation,
)
from jrobust._iterate import violated
from jrobust._model import Random, functional
from jrobust._objective import Stochastic
from jrobust._tree import as_pytree, bind, where
from jrobust.attacks._rules import steepest
from jrobust.attacks._state import Surrogate
from jrobust.attacks.placements import added
from jrobust.objectives import ce, classification
from jrobust.sets import Threat
from jrobust.typing import Array, Float


class Universal(NamedTuple):
    """One perturbation for many examples, and how it was found.

    Attributes:
      perturbation: it lies in the threat's set, to rounding.
      place: how it meets an example: ``(key, x, perturbation) -> image``.
      surrogate: [steps], the mean over the batch of each step, before it (less the penalty).
      violated: [steps], the share of that batch that was a violation; of examples that it is crafted on, so no estimate for others.
      info: ``forwards`` and ``backwards``, passes of one example, in all.
    """

    perturbation: Array
    place: Any
    surrogate: Float[Array, " steps"]
    violated: Float[Array, " steps"]
    info: dict[str, int]


class _Data(NamedTuple):
    x: Array
    y: Array
    target: Array | None


def _same(z: Any) -> Any:
    return z


def _answers(apply: Any, leaves: Any, key: Any, images: Array) -> Array:
    if isinstance(apply, Random):
        logits = apply.apply(leaves, (jax.random.split(key, images.shape[0]), images))
    else:
        logits = apply(leaves, images)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _order(key: Any, n: int, count: int) -> Array:
    """Indices [count]: the examples in a new random order in every round, so that none is seen twice more than another."""
    rounds = jax.random.split(key, -(-count // n))
    return jax.vmap(lambda k: jax.random.permutation(k, n))(rounds).reshape(-1)[:count]


@partial(jax.jit, static_argnames=("apply", "rule", "decay", "steps", "size", "draws", "restarts"))
def _ascend(
    leaves: Any, data: _Data, threat: Threat, start: Any, key: Any, step: Any, place: Any, surrogate: Any, penalty: Any,
    *, apply: Any, rule: Any, decay: bool, steps: int, size: int, draws: int, restarts: int,
) -> tuple[Any, ...]:  # fmt: skip
    s = threat(start)

    def score(logits: Array, y: Any, target: Any) -> tuple[Array, Array]:
        f = classification(_same, y, target=target)
        return (surrogate or f.surrogate)(f, logits), violated(f.value(logits))

    def mean(p: Any, key: Any, rows: Array) -> tuple[Array, Array]:
        k_place, k_model = jax.random.split(key)
        batch = jax.tree.map(lambda a: a[jnp.repeat(rows, draws)], data)
        images = jax.vmap(place, (0, 0, None))(jax.random.split(k_place, size * draws), batch.x, p)
        heights, lost = jax.vmap(score)(_answers(apply, leaves, k_model, images), batch.y, batch.target)
        return jnp.mean(heights) - (0.0 if penalty is None else penalty(p)), jnp.mean(lost)

    def ascent(key: Any, first: Any) -> tuple[Any, ...]:
        def one(carry: tuple[Any, Any], inputs: tuple[Any, ...]) -> tuple[Any, Any]:
            p, memory = carry
            t, rows = inputs
            (height, lost), gradient = jax.value_and_grad(mean, has_aux=True)(p, jax.random.fold_in(key, t), rows)
            update, memory = rule.update(jax.tree.map(jnp.negative, gradient), memory, p, set=s)
            length = step * (1 - t / steps) if decay else step
            p = s.project(jax.tree.map(lambda a, u: a + (length * u).astype(a.dtype), p, update))
            return (p, memory), (height, lost)

        rows = _order(jax.random.fold_in(key, steps), data.x.shape[0], steps * size).reshape(steps, size)
        p = where(first, s.project(s.center), s.sample(jax.random.fold_in(key, steps + 1)))
        (p, _), trace = _loops.scan(one, (p, rule.init(p)), (jnp.arange(steps), rows))
        return p, *trace

    found = jax.vmap(ascent)(jax.random.split(key, restarts), jnp.arange(restarts) == 0)
    late = jnp.mean(found[2][:, -max(1, steps // 10) :], axis=1)
    return jax.tree.map(lambda a: a[jnp.argmax(late)], found)


_RELATIVE = steepest(relative=True)


def universal(
    model: Callable[[Any], Any] | Stochastic,
    x: Any,
    y: Any,
    *,
    threat: Threat,
    key: Any,
    start: Any = None,
    place: Any = None,
    target: Any = None,
    surrogate: Surrogate | None = None,
    penalty: Callable[[Any], Any] | None = None,
    steps: int = 400,
    batch_size: int = 64,
    draws: int = 1,
    restarts: int = 1,
    step: Any = None,
    rule: optax.GradientTransformation | None = None,
) -> Universal:
    """One perturbation for all examples: stochastic ascent of the mean surrogate over examples and random placements (EOT).

    ``p <- project(p + length * direction(grad mean surrogate(model(place(key, x_i, p)))))`` over random batches; the whole loop is
    one compiled program with the data on the device, and new parameters of the model do not recompile it.

    Args:
      model: batched, as for `evaluate`; a random one (`jr.objectives.stochastic`) answers once for each placement.
      x: examples [N, ...] to craft on; judge on others (`placed`).
      y: integer labels [N].
      threat: the set of perturbations around ``start``: of `jr.sets`, an eps an entry included; its clip is of perturbations, the
        box of images is the placement's.
      key: one typed PRNG key.
      start: the perturbation at the start and the set's centre. None: zeros of an example's shape.
      place: ``(key, x, p) -> image`` of one example, of `jr.attacks.placements`. None: ``clip(x + p)`` in [0, 1].
      target: the class that all examples shall become, or one an example [N]; None: any wrong one.
      surrogate: what is climbed; None: cross-entropy.
      penalty: ``p -> number``, taken off the mean surrogate.
      steps: >= 1 (structure).
      batch_size: examples a step, >= 1; at most all.
      draws: placements an example and step, >= 1.
      restarts: ascents side by side, >= 1, the first from ``start``, the others from samples of the set; the one that violates most in
        its last tenth of steps is kept. Ascents end in different directions, some much worse for the model than others.
      step: length of the first step in radii of the set (half-widths of a box); the lengths fall linearly to 0. None: 0.1. With
        ``rule``, a constant factor on its updates (None: 1).
      rule: any optax transformation, on minus the surrogate; None: the set's own steepest direction.

    Returns:
      A `Universal`. The same key gives the same answer; with all examples in a batch and nothing random their order does not matter.

    Guarantee: the perturbation lies in the set; what `placed` shows of held-out examples bounds the accuracy against universal
      perturbations of the set from above.

    Raises:
      ValueError, TypeError: bad input, before any work.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> w = jnp.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> x, y = jnp.array([[0.9, 0.2], [0.8, 0.3]]), jnp.array([0, 0])
    >>> found = universal(lambda x: x @ w, x, y, threat=jr.sets.linf(0.1), key=jax.random.key(0), steps=20)
    >>> print(found.perturbation)
    [-0.1  0.1]

    References:
      Shafahi et al., Universal adversarial training, AAAI 2020.
      Athalye et al., Synthesizing robust adversarial examples, ICML 2018 (expectation over transformations).
    """
    check_key(key)
    for name, count in (("steps", steps), ("batch_size", batch_size), ("draws", draws), ("restarts", restarts)):
        check_count(count, name, "universal")
    if isinstance(x, tuple):
        raise TypeError("universal takes one array of examples [N, ...], got a tuple")
    n = check_batch(x)
    labels = check_labels(y, n)
    check_inside(np.asarray(x), 0, *((0.0, 1.0) if place is None else ()))
    x = jnp.asarray(x)
    f = functional(model, x[:1])
    classes = jax.eval_shape(f.apply, f.leaves, x[:1]).shape[1]
    check_classes(labels, classes)
    if rule is not None:
        check_transformation(rule, "rule")
    chosen = _RELATIVE if rule is None else optax.with_extra_args_support(rule)
    length = (0.1 if rule is None else 1.0) if step is None else step
    size = min(batch_size, n)
    p, heights, lost = _ascend(
        f.leaves,
        _Data(x, jnp.asarray(labels), _targets(target, n, classes)),
        threat,
        _start(start, threat, x),
        key,
        length,
        as_pytree(added() if place is None else place),
        None if surrogate is None else as_pytree(surrogate),
        None if penalty is None else as_pytree(penalty),
        apply=f.apply, rule=chosen, decay=rule is None, steps=steps, size=size, draws=draws,
        restarts=restarts,
    )  # fmt: skip
    passes = restarts * steps * size * draws
    return Universal(p, added() if place is None else place, heights, lost, {"forwards": passes, "backwards": passes})


def _targets(target: Any, n: int, classes: int) -> Array | None:
    if target is None:
        return None
    check_classes(target, classes, "target")
    if np.shape(target) not in ((), (n,)):
        raise ValueError(f"target must be one class, or one an example [{n}], got shape {np.shape(target)}")
    return jnp.broadcast_to(jnp.asarray(target, jnp.int32), (n,))


def _start(start: Any, threat: Threat, x: Array) -> Any:
    if start is not None:
        return jax.tree.map(jnp.asarray, start)
    zeros = jnp.zeros_like(x[0])
    lo, hi = (np.asarray(end) for end in threat(zeros).hull())
    if (hi > lo).any() and ((lo >= 0).all() or (hi <= 0).all()):
        raise ValueError(
            "universal: the threat leaves perturbations of one sign only; it is a set of perturbations around 0, so leave out its "
            "clip (the box of images is the placement's: place=jr.attacks.placements.added(clip=...)), or give start="
        )
    return zeros


def check_images(x: Any, clip: tuple[Any, Any]) -> None:
    """Examples that lie in the box of images."""
    check_batch(x)
    check_inside(np.asarray(x), 0, *clip)


def _capped(most: Any, surrogate: Any, f: Any, logits: Array) -> Array:
    return jnp.minimum(surrogate(f, logits), most)


def uap(
    model: Callable[[Any], Any] | Stochastic,
    x: Any,
    y: Any,
    *,
    threat: Threat,
    key: Any,
    target: Any = None,
    beta: Any = 9.0,
    clip: tuple[Any, Any] = (0.0, 1.0),
    steps: int = 400,
    batch_size: int = 64,
    restarts: int = 1,
    step: Any = None,
) -> Universal:
    """The universal adversarial perturbation by stochastic gradients, untargeted or targeted: ``clip(x + p)`` for all examples.

    The cross-entropy of an example counts up to ``beta``, so that few examples, long since wrong, do not outweigh the rest.

    Args:
      model, x, y, threat, key, target, steps, batch_size, restarts, step: as in `universal`.
      beta: the cap, > 0; traced. (Minus the cross-entropy of a target is never above it.)
      clip: the box of images.

    Returns:
      A `Universal`.

    Guarantee: as `universal`.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> w = jnp.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> x, y = jnp.array([[0.9, 0.2], [0.8, 0.3]]), jnp.array([0, 0])
    >>> found = uap(lambda x: x @ w, x, y, threat=jr.sets.l2(0.1), key=jax.random.key(0), steps=50)
    >>> print(jnp.round(found.perturbation, 3))
    [-0.045  0.089]

    References:
      Shafahi et al., Universal adversarial training, AAAI 2020.
    Deviations:
      Steps are the steepest of the set's norm and fall linearly to 0.
      Untargeted ascents may end in weak directions (`docs/attacks.md` has a case): use ``restarts``, and try targets.
    """
    check_images(x, clip)
    return universal(
        model, x, y, threat=threat, key=key, target=target, surrogate=bind(_capped, beta, as_pytree(ce)),
        place=added(clip=clip), steps=steps, batch_size=batch_size, restarts=restarts, step=step,
    )  # fmt: skip


def _keyed(key: Any, x: Array) -> Any:
    """A key of the example's own: from its bits, whatever else is in its batch."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).ravel()
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    return jax.random.fold_in(key, jnp.sum(bits * odd * jnp.uint32(2654435761), dtype=jnp.uint32))


def _placed(model: Any, p: Any, place: Any, key: Any, x: Array) -> Any:
    return model(jax.vmap(lambda z: place(_keyed(key, z), z, p))(x))


def placed(model: Callable[[Any], Any], found: Universal, *, key: Any = None) -> Callable[[Any], Any]:
    """The model that sees every example with the perturbation on it: its clean accuracy on held-out examples judges the perturbation.

    That accuracy is at most what the worst universal perturbation of the set leaves, up to the choice of the examples:
    ``jr.evaluate(placed(model, found), x, y, threat=..., oracles={}, key=...)["clean"].accuracy()``. With examples that the
    perturbation was crafted on it would flatter the attack.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, K]``; a pytree where it is one.
      found: of `universal` and its kin; ``found._replace(perturbation=...)`` judges another one.
      key: of random placements; each example's is drawn from the key and the example's own values, so the answer depends neither on
        the batch nor on the order. None: ``jax.random.key(0)``.

    Returns:
      A batched model; a pytree where ``model`` is one. Where placements are random it jumps with its input: no attack on top of it.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> w = jnp.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> found = Universal(jnp.array([-0.5, 0.5]), jr.attacks.placements.added(), jnp.zeros(0), jnp.zeros(0), {})
    >>> print(placed(lambda x: x @ w, found)(jnp.array([[0.75, 0.25]])))  # at (0.25, 0.75)
    [[-1.25  1.25]]
    """
    if not callable(model):
        raise TypeError(f"placed takes a batched model(x[B, ...]) -> logits, got {type(model).__name__}")
    key = jax.random.key(0) if key is None else key
    check_key(key)
    args = found.perturbation, as_pytree(found.place), key
    if jax.tree_util.all_leaves([model]):
        return lambda x: _placed(model, *args, x)  # a closure stays one: drivers hoist the arrays it closed over
    return bind(_placed, model, *args)
