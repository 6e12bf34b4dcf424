"""A denoiser in front of a classifier that never saw noise, certified: a table of experiments/README.md.

Command:  python -m experiments.diffusion_study [--sigmas 0.25 0.5] [--only NAME ...] [--folder DIR]; --attack attacks DiffPure instead;
          --table alone prints the table. What is on record is not run again; DIR keeps the trained nets.
Setting:  scikit-learn's digits, `cnn-small` trained naturally (60 epochs). Denoisers: none; the Wiener filter (the best linear one, from
          the training images' mean and covariance); a U-Net (widths 16, 32) trained for that noise by squared error (``EPOCHS``); the same
          trained on by what the classifier says (a third as long); one step of a diffusion model
          (class-conditional, here without a class), one for all levels. Adam, batches of 128, nothing tuned on what is reported; one seed.
Judged:   squared error on the whole test split (8 noisy copies each); ``--examples`` of it certified with n0 = 100, ``--n`` draws,
          alpha = 0.001.
Hardware: 2 CPU cores, about 25 minutes where others work there too.
"""

import dataclasses
import json
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import jrobust as jr
from experiments.training_study import RECORDS, read
from jrobust import data, models, smoothing, training

ATTACKS = RECORDS / "diffusion_attacks_digits.jsonl"
PATH = RECORDS / "diffusion_digits.jsonl"
EPOCHS = {"classifier": 60, "mse": 45, "stable": 15, "diffusion": 60}
RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
DENOISERS = ("none", "wiener", "mse", "mse, then stability", "diffusion, one step")
T_STARS = (0, 100, 200)
SCHEDULE = smoothing.cosine_schedule()


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      sigmas: levels of noise.
      only: these denoisers alone, in this order.
      examples, n: images of the test split that are certified, and draws for each.
      folder: where trained nets are kept; by default they are thrown away.
      attack: attack DiffPure instead.
      table: print the table of the records that are there and run nothing.
    """

    sigmas: tuple[float, ...] = (0.25, 0.5)
    only: tuple[str, ...] = ()
    examples: int = 200
    n: int = 2000
    folder: str | None = None
    attack: bool = False
    table: bool = False


def fitted(folder: Path, name: str, f: Any, loss: Any, start: Any = None) -> Any:
    """Parameters after a training (their moving average), from the folder where they are there already."""
    path = folder / f"{name}.pickle"
    if path.exists():
        return jax.tree.map(jnp.asarray, pickle.loads(path.read_bytes()))
    digits, begin, epochs = data.load("digits"), time.monotonic(), EPOCHS[name.split("-")[0]]
    steps = epochs * training.epoch_steps(len(digits.train_x), 128)
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = training.init(f.params if start is None else start, f.rest, tx, ema=True)
    state = training.fit(
        training.make_step(loss, tx),
        state,
        digits.train_x,
        digits.train_y,
        epochs=epochs,
        batch_size=128,
        key=jax.random.key(1),
        show=False,
    )
    print(f"{name}: {epochs} epochs, {time.monotonic() - begin:.0f} s", flush=True)
    path.write_bytes(pickle.dumps(jax.tree.map(np.asarray, state.averaged)))
    return state.averaged


@dataclasses.dataclass(frozen=True)
class _Given:
    """``apply`` in inference mode with the arguments of the model as one; compared by value, so that nothing compiles twice."""

    apply: Any

    def __call__(self, params: Any, rest: Any, *given: Any) -> Any:
        return self.apply(params, rest, given[0] if len(given) == 1 else given, train=False)[0]


def model_of(f: Any, params: Any) -> Any:
    """A net with its parameters as a model, or as a predictor of several arguments."""
    return jax.tree_util.Partial(_Given(f.apply), params, f.rest)


def classifier(folder: Path) -> Any:
    """The natural one."""
    f = jr.nnx.functional(models.create("cnn-small", shape=(8, 8, 1), classes=10, seed=0))
    return model_of(f, fitted(folder, "classifier", f, jr.objectives.cross_entropy(f.apply)))


def diffusion_net(folder: Path) -> Any:
    """The class-conditional diffusion model, a predictor of noise ``(x_t, t)`` or ``(x_t, t, y)``."""
    net = models.unet((8, 8, 1), widths=(16, 32), classes=10, rngs=nnx.Rngs(0))
    f = jr.nnx.functional(net, call=type(net).of)
    return model_of(f, fitted(folder, "diffusion", f, training.diffusion(f.apply, SCHEDULE, classes=10)))


def wiener(sigma: float) -> Callable[[Any], Any]:
    """The best linear denoiser for the training images' mean and covariance."""
    x = data.load("digits").train_x.reshape(-1, 64).astype(np.float64)
    mean, covariance = x.mean(0), np.cov(x.T)
    gain = jnp.asarray(np.linalg.solve(covariance + sigma**2 * np.eye(64), covariance), jnp.float32)
    middle = jnp.asarray(mean, jnp.float32)

    def denoise(z: Any) -> Any:
        return ((z.reshape(-1, 64) - middle) @ gain + middle).reshape(z.shape)

    return denoise


