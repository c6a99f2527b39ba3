"""Modules: the tensors of a module by name, whatever wraps it and however it is sharded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.optim.swa_utils import AveragedModel

from ravine.errors import InputError
from ravine.points.names import plain
from ravine.points.params import is_float
from ravine.points.parts import is_sharded, whole


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel, AveragedModel and ``torch.compile``.

    Examples:
        >>> type(unwrap(AveragedModel(nn.Linear(2, 1)))).__name__
        'Linear'
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            # torch.compile's OptimizedModule
            model = model._orig_mod  # pyright: ignore[reportAssignmentType]
        else:
            return model


def tensors_of(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], frozenset[str]]:
    """A module's tensors by name, its ties (alias → name), and which of them are no parameters.

    Raises:
        InputError: a parameter has no shape yet, or only a part of it is in this process and it
            cannot be gathered.
    """
    if is_fsdp(module):
        return _gathered(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if any(_is_flattened(parameter) for parameter in parameters.values()):
        msg = (
            f"the module {type(module).__name__} is inside an FSDP model, and holds one process's "
            "part of its parameters. Give the FSDP model."
        )
        raise InputError(msg)
    passing = passing_buffers(module)
    buffers = {
        name: buffer
        for name, buffer in module.named_buffers(remove_duplicate=False)
        if buffer.layout == torch.strided or name not in passing  # else the same at every point
    }
    for name, tensor in {**parameters, **buffers}.items():
        _require_whole(name, tensor, f"the module {type(module).__name__}")
    tensors = {name: whole(tensor.detach()) for name, tensor in {**parameters, **buffers}.items()}
    first: dict[int, str] = {}
    ties = {n: first[id(t)] for n, t in parameters.items() if first.setdefault(id(t), n) != n}
    strange = {n for n, t in parameters.items() if not is_float(t)}
    return tensors, ties, frozenset(buffers) | strange


def passing_buffers(model: Any) -> set[str]:
    """The buffers that a module says are no part of its state."""
    if not isinstance(model, nn.Module):
        return set()
    return {
        f"{place}.{name}".lstrip(".")
        for place, module in unwrap(model).named_modules()
        for name in module._non_persistent_buffers_set
    }


def is_split(model: Any) -> bool:
    """Whether a module or a state dict is held in parts by several processes."""
    if isinstance(model, nn.Module):
        parts = (is_sharded(p) or _is_flattened(p) for p in model.parameters())
        return is_fsdp(model) or any(parts)
    held = model.values() if isinstance(model, Mapping) else ()
    return any(isinstance(value, Tensor) and is_sharded(value) for value in held)


def is_lazy(tensor: Tensor) -> bool:
    """Whether it has no shape yet."""
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _require_whole(name: str, tensor: Tensor, owner: str) -> None:
    if is_lazy(tensor):
        msg = f"{owner} has parameters without a shape yet ({name!r}); run it once first"
        raise InputError(msg)
    if tensor.shape != getattr(tensor, "ds_shape", tensor.shape):
        msg = (
            f"{owner} is sharded by DeepSpeed ZeRO-3: of {name!r} this process has "
            f"{tuple(tensor.shape)}. Use it in every process inside "
            "deepspeed.zero.GatheredParameters(list(model.parameters()))."
        )
        raise InputError(msg)


def _is_flattened(parameter: Tensor) -> bool:
    return getattr(parameter, "_fsdp_flattened", False)  # FSDP's own mark


def is_fsdp(module: nn.Module) -> bool:
    """Whether FSDP (the first of the two, which wraps) is around or inside a module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who wraps by it has imported it
    sharded = getattr(fsdp, "FullyShardedDataParallel", None)
    return sharded is not None and any(isinstance(part, sharded) for part in module.modules())


def _gathered(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], frozenset[str]]:
    """All of a module that FSDP sharded, by torch's own gathering; each process takes part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True)
    state: Mapping[str, Any] = get_model_state_dict(module, options=options)
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    held = {plain(name) for name, _ in module.named_buffers(remove_duplicate=False)}
    strange = {name for name, tensor in tensors.items() if not is_float(tensor)}
    return tensors, {}, frozenset(name for name in tensors if plain(name) in held) | strange
