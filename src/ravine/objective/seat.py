"""Seat: where a worker measures, with a replica, and examples kept between orders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.buffers import recomputed_statistics
from ravine.objective.engine import Block, blocks_of, measure_tile
from ravine.objective.forward import Forward, Points, Policies
from ravine.objective.measurement import Request, replica_of, undisturbed, values_between
from ravine.objective.members import Members
from ravine.objective.moments import Moments
from ravine.objective.stack import Stack
from ravine.objective.tiles import Done, Estimate, Order, Place, Tile
from ravine.objective.tuning import Plan, agree, installed

_WITHIN: Final = 1e-3  # of values on two machines
_WITHIN_NARROW: Final = 5e-2  # in half precision


@dataclass
class _Held:
    """A block whose batches are where the model is."""

    place: Place
    batches: list[Batch]


class Seat:
    """Measures orders of one request, in a worker.

    Args:
        request: with the worker's own objective.
    """

    def __init__(self, request: Request) -> None:
        setup = request.setup
        self._request = request
        self._splits = {split.name: split for split in setup.splits}
        with undisturbed(setup):
            self._replica, _ = replica_of(setup, request.spanned, request.dtype)
        self._policies = Policies(
            setup.dropout, setup.seed, setup.is_stateful, request.dtype, setup.device
        )
        self._forward: Forward | None = None
        self._plan: Plan | None = None
        self._stack: Stack | None = None
        self._reading: _Reading | None = None
        self._held: _Held | None = None

    @property
    def threads(self) -> int:
        """Of torch."""
        return self._request.threads

    def measured(self, order: Order) -> Done:
        """Measure an order.

        Raises:
            InputError: the examples, or their values, are not the caller's; or they
                cannot be measured.
        """
        began = time.perf_counter()
        with undisturbed(self._request.setup):
            forward = self._ready(order)
            forward.visit(order.points)
            running, tiles = order.running, []
            for place in order.places:
                tiles.append(self._tile(order, forward, place, running))
                running += tiles[-1].told.examples
        return Done(tiles, time.perf_counter() - began)

    def estimated(self, estimate: Estimate) -> Done:
        """Estimate running statistics anew, by a replica that has been nowhere else.

        Raises:
            InputError: as ``recomputed_statistics``.
        """
        began, request = time.perf_counter(), self._request
        setup, split = request.setup, self._splits[estimate.split]
        with undisturbed(setup):
            replica, _ = replica_of(setup, request.spanned, request.dtype)
            replica.resets = estimate.resets
            forward = Forward(
                replica, setup.per_example, self._policies, split.name, estimate.points
            )
            forward.copies = estimate.copies
            found = recomputed_statistics(forward, split, estimate.batch_size, lambda _: None)
        return Done((), time.perf_counter() - began, found)

    def _ready(self, order: Order) -> Forward:
        """Forward passes of the order's split, by its plan."""
        self._replica.resets = order.resets
        known = self._forward
        if known is not None and known.split == order.split and self._plan == order.plan:
            return known
        setup = self._request.setup
        corners = len(self._request.spanned)
        first = Points(
            [(1.0, *[0.0] * (corners - 1))],
            ["the middle of the corners"],
            None if order.first is None else [order.first],
        )
        forward = Forward(self._replica, setup.per_example, self._policies, order.split, first)
        self._require_same_values(forward, order)
        self._stack = installed(order.plan, forward)
        self._forward, self._plan = forward, order.plan
        self._held = self._reading = None
        return forward

    def _require_same_values(self, forward: Forward, order: Order) -> None:
        here = values_between(forward, self._splits[order.split], order.plan)
        narrow = min(torch.finfo(self._policies.dtype).bits, 32) < 32
        within = _WITHIN_NARROW if narrow else _WITHIN
        if not agree(torch.from_numpy(here), torch.from_numpy(order.values), within):
            msg = (
                "a worker's objective is not the caller's: the first losses of split "
                f"{order.split!r} in the middle of the corners are {_few(here)} there, and "
                f"{_few(order.values)} here. What builds the objective has to give the same one in "
                "every process: seed what is random in it, and set no globals that other processes "
                "do not have."
            )
            raise InputError(msg)

    def _tile(self, order: Order, forward: Forward, place: Place, running: int) -> Tile:
        held = self._batches(order, forward, place)
        setup = self._request.setup
        members = Members(setup.grouping, order.split, held, running)
        measured = partial(measure_tile, forward, held, members)
        chunks = order.plan.groups(len(order.points))
        tiles = [measured(chunk, self._stack, lambda _: None) for chunk in chunks]
        return Tile(Moments.joined_each(tiles), members.told, members.layout)

    def _batches(self, order: Order, forward: Forward, place: Place) -> list[Batch]:
        """A block's batches, placed: those at hand, if they are of that block."""
        if self._held is None or self._held.place != place:
            block = self._block(order, place)
            self._held = None  # so that two blocks need not be held at once
            self._held = _Held(place, [forward.placed(batch) for batch in block.batches])
            if forward.affine is not None:
                forward.affine.forget()
        return self._held.batches

    def _block(self, order: Order, place: Place) -> Block:
        setup = self._request.setup
        reading = self._reading
        if reading is None or reading.following != place.first:
            split = self._splits[order.split]
            batches, seen = split.read(
                order.plan.batch_size, strict=setup.check_data, first=place.first
            )
            reading = _Reading(blocks_of(split, batches, seen, setup.device), place.first)
            self._reading = reading
        block = reading.next()
        if block is None or block.own != place.digest:
            self._reading = None
            msg = (
                f"split {order.split!r} gave a worker other examples than the caller, at batch "
                f"{place.first}. What builds the data has to give the same examples in the same "
                "order in every process and on every pass: no shuffling, and a seed for what is "
                "random."
            )
            raise InputError(msg)
        return block


class _Reading:
    """A pass over a split, from some batch on."""

    def __init__(self, blocks: Iterator[Block], first: int) -> None:
        self._blocks = blocks
        #: number of the batch that comes next; None where there is none
        self.following: int | None = first

    def next(self) -> Block | None:
        """The next block; None at the end."""
        block = next(self._blocks, None)
        self.following = None if block is None else block.batches[-1].number + 1
        return block


def _few(values: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values[:3].tolist()) or "none"
