"""An α-sweep over evaluation sets: how much of a fine-tuning to take (Wortsman et al. 2022)."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import ravine


def task(shift: float, turn: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs around a shifted mean, labelled by a rule that is turned away from the first one."""
    inputs = torch.randn(count, 20) + shift
    return inputs, (inputs @ (rule + turn * other)).relu().matmul(readout).argmax(1)


def fit(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], steps: int, rate: float
) -> dict[str, torch.Tensor]:
    """Train, and return a copy of where that led."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (100,))
        optimizer.zero_grad()
        F.cross_entropy(model(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


torch.manual_seed(0)
rule, other, readout = torch.randn(20, 64), torch.randn(20, 64), torch.randn(64, 5)
model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 5))
pretrained = fit(model, task(0.0, 0.0, 4_000), 1_000, 0.05)
finetuned = fit(model, task(0.5, 0.4, 300), 300, 0.02)

sets = {
    "fine-tuned on": task(0.5, 0.4, 2_000),
    "pretrained on": task(0, 0, 2_000),
    "neither": task(0, 0.2, 2_000),
}
J = ravine.Objective(model, ravine.supervised(F.cross_entropy), sets)
curve = ravine.evaluate(J, along=ravine.Line(pretrained, finetuned), at=torch.linspace(0, 1, 21))
for name in sets:
    error = curve["error"].sel(split=name)
    best = error.idxmin("alpha").item()
    ends = f"{error[0].item():.3f} → {error[-1].item():.3f}"
    print(f"{name:14} error {ends}, least {error.min().item():.3f} at α = {best:.2f}")
print(ravine.write_report("out/wise-ft", curve))
