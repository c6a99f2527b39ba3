"""Objective: a model, a per-example loss, data, and the policies that make J exact."""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ravine.errors import InputError
from ravine.objective.buffers import BUFFERS_EXPLAINED, Buffers
from ravine.objective.data import Split
from ravine.objective.forward import Coefficients
from ravine.objective.grouping import ROWS, Grouping, Ids
from ravine.objective.losses import PerExample
from ravine.objective.measurement import Asked, Crew, Dropout, Measured, Setup, Store, measure
from ravine.objective.parted import measure_parted
from ravine.objective.replica import running_norms
from ravine.objective.sampling import sampled
from ravine.points.checkpoint import Checkpoint, unwrap
from ravine.points.params import is_float
from ravine.points.sharded import held_by, is_sharded_model, require_shards

_DTYPES: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Objective(Setup):
    """J: the mean over examples of a per-example loss, for one model, on one or more splits.

    The model lends its structure (and buffers that checkpoints lack); its own parameters do not
    matter. It is never changed, moved or put in another mode: everything runs on a private copy.

    Args:
        model: any module. DDP and ``torch.compile`` wrappers are looked through.
            One that several processes share (``fully_shard``, DTensors) is
            measured in place, and has its values back afterwards.
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
            statistics). Means do not depend on it beyond rounding; a loss that depends on the
            other examples of its batch, such as a contrastive one, is refused without it.
        check_data: refuse a source that gives other examples on a second pass.
        clusters: what is independent where a value is not, such as the document of a
            token: standard errors are then over whole clusters. One id per example (a dict
            of splits, where there are several), a function of a batch that gives one id
            per value or per example, or the name of an entry of the dict that
            ``per_example`` returns. None: values are independent, but for ``causal_lm``
            and its kind, whose clusters are the rows (texts) of a batch.
        strata: what was balanced by design, such as the class of an image; likewise. Standard
            errors are then of a draw with the same number of examples in each stratum.
        examples: of a stream, which does not say how many it has: how many to read, from its start.
            A source that has a length is read whole.
        version: changes when code changes that cannot be hashed; kept in results.
        correction: ``"repair"`` gives every unit of the linear and convolutional layers but the
            last the mean and the standard deviation over the first split that lie between the ends'
            (REPAIR, Jordan et al. 2023). The ends themselves are as they are. For a model with
            running statistics, ``buffers="recompute"`` does that.

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
        clusters: Ids | None = None,
        strata: Ids | None = None,
        examples: int | None = None,
        version: str | None = None,
        correction: Literal["repair"] | None = None,
    ) -> None:
        _require_model(model)
        _require_usable(unwrap(model))
        _require_function(per_example)
        _require_choice("dropout", dropout, get_args(Dropout))
        _require_choice("buffers", buffers, (None, *get_args(Buffers)))
        _require_choice("dtype", dtype, (None, *_DTYPES))
        inner = unwrap(model)
        first = next((p for p in inner.parameters() if is_float(p)), None)
        if first is None:
            msg = (
                f"the model {type(inner).__name__} has no floating-point parameters, so there is "
                "no line to measure"
            )
            raise InputError(msg)
        if is_sharded_model(inner):
            require_shards(inner)
        if buffers is None:
            _require_no_statistics(inner)
        limit = None if examples is None else _whole("examples", examples, least=1)
        splits = _splits_of(data, limit)
        if clusters is None and getattr(per_example, "gives_rows", False):
            clusters = ROWS
        grouping = Grouping(clusters, strata)
        grouping.require_lengths({split.name: split.count for split in splits})
        super().__init__(
            model=inner,
            per_example=per_example,
            splits=splits,
            dropout=dropout,
            buffers=buffers,
            seed=_whole("seed", seed),
            device=_usable(device) if device is not None else _home(first),
            dtype=dtype,
            batch_size=None if batch_size is None else _whole("batch_size", batch_size, least=1),
            check_data=check_data,
            grouping=grouping,
            version=version,
            correction=correction,
        )
        _require_choice("correction", correction, (None, "repair"))
        if correction is not None and running_norms(inner):
            msg = (
                "the model has running statistics, whose re-estimate is this correction: choose "
                "buffers='recompute' instead of correction='repair'"
            )
            raise InputError(msg)

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
        return {split: float(found["loss"].mean[0]) for split, found in measured.moments.items()}

    def measure(
        self,
        corners: Sequence[Checkpoint],
        coefficients: Coefficients,
        tick: Callable[[int], None] = lambda _: None,
        *,
        labels: Sequence[str] | None = None,
        probes: Sequence[int] = (),
        joined: Iterable[tuple[int, int]] = (),
        earlier: Measured | None = None,
        store: Store | None = None,
        crew: Crew | None = None,
    ) -> Measured:
        """``measurement.measure`` of this objective, of what ``measurement.Asked`` explains."""
        asked = Asked(corners, coefficients, tick, labels, probes, joined, earlier)
        if is_sharded_model(self.model):
            _require_alone(store, crew)
            return measure_parted(self, asked)
        return measure(self, asked, store, crew)

    def __repr__(self) -> str:
        splits = ", ".join(f"{split.name!r}: {len(split) or '?'}" for split in self.splits)
        return f"Objective({type(self.model).__name__}, examples: {{{splits}}})"

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
        return self._with(buffers=buffers)

    def with_device(self, device: torch.device | str) -> Objective:
        """The same objective, measured on another device.

        Args:
            device: such as "cuda", "cuda:1" or "cpu".

        Raises:
            InputError: there is no such device here.
        """
        return self._with(device=_usable(device))

    def from_(self, origin: Any) -> Objective:
        """The same objective, with what builds it again in another process."""
        return self._with(origin=origin)

    def _with(self, **changed: Any) -> Objective:
        """The same objective but for some attributes; what was checked is not checked again."""
        other = copy.copy(self)
        vars(other).update(changed)
        return other

    def repaired(self) -> Objective:
        """The same objective with the statistics of activations corrected at every point.

        Running statistics are recomputed where the model has some; else ``correction="repair"``.
        """
        if running_norms(self.model):
            return self.with_buffers("recompute")
        return self._with(correction="repair")

    def on(self, *names: str) -> Objective:
        """The same objective on some of its splits.

        The first split stays where statistics are estimated from it: running ones that are
        recomputed, or those of a correction.

        Args:
            names: of the splits.

        Raises:
            InputError: there is no such split.
        """
        known = [split.name for split in self.splits]
        strange = [name for name in names if name not in known]
        if strange or not names:
            msg = (
                f"the objective has the splits {known}; got "
                f"{', '.join(map(repr, strange)) or 'none'}"
            )
            raise InputError(msg)
        estimates = self.buffers == "recompute" or self.correction is not None
        wanted = {*names, *(known[:1] if estimates else ())}
        return self._with(splits=tuple(split for split in self.splits if split.name in wanted))

    def sampled(self, examples: int | Mapping[str, int]) -> Objective:
        """The same objective on a random part of its examples.

        Which ones depends on the seed and on the examples' numbers, not on their order; a larger
        part holds all smaller ones. Clusters are drawn whole, and of each stratum as large a share.

        Args:
            examples: how many of each split, or split → how many; all where there are no more. With
                clusters, at least so many.

        Raises:
            InputError: the examples cannot be drawn one by one (a stream, batches
                made before, ids that a function gives), or J of an example depends
                on others (recomputed statistics, state, masks).

        Examples:
            >>> from torch.nn import functional as F
            >>> from ravine import supervised
            >>> data = (torch.ones(1000, 1), torch.arange(1000.0)[:, None])
            >>> J = Objective(nn.Linear(1, 1, bias=False), supervised(F.mse_loss), data)
            >>> J.sampled(100)
            Objective(Linear, examples: {'data': 100})
        """
        known = [split.name for split in self.splits]
        by_split = examples if isinstance(examples, Mapping) else dict.fromkeys(known, examples)
        if set(by_split) != set(known):
            msg = (
                f"the objective has the splits {known}; got numbers of examples for "
                f"{list(by_split)}"
            )
            raise InputError(msg)
        counts = {name: _whole("examples", by_split[name], least=1) for name in known}
        splits, grouping = sampled(self, counts)
        return self._with(splits=splits, grouping=grouping, origin=None)

    def describe(self) -> dict[str, str | int]:
        """The policies, as in a result's attributes; ``objective_hash`` is SHA-256 over them."""
        function = self.per_example
        name = getattr(function, "name", None) or getattr(function, "__qualname__", "per_example")
        parameters = sum(p.numel() for p in self._own().params.values())
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
        if self.correction is not None:
            said["correction"] = self.correction
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        statistics = len(running_norms(self.model))
        return {**said, "running_statistics": statistics, "objective_hash": digest}

    def _own(self) -> Checkpoint:
        if is_sharded_model(self.model):
            return held_by(self.model)
        return Checkpoint.read(self.model)

    @property
    def units(self) -> dict[str, str]:
        """The unit of each quantity where the loss is a known one: nats for cross-entropy."""
        return dict(getattr(self.per_example, "units", {}))


