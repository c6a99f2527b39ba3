"""Networks of the studies, and one way to train them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ravine


def mlp(inputs: int, width: int, depth: int, *, norm: bool = False) -> nn.Sequential:
    """Linear layers and ReLU, with LayerNorm between them if asked.

    Args:
        inputs: per example.
        width: of each hidden layer.
        depth: how many hidden layers.
        norm: whether each is normalised before its ReLU.
    """
    layers: list[nn.Module] = []
    for place in range(depth):
        layers.append(nn.Linear(inputs if place == 0 else width, width))
        layers += [nn.LayerNorm(width)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width, 10))


def cnn(side: int, channels: int, width: int) -> nn.Sequential:
    """Three convolutions with BatchNorm, each halving the image, and a linear layer.

    Args:
        side: of the square images.
        channels: of the images.
        width: of the first layer; the others have twice as many channels.
    """
    sizes = [channels, width, 2 * width, 2 * width]
    layers: list[nn.Module] = [nn.Unflatten(1, (channels, side, side))]
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * (side // 8) ** 2, 10))


def trained(
    model: nn.Module, data: tuple[Tensor, Tensor], seed: int, epochs: int, file: Path
) -> Path:
    """Train a network, or find it trained: Adam at 1e-3, a cosine to 0, batches of up to 500.

    Args:
        model: whose parameters are drawn anew.
        data: inputs and labels.
        seed: of the parameters and of the order of the examples.
        epochs: how many.
        file: where the outcome is kept; one that is there is not trained again.

    Returns:
        The file.
    """
    if file.is_file():
        return file
    torch.manual_seed(seed)
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    x, y = data
    size = min(500, max(len(x) // 10, 1))
    steps = epochs * (len(x) // size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // size * size].split(
            size
        ):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    return ravine.save_checkpoint(model, file)
