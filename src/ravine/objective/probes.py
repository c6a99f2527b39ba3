"""Looks at an objective before it is trusted: is J a function of the point, and how fine?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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

DRAWS: Final = 3  # perturbed evaluations at each point whose rounding is looked at
_HALF: Final = (torch.float16, torch.bfloat16)
_PLAIN: Final = (Tensor, nn.Parameter)


def noise_floors(
    trial: Trial, probes: Sequence[int], exact: Forward | None = None
) -> dict[str, dict[int, float]]:
    """How far rounding alone moves the mean of each quantity, estimated on a few of the examples.

    At each probed point the parameters are multiplied by 1 ± one unit of rounding, a few times:
    each draw is as good a representative of the point as the one that is measured. The floor is
    three times the standard deviation of the means so found (masks that are resampled are drawn
    anew too), and at least one unit of rounding of the mean.

    A unit in the parameters does not show what cancels inside the loss: (x + 10⁶) −
    10⁶ is the same for neighbouring x. So the same examples are evaluated in float64
    as well, where that can be afforded. The floor is at least the mean error so
    found, and three of its standard errors over the whole split.

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
    forward, held = trial.forward, trial.batches()
    examples = sum(batch.size for batch in held)
    generator = torch.Generator().manual_seed(forward.policies.seed)
    narrow = trial.narrowest
    unit = torch.finfo(narrow or forward.policies.dtype).eps
    # masks that are drawn anew average out over the whole split; rounding is taken not to
    resampled = forward.policies.dropout == "resample"
    share = (examples / max(examples, len(trial.split))) ** 0.5 if resampled else 1.0
    floors: dict[str, dict[int, float]] = {}
    known = trial.known if any(batch is trial.first for batch in held) else {}
    for point in probes:
        found: dict[str, list[Tensor]] = {}
        in_rows: set[str] = set()
        for draw in range(DRAWS + 1):
            if draw or point not in known:
                forward.stand_at(point)
                if draw:
                    forward.replica.perturb(generator, narrow)
                by_batch = [forward.quantities(batch, point, draw=draw) for batch in held]
            else:
                by_batch = [known[point]]
            in_rows |= {name for given in by_batch for name, of in given.items() if of.ndim > 1}
            drawn = joined(by_batch)
            for name, values in drawn.items():
                found.setdefault(name, []).append(values)
            forward.forget(point)
        for name, draws in found.items():
            values = torch.stack(draws)
            if name in in_rows:  # where NaN means that there is no value
                values = values[:, ~values.isnan().all(0)]
            means = values.mean(1)
            spread, rounding = share * 3 * means.std(), unit * means[0].abs()
            floor = float(torch.stack([spread, rounding]).max())
            floors.setdefault(name, {})[point] = floor if math.isfinite(floor) else math.nan
        if exact is not None:
            first = {name: draws[0] for name, draws in found.items()}
            for name, error in _errors(exact, held, point, first, len(trial.split)).items():
                floors[name][point] = max(floors[name][point], error)
    return floors


def _errors(
    exact: Forward, held: Sequence[Batch], point: int, found: Mapping[str, Tensor], split: int
) -> dict[str, float]:
    """How far rounding moves each quantity's mean over a split, by the same examples in float64.

    A share of examples is left out: one that flips here would be taken for as many as there are
    examples like it.
    """
    exact.stand_at(point)
    try:
        truth = joined([exact.quantities(exact.placed(batch), point) for batch in held])
    except Exception:  # a model need not run in float64; perturbation alone has to do
        return {}
    errors: dict[str, float] = {}
    for name, values in found.items():
        if name not in truth or truth[name].shape != values.shape:
            continue
        told = ~(values.isnan() & truth[name].isnan())  # a row may have places without a value
        here, there = values[told], truth[name][told]
        apart = here - there
        counted = _is_share(here) and _is_share(there)
        if len(apart) < 2 or counted or not apart.isfinite().all():
            continue
        spread = float(apart.std()) / max(len(apart), split) ** 0.5
        errors[name] = abs(float(apart.mean())) + 3 * spread
    return errors


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
    if trial.cuts:
        try:
            found = _twice(trial, watch)
        except Exception:  # it may not take a part of a batch
            trial.use_whole_batches()
            found = _twice(trial, watch)
    else:
        found = _twice(trial, watch)
    if watch.outside:
        msg = (
            f"per_example reaches the parameter {watch.outside!r} of the model that was given to "
            "Objective, not of the copy that is moved: through a wrapped forward, a closure or a "
            "lambda. Use the first argument throughout."
        )
        raise InputError(msg)
    one, again = found
    settled = forward.policies.dropout != "resample"
    if settled and not agree(one, again, within=SAME_TWICE):
        other, *_ = _run(trial, 2, watch)  # torch itself may compute otherwise where it is watched
        again = other["loss"].reshape(-1)
    if settled and not agree(one, again, within=SAME_TWICE):
        msg = (
            "the loss at one point is random, or depends on what was computed before: two passes "
            f"over one batch gave means {float(one.mean()):.6g} and {float(again.mean()):.6g}. If "
            "it is dropout that ignores model.training, choose dropout='fixed' to use the same "
            "draws at every point, or 'resample'; if the model keeps state in its attributes, "
            "reset it in forward."
        )
        raise InputError(msg)
    # a first batch may do no more than start a state
    if not watch.used and not forward.policies.stateful:
        msg = (
            "per_example never used the model that it was given, so every curve would be flat; it "
            "may use another model from outside. Use its first argument."
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
