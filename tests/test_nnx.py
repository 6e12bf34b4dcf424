import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jrobust.nnx import activations, functional, merge


class Net(nnx.Module):
    def __init__(self, seed: int, rate: float = 0.0):
        rngs = nnx.Rngs(seed)
        self.first, self.norm = nnx.Linear(3, 5, rngs=rngs), nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.drop, self.head = nnx.Dropout(rate, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(jax.nn.relu(self.norm(self.first(x)))))


x = jax.random.normal(jax.random.key(0), (7, 3)) + 1.0


def test_modes_and_statistics():
    net = Net(0)
    apply, params, rest = functional(net)
    hidden = net.first(x)
    logits, updated = apply(params, rest, x, train=True)
    np.testing.assert_allclose(updated["norm"]["mean"], 0.1 * hidden.mean(0), rtol=1e-5)
    normal = (hidden - hidden.mean(0)) / jnp.sqrt(hidden.var(0) + 1e-5)
    np.testing.assert_allclose(logits, net.head(jax.nn.relu(normal)), atol=1e-5)

    logits, same = apply(params, updated, x, train=False)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), same["norm"], updated["norm"]))
    stats = updated["norm"]
    normal = (hidden - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(logits, net.head(jax.nn.relu(normal)), atol=1e-5)


def test_the_module_is_left_alone_and_its_mode_does_not_matter():
    net = Net(0)
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(net, nnx.Param)))
    apply, params, rest = functional(net)
    apply(params, rest, x, train=True)
    assert net.norm.use_running_average is False
    assert (net.norm.mean[...] == 0).all()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), before, nnx.to_pure_dict(nnx.state(net, nnx.Param))))
    net.eval()
    assert functional(net).apply == apply


def test_one_compilation_for_one_architecture():
    traces = []

    @jax.jit
    def run(apply, params, rest):
        traces.append(1)
        return apply(params, rest, x, train=False)[0]

    out = [run(*functional(Net(seed))) for seed in range(3)]
    assert len(traces) == 1
    assert not jnp.allclose(out[0], out[1])
    run(*functional(Net(0, rate=0.5)))  # another rate is another architecture
    assert len(traces) == 2


def test_merge_gives_back_the_module():
    net = Net(0)
    net.eval()
    apply, params, rest = functional(Net(1))
    merged = merge(net, params, rest)
    np.testing.assert_array_equal(merged(x), apply(params, rest, x, train=False)[0])
    assert not jnp.allclose(merged(x), net(x))


def test_dropout_draws_anew_when_rest_is_passed_on():
    apply, params, rest = functional(Net(0, rate=0.5))
    first, after = apply(params, rest, x, train=True)
    again, _ = apply(params, rest, x, train=True)
    second, _ = apply(params, after, x, train=True)
    np.testing.assert_array_equal(first, again)
    assert not jnp.allclose(first, second)
    quiet = [apply(params, r, x, train=False)[0] for r in (rest, {**after, "norm": rest["norm"]})]
    np.testing.assert_array_equal(*quiet)


def test_gradient_scan_and_vmap():
    apply, params, rest = functional(Net(0))
    gradient = jax.grad(lambda p: apply(p, rest, x, train=True)[0].sum())(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    last, _ = jax.lax.scan(lambda r, _: (apply(params, r, x, train=True)[1], None), rest, None, 3)
    mean = apply(params, rest, x, train=True)[1]["norm"]["mean"] / 0.1
    np.testing.assert_allclose(last["norm"]["mean"], (1 - 0.9**3) * mean, rtol=1e-5)
    one = jax.vmap(lambda z: apply(params, rest, z[None], train=False)[0][0])(x)
    np.testing.assert_allclose(one, apply(params, rest, x, train=False)[0], atol=1e-6)


def test_not_a_module():
    with pytest.raises(TypeError, match=r"got function|nnx\.module"):
        functional(lambda z: z)  # pyright: ignore


def test_activations_are_those_of_the_layers():
    net = Net(0, rate=0.5)
    found = activations(net, x, batch_size=3)
    hidden = net.first(x)
    assert set(found) == {"first", "norm", "drop", "head"}
    np.testing.assert_allclose(found["first"], hidden, rtol=1e-5)
    net.eval()
    np.testing.assert_allclose(found["head"], net(x), rtol=1e-4, atol=1e-5)  # no dropout, running statistics
    again = activations(net, x, after=jax.nn.relu)
    np.testing.assert_allclose(again["first"], jax.nn.relu(hidden), rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size"):
        activations(net, x, batch_size=0)


class Sows(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        for _ in range(2):
            x = jax.nn.relu(self.layer(x))
            self.sow(nnx.Intermediate, "hidden", x)
        return x


def test_sown_activations_and_layers_called_twice():
    net = Sows()
    found = activations(net, x)
    assert set(found) == {"layer", "layer#1", "hidden", "hidden#1"}
    first = jax.nn.relu(net.layer(x))
    np.testing.assert_allclose(found["hidden"], first, rtol=1e-5)
    np.testing.assert_allclose(found["layer#1"], net.layer(first), rtol=1e-5)
    np.testing.assert_allclose(found["hidden#1"], jax.nn.relu(found["layer#1"]), rtol=1e-5)
