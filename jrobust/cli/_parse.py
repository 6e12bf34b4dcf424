"""From words to a call: tyro on the signatures of the commands (or the fields of their config), with its errors folded into one line."""

import contextlib
import functools
import io
import re
from collections.abc import Callable, Collection
from typing import Any

import tyro


def _commands(argv: list[str]) -> dict[str, Callable[..., Any]]:
    """The commands by name. Where ``verify`` (which runs against a clock) or ``report`` is asked for, the others' libraries stay away."""
    from jrobust.cli._verify import verify

    if argv[:1] == ["verify"]:
        return {"verify": verify}
    if argv[:1] == ["report"]:
        from jrobust.cli._report import report

        return {"report": report}
    from jrobust.cli._attack import attack
    from jrobust.cli._bench import bench
    from jrobust.cli._certify import certify
    from jrobust.cli._demo import demo
    from jrobust.cli._evaluate import evaluate
    from jrobust.cli._report import report
    from jrobust.cli._train import Train

    return {
        "demo": demo,
        "train": Train,
        "evaluate": evaluate,
        "attack": attack,
        "certify": certify,
        "verify": verify,
        "bench": bench,
        "report": report,
    }


class BadArguments(ValueError):
    """The words do not make a command."""


def parse(argv: list[str], description: str) -> Callable[[], Any]:
    """The call that the words ask for, not yet made.

    Raises:
      BadArguments: unknown, missing or malformed words.
      SystemExit: ``--help`` was printed.
    """
    if argv[:1] == ["train"]:
        from jrobust.cli._presets import expand

        argv = expand(argv)
    said, commands = io.StringIO(), _commands(argv)
    try:
        with contextlib.redirect_stderr(said):
            call = tyro.extras.subcommand_cli_from_dict(
                {name: command if isinstance(command, type) else _later(command) for name, command in commands.items()},
                args=argv,
                prog="jrobust",
                description=description,
                sort_subcommands=False,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise BadArguments(_one_line(said.getvalue(), {word.partition("=")[0] for word in argv})) from None
    return call if callable(call) else call.run  # the config of a training run


def _later(command: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same signature that returns the call instead of making it."""

    @functools.wraps(command)
    def later(*args: Any, **options: Any) -> Callable[[], Any]:
        return functools.partial(command, *args, **options)

    return later


def _one_line(box: str, typed: Collection[str]) -> str:
    """The text of tyro's box, without its frame, its copy of the help and suggestions of a word that was ``typed``."""
    lines = [re.sub(r"[│╭╮╰╯─]+", " ", line).strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    title, *rest = [line for line in lines if line.strip("-")] or ["bad arguments"]
    kept: list[str] = []
    for i, line in enumerate(rest):
        if line.startswith(("Argument helptext", "For full helptext")):
            break
        if line.startswith("Perhaps you meant"):  # of each suggestion tyro prints the whole help: its name is enough
            near, said = rest[i + 1].split()[0], " ".join(kept)
            hint = f"; did you mean {near}?" if near not in typed else ""  # another command's option is no advice
            return f"{said}{hint} (jrobust COMMAND --help)"
        if kept and kept[-1].endswith(",)"):  # the list of commands went on to this line
            kept[-1] = f"{kept[-1][:-1]} {line})"
            continue
        kept.append(f"({line})" if line.startswith("Available subcommands") else line)
    return " ".join(kept or [title])
