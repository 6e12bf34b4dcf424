"""The proof: every part of the domain, and what is established on it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ._arithmetic import forward
from ._format import BENT, LIMIT, Certificate, Rejected, digests, need, numbers, parse
from ._passes import ENTRIES, finite, upper, walk


class Report(NamedTuple):
    """``bounds`` [m]: of the outputs, as far as they were established; ``leaves``: parts that the domain was cut into."""

    accepted: bool
    reason: str
    bounds: list[float]
    leaves: int
    function: str
    set: str


def _slopes(cert: Certificate, prefix: str, index: int, rows: slice | None = None) -> dict[int, Any]:
    """The slopes of one stage: by operation, those below and (of ``tanh``) above, each [1 or rows, n]."""
    found: dict[int, Any] = {}
    for k, op in enumerate(cert.ops):
        if op.kind in BENT:
            names = [f"{prefix}/{k}/lower"] + [f"{prefix}/{k}/upper"] * (op.kind == "tanh")
            # of a maximum, where a constant serves above; elsewhere the chord does
            names += [n for n in [f"{prefix}/{k}/flat"] if op.kind == "max" and n in cert.arrays]
            both = [np.atleast_2d(cert.arrays[n][index]) for n in names]
            need(both, f"{prefix}: operation {k} has no slopes")
            need(all(s.shape[-1] == op.size for s in both), f"{prefix}: slopes of operation {k} have a wrong size")
            found[k] = [numbers(s if rows is None or len(s) == 1 else s[rows], cert.exact) for s in both]
    return found


def leaves(cert: Certificate, name: str, root: int) -> Iterator[tuple[int, list[tuple[int, int, int, float]]]]:
    """The leaves of a tree of cuts, each with its path: value, entry, side (0: at most, 1: at least) and point. Both sides of every
    cut are visited, so the leaves cover the domain."""
    nodes, points = cert.arrays[f"{name}/nodes"], cert.arrays[f"{name}/points"]
    need(nodes.ndim == 2 and nodes.shape[1] == 4 and nodes.dtype.kind == "i" and points.shape == (len(nodes),), name)
    seen, waiting = set(), [(root, [])]
    while waiting:
        at, path = waiting.pop()
        if at < 0:
            yield ~at, path
            continue
        need(at < len(nodes) and at not in seen, f"{name}: node {at} is missing, or met twice")
        seen.add(at)
        value, entry, *children = (int(v) for v in nodes[at])
        need(0 <= value < len(cert.ops) and 0 <= entry < cert.ops[value].size, f"{name}: node {at} cuts nothing")
        need(abs(points[at]) < LIMIT, f"{name}: node {at} cuts at {points[at]}")
        waiting += [(child, [*path, (value, entry, side, float(points[at]))]) for side, child in enumerate(children)]


def _limits(cert: Certificate, path: Sequence[tuple[int, int, int, float]]) -> dict[int, Any]:
    """The box that a path of cuts leaves of each value."""
    box: dict[int, Any] = {}
    for value, entry, side, point in path:
        if value not in box:
            ends = (np.full(cert.ops[value].size, end, object if cert.exact else float) for end in (-np.inf, np.inf))
            box[value] = tuple(ends)
        end, tighter = box[value][1 - side], (min, max)[side]
        end[entry] = tighter(end[entry], Fraction(point) if cert.exact else point)
    return box


def _stage(cert: Certificate, index: int, box: Mapping[int, Any]) -> tuple[Any, Any]:
    """The intervals of a part of the input, and the outputs' bounds over it; None: it is empty."""
    out = cert.meta["output"]
    env: Any = None
    for w, one in enumerate(cert.meta["walks"]):
        slopes = _slopes(cert, f"walks/{w}", index) if one["relax"] else None
        env = walk(cert, box, env, {}, one["refine"], slopes)
        if env is None:
            return None, None
    need(env is not None, "the proof has no walk")
    bounds = np.array(env[out][1])
    size, chunk = len(bounds), max(1, ENTRIES // max(op.size for op in cert.ops))
    for relax in cert.meta["finals"]:
        for start in range(0, size, chunk):
            part = slice(start, min(start + chunk, size))
            rows = numbers(np.eye(size)[part], cert.exact)
            slopes = _slopes(cert, "final", index, part) if relax else None
            bounds[part] = np.minimum(bounds[part], finite(cert, upper(cert, env, out, rows, slopes, {}), np.inf))
    return env, bounds


def _cut(cert: Certificate, env: Any, row: int, leaf: int, path: Sequence[Any]) -> Any:
    """An upper bound of one output over a leaf of cuts of inner values; -inf: it is empty."""
    out, multipliers = cert.meta["output"], cert.arrays["cuts/multipliers"][leaf]
    need(len(path) <= len(multipliers), f"leaf {leaf} has too few multipliers")
    need(np.all(multipliers >= 0), f"leaf {leaf} has a multiplier that is not >= 0")
    multipliers, points = (numbers(v, cert.exact) for v in (multipliers, np.array([cut[3] for cut in path])))
    inner = walk(cert, {}, env, _limits(cert, path), (), None)
    if inner is None:
        return -math.inf
    cuts: dict[int, Any] = {}
    for (value, entry, side, _), mu, point in zip(path, multipliers, points, strict=False):
        cuts.setdefault(value, []).append((entry, mu if side else -mu, point))
    e = numbers(np.eye(cert.ops[out].size)[row : row + 1], cert.exact)
    found = upper(cert, inner, out, e, _slopes(cert, "cuts", leaf), cuts)[0]
    own = inner[out][1][row]
    return min(own, found) if cert.exact or math.isfinite(found) else own


def check(
    meta: dict[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    exact: bool = False,
    expect: str | None = None,
    expect_set: str | None = None,
) -> Report:
    """Whether a certificate, as `read` returns it, proves its claim.

    Args:
      meta, arrays: its parts.
      exact: compute in fractions.
      expect, expect_set: the digests that the function and the set must have.
    """
    function, over, bounds, parts = "", "", {}, 0
    try:
        function, over = digests(meta, arrays)
        need(expect is None or function == expect, "the function is not the one with the digest that was expected")
        need(expect_set is None or over == expect_set, "the set is not the one with the digest that was expected")
        need((function, over) == (meta["function"], meta["set"]), "the function or the set is not the recorded one")
        for name, index, row, bound in _established(parse(meta, arrays, exact)):
            claim = arrays[name][index]
            need(bound <= claim, f"{name}{list(index)}: claimed at most {claim:g}, found at most {float(bound):g}")
            need(
                bound < 0,
                f"{name}{list(index)}: output {row} is found to be at most {float(bound):g}, which is not below 0",
            )
            bounds[row], parts = max(bounds.get(row, bound), bound), max(parts, index[0] + 1)
    except Rejected as reason:
        return Report(False, str(reason), [], 0, function, over)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return Report(False, f"malformed: {type(error).__name__}: {error}", [], 0, function, over)
    return Report(True, "", [float(bounds[row]) for row in sorted(bounds)], parts, function, over)


def derived(meta: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the proof shows, to be claimed: bounds of every output, by stage, and of the leaves of cuts. Raises `Rejected`."""
    found = {name: np.full(arrays[name].shape, np.inf) for name in ("claimed", "cuts/claimed") if name in arrays}
    for name, index, _, bound in _established(parse(meta, arrays, False)):
        found[name][index] = bound
    return found


def _established(cert: Certificate) -> Iterator[tuple[str, tuple[int, ...], int, Any]]:
    """All bounds that together make the proof: claim and its index, output, bound."""
    meta, size = cert.meta, cert.ops[cert.meta["output"]].size
    trees = {int(row): root for row, root in meta["trees"].items()}
    need(size > 0 and cert.arrays["claimed"].ndim == 2, "not one claim an output")
    need(all(0 <= row < size for row in trees), "a cut of an output that is not there")
    need(not trees or meta["root"] == -1, "cuts of the input and of inner values do not mix")
    env = None
    for leaf, path in leaves(cert, "input", meta["root"]):
        need(all(cert.ops[cut[0]].kind == "input" for cut in path), "a cut of the input cuts something else")
        env, bounds = _stage(cert, leaf, _limits(cert, path))
        need(env is not None or path, "the set is empty")
        for row in set(range(size)) - set(trees):
            yield "claimed", (leaf, row), row, -math.inf if bounds is None else bounds[row]
    for row, root in trees.items():
        for leaf, path in leaves(cert, "cuts", root):
            yield "cuts/claimed", (leaf,), row, _cut(cert, env, row, leaf, path)


def evaluate(meta: dict[str, Any], arrays: Mapping[str, np.ndarray], *xs: Any) -> np.ndarray:
    """The recorded function at a point, in float64: to be compared with the model that one means."""
    cert, points, values = parse(meta, arrays, False), iter(xs), []
    for op in cert.ops:
        given = np.asarray(next(points), np.float64).ravel() if op.kind == "input" else op.data
        need(op.kind != "input" or len(given) == op.size, f"a point has {op.size} entries")
        values.append(given if op.kind in ("input", "const") else forward(op, [values[i] for i in op.sources]))
    return values[meta["output"]]
