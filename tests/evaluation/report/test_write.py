"""The three forms of a report: whole, escaped, and the same numbers."""

import itertools
import json
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrobust as jr
from jrobust.evaluation import (
    Evaluation,
    Gallery,
    Section,
    corruption_rows,
    costs_of,
    outcomes_of,
    protocol_of,
    read_sections,
    report,
    rows_of,
)
from jrobust.evaluation._report._markdown import markdown
from jrobust.evaluation._report._models import models_of
from jrobust.evaluation._report._outcomes import between
from jrobust.evaluation._report._page import page
from jrobust.evaluation._report._reading import UNDER_NOISE, card_of
from tests.evaluation.report.common import HOSTILE, SMALL, better, result, section, words


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "rect", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "rect", "polyline", "polygon"):
            assert self.open.pop() == tag


def test_hostile_names_are_text_everywhere(tmp_path):
    names = tuple(f"{HOSTILE}{k}" for k in range(3))
    gallery = Gallery(*np.zeros((2, 1, 4, 4, 1)), np.array([1]), np.array([0]), np.array([2]), HOSTILE)
    hostile = section(
        HOSTILE, gallery=gallery, classes=names, command=HOSTILE, versions={HOSTILE: HOSTILE}, config={HOSTILE: HOSTILE}, notes=(HOSTILE,),
        card={"data set": HOSTILE, HOSTILE: HOSTILE},
        corruptions=corruption_rows([{"corruption": HOSTILE, "severity": 1, "n": 1, "errors": 1}]),
        radii=(1.0,), noise=HOSTILE,
    )  # fmt: skip
    folder = tmp_path / "<b onload=x>&"
    hostile.save(folder)
    text = report([hostile, *read_sections(folder), section("b")], tmp_path / "r.html", title=HOSTILE).read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "b", "link", "iframe"}
    assert {k for _, attributes in reader.seen for k in attributes if k.startswith("on")} == set()
    assert all(a["src"].startswith("data:image/png") for t, a in reader.seen if t == "img")
    plain = report([hostile, section("b")], tmp_path / "r.md", title=HOSTILE).read_text()
    outside = "".join(plain.split("```")[::2])
    assert "<script" not in outside
    for line in plain.splitlines():  # a bar in a name makes no column
        if line.startswith("| adversarial") or line.startswith("| &lt;"):
            assert "\\|" in line
    json.loads(report([hostile], tmp_path / "r.json", title=HOSTILE).read_text())


def test_html_needs_nothing_else(tmp_path):
    text = report([section("a"), better("b")], tmp_path / "r.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    for tag, attributes in reader.seen:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in text
    assert "http" not in text


def test_markdown_holds_every_number(tmp_path):
    text = words([section("a"), better("b")], tmp_path, "md")
    for row in section("a").rows:
        assert f"{row.value:.3f}" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables
    counts = set()
    for before, line in itertools.pairwise(tables):
        if set(line) <= set("|-:"):
            counts.add(before.count("|") == line.count("|"))
    assert counts == {True}
    assert "```" in markdown(page(models_of([Section("a", command="jrobust evaluate")]), "t"))


def test_json_has_robustbenchs_keys_and_our_sides(tmp_path):
    auto = Evaluation(
        {**SMALL.results, "autoattack": result("autoattack", "lower", [1, 1, 1, 0, 0, 0])}, "linf 0.1", 1.0
    )
    document = json.loads(report([section("a"), section("b", auto)], tmp_path / "r.json").read_text())
    first, second, third = document["entries"]
    keys = {
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps", "clean_acc",
        "reported", "footnote", "unreliable",
    }  # fmt: skip
    assert keys < set(first)
    assert "autoattack_acc" not in first
    assert (first["name"], first["eps"], first["clean_acc"], first["external"]) == ("a", "0.1", "83.33", "66.67")
    assert (second["eps"], second["external"]) == ("0.2", "33.33")
    assert third["autoattack_acc"] == "50.00"
    assert "external" not in third  # pgd left more
    ours = third["jrobust"]
    assert (ours["at_least"]["value"], ours["at_most"]["value"], ours["at_most"]["n"]) == (0.5, 0.5, 6)
    assert ours["at_least"]["low"] < 0.5 < ours["at_least"]["high"]
    assert ours["at_least"]["confidence"] == pytest.approx(0.99)
    assert document["models"][0]["rows"][0]["side"] == "exact"
    assert (ours["at_least"]["reads"], ours["at_most"]["reads"]) == ("at least", "at most")
    assert {r["reads"] for r in document["models"][0]["rows"]} >= {"exact", "at most"}


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"\.html, \.md or \.json, got 'r\.pdf'"):
        report(section(), tmp_path / "r.pdf")
    with pytest.raises(ValueError, match="at least one section"):
        report([], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_a_real_curve_all_the_way(tmp_path, key):
    w = jax.random.normal(key, (4, 3))
    x = np.asarray(jax.random.uniform(key, (24, 4)))
    y = np.asarray(jnp.argmax(x @ w, 1))
    oracles = {"fgsm": jr.attacks.fgsm(), "ibp": jr.bounds.ibp()}
    threat = jr.sets.linf(0.0, clip=(0, 1))
    found = jr.evaluation.curve(lambda x: x @ w, x, y, threat=threat, eps=[0.05, 0.1], oracles=oracles, key=key)
    made = Section(
        "linear", rows_of(found, model="linear", seed=0), outcomes=outcomes_of(found, y), costs=costs_of(found),
        protocol=protocol_of(x, y, threat=threat, eps=[0.05, 0.1], oracles=oracles, seed=0),
    )  # fmt: skip
    for b in between(made.outcomes, "linf"):  # of a linear model on one step both sides agree, up to the clip
        assert (b.proven <= b.unbroken).all()
    assert "No contradiction" in words(made, tmp_path)
    assert made.costs[0].forwards > 0


def test_results_inside_a_training_run_are_about_its_model(tmp_path):
    run = tmp_path / "runs" / "ibp"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    config = {"command": "train", "dataset": "toy", "method": "ibp", "eps": 0.2, "model": {"name": "mlp"}}
    (run / "config.json").write_text(json.dumps(config))
    section("ibp", config={"run": "elsewhere/ibp"}).save(run / "evaluate-1")
    for folder in (run, tmp_path / "runs"):
        sections = read_sections(folder)
        assert [len(s.rows) > 0 for s in sections] == [False, True]
        (model,) = models_of(sections)
        assert model.card == {"data set": "toy", "architecture": "mlp", "training": "ibp", "trained at eps": 0.2}
        assert "By class at linf 0.2" in words(sections, tmp_path)  # where it was trained


def test_a_net_trained_under_noise_has_a_sigma_on_its_card_and_no_radius():
    from jrobust.cli._methods import SMOOTHED

    assert {*UNDER_NOISE, "smooth-adv"} == set(SMOOTHED)
    for method in UNDER_NOISE:
        card = card_of({"method": method, "eps": 0.1, "sigma": 0.25})
        assert card == {"training": method, "trained at eps": "none", "trained at sigma": 0.25}
    assert card_of({"method": "smooth-adv", "eps": 0.1, "sigma": 0.25})["trained at eps"] == 0.1
    assert "trained at sigma" not in card_of({"method": "pgd", "eps": 0.1, "sigma": 0.5})
