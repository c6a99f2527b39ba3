"""Averages of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, combine


def average(points: Sequence[Any]) -> Params:
    """The mean of some points, each with the same weight (a uniform "soup"), in at least float32.

    Args:
        points: anything that an end of a ``Line`` may be.

    Returns:
        New tensors by name, buffers left out; ``J(average(points))`` is the objective there.

    Raises:
        InputError: there is none, or they are not of one space.

    Examples:
        >>> average([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}, {"w": torch.tensor([6.0])}])
        {'w': tensor([3.])}

    References:
        Wortsman et al. 2022 (model soups).
    """
    if not points:
        msg = "there is nothing to average: expected at least one point"
        raise InputError(msg)
    first, *others = (Checkpoint.read(point) for point in points)
    held = [first, *(matched(first, other) for other in others)]
    return {
        name: combine(
            [point.tensors[name] for point in held],
            [1 / len(held)] * len(held),
            torch.empty_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)),
        )
        for name, tensor in first.params.items()
    }
