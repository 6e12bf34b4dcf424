"""`evaluate` against the plain vmapped solve and closed forms, whatever the batch size, stages, radii or devices."""

import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust import Bound, Oracle
from jrobust._tree import bind
from jrobust.evaluation import curve, evaluate
from jrobust.evaluation._execute import Executor
from tests.evaluation.common import (
    compilations,
    data,
    labels,
    liar,
    linear,
    linear_bound,
    linear_radius,
    mlp,
    optimist,
)

EARLY = jr.attacks.pgd(steps=20, step=0.01, early_stop=True)
LINF = jr.sets.linf(0.1, clip=(0, 1))


def plain(model, x, y, threat, oracle, key):
    """One vmapped solve over everything, as a user would write it without a driver."""

    def one(i, x, y):
        f = jr.objectives.classification(lambda z: model(z[None])[0], y)
        return oracle.solve(jax.random.fold_in(key, i), f, threat(x))

    return jax.jit(jax.vmap(one))(jnp.arange(len(x)), jnp.asarray(x), jnp.asarray(y))


def wide(seed=1, n=53):
    model = mlp(seed)
    x = np.random.default_rng(seed).uniform(0.1, 0.9, (n, 6)).astype(np.float32)
    y = labels(model, x)
    y[::9] = (y[::9] + 1) % 3
    return model, x, y


@pytest.mark.parametrize(
    "oracle",
    [
        jr.attacks.fgsm(),
        pytest.param(jr.attacks.pgd(steps=8), marks=pytest.mark.sweep),
        pytest.param(EARLY, marks=pytest.mark.sweep),
        jr.restarts(jr.attacks.pgd(steps=4), 3),
        jr.cascade(jr.attacks.fgsm(), EARLY, jr.restarts(jr.attacks.pgd(steps=4), 2)),
        jr.cascade(jr.cascade(jr.attacks.fgsm(), jr.attacks.pgd(steps=2)), EARLY),
    ],
    ids=lambda o: o.name,
)
def test_equals_the_plain_solve_at_any_batch_size(oracle, key):
    model, x, y = wide()
    expected = plain(model, x, y, LINF, oracle, key)
    correct = labels(model, x) == y
    holds = np.asarray(expected.value < 0) & correct
    assert 5 < holds.sum() < correct.sum() < len(x)
    for batch_size in (7, 100):
        ev = evaluate(model, x, y, threat=LINF, oracles={"a": oracle}, key=key, batch_size=batch_size)
        assert list(ev) == ["clean", "a"]
        np.testing.assert_array_equal(ev["clean"].holds, correct)
        np.testing.assert_array_equal(ev["a"].holds, holds)
        np.testing.assert_allclose(ev["a"].value[correct], expected.value[correct], atol=1e-5)
        np.testing.assert_allclose(ev["a"].witness[correct], expected.witness[correct], atol=1e-5)
        for name in ("forwards", "backwards"):
            np.testing.assert_array_equal(ev["a"].info[name][correct], expected.info[name][correct])
        # misclassified examples are not attacked
        np.testing.assert_array_equal(ev["a"].witness[~correct], x[~correct])
        assert not ev["a"].info["forwards"][~correct].any()


def test_bounds_attacks_and_radii_agree_on_a_linear_model(key):
    model, (x, y) = linear(0), data(40)
    threat = jr.sets.linf(0.08)
    oracles = {
        "attack": jr.attacks.fgsm(surrogate=jr.objectives.largest),
        "bound": linear_bound(),
        "ladder": jr.cascade(jr.cascade(linear_bound()), linear_bound()),
        "exact": linear_bound("exact"),
        "near": linear_radius("upper"),
        "far": linear_radius("lower"),
    }
    ev = evaluate(model, x, y, threat=threat, oracles=oracles, key=key, batch_size=16)
    assert 0 < ev["bound"].holds.sum() < ev["clean"].holds.sum() < 40
    for name in ev:
        if name == "attack":  # FGSM climbs one margin only
            assert (ev[name].holds | ~ev["bound"].holds).all()
        elif name != "clean":
            np.testing.assert_array_equal(ev[name].holds, ev["bound"].holds, err_msg=name)
    assert [ev[name].side for name in ev] == ["exact", "lower", "upper", "upper", "exact", "lower", "upper"]
    assert ev["near"].quantity == "radius"
    np.testing.assert_allclose(ev["near"].value, ev["far"].value, rtol=1e-3)
    assert not ev.contradictions()
    assert ev["bound"].witness is None
    assert np.isinf(ev["bound"].value[~ev["clean"].holds]).all()


