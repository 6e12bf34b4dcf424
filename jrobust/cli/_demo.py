"""``jrobust demo``: three small nets on digits, attacked, certified, smoothed, on one page."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import optax

import jrobust as jr
from jrobust import nnx
from jrobust.cli import _common
from jrobust.cli._evaluate import gallery_of
from jrobust.evaluation import (
    Section,
    costs_of,
    outcomes_of,
    protocol_of,
    rows_of,
    smoothed_outcomes,
    smoothed_rows,
    smoothing_cost,
    smoothing_protocol,
)
from jrobust.evaluation._report._reading import read_metrics
from jrobust.evaluation._report._rows import correct_radii, notes_of

_METHODS = {"standard": "natural", "adversarial": "pgd", "certified": "ibp"}
_BATCH, _SIGMA, _WIDTHS = 128, 0.25, (128, 64)


def demo(
    *,
    out: str = "demo-out",
    seed: int = 0,
    epochs: int = 40,
    eps: tuple[_common.Number, ...] = (0.02, 0.05, 0.1, 0.15),
    n: int | None = None,
    draws: int = 2000,
) -> tuple[Section, ...]:
    """Train a standard, an adversarial and a certified net on digits (no download), ask all three the same questions, write a report.

    It shows the whole idea in a minute: attacks bound robust accuracy from above, proofs from below, and training moves both.
    Everything follows from the seed; run again on the same directory, it goes on where it stopped.

    Args:
      out: directory for the three runs and report.html.
      seed: of everything.
      epochs: of each training.
      eps: linf radii at which the nets are attacked and certified; they are trained at the third (or the last, where there are fewer).
      n: only the first N test examples.
      draws: noise draws an example, for smoothing.
    """
    began = time.monotonic()
    config: dict[str, Any] = {"command": "demo", "seed": seed, "epochs": epochs, "eps": eps, "n": n, "draws": draws}
    if not eps or epochs < 1:
        raise ValueError("demo needs at least one --eps and --epochs >= 1")
    radii = tuple(sorted(set(eps)))
    threat = jr.sets.linf(radii[min(2, len(radii) - 1)], clip=(0, 1))
    data = jr.data.load("digits")
    x, y = _common.first(data.test_x, data.test_y, n)
    folder = jr.training.start_run(out, config, resume=True)
    oracles = _common.oracles(("pgd", "ibp", "crown"), steps=20, restarts=5)
    origin = {"command": _common.command_of("demo", {**config, "out": out}, demo), "versions": _common.versions()}
    where = {"dataset": "digits", "split": "test", "seed": seed}
    sections = []
    with _compile_times() as times:
        for i, title in enumerate(("standard", "adversarial", "certified")):
            model = _train(title, folder / title, data, threat, epochs, seed)
            _common.say(
                f"[{3 * i + 2}/9] {title}: attacking and certifying {len(x)} test examples at {len(radii)} radii"
            )
            again = _common.has_results(folder / title / "evaluation")
            curve = jr.evaluation.curve(
                model, x, y, threat=threat, eps=radii, oracles=oracles, key=jax.random.key(seed), batch_size=512,
                out=folder / title / "evaluation",
            )  # fmt: skip
            _common.say(f"[{3 * i + 3}/9] {title}: smoothing with noise of standard deviation {_SIGMA}")
            certificate = jr.smoothing.certify(
                model, x, noise=jr.smoothing.gaussian(_SIGMA), n=draws, key=jax.random.key(seed), batch_size=20_000,
                out=folder / title / "smoothing",
            )  # fmt: skip
            rows = rows_of(curve, model=title, seed=seed)
            rows += smoothed_rows(certificate, y, model=title, seed=seed, radii=(_SIGMA,))
            section = Section(
                title,
                rows,
                radii=tuple(correct_radii(certificate, y).tolist()),
                noise=certificate.noise,
                losses=read_metrics(folder / title / "metrics.jsonl"),
                gallery=gallery_of(curve, model, x, y),
                config=config,
                notes=notes_of(curve),
                card=_common.card({**jr.training.read_config(folder / title), "method": _METHODS[title]}, model, x),
                protocol=protocol_of(
                    x, y, threat=threat, eps=radii, oracles=oracles, batch_size=512, box="[0, 1]", **where
                ),
                smoothing=smoothing_protocol(x, y, certificate, batch_size=20_000, **where),
                outcomes=outcomes_of(curve, y).joined(smoothed_outcomes(certificate, y, (_SIGMA,))),
                costs=_common.kept(
                    folder / title if again else None,
                    (*costs_of(curve, seconds=not again), smoothing_cost(certificate)),
                ),
                **origin,
            )
            section.save(folder / title)
            sections.append(section)
    page = jr.evaluation.report(sections, folder / "report.html", title="jrobust demo: three nets on digits")
    _common.show([r for s in sections for r in s.rows], [note for s in sections for note in s.notes])
    if times:
        slowest = max(times, key=lambda name: times[name])
        print(
            f"compiling the largest function ({slowest}) took {times[slowest]:.1f} s, all {len(times)} {sum(times.values()):.1f} s"
        )
    print(f"wrote {page} in {time.monotonic() - began:.0f} s")
    return tuple(sections)


def _train(title: str, folder: Path, data: Any, threat: Any, epochs: int, seed: int) -> Any:
    """One net: the same line with another oracle."""
    architecture = {"name": "mlp", "shape": data.shape, "classes": data.classes, "seed": seed, "widths": _WIDTHS}
    config = {
        "command": "demo", "title": title, "dataset": "digits", "model": architecture, "eps": threat.eps, "epochs": epochs,
        "seed": seed,
    }  # fmt: skip
    run = jr.training.start_run(folder, config, resume=True)
    apply, params, rest = nnx.functional(jr.models.create(**architecture))
    steps = epochs * jr.training.epoch_steps(len(data.train_x), _BATCH)
    clean = jr.objectives.cross_entropy(apply)
    if title == "standard":
        loss: Any = clean
    elif title == "adversarial":
        loss = jr.worst_case(clean, threat, jr.attacks.pgd(steps=7))
    else:
        params = jr.models.ibp_init(jax.random.key(seed), params)
        ramp = {"begin": steps // 10, "end": steps // 2}
        loss = jr.training.certified(
            clean, threat, jr.bounds.ibp(), eps=jr.training.smoothed(1.1 * threat.eps, **ramp),
            kappa=jr.training.linear(1.0, 0.3, **ramp),
        )  # fmt: skip
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    number = {"standard": 1, "adversarial": 4, "certified": 7}[title]
    _common.say(f"[{number}/9] {title}: training for {epochs} epochs")
    started = not (run / "metrics.jsonl").exists()
    jr.training.fit(
        jr.training.make_step(loss, tx), jr.training.init(params, rest, tx), data.train_x, data.train_y, epochs=epochs,
        batch_size=_BATCH, key=jax.random.key(seed), run=run, resume=not started, show=False,
    )  # fmt: skip
    return jr.training.load(run)


@contextlib.contextmanager
def _compile_times() -> Iterator[dict[str, float]]:
    """Seconds of XLA compilation by function name, while the context lasts."""
    times: dict[str, float] = {}

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            name = str(about.get("fun_name", "unnamed"))
            times[name] = max(times.get(name, 0.0), duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield times
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
