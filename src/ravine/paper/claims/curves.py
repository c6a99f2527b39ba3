"""The numbers that a curve decides: heights, distances and places, each with its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import xarray as xr

from ravine import metrics
from ravine.paper.claims.found import (
    Found,
    decided,
    estimated,
    exactly,
    given,
    measured,
    missing,
    worst,
)
from ravine.paper.figures.study import Outcome


def train(curve: xr.Dataset) -> metrics.Profile:
    """The training loss along a line."""
    return metrics.Profile.of(curve, split="train")


def inner(curve: xr.Dataset) -> metrics.Profile:
    """The same on [0, 1]."""
    return train(curve).between(0, 1)


def bump(profile: metrics.Profile, outcome: Outcome | None = None) -> float:
    """What counts as a bump: ``ravine.metrics``'s threshold, at most a thousandth of the gain.

    The second part binds where a line starts far above the network's own start: a thousandth of
    that height may be more than all that training had to gain.

    Args:
        profile: the curve.
        outcome: of the figure; None where the line leads from the network's own start
            to its solution.

    Returns:
        A height in nats, never below the noise floor.
    """
    threshold = metrics.threshold_of(profile)
    if outcome is None or not outcome.runs:
        return threshold
    floor = float(np.nan_to_num(profile.between(0, 1).floor).max(initial=0.0))
    return min(threshold, max(metrics.FLAT * gained(outcome), floor))


def gained(outcome: Outcome) -> float:
    """How far training brought the loss of its examples down."""
    history = outcome.runs[0].history
    loss = history["loss"].sel(split="train").values[history["phase"].values == 1]
    return float(loss[0] - loss.min())


# --- obstacles ------------------------------------------------------------------------------------


def rises(curve: xr.Dataset, outcome: Outcome | None = None) -> Found:
    """The largest rise of the training loss on [0, 1], in nats."""
    profile = train(curve)
    return decided(profile, "rise", bump(profile, outcome))


def humps(curve: xr.Dataset) -> Found:
    """The highest hump of what was measured: what must be climbed whichever way one comes, in nats.

    A slope and a single valley have none.
    """
    profile = train(curve)
    return decided(upside_down(profile), "minimum", bump(profile))


def upside_down(profile: metrics.Profile) -> metrics.Profile:
    """The curve of −J, whose minima are the humps of J."""
    return replace(profile, value=-profile.value, replicates=-profile.replicates)


def barriers(curve: xr.Dataset, outcome: Outcome | None = None) -> Found:
    """The barrier between the ends, in nats."""
    profile = train(curve)
    return decided(profile, "barrier", bump(profile, outcome))


def one_valley(curve: xr.Dataset, outcome: Outcome) -> Found:
    """How far a curve is from one valley with its bottom at α = 1.

    Its highest hump, or how far it goes below J(1).
    """
    profile = train(curve)
    threshold = bump(profile, outcome)
    hump = decided(upside_down(profile), "minimum", threshold)
    solution = int(np.argmin(np.abs(profile.alpha - 1)))
    depth = measured(profile, lambda alpha, value: float(value[solution] - value.min()))
    return replace(worst((hump, depth)), threshold=threshold)


def hidden(curves: Mapping[str, xr.Dataset]) -> Found:
    """The worst that can hide between points, over what counts as a bump.

    It is not known where a piece did not resolve.
    """
    worst_known, unresolved = 0.0, []
    for name, curve in curves.items():
        profile = train(curve)
        known = np.isfinite(profile.misfit)
        worst_known = max(worst_known, float(profile.misfit[known].max()) / bump(profile))
        if not known.all():
            unresolved.append(name)
    if not unresolved:
        return exactly(worst_known, "examples")
    where = ", ".join(unresolved)
    return Found(
        worst_known, worst_known, np.nan, "examples", remark=f"not resolved everywhere: {where}"
    )


def bumps(curve: xr.Dataset) -> Found:
    """How many tops these values have, each climbed and left by more than what counts as a bump."""
    profile = train(curve)
    return exactly(float(len(tops(profile.alpha, profile.value, bump(profile)))), "examples")


def tops(alpha: np.ndarray, value: np.ndarray, least: float) -> list[float]:
    """Where the tops are that take a climb, and then a descent, of more than ``least``.

    Examples:
        >>> x = np.linspace(0, 1, 101)
        >>> [round(top, 2) for top in tops(x, np.sin(4 * np.pi * x), 0.1)]
        [0.12, 0.62]
    """
    found: list[float] = []
    low, high = 0, 0  # the lowest since the last top, and the highest since then
    for i in range(len(value)):
        if value[i] > value[high]:
            high = i
        if value[high] - value[low] > least and value[high] - value[i] > least:
            found.append(float(alpha[high]))
            low = high = i
        elif value[i] < value[low]:
            low = high = i
    return found


# --- shape ----------------------------------------------------------------------------------------


def above_hull(curve: xr.Dataset, start: float = 0.0) -> Found:
    """How far the training loss is above its lower hull on [start, 1], over its range on [0, 1].

    0 for a convex curve; a step from 1 to 0 halfway stands 1/2 above. Noise makes it larger;
    corrected for that.
    """
    whole = inner(curve)
    extent = float(np.ptp(whole.value))
    part = whole.between(start, 1)
    doubt = 2 * float(part.doubt.max()) / extent
    return measured(part, lambda alpha, value: hull_distance(alpha, value) / extent, doubt)


def hull_distance(alpha: np.ndarray, value: np.ndarray) -> float:
    """How far a curve stands above its lower convex hull.

    Examples:
        >>> x = np.linspace(0, 1, 101)
        >>> hull_distance(x, (x - 0.5) ** 2), round(hull_distance(x, -((x - 0.5) ** 2)), 2)
        (0.0, 0.25)
    """
    hull = [0]
    for i in range(1, len(alpha)):  # Andrew's monotone chain
        while len(hull) > 1 and _left_turn(alpha, value, hull[-2], hull[-1], i) <= 0:
            hull.pop()
        hull.append(i)
    return float((value - np.interp(alpha, alpha[hull], value[hull])).max())


def _left_turn(x: np.ndarray, y: np.ndarray, a: int, b: int, c: int) -> float:
    return float((x[b] - x[a]) * (y[c] - y[a]) - (y[b] - y[a]) * (x[c] - x[a]))


def more_above_hull(curve: xr.Dataset, others: Mapping[str, xr.Dataset], wanted: int) -> Found:
    """How much farther a curve stands above its hull than the others do, at most.

    Args:
        curve: in question.
        others: what it is compared with, by name.
        wanted: how many there are to be.

    Returns:
        Its distance less the largest of theirs; unknown from below where one of them is missing.
    """
    if not others:
        return missing("none of the networks that it is compared with was run")
    own = above_hull(curve)
    theirs = {name: above_hull(other) for name, other in others.items()}
    number = ", ".join(f"{name} {found.number:.3g}" for name, found in theirs.items())
    lacking = f"; {wanted - len(others)} more not run" if len(others) < wanted else ""
    remark = f"its own {own.number:.3g}, the others' {number}{lacking}"
    found = replace(_less(own, worst(theirs.values())), remark=remark)
    if not lacking:
        return found
    here = None if found.here is None else replace(found.here, lower=np.nan)
    return replace(found, lower=np.nan, here=here)


def _less(one: Found, other: Found) -> Found:
    """A difference of two numbers; each bound is wrong where either's is."""
    here = None
    if one.here is not None and other.here is not None:
        here = _less(one.here, other.here)
    lower, upper = one.lower - other.upper, one.upper - other.lower
    return replace(one, number=one.number - other.number, lower=lower, upper=upper, here=here)


