import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jrobust as jr
from jrobust import training
from jrobust._checks import check_transformation
from jrobust.training import _checkpoint
from tests.training.nets import blobs, dense, dense_params, slow_training

TX = optax.adam(0.01)
LOSS = jr.objectives.cross_entropy(dense)
STEP = training.make_step(LOSS, TX)


def fit(x=None, y=None, *, state=None, **options):
    data = blobs() if x is None else (x, y)
    options = {"epochs": 4, "batch_size": 16, "key": jax.random.key(0), "chunk": 3, "show": False} | options
    return training.fit(STEP, training.init(dense_params(), None, TX) if state is None else state, *data, **options)


def same(a, b):
    left, right = _checkpoint.names(a), _checkpoint.names(b)
    return left.keys() == right.keys() and all(
        np.asarray(left[k]).tobytes() == np.asarray(right[k]).tobytes() for k in left
    )


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_an_epoch_sees_every_example_once_in_an_order_of_its_own():
    seen = []

    def step(state, batch, *, key):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), batch[0][:, 0], ordered=True)
        return training.TrainState(None, None, None, state.step + 1), {"loss": jnp.zeros(())}

    x = np.linspace(0, 1, 24, dtype=np.float32)[:, None]
    start = training.TrainState(None, None, None, jnp.zeros((), jnp.int32))
    training.fit(step, start, x, np.zeros(24, int), epochs=2, batch_size=4, key=jax.random.key(0), chunk=3, show=False)
    jax.effects_barrier()
    first, second = np.split(np.concatenate(seen), 2)
    np.testing.assert_array_equal(np.sort(first), x[:, 0])
    np.testing.assert_array_equal(np.sort(second), x[:, 0])
    assert (first != second).any()


def test_bytes_on_the_device_train_as_floats_do():
    x, y = blobs()
    x = np.round(x * 255).astype(np.uint8)
    a, b = fit(x, y), fit(x.astype(np.float32) / np.float32(255), y)
    for p, q in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-5)


def test_one_program_serves_the_whole_training(tmp_path):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    fit(epochs=1)
    compiled.clear()
    fit(epochs=1, run=tmp_path / "a")
    once = len(compiled)
    compiled.clear()
    fit(epochs=6, run=tmp_path / "b")
    assert len(compiled) <= once


def test_resume_equals_an_uninterrupted_run_bit_for_bit(tmp_path):
    whole = fit(epochs=4, run=tmp_path / "whole", save_seconds=0)

    def stop(epoch, state):
        if epoch == 2:
            raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError, match="went away"):
        fit(epochs=4, run=tmp_path / "part", save_seconds=0, hook=stop)
    with pytest.raises(ValueError, match="already holds a training"):
        fit(epochs=4, run=tmp_path / "part")
    part = fit(epochs=4, run=tmp_path / "part", save_seconds=0, resume=True)
    assert same(whole, part)
    assert same(part, fit(epochs=4))  # and writing checkpoints changes nothing
    assert (
        steps_of(tmp_path / "part/metrics.jsonl") == steps_of(tmp_path / "whole/metrics.jsonl") == list(range(3, 25, 3))
    )
    again = fit(epochs=4, run=tmp_path / "part", resume=True)  # a finished run is left as it is
    assert same(again, part)


