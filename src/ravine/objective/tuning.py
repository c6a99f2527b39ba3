"""Tuning: how a measurement's passes are made, found out on a few examples beforehand.

What is found is a ``Plan``: frozen, and the same for every tile. The trials share a small set of
examples with the test of determinism and the look at rounding, and one budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from ravine.objective.affine import AffinePrefix
from ravine.objective.batches import Batch
from ravine.objective.data import Split
from ravine.objective.forward import Forward
from ravine.objective.stack import Stack, points_at_once

_T = TypeVar("_T")

#: Examples per forward pass where it is neither given nor ours to measure.
DEFAULT_BATCH: Final = 256
_SMALLEST_BATCH: Final = 8
_LARGEST_BATCH: Final = 4096
_FEW_VALUES: Final = 256  # an example of so many values is a batch by itself
_LONG_FORWARD: Final = 0.1  # seconds: to these the overhead of a pass is nothing
_LONG_CHOICE: Final = 0.3  # seconds
_CHOICE_SHARE: Final = 0.02  # of the whole measurement's time, if that is longer
_TRIALS: Final = 20  # passes at most that one size is timed by
_AS_FAST: Final = 1.04  # times the best: no loss to speak of, and a smaller size needs less memory
_GAIN: Final = 0.95  # of the time: a gain that is none to speak of is left

#: What looking before measuring may cost: this share of the measurement, and where that is little,
#: so many passes over the data.
_LOOKING_SHARE: Final = 0.05
_LOOKING_PASSES: Final = 2
_MOST_VALUES: Final = 256
_FEWEST_EXAMPLES: Final = 4
_FEWEST_VALUES: Final = 64  # fewer examples will do, one or two, if they have so many values

_TILE_SECONDS: Final = 1.0  # that are lost at most when a measurement with a store is killed

AFFINE_BYTES: Final = 256 << 20  # of first-layer outputs held for a block
BLOCK_EXAMPLES: Final = 8192  # read before the points change: a move costs about 100 examples

#: A GPU is fast once it has much to do at a time: all limits on a pass and a block are so many
#: times as large there.
_WIDER_ON_A_GPU: Final = 8
_ROWS_BYTES: Final = 64 << 20  # of per-example values held before they are summed
_GROUP: Final = 256  # points whose per-example values are held at once, at most

_STACK_TRIED: Final = 8  # points that tell whether several at once pay

#: Where several points may be measured at once.
STACKED_ON = {"cuda"}

#: Multiplications and additions a second, and seconds to look at one call of a torch function: what
#: the affine layer spares a CPU, and what finding it costs (measured on two cores).
_PRODUCTS_A_SECOND: Final = 1e11
_SECONDS_A_CALL: Final = 7e-6
_MOVING: Final = 100  # what moving a parameter costs, in products


@dataclass(frozen=True)
class Plan:
    """How the passes over one split are made.

    Attributes:
        batch_size: examples per forward pass, where ravine makes the batches.
        copies: whether the caller's function writes to its batch, and is given a copy.
        channels_last: whether images have their channels last in memory.
        affine: parameters that only the affine first layer reads, and that need not be moved; None
            where that layer is computed at every point.
        at_once: points in one forward pass.
        group: points in one tile.
        threads: of torch.
        timed: whether the batch size was found by timing, long enough to be worth remembering.
    """

    batch_size: int
    copies: bool = False
    channels_last: bool = False
    affine: frozenset[str] | None = None
    at_once: int = 1
    group: int = _GROUP
    threads: int = 1
    timed: bool = False

    def groups(self, points: int) -> list[range]:
        """The points of each tile, in order."""
        firsts = range(0, points, self.group)
        return [range(first, min(first + self.group, points)) for first in firsts]


class Trial:
    """A few examples of a split, and what running them has taught so far.

    Args:
        forward: for the split.
        split: where the examples come from.
        batch_size: examples per forward pass, where ravine makes the batches.
        looks: how many evaluations of the examples are to come.
    """

    def __init__(self, forward: Forward, split: Split, batch_size: int, looks: int) -> None:
        self.forward = forward
        self.split = split
        self.batch_size = batch_size
        #: how many values one example gives
        self.values_each = 1.0
        #: seconds that one example takes, at most: a few examples at once take longer each
        self.seconds_each = 0.0
        #: the type that the caller's function computes in under an autocast of its own; None
        #: without one
        self.narrowest: torch.dtype | None = None
        #: point → what a plain pass over the first examples gave there, where one was made
        self.known: dict[int, dict[str, Tensor]] = {}
        known = len(split)
        work = max(_LOOKING_SHARE * known * len(forward.points), _LOOKING_PASSES * known)
        self._budget = int(work / looks) if known else _MOST_VALUES
        self._fewest = _FEWEST_EXAMPLES
        self._whole = forward.policies.stateful  # a state fits batches of one size
        self._laid_out = forward.replica.channels_last
        self.first = next(self._read(min(self._affordable, 2 * _SMALLEST_BATCH)), None)

    @property
    def device(self) -> torch.device:
        """Where the passes are made."""
        return self.forward.policies.device

    @property
    def _is_relaid(self) -> bool:
        """Whether images are laid out otherwise than when the first batch was placed."""
        return self.forward.replica.channels_last != self._laid_out

    @property
    def _affordable(self) -> int:
        """Examples of one look: what the budget allows, but never fewer than tell anything."""
        return max(self._budget, self._fewest)

    def learn(
        self, losses: Tensor, *, seconds: float, copies: bool, narrowest: torch.dtype | None
    ) -> None:
        """Take note of what a first pass showed.

        Args:
            losses: of the first batch.
            seconds: that a pass over it took.
            copies: whether the caller's function wrote to it.
            narrowest: the type that the caller's function computed in under an autocast of its own.
        """
        assert self.first is not None  # it was run
        self.values_each = max(losses.numel() / max(self.first.size, 1), 1e-9)
        self.seconds_each = seconds / max(self.first.size, 1)
        self.forward.copies = self.forward.copies or copies
        self.narrowest = narrowest
        few = min(self.first.size, 2)  # a function that takes several need not take one alone
        if few * self.values_each >= _FEWEST_VALUES:
            self._fewest = few
        if not self._whole:
            self.first = self.first.first(self._affordable)

    def batches(self) -> list[Batch]:
        """As many examples as there is use for and as can be afforded, placed."""
        enough = max(math.ceil(_MOST_VALUES / self.values_each), 1)
        wanted = min(enough, self._affordable)
        if self.first is not None and self.first.size == wanted and not self._is_relaid:
            return [self.first]
        held, examples = [], 0
        for batch in self._read(wanted):
            held.append(batch)
            examples += batch.size
            if examples >= wanted:
                break
        return held

    def use_whole_batches(self) -> None:
        """Cut no batch: the caller's function does not take a part of one."""
        self._whole = True
        self.first = next(self._read(self._affordable), None)

    @property
    def cuts(self) -> bool:
        """Whether batches of the caller's making are cut to a few examples."""
        return not self._whole and not self.split.makes_batches

    def _read(self, examples: int) -> Iterator[Batch]:
        for batch in self.split.batches(max(min(examples, self.batch_size), 1)):
            short = batch if self._whole else batch.first(examples)
            yield self.forward.placed(short)


#: How far two passes of one route over one batch may differ, relative to each value. Threads and
#: GPU kernels add in an order of their own, which is worth up to some hundred roundings of float32
#: (6e-8 each); masks, state that is kept, or weights derived from others change a loss by far more.
SAME_TWICE: Final = 1e-5


def agree(one: Tensor, other: Tensor, within: float = 1e-3) -> bool:
    """Whether two ways gave the same numbers, up to rounding.

    Args:
        one: values by one way.
        other: by the other.
        within: relative to each value; and a hundredth of it to the largest one, so that small
            values among large ones may differ, and small values alone may not.

    Examples:
        >>> agree(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 3e-9]))
        True
        >>> agree(torch.tensor([1e-9]), torch.tensor([3e-9]))
        False
    """
    if one.shape != other.shape:
        return False
    scale = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=within, atol=0.01 * within * scale, equal_nan=True)


def plan_for(trial: Trial, *, given_size: int | None, tunable: bool) -> Plan:
    """How to measure a split: tried on a few of its examples.

    Nothing that fails in a trial is an error here: the measurement itself will raise it,
    and say where.

    Args:
        trial: of the split, after the test of determinism.
        given_size: examples per forward pass, if the caller or an earlier split decided it.
        tunable: whether the batches are no part of the objective.

    Returns:
        The plan.
    """
    forward, split = trial.forward, trial.split
    plan = Plan(
        batch_size=given_size or DEFAULT_BATCH,
        copies=forward.copies,
        channels_last=_channels_last(trial),
        group=_group(trial),
        threads=torch.get_num_threads(),
    )
    layer = _affine(trial)
    if given_size is not None or not tunable or split.tensors is None:
        plan = replace(plan, affine=_names(layer, trial, plan.batch_size))
    else:  # large batches make the most of the affine layer
        largest = widened(_LARGEST_BATCH, trial.device)
        hopeful = replace(plan, affine=_names(layer, trial, largest))
        fastest = _fastest_batch_size(trial, hopeful)
        plan = replace(plan, batch_size=fastest or DEFAULT_BATCH, timed=fastest is not None)
        plan = replace(plan, affine=_names(layer, trial, plan.batch_size))
    return replace(plan, at_once=_points_at_once(trial, plan))


