"""Axes: which dimensions of which tensors count the same units, found by unification.

An axis is a leaf (its units may be permuted together), a product (a view: heads × features,
row-major), a chain (a concatenation: one after another), or a family (the same axis of several
things that are stacked along another axis, such as queries, keys and values: each has units of its
own). Two axes that an operation pairs index by index are unified, as types are in type inference: a
leaf takes on whatever structure it meets, and everything that shares it sees that. What cannot be
followed stays in place, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

POSITION: Final = "its indices are positions, classes or data"
MEETS: Final = "it meets "  # values that do not move with it

Kind = Literal["leaf", "product", "chain", "family"]
Axes = tuple["Axis", ...]


class Unlike(Exception):
    """Two axes that have no common refinement."""


class Axis:
    """One axis, or a name for one: ``root`` gives the axis itself.

    Args:
        size: how many indices it has.
        reason: why its indices have to stay in place; None where they need not.
        kind: what it is made of.
        parts: of a product, a chain or a family.
        over: of a family, the axis along which its members are stacked; of others, themselves.
    """

    def __init__(
        self,
        size: int,
        reason: str | None = None,
        kind: Kind = "leaf",
        parts: Sequence[Axis] = (),
        over: Axis | None = None,
    ) -> None:
        self.size = size
        self.reason = reason
        self.kind: Kind = kind
        self.parts = tuple(parts)
        self.over = over or self
        self._same: Axis | None = None

    @property
    def root(self) -> Axis:
        """The axis that this one is known to be."""
        here = self
        while here._same is not None:
            here = here._same
        if here is not self:
            self._same = here  # a shorter way next time
        return here

    def become(self, other: Axis) -> None:
        """From now on be ``other``, which a leaf may."""
        if self.reason is not None:
            stay(other, self.reason)
            for leaf in leaves(other):
                leaf.reason = max(self.reason, leaf.reason or "", key=_rank)
        self._same = other

    def __repr__(self) -> str:
        here = self.root
        if here.kind == "leaf":
            return f"{'=' if here.reason else ''}{here.size}"
        between = {"product": "×", "chain": "+", "family": "|"}[here.kind]
        return f"({between.join(map(repr, here.parts))})"


def _rank(reason: str) -> int:
    """Which of two reasons says more: an operation's, then positions, then meeting a constant."""
    if reason.startswith(MEETS):
        return 0
    return 1 if reason == POSITION else 2


def product(parts: Sequence[Axis]) -> Axis:
    """The axis that counts through several, the last one fastest.

    Examples:
        >>> product([Axis(4), Axis(1), Axis(3)])
        (4×3)
    """
    real = [part for part in parts if part.size != 1]
    if len(real) == 1:
        return real[0]
    size = math.prod(part.size for part in real)
    return Axis(size, kind="product", parts=real) if real else Axis(1)


def chain(parts: Sequence[Axis]) -> Axis:
    """The axis of several, one after another.

    Examples:
        >>> chain([Axis(2), Axis(5)])
        (2+5)
    """
    real = [part for part in parts if part.size]
    if len(real) == 1:
        return real[0]
    return Axis(sum(part.size for part in real), kind="chain", parts=real)


def factors(axis: Axis) -> list[Axis]:
    """What an axis is the product of, without products inside."""
    return _flat(axis, "product")


def segments(axis: Axis) -> list[Axis]:
    """What an axis is the chain of, without chains inside."""
    return _flat(axis, "chain")


def _flat(axis: Axis, kind: Kind) -> list[Axis]:
    here = axis.root
    if here.kind != kind:
        return [here]
    return [leaf for part in here.parts for leaf in _flat(part, kind)]


def leaves(axis: Axis) -> Iterator[Axis]:
    """Its leaves, as often as they occur."""
    return _inside(axis, "leaf")


def _inside(axis: Axis, kind: Kind) -> Iterator[Axis]:
    here = axis.root
    if here.kind == kind:
        yield here
    for part in here.parts:
        yield from _inside(part, kind)


def stay(axis: Axis, reason: str) -> None:
    """Keep an axis in place; the first reason stands."""
    for leaf in leaves(axis):
        if leaf.reason is None:
            leaf.reason = reason


def tie(one: Axis, other: Axis) -> None:
    """Unify two axes; where they have no common structure both stay in place."""
    try:
        unify(one, other)
    except Unlike:
        for axis in (one, other):
            stay(axis, "it is cut in two ways that do not fit together")


def tie_all(same: Iterable[tuple[Axis, Axis]]) -> None:
    """Tie pairs of axes; last those whose units another axis tells apart: by then it is known."""
    for one, other in sorted(same, key=_is_told_apart):
        tie(one, other)


def _is_told_apart(pair: tuple[Axis, Axis]) -> bool:
    return any(True for axis in pair for _ in families(axis))


