"""``jrobust train``: natural, adversarial or certified training of a named model on a named data set."""

import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jrobust as jr
from jrobust import data, models, nnx, training
from jrobust.cli import _stages
from jrobust.cli._common import Number
from jrobust.cli._methods import CERTIFIED, FINE, METHODS, NEEDS, PAIRS, SMOOTHED, WARMED, step_and_memory, updates
from jrobust.cli._optimiser import optimiser
from jrobust.cli._setting import Setting

_FIXED = {"standard": "natural", "teacher": "pgd, say,"}  # models that others are trained by, and by what they were


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model (natural, adversarial or certified) and keep it in a run directory: config.json, metrics.jsonl, checkpoints.

    "jrobust evaluate --run DIR" takes it from there. By default Adam with gradients clipped to norm 10; its rate falls to a fifth after
    70 % of the steps and again after 85 %. --preset NAME (first) sets everything as published, and what else is said overrides it; a
    wrong name lists them. Ctrl-C saves and stops; --resume goes on to the same bits.
    """

    dataset: str = "digits"
    """digits (comes with scikit-learn), or a set prepared by tensorflow_datasets: mnist, fashion_mnist, cifar10, ..."""
    model: str = "cnn-small"
    """mlp, cnn-small, cnn-medium, cnn-7, preact-resnet-18, wide-resnet-28-10, wide-resnet-34-10, vit-tiny,
    lipschitz-mlp, lipschitz-cnn or spectral-mlp"""
    method: str = "natural"
    """natural; on adversarial examples: pgd, trades, mart, score, hat, gkl, dkl, alp, lbgat, lbgat-6, fat, fat-trades, iaat, las-at, cfa,
    cfa-trades, pgd-awp, trades-awp, pgd-gor, pgd-so, pgd-ls, trades-mixup, trades-cutmix; of linf, l2 and l1: union-max, union-mean;
    of colours, rotation and linf in any order: gat, gat-trades;
    cheaper: fgsm-rs, n-fgsm, gradalign, free, yopo, feature-scattering, bilateral, ensemble; by a penalty: gradient-penalty,
    jacobian-penalty, cure, llr; taught by other models: ard, rslad, iad-i, iad-ii, b-mtard, defensive-distillation; going on from a net
    whose answers they keep: fare, lore; pruned: hydra; on bounds, so that the model can be certified: ibp, ibp-shi, crown-ibp,
    crown-ibp-fused, sabr, taps, staps, mtl-ibp, cc-ibp, exp-ibp; under noise, for "jrobust certify": noisy, stability, smooth-adv, macer,
    consistency, smooth-mix, margin-cs"""
    eps: Number = 0.1
    """radius of the linf perturbation of images in [0, 1]; 0.1 to 0.3 on MNIST, 2/255 to 8/255 on CIFAR-10; of smooth-adv the l2 radius,
    64/255 to 512/255"""
    epochs: int | None = None
    """passes over the data; by default 12, or as many as make 3000 steps"""
    seed: int = 0
    """of the initialisation, the order of the data and the attacks"""
    out: str | None = None
    """run directory; by default runs/DATASET-MODEL-METHOD-EPS-SEED (methods under noise: SIGMA)"""
    resume: bool = False
    """go on from the newest complete checkpoint of the run directory; all else, --epochs included, must be as it was"""
    data_dir: str | None = None
    """tensorflow_datasets directory ($TFDS_DATA_DIR by default)"""
    batch_size: int = 128
    """images in a step"""
    lr: float = 1e-3
    """learning rate, at its highest"""
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    """the rule of the updates"""
    momentum: float = 0.9
    """sgd"""
    nesterov: bool = False
    """sgd: Nesterov's momentum"""
    weight_decay: float = 0.0
    """added to the gradient, times the parameters; adamw: beside it, times the rate, of arrays of two or more axes"""
    clip_norm: float | None = 10.0
    """norm that gradients are clipped to; None does not"""
    schedule: Literal["steps", "cyclic", "cosine"] = "steps"
    """of the learning rate: drops; up and down in straight lines; or up and a cosine down"""
    drops: tuple[float, ...] = (0.7, 0.85)
    """steps: after which fractions of the training the rate drops"""
    drop: float = 0.2
    """steps: times what"""
    peak: float = 0.5
    """cyclic, cosine: the fraction of the training at which the rate is highest"""
    attack_steps: int = 10
    """gradient steps of the attack, each of 2.5 * eps / steps (smooth-adv: 2 * eps / steps; smooth-mix: of 1, up to sigma 0.25 of 0.5;
    las-at chooses its own)"""
    replays: int = 8
    """free: updates on each batch; divide the epochs by as much for an equal budget"""
    standard: str | None = None
    """hat, ensemble, iad-ii, b-mtard: run directory of a model trained without attacks; fare, lore: of the model to go on from"""
    teacher: str | None = None
    """ard, rslad, iad-i, iad-ii, b-mtard: run directory of a robust model; defensive-distillation: of a run of its own without one"""
    start: str | None = None
    """run directory of the same model to begin with: its parameters and statistics; without one hydra trains one by pgd first, in
    DIR/start, for as many epochs"""
    keep: float = 0.1
    """hydra: share of each array's weights that stays, in (0, 1]"""
    search: Number = 1 / 6
    """hydra: fraction of the epochs in which it is searched for the weights that stay; the others train them"""
    first_lr: float | None = None
    """hydra: learning rate of the stages before the last one, by default lr; each stage has the whole schedule"""
    scale: float = 1.0
    """the loss is that of the logits times this: 10, say, for lipschitz-mlp and lipschitz-cnn"""
    weight: float | None = None
    """mtl-ibp, cc-ibp, exp-ibp: weight of the bound, by default 0.5; sabr: size of the small box in radii, by default 0.4;
    stability, macer, consistency, smooth-mix, margin-cs: weight of the second term, by default as published for CIFAR-10;
    lore: rho, by default 0.1"""
    sigma: Number = 0.5
    """methods under noise: its standard deviation, 0.12 to 1; it need not be the one that is certified"""
    samples: int | None = None
    """methods under noise: noisy copies of each image, by default 1 of noisy and stability, 16 of macer and margin-cs, else 2"""
    sensitive: tuple[int, ...] = ()
    """margin-cs: the classes whose mistakes cost something, by default all"""
    eps_multiplier: float | None = None
    """train at this multiple of eps; by default 1.5 for ibp, ibp-shi, crown-ibp and crown-ibp-fused (bounds generalise better from larger
    boxes), else 1"""
    eps_warmup: float = 0.0
    """methods by attacks: fraction of the steps in which eps rises from 0 in a straight line"""
    warmup: float = 0.1
    """methods by bounds, cure: fraction of the steps at eps 0, before the ramp"""
    ramp: float = 0.4
    """methods by bounds, cure: fraction of the steps in which eps rises to its full size (and the clean loss's weight falls to kappa)"""
    kappa: float = 0.5
    """ibp, crown-ibp, crown-ibp-fused: final weight of the clean loss, in [0, 1]"""
    ema: bool = False
    """keep a moving average of the parameters (decay 0.995), and let that be the model"""
    augment: bool = False
    """random shifts and mirror images, for photographs"""
    held_out: float = 0.0
    """fraction of the training images to hold out: their accuracy under PGD is measured after every epoch, and the model that is best
    there is kept too ("jrobust evaluate --run DIR --best")"""
    patience: int | None = None
    """stop after so many epochs without a better held-out robust accuracy"""
    accumulate: int = 1
    """work at each batch in so many parts, one after another, where the memory is small"""
    bf16: bool = False
    """bfloat16 arithmetic in the layers, for accelerators, not of methods by bounds; images, perturbations and parameters stay float32"""
    tensorboard: bool = False
    """write the metrics for TensorBoard too, into DIR/tensorboard"""
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
    x, y, held = _held_out(loaded.train_x, loaded.train_y, config)
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
    fixed = {name: training.load(run) for name in _FIXED if (run := getattr(config, name)) is not None}
    for name in NEEDS.get(config.method, ()):
        if name not in fixed:
            what = "which it goes on from" if config.method in FINE else f"of --method {_FIXED[name]} on the same data"
            raise ValueError(f"{config.method} needs --{name} DIR, a run {what}")
    net = models.create(**described)  # before the directory is made: an unknown name leaves nothing behind
    start = config.standard if config.method in FINE else config.start
    begun = None if start is None else _stages.begun(start, net, config.model)
    if wrong := [k for k in config.sensitive if not 0 <= k < loaded.classes]:
        raise ValueError(f"sensitive are classes in 0 .. {loaded.classes - 1}, got {', '.join(map(str, wrong))}")

    resolved = {**dataclasses.asdict(config), "epochs": epochs, "eps_multiplier": multiplier, "train_n": len(x)}
    for name in ("out", "resume", "quiet", "tensorboard"):
        del resolved[name]
    resolved |= {"command": "train", "version": jr.__version__, "model": described}
    if config.method in PAIRS:
        resolved["part"] = "student"
    dataset = config.dataset.replace("/", "-").replace(":", "-")
    level = config.sigma if config.method in SMOOTHED else config.eps
    out = config.out or f"runs/{dataset}-{config.model}-{config.method}-{level:g}-{config.seed}"
    run = training.start_run(
        out, resolved, resume=config.resume, ignore=("data_dir", "version"), defaults=dataclasses.asdict(Train())
    )
    if begun is None and config.method in _stages.BEGIN:
        begun = _stages.begun(str(train(_stages.first(config, run, epochs))), net, config.model)

    dtype = jnp.bfloat16 if config.bf16 else None
    apply, params, rest = nnx.functional(net, dtype=dtype)
    loss = jr.objectives.cross_entropy(apply)
    if config.scale != 1:
        loss = training.sharpened(loss, config.scale)
    key, for_init = jax.random.split(jax.random.key(config.seed))
    if begun is not None:
        params, rest = begun
    elif config.method in CERTIFIED:
        params = models.ibp_init(for_init, params)
    model = apply
    if config.method in PAIRS:
        other = nnx.functional(models.create(**{**described, "seed": config.seed + 1}))
        params, rest = {"student": params, "teacher": other.params}, {"student": rest, "teacher": other.rest}
        model = lambda params, rest, x, *, train: apply(params["student"], rest["student"], x, train=train)  # noqa: E731
    before = _stages.spent(config, epochs)
    total = (epochs - before) * per_epoch
    count = total * updates(config.method, config.replays)
    tx = optimiser(config, count)
    hook = tested = _accuracy(model, loaded.test_x, loaded.test_y)
    if held:
        threat = jr.sets.linf(config.eps, clip=(0, 1))
        watch = training.held_out(
            jr.objectives.cross_entropy(model),
            threat,
            *held,
            key=jax.random.fold_in(key, 1),
            attack=jr.attacks.pgd(steps=10),
            patience=config.patience,
        )
        hook = training.together(tested, watch)
    begin, end = round(config.warmup * total), round((config.warmup + config.ramp) * total)
    eps = multiplier * config.eps
    setting = Setting(
        loss=loss,
        eps=eps,
        ramp=training.smoothed(eps, begin=begin, end=end),
        kappa=training.linear(1.0, config.kappa, begin=begin, end=end),
        steps=config.attack_steps,
        replays=config.replays,
        classes=loaded.classes,
        epoch=per_epoch,
        batch=(config.batch_size, *loaded.shape),
        weight=config.weight,
        total=total,
        examples=len(x),
        net=net,
        accumulate=config.accumulate,
        dtype=dtype,
        sigma=config.sigma,
        samples=config.samples,
        sensitive=config.sensitive,
        keep=config.keep,
        seed=config.seed,
        warm=training.linear(0.0, eps, end=round(config.eps_warmup * total)) if config.eps_warmup else None,
        **fixed,
    )
    how: dict[str, Any] = {
        "batch_size": config.batch_size,
        "augment": _shifts if config.augment else None,
        "resume": config.resume,
        "show": not config.quiet,
    }
    if before:
        again = jax.random.fold_in(key, 2)
        setting, params, rest = _stages.searched(config, setting, params, rest, run, before, x, y, key=again, **how)
    step, memory = step_and_memory(config.method, setting, tx)
    state = training.fit(
        step,
        training.init(params, rest, tx, ema=config.ema, memory=memory),
        x,
        y,
        epochs=epochs - before,
        key=key,
        run=run,
        hook=hook,
        best="held_out_robust" if held else None,
        log=training.tensorboard(run / "tensorboard") if config.tensorboard else None,
        **how,
    )
    right = tested(epochs, state)["test_accuracy"]
    epochs = before + int(state.step) // per_epoch  # fewer where the patience was over
    print(f"{run}: {epochs} epochs, seed {config.seed}, clean test accuracy {right:.4f} (n={len(loaded.test_x)})")
    smoothed = config.method in SMOOTHED
    after = (
        ["certify", "--run", str(run), "--sigma", f"{config.sigma:g}"]
        if smoothed
        else ["evaluate", "--run", str(run), *(["--best"] if held else [])]
    )
    print(f"next: {shlex.join(['jrobust', *after])}")
    return run


