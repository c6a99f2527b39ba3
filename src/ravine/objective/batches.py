"""Batches: what a source gives at once, a tree of tensors, with the examples that it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ravine.objective.trees import children, flatten, unflatten


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together.

    Attributes:
        number: of the batch in its pass.
        content: what the caller's function is given.
        examples: (rows,) the examples' own numbers, where the source says which they are: the index
            in a Dataset or a tensor. None in a stream: how many there are is learnt from what the
            caller's function returns.
        item: the index in the Dataset of an item that is a batch of its own.
    """

    number: int
    content: Any
    examples: np.ndarray | None = None
    item: int | None = None

    @cached_property
    def size(self) -> int:
        """How many examples it holds, as far as can be told from it."""
        return self._rows[0] if self.examples is None else len(self.examples)

    @property
    def is_counted(self) -> bool:
        """Whether ``size`` is more than a guess."""
        return self.examples is not None or self._rows[1]

    @cached_property
    def leaves(self) -> list[Any]:
        """Its tensors and whatever else is in it."""
        return flatten(self.content)[0]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors and arrays, images and texts."""
        return sum(map(bytes_in, self.leaves))

    def first(self, count: int) -> Batch:
        """The first examples of the batch; all of it if an example's part cannot be told."""
        rows = self.size
        by_row = [
            isinstance(part, Tensor) and _is_dense(part) and part.ndim > 0 and len(part) == rows
            for part in self.leaves
        ]
        if count >= rows or not by_row or not all(by_row):
            return self
        examples = None if self.examples is None else self.examples[:count]
        return replace(self.mapped(lambda tensor: tensor[:count]), examples=examples)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to its tensors."""
        return replace(self, content=map_tensors(function, self.content))

    @cached_property
    def _rows(self) -> tuple[int, bool]:
        return rows_of(self.content)


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with ``function`` applied to its tensors; containers and objects keep their type.

    Examples:
        >>> map_tensors(lambda tensor: 2 * tensor, {"x": [torch.tensor(1.0), "kept"]})
        {'x': [tensor(2.), 'kept']}
    """
    leaves, structure = flatten(batch)
    return unflatten(
        structure, [function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    )


def count_examples(batch: Any) -> int:
    """How many examples a batch seems to hold; 1 where nothing in it tells."""
    return rows_of(batch)[0]


def rows_of(batch: Any) -> tuple[int, bool]:
    """How many examples a batch seems to hold, and whether all that has a length agrees.

    Examples:
        >>> rows_of((torch.zeros(5, 2), torch.zeros(5)))
        (5, True)
        >>> rows_of((torch.zeros(7, 2), torch.zeros(1)))  # a bag of seven, say, and its label
        (7, False)
        >>> rows_of([("a text", 0), ("another", 1), ("a third", 0)])  # a list of examples
        (3, True)
    """
    if is_list_of_items(batch):
        return len(batch), True
    lengths = [length for leaf in flatten(batch)[0] if (length := length_of(leaf)) is not None]
    if len(set(lengths)) == 1:
        return lengths[0], True
    parts = children(batch) or []
    beside = [length for part in parts if (length := _length_of_part(part)) is not None]
    if beside and len(set(beside)) == 1:
        return beside[0], True
    return (max(lengths, key=lengths.count), False) if lengths else (1, False)


def is_list_of_items(part: object) -> bool:
    """Whether it is a list of examples, each a tuple, a dict, a text, an image or an object.

    A list of tensors is none: it may as well be the inputs and the targets.
    """
    if not isinstance(part, list) or not part:
        return False
    kind = type(part[0])
    plain = issubclass(kind, (list, int, float, complex, type(None))) or is_array(part[0])
    return not plain and all(type(item) is kind for item in part)


def length_of(leaf: Any) -> int | None:
    """The length of a leaf along its first axis; None where it has none."""
    if isinstance(leaf, Tensor):
        if leaf.is_nested:
            return leaf.size(0)
        return leaf.shape[0] if leaf.ndim else None
    return len(leaf) if isinstance(leaf, np.ndarray) and leaf.ndim else None


def _length_of_part(part: Any) -> int | None:
    if isinstance(part, PackedSequence):
        return int(part.batch_sizes[0])
    if isinstance(part, list | tuple) and not hasattr(part, "_fields"):
        return len(part)
    return length_of(part)


def bytes_in(leaf: Any) -> int:
    """About how many bytes a leaf takes in memory."""
    if isinstance(leaf, Tensor):
        return sum(part.numel() * part.element_size() for part in dense_parts(leaf))
    if isinstance(leaf, np.ndarray):
        boxed = sum(map(bytes_in, leaf.flat)) if leaf.dtype == object else 0
        return leaf.nbytes + boxed
    if isinstance(leaf, str | bytes):
        return len(leaf)
    size = getattr(leaf, "size", None)  # an image's (width, height)
    if isinstance(size, tuple) and len(size) == 2 and all(isinstance(n, int) for n in size):
        return size[0] * size[1] * len(getattr(leaf, "getbands", lambda: " ")())
    return 64


def dense_parts(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that a tensor is stored as: itself, or a sparse or nested one's parts."""
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout == torch.sparse_coo:
        whole = tensor if tensor.is_coalesced() else tensor.coalesce()
        return [whole.indices(), whole.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.layout != torch.strided:
        return [tensor.to_dense()]
    if tensor.is_quantized:
        return [tensor.int_repr()]
    return [tensor]


def _is_dense(tensor: Tensor) -> bool:
    return not tensor.is_nested and tensor.layout == torch.strided and not tensor.is_quantized


def is_array(part: object) -> bool:
    """Whether it is a tensor or an array."""
    return isinstance(part, Tensor | np.ndarray)
