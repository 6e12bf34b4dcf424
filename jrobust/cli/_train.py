"""``jrobust train``: natural, adversarial or certified training of a named model on a named data set."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

METHODS = ("natural", "pgd", "ibp")


def train(
    *,
    dataset: str = "digits",
    model: str = "cnn-small",
    method: Literal["natural", "pgd", "ibp"] = "natural",
    eps: float = 0.1,
    epochs: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    data_dir: Path | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    attack_steps: int = 10,
    eps_multiplier: float | None = None,
    warmup: float = 0.1,
    ramp: float = 0.4,
    kappa: float = 0.5,
    ema: bool = False,
    augment: bool = False,
    quiet: bool = False,
) -> Path:
    """Train a model and keep it in a run directory (config.json, metrics.jsonl, checkpoints); ``jrobust evaluate --run DIR`` follows.

    The optimiser is Adam with gradients clipped to norm 10; its rate falls to a fifth after 70 % of the steps and again after 85 %.

    Args:
      dataset: "digits" (comes with scikit-learn), or a set prepared by tensorflow_datasets: mnist, fashion_mnist, cifar10, ...
      model: mlp, cnn-small, cnn-medium, cnn-7, preact-resnet-18, wide-resnet-28-10 or vit-tiny.
      method: "natural": plain cross-entropy; "pgd": on adversarial examples; "ibp": on interval bounds, so that the model can be certified.
      eps: radius of the linf threat on images in [0, 1]; MNIST 0.1 to 0.3, CIFAR-10 2/255 to 8/255.
      epochs: passes over the data; by default 12, or as many as make 3000 steps.
      seed: of the initialisation, the order of the data and the attacks.
      out: run directory; by default runs/DATASET-MODEL-METHOD-EPS-SEED.
      resume: go on from the newest complete checkpoint of the run directory; the same bits as without the interruption.
      data_dir: the tensorflow_datasets directory; by default $TFDS_DATA_DIR.
      batch_size: images in a step.
      lr: learning rate.
      attack_steps: pgd: gradient steps of the attack, each of 2.5 * eps / steps, from a random start.
      eps_multiplier: train at this multiple of eps; by default 1.5 for ibp (interval bounds generalise better from a larger box), else 1.
      warmup: fraction of the steps at eps 0 before the ramp (ibp).
      ramp: fraction of the steps during which eps rises to its full size (ibp), and the weight of the clean loss falls from 1 to kappa.
      kappa: ibp: final weight of the clean loss, in [0, 1].
      ema: evaluate a moving average of the parameters (decay 0.995).
      augment: random shifts and mirror images (for photographs, not digits).
      quiet: no progress bar.

    Returns:
      The run directory.

    Raises:
      ValueError: an argument out of range, an unknown data set or model, a run that is there already, a checkpoint of another model.
    """
    _check(method, eps, epochs, seed, batch_size, lr, attack_steps, eps_multiplier, warmup, ramp, kappa)

    import jax
    import optax

    import jrobust as jr
    from jrobust import data, models, nnx, training

    loaded = data.load(dataset, data_dir=data_dir, raw=True)
    x, y = loaded.train_x, loaded.train_y
    per_epoch = training.epoch_steps(len(x), batch_size)
    epochs = max(12, math.ceil(3000 / per_epoch)) if epochs is None else epochs
    multiplier = (1.5 if method == "ibp" else 1.0) if eps_multiplier is None else eps_multiplier
    mean, std = loaded.moments()
    described = {
        "name": model,
        "shape": loaded.shape,
        "classes": loaded.classes,
        "seed": seed,
        "mean": mean,
        "std": std,
    }
    config = {
        "command": "train", "version": jr.__version__, "dataset": dataset, "method": method, "eps": eps, "epochs": epochs,
        "seed": seed, "batch_size": batch_size, "lr": lr, "attack_steps": attack_steps, "eps_multiplier": multiplier,
        "warmup": warmup, "ramp": ramp, "kappa": kappa, "ema": ema, "augment": augment, "train_n": len(x), "model": described,
        "data_dir": None if data_dir is None else str(data_dir),
    }  # fmt: skip
    net = models.create(**described)  # before the directory is made: an unknown name leaves nothing behind
    out = Path(f"runs/{dataset.replace('/', '-')}-{model}-{method}-{eps:g}-{seed}") if out is None else Path(out)
    run = training.start_run(out, config, resume=resume, ignore=("data_dir",))

    apply, params, rest = nnx.functional(net)
    total = epochs * per_epoch
    key, for_init = jax.random.split(jax.random.key(seed))
    clean = jr.objectives.cross_entropy(apply)
    threat = jr.sets.linf(multiplier * eps, clip=(0, 1))
    loss: Any = clean
    if method == "pgd":
        loss = jr.worst_case(clean, threat, jr.attacks.pgd(steps=attack_steps, keep="last"))
    elif method == "ibp":
        params = models.ibp_init(for_init, params)
        begin = round(warmup * total)
        end = max(begin, round((warmup + ramp) * total))
        loss = training.certified(
            clean, threat, jr.bounds.ibp(),
            eps=training.smoothed(multiplier * eps, begin=begin, end=end),
            kappa=training.linear(1.0, kappa, begin=begin, end=end),
        )  # fmt: skip
    rate = optax.piecewise_constant_schedule(lr, {int(0.7 * total): 0.2, int(0.85 * total): 0.2})
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
    state = training.fit(
        training.make_step(loss, tx),
        training.init(params, rest, tx, ema=ema),
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        key=key,
        augment=_shifts if augment else None,
        run=run,
        resume=resume,
        hook=_accuracy(apply, loaded.test_x, loaded.test_y),
        show=not quiet,
    )
    accuracy = _accuracy(apply, loaded.test_x, loaded.test_y)(epochs, state)["test_accuracy"]
    print(
        f"{run}: {model} on {dataset}, {method}, {epochs} epochs, clean test accuracy {accuracy:.4f} (n={len(loaded.test_x)})"
    )
    print(f"next: jrobust evaluate --run {run}")
    return run


def _shifts(key: Any, x: Any) -> Any:
    from jrobust import data

    return data.random_crop_flip(key, x)


def _accuracy(apply: Callable[..., Any], x: Any, y: Any, *, batch: int = 500) -> Callable[..., dict[str, float]]:
    """A hook for `fit`: clean accuracy of the whole test split."""
    import jax
    import jax.numpy as jnp

    from jrobust.data import unit

    @jax.jit
    def correct(params: Any, rest: Any, x: Any, y: Any) -> Any:
        return jnp.sum(jnp.argmax(apply(params, rest, unit(x), train=False)[0], -1) == y)

    def hook(epoch: int, state: Any) -> dict[str, float]:
        del epoch
        right = sum(
            int(correct(state.averaged, state.rest, x[i : i + batch], y[i : i + batch]))
            for i in range(0, len(x), batch)
        )
        return {"test_accuracy": right / len(x)}

    return hook


def _check(
    method: str, eps: float, epochs: int | None, seed: int, batch_size: int, lr: float, attack_steps: int,
    multiplier: float | None, warmup: float, ramp: float, kappa: float,
) -> None:  # fmt: skip
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps is >= 0 and finite, got {eps}")
    if multiplier is not None and not 0 < multiplier < math.inf:
        raise ValueError(f"eps_multiplier is > 0 and finite, got {multiplier}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr is > 0 and finite, got {lr}")
    for name, value in (
        ("epochs", 1 if epochs is None else epochs),
        ("batch_size", batch_size),
        ("attack_steps", attack_steps),
    ):
        if value < 1:
            raise ValueError(f"{name} is >= 1, got {value}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed lies in [0, 2**32), got {seed}")
    if not (warmup >= 0 and ramp >= 0 and warmup + ramp <= 1):
        raise ValueError(
            f"warmup and ramp are fractions of the training with warmup + ramp <= 1, got {warmup} and {ramp}"
        )
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa lies in [0, 1], got {kappa}")
