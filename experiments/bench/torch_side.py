"""PyTorch's part of a benchmark, for a Python that has torch: ``torch_side.py train|smooth MODEL BATCH STEPS ROUNDS`` prints seconds.

train: of a step, as the loop is usually written: the net in eval mode while PGD ascends, gradients by ``autograd.grad``, Adam on the
adversarial loss. smooth: of a batch of Cohen et al.'s sampling: the image repeated, Gaussian noise added, votes counted on the host.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def net(name: str) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    layers = (nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))


def training(model: nn.Module, batch: int, steps: int) -> Callable[[], None]:
    eps = 0.1
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    x, y = torch.rand(batch, 1, 28, 28), torch.arange(batch) % 10

    def step() -> None:
        model.eval()
        z = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(steps):
            z.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(z), y), [z])
            z = (z.detach() + 2.5 * eps / steps * slope.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        model.train()
        optimiser.zero_grad()
        F.cross_entropy(model(z.detach()), y).backward()
        optimiser.step()

    return step


def smoothing(model: nn.Module, batch: int, steps: int) -> Callable[[], None]:
    model.eval()
    x, votes = torch.rand(1, 28, 28), np.zeros(10, int)

    def step() -> None:
        with torch.no_grad():
            for _ in range(steps):
                z = x.repeat((batch, 1, 1, 1))
                np.add.at(votes, model(z + torch.randn_like(z) * 0.25).argmax(1).numpy(), 1)

    return step


def main() -> None:
    what, name, batch, steps, rounds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    step = {"train": training, "smooth": smoothing}[what](net(name), batch, steps)
    best = float("inf")
    for _ in range(rounds + 1):  # the first warms up
        begin = time.perf_counter()
        for _ in range(5):
            step()
        best = min(best, (time.perf_counter() - begin) / 5)
    print(json.dumps({"seconds": best / (steps if what == "smooth" else 1), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
