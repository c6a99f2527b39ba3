"""Tiles: the sums of some points over one block of examples, and what a store of finished ones offers.

A measurement knows a store by the two protocols here, and nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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


def support_of(coefficients: Sequence[float]) -> tuple[int, ...]:
    """The corners that a point is made of.

    Examples:
        >>> support_of((0.5, 0.0, 0.5))
        (0, 2)
    """
    return tuple(i for i, share in enumerate(coefficients) if share)
