"""Averages of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, combine, is_float, same_values


def average(points: Sequence[Any]) -> Params:
    """The mean of some points, each with the same weight (a uniform "soup"), in at least float32.

    Args:
        points: anything that an end of a ``Line`` may be.

    Returns:
        New tensors by name; ``J(average(points))`` is the objective there. Buffers that every point has are there too:
        running statistics averaged like parameters (the policy of ``J`` says whether they are used), integers the
        first point's.

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
    parameters = {name: _mean(held, name) for name in first.params}
    shared = [name for name in first.buffers if all(name in point.tensors for point in held)]
    return parameters | {name: _buffer(held, name) for name in sorted(shared)}


def _mean(held: Sequence[Checkpoint], name: str) -> Tensor:
    """The mean of one tensor."""
    tensor = held[0].tensors[name]
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    out = torch.empty_like(tensor, dtype=dtype)
    return combine([point.tensors[name] for point in held], [1 / len(held)] * len(held), out)


def _buffer(held: Sequence[Checkpoint], name: str) -> Tensor:
    """A buffer as ``buffers="interpolate"`` has it: the mean where it is floating point, else the first's."""
    tensor = held[0].tensors[name]
    if not is_float(tensor) or all(same_values(tensor, point.tensors[name]) for point in held):
        return tensor.clone()
    return _mean(held, name)
