"""The generative model of Figure 7: a multi-prediction deep Boltzmann machine (MP-DBM) on MNIST."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine.paper.data import Splits
from ravine.paper.tasks import Dropout, Task, cut_rows, drawing

if TYPE_CHECKING:
    from ravine.paper.recipes import Recipe

#: From the machine and a batch to quantities of each example.
PerExample = Callable[[Any, Any], dict[str, Tensor]]

#: Examples per forward pass when nothing is learned: so many that the matrices, 33 MB, are not what
#: it waits for.
_READ: Final = 250


@dataclass(frozen=True)
class MPDBM:
    """A Boltzmann machine of pixels, two hidden layers and a label, trained to fill in what is dropped.

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
        """Parameter name → the largest norm of any of its rows (one row feeds one unit from below)."""
        return dict(zip(("W1", "W2", "U"), self.caps, strict=True))

    def build(self, seed: int) -> Boltzmann:
        """A new machine with its initial parameters, but for the pixels' biases, which are 0 until the data are seen.

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

    def task(self, recipe: Recipe, parts: Splits) -> Prediction:
        """To predict what is dropped of the recipe's images and labels."""
        return Prediction(self, recipe, parts)


class Boltzmann(nn.Module):
    """Mean-field inference in the machine of energy −b_vᵀv − b1ᵀh1 − b2ᵀh2 − b_yᵀy − h1ᵀW1v − h2ᵀW2h1 − yᵀUh2.

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


def prediction_costs(
    model: Boltzmann, images: Tensor, labels: Tensor, dropped: Tensor, unlabelled: Tensor
) -> tuple[Tensor, Tensor]:
    """What the multi-prediction objective charges for each example: for its pixels, and for its label.

    Args:
        model: the machine.
        images: (examples, pixels) in [0, 1]: what is seen, and what is to be predicted.
        labels: (examples,) integers.
        dropped: (examples, pixels), 1 where a pixel is to be predicted.
        unlabelled: (examples,), 1 where the label is.

    Returns:
        Cross-entropies of what was dropped, summed and divided by the number of all pixels: twice
        (examples,), in nats per pixel. J is the mean of their sum.

    Examples:
        A machine that knows nothing pays ln 2 for a pixel, and ln 10 once for a label.

        >>> blank = Boltzmann(MPDBM(4, (3, 2), 10, (1, 1), 0.0, (0.0, 0.0), (1.0, 1.0, 1.0), 5, 0.5))
        >>> images, one = torch.zeros(1, 4), torch.ones(1)
        >>> costs = prediction_costs(blank, images, torch.tensor([7]), one.expand(1, 4), one)
        >>> [round(cost.item(), 4) for cost in costs], *(round(float(x), 4) for x in (np.log(2), np.log(10) / 4))
        ([0.6931, 0.5756], 0.6931, 0.5756)

    References:
        pylearn2 @ af81e5c, ``costs/dbm.py`` (MultiPrediction).
    """
    pixels, classes = model.fill_in(images, labels, dropped, unlabelled)
    truth, count = images.to(pixels.dtype), images.shape[1]
    of_pixels = F.binary_cross_entropy_with_logits(pixels, truth, reduction="none") * dropped.to(
        pixels.dtype
    )
    of_labels = F.cross_entropy(classes, labels, reduction="none") * unlabelled.to(pixels.dtype)
    return of_pixels.sum(1) / count, of_labels / count


def alone(model: Any, batch: Any) -> dict[str, Tensor]:
    """J's cost of each example.

    Args:
        model: a ``Boltzmann``.
        batch: as in ``per_example``.

    Returns:
        ``loss``, in nats per pixel.
    """
    return {"loss": sum(prediction_costs(model, *batch[:-1]), torch.zeros(()))}


def in_parts(model: Any, batch: Any) -> dict[str, Tensor]:
    """J's cost of each example, and what it consists of.

    Args:
        model: a ``Boltzmann``.
        batch: as in ``per_example``.

    Returns:
        ``loss``, and ``pixels`` and ``label``, which it is the sum of, in nats per pixel.
    """
    pixels, label = prediction_costs(model, *batch[:-1])
    return {"loss": pixels + label, "pixels": pixels, "label": label}


def per_example(model: Any, batch: Any) -> dict[str, Tensor]:
    """What ``ravine.Objective`` takes the means of.

    Args:
        model: a ``Boltzmann``.
        batch: images to predict, labels, masks of pixels and of labels, and the grey images to
            classify.

    Returns:
        As ``in_parts``; and of the label by mean field with all pixels seen, ``class_loss`` in
        nats, and ``error``.
    """
    labels, classes = batch[1], model.classify(batch[-1])
    return in_parts(model, batch) | {
        "class_loss": F.cross_entropy(classes, labels, reduction="none"),
        "error": (classes.argmax(1) != labels).to(classes.dtype),
    }


vars(alone)["units"] = {"loss": "nats per pixel"}
vars(in_parts)["units"] = dict.fromkeys(("loss", "pixels", "label"), "nats per pixel")
vars(per_example)["units"] = vars(in_parts)["units"] | {"class_loss": "nats"}


class Prediction(Task):
    """To predict dropped pixels and labels; masks, and the binary images that grey ones stand for, are drawn each time.

    Training images are watched on the first of them, as many as there are to validate on;
    validation images are predicted as they are, grey. ``loss`` is J with one draw of masks and
    binary images that stays for the whole training, and for every point of parameter space;
    ``objective`` is with a fresh one.

    Args:
        network: what is trained.
        recipe: how.
        parts: "train" and "test" → images (examples, pixels) in [0, 1] and labels (examples,).

    Raises:
        ravine.InputError: there are too few examples.
    """

    def __init__(self, network: MPDBM, recipe: Recipe, parts: Splits) -> None:
        images, labels = parts["train"]
        both = recipe.train + recipe.valid
        if len(labels) < both:
            msg = (
                f"{recipe.name} takes {recipe.train} + {recipe.valid} examples of {recipe.data}; "
                f"got {len(labels)}"
            )
            raise ravine.InputError(msg)
        self.network = network
        self.recipe = recipe
        self.trained_on = images[: recipe.train], labels[: recipe.train]
        watched = min(recipe.train, recipe.valid)
        self.watched = {
            "train": (images[:watched], labels[:watched]),
            "valid": (images[recipe.train : both], labels[recipe.train : both]),
        }
        self.tested_on = parts["test"]
        self.fixed = {split: self.drawn(split, 0) for split in self.watched}

    def start(self, model: nn.Module) -> None:
        """Give the pixels the biases at which each is as often black as it is among the training images.

        Args:
            model: a ``Boltzmann``.
        """
        share = self.trained_on[0].double().mean(0).clamp(1e-7, 1 - 1e-7)
        with torch.no_grad():
            model.get_parameter("b_v").copy_(share.logit())

    def epoch(self, model: nn.Module, phase: int, order: torch.Generator) -> Iterator[Tensor]:  # noqa: D102
        images, labels = self.trained_on
        for batch in torch.randperm(len(labels), generator=order).split(self.recipe.batch_size):
            costs = prediction_costs(
                _boltzmann(model), images[batch].bernoulli(), labels[batch], *self._masks(batch)
            )
            yield sum(costs, torch.zeros(())).mean()

    def constrain(self, params: Mapping[str, Tensor]) -> None:
        """What feeds a unit and is longer than its cap is cut to it.

        Args:
            params: by name.
        """
        cut_rows(params, self.network.row_caps)

    def monitor(self, model: nn.Module, split: str, phase: int, seed: int) -> dict[str, float]:  # noqa: D102
        fixed = _means(model, self.fixed[split], per_example)
        fresh = _means(model, self.drawn(split, seed), alone)
        return {"objective": fresh["loss"], "loss": fixed["loss"], "error": fixed["error"]}

    def test(self, model: nn.Module) -> dict[str, float]:
        """How many test images are given another label than theirs, by mean field and by the multi-inference trick.

        Args:
            model: the outcome of a phase.

        Returns:
            ``errors`` and ``averaged_errors``.
        """
        machine, wrong = _boltzmann(model), {"errors": 0, "averaged_errors": 0}
        with torch.inference_mode():
            for images, labels in zip(
                *(tensor.split(_READ) for tensor in self.tested_on), strict=True
            ):
                for name, averaged in zip(wrong, (False, True), strict=True):
                    wrong[name] += int(
                        (machine.classify(images, averaged=averaged).argmax(1) != labels).sum()
                    )
        return {name: float(count) for name, count in wrong.items()}

    def objective(
        self, splits: Sequence[str], *, dropout: Dropout = "off", dtype: torch.dtype | None = None
    ) -> ravine.Objective:
        """J as a function of the parameters, on the examples that are watched, with the draw that stays.

        Args:
            splits: of "train" and "valid".
            dropout: "off" or "fixed": masks are what is asked here, and the same at every point.
            dtype: precision of the forward pass.

        Returns:
            The objective.

        Raises:
            ravine.InputError: masks were to be drawn anew at every point.
        """
        if dropout == "resample":
            msg = "the MP-DBM's masks are the same at every point; choose dropout 'off' or 'fixed'"
            raise ravine.InputError(msg)
        return self.measured(splits, dtype=dtype)

    def measured(
        self,
        splits: Sequence[str],
        *,
        examples: int | None = None,
        draws: int = 1,
        doubled: bool = True,
        costs: PerExample | None = None,
        dtype: torch.dtype | None = None,
    ) -> ravine.Objective:
        """J with as many draws of masks and binary images for each example as wanted.

        Args:
            splits: of "train" and "valid".
            examples: of each split, the first that are watched; None takes all.
            draws: the first of them is the one of ``objective``.
            doubled: as in ``Boltzmann``.
            costs: ``per_example``, or ``in_parts`` or ``alone``, which spare the classification:
                half of the time.
            dtype: precision of the forward pass.

        Returns:
            The objective; with several draws its standard errors count each draw as an example of
            its own.
        """
        model = self.network.build(self.recipe.seed)
        model.doubled = doubled
        data = {
            split: tuple(
                torch.cat([part[:examples] for part in parts])
                for parts in zip(*(self.drawn(split, k) for k in range(draws)), strict=True)
            )
            for split in splits
        }
        return ravine.Objective(
            model, costs or per_example, data, seed=self.recipe.seed, dtype=dtype, batch_size=_READ
        )

    def drawn(self, split: str, number: int) -> tuple[Tensor, ...]:
        """What ``per_example`` takes, of the watched examples of one split.

        Args:
            split: "train" or "valid".
            number: of the draw; 0 is the one that stays.

        Returns:
            Images to predict, labels, masks of pixels and of labels, grey images.
        """
        images, labels = self.watched[split]
        words = np.random.SeedSequence(
            [self.recipe.seed, sorted(self.watched).index(split), number]
        ).generate_state(2)
        with drawing(int(words.view(np.uint64)[0] >> 1)):
            return (
                images.bernoulli() if split == "train" else images,
                labels,
                *self._masks(labels),
                images,
            )

    def _masks(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """What is dropped of so many examples, from the global generator."""
        share = self.network.dropped
        return torch.rand(len(examples), self.network.inputs) < share, torch.rand(
            len(examples)
        ) < share


def _boltzmann(model: nn.Module) -> Any:
    """The module as what it is here; its methods are looked up on it, whatever wraps it."""
    return model


def _means(model: nn.Module, examples: tuple[Tensor, ...], costs: PerExample) -> dict[str, float]:
    """The mean of each quantity over examples, summed in float64."""
    sums: dict[str, float] = {}
    with torch.inference_mode():
        for batch in zip(*(tensor.split(_READ) for tensor in examples), strict=True):
            for name, values in costs(model, batch).items():
                sums[name] = sums.get(name, 0.0) + float(values.sum(dtype=torch.float64))
    return {name: value / len(examples[0]) for name, value in sums.items()}


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
