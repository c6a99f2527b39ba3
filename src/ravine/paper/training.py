"""The trainer: SGD as the recipes say, saved whole after every epoch, resumed to the same bits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import ravine
from ravine.paper.data import Splits, load
from ravine.paper.recipe import Phase, Recipe, canonical
from ravine.paper.tasks.by_network import task_for

_STATE: Final = "state.safetensors"


@dataclass(frozen=True)
class Run:
    """What a training left in its folder.

    Attributes:
        recipe: what was done.
        folder: where its files are: ``recipe.json``, ``trajectory/`` (phase 1, one snapshot per
            epoch and one before the first), ``solution.safetensors`` (what phase 1 ends with),
            ``final.safetensors`` (after phase 2, where there is one), ``history.nc`` and
            ``state.safetensors``.
    """

    recipe: Recipe
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it was trained to its end."""
        return (self.folder / "history.nc").exists()

    @property
    def trajectory(self) -> ravine.Trajectory:
        """The parameters before training and after every epoch of phase 1."""
        return ravine.Trajectory.open(self.folder / "trajectory")

    @property
    def start(self) -> Path:
        """The initial parameters, θ_i."""
        return self.folder / "trajectory" / "step-000000000.safetensors"

    @property
    def solution(self) -> Path:
        """The parameters that phase 1 ends with, θ_f: its best epoch's, or its last; the recipe says which."""
        return self.folder / "solution.safetensors"

    @property
    def final(self) -> Path:
        """The parameters after phase 2."""
        return self.folder / "final.safetensors"

    @property
    def best_step(self) -> int:
        """Where on the trajectory the solution is."""
        return int(self.history.attrs["best_step"])

    @property
    def test_errors(self) -> tuple[int, ...]:
        """How many test examples the solution gets wrong, and how many the network of phase 2."""
        return tuple(int(count) for count in self.test["errors"])

    @property
    def test(self) -> dict[str, tuple[float, ...]]:
        """What the test part said: quantity → its value for the solution, and for the outcome of phase 2."""
        attrs = self.history.attrs
        return {
            name.removeprefix("test_"): tuple(np.atleast_1d(values).tolist())
            for name, values in attrs.items()
            if name.startswith("test_")
        }

    @property
    def tested(self) -> str:
        """The same in words.

        Examples:
            ``errors on the test part 94 and after phase 2 90``
        """
        return "; ".join(
            f"{name} on the test part "
            f"{' and after phase 2 '.join(f'{value:.6g}' for value in values)}"
            for name, values in self.test.items()
        )

    @cached_property
    def history(self) -> xr.Dataset:
        """What was monitored before each phase and after its every epoch, dims ("record", "split").

        ``objective`` is what was trained, with fresh dropout masks where there are any; ``loss``
        and what else the task watches (``error`` for a classifier) are without masks. Coordinates
        along ``record``: ``phase``, ``epoch`` and ``step`` in it, the last ``rate`` and
        ``momentum``, ``seconds``. Attributes: ``best_step`` (of phase 1, where the solution is),
        ``test_…`` (of the solution, then after phase 2) and the recipe.
        """
        with xr.open_dataset(self.folder / "history.nc", engine="h5netcdf") as opened:
            return opened.load()


@dataclass
class _State:
    """Everything the rest of a training depends on."""

    phase: int = 0
    epoch: int = 0  # finished ones, in this phase
    update: int = 0  # in this phase
    history: list[dict[str, float]] = field(default_factory=list)
    tests: list[dict[str, float]] = field(default_factory=list)  # at the end of each phase
    done: bool = False

    @classmethod
    def read(cls, text: str) -> _State:
        """From JSON; also as it was when classification was the only task."""
        kept = json.loads(text)
        kept.setdefault("tests", [{"errors": count} for count in kept.get("test_errors", [])])
        return cls(**{known.name: kept[known.name] for known in fields(cls)})


