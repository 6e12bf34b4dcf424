"""SmoothAdv: adversarial training of the smoothed classifier, whose noise is held fixed while it is attacked."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_count
from jrobust._objective import Loss, log_mean
from jrobust._oracle import Oracle, RadiusOracle, require
from jrobust._transforms import AtWitnesses, check_part_of_a_loss, over_examples
from jrobust._tree import is_traced, stop_gradient, vdot
from jrobust.objectives import classification
from jrobust.sets import Threat
from jrobust.training._noisy import check_level, consistent, mean_loss, noises, streams, under_noise
from jrobust.training._paired import inner
from jrobust.typing import Array, Float


def stein(values: Float[Array, "m K"], z: Any, noise: Any, sigma: Any) -> Float[Array, " K"]:
    """The mean of ``values = f(z + noise_j)``, with Stein's estimate of the gradient of ``E f(z + noise)`` as its derivative by z.

    ``1 / ((m - 1) sigma^2) sum_j noise_j (f(z + noise_j) - mean)``: unbiased, and no derivative of f.

    >>> noise = jax.random.normal(jax.random.key(0), (4000, 1))
    >>> slope = jax.grad(lambda z: stein(stop_gradient(3.0 * (z + noise)), z, noise, 1.0)[0])(jnp.zeros(1))
    >>> bool(jnp.abs(slope[0] - 3.0) < 0.3)
    True
    """
    values, here = jax.lax.stop_gradient(values), stop_gradient(z)
    moved = jax.tree.map(jnp.subtract, z, here)
    along = jax.vmap(lambda n: vdot(n, moved))(noise) / (sigma**2 * (values.shape[0] - 1))
    return jnp.mean(values, 0) + along @ (values - jnp.mean(values, 0))


def crafting_under_noise(
    loss: Loss,
    threat: Threat,
    sigma: Any,
    samples: int,
    attack: Oracle | RadiusOracle,
    gradient: str,
    by: str,
) -> Callable[..., Any]:
    """`AtWitnesses.craft` against the mean of the probabilities at noisy copies, once the attack is known to serve."""
    if isinstance(attack, RadiusOracle):
        if attack.side != "upper" or attack.host:
            raise ValueError(f"{by} takes a minimum-norm attack such as jr.attacks.ddn(), got {attack.name}")
    else:
        require(("lower",), attack, by=by)
        check_part_of_a_loss(attack, threat, by)
    if gradient not in ("exact", "stein"):
        raise ValueError(f"{by}: gradient is 'exact' or 'stein', got {gradient!r}")
    check_level(sigma, by, gaussian=True)
    check_count(samples, "samples", by, least=2 if gradient == "stein" else 1)
    if gradient == "stein" and not is_traced(sigma) and sigma == 0:
        raise ValueError(f"{by}: Stein's estimate divides by sigma, which is 0")

    def craft(params: Any, rest: Any, x: Any, y: Any, *, key: Any) -> Any:
        for_noise, for_attack, _ = streams(key)
        fixed = stop_gradient(params)

        def logits(noise: Any, z: Any) -> Any:
            if gradient == "exact":
                return log_mean(_at_copies(loss, fixed, rest, z, noise))
            p = jax.nn.softmax(_at_copies(loss, fixed, rest, stop_gradient(z), noise))
            return jnp.log(jnp.maximum(stein(p, z, noise, sigma), 1e-20))

        def one(k: Any, xi: Any, yi: Any, t: Threat, noise: Any) -> Any:
            f = classification(partial(logits, noise), yi)
            if isinstance(attack, RadiusOracle):
                return t(xi).project(attack.solve(k, f, t, xi).witness)
            return attack.solve(k, f, t(xi)).witness

        each = jax.tree.map(lambda n: jnp.swapaxes(n, 0, 1), noises(for_noise, x, sigma, samples))
        return stop_gradient(over_examples(one, threat, for_attack, x, y, each))

    return craft


def _at_copies(loss: Loss, params: Any, rest: Any, z: Any, noise: Any) -> Float[Array, "m K"]:
    return loss.outputs(params, rest, jax.tree.map(jnp.add, z, noise), train=False)[0]


def smooth_adv(
    loss: Loss,
    threat: Threat,
    sigma: Any,
    *,
    samples: int = 2,
    attack: Oracle | RadiusOracle | int = 10,
    gradient: str = "exact",
    consistency: tuple[Any, Any] | None = None,
) -> AtWitnesses:
    """SmoothAdv: the loss at noisy copies of a witness against the smoothed classifier.

    The attack climbs ``-log mean_j p_y(z + n_j)``, the mean inside the logarithm, with the noise held fixed; the loss is the mean over
    the same copies ``z + n_j``.

    Args:
      loss: a `jr.Loss` of logits.
      threat: the perturbations, published: ``jr.sets.l2(eps, clip=(0, 1))`` with eps of 64, 127, 255 or 512 255ths; a warm-up (published:
        eps grows linearly over 10 epochs) is ``scheduled(lambda t: smooth_adv(loss, jr.sets.l2(eps(t)), sigma))``.
      sigma: standard deviation of the noise in input units, > 0, traced.
      samples: noisy copies of each example (published: 1 to 8).
      attack: how many steps of PGD from the example, each of 2 / steps radii (published: 2 to 10 steps); another lower oracle without
        early stop; or a minimum-norm attack such as `jr.attacks.ddn`, whose closest violation is moved into the set.
      gradient: "exact", through the net; "stein": estimated from the probabilities at the copies alone, without a backward pass, which
        takes many of them.
      consistency: ``(weight, entropy)`` of `jr.training.consistency`, added at the same copies (published: weight 1 or 2).

    Returns:
      ``robust(params, rest, x[B, ...], y[B], *, key, train) -> ([B], rest')``. The attack sees BatchNorm in inference mode, as
      published; the loss sees all copies as one batch.

    Raises:
      ValueError: an attack that stops early, an upper oracle, samples too few.

    References:
      Salman et al., Provably robust deep learning via adversarially trained smoothed classifiers, NeurIPS 2019.
      Jeong & Shin, Consistency regularization for certified robustness of smoothed classifiers, NeurIPS 2020.

    Deviations: the mean over the copies is subtracted from what Stein's estimate weighs, which changes its variance alone; DDN's ball is
      not held within the set while it runs.

    >>> import jrobust as jr
    >>> loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> robust = smooth_adv(loss, jr.sets.l2(0.5), 0.25, attack=2)
    >>> z = robust.craft(jnp.eye(2), None, jnp.eye(2), jnp.arange(2), key=jax.random.key(0))
    >>> print(jnp.round(z[0], 3))  # [1, 0] towards the other class
    [0.646 0.354]
    """
    step = 2.0 / attack if isinstance(attack, int) and attack > 0 else None
    found = attack if isinstance(attack, RadiusOracle) else inner(attack, "center", share=step)
    craft = crafting_under_noise(loss, threat, sigma, samples, found, gradient, "smooth_adv")
    outer = partial(mean_loss, loss) if consistency is None else consistent(loss, *consistency)
    return under_noise(loss, sigma, samples, outer, craft)
