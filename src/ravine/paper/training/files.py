"""Files of a run: written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import ravine


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write under; the file takes its own name only once it is complete.

    Args:
        path: its own name.

    Yields:
        The name to write under.

    Raises:
        ravine.InputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as problem:
        msg = (
            f"cannot write {str(path)!r}: {problem.strerror or problem}. Choose another folder "
            "with --out."
        )
        raise ravine.InputError(msg) from problem
