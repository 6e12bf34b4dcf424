"""First-order attacks on any set: FGSM and projected gradient ascent with any optax rule."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jrobust._checks import check_transformation
from jrobust._iterate import Algorithm, iterate
from jrobust._objective import Objective, is_anchored
from jrobust._oracle import Bound, Oracle
from jrobust._tree import bind, normal_like, stop_gradient
from jrobust.attacks._rules import steepest
from jrobust.attacks._state import Surrogate, broken, climb, keep, nothing, with_last
from jrobust.typing import Array, Float, Point


class AscentState(NamedTuple):
    """The iterate, its rule's state, the worst case among the points evaluated so far, and the last point's numbers."""

    z: Point
    rule: Any
    value: Float[Array, ""]
    witness: Point
    height: Float[Array, ""]
    last: Float[Array, ""]


def _init(given: Any, key: Any, f: Objective, s: Any, *, rule: Any, start: Any) -> AscentState:
    del f
    if callable(start):
        z = s.project(start(key, s))
    elif start == "random":
        z = s.sample(key)
    else:
        z = s.center if given is None else s.project(jnp.broadcast_to(given, s.center.shape))
    worst = nothing(z)
    return AscentState(z, rule.init(z), worst, z, worst, worst)


def _step(
    step: Any, key: Any, state: AscentState, f: Objective, s: Any, *, rule: Any, surrogate: Surrogate | None
) -> AscentState:
    del key
    value, height, gradient = climb(f, surrogate, state.z)
    state = keep(state, state.z, value)._replace(
        height=height.astype(state.height.dtype), last=value.astype(state.last.dtype)
    )
    descent = jax.tree.map(jnp.negative, gradient)
    update, memory = rule.update(descent, state.rule, state.z, set=s)
    z = s.project(jax.tree.map(lambda a, u: a + step * u, state.z, update))
    return state._replace(z=z, rule=memory)


def _best(state: AscentState, f: Objective, s: Any, *, last: bool) -> tuple[Float[Array, ""], Point]:
    if last:
        return f.value(f.outputs(state.z)), state.z
    return with_last(state, f, s)


_ABSOLUTE, _RELATIVE = steepest(), steepest(relative=True)


def pgd(
    *,
    steps: int = 40,
    step: Any = None,
    start: Any = "random",
    surrogate: Surrogate | None = None,
    rule: optax.GradientTransformation | None = None,
    keep: Literal["best", "last"] = "best",
    early_stop: bool = False,
    trace: bool = False,
) -> Oracle:
    """Projected gradient ascent on any set: ``z <- project(z + step * direction(grad))``.

    Args:
      steps: gradient steps, >= 1 (structure).
      step: length of a step in the norm of the set (half-widths for a box); traced. None: ``2.5 / steps`` of the set's own
        radius. With ``rule``, a factor on its updates (None: 1).
      start: "random" (a sample of the set), "center", a function ``(key, set) -> z``, or a point (projected onto the set).
      surrogate: what is climbed, ``(objective, outputs) -> scalar``; None takes the objective's own (cross-entropy for
        classification). Success is always judged by the objective.
      rule: any optax transformation (momentum, Adam, schedules; `steepest` sees the set); None is `steepest`. It descends on
        minus the surrogate, so optax optimizers go in as they are.
      keep: "best" returns the worst case seen, "last" the last iterate (in training the final forward pass then costs nothing).
      early_stop: stop each example at its first violation (a while loop). Not for `worst_case`.
      trace: record the surrogate and the value at each iterate in ``info["trace"]``, [steps] each.

    Returns:
      An `Oracle` of side "lower". A targeted attack is the same oracle on ``classification(..., target=t)``.

    Guarantee: a lower bound, attained at ``witness``, which lies in the set to rounding.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> bound = pgd(steps=10).solve(jax.random.key(0), f, jr.sets.linf(0.3)(jnp.array([0.5])))
    >>> print(f"{bound.value:.3f} at {bound.witness[0]:.3f}")  # margin -2 z at z = 0.2
    -0.400 at 0.200

    References:
      Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018.
    Deviations:
      The best of all iterates is kept, not the last, unless ``keep="last"``.
    """
    if keep not in ("best", "last"):
        raise ValueError(f"pgd: keep is 'best' or 'last', got {keep!r}")
    if isinstance(start, str) and start not in ("random", "center"):
        raise ValueError(f"pgd: start is 'random', 'center', a function (key, set) -> z or a point, got {start!r}")
    if early_stop and keep == "last":
        raise ValueError("pgd: early_stop keeps the violation it found; use keep='best'")
    if rule is not None:
        check_transformation(rule, "rule")
        chosen, length = optax.with_extra_args_support(rule), 1.0 if step is None else step
    elif step is None:
        chosen, length = _RELATIVE, 2.5 / steps if isinstance(steps, int) and steps > 0 else 1.0
    else:
        chosen, length = _ABSOLUTE, step
    if isinstance(start, str) or callable(start):
        init = bind(_init, None, rule=chosen, start=start)
    else:
        init = bind(_init, start, rule=chosen, start="given")
    algorithm = Algorithm(
        init,
        bind(_step, length, rule=chosen, surrogate=surrogate),
        bind(_best, last=keep == "last"),
        anchored=is_anchored(surrogate),
    )
    return iterate(
        algorithm,
        steps,
        until=broken if early_stop else None,
        trace=_heights if trace else None,
        name=f"pgd-{steps}",
    )


def _heights(state: AscentState) -> dict[str, Array]:
    return {"surrogate": state.height, "value": state.last}


def _fgsm(key: Any, f: Objective, s: Any, *, surrogate: Surrogate | None) -> Bound:
    del key
    _, _, gradient = climb(f, surrogate, s.center)
    z = s.argsup(stop_gradient(gradient))  # it moves with the set, as the points of an ascent do
    return Bound(f.value(f.outputs(z)), z, {"forwards": jnp.asarray(2), "backwards": jnp.asarray(1)})


def fgsm(*, surrogate: Surrogate | None = None) -> Oracle:
    """The maximiser of the linearised surrogate over the set: one gradient at the centre.

    For Linf ``x + eps sign(grad)`` (inside the clip), for other sets their own linear maximiser. Exact on linear models.

    Args:
      surrogate: what is linearised; None takes the objective's own.

    Returns:
      An `Oracle` of side "lower".

    Guarantee: a lower bound, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> print(fgsm().solve(jax.random.key(0), f, jr.sets.linf(0.25)(jnp.array([0.5]))).value)
    -0.5

    References:
      Goodfellow, Shlens & Szegedy, Explaining and harnessing adversarial examples, ICLR 2015.
    """
    return Oracle("lower", bind(_fgsm, surrogate=surrogate), name="fgsm")


def _kicked(alpha: Any, key: Any, s: Any) -> Point:
    noise = normal_like(key, s.center)
    return jax.tree.map(lambda a, d: a + alpha * d, s.center, s.steepest(noise, relative=True))


def rfgsm(*, alpha: Any = 0.5, surrogate: Surrogate | None = None) -> Oracle:
    """R+FGSM: a random step of ``alpha`` radii, then one gradient step of the rest.

    Args:
      alpha: share of the radius that the random step takes, in [0, 1); traced.
      surrogate: what is climbed; None takes the objective's own.

    Returns:
      An `Oracle` of side "lower".

    Guarantee: a lower bound, attained at ``witness``.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> rfgsm().solve(jax.random.key(0), f, jr.sets.linf(0.3)(jnp.array([0.5]))).value < -0.3
    Array(True, dtype=bool)

    References:
      Tramer et al., Ensemble adversarial training: attacks and defenses, ICLR 2018.
    """
    one = pgd(steps=1, step=1.0 - alpha, start=bind(_kicked, alpha), rule=_RELATIVE, surrogate=surrogate)
    return dataclasses.replace(one, name="rfgsm")


class _Wolfe(NamedTuple):
    """The iterate, the averaged gradient, steps so far, and the worst case among evaluated points."""

    z: Point
    momentum: Point
    count: Array
    value: Float[Array, ""]
    witness: Point


def _wolfe_init(key: Any, f: Objective, s: Any) -> _Wolfe:
    del key, f
    if not s.geometry.convex:
        raise ValueError(f"frank_wolfe needs a convex set, got {s.geometry.name}; use jr.attacks.pgd")
    x = s.center
    return _Wolfe(x, jax.tree.map(jnp.zeros_like, x), jnp.asarray(0, jnp.int32), nothing(x), x)


def _wolfe_step(memory: Any, key: Any, state: _Wolfe, f: Objective, s: Any, *, surrogate: Surrogate | None) -> _Wolfe:
    del key
    value, _, gradient = climb(f, surrogate, state.z)
    state = keep(state, state.z, value)
    momentum = jax.tree.map(lambda m, g: memory * m + (1 - memory) * g, state.momentum, gradient)
    share = 2.0 / (state.count + 2.0)
    # a convex combination of points of the set: no projection
    z = jax.tree.map(lambda a, v: a + share.astype(a.dtype) * (v - a), state.z, s.argsup(momentum))
    return state._replace(z=z, momentum=momentum, count=state.count + 1)


def frank_wolfe(*, steps: int = 40, memory: Any = 0.9, surrogate: Surrogate | None = None) -> Oracle:
    """Frank-Wolfe ascent: move towards the set's own linear maximiser; never projects, for every set that is convex.

    ``z <- z + 2 / (t + 2) (argsup(m) - z)`` with the averaged gradient m.

    Args:
      steps: >= 1 (structure).
      memory: of the averaged gradient, in [0, 1); traced. 0 is the plain method.
      surrogate: what is climbed; None takes the objective's own.

    Returns:
      An `Oracle` of side "lower".

    Guarantee: a lower bound, attained at ``witness``. Exact on linear models after one step.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> print(frank_wolfe(steps=2).solve(jax.random.key(0), f, jr.sets.linf(0.25)(jnp.array([0.5]))).value)
    -0.5

    References:
      Chen et al., A Frank-Wolfe framework for efficient and effective adversarial attacks, AAAI 2020.
    Deviations:
      The step is the classic 2 / (t + 2), not a constant, and the set is not enlarged first.
    """
    algorithm = Algorithm(_wolfe_init, bind(_wolfe_step, memory, surrogate=surrogate), with_last)
    return iterate(algorithm, steps, name=f"frank_wolfe-{steps}")
