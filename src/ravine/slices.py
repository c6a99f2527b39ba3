"""Slices: maps from coordinates to points of parameter space.

A slice is spanned by a few *corners*; a coordinate becomes one coefficient per corner, and the point is
their combination (``params.combine``). Measuring needs nothing else of it, so a slice holds no numbers of
its own and never a computed point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from ravine.checkpoints import Checkpoint, align
from ravine.params import Params, combine, distance


class Slice(Protocol):
    """What can be measured along: dims, corners, and the corners' coefficients at a coordinate."""

    dims: tuple[str, ...]

    @property
    def corners(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that span the slice, all under the first one's names."""
        ...

    @property
    def coefficients(self) -> Callable[..., tuple[float, ...]]:
        """The coordinates' function: one number per corner, summing to 1."""
        ...


class Line:
    """The straight line θ(α) = (1 − α) θ₀ + α θ₁ through two points; α may lie outside [0, 1].

    Args:
        start: θ₀, at α = 0: a module, a state dict, a mapping of tensors, or the path of a checkpoint
            (``Checkpoint.read`` lists what it takes). Files stay on disk until they are needed.
        end: θ₁, at α = 1, of the same architecture.

    Raises:
        InputError: a point cannot be read, or the two differ in names, shapes, types or ties.

    Example:
        >>> line = Line({"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([3.0, 4.0])})
        >>> line.at(0.5)
        {'w': tensor([1.5000, 2.0000])}
        >>> line.length
        5.0

    References:
        Goodfellow and Vinyals 2014, section 2.
    """

    dims: tuple[str, ...] = ("alpha",)

    def __init__(self, start: Any, end: Any) -> None:
        self.start = Checkpoint.read(start)
        self.end = align(self.start, Checkpoint.read(end))

    @property
    def corners(self) -> tuple[Checkpoint, ...]:
        """Start and end."""
        return (self.start, self.end)

    @property
    def length(self) -> float:
        """‖θ₁ − θ₀‖₂ over the parameters, tied tensors once, buffers excluded."""
        start, end = self._ends()
        return distance(start, end)

    def coefficients(self, alpha: float) -> tuple[float, ...]:
        """(1 − α, α)."""
        return (1 - alpha, alpha)

    def at(self, alpha: float) -> Params:
        """The point at ``alpha``, computed fresh from the two ends, in at least float32 on the start's device.

        Args:
            alpha: position, dimensionless; 0 gives the start and 1 the end, bit for bit and in their own dtype.

        Returns:
            New tensors by name; buffers are left out.
        """
        start, end = self._ends()
        if alpha in (0, 1):
            return {name: tensor.clone() for name, tensor in (end if alpha == 1 else start).items()}
        return {
            name: combine(
                [tensor, end[name]],
                self.coefficients(alpha),
                torch.empty_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)),
            )
            for name, tensor in start.items()
        }

    def _ends(self) -> tuple[Params, Params]:
        for end in self.corners:
            end.require_unchanged()
        start = {n: t for n, t in self.start.params.items() if n not in self.end.buffers}
        return start, {name: self.end.tensors[name] for name in start}

    def __repr__(self) -> str:
        return f"Line({self.start.label} → {self.end.label})"
