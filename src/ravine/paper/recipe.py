"""What a recipe is: everything that decides a training's outcome, frozen and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, get_args

from torch import nn

import ravine
from ravine.paper.device import Precision

Profile = Literal["quick", "desk", "full"]


#: Marks a field that came later: where it has its default it is not part of the hash, so that a
#: recipe that does not use it remains the recipe it was.
_LATER: Final = "later"


class Rate(Protocol):
    """A learning rate's schedule: a frozen dataclass of numbers."""

    def at(self, update: int, epoch: int) -> float:
        """The rate of an update, counted from 0 over the phase, in an epoch, counted from 1."""
        ...


@dataclass(frozen=True)
class PerUpdate:
    """A learning rate divided by a constant after every update, down to a floor.

    Attributes:
        start: of the first update.
        divisor: after t updates the rate is start / divisorᵗ.
        floor: and never less than this.
    """

    start: float
    divisor: float
    floor: float

    def at(self, update: int, epoch: int) -> float:
        """The rate of an update.

        Args:
            update: counted from 0 over the whole phase.
            epoch: not needed here.

        Returns:
            The rate.
        """
        return max(self.start / self.divisor**update, self.floor)


@dataclass(frozen=True)
class PerEpoch:
    """A learning rate that falls linearly with the epoch to a share of its start, and stays there.

    Attributes:
        start: before the first epoch, which already has one step less.
        share: of ``start`` that is left in the end.
        epochs: when that is reached.
    """

    start: float
    share: float
    epochs: int

    def at(self, update: int, epoch: int) -> float:
        """The rate of an epoch.

        Args:
            update: not needed here.
            epoch: counted from 1.

        Returns:
            The rate.
        """
        return self.start * (1 - (1 - self.share) * min(epoch / self.epochs, 1))


@dataclass(frozen=True)
class Divided:
    """A learning rate that stays for some epochs, and is divided once more for every later one.

    Attributes:
        start: of the first epoch.
        epochs: how many have that.
        divisor: of each epoch after those.
    """

    start: float
    epochs: int
    divisor: float

    def at(self, update: int, epoch: int) -> float:
        """The rate of an epoch.

        Args:
            update: not needed here.
            epoch: counted from 1.

        Returns:
            The rate.
        """
        return self.start / self.divisor ** max(epoch - self.epochs, 0)


@dataclass(frozen=True)
class Later:
    """A learning rate as another schedule has it from a later moment on, multiplied.

    Attributes:
        rate: the other schedule.
        updates: before that moment.
        epochs: before it.
        factor: of the rate.
    """

    rate: Rate
    updates: int
    epochs: int
    factor: float = 1.0

    def at(self, update: int, epoch: int) -> float:
        """The rate of an update, counted from 0, in an epoch, counted from 1.

        Args:
            update: since that moment.
            epoch: since then.

        Returns:
            The rate.

        Examples:
            >>> Later(PerUpdate(0.8, 2.0, 0.0), updates=2, epochs=0, factor=10.0).at(1, 1)
            1.0
        """
        return self.factor * self.rate.at(update + self.updates, epoch + self.epochs)


@dataclass(frozen=True)
class Momentum:
    """A momentum that rises linearly from the first epoch to a last one, and stays there.

    Attributes:
        start: in epoch 1.
        end: from ``epochs`` on.
        epochs: when ``end`` is reached.
    """

    start: float
    end: float
    epochs: int

    def at(self, epoch: int) -> float:
        """The momentum of an epoch, counted from 1."""
        rise = 1.0 if self.epochs == 1 else min((epoch - 1) / (self.epochs - 1), 1)
        return self.start + (self.end - self.start) * rise


@dataclass(frozen=True)
class Phase:
    """One stretch of training: how steps are taken, and when it ends.

    Attributes:
        rate: the learning rate's schedule.
        momentum: the momentum's schedule.
        patience: phase 1 ends once the task's criterion has not gone below its best for so many
            epochs, and the best epoch's parameters are kept; with None it lasts its ``epochs``, and
            the last one's are. Phase 2 has None: it takes the validation examples in and ends when
            their objective is down to what the training objective was at the end of phase 1.
        epochs: where to stop in any case; None for the paper's own end.
        clip: the largest Euclidean norm of a whole gradient; a longer one is shortened to it.
        watch_train: the training examples are watched after each of the first so many epochs, then
            after every so many, and where the phase ends; validation examples after every one.
        snapshots: None keeps the parameters of every epoch; a number so many updates per factor of
            10, evenly spaced in their logarithm: many within the first epoch, few later.
    """

    rate: Rate
    momentum: Momentum
    patience: int | None
    epochs: int | None = None
    clip: float | None = field(default=None, metadata={_LATER: True})
    watch_train: int = field(default=1, metadata={_LATER: True})
    snapshots: int | None = field(default=None, metadata={_LATER: True})


