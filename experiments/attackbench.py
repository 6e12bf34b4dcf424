"""Our attacks ranked by AttackBench's local optimality, at one budget of forward plus backward passes an image.

Command:  python -m experiments.attackbench --fixtures DIR [--data-dir DIR] [--budget 1000] [--images 100] [--seeds 1]
          DIR holds the trained nets (``fmnist_cnn_at.npz``, ``mnist_cnn_ibp.npz``); the data sets come through tfds.
Hardware: 2 CPU cores. Wall time: see the last line of the output; about fifteen minutes a seed at the defaults.
Expected: APGD-T, FMN and PDPGD lead linf, DDN and its like l2, PDPGD and APGD l1, sigma-zero l0.

The budget is fixed before anything runs: every attack takes the most steps that fit into it. Attacks on one set are bisected over eps,
image by image: ten calls share the budget, and the distance is that of the closest witness. The best distance of an image is the least
over all attacks of the same seed. FMN's step is 10 on linf, as in AttackBench, and Carlini-Wagner's 0.1, for its searches are short.
Beside the optimality stand the share of images broken, the median distance, and the most passes that any image took.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jrobust as jr
from experiments.bench.attacks import load
from jrobust._iterate import violated
from jrobust._oracle import Oracle
from jrobust._transforms import example_keys
from jrobust._tree import bind

NETS = {"fmnist_cnn_at": "fashion_mnist", "mnist_cnn_ibp": "mnist"}
THREATS = {"linf": jr.sets.linf, "l2": jr.sets.l2, "l1": jr.sets.l1, "l0": jr.sets.l0}
UPPER = {"linf": 0.5, "l2": 8.0, "l1": 60.0, "l0": 200.0}  # where bisections begin, in the units of the images
CALLS, CLASSES = 10, 10


@dataclasses.dataclass(frozen=True)
class Config:
    """What to rank on.

    Attributes:
      fixtures: the folder of the trained nets.
      data_dir: prepared tfds data sets; empty: $TFDS_DATA_DIR.
      budget: forward plus backward passes an image.
      images: the first so many of the test set.
      seeds: runs of every attack.
      norms: of the sets.
      nets: names in the folder.
      out: a JSON file for the distances and the table; empty: only printed.
    """

    fixtures: Path
    data_dir: str = ""
    budget: int = 1000
    images: int = 100
    seeds: int = 1
    norms: tuple[str, ...] = tuple(THREATS)
    nets: tuple[str, ...] = tuple(NETS)
    out: str = ""


def apgd_t(steps: int) -> Oracle:
    """APGD towards the three most likely wrong classes."""
    return jr.cascade(*(jr.attacks.apgd(steps=steps, surrogate=jr.objectives.dlr, rank=r) for r in (1, 2, 3)))


a = jr.attacks
# the steps that fit into the budget -> the attack
MAKERS: dict[str, dict[str, Callable[[int], Any]]] = {
    "linf": {
        "fmn": lambda n: a.fmn(steps=n, step=10.0),
        "pdpgd": lambda n: a.pdpgd(steps=n),
        "fab-t": lambda n: a.fab(steps=n, rank=1),
        "carlini-wagner": lambda n: a.carlini_wagner(steps=n, searches=20, step=0.1, multiple=0.01),
        "deepfool": lambda n: a.deepfool(steps=n),
        "bim": lambda n: a.bim(steps=n),
    },
    "l2": {
        "ddn": lambda n: a.ddn(steps=n),
        "fmn": lambda n: a.fmn(steps=n),
        "pdpgd": lambda n: a.pdpgd(steps=n),
        "alma": lambda n: a.alma(steps=n),
        "fab-t": lambda n: a.fab(steps=n, rank=1),
        "carlini-wagner": lambda n: a.carlini_wagner(steps=n, step=0.1, multiple=0.1),
        "lbfgs": lambda n: a.lbfgs(steps=n, multiple=0.1),
        "deepfool": lambda n: a.deepfool(steps=n),
    },
    "l1": {
        "fmn": lambda n: a.fmn(steps=n),
        "pdpgd": lambda n: a.pdpgd(steps=n),
        "alma": lambda n: a.alma(steps=n),
        "fab-t": lambda n: a.fab(steps=n, rank=1),
        "ead": lambda n: a.ead(steps=n, multiple=0.1),
    },
    "l0": {
        "fmn": lambda n: a.fmn(steps=n),
        "sigma-zero": lambda n: a.sigma_zero(steps=n),
        "carlini-wagner": lambda n: a.carlini_wagner(steps=n, searches=166, step=0.1, multiple=1.0),
    },
}
for norm, makers in MAKERS.items():
    makers["pgd"] = lambda n: a.pgd(steps=n, early_stop=True)
    if norm != "l0":
        makers["apgd-ce"] = lambda n: a.apgd(steps=n)
        makers["apgd-dlr"] = lambda n: a.apgd(steps=n, surrogate=jr.objectives.dlr)
        makers["apgd-t"] = apgd_t


def cost(oracle: Any, norm: str) -> int:
    """The most passes that an attack takes on one image; L-BFGS counts as it goes, about four a step."""
    oracle = oracle.adapt(norm, CLASSES) if getattr(oracle, "adapt", None) is not None else oracle
    if isinstance(oracle, Oracle):
        return sum(cost(stage, norm) for stage in oracle.stages)
    algorithm = oracle.algorithm
    step = 4 if algorithm.spent is not None else sum(algorithm.step_cost)
    return sum(algorithm.init_cost) + oracle.steps * step + sum(algorithm.best_cost)


def fitted(make: Callable[[int], Any], norm: str, budget: int) -> Any:
    """The attack with the most steps that cost no more than the budget; the calls of one on a set share it."""
    share = budget // CALLS if isinstance(make(1), Oracle) else budget
    return make(max((n for n in range(1, share) if cost(make(n), norm) <= share), default=1))


class Found(NamedTuple):
    """The distance of the closest violation (inf: none), and the passes."""

    distance: Any
    passes: Any


def logits(net: Any, z: Any) -> Any:
    return net(z[None])[0]


@jax.jit
def solved(oracle: Any, net: Any, threat: Any, x: Any, y: Any, eps: Any, key: Any) -> Found:
    """One call for each image: of a minimum-norm attack, or of an attack on the set of that image's eps."""

    def one(k, xi, yi, e):
        f, s = jr.objectives.classification(bind(logits, net), yi), threat.family(e)(xi)
        r = oracle.solve(k, f, s) if isinstance(oracle, Oracle) else oracle.solve(k, f, threat, xi)
        found = violated(f.value(f.outputs(r.witness)))
        return Found(jnp.where(found, s.distance(r.witness), jnp.inf), r.info["forwards"] + r.info["backwards"])

    return jax.vmap(one)(example_keys(key, jnp.arange(x.shape[0])), x, y, eps)


