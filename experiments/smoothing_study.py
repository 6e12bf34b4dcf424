"""Training for randomized smoothing at one budget, judged by certified radii: tables of experiments/README.md, docs/smoothing_study_*.svg.

Command:  python -m experiments.smoothing_study [--dataset digits] [--sigmas 0.5 0.25 1] [--only METHOD ...] [--seeds 1]; with
          --interference the noise of training is swept against one certified level; --table alone prints the tables and draws. Runs on
          record are not run again.
Budget:   ``PASSES`` forward and backward passes over the training images (noisy copies and attack steps count),
          12 for MNIST and CIFAR-10, 240 for digits, whatever the method; one run a seed, its last state, nothing tuned on what is
          reported. All have the same net, Adam (rate 1e-3, a fifth after 70 %, again after 85 %), batches of 128, no augmentation, and
          the published weights; copies and steps are fewer than published where the budget is small (``HOW``): 4 copies for MACER
          (published 16), 1 for SmoothMix (2). SmoothAdv's radius is sigma.
Judged:   the first ``--examples`` of the test split: n0 = 100, n = 10,000, alpha = 0.001, at the sigma of training; natural training at
          each level.
Hardware: 2 CPU cores. Certifying 500 images of MNIST takes 80 s where they are idle, several minutes where others work there too.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jrobust as jr
from experiments.training_study import RECORDS, read
from jrobust import data, training
from jrobust.cli._methods import APART, SMOOTHED
from jrobust.cli._train import Train

DOCS = Path(__file__).parents[1] / "docs"
PASSES = {"digits": 240, "mnist": 12, "cifar10": 12}
SIGMAS = (0.25, 0.5, 1.0)
RADII = tuple(0.25 * i for i in range(13))
SHOWN = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of training, for --interference
METHODS = ("natural", *(m for m in SMOOTHED if m not in APART))
# forward and backward passes of one epoch: copies of each image, times one and the steps of the attack
COST = {
    "natural": 1,
    "noisy": 1,
    "stability": 2,
    "smooth-adv": 2 * (2 + 1),
    "macer": 4,
    "consistency": 2,
    "smooth-mix": 4 + 2,
}
HOW: dict[str, dict[str, Any]] = {
    "smooth-adv": {"samples": 2, "attack_steps": 2},
    "macer": {"samples": 4},
    "smooth-mix": {"samples": 1, "attack_steps": 4},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      dataset, model: the setting.
      sigmas: levels of noise, trained and certified.
      seeds: runs a method.
      only: these methods alone.
      examples, n: images of the test split that are certified, and draws for each.
      data_dir: prepared tfds data sets.
      folder: where the trained models go; by default they are thrown away.
      interference: sweep the noise of training, ``LEVELS``, against certification at sigma 0.5.
      table: print the tables of the records that are there, draw the figure, and run nothing.
    """

    dataset: str = "digits"
    model: str = "cnn-small"
    sigmas: tuple[float, ...] = SIGMAS
    seeds: int = 1
    only: tuple[str, ...] = ()
    examples: int = 500
    n: int = 10_000
    data_dir: str | None = None
    folder: str | None = None
    interference: bool = False
    table: bool = False


def epochs_of(method: str, dataset: str) -> int:
    """Epochs that the budget pays for."""
    return max(1, round(PASSES[dataset] / COST[method]))


def trained(config: Config, method: str, level: float, seed: int, folder: Path) -> tuple[Path, float]:
    """The run of a method at a level of noise, and the seconds that it took (0 where it was there)."""
    out = folder / f"{config.dataset}-{method}-{level:g}-{seed}"
    noise = {"sigma": level, "eps": level} if method != "natural" else {}
    train = Train(
        dataset=config.dataset,
        model=config.model,
        method=method,
        epochs=epochs_of(method, config.dataset),
        seed=seed,
        out=str(out),
        data_dir=config.data_dir,
        quiet=True,
        resume=(out / "config.json").exists(),
        **(noise | HOW.get(method, {})),
    )
    if (out / "done").exists():
        return out, float((out / "done").read_text())
    begin = time.monotonic()
    train.run()
    seconds = round(time.monotonic() - begin, 1)
    (out / "done").write_text(str(seconds))
    return out, seconds


def judged(config: Config, run: Path, sigma: float) -> dict[str, object]:
    """Clean accuracy of the net itself, and what is certified of the smoothed one."""
    test = data.load(config.dataset, split="test", data_dir=config.data_dir)
    x, y = test.test_x[: config.examples], np.asarray(test.test_y[: config.examples])
    model, begin = training.load(run), time.monotonic()
    right = np.concatenate([np.argmax(np.asarray(model(x[i : i + 500])), -1) for i in range(0, len(x), 500)]) == y
    found = jr.smoothing.certify(
        model,
        x,
        noise=jr.smoothing.gaussian(sigma),
        n0=100,
        n=config.n,
        alpha=1e-3,
        key=jax.random.key(1),
        batch_size=1000,
    )
    return {
        "test_n": len(x),
        "n0": 100,
        "n": config.n,
        "alpha": 1e-3,
        "clean": round(float(right.mean()), 4),
        "certified": [round(found.accuracy(y, r).value, 4) for r in RADII],
        "acr": round(found.average_radius(y).value, 4),
        "abstained": round(float(np.mean(found.prediction < 0)), 4),
        "seconds_certifying": round(time.monotonic() - begin, 1),
    }


