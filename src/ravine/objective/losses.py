"""Per-example functions: from a torch loss, and with state carried along a stream."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.errors import InputError

PerExample = Callable[..., Any]


def stateful(function: Callable[[nn.Module, Any, Any], tuple[Any, Any]]) -> PerExample:
    """Mark a per-example function that carries state from batch to batch, as recurrent ones do.

    Args:
        function: ``f(model, batch, state) -> (losses, state)``. ``state`` is None at the start of
            every pass; every point of the slice carries its own, never another's.

    Returns:
        The same function, marked.

    Examples:
        >>> import torch
        >>> from ravine import Objective
        >>> @stateful
        ... def running_sum(model, batch, state):
        ...     total = batch[0].sum() + (0 if state is None else state)
        ...     return (model.weight * total).reshape(1), total
        >>> model, data = nn.Linear(1, 1, bias=False), (torch.ones(3, 1),)
        >>> J = Objective(model, running_sum, data, batch_size=1)
        >>> J({"weight": torch.tensor([[2.0]])})  # the mean of 2, 4, 6
        {'data': 4.0}
    """

    @functools.wraps(function)
    def marked(model: nn.Module, batch: Any, state: Any) -> tuple[Any, Any]:
        return function(model, batch, state)

    vars(marked)["stateful"] = True  # wrapped, because a bound method takes no attributes
    return marked


_UNITS: Final = {
    "cross_entropy": "nats",
    "nll_loss": "nats",
    "binary_cross_entropy": "nats",
    "binary_cross_entropy_with_logits": "nats",
    "kl_div": "nats",
    "CrossEntropyLoss": "nats",
    "NLLLoss": "nats",
    "BCELoss": "nats",
    "BCEWithLogitsLoss": "nats",
}


@dataclass(frozen=True)
class _Supervised:
    loss: Callable[[Tensor, Tensor], Tensor]
    name: str
    ignore_index: int | None
    sums: bool = False

    @property
    def units(self) -> dict[str, str]:
        return {"loss": _UNITS.get(self.name, ""), "error": "1"}

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, targets = _pair(batch)
        outputs = model(inputs)
        if not isinstance(outputs, Tensor):
            msg = (
                f"supervised() needs a model that returns a tensor; got {type(outputs).__name__}. "
                "Write per_example."
            )
            raise InputError(msg)
        losses = self._losses(outputs, targets)
        if losses.ndim == 0:
            return {"loss": losses}  # whoever reads it says what is wrong
        classes = not targets.is_floating_point() and outputs.ndim > 1 and outputs.shape[1] > 1
        if not (classes and targets.shape == outputs.shape[:1] + outputs.shape[2:]):
            rows = losses.flatten(1) if losses.ndim > 1 else losses[:, None]
            return {"loss": rows.sum(1) if self.sums else rows.mean(1)}
        wrong = (outputs.argmax(1) != targets).to(outputs.dtype)
        counted = None if self.ignore_index is None else targets != self.ignore_index
        if counted is None or bool(counted.all()):
            return {"loss": losses, "error": wrong}
        return {"loss": _where(counted, losses), "error": _where(counted, wrong)}

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The unreduced loss, of the shape that it ought to have."""
        loss = self.loss
        if isinstance(loss, nn.Module) and any(True for _ in loss.buffers()):
            loss = copy.deepcopy(loss).to(outputs)  # its weights, where the outputs are
        try:
            losses = loss(outputs, targets)
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError, ValueError) as problem:
            raise _unfit(self.name, outputs, targets, problem) from problem
        if not isinstance(losses, Tensor):
            msg = f"the loss {self.name} must return a tensor; got {type(losses).__name__}"
            raise InputError(msg)
        if losses.ndim and (
            len(losses) != len(targets) or losses.numel() > max(outputs.numel(), targets.numel())
        ):
            msg = (
                f"the loss of outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} "
                "has the shape "
                f"{tuple(losses.shape)}: they broadcast against each other. Give both one shape."
            )
            raise InputError(msg)
        return losses


def _unfit(name: str, outputs: Tensor, targets: Tensor, problem: Exception) -> InputError:
    """The loss itself fails: on targets of another kind, shape or range, as a rule."""
    held = [f"{tuple(part.shape)} of {part.dtype}" for part in (outputs, targets)]
    said = str(problem).strip().partition("\n")[0].rstrip(".")
    if targets.numel() and not (targets.is_floating_point() or targets.is_complex()):
        held[1] += f" from {int(targets.min())} to {int(targets.max())}"
    return InputError(
        f"the loss {name} does not take outputs {held[0]} with targets {held[1]}: {said}. Give "
        "targets of its kind, or write per_example(model, batch)."
    )


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    is_pair = isinstance(batch, list | tuple) and len(batch) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in batch):
        what = f"a {type(batch).__name__}"
        if isinstance(batch, list | tuple):
            what += f" of {len(batch)}"
        msg = (
            f"supervised() reads batches (inputs, targets) of two tensors; this batch is {what}. "
            "Write per_example(model, batch) for it."
        )
        raise InputError(msg)
    inputs, targets = batch
    return inputs, targets


