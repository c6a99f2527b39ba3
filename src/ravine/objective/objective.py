"""Objective: what is measured at a point: a model, a per-example loss, data, and the policies that make J exact."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.buffers import recomputed_statistics
from ravine.objective.data import Split
from ravine.objective.engine import DEFAULT_BATCH, Coefficients, Pass, Policies
from ravine.objective.losses import PerExample
from ravine.objective.moments import Moments
from ravine.objective.probes import noise_floors, require_determined
from ravine.objective.randomness import preserved_rng
from ravine.objective.replica import Replica, running_norms
from ravine.points.checkpoint import Checkpoint, matched, unwrap
from ravine.points.params import (
    Params,
    all_finite,
    content_hash,
    distance,
    gram,
    is_float,
    same_values,
)

Dropout = Literal["off", "fixed", "resample"]
Buffers = Literal["start", "end", "interpolate", "recompute"]

_DTYPES: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


_BUFFERS_EXPLAINED: Final = (
    "'start' or 'end' (keep one end's: the other end then is not its own checkpoint), "
    "'interpolate' (mix them like parameters), or "
    "'recompute' (estimate them anew at every point by one more pass over the first split; the "
    "usual choice)"
)


@dataclass(frozen=True)
class Measured:
    """What a measurement of some points gave.

    Attributes:
        moments: split → quantity → its sums at every point.
        floors: split → quantity → probed point → how far rounding alone moves its mean there.
        fingerprints: split → the fingerprint of its examples.
        hashes: of the corners' tensors.
        gram: inner products of the corners' differences from the first one, over the parameters.
        dtype: of the forward pass.
    """

    moments: dict[str, dict[str, Moments]]
    floors: dict[str, dict[str, dict[int, float]]]
    fingerprints: dict[str, str]
    hashes: list[str]
    gram: np.ndarray
    dtype: str

    def on_line(self, points: np.ndarray, start: int, end: int) -> Measured:
        """The part of the measurement that belongs to the line between two of the corners.

        Args:
            points: their numbers, in the order wanted.
            start: number of the corner at α = 0.
            end: number of the corner at α = 1.

        Returns:
            What measuring that line alone gives, up to rounding.
        """
        square = _square(self.gram, start, end)
        places = {point: place for place, point in enumerate(points.tolist())}
        return Measured(
            {
                s: {name: m.of_points(points) for name, m in found.items()}
                for s, found in self.moments.items()
            },
            {
                split: {
                    name: {places[p]: f for p, f in by.items() if p in places}
                    for name, by in found.items()
                }
                for split, found in self.floors.items()
            },
            self.fingerprints,
            [self.hashes[start], self.hashes[end]],
            np.array([[square]]),
            self.dtype,
        )


class Objective:
    """J: the mean over examples of a per-example loss, for one model, on one or more splits.

    The model lends its structure (and buffers that checkpoints lack); its own parameters do not
    matter. It is never changed, moved or put in another mode: everything runs on a private copy.

    Args:
        model: any module. DDP and ``torch.compile`` wrappers are looked through.
        per_example: ``per_example(model, batch)`` gives a tensor of per-example (or per-token)
            losses, or a dict of such tensors with a ``"loss"`` entry, all from one forward pass;
            its attribute ``units``, a dict such as ``{"loss": "nats"}``, names their units, if it
            has one. ``supervised(F.cross_entropy)`` makes one for ``(inputs, targets)`` batches;
            ``stateful`` marks one that carries state.
        data: a source, or a dict of named sources (splits). A source is a tuple of tensors of one
            length, a Dataset, a DataLoader, or an iterable of batches that can be read again. Alone
            it is called "data".
        dropout: ``"off"`` (evaluation mode, the default); ``"fixed"`` (training mode, the same
            masks at every point: a smooth noisy objective); ``"resample"`` (training mode, other
            masks at every point).
        buffers: for a model with running statistics (BatchNorm), which a point between two
            checkpoints does not have: ``"start"``, ``"end"``, ``"interpolate"`` or ``"recompute"``.
            Needed for such a model only.
        seed: of the masks and of whatever else is random. Any integer.
        device: where to compute; by default where the model is.
        dtype: precision of the forward pass; by default the widest of the model's and the ends'
            own, at least float32.
        batch_size: examples per forward pass, where the batches are made here (tuples and
            Datasets). By default what is fastest for a tuple of tensors, measured once; 256 for a
            Dataset, and wherever batches are part of the objective (dropout, state, recomputed
            statistics). Means do not depend on it beyond rounding.
        check_data: refuse a source that gives other examples on a second pass.

    Raises:
        InputError: an argument does not fit, or the model needs a policy for its running
            statistics.

    Examples:
        A quadratic: J(w) is the mean of (w − x)² over x = 1, 3, which is (w − 2)² + 1.

        >>> from torch.nn import functional as F
        >>> from ravine import supervised
        >>> model = nn.Linear(1, 1, bias=False)
        >>> data = (torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
        >>> J = Objective(model, supervised(F.mse_loss), data)
        >>> J({"weight": torch.tensor([[5.0]])})
        {'data': 10.0}
    """

    def __init__(
        self,
        model: nn.Module,
        per_example: PerExample,
        data: Any,
        *,
        dropout: Dropout = "off",
        buffers: Buffers | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        check_data: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            msg = f"model must be a torch.nn.Module; got {type(model).__name__}"
            raise InputError(msg)
        if isinstance(per_example, nn.Module) or getattr(per_example, "__module__", "").startswith(
            "torch."
        ):
            name = getattr(per_example, "__name__", type(per_example).__name__)
            msg = (
                f"per_example is the loss {name} itself; wrap it, ravine.supervised({name}), to "
                "call the model first"
            )
            raise InputError(msg)
        if not callable(per_example):
            msg = (
                "per_example must be a function of (model, batch); got "
                f"{type(per_example).__name__}"
            )
            raise InputError(msg)
        _require_choice("dropout", dropout, get_args(Dropout))
        _require_choice("buffers", buffers, (None, *get_args(Buffers)))
        batch_size = None if batch_size is None else _whole("batch_size", batch_size, least=1)
        seed = _whole("seed", seed)
        self.model = unwrap(model)
        self.per_example = per_example
        self.dropout = dropout
        self.buffers = buffers
        self.seed = seed
        self.batch_size = batch_size
        self.check_data = check_data
        floats = [p for p in self.model.parameters() if is_float(p)]
        if not floats:
            msg = (
                f"the model {type(self.model).__name__} has no floating-point parameters, so there "
                "is no line to walk"
            )
            raise InputError(msg)
        self.device = _usable(device) if device is not None else _home(floats[0])
        if dtype is not None and dtype not in _DTYPES:
            msg = f"dtype must be one of {', '.join(map(str, _DTYPES))}; got {dtype!r}"
            raise InputError(msg)
        self.dtype = dtype
        norms = running_norms(self.model)
        if norms and buffers is None:
            names = ", ".join(map(repr, itertools.islice(norms, 3)))
            msg = (
                f"the model has running statistics ({names}{', …' if len(norms) > 3 else ''}), and "
                "a point between "
                f"two checkpoints has none of its own: choose buffers={_BUFFERS_EXPLAINED}"
            )
            raise InputError(msg)
        sources = data if isinstance(data, Mapping) else {"data": data}
        if len({str(name) for name in sources}) < len(sources):
            msg = f"two splits have one name: {', '.join(map(repr, sources))}"
            raise InputError(msg)
        if not sources:
            msg = "data is empty; expected a source, or a dict of named sources"
            raise InputError(msg)
        self.splits = [
            Split(str(name), source, batch_size or DEFAULT_BATCH)
            for name, source in sources.items()
        ]
        by_example = (
            dropout == "off"
            and buffers != "recompute"
            and not getattr(per_example, "stateful", False)
        )
        #: whether examples per forward pass are still to be measured
        self._unmeasured = (
            batch_size is None
            and by_example
            and any(split.tensors is not None for split in self.splits)
        )

    def __call__(self, params: Any) -> dict[str, float]:
        """J at one point.

        Args:
            params: a point, in any of the forms that an end of a ``Line`` may take.

        Returns:
            The mean loss per example, by split.

        Raises:
            InputError: the point does not fit the model, or a source cannot be measured.
        """
        measured = self.measure([Checkpoint.read(params)], [(1.0,)])
        return {
            split: float(moments["loss"].mean[0]) for split, moments in measured.moments.items()
        }

    def measure(
        self,
        corners: Sequence[Checkpoint],
        coefficients: Coefficients,
        tick: Callable[[int], None] = lambda _: None,
        *,
        labels: Sequence[str] | None = None,
        probes: Sequence[int] = (),
        joined: Iterable[tuple[int, int]] = (),
    ) -> Measured:
        """Measure every point Σ cᵢ cornerᵢ on every split, each split read once.

        Args:
            corners: the checkpoints that span the slice.
            coefficients: for every point, one number per corner, summing to 1.
            tick: told of progress, in examples × points.
            labels: a name for every point, for messages.
            probes: numbers of the points whose noise floor to estimate (four evaluations of 256
                examples each).
            joined: pairs of corners, by number, between which a slice runs: they have to be
                different points.

        Returns:
            Sums by split and quantity, and the provenance that only the measurement knows.

        Raises:
            InputError: a corner does not fit the model or is not finite, or the data cannot be
                measured.
        """
        own = Checkpoint.read(self.model)
        for corner in corners:
            if corner.adapter is not None:
                msg = (
                    f"{corner.label} is an adapter, a change to a base model: measure Line(base, "
                    "adapter).at(1)"
                )
                raise InputError(msg)
        aligned = [matched(own, corner) for corner in corners]
        for corner in aligned:
            corner.require_unchanged()
            _require_finite(corner, own)
        points = [{name: corner.tensors[name] for name in own.params} for corner in aligned]
        between = gram(points)
        for one, other in joined:
            if _coincide(points, between, one, other):
                msg = (
                    f"{corners[one].label} and {corners[other].label} are the same point, so every "
                    "curve between them "
                    "is flat. (A module and its state_dict() are live: take "
                    "copy.deepcopy(model.state_dict()) before "
                    "training.)"
                )
                raise InputError(msg)
        # float64 checkpoints may differ by less than a float32 model can tell
        dtype = self.dtype or _at_least_float32(
            [tensor for point in [own.params, *points] for tensor in point.values()]
        )
        policies = Policies(
            self.dropout,
            self.seed,
            getattr(self.per_example, "stateful", False),
            dtype,
            self.device,
        )
        generators = [generator for split in self.splits for generator in split.generators]
        labels = labels or [f"point {number}" for number in range(len(coefficients))]
        moments, found_floors, prints = {}, {}, {}
        if self.device.type == "cuda":
            torch.cuda.init()  # so that its generator is among those that are preserved
        with torch.inference_mode(mode=False), preserved_rng(generators), torch.no_grad():
            for split in self.splits if self.check_data else []:
                split.require_repeatable()
            replica = Replica(self.model, dtype, self.device)
            replica.span(self._spanning(own, aligned))
            replica.set_modes(self.dropout)
            statistics = None
            if self.buffers == "recompute":
                first = Pass(
                    replica, self.splits[0], self.per_example, policies, coefficients, labels
                )
                require_determined(first, self.model)
                statistics = recomputed_statistics(first, tick)
            for split in self.splits:
                one_pass = Pass(
                    replica, split, self.per_example, policies, coefficients, labels, statistics
                )
                require_determined(one_pass, self.model)
                one_pass.choose_layout()
                if self._unmeasured and split.tensors is not None:
                    self._take_batch_size(one_pass.fastest_batch_size())
                found_floors[split.name] = noise_floors(one_pass, probes)
                one_pass.run(tick)
                if self.check_data or one_pass.fingerprint.count == 0:
                    split.require_same(one_pass.fingerprint)
                empty = [name for name, found in one_pass.moments.items() if not found.count]
                if empty:
                    msg = (
                        f"per_example gave no values of {empty[0]!r} on split {split.name!r} (is "
                        "every target ignored?)"
                    )
                    raise InputError(msg)
                moments[split.name] = one_pass.moments
                prints[split.name] = str(one_pass.fingerprint)
        return Measured(
            moments,
            found_floors,
            prints,
            [content_hash(corner.tensors) for corner in aligned],
            between,
            str(dtype).removeprefix("torch."),
        )

    def with_buffers(self, buffers: Buffers) -> Objective:
        """The same objective under another policy for running statistics.

        Args:
            buffers: the policy.

        Raises:
            InputError: the model has no running statistics, or there is no such policy.
        """
        _require_choice("buffers", buffers, get_args(Buffers))
        if not running_norms(self.model):
            msg = "the model has no running statistics, so there is no policy for them to choose"
            raise InputError(msg)
        other = copy.copy(self)
        other.buffers = buffers
        return other

    def describe(self) -> dict[str, str | int]:
        """The policies, as they stand in a result's attributes; ``objective_hash`` is SHA-256 over them."""
        name = getattr(self.per_example, "name", None) or getattr(
            self.per_example, "__qualname__", "per_example"
        )
        parameters = sum(p.numel() for p in Checkpoint.read(self.model).params.values())
        said: dict[str, str | int] = {
            "model": f"{type(self.model).__name__}, {parameters:,} parameters",
            "per_example": str(name),
            "dropout": self.dropout,
            "buffers": self.buffers or "none",
            "dtype": str(self.dtype or "as stored").removeprefix("torch."),
            "device": str(self.device),
            "seed": self.seed,
            "batch_size": self.batch_size or "measured",
        }
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return {**said, "batch_size": self.splits[0].batch_size, "objective_hash": digest}

    @property
    def units(self) -> dict[str, str]:
        """The unit of each quantity where the loss is a known one: nats for cross-entropy."""
        return dict(getattr(self.per_example, "units", {}))

    def _take_batch_size(self, size: int) -> None:
        for split in self.splits:
            if split.tensors is not None:
                split.batch_size = size
        self._unmeasured = False

    def _spanning(self, own: Checkpoint, aligned: list[Checkpoint]) -> list[dict[str, Tensor]]:
        """What the replica moves between: parameters, and the buffers that the policy says."""
        spanning = [{name: corner.tensors[name] for name in own.params} for corner in aligned]
        norms = running_norms(self.model)
        kept = {name: p for name, p in self.model.named_parameters() if not is_float(p)}
        saved = self.model.state_dict().keys()
        for name in sorted(own.buffers):
            held: list[Tensor | None] = [corner.tensors.get(name) for corner in aligned]
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
            if not present and not (
                is_statistic and self.buffers in ("start", "end", "interpolate")
            ):
                continue  # the model's own value stands
            if is_statistic and self.buffers == "recompute":
                continue
            if (
                differs
                and not is_statistic
                and self.buffers in (None, "recompute")
                and name not in kept
            ):
                msg = (
                    f"the ends differ in the buffer {name!r}, which is no parameter, so it has no "
                    "value between them: "
                    "choose buffers='start', 'end' or 'interpolate'"
                )
                raise InputError(msg)
            chosen = self._chosen(name, held)
            for corner, tensor in zip(spanning, chosen, strict=True):
                corner[name] = tensor
        return spanning

    def _chosen(self, name: str, held: list[Tensor | None]) -> list[Tensor]:
        """A buffer's value at each corner by the policy; an integer one is never interpolated."""
        present = [tensor for tensor in held if tensor is not None]
        of = {"start": held[:1], "end": held[-1:]}.get(
            self.buffers or "", held if self.buffers else present[:1]
        )
        if any(tensor is None for tensor in of):
            msg = (
                f"buffers={self.buffers!r} needs {name!r}, which an end lacks: give the whole "
                "state dict, not the "
                "parameters alone, or choose buffers='recompute'"
            )
            raise InputError(msg)
        values = [tensor for tensor in of if tensor is not None]
        if len(values) == 1 or not is_float(values[0]):
            values = [values[0]] * len(held)
        return values


def _require_choice(what: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        msg = f"{what} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        raise InputError(msg)


def _require_finite(corner: Checkpoint, own: Checkpoint) -> None:
    broken = [name for name in own.params if not all_finite(corner.tensors[name])]
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        msg = f"{corner.label} holds NaN or infinity in {', '.join(map(repr, broken[:5]))}{more}"
        raise InputError(msg)


def _square(between: np.ndarray, one: int, other: int) -> float:
    """Squared distance of two corners, from the inner products of the offsets from the first."""
    to = np.pad(between, ((1, 0), (1, 0)))
    return max(float(to[one, one] + to[other, other] - 2 * to[one, other]), 0.0)


def _coincide(points: Sequence[Params], between: np.ndarray, one: int, other: int) -> bool:
    rounding = 1e-12 * float(
        np.diagonal(between).max()
    )  # far from the first corner a small distance cancels
    return _square(between, one, other) <= rounding and distance(points[one], points[other]) == 0


def _whole(what: str, value: Any, least: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        kind = "an integer" if least is None else "a positive integer"
        msg = f"{what} must be {kind}; got {value!r}"
        raise InputError(msg)
    return number


def _usable(device: Any) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, TypeError, AssertionError, ValueError) as problem:
        msg = f"device {device!r} cannot be used here ({str(problem).splitlines()[0]})"
        raise InputError(msg) from problem
    return found


def _home(parameter: Tensor) -> torch.device:
    return torch.device("cpu") if parameter.device.type == "meta" else parameter.device


def _at_least_float32(floats: Sequence[Tensor]) -> torch.dtype:
    real = [torch.empty((), dtype=p.dtype).real.dtype for p in floats]
    return functools.reduce(torch.promote_types, real, torch.float32)
