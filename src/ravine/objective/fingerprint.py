"""Fingerprints: what tells one set of examples from another, whatever its order and batching."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, unpack_sequence

from ravine.errors import InputError
from ravine.objective.batches import dense_parts, is_list_of_items, length_of, rows_of
from ravine.objective.randomness import splitmix64
from ravine.objective.trees import children, flatten
from ravine.points.params import bytes_of

_DEEPEST: Final = 32  # containers inside containers, where an object is read by way of pickle


class Fingerprint:
    """A 64-bit hash of a multiset of examples: the same in any order and any batching.

    Every example is hashed on its own (multilinear hashing of its bytes, then
    splitmix64), and the hashes are added modulo 2⁶⁴. A batch in which it cannot be told
    what belongs to which example (a graph, a bag) is hashed as one. It tells data sets
    apart; it is no protection against someone who wants a collision.

    Args:
        strict: whether something that cannot be read is an error; if not, it is left out.

    Examples:
        >>> import torch
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> Fingerprint().add((x,)) == Fingerprint().add((x[[2, 0]],)).add((x[1:2],))
        True
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.total = 0
        self.count = 0
        #: whether a batch had to be hashed as one
        self.whole = False
        #: types of what could not be read
        self.unread: set[str] = set()
        self._strict = strict
        self._order = hashlib.blake2b(digest_size=16)
        self._stretch = hashlib.blake2b(digest_size=16)

    def add(self, batch: Any) -> Fingerprint:
        """Take in one batch.

        Raises:
            InputError: it holds something that cannot be read, such as a generator.
        """
        rows, counted = rows_of(batch)
        if rows == 0:
            return self
        hashes = self._by_row(batch, rows) if counted else None
        if hashes is None:
            self.whole = True
            hashes = self._words_of_items([batch])[:, 0]
        self._order.update(hashes.tobytes())
        self._stretch.update(hashes.tobytes())
        self.total = (self.total + int(splitmix64(hashes).sum(dtype=np.uint64))) % (1 << 64)
        self.count += rows
        return self

    @property
    def in_order(self) -> str:
        """A hash of the examples so far in their order, whatever the batching."""
        return self._order.hexdigest()

    def cut(self) -> str:
        """A hash of the examples since the last cut, in their order; and a new stretch begins."""
        found = self._stretch.hexdigest()
        self._stretch = hashlib.blake2b(digest_size=16)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and (self.total, self.count) == (
            other.total,
            other.count,
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]  it grows

    def __str__(self) -> str:
        left_out = f", without {', '.join(sorted(self.unread))}" if self.unread else ""
        return f"{self.total:016x}{left_out}"

    def _by_row(self, batch: Any, rows: int) -> np.ndarray:
        """(rows,) a hash of each example."""
        hashes = np.zeros(rows, dtype=np.uint64)
        for place, column in enumerate(_columns(batch, rows)):
            words = self._words(column, rows)
            # other weights for every column; odd ones, which lose no bit of a word modulo 2⁶⁴
            weights = splitmix64(
                np.arange(words.shape[1], dtype=np.uint64) + np.uint64((place + 1) << 32)
            ) | np.uint64(1)
            hashes += splitmix64(words @ weights + np.uint64(place))
        return hashes

    def _words(self, column: Any, rows: int) -> np.ndarray:
        """(rows, words) of uint64: each example's bytes, padded; what all share is in every row."""
        flat = _bytes_by_row(column, rows)
        if flat is None:
            column = _listed(column, rows)
            by_row = isinstance(column, list | tuple) and len(column) == rows
            words = self._words_of_items(column if by_row else [column])
            return np.broadcast_to(words, (rows, words.shape[1]))
        table = flat.reshape(rows, -1)
        padded = np.pad(table, ((0, 0), (0, -table.shape[1] % 8))) if table.shape[1] % 8 else table
        return np.ascontiguousarray(padded).view(np.uint64)

    def _words_of_items(self, items: Any) -> np.ndarray:
        """(items, 1) a digest of each."""
        digests = b"".join(self._digest(item) for item in items)
        return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 1)

    def _digest(self, item: Any) -> bytes:
        digest = hashlib.blake2b(digest_size=8)
        for part in self._content(item, 0):
            digest.update(part)
        return digest.digest()

    def _content(self, item: Any, depth: int) -> Iterator[Any]:
        """What an item consists of, as bytes."""
        if isinstance(item, str):
            yield item.encode()
            return
        leaves, _ = flatten(item)
        yield f"{len(leaves)}|".encode()
        for leaf in leaves:
            yield f"{type(leaf).__qualname__}|".encode()
            yield from self._leaf(leaf, depth)

    def _leaf(self, leaf: Any, depth: int) -> Iterator[Any]:
        other: Any = leaf
        if isinstance(leaf, Tensor):
            yield f"{leaf.dtype}|{leaf.layout}|".encode()
            for part in dense_parts(leaf):
                yield f"{tuple(part.shape)}|".encode()
                yield bytes_of(part)
        elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
            yield f"{leaf.dtype}|{leaf.shape}|".encode()
            yield np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        elif isinstance(leaf, str):
            yield leaf.encode()
        elif isinstance(leaf, bytes | int | float | complex | np.generic | torch.dtype | None):
            yield repr(leaf).encode()
        elif isinstance(leaf, set | frozenset):
            yield from sorted(self._digest(part) for part in leaf)
        elif hasattr(other, "tobytes") and hasattr(other, "mode"):  # an image
            yield f"{other.mode}|{other.size}|".encode()
            yield other.tobytes()
        elif callable(other) and hasattr(other, "__qualname__"):
            yield f"{other.__module__}.{other.__qualname__}".encode()
        else:
            yield from self._by_pickle(leaf, depth)

    def _by_pickle(self, leaf: Any, depth: int) -> Iterator[Any]:
        """What ``pickle`` would keep of an object, without the addresses in its stream."""
        try:
            if depth > _DEEPEST:
                raise RecursionError
            kept = leaf.tolist() if isinstance(leaf, np.ndarray) else leaf.__reduce_ex__(2)
            if isinstance(kept, tuple):  # what is iterated over may be read but once
                kept = [list(part) if isinstance(part, Iterator) else part for part in kept]
        except Exception as problem:
            name = type(leaf).__qualname__
            self.unread.add(name)
            if not self._strict:
                return
            msg = (
                f"a batch holds an object of type {name}, whose content cannot be read "
                f"({type(problem).__name__}: {problem}), so ravine cannot check that every pass "
                "gives the same examples. Leave it out of the batch, or pass "
                "Objective(..., check_data=False)."
            )
            raise InputError(msg) from problem
        yield from self._content(kept, depth + 1)


