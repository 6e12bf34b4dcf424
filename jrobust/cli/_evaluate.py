"""``jrobust evaluate``: oracles over a data set, at some radii."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jrobust as jr
from jrobust.cli import _common, _corruptions
from jrobust.evaluation import Curve, Gallery, Section, costs_of, outcomes_of, protocol_of, rows_of
from jrobust.evaluation._checks import check_data
from jrobust.evaluation._corruptions import planned
from jrobust.evaluation._report._rows import notes_of


def evaluate(
    *,
    run: str | None = None,
    model: str | None = None,
    x: str | None = None,
    y: str | None = None,
    oracle: tuple[str, ...] = ("clean", "pgd", "crown-ibp"),
    eps: tuple[_common.Number, ...] = (),
    norm: Literal["linf", "l2", "l1", "l0", "l0-pixels"] = "linf",
    transform: str | None = None,
    corruptions: tuple[str, ...] = (),
    severities: tuple[int, ...] = (),
    suite: Literal["cifar-c", "imagenet-c", "mnist-c"] | None = None,
    n: int | None = None,
    split: Literal["test", "train"] = "test",
    data_dir: str | None = None,
    steps: int = 20,
    restarts: int = 5,
    nested: bool = False,
    surrogate: tuple[str, ...] = (),
    substitute: str | None = None,
    seeds: int = 150,
    batch_size: int = 256,
    seed: int = 0,
    best: bool = False,
    shard: str | None = None,
    out: str | None = None,
    quiet: bool = False,
) -> Section:
    """Attack and certify a model: a run of ``jrobust train`` (--run), an ONNX file or a function of yours (--model, --x, --y).

    Every number is printed with its n, how it reads (the true value is at most what an attack left, at least what is proven), its interval
    and its confidence. With results on disk (--run, or --out) the same command goes on where it was interrupted.

    Args:
      run: directory of a training run.
      model: FILE.onnx (or .onnx.gz), or pkg.module:function, where function(x[B, ...]) gives logits [B, K]; instead of --run.
      x: .npy file of inputs [N, ...] in [0, 1], for --model.
      y: .npy file of integer labels [N], for --model.
      oracle: clean; attacks: pgd, autoattack, apgd, fab, square, ... (every name of jr.attacks); proofs: ibp (fast, loose),
        crown-ibp, crown (tight, slow); lipschitz; with --norm l2 of lipschitz-mlp and lipschitz-cnn: margin.
      eps: radii in input units, as many as you like (0.1, 8/255); by default the run's own.
      norm: of the perturbation; of l0 and l0-pixels, --eps is how many entries or pixels may change.
      transform: what changes in the images instead of a norm: rotation, rotation-translation, flow, hue, brightness, colour-filter,
        caa, ... (every name of jr.transforms). --eps is then the share of its published range, in [0, 1]; by default the whole, 1.
      corruptions: instead of attacks, errors under corruptions by name (fog, jpeg-compression, ...); all: those that the benchmark scores.
        Writes corruption_errors.json beside the records.
      severities: of the corruptions, 1 to 5; by default all, of mnist-c those of the released set.
      suite: whose severities; by default mnist-c for images of 28 x 28 x 1, cifar-c up to 64 pixels, imagenet-c above.
      n: only the first N examples.
      split: of the run's data set.
      data_dir: tensorflow_datasets directory of the run's data set; by default as in training, or $TFDS_DATA_DIR.
      steps: of pgd.
      restarts: of pgd, each from a random start.
      nested: the largest radius first; what an attack did not break there it is not asked about again at smaller ones (much faster).
      surrogate: FILE.onnx or pkg.module:function, models that the attacks are crafted on instead (transfer); of several the mean of
        the logits.
      substitute: a model as in jrobust train (mlp, cnn-small, ...), trained on the labels that the model in question gives; attacks
        are then crafted on it instead (Papernot's black box). It joins --surrogate.
      seeds: how many examples, the last ones, the substitute starts from; they are not evaluated. It asks for 32 labels a seed.
      batch_size: examples at once.
      seed: of the attacks.
      best: of --run, the model that was best on held-out images (trained with --held-out) instead of the last.
      shard: INDEX/COUNT, such as 0/3: do every third example from the first on, and leave the others to other processes, on any machines
        that see the same directory. Done or not, the same command without --shard puts all together and does the rest.
      out: directory for the results; by default one inside the run (none with --model).
      quiet: no progress bar.
    """
    config: dict[str, Any] = {"command": "evaluate", **locals()}
    mine = _common.shard(config.pop("shard"))
    if corruptions and mine is not None:
        raise ValueError("--corruptions are not divided into shards: leave out --shard")
    if corruptions:
        return _corrupted(config)
    if severities or suite is not None:
        raise ValueError("--severities and --suite go with --corruptions NAME...|all")
    for option in ("corruptions", "severities", "suite"):  # results that are on disk know no such options
        del config[option]
    if mine is not None and run is None and out is None:
        raise ValueError("--shard needs a directory for the results, which all processes see: --out DIR (or --run)")
    change = None if transform is None else _common.transform(transform)
    if change is not None:
        oracle, eps = _for_transform(oracle, eps or (1.0,), norm)
        config["oracle"] = oracle
    oracles = _common.oracles(oracle, steps=steps, restarts=restarts)
    models = [_common.load_model(name) for name in surrogate]
    net, xs, ys, trained = _subject(run, model, x, y, split, data_dir, best)
    oracles = _common.of_model(oracles, net)
    if substitute is not None:
        learned, xs, ys = _substitute(substitute, net, xs, ys, seeds, seed, quiet)
        models.append(learned)
    xs, ys = _common.first(xs, ys, n)
    if models:
        oracles = dict(_transferred(name, o, _seeing(change, models)) for name, o in oracles.items())
    radii = tuple(sorted(set(eps))) or ((float(trained["eps"]),) if "eps" in trained else ())
    if not radii:
        raise ValueError("give at least one radius, such as --eps 0.1")
    threat = _common.NORMS[norm](0.0, clip=(0, 1)) if change is None else change.threat()
    inputs = xs if change is None else change.inputs(xs)
    config |= {"eps": radii}
    folder = _folder(out, run, config)
    if folder is not None:
        jr.training.start_run(folder, config, resume=True, ignore=_common.ELSEWHERE)
    again = _common.has_results(folder)
    curve = jr.evaluation.curve(
        _seeing(change, [net])[0], inputs, ys, threat=threat, eps=radii, nested=nested, oracles=oracles, key=jax.random.key(seed),
        batch_size=batch_size, shard=mine, out=folder, progress=not quiet,
    )  # fmt: skip
    title = Path(run).name + (" (best)" if best else "") if run is not None else str(model)
    rows, notes = rows_of(curve, model=title, seed=seed), notes_of(curve)
    _common.show(rows, notes)
    if mine is not None:  # the gallery and all else of a section come when all is put together
        done = len(range(mine[0], len(ys), mine[1]))
        print(
            f"shard {shard}: {done} examples are in {folder}; next: the same command without --shard puts all together"
        )
        return Section(title, rows, config=config, notes=notes)
    section = Section(
        title,
        rows,
        gallery=gallery_of(curve, net, xs, ys, None if change is None else change.images),
        command=_common.command_of("evaluate", config, evaluate),
        versions=_common.versions(),
        config=config,
        notes=notes,
        card=_common.card(trained or {"model": str(model)}, net, xs) | ({"checkpoint": "best on held-out images"} if best else {}),
        protocol=protocol_of(
            inputs, ys, threat=threat, eps=radii, oracles=oracles, seed=seed, dataset=trained.get("dataset"),
            split=split if run is not None else None, nested=nested, batch_size=batch_size,
            box="[0, 1]" if change is None else None, **_unusual(transform, surrogate, substitute),
        ),
        outcomes=outcomes_of(curve, ys),
        costs=_common.kept(folder if again else None, costs_of(curve, seconds=not again)),
    )  # fmt: skip
    if folder is not None:
        section.save(folder)
        print(f"saved in {folder}; next: {_common.report_of(folder)}")
    return section


_ATTACKS = ("oracle", "eps", "norm", "transform", "steps", "restarts", "nested", "surrogate", "substitute", "seeds")


def _corrupted(config: dict[str, Any]) -> Section:
    """Errors under corruptions; ``config`` holds all options of `evaluate`."""
    parameters = inspect.signature(evaluate).parameters
    if unfit := [name for name in _ATTACKS if config[name] != parameters[name].default]:
        raise ValueError(f"--corruptions have no adversary: leave out {', '.join('--' + name for name in unfit)}")
    o = SimpleNamespace(**config)
    net, xs, ys, _ = _subject(o.run, o.model, o.x, o.y, o.split, o.data_dir, o.best)
    xs, ys = _common.first(xs, ys, o.n)
    suite = _corruptions.suite_of(np.shape(xs)[1:]) if o.suite is None else o.suite
    found, severities = _corruptions.chosen(o.corruptions, suite, o.severities)
    planned(found, severities, check_data(xs, ys))  # refused before a directory is made
    config = {k: v for k, v in config.items() if k not in _ATTACKS} | {"suite": suite}
    folder = _folder(o.out, o.run, config)
    if folder is not None:
        jr.training.start_run(folder, config, resume=True, ignore=_common.ELSEWHERE)
    result = _corruptions.errors(
        net, xs, ys, found, severities, seed=o.seed, batch_size=o.batch_size, out=folder, quiet=o.quiet
    )
    title = Path(o.run).name if o.run is not None else str(o.model)
    section = Section(
        title,
        _corruptions.rows(result, title, o.seed, suite),
        command=_common.command_of("evaluate", config, evaluate),
        versions=_common.versions(),
        config=config,
        corruptions=_corruptions.cells(result, suite),
    )
    _common.show(section.rows)
    if folder is not None:
        section.save(folder)
        result.save(folder, model=title, suite=suite, seed=o.seed)
        print(f"saved in {folder}; next: {_common.report_of(folder)}")
    return section


def _unusual(transform: str | None, surrogate: tuple[str, ...], substitute: str | None) -> dict[str, Any]:
    """What a reader of the protocol must know besides."""
    given = {"transform": transform, "surrogates": list(surrogate) or None, "substitute": substitute}
    return {k: v for k, v in given.items() if v is not None}


def _for_transform(
    oracle: tuple[str, ...], eps: tuple[float, ...], norm: str
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Oracles and shares of a transform's range; what bounds proofs have of it is loose, so none is asked by default."""
    if norm != "linf":
        raise ValueError(f"give --norm {norm} or --transform, not both")
    if not all(0 <= e <= 1 for e in eps):
        raise ValueError(f"with --transform, --eps is the share of its range, in [0, 1]; got {max(eps, key=abs):g}")
    default = inspect.signature(evaluate).parameters["oracle"].default
    return ("clean", "sampling", "pgd") if oracle == default else oracle, eps


def _seeing(change: Any, models: Sequence[Any]) -> list[Any]:
    """The models of images as models of images and parameters, where there is a transform."""
    return [model if change is None else change.model(model) for model in models]


def _transferred(name: str, oracle: Any, models: Sequence[Any]) -> tuple[str, Any]:
    if isinstance(oracle, jr.RadiusOracle):
        raise ValueError(f"--surrogate: {name} bounds a radius; only attacks on one set can be carried over")
    return (f"transfer of {name}", jr.attacks.transfer(oracle, *models)) if oracle.side == "lower" else (name, oracle)


def _substitute(
    name: str, net: Any, x: np.ndarray, y: np.ndarray, seeds: int, seed: int, quiet: bool
) -> tuple[Any, np.ndarray, np.ndarray]:
    """A model trained on the answers of ``net`` to the last examples, and the others."""
    if not 1 <= seeds < len(x):
        raise ValueError(f"--seeds must be at least 1 and leave examples to evaluate, got {seeds} of {len(x)}")
    classes = jax.eval_shape(net, jnp.asarray(x[:1])).shape[-1]
    apply, params, rest = jr.nnx.functional(jr.models.create(name, shape=x.shape[1:], classes=classes, seed=seed))
    label = jax.jit(lambda batch: jnp.argmax(net(batch), -1))
    found = jr.training.substitute(label, apply, params, rest, x[-seeds:], key=jax.random.key(seed))
    if not quiet:
        agree = np.mean(np.asarray(jnp.argmax(found.model(x[-seeds:]), -1) == label(x[-seeds:])))
        _common.say(f"substitute {name}: {found.queries} labels asked for, agrees on {agree:.3f} of its {seeds} seeds")
    return found.model, x[:-seeds], y[:-seeds]


def _subject(
    run: str | None,
    model: str | None,
    x: str | None,
    y: str | None,
    split: str,
    data_dir: str | None,
    best: bool = False,
) -> tuple[Any, np.ndarray, np.ndarray, Mapping[str, Any]]:
    if (run is None) == (model is None):
        raise ValueError("give either --run DIR, or --model FILE.onnx|pkg.module:function with --x X.npy --y Y.npy")
    if run is not None:
        if x is not None or y is not None:
            raise ValueError("--x and --y go with --model; a run brings its own data set")
        return _common.load_run(run, split, None, data_dir, best=best)
    if best:
        raise ValueError("--best goes with --run: one file holds one model")
    if x is None or y is None:
        raise ValueError("--model needs --x X.npy and --y Y.npy")
    assert model is not None
    return _common.load_model(model), _common.load_array(x, "--x"), _common.load_array(y, "--y"), {}


def _folder(out: str | None, run: str | None, config: Mapping[str, Any]) -> Path | None:
    """Where results go: a run has one place for every different question asked about it."""
    if out is not None or run is None:
        return None if out is None else Path(out)
    question = {k: v for k, v in config.items() if k not in ("run", "data_dir", "batch_size", "out", "quiet")}
    return Path(run) / f"{config['command']}-{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:8]}"


def gallery_of(
    curve: Curve, model: Any, x: np.ndarray, y: np.ndarray, rendered: Any = None, most: int = 8
) -> Gallery | None:
    """Examples that an attack broke at the smallest radius where it broke some (else the first ones that it tried).

    ``rendered`` makes images of witnesses that are tuples.
    """
    if np.ndim(x) not in (2, 4):
        return None
    found = [(e, r) for e in curve.evaluations for r in e.results.values() if r.witness is not None]
    if not found:
        return None
    broke = [(e, r) for e, r in found if (r.correct & ~r.holds).any()]
    evaluation, result = (broke or found)[0]
    index = np.flatnonzero(result.correct & ~result.holds if broke else result.correct)[:most]
    clean, witness = np.asarray(x[index], np.float32), jax.tree.map(lambda a: np.asarray(a)[index], result.witness)
    witness = witness if rendered is None else np.asarray(rendered(*witness))
    before, after = (np.asarray(jnp.argmax(model(jnp.asarray(z)), -1)) for z in (clean, witness))
    return Gallery(clean, witness, np.asarray(y)[index], before, after, f"{result.name} at {evaluation.threat}")