def test_attacks_and_bounds_of_the_library(key):
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(6, 16)).astype(np.float32), rng.normal(size=(16, 3)).astype(np.float32)
    x, _ = data(20)
    oracles = {
        "pgd": jr.attacks.pgd(steps=5),
        "ladder": jr.cascade(jr.bounds.ibp(), jr.bounds.crown()),
        "crown": jr.bounds.crown(),
        "guess": jr.mix(jr.attacks.fgsm(), jr.bounds.ibp(), 0.5),
    }

    def net(x):  # ReLU: every bound method has its rules
        return jax.nn.relu((x - 0.5) @ w1) @ w2

    ev = evaluate(net, x, labels(net, x), threat=jr.sets.linf(0.005), oracles=oracles, key=key)
    assert not ev.contradictions()
    assert ev["pgd"].holds.sum() >= ev["ladder"].holds.sum() >= ev["crown"].holds.sum() > 0
    with pytest.raises(ValueError, match="estimate"):
        ev["guess"].accuracy()


def test_eps_zero_is_clean_and_one_eps_an_example(key):
    model, (x, y) = linear(0), data(30)
    oracles = {
        "bound": linear_bound(),
        "near": linear_radius("upper"),
        "far": linear_radius("lower"),
    }
    ev = evaluate(model, x, y, threat=jr.sets.linf(0.0, clip=(0, 1)), oracles=oracles, key=key)
    for name in oracles:
        np.testing.assert_array_equal(ev[name].holds, ev["clean"].holds)
    eps = np.linspace(0, 0.2, 30).astype(np.float32)
    ev = evaluate(model, x, y, threat=jr.sets.linf(eps), oracles=oracles, key=key, batch_size=8)
    radius = ev["far"].value
    clear = np.abs(radius - eps) > 1e-3
    for name in oracles:
        np.testing.assert_array_equal(ev[name].holds[clear], (ev["clean"].holds & (radius > eps))[clear])
    bound = {"bound": linear_bound()}
    each = evaluate(model, x, y, threat=jr.sets.linf(np.full(6, 0.08, np.float32)), oracles=bound, key=key)
    one = evaluate(model, x, y, threat=jr.sets.linf(0.08), oracles=bound, key=key)
    np.testing.assert_array_equal(each["bound"].holds, one["bound"].holds)


def test_a_product_of_inputs(key):
    w = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    def model(x):
        return jnp.concatenate(x, axis=1) @ w

    rng = np.random.default_rng(1)
    x = (rng.uniform(size=(12, 2)).astype(np.float32), rng.uniform(size=(12, 3)).astype(np.float32))
    y = np.asarray(model(x)).argmax(1)
    threat = jr.sets.product(jr.sets.linf(0.1), jr.sets.l2(0.1))
    attack = jr.attacks.pgd(steps=20, surrogate=jr.objectives.largest)
    ev = evaluate(model, x, y, threat=threat, oracles={"pgd": attack}, key=key, batch_size=5)
    expected = plain_product(model, x, y, threat, attack, key)
    np.testing.assert_allclose(ev["pgd"].value, expected, atol=1e-5)
    assert [w.shape for w in ev["pgd"].witness] == [(12, 2), (12, 3)]


def plain_product(model, x, y, threat, oracle, key):
    def one(i, x, y):
        f = jr.objectives.classification(lambda z: model(jax.tree.map(lambda a: a[None], z))[0], y)
        return oracle.solve(jax.random.fold_in(key, i), f, threat(x)).value

    return jax.vmap(one)(jnp.arange(len(y)), x, jnp.asarray(y))


def test_nothing_recompiles_for_new_numbers(key):
    x, _ = data(24)
    stages = lambda step: jr.cascade(jr.attacks.fgsm(), jr.attacks.pgd(steps=12, step=step, early_stop=True))  # noqa: E731
    run = lambda seed, eps, step: evaluate(  # noqa: E731
        mlp(seed), x, labels(mlp(seed), x), threat=jr.sets.linf(eps, clip=(0, 1)),
        oracles={"c": stages(step), "b": linear_bound()}, key=jax.random.key(seed), batch_size=8,
    )  # fmt: skip
    run(0, 0.05, 0.01)
    with compilations() as compiled:
        first = run(0, 0.05, 0.01)
        others = [run(seed, eps, step) for seed, eps, step in ((1, 0.02, 0.005), (2, 0.1, 0.02))]
    assert not compiled
    assert len({tuple(r["c"].value) for r in (first, *others)}) == 3


