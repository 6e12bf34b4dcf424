"""The table that an interpreter of graphs is: operator -> small function, one line each.

A rule is ``rule(call, *operands)`` and returns its output, or a tuple of them. An operand is a JAX array, a NumPy array (known when the
graph is traced: shapes, indices), or None where it was left out. What only shapes need is thus computed on the host, and reshapes are
static. Rules that must work on both use ``call.xp``; of one written for JAX alone the interpreter brings the answer to the host.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple


class Call(NamedTuple):
    """What a rule is told besides its operands.

    Attributes:
      attributes: of the node.
      opset: the version of the operator set that the graph was written for.
      outputs: how many outputs the node names.
      xp: ``numpy`` where all operands are on the host, else ``jax.numpy``.
    """

    attributes: Mapping[str, Any]
    opset: int
    outputs: int
    xp: ModuleType

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)


class Op(NamedTuple):
    """A rule, and which of its operands shape the program.

    Attributes:
      rule: the function.
      static: operands that must be known when the graph is traced.
      prefer: operands that are better known then (an exponent), but need not be.
      values: whether the output depends on the operands' values; False: on their shapes alone.
    """

    rule: Callable[..., Any]
    static: tuple[int, ...]
    prefer: tuple[int, ...]
    values: bool


OPS: dict[str, Op] = {}


def defop(
    names: str,
    rule: Callable[..., Any],
    *,
    static: tuple[int, ...] = (),
    prefer: tuple[int, ...] = (),
    values: bool = True,
) -> None:
    """Give each operator in ``names`` (separated by blanks) a rule."""
    OPS.update({name: Op(rule, static, prefer, values) for name in names.split()})


def ints(value: Any) -> tuple[int, ...]:
    """A known array, attribute or number as a tuple of ints."""
    if value is None:
        return ()
    return tuple(int(v) for v in (value.ravel() if hasattr(value, "ravel") else value))


def refuse(what: str) -> NotImplementedError:
    """The error of a case that no rule covers; the interpreter adds which node it was."""
    return NotImplementedError(f"{what} is not supported")
