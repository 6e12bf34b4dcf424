"""Smoothing: what certification costs over a bare forward pass and a bare noise draw.

Command:  python -m experiments.bench.smoothing [--torch PYTHON] [--devices]
Prints:   for each net milliseconds of a batch of draws: forward, noise, the driver; ``ratio`` = (forward + noise) / driver and
          ``of_forward`` = forward / driver (1 is a driver that costs nothing; wanted: ratio >= 0.95 on cnn-small, of_forward >= 0.9 on
          cnn-medium) and the noise's share. Then seconds a draw at four times n over those at n, and of 16 images at once over one
          image (1 is linear). ``--torch``: ours over Cohen et al.'s sampling loop in PyTorch, in turn, both cores each.
          ``--devices``: seconds a draw on 1, 2, 4 forced devices of this host over those on one.
Hardware: 2 CPU cores; three minutes. Draws of one example are independent: no noise is reused.
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

from experiments.bench.peer import torch_seconds
from jrobust import models, smoothing

NETS = {"cnn-small": (28, 28, 1), "mlp": (28, 28, 1), "cnn-medium": (32, 32, 3)}
NOISE = smoothing.gaussian(0.25)


def certifying(name, batch, n, images=1, mesh=None):
    """A call of the driver, compiled."""
    shape = NETS[name]
    model = models.create(name, shape=shape, classes=10)
    x, key = np.asarray(jax.random.uniform(jax.random.key(0), (images, *shape))), jax.random.key(0)

    def run():
        smoothing.certify(model, x, noise=NOISE, n0=batch, n=n, key=key, batch_size=batch, mesh=mesh)

    run()
    return run


def bare(name, batch, steps):
    """Forward passes and noise draws alone."""
    shape = NETS[name]
    model = models.create(name, shape=shape, classes=10)
    x = jnp.broadcast_to(jax.random.uniform(jax.random.key(0), shape), (batch, *shape))
    forward = jax.jit(lambda model, x: model(x).argmax(-1))
    draw = jax.jit(lambda key, x: x + 0.25 * jax.random.normal(key, x.shape))

    def repeated(fn, *args):
        def run():
            for _ in range(steps):
                fn(*args).block_until_ready()

        run()
        return run

    return repeated(forward, model, x), repeated(draw, jax.random.key(0), x)


def in_turn(rounds, **runs):
    """The least seconds of each, one after the other, so that a drifting machine drifts for all."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def costs(name, batch, steps, rounds):
    """The driver beside its parts; one batch of it selects."""
    forward, draw = bare(name, batch, steps)
    best = in_turn(rounds, driver=certifying(name, batch, (steps - 1) * batch), forward=forward, draw=draw)
    driver, forward_s, draw_s = (best[part] / steps for part in ("driver", "forward", "draw"))
    return {
        "net": name,
        "device": jax.devices()[0].device_kind,
        "batch_size": batch,
        "forward_ms": round(1e3 * forward_s, 3),
        "noise_ms": round(1e3 * draw_s, 3),
        "driver_ms": round(1e3 * driver, 3),
        "ratio": round((forward_s + draw_s) / driver, 3),
        "of_forward": round(forward_s / driver, 3),
        "noise_share": round(draw_s / (forward_s + draw_s), 3),
        "draws_per_second": round(batch / driver),
    }


def growth(name, batch, steps, rounds):
    """Seconds a draw: of four times the draws, and of 16 images, over those of one image."""
    n = (steps - 1) * batch
    best = in_turn(
        rounds,
        one=certifying(name, batch, n),
        long=certifying(name, batch, 4 * n + 3 * batch),
        many=certifying(name, batch, n, images=16),
    )
    return {
        "net": name,
        "4n_over_n": round(best["long"] / best["one"] / 4, 3),
        "16_images_over_1": round(best["many"] / best["one"] / 16, 3),
    }


def beside_torch(python, name, batch, steps, rounds):
    """Our seconds of a batch of draws over PyTorch's."""
    ours, mine, theirs = certifying(name, batch, (steps - 1) * batch), [], []
    for _ in range(2):
        answer = torch_seconds(python, "smooth", name, batch, steps, rounds)
        theirs.append(answer["seconds"])
        mine.append(in_turn(rounds, ours=ours)["ours"] / steps)
    return {"net": name, "ours_over_torch": round(min(mine) / min(theirs), 3), "torch": answer["torch"]}


def on_devices(name, batch, steps):
    """Seconds a draw on several forced devices over those on one."""
    found, root = {}, Path(__file__).parents[2]
    code = (
        "import sys; from experiments.bench.smoothing import *; m = jax.make_mesh((jax.device_count(),), ('d',)); "
        + (f"run = certifying({name!r}, {batch}, {(steps - 1) * batch}, mesh=m); print(in_turn(3, a=run)['a'])")
    )
    for devices in (1, 2, 4):
        env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": str(root)}
        said = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=root, check=True, capture_output=True, text=True
        )
        found[devices] = float(said.stdout.split()[-1])
    return {"net": name, "seconds_over_one_device": {d: round(s / found[1], 3) for d, s in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=51)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--torch", help="a Python that has torch")
    parser.add_argument("--devices", action="store_true")
    options = parser.parse_args()
    how = (options.batch_size, options.steps, options.rounds)
    for net in NETS:
        print(json.dumps(costs(net, *how)), flush=True)
    print(json.dumps(growth("cnn-small", *how)), flush=True)
    if options.torch:
        for net in ("mlp", "cnn-small"):
            print(json.dumps(beside_torch(options.torch, net, *how)), flush=True)
    if options.devices:
        print(json.dumps(on_devices("cnn-small", *how[:2])), flush=True)


if __name__ == "__main__":
    main()
