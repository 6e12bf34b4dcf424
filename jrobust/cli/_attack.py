"""``jrobust attack``: one perturbation for many examples, crafted on one part of the data and judged on the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jrobust as jr
from jrobust._checks import check_batch, check_inside, check_labels
from jrobust.cli import _common
from jrobust.cli._evaluate import _folder, _subject
from jrobust.evaluation import Gallery, Row, Section, rows_of

_VIEW = ("scale", "rotation", "contrast", "brightness")
_TAKES = {
    "uap": ("eps", "norm", "mask"),
    "patch": ("size", "at", *_VIEW),
    "lavan": ("size", "at"),
    "rp2": ("mask", "eps", "colours", "shift", *_VIEW),
}
_NEEDS = {"uap": (), "patch": ("size",), "lavan": ("size", "at"), "rp2": ("mask",)}


def attack(
    *,
    method: Literal["uap", "patch", "lavan", "rp2"],
    run: str | None = None,
    model: str | None = None,
    x: str | None = None,
    y: str | None = None,
    eps: _common.Number | None = None,
    norm: Literal["linf", "l2", "l1"] | None = None,
    mask: str | None = None,
    size: tuple[int, int] | None = None,
    at: tuple[int, int] | None = None,
    target: int | None = None,
    scale: tuple[_common.Number, _common.Number] | None = None,
    rotation: _common.Number | None = None,
    shift: _common.Number | None = None,
    contrast: _common.Number | None = None,
    brightness: _common.Number | None = None,
    colours: str | None = None,
    craft: _common.Number = 0.5,
    n: int | None = None,
    split: Literal["test", "train"] = "test",
    data_dir: str | None = None,
    steps: int = 400,
    restarts: int = 3,
    batch_size: int = 64,
    seed: int = 0,
    out: str | None = None,
) -> Section:
    """Make one perturbation for many examples: a universal one (uap), or one to be printed (patch, lavan, rp2).

    It is crafted on one part of the examples, drawn by the seed, and judged on the others, beside a random perturbation of the same
    size. The accuracy left is an upper bound of that against the worst such perturbation. --out gets perturbation.npy, the
    indices of the examples crafted on, the numbers and the config.

    Args:
      method: uap: added to every example, within --eps. patch: pasted anywhere, scaled and turned (Brown et al.). lavan: pasted at one
        place (Karmon et al.). rp2: added where --mask allows, small, printable, seen in random views (Eykholt et al.).
      run: directory of a training run.
      model: pkg.module:function, where function(x[B, ...]) gives logits [B, K]; instead of --run.
      x: .npy file of inputs [N, ...] in [0, 1], for --model.
      y: .npy file of integer labels [N], for --model.
      eps: the most that an entry (l2, l1: the whole) may change, for uap (by default the run's own) and rp2 (by default 1).
      norm: of uap; linf by default.
      mask: .npy file in [0, 1], of an example's shape or [H, W]: rp2's mask; with uap on linf each entry's share of --eps.
      size: rows and columns of a patch, in pixels.
      at: row and column of its upper left corner; without it a patch is pasted anywhere.
      target: the class that every example shall become; by default any wrong one.
      scale: the least and the largest size of a patch (rp2: of the image) relative to its own.
      rotation: the largest angle in degrees, either way.
      shift: the largest shift of the image in pixels, for rp2.
      contrast: the largest change, either way.
      brightness: the largest change, either way.
      colours: .npy file [k, C] of the colours that can be printed, for rp2.
      craft: the share of the examples to craft on, in (0, 1).
      n: only the first N examples.
      split: of the run's data set.
      data_dir: tensorflow_datasets directory of the run's data set; by default as in training, or $TFDS_DATA_DIR.
      steps: of the ascent.
      restarts: ascents side by side, all but the first from a random start; the best on the examples crafted on is kept.
      batch_size: examples a step.
      seed: of everything random.
      out: directory for the results; by default one inside the run.
    """
    config: dict[str, Any] = {"command": "attack", **locals()}
    given = {
        k: config[k] for k in dict.fromkeys(k for names in _TAKES.values() for k in names) if config[k] is not None
    }
    if wrong := [k for k in given if k not in _TAKES[method]]:
        raise ValueError(f"--{wrong[0]} does not go with --method {method}")
    if missing := [k for k in _NEEDS[method] if k not in given]:
        raise ValueError(f"--method {method} needs --{missing[0]}")
    if out is None and run is None:
        raise ValueError("--model needs --out DIR, for the perturbation")
    net, xs, ys, trained = _subject(run, model, x, y, split, data_dir)
    xs, ys = _common.first(xs, ys, n)
    ys = check_labels(ys, check_batch(xs))
    check_inside(np.asarray(xs), 0, 0, 1)
    crafted, judged = _parts(len(xs), craft, seed)
    if method == "uap" and eps is None:
        if "eps" not in trained:
            raise ValueError("--method uap needs --eps, such as --eps 8/255")
        given["eps"] = config["eps"] = float(trained["eps"])
    options = {"target": target, "steps": steps, "restarts": restarts, "batch_size": batch_size, **_loaded(given, xs)}
    folder = _folder(out, run, config)
    assert folder is not None
    inside = ("run", "data_dir") if out is None else ()  # the run is then where the results lie, however it is spelled
    jr.training.start_run(folder, config, resume=True, ignore=("out", *inside))
    key = jax.random.key(seed)
    found, s, threat = _CRAFT[method](net, jnp.asarray(xs[crafted]), jnp.asarray(ys[crafted]), key, options)
    noise = jax.random.normal(jax.random.fold_in(key, 1), s.center.shape, s.center.dtype)
    control = found._replace(perturbation=s.project(s.center + s.steepest(noise, relative=True)))
    section = _judged(
        net, xs[judged], ys[judged], key, {method: found, "noise": control}, threat, target, config, trained
    )
    np.save(folder / "perturbation.npy", np.asarray(found.perturbation))
    np.save(folder / "crafted_on.npy", crafted)
    section.save(folder)
    _common.show(section.rows, section.notes)
    print(
        f"crafted on {len(crafted)} examples, judged on {len(judged)} others; saved in {folder}; next: {_common.report_of(folder)}"
    )
    return section


def _parts(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to craft on and, disjoint, to judge on; shuffled, as data may be sorted by class."""
    if not 0 < share < 1:
        raise ValueError(f"--craft is a share in (0, 1), got {share:g}")
    order = np.random.default_rng(seed).permutation(n)
    count = round(share * n)
    if not 0 < count < n:
        raise ValueError(f"--craft {share:g} of {n} examples leaves none to {'craft' if count == 0 else 'judge'} on")
    return np.sort(order[:count]), np.sort(order[count:])


def _loaded(given: Mapping[str, Any], x: np.ndarray) -> dict[str, Any]:
    """The options with files as arrays; a mask of an example's shape, a patch inside the image."""
    options = dict(given)
    if "size" in given:
        if x.ndim not in (3, 4):
            raise ValueError(f"a patch needs images [N, H, W] or [N, H, W, C], got shape {x.shape}")
        size, at, frame = given["size"], given.get("at", (0, 0)), x.shape[1:3]
        if not all(1 <= a <= c and 0 <= b <= c - a for a, b, c in zip(size, at, frame, strict=True)):
            raise ValueError(f"a patch of --size {size} at {at} does not fit into images of {frame}")
    if "colours" in given:
        options["colours"] = _common.load_array(given["colours"], "--colours").astype(np.float32)
        if x.ndim < 3 or options["colours"].shape[1:] != (x.shape[3] if x.ndim == 4 else 1,):
            raise ValueError(
                f"--colours must be [k, C] for images of shape {x.shape[1:]}, got {options['colours'].shape}"
            )
    if "mask" in given:
        mask = _common.load_array(given["mask"], "--mask").astype(np.float32)
        mask = mask[..., None] if mask.ndim == x.ndim - 2 else mask
        if mask.ndim != x.ndim - 1 or any(a not in (1, b) for a, b in zip(mask.shape, x.shape[1:], strict=True)):
            raise ValueError(f"--mask of shape {mask.shape} does not fit examples of shape {x.shape[1:]}")
        if not ((mask >= 0) & (mask <= 1)).all():
            raise ValueError("--mask must lie in [0, 1]")
        options["mask"] = np.broadcast_to(mask, x.shape[1:])
    return options


def _uap(net: Any, x: Any, y: Any, key: Any, options: dict[str, Any]) -> tuple[Any, Any, tuple[str, float]]:
    norm, eps, mask = options.pop("norm", "linf"), options.pop("eps"), options.pop("mask", None)
    if mask is not None and norm != "linf":
        raise ValueError("--mask goes with --norm linf: only there each entry has an eps of its own")
    threat = _common.NORMS[norm](eps if mask is None else eps * mask)
    found = jr.attacks.uap(net, x, y, threat=threat, key=key, **options)
    return found, threat(jnp.zeros_like(x[0])), (norm, eps)


def _pasted(
    name: str, net: Any, x: Any, y: Any, key: Any, options: dict[str, Any]
) -> tuple[Any, Any, tuple[str, float]]:
    found = getattr(jr.attacks, name)(net, x, y, key=key, **options)
    p = found.perturbation
    area = p.shape[0] * p.shape[1] / (x.shape[1] * x.shape[2])
    return found, jr.sets.box(0.0, 1.0)(jnp.full_like(p, 0.5)), ("patch of area", area)


def _rp2(net: Any, x: Any, y: Any, key: Any, options: dict[str, Any]) -> tuple[Any, Any, tuple[str, float]]:
    eps = options.get("eps", 1.0)
    found = jr.attacks.rp2(net, x, y, key=key, **options)
    return found, jr.sets.linf(eps)(jnp.zeros_like(x[0])), ("masked linf", eps)


_CRAFT: dict[str, Any] = {
    "uap": _uap,
    "patch": lambda *args: _pasted("patch", *args),
    "lavan": lambda *args: _pasted("lavan", *args),
    "rp2": _rp2,
}


def _judged(
    net: Any, x: np.ndarray, y: np.ndarray, key: Any, found: Mapping[str, Any], threat: tuple[str, float], target: int | None,
    config: Mapping[str, Any], trained: Mapping[str, Any],
) -> Section:  # fmt: skip
    """The accuracy left on held-out examples, clean and with each perturbation; a member of the set overstates the worst case's."""
    title = Path(config["run"]).name if config["run"] is not None else str(config["model"])

    def left(model: Any, **changes: Any) -> Row:
        ev = jr.evaluate(model, x, y, threat=jr.sets.linf(0.0), oracles={}, key=key)
        return rows_of(ev, model=title, seed=config["seed"])[0]._replace(**changes)

    attacked = {"threat": threat[0], "eps": threat[1], "side": "lower"}
    models = {name: jr.attacks.placed(net, f, key=key) for name, f in found.items()}
    rows = (left(net), *(left(model, name=name, **attacked) for name, model in models.items()))
    notes = () if target is None else (_became(models, x, y, target),)
    return Section(
        title,
        rows,
        gallery=_gallery(net, found[config["method"]], key, x, y, f"{config['method']}, {threat[0]} {threat[1]:.3g}"),
        command=_common.command_of("attack", config, attack),
        versions=_common.versions(),
        config=config,
        notes=notes,
        card=_common.card(trained or {"model": str(config["model"])}, net, x),
    )


def _became(models: Mapping[str, Any], x: np.ndarray, y: np.ndarray, target: int) -> str:
    others = np.flatnonzero(y != target)
    counts = {name: int((_classes(model, x[others]) == target).sum()) for name, model in models.items()}
    said = ", ".join(f"{count} with {name}" for name, count in counts.items())
    return f"of {len(others)} held-out examples of other classes become class {target}: {said}"


def _classes(model: Any, x: np.ndarray, size: int = 256) -> np.ndarray:
    classes = jax.jit(lambda batch: jnp.argmax(model(batch), -1))
    return np.concatenate([np.asarray(classes(x[i : i + size])) for i in range(0, len(x), size)])


def _gallery(net: Any, found: Any, key: Any, x: np.ndarray, y: np.ndarray, caption: str) -> Gallery | None:
    """The first held-out examples as they are and as the model sees them."""
    if x.ndim != 4:
        return None
    clean = np.asarray(x[:8], np.float32)
    images = np.asarray(jax.jit(jr.attacks.placed(lambda z: z, found, key=key))(clean))
    return Gallery(clean, images, np.asarray(y[:8]), _classes(net, clean), _classes(net, images), caption)
