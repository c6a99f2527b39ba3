"""Quiet: a library's warnings put aside, one thread at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# The interpreter's warning filters are one for all threads: two that set and restore them at once
# leave them changed.
_FILTERS: Final = threading.RLock()


@contextmanager
def quiet(*kinds: type[Warning]) -> Iterator[None]:
    """Ignore warnings of some kinds inside the block."""
    with _FILTERS, warnings.catch_warnings():
        for kind in kinds:
            warnings.simplefilter("ignore", kind)
        yield