def denoiser(name: str, sigma: float, folder: Path) -> Callable[[Any], Any]:
    """One of ``DENOISERS``."""
    if name == "none":
        return lambda x: x
    if name == "wiener":
        return wiener(sigma)
    if name == "diffusion, one step":
        return smoothing.one_step(diffusion_net(folder), SCHEDULE, sigma)
    f = jr.nnx.functional(models.unet((8, 8, 1), widths=(16, 32), time=False, rngs=nnx.Rngs(0)))
    params = fitted(folder, f"mse-{sigma:g}", f, training.denoise(f.apply, sigma))
    if name == "mse, then stability":
        loss = training.denoise_stably(f.apply, sigma, classifier(folder))
        params = fitted(folder, f"stable-{sigma:g}", f, loss, params)
    return model_of(f, params)


def error(denoise: Callable[[Any], Any], sigma: float) -> float:
    """The mean squared error on the test split."""
    x = jnp.asarray(data.load("digits", split="test").test_x)

    def one(key: Any) -> Any:
        return jnp.mean((denoise(x + sigma * jax.random.normal(key, x.shape)) - x) ** 2)

    return float(np.mean([jax.jit(one)(jax.random.key(i)) for i in range(8)]))


def judged(config: Config, name: str, sigma: float, folder: Path) -> dict[str, Any]:
    """Error and certificates of one denoiser at one level."""
    test = data.load("digits", split="test")
    x, y = test.test_x[: config.examples], np.asarray(test.test_y[: config.examples])
    denoise, begin = denoiser(name, sigma, folder), time.monotonic()
    found = smoothing.certify(
        smoothing.denoised(denoise, classifier(folder)),
        x,
        noise=smoothing.gaussian(sigma),
        n0=100,
        n=config.n,
        alpha=1e-3,
        key=jax.random.key(2),
        batch_size=1000,
    )
    return {
        "dataset": "digits",
        "denoiser": name,
        "sigma": sigma,
        "seed": 0,
        "test_n": len(x),
        "n0": 100,
        "n": config.n,
        "alpha": 1e-3,
        "error": round(error(denoise, sigma), 5),
        "certified": [round(found.accuracy(y, r).value, 4) for r in RADII],
        "acr": round(found.average_radius(y).value, 4),
        "abstained": round(float(np.mean(found.prediction < 0)), 4),
        "seconds_certifying": round(time.monotonic() - begin, 1),
        "version": jr.__version__,
        "jax": jax.__version__,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Squared errors, certified accuracy at radii in per cent, ACR."""
    lines = [
        f"| sigma | denoiser | squared error | {' | '.join(f'r = {r:g}' for r in RADII)} | ACR | abstains |",
        "|---" * (len(RADII) + 5) + "|",
    ]
    for r in records:
        certified = " | ".join(f"{100 * c:.1f}" for c in r["certified"])
        numbers = f"{r['error']:.4f} | {certified} | {r['acr']:.3f} | {100 * r['abstained']:.1f}"
        lines.append(f"| {r['sigma']:g} | {r['denoiser']} | {numbers} |")
    return "\n".join(lines)


def attacked(folder: Path, t_star: int) -> dict[str, Any]:
    """Accuracy that PGD-10 leaves of DiffPure (0: of the bare classifier), by the full gradient and by BPDA, 4 draws an evaluation."""
    test, net = data.load("digits", split="test"), classifier(folder)
    x, y = test.test_x[:50], np.asarray(test.test_y[:50])
    models_of: dict[str, Any] = {"full": net}
    if t_star:
        purify = smoothing.diffpure(diffusion_net(folder), SCHEDULE, t_star=t_star, steps=10)
        behind = jr.objectives.straight_through(purify)
        models_of = {"full": jr.objectives.eot(net, purify, 4), "bpda": jr.objectives.eot(net, behind, 4)}
    found, begin = {}, time.monotonic()
    for name, model in models_of.items():
        ev = jr.evaluate(
            model,
            x,
            y,
            threat=jr.sets.linf(0.1, clip=(0, 1)),
            oracles={"pgd": jr.attacks.pgd(steps=10)},
            key=jax.random.key(4),
            batch_size=50,
        )
        found[name] = round(float(ev["pgd"].holds.mean()), 4)
        found["clean"] = round(float(ev["clean"].holds.mean()), 4)
    setting = {
        "dataset": "digits",
        "t_star": t_star,
        "steps": 10,
        "eps": 0.1,
        "test_n": 50,
        "attack_steps": 10,
        "draws": 4,
    }
    seconds = round(time.monotonic() - begin, 1)
    return setting | found | {"seed": 0, "seconds": seconds, "version": jr.__version__, "jax": jax.__version__}


def attack_table(records: list[dict[str, Any]]) -> str:
    """Accuracies in per cent; the last column is the claim."""
    lines = ["| t* | clean | full gradient | BPDA | least |", "|---|---|---|---|---|"]
    for r in records:
        each = [r["full"], r.get("bpda")]
        shown = " | ".join("" if a is None else f"{100 * a:.0f}" for a in each)
        least = min(a for a in each if a is not None)
        lines.append(f"| {r['t_star'] or 'none'} | {100 * r['clean']:.0f} | {shown} | {100 * least:.0f} |")
    return "\n".join(lines)


def attack(config: Config) -> None:
    """The attacks, recorded."""
    records: list[dict[str, Any]] = read(ATTACKS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.folder or temporary)
        for t_star in () if config.table else T_STARS:
            if t_star in {r["t_star"] for r in records}:
                continue
            records.append(attacked(folder, t_star))
            print(json.dumps(records[-1]), flush=True)
            ATTACKS.write_text("".join(json.dumps(line) + "\n" for line in records))
    print(f"\n{attack_table(records)}")


def main(config: Config) -> None:
    """Train, certify, record, print the table."""
    if config.attack:
        return attack(config)
    records: list[dict[str, Any]] = read(PATH)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(config.folder or temporary)
        folder.mkdir(exist_ok=True, parents=True)
        for sigma in () if config.table else config.sigmas:
            for name in config.only or DENOISERS:
                if (sigma, name) in {(r["sigma"], r["denoiser"]) for r in records}:
                    continue
                records.append(judged(config, name, sigma, folder))
                print(json.dumps(records[-1]), flush=True)
                records.sort(key=lambda r: (r["sigma"], DENOISERS.index(r["denoiser"])))
                PATH.write_text("".join(json.dumps(line) + "\n" for line in records))
    print(f"\n{table(records)}")


if __name__ == "__main__":
    main(tyro.cli(Config))