def test_resume_after_kill_9(tmp_path):
    whole = slow_training(str(tmp_path / "whole"), resume=False, pause=0.0)
    assert any(leaf.size for leaf in jax.tree.leaves(whole.rest))  # BatchNorm statistics are part of it
    run = tmp_path / "killed"
    root = Path(jr.__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.training.nets", str(run)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    begin = time.monotonic()
    while (
        (_checkpoint.latest(run / "checkpoints") or 0) < 9 and time.monotonic() - begin < 120 and child.poll() is None
    ):
        time.sleep(0.02)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 0 < (_checkpoint.latest(run / "checkpoints") or 0) < 48
    resumed = slow_training(str(run), resume=True, pause=0.0)
    assert same(whole, resumed)
    assert steps_of(run / "metrics.jsonl") == list(range(3, 49, 3))
    best = [_checkpoint.read_meta(folder / "best") for folder in (tmp_path / "whole", run)]
    assert best[0]["step"] == best[1]["step"] == 12  # the first epoch with epoch % 3 == 2
    assert same(*(_checkpoint.restore(folder / "best", whole)[0] for folder in (tmp_path / "whole", run)))
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["48"]


def test_resume_without_a_checkpoint_starts_at_zero_and_says_so(tmp_path, capfd):
    (tmp_path / "checkpoints" / "12.unfinished" / "arrays").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step": 6, "lo')
    state = fit(run=tmp_path, resume=True)
    assert "no complete checkpoint to resume, starting from step 0" in capfd.readouterr().err
    assert same(state, fit())
    assert steps_of(tmp_path / "metrics.jsonl") == list(range(3, 25, 3))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["24"]


def test_ctrl_c_saves_and_can_be_resumed(tmp_path):
    def hook(epoch, state):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(run=tmp_path, hook=hook)
    assert _checkpoint.latest(tmp_path / "checkpoints") == 12
    assert same(fit(run=tmp_path, resume=True), fit())


def damage(path, how):
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["gone", "cut", "flipped"])
@pytest.mark.parametrize("what", ["meta.json", "arrays/manifest.ocdbt", "largest"])
def test_a_corrupt_checkpoint_is_one_clear_error(tmp_path, what, how):
    fit(run=tmp_path, epochs=1)
    folder = tmp_path / "checkpoints" / "6"
    files = [path for path in (folder / "arrays" / "d").iterdir()]
    damage(max(files, key=lambda p: p.stat().st_size) if what == "largest" else folder / what, how)
    with pytest.raises(ValueError, match=r"checkpoints/6 is corrupt \(.*delete it to start over"):
        fit(run=tmp_path, resume=True)


def test_a_checkpoint_of_something_else_is_refused_and_named(tmp_path):
    fit(run=tmp_path, epochs=1)
    wide = {**dense_params(), "v": jnp.zeros((12, 5))}
    with pytest.raises(ValueError, match=r"params.v is float32\(12, 4\) there and float32\(12, 5\) here"):
        fit(run=tmp_path, resume=True, state=training.init(wide, None, TX))
    with pytest.raises(ValueError, match=r"ema.b is missing there and float32\(12,\) here"):
        fit(run=tmp_path, resume=True, state=training.init(dense_params(), None, TX, ema=True))
    with pytest.raises(ValueError, match="cannot be resumed exactly: batch_size was 16 and is now 32"):
        fit(run=tmp_path, resume=True, batch_size=32, chunk=3)
    with pytest.raises(ValueError, match="cannot be resumed exactly: key was"):
        fit(run=tmp_path, resume=True, key=jax.random.key(5))


def test_bad_sizes_and_divergence_are_clear_errors():
    x, y = blobs(16)
    with pytest.raises(ValueError, match=r"batch_size lies between 1 and the number of examples \(16\), got 17"):
        fit(x, y, batch_size=17)
    with pytest.raises(FloatingPointError, match="the loss is nan around step"):
        fit(x, y, state=training.init({**dense_params(), "b": jnp.full(12, jnp.nan)}, None, TX))


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path):
    """A finite loss with an infinite slope: the step has spoilt the parameters already."""

    def loss(params, rest, x, y, *, key, train):
        del y, key, train
        return jnp.sqrt(jnp.maximum(params, 0.0)) * jnp.ones(len(x)), rest

    x, y = blobs(16)
    step, state = training.make_step(loss, TX), training.init(jnp.zeros(()), None, TX)
    with pytest.raises(FloatingPointError, match="the gradient's norm is"):
        training.fit(step, state, x, y, epochs=1, batch_size=16, key=jax.random.key(0), run=tmp_path)
    assert _checkpoint.latest(tmp_path / "checkpoints") is None


