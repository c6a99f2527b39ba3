"""A safetensors file, or a folder with exactly one or with transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import safetensors
from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats.stamps import Stamp
from ravine.points.formats.stored import Stored

#: Under this key a recording lists its buffers in a file's metadata.
BUFFERS: Final = "ravine.buffers"


#: How transformers calls the one file of a folder, whatever lies beside it.
_WEIGHTS: Final = "model.safetensors"


def reads(path: Path) -> bool:
    """Whether it is one."""
    return _file_of(path) is not None


def read(path: Path, *, settled: bool = False) -> Stored:
    """Its tensors by name.

    Raises:
        InputError: the file is damaged.
    """
    file = _file_of(path)
    assert file is not None  # ``reads`` said so
    return read_file(file, settled=settled)


def _file_of(path: Path) -> Path | None:
    if not path.is_dir():
        return path if path.suffix == ".safetensors" and path.is_file() else None
    if (path / _WEIGHTS).is_file():
        return path / _WEIGHTS
    found = [file for file in path.glob("*.safetensors") if file.is_file()]
    return found[0] if len(found) == 1 else None


def read_file(path: Path, *, settled: bool = False) -> Stored:
    """The tensors of one file, mapped into memory; copied where it may be written again.

    Args:
        path: of the file.
        settled: whether nobody writes to it any more.

    Raises:
        InputError: it is damaged.
    """
    try:
        stamp = Stamp.of(path)
        with safetensors.safe_open(path, framework="pt", device="cpu") as stored:
            tensors: dict[str, Tensor] = {
                name: stored.get_tensor(name)
                for name in stored.keys()  # noqa: SIM118  not a mapping
            }
            about = stored.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RuntimeError) as problem:
        msg = f"{str(path)!r} is not a complete safetensors file ({problem})"
        raise InputError(msg) from problem
    if stamp.is_fresh and stamp.is_small and not settled:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        stamp.require_same()
        return Stored(tensors, (), _buffers(about))
    return Stored(tensors, (stamp,), _buffers(about))


def _buffers(about: dict[str, Any]) -> frozenset[str]:
    """The names that a recording's metadata lists; what is no such list says nothing."""
    try:
        listed = json.loads(about.get(BUFFERS, "[]"))
    except ValueError:
        return frozenset()
    return frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()
