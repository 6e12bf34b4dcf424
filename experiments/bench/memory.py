"""Memory of an evaluation and of a certification as the data set grows: 6,000 against 60,000 images of 28 x 28 from a memory map.

Command:  python -m experiments.bench.memory
Hardware: 2 CPU cores. Wall time: about four minutes.
Expected: the peak of anonymous memory grows by a few bytes an example and oracle (the answers, one line in the table of docs/scaling.md),
          not by the images or witnesses: 60,000 images are 188 MB, their witnesses as much again.
Each row is one process; the peak is of RssAnon, looked at every 20 ms (pages of mapped files do not count: the kernel drops them at need).
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIZES = (6_000, 60_000)


def anonymous() -> float:
    """MB of this process that lie in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Peak(threading.Thread):
    """The largest `anonymous` while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.value = 0.0

    def run(self) -> None:
        """Look, for ever."""
        while True:
            self.value = max(self.value, anonymous())
            time.sleep(0.02)


def worker(what: str, n: int, folder: Path) -> None:
    """One measurement."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jrobust as jr

    path = folder / f"x-{n}.npy"
    if not path.exists():
        x = np.lib.format.open_memmap(path, "w+", np.float32, (n, 784))
        rng = np.random.default_rng(0)
        for at in range(0, n, 1000):
            x[at : at + 1000] = rng.uniform(size=(1000, 784))
        x.flush()
    x = np.load(path, mmap_mode="r")
    a, b = (jax.random.normal(jax.random.key(k), s) / s[0] ** 0.5 for k, s in enumerate(((784, 256), (256, 10))))
    model = jax.tree_util.Partial(lambda a, b, x: jax.nn.relu(x @ a) @ b, a, b)
    y = np.concatenate([np.asarray(jnp.argmax(model(x[at : at + 1000]), 1)) for at in range(0, n, 1000)])
    key, out = jax.random.key(0), folder / f"{what.split()[0]}-{n}"

    def run(count: int, out: Path | None) -> None:
        if what.startswith("evaluate"):
            oracles = {"pgd": jr.attacks.pgd(steps=3), "ibp": jr.bounds.ibp()}
            threat = jr.sets.linf(0.005, clip=(0, 1))
            jr.evaluate(
                model,
                x[:count],
                y[:count],
                threat=threat,
                oracles=oracles,
                key=key,
                out=out,
                batch_size=512,
                keep_witnesses=True,
            )
        else:
            noise = jr.smoothing.gaussian(0.25)
            jr.smoothing.certify(model, x[:count], noise=noise, n0=5, n=20, key=key, out=out, batch_size=2048)

    with tempfile.TemporaryDirectory() as warm:
        run(1024, Path(warm))  # programs compiled, before memory is looked at
    peak = Peak()
    start = anonymous()
    peak.start()
    began = time.monotonic()
    run(n, out)
    print(json.dumps({"what": what, "n": n, "start": start, "peak": peak.value, "seconds": time.monotonic() - began}))


def main() -> None:
    """The table."""
    print("| what | examples | before, MB | peak, MB | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what in ("evaluate", "evaluate again", "certify"):
            for n in SIZES:
                command = [sys.executable, "-m", "experiments.bench.memory", what, str(n), folder]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                row = json.loads(said.splitlines()[-1])
                print(f"| {what} | {n:,} | {row['start']:.0f} | {row['peak']:.0f} | {row['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
