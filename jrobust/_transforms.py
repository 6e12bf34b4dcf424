"""Transforms: `worst_case` (a loss becomes a robust loss), `critical_radius` (an oracle becomes a radius)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._checks import check_classes
from jrobust._combinators import iterations
from jrobust._iterate import violated
from jrobust._objective import Loss, Objective
from jrobust._oracle import Bound, Oracle, Radius, RadiusOracle, require
from jrobust._running import of_batch
from jrobust._tree import bind, stop_gradient, where
from jrobust.objectives import classification, worst_logits
from jrobust.sets import Threat, eps_axes, power
from jrobust.typing import Array, Float, Point, Side


def example_keys(key: Any, index: Any) -> Any:
    """One key an example, ``fold_in(key, index_i)``: a result does not depend on batch size or order."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


Crafting = Literal["inference", "batch"]
"""How an oracle of training sees BatchNorm; see `worst_case`."""


@dataclasses.dataclass(frozen=True)
class AtWitnesses:
    """A robust loss in its two stages, so that others can work between them (`jr.training.awp`): callable as one.

    Attributes:
      craft: ``craft(params, rest, x, y, *, key) -> z[B, ...]``, witnesses, constants to a derivative.
      at: ``at(params, rest, x, z, y, *, key, train) -> ([B], rest')``, the loss there.
    """

    craft: Callable[..., Any]
    at: Callable[..., Any]

    def __call__(self, params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        """The robust loss ([B], rest')."""
        z = self.craft(params, rest, x, y, key=key)
        return self.at(params, rest, x, z, y, key=key, train=train)


@dataclasses.dataclass(frozen=True)
class AtBounds:
    """The same by a bound (`jr.training.shi` works between the stages).

    Attributes:
      bound: ``bound(params, rest, x, y, *, key, train) -> (Bound, rest')``, each array of it [B, ...].
      at: ``at(bound, y) -> [B]``, the loss at the worst-case logits.
    """

    bound: Callable[..., Any]
    at: Callable[[Bound, Any], Any]

    def __call__(self, params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        """The robust loss ([B], rest')."""
        bound, rest = self.bound(params, rest, x, y, key=key, train=train)
        return self.at(bound, y), rest


def crafting_by(
    loss: Loss | Callable[..., Any],
    threat: Threat,
    oracle: Oracle,
    *,
    crafting: Crafting = "inference",
    by: str = "worst_case",
) -> Callable[..., Any]:
    """`AtWitnesses.craft` of an attack, once it is known to serve."""
    require(("lower",), oracle, by=by)
    check_part_of_a_loss(oracle, threat, by)
    _check_crafting(crafting, by)
    solve = _batch_witnesses if crafting == "batch" else _witnesses

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        return stop_gradient(solve(loss, threat, oracle, stop_gradient(params), rest, x, y, key))

    return craft


def at_witnesses(
    loss: Loss | Callable[..., Any], threat: Threat, oracle: Oracle, *, crafting: Crafting = "inference"
) -> AtWitnesses:
    """`worst_case` by an attack."""

    def at(params: Any, rest: Any, x: Any, z: Any, y: Any, *, key: Any, train: bool) -> Any:
        del x
        if isinstance(loss, Loss):
            return loss(params, rest, z, y, train=train)
        return loss(params, rest, z, y, key=key, train=train)

    return AtWitnesses(crafting_by(loss, threat, oracle, crafting=crafting), at)


def _check_crafting(crafting: str, by: str) -> None:
    if crafting not in ("inference", "batch"):
        raise ValueError(f"{by}: crafting is 'inference' or 'batch', got {crafting!r}")


def check_part_of_a_loss(oracle: Oracle, threat: Threat, by: str) -> None:
    """Raise where an oracle cannot be part of a compiled loss."""
    if any(it.until is not None for it in iterations(oracle, threat.name)):
        raise ValueError(
            f"{by}: {oracle.name} stops early once a violation is found; use jr.attacks.pgd or another attack without early stop"
        )
    if oracle.host:
        raise TypeError(f"{by}: {oracle.name} runs on the host and cannot be part of a compiled loss")


def worst_case(
    loss: Loss | Callable[..., Any],
    threat: Threat,
    oracle: Oracle,
    *,
    crafting: Crafting = "inference",
) -> Callable[..., Any]:
    """Turn a loss into a robust loss of the same shape: ``sup { loss(z) : z in threat(x) }`` as the oracle sees it.

    With an attack this is adversarial training (the loss once more at the stopped witnesses), with an upper bound certified
    training (the loss at the worst-case logits, gradient through the bound), with `mix` the expressive losses.

    Args:
      loss: a `Loss`, or (lower oracles only) any ``loss(params, rest, x, y, *, key, train) -> ([B], rest')``.
      threat: example -> set; its eps may be traced, or [B].
      oracle: any oracle. Early stop is refused: a loss is always >= 0, so "stop once violated" would stop at once.
      crafting: how a lower oracle sees BatchNorm. "inference": one example at a time, running statistics. "batch": the batch
        is a single point of a product set and crafting sees its statistics (`Loss` with train=True, no update kept). An upper
        oracle bounds each example with the running statistics that the clean batch's pass in training mode returned, or ("batch")
        with that batch's own, through which gradients flow.

    Returns:
      ``robust_loss(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. With an upper oracle and ``train=True``
      the clean batch passes once in training mode, for its statistics.

    Guarantee: per example, below (lower) or above (upper, for a monotone ``reduce``) the true worst-case loss of the model in
      the mode it was crafted in.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = worst_case(loss, jr.sets.linf(0.5), jr.attacks.fgsm())
    >>> args = jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> print(robust(*args, key=jax.random.key(0), train=True)[0])  # margin 1 - 2 * 0.5 = 0
    [0.6931472]
    """
    if oracle.side == "lower":
        return at_witnesses(loss, threat, oracle, crafting=crafting)
    return at_bounds(loss, threat, oracle, crafting=crafting)


def at_bounds(loss: Any, threat: Threat, oracle: Oracle, *, crafting: Crafting = "inference") -> AtBounds:
    """`worst_case` by a bound, or by an estimate."""
    check_part_of_a_loss(oracle, threat, "worst_case")
    _check_crafting(crafting, "worst_case")
    if not isinstance(loss, Loss):
        raise TypeError(
            f"worst_case: a plain callable loss is accepted with lower oracles only, {oracle.name} has side {oracle.side}; "
            "make a Loss, e.g. jr.objectives.cross_entropy(apply)"
        )
    apply = loss

    def bound(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> tuple[Bound, Any]:
        seen = after = rest
        if train:
            out, after = apply.outputs(params, rest, x, train=True)
            check_classes(y, out.shape[-1], "label", index=False)
            seen = after
        if train and crafting == "batch":
            seen = of_batch(lambda r: apply.outputs(params, r, x, train=True), rest)

        def one(k: Any, xi: Any, yi: Any, t: Threat) -> Bound:
            return oracle.solve(k, classification(_one(apply, params, seen), yi), t(xi))

        return over_examples(one, threat, key, x, y), after

    def reduced(info: dict[str, Any], yi: Any) -> Float[Array, ""]:
        parts = info.get("parts", info["elements"][None])
        logits = jax.vmap(lambda elements: worst_logits(elements, yi))(parts)
        losses = apply.reduce(logits, jnp.broadcast_to(yi, parts.shape[:1]))
        if "exponents" in info:
            return jnp.exp(jnp.vdot(info["exponents"], jnp.log(jnp.maximum(losses, jnp.finfo(losses.dtype).tiny))))
        return jnp.vdot(info["weights"], losses) if "weights" in info else losses[0]

    return AtBounds(bound, lambda bound, y: jax.vmap(reduced)(bound.info, y))


def _one(loss: Loss, params: Any, rest: Any) -> Callable[[Point], Any]:
    """The model on one example, inference mode."""
    return lambda z: loss.outputs(params, rest, jax.tree.map(lambda leaf: leaf[None], z), train=False)[0][0]


def over_examples(one: Callable[..., Any], threat: Threat, key: Any, x: Any, y: Any, *more: Any) -> Any:
    """``one(key_i, x_i, y_i, threat_i, *more_i)`` of every example."""
    n = jax.tree.leaves(x)[0].shape[0]
    keys = example_keys(key, jnp.arange(n))
    return jax.vmap(one, in_axes=(0, 0, 0, eps_axes(threat, x), *(0 for _ in more)))(keys, x, y, threat, *more)


def _witnesses(loss: Any, threat: Threat, oracle: Oracle, params: Any, rest: Any, x: Any, y: Any, key: Any) -> Any:
    def one(k: Any, xi: Any, yi: Any, t: Threat) -> Any:
        if isinstance(loss, Loss):
            f = Objective(_one(loss, params, rest), lambda out: loss.reduce(out[None], yi[None]), label=yi)
        else:
            batched = lambda z: loss(params, rest, jax.tree.map(lambda a: a[None], z), yi[None], key=k, train=False)[0]  # noqa: E731
            f = Objective(batched, lambda out: out, label=yi)
        return oracle.solve(k, f, t(xi)).witness

    return over_examples(one, threat, key, x, y)


def _batch_witnesses(
    loss: Any, threat: Threat, oracle: Oracle, params: Any, rest: Any, x: Any, y: Any, key: Any
) -> Any:
    def losses(z: Any) -> Any:
        if isinstance(loss, Loss):
            return loss.reduce(loss.outputs(params, rest, z, train=True)[0], y)
        return loss(params, rest, z, y, key=key, train=True)[0]

    f = Objective(losses, lambda out: jnp.sum(out, keepdims=True))
    return oracle.solve(key, f, power(threat)(x)).witness


def _bisect(oracle: Oracle, family: Any, upper: Any, key: Any, f: Any, threat: Any, x: Any, *, steps: int) -> Radius:
    family = threat if family is None else family
    at = family.family if isinstance(family, Threat) else family
    upper = jnp.asarray(upper, jnp.result_type(float))
    attack = oracle.side == "lower"

    def breaks(i: Any, eps: Any) -> tuple[Array, Any]:
        b = oracle.solve(jax.random.fold_in(key, i), f, at(eps)(x))
        return violated(b.value), b.witness if attack else jnp.zeros(())

    broken0, witness0 = breaks(0, jnp.zeros_like(upper))
    broken1, witness1 = breaks(1, upper)
    # [low, high]: low holds, high is broken, as far as the oracle can tell
    low, high = jnp.where(broken1, 0.0, upper), jnp.where(broken1, upper, jnp.inf)
    high, witness = jnp.where(broken0, 0.0, high), where(broken0, witness0, witness1)

    def halve(i: Any, carry: Any) -> Any:
        low, high, witness = carry
        eps = 0.5 * (low + jnp.minimum(high, upper))
        broken, z = breaks(i, eps)
        keep = ~jnp.isfinite(high) | (high <= low)
        low, high = jnp.where(broken | keep, low, eps), jnp.where(broken & ~keep, eps, high)
        return low, high, where(broken & ~keep, z, witness)

    low, high, witness = _loops.fori_loop(2, 2 + steps, halve, (low, high, witness))
    low = jnp.where(broken0, 0.0, low)
    if attack:
        return Radius(high, witness, {"oracle_calls": jnp.asarray(2 + steps)})
    return Radius(low, None, {"oracle_calls": jnp.asarray(2 + steps)})


def critical_radius(oracle: Oracle, family: Any = None, *, upper: Any, steps: int = 20) -> RadiusOracle:
    """How far until it breaks, by bisection over eps with any oracle.

    Args:
      oracle: a lower oracle (attack) bounds the radius from above: the least eps at which it found a witness, ``+inf`` if none
        up to ``upper``. An upper oracle (certificate) bounds it from below: the largest eps that it proved, 0 if none.
      family: ``eps -> threat``, or a threat (which carries its family); None takes the threat given to ``solve``.
      upper: the largest eps to try, > 0; traced.
      steps: halvings; the answer is within ``upper / 2**steps`` of where the oracle changes its mind, if it does so once.

    Returns:
      A `RadiusOracle` of side "upper" for an attack, "lower" for a certificate.

    Guarantee: every bound stands at the very eps where the oracle gave it, so no monotonicity is assumed.

    Raises:
      ValueError: an estimate, which bounds nothing.
    """
    require(("lower", "upper"), oracle, by="critical_radius")
    if isinstance(upper, int | float) and not upper > 0:
        raise ValueError(f"critical_radius: upper must be > 0, got {upper}")
    side: Side = {"lower": "upper", "upper": "lower"}.get(oracle.side, "exact")  # pyright: ignore
    if side == "exact":
        oracle, side = dataclasses.replace(oracle, side="upper"), "lower"
    run = (
        bind(_bisect, oracle, family, upper, steps=steps)
        if isinstance(family, Threat | None)
        else _closed(oracle, family, upper, steps)
    )
    return RadiusOracle(side, run, oracle.confidence, host=oracle.host, name=f"critical_radius({oracle.name})")


def _closed(oracle: Oracle, family: Any, upper: Any, steps: int) -> Any:
    """A family given as a plain function is structure, not data."""
    return bind(lambda o, u, *args: _bisect(o, family, u, *args, steps=steps), oracle, upper)
