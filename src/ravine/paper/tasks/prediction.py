"""Prediction: to fill in the pixels and the labels that were dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine.paper.data import Splits
from ravine.paper.device import drawing
from ravine.paper.models import MPDBM
from ravine.paper.models.mpdbm import Boltzmann
from ravine.paper.recipe import Recipe
from ravine.paper.tasks.task import Dropout, Independent, cut_rows, require_enough

#: From the machine and a batch to quantities of each example.
PerExample = Callable[[Any, Any], dict[str, Tensor]]


#: Examples per forward pass when nothing is learned: so many that the matrices, 33 MB, are not what
#: it waits for.
_READ: Final = 250


def prediction_costs(
    model: Boltzmann, images: Tensor, labels: Tensor, dropped: Tensor, unlabelled: Tensor
) -> tuple[Tensor, Tensor]:
    """What the multi-prediction objective charges each example: for its pixels and its label.

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

        >>> from ravine.paper.models.mpdbm import Boltzmann
        >>> recipe = MPDBM(4, (3, 2), 10, (1, 1), 0.0, (0.0, 0.0), (1.0, 1.0, 1.0), 5, 0.5)
        >>> blank = Boltzmann(recipe)
        >>> images, one = torch.zeros(1, 4), torch.ones(1)
        >>> costs = prediction_costs(blank, images, torch.tensor([7]), one.expand(1, 4), one)
        >>> [round(cost.item(), 4) for cost in costs]
        [0.6931, 0.5756]
        >>> round(float(np.log(2)), 4), round(float(np.log(10) / 4), 4)
        (0.6931, 0.5756)

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
    pixels, label = prediction_costs(model, *batch[:-1])
    return {"loss": pixels + label}


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


class Prediction(Independent):
    """To predict dropped pixels and labels.

    Masks, and the binary images that grey ones stand for, are drawn each time.

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
        require_enough(recipe, len(labels))
        both = recipe.train + recipe.valid
        self.network = network
        self.recipe = recipe
        self.trained_on = images[: recipe.train], labels[: recipe.train]
        watched = min(recipe.train, recipe.valid)
        # on the CPU: what is drawn for them is part of J, which is the same on every device
        self.watched = {
            "train": (images[:watched].cpu(), labels[:watched].cpu()),
            "valid": (images[recipe.train : both].cpu(), labels[recipe.train : both].cpu()),
        }
        self.tested_on = parts["test"]
        self.device = labels.device
        self.fixed = {split: self.drawn(split, 0) for split in self.watched}

    def start(self, model: nn.Module) -> None:
        """Give each pixel the bias at which it is as often black as among the training images.

        Args:
            model: a ``Boltzmann``.
        """
        # a pixel that is never black, or always, would have an infinite bias
        share = self.trained_on[0].cpu().double().mean(0).clamp(1e-7, 1 - 1e-7)
        with torch.no_grad():
            model.get_parameter("b_v").copy_(share.logit())

    def batches(self, phase: int, order: torch.Generator) -> Iterator[Tensor]:  # noqa: D102
        labels = self.trained_on[1]
        shuffled = torch.randperm(len(labels), generator=order).to(self.device)
        return iter(shuffled.split(self.recipe.batch_size))

    def minibatch(self, model: nn.Module, phase: int, examples: Tensor) -> Tensor:  # noqa: D102
        images, labels = self.trained_on
        binary = images[examples].bernoulli()
        of_pixels, of_label = prediction_costs(
            _boltzmann(model), binary, labels[examples], *self._masks(examples)
        )
        return (of_pixels + of_label).mean()

    def constrain(self, params: Mapping[str, Tensor]) -> None:
        """What feeds a unit and is longer than its cap is cut to it.

        Args:
            params: by name.
        """
        cut_rows(params, self.network.row_caps)

    def monitor(  # noqa: D102
        self, model: nn.Module, split: str, phase: int, seed: int
    ) -> dict[str, float]:
        fixed = _means(model, self.fixed[split], per_example)
        fresh = _means(model, self.drawn(split, seed), alone)
        return {"objective": fresh["loss"], "loss": fixed["loss"], "error": fixed["error"]}

    def test(self, model: nn.Module) -> dict[str, float]:
        """How many test images are labelled wrongly, by mean field and by multi-inference.

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
        """J as a function of the parameters, on the watched examples, with the draw that stays.

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
        data = {split: self._several(split, draws, examples) for split in splits}
        return ravine.Objective(
            model,
            costs or per_example,
            data,
            seed=self.recipe.seed,
            device=self.device,
            dtype=dtype,
            batch_size=_READ,
        )

    def _several(self, split: str, draws: int, examples: int | None) -> tuple[Tensor, ...]:
        """Draws of one split, one after the other."""
        each = [self.drawn(split, number) for number in range(draws)]
        return tuple(
            torch.cat([part[:examples] for part in parts]) for parts in zip(*each, strict=True)
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
            drawn = (
                images.bernoulli() if split == "train" else images,
                labels,
                *self._masks(labels),
                images,
            )
        return tuple(tensor.to(self.device) for tensor in drawn)

    def _masks(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        """What is dropped of so many examples, from the global generator of their device."""
        share, count, of = self.network.dropped, len(examples), examples.device
        pixels = torch.rand(count, self.network.inputs, device=of) < share
        return pixels, torch.rand(count, device=of) < share


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