def searched(oracle: Any, net: Any, norm: str, x: Any, y: Any, key: Any) -> Found:
    """The closest violations, by bisection over eps where the attack is one on a set."""
    threat, high = THREATS[norm](0.0, clip=(0, 1)), np.full(len(x), UPPER[norm], np.float32)
    if not isinstance(oracle, Oracle):
        return Found(*(np.asarray(part) for part in solved(oracle, net, threat, x, y, jnp.asarray(high), key)))
    low, best, passes = np.zeros_like(high), np.full(len(x), np.inf), np.zeros(len(x), int)
    for call in range(CALLS):
        eps = (low + high) / 2
        found = solved(oracle, net, threat, x, y, jnp.asarray(eps), jax.random.fold_in(key, call))
        distance = np.asarray(found.distance)
        best, passes = np.minimum(best, distance), passes + np.asarray(found.passes)
        low = np.where(np.isfinite(distance), low, eps)
        high = np.where(np.isfinite(distance), np.minimum(np.minimum(eps, distance), high), high)
    return Found(best, passes)


def ranked(config: Config, name: str, norm: str, seed: int) -> dict[str, Any]:
    """All attacks on one net in one norm, best first."""
    net, x, y = load(config, name, NETS[name])
    x, y = jnp.asarray(x[: config.images]), jnp.asarray(y[: config.images])
    wrong = np.asarray(jnp.argmax(net(x), axis=1) != y)
    results, seconds = {}, {}
    for attack, make in MAKERS[norm].items():
        start = time.perf_counter()
        found = searched(fitted(make, norm, config.budget), net, norm, x, y, jax.random.key(seed))
        results[attack] = Found(np.where(wrong, 0.0, found.distance), found.passes)
        seconds[attack] = time.perf_counter() - start
    best = np.min([r.distance for r in results.values()], axis=0)
    optimality = {attack: jr.metrics.optimality(r.distance, best) for attack, r in results.items()}
    right = ~wrong
    print(
        f"\n{name}, {norm}, seed {seed}: {right.sum()} of {len(y)} images right, median of the best {np.median(best[right]):.4g}"
    )
    print(f"{'attack':16s}{'optimality':>11s}{'broken':>8s}{'median':>9s}{'passes':>8s}{'seconds':>9s}")
    order = sorted(results, key=lambda attack: -optimality[attack])
    for attack in order:
        r, most = results[attack], results[attack].passes[right].max()
        broken, median = np.isfinite(r.distance[right]).mean(), np.median(r.distance[right])
        over = " over budget" if most > config.budget else ""
        print(
            f"{attack:16s}{optimality[attack]:11.4f}{broken:8.2f}{median:9.4g}{most:8d}{seconds[attack]:9.1f}{over}",
            flush=True,
        )
    table = {
        attack: {"optimality": optimality[attack], "passes": int(results[attack].passes[right].max())}
        for attack in order
    }
    distances = {attack: [float(d) for d in results[attack].distance] for attack in order}
    return {"net": name, "norm": norm, "seed": seed, "table": table, "distances": distances}


def main(config: Config) -> None:
    start = time.perf_counter()
    print(
        f"budget {config.budget} forward plus backward passes an image, {config.images} images, {config.seeds} seed(s)"
    )
    runs = [
        ranked(config, net, norm, seed) for norm in config.norms for net in config.nets for seed in range(config.seeds)
    ]
    if config.out:
        Path(config.out).write_text(json.dumps({"budget": config.budget, "images": config.images, "runs": runs}) + "\n")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(Config))
