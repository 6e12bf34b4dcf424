"""Protocols: named, versioned questions about a model, as frozen data, so that two numbers on one leaderboard answer the same one."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from jrobust import attacks, bounds, corruptions, sets, smoothing
from jrobust._checks import check_count
from jrobust._combinators import cascade, restarts
from jrobust.evaluation._checks import check_data
from jrobust.evaluation._corruptions import corruption_errors
from jrobust.evaluation._evaluate import evaluate
from jrobust.evaluation._report._rows import rows_of, smoothed_rows
from jrobust.evaluation._report._sections import Row
from jrobust.evaluation._report._words import severities_of


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One benchmark: what is asked of a model, to the last number. Another question is another version.

    Attributes:
      name, version: under which results are comparable.
      kind: "attacks", "bounds", "corruptions" or "smoothing".
      dataset: of `jr.data.load`; the first ``n`` examples of its test split count, all of them.
      n: examples.
      asked: the numbers of the question, by name: radius, noise, budgets of the oracles.
      ranked: name of the number by which models are ranked.
      higher: whether more of it is better.
      seed: of all keys.
    """

    name: str
    version: int
    kind: str
    dataset: str
    n: int
    asked: tuple[tuple[str, Any], ...]
    ranked: str
    higher: bool = True
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of all that is asked: two protocols of one name and version that differ are found out."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def title(self) -> str:
        """For a heading: name and version."""
        return f"{self.name} v{self.version}"


def _linf(name: str, dataset: str, n: int, eps: float) -> Protocol:
    return Protocol(
        name, 1, "attacks", dataset, n, (("eps", eps), ("steps", 100), ("queries", 5000)), "autoattack"
    )  # fmt: skip


def _verified(name: str, dataset: str, n: int, eps: float) -> Protocol:
    return Protocol(name, 1, "bounds", dataset, n, (("eps", eps), ("steps", 20), ("restarts", 5)), "crown")


def _corrupted(name: str, dataset: str, n: int, kinds: tuple[str, ...], severities: tuple[int, ...]) -> Protocol:
    asked = (("corruptions", kinds), ("severities", severities))
    # version 2: JPEG gives libjpeg's own bytes
    return Protocol(name, 2, "corruptions", dataset, n, asked, "mean corruption error", higher=False)


def _released(name: str, dataset: str, n: int) -> Protocol:
    """MNIST-C, each of its corruptions at the severity of the released set."""
    each = corruptions.mnist_c_severity
    asked = (("suite", "mnist-c"), ("corruptions", tuple(each)), ("severity of each", tuple(each.values())))
    return Protocol(name, 1, "corruptions", dataset, n, asked, "mean corruption error", higher=False)


def _smoothed(name: str, dataset: str, n: int, sigma: float, draws: int) -> Protocol:
    asked = (("sigma", sigma), ("n0", 100), ("draws", draws), ("alpha", 1e-3))
    return Protocol(name, 1, "smoothing", dataset, n, asked, "average certified radius")


_KNOWN = (
    _linf("linf-digits", "digits", 355, 0.1),
    _linf("linf-mnist", "mnist", 1000, 0.3),
    _linf("linf-cifar10", "cifar10", 1000, 8 / 255),
    _verified("verified-digits", "digits", 355, 0.1),
    _verified("verified-mnist", "mnist", 1000, 0.1),
    _corrupted("corruptions-digits", "digits", 355, tuple(corruptions.scored), (1, 3, 5)),
    _corrupted("corruptions-cifar10", "cifar10", 1000, tuple(corruptions.scored), (1, 2, 3, 4, 5)),
    _released("corruptions-mnist", "mnist", 1000),
    _smoothed("smoothing-digits", "digits", 355, 0.25, 1000),
    _smoothed("smoothing-mnist", "mnist", 500, 0.25, 10_000),
    _smoothed("smoothing-cifar10", "cifar10", 500, 0.25, 10_000),
)
SUITES: Mapping[str, Mapping[str, corruptions.Corruption]] = MappingProxyType(
    {"cifar-c": corruptions.cifar_c, "imagenet-c": corruptions.imagenet_c, "mnist-c": corruptions.mnist_c}
)
"""Suites of corruptions by the name that reports write."""
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({p.name: p for p in _KNOWN})
"""The protocols by name."""


