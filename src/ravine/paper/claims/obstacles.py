"""The numbers of the paper's two obstacles: figure 6's barrier, figure 7's second minimum."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import xarray as xr

from ravine import metrics
from ravine.paper.claims.curves import bump, inner, resolved, train
from ravine.paper.claims.found import Found, decided, estimated, exactly, given, missing, worst
from ravine.paper.figures.conv import NEAR
from ravine.paper.figures.mpdbm_measures import CUT, RAW, WIDE
from ravine.paper.figures.mpdbm_plane import nearest_as_drawn
from ravine.paper.figures.second_minima import closest_approach
from ravine.paper.figures.study import Outcome

# --- figure 6 -------------------------------------------------------------------------------------


def near_barrier(near: metrics.Profile) -> Found:
    """The largest rise near the start, in nats: what every sentence on the barrier presupposes."""
    return decided(near, "rise", bump(near))


def barrier_within(near: metrics.Profile, end: float = NEAR) -> Found:
    """The largest rise up to an α, in nats, where there is one at all."""
    return given(near_barrier(near), decided(near.between(0, end), "rise", bump(near)), _NONE)


def second_barrier(near: metrics.Profile, whole: metrics.Profile) -> Found:
    """The largest rise after the first barrier's top, in nats, from the zoom as far as it goes."""
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
    """From the barrier's foot to where J is back at that level, in α.

    Known from below only where it is not back.
    """
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


# --- figure 7 -------------------------------------------------------------------------------------


def second_minimum(curve: xr.Dataset, low: float = 0.0, high: float = 1.0) -> Found:
    """How deep a local minimum on [low, high] is, in nats, beside the lowest point's valley.

    What counts as a minimum is what would on [0, 1].
    """
    threshold = bump(inner(curve))
    asked = [decided(side, "minimum", threshold) for side in _sides(curve, low, high)]
    if not asked:
        return replace(missing("the line has too few points"), status="undecided")
    return replace(worst(asked), threshold=threshold)


def _sides(curve: xr.Dataset, low: float, high: float) -> list[metrics.Profile]:
    """[low, high] to the left and to the right of the lowest point from the start on.

    That point is the bottom of the solution's own valley.
    """
    profile = train(curve)
    onward = profile.between(0, max(high, 1.0))
    lowest = float(onward.alpha[int(np.argmin(onward.value))])
    sides = (profile.between(low, min(high, lowest)), profile.between(max(low, lowest), high))
    return [side for side in sides if len(side.alpha) > 2]


def second_place(curve: xr.Dataset, low: float = 0.0, high: float = 1.0) -> float:
    """α of that minimum; NaN without one."""
    found = [metrics.decide(side, "minimum") for side in _sides(curve, low, high)]
    deep = [decision for decision in found if decision.value > 0]
    return max(deep, key=lambda decision: decision.value).at if deep else np.nan


def placed_minimum(curve: xr.Dataset, part: tuple[float, float]) -> Found:
    """As ``second_minimum``, with where it is and what it is like beside it."""
    found, place = second_minimum(curve, *part), second_place(curve, *part)
    if np.isnan(place):
        return found
    profile, solution = train(curve), train(curve).between(1, 1)
    value = float(np.interp(place, profile.alpha, profile.value))
    said = (
        f"at α = {place:.3g}, where J is {value:.3g}, and {float(solution.value[0]):.3g} at α = 1; "
        f"the error there is {_error(curve, place).number:.2g}"
    )
    return replace(found, remark="; ".join(filter(None, [said, found.remark])))


def error_there(curve: xr.Dataset, part: tuple[float, float]) -> Found:
    """The share of training images that are given another label at that minimum."""
    place = second_place(curve, *part)
    error = _error(curve, place) if np.isfinite(place) else exactly(np.nan)
    return given(second_minimum(curve, *part), error, _NO_MINIMUM)


def _error(curve: xr.Dataset, place: float) -> Found:
    profile = metrics.Profile.of(curve, "error", "train")
    nearest = int(np.argmin(np.abs(profile.alpha - place)))
    value, stderr = float(profile.value[nearest]), float(profile.stderr[nearest])
    return estimated(value, stderr, units=profile.units)


def passed_at(outcome: Outcome) -> Found:
    """How near training came to that minimum, over the line's length."""
    line, place = outcome.results[RAW], second_place(outcome.results[RAW])
    near = np.nan
    if np.isfinite(place):
        near = closest_approach(outcome.results["path"], place)[0]
    return given(second_minimum(line), exactly(near), _NO_MINIMUM)


def passed_left(outcome: Outcome) -> Found:
    """The same of a minimum to the left of the start cut to the caps, seen from that line."""
    low, high = LEFT
    line, path = outcome.results[CUT], outcome.results["path"]
    place = second_place(line, low, high)
    residual = path["cut_residual"].values / float(path.attrs["cut_length"])
    near = float(np.hypot(path["cut_alpha"].values - place, residual).min())
    return given(second_minimum(line, low, high), exactly(near), _NO_MINIMUM)


def passed_as_drawn(outcome: Outcome) -> Found:
    """The same as ``passed_at`` on the two axes of the figure."""
    line, place = outcome.results["line"], second_place(outcome.results["line"])
    near = np.nan
    if np.isfinite(place):
        near = nearest_as_drawn(outcome.results["plane"], outcome.results["path"], place)
    return given(second_minimum(line), exactly(near), _NO_MINIMUM)


#: To the left of the start.
LEFT: Final = (WIDE[0], 0.0)

_NO_MINIMUM: Final = "there is no second minimum"
