"""Oracle -> Oracle. Sides are checked when a combination is made, not when it runs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._iterate import Iteration, improves, violated
from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle, joint_confidence, require
from jrobust._tree import bind, is_traced, stop_gradient, where
from jrobust.typing import Array, Side


def _name(verb: str, *oracles: Oracle) -> str:
    return f"{verb}({', '.join(o.name for o in oracles)})"


def _passes(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """The passes of several runs, added up."""
    return {
        k: sum(info[k] for info in infos if k in info) for k in ("forwards", "backwards") if any(k in i for i in infos)
    }


def _restarts(oracle: Oracle, key: Any, f: Any, s: Any, *, n: int) -> Bound:
    bounds = jax.vmap(lambda k: oracle.solve(k, f, s))(jax.random.split(key, n))
    i = jnp.argmax(bounds.value)  # the first NaN, if any, is the largest
    chosen = jax.tree.map(lambda leaf: leaf[i], bounds)
    return chosen._replace(
        info={k: v.sum() if k in ("forwards", "backwards") else v[i] for k, v in bounds.info.items()}
    )


def restarts(oracle: Oracle, n: int) -> Oracle:
    """The worst of ``n`` independent runs of a lower oracle, as one vmapped axis.

    >>> import jrobust as jr
    >>> jr.restarts(jr.attacks.pgd(steps=10), 5).side
    'lower'
    """
    require(("lower",), oracle, by="restarts")
    check_count(n, "n", "restarts")
    if oracle.host:
        raise TypeError(f"restarts vmaps its oracle; {oracle.name} runs on the host")
    return Oracle("lower", bind(_restarts, oracle, n=n), oracle.confidence, name=f"{oracle.name} x{n}")


def _all(oracles: tuple[Oracle, ...], key: Any, f: Any, s: Any, *, side: Side) -> Bound:
    bounds = (_comparable(o.solve(jax.random.fold_in(key, i), f, s), side) for i, o in enumerate(oracles))
    return functools.reduce(functools.partial(merge, side), bounds)


def _together(verb: str, side: Side, oracles: tuple[Oracle, ...]) -> Oracle:
    """Every oracle runs, and their bounds are merged: the one mechanism of `strongest` and `tightest`."""
    if not oracles:
        raise ValueError(f"{verb} takes at least one oracle")
    require((side,), *oracles, by=verb)
    host = any(o.host for o in oracles)
    return Oracle(
        side, bind(_all, oracles, side=side), joint_confidence(*oracles), host=host, name=_name(verb, *oracles)
    )


def strongest(*oracles: Oracle) -> Oracle:
    """The largest of several lower bounds: every attack runs, the worst witness wins.

    Raises:
      ValueError: an oracle whose side is not "lower" (or "exact").
    """
    return _together("strongest", "lower", oracles)


def _elements(bound: Bound) -> Array:
    """Elementwise upper bounds; one that could not be computed (NaN) is +inf."""
    elements = bound.info.get("elements", bound.value)
    return jnp.where(jnp.isnan(elements), jnp.inf, elements)


def tightest(*oracles: Oracle) -> Oracle:
    """The smallest of several upper bounds, elementwise before the maximum is taken.

    Guarantee: an upper bound, with confidence ``max(0, 1 - sum(1 - c_i))``.

    Raises:
      ValueError: an oracle whose side is not "upper" (or "exact").
    """
    return _together("tightest", "upper", oracles)


def decided(side: Side, value: Any) -> Any:
    """Whether a bound settles its example: a violation found ("lower"), or the property proven ("upper")."""
    return violated(value) if side == "lower" else value < 0


@jax.jit
def _compiled(oracle: Oracle, key: Any, f: Any, s: Any) -> Bound:
    return oracle.solve(key, f, s)


def ask(oracle: Oracle, key: Any, f: Any, s: Any) -> Bound:
    """`solve`, compiled where nothing is traced yet: one program for all objectives of one form."""
    by_itself = oracle.host or len(parts(oracle)) > 1 or not isinstance(f, Objective) or is_traced(oracle, key, f, s)
    return oracle.solve(key, f, s) if by_itself else _compiled(oracle, key, f, s)


def parts(oracle: Oracle) -> tuple[Oracle, ...]:
    """The stages of a cascade; of any other oracle, itself."""
    stages = oracle.stages
    return stages if stages and all(isinstance(stage, Oracle) for stage in stages) else (oracle,)


def decided_at(oracle: Oracle, bound: Bound, side: Side) -> Array:
    """Which of an oracle's `parts` decided, -1 if none did."""
    stage = bound.info["stage"] if len(parts(oracle)) > 1 else 0
    return jnp.where(decided(side, bound.value), stage, -1).astype(jnp.int32)


