"""Results stream to disk: whatever stops a run, the same call goes on and ends with the same answers."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import _records, evaluation
from jrobust.evaluation import _stream, evaluate
from tests.evaluation.common import data, labels, liar, linear, linear_bound, linear_radius

ORACLES = {"pgd": jr.attacks.pgd(steps=4, step=0.05), "bound": linear_bound(), "radius": linear_radius("lower")}


def call(out, *, model=None, oracles=ORACLES, **changes):
    x, y = data(30)
    options = {"threat": jr.sets.linf(0.1), "key": jax.random.key(0), "batch_size": 8} | changes
    return evaluate(model or linear(0), x, y, oracles=oracles, out=out, **options)


def same(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name].holds, b[name].holds)
        np.testing.assert_array_equal(a[name].value, b[name].value)
        np.testing.assert_array_equal(a[name].correct, b[name].correct)
        for k in a[name].info:
            np.testing.assert_array_equal(a[name].info[k], b[name].info[k])
        if a[name].witness is not None:
            np.testing.assert_array_equal(a[name].witness, b[name].witness)


def interrupted(monkeypatch, after, error):
    """Stop the driver with ``error`` in its batch number ``after``."""
    batch, count = _stream._batch, []

    def stop(*args):
        if len(count) == after:
            raise error
        count.append(1)
        batch(*args)

    monkeypatch.setattr(_stream, "_batch", stop)
    return count


def test_ctrl_c_keeps_everything(tmp_path, monkeypatch):
    whole = call(None)
    interrupted(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path)
    assert len((tmp_path / "evaluation.jsonl").read_bytes().splitlines()) == 16
    monkeypatch.undo()
    ran = interrupted(monkeypatch, 99, None)
    again = call(tmp_path)
    assert len(ran) == 2  # only the two batches that were missing
    same(whole, again)
    assert isinstance(again["pgd"].witness, np.memmap)
    same(whole, call(tmp_path))
    assert len(ran) == 2


def test_rows_and_header_say_what_they_are(tmp_path):
    ev = call(tmp_path)
    header, rows = _records.read_records(tmp_path, name="evaluation")
    assert header["oracles"]["bound"][:2] == ["linear", "upper"]
    assert header["n"] == 30
    assert [row["i"] for row in rows] == list(range(30))
    assert [row["pgd"]["holds"] for row in rows] == ev["pgd"].holds.tolist()
    json.loads((tmp_path / "evaluation.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"threat": jr.sets.linf(0.2)}, "threat"),
        ({"threat": jr.sets.linf(0.1, clip=(0, 1))}, "threat_digest"),
        ({"key": jax.random.key(1)}, "key"),
        ({"model": linear(1)}, "model"),
        ({"model": lambda x: 2 * linear(0)(x)}, "model"),
        ({"oracles": ORACLES | {"pgd": jr.attacks.pgd(steps=4, step=0.06)}}, "oracles"),
        ({"oracles": {"pgd": ORACLES["pgd"]}}, "oracles"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_another_run_is_refused(tmp_path, changes, what):
    call(tmp_path)
    with pytest.raises(ValueError, match=rf"another run \({what}"):
        call(tmp_path, **changes)


def negated(x):
    return -linear(0)(x)


def surrogate(a):
    return jr.attacks.fgsm(surrogate=lambda f, o: a * (o[0] - o[1]))


def sgd(rate):
    return jr.attacks.pgd(steps=2, start="center", rule=optax.sgd(rate))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"model": jax.tree_util.Partial(lambda x: linear(0)(x))}, {"model": jax.tree_util.Partial(negated)}),
        ({"oracles": {"a": surrogate(1.0)}}, {"oracles": {"a": surrogate(-1.0)}}),
        ({"oracles": {"a": sgd(0.001)}}, {"oracles": {"a": sgd(10.0)}}),
    ],
)
def test_functions_that_differ_are_another_run(tmp_path, before, after):
    call(tmp_path, **before)
    call(tmp_path, **before)
    with pytest.raises(ValueError, match="another run"):
        call(tmp_path, **after)


def test_other_data_is_refused(tmp_path):
    call(tmp_path)
    x, y = data(30)
    x[3, 2] += 0.01
    with pytest.raises(ValueError, match=r"another run \(data"):
        evaluate(
            linear(0),
            x,
            y,
            threat=jr.sets.linf(0.1),
            key=jax.random.key(0),
            batch_size=8,
            oracles=ORACLES,
            out=tmp_path,
        )


def test_the_batch_size_may_change_on_resume(tmp_path, monkeypatch):
    whole = call(None)
    interrupted(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path)
    monkeypatch.undo()
    again = call(tmp_path, batch_size=5)
    np.testing.assert_array_equal(whole["pgd"].holds, again["pgd"].holds)
    np.testing.assert_allclose(whole["pgd"].value, again["pgd"].value, atol=1e-6)


def test_rejected_claims_are_counted_across_a_resume(tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match="claimed 25"):
            assert call(tmp_path, oracles={"liar": liar()})["liar"].rejected == 25


def test_disk_full(tmp_path, monkeypatch):
    whole = call(None)
    real, written = os.write, []

    def full(file, view):
        written.append(1)
        if len(written) == 3:
            real(file, bytes(view[:100]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, view)

    monkeypatch.setattr(_records.os, "write", full)
    with pytest.raises(OSError, match="disk is full"):
        call(tmp_path)
    monkeypatch.undo()
    assert len((tmp_path / "evaluation.jsonl").read_bytes().splitlines()) == 16
    same(whole, call(tmp_path))


def test_kill_9(tmp_path):
    script = textwrap.dedent(
        f"""
        import time
        import tests.conftest  # the type checker wraps functions: here as there
        from tests.evaluation.test_resume import call, _stream
        batch = _stream._batch
        def slow(*args):
            batch(*args)
            print("batch", flush=True)
            time.sleep(0.3)
        _stream._batch = slow
        call({str(tmp_path)!r})
        """
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(0.05)
    lines = (tmp_path / "evaluation.jsonl").read_bytes()
    (tmp_path / "evaluation.jsonl").write_bytes(lines[:-20])  # as if it had died within a write
    again, whole = call(tmp_path), call(None)
    for name in whole:
        np.testing.assert_array_equal(again[name].holds, whole[name].holds)
        np.testing.assert_allclose(again[name].value, whole[name].value, atol=1e-5)


def test_labels_of_the_linear_model_are_its_own():
    x, y = data(30)
    assert 0 < (labels(linear(0), x) == y).sum() < 30


def test_every_oracle_has_a_witness_file_of_its_own(tmp_path):
    pgd = lambda step: jr.attacks.pgd(steps=2, step=step, start="center")  # noqa: E731
    oracles = {"a b": pgd(0.05), "a_b": pgd(0.01), "a/b": pgd(0.02)}
    same(call(None, oracles=oracles), call(tmp_path, oracles=oracles))


def test_a_run_without_witnesses_is_another_run(tmp_path):
    call(tmp_path, keep_witnesses=False)
    with pytest.raises(ValueError, match=r"another run \(witnesses"):
        call(tmp_path, keep_witnesses=True)


@pytest.mark.parametrize("name", ["i", "y", "clean"])
def test_names_of_the_records_columns_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="an oracle's name"):
        call(tmp_path, oracles={name: ORACLES["pgd"]})


@pytest.mark.parametrize("line", ['{"i": 0}', '{"i": 99}', '{"i": -1}', '{"i": 0, "clean": 3}'])
def test_a_line_that_is_not_of_the_run_is_named(tmp_path, line):
    call(tmp_path)
    (tmp_path / "evaluation.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"evaluation.jsonl: the line of example -?\d+ is not one of this run"):
        call(tmp_path)


def test_a_witness_file_that_is_none_is_named(tmp_path):
    call(tmp_path)
    (tmp_path / "evaluation-pgd-witness.npy").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"pgd-witness.npy is not an array file"):
        call(tmp_path)


def test_radii_that_are_close_have_folders_of_their_own(tmp_path):
    x, y = data(4)
    oracles = {"a": jr.attacks.fgsm()}
    evaluation.curve(
        linear(0),
        x,
        y,
        threat=jr.sets.linf(0.0),
        eps=[0.1, 0.1000001],
        oracles=oracles,
        key=jax.random.key(0),
        out=tmp_path,
    )
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["eps-0.1", "eps-0.1000001"]
