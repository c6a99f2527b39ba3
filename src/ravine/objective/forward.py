"""Forward passes: the caller's function on a batch, with the model's copy at one point."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.objective.affine import AffinePrefix
from ravine.objective.batches import Batch, map_tensors
from ravine.objective.losses import PerExample
from ravine.objective.randomness import seed_all, stable_seed
from ravine.objective.replica import Replica
from ravine.objective.trees import flatten

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# names that a result gives to its own dims, coordinates and variables
_RESERVED: Final = frozenset(
    ["alpha", "beta", "step", "split", "distance", "replicate", "piece", "check", "n_examples"]
)
_SUFFIXES: Final = ("_stderr", "_replicates", "_noise_floor", "_log", "_misfit", "_checked")

Coefficients = Sequence[tuple[float, ...]]


@dataclass(frozen=True)
class Policies:
    """How a forward pass is made. ``Objective`` explains each."""

    dropout: str
    seed: int
    stateful: bool
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Points:
    """The points of a request.

    Attributes:
        coefficients: of each point, one number per corner, summing to 1.
        labels: one name per point, for messages.
        statistics: running statistics to put in at each point, if they were recomputed.
    """

    coefficients: Coefficients
    labels: Sequence[str]
    statistics: Sequence[Mapping[str, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.coefficients)

    def some(self, numbers: Sequence[int]) -> Points:
        """Some of them, by number."""
        statistics = self.statistics
        return Points(
            [self.coefficients[number] for number in numbers],
            [self.labels[number] for number in numbers],
            None if statistics is None else [statistics[number] for number in numbers],
        )


class Forward:
    """Runs the caller's function on the examples of one split, wherever the replica stands.

    Args:
        replica: the private model, already spanning the corners.
        per_example: the caller's function.
        policies: how a forward pass is made.
        split: the split's name, for messages and for seeds.
        points: where the replica may stand.
    """

    def __init__(
        self,
        replica: Replica,
        per_example: PerExample,
        policies: Policies,
        split: str,
        points: Points,
    ) -> None:
        self.replica = replica
        self.per_example = per_example
        self.policies = policies
        self.split = split
        self.points = points
        #: answers the first layer from the corners, where it is at work
        self.affine: AffinePrefix | None = None
        #: whether buffers are as they were before every batch; not while statistics are estimated
        self.resets_buffers = not policies.stateful
        #: whether per_example writes to its batch, so that it must be given a copy
        self.copies = False
        self._carried: list[Any] = [None] * len(points)

    def visit(self, points: Points) -> None:
        """Give it other points, of which none has been run yet."""
        self.points = points
        self._carried = [None] * len(points)

    def placed(self, batch: Batch) -> Batch:
        """The batch on the device, its floating-point tensors in the forward pass's precision."""
        device, dtype = self.policies.device, self.policies.dtype

        def place(tensor: Tensor) -> Tensor:
            if tensor.is_complex():
                return tensor.to(device, torch.promote_types(dtype, torch.complex64))
            if not tensor.is_floating_point():
                return tensor.to(device, non_blocking=True)
            if self.replica.channels_last and tensor.ndim == 4:
                return tensor.to(device, dtype, memory_format=torch.channels_last)
            return tensor.to(device, dtype)

        return batch.mapped(place)

    def stand_at(self, point: int) -> None:
        """Move the replica to a point, with the running statistics that belong there."""
        self.replica.move_to(self.points.coefficients[point])
        if self.points.statistics is not None:
            self.replica.put(self.points.statistics[point])

    def forget(self, point: int) -> None:
        """Drop the state that a point carries from batch to batch."""
        self._carried[point] = None

    def quantities(
        self, batch: Batch, point: int, *, at: tuple[float, ...] | None = None, draw: int = 0
    ) -> dict[str, Tensor]:
        """What the caller's function says of one batch where the replica stands.

        Args:
            batch: placed.
            point: number of the point, for the state that it carries.
            at: its coefficients, if they are not the point's own.
            draw: number of a redraw, for masks that are resampled.

        Returns:
            One tensor per quantity, in the shape in which the caller gave it.

        Raises:
            InputError: it does not give one number per example.
        """
        policies = self.policies
        here = self.points.coefficients[point] if at is None else at
        # masks that are fixed are the same in every redraw: what differs is rounding alone
        if policies.dropout == "resample":
            content = self.prepared(batch, draw, *here)
        else:
            content = self.prepared(batch, 0)
        if self.affine is not None:
            self.replica.require_files()  # corners are read in the pass itself
            leaves = flatten(content)[0] if self.copies else batch.leaves
            self.affine.begin(batch.number, leaves, here)
        arguments = [self.replica.module, content]
        if policies.stateful:
            arguments.append(self._carried[point])
        try:
            with nullcontext() if self.affine is None else self.affine:
                answer = self.per_example(*arguments)
        except Exception as problem:
            label = self.points.labels[point]
            problem.add_note(f"at {label}, split {self.split!r}, batch {batch.number}")
            raise
        if policies.stateful:
            if not (isinstance(answer, tuple) and len(answer) == 2):
                msg = (
                    "a stateful per_example must return (losses, state); got "
                    f"{type(answer).__name__}"
                )
                raise InputError(msg)
            answer, self._carried[point] = answer
        return as_quantities(answer, batch)

    def loss(
        self, batch: Batch, point: int, *, at: tuple[float, ...] | None = None, draw: int = 0
    ) -> Tensor:
        """The losses of one batch, flat; as ``quantities``."""
        return self.quantities(batch, point, at=at, draw=draw)["loss"].reshape(-1)

    def prepared(self, batch: Batch, draw: int, *where: float) -> Any:
        """What to give the caller's function, generators and buffers as every pass finds them."""
        policies = self.policies
        if policies.dropout != "off":
            seed = stable_seed(policies.seed, self.split, batch.number, draw, *where)
            seed_all(seed, policies.device)
        if self.resets_buffers:
            self.replica.restore_buffers()
        return map_tensors(torch.clone, batch.content) if self.copies else batch.content


