"""What the loop costs around its steps, how it scales over devices, and PyTorch's PGD training beside ours.

    python -m experiments.bench.training_loop [--torch PYTHON]

- Overhead: seconds a step of a natural training of a tiny perceptron, by `jr.training.fit` (chunks of 50 steps, metrics and all) and by
  one jitted call a step, over the same step within one scan of 2000, where nothing is dispatched. Wanted: fit <= 1.2.
- Weak scaling: PGD-AT by `fit` over 1, 2 and 4 forced host devices with the same number of images for each device; the cores stay the
  same, so seconds an image are ideal where they do not rise.
- PyTorch: seconds of a PGD-10 step, ours in one scan over theirs, the two in turn, each with both cores. ``--torch`` names a Python that
  has torch; its version is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrobust as jr
from experiments.bench.peer import torch_seconds
from jrobust import _loops, models, nnx, training


def pieces(name: str, robust: bool, **options):
    """A step and its first state."""
    apply, params, rest = nnx.functional(models.create(name, shape=(28, 28, 1), classes=10, **options))
    loss, tx = jr.objectives.cross_entropy(apply), optax.adam(1e-3)
    if robust:
        loss = jr.worst_case(loss, jr.sets.linf(0.1, clip=(0, 1)), jr.attacks.pgd(steps=10, keep="last"))
    return training.make_step(loss, tx), training.init(params, rest, tx)


def scanned(step, start, batch: int, length: int):
    """Seconds a step within one compiled scan, as a function that measures once."""
    x, y = jax.random.uniform(jax.random.key(0), (batch, 28, 28, 1)), jnp.arange(batch) % 10

    def steps(state):
        def body(state, _):
            return step(state, (x, y), key=jax.random.fold_in(jax.random.key(1), state.step))[0], None

        return _loops.scan(body, state, None, length=length)[0]

    program = jax.jit(steps).lower(start).compile()

    def once() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(program(start))
        return (time.perf_counter() - begin) / length

    return once


def overhead(rounds: int = 5, batch: int = 32, count: int = 2000) -> dict[str, float]:
    """Of `fit` and of one call a step, over a step alone."""
    step, start = pieces("mlp", False, widths=(64,))
    alone = scanned(step, start, batch, count)
    x = np.random.default_rng(0).uniform(size=(batch * count, 28, 28, 1)).astype(np.float32)
    y = np.arange(len(x)) % 10
    one, key = jax.jit(lambda s, x, y, k: step(s, (x, y), key=k)), jax.random.key(0)

    def by_fit() -> float:
        lines = []
        training.fit(step, start, x, y, epochs=1, batch_size=batch, key=key, log=lines.append, show=False)
        # the first chunk compiles; wall time between the ends of the others
        return sum(line["seconds"] for line in lines[1:]) / (lines[-1]["step"] - lines[0]["step"])

    def by_calls() -> float:
        state, bx, by = start, jnp.asarray(x[:batch]), jnp.asarray(y[:batch])
        state, _ = one(state, bx, by, key)
        begin = time.perf_counter()
        for i in range(200):
            state, metrics = one(state, bx, by, jax.random.fold_in(key, i))
        jax.block_until_ready(metrics)
        return (time.perf_counter() - begin) / 200

    best = [min(turn) for turn in zip(*((alone(), by_fit(), by_calls()) for _ in range(rounds)), strict=True)]
    return {"step_us": 1e6 * best[0], "fit_over_step": best[1] / best[0], "calls_over_step": best[2] / best[0]}


def scaled(devices: int, per_device: int, steps: int) -> float:
    """Seconds an image of PGD-AT over so many devices, in this process."""
    step, start = pieces("cnn-small", True)
    n = devices * per_device * steps
    x = np.random.default_rng(0).uniform(size=(n, 28, 28, 1)).astype(np.float32)
    lines: list = []
    training.fit(
        step, start, x, np.arange(n) % 10, epochs=4, batch_size=devices * per_device, key=jax.random.key(0), chunk=steps,
        mesh=jax.make_mesh((devices,), ("batch",)), log=lines.append, show=False,
    )  # fmt: skip
    return min(line["seconds"] for line in lines[1:]) / n


def weak_scaling(per_device: int = 64, steps: int = 5) -> dict[int, float]:
    """Seconds an image over 1, 2 and 4 devices, over that of one."""
    root = Path(__file__).parents[2]
    found = {}
    for devices in (1, 2, 4):
        env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": str(root)}
        code = f"from experiments.bench.training_loop import scaled; print(scaled({devices}, {per_device}, {steps}))"
        said = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=root, check=True, capture_output=True, text=True
        )
        found[devices] = float(said.stdout.split()[-1])
    return {devices: seconds / found[1] for devices, seconds in found.items()}


def beside_torch(python: str, batch: int = 128, rounds: int = 5) -> dict[str, object]:
    """Our seconds a PGD-10 step over PyTorch's."""
    found: dict[str, object] = {}
    for name in ("mlp", "cnn-small"):
        ours = scanned(*pieces(name, True), batch, 5)
        mine, theirs = [ours()], []
        for _ in range(2):
            answer = torch_seconds(python, "train", name, batch, 10, rounds)
            theirs.append(answer["seconds"])
            mine += [ours() for _ in range(rounds)]
        found[name] = min(mine[1:]) / min(theirs)
        found["torch"] = answer["torch"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="a Python that has torch")
    args = parser.parse_args()
    print(json.dumps({"overhead": overhead()}), flush=True)
    print(json.dumps({"weak scaling, seconds an image over one device's": weak_scaling()}), flush=True)
    if args.torch:
        print(json.dumps({"seconds over PyTorch's": beside_torch(args.torch)}), flush=True)


if __name__ == "__main__":
    main()
