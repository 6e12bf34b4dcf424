"""A user's model as a pure function of its arrays, so that new parameters never recompile a driver.

A pytree (an NNX or Equinox module, ``jax.tree_util.Partial``) already says what its arrays are. A plain closure does not: it is
traced, the arrays it closed over become arguments, and callables that trace to the same program share one traced object, so
that jit's cache sees the same function again.
"""

import contextlib
import dataclasses
import hashlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._digest import describe
from jrobust._jaxpr import ClosedJaxpr, Literal, bind_eqn, jaxpr_as_fun, trace
from jrobust._objective import Stochastic
from jrobust._tree import bind
from jrobust.typing import Array, Float, PyTree

__all__ = ["Functional", "functional", "warn_if_random"]


class Functional(NamedTuple):
    """A model taken apart.

    Attributes:
      apply: ``apply(leaves, x[B, ...]) -> logits[B, K]``, pure, any B; hashable, and equal for two models of one structure.
      leaves: its arrays.
    """

    apply: Callable[[tuple[Any, ...], Any], Float[Array, "B K"]]
    leaves: tuple[Any, ...]


def functional(model: Any, x: PyTree, *, dense: bool = False) -> Functional:
    """Take a model apart into a pure function and its arrays.

    Args:
      model: a batched callable ``model(x[B, ...]) -> logits[B, K]``. If it is a pytree its array leaves become ``leaves`` and
        all else is structure. Of any other callable the arrays it closed over become ``leaves``; numbers that Python or NumPy
        computed while it was traced are structure, and so are arrays inside a custom derivative's rule or inside a jitted
        function that a loop or branch calls (right, but another set of them compiles again).
      x: one batch, or its ``jax.ShapeDtypeStruct``.
        A `Stochastic` one gives an ``apply`` of type `Random`.
      dense: the model may have several outputs, logits [B, ..., K] (one for each pixel, say).

    Returns:
      A `Functional`. A closure is traced for a batch of one and vmapped over larger ones.

    Raises:
      TypeError: the model is not callable.
      ValueError: it fails on a batch of one, or its output is not a float array [B, K] (with ``dense``: [B, ..., K]).

    >>> import jax.numpy as jnp
    >>> def model(w):
    ...     return lambda x: x @ w
    >>> f, g = (functional(model(w), jnp.zeros((1, 2))) for w in (jnp.eye(2), jnp.ones((2, 2))))
    >>> f.apply == g.apply, f.apply(g.leaves, jnp.ones((3, 2))).shape
    (True, (3, 2))
    """
    if isinstance(model, Stochastic):
        # one example of a random model is a pair (key, x)
        keyed = lambda kx: model.model(kx[0][0], kx[1])  # noqa: E731
        inner = bind(_keyed, model.model) if _split(model.model) is not None else keyed
        key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
        f = functional(inner, (key, x), dense=dense)
        return Functional(Random(f.apply, model.n), f.leaves)
    if not callable(model):
        raise TypeError(f"a model is a callable model(x[B, ...]) -> logits[B, K], got {type(model).__name__}")
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)), x)
    parts = _split(model)
    if parts is not None:
        leaves, structure = parts
        f = Functional(bind(_apply_tree, structure=structure), leaves)
        with _blamed(x):
            out = jax.eval_shape(f.apply, leaves, x)
        _check_output(out, x, dense)
        return f
    with _blamed(x):
        program, leaves = _traced(model, x, differentiated=True)
    _check_output(program.out, x, dense)
    return Functional(bind(_apply_program, program=program), leaves)


@dataclasses.dataclass(frozen=True)
class Random:
    """The ``apply`` of a random model: as a function of x alone it is the answer of one fixed draw (for shapes)."""

    apply: Callable[..., Any]
    n: int

    def __call__(self, leaves: tuple[Any, ...], x: PyTree) -> Any:
        """One draw; drivers make the expectation of ``n``."""
        return self.apply(leaves, (jax.random.split(jax.random.key(0), 1), x))


def _keyed(model: Any, kx: tuple[Any, Any]) -> Any:
    return model(kx[0][0], kx[1])


@contextlib.contextmanager
def _blamed(x: PyTree) -> Iterator[None]:
    """Errors of the model's own code, with the two usual reasons."""
    try:
        yield
    except Exception as error:
        untraceable = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
        if isinstance(error, (*untraceable, jax.errors.TracerIntegerConversionError)):
            reason = "it must be pure JAX: jax.numpy instead of numpy, no Python branch on values"
        else:
            reason = "if it takes one example instead of a batch, pass jax.vmap(model)"
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the model failed on an input of shape {_shapes(x)}: {said:.200}; {reason}") from error


