"""What the study of all methods does not measure: pruned nets, costly mistakes, nets that cannot stretch, several changes at once.

Command:  python -m experiments.training_parts [--seeds 3] [--only PART ...]; --table alone prints the tables of experiments/README.md. Runs
          that are on record are not run again.
Setting:  digits (the whole test split is judged), `cnn-small` or perceptrons of its kind, Adam (rate 1e-3), batches of 128; stated before
          any run, nothing tuned on what is reported. The parts' own settings are in the docstrings of `hydra`, `margins`, `nets`
          and `composite`.
Hardware: 2 CPU cores; a quarter of an hour, and three minutes a seed of `composite`.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro

import jrobust as jr
from jrobust import data, training
from jrobust.cli._methods import costs_of

RECORDS = Path(__file__).parent / "records" / "training_parts.jsonl"
EPS, EPS_L2, SIGMA, KEEP, SCALE = 0.1, 0.5, 0.25, 0.1, 10.0
SENSITIVE = (3, 8)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      seeds: runs of each.
      only: these parts alone.
      table: print the tables of the records that are there, and run nothing.
    """

    seeds: int = 3
    only: tuple[str, ...] = ()
    table: bool = False


def fitted(loss: Any, params: Any, rest: Any, seed: int, epochs: int, x: Any = None, y: Any = None) -> tuple[Any, Any]:
    """Parameters and other arrays after so many epochs, of the digits by default."""
    digits, tx = data.load("digits"), optax.adam(1e-3)
    state = training.fit(
        training.make_step(loss, tx),
        training.init(params, rest, tx),
        digits.train_x if x is None else x,
        digits.train_y if y is None else y,
        epochs=epochs,
        batch_size=128,
        key=jax.random.key(seed),
        show=False,
    )
    return state.params, state.rest


def judged(model: Any, threat: jr.sets.Threat, **proofs: Any) -> dict[str, float]:
    """Clean, attacked and proven accuracy."""
    digits = data.load("digits")
    oracles = {"pgd20": jr.attacks.pgd(steps=20), "autoattack": jr.attacks.autoattack(), **proofs}
    x, y = digits.test_x, digits.test_y
    report = jr.evaluate(model, x, y, threat=threat, oracles=oracles, key=jax.random.key(1), batch_size=256)
    return {name: float(report[name].holds.mean()) for name in ("clean", *oracles)}


