"""The page of metrics shows each with its arguments, and what they return with its fields."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from jrobust import metrics, models, nnx
from jrobust.evaluation import Accuracy

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text()
CALLS = re.findall(
    r"`([^`]+)`", "\n".join(line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `"))
)
SAID_ABOVE = {"level", "batch_size"}  # once for all, in the page's first lines


def call_of(name):
    """A metric as it is called: its arguments in order, those by keyword with their defaults."""
    thing = getattr(metrics, name)
    if isinstance(thing, type):
        return f"{name}({', '.join(thing._fields)})"
    shown = []
    for p in inspect.signature(thing).parameters.values():
        if p.name in SAID_ABOVE or (p.name == "key" and p.default is None):
            continue
        required = p.default is inspect.Parameter.empty
        by_name = p.kind is inspect.Parameter.KEYWORD_ONLY
        shown.append(f"{p.name}{'=' if by_name else ''}{'' if required else repr(p.default).replace(chr(39), chr(34))}")
    return f"{name}({', '.join(shown)})"


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_metric_has_a_row_with_its_arguments(name):
    assert call_of(name) in CALLS


def test_no_row_is_of_nothing():
    assert {call.split("(")[0] for call in CALLS if "(" in call} == set(metrics.__all__)


@pytest.mark.parametrize(
    "kind",
    [float, np.ndarray, dict[int, Accuracy], dict[str, np.ndarray], tuple[str, ...], tuple[Accuracy, ...]],
    ids=str,
)
def test_what_is_no_share_and_no_mean_is_said_to_be(kind):
    returned = {
        name
        for name in metrics.__all__
        if not isinstance(thing := getattr(metrics, name), type) and inspect.signature(thing).return_annotation == kind
    }
    plain = getattr(kind, "__origin__", kind).__name__
    (row,) = (
        line for line in PAGE.split("## What they return")[1].splitlines() if re.match(rf"\| `(np\.)?{plain}`", line)
    )
    assert returned
    assert returned <= set(re.findall(r"`(\w+)`", row.split(" | ")[1]))


def test_the_page_says_which_layers_come_twice():
    net, x = models.create("cnn-small", shape=(8, 8, 1), classes=3, seed=0), np.ones((2, 8, 8, 1), np.float32)
    seen = nnx.activations(net, x)
    assert all(f"`{name}`" in PAGE for name in ("begin", "finish", "normalise", "body/0", "head"))
    np.testing.assert_array_equal(seen["begin"], seen["body/0"])
    np.testing.assert_array_equal(seen["finish"], seen["head"])
    np.testing.assert_array_equal(seen["normalise"], x)