def _shapes(x: PyTree) -> str:
    return ", ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(x))


def _check_output(out: Any, x: PyTree, dense: bool) -> None:
    batch = jax.tree.leaves(x)[0].shape[0]
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    wanted = "[B, ..., K]" if dense else "[B, K]"
    if shape is None or dtype is None:
        raise ValueError(f"a model must return one float array {wanted}; this one returns {jax.tree.structure(out)}")
    right = len(shape) >= 2 if dense else len(shape) == 2
    if not right or shape[0] != batch or min(shape) < 1 or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"a model must return float logits {wanted}; on an input of shape {_shapes(x)} this one returns "
            f"{dtype.name} of shape {tuple(shape)}"
        )


# Pytrees


class _Structure(NamedTuple):
    treedef: Any
    static: tuple[tuple[int, Any], ...]


def _split(model: Any) -> tuple[tuple[Any, ...], _Structure] | None:
    """The arrays and the structure of a model that is a pytree; None where it is not (or its structure cannot be compared)."""
    leaves, treedef = jax.tree.flatten(model)
    if jax.tree_util.all_leaves([model]):
        return None
    arrays = tuple(leaf for leaf in leaves if _is_array(leaf))
    static = tuple((i, leaf) for i, leaf in enumerate(leaves) if not _is_array(leaf))
    structure = _Structure(treedef, static)
    try:
        hash(structure)
    except TypeError:
        return None
    return arrays, structure


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _merge(leaves: tuple[Any, ...], structure: _Structure) -> Any:
    static, arrays = dict(structure.static), iter(leaves)
    n = structure.treedef.num_leaves
    return jax.tree.unflatten(structure.treedef, [static[i] if i in static else next(arrays) for i in range(n)])


def _apply_tree(leaves: tuple[Any, ...], x: PyTree, *, structure: _Structure) -> Any:
    return _merge(leaves, structure)(x)


def _twice_tree(leaves: tuple[Any, ...], x: PyTree, *, structure: _Structure) -> Any:
    model = _merge(leaves, structure)
    return model(x), model(x)


# Closures


class Traced:
    """A traced callable whose closed-over arrays are arguments; compared by identity, shared through the cache below."""

    def __init__(self, closed: ClosedJaxpr, x: PyTree, out: PyTree) -> None:
        self.closed, self.x, self.out = closed, x, out

    def __digest__(self, by: Callable[[Any], str]) -> str:
        """For `digest`: the program and its derivative, with functions as ``by`` says; its arrays do not count."""
        return _fingerprint(self, tuple(jnp.asarray(c) for c in _constants(self.closed)), True, by)

    def __call__(self, leaves: tuple[Any, ...], x: PyTree) -> PyTree:
        """Run it on ``x`` of the traced shape."""
        flat = _run(self.closed, iter(leaves), jax.tree.leaves(x))
        return jax.tree.unflatten(jax.tree.structure(self.out), flat)


def _apply_program(leaves: tuple[Any, ...], x: PyTree, *, program: Traced) -> Any:
    return jax.vmap(lambda z: program(leaves, jax.tree.map(lambda leaf: leaf[None], z))[0])(x)


def _call_program(leaves: tuple[Any, ...], x: PyTree, *, program: Traced) -> Any:
    return program(leaves, x)


def _inner(params: dict[str, Any]) -> ClosedJaxpr | None:
    """The body of a nested call that holds constants somewhere inside, and is therefore inlined."""
    body = params.get("jaxpr")
    return body if isinstance(body, ClosedJaxpr) and any(True for _ in _constants(body)) else None


def _constants(closed: ClosedJaxpr) -> Iterator[Any]:
    """The closed-over arrays of a program and of the jits inside it, in the order in which `_run` takes them."""
    yield from closed.consts
    for eqn in closed.jaxpr.eqns:
        if eqn.primitive.name == "jit" and (body := _inner(eqn.params)) is not None:
            yield from _constants(body)


