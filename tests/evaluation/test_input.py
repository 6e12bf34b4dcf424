"""Bad input is one clear error before any work: no oracle and no model runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import Oracle
from jrobust._tree import bind
from jrobust.evaluation import _checks, curve, evaluate
from tests.evaluation.common import data, linear, linear_bound, linear_radius

X, Y = data(6)


def _never(key, f, s):
    raise AssertionError("work was done")


def call(**changes):
    arguments = {
        "model": linear(0),
        "x": X,
        "y": Y,
        "threat": jr.sets.linf(0.1, clip=(0, 1)),
        "oracles": {"a": Oracle("lower", bind(_never), name="never")},
        "key": jax.random.key(0),
    } | changes
    return evaluate(arguments.pop("model"), arguments.pop("x"), arguments.pop("y"), **arguments)


def replaced(a, index, value):
    a = np.array(a)
    a[index] = value
    return a


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": replaced(X, (4, 2), np.nan)}, ValueError, r"x\[4, 2\] = nan is not finite"),
        ({"x": replaced(X, (1, 5), -np.inf)}, ValueError, r"x\[1, 5\] = -inf is not finite"),
        ({"x": replaced(X, (3, 0), 1.5)}, ValueError, r"x\[3, 0\] = 1.5 is above the box of allowed values \[0, 1\]"),
        ({"x": replaced(X, (3, 0), -0.25)}, ValueError, r"x\[3, 0\] = -0.25 is below"),
        (
            {"x": replaced(X, (3, 1), 2.0), "threat": jr.sets.box(0.0, np.ones(6))},
            ValueError,
            r"x\[3, 1\] = 2.0 is above",
        ),
        ({"x": (255 * X).astype(np.uint8)}, TypeError, "floating point.*divide images by 255"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "empty"),
        ({"x": np.float32(1.0)}, ValueError, "must be a batch"),
        ({"x": (X, X[:3])}, ValueError, "one length"),
        ({"x": {"a": X}}, TypeError, "a tuple of arrays .a product set.; got a dictionary"),
        ({"y": replaced(Y, 2, 3)}, ValueError, r"y\[2\] = 3 is out of range: the model has 3 classes, labels are 0..2"),
        ({"y": replaced(Y, 5, -1)}, ValueError, r"y\[5\] = -1 is out of range"),
        ({"y": Y.astype(np.float32)}, TypeError, "integer labels.*float32"),
        ({"y": Y[:4]}, ValueError, r"shape \(6,\), one label an example of x, got \(4,\)"),
        ({"y": np.eye(3, dtype=int)[Y]}, ValueError, r"got \(6, 3\)"),
        ({"model": lambda x: x.sum(1)}, ValueError, r"float logits \[B, K\]"),
        ({"model": lambda x: (x * 3).astype(int)}, ValueError, "int32"),
        ({"model": 3}, TypeError, "is a callable"),
        ({"threat": jr.sets.linf(0.1).family(-0.5)}, ValueError, r"eps must be finite and >= 0, got eps = -0.5"),
        ({"threat": jr.sets.linf(0.1).family(np.array([0, 0, -1, 0, 0, 0.0]))}, ValueError, r"eps\[2\] = -1"),
        ({"threat": jr.sets.linf(np.ones(7))}, ValueError, r"eps has shape \(7,\); expected one number"),
        ({"key": 0}, TypeError, "typed PRNG key"),
        ({"key": jax.random.PRNGKey(0)}, TypeError, "typed PRNG key"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"oracles": {"clean": linear_bound()}}, ValueError, "other than 'clean'"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_one_clear_error(changes, error, message):
    with pytest.raises(error, match=message):
        call(**changes)


def test_wrong_types():  # asked of the checks themselves: in tests annotations are enforced before them
    with pytest.raises(TypeError, match=r"made by jr\.sets"):
        _checks.check_eps(0.1, _checks.check_data(X, Y))
    with pytest.raises(TypeError, match="dictionary"):
        _checks.check_oracles([linear_bound()])
    with pytest.raises(TypeError, match="not an Oracle"):
        _checks.check_oracles({"a": jr.attacks.pgd})


def test_one_eps_that_could_be_two_things():
    x = X[:, :6]
    with pytest.raises(ValueError, match="one an example or one an entry"):
        call(x=x, threat=jr.sets.linf(np.full(6, 0.1)))


def test_a_radius_needs_one_eps_an_example():
    with pytest.raises(ValueError, match="one number for an example"):
        call(threat=jr.sets.linf(np.full((6, 6), 0.1)), oracles={"r": linear_radius("lower")})


def test_a_lower_oracle_needs_a_witness():
    with pytest.raises(ValueError, match="no witness"):
        call(oracles={"a": linear_bound("lower")})


def test_a_random_model_warns():
    draws = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="two answers"):
        call(model=lambda x: linear(0)(x) + draws.normal(size=3), oracles={})


def test_curve_refuses_bad_radii():
    for eps in ([], [[0.1]], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match="eps must be"):
            curve(linear(0), X, Y, threat=jr.sets.linf(0.1), eps=eps, oracles={}, key=jax.random.key(0))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_other_floats_are_computed_in_float32(dtype):
    x = jnp.asarray(X, dtype) if dtype is not np.float64 else X.astype(dtype)
    bound = call(x=x, oracles={"b": linear_bound(), "f": jr.attacks.fgsm()})
    assert bound["f"].witness.dtype == np.float32
    rounded = call(x=np.asarray(x, np.float32), oracles={"b": linear_bound()})
    np.testing.assert_array_equal(bound["b"].value, rounded["b"].value)


def test_labels_do_not_wrap():
    with pytest.raises(ValueError, match=r"y\[0\] = 4294967297 is out of range"):
        call(y=np.array([2**32 + 1, 0, 0, 1, 0, 1]))


def test_probabilities_are_told_and_the_numbers_come_all_the_same():
    x = jnp.array([[0.2, 0.8, 0.1], [0.6, 0.4, 0.3]])
    how = {"threat": jr.sets.linf(0.1), "oracles": {"fgsm": jr.attacks.fgsm()}, "key": jax.random.key(0)}
    with pytest.warns(UserWarning, match="returns probabilities"):
        said = jr.evaluate(lambda x: jax.nn.softmax(x), x, jnp.array([1, 0]), **how)
    assert said["fgsm"].holds.tolist() == jr.evaluate(lambda x: x, x, jnp.array([1, 0]), **how)["fgsm"].holds.tolist()
