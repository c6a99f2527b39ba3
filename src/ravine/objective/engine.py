"""The engine: one pass over the data, all points inside.

A block of batches is read once; for every point the private copy of the model is moved there (its
parameters are overwritten in place) and the block is run through it. What is kept are float64 sums
over examples, so that neither batching nor order matters beyond rounding.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.objective.affine import AffinePrefix
from ravine.objective.batches import count_examples, leaves, map_tensors
from ravine.objective.data import Split
from ravine.objective.fingerprint import Fingerprint
from ravine.objective.losses import PerExample
from ravine.objective.moments import Moments
from ravine.objective.randomness import seed_all, stable_seed
from ravine.objective.replica import Replica
from ravine.objective.stack import Stack, points_at_once

_BLOCK_EXAMPLES: Final = (
    8192  # read before the points change: moving the model costs about 100 examples' forward
)
_BLOCK_BYTES: Final = 256 << 20
_PREFIX_BYTES: Final = 256 << 20  # of first-layer outputs held for a block
_ROWS_BYTES: Final = 64 << 20  # of per-example values held before they are summed
_GROUP: Final = 256  # points whose per-example values are held at once, at most

#: Examples per forward pass where it is neither given nor ours to measure.
DEFAULT_BATCH: Final = 256
_SMALLEST_BATCH: Final = 8
_LARGEST_BATCH: Final = 4096
_LONG_FORWARD: Final = 0.1  # seconds
_LONG_CHOICE: Final = 0.3
_CHOICE_SHARE: Final = 0.02  # of the whole measurement's time, if that is longer
_TRIALS: Final = 20  # passes at most that one size is timed by
_GAIN: Final = 0.95  # of the time: a gain that is none to speak of is left

#: Where several points may be measured at once.
STACKED_ON = {"cuda"}

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED: Final = frozenset(
    ["alpha", "beta", "step", "split", "distance", "replicate", "piece", "check", "n_examples"]
)
_SUFFIXES: Final = ("_stderr", "_replicates", "_noise_floor", "_log", "_misfit", "_checked")

Coefficients = Sequence[tuple[float, ...]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Policies:
    """How a forward pass is made. ``Objective`` explains each."""

    dropout: str
    seed: int
    stateful: bool
    dtype: torch.dtype
    device: torch.device


class Pass:
    """Measuring one split at every point: the state of the sums, and the loop that fills them.

    Args:
        replica: the private model, already spanning the corners.
        split: where the examples come from.
        per_example: the caller's function.
        policies: how a forward pass is made.
        coefficients: one tuple per point.
        labels: one name per point, for messages.
        statistics: running statistics to put in at each point, if they were recomputed.
    """

    def __init__(
        self,
        replica: Replica,
        split: Split,
        per_example: PerExample,
        policies: Policies,
        coefficients: Coefficients,
        labels: Sequence[str],
        statistics: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.replica = replica
        self.split = split
        self.per_example = per_example
        self.policies = policies
        self.coefficients = coefficients
        self.labels = labels
        self.statistics = statistics
        self.moments: dict[str, Moments] = {}
        self.fingerprint = Fingerprint()
        self.prefix: AffinePrefix | None = None
        self.stack: Stack | None = None
        self.at_once = 1
        #: whether buffers are as they were before every batch; not while their statistics are
        #: estimated
        self.resets_buffers = not policies.stateful
        #: whether per_example writes to its batch, so that it must be given a copy
        self.mutates = False
        self.carried: list[Any] = [None] * len(coefficients)

    def run(self, tick: Callable[[int], None]) -> None:
        """Read the split once and measure every point on it.

        Args:
            tick: told how many examples × points have been done since it was last told.
        """
        # masks are drawn from the global generators, which a reader must not touch meanwhile
        ahead = self.split.worth_reading_ahead and self.policies.dropout == "off"
        for block in _read_ahead(self.blocks()) if ahead else self.blocks():
            for _, batch in block:
                self.fingerprint.add(batch)
            held = [(number, self.place(batch)) for number, batch in block]
            if block[0][0] == 0:
                self.prefix = self._agreed_prefix(*held[0])
                self._choose_stack(*held[0])
            elif self.prefix is not None:
                self.prefix.forget()
            self._measure(held, tick)
        self.prefix, self.stack, self.replica.lazy = None, None, frozenset()

    def _measure(self, held: list[tuple[int, Any]], tick: Callable[[int], None]) -> None:
        """Run one block through every point; the per-example values of a few points are held at a time."""
        examples = sum(count_examples(batch) for _, batch in held)
        rows: list[dict[str, Tensor]] = []
        counts: dict[str, int] | None = None
        first, last = 0, len(self.coefficients) - 1
        for point, row in enumerate(self._rows(held)):
            found = {name: len(values) for name, values in row.items()}
            counts = counts or found
            if found != counts:
                msg = (
                    f"per_example gave {counts} values at {self.labels[0]} and {found} at "
                    f"{self.labels[point]}, for "
                    "the same examples; a mean over examples needs the same ones at every point"
                )
                raise InputError(msg)
            rows.append(row)
            tick(examples)
            held_bytes = 8 * len(rows) * sum(counts.values())
            if point == last or len(rows) == _GROUP or held_bytes >= _ROWS_BYTES:
                self._take_in(slice(first, point + 1), rows, last=point == last)
                first, rows = point + 1, []

    def _rows(self, held: list[tuple[int, Any]]) -> Iterator[dict[str, Tensor]]:
        """Every quantity of every example of a block, point after point."""
        if self.stack is None:
            for point in range(len(self.coefficients)):
                self.stand_at(point)
                yield self.quantities_over(held, point)
            return
        for first in range(0, len(self.coefficients), self.at_once):
            points = range(first, min(first + self.at_once, len(self.coefficients)))
            self.stack.move_to([self.coefficients[point] for point in points])
            by_batch = [
                self._stacked_losses(self.stack, number, batch, points) for number, batch in held
            ]
            for at_point in zip(*by_batch, strict=True):
                yield _on_cpu(at_point)

    def _stacked_losses(
        self, stack: Stack, number: int, batch: Any, points: range
    ) -> list[dict[str, Tensor]]:
        """``losses`` of several points together, where the stack stands."""
        try:
            answer = stack(self._prepared(number, batch, 0))
        except Exception as problem:
            problem.add_note(
                f"at {self.labels[points[0]]} and on, split {self.split.name!r}, batch {number}"
            )
            raise
        kept = answer if isinstance(answer, Mapping) else {"loss": answer}
        examples = count_examples(batch)
        return [
            _as_quantities({name: values[i] for name, values in kept.items()}, examples)
            for i in range(len(points))
        ]

    def _choose_stack(self, number: int, batch: Any) -> None:
        """Measure several points at once if the device gains by it and it agrees with the plain route on one batch."""
        policies, count = self.policies, len(self.coefficients)
        settled = (
            not policies.stateful and policies.dropout != "resample" and self.statistics is None
        )
        if policies.device.type not in STACKED_ON or count < 2 or not settled:
            return
        stack = Stack(self.replica, self.per_example)
        if not stack.is_small:
            return

        def at(points: range) -> list[dict[str, Tensor]]:
            stack.move_to([self.coefficients[point] for point in points])
            return self._stacked_losses(stack, number, batch, points)

        middle = range(count // 2, count // 2 + 1)
        try:
            (only,), size = _peak(lambda: at(middle), policies.device)
            self.at_once = min(count, points_at_once(policies.device, size))
            together, taken = _clocked(lambda: at(range(self.at_once)))
        except Exception:  # whatever it was, the plain route may do without
            return
        self.stand_at(count // 2)
        plain, each = _clocked(lambda: self.losses(number, batch, count // 2)["loss"])
        scale = float(plain.abs().nan_to_num(0, 0, 0).max()) if plain.numel() else 0.0
        found = only["loss"]
        agrees = found.shape == plain.shape and torch.allclose(
            found, plain, 1e-3, 1e-5 * scale, equal_nan=True
        )
        pays = taken < each * len(together) or policies.device.type == "cpu"
        self.stack = stack if agrees and pays else None

    def _agreed_prefix(self, number: int, batch: Any) -> AffinePrefix | None:
        """The affine prefix, if there is anything for it to do and it agrees with the plain route on one batch."""
        replica, last = self.replica, len(self.coefficients) - 1
        if self.policies.dtype not in (torch.float32, torch.float64) or last == 0:
            return None
        at_hand = [
            (t, points) for t, points in replica.moving if all(_like(t, point) for point in points)
        ]
        found = AffinePrefix(at_hand, replica.fixed, replica.refresh, _PREFIX_BYTES)
        corners = len(self.coefficients[0])
        inside = tuple(2 * (i + 1.1) / (corners * (corners + 1.2)) for i in range(corners - 1))
        trial = (*inside, 1 - sum(inside))  # not a corner, where every combination is a copy

        def at_trial() -> Tensor:
            self.carried[0] = None
            replica.move_to(trial)
            return self.losses(number, batch, 0, at=trial)["loss"]

        try:
            try:
                plain = at_trial()
            except Exception:  # the points that are measured will raise it, and say where
                return None
            for _ in range(
                2
            ):  # to learn which parameters only products read; then without moving those
                self.prefix, replica.lazy = found, frozenset(found.in_products - found.read)
                replica.spoil()
                try:
                    fast = at_trial()
                except Exception:  # whatever it was, the plain route did not raise it
                    replica.lazy = frozenset()
                    return None
                self.prefix = None
                scale = float(plain.abs().nan_to_num(0, 0, 0).max()) if plain.numel() else 0.0
                agrees = torch.allclose(fast, plain, rtol=1e-3, atol=1e-5 * scale, equal_nan=True)
                if not agrees or not found.in_products:
                    replica.lazy = frozenset()
                    return None
        finally:
            self.prefix, self.carried[0] = None, None
        return found

    def fastest_batch_size(self) -> int:
        """How many examples a forward pass should take: measured, with the affine prefix at work.

        Sizes double from 8 until two in a row are no better, or one pass takes so long that there
        is no overhead left to spread. Where the numbers of the first examples depend on how many
        run with them, it is not ours to choose: the default stays. It stays too where the whole
        measurement is over before one would know, and where a pass fails: the measurement itself
        will say where.

        Returns:
            The smallest size that is within a few per cent of the best.
        """
        try:
            seconds = self._timed_batch_sizes()
        except Exception:
            return DEFAULT_BATCH
        finally:
            self.prefix, self.replica.lazy = None, frozenset()
        best = min(seconds.values())
        return min(size for size, each in seconds.items() if each <= 1.04 * best)

    def _timed_batch_sizes(self) -> dict[int, float]:
        """Batch size → seconds an example."""
        seconds: dict[int, float] = {}
        reference: Tensor | None = None
        prefix: AffinePrefix | None = None
        point = len(self.coefficients) // 2
        size, began, patience = _SMALLEST_BATCH, time.perf_counter(), _LONG_CHOICE
        while size <= _LARGEST_BATCH:
            batch = self.place(next(self.split.batches(size)))
            if prefix is None:
                prefix = self._agreed_prefix(0, batch)
            else:
                prefix.forget()
            self.prefix = prefix
            self.stand_at(point)
            losses = self.losses(0, batch, point)[
                "loss"
            ]  # warms up, and computes what the points share
            first = losses[:_SMALLEST_BATCH]
            reference = first if reference is None else reference
            if first.shape != reference.shape or not torch.allclose(
                first, reference, 1e-3, 1e-5, equal_nan=True
            ):
                return {DEFAULT_BATCH: 0.0}
            taken = self._seconds(batch, point)
            seconds[size] = taken / count_examples(batch)
            if size == _SMALLEST_BATCH:
                whole = seconds[size] * len(self.split) * len(self.coefficients)
                if whole < _LONG_CHOICE / 2:
                    return {DEFAULT_BATCH: 0.0}
                patience = max(min(_LONG_CHOICE, whole / 10), _CHOICE_SHARE * whole)
            # among small sizes one hiccup of the machine would decide, and they take no time to try
            past_best = size >= DEFAULT_BATCH and min(seconds, key=lambda s: seconds[s]) < size // 2
            spent = time.perf_counter() - began > patience
            if spent or taken > _LONG_FORWARD or past_best or size >= len(self.split):
                break
            size *= 2
        return seconds

    def choose_layout(self) -> None:
        """Put channels last in memory if that is faster for the model's convolutions, and agrees.

        Some code can do only with the usual layout (``view`` of an activation, say); that is seen
        here, and left alone.
        """
        replica, point = self.replica, len(self.coefficients) // 2
        convolves = any(parameter.ndim == 4 for parameter in replica.params.values())
        if (
            not convolves
            or replica.channels_last
            or self.policies.stateful
            or self.policies.dropout != "off"
            or self.split.tensors is None
        ):
            return
        batch = self.place(next(self.split.batches(4 * _SMALLEST_BATCH)))
        self.stand_at(point)
        try:
            plain = self.losses(0, batch, point)["loss"]
        except Exception:  # the measurement itself will raise it, and say where
            return
        before = self._seconds(batch, point)
        if 20 * before > _CHOICE_SHARE * before * len(self.split) / count_examples(batch) * len(
            self.coefficients
        ):
            return
        replica.lay_out(channels_last=True)
        try:
            self.stand_at(point)
            batch = self.place(batch)
            found = self.losses(0, batch, point)["loss"]
            agrees = found.shape == plain.shape and torch.allclose(
                found, plain, 1e-3, 1e-5, equal_nan=True
            )
            if agrees and self._seconds(batch, point) < _GAIN * before:
                return
        except Exception:  # whatever it was, the usual layout did not raise it
            pass
        replica.lay_out(channels_last=False)

    def _seconds(self, batch: Any, point: int) -> float:
        """The least time of a few passes over a batch."""
        best, began = math.inf, time.perf_counter()
        for trial in range(_TRIALS):
            start = time.perf_counter()
            float(self.losses(0, batch, point)["loss"].sum())  # waits for a GPU
            now = time.perf_counter()
            best = min(best, now - start)
            if now - began > (_LONG_FORWARD if trial < 3 else _LONG_FORWARD / 10):
                break
        return best

    def blocks(self) -> Iterator[list[tuple[int, Any]]]:
        """The split's batches, numbered, in runs that are worth moving the model for."""
        block: list[tuple[int, Any]] = []
        examples = size = 0
        for number, batch in enumerate(self.split.batches()):
            block.append((number, batch))
            examples += count_examples(batch)
            size += 0 if self.split.tensors is not None else _size(batch)
            if examples >= _BLOCK_EXAMPLES or size >= _BLOCK_BYTES:
                yield block
                block, examples, size = [], 0, 0
        if block:
            yield block

    def place(self, batch: Any) -> Any:
        """The batch on the device, its floating-point tensors in the forward pass's precision."""
        device, dtype = self.policies.device, self.policies.dtype

        def placed(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor.to(device, non_blocking=True)
            if self.replica.channels_last and tensor.ndim == 4:
                return tensor.to(device, dtype, memory_format=torch.channels_last)
            return tensor.to(device, dtype)

        return map_tensors(placed, batch)

    def losses(
        self,
        number: int,
        batch: Any,
        point: int,
        *,
        at: tuple[float, ...] | None = None,
        draw: int = 0,
    ) -> dict[str, Tensor]:
        """What the caller's function says of one batch at the point where the replica stands: flat tensors.

        Args:
            number: of the batch.
            batch: placed.
            point: number of the point, for the state that it carries.
            at: its coefficients, if they are not the point's own.
            draw: number of a redraw, for masks that are resampled.

        Returns:
            One flat tensor per quantity.

        Raises:
            InputError: it does not give one number per example.
        """
        policies = self.policies
        here = self.coefficients[point] if at is None else at
        batch = self._prepared(
            number, batch, draw, *(here if policies.dropout == "resample" else ())
        )
        watch = nullcontext() if self.prefix is None else self.prefix
        if self.prefix is not None:
            self.prefix.begin(number, leaves(batch), here)
        arguments = (
            self.replica.module,
            batch,
            *([self.carried[point]] if policies.stateful else []),
        )
        try:
            with watch:
                answer = self.per_example(*arguments)
        except Exception as problem:
            problem.add_note(f"at {self.labels[point]}, split {self.split.name!r}, batch {number}")
            raise
        if policies.stateful:
            if not (isinstance(answer, tuple) and len(answer) == 2):
                msg = (
                    "a stateful per_example must return (losses, state); got "
                    f"{type(answer).__name__}"
                )
                raise InputError(msg)
            answer, self.carried[point] = answer
        return _as_quantities(answer, count_examples(batch))

    def _prepared(self, number: int, batch: Any, draw: int, *where: float) -> Any:
        """The batch to give to the caller's function, with the generators and buffers as every pass finds them."""
        policies = self.policies
        if policies.dropout != "off":
            seed_all(
                stable_seed(policies.seed, self.split.name, number, draw, *where), policies.device
            )
        if self.resets_buffers:
            self.replica.restore_buffers()
        return map_tensors(torch.clone, batch) if self.mutates else batch

    def stand_at(self, point: int) -> None:
        """Move the replica to a point, with the running statistics that belong there."""
        self.replica.move_to(self.coefficients[point])
        if self.statistics is not None:
            self.replica.put(self.statistics[point])

    def quantities_over(
        self, held: list[tuple[int, Any]], point: int, draw: int = 0
    ) -> dict[str, Tensor]:
        """Every quantity of every example in some batches, float64 on the CPU, where the replica stands."""
        return _on_cpu([self.losses(number, batch, point, draw=draw) for number, batch in held])

    def _take_in(self, points: slice, rows: list[dict[str, Tensor]], *, last: bool) -> None:
        if not self.moments:
            self.moments = {name: Moments.empty(len(self.coefficients)) for name in rows[0]}
        if rows[0].keys() != self.moments.keys():
            msg = (
                f"per_example gave {sorted(self.moments)} and then {sorted(rows[0])}; expected the "
                "same quantities"
            )
            raise InputError(msg)
        for name, moments in self.moments.items():
            moments.add(points, torch.stack([row[name] for row in rows]).numpy(), last=last)


def _on_cpu(by_batch: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The quantities of some batches joined, float64 on the CPU."""
    parts: dict[str, list[Tensor]] = {}
    for found in by_batch:
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.cat(values).to("cpu", torch.float64) for name, values in parts.items()}


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


def _peak(call: Callable[[], _T], device: torch.device) -> tuple[_T, int]:
    """What a call gives, and the bytes that it took on a GPU at its peak; 0 elsewhere."""
    if device.type != "cuda":
        return call(), 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    found = call()
    return found, torch.cuda.max_memory_allocated(device) - before


def _read_ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, the next one read in a thread while the caller works on this one."""
    done: Any = object()
    with ThreadPoolExecutor(1, "ravine-reader") as reader:
        following = reader.submit(next, items, done)
        while True:
            try:
                item = following.result()
            except Exception as problem:
                problem.add_note(
                    "raised while reading ahead in a thread; a DataLoader with workers reads "
                    "without one"
                )
                raise
            if item is done:
                return
            following = reader.submit(next, items, done)
            yield item


def _like(tensor: Tensor, point: Tensor) -> bool:
    return point.dtype == tensor.dtype and point.device == tensor.device


def _as_quantities(answer: Any, examples: int) -> dict[str, Tensor]:
    found = {"loss": answer} if not isinstance(answer, Mapping) else dict(answer)
    if "loss" not in found:
        msg = f"per_example returned a dict without 'loss'; it has {sorted(map(str, found))}"
        raise InputError(msg)
    flat = {}
    for name, values in found.items():
        if not isinstance(values, Tensor):
            msg = (
                f"per_example returned a {type(values).__name__} for {name!r}; expected a tensor, "
                "one value per example"
            )
            raise InputError(msg)
        if not _NAME.fullmatch(str(name)) or name in _RESERVED or str(name).endswith(_SUFFIXES):
            msg = (
                f"per_example may not call a quantity {name!r}: use letters, digits and _, no name "
                "of the result's own"
            )
            raise InputError(msg)
        if values.is_complex() or values.layout != torch.strided:
            msg = (
                f"per_example returned {values.dtype} ({values.layout}) for {name!r}; expected "
                "real, dense numbers"
            )
            raise InputError(msg)
        if values.ndim == 0 or (values.numel() == 1 and examples > 1):
            msg = (
                f"per_example returned one number for {name!r} and a batch of {examples}; expected "
                "one value per "
                "example. Give the torch loss reduction='none', or use ravine.supervised(loss)."
            )
            raise InputError(msg)
        flat[str(name)] = values.detach().reshape(-1)
    return flat


def _size(batch: Any) -> int:
    return sum(leaf.nbytes for leaf in leaves(batch) if hasattr(leaf, "nbytes"))
