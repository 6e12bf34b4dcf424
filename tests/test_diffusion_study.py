"""The study of denoisers in front: its table is that of the records, and the records make sense."""

import itertools

import pytest

from experiments import diffusion_study as study

RECORDS = study.read(study.PATH)
BY = {(r["sigma"], r["denoiser"]): r for r in RECORDS}


def test_the_table_is_made_of_the_records():
    assert len(BY) == len(RECORDS)
    assert study.table(RECORDS) in (study.RECORDS.parent / "README.md").read_text()
    assert {r["sigma"] for r in RECORDS} == {0.25, 0.5}
    assert {r["denoiser"] for r in RECORDS if r["sigma"] == 0.25} == set(study.DENOISERS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r['sigma']:g} {r['denoiser']}")
def test_certificates_make_sense(record):
    certified, furthest = record["certified"], 2.71 * record["sigma"]  # Phi^-1(0.001 ** (1 / 2000)) = 2.70
    assert len(certified) == len(study.RADII)
    assert all(a >= b for a, b in itertools.pairwise(certified))
    assert all(c == 0 for r, c in zip(study.RADII, certified, strict=True) if r > furthest)
    assert 0 <= record["acr"] <= furthest * certified[0] + 1e-4
    assert 0 <= record["abstained"] <= 1 - certified[0] + 1e-9


def test_what_denoising_buys():
    """Errors: the net below the linear filter below the noise; certificates: any denoiser before none."""
    for sigma in {r["sigma"] for r in RECORDS}:
        error = {d: BY[sigma, d]["error"] for d in study.DENOISERS if (sigma, d) in BY}
        assert error["none"] == pytest.approx(sigma**2, rel=0.02)
        assert error["diffusion, one step"] < error["wiener"] < error["none"]
        for name in error.keys() - {"none"}:
            assert BY[sigma, name]["acr"] > BY[sigma, "none"]["acr"]


def test_the_filter_of_the_study_is_the_best_linear_one():
    """On the training images no other gain does better: its error is stationary."""
    import jax
    import jax.numpy as jnp

    from jrobust import data

    x = jnp.asarray(data.load("digits").train_x)
    z = x + 0.3 * jax.random.normal(jax.random.key(0), x.shape)
    errors = [float(jnp.mean((study.wiener(s)(z) - x) ** 2)) for s in (0.15, 0.3, 0.6)]
    assert errors[1] < min(errors[0], errors[2])


def test_purification_is_judged_by_the_stronger_attack():
    records = study.read(study.ATTACKS)
    assert study.attack_table(records) in (study.RECORDS.parent / "README.md").read_text()
    assert [r["t_star"] for r in records] == list(study.T_STARS)
    bare, *purified = records
    for r in purified:
        assert {"full", "bpda"} <= r.keys()
        assert max(r["full"], r["bpda"]) <= r["clean"]
    assert max(min(r["full"], r["bpda"]) for r in purified) > bare["full"]