def unify(one: Axis, other: Axis) -> None:
    """Make two axes of one size the same axis.

    Raises:
        Unlike: they have no common refinement.

    Examples:
        >>> whole, heads = Axis(12), Axis(3)
        >>> unify(whole, product([heads, Axis(4)]))
        >>> whole
        (3×4)
        >>> unify(whole, product([Axis(6), Axis(2)]))
        >>> whole
        (3×(2×2))
        >>> one, other = Axis(4), Axis(4)
        >>> unify(one, stacked([one, other], Axis(2)))  # alike in both members, so these are alike
        >>> one.root is other.root
        True
    """
    one, other = one.root, other.root
    if one is other:
        return
    if one.size != other.size:
        raise Unlike
    if "leaf" in (one.kind, other.kind):
        leaf, whole = (one, other) if one.kind == "leaf" else (other, one)
        _unify_leaf(leaf, whole)
    elif "family" in (one.kind, other.kind):
        _unify_families(one, other)
    elif _is_pile(one, other) or _is_pile(other, one):
        whole, pile = (one, other) if one.kind == "product" else (other, one)
        split(pile, len(segments(pile)))
        _unify_products(factors(whole), factors(pile))
    elif "chain" in (one.kind, other.kind):
        _unify_chains(segments(one), segments(other))
    else:
        _unify_products(factors(one), factors(other))


def _is_pile(pile: Axis, whole: Axis) -> bool:
    """Whether a chain has segments of one size, and a product counts through them."""
    if pile.kind != "chain" or whole.kind != "product":
        return False
    parts, outer = segments(pile), factors(whole)[0]
    is_even = len({part.size for part in parts}) == 1
    return is_even and outer.kind == "leaf" and outer.size % len(parts) == 0


def _unify_leaf(leaf: Axis, whole: Axis) -> None:
    """A leaf takes on a structure.

    Where it is a member of it, the other members are that leaf too.
    """
    if whole.kind == "family" and any(inner is leaf for inner in leaves(whole)):
        for part in whole.parts:
            unify(leaf, part)
    else:
        leaf.become(whole)


def _unify_families(one: Axis, other: Axis) -> None:
    if one.kind != "family":
        one, other = other, one
    alike = other.kind == "family" and one.over.root is other.over.root
    if not alike:
        # what meets members that are told apart may be told apart too
        for leaf in list(leaves(other)):
            if leaf.reason is None and leaf.size > 1:
                become_family(leaf, one.over)
    others = [member(other, one.over, n) for n in range(len(one.parts))]
    for first, second in zip(one.parts, others, strict=True):
        unify(first, second)


def _family(parts: Sequence[Axis], over: Axis) -> Axis:
    return Axis(parts[0].size, kind="family", parts=parts, over=over)


def stacked(parts: Sequence[Axis], over: Axis) -> Axis:
    """The same axis of several things stacked along another axis, each with units of its own.

    Examples:
        >>> layers = Axis(2)
        >>> stacked([Axis(5), Axis(5)], layers)
        (5|5)
    """
    first, *others = (part.root for part in parts)
    return first if all(other is first for other in others) else _family(parts, over)


def become_family(leaf: Axis, over: Axis) -> None:
    """Give a leaf units of its own for every index of another axis.

    Examples:
        >>> three, features = Axis(3), Axis(8)
        >>> become_family(features, three)
        >>> features, member(product([three, features]), three, 1)
        ((8|8|8), 8)
    """
    leaf.parts = tuple(Axis(leaf.size, leaf.reason) for _ in range(over.size))
    leaf.kind, leaf.over = "family", over


def member(axis: Axis, over: Axis, number: int) -> Axis:
    """An axis at one index of another: of families over that one, the member."""
    here = axis.root
    if here is over.root:
        return Axis(1)
    if here.kind == "family" and here.over.root is over.root:
        return here.parts[number]
    if here.kind == "product":
        return product([member(part, over, number) for part in here.parts])
    if here.kind == "chain":
        return chain([member(part, over, number) for part in here.parts])
    if here.kind == "family":
        return stacked([member(part, over, number) for part in here.parts], here.over)
    return here


def families(axis: Axis) -> Iterator[Axis]:
    """The families in an axis."""
    return _inside(axis, "family")


def _unify_chains(ones: list[Axis], others: list[Axis]) -> None:
    while ones and others:
        size = min(ones[0].size, others[0].size)
        first, ones = _taken(ones, size)
        second, others = _taken(others, size)
        unify(first, second)


def _taken(parts: list[Axis], size: int) -> tuple[Axis, list[Axis]]:
    """The first indices of a chain, no more than its first segment, and what remains."""
    if parts[0].size == size:
        return parts[0], parts[1:]
    first, rest = cut(parts[0], size)
    return first, [rest, *parts[1:]]


