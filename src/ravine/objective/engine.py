"""The engine: one pass over the data, all points inside.

A block of batches is read once; for every point the private copy of the model is moved there (its
parameters are overwritten in place) and the block is run through it. A group of points on a block
of examples is a tile; tiles are cut by the plan and merged in their order, so that the same plan
gives the same bits, whoever computes which tile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.data import Split
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.forward import Forward, joined
from ravine.objective.grouping import Grouping
from ravine.objective.members import SUMMED_ON, Members
from ravine.objective.moments import Moments
from ravine.objective.stack import Stack
from ravine.objective.tiles import Shelf, Sums, Told
from ravine.objective.tuning import BLOCK_EXAMPLES, Plan, installed, widened

#: Of the batches that a block holds; tensors at hand take no more memory for being in one.
_BLOCK_BYTES: Final = 256 << 20

_T = TypeVar("_T")


@dataclass(frozen=True)
class SplitSums:
    """What a pass over a split gave.

    Attributes:
        moments: quantity → its sums at every point.
        fingerprint: what the examples were.
        units: how many independent draws they are: values, or clusters of them.
        batch: examples in the largest batch.
    """

    moments: dict[str, Moments]
    fingerprint: Fingerprint
    units: int
    batch: int


def measure_split(
    forward: Forward,
    split: Split,
    plan: Plan,
    grouping: Grouping,
    tick: Callable[[int], None],
    *,
    check_data: bool = True,
    shelf: Shelf | None = None,
) -> SplitSums:
    """Read a split once and measure every point on it.

    Args:
        forward: for the split.
        split: where the examples come from.
        plan: how to go about it.
        grouping: which values belong together.
        tick: told how many examples × points have been done since it was last told.
        check_data: whether examples whose content cannot be read are an error.
        shelf: finished tiles, which are not measured again.

    Returns:
        The moments of each quantity at every point, and what the examples were.
    """
    stack = installed(plan, forward)
    groups = plan.groups(len(forward.points))
    sums: list[dict[str, Moments]] = [{} for _ in groups]
    clusters: set[int] = set()
    sizes: set[int] = set()
    running = 0
    batches, fingerprint = split.read(plan.batch_size, strict=check_data)
    device = forward.policies.device
    blocks = blocks_of(split, batches, fingerprint, device)
    # masks are drawn from the global generators, which a reader must not touch meanwhile
    ahead = split.worth_reading_ahead and forward.policies.dropout == "off"
    for block in _read_ahead(blocks) if ahead else blocks:
        fresh = partial(Members, grouping, split.name, block.batches, running)
        bench = _Bench(forward, block, fresh, stack, tick)
        tiles = [bench.tile(group, shelf) for group in groups]
        told = bench.told
        clusters |= told.clusters
        sizes |= told.sizes
        running += told.examples
        sums = [merged(before, tile) for before, tile in zip(sums, tiles, strict=True)]
    moments = Moments.joined_each(sums)
    told = Told(frozenset(sizes), running, frozenset(clusters))
    return split_sums(split, grouping, moments, fingerprint, told)


def split_sums(
    split: Split,
    grouping: Grouping,
    moments: dict[str, Moments],
    fingerprint: Fingerprint,
    told: Told,
) -> SplitSums:
    """What a pass gave, once it is over.

    Args:
        split: where the examples came from.
        grouping: which values belong together.
        moments: of each quantity at every point.
        fingerprint: of the examples.
        told: what the values of all blocks told about their examples.

    Raises:
        InputError: there are ids for other examples than there were.
    """
    if not split.count:
        grouping.require_all_used(split.name, told.examples)
    values = moments["loss"].count if moments else 0
    units = values if grouping.clusters is None else len(told.clusters)
    return SplitSums(moments, fingerprint, units, max(told.sizes, default=0))


@dataclass(frozen=True)
class Block:
    """Some batches of a split, one after the other.

    Attributes:
        batches: in the split's order.
        digest: of all examples up to its end, in their order, and of their numbers.
        own: of its own examples, in their order, and of their numbers.
    """

    batches: list[Batch]
    digest: str
    own: str = ""

    @property
    def examples(self) -> int:
        """How many examples it holds, as far as can be told from it."""
        return sum(batch.size for batch in self.batches)


class _Bench:
    """A block: one group of points after the other is measured on it, or found to be finished."""

    def __init__(
        self,
        forward: Forward,
        block: Block,
        members: Callable[[], Members],
        stack: Stack | None,
        tick: Callable[[int], None],
    ) -> None:
        self._forward = forward
        self._block = block
        self._new_members = members
        self._members = members()
        self._stack = stack
        self._tick = tick
        self._held: list[Batch] = []
        self._told: Told | None = None

    @property
    def told(self) -> Told:
        """What the block's values tell about its examples."""
        assert self._told is not None  # there is a point
        return self._told

    def tile(self, group: range, shelf: Shelf | None) -> dict[str, Moments]:
        """The sums of a group of points, of which some may be on the shelf."""
        if shelf is None:
            return self._measured(group)
        known: dict[int, Sums] = {}
        kept = shelf.take(self._block.digest, group)
        if kept is not None:
            self._told, known = kept
        missing = [point for point in group if point not in known]
        if not missing:
            self._tick(len(group) * self._block.examples)
            return in_order(group, known)
        fresh = self._measured(missing)
        rows = {point: row_of(fresh, place) for place, point in enumerate(missing)}
        if known and counts_of(known) != counts_of(rows):
            # which values there are is decided by all points together
            self._held, self._members, missing = [], self._new_members(), list(group)
            known, fresh = {}, self._measured(group)
        shelf.put(self._block.digest, self.told, missing, fresh)
        return in_order(group, known | rows) if known else fresh

    def _measured(self, points: Sequence[int]) -> dict[str, Moments]:
        forward = self._forward
        if not self._held:
            self._held = [forward.placed(batch) for batch in self._block.batches]
            self._members.place(self._held)
            if forward.affine is not None:
                forward.affine.forget()
        tile = measure_tile(forward, self._held, self._members, points, self._stack, self._tick)
        self._told = self._members.told
        return tile


