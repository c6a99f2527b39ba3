"""The engine: one pass over the data, all points inside.

A block of batches is read once; for every point the private copy of the model is moved there (its
parameters are overwritten in place) and the block is run through it. What is kept are float64 sums over
examples, so that neither batching nor order matters beyond rounding.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ravine.errors import InputError
from ravine.params import combine, is_float, pieces, same_values
from ravine.prefix import AffinePrefix, tensors_in
from ravine.splits import Fingerprint, Split, count_examples, leaves, map_tensors, splitmix64

REPLICATES: Final = 64  # random halves of the examples; one bit each of an example's word
_BLOCK_EXAMPLES: Final = 8192  # read before the points change: moving the model costs about 100 examples' forward
_BLOCK_BYTES: Final = 256 << 20
_PREFIX_BYTES: Final = 256 << 20  # of first-layer outputs held for a block
_PROBED_EXAMPLES: Final = 256
_GROUP: Final = 256  # points whose per-example losses are held at once

Coefficients = Sequence[tuple[float, ...]]
PerExample = Callable[..., Any]


@dataclass(frozen=True)
class Policies:
    """How a forward pass is made. ``Objective`` explains each."""

    dropout: str
    seed: int
    stateful: bool
    dtype: torch.dtype
    device: torch.device


class Replica:
    """A private copy of a model, moved from point to point.

    Only the structure is copied from the caller's model, which is never touched: the tensors are made new on
    ``device`` in ``dtype``, so that a model on the meta device costs nothing beside it.

    Args:
        model: the caller's model.
        dtype: of the floating-point parameters and buffers.
        device: where to compute.

    Raises:
        InputError: the model cannot be copied.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.module = _replicate(model, dtype, device)
        self.params = dict(self.module.named_parameters())
        self.buffers = dict(self.module.named_buffers())
        self.moving: list[tuple[Tensor, list[Tensor]]] = []
        #: ids of parameters that are brought up to date only when ``refresh`` asks for it
        self.lazy: frozenset[int] = frozenset()
        self._points: dict[int, list[Tensor]] = {}
        self._stale: set[int] = set()
        self._here: tuple[float, ...] = ()
        self._fixed: list[tuple[Tensor, Tensor]] = []
        self._shaken = False
        self._home: dict[str, tuple[Tensor, int]] = {}

    def span(self, corners: Sequence[Mapping[str, Tensor]]) -> None:
        """Set what the replica moves between: at each corner, the tensors by name; missing ones stay as they are.

        What is the same at every corner is copied once. What differs is held in the replica's precision and on
        its device, or stays where it is (mapped from a file, say) if it already is.
        """
        targets = {**self.params, **self.buffers}
        self.moving, self._fixed = [], []
        for name in corners[0]:
            target = targets[name]
            points = [corner[name] for corner in corners]
            if not is_float(target) or all(same_values(points[0], other) for other in points[1:]):
                self._fixed.append((target, points[0]))
                target.copy_(points[0])
                continue
            wide = torch.promote_types(target.dtype, torch.float32)
            self.moving.append((target, [point.to(target.device, wide) for point in points]))
        self._points = {id(target): points for target, points in self.moving}
        self._home = {n: (b.clone(), b._version) for n, b in self.buffers.items() if id(b) not in self._points}

    def move_to(self, coefficients: tuple[float, ...]) -> None:
        """Overwrite the parameters with those of one point, and undo what a forward pass did to buffers."""
        for name, (value, version) in self._home.items():
            buffer = self.buffers[name]
            if buffer._version != version:
                self._home[name] = (value, buffer.copy_(value)._version)
        if self._shaken:
            for target, point in self._fixed:
                target.copy_(point)
            self._shaken = False
        self._here = coefficients
        self._stale = set(self.lazy)
        for target, points in self.moving:
            if id(target) not in self._stale:
                combine(points, coefficients, target)

    def refresh(self, target: Tensor) -> None:
        """Bring a lazy parameter up to date."""
        if id(target) in self._stale:
            self._stale.discard(id(target))
            combine(self._points[id(target)], self._here, target)

    @property
    def fixed(self) -> list[Tensor]:
        """What is the same at every point: the parameters and buffers that do not move."""
        return [t for t in [*self.params.values(), *self.buffers.values()] if id(t) not in self._points]

    def perturb(self, generator: torch.Generator) -> None:
        """Multiply every parameter by 1 ± one unit of rounding: another, equally good, representative of the point.

        The next ``move_to`` undoes it.
        """
        self._shaken = True
        for target in self.params.values():
            if not is_float(target):
                continue
            unit = torch.finfo(target.dtype).eps
            for piece in pieces(target):
                noise = torch.empty(piece.shape, dtype=torch.float32).uniform_(-unit, unit, generator=generator)
                piece.add_(piece * noise.to(piece))

    def norms(self) -> dict[str, nn.Module]:
        """The modules that carry running statistics, by name."""
        return running_norms(self.module)

    def set_modes(self, dropout: str) -> None:
        """Evaluation mode; with dropout, training mode for all but the modules with running statistics."""
        self.module.train(dropout != "off")
        for norm in self.norms().values():
            norm.eval()


