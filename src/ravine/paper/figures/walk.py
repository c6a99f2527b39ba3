"""The random-walk control: a run that goes nowhere in particular, seen from its line."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import xarray as xr

import ravine
from ravine.paper.figures.study import Outcome, Study
from ravine.plot import Curve, Figure, Panel

#: 1,000 steps, each N(0, 1) in every coordinate; the 900th place is called the solution.
STEPS: Final = 1_000
SOLUTION: Final = 900

DIMENSIONS: Final = (3, 30, 1_000, 100_000)

_EVERY: Final = 10  # steps from one snapshot to the next


def random_walk(study: Study) -> Outcome:
    """Walks of 1,000 Gaussian steps in several dimensions, seen from the line to the 900th."""
    results = {
        f"{dimensions:,} dimensions": study.kept(
            f"random-walk-{dimensions}",
            (STEPS, SOLUTION, _EVERY),
            lambda dimensions=dimensions: walked(dimensions),
        )
        for dimensions in DIMENSIONS
    }
    panels = tuple(_panel(path, name) for name, path in results.items())
    found = ", ".join(f"{float(path['captured'].sel(walk='run')):.3f}" for path in results.values())
    apart = ", ".join(f"{_apart(path):.3f}" for path in results.values())
    figure = Figure(
        panels,
        "Control: random walks, seen from the line to a “solution”",
        f"{STEPS:,} steps, each drawn from N(0, 1) in every coordinate; step {SOLUTION} is called "
        f"the solution, and the line leads from the start to it. A dot is every {_EVERY}th step. "
        "Grey is the walk in very many dimensions: a semicircle with a tail straight up, whatever "
        "the steps. So this shape says nothing about training, and neither does 2/3: the line "
        f"captures {found} of the walks (L/(L + largest residual)). Root mean square distance from "
        f"the grey curve at the same step, over L: {apart}.",
    )
    return Outcome("random-walk", figure, results, ())


def walked(dimensions: int, seed: int = 0) -> xr.Dataset:
    """A random walk, recorded and projected on the line from its start to its 900th step.

    Args:
        dimensions: of the space.
        seed: of the steps.

    Returns:
        What ``ravine.project`` gives: dim ``step``, with the null beside the walk.
    """
    stream = torch.Generator().manual_seed(seed)
    place = {"w": torch.zeros(dimensions, dtype=torch.float64)}
    with tempfile.TemporaryDirectory() as folder:
        recorder = ravine.TrajectoryRecorder(Path(folder), every=_EVERY)
        recorder.record(0, place)
        for step in range(1, STEPS + 1):
            place["w"] += torch.randn(dimensions, generator=stream, dtype=torch.float64)
            recorder.record(step, place)
        run = ravine.Trajectory.open(folder)
        return ravine.project(run, onto=ravine.Line(run.at(step=0), run.at(step=SOLUTION)))


def _apart(path: xr.Dataset) -> float:
    """Root mean square distance of the walk from the null at the same steps, over L."""
    away = path["residual"] - path["null_residual"]
    along = path["alpha"] - path["null_alpha"]
    return float(np.sqrt(((away / path.attrs["length"]) ** 2 + along**2).mean()))


def _panel(path: xr.Dataset, title: str) -> Panel:
    drawn = ravine.plot.path(path).panels[0]
    named = {"training": "the walk", "random walk": "in very many dimensions"}
    layers = tuple(
        replace(layer, label=named.get(layer.label, layer.label))
        if isinstance(layer, Curve)
        else layer
        for layer in drawn.layers
    )
    return replace(drawn, layers=layers, title=title)
