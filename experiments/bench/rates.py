"""What one device does in a second: PGD steps, bounds and smoothing draws, for the plan in docs/scaling.md.

Command:  python -m experiments.bench.rates
Hardware: any one device; on 2 CPU cores about three minutes beside others, compilation (not counted) included.
Expected: on 2 CPU cores the table of docs/scaling.md; its figures were had while other programs ran.
The nets are random; every example is given to every method (nothing stops early), so the figures are those of the dearest case.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import jrobust as jr

STEPS, DRAWS = 20, 1000
NETS = {"mlp": ((28, 28, 1), 2048), "cnn-small": ((28, 28, 1), 256)}


def seconds(run) -> float:
    """The faster of two, after one to compile."""
    run()
    times = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """The table."""
    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, jax {jax.__version__}")
    print("| net | images | PGD steps / s | CROWN-IBP examples / s | smoothing draws / s |\n|---|---|---|---|---|")
    key = jax.random.key(0)
    for name, (shape, n) in NETS.items():
        model = jr.models.create(name, shape=shape, classes=10, seed=0)
        model.eval()
        x = np.float32(np.random.default_rng(0).uniform(size=(n, *shape)))
        y = np.asarray(jnp.argmax(model(x), 1))

        def ask(oracle, model=model, x=x, y=y):
            threat = jr.sets.linf(1e-4, clip=(0, 1))
            return jr.evaluate(
                model, x, y, threat=threat, oracles={"a": oracle}, key=key, batch_size=256, keep_witnesses=False
            )

        def smooth(model=model, x=x):
            jr.smoothing.certify(
                model, x[:16], noise=jr.smoothing.gaussian(0.25), n0=10, n=DRAWS, key=key, batch_size=1000
            )

        pgd = n * STEPS / seconds(lambda ask=ask: ask(jr.attacks.pgd(steps=STEPS)))
        bound = n / seconds(lambda ask=ask: ask(jr.bounds.crown_ibp()))
        draws = 16 * (DRAWS + 10) / seconds(smooth)
        print(f"| {name} | {n} | {pgd:,.0f} | {bound:,.0f} | {draws:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
