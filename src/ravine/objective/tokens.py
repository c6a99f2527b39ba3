"""Tokens: the loss and the error of each, and one long text cut into contexts."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.errors import InputError

#: a target that is none, as in cross_entropy and in Hugging Face's labels
IGNORED: Final = -100
_CHUNK: Final = 1 << 24  # numbers of logits at a time: their softmax is the only copy that is made


def token_losses(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and 0-1 error of each token.

    Args:
        logits: (texts, positions, vocabulary).
        targets: (texts, positions) ids; −100 where there is none.

    Returns:
        ``loss`` and ``error``, (texts, positions) each: NaN where there is no target, and infinite
        where the loss is computed and is no number.
    """
    scores, wanted = logits.flatten(0, 1), targets.flatten()
    real = wanted != IGNORED
    places = real.nonzero().flatten()
    few = len(places) < len(real) / 2  # a copy of those is worth its while
    if few:
        scores, wanted = scores[places], wanted[places]
    at_once = max(_CHUNK // max(scores.shape[-1], 1), 1)
    losses, errors = [], []
    for part, ids in zip(scores.split(at_once), wanted.split(at_once), strict=True):
        wide = part.to(torch.promote_types(part.dtype, torch.float32))
        loss = nn.functional.cross_entropy(wide, ids, reduction="none", ignore_index=IGNORED)
        losses.append(torch.where(loss.isnan(), torch.inf, loss))
        likeliest = part.max(-1).indices  # on a CPU faster than argmax
        errors.append((likeliest != ids).to(loss.dtype))
    found = {"loss": torch.cat(losses), "error": torch.cat(errors)}
    return {
        name: _with_holes(values, real, places if few else None).view(targets.shape)
        for name, values in found.items()
    }


def _with_holes(values: Tensor, real: Tensor, places: Tensor | None) -> Tensor:
    if places is None:
        return torch.where(real, values, torch.nan)
    return values.new_full((len(real),), torch.nan).index_copy(0, places, values)


def contexts(tokens: Any, length: int) -> tuple[Tensor, Tensor]:
    """One long text cut into contexts, in which each token but the first is predicted once.

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
            f"{max(length, 1) + 1} to fill: give a longer text or a shorter context"
        )
        raise InputError(msg)
    count = -(-(len(ids) - 1) // length)
    inputs = torch.zeros(count * length, dtype=torch.long)
    targets = torch.full((count * length,), IGNORED)
    inputs[: len(ids) - 1], targets[: len(ids) - 1] = ids[:-1], ids[1:]
    return inputs.view(count, length), targets.view(count, length)