def _cascade(oracles: tuple[Oracle, ...], key: Any, f: Any, s: Any, *, side: Side) -> Bound:
    def run(oracle: Oracle, i: Any, so_far: tuple[Bound, Any]) -> tuple[Bound, Any]:
        """One more stage, and which stage decided (-1: none so far)."""
        bound, stage = so_far
        bound = merge(side, bound, _comparable(oracle.solve(jax.random.fold_in(key, i), f, s), side))
        return bound, jnp.where((stage < 0) & decided(side, bound.value), i, stage)

    if any(o.host for o in oracles) or not is_traced(oracles, key, f, s):
        found = _one_by_one(oracles, key, f, s, side)
        if found is not None:
            return found
    so_far = _undecided(oracles[0], key, f, s, side), jnp.asarray(-1, jnp.int32)
    if len(oracles) > 1 and _alike(oracles):  # one loop, one program
        stack = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *oracles)

        def further(carry: Any) -> Any:
            i, so_far = carry
            return i + 1, run(jax.tree.map(lambda leaf: leaf[i], stack), i, so_far)

        start = jnp.asarray(0, jnp.int32), so_far
        _, so_far = _loops.while_loop(lambda c: (c[0] < len(oracles)) & (c[1][1] < 0), further, start)
    else:
        for i, oracle in enumerate(oracles):

            def next_stage(so_far: Any, i: int = i, oracle: Oracle = oracle) -> Any:
                return run(oracle, jnp.asarray(i, jnp.int32), so_far)

            so_far = next_stage(so_far) if i == 0 else jax.lax.cond(so_far[1] >= 0, lambda b: b, next_stage, so_far)
    bound, decided_by = so_far
    return bound._replace(info=bound.info | {"stage": decided_by})


def _one_by_one(oracles: tuple[Oracle, ...], key: Any, f: Any, s: Any, side: Side) -> Bound | None:
    """The same on concrete arrays: a stage that is not asked is not even compiled. None: ``f`` closes over tracers."""
    bound, stage = None, -1
    for i, oracle in enumerate(oracles):
        new = _comparable(ask(oracle, jax.random.fold_in(key, i), f, s), side)
        if is_traced(new.value):
            return None
        bound = new if bound is None else merge(side, bound, new)
        if decided(side, bound.value):
            stage = i
            break
    return None if bound is None else bound._replace(info=bound.info | {"stage": jnp.asarray(stage, jnp.int32)})


def _alike(oracles: tuple[Oracle, ...]) -> bool:
    """Whether the oracles are one program with other numbers."""
    avals = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), o) for o in oracles]
    return all(other == avals[0] for other in avals[1:])


def _undecided(oracle: Oracle, key: Any, f: Any, s: Any, side: Side) -> Bound:
    """What is known before the first stage, in the form of its answer."""
    shape = jax.eval_shape(lambda: _comparable(oracle.solve(key, f, s), side))
    unknown = -jnp.inf if side == "lower" else jnp.inf
    blank = jax.tree.map(lambda a: jnp.full(a.shape, unknown if a.dtype.kind == "f" else 0, a.dtype), shape)
    return blank._replace(witness=None if blank.witness is None else s.center)


def _comparable(b: Bound, side: Side) -> Bound:
    """A bound with the same structure from every stage, so that a cond can choose."""
    if side == "upper":
        elements = jnp.atleast_1d(_elements(b))
        return Bound(jnp.max(elements), None, {"elements": elements})
    counts = {k: jnp.asarray(b.info.get(k, 0), jnp.int32) for k in ("forwards", "backwards")}
    return Bound(b.value, b.witness, counts)


def merge(side: Side, a: Bound, b: Bound) -> Bound:
    """Two bounds of one stage after another: the worse witness, or the elementwise smaller upper bound."""
    if side == "upper":
        elements = jnp.minimum(a.info["elements"], b.info["elements"])
        return Bound(jnp.max(elements), None, {"elements": elements})
    better = improves(b.value, a.value)
    return Bound(jnp.where(better, b.value, a.value), where(better, b.witness, a.witness), _passes([a.info, b.info]))


def cascade(*oracles: Oracle) -> Oracle:
    """Later oracles run only where earlier ones left the example undecided.

    Lower oracles stop at the first violation (an attack suite), upper ones at the first proof (a ladder of bounds). An
    oracle like any other when called (on concrete arrays stage by stage, each compiled when first asked); its ``stages`` let a
    driver run each stage on the undecided examples alone (a vmapped cond pays for all). Stages that differ in numbers alone
    compile once. ``info["stage"]`` is the stage that decided, -1 if none did. For attack-then-bound see `verify`.

    Raises:
      ValueError: sides that differ.
    """
    if not oracles:
        raise ValueError("cascade takes at least one oracle")
    side: Side = "upper" if oracles[0].side == "upper" else "lower"
    if any(o.side not in (side, "exact") for o in oracles):
        raise ValueError(
            f"cascade takes oracles of one side, got {[o.side for o in oracles]}; an attack followed by a bound is jr.verify"
        )
    return Oracle(
        side,
        bind(_cascade, oracles, side=side),
        joint_confidence(*oracles),
        stages=oracles,
        host=any(o.host for o in oracles),
        name=_name("cascade", *oracles),
    )


