"""What the commands share: oracles by name, models and data from what was typed, tables, where a result came from."""

import difflib
import importlib
import inspect
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import jrobust as jr
from jrobust._model import functional
from jrobust.evaluation import Cost, Row, card_of, read_sections
from jrobust.evaluation._report._words import cells, reading_of, threat_of

ELSEWHERE = ("quiet", "batch_size", "out", "run", "data_dir")
"""Options that may differ where results with records go on: paths, and what changes no number. Another run than before is told by the
digests of weights and data in the records' header."""


def number(text: str) -> float:
    """A number as people write it: 0.1, 1e-3, 8/255.

    >>> number("8/255") == 8 / 255, number("0.25")
    (True, 0.25)
    """
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number or a fraction such as 8/255, got {text!r}") from None


Number = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|A/B",
        instance_from_str=lambda words: number(words[0]),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [f"{value:g}"],
    ),
]
"""A float on the command line that may be a fraction."""

NORMS: dict[str, Callable[..., Any]] = {
    "linf": jr.sets.linf,
    "l2": jr.sets.l2,
    "l1": jr.sets.l1,
    "l0": jr.sets.l0,
    "l0-pixels": partial(jr.sets.l0, pixels=True),
}


_PARTS = ("each", "lavan", "minimize", "patch", "placed", "rp2", "steepest", "transfer", "uap", "universal", "within")
"""Names of `jr.attacks` that are no oracle of one example: parts of attacks, and perturbations of many (`jrobust attack`)."""


def oracles(names: Sequence[str], *, steps: int, restarts: int) -> dict[str, Any]:
    """The oracles behind names; "clean" needs none, "margin" is None until `of_model` has seen the model.

    Raises:
      ValueError: an unknown name; the nearest is suggested.
    """
    known: dict[str, Callable[[], Any]] = {
        "clean": lambda: None,
        **{name.replace("_", "-"): getattr(jr.attacks, name) for name in jr.attacks.__all__ if name not in _PARTS},
        "pgd": lambda: jr.restarts(jr.attacks.pgd(steps=steps), restarts),
        "margin": lambda: None,  # `of_model`
        "lipschitz": jr.bounds.lipschitz,
        "ibp": jr.bounds.ibp,
        "crown-ibp": jr.bounds.crown_ibp,
        # the ladder proves what CROWN proves, and asks the dear bound only where the cheap ones stay open
        "crown": lambda: jr.cascade(jr.bounds.ibp(), jr.bounds.crown_ibp(), jr.bounds.crown()),
    }
    for name in names:
        pick(name, known, "oracle")
    return {name: known[name]() for name in dict.fromkeys(names) if name != "clean"}


def of_model(oracles: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The oracles, with that of the margin, which takes the model's word for its Lipschitz constant.

    Raises:
      ValueError: a model without one.
    """
    if "margin" not in oracles:
        return dict(oracles)
    constant = getattr(model, "constant", None)
    if constant is None:
        raise ValueError(
            "--oracle margin is for models that know their Lipschitz constant (lipschitz-mlp, lipschitz-cnn)"
        )
    return {**oracles, "margin": jr.bounds.margin(constant)}


def transform(name: str) -> jr.transforms.Transform:
    """The transform of this name, with its published range.

    Raises:
      ValueError: an unknown name; the nearest is suggested.
    """
    parts = ("Transform", "any_order", "chain", "interpolate")
    known = {n.replace("_", "-"): getattr(jr.transforms, n) for n in jr.transforms.__all__ if n not in parts}
    return pick(name, known, "transform")()


def pick(name: str, known: Mapping[str, Any], what: str) -> Any:
    """What goes by this name.

    Raises:
      ValueError: an unknown name; the nearest is suggested.
    """
    if name not in known:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {name!r};{hint} there are {', '.join(known)}")
    return known[name]


def load_model(path: str) -> Callable[[Any], Any]:
    """The model of an ONNX file, or behind ``pkg.module:function``; the current directory is searched too.

    Raises:
      ValueError: it cannot be found or read.
    """
    if path.endswith((".onnx", ".onnx.gz")):
        return jr.io.load_onnx(path)
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ValueError(f"--model is FILE.onnx or pkg.module:function, got {path!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        model = importlib.import_module(module)
    except Exception as error:  # a syntax error, or whatever the file itself raises
        raise ValueError(f"--model {path}: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(model, part):
            raise ValueError(f"--model {path}: {module} has no {name}")
        model = getattr(model, part)
    if isinstance(model, type):
        raise ValueError(
            f"--model {path}: it is a class; name an instance of it, or a function x[B, ...] -> logits[B, K]"
        )
    if not callable(model):
        raise ValueError(f"--model {path}: it is a {type(model).__name__}, not a function x[B, ...] -> logits[B, K]")
    return model


def load_array(path: str, flag: str) -> np.ndarray:
    """An array from a .npy file, never unpickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{flag} {path}: no such file") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{flag} {path} is no plain .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{flag} {path} holds several arrays (.npz); give one .npy file")
    return array


