"""What the driver costs and what compaction saves: PGD-40 through ``jr.evaluate`` over the same attack as one bare vmapped loop.

Command:  python -m experiments.bench.evaluate
Hardware: 2 CPU cores. Wall time: about three minutes, compilation included.
Expected: evaluate / bare <= 1.05 (it adds checks, a clean pass and one pass at the witnesses); with early stop evaluate is
          faster than the bare loop by about the share of steps that broken examples no longer take.
The nets are random and labelled by themselves; eps is set so that about half of the examples hold.
"""

import jax
import numpy as np

import jrobust as jr
from experiments.bench.pgd import NETS, STEPS, attack, interleaved

N, BATCH = 2048, 256
EPS = {"dense 784-1024-1024-10": 0.008, "small CNN": 0.015}


def main():
    x = np.float32(np.random.default_rng(1).uniform(size=(N, 28, 28, 1)))
    key = jax.random.key(0)
    for name, (net, params) in NETS.items():
        model = jax.tree_util.Partial(net, params)
        eps = EPS[name]
        y = np.int32(np.asarray(model(x)).argmax(1))
        threat = jr.sets.linf(eps, clip=(0.0, 1.0))
        full, stop = (jr.attacks.pgd(steps=STEPS, step=eps / 10, early_stop=early) for early in (False, True))

        def bare(oracle, net=net, params=params, threat=threat, y=y):
            for start in range(0, N, BATCH):
                rows = slice(start, start + BATCH)
                jax.block_until_ready(attack(net, oracle, params, threat, x[rows], y[rows], key))

        def driver(oracle, model=model, threat=threat, y=y):
            return jr.evaluate(model, x, y, threat=threat, oracles={"pgd": oracle}, key=key, batch_size=BATCH)

        runs = {
            "bare vmapped loop": lambda bare=bare, o=full: bare(o),
            "evaluate": lambda driver=driver, o=full: driver(o),
            "bare, early stop": lambda bare=bare, o=stop: bare(o),
            "evaluate, early stop": lambda driver=driver, o=stop: driver(o),
        }
        seconds = interleaved(runs)
        result = driver(stop)["pgd"]
        print(f"{name}: PGD-{STEPS}, {N} examples in batches of {BATCH}, eps {eps}, holding {result.accuracy()}")
        for label, t in seconds.items():
            print(f"  {label:22s} {t:7.3f} s   {t / seconds['bare vmapped loop']:5.2f} of the bare loop")
        passes = result.info["forwards"].sum() / (N * (STEPS + 1))
        print(f"  passes with early stop {passes:.2f} of all")


if __name__ == "__main__":
    main()
