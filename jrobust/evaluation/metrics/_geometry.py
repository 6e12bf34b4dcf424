"""How fast outputs change around an example, and how wide the strip is in which the decision turns."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jrobust import _loops
from jrobust._checks import check_count
from jrobust._objective import Objective
from jrobust._tree import bind
from jrobust.attacks import pgd
from jrobust.evaluation.metrics._driver import Scores, check_ball, each, length
from jrobust.evaluation.metrics._inputs import check_moved


def _answer(f: Any, z: Any, of: str) -> Any:
    return jax.nn.softmax(f.outputs(z)) if of == "probabilities" else f.outputs(z)


def _secant(f: Any, x: Any, at: Any, z: Any, *, kind: str, output: str, of: str) -> Any:
    """The slope of the secant from ``x`` to ``z``, and its rise."""
    distance, there = length(z - x, kind), _answer(f, z, of)
    # differences of rounded numbers are wrong by some units in their last place, which a small distance would blow up
    lost = 8 * jnp.finfo(there.dtype).eps * (length(there, output) + length(at, output))
    rise = jnp.maximum(length(there - at, output) - lost, 0.0)
    return jnp.stack([jnp.where(distance > 0, rise / jnp.where(distance > 0, distance, 1.0), 0.0), rise])


def _slope(outputs: Any) -> Any:
    return outputs[:1]


def _rise(f: Any, outputs: Any) -> Any:
    del f
    return outputs[1]


def _steepest(
    threat: Any, key: Any, f: Any, x: Any, *, kind: str, output: str, of: str, steps: int, restarts: int
) -> Any:
    secant = bind(_secant, f, x, _answer(f, x, of), kind=kind, output=output, of=of)
    s, g = threat(x), Objective(secant, bind(_slope))

    def one(key: Any) -> Any:
        attacks = pgd(steps=steps), pgd(steps=steps, surrogate=_rise)
        return jnp.maximum(*(attack.solve(key, g, s).value for attack in attacks))

    return jnp.max(_loops.map(one, jax.random.split(key, restarts)))


def local_lipschitz(
    model: Any,
    x: Any,
    y: Any,
    *,
    threat: Any,
    key: Any,
    output: Literal["l1", "l2", "linf"] = "l1",
    of: Literal["logits", "probabilities"] = "logits",
    steps: int = 10,
    restarts: int = 1,
    batch_size: int = 256,
) -> Scores:
    """The steepest secant found from an example: ``max ||f(x') - f(x)|| / ||x' - x||`` over x' in a ball, by PGD.

    Args:
      model, x, y, key, batch_size: as in `jr.evaluate`; the labels play no part.
      threat: `jr.sets.linf`, `l2` or `l1`; distances of inputs are in its norm.
      output: the norm of what the outputs move.
      of: what f gives.
      steps: of PGD, each 2.5 / steps of the radius.
      restarts: random starts, from each of which one PGD climbs the ratio and one its numerator.

    Returns:
      `Scores` of side "lower".

    Guarantee: each number is attained at a point of the ball, so it is at most the local Lipschitz constant there. Eight units in the
      last place of the outputs are taken off for the rounding of their differences; what a model loses inside is not known. Of a random
      model it speaks of the mean of the n draws that the example keeps, on which PGD climbs too: no bound on that of infinitely many.

    Raises:
      ValueError: another threat, norm or count.

    >>> import jrobust as jr
    >>> found = local_lipschitz(lambda x: 3 * x, jnp.ones((1, 2)), jnp.array([0]), threat=jr.sets.linf(0.1), key=jax.random.key(0))
    >>> print(found.values.round(3))
    [6.]

    References:
      Yang et al., A closer look at accuracy vs. robustness, NeurIPS 2020 (L1 over Linf, logits).
    Deviations:
      They climb the ratio alone, and keep the last step. Through the maximum of a Linf distance that moves one entry at a time and
      swings about the best ratio; the numerator leads to corners. The best of all steps of both is kept.
    """
    threat = check_ball(threat, "local_lipschitz")
    if output not in ("l1", "l2", "linf"):
        raise ValueError(f'local_lipschitz: output is "l1", "l2" or "linf", got {output!r}')
    if of not in ("logits", "probabilities"):
        raise ValueError(f'local_lipschitz: of is "logits" or "probabilities", got {of!r}')
    check_count(steps, "steps", "local_lipschitz")
    check_count(restarts, "restarts", "local_lipschitz")
    measure = bind(_steepest, threat, kind=threat.name, output=output, of=of, steps=steps, restarts=restarts)
    values = each(measure, model, x, y, key=key, batch_size=batch_size, by="local_lipschitz")
    return Scores(values.astype(float), "lower", {})


def _strip(lower: Any, upper: Any, key: Any, f: Any, x: Any, z: Any, *, points: int) -> dict[str, Any]:
    del key
    here, there = f.outputs(x), f.outputs(z)
    i, j = jnp.argmax(here), jnp.argmax(there)

    def inside(t: Any) -> Any:
        p = jax.nn.softmax(f.outputs(x + t.astype(x.dtype) * (z - x)))
        return (lower < p[i] - p[j]) & (p[i] - p[j] < upper)

    share = jnp.mean(_loops.map(inside, (jnp.arange(points) + 0.5) / points, batch_size=min(points, 32)))
    return {"thickness": share * length(z - x, "l2"), "crosses": i != j}


def boundary_thickness(
    model: Any,
    x: Any,
    y: Any,
    witness: Any,
    *,
    lower: float | int = 0.0,
    upper: float | int = 0.75,
    points: int = 128,
    key: Any = None,
    batch_size: int = 64,
) -> Scores:
    """The length of the way from an example to its witness on which ``lower < p_i - p_j < upper``.

    p are the probabilities, i the class predicted at the example and j that at the witness.

    Args:
      model, x, y, batch_size: as in `jr.evaluate`; the labels play no part.
      witness: [N, ...]; the paper's are targeted PGD, L2 1.0, 20 steps of 0.2, to a random wrong class.
      lower, upper: -1 <= lower < upper <= 1.
      points: at which the way is looked at.
      key: for a random model alone, of whose draws one mean is taken all the way.

    Returns:
      `Scores` of side "estimate", L2 lengths; NaN where the witness is of the same class, so that no boundary is crossed.

    Raises:
      ValueError: limits or counts out of range, shapes that differ.

    References:
      Yang et al., Boundary thickness and robustness in learning models, NeurIPS 2020.
    Deviations:
      Points in the middles of equal pieces, not at both ends; j is the class at the witness, where the authors' code takes the target
      of the attack, reached or not.
    """
    if not -1 <= lower < upper <= 1:
        raise ValueError(f"boundary_thickness: -1 <= lower < upper <= 1, got {lower!r} and {upper!r}")
    check_count(points, "points", "boundary_thickness")
    check_moved(x, witness, "boundary_thickness")
    measure = bind(_strip, lower, upper, points=points)
    found = each(measure, model, x, y, key=key, batch_size=batch_size, by="boundary_thickness", more=(witness,))
    values = found["thickness"].astype(float)
    values[~found["crosses"]] = float("nan")
    return Scores(values, "estimate", {})
