import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest

import jrobust as jr
from jrobust.cli._methods import METHODS, NEEDS, PAIRS, WARMED, step_and_memory
from jrobust.cli._setting import Setting
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
    (run / "config.json").write_text(
        json.dumps({k: v for k, v in written.items() if k != "keep"})
    )  # as before there was one
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
    if method in WARMED:
        assert not isinstance(METHODS[method](setting), jr.training.Scheduled | jr.training.Remembering)
        setting = setting._replace(warm=lambda t: 0.1 * t)
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
        with pytest.raises(ValueError, match="is of mlp; begin with a run of the same --model"):
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


def weights(run):
    return jr.nnx.functional(jr.training.load(run)).params


def equal(a, b):
    return all(bool(jnp.all(v == w)) for v, w in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_hydra_prunes_a_net_that_it_trains_or_is_given(tmp_path, capsys):
    config = dataclasses.replace(SMALL, method="hydra", epochs=3, keep=0.25, first_lr=2e-3, out=str(tmp_path / "run"))
    run = config.run()
    assert f"{run}: 3 epochs" in capsys.readouterr().out
    begun = json.loads((run / "start/config.json").read_text())
    assert (begun["method"], begun["epochs"], begun["lr"]) == ("pgd", 3, 2e-3)
    found = weights(run)
    for w in jax.tree.leaves(found):
        stays = w.size - int(0.75 * w.size) if w.ndim > 1 else jnp.count_nonzero(w)
        assert jnp.count_nonzero(w) == stays
    trained = weights(run / "start")
    kept = [a != 0 for a in jax.tree.leaves(found) if a.ndim > 1]
    largest = jr.training.hydra_masks(jr.training.hydra_scores(trained), 0.25)
    assert any(bool(jnp.any(k != m)) for k, m in zip(kept, jax.tree.leaves(largest), strict=True))  # it searched
    shutil.rmtree(run / "scores")  # as if it had been killed in the middle of the search
    shutil.rmtree(run / "checkpoints")
    dataclasses.replace(config, resume=True).run()
    assert equal(weights(run), found)
    given = dataclasses.replace(config, start=str(run / "start"), out=str(tmp_path / "given")).run()
    assert equal(weights(given), found)
    assert not (given / "start").exists()


def test_any_method_begins_where_a_run_ended(tmp_path):
    first = dataclasses.replace(SMALL, epochs=1, out=str(tmp_path / "first")).run()
    on = dataclasses.replace(SMALL, epochs=1, method="pgd", lr=1e-9, start=str(first), out=str(tmp_path / "on"))
    a, b = (jax.tree.leaves(weights(run)) for run in (first, on.run()))
    assert all(bool(jnp.allclose(v, w, atol=1e-6)) for v, w in zip(a, b, strict=True))
    with pytest.raises(ValueError, match="is of mlp; begin with a run of the same --model"):
        dataclasses.replace(on, model="cnn-small", out=str(tmp_path / "other")).run()
    assert not (tmp_path / "other").exists()


def test_a_net_that_cannot_stretch_is_certified_by_its_margin(tmp_path):
    from jrobust.cli._evaluate import evaluate

    config = dataclasses.replace(SMALL, model="lipschitz-mlp", scale=10.0, out=str(tmp_path / "run"))
    run = config.run()
    assert (
        json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"] > 2.5
    )  # plain logits begin at log(10)
    section = evaluate(run=str(run), norm="l2", eps=(0.1,), oracle=("margin",), quiet=True)
    net, test = jr.training.load(run), jr.data.load("digits", split="test")
    z, label = net(jnp.asarray(test.test_x)), jax.nn.one_hot(test.test_y, 10) > 0
    margin = jnp.min(z, -1, where=label, initial=jnp.inf) - jnp.max(z, -1, where=~label, initial=-jnp.inf)
    far = margin > 2**0.5 * net.constant * 0.1
    proven = next(row for row in section.rows if row.name == "margin")
    assert proven.value == pytest.approx(float(jnp.mean(far)), abs=1 / len(far))
    with pytest.raises(ValueError, match="margin certifies l2 radii"):
        evaluate(run=str(run), eps=(0.1,), oracle=("margin",), quiet=True)
    plain = dataclasses.replace(SMALL, epochs=1, out=str(tmp_path / "plain")).run()
    with pytest.raises(ValueError, match="--oracle margin is for models that know their Lipschitz constant"):
        evaluate(run=str(plain), norm="l2", eps=(0.1,), oracle=("margin",), quiet=True)


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
        ({"method": "fare"}, "fare needs --standard DIR, a run which it goes on from"),
        (
            {"method": "lore", "start": "RUN"},
            "lore begins with the net of --standard, which it keeps to: leave --start out",
        ),
        ({"method": "ard"}, "ard needs --teacher DIR, a run of --method pgd, say, on"),
        ({"method": "hat", "standard": "nowhere"}, "nowhere is no run directory"),
        ({"weight": 1.5}, "weight lies in"),
        ({"replays": 0}, "replays is >= 1"),
        ({"start": "nowhere"}, "nowhere is no run directory"),
        ({"keep": 0.0}, "keep lies in"),
        ({"search": 1.0}, "and search in"),
        ({"method": "hydra", "epochs": 1}, "hydra has two stages"),
        ({"scale": 0.0}, "scale is > 0"),
        ({"method": "yopo", "scale": 2.0}, "leave --scale away"),
        ({"method": "ard", "scale": 2.0}, "ard compares its logits with those of another model"),
        ({"sensitive": (3,)}, "sensitive classes are of margin-cs"),
        ({"method": "margin-cs", "sensitive": (3, 12)}, "sensitive are classes in 0 .. 9, got 12"),
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
