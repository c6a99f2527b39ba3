"""Figure 6's convolutional maxout network: 32 × 32 × 3 → 96×2 → 192×2 → 192×2 → 500×5 → 10."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from ravine.paper.models.layers import Dropout, Layer, Maxout


@dataclass(frozen=True)
class Convolution:
    """One convolution, maximum over pieces and over places, with the dropout in front of it.

    Attributes:
        channels: outputs, after pooling over pieces.
        pieces: linear pieces per channel.
        kernel: its side, in pixels; the stride is 1.
        pad: zeros around the image, on each side.
        pool: side of the square whose maximum is taken; the last one may reach over the edge.
        stride: from one such square to the next.
        init: kernels start uniform in ±init, biases at 0; there is one bias per channel and piece.
        cap: the largest allowed norm of a kernel, over its input channels and pixels.
        keep: share of its inputs that dropout keeps: of pixels of every channel, each by itself.
        scale: what the kept inputs are multiplied by while training.
        rate: factor of the learning rate of its kernels and biases.
    """

    channels: int
    pieces: int
    kernel: int
    pad: int
    pool: int
    stride: int
    init: float
    cap: float
    keep: float
    scale: float
    rate: float


@dataclass(frozen=True)
class ConvNetwork:
    """A classifier of images: convolutions, then full layers as in ``layers``, all of maxout.

    Attributes:
        channels: of an image.
        side: of an image, in pixels.
        convolutions: from the first.
        layers: from the one above them to the logits.
    """

    channels: int
    side: int
    convolutions: tuple[Convolution, ...]
    layers: tuple[Layer, ...]

    def build(self, seed: int) -> nn.Sequential:
        """A new network with its initial parameters, drawn layer by layer from one seeded stream.

        Args:
            seed: of the initial parameters.

        Returns:
            A module from (examples, channels · side · side), channel after channel, to logits
            (examples, classes).
        """
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential()
        model.add_module("image", nn.Unflatten(1, (self.channels, self.side, self.side)))
        channels, side = self.channels, self.side
        for number, layer in enumerate(self.convolutions):
            _add_dropout(model, number, layer)
            convolution = nn.Conv2d(
                channels,
                layer.channels * layer.pieces,
                layer.kernel,
                padding=layer.pad,
                device="meta",
            )
            _add_drawn(model, number, convolution.to_empty(device="cpu"), layer.init, generator)
            model.add_module(f"maxout{number}", Maxout(layer.pieces))
            model.add_module(
                f"pool{number}", nn.MaxPool2d(layer.pool, layer.stride, ceil_mode=True)
            )
            channels, side = layer.channels, _pooled(side + 2 * layer.pad - layer.kernel + 1, layer)
        model.add_module("flat", nn.Flatten())
        width = channels * side * side
        for number, layer in enumerate(self.layers, start=len(self.convolutions)):
            _add_dropout(model, number, layer)
            linear = nn.Linear(width, layer.units * layer.pieces, device="meta").to_empty(
                device="cpu"
            )
            _add_drawn(model, number, linear, layer.init, generator)
            if layer.pieces > 1:
                model.add_module(f"maxout{number}", Maxout(layer.pieces))
            width = layer.units
        return model

    @property
    def inputs(self) -> int:
        """Numbers per example."""
        return self.channels * self.side**2

    @property
    def about(self) -> str:
        """Kind and widths."""
        widths = "–".join(f"{x.channels}×{x.pieces}" for x in self.convolutions)
        dense = "–".join(
            f"{x.units}×{x.pieces}" if x.pieces > 1 else str(x.units) for x in self.layers
        )
        return f"convolutional maxout {self.side}×{self.side}×{self.channels}–{widths}–{dense}"

    @property
    def caps(self) -> dict[str, float]:
        """Parameter name → the largest norm of any kernel, or of what feeds one unit or piece."""
        return {
            f"layer{number}.weight": layer.cap
            for number, layer in enumerate((*self.convolutions, *self.layers))
        }

    @property
    def rate_scales(self) -> dict[str, float]:
        """Kernels and their biases learn at rates of their own."""
        return {
            f"layer{number}.{kind}": layer.rate
            for number, layer in enumerate(self.convolutions)
            for kind in ("weight", "bias")
        }

    @property
    def noisy(self) -> bool:
        """Whether any layer has dropout in front of it."""
        return any(layer.keep < 1 for layer in (*self.convolutions, *self.layers))


def _pooled(side: int, layer: Convolution) -> int:
    """⌈(side − pool)/stride⌉ + 1: as many squares as reach the edge."""
    return -(-(side - layer.pool) // layer.stride) + 1


def _add_dropout(model: nn.Sequential, number: int, layer: Convolution | Layer) -> None:
    if layer.keep < 1:
        model.add_module(f"dropout{number}", Dropout(layer.keep, layer.scale))


def _add_drawn(
    model: nn.Sequential,
    number: int,
    module: nn.Conv2d | nn.Linear,
    init: float,
    generator: torch.Generator,
) -> None:
    with torch.no_grad():
        module.weight.uniform_(-init, init, generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    model.add_module(f"layer{number}", module)


#: pylearn2 @ af81e5c, ``scripts/papers/maxout/cifar10_no_aug_valid.yaml``; 16,247,830 parameters.
#: Pools as in ``linear/conv2d_c01b.py``: the last square may reach over the edge.
CONV: Final = ConvNetwork(
    channels=3,
    side=32,
    convolutions=(
        Convolution(
            96,
            2,
            kernel=8,
            pad=4,
            pool=4,
            stride=2,
            init=0.005,
            cap=0.9,
            keep=0.8,
            scale=1.0,
            rate=0.05,
        ),  # → 16 × 16
        Convolution(
            192,
            2,
            kernel=8,
            pad=3,
            pool=4,
            stride=2,
            init=0.005,
            cap=1.9365,
            keep=0.5,
            scale=2.0,
            rate=0.05,
        ),  # → 7 × 7
        Convolution(
            192,
            2,
            kernel=5,
            pad=3,
            pool=2,
            stride=2,
            init=0.005,
            cap=1.9365,
            keep=0.5,
            scale=2.0,
            rate=0.05,
        ),  # → 5 × 5
    ),
    layers=(
        Layer(500, pieces=5, init=0.005, cap=1.9, keep=0.5, scale=2.0),
        Layer(10, init=0.005, cap=1.9365, keep=0.5, scale=2.0),
    ),
)
