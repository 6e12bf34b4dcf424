"""Models are ranked only where they were asked the same."""

import dataclasses
import json
import re

import numpy as np
import pytest

import jrobust as jr
from jrobust._statistics import proportion
from jrobust.evaluation import (
    Curve,
    Row,
    Section,
    report,
    rows_of,
)
from jrobust.evaluation._ranks import RULE
from jrobust.evaluation._report._boards import boards, difference
from jrobust.evaluation._report._models import models_of
from tests.evaluation.report.common import (
    CORRECT,
    CURVE,
    LARGE,
    better,
    evaluation,
    section,
    words,
)


def test_models_of_one_protocol_are_ranked():
    (board,) = boards([section("a"), better("b")])
    at = board.standings["linf", 0.2]
    # 5 of 6 and 2 of 6: on these examples b is better for certain, of the others six examples say too little
    assert [(s.title, s.rank, s.above, s.ties) for s in at] == [
        ("b", (1, 2), ("a",), ("a",)),
        ("a", (1, 2), (), ("b",)),
    ]
    tie = boards([section("a"), section("c")])[0].standings["linf", 0.1]
    assert [str(s.rank) for s in tie] == ["1-2", "1-2"]
    assert not any(s.above for s in tie)
    likely = Curve(CURVE.eps, tuple(evaluation(e, attack=CORRECT, proof=[0] * 6, other=CORRECT) for e in (0.1, 0.2)))
    (board,) = boards([section("a"), section("b", likely)])  # b's proofs hold with confidence 0.99 each
    assert [(s.title, s.above) for s in board.standings["linf", 0.2]] == [("b", ()), ("a", ())]


def attacked(title, left, n=100):
    """A model of whose n examples an attack left some."""
    a = proportion(left, n, side="lower")
    row = Row(title, "pgd", "linf", 0.1, "lower", a.value, a.low, a.high, n, 1.0, 0)
    asked = {"n": n, "examples": "e", "threat": "linf", "set": "s", "attacks": ["p"]}
    return Section(title, (row,), protocol=asked)


def test_ties_are_said_in_every_form(tmp_path):
    # 95% intervals: 90 [.824, .951], 82 [.731, .890], 74 [.643, .823], 20 [.127, .292]
    made = [attacked("c", 74), attacked("a", 90), attacked("d", 20), attacked("b", 82)]
    (board,) = boards(made)
    at = board.standings["linf", 0.1]
    assert [(s.title, str(s.rank)) for s in at] == [("a", "1-2"), ("b", "1-3"), ("c", "2-3"), ("d", "4")]
    assert [s.ties for s in at] == [("b",), ("a", "c"), ("b",), ()]
    text, plain = words(made, tmp_path), words(made, tmp_path, "md")
    assert RULE in text
    assert RULE in plain
    for rank, title in (("1-2", "a"), ("1-3", "b"), ("2-3", "c"), ("4", "d")):
        assert f'<td class="num">{rank}</td><td>{title}</td>' in text
        assert f"| {rank} | {title} |" in plain
    document = json.loads(report(made, tmp_path / "r.json").read_text())
    found = {e["name"]: e["jrobust"]["rank"] for e in document["entries"]}
    assert found["b"] == {"first": 1, "last": 3, "of": 4, "tied_with": ["a", "c"]}
    assert found["d"] == {"first": 4, "last": 4, "of": 4, "tied_with": []}
    assert document["ranks"] == RULE
    alone = json.loads(report(made[:1], tmp_path / "r.json").read_text())
    assert alone["entries"][0]["jrobust"]["rank"] is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"x": np.ones((6, 2, 2, 1))}, "examples"),
        ({"asked": {"threat": jr.sets.l2(0.1, clip=(0, 1))}}, "norm or transform"),
        ({"asked": {"threat": jr.sets.linf(0.1)}}, "set around an example"),
        ({"asked": {"nested": True}}, "nested"),
        ({"oracles": {"pgd": jr.attacks.pgd(steps=4), "crown": jr.bounds.crown()}}, "attacks"),
    ],
)
def test_models_of_other_protocols_are_not(changed, why, tmp_path):
    pair = [section("a"), section("b", **changed)]
    first, second = boards(pair)
    assert all(s.rank is None for b in (first, second) for here in b.standings.values() for s in here)
    assert re.search(why, difference(first, second))
    text = words(pair, tmp_path)
    assert re.search(f"are not ranked together: they differ in .*{why}", text)
    assert text.count(">alone<") == 4
    # another proof is the same protocol: a floor is true whichever proof gave it
    other = section("b", oracles={"pgd": jr.attacks.pgd(steps=3), "ibp": jr.bounds.ibp()})
    assert len(boards([pair[0], other])) == 1


