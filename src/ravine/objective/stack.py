"""Stack: several points of a slice in one forward pass, for a GPU that one small model leaves idle.

The points' parameters are laid on top of each other and the model is mapped over them
(``torch.func.vmap``), so that a layer is one batched matrix product instead of many small ones. On
a CPU that gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ravine.objective.batches import Batch
from ravine.objective.forward import Forward, as_quantities
from ravine.objective.losses import PerExample
from ravine.objective.replica import Replica
from ravine.points.params import combine

_LARGEST: Final = 64 << 20  # bytes of a model's moving parameters: beyond, one point fills a GPU
_SHARE: Final = 0.4  # of the memory that is free


class Stack:
    """A model at several points at once.

    Args:
        replica: spanning the corners; its own parameters do not matter.
        per_example: the caller's function.
        at_once: points in one forward pass, at most.
    """

    def __init__(self, replica: Replica, per_example: PerExample, at_once: int = 1) -> None:
        self.at_once = at_once
        self._call = _Call(replica.module, per_example)
        names = {
            id(tensor): f"module.{name}"
            for name, tensor in [*replica.params.items(), *replica.buffers.items()]
        }
        self._moving = [(names[id(target)], target, points) for target, points in replica.moving]
        self._stacked: dict[str, Tensor] = {}
        self._here: tuple[tuple[float, ...], ...] = ()

    @property
    def bytes_per_point(self) -> int:
        """Of the parameters that move."""
        return sum(target.nbytes for _, target, _ in self._moving)

    @property
    def is_small(self) -> bool:
        """Whether one point leaves room beside it."""
        return self.bytes_per_point <= _LARGEST

    def move_to(self, points: Sequence[tuple[float, ...]]) -> None:
        """Lay the parameters of some points on top of each other."""
        if tuple(points) == self._here:
            return
        for name, target, corners in self._moving:
            stacked = self._stacked.get(name)
            if stacked is None or len(stacked) != len(points):
                stacked = self._stacked[name] = target.new_empty(len(points), *target.shape)
            for out, coefficients in zip(stacked, points, strict=True):
                combine(corners, coefficients, out)
        self._here = tuple(points)

    def quantities(
        self, forward: Forward, batch: Batch, points: Sequence[int]
    ) -> list[dict[str, Tensor]]:
        """``Forward.quantities`` of several points together.

        Args:
            forward: for the split.
            batch: placed.
            points: their numbers.

        Returns:
            One dict per point.
        """
        self.move_to([forward.points.coefficients[point] for point in points])
        try:
            answer = self(forward.prepared(batch, 0))
        except Exception as problem:
            label = forward.points.labels[points[0]]
            problem.add_note(f"at {label} and on, split {forward.split!r}, batch {batch.number}")
            raise
        kept = answer if isinstance(answer, Mapping) else {"loss": answer}
        found = []
        for place in range(len(points)):
            own = {name: values[place] for name, values in kept.items()}
            found.append(as_quantities(own, batch))
        return found

    def __call__(self, batch: Any) -> Any:
        """What the caller's function gives for a batch, with one more axis in front: the points."""
        mapped = vmap(
            lambda params: functional_call(self._call, params, (batch,)), randomness="same"
        )
        return mapped(self._stacked)


def points_at_once(device: torch.device, bytes_per_point: int) -> int:
    """How many points fit into a share of the memory that is free on a GPU; 8 elsewhere."""
    if device.type != "cuda":
        return 8
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(_SHARE * free / max(bytes_per_point, 1)))


class _Call(nn.Module):
    def __init__(self, module: nn.Module, per_example: PerExample) -> None:
        super().__init__()
        self.module = module
        self._per_example = per_example
        # a new module is in training mode, which would be put on by no one
        self.training = module.training

    def forward(self, batch: Any) -> Any:
        """The caller's function of the inner module."""
        return self._per_example(self.module, batch)
