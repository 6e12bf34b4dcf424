"""Every training method at one budget, judged by AutoAttack and by bounds: the table of experiments/README.md.

Command:  python -m experiments.training_study [--dataset digits] [--seeds 3] [--only METHOD ...]; --table alone prints the tables. Runs
          that are on record are not run again.
Budget:   stated before any run: as many gradient passes over the training data as PGD-AT takes for ``--epochs`` epochs (K + 1 an epoch
          with K attack steps), whatever the method; one run a seed, its last state, nothing tuned on what is reported. All have the
          same net, Adam (rate 1e-3, a fifth after 70 %, again after 85 %), batches of 128, and no augmentation.
Judged:   the whole test split, or its first ``--examples``: clean, PGD-20 (cross-entropy), AutoAttack (standard), and for certified methods
          CROWN-IBP; no method by the attack it trained with alone.
Hardware: 2 CPU cores; about an hour for three seeds of all methods on digits, some hours on MNIST.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import tyro

import jrobust as jr
from jrobust import data, training
from jrobust.cli._methods import APART, CERTIFIED, METHODS, NEEDS, SMOOTHED
from jrobust.cli._presets import PRESETS
from jrobust.cli._train import Train

STUDIED = tuple(m for m in METHODS if m not in (*SMOOTHED, *APART))  # those under noise: smoothing_study.py
RECORDS = Path(__file__).parent / "records"
ATTACK_STEPS, REPLAYS = 10, 8
TEACHERS = {"standard": "natural", "teacher": "pgd"}  # trained at their own budget, which is not counted
# forward and backward passes of one epoch, as the papers count them; a gradient that is differentiated again is two
PASSES = {
    "natural": 1,
    "pgd": ATTACK_STEPS + 1,
    "fgsm-rs": 2,
    "n-fgsm": 2,
    "free": REPLAYS,
    "yopo": 5,  # those through the first layer alone are free
    "gradalign": 4,
    "trades": ATTACK_STEPS + 2,
    "mart": ATTACK_STEPS + 2,
    "pgd-awp": ATTACK_STEPS + 2,
    "trades-awp": ATTACK_STEPS + 4,
    "hat": ATTACK_STEPS + 3,
    "gkl": ATTACK_STEPS + 2,
    "lbgat": ATTACK_STEPS + 2,
    "lbgat-6": ATTACK_STEPS + 3,
    "score": ATTACK_STEPS + 2,
    "alp": ATTACK_STEPS + 2,
    "feature-scattering": 3,
    "bilateral": 3,
    "fat": ATTACK_STEPS + 1,
    "fat-trades": ATTACK_STEPS + 2,
    "iaat": 3 * ATTACK_STEPS + 3,
    "las-at": 14 + 3,  # the longest attack, the net's own pass, the strategy's; every 20th batch 39 more
    "cfa": ATTACK_STEPS + 1,
    "cfa-trades": ATTACK_STEPS + 2,
    "dkl": ATTACK_STEPS + 2,
    "gradient-penalty": 2,
    "jacobian-penalty": 2,
    "cure": 5,
    "llr": 2 + 5,
    "pgd-gor": ATTACK_STEPS + 1,
    "pgd-so": ATTACK_STEPS + 1,
    "pgd-ls": ATTACK_STEPS + 1,
    "trades-mixup": ATTACK_STEPS + 2,
    "trades-cutmix": ATTACK_STEPS + 2,
    "union-max": 3 * ATTACK_STEPS + 2,
    "union-mean": 3 * ATTACK_STEPS + 3,
    "gat": 4 * ATTACK_STEPS + 1,  # four changes of grey images
    "gat-trades": 4 * ATTACK_STEPS + 2,
    "ensemble": 3,
    "fare": ATTACK_STEPS + 2,  # the first net's forward pass counts as one here too
    "lore": ATTACK_STEPS + 5 * 2 + 2,  # five descents, each by two passes
    "ard": ATTACK_STEPS + 3,  # here and below the teachers' forward passes count as one
    "rslad": ATTACK_STEPS + 3,
    "iad-i": ATTACK_STEPS + 3,
    "iad-ii": ATTACK_STEPS + 3,
    "b-mtard": ATTACK_STEPS + 3,
    "defensive-distillation": 2,  # one of the teacher, one of the student
    "ibp": 3,
    "ibp-shi": 3,
    "crown-ibp": 8,
    "crown-ibp-fused": 4,
    "sabr": ATTACK_STEPS + 3,
    "taps": 8 + 3,
    "staps": 8 + ATTACK_STEPS + 3,
    "mtl-ibp": ATTACK_STEPS + 4,
    "cc-ibp": ATTACK_STEPS + 4,
    "exp-ibp": ATTACK_STEPS + 4,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      dataset, model, eps: the setting.
      epochs: of PGD-AT; what it costs is everyone's budget.
      seeds: runs a method.
      only: these methods alone.
      examples: of the test split that are judged, None for all.
      data_dir: prepared tfds data sets.
      folder: where the trained models go; by default they are thrown away.
      table: print the table of the records that are there, and run nothing.
    """

    dataset: str = "digits"
    model: str = "cnn-small"
    eps: float = 0.1
    epochs: int = 20
    seeds: int = 3
    only: tuple[str, ...] = ()
    examples: int | None = None
    data_dir: str | None = None
    folder: str | None = None
    table: bool = False


def epochs_of(method: str, epochs: int) -> int:
    """Epochs that cost what ``epochs`` of PGD-AT do."""
    return round(epochs * PASSES["pgd"] / PASSES[method])


