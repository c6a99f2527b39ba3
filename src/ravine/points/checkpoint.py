"""Checkpoints: a module, a state dict or a file, read as named tensors, and two of them made to agree.

Files are mapped into memory, not read: a tensor's bytes come from disk when something looks at
them. No file is ever allowed to run code.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ravine.errors import InputError
from ravine.points.formats import registry
from ravine.points.formats.adapters import Adapter
from ravine.points.params import Params, is_float, same_values, version_of

#: What PyTorch calls the running statistics of its normalisation layers.
RUNNING_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")

#: Wrappers leave these in front of every name.
PREFIXES: Final = ("module.", "_orig_mod.", "model.")

#: Where training scripts put the state dict inside a checkpoint dict; the first is Lightning's.
_STATE_KEYS: Final = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors as some source holds them: parameters, and buffers where the source has them.

    Attributes:
        tensors: every stored name, aliases of tied tensors included, in the source's order.
        label: where they came from, for messages and figures.
        ties: alias → the name that stands for it. Empty where the format cannot tell (safetensors).
        buffers: the names known not to be parameters. A file cannot say, so there it is what can be
            told from names and types: running statistics, and whatever is not floating point.
        versions: how often each tensor had been changed in place when it was read.
        adapter: if the source is a low-rank adapter: a change to a base, which is no point until it
            is aligned with that base.
    """

    tensors: dict[str, Tensor]
    label: str
    ties: dict[str, str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    versions: dict[str, int] = field(default_factory=dict, repr=False)
    adapter: Adapter | None = None

    @classmethod
    def read(cls, source: Any) -> Checkpoint:
        """Read a module, a mapping of tensors, a checkpoint dict, a file or a folder.

        Args:
            source: an ``nn.Module`` (wrappers such as DDP and ``torch.compile`` are looked
                through), a state dict or any mapping of names to tensors, a dict that holds one
                under ``"state_dict"``, ``"model_state_dict"`` or ``"model"``, or the path of a
                ``.safetensors``, ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file, or of a folder with
                (sharded) safetensors.

        Raises:
            InputError: it is none of these, or the file is missing, damaged, or would have to run
                code.

        Examples:
            >>> Checkpoint.read(nn.Linear(2, 1)).tensors.keys()
            dict_keys(['weight', 'bias'])
        """
        if isinstance(source, Checkpoint):
            return source
        if isinstance(source, nn.Module):
            return _from_module(unwrap(source))
        if isinstance(source, str | os.PathLike):
            return _from_path(Path(source))
        if isinstance(source, Mapping):
            return _from_mapping(source, label="a state dict")
        msg = (
            f"a point must be a module, a mapping of tensors or a path; got {type(source).__name__}"
        )
        raise InputError(msg)

    @property
    def params(self) -> Params:
        """The floating-point parameters, tied tensors once."""
        return {
            n: t for n, t in self.tensors.items() if n not in self.buffers and n not in self.ties
        }

    def require_unchanged(self) -> None:
        """Raise if a tensor has been changed in place since it was read.

        Raises:
            InputError: naming the tensor. A ``state_dict()`` holds the live tensors of its module,
                so the "initialisation" of a model that was then trained is the solution, and the
                line is flat.
        """
        for name, version in self.versions.items():
            if version_of(self.tensors[name]) != version:
                msg = (
                    f"{self.label} has changed since it was read (at {name!r}): a module and its "
                    "state_dict() "
                    "are live. Take a copy, copy.deepcopy(model.state_dict()), before training "
                    "goes on."
                )
                raise InputError(msg)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and ``torch.compile`` wrappers."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # pyright: ignore[reportAssignmentType]  torch.compile's OptimizedModule
        else:
            return model


def matched(reference: Checkpoint, other: Checkpoint) -> Checkpoint:
    """``other`` under the names of ``reference``, or an error that lists every difference.

    An adapter becomes the model that it makes of the reference. Wrapper prefixes are stripped on
    either side when that makes the names agree. A tied tensor may stand under any of its names, and
    buffers may be missing on either side; nothing else may differ.

    Args:
        reference: whose names and ties count.
        other: what to rename.

    Returns:
        ``other`` with the reference's names.

    Raises:
        InputError: names, shapes, types or ties differ.

    Examples:
        >>> a = Checkpoint.read({"w": torch.zeros(2)})
        >>> matched(a, Checkpoint.read({"module.w": torch.ones(2)})).tensors
        {'w': tensor([1., 1.])}
    """
    if reference.adapter is not None:
        msg = (
            f"{reference.label} is an adapter, a change to a base model and no point by itself. "
            "Give the base first: "
            "Line(base, adapter)."
        )
        raise InputError(msg)
    if other.adapter is not None:
        adapted = _retied(other.adapter.applied_to(reference.tensors, reference.label), reference)
        kept = {n: v for n, v in reference.versions.items() if adapted[n] is reference.tensors[n]}
        return replace(reference, tensors=adapted, label=other.label, versions=kept)
    renamed = _nearest_names(reference, other)
    found = list(differences(reference, renamed))
    if found:
        listed = "".join(f"\n  {line}" for line in found[:20])
        rest = f"\n  … and {len(found) - 20} more" if len(found) > 20 else ""
        msg = (
            f"{reference.label} and {other.label} are not points of the same space; {len(found)} "
            f"difference{'s' if len(found) > 1 else ''}:{listed}{rest}\nUse checkpoints of one "
            "architecture."
        )
        raise InputError(msg)
    completed = _completed(renamed, reference.ties)
    same = list(completed.tensors) == list(other.tensors) and completed.ties == other.ties
    return (
        other if same else completed
    )  # so that one point stays one object, however many lines it ends


def _nearest_names(reference: Checkpoint, other: Checkpoint) -> Checkpoint:
    """``other`` under the names by which it differs least; of equals, with the fewest prefixes changed."""
    best, least = other, (math.inf, 0)
    for steps, candidate in _candidates(reference, other):
        missing, extra = _absent(reference, candidate)
        apart = (len(missing) + len(extra), steps)
        if apart < least:
            best, least = candidate, apart
    return best


def _retied(tensors: dict[str, Tensor], base: Checkpoint) -> dict[str, Tensor]:
    """Where an adapter changed one of several tied tensors, each of them is the changed one."""
    for alias, name in base.ties.items():
        changed = next((n for n in (name, alias) if tensors[n] is not base.tensors[n]), name)
        tensors[alias] = tensors[name] = tensors[changed]
    return tensors


def _completed(checkpoint: Checkpoint, ties: dict[str, str]) -> Checkpoint:
    """The checkpoint with a tied tensor under each of its names, where it holds it under one of them."""
    tensors = dict(checkpoint.tensors)
    for alias, name in ties.items():
        if name not in tensors and alias in tensors:
            tensors[name] = tensors[alias]
    tensors |= {
        alias: tensors[name]
        for alias, name in ties.items()
        if alias not in tensors and name in tensors
    }
    return replace(checkpoint, tensors=tensors, ties={**ties, **checkpoint.ties})


def differences(reference: Checkpoint, other: Checkpoint) -> Iterator[str]:
    """One line for everything that keeps two checkpoints from being points of one space.

    Args:
        reference: one checkpoint.
        other: another, already under the names that fit best.

    Yields:
        Missing and extra names, then differing shapes, types and ties.
    """
    missing, extra = _absent(reference, other)
    yield from (f"missing in {other.label}: {name!r}" for name in missing)
    yield from (f"only in {other.label}: {name!r}" for name in extra)
    for name, tensor in reference.tensors.items():
        found = other.tensors.get(name)
        if found is None:
            continue
        if found.shape != tensor.shape:
            yield f"shape at {name!r}: {tuple(tensor.shape)} and {tuple(found.shape)}"
        elif is_float(found) != is_float(tensor):
            yield f"type at {name!r}: {tensor.dtype} and {found.dtype}"
    for owner, group in (("the first", reference), ("the second", other)):
        mate = other if group is reference else reference
        for alias, name in group.ties.items():
            if (
                alias in mate.tensors
                and name in mate.tensors
                and mate.ties.get(alias, alias) != name
            ):
                one, two = mate.tensors[alias], mate.tensors[name]
                if not same_values(one, two):
                    yield f"{name!r} and {alias!r} are tied in {owner}, and differ in the other"


def _absent(reference: Checkpoint, other: Checkpoint) -> tuple[list[str], list[str]]:
    return _lacking(reference, other), _lacking(other, reference)


def _lacking(owner: Checkpoint, mate: Checkpoint) -> list[str]:
    """Parameters of the owner that the mate has under none of their names."""
    groups: dict[str, list[str]] = {}
    for name in owner.tensors:
        groups.setdefault(owner.ties.get(name, name), []).append(name)
    return [
        name
        for name, names in groups.items()
        if name not in owner.buffers and not any(alias in mate.tensors for alias in names)
    ]


def _candidates(reference: Checkpoint, other: Checkpoint) -> Iterator[tuple[int, Checkpoint]]:
    """``other`` under every name it may go by, with the number of prefixes stripped or put back."""
    for lost, renaming in enumerate(_strippings(reference.tensors)):
        restored = {new: old for old, new in renaming.items()}
        for gone, stripping in enumerate(_strippings(other.tensors)):
            names = {old: restored.get(new, new) for old, new in stripping.items()}
            yield lost + gone, _rename(other, names)


def _strippings(names: Iterable[str]) -> Iterator[dict[str, str]]:
    """Old → new name with nothing stripped, then one more prefix stripped each time, while all names share it."""
    current = {name: name for name in names}
    yield current
    inner = {
        old: new.replace("._orig_mod.", ".") for old, new in current.items()
    }  # a compiled submodule
    if inner != current and len(set(inner.values())) == len(inner):
        current = inner
        yield current
    while current:
        prefix = next(
            (p for p in PREFIXES if all(new.startswith(p) for new in current.values())), None
        )
        if prefix is None:
            return
        current = {old: new.removeprefix(prefix) for old, new in current.items()}
        yield current


def _rename(checkpoint: Checkpoint, names: dict[str, str]) -> Checkpoint:
    return replace(
        checkpoint,
        tensors={names[n]: t for n, t in checkpoint.tensors.items()},
        ties={names[a]: names[n] for a, n in checkpoint.ties.items()},
        buffers=frozenset(names[n] for n in checkpoint.buffers),
        versions={names[n]: v for n, v in checkpoint.versions.items()},
    )


# --- sources ---------------------------------------------------------------------------------------------


def _from_module(module: nn.Module) -> Checkpoint:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    lazy = [name for name, parameter in parameters.items() if _is_lazy(parameter)]
    if lazy:
        msg = (
            f"the module {type(module).__name__} has parameters without a shape yet ({lazy[0]!r}); "
            "run it once first"
        )
        raise InputError(msg)
    buffers = dict(module.named_buffers(remove_duplicate=False))
    tensors = {name: tensor.detach() for name, tensor in {**parameters, **buffers}.items()}
    first: dict[int, str] = {}
    ties = {n: first[id(t)] for n, t in parameters.items() if first.setdefault(id(t), n) != n}
    return Checkpoint(
        tensors=tensors,
        label=f"module {type(module).__name__}",
        ties=ties,
        buffers=frozenset(buffers) | {n for n, t in parameters.items() if not is_float(t)},
        versions={name: version_of(tensor) for name, tensor in tensors.items()},
    )


def _from_mapping(mapping: Mapping[Any, Any], label: str) -> Checkpoint:
    for key in _STATE_KEYS:
        inner = mapping.get(key)
        if isinstance(inner, Mapping):
            return _from_mapping(inner, label)
    entries = {k: v for k, v in mapping.items() if not str(k).endswith("_extra_state")}
    strange = [
        f"{k!r} ({type(v).__name__})" for k, v in entries.items() if not isinstance(v, Tensor)
    ]
    if strange or not entries:
        held = (
            f"found {', '.join(strange[:5])}{' …' if len(strange) > 5 else ''}"
            if strange
            else "it is empty"
        )
        msg = (
            f"{label} is not a mapping of names to tensors: {held}. Expected a state dict, or a "
            "dict that holds "
            f"one under {', '.join(map(repr, _STATE_KEYS))}."
        )
        raise InputError(msg)
    unusual = [
        str(n)
        for n, t in entries.items()
        if t.layout != torch.strided or t.is_quantized or _is_lazy(t)
    ]
    if unusual:
        msg = (
            f"{label} holds sparse, quantised or uninitialised tensors, which have no line: "
            f"{', '.join(unusual[:5])}"
        )
        raise InputError(msg)
    tensors = {str(name): tensor.detach() for name, tensor in entries.items()}
    return Checkpoint(
        tensors=tensors,
        label=label,
        ties=_shared(tensors),
        buffers=_not_parameters(tensors),
        versions={name: version_of(tensor) for name, tensor in tensors.items()},
    )


def _not_parameters(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    return frozenset(
        name
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] in RUNNING_STATISTICS or not is_float(tensor)
    )


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Alias → first name, for tensors that are the same memory seen the same way."""
    first: dict[tuple[Any, ...], str] = {}
    ties: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0 or tensor.device.type == "meta":
            continue  # no memory, so nothing to share
        view = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if first.setdefault(view, name) != name:
            ties[name] = first[view]
    return ties


def _from_path(path: Path) -> Checkpoint:
    held = registry.read(path)
    if isinstance(held, Adapter):
        return Checkpoint(dict(held.tensors), held.label, adapter=held)
    return _from_mapping(held, label=str(path))


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)
