"""What a certificate is: reading it, its digests, its operations."""

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

FORMAT, VERSION = "jrobust-certificate", 1
LIMIT = 1e30  # numbers beyond it are refused
_ARITY = {"add": range(1, 1000), "max": (2,), "abs": (1,), "tanh": (1,)}
BENT = ("max", "abs", "tanh")


class Rejected(ValueError):
    """The certificate proves nothing; the message says where."""


class Op(NamedTuple):
    """One operation: every value is a flat array; ``data`` are its constants."""

    kind: str
    sources: tuple[int, ...]
    size: int
    data: Any


class Certificate(NamedTuple):
    """A certificate whose operations have been read; ``exact``: with fractions for numbers."""

    meta: dict[str, Any]
    arrays: Mapping[str, np.ndarray]
    ops: list[Op]
    exact: bool


def need(fine: Any, message: str) -> None:
    if not bool(fine):
        raise Rejected(message)


def plain(value: Any) -> Any:
    """What JSON makes of a value."""
    return json.loads(dumps(value))


def dumps(value: Any) -> str:
    """The text of a value, the same for equal values."""
    return json.dumps(value, sort_keys=True)


def read(path: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of a file. Raises ValueError where it is not a whole certificate."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        whole = meta["format"] == FORMAT
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and json each have their own
        raise ValueError(f"{path} is not a certificate of jrobust, or it is damaged ({type(error).__name__})") from None
    if not whole or meta.get("version") != VERSION:
        raise ValueError(f"{path}: a certificate has format {FORMAT!r}, version {VERSION}; this one says otherwise")
    return meta, arrays


def digests(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[str, str]:
    """Of the function (its operations and weights), and of the set."""

    def of(prefix: str, parts: Any) -> str:
        found = hashlib.sha256(dumps(parts).encode())
        for name in sorted(n for n in arrays if n.startswith(prefix)):
            a = np.ascontiguousarray(arrays[name])
            found.update(f"{name} {a.dtype.str} {a.shape};".encode() + a.tobytes())
        return found.hexdigest()

    return of("function/", [meta["ops"], meta["output"]]), of("set/", meta.get("ball"))


def numbers(a: Any, exact: bool) -> Any:
    a = np.asarray(a)
    need(a.dtype in (np.float32, np.float64), f"numbers are float32 or float64, not {a.dtype}")
    need(np.all(np.abs(a) < LIMIT), f"a number is not finite, or beyond {LIMIT:g}")
    return fractions(a) if exact else a.astype(np.float64)


def fractions(a: Any) -> Any:
    made: Any = np.frompyfunc(lambda v: Fraction(float(v)), 1, 1)(np.atleast_1d(a))
    return made.reshape(np.shape(a))


def parse(meta: dict[str, Any], arrays: Mapping[str, np.ndarray], exact: bool) -> Certificate:
    """The operations, each one checked against its operands."""
    ops: list[Op] = []
    for k, row in enumerate(meta["ops"]):
        kind, sources = row["op"], tuple(row.get("in", ()))
        need(all(type(i) is int and 0 <= i < k for i in sources), f"operation {k} reads what is not computed before it")
        sizes = [ops[i].size for i in sources]
        data: Any = arrays[row["data"]] if "data" in row else None
        size = sizes[0] if sizes else 0
        if kind == "input":
            data, size = tuple(numbers(arrays[f"set/{k}/{end}"].ravel(), exact) for end in ("lo", "hi")), row["size"]
            fine = not sizes and len(data[0]) == len(data[1]) == size and np.all(data[0] <= data[1])
        elif kind == "const":
            data = numbers(data, exact).ravel()
            size, fine = len(data), not sizes
        elif kind == "gather":
            fine = sizes and data.dtype.kind == "i" and np.all((data >= -1) & (data < sum(sizes)))
            size, data = data.size, _buckets(data.ravel().astype(np.int64), sum(sizes))
        elif kind == "matmul":
            places, w = row["places"], numbers(data, exact)
            fine = len(sizes) == 1 and w.ndim == 3 and places > 0 and size == w.shape[0] * places * w.shape[1]
            size, data = w.shape[0] * places * w.shape[2], (places, w, np.maximum(w, 0), np.minimum(w, 0), np.abs(w))
        elif kind in ("scale", "divide"):
            data = numbers(data, exact).ravel()
            fine = len(sizes) == 1 and len(data) in (1, size) and (kind == "scale" or np.all(data != 0))
        else:
            fine = kind in _ARITY and len(sizes) in _ARITY[kind] and len(set(sizes)) == 1
            need(kind in _ARITY, f"operation {k}: {kind!r} is not one that this checker knows")
            need(not (exact and kind == "tanh"), "tanh is not checkable in rationals; check in float64")
        need(fine, f"operation {k} ({kind}) does not fit its operands")
        ops.append(Op(kind, sources, int(size), data))
    need(type(meta["output"]) is int and 0 <= meta["output"] < len(ops), "no output")
    return Certificate(meta, arrays, ops, exact)


def _buckets(index: Any, total: int) -> Any:
    """The index of a gather, and how its transpose sums: an order of the entries, where each source begins in it, which sources."""
    order = np.argsort(index, kind="stable")
    order = order[np.count_nonzero(index < 0) :]
    used, starts, counts = np.unique(index[order], return_index=True, return_counts=True)
    return index, total, order, used, starts, int(max(counts, default=1))
