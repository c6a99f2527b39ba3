"""Problems whose curves are known in closed form, and small nets for everything else."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ravine


class Point(nn.Module):
    """A model that is nothing but a parameter vector w."""

    def __init__(self, *values: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=dtype))


def point(*values: float, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=dtype)}


def of_w(function, data=None, **policies) -> ravine.Objective:
    """J(w) = mean over x of function(w, x)."""
    size = policies.pop("size", 2)
    x = torch.tensor([0.0], dtype=torch.float64) if data is None else data

    def per_example(model, batch):
        return torch.stack([function(model.w, x) for x in batch[0]])

    return ravine.Objective(Point(*[0.0] * size), per_example, (x,), **policies)


def of_model(per_example, data, *, size: int = 1, **policies) -> ravine.Objective:
    """J of a model that is a vector w, by a function of (model, batch)."""
    return ravine.Objective(Point(*[0.0] * size), per_example, (data,), **policies)


def values(curve, quantity: str = "loss", split: str | None = None) -> np.ndarray:
    """The curve as an array, on one split."""
    chosen = curve.isel(split=0) if split is None else curve.sel(split=split)
    return chosen[quantity].values


def blobs(n: int = 203, dim: int = 6, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Class blobs; 203 is prime to every batch size, so the last batch is always short."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (n,), generator=generator)
    centres = 2 * torch.randn(classes, dim, generator=generator)
    return centres[targets] + torch.randn(n, dim, generator=generator), targets


def mlp(
    seed: int = 0, *, norm: bool = False, dropout: float = 0.0, width: int = 16
) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(6, width)]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(*layers, nn.Linear(width, 4))


def trained(model: nn.Module, data: tuple[Tensor, Tensor], epochs: int = 10) -> tuple[dict, dict]:
    """(state before, state after) a short training; the model ends up trained."""
    start = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model.train()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(epochs):
            for batch in torch.randperm(len(data[0])).split(50):
                optimiser.zero_grad()
                F.cross_entropy(model(data[0][batch]), data[1][batch]).backward()
                optimiser.step()
    return start, copy.deepcopy(model.state_dict())


def direct(model: nn.Module, start: dict, end: dict, alphas, data) -> np.ndarray:
    """The curve by another route: explicit θ(α) in float64, one batch, ``functional_call``."""
    model = copy.deepcopy(model).double().eval()
    inputs, targets = data
    curve = []
    for alpha in alphas:
        state = {
            n: ((1 - alpha) * t.double() + alpha * end[n].double()) if t.is_floating_point() else t
            for n, t in start.items()
        }
        with torch.no_grad():
            outputs = torch.func.functional_call(model, state, (inputs.double(),))
            curve.append(F.cross_entropy(outputs, targets).item())
    return np.array(curve)