def flattening(curve: xr.Dataset) -> Found:
    """α at which a tenth of the decrease is reached."""
    profile = train(curve)
    found = metrics.plateau(curve, split="train")
    spacing = profile.spacing_at(found.value) if np.isfinite(found.value) else np.nan
    return estimated(
        found.value, found.stderr, spacing if resolved(profile) else np.inf, profile.units
    )


def resolved(profile: metrics.Profile) -> bool:
    """Whether the curve is known between its points."""
    return bool(np.isfinite(profile.misfit).all())


#: What a coarse search leaves jumps where one step more fits before the rise, so the worst of all
#: lengths is looked for: they are 0.0025 apart, a twentieth of the shortest step.
_STEP_LENGTHS: Final = 81


def line_search_regret(curve: xr.Dataset, steps: tuple[float, float] = (0.05, 0.25)) -> Found:
    """What a coarse line search leaves: equal steps until the training loss rises, the best kept.

    Returns:
        The worst excess over the lowest loss of the line, for any step length between the two, as a
        share of J(0) less that lowest loss.
    """
    profile = train(curve)
    start = int(np.argmin(np.abs(profile.alpha)))
    gain = float(profile.value[start] - profile.value.min())
    doubt = 2 * float(profile.doubt.max()) / gain
    return measured(
        profile, lambda alpha, value: _regret(alpha, value, steps), doubt, subadditive=False
    )


def _regret(alpha: np.ndarray, value: np.ndarray, steps: tuple[float, float]) -> float:
    lowest, start = float(value.min()), float(np.interp(0.0, alpha, value))
    left = []
    for step in np.linspace(*steps, _STEP_LENGTHS):
        walked = np.interp(np.arange(0, float(alpha[-1]), step), alpha, value)
        rising = np.flatnonzero(np.diff(walked) > 0)
        last = rising[0] + 1 if rising.size else None
        left.append(float(walked[:last].min()) - lowest)
    return max(left) / (start - lowest)


# --- values ---------------------------------------------------------------------------------------


def start_above(curve: xr.Dataset, level: float) -> Found:
    """How far J(0) is from a level, in nats."""
    profile = inner(curve)
    at_start = profile.at_end(0)
    doubt = float(np.nan_to_num(profile.floor[0]))
    found = estimated(abs(at_start.value - level), at_start.stderr, doubt, profile.units)
    return replace(found, lower=max(found.lower, 0.0), threshold=bump(profile))


def separation(outcome: Outcome) -> Found:
    """Validation above training loss at the solution, over the latter's range in [0.99, 1]."""
    whole, window = outcome.results["whole"], train(outcome.results["end"])
    extent = float(np.ptp(window.value))
    at_end = {
        split: metrics.Profile.of(whole, split=split).between(1, 1) for split in ("train", "valid")
    }
    apart = float(at_end["valid"].value[0] - at_end["train"].value[0])
    stderr = float(np.hypot(at_end["valid"].stderr[0], at_end["train"].stderr[0]))
    doubt = float(sum(np.nan_to_num(part.floor[0]) for part in at_end.values()))
    units = min(part.units for part in at_end.values())
    return estimated(apart / extent, stderr / extent, doubt / extent, units)


def ends_of_minima(curve: xr.Dataset) -> Found:
    """How far below the two solutions the bottoms of their valleys lie, in nats.

    There must be a barrier between them.
    """
    profile = train(curve)
    doubt = 2 * float(profile.doubt.max())
    found = measured(profile, _below_the_ends, doubt, subadditive=False)
    between = decided(profile, "barrier", bump(profile))
    return replace(given(between, found, "there is no barrier between"), threshold=bump(profile))


def _below_the_ends(alpha: np.ndarray, value: np.ndarray) -> float:
    """Infinite where a valley has no bottom of its own."""
    worst_end = 0.0
    for end in (0.0, 1.0):
        here = np.abs(alpha - end) <= 0.5
        valley = value[here]
        bottom = int(np.argmin(valley))
        if bottom in (0, len(valley) - 1):
            return float("inf")
        worst_end = max(worst_end, float(np.interp(end, alpha, value) - valley[bottom]))
    return worst_end