def test_compaction_needs_few_programs(key):
    model, x, y = wide(n=200)
    oracles = {"c": jr.cascade(jr.attacks.fgsm(), jr.attacks.pgd(steps=16, early_stop=True))}
    from jrobust.evaluation import _execute

    before = {fn: fn._cache_size() for fn in (_execute._solve, _execute._advance, _execute._clean)}
    evaluate(model, x, y, threat=LINF, oracles=oracles, key=key, batch_size=64)
    assert all(fn._cache_size() - size <= 4 for fn, size in before.items())  # 64, 32, 16, 8 at most


def test_early_stop_pays_only_for_those_still_running(key, monkeypatch):
    from jrobust.evaluation import _execute

    sizes = []
    advance = _execute._advance

    def spy(iteration, threat, leaves, rows, *args, **kwargs):
        sizes.append(len(rows.y))
        return advance(iteration, threat, leaves, rows, *args, **kwargs)

    monkeypatch.setattr(_execute, "_advance", spy)
    model, x, y = wide(n=64)
    evaluate(model, x, y, threat=LINF, oracles={"a": EARLY}, key=key, batch_size=64)
    assert sizes[0] == 64
    assert sizes[-1] < 64
    assert sizes == sorted(sizes, reverse=True)


def test_claims_are_confirmed(key):
    model, (x, y) = linear(0), data(20)
    for outside in (False, True):
        with pytest.warns(UserWarning, match="claimed 17 violations"):
            ev = evaluate(model, x, y, threat=LINF, oracles={"liar": liar(outside)}, key=key)
        np.testing.assert_array_equal(ev["liar"].holds, ev["clean"].holds)
        np.testing.assert_array_equal(ev["liar"].witness, x)
        assert "not confirmed" in str(ev.table())
    # a cascade goes on where a claim was not confirmed
    attack = jr.attacks.fgsm(surrogate=jr.objectives.largest)
    with pytest.warns(UserWarning, match="claimed"):
        ev = evaluate(model, x, y, threat=LINF, oracles={"c": jr.cascade(liar(), attack), "a": attack}, key=key)
    np.testing.assert_array_equal(ev["c"].holds, ev["a"].holds)
    assert not ev["a"].holds.all()


def test_a_contradiction_is_an_alarm(key):
    model, (x, y) = linear(0), data(20)
    with pytest.warns(UserWarning, match="contradiction"):
        ev = evaluate(model, x, y, threat=LINF, oracles={"a": jr.attacks.fgsm(), "proof": optimist()}, key=key)
    (found,) = ev.contradictions()
    assert (found.attack, found.certificate) == ("a", "proof")
    np.testing.assert_array_equal(found.index, np.flatnonzero(ev["clean"].holds & ~ev["a"].holds))
    assert "CONTRADICTION" in str(ev.table())


def test_host_oracles_are_looped_over(key):
    calls = []

    def run(key, f, s):
        assert not isinstance(s.center, jax.core.Tracer)
        calls.append(1)
        return linear_bound().run(key, f, s)

    model, (x, y) = linear(0), data(9)
    oracles = {"host": Oracle("upper", bind(run), host=True, name="host"), "bound": linear_bound()}
    ev = evaluate(model, x, y, threat=LINF, oracles=oracles, key=key)
    assert len(calls) == ev["clean"].holds.sum() < 9
    np.testing.assert_allclose(ev["host"].value, ev["bound"].value, rtol=1e-5)
    ladder = jr.cascade(linear_bound(), oracles["host"])
    np.testing.assert_array_equal(
        evaluate(model, x, y, threat=LINF, oracles={"l": ladder}, key=key)["l"].holds, ev["bound"].holds
    )


def test_nan_never_holds(key):
    def model(x):
        return jnp.where(x[:, :1] > 0.5, jnp.nan, 1.0) * x[:, :3]

    x, _ = data(20)
    y = np.argmax(x[:, :3], 1)
    lost = int((x[:, 0] > 0.5).sum())
    with pytest.warns(UserWarning, match=rf"gave NaN for {lost} of 20 examples"):
        ev = evaluate(model, x, y, threat=jr.sets.linf(0.0), oracles={"pgd": jr.attacks.pgd(steps=2)}, key=key)
    assert not ev["clean"].holds[x[:, 0] > 0.5].any()
    assert not ev["pgd"].holds[x[:, 0] > 0.5].any()
    assert ev["pgd"].holds.any()


