"""``jrobust evaluate --corruptions``: errors under corruptions instead of attacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import jrobust as jr
from jrobust.cli import _common
from jrobust.evaluation import CorruptionErrors, CorruptionRow, Row, corruption_rows
from jrobust.evaluation._report._words import severities_of
from jrobust.evaluation._suites import SUITES


def suite_of(shape: tuple[int, ...]) -> str:
    """The suite whose settings fit images [H, W, C]: by their size and channels."""
    if len(shape) != 3:
        raise ValueError(f"--corruptions takes images [N, H, W, C], got examples of shape {shape}")
    if shape == (28, 28, 1):
        return "mnist-c"
    return "cifar-c" if max(shape[:2]) <= 64 else "imagenet-c"


def chosen(
    names: tuple[str, ...], suite: str, severities: tuple[int, ...]
) -> tuple[dict[str, Any], Mapping[str, tuple[int, ...]] | tuple[int, ...] | None]:
    """Corruptions by name and their severities. "all" are those that a benchmark scores; MNIST-C was released at one severity each."""
    known = SUITES[suite]
    scored = tuple(known) if suite == "mnist-c" else jr.corruptions.scored
    wanted = dict.fromkeys(n for name in names for n in (scored if name == "all" else (name.replace("-", "_"),)))
    found = {name: _common.pick(name, known, f"corruption of {suite}") for name in wanted}
    if suite == "mnist-c" and not severities:
        return found, {name: (jr.corruptions.mnist_c_severity[name],) for name in wanted}
    return found, severities or None


def errors(
    net: Any, x: Any, y: Any, found: Mapping[str, Any], severities: Any, *, seed: int,
    batch_size: int, out: Path | None, quiet: bool,
) -> CorruptionErrors:  # fmt: skip
    """Asked, and printed as a table."""
    result = jr.evaluation.corruption_errors(
        net, x, y, corruptions=found, severities=severities, key=jax.random.key(seed), batch_size=batch_size,
        out=out, progress=not quiet,
    )  # fmt: skip
    print(result.table())
    return result


def rows(result: CorruptionErrors, title: str, seed: int, suite: str) -> tuple[Row, ...]:
    """The accuracies of a section: of the clean images, and the mean over corruptions."""
    clean, mean = result.error(), result.mean()
    numbers = (
        ("clean", "none", clean, "accuracy"),
        (
            f"mean accuracy over {len(result.wrong)} corruptions",
            f"{suite}, {severities_of(result.severities)}",
            mean,
            "mean accuracy",
        ),
    )
    return tuple(
        Row(title, name, threat, 0.0, a.side, 1 - a.value, 1 - a.high, 1 - a.low, a.n, 1.0, seed, what, level=a.level)
        for name, threat, a, what in numbers
    )


def cells(result: CorruptionErrors, suite: str) -> tuple[CorruptionRow, ...]:
    """What a report draws as a heat map."""
    return corruption_rows(
        {
            "corruption": name, "severity": s, "n": result.n, "errors": int(wrong.sum()), "suite": suite,
            "drawn": name in result.drawn,
        }
        for name, all_of in result.wrong.items()
        for s, wrong in zip(result.severities[name], all_of, strict=True)
    )  # fmt: skip
