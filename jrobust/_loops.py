"""Loops over user models: ``lax``'s own, with the CPU remedy for convolutions underneath.

On CPU, XLA runs a convolution inside a compiled loop without its fast path, several times slower than outside. These loops
trace their body and, where a convolution occurs in it, run ``lax``'s loop on the same body with each convolution written
as slices and a dot. On other platforms, and for bodies without convolutions, they are ``lax``'s loops.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jrobust import _jaxpr
from jrobust._conv import conv_as_dot, stored
from jrobust.typing import PyTree

# Primitives that only run the jaxprs among their parameters, on arrays: safe to run with rewritten ones.
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "scan", "while", "cond"}
    | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
)

_CHUNKS = 16  # of a vmapped `map_where`, where all are active


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[PyTree, PyTree]:
    """``lax.scan``.

    >>> int(scan(lambda total, x: (total + x, None), 0, jnp.arange(4))[0])
    6
    """
    return _run(lambda init, xs: lax.scan(f, init, xs, length, reverse, unroll), init, xs)


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: PyTree) -> PyTree:
    """``lax.while_loop``.

    >>> int(while_loop(lambda n: n < 10, lambda n: 2 * n, 3))
    12
    """
    return _run(lambda init: lax.while_loop(cond_fun, body_fun, init), init_val)


def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: PyTree, *, unroll: int | bool | None = None
) -> PyTree:
    """``lax.fori_loop``.

    >>> int(fori_loop(0, 4, lambda i, total: total + i, 0))
    6
    """
    return _run(lambda init: lax.fori_loop(lower, upper, body_fun, init, unroll=unroll), init_val)


def map(f: Callable[[Any], Any], xs: PyTree, *, batch_size: int | None = None) -> PyTree:
    """``lax.map``: ``f`` of one element, run in chunks of ``batch_size`` elements at a time if given.

    >>> map(jnp.square, jnp.arange(3), batch_size=2).tolist()
    [0, 1, 4]
    """
    return _run(lambda xs: lax.map(f, xs, batch_size=batch_size), xs)


def map_where(f: Callable[[Any], Any], active: Any, default: PyTree, *, batch_size: int) -> PyTree:
    """``f(i)`` for each index where ``active[i]``, else ``default[i]``: chunks of active indices only, however many there are.

    Differentiable in reverse, although the number of chunks is known at run time alone. Under vmap the active indices of all
    examples are worked off together: none waits for the one with most. ``active=None`` says that all are; where one chunk holds
    them, the derivative is that of a plain vmap, whose gradient under a further vmap sums over examples as it goes: what all share
    (a model's weights) never has a gradient for each.

    >>> map_where(jnp.sqrt, jnp.array([True, False, True]), jnp.full(3, -1.0), batch_size=2).tolist()
    [0.0, -1.0, 1.4142135381698608]
    """
    # custom derivatives may not close over tracers: every array that f does is an argument
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(jnp.zeros((), jnp.int32))
    held = [
        jnp.copy(c) for c in closed.consts
    ]  # a custom derivative takes no NumPy array, not even inside vmap's tracers
    is_float = [bool(jnp.issubdtype(c.dtype, jnp.floating)) for c in held]
    floats = tuple(c for c, d in zip(held, is_float, strict=True) if d)
    others = tuple(c for c, d in zip(held, is_float, strict=True) if not d)

    def value(i: Any, floats: Any, others: Any) -> Any:
        queues = {True: iter(floats), False: iter(others)}
        pure = _jaxpr.jaxpr_as_fun(_jaxpr.ClosedJaxpr(closed.jaxpr, [next(queues[d]) for d in is_float]))
        return jax.tree.unflatten(jax.tree.structure(shapes), pure(i))

    if active is None:
        n = jax.tree.leaves(default)[0].shape[0]
        active = jnp.ones(n, bool)
        if n <= batch_size:
            return _all_at_once(value, batch_size, active, jax.tree.map(jnp.zeros_like, default), floats, others)

    @jax.custom_vjp
    def run(default: Any, active: Any, floats: Any, others: Any) -> Any:
        return _write(value, batch_size, active, default, (floats, others))

    def forward(default: Any, active: Any, floats: Any, others: Any) -> Any:
        return run(default, active, floats, others), (active, floats, others)

    def backward(saved: Any, cotangent: Any) -> Any:
        active, floats, others = saved
        rest = jax.tree.map(lambda c: jnp.where(active, 0, c), cotangent)

        def add(index: Any, total: Any) -> Any:
            mine = jax.tree.map(lambda c: jnp.take(c, index, mode="fill", fill_value=0), cotangent)
            each = jax.vmap(value, (0, None, None))
            (more,) = jax.vjp(lambda floats: each(_inside(index, active), floats, others), floats)[1](mine)
            return jax.tree.map(jnp.add, total, more)

        return rest, None, _chunks(active, batch_size, add, jax.tree.map(jnp.zeros_like, floats)), None

    run.defvjp(forward, backward)
    return run(default, active, floats, others)


def _all_at_once(
    value: Callable[..., Any], batch_size: int, active: Any, default: Any, floats: Any, others: Any
) -> Any:
    """`map_where` over all indices, one chunk of them."""

    @jax.custom_jvp
    def run(floats: Any, others: Any) -> Any:
        return _write(value, batch_size, active, default, (floats, others))

    def tangent(primals: Any, tangents: Any) -> Any:
        (floats, others), (moves, _) = primals, tangents
        moving = [not isinstance(t, SymbolicZero) for t in moves]

        def plain(moved: Any) -> Any:
            queue = iter(moved)
            now = tuple(next(queue) if m else x for x, m in zip(floats, moving, strict=True))
            return jax.vmap(lambda i: value(i, now, others))(jnp.arange(active.shape[0], dtype=jnp.int32))

        pairs = [(x, t) for x, t, m in zip(floats, moves, moving, strict=True) if m]
        return jax.jvp(plain, ([x for x, _ in pairs],), ([t for _, t in pairs],))

    run.defjvp(tangent, symbolic_zeros=True)
    return run(floats, others)


def _inside(index: Any, active: Any) -> Any:
    return jnp.minimum(index, active.shape[0] - 1)


def _chunks(active: Any, batch_size: int, body: Callable[[Any, Any], Any], init: Any) -> Any:
    """``body(indices, so far)`` over all active indices, the last chunk filled up with one past the end."""
    n = active.shape[0]
    place = jnp.cumsum(active, dtype=jnp.int32)  # no sort: on CPU that is serial
    order = jnp.full(n + batch_size, n, jnp.int32)
    order = order.at[jnp.where(active, place - 1, n + batch_size)].set(jnp.arange(n, dtype=jnp.int32), mode="drop")
    count = place[-1]

    def step(carry: Any) -> Any:
        start, so_far = carry
        index = lax.dynamic_slice(order, (start,), (batch_size,))
        index = jnp.where(start + jnp.arange(batch_size) < count, index, n)
        return start + batch_size, body(index, so_far)

    return while_loop(lambda carry: carry[0] < count, step, (jnp.zeros((), count.dtype), init))[1]


def _write(fn: Callable[..., Any], batch_size: int, active: Any, default: Any, args: Any) -> Any:
    """``fn(i, *args)`` at the active indices; a vmap over examples becomes one longer run over (example, index)."""

    @jax.custom_batching.custom_vmap
    def run(active: Any, default: Any, args: Any) -> Any:
        def write(index: Any, out: Any) -> Any:
            new = jax.vmap(lambda i: fn(i, *args))(_inside(index, active))
            return jax.tree.map(lambda o, v: o.at[index].set(v, mode="drop"), out, new)

        return _chunks(active, batch_size, write, default)

    @run.def_vmap
    def together(size: int, batched: Any, active: Any, default: Any, args: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
        n = active.shape[-1]

        def flat(x: Any, is_batched: bool) -> Any:
            x = x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(size * n, *x.shape[2:])

        def of_pair(i: Any, *args: Any) -> Any:
            example = lax.div(i, jnp.asarray(n, i.dtype)).astype(jnp.uint32)  # unsigned: no negative index to mend

            def mine(x: Any, is_batched: bool) -> Any:
                return lax.dynamic_index_in_dim(x, example, keepdims=False) if is_batched else x

            return fn(lax.rem(i, jnp.asarray(n, i.dtype)), *jax.tree.map(mine, args, batched[2]))

        # in several chunks: where few are active, few run, and what a chunk holds stays in the cache
        chunk = max(batch_size, batch_size * size // _CHUNKS)
        out = _write(of_pair, chunk, flat(active, batched[0]), jax.tree.map(flat, default, batched[1]), args)
        return jax.tree.map(lambda x: x.reshape(size, n, *x.shape[1:]), out), jax.tree.map(lambda _: True, out)

    return run(active, default, args)


def rewrite(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn`` with its convolutions as slices and dots on CPU; the same function elsewhere.

    Custom derivatives, rematerialisation and control flow are kept and rewritten inside. The rules of a custom derivative are
    kept as they are: rewrite the gradient (``rewrite(jax.grad(fn))``) to have those rewritten too.

    >>> def blur(x):
    ...     return lax.conv(x, jnp.ones((1, 1, 3, 3)) / 9, (1, 1), "SAME")
    >>> x = jnp.ones((1, 1, 4, 4))
    >>> bool(jnp.allclose(rewrite(blur)(x), blur(x)))
    True
    """

    @wraps(fn)
    def rewritten(*args: Any, **kwargs: Any) -> Any:
        return _run(lambda args, kwargs: fn(*args, **kwargs), args, kwargs)

    return rewritten


def kept(values: PyTree) -> PyTree:
    """The same arrays, computed once on CPU, where XLA would compute them again in every use; on other platforms as they are.

    >>> float(jax.grad(lambda x: kept(x) ** 2)(3.0))
    6.0
    """
    return stored(values) if _slow_convolutions() else values


def _slow_convolutions() -> bool:
    """Whether loops need the remedy on this platform (and are traced at all: without jit, lax's loops are Python's)."""
    return jax.default_backend() == "cpu" and not jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]


