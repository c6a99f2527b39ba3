"""Stored: what a reader found, and the files that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ravine.points.formats.stamps import Stamp


@dataclass(frozen=True)
class Stored:
    """What a file or a folder holds.

    Attributes:
        held: names and tensors, perhaps inside further mappings.
        files: those that tensors are mapped from, as they were.
        buffers: the names that the file says are no parameters.
    """

    held: Mapping[Any, Any]
    files: tuple[Stamp, ...] = ()
    buffers: frozenset[str] = frozenset()
