"""Choices: multiple-choice questions, answered by the likeliest of the given texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.objective.calls import logits_of
from ravine.objective.losses import PerExample
from ravine.objective.tokens import IGNORED, token_losses

_UNITS: Final = {"loss": "nats per question", "error": "1", "error_normalised": "1"}

#: A question: its text, the texts to choose from, and the number of the right one.
Question = tuple[str, Sequence[str], int]

#: A tokenizer of Hugging Face's, or any function from a text to the ids of its tokens.
Tokenizer = Callable[..., Any]


@dataclass(frozen=True)
class _Choices:
    name: str = "choices"

    @property
    def units(self) -> dict[str, str]:
        return dict(_UNITS)

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        inputs, targets, answers, characters = _parts_of(batch)
        count, most, _ = inputs.shape
        longest = int((targets != IGNORED).flatten(0, 1).any(0).nonzero().max()) + 1
        # padding stands on the right, where a causal model does not see it
        texts, wanted = (part[..., :longest].flatten(0, 1) for part in (inputs, targets))
        by_token = token_losses(logits_of(model, {"input_ids": texts}, self.name), wanted)["loss"]
        likelihood = -by_token.nansum(1).view(count, most)
        missing = (wanted == IGNORED).all(1).view(count, most)  # a question with fewer choices
        likelihood = likelihood.masked_fill(missing, -torch.inf)
        per_character = likelihood / characters
        right = answers[:, None]
        return {
            "loss": -likelihood.gather(1, right).squeeze(1),
            "error": _is_beaten(likelihood, right),
            "error_normalised": _is_beaten(per_character, right),
        }


def choices() -> PerExample:
    """The per-example function of multiple-choice questions for a causal language model.

    A choice's log-likelihood is the sum over its tokens, given the question. The answer is the
    likeliest choice, the first of equals. ``loss`` is the negative log-likelihood of the right
    choice, in nats; ``error`` is 1 where another is likelier, so that the accuracy is 1 − error;
    ``error_normalised`` compares log-likelihoods over the number of characters. These are ``acc``
    and ``acc_norm`` of lm-evaluation-harness. All points see the same questions, so the difference
    between two of them is paired: ``metrics.decide`` and the verdict of a line make use of it.

    Returns:
        ``per_example(model, batch)`` for ``Objective``. A batch is what ``questions`` makes.

    Examples:
        >>> class Uniform(nn.Module):
        ...     def forward(self, ids):
        ...         return torch.zeros(*ids.shape, 8)
        >>> tokenizer = lambda text: [ord(letter) % 8 for letter in text]
        >>> batch = questions([("2 + 2 =", ["4", "five"], 0)], tokenizer)
        >>> {name: round(float(of), 3) for name, of in choices()(Uniform(), batch).items()}
        {'loss': 4.159, 'error': 0.0, 'error_normalised': 1.0}

    References:
        Gao et al., lm-evaluation-harness (task type ``multiple_choice``).
    """
    return _Choices()


def questions(
    items: Sequence[Question],
    tokenizer: Tokenizer,
    *,
    separator: str = " ",
    length: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Multiple-choice questions as tensors, tokenised as lm-evaluation-harness does.

    The question and a choice are tokenised as one text, without special tokens; the choice's tokens
    are those beyond as many as the question alone has. Spaces at the question's end count to the
    choice.

    Args:
        items: (question, choices, number of the right one), with two choices at least.
        tokenizer: of Hugging Face, or any function from a text to the ids of its tokens.
        separator: stands between question and choice.
        length: tokens that the model can attend to; what is longer loses its beginning.

    Returns:
        A source for ``Objective``, which ``choices`` reads: the tokens that are read and those that
        are predicted, (questions, choices, tokens) each, −100 where none is scored; the numbers of
        the right choices, (questions,); characters of each choice, (questions, choices).

    Raises:
        InputError: a question without choices, a right one that is not among them, or a choice or
            question without tokens.

    Examples:
        >>> read, predicted, right, characters = questions(
        ...     [("ab", ["c", "de"], 1)], lambda text: [ord(letter) for letter in text]
        ... )
        >>> read[0, 1].tolist(), predicted[0, 1].tolist()  # "ab", then " de"
        ([97, 98, 32, 100], [-100, 32, 100, 101])
        >>> right.tolist(), characters.tolist()
        ([1], [[1, 2]])
    """
    if not items:
        msg = "items must hold a question at least; got none"
        raise InputError(msg)
    pairs = []
    for number, item in enumerate(items):
        text, given, _ = _checked(item, number)
        pairs.append([_encoded(tokenizer, text, separator + one, length, number) for one in given])
    most = max(map(len, pairs))
    longest = max(len(ids) for row in pairs for ids, _ in row) - 1
    read = torch.zeros(len(items), most, longest, dtype=torch.long)
    predicted = torch.full_like(read, IGNORED)
    characters = torch.ones(len(items), most, dtype=torch.long)
    for number, row in enumerate(pairs):
        for place, (ids, scored) in enumerate(row):
            end = len(ids) - 1
            read[number, place, :end] = torch.tensor(ids[:-1])
            predicted[number, place, end - scored : end] = torch.tensor(ids[-scored:])
            characters[number, place] = max(len(items[number][1][place]), 1)
    return read, predicted, torch.tensor([item[2] for item in items]), characters


