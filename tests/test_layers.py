"""The floors of the house: lower modules never import higher ones, and outside libraries enter by one door each."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1] / "jrobust"
MODULES = sorted(ROOT.rglob("*.py"))

# from the ground up; a module imports its own part or a lower floor
FLOORS = (
    ("typing",),
    ("_tree",),
    ("_checks", "_jaxpr", "_named"),
    ("_conv", "_digest", "_objective", "_program"),
    ("_oracle",),
    ("_loops", "sets"),
    ("_iterate", "objectives", "_model", "_records", "_progress", "_running", "_statistics", "_placement"),
    ("_combinators", "_drive", "transforms"),
    ("_transforms", "corruptions"),
    ("attacks", "bounds", "smoothing", "nnx", "data"),
    ("_verify", "models"),
    ("training", "evaluation", "testing", "io"),
    ("cli", "__init__"),
)
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
DOORS = {
    "flax": {"nnx", "models"},
    "tyro": {"cli"},
    "sklearn": {"data"},
    "tensorflow_datasets": {"data"},
    "onnx": {"io"},
}


def _part(path: pathlib.Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def _imports(path: pathlib.Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    part = _part(path)
    assert part in FLOOR, f"{part} has no floor: add it to FLOORS"
    for name in _imports(path):
        top, *rest = name.split(".")
        if top == "jrobust" and rest and part != "__init__":
            other = rest[0]
            if other in FLOOR and other != part:
                # the checkers in testing.py may look at a wing; wings never look at one another
                assert FLOOR[other] < FLOOR[part], (
                    f"{path.name} (floor {FLOOR[part]}) imports {name} (floor {FLOOR[other]})"
                )
        if top in DOORS:
            assert part in DOORS[top], f"{path.name} imports {top}; only {sorted(DOORS[top])} may"
        if name.startswith("jax.extend") or name.startswith("jax._src"):
            assert path.name == "_jaxpr.py", f"{path.name} touches JAX internals; only _jaxpr.py may"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_loops_go_through_the_one_door(path):
    # loops that never contain a user's model may use lax directly
    free = {"_loops.py", "_conv.py", "_balls.py", "_sparse.py"}
    text = path.read_text()
    for name in ("lax.scan(", "lax.while_loop(", "lax.map(", "lax.fori_loop("):
        assert path.name in free or name not in text, f"{path.name} uses {name[:-1]}; use jrobust._loops"


def test_import_has_no_side_effects_and_stays_lean():
    code = (
        "import sys, jrobust; heavy = {'flax', 'orbax', 'jaxopt', 'matplotlib', 'tyro', 'rich', 'sklearn', 'tensorflow_datasets', 'onnx'}; "
        "print(sorted(heavy & set(sys.modules))); import jax; print(jax._src.xla_bridge._backends)"
    )
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "{}"], out


def test_modules_stay_small():
    sizes = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert max(sizes.values()) <= 400, max(sizes, key=lambda path: sizes[path])


def test_every_attack_has_a_row_in_the_docs():
    import jrobust as jr

    page = (ROOT.parent / "docs" / "attacks.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    helpers = {"minimize", "steepest", "within"}
    missing = [n for n in jr.attacks.__all__ if n not in helpers and not any(f"{n}(" in row for row in rows)]
    assert not missing, f"docs/attacks.md has no row for {missing}"
