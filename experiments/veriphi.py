"""The Veriphi study (attack-guided verification, arXiv 2606.18454): which stage decides, and what does attacking first save?

Command:  python -m experiments.veriphi [--data-dir DIR] [--out DIR] [--plot veriphi.png]
          python -m experiments.veriphi --table            # from the records alone
          MNIST and CIFAR-10 through tfds, from --data-dir or $TFDS_DATA_DIR. Nets are kept in --out (runs/veriphi).
Hardware: 2 CPU cores. Wall time: about 30 minutes.
Expected: no verified point is broken. The paper: IBP training certifies 78 % on MNIST and next to nothing on CIFAR-10, where PGD
          training leads at small eps; attacking first is about five times as fast.

The budget is fixed before anything runs: three trainings (natural, PGD, IBP) of one architecture a data set, the epochs of EPOCHS, at
the eps of TRAINED; the first `mnist` and `cifar` test images at three eps each, one seed. Every image that is classified right is
asked twice, in turn, one at a time, all programs compiled before: attack first (FGSM, then PGD of 40 steps and 5 restarts), then the
ladder ibp, crown-ibp, crown, alpha-crown, and branch and bound of `budget` seconds; and the ladder and the search alone. Branch and
bound meets counterexamples too, so both ways can falsify. What either way verified is attacked again, by PGD of 100 steps and 10
restarts: one point broken ends the run.

One JSON line an image is appended to experiments/records/veriphi.jsonl; a line that is there is not run again.
"""

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jrobust as jr
from jrobust import Bound, Oracle
from jrobust._combinators import ask
from jrobust._tree import bind

