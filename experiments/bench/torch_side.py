"""PyTorch's part of `training_loop`, for a Python that has torch: ``torch_side.py MODEL BATCH STEPS ROUNDS`` prints seconds a step.

The loop as it is usually written: the net in eval mode while PGD ascends, gradients by ``autograd.grad``, Adam on the adversarial loss.
"""

import json
import sys
import time

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


def main() -> None:
    name, batch, steps, rounds = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model, eps = net(name), 0.1
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

    best = float("inf")
    for _ in range(rounds + 1):  # the first warms up
        begin = time.perf_counter()
        for _ in range(5):
            step()
        best = min(best, (time.perf_counter() - begin) / 5)
    print(json.dumps({"seconds": best, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
