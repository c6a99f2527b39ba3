"""Measurement: a slice's corners and some points' coefficients → sums over examples there."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, TypedDict
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ravine.errors import InputError
from ravine.objective.buffers import Buffers, recomputed_statistics, spanning
from ravine.objective.correction import Correction, corrections
from ravine.objective.data import Split
from ravine.objective.engine import measure_split
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.forward import Coefficients, Forward, Points, Policies
from ravine.objective.forward import joined as end_to_end
from ravine.objective.freshness import require_fresh
from ravine.objective.grouping import Grouping, require_same_groups
from ravine.objective.losses import PerExample
from ravine.objective.moments import Moments
from ravine.objective.precision import full_convolutions
from ravine.objective.probes import (
    DRAWS,
    noise_floors,
    require_determined,
    require_own_values,
)
from ravine.objective.randomness import preserved_rng
from ravine.objective.replica import Replica
from ravine.objective.spread import Spreading, spread_split, spread_statistics
from ravine.objective.tiles import Desk, Keeper, Shelf
from ravine.objective.tuning import DEFAULT_BATCH, Plan, Trial, in_short_tiles, installed, plan_for
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, all_finite, bytes_of, content_hashes, distance, gram

Dropout = Literal["off", "fixed", "resample"]

#: Passes over a trial's examples: two for determinism, one in two halves, three for the affine
#: layer.
_LOOKS = 6
_TELLING = 32  # examples whose values tell one objective from another
_EXACT = 2  # a pass in float64 costs as much as two
_EXACT_UP_TO = 1 << 25  # parameters of a model that is held in float64 beside the replica


@dataclass(frozen=True, eq=False, repr=False)
class Setup:
    """What a measurement has to know of an objective; ``Objective`` explains each."""

    model: nn.Module
    per_example: PerExample
    splits: tuple[Split, ...]
    dropout: Dropout
    buffers: Buffers | None
    seed: int
    device: torch.device
    dtype: torch.dtype | None
    batch_size: int | None
    check_data: bool
    grouping: Grouping
    version: str | None
    correction: Literal["repair"] | None = None
    origin: Any = None  # what builds it again in another process

    @property
    def is_stateful(self) -> bool:
        """Whether the caller's function carries state from batch to batch."""
        return bool(getattr(self.per_example, "stateful", False))

    @property
    def is_by_example(self) -> bool:
        """Whether the batches are no part of the objective."""
        independent = self.buffers != "recompute" and self.correction is None
        return self.dropout == "off" and independent and not self.is_stateful


