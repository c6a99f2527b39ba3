"""A folder of safetensors shards with an index, as large models are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats.safetensors_files import read_file

_INDEX: Final = "*.safetensors.index.json"


def reads(path: Path) -> bool:
    """Whether it is one."""
    return path.is_dir() and len(list(path.glob(_INDEX))) == 1


def read(path: Path) -> dict[str, Tensor]:
    """Its tensors by name, in the index's order.

    Raises:
        InputError: the index or a shard is damaged, or a shard is missing.
    """
    return _read_indexed(next(path.glob(_INDEX)))


def _read_indexed(index: Path) -> dict[str, Tensor]:
    try:
        shard_of = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as problem:
        msg = (
            f"{str(index)!r} is not an index of shards: expected JSON with a 'weight_map' "
            f"({problem})"
        )
        raise InputError(msg) from problem
    shards: dict[str, dict[str, Tensor]] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            msg = f"{str(index)!r} names the shard {shard!r}, which is not in its folder"
            raise InputError(msg)
        shards[shard] = read_file(index.parent / shard)
    lost = [name for name, shard in shard_of.items() if name not in shards[shard]]
    if lost:
        msg = (
            f"{str(index)!r} promises {lost[0]!r} in {shard_of[lost[0]]!r}, which lacks it "
            f"({len(lost)} in all)"
        )
        raise InputError(msg)
    return {name: shards[shard][name] for name, shard in shard_of.items()}
