"""Language models: what a batch gives to the model, and nats per token, one row for each text.

Three families: causal models predict the next token, masked ones the tokens that were hidden, and
encoder–decoders a second text. Each gives (texts, positions), NaN where no token is asked for.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.calls import accepted, entries_of, labels_of, logits_of, require_ids
from ravine.objective.losses import PerExample
from ravine.objective.tokens import IGNORED, token_losses

_CLOSE: Final = 1e-3  # of the largest logit
_UNITS: Final = {"loss": "nats per token", "error": "1"}


@dataclass(frozen=True)
class _CausalLM:
    pad: int | None
    name: str = "causal_lm"
    gives_rows: bool = True
    #: models that were seen to be causal, and to read positions and masks
    trusted: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet, compare=False)

    @property
    def units(self) -> dict[str, str]:
        return dict(_UNITS)

    def __reduce__(self) -> tuple[Any, ...]:
        return _CausalLM, (self.pad,)

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            msg = (
                f"causal_lm() was given the encoder–decoder {type(model).__name__}, whose targets "
                "are a second text: use seq2seq_lm()"
            )
            raise InputError(msg)
        if isinstance(batch, list | tuple) and len(batch) == 2:
            inputs, targets = batch
            require_ids(inputs, "causal_lm")
            return token_losses(logits_of(model, {"input_ids": inputs}, "causal_lm"), targets)
        given = entries_of(batch, "causal_lm")
        ids = given["input_ids"]
        mask = given.get("attention_mask")
        if mask is None and self.pad is not None:
            mask = given["attention_mask"] = (ids != self.pad).to(ids.dtype)
        targets = _next_tokens(given, self.pad)
        given.pop("labels", None)
        _place(given, model)
        logits = logits_of(model, given, "causal_lm")
        if model not in self.trusted:
            _require_causal(model, given, logits)
            _require_texts_apart(model, given, logits)
            self.trusted.add(model)
        return token_losses(logits, targets)


@dataclass(frozen=True)
class _MaskedLM:
    name: str = "masked_lm"
    gives_rows: bool = True

    @property
    def units(self) -> dict[str, str]:
        return dict(_UNITS)

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if isinstance(batch, list | tuple) and len(batch) == 2:
            inputs, labels = batch
            require_ids(inputs, self.name)
            return token_losses(logits_of(model, {"input_ids": inputs}, self.name), labels)
        given = entries_of(batch, self.name)
        labels = labels_of(given, self.name, "−100 at every token that was not hidden")
        return token_losses(logits_of(model, given, self.name), labels)


@dataclass(frozen=True)
class _Seq2SeqLM:
    name: str = "seq2seq_lm"
    gives_rows: bool = True

    @property
    def units(self) -> dict[str, str]:
        return dict(_UNITS)

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if not isinstance(batch, Mapping):
            msg = (
                "seq2seq_lm() reads a dict with 'labels' and what the encoder takes, such as "
                f"'input_ids'; got {type(batch).__name__}"
            )
            raise InputError(msg)
        given = dict(batch)
        labels = labels_of(given, self.name, "the ids of the second text, −100 at its padding")
        if "decoder_input_ids" not in given and "decoder_inputs_embeds" not in given:
            given |= _shifted(model, labels)
        return token_losses(logits_of(model, given, self.name, like=labels), labels)


def _shifted(model: nn.Module, labels: Tensor) -> dict[str, Tensor]:
    """What makes the decoder read the labels one place later: ids, or the labels themselves."""
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is not None:
        return {"decoder_input_ids": prepare(labels=labels)}
    if hasattr(model, "config") and {"labels", "decoder_input_ids"} <= accepted(model)[0]:
        return {"labels": labels}  # Whisper, NLLB and others shift them in their own forward
    msg = (
        f"{type(model).__name__} does not say how its decoder begins: give 'decoder_input_ids' in "
        "the batch"
    )
    raise InputError(msg)


def causal_lm(*, pad: int | None = None) -> PerExample:
    """The per-example function of a causal language model: nats per token, and its error.

    The error is of the likeliest next token.

    For Hugging Face's models, and for any module that gives logits (texts, tokens, vocabulary) for
    token ids. The mean is over tokens, so long texts weigh more than short ones; padding is no
    token. exp(loss) is the perplexity, which the verdict names. Standard errors are over texts: the
    tokens of one are not independent (``Objective(clusters=…)`` says otherwise).

    The model is given whatever the batch holds that its ``forward`` accepts: masks of any rank,
    token types, images, the positions of packed texts. Where texts are padded on the left and no
    positions are given, they are made from the mask. That a model is causal, and keeps packed texts
    apart, is looked at once.

    Args:
        pad: the id of padding, for batches of bare ids that have any. Dicts say it by
            ``attention_mask``, or by −100 in ``labels``.

    Returns:
        ``per_example(model, batch)`` for ``Objective``. A batch is a dict with ``input_ids``, as
        tokenizers and collators give it; token ids (texts, tokens); or ``(inputs, targets)`` as
        ``contexts`` cuts them. It gives (texts, tokens), NaN where no token is predicted.

    Examples:
        >>> class Uniform(nn.Module):
        ...     def forward(self, ids):
        ...         return torch.zeros(*ids.shape, 8)
        >>> texts = torch.tensor([[3, 1, 2], [5, 1, 0]])
        >>> causal_lm(pad=0)(Uniform(), texts)["loss"]  # ln 8 for each of three tokens
        tensor([[2.0794, 2.0794,    nan],
                [2.0794,    nan,    nan]])
    """
    return _CausalLM(pad)


def masked_lm() -> PerExample:
    """The per-example function of a masked language model (BERT): nats per hidden token, and error.

    Returns:
        ``per_example(model, batch)`` for ``Objective``. A batch is a dict with
        ``input_ids`` in which tokens are hidden, and ``labels`` that hold them, −100
        elsewhere; or a pair of the two. Which tokens are hidden has to be the same
        at every pass: hide them once, before the measurement.

    Examples:
        >>> class Uniform(nn.Module):
        ...     def forward(self, ids):
        ...         return torch.zeros(*ids.shape, 8)
        >>> ids, labels = torch.tensor([[3, 0, 2]]), torch.tensor([[-100, 1, -100]])
        >>> masked_lm()(Uniform(), (ids, labels))["loss"]
        tensor([[   nan, 2.0794,    nan]])
    """
    return _MaskedLM()


def seq2seq_lm() -> PerExample:
    """The per-example function of an encoder–decoder (T5, Whisper): nats per token, and error.

    Returns:
        ``per_example(model, batch)`` for ``Objective``. A batch is a dict with ``labels``, the ids
        of the second text (−100 at padding), and what the model's ``forward`` accepts:
        ``input_ids`` and ``attention_mask``, or audio or images. ``decoder_input_ids`` are the
        model's own shift of the labels, unless they are given.

    Examples:
        >>> class Uniform(nn.Module):
        ...     def forward(self, input_ids, decoder_input_ids):
        ...         return torch.zeros(*decoder_input_ids.shape, 8)
        >>> ids, labels = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 2]])
        >>> batch = {"input_ids": ids, "decoder_input_ids": labels, "labels": labels}
        >>> seq2seq_lm()(Uniform(), batch)["loss"]
        tensor([[2.0794, 2.0794]])
    """
    return _Seq2SeqLM()


# --- causal models: targets and positions ---------------------------------------------------------


def _next_tokens(given: Mapping[str, Tensor], pad: int | None) -> Tensor:
    """The token after each, or none.

    None is padding, what follows padding, and the first of another text.
    """
    ids, mask = given["input_ids"], given.get("attention_mask")
    labels = given.get("labels", ids)
    if labels.shape != ids.shape:
        msg = (
            f"causal_lm() needs labels of the shape of input_ids, {tuple(ids.shape)}; got "
            f"{tuple(labels.shape)}. Of an encoder–decoder they are another text: seq2seq_lm()"
        )
        raise InputError(msg)
    if "labels" in given:
        _require_in_place(ids, labels)
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = labels[:, 1:]
    positions = given.get("position_ids")
    if "labels" not in given and positions is not None and positions.shape == ids.shape:
        begins = positions[:, 1:] <= positions[:, :-1]
        targets[:, :-1][begins] = IGNORED
    if mask is None:
        return targets
    if mask.shape != ids.shape:
        if "labels" not in given and pad is None:
            msg = (
                f"an attention_mask of shape {tuple(mask.shape)} does not say which tokens of "
                f"input_ids {tuple(ids.shape)} are padding: add 'labels' to the batch, −100 where "
                "no token is to be predicted"
            )
            raise InputError(msg)
        return targets if pad is None else _unpadded(targets, ids == pad)
    return _unpadded(targets, mask == 0)


def _require_in_place(ids: Tensor, labels: Tensor) -> None:
    """Refuse labels that are shifted already: the token after the next would be predicted."""
    told = labels[:, :-1] != IGNORED
    own = labels[:, :-1] == ids[:, :-1]
    shifted = labels[:, :-1] == ids[:, 1:]
    if bool((own | ~told).all()) or not bool((shifted | ~told).all()):
        return
    msg = (
        "the labels are input_ids shifted by one place already; causal_lm() shifts labels itself, "
        "as transformers does. Give labels in the places of their own tokens, −100 where none is "
        "to be predicted, or the pair (inputs, targets) in place of a dict."
    )
    raise InputError(msg)


def _unpadded(targets: Tensor, padded: Tensor) -> Tensor:
    targets[padded] = IGNORED
    targets[:, :-1][padded[:, 1:]] = IGNORED
    return targets


def _place(given: dict[str, Any], model: nn.Module) -> None:
    """Positions from the mask, where text begins behind padding and the model would count that."""
    mask, ids = given.get("attention_mask"), given["input_ids"]
    if not isinstance(mask, Tensor) or mask.shape != ids.shape or "position_ids" in given:
        return
    behind = bool((mask[:, :1] == 0).any())
    if behind and "position_ids" in accepted(model)[0]:
        counted = (mask != 0).long().cumsum(1) - 1
        given["position_ids"] = counted.masked_fill(mask == 0, 1)


# --- causal models: what is looked at once --------------------------------------------------------


def _row(given: Mapping[str, Any], row: int, places: slice | Tensor) -> dict[str, Any]:
    """One text of a batch, or a part of it, by the entries that have a value for each token."""
    shape = given["input_ids"].shape
    return {
        key: value[row : row + 1, places]
        for key, value in given.items()
        if isinstance(value, Tensor) and value.shape == shape
    }


def _require_causal(model: nn.Module, given: Mapping[str, Any], logits: Tensor) -> None:
    """Whether the scores before the last token know it."""
    ids = given["input_ids"]
    if ids.shape[1] < 2 or any(_is_of_no_token(value, ids) for value in given.values()):
        return
    other = dict(given)
    last = ids[:, -1:]
    changed = torch.where(last > 0, last - 1, last + 1)
    other["input_ids"] = torch.cat([ids[:, :-1], changed], 1)
    found = logits_of(model, other, "causal_lm")[:, :-1]
    if not _close(found, logits[:, :-1]):
        msg = (
            f"{type(model).__name__} is not causal: its scores for a token depend on the token "
            "itself and on later ones, so a loss of next tokens means nothing. Of a masked "
            "model, use masked_lm(); of another, write per_example"
        )
        raise InputError(msg)


def _require_texts_apart(model: nn.Module, given: Mapping[str, Any], logits: Tensor) -> None:
    """Whether a text behind padding, or packed behind another, is scored as it is alone."""
    ids, mask, positions = (
        given.get(key) for key in ("input_ids", "attention_mask", "position_ids")
    )
    assert ids is not None  # every batch has them
    if any(_is_of_no_token(value, ids) for value in given.values()):
        return
    row, first, last = _behind(ids, mask, positions)
    if first == 0:
        return
    alone = _row(given, row, slice(first, last))
    if "position_ids" in alone:
        alone["position_ids"] = torch.arange(last - first, device=ids.device)[None]
    found = logits_of(model, alone, "causal_lm")
    if not _close(found, logits[row : row + 1, first:last]):
        where = "padding on its left" if positions is None or mask is not None else "another text"
        msg = (
            f"{type(model).__name__} scores a text behind {where} otherwise than alone: it does "
            "not take positions or masks into account as the batch means them. Pad on the right, "
            "or give one text in a row"
        )
        raise InputError(msg)


def _behind(ids: Tensor, mask: Any, positions: Any) -> tuple[int, int, int]:
    """A text that does not begin its row: row, first token and end; 0 as first if there is none."""
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        real = mask != 0
        behind = (~real[:, 0]) & real.any(1)
        if bool(behind.any()):
            row = int(behind.nonzero()[0])
            places = real[row].nonzero().flatten()
            return row, int(places[0]), int(places[-1]) + 1
        return 0, 0, 0
    if isinstance(positions, Tensor) and positions.shape == ids.shape:
        begins = ((positions[:, 1:] == 0) & (positions[:, :-1] != 0)).nonzero()
        if len(begins):
            row, before = map(int, begins[-1])
            return row, before + 1, ids.shape[1]
    return 0, 0, 0


def _is_of_no_token(value: Any, ids: Tensor) -> bool:
    """Whether an entry has no value for each token: then no text can be taken out of the batch."""
    return isinstance(value, Tensor) and value.shape != ids.shape and value.ndim > 1


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.abs().nan_to_num(0, 0, 0).max()) if other.numel() else 0.0
    apart = (one - other).abs().nan_to_num(0, 0, 0)
    narrow = torch.finfo(other.dtype).eps > 1e-4  # half precision, of two or three digits
    return not apart.numel() or float(apart.max()) <= (0.1 if narrow else _CLOSE) * max(scale, 1e-6)
