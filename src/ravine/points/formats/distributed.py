"""Checkpoints of ``torch.distributed.checkpoint`` (DCP): a folder of ``.distcp`` files with ``.metadata``.

Read by torch's own reader in this one process. Its metadata is a pickle, and entries that are no tensors are too:
the first is read with nothing but DCP's own classes allowed, the others not at all.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats.quiet import quiet
from ravine.points.formats.stored import Stored

_METADATA: Final = ".metadata"

#: What may stand in the metadata, by module.
_ALLOWED: Final = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "PurePosixPath"},
}  # fmt: skip


def reads(path: Path) -> bool:
    """Whether it is one."""
    return path.is_dir() and (path / _METADATA).is_file()


def read(path: Path, *, settled: bool = False) -> Stored:  # noqa: ARG001  nothing of it is mapped
    """Its tensors, under the keys that the training saved them by; those of optimisers are left out.

    Raises:
        InputError: it is damaged, a part is missing, or it would have to run code.
    """
    try:
        metadata = _metadata(path / _METADATA)
        wanted = _wanted(metadata)
        _require_there(path, metadata, wanted)
        held = {
            n: torch.empty(about.size, dtype=about.properties.dtype) for n, about in wanted.items()
        }
        _load(path, metadata, held)
    except InputError:
        raise
    except pickle.UnpicklingError as problem:
        msg = f"{str(path / _METADATA)!r} would have to run code to be read, and was not read ({problem})"
        raise InputError(msg) from problem
    except Exception as problem:  # a stranger's bytes
        said = str(problem).strip().splitlines()[:1]
        msg = (
            f"the folder {str(path)!r} (*.distcp) is no complete distributed checkpoint "
            f"({type(problem).__name__}{': ' if said else ''}{''.join(said)[:200]})"
        )
        raise InputError(msg) from problem
    return Stored(_nested(held, metadata.planner_data))


class _Metadata(pickle._Unpickler):  # the one in C reserves whatever memory a few bytes ask it for
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        msg = f"it names {module}.{name}"
        raise pickle.UnpicklingError(msg)


def _metadata(path: Path) -> Any:
    with path.open("rb") as file:
        return _Metadata(file).load()


def _wanted(metadata: Any) -> dict[str, Any]:
    """The tensors that are no optimiser's, by their flat names."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    return {
        name: about
        for name, about in metadata.state_dict_metadata.items()
        if isinstance(about, TensorStorageMetadata) and not name.startswith(("optim", "sched"))
    }


def _require_there(path: Path, metadata: Any, wanted: Mapping[str, Any]) -> None:
    """Refuse files elsewhere, and sizes that no file here could hold."""
    names = {str(about.relative_path) for about in metadata.storage_data.values()}
    lost = sorted(n for n in names if Path(n).name != n or not (path / n).is_file())
    if lost:
        msg = f"{str(path / _METADATA)!r} names {lost[0]!r}, which is not in its folder ({len(lost)} in all)"
        raise InputError(msg)
    stored = sum((path / name).stat().st_size for name in names)
    asked = sum(math.prod(a.size) * a.properties.dtype.itemsize for a in wanted.values())
    if asked > stored:
        msg = (
            f"{str(path / _METADATA)!r} promises {asked:,} bytes of tensors, and its files hold "
            f"{stored:,}. Copy the folder whole."
        )
        raise InputError(msg)


def _load(path: Path, metadata: Any, held: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import StorageMeta
    from torch.distributed.checkpoint.state_dict_loader import load

    class Reader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Any:
            return metadata

    if metadata.storage_meta is None:
        metadata.storage_meta = StorageMeta()
    try:
        with quiet(UserWarning):  # that one process loads
            load(dict(held), storage_reader=Reader(path), no_dist=True)
    except CheckpointException as problem:  # no Exception, but a BaseException
        first = next(iter(problem.failures.values()))[0]
        msg = str(first).strip() or type(first).__name__
        raise ValueError(msg) from problem


def _nested(held: Mapping[str, Tensor], places: Mapping[str, Any] | None) -> dict[str, Any]:
    """The tensors under the keys that the training saved them by, which DCP joined by dots."""
    found: dict[str, Any] = {}
    for flat, tensor in held.items():
        *outer, name = (places or {}).get(flat, (flat,))
        here = found
        for key in map(str, outer):
            here = here.setdefault(key, {})
        here[str(name)] = tensor
    return found
