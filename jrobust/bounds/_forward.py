"""Forward methods: forward CROWN and zonotopes (DeepZ). One walk over the program; what relaxes a nonlinear equation differs."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust._objective import Objective
from jrobust._oracle import Bound, Oracle
from jrobust._program import Equation
from jrobust._tree import bind
from jrobust.bounds._forms import PUSHED, Form, columns, elementwise, image, inputs, pushed, sizes, span, total
from jrobust.bounds._machine import intersect, intervals, whole, within
from jrobust.bounds._problem import Problem, check, mask_of, pose, program_of
from jrobust.bounds._propagate import _filled, _is_box, one_sided
from jrobust.bounds._tables import RELAX, Interval, Mask, is_affine
from jrobust.typing import Array

_MEMORY = 2**28
_CHUNK = 2**21  # of the backward passes through the last affine chain
_CUTS = 4  # pieces into which an interval is cut besides those at known operands and 0

Env = dict[int, Any]


class Forward(NamedTuple):
    """A forward method: its name, whether errors become noise symbols (zonotope), and its budget of bytes."""

    name: str
    symbols: bool
    memory: int


def _relaxation(eqn: Equation, values: Sequence[Any], out: Interval) -> list[Callable[..., Any]]:
    """The lower and the upper affine function of a nonlinear equation, of all its operands."""
    return within(RELAX[eqn.name](eqn, *values), out, values)


def bounded(problem: Problem, method: Forward) -> tuple[Env, dict[int, Form]]:
    """Known values, intervals of all others, and the forms of the floating ones."""
    program = problem.program
    most = _most_rows(problem, method)
    hull = [whole(Interval(*both)) for both in zip(*map(jax.tree.leaves, problem.s.hull()), strict=True)]
    env: Env = dict(program.constants) | dict(zip(program.inputs, hull, strict=True))
    forms, refined = inputs(problem), set()
    for k, eqn in enumerate(program.equations):
        mask = mask_of(program, eqn)
        if not any(mask):
            env |= dict(zip(eqn.outputs, eqn.bind([env[i] for i in eqn.inputs]), strict=True))
            continue
        sources = [i for i, d in zip(eqn.inputs, mask, strict=True) if d]
        affine = eqn.name in PUSHED and is_affine(eqn, mask, program.avals)
        for i in set() if affine else set(sources) - refined:
            refined.add(i)
            exact = i in problem.pure and problem.levels[i] <= 1 and _is_box(problem.s)
            if i in forms and not exact:
                env[i] = intersect(env[i], span(problem, forms[i]))
        values = [env[i] for i in eqn.inputs]
        outs = intervals(eqn, values)
        env |= dict(zip(eqn.outputs, outs, strict=True))
        if affine:
            made = pushed(eqn, mask, values, [forms[i] for i in sources])
            forms |= {i: _reduced(form, most) for i, form in zip(eqn.outputs, made, strict=True)}
            continue
        smooth = eqn.name in RELAX and all(i in forms for i in sources)
        for i, out in zip(eqn.outputs, outs, strict=True):
            if jnp.issubdtype(out.lo.dtype, jnp.floating):
                operands = [forms[j] for j in sources] if smooth else None
                step = _with_symbols if method.symbols else _with_slack
                form = _constant(out, forms) if operands is None else step(problem, eqn, mask, values, out, operands)
                forms[i] = _symbolic(form, k, most) if method.symbols else form
    return env, forms


def _constant(out: Interval, forms: dict[int, Form]) -> Form:
    n = next(iter(forms.values())).coef.shape[0]
    return Form(jnp.zeros((n, *out.lo.shape), out.lo.dtype), _middle(out), {}, None, 0.5 * (out.hi - out.lo))


def _middle(v: Interval) -> Array:
    return 0.5 * (v.lo + v.hi)


# -- Forward CROWN ----------------------------------------------------------------------------------------------------


def _with_slack(problem: Problem, eqn: Equation, mask: Mask, values: Any, out: Interval, forms: Sequence[Form]) -> Form:
    """Between two affine functions: half their difference, affine in the input, joins the radius."""
    low, high = (_filled(side, mask, values) for side in _relaxation(eqn, values, out))
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


def _with_symbols(
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
        pair = _joint(problem, eqn, values, out, forms) if mask == (True, True) and eqn.name in ("max", "min") else None
        low, high = (_filled(side, mask, values) for side in pair or _relaxation(eqn, values, out))
        form = image(lambda *v: [0.5 * (low(*v)[0] + high(*v)[0])], forms)[0]
        error = jnp.abs(span(problem, image(lambda *v: [0.5 * (high(*v)[0] - low(*v)[0])], forms)[0]).hi)
        boxes = [_radii(eqn, side, forms)[1] for side in (low, high)]
        below, above = (jnp.zeros_like(error) if b is None else b for b in boxes)
        form = form._replace(bias=form.bias + 0.5 * (above - below), box=error + 0.5 * (above + below))
    lost = ~(jnp.isfinite(form.bias) & jnp.isfinite(form.box))
    plain = _constant(out, dict(enumerate(forms)))
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
        low, high = (_filled(f, mask, piece) for f in _relaxation(eqn, piece, intervals(eqn, piece)[0]))
        return jnp.stack([low(a)[0], low(b)[0]]), jnp.stack([high(a)[0], high(b)[0]])

    low, high = jax.vmap(at_ends)(edges[:-1], edges[1:])  # [pieces, 2, ...]
    ends = jnp.stack([edges[:-1], edges[1:]], axis=1) - middle
    sides = [_filled(f, mask, values) for f in _relaxation(eqn, values, out)]
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
    return rise / jnp.where(run > 0, run, jnp.inf)


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


def _symbolic(form: Form, block: int, most: int) -> Form:
    """The box of a nonlinear equation's output as one new symbol an entry, the largest ones where not all fit."""
    form = _reduced(form, max(most - form.bias.size, form.coef.shape[0]))
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