def test_fit_looks_at_its_data_as_evaluate_does():
    """Each of these was once taken: labels beyond the model's classes wrapped round or gave NaN, bytes as floats were no images."""
    x, y = blobs(16)
    for bad, error, message in (
        ({"y": y[:15]}, ValueError, r"y must have shape \(16,\)"),
        ({"y": y.astype(np.float32)}, TypeError, "integer labels"),
        ({"y": np.where(y == 2, -1, y)}, ValueError, r"y\[2\] = -1 is out of range"),
        ({"y": y + 3}, ValueError, "label = 6 is out of range: the model has 4 classes"),
        ({"x": x * 16}, ValueError, r"above the box of allowed values \[0.0, 1.0\]"),
        ({"x": x * np.nan}, ValueError, "nan is not finite"),
        ({"x": (x * 255).astype(np.int32)}, TypeError, "floating point"),
        ({"key": 0}, TypeError, "typed PRNG key"),
    ):
        with pytest.raises(error, match=message):
            fit(**{"x": x, "y": y, **bad})
    assert int(fit(x * 16, y, epochs=0, box=None).step) == 0
    for given, said in ((0.1, "got 0.1"), (optax.adam, "got the function adam: call it")):
        with pytest.raises(TypeError, match=rf"tx is an optax transformation such as optax.adam\(1e-3\), {said}"):
            check_transformation(given, "tx")  # what init, make_step and pgd ask; in tests annotations speak before it


