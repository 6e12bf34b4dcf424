"""Bounds over the bare forward pass, small CNN; an iteration of alpha-CROWN over a CROWN pass; branching over bare bounding. One run.

Command: python -m experiments.bench.bounds. Targets: IBP <= 2.5 forward passes; an alpha-CROWN iteration <= 3.5 CROWN passes; branch and
bound's domains a second >= 0.6 of the bare bound's at the same batch; rounding outward about 1.3 of the time; a ResNet-18 within 24 GiB.
CPU ratios; a machine that does nothing else.
"""

import resource
import time

import jax
import jax.numpy as jnp
from flax import nnx
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


def seconds(*fns, args, repeats):
    """The best of each, timed in turn, so that a machine that slows down slows all of them."""
    best = [float("inf")] * len(fns)
    for n in range(repeats + 1):
        for i, fn in enumerate(fns):
            start = time.perf_counter()
            jax.block_until_ready(fn(*args))
            best[i] = min(best[i], time.perf_counter() - start) if n else best[i]  # the first compiles
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
        ("crown", jr.bounds.crown(), 32, 2),
    ]
    for name, oracle, n, repeats in rows:
        (forward,) = seconds(jax.jit(model), args=(w, x[:n]), repeats=20)
        (bound,) = seconds(bounds(oracle), args=(w, x[:n], y[:n]), repeats=repeats)
        print(
            f"{name:10} batch {n:4}: {bound:8.4f} s, {bound / n * 1e3:8.2f} ms an example, {bound / forward:8.2f} x forward"
        )

    for oracle, n in ((jr.bounds.ibp(), 256), (jr.bounds.crown_ibp(), 64), (jr.bounds.crown(), 8)):
        plain, outward = (bounds(o) for o in (oracle, jr.bounds.outward(oracle)))
        times = seconds(plain, outward, args=(w, x[:n], y[:n]), repeats=8)
        lower, upper = (fn(w, x[:n], y[:n]) for fn in (plain, outward))
        slack = jnp.max(upper - lower, axis=1) / jnp.max(jnp.abs(lower), axis=1)
        print(
            f"outward({oracle.name}): {times[1] / times[0]:.2f} of its time, relative slack {jnp.max(slack):.1e} at most"
        )
    short, long = (jr.bounds.alpha_crown(steps=k, intermediates=jr.bounds.ibp()) for k in (1, 21))
    passes = seconds(*map(bounds, (jr.bounds.crown_ibp(), short, long)), args=(w, x[:64], y[:64]), repeats=3)
    print(
        f"alpha-crown iteration: {(passes[2] - passes[1]) / 20 / passes[0]:.2f} crown-ibp passes (64 examples x 9 rows)"
    )
    branching(key)
    residual(key)


def residual(key, batch=2):
    """A ResNet-18 for CIFAR-10, as large as it is published: its time and the peak of the whole process."""
    net = jr.models.create("preact-resnet-18", shape=(32, 32, 3), classes=10)
    net.eval()
    graph, weights = nnx.split(net)
    apply = jax.jit(lambda w, x: nnx.merge(graph, w)(x))
    x, y = jax.random.uniform(key, (batch, 32, 32, 3)), jnp.zeros(batch, int)
    (forward,) = seconds(apply, args=(weights, x), repeats=5)
    for oracle in (jr.bounds.ibp(), jr.bounds.crown_ibp()):

        def one(w, x, y, oracle=oracle):
            f = jr.objectives.classification(lambda z: nnx.merge(graph, w)(z[None])[0], y)
            return oracle.solve(None, f, jr.sets.linf(1e-6)(x)).info["elements"]

        fn = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
        (bound,) = seconds(fn, args=(weights, x, y), repeats=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"resnet-18, {oracle.name}, batch {batch}: {bound:.2f} s, {bound / forward:.0f} x forward, "
            f"largest {jnp.max(fn(weights, x, y)):.3g}, peak of the process {peak:.2f} GiB"
        )


def branching(key):
    """A net of the size of ACAS Xu's, a property that holds nowhere near the root: branching against its bound alone."""
    sizes = [5, *[50] * 6, 5]
    pairs = list(zip(jax.random.split(key, len(sizes)), sizes, sizes[1:]))
    ws = [jax.random.normal(k, (a, b)) * (2 / a) ** 0.5 for k, a, b in pairs]

    def net(z):
        for w in ws[:-1]:
            z = jax.nn.relu(z @ w)
        return z @ ws[-1]

    f = jr.objectives.objective(lambda z: net(z)[:4] - net(z)[4] - 3.0)
    s, batch = jr.sets.linf(0.5)(jnp.zeros(5)), 512
    options = {"batch": batch, "order": "depth", "target": None}
    jr.bounds.branch(f, s, nodes=1, **options)
    start = time.perf_counter()
    found = jr.bounds.branch(f, s, nodes=20 * batch, **options)
    rate = found.nodes / (time.perf_counter() - start)
    widths = jnp.linspace(0.05, 0.2, batch)  # as deep as the search is by then
    bare = jax.jit(jax.vmap(lambda r: jr.bounds.crown().solve(None, f, jr.sets.linf(r)(jnp.zeros(5))).value))
    alone = batch / seconds(bare, args=(widths,), repeats=5)[0]
    print(f"branch, input, batch {batch}: {rate:.0f} domains/s, {rate / alone:.2f} of bare crown's {alone:.0f}")


if __name__ == "__main__":
    main()