def cut(axis: Axis, size: int) -> tuple[Axis, Axis]:
    """An axis cut in two, one after the other.

    Raises:
        Unlike: the cut goes through a factor.

    Examples:
        >>> channels, places = Axis(5), Axis(4)
        >>> cut(product([channels, places]), 8)
        ((2×4), (3×4))
        >>> channels
        (2+3)
    """
    here = axis.root
    if here.kind == "leaf":
        parts = Axis(size, here.reason), Axis(here.size - size, here.reason)
        here.kind, here.parts = "chain", parts
        return parts
    if here.kind == "product":
        outer, *inner = factors(here)
        each = here.size // outer.size
        if size % each:
            raise Unlike
        if any(one.over.root is outer for part in inner for one in families(part)):
            count = size // each
            return _some(outer, inner, range(count)), _some(outer, inner, range(count, outer.size))
        first, rest = cut(outer, size // each)
        return product([first, *inner]), product([rest, *inner])
    if here.kind == "family":
        firsts, rests = zip(*(cut(part, size) for part in here.parts), strict=True)
        return _family(firsts, here.over), _family(rests, here.over)
    before: list[Axis] = []
    after = segments(here)
    while after and after[0].size <= size:
        size -= after[0].size
        before.append(after.pop(0))
    if size:
        first, rest = cut(after.pop(0), size)
        before, after = [*before, first], [rest, *after]
    return chain(before), chain(after)


def _some(outer: Axis, inner: Sequence[Axis], numbers: Sequence[int]) -> Axis:
    """The product of some indices of an axis with what stands at each of them."""
    over = Axis(len(numbers), outer.reason)
    parts = [stacked([member(part, outer, n) for n in numbers], over) for part in inner]
    return product([over, *parts])


def _unify_products(ones: list[Axis], others: list[Axis]) -> None:
    same: list[tuple[Axis, Axis]] = []
    while ones and others:
        small, large = (ones, others) if ones[0].size <= others[0].size else (others, ones)
        part = small.pop(0)
        if part.size == large[0].size:
            same.append((part, large.pop(0)))
            continue
        first, rest = split(large.pop(0), part.size)
        same.append((part, first))
        large.insert(0, rest)
    for one, other in sorted(same, key=_is_told_apart):
        unify(one, other)


def split(axis: Axis, size: int) -> tuple[Axis, Axis]:
    """An axis as a product whose first factor has this size.

    Raises:
        Unlike: it has no such factor.

    Examples:
        >>> split(Axis(12), 3)
        (3, 4)
    """
    here = axis.root
    if size == 0 or here.size % size:
        raise Unlike
    if here.kind == "leaf":
        parts = Axis(size, here.reason), Axis(here.size // size, here.reason)
        here.kind, here.parts = "product", parts
        return parts
    if here.kind == "product":
        return _split_product(factors(here), size)
    if here.kind == "family":
        firsts, rests = zip(*(split(part, size) for part in here.parts), strict=True)
        return _family(firsts, here.over), _family(rests, here.over)
    parts = segments(here)
    if size % len(parts) or len({part.size for part in parts}) != 1:
        raise Unlike
    # segments of one size are a stack: each keeps units of its own
    over = Axis(len(parts), POSITION)
    here.kind, here.parts = "product", (over, stacked(parts, over))
    return _split_product(factors(here), size)


def _split_product(parts: list[Axis], size: int) -> tuple[Axis, Axis]:
    before: list[Axis] = []
    while size > 1 and size % parts[0].size == 0:
        size //= parts[0].size
        before.append(parts.pop(0))
    if size > 1:
        first, rest = split(parts.pop(0), size)
        before, parts = [*before, first], [rest, *parts]
    return product(before), product(parts)


def viewed(axes: Axes, shape: Sequence[int]) -> Axes:
    """The axes of a view of a tensor under another shape.

    Raises:
        Unlike: the view cuts through an axis that has another structure.

    Examples:
        >>> viewed((Axis(2), Axis(12)), (2, 3, 4))
        (2, 3, 4)
        >>> viewed((Axis(2), Axis(3), Axis(4)), (2, 12))
        (2, (3×4))
    """
    if 0 in shape:
        raise Unlike
    left = [part for axis in axes for part in factors(axis) if part.size != 1]
    found: list[Axis] = []
    for size in shape:
        taken: list[Axis] = []
        need = size
        while need > 1:
            part = left.pop(0)
            if need % part.size:
                part, rest = split(part, math.gcd(need, part.size))
                if part.size == 1:
                    raise Unlike
                left.insert(0, rest)
            taken.append(part)
            need //= part.size
        found.append(product(taken))
    return tuple(found)
