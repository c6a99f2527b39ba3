"""Correction: an interpolated network's units rescaled to the statistics its ends suggest (REPAIR).

Between two networks the activations of a unit partly cancel: its variance over the data is smaller
than at either end, and the loss is high for that reason alone. Each unit's output is brought back
to the mean and the standard deviation that lie between the ends' by one scale and one shift, which
could be folded into its weights and bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ravine.errors import InputError
from ravine.objective.data import Split
from ravine.objective.engine import blocks_of
from ravine.objective.forward import Forward
from ravine.objective.replica import Replica

_SCALE: Final = "_ravine_scale"
_SHIFT: Final = "_ravine_shift"

Mode = Literal["apply", "record", "expect"]


@dataclass
class _Sums:
    """Sums over everything but the units, in float64."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Take in (values, units)."""
        wide = rows.double()
        self.count += len(rows)
        self.total = self.total + wide.sum(0)
        self.squares = self.squares + wide.square().sum(0)

    @property
    def mean(self) -> Tensor:
        """Of each unit."""
        return torch.as_tensor(self.total) / self.count

    @property
    def deviation(self) -> Tensor:
        """Of each unit."""
        variance = torch.as_tensor(self.squares) / self.count - self.mean.square()
        # a difference of two sums, which rounding may take below 0
        return variance.clamp_min(0).sqrt()


@dataclass
class _Layer:
    """One linear or convolutional layer of the replica.

    Attributes:
        name: its name.
        spatial: how many axes come after the units.
        sums: of its outputs, while they are recorded.
        target: the mean and deviation that its outputs should have.
    """

    name: str
    spatial: int
    sums: _Sums = field(default_factory=_Sums)
    target: tuple[Tensor, Tensor] | None = None


class Correction:
    """The corrected layers of a replica.

    Args:
        replica: whose linear and convolutional layers get a scale and a shift, at first 1 and 0.
    """

    def __init__(self, replica: Replica) -> None:
        self.mode: Mode = "apply"
        self.called: list[_Layer] = []
        self._layers: dict[str, _Layer] = {}
        for name, module in list(replica.module.named_modules()):
            if isinstance(module, nn.Linear | _ConvNd):
                self._install(name, module)
        replica.buffers = dict(replica.module.named_buffers())
        replica.is_corrected = True

    def _install(self, name: str, module: Any) -> None:
        weight = module.weight
        units = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        # not persistent: the names in a state dict stay those of the caller's model
        module.register_buffer(_SCALE, weight.new_ones(units), persistent=False)
        module.register_buffer(_SHIFT, weight.new_zeros(units), persistent=False)
        layer = self._layers[name] = _Layer(name, weight.ndim - 2)

        def corrected(module: Any, given: Any, out: Tensor) -> Tensor:
            del given
            return self._corrected(layer, module, out)

        module.register_forward_hook(corrected)

    def _corrected(self, layer: _Layer, module: Any, out: Tensor) -> Tensor:
        # counted from the end: an example without a batch axis is allowed
        axis = out.ndim - 1 - layer.spatial
        shape = [-1] + [1] * layer.spatial
        if self.mode == "apply":
            scale, shift = getattr(module, _SCALE), getattr(module, _SHIFT)
            return out * scale.view(shape) + shift.view(shape)
        if layer not in self.called:
            self.called.append(layer)
        rows = out.movedim(axis, -1).reshape(-1, out.shape[axis])
        layer.sums.add(rows)
        if self.mode == "record" or layer.target is None:
            return out
        seen = _Sums()
        seen.add(rows)
        scale, shift = _affine_to(layer.target, seen)
        return out * scale.to(out).view(shape) + shift.to(out).view(shape)

    def begin(self, mode: Mode) -> None:
        """Watch the outputs anew."""
        self.mode = mode
        for layer in self._layers.values():
            layer.sums = _Sums()

    def targets(self, between: Sequence[dict[str, _Sums]], shares: Sequence[float]) -> None:
        """Aim at what lies between the ends', in all layers but the last one called."""
        for layer in self._layers.values():
            layer.target = None
        # the last layer gives the answer itself, whose scale is not to be changed
        for layer in self.called[:-1]:
            held = [ends[layer.name] for ends in between]
            mean = sum(
                (c * one.mean for c, one in zip(shares, held, strict=True)), torch.tensor(0.0)
            )
            deviation = sum(
                (c * one.deviation for c, one in zip(shares, held, strict=True)), torch.tensor(0.0)
            )
            # beyond the ends one share is negative, and their sum may be too
            layer.target = (mean, deviation.clamp_min(0))

    def recorded(self) -> dict[str, _Sums]:
        """The sums of every layer that was called."""
        return {layer.name: layer.sums for layer in self.called}

    def found(self) -> dict[str, Tensor]:
        """Scales and shifts for the point that was watched, by the replica's buffers."""
        made: dict[str, Tensor] = {}
        for layer in self.called:
            front = f"{layer.name}." if layer.name else ""
            if layer.target is not None:
                scale, shift = _affine_to(layer.target, layer.sums)
                made |= {f"{front}{_SCALE}": scale, f"{front}{_SHIFT}": shift}
        return made


