"""Checkpoints: a module, state dict or file as named tensors, and two of them made to agree.

Files are mapped into memory, not read: a tensor's bytes come from disk when something looks at
them. No file is ever allowed to run code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from torch import Tensor, nn

from ravine.errors import InputError
from ravine.points import modules, states
from ravine.points.formats import registry
from ravine.points.formats.adapters import Adapter
from ravine.points.formats.stamps import Stamp
from ravine.points.modules import unwrap
from ravine.points.names import LEVELS, by_plain_name, copies, wrapper_of
from ravine.points.numbers import codes, lifted, require_bounded, require_numbers
from ravine.points.params import Params, is_float, same_values, version_of

#: What PyTorch calls the running statistics of its normalisation layers.
RUNNING_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


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
        files: those that tensors are mapped from, as they were when they were read.
        adapter: if the source is a low-rank adapter: a change to a base, which is no point until it
            is aligned with that base.
    """

    tensors: dict[str, Tensor]
    label: str
    ties: dict[str, str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    versions: dict[str, int] = field(default_factory=dict, repr=False)
    files: tuple[Stamp, ...] = field(default=(), repr=False)
    adapter: Adapter | None = None

    @classmethod
    def read(cls, source: Any) -> Checkpoint:
        """Read a module, a mapping of tensors, a checkpoint dict, a file, a folder, or the Hub's.

        Args:
            source: an ``nn.Module`` (wrappers such as DDP, ``AveragedModel`` and ``torch.compile``
                are looked through; one that FSDP sharded is gathered, in which every process takes
                part); a state dict or any mapping of names to tensors; a dict that holds one state
                dict, under whatever key; or a path. A path is of a ``.safetensors`` file, of one
                that ``torch.save`` wrote, of an index of shards, or of a folder: with one of these,
                with an adapter, of ``torch.distributed.checkpoint``, or of DeepSpeed. Where a file
                holds several state dicts, ``"file.pt::ema"`` names one. ``"hf:org/model@revision"``
                is a model of the Hugging Face Hub; a path that exists wins.

        Raises:
            InputError: it is none of these; or the file is missing, damaged, of another tool, holds
                several state dicts, or would have to run code.

        Examples:
            >>> Checkpoint.read(nn.Linear(2, 1)).tensors.keys()
            dict_keys(['weight', 'bias'])
        """
        if isinstance(source, Checkpoint):
            return source
        if isinstance(source, nn.Module):
            return _from_module(unwrap(source))
        if isinstance(source, str | os.PathLike):
            return from_path(source)
        if isinstance(source, Mapping):
            return _from_named(_named(source, "a state dict"), "a state dict")
        msg = (
            f"a point must be a module, a mapping of tensors or a path; got {type(source).__name__}"
        )
        raise InputError(msg)

    def taken(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names."""
        return {name: self.tensors[name] for name in names}

    @property
    def params(self) -> Params:
        """The floating-point parameters, tied tensors once."""
        return {
            n: t for n, t in self.tensors.items() if n not in self.buffers and n not in self.ties
        }

    def require_files(self) -> None:
        """Raise if a file that tensors are mapped from was written over.

        Reading beyond its end kills the process.

        Raises:
            InputError: naming the file.
        """
        for file in self.files:
            file.require_same()

    def require_unchanged(self) -> None:
        """Raise if a tensor, or the file that it is mapped from, has changed since it was read.

        Raises:
            InputError: naming the tensor or the file, or a tensor without values (on the meta
                device). A ``state_dict()`` holds the live tensors of its module, so the
                "initialisation" of a model that was then trained is the solution, and the line is
                flat.
        """
        self.require_files()
        empty = [name for name, tensor in self.params.items() if tensor.is_meta]
        if empty:
            msg = (
                f"{self.label} has names and shapes only, no values ({empty[0]!r} is on the meta "
                "device)"
            )
            raise InputError(msg)
        for name, version in self.versions.items():
            if version_of(self.tensors[name]) != version:
                msg = (
                    f"{self.label} has changed since it was read (at {name!r}): a module and its "
                    "state_dict() are live. Take a copy, copy.deepcopy(model.state_dict()), before "
                    "training goes on."
                )
                raise InputError(msg)


def matched(reference: Checkpoint, other: Checkpoint) -> Checkpoint:
    """``other`` under the names of ``reference``, or an error that lists every difference.

    An adapter becomes the model that it makes of the reference. Names of wrappers are stripped on
    either side, wherever they stand, when that makes the names agree; what then stands beside the
    wrapped model (a criterion's weight, a metric's count) is left out. A tied tensor may stand
    under any of its names, and buffers may be missing on either side; nothing else may differ.

    Args:
        reference: whose names and ties count.
        other: what to rename.

    Returns:
        ``other`` with the reference's names.

    Raises:
        InputError: names, shapes, types or ties differ.

    Examples:
        >>> import torch
        >>> a = Checkpoint.read({"w": torch.zeros(2)})
        >>> matched(a, Checkpoint.read({"module.w": torch.ones(2)})).tensors
        {'w': tensor([1., 1.])}
    """
    reference.require_files()
    other.require_files()
    if reference.adapter is not None:
        msg = (
            f"{reference.label} is an adapter, a change to a base model and no point by itself. "
            "Give the base first: Line(base, adapter)."
        )
        raise InputError(msg)
    if other.adapter is not None:
        adapted = other.adapter.applied_to(reference.tensors, reference.label)
        adapted = other.adapter.retied(adapted, reference.tensors, reference.ties)
        kept = {n: v for n, v in reference.versions.items() if adapted[n] is reference.tensors[n]}
        files = reference.files + other.files
        return replace(reference, tensors=adapted, label=other.label, versions=kept, files=files)
    renamed = _nearest_names(reference, other)
    first, second = _told_apart(reference.label, other.label)
    found = list(differences(reference, replace(renamed, label=second)))
    if found:
        _require_no_adapter_around(reference, other)
        listed = "".join(f"\n  {line}" for line in found[:20])
        rest = f"\n  … and {len(found) - 20} more" if len(found) > 20 else ""
        msg = (
            f"{first} and {second} are not points of the same space; {len(found)} "
            f"difference{'s' if len(found) > 1 else ''}:{listed}{rest}\nUse checkpoints of one "
            f"architecture.{_advice(reference, other)}"
        )
        raise InputError(msg)
    completed = _completed(renamed, reference)
    # so that one point stays one object, however many lines it ends
    return other if _same_names(completed, other) else completed


def _same_names(one: Checkpoint, other: Checkpoint) -> bool:
    return (list(one.tensors), one.ties, one.buffers) == (
        list(other.tensors),
        other.ties,
        other.buffers,
    )


def _nearest_names(reference: Checkpoint, other: Checkpoint) -> Checkpoint:
    """``other`` under the names that differ least.

    Of equals, those with the least taken out of them.
    """
    best, least = other, _apart(reference, other)
    for wrappers in LEVELS[1:]:
        candidate = _without(wrappers, reference, other) if least else None
        apart = least if candidate is None else _apart(reference, candidate)
        if candidate is not None and apart < least:
            best, least = candidate, apart
    return best


def _without(
    wrappers: frozenset[str], reference: Checkpoint, other: Checkpoint
) -> Checkpoint | None:
    """``other`` under the reference's names, if both are the same without wrappers' parts."""
    theirs, own = (by_plain_name(point.tensors, wrappers) for point in (reference, other))
    if theirs is None or own is None:
        return None
    names = {full: theirs.get(key, full) for key, full in own.items()}
    found = [full for key, full in own.items() if key in theirs and full not in other.buffers]
    front = wrapper_of(found)
    beside = [full for key, full in own.items() if key not in theirs and not full.startswith(front)]
    if beside:
        _require_one_copy(other, [full.removeprefix(front) for full in found], front)
    return _rename(other, {full: name for full, name in names.items() if full not in beside})


def _require_one_copy(point: Checkpoint, names: list[str], front: str) -> None:
    """Refuse to leave out a second copy of the model: an average, a teacher, an older one."""
    others = [found for found in copies(names, point.tensors) if found != front]
    if others:
        listed = ", ".join(repr(found.rstrip(".")) for found in (front, *others))
        msg = (
            f"{point.label} holds several models of these names, under {listed}. Name one: as a "
            f"path 'FILE::{others[0].rstrip('.')}', or take the names that begin with it."
        )
        raise InputError(msg)


def _told_apart(first: str, second: str) -> tuple[str, str]:
    """Two labels, with a word that tells which is which where they are the same."""
    if first != second:
        return first, second
    return f"{first} (the first)", f"{second} (the second)"


def _has_shapes(whole: Checkpoint, front: str, part: Checkpoint) -> bool:
    """Whether what stands under a prefix has the shapes of another checkpoint's parameters."""
    shapes = {name: tensor.shape for name, tensor in part.params.items()}
    return all(whole.tensors[front + name].shape == shape for name, shape in shapes.items())


def _advice(reference: Checkpoint, other: Checkpoint) -> str:
    """How to name the part of one checkpoint that is the other, if there is such a part."""
    for one, two in ((reference, other), (other, reference)):
        fronts = [
            front.rstrip(".")
            for front in copies(list(two.params), one.tensors)
            if front and _has_shapes(one, front, two)
        ]
        if fronts:
            return (
                f" {one.label} holds such a model under {fronts[0]!r}: as a path, "
                f"'FILE::{fronts[0]}' names that part."
            )
    return ""


def _require_no_adapter_around(*points: Checkpoint) -> None:
    """Say what peft has done to one of the models, in place of a list of all its names.

    Raises:
        InputError: its layers stand around those of the base model.
    """
    adapted = list(filter(_is_adapted, points))
    if len(adapted) == 1:
        msg = (
            f"{adapted[0].label} holds an adapter beside its base model, and the other point is a "
            "model without one. Merge them, model.merge_and_unload(); or give the base model to "
            "Objective, and what save_pretrained() writes as an end: Line(base, 'adapter')"
        )
        raise InputError(msg)


def _is_adapted(point: Checkpoint) -> bool:
    return any(".base_layer." in name for name in point.tensors)


def _completed(checkpoint: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """With a tied tensor under each of its names, where one is there.

    And with the buffers that either of the two knows.
    """
    tensors, ties = dict(checkpoint.tensors), reference.ties
    for alias, name in ties.items():
        if name not in tensors and alias in tensors:
            tensors[name] = tensors[alias]
    tensors |= {
        alias: tensors[name]
        for alias, name in ties.items()
        if alias not in tensors and name in tensors
    }
    buffers = checkpoint.buffers | (reference.buffers & tensors.keys())
    return replace(checkpoint, tensors=tensors, ties={**ties, **checkpoint.ties}, buffers=buffers)


def differences(reference: Checkpoint, other: Checkpoint) -> Iterator[str]:
    """One line for everything that keeps two checkpoints from being points of one space.

    Args:
        reference: one checkpoint.
        other: another, already under the names that fit best.

    Yields:
        Missing and extra names, then differing shapes, types, quantised weights and ties.
    """
    missing, extra = _absent(reference, other)
    yield from (f"missing in {other.label}: {name!r}" for name in missing)
    yield from (f"only in {other.label}: {name!r}" for name in extra)
    coded = codes(reference.tensors) | codes(other.tensors)
    for name, tensor in reference.tensors.items():
        found = other.tensors.get(name)
        if found is None:
            continue
        if found.shape != tensor.shape:
            yield f"shape at {name!r}: {tuple(tensor.shape)} and {tuple(found.shape)}"
        elif is_float(found) != is_float(tensor):
            yield f"type at {name!r}: {tensor.dtype} and {found.dtype}"
        elif name in coded and not same_values(tensor, found):
            yield (
                f"quantised weights at {name!r}: codes cannot be mixed; dequantise both, and save "
                "them"
            )
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


def _apart(reference: Checkpoint, other: Checkpoint) -> int:
    return sum(map(len, _absent(reference, other)))


def _absent(reference: Checkpoint, other: Checkpoint) -> tuple[list[str], list[str]]:
    return _lacking(reference, other), _lacking(other, reference)


def _lacking(owner: Checkpoint, mate: Checkpoint) -> list[str]:
    """Parameters of the owner that the mate has under none of their names."""
    groups: dict[str, list[str]] = {}
    for name in owner.tensors:
        groups.setdefault(owner.ties.get(name, name), []).append(name)
    own = {name: names for name, names in groups.items() if name not in owner.buffers}
    return [name for name, names in own.items() if mate.tensors.keys().isdisjoint(names)]


def _rename(checkpoint: Checkpoint, names: dict[str, str]) -> Checkpoint:
    """With the tensors that have a new name, under it."""
    return replace(
        checkpoint,
        tensors={names[n]: t for n, t in checkpoint.tensors.items() if n in names},
        ties={names[a]: names[n] for a, n in checkpoint.ties.items() if a in names and n in names},
        buffers=frozenset(names[n] for n in checkpoint.buffers if n in names),
        versions={names[n]: v for n, v in checkpoint.versions.items() if n in names},
    )


# --- sources --------------------------------------------------------------------------------------


def _from_module(module: nn.Module) -> Checkpoint:
    held, ties, buffers = modules.tensors_of(module)
    label = f"module {type(module).__name__}"
    require_numbers(held, label)
    tensors = {name: lifted(tensor) for name, tensor in held.items()}
    return Checkpoint(tensors, label, ties, buffers, _versions(tensors))


def _versions(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: version_of(tensor) for name, tensor in tensors.items()}


def from_path(source: str | os.PathLike[str], *, settled: bool = False) -> Checkpoint:
    """Read a path.

    Args:
        source: as ``Checkpoint.read`` takes it.
        settled: whether nobody writes there any more, so that files may be mapped that
            were written lately.

    Raises:
        InputError: as ``Checkpoint.read``.
    """
    path, wanted = registry.located(source)
    label = os.fspath(source)
    held = registry.read(path, settled=settled)
    if isinstance(held, Adapter):
        return Checkpoint(dict(held.tensors), label, files=held.files, adapter=held)
    point = _from_named(_named(held.held, label, wanted, from_file=True), label)
    marked = held.buffers & point.tensors.keys()
    return replace(point, files=held.files, buffers=point.buffers | marked)


def _named(
    mapping: Mapping[Any, Any], label: str, wanted: str = "", *, from_file: bool = False
) -> dict[str, Tensor]:
    """The state dict in a mapping; a stranger's only if not far larger than its file."""
    chosen = states.chosen(mapping, label, wanted)
    named = {str(name): tensor for name, tensor in chosen.items()}
    if len(named) < len(chosen):
        msg = f"{label} has names that differ in their type only, such as 0 and '0'"
        raise InputError(msg)
    require_numbers(named, label)
    if from_file:
        require_bounded(named, label)
    return named


def _from_named(named: Mapping[str, Tensor], label: str) -> Checkpoint:
    held = {name: modules.whole(tensor.detach()) for name, tensor in named.items()}
    ties = _shared(held)
    tensors = {name: lifted(tensor) for name, tensor in held.items()}
    return Checkpoint(tensors, label, ties, _not_parameters(tensors), _versions(tensors))


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
