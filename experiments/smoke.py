"""One real step of every preset on a few images, at its published model and attack: does what is sized for GPUs run at all?

Command:  python -m experiments.smoke [--only NAME ...] [--batch 4]; records/smoke.jsonl has a line for each.
Judged:   loss and gradient norm are finite, and the parameters have moved. Minutes a wide net on 2 CPU cores, most of it compilation.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jrobust as jr
from jrobust.cli._methods import CERTIFIED, PAIRS, step_and_memory
from jrobust.cli._optimiser import optimiser
from jrobust.cli._presets import PRESETS
from jrobust.cli._setting import Setting
from jrobust.cli._train import Train

RECORDS = Path(__file__).parent / "records" / "smoke.jsonl"
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      only: these presets; by default one for each method and model.
      batch: images in the step.
    """

    only: tuple[str, ...] = ()
    batch: int = 4


def made(train: Train, model: Any, batch: int) -> tuple[Any, ...]:
    """``(step, optimiser, params, rest, memory)`` of a preset for a model (arrays, or shapes alone) and batches of so many images."""
    apply, params, rest = jr.nnx.functional(model)
    if train.method in PAIRS:
        params, rest = ({"student": tree, "teacher": tree} for tree in (params, rest))
    loss = jr.objectives.cross_entropy(apply)
    constant = lambda x: jnp.zeros((len(x), 10))  # noqa: E731
    setting = Setting(
        loss=loss if train.scale == 1 else jr.training.sharpened(loss, train.scale),
        eps=train.eps,
        ramp=lambda t: train.eps,
        kappa=lambda t: train.kappa,
        steps=train.attack_steps,
        replays=train.replays,
        classes=10,
        epoch=100,
        batch=(batch, *SHAPES[train.dataset]),
        standard=constant,
        teacher=constant,
        weight=train.weight,
        total=1000,
        examples=batch,
        net=model,
        sigma=train.sigma,
        samples=train.samples,
        sensitive=train.sensitive,
        warm=(lambda t: train.eps) if train.eps_warmup else None,
    )
    tx = optimiser(dataclasses.replace(train, schedule="steps"), 1000)  # a cyclic rate begins at 0
    step, memory = step_and_memory(train.method, setting, tx)
    return step, tx, params, rest, memory


def one(name: str, batch: int) -> dict[str, object]:
    """A compiled step from a random start."""
    train, begin = PRESETS[name].train, time.monotonic()
    shape = SHAPES[train.dataset]
    step, tx, params, rest, memory = made(train, jr.models.create(train.model, shape=shape, classes=10), batch)
    if train.method in CERTIFIED:
        params = jr.models.ibp_init(jax.random.key(2), params)
    state = jr.training.init(params, rest, tx, memory=memory)
    x = jax.random.uniform(jax.random.key(0), (batch, *shape))
    given = x, jnp.arange(batch) % 10, jnp.arange(batch)
    after, metrics = jax.jit(lambda s: step(s, given, key=jax.random.key(1)))(state)
    moved = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (state.params, after.params))))
    numbers = {k: round(float(v), 5) for k, v in metrics.items()}
    assert np.isfinite(list(numbers.values())).all(), numbers
    assert moved > 0
    seconds = round(time.monotonic() - begin, 1)
    return {"preset": name, "model": train.model, "batch": batch, **numbers, "seconds_with_compilation": seconds}


def main(config: Config) -> None:
    """Run and record."""
    chosen = {(p.train.method, p.train.model): name for name, p in PRESETS.items()}.values()
    found = {} if not RECORDS.exists() else {r["preset"]: r for r in map(json.loads, RECORDS.read_text().splitlines())}
    for name in config.only or chosen:
        found[name] = one(name, config.batch) | {"version": jr.__version__, "jax": jax.__version__}
        print(json.dumps(found[name]), flush=True)
        RECORDS.write_text("".join(json.dumps(found[n]) + "\n" for n in PRESETS if n in found))


if __name__ == "__main__":
    main(tyro.cli(Config))
