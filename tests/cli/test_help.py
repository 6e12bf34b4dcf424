"""What a newcomer sees first, with and without the extras."""

import builtins

import pytest

import jrobust as jr
from jrobust.cli import main


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["train"], ["evaluate"], ["attack"], ["certify"], ["verify"], ["bench"], ["report"]]
)
def test_help(command, capsys):
    assert main([*command, "--help"]) == 0
    said = capsys.readouterr()
    assert "usage: jrobust" in said.out
    assert said.err == ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jrobust {jr.__version__}\n"


@pytest.fixture
def without_extras(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.split(".")[0] in ("tyro", "rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_help_without_extras(without_extras, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "train", "evaluate", "attack", "certify", "verify", "bench", "report"))
    assert sum("jrobust[cli]" in line for line in out.splitlines()) == 1


def test_command_without_extras(without_extras, capsys):
    assert main(["demo"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'jrobust[cli]'" in said
