"""Names for the types that appear in public signatures."""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Model", "PRNGKeyArray", "Point", "PyTree", "Side"]

Side = Literal["lower", "upper", "exact", "estimate"]
"""Which side of a worst case a number bounds; an "estimate" bounds nothing."""

Point = PyTree
"""One example: an array, or (for product sets) a tuple of arrays."""

Model = Callable[[Any], Any]
"""A batched callable ``model(x[B, ...]) -> logits[B, K]``."""
