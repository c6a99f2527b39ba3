"""A safetensors file, or a folder with exactly one."""

from __future__ import annotations

from pathlib import Path

import safetensors
from torch import Tensor

from ravine.errors import InputError


def reads(path: Path) -> bool:
    """Whether it is one."""
    if path.is_dir():
        return len(list(path.glob("*.safetensors"))) == 1
    return path.suffix == ".safetensors"


def read(path: Path) -> dict[str, Tensor]:
    """Its tensors by name.

    Raises:
        InputError: the file is damaged.
    """
    return read_file(next(path.glob("*.safetensors")) if path.is_dir() else path)


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped into memory.

    Raises:
        InputError: it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  not a mapping
    except (safetensors.SafetensorError, OSError) as problem:
        msg = f"{str(path)!r} is not a complete safetensors file ({problem})"
        raise InputError(msg) from problem
