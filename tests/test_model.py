"""A model's arrays are arguments: new parameters never recompile, new structure does, and the answers stay the model's own."""

import functools
import os
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jrobust as jr
from jrobust._digest import digest
from jrobust._model import functional, warn_if_random

X = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))


class Net(nnx.Module):
    def __init__(self, seed, width=4):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(width * 64, 3, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.conv(x)))
        return self.out(self.drop(h.reshape(h.shape[0], -1)))


def net(seed, width=4):
    model = Net(seed, width)
    model.eval()
    return model


def weights(seed):
    return jax.random.normal(jax.random.key(seed), (64, 3))


@jax.custom_jvp
def straight(x):
    return jnp.round(x)


straight.defjvp(lambda primals, tangents: (straight(*primals), tangents[0]))


def plain(seed):
    w = weights(seed)
    return lambda x: x.reshape(x.shape[0], -1) @ w


def nested(seed):
    w, numpy_w = weights(seed), np.asarray(weights(seed + 10))
    inner = jax.jit(lambda h: jax.nn.relu(h) @ w)
    return lambda x: jax.jit(lambda h: inner(h) + h @ numpy_w)(straight(4 * x).reshape(x.shape[0], -1))


def looped(seed):
    w = weights(seed)[:3]
    first = weights(seed + 1)

    def model(x):
        h = x.reshape(x.shape[0], -1) @ first
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), h, None, length=3)[0]

    return model


def module(seed):
    model = net(seed)
    return lambda x: model(x)


def bfloat16(seed):
    w = weights(seed).astype(jnp.bfloat16)
    return lambda x: x.reshape(x.shape[0], -1).astype(jnp.bfloat16) @ w


def partial_(seed):
    return jax.tree_util.Partial(lambda w, x: x.reshape(x.shape[0], -1) @ w, weights(seed))


MODELS = [plain, nested, looped, module, bfloat16, net]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_new_parameters_share_one_program(make):
    traces = []

    def run(leaves, x, *, apply):
        traces.append(1)
        return apply(leaves, x), jax.grad(lambda z: apply(leaves, z).astype(jnp.float32).sum())(x)

    run = jax.jit(run, static_argnames="apply")
    for seed in (0, 1, 2):
        model = make(seed)
        f = functional(model, X)
        out, gradient = run(f.leaves, X, apply=f.apply)
        np.testing.assert_allclose(out.astype(float), model(X).astype(float), rtol=2e-2, atol=2e-2)
        expected = jax.grad(lambda z, model=model: model(z).astype(jnp.float32).sum())(X)
        np.testing.assert_allclose(gradient, expected, rtol=2e-2, atol=2e-2)
    assert len(traces) == 1


def test_partial_shares_its_function_not_its_arrays():
    def fn(w, x):
        return x.reshape(x.shape[0], -1) @ w

    a, b = (functional(jax.tree_util.Partial(fn, weights(seed)), X) for seed in (0, 1))
    assert a.apply == b.apply
    assert hash(a.apply) == hash(b.apply)
    np.testing.assert_allclose(b.apply(b.leaves, X), fn(weights(1), X), rtol=1e-6)


def test_other_structure_is_another_program():
    w = weights(0)
    flat = lambda x: x.reshape(x.shape[0], -1)  # noqa: E731
    applies = [
        functional(m, X).apply
        for m in (
            lambda x: flat(x) @ w,
            lambda x: flat(x) @ w + 1.0,
            lambda x: flat(x) @ w + 2.0,
            lambda x: jnp.tanh(flat(x)) @ w,
            lambda x: (flat(x) @ w)[:, ::-1],
            net(0),
            net(0, width=5),
        )
    ]
    assert all(a != b for i, a in enumerate(applies) for b in applies[:i])


def rule(slope):
    @jax.custom_jvp
    def step(x):
        return jnp.sign(x)

    step.defjvp(lambda primals, tangents: (step(*primals), slope * tangents[0]))
    return lambda x: step(x.reshape(x.shape[0], -1))[:, :3]


