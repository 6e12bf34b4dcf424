"""A data set through the oracles, batch by batch: asked, confirmed, tallied, written."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jrobust._iterate import violated
from jrobust._oracle import RadiusOracle
from jrobust._progress import progress_bar
from jrobust._records import header_of
from jrobust.evaluation import _checks
from jrobust.evaluation._checks import Data
from jrobust.evaluation._execute import Answer, Executor, Rows, draws_of
from jrobust.evaluation._results import Result
from jrobust.evaluation._tally import Tally, blank, is_shape
from jrobust.sets import Threat


def header(kind: str, f: Any, key: Any, hashed: list[str], data: Data) -> dict[str, Any]:
    """What identifies a run of this wing, on disk: another of these is another run."""
    judge = {} if draws_of(f.apply) is None else {"judge": "draws of the key and the example"}
    return header_of(f, key, hashed) | judge | {"kind": kind, "n": data.n}


def batches(index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Pieces of ``size``, the last one smaller."""
    for start in range(0, len(index), size):
        yield index[start : start + size]


def stream(
    executor: Executor,
    threat: Threat,
    oracles: Any,
    data: Data,
    tallies: dict[str, Tally],
    records: Any,
    show: bool,
    above: Mapping[str, Result],
    share: np.ndarray,
) -> None:
    """The examples ``share`` that the records do not hold yet; ``above``: what each oracle said at a larger radius, where that is known."""
    done = np.zeros(data.n, bool)
    place = "" if records is None else f"{records.directory / records.name}.jsonl"
    for row in () if records is None else records.stored():
        i = row["i"]
        try:
            _restore(tallies, data, i, row)
            done[i] = True
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
    if records is not None:
        records.adopt()
    todo = share[~done[share]]
    with progress_bar(show, len(share), "evaluate", len(share) - len(todo)) as advance:
        for index in batches(todo, executor.batch_size):
            _batch(executor, threat, oracles, data, index, tallies, records, above)
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
    above: Mapping[str, Result],
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
        holds, value, info, witness = _ask(executor, oracle, rows, left, margin, tally, above.get(name))
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
    executor: Executor,
    oracle: Any,
    rows: Rows,
    left: np.ndarray,
    margin: np.ndarray,
    tally: Tally,
    above: Result | None,
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
    answer = _answer(executor, oracle, side, picked, above)
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
        info[k] = blank(k, n, v.dtype)
        info[k][left] = v
    return holds, value, info, witness


def _answer(executor: Executor, oracle: Any, side: str, rows: Rows, above: Result | None) -> Answer:
    """What is known from a larger radius stays; the other rows are asked."""
    ask: Any = executor.radius if isinstance(oracle, RadiusOracle) else executor.bound
    if above is None or side not in ("lower", "upper"):
        return ask(oracle, rows)
    at = np.asarray(rows.index)
    value, kept = above.value[at].astype(np.float64), above.witness
    witness = None if kept is None else jax.tree.map(lambda a: np.array(a[at]), kept)
    info = {k: v[at] for k, v in above.info.items()}
    known = above.holds[at]
    if isinstance(oracle, RadiusOracle):
        # a radius is the same at every eps; an attack's is confirmed at each, by its witness
        known = np.full(len(at), side != "lower" or witness is not None)
    elif side == "lower":
        value[known] = -np.inf  # nothing was found further out: the clean example is the worst point known
        if witness is not None:
            confirmed, inside = executor.confirm(rows, witness)
            nearer = ~known & inside & violated(confirmed)
            known, value[nearer] = known | nearer, confirmed[nearer]
    left = np.flatnonzero(~known)
    if not len(left):
        return Answer(value, witness, info)
    new: Answer = ask(oracle, jax.tree.map(lambda a: a[left], rows))
    value[left] = new.value
    if witness is None and new.witness is not None:
        witness = jax.tree.map(np.copy, rows.x)
    if new.witness is not None:
        for leaf, part in zip(jax.tree.leaves(witness), jax.tree.leaves(new.witness), strict=True):
            leaf[left] = part
    for k, v in new.info.items():
        info.setdefault(k, blank(k, len(at), v.dtype))[left] = v
    return Answer(value, witness, info, None, new.rejected)


def _scalar_eps(eps: Any, name: str) -> np.ndarray:
    leaves = jax.tree.leaves(eps)
    if len(leaves) != 1 or leaves[0].ndim != 1:
        raise ValueError(
            f"{name} bounds a radius, so the threat's eps must be one number for an example, not one an entry or a part"
        )
    return leaves[0]
