"""CROWN and alpha-CROWN of a trained CNN against auto_LiRPA on the same images, in one run: seconds, and whose are tighter.

Command: python -m experiments.bench.bounds_peer --shared ../shared [--peer PYTHON], a Python in which `lirpa_side` runs: version 3.9, with
pip install torch==1.12.1 "numpy<1.24" auto_LiRPA==0.3. Target: at least 3x faster on both. The net is a CNN of two convolutions and two
dense layers (shared/fixtures/attacks), with the labels' nine margins; 100 examples of CROWN, 20 of alpha-CROWN with 20 iterations,
on CROWN's intermediate bounds; and 100 on its own.
"""

import dataclasses
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np
import tyro

import jrobust as jr
from experiments.bench.attacks import load, timed


@dataclasses.dataclass
class Config:
    """Settings.

    Attributes:
      shared: the folder with fixtures/ and tfds/.
      crown: examples of CROWN.
      alpha: examples of alpha-CROWN.
      steps: its iterations.
      eps: of the Linf ball, cut by [0, 1].
      peer: the Python that has auto_LiRPA; None: it is left out.
    """

    shared: Path
    crown: int = 100
    alpha: int = 20
    steps: int = 20
    eps: float = 0.1
    peer: str | None = None

    @property
    def fixtures(self):
        return self.shared / "fixtures" / "attacks"

    @property
    def data_dir(self):
        return str(self.shared / "tfds")


def ours(oracle, config, model, x, y):
    """Lower bounds of the margins, seconds once it is compiled, seconds of compilation, and bytes beyond arguments and results."""
    threat = jr.sets.linf(config.eps, clip=(0, 1))

    def lower(model, x, y):
        f = jr.objectives.classification(lambda z: model(z[None])[0], y)
        return -oracle.solve(None, f, threat(x)).info["elements"]

    run, compiled = timed(lambda: jax.jit(jax.vmap(lower, in_axes=(None, 0, 0))).lower(model, x, y).compile())
    jax.block_until_ready(run(model, x, y))
    bounds, seconds = timed(lambda: np.asarray(run(model, x, y)))
    return bounds, seconds, compiled, run.memory_analysis().temp_size_in_bytes


def theirs(method, config, model, x, y):
    """The same from auto_LiRPA, in its own Python: bounds and seconds."""
    others = np.array([[j for j in range(10) if j != label] for label in y])
    C = np.eye(10, dtype=np.float32)[y][:, None] - np.eye(10, dtype=np.float32)[others]
    x, (weights,) = x.transpose(0, 3, 1, 2), model.args
    ends = {"lo": (x - config.eps).clip(0, 1), "hi": (x + config.eps).clip(0, 1)}
    with tempfile.TemporaryDirectory() as folder:
        problem, answer = Path(folder) / "problem.npz", Path(folder) / "answer.npz"
        np.savez(problem, x=x, C=C, **ends, **{k: np.asarray(v) for k, v in weights.items()})
        side = Path(__file__).with_name("lirpa_side.py")
        words = [config.peer, side, problem, method, config.steps, answer]
        subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
        found = np.load(answer)
        return found["bounds"], float(found["seconds"])


def main() -> None:
    config = tyro.cli(Config)
    model, x, y = load(config, "mnist_cnn_ibp", "mnist")
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, Linf {config.eps}")
    alpha, known = jr.bounds.alpha_crown(steps=config.steps), {}
    rows = [
        ("crown", "CROWN", jr.bounds.crown(), config.crown),
        ("alpha-crown", "CROWN-Optimized", alpha, config.alpha),
        (
            "alpha-crown on itself",
            "CROWN-Optimized",
            jr.bounds.alpha_crown(steps=100, intermediates=alpha),
            config.alpha,
        ),
    ]
    for name, method, oracle, n in rows:
        mine, seconds, compiled, memory = ours(oracle, config, model, x[:n], y[:n])
        print(f"{name}, {n} x 9: {seconds:.2f} s (compilation {compiled:.1f} s), {memory / 2**20:.0f} MiB")
        if config.peer is None:
            continue
        if (method, n) not in known:
            known[method, n] = theirs(method, config, model, x[:n], y[:n])
        bounds, longer = known[method, n]
        tighter = np.mean(mine >= bounds - 1e-4 * np.abs(bounds))
        print(
            f"  auto_LiRPA {method}: {longer:.2f} s, {longer / seconds:.1f}x ours; mean bound {bounds.mean():.4f}, ours {mine.mean():.4f}; "
            f"{tighter:.0%} of ours as tight or tighter (1e-4); verified {np.mean((bounds > 0).all(1)):.0%}, "
            f"ours {np.mean((mine > 0).all(1)):.0%}"
        )


if __name__ == "__main__":
    main()
