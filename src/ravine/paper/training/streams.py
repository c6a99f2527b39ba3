"""Random streams: a seed for each purpose, so that no two streams are one."""

from __future__ import annotations

import hashlib
from typing import Any


def stream(*what: Any) -> int:
    """The seed of a purpose.

    Args:
        what: values with a stable repr: the recipe's seed, and what the stream is for.

    Returns:
        56 bits.

    Examples:
        >>> stream(0, "order") == stream(0, "order") != stream(0, "masks")
        True
    """
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:7], "big")
