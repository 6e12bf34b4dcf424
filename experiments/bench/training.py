"""Cost of robust training steps, as ratios over a natural step that are measured in one run.

    python -m experiments.bench.training [--batch 128] [--attack-steps 10] [--model cnn-small]

All are steps of one compiled scan, as in `jr.training.fit`, so that every convolution has the same form. The variants take turns and the
fastest round of each counts. Wanted, over a natural step: PGD-K <= K + 1.2, TRADES-K <= K + 2.5, Free <= 1.1 an update, FGSM-RS <= 2.3,
GradAlign <= 4.5, AWP + 1.1, IBP <= 3, CROWN-IBP <= 8, fused <= 4.5,
regularisers and distillation as the study counts their passes, and a tenth (teachers that cost nothing). A few minutes on 2 CPU cores.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import optax

import jrobust as jr
from jrobust import _loops, models, nnx, training
from jrobust.cli._methods import step_and_memory
from jrobust.cli._setting import Setting

BOUNDS = {  # alone; their commands add the clean loss
    "ibp bound": lambda loss, threat: jr.worst_case(loss, threat, jr.bounds.ibp()),
    "crown-ibp bound": lambda loss, threat: jr.worst_case(loss, threat, jr.bounds.crown_ibp()),
    "crown-ibp bound, fused": lambda loss, threat: training.fused(loss, threat).build(0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cnn-small")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--replays", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="training steps in one compiled call")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()

    apply, params, rest = nnx.functional(models.create(args.model, shape=(28, 28, 1), classes=10))
    loss, threat = jr.objectives.cross_entropy(apply), jr.sets.linf(0.1, clip=(0, 1))
    k = args.attack_steps
    ramp = training.smoothed(0.1, end=1000)
    uniform = lambda x: jnp.zeros((len(x), 10))  # noqa: E731, what a teacher's own pass costs is the teacher's
    setting = Setting(
        loss=loss,
        eps=0.1,
        ramp=ramp,
        kappa=lambda t: 0.5,
        steps=k,
        replays=args.replays,
        classes=10,
        epoch=100,
        batch=(args.batch, 28, 28, 1),
        standard=uniform,
        teacher=uniform,
        examples=args.batch,
    )
    wanted = {
        "pgd": k + 1.2,
        "fgsm-rs": 2.3,
        "n-fgsm": 2.3,
        "free": 1.1 * args.replays,
        "gradalign": 4.5,
        "trades": k + 2.5,
        "mart": k + 2.5,
        "pgd-awp": k + 2.3,
        "gkl": k + 2.5,
        "score": k + 2.5,
        "gradient-penalty": 2.3,
        "jacobian-penalty": 2.3,
        "cure": 5.5,
        "llr": 7.5,
        "ard": k + 2.5,
        "rslad": k + 2.5,
        "iad-ii": k + 2.5,
        "b-mtard": k + 2.5,
    }
    tx = optax.adam(1e-3)
    x = jax.random.uniform(jax.random.key(0), (args.batch, 28, 28, 1))
    y = jnp.arange(args.batch) % 10

    def made(kind: str):
        if kind in BOUNDS:
            return training.make_step(BOUNDS[kind](loss, threat), tx), None
        return step_and_memory(kind, setting, tx)

    def compiled(kind: str):
        step, memory = made(kind)
        start = training.init(params, rest, tx, memory=memory)

        def steps(state: training.TrainState) -> training.TrainState:
            def body(state, _):
                return step(state, (x, y), key=jax.random.fold_in(jax.random.key(1), state.step))[0], None

            return _loops.scan(body, state, None, length=args.steps)[0]

        return jax.jit(steps).lower(start).compile(), start

    programs = {kind: compiled(kind) for kind in ("natural", *wanted, *BOUNDS)}
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(args.rounds + 1):  # the first round warms up
        for kind, (program, start) in programs.items():
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
        "attack_steps": k,
        "replays": args.replays,
        "wanted_at_most": wanted | {"ibp bound": 3.0, "crown-ibp bound": 8.0, "crown-ibp bound, fused": 4.5},
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
