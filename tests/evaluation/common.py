"""Small models, oracles made to order, and a counter of compilations."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np

from jrobust import Bound, Oracle, Radius, RadiusOracle
from jrobust._tree import bind

_COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: _COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@contextmanager
def compilations():
    """A list of the XLA compilations since entry (whatever compiled)."""
    seen: list[str] = []
    start = len(_COMPILED)
    yield seen
    seen.extend(_COMPILED[start:])


def data(n, d=6, k=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.2, 0.8, (n, d)).astype(np.float32)
    y = np.asarray(linear(seed)(x)).argmax(1)
    y[::7] = (y[::7] + 1) % k  # some are wrong
    return x, y


def linear(seed, d=6, k=3):
    w = np.random.default_rng(seed).normal(size=(d, k)).astype(np.float32)
    return lambda x: x @ w


def mlp(seed, d=6, k=3, scale=3.0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(d, 16)).astype(np.float32), rng.normal(size=(16, k)).astype(np.float32)
    return lambda x: jnp.tanh(scale * (x - 0.5) @ a) @ b


def labels(model, x):
    return np.asarray(model(x)).argmax(1)


def _linear_bound(key, f, s):
    del key
    slope = jax.jacrev(f)(s.center)
    elements = jax.vmap(s.support)(slope) + f(s.center) - slope @ s.center
    return Bound(jnp.max(elements), None, {"elements": elements})


def linear_bound(side="upper", confidence=1.0):
    """The exact supremum of a linear model's margins, from above."""
    return Oracle(side, bind(_linear_bound), confidence, name="linear")


def _liar(key, f, s, *, outside):
    del key
    return Bound(jnp.asarray(1.0), s.center + (10.0 if outside else 0.0), {})


def liar(outside=False):
    """Claims a violation everywhere, at the centre (where there is none) or outside the set."""
    return Oracle("lower", bind(_liar, outside=outside), name="liar")


def _optimist(key, f, s):
    del key
    return Bound(jnp.asarray(-1.0), None, {"elements": -jnp.ones_like(f(s.center))})


def optimist():
    """A certificate that proves everything."""
    return Oracle("upper", bind(_optimist), name="optimist")


def _linear_radius(key, f, threat, x, *, attack):
    del key, threat
    slope = jax.jacrev(f)(x)
    each = -f(x) / jnp.sum(jnp.abs(slope), axis=1)  # Linf, no clip
    nearest = jnp.argmin(each)
    witness = x + each[nearest] * 1.0001 * jnp.sign(slope[nearest])
    return Radius(each[nearest] * (1.0001 if attack else 1.0), witness if attack else None, {})


def linear_radius(side):
    """The exact Linf radius of a linear model, as an attack ("upper") or a certificate ("lower")."""
    return RadiusOracle(side, bind(_linear_radius, attack=side == "upper"), name="linear radius")
