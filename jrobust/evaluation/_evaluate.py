"""The driver: oracles over a data set, in batches of any size, streamed to disk, resumable."""

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jrobust._checks import check_classes, check_count, check_key, check_shard
from jrobust._digest import digest
from jrobust._model import functional, warn_if_random
from jrobust._oracle import Oracle, RadiusOracle
from jrobust._placement import check_local
from jrobust._records import open_records
from jrobust.evaluation import _checks
from jrobust.evaluation._checks import Data
from jrobust.evaluation._execute import Executor, draws_of
from jrobust.evaluation._results import Evaluation
from jrobust.evaluation._stream import batches, header, stream
from jrobust.evaluation._tally import Tally
from jrobust.sets import Threat

_WITNESS_BYTES = 2**28


def evaluate(
    model: Any,
    x: Any,
    y: Any,
    *,
    threat: Threat,
    oracles: Mapping[str, Oracle | RadiusOracle],
    key: Any,
    batch_size: int = 256,
    mesh: Any = None,
    shard: tuple[int, int] | None = None,
    out: Any = None,
    progress: bool = False,
    keep_witnesses: bool | None = None,
) -> Evaluation:
    """What each oracle says about the property "x[i] is classified as y[i]" over its set ``threat(x[i])``.

    Examples that the model gets wrong hold for no oracle and are not given to any. The answer about example i uses the key
    ``fold_in(key, i)`` and depends neither on the batch size, nor on the devices, nor on the other oracles.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, K]``. Normalisation belongs inside. New parameters do not recompile. A random one,
        ``jr.objectives.stochastic(model, n)``: example i is judged, by all oracles' witnesses too, at one mean of n draws of its own,
        from ``key`` and i.
      x: examples [N, ...], floating, inside the threat's box; any array (a memory map too), read a batch at a time.
      y: integer labels [N] in [0, K).
      threat: example -> set, from `jr.sets`; its eps may be one number, or one an example [N].
      oracles: name -> `Oracle` or `RadiusOracle`. Cascades run stage by stage on the examples still undecided.
      key: one typed PRNG key.
      batch_size: the most examples that run at once, >= 1 (rounded up to a multiple of the mesh's devices).
      mesh: a ``jax.sharding.Mesh`` of this process's devices: examples are spread over all its axes, parameters replicated.
      shard: (index, count): one of several processes, which does the examples i with ``i % count == index`` and returns only them. With
        ``out`` (one directory that all see) each writes files of its own; the same call without ``shard`` then takes over what is
        there, does what is missing, and returns all. No process waits for another, and one that was killed is started again. Under
        `jax.distributed` its death ends the other processes too (what they wrote is kept); shards do not need it.
      out: a directory to which every finished batch is written. The same call on the same directory goes on where it stopped
        (Ctrl-C, kill, full disk); another call is refused.
      progress: draw a bar with rate and time left (needs rich).
      keep_witnesses: keep them in memory (with ``out``: in memory-mapped files). None: up to 256 MiB an oracle.

    Returns:
      An `Evaluation`: a mapping with "clean" first (side "exact"; of a random model "estimate"), then one `Result` an oracle. For a
      radius oracle an example holds iff radius > eps.

    Guarantee: each result speaks from its oracle's side. Every violation was confirmed here, by one more forward pass at the
      witness and a test that the witness lies in the set.

    Raises:
      ValueError, TypeError: bad input, before any work; ``out`` holds another run.
      OSError: the disk is full (what was written is kept).

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> x, y = jnp.array([[0.2, 0.8], [0.55, 0.45], [0.9, 0.1]]), jnp.array([1, 0, 1])
    >>> ev = evaluate(lambda x: x, x, y, threat=jr.sets.linf(0.1), oracles={"fgsm": jr.attacks.fgsm()}, key=jax.random.key(0))
    >>> print(ev["clean"].holds, ev["fgsm"].holds)
    [ True  True False] [ True False False]
    """
    evaluation = evaluate_above(
        None, model, x, y, threat=threat, oracles=oracles, key=key, batch_size=batch_size, mesh=mesh, shard=shard, out=out,
        progress=progress, keep_witnesses=keep_witnesses,
    )  # fmt: skip
    return finished(evaluation, shard)


def finished(evaluation: Evaluation, shard: tuple[int, int] | None) -> Evaluation:
    """The shard's part of what `evaluate_above` returned, after a look for what is wrong with it."""
    if shard is not None:
        evaluation = dataclasses.replace(
            evaluation, results={name: r.part(slice(*shard_range(shard))) for name, r in evaluation.results.items()}
        )
    _alarm(evaluation)
    return evaluation


def shard_range(shard: tuple[int, int] | None) -> tuple[int, None, int]:
    """Start, stop and step of the indices of a shard's examples."""
    return (0, None, 1) if shard is None else (int(shard[0]), None, int(shard[1]))


