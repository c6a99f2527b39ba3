"""Deadlines: training and measuring end in time, whatever the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import ravine

#: Of the minutes: training's; measuring has the rest. Ours.
SHARE: Final = 0.6


@dataclass
class Deadline:
    """The moment at which something must be over.

    Attributes:
        end: in the clock's seconds.
        about: whose end it is, in words.
        clock: tells the seconds.
    """

    end: float
    about: str = "the time"
    clock: Callable[[], float] = time.monotonic

    def leaves(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return self.clock() + seconds <= self.end

    @property
    def left(self) -> float:
        """Seconds until then; below 0 after it."""
        return self.end - self.clock()


@dataclass
class Budget:
    """The minutes of a command, shared between its trainings and what is measured after them.

    Each training has an equal part of what is left of their share, so that one that is done early,
    or was done before, leaves its time to the others.

    Args:
        minutes: of the command, from now on.
        trainings: how many there are to be.
        share: of the minutes, for all trainings together.
        clock: tells the seconds.

    Raises:
        ravine.InputError: minutes that are no positive number, or a share outside [0, 1].

    Examples:
        >>> budget = Budget(10, trainings=2, clock=lambda: 0.0)
        >>> [budget.training().left / 60 for _ in range(2)]
        [3.0, 6.0]
    """

    minutes: float
    trainings: int = 1
    share: float = SHARE
    clock: Callable[[], float] = time.monotonic
    whole: Deadline = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            msg = f"the budget must be a positive number of minutes; got {self.minutes:g}"
            raise ravine.InputError(msg)
        if not 0 <= self.share <= 1:
            msg = f"the share of training must be from 0 to 1; got {self.share:g}"
            raise ravine.InputError(msg)
        now = self.clock()
        about = f"the budget of {self.minutes:g} minutes"
        self.whole = Deadline(now + 60 * self.minutes, about, self.clock)
        self._trained_by = now + 60 * self.minutes * self.share

    def training(self) -> Deadline:
        """The next training's deadline."""
        left = max(self._trained_by - self.clock(), 0.0)
        part = left / max(self.trainings, 1)
        self.trainings -= 1
        return Deadline(self.clock() + part, self.whole.about, self.clock)
