"""What a training is of: the trainer knows steps, phases and memory, a task everything else.

``Task`` is what the trainer and the figures ask; ``Classification`` answers for every network with
logits.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine.paper.data import Splits

if TYPE_CHECKING:
    from ravine.paper.recipes import Recipe

Dropout = Literal["off", "fixed", "resample"]

_MONITORED: Final = 250  # examples per forward pass when nothing is learned


class Architecture(Protocol):
    """A network as a recipe states it: a frozen dataclass of numbers, strings, tuples and further such dataclasses."""

    @property
    def about(self) -> str:
        """Its kind and its sizes, for a list."""
        ...

    def build(self, seed: int) -> nn.Module:
        """A new network, its initial parameters drawn from one seeded stream."""
        ...

    def task(self, recipe: Recipe, parts: Splits) -> Task:
        """What to train it for.

        Args:
            recipe: that this network is part of.
            parts: of its data, as ``data.load`` gives them.
        """
        ...


class Task(ABC):
    """What is trained: examples, the objective of a minibatch, constraints, and what is watched.

    A task has no random state of its own. Whatever it draws in ``epoch``, it draws from ``order``
    or from torch's global generator (as dropout does): the trainer saves both, so that a killed run
    goes on to the same bits.

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

    def constrain(self, params: Mapping[str, Tensor]) -> None:  # noqa: B027  many tasks have no constraint
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


class Classifier(Architecture, Protocol):
    """An architecture that ends in logits, (examples, classes)."""

    @property
    def caps(self) -> Mapping[str, float]:
        """Parameter name → the largest norm of any of its rows: of what feeds one unit, one piece, or one kernel."""
        ...

    @property
    def rate_scales(self) -> Mapping[str, float]:
        """Parameter name → factor of its learning rate; 1 where it is not named."""
        ...

    @property
    def noisy(self) -> bool:
        """Whether it draws masks while training."""
        ...


class Classification(Task):
    """Cross-entropy on labelled examples, which are shuffled anew each epoch; rows longer than their cap are cut to it.

    Args:
        network: what is trained.
        recipe: how.
        parts: "train" and "test" → inputs (examples, …) and labels (examples,).

    Raises:
        ravine.InputError: there are too few examples.
    """

    def __init__(self, network: Classifier, recipe: Recipe, parts: Splits) -> None:
        inputs, labels = parts["train"]
        both = recipe.train + recipe.valid
        if len(labels) < both:
            msg = (
                f"{recipe.name} takes {recipe.train} + {recipe.valid} examples of {recipe.data}; "
                f"got {len(labels)}"
            )
            raise ravine.InputError(msg)
        self.network = network
        self.recipe = recipe
        self.rate_scales = network.rate_scales
        self.valid = inputs[recipe.train : both], labels[recipe.train : both]
        self.trained_on = [
            (inputs[: recipe.train], labels[: recipe.train]),
            (inputs[:both], labels[:both]),
        ]
        self.tested_on = parts["test"]

    def epoch(self, model: nn.Module, phase: int, order: torch.Generator) -> Iterator[Tensor]:  # noqa: D102
        inputs, labels = self.trained_on[phase]
        for batch in torch.randperm(len(labels), generator=order).split(self.recipe.batch_size):
            yield F.cross_entropy(model(inputs[batch]), labels[batch])

    def constrain(self, params: Mapping[str, Tensor]) -> None:
        """Rows longer than their cap are cut to it; the others keep their bits.

        Args:
            params: by name; a row is everything behind the first axis.

        References:
            pylearn2, ``model_extensions/norm_constraint.py``.
        """
        cut_rows(params, self.network.caps)

    def monitor(self, model: nn.Module, split: str, phase: int, seed: int) -> dict[str, float]:  # noqa: D102
        examples = self.valid if split == "valid" else self.trained_on[phase]
        loss, error = means(model.eval(), *examples)
        objective = loss
        if self.network.noisy:
            with drawing(seed):
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
            dtype=dtype,
        )


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
        if bool((norms > cap).any()):
            tensor.mul_((cap / norms).clamp_(max=1).reshape(-1, *[1] * (tensor.ndim - 1)))


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
    with torch.inference_mode():
        for some, truth in zip(inputs.split(_MONITORED), labels.split(_MONITORED), strict=True):
            logits = model(some)
            loss += float(F.cross_entropy(logits, truth, reduction="none").sum(dtype=torch.float64))
            wrong += int((logits.argmax(1) != truth).sum())
    return loss / len(labels), wrong / len(labels)


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Random numbers from a stream of that seed; the global one is afterwards as it was.

    Args:
        seed: of the stream.

    Examples:
        >>> with drawing(0):
        ...     one = torch.rand(())
        >>> with drawing(0):
        ...     again = torch.rand(())
        >>> bool(one == again)
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
