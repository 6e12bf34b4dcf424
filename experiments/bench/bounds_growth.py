"""How the cost of bounds grows with depth, width and the number of specifications: compiled seconds over the bare forward pass. One run.

Command: python -m experiments.bench.bounds_growth [--out docs/bounds_growth.svg]. Each point is the best of a few calls of a batch of 16
examples; net and bound are timed alternately, so that a loaded machine slows both. CPU ratios in one run, no targets.
"""

import argparse
import pathlib
import time

import jax

import jrobust as jr

BATCH, INPUTS = 16, 64
METHODS = {"ibp": jr.bounds.ibp(), "crown-ibp": jr.bounds.crown_ibp(), "crown": jr.bounds.crown()}
# depth in layers of neurons, their width, specifications
BASE = {"depth": 4, "width": 64, "specifications": 16}
GROWTH = {"depth": (2, 4, 6, 8), "width": (32, 64, 128, 256), "specifications": (1, 4, 16, 64)}


def weights(key, depth, width, specifications):
    sizes = [INPUTS, *[width] * depth, specifications]
    pairs = zip(jax.random.split(key, len(sizes) - 1), sizes, sizes[1:])
    return [jax.random.normal(k, (a, b)) * (2 / a) ** 0.5 for k, a, b in pairs]


def net(ws, z):
    for w in ws[:-1]:
        z = jax.nn.relu(z @ w)
    return z @ ws[-1]


def bounded(method):
    """Upper bounds of every output over a box, each output one specification."""

    def one(ws, z):
        f = jr.objectives.objective(lambda v: net(ws, v))
        return method.solve(None, f, jr.sets.linf(0.02)(z)).info["elements"]

    return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def call(fn, *args, many=1):
    start = time.perf_counter()
    for _ in range(many):
        out = fn(*args)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / many


def ratios(key, repeats, **size):
    """Seconds of the forward pass and, over it, of each method."""
    ws, x = weights(key, **size), jax.random.normal(key, (BATCH, INPUTS))
    fns = {"forward": jax.jit(net), **{name: bounded(method) for name, method in METHODS.items()}}
    best = {name: float("inf") for name in fns}
    for fn in fns.values():
        jax.block_until_ready(fn(ws, x))
    for _ in range(repeats):
        for name, fn in fns.items():
            for _ in range(20 if name == "forward" else 1):  # microseconds: a few would be noise
                best[name] = min(best[name], call(fn, ws, x, many=20 if name == "forward" else 1))
    return best["forward"], {name: best[name] / best["forward"] for name in METHODS}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/bounds_growth.svg"))
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    key = jax.random.key(0)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; batch {BATCH}, best of {args.repeats}; x forward")
    found, seen = {}, {}
    for axis, sizes in GROWTH.items():
        for n in sizes:
            size = BASE | {axis: n}
            point = tuple(size.values())
            seen[point] = seen.get(point) or ratios(key, args.repeats, **size)
            forward, row = found[axis, n] = seen[point]
            shares = "  ".join(f"{name} {r:8.1f}" for name, r in row.items())
            print(f"{axis:14} {n:4}: forward {forward * 1e6:7.1f} us  {shares}", flush=True)
    draw(found, args.out)


def draw(found, out):
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "jrobust"
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True)
    for ax, (axis, sizes) in zip(axes, GROWTH.items()):
        for name in METHODS:
            ax.plot(sizes, [found[axis, n][1][name] for n in sizes], marker="o", markersize=3, label=name)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
        rest = ", ".join(f"{k} {v}" for k, v in BASE.items() if k != axis)
        ax.set_xlabel({"depth": "hidden layers", "width": "neurons a layer"}.get(axis, axis))
        ax.set_title(rest, fontsize=8)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("seconds / forward pass")
    axes[0].legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(out, metadata={"Date": None})
    print(f"{out}, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
