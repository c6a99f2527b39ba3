"""Structure: which axes of a model's parameters count the same units, from its traced graph."""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ravine.alignment.axes import (
    MEETS,
    POSITION,
    Axes,
    Axis,
    become_family,
    families,
    leaves,
    member,
    stay,
    tie,
)
from ravine.alignment.calls import CONSTANT, OUTPUT, Call, fresh
from ravine.alignment.operations import axes_after, is_view


@dataclass(frozen=True)
class Units:
    """A set of units: the indices of one axis, wherever that axis occurs.

    Attributes:
        size: how many they are.
        is_free: whether they may be permuted; else they stay in place, and only number
            what is inside.
        outer: the sets inside which they are: each index of those has an order of its own (the
            features of a head; the channels of a group).
    """

    size: int
    is_free: bool
    outer: tuple[int, ...] = ()


@dataclass(frozen=True)
class Structure:
    """Which axes of a model count the same units.

    Attributes:
        axes: of every parameter and buffer, by name.
        units: every set of them; those inside others come later.
        kept: axes that could not be followed, such as ``"fc.weight, axis 0"``, and why.
        activations: the axes of the tensors between the layers, by the node of the graph.
        numbers: of the axes' sets, by the axis' identity.
    """

    axes: dict[str, Axes]
    units: list[Units]
    kept: dict[str, str]
    activations: dict[str, Axes]
    numbers: dict[int, int]

    def blocks(self, tensor: Tensor, axes: Axes) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """Views of a tensor whose every axis is one set of units, or −1: of none.

        Args:
            tensor: whole.
            axes: its.

        Yields:
            A view, and the number of the set of units along each of its axes.
        """
        stacks = {id(one.over.root) for axis in axes for one in families(axis)}
        for place, axis in enumerate(axes):
            here = axis.root
            if not self._is_known(here, stacks):
                continue  # all of it stays in place
            if here.kind == "product":
                sizes = [part.size for part in here.parts]
                inner = (*axes[:place], *here.parts, *axes[place + 1 :])
                yield from self.blocks(tensor.unflatten(place, sizes), inner)
                return
            if here.kind == "chain":
                start = 0
                for part in here.parts:
                    cut = tensor.narrow(place, start, part.size)
                    start += part.size
                    inner = (*axes[:place], part, *axes[place + 1 :])
                    yield from self.blocks(cut, inner)
                return
        for axis in axes:
            if axis.root.kind == "family" and self._is_known(axis, ()):
                yield from self._members(tensor, axes, axis.root.over)
                return
        yield tensor, tuple(self.numbers.get(id(axis.root), -1) for axis in axes)

    def _members(
        self, tensor: Tensor, axes: Axes, over: Axis
    ) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        """The blocks of a stack, member after member; if it has one order only, all at once."""
        places = [place for place, axis in enumerate(axes) if axis.root is over.root]
        if not places:
            yield from self.blocks(tensor, tuple(member(axis, over, 0) for axis in axes))
            return
        for number in range(over.size):
            inner = tuple(member(axis, over, number) for axis in axes)
            yield from self.blocks(tensor.narrow(places[0], number, 1), inner)

    def _is_known(self, axis: Axis, stacks: Collection[int]) -> bool:
        """Whether anything in an axis may move, or numbers what does."""
        return any(id(leaf) in self.numbers or id(leaf) in stacks for leaf in leaves(axis))


