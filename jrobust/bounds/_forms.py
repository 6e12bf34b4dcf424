"""Affine forms that run forward through a program: what `forward_crown` and `zonotope` carry for every dependent value.

A form is an array of affine functions of the input and of noise symbols, give or take a radius that is itself affine in the input.
Affine equations act on its columns by their linear part, and on radii by the absolute value of that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._program import Equation
from jrobust._tree import unravel
from jrobust.bounds._affine import AVERAGING, ELEMENTWISE, absolute, filled, function
from jrobust.bounds._problem import Problem
from jrobust.bounds._tables import Interval, Mask
from jrobust.typing import Array

_ROWS = 2**24  # bytes of rows of a relaxation that are written out at a time


class Form(NamedTuple):
    """``<coef, x> + bias + <noise, e>``, give or take ``<slack, x> + box``; ``|e| <= 1``.

    Attributes:
      coef: [n, *shape], one column an entry of the flattened input.
      bias: [*shape].
      noise: block of symbols -> [k, *shape].
      slack, box: of the radius, [n, *shape] and [*shape]; None: zero.
    """

    coef: Array
    bias: Array
    noise: dict[int, Array]
    slack: Array | None = None
    box: Array | None = None


Columns = Sequence[Array | None]


def columns(fn: Callable[..., Any], parts: Columns, like: Sequence[Array]) -> list[Array] | None:
    """The linear part of an affine ``fn`` of each column [k, ...] of its operands; None where all are."""
    k = next((p.shape[0] for p in parts if p is not None), None)
    if k is None:
        return None
    zeros = [jnp.zeros_like(v) for v in like]
    moved = [i for i, p in enumerate(parts) if p is not None]

    def one(*tangents: Array) -> Any:
        full = list(zeros)
        for i, t in zip(moved, tangents, strict=True):
            full[i] = t
        return jax.jvp(fn, tuple(zeros), tuple(full))[1]

    return jax.vmap(one)(*(p for p in parts if p is not None))


def pushed(eqn: Equation, mask: Mask, values: Sequence[Any], forms: Sequence[Form]) -> list[Form]:
    """The forms of an affine equation's outputs."""
    size = absolute(eqn, mask, values)
    out = image(filled(function(eqn), mask, values), forms)
    like = [f.bias for f in forms]
    slack = columns(size, [f.slack for f in forms], like)
    box = columns(size, [None if f.box is None else f.box[None] for f in forms], like)
    return [
        o._replace(slack=None if slack is None else slack[j], box=None if box is None else box[j][0])
        for j, o in enumerate(out)
    ]


def image(fn: Callable[..., Any], forms: Sequence[Form]) -> list[Form]:
    """An affine function of forms, their radii left out."""
    like = [f.bias for f in forms]
    bias, coef = fn(*like), columns(fn, [f.coef for f in forms], like)
    noise = {b: columns(fn, [f.noise.get(b) for f in forms], like) for b in sorted({b for f in forms for b in f.noise})}
    assert coef is not None
    return [
        Form(c, b, {k: v[j] for k, v in noise.items() if v is not None})
        for j, (c, b) in enumerate(zip(coef, bias, strict=True))
    ]


# -- Radii through relaxations ------------------------------------------------------------------------------------------


def elementwise(eqn: Equation, forms: Sequence[Form]) -> bool:
    """Whether entry j of the output depends on entries j of the operands alone."""
    return eqn.name in ELEMENTWISE and all(f.bias.shape == eqn.avals[0].shape for f in forms)


def sizes(eqn: Equation, fn: Callable[..., Any], parts: Columns, forms: Sequence[Form]) -> Array | None:
    """The absolute value of the linear part of ``fn``, a side of a relaxation, of columns of radii."""
    if all(p is None for p in parts):
        return None
    like = [f.bias for f in forms]
    if elementwise(eqn, forms):
        slopes = [
            columns(fn, [jnp.ones_like(v)[None] if i == j else None for j, v in enumerate(like)], like)
            for i in range(len(like))
        ]
        return sum(jnp.abs(k[0]) * p for k, p in zip(slopes, parts, strict=True) if k is not None and p is not None)  # pyright: ignore
    if eqn.name in AVERAGING:  # chosen entries and means of them
        moved = columns(fn, parts, like)
        return None if moved is None else moved[0]
    _, vjp = jax.vjp(fn, *(jnp.zeros_like(v) for v in like))
    aval = eqn.avals[0]
    count = math.prod(aval.shape)

    def at(index: Array) -> Array:
        rows = vjp([(jnp.arange(count) == index).astype(aval.dtype).reshape(aval.shape)])
        return sum(  # pyright: ignore[reportReturnType]
            jnp.tensordot(p.reshape(p.shape[0], -1), jnp.abs(r).ravel(), 1)
            for r, p in zip(rows, parts, strict=True)
            if p is not None
        )

    widest = max(v.size for v in like) * aval.dtype.itemsize
    out = _loops.map(at, jnp.arange(count), batch_size=max(1, min(count, _ROWS // max(widest, 1))))
    return jnp.moveaxis(out, 0, 1).reshape(-1, *aval.shape)


# -- What a form says -----------------------------------------------------------------------------------------------------


def inputs(problem: Problem) -> dict[int, Form]:
    """The input's own forms: the identity."""
    ids, avals = problem.program.inputs, problem.program.avals
    counts = [math.prod(avals[i].shape) for i in ids]
    forms, start = {}, 0
    for i, count in zip(ids, counts, strict=True):
        eye = jnp.eye(sum(counts), count, -start, dtype=avals[i].dtype)
        forms[i] = Form(eye.reshape(-1, *avals[i].shape), jnp.zeros(avals[i].shape, avals[i].dtype), {})
        start += count
    return forms


def total(form: Form) -> Array:
    """What noise and box add on either side."""
    sums = [jnp.sum(jnp.abs(block), axis=0) for block in form.noise.values()]
    return sum(sums, jnp.zeros_like(form.bias) if form.box is None else form.box)


def span(problem: Problem, form: Form) -> Interval:
    """The interval of a form over the set, by the set's own support; NaN where a coefficient is not finite."""
    leaves, tree = jax.tree.flatten(problem.s.center)
    shape, n = form.bias.shape, form.coef.shape[0]

    def support(row: Array) -> Array:
        return problem.s.support(tree.unflatten(unravel(row, leaves)))

    def over(coef: Array) -> Array:
        top = jax.vmap(support, in_axes=1)(coef.reshape(n, -1)).reshape(shape).astype(form.bias.dtype)
        return jnp.where(jnp.all(jnp.isfinite(coef), axis=0), top, jnp.nan)

    up, down = (form.coef, form.coef) if form.slack is None else (form.coef + form.slack, form.coef - form.slack)
    radius = total(form)
    return Interval(form.bias - radius - over(-down), form.bias + radius + over(up))