def _where(counted: Tensor, values: Tensor) -> Tensor:
    """(examples, positions), NaN where a target is left out; inf where the value is no number."""
    kept = torch.where(values.isnan(), torch.inf, values)
    rows = torch.where(counted, kept, torch.nan)
    return rows if rows.ndim > 1 else rows[:, None]


def supervised(loss: Callable[..., Tensor]) -> PerExample:
    """A per-example function from a torch loss, for batches ``(inputs, targets)``.

    The loss is taken with ``reduction="none"``. For class targets the 0-1 ``error`` is measured
    with it, from the same forward pass, and targets equal to ``ignore_index`` are left out of both.
    ``KLDivLoss(reduction="batchmean")`` is summed over classes, as its name says. Targets of more
    than one dimension that are no classes (regression) count as one example per row, the mean over
    the rest.

    Args:
        loss: a function such as ``F.cross_entropy`` or ``functools.partial`` of one, a module such
            as ``nn.MSELoss()``, or your own ``loss(outputs, targets)`` that gives one value per
            example.

    Returns:
        ``per_example(model, batch)`` for ``Objective``.

    Raises:
        InputError: class weights or ``reduction="sum"`` are set: that is not a mean over examples;
            the loss takes more than outputs and targets, or has parameters of its own.

    Examples:
        >>> import torch
        >>> per_example = supervised(nn.functional.cross_entropy)
        >>> found = per_example(nn.Identity(), (torch.zeros(2, 4), torch.tensor([0, 1])))
        >>> found["loss"], found["error"]
        (tensor([1.3863, 1.3863]), tensor([0., 1.]))
    """
    settings, name = _settings(loss)
    reduction = settings.get("reduction")
    _require_mean(loss, name, settings)
    if isinstance(loss, nn.Module):
        if reduction is not None:
            loss = copy.deepcopy(loss)
            loss.reduction = "none"  # pyright: ignore[reportArgumentType]
    elif "reduction" in settings:
        loss = functools.partial(loss, reduction="none")
    ignore_index = settings.get("ignore_index")
    return _Supervised(
        loss,
        name,
        ignore_index if isinstance(ignore_index, int) else None,
        sums=reduction == "batchmean",
    )


_KNOWN: Final = ("weight", "ignore_index", "reduction", "size_average", "reduce")
#: losses that divide by the sum of the weights of a batch's targets
_BY_WEIGHT: Final = frozenset(["CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"])


def _settings(loss: Callable[..., Any]) -> tuple[dict[str, Any], str]:
    """What a loss is set to, as far as it matters here, and its name."""
    if isinstance(loss, nn.Module):
        held = {name: getattr(loss, name) for name in _KNOWN if hasattr(loss, name)}
        return held, type(loss).__name__
    bare = loss.func if isinstance(loss, functools.partial) else loss
    parameters = _parameters(loss)
    held = {key: parameters[key].default for key in _KNOWN if key in parameters}
    return held, getattr(bare, "__name__", type(bare).__name__)


def _parameters(loss: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return {}


def _require_mean(loss: Callable[..., Any], name: str, settings: Mapping[str, Any]) -> None:
    """The loss of a data set has to be a mean over its examples."""
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        msg = (
            f"the loss {name} has parameters of its own, which would stay where they are along a "
            "line: make it a part of the model, and write per_example"
        )
        raise InputError(msg)
    given = _parameters(loss.forward if isinstance(loss, nn.Module) else loss)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        key
        for key, p in given.items()
        if p.kind in positional and p.default is inspect.Parameter.empty
    ]
    if len(needed) > 2:
        msg = (
            f"the loss {name} takes {', '.join(needed)}; supervised() gives outputs and targets. "
            "Write per_example(model, batch) for it, with reduction='none'."
        )
        raise InputError(msg)
    weight, reduction = settings.get("weight"), settings.get("reduction")
    if isinstance(weight, Tensor) and (name in _BY_WEIGHT or weight.ndim > 1):
        msg = (
            f"the loss {name} has class weights, and its mean over a batch is divided by theirs, "
            "so it is not a mean over examples; write per_example and return the weighted losses "
            "if that is the objective"
            if name in _BY_WEIGHT
            else f"the loss {name} has weights of shape {tuple(weight.shape)}, which may be of the "
            "examples of one batch; write per_example"
        )
        raise InputError(msg)
    sums = reduction == "sum" or settings.get("size_average") is False
    if sums or settings.get("reduce") is False:
        msg = (
            "the loss has reduction='sum'; ravine takes means over examples. Leave the reduction "
            "at its default."
        )
        raise InputError(msg)
    known = ("mean", "none", "batchmean") if name in ("KLDivLoss", "kl_div") else ("mean", "none")
    if "reduction" in settings and reduction not in (*known, None, inspect.Parameter.empty):
        msg = (
            f"the loss {name} has reduction={reduction!r}; ravine knows {', '.join(known)}. Write "
            "per_example(model, batch) that gives one loss for each example."
        )
        raise InputError(msg)