def run_protocol(
    protocol: Protocol,
    model: Any,
    x: Any,
    y: Any,
    *,
    title: str,
    out: Any = None,
    batch_size: int = 256,
    progress: bool = False,
) -> tuple[Row, ...]:
    """Ask a model what a protocol asks.

    Args:
      protocol: one of `PROTOCOLS`, or of your own.
      model: as in `evaluate`.
      x: the test split [N, ...], floating in [0, 1]; its first ``protocol.n`` examples are used.
      y: labels [N].
      title: of the model, in the rows.
      out: a directory; attacks, bounds and smoothing go on there where they were stopped.
      batch_size: inputs at once, >= 1. It changes no answer.
      progress: draw a bar (needs rich).

    Returns:
      The numbers, clean accuracy (of the smoothed classifier for smoothing) and ``protocol.ranked`` among them, each with its side, n,
      interval and confidence.

    Raises:
      ValueError: fewer examples than the protocol is about; an unknown kind.

    Guarantee: that of each row's side: at most what an attack left, at least what is proven. An error under corruptions bounds nothing
      but itself, and under random ones it is that of one draw.

    >>> import dataclasses, jax.numpy as jnp
    >>> tiny = dataclasses.replace(PROTOCOLS["verified-digits"], n=2)
    >>> rows = run_protocol(tiny, lambda x: x, jnp.array([[0.2, 0.8], [0.45, 0.55]]), jnp.array([1, 1]), title="identity")
    >>> [(r.name, r.side, r.value) for r in rows]
    [('clean', 'exact', 1.0), ('pgd', 'lower', 0.5), ('crown', 'upper', 0.5)]
    """
    if protocol.kind not in _RUN:
        raise ValueError(f"a protocol is of kind {', '.join(_RUN)}; got {protocol.kind!r}")
    check_count(batch_size, "batch_size", "run_protocol")
    data = check_data(x, y)
    if data.n < protocol.n:
        raise ValueError(
            f"{protocol.title} is about the first {protocol.n} examples of {protocol.dataset}; there are {data.n}"
        )
    given = {"title": title, "out": out, "batch_size": batch_size, "progress": progress}
    return _RUN[protocol.kind](protocol, model, data.x[: protocol.n], data.y[: protocol.n], dict(protocol.asked), given)


def _evaluated(oracles: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., tuple[Row, ...]]:
    def run(p: Protocol, model: Any, x: Any, y: Any, asked: dict[str, Any], given: dict[str, Any]) -> tuple[Row, ...]:
        options = {k: given[k] for k in ("out", "batch_size", "progress")}
        threat = sets.linf(asked["eps"], clip=(0, 1))
        ev = evaluate(model, x, y, threat=threat, oracles=oracles(asked), key=jax.random.key(p.seed), **options)
        return rows_of(ev, model=given["title"], seed=p.seed)

    return run


def _attacks(asked: dict[str, Any]) -> dict[str, Any]:
    return {"autoattack": attacks.autoattack(steps=asked["steps"], queries=asked["queries"])}


def _bounds(asked: dict[str, Any]) -> dict[str, Any]:
    ladder = cascade(bounds.ibp(), bounds.crown_ibp(), bounds.crown())
    return {"pgd": restarts(attacks.pgd(steps=asked["steps"]), asked["restarts"]), "crown": ladder}


def _corruptions(
    p: Protocol, model: Any, x: Any, y: Any, asked: dict[str, Any], given: dict[str, Any]
) -> tuple[Row, ...]:
    suite, names = suite_of(p), asked["corruptions"]
    single = {name: (s,) for name, s in zip(names, asked.get("severity of each", ()), strict=False)}
    found = corruption_errors(
        model, x, y, corruptions={name: SUITES[suite][name] for name in names}, severities=single or asked["severities"],
        key=jax.random.key(p.seed), batch_size=given["batch_size"], out=given["out"],
        progress=given["progress"],
    )  # fmt: skip
    title, clean, mean = given["title"], found.error(), found.mean()
    where = f"{suite}, {severities_of(found.severities)}"
    return (
        Row(
            title,
            "clean",
            "none",
            0.0,
            clean.side,
            1 - clean.value,
            1 - clean.high,
            1 - clean.low,
            clean.n,
            1.0,
            p.seed,
        ),
        Row(title, p.ranked, where, 0.0, mean.side, mean.value, mean.low, mean.high, mean.n, 1.0, p.seed, "error"),
    )


def _smoothing(
    p: Protocol, model: Any, x: Any, y: Any, asked: dict[str, Any], given: dict[str, Any]
) -> tuple[Row, ...]:
    noise, title = smoothing.gaussian(asked["sigma"]), given["title"]
    cert = smoothing.certify(
        model, x, noise=noise, n0=asked["n0"], n=asked["draws"], alpha=asked["alpha"], key=jax.random.key(p.seed),
        out=given["out"], progress=given["progress"],
    )  # fmt: skip
    rows = smoothed_rows(cert, y, model=title, seed=p.seed, radii=(0.0, asked["sigma"], 2 * asked["sigma"]))
    mean = cert.average_radius(y)
    acr = Row(
        title, p.ranked, cert.norm, 0.0, "lower", mean.value, mean.low, mean.high, mean.n, mean.confidence, p.seed, "radius", "smoothed"
    )  # fmt: skip
    return (*rows, acr)


def suite_of(p: Protocol) -> str:
    """Whose settings a protocol's corruptions have; protocols that do not say mean those of CIFAR-C."""
    return str(dict(p.asked).get("suite", "cifar-c"))


_RUN: dict[str, Callable[..., tuple[Row, ...]]] = {
    "attacks": _evaluated(_attacks),
    "bounds": _evaluated(_bounds),
    "corruptions": _corruptions,
    "smoothing": _smoothing,
}


def place_of(run: Any, protocol: Protocol) -> Path:
    """Where a run keeps what a protocol has asked of it."""
    return Path(run) / f"bench-{protocol.name}-v{protocol.version}-{protocol.fingerprint}"
