"""Matching: the order of units in which two networks are most alike.

Every pair of tensors falls into blocks whose axes are sets of units. The sum over
all blocks of the inner product of a's with b's permuted one is raised, one set of
units at a time, each by a linear assignment (Ainsworth et al. 2022, weight
matching). For weights, a larger sum is a smaller distance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ravine.alignment.structure import Units

_SWEEPS = 100  # at most; the ascent ends when no set gains more than rounding
_ROUNDING = 1e-7  # of sums in float32: a smaller gain is none

#: Set of units → (its outer sets' sizes …, its size): which of b's units comes to each place.
Orders = dict[int, Tensor]


@dataclass(frozen=True)
class Pair:
    """A block of both networks.

    Attributes:
        a: the one that stays as it is.
        b: the one whose units are to be permuted.
        sets: the number of the set of units along each axis; −1 for none.
    """

    a: Tensor
    b: Tensor
    sets: tuple[int, ...]


def unpermuted(units: Sequence[Units]) -> Orders:
    """Every unit in its own place."""
    return {
        number: torch.arange(one.size).expand(*_outer_sizes(units, one), one.size).clone()
        for number, one in enumerate(units)
        if one.is_free
    }


def shuffled(units: Sequence[Units], seed: int) -> Orders:
    """Units in a random order: an element of the symmetries that a structure has.

    Args:
        units: every set.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        number: torch.rand(order.shape, generator=generator).argsort(-1)
        for number, order in unpermuted(units).items()
    }


def _outer_sizes(units: Sequence[Units], one: Units) -> list[int]:
    return [units[number].size for number in one.outer]


def permuted(
    block: Tensor, sets: Sequence[int], units: Sequence[Units], orders: Orders, *, but: int = -1
) -> Tensor:
    """A block with its units in another order.

    Args:
        block: one.
        sets: along its axes.
        units: every set.
        orders: of each.
        but: an axis to leave as it is, with what is inside it.
    """
    skipped = sets[but] if but >= 0 else None
    for number in sorted(set(sets)):  # outer sets before those inside them
        order = orders.get(number)
        if order is None or (number != skipped and skipped in units[number].outer):
            continue
        for place, other in enumerate(sets):
            if other == number and place != but:
                block = _taken(block, place, order, [sets.index(o) for o in units[number].outer])
    return block


def _taken(block: Tensor, place: int, order: Tensor, outer: Sequence[int]) -> Tensor:
    order = order.to(block.device)
    if not outer:
        return block.index_select(place, order)
    shape = [1] * block.ndim
    for axis in (*outer, place):
        shape[axis] = block.shape[axis]
    # the outer axes of an order are in the order of their numbers, those of a block in any
    ranked = sorted(range(len(outer)), key=lambda at: outer[at])
    within = order.permute(*ranked, len(outer))
    at = sorted((*outer, place)).index(place)
    aligned = within.movedim(-1, at).reshape(shape)
    return torch.take_along_dim(block, aligned, place)


