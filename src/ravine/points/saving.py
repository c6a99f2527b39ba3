"""Saving: a point in a file that the training code loads: its names, its ties, its types."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import all_finite, is_float, same_values

#: More than this in one safetensors file of a folder begins another, as Hugging Face's
#: libraries do.
_SHARD: Final = 5 * 10**9

_TORCH: Final = (".pt", ".pth", ".bin", ".ckpt")
_WEIGHTS: Final = "model.safetensors"


def save_checkpoint(
    point: Any,
    path: str | os.PathLike[str],
    *,
    like: Any = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = _SHARD,
) -> Path:
    """Write a point to a file that the code that trained another one can load.

    Args:
        point: anything that an end of a ``Line`` may be: an average, a soup, an aligned checkpoint.
        path: where to write. ``.safetensors`` is one file (a tied tensor is written
            under each name that ``like`` has); ``.pt``, ``.pth``, ``.bin`` and ``.ckpt``
            are a state dict of ``torch.save``, in which ties stay ties; a path without
            an ending is a folder as Hugging Face's libraries write it,
            ``model.safetensors``, in shards with an index where it is large.
        like: the checkpoint whose names, types and order to follow, such as the file that training
            began with; what it holds beside parameters and the point lacks is copied from it. By
            default the point's own.
        dtype: of the floating-point parameters, in place of ``like``'s.
        shard_bytes: the most in one shard of a folder.

    Returns:
        The path.

    Raises:
        InputError: the point does not fit ``like``, a value has no place in the type, or the file
            cannot be written.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> half = {"module.w": torch.zeros(2, dtype=torch.bfloat16)}
        >>> soup = {"w": torch.tensor([1.0, 2.0])}
        >>> saved = save_checkpoint(soup, folder / "soup.safetensors", like=half)
        >>> from safetensors.torch import load_file
        >>> load_file(saved)
        {'module.w': tensor([1., 2.], dtype=torch.bfloat16)}
    """
    target = Path(path)
    if target.suffix not in ("", ".safetensors", *_TORCH):
        msg = (
            f"cannot tell the format of {str(target)!r}: expected .safetensors, one of "
            f"{', '.join(_TORCH)}, or a folder, without an ending"
        )
        raise InputError(msg)
    if shard_bytes < 1:
        msg = f"shard_bytes must be positive; got {shard_bytes}"
        raise InputError(msg)
    held = Checkpoint.read(point)
    held.require_unchanged()
    model = held if like is None else _with_ties(Checkpoint.read(like))
    tensors, ties = _as_held_by(model, matched(model, held), dtype)
    if target.suffix in _TORCH:
        _write_torch(tensors, ties, target)
    elif target.suffix:
        _write_safetensors(tensors, target)
    else:
        _write_folder(tensors, ties, target, shard_bytes)
    return target


def _with_ties(model: Checkpoint) -> Checkpoint:
    """With the ties that a format cannot say: two matrices of equal values, not all alike."""
    ties = dict(model.ties)
    first: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in model.params.items():
        if tensor.ndim < 2 or bool((tensor == tensor.reshape(-1)[:1]).all()):
            continue
        alike = first.setdefault((tuple(tensor.shape), tensor.dtype), [])
        found = next((n for n in alike if same_values(model.tensors[n], tensor)), None)
        if found is None:
            alike.append(name)
        else:
            ties[name] = found
    return replace(model, ties=ties)


def _as_held_by(
    model: Checkpoint, point: Checkpoint, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The point's tensors under the names and in the types of another, and the ties among them."""
    tensors: dict[str, Tensor] = {}
    for name, pattern in model.tensors.items():
        found = point.tensors.get(name, pattern)
        is_parameter = name not in model.buffers and is_float(found)
        kind = dtype if dtype is not None and is_parameter else pattern.dtype
        tensors[name] = found.detach().to(kind)
        if is_float(found) and all_finite(found) and not all_finite(tensors[name]):
            msg = f"{name!r} has values that {kind} cannot hold; choose another dtype"
            raise InputError(msg)
    ties = {alias: name for alias, name in point.ties.items() if {alias, name} <= tensors.keys()}
    return tensors, ties


def _write_torch(tensors: dict[str, Tensor], ties: Mapping[str, str], target: Path) -> None:
    tied = tensors | {alias: tensors[name] for alias, name in ties.items()}
    with written_whole(target) as partial:
        torch.save(tied, partial)


def _write_safetensors(tensors: Mapping[str, Tensor], target: Path) -> None:
    # the format has no shared memory
    apart = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    with written_whole(target) as partial:
        try:
            save_file(apart, partial, {"format": "pt"})
        except (safetensors.SafetensorError, OSError) as problem:
            msg = f"cannot write {str(target)!r}: {problem}. Make room, or choose another folder."
            raise InputError(msg) from problem


def _write_folder(
    tensors: dict[str, Tensor], ties: Mapping[str, str], folder: Path, most: int
) -> None:
    """One file, or shards and their index; tied tensors once, as transformers has them."""
    own = {name: tensor for name, tensor in tensors.items() if name not in ties}
    shards = _shards(own, most)
    if len(shards) == 1:
        _write_safetensors(own, folder / _WEIGHTS)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    size = sum(tensor.nbytes for tensor in own.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    with written_whole(folder / f"{_WEIGHTS}.index.json") as partial:
        partial.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """The tensors in order, in parts of at most so many bytes where one tensor is not larger."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards
