"""The line between two models by three other packages, each as its own documentation uses it."""

from __future__ import annotations

import copy

import loss_landscape_3d
import loss_landscapes
import loss_landscapes.metrics
import nngeom
import numpy as np
from problems import Problem, criterion
from torch.utils.data import DataLoader, TensorDataset


def by_loss_landscapes(of: Problem, points: int, _: int) -> tuple[np.ndarray, np.ndarray]:
    """``linear_interpolation`` of ``Loss`` over all examples at once; it steps from 1/n to 1.

    Returns:
        α, and the losses.
    """
    start, end = copy.deepcopy(of.model), copy.deepcopy(of.model)
    start.load_state_dict(of.start)
    end.load_state_dict(of.end)
    metric = loss_landscapes.metrics.Loss(criterion, *of.data)
    losses = loss_landscapes.linear_interpolation(
        start, end, metric, steps=points, deepcopy_model=True
    )
    return np.arange(1, points + 1) / points, losses


def by_loss_landscape_3d(of: Problem, points: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """``calculate_1d_path`` over a DataLoader, with the tight loop's batch size.

    Returns:
        α, and the losses.
    """
    loader = DataLoader(TensorDataset(*of.data), batch_size=batch)
    alphas = np.linspace(0, 1, points)
    calculator = loss_landscape_3d.LossLandscapeCalculator(
        copy.deepcopy(of.model), loader, criterion
    )
    return alphas, calculator.calculate_1d_path(alphas, of.start, of.end)


def by_nngeom(of: Problem, points: int, _: int) -> tuple[np.ndarray, np.ndarray]:
    """``linear_interpolation`` over all examples as one batch.

    Returns:
        α, and the losses.
    """
    ends = []
    for point in (of.start, of.end):
        module = copy.deepcopy(of.model).requires_grad_(True)  # it moves trainable parameters only
        module.load_state_dict(point)
        ends.append(nngeom.Model(module, lambda m, batch: criterion(m(batch[0]), batch[1])))
    curve = nngeom.linear_interpolation(*ends, of.data, steps=points)
    return curve.alphas, curve.losses


PEERS = {
    "loss-landscapes": by_loss_landscapes,
    "loss-landscape-3d": by_loss_landscape_3d,
    "nngeom": by_nngeom,
}
