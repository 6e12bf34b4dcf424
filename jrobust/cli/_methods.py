"""The training methods that ``jrobust train`` knows by name, each with its published weights."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jrobust as jr
from jrobust import data, training
from jrobust.cli._setting import Setting

_CIFAR = (32, 32, 3)  # where radii and lengths were published


def _pgd(s: Setting) -> Any:
    return jr.worst_case(s.loss, s.threat, s.attack)


def _pair(method: Callable[..., Any]) -> Callable[[Setting], Any]:
    return lambda s: method(s.loss, s.threat, attack=s.steps)


def _taught(method: Callable[..., Any], *by: str) -> Callable[[Setting], Any]:
    """By models that do not change: ``"teacher"`` and ``"standard"``, as `NEEDS` says."""

    def made(s: Setting) -> Any:
        models = [getattr(s, name) for name in by]
        assert None not in models, "looked at before"
        return method(s.loss, s.threat, *models, attack=s.steps)

    return made


def _wary(method: Callable[..., Any], begin: float, *by: str) -> Callable[[Setting], Any]:
    """IAD, which trusts its teacher wholly for the published part of the training."""

    def made(s: Setting) -> Any:
        beta = lambda t: 0.1 * (t >= begin * s.total)  # noqa: E731
        return training.scheduled(lambda t: _taught(partial(method, beta=beta(t)), *by)(s))

    return made


def _fare(s: Setting) -> Any:
    assert s.standard is not None, "looked at before"
    return training.fare(s.loss, s.threat, s.standard, attack=s.steps)


def _ensemble(s: Setting) -> Any:
    assert s.standard is not None, "looked at before"
    return training.ensemble(s.loss, s.threat, [s.standard])


def _cure(s: Setting) -> Any:
    """Published as fine-tuning: h rises from 0, where it is natural training, to as far in radii as the authors' 3 is on CIFAR-10."""
    full = 3.0 * (prod(s.batch[1:]) / prod(_CIFAR)) ** 0.5 / (8 / 255)
    return training.scheduled(lambda t: training.cure(s.loss, h=full * s.ramp(t)))


def _orthogonal(groups: int) -> Callable[[Setting], Any]:
    def made(s: Setting) -> Any:
        dense = all(
            jnp.ndim(w) != 4 for w in jax.tree.leaves(jr.nnx.functional(s.net).params)
        )  # a net without convolutions
        return training.gor(_pgd(s), groups=groups, dense=dense)

    return made


def _softened(
    method: Callable[..., Any], *, smoothing: float = 0.0, mix: Callable[..., Any] | None = None
) -> Callable[[Setting], Any]:
    def made(s: Setting) -> Any:
        robust = method(s._replace(loss=jr.objectives.soft_cross_entropy(s.loss.outputs)))
        return training.softened(robust, classes=s.classes, smoothing=smoothing, mix=mix)

    return made


def _union(how: Literal["max", "mean"]) -> Callable[[Setting], Any]:
    """Of linf, l2 and l1: 0.5 and 12 beside 8/255 on CIFAR-10, as far in each entry elsewhere."""

    def made(s: Setting) -> Any:
        share, entries = s.eps / (8 / 255), prod(s.batch[1:]) / prod(_CIFAR)
        l2, l1 = jr.sets.l2(0.5 * share * entries**0.5, clip=(0, 1)), jr.sets.l1(12.0 * share * entries, clip=(0, 1))
        return training.union(s.loss, s.threat, l2, l1, how=how, attack=s.steps)

    return made


def _gat(beta: float | None) -> Callable[[Setting], Any]:
    """Of all six changes; grey images have no hue and no saturation."""

    def made(s: Setting) -> Any:
        t = jr.transforms
        colours = (t.hue(), t.saturation()) if s.batch[-1] == 3 else ()
        changes = (*colours, t.rotation(10.0), t.brightness(), t.contrast(), s.threat)
        return training.gat(s.loss, *changes, beta=beta, attack=s.steps)

    return made


