"""``jrobust train``: natural, adversarial or certified training of a named model on a named data set."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jrobust as jr
from jrobust import data, models, nnx, training
from jrobust.cli._common import Number
from jrobust.cli._methods import CERTIFIED, METHODS, Setting, step_and_memory, updates


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model (natural, adversarial or certified) and keep it in a run directory: config.json, metrics.jsonl, checkpoints.

    "jrobust evaluate --run DIR" takes it from there. The optimiser is Adam with gradients clipped to norm 10; its rate falls to a
    fifth after 70 % of the steps and again after 85 %. Ctrl-C saves and stops; --resume goes on to the same bits.
    """

    dataset: str = "digits"
    """digits (comes with scikit-learn), or a set prepared by tensorflow_datasets: mnist, fashion_mnist, cifar10, ..."""
    model: str = "cnn-small"
    """mlp, cnn-small, cnn-medium, cnn-7, preact-resnet-18, wide-resnet-28-10 or vit-tiny"""
    method: str = "natural"
    """natural; on adversarial examples: pgd, trades, mart, score, hat, gkl, pgd-awp, trades-awp, and with a step or two fgsm-rs, n-fgsm,
    gradalign, free; on bounds, so that the model can be certified: ibp, ibp-shi, crown-ibp, sabr, taps, staps, mtl-ibp, cc-ibp, exp-ibp"""
    eps: Number = 0.1
    """radius of the linf perturbation of images in [0, 1]; 0.1 to 0.3 on MNIST, 2/255 to 8/255 on CIFAR-10"""
    epochs: int | None = None
    """passes over the data; by default 12, or as many as make 3000 steps"""
    seed: int = 0
    """of the initialisation, the order of the data and the attacks"""
    out: str | None = None
    """run directory; by default runs/DATASET-MODEL-METHOD-EPS-SEED"""
    resume: bool = False
    """go on from the newest complete checkpoint of the run directory; all else, --epochs included, must be as it was"""
    data_dir: str | None = None
    """tensorflow_datasets directory ($TFDS_DATA_DIR by default)"""
    batch_size: int = 128
    """images in a step"""
    lr: float = 1e-3
    """learning rate"""
    attack_steps: int = 10
    """gradient steps of the attack, each of 2.5 * eps / steps"""
    replays: int = 8
    """free: updates on each batch; divide the epochs by as much for an equal budget"""
    standard: str | None = None
    """hat: run directory of a model trained without attacks"""
    weight: float | None = None
    """mtl-ibp, cc-ibp, exp-ibp: weight of the bound, by default 0.5; sabr: size of the small box in radii, by default 0.4"""
    eps_multiplier: float | None = None
    """train at this multiple of eps; by default 1.5 for ibp, ibp-shi, crown-ibp (bounds generalise better from larger boxes), else 1"""
    warmup: float = 0.1
    """methods by bounds: fraction of the steps at eps 0, before the ramp"""
    ramp: float = 0.4
    """methods by bounds: fraction of the steps in which eps rises to its full size (and the clean loss's weight falls to kappa)"""
    kappa: float = 0.5
    """ibp, crown-ibp: final weight of the clean loss, in [0, 1]"""
    ema: bool = False
    """keep a moving average of the parameters (decay 0.995), and let that be the model"""
    augment: bool = False
    """random shifts and mirror images, for photographs"""
    quiet: bool = False
    """no progress bar"""

    def run(self) -> Path:
        """Train, print the clean accuracy, return the run directory."""
        return train(self)