class Matching:
    """The search for the best orders.

    Args:
        pairs: blocks of both networks.
        units: every set.
    """

    def __init__(self, pairs: Sequence[Pair], units: Sequence[Units]) -> None:
        self.pairs = pairs
        self.units = units
        self.free = [number for number, one in enumerate(units) if one.is_free]
        self.inside: dict[int, list[int]] = {}
        self._with: dict[int, list[int]] = {}
        self._twice: dict[int, bool] = {}
        for number in self.free:
            self.inside[number] = [other for other in self.free if number in units[other].outer]
            self._with[number] = [at for at, pair in enumerate(pairs) if number in pair.sets]
            self._twice[number] = any(pair.sets.count(number) > 1 for pair in pairs)

    def likeness(self, orders: Orders, places: Sequence[int] | None = None) -> float:
        """The sum of inner products, of all blocks or of some."""
        chosen = self.pairs if places is None else [self.pairs[place] for place in places]
        return sum(self._inner(pair, orders) for pair in chosen)

    def _inner(self, pair: Pair, orders: Orders) -> float:
        moved = permuted(pair.b, pair.sets, self.units, orders)
        return sum(float((a.double() * b.double()).sum()) for a, b in _parts(pair.a, moved))

    @property
    def seen(self) -> set[int]:
        """The free sets that some block has."""
        return {number for number in self.free if self._with[number]}

    def improved(
        self,
        orders: Orders,
        generator: np.random.Generator,
        *,
        but: Collection[int] = (),
    ) -> Orders:
        """Coordinate ascent from some orders, until no set of units can be improved.

        Args:
            orders: where to start.
            generator: of the sequence in which the sets are visited.
            but: sets to leave as they are.
        """
        orders, stale = dict(orders), set(self.free) - set(but)
        for _ in range(_SWEEPS):
            if not stale:
                break
            for number in generator.permutation(sorted(stale)).tolist():
                stale.discard(number)
                found = self._step(orders, number, self._with[number])
                if found is None:
                    continue
                orders |= found
                again = {number} if self._twice[number] else set()
                stale |= (self._neighbours([number, *self.inside[number]]) - {number}) | again
                stale -= set(but)
        return orders

    def _neighbours(self, numbers: Sequence[int]) -> set[int]:
        pairs = {place for number in numbers for place in self._with[number]}
        met = {other for place in pairs for other in self.pairs[place].sets}
        return met & set(self.free)

    def propagated(self) -> Orders:
        """Orders found from inputs and outputs inwards, by blocks whose other axes are known."""
        orders = unpermuted(self.units)
        left = set(self.free)
        while left:
            ready = {n for n in left if not set(self.units[n].outer) & left} or left
            known = {n: self._known(n, left) for n in ready}
            number = max(
                sorted(ready), key=lambda n: sum(self.pairs[p].a.numel() for p in known[n])
            )
            orders |= self._step(orders, number, known[number], anyway=True) or {}
            left.discard(number)
        return orders

    def _known(self, number: int, left: set[int]) -> list[int]:
        """The blocks of a set in which only its own axes and those inside it lack an order."""
        mine, found = {number, *self.inside[number]}, []
        for place in self._with[number]:
            sets = self.pairs[place].sets
            unknown = set(sets) & left
            within = unknown & set(self.inside[number])
            if not unknown - mine and len(within) <= 1 and sets.count(number) == 1:
                found.append(place)
        return found

    def _step(
        self, orders: Orders, number: int, places: Sequence[int], *, anyway: bool = False
    ) -> Orders | None:
        """The best order of one set and of what is inside it; None if none is better.

        The others stay as they are.
        """
        if not places:
            return None
        if self.inside[number]:
            found, gain = self._nested(orders, number, places), None
        else:
            found, gain = self._assigned(orders, number, places)
        if anyway:
            return found
        if all(torch.equal(orders[key], order) for key, order in found.items()):
            return None
        if gain is not None and not self._twice[number]:  # then the sum is linear in this order
            return found if gain > 0 else None
        touched = sorted({place for key in found for place in self._with[key]})
        before = self.likeness(orders, touched)
        gain = self.likeness(orders | found, touched) - before
        return found if gain > _ROUNDING * abs(before) else None

    def _assigned(self, orders: Orders, number: int, places: Sequence[int]) -> tuple[Orders, float]:
        """The best order of one set, and how much it adds to the sum."""
        outer = self.units[number].outer
        size = self.units[number].size
        total: Tensor | float = 0.0
        for place in places:
            for pair, axis in _occurrences(self.pairs[place], number):
                moved = permuted(pair.b, pair.sets, self.units, orders, but=axis)
                lead = [pair.sets.index(other) for other in outer]
                total = total + _products(pair.a, moved, lead, [axis])
        gains = torch.as_tensor(total).reshape(-1, size, size)
        chosen = torch.stack([_best(gain) for gain in gains])
        now = orders[number].reshape(-1, size)
        differ = gains.gather(2, chosen[..., None]) - gains.gather(2, now[..., None])
        gain = float(differ.sum()) - _ROUNDING * float(gains.abs().amax() * size)
        return {number: chosen.reshape(orders[number].shape)}, gain

    def _nested(self, orders: Orders, number: int, places: Sequence[int]) -> Orders:
        """Which unit goes where, each pair judged with its inner units matched to each other."""
        one, inside = self.units[number], self.inside[number]
        lead_sizes = _outer_sizes(self.units, one)
        plain: Tensor | float = 0.0
        within: dict[int, Tensor | float] = {}
        for place in places:
            for pair, axis in _occurrences(self.pairs[place], number):
                lead = [pair.sets.index(other) for other in one.outer]
                inner = [other for other in inside if other in pair.sets]
                moved = permuted(pair.b, pair.sets, self.units, orders, but=axis)
                if not inner:
                    plain = plain + _products(pair.a, moved, lead, [axis])
                    continue
                chosen, *others = inner
                moved = _ordered_inside(moved, pair.sets, self.units, orders, others)
                axes = [axis, pair.sets.index(chosen)]
                within[chosen] = within.get(chosen, 0.0) + _products(pair.a, moved, lead, axes)
        shape = (-1, one.size, one.size)
        total = torch.zeros(*lead_sizes, one.size, one.size, dtype=torch.float64) + plain
        total = total.reshape(shape)
        inner_orders: dict[int, Tensor] = {}
        for chosen, gains in within.items():
            size = self.units[chosen].size
            # (…, o, i, o', i') → every pair o, o' has a problem of its own
            apart = torch.as_tensor(gains).reshape(-1, one.size, size, one.size, size)
            apart = apart.transpose(2, 3)
            best = _best_of_each(apart.reshape(-1, size, size))
            values, picked = best
            total += values.reshape(shape)
            inner_orders[chosen] = picked.reshape(*shape, size)
        order = torch.stack([_best(gain) for gain in total])
        found: Orders = {number: order.reshape(*lead_sizes, one.size)}
        for chosen, picked in inner_orders.items():
            at = order[..., None, None].expand(*order.shape, 1, picked.shape[-1])
            mine = picked.gather(2, at).squeeze(2)
            found |= self._shaped(chosen, number, mine.reshape(*lead_sizes, one.size, -1))
        return found

    def _shaped(self, chosen: int, number: int, order: Tensor) -> Orders:
        """An inner set's order under its own outer sets, where these are just the ones at hand."""
        known = sorted((*self.units[number].outer, number))
        if list(self.units[chosen].outer) != known:
            return {}
        here = [*self.units[number].outer, number]
        return {chosen: order.permute(*(here.index(k) for k in known), len(here)).contiguous()}


