"""Test set-up: annotations are checked at run time, and XLA compiles fast rather than well (tests are mostly compilation)."""

import importlib.util
import os
from importlib.metadata import version

# the second flag saves a third of the time; later versions do not know it, and refuse to start
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_backend_optimization_level=0"]
    + ["--xla_cpu_use_fusion_emitters=false"] * version("jaxlib").startswith("0.10.")
    + [os.environ.get("XLA_FLAGS", "")]
)

import jax
import jaxtyping
import pytest

if importlib.util.find_spec("beartype") is not None:
    jaxtyping.install_import_hook("jrobust", "beartype.beartype")


@pytest.fixture
def key():
    """A typed PRNG key; each test gets the same."""
    return jax.random.key(0)
