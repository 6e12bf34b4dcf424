"""The experiments of structured smoothing: their tables are those of the records, and what the text says of them is in the records."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import smoothing_structured as study

README = Path(study.__file__).parent / "README.md"
RECORDS = study.read()


def of(name, **setting):
    found = [r for r in RECORDS if r["experiment"] == name and all(r[k] == v for k, v in setting.items())]
    assert found, (name, setting)
    return found


@pytest.mark.parametrize("name", study.NAMES)
def test_the_tables_are_made_of_the_records(name):
    of(name)
    assert study.table(name, RECORDS) in README.read_text()


def test_adaptive_certification_abstains_less_at_equal_draws():
    for r in of("segment", hierarchy="none"):
        (adaptive,) = of("segment", hierarchy="adaptive", n=r["n"], method=r["method"])
        assert adaptive["abstained"] <= r["abstained"]
        assert abs(adaptive["gain"] - r["gain"]) < 0.001  # and gains nothing to speak of here


def test_holm_certifies_more_than_bonferroni():
    for r in of("segment", method="bonferroni"):
        (holm,) = of("segment", method="holm", n=r["n"], hierarchy=r["hierarchy"])
        assert holm["abstained"] < r["abstained"]


def test_dual_smoothing_gains_nothing_here():
    best = {m: max(r["average_radius"] for r in of("dual", method=m)) for m in ("plain", "dual")}
    assert best["dual"] < best["plain"]


def test_narrow_columns_certify_more_large_patches():
    for data in ("digits", "mnist"):
        columns = sorted(of("bands", data=data, kind="columns"), key=lambda r: r["size"])
        assert [r["certified_large"] for r in columns] == sorted((r["certified_large"] for r in columns), reverse=True)
        assert [r["accuracy"] for r in columns] == sorted(r["accuracy"] for r in columns)


def test_the_costly_radius_is_at_least_the_plain_one():
    for r in of("costs"):
        assert r["least_gain"] >= 0
        assert r["mean_radius"] > r["mean_plain"]


def test_together_is_at_least_one_by_one():
    for r in of("localized", counted="one by one"):
        (together,) = of("localized", counted="together", near=r["near"], far=r["far"])
        same = r["noise"] == "isotropic"
        for name in (n for n in r if n.startswith("e") and n[1:2].isdigit()):
            assert together[name] == r[name] if same else together[name] >= r[name]


def test_pointcert_needs_no_draws_and_certifies_deletion_twice():
    for r in of("points", method="PointCert", change="modify"):
        (fewer,) = of("points", method="PointCert", change="delete", kept=r["kept"])
        assert all(fewer[f"r{2 * k}"] >= r[f"r{k}"] for k in (2, 4, 8, 16))


def test_the_distance_of_a_turned_scene_is_bounded():
    from experiments.structured import fusion

    scene = fusion.scenes(jax.random.key(3), 1)[0]
    bound = fusion.reach(scene, 4.25)
    seen = jax.vmap(lambda a: fusion.readings(scene, a))(jnp.linspace(4.0, 4.5, 77))
    centre = fusion.readings(scene, 4.25)
    for sensor, most in bound.items():
        away = np.linalg.norm(np.asarray(seen[sensor] - centre[sensor]), axis=1).max()
        assert 0.5 * most < away <= most + 1e-6


def test_solids_differ():
    from experiments.structured import points

    x, y = points.clouds(12, 0, points=64)
    assert x.shape == (12, 64, 3)
    assert np.isfinite(x).all()
    assert set(y) <= set(range(6))
