"""Published settings: each is a valid training whose step has the right shapes on its own data, and can be overridden word by word."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrobust as jr
from experiments import smoke
from jrobust.cli import main
from jrobust.cli._methods import METHODS, step_and_memory, updates
from jrobust.cli._optimiser import optimiser, rate
from jrobust.cli._presets import PRESETS, expand
from jrobust.cli._setting import Setting
from jrobust.cli._train import Train, _check


def test_every_method_has_a_preset():
    assert {p.train.method for p in PRESETS.values()} == set(METHODS)
    assert {p.train.model for p in PRESETS.values()} >= {"lipschitz-mlp", "lipschitz-cnn", "spectral-mlp"}
    for name, preset in PRESETS.items():
        _check(dataclasses.replace(preset.train, standard="a run", teacher="another"))
        dataset, *_radius, method = name.replace(preset.train.method, "METHOD").split("-")
        assert (dataset, method) == (preset.train.dataset, "METHOD"), name
        if preset.published is not None:
            assert 0 < preset.published.robust < preset.published.clean < 100


def test_the_docs_name_every_preset():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert [name for name in PRESETS if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text)] == []


ALIKE = (
    "ard",
    "iad-i",
    "pgd-so",
    "trades-mixup",
    "union-mean",
    "dkl",
    "hydra",
    "gat-trades",
)  # in shape: to rslad, iad-ii, pgd-gor, ...
ONE_OF_EACH = {p.train.method: name for name, p in PRESETS.items() if p.train.method not in ALIKE}.values()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_preset_makes_a_step_of_its_full_size(name):
    """On shapes alone: what a GPU would run."""
    train = PRESETS[name].train
    shape = smoke.SHAPES[train.dataset]
    model = nnx.eval_shape(lambda: jr.models.create(train.model, shape=shape, classes=10))
    step, tx, params, rest, memory = smoke.made(train, model, train.batch_size)
    state = jax.eval_shape(lambda: jr.training.init(params, rest, tx, memory=memory))
    batch = (
        jax.ShapeDtypeStruct((train.batch_size, *shape), jnp.float32),
        jax.ShapeDtypeStruct((train.batch_size,), int),
        jax.ShapeDtypeStruct((train.batch_size,), int),
    )
    after, metrics = jax.eval_shape(lambda s, b: step(s, b, key=jax.random.key(0)), state, batch)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert metrics["loss"].shape == ()


def test_schedules_are_those_of_the_papers():
    steps = rate(PRESETS["cifar10-pgd"].train, 200)
    np.testing.assert_allclose([steps(0), steps(101), steps(151)], [0.1, 0.01, 0.001], rtol=1e-5)
    up_and_down = rate(PRESETS["cifar10-fgsm-rs"].train, 100)
    np.testing.assert_allclose([up_and_down(t) for t in (0, 25, 50, 75, 100)], [0, 0.1, 0.2, 0.1, 0], atol=1e-6)
    cosine = rate(Train(schedule="cosine", lr=0.4, peak=0.1), 100)
    np.testing.assert_allclose([cosine(0), cosine(10), cosine(100)], [0, 0.4, 0], atol=1e-6)
    assert updates("free", PRESETS["cifar10-free"].train.replays) == 8


def test_sgd_decays_weights_within_the_momentum_as_torch_does():
    tx = optimiser(Train(optimiser="sgd", lr=0.1, weight_decay=0.5, clip_norm=None, drops=()), 10)
    w, v = jnp.asarray(2.0), 0.0
    state = tx.init(w)
    expected = 2.0
    for gradient in (1.0, -0.5, 0.25):
        update, state = tx.update(jnp.asarray(gradient), state, w)
        w = optax.apply_updates(w, update)
        v = 0.9 * v + gradient + 0.5 * expected
        expected -= 0.1 * v
    assert float(w) == pytest.approx(expected)


def test_adamw_decays_beside_the_gradient_and_matrices_alone():
    tx = optimiser(Train(optimiser="adamw", lr=0.1, weight_decay=0.5, clip_norm=None, drops=()), 10)
    params = {"w": jnp.full((1, 1), 2.0), "b": jnp.full((1,), 2.0)}
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert float(updates["b"][0]) == pytest.approx(-0.1, rel=1e-5)  # Adam's first step is the rate
    assert float(updates["w"][0, 0]) == pytest.approx(-0.1 - 0.1 * 0.5 * 2.0, rel=1e-5)


def test_the_recipe_for_transformers_warms_eps_up():
    train = PRESETS["cifar10-vit-pgd-ls"].train
    assert (train.model, train.weight_decay, train.attack_steps, train.eps_warmup) == ("vit-tiny", 0.5, 1, 0.1)
    linear = lambda p, rest, x, *, train: (x @ p, rest)  # noqa: E731
    warm = jr.training.linear(0.0, 0.2, end=10)
    setting = Setting(jr.objectives.cross_entropy(linear), 0.2, None, None, 3, 1, 2, 10, (1, 2), warm=warm)
    tx, batch = optax.sgd(0.0), (jnp.array([[0.75, 0.25]]), jnp.array([0]))
    step, _ = step_and_memory("pgd", setting, tx)
    state = jr.training.init(jnp.eye(2), None, tx)
    for t, eps in ((0, 0.0), (5, 0.1), (10, 0.2), (50, 0.2)):
        at = dataclasses.replace(state, step=jnp.asarray(t))
        _, metrics = step(at, batch, key=jax.random.key(0))
        assert float(metrics["loss"]) == pytest.approx(np.log1p(np.exp(2 * eps - 0.5)), rel=1e-5)
    for method in ("free", "noisy", "ibp", "iaat", "gradient-penalty", "union-max", "hydra"):
        with pytest.raises(ValueError, match=f"{method} has none, or sees to it by itself"):
            _check(dataclasses.replace(Train(), method=method, eps_warmup=0.5))
    with pytest.raises(ValueError, match="eps_warmup is a fraction"):
        _check(dataclasses.replace(Train(), method="pgd", eps_warmup=2.0))


def test_a_preset_is_words_that_the_users_own_override(tmp_path, capsys):
    words = expand(["train", "--preset=cifar10-fgsm-rs", "--no-augment", "--lr", "0.1"])
    assert words[-3:] == ["--no-augment", "--lr", "0.1"]
    assert "--augment" not in words
    assert words.count("--lr") == 1
    assert expand(["train", "--epochs", "3"]) == ["train", "--epochs", "3"]
    small = ["--dataset", "digits", "--model", "mlp", "--epochs", "1", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", "--preset", "cifar10-trades", *small, "--no-augment", "--attack-steps", "2"]) == 0
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert (written["method"], written["optimiser"], written["weight_decay"]) == ("trades", "sgd", 2e-4)
    assert (written["eps"], written["dataset"], written["drops"]) == (0.031, "digits", [75 / 76])
    capsys.readouterr()
    assert main(["train", "--preset", "cifar10-tradez"]) == 2
    said = capsys.readouterr().err
    assert "got 'cifar10-tradez'; did you mean 'cifar10-trades'?" in said
    assert all(name in said for name in PRESETS)


@pytest.mark.parametrize(("sigma", "first", "last"), [(0.25, 12.0, 12.0), (0.5, 4.0, 4.0), (1.0, 0.0, 12.0)])
def test_macer_weighs_its_hinge_as_published(sigma, first, last):
    train = PRESETS[f"cifar10-{sigma:g}-macer"].train
    assert (train.sigma, train.batch_size, train.lr, train.epochs) == (sigma, 64, 0.01, 440)
    loss = jr.objectives.cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    setting = Setting(loss, 0.1, None, None, 1, 1, 2, 10, (1, 2), None, total=440, sigma=train.sigma)

    def value(robust):
        args = 0.01 * jnp.eye(2), None, jnp.array([[0.8, 0.0]]), jnp.array([0])
        return float(robust(*args, key=jax.random.key(0), train=True)[0][0])

    one, none = (value(jr.training.macer(loss, sigma, weight=w)) for w in (1.0, 0.0))
    built = METHODS["macer"](setting).build
    found = [(value(built(t)) - none) / (one - none) for t in (0, 199, 200, 439)]
    np.testing.assert_allclose(found, [first, first, last, last], rtol=1e-3, atol=1e-3)


def test_other_methods_under_noise_have_their_published_constants():
    mix = PRESETS["cifar10-0.25-smooth-mix"].train
    assert (mix.attack_steps, mix.epochs, mix.drops) == (4, 150, (1 / 3, 2 / 3))
    assert PRESETS["cifar10-0.5-consistency"].published[:2] == (64.3, 50.6)
    with pytest.raises(ValueError, match="samples are of methods under noise"):
        _check(dataclasses.replace(Train(method="pgd"), samples=2))
    with pytest.raises(ValueError, match=r"weight lies in \[0, 1\]"):
        _check(dataclasses.replace(Train(method="sabr"), weight=2.0))
    with pytest.raises(ValueError, match="sigma is > 0"):
        _check(dataclasses.replace(Train(method="noisy"), sigma=0.0))
    with pytest.raises(ValueError, match="held_out watches"):
        _check(dataclasses.replace(Train(method="noisy"), held_out=0.1))
