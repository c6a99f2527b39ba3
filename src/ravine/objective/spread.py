"""Spread: one pass over a split whose tiles are computed by workers, with the bits of one process.

The caller reads the split, cuts it into blocks as the engine does, and
hands out orders: points of one stretch of blocks. What comes back is put in
order and merged block by block, as the engine merges it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ravine.objective.buffers import Recomputed, other_shapes
from ravine.objective.data import Split
from ravine.objective.engine import (
    Block,
    SplitSums,
    blocks_of,
    counts_of,
    in_order,
    merged,
    row_of,
    split_sums,
)
from ravine.objective.forward import Forward
from ravine.objective.grouping import Grouping
from ravine.objective.moments import Moments
from ravine.objective.tiles import (
    Desk,
    Done,
    Estimate,
    Order,
    Place,
    Shelf,
    Sums,
    Tile,
    Told,
)
from ravine.objective.tuning import BLOCK_EXAMPLES, Plan, installed, widened

_EACH: Final = 4  # orders for every worker, at least: so that all are done at about the same time
_SHORTEST: Final = 0.05  # seconds of an order: handing it out takes a few milliseconds


@dataclass(frozen=True)
class Spreading:
    """How a split is shared out.

    Attributes:
        desk: of the workers.
        resets: as in ``Order``.
        values: as in ``Order``.
    """

    desk: Desk
    resets: bool
    values: np.ndarray


def spread_split(
    forward: Forward,
    split: Split,
    plan: Plan,
    grouping: Grouping,
    tick: Callable[[int], None],
    by: Spreading,
    *,
    check_data: bool = True,
    shelf: Shelf | None = None,
) -> SplitSums:
    """``engine.measure_split`` by workers.

    Args:
        forward: for the split; it is made ready, and not run.
        split: where the examples come from.
        plan: how the workers go about it.
        grouping: which values belong together.
        tick: told how many examples × points have been done since it was last told.
        by: whom.
        check_data: whether examples whose content cannot be read are an error.
        shelf: finished tiles, which are not measured again.

    Returns:
        The same numbers, bit for bit.

    Raises:
        InputError: a worker's data or objective is not the caller's.
    """
    installed(plan, forward)  # what looks at the next split finds the replica as after a pass
    batches, fingerprint = split.read(plan.batch_size, strict=check_data)
    table = _Table(forward, plan, by, tick, shelf, len(split))
    for stretch in _stretches(
        blocks_of(split, batches, fingerprint, forward.policies.device), table
    ):
        table.lay(stretch)
    moments, told = table.cleared()
    return split_sums(split, grouping, moments, fingerprint, told)


def spread_statistics(
    forward: Forward, split: Split, batch_size: int, tick: Callable[[int], None], desk: Desk
) -> Recomputed:
    """``buffers.recomputed_statistics`` by workers: each takes some points.

    Args:
        forward: for the split; it is not run.
        split: to estimate from.
        batch_size: examples per forward pass, where the batches are made here.
        tick: told how many examples × points have been done since it was last told.
        desk: of the workers.

    Returns:
        The same statistics, bit for bit.

    Raises:
        InputError: as there.
    """
    points = forward.points
    step = -(-len(points) // (_EACH * desk.count))
    groups = [range(i, min(i + step, len(points))) for i in range(0, len(points), step)]
    waiting = deque(enumerate(groups))
    found: dict[int, Recomputed] = {}
    while len(found) < len(groups):
        while waiting and desk.has_room:
            number, group = waiting.popleft()
            resets = forward.replica.resets
            some = points.some(group)
            desk.submit(number, Estimate(split.name, batch_size, forward.copies, resets, some))
        for number, done in desk.finished(wait=True):
            found[number] = done.statistics
            tick(len(split) * len(groups[number]))
    parts = [found[number] for number in range(len(groups))]
    for part, group in zip(parts, groups, strict=True):
        if (part.used, part.left_out, part.sizes) != (
            parts[0].used,
            parts[0].left_out,
            parts[0].sizes,
        ):
            raise other_shapes(points.labels[group[0]])
    statistics = [one for part in parts for one in part.statistics]
    return replace(parts[0], statistics=statistics)


def _stretches(blocks: Iterator[Block], table: _Table) -> Iterator[list[_Seen]]:
    """Blocks that one worker measures together.

    One, unless a state is carried or starting a worker takes long.
    """
    stretch: list[_Seen] = []
    for block in blocks:
        stretch.append(_Seen.of(block))
        if table.is_enough(stretch):
            yield stretch
            stretch = []
    if stretch:
        yield stretch


@dataclass(frozen=True)
class _Seen:
    """A block without its examples.

    Attributes:
        first: number of its first batch.
        digest: as in ``Block``.
        own: likewise.
        examples: how many.
        is_numbered: whether its examples' numbers are the source's own, and not a matter of
            what came before.
    """

    first: int
    digest: str
    own: str
    examples: int
    is_numbered: bool

    @classmethod
    def of(cls, block: Block) -> _Seen:
        """What is to be remembered of a block."""
        numbered = all(b.examples is not None or b.item is not None for b in block.batches)
        first = block.batches[0].number
        return cls(first, block.digest, block.own, block.examples, numbered)


@dataclass
class _Piece:
    """Points on a stretch, that are with a worker or back.

    Attributes:
        points: their numbers.
        done: what came back.
    """

    points: Sequence[int]
    done: Done | None = None


@dataclass
class _Stretch:
    """Blocks that are measured together.

    Attributes:
        blocks: in their order.
        running: how many examples of a stream come before, as far as is known.
        known: for each block, the points that were on the shelf.
        told: for each block, what the shelf told.
        pieces: numbers of orders, for the others.
    """

    blocks: Sequence[_Seen]
    running: int
    known: list[dict[int, Sums]]
    told: list[Told | None]
    pieces: list[int] = field(default_factory=list)

    @property
    def examples(self) -> int:
        return sum(block.examples for block in self.blocks)

    @property
    def is_numbered(self) -> bool:
        return all(block.is_numbered for block in self.blocks)

    @property
    def places(self) -> tuple[Place, ...]:
        """Its blocks, as workers find them."""
        return tuple(Place(block.first, block.own) for block in self.blocks)


class _Table:
    """The stretches of one split, from when they are read to when they are merged."""

    def __init__(
        self,
        forward: Forward,
        plan: Plan,
        by: Spreading,
        tick: Callable[[int], None],
        shelf: Shelf | None,
        expected: int,
    ) -> None:
        self._forward = forward
        self._points = range(len(forward.points))
        self._plan = plan
        self._by = by
        self._desk = by.desk
        self._tick = tick
        self._shelf = shelf
        self._expected = expected  # examples; 0 where that is not known
        self._laid: deque[_Stretch] = deque()
        self._pieces: dict[int, tuple[_Stretch, _Piece]] = {}
        self._waiting: deque[int] = deque()
        self._orders = 0
        self._read = 0  # examples, as far as can be told from the batches
        self._moments: dict[str, Moments] = {}
        self._told = Told(frozenset(), 0)

    def is_enough(self, blocks: Sequence[_Seen]) -> bool:
        """Whether some blocks are as many as one worker should take."""
        if self._forward.policies.stateful:
            return False  # the whole split
        if not self._desk.starts_anew:
            return True
        points = min(self._plan.group, len(self._points))
        examples = sum(block.examples for block in blocks)
        whole = self._seconds(self._expected) * len(self._points)
        even = whole / self._desk.count if whole else self._desk.seconds
        return self._seconds(examples) * points >= min(even, self._desk.seconds)

    def lay(self, blocks: Sequence[_Seen]) -> None:
        """Hand out what is not known of a stretch, and take in what has come back."""
        stretch = _Stretch(blocks, self._read, [], [])
        self._read += stretch.examples
        for block in blocks:
            kept = None if self._shelf is None else self._shelf.take(block.digest, self._points)
            stretch.told.append(None if kept is None else kept[0])
            stretch.known.append({} if kept is None else kept[1])
        everywhere = set(self._points).intersection(*stretch.known)
        missing = [point for point in self._points if point not in everywhere]
        self._tick((len(self._points) - len(missing)) * stretch.examples)
        step = self._step(stretch.examples)
        for first in range(0, len(missing), step):
            self._queue(stretch, missing[first : first + step])
        self._laid.append(stretch)
        self._hand_out()

    def cleared(self) -> tuple[dict[str, Moments], Told]:
        """The moments of all stretches, once everything is back."""
        self._merge()
        while self._laid:
            self._hand_out()
            self._take_in(wait=True)
        return self._moments, self._told

    def _step(self, examples: int) -> int:
        """Points in an order: about a second's worth, and no more than the plan's tiles."""
        count, stateful = len(self._points), self._forward.policies.stateful
        blocks = (
            1
            if stateful
            else max(
                1,
                self._expected
                // max(examples, widened(BLOCK_EXAMPLES, self._forward.policies.device)),
            )
        )
        each_worker = 1 if self._desk.starts_anew else _EACH
        wanted = -(-count * blocks // (each_worker * self._desk.count))
        each = self._seconds(examples)
        if each and not stateful:
            wanted = max(wanted, int(_SHORTEST / each))
            wanted = min(wanted, max(1, int(self._desk.seconds / each)))
        together = self._plan.at_once
        return max(min(wanted, count, self._plan.group) // together * together, together)

    def _seconds(self, examples: int) -> float:
        """About how long a point takes on some examples; 0 where nothing is known of that."""
        return self._desk.paces.get(self._forward.split, 0.0) * examples

    def _queue(self, stretch: _Stretch, points: Sequence[int]) -> None:
        self._orders += 1
        stretch.pieces.append(self._orders)
        self._pieces[self._orders] = stretch, _Piece(points)
        self._waiting.append(self._orders)

    def _hand_out(self) -> None:
        """Give the workers what waits for them; and take in what they have done."""
        self._take_in(wait=False)
        while self._waiting:
            while not self._desk.has_room:
                self._take_in(wait=True)
            number = self._waiting.popleft()
            if number not in self._pieces:
                continue  # of a stretch that is measured anew
            stretch, piece = self._pieces[number]
            everywhere = self._forward.points.statistics
            order = Order(
                split=self._forward.split,
                plan=self._plan,
                resets=self._by.resets,
                values=self._by.values,
                first=None if everywhere is None else everywhere[0],
                running=stretch.running,
                places=stretch.places,
                points=self._forward.points.some(piece.points),
            )
            self._desk.submit(number, order)

    def _take_in(self, *, wait: bool) -> None:
        for number, done in self._desk.finished(wait=wait):
            if number not in self._pieces:
                continue
            stretch, piece = self._pieces[number]
            piece.done = done
            work = len(piece.points) * stretch.examples
            self._tick(work)
            self._desk.paces[self._forward.split] = done.seconds / max(work, 1)
            if stretch.is_numbered:
                self._keep(stretch, piece)
        self._merge()

    def _keep(self, stretch: _Stretch, piece: _Piece) -> None:
        if self._shelf is None or piece.done is None:
            return
        for block, tile in zip(stretch.blocks, piece.done.tiles, strict=True):
            self._shelf.put(block.digest, tile.told, piece.points, tile.sums)

    def _merge(self) -> None:
        """Merge the stretches that are whole, in their order."""
        while self._laid:
            stretch = self._laid[0]
            pieces = [self._pieces[number][1] for number in stretch.pieces]
            if any(piece.done is None for piece in pieces):
                return
            if pieces and not stretch.is_numbered and stretch.running != self._told.examples:
                self._again(stretch, [piece.points for piece in pieces])
                return
            for number in range(len(stretch.blocks)):
                if not _agree(stretch.known[number], [_tile(piece, number) for piece in pieces]):
                    # which values there are is decided by all points together
                    stretch.known = [{} for _ in stretch.blocks]
                    self._again(stretch, [self._points])
                    return
            self._laid.popleft()
            self._merge_whole(stretch, pieces)
            for number in stretch.pieces:
                del self._pieces[number]

    def _again(self, stretch: _Stretch, groups: Sequence[Sequence[int]]) -> None:
        """Measure a stretch anew, now that it is known what comes before it."""
        for number in stretch.pieces:
            _, piece = self._pieces.pop(number)
            if piece.done is not None:
                self._tick(-len(piece.points) * stretch.examples)
        stretch.pieces, stretch.running = [], self._told.examples
        for points in groups:
            self._queue(stretch, points)

    def _merge_whole(self, stretch: _Stretch, pieces: Sequence[_Piece]) -> None:
        for number, _ in enumerate(stretch.blocks):
            rows = dict(stretch.known[number])
            told = stretch.told[number]
            for piece in pieces:
                tile = _tile(piece, number)
                told = tile.told
                rows |= {p: row_of(tile.sums, place) for place, p in enumerate(piece.points)}
            assert told is not None  # there is a point
            self._moments = merged(self._moments, in_order(self._points, rows))
            self._told = Told(
                self._told.sizes | told.sizes,
                self._told.examples + told.examples,
                self._told.clusters | told.clusters,
            )
        if not stretch.is_numbered:
            for piece in pieces:
                self._keep(stretch, piece)


def _tile(piece: _Piece, number: int) -> Tile:
    assert piece.done is not None  # it is back
    return piece.done.tiles[number]


def _agree(known: dict[int, Sums], tiles: Sequence[Tile]) -> bool:
    """Whether there are the same values at all points of a block."""
    if len({tile.layout for tile in tiles}) > 1:
        return False
    counts = counts_of(known) | counts_of({-place: tile.sums for place, tile in enumerate(tiles)})
    return len(counts) <= 1
