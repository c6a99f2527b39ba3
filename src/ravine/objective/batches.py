"""Batches: nested tuples, lists and mappings of tensors, read as one tree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together.

    Attributes:
        number: of the batch in its pass.
        content: what the caller's function is given.
        examples: (rows,) the examples' own numbers: the index in a Dataset or a tensor, the running number in a stream.
    """

    number: int
    content: Any
    examples: np.ndarray

    @property
    def size(self) -> int:
        """How many examples it holds."""
        return count_examples(self.content)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors and arrays."""
        return sum(leaf.nbytes for leaf in leaves(self.content) if hasattr(leaf, "nbytes"))

    def first(self, count: int) -> Batch:
        """The first examples of the batch; the whole of it where it cannot be told what belongs to an example."""
        rows = len(self.examples)
        parts = list(leaves(self.content))
        by_row = [
            isinstance(part, Tensor) and part.ndim > 0 and len(part) == rows for part in parts
        ]
        if count >= rows or not parts or not all(by_row):
            return self
        cut = self.mapped(lambda tensor: tensor[:count])
        return replace(cut, examples=self.examples[:count])

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to its tensors."""
        return replace(self, content=map_tensors(function, self.content))


def leaves(batch: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and mappings, in order; a mapping's in the order of its sorted keys."""
    if isinstance(batch, Mapping):
        for key in sorted(batch, key=str):
            yield from leaves(batch[key])
    elif isinstance(batch, list | tuple) and not is_text(batch):
        for part in batch:
            yield from leaves(part)
    else:
        yield batch


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with ``function`` applied to its tensors; nested tuples, lists and mappings keep their type."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        mapped = {key: map_tensors(function, value) for key, value in batch.items()}
        if type(batch) is dict:
            return mapped
        other = copy.copy(
            batch
        )  # a tokenizer's BatchEncoding and its kind: same type, other values
        other.update(mapped)  # pyright: ignore[reportAttributeAccessIssue]
        return other
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, part) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, part) for part in batch)
    return batch


def count_examples(batch: Any) -> int:
    """The length along the first axis that most of the batch's tensors have; 1 where there is no tensor."""
    lengths = [len(leaf) for leaf in leaves(batch) if is_array(leaf) and leaf.ndim]
    return max(lengths, key=lengths.count) if lengths else 1


def is_array(part: object) -> bool:
    """Whether it is a tensor or an array."""
    return isinstance(part, Tensor | np.ndarray)


def is_text(part: object) -> bool:
    """Whether it is a list of strings, which counts as one leaf."""
    return (
        isinstance(part, list | tuple)
        and len(part) > 0
        and all(isinstance(item, str) for item in part)
    )