def _affine_to(target: tuple[Tensor, Tensor], seen: _Sums) -> tuple[Tensor, Tensor]:
    """The scale and shift to a mean and a deviation; no scale where the outputs do not vary."""
    mean, deviation = target
    has_spread = seen.deviation > 0
    # where() computes both of its branches: the bound keeps the one that is not taken finite
    scale = torch.where(has_spread, deviation / seen.deviation.clamp_min(1e-30), 1.0)
    return scale, mean - scale * seen.mean


def corrections(
    correction: Correction,
    forward: Forward,
    split: Split,
    batch_size: int,
    tick: Callable[[int], None],
) -> list[dict[str, Tensor]]:
    """The scales and shifts at every point, by one pass at each end and one at each point between.

    Upstream layers are corrected batch by batch while those after them are watched, as running
    statistics are estimated. A corner is its own network: nothing is corrected there.

    Args:
        correction: of the replica.
        forward: for the split.
        split: from which statistics are taken.
        batch_size: examples per forward pass, where the batches are made here.
        tick: told of progress.

    Returns:
        For each point the values of the replica's scales and shifts; none at a corner.

    Raises:
        InputError: the model has no linear or convolutional layer that is called before the last.

    References:
        Jordan et al. 2023 (REPAIR), section 4.
    """
    corners = len(forward.points.coefficients[0])
    ends: list[dict[str, _Sums]] = []
    for corner in range(corners):
        one_hot = tuple(float(place == corner) for place in range(corners))
        _watch(correction, forward, split, batch_size, "record", one_hot)
        ends.append(correction.recorded())
    if len(correction.called) < 2:
        msg = (
            "correction='repair' rescales the outputs of linear and convolutional layers "
            "(nn.Linear, nn.Conv…) before the last one; the model calls none"
        )
        raise InputError(msg)
    found: list[dict[str, Tensor]] = []
    for coefficients in forward.points.coefficients:
        shares = tuple(coefficients)
        if max(shares) == 1 and sum(map(abs, shares)) == 1:
            correction.targets(ends, shares)
            found.append(_untouched(correction))
            continue
        correction.targets(ends, shares)
        _watch(correction, forward, split, batch_size, "expect", shares)
        found.append(correction.found())
        tick(len(split) or 0)
    correction.begin("apply")
    return found


def _untouched(correction: Correction) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for layer in correction.called[:-1]:
        front = f"{layer.name}." if layer.name else ""
        units = torch.as_tensor(layer.sums.total).shape
        made |= {f"{front}{_SCALE}": torch.ones(units), f"{front}{_SHIFT}": torch.zeros(units)}
    return made


def _watch(
    correction: Correction,
    forward: Forward,
    split: Split,
    batch_size: int,
    mode: Mode,
    at: tuple[float, ...],
) -> None:
    """One pass over the split at one place."""
    correction.begin(mode)
    forward.replica.move_to(at)
    forward.forget(0)
    for block in blocks_of(split, split.batches(batch_size)):
        for batch in block.batches:
            forward.quantities(forward.placed(batch), 0, at=at)
    forward.forget(0)
