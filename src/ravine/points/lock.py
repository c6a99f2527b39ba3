"""Lock: one process at a time writes to a folder."""

from __future__ import annotations

import contextlib
import os
import platform
import weakref
from pathlib import Path
from typing import IO, Final

from ravine.errors import InputError

try:
    import fcntl
except ImportError:  # Windows: two writers are then found by what they wrote
    fcntl = None

_NAME: Final = "trajectory.lock"


class FolderLock:
    """Held by a process while one of its recorders lives; let go of however it ends.

    A record lock (``lockf``): it reaches over network file systems, and forked workers do
    not inherit it.
    """

    _held: Final[weakref.WeakValueDictionary[Path, FolderLock]] = weakref.WeakValueDictionary()

    def __init__(self, path: Path) -> None:
        self.owner = os.getpid()  # a forked worker has this object, and not the lock
        self._end = weakref.finalize(self, _let_go, _locked(path), path, self.owner)

    @classmethod
    def on(cls, folder: Path) -> FolderLock:
        """This process's lock on a folder.

        Raises:
            InputError: another process holds it, or nothing can be written there.
        """
        place = folder.resolve()
        found = cls._held.get(place)
        if found is None or found.owner != os.getpid() or not (place / _NAME).exists():
            found = cls._held[place] = cls(place / _NAME)
        return found


def _locked(path: Path) -> IO[str]:
    """The file, open and locked.

    Raises:
        InputError: another process holds it, or nothing can be written there.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as problem:
            msg = (
                f"cannot write {str(path)!r}: {problem.strerror or problem}. Choose another folder."
            )
            raise InputError(msg) from problem
        try:
            _lock(file)
            is_current = path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, PermissionError) as problem:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            msg = (
                f"{owner} records into {str(path.parent)!r} already. Choose another folder for "
                "this training."
            )
            raise InputError(msg) from problem
        if is_current:  # else its owner took it away in between
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            return file
        file.close()


def _lock(file: IO[str]) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError:
        return  # a file system without locks


def _let_go(file: IO[str], path: Path, owner: int) -> None:
    if owner == os.getpid():
        # Windows takes no open file away; without its lock it does no harm
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    file.close()