def evaluate_above(
    above: Evaluation | None,
    model: Any,
    x: Any,
    y: Any,
    *,
    threat: Threat,
    oracles: Mapping[str, Oracle | RadiusOracle],
    key: Any,
    batch_size: int = 256,
    mesh: Any = None,
    shard: tuple[int, int] | None = None,
    out: Any = None,
    progress: bool = False,
    keep_witnesses: bool | None = None,
) -> Evaluation:
    """`evaluate`, knowing what the same oracles said ``above``, at a larger radius of the same family.

    The results are of all examples, blank where they are not the shard's; `finished` comes after.
    """
    started = time.monotonic()
    _checks.check_oracles(oracles)
    check_key(key)
    check_count(batch_size, "batch_size", "evaluate")
    check_shard(shard, "evaluate")
    check_local(mesh, shard, "evaluate")
    data = _checks.check_data(x, y)
    threat = _checks.check_eps(threat, data)
    share = np.arange(data.n)[slice(*shard_range(shard))]
    if not len(share):
        raise ValueError(f"evaluate: shard {shard} of {data.n} examples has none; use at most {data.n} shards")
    hashed = [digest(data.y)]
    for batch in batches(np.arange(data.n), 1024):
        rows = data.rows(batch)
        _checks.check_values(threat, rows, int(batch[0]))
        hashed += [digest(rows)] if out is not None else []
    first = data.rows(np.arange(min(4, data.n)))
    f = functional(model, first)
    classes = jax.eval_shape(f.apply, f.leaves, first).shape[1]
    check_classes(data.y, classes)
    answers = warn_if_random(model, first, f)
    if answers is not None:
        vanish = "the model returns probabilities, through which gradients vanish where it is sure: give the logits to attacks and bounds"
        _checks.warn_if_probabilities(answers, vanish, 4)

    executor = _executor(f, threat, key, batch_size, mesh, classes)
    tallies = {"clean": Tally.new("clean", None, data, False)}
    for name, oracle in oracles.items():
        tallies[name] = Tally.new(name, oracle, data, _keeps(oracle, data, keep_witnesses))
    header = _header(f, threat, oracles, key, hashed, data) if out is not None else {}
    if above is not None:
        header["above"] = above.threat
    header["witnesses"] = [name for name, tally in tallies.items() if tally.witness is not None]
    records = None if out is None else open_records(out, header, name="evaluation", shard=shard)
    try:
        stream(
            executor, threat, oracles, data, tallies, records, progress, {} if above is None else above.results, share
        )
        results = {name: tally.result(records, draws_of(f.apply)) for name, tally in tallies.items()}
    finally:
        if records is not None:
            records.close()
    return Evaluation(results, _describe(threat), time.monotonic() - started, threat)


def _keeps(oracle: Any, data: Data, keep: bool | None) -> bool:
    side = oracle.sup_side if isinstance(oracle, RadiusOracle) else oracle.side
    if side != "lower":
        return False
    size = sum(4 * data.n * math.prod(a.shape[1:]) for a in jax.tree.leaves(data.x))
    return size <= _WITNESS_BYTES if keep is None else keep


def _executor(f: Any, threat: Threat, key: Any, batch_size: int, mesh: Any, classes: int) -> Executor:
    if mesh is None:
        return Executor(f._replace(leaves=jax.device_put(f.leaves)), threat, key, batch_size, None, classes)
    # an explicit-axes mesh would put shardings into the types of the user's model; the driver wants them inferred
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    f = f._replace(leaves=jax.device_put(f.leaves, everywhere))
    return Executor(f, threat, jax.device_put(key, everywhere), -(-batch_size // mesh.size) * mesh.size, mesh, classes)


def _describe(threat: Threat) -> str:
    radii = [np.asarray(e) for e in jax.tree.leaves(threat.eps)]
    each = [f"{e:.4g}" if e.ndim == 0 else f"{e.min():.4g}..{e.max():.4g}" for e in radii]
    return f"{threat.name} {', '.join(each)}"


def _header(f: Any, threat: Threat, oracles: Any, key: Any, hashed: list[str], data: Data) -> dict[str, Any]:
    return header("evaluation", f, key, hashed, data) | {
        "threat": _describe(threat),
        "threat_digest": digest(threat),
        "oracles": {name: [o.name, o.side, o.confidence, digest(o)] for name, o in oracles.items()},
    }


def _alarm(evaluation: Evaluation) -> None:
    lost = int(np.isnan(evaluation["clean"].value).sum())
    if lost:
        warnings.warn(
            f"the model gave NaN for {lost} of {evaluation.n} examples (they count as not holding)",
            UserWarning,
            stacklevel=4,
        )
    for c in evaluation.contradictions():
        warnings.warn(
            f"contradiction: {c.attack} breaks {len(c.index)} examples that {c.certificate} certifies "
            f"({', '.join(map(str, c.index[:5]))}{', ...' if len(c.index) > 5 else ''}); one of them is wrong",
            UserWarning,
            stacklevel=4,
        )
    for r in evaluation.results.values():
        if r.rejected:
            warnings.warn(
                f"{r.name} claimed {r.rejected} violations that do not hold at its witness, or whose witness lies outside the "
                "set; they count as nothing found",
                UserWarning,
                stacklevel=4,
            )
