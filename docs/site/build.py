"""Build the site: ``python docs/site/build.py OUT``. Every warning is an error, and so is a public name without a docstring.

The pages are those of docs/, the README and its like, the executed notebooks, a gallery of their figures, and a reference that is
read from the package: what an oracle bounds is asked of the oracle.
"""

import inspect
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from sphinx.cmd.build import build_main

import jrobust as jr
from jrobust._oracle import Oracle, RadiusOracle

ROOT = pathlib.Path(__file__).resolve().parents[2]
# pages from elsewhere: where they are -> where they go
PAGES = {
    "README.md": "index.md",
    "experiments/README.md": "experiments.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
GUIDES = [
    "attacks",
    "bounds",
    "adding_a_rule",
    "training",
    "smoothing",
    "corruptions",
    "evaluation",
    "metrics",
    "scaling",
]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)]*)?\))")
FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.svg)\)")
UNTRIED = {"testing", "data", "io", "nnx", "evaluation", "models", "training"}  # no oracles there


def modules() -> dict[str, ModuleType]:
    """The public modules by the name under ``jr``, the top first."""
    return {"jrobust": jr} | {name: getattr(jr, name) for name in jr.__all__ if inspect.ismodule(getattr(jr, name))}


def public(module: ModuleType) -> list[str]:
    """Names of a module that a user may use; modules in it have pages of their own."""
    said = getattr(module, "__all__", None)
    own = [n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", "") == module.__name__]
    return sorted((n for n in said or own if not inspect.ismodule(getattr(module, n))), key=str.lower)


def spoken(value: Any) -> bool:
    """Whether it has a docstring of its own: aliases and data do not."""
    return inspect.isroutine(value) or inspect.isclass(value)


def side(value: Any) -> str:
    """What a factory's oracle bounds, where it can be made without arguments."""
    try:
        made = value()
    except Exception:
        return ""
    if isinstance(made, RadiusOracle):
        return f"radius, {made.side}"
    return made.side if isinstance(made, Oracle) else ""


def relinked(text: str, origin: pathlib.Path) -> str:
    """``text`` of the file ``origin`` with its links as the site must have them."""

    def of(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if "://" in target:
            return match[0]
        path = (origin.parent / target).resolve()
        if not path.exists():
            raise SystemExit(f"{origin.relative_to(ROOT)} links to {target}, which is not there")
        name = path.relative_to(ROOT).as_posix()
        if name in PAGES:
            return before + PAGES[name] + after
        if path.parent == ROOT / "docs" or name.startswith("notebooks/"):
            return before + name.removeprefix("docs/") + after
        return f"{before[1:-2]} (`{name}`)"  # a file of the repository, not of the site

    parts = re.split(r"(```.*?```)", text, flags=re.S)  # code is left alone
    return "".join(part if part.startswith("```") else LINK.sub(of, part) for part in parts)


def directive(dotted: str, value: Any) -> str:
    """How Sphinx is to show it."""
    if inspect.isclass(value):
        fields = [*getattr(value, "_fields", ()), *getattr(value, "__dataclass_fields__", ())]  # told by the docstring
        return f".. autoclass:: {dotted}\n   :members:\n   :exclude-members: {', '.join(fields)}\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {dotted}\n"
    said = ", ".join(f"``{name}``" for name in value) if isinstance(value, Mapping) else f"``{value}``"
    return f".. py:data:: {dotted}\n\n   {'A mapping of ' if isinstance(value, Mapping) else ''}{said}.\n"


def reference(to: pathlib.Path) -> None:
    """A page for every module with one entry for every name, and an index with the side of each oracle."""
    index = [
        "# All names",
        "",
        "Made from the package; what a factory bounds is asked of the oracle that it makes.",
        "",
    ]
    bare = []
    (to / "api").mkdir()
    for name, module in modules().items():
        entries, rows = [name, "=" * len(name), "", f".. automodule:: {module.__name__}", ""], []
        for item in public(module):
            value, dotted = getattr(module, item), f"{module.__name__}.{item}"
            if spoken(value) and not (value.__doc__ or "").strip():
                bare.append(dotted)
            entries += [item, "-" * len(item), "", directive(dotted, value)]
            first = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()) if spoken(value) else ""
            bounds = side(value) if inspect.isfunction(value) and name not in UNTRIED else ""
            rows.append(f"| [`{item}`](#{dotted}) | {bounds} | {first.replace('|', '/').replace('``', '`')} |")
        (to / "api" / f"{name}.rst").write_text("\n".join(entries))
        index += [f"## {name}", "", "| name | side | |", "|---|---|---|", *rows, ""]
    if bare:
        raise SystemExit(f"public names without a docstring: {', '.join(bare)}")
    (to / "api" / "index.md").write_text("\n".join(index))


def gallery(origins: list[pathlib.Path]) -> str:
    """All figures of the pages, with what is written under them there."""
    lines = ["# Gallery", ""]
    for origin in origins:
        page = PAGES.get(origin.relative_to(ROOT).as_posix(), origin.name)
        for said, target in FIGURE.findall(origin.read_text()):
            lines += [
                f"![{said}]({pathlib.Path(target).name})",
                "",
                f"{said} ([{page.removesuffix('.md')}]({page})).",
                "",
            ]
    return "\n".join(lines)


def tree(caption: str, pages: list[str]) -> str:
    """One part of the contents."""
    return "\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", *pages, "```", ""])


def gather(to: pathlib.Path) -> None:
    """Write all pages into a folder."""
    origins = [ROOT / place for place in PAGES] + sorted((ROOT / "docs").glob("*.md"))
    for origin in origins:
        page = PAGES.get(origin.relative_to(ROOT).as_posix(), origin.name)
        (to / page).write_text(relinked(origin.read_text(), origin))
    for figure in (ROOT / "docs").glob("*.svg"):
        shutil.copy(figure, to)
    (to / "notebooks").mkdir()
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for notebook in notebooks:
        shutil.copy(notebook, to / "notebooks")
    (to / "gallery.md").write_text(gallery(origins))
    reference(to)
    others = sorted({p.stem for p in (ROOT / "docs").glob("*.md")} - set(GUIDES))
    contents = [
        tree("Guides", GUIDES),
        tree("Notebooks", [f"notebooks/{n.stem}" for n in notebooks]),
        tree("Results", ["gallery", "experiments", *others]),
        tree("Reference", ["api/index", *(f"api/{name}" for name in modules())]),
        tree("Project", ["contributing", "changelog"]),
    ]
    with (to / "index.md").open("a") as file:
        file.write("\n\n" + "\n".join(contents))


def main(out: str) -> int:
    """Gather and build."""
    with tempfile.TemporaryDirectory() as folder:
        gather(pathlib.Path(folder))
        return build_main(["-q", "-W", "--keep-going", "-c", str(pathlib.Path(__file__).parent), folder, out])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
