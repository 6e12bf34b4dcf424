"""Baselines of their time, kept to be measured against: ensemble and bilateral adversarial training, feature scattering."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._checks import check_classes
from jrobust._objective import Loss
from jrobust._oracle import Oracle
from jrobust._transforms import AtWitnesses, Crafting, crafting_by, example_keys
from jrobust._tree import as_pytree, stop_gradient
from jrobust.attacks import rfgsm
from jrobust.sets import Threat, eps_axes
from jrobust.training._paired import both, inner
from jrobust.training._softened import spread_cross_entropy
from jrobust.typing import Array, Float, Int


def ensemble(
    loss: Loss,
    threat: Threat,
    sources: Sequence[Callable[[Any], Any]],
    *,
    weight: Any = 0.5,
    attack: Oracle | None = None,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Ensemble adversarial training: each batch is attacked on one of several fixed models, or on the trained one itself. Historic.

    ``(1 - weight) CE(x, y) + weight CE(x', y)``. Made against attacks that are carried over from other models; against an attack
    on the model itself it protects no better than the single steps it is made of.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations.
      sources: models that do not change, ``x[B, ...] -> logits[B, K]`` in inference mode, at least one.
      weight: of the adversarial half (published: 0.5).
      attack: a lower oracle; None: R+FGSM with half of the radius each.
      crafting: as of `jr.worst_case`.

    References:
      Tramer et al., Ensemble adversarial training: attacks and defenses, ICLR 2018.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = ensemble(loss, jr.sets.linf(0.1), [lambda x: x, lambda x: -x])
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    if not sources:
        raise ValueError("ensemble takes at least one source, a model x[B, ...] -> logits[B, K]")
    attack = rfgsm() if attack is None else attack

    def of(source: Callable[[Any], Any]) -> Loss:
        return Loss(lambda params, rest, x, *, train: (source(x), rest), loss.reduce)

    crafts = [crafting_by(one, threat, attack, crafting=crafting, by="ensemble") for one in (loss, *map(of, sources))]

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        which, key = jax.random.split(key)
        choices = [lambda k, craft=craft: craft(params, rest, x, y, key=k) for craft in crafts]
        return jax.lax.switch(jax.random.randint(which, (), 0, len(choices)), choices, key)

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        clean, adversarial, rest = both(loss, params, rest, x, z, y, train=train)
        return (1.0 - weight) * loss.reduce(clean, y) + weight * loss.reduce(adversarial, y), rest

    return AtWitnesses(craft, at)


def cosine_costs(a: Float[Array, "N K"], b: Float[Array, "M K"]) -> Float[Array, "N M"]:
    """``1 - cos(a_i, b_j)``, at least 0.

    >>> print(jnp.round(cosine_costs(jnp.eye(2), jnp.eye(2)), 3))
    [[0. 1.]
     [1. 0.]]
    """
    unit = lambda v: v / jnp.sqrt(jnp.maximum(jnp.sum(v * v, -1, keepdims=True), 1e-12))  # noqa: E731
    return jnp.maximum(1.0 - unit(a) @ unit(b).T, 0.0)


def transport(costs: Float[Array, "N M"], *, regularisation: Any = 0.01, steps: int = 100) -> Float[Array, "N M"]:
    """The entropic transport plan between uniform weights, by Sinkhorn's iterations on logarithms.

    >>> print(jnp.round(transport(1.0 - jnp.eye(2)), 3))
    [[0.5 0. ]
     [0.  0.5]]
    """
    n, m = costs.shape
    kernel = -costs / regularisation

    def step(v: Any, _: None) -> Any:
        u = -jnp.log(n) - jax.nn.logsumexp(kernel + v[None], axis=1)
        v = -jnp.log(m) - jax.nn.logsumexp(kernel + u[:, None], axis=0)
        return v, u

    v, u = _loops.scan(step, jnp.zeros(m, costs.dtype), None, length=steps)
    return jnp.exp(kernel + u[-1][:, None] + v[None])


def feature_scattering(
    loss: Loss,
    threat: Threat,
    *,
    smoothing: Any = 0.5,
    regularisation: Any = 0.01,
    iterations: int = 100,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Feature scattering: one step that drives the logits of the whole batch away from the clean ones, in optimal transport. Historic.

    The attack does not see labels: from a random point it climbs the transport cost between the two sets of logits (cosine distance).
    The loss is the cross-entropy of labels ``1 - smoothing`` for y and ``smoothing / (K - 1)`` for the others. Much of its robustness
    under PGD is gradient masking: judge it by AutoAttack.

    Args:
      loss: a `jr.Loss` of logits; its reduction is not used.
      threat: the perturbations.
      smoothing: in [0, 1].
      regularisation, iterations: of the transport plan.
      crafting: as of `jr.worst_case`.

    References:
      Zhang & Wang, Defense against adversarial attacks using feature scattering-based adversarial training, NeurIPS 2019.

    Deviations: the plan is a constant to the gradient, as it may be at its optimum; all iterations run, where the authors stop early.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = feature_scattering(loss, jr.sets.linf(0.1), smoothing=0.0)
    >>> robust(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0), train=True)[0].shape
    (2,)
    """
    if crafting not in ("inference", "batch"):
        raise ValueError(f"feature_scattering: crafting is 'inference' or 'batch', got {crafting!r}")

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        axes, fixed = eps_axes(threat, x), stop_gradient(params)
        logits = lambda z: loss.outputs(fixed, rest, z, train=crafting == "batch")[0]  # noqa: E731
        start = jax.vmap(lambda t, xi, k: t(xi).sample(k), in_axes=(axes, 0, 0))
        z = start(threat, x, example_keys(key, jnp.arange(y.shape[0])))
        clean = logits(x)

        def distance(z: Any) -> Any:
            costs = cosine_costs(clean, logits(z))
            plan = transport(stop_gradient(costs), regularisation=regularisation, steps=iterations)
            return jnp.vdot(stop_gradient(plan), costs)

        def stepped(t: Threat, xi: Any, zi: Any, g: Any) -> Any:
            s = t(xi)
            return s.project(jax.tree.map(jnp.add, zi, s.steepest(g, relative=True)))

        moved = jax.vmap(stepped, in_axes=(axes, 0, 0, 0))(threat, x, z, jax.grad(distance)(z))
        return stop_gradient(moved)

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del x, key
        out, rest = loss.outputs(params, rest, z, train=train)
        check_classes(y, out.shape[-1], "label", index=False)
        return spread_cross_entropy(out, y, smoothing), rest

    return AtWitnesses(craft, at)