def _reduced(form: Form, most: int) -> Form:
    """The oldest symbols boxed until at most ``most`` rows are left."""
    noise, box = dict(form.noise), form.box
    while noise and form.coef.shape[0] + sum(b.shape[0] for b in noise.values()) > most:
        radius = jnp.sum(jnp.abs(noise.pop(min(noise))), axis=0)
        box = radius if box is None else box + radius
    return form._replace(noise=noise, box=box)


# -- Oracles ------------------------------------------------------------------------------------------------------------


def _most_rows(problem: Problem, method: Forward) -> int:
    """How many rows the coefficients of the widest value may have; raises where the input alone has more."""
    program = problem.program
    n = sum(math.prod(program.avals[i].shape) for i in program.inputs)
    widest = max((program.avals[i] for i in program.dependent), key=lambda a: math.prod(a.shape) * a.dtype.itemsize)
    row = max(math.prod(widest.shape) * widest.dtype.itemsize, 1) * (1 if method.symbols else 2)
    if n * row > method.memory:
        raise ValueError(
            f"{method.name}: {n} inputs and a value of shape {widest.shape} take {n * row} bytes of coefficients, more than "
            f"memory={method.memory}; raise memory=, or take jr.bounds.crown(), which works in chunks"
        )
    return method.memory // row


def forward_bounds(fn: Callable[[Any], Any], s: Any, method: Forward) -> Array:
    """Elementwise upper bounds of the array ``fn(z)`` over the set."""
    program = program_of(fn, s.center)
    check(program, method.name)
    (out,) = program.outputs
    problem = pose(program, s)
    env, forms = bounded(problem, method)
    if out not in program.dependent:
        return jnp.asarray(env[out])
    best = env[out]
    if out in forms:
        best = intersect(best, span(problem, forms[out]))
    if problem.levels[out] > 1 and out not in problem.pure:  # as interval arithmetic does, so never above it
        best = intersect(best, Interval(best.lo, one_sided(problem, env, None, out, _CHUNK)))
    return best.hi


def _solve(key: Any, f: Objective, s: Any, *, method: Forward) -> Bound:
    elements = jnp.atleast_1d(forward_bounds(f, s, method))
    elements = jnp.where(jnp.isnan(elements), jnp.inf, elements)
    return Bound(jnp.max(elements), None, {"elements": elements})


def _oracle(name: str, symbols: bool, memory: int) -> Oracle:
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"{name}: memory is a number of bytes, an int >= 1, got {memory!r}")
    return Oracle("upper", bind(_solve, method=Forward(name, symbols, memory)), name=name)


def forward_crown(*, memory: int = _MEMORY) -> Oracle:
    """Forward CROWN: ``sup { f(z) : z in S }`` by two affine functions of the input around every value, carried forward.

    They start as the input itself and go through affine operations exactly, through others by CROWN's relaxations; the set's own
    support turns them into the intervals on which the next relaxation is built. One pass bounds every output, however many:
    cheap where the input is small. Coefficients: two arrays of inputs x entries for every value.

    Args:
      memory: bytes that the two coefficient arrays of the widest value may take, for one example (about three times as much is
        alive at the peak; a driver's vmap over B examples takes B times that).

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.
      ValueError: at trace time, the coefficients do not fit ``memory``.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) - z[1:])
    >>> print(forward_crown().solve(None, f, jr.sets.linf(1.0)(jnp.zeros(2))).value)
    2.0

    References:
      Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018; Xu et al.,
      Automatic perturbation analysis for scalable certified robustness and beyond, NeurIPS 2020.

    Deviations: intersected with interval bounds at every nonlinear operation and at the output, so never above `ibp`.
    """
    return _oracle("forward-crown", False, memory)


def zonotope(*, memory: int = _MEMORY) -> Oracle:
    """DeepZ: ``sup { f(z) : z in S }`` by a zonotope around every value: an affine function of the input and of noise symbols.

    A nonlinear operation becomes one affine function and an error, the narrowest parallel pair at hand (ReLU's is the paper's); each
    entry's error is a new symbol, kept through all that follows.

    Args:
      memory: bytes that the coefficients of the widest value may take, for one example (about three times as much is alive at the
        peak; a driver's vmap over B examples takes B times that). Beyond it the oldest symbols, then the smallest new ones, give way
        to a box, which is sound and looser.

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.
      ValueError: at trace time, not even the input's own symbols fit ``memory``.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) - z[1:])
    >>> print(zonotope().solve(None, f, jr.sets.linf(1.0)(jnp.zeros(2))).value)
    2.0

    References:
      Singh et al., Fast and effective robustness certification, NeurIPS 2018.

    Deviations: the input's symbols live in the set itself (any norm), not in its hull; intersected with interval bounds at every
      nonlinear operation and at the output; curves take the narrowest of a few slopes.
    """
    return _oracle("zonotope", True, memory)