def in_short_tiles(plan: Plan, trial: Trial) -> Plan:
    """The plan in tiles of about a second, so that little is lost to a kill."""
    each = max(_block(trial) * _seconds_an_example(trial, plan), 1e-9)
    points = max(1, int(_TILE_SECONDS / each))
    whole = max(plan.at_once, points - points % plan.at_once)  # as many at once as without a store
    return replace(plan, group=min(plan.group, whole))


def _seconds_an_example(trial: Trial, plan: Plan) -> float:
    """Seconds that one example of a whole batch takes.

    A few at a time, as in a trial, take several times as long each.

    A batch that would take as long as a tile is not tried.
    """
    forward, point = trial.forward, len(trial.forward.points) // 2
    if forward.policies.stateful or plan.batch_size * trial.seconds_each > _TILE_SECONDS:
        return trial.seconds_each
    _use(forward, plan.affine)
    try:
        batch = forward.placed(next(trial.split.batches(plan.batch_size)))
        forward.stand_at(point)
        forward.loss(batch, point)  # warms up, and computes what the points share
        return min(trial.seconds_each, _seconds(forward, batch, point) / batch.size)
    except Exception:  # the measurement itself will raise it, and say where
        return trial.seconds_each
    finally:
        _use(forward, None)


def installed(plan: Plan, forward: Forward) -> Stack | None:
    """Make the forward passes of a split as its plan says.

    Args:
        plan: of the split.
        forward: for the split.

    Returns:
        The model at several points at once, where that is planned.
    """
    forward.copies = plan.copies
    if forward.replica.channels_last != plan.channels_last:
        forward.replica.lay_out(channels_last=plan.channels_last)
    _use(forward, plan.affine)
    if plan.at_once == 1:
        return None
    return Stack(forward.replica, forward.per_example, plan.at_once)


def _use(forward: Forward, affine: frozenset[str] | None) -> None:
    """Answer the first layer from the corners from now on, or compute it."""
    replica = forward.replica
    if affine is None:
        forward.affine, replica.lazy = None, frozenset()
        return
    forward.affine = _watcher(forward)
    moving = {id(target) for target, _ in replica.moving}
    lazy = {id(replica.params[name]) for name in affine if name in replica.params}
    replica.lazy = frozenset(lazy & moving)


