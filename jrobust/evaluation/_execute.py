"""Run an oracle on some examples of one batch: padded to few sizes, stage by stage, compacted to the undecided.

The jitted functions below are the only compiled code of a driver. They take the oracle, the threat and the model's arrays as
pytrees, so that other parameters, radii and step sizes run the same program; only structure and sizes compile.
"""

import dataclasses
import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._combinators import decided
from jrobust._iterate import Iteration, violated
from jrobust._model import Functional, Random
from jrobust._oracle import Bound, Oracle, Radius, RadiusOracle
from jrobust._tree import bind
from jrobust.evaluation._tally import blank
from jrobust.objectives import classification, stochastic
from jrobust.sets import Threat
from jrobust.typing import Side

CHUNKS = (2, 4)
CHUNK = 8
_JUDGE = 0x6A756467  # far from any stage or step that an oracle folds into its own key


def _logits(leaves: Any, *inputs: Any, apply: Any) -> Any:
    batch = jax.tree.map(lambda leaf: leaf[None], inputs)
    logits = apply(leaves, batch if len(inputs) > 1 else batch[0])[0]
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # margins are never rounded to bfloat16


def objective(apply: Any, leaves: Any, y: Any) -> Any:
    """The objective of one example."""
    if isinstance(apply, Random):
        return classification(stochastic(bind(_logits, leaves, apply=apply.apply), apply.n), y)
    return classification(bind(_logits, leaves, apply=apply), y)


def draws_of(apply: Any) -> int | None:
    """Over how many draws a random model's answer is the mean; None: it is not random."""
    return apply.n if isinstance(apply, Random) else None


def judged(apply: Any, leaves: Any, y: Any, key: Any, index: Any) -> Any:
    """The objective by which example ``index`` is judged: of a random model the mean of n draws that are the example's own.

    They depend on ``key`` and ``index`` alone, so clean predictions and witnesses of all oracles meet the same function.
    """
    return _drawn(apply, leaves, y, key, index, _JUDGE)


def _asked(apply: Any, leaves: Any, y: Any, key: Any, index: Any) -> Any:
    """The objective that oracles are given: other draws than the judge's, which no attack may see."""
    return _drawn(apply, leaves, y, key, index, _JUDGE + 1)


def _drawn(apply: Any, leaves: Any, y: Any, key: Any, index: Any, who: int) -> Any:
    f = objective(apply, leaves, y)
    return f if f.draws is None else f.at(jax.random.fold_in(jax.random.fold_in(key, index), who))


def _key(key: Any, index: Any, path: tuple[Any, ...]) -> Any:
    """``fold_in(key, example)``, then once for each stage on the way to this one, as `cascade` itself does."""
    for i in (index, *path):
        key = jax.random.fold_in(key, i)
    return key


def _threat_axes(threat: Threat) -> Threat:
    axes = jax.tree.map(lambda _: 0, threat.eps)
    return dataclasses.replace(threat, eps=axes, args=jax.tree.map(lambda _: None, threat.args))


class Rows(NamedTuple):
    """What the jitted functions see of some examples: all leaves have the bucket as leading axis."""

    index: Any
    x: Any
    y: Any
    eps: Any


@partial(jax.jit, static_argnames="apply")
def _clean(leaves: Any, key: Any, index: Any, x: Any, y: Any, *, apply: Any) -> Any:
    def one(i: Any, x: Any, y: Any) -> Any:
        f = judged(apply, leaves, y, key, i)
        return f.value(f.outputs(x))

    return jax.vmap(one)(index, x, y)


