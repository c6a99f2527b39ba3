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
    """Mark a per-example function that carries state from batch to batch, as a recurrent model's does.

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
        if not (
            isinstance(batch, list | tuple)
            and len(batch) == 2
            and all(isinstance(b, Tensor) for b in batch)
        ):
            what = f"a {type(batch).__name__}" + (
                f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
            )
            msg = (
                f"supervised() reads batches (inputs, targets) of two tensors; this batch is "
                f"{what}. "
                "Write per_example(model, batch) for it."
            )
            raise InputError(msg)
        inputs, targets = batch
        outputs = model(inputs)
        if not isinstance(outputs, Tensor):
            msg = (
                f"supervised() needs a model that returns a tensor; got {type(outputs).__name__}. "
                "Write per_example."
            )
            raise InputError(msg)
        losses = self.loss(outputs, targets)
        if losses.ndim == 0:
            return {"loss": losses}  # whoever reads it says what is wrong
        if len(losses) != len(targets) or losses.numel() > max(outputs.numel(), targets.numel()):
            msg = (
                f"the loss of outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} "
                "has the shape "
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

    The loss is taken with ``reduction="none"``. For class targets the 0-1 ``error`` is measured
    with it, from the same forward pass, and targets equal to ``ignore_index`` are left out of both.
    Targets of more than one dimension that are no classes (regression) count as one example per
    row, the mean over the rest.

    Args:
        loss: a function such as ``F.cross_entropy`` or ``functools.partial`` of one, a module such
            as ``nn.MSELoss()``, or your own ``loss(outputs, targets)`` that gives one value per
            example.

    Returns:
        ``per_example(model, batch)`` for ``Objective``.

    Raises:
        InputError: class weights or ``reduction="sum"`` are set: that is not a mean over examples.

    Examples:
        >>> import torch
        >>> per_example = supervised(nn.functional.cross_entropy)
        >>> found = per_example(nn.Identity(), (torch.zeros(2, 4), torch.tensor([0, 1])))
        >>> found["loss"], found["error"]
        (tensor([1.3863, 1.3863]), tensor([0., 1.]))
    """
    settings: dict[str, Any]
    if isinstance(loss, nn.Module):
        settings = {
            name: getattr(loss, name, None) for name in ("weight", "ignore_index", "reduction")
        }
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
            "the loss has class weights, so its mean is not a mean over examples; write "
            "per_example and return the "
            "weighted losses if that is the objective"
        )
        raise InputError(msg)
    if settings.get("reduction") == "sum":
        msg = (
            "the loss has reduction='sum'; ravine takes means over examples. Leave the reduction "
            "at its default."
        )
        raise InputError(msg)
    ignore_index = settings.get("ignore_index")
    return _Supervised(loss, name, ignore_index if isinstance(ignore_index, int) else None)


_IGNORED: Final = -100  # a target that is none, as in cross_entropy and in Hugging Face's labels


