"""The engine: one pass over the data, all points inside.

A block of batches is read once; for every point the private copy of the model is moved there (its
parameters are overwritten in place) and the block is run through it. A group of points on a block of
examples is a tile; tiles are cut by the plan and merged in their order, so that the same plan gives
the same bits, whoever computes which tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from torch import Tensor

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.data import Split
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.forward import Forward, joined
from ravine.objective.grouping import Grouping
from ravine.objective.members import Members
from ravine.objective.moments import Moments
from ravine.objective.stack import Stack
from ravine.objective.tuning import BLOCK_EXAMPLES, Plan, installed

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
) -> SplitSums:
    """Read a split once and measure every point on it.

    Args:
        forward: for the split.
        split: where the examples come from.
        plan: how to go about it.
        grouping: which values belong together.
        tick: told how many examples × points have been done since it was last told.
        check_data: whether examples whose content cannot be read are an error.

    Returns:
        The moments of each quantity at every point, and what the examples were.
    """
    stack = installed(plan, forward)
    groups = plan.groups(len(forward.points))
    merged: list[dict[str, Moments]] = [{} for _ in groups]
    clusters: set[int] = set()
    sizes: set[int] = set()
    running = 0
    batches, fingerprint = split.read(plan.batch_size, strict=check_data)
    blocks = blocks_of(split, batches)
    # masks are drawn from the global generators, which a reader must not touch meanwhile
    ahead = split.worth_reading_ahead and forward.policies.dropout == "off"
    for block in _read_ahead(blocks) if ahead else blocks:
        held = [forward.placed(batch) for batch in block]
        if forward.affine is not None:
            forward.affine.forget()
        members = Members(grouping, split.name, held, running)
        tiles = [measure_tile(forward, held, members, group, stack, tick) for group in groups]
        clusters |= members.clusters
        sizes |= members.sizes
        running = members.running
        merged = [_merged(before, tile) for before, tile in zip(merged, tiles, strict=True)]
    moments = {name: Moments.joined([group[name] for group in merged]) for name in merged[0]}
    if not split.count:
        grouping.require_all_used(split.name, running)
    values = moments["loss"].count if moments else 0
    units = values if grouping.clusters is None else len(clusters)
    return SplitSums(moments, fingerprint, units, max(sizes, default=0))


def blocks_of(split: Split, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
    """The split's batches in runs that are worth moving the model for.

    Args:
        split: where the examples come from.
        batches: of it.

    Yields:
        One block at a time, in the split's order.
    """
    block: list[Batch] = []
    examples = size = 0
    for batch in batches:
        block.append(batch)
        examples += batch.size
        size += 0 if split.tensors is not None else batch.nbytes
        if examples >= BLOCK_EXAMPLES or size >= _BLOCK_BYTES:
            yield block
            block, examples, size = [], 0, 0
    if block:
        yield block


def measure_tile(
    forward: Forward,
    held: Sequence[Batch],
    members: Members,
    points: range,
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
    rows: list[dict[str, Tensor]] = []
    for point, found in zip(points, _by_point(forward, held, points, stack), strict=True):
        ids = members.grouping.taken(found)
        members.learn(found, ids, labels[point])
        rows.append(joined(found))
        tick(examples)
    return {name: members.moments(name, [row[name] for row in rows]) for name in rows[0]}


def _by_point(
    forward: Forward, held: Sequence[Batch], points: range, stack: Stack | None
) -> Iterator[list[dict[str, Tensor]]]:
    """The quantities of every batch, point after point."""
    if stack is None:
        for point in points:
            forward.stand_at(point)
            yield [forward.quantities(batch, point) for batch in held]
        return
    for first in range(points.start, points.stop, stack.at_once):
        together = range(first, min(first + stack.at_once, points.stop))
        by_batch = [stack.quantities(forward, batch, together) for batch in held]
        yield from (list(at_point) for at_point in zip(*by_batch, strict=True))


def _merged(before: Mapping[str, Moments], tile: dict[str, Moments]) -> dict[str, Moments]:
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
                    "raised while reading ahead in a thread; a DataLoader with workers reads without one"
                )
                raise
            if item is done:
                return
            following = reader.submit(next, items, done)
            yield item
