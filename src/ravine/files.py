"""Files: written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

from ravine.errors import InputError

#: What says that a file cannot be written, and not that something else went wrong while it was.
_NO_WRITING: Final = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)


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
        if isinstance(value, OSError) and value.errno in _NO_WRITING:
            raise self._cannot_write(value) from value

    def _cannot_write(self, problem: OSError) -> InputError:
        return InputError(
            f"cannot write {str(self.target)!r}: {problem.strerror or problem}. Choose another "
            "folder."
        )


def _flush(path: Path) -> None:
    """Have the contents on the disk before the name points to them: a power cut leaves the one file or the other."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
