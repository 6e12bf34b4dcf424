"""The choices that a bound was made with, as a certificate records them: slopes, stage by stage, and multipliers of cuts."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.bounds._backward import Bounded, pair
from jrobust.bounds._domains import Domain, walked_over
from jrobust.bounds._lowering import CURVES, EXTREMES, Lowered
from jrobust.bounds._methods import method_of
from jrobust.bounds._optimise import optimised
from jrobust.bounds._problem import Problem
from jrobust.bounds._propagate import Method, posed, row
from jrobust.bounds._tables import ends
from jrobust.sets import box

_AT_ONCE = 32  # parts of the domain


def chain(method: Any) -> list[Any]:
    """The methods whose walks a method's last passes are built on, the first one first."""
    walks: list[Any] = []
    method = method if getattr(method, "intermediates", None) is None else method.intermediates
    while method is not None:
        walks.insert(0, method)
        method = getattr(method, "intermediates", None)
    return walks


def _raw(problem: Problem, by: Bounded, theta: dict[int, Any]) -> dict[int, Any]:
    """By equation, its free parameters, and of extremes where their far line is constant; of curves the slopes below and above."""
    return {k: _shown(problem, by, k, t) for k, t in theta.items()}


def _shown(problem: Problem, by: Bounded, k: int, theta: Any) -> Any:
    eqn = problem.program.equations[k]
    aval, values = eqn.avals[0], [by.env[i] for i in eqn.inputs]
    below_and_above = pair(eqn, values, by.env[eqn.outputs[0]], theta)
    if eqn.name in EXTREMES:
        far = below_and_above[EXTREMES[eqn.name] > 0]
        low, high = (far(*(ends(v)[j] for v in values)) for j in range(2))
        return theta, jnp.broadcast_to(low == high, aval.shape)
    if eqn.name not in CURVES:
        return theta
    zero, one = jnp.zeros(aval.shape, aval.dtype), jnp.ones(aval.shape, aval.dtype)
    return tuple(jax.vjp(lambda x, side=side: side(x), zero)[1](one)[0] for side in below_and_above)


def _stage(oracle: Any, f: Any, s: Any) -> tuple[list[Any], Any]:
    """What every walk over a set, and the last passes, were made with (these with an axis of outputs)."""
    method: Method = method_of(oracle, "prove(method=)")
    problem = posed(f, s, method)
    methods = chain(method)
    walks = [m.walk(problem) for m in methods]
    # a walk's own passes go through the lines of the walk that it is built on, if any
    lines = [walks[j - 1] if m.intermediates is not None else walks[j] for j, m in enumerate(methods)]
    last, (out,) = walks[-1], problem.program.outputs
    aval = problem.program.avals[out]

    def chosen(index: Any) -> Any:
        form = row(problem, last, out, index)
        options = {"steps": method.steps, "rate": method.rate, "target": method.target}
        return _raw(problem, last, optimised(problem, last, form, **options)[1][0])

    optimises = method.steps > 0 and bool(last.theta) and out in problem.program.dependent
    final = jax.vmap(chosen)(jnp.arange(aval.size)) if optimises else _raw(problem, last, last.theta)
    return [_raw(problem, by, by.theta) for by in lines], jax.tree.map(lambda a: a if optimises else a[None], final)


@jax.jit
def _whole(oracle: Any, f: Any, s: Any) -> Any:
    return jax.tree.map(lambda a: a[None], _stage(oracle, f, s))


@jax.jit
def _parts(oracle: Any, f: Any, s: Any, domains: Domain) -> Any:
    (x,), tree = jax.tree.flatten(s.center)

    def one(domain: Domain) -> Any:
        lo, hi = (tree.unflatten([end.reshape(x.shape)]) for end in (domain.lo, domain.hi))
        return _stage(oracle, f, box(lo, hi)(jax.tree.map(lambda a, b: 0.5 * (a + b), lo, hi)))

    return jax.vmap(one)(domains)


@jax.jit
def _cut(oracle: Any, f: Any, s: Any, root: Any, domains: Domain) -> Any:
    method: Method = method_of(oracle, "prove(method=)")
    problem = posed(f, s, method)

    def one(domain: Domain) -> Any:
        _, by, _ = walked_over(problem, method, root, domain.lo, domain.hi)
        return _raw(problem, by, domain.parameters[0])

    return jax.vmap(one)(domains)


def _by_chunks(fn: Callable[[Any], Any], domains: Any) -> Any:
    n, found = len(domains.row), []
    for start in range(0, n, _AT_ONCE):
        part = jax.tree.map(lambda a, start=start: a[start : start + _AT_ONCE], domains)
        short = min(_AT_ONCE, n) - len(part.row)
        part = jax.tree.map(lambda a, short=short: np.concatenate([a, np.repeat(a[-1:], short, axis=0)]), part)
        found.append(jax.device_get(fn(part)))
    return jax.tree.map(lambda *a: np.concatenate(a)[:n], *found)


def stages(lowered: Lowered, oracle: Any, f: Any, s: Any, parts: Domain | None) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of the slopes over the set, or over parts of its box."""
    if parts is None:
        walks, final = jax.device_get(_whole(oracle, f, s))
    else:
        walks, final = _by_chunks(lambda some: _parts(oracle, f, s, some), parts._replace(parameters=()))
    for w, raw in enumerate(walks):
        yield from named(lowered, f"walks/{w}", raw)
    yield from named(lowered, "final", final)


def cuts(lowered: Lowered, oracle: Any, f: Any, s: Any, root: Any, leaves: Domain) -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of the slopes of leaves of cut neurons."""
    yield from named(lowered, "cuts", _by_chunks(lambda some: _cut(oracle, f, s, root, some), leaves))


def named(lowered: Lowered, prefix: str, raw: dict[int, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The slopes of operations, finite whatever they were."""
    for k, parameters in raw.items():
        for op, sides in lowered.slopes[k](parameters).items():
            for side, slopes in sides.items():
                slopes = np.clip(np.nan_to_num(slopes, posinf=0.0, neginf=0.0), -1e6, 1e6)
                yield f"{prefix}/{op}/{side}", slopes.astype(np.float32)
