"""Checkpoints of ``torch.distributed.checkpoint`` (DCP): ``.distcp`` files and ``.metadata``.

Read by torch's own reader, without the other processes. Its metadata is a pickle, and entries that
are no tensors are too: the first is read with nothing but DCP's own classes allowed, the others not
at all.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats.inside import is_inside
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
    """Its tensors, under the keys that the training gave them; optimisers' are left out.

    Raises:
        InputError: it is damaged, a part is missing, or it would have to run code.
    """
    with _said(path):
        metadata = _metadata(path / _METADATA)
        wanted = _wanted(metadata)
        _require_there(path, metadata, wanted)
        held = {
            n: torch.empty(about.size, dtype=about.properties.dtype) for n, about in wanted.items()
        }
        _load(path, metadata, held)
    return Stored(_nested(held, metadata.planner_data))


def read_like(
    path: Path,
    like: Mapping[str, Tensor],
    held: Callable[[str, torch.dtype], Tensor],
    dispensable: Collection[str],
) -> dict[str, Tensor]:
    """Those parts of its tensors that this process holds of a model.

    Args:
        path: the folder.
        like: the model's tensors by name, for their shapes.
        held: makes a tensor to read into, a DTensor for a part, of a name and a type.
        dispensable: the names that may be missing.

    Returns:
        The tensors by the model's names.

    Raises:
        InputError: it is damaged, has other names or shapes, or would have to run code.
    """
    with _said(path):
        metadata = _metadata(path / _METADATA)
        wanted = _wanted(metadata)
        _require_there(path, metadata, wanted)
        front = _front(path, wanted, [name for name in like if name not in dispensable])
        found: dict[str, Tensor] = {}
        for name, tensor in like.items():
            about = wanted.get(front + name)
            if about is None:
                continue
            if tuple(about.size) != tuple(tensor.shape):
                msg = (
                    f"{str(path)!r} has {name!r} of shape {tuple(about.size)}; the model's is "
                    f"{tuple(tensor.shape)}. Use checkpoints of one architecture."
                )
                raise InputError(msg)
            found[name] = held(name, about.properties.dtype)
        _load(path, metadata, {front + name: tensor for name, tensor in found.items()})
    return found


def _lacking(front: str, names: Sequence[str], stored: Mapping[str, Any]) -> list[str]:
    return [name for name in names if front + name not in stored]


def _front(path: Path, stored: Mapping[str, Any], names: Sequence[str]) -> str:
    """What stands before each of the names in the folder: nothing, or ``model.``, say."""
    fronts = [key.removesuffix(names[0]) for key in stored if key.endswith(names[0])]
    lacks = {front: _lacking(front, names, stored) for front in fronts}
    fitting = [front for front, lacking in lacks.items() if not lacking]
    if len(fitting) != 1:
        lacking = min(lacks.values(), key=len, default=_lacking("", names, stored))
        what = f"lacks {lacking[:3]}" if lacking else f"holds several models, under {fitting}"
        msg = f"{str(path)!r} {what}; expected the tensors of one model, by its names"
        raise InputError(msg)
    return fitting[0]


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Say in one sentence what is wrong with a folder."""
    try:
        yield
    except InputError:
        raise
    except pickle.UnpicklingError as problem:
        msg = (
            f"{str(path / _METADATA)!r} was not loaded: it contains pickled objects beyond tensors "
            f"({problem})"
        )
        raise InputError(msg) from problem
    except Exception as problem:  # a stranger's bytes
        said = str(problem).strip().splitlines()[:1]
        msg = (
            f"the folder {str(path)!r} (*.distcp) is no complete distributed checkpoint "
            f"({type(problem).__name__}{': ' if said else ''}{''.join(said)[:200]})"
        )
        raise InputError(msg) from problem


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
    lost = sorted(name for name in names if not is_inside(path, name))
    if lost:
        msg = (
            f"{str(path / _METADATA)!r} names {lost[0][:80]!r}, which is not in its folder "
            f"({len(lost)} in all)"
        )
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
