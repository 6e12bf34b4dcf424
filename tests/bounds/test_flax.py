"""The inference layers of flax.nnx and the activations of jax.nn: all have rules, and no sample leaves a bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jrobust as jr
from jrobust.nnx import functional
from tests.thin import thinned

METHOD = jr.bounds.crown()  # its bounds are intersected with those of ibp


def check(fn, centre, eps=0.05):
    """Every primitive has a rule; samples lie within the bounds, which are finite."""
    assert jr.bounds.supported(fn, centre, method=METHOD) == []
    s = jr.sets.linf(eps)(centre)
    lo, hi = jax.jit(lambda s: jr.bounds.output_bounds(fn, s, method=METHOD))(s)
    assert jnp.all(jnp.isfinite(lo) & jnp.isfinite(hi))
    r = np.random.default_rng(1)
    points = np.concatenate([r.uniform(-1, 1, (30, *centre.shape)), r.choice([-1, 1], (30, *centre.shape))])
    v = jax.jit(jax.vmap(fn))(centre + jnp.asarray(eps * points, jnp.float32))
    slack = 1e-5 * (1 + jnp.max(jnp.abs(v), axis=0))
    assert jnp.all((v >= lo - slack) & (v <= hi + slack))


def drawn(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def embedded(layer):
    """Words by one-hot rows, perturbed: what an embedding is as a matrix."""
    return lambda z: z @ layer.embedding[...]


R = nnx.Rngs(0)
LAYERS = {
    "Linear": (lambda: nnx.Linear(4, 3, rngs=R), drawn(4)),
    "LinearGeneral": (lambda: nnx.LinearGeneral((2, 3), (2, 2), axis=(-2, -1), rngs=R), drawn(2, 3)),
    "Einsum": (lambda: nnx.Einsum("ab,bc->ac", (3, 2), (2,), rngs=R), drawn(2, 3)),
    "Embed": (lambda: embedded(nnx.Embed(5, 3, rngs=R)), jax.nn.one_hot(jnp.array([1, 3]), 5)),
    "Conv 1-D causal": (lambda: nnx.Conv(2, 3, 3, padding="CAUSAL", rngs=R), drawn(5, 2)),
    "Conv strided": (lambda: nnx.Conv(2, 3, (3, 3), strides=2, rngs=R), drawn(4, 4, 2)),
    "Conv dilated circular": (lambda: nnx.Conv(2, 2, (2, 2), kernel_dilation=2, padding="CIRCULAR", rngs=R), drawn(4, 4, 2)),
    "Conv grouped": (lambda: nnx.Conv(4, 4, (3, 3), feature_group_count=2, padding="VALID", rngs=R), drawn(4, 4, 4)),
    "Conv input-dilated": (lambda: nnx.Conv(2, 2, (3,), padding=((1, 1),), input_dilation=2, rngs=R), drawn(3, 2)),
    "Conv 3-D": (lambda: nnx.Conv(1, 2, (2, 2, 2), rngs=R), drawn(2, 3, 2, 1)),
    "ConvTranspose": (lambda: nnx.ConvTranspose(2, 2, (3, 3), strides=(2, 2), rngs=R), drawn(3, 3, 2)),
    "ConvTranspose circular": (lambda: nnx.ConvTranspose(2, 2, (3,), strides=2, padding="CIRCULAR", rngs=R), drawn(4, 2)),
    "BatchNorm": (lambda: nnx.BatchNorm(3, use_running_average=True, rngs=R), drawn(2, 3)),
    "LayerNorm": (lambda: nnx.LayerNorm(4, rngs=R), drawn(2, 4)),
    "RMSNorm": (lambda: nnx.RMSNorm(4, rngs=R), drawn(2, 4)),
    "GroupNorm": (lambda: nnx.GroupNorm(4, num_groups=2, rngs=R), drawn(1, 2, 2, 4)),
    "InstanceNorm": (lambda: nnx.InstanceNorm(2, rngs=R), drawn(1, 3, 2, 2)),
    "Dropout": (lambda: nnx.Dropout(0.5, deterministic=True), drawn(4)),
    "max_pool": (lambda: lambda z: nnx.max_pool(z, (2, 2), (1, 1), "SAME"), drawn(3, 3, 1)),
    "avg_pool": (lambda: lambda z: nnx.avg_pool(z, (2, 2), (1, 1), "SAME", count_include_pad=False), drawn(3, 3, 1)),
    "min_pool": (lambda: lambda z: nnx.min_pool(z, (2, 2), (2, 2)), drawn(4, 4, 1)),
    "MultiHeadAttention": (lambda: nnx.MultiHeadAttention(2, 4, decode=False, deterministic=True, rngs=R), drawn(3, 4)),
    "masked attention": (lambda: masked(nnx.MultiHeadAttention(2, 4, decode=False, deterministic=True, rngs=R)), drawn(3, 4)),
    "LoRA": (lambda: nnx.LoRA(4, 2, 3, rngs=R), drawn(4)),
    "Sequential": (lambda: nnx.Sequential(nnx.Linear(4, 5, rngs=R), jax.nn.relu, nnx.LayerNorm(5, rngs=R), jax.nn.gelu), drawn(4)),
    "LSTMCell": (lambda: stepped(nnx.LSTMCell(2, 3, rngs=R)), drawn(2)),
    "OptimizedLSTMCell": (lambda: stepped(nnx.OptimizedLSTMCell(2, 3, rngs=R)), drawn(2)),
    "GRUCell": (lambda: stepped(nnx.GRUCell(2, 3, rngs=R)), drawn(2)),
    "SimpleCell": (lambda: stepped(nnx.SimpleCell(2, 3, rngs=R)), drawn(2)),
    "RNN": (lambda: unrolled(nnx.RNN(nnx.SimpleCell(2, 2, rngs=R), rngs=R)), drawn(1, 3, 2)),
}  # fmt: skip


def stepped(cell):
    """One step from a known carry."""

    def fn(z):
        carry = jax.tree.map(lambda c: c + 0.3, cell.initialize_carry(z.shape, nnx.Rngs(0)))
        return cell(carry, z)[1]

    return fn


def unrolled(rnn):
    """As a pure function: flax lets a module that loops, and draws its first carry, be called only in the trace that made it."""
    apply, params, rest = functional(rnn)
    return lambda z: apply(params, rest, z, train=False)[0]


def masked(attention):
    return lambda z: attention(z, mask=jnp.tril(jnp.ones((1, 3, 3))))


@pytest.mark.parametrize("name", thinned(LAYERS, 4))
def test_layer(name):
    make, centre = LAYERS[name]
    check(make(), centre)


VECTOR = 2 * drawn(4) - 0.3
ROWS = drawn(2, 1, 2, 2)
ELEMENTWISE = (
    *[
        "celu",
        "elu",
        "gelu",
        "hard_sigmoid",
        "hard_silu",
        "hard_swish",
        "hard_tanh",
        "identity",
        "leaky_relu",
        "log_sigmoid",
        "mish",
        "relu",
        "relu6",
        "selu",
    ],
    *["sigmoid", "silu", "soft_sign", "softplus", "sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh"],
    *["glu", "log_softmax", "logmeanexp", "logsumexp", "softmax", "standardize"],
)
ACTIVATIONS = {name: (getattr(jax.nn, name), VECTOR) for name in ELEMENTWISE} | {
    "exact gelu": (lambda z: jax.nn.gelu(z, approximate=False), VECTOR),
    "log1mexp": (lambda z: jax.nn.log1mexp(0.1 + jnp.abs(z)), VECTOR),
    "one_hot": (lambda z: jax.nn.one_hot(jnp.arange(4), 4) @ z, VECTOR),
    "dot_product_attention": (lambda z: jax.nn.dot_product_attention(z, z + 1, -z), ROWS),
    "weighted logsumexp": (lambda z: jax.nn.logsumexp(z, b=jnp.arange(4.0)), VECTOR),
    "masked softmax": (lambda z: jax.nn.softmax(z, where=jnp.arange(4) > 1, axis=-1), VECTOR),
}
NOT_ACTIVATIONS = {"get_scaled_dot_general_config", "scaled_dot_general", "scaled_matmul"}  # of narrow floats


def test_every_activation_has_a_row():
    public = {name for name in dir(jax.nn) if callable(getattr(jax.nn, name)) and not name.startswith("_")}
    assert public - set(ACTIVATIONS) - NOT_ACTIVATIONS == set()


@pytest.mark.parametrize("name", thinned(ACTIVATIONS, 6))
def test_activation(name):
    fn, centre = ACTIVATIONS[name]
    check(lambda z: jnp.atleast_1d(fn(z)), centre, 0.4 if name != "standardize" else 0.05)
