"""The table that every oracle enters: name -> oracle. `EXACT_ON_LINEAR` find or prove the supremum of a linear model."""

from typing import NamedTuple

import optax

import jrobust as jr

_MARGIN = jr.objectives.largest

LOWER = {
    "fgsm": jr.attacks.fgsm(),
    "fgsm on the margin": jr.attacks.fgsm(surrogate=_MARGIN),
    "pgd": jr.attacks.pgd(steps=30),
    "pgd, last iterate": jr.attacks.pgd(steps=30, keep="last"),
    "pgd from the centre": jr.attacks.pgd(steps=30, start="center"),
    "pgd, early stop": jr.attacks.pgd(steps=30, early_stop=True),
    "pgd on dlr": jr.attacks.pgd(steps=30, surrogate=jr.objectives.dlr),
    "pgd, momentum": jr.attacks.pgd(
        steps=30, rule=optax.chain(optax.trace(0.9), jr.attacks.steepest(relative=True), optax.scale(0.1))
    ),
    "pgd, adam": jr.attacks.pgd(steps=60, rule=optax.adam(0.05)),
    "pgd, schedule": jr.attacks.pgd(
        steps=30,
        rule=optax.chain(
            jr.attacks.steepest(relative=True), optax.scale_by_schedule(optax.cosine_decay_schedule(0.5, 30))
        ),
    ),
    "rfgsm": jr.attacks.rfgsm(),
    "bim": jr.attacks.bim(),
    "mim": jr.attacks.mim(),
    "ni_fgsm": jr.attacks.ni_fgsm(),
    "si_fgsm": jr.attacks.si_fgsm(),
    "vmi_fgsm": jr.attacks.vmi_fgsm(),
    "frank_wolfe": jr.attacks.frank_wolfe(),
    "apgd": jr.attacks.apgd(steps=30),
    "apgd towards a class": jr.attacks.apgd(steps=30, surrogate=jr.objectives.logit_difference, rank=1),
    "restarts": jr.restarts(jr.attacks.pgd(steps=10), 4),
    "strongest": jr.strongest(jr.attacks.fgsm(), jr.attacks.pgd(steps=10)),
    "cascade of attacks": jr.cascade(jr.attacks.fgsm(), jr.attacks.pgd(steps=10)),
    "fab within": jr.attacks.within(jr.attacks.fab(steps=20)),
    "fmn within": jr.attacks.within(jr.attacks.fmn(steps=20)),
    "square": jr.attacks.square(queries=100),
    "grid": jr.attacks.grid(points=3),
    "sampling": jr.attacks.sampling(samples=16),
    "shrink of an attack": jr.shrink(jr.attacks.pgd(steps=10), 0.5),
}

# the same code with other numbers, rules or surrogates: in the sweep
ALIKE = {
    "fgsm on the margin",
    "pgd from the centre",
    "pgd on dlr",
    "pgd, momentum",
    "pgd, schedule",
    "bim",
    "ni_fgsm",
    "apgd towards a class",
    "cascade of attacks",
    "fmn within",
    "grid",
}
assert LOWER.keys() >= ALIKE

UPPER = {
    "ibp": jr.bounds.ibp(),
    "crown": jr.bounds.crown(),
    "crown_ibp": jr.bounds.crown_ibp(),
    "tightest": jr.tightest(jr.bounds.ibp(), jr.bounds.crown_ibp()),
    "cascade of bounds": jr.cascade(jr.bounds.ibp(), jr.bounds.crown()),
}

ESTIMATE = {
    "mix": jr.mix(jr.attacks.pgd(steps=5), jr.bounds.ibp(), 0.3),
    "mix of losses": jr.mix(jr.attacks.pgd(steps=5), jr.bounds.ibp(), 0.3, losses=True),
    "shrink of a bound": jr.shrink(jr.bounds.ibp(), 0.5),
}

