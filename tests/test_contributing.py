"""The snippets of README, CONTRIBUTING and docs/ are code: they are executed, in order, in one namespace."""

import pathlib
import re

import pytest

from jrobust.bounds import _tables

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.showcase
@pytest.mark.parametrize(("page", "least"), [("CONTRIBUTING.md", 4), ("docs/adding_a_rule.md", 12)])
def test_contributing_snippets_run(page, least):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert len(blocks) >= least
    tables = (_tables.INTERVAL, _tables.AFFINE, _tables.RELAX, _tables.CANONICAL)
    before = [dict(table) for table in tables]
    space = {"__name__": "contributing"}
    try:
        for block in blocks:
            exec(compile(block, page, "exec"), space)
    finally:
        for table, rules in zip(tables, before, strict=True):  # the examples must not leak into other tests
            table.clear()
            table.update(rules)


@pytest.mark.showcase
@pytest.mark.parametrize("page", ["attacks", "corruptions", "evaluation", "metrics", "scaling", "training"])
def test_docs_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block.replace("epochs=3", "epochs=1"), f"{page}.md", "exec"), {"__name__": page})


@pytest.mark.showcase
def test_readme_snippets_run():
    import jax
    import jax.numpy as jnp

    import jrobust as jr

    def apply(params, rest, x, *, train):
        return x.reshape(x.shape[0], -1) @ params, rest

    params = jax.random.normal(jax.random.key(1), (4, 3))
    x = jax.random.uniform(jax.random.key(2), (8, 4))
    y = jnp.argmax(x @ params, 1)
    space = {
        "apply": apply,
        "model": jax.tree_util.Partial(lambda p, x: x @ p, params),
        "x": x,
        "y": y,
        "fn": lambda z: z @ params,
        "key": jax.random.key(0),
    }
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 3
    exec(compile(blocks[0], "README.md", "exec"), space)
    losses, _ = space["adversarial"](params, None, x, y, key=jax.random.key(0), train=True)
    bounded, _ = space["certified"](params, None, x, y, key=jax.random.key(0), train=True)
    assert bool((losses <= bounded + 1e-5).all())
    exec(compile(blocks[1], "README.md", "exec"), space)
    # the README writes one example, here x[0], and 100,000 samples, here fewer
    small = blocks[2].replace("threat(x)", "threat(x[0])").replace("100_000", "1_000")
    exec(compile(small, "README.md", "exec"), space)
    assert bool((space["lo"] <= space["hi"]).all())
    assert space["cert"].prediction.shape == (8,)
    assert isinstance(jr.__version__, str)
