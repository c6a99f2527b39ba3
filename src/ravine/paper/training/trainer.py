"""The trainer: SGD as the recipes say, on any device, saved whole, resumed to the same bits, stopped by time."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import xarray as xr
from torch import Tensor

import ravine
from ravine.paper.data import Splits, load
from ravine.paper.device import (
    CPU,
    described,
    each_computed,
    generator_state,
    moved,
    placed,
    preserved,
    products,
    random_state,
    set_random_state,
    usable,
)
from ravine.paper.recipe import Phase, Recipe, canonical
from ravine.paper.tasks.by_network import task_for
from ravine.paper.training.deadline import Deadline
from ravine.paper.training.files import whole
from ravine.paper.training.history import Row, as_dataset, as_line, solution_among
from ravine.paper.training.memory import STATE, Groups, State, Streams, restore, save, save_params
from ravine.paper.training.run import Run
from ravine.paper.training.streams import stream
from ravine.paper.training.watch import Watch, copy

#: A lean training saves its state no more often than this, in seconds: it would take longer than an
#: epoch on a large GPU.
_SAVED_EVERY: Final = 60.0

#: An epoch is expected to take as long as the longest of so many before it.
_REMEMBERED: Final = 10

Say = Callable[[str], Any]


def _silent(line: str) -> None:
    """Nothing is said."""


class Training:
    """One training in progress: its model, its velocities, its random streams, and how to take an epoch.

    Args:
        recipe: what to do.
        parts: of the data, as ``data.load`` gives them.
        folder: where to save.
        device: where to compute.

    Raises:
        ravine.InputError: there are too few examples, the device cannot be used, the folder holds a
            damaged state, or one of another kind of device, or the training that this one leaves is
            not there.
    """

    def __init__(
        self, recipe: Recipe, parts: Splits, folder: Path, device: torch.device | str = CPU
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = usable(device)
        self.task = task_for(recipe.network, recipe, moved(parts, self.device))
        model = recipe.network.build(recipe.seed)
        self.task.start(model)  # on the CPU: the start is the same on every device
        if recipe.branch is not None:
            trunk = Run(recipe.branch.trunk, folder.parent / recipe.branch.trunk.folder)
            copy(trunk.after(recipe.branch.step), dict(model.named_parameters()))
        self.model = placed(model, self.device)
        self.watch = Watch(recipe, self.task, self.model, self.device)
        self.params = dict(self.model.named_parameters())
        self.velocity = {name: torch.zeros_like(tensor) for name, tensor in self.params.items()}
        self.best = {name: tensor.detach().clone() for name, tensor in self.params.items()}
        self.order = torch.Generator().manual_seed(stream(recipe.seed, "order"))
        self.masks = generator_state(self.device, stream(recipe.seed, "masks"))
        self.state = State(generator=self.device.type)
        if (folder / STATE).exists():
            self.state, streams = restore(folder, self._groups, self.device.type)
            self.order.set_state(streams.order)
            self.masks = streams.masks
        self._sparse = recipe.phases[0].snapshots is not None
        self.recorder = ravine.TrajectoryRecorder(
            folder / "trajectory", per_decade=recipe.phases[0].snapshots
        )

    @property
    def phase(self) -> Phase:
        """The phase it is in."""
        return self.recipe.phases[self.state.phase]

    def run(self, say: Say = _silent, until: Deadline | None = None) -> None:
        """Train to the end or until a deadline, saving after every epoch.

        Where the next epoch would end after the deadline, the training stops with what it has: the
        solution so far, tested, and its history. One epoch is trained in any case. Called again it
        goes on from there to the bits that it would have had.

        Args:
            say: told a line per epoch.
            until: when to stop; None trains to the end.
        """
        state = self.state
        took = deque[float](maxlen=_REMEMBERED)
        clock = until.clock if until is not None else time.monotonic
        saved = clock()
        self._begin()
        while not state.done:
            began = clock()
            over = self._phase_is_over()
            if over:
                self._end_phase()
                say(f"phase {len(state.tests)} is over; on the test part: {_said(state.tests[-1])}")
            elif until is not None and self._has_moved and not until.leaves(max(took, default=0.0)):
                self._stop(until, say)
                return
            else:
                self._one_epoch(say)
                took.append(clock() - began)
            if over or not self.recipe.is_lean or clock() - saved >= _SAVED_EVERY:
                self.save()
                saved = clock()
        self._write(self.history())  # last: it says that all the rest is there

    def epoch(self) -> None:
        """One pass over the training examples."""
        precision, state = self.recipe.precision, self.state
        with preserved(self.device), products(precision):
            set_random_state(self.device, self.masks)
            momentum = self.phase.momentum.at(state.epoch + 1)
            self.model.train()
            objectives = self.task.epoch(self.model, state.phase, self.order)
            for objective in each_computed(objectives, precision, self.device):
                rate = self.phase.rate.at(state.update, state.epoch + 1)
                self.step(objective, rate, momentum)
                state.update += 1
                if self._sparse and state.phase == 0:
                    self.recorder.record(state.update, self.model)
            state.epoch += 1
            self.masks = random_state(self.device)

    def step(self, objective: Tensor, rate: float, momentum: float) -> None:
        """One update: v ← momentum · v − rate · scale · g, θ ← θ + v, then the task's constraints.

        g is ∂J/∂θ, shortened to the phase's ``clip`` where it is longer; a scale is the task's, 1
        by default.

        Args:
            objective: J of a minibatch, a scalar with a gradient.
            rate: the learning rate.
            momentum: the momentum.

        References:
            pylearn2, ``learning_rule.py`` (Momentum).
        """
        gradient = torch.autograd.grad(objective, list(self.params.values()))
        with torch.no_grad():
            if self.phase.clip is not None:
                norm = math.hypot(*(float(torch.linalg.vector_norm(slope)) for slope in gradient))
                rate *= self.phase.clip / max(norm, self.phase.clip)
            for (name, tensor), slope in zip(self.params.items(), gradient, strict=True):
                scale = self.task.rate_scales.get(name, 1.0)
                tensor.add_(self.velocity[name].mul_(momentum).add_(slope, alpha=-rate * scale))
            self.task.constrain(self.params)

    def save(self) -> None:
        """Write the whole state to one file, in place of the last one."""
        streams = Streams(self.order.get_state(), self.masks)
        save(self.folder, self.state, self._groups, streams)

    def history(self, stopped: str = "") -> xr.Dataset:
        """What was monitored so far; ``Run.history`` says what is in it.

        Args:
            stopped: why this is not the end.
        """
        tests = list(self.state.tests)
        if stopped:
            tests.append(self._tested_now())
        names = tests[0] if tests else ()
        attrs: dict[str, Any] = {"best_step": self._solution()["step"]}
        attrs |= {f"test_{name}": [test[name] for test in tests] for name in names}
        attrs |= {"recipe": canonical(self.recipe), "recipe_hash": self.recipe.hash}
        attrs |= {"device": described(self.device), "device_type": self.device.type}
        if stopped:
            attrs |= {"stopped": stopped}
        if self.recipe.precision != "float32":
            with self.watch.at(self.best):
                attrs |= self.watch.effect_of_precision()
        return as_dataset(self.state.history, attrs)

    # --- the course of it ------------------------------------------------------------------------

    def _begin(self) -> None:
        """Note and record the start, or forget what was recorded after the state that is gone on from."""
        state = self.state
        (self.folder / "history.nc").unlink(missing_ok=True)  # of a stop, which this goes on from
        if state.phase > 0 or state.done:
            return
        if not state.history:
            self._note(time.perf_counter())
        self.recorder.rewind(state.update + 1)  # what was recorded but not saved is done again
        if not self.recorder.wants(state.update):
            self.recorder.rewind(state.update)  # kept because a stop was here
        self.recorder.record(state.update, self.model)

    def _one_epoch(self, say: Say) -> None:
        began = time.perf_counter()
        self.epoch()
        self._note(began)
        if self.state.phase == 0 and not self._sparse:
            self.recorder.record(self.state.update, self.model)
        say(as_line(self.state.history[-1], self._solution(), self.task.criterion))

    def _phase_is_over(self) -> bool:
        state, phase = self.state, self.phase
        if phase.epochs is not None and state.epoch >= phase.epochs:
            return True
        if phase.patience is not None:
            return state.epoch - self._solution()["epoch"] >= phase.patience
        return (
            state.phase > 0
            and state.history[-1]["valid_objective"] <= self._solution()["train_objective"]
        )

    def _end_phase(self) -> None:
        """Keep the phase's outcome; the next one starts from there, at rest."""
        state = self.state
        if state.phase == 0:
            self.recorder.keep(state.update, self.model)
            copy(self.best, self.params)
            self._watch_solution()
        for tensor in self.velocity.values():
            tensor.zero_()
        save_params(self._outcome, self.params)
        state.tests.append(self.watch.tested())
        if state.phase + 1 == len(self.recipe.phases):
            state.done = True
            return
        state.phase, state.epoch, state.update = state.phase + 1, 0, 0
        self._note(time.perf_counter())

    def _stop(self, until: Deadline, say: Say) -> None:
        """Keep what there is, as the outcome of a run that is not at its end."""
        state = self.state
        self.save()
        if state.phase == 0:
            self.recorder.keep(state.update, self.model)
        save_params(self._outcome, self.best if state.phase == 0 else self.params)
        epochs = f"{state.epoch} epoch{'' if state.epoch == 1 else 's'}"
        why = f"{until.about} was spent after {epochs} of phase {state.phase + 1}"
        self._write(self.history(stopped=why))
        say(f"stopped: {why}")

    @property
    def _has_moved(self) -> bool:
        return self.state.phase > 0 or self.state.epoch > 0

    @property
    def _outcome(self) -> Path:
        name = "solution" if self.state.phase == 0 else "final"
        return self.folder / f"{name}.safetensors"

    @property
    def _groups(self) -> Groups:
        return {"params": self.params, "velocity": self.velocity, "best": self.best}

    def _write(self, history: xr.Dataset) -> None:
        with whole(self.folder / "history.nc") as partial:
            history.to_netcdf(partial, engine="h5netcdf")

    # --- what is watched -------------------------------------------------------------------------

    def _note(self, began: float) -> None:
        """Monitor the model as it stands, and keep its parameters if it is what phase 1 would end with now."""
        state = self.state
        noted: Row = {
            "phase": state.phase + 1,
            "epoch": state.epoch,
            "step": state.update,
            "rate": self.phase.rate.at(max(state.update - 1, 0), max(state.epoch, 1)),
            "momentum": self.phase.momentum.at(max(state.epoch, 1)),
        }
        if self._watches_train:
            noted |= self.watch.row("train", state.phase, len(state.history))
        noted |= self.watch.row("valid", state.phase, len(state.history))
        noted["seconds"] = time.perf_counter() - began
        state.history.append(noted)
        if self._solution() is noted:
            copy(self.params, self.best)

    @property
    def _watches_train(self) -> bool:
        """Most is learnt in the first epochs: there each is watched."""
        epoch, often = self.state.epoch, self.phase.watch_train
        return epoch <= often or epoch % often == 0

    def _watch_solution(self) -> None:
        """Watch the training examples at the solution, where the model stands, if that was left out."""
        solution, rows = self._solution(), self.state.history
        if "train_objective" not in solution:
            place = next(place for place, row in enumerate(rows) if row is solution)
            solution |= self.watch.row("train", 0, place)

    def _tested_now(self) -> dict[str, float]:
        """What the test part says of what the phase would end with now."""
        if self.state.phase > 0:
            return self.watch.tested()
        with self.watch.at(self.best):
            return self.watch.tested()

    def _solution(self) -> Row:
        """What was noted where the solution is, as far as phase 1 has come."""
        patience = self.recipe.phases[0].patience
        return solution_among(self.state.history, patience, self.task.criterion)


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
            damaged, of another kind of device, or not writable, or the training that this one leaves
            is not under ``out``.
    """
    run = Run(recipe, Path(out) / recipe.folder)
    note = run.folder / "recipe.json"
    if note.exists() and note.read_text(encoding="utf-8").strip() != canonical(recipe):
        msg = (
            f"{str(run.folder)!r} holds the training of another recipe than its name says; choose "
            "another --out"
        )
        raise ravine.InputError(msg)
    if run.done:
        return run
    where = usable(device)
    loaded = load(recipe.data, data) if parts is None else parts
    with whole(note) as partial:
        partial.write_text(canonical(recipe) + "\n", encoding="utf-8")
    Training(recipe, loaded, run.folder, where).run(say, until)
    return Run(recipe, run.folder)  # what it knew of its history is over


def _said(test: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in test.items())


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
