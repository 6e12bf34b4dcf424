"""Per-example results on disk: one JSON line an example, appended and synced a chunk at a time, so that any stop can be resumed.

A run is three kinds of file in one directory: ``<name>.json`` (the header: what was asked, compared when a run is resumed),
``<name>.jsonl`` (one object an example, with its index ``i``) and ``<name>-<array>.npy`` (large rows such as witnesses, written
in place before the lines that speak of them).
"""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jrobust.typing import Array

__all__ = ["Records", "open_records", "read_records"]

FORMAT = 1


class Records:
    """An open run; `open_records` makes one. ``rows`` maps the index of every example that was on disk then to its object."""

    def __init__(self, directory: Path, name: str, rows: dict[int, dict[str, Any]]) -> None:
        self.directory, self.name, self.rows = directory, name, rows
        self._lines = os.open(directory / f"{name}.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._arrays: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]] = {}

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


def open_records(directory: Any, header: dict[str, Any], *, name: str = "records") -> Records:
    """Start a run in ``directory``, or go on with the one that is there.

    Args:
      directory: made if missing.
      header: what identifies the run (JSON values): everything that, were it different, would make its rows another run's.
      name: of the files, so that one directory can hold several runs.

    Returns:
      The open `Records`; ``.rows`` holds what was already done. A last line cut short by a kill is dropped.

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
        rows = {row["i"]: row for row in _repaired(lines)}
        return Records(directory, name, rows)


def read_records(directory: Any, *, name: str = "records") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the rows (sorted by index) of a run, finished or not, without touching it.

    Raises:
      FileNotFoundError: there is no such run.
    """
    directory = Path(directory)
    path = directory / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no results ({path.name} is missing)")
    lines = directory / f"{name}.jsonl"
    data = lines.read_bytes() if lines.exists() else b""
    rows = {row["i"]: row for row in _parsed(data[: data.rfind(b"\n") + 1], lines)}
    return json.loads(path.read_text()), [rows[i] for i in sorted(rows)]


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


def _repaired(lines: Path) -> list[dict[str, Any]]:
    """The rows of the file, after a line that a kill cut short is removed from its end."""
    if not lines.exists():
        return []
    data = lines.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(lines, len(whole))
    return list(_parsed(whole, lines))


def _parsed(data: bytes, lines: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = json.loads(line)
            row["i"] = int(row["i"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{lines}, line {number} is not a record; the file was damaged or is not ours") from None
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
