"""Commands on a trained run: shards put together, protocols and their leaderboard."""

import dataclasses
import json
import shlex
import shutil

import pytest

from jrobust.cli import main
from jrobust.evaluation import PROTOCOLS

OF_A_RUN = (
    "evaluate --oracle clean --eps 0.02 --n 8 --quiet",
    "evaluate --corruptions brightness --severities 1 --n 8 --quiet",
    "certify --sigma 0.1 --n 20 --examples 4 --quiet",
    "attack --method uap --eps 0.05 --n 20 --steps 2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A net trained for two epochs."""
    out = tmp_path_factory.mktemp("runs") / "net"
    words = "train --dataset digits --model mlp --method natural --eps 0.1 --epochs 2 --seed 0 --quiet --out"
    assert main([*words.split(), str(out)]) == 0
    return out


def unwanted(monkeypatch, module, *names):
    """What a shard does not save it does not compute."""

    def refuse(*args, **kwargs):
        raise AssertionError("a shard has no use for this")

    for name in names:
        monkeypatch.setattr(f"jrobust.cli.{module}.{name}", refuse)


def test_evaluate_in_shards(run, capsys, monkeypatch):
    words = ["evaluate", "--run", str(run), "--oracle", "fgsm", "ibp", "--eps", "0.02", "--n", "20", "--quiet"]
    for i in (2, 0):
        with monkeypatch.context() as patch:
            unwanted(patch, "_evaluate", "gallery_of", "protocol_of", "outcomes_of", "costs_of")
            assert main([*words, "--shard", f"{i}/3"]) == 0
        said = capsys.readouterr().out
        assert f" {len(range(i, 20, 3))} " in said.splitlines()[3]  # a row of the table, with its n
        assert f"shard {i}/3: {len(range(i, 20, 3))} examples" in said
        assert not list(run.glob("evaluate-*/summary.json"))  # a part of the answers is no result
    assert main(words) == 0
    assert main([*words, "--out", str(run / "alone")]) == 0
    (folder,) = run.glob("evaluate-*")
    together, alone = (json.loads((f / "summary.json").read_text())["rows"] for f in (folder, run / "alone"))
    assert together == alone
    assert together[0]["n"] == 20


def test_certify_in_shards(run, capsys, monkeypatch):
    words = ["certify", "--run", str(run), "--sigma", "0.1", "--n", "50", "--examples", "9", "--quiet"]
    for i in range(2):
        with monkeypatch.context() as patch:
            unwanted(patch, "_certify", "smoothing_protocol", "smoothed_outcomes", "smoothing_cost", "correct_radii")
            assert main([*words, "--shard", f"{i}/2"]) == 0
        said = capsys.readouterr().out
        assert f"shard {i}/2: {5 - i} examples" in said
        assert f", n={5 - i}, confidence 0.999" in said
    assert main(words) == 0
    assert main([*words, "--out", str(run / "smooth")]) == 0
    (folder,) = run.glob("certify-*")
    a, b = ((f / "certificates.tsv").read_text().splitlines() for f in (folder, run / "smooth"))
    assert [line.split("\t")[:5] for line in a] == [line.split("\t")[:5] for line in b]  # the last column is time
    assert len(a) == 10


@pytest.mark.parametrize("words", OF_A_RUN)
def test_a_run_goes_on_by_another_spelling_of_its_path(run, tmp_path, capsys, monkeypatch, words):
    there, moved = tmp_path / "there", tmp_path / "moved"
    shutil.copytree(run, there, ignore=shutil.ignore_patterns("evaluate-*", "certify-*", "attack-*"))
    command, *rest = words.split()
    assert main([command, "--run", str(there), *rest]) == 0
    monkeypatch.chdir(tmp_path)
    assert main([command, "--run", "there", *rest]) == 0, capsys.readouterr().err
    there.rename(moved)
    assert main([command, "--run", "moved/../moved", *rest]) == 0, capsys.readouterr().err
    assert len(list(moved.glob(f"{command}-*"))) == 1  # it went on, and did not begin elsewhere


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("evaluate --oracle clean --eps 0.02 --n 8 --quiet", "model: there"),
        ("evaluate --corruptions brightness --severities 1 --n 8 --quiet", "model: there"),
        ("certify --sigma 0.1 --n 20 --examples 4 --quiet", "model: there"),
        ("attack --method uap --eps 0.05 --n 20 --steps 2", "run was"),
    ],
)
def test_another_run_is_refused(run, tmp_path, capsys, words, told):
    other, out = tmp_path / "other", str(tmp_path / "out")
    train = "train --dataset digits --model mlp --method natural --eps 0.1 --epochs 1 --seed 1 --quiet --out"
    assert main([*train.split(), str(other)]) == 0
    command, *rest = words.split()
    assert main([command, "--run", str(run), *rest, "--out", out]) == 0
    assert main([command, "--run", str(other), *rest, "--out", out]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["3/3", "x", "1", "-1/3", "0/0"])
