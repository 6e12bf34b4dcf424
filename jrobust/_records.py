"""Per-example results on disk: one JSON line an example, appended and synced a chunk at a time, so that any stop can be resumed.

A run is three kinds of file in one directory: ``<name>.json`` (the header: what was asked, compared when a run is resumed),
``<name>.jsonl`` (one object an example, with its index ``i``) and ``<name>-<array>.npy`` (large rows such as witnesses, written
in place before the lines that speak of them).

Several processes share a run without talking to each other: each opens it as ``shard=(index, count)`` and writes files of its own,
``<name>-shard-<index>-of-<count>...``. Whoever opens the run itself finds their rows among the stored ones, each example once, and may
`Records.adopt` them; `read_records` reads all files as one.
"""

import errno
import glob
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jrobust._digest import digest
from jrobust.typing import Array

__all__ = ["Records", "header_of", "open_records", "read_records"]

FORMAT = 1


class Records:
    """An open run; `open_records` makes one.

    Attributes:
      directory, name: of its files.
      shards: names of the files of other processes whose rows count among the stored ones.
    """

    def __init__(self, directory: Path, name: str, end: int, shards: tuple[str, ...] = ()) -> None:
        self.directory, self.name, self.shards = directory, name, shards
        self._end = end
        self._lines = os.open(directory / f"{name}.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._arrays: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]] = {}

    def stored(self) -> Iterator[dict[str, Any]]:
        """The rows that were on disk when the run was opened, each example once, one at a time: own ones first, then the shards'."""
        yield from self._stored((self.name, *self.shards))

    def _stored(self, names: tuple[str, ...], seen: set[int] | None = None) -> Iterator[dict[str, Any]]:
        seen = set() if seen is None else seen
        for name in names:
            for row in _parsed(self.directory / f"{name}.jsonl", self._end if name == self.name else None):
                if row["i"] not in seen:
                    seen.add(row["i"])
                    yield row

    @cached_property
    def rows(self) -> dict[int, dict[str, Any]]:
        """What `stored` gives, by index; all of it in memory."""
        return {row["i"]: row for row in self.stored()}

    def adopt(self, chunk: int = 256) -> int:
        """Copy the shards' rows, and theirs of the arrays made ready, into the run's own files; how many there were.

        Raises:
          ValueError: a shard lacks an array, or has it in another shape.
        """
        seen = {row["i"] for row in self._stored((self.name,))}
        before = len(seen)
        for shard in self.shards:
            arrays = {name: self._array_of(shard, name) for name in self._arrays}
            rows = self._stored((shard,), seen)
            while part := list(itertools.islice(rows, chunk)):
                index = [row["i"] for row in part]
                for name, array in arrays.items():
                    self.write(name, index, array[index])
                self.append(part)
        return len(seen) - before

    def _array_of(self, shard: str, array: str) -> np.ndarray:
        path, (_, _, dtype, shape) = self.directory / f"{shard}-{array}.npy", self._arrays[array]
        found = np.load(path, mmap_mode="r") if path.exists() else None
        if found is None or found.shape != shape or found.dtype != dtype:
            there = "is missing" if found is None else f"holds {found.dtype} {found.shape}"
            raise ValueError(f"{path} {there}; this run has {dtype} {shape}")
        return found

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append objects (each with its index ``"i"``) as one chunk; on return they are on disk.

        Raises:
          OSError: the disk is full; what was there before the chunk is kept whole.
        """
        data = "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows).encode()
        with _disk_full(self.directory):
            for file, *_ in self._arrays.values():
                os.fsync(file)
            before = os.fstat(self._lines).st_size
            try:
                _write_all(self._lines, data)
                os.fsync(self._lines)
            except OSError:
                os.ftruncate(self._lines, before)
                raise

    def array(self, array: str, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        """Make ready (or reopen) the file of a large array [N, ...] whose rows `write` fills."""
        path = self.path(array)
        dtype = np.dtype(dtype)
        with _disk_full(self.directory):
            if not path.exists():
                part = path.with_suffix(".part")
                with open(part, "wb") as file:
                    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.truncate(file.tell() + dtype.itemsize * math.prod(shape))
                os.replace(part, path)
        try:
            found = np.load(path, mmap_mode="r")
        except (ValueError, EOFError):
            raise ValueError(
                f"{path} is not an array file; it was damaged or is not ours: remove it with its run"
            ) from None
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(f"{path} holds {found.dtype} {found.shape}, this run would write {dtype} {shape}")
        self._arrays[array] = (os.open(path, os.O_RDWR), found.offset, dtype, shape)  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, array: str, index: Any, values: Any) -> None:
        """Write ``values[k]`` as row ``index[k]``; `append` syncs them before the lines of the same examples."""
        file, offset, dtype, shape = self._arrays[array]
        stride = dtype.itemsize * math.prod(shape[1:])
        values = np.ascontiguousarray(values, dtype)
        with _disk_full(self.directory):
            for i, value in zip(np.asarray(index).tolist(), values, strict=True):
                _write_all(file, value.tobytes(), offset + i * stride)

    def read(self, array: str) -> np.ndarray:
        """The array, memory-mapped: it costs no memory until it is looked at."""
        return np.load(self.path(array), mmap_mode="r")

    def path(self, array: str) -> Path:
        """Where an array of this run lies."""
        return self.directory / f"{self.name}-{array}.npy"

    def close(self) -> None:
        """Close the files; everything appended is on disk already."""
        for file in (self._lines, *(entry[0] for entry in self._arrays.values())):
            os.close(file)
        self._arrays = {}

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def header_of(model: Any, key: Any, hashed: Iterable[str]) -> dict[str, Any]:
    """What identifies any run of a model over a data set, for the header of `open_records`: another of these is another run.

    Args:
      model: taken apart (`jrobust._model.functional`), or any pytree.
      key: one typed PRNG key.
      hashed: digests of the blocks of the data, in order.

    >>> import jax
    >>> header_of(None, jax.random.key(3), ["a"])["key"]
    ['threefry2x32', [0, 3]]
    """
    from jrobust import __version__

    return {
        "jrobust": __version__,
        "data": digest(tuple(hashed)),
        "model": digest(model),
        "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
    }


def open_records(
    directory: Any, header: dict[str, Any], *, name: str = "records", shard: tuple[int, int] | None = None
) -> Records:
    """Start a run in ``directory``, or go on with the one that is there.

    Args:
      directory: made if missing.
      header: what identifies the run (JSON values): everything that, were it different, would make its rows another run's.
      name: of the files, so that one directory can hold several runs.
      shard: (index, count): the files of one of several processes, whose headers are those of the run itself.

    Returns:
      The open `Records`; ``.stored()`` and ``.rows`` hold what was already done, by shards too unless this is one. A last line cut short
      by a kill is dropped.

    Raises:
      ValueError: the directory holds another run (the message names what differs), or a line that is not a record.
      OSError: the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     with open_records(d, {"eps": 0.1}) as records:
    ...         records.append([{"i": 0, "value": float("-inf")}])
    ...     with open_records(d, {"eps": 0.1}) as records:
    ...         print(records.rows)
    {0: {'i': 0, 'value': '-inf'}}
    """
    directory = Path(directory)
    header = json.loads(json.dumps(_plain({"format": FORMAT, **header}), allow_nan=False))
    others = () if shard is not None else _shards(directory, name)
    name = name if shard is None else f"{name}-shard-{shard[0]}-of-{shard[1]}"
    path, lines = directory / f"{name}.json", directory / f"{name}.jsonl"
    with _disk_full(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _same_run(path, header)
        elif lines.exists() and lines.stat().st_size:
            raise ValueError(
                f"{lines} has no header {path.name}, so it is not known whose results it holds; use another directory"
            )
        else:
            part = path.with_suffix(".part")
            with open(part, "w") as file:
                json.dump(header, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        for other in others:
            _same_run(directory / f"{other}.json", header)
        _repair(lines)
        for there in (name, *others):
            for _ in _parsed(directory / f"{there}.jsonl"):
                pass  # a damaged line is an error now, not in the middle of the work
        return Records(directory, name, lines.stat().st_size if lines.exists() else 0, others)


def read_records(directory: Any, *, name: str = "records") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the rows (sorted by index, each example once) of a run and its shards, finished or not, without touching it.

    Raises:
      FileNotFoundError: there is no such run.
      ValueError: its shards are of different runs, or a line is not a record.
    """
    directory = Path(directory)
    own = (name,) if (directory / f"{name}.json").exists() else ()
    names = own + _shards(directory, name)
    if not names:
        raise FileNotFoundError(f"{directory} holds no results ({name}.json is missing)")
    header = json.loads((directory / f"{names[0]}.json").read_text())
    rows: dict[int, dict[str, Any]] = {}
    for there in names:
        _same_run(directory / f"{there}.json", header)
        for row in _parsed(directory / f"{there}.jsonl"):
            rows.setdefault(row["i"], row)
    return header, [rows[i] for i in sorted(rows)]


def _shards(directory: Path, name: str) -> tuple[str, ...]:
    """Names of the files of a run's shards."""
    return tuple(sorted(path.stem for path in directory.glob(f"{glob.escape(name)}-shard-*-of-*.json")))


def _same_run(path: Path, header: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not the header of a run; use another directory")
    differ = [key for key in {**found, **header} if found.get(key) != header.get(key)]
    if differ:
        details = "; ".join(f"{key}: there {found.get(key)!r}, here {header.get(key)!r}" for key in differ)
        raise ValueError(
            f"{path.parent} holds the results of another run ({details}); use another directory, or remove it"
        )


def _repair(lines: Path) -> None:
    """A line that a kill cut short is removed from the end of the file."""
    if lines.exists():
        with open(lines, "rb") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
        if whole < lines.stat().st_size:
            os.truncate(lines, whole)


def _parsed(lines: Path, end: int | None = None) -> Iterator[dict[str, Any]]:
    """The whole lines of a file, or of its first ``end`` bytes, one at a time."""
    if not lines.exists():
        return
    with open(lines, "rb") as file:
        at = 0
        for number, line in enumerate(file, 1):
            at += len(line)
            if not line.endswith(b"\n") or (end is not None and at > end):
                return
            try:
                row = json.loads(line)
                row["i"] = int(row["i"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{lines}, line {number} is not a record; the file was damaged or is not ours"
                ) from None
            yield row


def _plain(value: Any) -> Any:
    """JSON values: arrays become lists, numbers that JSON cannot say ("nan", "inf", "-inf") strings that `float` reads."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic | Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write_all(file: int, data: bytes, at: int | None = None) -> None:
    view = memoryview(data)
    while view:
        done = os.write(file, view) if at is None else os.pwrite(file, view, at)
        view, at = view[done:], None if at is None else at + done


@contextmanager
def _disk_full(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk is full while writing results to {directory}; what was written is kept: free some space and run the same "
            "command again to go on",
        ) from error
