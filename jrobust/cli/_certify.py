"""``jrobust certify``: randomized smoothing of a trained run."""

import math
from pathlib import Path
from typing import Any, Literal

import jax

import jrobust as jr
from jrobust.cli import _common
from jrobust.evaluation import Section, smoothed_outcomes, smoothed_rows, smoothing_cost, smoothing_protocol
from jrobust.evaluation._report._plots import write_radius_curve
from jrobust.evaluation._report._rows import correct_radii
from jrobust.smoothing._plan import planned

NOISES = {
    "gaussian": jr.smoothing.gaussian,
    "laplace": lambda sigma: jr.smoothing.laplace(sigma / math.sqrt(2)),
    "uniform": lambda sigma: jr.smoothing.uniform(sigma * math.sqrt(3)),
}
"""By name, of a given standard deviation."""


def certify(
    *,
    run: str,
    sigma: _common.Number,
    n: tuple[int, ...] = (10_000,),
    noise: Literal["gaussian", "laplace", "uniform"] = "gaussian",
    target: _common.Number | None = None,
    runner_up: bool = False,
    examples: int | None = None,
    n0: int = 100,
    alpha: float = 1e-3,
    split: Literal["test", "train"] = "test",
    data_dir: str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    shard: str | None = None,
    out: str | None = None,
    quiet: bool = False,
) -> Section:
    """Certify the smoothed classifier: the class most likely under noise, and a radius within which it cannot change.

    The statement about each example holds with probability 1 - alpha over the draws (Cohen et al. 2019). It is about the smoothed
    classifier, and most useful for a model trained under such noise. The same command goes on where it was interrupted. Writes
    certificates.tsv (as Cohen et al.'s scripts do) and curve.svg, certified accuracy over the radius.

    Args:
      run: directory of a training run.
      sigma: standard deviation of the noise, in input units, > 0.
      n: noise draws an example; more give larger radii. Several growing numbers: an example stops at the first that is enough.
      noise: gaussian certifies l2 radii, laplace and uniform l1 radii.
      target: a radius that is enough, with several --n.
      runner_up: bound the second class's probability too, instead of taking it to be the rest.
      examples: only the first ones of the split.
      n0: draws that choose the class.
      alpha: failure probability of the statement about one example.
      split: of the run's data set.
      data_dir: tensorflow_datasets directory of the run's data set; by default as in training, or $TFDS_DATA_DIR.
      batch_size: noisy inputs at once; by default as many as the memory suggests.
      seed: of the noise.
      shard: INDEX/COUNT, such as 0/3: certify every third example from the first on, and leave the others to other processes. The same
        command without --shard puts all together and does what is missing.
      out: directory for the results; by default one inside the run.
      quiet: no progress bar.
    """
    config: dict[str, Any] = {"command": "certify", **locals()}
    mine = _common.shard(config.pop("shard"))
    if not 0 < sigma < math.inf:
        raise ValueError(f"--sigma is > 0 and finite, got {sigma}")
    planned(n0, n, alpha, target, runner_up)  # refused before a directory is made
    model, x, y, trained = _common.load_run(run, split, examples, data_dir, "--examples")
    kind = "sigma" if noise == "gaussian" else noise
    asked = {"n0": (n0, 100), "alpha": (alpha, 1e-3), "target": (target, None), "runner-up": (runner_up, False)}
    unlike = [f"{name}{value}" for name, (value, usual) in asked.items() if value != usual]
    drawn = "-".join([*map(str, n), *unlike])
    folder = (
        Path(run) / f"certify-{kind}{sigma:g}-{drawn}-{examples or 'all'}-{split}-{seed}" if out is None else Path(out)
    )
    jr.training.start_run(folder, config, resume=True, ignore=_common.ELSEWHERE)
    certificate = jr.smoothing.certify(
        model, x, noise=NOISES[noise](sigma), n0=n0, n=n, alpha=alpha, key=jax.random.key(seed), target=target,
        runner_up=runner_up, batch_size=batch_size, shard=mine, out=folder, progress=not quiet,
    )  # fmt: skip
    if mine is not None:
        y = y[mine[0] :: mine[1]]
    title = Path(run).name
    radii = tuple(round(sigma * t, 6) for t in (0.0, 0.5, 1.0, 2.0))
    rows = smoothed_rows(certificate, y, model=title, seed=seed, radii=radii)
    _common.show(rows)
    a = certificate.average_radius(y)
    print(
        f"average certified {certificate.norm} radius (0 where wrong, {a.level:.0%} interval, confidence of each certificate): {a}"
    )
    if mine is not None:
        print(
            f"shard {shard}: {len(y)} examples are in {folder}; next: the same command without --shard puts all together"
        )
        return Section(title, rows, noise=certificate.noise, config=config)
    section = Section(
        title,
        rows,
        radii=tuple(correct_radii(certificate, y).tolist()),
        noise=certificate.noise,
        command=_common.command_of("certify", config, certify),
        versions=_common.versions(),
        config=config,
        card=_common.card(trained, model, x),
        smoothing=smoothing_protocol(
            x, y, certificate, seed=seed, runner_up=runner_up, target=target, dataset=trained.get("dataset"), split=split,
            batch_size=batch_size,
        ),
        outcomes=smoothed_outcomes(certificate, y, radii),
        costs=(smoothing_cost(certificate),),
    )  # fmt: skip
    section.save(folder)
    certificate.write_tsv(folder / "certificates.tsv", y)
    write_radius_curve(section, folder / "curve.svg")
    print(f"saved in {folder}; next: {_common.report_of(folder)}")
    return section