def train(config: Train) -> Path:
    """Train as ``config`` says.

    Returns:
      The run directory.

    Raises:
      ValueError: a field out of range, an unknown data set or model, a run that is there already, a checkpoint of another model.
    """
    _check(config)
    loaded = data.load(config.dataset, data_dir=config.data_dir, raw=True)
    x, y = loaded.train_x, loaded.train_y
    per_epoch = training.epoch_steps(len(x), config.batch_size)
    epochs = max(12, math.ceil(3000 / per_epoch)) if config.epochs is None else config.epochs
    multiplier = config.eps_multiplier or CERTIFIED.get(config.method, 1.0)
    mean, std = loaded.moments()
    described = {
        "name": config.model,
        "shape": loaded.shape,
        "classes": loaded.classes,
        "seed": config.seed,
        "mean": mean,
        "std": std,
    }
    standard = None if config.standard is None else training.load(config.standard)
    if config.method == "hat" and standard is None:
        raise ValueError("hat needs --standard DIR, a run of --method natural on the same data")
    net = models.create(**described)  # before the directory is made: an unknown name leaves nothing behind

    resolved = {**dataclasses.asdict(config), "epochs": epochs, "eps_multiplier": multiplier, "train_n": len(x)}
    for name in ("out", "resume", "quiet"):
        del resolved[name]
    resolved |= {"command": "train", "version": jr.__version__, "model": described}
    dataset = config.dataset.replace("/", "-").replace(":", "-")
    out = config.out or f"runs/{dataset}-{config.model}-{config.method}-{config.eps:g}-{config.seed}"
    run = training.start_run(out, resolved, resume=config.resume, ignore=("data_dir", "version"))

    apply, params, rest = nnx.functional(net)
    key, for_init = jax.random.split(jax.random.key(config.seed))
    if config.method in CERTIFIED:
        params = models.ibp_init(for_init, params)
    total = epochs * per_epoch
    count = total * updates(config.method, config.replays)
    rate = optax.piecewise_constant_schedule(config.lr, {int(0.7 * count): 0.2, int(0.85 * count): 0.2})
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
    hook = _accuracy(apply, loaded.test_x, loaded.test_y)
    begin, end = round(config.warmup * total), round((config.warmup + config.ramp) * total)
    setting = Setting(
        jr.objectives.cross_entropy(apply),
        multiplier * config.eps,
        training.smoothed(multiplier * config.eps, begin=begin, end=end),
        training.linear(1.0, config.kappa, begin=begin, end=end),
        config.attack_steps,
        config.replays,
        loaded.classes,
        per_epoch,
        (config.batch_size, *loaded.shape),
        standard,
        config.weight,
    )
    step, memory = step_and_memory(config.method, setting, tx)
    state = training.fit(
        step,
        training.init(params, rest, tx, ema=config.ema, memory=memory),
        x,
        y,
        epochs=epochs,
        batch_size=config.batch_size,
        key=key,
        augment=_shifts if config.augment else None,
        run=run,
        resume=config.resume,
        hook=hook,
        show=not config.quiet,
    )
    right = hook(epochs, state)["test_accuracy"]
    print(f"{run}: {epochs} epochs, seed {config.seed}, clean test accuracy {right:.4f} (n={len(loaded.test_x)})")
    print(f"next: jrobust evaluate --run {run}")
    return run


def _shifts(key: Any, x: Any) -> Any:
    return data.random_crop_flip(key, x)


def _accuracy(apply: Callable[..., Any], x: Any, y: Any, *, batch: int = 500) -> Callable[..., dict[str, float]]:
    """A hook for `fit`: clean accuracy on the whole test split."""

    @jax.jit
    def correct(params: Any, rest: Any, x: Any, y: Any) -> Any:
        return jnp.sum(jnp.argmax(apply(params, rest, data.unit(x), train=False)[0], -1) == y)

    def hook(epoch: int, state: Any) -> dict[str, float]:
        del epoch
        parts = [slice(i, i + batch) for i in range(0, len(x), batch)]
        right = sum(int(correct(state.averaged, state.rest, jnp.asarray(x[i]), jnp.asarray(y[i]))) for i in parts)
        return {"test_accuracy": right / len(x)}

    return hook


def _check(config: Train) -> None:
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; there are {', '.join(METHODS)}")
    if not 0 <= config.eps < math.inf:
        raise ValueError(f"eps is >= 0 and finite, got {config.eps}")
    for name in ("lr", "eps_multiplier"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is > 0 and finite, got {value}")
    for name in ("epochs", "batch_size", "attack_steps", "replays"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is >= 1, got {value}")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed lies in [0, 2**32), got {config.seed}")
    if not (config.warmup >= 0 and config.ramp >= 0 and config.warmup + config.ramp <= 1):
        raise ValueError(
            f"warmup and ramp are fractions of the training with warmup + ramp <= 1, got {config.warmup} and {config.ramp}"
        )
    if config.weight is not None and not 0 <= config.weight <= 1:
        raise ValueError(f"weight lies in [0, 1], got {config.weight}")
    if not 0 <= config.kappa <= 1:
        raise ValueError(f"kappa lies in [0, 1], got {config.kappa}")
