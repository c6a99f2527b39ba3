"""The formats that are known, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ravine.errors import InputError
from ravine.points.formats import adapters, safetensors_files, shards, torch_files
from ravine.points.formats.adapters import Adapter

#: Each has ``reads(path)``, whether it is one of its kind, and ``read(path)``.
FORMATS: Final = (adapters, shards, safetensors_files, torch_files)


def read(path: Path) -> Mapping[Any, Any] | Adapter:
    """What a file or a folder holds: names and tensors, perhaps inside further mappings; or an adapter.

    Args:
        path: of a checkpoint in one of the formats.

    Raises:
        InputError: there is nothing there, no format knows it, or it is damaged.
    """
    if path == Path():
        msg = "the path of a checkpoint is empty"
        raise InputError(msg)
    if not path.exists():
        msg = f"there is no checkpoint {str(path)!r}"
        raise InputError(msg)
    for known in FORMATS:
        if known.reads(path):
            return known.read(path)
    counts = [len(list(path.glob(f"*.safetensors{ending}"))) for ending in (".index.json", "")]
    msg = (
        f"the folder {str(path)!r} is no checkpoint: expected one *.safetensors.index.json or one "
        f"*.safetensors file; found {counts[0]} and {counts[1]}. Name the file itself."
    )
    raise InputError(msg)
