"""``jrobust bench``: named protocols on trained runs, and the leaderboards they make."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tyro.conf import Positional

import jrobust as jr
from jrobust._digest import digest
from jrobust._model import functional
from jrobust.cli import _common
from jrobust.cli._methods import SMOOTHED
from jrobust.evaluation import PROTOCOLS, Entry, add_entry, read_entries, run_protocol
from jrobust.evaluation import leaderboard as markdown
from jrobust.evaluation._leaderboard import check_board
from jrobust.evaluation._suites import place_of


def bench(
    suite: Positional[str] = "",
    *,
    run: tuple[str, ...] = (),
    leaderboard: str | None = None,
    table: str | None = None,
    data_dir: str | None = None,
    batch_size: int = 256,
    quiet: bool = False,
) -> None:
    """Ask trained runs what a named, versioned protocol asks, and keep a leaderboard.

    Protocols: linf-digits, linf-mnist, linf-cifar10 (AutoAttack); verified-digits, verified-mnist (PGD and CROWN);
    corruptions-digits, corruptions-mnist, corruptions-cifar10; smoothing-digits, smoothing-mnist,
    smoothing-cifar10. The same command goes on where it was interrupted.

    Args:
      suite: name of the protocol.
      run: directories of training runs on its data set.
      leaderboard: file to which one JSON line a run is appended; a file with another version of the protocol is refused.
      table: print the tables of a leaderboard file as Markdown, and ask nothing.
      data_dir: tensorflow_datasets directory of the data set; by default as in training, or $TFDS_DATA_DIR.
      batch_size: inputs at once.
      quiet: no progress bar.
    """
    if table is not None:
        if suite or run:
            raise ValueError("--table FILE prints what is there; leave SUITE and --run out")
        print(markdown(read_entries(table)), end="")
        return
    protocol = _common.pick(suite, PROTOCOLS, "protocol")
    if not run:
        raise ValueError("give at least one training run, --run DIR")
    for folder in run:
        trained_on = jr.training.read_config(folder).get("dataset")
        if trained_on != protocol.dataset:
            raise ValueError(f"{protocol.title} is about {protocol.dataset}; {folder} was trained on {trained_on}")
    if leaderboard is not None:
        check_board(leaderboard, protocol)
    for folder in run:
        entry = _asked(protocol, folder, data_dir, batch_size, quiet)
        _common.show(entry.rows, title=f"{protocol.title} ({entry.fingerprint})")
        if leaderboard is not None:
            new = add_entry(leaderboard, entry)
            print(f"added to {leaderboard}" if new else f"{leaderboard} already has this model; nothing added")


def _asked(protocol: Any, folder: str, data_dir: str | None, batch_size: int, quiet: bool) -> Entry:
    model, x, y, config = _common.load_run(folder, "test", None, data_dir)
    place, title, began = place_of(folder, protocol), Path(folder).name, time.monotonic()
    rows = run_protocol(protocol, model, x, y, title=title, out=place, batch_size=batch_size, progress=not quiet)
    trained = _trained(config)
    weights = digest(functional(model, x[:1]))
    return Entry(
        protocol,
        protocol.fingerprint,
        title,
        weights,
        rows,
        trained,
        round(time.monotonic() - began, 1),
        _common.versions(),
    )


def _trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's config says of how the model was made, as far as its method reads it."""
    method = config.get("method")
    unread = ("eps",) if method in (*SMOOTHED, "natural") else ()
    unread += () if method in SMOOTHED else ("sigma",)
    kept = {
        k: config[k]
        for k in ("method", "eps", "sigma", "epochs", "seed")
        if k not in unread and config.get(k) is not None
    }
    net = config.get("model")
    return {"model": net["name"], **kept} if isinstance(net, dict) and "name" in net else kept
