"""Published settings by name, for ``jrobust train --preset NAME``, each with the figures that its source reports for it.

Where a source says less than a training needs, or we could not look it up (schedules of FAT and LBGAT, widths of ALP's and IAAT's nets,
weight decay of feature scattering, nearly all of the regularisers'), the setting is PGD-AT's, or ours. CURE is published as
fine-tuning: its preset is natural training at first. ARD, RSLAD and B-MTARD have a tenth of the authors' learning rate and ten
times their weight decay: our loss is K = 10 times theirs, so the updates are the same. HYDRA's net that it begins with is trained for as
many epochs as its other two stages have (published: 100, and 20 and 100). The nets that cannot stretch are narrower than published (the
perceptrons have two hidden layers of 256 where the authors' have three of 1024) and see cross-entropy of scaled logits, where Cayley's
authors have a hinge on the margin; the spectral perceptron has Björck's rate and epochs, as those authors give it. Margin-CS, published
with one sensitive class of CIFAR-10 (cats) at sigma 0.5, has the same settings at the other levels.
The recipe for transformers (``cifar10-vit-pgd-ls``)
is published for ImageNet at 4/255, with jitter of colours and dropped paths, which we have not.
"""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

from jrobust.cli._train import Train


class Published(NamedTuple):
    """What a source reports of a setting, in per cent of the test split.

    Attributes:
      clean: accuracy.
      robust: accuracy under attack, or certified.
      by: what judged it.
      source: who reports it.
      differs: what that training had and the preset has not.
    """

    clean: float
    robust: float
    by: str
    source: str
    differs: str = ""


def _train(**options: Any) -> Train:
    return Train(**options)


class Preset(NamedTuple):
    """A training and what is published of it (None: no figure that we could verify at a source)."""

    train: Train
    published: Published | None = None


_CIFAR: dict[str, Any] = {
    "dataset": "cifar10",
    "eps": 8 / 255,
    "augment": True,
    "optimiser": "sgd",
    "clip_norm": None,
    "held_out": 0.02,
}
_LONG: dict[str, Any] = {**_CIFAR, "lr": 0.1, "epochs": 200, "drops": (0.5, 0.75), "drop": 0.1, "weight_decay": 5e-4}
_SCHOOL: dict[str, Any] = {
    **_LONG,
    "lr": 0.01,
    "epochs": 300,
    "drops": (215 / 300, 260 / 300, 285 / 300),
    "weight_decay": 2e-3,
}
_MIXED: dict[str, Any] = {  # Rebuffi et al. without further data; their inner steps are Adam's, their nets have SiLU
    **_CIFAR, "augment": False, "lr": 0.4, "epochs": 400, "batch_size": 1024, "schedule": "cosine", "peak": 10 / 400, "nesterov": True,
    "ema": True, "weight_decay": 5e-4,
}  # fmt: skip
_COMPOSITE: dict[str, Any] = {  # the authors' schedule drops once: their later drops cannot be reached
    **_CIFAR, "model": "wide-resnet-34-10", "lr": 0.1, "epochs": 150, "batch_size": 256, "drops": (0.5,), "drop": 0.1, "weight_decay": 2e-4,
}  # fmt: skip
_LIGHT: dict[str, Any] = {  # for transformers: weak augmentation, large weight decay
    **_CIFAR, "model": "vit-tiny", "optimiser": "adamw", "weight_decay": 0.5, "schedule": "cosine",
}  # fmt: skip
_FINE: dict[str, Any] = {  # published for CLIP's ViT-B/32
    "dataset": "cifar10", "model": "vit-tiny", "eps": 4 / 255, "lr": 1e-5, "epochs": 5, "batch_size": 448, "optimiser": "adamw",
    "weight_decay": 1e-4, "clip_norm": None, "schedule": "cosine", "peak": 0.0,
}  # fmt: skip
_SHORT: dict[str, Any] = {**_CIFAR, "schedule": "cyclic", "weight_decay": 5e-4}
_SMALL, _WIDE = "preact-resnet-18", "wide-resnet-34-10"
_CERTIFIED: dict[str, Any] = {
    "model": "cnn-7",
    "lr": 5e-4,
    "drop": 0.2,
    "kappa": 0.0,
    "attack_steps": 8,
}
_MNIST: dict[str, Any] = {
    **_CERTIFIED,
    "dataset": "mnist",
    "epochs": 70,
    "batch_size": 256,
    "warmup": 1 / 70,
    "ramp": 20 / 70,
    "drops": (50 / 70, 60 / 70),
}
_CIFAR_CERTIFIED: dict[str, Any] = {
    **_CERTIFIED,
    "dataset": "cifar10",
    "epochs": 160,
    "augment": True,
    "warmup": 1 / 160,
    "ramp": 0.5,
    "drops": (120 / 160, 140 / 160),
}


