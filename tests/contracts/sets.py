"""The table that every set enters: name -> (threat, one example)."""

import jax.numpy as jnp
import numpy as np

from jrobust import sets

_rng = np.random.default_rng(0)
_X = jnp.asarray(_rng.uniform(size=(2, 3)), jnp.float32)
_EDGE = jnp.asarray([0.0, 1.0, 0.5, 0.05], jnp.float32)

SETS = {
    **{
        f"l{p:g} eps={eps} clip={clip}": (sets.lp(p, eps, clip=clip), _X)
        for p in (1.0, 1.5, 2.0, 3.0, np.inf)
        for eps, clip in ((0.3, None), (0.3, (0.0, 1.0)), (2.0, (0.0, 1.0)))
        if p not in (1.5, 3.0) or eps == 2.0
    },
    **{f"l{p:g} at the edge": (sets.lp(p, 0.2, clip=(0.0, 1.0)), _EDGE) for p in (1.0, 2.0, 4.0, np.inf)},
    **{f"l{p:g} eps=0": (sets.lp(p, 0.0, clip=(0.0, 1.0)), _X) for p in (1.0, 3.0)},
    "linf, one eps an entry": (sets.linf(jnp.linspace(0.0, 0.4, 6).reshape(2, 3), clip=(0, 1)), _X),
    "l2, one clip an entry": (sets.l2(0.7, clip=(_X - 0.1, _X + 0.2)), _X),
    "box": (sets.box(-0.5, jnp.ones((2, 3))), _X),
    "box, degenerate": (sets.box(_X, _X), _X),
    "product": (sets.product(sets.l2(0.4), sets.box(0.0, 1.0)), (_X, _EDGE)),
    "product with a point": (sets.product(sets.point(), sets.box(-1.0, 2.0)), (_X, _EDGE)),
    "power": (sets.power(sets.l2(0.3, clip=(0, 1))), _X),
    "l0": (sets.l0(2, clip=(0.0, 1.0)), _X),
    "l0 at the edge": (sets.l0(2.9, clip=(0.0, 1.0)), _EDGE),
    "l0 pixels, one clip an entry": (sets.l0(1, clip=(_X - 0.1, _X + 0.2), pixels=True), _X),
    "l0 eps=0": (sets.l0(0, clip=(0.0, 1.0)), _X),
    "patch": (sets.patch((2, 2), clip=(0.0, 1.0)), _X),
    "patch of an image, eps": (sets.patch((2, 1), clip=(0.0, 1.0), eps=0.3), jnp.linspace(0, 1, 24).reshape(3, 4, 2)),
    "l0 in a product": (sets.product(sets.l2(0.4), sets.l0(1, clip=(0, 1))), (_EDGE, _X)),
}

# the same code with other numbers: in the sweep
ALIKE = {
    "l2 eps=0.3 clip=(0.0, 1.0)",
    "l1 eps=0.3 clip=(0.0, 1.0)",
    "linf eps=0.3 clip=(0.0, 1.0)",
    "l3 eps=2.0 clip=(0.0, 1.0)",
    "l4 at the edge",
    "l2, one clip an entry",
    "l3 eps=0",
    "l2 at the edge",
    "l1 at the edge",
    "l0 at the edge",
    "l0 eps=0",
    "l0 in a product",
}
assert SETS.keys() >= ALIKE
