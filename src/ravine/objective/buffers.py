"""Buffers along a slice: what the policy for running statistics puts in at each point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ravine.errors import InputError
from ravine.objective.data import Split
from ravine.objective.engine import blocks_of
from ravine.objective.forward import Forward
from ravine.objective.replica import running_norms
from ravine.points.checkpoint import Checkpoint
from ravine.points.params import is_float, same_values

Buffers = Literal["start", "end", "interpolate", "recompute"]

BUFFERS_EXPLAINED: Final = (
    "'start' or 'end' (keep one end's: the other end then is not its own checkpoint), "
    "'interpolate' (mix them like parameters), or "
    "'recompute' (estimate them anew at every point by one more pass over the first split; the usual choice)"
)


def spanning(
    model: nn.Module, own: Checkpoint, corners: Sequence[Checkpoint], policy: Buffers | None
) -> list[dict[str, Tensor]]:
    """What the replica moves between: parameters, and the buffers that the policy says.

    Args:
        model: the caller's.
        own: what it holds itself.
        corners: under the model's names.
        policy: for running statistics.

    Returns:
        Name → tensor at each corner.

    Raises:
        InputError: a corner lacks a buffer that the policy needs, or they differ where nothing says what to do.
    """
    spanning = [{name: corner.tensors[name] for name in own.params} for corner in corners]
    norms = running_norms(model)
    kept = {name: p for name, p in model.named_parameters() if not is_float(p)}
    saved = model.state_dict().keys()
    for name in sorted(own.buffers):
        held: list[Tensor | None] = [corner.tensors.get(name) for corner in corners]
        if name not in saved and any(tensor is not None for tensor in held):
            # a state dict never has it, a module does: what the model computes for itself
            # stands for the former
            held = [own.tensors[name] if tensor is None else tensor for tensor in held]
        present = [tensor for tensor in held if tensor is not None]
        if name in kept and not all(same_values(kept[name], tensor) for tensor in present):
            msg = (
                f"the parameter {name!r} ({kept[name].dtype}) cannot be interpolated, and the "
                "ends differ in it"
            )
            raise InputError(msg)
        is_statistic = name.rpartition(".")[0] in norms
        differs = len(present) < len(held) or any(
            not same_values(present[0], t) for t in present[1:]
        )
        if not present and not (is_statistic and policy in ("start", "end", "interpolate")):
            continue  # the model's own value stands
        if is_statistic and policy == "recompute":
            continue
        if differs and not is_statistic and policy in (None, "recompute") and name not in kept:
            msg = (
                f"the ends differ in the buffer {name!r}, which is no parameter, so it has no "
                "value between them: "
                "choose buffers='start', 'end' or 'interpolate'"
            )
            raise InputError(msg)
        chosen = _chosen(name, held, policy)
        for corner, tensor in zip(spanning, chosen, strict=True):
            corner[name] = tensor
    return spanning


def _chosen(name: str, held: list[Tensor | None], policy: Buffers | None) -> list[Tensor]:
    """A buffer's value at each corner by the policy; an integer one is never interpolated."""
    present = [tensor for tensor in held if tensor is not None]
    of = {"start": held[:1], "end": held[-1:]}.get(policy or "", held if policy else present[:1])
    if any(tensor is None for tensor in of):
        msg = (
            f"buffers={policy!r} needs {name!r}, which an end lacks: give the whole "
            "state dict, not the "
            "parameters alone, or choose buffers='recompute'"
        )
        raise InputError(msg)
    values = [tensor for tensor in of if tensor is not None]
    if len(values) == 1 or not is_float(values[0]):
        values = [values[0]] * len(held)
    return values


def recomputed_statistics(
    forward: Forward, split: Split, batch_size: int, tick: Callable[[int], None]
) -> list[dict[str, Tensor]]:
    """Running statistics at every point, by one pass in training mode, batches weighted by size.

    The average of the batches' means and variances, from nothing, as
    ``torch.optim.swa_utils.update_bn`` takes it, but a short last batch counts by its size (and one
    of a single example, which has no variance, not at all). Because a layer is normalised by its
    own batch while the next is estimated, the outcome depends on the batch size; that is the nature
    of the method.

    Args:
        forward: for the split to estimate from.
        split: it.
        batch_size: examples per forward pass, where the batches are made here.
        tick: told how many examples × points have been done since it was last told.

    Returns:
        For every point, the statistics by buffer name.

    Raises:
        InputError: a module has running statistics that are not PyTorch's own, so how to estimate
            them is unknown.
    """
    replica, norms, points = forward.replica, forward.replica.norms(), forward.points
    strange = [
        f"{n!r} ({type(m).__name__})" for n, m in norms.items() if not isinstance(m, _NormBase)
    ]
    if strange:
        msg = (
            f"buffers='recompute' knows PyTorch's normalisation layers; {', '.join(strange)} keeps "
            "running statistics of its own. Choose 'start', 'end' or 'interpolate'."
        )
        raise InputError(msg)
    names = [name for name in replica.buffers if name.rpartition(".")[0] in norms]
    kept: list[dict[str, Tensor]] = [{} for _ in range(len(points))]
    seen = [dict.fromkeys(map(id, norms.values()), 0) for _ in range(len(points))]
    counts: dict[int, int] = {}

    def weigh(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        """A layer that is used twice in a forward pass takes in two batches."""
        counts[id(norm)] += len(inputs[0])
        norm.momentum = len(inputs[0]) / counts[id(norm)]

    hooks = [norm.register_forward_pre_hook(weigh) for norm in norms.values()]
    forward.resets_buffers = False
    for norm in norms.values():
        norm.train()
    try:
        for block in blocks_of(split, batch_size):
            held = [forward.placed(batch) for batch in block]
            for point, coefficients in enumerate(points.coefficients):
                replica.move_to(coefficients)
                for name, value in kept[point].items():
                    replica.buffers[name].copy_(value)
                counts = seen[point]
                for batch in held:
                    if batch.size > 1:
                        forward.quantities(batch, point)
                kept[point] = {name: replica.buffers[name].clone() for name in names}
                tick(sum(batch.size for batch in held))
    finally:
        for hook in hooks:
            hook.remove()
        replica.set_modes(forward.policies.dropout)
    return kept