def row_of(tile: Sums, place: int) -> dict[str, Moments]:
    """One point of a tile."""
    return {name: moments.at(np.array([place])) for name, moments in tile.items()}


def counts_of(rows: Mapping[int, Sums]) -> set[tuple[tuple[str, int], ...]]:
    """How many values of each quantity there are at each point: one outcome, if all is well."""
    return {_counts(row) for row in rows.values()}


def _counts(row: Sums) -> tuple[tuple[str, int], ...]:
    return tuple((name, moments.count) for name, moments in row.items())


def in_order(group: Sequence[int], rows: Mapping[int, Sums]) -> dict[str, Moments]:
    """One tile of rows that were kept one by one."""
    return Moments.joined_each([rows[point] for point in group])


def blocks_of(
    split: Split,
    batches: Iterator[Batch],
    seen: Fingerprint | None = None,
    device: torch.device | None = None,
) -> Iterator[Block]:
    """The split's batches in runs that are worth moving the model for.

    Args:
        split: where the examples come from.
        batches: of it.
        seen: the fingerprint that grows with them; without it, blocks have no digest.
        device: that they are computed on, by default a CPU; a GPU takes more at a time.

    Yields:
        One block at a time, in the split's order.
    """
    numbers = hashlib.blake2b(digest_size=16)
    enough = widened(BLOCK_EXAMPLES, device or torch.device("cpu"))
    own_numbers = hashlib.blake2b(digest_size=16)
    block: list[Batch] = []
    examples = size = 0

    def cut() -> Block:
        if seen is None:
            return Block(block, "")
        whole = f"{seen.in_order}{numbers.hexdigest()}"
        return Block(block, whole, f"{seen.cut()}{own_numbers.hexdigest()}")

    for batch in batches:
        block.append(batch)
        examples += batch.size
        size += 0 if split.tensors is not None else batch.nbytes
        if seen is not None:
            # under other numbers the same examples belong to other replicates
            own = repr(batch.item).encode() if batch.examples is None else batch.examples.tobytes()
            numbers.update(own)
            own_numbers.update(own)
        if examples >= enough or size >= _BLOCK_BYTES:
            yield cut()
            block, examples, size = [], 0, 0
            own_numbers = hashlib.blake2b(digest_size=16)
    if block:
        yield cut()


def measure_tile(
    forward: Forward,
    held: Sequence[Batch],
    members: Members,
    points: Sequence[int],
    stack: Stack | None,
    tick: Callable[[int], None],
) -> dict[str, Moments]:
    """Measure a group of points on a block of examples.

    Args:
        forward: for the split.
        held: the block's batches, placed.
        members: where the block's values belong.
        points: their numbers.
        stack: the model at several points at once, if it is to be used.
        tick: as in ``measure_split``.

    Returns:
        The moments of each quantity.

    Raises:
        InputError: the caller's function gave other values at some of the points.
    """
    examples = sum(batch.size for batch in held)
    labels = forward.points.labels
    own = forward.policies.device
    device = own if own.type in SUMMED_ON else "cpu"
    rows: list[dict[str, Tensor]] = []
    for point, found in zip(points, _by_point(forward, held, points, stack), strict=True):
        ids = members.grouping.taken(found)
        members.learn(found, ids, labels[point])
        rows.append(joined(found, device))
        tick(examples)
    return {name: members.moments(name, [row[name] for row in rows]) for name in rows[0]}


def _by_point(
    forward: Forward, held: Sequence[Batch], points: Sequence[int], stack: Stack | None
) -> Iterator[list[dict[str, Tensor]]]:
    """The quantities of every batch, point after point."""
    if stack is None:
        for point in points:
            forward.stand_at(point)
            yield [forward.quantities(batch, point) for batch in held]
        return
    for first in range(0, len(points), stack.at_once):
        together = points[first : first + stack.at_once]
        by_batch = [stack.quantities(forward, batch, together) for batch in held]
        yield from (list(at_point) for at_point in zip(*by_batch, strict=True))


def merged(before: Mapping[str, Moments], tile: dict[str, Moments]) -> dict[str, Moments]:
    """The moments of some blocks and of one more.

    Raises:
        InputError: it has other quantities.
    """
    if not before:
        return tile
    if before.keys() != tile.keys():
        msg = (
            f"per_example gave {sorted(before)} and then {sorted(tile)}; expected the same "
            "quantities"
        )
        raise InputError(msg)
    return {name: before[name].merged(moments) for name, moments in tile.items()}


def _read_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, the next one read in a thread while the caller works on this one."""
    done: Any = object()
    with ThreadPoolExecutor(1, "ravine-reader") as reader:
        following = reader.submit(next, items, done)
        while True:
            try:
                item = following.result()
            except Exception as problem:
                problem.add_note(
                    "raised while reading ahead in a thread; a DataLoader with workers reads "
                    "without one"
                )
                raise
            if item is done:
                return
            following = reader.submit(next, items, done)
            yield item