@dataclass(frozen=True)
class _CausalLM:
    pad: int | None
    name: str = "causal_lm"

    @property
    def units(self) -> dict[str, str]:
        return {"loss": "nats per token", "error": "1"}

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, targets, mask = self._read(batch)
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        known = getattr(embeddings, "num_embeddings", None)
        if known is not None and inputs.numel() and int(inputs.max()) >= known:
            msg = (
                f"the text has the token {int(inputs.max())}, and the model knows {known} tokens, "
                "from 0: was it "
                "tokenised for another vocabulary?"
            )
            raise InputError(msg)
        if hasattr(model, "config") and known is not None:  # Hugging Face's
            found = model(input_ids=inputs, attention_mask=mask, use_cache=False)
        else:
            found = model(inputs)
        logits = getattr(found, "logits", found)
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != inputs.shape:
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            wanted = f"({inputs.shape[0]}, {inputs.shape[1]}, …)"
            msg = (
                f"causal_lm() needs logits of shape (texts, tokens, vocabulary), here {wanted}; "
                f"got {what}"
            )
            raise InputError(msg)
        real = (targets != _IGNORED).flatten()
        scores, wanted, kept = logits.flatten(0, 1), targets.flatten(), real
        if int(real.sum()) < len(real) / 2:  # few are asked for: a copy of those is worth its while
            scores, wanted, kept = scores[real], wanted[real], slice(None)
        losses = nn.functional.cross_entropy(
            scores.float(), wanted, reduction="none", ignore_index=_IGNORED
        )
        likeliest = scores.max(-1).indices  # on a CPU faster than argmax
        return {"loss": losses[kept], "error": (likeliest != wanted).to(losses.dtype)[kept]}

    def _read(self, batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, the token after each (or none), and the mask of inputs that are no padding."""
        if isinstance(batch, Mapping) and isinstance(batch.get("input_ids"), Tensor):
            ids, mask = batch["input_ids"], batch.get("attention_mask")
            labels: Any = batch.get("labels", ids)
        elif isinstance(batch, list | tuple) and len(batch) == 2:
            return batch[0], batch[1], None
        else:
            ids = batch[0] if isinstance(batch, list | tuple) and len(batch) == 1 else batch
            mask, labels = None, ids
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            what = (
                f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            )
            msg = (
                "causal_lm() reads a dict with 'input_ids' (and 'attention_mask', 'labels'), token "
                "ids (texts, tokens) "
                f"alone, or (inputs, targets) as contexts() makes them; got {what}"
            )
            raise InputError(msg)
        if mask is None and self.pad is not None:
            mask = (ids != self.pad).to(ids.dtype)
        targets = torch.full_like(ids, _IGNORED)
        targets[:, :-1] = labels[:, 1:]
        if mask is not None:  # neither a token of padding nor one that follows padding is predicted
            padded = ~mask.bool()
            targets[padded] = _IGNORED
            targets[:, :-1][padded[:, 1:]] = _IGNORED
        return ids, targets, mask


def causal_lm(*, pad: int | None = None) -> PerExample:
    """The per-example function of a causal language model: nats per token, and the error of the likeliest next token.

    For Hugging Face's models, and for any module that gives logits (texts, tokens, vocabulary) for
    token ids. The mean is over tokens, so long texts weigh more than short ones; padding is no
    token. exp(loss) is the perplexity, which the verdict names.

    Args:
        pad: the id of padding, for batches of bare ids that have any. Dicts say it by
            ``attention_mask``, or by −100 in ``labels``.

    Returns:
        ``per_example(model, batch)`` for ``Objective``. A batch is a dict with ``input_ids``, as
        tokenizers and collators give it; token ids (texts, tokens); or ``(inputs, targets)`` as
        ``contexts`` cuts them.

    Examples:
        >>> class Uniform(nn.Module):
        ...     def forward(self, ids):
        ...         return torch.zeros(*ids.shape, 8)
        >>> causal_lm(pad=0)(Uniform(), torch.tensor([[3, 1, 2], [5, 1, 0]]))["loss"]  # ln 8 for each of three tokens
        tensor([2.0794, 2.0794, 2.0794])
    """
    return _CausalLM(pad)


def contexts(tokens: Any, length: int) -> tuple[Tensor, Tensor]:
    """One long text cut into contexts, in which every token but the first is predicted exactly once.

    Args:
        tokens: (tokens,) their ids: a tensor, an array or a list.
        length: tokens in a context, at most what the model can attend to.

    Returns:
        Inputs and targets, (contexts, length) each: a source for ``Objective``. Targets are the
        tokens that follow; behind the end of the text they are −100, which ``causal_lm`` leaves
        out.

    Raises:
        InputError: no sequence of whole numbers, or one too short to fill a context.

    Examples:
        >>> contexts([7, 8, 9, 5], 2)
        (tensor([[7, 8],
                [9, 0]]), tensor([[   8,    9],
                [   5, -100]]))
    """
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError) as problem:
        msg = f"tokens must be ids, whole numbers; got {type(tokens).__name__}"
        raise InputError(msg) from problem
    if ids.ndim != 1 or ids.is_floating_point() or ids.dtype == torch.bool:
        msg = (
            f"tokens must be one sequence of ids, whole numbers; got {ids.dtype} of shape "
            f"{tuple(ids.shape)}"
        )
        raise InputError(msg)
    if length < 1 or len(ids) <= length:
        msg = (
            f"the text has {len(ids)} tokens and a context {length}, which takes "
            f"{max(length, 1) + 1} to fill: give a "
            "longer text or a shorter context"
        )
        raise InputError(msg)
    count = -(-(len(ids) - 1) // length)
    inputs = torch.zeros(count * length, dtype=torch.long)
    targets = torch.full((count * length,), _IGNORED)
    inputs[: len(ids) - 1], targets[: len(ids) - 1] = ids[:-1], ids[1:]
    return inputs.view(count, length), targets.view(count, length)
