"""Files: written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ravine.errors import InputError

#: What says that a file cannot be written, and not that something else went wrong while it was.
_NO_WRITING: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)

#: What a spreadsheet takes for the beginning of a formula.
_FORMULAE: Final = ("=", "+", "-", "@", "\t", "\r")
#: A temporary file that was not touched for so long (seconds) was left by a process that is gone.
_FORGOTTEN: Final = 24 * 3600.0
#: How the temporary files of ``written_whole`` are called, of what is written here.
_STRAY: Final = re.compile(
    r"\..+\.(nc|html|png|pdf|svg|safetensors|json|pt|pth|bin|md|tex|csv|tsv)\.[a-z0-9_]{8}"
)
_swept: set[Path] = set()


class written_whole:  # noqa: N801  a context manager reads as a verb
    """Gives a temporary path beside the target, and moves it there only if the block succeeds.

    Raises:
        InputError: on entry or exit, if the target cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.target.name}.", dir=self.target.parent)
        except OSError as problem:
            raise self._cannot_write(problem) from problem
        os.close(handle)
        _sweep(self.target.parent.absolute())
        self.partial = Path(name)
        return self.partial

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: object
    ) -> None:
        if kind is None:
            try:
                self.partial.chmod(0o666 & ~_umask())  # mkstemp's files are private
                _flush(self.partial)
                self.partial.replace(self.target)
                return
            except OSError as problem:
                self.partial.unlink(missing_ok=True)
                raise self._cannot_write(problem) from problem
        self.partial.unlink(missing_ok=True)
        if value is not None and self._is_about_writing(value):
            raise self._cannot_write(value) from value

    def _is_about_writing(self, problem: BaseException) -> bool:
        if isinstance(problem, OSError):
            return problem.errno in _NO_WRITING or problem.filename == str(self.partial)
        return type(problem).__name__ == "SafetensorError"  # known here without importing torch

    def _cannot_write(self, problem: BaseException) -> InputError:
        said = getattr(problem, "strerror", None) or problem
        return InputError(f"cannot write {str(self.target)!r}: {said}. Choose another folder.")


def harmless_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: a quote stands before what would begin one.

    Examples:
        >>> harmless_cell("=HYPERLINK(1)"), harmless_cell("loss")
        ("'=HYPERLINK(1)", 'loss')
    """
    return f"'{text}" if text.startswith(_FORMULAE) else text


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, once a process.

    A live process needs its file for less than a day.
    """
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):  # a stray costs room, and nothing else
        for stray in os.scandir(folder):
            if not _STRAY.fullmatch(stray.name) or not stray.is_file(follow_symlinks=False):
                continue
            if time.time() - stray.stat().st_mtime > _FORGOTTEN:
                Path(stray.path).unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the contents on the disk before the name points to them.

    A power cut then leaves the one file or the other.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
