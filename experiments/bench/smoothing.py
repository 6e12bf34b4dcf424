"""Smoothing: the driver's throughput over that of a bare forward pass and a bare noise draw.

Command: python experiments/bench/smoothing.py
Expected: ratio >= 0.95 for each net (1 is a driver that costs nothing), n = 100,000 draws of one example; two minutes on 2 idle CPU cores.
Samples of one example are independent: no noise is reused.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import models, smoothing

NETS = {"cnn-small": (28, 28, 1), "mlp": (28, 28, 1)}


def seconds(fn, repeats):
    fn()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        times.append(time.perf_counter() - start)
    return min(times)


def bench(name, batch, steps, rounds):
    """Seconds per batch of the driver and of its parts, interleaved so that a drifting machine drifts for all."""
    shape = NETS[name]
    model = models.create(name, shape=shape, classes=10)
    noise, key = smoothing.gaussian(0.25), jax.random.key(0)
    x = np.asarray(jax.random.uniform(key, (1, *shape)))
    batch_x = jnp.broadcast_to(jnp.asarray(x), (batch, *shape))

    forward = jax.jit(lambda model, x: model(x).argmax(-1))
    draw = jax.jit(lambda key, x: x + 0.25 * jax.random.normal(key, x.shape))

    def bare(fn, *args):
        def run():
            for _ in range(steps):
                out = fn(*args)
                out.block_until_ready()

        return run

    def certify():
        smoothing.certify(model, x, noise=noise, n0=batch, n=(steps - 1) * batch, key=key, batch_size=batch)

    times = {"certify": certify, "forward": bare(forward, model, batch_x), "draw": bare(draw, key, batch_x)}
    best = dict.fromkeys(times, np.inf)
    for _ in range(rounds):
        for part, fn in times.items():
            best[part] = min(best[part], seconds(fn, 1))
    forward_s, draw_s, certify_s = (best[part] / steps for part in ("forward", "draw", "certify"))
    return {
        "bench": "smoothing",
        "device": jax.devices()[0].device_kind,
        "net": name,
        "batch_size": batch,
        "forward_ms": round(1e3 * forward_s, 3),
        "noise_ms": round(1e3 * draw_s, 3),
        "certify_ms": round(1e3 * certify_s, 3),
        "ratio": round((forward_s + draw_s) / certify_s, 3),
        "noise_share": round(draw_s / (forward_s + draw_s), 3),
        "draws_per_second": round(batch / certify_s),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    for net in NETS:
        print(json.dumps(bench(net, options.batch_size, options.steps, options.rounds)), flush=True)
