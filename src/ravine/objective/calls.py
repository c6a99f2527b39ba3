"""Calls: what a batch of a language model holds, and what ``forward`` is given of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

from ravine.errors import InputError

#: what a batch may hold that only some attention kernels read, by **kwargs
_KERNELS: Final = frozenset(
    ["cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"]
)


def entries_of(batch: Any, name: str) -> dict[str, Any]:
    """The batch as a dict with ``input_ids``.

    Args:
        batch: a dict, ids, or a tuple of ids alone.
        name: of the function that reads it.

    Returns:
        A new dict.

    Raises:
        InputError: it holds no ids.
    """
    alone = batch[0] if _is_single(batch) else batch
    given = dict(batch) if isinstance(batch, Mapping) else {"input_ids": alone}
    ids = given.get("input_ids")
    if ids is None or not isinstance(ids, Tensor):
        what = sorted(map(str, given)) if isinstance(batch, Mapping) else type(batch).__name__
        msg = (
            f"{name}() reads a dict with 'input_ids' (and 'attention_mask', 'labels'), token ids "
            f"(texts, tokens) alone, or (inputs, targets) as contexts() makes them; got {what}"
        )
        raise InputError(msg)
    require_ids(ids, name)
    return given


def _is_single(batch: Any) -> bool:
    return isinstance(batch, list | tuple) and len(batch) == 1


def require_ids(ids: Any, name: str) -> None:
    """Refuse what are no token ids (texts, tokens).

    Raises:
        InputError: another type, shape or dtype.
    """
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        what = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        msg = (
            f"{name}() reads a dict with 'input_ids' (and 'attention_mask', 'labels'), token ids "
            f"(texts, tokens) alone, or (inputs, targets) as contexts() makes them; got {what}"
        )
        raise InputError(msg)


def labels_of(given: dict[str, Any], name: str, what: str) -> Tensor:
    """Take the labels out of a batch.

    Args:
        given: the batch, which loses them.
        name: of the function that needs them.
        what: they have to be.

    Returns:
        (texts, tokens) ids.

    Raises:
        InputError: there are none, or of another shape.
    """
    labels = given.pop("labels", None)
    if not isinstance(labels, Tensor) or labels.ndim != 2:
        found = tuple(labels.shape) if isinstance(labels, Tensor) else sorted(map(str, given))
        msg = f"{name}() needs 'labels' (texts, tokens) in the batch, {what}; got {found}"
        raise InputError(msg)
    return labels


def logits_of(
    model: nn.Module, given: Mapping[str, Any], name: str, like: Tensor | None = None
) -> Tensor:
    """The model's answer to what the batch holds, as far as its ``forward`` accepts it.

    Args:
        model: any that gives logits, as a tensor or an output's ``logits``.
        given: the batch.
        name: of the function that asks.
        like: (texts, tokens) what there are logits for, if it is not ``input_ids``.

    Returns:
        (texts, tokens, vocabulary).

    Raises:
        InputError: a token that the model does not know, or an answer of another shape.
    """
    ids = given.get("input_ids")
    _require_vocabulary(model, ids)
    named, any_name = accepted(model)
    hands_on = any_name and "input_ids" not in named  # a wrapper, whatever it is given
    if hands_on:
        wanted = given
    elif any_name:
        wanted = named | _KERNELS
    else:
        wanted = named
    chosen = {key: value for key, value in given.items() if key in wanted}
    positional = []
    if "input_ids" not in named and ids is not None:
        chosen.pop("input_ids", None)
        positional = [ids]
    if "use_cache" in named or (any_name and hasattr(model, "config")):
        chosen.setdefault("use_cache", False)
    found = model(*positional, **chosen)
    logits = getattr(found, "logits", found)
    asked = ids if like is None else like
    shape = () if asked is None else tuple(asked.shape)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != shape:
        what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = f"({', '.join(map(str, shape))}, …)"
        msg = (
            f"{name}() needs logits of shape (texts, tokens, vocabulary), here {wanted}; got {what}"
        )
        raise InputError(msg)
    return logits


def _require_vocabulary(model: nn.Module, ids: Any) -> None:
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    known = getattr(embeddings, "num_embeddings", None)
    if known is None or not isinstance(ids, Tensor) or not ids.numel():
        return
    largest = int(ids.max())
    if largest >= known:
        msg = (
            f"the text has the token {largest}, and the model knows {known} tokens, from 0: was "
            "it tokenised for another vocabulary?"
        )
        raise InputError(msg)


def accepted(model: nn.Module) -> tuple[frozenset[str], bool]:
    """The names that a model's ``forward`` has, and whether it takes any other."""
    return _signature(getattr(model.forward, "__func__", model.forward))


@functools.lru_cache(maxsize=256)
def _signature(forward: Any) -> tuple[frozenset[str], bool]:
    try:
        parameters = inspect.signature(forward).parameters
    except (TypeError, ValueError):  # a built-in function does not tell its arguments
        return frozenset(), False
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    fixed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(name for name, p in parameters.items() if p.kind in fixed), any_name
