"""Tiles: the sums of some points over one block of examples, and who keeps or computes them.

A measurement knows a store and a crew of workers by the protocols here, and nothing of
files or processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ravine.objective.forward import Points
from ravine.objective.moments import Moments
from ravine.objective.tuning import Plan

#: Quantity → its sums at one point (or several), over one block.
Sums = Mapping[str, Moments]


@dataclass(frozen=True)
class Told:
    """What only the values of a block tell about its examples.

    Attributes:
        sizes: examples in its batches.
        examples: how many numbers of a stream it takes up.
        clusters: the numbers of its clusters.
    """

    sizes: frozenset[int]
    examples: int
    clusters: frozenset[int] = frozenset()


class Shelf(Protocol):
    """The finished tiles of one split."""

    def take(self, block: str, points: Sequence[int]) -> tuple[Told, dict[int, Sums]] | None:
        """What is known of some points on a block; None where nothing is."""
        ...

    def put(self, block: str, told: Told, points: Sequence[int], tile: Sums) -> None:
        """Keep a tile that was measured just now."""
        ...


class Keeper(Protocol):
    """A store, as one measurement sees it."""

    def plan(self, split: str, make: Callable[[], Plan]) -> Plan:
        """The plan that a measurement with these corners was first made by, or a new one."""
        ...

    def unseen(self, split: str) -> Sequence[tuple[int, ...]]:
        """Sets of corners that points lie between, and of which no values have been seen yet."""
        ...

    def see(self, split: str, support: tuple[int, ...], values: bytes) -> None:
        """Take note of the values of a few examples, at some corners and between them."""
        ...

    def shelf(self, split: str) -> Shelf:
        """The finished tiles of a split."""
        ...


@dataclass(frozen=True)
class Place:
    """A block, as a worker finds it again.

    Attributes:
        first: number of its first batch.
        digest: of its examples, in their order, and of their numbers.
    """

    first: int
    digest: str


@dataclass(frozen=True)
class Order:
    """Some points on some blocks, which a worker measures.

    Attributes:
        split: the examples' split.
        plan: how it is measured.
        resets: whether what a forward pass leaves in plain attributes is taken away at every move.
        values: the losses of the split's first examples between the corners, by which a worker's
            objective is known to be the caller's.
        first: running statistics at the first point of all, if they were recomputed; with these
            the values are.
        running: how many examples of a stream come before.
        places: the blocks, one after the other.
        points: to measure.
    """

    split: str
    plan: Plan
    resets: bool
    values: np.ndarray
    first: Mapping[str, Tensor] | None
    running: int
    places: tuple[Place, ...]
    points: Points


@dataclass(frozen=True)
class Estimate:
    """Running statistics at some points, which a worker estimates anew.

    Attributes:
        split: that they are estimated from.
        batch_size: examples in a batch, where batches are made here.
        copies: whether the caller's function writes to its batch.
        resets: as in ``Order``.
        points: where.
    """

    split: str
    batch_size: int
    copies: bool
    resets: bool
    points: Points


@dataclass(frozen=True)
class Tile:
    """What a worker measured on one block.

    Attributes:
        sums: quantity → its sums at the points of the order.
        told: what the block's values told about its examples.
        layout: a hash of where there are values, which has to be the same at all points.
    """

    sums: Sums
    told: Told
    layout: str


@dataclass(frozen=True)
class Done:
    """A finished order, or estimate.

    Attributes:
        tiles: for each of its blocks.
        seconds: that it took a worker.
        statistics: of an estimate, what it gave.
    """

    tiles: Sequence[Tile]
    seconds: float
    statistics: Any = None


class Desk(Protocol):
    """Workers, as one measurement sees them."""

    #: split → seconds for a point and an example, as far as is known
    paces: dict[str, float]

    @property
    def count(self) -> int:
        """How many workers there are, as far as is known."""
        ...

    @property
    def seconds(self) -> float:
        """How long an order should take."""
        ...

    @property
    def starts_anew(self) -> bool:
        """Whether every order finds a new worker, so that few long ones are best."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether workers would have to wait for more orders."""
        ...

    def submit(self, number: int, order: Order | Estimate) -> None:
        """Hand in an order under a number of the caller's choice."""
        ...

    def finished(self, *, wait: bool) -> Sequence[tuple[int, Done]]:
        """What was finished since it was last asked; at least one order, if it waits."""
        ...


def support_of(coefficients: Sequence[float]) -> tuple[int, ...]:
    """The corners that a point is made of.

    Examples:
        >>> support_of((0.5, 0.0, 0.5))
        (0, 2)
    """
    return tuple(i for i, share in enumerate(coefficients) if share)