def joined(
    by_batch: Sequence[Mapping[str, Tensor]], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The quantities of some batches, one after the other: flat, float64, on one device."""
    names = by_batch[0].keys()
    for found in by_batch:
        if found.keys() != names:
            msg = (
                f"per_example gave {sorted(names)} and then {sorted(found)}; expected the same "
                "quantities"
            )
            raise InputError(msg)
    flat = {}
    for name in names:
        parts = [found[name].reshape(-1) for found in by_batch]
        flat[name] = torch.cat(parts).to(device, torch.float64)
    return flat


def as_quantities(answer: Any, batch: Batch) -> dict[str, Tensor]:
    """What the caller's function returned for one batch, checked.

    Args:
        answer: a tensor of losses, or a dict of tensors with a ``"loss"`` entry.
        batch: what it was given.

    Returns:
        One tensor per quantity.

    Raises:
        InputError: it is neither, or does not give one number per example.
    """
    found = {"loss": answer} if not isinstance(answer, Mapping) else dict(answer)
    if "loss" not in found:
        msg = f"per_example returned a dict without 'loss'; it has {sorted(map(str, found))}"
        raise InputError(msg)
    for name, values in found.items():
        if not isinstance(values, Tensor):
            msg = (
                f"per_example returned a {type(values).__name__} for {name!r}; expected a tensor, "
                "one value per example"
            )
            raise InputError(msg)
        if not _NAME.fullmatch(str(name)) or name in _RESERVED or str(name).endswith(_SUFFIXES):
            msg = (
                f"invalid quantity name {name!r} in what per_example returned: use letters, digits "
                f"and _; reserved names are {', '.join(sorted(_RESERVED))} and what ends in "
                f"{', '.join(_SUFFIXES)}"
            )
            raise InputError(msg)
        if values.is_complex() or values.layout != torch.strided:
            msg = (
                f"per_example returned {values.dtype} ({values.layout}) for {name!r}; expected "
                "real, dense numbers"
            )
            raise InputError(msg)
        # a batch that may be one example, such as a bag or a graph, may have one loss
        several = batch.is_counted and batch.size > 1
        if values.ndim == 0 or (values.numel() == 1 and several):
            msg = (
                f"per_example returned one number for {name!r} and a batch of "
                f"{batch.size if several else 'any number of examples'}; expected one value per "
                "example. Give the torch loss reduction='none', or use ravine.supervised(loss). "
                "Where a batch is one example, such as a series, return shape (1,) and give its "
                "tensors a first axis of length 1."
            )
            raise InputError(msg)
    return {str(name): values.detach() for name, values in found.items()}