class Architecture(Protocol):
    """A network as a recipe states it: a frozen dataclass of plain values and such dataclasses.

    What it is trained for is chosen by its type: ``tasks.by_network``.
    """

    @property
    def about(self) -> str:
        """Its kind and its sizes, for a list."""
        ...

    def build(self, seed: int) -> nn.Module:
        """A new network, its initial parameters drawn from one seeded stream."""
        ...


@dataclass(frozen=True)
class Branch:
    """Where a training leaves another one: it starts from that one's parameters, at rest.

    Attributes:
        trunk: the other training.
        step: after so many updates of its phase 1, of which it kept a snapshot.
    """

    trunk: Recipe
    step: int


@dataclass(frozen=True)
class Recipe:
    """A training run, whole: data, network, steps and seed.

    Attributes:
        name: of the experiment.
        profile: how much of it.
        data: the data set's name.
        train: so many examples are trained on, the first of the official training part.
        valid: so many after them, or of an official validation part, are held out for stopping.
        network: what is trained; its type says for what task.
        batch_size: examples per update; of a text, streams that are read side by side.
        phases: one, or two.
        seed: of initial parameters, order and masks.
        version: of the trainer's arithmetic; raised when it would give other bits.
        precision: of the products while training: "float32", "tf32" (where the card has it) or
            "bf16" (autocast). Parameters and velocities are float32 in any case, and so is whatever
            is measured afterwards.
        branch: where it leaves another training; None starts from initial parameters.
        even: all batches have one size. What does not fill one is left out,
            of the training examples others in each epoch, and of the
            validation examples the last where they are watched.
    """

    name: str
    profile: Profile
    data: str
    train: int
    valid: int
    network: Architecture
    batch_size: int
    phases: tuple[Phase, ...]
    seed: int = 0
    version: int = 1
    precision: Precision = field(default="float32", metadata={_LATER: True})
    branch: Branch | None = field(default=None, metadata={_LATER: True})
    even: bool = field(default=False, metadata={_LATER: True})

    def __post_init__(self) -> None:
        if self.phases[0].patience is None and self.phases[0].epochs is None:
            msg = f"phase 1 of {self.name} has no end: give it patience, or epochs"
            raise ravine.InputError(msg)
        if self.precision not in get_args(Precision):
            msg = (
                f"the precision of {self.name} must be one of {', '.join(get_args(Precision))}; "
                f"got {self.precision!r}"
            )
            raise ravine.InputError(msg)
        for phase in self.phases:
            asked = {"watch_train": phase.watch_train, "snapshots": phase.snapshots}
            for name, number in asked.items():
                if number is not None and number < 1:
                    msg = f"{name} of {self.name} must be a whole number from 1; got {number}"
                    raise ravine.InputError(msg)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()

    @property
    def plain(self) -> Recipe:
        """The same training in float32, with everything watched and kept."""
        phases = tuple(replace(phase, watch_train=1, snapshots=None) for phase in self.phases)
        return replace(self, phases=phases, precision="float32")

    @property
    def lean(self) -> Recipe:
        """The same steps, with less watched and kept.

        Training examples are watched after the first ten epochs, then every tenth; ten snapshots
        are kept a decade.
        """
        phases = tuple(replace(phase, watch_train=10, snapshots=10) for phase in self.phases)
        return replace(self, phases=phases)

    @property
    def is_lean(self) -> bool:
        """Whether less is watched or kept than after every epoch."""
        return any((phase.watch_train, phase.snapshots) != (1, None) for phase in self.phases)

    @property
    def folder(self) -> str:
        """Where its outcome is kept under an output root."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.name}-{self.profile}{seed}-{self.hash[:12]}"


def canonical(recipe: Any) -> str:
    """A frozen dataclass as JSON: keys sorted, each dataclass with its type's name.

    Args:
        recipe: a dataclass of numbers, strings, tuples and further dataclasses.

    Returns:
        One line, the same for equal recipes on every machine.

    Examples:
        >>> canonical(Momentum(0.5, 0.7, 250))
        '{"end":0.7,"epochs":250,"start":0.5,"type":"Momentum"}'
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            said = {
                f.name: plain(getattr(value, f.name))
                for f in dataclasses.fields(value)
                if not (_LATER in f.metadata and getattr(value, f.name) == f.default)
            }
            return {"type": type(value).__name__, **said}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return json.dumps(plain(recipe), sort_keys=True, separators=(",", ":"))