def hydra(seed: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Linf 0.1: 60 epochs of PGD-10, then a tenth of each array's weights is kept and trained for the rest of 120.

    "dense": no pruning; "largest": the largest weights, trained for 60 epochs; "hydra": scores for 30 epochs, weights for 30.
    """
    net = jr.models.create("cnn-small", shape=(8, 8, 1), classes=10, seed=seed)
    apply, params, rest = jr.nnx.functional(net)
    threat = jr.sets.linf(EPS, clip=(0, 1))
    robust = jr.worst_case(jr.objectives.cross_entropy(apply), threat, jr.attacks.pgd(steps=10, keep="last"))
    params, rest = fitted(robust, params, rest, seed, 60)
    yield "dense", judged(jr.nnx.merge(net, *fitted(robust, params, rest, seed + 100, 60)), threat)
    largest = training.hydra_scores(params)
    found, _ = fitted(training.hydra(robust, params, keep=KEEP), largest, rest, seed + 100, 30)
    for name, scores, epochs in (("largest", largest, 60), ("hydra", found, 30)):
        masks = training.hydra_masks(scores, KEEP)
        after, _ = fitted(training.finetuned(robust, masks), params, rest, seed + 200, epochs)
        yield name, judged(jr.nnx.merge(net, training.pruned(after, masks), rest), threat)


def margins(seed: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Smoothing by noise of 0.25: threes and eights must not be taken for anything else; 40 epochs of 16 noisy copies an image.

    "noise": the cross-entropy of the mean softmax alone; "margin-cs": with the published hinge. Certified with n = 2000 draws at
    alpha = 1e-3: accuracy at radius 0 and 0.25 of all digits, and of threes and eights.
    """
    digits = data.load("digits")
    net = jr.models.create("cnn-small", shape=(8, 8, 1), classes=10, seed=seed)
    apply, params, rest = jr.nnx.functional(net)
    costs = costs_of(10, SENSITIVE)
    for name, weight in (("noise", 0.0), ("margin-cs", 3.0)):
        loss = training.margin_cs(jr.objectives.cross_entropy(apply), costs, sigma=SIGMA, weight=weight)
        model = jr.nnx.merge(net, *fitted(loss, params, rest, seed, 40))
        noise = jr.smoothing.gaussian(SIGMA)
        cert = jr.smoothing.certify(model, digits.test_x, noise=noise, n=2000, key=jax.random.key(1), batch_size=4000)
        right, chosen = cert.prediction == digits.test_y, np.isin(digits.test_y, SENSITIVE)
        far = right & (cert.radius > 0.25)
        found = {"at_0": right, "at_025": far, "sensitive_at_0": right[chosen], "sensitive_at_025": far[chosen]}
        yield name, {key: float(np.mean(v)) for key, v in found.items()}


def nets(seed: int) -> Iterable[tuple[str, dict[str, float]]]:
    """L2 0.5, trained without attacks for 220 epochs by the cross-entropy of 10 times the logits.

    "mlp" (and "mlp, pgd": 20 epochs by PGD-10 of its logits), "spectral" (proven by the norms of its layers), "bjorck" and "cayley":
    `lipschitz-mlp` and `lipschitz-cnn`, proven by their margins.
    """
    threat = jr.sets.l2(EPS_L2, clip=(0, 1))
    create = lambda name: jr.models.create(name, shape=(8, 8, 1), classes=10, seed=seed)  # noqa: E731
    for name, net in (
        ("mlp", create("mlp")),
        ("mlp, pgd", create("mlp")),
        ("spectral", create("spectral-mlp")),
        ("bjorck", create("lipschitz-mlp")),
        ("cayley", create("lipschitz-cnn")),
    ):
        apply, params, rest = jr.nnx.functional(net)
        plain = jr.objectives.cross_entropy(apply)
        loss, epochs = training.sharpened(plain, SCALE), 220
        if name == "mlp, pgd":
            loss, epochs = jr.worst_case(plain, threat, jr.attacks.pgd(steps=10, keep="last")), 20
        model = jr.nnx.merge(net, *fitted(loss, params, rest, seed, epochs))
        model.eval()
        constant = getattr(model, "constant", None)
        proof = jr.bounds.lipschitz() if constant is None else jr.bounds.margin(constant)
        yield name, judged(model, threat, proven=proof)


def tinted(images: Any, seed: int) -> Any:
    """Grey digits in a colour, each another one within a sixth of a turn about red."""
    red = np.asarray(images) * np.array([1.0, 0.2, 0.2], np.float32)
    angle = np.random.default_rng(seed).uniform(-np.pi / 6, np.pi / 6, len(images))
    return np.asarray(jr.transforms.hue().images(red, angle.astype(np.float32)))


def composite(seed: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Tinted digits, 20 epochs each (as many updates, not as many passes), linf 8/255: natural training, PGD-10, GAT of all six changes.

    Judged: clean; under PGD-20 of linf alone; under hue, saturation, rotation, brightness and contrast in this order; under these and linf,
    in this order and in the reverse. All but the first two by PGD-20 over all parameters at once, the worst of 2 random starts.
    """
    digits, t = data.load("digits"), jr.transforms
    x, y, test_x, test_y = tinted(digits.train_x, 0), digits.train_y, tinted(digits.test_x, 1), digits.test_y
    net = jr.models.create("cnn-small", shape=(8, 8, 3), classes=10, seed=seed)
    apply, params, rest = jr.nnx.functional(net)
    loss, linf = jr.objectives.cross_entropy(apply), jr.sets.linf(8 / 255, clip=(0, 1))
    six = t.hue(), t.saturation(), t.rotation(10.0), t.brightness(), t.contrast(), linf
    worst = jr.restarts(jr.attacks.pgd(steps=20), 2)
    orders = {"semantic": (0, 1, 2, 3, 4), "composite": (0, 1, 2, 3, 4, 5), "reversed": (5, 4, 3, 2, 1, 0)}
    for name, robust in {
        "natural": loss,
        "pgd": jr.worst_case(loss, linf, jr.attacks.pgd(steps=10, keep="last")),
        "gat": training.gat(loss, *six),
        "gat-trades": training.gat(loss, *six, beta=6.0),
    }.items():
        model = jr.nnx.merge(net, *fitted(robust, params, rest, seed, 20, x, y))
        how = {"key": jax.random.key(1), "batch_size": 256}
        ball = jr.evaluate(model, test_x, test_y, threat=linf, oracles={"linf": jr.attacks.pgd(steps=20)}, **how)
        found = {name: float(ball[name].holds.mean()) for name in ("clean", "linf")}
        for what, order in orders.items():
            change = t.caa(order=order)
            seen, at = change.model(model), change.inputs(test_x)
            judge = jr.evaluate(seen, at, test_y, threat=change.threat(), oracles={what: worst}, **how)
            found[what] = float(judge[what].holds.mean())
        yield name, found


PARTS = {"hydra": hydra, "margins": margins, "nets": nets, "composite": composite}


def table(records: list[dict[str, Any]]) -> str:
    """Mean and spread over the seeds of one part, in per cent."""
    columns = [name for name in records[0] if name not in ("part", "name", "seed", "version", "jax")]
    lines = [f"| {' | '.join((records[0]['part'], *columns, 'seeds'))} |", "|" + "---|" * (len(columns) + 2)]
    for name in dict.fromkeys(r["name"] for r in records):
        runs = [r for r in records if r["name"] == name]
        cells = [[100 * r[column] for r in runs] for column in columns]
        spread = lambda v: f" ± {statistics.stdev(v):.1f}" if len(v) > 1 else ""  # noqa: E731
        numbers = [f"{statistics.mean(v):.1f}{spread(v)}" for v in cells]
        lines.append(f"| {' | '.join((name, *numbers, str(len(runs))))} |")
    return "\n".join(lines)


def read() -> list[dict[str, Any]]:
    """The records that are there."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def main(config: Config) -> None:
    """Train, judge, record, and print the tables."""
    records = read()
    for seed in () if config.table else range(config.seeds):
        for part in config.only or PARTS:
            if any((r["part"], r["seed"]) == (part, seed) for r in records):
                continue
            about = {"version": jr.__version__, "jax": jax.__version__}
            for name, found in PARTS[part](seed):
                records.append({"part": part, "name": name, "seed": seed} | found | about)
                print(json.dumps(records[-1]), flush=True)
            records.sort(key=lambda r: list(PARTS).index(r["part"]))
            RECORDS.write_text("".join(json.dumps(r) + "\n" for r in records))
    for part in dict.fromkeys(r["part"] for r in records):
        print(f"\n{table([r for r in records if r['part'] == part])}")


if __name__ == "__main__":
    main(tyro.cli(Config))
