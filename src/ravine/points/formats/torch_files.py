"""What ``torch.save`` wrote; never allowed to run code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from ravine.errors import InputError
from ravine.points.formats.quiet import quiet
from ravine.points.formats.stamps import Stamp
from ravine.points.formats.stored import Stored

#: How transformers calls the one file of a folder.
_WEIGHTS: Final = "pytorch_model.bin"
#: How many times its size a packed file may unpack to, beyond some bytes: weights hardly shrink
#: at all.
_MOST_DENSE: Final = 50
_ALWAYS_READ: Final = 1 << 26  # bytes


def reads(path: Path) -> bool:
    """Whether it may be one: any file, or a folder with the one that transformers writes."""
    return path.is_file() or (path / _WEIGHTS).is_file()


def read(path: Path, *, settled: bool = False) -> Stored:
    """``torch.load`` with ``weights_only=True``, on the CPU, mapped if the format allows.

    Args:
        path: of the file.
        settled: whether nobody writes to it any more; else a fresh file is copied into memory.

    Raises:
        InputError: it is damaged, holds no mapping, or would have to run code.
    """
    path = path / _WEIGHTS if path.is_dir() else path
    try:
        stamp = Stamp.of(path)
        mapped = _can_be_mapped(path) and (settled or not (stamp.is_fresh and stamp.is_small))
        with quiet(UserWarning):  # of pickle protocols: what matters is raised below
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except (
        Exception
    ) as problem:  # a stranger's bytes: the unpickler raises whatever they make it raise
        if "Unsupported operand 149" in str(problem):  # FRAME, of protocol 4
            raise _another_protocol(path) from problem
        if isinstance(problem, pickle.UnpicklingError) and _wants_code(path, str(problem)):
            raise _would_run_code(path) from problem
        raise _no_checkpoint(path, problem) from problem
    if isinstance(loaded, list | tuple):
        loaded = {str(number): entry for number, entry in enumerate(loaded)}
    if not isinstance(loaded, Mapping):
        msg = f"{str(path)!r} holds a {type(loaded).__name__}; expected a state dict"
        raise InputError(msg)
    if not mapped:
        stamp.require_same()
    return Stored(loaded, (stamp,) if mapped else ())


def _can_be_mapped(path: Path) -> bool:
    """Whether the tensors' bytes stand in the file as they are.

    They do not before torch 1.6, nor where they are compressed.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    _require_bounded(path, sum(member.file_size for member in members))
    return all(member.compress_type == zipfile.ZIP_STORED for member in members)


def _require_bounded(path: Path, unpacked: int) -> None:
    """Refuse a few bytes that unpack to gigabytes."""
    size = path.stat().st_size
    if unpacked > _MOST_DENSE * size + _ALWAYS_READ:
        msg = (
            f"{str(path)!r} has {size:,} bytes and unpacks to {unpacked:,}; weights do not shrink "
            "so. Where it was written, save its tensors again: torch.save(model.state_dict(), "
            "new_path)."
        )
        raise InputError(msg)


def _wants_code(path: Path, said: str) -> bool:
    is_pickle = zipfile.is_zipfile(path) or _first_byte(path) == b"\x80"  # its first opcode, PROTO
    return "GLOBAL" in said or "allowed global" in said or ("Unsupported" in said and is_pickle)


def _another_protocol(path: Path) -> InputError:
    return InputError(
        f"{str(path)!r} was not loaded: it was saved by a pickle protocol above 3, which torch "
        "does not load without running code. Where it was written, save its tensors again: "
        "torch.save(model.state_dict(), new_path, pickle_protocol=2)."
    )


def _would_run_code(path: Path) -> InputError:
    return InputError(
        f"{str(path)!r} was not loaded: it contains pickled objects beyond tensors. Where it was "
        "written, save its tensors alone: torch.save(model.state_dict(), new_path); or allow its "
        "classes by torch.serialization.add_safe_globals."
    )


def _no_checkpoint(path: Path, problem: Exception) -> InputError:
    """Of damage: torch's own words only where they are about it.

    Its advice to load without ``weights_only`` is never passed on.
    """
    # a KeyError says only its key
    said = "" if isinstance(problem, KeyError) else str(problem).strip()
    first = said.splitlines()[0][:200] if said else ""
    reason = "" if not first or "eights only" in first or "weights_only" in first else f" ({first})"
    return InputError(f"{str(path)!r} is not a checkpoint, or is damaged{reason}")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)
