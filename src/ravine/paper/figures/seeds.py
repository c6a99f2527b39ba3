"""The maxout network by several seeds: what of Figures 1 and 5 holds for every run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr

import ravine
from ravine import metrics
from ravine.paper import training
from ravine.paper.figures.parts import described
from ravine.paper.figures.study import Outcome, Study
from ravine.plot import Axis, Curve, Figure, Markers, Panel, Rule

#: Those that are there are drawn: `ravine paper train maxout-mnist --seeds 10` makes them.
SEEDS: Final = range(10)

#: Mistakes on the test part, of the original's one training. Source: paper, section 2.
PUBLISHED: Final = 94


def seeds(study: Study) -> Outcome:
    """The maxout network by several seeds: its lines, its paths, and its test errors."""
    first = study.trained("maxout-mnist")
    runs = [first, *study.done("maxout-mnist", SEEDS[1:])]
    lines = {f"seed {run.recipe.seed}": _line(study, run) for run in runs}
    paths = {f"path of seed {run.recipe.seed}": _path(study, run) for run in runs}
    counts = np.array([run.test_errors[-1] for run in runs], float)
    panels = (_lines(lines), _paths(paths), _errors(runs, counts))
    figure = Figure(
        panels,
        "Figures 1 and 5 by several seeds: maxout on MNIST",
        "The deterministic training objective along the line of each seed, from its own initial (α "
        "= 0) to its own final parameters (α = 1); how far training strays from that line; and the "
        "errors on the test part after the last phase, with the 95% interval of a binomial count. "
        f"{said(lines, paths, counts)} {described(first)}",
    )
    remark = (
        "The original has one seed. Each seed has an initialisation, an order of examples and "
        "masks of its own."
    )
    return Outcome("seeds", figure, lines | paths, tuple(runs), remark)


def lines_of(outcome: Outcome) -> list[xr.Dataset]:
    """The curve of each seed, of the figure's outcome."""
    return [result for result in outcome.results.values() if "loss" in result]


def paths_of(outcome: Outcome) -> list[xr.Dataset]:
    """The path of each seed, projected on its line."""
    return [result for result in outcome.results.values() if "loss" not in result]


def said(lines: dict[str, xr.Dataset], paths: dict[str, xr.Dataset], counts: np.ndarray) -> str:
    """What the seeds have in common, in words."""
    rises = Counter(
        metrics.decide(line, "rise", split="train", scope="examples").answer
        for line in lines.values()
    )
    answers = ", ".join(f"{answer} for {rises[answer]}" for answer in sorted(rises))
    shares = [float(path["captured"].sel(walk="run")) for path in paths.values()]
    return (
        f"Errors: {counts.mean():.1f} on average, from {counts.min():.0f} to {counts.max():.0f}; "
        f"{int((counts <= PUBLISHED).sum())} of {len(counts)} seeds make no more than the paper's "
        f"{PUBLISHED}. On these examples a rise anywhere on the line is {answers}. The line "
        f"captures from {min(shares):.3f} to {max(shares):.3f} of the runs."
    )


def _line(study: Study, run: training.Run) -> xr.Dataset:
    return study.curve(
        f"seeds-{run.recipe.seed}",
        run,
        interval=(0.0, 1.0),
        splits=("train",),
        title=f"maxout, seed {run.recipe.seed}",
    )


def _path(study: Study, run: training.Run) -> xr.Dataset:
    def measure() -> xr.Dataset:
        return ravine.project(run.trajectory, onto=ravine.Line(run.start, run.solution))

    return study.kept(f"seeds-path-{run.recipe.seed}", (run.identity,), measure)


def _lines(lines: dict[str, xr.Dataset]) -> Panel:
    curves = []
    for style, (name, line) in enumerate(lines.items()):
        profile = metrics.Profile.of(line, split="train")
        curves.append(Curve(profile.alpha, profile.value, name, style=style))
    return Panel(Axis("α"), Axis("J (nats)"), tuple(curves), "the lines")


def _paths(paths: dict[str, xr.Dataset]) -> Panel:
    walk = np.linspace(0, 1, 101)
    curves = [Curve(walk, np.sqrt(walk * (1 - walk)), "random walk", style=len(paths))]
    for style, path in enumerate(paths.values()):
        away = path["residual"].values / float(path.attrs["length"])
        curves.append(Curve(path["alpha"].values, away, style=style))
    return Panel(
        Axis("α of the nearest point"), Axis("distance / length"), tuple(curves), "the paths"
    )


def _errors(runs: Sequence[training.Run], counts: np.ndarray) -> Panel:
    numbers = np.array([run.recipe.seed for run in runs], float)
    spread = [
        Curve(np.full(2, seed), count + np.array([-1.96, 1.96]) * count**0.5, style=0)
        for seed, count in zip(numbers, counts, strict=True)
    ]
    rule = Rule(float(PUBLISHED), f"the paper's {PUBLISHED}", on="y")
    dots = Markers(numbers, counts, style=0)
    return Panel(
        Axis("seed"), Axis("errors on the test part"), (rule, *spread, dots), "what they come to"
    )
