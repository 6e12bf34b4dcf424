"""`verify`: an attack, a ladder of bounds and a search on one example, each only where the one before left it open."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import attacks, bounds
from jrobust._combinators import ask, decided_at, parts, restarts
from jrobust._iterate import violated
from jrobust._objective import Objective
from jrobust._oracle import Oracle, check_problem, require
from jrobust._tree import is_traced
from jrobust.typing import Array, Float, Point

_SEARCH = "branch-and-bound"


@partial(jax.tree_util.register_dataclass, data_fields=["lower", "upper", "witness", "stage"], meta_fields=["stages"])
@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an attack and a bound say together about one example; a pytree.

    Attributes:
      lower, upper: bounds on the largest violation; ``violated`` iff not ``lower < 0``, ``verified`` iff ``upper < 0``.
      witness: the worst point found.
      stage: int, the place in ``stages`` of what decided; -1 where the example is open.
      stages: the names of all stages in the order in which they are asked: those of the attack, of the bound, and the search.
    """

    lower: Float[Array, "..."]
    upper: Float[Array, "..."]
    witness: Point
    stage: Any
    stages: tuple[str, ...]

    @property
    def violated(self) -> Array:
        """A witness breaks the property."""
        return violated(self.lower)

    @property
    def verified(self) -> Array:
        """The bound proves the property, and no witness contradicts it."""
        return (self.upper < 0) & ~self.violated

    @property
    def contradiction(self) -> Array:
        """Both at once: a bug in an oracle, or rounding; never a certificate."""
        return (self.upper < 0) & self.violated

    @property
    def gap(self) -> Float[Array, "..."]:
        """``upper - lower``: how much of the worst case is not yet known."""
        return self.upper - self.lower

    @property
    def status(self) -> Any:
        """ "violated", "verified" or "unknown": a string, or after vmap a NumPy array of them."""
        self._concrete("status", ".violated and .verified")
        return _text(np.where(self.violated, "violated", np.where(self.verified, "verified", "unknown")))

    @property
    def decided_by(self) -> Any:
        """The name of the stage that decided, "open" where none did: a string, or after vmap a NumPy array of them."""
        self._concrete("decided_by", ".stage")
        return _text(np.array([*self.stages, "open"])[np.asarray(self.stage)])

    def _concrete(self, name: str, instead: str) -> None:
        if is_traced(self):
            raise TypeError(f"Verdict.{name} is text and needs concrete arrays; under jit or vmap use {instead}")


def _text(each: Any) -> Any:
    return each if each.ndim else each.item()


def verify(
    f: Objective,
    s: Any,
    *,
    key: Any,
    lower: Oracle | None = None,
    upper: Oracle | None = None,
    budget: int | float = 0,
    **options: Any,
) -> Verdict:
    """Attack first, then bounds, then branch and bound, each only on what is still open: violated, verified, or open with a gap.

    Args:
      f: the objective.
      s: the set.
      key: consumed.
      lower: an attack (`cascade` for a suite); None: PGD of 40 steps that stops at a violation, eight times.
      upper: a bound (`cascade` for several); None: `jr.bounds.ladder()`.
      budget: seconds of `jr.bounds.branch` where both leave the example open (looked at between its compiled steps; its compilation
        counts); 0: none.
      **options: further ones of `jr.bounds.branch`, such as ``batch``, ``over`` or ``nodes``.

    Returns:
      A `Verdict`. Where the attack succeeded ``upper`` is ``+inf``, not computed.

    Raises:
      ValueError: oracles on the wrong side, a negative budget, options of a search without one, a class out of range, or a centre
        that is not in its own set (outside of the clip, NaN).
      TypeError: a budget or a host oracle under jit, vmap or grad.

    Guarantee: "violated" has a witness in the set, "verified" is as good as the bound that proved it (float rounding is not directed
      outward). On concrete arrays a stage that is not needed is neither run nor compiled, and each is one program for all objectives of
      one form; under jit the same is one program, and under vmap all of it is paid for (`jr.evaluate` takes a data set).

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([z[0], z[1]]), 0)
    >>> s = jr.sets.linf(0.1)(jnp.array([1.0, 0.0]))
    >>> verdict = verify(f, s, key=jax.random.key(0), lower=jr.attacks.fgsm(), budget=30)
    >>> verdict.status, verdict.decided_by, verdict.stages
    ('verified', 'ibp', ('fgsm', 'ibp', 'crown-ibp', 'crown', 'alpha-crown', 'branch-and-bound'))

    References:
      Deshmukh, Savin, Arya, Veriphi (attack-guided verification), arXiv 2606.18454.
    """
    lower = restarts(attacks.pgd(early_stop=True), 8) if lower is None else lower
    upper = bounds.ladder() if upper is None else upper
    require(("lower",), lower, by="verify(lower=)")
    require(("upper",), upper, by="verify(upper=)")
    if not budget >= 0:
        raise ValueError(f"verify: budget is a number of seconds >= 0, got {budget}")
    if options and budget == 0:
        raise ValueError(f"verify: {', '.join(options)} is for branch and bound, which takes a budget > 0")
    check_problem(f, s)
    jax.eval_shape(f, s.center)  # a label out of range is an error here; below it is traced
    keys = jax.random.split(key)
    found = ask(lower, keys[0], f, s)
    hit, dtype, first = violated(found.value), found.value.dtype, len(parts(lower))
    nothing = jnp.asarray(jnp.inf, dtype), jnp.asarray(-1, jnp.int32)

    def bounded() -> tuple[Float[Array, ""], Array]:
        bound = ask(upper, keys[1], f, s)
        at = decided_at(upper, bound, "upper")
        return jnp.asarray(bound.value, dtype), jnp.where(at < 0, -1, first + at)

    if not is_traced(found.value):
        above, proved = nothing if hit else bounded()
    elif budget > 0 or upper.host:
        raise TypeError(
            "verify: branch and bound (budget > 0) and host oracles cannot be traced (it was called under jit, vmap or grad); "
            "call it on concrete arrays, or let jr.evaluate loop over the examples"
        )
    else:
        above, proved = jax.lax.cond(hit, lambda: nothing, bounded)
    stage = jnp.where(hit, decided_at(lower, found, "lower"), proved)
    stages = tuple(oracle.name for side in (lower, upper) for oracle in parts(side))
    verdict = Verdict(found.value, above, found.witness, stage, stages)
    return verdict if budget == 0 else _searched(verdict, f, s, budget, options)


def _searched(verdict: Verdict, f: Objective, s: Any, budget: int | float, options: dict[str, Any]) -> Verdict:
    """The same after branch and bound, where nothing has decided yet; its witness is evaluated once more."""
    stages = (*verdict.stages, _SEARCH)
    if verdict.stage >= 0:
        return dataclasses.replace(verdict, stages=stages)
    found = bounds.branch(f, s, seconds=budget, **options)
    lower, upper = f.value(f.outputs(found.witness)), jnp.asarray(found.upper, verdict.upper.dtype)
    better = s.contains(found.witness) & ~(lower <= verdict.lower)
    lower, witness = (lower, found.witness) if better else (verdict.lower, verdict.witness)
    upper = jnp.minimum(verdict.upper, upper)
    stage = jnp.asarray(len(stages) - 1 if violated(lower) or upper < 0 else -1, jnp.int32)
    return Verdict(lower, upper, witness, stage, stages)
