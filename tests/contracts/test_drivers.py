"""What holds of every driver of smoothing: an answer is about one example, whatever is computed beside it."""

import inspect
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jrobust import smoothing
from tests.contracts.drivers import DRIVERS

ROOT = Path(__file__).parents[2]
# public functions that are neither drivers nor noises, and the files that hold them to their closed forms
PARTS = {
    "test_bands": ["bands"],
    "test_diffusion": ["cosine_schedule", "denoised", "edm_noise", "linear_schedule", "one_step", "timestep"],
    "test_localized": ["collective"],
    "test_medians": ["iou_lower", "median_bounds"],
    "test_noises": ["certified_flips", "needed"],
    "test_parameters": ["blurred"],
    "test_paths": ["rotation_path", "scaling_path"],
    "test_points": ["parts"],
    "test_purify": ["diffpure", "diffusion_classifier"],
    "test_segment": ["hierarchy"],
    "test_smoothing": ["cohen", "smooth"],
}


@pytest.mark.parametrize("name", DRIVERS)
def test_an_answer_depends_on_neither_the_batch_nor_the_other_examples(name, key):
    driver, x = DRIVERS[name]
    whole = driver(x, key=key, batch_size=64)
    for other in (driver(x, key=key, batch_size=7), driver(x[:2], key=key, batch_size=64)):
        for column, values in other.items():
            np.testing.assert_allclose(values, whole[column][: len(values)], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DRIVERS)
def test_bad_examples_are_told_before_the_work(name, key):
    driver, x = DRIVERS[name]
    with pytest.raises(ValueError, match="nan"):
        driver(x.at[1].set(jnp.nan), key=key)
    with pytest.raises(ValueError, match="empty"):
        driver(x[:0], key=key)


def test_every_public_function_is_in_a_table_and_in_the_docs():
    functions = {n for n in smoothing.__all__ if inspect.isfunction(getattr(smoothing, n))}
    tabled = (ROOT / "tests" / "contracts" / "noises.py").read_text()
    noises = {n for n in functions if f"smoothing.{n}(" in tabled}
    parts = {n for names in PARTS.values() for n in names}
    assert functions == noises | parts | set(DRIVERS)
    assert len(noises) >= 17
    for file, names in PARTS.items():
        tested = (ROOT / "tests" / "smoothing" / f"{file}.py").read_text()
        assert [n for n in names if not re.search(rf"\b{n}\(", tested)] == []
    said = (ROOT / "docs" / "smoothing.md").read_text()
    assert [n for n in sorted(functions) if not re.search(rf"\b{n}\(|\.{n}\b|`{n}`", said)] == []
