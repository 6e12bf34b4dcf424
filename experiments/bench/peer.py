"""Asking another Python, one that has PyTorch, for its seconds."""

import json
import os
import subprocess
import tempfile
from pathlib import Path


def torch_seconds(python: str, *words: object) -> dict[str, object]:
    """What ``torch_side.py`` prints: ``seconds`` and the version of ``torch``."""
    side = str(Path(__file__).parent / "torch_side.py")
    with tempfile.TemporaryDirectory() as folder:  # away from our packages
        said = subprocess.run(
            [python, side, *map(str, words)],
            cwd=folder, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    return json.loads(said.stdout)