@partial(jax.jit, static_argnames="apply")
def _confirm(threat: Threat, leaves: Any, key: Any, rows: Rows, z: Any, *, apply: Any) -> tuple[Any, Any]:
    """The objective at ``z`` and whether ``z`` lies in the set."""

    def one(t: Threat, i: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
        f = judged(apply, leaves, y, key, i)
        return f.value(f.outputs(z)), t(x).contains(z)

    threat = threat.family(rows.eps)
    return jax.vmap(one, in_axes=(_threat_axes(threat), 0, 0, 0, 0))(threat, rows.index, rows.x, rows.y, z)


@partial(jax.jit, static_argnames="apply")
def _solve(
    oracle: Any, threat: Threat, leaves: Any, key: Any, path: tuple[Any, ...], rows: Rows, *, apply: Any
) -> Bound | Radius:
    def one(t: Threat, i: Any, x: Any, y: Any) -> Any:
        k, f = _key(key, i, path), _asked(apply, leaves, y, key, i)
        return oracle.solve(k, f, t, x) if isinstance(oracle, RadiusOracle) else oracle.solve(k, f, t(x))

    threat = threat.family(rows.eps)
    return jax.vmap(one, in_axes=(_threat_axes(threat), 0, 0, 0))(threat, rows.index, rows.x, rows.y)


def _per_example(fn: Any, threat: Threat, leaves: Any, rows: Rows, apply: Any, *batched: Any) -> Any:
    def one(t: Threat, x: Any, y: Any, i: Any, *more: Any) -> Any:
        return fn(objective(apply, leaves, y), t(x), i, *more)  # an iteration takes draws of its own at every step

    threat = threat.family(rows.eps)
    axes = (_threat_axes(threat), 0, 0, 0, *(0 for _ in batched))
    return jax.vmap(one, in_axes=axes)(threat, rows.x, rows.y, rows.index, *batched)


@partial(jax.jit, static_argnames="apply")
def _start(
    iteration: Iteration, threat: Threat, leaves: Any, key: Any, path: tuple[Any, ...], rows: Rows, *, apply: Any
) -> Any:
    return _per_example(lambda f, s, i: iteration.start(_key(key, i, path), f, s), threat, leaves, rows, apply)


@partial(jax.jit, static_argnames="apply")
def _advance(
    iteration: Iteration, threat: Threat, leaves: Any, rows: Rows, progress: Any, steps: Any, *, apply: Any
) -> Any:
    def advance(f: Any, s: Any, i: Any, p: Any) -> Any:
        del i
        return iteration.advance(p, f, s, steps=steps)  # traced: any chunk is one program

    return _per_example(advance, threat, leaves, rows, apply, progress)


@partial(jax.jit, static_argnames="apply")
def _finish(iteration: Iteration, threat: Threat, leaves: Any, rows: Rows, progress: Any, *, apply: Any) -> Bound:
    return _per_example(lambda f, s, i, p: iteration.finish(p, f, s), threat, leaves, rows, apply, progress)


@jax.jit
def _take(tree: Any, at: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[at], tree)


@jax.jit
def _put(tree: Any, at: Any, part: Any) -> Any:
    """Rows ``at`` replaced; positions past the end (padding) are dropped."""
    return jax.tree.map(lambda leaf, new: leaf.at[at].set(new, mode="drop"), tree, part)


class Answer(NamedTuple):
    """What an oracle said about some examples; host arrays. ``elements`` only from upper oracles."""

    value: np.ndarray
    witness: Any
    info: dict[str, np.ndarray]
    elements: np.ndarray | None = None
    rejected: int = 0


@dataclasses.dataclass(frozen=True)
class Executor:
    """One model under one threat, with the sizes and the mesh to run at.

    Attributes:
      model: taken apart; its leaves already lie where they should.
      threat: its eps is replaced by the rows' own.
      key: of the evaluation.
      batch_size: the largest bucket, a multiple of the mesh's size.
      mesh: of devices, or None.
      classes: of the model.
    """

    model: Functional
    threat: Threat
    key: Any
    batch_size: int
    mesh: Any = None
    classes: int = 0

    def bucket(self, count: int) -> int:
        """The size at which ``count`` examples run: a power of two (a few of them), or the batch size."""
        devices = 1 if self.mesh is None else self.mesh.size
        size = max(8, self.batch_size // 16, 1 << (count - 1).bit_length())
        return min(-(-size // devices) * devices, self.batch_size)

    def pieces(self, count: int) -> list[slice]:
        """``count`` rows cut so that little of a bucket is padding; in one where a device would rather have them together."""
        if self.mesh is not None or jax.default_backend() != "cpu":
            return [slice(0, count)]
        cut = [0]
        while (left := count - cut[-1]) > 0:
            half = 1 << (left.bit_length() - 1)
            wins = self.bucket(half) + self.bucket(left - half) < self.bucket(left) if half < left else False
            cut.append(cut[-1] + (half if wins and 4 * half >= self.batch_size else left))
        return [slice(a, b) for a, b in itertools.pairwise(cut)]

    def _piecewise(self, run: Any, rows: Rows) -> Any:
        out = [run(_pick(rows, piece)) for piece in self.pieces(len(rows.y))]
        return out[0] if len(out) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *out)

    def _pad(self, tree: Any, count: int) -> Any:
        at = np.arange(self.bucket(count))
        at[count:] = 0
        return self._place(jax.tree.map(lambda a: a[at], tree))

    def _place(self, tree: Any) -> Any:
        if self.mesh is None:
            return tree
        spec = jax.sharding.PartitionSpec(self.mesh.axis_names)
        return jax.device_put(tree, jax.sharding.NamedSharding(self.mesh, spec))

    def clean(self, rows: Rows) -> np.ndarray:
        """The largest margin at the examples themselves."""
        n = len(rows.y)
        index, x, y = self._pad((rows.index, rows.x, rows.y), n)
        return np.asarray(_clean(self.model.leaves, self.key, index, x, y, apply=self.model.apply), np.float64)[:n]

    def confirm(self, rows: Rows, witness: Any) -> tuple[np.ndarray, np.ndarray]:
        """The objective at the witnesses, and whether each lies in its set: the driver's own look at the final arrays."""
        n = len(rows.y)
        padded, z = self._pad((rows, witness), n)
        value, inside = _confirm(self.threat, self.model.leaves, self.key, padded, z, apply=self.model.apply)
        return np.asarray(value, np.float64)[:n], np.asarray(inside)[:n]

    def radius(self, oracle: RadiusOracle, rows: Rows) -> Answer:
        """A radius for each example."""
        r = (
            self._each(oracle, rows, ())
            if oracle.host
            else self._piecewise(lambda part: self._whole(oracle, part, ()), rows)
        )
        return Answer(np.asarray(r.value, np.float64), r.witness, _numbers(r.info, len(rows.y)))

    def bound(self, oracle: Oracle, rows: Rows, path: tuple[int, ...] = (), side: Side | None = None) -> Answer:
        """A bound for each example; witnesses are confirmed, and what is not confirmed becomes ``-inf``."""
        if oracle.adapt is not None:
            return self.bound(oracle.adapt(self.threat.name, self.classes), rows, path, side)
        if oracle.stages and all(isinstance(stage, Oracle) for stage in oracle.stages):
            return self._cascade(oracle, rows, path)
        if oracle.host:
            b = self._each(oracle, rows, path)
        elif len(oracle.stages) == 1 and isinstance(oracle.stages[0], Iteration) and oracle.stages[0].until is not None:
            b = self._piecewise(lambda part: self._chunks(oracle.stages[0], part, path), rows)
        else:
            b = self._piecewise(lambda part: self._whole(oracle, part, path), rows)
        value, info = np.asarray(b.value, np.float64), _numbers(b.info, len(rows.y))
        if (side or oracle.side) == "lower":
            if b.witness is None:
                raise ValueError(
                    f"{oracle.name} claims a lower bound but returns no witness, so its claim cannot be checked"
                )
            confirmed, inside = self.confirm(rows, b.witness)
            found = np.where(inside, confirmed, -np.inf)
            return Answer(found, b.witness, info, None, int((violated(value) & ~violated(found)).sum()))
        elements = np.asarray(b.info.get("elements", b.value), np.float64).reshape(len(value), -1)
        return Answer(_no_nan(value), None, info, _no_nan(elements))

    def _whole(self, oracle: Any, rows: Rows, path: tuple[int, ...]) -> Any:
        n = len(rows.y)
        out = _solve(oracle, self.threat, self.model.leaves, self.key, path, self._pad(rows, n), apply=self.model.apply)
        return jax.tree.map(lambda a: np.asarray(a)[:n], out)

    def _each(self, oracle: Any, rows: Rows, path: tuple[int, ...]) -> Any:
        """The loop over a host oracle: concrete arrays, one example at a time."""
        out = []
        for i in range(len(rows.y)):
            index, x, y, eps = jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), rows)
            f, t, k = (
                _asked(self.model.apply, self.model.leaves, y, self.key, index),
                self.threat.family(eps),
                _key(self.key, index, path),
            )
            out.append(oracle.solve(k, f, t, x) if isinstance(oracle, RadiusOracle) else oracle.solve(k, f, t(x)))
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *out)

    def _cascade(self, oracle: Oracle, rows: Rows, path: tuple[int, ...]) -> Answer:
        side: Side = oracle.side
        answer = self.bound(oracle.stages[0], rows, (*path, 0), side)
        stage = np.where(decided(side, answer.value), 0, -1).astype(np.int32)
        for i, further in enumerate(oracle.stages[1:], 1):
            left = np.flatnonzero(stage < 0)
            if len(left):
                answer = _merged(side, answer, left, self.bound(further, _pick(rows, left), (*path, i), side))
                stage[left[decided(side, answer.value[left])]] = i
        return answer._replace(info=answer.info | {"stage": stage})

    def _chunks(self, iteration: Iteration, rows: Rows, path: tuple[int, ...]) -> Bound:
        """An iteration with early stop: after each chunk of steps the examples still running move to the smallest bucket."""
        n, model = len(rows.y), self.model
        whole = self._pad(rows, n)
        progress = current = _start(iteration, self.threat, model.leaves, self.key, path, whole, apply=model.apply)
        at, part, chunks = np.arange(n), whole, list(CHUNKS)
        while True:
            steps = chunks.pop(0) if chunks else CHUNK
            current = _advance(iteration, self.threat, model.leaves, part, current, np.int32(steps), apply=model.apply)
            done, step = np.asarray(current.done)[: len(at)], np.asarray(current.step)[: len(at)]
            alive = np.flatnonzero(~done & (step < iteration.steps))
            if len(alive) and self.bucket(len(alive)) == len(np.asarray(current.done)):
                continue
            progress = self._put_back(progress, at, current)
            if not len(alive):
                break
            at = at[alive]
            part = self._pad(_pick(rows, at), len(at))
            positions = np.full(self.bucket(len(at)), at[0])
            positions[: len(at)] = at
            current = self._place(_take(progress, positions))
        out = _finish(iteration, self.threat, model.leaves, whole, progress, apply=model.apply)
        return jax.tree.map(lambda a: np.asarray(a)[:n], out)

    def _put_back(self, progress: Any, at: np.ndarray, current: Any) -> Any:
        size, whole = current.done.shape[0], progress.done.shape[0]
        if size == whole:
            return current
        positions = np.concatenate([at, np.full(size - len(at), whole)])
        return self._place(_put(progress, positions, current))


