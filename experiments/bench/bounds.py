"""Bounds over the bare forward pass, small CNN, one run.

Command: python experiments/bench/bounds.py. Prints the ratio of each method's time to that of the jitted forward pass at the same
batch size. Target: IBP <= 2.5. CPU ratios; a machine that does nothing else.
"""

import time

import jax
import jax.numpy as jnp
from jax import lax

import jrobust as jr

SHAPES = {"a": (4, 4, 1, 16), "b": (4, 4, 16, 32), "c": (1568, 100), "d": (100, 10)}


def weights(key):
    return {k: jax.random.normal(jax.random.fold_in(key, i), n) / n[-2] for i, (k, n) in enumerate(SHAPES.items())}


def model(w, x):
    dims = ("NHWC", "HWIO", "NHWC")
    for k in "ab":
        x = jax.nn.relu(lax.conv_general_dilated(x, w[k], (2, 2), [(1, 1), (1, 1)], dimension_numbers=dims))
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ w["c"]) @ w["d"]


def seconds(fn, *args, repeats):
    jax.block_until_ready(fn(*args))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        best = min(best, time.perf_counter() - start)
    return best


def bounds(oracle):
    def one(w, x, y):
        f = jr.objectives.classification(lambda z: model(w, z[None])[0], y)
        return oracle.solve(None, f, jr.sets.linf(0.1, clip=(0, 1))(x)).info["elements"]

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))


def main():
    key = jax.random.key(0)
    w, x, y = weights(key), jax.random.uniform(key, (256, 28, 28, 1)), jnp.zeros(256, int)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; best of several runs")
    rows = [
        ("ibp", jr.bounds.ibp(), 256, 20),
        ("crown-ibp", jr.bounds.crown_ibp(), 256, 5),
        ("crown", jr.bounds.crown(), 4, 2),
    ]
    for name, oracle, n, repeats in rows:
        forward = seconds(jax.jit(model), w, x[:n], repeats=20)
        bound = seconds(bounds(oracle), w, x[:n], y[:n], repeats=repeats)
        print(
            f"{name:10} batch {n:4}: {bound:8.4f} s, {bound / n * 1e3:8.2f} ms an example, {bound / forward:8.2f} x forward"
        )


if __name__ == "__main__":
    main()
