"""Inside: names that a file gives of others in its folder, which may be anything at all."""

from __future__ import annotations

from pathlib import Path


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name is of a file in the folder, and that file is there.

    Args:
        folder: with the file that gives the name.
        name: a path, a name that is too long, has a null byte, or is of something else than a
            file, is none.

    Examples:
        >>> is_inside(Path(), "../elsewhere"), is_inside(Path(), "x" * 5000)
        (False, False)
    """
    try:
        return Path(name).name == name and (folder / name).is_file()
    except (OSError, ValueError):
        return False
