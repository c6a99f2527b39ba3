"""The networks that are timed, the tight loop that they are timed against, and the machine's own rate.

The tight loop is what a careful person writes by hand for one network: parameters interpolated in place by
``torch.lerp``, one resident tensor of examples, functional layers, one number per point. It measures less than
ravine does: no standard errors, no error rate, no provenance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Maxout(nn.Module):
    """A linear layer whose outputs are maxima over ``pieces`` linear pieces (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear, self.units, self.pieces = nn.Linear(inputs, units * pieces), units, pieces

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) → (n, units)."""
        return self.linear(x).view(-1, self.pieces, self.units).amax(1)


def maxout_network() -> nn.Module:
    """784–240×5–240×5–10, the paper's network of figure 1: 1,233,610 parameters."""
    return nn.Sequential(Maxout(784, 240, 5), Maxout(240, 240, 5), nn.Linear(240, 10))


def relu_network() -> nn.Module:
    """784–512–512–10."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def digits_network() -> nn.Module:
    """64–256–256–10: so small that overhead shows."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def tight_maxout(p: list[Tensor], x: Tensor) -> Tensor:
    """The maxout network's logits, written by hand."""
    h = F.linear(x, p[0], p[1]).view(-1, 5, 240).amax(1)
    h = F.linear(h, p[2], p[3]).view(-1, 5, 240).amax(1)
    return F.linear(h, p[4], p[5])


def tight_relu(p: list[Tensor], x: Tensor) -> Tensor:
    """A ReLU network's logits, written by hand."""
    for i in range(0, len(p) - 2, 2):
        x = F.linear(x, p[i], p[i + 1]).relu_()
    return F.linear(x, p[-2], p[-1])


@dataclass(frozen=True)
class Problem:
    """A network, two points and examples.

    Attributes:
        model: the module.
        tight: its logits written by hand, from a list of parameters and inputs.
        start: state dict at α = 0.
        end: state dict at α = 1.
        data: inputs and class targets.
    """

    model: nn.Module
    tight: Callable[[list[Tensor], Tensor], Tensor]
    start: dict[str, Tensor]
    end: dict[str, Tensor]
    data: tuple[Tensor, Tensor]

    @property
    def flops(self) -> float:
        """Of the matrix products of one point on all examples."""
        return 2.0 * len(self.data[1]) * sum(p.numel() for p in self.model.parameters() if p.ndim > 1)


PROBLEMS = {
    "maxout 784-240x5-240x5-10": (maxout_network, tight_maxout, 784),
    "ReLU 784-512-512-10": (relu_network, tight_relu, 784),
    "ReLU 64-256-256-10": (digits_network, tight_relu, 64),
}


def problem(name: str, examples: int, epochs: int = 2) -> Problem:
    """A briefly trained network on class blobs of the real data's shape."""
    build, tight, inputs = PROBLEMS[name]
    torch.manual_seed(0)
    model = build()
    start = {n: t.clone() for n, t in model.state_dict().items()}
    targets = torch.randint(0, 10, (examples,))
    x = (torch.randn(10, inputs)[targets] * 0.3 + torch.randn(examples, inputs)).clamp(0, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    for _ in range(epochs):
        for rows in torch.randperm(min(examples, 5000)).split(100):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), targets[rows]).backward()
            optimiser.step()
    end = {n: t.clone() for n, t in model.state_dict().items()}
    return Problem(model, tight, start, end, (x, targets))


@torch.no_grad()
def tight_loop(of: Problem, alphas: np.ndarray, batch: int) -> np.ndarray:
    """The curve by the tight loop."""
    start, end = list(of.start.values()), list(of.end.values())
    here = [torch.empty_like(t) for t in start]
    x, y = of.data
    losses = []
    for alpha in alphas:
        for a, b, out in zip(start, end, here, strict=True):
            torch.lerp(a, b, float(alpha), out=out)
        total = 0.0
        for i in range(0, len(y), batch):
            total += F.cross_entropy(of.tight(here, x[i : i + batch]), y[i : i + batch], reduction="sum").item()
        losses.append(total / len(y))
    return np.array(losses)


def matrix_rate(size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a square float32 matrix product, the best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(timed(lambda: a @ b)[0] for _ in range(repeats + 1))
    return 2.0 * size**3 / best


def timed(call: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what the call returned."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found
