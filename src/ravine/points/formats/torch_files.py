"""What ``torch.save`` wrote; never allowed to run code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ravine.errors import InputError


def reads(path: Path) -> bool:
    """Whether it may be one: any file."""
    return path.is_file()


def read(path: Path) -> Mapping[Any, Any]:
    """``torch.load`` with ``weights_only=True``: data and nothing else, mapped where the format allows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of pickle protocols: what matters is raised below
            mapped = zipfile.is_zipfile(path)  # the format of before torch 1.6 cannot be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as problem:
        said = str(problem)
        is_pickle = (
            zipfile.is_zipfile(path) or _first_byte(path) == b"\x80"
        )  # its first opcode, PROTO
        if "GLOBAL" in said or "allowed global" in said or ("Unsupported" in said and is_pickle):
            msg = (
                f"{str(path)!r} would have to run code to be read, and was not read. If you trust "
                "it, convert "
                "it once: torch.save(torch.load(path, weights_only=False).state_dict(), new_path), "
                "or take "
                "['state_dict'] of what it holds; or allow its classes by "
                "torch.serialization.add_safe_globals."
            )
            raise InputError(msg) from problem
        raise _no_checkpoint(path, problem) from problem
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as problem:
        raise _no_checkpoint(path, problem) from problem
    if not isinstance(loaded, Mapping):
        msg = f"{str(path)!r} holds a {type(loaded).__name__}; expected a state dict"
        raise InputError(msg)
    return loaded


def _no_checkpoint(path: Path, problem: Exception) -> InputError:
    said = (
        str(problem).strip() if not isinstance(problem, KeyError) else ""
    )  # a KeyError says only its key
    reason = f" ({said.splitlines()[0]})" if said else ""
    return InputError(f"{str(path)!r} is not a checkpoint, or is damaged{reason}")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)