_WIDER = ("ibp", "ibp-shi", "crown-ibp", "crown-ibp-fused")  # train at a multiple of the radius on MNIST
_BOUNDS = dict.fromkeys((*_WIDER, "taps", "staps"))  # no weight of their own


def _certified() -> dict[str, Preset]:
    """IBP and what lies between it and an attack, with the weights published for each radius."""
    pareto = "CTRAIN's models, alpha-beta-CROWN at 1000 s (300 s on MNIST)"
    found = {
        ("mnist-0.3", "ibp-shi"): Published(98.55, 93.7, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("cifar10-2", "ibp-shi"): Published(69.18, 55.99, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("cifar10-8", "ibp-shi"): Published(50.98, 35.35, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("mnist-0.3", "sabr"): Published(98.77, 92.8, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("cifar10-2", "sabr"): Published(79.90, 64.49, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("cifar10-8", "sabr"): Published(54.93, 34.96, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("mnist-0.3", "mtl-ibp"): Published(98.66, 92.4, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("cifar10-2", "mtl-ibp"): Published(79.10, 64.61, pareto, "CTRAIN", "hyper-parameters tuned by search"),
        ("cifar10-8", "mtl-ibp"): Published(51.87, 35.74, pareto, "CTRAIN", "hyper-parameters tuned by search"),
    }
    places = {
        "mnist-0.1": (_MNIST, 0.1, 2.0, {**_BOUNDS, "sabr": 0.4, "mtl-ibp": 0.01, "cc-ibp": 0.1}),
        "mnist-0.3": (_MNIST, 0.3, 1.334, {**_BOUNDS, "sabr": 0.6, "mtl-ibp": 0.08, "cc-ibp": 0.3}),
        "cifar10-2": (
            _CIFAR_CERTIFIED, 2 / 255, 1.0, {**_BOUNDS, "sabr": 0.1, "mtl-ibp": 4e-3, "cc-ibp": 1e-2, "exp-ibp": 9.5e-2},
        ),
        "cifar10-8": (_CIFAR_CERTIFIED, 8 / 255, 1.0, {**_BOUNDS, "sabr": 0.7, "mtl-ibp": 0.5, "cc-ibp": 0.5, "exp-ibp": 0.5}),
    }  # fmt: skip
    made = {}
    for place, (setting, eps, multiplier, weights) in places.items():
        for method, weight in weights.items():
            wider = multiplier if method in _WIDER else 1.0
            train = _train(**setting, method=method, eps=eps, weight=weight, eps_multiplier=wider)
            made[f"{place}-{method}"] = Preset(train, found.get((place, method)))
    return made


def _smoothed() -> dict[str, Preset]:
    """Training under noise for CIFAR-10; what is published is certified accuracy of a ResNet-110 at radius 0 and at 0.5."""
    place = {"dataset": "cifar10", "model": _SMALL, "augment": True, "optimiser": "sgd", "clip_norm": None, "drop": 0.1}
    usual = {**place, "lr": 0.1, "batch_size": 256, "weight_decay": 1e-4}
    settings: dict[str, dict[str, Any]] = {
        "noisy": {**usual, "epochs": 90, "drops": (1 / 3, 2 / 3)},
        "stability": {**usual, "epochs": 90, "drops": (1 / 3, 2 / 3)},
        "smooth-adv": {**usual, "epochs": 150, "drops": (1 / 3, 2 / 3), "eps": 255 / 255},
        "macer": {
            **place,
            "lr": 0.01,
            "batch_size": 64,
            "weight_decay": 1e-4,
            "epochs": 440,
            "drops": (200 / 440, 400 / 440),
        },
        "margin-cs": {
            **place,
            "lr": 0.01,
            "batch_size": 64,
            "weight_decay": 5e-4,
            "epochs": 440,
            "drops": (200 / 440, 400 / 440),
            "sensitive": (3,),
        },
        "consistency": {**usual, "epochs": 150, "drops": (1 / 3, 2 / 3)},
        "smooth-mix": {**usual, "epochs": 150, "drops": (1 / 3, 2 / 3), "attack_steps": 4},
    }
    figures = {
        "noisy": {0.25: (74.8, 42.8), 0.5: (65.2, 41.4), 1.0: (47.2, 34.0)},
        "macer": {0.25: (81.0, 59.0), 0.5: (66.0, 53.0), 1.0: (45.0, 38.0)},
        "consistency": {0.25: (75.8, 58.1), 0.5: (64.3, 50.6), 1.0: (46.3, 38.1)},
        "smooth-mix": {0.25: (77.1, 57.9), 0.5: (64.4, 49.5)},
    }
    who = {"noisy": "the authors' logs, 500 images", "macer": "the authors' README"}
    made = {}
    for method, setting in settings.items():
        for sigma in (0.25, 0.5, 1.0):
            found = figures.get(method, {}).get(sigma)
            source = who.get(method, "the authors' logs, 10,000 images")
            published = (
                None
                if found is None
                else Published(*found, "certified at radius 0.5", source, "a ResNet-110, clean: certified at radius 0")
            )
            made[f"cifar10-{sigma:g}-{method}"] = Preset(_train(**setting, method=method, sigma=sigma), published)
    return made


def _unstretched() -> dict[str, Preset]:
    """Nets of Lipschitz constant 1 in l2, for ``jrobust evaluate --norm l2 --oracle margin``, and spectral normalisation."""
    plain: dict[str, Any] = {"method": "natural", "clip_norm": None, "scale": 10.0}
    perceptron = {**plain, "dataset": "mnist", "epochs": 200, "drops": (60 / 200, 100 / 200, 150 / 200), "drop": 0.1}
    cayley = {**plain, "dataset": "cifar10", "augment": True, "lr": 0.01, "epochs": 100, "batch_size": 256}
    trains = [
        _train(**perceptron, model="lipschitz-mlp"),
        _train(**perceptron, model="spectral-mlp"),
        _train(**cayley, model="lipschitz-cnn", schedule="cyclic", peak=0.4),
    ]
    return {f"{t.dataset}-{t.model}-{t.method}": Preset(t) for t in trains}


PRESETS: dict[str, Preset] = {
    "cifar10-vit-pgd-ls": Preset(
        _train(**_LIGHT, method="pgd-ls", lr=5e-4, epochs=100, peak=0.1, attack_steps=1, eps_warmup=0.1)
    ),
    "cifar10-vit-trades": Preset(
        _train(**_LIGHT | {"schedule": "steps"}, method="trades", lr=2e-4, epochs=20, drops=(0.5, 0.75), drop=0.1),
        Published(90.06, 56.14, "AutoAttack", "RobustBench", "an XCiT-S12 that began as one robust on ImageNet"),
    ),
    "cifar10-pgd": Preset(_train(**_LONG, model=_SMALL, method="pgd")),
    "cifar10-trades": Preset(
        _train(
            **_CIFAR | {"eps": 0.031}, model=_WIDE, method="trades", lr=0.1, epochs=76, drops=(75 / 76,), drop=0.1, weight_decay=2e-4
        ),
        Published(84.92, 53.08, "AutoAttack", "RobustBench", "steps of 0.007"),
    ),
    "cifar10-mart": Preset(
        _train(
            **_CIFAR, model=_SMALL, method="mart", lr=0.01, epochs=120, drops=(75 / 120, 90 / 120, 100 / 120), drop=0.1,
            weight_decay=3.5e-3,
        )
    ),
    "cifar10-pgd-awp": Preset(_train(**_LONG, model=_SMALL, method="pgd-awp")),
    "cifar10-trades-awp": Preset(
        _train(**_LONG, model=_WIDE, method="trades-awp"),
        Published(85.36, 56.17, "AutoAttack", "RobustBench", "AWP from epoch 10 on"),
    ),
    "cifar10-hat": Preset(
        _train(**_SHORT, model=_SMALL, method="hat", lr=0.21, epochs=50, nesterov=True),
        Published(84.90, 49.08, "AutoAttack", "RobustBench", "a standard net of the authors"),
    ),
    "cifar10-gkl": Preset(
        _train(**_LONG | {"lr": 0.2}, model=_WIDE, method="gkl"),
        Published(85.31, 57.13, "AutoAttack", "the authors' README", "AWP from epoch 10, growing eps, an average by epoch"),
    ),
    "cifar10-score": Preset(_train(**_LONG | {"lr": 0.2, "batch_size": 512}, model="wide-resnet-28-10", method="score")),
    "cifar10-fgsm-rs": Preset(
        _train(**_SHORT, model=_SMALL, method="fgsm-rs", lr=0.2, epochs=15),
        Published(86.06, 46.06, "PGD-50 with 10 restarts", "the authors' README", "crafted in training mode"),
    ),
    "cifar10-n-fgsm": Preset(_train(**_SHORT, model=_SMALL, method="n-fgsm", lr=0.2, epochs=30)),
    "cifar10-gradalign": Preset(_train(**_SHORT | {"peak": 0.4}, model=_SMALL, method="gradalign", lr=0.3, epochs=30)),
    "cifar10-yopo": Preset(
        _train(
            **_CIFAR, model=_WIDE, method="yopo", lr=0.04, epochs=36, batch_size=256, drops=(30 / 36, 34 / 36), drop=0.1, weight_decay=5e-4
        ),
        Published(87.20, 44.83, "AutoAttack", "RobustBench", "the sum of the gradients, here their mean"),
    ),
    "cifar10-fat-trades": Preset(
        _train(**_CIFAR, model=_WIDE, method="fat-trades", lr=0.1, epochs=120, drops=(75 / 120, 90 / 120), drop=0.1, weight_decay=2e-4),
        Published(84.52, 53.51, "AutoAttack", "RobustBench", "eps 0.031"),
    ),
    "cifar10-lbgat": Preset(
        _train(**_CIFAR, model=_WIDE, method="lbgat", lr=0.1, epochs=100, drops=(75 / 100, 90 / 100), drop=0.1, weight_decay=2e-4),
        Published(88.22, 52.86, "AutoAttack", "RobustBench", "a ResNet-18 as teacher, steps of 0.007"),
    ),
    "cifar10-lbgat-6": Preset(
        _train(**_CIFAR, model=_WIDE, method="lbgat-6", lr=0.1, epochs=100, drops=(75 / 100, 90 / 100), drop=0.1, weight_decay=2e-4)
    ),
    "cifar10-cfa": Preset(_train(**_LONG, model=_SMALL, method="cfa")),
    "cifar10-cfa-trades": Preset(_train(**_LONG, model=_SMALL, method="cfa-trades")),
    "cifar10-fat": Preset(
        _train(**_CIFAR, model=_SMALL, method="fat", lr=0.1, epochs=120, drops=(75 / 120, 90 / 120), drop=0.1, weight_decay=2e-4)
    ),
    "cifar10-iaat": Preset(_train(**_LONG, model=_SMALL, method="iaat")),
    "cifar10-las-at": Preset(
        _train(**_LONG | {"epochs": 110, "drops": (99 / 110, 104 / 110)}, model=_WIDE, method="las-at"),
        Published(84.98, 56.26, "AutoAttack", "RobustBench", "a variant, of LAS-AT, LAS-TRADES and LAS-AWP, that it does not name"),
    ),
    "cifar10-alp": Preset(_train(**_LONG, model=_SMALL, method="alp")),
    "cifar10-feature-scattering": Preset(
        _train(
            **_CIFAR, model="wide-resnet-28-10", method="feature-scattering", lr=0.1, epochs=200, batch_size=60, drops=(0.3, 0.45),
            drop=0.1, weight_decay=5e-4,
        )
    ),
    "cifar10-bilateral": Preset(
        _train(**_LONG | {"weight_decay": 2e-4}, model="wide-resnet-28-10", method="bilateral"),
        Published(91.2, 52.5, "PGD-100 with 100 restarts", "the authors' README"),
    ),
    "cifar10-free": Preset(
        _train(**_SHORT, model=_SMALL, method="free", lr=0.04, epochs=10, replays=8),
        Published(85.96, 46.33, "PGD-50 with 10 restarts", "the FGSM-RS authors' README"),
    ),
    "cifar10-dkl": Preset(
        _train(**_CIFAR | {"eps": 0.031}, model=_WIDE, method="dkl", lr=0.1, epochs=76, drops=(75 / 76,), drop=0.1, weight_decay=2e-4)
    ),
    "cifar10-gradient-penalty": Preset(_train(**_LONG, model=_SMALL, method="gradient-penalty")),
    "cifar10-jacobian-penalty": Preset(_train(**_LONG, model=_SMALL, method="jacobian-penalty")),
    "cifar10-cure": Preset(_train(**_LONG, model=_SMALL, method="cure")),
    "cifar10-llr": Preset(
        _train(**_LONG, model=_WIDE, method="llr"),
        Published(86.28, 52.84, "AutoAttack", "LBGAT's authors", "a WideResNet-40-8"),
    ),
    "cifar10-pgd-gor": Preset(_train(**_LONG, model=_SMALL, method="pgd-gor")),
    "cifar10-pgd-so": Preset(_train(**_LONG, model=_SMALL, method="pgd-so")),
    "cifar10-pgd-ls": Preset(_train(**_LONG, model=_SMALL, method="pgd-ls")),
    "cifar10-trades-mixup": Preset(_train(**_MIXED, model="wide-resnet-28-10", method="trades-mixup")),
    "cifar10-trades-cutmix": Preset(_train(**_MIXED, model="wide-resnet-28-10", method="trades-cutmix")),
    "cifar10-union-max": Preset(_train(**_LONG, model=_SMALL, method="union-max")),
    "cifar10-union-mean": Preset(_train(**_LONG, model=_SMALL, method="union-mean")),
    "cifar10-gat": Preset(_train(**_COMPOSITE, method="gat")),
    "cifar10-gat-trades": Preset(_train(**_COMPOSITE, method="gat-trades")),
    "cifar10-ensemble": Preset(_train(**_LONG, model=_SMALL, method="ensemble")),
    "cifar10-fare": Preset(_train(**_FINE, method="fare")),
    "cifar10-lore": Preset(_train(**_FINE, method="lore", weight=0.01)),
    "cifar10-ard": Preset(_train(**_LONG | {"lr": 0.01, "weight_decay": 5e-3}, model=_SMALL, method="ard")),
    "cifar10-rslad": Preset(_train(**_SCHOOL, model=_SMALL, method="rslad")),
    "cifar10-iad-i": Preset(_train(**_LONG, model=_SMALL, method="iad-i")),
    "cifar10-iad-ii": Preset(_train(**_LONG, model=_SMALL, method="iad-ii")),
    "cifar10-b-mtard": Preset(_train(**_SCHOOL, model=_SMALL, method="b-mtard")),
    "cifar10-defensive-distillation": Preset(_train(**_LONG, model=_SMALL, method="defensive-distillation")),
    "cifar10-hydra": Preset(
        _train(
            **_CIFAR, model="wide-resnet-28-10", method="hydra", lr=0.01, first_lr=0.1, epochs=120, schedule="cosine", peak=0.0,
            weight_decay=1e-4,
        ),
        Published(88.98, 57.14, "AutoAttack", "RobustBench", "further images without labels"),
    ),
    **_certified(),
    **_smoothed(),
    **_unstretched(),
}  # fmt: skip
"""By name, ``DATASET-METHOD`` (certified: ``DATASET-RADIUS-METHOD``, CIFAR-10's radius in 255ths; under noise ``DATASET-SIGMA-METHOD``;
nets that cannot stretch: ``DATASET-MODEL-METHOD``)."""


def expand(argv: Sequence[str]) -> list[str]:
    """The words of a command with ``--preset NAME`` replaced by what it stands for; the user's own words go before it.

    >>> expand(["train", "--preset", "cifar10-fgsm-rs", "--epochs", "5"])[-4:]
    ['--held-out', '0.02', '--epochs', '5']
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--preset=") else [word])]
    if "--preset" not in words:
        return list(argv)
    at = words.index("--preset")
    name = words[at + 1] if at + 1 < len(words) else ""
    if words[0] != "train" or name not in PRESETS:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), PRESETS, n=1)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"--preset is for jrobust train, and got {name!r};{hint} there are {', '.join(PRESETS)}")
    own = words[1:at] + words[at + 2 :]
    said = {word.split("=", 1)[0].replace("_", "-").replace("--no-", "--") for word in own if word.startswith("--")}
    return [
        "train",
        *(
            w
            for flag, more in flags(PRESETS[name].train)
            if flag.replace("--no-", "--") not in said
            for w in (flag, *more)
        ),
        *own,
    ]


def flags(train: Train) -> list[tuple[str, list[str]]]:
    """The options of a training that are not the default ones."""
    found = []
    for name, default in vars(Train()).items():
        value, flag = getattr(train, name), "--" + name.replace("_", "-")
        if value == default:
            continue
        if isinstance(value, bool):
            found.append((flag if value else "--no-" + flag[2:], []))
        else:
            found.append((flag, [str(v) for v in (value if isinstance(value, tuple) else (value,))]))
    return found
