"""Annotations are checked at run time in every test: jaxtyping's hook instruments the package before it is imported."""

import importlib.util

import jax
import jaxtyping
import pytest

if importlib.util.find_spec("beartype") is not None:
    jaxtyping.install_import_hook("jrobust", "beartype.beartype")


@pytest.fixture
def key():
    """A typed PRNG key; each test gets the same."""
    return jax.random.key(0)
