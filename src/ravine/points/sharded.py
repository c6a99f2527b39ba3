"""Sharded points: checkpoints of which every process reads and holds its own part only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.points import modules
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.formats import distributed
from ravine.points.modules import unwrap
from ravine.points.params import is_float
from ravine.points.parts import is_sharded, local


def sharded(source: Any, like: nn.Module) -> Checkpoint:
    """Read a point in parts: each process holds what it holds of a sharded model, and no more.

    Every process of the model's has to call this. A folder of ``torch.distributed.checkpoint`` is
    read part by part, a safetensors file is mapped and copied from where the part stands. What
    stands whole in memory already (a state dict, a file of ``torch.save``) is cut.

    Args:
        source: what ``Checkpoint.read`` takes; a module or a state dict of DTensors too, which is
            copied, part by part.
        like: the model, after ``fully_shard``, whose names and parts are wanted.

    Returns:
        The point, under the model's names; its parameters are DTensors. Use it as an end of a
        ``Line`` or as a corner of a ``Plane``.

    Raises:
        InputError: the model is not sharded, or in a way that is not supported; or the source
            cannot be read or does not fit.

    Examples:
        >>> sharded({"weight": torch.zeros(1, 2)}, nn.Linear(2, 1, bias=False))
        Traceback (most recent call last):
        ravine.errors.InputError: the model Linear is not sharded:
        call torch.distributed.fsdp.fully_shard(model) first
    """
    model = unwrap(like)
    require_shards(model)
    own = held_by(model)
    if isinstance(source, nn.Module):
        source = _as_held(unwrap(source))
    if isinstance(source, str | os.PathLike) and distributed.reads(Path(source)):
        return _from_parts(Path(source), own)
    if not isinstance(source, Checkpoint):
        source = _read(source)
    found = cut(own, source)
    return copied(found) if found is source else found  # what is in parts already may be live


def _as_held(module: nn.Module) -> Checkpoint:
    if modules.is_split(module):
        require_shards(module)
        return held_by(module)
    return Checkpoint.read(module)


def _read(source: Any) -> Checkpoint:
    if not (isinstance(source, Mapping) and modules.is_split(source)):
        return Checkpoint.read(source)
    tensors = {str(n): t.detach() for n, t in source.items() if isinstance(t, Tensor)}
    strange = frozenset(name for name, tensor in tensors.items() if not is_float(tensor))
    return Checkpoint(tensors, "a sharded state dict", buffers=strange)


def is_sharded_model(model: nn.Module) -> bool:
    """Whether several processes hold the model's parameters between them, as DTensors.

    Examples:
        >>> is_sharded_model(nn.Linear(2, 1))
        False
    """
    return bool(_managed(model)) or any(is_sharded(p) for p in model.parameters())


def require_shards(model: nn.Module) -> None:
    """Refuse a model that is not sharded, or not so that it can be measured.

    Raises:
        InputError: saying what is in the way.
    """
    name = type(model).__name__
    if not is_sharded_model(model):
        msg = (
            f"the model {name} is not sharded: call torch.distributed.fsdp.fully_shard(model) first"
        )
        raise InputError(msg)
    import torch.distributed as dist

    gather(model)
    shared = {n: p for n, p in model.named_parameters() if is_sharded(p)}
    meshes = {p.device_mesh for p in shared.values()}
    if len(meshes) > 1:
        msg = (
            f"the parameters of {name} are spread over {len(meshes)} device meshes, as a "
            "pipeline's are; expected one mesh that holds every process"
        )
        raise InputError(msg)
    mesh = meshes.pop()
    if mesh.size() != dist.get_world_size():
        msg = (
            f"the mesh of {name} has {mesh.size()} of the {dist.get_world_size()} processes; "
            "expected all of them. Start as many processes as share the model."
        )
        raise InputError(msg)
    for parameter, tensor in shared.items():
        if any(placed.is_partial() for placed in tensor.placements):
            msg = (
                f"the parameter {parameter!r} is a sum that is still to be taken (Partial); "
                "expected Shard or Replicate"
            )
            raise InputError(msg)


def gather(model: nn.Module) -> None:
    """Put every parameter back into parts: a forward pass leaves some of them whole."""
    for module in _managed(model):
        module.reshard()


def settle(model: nn.Module) -> None:
    """Put every parameter back into parts, even if an exception left a pass half done."""
    for module in _managed(model):
        state = module._get_fsdp_state()
        resting = type(state._training_state).IDLE
        # FSDP refuses a new pass while it takes one for unfinished
        state._training_state = resting
        state._state_ctx.iter_forward_root = None
        for group in _groups(state):
            group._training_state = resting
    gather(model)


def _groups(state: Any) -> list[Any]:
    """FSDP's groups of parameters of one module: one, or several in newer versions of torch."""
    several = getattr(state, "_fsdp_param_groups", None)
    one = getattr(state, "_fsdp_param_group", None) if several is None else None
    return list(several or ([] if one is None else [one]))