def _held_out(x: Any, y: Any, config: Train) -> tuple[Any, Any, tuple[Any, Any] | None]:
    """The images to train on, their labels, and those held out, if any: a random part that the seed tells."""
    count = round(config.held_out * len(x))
    if not count:
        if config.held_out:
            raise ValueError(f"held_out={config.held_out} of {len(x)} images is not one image")
        return x, y, None
    order = np.random.default_rng(config.seed).permutation(len(x))
    kept, held = np.sort(order[count:]), np.sort(order[:count])
    return x[kept], y[kept], (x[held], y[held])


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
    if config.start is not None and config.method in FINE:
        raise ValueError(f"{config.method} begins with the net of --standard, which it keeps to: leave --start out")
    for name in ("lr", "first_lr", "scale", "eps_multiplier", "clip_norm"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is > 0 and finite, got {value}")
    for name in ("epochs", "batch_size", "attack_steps", "replays", "accumulate", "patience", "samples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is >= 1, got {value}")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed lies in [0, 2**32), got {config.seed}")
    if not (config.warmup >= 0 and config.ramp >= 0 and config.warmup + config.ramp <= 1):
        raise ValueError(
            f"warmup and ramp are fractions of the training with warmup + ramp <= 1, got {config.warmup} and {config.ramp}"
        )
    if not 0 <= config.weight_decay < math.inf or not 0 <= config.momentum < 1 or not 0 < config.drop <= 1:
        raise ValueError(
            f"weight_decay is >= 0, momentum in [0, 1), drop in (0, 1], got {config.weight_decay}, {config.momentum}, {config.drop}"
        )
    if not all(0 <= part <= 1 for part in (config.peak, *config.drops)):
        raise ValueError(f"peak and drops are fractions of the training, got {config.peak} and {config.drops}")
    if config.eps_warmup and config.method not in WARMED:
        raise ValueError(f"eps_warmup is of attacks of one radius; {config.method} has none, or sees to it by itself")
    taught = "teacher" in NEEDS.get(config.method, ()) or config.method in (*FINE, "defensive-distillation")
    if config.scale != 1 and taught:
        raise ValueError(
            f"scale: {config.method} compares its logits with those of another model, which are not scaled"
        )
    if not 0 <= config.eps_warmup <= 1:
        raise ValueError(f"eps_warmup is a fraction of the training, in [0, 1], got {config.eps_warmup}")
    if not 0 <= config.held_out < 1:
        raise ValueError(f"held_out is a fraction in [0, 1), got {config.held_out}")
    if config.patience is not None and not config.held_out:
        raise ValueError("patience looks at held-out images: give --held-out 0.1, say")
    if config.batch_size % config.accumulate:
        raise ValueError(f"accumulate divides the batch_size, got {config.accumulate} and {config.batch_size}")
    if config.bf16 and config.method in CERTIFIED:
        raise ValueError(f"{config.method} bounds in float32: leave --bf16 away")
    if config.accumulate > 1 and config.method in ("free", "yopo", "lore"):
        raise ValueError(
            f"{config.method} passes over a batch several times and does not accumulate; choose a smaller batch_size"
        )
    most = math.inf if config.method in SMOOTHED else 1
    if config.weight is not None and not (0 <= config.weight <= most and math.isfinite(config.weight)):
        raise ValueError(f"weight lies in [0, {most}{')' if most > 1 else ']'}, got {config.weight}")
    if not 0 < config.sigma < math.inf:
        raise ValueError(f"sigma is > 0 and finite, got {config.sigma}")
    if config.samples is not None and config.method not in SMOOTHED:
        raise ValueError(f"samples are of methods under noise ({', '.join(SMOOTHED)}), not of {config.method}")
    if config.samples is not None and config.method == "stability" and config.samples != 1:
        raise ValueError(f"stability compares one noisy copy with the image itself, got samples={config.samples}")
    if config.held_out and config.method in SMOOTHED:
        raise ValueError(f"held_out watches accuracy under PGD, which is not what {config.method} is for")
    if not 0 < config.keep <= 1 or not 0 < config.search < 1:
        raise ValueError(f"keep lies in (0, 1] and search in (0, 1), got {config.keep} and {config.search}")
    if config.method in _stages.STAGES and config.epochs == 1:
        raise ValueError(f"{config.method} has two stages, each of an epoch or more: give --epochs 2 or more")
    if config.scale != 1 and config.method == "yopo":
        raise ValueError("yopo parts the net and takes its logits as they are: leave --scale away")
    if config.sensitive and config.method != "margin-cs":
        raise ValueError(f"sensitive classes are of margin-cs, not of {config.method}")
    if not 0 <= config.kappa <= 1:
        raise ValueError(f"kappa lies in [0, 1], got {config.kappa}")
