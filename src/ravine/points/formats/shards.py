"""Shards with an index, of safetensors or torch's files; by their folder or the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats import safetensors_files, torch_files
from ravine.points.formats.inside import is_inside
from ravine.points.formats.stamps import Stamp
from ravine.points.formats.stored import Stored

#: In the order in which a folder that has both is read.
_ENDINGS: Final = (".safetensors.index.json", ".bin.index.json", ".pt.index.json")


def reads(path: Path) -> bool:
    """Whether it is one."""
    return _index_of(path) is not None


def read(path: Path, *, settled: bool = False) -> Stored:
    """Its tensors by name, in the index's order.

    Raises:
        InputError: the index or a shard is damaged, or a shard is missing.
    """
    index = _index_of(path)
    assert index is not None  # ``reads`` said so
    return _read_indexed(index, settled=settled)


def is_complete(folder: Path) -> bool:
    """Whether every shard that the folder's index names is there; True where it has no index."""
    index = _index_of(folder)
    return index is None or all(is_inside(folder, shard) for shard in _shard_of(index).values())


def _index_of(path: Path) -> Path | None:
    if path.is_file():
        return path if path.name.endswith(_ENDINGS) else None
    for ending in _ENDINGS:
        found = [file for file in path.glob(f"*{ending}") if file.is_file()]
        if len(found) == 1:
            return found[0]
    return None


def _read_indexed(index: Path, *, settled: bool) -> Stored:
    shard_of = _shard_of(index)
    shards: dict[str, Stored] = {}
    for shard in sorted(set(shard_of.values())):
        if not is_inside(index.parent, shard):
            msg = f"{str(index)!r} names the shard {shard[:80]!r}, which is not in its folder"
            raise InputError(msg)
        shards[shard] = _read_shard(index.parent / shard, settled=settled)
    lost = [name for name, shard in shard_of.items() if name not in shards[shard].held]
    if lost:
        msg = (
            f"{str(index)!r} promises {lost[0]!r} in {shard_of[lost[0]]!r}, which lacks it "
            f"({len(lost)} in all)"
        )
        raise InputError(msg)
    tensors: dict[str, Tensor] = {n: shards[shard].held[n] for n, shard in shard_of.items()}
    files: tuple[Stamp, ...] = sum((found.files for found in shards.values()), ())
    return Stored(tensors, files)


def _read_shard(path: Path, *, settled: bool) -> Stored:
    reader = safetensors_files.read_file if path.suffix == ".safetensors" else torch_files.read
    return reader(path, settled=settled)


def _shard_of(index: Path) -> dict[str, str]:
    """Tensor's name → shard's, as the index has it."""
    try:
        held: Any = json.loads(index.read_text(encoding="utf-8"))
        found = held["weight_map"]
        if not isinstance(found, dict) or not all(isinstance(s, str) for s in found.values()):
            found = None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        msg = (
            f"{str(index)!r} is not an index of shards: expected JSON with a 'weight_map' "
            f"({problem})"
        )
        raise InputError(msg) from problem
    if not found:
        msg = (
            f"{str(index)!r} is not an index of shards: expected a 'weight_map' from names to "
            f"files, got {str(held.get('weight_map'))[:80]}"
        )
        raise InputError(msg)
    return found