def _run(fn: Callable[..., Any], *args: PyTree) -> Any:
    if not _slow_convolutions():
        return fn(*args)
    # lax builds its loop as usual (promotion, checks, messages); only then are bodies exchanged, and f is traced once
    closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
    leaves = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in jax.tree.leaves(args)]
    return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, {}, *leaves))


def _evaluate(closed: _jaxpr.ClosedJaxpr, known: dict[int, Any], *args: Any) -> list[Any]:
    """Evaluate a jaxpr equation by equation, convolutions as dots; ``known`` holds the jaxprs already rewritten."""
    env = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    env.update(zip(closed.jaxpr.invars, args, strict=True))
    for eqn in closed.jaxpr.eqns:
        values = [v.val if isinstance(v, _jaxpr.Literal) else env[v] for v in eqn.invars]
        params = eqn.params
        out = None
        if _is_conv(eqn):
            out = conv_as_dot(*values, **params)
        elif _has_conv(eqn):
            params = _jaxpr.map_jaxprs(partial(_rewritten, known), params)
        outs = _jaxpr.bind_eqn(eqn, values, params) if out is None else [out]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [v.val if isinstance(v, _jaxpr.Literal) else env[v] for v in closed.jaxpr.outvars]


def _rewritten(known: dict[int, Any], closed: _jaxpr.ClosedJaxpr) -> _jaxpr.ClosedJaxpr:
    """The same jaxpr, same inputs and outputs, with its convolutions as dots."""
    if not any(_has_conv(eqn) for eqn in closed.jaxpr.eqns):
        return closed
    if id(closed.jaxpr) not in known:
        known[id(closed.jaxpr)] = _jaxpr.trace(partial(_evaluate, closed, known), *_jaxpr.avals(closed))
    return known[id(closed.jaxpr)]


def _is_conv(eqn: _jaxpr.JaxprEqn) -> bool:
    return eqn.primitive.name == "conv_general_dilated"


def _has_conv(eqn: _jaxpr.JaxprEqn) -> bool:
    if _is_conv(eqn):
        return True
    if eqn.primitive.name not in _CALLS:
        return False
    return any(_has_conv(inner) for jaxpr in _jaxpr.subjaxprs(eqn.params) for inner in jaxpr.eqns)