def _margins_at(f: Any, bound: Bound) -> Array:
    """The objective's elements by either kind of bound; at a witness they carry the model's gradient."""
    return bound.info["elements"] if bound.witness is None else f(stop_gradient(bound.witness))


def _mix(weight: Any, a: Oracle, b: Oracle, key: Any, f: Any, s: Any, *, losses: bool | str) -> Bound:
    keys = jax.random.split(key)
    bounds = a.solve(keys[0], f, s), b.solve(keys[1], f, s)
    parts = jnp.stack([_margins_at(f, bound) for bound in bounds])
    weights = jnp.stack([1.0 - jnp.asarray(weight, parts.dtype), jnp.asarray(weight, parts.dtype)])
    elements = jnp.tensordot(weights, parts, 1)
    how = {"parts": parts, "exponents" if losses == "product" else "weights": weights} if losses else {}
    info = {"elements": elements} | how
    return Bound(jnp.max(elements), None, info)


def mix(a: Oracle, b: Oracle, weight: Any, *, losses: bool | str = False) -> Oracle:
    """``(1 - weight) a + weight b``, between an attack and a bound: the expressive losses; bounds nothing (side "estimate").

    Args:
      a, b: usually an attack and an upper bound.
      weight: of ``b``, in [0, 1]; traced.
      losses: mix the losses of the two instead of their margins (MTL-IBP instead of CC-IBP); "product": multiply them, with the weights
        as exponents (EXP-IBP).

    Returns:
      An `Oracle` of side "estimate": fine in `worst_case`, refused by every metric.

    References:
      De Palma et al., Expressive losses for verified robustness via convex combinations, ICLR 2024.
    """
    require(("lower", "upper", "estimate"), a, b, by="mix")
    if losses not in (False, True, "product"):
        raise ValueError(f"mix: losses is False, True or 'product', got {losses!r}")
    return Oracle("estimate", bind(_mix, weight, a, b, losses=losses), name=_name("mix", a, b))


def _shrink(factor: Any, oracle: Oracle, about: Oracle | None, key: Any, f: Any, s: Any) -> Bound:
    if about is None:
        return oracle.solve(key, f, s.scale(factor))
    if s.geometry.name not in _MOVABLE:
        raise ValueError(
            f"shrink(about=) moves norm balls ({', '.join(_MOVABLE)}), got a set of kind {s.geometry.name!r}"
        )
    keys = jax.random.split(key)
    z = stop_gradient(about.solve(keys[0], f, s.scale(1.0 - factor)).witness)
    return oracle.solve(keys[1], f, dataclasses.replace(s.scale(factor), center=z))


_MOVABLE = ("linf", "l2", "l1")


def shrink(oracle: Oracle, factor: Any, *, about: Oracle | None = None) -> Oracle:
    """The oracle on the set scaled by ``factor`` <= 1 about its centre: an attack stays a lower bound, an upper bound becomes an estimate.

    Args:
      oracle: what looks at the small set.
      factor: its size, in [0, 1]; traced.
      about: an attack; the small set lies about its witness in the set of ``1 - factor`` radii, so inside of the whole (SABR).

    Raises:
      ValueError: a concrete factor outside [0, 1] (a larger set's attack would bound nothing); with ``about`` a set that is no norm ball.

    References:
      Mueller et al., Certified training: small boxes are all you need, ICLR 2023.
    """
    if isinstance(factor, int | float) and not 0 <= factor <= 1:
        raise ValueError(f"shrink: factor must lie in [0, 1], got {factor}")
    if about is not None:
        require(("lower",), about, by="shrink(about=)")
    side: Side = "lower" if oracle.side == "lower" else "estimate"
    host = oracle.host or (about is not None and about.host)
    return Oracle(
        side, bind(_shrink, factor, oracle, about), oracle.confidence, host=host, name=_name("shrink", oracle)
    )


def iterations(oracle: Any, kind: str) -> list[Iteration]:
    """Every `Iteration` inside an oracle on a set of this kind, however deeply combined."""

    def adapts(node: Any) -> bool:
        return isinstance(node, Oracle) and node.adapt is not None

    found = jax.tree.leaves(oracle, is_leaf=lambda node: isinstance(node, Iteration) or adapts(node))
    inside = [iterations(node.adapt(kind, 0), kind) for node in found if adapts(node)]
    return [node for node in found if isinstance(node, Iteration)] + [it for part in inside for it in part]
