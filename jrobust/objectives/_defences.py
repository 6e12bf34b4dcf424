"""Defences that hide their gradient, by chance or by kinks, made attackable: EOT, BPDA, straight-through."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._objective import Stochastic, stochastic
from jrobust._tree import as_pytree, bind


def _sampled(model: Any, sampler: Any, key: Any, x: Any) -> Any:
    first, second = jax.random.split(key)
    z = sampler(first, x)
    return model.model(second, z) if isinstance(model, Stochastic) else model(z)


def eot(model: Callable[[Any], Any] | Stochastic, sampler: Callable[[Any, Any], Any], n: int) -> Stochastic:
    """The model behind random transformations of its input, as its expectation over ``n`` draws.

    Args:
      model: what sees the transformed input; a random one (`stochastic`) takes one draw of its own for each transformation.
      sampler: ``(key, x) -> x'``, of a batch for drivers and of one example for `classification`, as ``model`` takes it.
      n: draws an evaluation, >= 1.

    Returns:
      A random model as `stochastic` makes it: gradient, loss and decision are expectations.

    >>> import jax, jax.numpy as jnp
    >>> noisy = eot(lambda z: z[:2], lambda key, z: z + 0.1 * jax.random.normal(key, z.shape), 8)
    >>> noisy.draws(jax.random.key(0), jnp.zeros(3)).shape
    (8, 2)

    References:
      Athalye et al., Synthesizing robust adversarial examples, ICML 2018.
    """
    model = model if isinstance(model, Stochastic) else as_pytree(model)
    return stochastic(bind(_sampled, model, as_pytree(sampler)), n)


@jax.custom_jvp
def _swapped(forward: Any, backward: Any, args: tuple[Any, ...]) -> Any:
    del backward
    return forward(*args)


@_swapped.defjvp
def _(primals: Any, tangents: Any) -> Any:
    forward, backward, args = primals
    out = _swapped(forward, backward, args)
    like, tangent = jax.jvp(lambda g, a: g(*a), (backward, args), tangents[1:])
    shapes = [jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a).name), o) for o in (out, like)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"bpda: the two functions must return alike; forward gives {shapes[0]}, backward {shapes[1]}")
    return out, tangent


def _with_arrays(arrays: Any, *args: Any, converted: Any) -> Any:
    return converted(*args, *arrays)


def _hoisted(fn: Any, args: tuple[Any, ...]) -> Any:
    """``fn`` with whatever it closes over that is being differentiated as leaves."""
    converted, arrays = jax.closure_convert(fn, *args)
    return bind(_with_arrays, tuple(arrays), converted=converted)


def _bpda(forward: Any, backward: Any, *args: Any) -> Any:
    return _swapped(_hoisted(forward, args), _hoisted(backward, args), args)


def bpda(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` with the derivative of ``backward``: how to attack through a step that has no useful gradient.

    Args:
      forward: the defence as it is: rounding, compression, a host callback, ...; it is never differentiated.
      backward: a differentiable stand-in of the same arguments and outputs, seldom far from ``forward``.

    Returns:
      A function of the same arguments. Its values are those of ``forward`` (to the bit, bounds see it too); its derivatives, of any
      order and also in what the two functions close over, are those of ``backward``.

    Raises:
      ValueError: when it is differentiated, outputs of other shapes or dtypes.

    >>> import jax, jax.numpy as jnp
    >>> eight = bpda(lambda z: jnp.round(8 * z) / 8, lambda z: z)
    >>> print(eight(0.3), jax.grad(eight)(0.3))
    0.25 1.0

    References:
      Athalye, Carlini & Wagner, Obfuscated gradients give a false sense of security, ICML 2018.
    """
    return bind(_bpda, as_pytree(forward), as_pytree(backward))


def _last(*args: Any) -> Any:
    return args[-1]


def straight_through(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`bpda` with the identity: the gradient passes as if ``forward`` were not there.

    Args:
      forward: a function of one array (or of a key and one array) that returns one of the same shape and dtype.

    >>> import jax, jax.numpy as jnp
    >>> print(jax.grad(lambda z: jnp.sum(straight_through(jnp.round)(z) ** 2))(jnp.array([0.2, 1.6])))
    [0. 4.]
    """
    return bpda(forward, _last)
