"""AutoAttack: the protocol for every kind of set, and agreement with the official code on trained nets.

The golden outcomes and weights lie in ``shared/`` beside a checkout on the project's own machines; where that folder is not,
there is nothing to compare with and the golden test has no cases.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jrobust as jr
from tests.shared import SHARED

SETS = {"Linf": jr.sets.linf, "L2": jr.sets.l2, "L1": jr.sets.l1}
CASES = [path.stem for path in sorted((SHARED / "fixtures" / "attacks").glob("*_L*.npz"))]


@pytest.mark.parametrize(
    ("version", "kind", "classes", "wanted"),
    [
        ("standard", "linf", 10, ["apgd-ce-100", "apgd-t-dlr-100 x9", "fab-t-100 x9", "square-5000"]),
        ("standard", "l1", 10, ["apgd-ce-100 x5", "apgd-t-dlr-100 x5", "fab-t-100 x9", "square-5000"]),
        ("standard", "l2", 3, ["apgd-ce-100", "apgd-t-margin-100 x2", "fab-t-100 x2", "square-5000"]),
        ("rand", "linf", 10, ["apgd-ce-100", "apgd-dlr-100"]),
    ],
)
def test_the_protocol_is_the_published_one(version, kind, classes, wanted):
    oracle = jr.attacks.autoattack(version=version).adapt(kind, classes)
    got = [s.name if not s.stages else f"{s.stages[0].name} x{len(s.stages)}" for s in oracle.stages]
    assert got == wanted


def test_plus_has_every_component():
    assert len(jr.attacks.autoattack(version="plus").adapt("linf", 10).stages) == 6
    with pytest.raises(ValueError, match="version"):
        jr.attacks.autoattack(version="fast")


SLOW = pytest.mark.sweep


@pytest.mark.parametrize(
    ("kind", "classes"), [("Linf", 3), pytest.param("L2", 5, marks=SLOW), pytest.param("L1", 2, marks=SLOW)]
)
def test_alone_and_in_a_driver_it_says_the_same(kind, classes, key):
    w = jax.random.normal(jax.random.key(3), (6, classes))
    x = jax.random.uniform(jax.random.key(4), (5, 6))
    y = jnp.argmax(x @ w, axis=1)
    attack = jr.attacks.autoattack(steps=4, queries=8)
    threat = SETS[kind]({"Linf": 0.1, "L2": 0.2, "L1": 0.3}[kind], clip=(0, 1))
    ev = jr.evaluate(lambda x: x @ w, x, y, threat=threat, oracles={"aa": attack}, key=key)

    def one(i):
        f = jr.objectives.classification(lambda z: z @ w, y[i])
        return attack.solve(jax.random.fold_in(key, i), f, threat(x[i]))

    for i in (0, 3):
        alone = jax.jit(one, static_argnums=0)(i)
        # two compilations round differently, and top-k steps on L1 sets part ways on it: the verdict and its price are compared
        tol = 1e-4 if kind == "Linf" else 0.2
        np.testing.assert_allclose(alone.value, ev["aa"].value[i], rtol=tol, atol=1e-5)
        assert int(alone.info["stage"]) == int(ev["aa"].info["stage"][i])
        assert int(alone.info["forwards"]) == int(ev["aa"].info["forwards"][i])


def net(w, x):
    h = x.transpose(0, 3, 1, 2)
    for layer in "02":
        h = lax.conv_general_dilated(h, w[f"{layer}.weight"], (2, 2), [(1, 1), (1, 1)])
        h = jax.nn.relu(h + w[f"{layer}.bias"][:, None, None])
    h = jax.nn.relu(h.reshape(len(h), -1) @ w["5.weight"].T + w["5.bias"])
    return h @ w["7.weight"].T + w["7.bias"]


def golden(case):
    """The model, the images with their labels, the threat and the official outcomes."""
    name, norm, eps = case.rsplit("_", 2)
    folder = SHARED / "fixtures" / "attacks"
    w = {k: jnp.asarray(v) for k, v in np.load(folder / f"{name}.npz").items()}
    official = dict(np.load(folder / f"{case}.npz"))
    data = "fashion_mnist" if name.startswith("fmnist") else "mnist"
    images = jr.data.load(data, split="test", data_dir=SHARED / "tfds")
    n = len(official["clean"])
    return (
        jax.tree_util.Partial(net, w),
        images.test_x[:n],
        images.test_y[:n],
        SETS[norm](float(eps), clip=(0, 1)),
        official,
    )


@pytest.mark.filterwarnings("ignore")  # of tensorflow_datasets' own imports
@pytest.mark.parametrize("case", CASES)
def test_breaks_what_the_official_attack_breaks(case, key):
    # accuracy above the official one can only come from these; extra breaks elsewhere are confirmed by the driver
    model, x, y, threat, official = golden(case)
    broken = np.flatnonzero(official["clean"] & ~official["robust"])[:4]
    ev = jr.evaluate(model, x[broken], y[broken], threat=threat, oracles={"aa": jr.attacks.autoattack()}, key=key)
    assert ev["clean"].holds.all()
    missed = int(ev["aa"].holds.sum())
    assert missed == 0, f"{missed} of {len(broken)}"


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_whole_fixture(case, key):
    model, x, y, threat, official = golden(case)
    ev = jr.evaluate(model, x, y, threat=threat, oracles={"aa": jr.attacks.autoattack()}, key=key)
    ours, theirs = ev["aa"].holds.mean(), official["robust"].mean()
    missed = int((official["clean"] & ~official["robust"] & ev["aa"].holds).sum())
    print(
        f"{case}: n={len(x)} clean {official['clean'].mean():.4f} official {theirs:.4f} ours {ours:.4f} missed {missed}"
    )
    assert ours <= theirs + max(0.002, 1 / len(x))
    # both are random: of few broken examples one may need more luck than either has
    assert missed <= max(1, 0.01 * (official["clean"] & ~official["robust"]).sum())