def structure_of(
    program: ExportedProgram, ties: Mapping[str, str], movable: Collection[str]
) -> Structure:
    """Follow every axis through a traced graph.

    Args:
        program: as ``traced`` gives it.
        ties: alias → name, of tied parameters.
        movable: the buffers that move with their units; others are constants.
    """
    known: dict[fx.Node, Any] = {}
    given = _inputs(program, known, movable, {*ties, *ties.values()})
    statistics: list[Axes] = []
    contracted: list[Axis] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            call = _follow(node, known)
            statistics += call.statistics if call else []
            contracted += call.contracted if call else []
        elif node.op == "output":
            _give_out([_whole(known.get(source)) for source in node.all_input_nodes], contracted)
    for alias, name in ties.items():
        if alias in given and name in given:
            for one, two in zip(given[alias], given[name], strict=True):
                tie(one, two)
    between = {
        node.name: _whole(found)
        for node, found in known.items()
        if node.op == "call_function" and not isinstance(found, list) and found is not None
    }
    seen = [*given.values(), *between.values(), *statistics]
    _settle(seen)
    _tell_apart(seen)
    units, numbers = _units(seen, given)
    parameters = {*program.graph_signature.parameters}
    kept = _kept({name: axes for name, axes in given.items() if name in parameters})
    return Structure(given, units, kept, _activations(program, between), numbers)


def _inputs(
    program: ExportedProgram,
    known: dict[fx.Node, Any],
    movable: Collection[str],
    tied: Collection[str],
) -> dict[str, Axes]:
    """The axes of what the graph is given: of parameters free, of data and constants in place."""
    given: dict[str, Axes] = {}
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        spec = specs[node.name]
        name = spec.target or ""
        is_free = spec.kind == InputKind.PARAMETER or name in movable
        is_constant = spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
        reason = f"{MEETS}the constant {name!r}" if is_constant else POSITION
        axes = fresh(node.meta.get("val"), None if is_free else reason)
        known[node] = axes
        if spec.kind == InputKind.CONSTANT_TENSOR:
            node.meta[CONSTANT] = program.constants.get(name)
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and axes is not None:
            given[name] = axes
            if not node.users and name not in tied:
                for axis in axes:
                    stay(axis, "it is not used on this batch")
    return given


def _give_out(outcomes: Sequence[Axes], contracted: Sequence[Axis]) -> None:
    """Keep the axes of the outputs in place: classes, positions, and units that it reads itself."""
    read = {id(leaf) for axis in contracted for leaf in leaves(axis)}
    for axes in outcomes:
        for leaf in [leaf for axis in axes for leaf in leaves(axis)]:
            stay(leaf, OUTPUT if id(leaf) in read else POSITION)


def _follow(node: fx.Node, known: dict[fx.Node, Any]) -> Call | None:
    """Find the axes of one node; an operation comes back with what was seen on the way."""
    if node.target is operator.getitem:
        source, number = node.args
        # one of several outcomes
        known[node] = known[source][number]  # pyright: ignore[reportArgumentType, reportIndexIssue]
        return None
    if node.meta.get("val") is None:
        return None
    if not isinstance(node.target, torch._ops.OpOverload):
        for source in node.all_input_nodes:
            for axis in _whole(known.get(source)):
                stay(axis, f"{node.target} is not known")
        known[node] = fresh(node.meta["val"], f"{node.target} is not known")
        return None
    call = Call(node, known)
    known[node] = axes_after(call)
    return call


def _whole(found: Any) -> Axes:
    """The axes of a value, of whatever kind."""
    if found is None:
        return ()
    if isinstance(found, list):
        return tuple(axis for part in found for axis in _whole(part))
    return found if isinstance(found, tuple) else found.merged()


def _settle(seen: Sequence[Axes]) -> None:
    """Give a family's members one order where a tensor has it without the axis between them."""
    changed = True
    while changed:
        changed = False
        for axes in seen:
            there = {id(leaf) for axis in axes for leaf in leaves(axis)}
            for one in [found for axis in axes for found in families(axis)]:
                apart = {id(part.root) for part in one.parts}
                if id(one.over.root) not in there and len(apart) > 1:
                    changed = True
                    for part in one.parts[1:]:
                        tie(one.parts[0], part)


