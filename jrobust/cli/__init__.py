"""The command line: ``jrobust demo | train | evaluate | attack | certify | verify | bench | report``, on the public functions."""

import os
import sys
from collections.abc import Sequence

from jrobust import __version__

_DESCRIPTION = "How bad can a model get over a set of inputs, and who says so? Attacks, proofs, smoothing and robust training in JAX."
_COMMANDS = {
    "demo": "train three small nets on digits, attack and certify them, and write a report (start here)",
    "train": "train a model: natural, adversarial or certified",
    "evaluate": "attack and certify a model on a data set",
    "attack": "make one perturbation for many examples: universal, or a patch to be printed",
    "certify": "certify a model by randomized smoothing",
    "verify": "prove or refute a VNN-LIB specification of an ONNX network",
    "bench": "ask trained runs what a named protocol asks, and keep a leaderboard",
    "report": "the honest report on one model or several, as HTML, Markdown or JSON",
}
_EXTRA = "pip install 'jrobust[cli]'"
# Mistakes of the caller: one line, no traceback. JROBUST_DEBUG=1 shows where it came from.
_MISTAKES = (ValueError, TypeError, OSError, NotImplementedError, ImportError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: the words after ``jrobust``; None takes those of the process.

    Returns:
      The exit code: 0 on success, 2 on bad input (one line on stderr), 130 on Ctrl-C (what was finished is kept).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"jrobust {__version__}")
        return 0
    try:
        import rich  # noqa: F401
        import tyro  # noqa: F401
    except ImportError as error:
        return _without_extras(argv, error.name or "tyro")
    from jrobust.cli._parse import BadArguments, parse

    try:
        parse(argv, _DESCRIPTION)()
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except BadArguments as error:
        return _fail(error)
    except KeyboardInterrupt:
        print(
            "jrobust: interrupted; what was finished is kept, the same command goes on from there (train: with --resume)",
            file=sys.stderr,
        )
        return 130
    except _MISTAKES as error:
        if os.environ.get("JROBUST_DEBUG"):
            raise
        return _fail(error)
    return 0


def _fail(error: BaseException) -> int:
    """One line on stderr, code 2."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"jrobust: error: {text}", file=sys.stderr)
    return 2


def _without_extras(argv: list[str], missing: str) -> int:
    """What can be said without tyro and rich: the list of commands."""
    if not {"-h", "--help"} & set(argv):
        return _fail(ImportError(f"the command line needs {missing}: {_EXTRA}"))
    width = max(map(len, _COMMANDS))
    print(f"usage: jrobust COMMAND [OPTIONS]\n\n{_DESCRIPTION}\n\ncommands:")
    for name, what in _COMMANDS.items():
        print(f"  {name.ljust(width)}  {what}")
    print(f"\nThe commands need {missing}, which is not installed: {_EXTRA}")
    return 0
