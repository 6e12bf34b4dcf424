"""Statistics of one batch, read off a pass in training mode that only reports running averages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust import _jaxpr

_FAR = 2.0**60  # a running average beside which no batch counts


def of_batch(passed: Callable[[Any], tuple[Any, Any]], rest: Any) -> Any:
    """What a pass in training mode normalised with: the ``rest`` that the pass would leave as it is.

    A running average moves as ``r -> m r + (1 - m) s``, so the batch's own statistic s is where it stands still. Both numbers are
    read off the pass itself, at an r so large that s does not count and at r = 0 where nothing cancels: whatever the momentum and
    whichever library the model is from. Gradients reach s, although libraries stop them at their running averages.

    Args:
      passed: ``rest -> (outputs, rest')`` of one batch in training mode.
      rest: the running averages, and arrays that are none (constants, counters, random streams, directions of power iterations), which
        become what the pass returns.

    >>> s = of_batch(lambda r: (None, {"mean": 0.9 * r["mean"] + 0.1 * 5.0, "std": r["std"]}), {"mean": jnp.ones(1), "std": jnp.ones(1)})
    >>> print(jnp.round(s["mean"], 4), s["std"])
    [5.] [1.]
    """
    leaves, tree = jax.tree.flatten(rest)
    closed = _jaxpr.trace(lambda *leaves: jax.tree.leaves(passed(tree.unflatten(leaves))[1]), *leaves)
    inner = closed.jaxpr
    stopped = {eqn.outvars[0]: eqn.invars[0] for eqn in inner.eqns if eqn.primitive.name == "stop_gradient"}
    outs = [v if isinstance(v, _jaxpr.Literal) else stopped.get(v, v) for v in inner.outvars]
    after = _jaxpr.jaxpr_as_fun(_jaxpr.ClosedJaxpr(inner.replace(outvars=outs), closed.consts))
    moved = [
        i is not o and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        for i, o, leaf in zip(inner.invars, inner.outvars, leaves, strict=True)
    ]

    def at(r: float) -> Any:
        return after(*(jnp.full_like(leaf, r) if m else leaf for leaf, m in zip(leaves, moved, strict=True)))

    def still(leaf: Any, near: Any, far: Any, here: Any, moved: bool) -> Any:
        if not moved:
            return near
        momentum = jax.lax.stop_gradient(far) / _FAR
        # what moves otherwise (the direction of a power iteration, say) does not lie on the line, and becomes what the pass returns
        gap = jnp.abs(here - (momentum * leaf + near))
        averaged = (momentum >= 0) & (momentum < 1) & (gap <= 1e-4 * (jnp.abs(here) + jnp.abs(near)) + 1e-6)
        return jnp.where(averaged, near / jnp.where(averaged, 1.0 - momentum, 1.0), here)

    found = zip(leaves, at(0.0), at(_FAR), after(*leaves), moved, strict=True)
    return tree.unflatten([still(*each) for each in found])