def adversarial_labels(
    logits: Float[Array, "B K"], y: Int[Array, " B"], *, margin: Any = 9.0, gamma: Any = 0.01
) -> Float[Array, "B K"]:
    """Labels whose mass leaves y for the classes that the model believes in least, until y has ``margin`` times the largest other entry.

    With ``v = -log p``, the gradient of the cross-entropy by the label, the others' entries are in proportion to ``v_k - min v + gamma``.

    >>> labels = adversarial_labels(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0]), margin=4.0, gamma=0.25)
    >>> print(f"{labels[0, 0]:.3f} {labels[0, 1]:.3f} {labels[0, 2]:.3f}")  # the most confusing class gets least
    0.769 0.038 0.192
    """
    label = jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
    v = -jnp.log(jax.nn.softmax(logits) + 1e-8)
    least = jnp.min(jnp.where(label, jnp.inf, v), -1, keepdims=True)
    share = jnp.where(label, 0.0, v - least + gamma)
    total = jnp.sum(share, -1, keepdims=True)
    gone = 1.0 / (1.0 + margin * jnp.max(share, -1, keepdims=True) / total)
    return jnp.where(label, 1.0 - gone, gone * share / total)


def _towards(loss: Loss) -> Loss:
    """What a targeted attack climbs: minus the loss of the class that it wants."""
    return Loss(loss.outputs, as_pytree(lambda out, target: -loss.reduce(out, target)))


def bilateral(
    loss: Loss,
    threat: Threat,
    *,
    step: Any = 1.0,
    margin: Any = 9.0,
    gamma: Any = 0.01,
    crafting: Crafting = "inference",
) -> AtWitnesses:
    """Bilateral adversarial training: one step towards the most confusing class, and labels that are adversarial too. Historic.

    From a random point one step of steepest descent of the loss of the class that, y aside, the model thinks most likely at the clean
    example. The loss is the cross-entropy of labels that leave y for the least likely classes (see the reference); the model at the clean
    example decides both. Single steps and softened labels both flatter PGD: judge it by AutoAttack.

    Args:
      loss: a `jr.Loss` of logits, whose reduction the attack descends at the class that it wants.
      threat: the perturbations.
      step: length of the step in radii.
      margin: beta > 0, how many times the largest other entry y keeps in the labels (published for 10 classes: 9, at least a half).
      gamma: > 0, evens out the others' entries (published: 0.01).
      crafting: as of `jr.worst_case`, of the attack and the labels.

    Returns:
      A robust loss in two stages, as of `paired`; the clean batch passes in the mode of the crafting alone.

    Raises:
      ValueError: ``margin`` or ``gamma`` out of range.

    References:
      Wang & Zhang, Bilateral adversarial training: towards fast training of more robust models against adversarial attacks, ICCV 2019.

    Deviations: formulas and constants are those of the authors' code; the length of its one step is an option there (2/255 by default, in a
      multi-step attack) and our default, one radius, we could not verify. The random start lies within the clip.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> args, how = (jnp.eye(3), None, jnp.array([[1.0, 0.5, 0.0]]), jnp.array([0])), {"key": jax.random.key(0)}
    >>> z = bilateral(loss, jr.sets.linf(0.1)).craft(*args, **how)
    >>> print(f"{z[0, 1]:.1f}")  # towards class 1
    0.6
    """
    for name, value in (("margin", margin), ("gamma", gamma)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"bilateral: {name} is > 0, got {value}")
    attack = inner(1, "random", share=step)
    climb = crafting_by(_towards(loss), threat, attack, crafting=crafting, by="bilateral")

    def believed(params: Any, rest: Any, x: Any) -> Any:
        return stop_gradient(loss.outputs(stop_gradient(params), rest, x, train=crafting == "batch")[0])

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        out = believed(params, rest, x)
        check_classes(y, out.shape[-1], "label", index=False)
        others = jnp.where(jax.nn.one_hot(y, out.shape[-1], dtype=bool), -jnp.inf, out)
        return climb(params, rest, x, jnp.argmax(others, -1), key=key)

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del key
        labels = adversarial_labels(believed(params, rest, x), y, margin=margin, gamma=gamma)
        out, rest = loss.outputs(params, rest, z, train=train)
        return -jnp.sum(labels * jax.nn.log_softmax(out), -1), rest

    return AtWitnesses(craft, at)
