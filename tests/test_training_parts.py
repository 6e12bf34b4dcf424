"""The study of parts by what they are for: its tables are those of its records, and each part shows what it is for."""

from pathlib import Path
from statistics import mean

import pytest

from experiments import training_parts as parts
from jrobust.cli._methods import APART
from jrobust.cli._presets import PRESETS

README = (Path(parts.__file__).parent / "README.md").read_text()
RECORDS = parts.read()


@pytest.mark.parametrize("part", dict.fromkeys(r["part"] for r in RECORDS))
def test_the_tables_are_made_of_the_records(part):
    runs = [r for r in RECORDS if r["part"] == part]
    assert parts.table(runs) in README
    assert len({(r["name"], r["seed"]) for r in runs}) == len(runs)


def of(name, column):
    return mean(r[column] for r in RECORDS if r["name"] == name)


def test_attacks_and_radii_are_ordered():
    for r in RECORDS:
        if r["part"] == "composite":
            assert max(r["composite"], r["reversed"]) <= r["linf"] <= r["clean"]
            assert r["semantic"] >= r["composite"]
        elif "autoattack" in r:
            assert r.get("proven", 0.0) <= r["autoattack"] <= r["pgd20"] + 1e-9 <= r["clean"] + 2e-9
        else:
            assert r["at_025"] <= r["at_0"]
            assert r["sensitive_at_025"] <= r["sensitive_at_0"]


def test_each_part_can_be_trained_by_the_command():
    trains = [p.train for p in PRESETS.values()]
    assert set(APART) <= {t.method for t in trains} & {r["name"] for r in RECORDS}
    nets = {"lipschitz-mlp", "lipschitz-cnn", "spectral-mlp"}
    assert {t.model for t in trains if t.scale == parts.SCALE} == nets


def test_gat_is_for_several_changes_at_once():
    for column, by in (("semantic", 0.4), ("composite", 0.2), ("reversed", 0.3)):
        for name in ("natural", "pgd"):
            runs = [r for r in RECORDS if r["part"] == "composite" and r["name"] == name]
            assert of("gat", column) > mean(r[column] for r in runs) + by
    assert of("gat", "clean") < of("natural", "clean")


def test_each_part_shows_what_it_is_for():
    assert of("dense", "autoattack") > of("hydra", "autoattack") > of("largest", "autoattack")
    assert min(of("bjorck", "proven"), of("cayley", "proven")) > of("spectral", "proven") > of("mlp", "proven")
    assert min(of(name, "autoattack") for name in ("bjorck", "cayley", "spectral")) > of("mlp", "autoattack") + 0.1
    assert of("margin-cs", "sensitive_at_025") > of("noise", "sensitive_at_025")
