"""Members: which example, cluster and stratum each value of a block has, learnt from the values.

How many examples a batch has is not always written on it: a graph, a bag, a
packed row. So it is read off the losses that the caller's function returns,
at the first point, and has to be the same at every other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.grouping import Grouping
from ravine.objective.moments import Membership, Moments
from ravine.objective.tiles import Told

_ITEM_SHIFT: Final = 20  # an item that is a batch of its own has room for 2²⁰ examples' numbers

#: Where values are summed on the device that computed them. Not every device has float64.
SUMMED_ON = {"cuda"}

_Shapes = list[tuple[int, ...]]


class Members:
    """Where the values of a block belong, worked out once for all points.

    Args:
        grouping: which values belong together.
        split: the examples' split.
        held: the block's batches.
        running: how many examples of a stream came before.
    """

    def __init__(
        self, grouping: Grouping, split: str, held: Sequence[Batch], running: int = 0
    ) -> None:
        self.grouping = grouping
        self.clusters: frozenset[int] = frozenset()
        #: how many examples of a stream there were up to the end of the block
        self.running = running
        #: examples in the block's batches
        self.sizes: frozenset[int] = frozenset()
        self._before = running
        self._split = split
        self._held = held
        self._first = ""
        self._shapes: dict[str, _Shapes] = {}
        self._ids: list[dict[str, Tensor]] = []
        #: for each batch, its examples' own numbers
        self.examples: list[np.ndarray] = []
        self._holes: dict[str, np.ndarray] = {}
        self._known: dict[tuple[tuple[tuple[int, ...], ...], bytes], Membership] = {}

    def place(self, held: Sequence[Batch]) -> None:
        """Take note of the batches where they were placed."""
        self._held = held

    @property
    def layout(self) -> str:
        """A hash of where there are values; another one at another point means a mistake."""
        digest = hashlib.blake2b(repr(self._shapes).encode(), digest_size=16)
        for name, holes in sorted(self._holes.items()):
            digest.update(name.encode())
            digest.update(np.packbits(holes).tobytes())
        return digest.hexdigest()

    @property
    def told(self) -> Told:
        """What the block's values told about its examples."""
        return Told(self.sizes, self.running - self._before, self.clusters)

    def learn(
        self, found: Sequence[Mapping[str, Tensor]], ids: list[dict[str, Tensor]], label: str
    ) -> None:
        """Take note of what came back at a point.

        Args:
            found: quantity → values, batch by batch.
            ids: entry → ids, likewise.
            label: of the point.

        Raises:
            InputError: it is not what came back at the first point.
        """
        shapes = {name: [tuple(batch[name].shape) for batch in found] for name in found[0]}
        if not self._shapes:
            self._shapes, self._ids, self._first = shapes, ids, label
            self._number(shapes["loss"])
        elif shapes != self._shapes:
            msg = (
                f"per_example gave {_counts(self._shapes)} values at {self._first} and "
                f"{_counts(shapes)} at {label}, for the same examples; a mean over examples needs "
                "the same ones at every point"
            )
            raise InputError(msg)

    def moments(self, name: str, rows: Sequence[Tensor]) -> Moments:
        """The moments of a quantity.

        Args:
            name: of the quantity.
            rows: its values at each point of a tile, flat.

        Raises:
            InputError: there is a value where there was none at the points before.
        """
        together = torch.stack(list(rows))
        if together.device.type in SUMMED_ON and not self._has_rows(name):
            return Moments.of_tensor(together, self._membership(name, None))
        values = together.cpu().numpy()
        holes = self._holes_of(name, values)
        if holes is not None:
            values = np.ascontiguousarray(values[:, ~holes])  # so that a point's sums are its own
        return Moments.of(values, self._membership(name, holes))

    def _has_rows(self, name: str) -> bool:
        """Whether an example has several values, of which some may be missing."""
        return any(len(shape) > 1 for shape in self._shapes[name])

    def _holes_of(self, name: str, values: np.ndarray) -> np.ndarray | None:
        """(values,) where rows have no value: NaN at every point. None if values have no rows."""
        if not self._has_rows(name):
            return None
        if name not in self._holes:
            self._holes[name] = np.logical_and.reduce(np.isnan(values), axis=0)
        holes = self._holes[name]
        if holes.any() and not np.isnan(values[:, holes]).all():
            msg = (
                f"per_example gave NaN for {name!r} at every point from {self._first} on, and "
                "numbers at later ones, in the same places: is it not finite there, or are there "
                "other holes? NaN in (rows, positions) means that there is no value at any point."
            )
            raise InputError(msg)
        return holes if holes.any() else None

    def _membership(self, name: str, holes: np.ndarray | None) -> Membership:
        shapes = self._shapes[name]
        key = tuple(shapes), b"" if holes is None else np.packbits(holes).tobytes()
        if key not in self._known:
            found, clusters = self.grouping.membership(
                self._split,
                self._held,
                self.examples,
                list(zip(shapes, self._ids, strict=True)),
                None if holes is None else ~holes,
            )
            self._known[key] = found
            self.clusters |= clusters
        return self._known[key]

    def _number(self, shapes: _Shapes) -> None:
        """The examples' numbers: their own where the source says them, else as they come."""
        for batch, shape in zip(self._held, shapes, strict=True):
            if batch.examples is not None:
                numbers = batch.examples
            elif batch.item is not None:
                rows = np.arange(shape[0])
                numbers = (
                    batch.item + rows if len(rows) == 1 else (batch.item << _ITEM_SHIFT) + rows
                )
            else:
                numbers = np.arange(self.running, self.running + shape[0])
            self.running += len(numbers)
            self.examples.append(numbers)
        self.sizes = frozenset(
            batch.size if batch.is_counted else len(numbers)
            for batch, numbers in zip(self._held, self.examples, strict=True)
        )


def _counts(shapes: Mapping[str, _Shapes]) -> dict[str, int]:
    return {name: sum(map(math.prod, given)) for name, given in shapes.items()}
