"""Looks at an objective before it is trusted: is J a function of the point, and how fine?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ravine.errors import InputError
from ravine.objective.affine import tensors_in
from ravine.objective.batches import Batch, dense_parts
from ravine.objective.forward import Forward, joined
from ravine.objective.randomness import seed_all
from ravine.objective.tuning import SAME_TWICE, Trial, agree
from ravine.points.params import is_float

#: Perturbed evaluations at each point whose rounding is looked at; one where float64 is the other.
DRAWS: Final = 2
#: How many times as far as another rounding of the parameters two routes may be apart.
_ROUNDINGS: Final = 100
_HALF: Final = (torch.float16, torch.bfloat16)
_PLAIN: Final = (Tensor, nn.Parameter)


def noise_floors(
    trial: Trial, probes: Sequence[int], exact: Forward | None = None
) -> dict[str, dict[int, float]]:
    """How far rounding alone moves the mean of each quantity, estimated on a few of the examples.

    At each probed point the parameters are multiplied by 1 ± one unit of rounding, twice: each draw
    is as good a representative of the point as the one that is measured. Where it can be afforded
    the same examples are evaluated in float64 instead of a second time: that shows what cancels
    inside the loss too, as (x + 10⁶) − 10⁶ is the same for neighbouring x.

    Two evaluations tell little about the standard deviation of a mean. So the size of the changes
    is taken from the examples at each point, and the share of it that is left in a mean from all
    points together. The floor is three times the standard deviation so found (masks that are
    resampled are drawn anew too), and at least one unit of rounding of the mean; and at least the
    mean error beside float64, and three of its standard errors over the whole split.

    Args:
        trial: of the split.
        probes: numbers of the points to look at.
        exact: the same forward pass in float64; None where there is none.

    Returns:
        Quantity → point number → floor, in the quantity's unit; NaN where the quantity
        is not finite.

    References:
        Parker 1997, Monte Carlo arithmetic.
    """
    if not probes:
        return {}
    policies, held = trial.forward.policies, trial.batches()
    generator = torch.Generator().manual_seed(policies.seed)
    looks = {point: _looks_at(trial, held, point, generator, exact) for point in probes}
    unit = torch.finfo(trial.narrowest or policies.dtype).eps
    scale = 1.0
    if policies.dropout == "resample":
        # the first look has masks of its own too; and masks that are drawn anew average out over
        # the whole split, while rounding is taken not to
        examples = sum(batch.size for batch in held)
        scale = (examples / max(examples, len(trial.split)) / 2) ** 0.5
    floors: dict[str, dict[int, float]] = {}
    for name in dict.fromkeys(name for found in looks.values() for name in found):
        of = {point: found[name] for point, found in looks.items() if name in found}
        left = scale * _left_in_a_mean([look.moved for look in of.values()])
        floors[name] = {
            point: look.floor(left, unit, len(trial.split)) for point, look in of.items()
        }
    return floors


@dataclass(frozen=True)
class _Looks:
    """A quantity at one point by several roundings.

    Attributes:
        values: (values,) as they are measured.
        moved: (looks, values) by how much each look moves them.
        error: (values,) by how much they differ from float64; None where that is not known.
    """

    values: Tensor
    moved: Tensor
    error: Tensor | None

    def floor(self, left: float, unit: float, split: int) -> float:
        """Three standard deviations of the mean, and what else is known of its error.

        Args:
            left: how large a mean's changes are beside those of the values.
            unit: of rounding.
            split: how many examples the whole split has.
        """
        size = float(self.moved.square().mean().sqrt())
        least = [3 * left * size, unit * float(self.values.mean().abs())]
        if self.error is not None:
            spread = float(self.error.std()) / max(len(self.error), split) ** 0.5
            least.append(abs(float(self.error.mean())) + 3 * spread)
        return max(least) if all(map(math.isfinite, least)) else math.nan


def _left_in_a_mean(moved: Sequence[Tensor]) -> float:
    """How large a mean's changes are beside those of the values, by the looks at all points."""
    means = torch.cat([looks.mean(1).square() for looks in moved])
    values = torch.cat([looks.square().mean(1) for looks in moved])
    told = (values > 0) & values.isfinite()
    return float((means[told] / values[told]).mean().sqrt()) if told.any() else 1.0


def _looks_at(
    trial: Trial,
    held: Sequence[Batch],
    point: int,
    generator: torch.Generator,
    exact: Forward | None,
) -> dict[str, _Looks]:
    """Every quantity at a point, by several roundings."""
    forward = trial.forward

    def by_batch(draw: int) -> list[dict[str, Tensor]]:
        forward.stand_at(point)
        if draw:
            forward.replica.perturb(generator, trial.narrowest)
        found = [forward.quantities(batch, point, draw=draw) for batch in held]
        forward.forget(point)
        return found

    is_known = point in trial.known and any(batch is trial.first for batch in held)
    first = [trial.known[point]] if is_known else by_batch(0)
    plain, truth = joined(first), _in_float64(exact, held, point)
    draws = [joined(by_batch(draw)) for draw in range(1, 2 if truth else 1 + DRAWS)]
    in_rows = {name for found in first for name, values in found.items() if values.ndim > 1}
    return {
        name: _compared(values, [one[name] for one in draws], truth.get(name), name in in_rows)
        for name, values in plain.items()
    }


