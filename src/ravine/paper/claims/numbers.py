"""The numbers that decide the claims, each read from what a figure measured."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ravine import metrics
from ravine.paper.figures.conv import barrier
from ravine.paper.figures.mpdbm import anomalies, closest_approach, nearest_as_drawn
from ravine.paper.figures.study import Outcome


def train(curve: xr.Dataset) -> metrics.Profile:
    """The training loss along a line."""
    return metrics.Profile.of(curve, split="train")


def _range(curve: xr.Dataset) -> float:
    return float(np.ptp(train(curve).between(0, 1).value))


def relative_rise(curve: xr.Dataset) -> float:
    """The largest rise of the training loss on [0, 1], as a share of its range there; noise does not count."""
    part = train(curve).between(0, 1)
    height = metrics.rise(curve, split="train").height.value
    return 0.0 if height <= 2 * float(np.nanmax(part.doubt)) else height / float(np.ptp(part.value))


def hump(alpha: np.ndarray, value: np.ndarray) -> float:
    """The highest hump: what must be climbed, whichever way one comes; 0 for a slope and for a single valley.

    Examples:
        >>> x = np.linspace(0, 1, 101)
        >>> hump(x, (x - 0.5) ** 2), round(hump(x, 3 * np.sin(np.pi * x) + x), 2)
        (0.0, 2.52)
    """
    from_left, from_right = np.minimum.accumulate(value), np.minimum.accumulate(value[::-1])[::-1]
    return float((value - np.maximum(from_left, from_right)).max())


def relative_hump(curve: xr.Dataset) -> float:
    """The highest hump of the training loss over the range of what was measured; noise does not count."""
    profile = train(curve)
    height = hump(profile.alpha, profile.value)
    return (
        0.0
        if height <= 2 * float(np.nanmax(profile.doubt))
        else height / float(np.ptp(profile.value))
    )


def above_hull(curve: xr.Dataset, start: float = 0.0) -> float:
    """How far the training loss stands above its lower convex hull on [start, 1], over its range on [0, 1].

    0 for a convex curve; a step from 1 to 0 halfway stands 1/2 above.
    """
    part = train(curve).between(start, 1)
    hull = [0]
    for i in range(1, len(part.alpha)):  # Andrew's monotone chain
        while len(hull) > 1 and _left_turn(part, hull[-2], hull[-1], i) <= 0:
            hull.pop()
        hull.append(i)
    below = np.interp(part.alpha, part.alpha[hull], part.value[hull])
    return float((part.value - below).max()) / _range(curve)


def _left_turn(part: metrics.Profile, a: int, b: int, c: int) -> float:
    x, y = part.alpha, part.value
    return float((x[b] - x[a]) * (y[c] - y[a]) - (y[b] - y[a]) * (x[c] - x[a]))


def line_search_regret(curve: xr.Dataset, steps: tuple[float, float] = (0.05, 0.25)) -> float:
    """What a coarse line search leaves: it walks in equal steps until the training loss rises, and keeps the best.

    Returns:
        The worst excess over the lowest loss of the line, for any step length between the two, as a
        share of J(0) less that lowest loss.
    """
    profile = train(curve)
    lowest = float(profile.value.min())
    start = float(np.interp(0.0, profile.alpha, profile.value))
    left = []
    for step in np.linspace(*steps, 81):
        walked = np.interp(
            np.arange(0, float(profile.alpha[-1]), step), profile.alpha, profile.value
        )
        rises = np.flatnonzero(np.diff(walked) > 0)
        left.append(float(walked[: rises[0] + 1 if rises.size else None].min()) - lowest)
    return max(left) / (start - lowest)


def turns(curve: xr.Dataset) -> int:
    """How often the training loss turns from falling to rising or back, from one measured point to the next."""
    steps = np.sign(np.diff(curve.sortby("alpha")["loss"].sel(split="train").values))
    steps = steps[steps != 0]
    return int((steps[1:] != steps[:-1]).sum())


def hidden(outcome: Outcome) -> float:
    """The worst error of the resolved windows at their checks, as a share of each window's range."""
    worst = 0.0
    for name in ("whole", "start", "end"):
        worst = max(worst, misfit(outcome.results[f"{name} resolved"]))
    return worst


def misfit(curve: xr.Dataset) -> float:
    """The worst error of the training loss's interpolant at its checks, as a share of its range."""
    worst = float(np.nanmax(curve["loss_misfit"].sel(split="train").values))
    return worst / float(np.ptp(curve["loss"].sel(split="train").values))


def learnt(outcome: Outcome, epochs: int) -> float:
    """The share of the whole fall of the training objective that is done after so many epochs."""
    history = outcome.runs[0].history
    first = history.isel(record=np.flatnonzero(history["phase"].values == 1))
    objective = first["objective"].sel(split="train").values
    return float((objective[0] - objective[epochs]) / (objective[0] - np.nanmin(objective)))


def epochs_in_the_flat(outcome: Outcome) -> float:
    """The share of epochs that end with the training objective within a tenth of its fall from the bottom."""
    history = outcome.runs[0].history
    first = history.isel(record=np.flatnonzero(history["phase"].values == 1))
    objective = first["objective"].sel(split="train").values
    if outcome.runs[0].recipe.is_lean:  # not every epoch was watched
        objective = objective[np.isfinite(objective)]
    bottom = objective.min() + 0.1 * (objective[0] - objective.min())
    return float((objective[1:] <= bottom).mean())


