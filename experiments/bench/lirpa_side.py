"""auto_LiRPA's part of `bounds_peer`, for a Python of its own: ``lirpa_side.py PROBLEM.npz METHOD STEPS ANSWER.npz``.

The newest auto_LiRPA on PyPI (0.3) needs torch <= 1.12, NumPy < 1.24 and so Python <= 3.9.
"""

import sys
import time

import numpy as np
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from torch import nn


def main() -> None:
    problem, method, steps, answer = sys.argv[1:]
    torch.set_num_threads(2)
    given = {k: torch.tensor(v) for k, v in np.load(problem).items()}
    x, lo, hi, C = (given.pop(k) for k in ("x", "lo", "hi", "C"))
    layers = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)).eval()
    model.load_state_dict(given)
    options = {"optimize_bound_args": {"iteration": int(steps), "lr_alpha": 0.1, "ob_iteration": int(steps)}}
    bounded = BoundedModule(model, torch.empty_like(x), bound_opts=options, verbose=False)
    at = BoundedTensor(x, PerturbationLpNorm(norm=np.inf, x_L=lo, x_U=hi))
    start = time.perf_counter()
    bounds = bounded.compute_bounds(x=(at,), C=C, method=method, bound_upper=False)[0]
    np.savez(answer, bounds=bounds.detach().numpy(), seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main()
