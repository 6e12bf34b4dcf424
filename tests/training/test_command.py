import dataclasses
import json

import jax
import jax.numpy as jnp
import optax
import pytest

import jrobust as jr
from jrobust.cli._methods import METHODS, NEEDS, PAIRS, Setting, step_and_memory
from jrobust.cli._train import Train

SMALL = Train(model="mlp", epochs=2, batch_size=256, attack_steps=2, quiet=True)


@pytest.mark.parametrize(
    "method", ["natural", "pgd", "ibp", "free", "gkl", "yopo", "iaat", "lbgat", "smooth-adv"]
)  # a loss, a step, a memory
def test_every_method_leaves_a_model_that_loads(tmp_path, capsys, method):
    config = dataclasses.replace(SMALL, method=method, out=str(tmp_path / "run"), ema=method in ("pgd", "lbgat"))
    run = config.run()
    said = capsys.readouterr().out
    assert "2 epochs" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    data = jr.data.load("digits", split="test")
    right = jnp.mean(jnp.argmax(jr.training.load(run)(jnp.asarray(data.test_x)), -1) == data.test_y)
    assert lines[-1]["test_accuracy"] == pytest.approx(float(right))
    written = json.loads((run / "config.json").read_text())
    assert (written["dataset"], written["method"], written["train_n"]) == (
        "digits",
        method,
        len(jr.data.load("digits").train_x),
    )
    assert written["eps_multiplier"] == (1.5 if method == "ibp" else 1.0)
    with pytest.raises(ValueError, match="already holds a run"):
        config.run()
    with pytest.raises(ValueError, match=r"holds another run: lr was 0.001 and is now 0.002"):
        dataclasses.replace(config, lr=0.002, resume=True).run()
    before = jax.tree.leaves(jr.nnx.functional(jr.training.load(run)).params)
    dataclasses.replace(config, resume=True).run()
    after = jax.tree.leaves(jr.nnx.functional(jr.training.load(run)).params)
    assert all(bool((a == b).all()) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_name_makes_a_step(method):
    net = jr.models.create("mlp", shape=(4, 4, 1), classes=4)
    apply, params, rest = jr.nnx.functional(net)
    fixed = lambda x: x[:, 0, :, 0]  # noqa: E731
    setting = Setting(
        loss=jr.objectives.cross_entropy(apply),
        eps=0.1,
        ramp=lambda t: 0.1,
        kappa=lambda t: 0.5,
        steps=2,
        replays=2,
        classes=4,
        epoch=3,
        batch=(8, 4, 4, 1),
        standard=fixed,
        teacher=fixed,
        total=9,
        examples=24,
        net=net,
    )
    tx = optax.sgd(0.1)
    step, memory = step_and_memory(method, setting, tx)
    if method in PAIRS:
        params, rest = ({"student": a, "teacher": a} for a in (params, rest))
    state = jr.training.init(params, rest, tx, memory=memory)
    batch = jnp.full((8, 4, 4, 1), 0.5), jnp.arange(8) % 4, jnp.arange(8)
    after, metrics = jax.eval_shape(lambda s, b: step(s, b, key=jax.random.key(0)), state, batch)
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics["loss"].shape == ()


def test_models_that_do_not_change_come_from_runs(tmp_path):
    short = dataclasses.replace(SMALL, epochs=1)
    given = {
        name: str(dataclasses.replace(short, out=str(tmp_path / name), method=method).run())
        for name, method in (("standard", "natural"), ("teacher", "pgd"))
    }
    for method, names in {"hat": ("standard",), "rslad": ("teacher",), "b-mtard": ("teacher", "standard")}.items():
        assert NEEDS[method] == names
        run = dataclasses.replace(short, method=method, out=str(tmp_path / method), **given).run()
        written = json.loads((run / "config.json").read_text())
        assert {name: written[name] for name in names} == {name: given[name] for name in names}


def test_fine_tuning_goes_on_from_the_net_that_it_keeps(tmp_path):
    first = dataclasses.replace(SMALL, epochs=1, out=str(tmp_path / "first")).run()
    for method in ("fare", "lore"):
        config = dataclasses.replace(SMALL, epochs=1, method=method, standard=str(first), seed=7)
        run = dataclasses.replace(config, lr=1e-9, out=str(tmp_path / method)).run()
        before, after = (jax.tree.leaves(jr.nnx.functional(jr.training.load(r)).params) for r in (first, run))
        for a, b in zip(before, after, strict=True):
            assert jnp.allclose(a, b, atol=1e-6)
        with pytest.raises(ValueError, match="another model: give --model as there"):
            dataclasses.replace(config, model="cnn-small", out=str(tmp_path / "other")).run()
        assert not (tmp_path / "other").exists()


def test_defensive_distillation_is_two_runs(tmp_path):
    first, second = (str(tmp_path / name) for name in ("teacher", "student"))
    config = dataclasses.replace(SMALL, method="defensive-distillation", epochs=8)
    dataclasses.replace(config, out=first).run()
    dataclasses.replace(config, out=second, teacher=first, seed=1).run()
    x = jnp.asarray(jr.data.load("digits", split="test").test_x)
    teacher, student = (jnp.argmax(jr.training.load(run)(x), -1) for run in (first, second))
    assert jnp.mean(teacher == student) > 0.8


def test_names_stand_for_the_settings_that_they_say():
    """CURE's length and the union's radii are the published ones at their size."""
    apply, params, rest = jr.nnx.functional(jr.models.create("mlp", shape=(32, 32, 3), classes=10))
    setting = Setting(
        loss=jr.objectives.cross_entropy(apply),
        eps=8 / 255,
        ramp=lambda t: jnp.where(t < 5, 0.0, 8 / 255),
        kappa=lambda t: 0.5,
        steps=2,
        replays=2,
        classes=10,
        epoch=3,
        batch=(2, 32, 32, 3),
    )
    args, how = (params, rest, jnp.full((2, 32, 32, 3), 0.5), jnp.arange(2)), {"key": jax.random.key(0), "train": True}
    cure = METHODS["cure"](setting)
    expected = jr.training.cure(setting.loss, weight=4.0, h=3.0)(*args, **how)[0]
    assert jnp.allclose(cure.build(9)(*args, **how)[0], expected, rtol=1e-5)
    assert jnp.allclose(cure.build(0)(*args, **how)[0], setting.loss(*args)[0])
    for method in ("union-max", "union-mean"):
        z = METHODS[method](setting).craft(*args, key=jax.random.key(0))
        moved = [(a - args[2]).reshape(2, -1) for a in (z if isinstance(z, tuple) else (z,))]
        sizes = [(jnp.max(jnp.abs(d), 1), jnp.linalg.norm(d, axis=1), jnp.sum(jnp.abs(d), 1)) for d in moved]
        if method == "union-mean":
            for d, limit in enumerate((8 / 255, 0.5, 12.0)):
                assert jnp.allclose(sizes[d][d], limit, rtol=1e-3)  # each at the end of its own set
        else:  # and the worst at one of them
            assert jnp.all((sizes[0][0] < 8 / 255 + 1e-6) | (sizes[0][1] < 0.5 + 1e-5) | (sizes[0][2] < 12.0 + 1e-4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "ibpp"}, "unknown method 'ibpp'; there are natural, pgd, fgsm-rs, .*, exp-ibp"),
        ({"method": "hat"}, "hat needs --standard DIR, a run of --method natural on"),
        ({"method": "ard"}, "ard needs --teacher DIR, a run of --method pgd, say, on"),
        ({"method": "hat", "standard": "nowhere"}, "nowhere is no run directory"),
        ({"weight": 1.5}, "weight lies in"),
        ({"replays": 0}, "replays is >= 1"),
        ({"held_out": 1.0}, "held_out is a fraction"),
        ({"held_out": 1e-5}, "is not one image"),
        ({"accumulate": 3}, "accumulate divides"),
        ({"method": "ibp", "bf16": True}, "bounds in float32"),
        ({"patience": 3}, "patience looks at held-out images"),
        ({"method": "free", "accumulate": 2}, "does not accumulate"),
        ({"eps": -0.1}, "eps is >= 0"),
        ({"eps": float("nan")}, "eps is >= 0 and finite, got nan"),
        ({"epochs": 0}, "epochs is >= 1"),
        ({"batch_size": 0}, "batch_size is >= 1"),
        ({"batch_size": 100_000}, "batch_size lies between 1 and the number of examples"),
        ({"lr": 0.0}, "lr is > 0"),
        ({"warmup": 0.8}, "warmup [+] ramp <= 1"),
        ({"kappa": 2.0}, "kappa lies in"),
        ({"seed": -1}, "seed lies in"),
        ({"model": "cnn-smal"}, "did you mean 'cnn-small'"),
        ({"dataset": "digit"}, "did you mean 'digits'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, out=str(tmp_path / "run"), **change).run()
    assert not (tmp_path / "run").exists()


def test_eps_zero_trains_as_natural_training_does(tmp_path):
    config = dataclasses.replace(SMALL, epochs=1, eps=0.0)
    runs = {m: dataclasses.replace(config, method=m, out=str(tmp_path / m)).run() for m in ("natural", "pgd")}
    natural, pgd = (jax.tree.leaves(jr.nnx.functional(jr.training.load(run)).params) for run in runs.values())
    assert all(bool(jnp.allclose(a, b, atol=1e-5)) for a, b in zip(natural, pgd, strict=True))


def test_the_best_on_held_out_images_is_kept_and_can_be_evaluated(tmp_path):
    from jrobust.cli._evaluate import evaluate

    config = dataclasses.replace(
        SMALL, out=str(tmp_path / "run"), epochs=3, lr=0.01, held_out=0.2, accumulate=2, bf16=True, tensorboard=True
    )
    run = config.run()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    ends = [line for line in lines if "held_out_robust" in line]
    assert len(ends) == 3
    assert json.loads((run / "config.json").read_text())["train_n"] == round(0.8 * len(jr.data.load("digits").train_x))
    best = max(ends, key=lambda line: line["held_out_robust"])
    state = json.loads(next((run / "best").glob("*/meta.json")).read_text())
    assert state["held_out_robust"] == best["held_out_robust"]
    assert list((run / "tensorboard").iterdir())
    section = evaluate(run=str(run), best=True, oracle=("clean",), quiet=True)
    assert section.config["best"] is True
    with pytest.raises(ValueError, match="--best goes with --run"):
        evaluate(model="tests.training.nets:dense", best=True, quiet=True)
