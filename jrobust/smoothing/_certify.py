"""The smoothing drivers: predict and certify as Cohen et al., over data sets, for any noise."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_shard
from jrobust._oracle import Radius, RadiusOracle
from jrobust._placement import Placement, check_local
from jrobust._progress import progress_bar
from jrobust._statistics import sign_test
from jrobust._tree import bind
from jrobust.smoothing._certificate import Certificate, Prediction, certificate_of
from jrobust.smoothing._noise import Noise
from jrobust.smoothing._plan import Plan, check_rows, estimated, planned
from jrobust.smoothing._run import Run, check_alpha, count, start, warn_if_vain


def certify(
    model: Any,
    x: Any,
    *,
    noise: Noise,
    n0: int = 100,
    n: int | Sequence[int] = 100_000,
    alpha: float = 1e-3,
    key: Any,
    target: float | None = None,
    runner_up: bool = False,
    batch_size: int | None = None,
    mesh: Any = None,
    shard: tuple[int, int] | None = None,
    out: Any = None,
    progress: bool = False,
) -> Certificate:
    """A class and a certified radius for each example, for the classifier that predicts the most likely class under noise.

    ``n0`` draws select a class; ``n`` independent draws bound its probability from below (one-sided Clopper-Pearson,
    float64 on the host); where the bound does not exceed that of the other classes it abstains. The answer about example i uses the
    key ``fold_in(key, i)`` and depends neither on the batch size nor on the devices (up to float ties in the logits).

    Args:
      model: the base classifier, batched, ``model(x[B, ...]) -> logits[B, K]``; normalisation belongs inside.
      x: examples [N, ...], floating; a memory map is read a few examples at a time.
      noise: such as ``gaussian(0.25)``, added in input units.
      n0: selection draws, >= 1.
      n: estimation draws, >= 1. The largest radius that n can certify at alpha is ``noise.certify(alpha**(1/n))``. Several growing
        numbers (of at least a batch each): an example stops at the first after which more draws would not help it, alpha is
        shared equally among all, so that the statement holds whenever it stopped.
      alpha: failure probability of the statement about one example, in (0, 1).
      key: one typed PRNG key.
      target: a radius that is enough: with several ``n`` an example stops when it has it, or when it is out of reach. None: it
        stops only when a radius above 0 is out of reach.
      runner_up: bound the other classes' probabilities from above too (alpha is halved, and shared among them) instead of taking
        them to be one; larger radii where many classes share the rest, smaller ones elsewhere.
      batch_size: noisy inputs evaluated at once (rounded up to a multiple of the mesh's devices); None: by the memory that is left.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread; over several processes all of them make the call.
      shard: (index, count): one of several processes that do not wait for each other; this one certifies the examples i with
        ``i % count == index`` and returns only them. With ``out`` each writes files of its own; the same call without ``shard`` takes
        over what is there, does what is missing, and returns all. A mesh is then of this process's devices. Under `jax.distributed` the
        death of one process ends the others (what they wrote is kept); shards do not need it.
      out: a directory to which results are written; the same call goes on where it stopped, another call is refused.
      progress: draw a bar with rate and time left (needs rich).

    Returns:
      A `Certificate` with ``prediction``, ``radius``, ``counts``.

    Raises:
      ValueError, TypeError: bad input, before any work; ``out`` holds another run.
      OSError: the disk is full (what was written is kept).

    Guarantee: for each example, with probability >= 1 - alpha over the draws: the smoothed classifier is constant,
      equal to ``prediction``, within ``radius``. About the smoothed classifier, not the base one. Assumes real
      arithmetic and ideal noise.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019.

    Deviations:
      Several ``n`` are ours: a union bound over the looks. The runner-up's bound is the union over all classes but the selected one,
      which holds whichever of them comes second.

    >>> from jrobust.smoothing import gaussian
    >>> cert = certify(lambda x: jnp.stack([x[:, 0], -x[:, 0]], 1), jnp.array([[1.0, 0.0], [0.01, 0.0]]),
    ...                noise=gaussian(0.5), n=1000, key=jax.random.key(0))
    >>> cert.prediction.tolist(), bool(0.8 < cert.radius[0] <= 1.0)
    ([0, -1], True)
    """
    plan = planned(n0, n, alpha, target, runner_up)
    check_shard(shard, "certify")
    check_local(mesh, shard, "certify")
    run = start(model, x, noise, key, batch_size, mesh)
    first, step = (0, 1) if shard is None else shard
    share = range(first, run.n, step)
    if not share:
        raise ValueError(f"certify: shard {shard} of {run.n} examples has none; use at most {run.n} shards")
    plan.warn(noise, run.shape, run.classes)
    asked = {"kind": "certification", **dataclasses.asdict(plan)}
    records, rows = run.records(out, asked, "certification", shard)
    try:
        check_rows(plan, run, rows, f"{out}/certification.jsonl")
        todo = np.array([i for i in share if i not in rows], int)
        with progress_bar(progress and run.placement.writes, len(share), "certify", len(share) - len(todo)) as advance:
            for part, selection in run.parts(todo, plan.n0, plan.stages[-1]):
                done = estimated(run, plan, part, selection)
                if records is not None:
                    records.append(done)
                rows.update((row["i"], row) for row in done)
                advance(len(part))
    finally:
        if records is not None:
            records.close()
    ordered = [rows[i] for i in share]
    return certificate_of(ordered, n0=plan.n0, n=plan.stages[-1], alpha=plan.alpha, noise=noise, shape=run.shape)


def predict(
    model: Any,
    x: Any,
    *,
    noise: Noise,
    n: int = 1000,
    alpha: float = 1e-3,
    key: Any,
    batch_size: int | None = None,
    mesh: Any = None,
) -> Prediction:
    """The smoothed classifier's class for each example, or -1 where ``n`` draws do not settle which of two classes leads.

    Args:
      model: the base classifier, batched, ``model(x[B, ...]) -> logits[B, K]``.
      x: examples [N, ...], floating.
      noise: such as ``gaussian(0.25)``.
      n: draws, >= 1; at alpha 0.001 at least 11 are needed to answer at all.
      alpha: probability of a wrong class (other than the most likely one) for each example, in (0, 1).
      key: one typed PRNG key; example i uses ``fold_in(key, i)``.
      batch_size: noisy inputs evaluated at once.
      mesh: a ``jax.sharding.Mesh`` over which each batch of draws is spread.

    Returns:
      A `Prediction`.

    Guarantee: an answer other than -1 is the most likely class under the noise, with probability >= 1 - alpha.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019. Hung, Fithian.
      Rank verification for exponential families. Annals of Statistics 2019.

    >>> from jrobust.smoothing import gaussian
    >>> predict(lambda x: jnp.stack([x[:, 0], -x[:, 0]], 1), jnp.array([[1.0], [0.0]]), noise=gaussian(0.5),
    ...         n=100, key=jax.random.key(0)).prediction.tolist()
    [0, -1]
    """
    n, alpha = count("n", n), check_alpha(alpha)
    run = start(model, x, noise, key, batch_size, mesh)
    warn_if_vain(lambda m: bool(sign_test(m, 0) <= alpha), n, alpha)
    counts = np.concatenate([votes for _, votes in run.parts(np.arange(run.n), n, n)])
    top = np.sort(counts, axis=1)
    p = sign_test(top[:, -1], top[:, -2] if counts.shape[1] > 1 else np.zeros(run.n, int))
    return Prediction(np.where(p <= alpha, counts.argmax(1), -1).astype(np.int32), counts, p, n, 1 - alpha)


def cohen(
    noise: Noise, *, n0: int = 100, n: int = 100_000, alpha: float = 1e-3, batch_size: int = 1000
) -> RadiusOracle:
    """`certify` as a `RadiusOracle` on the host: a lower bound on the radius within which the smoothed classifier keeps the label.

    Args:
      noise: such as ``gaussian(0.25)``; the threat must be of its norm.
      n0: selection draws.
      n: estimation draws.
      alpha: failure probability for each example.
      batch_size: noisy inputs evaluated at once.

    Guarantee: probabilistic, confidence 1 - alpha, about the *smoothed* classifier of the objective's outputs. The
      radius is 0 where it abstains or predicts another class than ``f.label``.

    References:
      Cohen, Rosenfeld, Kolter. Certified adversarial robustness via randomized smoothing. ICML 2019.
    """
    plan = planned(n0, n, alpha, None, False)
    solve = bind(_solve, noise, plan=plan, batch_size=count("batch_size", batch_size))
    return RadiusOracle("lower", solve, confidence=1 - plan.alpha, host=True, name=f"cohen({noise})", about="smoothed")


def _solve(noise: Noise, key: Any, f: Any, threat: Any, x: Any, *, plan: Plan, batch_size: int) -> Radius:
    if threat.name != noise.norm:
        raise ValueError(f"{noise.name} noise certifies {noise.norm} radii; the threat is {threat.name}")
    if f.label is None:
        raise ValueError("cohen needs an objective with a label (jr.objectives.classification)")
    if f.draws is not None:
        raise TypeError("cohen needs a model that gives one answer; this objective's model is random")
    run = Run(noise, f, _outputs, key, np.asarray(x)[None], batch_size, Placement())
    ((part, selection),) = run.parts(np.zeros(1, int), plan.n0, plan.stages[-1])
    (answer,) = estimated(run, plan, part, selection)
    radius = answer["radius"] if answer["selected"] == int(f.label) else 0.0
    rounded = np.float32(radius)
    rounded = np.nextafter(rounded, np.float32(0)) if rounded > radius else rounded  # never more than what is certified
    return Radius(jnp.asarray(rounded), None, {"lower": jnp.asarray(answer["lower"], jnp.float32)})


def _outputs(f: Any, x: Any) -> Any:
    return jax.vmap(f.outputs)(x)
