"""Looks at an objective before it is trusted: is J a function of the point, and how finely does it resolve?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ravine.errors import InputError
from ravine.objective.affine import tensors_in
from ravine.objective.batches import count_examples, leaves, map_tensors
from ravine.objective.engine import Pass
from ravine.objective.randomness import seed_all

_MOST_PROBED: Final = 256  # values, of which a sequence has many
_FEWEST_PROBED: Final = 16
_PROBING_SHARE: Final = 0.1  # of the measurement itself, for looking at its rounding
_PLAIN: Final = (Tensor, nn.Parameter)


def noise_floors(
    one_pass: Pass, probes: Sequence[int], draws: int = 3
) -> dict[str, dict[int, float]]:
    """How far rounding alone moves the mean of each quantity, estimated on the split's first examples.

    At each probed point the parameters are multiplied by 1 ± one unit of rounding, ``draws`` times:
    each draw is as good a representative of the point as the one that is measured. The floor is
    three times the standard deviation of the means so found (masks that are resampled are drawn
    anew too), and at least one unit of rounding of the mean.

    Args:
        one_pass: over the split; its sums are not touched.
        probes: numbers of the points to look at.
        draws: perturbed evaluations per point.

    Returns:
        Quantity → point number → floor, in the quantity's unit; NaN where the quantity is not
        finite.

    References:
        Parker 1997, Monte Carlo arithmetic.
    """
    if not probes:
        return {}
    held, examples = _few_examples(one_pass, probes[0], len(probes) * (draws + 1))
    generator = torch.Generator().manual_seed(one_pass.policies.seed)
    unit = torch.finfo(one_pass.policies.dtype).eps
    # masks that are drawn anew average out over the whole split; rounding is taken not to
    resampled = one_pass.policies.dropout == "resample"
    share = (examples / max(examples, len(one_pass.split))) ** 0.5 if resampled else 1.0
    floors: dict[str, dict[int, float]] = {}
    for point in probes:
        found: dict[str, list[Tensor]] = {}
        for draw in range(draws + 1):
            one_pass.stand_at(point)
            if draw:
                one_pass.replica.perturb(generator)
            for name, values in one_pass.quantities_over(held, point, draw).items():
                found.setdefault(name, []).append(values)
            one_pass.carried[point] = None
        for name, drawn in found.items():
            values = torch.stack(drawn)
            means = values.mean(1)
            floor = float(torch.stack([share * 3 * means.std(), unit * means[0].abs()]).max())
            floors.setdefault(name, {})[point] = floor if math.isfinite(floor) else math.nan
    return floors


def _few_examples(
    one_pass: Pass, point: int, evaluations: int
) -> tuple[list[tuple[int, Any]], int]:
    """The first batches of a split, as many as the share of time allows that looking at rounding may take.

    Args:
        one_pass: over the split.
        point: where to look how many values an example has.
        evaluations: how often each batch will be run.

    Returns:
        The batches with their numbers, placed; and how many examples they have.
    """
    known = len(one_pass.split)
    affordable = (
        _PROBING_SHARE * len(one_pass.coefficients) * known / evaluations if known else math.inf
    )
    size = min(one_pass.split.batch_size, max(int(min(affordable, _MOST_PROBED)), _FEWEST_PROBED))
    held: list[tuple[int, Any]] = []
    examples, each = 0, 1.0
    for number, batch in enumerate(one_pass.split.batches(size)):
        held.append((number, one_pass.place(batch)))
        examples += count_examples(batch)
        if number == 0:
            one_pass.stand_at(point)
            each = max(one_pass.losses(0, held[0][1], point)["loss"].numel(), 1) / max(examples, 1)
            one_pass.carried[point] = None
        if each * examples >= min(max(affordable * each, _FEWEST_PROBED), _MOST_PROBED):
            break
    return held, examples


def require_determined(one_pass: Pass, model: nn.Module) -> None:
    """Look, on one batch, for a J that is not a function of the point; and for one that writes to its batch.

    Args:
        one_pass: over the split.
        model: the caller's, which must not be reached.

    Raises:
        InputError: the model is random although dropout is off, or the function does not use the
            model it is given, or reaches back to the caller's own.
    """
    first = next(one_pass.split.batches(), None)
    if first is None:
        return  # an empty split has its own error
    batch = one_pass.place(first)
    found = []
    watch = _UseOf(one_pass.replica.module, model)
    for seed in (0, 1):
        tried = map_tensors(torch.clone, batch)
        one_pass.stand_at(0)
        seed_all(seed, one_pass.policies.device)
        with watch:
            found.append(one_pass.losses(0, tried, 0)["loss"])
        one_pass.carried[0] = None
        one_pass.mutates = one_pass.mutates or not _same(tried, batch)
    if watch.outside:
        msg = (
            f"per_example reaches the parameter {watch.outside!r} of the model that was given to "
            "Objective, not of the "
            "copy that is moved: through a wrapped forward, a closure or a lambda. Use the first "
            "argument throughout."
        )
        raise InputError(msg)
    one, again = found
    if one_pass.policies.dropout != "resample" and not torch.allclose(
        one, again, rtol=1e-5, equal_nan=True
    ):
        msg = (
            "the loss at one point is random, or depends on what was computed before: two passes "
            "over one batch gave "
            f"means {float(one.mean()):.6g} and {float(again.mean()):.6g}. If it is dropout that "
            "ignores "
            "model.training, choose dropout='fixed' to use the same draws at every point, or "
            "'resample'; if the model "
            "keeps state in its attributes, reset it in forward."
        )
        raise InputError(msg)
    if (
        not watch.used and not one_pass.policies.stateful
    ):  # a first batch may do no more than start a state
        msg = (
            "per_example never used the model that it was given, so every curve would be flat; it "
            "may use another "
            "model from outside. Use its first argument."
        )
        raise InputError(msg)


def _same(one: Any, other: Any) -> bool:
    """Whether two batches hold the same numbers."""

    def tensors(batch: Any) -> Iterator[Tensor]:
        return (leaf for leaf in leaves(batch) if isinstance(leaf, Tensor))

    pairs = list(zip(tensors(one), tensors(other), strict=False))
    return all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs
    ) and len(list(tensors(one))) == len(list(tensors(other)))


class _UseOf(TorchFunctionMode):
    """Notes whether anything in a module runs or is given to a torch function; and anything of the caller's own."""

    def __init__(self, module: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.used = False
        self.outside = ""
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
                self.outside = self.outside or self._caller.get(
                    tensor.untyped_storage().data_ptr(), ""
                )
        return func(*args, **(kwargs or {}))
