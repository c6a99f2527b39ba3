"""The networks that are timed, the data, and the tight loop that ravine is timed against.

The tight loop is what a careful person writes by hand for one network: parameters interpolated in
place by ``torch.lerp``, one resident tensor of examples, functional layers in place where that
helps, the best batch size of a short trial, one synchronisation per point, one number per point. It
measures less than ravine does: no standard errors, no noise floor, no provenance.
"""

from __future__ import annotations

import functools
import gzip
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import timed
from torch import Tensor, nn
from torch.nn import functional as F

import ravine

WINDOW = 35  # tokens that a language model reads at once
VOCABULARY = 10_000
HEADS = 8  # of the transformer's attention


class Maxout(nn.Module):
    """A linear layer of maxima over ``pieces`` linear pieces (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear, self.units, self.pieces = nn.Linear(inputs, units * pieces), units, pieces

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) → (n, units)."""
        return self.linear(x).view(-1, self.pieces, self.units).amax(1)


class LanguageModel(nn.Module):
    """Embedding, one LSTM layer and a softmax over the vocabulary: 2.7 million parameters."""

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, size)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.out = nn.Linear(size, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, window) tokens → (n · window, vocabulary) logits."""
        return self.out(self.lstm(self.embedding(tokens))[0].flatten(0, 1))


class Block(nn.Module):
    """A block as of GPT-2: causal attention and two linear layers, each behind a LayerNorm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.heads = nn.LayerNorm(width), heads
        self.projections, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.before_layers = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) → the same."""
        parts = self.projections(self.before_attention(x)).chunk(3, -1)
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attended(mixed)
        return x + self.down(F.gelu(self.up(self.before_layers(x)), approximate="tanh"))


class Transformer(nn.Module):
    """Like GPT-2, of 4 blocks of width 256, logits by the embedding's weights."""

    def __init__(self, width: int = 256, blocks: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(WINDOW, width)
        for embedding in (self.words, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, HEADS) for _ in range(blocks)))
        self.last = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, window) tokens → (n · window, vocabulary) logits."""
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return F.linear(self.last(self.blocks(x)).flatten(0, 1), self.words.weight)


def maxout_network() -> nn.Module:
    """784–240×5–240×5–10, the paper's network of figure 1: 1,233,610 parameters."""
    return nn.Sequential(Maxout(784, 240, 5), Maxout(240, 240, 5), nn.Linear(240, 10))


