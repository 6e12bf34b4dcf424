"""A strategy learnt while training: a second net chooses radius, steps and step size of the attack on each example (LAS-AT)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jrobust import _loops
from jrobust._checks import check_classes, check_count, check_transformation
from jrobust._combinators import restarts
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import Crafting, crafting_by, example_keys
from jrobust._tree import stop_gradient, where
from jrobust.attacks import pgd
from jrobust.sets import Threat, eps_axes
from jrobust.training._calibrated import of_each
from jrobust.training._distilled import check_share
from jrobust.training._softened import spread_cross_entropy
from jrobust.training._step import Remembering
from jrobust.typing import Array, Float, Int, PyTree

RADII = tuple(i / 8 for i in range(3, 16))
COUNTS = tuple(range(3, 15))
LENGTHS = tuple(i / 8 for i in range(1, 6))


class Strategy(NamedTuple):
    """What LAS-AT remembers.

    Attributes:
      params, rest: of the strategy net.
      opt_state: of its optimiser.
      batches: how many were seen.
      chosen: [3], the mean radius (in radii of the threat), steps and step size (the same) in the last batch.
      reward: of the last update of the strategy; 0 before the first.
    """

    params: PyTree
    rest: PyTree
    opt_state: PyTree
    batches: Int[Array, ""]
    chosen: Float[Array, " 3"]
    reward: Float[Array, ""]


class Choice(NamedTuple):
    """Radius and step size in radii of the threat, and number of steps, of the attack on each example."""

    radius: Float[Array, " B"]
    steps: Float[Array, " B"]
    step: Float[Array, " B"]


def chosen_attack(loss: Loss, threat: Threat, *, most: int, batch: bool = False) -> Callable[..., Any]:
    """``craft(params, rest, x, y, choice, *, key)``: PGD by a `Choice`, from a point of the threat's own set moved into the chosen one.

    Everyone goes through ``most`` steps, those beyond the own number without effect: one program for all choices.
    """

    def craft(params: Any, rest: Any, x: Any, y: Any, choice: Choice, *, key: Any) -> Any:
        fixed, own = stop_gradient((params, of_each(threat, choice.radius, x)))
        axes = eps_axes(threat, x), eps_axes(own, x)
        begin = jax.vmap(lambda t, s, xi, k: s(xi).project(t(xi).sample(k)), in_axes=(*axes, 0, 0))

        def climb(t: Threat, s: Threat, xi: Any, zi: Any, g: Any, length: Any, goes: Any) -> Any:
            direction = t(xi).steepest(g, relative=True)
            return where(goes, s(xi).project(jax.tree.map(lambda a, d: a + length * d, zi, direction)), zi)

        moved = jax.vmap(climb, in_axes=(*axes, 0, 0, 0, 0, 0))

        def step(z: Any, t: Any) -> tuple[Any, None]:
            slope = jax.grad(lambda z: jnp.sum(loss.reduce(loss.outputs(fixed, rest, z, train=batch)[0], y)))(z)
            return moved(threat, own, x, z, slope, choice.step, t < choice.steps), None

        start = begin(threat, own, x, example_keys(key, jnp.arange(y.shape[0])))
        return stop_gradient(_loops.scan(step, start, jnp.arange(most), length=most)[0])

    return craft


def las_at(
    loss: Loss,
    threat: Threat,
    strategy: tuple[Any, Any, Any],
    *,
    radii: Sequence[int | float] = RADII,
    counts: Sequence[int] = COUNTS,
    lengths: Sequence[int | float] = LENGTHS,
    smoothing: Any = 0.3,
    interval: int = 20,
    ahead: Any = 0.1,
    weights: tuple[Any, Any, Any] = (1.0, 4.0, 2.0),
    judge: Oracle | None = None,
    tx: optax.GradientTransformation | None = None,
    crafting: Crafting = "inference",
) -> Remembering:
    """LAS-AT: a strategy net draws radius, steps and step size of each example's attack, and learns by REINFORCE which make a model robust.

    The loss is the cross-entropy of labels ``1 - smoothing`` for y and ``smoothing / (K - 1)`` for the others at the attacked batch. Every
    ``interval`` batches the strategy draws once more, a copy of the model takes one step of gradient descent on what came of it, and

        reward = weights[0] min(loss at the attacked batch, 10) + weights[1] (robust accuracy of the copy) + weights[2] (its clean accuracy)

    one number for the whole batch, without a baseline, weighs the gradient of the three log-probabilities.

    Args:
      loss: a `jr.Loss` of logits; its reduction is what the attack climbs and the reward measures.
      threat: the perturbations; its radius is the unit of all choices.
      strategy: ``(apply, params, rest)`` of a net with ``len(radii) + len(counts) + len(lengths)`` logits, as `jr.nnx.functional` gives it.
      radii: what it chooses from, in radii of the threat (published: 3/8 to 15/8), >= 0. So witnesses may lie outside of the threat.
      counts: the same of steps (published: 3 to 14), >= 1.
      lengths: the same of step sizes, in radii of the threat (published: 1/8 to 5/8), > 0.
      smoothing: in [0, 1] (published: 0.3).
      interval: batches from one update of the strategy to the next, >= 1 (published: 20).
      ahead: learning rate of the copy's step (published: the current one of the model; here a constant, or `scheduled`).
      weights: of the three rewards (published: 1, 4, 2).
      judge: a lower oracle, the attack on the copy; None: PGD-10 in steps of a quarter radius, the worse of two starts.
      tx: optax transformation of the strategy; None: gradients clipped to norm 1 and descent at rate 1e-4, as published.
      crafting: as of `jr.worst_case`, of the attack by choice; the judge attacks in inference mode.

    Returns:
      A loss that is `Remembering` its strategy net: ``make_step(loss, tx)`` with ``init(params, rest, tx, memory=loss.start)``.

    Raises:
      ValueError: choices that are empty or out of range, another number out of range; at trace time, a strategy with other logits.

    References:
      Jia et al., LAS-AT: adversarial training with learnable attack strategy, CVPR 2022.

    Deviations: a random start is moved into the chosen set before the first gradient, not after it. The copy's step has no weight decay,
      its judge sees running statistics of BatchNorm and keeps the worst point rather than the last. Of the authors' three variants this is
      LAS-PGD-AT: not LAS-TRADES, whose strategy also draws beta, nor LAS-AWP.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> net = (lambda p, rest, x, *, train: (x @ p, rest)), jnp.zeros((2, 5)), None
    >>> robust = las_at(loss, jr.sets.linf(0.1), net, radii=(1, 1.5), counts=(2,), lengths=(0.5, 1), interval=1)
    >>> args, how = (jnp.eye(2), None, jnp.eye(2), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    >>> *_, memory = robust.loss(*args, memory=robust.start, **how)
    >>> print(f"{memory.reward:.1f}", bool(jnp.any(memory.params != 0)))  # the loss there, and 4 + 2: the copy is right on both
    6.4 True
    """
    _check_choices("radii", radii, 0)
    _check_choices("counts", counts, 1)
    _check_choices("lengths", lengths, 0, strictly=True)
    for count in counts:
        check_count(count, "each of counts", "las_at")
    check_count(interval, "interval", "las_at")
    check_share("las_at", smoothing=smoothing)
    if len(strategy) != 3 or not callable(strategy[0]):
        raise ValueError("las_at: strategy is (apply, params, rest) of a net, as jr.nnx.functional(net) gives it")
    apply, first, rest = strategy
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-4)) if tx is None else tx
    check_transformation(tx, "tx")
    judge = restarts(pgd(steps=10), 2) if judge is None else judge
    crafting_by(loss, threat, judge, crafting=crafting, by="las_at")  # refuses at once what cannot be
    attack = chosen_attack(loss, threat, most=max(counts), batch=crafting == "batch")
    heads = tuple(map(jnp.asarray, (radii, counts, lengths)))

    def logs(params: Any, rest: Any, x: Any, *, train: bool) -> Any:
        logits, rest = apply(params, rest, x, train=train)
        sizes = [len(h) for h in heads]
        if logits.shape[-1] != sum(sizes):
            raise ValueError(
                f"las_at: the strategy net has {logits.shape[-1]} logits, and {' + '.join(map(str, sizes))} = {sum(sizes)} choices"
            )
        parts = jnp.split(logits, [sizes[0], sizes[0] + sizes[1]], axis=-1)
        return [jax.nn.log_softmax(part) for part in parts], rest

    def drawn(key: Any, parts: Any) -> tuple[Any, Choice]:
        keys = example_keys(key, jnp.arange(parts[0].shape[0]))
        draw = lambda k, *parts: [jax.random.categorical(jax.random.fold_in(k, i), p) for i, p in enumerate(parts)]  # noqa: E731
        index = jax.vmap(draw)(keys, *parts)
        return index, Choice(*(h[i].astype(jnp.float32) for h, i in zip(heads, index, strict=True)))

    def rewarded(params: Any, rest: Any, x: Any, y: Any, z: Any, key: Any, train: bool) -> Any:
        def at(p: Any) -> Any:
            out, after = loss.outputs(p, rest, z, train=train)
            return jnp.mean(spread_cross_entropy(out, y, smoothing)), after

        slope, after = jax.grad(at, has_aux=True)(params)
        copy = jax.tree.map(lambda p, g: p - ahead * g, params, slope)
        worst = crafting_by(loss, threat, judge, by="las_at")(copy, after, x, y, key=key)
        right = lambda v: jnp.mean(jnp.argmax(loss.outputs(copy, after, v, train=False)[0], -1) == y)  # noqa: E731
        hurt = jnp.clip(jnp.mean(loss.reduce(loss.outputs(params, rest, z, train=False)[0], y)), 0.0, 10.0)
        return weights[0] * hurt + weights[1] * right(worst) + weights[2] * right(x)

    def learnt(params: Any, rest: Any, x: Any, y: Any, key: Any, train: bool, now: Strategy) -> Strategy:
        keys = jax.random.split(key, 3)
        index, choice = drawn(keys[0], logs(now.params, now.rest, x, train=train)[0])
        z = attack(params, rest, x, y, choice, key=keys[1])
        reward = rewarded(params, rest, x, y, z, keys[2], train)

        def policy(p: Any) -> Any:
            parts, after = logs(p, now.rest, x, train=train)
            taken = [jnp.take_along_axis(part, i[:, None], 1) for part, i in zip(parts, index, strict=True)]
            return -reward * sum(map(jnp.mean, taken)), after

        grads, after = jax.grad(policy, has_aux=True)(now.params)
        updates, opt_state = tx.update(grads, now.opt_state, now.params)
        moved: PyTree = optax.apply_updates(now.params, updates)
        return now._replace(params=moved, rest=after, opt_state=opt_state, reward=reward.astype(jnp.float32))

    def remembering(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool, memory: Strategy) -> Any:
        for_learning, for_choice, for_attack = jax.random.split(key, 3)
        fixed, memory = stop_gradient((params, memory))
        learn = partial(learnt, fixed, rest, x, y, for_learning, train)
        memory = jax.lax.cond((memory.batches + 1) % interval == 0, learn, lambda now: now, memory)
        _, choice = drawn(for_choice, logs(memory.params, memory.rest, x, train=False)[0])
        z = attack(params, rest, x, y, choice, key=for_attack)
        out, rest = loss.outputs(params, rest, z, train=train)
        check_classes(y, out.shape[-1], "label", index=False)
        mean = jnp.stack([jnp.mean(c) for c in choice])
        return spread_cross_entropy(out, y, smoothing), rest, memory._replace(batches=memory.batches + 1, chosen=mean)

    start = Strategy(first, rest, tx.init(first), jnp.zeros((), jnp.int32), jnp.zeros(3), jnp.zeros(()))
    return Remembering(remembering, start)


def _check_choices(name: str, values: Sequence[int | float], least: int, *, strictly: bool = False) -> None:
    if not values or not all(v > least or (v == least and not strictly) for v in values):
        raise ValueError(f"las_at: {name} are numbers {'>' if strictly else '>='} {least}, at least one, got {values}")
