"""Several seeds at once: their parameters stacked, an update one computation for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

import ravine
from ravine.paper.device import preserved, products, random_state, set_random_state
from ravine.paper.tasks.task import Independent
from ravine.paper.training.trainer import Training
from ravine.paper.training.updates import Updates, as_graph


class Stack:
    """Trainings by one recipe, at one place of its schedule, that take their epochs together.

    The parameters and velocities of each become views into tensors that hold all of them, so that
    everything else (watching, recording, saving) is each training's own.

    Args:
        trainings: that differ in their seeds alone, in one phase and epoch.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = tuple(trainings)
        self._phases = self._where
        self._updates = self._stacked()

    def holds(self, trainings: Sequence[Training]) -> bool:
        """Whether it is the stack of these, in the phase that they are in now."""
        return tuple(trainings) == self.trainings and self._phases == self._where

    def epoch(self) -> None:
        """One pass over the training examples, in each one's own order."""
        first = self.trainings[0]
        task: Any = first.task
        with preserved(first.device), products(first.recipe.precision):
            set_random_state(first.device, first.masks)
            for training in self.trainings:
                training.model.train()
            orders = [task.batches(first.state.phase, one.order) for one in self.trainings]
            for batches in zip(*orders, strict=True):
                self._updates.take(torch.stack(batches), *first.pace)
                for training in self.trainings:
                    training.count()
            for training in self.trainings:
                training.state.epoch += 1
                training.masks = random_state(first.device)

    @property
    def _where(self) -> list[int]:
        return [training.state.phase for training in self.trainings]

    def _stacked(self) -> Updates:
        first = self.trainings[0]
        task: Any = first.task
        phase = first.state.phase
        params = _stacked([training.params for training in self.trainings])
        velocity = _stacked([training.velocity for training in self.trainings])
        batch = _Minibatch(task, first.model, phase)

        def one(point: dict[str, Tensor], examples: Tensor) -> Tensor:
            return functional_call(batch, point, (examples,))

        stacked = {f"model.{name}": tensor.requires_grad_() for name, tensor in params.items()}
        # its gradient by one seed's parameters is that of the seed's own objective
        rows = {name: tensor.detach().flatten(0, 1) for name, tensor in params.items()}
        return Updates(
            params,
            velocity,
            task.rate_scales,
            lambda examples: vmap(one, randomness="different")(stacked, examples).sum(),
            lambda: task.constrain(rows),
            first.recipe.precision,
            as_graph if first.device.type == "cuda" else None,
        )


class _Minibatch(nn.Module):
    """The objective of a minibatch as a module, so that it can be called with other parameters."""

    def __init__(self, task: Independent, model: nn.Module, phase: int) -> None:
        super().__init__()
        self.task = task
        self.model = model
        self.phase = phase

    def forward(self, examples: Tensor) -> Tensor:
        """The objective of these examples."""
        return self.task.minibatch(self.model, self.phase, examples)


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of each name one tensor of all."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of all, (tensors, …), of which each becomes a part."""
    whole = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, whole, strict=True):
        tensor.data = part
    return whole


def require_stackable(trainings: Sequence[Training]) -> None:
    """Refuse trainings whose updates cannot be one computation.

    Raises:
        ravine.InputError: their task carries something from one minibatch to the next, or a whole
            gradient is shortened, which needs its length first.
    """
    task, recipe = trainings[0].task, trainings[0].recipe
    if not isinstance(task, Independent):
        msg = (
            f"{recipe.name} carries something from one minibatch to the next, so that its seeds "
            "cannot be trained together; train them one by one"
        )
        raise ravine.InputError(msg)
    if any(phase.clip is not None for phase in recipe.phases):
        msg = (
            f"{recipe.name} shortens whole gradients, so that its seeds cannot be trained together"
        )
        raise ravine.InputError(msg)