def load_run(
    run: str, split: str, n: int | None, data_dir: str | None, flag: str = "--n", *, best: bool = False
) -> tuple[Any, np.ndarray, np.ndarray, dict[str, Any]]:
    """A trained model with the examples of one split of its data set, and its config."""
    config = jr.training.read_config(run)
    name = config.get("dataset")
    if not isinstance(name, str):
        raise ValueError(f"{run} does not say which data set it was trained on; give --model with --x and --y instead")
    if split not in ("test", "train"):
        raise ValueError(f"--split is test or train, not {split!r}")
    model = jr.training.load(run, best=best)
    data = jr.data.load(name, data_dir=data_dir or config.get("data_dir"), split=split)
    x, y = (data.test_x, data.test_y) if split == "test" else (data.train_x, data.train_y)
    return model, *first(x, y, n, flag), config


def first(x: np.ndarray, y: np.ndarray, n: int | None, flag: str = "--n") -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` examples (all, where there are fewer or n is None)."""
    if n is not None and n < 1:
        raise ValueError(f"{flag} must be >= 1, got {n}")
    return x[:n], y[:n]


def shard(text: str | None) -> tuple[int, int] | None:
    """Which of how many processes, from words such as 0/3.

    >>> shard("1/3"), shard(None)
    ((1, 3), None)
    """
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard is INDEX/COUNT with 0 <= INDEX < COUNT, such as 0/3, got {text!r}")
    return int(index), int(count)


def versions() -> dict[str, str]:
    """Of what computed a result."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"jrobust": jr.__version__, **{n: version(n) for n in names}, "python": platform.python_version()}


def card(config: Mapping[str, Any], model: Any, x: np.ndarray) -> dict[str, Any]:
    """What a model is: the config of its training, and how many numbers its arrays hold (those of its normalisation too)."""
    leaves = jax.tree.leaves(functional(model, x[:1]).leaves)
    return card_of(config, parameters=sum(int(np.size(a)) for a in leaves))


def has_results(folder: Path | None) -> bool:
    """Whether examples are done already: what is read back from disk takes no time worth telling."""
    return folder is not None and any(folder.rglob("*.jsonl"))


def kept(folder: Path | None, costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
    """The costs that a finished run of the same question told, where it is asked again; else those given."""
    if folder is None or not (folder / "summary.json").is_file():
        return costs
    try:
        before = read_sections(folder)[0].costs
    except ValueError:  # it is written anew
        return costs
    return before if [c[:4] for c in before] == [c[:4] for c in costs] else costs


def command_of(name: str, config: Mapping[str, Any], function: Callable[..., Any]) -> str:
    """The command line that makes a result again, options at their default left out."""
    words = ["jrobust", name]
    for option, parameter in inspect.signature(function).parameters.items():
        value = config.get(option)
        if option not in config or value == parameter.default:
            continue
        flag = option.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)


def report_of(folder: Path) -> str:
    """The command that shows what lies in a directory, as a shell reads it."""
    return shlex.join(["jrobust", "report", str(folder)])


def show(rows: Sequence[Row], notes: Sequence[str] = (), title: str | None = None) -> None:
    """The table on stdout: every number with its n, how it reads ("at most", "at least", "exact"), interval and confidence."""
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else 160  # in a file a line is a row
    console = Console(width=width)
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in ("model", "method", "threat"):
        table.add_column(column, no_wrap=True)
    table.add_column("true value", no_wrap=True)
    for column in ("value", "interval", "n", "confidence"):
        table.add_column(column, justify="right", no_wrap=True)
    colours = {"lower": "red", "upper": "green", "exact": "default"}
    before = None
    for r in rows:
        if before not in (None, r.model):
            table.add_section()
        colour = "green" if r.quantity == "radius" else colours.get(r.side, "default")
        value, interval = cells(r)
        table.add_row(
            r.model if r.model != before else "", r.name, threat_of(r), f"[{colour}]{reading_of(r)}[/]", value,
            interval.replace("[", "\\["), str(r.n), f"{r.confidence:g}",
        )  # fmt: skip
        before = r.model
    console.print(table)
    for note in notes:
        console.print(note, style="bold red", markup=False)


def say(message: str) -> None:
    """A line on stderr: what is going on."""
    print(message, file=sys.stderr, flush=True)
