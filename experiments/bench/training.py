"""Cost of robust training steps, as ratios over a natural step that are measured in one run.

    python -m experiments.bench.training [--batch 128] [--attack-steps 10] [--model cnn-small]

All are steps of one compiled scan, as in `jr.training.fit`, so that every convolution has the same form. The variants take turns and the
fastest round of each counts. Wanted: a PGD step with K attack steps over a natural step <= K + 1.3. About one minute on 2 CPU cores.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import optax

import jrobust as jr
from jrobust import _loops, models, nnx, training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cnn-small")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4, help="training steps in one compiled call")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    apply, params, rest = nnx.functional(models.create(args.model, shape=(28, 28, 1), classes=10))
    loss, threat = jr.objectives.cross_entropy(apply), jr.sets.linf(0.1, clip=(0, 1))
    pgd = jr.attacks.pgd(steps=args.attack_steps, keep="last")
    eps = training.smoothed(0.1, end=1000)
    losses = {
        "natural": loss,
        "pgd": jr.worst_case(loss, threat, pgd),
        "ibp": jr.worst_case(loss, threat, jr.bounds.ibp()),
        "certified": training.certified(loss, threat, jr.bounds.ibp(), eps=eps, kappa=0.5),
    }
    tx = optax.adam(1e-3)
    x = jax.random.uniform(jax.random.key(0), (args.batch, 28, 28, 1))
    y = jnp.arange(args.batch) % 10
    start = training.init(params, rest, tx)

    def compiled(kind: str):
        step = training.make_step(losses[kind], tx)

        def steps(state: training.TrainState) -> training.TrainState:
            def body(state, _):
                return step(state, (x, y), key=jax.random.fold_in(jax.random.key(1), state.step))[0], None

            return _loops.scan(body, state, None, length=args.steps)[0]

        return jax.jit(steps).lower(start).compile()

    programs = {kind: compiled(kind) for kind in losses}
    best = dict.fromkeys(losses, float("inf"))
    for _ in range(args.rounds + 1):  # the first round warms up
        for kind, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(start))
            best[kind] = min(best[kind], (time.perf_counter() - begin) / args.steps)
    record = {
        "model": args.model,
        "batch": args.batch,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "milliseconds": {kind: round(1e3 * seconds, 2) for kind, seconds in best.items()},
        "over_natural": {kind: round(seconds / best["natural"], 2) for kind, seconds in best.items()},
        "attack_steps": args.attack_steps,
        "pgd_wanted_at_most": args.attack_steps + 1.3,
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
