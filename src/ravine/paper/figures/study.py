"""What every figure is made from: a study, which finds or makes trainings and measurements, and its outcome."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

import ravine
from ravine.paper import data, recipes, training
from ravine.paper.recipe import Profile
from ravine.paper.tasks.by_network import task_for
from ravine.plot import Figure


class NotThere(Exception):  # noqa: N818  not an error: the answer to a question
    """A training or a measurement that a study was not to make is not there."""


@dataclass(frozen=True)
class Study:
    """A profile of the experiments, and where its outcomes are.

    Attributes:
        profile: "quick", "desk" or "full".
        out: folder that trainings and measurements are kept in.
        folder: of the data's files, if not found by itself.
        say: told a line where something takes long.
        fresh: whether to train and to measure what is not there.
    """

    profile: Profile
    out: Path
    folder: str | os.PathLike[str] | None = None
    say: Callable[[str], Any] = field(default=lambda line: None)
    fresh: bool = True

    def trained(self, name: str, seed: int = 0) -> training.Run:
        """The training by a recipe: found, or done now.

        Raises:
            NotThere: it is not there, and nothing is to be done.
        """
        recipe = recipes.recipe(name, self.profile, seed)
        if not self.fresh and not training.Run(recipe, self.out / recipe.folder).done:
            raise NotThere(recipe.folder)
        return training.train(recipe, self.out, self.folder, self.say)

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
        parts = data.load(run.recipe.data, self.folder)
        task = task_for(run.recipe.network, run.recipe, parts)
        return task.objective(splits, dropout=dropout, dtype=dtype)

    def kept(self, name: str, what: Sequence[Any], measure: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A measurement that was kept, or is made now and kept.

        Args:
            name: of the measurement.
            what: everything that its outcome depends on, as values with a stable repr.
            measure: makes it.

        Returns:
            The result.

        Raises:
            NotThere: it is not there, and nothing is to be done.
        """
        digest = hashlib.sha256(repr(tuple(what)).encode()).hexdigest()[:12]
        path = self.out / "measurements" / f"{name}-{self.profile}-{digest}.nc"
        if path.exists():
            return ravine.open_result(path)
        if not self.fresh:
            raise NotThere(path.name)
        self.say(f"measuring {name}")
        found = measure()
        ravine.save_result(found, path)
        return found

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
            about: what else tells the ends apart from others.

        Returns:
            The result.
        """
        grid = None if at is None else (len(at), float(at[0]), float(at[-1]))
        what = (
            run.recipe.hash,
            grid,
            interval,
            tuple(splits),
            dropout,
            str(dtype),
            tolerance,
            *about,
        )

        def measure() -> xr.Dataset:
            J = self.objective(run, splits, dropout=dropout, dtype=dtype)
            line = ravine.Line(*(ends or (run.start, run.solution)))
            if interval is None:
                return ravine.evaluate(J, along=line, at=at, title=title)
            return ravine.resolve(
                J, along=line, interval=interval, tolerance=tolerance, title=title
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
        """Whether a training is smaller or shorter than the paper's own: then it decides nothing about that."""
        return not all(map(is_whole, self.runs))


def is_whole(run: training.Run) -> bool:
    """Whether a training is by the paper's own recipe, in whatever profile that was asked for."""
    full = recipes.recipe(run.recipe.name, "full", run.recipe.seed)
    return run.recipe == replace(full, profile=run.recipe.profile)
