"""Several processes share a run by the index of an example; whoever is killed, the results are those of one process."""

import json
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import jrobust as jr
from jrobust import _records
from tests.evaluation.common import data, liar, linear
from tests.evaluation.processes import COUNT, certified, evaluated
from tests.evaluation.test_resume import call, interrupted, same
from tests.processes import ROOT, environment


def started(out, *words):
    command = [sys.executable, "-m", "tests.evaluation.processes", str(out), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(1), **pipes)


def ended(child):
    said = child.communicate(timeout=120)[0]
    return child.returncode, said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process says."""
    return evaluated(tmp_path_factory.mktemp("alone")), certified(None)


@pytest.mark.parametrize("victim", [1, 0], ids=["second", "coordinator"])
def test_three_processes_one_killed_twice(tmp_path, victim, alone):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    own = len(range(victim, COUNT, 3))
    mine = {name: tmp_path / f"{name}-shard-{victim}-of-3.jsonl" for name in ("evaluation", "certification")}
    # batches of 8: the victim has 20 or 21 examples, and dies after 8 of them
    children = [started(tmp_path, i, 3, 1 if i == victim else -1, address) for i in range(3)]
    codes = [ended(child)[0] for child in children]
    assert codes[victim] == -signal.SIGKILL
    # jax.distributed ends the others when one is missed, or when the coordinator has left
    assert {code for i, code in enumerate(codes) if i != victim} <= {0, -signal.SIGABRT}
    assert len(mine["evaluation"].read_text().splitlines()) == 8
    # started again, without jax.distributed, it is killed again, now in the certification
    again = {i: started(tmp_path, i, 3, 3 if i == victim else -1) for i, code in enumerate(codes) if code}
    for i, child in again.items():
        assert ended(child)[0] == (-signal.SIGKILL if i == victim else 0)
    assert len(mine["evaluation"].read_text().splitlines()) == own
    there = mine["certification"].read_text().splitlines()
    assert 0 < len(there) < own
    code, said = ended(started(tmp_path, victim, 3, -1))
    assert (code, said) == (0, f"{own - len(there)} examples\n")  # nothing was done twice
    for name in ("evaluation", "certification"):
        rows = [
            json.loads(line)["i"]
            for i in range(3)
            for line in (tmp_path / f"{name}-shard-{i}-of-3.jsonl").read_text().splitlines()
        ]
        assert sorted(rows) == list(range(COUNT))

    one, together = alone
    whole, apart = evaluated(tmp_path), certified(tmp_path)
    assert [row["i"] for row in _records.read_records(tmp_path, name="evaluation")[1]] == list(range(COUNT))
    same(one, whole)
    np.testing.assert_array_equal(apart.counts, together.counts)
    np.testing.assert_array_equal(apart.prediction, together.prediction)
    np.testing.assert_array_equal(apart.radius, together.radius)


def test_shards_together_are_the_whole_bit_by_bit(tmp_path, monkeypatch):
    whole = call(None)
    parts = [call(tmp_path, shard=(i, 3)) for i in range(3)]
    for i, part in enumerate(parts):
        assert part.n == 10
        for name in whole:
            np.testing.assert_array_equal(part[name].value, whole[name].value[i::3])
    np.testing.assert_array_equal(parts[1]["pgd"].witness, whole["pgd"].witness[1::3])
    ran = interrupted(monkeypatch, 0, AssertionError("there was nothing left to do"))
    same(whole, call(tmp_path))
    assert ran == []
    same(whole, call(tmp_path))  # adopted once
    assert len((tmp_path / "evaluation.jsonl").read_bytes().splitlines()) == 30


def test_what_no_shard_did_is_done_when_all_is_put_together(tmp_path):
    call(tmp_path, shard=(0, 3))
    call(tmp_path, shard=(3, 7))  # shares that overlap
    same(call(None), call(tmp_path))


def test_a_shard_may_be_smaller_than_a_batch_and_must_not_be_empty(tmp_path):
    assert call(tmp_path, shard=(29, 30)).n == 1
    with pytest.raises(ValueError, match=r"shard \(30, 31\) of 30 examples has none"):
        call(tmp_path, shard=(30, 31))


def test_a_shard_of_another_run_is_refused(tmp_path):
    call(tmp_path, shard=(0, 2))
    with pytest.raises(ValueError, match="another run"):
        call(tmp_path, threat=jr.sets.linf(0.2))
    with pytest.raises(ValueError, match="another run"):
        call(tmp_path, threat=jr.sets.linf(0.2), shard=(0, 2))
    call(tmp_path / "b", shard=(1, 2))
    (tmp_path / "b" / "evaluation-shard-1-of-2-pgd-witness.npy").unlink()
    with pytest.raises(ValueError, match=r"witness\.npy is missing"):
        call(tmp_path / "b")


def test_rejected_claims_add_up(tmp_path):
    for i in range(2):
        with pytest.warns(UserWarning, match="claimed 1[23]"):
            call(tmp_path, oracles={"liar": liar()}, shard=(i, 2))
    with pytest.warns(UserWarning, match="claimed 25"):
        assert call(tmp_path, oracles={"liar": liar()})["liar"].rejected == 25


def test_nested_curves_in_shards(tmp_path):
    x, y = data(24)
    options = {"threat": jr.sets.linf(0.0), "eps": [0.02, 0.1], "nested": True, "key": jax.random.key(0)}
    options |= {"oracles": {"pgd": jr.attacks.pgd(steps=3)}, "batch_size": 8}
    whole = jr.evaluation.curve(linear(0), x, y, **options)
    for i in range(3):
        part = jr.evaluation.curve(linear(0), x, y, **options, shard=(i, 3), out=tmp_path)
        for a, b in zip(part.evaluations, whole.evaluations, strict=True):
            np.testing.assert_array_equal(a["pgd"].holds, b["pgd"].holds[i::3])
    for a, b in zip(
        jr.evaluation.curve(linear(0), x, y, **options, out=tmp_path).evaluations, whole.evaluations, strict=True
    ):
        same(a, b)


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)], ids=str)
def test_no_shard_is_named(shard):
    with pytest.raises(ValueError, match=r"shard is \(index, count\)"):
        call(None, shard=shard)
    with pytest.raises(ValueError, match=r"shard is \(index, count\)"):
        jr.smoothing.certify(
            linear(0), data(4)[0], noise=jr.smoothing.gaussian(0.1), key=jax.random.key(0), shard=shard
        )
