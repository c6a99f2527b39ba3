"""Align: a checkpoint with its units in another's order, and the proof that it does the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ravine.alignment.activations import activation_pairs
from ravine.alignment.matching import Matching, Orders, Pair, permuted, shuffled, unpermuted
from ravine.alignment.structure import Structure, structure_of
from ravine.alignment.tracing import arguments, call_of, outputs, shell_of, traced
from ravine.errors import InputError
from ravine.objective.objective import Objective
from ravine.points.checkpoint import RUNNING_STATISTICS, Checkpoint, matched
from ravine.points.params import all_finite, distance, is_float, same_values

Method = Literal["weights", "activations"]

_DRAWS: Final = 2  # perturbed copies, to see what rounding does
_DRAWN: Final = 1 << 20  # random signs that are drawn, and used again for larger tensors
_MARGIN: Final = (
    32  # another order of summation against parameters that are off by one unit of rounding
)


@dataclass(frozen=True)
class Aligned(Checkpoint):
    """A checkpoint with its units permuted, and what was done.

    Attributes:
        method: how the units were matched.
        before: the distance to the other point, as it was.
        after: the distance now; never larger.
        permuted: how many sets of units there are that may change places.
        kept: axes of parameters that could not be followed and stay in place, and why.
        error: the largest difference between the outputs before and after, on the batch.
        rounding: the largest difference that is put down to rounding.
    """

    method: str = "weights"
    before: float = math.nan
    after: float = math.nan
    permuted: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    error: float = math.nan
    rounding: float = math.nan


def align(
    b: Any,
    *,
    to: Any,
    model: nn.Module | None = None,
    batch: Any = None,
    objective: Objective | None = None,
    method: Method = "weights",
    seed: int = 0,
    starts: int = 3,
) -> Aligned:
    """``b`` with its units in the order most like another point; the function stays the same.

    Hidden units may change places without changing what a network computes, so two trained networks
    hold theirs in unrelated orders. Which axes count the same units is read from the graph that
    ``torch.export`` traces; axes that cannot be followed stay in place, and are named in ``.kept``.
    Attention heads, groups of channels and pieces of maxout units are permuted as blocks, and what
    is inside each by itself. Running statistics move with their units.

    Args:
        b: the point whose units are permuted, in any of the forms that an end of a
            ``Line`` may take.
        to: the point that it is compared with.
        model: their architecture. It is not changed.
        batch: what the model is called with: a tensor, a tuple of arguments, or a dict of named
            ones. The outputs on it before and after have to agree.
        objective: instead of a model and a batch: an objective's own, the first batch of
            its first split.
        method: ``"weights"`` raises the inner product of the parameters (and so reduces the
            distance), one set of units at a time; ``"activations"`` raises the correlations of the
            units' activations on the batch.
        seed: of the sequence in which sets of units are visited, and of random starts.
        starts: how many starts of the search by weights; the best is kept. The
            first goes from the inputs and outputs inwards, the second starts from
            the units in place, the others from random orders.

    Returns:
        ``b``'s parameters and buffers, permuted, under the model's names; with the distances
        before and after.

    Raises:
        InputError: the points or the batch do not fit the model; it cannot be
            traced, or gives other outputs on the same input; or the permuted
            network's outputs differ by more than rounding.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> swapped = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        >>> order = torch.tensor([2, 0, 1])
        >>> swapped |= {name: swapped[name][order] for name in ("0.weight", "0.bias")}
        >>> swapped["2.weight"] = swapped["2.weight"][:, order]
        >>> back = align(swapped, to=model, model=model, batch=torch.randn(5, 2))
        >>> back.after
        0.0

    References:
        Entezari et al. 2021; Ainsworth et al. 2022, algorithm 1 (weights) and
        section 3.1 (activations).
    """
    _require_choices(method, starts, seed)
    if objective is not None and model is None and batch is None:
        model, (args, kwargs) = objective.model, call_of(objective)
        shell = shell_of(model)
    else:
        model = _required(model, objective)
        shell = shell_of(model)
        args, kwargs = arguments(shell, batch)
    own = Checkpoint.read(model)
    fixed, moving = _fitted(own, Checkpoint.read(to)), _fitted(own, Checkpoint.read(b))
    expected, rounding = _expected(shell, moving, args, kwargs)
    program = traced(shell, args, kwargs)
    structure = structure_of(program, own.ties, _movable(own, fixed, moving))
    pairs = list(_pairs(structure, own, fixed, moving))
    if method == "weights":
        orders = _by_weights(Matching(pairs, structure.units), seed, starts)
    else:
        found = activation_pairs(program, structure, fixed.tensors, moving.tensors, args, kwargs)
        orders = _by_activations(
            Matching(found, structure.units), Matching(pairs, structure.units), seed
        )
    aligned = _moved(structure, own, moving, orders)
    error = _error(expected, outputs(shell, aligned.tensors, args, kwargs))
    if not error <= rounding:
        msg = (
            "the permuted network is not the same function: its outputs differ by up to "
            f"{error:.3g} on the batch, rounding accounts for {rounding:.3g}. Nothing was aligned. "
            f"Axes that could not be followed: {_listed(structure.kept)}"
        )
        raise InputError(msg)
    return Aligned(
        **{name: getattr(aligned, name) for name in Checkpoint.__dataclass_fields__},
        method=method,
        before=distance(fixed.params, moving.params),
        after=distance(fixed.params, aligned.params),
        permuted=sum(one.is_free for one in structure.units),
        kept=structure.kept,
        error=error,
        rounding=rounding,
    )


def _required(model: Any, objective: Objective | None) -> nn.Module:
    if objective is not None:
        msg = "give an objective, or a model and a batch, not both"
        raise InputError(msg)
    if not isinstance(model, nn.Module):
        msg = f"model must be a torch.nn.Module; got {type(model).__name__}"
        raise InputError(msg)
    return model


def _require_choices(method: str, starts: int, seed: int) -> None:
    if method not in ("weights", "activations"):
        msg = f"method must be 'weights' or 'activations'; got {method!r}"
        raise InputError(msg)
    if not isinstance(starts, Integral) or starts < 1:
        msg = f"starts must be at least 1, a whole number; got {starts!r}"
        raise InputError(msg)
    if not isinstance(seed, Integral) or seed < 0:
        msg = f"seed must be a whole number, 0 or larger; got {seed!r}"
        raise InputError(msg)


def _fitted(own: Checkpoint, point: Checkpoint) -> Checkpoint:
    """A point under the model's names, all of it finite."""
    if point.adapter is not None:
        msg = (
            f"{point.label} is an adapter, a change to a base model: align Line(base, "
            "adapter).at(1)"
        )
        raise InputError(msg)
    fitted = matched(own, point)
    fitted.require_unchanged()
    broken = [name for name in own.params if not all_finite(fitted.tensors[name])]
    if broken:
        msg = f"{fitted.label} holds NaN or infinity in {broken[0]!r}"
        raise InputError(msg)
    return fitted