#: The batch size that timing found fastest for an objective: it is timed once, and the objective is
#: not changed.
_FASTEST: Final[WeakKeyDictionary[Setup, int]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Subject:
    """What a measurement is of, as far as it is known before anything is measured.

    Attributes:
        setup: of the objective.
        points: of the request.
        hashes: of the corners' tensors.
        dtype: of the forward pass.
    """

    setup: Setup
    points: Points
    hashes: Sequence[str]
    dtype: torch.dtype


@dataclass(frozen=True)
class Request:
    """What workers have to know of a measurement before they can be given orders.

    Attributes:
        setup: of the objective.
        hashes: of the corners' tensors.
        spanned: what a replica moves between, by name, at each corner.
        dtype: of the forward pass.
        threads: of torch.
    """

    setup: Setup
    hashes: Sequence[str]
    spanned: Sequence[Params]
    dtype: torch.dtype
    threads: int


class Crew(Protocol):
    """Workers in other processes."""

    @property
    def threads(self) -> int:
        """Of torch, for every worker."""
        ...

    def desk(self, request: Request) -> AbstractContextManager[Desk]:
        """Workers that are ready for a measurement's orders, until the block ends.

        Raises:
            InputError: what is measured cannot be sent to another process.
        """
        ...


class Store(Protocol):
    """Finished tiles, and the plans that they were made by."""

    def keeper(self, subject: Subject) -> Keeper:
        """The part of the store that belongs to a measurement.

        Raises:
            InputError: it cannot be told by content what is measured.
        """
        ...


@dataclass(frozen=True, eq=False)
class Asked:
    """Points of a slice, and what is to be found out about them.

    Attributes:
        corners: the checkpoints that span the slice.
        coefficients: for every point, one number per corner, summing to 1.
        tick: told of progress, in examples × points.
        labels: a name for every point, for messages; None numbers them.
        probes: numbers of the points whose noise floor to estimate.
        joined: pairs of corners, by number, between which a slice runs: they have to be different
            points.
        earlier: a measurement between the same corners, whose plan is used again; the examples
            have to be the same.
    """

    corners: Sequence[Checkpoint]
    coefficients: Coefficients
    tick: Callable[[int], None]
    labels: Sequence[str] | None = None
    probes: Sequence[int] = ()
    joined: Iterable[tuple[int, int]] = ()
    earlier: Measured | None = None

    @property
    def points(self) -> Points:
        """The points, each with its name."""
        numbered = [f"point {number}" for number in range(len(self.coefficients))]
        return Points(self.coefficients, self.labels or numbered)


@dataclass(frozen=True)
class Measured:
    """What a measurement of some points gave.

    Attributes:
        moments: split → quantity → its sums at every point.
        floors: split → quantity → probed point → how far rounding alone moves its mean there.
        fingerprints: split → what its examples were.
        units: split → how many independent draws they are.
        batches: split → examples in a batch.
        plans: split → how it was measured.
        hashes: of the corners' tensors.
        gram: inner products of the corners' differences from the first one, over the parameters.
        dtype: of the forward pass.
        statistics_from: the batches that running statistics were estimated from; "" where
            they were not.
    """

    moments: dict[str, dict[str, Moments]]
    floors: dict[str, dict[str, dict[int, float]]]
    fingerprints: dict[str, Fingerprint]
    units: dict[str, int]
    batches: dict[str, int]
    plans: dict[str, Plan]
    hashes: list[str]
    gram: np.ndarray
    dtype: str
    statistics_from: str = ""

    def part(self, points: np.ndarray, corners: Sequence[int]) -> Measured:
        """The part of the measurement that belongs to a slice through some of the corners.

        Args:
            points: their numbers, in the order wanted.
            corners: the numbers of the slice's corners, in its order.

        Returns:
            What measuring that slice alone gives, up to rounding.
        """
        places = {point: place for place, point in enumerate(points.tolist())}
        moments, floors = {}, {}
        for split, found in self.moments.items():
            moments[split] = {name: of.at(points) for name, of in found.items()}
        for split, known in self.floors.items():
            floors[split] = {name: _renumbered(of, places) for name, of in known.items()}
        return Measured(
            moments=moments,
            floors=floors,
            fingerprints=self.fingerprints,
            units=self.units,
            batches=self.batches,
            plans=self.plans,
            hashes=[self.hashes[corner] for corner in corners],
            gram=_gram_of(self.gram, corners),
            dtype=self.dtype,
            statistics_from=self.statistics_from,
        )


def measure(
    setup: Setup, asked: Asked, store: Store | None = None, crew: Crew | None = None
) -> Measured:
    """Measure every point Σ cᵢ cornerᵢ on every split, each split read once.

    Args:
        setup: of the objective.
        asked: the points.
        store: of finished tiles, which are not measured again.
        crew: workers that measure; all else is done here.

    Returns:
        Sums by split and quantity, and the provenance that only the measurement knows.

    Raises:
        InputError: a corner does not fit the model or is not finite, or the data
            cannot be measured.
    """
    own = Checkpoint.read(setup.model)
    fitted = [_fitted(own, corner) for corner in asked.corners]
    params = [corner.taken(own.params) for corner in fitted]
    dtype = setup.dtype or _widest([own.params, *params])
    policies = Policies(setup.dropout, setup.seed, setup.is_stateful, dtype, setup.device)
    points, tick, earlier = asked.points, asked.tick, asked.earlier
    found = nothing_yet(asked, fitted, params, dtype)
    statistics_from = ""
    keeper = None
    with undisturbed(setup), _threads_of(crew), ExitStack() as held:
        if setup.check_data and earlier is None:
            for split in setup.splits:
                split.require_repeatable(setup.batch_size or DEFAULT_BATCH, tick)
        spanned = spanning(setup.model, own, fitted, setup.buffers)
        replica, correction = replica_of(setup, spanned, dtype)
        replica.files = [file for corner in fitted for file in corner.files]
        desk = None
        if crew is not None:
            request = Request(setup, found.hashes, spanned, dtype, crew.threads)
            desk = held.enter_context(crew.desk(request))
        if setup.buffers == "recompute":
            points, statistics_from = _with_statistics(setup, replica, policies, points, tick, desk)
        if correction is not None:
            points = _with_corrections(setup, replica, correction, policies, points, tick)
            statistics_from = f"split {setup.splits[0].name!r}"
        if store is not None:
            keeper = store.keeper(Subject(setup, points, found.hashes, dtype))
        exact: Replica | None = None
        for split in setup.splits:
            forward = Forward(replica, setup.per_example, policies, split.name, points)
            if earlier is None:
                if asked.probes and exact is None and _can_be_exact(setup, own, dtype):
                    exact = _exact_replica(setup, spanned, replica)
                seconds = _look(setup, split, forward, asked.probes, found, exact, keeper)
                if desk is not None:
                    desk.paces.setdefault(split.name, seconds)
            else:
                found.plans[split.name], found.floors[split.name] = earlier.plans[split.name], {}
            plan = found.plans[split.name]
            if keeper is not None:
                installed(replace(plan, affine=None, at_once=1), forward)
                _show_values(forward, split, keeper)
            options: _Options = {
                "check_data": setup.check_data,
                "shelf": None if keeper is None else keeper.shelf(split.name),
            }
            if desk is None:
                sums = measure_split(forward, split, plan, setup.grouping, tick, **options)
            else:
                by = Spreading(desk, replica.resets, values_between(forward, split, plan))
                sums = spread_split(forward, split, plan, setup.grouping, tick, by, **options)
            before = None if earlier is None else earlier.fingerprints[split.name]
            if setup.check_data or sums.fingerprint.count == 0:
                split.require_same(before, sums.fingerprint)
            if earlier is not None:
                known = earlier.moments[split.name]["loss"]
                require_same_groups(split.name, known, sums.moments["loss"])
            _require_values(sums.moments, split)
            found.moments[split.name], found.units[split.name] = sums.moments, sums.units
            found.fingerprints[split.name] = sums.fingerprint
            found.batches[split.name] = plan.batch_size if split.makes_batches else sums.batch
    for corner in fitted:
        corner.require_unchanged()  # nor did a file change while it was measured
    return replace(found, statistics_from=statistics_from)


def nothing_yet(
    asked: Asked, fitted: Sequence[Checkpoint], params: Sequence[Params], dtype: torch.dtype
) -> Measured:
    """A measurement of which only the corners are known.

    Args:
        asked: the points.
        fitted: the corners, as the model takes them.
        params: the parameters of each.
        dtype: of the forward pass.

    Raises:
        InputError: two corners are one point, and a slice runs between them.
    """
    between = gram(params)
    for one, other in asked.joined:
        require_apart(asked.corners, params, between, one, other)
    hashes = content_hashes([corner.tensors for corner in fitted])
    name = str(dtype).removeprefix("torch.")
    return Measured({}, {}, {}, {}, {}, {}, hashes, between, name)


class _Options(TypedDict):
    check_data: bool
    shelf: Shelf | None


def replica_of(
    setup: Setup, spanned: Sequence[Params], dtype: torch.dtype
) -> tuple[Replica, Correction | None]:
    """A replica of an objective's model, ready to move between corners.

    Args:
        setup: of the objective.
        spanned: what it moves between.
        dtype: of the forward pass.

    Returns:
        It, and the correction of its units, if the objective has one.
    """
    replica = Replica(setup.model, dtype, setup.device)
    correction = Correction(replica) if setup.correction else None
    replica.span(spanned)
    replica.set_modes(setup.dropout)
    return replica, correction


def values_between(forward: Forward, split: Split, plan: Plan) -> np.ndarray:
    """A split's first losses in the middle of the corners: the same wherever they are computed.

    Args:
        forward: for the split; its first point's running statistics are used.
        split: it.
        plan: of the split.

    Returns:
        (values,) losses, float64.
    """
    installed(replace(plan, affine=None, at_once=1), forward)
    corners = len(forward.points.coefficients[0])
    found = _few(forward, split, _mean_of(tuple(range(corners)), corners))
    forward.forget(0)
    losses = found.get("loss")
    return np.zeros(0) if losses is None else losses.numpy().copy()


@contextmanager
def _threads_of(crew: Crew | None) -> Iterator[None]:
    """As many threads as a worker has: the bits of a sum depend on them."""
    before = torch.get_num_threads()
    if crew is None or crew.threads == before:
        yield
        return
    torch.set_num_threads(crew.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def statistics_at(setup: Setup, corner: Checkpoint) -> dict[str, Tensor]:
    """The running statistics that ``"recompute"`` gives a point, by the names of its buffers.

    Args:
        setup: of the objective.
        corner: the point.

    Raises:
        InputError: the point does not fit the model, or no batch has a variance.
    """
    own = Checkpoint.read(setup.model)
    fitted = _fitted(own, corner)
    dtype = setup.dtype or _widest([own.params, fitted.params])
    policies = Policies(setup.dropout, setup.seed, setup.is_stateful, dtype, setup.device)
    points = Points([(1.0,)], [corner.label])
    with undisturbed(setup):
        replica = Replica(setup.model, dtype, setup.device)
        replica.span(spanning(setup.model, own, [fitted], setup.buffers))
        replica.set_modes(setup.dropout)
        points, _ = _with_statistics(setup, replica, policies, points, lambda _: None, None)
    return dict(points.statistics[0]) if points.statistics else {}


def _can_be_exact(setup: Setup, own: Checkpoint, dtype: torch.dtype) -> bool:
    """Whether a float64 replica tells rounding from anything else, and can be afforded."""
    size = sum(tensor.numel() for tensor in own.params.values())
    return setup.is_by_example and dtype != torch.float64 and size <= _EXACT_UP_TO


def _exact_replica(setup: Setup, spanned: Sequence[Params], replica: Replica) -> Replica:
    exact = Replica(setup.model, torch.float64, setup.device)
    exact.files = replica.files
    exact.span(spanned)
    exact.set_modes(setup.dropout)
    return exact


def _look(
    setup: Setup,
    split: Split,
    forward: Forward,
    probes: Sequence[int],
    found: Measured,
    exact: Replica | None,
    keeper: Keeper | None,
) -> float:
    """Look at a few examples of a split: is J determined, how to measure it, how does it round?

    Returns:
        Seconds that a point and an example take, at most.
    """
    looks = _LOOKS + (1 + (1 + _EXACT if exact else DRAWS)) * len(probes)
    trial = Trial(forward, split, setup.batch_size or DEFAULT_BATCH, looks)
    require_determined(trial, setup.model)
    if not found.plans:  # the model is the same on every split
        require_fresh(trial, setup.model)
    size = setup.batch_size
    if size is None and setup.is_by_example and split.makes_batches:
        require_own_values(trial)
    if size is None and setup.is_by_example:
        size = _FASTEST.get(setup)

    def planned() -> Plan:
        plan = plan_for(trial, given_size=size, tunable=setup.is_by_example)
        if plan.timed:
            _FASTEST[setup] = plan.batch_size
        return plan if keeper is None else in_short_tiles(plan, trial)

    plan = planned() if keeper is None else keeper.plan(split.name, planned)
    found.plans[split.name] = plan
    # a plan that was kept lays out the model as trying plans does: rounding is to look the same
    installed(replace(plan, affine=None, at_once=1), forward)
    reference = None
    if exact is not None:
        policies = replace(forward.policies, dtype=torch.float64)
        reference = Forward(exact, setup.per_example, policies, split.name, forward.points)
    found.floors[split.name] = noise_floors(trial, probes, reference)
    return trial.seconds_each


def _show_values(forward: Forward, split: Split, keeper: Keeper) -> None:
    """Show a few examples' values to the store, wherever the points' corners allow others."""
    corners = len(forward.points.coefficients[0])
    for support in keeper.unseen(split.name):
        places = [_mean_of((corner,), corners) for corner in support]
        digest = hashlib.blake2b(digest_size=16)
        for at in (*places, _mean_of(support, corners)):
            for name, values in _few(forward, split, at).items():
                digest.update(name.encode())
                digest.update(bytes_of(values).tobytes())
        keeper.see(split.name, support, digest.digest())


def _few(forward: Forward, split: Split, at: tuple[float, ...]) -> dict[str, Tensor]:
    """The values of a split's first examples somewhere."""
    batch = next(split.batches(_TELLING), None)
    if batch is None:
        return {}  # an empty split has its own error
    forward.stand_at(0)  # with running statistics that are always the same
    forward.replica.move_to(at)
    try:
        found = forward.quantities(forward.placed(batch.first(_TELLING)), 0, at=at)
    except Exception:  # it may not take a part of a batch
        found = forward.quantities(forward.placed(batch), 0, at=at)
    return end_to_end([found])


def _mean_of(support: tuple[int, ...], corners: int) -> tuple[float, ...]:
    return tuple(1 / len(support) if i in support else 0.0 for i in range(corners))


def _with_statistics(
    setup: Setup,
    replica: Replica,
    policies: Policies,
    points: Points,
    tick: Callable[[int], None],
    desk: Desk | None,
) -> tuple[Points, str]:
    """The points with statistics estimated anew on the first split, and what they are from."""
    split, size = setup.splits[0], setup.batch_size or DEFAULT_BATCH
    forward = Forward(replica, setup.per_example, policies, split.name, points)
    trial = Trial(forward, split, size, _LOOKS)
    require_determined(trial, setup.model)
    require_fresh(trial, setup.model)
    if desk is None:
        anew = recomputed_statistics(forward, split, size, tick)
    else:
        anew = spread_statistics(forward, split, size, tick, desk)
    return Points(points.coefficients, points.labels, anew.statistics), str(anew)


def _with_corrections(
    setup: Setup,
    replica: Replica,
    correction: Correction,
    policies: Policies,
    points: Points,
    tick: Callable[[int], None],
) -> Points:
    """The points with the scales and shifts of their units, from the first split."""
    split, size = setup.splits[0], setup.batch_size or DEFAULT_BATCH
    forward = Forward(replica, setup.per_example, policies, split.name, points)
    trial = Trial(forward, split, size, _LOOKS)
    require_determined(trial, setup.model)
    require_fresh(trial, setup.model)
    found = corrections(correction, forward, split, size, tick)
    return Points(points.coefficients, points.labels, found)


@contextmanager
def undisturbed(setup: Setup) -> Iterator[None]:
    """Leave the caller's random generators alone, record no gradients, lower no precision.

    An autocast around the measurement would change numbers that are said to be of the objective's
    own type; one inside the caller's function is part of J, and is seen by the look at rounding.
    """
    if setup.device.type == "cuda":
        torch.cuda.init()  # so that its generator is among those that are preserved
    generators = [generator for split in setup.splits for generator in split.generators]
    plain = torch.autocast(setup.device.type, enabled=False)
    with _same_modes(), ExitStack() as held:
        held.enter_context(torch.inference_mode(mode=False))
        held.enter_context(preserved_rng(generators))
        held.enter_context(torch.no_grad())
        held.enter_context(plain)
        held.enter_context(_uncached())
        held.enter_context(full_convolutions())
        if torch.get_default_device() != torch.device("cpu"):
            # what the caller's function makes belongs where its batch is, not on the meta
            # device, say
            held.enter_context(setup.device)
        yield


@contextmanager
def _same_modes() -> Iterator[None]:
    """Leave torch's modes as they were.

    Also where an interrupt comes just while one of them is taken off again.
    """
    depth, gradients = torch._C._len_torch_function_stack(), torch.is_grad_enabled()
    try:
        yield
    finally:
        while torch._C._len_torch_function_stack() > depth:
            torch._C._pop_torch_function_stack()
        torch.set_grad_enabled(gradients)


@contextmanager
def _uncached() -> Iterator[None]:
    """Leave ``parametrize.cached()`` of the caller's: kept weights would be those of one point."""
    kept, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = kept


def _fitted(own: Checkpoint, corner: Checkpoint) -> Checkpoint:
    """A corner under the model's names."""
    if corner.adapter is not None:
        msg = (
            f"{corner.label} is an adapter, a change to a base model: measure "
            "Line(base, adapter).at(1)"
        )
        raise InputError(msg)
    fitted = matched(own, corner)
    fitted.require_unchanged()
    broken = [name for name in own.params if not all_finite(fitted.tensors[name])]
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        msg = f"{fitted.label} holds NaN or infinity in {', '.join(map(repr, broken[:5]))}{more}"
        raise InputError(msg)
    return fitted


def require_apart(
    corners: Sequence[Checkpoint],
    params: Sequence[Params],
    between: np.ndarray,
    one: int,
    other: int,
) -> None:
    """Refuse two corners that are one point.

    Args:
        corners: of the slice, for their labels.
        params: of each.
        between: their ``gram``.
        one: number of a corner.
        other: of another.

    Raises:
        InputError: they are the same.
    """
    # far from the first corner a small distance cancels
    rounding = 1e-12 * float(np.diagonal(between).max())
    square = float(_gram_of(between, (one, other))[0, 0])
    if square <= rounding and distance(params[one], params[other]) == 0:
        msg = (
            f"{corners[one].label} and {corners[other].label} are the same point, so every curve "
            "between them is flat. (A module and its state_dict() are live: take "
            "copy.deepcopy(model.state_dict()) before training.)"
        )
        raise InputError(msg)


def _require_values(moments: Mapping[str, Moments], split: Split) -> None:
    empty = [name for name, found in moments.items() if not found.count]
    if empty:
        msg = (
            f"per_example gave no values of {empty[0]!r} on split {split.name!r} (is every target "
            "ignored?)"
        )
        raise InputError(msg)


def _gram_of(between: np.ndarray, corners: Sequence[int]) -> np.ndarray:
    """Inner products of some corners' differences from the first of them, from those of all."""
    inner = np.pad(between, ((1, 0), (1, 0)))
    first, others = corners[0], list(corners[1:])
    cross = inner[np.ix_(others, others)] + inner[first, first]
    found = cross - (inner[others, first][:, None] + inner[first, others])
    np.fill_diagonal(found, np.diagonal(found).clip(0))
    return found


def _renumbered(known: Mapping[int, float], places: Mapping[int, int]) -> dict[int, float]:
    return {places[point]: value for point, value in known.items() if point in places}


def _widest(points: Sequence[Mapping[str, Tensor]]) -> torch.dtype:
    """The widest type of any tensor, at least float32.

    Two corners in float64 may differ by less than float32 can tell.
    """
    dtypes = {tensor.dtype for point in points for tensor in point.values()}
    real = [torch.empty((), dtype=dtype).real.dtype for dtype in dtypes]
    return functools.reduce(torch.promote_types, real, torch.float32)
