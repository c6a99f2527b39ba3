"""Watching: what is monitored and tested of a model in training, without changing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ravine.paper.device import Precision, computing, in_words
from ravine.paper.recipe import Recipe
from ravine.paper.tasks.task import Task
from ravine.paper.training.history import Row
from ravine.paper.training.streams import stream


class Watch:
    """Looks at a model in training.

    What is random in that comes from streams of their own, one per split and row, so that watching
    does not change what is watched.

    Args:
        recipe: of the training; forward passes are in its precision.
        task: says what is to be seen.
        model: in training.
        device: that it is on.
    """

    def __init__(self, recipe: Recipe, task: Task, model: nn.Module, device: torch.device) -> None:
        self.recipe = recipe
        self.task = task
        self.model = model
        self.device = device

    def row(self, split: str, phase: int, place: int) -> Row:
        """What is monitored of a split.

        Args:
            split: "train" or "valid".
            phase: counted from 0.
            place: of the row that it is noted in; chooses the stream of random numbers.

        Returns:
            split_quantity → mean.
        """
        seed = stream(self.recipe.seed, "monitor", split, place)
        found = self._monitored(split, phase, seed, self.recipe.precision)
        return {f"{split}_{name}": value for name, value in found.items()}

    def tested(self, point: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """What the test part says: quantity → value.

        Args:
            point: of which; by default where the model stands.
        """
        standing = contextlib.nullcontext() if point is None else self.at(point)
        with standing, computing(self.recipe.precision, self.device):
            return self.task.test(self.model)

    def effect_of_precision(self) -> dict[str, Any]:
        """J of the validation examples, in training's precision and in float32; as attributes."""
        seed = stream(self.recipe.seed, "precision")
        rounded = self._monitored("valid", 0, seed, self.recipe.precision)
        exact = self._monitored("valid", 0, seed, "float32")
        pairs = {
            f"precision_{name}": [rounded[name], exact[name]] for name in ("loss", "objective")
        }
        return {"precision": in_words(self.recipe.precision, self.device), **pairs}

    @contextlib.contextmanager
    def at(self, point: Mapping[str, Tensor]) -> Iterator[None]:
        """The model stands at a point, and afterwards where it stood."""
        params = dict(self.model.named_parameters())
        here = {name: tensor.detach().clone() for name, tensor in params.items()}
        copy(point, params)
        try:
            yield
        finally:
            copy(here, params)

    def _monitored(
        self, split: str, phase: int, seed: int, precision: Precision
    ) -> dict[str, float]:
        with computing(precision, self.device):
            return self.task.monitor(self.model, split, phase, seed)


def copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Overwrite tensors by those of the same names.

    Args:
        source: name → values.
        target: name → what is overwritten.
    """
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name].detach())
