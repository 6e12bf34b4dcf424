"""The bounding methods as oracles, and what they share: `output_bounds` and `supported`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Objective, objective
from jrobust._oracle import Bound, Oracle, check_problem, require
from jrobust._tree import bind
from jrobust.bounds._machine import never_nan
from jrobust.bounds._problem import missing, program_of
from jrobust.bounds._propagate import MEMORY, Method, upper_bounds
from jrobust.typing import Array, Float


def answer(elements: Array) -> Bound:
    """What an oracle says that has bounded single violations."""
    elements = jnp.atleast_1d(never_nan(elements))
    return Bound(jnp.max(elements), None, {"elements": elements})


def _solve(key: Any, f: Objective, s: Any, *, method: Method) -> Bound:
    return answer(upper_bounds(f, s, method))


def _oracle(method: Method) -> Oracle:
    return Oracle("upper", bind(_solve, method=method), name=method.name)


def method_of(oracle: Any, by: str) -> Any:
    """The method inside an oracle of this wing: what can `walk` over a program."""
    method = dict(getattr(getattr(oracle, "run", None), "static", ())).get("method")
    if not hasattr(method, "walk"):
        name = getattr(oracle, "name", type(oracle).__name__)
        raise TypeError(
            f"{by} takes ibp, crown_ibp, crown, alpha_crown or another method of jr.bounds that walks over a program, got {name}"
        )
    return method


def check_memory(memory: int, name: str) -> int:
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"{name}: memory is a number of bytes, an int >= 1, got {memory!r}")
    return memory


def ibp(*, memory: int = MEMORY) -> Oracle:
    """Interval bound propagation: ``sup { f(z) : z in S }`` by interval arithmetic, layer by layer.

    The affine chain that starts at the input is bounded by the set's own support (exact for every norm), the one that ends at
    the margins as one map (last-layer elision).

    Args:
      memory: bytes of coefficients for one example; the rows of such a chain are worked off in chunks that fit.

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.stack([z[0], jax.nn.relu(z[1])]), 0)
    >>> s = jr.sets.linf(0.25)(jnp.array([1.0, 0.0]))
    >>> print(ibp().solve(jax.random.key(0), f, s).value)  # relu(0.25) - 0.75
    -0.5

    References:
      Gowal et al., On the effectiveness of interval bound propagation for training verifiably robust models, 2018.
    """
    return _oracle(Method("ibp", False, None, check_memory(memory, "ibp")))


def crown(*, intermediates: Oracle | None = None, memory: int = MEMORY) -> Oracle:
    """CROWN: ``sup { f(z) : z in S }`` by one linear function that lies above ``f``, found backward and maximised by the set's support.

    ReLU's lower slope is 1 where u > -l, else 0. Where a primitive has an interval but no pair of affine functions, its interval
    serves. Every interval is intersected with interval arithmetic's, so the result is never above `ibp`.

    Args:
      intermediates: the method that bounds the inputs of nonlinear operations; None: full backward passes of its own (the tightest,
        one row a neuron). ``ibp()`` is `crown_ibp`; ``crown_ibp()`` lies between.
      memory: bytes of coefficients for one example (a driver's vmap over B examples takes B times that). Rows, one a neuron or a
        specification, are worked off in chunks that fit.

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.

    Guarantee: an upper bound in exact arithmetic; float rounding is not directed outward. ``+inf`` where ``f`` may be NaN.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jax.nn.relu(z[:1] + z[1:]) - z[1:])
    >>> s = jr.sets.linf(1.0)(jnp.zeros(2))
    >>> key = jax.random.key(0)
    >>> print(crown().solve(key, f, s).value, ibp().solve(key, f, s).value)
    2.0 3.0

    References:
      Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018.

    Deviations: intersected with interval bounds at every nonlinear operation and at the output.
    """
    inner = None if intermediates is None else method_of(intermediates, "crown(intermediates=)")
    name = "crown" if inner is None else "crown-ibp" if inner.name == "ibp" else f"crown({inner.name})"
    return _oracle(Method(name, True, inner, check_memory(memory, "crown")))


def alpha_crown(
    *,
    steps: int = 20,
    rate: int | float = 0.1,
    target: int | float = -math.inf,
    intermediates: Oracle | None = None,
    memory: int = MEMORY,
) -> Oracle:
    """Alpha-CROWN: CROWN whose relaxations are chosen, specification by specification, to make the bound small.

    Every relaxation with freedom takes part: the lower slope of ReLU, max and their like, the slopes on either side of a smooth
    function, the mixture of planes around a product, where softmax is touched, which entry stands for a maximum.

    Args:
      steps: evaluations of projected Adam a specification, >= 1, the first at CROWN's own relaxations: so with
        ``intermediates=crown()`` the result is never above `crown`'s.
      rate: of the parameters, which lie in [0, 1]; times 0.98 each step.
      target: a specification whose bound is below it stops; 0 is all that a proof needs.
      intermediates: the method that bounds the inputs of nonlinear operations, `crown` by default. ``alpha_crown()`` itself
        optimises every unsettled neuron's bounds too, each on those before it: often several times tighter in deep nets, and its
        ``steps`` times dearer.
      memory: as of `crown`.

    Returns:
      An `Oracle` of side "upper"; ``info["elements"]`` are the bounds of the single violations [m].

    Raises:
      NotImplementedError: at trace time, a primitive without a rule, or one that computes in floats narrower than float32.

    Guarantee: an upper bound in exact arithmetic at whatever parameters the optimiser stops; float rounding is not directed outward.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: z[:1] - jax.nn.relu(z[:1] + z[1:]) - jax.nn.relu(z[:1] - z[1:]))
    >>> s, key = jr.sets.linf(1.0)(jnp.zeros(2)), jax.random.key(0)
    >>> print(crown().solve(key, f, s).value, alpha_crown(steps=50).solve(key, f, s).value < 0.05)
    1.0 True

    References:
      Xu et al., Fast and complete: enabling complete verification with rapid and massively parallel incomplete verifiers, ICLR 2021.

    Deviations: no patience; the best iterate is kept from the first on; smooth relaxations vary in slope, not in tangent point.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"alpha_crown: steps is an int >= 1, got {steps!r}")
    inner = method_of(crown(memory=memory) if intermediates is None else intermediates, "alpha_crown(intermediates=)")
    name = "alpha-crown" if inner.name == "crown" else f"alpha-crown({inner.name})"
    return _oracle(Method(name, True, inner, check_memory(memory, "alpha_crown"), steps, float(rate), float(target)))