def _run(closed: ClosedJaxpr, constants: Iterator[Any], args: list[Any]) -> list[Any]:
    """Evaluate a program with other constants; calls without any stay calls, so custom derivatives and names are kept."""
    own = [next(constants) for _ in closed.consts]
    if not any(eqn.primitive.name == "jit" and _inner(eqn.params) is not None for eqn in closed.jaxpr.eqns):
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, own))(*args)
    env: dict[Any, Any] = dict(zip([*closed.jaxpr.constvars, *closed.jaxpr.invars], [*own, *args], strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else env[v]

    for eqn in closed.jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        body = _inner(eqn.params) if eqn.primitive.name == "jit" else None
        out = bind_eqn(eqn, values) if body is None else _run(body, constants, values)
        env.update(zip(eqn.outvars, out, strict=True))
    return [read(v) for v in closed.jaxpr.outvars]


_TRACED: OrderedDict[str, Traced] = OrderedDict()
_LOCK = threading.Lock()
_KEPT = 128


def _traced(model: Callable[..., Any], x: PyTree, *, differentiated: bool) -> tuple[Traced, tuple[Any, ...]]:
    """The program of a closure and its arrays; the first program of its fingerprint, where one is known."""
    out: list[Any] = []

    def flat(x: PyTree) -> list[Any]:
        result = model(x)
        out.append(jax.tree.structure(result))
        return jax.tree.leaves(result)

    closed = trace(flat, x)
    leaves = tuple(jnp.asarray(c) for c in _constants(closed))
    avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.out_avals]  # pyright: ignore[reportAttributeAccessIssue]
    program = Traced(closed, x, jax.tree.unflatten(out[0], avals))
    mark = _fingerprint(program, leaves, differentiated, lambda function: str(id(function)))
    with _LOCK:
        program = _TRACED.setdefault(mark, program)
        _TRACED.move_to_end(mark)
        while len(_TRACED) > _KEPT:
            _TRACED.popitem(last=False)
    return program, leaves


def _fingerprint(program: Traced, leaves: tuple[Any, ...], differentiated: bool, by: Callable[[Any], str]) -> str:
    """What two programs must share to be one: their equations and those of their derivative (where custom rules show).

    Arrays that are still constants once the leaves are arguments (hidden in a custom rule, or in a jit inside a loop) count
    by value: other arrays are then another program, which costs a compilation but is never wrong.
    """

    def pullback(leaves: Any, x: PyTree, cotangent: Any) -> Any:
        return jax.vjp(lambda z: program(leaves, z), x)[1](cotangent)

    derivative, resolved = None, not differentiated
    if differentiated:
        try:
            derivative, resolved = trace(pullback, leaves, program.x, program.out), True
        except Exception:  # not differentiable; whatever a rule or a callback does then counts
            resolved = False
    h = hashlib.sha256(repr((jax.tree.structure((program.x, program.out)), differentiated)).encode())
    describe(trace(program, leaves, program.x), h, resolved, by=by)
    describe(derivative, h, resolved, by=by)
    return h.hexdigest()


_jitted = jax.jit(lambda leaves, x, *, apply: apply(leaves, x), static_argnames="apply")


def warn_if_random(model: Any, x: PyTree, f: Functional | None = None, *, batch: int = 4) -> np.ndarray | None:
    """Warn (UserWarning) where ``model`` gives two answers to one question, or its answers depend on the rest of the batch.

    Drivers work on one example at a time and assume neither; a few examples of ``x`` are tried. ``f`` is
    ``functional(model, x)`` where it is at hand. Returns the answers that it saw.
    """
    if isinstance(model, Stochastic):
        return None
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf[:batch]), x)
    parts = _split(model)
    if parts is not None:
        a, b = _jitted(parts[0], x, apply=bind(_twice_tree, structure=parts[1]))
    else:
        program, leaves = _traced(lambda z: (model(z), model(z)), x, differentiated=False)
        a, b = _jitted(leaves, x, apply=bind(_call_program, program=program))
    f = functional(model, x) if f is None else f
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], x) for i in range(len(a))]
    alone = jnp.concatenate([_jitted(f.leaves, row, apply=f.apply) for row in rows])
    a, b, alone = (np.asarray(v, np.float64) for v in (a, b, alone))
    scale = np.nanmax(np.abs(a), initial=1e-6)
    if np.any(np.abs(a - b) > 1e-3 * scale):
        warnings.warn(
            "the model gave two answers to the same input: every number below is about one draw of it; put dropout in inference "
            "mode, or average it explicitly before it is evaluated",
            UserWarning,
            stacklevel=3,
        )
    elif np.any(np.abs(a - alone) > 0.05 * scale):
        warnings.warn(
            "the model's answer to one example depends on the rest of the batch (BatchNorm in training mode?); drivers evaluate "
            "each example alone. An nnx.Module is put in inference mode with model.eval()",
            UserWarning,
            stacklevel=3,
        )
    return a