def _fat(beta: float | None) -> Callable[[Setting], Any]:
    """With the published moments at which its attack may go on for longer: after 50 and 90 of 120 epochs."""

    def made(s: Setting) -> Any:
        tau = lambda t: 1.0 * (t >= 50 * s.total // 120) + 1.0 * (t >= 90 * s.total // 120)  # noqa: E731
        return training.scheduled(lambda t: training.fat(s.loss, s.threat, tau=tau(t), beta=beta, attack=s.steps))

    return made


def _cfa(beta: float | None) -> Callable[[Setting], Any]:
    """Classes differ after a twentieth of the training, as published: 10 of 200 epochs."""

    def made(s: Setting) -> Any:
        begin = max(1, s.total // (20 * s.epoch))
        how = {"classes": s.classes, "epoch": s.batches, "beta": beta, "begin": begin, "attack": s.steps}
        return training.cfa(s.loss, s.threat, **how)

    return made


def _hydra(s: Setting) -> Any:
    """Its last stage: the weights that stay."""
    return _pgd(s) if s.masks is None else training.finetuned(_pgd(s), s.masks)


def _iaat(s: Setting) -> Any:
    return training.iaat(s.loss, s.threat, examples=s.examples, warmup=s.total * s.accumulate // 20, attack=s.steps)


def _las_at(s: Setting) -> Any:
    """Its strategy net is a ResNet-18, as published, and for images smaller than CIFAR-10's a small CNN."""
    name = "preact-resnet-18" if min(s.batch[1:3]) >= 32 else "cnn-small"
    net = jr.models.create(name, shape=s.batch[1:], classes=13 + 12 + 5, seed=1)
    return training.las_at(s.loss, s.threat, jr.nnx.functional(net))


def _certified(bound: jr.Oracle) -> Callable[[Setting], Any]:
    return lambda s: training.certified(s.loss, s.threat, bound, eps=s.ramp, kappa=s.kappa)


def _between(join: Callable[..., jr.Oracle], weight: float) -> Callable[[Setting], Any]:
    """By an oracle between an attack and IBP; the number that joins them is 1 for IBP itself."""

    def made(s: Setting) -> Any:
        oracle = join(s.attack, jr.bounds.ibp(), weight if s.weight is None else s.weight)
        return training.certified(s.loss, s.threat, oracle, eps=s.ramp)

    return made


# -- for randomized smoothing -----------------------------------------------------------------------------------------


def _noise(s: Setting, weight: float | None = None) -> dict[str, Any]:
    """The options that were given, and the weight that goes with the noise unless one was."""
    weight = weight if s.weight is None else s.weight
    return {name: v for name, v in (("samples", s.samples), ("weight", weight)) if v is not None}


def _risen(s: Setting, t: Any) -> Any:
    """From 0 to 1 in the first 10 of 150 epochs, as published."""
    return training.linear(0.0, 1.0, end=s.total // 15)(t)


def _stability(s: Setting) -> Any:
    return training.stability(s.loss, s.sigma, weight=2.0 if s.weight is None else s.weight)


def _smooth_adv(s: Setting) -> Any:
    """The l2 radius grows to ``eps``."""
    ball = lambda t: jr.sets.l2(s.eps * _risen(s, t), clip=(0, 1))  # noqa: E731
    more: dict[str, Any] = {} if s.samples is None else {"samples": s.samples}
    return training.scheduled(lambda t: training.smooth_adv(s.loss, ball(t), s.sigma, attack=s.steps, **more))


def _macer(s: Setting) -> Any:
    """At sigma 1 the hinge begins after 200 of 440 epochs, as published."""
    options = _noise(s, 4.0 if 0.25 < s.sigma < 1.0 else 12.0)
    late = 200 * s.total // 440 if s.sigma >= 1.0 else 0
    on = options.pop("weight")
    return training.scheduled(lambda t: training.macer(s.loss, s.sigma, weight=on * (t >= late), **options))


def _smooth_mix(s: Setting) -> Any:
    """Steps of 1, or of 0.5 at little noise, as published for CIFAR-10; the weight grows."""
    options = _noise(s, 5.0) | {"steps": s.steps, "step": 0.5 if s.sigma <= 0.25 else 1.0}
    on = options.pop("weight")
    return training.scheduled(lambda t: training.smooth_mix(s.loss, s.sigma, weight=on * _risen(s, t), **options))


def costs_of(classes: int, sensitive: tuple[int, ...]) -> Any:
    """[K, K]: to take an example of these classes for any other costs 1, other mistakes nothing."""
    return np.isin(np.arange(classes), sensitive)[:, None] * np.ones(classes)


def _margin_cs(s: Setting) -> Any:
    costs = costs_of(s.classes, s.sensitive or tuple(range(s.classes)))
    return training.margin_cs(s.loss, costs, sigma=s.sigma, **_noise(s))


SMOOTHED: dict[str, Callable[[Setting], Any]] = {
    "noisy": lambda s: training.noisy(s.loss, s.sigma, samples=s.samples or 1),
    "stability": _stability,
    "smooth-adv": _smooth_adv,
    "macer": _macer,
    "consistency": lambda s: training.consistency(s.loss, s.sigma, **_noise(s, 20.0 if s.sigma <= 0.25 else 10.0)),
    "smooth-mix": _smooth_mix,
    "margin-cs": _margin_cs,
}
"""Methods under noise, whose models are for ``jrobust certify``."""

APART = ("hydra", "margin-cs")
"""Methods that the studies of all at one budget say nothing about: experiments/training_parts.py measures what they are for."""


METHODS: dict[str, Callable[[Setting], Any]] = {
    "natural": lambda s: s.loss,
    "pgd": _pgd,
    "fgsm-rs": lambda s: training.fgsm_rs(s.loss, s.threat),
    "n-fgsm": lambda s: training.n_fgsm(s.loss, s.threat),
    "free": lambda s: s.loss,  # and a step of its own
    "yopo": lambda s: s.loss,  # the same
    "gradalign": lambda s: training.gradalign(s.loss, s.threat),
    "trades": _pair(training.trades),
    "mart": _pair(training.mart),
    "pgd-awp": lambda s: training.awp(_pgd(s), gamma=0.01),
    "trades-awp": lambda s: training.awp(_pair(training.trades)(s), gamma=0.005),
    "hat": _taught(training.hat, "standard"),
    "gkl": lambda s: training.gkl(s.loss, s.threat, classes=s.classes, epoch=s.batches, attack=s.steps),
    "lbgat": _pair(training.lbgat),
    "lbgat-6": _pair(partial(training.lbgat, beta=6.0)),
    "score": _pair(training.score),
    "alp": _pair(training.alp),
    "feature-scattering": lambda s: training.feature_scattering(s.loss, s.threat),
    "bilateral": lambda s: training.bilateral(s.loss, s.threat),
    "fat": _fat(None),
    "fat-trades": _fat(6.0),
    "iaat": _iaat,
    "las-at": _las_at,
    "cfa": _cfa(None),
    "cfa-trades": _cfa(6.0),
    "dkl": _pair(training.dkl),
    "gradient-penalty": lambda s: training.gradient_penalty(s.loss, weight=s.eps, norm="l1"),
    "jacobian-penalty": lambda s: training.jacobian_penalty(s.loss),
    "cure": _cure,
    "llr": lambda s: training.llr(s.loss, s.threat),
    "pgd-gor": _orthogonal(8),
    "pgd-so": _orthogonal(1),
    "pgd-ls": _softened(_pgd, smoothing=0.1),
    "trades-mixup": _softened(_pair(training.trades), mix=data.mixup),
    "trades-cutmix": _softened(_pair(training.trades), mix=data.cutmix),
    "union-max": _union("max"),
    "union-mean": _union("mean"),
    "gat": _gat(None),
    "gat-trades": _gat(6.0),
    "ensemble": _ensemble,
    "fare": _fare,
    "lore": lambda s: s.loss,  # and a step of its own
    "ard": _taught(training.ard, "teacher"),
    "rslad": _taught(training.rslad, "teacher"),
    "iad-i": _wary(training.iad_i, 60 / 200, "teacher"),
    "iad-ii": _wary(training.iad_ii, 40 / 200, "teacher", "standard"),
    "b-mtard": _taught(training.b_mtard, "teacher", "standard"),
    "defensive-distillation": lambda s: training.defensive_distillation(s.loss, s.teacher),
    "hydra": _hydra,
    "ibp": _certified(jr.bounds.ibp()),
    "ibp-shi": lambda s: training.shi(s.loss, s.threat, eps=s.ramp),
    "crown-ibp": _certified(jr.bounds.crown_ibp()),
    "crown-ibp-fused": lambda s: training.fused(s.loss, s.threat, eps=s.ramp, kappa=s.kappa),
    "sabr": _between(lambda attack, bound, size: jr.shrink(bound, size, about=attack), 0.4),
    "taps": lambda s: training.certified(s.loss, s.threat, training.taps(), eps=s.ramp),
    "staps": _between(lambda attack, bound, size: jr.shrink(training.taps(bound=bound), size, about=attack), 0.4),
    "mtl-ibp": _between(partial(jr.mix, losses=True), 0.5),
    "cc-ibp": _between(jr.mix, 0.5),
    "exp-ibp": _between(partial(jr.mix, losses="product"), 0.5),
    **SMOOTHED,
}
"""By name: what makes the loss."""

CERTIFIED = {
    "ibp": 1.5,
    "ibp-shi": 1.5,
    "crown-ibp": 1.5,
    "crown-ibp-fused": 1.5,
    "sabr": 1.0,
    "taps": 1.0,
    "staps": 1.0,
    "mtl-ibp": 1.0,
    "cc-ibp": 1.0,
    "exp-ibp": 1.0,
}
"""Methods by bounds, and the multiple of eps that each trains at by default."""


NEEDS = {
    "hat": ("standard",),
    "ensemble": ("standard",),
    "fare": ("standard",),
    "lore": ("standard",),
    "ard": ("teacher",),
    "rslad": ("teacher",),
    "iad-i": ("teacher",),
    "iad-ii": ("teacher", "standard"),
    "b-mtard": ("teacher", "standard"),
}
"""Methods that take models which do not change. (Defensive distillation without a teacher trains one.)"""

PAIRS = ("lbgat", "lbgat-6")
"""Methods that train a student and a teacher at once; the student is the model of the run."""


FINE = ("fare", "lore")
"""Methods that go on from the net of ``standard``, whose answers they keep."""

DESCENTS = 5
"""Updates that LORE takes on a batch, as published."""

WARMED = frozenset(
    [
        "pgd",
        "fgsm-rs",
        "n-fgsm",
        "gradalign",
        "trades",
        "mart",
        "pgd-awp",
        "trades-awp",
        "hat",
        "lbgat",
        "lbgat-6",
        "score",
        "alp",
        "feature-scattering",
        "bilateral",
        "dkl",
        "llr",
        "pgd-gor",
        "pgd-so",
        "pgd-ls",
        "trades-mixup",
        "trades-cutmix",
        "ensemble",
        "fare",
        "ard",
        "rslad",
    ]
)
"""Methods by attacks of one radius, which can rise in a first part of the training."""


def updates(method: str, replays: int) -> int:
    """Updates of the optimiser in a step."""
    return {"free": replays, "lore": DESCENTS}.get(method, 1)


def _warmed(method: str, s: Setting) -> Any:
    """The loss, at a radius that rises where that was asked for."""
    loss, warm = METHODS[method](s), s.warm
    if warm is None:
        return loss
    return training.scheduled(lambda t: METHODS[method](s._replace(eps=warm(t))))


def step_and_memory(method: str, s: Setting, tx: optax.GradientTransformation) -> tuple[Callable[..., Any], Any]:
    """The training step of a method, and what its state remembers at first."""
    loss = _warmed(method, s)
    if method == "free":
        return training.free(loss, s.threat, tx, replays=s.replays), jnp.zeros(s.batch)
    if method == "lore":
        assert s.standard is not None, "looked at before"
        rho = 0.1 if s.weight is None else s.weight
        step = training.lore(s.loss, s.threat, tx, s.standard, rho=rho, descents=DESCENTS, attack=s.steps)
        return step, training.duals(jax.random.key(s.seed), s.classes)
    if method == "yopo":
        first, after = (
            jr.nnx.functional(s.net, call=part, dtype=s.dtype).apply for part in (type(s.net).begin, type(s.net).finish)
        )
        return training.yopo(first, jr.objectives.cross_entropy(after), s.threat, tx), None
    return training.make_step(loss, tx, accumulate=s.accumulate), getattr(loss, "start", None)
