"""Ends: several lines that share one end, and how far the value at the other end is from there.

So it is when one group of parameters moves at a time: which group hurts most is seen at the free
end, even where no line has a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import xarray as xr

from ravine.metrics.bounds import critical
from ravine.metrics.connections import is_of_pairs
from ravine.metrics.findings import Finding
from ravine.metrics.inference import FEWEST_UNITS, LEVEL, threshold_of, widened
from ravine.metrics.profile import Profile, number
from ravine.metrics.replicates import Family, Sample
from ravine.result.schema import lines_of

Shared = Literal["start", "end"]

_PLACES: Final = {"start": 0.0, "end": 1.0}


@dataclass(frozen=True)
class EndChanges:
    """J at the free ends of several lines minus J at the end that they share.

    Attributes:
        shared: which end that is.
        findings: one for each line, the largest change first: "raises it", "lowers it", "no change"
            or "undecided", with simultaneous bounds.
        is_largest: whether the first one's change is shown to be larger than every other line's.
    """

    shared: Shared
    findings: tuple[Finding, ...]
    is_largest: bool


def shared_end(result: xr.Dataset) -> Shared | None:
    """The end that all lines of a result share while the other one differs; None if none is."""
    if result.sizes.get("line", 0) < 2 or is_of_pairs(result):
        return None
    if "alignment" in result.attrs:
        return None  # the free ends are one network with its units in another order
    several: dict[str, int] = {}
    for end in ("start", "end"):
        key = f"{end}_hash"
        if key not in result.coords and key not in result.attrs:
            return None
        known = result.coords[key].values if key in result.coords else [result.attrs[key]]
        several[end] = len(set(map(str, np.atleast_1d(known))))
    if several["start"] == 1 < several["end"]:
        return "start"
    return "end" if several["end"] == 1 < several["start"] else None


def end_changes(
    result: xr.Dataset, shared: Shared, quantity: str, split: str, level: float = LEVEL
) -> EndChanges:
    """How far each line's free end is from the shared one, by paired differences.

    Args:
        result: of several lines, each of which covers [0, 1].
        shared: the end that they share.
        quantity: of what.
        split: on which split.
        level: of each one-sided bound, for all lines together.
    """
    profiles = {name: Profile.of(line, quantity, split) for name, line in lines_of(result).items()}
    star = _star([*profiles.values()], shared)
    sample = Sample(star, joint=False)
    others = np.arange(1, len(star.alpha))
    family = sample.against(0, others)
    bounds = _bounds(family, sample, level)
    limit = threshold_of(star)
    found = [
        _finding(name, star, value, bound, limit, level)
        for name, value, bound in zip(profiles, family.value, bounds, strict=True)
    ]
    order = np.argsort([-abs(one.value) for one in found])
    return EndChanges(
        shared=shared,
        findings=tuple(found[place] for place in order),
        is_largest=_is_largest(sample, family, int(order[0]) + 1, level),
    )


def _star(profiles: list[Profile], shared: Shared) -> Profile:
    """The shared end, then the free ends, as points of one curve: all saw the same examples."""
    free: Shared = "end" if shared == "start" else "start"
    points = [_at(profiles[0], _PLACES[shared]), *(_at(one, _PLACES[free]) for one in profiles)]
    first = points[0]
    joined = {}
    for field in ("value", "replicates", "floor", "stderr", "misfit"):
        joined[field] = np.concatenate([getattr(point, field) for point in points])
    # the points of a star have no order; α only has to rise
    spread = np.linspace(0, 1, len(points))
    return replace(first, alpha=spread, **joined)


def _at(profile: Profile, place: float) -> Profile:
    return profile.part(np.array([int(np.argmin(np.abs(profile.alpha - place)))]))


def _bounds(family: Family, sample: Sample, level: float) -> list[tuple[float, float]]:
    """Simultaneous one-sided bounds of every difference."""
    if sample.profile.units < FEWEST_UNITS or not sample.is_uncertain:
        return [(-np.inf, np.inf)] * len(family.value)
    below, above = (critical(of, level, sample) for of in (family.highest, family.lowest))
    wide = [
        (widened(below, skew) * below * error, widened(above, skew) * above * error)
        for skew, error in zip(family.skew, family.stderr, strict=True)
    ]
    return [
        (float(value - low), float(value + high))
        for value, (low, high) in zip(family.value, wide, strict=True)
    ]


def _finding(
    name: str,
    star: Profile,
    value: float,
    bounds: tuple[float, float],
    limit: float,
    level: float,
) -> Finding:
    lower, upper = bounds
    finding = "undecided"
    if lower > 0:
        finding = "raises it"
    elif upper < 0:
        finding = "lowers it"
    elif max(-lower, upper) <= limit:
        finding = "no change"
    return Finding(
        split=star.split,
        quantity=star.quantity,
        name=star.name,
        finding=finding,
        what="change",
        value=float(value),
        lower=lower,
        upper=upper,
        level=level,
        line=name,
        unit=star.unit,
    )


def _is_largest(sample: Sample, family: Family, top: int, level: float) -> bool:
    """Whether one change is further from 0 than every other one, whatever their signs."""
    if sample.profile.units < FEWEST_UNITS or not sample.is_uncertain:
        return False
    # the two margins together are |J(top) − J(shared)| > |J(other) − J(shared)|
    sign = np.sign(family.value[top - 1]) or 1.0
    rest = np.array([point for point in range(1, len(sample.profile.alpha)) if point != top])
    weights = np.zeros((2 * len(rest), len(sample.profile.alpha)))
    own = np.arange(len(rest))
    # sign × (J(top) − J(shared)) ∓ (J(other) − J(shared)) > 0
    weights[:, top] = sign
    weights[own, rest], weights[own + len(rest), rest] = -1, 1
    weights[:, 0] = -weights.sum(axis=1)
    margins = sample.contrasts(weights, np.full(2 * len(rest), top))
    times = critical(margins.highest, level, sample)
    wide = np.array([widened(times, skew) for skew in margins.skew])
    return bool((margins.value - wide * times * margins.stderr > 0).all())


def end_sentence(changes: EndChanges) -> str:
    """Which line's free end is furthest from the shared one."""
    top, *rest = changes.findings
    change = f"{number(top.value)} [{number(top.lower)}, {number(top.upper)}]"
    told = f"{top.line} changes the {top.split} {top.name} most, by {change}{top.unit}"
    if not rest:
        return f"{told}."
    following = f"{rest[0].line} ({number(rest[0].value)})"
    if changes.is_largest:
        return f"{told}; next is {following}."
    return f"{told}, not significantly more than {following}."
