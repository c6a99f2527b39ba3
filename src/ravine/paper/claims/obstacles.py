"""The numbers of the two obstacles that the paper found: figure 6's barrier, and figure 7's second minimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from ravine import metrics
from ravine.paper.claims.curves import bump, inner, resolved
from ravine.paper.claims.found import Found, decided, estimated, exactly, given, missing, worst
from ravine.paper.figures.conv import NEAR
from ravine.paper.figures.mpdbm import closest_approach, nearest_as_drawn
from ravine.paper.figures.study import Outcome

# --- figure 6 --------------------------------------------------------------------------------------------


def near_barrier(near: metrics.Profile) -> Found:
    """The largest rise near the start, in nats: what every sentence on the barrier presupposes."""
    return decided(near, "rise", bump(near))


def barrier_within(near: metrics.Profile, end: float = NEAR) -> Found:
    """The largest rise up to an α, in nats, where there is one at all."""
    return given(near_barrier(near), decided(near.between(0, end), "rise", bump(near)), _NONE)


def second_barrier(near: metrics.Profile, whole: metrics.Profile) -> Found:
    """The largest rise after the first barrier's top, in nats: read from the zoom as far as that goes."""
    threshold = bump(whole)
    part = after_the_top(near, whole.between(0, 1))
    return given(near_barrier(near), decided(part, "rise", threshold), _NONE)


def after_the_top(near: metrics.Profile, whole: metrics.Profile) -> metrics.Profile:
    """The line from the zoom's largest rise on."""
    far = whole.part(whole.alpha > near.alpha[-1])
    names = ("alpha", "value", "replicates", "floor", "stderr", "misfit")
    both = {name: np.concatenate([getattr(near, name), getattr(far, name)]) for name in names}
    top = metrics.rise_of(near).height.at
    joined = replace(near, **both)
    return joined.part(joined.alpha >= top) if np.isfinite(top) else joined


def barrier_width(near: metrics.Profile) -> Found:
    """From the barrier's foot to where J is back at that level, in α; known from below only where it is not back."""
    rise = metrics.rise_of(near)
    spacing = near.spacing_at(rise.foot + rise.width.value) if np.isfinite(rise.foot) else 0.0
    doubt = spacing if resolved(near) else np.inf
    found = estimated(rise.width.value, rise.width.stderr, doubt, near.units)
    if not rise.returns:
        here = None if found.here is None else replace(found.here, upper=np.nan)
        found = replace(found, upper=np.nan, here=here)
    return given(near_barrier(near), found, _NONE)


def barrier_height(near: metrics.Profile, whole: metrics.Profile, share: float) -> Found:
    """The barrier's height over the whole fall of J; ``share`` is what is asked about."""
    part = whole.between(0, 1)
    fall = float(part.value[0] - part.value[-1])
    return given(near_barrier(near), decided(near, "rise", share * fall, unit=fall), _NONE)


_NONE = "there is no barrier"


# --- figure 7 --------------------------------------------------------------------------------------------


def second_minimum(curve: xr.Dataset) -> Found:
    """How deep a local minimum is, on either side of the lowest point of [0, 1], in nats."""
    profile = inner(curve)
    threshold, lowest = bump(profile), int(np.argmin(profile.value))
    sides = (profile.part(slice(None, lowest + 1)), profile.part(slice(lowest, None)))
    asked = [decided(side, "minimum", threshold) for side in sides if len(side.alpha) > 2]
    if not asked:
        return replace(missing("the line has too few points"), status="undecided")
    return replace(worst(asked), threshold=threshold)


def second_place(curve: xr.Dataset) -> float:
    """α of that minimum; NaN without one."""
    profile = inner(curve)
    lowest = int(np.argmin(profile.value))
    sides = (profile.part(slice(None, lowest + 1)), profile.part(slice(lowest, None)))
    found = [metrics.decide(side, "minimum") for side in sides if len(side.alpha) > 2]
    deep = [decision for decision in found if decision.value > 0]
    return max(deep, key=lambda decision: decision.value).at if deep else np.nan


def passed_at(outcome: Outcome) -> Found:
    """How near training came to that minimum, over the line's length."""
    line, place = outcome.results["line"], second_place(outcome.results["line"])
    near = np.nan
    if np.isfinite(place):
        near = closest_approach(outcome.results["path"], place)[0]
    return given(second_minimum(line), exactly(near), "there is no second minimum")


def passed_as_drawn(outcome: Outcome) -> Found:
    """The same on the two axes of the figure."""
    line, place = outcome.results["line"], second_place(outcome.results["line"])
    near = np.nan
    if np.isfinite(place):
        near = nearest_as_drawn(outcome.results["plane"], outcome.results["path"], place)
    return given(second_minimum(line), exactly(near), "there is no second minimum")