def _pick(rows: Any, at: np.ndarray | slice) -> Any:
    return jax.tree.map(lambda a: a[at], rows)


def _no_nan(a: np.ndarray) -> np.ndarray:
    """An upper bound that could not be computed is +inf."""
    return np.where(np.isnan(a), np.inf, a)


def _numbers(info: dict[str, Any], n: int) -> dict[str, np.ndarray]:
    """The entries of ``info`` that are one number an example."""
    return {k: np.asarray(v) for k, v in info.items() if np.shape(v) == (n,)}


def _merged(side: Side, a: Answer, at: np.ndarray, b: Answer) -> Answer:
    """A later stage's answers about the rows ``at`` merged into the earlier ones, as `cascade` merges them."""
    value, witness, elements = a.value.copy(), a.witness, a.elements
    if side == "upper":
        assert elements is not None
        assert b.elements is not None
        elements = elements.copy()
        elements[at] = np.minimum(elements[at], b.elements)
        value[at] = elements[at].max(axis=1)
    else:
        better = ~np.isnan(value[at]) & ~(b.value <= value[at])
        value[at] = np.where(better, b.value, value[at])
        chosen = at[better]
        witness = jax.tree.map(np.copy, witness)
        for leaf, new in zip(jax.tree.leaves(witness), jax.tree.leaves(b.witness), strict=True):
            leaf[chosen] = new[better]
    info = {k: v.copy() for k, v in a.info.items()}
    for k, v in b.info.items():
        known = info.setdefault(k, blank(k, len(value), v.dtype))
        known[at] = v if np.issubdtype(v.dtype, np.floating) else known[at] + v  # counts add up
    return Answer(value, witness, info, elements, a.rejected + b.rejected)
