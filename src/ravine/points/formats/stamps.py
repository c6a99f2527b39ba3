"""Stamps: whether a file is still the one that was read."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ravine.errors import InputError

_FRESH: Final = (
    3600.0  # seconds since a file was written, within which a training may write it again
)

#: Of the free memory, one part in so many may go to a copy of such a file: never all of it,
#: however many copies there are.
_SHARE: Final = 16


@dataclass(frozen=True)
class Stamp:
    """What tells one state of a file from another, as git tells it.

    Attributes:
        path: of the file.
        inode: which file stood there.
        size: in bytes.
        written: when it was last written, in nanoseconds.
    """

    path: Path
    inode: int
    size: int
    written: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Of a file as it stands now."""
        about = path.stat()
        return cls(path, about.st_ino, about.st_size, about.st_mtime_ns)

    @property
    def is_fresh(self) -> bool:
        """Whether it may well be written again: a ``last.pt`` of a training that goes on."""
        return time.time() - self.written / 1e9 < _FRESH

    @property
    def is_small(self) -> bool:
        """Whether memory has room for a copy."""
        return self.size <= _free() // _SHARE

    def require_same(self) -> None:
        """Raise if the file was written over in place; a new one of its name leaves it whole.

        Raises:
            InputError: its bytes may not be those that were read.
        """
        try:
            now = Stamp.of(self.path)
        except OSError:
            return  # removed: what is mapped stays until it is let go
        if now.inode == self.inode and now != self:
            msg = (
                f"{str(self.path)!r} has changed since it was read: something writes to it. Take a "
                "copy of the file and use that."
            )
            raise InputError(msg)


def _free() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # no such question here
        return 1 << 31
