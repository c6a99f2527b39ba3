"""One training in progress: SGD by its recipe, on any device, resumed to the same bits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

import ravine
from ravine.paper.data import Splits
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
from ravine.paper.tasks.task import Independent
from ravine.paper.training.history import Row, as_dataset, as_line, solution_among, write
from ravine.paper.training.memory import STATE, Groups, State, Streams, restore, save, save_params
from ravine.paper.training.run import Run
from ravine.paper.training.streams import stream
from ravine.paper.training.updates import Updates
from ravine.paper.training.watch import Watch, copy


class Training:
    """One training in progress: model, velocities, random streams, and how to take an epoch.

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
        self.updates: Updates | None = None  # of a card
        self._sparse = recipe.phases[0].snapshots is not None
        self.recorder = ravine.TrajectoryRecorder(
            folder / "trajectory", per_decade=recipe.phases[0].snapshots
        )

    @property
    def phase(self) -> Phase:
        """The phase it is in."""
        return self.recipe.phases[self.state.phase]

    def epoch(self) -> None:
        """One pass over the training examples."""
        with preserved(self.device), products(self.recipe.precision):
            set_random_state(self.device, self.masks)
            self.model.train()
            for _ in self._launched() if self._launches else self._stepped():
                self.count()
            self.state.epoch += 1
            self.masks = random_state(self.device)

    def count(self) -> None:
        """An update was taken."""
        self.state.update += 1
        if self._sparse and self.state.phase == 0:
            self.recorder.record(self.state.update, self.model)

    @property
    def pace(self) -> tuple[float, float]:
        """The learning rate and the momentum of the next update."""
        epoch = self.state.epoch + 1
        return self.phase.rate.at(self.state.update, epoch), self.phase.momentum.at(epoch)

    def _stepped(self) -> Iterator[None]:
        """The updates of an epoch, step by step."""
        objectives = self.task.epoch(self.model, self.state.phase, self.order)
        for objective in each_computed(objectives, self.recipe.precision, self.device):
            self.step(objective, *self.pace)
            yield

    @property
    def _launches(self) -> bool:
        """Whether an update is launched whole: on a card, if no number is needed midway."""
        whole_update = isinstance(self.task, Independent) and self.phase.clip is None
        return whole_update and self.device.type == "cuda"

    def _launched(self) -> Iterator[None]:
        """The updates of an epoch, each launched as one."""
        task: Any = self.task
        phase, precision = self.state.phase, self.recipe.precision
        if self.updates is None:
            self.updates = Updates.of(task, self.model, self.velocity, phase, precision)
        for examples in task.batches(phase, self.order):
            self.updates.take(examples, *self.pace)
            yield

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
            tests.append(self.watch.tested(self.best if self.state.phase == 0 else self.params))
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

    def begin(self) -> None:
        """Note and record the start, or forget what was recorded after the resumed state."""
        state = self.state
        (self.folder / "history.nc").unlink(missing_ok=True)  # of a stop, which this goes on from
        if state.phase > 0 or state.done:
            return
        if not state.history:
            self._note(time.perf_counter())
        self.recorder.rewind(state.update + 1)  # what was recorded but not saved is done again
        kept = [snapshot.step for snapshot in self.recorder.snapshots]
        # of a stop: where it was, and what the solution was then
        self.recorder.forget(step for step in kept if not self.recorder.wants(step))
        self.recorder.record(state.update, self.model)

    def end_epoch(self, began: float) -> str:
        """Watch and record the model after an epoch that began then; say what was seen.

        ``began`` is by ``time.perf_counter``.
        """
        self._note(began)
        if self.state.phase == 0 and not self._sparse:
            self.recorder.record(self.state.update, self.model)
        return as_line(self.state.history[-1], self._solution(), self.task.criterion)

    @property
    def phase_is_over(self) -> bool:
        """Whether its phase is at its end."""
        state, phase = self.state, self.phase
        if phase.epochs is not None and state.epoch >= phase.epochs:
            return True
        if phase.patience is not None:
            return state.epoch - self._solution()["epoch"] >= phase.patience
        return (
            state.phase > 0
            and state.history[-1]["valid_objective"] <= self._solution()["train_objective"]
        )

    def end_phase(self) -> None:
        """Keep the phase's outcome; the next one starts from there, at rest."""
        state = self.state
        if state.phase == 0:
            self.recorder.keep(state.update, self.model)
            copy(self.best, self.params)
            self._keep_solution()
            self._watch_solution()
        for tensor in self.velocity.values():
            tensor.zero_()
        save_params(self._outcome, self.params)
        state.tests.append(self.watch.tested())
        if state.phase + 1 == len(self.recipe.phases):
            state.done = True
            return
        state.phase, state.epoch, state.update = state.phase + 1, 0, 0
        self.updates = None  # the next phase has other examples
        self._note(time.perf_counter())

    def stop(self, about: str) -> str:
        """Keep what there is, as a run whose time, named ``about``, is spent; say what ended it."""
        state = self.state
        self.save()
        if state.phase == 0:
            self.recorder.keep(state.update, self.model)
            with self.watch.at(self.best):
                self._keep_solution()
        save_params(self._outcome, self.best if state.phase == 0 else self.params)
        epochs = f"{state.epoch} epoch{'' if state.epoch == 1 else 's'}"
        why = f"{about} was spent after {epochs} of phase {state.phase + 1}"
        self._write(self.history(stopped=why))
        return why

    def finish(self) -> None:
        """Write what was monitored; last: it says that all the rest is there."""
        self._write(self.history())

    @property
    def has_moved(self) -> bool:
        """Whether it has taken an epoch."""
        return self.state.phase > 0 or self.state.epoch > 0

    @property
    def _outcome(self) -> Path:
        name = "solution" if self.state.phase == 0 else "final"
        return self.folder / f"{name}.safetensors"

    @property
    def _groups(self) -> Groups:
        return {"params": self.params, "velocity": self.velocity, "best": self.best}

    def _write(self, history: xr.Dataset) -> None:
        write(self.folder / "history.nc", history)

    # --- what is watched -------------------------------------------------------------------------

    def _note(self, began: float) -> None:
        """Monitor the model, and keep its parameters if phase 1 would end with them now."""
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

    def _keep_solution(self) -> None:
        """Keep the snapshot of the solution, where the model stands: it is an end of every line."""
        step = int(self._solution()["step"])
        if step not in {kept.step for kept in self.recorder.snapshots}:
            self.recorder.keep(step, self.model, late=True)

    def _watch_solution(self) -> None:
        """Watch the training examples at the solution, where the model is, if they were not."""
        solution, rows = self._solution(), self.state.history
        if "train_objective" not in solution:
            place = next(place for place, row in enumerate(rows) if row is solution)
            solution |= self.watch.row("train", 0, place)

    def _solution(self) -> Row:
        """What was noted where the solution is, as far as phase 1 has come."""
        patience = self.recipe.phases[0].patience
        return solution_among(self.state.history, patience, self.task.criterion)
