"""Figures 1 to 5: fully connected networks on MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
import xarray as xr

import ravine
from ravine.paper import recipes, training
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.study import Outcome, Study
from ravine.plot import Axis, Figure, Panel

#: Values of α in each high-resolution window, both ends included. Source: paper, figure 3;
#: lin_interp_fine.py.
FINE: Final = 200

#: Between two solutions, with room outside to see that each is a minimum: ours, the paper gives no
#: range.
CROSS: Final = (-0.5, 1.5)

#: Points of that line, at most: kinks of few examples may leave it unresolved at any number.
CROSS_POINTS: Final = 257

#: Seed of the random point, N(0, 1) in every coordinate. Source: warm_start, numpy's RandomState.
RANDOM_POINT: Final = (1, 2, 3)


#: Other seeds of the training, whose errors are counted where it was done: `ravine paper
#: train --seed`.
OTHER_SEEDS: Final = range(1, 10)


def fig1(study: Study) -> Outcome:
    """The maxout network's line, without masks and with, and beyond its end; the learning curve."""
    run = study.trained("maxout-mnist")
    others = study.done("maxout-mnist", OTHER_SEEDS)
    to = float(COARSE[-1])
    plain = study.curve(
        "fig1-deterministic", run, interval=(0.0, to), title="maxout, deterministic objective"
    )
    coarse = study.curve(
        "fig1-coarse", run, at=COARSE, title="maxout, the original's 20 values of α"
    )
    fixed = study.curve(
        "fig1-masks", run, at=COARSE, dropout="fixed", title="maxout, fixed dropout masks"
    )
    drawn = study.curve(
        "fig1-fresh-masks", run, at=COARSE, dropout="resample", title="maxout, fresh dropout masks"
    )
    panels = (
        panel(drawn, "objective as trained, fresh masks at each α"),
        learning_curve(run),
        with_points(panel(plain, "without dropout, resolved"), coarse),
        panel(fixed, "with the same masks at every α"),
    )
    figure = Figure(
        panels,
        "Figure 1: from initialisation to solution, maxout on MNIST",
        "The objective along the line from initial (α = 0) to final parameters (α = 1), and its "
        "learning curve. The first row is the original's figure, at its 20 values of α; without "
        f"dropout the line between them is resolved. {counted([run, *others])} {described(run)}",
    )
    results = {"deterministic": plain, "coarse": coarse, "fixed masks": fixed, "fresh masks": drawn}
    remark = (
        "The original shows the objective as it was trained, with fresh masks at every α: the "
        "first row. The second is ours. Initialisation, order and masks come from other random "
        "streams than the original's, so the counts of errors need not agree."
    )
    return Outcome("fig1", figure, results, (run,), remark)


def counted(runs: Sequence[training.Run]) -> str:
    """Errors on the test part of each seed, after its last phase, in words."""
    counts = ", ".join(str(run.test_errors[-1]) for run in runs)
    seeds = ", ".join(str(run.recipe.seed) for run in runs)
    if len(runs) == 1:
        return f"Errors on the test part after the last phase, of seed {seeds} alone: {counts}."
    return f"Errors on the test part after the last phase, of seeds {seeds}: {counts}."


def fig2(study: Study) -> Outcome:
    """The lines of a sigmoid and a ReLU network."""
    runs = {name: study.trained(f"{name}-mnist") for name in ("sigmoid", "relu")}
    to = float(COARSE[-1])
    results: dict[str, xr.Dataset] = {}
    panels: list[Panel] = []
    for name, run in runs.items():
        results[name] = study.curve(
            f"fig2-{name}", run, interval=(0.0, to), title=f"{name}, deterministic objective"
        )
        results[f"{name} coarse"] = study.curve(
            f"fig2-{name}-coarse", run, at=COARSE, title=f"{name}, 20 values of α"
        )
        word = {"sigmoid": "sigmoid", "relu": "ReLU"}[name]
        panels.append(with_points(panel(results[name], word), results[f"{name} coarse"]))
    figure = Figure(
        tuple(panels),
        "Figure 2: sigmoid and ReLU networks on MNIST",
        "The deterministic objective from initial (α = 0) to final parameters (α = 1) and beyond. "
        "Points are the original experiment's 20 values of α. "
        f"{' '.join(described(run) for run in runs.values())}",
    )
    remark = (
        "The paper does not say whether its sigmoid network was trained with dropout. This one "
        "was: only the activation is replaced. Both start at ln 10 exactly, because their last "
        "matrix starts at 0."
    )
    return Outcome("fig2", figure, results, tuple(runs.values()), remark)


WINDOWS: Final = {"whole": (0.0, 1.0), "start": (0.0, 0.01), "end": (0.99, 1.0)}


