"""What a value is, as a hash that another process computes again: by structure and numbers, and for functions by what they do.

A run on disk is resumed only by the call that made it, so two models, attacks or sets that could answer differently must differ
here. A function counts by its code, its defaults, the values it closed over and (in the user's own code) the globals it reads.
"""

import dataclasses
import dis
import functools
import hashlib
import inspect
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._jaxpr import ClosedJaxpr, Jaxpr, Literal

__all__ = ["describe", "digest"]

_TREEDEF = type(jax.tree.structure(0))
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis), type(NotImplemented))
_LIBRARIES = tuple(
    f"{Path(path).resolve()}{os.sep}"
    for path in (*(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")), Path(__file__).parent)
)


def digest(value: Any) -> str:
    """A short hash of a pytree, its functions included: equal in every process that builds it the same way.

    >>> import jax.numpy as jnp
    >>> digest((jnp.zeros(2), "a")) == digest((jnp.zeros(2), "a")) != digest((jnp.ones(2), "a"))
    True
    >>> scale = lambda a: lambda x: a * x
    >>> digest(scale(2.0)) == digest(scale(2.0)) != digest(scale(3.0))
    True
    """
    return _Digest().of(value)[:16]


class _Digest:
    """One walk: every object is hashed once, and one that is met inside itself counts as the fact that it recurs."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, str | None]] = {}  # the object too, so that its id stays its own

    def of(self, value: Any) -> str:
        """The hash of ``value``."""
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, repr(value))
        if id(value) not in self.known:
            self.known[id(value)] = (value, None)
            self.known[id(value)] = (value, _hash(*self.parts(value)))
        return self.known[id(value)][1] or "recurs"

    def parts(self, value: Any) -> Iterable[str]:
        """What identifies a value, as strings."""
        kind = type(value)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if isinstance(value, type):
            return "class", _name(value), *self.methods(value)
        if _is_array(value):
            return self.array(value)
        if isinstance(value, types.CodeType):
            consts = [self.of(const) for const in value.co_consts]
            return "code", value.co_code.hex(), *value.co_names, "", *value.co_freevars, "", *consts
        if isinstance(value, types.FunctionType):
            if _is_library(value.__module__):  # under a type checker too
                value = inspect.unwrap(value)
            # what a library calls by a name is that version's
            return "function", _name(value), *(() if _is_named(value) else self.function(value))
        if isinstance(value, types.MethodType):
            return "method", self.of(value.__func__), self.of(value.__self__)
        if isinstance(value, _TREEDEF):
            return "tree", self.of(value.node_data()), *map(self.of, value.children())
        if isinstance(value, ClosedJaxpr | Jaxpr):
            h = hashlib.sha256()
            describe(value, h, False, by=self.of)
            return "program", h.hexdigest()
        if isinstance(value, functools.partial):
            return _name(kind), *map(self.of, (value.func, value.args, value.keywords))
        if hasattr(kind, "__digest__"):
            return _name(kind), value.__digest__(self.of)
        if isinstance(value, dict):
            return _name(kind), *sorted(self.of(k) + self.of(v) for k, v in value.items())
        if isinstance(value, set | frozenset):
            return _name(kind), *sorted(map(self.of, value))
        if isinstance(value, tuple | list):
            return self.of(kind), *map(self.of, value)
        if not jax.tree_util.all_leaves([value]):
            leaves, treedef = jax.tree.flatten(value)
            return "pytree", self.of(treedef), *map(self.of, leaves)
        return self.other(value)

    def array(self, value: Any) -> Iterable[str]:
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return "key", str(jax.random.key_impl(value)), *self.array(jax.random.key_data(value))
        whole = np.asarray(value)
        data = repr(whole.tolist()).encode() if whole.dtype == object else np.ascontiguousarray(whole).tobytes()
        return "array", str(value.dtype), str(value.shape), hashlib.sha256(data).hexdigest()

    def function(self, value: types.FunctionType) -> Iterable[str]:
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(self.of(cell.cell_contents))
            except ValueError:  # not filled yet
                cells.append("empty")
        read = [f"{name} {self.of(value.__globals__[name])}" for name in _globals(value)]
        return (
            self.of(value.__code__), self.of(value.__defaults__), self.of(value.__kwdefaults__), *cells, "", *read,
        )  # fmt: skip

    def methods(self, kind: type) -> Iterable[str]:
        """The functions of a class of the user's own, and of its bases."""
        for base in kind.__mro__:
            for name, member in [] if _is_library(base.__module__) else sorted(vars(base).items()):
                member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if isinstance(member, types.FunctionType):
                    yield f"{name} {self.of(member)}"

    def other(self, value: Any) -> Iterable[str]:
        """An object that says nothing of itself: its class and its attributes."""
        if hasattr(value, "__wrapped__") and hasattr(value, "lower"):  # a jitted function is the function
            return "jit", self.of(value.__wrapped__)
        if isinstance(value, types.BuiltinFunctionType):
            return "builtin", _name(value), self.of(value.__self__)
        if dataclasses.is_dataclass(value):
            state = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        else:
            slots = [slot for base in type(value).__mro__ for slot in getattr(base, "__slots__", ())]
            state = {slot: getattr(value, slot) for slot in slots if not slot.startswith("__") and hasattr(value, slot)}
            state |= getattr(value, "__dict__", {})
        if state:
            return self.of(type(value)), self.of(state)
        return self.of(type(value)), _without_addresses(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "__array__")  # not the type of one


def _hash(*parts: str) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(f"{len(part)}:{part}".encode())
    return h.hexdigest()


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


@functools.cache
def _is_library(module: str | None) -> bool:
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return module in sys.builtin_module_names or (file is not None and str(Path(file).resolve()).startswith(_LIBRARIES))


def _is_named(value: types.FunctionType) -> bool:
    """Whether a library's module holds this function under its name."""
    if not _is_library(value.__module__):
        return False
    found: Any = sys.modules[value.__module__]
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return inspect.unwrap(found) is value if callable(found) else False


def _globals(value: types.FunctionType) -> list[str]:
    """The globals that a function of the user's own reads; a library's are the library's."""
    if _is_library(value.__module__):
        return []
    names, codes = set(), [value.__code__]
    while codes:
        code = codes.pop()
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        names |= {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return sorted(name for name in names if name in value.__globals__)


def _without_addresses(value: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", str(value))


def describe(value: Any, h: Any, resolved: bool, custom: bool = False, *, by: Callable[[Any], str]) -> None:
    """Hash a jaxpr, or anything found in one, by structure.

    ``resolved`` says that custom derivatives' rules are described elsewhere; any other callable counts as ``by`` says.
    """
    if isinstance(value, ClosedJaxpr):
        describe((value.jaxpr, *value.consts), h, resolved, by=by)
    elif isinstance(value, Jaxpr):
        numbers: dict[Any, int] = {}  # variables are numbered in the order they appear

        def variables(vs: Any) -> None:
            for v in vs:
                if isinstance(v, Literal):
                    describe(np.asarray(v.val), h, resolved, by=by)
                h.update(
                    f"{v.aval}".encode()
                    if isinstance(v, Literal)
                    else f"{numbers.setdefault(v, len(numbers))}:{v.aval}".encode()
                )

        variables([*value.constvars, *value.invars])
        for eqn in value.eqns:
            h.update(f"\n{eqn.primitive.name}".encode())
            variables([*eqn.invars, *eqn.outvars])
            describe(eqn.params, h, resolved, custom=eqn.primitive.name.startswith("custom_"), by=by)
        variables(value.outvars)
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            h.update(str(name).encode())
            describe(value[name], h, resolved, custom, by=by)
    elif type(value) in (tuple, list):
        h.update(f"({len(value)}".encode())
        for item in value:
            describe(item, h, resolved, custom, by=by)
    elif _is_array(value):
        h.update(f"{value.dtype}{value.shape}".encode() + np.asarray(value).tobytes())
    elif callable(value) and not isinstance(value, type) and not isinstance(value, np.dtype):
        h.update(b"rule" if resolved and custom else f"function {by(value)}".encode())
    elif resolved and custom:
        h.update(_without_addresses(value).encode())
    else:
        h.update((by(value) if " at 0x" in repr(value) else repr(value)).encode())
