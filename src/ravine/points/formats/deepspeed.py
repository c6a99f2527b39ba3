"""DeepSpeed's folders: ``latest`` names a ``global_step…`` that holds the model's states."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ravine.errors import InputError
from ravine.points.formats import torch_files
from ravine.points.formats.stored import Stored

_STATES: Final = "*_model_states.pt"
_CONVERT: Final = (
    "python zero_to_fp32.py FOLDER OUTPUT (DeepSpeed puts that script beside its checkpoints)"
)


def reads(path: Path) -> bool:
    """Whether it is such a folder, or a file of one."""
    if path.is_file():
        return path.match(_STATES)
    return any(path.glob(_STATES)) or (path / "latest").is_file()


def read(path: Path, *, settled: bool = False) -> Stored:
    """The weights of stages 0 to 2, which every process holds whole.

    Raises:
        InputError: the weights are in parts (ZeRO-3, tensor or pipeline parallel), or a
            file is missing.
    """
    if path.is_file():
        return _whole(path, settled=settled)
    folder = path if any(path.glob(_STATES)) else _latest(path)
    files = sorted(folder.glob(_STATES))
    parts = [file.name for file in files if file.name.startswith("zero_pp_rank_")]
    if parts or len(files) != 1:
        what = (
            "in the parts of ZeRO-3"
            if parts
            else f"in {len(files)} parts (tensor or pipeline parallel)"
        )
        msg = (
            f"the folder {str(folder)!r} holds DeepSpeed's weights {what}. Join them once: "
            f"{_CONVERT}, and give what it writes."
        )
        raise InputError(msg)
    return _whole(files[0], settled=settled)


def _latest(path: Path) -> Path:
    """The folder that ``latest`` names.

    Raises:
        InputError: it is not there, or lies elsewhere.
    """
    try:
        name = (path / "latest").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        name = ""
    folder = path / name
    if name not in _folders(path) or not any(folder.glob(_STATES)):
        there = ", ".join(_folders(path)[:5]) or "none"
        msg = (
            f"{str(path / 'latest')!r} names {name[:80]!r}, which is no folder of DeepSpeed's with "
            f"{_STATES}; there are: {there}. Give one of those, such as global_step500."
        )
        raise InputError(msg)
    return folder


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir())


def _whole(path: Path, *, settled: bool) -> Stored:
    found = torch_files.read(path, settled=settled)
    is_part = path.name.startswith("zero_pp_rank_")
    module = found.held.get("module")
    if is_part or module is None:
        msg = (
            f"{str(path)!r} holds one process's part of the weights (ZeRO-3). Join them once: "
            f"{_CONVERT}, and give what it writes."
        )
        raise InputError(msg)
    return Stored({"module": module}, found.files)
