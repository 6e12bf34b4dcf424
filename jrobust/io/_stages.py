"""The compiled steps of a verification run: attacks and bounds over some cases at once, one program for all nets of a shape."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._objective import Objective, objective
from jrobust._tree import bind
from jrobust.io._specification import Case, inward, outward, padded, up
from jrobust.sets import box
from jrobust.typing import Array


class Problems(NamedTuple):
    """Cases as float32 arrays with a leading axis: boxes [c, *shape], and unsafe outputs A[c, d, r, m], b[c, d, r]."""

    lo: Any
    hi: Any
    A: Any
    b: Any


def pack(cases: list[Case], like: list[Case], shape: tuple[int, ...], *, inside: bool) -> Problems:
    """Some cases, padded to the most disjuncts and rows that any of ``like`` has, so that every chunk is one program.

    ``inside``: boxes inside the true ones (for attacks) instead of around them. ``b`` is rounded up: what is proven holds.
    """
    most = max(len(case.disjuncts) for case in like)
    rows = max(1, *(len(b) for case in like for _, b in case.disjuncts))
    filled = [case.disjuncts + case.disjuncts[:1] * (most - len(case.disjuncts)) for case in cases]
    boxes = [(inward if inside else outward)(*case.box(shape)) for case in cases]
    lo, hi = (np.stack(ends).reshape(-1, *shape) for ends in zip(*boxes, strict=True))
    A, b = (np.stack(parts) for parts in zip(*(padded(d, rows) for d in filled), strict=True))
    return Problems(lo, hi, A.astype(np.float32), up(b))


def outputs(leaves: Any, z: Any, *, apply: Any) -> Array:
    """The network's outputs [m] of one example, full float32."""
    with jax.default_matmul_precision("highest"):
        return apply(leaves, z[None])[0]


def _slacks(leaves: Any, A: Any, b: Any, z: Any, *, apply: Any) -> Array:
    return b - A @ outputs(leaves, z, apply=apply)


def _rows(leaves: Any, A: Any, b: Any, z: Any, *, apply: Any) -> Array:
    return (b.ravel() - A.reshape(-1, A.shape[-1]) @ outputs(leaves, z, apply=apply)).ravel()


def _least(slacks: Any) -> Array:
    """One violation a disjunct; outputs that are NaN are in no polyhedron, and no counterexample."""
    least = jnp.min(slacks, axis=-1)
    return jnp.where(jnp.isnan(least), -jnp.inf, least)


def _toward(f: Objective, slacks: Any) -> Array:
    """One disjunct: its least row, and all that are short of it, so that no row waits for another."""
    rows = slacks[f.target]
    return jnp.min(rows) + jnp.sum(jnp.minimum(rows, 0.0))


def _middle(lo: Any, hi: Any) -> Any:
    return jnp.clip(0.5 * lo + 0.5 * hi, lo, hi)


def attacked(
    oracle: Any, keys: Any, leaves: Any, problems: Problems, *, apply: Any, restarts: int
) -> tuple[Array, Array]:
    """The largest violation that ``restarts`` runs an example find, spread over the disjuncts, and where: [c], [c, *shape]."""
    d = problems.A.shape[1]

    def one(key: Any, p: Problems) -> tuple[Array, Array]:
        s = box(p.lo, p.hi)(_middle(p.lo, p.hi))

        def run(key: Any, target: Any) -> Any:
            f = Objective(bind(_slacks, leaves, p.A, p.b, apply=apply), bind(_least), _toward, target=target)
            return oracle.solve(key, f, s)

        bound = jax.vmap(run)(jax.random.split(key, restarts), jnp.arange(restarts) % d)
        best = jnp.argmax(bound.value)
        return bound.value[best], bound.witness[best]

    return jax.vmap(one)(keys, problems)


def proven(oracle: Any, leaves: Any, problems: Problems, *, apply: Any) -> Array:
    """Whether each case has no unsafe point: in every disjunct some row is refuted on the whole box. [c]

    Rows are bounded one by one, as one affine map behind the network; the least of their upper bounds bounds their minimum.
    """

    def one(p: Problems) -> Array:
        s = box(p.lo, p.hi)(_middle(p.lo, p.hi))
        f = objective(bind(_rows, leaves, p.A, p.b, apply=apply))
        elements = oracle.solve(jax.random.key(0), f, s).info["elements"].reshape(p.b.shape)
        return jnp.all(jnp.min(elements, axis=-1) < 0)

    return jax.vmap(one)(problems)


# A network meets most of these programs once, so that on CPU their compilation is what they cost: half of it is optimisation.
_FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`attacked` or `proven`, jitted."""
    options = _FAST if jax.default_backend() == "cpu" else None
    names = ("apply", "restarts") if fn is attacked else ("apply",)
    return jax.jit(fn, static_argnames=names, compiler_options=options)
