"""The usual ladder of bounds, from the cheapest to the dearest."""

from jrobust._combinators import cascade
from jrobust._oracle import Oracle
from jrobust.bounds._branch import branch_and_bound
from jrobust.bounds._methods import alpha_crown, crown, crown_ibp, ibp


def ladder(*, seconds: int | float = 0) -> Oracle:
    """``cascade(ibp(), crown_ibp(), crown(), alpha_crown(target=0))``, and branch and bound where a budget is given.

    Args:
      seconds: of branch and bound for each example that the others leave open; 0: it is left out, and the ladder is compiled whole.

    Returns:
      An `Oracle` of side "upper"; ``info["stage"]`` is the place in ``stages`` of what proved the example, -1 where it is open. With
      ``seconds`` it runs on the host: called by itself on concrete arrays, or by `jr.evaluate`, which takes the last stage one example
      at a time.

    Guarantee: as of its stages: an upper bound in exact arithmetic, float rounding is not directed outward.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> [stage.name for stage in ladder(seconds=10).stages]
    ['ibp', 'crown-ibp', 'crown', 'alpha-crown', 'branch-and-bound']
    >>> f = jr.objectives.classification(lambda z: jnp.stack([z[0], jax.nn.relu(z[1])]), 0)
    >>> print(ladder().solve(jax.random.key(0), f, jr.sets.linf(0.25)(jnp.array([1.0, 0.0]))).info["stage"])
    0
    """
    if not seconds >= 0:
        raise ValueError(f"ladder: seconds is a number >= 0, got {seconds}")
    search = (branch_and_bound(seconds=seconds),) if seconds > 0 else ()
    return cascade(ibp(), crown_ibp(), crown(), alpha_crown(target=0), *search)
