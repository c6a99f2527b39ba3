"""Trees: whatever a batch is made of, read as leaves, and put together again around other leaves.

``optree`` knows tuples, lists, dicts, deques and named tuples. What else holds tensors
is told to it when it is first met: other mappings and sequences, dataclasses, and
objects, by their attributes.
"""

from __future__ import annotations

import copy
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import optree
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ravine.errors import InputError
from ravine.points.formats.quiet import quiet

_SPACE: Final = "ravine"
_PLAIN: Final = (Tensor, np.ndarray, np.generic, str, bytes, int, float, complex, type(None))
#: what has attributes, but is no container of data
_SEALED: Final = (
    nn.Module,
    torch.Size,
    torch.Generator,
    type,
    types.ModuleType,
    types.FunctionType,
)
_opened: set[type] = set()
_opening = threading.Lock()


def flatten(batch: Any) -> tuple[list[Any], Any]:
    """The leaves of a batch, in order, and what it takes to put them together again.

    Args:
        batch: of any make.

    Returns:
        Leaves; structure, for ``unflatten``.

    Raises:
        InputError: it contains itself.

    Examples:
        >>> leaves, structure = flatten({"x": (1.0, 2.0), "name": "a"})
        >>> leaves
        ['a', 1.0, 2.0]
        >>> unflatten(structure, [leaf * 2 for leaf in leaves])
        {'x': (2.0, 4.0), 'name': 'aa'}
    """
    while True:
        try:
            leaves, structure = optree.tree_flatten(batch, none_is_leaf=True, namespace=_SPACE)
        except RecursionError as problem:
            msg = (
                f"a batch ({type(batch).__name__}) contains itself, directly or by way of its "
                "attributes; expected tensors in containers that end. Give the parts that "
                "per_example needs, as a tuple or a dict"
            )
            raise InputError(msg) from problem
        if not any([_open(leaf) for leaf in leaves if not isinstance(leaf, _PLAIN)]):
            return leaves, structure


def unflatten(structure: Any, leaves: list[Any]) -> Any:
    """A batch of a structure, with other leaves."""
    return optree.tree_unflatten(structure, leaves)


def children(node: Any) -> list[Any] | None:
    """What a container holds; None of a leaf."""
    flatten(node)  # opens it, if it can be opened
    parts, structure = optree.tree_flatten(
        node, is_leaf=lambda part: part is not node, none_is_leaf=True, namespace=_SPACE
    )
    return None if structure.is_leaf() else parts


def _open(leaf: Any) -> bool:
    """Make a leaf's type a node, if it is a container; whether it was done."""
    kind = type(leaf)
    if kind in _opened or isinstance(leaf, _SEALED):
        return False
    ways = _ways(leaf)
    if ways is None:
        return False
    with _opening, quiet(Warning):  # it overrides what optree does with named tuples
        if kind not in _opened:
            optree.register_pytree_node(kind, *ways, namespace=_SPACE)
            _opened.add(kind)
    return True


_Ways = tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]


def _ways(leaf: Any) -> _Ways | None:
    """How a type of container comes apart, and together; None where it is none."""
    if isinstance(leaf, Mapping):
        return _entries_of, _with_entries
    if isinstance(leaf, list | tuple):
        return _items_of, _with_items
    if _holds_data(leaf):
        return _attributes_of, _with_attributes
    return None


def _items_of(node: Any) -> Any:
    return list(node), type(node)


def _with_items(kind: Any, parts: Any) -> Any:
    try:
        return kind(parts)
    except Exception as problem:
        msg = (
            f"the batch's {kind.__name__} cannot be made of other items ({problem}); give a list "
            "or a tuple"
        )
        raise InputError(msg) from problem


def _entries_of(node: Any) -> Any:
    keys = sorted(node, key=str)
    return [node[key] for key in keys], (node, tuple(keys)), tuple(keys)


def _with_entries(known: Any, parts: Any) -> Any:
    """A tokenizer's BatchEncoding and its kind: same type, other values."""
    node, keys = known
    entries = dict(zip(keys, parts, strict=True))
    try:
        made = copy.copy(node)
        made.update(entries)
    except Exception:  # a mapping that is read only
        made = type(node)(entries)
    return made


def _attributes_of(node: Any) -> Any:
    names = tuple(_names(node))
    return [getattr(node, name) for name in names], (node, names), names


def _with_attributes(known: Any, parts: Any) -> Any:
    node, names = known
    try:
        made = copy.copy(node)
        for name, part in zip(names, parts, strict=True):
            if getattr(made, name) is not part:
                object.__setattr__(made, name, part)  # a frozen dataclass's too
    except Exception as problem:
        msg = (
            f"the batch's {type(node).__name__} cannot be copied with other tensors in it "
            f"({problem}); give its tensors as a tuple or a dict"
        )
        raise InputError(msg) from problem
    return made


def _names(node: Any) -> Iterator[str]:
    """The names of an object's own attributes, sorted."""
    slots = [getattr(kind, "__slots__", ()) for kind in type(node).__mro__]
    named = {name for group in slots for name in ([group] if isinstance(group, str) else group)}
    found = {*getattr(node, "__dict__", {}), *(name for name in named if hasattr(node, name))}
    yield from sorted(found - {"__dict__", "__weakref__"})


def _holds_data(leaf: Any, depth: int = 8) -> bool:
    """Whether an object has a tensor or an array among its attributes, or theirs."""
    if isinstance(leaf, Tensor | np.ndarray):
        return True
    if not depth or isinstance(leaf, (*_PLAIN, *_SEALED)):
        return False
    if isinstance(leaf, Mapping):
        parts: Any = leaf.values()
    elif isinstance(leaf, list | tuple):
        parts = leaf
    else:
        parts = (getattr(leaf, name, None) for name in _names(leaf))
    return any(_holds_data(part, depth - 1) for part in parts)


def _packed_parts(node: Any) -> Any:
    """The sizes of its batches stay on the CPU whatever the rest does: they are no tensor here."""
    return [node.data, node.batch_sizes.numpy(), node.sorted_indices, node.unsorted_indices], None


def _packed(_: Any, parts: Any) -> PackedSequence:
    data, sizes, order, back = parts
    return PackedSequence(data, torch.from_numpy(sizes), order, back)


# optree knows it as the named tuple that it is, and warns that it is now taken apart otherwise
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    optree.register_pytree_node(PackedSequence, _packed_parts, _packed, namespace=_SPACE)
_opened.add(PackedSequence)
