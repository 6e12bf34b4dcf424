"""Streaming results survive a kill, a full disk and another run's directory."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from jrobust import _records
from jrobust._records import header_of, open_records, read_records

HEADER = {"eps": 0.1, "oracles": ["pgd"]}


def rows(*indices):
    return [{"i": i, "value": np.float32(i) / 3, "holds": np.bool_(i % 2)} for i in indices]


def test_rows_come_back_exactly(tmp_path):
    with open_records(tmp_path, HEADER) as records:
        records.append(rows(0, 1))
        records.append([{"i": 2, "value": np.nan, "more": np.array([np.inf, 1.0])}])
        assert not records.rows  # what is written is not also kept in memory
    with open_records(tmp_path, HEADER) as records:
        assert sorted(records.rows) == [0, 1, 2]
        assert np.float32(records.rows[1]["value"]) == np.float32(1) / 3
        assert records.rows[1]["holds"] is True
        assert np.isnan(float(records.rows[2]["value"]))
        assert [float(v) for v in records.rows[2]["more"]] == [np.inf, 1.0]
    header, found = read_records(tmp_path)
    assert header["eps"] == 0.1
    assert [row["i"] for row in found] == [0, 1, 2]


def test_a_line_cut_short_is_dropped_and_the_rest_kept(tmp_path):
    with open_records(tmp_path, HEADER) as records:
        records.append(rows(0, 1))
    lines = tmp_path / "records.jsonl"
    whole = lines.read_bytes()
    for cut in (1, 5, len(whole.splitlines()[1])):
        lines.write_bytes(whole[:-cut])
        assert [row["i"] for row in read_records(tmp_path)[1]] == [0]
        with open_records(tmp_path, HEADER) as records:
            assert sorted(records.rows) == [0]
            records.append(rows(1))
        assert lines.read_bytes() == whole


def test_a_damaged_line_is_an_error(tmp_path):
    with open_records(tmp_path, HEADER) as records:
        records.append(rows(0, 1))
    lines = tmp_path / "records.jsonl"
    lines.write_bytes(b"{nonsense}\n" + lines.read_bytes())
    with pytest.raises(ValueError, match="line 1 is not a record"):
        open_records(tmp_path, HEADER)


def test_another_runs_directory_is_refused(tmp_path):
    open_records(tmp_path, HEADER).close()
    with pytest.raises(ValueError, match=r"another run \(eps: there 0.1, here 0.2\)"):
        open_records(tmp_path, HEADER | {"eps": 0.2})
    with pytest.raises(ValueError, match="sigma"):
        open_records(tmp_path, HEADER | {"sigma": 1})
    open_records(tmp_path, HEADER | {"eps": 0.2}, name="other").close()  # another name is another run
    (tmp_path / "records.json").write_text("not json")
    with pytest.raises(ValueError, match="not the header"):
        open_records(tmp_path, HEADER)
    (tmp_path / "records.json").unlink()
    (tmp_path / "records.jsonl").write_text('{"i": 0}\n')
    with pytest.raises(ValueError, match="no header"):
        open_records(tmp_path, HEADER)


def test_no_results_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results"):
        read_records(tmp_path / "nothing")


def test_arrays_are_written_in_place(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    for indices in ([4, 1], [0, 5]):
        with open_records(tmp_path, HEADER) as records:
            records.array("witness", (6, 2, 3))
            records.write("witness", indices, values[indices])
            records.append(rows(*indices))
    found = records.read("witness")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found[[0, 1, 4, 5]], values[[0, 1, 4, 5]])
    with open_records(tmp_path, HEADER) as records, pytest.raises(ValueError, match="would write"):
        records.array("witness", (7, 2, 3))


def test_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    records = open_records(tmp_path, HEADER)
    records.append(rows(0))
    real = os.write

    def full(file, data):
        real(file, bytes(data[:7]))  # part of the chunk still fitted
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_records.os, "write", full)
    with pytest.raises(OSError, match="disk is full") as caught:
        records.append(rows(1, 2))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    records.append(rows(1))  # and it can go on
    records.close()
    assert [row["i"] for row in read_records(tmp_path)[1]] == [0, 1]


def test_other_errors_are_not_renamed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        open_records(tmp_path / "file" / "inside", HEADER)


def test_kill_in_the_middle(tmp_path):
    script = textwrap.dedent(
        f"""
        from jrobust._records import open_records
        records = open_records({str(tmp_path)!r}, {HEADER!r})
        for i in range(10**9):
            records.append([{{"i": i, "text": "x" * 200}}])
            if i == 20:
                print("go", flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with open_records(tmp_path, HEADER) as records:
        assert sorted(records.rows) == list(range(len(records.rows)))
        assert len(records.rows) >= 21


def test_a_header_tells_model_key_and_data_apart():
    model, key, blocks = {"w": np.ones(2)}, jax.random.key(0), ["a", "b"]
    header = header_of(model, key, blocks)
    assert header == header_of({"w": np.ones(2)}, jax.random.key(0), iter(blocks))
    others = {
        "model": header_of({"w": np.zeros(2)}, key, blocks),
        "key": header_of(model, jax.random.key(1), blocks),
        "data": header_of(model, key, ["b", "a"]),
    }
    for name, other in others.items():
        assert [k for k in header if header[k] != other[k]] == [name]
    assert header_of(model, jax.random.key(0, impl="rbg"), blocks)["key"] != header["key"]