def _in_float64(exact: Forward | None, held: Sequence[Batch], point: int) -> dict[str, Tensor]:
    """The same examples in float64; nothing where a model does not run in it."""
    if exact is None:
        return {}
    exact.stand_at(point)
    try:
        return joined([exact.quantities(exact.placed(batch), point) for batch in held])
    except Exception:  # perturbation alone has to do
        return {}


def _compared(
    plain: Tensor, draws: Sequence[Tensor], truth: Tensor | None, in_rows: bool
) -> _Looks:
    """One quantity by several roundings.

    A share of examples has no error beside float64: one that flips here would be taken for as many
    as there are examples like it.
    """
    others = [*draws, *([] if truth is None or truth.shape != plain.shape else [truth])]
    values = torch.stack([plain, *others])
    if in_rows:  # where NaN means that there is no value
        values = values[:, ~values.isnan().all(0)]
    here, moved = values[0], values[1:] - values[0]
    if len(others) == len(draws):
        return _Looks(here, moved, None)
    if not moved[-1].isfinite().all():
        return _Looks(here, moved[:-1], None)
    counted = len(here) < 2 or (_is_share(here) and _is_share(values[-1]))
    return _Looks(here, moved, None if counted else -moved[-1])


def _is_share(values: Tensor) -> bool:
    """Whether every value is 0 or 1; whole numbers may be a loss cut off, at 100, say."""
    return bool(((values == 0) | (values == 1)).all())


def require_determined(trial: Trial, model: nn.Module) -> None:
    """Look at a few examples for a J that is no function of the point, or writes to its batch.

    Args:
        trial: of the split, which learns from it.
        model: the caller's, which must not be reached.

    Raises:
        InputError: the model is random although dropout is off, or the function does not use the
            model it is given, or reaches back to the caller's own.
    """
    if trial.first is None:
        return  # an empty split has its own error
    forward = trial.forward
    watch = _UseOf(forward.replica.module, model)
    try:
        found = _twice_on_what_it_takes(trial, watch)
    except Exception as problem:
        if not watch.outside:
            raise
        raise _outside(watch.outside) from problem  # of two types, say: the reason comes first
    if watch.outside:
        raise _outside(watch.outside)
    one, again = found
    settled = forward.policies.dropout != "resample"
    if settled and not agree(one, again, within=SAME_TWICE):
        other, *_ = _run(trial, 2, watch)  # torch itself may compute otherwise where it is watched
        again = other["loss"].reshape(-1)
    if settled and not agree(one, again, within=SAME_TWICE):
        msg = (
            "the loss at one point is random, or depends on what was computed before: two passes "
            f"over one batch gave means {float(one.nanmean()):.6g} and "
            f"{float(again.nanmean()):.6g}. If it is dropout that ignores model.training, choose "
            "dropout='fixed' to use the same draws at every point, or 'resample'; if the model "
            "keeps state in its attributes, reset it in forward."
        )
        raise InputError(msg)
    # a first batch may do no more than start a state
    if not watch.used and not forward.policies.stateful:
        msg = (
            "per_example never used the model that it was given, so every curve would be flat; it "
            "may use another model from outside. Use its first argument."
        )
        raise InputError(msg)


def _outside(name: str) -> InputError:
    return InputError(
        f"per_example reaches the parameter {name!r} of the model that was given to Objective, not "
        "of the copy that is moved: through a wrapped forward, a closure or a lambda. Use the "
        "first argument throughout."
    )


def _twice_on_what_it_takes(trial: Trial, watch: _UseOf) -> list[Tensor]:
    """``_twice``, of a whole batch where the caller's function does not take a part of one."""
    if not trial.cuts:
        return _twice(trial, watch)
    try:
        return _twice(trial, watch)
    except Exception:
        trial.use_whole_batches()
        return _twice(trial, watch)