def _occurrences(pair: Pair, number: int) -> Iterator[tuple[Pair, int]]:
    for axis, other in enumerate(pair.sets):
        if other == number:
            yield pair, axis


def _ordered_inside(
    block: Tensor,
    sets: Sequence[int],
    units: Sequence[Units],
    orders: Orders,
    numbers: Sequence[int],
) -> Tensor:
    """A block whose sets inside an unpermuted axis have their present order, place by place."""
    for number in numbers:
        outer = [sets.index(other) for other in units[number].outer]
        block = _taken(block, sets.index(number), orders[number], outer)
    return block


def _products(a: Tensor, b: Tensor, lead: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Inner products of each unit of a with each of b, in float64, by index of the leading axes.

    Returns:
        (lead …, axes of a …, axes of b …).
    """
    first = [*lead, *axes]
    rest = [axis for axis in range(a.ndim) if axis not in first]
    sizes = [a.shape[axis] for axis in axes]
    heads = [a.shape[axis] for axis in lead]
    count = int(np.prod(sizes))
    wide = torch.promote_types(a.dtype, torch.float32)
    one, two = (
        t.permute(*first, *rest).to(wide).reshape(int(np.prod(heads)), count, -1) for t in (a, b)
    )
    return (one @ two.mT).double().reshape(*heads, *sizes, *sizes)


def _best(gains: Tensor) -> Tensor:
    """For each row the column that it gets, for the largest sum."""
    columns = linear_sum_assignment(gains.cpu().numpy(), maximize=True)[1]
    return torch.as_tensor(columns)


def _best_of_each(gains: Tensor) -> tuple[Tensor, Tensor]:
    """The largest sum, and the columns, of many problems at once."""
    columns = torch.stack([_best(gain) for gain in gains])
    values = gains.gather(2, columns[..., None]).sum((1, 2))
    return values, columns


def _parts(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Two blocks piece by piece, so that neither is held twice in float64."""
    rows = max(int(2**20 // max(a[:1].numel(), 1)), 1) if a.ndim else 1
    if not a.ndim:
        yield a, b
        return
    yield from zip(a.split(rows), b.split(rows), strict=True)