def test_a_memory_map_is_read_in_batches_and_order_does_not_matter(tmp_path, key):
    model, x, y = wide(n=40)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    options = {"threat": LINF, "oracles": {"a": jr.attacks.pgd(steps=3, start="center")}, "key": key}
    ev = evaluate(model, mapped, y, **options, batch_size=8, keep_witnesses=False)
    assert ev["a"].witness is None
    flipped = evaluate(model, x[::-1], y[::-1].tolist(), **options)
    np.testing.assert_allclose(ev["a"].value, flipped["a"].value[::-1], atol=1e-6)


def test_curve(key):
    model, (x, y) = linear(0), data(40)
    oracles = {"a": jr.attacks.fgsm(surrogate=jr.objectives.largest), "b": linear_bound()}
    one = curve(model, x, y, threat=jr.sets.linf(0.5), eps=[0.0, 0.05], oracles=oracles, key=key)
    with compilations() as compiled:
        more = curve(model, x, y, threat=jr.sets.linf(0.5), eps=[0.0, 0.05, 0.1, 0.2], oracles=oracles, key=key)
    assert not compiled
    shares = [a.value for a in more.accuracy("a")]
    assert shares == sorted(shares, reverse=True)
    assert shares[:2] == [a.value for a in one.accuracy("a")]
    assert shares[0] == more.evaluations[0]["clean"].accuracy().value > shares[-1]
    assert all(a >= b.value for a, b in zip(shares, more.accuracy("b"), strict=True))
    assert len(more.table().rows) == 9  # clean once, two oracles at four radii


def _lying_radius(key, f, threat, x):
    del key, f, threat
    return jr.Radius(jnp.asarray(0.01), x, {})


@pytest.mark.filterwarnings("ignore:r claimed")
def test_a_nested_curve_confirms_radii_at_every_eps_and_runs_an_eps_once(key, tmp_path):
    model, (x, y) = linear(0), data(10)
    options = {"oracles": {"r": jr.RadiusOracle("upper", bind(_lying_radius))}, "key": key, "keep_witnesses": False}
    for nested in (False, True):
        c = curve(
            model,
            x,
            y,
            threat=jr.sets.linf(0.5),
            eps=[0.1, 0.2, 0.1],
            nested=nested,
            out=tmp_path / str(nested),
            **options,
        )
        assert len(c.evaluations) == 3
        for ev in c.evaluations:
            np.testing.assert_array_equal(ev["r"].holds, ev["clean"].holds)


def test_a_nested_curve_asks_less_and_says_the_same(key, monkeypatch):
    model, (x, y) = linear(0), data(40)
    radius = jr.critical_radius(jr.attacks.fgsm(surrogate=jr.objectives.largest), upper=1.0)
    oracles = {"a": jr.attacks.square(queries=64), "b": linear_bound(), "r": radius}
    options = {"threat": jr.sets.linf(0.5, clip=(0, 1)), "eps": [0.0, 0.2, 0.05, 0.1], "oracles": oracles, "key": key}
    asked, bound = [0], Executor.bound

    def counted(self, oracle, rows, *args):
        asked[-1] += len(rows.y)
        return bound(self, oracle, rows, *args)

    monkeypatch.setattr(Executor, "bound", counted)
    plain = curve(model, x, y, **options)
    asked.append(0)
    nested = curve(model, x, y, nested=True, **options)
    assert asked[1] < 0.8 * asked[0]
    np.testing.assert_array_equal(plain.eps, nested.eps)
    for name in ("clean", "b", "r"):
        for one, other in zip(plain.evaluations, nested.evaluations, strict=True):
            np.testing.assert_array_equal(one[name].holds, other[name].holds, name)
    # monotone whatever the attack, and the witnesses in their sets
    shares = [nested.evaluations[i]["a"].accuracy().value for i in (0, 2, 3, 1)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == plain.evaluations[0]["clean"].accuracy().value > shares[-1]
    for e, ev in zip(nested.eps, nested.evaluations, strict=True):
        broken = ~ev["a"].holds & ev["clean"].holds
        assert np.all(np.abs(ev["a"].witness - x)[broken] <= e + 1e-6)
        assert np.all(np.argmax(model(jnp.asarray(ev["a"].witness[broken])), 1) != y[broken])


def test_progress_bar(key, capsys):
    model, (x, y) = linear(0), data(20)
    evaluate(model, x, y, threat=LINF, oracles={}, key=key, progress=True)
    assert "20/20" in capsys.readouterr().err


def test_one_device_equals_eight(tmp_path, key):
    script = textwrap.dedent(
        """
        import json, sys
        import jax, numpy as np
        import jrobust as jr
        from tests.evaluation.test_evaluate import EARLY, LINF, wide
        from jrobust.evaluation import evaluate
        model, x, y = wide()
        mesh = jax.make_mesh((8,), ("data",)) if jax.device_count() == 8 else None
        oracles = {"c": jr.cascade(jr.attacks.fgsm(), EARLY), "p": jr.attacks.pgd(steps=4)}
        ev = evaluate(model, x, y, threat=LINF, oracles=oracles, key=jax.random.key(0), batch_size=20, mesh=mesh)
        out = {n: [ev[n].holds.tolist(), ev[n].value.tolist(), ev[n].witness.tolist()] for n in oracles}
        json.dump(out, open(sys.argv[1], "w"))
        """
    )
    import os

    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "eight.json")], env=env, check=True)
    eight = json.loads((tmp_path / "eight.json").read_text())
    model, x, y = wide()
    oracles = {"c": jr.cascade(jr.attacks.fgsm(), EARLY), "p": jr.attacks.pgd(steps=4)}
    ev = evaluate(model, x, y, threat=LINF, oracles=oracles, key=key, batch_size=20)
    for name in oracles:
        holds, value, witness = eight[name]
        np.testing.assert_array_equal(ev[name].holds, holds)
        np.testing.assert_allclose(ev[name].value, value, atol=1e-5)
        np.testing.assert_allclose(ev[name].witness, witness, atol=1e-5)


