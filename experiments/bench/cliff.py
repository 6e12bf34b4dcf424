"""How loops with convolutions run on CPU: `jrobust._loops.scan` against single jitted steps and against `lax.scan`.

Command: python experiments/bench/cliff.py [--cpu-time] [--no-contrast]
Hardware: 2-core x86 machine, idle; about two minutes. Target: _loops <= 1.25 x native single steps and <= 1.1 x steps of its own form.
Measured, _loops / native single steps (forward, input gradient, weight gradient): jax 0.10.2 small 0.50, 0.45, 0.97, mid 0.85,
0.82, 0.66; before strides were split off, jax 0.12.0.1 small 0.79, 0.62, 0.84, mid 1.28-1.40 (misses: native forwards became faster
there), 1.23-1.42, 1.0. _loops / single steps of the same form: 0.65 to 1.11.
lax.scan / native on jax 0.10.2: small 1.0, 2.5, 8.4; mid 0.9, 1.8, 26.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jrobust import _loops


def conv(x, w, stride, padding):
    return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


# name: input shape, batch, steps, convolutions (kernel, channels, stride, padding), width of the dense layer
NETS = {
    "small": ((28, 28, 1), 256, 4, [(4, 16, 2, "SAME"), (4, 32, 2, "SAME")], 100),
    "mid": ((32, 32, 3), 64, 3, [(3, 32, 1, "SAME"), (3, 64, 2, "SAME"), (3, 64, 1, "SAME"), (3, 128, 2, "SAME")], 100),
}


def build(name):
    shape, batch, steps, layers, width = NETS[name]
    r = np.random.default_rng(0)
    kernels, side, channels = [], shape[0], shape[-1]
    for k, out, stride, _ in layers:
        kernels.append(jnp.asarray(r.normal(size=(k, k, channels, out)) / np.sqrt(k * k * channels / 2), jnp.float32))
        side, channels = -(-side // stride), out
    flat = side * side * channels
    dense = [jnp.asarray(r.normal(size=s) / np.sqrt(s[0] / 2), jnp.float32) for s in ((flat, width), (width, 10))]
    x = jnp.asarray(r.uniform(size=(batch, *shape)), jnp.float32)
    y = jnp.asarray(r.integers(0, 10, batch))

    def apply(params, x):
        for w, (_, _, stride, padding) in zip(params[0], layers, strict=True):
            x = jax.nn.relu(conv(x, w, stride, padding))
        x = jax.nn.relu(x.reshape(x.shape[0], -1) @ params[1][0])
        return x @ params[1][1]

    def loss(params, x):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(apply(params, x)), y[:, None], 1))

    # a step maps a state (params, x) to the next; each depends on the one before, so no step can be hoisted
    def forward(state):
        params, x = state
        return params, x + 1e-6 * jnp.mean(apply(params, x))

    def ascend(state):
        params, x = state
        return params, jnp.clip(x + 0.01 * jnp.sign(jax.grad(loss, 1)(params, x)), 0, 1)

    def train(state):
        params, x = state
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, jax.grad(loss)(params, x)), x

    return ((kernels, dense), x), steps, {"forward": forward, "input gradient": ascend, "weight gradient": train}


def measure(programs, repeats, clock):
    """Median seconds of each program, their runs interleaved."""
    for run in programs.values():
        jax.block_until_ready(run())
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            start = clock()
            jax.block_until_ready(run())
            times[name].append(clock() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def python_loop(step, state, steps):
    for _ in range(steps):
        state = step(state)
    return state


def loop(scan, step, steps, state):
    return scan(lambda s, _: (step(s), None), state, None, length=steps)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-contrast", action="store_true", help="leave out lax.scan with native convolutions")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of all threads: for a machine that others load"
    )
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    print(f"jax {jax.__version__}, {jax.default_backend()}; medians of {args.repeats}; seconds per step, then ratios")
    print(
        f"{'net':6} {'form':16} {'native':>9} {'as dots':>9} {'_loops':>9} | _loops/dots  _loops/native  lax.scan/native"
    )
    for net in NETS:
        state, steps, forms = build(net)
        for form, step in forms.items():
            native, dots = jax.jit(step), jax.jit(_loops.rewrite(step))
            programs = {
                "native": partial(python_loop, native, state, steps),
                "dots": partial(python_loop, dots, state, steps),
                "loops": partial(jax.jit(partial(loop, _loops.scan, step, steps)), state),
            }
            if not args.no_contrast:
                programs["lax"] = partial(jax.jit(partial(loop, lax.scan, step, steps)), state)
            t = {name: s / steps for name, s in measure(programs, args.repeats, clock).items()}
            contrast = f"{t['lax'] / t['native']:10.2f}" if "lax" in t else ""
            print(
                f"{net:6} {form:16} {t['native']:9.4f} {t['dots']:9.4f} {t['loops']:9.4f} |"
                f" {t['loops'] / t['dots']:10.2f} {t['loops'] / t['native']:13.2f} {contrast}",
                flush=True,
            )


if __name__ == "__main__":
    main()
