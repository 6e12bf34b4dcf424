"""What ``jrobust train`` does before a model's own training: another run to begin with, and stages that search for something."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jrobust import nnx, training
from jrobust.cli._methods import METHODS
from jrobust.cli._optimiser import optimiser
from jrobust.cli._setting import Setting

if TYPE_CHECKING:
    from jrobust.cli._train import Train


class Stage(NamedTuple):
    """Something else that is trained before the model's parameters are, on the same data.

    Attributes:
      name: of its folder in the run directory.
      start: parameters of the model -> what is trained.
      loss: ``(setting, parameters) ->`` its loss.
      after: ``(setting, parameters, what was trained) -> (setting, parameters)`` of the model's own training.
    """

    name: str
    start: Callable[[Any], Any]
    loss: Callable[[Setting, Any], Any]
    after: Callable[[Setting, Any, Any], tuple[Setting, Any]]


def _scored(s: Setting, params: Any) -> Any:
    return training.hydra(METHODS[BEGIN["hydra"]](s), params, keep=s.keep)


def _pruned(s: Setting, params: Any, scores: Any) -> tuple[Setting, Any]:
    masks = training.hydra_masks(scores, s.keep)
    return s._replace(masks=masks), training.pruned(params, masks)


STAGES = {"hydra": Stage("scores", training.hydra_scores, _scored, _pruned)}
"""Methods that search for something first."""

BEGIN = {"hydra": "pgd"}
"""Methods that begin with a trained model: what trains it where none is given."""


def begun(run: str, net: Any, name: str) -> tuple[Any, Any]:
    """Parameters and other arrays of a run to begin with, of the model of that name.

    Raises:
      ValueError: it is another net.
    """
    trained = nnx.functional(training.load(run))
    here, there = (jax.tree.map(jnp.shape, (f.params, f.rest)) for f in (nnx.functional(net), trained))
    other = training.read_config(run)["model"]["name"]
    if other != name or here != there:
        what = f"is of {other}" if other != name else f"has a {name} of other arrays"
        raise ValueError(f"{run} {what}; begin with a run of the same --model on data of the same shape")
    return trained.params, trained.rest


def first(config: "Train", run: Path, epochs: int) -> "Train":
    """The training of a model to begin with, where none was given, in a folder of the run."""
    out = run / "start"
    there = (out / "config.json").exists()
    options = {"method": BEGIN[config.method], "epochs": epochs, "lr": config.first_lr or config.lr}
    return dataclasses.replace(config, **options, out=str(out), resume=there)


def spent(config: "Train", epochs: int) -> int:
    """Epochs of the stage, of those of the whole training."""
    return min(max(1, round(config.search * epochs)), epochs - 1) if config.method in STAGES else 0


def searched(
    config: "Train", setting: Setting, params: Any, rest: Any, run: Path, epochs: int, *data: Any, **how: Any
) -> tuple[Setting, Any, Any]:
    """The setting, parameters and other arrays of the model's own training, after the stage.

    ``data`` and ``how`` are those of `fit`.
    """
    stage = STAGES[config.method]
    tx = optimiser(dataclasses.replace(config, lr=config.first_lr or config.lr), epochs * setting.epoch)
    step = training.make_step(stage.loss(setting, params), tx, accumulate=setting.accumulate)
    state = training.init(stage.start(params), rest, tx)
    found = training.fit(step, state, *data, epochs=epochs, run=run / stage.name, **how)
    return *stage.after(setting, params, found.params), found.rest