class Training:
    """One training in progress: its model, its velocities, its random streams, and how to take an epoch.

    Args:
        recipe: what to do.
        parts: of the data, as ``data.load`` gives them.
        folder: where to save.

    Raises:
        ravine.InputError: there are too few examples, or the folder holds a damaged state.
    """

    def __init__(self, recipe: Recipe, parts: Splits, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.task = task_for(recipe.network, recipe, parts)
        self.model = recipe.network.build(recipe.seed)
        self.task.start(self.model)
        self.params = dict(self.model.named_parameters())
        self.velocity = {name: torch.zeros_like(tensor) for name, tensor in self.params.items()}
        self.best = {name: tensor.detach().clone() for name, tensor in self.params.items()}
        self.order = torch.Generator().manual_seed(_stream(recipe.seed, "order"))
        self.masks = torch.Generator().manual_seed(_stream(recipe.seed, "masks")).get_state()
        self.state = _State()
        if (folder / _STATE).exists():
            self._restore()
        self.recorder = ravine.TrajectoryRecorder(folder / "trajectory")

    @property
    def phase(self) -> Phase:
        """The phase it is in."""
        return self.recipe.phases[self.state.phase]

    def run(self, say: Callable[[str], Any] = lambda line: None) -> None:
        """Train to the end, saving after every epoch.

        Args:
            say: told a line per epoch.
        """
        state = self.state
        if state.phase == 0:
            if not state.history:
                self._note(time.perf_counter())
            self.recorder.rewind(
                state.update + 1
            )  # an epoch that was recorded but not saved is done again
            self.recorder.record(state.update, self.model)
        while not state.done:
            if self._phase_is_over():
                self._end_phase()
                found = ", ".join(f"{name} {value:.6g}" for name, value in state.tests[-1].items())
                say(f"phase {len(state.tests)} is over; on the test part: {found}")
            else:
                began = time.perf_counter()
                self.epoch()
                self._note(began)
                if state.phase == 0:
                    self.recorder.record(state.update, self.model)
                say(self._line())
            self.save()
        if not (
            self.folder / "history.nc"
        ).exists():  # written last: it says that all the rest is there
            with _whole(self.folder / "history.nc") as partial:
                self.history().to_netcdf(partial, engine="h5netcdf")

    def epoch(self) -> None:
        """One pass over the training examples."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.masks)
            momentum = self.phase.momentum.at(self.state.epoch + 1)
            self.model.train()
            for objective in self.task.epoch(self.model, self.state.phase, self.order):
                self.step(
                    objective, self.phase.rate.at(self.state.update, self.state.epoch + 1), momentum
                )
                self.state.update += 1
            self.state.epoch += 1
            self.masks = torch.get_rng_state()

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
        tensors = {
            **{f"params/{name}": tensor.detach() for name, tensor in self.params.items()},
            **{f"velocity/{name}": tensor for name, tensor in self.velocity.items()},
            **{f"best/{name}": tensor for name, tensor in self.best.items()},
            "random/order": self.order.get_state(),
            "random/masks": self.masks,
        }
        with _whole(self.folder / _STATE) as partial:
            save_file(tensors, partial, {"state": json.dumps(asdict(self.state))})

    def history(self) -> xr.Dataset:
        """What was monitored so far; ``Run.history`` says what is in it."""
        rows = self.state.history
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        watched = [name.removeprefix("train_") for name in columns if name.startswith("train_")]
        per_split = {
            name: (
                ("record", "split"),
                np.array([columns.pop(f"train_{name}"), columns.pop(f"valid_{name}")]).T,
            )
            for name in watched
        }
        tests = self.state.tests
        return xr.Dataset(
            per_split,
            coords={
                "split": ["train", "valid"],
                **{name: ("record", column) for name, column in columns.items()},
            },
            attrs={
                "best_step": self._solution()["step"],
                **(
                    {f"test_{name}": [test[name] for test in tests] for name in tests[0]}
                    if tests
                    else {}
                ),
                "recipe": canonical(self.recipe),
                "recipe_hash": self.recipe.hash,
            },
        )

    def _solution(self) -> dict[str, float]:
        """What was noted where the solution is, as far as phase 1 has come: at its best epoch, or at its last."""
        first = [row for row in self.state.history if row["phase"] == 1]
        if self.recipe.phases[0].patience is None:
            return first[-1]
        measure = [row[f"valid_{self.task.criterion}"] for row in first]
        return first[
            min(range(len(first)), key=lambda i: math.inf if math.isnan(measure[i]) else measure[i])
        ]

    def _restore(self) -> None:
        path = self.folder / _STATE
        try:
            with safe_open(path, framework="pt", device="cpu") as held:
                notes = held.metadata() or {}
                tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118  not a mapping
            state = _State.read(notes["state"])
            with torch.no_grad():
                for group, target in (
                    ("params", self.params),
                    ("velocity", self.velocity),
                    ("best", self.best),
                ):
                    for name, tensor in target.items():
                        tensor.copy_(tensors[f"{group}/{name}"])
            self.order.set_state(tensors["random/order"])
            self.masks = tensors["random/masks"]
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as problem:
            msg = f"{str(path)!r} is damaged ({problem}); delete it to train from the start"
            raise ravine.InputError(msg) from problem
        self.state = state

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
        with torch.no_grad():
            if state.phase == 0:
                for name, tensor in self.params.items():
                    tensor.copy_(self.best[name])
            for tensor in self.velocity.values():
                tensor.zero_()
        with _whole(
            self.folder / ("solution.safetensors" if state.phase == 0 else "final.safetensors")
        ) as partial:
            save_file({name: tensor.detach() for name, tensor in self.params.items()}, partial)
        state.tests.append(self.task.test(self.model))
        if state.phase + 1 == len(self.recipe.phases):
            state.done = True
            return
        state.phase, state.epoch, state.update = state.phase + 1, 0, 0
        self._note(time.perf_counter())

    def _note(self, began: float) -> None:
        """Monitor the model as it stands, and keep its parameters if it is what phase 1 would end with now.

        What is random in that comes from streams of their own, one per split and epoch, so that
        watching does not change what is watched.
        """
        state = self.state
        noted: dict[str, float] = {
            "phase": state.phase + 1,
            "epoch": state.epoch,
            "step": state.update,
            "rate": self.phase.rate.at(max(state.update - 1, 0), max(state.epoch, 1)),
            "momentum": self.phase.momentum.at(max(state.epoch, 1)),
        }
        for split in ("train", "valid"):
            seed = _stream(self.recipe.seed, "monitor", split, len(state.history))
            found = self.task.monitor(self.model, split, state.phase, seed)
            noted |= {f"{split}_{name}": value for name, value in found.items()}
        noted["seconds"] = time.perf_counter() - began
        state.history.append(noted)
        if self._solution() is noted:
            for name, tensor in self.params.items():
                self.best[name].copy_(tensor.detach())

    def _line(self) -> str:
        last, best, criterion = self.state.history[-1], self._solution(), self.task.criterion
        return (
            f"phase {last['phase']} epoch {last['epoch']}: objective {last['train_objective']:.5f} "
            "train, "
            f"{last['valid_objective']:.5f} valid; valid {criterion} "
            f"{last[f'valid_{criterion}']:.5g} "
            f"(solution so far {best[f'valid_{criterion}']:.5g}, epoch {best['epoch']}); "
            f"{last['seconds']:.1f} s"
        )


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> Run:
    """Train by a recipe, or go on where a killed training stopped, or find that it was done before.

    The same recipe gives the same bits on one machine with one number of threads, whether it was
    killed or not.

    Args:
        recipe: what to do.
        out: the output root; the run has a folder of its own in it, named after the recipe's hash.
        data: folder with the data's files; see ``data.load``.
        say: told a line per epoch.

    Returns:
        The finished run.

    Raises:
        ravine.InputError: the data cannot be had, or the folder is not this recipe's, damaged or
            not writable.
    """
    run = Run(recipe, Path(out) / recipe.folder)
    note = run.folder / "recipe.json"
    if note.exists() and note.read_text(encoding="utf-8").strip() != canonical(recipe):
        msg = (
            f"{str(run.folder)!r} holds the training of another recipe than its name says; choose "
            "another --out"
        )
        raise ravine.InputError(msg)
    if not run.done:
        parts = load(recipe.data, data)
        with _whole(note) as partial:
            partial.write_text(canonical(recipe) + "\n", encoding="utf-8")
        Training(recipe, parts, run.folder).run(say)
    return run


def _stream(*what: Any) -> int:
    """A seed for each purpose, so that no two random streams are one."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:7], "big")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write under; the file takes its own name only once it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as problem:
        msg = (
            f"cannot write {str(path)!r}: {problem.strerror or problem}. Choose another folder "
            "with --out."
        )
        raise ravine.InputError(msg) from problem