def _managed(model: nn.Module) -> list[Any]:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who shards by it has imported it
    kind = getattr(fsdp, "FSDPModule", None)
    return [] if kind is None else [part for part in model.modules() if isinstance(part, kind)]


def narrowest_of(model: nn.Module) -> torch.dtype | None:
    """The type that a mixed-precision policy of FSDP computes in; None without one."""
    policies = [module._get_fsdp_state()._mp_policy for module in _managed(model)]
    return next((policy.param_dtype for policy in policies if policy.param_dtype), None)


def held_by(model: nn.Module) -> Checkpoint:
    """What this process holds of a sharded model, in the same memory."""
    gather(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    ties = {n: first[id(t)] for n, t in parameters.items() if first.setdefault(id(t), n) != n}
    strange = {n for n, t in parameters.items() if not is_float(t)}
    tensors = {name: tensor.detach() for name, tensor in {**parameters, **buffers}.items()}
    label = f"module {type(model).__name__}"
    return Checkpoint(tensors, label, ties, frozenset(buffers) | strange)


def cut(own: Checkpoint, source: Checkpoint) -> Checkpoint:
    """A point in the parts of another, in memory of its own.

    Args:
        own: of the model.
        source: the point, whole or in parts.

    Returns:
        It, under the model's names. One that was cut already is given back as it is.

    Raises:
        InputError: it does not fit.
    """
    fitted = matched(own, source)
    fitted.require_unchanged()
    if source is fitted and all(_alike(own.tensors[n], t) for n, t in fitted.params.items()):
        return fitted
    tensors = {
        name: _part(tensor, own.tensors.get(name, tensor))
        for name, tensor in fitted.tensors.items()
        if name not in fitted.ties
    }
    tensors |= {alias: tensors[name] for alias, name in fitted.ties.items() if name in tensors}
    return replace(fitted, tensors=tensors, versions={}, files=())


def copied(point: Checkpoint) -> Checkpoint:
    """The same parts in memory of their own."""
    kept = {n: _clone(t) for n, t in point.tensors.items() if n not in point.ties}
    tied = {alias: kept[name] for alias, name in point.ties.items()}
    return replace(point, tensors={**kept, **tied})


def _alike(one: Tensor, other: Tensor) -> bool:
    if not (is_sharded(one) and is_sharded(other)):
        return is_sharded(one) == is_sharded(other)
    first: Any = one
    second: Any = other
    return first.device_mesh == second.device_mesh and first.placements == second.placements


def _clone(tensor: Tensor) -> Tensor:
    return _wrapped(local(tensor).clone(), tensor) if is_sharded(tensor) else tensor.clone()


def _wrapped(part: Tensor, like: Any) -> Tensor:
    """A part as the DTensor that another one's parts make."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def _part(tensor: Any, like: Any) -> Tensor:
    """This process's part of a tensor, copied."""
    if not is_sharded(like):
        return (tensor.full_tensor() if is_sharded(tensor) else tensor).clone()
    if is_sharded(tensor):
        if not _alike(tensor, like):
            tensor = tensor.redistribute(like.device_mesh, like.placements)
        return _wrapped(local(tensor).clone(), like)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, start = compute_local_shape_and_global_offset(
        like.shape, like.device_mesh, like.placements
    )
    for axis, (length, first) in enumerate(zip(shape, start, strict=True)):
        tensor = tensor.narrow(axis, min(first, tensor.shape[axis] - length), length)
    return _wrapped(tensor.to(like.device).clone(), like)


def _from_parts(path: Path, own: Checkpoint) -> Checkpoint:
    """A folder of ``torch.distributed.checkpoint``, of which each process reads its own parts."""
    kept = {name: tensor for name, tensor in own.tensors.items() if name not in own.ties}

    def held(name: str, dtype: torch.dtype) -> Tensor:
        part = torch.empty_like(local(own.tensors[name]), dtype=dtype)
        return _wrapped(part, own.tensors[name]) if is_sharded(own.tensors[name]) else part

    tensors = distributed.read_like(path, kept, held, dispensable=own.buffers)
    ties = {alias: name for alias, name in own.ties.items() if name in tensors}
    tensors |= {alias: tensors[name] for alias, name in ties.items()}
    return Checkpoint(tensors, str(path), ties, own.buffers & tensors.keys())