def test_no_shard_is_one_clear_line(run, shard, capsys):
    assert main(["evaluate", "--run", str(run), f"--shard={shard}"]) == 2
    assert "--shard is INDEX/COUNT" in capsys.readouterr().err


def test_a_shard_needs_a_directory(capsys):
    words = "evaluate --model m:f --x x.npy --y y.npy --eps 0.1 --shard 0/2"
    assert main(words.split()) == 2
    assert "--out DIR" in capsys.readouterr().err


def test_bench_keeps_a_leaderboard(run, capsys, tmp_path, monkeypatch):
    protocol = PROTOCOLS["smoothing-digits"]
    protocol = dataclasses.replace(protocol, n=12, asked=tuple((dict(protocol.asked) | {"draws": 50}).items()))
    monkeypatch.setattr("jrobust.cli._bench.PROTOCOLS", {protocol.name: protocol})
    board = str(tmp_path / "board.jsonl")
    words = ["bench", "smoothing-digits", "--run", str(run), "--leaderboard", board, "--quiet"]
    assert main(words) == 0
    assert "added to" in capsys.readouterr().out
    assert main(words) == 0  # answers are read from disk, the model is there already
    assert "nothing added" in capsys.readouterr().out
    assert main(["bench", "--table", board]) == 0
    table = capsys.readouterr().out
    assert "\n### smoothing-digits v1" in table
    assert "| 1 | net | model mlp, method natural" in table
    monkeypatch.setattr("jrobust.cli._bench.PROTOCOLS", {protocol.name: dataclasses.replace(protocol, version=2)})
    assert main(words) == 2
    assert "would mix smoothing-digits v1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["linf-digit"], "unknown protocol 'linf-digit'; did you mean 'linf-digits'"),
        ([], "unknown protocol"),
        (["linf-digits"], "--run DIR"),
        (["linf-mnist", "--run", "RUN"], "linf-mnist v1 is about mnist"),
        (["linf-digits", "--table", "x"], "leave SUITE and --run out"),
        (["--table", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_benches_cost_one_line(run, words, message, capsys):
    assert main(["bench", *(str(run) if w == "RUN" else w for w in words)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("shard", [["--shard", "0/2"], ["--shard=0/2"]])
def test_an_option_of_other_commands_is_not_suggested_again(shard, capsys):
    assert main(["bench", "linf-digits", "--run", "nowhere", *shard]) == 2
    said = capsys.readouterr().err
    assert "--shard" in said
    assert "did you mean" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("words", OF_A_RUN)
def test_the_next_command_can_be_typed(run, tmp_path, capsys, words):
    command, *rest = words.split()
    out = str(tmp_path / "<b>o's<b> $HOME")
    assert main([command, "--run", str(run), *rest, "--out", out]) == 0
    (told,) = (line.split("next: ")[1] for line in capsys.readouterr().out.splitlines() if "next: " in line)
    assert shlex.split(told) == ["jrobust", "report", out]


def test_the_next_command_after_training_can_be_typed(tmp_path, capsys):
    out = str(tmp_path / "my run")
    words = "train --dataset digits --model mlp --method natural --eps 0.1 --epochs 1 --quiet --out"
    assert main([*words.split(), out]) == 0
    (told,) = (line.split("next: ")[1] for line in capsys.readouterr().out.splitlines() if "next: " in line)
    assert shlex.split(told) == ["jrobust", "evaluate", "--run", out]


def test_a_report_of_shards_alone_says_what_joins_them(run, tmp_path, capsys):
    out = tmp_path / "parts" / "a"
    words = [
        "evaluate",
        "--run",
        str(run),
        "--oracle",
        "clean",
        "--eps",
        "0.02",
        "--n",
        "8",
        "--quiet",
        "--out",
        str(out),
    ]
    assert main([*words, "--shard", "0/2"]) == 0
    for folder in (out, out.parent):
        assert main(["report", str(folder), "--out", str(tmp_path / "r.html")]) == 2
        assert "holds only shards; run the same command without --shard to join them" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "holds no results" in capsys.readouterr().err
    assert main(words) == 0
    assert main(["report", str(out), "--out", str(tmp_path / "r.html")]) == 0