def running_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model that carry running statistics, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m._buffers.get("running_mean"), Tensor)}


def _replicate(model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A deep copy in which every tensor is replaced by a new one, before any is copied."""
    made: dict[int, Any] = {}
    for parameter in model.parameters():
        data = torch.empty(parameter.shape, dtype=_compute_dtype(parameter, dtype), device=device)
        made[id(parameter)] = nn.Parameter(data, requires_grad=False)
        if not is_float(parameter):
            data.copy_(parameter)
    for buffer in model.buffers():
        kept = buffer.device.type != "meta"
        data = torch.empty(buffer.shape, dtype=_compute_dtype(buffer, dtype), device=device)
        made[id(buffer)] = data.copy_(buffer.detach()) if kept else data
    for value in (value for module in model.modules() for value in vars(module).values()):
        if isinstance(value, Tensor) and not value.is_leaf:  # weight_norm of old keeps its product here
            made[id(value)] = value.detach().to(device, _compute_dtype(value, dtype)).clone()
    try:
        return copy.deepcopy(model, made)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as problem:
        msg = (
            f"the model {type(model).__name__} cannot be copied ({problem}); ravine measures on a copy, so that "
            "yours stays untouched. Remove the attribute or hook that cannot be copied."
        )
        raise InputError(msg) from problem


def _compute_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.is_complex():
        return torch.promote_types(dtype, torch.complex64)
    return dtype if tensor.is_floating_point() else tensor.dtype


@dataclass
class Moments:
    """Float64 sums over the examples of one split, for one quantity at every point.

    Attributes:
        count: examples taken in.
        counted: whether every value was a whole number, as of an error count.
        mean: (points,) mean over the examples.
        square: (points,) sum of squared deviations from the mean (merged by Chan et al. 1979).
        half_count: (replicates,) examples in each random half.
        half_sum: (points, replicates) sums over those halves.
    """

    mean: np.ndarray
    square: np.ndarray
    half_sum: np.ndarray
    half_count: np.ndarray = field(default_factory=lambda: np.zeros(REPLICATES))
    count: int = 0
    counted: bool = True

    @classmethod
    def empty(cls, points: int) -> Moments:
        """Of nothing yet."""
        return cls(np.zeros(points), np.zeros(points), np.zeros((points, REPLICATES)))

    def add(self, group: slice, values: np.ndarray, *, last: bool) -> None:
        """Take in one block for a group of points.

        Args:
            group: which points.
            values: (points in the group, examples) float64.
            last: whether these are the block's last points, after which the examples count.
        """
        new = values.shape[1]
        if new:
            member = _halves(self.count, new)
            self.counted = self.counted and bool((values == np.round(values)).all())
            with np.errstate(invalid="ignore", over="ignore"):  # a diverged point is NaN or infinite, and stays so
                mean = values.mean(axis=1)
                delta = mean - self.mean[group]
                total = self.count + new
                self.square[group] += ((values - mean[:, None]) ** 2).sum(axis=1)
                self.square[group] += delta**2 * (self.count * new / total)
                self.mean[group] = mean if self.count == 0 else self.mean[group] + delta * (new / total)
                self.half_sum[group] += values @ member
            if last:
                self.half_count += member.sum(axis=0)
        if last:
            self.count += new

    @property
    def stderr(self) -> np.ndarray:
        """(points,) standard error of the mean; NaN for fewer than two examples."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return np.sqrt(self.square / (self.count - 1) / self.count)

    @property
    def replicates(self) -> np.ndarray:
        """(points, replicates) mean over a random half, minus the mean over all."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.half_sum / self.half_count - self.mean[:, None]


def _halves(first: int, count: int) -> np.ndarray:
    """(examples, replicates) of 0 and 1: which halves the examples number first, first + 1, … belong to."""
    words = splitmix64(np.arange(first, first + count, dtype=np.uint64))
    bits = np.unpackbits(words.view(np.uint8).reshape(count, 8), axis=1)
    return bits.astype(np.float64)


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
        #: whether per_example writes to its batch, so that it must be given a copy
        self.mutates = False
        self.carried: list[Any] = [None] * len(coefficients)

    def run(self, tick: Callable[[int], None]) -> None:
        """Read the split once and measure every point on it.

        Args:
            tick: told how many examples × points have been done since it was last told.
        """
        for block in self.blocks():
            for _, batch in block:
                self.fingerprint.add(batch)
            held = [(number, self.place(batch)) for number, batch in block]
            if block[0][0] == 0:
                self.prefix = self._agreed_prefix(*held[0])
            elif self.prefix is not None:
                self.prefix.forget()
            groups = [
                range(g, min(g + _GROUP, len(self.coefficients))) for g in range(0, len(self.coefficients), _GROUP)
            ]
            for group in groups:
                rows = []
                for point in group:
                    self.stand_at(point)
                    rows.append(self.quantities_over(held, point))
                    tick(sum(count_examples(batch) for _, batch in held))
                self._take_in(group, rows, last=group is groups[-1])
        self.prefix, self.replica.lazy = None, frozenset()

    def _agreed_prefix(self, number: int, batch: Any) -> AffinePrefix | None:
        """The affine prefix, if there is anything for it to do and it agrees with the plain route on one batch."""
        replica, last = self.replica, len(self.coefficients) - 1
        if self.policies.dtype not in (torch.float32, torch.float64) or last == 0:
            return None
        found = AffinePrefix(replica.moving, replica.fixed, replica.refresh, _PREFIX_BYTES)
        for point in (0, last):
            self.stand_at(point)
            plain = self.losses(number, batch, point)["loss"]
            self.carried[point] = None
            self.prefix, replica.lazy = found, frozenset(found.in_products - found.read)
            self.stand_at(point)
            fast = self.losses(number, batch, point)["loss"]
            self.carried[point] = None
            self.prefix, agreed = None, replica.lazy
            replica.lazy = frozenset()
            scale = float(plain.abs().nan_to_num(0, 0, 0).max()) if plain.numel() else 0.0
            if not torch.allclose(fast, plain, rtol=1e-3, atol=1e-5 * scale, equal_nan=True):
                return None
            if not found.in_products:
                return None
        replica.lazy = agreed
        return found

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
        return map_tensors(
            lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device, non_blocking=True), batch
        )

    def losses(self, number: int, batch: Any, point: int) -> dict[str, Tensor]:
        """What the caller's function says of one batch at the point where the replica stands: flat tensors.

        Raises:
            InputError: it does not give one number per example.
        """
        policies = self.policies
        if policies.dropout != "off":
            where = self.coefficients[point] if policies.dropout == "resample" else ()
            torch.manual_seed(_seed(policies.seed, self.split.name, number, *where))
        if self.mutates:
            batch = map_tensors(torch.clone, batch)
        watch = nullcontext() if self.prefix is None else self.prefix
        if self.prefix is not None:
            self.prefix.begin(number, leaves(batch), self.coefficients[point])
        arguments = (self.replica.module, batch, *([self.carried[point]] if policies.stateful else []))
        try:
            with watch:
                answer = self.per_example(*arguments)
        except Exception as problem:
            problem.add_note(f"at {self.labels[point]}, split {self.split.name!r}, batch {number}")
            raise
        if policies.stateful:
            if not (isinstance(answer, tuple) and len(answer) == 2):
                msg = f"a stateful per_example must return (losses, state); got {type(answer).__name__}"
                raise InputError(msg)
            answer, self.carried[point] = answer
        return _as_quantities(answer, count_examples(batch))

    def stand_at(self, point: int) -> None:
        """Move the replica to a point, with the running statistics that belong there."""
        self.replica.move_to(self.coefficients[point])
        if self.statistics is not None:
            for name, value in self.statistics[point].items():
                self.replica.buffers[name].copy_(value)

    def quantities_over(self, held: list[tuple[int, Any]], point: int) -> dict[str, Tensor]:
        """Every quantity of every example in some batches, float64 on the CPU, where the replica stands."""
        parts: dict[str, list[Tensor]] = {}
        for number, batch in held:
            for name, values in self.losses(number, batch, point).items():
                parts.setdefault(name, []).append(values)
        return {name: torch.cat(values).to("cpu", torch.float64) for name, values in parts.items()}

    def _take_in(self, group: range, rows: list[dict[str, Tensor]], *, last: bool) -> None:
        if not self.moments:
            self.moments = {name: Moments.empty(len(self.coefficients)) for name in rows[0]}
        for row in rows:
            if row.keys() != self.moments.keys():
                msg = (
                    f"per_example gave {sorted(self.moments)} and then {sorted(row)}; it must give the same quantities"
                )
                raise InputError(msg)
        for name, moments in self.moments.items():
            counts = {len(row[name]) for row in rows}
            if len(counts) > 1:
                msg = (
                    f"per_example gave {sorted(counts)} values of {name!r} for the same examples at different points; "
                    "a mean over examples needs the same examples at every point"
                )
                raise InputError(msg)
            values = torch.stack([row[name] for row in rows]).numpy()
            moments.add(slice(group.start, group.stop), values, last=last)


def recomputed_statistics(one_pass: Pass, tick: Callable[[int], None]) -> list[dict[str, Tensor]]:
    """Running statistics estimated anew at every point by one pass in training mode, batches weighted by size.

    The average of the batches' means and variances, from nothing, as ``torch.optim.swa_utils.update_bn`` takes
    it, but a short last batch counts by its size. Because a layer is normalised by its own batch while the next
    is estimated, the outcome depends on the batch size; that is the nature of the method.

    Args:
        one_pass: over the split to estimate from.
        tick: as in ``Pass.run``.

    Returns:
        For every point, the statistics by buffer name.
    """
    replica = one_pass.replica
    norms = replica.norms()
    names = [n for n in replica.buffers if n.rpartition(".")[0] in norms]
    kept: list[dict[str, Tensor]] = [{} for _ in one_pass.coefficients]
    seen = 0
    for norm in norms.values():
        norm.train()
    for block in one_pass.blocks():
        held = [(number, one_pass.place(batch)) for number, batch in block]
        sizes = [count_examples(batch) for _, batch in held]
        for point, coefficients in enumerate(one_pass.coefficients):
            replica.move_to(coefficients)
            for name, value in kept[point].items():
                replica.buffers[name].copy_(value)
            before = seen
            for (number, batch), size in zip(held, sizes, strict=True):
                before += size
                for norm in norms.values():
                    norm.momentum = size / before  # pyright: ignore[reportArgumentType]
                one_pass.losses(number, batch, point)
            kept[point] = {name: replica.buffers[name].clone() for name in names}
            tick(sum(sizes))
        seen += sum(sizes)
    replica.set_modes(one_pass.policies.dropout)
    return kept


def noise_floors(one_pass: Pass, probes: Sequence[int], draws: int = 3) -> dict[str, dict[int, float]]:
    """How far rounding alone moves the mean of each quantity, estimated on the split's first batches.

    At each probed point the parameters are multiplied by 1 ± one unit of rounding, ``draws`` times: each draw is
    as good a representative of the point as the one that is measured. The floor is three times the standard
    deviation of the means so found; at least one unit of rounding of the mean; and for a quantity that only
    takes whole numbers (an error count) at least one example.

    Args:
        one_pass: over the split; its sums are not touched.
        probes: numbers of the points to look at.
        draws: perturbed evaluations per point.

    Returns:
        Quantity → point number → floor, in the quantity's unit; NaN where the quantity is not finite.

    References:
        Parker 1997, Monte Carlo arithmetic.
    """
    held, examples = [], 0
    for number, batch in next(one_pass.blocks(), []):
        held.append((number, one_pass.place(batch)))
        examples += count_examples(batch)
        if examples >= _PROBED_EXAMPLES:
            break
    generator = torch.Generator().manual_seed(one_pass.policies.seed)
    unit = torch.finfo(one_pass.policies.dtype).eps
    floors: dict[str, dict[int, float]] = {}
    for point in probes:
        found: dict[str, list[Tensor]] = {}
        for draw in range(draws + 1):
            one_pass.stand_at(point)
            if draw:
                one_pass.replica.perturb(generator)
            for name, values in one_pass.quantities_over(held, point).items():
                found.setdefault(name, []).append(values)
            one_pass.carried[point] = None
        for name, drawn in found.items():
            values = torch.stack(drawn)
            means = values.mean(1)
            floor = float(torch.stack([3 * means.std(), unit * means[0].abs()]).max())
            floors.setdefault(name, {})[point] = floor if math.isfinite(floor) else math.nan
    return floors


def _as_quantities(answer: Any, examples: int) -> dict[str, Tensor]:
    found = {"loss": answer} if not isinstance(answer, Mapping) else dict(answer)
    if "loss" not in found:
        msg = f"per_example returned a dict without 'loss'; it has {sorted(map(str, found))}"
        raise InputError(msg)
    flat = {}
    for name, values in found.items():
        if not isinstance(values, Tensor):
            msg = (
                f"per_example returned a {type(values).__name__} for {name!r}; expected a tensor, one value per example"
            )
            raise InputError(msg)
        if values.ndim == 0 or (values.numel() == 1 and examples > 1):
            msg = (
                f"per_example returned one number for {name!r} and a batch of {examples}; expected one value per "
                "example. Give the torch loss reduction='none', or use ravine.supervised(loss)."
            )
            raise InputError(msg)
        flat[str(name)] = values.detach().reshape(-1)
    return flat


def _seed(*parts: Any) -> int:
    """A 63-bit seed from anything with a stable repr."""
    word = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    return word >> 1


def _size(batch: Any) -> int:
    return sum(leaf.nbytes for leaf in leaves(batch) if hasattr(leaf, "nbytes"))


def require_determined(one_pass: Pass) -> None:
    """Look, on one batch, for a J that is not a function of the point; and for one that writes to its batch.

    Raises:
        InputError: the model is random although dropout is off, or the function never uses the model it is given.
    """
    first = next(one_pass.split.batches(), None)
    if first is None:
        return  # an empty split has its own error
    batch = one_pass.place(first)
    found = []
    watch = _UseOf(one_pass.replica.module)
    for seed in (0, 1):
        tried = map_tensors(torch.clone, batch)
        before = [leaf._version for leaf in leaves(tried) if isinstance(leaf, Tensor)]
        one_pass.stand_at(0)
        torch.manual_seed(seed)
        with watch:
            found.append(one_pass.losses(0, tried, 0)["loss"])
        one_pass.carried[0] = None
        if before != [leaf._version for leaf in leaves(tried) if isinstance(leaf, Tensor)]:
            one_pass.mutates = True
    one, again = found
    if one_pass.policies.dropout == "off" and not torch.allclose(one, again, rtol=1e-3, equal_nan=True):
        msg = (
            "the loss at one point is random even in evaluation mode (dropout that ignores model.training?): two "
            f"passes over one batch gave means {float(one.mean()):.6g} and {float(again.mean()):.6g}. Choose "
            "dropout='fixed' to use the same draws at every point, or 'resample'."
        )
        raise InputError(msg)
    if not watch.used and not one_pass.policies.stateful:  # a first batch may do no more than start a state
        msg = (
            "per_example never used the model that it was given, so every curve would be flat; it may use another "
            "model from outside. Use its first argument."
        )
        raise InputError(msg)


class _UseOf(TorchFunctionMode):
    """Notes whether anything in a module runs, or any torch function is given one of its parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.used = False
        self._module = module
        self._parameters = {id(parameter) for parameter in module.parameters()}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> _UseOf:
        self._hooks = [module.register_forward_pre_hook(self._note) for module in self._module.modules()]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for hook in self._hooks:
            hook.remove()

    def _note(self, *_: object) -> None:
        self.used = True

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.used = self.used or any(id(tensor) in self._parameters for tensor in tensors_in(args, kwargs))
        return func(*args, **(kwargs or {}))
