"""The course of trainings: epochs and phases, saved on the way, until they or the time end."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

import ravine
from ravine.paper.data import Splits, load
from ravine.paper.device import CPU, moved, usable
from ravine.paper.recipe import Recipe, canonical
from ravine.paper.training.deadline import Deadline
from ravine.paper.training.files import whole
from ravine.paper.training.run import Run
from ravine.paper.training.stack import Stack, require_stackable
from ravine.paper.training.trainer import Training

#: A lean training saves its state no more often than this, in seconds: it would take longer than an
#: epoch on a large GPU.
_SAVED_EVERY: Final = 60.0

#: An epoch is expected to take as long as the longest of so many before it.
_REMEMBERED: Final = 10

#: A run's recipe, in its folder.
_NOTE: Final = "recipe.json"

Say = Callable[[str], Any]


def _silent(line: str) -> None:
    """Nothing is said."""


class Course:
    """Trainings on their way to the end, or to a deadline.

    Where the next epoch would end after the deadline, they stop with what they have: the solution
    so far, tested, and its history. One epoch is taken in any case. Begun again they go on from
    there; a training for itself, on a CPU, to the bits that it would have had.

    Args:
        trainings: one, or several that differ in their seeds alone.
        say: told a line per epoch and training.
        until: when to stop; None goes on to the end.
    """

    def __init__(
        self, trainings: Sequence[Training], say: Say = _silent, until: Deadline | None = None
    ) -> None:
        self.trainings = tuple(trainings)
        self.say = say
        self.until = until
        self._clock = until.clock if until is not None else time.monotonic
        self._took = deque[float](maxlen=_REMEMBERED)
        self._saved = self._clock()
        self._stack: Stack | None = None

    def run(self) -> None:
        """Take epochs and end phases, saving on the way (a lean training once a minute)."""
        for training in self.trainings:
            training.begin()
        while pending := [training for training in self.trainings if not training.state.done]:
            over = [training for training in pending if training.phase_is_over]
            if over:
                self._end_phases(over)
            elif self._time_is_up(pending):
                self._stop(pending)
                break
            else:
                self._take_an_epoch(_furthest_behind(pending))
        for training in self.trainings:
            if training.state.done:
                training.finish()

    def _end_phases(self, over: Sequence[Training]) -> None:
        for training in over:
            training.end_phase()
            tests = training.state.tests
            found = ", ".join(f"{name} {value:.6g}" for name, value in tests[-1].items())
            self._tell(training, f"phase {len(tests)} is over; on the test part: {found}")
        self._save(over)

    def _time_is_up(self, pending: Sequence[Training]) -> bool:
        if self.until is None or not any(training.has_moved for training in pending):
            return False
        return not self.until.leaves(max(self._took, default=0.0))

    def _stop(self, pending: Sequence[Training]) -> None:
        about = "the time" if self.until is None else self.until.about
        for training in pending:
            self._tell(training, f"stopped: {training.stop(about)}")

    def _take_an_epoch(self, together: Sequence[Training]) -> None:
        began, noted = self._clock(), time.perf_counter()
        if len(self.trainings) == 1:
            together[0].epoch()
        else:
            self._stacked(together).epoch()
        for training in together:
            self._tell(training, training.end_epoch(noted))
        self._took.append(self._clock() - began)
        if not together[0].recipe.is_lean or self._clock() - self._saved >= _SAVED_EVERY:
            self._save(together)

    def _stacked(self, together: Sequence[Training]) -> Stack:
        """The stack of these trainings in their phase; it lasts while they stay together."""
        if self._stack is None or not self._stack.holds(together):
            self._stack = Stack(together)
        return self._stack

    def _save(self, trainings: Sequence[Training]) -> None:
        for training in trainings:
            training.save()
        self._saved = self._clock()

    def _tell(self, training: Training, line: str) -> None:
        several = len(self.trainings) > 1
        self.say(f"seed {training.recipe.seed}: {line}" if several else line)


def _furthest_behind(trainings: Sequence[Training]) -> list[Training]:
    """Those that are at the earliest place of the schedule: they take their next epoch together."""
    first = min((one.state.phase, one.state.epoch) for one in trainings)
    return [one for one in trainings if (one.state.phase, one.state.epoch) == first]


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    say: Say = _silent,
    *,
    device: torch.device | str = CPU,
    until: Deadline | None = None,
    parts: Splits | None = None,
) -> Run:
    """Train by a recipe, or go on where a training stopped, or find that it was done before.

    The same recipe gives the same bits on one machine's CPU with one number of threads, whether it
    was killed, stopped or neither. The order of examples and the initial parameters are the same on
    every device; masks are not, and GPUs may sum in another order every time.

    Args:
        recipe: what to do.
        out: the output root; the run has a folder of its own in it, named after the recipe's hash.
        data: folder with the data's files; see ``data.load``.
        say: told a line per epoch.
        device: where to compute.
        until: when to stop; None trains to the end.
        parts: the data, where they were loaded before.

    Returns:
        The run: finished, or stopped.

    Raises:
        ravine.InputError: the data or the device cannot be had, the folder is not this recipe's,
            damaged, of another kind of device, or not writable, or the training that this one
            leaves is not under ``out``.
    """
    [run] = train_together([recipe], out, data, say, device=device, until=until, parts=parts)
    return run


def train_together(
    recipes: Sequence[Recipe],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    say: Say = _silent,
    *,
    device: torch.device | str = CPU,
    until: Deadline | None = None,
    parts: Splits | None = None,
) -> list[Run]:
    """Several seeds of one recipe, trained at once: an update is one computation for all.

    On a card five small networks take less than twice as long as one alone. Each
    has its own start, its own order of examples and its own end, as if it were
    alone; masks come from one stream, so that on no device the bits are those of a
    training for itself. What is done already is left alone.

    Args:
        recipes: that differ in their seeds alone.
        out: as in ``train``.
        data: as in ``train``.
        say: told a line per epoch and seed.
        device: as in ``train``.
        until: as in ``train``.
        parts: as in ``train``.

    Returns:
        The runs, in order: finished, or stopped.

    Raises:
        ravine.InputError: as in ``train``; the recipes differ in more than their seeds, a seed is
            there twice, or their task carries something from one minibatch to the next.
    """
    _require_alike(recipes)
    runs = [Run(recipe, Path(out) / recipe.folder) for recipe in recipes]
    for run in runs:
        _require_own(run)
    pending = [run for run in runs if not run.done]
    if not pending:
        return runs
    where = usable(device)
    loaded = moved(load(recipes[0].data, data) if parts is None else parts, where)
    for run in pending:
        with whole(run.folder / _NOTE) as partial:
            partial.write_text(canonical(run.recipe) + "\n", encoding="utf-8")
    trainings = [Training(run.recipe, loaded, run.folder, where) for run in pending]
    if len(trainings) > 1:
        require_stackable(trainings)
    Course(trainings, say, until).run()
    return [Run(run.recipe, run.folder) for run in runs]  # what they knew of their history is over


def _require_alike(recipes: Sequence[Recipe]) -> None:
    if not recipes:
        msg = "there must be a recipe to train by; got none"
        raise ravine.InputError(msg)
    seeds = [recipe.seed for recipe in recipes]
    other = [recipe for recipe in recipes if replace(recipe, seed=seeds[0]) != recipes[0]]
    if other or len(set(seeds)) < len(seeds):
        what = f"one is of {other[0].folder}" if other else f"got the seeds {seeds}"
        msg = (
            f"recipes that are trained together differ in their seeds, and in nothing else; {what}"
        )
        raise ravine.InputError(msg)


def _require_own(run: Run) -> None:
    note = run.folder / _NOTE
    if note.exists() and note.read_text(encoding="utf-8").strip() != canonical(run.recipe):
        msg = (
            f"{str(run.folder)!r} holds the training of another recipe than its name says; choose "
            "another --out"
        )
        raise ravine.InputError(msg)


def restart(run: Run, data: str | os.PathLike[str] | None = None) -> None:
    """Make a run's initial parameters again, where the run came without them.

    Args:
        run: with ``recipe.json``, and no trajectory.
        data: as in ``train``; some networks' start depends on it.

    Raises:
        ravine.InputError: the data cannot be had.
    """
    if not run.start.exists():
        job = Training(run.recipe, load(run.recipe.data, data), run.folder)
        job.recorder.keep(0, job.model)
