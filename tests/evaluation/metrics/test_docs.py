"""The page of metrics has a row for each."""

from pathlib import Path

from jrobust import metrics


def test_every_metric_has_a_row():
    page = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    functions = [name for name in metrics.__all__ if name[0].islower() and name not in ("successes", "logits")]
    assert not [name for name in functions if not any(f"`{name}(" in row for row in rows)]
