"""The engine: one pass over the data, all points inside.

A block of batches is read once; for every point the private copy of the model is moved there (its
parameters are overwritten in place) and the block is run through it. A group of points on a block of
examples is a tile; tiles are cut by the plan and merged in their order, so that the same plan gives
the same bits, whoever computes which tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.data import Split
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.forward import Forward, joined
from ravine.objective.moments import Moments, halves_of, numbers_of_values
from ravine.objective.stack import Stack
from ravine.objective.tuning import BLOCK_EXAMPLES, Plan, installed

_BLOCK_BYTES: Final = 256 << 20

_T = TypeVar("_T")


def measure_split(
    forward: Forward, split: Split, plan: Plan, tick: Callable[[int], None]
) -> tuple[dict[str, Moments], Fingerprint]:
    """Read a split once and measure every point on it.

    Args:
        forward: for the split.
        split: where the examples come from.
        plan: how to go about it.
        tick: told how many examples × points have been done since it was last told.

    Returns:
        The moments of each quantity at every point, and the fingerprint of the examples.
    """
    stack = installed(plan, forward)
    groups = plan.groups(len(forward.points))
    merged: list[dict[str, Moments]] = [{} for _ in groups]
    fingerprint = Fingerprint()
    blocks = blocks_of(split, plan.batch_size)
    # masks are drawn from the global generators, which a reader must not touch meanwhile
    ahead = split.worth_reading_ahead and forward.policies.dropout == "off"
    for block in _read_ahead(blocks) if ahead else blocks:
        for batch in block:
            fingerprint.add(batch.content)
        held = [forward.placed(batch) for batch in block]
        if forward.affine is not None:
            forward.affine.forget()
        halves = _Halves(held)
        tiles = [measure_tile(forward, held, halves, group, stack, tick) for group in groups]
        _require_equal(tiles, groups, forward.points.labels)
        merged = [_merged(before, tile) for before, tile in zip(merged, tiles, strict=True)]
    quantities = {name: Moments.joined([group[name] for group in merged]) for name in merged[0]}
    return quantities, fingerprint


def blocks_of(split: Split, batch_size: int) -> Iterator[list[Batch]]:
    """The split's batches in runs that are worth moving the model for.

    Args:
        split: where the examples come from.
        batch_size: examples per forward pass, where the batches are made here.

    Yields:
        One block at a time, in the split's order.
    """
    block: list[Batch] = []
    examples = size = 0
    for batch in split.batches(batch_size):
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
    halves: _Halves,
    points: range,
    stack: Stack | None,
    tick: Callable[[int], None],
) -> dict[str, Moments]:
    """Measure a group of points on a block of examples.

    Args:
        forward: for the split.
        held: the block's batches, placed.
        halves: of the block.
        points: their numbers.
        stack: the model at several points at once, if it is to be used.
        tick: as in ``measure_split``.

    Returns:
        The moments of each quantity.

    Raises:
        InputError: the caller's function gave other values at some of the points.
    """
    examples = sum(batch.size for batch in held)
    rows: list[dict[str, Tensor]] = []
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for point, found in zip(points, _by_point(forward, held, points, stack), strict=True):
        row = joined(found)
        if not rows:
            shapes = {name: [tuple(batch[name].shape) for batch in found] for name in row}
        else:
            labels = forward.points.labels
            _require_same(_counts(rows[0]), _counts(row), labels[points[0]], labels[point])
        rows.append(row)
        tick(examples)
    return {
        name: Moments.of(torch.stack([row[name] for row in rows]).numpy(), halves.of(shapes[name]))
        for name in rows[0]
    }


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


class _Halves:
    """Which random halves the values of a block belong to, worked out once for all points."""

    def __init__(self, held: Sequence[Batch]) -> None:
        self._examples = [batch.examples for batch in held]
        self._known: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}

    def of(self, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
        """(values, replicates) for a quantity that came in these shapes, batch by batch."""
        key = tuple(shapes)
        if key not in self._known:
            parts = map(numbers_of_values, self._examples, shapes)
            self._known[key] = halves_of(np.concatenate(list(parts)))
        return self._known[key]


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


def _counts(row: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: len(values) for name, values in row.items()}


def _require_equal(
    tiles: Sequence[Mapping[str, Moments]], groups: Sequence[range], labels: Sequence[str]
) -> None:
    counts = [{name: moments.count for name, moments in tile.items()} for tile in tiles]
    for group, found in zip(groups, counts, strict=True):
        _require_same(counts[0], found, labels[0], labels[group[0]])


def _require_same(one: dict[str, int], other: dict[str, int], at: str, there: str) -> None:
    if one != other:
        msg = (
            f"per_example gave {one} values at {at} and {other} at {there}, for the same examples; "
            "a mean over examples needs the same ones at every point"
        )
        raise InputError(msg)


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