def _movable(own: Checkpoint, fixed: Checkpoint, moving: Checkpoint) -> set[str]:
    """Buffers that belong to units: running statistics, and others in which the points differ.

    One that both have alike is a constant of the architecture.
    """
    shared = own.buffers & fixed.tensors.keys() & moving.tensors.keys()
    return {
        name
        for name in shared
        if name.rpartition(".")[2] in RUNNING_STATISTICS
        or not same_values(fixed.tensors[name], moving.tensors[name])
    }


def _pairs(
    structure: Structure, own: Checkpoint, fixed: Checkpoint, moving: Checkpoint
) -> Iterator[Pair]:
    """The blocks of the parameters that some order changes."""
    free = {number for number, one in enumerate(structure.units) if one.is_free}
    for name in own.params:
        axes = structure.axes.get(name, ())
        a, b = fixed.tensors[name], moving.tensors[name]
        blocks = zip(structure.blocks(a, axes), structure.blocks(b, axes), strict=True)
        for (one, sets), (other, _) in blocks:
            if free & set(sets):
                yield Pair(one, other, sets)


def _by_weights(matching: Matching, seed: int, starts: int) -> Orders:
    """The best of several searches, or everything in place if that is better."""
    generator = np.random.default_rng(seed)
    best = unpermuted(matching.units)
    most = matching.likeness(best)
    for number in range(starts):
        begin = best
        if number == 0:
            begin = matching.propagated()
        elif number == 1:
            begin = unpermuted(matching.units)
        else:
            begin = shuffled(matching.units, seed + number)
        found = matching.improved(begin, generator)
        likeness = matching.likeness(found)
        if likeness > most:
            best, most = found, likeness
    return best


