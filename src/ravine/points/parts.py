"""Parts: what a process holds of a tensor that several share (a DTensor), and sums over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

#: The groups of processes over which a tensor is split; empty for one that each process
#: holds whole.
Owners = tuple[tuple[Any, int], ...]


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is one process's part of a tensor that several hold between them (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This process's part, in the same memory; of a plain tensor, all of it.

    Examples:
        >>> local(torch.ones(2))
        tensor([1., 1.])
    """
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor with every process's part of it; each of them has to call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def owners(tensor: Tensor) -> Owners:
    """Over whom a tensor is split: a mesh of processes and its axis, for every axis that splits it.

    Examples:
        >>> owners(torch.ones(2))
        ()
    """
    if not is_sharded(tensor):
        return ()
    placed: Any = tensor
    return tuple(
        (placed.device_mesh, axis)
        for axis, placement in enumerate(placed.placements)
        if not placement.is_replicate()
    )


def summed(totals: Mapping[Owners, np.ndarray]) -> np.ndarray:
    """The sum over all parts of all tensors; every process that holds one has to call this.

    Args:
        totals: over this process's parts, by whom the tensors are split over; float64.

    Returns:
        The same numbers in every process. What is split over nobody counts once.

    Examples:
        >>> summed({(): np.array([1.0, 2.0])})
        array([1., 2.])
    """
    return np.sum([_over(among, total) for among, total in totals.items()], axis=0)


def _over(among: Owners, total: np.ndarray) -> np.ndarray:
    if not among:
        return total
    import torch.distributed as dist

    mesh = among[0][0]
    found = torch.as_tensor(total, dtype=torch.float64, device=mesh.device_type)
    for mesh, axis in among:
        dist.all_reduce(found, group=mesh.get_group(axis))
    return found.cpu().numpy()
