"""The driver over several radii of one family."""

from pathlib import Path
from typing import Any

import numpy as np

from jrobust.evaluation._evaluate import evaluate_above, finished
from jrobust.evaluation._results import Curve, Evaluation
from jrobust.sets import Threat


def curve(
    model: Any, x: Any, y: Any, *, threat: Threat, eps: Any, nested: bool = False, out: Any = None, **options: Any
) -> Curve:
    """`evaluate` at several radii of one family, with one set of compiled programs.

    Args:
      model, x, y: as in `evaluate`.
      threat: its family is what is swept; its own eps is not used.
      eps: radii [E], >= 0.
      nested: use that the sets of a family lie in one another. The largest radius comes first; an example that an attack did not
        break there, or that a bound proved, is not given to it again at smaller radii, nor one whose witness lies in the smaller
        set already. With attacks an unbroken example then costs one attack instead of E; the sides stay true, but an attack that
        fails at a large radius might have succeeded at a small one. ``info`` is that of the radius where the answer was found.
      out: a directory; each radius has its own inside it.
      **options: everything else that `evaluate` takes.

    Returns:
      A `Curve`, its radii as they were given.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> x, y = jnp.array([[0.2, 0.8], [0.55, 0.45]]), jnp.array([1, 0])
    >>> c = curve(lambda x: x, x, y, threat=jr.sets.linf(0.0), eps=[0.0, 0.1, 0.4],
    ...           oracles={"fgsm": jr.attacks.fgsm()}, key=jax.random.key(0))
    >>> [a.value for a in c.accuracy("fgsm")]
    [1.0, 0.5, 0.0]
    """
    radii = np.asarray(eps, np.float64)
    if radii.ndim != 1 or not len(radii):
        raise ValueError(f"eps must be a list of radii [E], got shape {radii.shape}")
    if not (np.isfinite(radii).all() and (radii >= 0).all()):
        raise ValueError(f"eps must be finite and >= 0, got {radii.tolist()}")
    runs: dict[float, Evaluation] = {}
    above = None
    for e in sorted(set(radii.tolist()), reverse=nested):
        folder = None if out is None else Path(out) / f"eps-{np.format_float_positional(e, trim='-')}"
        run = evaluate_above(above, model, x, y, threat=threat.family(e), out=folder, **options)
        runs[e], above = finished(run, options.get("shard")), run if nested else None
    return Curve(radii, tuple(runs[e] for e in radii.tolist()))