def _checked(item: Question, number: int) -> Question:
    try:
        text, given, right = item
        valid = isinstance(text, str) and not isinstance(given, str) and 0 <= right < len(given)
        valid = valid and len(given) > 1 and all(isinstance(one, str) for one in given)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        msg = (
            f"item {number} must be (question, choices, number of the right one), with two texts "
            f"to choose from at least; got {item!r:.120}"
        )
        raise InputError(msg)
    return item


def _encoded(
    tokenizer: Tokenizer, text: str, choice: str, length: int | None, number: int
) -> tuple[list[int], int]:
    """The ids of a question with a choice, and how many at the end are the choice's."""
    question = text.rstrip()
    choice = text[len(question) :] + choice
    whole, before = _ids(tokenizer, question + choice), _ids(tokenizer, question)
    if not before:  # something has to stand before the first token that is predicted
        start = getattr(tokenizer, "bos_token_id", None)
        start = getattr(tokenizer, "eos_token_id", None) if start is None else start
        before = [] if start is None else [start]
        whole = before + whole
    scored = len(whole) - len(before)
    if not before or scored < 1:
        empty = "question" if not before else f"choice {choice!r}"
        msg = f"item {number} has no tokens in its {empty}, so that nothing can be predicted"
        raise InputError(msg)
    if length is not None:
        if scored > length:
            msg = (
                f"item {number} has a choice of {scored} tokens; the model can attend to "
                f"length={length}"
            )
            raise InputError(msg)
        whole = whole[-(length + 1) :]
    return whole, scored


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    if hasattr(tokenizer, "bos_token_id"):  # Hugging Face's
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(text))


def _parts_of(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if isinstance(batch, list | tuple) and len(batch) == 4:
        inputs, targets, answers, characters = batch
        shapes = [tuple(part.shape) for part in batch if isinstance(part, Tensor)]
        alike = len(shapes) == 4 and len(shapes[0]) == 3 and shapes[0] == shapes[1]
        if alike and shapes[2:] == [shapes[0][:1], shapes[0][:2]]:
            return inputs, targets, answers, characters
    msg = (
        "choices() reads batches of four tensors, as ravine.questions makes them; got "
        f"{type(batch).__name__}"
    )
    raise InputError(msg)


def _is_beaten(scores: Tensor, right: Tensor) -> Tensor:
    """1 where another choice stands before the right one: a higher score, or an equal one earlier.

    Shapes: (questions, choices) and (questions, 1) → (questions,).
    """
    own = scores.gather(1, right)
    earlier = torch.arange(scores.shape[1], device=scores.device) < right
    return ((scores > own) | ((scores == own) & earlier)).any(1).to(scores.dtype)
