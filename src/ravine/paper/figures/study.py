"""What figures are made from: a study, which finds or makes trainings, and its outcome."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

import ravine
from ravine.paper import data, recipes, training
from ravine.paper.device import Precision, moved, products, usable
from ravine.paper.recipe import Profile, Recipe
from ravine.paper.tasks.by_network import task_for
from ravine.paper.tasks.task import Task
from ravine.plot import Figure


class NotThere(Exception):  # noqa: N818  not an error: the answer to a question
    """A training or a measurement that a study was not to make is not there."""


class OutOfTime(Exception):  # noqa: N818  not an error: what was asked for
    """The budget was spent before a measurement began; what was made until then is kept."""


@dataclass(frozen=True)
class Study:
    """A profile of the experiments, and where its outcomes are.

    Attributes:
        profile: "quick", "desk" or "full".
        out: folder that trainings and measurements are kept in.
        folder: of the data's files, if not found by itself.
        say: told a line where something takes long.
        fresh: whether to train and to measure what is not there.
        device: where to train and to measure.
        lean: whether trainings watch and keep less (``Recipe.lean``).
        precision: of the products while training; what is measured is float32 in any case.
        budget: the minutes for everything; None takes as long as it takes. Without a share for
            training, a training that was stopped is measured as it is.
        runs: folder → the training, as far as this study has been asked for it.
        measured: the files of the measurements that it has been asked for, in order.
        took: the seconds of each that it made.
    """

    profile: Profile
    out: Path
    folder: str | os.PathLike[str] | None = None
    say: Callable[[str], Any] = field(default=lambda line: None)
    fresh: bool = True
    device: str = "cpu"
    lean: bool = False
    precision: Precision = "float32"
    budget: training.Budget | None = None
    runs: dict[Path, training.Run] = field(default_factory=dict, compare=False)
    measured: list[Path] = field(default_factory=list, compare=False)
    took: list[float] = field(default_factory=list, compare=False)
    _loaded: dict[tuple[Any, ...], data.Splits] = field(
        default_factory=dict, compare=False, repr=False
    )
    _opened: dict[Path, xr.Dataset] = field(default_factory=dict, compare=False, repr=False)

    @property
    def variant(self) -> str:
        """The profile, and how its trainings differ from the recipes' own: a name for folders.

        Examples:
            >>> Study("full", Path(), lean=True, precision="bf16").variant
            'full-lean-bf16'
        """
        lean = "-lean" if self.lean else ""
        rounded = "" if self.precision == "float32" else f"-{self.precision}"
        return f"{self.profile}{lean}{rounded}"

    def recipe(self, name: str, seed: int = 0) -> Recipe:
        """A recipe as this study trains by it."""
        plain = recipes.recipe(name, self.profile, seed)
        return replace(plain.lean if self.lean else plain, precision=self.precision)

    def run_of(self, name: str, seed: int = 0) -> training.Run:
        """A training as it lies in the folder, whether or not anything is there."""
        return self._lying(self.recipe(name, seed))

    def _lying(self, recipe: Recipe) -> training.Run:
        return training.Run(recipe, self.out / recipe.folder)

    def trained(self, name: str, seed: int = 0) -> training.Run:
        """The training by a recipe of that name: as ``trained_by``.

        Raises:
            NotThere: it is not there, and nothing is to be done.
        """
        return self.trained_by(self.recipe(name, seed))

    def trained_by(self, recipe: Recipe) -> training.Run:
        """The training by a recipe: found, or done now.

        It is done once, so that a stopped one is not gone on with.

        Raises:
            NotThere: it is not there, and nothing is to be done.
        """
        found = self._lying(recipe)
        if found.folder not in self.runs:
            self.runs[found.folder] = self._trained(found)
        return self.runs[found.folder]

    def trained_together(self, name: str, seeds: Sequence[int]) -> list[training.Run]:
        """The trainings by a recipe with these seeds, at once; done ones are left alone.

        Args:
            name: of the recipe.
            seeds: each once.

        Returns:
            The runs, in the order of the seeds: finished, or stopped by the budget.
        """
        chosen = [self.recipe(name, seed) for seed in seeds]
        runs = training.train_together(
            chosen,
            self.out,
            say=self.say,
            device=self.device,
            until=None if self.budget is None else self.budget.training(),
            parts=self.parts(chosen[0].data),
        )
        self.runs.update({run.folder: run for run in runs})
        return runs

    def done(self, name: str, seeds: Sequence[int]) -> list[training.Run]:
        """Those trainings by a recipe of that name that are at their end already; none is begun."""
        found = [self.run_of(name, seed) for seed in seeds]
        there = [run for run in found if run.done]
        self.runs.update({run.folder: run for run in there})
        return there

    def _trained(self, found: training.Run) -> training.Run:
        as_it_is = not self.fresh or (self.budget is not None and self.budget.share == 0)
        if found.there and (found.done or as_it_is):
            return found
        if not self.fresh:
            raise NotThere(found.recipe.folder)
        return training.train(
            found.recipe,
            self.out,
            say=self.say,
            device=self.device,
            until=None if self.budget is None else self.budget.training(),
            parts=self.parts(found.recipe.data),
        )

    def parts(self, name: str) -> data.Splits:
        """A data set, loaded once and kept on the device."""
        key = name, self.folder, self.device
        if key not in self._loaded:
            self._loaded[key] = moved(data.load(name, self.folder), usable(self.device))
        return self._loaded[key]

    def task(self, run: training.Run) -> Task:
        """What a training's network was trained for, with its data on the device."""
        return task_for(run.recipe.network, run.recipe, self.parts(run.recipe.data))

    def objective(
        self,
        run: training.Run,
        splits: Sequence[str] = ("train", "valid"),
        *,
        dropout: Literal["off", "fixed", "resample"] = "off",
        dtype: torch.dtype | None = None,
    ) -> ravine.Objective:
        """J of a training's network on its own examples, as its task says.

        Args:
            run: the training.
            splits: of "train" and "valid".
            dropout: "off" is the deterministic objective; with masks it is what training minimised.
            dtype: precision of the forward pass.

        Returns:
            The objective.
        """
        return self.task(run).objective(splits, dropout=dropout, dtype=dtype)

    def kept(self, name: str, what: Sequence[Any], measure: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A measurement that was kept, or is made now, in float32 without TF32, and kept.

        Args:
            name: of the measurement.
            what: everything that its outcome depends on, as values with a stable repr.
            measure: makes it.

        Returns:
            The result.

        Raises:
            NotThere: it is not there, and nothing is to be done.
            OutOfTime: it is not there, and the budget does not leave the time for it.
        """
        digest = hashlib.sha256(repr(tuple(what)).encode()).hexdigest()[:12]
        path = self.out / "measurements" / f"{name}-{self.profile}-{digest}.nc"
        if not path.exists():
            self._make(name, path, measure)
        self.measured.append(path)
        if path not in self._opened:
            self._opened[path] = ravine.open_result(path)
        return self._opened[path].copy()

    def _make(self, name: str, path: Path, measure: Callable[[], xr.Dataset]) -> None:
        if not self.fresh:
            raise NotThere(path.name)
        # none says before how long it takes: as long as the longest until now, to end in time
        if self.budget is not None and not self.budget.whole.leaves(max(self.took, default=0.0)):
            msg = f"{self.budget.whole.about} does not leave the time to measure {name}"
            raise OutOfTime(msg)
        self.say(f"measuring {name}")
        began = time.monotonic()
        with products("float32"):
            found = measure()
        ravine.save_result(found, path)
        self.took.append(time.monotonic() - began)
        self.say(f"measured {name} in {self.took[-1]:.1f} s")

    def curve(
        self,
        name: str,
        run: training.Run,
        *,
        at: np.ndarray | None = None,
        interval: tuple[float, float] | None = None,
        ends: tuple[Any, Any] | None = None,
        title: str = "",
        splits: Sequence[str] = ("train", "valid"),
        dropout: Literal["off", "fixed", "resample"] = "off",
        dtype: torch.dtype | None = None,
        tolerance: float = 1e-3,
        most: int | None = None,
        about: Sequence[Any] = (),
    ) -> xr.Dataset:
        """J along a line, from a training's start to its solution if no other ends are given.

        Args:
            name: of the measurement.
            run: the training.
            at: where to measure; or
            interval: what to resolve.
            ends: other ends than the training's own.
            title: of the result.
            splits: as in ``objective``.
            dropout: as in ``objective``.
            dtype: as in ``objective``.
            tolerance: of resolving.
            most: points that resolving may take; None leaves it to ``resolve``.
            about: what else tells the ends apart from others.

        Returns:
            The result.
        """
        grid = None if at is None else (len(at), float(at[0]), float(at[-1]))
        what = (
            run.identity,
            grid,
            interval,
            tuple(splits),
            dropout,
            str(dtype),
            tolerance,
            *(() if most is None else (most,)),
            *about,
        )

        def measure() -> xr.Dataset:
            J = self.objective(run, splits, dropout=dropout, dtype=dtype)
            line = ravine.Line(*(ends or (run.start, run.solution)))
            if interval is None:
                return ravine.evaluate(J, along=line, at=at, title=title)
            return ravine.resolve(
                J,
                along=line,
                interval=interval,
                tolerance=tolerance,
                max_points=most,
                title=title,
            )

        return self.kept(name, what, measure)


@dataclass(frozen=True)
class Outcome:
    """A figure of the paper, made again.

    Attributes:
        name: "fig1" …
        figure: how it is drawn.
        results: what was measured, by name.
        runs: the trainings behind it.
        remark: what differs from the original, for the page.
    """

    name: str
    figure: Figure
    results: dict[str, xr.Dataset]
    runs: tuple[training.Run, ...]
    remark: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the trainings, each once."""
        return tuple(dict.fromkeys(run.recipe.seed for run in self.runs))

    @property
    def is_scaled(self) -> bool:
        """Whether a training is smaller or shorter than the paper's: it decides nothing then."""
        return not all(map(is_whole, self.runs))


def is_whole(run: training.Run) -> bool:
    """Whether a training is by the paper's recipe, lean or not, and has its solution.

    One that leaves another training is as whole as that one is, by its recipe.
    """
    branch = run.recipe.branch
    recipe = run.recipe if branch is None else branch.trunk
    if recipe.name in recipes.OURS:
        return False
    full = recipes.recipe(recipe.name, "full", recipe.seed)
    return recipe.plain == replace(full.plain, profile=recipe.profile) and run.solved