def _is_ready(target: Tensor, points: Sequence[Tensor]) -> bool:
    """Whether the corners' tensors are where the model's is, and of its kind."""
    kind = target.dtype, target.device
    return all((point.dtype, point.device) == kind for point in points)


def _watcher(forward: Forward) -> AffinePrefix:
    replica = forward.replica
    at_hand = [pair for pair in replica.moving if _is_ready(*pair)]
    room = widened(AFFINE_BYTES, forward.policies.device)
    return AffinePrefix(at_hand, replica.fixed, replica.refresh, room)


def _group(trial: Trial) -> int:
    """Points in one tile: as many as the memory for their values allows."""
    each = 8 * max(_block(trial) * trial.values_each, 1)
    held = widened(_ROWS_BYTES, trial.device)
    return max(1, min(_GROUP, int(held / each)))


def _block(trial: Trial) -> int:
    """Examples in a block, at most."""
    most = widened(BLOCK_EXAMPLES, trial.device)
    return min(len(trial.split) or most, most)


def widened(limit: int, device: torch.device) -> int:
    """A limit on what is computed or held at a time, as it is for a device."""
    return limit * _WIDER_ON_A_GPU if device.type == "cuda" else limit


# --- the first layer ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """An affine first layer that agrees with the plain route.

    Attributes:
        names: of the parameters that only it reads.
        unmoved: how many numbers those are.
        spared: multiplications and additions for each example.
        watched: calls that have to be looked at in a pass.
    """

    names: frozenset[str]
    unmoved: int
    spared: float
    watched: int


def _affine(trial: Trial) -> _Layer | None:
    """The affine first layer, if there is one and it agrees with the plain route."""
    forward, batch = trial.forward, trial.first
    corners = len(forward.points.coefficients[0])
    exact = forward.policies.dtype in (torch.float32, torch.float64)
    if batch is None or not exact or len(forward.points) <= corners or forward.replica.toggles:
        return None
    # shares that all differ, so that corners that change places do not go unnoticed
    inside = tuple(2 * (i + 1.1) / (corners * (corners + 1.2)) for i in range(corners - 1))
    at = (*inside, 1 - sum(inside))  # not a corner, where every combination is a copy
    replica = forward.replica

    def losses() -> Tensor:
        forward.forget(0)
        replica.move_to(at)
        return forward.loss(batch, 0, at=at)

    watcher = forward.affine = _watcher(forward)
    try:
        watched = losses()  # to learn which parameters only products read
        lazy = frozenset(watcher.in_products - watcher.read)
        layer = _layer_of(watcher, lazy, trial)
        if not watcher.in_products or not _pays(layer, trial, _block(trial)):
            return None  # by far most models: their first layer is not even run again
        replica.lazy = lazy
        replica.spoil()
        spared = losses()  # without moving those
        forward.affine, replica.lazy = None, frozenset()
        plain = losses()
    except Exception:  # the points that are measured will raise it; or the plain route does not
        return None
    finally:
        forward.affine, replica.lazy = None, frozenset()
        forward.forget(0)
    return layer if agree(watched, plain) and agree(spared, plain) else None


def _layer_of(watcher: AffinePrefix, lazy: frozenset[int], trial: Trial) -> _Layer:
    """What a pass that was watched found."""
    assert trial.first is not None  # it was run
    params = trial.forward.replica.params
    targets = {name: target for name, target in params.items() if id(target) in lazy}
    return _Layer(
        names=frozenset(targets),
        unmoved=sum(target.numel() for target in targets.values()),
        spared=watcher.spared / max(trial.first.size, 1),
        watched=watcher.watched,
    )


def _names(layer: _Layer | None, trial: Trial, batch_size: int) -> frozenset[str] | None:
    """What the affine layer spares, where it pays at that batch size."""
    return layer.names if layer is not None and _pays(layer, trial, batch_size) else None


def _pays(layer: _Layer, trial: Trial, batch_size: int) -> bool:
    """Whether the products that are spared on a block cost more than looking at every call."""
    if trial.forward.policies.device.type != "cpu":
        return True
    rows = _block(trial)
    spared = layer.spared * rows + _MOVING * layer.unmoved
    passes = math.ceil(rows / min(batch_size, rows))
    return spared / _PRODUCTS_A_SECOND > passes * layer.watched * _SECONDS_A_CALL


# --- the size of a batch --------------------------------------------------------------------------


def _fastest_batch_size(trial: Trial, plan: Plan) -> int | None:
    """How many examples a pass should take: the smallest size within some per cent of the best.

    Sizes double until two in a row are no better, or one pass takes so long that there is no
    overhead left to spread. Where the numbers of the first examples depend on how many run with
    them, it is not ours to choose: there is none. Nor is there one where the whole measurement is
    over before one would know, and where a pass fails.
    """
    forward = trial.forward
    if plan.affine is None and _is_long(trial):
        return _smallest_size(trial)
    _use(forward, plan.affine)
    try:
        seconds = _timed_batch_sizes(trial)
    except Exception:
        return None
    finally:
        _use(forward, None)
    if not seconds:
        return None
    best = min(seconds.values())
    return min(size for size, each in seconds.items() if each <= _AS_FAST * best)


def _is_long(trial: Trial) -> bool:
    """Whether the first pass, of the smallest size or less, shows no overhead to spread."""
    if trial.first is None or trial.first.size > _smallest_size(trial):
        return False
    whole = trial.seconds_each * len(trial.split) * len(trial.forward.points)
    return trial.seconds_each * trial.first.size > _LONG_FORWARD and whole >= _LONG_CHOICE / 2


def _timed_batch_sizes(trial: Trial) -> dict[int, float]:
    """Batch size → seconds an example; none if the size is not ours, or not worth timing."""
    forward, split = trial.forward, trial.split
    seconds: dict[int, float] = {}
    reference: Tensor | None = None
    point = len(forward.points) // 2
    size = smallest = _smallest_size(trial)
    began, patience = time.perf_counter(), _LONG_CHOICE
    while size <= widened(_LARGEST_BATCH, trial.device):
        batch = forward.placed(next(split.batches(size)))
        if forward.affine is not None:
            forward.affine.forget()
        forward.stand_at(point)
        losses = forward.loss(batch, point)  # warms up, and computes what the points share
        first = losses[: math.ceil(len(losses) * min(smallest / batch.size, 1))]
        reference = first if reference is None else reference
        if not agree(first, reference):
            return {}
        taken = _seconds(forward, batch, point)
        seconds[size] = taken / batch.size
        if size == smallest:
            whole = seconds[size] * len(split) * len(forward.points)
            if whole < _LONG_CHOICE / 2:
                return {}
            patience = max(min(_LONG_CHOICE, whole / 10), _CHOICE_SHARE * whole)
        # among small sizes one hiccup of the machine would decide, and they take no time to try
        fastest = min(seconds, key=lambda tried: seconds[tried])
        past_best = size * trial.values_each >= DEFAULT_BATCH and fastest < size // 2
        spent = time.perf_counter() - began > patience
        if spent or taken > _LONG_FORWARD or past_best or size >= len(split):
            break
        size *= 2
    return seconds


def _smallest_size(trial: Trial) -> int:
    """Fewer examples than usual where each of them has many values."""
    enough = max(int(_FEW_VALUES / trial.values_each), 1)
    return min(_SMALLEST_BATCH, 1 << (enough.bit_length() - 1))


# --- the layout -----------------------------------------------------------------------------------


def _channels_last(trial: Trial) -> bool:
    """Whether channels last in memory are faster for the model's convolutions, and agree.

    Some code can do only with the usual layout (``view`` of an activation, say); that is seen here,
    and left alone.
    """
    forward, split = trial.forward, trial.split
    replica, policies = forward.replica, forward.policies
    if replica.channels_last:
        return True  # by an earlier split
    convolves = any(parameter.ndim == 4 for parameter in replica.params.values())
    settled = not policies.stateful and policies.dropout == "off" and split.tensors is not None
    if not convolves or not settled:
        return False
    point = len(forward.points) // 2
    read = next(split.batches(4 * _SMALLEST_BATCH))
    forward.stand_at(point)
    try:
        batch = forward.placed(read)
        plain = forward.loss(batch, point)
        before = _seconds(forward, batch, point)
        whole = before * len(split) / batch.size * len(forward.points)
        if _TRIALS * before > _CHOICE_SHARE * whole:
            return False
        replica.lay_out(channels_last=True)
        forward.stand_at(point)
        batch = forward.placed(read)
        if (
            agree(forward.loss(batch, point), plain)
            and _seconds(forward, batch, point) < _GAIN * before
        ):
            return True
    except Exception:  # whatever it was, the usual layout did not raise it, or the measurement will
        pass
    if replica.channels_last:
        replica.lay_out(channels_last=False)
    return False


def _seconds(forward: Forward, batch: Batch, point: int) -> float:
    """The least time of a few passes over a batch."""
    best, began = math.inf, time.perf_counter()
    for trial in range(_TRIALS):
        start = time.perf_counter()
        float(forward.loss(batch, point).sum())  # waits for a GPU
        now = time.perf_counter()
        # the shortest: whatever else the machine does only adds to it
        best = min(best, now - start)
        if now - began > (_LONG_FORWARD if trial < 3 else _LONG_FORWARD / 10):
            break
    return best


# --- several points at once -----------------------------------------------------------------------


def _points_at_once(trial: Trial, plan: Plan) -> int:
    """How many points to measure in one pass: several if the device gains by it and it agrees."""
    forward, policies, count = trial.forward, trial.forward.policies, len(trial.forward.points)
    settled = not policies.stateful and policies.dropout != "resample"
    settled = settled and forward.points.statistics is None
    settled = settled and not (forward.replica.toggles or forward.replica.resets)
    if policies.device.type not in STACKED_ON or count < 2 or not settled:
        return 1
    stack = Stack(forward.replica, forward.per_example)
    if not stack.is_small:
        return 1
    middle = count // 2
    try:
        batch = forward.placed(next(trial.split.batches(plan.batch_size)))
        alone = range(middle, middle + 1)
        (only,), size = _peak(lambda: stack.quantities(forward, batch, alone), policies.device)
        at_once = min(count, points_at_once(policies.device, size))
        few = min(at_once, _STACK_TRIED)
        _, together = _clocked(lambda: stack.quantities(forward, batch, range(few)))
        _use(forward, plan.affine)  # which a stack does without
        if forward.affine is not None:
            forward.affine.forget()
        forward.stand_at(middle)
        plain, each = _clocked(lambda: forward.loss(batch, middle))
    except Exception:  # whatever it was, the plain route may do without
        return 1
    finally:
        _use(forward, None)
    pays = together < each * few or policies.device.type == "cpu"
    return at_once if pays and agree(only["loss"].reshape(-1), plain) else 1


def _clocked(call: Callable[[], _T]) -> tuple[_T, float]:
    """What a call gives, and the seconds that a second one takes, a GPU's work included."""
    call()
    _wait()
    began = time.perf_counter()
    found = call()
    _wait()
    return found, time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _peak(call: Callable[[], Any], device: torch.device) -> tuple[Any, int]:
    """What a call gives, and the bytes that it took on a GPU at its peak; 0 elsewhere."""
    if device.type != "cuda":
        return call(), 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    found = call()
    return found, torch.cuda.max_memory_allocated(device) - before