def test_a_random_model_is_judged_by_draws_of_each_example(key, tmp_path):
    x, y, threat = np.full((100, 2), 0.5, np.float32), np.zeros(100, int), jr.sets.linf(0.1)
    noise = lambda k, z: jax.random.normal(k, z.shape) + z  # noqa: E731

    def run(n=1, key=key, oracles=None, **more):
        oracles = {"wait": Oracle("lower", bind(_stays), name="wait")} if oracles is None else oracles
        return evaluate(jr.objectives.stochastic(noise, n), x, y, threat=threat, oracles=oracles, key=key, **more)

    ev = run(batch_size=100)
    clean = ev["clean"]
    assert 30 < clean.holds.sum() < 70  # a fair coin an example: with draws that all share it is 0 or 100
    np.testing.assert_array_equal(ev["wait"].holds, clean.holds)  # the witness is the example, the draws are its own
    np.testing.assert_array_equal(ev["wait"].value, clean.value)
    for size in (1, 7):
        other = run(batch_size=size, out=tmp_path / str(size))
        np.testing.assert_array_equal(other["clean"].value, clean.value)
        np.testing.assert_array_equal(other["wait"].value, ev["wait"].value)
    for path in (tmp_path / "7").glob("*.jsonl"):  # cut off and resumed in other batches
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:50]))
    np.testing.assert_array_equal(run(batch_size=100, out=tmp_path / "7")["wait"].value, clean.value)
    shard = run(shard=(1, 3), oracles={})
    np.testing.assert_array_equal(shard["clean"].value, clean.value[1::3])
    assert (run(key=jax.random.key(9), oracles={})["clean"].holds != clean.holds).any()
    assert (run(n=3, oracles={})["clean"].holds != clean.holds).any()

    # an attack does not see the judge's draws
    assert (ev["wait"].info["seen"] != clean.value)[clean.holds].all()

    share = clean.accuracy()
    assert (clean.side, share.side, jr.metrics.clean_accuracy(ev["wait"]).side) == ("estimate", "estimate", "estimate")
    assert (clean.draws, ev["wait"].side) == (1, "lower")
    row = ev.table().rows[0]
    assert (row["true value"], row["accuracy"]) == ("estimate", share.value)
    assert "mean of 1 draws" in str(ev)
    fixed = evaluate(lambda z: z, x, y, threat=threat, oracles={}, key=key)
    assert (fixed["clean"].side, fixed["clean"].draws) == ("exact", None)
    assert "draws" not in str(fixed)


def _stays(key, f, s):
    """Claims nothing and tells what it saw at the example."""
    seen = f.value(f.outputs(s.center))
    return Bound(0 * seen - 1, s.center, {"seen": seen})