def require_own_values(trial: Trial) -> None:
    """Look, on a few examples, for a loss that depends on which others are in its batch.

    Such a J is a function of the batches too, and is not measured with batches of a size that was
    chosen here.

    Args:
        trial: of a split whose batches are made here, after the test of determinism.

    Raises:
        InputError: it is.
    """
    batch, forward = trial.first, trial.forward
    if batch is None or batch.size < 2:
        return
    half = batch.size // 2
    forward.stand_at(0)
    try:
        halves = [forward.placed(one) for one in islice(trial.split.batches(half), 2)]
        apart = torch.cat([forward.loss(one, 0) for one in halves])
        whole = forward.placed(next(trial.split.batches(2 * half)))
        is_known = batch.size == 2 * half and 0 in trial.known
        together = trial.known[0]["loss"].reshape(-1) if is_known else forward.loss(whole, 0)
    except Exception:  # a function that takes several examples need not take fewer
        return
    # in whatever order a function gives its values
    found, expected = apart.sort().values, together.sort().values
    unit = torch.finfo(trial.narrowest or torch.float32).eps
    if agree(found, expected, within=max(1e-3, 20 * unit)):
        return
    if found.shape == expected.shape:  # losses near zero may be nothing but rounding
        forward.replica.perturb(torch.Generator().manual_seed(0), trial.narrowest)
        moved = (forward.loss(whole, 0).sort().values - expected).abs().max()
        if (found - expected).abs().max() <= _ROUNDINGS * moved:
            return
    msg = (
        "the loss of an example depends on which others are in its batch: the means of the first "
        f"{2 * half} examples' losses are {float(expected.nanmean()):.6g} in one batch and "
        f"{float(found.nanmean()):.6g} in two. So J depends on the batches: say how large they "
        "are, Objective(..., batch_size=…), or give batches of your own."
    )
    raise InputError(msg)


def _twice(trial: Trial, watch: _UseOf) -> list[Tensor]:
    """The first losses by two passes with other seeds; the second is as those that measure."""
    batch = trial.first
    one, changed, _ = _run(trial, 0, watch)
    again, changed_again, seconds = _run(trial, 1, nullcontext())
    copies = changed or changed_again
    trial.learn(one["loss"], seconds=seconds, copies=copies, narrowest=watch.narrowest)
    if trial.first is batch:
        trial.known[0] = again
    return [found["loss"].reshape(-1) for found in (one, again)]


def _run(
    trial: Trial, seed: int, watch: AbstractContextManager[Any]
) -> tuple[dict[str, Tensor], bool, float]:
    """A pass over the first examples at the first point: losses, what it wrote to, seconds."""
    forward, batch = trial.forward, trial.first
    assert batch is not None  # an empty split is not run
    tried = batch.mapped(torch.clone)
    forward.forget(0)
    forward.stand_at(0)
    seed_all(seed, forward.policies.device)
    began = time.perf_counter()
    with watch:
        given = forward.quantities(tried, 0)
    seconds = time.perf_counter() - began
    forward.forget(0)
    found = {name: values.clone() for name, values in given.items()}
    return found, not _same(tried, batch), seconds


def _parts(batch: Batch) -> list[Tensor]:
    return [part for leaf in batch.leaves if isinstance(leaf, Tensor) for part in dense_parts(leaf)]


def _same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same numbers."""
    before, after = _parts(other), _parts(one)
    if len(before) != len(after):
        return False
    pairs = zip(before, after, strict=True)
    return all(a.shape == b.shape and _equal(a, b) for a, b in pairs)


def _equal(one: Tensor, other: Tensor) -> bool:
    if not is_float(one):
        return torch.equal(one, other)
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (
        NotImplementedError,
        RuntimeError,
    ):  # inside torch.func, what wraps a tensor has no storage
        return 0


class _UseOf(TorchFunctionMode):
    """Notes whether anything in a module runs or is given to a torch function.

    And whether anything of the caller's own does.
    """

    def __init__(self, module: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.used = False
        self.outside = ""
        self.narrowest: torch.dtype | None = None
        self._caller = {
            p.untyped_storage().data_ptr(): name
            for name, p in model.named_parameters()
            if p.numel() and p.device.type != "meta"
        }
        self._module = module
        self._parameters = {id(parameter) for parameter in module.parameters()}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> _UseOf:
        scripted = [
            module
            for module in self._module.modules()
            if isinstance(module, torch.jit.ScriptModule)
        ]
        self.used = self.used or bool(scripted)  # they take no hooks
        plain = [module for module in self._module.modules() if module not in scripted]
        self._hooks = [module.register_forward_pre_hook(self._note) for module in plain]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for hook in self._hooks:
            hook.remove()

    def _look_at_precision(self, answer: Any) -> None:
        """Note an autocast of the caller's function, or a cast: it computes in a narrower type."""
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                self.narrowest = torch.get_autocast_dtype(device)
        if isinstance(answer, Tensor) and answer.dtype in _HALF:
            self.narrowest = answer.dtype

    def _note(self, *_: object) -> None:
        self.used = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for tensor in tensors_in(args, kwargs):
            self.used = self.used or id(tensor) in self._parameters
            if (
                tensor.layout == torch.strided
                and tensor.device.type != "meta"
                and type(tensor) in _PLAIN
            ):
                self.outside = self.outside or self._caller.get(_address(tensor), "")
        answer = func(*args, **(kwargs or {}))
        self._look_at_precision(answer)
        return answer
