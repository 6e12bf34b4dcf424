"""What each attack on one set leaves unbroken on a trained net, with its own defaults: the column "left" of docs/attacks.md.

Command:  python -m experiments.attack_figures --fixtures DIR [--data-dir DIR] [--n 64]
          DIR holds ``fmnist_cnn_at.npz``; the data set is Fashion-MNIST through tfds.
Hardware: 2 CPU cores. Wall time: about six minutes.
Expected: AutoAttack leaves least on linf 0.1 (the fixtures' official share of the same images is printed beside it).
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import tyro

import jrobust as jr
from experiments.bench.attacks import load, timed

A = jr.attacks
LINF = {
    "fgsm": A.fgsm(),
    "rfgsm": A.rfgsm(),
    "pgd": A.pgd(),
    "bim": A.bim(),
    "mim": A.mim(),
    "ni_fgsm": A.ni_fgsm(),
    "si_fgsm": A.si_fgsm(),
    "di_fgsm": A.di_fgsm(),
    "ti_fgsm": A.ti_fgsm(),
    "vmi_fgsm": A.vmi_fgsm(),
    "frank_wolfe": A.frank_wolfe(),
    "apgd": A.apgd(),
    "autoattack": A.autoattack(),
    "square": A.square(),
    "nes": A.nes(),
    "spsa": A.spsa(),
    "bandits": A.bandits(),
    "simba": A.simba(),
}
L0 = {"pgd on l0": A.pgd(steps=100), "jsma": A.jsma(), "sparse_rs": A.sparse_rs()}
PIXEL = {"one_pixel": A.one_pixel()}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run on.

    Attributes:
      fixtures: the folder of the trained nets.
      data_dir: prepared tfds data sets; empty: $TFDS_DATA_DIR.
      n: test images.
    """

    fixtures: Path
    data_dir: str = ""
    n: int = 64


def main(config: Config) -> None:
    """One line an attack."""
    model, x, y = load(config, "fmnist_cnn_at", "fashion_mnist")
    x, y, clip = x[: config.n], y[: config.n], (0.0, 1.0)
    with np.load(config.fixtures / "fmnist_cnn_at_Linf_0.1000.npz") as f:
        print(f"n = {len(y)}, seed 0; official AutoAttack on linf 0.1 leaves {f['robust'][: config.n].mean():.3f}")
    for threat, oracles in (
        (jr.sets.linf(0.1, clip=clip), LINF),
        (jr.sets.l0(15, clip=clip), L0),
        (jr.sets.l0(1, clip=clip, pixels=True), PIXEL),
    ):
        for name, oracle in oracles.items():
            options = {"threat": threat, "key": jax.random.key(0), "batch_size": 64}
            ev, seconds = timed(lambda o=oracle, options=options: jr.evaluate(model, x, y, oracles={"a": o}, **options))
            r = ev["a"]
            passes = f"{r.info['forwards'].max()} forwards, {r.info['backwards'].max()} backwards at most"
            left = f"{r.holds.mean():.3f} of clean {ev['clean'].holds.mean():.3f}"
            print(f"{name:12} {ev.threat:14} leaves {left}; {passes}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
