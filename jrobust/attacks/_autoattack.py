"""AutoAttack: the ensemble that robust accuracy is quoted by, as a cascade."""

from collections.abc import Callable

from jrobust._combinators import cascade
from jrobust._oracle import Oracle, adaptive
from jrobust._tree import bind
from jrobust.attacks._apgd import apgd
from jrobust.attacks._fab import fab
from jrobust.attacks._minimum import within
from jrobust.attacks._square import square
from jrobust.objectives import dlr, logit_difference

VERSIONS = ("standard", "plus", "rand")


def _in_turn(oracle: Oracle, n: int) -> Oracle:
    """The oracle ``n`` times with other keys, each on what the ones before left."""
    return cascade(*[oracle] * n)


def _targeted(make: Callable[[int], Oracle], targets: int) -> Oracle:
    """The classes of rank 1, 2, ... by turns."""
    return cascade(*[make(rank) for rank in range(1, targets + 1)])


def _protocol(kind: str, classes: int, *, version: str, steps: int, queries: int) -> Oracle:
    # the ratio of logit differences needs four classes; with fewer the difference itself is climbed
    ratio, name = (dlr, "dlr") if classes >= 4 else (logit_difference, "margin")
    ce = apgd(steps=steps, name="apgd-ce")
    other = apgd(steps=steps, surrogate=ratio, name=f"apgd-{name}")

    def apgd_t(rank: int) -> Oracle:
        return apgd(steps=steps, surrogate=ratio, rank=rank, name=f"apgd-t-{name}")

    def fab_t(rank: int) -> Oracle:
        return within(fab(steps=steps, rank=rank, name="fab-t"))

    every = max(1, min(9, classes - 1))
    few = min(5, every) if kind == "l1" else every
    score = square(queries=queries)
    if version == "rand":
        stages = (ce, other)
    elif version == "plus":
        stages = (
            _in_turn(ce, 5), _in_turn(other, 5), _in_turn(within(fab(steps=steps)), 5), score,
            _targeted(apgd_t, few), _targeted(fab_t, every),
        )  # fmt: skip
    else:
        first = _in_turn(ce, 5) if kind == "l1" else ce
        stages = (first, _targeted(apgd_t, few), _targeted(fab_t, every), score)
    return cascade(*stages)


def autoattack(*, version: str = "standard", steps: int = 100, queries: int = 5000) -> Oracle:
    """AutoAttack for Linf, L2 and L1 sets: parameter-free attacks, each on the examples that the ones before left.

    ``standard``: `apgd` on cross-entropy, `apgd` on the ratio of logit differences towards each of the 9 likeliest wrong classes,
    `fab` towards each of them, `square`. On L1 sets 5 restarts of the first and 5 classes for the second. ``plus``: 5 restarts of
    `apgd` on both surrogates and of untargeted `fab` besides. ``rand``, for `stochastic` models (20 draws are usual): `apgd` on
    both surrogates.

    Args:
      version: standard, plus or rand.
      steps: of `apgd` and `fab`; 100 is the standard.
      queries: of `square`; 5000 is the standard.

    Returns:
      An `Oracle` of side "lower" whose stages a driver runs on the survivors; ``info["stage"]`` says which stage broke an example (-1:
      none). With K classes there are at most K - 1 targets; with fewer than 4 classes, where the ratio is not defined, the
      logit difference takes its place, and the stages are named ``margin`` instead of ``dlr``.

    Guarantee: a lower bound, attained at ``witness``. A number called AutoAttack's is one made with the defaults.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.classification(lambda z: jnp.array([1.0, -1.0]) * z[0], 0)
    >>> aa = autoattack(steps=5, queries=10)
    >>> print(aa.adapt("linf", 2).solve(jax.random.key(0), f, jr.sets.linf(0.3)(jnp.array([0.2]))).value >= 0)
    True

    Raises:
      ValueError: an unknown version.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML 2020.
    Deviations:
      Those of the components. Noise is drawn for each example by itself (the official code reuses its seed in every batch), and
      Square moves each example's window independently.
    """
    if version not in VERSIONS:
        raise ValueError(f"autoattack: version is one of {', '.join(VERSIONS)}, got {version!r}")
    choose = bind(_protocol, version=version, steps=steps, queries=queries)
    return adaptive("lower", choose, name=f"autoattack-{version}")
