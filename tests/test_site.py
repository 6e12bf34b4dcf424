"""The site: every public name has a page entry, every link a target; what lacks either ends the build. `.ci/run` builds it."""

import importlib.util
import pathlib

import pytest

import jrobust as jr

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "site" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference_with_its_side(build, tmp_path):
    build.gather(tmp_path)
    index = (tmp_path / "api" / "index.md").read_text()
    for module in build.modules().values():
        page = (tmp_path / "api" / f"{module.__name__.split('.')[-1]}.rst").read_text()
        for name in build.public(module):
            assert f":: {module.__name__}.{name}\n" in page
            assert f"#{module.__name__}.{name})" in index
    assert "| [`pgd`](#jrobust.attacks.pgd) | lower |" in index
    assert "| [`crown`](#jrobust.bounds.crown) | upper |" in index
    assert "| [`fab`](#jrobust.attacks.fab) | radius, upper |" in index


def test_a_name_has_one_path(build):
    seen = {}
    for module in build.modules().values():
        for name in build.public(module):
            value = getattr(module, name)
            if build.spoken(value):
                assert seen.setdefault(id(value), (module.__name__, name)) == (module.__name__, name)


def test_a_name_without_a_docstring_ends_the_build(build, tmp_path, monkeypatch):
    bare = lambda: None  # noqa: E731
    monkeypatch.setattr(jr.sets, "linf", bare)
    with pytest.raises(SystemExit, match=r"jrobust\.sets\.linf"):
        build.reference(tmp_path)


def test_links_go_where_the_site_has_the_page(build):
    origin = ROOT / "docs" / "training.md"
    assert build.relinked("[a](../experiments/README.md#b)", origin) == "[a](experiments.md#b)"
    assert build.relinked("[a](../notebooks/04_training.ipynb)", origin) == "[a](notebooks/04_training.ipynb)"
    assert build.relinked("[a](../jrobust/nnx.py)", origin) == "a (`jrobust/nnx.py`)"
    assert build.relinked("![a](sandwich.svg)", origin) == "![a](sandwich.svg)"
    with pytest.raises(SystemExit, match=r"docs/training\.md links to nothing\.md"):
        build.relinked("[a](nothing.md)", origin)


def test_every_guide_is_in_the_contents(build):
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} >= set(build.GUIDES)
