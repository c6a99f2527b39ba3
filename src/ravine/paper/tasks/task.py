"""What a training is of: the trainer knows steps, phases and memory, a task everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

import ravine
from ravine.paper.recipe import Recipe

Dropout = Literal["off", "fixed", "resample"]


class Task(ABC):
    """What is trained: examples, the objective of a minibatch, constraints, and what is watched.

    A task has no random state of its own. Whatever it draws in ``epoch``, it draws from ``order``,
    which is the CPU's on every device, or from torch's global generator of the device that its data
    are on (as dropout does): the trainer saves both, so that a killed run goes on to the same bits.

    Attributes:
        criterion: the quantity, of the validation examples, by which the best epoch is told; less
            is better.
        rate_scales: parameter name → factor of its learning rate; 1 where it is not named.
    """

    criterion: ClassVar[str] = "error"
    rate_scales: Mapping[str, float] = {}

    def start(self, model: nn.Module) -> None:  # noqa: B027  many networks know their start without
        """Set, in place, those initial parameters that depend on the data.

        Args:
            model: newly built.
        """

    @abstractmethod
    def epoch(self, model: nn.Module, phase: int, order: torch.Generator) -> Iterator[Tensor]:
        """The objective of each minibatch of one epoch, in turn: a scalar to go down from.

        The next one is computed after the update that follows from this one; what is carried from
        batch to batch (a recurrent state, persistent chains) is a local variable here.

        Args:
            model: in training mode.
            phase: counted from 0; in the second one the validation examples are trained on as well.
            order: for the order of the examples.

        Yields:
            Scalars with a gradient.
        """

    def constrain(self, params: Mapping[str, Tensor]) -> None:  # noqa: B027  many have none
        """Put the parameters back, in place, to where they may be; called after every update.

        Args:
            params: by name.
        """

    @abstractmethod
    def monitor(self, model: nn.Module, split: str, phase: int, seed: int) -> dict[str, float]:
        """What is watched, before each phase and after its every epoch.

        Args:
            model: as it stands; its mode may be changed, its parameters not.
            split: "train" or "valid".
            phase: counted from 0.
            seed: of whatever is random here; another one for every epoch and split.

        Returns:
            Quantity → mean, always the same ones: ``objective``, as it was trained, ``loss``,
            without anything random, and ``criterion`` among them.
        """

    @abstractmethod
    def test(self, model: nn.Module) -> dict[str, float]:
        """What the test examples say at the end of a phase.

        Args:
            model: the outcome of the phase.

        Returns:
            Quantity → value.
        """

    @abstractmethod
    def objective(
        self, splits: Sequence[str], *, dropout: Dropout = "off", dtype: torch.dtype | None = None
    ) -> ravine.Objective:
        """J as a function of the parameters, on the examples of phase 1.

        Args:
            splits: of "train" and "valid".
            dropout: "off" is the deterministic objective; with masks it is what training minimised.
            dtype: precision of the forward pass.

        Returns:
            The objective.
        """


class Independent(Task):
    """A task whose minibatches are sets of examples: nothing is carried from one to the next.

    So an update can be launched as one CUDA graph, and several seeds can be trained at once, their
    parameters stacked. ``constrain`` then sees the rows of all seeds as one tensor's: a constraint
    must be one of rows.
    """

    @abstractmethod
    def batches(self, phase: int, order: torch.Generator) -> Iterator[Tensor]:
        """The numbers of each minibatch's examples in one epoch, in turn, on the data's device.

        Args:
            phase: as in ``epoch``.
            order: as in ``epoch``.

        Yields:
            (examples,) integers.
        """

    @abstractmethod
    def minibatch(self, model: nn.Module, phase: int, examples: Tensor) -> Tensor:
        """The objective of one minibatch: a scalar.

        Args:
            model: in training mode.
            phase: as in ``epoch``.
            examples: (examples,), as ``batches`` gives them.

        Returns:
            A scalar with a gradient.
        """

    def epoch(self, model: nn.Module, phase: int, order: torch.Generator) -> Iterator[Tensor]:
        """The objective of each minibatch of one epoch, in turn."""
        for examples in self.batches(phase, order):
            yield self.minibatch(model, phase, examples)


def require_enough(recipe: Recipe, there: int) -> None:
    """Refuse data of which nothing would be left to validate on.

    Args:
        recipe: how many examples it takes.
        there: how many there are.

    Raises:
        ravine.InputError: there are too few.
    """
    if there < recipe.train + recipe.valid:
        msg = (
            f"{recipe.name} takes {recipe.train} + {recipe.valid} examples of {recipe.data}; "
            f"got {there}"
        )
        raise ravine.InputError(msg)


def cut_rows(params: Mapping[str, Tensor], caps: Mapping[str, float]) -> None:
    """Cut rows that are longer than their cap to it, in place; the others keep their bits.

    Args:
        params: by name; a row is everything behind the first axis.
        caps: parameter name → the largest Euclidean norm of any of its rows.

    Examples:
        >>> rows = {"weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}
        >>> cut_rows(rows, {"weight": 2.0})
        >>> rows["weight"]
        tensor([[1.2000, 1.6000],
                [0.0000, 1.0000]])

    References:
        pylearn2, ``model_extensions/norm_constraint.py``.
    """
    for name, cap in caps.items():
        tensor = params[name]
        norms = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
        # a factor of 1 keeps the bits; to ask a GPU whether any other is needed would make it wait
        if tensor.device.type != "cpu" or bool((norms > cap).any()):
            tensor.mul_((cap / norms).clamp_(max=1).reshape(-1, *[1] * (tensor.ndim - 1)))