def one(config: Config, method: str, level: float, sigma: float, seed: int, folder: Path) -> dict[str, object]:
    """Train with noise of ``level``, certify at ``sigma``."""
    run, seconds = trained(config, method, level, seed, folder)
    named = {
        "dataset": config.dataset,
        "model": config.model,
        "method": method,
        "trained_at": level,
        "sigma": sigma,
        "seed": seed,
    }
    budget = {"epochs": epochs_of(method, config.dataset), "passes_an_epoch": COST[method], "seconds_training": seconds}
    return named | HOW.get(method, {}) | budget | judged(config, run, sigma)


def _mean(runs: list[dict[str, Any]], name: str, at: int | None = None, *, scale: float = 100, digits: int = 1) -> str:
    values = [scale * float(r[name] if at is None else r[name][at]) for r in runs]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def table(records: list[dict[str, Any]]) -> str:
    """Means (and spread) over the seeds for one level: clean accuracy of the net, certified accuracy at radii, in per cent; ACR."""
    kinds = list(dict.fromkeys((r["method"], r["trained_at"]) for r in records))
    swept = len({level for _, level in kinds if level > 0}) > 1
    first = "trained at sigma" if swept else "method"
    lines = [
        f"| {first} | passes an epoch | epochs | clean | {' | '.join(f'r = {r:g}' for r in SHOWN)} | ACR | abstains | seeds |",
        "|---" * (len(SHOWN) + 7) + "|",
    ]
    for method, level in kinds:
        runs = [r for r in records if (r["method"], r["trained_at"]) == (method, level)]
        radii = " | ".join(_mean(runs, "certified", RADII.index(r)) for r in SHOWN)
        numbers = (
            f"{_mean(runs, 'clean')} | {radii} | {_mean(runs, 'acr', scale=1, digits=3)} | {_mean(runs, 'abstained')}"
        )
        name = f"{level:g}" if swept else method
        lines.append(f"| {name} | {runs[0]['passes_an_epoch']} | {runs[0]['epochs']} | {numbers} | {len(runs)} |")
    return "\n".join(lines)


def tables(records: list[dict[str, Any]]) -> list[str]:
    """One table for each certified level."""
    return [table([r for r in records if r["sigma"] == sigma]) for sigma in sorted({r["sigma"] for r in records})]


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Certified accuracy over radius, a panel for each level, the mean over the seeds."""
    import matplotlib.pyplot as plt

    sigmas = sorted({r["sigma"] for r in records})
    with plt.rc_context({"svg.hashsalt": "jrobust", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = plt.subplots(1, len(sigmas), figsize=(2.7 * len(sigmas), 2.4), sharey=True, squeeze=False)
        for axis, sigma in zip(axes[0], sigmas, strict=True):
            for method in METHODS:
                curves = [r["certified"] for r in records if (r["sigma"], r["method"]) == (sigma, method)]
                if curves:
                    axis.plot(RADII, np.mean(curves, 0), label=method, lw=1, ls="--" if method == "natural" else "-")
            axis.set(title=f"sigma {sigma:g}", xlabel="l2 radius", xlim=(0, 3.2 * sigma))
        axes[0][0].set(ylabel="certified accuracy", ylim=(0, 1))
        axes[0][-1].legend(frameon=False, fontsize=6)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def identity(r: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one run from another."""
    return tuple(r[name] for name in ("dataset", "model", "method", "trained_at", "sigma", "seed"))


def plan(config: Config) -> list[tuple[str, float, float, int]]:
    """``(method, level of training, certified level, seed)`` of every run."""
    if config.interference:
        each = [("noisy" if level else "natural", level, 0.5) for level in LEVELS]
    else:
        each = [(m, 0.0 if m == "natural" else s, s) for s in config.sigmas for m in config.only or METHODS]
    return [(*run, seed) for seed in range(config.seeds) for run in each]


def main(config: Config) -> None:
    """Train, certify, record, print the tables, draw."""
    name = ("interference_" if config.interference else "smoothing_") + config.dataset
    path, place = RECORDS / f"{name}.jsonl", {m: i for i, m in enumerate(METHODS)}
    records: list[dict[str, Any]] = read(path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.folder or temporary)
        for method, level, sigma, seed in [] if config.table else plan(config):
            if (config.dataset, config.model, method, level, sigma, seed) in set(map(identity, records)):
                continue
            versions = {"version": jr.__version__, "jax": jax.__version__}
            records.append(one(config, method, level, sigma, seed, folder) | versions)
            print(json.dumps(records[-1]), flush=True)
            records.sort(key=lambda r: (r["sigma"], place[r["method"]], r["trained_at"], r["seed"]))
            path.write_text("".join(json.dumps(line) + "\n" for line in records))
    for made in tables(records):
        print(f"\n{name}\n\n{made}")
    if records and not config.interference:
        draw(records, DOCS / f"smoothing_study_{config.dataset}.svg")


if __name__ == "__main__":
    main(tyro.cli(Config))
