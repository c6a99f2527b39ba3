"""Averages of points: plain, weighted, by the shape of a schedule, and sums of task vectors."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, combine, is_float, same_values

Decay = Literal["linear", "cosine", "sqrt"]

_ROUNDING: Final = 1e-6  # of weights that are said to sum to 1


def average(points: Sequence[Any], weights: Sequence[float] | None = None) -> Params:
    """The weighted mean of some points (a "soup"), in at least float32.

    Args:
        points: anything that an end of a ``Line`` may be.
        weights: one a point, summing to 1; negative ones extrapolate. They are never rescaled. By
            default all alike.

    Returns:
        New tensors by name; ``J(average(points))`` is the objective there. Buffers that every point
        has are there too: running statistics averaged like parameters (the policy of ``J`` says
        whether they are used), integers the first point's.

    Raises:
        InputError: there is none, they are not of one space, or the weights do not fit.

    Examples:
        >>> a, b, c = [{"w": torch.tensor([value])} for value in (1.0, 2.0, 6.0)]
        >>> average([a, b, c])
        {'w': tensor([3.])}
        >>> average([a, b], weights=[0.25, 0.75])
        {'w': tensor([1.7500])}

    References:
        Wortsman et al. 2022 (model soups).
    """
    require_sequence(points)
    points = list(points)
    if not points:
        msg = "there is nothing to average: expected at least one point"
        raise InputError(msg)
    shares = _shares(weights, len(points))
    first, *others = (Checkpoint.read(point) for point in points)
    held = [first, *(matched(first, other) for other in others)]
    parameters = {name: _mean(held, name, shares) for name in first.params}
    everywhere = set.intersection(*(set(point.tensors) for point in held))
    shared = [name for name in first.buffers if name in everywhere]
    return parameters | {name: _buffer(held, name, shares) for name in sorted(shared)}


def task_arithmetic(base: Any, points: Sequence[Any], scale: float) -> Params:
    """A base with the sum of its fine-tuned copies' changes, times a scale: base + λ Σ (θᵢ − base).

    Args:
        base: what the points were fine-tuned from.
        points: the fine-tuned copies.
        scale: λ; with one point it is the coefficient along the line from the base.

    Returns:
        As ``average``.

    Raises:
        InputError: as ``average``.

    Examples:
        >>> base = {"w": torch.zeros(2)}
        >>> one, other = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}
        >>> task_arithmetic(base, [one, other], 0.5)
        {'w': tensor([0.5000, 1.0000])}

    References:
        Ilharco et al. 2023 (task arithmetic).
    """
    require_sequence(points)
    points = list(points)
    if not isinstance(scale, Real) or not math.isfinite(scale):
        msg = f"scale must be a finite number; got {scale!r}"
        raise InputError(msg)
    if not points:
        msg = "there are no task vectors: expected at least one fine-tuned point"
        raise InputError(msg)
    return average([base, *points], [1 - len(points) * scale, *[scale] * len(points)])


def decay_weights(count: int, shape: Decay = "linear") -> list[float]:
    """Weights by which the last snapshots of a run at constant rate stand for a decaying rate.

    A mean of snapshots applies each update between them in part. With weights
    cⱼ, the update before snapshot i counts Σ cⱼ over j ≥ i, so weights are
    the drops of the schedule whose decay they stand for.

    Args:
        count: how many snapshots, the earliest first.
        shape: of the schedule, from 1 at the first snapshot to 0 after the last: ``"linear"``,
            whose weights are all alike; ``"cosine"``, (1 + cos πx) / 2; or ``"sqrt"``, 1 − √x.

    Returns:
        One weight a snapshot, for ``average``; they sum to 1.

    Raises:
        InputError: there is no such shape, or no snapshot.

    Examples:
        >>> decay_weights(4)
        [0.25, 0.25, 0.25, 0.25]
        >>> [round(weight, 3) for weight in decay_weights(4, "sqrt")]
        [0.5, 0.207, 0.159, 0.134]

    References:
        Tian et al. 2025 (WSM: decay-free schedules by merging).
    """
    schedules: dict[str, Callable[[float], float]] = {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
        "sqrt": lambda x: 1 - math.sqrt(x),
    }
    if shape not in schedules:
        msg = f"shape must be one of {', '.join(map(repr, get_args(Decay)))}; got {shape!r}"
        raise InputError(msg)
    if not isinstance(count, Integral) or count < 1:
        msg = f"count must be at least 1, a whole number; got {count!r}"
        raise InputError(msg)
    rate = [schedules[shape](place / count) for place in range(count + 1)]
    return [before - after for before, after in zip(rate, rate[1:], strict=False)]


def require_sequence(points: Any) -> None:
    """Several points are asked for, not one, and not points by name.

    Args:
        points: as the user gives them.

    Raises:
        InputError: they are one path, or a mapping.
    """
    if isinstance(points, str | os.PathLike):
        msg = f"points must be several, in a list; got the one path {str(points)!r}"
        raise InputError(msg)
    if isinstance(points, Mapping):
        msg = (
            "points must be in a list, in the order of their weights; got a dict: give "
            "list(points.values())"
        )
        raise InputError(msg)


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    shares = [float(weight) for weight in weights]
    if len(shares) != count:
        msg = f"expected one weight a point, {count}; got {len(shares)}"
        raise InputError(msg)
    total = math.fsum(shares)
    if not abs(total - 1) <= _ROUNDING:
        msg = f"the weights must sum to 1; they sum to {total:g}. Divide them by their sum."
        raise InputError(msg)
    return shares


def _mean(held: Sequence[Checkpoint], name: str, shares: Sequence[float]) -> Tensor:
    """The weighted mean of one tensor."""
    tensor = held[0].tensors[name]
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    out = torch.empty_like(tensor, dtype=dtype)
    return combine([point.tensors[name] for point in held], shares, out)


def _buffer(held: Sequence[Checkpoint], name: str, shares: Sequence[float]) -> Tensor:
    """A buffer as ``buffers="interpolate"`` has it: the mean of floats, else the first's."""
    tensor = held[0].tensors[name]
    if not is_float(tensor) or all(same_values(tensor, point.tensors[name]) for point in held):
        return tensor.clone()
    return _mean(held, name, shares)