def fig3(study: Study) -> Outcome:
    """High resolution: 200 values of α in each of three windows, and the same windows resolved."""
    run = study.trained("relu-plain-mnist")
    results: dict[str, xr.Dataset] = {}
    for name, (low, high) in WINDOWS.items():
        splits = ("train", "valid") if name == "whole" else ("train",)
        # what changes in a hundredth of the line is small
        precise = None if name == "whole" else torch.float64
        at = np.linspace(low, high, FINE)
        title = f"ReLU without dropout, α in [{low:g}, {high:g}]"
        results[name] = study.curve(
            f"fig3-{name}", run, at=at, splits=splits, dtype=precise, title=title
        )
        results[f"{name} resolved"] = study.curve(
            f"fig3-{name}-resolved",
            run,
            interval=(low, high),
            splits=splits,
            dtype=precise,
            title=f"{title}, resolved",
        )
    masked = study.trained("relu-mnist")
    results["masks"] = study.curve(
        "fig3-masks",
        masked,
        at=np.linspace(0, 1, FINE),
        splits=("train",),
        dropout="resample",
        title="ReLU with dropout, fresh masks at each α",
    )
    whole = panel(results["whole"], "a) 200 values of α on [0, 1]")
    panels = (
        whole,
        _zoomed(panel(results["whole"], "b) the same, zoomed"), results["whole"]),
        panel(results["start"], "c) 200 values on [0, 0.01], training only"),
        panel(results["end"], "d) 200 values on [0.99, 1], training only"),
        panel(results["masks"], "with dropout, fresh masks at each α (not in the paper)"),
        _zoomed(panel(results["masks"], "the same, zoomed"), results["masks"]),
    )
    hidden = "; ".join(
        f"[{low:g}, {high:g}] {_misfit(results[f'{name} resolved'])}"
        for name, (low, high) in WINDOWS.items()
    )
    figure = Figure(
        panels,
        "Figure 3: higher resolution, ReLU without dropout on MNIST",
        "The deterministic objective at 200 values of α in each window. Resolved, the largest "
        "error of the interpolant at measured points that it does not go through, as a share of "
        f"the window's range: {hidden}. {described(run)} The last two panels show why the paper "
        f"went without dropout here. {described(masked)}",
    )
    remark = (
        "Two hundred values say nothing about what lies between them; the resolved windows do, by "
        "the error at points that the interpolant does not go through. The windows of a hundredth "
        "are measured in float64."
    )
    return Outcome("fig3", figure, results, (run, masked), remark)


def fig4(study: Study) -> Outcome:
    """Two solutions, and from a random point to a solution."""
    one, other = study.trained("maxout-mnist"), study.trained("maxout-mnist", seed=1)
    cross = study.curve(
        "fig4-solutions",
        one,
        interval=CROSS,
        most=CROSS_POINTS,
        ends=(one.solution, other.solution),
        about=(other.identity,),
        title="maxout, two solutions",
    )
    grid = study.curve(
        "fig4-solutions-coarse",
        one,
        at=np.linspace(*CROSS, 41),
        ends=(one.solution, other.solution),
        about=(other.identity,),
        title="maxout, two solutions, 41 values of α",
    )
    point = random_point(one.recipe)
    random = study.curve(
        "fig4-random",
        one,
        interval=(0.0, 1.0),
        ends=(point, one.solution),
        about=RANDOM_POINT,
        title="random → solution",
    )
    random_grid = study.curve(
        "fig4-random-coarse",
        one,
        at=COARSE,
        ends=(point, one.solution),
        about=RANDOM_POINT,
        title="random → solution",
    )
    panels = (
        with_points(panel(cross, "two solutions"), grid),
        with_points(
            panel(random, "random point to solution", scale="log"), random_grid, within=(0.0, 1.0)
        ),
    )
    figure = Figure(
        panels,
        "Figure 4: looking for local minima, maxout on MNIST",
        "The deterministic objective between the solutions of two seeds, and from a point drawn "
        f"from N(0, 1) in every coordinate (α = 0) to a solution (α = 1). {described(one)}",
    )
    results = {
        "solutions": cross,
        "solutions coarse": grid,
        "random": random,
        "random coarse": random_grid,
    }
    remark = (
        "The paper does not say how far beyond the solutions it looked; without that, an end of "
        "the line cannot be seen to be a minimum."
    )
    return Outcome("fig4", figure, results, (one, other), remark)


def fig5(study: Study) -> Outcome:
    """How far training strays from the line, beside a random walk."""
    run = study.trained("maxout-mnist")

    def measure() -> xr.Dataset:
        return ravine.project(run.trajectory, onto=ravine.Line(run.start, run.solution))

    path = study.kept("fig5-path", (run.identity,), measure)
    drawn = ravine.plot.path(path)
    figure = Figure(
        drawn.panels,
        "Figure 5: how far training strays from the line, maxout on MNIST",
        f"{drawn.caption} {described(run)}",
    )
    remark = (
        "The original's figure has no null model. A random walk with as many steps gives the grey "
        "curve, and for it the line captures exactly 2/3: the number alone says nothing about "
        "training. That training lies inside the curve does."
    )
    return Outcome("fig5", figure, {"path": path}, (run,), remark)


def random_point(recipe: recipes.Recipe) -> dict[str, torch.Tensor]:
    """A point with every coordinate from N(0, 1), in the order of the network's parameters."""
    stream = np.random.RandomState(RANDOM_POINT)  # noqa: NPY002  the original's generator
    shapes = {name: tensor.shape for name, tensor in recipe.network.build(0).named_parameters()}
    return {
        name: torch.from_numpy(stream.normal(size=tuple(shape))).float()
        for name, shape in shapes.items()
    }


def _zoomed(of: Panel, curve: xr.Dataset) -> Panel:
    """The lower right part of a curve's panel."""
    above = float(np.quantile(curve["loss"].sel(split="train"), 0.35))
    return replace(
        of, x=Axis("α", limits=(0.3, 1.01)), y=replace(of.y, limits=(-0.02 * above, above))
    )


def _misfit(curve: xr.Dataset) -> str:
    """The largest error of the training loss at the checks, over its range, and where unknown."""
    found = curve["loss_misfit"].sel(split="train").values
    unknown = int(np.isnan(found).sum())
    points = f"{curve.sizes['alpha']} points"
    if unknown == found.size:
        return f"unknown ({points}, not resolved)"
    worst = float(np.nanmax(found)) / float(np.ptp(curve["loss"].sel(split="train").values))
    where = f", unknown on {unknown} of {found.size} pieces" if unknown else ""
    return f"{worst:.0e} ({points}{where})"
