"""The study of training for smoothing: tables and figures are those of the records, budgets are equal, and certificates make sense."""

import itertools

import pytest

from experiments import smoothing_study as study
from jrobust.cli._methods import APART, SMOOTHED

README = (study.RECORDS.parent / "README.md").read_text()
RECORDED = {
    path.stem: study.read(path)
    for kind in ("smoothing", "interference")
    for path in (study.RECORDS / f"{kind}_{dataset}.jsonl" for dataset in study.PASSES)
    if path.exists()
}


def test_digits_are_complete():
    """Every method at every level; every level of training against one certified level."""
    for config, name in (
        (study.Config(), "smoothing_digits"),
        (study.Config(interference=True), "interference_digits"),
    ):
        ran = {(r["method"], r["trained_at"], r["sigma"], r["seed"]) for r in RECORDED[name]}
        assert ran >= set(study.plan(config))
    assert len(study.plan(study.Config())) == 3 * (1 + len(SMOOTHED.keys() - set(APART)))


@pytest.mark.parametrize("name", RECORDED)
def test_the_tables_are_made_of_the_records(name):
    records = RECORDED[name]
    assert len(set(map(study.identity, records))) == len(records)
    for made in study.tables(records):
        assert made in README


@pytest.mark.parametrize("name", RECORDED)
def test_certificates_make_sense_and_budgets_are_equal(name):
    for r in RECORDED[name]:
        certified = r["certified"]
        assert len(certified) == len(study.RADII)
        assert all(a >= b for a, b in itertools.pairwise(certified))
        furthest = (
            3.2 * r["sigma"]
        )  # what 10,000 votes for one class certify: sigma Phi^-1(0.001 ** 1e-4) = 3.199 sigma
        assert all(c == 0 for radius, c in zip(study.RADII, certified, strict=True) if radius > furthest)
        assert 0 <= r["acr"] <= furthest * certified[0] + 1e-4
        assert 0 <= r["abstained"] <= 1 - certified[0] + 1e-9
        spent = r["epochs"] * r["passes_an_epoch"]
        assert abs(spent - study.PASSES[r["dataset"]]) <= 0.2 * study.PASSES[r["dataset"]], r["method"]


def test_noise_in_training_pays_on_digits():
    """Real data have small interference distances: the smoothed net of natural training is far behind."""
    swept = {r["trained_at"]: r for r in RECORDED["interference_digits"] if r["seed"] == 0}
    assert max(swept[level]["acr"] for level in study.LEVELS[1:]) > swept[0.0]["acr"] + 0.1
    assert swept[0.5]["certified"][0] > swept[0.0]["certified"][0] + 0.1


def test_the_figure_is_drawn_from_the_records(tmp_path):
    path = tmp_path / "figure.svg"
    study.draw(RECORDED["smoothing_digits"], path)
    assert path.stat().st_size < 100_000
    assert all(method in path.read_text() for method in study.METHODS)
