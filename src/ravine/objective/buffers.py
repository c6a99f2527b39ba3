"""Buffers along a slice: what the policy for running statistics puts in at each point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from ravine.errors import InputError
from ravine.objective.batches import Batch
from ravine.objective.data import Split
from ravine.objective.engine import blocks_of
from ravine.objective.forward import Forward
from ravine.objective.replica import Replica, running_norms
from ravine.points.checkpoint import Checkpoint
from ravine.points.params import is_float, same_values

Buffers = Literal["start", "end", "interpolate", "recompute"]

BUFFERS_EXPLAINED: Final = (
    "'start' or 'end' (those of one end; values at the other end then differ from the saved "
    "checkpoint's), 'interpolate' (interpolate them like parameters), or 'recompute' (estimate "
    "them at every point with one more pass over the first split; the usual choice)"
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
        InputError: a corner lacks a buffer that the policy needs, or they differ where nothing says
            what to do.
    """
    spanning = [corner.taken(own.params) for corner in corners]
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
                "value between them: choose buffers='start', 'end' or 'interpolate'"
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
            f"buffers={policy!r} needs {name!r}, which an end lacks: give the whole state dict, "
            "not the parameters alone, or choose buffers='recompute'"
        )
        raise InputError(msg)
    values = [tensor for tensor in of if tensor is not None]
    if len(values) == 1 or not is_float(values[0]):
        values = [values[0]] * len(held)
    return values


@dataclass(frozen=True)
class Recomputed:
    """Running statistics that were estimated anew.

    Attributes:
        statistics: for every point, the statistics by buffer name.
        used: how many batches they are from.
        left_out: how many had one value for a channel, which has no variance.
        sizes: least and most examples in a batch, of those that were used.
    """

    statistics: list[dict[str, Tensor]]
    used: int
    left_out: int
    sizes: tuple[int, int]

    def __str__(self) -> str:
        least, most = self.sizes
        each = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        said = f"{self.used:,} batch{'es' if self.used != 1 else ''} of {each}"
        return f"{said}; {self.left_out:,} of one value left out" if self.left_out else said


def recomputed_statistics(
    forward: Forward, split: Split, batch_size: int, tick: Callable[[int], None]
) -> Recomputed:
    """Running statistics at every point, by one pass in training mode, batches weighted by size.

    The average of the batches' means and variances, from nothing, as
    ``torch.optim.swa_utils.update_bn`` takes it, but a batch counts by what the layer is given of
    it, so a short last one counts less (and one that gives a layer a single value for a channel,
    which has no variance, is left out). Because a layer is normalised by its own batch while the
    next is estimated, the outcome depends on the batch size; that is the nature of the method.

    Args:
        forward: for the split to estimate from.
        split: it.
        batch_size: examples per forward pass, where the batches are made here.
        tick: told how many examples × points have been done since it was last told.

    Returns:
        The statistics, and what they are from.

    Raises:
        InputError: a module has running statistics that are not PyTorch's own, so how to estimate
            them is unknown; or no batch has a variance.
    """
    replica, points = forward.replica, forward.points
    norms = _known_norms(replica)
    names = [name for name in replica.buffers if name.rpartition(".")[0] in norms]
    kept: list[dict[str, Tensor]] = [{} for _ in range(len(points))]
    weights = [_Weights(norms.values()) for _ in range(len(points))]
    sizes: list[int] = []
    left_out: set[int] = set()
    forward.resets_buffers = False
    for norm in norms.values():
        norm.train()
    try:
        for block in blocks_of(split, split.batches(batch_size)):
            held = [forward.placed(batch) for batch in block.batches]
            for point, coefficients in enumerate(points.coefficients):
                replica.move_to(coefficients)
                for norm in norms.values():
                    norm.train()
                _put(replica, kept[point])
                with weights[point]:
                    for batch in held:
                        if batch.number in left_out:
                            continue
                        found = _taken_in(forward, batch, point, names, weights[point])
                        if found is None and point:
                            raise other_shapes(points.labels[point], f"batch {batch.number}")
                        if found is None:
                            left_out.add(batch.number)
                        elif not point:
                            sizes.append(found)
                kept[point] = {name: replica.buffers[name].clone() for name in names}
                tick(sum(batch.size for batch in held))
    finally:
        replica.set_modes(forward.policies.dropout)
        forward.resets_buffers = not forward.policies.stateful
    if not sizes:
        msg = (
            f"buffers='recompute' found no variance in split {split.name!r}: each of its "
            f"{len(left_out):,} batches gives a layer one value for each channel. Use larger "
            "batches, or choose buffers='start', 'end' or 'interpolate'."
        )
        raise InputError(msg)
    return Recomputed(kept, len(sizes), len(left_out), (min(sizes), max(sizes)))


class _NoVariance(Exception):
    """A layer was given one value for a channel."""


class _Weights:
    """How much of what each layer has seen a batch is: its momentum, while it is watched.

    A layer that is used twice in a forward pass takes in two batches.
    """

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        self.seen = {id(norm): 0 for norm in norms}
        self._norms = list(norms)
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        self._hooks = [norm.register_forward_pre_hook(self._weigh) for norm in self._norms]

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _weigh(self, norm: Any, inputs: tuple[Tensor, ...]) -> None:
        given = inputs[0]
        if given.numel() == _channels(norm, given):
            raise _NoVariance
        rows = given.shape[0]
        self.seen[id(norm)] += rows
        # so that the running mean is the mean over all rows so far: batches differ in size
        norm.momentum = rows / self.seen[id(norm)]


def _channels(norm: Any, given: Tensor) -> int:
    """How many variances a layer takes of its input: an instance norm one for each example too."""
    by_example = isinstance(norm, _InstanceNorm) and given.ndim > norm._get_no_batch_dim()
    return norm.num_features * (given.shape[0] if by_example else 1)


def _taken_in(
    forward: Forward, batch: Batch, point: int, names: list[str], weights: _Weights
) -> int | None:
    """Run a batch through the layers: how many examples it had; None if they cannot take it."""
    # only the first point may meet a batch that has to be undone
    before = None if point else {name: forward.replica.buffers[name].clone() for name in names}
    seen = dict(weights.seen)
    try:
        found = forward.quantities(batch, point)
    except _NoVariance:
        weights.seen = seen
        _put(forward.replica, before or {})
        return None
    return batch.size if batch.is_counted else len(found["loss"])


def _put(replica: Replica, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        replica.buffers[name].copy_(value)


def other_shapes(label: str, batch: str = "a batch") -> InputError:
    """What to say where a batch has a variance at some points only."""
    return InputError(
        f"at {label}, {batch} gives a layer with running statistics one value for a channel, and "
        "at the first point it gave more: the model's route depends on its parameters, and "
        "buffers='recompute' cannot be the same there. Choose 'start', 'end' or 'interpolate'."
    )


def _known_norms(replica: Replica) -> dict[str, Any]:
    """The layers with running statistics, each of a kind whose estimate is known."""
    norms = replica.norms()
    strange = [
        f"{name!r} ({type(norm).__name__})"
        for name, norm in norms.items()
        if not isinstance(norm, _NormBase)
    ]
    if strange:
        msg = (
            f"buffers='recompute' knows PyTorch's normalisation layers; {', '.join(strange)} keeps "
            "running statistics of its own. Choose 'start', 'end' or 'interpolate'."
        )
        raise InputError(msg)
    return norms
