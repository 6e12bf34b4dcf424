"""Import time of jrobust over that of jax, flax and optax, in fresh interpreters.

Command:  python -m experiments.bench.imports
Expected: at most one second more.
"""

import statistics
import subprocess
import sys
import time


def seconds(modules: str, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    floor, ours = seconds("jax, flax, optax"), seconds("jax, flax, optax, jrobust")
    print(f"import jax, flax, optax            {floor:.2f} s")
    print(f"import jax, flax, optax, jrobust   {ours:.2f} s   (+{ours - floor:.2f} s, target <= 1)")
    print(f"import jrobust alone               {seconds('jrobust'):.2f} s")


if __name__ == "__main__":
    main()
