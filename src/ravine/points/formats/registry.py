"""The known formats, in the order in which they are tried, and how a checkpoint is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ravine.errors import InputError
from ravine.points.formats import (
    adapters,
    deepspeed,
    distributed,
    foreign,
    hub,
    safetensors_files,
    shards,
    torch_files,
)
from ravine.points.formats.adapters import Adapter
from ravine.points.formats.stored import Stored

#: Each has ``reads(path)``, whether it is one of its kind, and ``read(path, settled=…)``.
FORMATS: Final = (
    adapters,
    shards,
    distributed,
    foreign,
    safetensors_files,
    deepspeed,
    torch_files,
)

#: Between the path of a file and the name of a state dict inside it.
_INSIDE: Final = "::"


def located(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """Where a checkpoint lies, and the name of the state dict inside it, "" if none is given.

    What exists under the whole of the name is that; only then is it taken apart, or fetched.

    Args:
        source: a path; a path, ``::`` and a name; or ``hf:org/model@revision``.

    Raises:
        InputError: there is nothing there.

    Examples:
        >>> located("nowhere.pt::ema")
        Traceback (most recent call last):
        ravine.errors.InputError: there is no checkpoint 'nowhere.pt'
    """
    text = os.fspath(source)
    if not text or text.startswith(_INSIDE):
        msg = "the path of a checkpoint is empty"
        raise InputError(msg)
    if _exists(Path(text)):
        return Path(text), ""
    outer, mark, wanted = text.rpartition(_INSIDE)
    place, wanted = (outer, wanted) if mark else (text, "")
    if _exists(Path(place)):
        return Path(place), wanted
    if place.startswith(hub.PREFIX):
        return hub.fetched(place), wanted
    msg = f"there is no checkpoint {place!r}"
    raise InputError(msg)


def knows(folder: Path) -> bool:
    """Whether a folder is a checkpoint in one of the formats."""
    return folder.is_dir() and any(known.reads(folder) for known in FORMATS)


def read(path: Path, *, settled: bool = False) -> Stored | Adapter:
    """What a file or folder holds: names and tensors, perhaps in mappings; or an adapter.

    Args:
        path: of a checkpoint in one of the formats.
        settled: whether nobody writes to it any more. A file that was written lately is otherwise
            copied into memory, where there is room; the others are mapped.

    Raises:
        InputError: no format knows it, or it is damaged.
    """
    for known in FORMATS:
        if known.reads(path):
            return known.read(path, settled=settled)
    if not path.is_dir():
        msg = f"{str(path)!r} is neither a file nor a folder"
        raise InputError(msg)
    there = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(there[:6]) + (f", … ({len(there)})" if len(there) > 6 else "")
    msg = (
        f"the folder {str(path)!r} is no checkpoint: expected one *.safetensors, "
        "pytorch_model.bin, one index of shards (*.index.json), adapter_config.json, the .metadata "
        f"of a distributed checkpoint, or DeepSpeed's latest; found {shown or 'nothing'}. Give one "
        "of its files or folders."
    )
    raise InputError(msg)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or one with a null byte
        return False
