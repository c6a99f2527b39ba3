"""Networks as data: a stack of layers in pylearn2's conventions, which the paper used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

import ravine


@dataclass(frozen=True)
class Layer:
    """One fully connected layer, with the dropout in front of it.

    Attributes:
        units: outputs, after pooling over pieces.
        init: its matrix starts uniform in ±init; its biases start at 0.
        cap: the largest allowed norm of the incoming parameters of one unit (of one piece, where
            there are pieces), biases excluded.
        keep: share of its inputs that dropout keeps; 1 is no dropout.
        scale: what the kept inputs are multiplied by while training. 1/keep keeps their mean; the
            maxout recipe leaves it at 1 for the pixels.
        pieces: linear pieces per unit; more than one for maxout.
    """

    units: int
    init: float
    cap: float
    keep: float
    scale: float
    pieces: int = 1


@dataclass(frozen=True)
class Network:
    """A classifier: layers with one activation between them, and logits at the end.

    Attributes:
        inputs: numbers per example.
        activation: "maxout", "relu" or "sigmoid".
        layers: from the first to the logits.
    """

    inputs: int
    activation: str
    layers: tuple[Layer, ...]

    def build(self, seed: int) -> nn.Sequential:
        """A new network with its initial parameters, drawn layer by layer from one seeded stream.

        Args:
            seed: of the initial parameters.

        Returns:
            A module from (examples, inputs) to logits (examples, classes).

        Raises:
            ravine.InputError: there is no such activation.
        """
        if self.activation not in _ACTIVATIONS:
            msg = f"there is no activation {self.activation!r}; there are {', '.join(_ACTIVATIONS)}"
            raise ravine.InputError(msg)
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential()
        width = self.inputs
        for number, layer in enumerate(self.layers):
            if layer.keep < 1:
                model.add_module(f"dropout{number}", Dropout(layer.keep, layer.scale))
            linear = nn.Linear(width, layer.units * layer.pieces, device="meta").to_empty(
                device="cpu"
            )
            with torch.no_grad():
                linear.weight.uniform_(-layer.init, layer.init, generator=generator)
                linear.bias.zero_()
            model.add_module(f"layer{number}", linear)
            if layer.pieces > 1:
                model.add_module(f"maxout{number}", Maxout(layer.pieces))
            elif number < len(self.layers) - 1:
                model.add_module(f"{self.activation}{number}", _ACTIVATIONS[self.activation]())
            width = layer.units
        return model

    @property
    def about(self) -> str:
        """The activation, the widths, and whether dropout is missing."""
        widths = (f"{x.units}×{x.pieces}" if x.pieces > 1 else str(x.units) for x in self.layers)
        plain = "" if self.noisy else " without dropout"
        return f"{self.activation} {self.inputs}–{'–'.join(widths)}{plain}"

    @property
    def caps(self) -> dict[str, float]:
        """Parameter name → the largest norm of any row; one row feeds one unit or piece."""
        return {f"layer{number}.weight": layer.cap for number, layer in enumerate(self.layers)}

    @property
    def rate_scales(self) -> dict[str, float]:
        """All layers learn at one rate."""
        return {}

    @property
    def noisy(self) -> bool:
        """Whether any layer has dropout in front of it."""
        return any(layer.keep < 1 for layer in self.layers)


class Dropout(nn.Module):
    """While training, keeps each input with probability ``keep``, and scales it by ``scale``.

    torch's own fixes scale = 1/keep; the paper's maxout recipe has keep 0.8 and scale 1 on the
    pixels. In evaluation mode the input passes untouched, whatever the scale.

    Args:
        keep: include probability.
        scale: factor of what is kept.

    References:
        Goodfellow et al. 2013, Maxout networks; pylearn2, ``costs/mlp/dropout.py``.
    """

    def __init__(self, keep: float, scale: float) -> None:
        super().__init__()
        self.keep = keep
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102  torch's own
        if not self.training:
            return inputs
        kept = torch.rand_like(inputs) < self.keep
        return inputs * kept if self.scale == 1 else inputs * kept * self.scale

    def extra_repr(self) -> str:  # noqa: D102  torch's own
        return f"keep={self.keep}, scale={self.scale}"


class Maxout(nn.Module):
    """The largest of each unit's pieces: (examples, pieces · units) → (examples, units).

    Piece p of unit u is column p · units + u, so that the maximum runs over the leading of the two
    axes: three times faster on a CPU than pylearn2's order (u · pieces + p), and the same network
    up to a permutation.

    Args:
        pieces: per unit.

    Examples:
        >>> Maxout(2)(torch.tensor([[1.0, 5.0, 3.0, 4.0]]))
        tensor([[3., 5.]])

    References:
        Goodfellow et al. 2013, Maxout networks, section 3.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, inputs: Tensor) -> Tensor:  # noqa: D102  torch's own
        return inputs.unflatten(1, (self.pieces, -1)).amax(1)

    def extra_repr(self) -> str:  # noqa: D102  torch's own
        return f"pieces={self.pieces}"


_ACTIVATIONS: Final = {"maxout": Maxout, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
