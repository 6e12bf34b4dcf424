"""Test set-up: annotations are checked at run time, and XLA compiles fast rather than well (tests are mostly compilation)."""

import gc
import importlib.util
import itertools
import os
from importlib.metadata import version
from pathlib import Path

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


MAPS = Path("/proc/self/maps")
_done = itertools.count(1)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forget compiled programs in time: each takes memory maps, of which Linux gives a process 65,530; beyond that XLA crashes."""
    yield
    if next(_done) % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()
        gc.collect()