def _by_activations(activations: Matching, weights: Matching, seed: int) -> Orders:
    """The most correlated order, unless the points are nearer with everything in place.

    Units whose activations no tensor holds, such as those of a recurrent layer below the last, are
    matched by weights.
    """
    generator = np.random.default_rng(seed)
    found = activations.improved(activations.propagated(), generator)
    found = weights.improved(found, generator, but=activations.seen)
    unmoved = unpermuted(weights.units)
    return found if weights.likeness(found) > weights.likeness(unmoved) else unmoved


def _moved(structure: Structure, own: Checkpoint, point: Checkpoint, orders: Orders) -> Checkpoint:
    """A point with its units in another order, tied tensors once."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in point.tensors.items():
        first = own.ties.get(name, name)
        if first in tensors:
            tensors[name] = tensors[first]
            continue
        axes = structure.axes.get(name) or structure.axes.get(first)
        tensors[name] = tensor if not axes else _reordered(structure, tensor, axes, orders)
    return replace(
        point,
        tensors=tensors,
        versions={},
        files=(),
        ties=own.ties,
        label=f"{point.label}, aligned",
    )


def _reordered(
    structure: Structure, tensor: Tensor, axes: tuple[Any, ...], orders: Orders
) -> Tensor:
    out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    blocks = zip(structure.blocks(tensor, axes), structure.blocks(out, axes), strict=True)
    for (source, sets), (target, _) in blocks:
        target.copy_(permuted(source, sets, structure.units, orders))
    return out


def _expected(
    shell: nn.Module, point: Checkpoint, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], float]:
    """What the network gives on the batch, and by how much rounding may move that."""
    found = outputs(shell, point.tensors, args, kwargs)
    if not any(is_float(part) and part.numel() for part in found):
        msg = (
            "the model gives no floating-point tensor on the batch, so nothing shows that it is "
            "the same function"
        )
        raise InputError(msg)
    if not any(bool(part.isfinite().any()) for part in found if is_float(part)):
        msg = (
            "the model gives no finite number on the batch (is there NaN or infinity in it?), so "
            "nothing shows that it is the same function"
        )
        raise InputError(msg)
    again = outputs(shell, point.tensors, args, kwargs)
    if _error(found, again) > 0:
        msg = (
            "the model gives other outputs on the same input (is a layer random in evaluation "
            "mode?), so nothing shows that it is the same function"
        )
        raise InputError(msg)
    moved = max(_last_place(part) for part in found)
    for draw in range(_DRAWS):
        # unnamed, so that one copy is gone before the next is made
        there = outputs(shell, _shaken(shell, point, draw), args, kwargs)
        moved = max(moved, _error(found, there))
    return found, _MARGIN * moved


def _last_place(output: Tensor) -> float:
    """One unit of rounding of an output's largest value."""
    if not is_float(output) or not output.numel():
        return 0.0
    sizes = output.abs()
    largest = float(sizes[sizes.isfinite()].max()) if bool(sizes.isfinite().any()) else 0.0
    return torch.finfo(output.dtype).eps * largest


def _shaken(shell: nn.Module, point: Checkpoint, seed: int) -> Mapping[str, Tensor]:
    """Every parameter times 1 ± one unit of rounding of the type that the model computes in."""
    generator = torch.Generator().manual_seed(seed)
    kinds = {name: p.dtype for name, p in shell.named_parameters(remove_duplicate=False)}
    shaken = dict(point.tensors)
    for name, tensor in point.params.items():
        unit = torch.finfo(kinds.get(name, tensor.dtype)).eps
        count = tensor.numel()
        drawn = torch.rand(min(count, _DRAWN), generator=generator).sub_(0.5).sign_().mul_(unit)
        signs = drawn.repeat(-(-count // max(len(drawn), 1)))[:count].reshape(tensor.shape)
        shaken[name] = tensor.to(kinds.get(name, tensor.dtype)) * (1 + signs.to(tensor.device))
    return shaken | {alias: shaken[name] for alias, name in point.ties.items() if name in shaken}


def _error(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference between outputs; infinite where one of them is not a number."""
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        if not is_float(one) or not one.numel():
            continue
        same = (one == other) | (one.isnan() & other.isnan())
        apart = torch.where(same, 0.0, (one.double() - other.double()).abs())
        worst = float(apart.max())
        largest = max(largest, worst if math.isfinite(worst) else math.inf)
    return largest


def _listed(kept: Mapping[str, str]) -> str:
    return "; ".join(f"{name} ({why})" for name, why in list(kept.items())[:5]) or "none"
