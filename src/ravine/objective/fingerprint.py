"""Fingerprints: what tells one set of examples from another, whatever its order and batching."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from torch import Tensor

from ravine.objective.batches import count_examples, is_text, leaves
from ravine.objective.randomness import splitmix64
from ravine.points.params import bytes_of


class Fingerprint:
    """A 64-bit hash of a multiset of examples: the same in any order and any batching.

    Every example is hashed on its own (multilinear hashing of its bytes, then splitmix64), and the
    hashes are added modulo 2⁶⁴. It tells data sets apart; it is no protection against someone who
    wants a collision.

    Examples:
        >>> import torch
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> Fingerprint().add((x,)) == Fingerprint().add((x[[2, 0]],)).add((x[1:2],))
        True
    """

    def __init__(self) -> None:
        self.total = 0
        self.count = 0

    def add(self, batch: Any) -> Fingerprint:
        """Take in one batch."""
        rows = count_examples(batch)
        if rows == 0:
            return self
        hashes = np.zeros(rows, dtype=np.uint64)
        for place, leaf in enumerate(leaves(batch)):
            words = _words(leaf, rows)
            weights = splitmix64(
                np.arange(words.shape[1], dtype=np.uint64) + np.uint64((place + 1) << 32)
            ) | np.uint64(1)
            hashes += splitmix64(words @ weights + np.uint64(place))
        self.total = (self.total + int(splitmix64(hashes).sum(dtype=np.uint64))) % (1 << 64)
        self.count += rows
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fingerprint) and (self.total, self.count) == (
            other.total,
            other.count,
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]  it grows

    def __str__(self) -> str:
        return f"{self.total:016x}"


def _words(leaf: Any, rows: int) -> np.ndarray:
    """(rows, words) of uint64: each example's bytes, padded; a leaf that is not per example counts in every row."""
    if isinstance(leaf, Tensor):
        flat = bytes_of(leaf)
        per_example = leaf.ndim > 0 and len(leaf) == rows
    elif isinstance(leaf, np.ndarray):
        flat = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        per_example = leaf.ndim > 0 and len(leaf) == rows
    elif is_text(leaf) and len(leaf) == rows:
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in leaf)
        flat, per_example = np.frombuffer(digests, dtype=np.uint8), True
    else:
        flat, per_example = np.frombuffer(repr(leaf).encode(), dtype=np.uint8), False
    table = flat.reshape(rows if per_example else 1, -1)
    padded = np.pad(table, ((0, 0), (0, -table.shape[1] % 8))) if table.shape[1] % 8 else table
    words = np.ascontiguousarray(padded).view(np.uint64)
    return np.broadcast_to(words, (rows, words.shape[1]))
