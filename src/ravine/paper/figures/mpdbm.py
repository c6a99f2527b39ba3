"""Figure 7, left: an MP-DBM on MNIST, along the line and and beyond both its ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
import xarray as xr

from ravine import metrics
from ravine.paper.figures.mpdbm_measures import (
    BOTH,
    CHANGED,
    CUT,
    DRAWS,
    RAW,
    SIZES,
    UNIT,
    WIDE,
    line_of,
    measured,
    path_of,
    wide_of,
)
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.second_minima import anomalies, said
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.tasks.prediction import in_parts
from ravine.plot import Axis, Curve, Figure, Panel, Rule

#: α where a curve is not resolved but searched.
GRID: Final = np.linspace(0, 1, 17)

#: What is looked at again near either end: ours, the paper has no number.
NEAR: Final = 0.05

#: A machine so small that three seeds take minutes on a desk.
SMALL: Final = "mpdbm-tiny-mnist"

SEEDS: Final = (0, 1, 2)

#: A panel is logarithmic where its values span more than this factor.
DECADE: Final = 10.0


def fig7(study: Study) -> Outcome:
    """Left: the line, and beyond both ends, from the start as drawn and cut to the caps."""
    run = study.trained(SIZES[study.profile])
    line, path = line_of(study, run), path_of(study, run)
    coarse = measured(
        study,
        run,
        "coarse",
        "MP-DBM, the original's 20 values of α",
        at=COARSE,
        splits=BOTH,
        costs=in_parts,
    )
    results = {
        "line": line,
        "coarse": coarse,
        RAW: wide_of(study, run, "wide", RAW, cut=False),
        CUT: wide_of(study, run, "wide-cut", CUT, cut=True),
        "several draws": measured(
            study,
            run,
            "draws",
            f"MP-DBM, {DRAWS} draws of masks",
            at=GRID,
            draws=DRAWS,
            costs=in_parts,
        ),
        "undoubled": measured(
            study, run, "undoubled", "MP-DBM, first pass not doubled", at=GRID, doubled=False
        ),
    }
    for name, window in (("start", (0.0, NEAR)), ("end", (1 - NEAR, 1.0))):
        results[name] = measured(
            study,
            run,
            name,
            f"MP-DBM, α in [{window[0]:g}, {window[1]:g}]",
            interval=window,
            costs=in_parts,
            dtype=torch.float64,  # what changes so near to an end is small
        )
    searched = {name: curve for name, curve in results.items() if name not in (RAW, CUT)}
    found = anomalies(searched)
    low, high = WIDE
    panels = (
        with_points(panel(line, "the line", label=UNIT), coarse, within=(0.0, 1.0)),
        with_points(_scaled(results[RAW], RAW), coarse, within=WIDE),
        _scaled(results[CUT], CUT),
        _zoomed(panel(results[CUT], "the same, left of the start", label=UNIT), [results[CUT]]),
        _errors({name: results[name] for name in (RAW, CUT)}, first=2),
        _per_pixel(learning_curve(run)),
    )
    counts, doubt = line["n_examples"].values, float(metrics.Profile.of(line).doubt.max())
    known = f"J is known to {doubt:.1g}" if np.isfinite(doubt) else "J did not resolve everywhere"
    figure = Figure(
        panels,
        "Figure 7, left: from initialisation to solution, MP-DBM on MNIST",
        "The multi-prediction objective along the line from initial (α = 0) to final parameters (α "
        "= 1), with one draw of masks and binary images for all α, of the first "
        f"{counts[0]:,} training and {counts[1]:,} validation images; between the points that were "
        f"measured {known}. Points are the original experiment's 20 values of α. The initial "
        f"parameters lie {path.attrs['outside']:.3g} outside the set that the caps allow, of "
        f"{float(path.attrs['length']):.3g} to the solution; so the line is drawn from the nearest "
        f"point of that set too, and on [{low:g}, {high:g}]. {said(found, path, searched)} "
        f"{' '.join(said_left(name, results[name]) for name in (RAW, CUT))} "
        f"{CHANGED[study.profile]} {described(run)}",
    )
    remark = (
        "The paper says neither which range of α it drew nor which minimum it means. Each reading "
        "of its sentence is decided for itself: between the start and the solution, and to the "
        "left of the start, each from the start as it was drawn and from the start cut to the caps."
    )
    return Outcome("fig7", figure, results | {"path": path}, (run,), remark)


def left_minimum(curve: xr.Dataset) -> metrics.Decision:
    """Whether J has a minimum left of its lowest point on [0, 1], by what counts there."""
    profile = metrics.Profile.of(curve, split="train")
    whole = profile.between(0, 1)
    lowest = float(whole.alpha[int(np.argmin(whole.value))])
    above = metrics.threshold_of(whole)
    return metrics.decide(profile.between(WIDE[0], lowest), "minimum", above=above)


def said_left(name: str, curve: xr.Dataset) -> str:
    """The same in words."""
    found = left_minimum(curve)
    where = f"To the left of the solution on the line {name}"
    if not found.value > 0:
        return f"{where}, J has no second minimum."
    bounds = f"[{found.lower:.2g}, {found.upper:.2g}] at 95 % each"
    return (
        f"{where}, a second minimum at α = {found.at:.3g} is {found.answer}: prominence "
        f"{found.value:.2g} nats per pixel {bounds}."
    )


def fig7_small(study: Study) -> Outcome:
    """A small machine, three seeds: the line and beyond both ends, from starts cut to the caps."""
    runs = [study.trained(SMALL, seed) for seed in SEEDS]
    results = {
        of_seed(run.recipe.seed): wide_of(study, run, f"small-{run.recipe.seed}", CUT, cut=True)
        for run in runs
    }
    lines = list(results.values())
    panels = (
        _of_seeds(lines, CUT),
        _zoomed(_of_seeds(lines, "the same, left of the start"), lines),
        _errors(results),
        _per_pixel(learning_curve(runs[0])),
    )
    words = " ".join(said_left(f"of {name}", line) for name, line in results.items())
    figure = Figure(
        panels,
        "Figure 7: a small MP-DBM, which may have a second minimum",
        f"The multi-prediction objective on [{WIDE[0]:g}, {WIDE[1]:g}] along the line {CUT}, for a "
        f"machine of 150 and 250 hidden units on 2,000 images; three seeds. {words} "
        f"{described(runs[0])}",
    )
    return Outcome("fig7-small", figure, results, tuple(runs))


def of_seed(seed: int) -> str:
    """The name of a result of ``fig7_small``."""
    return f"seed {seed}"


def _of_seeds(lines: Sequence[xr.Dataset], title: str) -> Panel:
    curves = []
    for style, line in enumerate(lines):
        profile = metrics.Profile.of(line)
        curves.append(Curve(profile.alpha, profile.value, f"seed {style}", style=style))
    rules = (Rule(0.0, "start"), Rule(1.0, "solution"))
    return Panel(Axis("α"), Axis(UNIT, "log"), (*rules, *curves), title)


def _scaled(curve: xr.Dataset, title: str) -> Panel:
    """The panel of a line, logarithmic where its values span more than a decade."""
    wide = float(curve["loss"].max() / curve["loss"].min()) > DECADE
    return panel(curve, title, "log" if wide else "linear", label=UNIT)


def _zoomed(drawn: Panel, lines: Sequence[xr.Dataset]) -> Panel:
    """The panel from its left end to the start, and no higher than J there and halfway to it."""
    profiles = [metrics.Profile.of(line) for line in lines]
    low = min(float(one.between(WIDE[0], 0).value.min()) for one in profiles)
    high = max(float(one.between(-0.5, 0).value.max()) for one in profiles)
    room = 0.1 * (high - low)
    x = replace(drawn.x, limits=(WIDE[0], 0.05))
    y = replace(drawn.y, scale="linear", limits=(low - room, high + room))
    return replace(drawn, x=x, y=y)


def _errors(lines: dict[str, xr.Dataset], first: int = 0) -> Panel:
    """The share of training images given another label, along wide lines.

    ``first`` is the first one's style.
    """
    curves = []
    for style, (name, line) in enumerate(lines.items(), start=first):
        profile = metrics.Profile.of(line, "error")
        curves.append(Curve(profile.alpha, profile.value, name, style=style))
    return Panel(Axis("α"), Axis("share given another label"), tuple(curves), "error by mean field")


def _per_pixel(drawn: Panel) -> Panel:
    return replace(drawn, y=replace(drawn.y, label="J, fresh masks (nats per pixel)"))