def relu_network(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    layers = [
        part
        for a, b in zip(sizes, sizes[1:], strict=False)
        for part in (nn.Linear(a, b), nn.ReLU())
    ]
    return nn.Sequential(*layers[:-1])


def conv_network() -> nn.Module:
    """Three convolutions, each pooled, and two linear layers on 1×28×28: 69,290 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((1, 16, 5), (16, 32, 5), (32, 64, 3)):
        layers += [
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 10))


def tight_maxout(p: list[Tensor], x: Tensor) -> Tensor:
    """The maxout network's logits, written by hand."""
    h = F.linear(x, p[0], p[1]).view(-1, 5, 240).amax(1)
    h = F.linear(h, p[2], p[3]).view(-1, 5, 240).amax(1)
    return F.linear(h, p[4], p[5])


def tight_relu(p: list[Tensor], x: Tensor) -> Tensor:
    """A ReLU network's logits, written by hand."""
    for i in range(0, len(p) - 2, 2):
        x = F.linear(x, p[i], p[i + 1]).relu_()
    return F.linear(x, p[-2], p[-1])


def tight_conv(p: list[Tensor], x: Tensor) -> Tensor:
    """The convolutional network's logits by hand; channels come last in memory: it is faster."""
    for i in range(0, 6, 2):
        x = F.max_pool2d(F.conv2d(x, p[i], p[i + 1], padding=p[i].shape[-1] // 2).relu_(), 2)
    return tight_relu(p[6:], x.flatten(1))


def tight_lstm(p: list[Tensor], tokens: Tensor) -> Tensor:
    """The language model's logits, written by hand."""
    x = F.embedding(tokens, p[0])
    zeros = x.new_zeros(1, len(x), p[2].shape[1])
    h = torch._VF.lstm(x, (zeros, zeros), p[1:5], True, 1, 0.0, False, False, True)[0]
    return F.linear(h.flatten(0, 1), p[5], p[6])


def tight_transformer(p: list[Tensor], tokens: Tensor) -> Tensor:
    """The transformer's logits, written by hand."""
    words, places, *blocks = p[:-2]
    x = F.embedding(tokens, words).add_(places[: tokens.shape[1]])
    n, length, width = x.shape
    for i in range(0, len(blocks), 12):
        b = blocks[i : i + 12]
        parts = F.linear(F.layer_norm(x, (width,), b[0], b[1]), b[2], b[3])
        q, k, v = parts.view(n, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(n, length, width)
        x.add_(F.linear(mixed, b[4], b[5]))
        h = F.linear(F.layer_norm(x, (width,), b[6], b[7]), b[8], b[9])
        x.add_(F.linear(F.gelu(h, approximate="tanh"), b[10], b[11]))
    return F.linear(F.layer_norm(x, (width,), p[-2], p[-1]).flatten(0, 1), words)


# --- data -----------------------------------------------------------------------------------------

Data = tuple[tuple[Tensor, Tensor], str]


def data_folder() -> Path:
    """Where the original files are, if they are at hand."""
    return Path(os.environ.get("RAVINE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def images(examples: int, shape: tuple[int, ...]) -> Data:
    """The first MNIST training images; without the files, class blobs of the same shape."""
    files = [
        data_folder() / "mnist" / f"train-{kind}-ubyte.gz"
        for kind in ("images-idx3", "labels-idx1")
    ]
    if all(file.is_file() for file in files):
        pixels, labels = (
            np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files
        )
        x = (
            torch.tensor(pixels[16 : 16 + 784 * examples].reshape(-1, *shape), dtype=torch.float32)
            / 255
        )
        return (x, torch.tensor(labels[8 : 8 + examples], dtype=torch.long)), "MNIST"
    targets = torch.randint(0, 10, (examples,))
    x = (torch.randn(10, 784)[targets] * 0.3 + torch.randn(examples, 784)).clamp(0, 1)
    return (x.view(-1, *shape), targets), "blobs of MNIST's shape (set RAVINE_DATA for MNIST)"


def digits(examples: int) -> Data:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  nothing else needs it

    x, y = load_digits(return_X_y=True)
    return (
        torch.tensor(x[:examples] / 16, dtype=torch.float32),
        torch.tensor(y[:examples]),
    ), "scikit-learn's digits"


def tokens(windows: int) -> Data:
    """Windows of Penn Treebank words and the words after them; else words drawn by Zipf's law."""
    file = data_folder() / "ptb" / "ptb.train.txt"
    if file.is_file():
        words = file.read_text(encoding="utf-8").replace("\n", " <eos> ").split()
        number = {word: n for n, (word, _) in enumerate(Counter(words).most_common(VOCABULARY))}
        stream = torch.tensor([number[word] for word in words[: windows * WINDOW + 1]])
        about = "Penn Treebank"
    else:
        weights = 1 / torch.arange(1, VOCABULARY + 1)
        stream = torch.multinomial(weights, windows * WINDOW + 1, replacement=True)
        about = "words drawn by Zipf's law (set RAVINE_DATA for Penn Treebank)"
    return (stream[:-1].view(windows, WINDOW), stream[1:].view(windows, WINDOW)), about


# --- problems -------------------------------------------------------------------------------------


def criterion(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy, of class targets or of the tokens of windows."""
    return F.cross_entropy(outputs, targets.flatten(), reduction=reduction)


def loss_alone(model: nn.Module, batch: Any) -> Tensor:
    """What all contestants measure: the loss, here one number per example or token."""
    return criterion(model(batch[0]), batch[1], reduction="none")


@dataclass(frozen=True)
class Recipe:
    """What a problem is made from.

    Attributes:
        title: for tables.
        build: the module.
        tight: its logits written by hand, from a list of parameters and inputs.
        data: inputs and targets for a number of examples, and what they are.
        examples: how many by default.
        batches: sizes that the tight loop tries.
        epochs: of Adam, from the start of the line to its end.
        rate: of Adam.
        batch: of Adam.
    """

    title: str
    build: Callable[[], nn.Module]
    tight: Callable[[list[Tensor], Tensor], Tensor]
    data: Callable[[int], Data]
    examples: int
    batches: tuple[int, ...] = (256, 512, 1024)
    epochs: int = 3
    rate: float = 1e-3
    batch: int = 100


RECIPES = {
    "maxout": Recipe(
        "maxout 784–240×5–240×5–10",
        maxout_network,
        tight_maxout,
        functools.partial(images, shape=(784,)),
        50_000,
    ),
    "relu": Recipe(
        "ReLU 784–512–512–10",
        functools.partial(relu_network, 784, 512, 512, 10),
        tight_relu,
        functools.partial(images, shape=(784,)),
        50_000,
    ),
    "conv": Recipe(
        "3 convolutions 16–32–64, 2 linear",
        conv_network,
        tight_conv,
        functools.partial(images, shape=(1, 28, 28)),
        5_000,
        batches=(64, 128, 256),
        epochs=6,
    ),
    "lstm": Recipe(
        "LSTM 128, 10,000 words",
        LanguageModel,
        tight_lstm,
        tokens,
        128,
        batches=(8, 16, 32),
        epochs=12,
        rate=1e-2,
        batch=16,
    ),
    "transformer": Recipe(
        "GPT-2-like, 4 × 256",
        Transformer,
        tight_transformer,
        tokens,
        128,
        batches=(8, 16, 32),
        epochs=12,
        batch=16,
    ),
    "digits": Recipe(
        "ReLU 64–256–256–10",
        functools.partial(relu_network, 64, 256, 256, 10),
        tight_relu,
        digits,
        1797,
        batches=(128, 256, 512, 1797),
        epochs=20,
    ),
}


@dataclass(frozen=True)
class Problem:
    """A network, two points and examples.

    Attributes:
        recipe: where they come from.
        model: the module.
        start: state dict at α = 0, the random initialisation.
        end: state dict at α = 1, a trained solution.
        data: inputs and targets.
        about: what the data are.
        products: FLOPs of each layer's matrix product on all examples, in order. The first is 0
            where the first layer is an embedding, which is a look-up.
    """

    recipe: Recipe
    model: nn.Module
    start: dict[str, Tensor]
    end: dict[str, Tensor]
    data: tuple[Tensor, Tensor]
    about: str
    products: tuple[float, ...]

    @property
    def line(self) -> ravine.Line:
        """From the initialisation to the solution."""
        return ravine.Line(self.start, self.end)

    def objective(self, *, error: bool = False, **policies: Any) -> ravine.Objective:
        """What ravine measures by default: the loss alone, or with the error rate of classes."""
        per_example = ravine.supervised(F.cross_entropy) if error else loss_alone
        return ravine.Objective(self.model, per_example, {"train": self.data}, **policies)

    def to(self, device: str) -> Problem:
        """The same, elsewhere."""
        start, end = (
            {n: t.to(device) for n, t in point.items()} for point in (self.start, self.end)
        )
        x, y = self.data
        return Problem(
            self.recipe,
            self.model.to(device),
            start,
            end,
            (x.to(device), y.to(device)),
            self.about,
            self.products,
        )


def problem(name: str, examples: int | None = None) -> Problem:
    """A network trained on the examples, and the point where its training began."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    (x, y), about = recipe.data(min(examples or recipe.examples, recipe.examples))
    model = recipe.build()
    start = {n: t.clone() for n, t in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    for rows in (
        rows for _ in range(recipe.epochs) for rows in torch.randperm(len(y)).split(recipe.batch)
    ):
        optimiser.zero_grad()
        criterion(model(x[rows]), y[rows]).backward()
        optimiser.step()
    end = {n: t.clone() for n, t in model.state_dict().items()}
    model.requires_grad_(False)
    return Problem(recipe, model, start, end, (x, y), about, _products(model, x))


def _products(model: nn.Module, x: Tensor) -> tuple[float, ...]:
    """FLOPs of the layers' matrix products on all of x, in the order in which they run."""
    found: list[float] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        weights = sum(p.numel() for p in module.parameters() if p.ndim > 1)
        places = {
            nn.Linear: lambda: output.numel() // output.shape[-1],
            nn.LSTM: lambda: output[0].shape[:2].numel(),
        }
        places[nn.Conv2d] = lambda: output.numel() // output.shape[1]
        places[nn.Embedding] = lambda: 0
        if type(module) in places:
            found.append(2.0 * weights * places[type(module)]() * len(x))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(x[:1])
    for hook in hooks:
        hook.remove()
    return tuple(found)


# --- the tight loop -------------------------------------------------------------------------------


@torch.inference_mode()
def tight_loop(
    of: Problem, alphas: np.ndarray, batch: int, dtype: torch.dtype = torch.float32
) -> np.ndarray:
    """The curve by the tight loop."""
    start, end = ([_laid_out(t.to(dtype)) for t in point.values()] for point in (of.start, of.end))
    here = [torch.empty_like(t) for t in start]
    x, y = of.data
    x = _laid_out(x.to(dtype) if x.is_floating_point() else x)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    losses = []
    for alpha in alphas:
        for a, b, out in zip(start, end, here, strict=True):
            torch.lerp(a, b, float(alpha), out=out)
        sums = [
            criterion(of.recipe.tight(here, inputs), targets, reduction="sum")
            for inputs, targets in batches
        ]
        losses.append(torch.stack(sums).double().sum().item() / y.numel())
    return np.array(losses)


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def best_batch(of: Problem, batches: Sequence[int] | None = None) -> int:
    """The batch size at which the tight loop is fastest, by a short trial."""
    alphas = np.array([0.3, 0.6])
    sizes = batches or of.recipe.batches
    short = {
        size: min(timed(lambda s=size: tight_loop(of, alphas, s))[0] for _ in range(2))
        for size in sizes
    }
    return min(short, key=lambda size: short[size])
