"""Per-example functions: from a torch loss, and with state carried along a stream."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from ravine.errors import InputError

PerExample = Callable[..., Any]


def stateful(function: Callable[[nn.Module, Any, Any], tuple[Any, Any]]) -> PerExample:
    """Mark a per-example function that carries state from batch to batch, as a recurrent model's does.

    Args:
        function: ``f(model, batch, state) -> (losses, state)``. ``state`` is None at the start of every pass;
            every point of the slice carries its own, never another's.

    Returns:
        The same function, marked.

    Example:
        >>> import torch
        >>> from ravine import Objective
        >>> @stateful
        ... def running_sum(model, batch, state):
        ...     total = batch[0].sum() + (0 if state is None else state)
        ...     return (model.weight * total).reshape(1), total
        >>> J = Objective(nn.Linear(1, 1, bias=False), running_sum, (torch.ones(3, 1),), batch_size=1)
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

    @property
    def units(self) -> dict[str, str]:
        return {"loss": _UNITS.get(self.name, ""), "error": "1"}

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(b, Tensor) for b in batch)):
            what = f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, list | tuple) else "")
            msg = (
                f"supervised() reads batches (inputs, targets) of two tensors; this batch is {what}. "
                "Write per_example(model, batch) for it."
            )
            raise InputError(msg)
        inputs, targets = batch
        outputs = model(inputs)
        if not isinstance(outputs, Tensor):
            msg = f"supervised() needs a model that returns a tensor; got {type(outputs).__name__}. Write per_example."
            raise InputError(msg)
        losses = self.loss(outputs, targets)
        if losses.ndim == 0:
            return {"loss": losses}  # whoever reads it says what is wrong
        if len(losses) != len(targets) or losses.numel() > max(outputs.numel(), targets.numel()):
            msg = (
                f"the loss of outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} has the shape "
                f"{tuple(losses.shape)}: they broadcast against each other. Give both one shape."
            )
            raise InputError(msg)
        classes = not targets.is_floating_point() and outputs.ndim > 1 and outputs.shape[1] > 1
        if not (classes and targets.shape == outputs.shape[:1] + outputs.shape[2:]):
            return {"loss": losses.flatten(1).mean(1) if losses.ndim > 1 else losses}
        counted = slice(None) if self.ignore_index is None else targets != self.ignore_index
        wrong = (outputs.argmax(1) != targets).to(outputs.dtype)
        return {"loss": losses[counted], "error": wrong[counted]}


def supervised(loss: Callable[..., Tensor]) -> PerExample:
    """A per-example function from a torch loss, for batches ``(inputs, targets)``.

    The loss is taken with ``reduction="none"``. For class targets the 0-1 ``error`` is measured with it, from
    the same forward pass, and targets equal to ``ignore_index`` are left out of both. Targets of more than one
    dimension that are no classes (regression) count as one example per row, the mean over the rest.

    Args:
        loss: a function such as ``F.cross_entropy`` or ``functools.partial`` of one, a module such as
            ``nn.MSELoss()``, or your own ``loss(outputs, targets)`` that gives one value per example.

    Returns:
        ``per_example(model, batch)`` for ``Objective``.

    Raises:
        InputError: class weights or ``reduction="sum"`` are set: that is not a mean over examples.

    Example:
        >>> import torch
        >>> per_example = supervised(nn.functional.cross_entropy)
        >>> found = per_example(nn.Identity(), (torch.zeros(2, 4), torch.tensor([0, 1])))
        >>> found["loss"], found["error"]
        (tensor([1.3863, 1.3863]), tensor([0., 1.]))
    """
    settings: dict[str, Any]
    if isinstance(loss, nn.Module):
        settings = {name: getattr(loss, name, None) for name in ("weight", "ignore_index", "reduction")}
        name = type(loss).__name__
        if hasattr(loss, "reduction"):
            loss = copy.copy(loss)
            loss.reduction = "none"  # pyright: ignore[reportArgumentType]
    else:
        try:
            parameters = inspect.signature(loss).parameters
        except (TypeError, ValueError):
            parameters = {}
        known = ("weight", "ignore_index", "reduction")
        settings = {key: parameters[key].default for key in known if key in parameters}
        bare = loss.func if isinstance(loss, functools.partial) else loss
        name = getattr(bare, "__name__", type(bare).__name__)
        if "reduction" in parameters:
            loss = functools.partial(loss, reduction="none")
    if isinstance(settings.get("weight"), Tensor):
        msg = (
            "the loss has class weights, so its mean is not a mean over examples; write per_example and return the "
            "weighted losses if that is the objective"
        )
        raise InputError(msg)
    if settings.get("reduction") == "sum":
        msg = "the loss has reduction='sum'; ravine takes means over examples. Leave the reduction at its default."
        raise InputError(msg)
    ignore_index = settings.get("ignore_index")
    return _Supervised(loss, name, ignore_index if isinstance(ignore_index, int) else None)
