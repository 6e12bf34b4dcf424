"""Nonlinear equations between affine forms: with a radius affine in the input (forward CROWN), or with noise symbols (DeepZ)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._program import Equation
from jrobust.bounds._affine import filled
from jrobust.bounds._backward import pair
from jrobust.bounds._forms import Form, columns, elementwise, image, sizes, span, total
from jrobust.bounds._machine import intersect, intervals, within
from jrobust.bounds._problem import Problem
from jrobust.bounds._tables import Interval, Mask
from jrobust.typing import Array

_CUTS = 4  # pieces into which an interval is cut besides those at known operands and 0


def constant(out: Interval, forms: dict[int, Form]) -> Form:
    n = next(iter(forms.values())).coef.shape[0]
    return Form(jnp.zeros((n, *out.lo.shape), out.lo.dtype), _middle(out), {}, None, 0.5 * (out.hi - out.lo))


def _middle(v: Interval) -> Array:
    return 0.5 * (v.lo + v.hi)


# -- Forward CROWN ----------------------------------------------------------------------------------------------------


def with_slack(problem: Problem, eqn: Equation, mask: Mask, values: Any, out: Interval, forms: Sequence[Form]) -> Form:
    """Between two affine functions: half their difference, affine in the input, joins the radius."""
    low, high = (filled(side, mask, values) for side in pair(eqn, values, out))
    below, above = image(low, forms)[0], image(high, forms)[0]
    sides = [_radii(eqn, side, forms) for side in (low, high)]
    slack = [jnp.zeros_like(below.coef) if r[0] is None else r[0] for r in sides]
    box = [jnp.zeros_like(below.bias) if r[1] is None else r[1] for r in sides]
    down, up = (below.coef - slack[0], below.bias - box[0]), (above.coef + slack[1], above.bias + box[1])
    return Form(0.5 * (up[0] + down[0]), 0.5 * (up[1] + down[1]), {}, 0.5 * (up[0] - down[0]), 0.5 * (up[1] - down[1]))


def _radii(eqn: Equation, side: Callable[..., Any], forms: Sequence[Form]) -> tuple[Array | None, Array | None]:
    slack = sizes(eqn, side, [f.slack for f in forms], forms)
    box = sizes(eqn, side, [None if f.box is None else f.box[None] for f in forms], forms)
    return slack, None if box is None else box[0]


# -- Zonotopes --------------------------------------------------------------------------------------------------------


def with_symbols(
    problem: Problem, eqn: Equation, mask: Mask, values: Any, out: Interval, forms: Sequence[Form]
) -> Form:
    """One affine function, give or take an error; the error is returned as the box, which then becomes symbols."""
    if len(forms) == 1 and elementwise(eqn, forms):
        slope, centre, error = _parallel(eqn, mask, values, out)
        (z,) = forms
        noise = {b: slope * block for b, block in z.noise.items()}
        bias = slope * (z.bias - _middle(values[mask.index(True)])) + centre
        form = Form(slope * z.coef, bias, noise, None, error if z.box is None else error + jnp.abs(slope) * z.box)
    else:
        both = _joint(problem, eqn, values, out, forms) if mask == (True, True) and eqn.name in ("max", "min") else None
        low, high = (filled(side, mask, values) for side in both or pair(eqn, values, out))
        form = image(lambda *v: [0.5 * (low(*v)[0] + high(*v)[0])], forms)[0]
        error = jnp.abs(span(problem, image(lambda *v: [0.5 * (high(*v)[0] - low(*v)[0])], forms)[0]).hi)
        boxes = [_radii(eqn, side, forms)[1] for side in (low, high)]
        below, above = (jnp.zeros_like(error) if b is None else b for b in boxes)
        form = form._replace(bias=form.bias + 0.5 * (above - below), box=error + 0.5 * (above + below))
    lost = ~(jnp.isfinite(form.bias) & jnp.isfinite(total(form._replace(noise={}))))
    plain = constant(out, dict(enumerate(forms)))
    return jax.tree.map(
        lambda a, b: jnp.where(lost, b, a), form, plain._replace(noise=jax.tree.map(jnp.zeros_like, form.noise))
    )


def _parallel(eqn: Equation, mask: Mask, values: Any, out: Interval) -> tuple[Array, Array, Array]:
    """``slope, centre, error`` of the narrowest parallel pair of lines at hand over a function of one variable.

    The interval is cut, at the kinks that a known operand or 0 may be too; what lies between lines on every piece does so between
    parallel ones of any slope, whose offsets are taken at the pieces' ends.
    """
    x = values[mask.index(True)]
    middle = _middle(x)
    kinks = [jnp.zeros_like(x.lo)] + [
        jnp.broadcast_to(jnp.asarray(v, x.lo.dtype), x.lo.shape)
        for v, d in zip(values, mask, strict=True)
        if not d and jnp.shape(v) in ((), x.lo.shape)
    ]
    shares = [x.lo + (x.hi - x.lo) * (i / _CUTS) for i in range(1, _CUTS)]
    edges = jnp.sort(jnp.stack([x.lo, *shares, *(jnp.clip(v, x.lo, x.hi) for v in kinks), x.hi]), axis=0)

    def at_ends(a: Array, b: Array) -> tuple[Array, Array]:
        piece = [Interval(a, b) if d else v for v, d in zip(values, mask, strict=True)]
        low, high = (filled(f, mask, piece) for f in pair(eqn, piece, intervals(eqn, piece)[0]))
        return jnp.stack([low(a)[0], low(b)[0]]), jnp.stack([high(a)[0], high(b)[0]])

    low, high = jax.vmap(at_ends)(edges[:-1], edges[1:])  # [pieces, 2, ...]
    ends = jnp.stack([edges[:-1], edges[1:]], axis=1) - middle
    sides = [filled(f, mask, values) for f in pair(eqn, values, out)]
    slopes = [columns(f, [jnp.ones_like(middle)[None]], [middle]) for f in sides]
    k_low, k_high = (s[0][0] for s in slopes if s is not None)
    width = x.hi - x.lo
    chord = 0.5 * (low[-1, 1] + high[-1, 1] - low[0, 0] - high[0, 0]) / jnp.where(width > 0, width, 1.0)
    # the derivatives at the ends, as far as lines show them: DeepZ takes the lesser one of tanh and sigmoid
    least = jnp.minimum(*(_ratio(high[i, 1] - high[i, 0], ends[i, 1] - ends[i, 0]) for i in (0, -1)))
    k = jnp.stack([chord, k_low, k_high, 0.5 * (k_low + k_high), least])
    k = jnp.where(jnp.isfinite(k), k, 0.0)
    above = jnp.max(high - k[:, None, None] * ends, axis=(1, 2))
    below = jnp.min(low - k[:, None, None] * ends, axis=(1, 2))
    best = jnp.argmin(above - below, axis=0)[None]
    k, above, below = (jnp.take_along_axis(v, best, axis=0)[0] for v in (k, above, below))
    return k, 0.5 * (above + below), jnp.maximum(0.5 * (above - below), 0.0)


def _ratio(rise: Array, run: Array) -> Array:
    return jnp.where(run > 0, rise / jnp.where(run > 0, run, 1.0), 0.0)


def _joint(problem: Problem, eqn: Equation, values: Any, out: Interval, forms: Sequence[Form]) -> list[Any]:
    """``max(a, b) = b + relu(a - b)``, ``min(a, b) = a - relu(a - b)``, with the bounds of the difference as a zonotope."""
    a, b = values
    d = intersect(Interval(a.lo - b.hi, a.hi - b.lo), span(problem, _difference(forms)))
    crosses = (d.lo < 0) & (d.hi > 0)
    slope = jnp.where(crosses, d.hi / jnp.where(crosses, d.hi - d.lo, 1.0), jnp.where(d.lo >= 0, 1.0, 0.0))
    rise = jnp.where(crosses, -slope * d.lo, 0.0)
    if eqn.name == "max":
        return within([lambda x, y: y + slope * (x - y), lambda x, y: y + slope * (x - y) + rise], out, values)
    return within([lambda x, y: x - slope * (x - y) - rise, lambda x, y: x - slope * (x - y)], out, values)


def _difference(forms: Sequence[Form]) -> Form:
    """The first form less the second."""
    out = image(lambda x, y: [x - y], forms)[0]
    boxes = [f.box for f in forms if f.box is not None]
    return out._replace(box=sum(boxes[1:], boxes[0]) if boxes else None)


def symbolic(form: Form, block: int, most: int) -> Form:
    """The box of a nonlinear equation's output as one new symbol an entry, the largest ones where not all fit."""
    form = reduced(form, max(most - form.bias.size, form.coef.shape[0]))
    error = total(form._replace(noise={})).ravel()
    count = min(error.size, most - _rows(form))
    if count <= 0:
        return form
    top, index = (error, jnp.arange(count)) if count == error.size else jax.lax.top_k(error, count)
    symbols = jnp.zeros((count, error.size), error.dtype).at[jnp.arange(count), index].set(top)
    rest = None if count == error.size else error.at[index].set(0.0).reshape(form.bias.shape)
    return form._replace(noise=form.noise | {block: symbols.reshape(count, *form.bias.shape)}, box=rest)


def _rows(form: Form) -> int:
    return form.coef.shape[0] + sum(b.shape[0] for b in form.noise.values())


def reduced(form: Form, most: int) -> Form:
    """The oldest symbols boxed until at most ``most`` rows are left."""
    noise, box = dict(form.noise), form.box
    while noise and form.coef.shape[0] + sum(b.shape[0] for b in noise.values()) > most:
        radius = jnp.sum(jnp.abs(noise.pop(min(noise))), axis=0)
        box = radius if box is None else box + radius
    return form._replace(noise=noise, box=box)
