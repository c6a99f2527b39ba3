"""The trainer: SGD as the recipes say, saved whole after every epoch, resumed to the same bits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine.paper.data import load
from ravine.paper.recipes import Phase, Recipe, canonical

_STATE: Final = "state.safetensors"
_MONITORED: Final = 250  # examples per forward pass when nothing is learned


@dataclass(frozen=True)
class Run:
    """What a training left in its folder.

    Attributes:
        recipe: what was done.
        folder: where its files are: ``recipe.json``, ``trajectory/`` (phase 1, one snapshot per epoch and one
            before the first), ``solution.safetensors`` (the best epoch's parameters), ``final.safetensors``
            (after phase 2, where there is one), ``history.nc`` and ``state.safetensors``.
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
        """The parameters of the epoch with the smallest validation error in phase 1, θ_f."""
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
        return tuple(int(count) for count in np.atleast_1d(self.history.attrs["test_errors"]))

    @cached_property
    def history(self) -> xr.Dataset:
        """What was monitored before each phase and after its every epoch, dims ("record", "split").

        ``objective`` is the mean negative log-likelihood in nats with fresh dropout masks, as in training; ``loss``
        and ``error`` are without masks. Coordinates along ``record``: ``phase``, ``epoch`` and ``step`` in it,
        the last ``rate`` and ``momentum``, ``seconds``. Attributes: ``best_step`` (of phase 1, where the solution
        is), ``test_errors`` (of the solution, then after phase 2) and the recipe.
        """
        with xr.open_dataset(self.folder / "history.nc", engine="h5netcdf") as opened:
            return opened.load()


@dataclass
class _State:
    """Everything the rest of a training depends on."""

    phase: int = 0
    epoch: int = 0  # finished ones, in this phase
    update: int = 0  # in this phase
    best_epoch: int = 0
    best_error: float = float("inf")
    best_objective: float = float("nan")  # the training objective there: what phase 2 is to match
    history: list[dict[str, float]] = field(default_factory=list)
    test_errors: list[int] = field(default_factory=list)
    done: bool = False


class Training:
    """One training in progress: its model, its velocities, its random streams, and how to take an epoch.

    Args:
        recipe: what to do.
        parts: "train" and "test" → inputs and labels, as ``data.load`` gives them.
        folder: where to save.

    Raises:
        ravine.InputError: there are too few examples, or the folder holds a damaged state.
    """

    def __init__(self, recipe: Recipe, parts: dict[str, tuple[Tensor, Tensor]], folder: Path) -> None:
        inputs, labels = parts["train"]
        if len(labels) < recipe.train + recipe.valid:
            msg = f"{recipe.name} takes {recipe.train} + {recipe.valid} examples of {recipe.data}; got {len(labels)}"
            raise ravine.InputError(msg)
        both = slice(recipe.train + recipe.valid)
        self.recipe = recipe
        self.folder = folder
        self.valid = inputs[recipe.train : both.stop], labels[recipe.train : both.stop]
        self.trained_on = [(inputs[: recipe.train], labels[: recipe.train]), (inputs[both], labels[both])]
        self.test = parts["test"]
        self.model = recipe.network.build(recipe.seed)
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
            self.recorder.rewind(state.update + 1)  # an epoch that was recorded but not saved is done again
            self.recorder.record(state.update, self.model)
        while not state.done:
            if self._phase_is_over():
                self._end_phase()
                say(f"phase {len(state.test_errors)} is over; errors on the test part: {state.test_errors[-1]}")
            else:
                began = time.perf_counter()
                self.epoch()
                self._note(began)
                if state.phase == 0:
                    self.recorder.record(state.update, self.model)
                say(self._line())
            self.save()
        if not (self.folder / "history.nc").exists():  # written last: it says that all the rest is there
            with _whole(self.folder / "history.nc") as partial:
                self.history().to_netcdf(partial, engine="h5netcdf")

    def epoch(self) -> None:
        """One pass over the training examples in a new order."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.masks)
            inputs, labels = self.trained_on[self.state.phase]
            momentum = self.phase.momentum.at(self.state.epoch + 1)
            self.model.train()
            for batch in torch.randperm(len(labels), generator=self.order).split(self.recipe.batch_size):
                rate = self.phase.rate.at(self.state.update, self.state.epoch + 1)
                self.step(inputs[batch], labels[batch], rate, momentum)
                self.state.update += 1
            self.state.epoch += 1
            self.masks = torch.get_rng_state()

    def step(self, inputs: Tensor, labels: Tensor, rate: float, momentum: float) -> None:
        """One update: v ← momentum · v − rate · ∂J/∂θ, θ ← θ + v, then rows longer than their cap are cut to it.

        Args:
            inputs: (batch, pixels).
            labels: (batch,).
            rate: the learning rate.
            momentum: the momentum.

        References:
            pylearn2, ``learning_rule.py`` (Momentum) and ``model_extensions/norm_constraint.py``.
        """
        objective = F.cross_entropy(self.model(inputs), labels)
        gradient = torch.autograd.grad(objective, list(self.params.values()))
        caps = self.recipe.network.caps
        with torch.no_grad():
            for (name, tensor), slope in zip(self.params.items(), gradient, strict=True):
                tensor.add_(self.velocity[name].mul_(momentum).add_(slope, alpha=-rate))
                if name in caps:
                    norms = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
                    if bool((norms > caps[name]).any()):
                        tensor.mul_((caps[name] / norms).clamp_(max=1))

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
        per_split = {
            name: (("record", "split"), np.array([columns.pop(f"train_{name}"), columns.pop(f"valid_{name}")]).T)
            for name in ("objective", "loss", "error")
        }
        best = min(rows, key=lambda row: (row["phase"], row["valid_error"]))
        return xr.Dataset(
            per_split,
            coords={"split": ["train", "valid"], **{name: ("record", column) for name, column in columns.items()}},
            attrs={
                "best_step": best["step"],
                "test_errors": self.state.test_errors,
                "recipe": canonical(self.recipe),
                "recipe_hash": self.recipe.hash,
            },
        )

    def _restore(self) -> None:
        path = self.folder / _STATE
        try:
            with safe_open(path, framework="pt", device="cpu") as held:
                notes = held.metadata() or {}
                tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118  not a mapping
            state = _State(**json.loads(notes["state"]))
            with torch.no_grad():
                for group, target in (("params", self.params), ("velocity", self.velocity), ("best", self.best)):
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
        if phase.patience is None:
            return state.history[-1]["valid_objective"] <= state.best_objective
        return state.epoch - state.best_epoch >= phase.patience

    def _end_phase(self) -> None:
        """Keep the phase's outcome; the next one starts from the best parameters, at rest."""
        state = self.state
        with torch.no_grad():
            if self.phase.patience is not None:
                for name, tensor in self.params.items():
                    tensor.copy_(self.best[name])
            for tensor in self.velocity.values():
                tensor.zero_()
        with _whole(self.folder / ("solution.safetensors" if state.phase == 0 else "final.safetensors")) as partial:
            save_file({name: tensor.detach() for name, tensor in self.params.items()}, partial)
        state.test_errors.append(round(_monitor(self.model, *self.test)[1] * len(self.test[1])))
        if state.phase + 1 == len(self.recipe.phases):
            state.done = True
            return
        state.phase, state.epoch, state.update = state.phase + 1, 0, 0
        self._note(time.perf_counter())

    def _note(self, began: float) -> None:
        """Monitor the model as it stands, and keep its parameters if none before had a smaller validation error.

        The masks of the objective come from a stream of their own, one per epoch, so that watching does not
        change what is watched.
        """
        state = self.state
        noted: dict[str, float] = {
            "phase": state.phase + 1,
            "epoch": state.epoch,
            "step": state.update,
            "rate": self.phase.rate.at(max(state.update - 1, 0), max(state.epoch, 1)),
            "momentum": self.phase.momentum.at(max(state.epoch, 1)),
        }
        for name, (inputs, labels) in (("train", self.trained_on[state.phase]), ("valid", self.valid)):
            noted[f"{name}_loss"], noted[f"{name}_error"] = _monitor(self.model, inputs, labels)
            noted[f"{name}_objective"] = noted[f"{name}_loss"]
            if any(layer.keep < 1 for layer in self.recipe.network.layers):
                stream = _stream(self.recipe.seed, "monitor", name, len(state.history))
                noted[f"{name}_objective"] = _monitor(self.model, inputs, labels, masks=stream)[0]
        noted["seconds"] = time.perf_counter() - began
        state.history.append(noted)
        if state.phase == 0 and noted["valid_error"] < state.best_error:
            state.best_error, state.best_epoch = noted["valid_error"], state.epoch
            state.best_objective = noted["train_objective"]
            for name, tensor in self.params.items():
                self.best[name].copy_(tensor.detach())

    def _line(self) -> str:
        last, best = self.state.history[-1], self.state
        return (
            f"phase {last['phase']} epoch {last['epoch']}: objective {last['train_objective']:.5f} train, "
            f"{last['valid_objective']:.5f} valid; valid error {100 * last['valid_error']:.2f} % "
            f"(best {100 * best.best_error:.2f} % in epoch {best.best_epoch}); {last['seconds']:.1f} s"
        )


def train(
    recipe: Recipe,
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> Run:
    """Train by a recipe, or go on where a killed training stopped, or find that it was done before.

    The same recipe gives the same bits on one machine with one number of threads, whether it was killed or not.

    Args:
        recipe: what to do.
        out: the output root; the run has a folder of its own in it, named after the recipe's hash.
        data: folder with the data's files; see ``data.load``.
        say: told a line per epoch.

    Returns:
        The finished run.

    Raises:
        ravine.InputError: the data cannot be had, or the folder is not this recipe's, damaged or not writable.
    """
    run = Run(recipe, Path(out) / recipe.folder)
    note = run.folder / "recipe.json"
    if note.exists() and note.read_text(encoding="utf-8").strip() != canonical(recipe):
        msg = f"{str(run.folder)!r} holds the training of another recipe than its name says; choose another --out"
        raise ravine.InputError(msg)
    if not run.done:
        parts = load(recipe.data, data)
        with _whole(note) as partial:
            partial.write_text(canonical(recipe) + "\n", encoding="utf-8")
        Training(recipe, parts, run.folder).run(say)
    return run


def _monitor(model: nn.Module, inputs: Tensor, labels: Tensor, masks: int | None = None) -> tuple[float, float]:
    """Mean loss and error, summed in float64; with dropout masks from the stream of that seed if there is one."""
    loss = wrong = 0.0
    model.train(masks is not None)
    with torch.random.fork_rng(devices=[], enabled=masks is not None), torch.inference_mode():
        if masks is not None:
            torch.default_generator.manual_seed(masks)
        for some, truth in zip(inputs.split(_MONITORED), labels.split(_MONITORED), strict=True):
            logits = model(some)
            loss += float(F.cross_entropy(logits, truth, reduction="none").sum(dtype=torch.float64))
            wrong += int((logits.argmax(1) != truth).sum())
    return loss / len(labels), wrong / len(labels)


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
        msg = f"cannot write {str(path)!r}: {problem.strerror or problem}. Choose another folder with --out."
        raise ravine.InputError(msg) from problem
