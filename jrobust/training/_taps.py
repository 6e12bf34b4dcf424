"""TAPS: intervals through the first part of a net, an attack on what they leave to the last; between an attack and a bound."""

from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._objective import Objective, objective
from jrobust._oracle import Bound, Oracle, require
from jrobust._program import Program
from jrobust._tree import bind, stop_gradient
from jrobust.attacks import pgd
from jrobust.bounds import ibp
from jrobust.bounds._inside import relus
from jrobust.bounds._methods import answer, method_of
from jrobust.bounds._problem import mask_of
from jrobust.bounds._propagate import Method, output, posed, walked
from jrobust.sets import box
from jrobust.typing import Array

_NARROW = 1e-5


@jax.custom_vjp
def connected(lo: Array, hi: Array, u: Array, edge: Any) -> Array:
    """The point ``u`` of a box; its gradient goes to the ends that it lies near.

    ``du/dhi = max(0, 1 - (hi - u) / (edge (hi - lo)))``, ``du/dlo`` mirrored; where the box is narrower than 1e-5 half to either end.

    >>> lo, hi, u = jnp.zeros(3), jnp.ones(3), jnp.array([0.0, 0.75, 1.0])
    >>> down, up = jax.jacobian(lambda lo, hi: jnp.sum(connected(lo, hi, u, 0.5)), (0, 1))(lo, hi)
    >>> print(down, up)
    [1. 0. 0.] [0.  0.5 1. ]
    """
    del lo, hi, edge
    return u


def _forward(lo: Array, hi: Array, u: Array, edge: Any) -> tuple[Array, Any]:
    return u, (lo, hi, u, edge)


def _backward(saved: Any, c: Array) -> tuple[Array, Array, Array, Array]:
    lo, hi, u, edge = saved
    narrow = hi - lo < _NARROW
    reach = jnp.where(narrow, 1.0, edge * (hi - lo))
    down, up = (jnp.where(narrow, 0.5, jax.nn.relu(1.0 - away / reach)) for away in (u - lo, hi - u))
    return c * down, c * up, jnp.zeros_like(u), jnp.zeros_like(edge)


connected.defvjp(_forward, _backward)


def _cut(program: Program, last: int) -> tuple[int, list[int]]:
    """The value that all goes through on its way to the last so many ReLUs, a ReLU's output, and the equations behind it."""
    found = relus(program)
    if last >= len(found):
        raise ValueError(f"taps: relus={last} leaves none of the model's {len(found)} ReLUs to intervals; give less")
    (cut,) = program.equations[found[len(found) - 1 - last]].outputs
    needed, behind = set(program.outputs) - {cut}, []
    for k in reversed(range(len(program.equations))):
        eqn = program.equations[k]
        if needed & set(eqn.outputs) and any(mask_of(program, eqn)):
            behind.append(k)
            needed |= set(eqn.inputs) - {cut}
    if needed & set(program.inputs):
        raise ValueError(
            f"taps: with relus={last} the net is cut at {program.equations[found[-1 - last]].source}, where a residual connection "
            "leads past; give another number"
        )
    return cut, behind[::-1]


def _solve(
    attack: Oracle, edge: Any, expand: Any, key: Any, f: Objective, s: Any, *, method: Method, last: int
) -> Bound:
    problem = posed(f, s, method)
    program, by = problem.program, walked(problem, method)
    bound = answer(output(problem, method, by))
    cut, behind = _cut(program, last)
    known = {i: v for i, v in by.env.items() if i not in program.dependent}
    lo, hi = by.env[cut]

    def tail(known: dict[int, Any], u: Array) -> Array:
        env = known | {cut: u}
        for k in behind:
            eqn = program.equations[k]
            env |= dict(zip(eqn.outputs, eqn.bind([env[i] for i in eqn.inputs]), strict=True))
        return jnp.ravel(env[program.outputs[0]])

    def one(k: Any, i: Any) -> Array:
        ends, fixed = stop_gradient((lo, hi)), stop_gradient(known)
        latent = box(*ends)(0.5 * (ends[0] + ends[1]))
        u = attack.solve(k, objective(lambda u: tail(fixed, u)[i][None]), latent).witness
        return tail(known, connected(lo, hi, stop_gradient(u), jnp.asarray(edge, lo.dtype)))[i]

    n = bound.info["elements"].shape[0]
    elements = jax.vmap(one)(jax.random.split(key, n), jnp.arange(n))
    info = {"elements": elements}
    if expand is not None:
        louder = expand * elements - stop_gradient((expand - 1.0) * elements)
        info |= {"parts": jnp.stack([louder, bound.info["elements"]]), "exponents": jnp.ones(2, elements.dtype)}
    return Bound(jnp.max(elements), None, info)


def taps(
    *,
    relus: int = 1,
    attack: Oracle | int = 8,
    edge: Any = 0.5,
    expand: Any = 5.0,
    bound: Oracle | None = None,
) -> Oracle:
    """TAPS: intervals as far as the last ReLUs, from there an attack in the box that they leave, one for each specification.

    An estimate between the two: in `worst_case` and `certified` the loss is that at the attack's margins times that at the bound's.
    On small boxes, ``jr.shrink(taps(), 0.4, about=attack)``, it is STAPS.

    Args:
      relus: how many ReLUs lie behind the cut, which is the output of the one before; 0 leaves the last affine map to the attack.
      attack: an attack without early stop, or steps of PGD, each of 2.5 / steps half-widths.
      edge: the share of a box's width in which a point is near an end, and moves with it (`connected`), in (0, 1]; traced.
      expand: factor on the gradient of the attack's loss, beside that of the bound's; None: the attack's loss alone, unscaled.
      bound: the method before the cut, `jr.bounds.ibp` by default.

    Returns:
      An `Oracle` of side "estimate".

    Raises:
      ValueError: at trace time, a net with no more ReLUs than that, or one cut where a residual connection leads past.

    References:
      Mao, Mueller, Fischer & Vechev, Connecting certified and adversarial training, NeurIPS 2023; for small boxes Mueller et al., ICLR
      2023.

    Deviations: the step of the latent attack is this library's; boxes narrower than 1e-5 share their gradient equally. STAPS
      takes the bound's factor on the small box too.

    >>> import jrobust as jr
    >>> relu, apart = jax.nn.relu, jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    >>> f = jr.objectives.objective(lambda z: jnp.sum(relu(apart @ relu(z)), keepdims=True))
    >>> s, key = jr.sets.linf(1.0)(jnp.zeros(2)), jax.random.key(0)
    >>> print(taps().solve(key, f, s).value, jr.bounds.ibp().solve(key, f, s).value)  # one of the two is 0
    1.0 2.0
    """
    if not isinstance(relus, int) or relus < 0:
        raise ValueError(f"taps: relus is an int >= 0, got {relus!r}")
    if isinstance(edge, int | float) and not 0 < edge <= 1:
        raise ValueError(f"taps: edge lies in (0, 1], got {edge!r}")
    if not isinstance(attack, Oracle):
        check_count(attack, "attack", "taps")
        attack = pgd(steps=attack)
    require(("lower",), attack, by="taps")
    method = method_of(ibp() if bound is None else bound, "taps(bound=)")
    if not isinstance(method, Method):
        raise TypeError(f"taps takes ibp, crown, crown_ibp or alpha_crown as bound, got {method.name}")
    return Oracle("estimate", bind(_solve, attack, edge, expand, method=method, last=relus), name="taps")