def _columns(batch: Any, rows: int) -> Iterator[Any]:
    """The parts of a batch: arrays and lists with an entry a row, and what all rows share."""
    parts = None if isinstance(batch, PackedSequence) else children(batch)
    items = isinstance(batch, list | tuple) and len(batch) == rows
    mixed = items and not all(_is_column(part, rows) for part in batch)
    if parts is None or mixed or (items and is_list_of_items(batch)):
        yield batch
    else:
        for part in parts:
            yield from _columns(part, rows)


def _is_column(part: Any, rows: int) -> bool:
    if isinstance(part, list | tuple):
        return len(part) == rows
    return length_of(part) == rows


def _listed(column: Any, rows: int) -> Any:
    """What holds arrays of several lengths, one for each row, as a list of them."""
    if isinstance(column, PackedSequence) and int(column.batch_sizes[0]) == rows:
        return unpack_sequence(column)
    if isinstance(column, Tensor) and column.is_nested and column.size(0) == rows:
        return list(column.unbind())
    if isinstance(column, np.ndarray) and column.dtype == object and column.ndim:
        return list(column)
    return column


def _bytes_by_row(column: Any, rows: int) -> np.ndarray | None:
    """An array's bytes, one row after the other; None of anything else."""
    if length_of(column) != rows:
        return None
    if isinstance(column, Tensor):
        plain = not column.is_nested and column.layout == torch.strided and not column.is_quantized
        return bytes_of(column) if plain else None
    if column.dtype == object:
        return None
    return np.ascontiguousarray(column).reshape(-1).view(np.uint8)
