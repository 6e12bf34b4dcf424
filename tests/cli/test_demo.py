"""A small form of the demo (the CI script runs the whole one)."""

import json

import pytest

from jrobust.cli import main
from jrobust.evaluation import read_sections

pytestmark = pytest.mark.showcase


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    words = ["demo", "--out", str(out), "--epochs", "40", "--eps", "0.02", "0.08", "--n", "60", "--draws", "50"]
    assert main(words) == 0
    return out, words


def test_demo_shows_the_sandwich(demo):
    sections = {s.title: s for s in read_sections(demo[0])}
    assert list(sections) == ["adversarial", "certified", "standard"]
    value = {(s, r.name, r.eps): r.value for s, section in sections.items() for r in section.rows}
    for s in sections:
        for eps in (0.02, 0.08):
            attacked = value[s, "pgd", eps]
            assert attacked <= value[s, "clean", 0.0]
            assert value[s, "ibp", eps] <= value[s, "crown", eps] <= attacked
    assert value["certified", "ibp", 0.08] > 0.5 > 0.1 > value["standard", "ibp", 0.08]
    assert all(r.n == 60 and r.confidence > 0.99 for section in sections.values() for r in section.rows)


def test_report_of_the_demo_is_self_contained(demo):
    page = (demo[0] / "report.html").read_text()
    assert page.count("<img") == page.count('src="data:image/') >= 6
    assert page.count("<svg") >= 6
    assert "http" not in page
    assert "<script" not in page
    assert "<link" not in page


def test_demo_again_reads_what_is_there(demo, capsys):
    before = (demo[0] / "standard" / "summary.json").read_text()
    assert main(demo[1]) == 0
    after = json.loads((demo[0] / "standard" / "summary.json").read_text())
    assert after["rows"] == json.loads(before)["rows"]
    assert main([*demo[1], "--seed", "1"]) == 2
    assert "another run" in capsys.readouterr().err


def test_certify_and_report_a_run(demo, capsys, tmp_path):
    run = str(demo[0] / "certified")
    words = ["certify", "--run", run, "--sigma", "0.1", "--n", "200", "--examples", "20", "--quiet"]
    assert main(words) == 0
    assert "median certified radius" in capsys.readouterr().out
    folder = next((demo[0] / "certified").glob("certify-sigma0.1-200-20-*"))
    table = (folder / "certificates.tsv").read_text().splitlines()
    assert table[0].split("\t") == ["idx", "label", "predict", "radius", "correct", "time"]
    assert len(table) == 21
    assert "<svg" in (folder / "curve.svg").read_text()
    before = (folder / "certification.jsonl").read_bytes()
    assert main(words) == 0  # nothing is drawn again
    assert (folder / "certification.jsonl").read_bytes() == before
    words[6:7] = ["50", "200", "--target", "0.05", "--noise", "laplace"]
    assert main(words) == 0
    assert "average certified l1 radius" in capsys.readouterr().out
    assert main([*words, "--alpha", "2"]) == 2
    assert main(["evaluate", "--run", run, "--n", "20", "--oracle", "clean", "fgsm", "--quiet"]) == 0
    page = tmp_path / "r.html"
    assert main(["report", run, "--out", str(page)]) == 0
    assert "smoothing" in page.read_text()


def test_run_of_another_architecture(demo, capsys, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(demo[0] / "standard", run)
    config = json.loads((run / "config.json").read_text())
    config["model"]["widths"] = [16]
    (run / "config.json").write_text(json.dumps(config))
    assert main(["evaluate", "--run", str(run), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    shutil.rmtree(run / "checkpoints")
    assert main(["evaluate", "--run", str(run), "--quiet"]) == 2
    assert "no complete checkpoint" in capsys.readouterr().err