# minimum-norm attacks: the oracle, and for each kind of set how many times the optimum it finds on linear models at most
RADIUS = {
    "fab": (jr.attacks.fab(steps=20), {"linf": 1.01, "l2": 1.01, "l1": 1.01}),
    "fab-t": (jr.attacks.fab(steps=20, rank=1), {"l2": 1.01}),
    "deepfool": (jr.attacks.deepfool(), {"l2": 1.03, "linf": 1.03}),
    "fmn": (jr.attacks.fmn(steps=30), {"linf": 1.01, "l2": 1.01, "l1": 1.01, "l0": 1.5}),
    "sigma_zero": (jr.attacks.sigma_zero(steps=60), {"l0": 1.0}),
    "ddn": (jr.attacks.ddn(), {"l2": 1.003}),
    "pdpgd": (jr.attacks.pdpgd(), {"linf": 1.01, "l2": 1.01, "l1": 1.01}),
    "carlini_wagner": (jr.attacks.carlini_wagner(steps=200, searches=8, step=0.02), {"l2": 1.03}),
    "carlini_wagner on linf": (jr.attacks.carlini_wagner(steps=50, step=0.02), {"linf": 1.12}),
    "carlini_wagner on l0": (
        jr.attacks.carlini_wagner(steps=30, searches=60, step=0.1, multiple=0.1),
        {"l0": 1.0},
    ),
    "ead": (jr.attacks.ead(steps=200, searches=8), {"l1": 1.11}),
    "alma": (jr.attacks.alma(steps=400), {"l2": 1.01, "l1": 1.01}),
    "lbfgs": (jr.attacks.lbfgs(steps=20), {"l2": 1.11}),
    "bim by bisection": (jr.critical_radius(jr.attacks.bim(), upper=2.0, steps=10), {"linf": 1.05}),
}

# black-box attacks, on linear models of 20 entries. An oracle: the queries within which it breaks each at 1.25 times its radius. A
# minimum-norm attack: how many times the optimum it finds at most, with all of its queries
BLACK_BOX = {
    "nes": (jr.attacks.nes(queries=1000, samples=20), {"linf": 300, "l2": 200}),
    "spsa": (jr.attacks.spsa(queries=1000, samples=20), {"linf": 800, "l2": 800}),
    "bandits": (jr.attacks.bandits(queries=1000), {"linf": 800, "l2": 200}),
    "simba": (jr.attacks.simba(queries=200), {"linf": 41, "l2": 41}),
    "simba, dct": (jr.attacks.simba(queries=200, basis="dct", ratio=1.0), {"l2": 41}),
    "zoo": (jr.attacks.zoo(queries=4000, searches=4, step=0.02, multiple=0.1), {"l2": 1.09}),
    "boundary": (jr.attacks.boundary(queries=1000, sideways=0.1, towards=0.02), {"l2": 1.1}),
    "hop_skip_jump": (jr.attacks.hop_skip_jump(queries=1000), {"l2": 1.08, "linf": 1.1}),
    "sign_opt": (jr.attacks.sign_opt(queries=1000, starts=10, samples=40), {"l2": 1.02}),
    "geoda": (jr.attacks.geoda(queries=1000), {"l2": 1.08, "linf": 1.09}),
}


class Few(NamedTuple):
    """A budget attack on L0 sets: of images that `enough` changes turn (`raising`: upwards), the share it turns with `times` as many."""

    oracle: jr.Oracle
    pixels: tuple[bool, ...] = (True, False)
    enough: int = 4
    raising: bool = False
    times: float = 1.25
    figure: float = 1.0


SPARSE = {
    "few-pixel pgd": Few(jr.attacks.pgd(steps=20), (True,)),
    "sparse_rs": Few(jr.attacks.sparse_rs(queries=400), figure=0.8),
    "one_pixel": Few(jr.attacks.one_pixel(population=60, steps=20), (True,), enough=1, times=1.0),
    "jsma": Few(jr.attacks.jsma(steps=10), (False,), raising=True, times=1.5),
}

EXACT_BOUNDS = tuple(UPPER)

THREATS = {
    "linf": jr.sets.linf(0.1),
    "linf in a box": jr.sets.linf(0.3, clip=(0.0, 1.0)),
    "l2": jr.sets.l2(0.3),
    "l2 in a box": jr.sets.l2(0.8, clip=(0.0, 1.0)),
    "l1": jr.sets.l1(0.4),
    "l1 in a box": jr.sets.l1(1.0, clip=(0.0, 1.0)),
    "l3": jr.sets.lp(3.0, 0.3),
    "box": jr.sets.box(0.1, 0.9),
}