@pytest.mark.parametrize("slopes", [(1.0, 2.0), (jnp.array(1.0), jnp.array(2.0)), (jnp.ones(64), 2 * jnp.ones(64))])
def test_derivative_rules_that_differ_are_not_confused(slopes):
    for slope in slopes:
        f = functional(rule(slope), X)
        g = jax.grad(lambda x, f=f: f.apply(f.leaves, x).sum())(X).reshape(5, -1)
        np.testing.assert_allclose(g[:, :3], np.broadcast_to(slope, (64,))[0])


def test_callbacks_that_differ_are_not_confused():
    def make(factor):
        call = lambda x: np.asarray(factor * x, np.float32)  # noqa: E731
        return lambda x: jax.pure_callback(
            call, jax.ShapeDtypeStruct((x.shape[0], 3), jnp.float32), x[:, 0, :3, 0], vmap_method="sequential"
        )

    for factor in (1.0, 3.0):
        f = functional(make(factor), X)
        np.testing.assert_allclose(f.apply(f.leaves, X), factor * X[:, 0, :3, 0], rtol=1e-6)


def test_constants_inside_control_flow_are_right():
    def make(seed):
        w = weights(seed)[:3]
        inner = jax.jit(lambda c: jnp.tanh(c @ w))
        return lambda x: jax.lax.scan(lambda c, _: (inner(c), None), x[:, 0, :3, 0], None, length=2)[0]

    for seed in (0, 1):
        f = functional(make(seed), X)
        np.testing.assert_allclose(f.apply(f.leaves, X), make(seed)(X), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.reshape(-1), r"float logits \[B, K\]"),
        (lambda x: x, r"\(1, 8, 8, 1\)"),
        (lambda x: x.reshape(x.shape[0], -1).argmax(-1), "int32 of shape"),
        (lambda x: (x[:, 0, 0], x), "one float array"),
        (lambda x: x.reshape(x.shape[0], -1).astype(int), "int32"),
    ],
)
def test_output_must_be_logits(model, message):
    with pytest.raises(ValueError, match=message):
        functional(model, X)
    with pytest.raises(ValueError, match=message):
        functional(jax.tree_util.Partial(lambda _, x: model(x), jnp.zeros(())), X)


def test_not_callable():
    with pytest.raises(TypeError, match="is a callable"):
        functional(3, X)  # pyright: ignore


def test_a_model_that_fails_says_why():
    w = jnp.ones((16, 5))
    for one in (lambda z: w.T @ z, jax.tree_util.Partial(lambda w, z: w.T @ z, w)):
        with pytest.raises(ValueError, match=r"failed on an input of shape \(1, 16\): .*pass jax\.vmap\(model\)"):
            functional(one, jnp.zeros((4, 16)))
        assert functional(jax.vmap(one), jnp.zeros((4, 16))).leaves
    for impure in (lambda x: np.maximum(np.asarray(x), 0), lambda x: x if x[0, 0] > 0 else -x):
        with pytest.raises(ValueError, match="must be pure JAX"):
            functional(impure, jnp.zeros((4, 16)))


def test_warns_of_a_random_model():
    noisy = Net(0)
    noisy.norm.eval()
    with pytest.warns(UserWarning, match="two answers"):
        warn_if_random(noisy, X)
    draws = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="two answers"):
        warn_if_random(lambda x: plain(0)(x) + draws.normal(), X)


