"""The generative model of Figure 7: a multi-prediction deep Boltzmann machine (MP-DBM) on MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class MPDBM:
    """A Boltzmann machine of pixels, two hidden layers and a label, trained to fill in gaps.

    Attributes:
        inputs: pixels per image.
        hidden: units of the first and of the second hidden layer.
        classes: of labels.
        incoming: non-zeros, drawn from N(0, 1), in what feeds one unit of the first layer, and one
            class.
        init: the matrix between the hidden layers starts uniform in ±init.
        biases: at the start, of the first and of the second hidden layer.
        caps: the largest norm of what feeds one unit of the first layer, of the second, and one
            class.
        passes: of mean-field inference.
        dropped: probability with which a pixel, and the label, is dropped and so to be predicted.

    References:
        Goodfellow, Mirza, Courville and Bengio 2013, Multi-prediction deep Boltzmann machines.
    """

    inputs: int
    hidden: tuple[int, int]
    classes: int
    incoming: tuple[int, int]
    init: float
    biases: tuple[float, float]
    caps: tuple[float, float, float]
    passes: int
    dropped: float

    @property
    def about(self) -> str:
        """The layers' sizes."""
        return f"MP-DBM {self.inputs}–{self.hidden[0]}–{self.hidden[1]}–{self.classes}"

    @property
    def row_caps(self) -> dict[str, float]:
        """Parameter name → the largest norm of any row; one row feeds one unit from below."""
        return dict(zip(("W1", "W2", "U"), self.caps, strict=True))

    def build(self, seed: int) -> Boltzmann:
        """A new machine with its initial parameters.

        The pixels' biases are 0 until the data are seen.

        Args:
            seed: of the initial parameters.

        Returns:
            A module from images (examples, pixels) to logits of the label (examples, classes).
        """
        generator = torch.Generator().manual_seed(seed)
        model = Boltzmann(self)
        with torch.no_grad():
            for tensor, count in ((model.W1, self.incoming[0]), (model.U, self.incoming[1])):
                places = torch.rand(tensor.shape, generator=generator).topk(count, dim=1).indices
                tensor.scatter_(1, places, torch.randn(places.shape, generator=generator))
            model.W2.uniform_(-self.init, self.init, generator=generator)
            model.b1.fill_(self.biases[0])
            model.b2.fill_(self.biases[1])
        return model


class Boltzmann(nn.Module):
    """Mean-field inference in a deep Boltzmann machine with a label.

    Its energy is −b_vᵀv − b1ᵀh1 − b2ᵀh2 − b_yᵀy − h1ᵀW1v − h2ᵀW2h1 − yᵀUh2.

    Each matrix has one row for every unit that it feeds from below: W1 (first, pixels), W2 (second,
    first), U (classes, second).

    Args:
        sizes: of the machine.

    Attributes:
        doubled: whether parameters that go up count twice while a layer has heard nothing from
            above yet.
    """

    def __init__(self, sizes: MPDBM) -> None:
        super().__init__()
        first, second = sizes.hidden
        self.passes = sizes.passes
        self.doubled = True
        self.W1 = nn.Parameter(torch.zeros(first, sizes.inputs))
        self.W2 = nn.Parameter(torch.zeros(second, first))
        self.U = nn.Parameter(torch.zeros(sizes.classes, second))
        self.b_v = nn.Parameter(torch.zeros(sizes.inputs))
        self.b1 = nn.Parameter(torch.zeros(first))
        self.b2 = nn.Parameter(torch.zeros(second))
        self.b_y = nn.Parameter(torch.zeros(sizes.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the label, by mean field with all pixels seen: see ``classify``."""
        return self.classify(images)

    def fill_in(
        self, images: Tensor, labels: Tensor, dropped: Tensor, unlabelled: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of all pixels and of the label, from what is not dropped.

        Args:
            images: (examples, pixels) in [0, 1].
            labels: (examples,) integers.
            dropped: (examples, pixels), 1 where a pixel is not to be seen.
            unlabelled: (examples,), 1 where the label is not.

        Returns:
            (examples, pixels) and (examples, classes), after the last pass. Each layer is inferred
            from the layers beside it, as they were last: h1 from what is filled in and h2, the
            label from h2, pixels from h1, then h2.

        References:
            pylearn2 @ af81e5c, ``models/dbm/inference_procedure.py``
            (WeightDoubling.do_inpainting).
        """
        of = self.b_v.dtype
        mask, without = dropped.to(of), unlabelled.to(of)[:, None]
        seen = (1 - mask) * images.to(of)
        given = (1 - without) * F.one_hot(labels, len(self.b_y)).to(of)
        pixels, classes = self.b_v.expand_as(seen), self.b_y.expand_as(given)
        filled = mask * self.b_v.detach().sigmoid() + seen  # the original stops the gradient here
        first = self._unhelped(filled, self.W1, self.b1)
        for _ in range(self.passes - 1):
            second = torch.sigmoid(
                F.linear(first, self.W2, self.b2) + (without * classes.softmax(1) + given) @ self.U
            )
            first = torch.sigmoid(F.linear(filled, self.W1, self.b1) + second @ self.W2)
            classes = F.linear(second, self.U, self.b_y)
            pixels = first @ self.W1 + self.b_v
            filled = mask * pixels.sigmoid() + seen
        return pixels, classes

    def classify(self, images: Tensor, *, averaged: bool = False) -> Tensor:
        """Logits of the label, by mean field with all pixels seen.

        Args:
            images: (examples, pixels) in [0, 1].
            averaged: the multi-inference trick: in every pass, pixels are the mean of what is seen
                and of what the machine would have predicted in its place.

        Returns:
            (examples, classes).

        References:
            pylearn2 @ af81e5c, ``models/dbm/inference_procedure.py`` (mf and multi_infer).
        """
        images = images.to(self.b_v.dtype)
        pixels = (images + self.b_v.sigmoid()) / 2 if averaged else images
        from_below = F.linear(pixels, self.W1)
        first = torch.sigmoid((2 if self.doubled else 1) * from_below + self.b1)
        second = self._unhelped(first, self.W2, self.b2)
        classes = F.linear(second, self.U, self.b_y)
        for _ in range(self.passes - 1):
            first = torch.sigmoid(from_below + self.b1 + second @ self.W2)
            classes = F.linear(second, self.U, self.b_y)
            if averaged:
                from_below = F.linear(
                    (images + torch.sigmoid(first @ self.W1 + self.b_v)) / 2, self.W1
                )
            second = torch.sigmoid(F.linear(first, self.W2, self.b2) + classes.softmax(1) @ self.U)
        return classes

    def _unhelped(self, below: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        """A layer that has heard nothing from above yet."""
        return torch.sigmoid((2 if self.doubled else 1) * F.linear(below, matrix) + bias)


#: pylearn2 @ af81e5c, scripts/papers/mpdbm/mpdbm.yaml.
MPDBM_MNIST: Final = MPDBM(
    inputs=784,
    hidden=(2087, 3200),
    classes=10,
    incoming=(15, 23),
    init=0.00638830865761,
    biases=(-0.710467, -0.393587),
    caps=(1.809978, 2.666304, 5.175683),
    passes=14,
    dropped=0.5,
)