def _require_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        msg = f"model must be a torch.nn.Module; got {type(model).__name__}"
        raise InputError(msg)


def _require_usable(model: nn.Module) -> None:
    """A model whose parameters are there, and whole."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            msg = (
                f"the model's parameter {name!r} has no shape yet, as lazy layers have: run the "
                "model on one batch first"
            )
            raise InputError(msg)


def _require_alone(store: Store | None, crew: Crew | None) -> None:
    """The processes that share a model are its workers, and a store has one writer."""
    for name, given in (("store", store), ("executor", crew)):
        if given is not None:
            msg = (
                f"a sharded model is measured without {name}=: the processes that share it measure "
                "every point together. Leave it away."
            )
            raise InputError(msg)


def _require_function(per_example: Any) -> None:
    is_loss = getattr(per_example, "__module__", "").startswith("torch.")
    if isinstance(per_example, nn.Module) or is_loss:
        name = getattr(per_example, "__name__", f"{type(per_example).__name__}()")
        msg = (
            f"per_example must call the model; got the loss {name} itself. Write "
            f"ravine.supervised({name})."
        )
        raise InputError(msg)
    if not callable(per_example):
        msg = f"per_example must be a function of (model, batch); got {type(per_example).__name__}"
        raise InputError(msg)
    _require_arguments(per_example)


def _require_arguments(per_example: PerExample) -> None:
    """Find out before anything is read that the function can be called as it will be."""
    given = ["model", "batch", *(["state"] if getattr(per_example, "stateful", False) else [])]
    try:
        signature = inspect.signature(per_example)
    except (TypeError, ValueError):  # of a compiled library, which does not tell
        return
    try:
        signature.bind(*given)
    except TypeError as problem:
        name = getattr(per_example, "__name__", type(per_example).__name__)
        is_maker = getattr(per_example, "__module__", "").startswith("ravine.")
        advice = f" Call it, ravine.{name}(…), for such a function." if is_maker else ""
        msg = (
            f"per_example is called with {' and '.join(given)}, which {name}{signature} does not "
            f"take ({problem}).{advice}"
        )
        raise InputError(msg) from problem


def _require_no_statistics(model: nn.Module) -> None:
    norms = running_norms(model)
    if norms:
        names = ", ".join(map(repr, itertools.islice(norms, 3)))
        msg = (
            f"the model has running statistics ({names}{', …' if len(norms) > 3 else ''}), which "
            f"are undefined for interpolated weights: choose buffers={BUFFERS_EXPLAINED}"
        )
        raise InputError(msg)


def _splits_of(data: Any, limit: int | None) -> tuple[Split, ...]:
    sources = data if isinstance(data, Mapping) else {"data": data}
    if len({str(name) for name in sources}) < len(sources):
        msg = f"two splits have one name: {', '.join(map(repr, sources))}"
        raise InputError(msg)
    if not sources:
        msg = "data is empty; expected a source, or a dict of named sources"
        raise InputError(msg)
    return tuple(Split.of(str(name), source, limit) for name, source in sources.items())


def _require_choice(what: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        msg = f"{what} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        raise InputError(msg)


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
