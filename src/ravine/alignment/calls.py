"""Calls: one operation of a traced graph, with the axes of what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx

from ravine.alignment.axes import POSITION, Axes, Axis, stacked, stay

CONSTANT: Final = "constant"  # of a node that is given: its value
_COPIES: Final = frozenset({"clone", "detach", "detach_", "alias", "lift_fresh_copy", "_to_copy"})
OUTPUT: Final = "it is an output of the model"


class Stacked:
    """A tensor whose first axis counts layers, each with units of its own: an LSTM's last states.

    Args:
        layers: the axes of each entry.
    """

    def __init__(self, layers: Sequence[Axes]) -> None:
        self.layers = list(layers)
        self._number = Axis(len(self.layers), POSITION)
        self._axes = tuple(stacked(parts, self._number) for parts in zip(*layers, strict=True))

    def merged(self) -> Axes:
        """The axes of the whole.

        Each layer keeps an order of its own wherever its number is at hand.
        """
        return (self._number, *self._axes)


class Call:
    """One operation: its arguments by the names of its schema, and the axes of its tensors.

    Args:
        node: of the graph.
        known: the axes of every node before it.

    Attributes:
        name: of the operation, without its overload.
        arguments: by name, defaults included.
        statistics: the axes of what the operation computes on the way, such as a norm's means.
        contracted: axes over which products are summed: of units that something reads.
    """

    def __init__(self, node: fx.Node, known: Mapping[fx.Node, Any]) -> None:
        self.node = node
        self.target: Any = node.target
        self.name = str(self.target).removeprefix("aten.").partition(".")[0]
        schema = self.target._schema.arguments
        self.arguments: dict[str, Any] = {
            a.name: a.default_value for a in schema if a.has_default_value()
        }
        self.arguments |= dict(zip((a.name for a in schema), node.args, strict=False))
        self.arguments |= node.kwargs
        self.statistics: list[Axes] = []
        self.contracted: list[Axis] = []
        self._known = known

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def axes(self, name: str) -> Axes:
        """The axes of a tensor that is an argument."""
        return self.of(self[name])

    def of(self, node: Any) -> Axes:
        """The axes of a tensor."""
        found = self._known[node]
        return found.merged() if isinstance(found, Stacked) else found

    def stacked(self, name: str) -> Stacked | None:
        """An argument that holds several layers' axes."""
        found = self._known.get(self[name])
        return found if isinstance(found, Stacked) else None

    def is_uniform(self, node: Any) -> bool:
        """Whether a tensor holds one value everywhere."""
        return isinstance(node, fx.Node) and _name_of(node) in UNIFORM

    def numbers(self, node: Any) -> list[int]:
        """The indices that a constant list holds; none where it is something else."""
        while isinstance(node, fx.Node) and _name_of(node) in _COPIES:
            node = node.args[0]
        value = node.meta.get(CONSTANT) if isinstance(node, fx.Node) else None
        if value is None or value.ndim != 1 or value.dtype != torch.int64:
            return []
        return value.tolist()

    @property
    def tensors(self) -> list[Axes]:
        """The axes of every tensor that it is given."""
        return [self.of(node) for node in self.node.all_input_nodes if node in self._known]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the outcome."""
        value = self.node.meta["val"]
        return tuple(value.shape)

    def uses_output(self, number: int) -> bool:
        """Whether one of several outcomes is used by anything."""
        return any(user.args[1] == number and user.users for user in self.node.users)

    def unfollowed(self) -> Any:
        """Keep all that it is given and all that it gives in place: nothing is known of it."""
        reason = f"{self.target} is not known"
        for axes in self.tensors:
            for axis in axes:
                stay(axis, reason)
        return fresh(self.node.meta["val"], reason)


#: What makes a tensor of one value everywhere, which no permutation changes.
UNIFORM: Final = frozenset(
    {"full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "new_zeros", "new_ones"}
    | {"new_full", "scalar_tensor"}
)


def _name_of(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def fresh(value: Any, reason: str | None) -> Any:
    """New axes for a tensor, or for each of several; None for what is no tensor."""
    if isinstance(value, Tensor):
        return tuple(Axis(size, reason) for size in value.shape)
    if isinstance(value, list | tuple):
        return [fresh(part, reason) for part in value]
    return None


def is_pointwise(target: Any) -> bool:
    """Whether an operation treats every element alike, as PyTorch marks it."""
    return torch.Tag.pointwise in target.tags