def _tell_apart(seen: Sequence[Axes]) -> None:
    """Give units that occur only with a telling axis an order for each of that axis's indices."""
    axes = [axis for found in seen for axis in found]
    overs = {id(one.over.root): one.over for axis in axes for one in families(axis)}
    if not overs:
        return
    known = {id(leaf): leaf for axis in axes for leaf in leaves(axis) if leaf.size > 1}
    around = _around(seen, set(known))
    for key, leaf in known.items():
        here = [over for name, over in overs.items() if name in around.get(key, ())]
        if here and leaf.reason is None and leaf.kind == "leaf":
            become_family(leaf, here[0])


def _units(seen: Sequence[Axes], given: Mapping[str, Axes]) -> tuple[list[Units], dict[int, int]]:
    """The sets of units that parameters have, and inside which others each of them is."""
    owned = {
        id(leaf): leaf
        for axes in given.values()
        for axis in axes
        for leaf in leaves(axis)
        if leaf.size > 1
    }
    around = _around(seen, set(owned))
    for one in [one for axes in seen for axis in axes for one in families(axis)]:
        for leaf in leaves(one):
            # a member is at one index of that axis: nothing of it is left to be inside
            around.get(id(leaf), set()).discard(id(one.over.root))
    fixed = [key for key, leaf in owned.items() if leaf.reason is not None]
    free = sorted(owned.keys() - fixed, key=lambda key: (len(around[key]), list(owned).index(key)))
    outer: dict[int, list[int]] = {}
    for place, key in enumerate(free):
        # of two sets that always occur together, the first is the outer one
        outer[key] = [other for other in around[key] if other in fixed or other in free[:place]]
    holders = set[int]().union(*outer.values())
    holding = [key for key in fixed if key in holders]
    numbers = {key: number for number, key in enumerate([*holding, *free])}
    units = [Units(owned[key].size, is_free=False) for key in holding]
    for key in free:
        inside = sorted(numbers[other] for other in outer[key])
        units.append(Units(owned[key].size, is_free=True, outer=tuple(inside)))
    return units, numbers


def _around(seen: Sequence[Axes], owned: Collection[int]) -> dict[int, set[int]]:
    """For each leaf, those that occur once wherever it occurs.

    An order of its own for each index of another axis needs that axis at hand in every tensor, the
    statistics of norms included.
    """
    around: dict[int, set[int]] = {}
    for axes in seen:
        for cell in _cells(axes):
            counts = Counter(id(leaf) for leaf in cell)
            once = {key for key, count in counts.items() if count == 1 and key in owned}
            for key in counts.keys() & owned:
                around[key] = around.get(key, once) & (once - {key})
    return around


def _cells(axes: Axes) -> Iterator[tuple[Axis, ...]]:
    """The leaves of each block that a tensor falls into."""
    choices = [list(_paths(axis)) for axis in axes]
    for chosen in itertools.product(*choices):
        yield tuple(leaf for path in chosen for leaf in path)


def _paths(axis: Axis) -> Iterator[tuple[Axis, ...]]:
    here = axis.root
    if here.kind == "leaf":
        yield (here,)
    elif here.kind == "product":
        yield from _cells(here.parts)
    else:
        for part in here.parts:
            yield from _paths(part)


def _kept(given: Mapping[str, Axes]) -> dict[str, str]:
    """The parameters' axes that stay in place, or parts of them, and why.

    Positions and classes are left out.
    """
    kept: dict[str, str] = {}
    for name, axes in given.items():
        for place, axis in enumerate(axes):
            reasons = [leaf.reason for leaf in leaves(axis) if leaf.size > 1]
            said = [reason for reason in reasons if reason not in (None, POSITION)]
            if said:
                part = "in part: " if None in reasons else ""
                kept[f"{name}, axis {place}"] = part + said[-1]
    return kept


def _activations(program: ExportedProgram, between: Mapping[str, Axes]) -> dict[str, Axes]:
    """The axes of the floating-point tensors that are computed, views left out."""
    return {
        node.name: between[node.name]
        for node in program.graph.nodes
        if node.name in between
        and isinstance(node.meta.get("val"), Tensor)
        and node.meta["val"].is_floating_point()
        and not is_view(str(node.target).removeprefix("aten.").partition(".")[0])
    }
