"""Classification: what every network with logits is trained for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine.paper.data import Splits
from ravine.paper.device import drawing
from ravine.paper.recipe import Architecture, Recipe
from ravine.paper.tasks.task import Dropout, Independent, cut_rows, require_enough

#: Examples per forward pass when nothing is learned: few on a CPU, for its caches; many elsewhere,
#: where launching them is what takes the time.
_MONITORED: Final = 250
_MONITORED_ON_A_CARD: Final = 2_500


class Classifier(Architecture, Protocol):
    """An architecture that ends in logits, (examples, classes)."""

    @property
    def caps(self) -> Mapping[str, float]:
        """Parameter name → the largest norm of any row: of what feeds a unit, piece, or kernel."""
        ...

    @property
    def rate_scales(self) -> Mapping[str, float]:
        """Parameter name → factor of its learning rate; 1 where it is not named."""
        ...

    @property
    def noisy(self) -> bool:
        """Whether it draws masks while training."""
        ...


class Classification(Independent):
    """Cross-entropy on labelled examples, shuffled each epoch; rows longer than a cap are cut.

    Args:
        network: what is trained.
        recipe: how.
        parts: "train" and "test" → inputs (examples, …) and labels (examples,).

    Raises:
        ravine.InputError: there are too few examples.
    """

    def __init__(self, network: Classifier, recipe: Recipe, parts: Splits) -> None:
        inputs, labels = parts["train"]
        require_enough(recipe, len(labels))
        both = recipe.train + recipe.valid
        self.network = network
        self.recipe = recipe
        self.rate_scales = network.rate_scales
        self.valid = inputs[recipe.train : both], labels[recipe.train : both]
        self.trained_on = [
            (inputs[: recipe.train], labels[: recipe.train]),
            (inputs[:both], labels[:both]),
        ]
        self.tested_on = parts["test"]
        self.balanced = is_balanced(labels)

    def batches(self, phase: int, order: torch.Generator) -> Iterator[Tensor]:  # noqa: D102
        labels = self.trained_on[phase][1]
        shuffled = torch.randperm(len(labels), generator=order).to(labels.device)
        return iter(self._used(shuffled).split(self.recipe.batch_size))

    def minibatch(self, model: nn.Module, phase: int, examples: Tensor) -> Tensor:  # noqa: D102
        inputs, labels = self.trained_on[phase]
        return F.cross_entropy(model(inputs[examples]), labels[examples])

    def _used(self, examples: Tensor) -> Tensor:
        """All of them, or as many as fill batches.

        References:
            pylearn2 @ af81e5c, ``utils/iteration.py`` (ForcedEvenIterator).
        """
        size = self.recipe.batch_size
        return examples[: len(examples) // size * size] if self.recipe.even else examples

    def constrain(self, params: Mapping[str, Tensor]) -> None:
        """Rows longer than their cap are cut to it; the others keep their bits.

        Args:
            params: by name; a row is everything behind the first axis.

        References:
            pylearn2, ``model_extensions/norm_constraint.py``.
        """
        cut_rows(params, self.network.caps)

    def monitor(  # noqa: D102
        self, model: nn.Module, split: str, phase: int, seed: int
    ) -> dict[str, float]:
        examples = self.trained_on[phase]
        if split == "valid":
            inputs, labels = self.valid
            examples = self._used(inputs), self._used(labels)
        loss, error = means(model.eval(), *examples)
        objective = loss
        if self.network.noisy:
            with drawing(seed, examples[1].device):
                objective, _ = means(model.train(), *examples)
        return {"objective": objective, "loss": loss, "error": error}

    def test(self, model: nn.Module) -> dict[str, float]:
        """How many test examples are given another label than theirs.

        Args:
            model: the outcome of a phase.

        Returns:
            ``errors``.
        """
        _, error = means(model.eval(), *self.tested_on)
        return {"errors": round(error * len(self.tested_on[1]))}

    def objective(  # noqa: D102
        self, splits: Sequence[str], *, dropout: Dropout = "off", dtype: torch.dtype | None = None
    ) -> ravine.Objective:
        parts = {"train": self.trained_on[0], "valid": self.valid}
        return ravine.Objective(
            self.network.build(self.recipe.seed),
            ravine.supervised(F.cross_entropy),
            {split: parts[split] for split in splits},
            dropout=dropout,
            seed=self.recipe.seed,
            device=self.valid[1].device,
            dtype=dtype,
            strata=class_of if self.balanced else None,
        )


def is_balanced(labels: Tensor) -> bool:
    """Whether a data set has as many examples of each class by design: then a draw of it has, too.

    Examples:
        >>> is_balanced(torch.tensor([1, 0, 0, 1])), is_balanced(torch.tensor([1, 0, 0]))
        (True, False)
    """
    return len(labels.unique(return_counts=True)[1].unique()) == 1


def class_of(batch: tuple[Tensor, Tensor]) -> Tensor:
    """The strata of a balanced set: the class of each example of a batch."""
    return batch[1]


def means(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and error of a classifier, in the mode that it is in, summed in float64.

    Args:
        model: gives logits.
        inputs: (examples, …).
        labels: (examples,).

    Returns:
        Nats per example, and the share that is wrong.
    """
    loss = wrong = 0.0
    most = _MONITORED if labels.device.type == "cpu" else _MONITORED_ON_A_CARD
    with torch.inference_mode():
        for some, truth in zip(inputs.split(most), labels.split(most), strict=True):
            logits = model(some)
            loss += float(F.cross_entropy(logits, truth, reduction="none").sum(dtype=torch.float64))
            wrong += int((logits.argmax(1) != truth).sum())
    return loss / len(labels), wrong / len(labels)
