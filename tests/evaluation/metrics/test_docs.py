"""The page of metrics shows each with its arguments, and what they return with its fields."""

import inspect
import re
from pathlib import Path

import pytest

from jrobust import metrics

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
