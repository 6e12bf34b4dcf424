"""The driver: oracles over a data set, in batches of any size, streamed to disk, resumable."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrobust._checks import check_classes, check_key
from jrobust._digest import digest
from jrobust._iterate import violated
from jrobust._model import functional, warn_if_random
from jrobust._oracle import Oracle, RadiusOracle
from jrobust._progress import progress_bar
from jrobust._records import open_records
from jrobust.evaluation import _checks
from jrobust.evaluation._checks import Data
from jrobust.evaluation._execute import Answer, Executor, Rows
from jrobust.evaluation._results import Curve, Evaluation
from jrobust.evaluation._tally import Tally, is_shape
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
    out: Any = None,
    progress: bool = False,
    keep_witnesses: bool | None = None,
) -> Evaluation:
    """What each oracle says about the property "x[i] is classified as y[i]" over its set ``threat(x[i])``.

    Examples that the model gets wrong hold for no oracle and are not given to any. The answer about example i uses the key
    ``fold_in(key, i)`` and depends neither on the batch size, nor on the devices, nor on the other oracles.

    Args:
      model: batched, ``model(x[B, ...]) -> logits[B, K]``. Normalisation belongs inside. New parameters do not recompile.
      x: examples [N, ...], floating, inside the threat's box; any array (a memory map too), read a batch at a time.
      y: integer labels [N] in [0, K).
      threat: example -> set, from `jr.sets`; its eps may be one number, or one an example [N].
      oracles: name -> `Oracle` or `RadiusOracle`. Cascades run stage by stage on the examples still undecided.
      key: one typed PRNG key.
      batch_size: the most examples that run at once, >= 1 (rounded up to a multiple of the mesh's devices).
      mesh: a ``jax.sharding.Mesh``: examples are spread over all its axes, parameters replicated.
      out: a directory to which every finished batch is written. The same call on the same directory goes on where it stopped
        (Ctrl-C, kill, full disk); another call is refused.
      progress: draw a bar with rate and time left (needs rich).
      keep_witnesses: keep them in memory (with ``out``: in memory-mapped files). None: up to 256 MiB an oracle.

    Returns:
      An `Evaluation`: a mapping with "clean" first (side "exact"), then one `Result` an oracle. For a radius oracle an example
      holds iff radius > eps.

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
    started = time.monotonic()
    _checks.check_oracles(oracles)
    check_key(key)
    if not (isinstance(batch_size, int) and batch_size >= 1):
        raise ValueError(f"batch_size must be an int >= 1, got {batch_size!r}")
    data = _checks.check_data(x, y)
    threat = _checks.check_eps(threat, data)
    hashed = [digest(data.y)]
    for batch in _batches(np.arange(data.n), 1024):
        rows = data.rows(batch)
        _checks.check_values(threat, rows, int(batch[0]))
        hashed += [digest(rows)] if out is not None else []
    first = data.rows(np.arange(min(4, data.n)))
    f = functional(model, first)
    classes = jax.eval_shape(f.apply, f.leaves, first).shape[1]
    check_classes(data.y, classes)
    warn_if_random(model, first, f)

    executor = _executor(f, threat, key, batch_size, mesh, classes)
    tallies = {"clean": Tally.new("clean", None, data, False)}
    for name, oracle in oracles.items():
        tallies[name] = Tally.new(name, oracle, data, _keeps(oracle, data, keep_witnesses))
    header = _header(f, threat, oracles, key, hashed, data) if out is not None else {}
    header["witnesses"] = [name for name, tally in tallies.items() if tally.witness is not None]
    records = None if out is None else open_records(out, header, name="evaluation")
    try:
        _run(executor, threat, oracles, data, tallies, records, progress)
        results = {name: tally.result(records) for name, tally in tallies.items()}
    finally:
        if records is not None:
            records.close()
    evaluation = Evaluation(results, _describe(threat), time.monotonic() - started)
    _alarm(evaluation)
    return evaluation


def curve(model: Any, x: Any, y: Any, *, threat: Threat, eps: Any, out: Any = None, **options: Any) -> Curve:
    """`evaluate` at several radii of one family, with one set of compiled programs.

    Args:
      model, x, y: as in `evaluate`.
      threat: its family is what is swept; its own eps is not used.
      eps: radii [E], >= 0.
      out: a directory; each radius has its own inside it.
      **options: everything else that `evaluate` takes.

    Returns:
      A `Curve`.

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
    folders = [None if out is None else Path(out) / f"eps-{np.format_float_positional(e, trim='-')}" for e in radii]
    runs = [
        evaluate(model, x, y, threat=threat.family(float(e)), out=folder, **options)
        for e, folder in zip(radii, folders, strict=True)
    ]
    return Curve(radii, tuple(runs))


def _run(
    executor: Executor, threat: Threat, oracles: Any, data: Data, tallies: dict[str, Tally], records: Any, show: bool
) -> None:
    rows = {} if records is None else records.rows
    place = "" if records is None else f"{records.directory / records.name}.jsonl"
    for i, row in rows.items():
        try:
            _restore(tallies, data, i, row)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise ValueError(f"{place}: the line of example {i} is not one of this run; the file was damaged") from None
    for tally in tallies.values():
        if tally.witness is None:
            continue
        for k, shape in enumerate(jax.tree.leaves(tally.witness, is_leaf=is_shape)):
            if records is not None:
                records.array(tally.file(k), shape)
        if records is None:
            tally.witness = jax.tree.map(lambda shape: np.zeros(shape, np.float32), tally.witness, is_leaf=is_shape)
    todo = np.array([i for i in range(data.n) if i not in rows], int)
    with progress_bar(show, data.n, "evaluate", len(rows)) as advance:
        for index in _batches(todo, executor.batch_size):
            _batch(executor, threat, oracles, data, index, tallies, records)
            advance(len(index))


def _restore(tallies: dict[str, Tally], data: Data, i: int, row: dict[str, Any]) -> None:
    if not 0 <= i < data.n:
        raise IndexError(i)
    for name, tally in tallies.items():
        said = row[name]
        info = {k: np.asarray(v if isinstance(v, int) else float(v)) for k, v in said["info"].items()}
        tally.add(i, said["holds"], float(said["value"]), info, row["clean"]["holds"])
        tally.rejected += said.get("rejected", 0)


def _batch(
    executor: Executor,
    threat: Threat,
    oracles: Any,
    data: Data,
    index: np.ndarray,
    tallies: dict[str, Tally],
    records: Any,
) -> None:
    rows = Rows(index.astype(np.int32), data.rows(index), data.y[index], _checks.eps_rows(threat, data.n, index))
    margin = executor.clean(rows)
    correct = margin < 0
    tallies["clean"].add(index, correct, margin, {}, correct)
    left = np.flatnonzero(correct)
    rejected = {}
    for name, oracle in oracles.items():
        tally = tallies[name]
        before = tally.rejected
        holds, value, info, witness = _ask(executor, oracle, rows, left, margin, tally)
        tally.add(index, holds, value, info, correct)
        rejected[name] = tally.rejected - before
        if tally.witness is not None:
            for k, leaf in enumerate(jax.tree.leaves(witness)):
                if records is not None:
                    records.write(tally.file(k), index, leaf)
                else:
                    jax.tree.leaves(tally.witness)[k][index] = leaf
    if records is not None:
        lines = [
            {"i": i, "y": data.y[i], **{name: tally.row(i) for name, tally in tallies.items()}} for i in index.tolist()
        ]
        for name, count in rejected.items():
            lines[0][name]["rejected"] = count  # a count of the batch: kept with its first line
        records.append(lines)


def _ask(
    executor: Executor, oracle: Any, rows: Rows, left: np.ndarray, margin: np.ndarray, tally: Tally
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], Any]:
    """One oracle on one batch: the rows ``left`` are classified right, the others are settled."""
    n, radius = len(margin), isinstance(oracle, RadiusOracle)
    side = oracle.sup_side if radius else oracle.side
    holds = np.zeros(n, bool)
    value = np.zeros(n) if radius else margin.copy() if side == "lower" else np.full(n, np.inf)
    witness = jax.tree.map(np.copy, rows.x)
    if not len(left):
        return holds, value, {}, witness
    picked = jax.tree.map(lambda a: a[left], rows)
    answer: Answer = executor.radius(oracle, picked) if radius else executor.bound(oracle, picked)
    if radius:
        eps = _scalar_eps(picked.eps, oracle.name)
        beyond = (answer.value > eps) | (eps == 0)  # at radius 0 the set is the example itself, classified right
        held, said = beyond, answer.value
        if side == "lower" and answer.witness is not None:
            at, inside = executor.confirm(picked, answer.witness)
            held = ~(inside & violated(at)) | (eps == 0)
            tally.rejected += int((~beyond & held).sum())
    else:
        # a witness that was not confirmed leaves the clean example as the worst point known
        said = np.where(np.isneginf(answer.value), margin[left], answer.value) if side == "lower" else answer.value
        held = said < 0
        tally.rejected += answer.rejected
    holds[left], value[left] = held, said
    if answer.witness is not None:
        unconfirmed = np.isneginf(answer.value)
        for leaf, new in zip(jax.tree.leaves(witness), jax.tree.leaves(answer.witness), strict=True):
            leaf[left[~unconfirmed]] = new[~unconfirmed]
    info = {}
    for k, v in answer.info.items():
        info[k] = np.zeros(n, v.dtype)
        info[k][left] = v
    return holds, value, info, witness


def _scalar_eps(eps: Any, name: str) -> np.ndarray:
    leaves = jax.tree.leaves(eps)
    if len(leaves) != 1 or leaves[0].ndim != 1:
        raise ValueError(
            f"{name} bounds a radius, so the threat's eps must be one number for an example, not one an entry or a part"
        )
    return leaves[0]


def _batches(index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(index), size):
        yield index[start : start + size]


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
    from jrobust import __version__

    return {
        "kind": "evaluation",
        "jrobust": __version__,
        "n": data.n,
        "data": digest(tuple(hashed)),
        "model": digest(f),
        "threat": _describe(threat),
        "threat_digest": digest(threat),
        "oracles": {name: [o.name, o.side, o.confidence, digest(o)] for name, o in oracles.items()},
        "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
    }


def _alarm(evaluation: Evaluation) -> None:
    lost = int(np.isnan(evaluation["clean"].value).sum())
    if lost:
        warnings.warn(
            f"the model gave NaN for {lost} of {evaluation.n} examples (they count as not holding)",
            UserWarning,
            stacklevel=3,
        )
    for c in evaluation.contradictions():
        warnings.warn(
            f"contradiction: {c.attack} breaks {len(c.index)} examples that {c.certificate} certifies "
            f"({', '.join(map(str, c.index[:5]))}{', ...' if len(c.index) > 5 else ''}); one of them is wrong",
            UserWarning,
            stacklevel=3,
        )
    for r in evaluation.results.values():
        if r.rejected:
            warnings.warn(
                f"{r.name} claimed {r.rejected} violations that do not hold at its witness, or whose witness lies outside the "
                "set; they count as nothing found",
                UserWarning,
                stacklevel=3,
            )