def judged(config: Config, method: str, run: Path) -> dict[str, float]:
    """Clean, attacked and certified accuracy on the whole test split."""
    test = data.load(config.dataset, split="test", data_dir=config.data_dir)
    oracles = {"pgd20": jr.attacks.pgd(steps=20), "autoattack": jr.attacks.autoattack()}
    if method in CERTIFIED:
        oracles["crown_ibp"] = jr.bounds.crown_ibp()
    report = jr.evaluate(
        training.load(run),
        test.test_x[: config.examples],
        test.test_y[: config.examples],
        threat=jr.sets.linf(config.eps, clip=(0, 1)),
        oracles=oracles,
        key=jax.random.key(1),
        batch_size=256,
    )
    return {
        "test_n": len(report["clean"].holds),
        **{name: float(report[name].holds.mean()) for name in ("clean", *oracles)},
    }


def trained(config: Config, method: str, seed: int, folder: Path, **options: Any) -> tuple[Train, float]:
    """A finished run, and the seconds of its own training: new ones if it is not there, with the models that it is taught by before."""
    name = f"{method}-{seed}"
    if method == "defensive-distillation":
        if "teacher" in options:
            name += "-teacher"
        else:
            options["teacher"] = trained(config, method, seed, folder, teacher=None)[0].out
    for role in NEEDS.get(method, ()):
        options[role] = trained(config, TEACHERS[role], seed, folder)[0].out
    out = folder / name
    train = Train(
        dataset=config.dataset,
        model=config.model,
        method=method,
        eps=config.eps,
        epochs=epochs_of(method, config.epochs),
        seed=seed,
        out=str(out),
        data_dir=config.data_dir,
        attack_steps=ATTACK_STEPS,
        replays=REPLAYS,
        quiet=True,
        resume=(out / "config.json").exists(),
        **options,
    )
    begin = time.monotonic()
    train.run()
    return train, time.monotonic() - begin


def one(config: Config, method: str, seed: int, folder: Path) -> dict[str, object]:
    """Train and judge one method with one seed."""
    train, seconds = trained(config, method, seed, folder)
    setting: dict[str, object] = {
        "dataset": config.dataset,
        "model": config.model,
        "eps": config.eps,
        "method": method,
        "seed": seed,
    }
    budget = {"epochs": train.epochs, "passes_an_epoch": PASSES[method], "seconds_with_compilation": round(seconds, 1)}
    return setting | budget | judged(config, method, folder / f"{method}-{seed}")


def table(records: list[dict[str, object]]) -> str:
    """Mean and spread over the seeds, in per cent."""
    lines = [
        "| method | passes an epoch | epochs | clean | PGD-20 | AutoAttack | CROWN-IBP | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(r["method"] for r in records):
        runs = [r for r in records if r["method"] == method]

        def cell(name: str, runs: list[dict[str, object]] = runs) -> str:
            values = [100 * float(r[name]) for r in runs if name in r]  # pyright: ignore[reportArgumentType]
            if not values:
                return ""
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            return f"{statistics.mean(values):.1f}{spread}"

        numbers = " | ".join(cell(name) for name in ("clean", "pgd20", "autoattack", "crown_ibp"))
        lines.append(f"| {method} | {runs[0]['passes_an_epoch']} | {runs[0]['epochs']} | {numbers} | {len(runs)} |")
    return "\n".join(lines)


def figures(records: list[dict[str, object]]) -> str:
    """For every method what it costs, what is published of its preset, and what it came to here."""
    lines = [
        "| method | passes | preset | published: clean / robust, by whom | here (digits): clean / AutoAttack (CROWN-IBP) |",
        "|---|---|---|---|---|",
    ]
    for method in STUDIED:
        presets = {name: p.published for name, p in PRESETS.items() if p.train.method == method}
        published = [
            f"{name}: {p.clean} / {p.robust} ({p.by}; {p.source}{f'; there with {p.differs}' if p.differs else ''})"
            for name, p in presets.items()
            if p is not None
        ]
        runs = [r for r in records if r["method"] == method]

        def mean(name: str, runs: list[dict[str, object]] = runs) -> str:
            return f"{100 * statistics.mean(float(r[name]) for r in runs):.1f}"  # pyright: ignore[reportArgumentType]

        proven = f" ({mean('crown_ibp')})" if "crown_ibp" in runs[0] else ""
        ours = f"{mean('clean')} / {mean('autoattack')}{proven}"
        lines.append(f"| {method} | {PASSES[method]} | {', '.join(presets)} | {'; '.join(published)} | {ours} |")
    return "\n".join(lines)


def identity(r: dict[str, object]) -> tuple[object, ...]:
    """What tells one run from another."""
    return tuple(r[name] for name in ("dataset", "model", "eps", "method", "seed"))


def read(path: Path) -> list[dict[str, object]]:
    """The records that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(config: Config) -> None:
    """Train, judge, record, and print the tables."""
    path = RECORDS / f"training_{config.dataset}.jsonl"
    records = read(path)
    if not config.table:
        there, place = set(map(identity, records)), {name: i for i, name in enumerate(METHODS)}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(config.folder or temporary)
            for seed in range(config.seeds):
                for method in config.only or STUDIED:
                    if (config.dataset, config.model, config.eps, method, seed) in there:
                        continue
                    records.append(
                        one(config, method, seed, folder) | {"version": jr.__version__, "jax": jax.__version__}
                    )
                    print(json.dumps(records[-1]), flush=True)
                    records.sort(key=lambda r: (r["eps"], place[r["method"]], r["seed"]))  # pyright: ignore
                    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    for eps in dict.fromkeys(r["eps"] for r in records):
        if config.dataset == "digits":
            print(f"\nfor docs/training.md\n\n{figures(records)}")
        print(f"\n{config.dataset}, eps {eps}\n\n{table([r for r in records if r['eps'] == eps])}")


if __name__ == "__main__":
    main(tyro.cli(Config))