@pytest.mark.parametrize(
    ("examples", "batch", "chunk"), [(60_000, 256, 50), (59_700, 256, 50), (1438, 128, 50), (97, 3, 1), (96, 4, 7)]
)
def test_chunks_are_equal_and_lose_little(examples, batch, chunk):
    steps = training.epoch_steps(examples, batch, chunk=chunk)
    assert 0.97 * (examples // batch) <= steps <= examples // batch


def test_load_gives_the_trained_model(tmp_path):
    from jrobust import models, nnx

    def trained(run, *, ema, classes=4):
        config = {"name": "mlp", "shape": [4, 4, 1], "classes": classes, "widths": [8], "seed": 3, "mean": [0.4]}
        training.start_run(run, {"model": config})
        apply, params, rest = nnx.functional(models.create(**config))
        step = training.make_step(jr.objectives.cross_entropy(apply), TX)
        start = training.init(params, rest, TX, ema=ema)
        x, y = blobs()
        with pytest.raises(ValueError, match="has no complete checkpoint"):
            training.load(run)
        state = training.fit(
            step, start, x, y, epochs=5, batch_size=16, key=jax.random.key(0), run=run, show=False, best="good",
            hook=lambda epoch, state: {"good": -epoch},
        )  # fmt: skip
        return lambda x, which: apply(getattr(state, which), state.rest, x, train=False)[0]

    x = jnp.asarray(blobs(8, seed=2)[0])
    for ema in (False, True):
        run = tmp_path / str(ema)
        logits = trained(run, ema=ema)
        np.testing.assert_array_equal(training.load(run)(x), logits(x, "ema" if ema else "params"))
        assert not np.array_equal(training.load(run, best=True)(x), training.load(run)(x))
    config = json.loads((run / "config.json").read_text())
    config["model"]["widths"] = [9]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is of another model or optimiser: ema.*there and .* here"):
        training.load(run)
    start = training.init(dense_params(), None, TX)
    state = fit(run=tmp_path / "fit", epochs=1)  # a run without a config: its architecture is in the code that wrote it
    with pytest.raises(ValueError, match=r"jr.training.restore\(run, state\) reads it"):
        training.load(tmp_path / "fit")
    assert same(training.restore(tmp_path / "fit", start), state)
    with pytest.raises(ValueError, match="is no run directory"):
        training.load(tmp_path / "nothing")


def test_processes_may_start_in_one_new_run_at_once(tmp_path):
    def start(folder, gate):
        gate.wait()
        return training.start_run(folder, {"seed": 0}, resume=True)

    with ThreadPoolExecutor(8) as pool:
        for i in range(20):
            folder, gate = tmp_path / str(i), threading.Barrier(8)
            done = [pool.submit(start, folder, gate) for _ in range(8)]
            assert {f.result() for f in done} == {folder}
            assert [p.name for p in folder.iterdir()] == ["config.json"]
            assert training.read_config(folder) == {"seed": 0}


def test_a_run_directory_is_never_taken_over(tmp_path):
    run = training.start_run(tmp_path / "run", {"seed": 0, "data_dir": "a"})
    with pytest.raises(ValueError, match="already holds a run; resume it"):
        training.start_run(run, {"seed": 0, "data_dir": "a"})
    with pytest.raises(ValueError, match="holds another run: seed was 0 and is now 1"):
        training.start_run(run, {"seed": 1, "data_dir": "a"}, resume=True)
    assert training.start_run(run, {"seed": 0, "data_dir": "b"}, resume=True, ignore=("data_dir",)) == run
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and is no run"):
        training.start_run(tmp_path, {"seed": 0})
    with pytest.raises(ValueError, match="is a file"):
        training.start_run(tmp_path / "notes.txt", {"seed": 0})


def test_a_loss_may_remember_single_examples():
    x, y = blobs()

    def counting(params, rest, x, y, *, key, train, memory, index):
        del key
        losses, rest = LOSS(params, rest, x, y, train=train)
        return losses, rest, memory.at[index].add(1)

    robust = training.Remembering(counting, jnp.zeros(len(x), jnp.int32), indexed=True)
    tx = optax.sgd(0.1)
    start = training.init(dense_params(), None, tx, memory=robust.start)
    step = training.make_step(robust, tx)
    state = training.fit(step, start, x, y, epochs=3, batch_size=8, key=jax.random.key(0), show=False)
    np.testing.assert_array_equal(state.memory, 3)
    with pytest.raises(ValueError, match="index"):
        step(start, (x, y), key=jax.random.key(0))


def test_what_a_review_found(tmp_path):
    x, y = blobs()
    # a stop leaves a last checkpoint, its line, and the best by the metric
    values = iter([0.5, 0.3, 0.2])

    def hook(epoch, state):
        value = next(values)
        if epoch == 3:
            raise training.Stop(jax.tree.map(jnp.copy, state), "enough")
        return {"fitness": value}

    run = tmp_path / "stopped"
    state = fit(run=run, hook=hook, best="fitness", epochs=5)
    assert int(state.step) == 18
    assert (_checkpoint.latest(run / "checkpoints"), _checkpoint.latest(run / "best")) == (18, 6)
    assert _checkpoint.read_meta(run / "best")["fitness"] == 0.5
    assert steps_of(run / "metrics.jsonl")[-1] == 18
    # a training with a second source is not resumed without it
    with_more = tmp_path / "extra"
    fit(run=with_more, extra=(x, y), share=0.5, epochs=1)
    with pytest.raises(ValueError, match=r"cannot be resumed exactly: .*extra was 96 and is now None"):
        fit(run=with_more, resume=True, epochs=2)
    # another training's best is not this one's
    fit(run=tmp_path / "first", hook=lambda epoch, state: {"fitness": 9.0}, best="fitness", epochs=1)
    (tmp_path / "second").mkdir()
    os.rename(tmp_path / "first/best", tmp_path / "second/best")
    fit(
        run=tmp_path / "second", resume=True, key=jax.random.key(7), epochs=1, best="fitness",
        hook=lambda epoch, state: {"fitness": 0.1},
    )  # fmt: skip
    assert _checkpoint.read_meta(tmp_path / "second/best")["fitness"] == 0.1
    for options, message in (
        ({"best": "a"}, "give run=DIR"),
        ({"resume": True}, "give run=DIR"),
        ({"best": "a", "run": tmp_path / "none"}, "give hook="),
        ({"hook": lambda epoch, state: {"step": 1.0}}, "cannot be named step"),
        ({"extra": (x[:0], y[:0])}, "empty"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(**options)
    with pytest.raises(ValueError, match="two arrays of the state have one name"):
        _checkpoint.names({"a.w": x, "a": {"w": x}})


def test_ctrl_c_while_a_state_is_kept_is_not_lost(tmp_path, monkeypatch):
    from jrobust.training._journal import Journal

    kept = Journal.keep

    def interrupted(self, *args, **options):
        kept(self, *args, **options)
        if int(args[1]["step"]) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Journal, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(run=tmp_path)
    assert _checkpoint.latest(tmp_path / "checkpoints") == 9  # the next chunk, finished and kept