RECORDS = Path(__file__).parent / "records" / "veriphi.jsonl"
TRAININGS = ("natural", "pgd", "ibp")
MODELS = {"mnist": "mlp", "cifar10": "cnn-small"}  # 784-256-256-10; 16 and 32 channels of stride 2, 100 hidden
TRAINED = {"mnist": 0.1, "cifar10": 2 / 255}
EPS = {"mnist": {"0.01": 0.01, "0.03": 0.03, "0.1": 0.1}, "cifar10": {f"{k}/255": k / 255 for k in (1, 2, 8)}}
EPOCHS = {
    "mnist": {"natural": 2, "pgd": 3, "ibp": 8},
    "cifar10": {"natural": 3, "pgd": 2, "ibp": 4},
}
BATCH = {"mnist": 64, "cifar10": 16}  # domains a step of the search: a step takes a fraction of a second
WAYS = ("first", "alone")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      data_dir: prepared tfds data sets; empty: $TFDS_DATA_DIR.
      out: a folder for the nets.
      mnist: test images of MNIST.
      cifar: test images of CIFAR-10.
      budget: seconds of branch and bound an image and way.
      seed: of the trainings and attacks.
      table: only print the table of the records.
      plot: also draw where images were decided, into this PNG file.
    """

    data_dir: str = ""
    out: Path = Path("runs/veriphi")
    mnist: int = 60
    cifar: int = 40
    budget: float = 1.0
    seed: int = 0
    table: bool = False
    plot: str = ""


def loss_of(training: str, apply: Any, eps: float, total: int) -> Any:
    """One line, three oracles; the schedules of certified training are those of `jrobust train`."""
    clean, threat = jr.objectives.cross_entropy(apply), jr.sets.linf(eps, clip=(0, 1))
    if training == "natural":
        return clean
    if training == "pgd":
        return jr.worst_case(clean, threat, jr.attacks.pgd(steps=5, keep="last"))
    begin, end = round(0.1 * total), round(0.5 * total)
    ramps = {
        "eps": jr.training.smoothed(eps, begin=begin, end=end),
        "kappa": jr.training.linear(1.0, 0.5, begin=begin, end=end),
    }
    return jr.training.certified(clean, threat, jr.bounds.ibp(), **ramps)


def train(data: Any, architecture: str, training: str, eps: float, epochs: int, seed: int, run: Path | None) -> Any:
    """A trained net as ``net(x[B, ...]) -> logits[B, K]``, a pytree of its arrays."""
    mean, std = data.moments()
    model = jr.models.create(architecture, shape=data.shape, classes=data.classes, seed=seed, mean=mean, std=std)
    apply, params, rest = jr.nnx.functional(model)
    key, start = jax.random.split(jax.random.key(seed))
    if training == "ibp":
        params = jr.models.ibp_init(start, params)
    total = epochs * jr.training.epoch_steps(len(data.train_x), 128)
    rate = optax.piecewise_constant_schedule(1e-3, {int(0.7 * total): 0.2, int(0.85 * total): 0.2})
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate))
    step = jr.training.make_step(loss_of(training, apply, eps, total), tx)
    state = jr.training.fit(
        step, jr.training.init(params, rest, tx), data.train_x, data.train_y, epochs=epochs, batch_size=128, key=key,
        augment=jr.data.random_crop_flip if data.name == "cifar10" else None, run=run, resume=run is not None, show=False,
    )  # fmt: skip
    return bind(logits, state.params, state.rest, apply=apply)


def logits(params: Any, rest: Any, x: Any, *, apply: Any) -> Any:
    return apply(params, rest, x, train=False)[0]


def one(net: Any, z: Any) -> Any:
    return net(z[None])[0]


def _clean(key: Any, f: Any, s: Any) -> Bound:
    return Bound(f.value(f.outputs(s.center)), s.center, {})


def attacks() -> dict[str, Oracle]:
    """What each way asks before the ladder; `alone` only looks at the image."""
    strong = jr.restarts(jr.attacks.pgd(steps=40, early_stop=True), 5)
    clean = Oracle("lower", bind(_clean), name="clean")
    return {"first": jr.cascade(jr.attacks.fgsm(), strong), "alone": clean}


def decide(f: Any, s: Any, key: Any, budget: float, batch: int) -> dict[str, list[Any]]:
    """Both ways on one image: status, the stage that decided, and seconds."""
    lines = {}
    for way, lower in attacks().items():
        start = time.perf_counter()
        verdict = jr.verify(f, s, key=key, lower=lower, upper=jr.bounds.ladder(), budget=budget, batch=batch)
        lines[way] = [verdict.status, verdict.decided_by, round(time.perf_counter() - start, 4)]
    return lines


def warm(f: Any, s: Any, key: Any, budget: float, batch: int) -> None:
    """Every program that `decide` may need, compiled: whatever this image is decided by."""
    for lower in attacks().values():
        for stage in lower.stages or (lower,):
            ask(stage, key, f, s)
    for stage in jr.bounds.ladder().stages:
        ask(stage, key, f, s)
    wide = jr.objectives.classification(
        f.outputs, jnp.argmin(f.outputs(s.center))
    )  # a wrong label: nothing closes at once
    for g in (f, wide):
        jr.bounds.branch(g, s, nodes=1, batch=batch)
    decide(f, s, key, budget, batch)


def attacked_again(net: Any, x: Any, y: Any, threat: Any, seed: int) -> int:
    """How many of some images PGD of 100 steps and 10 restarts breaks."""
    if not len(y):
        return 0
    oracle = {"pgd": jr.restarts(jr.attacks.pgd(steps=100), 10)}
    ev = jr.evaluate(net, x, y, threat=threat, oracles=oracle, key=jax.random.key(seed + 1), batch_size=128)
    return int((~ev["pgd"].holds).sum())


def study(
    net: Any, x: Any, y: Any, eps: float, budget: float, batch: int, seed: int, known: set[int], write: Any
) -> None:
    """All images at one eps: those that are not ``known`` are decided, and ``write(i, line)`` is called for each."""
    threat = jr.sets.linf(eps, clip=(0, 1))
    right = np.asarray(jnp.argmax(net(jnp.asarray(x)), axis=1)) == y
    for i in sorted(set(range(len(y))) - known):
        if not right[i]:
            write(i, {"right": False})
            continue
        f = jr.objectives.classification(bind(one, net), jnp.asarray(y[i]))
        key = jax.random.fold_in(jax.random.key(seed), i)
        write(i, {"right": True} | decide(f, threat(jnp.asarray(x[i])), key, budget, batch))


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def append(line: dict[str, Any]) -> None:
    RECORDS.parent.mkdir(exist_ok=True)
    with open(RECORDS, "a") as records:
        records.write(json.dumps(line) + "\n")


def verified(line: dict[str, Any]) -> bool:
    return line["right"] and any(line[way][0] == "verified" for way in WAYS)


def run(config: Config) -> None:
    """Train what is not there, decide what is not recorded, attack what was verified."""
    for name, n in (("mnist", config.mnist), ("cifar10", config.cifar)):
        data = jr.data.load(name, raw=True, **({"data_dir": config.data_dir} if config.data_dir else {}))
        x, y = np.asarray(jr.data.unit(jnp.asarray(data.test_x[:1000]))), np.asarray(data.test_y[:1000])
        warmed = False
        for training in TRAININGS:
            place = {"data": name, "training": training, "seed": config.seed}
            start = time.perf_counter()
            epochs = EPOCHS[name][training]
            folder = config.out / f"{name}-{training}-{config.seed}"
            net = train(data, MODELS[name], training, TRAINED[name], epochs, config.seed, folder)
            seconds = round(time.perf_counter() - start, 1)
            if not any(r["kind"] == "net" and place.items() <= r.items() for r in read()):
                accuracy = float((np.asarray(jnp.argmax(net(jnp.asarray(x)), axis=1)) == y).mean())
                append({"kind": "net", **place, "epochs": epochs, "seconds": seconds, "clean": accuracy, "of": len(y)})
            for label, eps in EPS[name].items():
                here = {**place, "eps": label, "budget": config.budget}
                rows = [r for r in read() if r["kind"] == "image" and here.items() <= r.items()]
                known = {r["i"] for r in rows}
                if not warmed and len(known) < n:
                    f = jr.objectives.classification(bind(one, net), jnp.asarray(y[0]))
                    warm(
                        f,
                        jr.sets.linf(eps, clip=(0, 1))(jnp.asarray(x[0])),
                        jax.random.key(0),
                        config.budget,
                        BATCH[name],
                    )
                    warmed = True

                def write(i: int, line: dict[str, Any], here: Any = here) -> None:
                    append({"kind": "image", **here, "i": i, **line})

                study(net, x[:n], y[:n], eps, config.budget, BATCH[name], config.seed, known, write)
                check = {"kind": "again", **here, "n": n}
                if any(check.items() <= r.items() for r in read()):
                    continue
                rows = [r for r in read() if r["kind"] == "image" and here.items() <= r.items() and r["i"] < n]
                at = np.array(sorted(r["i"] for r in rows if verified(r)), int)
                broken = attacked_again(net, x[at], y[at], jr.sets.linf(eps, clip=(0, 1)), config.seed)
                append({**check, "verified": len(at), "broken": broken})
                print(f"{name} {training} {label}: {len(at)} of {n} verified, {broken} broken", flush=True)
                assert broken == 0, f"{broken} verified images of {name}, {training}, eps {label} were broken"


def groups() -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in read():
        if r["kind"] == "image":
            found.setdefault((r["data"], r["training"], r["eps"]), []).append(r)
    return found


def where(line: dict[str, Any], way: str) -> str:
    """Where one image was decided: the name of a stage; the search says which way."""
    if not line["right"]:
        return "misclassified"
    status, by, _ = line[way]
    return f"search: {status}" if by == "branch-and-bound" else by


def ratio(lines: list[dict[str, Any]]) -> str:
    """Seconds of the ladder alone over seconds of attack first."""
    total = {way: sum(line[way][2] for line in lines) for way in WAYS}
    return f"{total['alone'] / total['first']:.1f}" if lines else "-"


def table() -> str:
    """A row for each data set, training and eps; the last two columns split the speed-up by what attacking first found."""
    head = (
        "data", "training", "eps", "n", "right", "violated", "verified", "open", "ibp", "crown-ibp", "crown", "alpha", "search",
        "again: broken", "mean s, attack first", "alone", "speed-up", "where violated", "elsewhere",
    )  # fmt: skip
    again = {(r["data"], r["training"], r["eps"]): r for r in read() if r["kind"] == "again"}
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    everything = []
    for (data, training, eps), rows in groups().items():
        right = [r for r in rows if r["right"]]
        everything += right
        status = Counter(r["first"][0] for r in right)
        proved = Counter(r["first"][1] for r in right if r["first"][0] == "verified")
        mean = {way: np.mean([r[way][2] for r in right]) if right else np.nan for way in WAYS}
        check = again.get((data, training, eps))
        cells = (
            data, training, eps, len(rows), len(right), status["violated"], status["verified"], status["unknown"],
            *(proved[by] for by in ("ibp", "crown-ibp", "crown", "alpha-crown", "branch-and-bound")),
            f"{check['broken']} of {check['verified']}" if check else "-", f"{mean['first']:.3f}", f"{mean['alone']:.3f}",
            ratio(right), ratio([r for r in right if r["first"][0] == "violated"]),
            ratio([r for r in right if r["first"][0] != "violated"]),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    nets = [
        f"{r['data']} {r['training']}: clean {r['clean']:.3f} of {r['of']}, {r['epochs']} epochs"
        for r in read()
        if r["kind"] == "net"
    ]
    differ = sum({r[way][0] for way in WAYS} == {"violated", "verified"} for r in everything)
    found = Counter(r["alone"][0] for r in everything if r["first"][0] == "violated")
    seconds = {way: sum(r[way][2] for r in everything) for way in WAYS}
    tail = (
        f"All images: {seconds['alone']:.0f} s alone, {seconds['first']:.0f} s attack first, speed-up {ratio(everything)}. "
        f"Of {sum(found.values())} violated ones the ladder alone found {found['violated']} violated and left {found['unknown']} open; "
        f"{differ} contradictions."
    )
    return "\n".join([*lines, "", *nets, tail])


def plot(path: str) -> None:
    """Stacked bars: where the images were decided, attack first (left) and the ladder alone (right) of each pair."""
    import matplotlib.pyplot as plt

    order = (
        "misclassified", "fgsm", "pgd-40 x5", "search: violated", "open", "search: verified", "alpha-crown", "crown", "crown-ibp", "ibp",
    )  # fmt: skip
    warm_colours, cold_colours = (
        plt.get_cmap("Reds")(np.linspace(0.35, 0.8, 3)),
        plt.get_cmap("Blues")(np.linspace(0.3, 0.9, 5)),
    )
    colours = dict(zip(order, ["0.6", *warm_colours, "0.9", *cold_colours], strict=True))
    sets = list(dict.fromkeys(data for data, _, _ in groups()))
    figure, axes = plt.subplots(1, len(sets), figsize=(7 * len(sets), 4.5), squeeze=False, sharey=True)
    for ax, name in zip(axes[0], sets, strict=True):
        mine = {(training, eps): rows for (data, training, eps), rows in groups().items() if data == name}
        for j, rows in enumerate(mine.values()):
            for way, offset in zip(WAYS, (-0.2, 0.2), strict=True):
                counts, bottom = Counter(where(r, way) for r in rows), 0.0
                for stage in order:
                    share = counts[stage] / len(rows)
                    ax.bar(
                        j + offset,
                        share,
                        0.38,
                        bottom=bottom,
                        color=colours[stage],
                        label=stage if j + offset < 0 else None,
                    )
                    bottom += share
        ax.set_xticks(range(len(mine)), [f"{training}\n{eps}" for training, eps in mine], fontsize=8)
        ax.set_title(f"{name}: attack first, and the ladder alone")
    axes[0][0].set_ylabel("share of images")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, reverse=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(config: Config) -> None:
    start = time.perf_counter()
    if not config.table:
        run(config)
    print(table())
    if config.plot:
        plot(config.plot)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Config))