def crown_ibp(*, memory: int = MEMORY) -> Oracle:
    """CROWN-IBP: intermediate bounds by interval arithmetic, then one backward pass a specification. See `crown`.

    >>> crown_ibp().name
    'crown-ibp'

    References:
      Zhang et al., Towards stable and efficient training of verifiably robust neural networks, ICLR 2020.
    """
    return crown(intermediates=ibp(memory=memory), memory=memory)


def outward(method: Oracle) -> Oracle:
    """A method whose bounds account for rounding: of their own computation and of the float network that they speak about.

    Every interval is widened, and every backward pass carries the sum of what its coefficients, its offset and the network's own
    operations may have been rounded by. Model of arithmetic (u is half a unit in the last place of 1): basic operations are correctly
    rounded; sums may be taken in any order, fused or not; exp, tanh and their like are within 32 u of the largest of their operands
    and results; underflow may flush to zero. What does not depend on the input is the floats that were computed. No fast convolution
    algorithms (Winograd, FFT), no products of fewer bits (TF32, bfloat16).

    Args:
      method: `ibp`, `crown`, `crown_ibp` or `alpha_crown`, with intermediates of these.

    Returns:
      The method, rounded outward; for `branch` too.

    Raises:
      TypeError: any other method.

    Guarantee: for every float point of the set (as its arithmetic computes the ends) the outputs that floats give, in any such
      evaluation, and the exact ones lie within the bounds. Pairs of lines around softmax and products of two bounded arrays give way
      to intervals; a function that the model does not speak of (tan, lgamma, erf_inv, ...) is unbounded.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> w, s = jnp.array([[1e8, 1.0, -1e8]]), jr.sets.linf(0.0)(jnp.ones(3))  # sums up to 0, 1 or 2 by the order
    >>> lo, hi = jr.bounds.output_bounds(lambda z: w @ z, s, method=outward(jr.bounds.ibp()))
    >>> bool(lo[0] < 0) and bool(hi[0] > 2)
    True
    """
    each = inner = method_of(method, "outward")
    while each is not None:
        if not isinstance(each, Method):
            raise TypeError(
                f"outward takes ibp, crown, crown_ibp or alpha_crown, and intermediates of these, got {each.name}"
            )
        each = each.intermediates
    return _oracle(inner._replace(rounding=True, name=f"outward({inner.name})"))


def output_bounds(
    fn: Callable[[Any], Any], s: Any, *, method: Oracle | None = None, key: Any = None
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Elementwise bounds of every output of ``fn`` over the set.

    Args:
      fn: one example -> array.
      s: the set of one example.
      method: any upper oracle with elementwise bounds, `crown` by default.
      key: for an oracle that needs one.

    Returns:
      ``(lo, hi)`` of the output's shape. Pure: works under jit, vmap, and grad with respect to arrays that ``fn`` closes over.

    Guarantee: ``lo <= fn(z) <= hi`` for every z in the set, with the method's confidence and float caveats; what cannot be bounded is
      infinite.

    >>> import jax.numpy as jnp, jrobust as jr
    >>> lo, hi = output_bounds(lambda z: jnp.abs(z) + 1, jr.sets.linf(0.5)(jnp.array([0.0, 2.0])))
    >>> print(lo, hi)
    [1.  2.5] [1.5 3.5]
    """
    method = crown() if method is None else method
    require(("upper",), method, by="output_bounds(method=)")
    check_problem(objective(fn), s)
    out = jax.eval_shape(fn, s.center)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(f"output_bounds: fn must return one array, got {jax.tree.structure(out)}")

    def both(z: Any) -> Array:
        flat = jnp.ravel(fn(z))
        return jnp.concatenate([-flat, flat])

    bound = method.solve(jax.random.key(0) if key is None else key, objective(both), s)
    if "elements" not in bound.info:
        raise TypeError(f"output_bounds: {method.name} gives no elementwise bounds")
    lo, hi = jnp.split(bound.info["elements"], 2)
    return -lo.reshape(out.shape), hi.reshape(out.shape)


def supported(fn: Callable[..., Any], *avals: Any, method: Oracle) -> list[str]:
    """The primitives of ``fn`` that ``method`` has no rule for, before running anything; empty: it will run.

    Args:
      fn: a function of perturbed inputs (one array each).
      avals: arrays or ShapeDtypeStructs, as for `jax.eval_shape`.
      method: a method of `jr.bounds`.

    >>> import jax, jax.numpy as jnp
    >>> supported(lambda z: jax.lax.bessel_i1e(z) + jax.nn.relu(z), jnp.zeros(3), method=ibp())
    ['bessel_i1e']
    """
    method_of(method, "supported(method=)")
    return sorted({eqn.name for eqn in missing(program_of(fn, *avals))})
