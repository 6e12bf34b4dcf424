"""A flat program as a certificate records it: what bends (`max` and its kin, `tanh`) here, what is affine in `_language`."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np

from jrobust._program import Equation, Program
from jrobust.bounds._language import LINEAR, MOVES, Lowered, data, moved, pooled
from jrobust.bounds._problem import mask_of
from jrobust.bounds._tables import is_affine

EXTREMES = {"max": 1, "min": -1, "reduce_max": 1, "reduce_min": -1, "reduce_window_max": 1, "reduce_window_min": -1}
"""Maxima and minima: of them a proof also says where the far line is constant."""
CURVES = ("tanh", "logistic")
"""The smooth functions: a proof has a slope on either side of them."""


def lower(program: Program, hull: Sequence[tuple[Any, Any]]) -> tuple[Lowered, int]:
    """The program over a box, and its output, an operation.

    Raises:
      NotImplementedError: an equation that a certificate has no words for.
    """
    b = Lowered(program)
    for i, (lo, hi) in zip(program.inputs, hull, strict=True):
        size = math.prod(program.avals[i].shape)
        b.at[i] = b.op("input", (), size)
        b.arrays |= {f"set/{b.at[i]}/lo": np.asarray(lo), f"set/{b.at[i]}/hi": np.asarray(hi)}
    for k, eqn in enumerate(program.equations):
        mask = mask_of(program, eqn)
        if not any(mask):
            b.known.update(zip(eqn.outputs, eqn.bind([b.known[i] for i in eqn.inputs]), strict=True))
            continue
        fine = all(jnp.issubdtype(program.avals[i].dtype, jnp.floating) for i in (*eqn.outputs, *data(eqn)))
        affine = is_affine(eqn, mask, program.avals)
        rules = {**dict.fromkeys(MOVES, moved), **LINEAR} if affine else BENT
        if not fine or eqn.name not in rules:
            raise NotImplementedError(
                f"prove: a certificate has no words for '{eqn.name}' at {eqn.source}; it speaks of affine operations of known "
                "coefficients, max, min, clamp, abs, leaky_relu, pooling, tanh and logistic"
            )
        b.at.update(zip(eqn.outputs, rules[eqn.name](b, eqn, k), strict=True))
    (out,) = program.outputs
    return b, b.operand(out, program.avals[out].shape)


# -- Operations that bend ------------------------------------------------------------------------------------------------


def _flat(theta: Any, rank: int) -> np.ndarray:
    """Parameters ``[..., *shape]`` of that rank, with its axes in one."""
    theta = np.asarray(theta)
    return theta.reshape(*theta.shape[: theta.ndim - rank], -1)


def _pair(b: Lowered, x: int, y: int, sign: int) -> tuple[int, int]:
    """The larger (``sign=1``) or smaller of two: the operation ``max``, and the value."""
    if sign > 0:
        k = b.max(x, y)
        return k, k
    k = b.max(b.scale(x, -1.0), b.scale(y, -1.0))
    return k, b.scale(k, -1.0)


def _max(sign: int) -> Callable[[Lowered, Equation, int], list[int]]:
    def rule(b: Lowered, eqn: Equation, k: int) -> list[int]:
        shape = eqn.avals[0].shape
        x, y = (b.operand(i, shape) for i in eqn.inputs)
        bend, out = _pair(b, x, y, sign)
        b.slopes[k] = lambda raw: {
            bend: {side: _flat(a, len(shape)) for side, a in zip(("lower", "flat"), raw, strict=True)}
        }
        return [out]

    return rule


def _clamp(b: Lowered, eqn: Equation, k: int) -> list[int]:
    shape = eqn.avals[0].shape
    low, x, high = (b.operand(i, shape) for i in eqn.inputs)
    first, raised = _pair(b, x, low, 1)
    second, out = _pair(b, raised, high, -1)
    b.slopes[k] = lambda theta: {
        bend: {"lower": _flat(share, len(shape))} for bend, share in zip((first, second), theta, strict=True)
    }
    return [out]


def _abs(b: Lowered, eqn: Equation, k: int) -> list[int]:
    x = b.at[eqn.inputs[0]]
    bend = b.op("abs", [x], b.size[x])
    b.slopes[k] = lambda theta: {bend: {"lower": _flat(theta, len(eqn.avals[0].shape))}}
    return [bend]


def _leaky(b: Lowered, eqn: Equation, k: int) -> list[int]:
    """``slope x + (1 - slope) relu(x)``."""
    x = b.at[eqn.inputs[0]]
    slope = np.asarray(b.known[eqn.inputs[1]] if len(eqn.inputs) > 1 else 0.01, eqn.avals[0].dtype).astype(np.float64)
    if Fraction(float(1 - slope)) + Fraction(float(slope)) != 1:
        raise NotImplementedError(f"prove: leaky_relu at {eqn.source} has a slope that rounds in 1 - slope: {slope}")
    bend = b.max(x, b.const(np.zeros(b.size[x], np.float32)))
    b.slopes[k] = lambda theta: {bend: {"lower": _flat(theta, len(eqn.avals[0].shape))}}
    return [b.add(b.scale(x, slope), b.scale(bend, 1 - slope))]


def _tournament(b: Lowered, eqn: Equation, k: int, index: np.ndarray, sign: int) -> list[int]:
    """The largest of the entries at ``index`` [competing, places] (-1: none), in rounds of pairs."""
    first = np.take_along_axis(index, np.argmax(index >= 0, axis=0)[None], 0)
    if np.any(first < 0):
        raise NotImplementedError(f"prove: a window at {eqn.source} lies in the padding alone")
    x = b.at[eqn.inputs[0]]
    value = b.gather([x if sign > 0 else b.scale(x, -1.0)], np.where(index < 0, first, index))
    n, places = index.shape
    rounds = []
    while n > 1:
        half = n // 2
        at = np.arange(n * places).reshape(n, places)
        bend = b.max(b.gather([value], at[:half]), b.gather([value], at[half : 2 * half]))
        rounds.append((bend, half))
        made = np.arange(half * places)
        left = at[2 * half :].ravel()
        value = bend if n % 2 == 0 else b.gather([bend, value], np.concatenate([made, half * places + left]))
        n -= half

    def slopes(raw: Any) -> dict[int, dict[str, Any]]:
        mass, flat = (_flat(a, len(eqn.avals[0].shape)) for a in raw)
        found: dict[int, dict[str, Any]] = {}
        for bend, half in rounds:
            one, two = mass[..., :half, :], mass[..., half : 2 * half, :]
            total = one + two
            share = np.where(total > 0, one / np.where(total > 0, total, 1.0), 0.5)
            found[bend] = {"lower": _flat(share, 2)}
            mass = np.concatenate([total, mass[..., 2 * half :, :]], axis=-2)
        if rounds:
            found[rounds[-1][0]]["flat"] = flat
        return found

    b.slopes[k] = slopes
    return [value if sign > 0 else b.scale(value, -1.0)]


def _reduced(sign: int) -> Callable[[Lowered, Equation, int], list[int]]:
    def rule(b: Lowered, eqn: Equation, k: int) -> list[int]:
        shape, axes = b.program.avals[eqn.inputs[0]].shape, eqn.params["axes"]
        index = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axes, range(len(axes)))
        return _tournament(b, eqn, k, index.reshape(math.prod(shape[d] for d in axes), -1), sign)

    return rule


def _tanh(b: Lowered, eqn: Equation, k: int) -> list[int]:
    """``tanh``, and ``logistic(x) = (1 + tanh(x / 2)) / 2``."""
    x, rank = b.at[eqn.inputs[0]], len(eqn.avals[0].shape)
    is_tanh = eqn.name == "tanh"
    bend = b.op("tanh", [x if is_tanh else b.scale(x, 0.5)], b.size[x])
    gain = 1.0 if is_tanh else 4.0
    b.slopes[k] = lambda pair: {
        bend: {side: gain * _flat(a, rank) for side, a in zip(("lower", "upper"), pair, strict=True)}
    }
    half = np.full(b.size[x], 0.5, np.float32)
    return [bend if is_tanh else b.add(b.scale(bend, 0.5), b.const(half))]


BENT: dict[str, Callable[[Lowered, Equation, int], list[int]]] = {
    "max": _max(1),
    "min": _max(-1),
    "clamp": _clamp,
    "abs": _abs,
    "leaky_relu": _leaky,
    "reduce_max": _reduced(1),
    "reduce_min": _reduced(-1),
    "reduce_window_max": lambda b, eqn, k: _tournament(b, eqn, k, pooled(b, eqn), 1),
    "reduce_window_min": lambda b, eqn, k: _tournament(b, eqn, k, pooled(b, eqn), -1),
    **dict.fromkeys(CURVES, _tanh),
}
