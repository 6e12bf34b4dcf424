"""Proofs that others can check: what a bound or a search found, written down as choices alone (`checker` computes all that follows)."""

import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from jrobust._objective import Objective
from jrobust._oracle import Oracle, check_problem
from jrobust.bounds import _choices, checker
from jrobust.bounds._branch import branch, cut_over, root_of
from jrobust.bounds._domains import Domain, splittable
from jrobust.bounds._lowering import Lowered, lower
from jrobust.bounds._methods import alpha_crown, crown, method_of
from jrobust.bounds._problem import Problem, is_box, mask_of
from jrobust.bounds._propagate import Method, posed, worth_refining
from jrobust.bounds._tables import is_affine


class Certificate(NamedTuple):
    """A proof that every violation of an objective is below 0 on a set, as plain data; `prove` makes one, `load_certificate` reads one.

    Attributes:
      meta: the function as a list of operations, the steps of the proof, digests; JSON.
      arrays: weights, ends of the box, slopes, multipliers, cuts and claims, by name.
    """

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` file (without pickle) that ``python jrobust/bounds/checker FILE`` checks."""
        text = np.frombuffer(checker.dumps(self.meta).encode(), np.uint8)
        with open(path, "wb") as file:
            np.savez_compressed(file, meta=text, **self.arrays)  # pyright: ignore[reportArgumentType]

    def check(
        self, *, rational: bool = False, expect: str | None = None, expect_set: str | None = None
    ) -> checker.Report:
        """What the independent checker says; ``rational``: in fractions (small networks); the digests of function and set to insist on."""
        return checker.check(self.meta, self.arrays, exact=rational, expect=expect, expect_set=expect_set)

    def evaluate(self, *xs: Any) -> np.ndarray:
        """The recorded function in float64: compare it with your model."""
        return checker.evaluate(self.meta, self.arrays, *map(np.asarray, xs))

    @property
    def function(self) -> str:
        """The SHA-256 digest of the recorded function, weights included."""
        return self.meta["function"]

    @property
    def set(self) -> str:
        """The SHA-256 digest of the recorded set."""
        return self.meta["set"]


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate; nothing in it is believed until `Certificate.check` accepts it.

    Raises:
      ValueError: the file is damaged, or something else.
    """
    return Certificate(*checker.read(path))


def prove(
    f: Objective,
    s: Any,
    *,
    method: Oracle | None = None,
    over: str | None = "auto",
    margin: int | float = 1e-6,
    nodes: int | float = math.inf,
    seconds: int | float = math.inf,
    **options: Any,
) -> Certificate | None:
    """Prove that every violation is below 0 on the set, and write the proof down so that a program independent of this one can check it.

    The method is tried on the whole set first, then branch and bound.

    Args:
      f, s: the objective and the set: a box (`linf`, `box`), or a ball (`l2`, `l1`) of one array, which a clip may cut.
      method: of `ibp`, `crown`, `crown_ibp`, `alpha_crown`; by default `crown` for the whole set and for boxes, and
        ``alpha_crown(steps=10, target=0)`` where neurons are cut.
      over: what branch and bound cuts: "input", "neurons" or "auto"; None: nothing.
      margin: parts are closed once their float32 bound is below ``-margin``, which leaves room for the checker's rounding.
      nodes, seconds, options: of `branch`.

    Returns:
      A `Certificate` that the checker has accepted in float64; None where no proof was found within the budget.

    Raises:
      NotImplementedError: the function has an equation that certificates have no words for.
      TypeError: the method is not one of those above.

    Guarantee: what the checker accepts holds in exact arithmetic of the recorded function (the weights as they are; what float32 rounds
      in a run of the model is outside of it), whatever this function or any other of `jr.bounds` does wrong.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> f = jr.objectives.objective(lambda z: jnp.sum(jnp.abs(z), keepdims=True) - jnp.abs(z[:1] + z[1:]) - 1.01)
    >>> proof = prove(f, jr.sets.linf(0.5)(jnp.zeros(2)), method=jr.bounds.crown(), batch=8)
    >>> proof.check(rational=True).accepted
    True

    References:
      Higham, Accuracy and stability of numerical algorithms, 2002, ch. 3 (the checker's rounding errors).

    Deviations: alpha-CROWN inside of a method is recorded with CROWN's slopes, so that its proof may not be found again.
    """
    check_problem(f, s)
    first = crown() if method is None else method
    proof = _written(f, s, first)
    if proof is not None or over is None:
        return proof
    kind, by = cut_over(s, over), first
    if method is None and kind == "neurons":
        by = alpha_crown(steps=10, target=0.0)  # on CROWN's intervals, which the checker can follow
    found = branch(
        f, s, method=by, over=kind, target=-float(margin), nodes=nodes, seconds=seconds, record=True, **options
    )
    if found.open is not None or not found.upper < 0 or found.lower >= 0:
        return None
    return _written(f, s, by, kind, found.leaves)


def _written(f: Objective, s: Any, oracle: Oracle, kind: str = "none", leaves: Any = None) -> Certificate | None:
    """A certificate of a method over the whole set, or of a search's leaves, if the checker accepts it."""
    method = method_of(oracle, "prove(method=)")
    methods = _choices.chain(method)
    for inner in (method, *methods):
        if not isinstance(inner, Method):
            raise TypeError(
                f"prove takes ibp, crown, crown_ibp or alpha_crown, also inside of one another, got {oracle.name}"
            )
    problem = posed(f, s, method)
    program, (out,) = problem.program, problem.program.outputs
    lowered, output = lower(program, list(zip(*map(jax.tree.leaves, s.hull()), strict=True)))
    arrays, meta = dict(lowered.arrays), {"ops": lowered.ops, "output": output, "trees": {}, "root": -1}
    meta["ball"] = _ball(s, arrays)
    meta["walks"] = [{"relax": m.relax, "refine": _refined(problem, lowered, m)} for m in methods]
    affine = out in problem.pure or problem.levels.get(out, 0) > 1
    meta["finals"] = [False] * affine + [True] * (method.relax and out not in problem.pure)
    nodes, points, stages = np.zeros((0, 4), np.int64), np.zeros(0), 1
    if kind == "input":
        meta["root"], nodes, points, _ = _tree(leaves.lo, leaves.hi)
        nodes[:, 0], stages = lowered.at[program.inputs[0]], len(leaves.lo)
    arrays |= {"input/nodes": nodes, "input/points": points}
    arrays |= dict(_choices.stages(lowered, oracle, f, s, leaves if kind == "input" else None))
    arrays["claimed"] = np.full((stages, lowered.size[output]), np.inf)
    if kind == "neurons" and leaves is not None:
        arrays |= dict(_choices.cuts(lowered, oracle, f, s, root_of(oracle, f, s, over=kind)[0], leaves))
        _cut(problem, lowered, leaves, meta, arrays)
    return _claimed(meta, arrays)


def _claimed(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Certificate | None:
    """The certificate with the bounds that the checker finds, rounded up, if it accepts it."""
    meta = checker.plain({"format": checker.FORMAT, "version": checker.VERSION} | meta)
    meta["function"], meta["set"] = checker.digests(meta, arrays)
    try:
        found = checker.derived(meta, arrays)
    except checker.Rejected:
        return None
    # another machine may sum in another order
    arrays = arrays | {name: b + 1e-9 * np.abs(np.where(np.isfinite(b), b, 0.0)) for name, b in found.items()}
    proof = Certificate(meta, arrays)
    return proof if proof.check().accepted else None


def _refined(problem: Problem, lowered: Lowered, method: Method) -> list[int]:
    """The operations whose intervals backward passes tighten."""
    program, found = problem.program, []
    for eqn in program.equations:
        mask = mask_of(program, eqn)
        if any(mask) and not is_affine(eqn, mask, program.avals):
            found += [i for i, d in zip(eqn.inputs, mask, strict=True) if d and worth_refining(problem, method, i)]
    return sorted({lowered.at[i] for i in found})


def _ball(s: Any, arrays: dict[str, np.ndarray]) -> int | None:
    """1 or 2 where the set is the ball of that norm around one array, inside its hull."""
    if is_box(s):
        return None
    if s.geometry.name not in ("l1", "l2"):
        raise NotImplementedError(
            f"prove: a certificate has no words for a set of kind {s.geometry.name!r}, only for boxes, l2 and l1"
        )
    arrays |= {"set/centre": np.ravel(s.center), "set/radius": np.ravel(np.asarray(s.params[0]))}
    return int(s.geometry.name[1])


# -- Trees --------------------------------------------------------------------------------------------------------------


def _tree(lo: np.ndarray, hi: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, list[list[tuple[int, int]]]]:
    """The tree of cuts that boxes [n, entries] are the leaves of: its root, nodes (., entry, below, above), their points, and the path
    (entry, side) to every box. A node that is negative is the leaf ``~node``."""
    nodes, points, paths = [], [], [[] for _ in lo]
    root = [0, 0, 0, 0]
    waiting: list[tuple[Any, int, np.ndarray]] = [(root, 2, np.arange(len(lo)))]
    while waiting:
        parent, side, some = waiting.pop()
        if len(some) == 1:
            parent[side] = ~int(some[0])
            continue
        parent[side] = len(nodes)
        entry, point = _first_cut(lo[some], hi[some])
        nodes.append([0, entry, 0, 0])
        points.append(point)
        above = lo[some, entry] >= point
        for j, part in enumerate((some[~above], some[above])):
            for leaf in part:
                paths[leaf].append((entry, j))
            waiting.append((nodes[-1], 2 + j, part))
    return root[2], np.array(nodes, np.int64).reshape(-1, 4), np.array(points, np.float64), paths


def _first_cut(lo: np.ndarray, hi: np.ndarray) -> tuple[int, float]:
    """An entry and a point that no box lies on both sides of."""
    for entry in np.flatnonzero(np.any(lo != lo[:1], axis=0) | np.any(hi != hi[:1], axis=0)):
        for point in np.unique(lo[:, entry])[1:]:
            if np.all((lo[:, entry] >= point) | (hi[:, entry] <= point)):
                return int(entry), float(point)
    raise RuntimeError("prove: the search's leaves are not those of a tree; please report this")


def _cut(
    problem: Problem, lowered: Lowered, leaves: Domain, meta: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """The trees of the outputs that a search over neurons closed, and the multipliers along their paths."""
    values = splittable(problem)
    ops = np.concatenate([np.full(lowered.size[lowered.at[i]], lowered.at[i]) for i in values])
    inner = np.concatenate([np.arange(lowered.size[lowered.at[i]]) for i in values])
    # of x >= its lower end, and of x <= its upper end
    held = [
        np.concatenate([leaves.parameters[1][i][j].reshape(len(leaves.row), -1) for i in values], 1) for j in range(2)
    ]
    all_nodes, all_points, paths = [], [], [[] for _ in leaves.row]
    for r in np.unique(leaves.row):
        some = np.flatnonzero(leaves.row == r)
        root, nodes, points, found = _tree(leaves.lo[some], leaves.hi[some])
        start = sum(map(len, all_nodes))
        rename = lambda at, some=some, start=start: ~some[~at] if at < 0 else at + start  # noqa: E731
        meta["trees"][str(int(r))] = int(rename(root))
        rows = [(ops[e], inner[e], rename(a), rename(b)) for _, e, a, b in nodes]
        all_nodes.append(np.array(rows, np.int64).reshape(-1, 4))
        all_points.append(points)
        for leaf, path in zip(some, found, strict=True):
            paths[leaf] = path
    multipliers = np.zeros((len(paths), max(1, *map(len, paths))), np.float32)
    for leaf, path in enumerate(paths):
        tightest = {(entry, side): j for j, (entry, side) in enumerate(path)}
        for (entry, side), j in tightest.items():
            multipliers[leaf, j] = held[1 - side][leaf, entry]
    arrays |= {"cuts/nodes": np.concatenate(all_nodes), "cuts/points": np.concatenate(all_points)}
    arrays |= {"cuts/multipliers": np.nan_to_num(multipliers), "cuts/claimed": np.full(len(paths), np.inf)}
