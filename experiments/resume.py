"""An evaluation killed at random is the evaluation: 10,000 MNIST images, a short cascade, kill -9 three times.

Command:  python -m experiments.resume --out DIR [--data-dir DIR]
          MNIST through tfds, from --data-dir or $TFDS_DATA_DIR. An MLP is trained first (one epoch of PGD training).
Hardware: 2 CPU cores. Wall time: about four minutes.
Expected: the per-example table of the killed and resumed run equals that of an uninterrupted one, line by line.
"""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import tyro

import jrobust as jr

EPS = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      out: a folder for the model and the two tables.
      data_dir: prepared tfds data sets; empty: $TFDS_DATA_DIR.
      kills: how often the second run is killed.
      n: test images.
      seed: of the moments of the kills.
      evaluate: internal, the folder that a child process fills.
    """

    out: Path
    data_dir: str = ""
    kills: int = 3
    n: int = 10_000
    seed: int = 0
    evaluate: str = ""


def cascade():
    """A short AutoAttack: the first three stages, few steps."""
    apgd, fab = jr.attacks.apgd, jr.attacks.fab
    return jr.cascade(
        jr.attacks.pgd(steps=10, early_stop=True),
        apgd(steps=20),
        apgd(steps=20, surrogate=jr.objectives.dlr, rank=1),
        jr.attacks.within(fab(steps=20, rank=1)),
    )


def child(config):
    model = jr.training.load(config.out / "model")
    data = jr.data.load("mnist", split="test", **({"data_dir": config.data_dir} if config.data_dir else {}))
    jr.evaluate(
        model, data.test_x[: config.n], data.test_y[: config.n], threat=jr.sets.linf(EPS, clip=(0, 1)),
        oracles={"cascade": cascade()}, key=jax.random.key(0), batch_size=256, out=config.evaluate,
    )  # fmt: skip


def table(folder):
    lines = (folder / "evaluation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["i"]: row for row in rows if "i" in row}


def main(config: Config) -> None:
    """Train, evaluate once undisturbed and once with kills, compare."""
    if config.evaluate:
        return child(config)
    data = ["--data-dir", config.data_dir] if config.data_dir else []
    if not (config.out / "model").exists():
        train = ["train", "--dataset", "mnist", "--model", "mlp", "--method", "pgd", "--eps", "0.1", "--epochs", "1"]
        command = [sys.executable, "-c", "from jrobust.cli import main; main()", *train, "--quiet", *data]
        subprocess.run([*command, "--out", str(config.out / "model")], check=True)

    def start(name):
        command = ["-m", "experiments.resume", "--out", str(config.out), "--n", str(config.n), *data]
        return subprocess.Popen([sys.executable, *command, "--evaluate", str(config.out / name)])

    def done(name):
        place = config.out / name / "evaluation.jsonl"
        return len(table(config.out / name)) if place.exists() else 0

    begun = time.perf_counter()
    assert start("whole").wait() == 0
    whole = time.perf_counter() - begun
    rng = random.Random(config.seed)
    for kill in range(config.kills):
        before, process = done("killed"), start("killed")
        while process.poll() is None and done("killed") <= before:
            time.sleep(0.1)
        time.sleep(rng.uniform(0, whole / (2 * config.kills)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"kill {kill + 1}: {before} examples before, {done('killed')} after")
    assert start("killed").wait() == 0
    one, other = table(config.out / "whole"), table(config.out / "killed")
    assert len(one) == len(other) == config.n
    different = [i for i in one if one[i]["clean"] != other[i]["clean"] or one[i]["cascade"] != other[i]["cascade"]]
    holds = sum(row["cascade"]["holds"] for row in one.values()) / config.n
    clean = sum(row["clean"]["holds"] for row in one.values()) / config.n
    print(f"n = {config.n}: clean {clean:.4f}, robust at {EPS} at most {holds:.4f}; whole run {whole:.0f} s")
    print(f"{len(different)} lines differ")
    assert not different, different[:10]


if __name__ == "__main__":
    main(tyro.cli(Config))