def test_other_splits_radii_counts_and_unknown_protocols_are_not_ranked(tmp_path):
    half = Curve(np.array([0.3]), (dataclasses.replace(LARGE, threat="linf 0.3"),))
    (board,) = boards([section("a"), section("b", half)])
    assert all(len(here) == 1 and here[0].rank is None for here in board.standings.values())
    split = dataclasses.replace(section("b"), protocol={**section("b").protocol, "split": "train", "n": 7})
    first, second = boards([section("a"), split])
    assert difference(first, second) == "they differ in split (test and train), number of examples (n) (6 and 7)"
    unknown = [Section(t, rows_of(CURVE, model=t, seed=0)) for t in "ab"]
    first, second = boards(unknown)
    assert "was not recorded" in difference(first, second)
    assert "ranked against nothing" in words(unknown, tmp_path)
    noise = {
        "n": 3,
        "examples": "e",
        "noise": "gaussian 0.25",
        "noise_digest": "d",
        "n0": 1,
        "draws": 10,
        "alpha": 0.001,
    }
    smooth = [
        Section(t, tuple(r._replace(subject="smoothed", side="upper") for r in section(t).rows[1:2]), smoothing={**noise, **more})
        for t, more in (("a", {}), ("b", {}), ("c", {"noise": "gaussian 0.5", "noise_digest": "f"}), ("d", {"alpha": 0.01}))
    ]  # fmt: skip
    found = boards(smooth)
    assert [b.titles for b in found] == [("a", "b"), ("c",), ("d",)]
    assert difference(found[1], found[0]) == "they differ in noise (gaussian 0.5 and gaussian 0.25)"
    assert difference(found[2], found[0]) == "they differ in alpha (0.01 and 0.001)"


def test_sections_of_one_model_are_one_and_twins_are_told_apart():
    run = [dataclasses.replace(section("ibp"), origin=f"/runs/{who}/ibp") for who in ("ann", "bob")]
    names = [m.name for m in models_of([*run, dataclasses.replace(Section("ibp"), origin="/runs/ann/ibp")])]
    assert names == ["ann/ibp", "bob/ibp"]
    assert [m.name for m in models_of([section("a"), Section("a")])] == ["a"]


@pytest.mark.parametrize("seeds", [(0, 1), (0, 0)])
def test_a_model_asked_twice_is_not_ranked_against_itself(seeds, tmp_path):
    # 95% intervals: 90 [.824, .951], 88 [.800, .936], 20 [.127, .292]
    first, again = attacked("net", 90), attacked("net", 88)
    first, again = (
        dataclasses.replace(s, protocol={**s.protocol, "seed": k}) for s, k in zip((first, again), seeds, strict=True)
    )
    made = [again, first, attacked("other", 20)]
    (board,) = boards(made)
    (at,) = board.standings.values()
    assert [(s.title, s.section, str(s.rank), s.ties) for s in at] == [
        ("net", 1, "1", ()), ("net", 0, "1", ()), ("other", 2, "2", ())
    ]  # fmt: skip
    # one of its results overlaps with another model's, the other does not: the model is behind only where both are
    (near,) = boards([attacked("a", 90), attacked("net", 82), attacked("net", 20)])[0].standings.values()
    assert [(s.title, str(s.rank), s.ties) for s in near] == [
        ("a", "1-2", ("net",)), ("net", "1-2", ("a",)), ("net", "2", ())
    ]  # fmt: skip
    document = json.loads(report(made, tmp_path / "r.json").read_text())
    assert [(e["name"], e["jrobust"]["rank"]) for e in document["entries"]] == [
        ("net", {"first": 1, "last": 1, "of": 2, "tied_with": []}),
        ("net", {"first": 1, "last": 1, "of": 2, "tied_with": []}),
        ("other", {"first": 2, "last": 2, "of": 2, "tied_with": []}),
    ]
    text = report(made, tmp_path / "r.md").read_text()
    for said in ("net (seed 1)", "net (seed 0)") if seeds == (0, 1) else ("net (result 1)", "net (result 2)"):
        assert f"| 1 | {said} |" in text
    (alone,) = boards([first, again])[0].standings.values()
    assert [(s.rank, s.ties) for s in alone] == [(None, ()), (None, ())]
