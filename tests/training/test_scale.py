"""Training beyond one device and one device's memory: meshes, processes, streams, accumulation, reduced precision."""

import subprocess
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust.training import _checkpoint
from tests.processes import ROOT, environment, in_processes
from tests.training.nets import blobs, dense, dense_params, meshed, pairs
from tests.training.test_methods import METHODS

LOSS = jr.objectives.cross_entropy(dense)


def close(a, b, tolerance):
    left, right = _checkpoint.names(a), _checkpoint.names(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(np.asarray(left[name]), np.asarray(right[name]), tolerance, tolerance, err_msg=name)


def test_two_processes_of_two_devices_train_as_one_of_four_and_as_one_device(tmp_path):
    alone = meshed(None, epochs=1)
    in_processes("tests.training.processes", 1, tmp_path / "one")
    in_processes("tests.training.processes", 2, tmp_path / "two")
    in_processes("tests.training.processes", 2, tmp_path / "streamed", "--streamed")
    one, two, streamed = (training.restore(tmp_path / name, alone) for name in ("one", "two", "streamed"))
    close(two, one, 1e-3)
    close(one, alone, 1e-3)
    close(streamed, two, 1e-3)
    assert [p.name for p in (tmp_path / "two/checkpoints").iterdir()] == ["6"]
    assert len((tmp_path / "two/metrics.jsonl").read_text().splitlines()) == 2
    # and a run of several devices goes on where it stood, on one
    meshed(None, run=str(tmp_path / "two"), resume=True, epochs=2)
    assert _checkpoint.latest(tmp_path / "two/checkpoints") == 12


def test_every_loss_is_the_same_where_its_batch_is_split_over_devices():
    command = [sys.executable, "-m", "tests.training.sharded"]
    child = subprocess.run(command, cwd=ROOT, env=environment(4), capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout.splitlines() == [f"{len(METHODS)} methods looked at"]


def test_a_stream_trains_as_arrays_do_and_resumes_to_the_same_bits(tmp_path):
    whole = meshed(None, streamed=True)
    close(
        meshed(None, streamed=True, epochs=1), meshed(None, epochs=1), 1e-3
    )  # rounding grows; other data would differ by more

    def stop(epoch, state):
        if epoch == 2:
            raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError, match="went away"):
        meshed(None, streamed=True, run=str(tmp_path / "run"), hook=stop)
    close(meshed(None, streamed=True, run=str(tmp_path / "run"), resume=True), whole, 0.0)


def test_a_stream_is_looked_at():
    x, y = blobs()
    good = pairs(x, y)
    tx = optax.sgd(0.1)

    def fit(data, labels=None, **options):
        start = training.init(dense_params(), None, tx)
        options = {"epochs": 1, "batch_size": 16, "key": jax.random.key(0), "show": False} | options
        return training.fit(training.make_step(LOSS, tx), start, data, labels, **options)

    for data, labels, error, message in (
        (good, y, TypeError, "y is None"),
        (x, None, TypeError, "fit takes labels y"),
        (good.map(lambda pair: pair[0]), None, TypeError, r"gives \(x, y\) pairs"),
        (good.map(lambda pair: (pair[0] * 9, pair[1])), None, ValueError, "above the box"),
        (good.map(lambda pair: (pair[0] * (1 + 9 * (pair[1] == 3)), pair[1])), None, ValueError, "above the box"),
        (good.map(lambda pair: (pair[0], pair[1] - 1)), None, ValueError, "out of range"),
        (grain.MapDataset.source([]), None, ValueError, "empty"),
    ):
        with pytest.raises(error, match=message):
            fit(data, labels)
    assert int(fit(good.map(lambda pair: (np.uint8(pair[0] * 255), pair[1]))).step) == 6


def test_accumulated_gradients_are_those_of_the_batch():
    x, y = map(jnp.asarray, blobs(24))
    tx = optax.sgd(0.3)
    start = training.init(dense_params(), None, tx)
    whole, first = jax.jit(training.make_step(LOSS, tx))(start, (x, y), key=jax.random.key(0))
    parts, second = jax.jit(training.make_step(LOSS, tx, accumulate=3))(start, (x, y), key=jax.random.key(0))
    close(parts, whole, 1e-5)
    close(second, first, 1e-5)

    def counting(params, rest, x, y, *, key, train, memory, index):
        del key
        losses, rest = LOSS(params, rest, x, y, train=train)
        return losses, rest, memory.at[index].add(1)

    robust = training.Remembering(counting, jnp.zeros(24, int), indexed=True)
    start = training.init(dense_params(), None, tx, memory=robust.start)
    after, _ = training.make_step(robust, tx, accumulate=4)(start, (x, y, jnp.arange(24)), key=jax.random.key(0))
    np.testing.assert_array_equal(after.memory, 1)
    with pytest.raises(ValueError, match="accumulate=5 does not divide"):
        training.make_step(LOSS, tx, accumulate=5)(start, (x, y), key=jax.random.key(0))