def separation(outcome: Outcome) -> float:
    """Validation above training loss at the solution, over the range of the training loss in [0.99, 1]."""
    whole, window = outcome.results["whole"], outcome.results["end"]
    at = whole["loss"].sel(alpha=1.0, method="nearest")
    return float(at.sel(split="valid") - at.sel(split="train")) / float(
        np.ptp(window["loss"].sel(split="train").values)
    )


def ends_of_minima(outcome: Outcome) -> float:
    """How far below the solutions the nearest local minima lie, over the barrier; infinite without one for each."""
    curve = outcome.results["solutions"]
    minima = metrics.minima(curve, split="train")
    barrier = metrics.barrier(curve, split="train").value
    profile = train(curve)
    worst = 0.0
    for end in (0.0, 1.0):
        near = [m for m in minima if abs(m.value.at - end) < 0.5]
        if not near:
            return float("inf")
        worst = max(
            worst,
            float(np.interp(end, profile.alpha, profile.value)) - min(m.value.value for m in near),
        )
    return worst / barrier


def grid_minima(outcome: Outcome) -> float:
    """Local minima other than the one at α = 1 on the original grid from a random point."""
    value = outcome.results["random coarse"].sortby("alpha")["loss"].sel(split="train").values
    inner = np.flatnonzero((value[1:-1] < value[:-2]) & (value[1:-1] <= value[2:])) + 1
    return float(
        sum(int(i) != 9 for i in inner) + (9 not in inner)
    )  # α = i/9, so the solution is number 9


def humps(alpha: np.ndarray, value: np.ndarray, least: float) -> list[float]:
    """Where the tops are that must be climbed by more than ``least`` and descended from by more than that.

    Examples:
        >>> x = np.linspace(0, 1, 101)
        >>> [round(top, 2) for top in humps(x, np.sin(4 * np.pi * x), 0.1)]
        [0.12, 0.62]
    """
    tops: list[float] = []
    low, high = 0, 0  # the lowest since the last top, and the highest since then
    for i in range(len(value)):
        if value[i] > value[high]:
            high = i
        if value[high] - value[low] > least and value[high] - value[i] > least:
            tops.append(float(alpha[high]))
            low = high = i
        elif value[i] < value[low]:
            low = high = i
    return tops


def conv_humps(outcome: Outcome) -> list[float]:
    """Where J has its humps on [0, 1]: read from the zoom as far as that goes; noise does not count."""
    near, whole = (train(outcome.results[name]).between(0, 1) for name in ("near", "whole"))
    far = whole.part(whole.alpha > near.alpha[-1])
    alpha, value, doubt = (
        np.concatenate([getattr(near, name), getattr(far, name)])
        for name in ("alpha", "value", "doubt")
    )
    return humps(alpha, value, 2 * float(np.nanmax(doubt)))


def conv_place(outcome: Outcome) -> float:
    """Where the first hump is; infinite without one."""
    return next(iter(conv_humps(outcome)), float("inf"))


def conv_height(outcome: Outcome) -> float:
    """The barrier's height over the whole fall of J."""
    part = train(outcome.results["whole"]).between(0, 1)
    return barrier(outcome.results["near"]).height.value / float(part.value[0] - part.value[-1])


def shape_distance(outcome: Outcome) -> float:
    """Root mean square of the difference between the residuals and a random walk's at the same α, over L."""
    path = outcome.results["path"]
    inside = path["alpha"].values <= 1
    alpha = path["alpha"].values[inside].clip(0, 1)
    walk = np.sqrt(alpha * (1 - alpha))
    residual = path["residual"].values[inside] / float(path.attrs["length"])
    return float(np.sqrt(((residual - walk) ** 2).mean()))


def of_path(outcome: Outcome, name: str, walk: str = "run") -> float:
    """A share of a projected run, or of the random walk beside it."""
    return float(outcome.results["path"][name].sel(walk=walk))


def second_minimum(outcome: Outcome) -> float:
    """The prominence of the second minimum of the training objective on the line, over its range; 0 without one."""
    found = anomalies({"line": outcome.results["line"]}, ("loss",), ("train",))
    return found[0].share if found else 0.0


def passed_at(outcome: Outcome) -> float:
    """How near training came to that minimum, over the line's length; NaN without one."""
    found = anomalies({"line": outcome.results["line"]}, ("loss",), ("train",))
    return closest_approach(outcome.results["path"], found[0].alpha)[0] if found else float("nan")


def passed_as_drawn(outcome: Outcome) -> float:
    """The same on the two axes of the figure."""
    found = anomalies({"line": outcome.results["line"]}, ("loss",), ("train",))
    plane, path = (outcome.results[name] for name in ("plane", "path"))
    return nearest_as_drawn(plane, path, found[0].alpha) if found else float("nan")


def in_errors(barrier: metrics.Estimate) -> float:
    """A height in units of its standard error."""
    return barrier.value / barrier.stderr