def test_warns_of_batch_statistics():
    training = Net(0)
    training.drop.eval()
    with pytest.warns(UserWarning, match="rest of the batch"):
        warn_if_random(training, X)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_is_quiet_about_others(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_random(make(0), X)


def test_digest_sees_arrays_and_structure():
    assert digest(net(0)) == digest(net(0)) != digest(net(1))
    assert digest({"a": 1.0}) != digest({"b": 1.0})
    assert digest(jax.random.key(0)) != digest(jax.random.key(1))


def scaled(a, default=None):
    def scaled(x, default=default):
        return a * x

    return scaled


SCALE = 1.0


class Rule:
    def __init__(self, a):
        self.a = a

    def __call__(self, x):
        return self.a * x


def with_global(value):
    fn = lambda x: SCALE * x  # noqa: E731
    return types.FunctionType(fn.__code__, {"SCALE": value})


def sgd(rate):
    return jr.attacks.pgd(steps=2, start="center", rule=optax.sgd(rate))


def aimed(a):
    return jr.attacks.fgsm(surrogate=lambda f, o: a * (o[0] - o[1]))


SAME_OR_OTHER = {  # name -> a function of one number: another number is another thing
    "closure": scaled,
    "array in a closure": lambda a: scaled(np.full(3, a)),
    "default": lambda a: scaled(1.0, default=a),
    "code": lambda a: {1.0: lambda x: x + 1, 2.0: lambda x: x - 1}[a],
    "constant": lambda a: {1.0: lambda x: x + 1, 2.0: lambda x: x + 2}[a],
    "name": lambda a: {1.0: lambda x: x.min(), 2.0: lambda x: x.max()}[a],
    "inner function": lambda a: lambda x: scaled(a)(x),
    "partial": lambda a: functools.partial(scaled(1.0), default=a),
    "jax partial": lambda a: jax.tree_util.Partial(scaled(a), jnp.ones(2)),
    "jit": lambda a: jax.jit(scaled(a)),
    "gradient": lambda a: jax.grad(scaled(a)),
    "custom rule": lambda a: rule(a),
    "bound method": lambda a: Rule(a).__call__,
    "callable object": Rule,
    "class": lambda a: type("Made", (), {"__call__": lambda self, x: a * x}),
    "global": with_global,
    "optax rule": sgd,
    "surrogate": aimed,
    "stages": lambda a: jr.cascade(jr.attacks.fgsm(), jr.restarts(sgd(a), 2)),
    "traced model": lambda a: functional(lambda x: a * x.reshape(len(x), -1), X),
    "traced arrays": lambda a: functional(lambda x: jnp.full(64, a) * x.reshape(len(x), -1), X),
    "model's derivative": lambda a: functional(rule(a), X),
    "callback": lambda a: functional(callback(a), X),
    "module": lambda a: functional(net(int(a)), X),
    "partial model": lambda a: functional(
        jax.tree_util.Partial(lambda w, x: a * x.reshape(len(x), -1) @ w, weights(0)), X
    ),
}


def callback(factor):
    call = lambda x: np.asarray(factor * x, np.float32)  # noqa: E731
    shape = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    return lambda x: jax.pure_callback(call, shape, x[:, 0, :3, 0], vmap_method="sequential")


@pytest.mark.parametrize("make", SAME_OR_OTHER.values(), ids=SAME_OR_OTHER)
def test_digest_is_of_what_a_function_does(make):
    assert digest(make(1.0)) == digest(make(1.0)) != digest(make(2.0))


def test_digest_of_a_function_that_calls_itself():
    def power(n):
        def rise(x, n=n):
            return 1.0 if n == 0 else x * rise(x, n - 1)

        return rise

    assert digest(power(2)) == digest(power(2)) != digest(power(3))


def test_digests_are_those_of_another_process():
    here = {name: digest(make(1.0)) for name, make in SAME_OR_OTHER.items()}
    script = """if True:
        import tests.conftest  # the type checker wraps functions: here as there
        from tests.test_model import SAME_OR_OTHER, digest
        for name, make in reversed(SAME_OR_OTHER.items()):
            print(name, digest(make(1.0)), sep="=")
    """
    there = {}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    for line in out.stdout.splitlines():
        name, _, value = line.rpartition("=")
        there[name] = value
    assert there == here


def test_a_model_of_several_outputs_where_they_are_asked_for():
    x = jnp.ones((2, 3))
    dense = functional(lambda z: jnp.stack([z, -z], -1), x, dense=True)
    assert dense.apply(dense.leaves, jnp.ones((5, 3))).shape == (5, 3, 2)
    with pytest.raises(ValueError, match=r"float logits \[B, K\]"):
        functional(lambda z: jnp.stack([z, -z], -1), x)
    with pytest.raises(ValueError, match=r"float logits \[B, ..., K\]"):
        functional(lambda z: z[:, 0], x, dense=True)
