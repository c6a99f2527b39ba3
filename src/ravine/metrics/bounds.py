"""Bounds: the height of what a question asks about, and how far it may lie from what was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from ravine.metrics.replicates import Family, Sample, times_errors, upper_margin

#: Of the largest value: equal means over millions of examples differ by less, and nothing below it
#: is a height.
LAST_BITS: Final = 1e-13

_HARMLESS: Final = 0.4  # as much of a skewness counts that makes a bound too wide


@dataclass(frozen=True)
class Bounds:
    """What a question comes to: a height with bounds, and where.

    Attributes:
        value: the height as it was read.
        lower: one-sided bound.
        upper: one-sided bound.
        p: of the height being no more than was asked.
        at: α of the top; NaN where there is none.
        stderr: paired standard error of the height.
        widest: the largest standard error of the differences that were looked at.
        times: how many standard errors the lower bound is away.
        skew: of the mean of the deciding difference, as it counts against its bound.
        certain_lower: bound for these examples alone.
        certain_upper: bound for these examples alone.
    """

    value: float
    lower: float
    upper: float
    p: float
    at: float
    stderr: float
    widest: float
    times: float
    skew: float
    certain_lower: float
    certain_upper: float


def _barrier(sample: Sample, limit: float, kind: str, level: float) -> Bounds:
    if kind != "end":
        return _single(sample, _above_a_level(sample, kind), limit, level)
    return _from_ends(sample, *sample.ends, limit, level)


def _from_ends(sample: Sample, start: Family, end: Family, limit: float, level: float) -> Bounds:
    """A barrier: one point that is above both ends, each end apart with its own supremum."""
    first, last = (critical(of.highest, level, sample) for of in (start, end))
    joint = _joint(sample, start, end, first, last, level)
    low = [
        of.value - of.doubt - times_errors(joint * times, of.stderr)
        for of, times in ((start, first), (end, last))
    ]
    both = np.maximum(start.lowest, end.lowest)
    times = critical(both, level, sample)
    high = [of.value + of.doubt + _margin(sample, of, times, level) for of in (start, end)]
    certain = np.maximum(start.doubt, end.doubt)
    known = np.isfinite(certain)
    height = np.where(known, np.minimum(start.value, end.value), -np.inf)
    both_sure = np.minimum(start.value - start.doubt, end.value - end.doubt)
    both_certain = np.minimum(start.value + start.doubt, end.value + end.doubt)
    lower, upper = np.minimum(*low), np.minimum(*high)
    place, bound = int(np.argmax(lower)), int(np.argmax(upper))
    deciding = place if float(lower[place]) > limit else bound
    nearer = start if start.value[deciding] < end.value[deciding] else end
    # without an error it is infinite, or 0/0, which nanmax leaves out
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratios = [
            (of.value - limit) / (times * of.stderr) for of, times in ((start, first), (end, last))
        ]
    observed = float(np.nanmax(np.minimum(*ratios), initial=-np.inf))
    drawn = np.minimum(start.drawn / first, end.drawn / last).max(axis=0)
    top = int(np.argmax(height))
    return Bounds(
        value=max(float(height[top]), 0.0),
        lower=max(float(lower[place]), 0.0) if np.isfinite(lower[place]) else 0.0,
        upper=max(float(upper[bound]), 0.0),
        p=_p(drawn / joint, observed / joint),
        at=float(start.top[top]) if height[top] > 0 else np.nan,
        stderr=float(nearer.stderr[top]),
        widest=float(max(start.stderr.max(), end.stderr.max())),
        times=joint * max(first, last),
        skew=worse_skew(
            *(harm(of.skew[deciding], below=float(lower[place]) > limit) for of in (start, end))
        ),
        certain_lower=max(float(np.max(both_sure)) - sample.floor, 0.0),
        certain_upper=max(float(np.max(both_certain)) + sample.floor, 0.0),
    )


def _joint(
    sample: Sample,
    start: Family,
    end: Family,
    first: float,
    last: float,
    level: float,
) -> float:
    """How much wider bounds must be for barriers and rises together to keep the level; ≥ 1."""
    if not sample.joint:
        return 1.0
    pairs = sample.pairs
    pair = critical(pairs.highest, level, sample)
    drawn = np.minimum(start.drawn / first, end.drawn / last).max(axis=0)
    return max(1.0, _quantile(np.maximum(drawn, pairs.highest / pair), level))


def _rise(sample: Sample, limit: float, kind: str, level: float) -> Bounds:
    """All pairs α₁ < α₂, with one supremum together with the barrier."""
    pairs, (start, end) = sample.pairs, sample.ends
    first, last = (critical(of.highest, level, sample) for of in (start, end))
    pair = critical(pairs.highest, level, sample)
    joint = _joint(sample, start, end, first, last, level)
    lower = pairs.bounds(joint * pair, upper=False)
    times = critical(pairs.lowest, level, sample)
    upper = pairs.bounds(times, upper=True) + _binomial(sample, level)
    value = pairs.raw(turned=False)
    place, bound, top = (
        np.unravel_index(int(np.argmax(of)), of.shape) for of in (lower, upper, value)
    )
    deciding = place if lower[place] > limit else bound
    # without an error it is infinite, or 0/0, which nanmax leaves out
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratios = np.where(pairs.later, (pairs.value - limit) / (pair * pairs.stderr), -np.inf)
    height = _real(float(value[top]), sample)
    sure = np.where(pairs.later, pairs.value - pairs.doubt, -np.inf)
    loose = np.where(pairs.later, pairs.value + pairs.doubt, -np.inf)
    return Bounds(
        value=height,
        lower=max(float(lower[place]), 0.0),
        upper=max(float(upper[bound]), 0.0),
        p=_p(pairs.highest / pair, float(np.nanmax(ratios))),
        at=float(sample.profile.alpha[top[1]]) if height else np.nan,
        stderr=float(pairs.stderr[top]),
        widest=float(pairs.stderr.max()),
        times=joint * pair,
        skew=harm(_skew_between(sample, *map(int, deciding)), below=float(lower[place]) > limit),
        certain_lower=max(float(sure.max()) - sample.floor, 0.0),
        certain_upper=max(float(loose.max()) + sample.floor, 0.0),
    )


def _minimum(sample: Sample, limit: float, kind: str, level: float) -> Bounds:
    """A point that is below one on either side."""
    pairs = sample.pairs
    suprema = np.maximum(pairs.highest, pairs.lowest)
    times = critical(suprema, level, sample)
    lower, where = _dip(
        pairs.bounds(times, upper=False, turned=True), pairs.bounds(times, upper=False)
    )
    extra = _binomial(sample, level)
    upper, bound = _dip(
        pairs.bounds(times, upper=True, turned=True) + extra,
        pairs.bounds(times, upper=True) + extra,
    )
    value, place = _dip(pairs.raw(turned=True), pairs.raw(turned=False))
    deciding = where if lower > limit else bound
    sure, _ = _dip(pairs.bounds(0, upper=False, turned=True), pairs.bounds(0, upper=False))
    loose, _ = _dip(pairs.bounds(0, upper=True, turned=True), pairs.bounds(0, upper=True))
    height = max(value, 0.0) if np.isfinite(value) else 0.0
    stderr = float(pairs.stderr[place[0], place[1]])
    return Bounds(
        value=height,
        lower=max(lower, 0.0),
        upper=max(upper, 0.0),
        # without any error the quotient is as large as can be
        p=_p(suprema, (height - limit) / max(stderr, 1e-300)),
        at=float(sample.profile.alpha[place[1]]) if height else np.nan,
        stderr=stderr,
        widest=float(pairs.stderr.max()),
        times=times,
        skew=worse_skew(
            *(
                harm(_skew_between(sample, deciding[1], side), below=lower > limit)
                for side in (deciding[0], deciding[2])
            )
        ),
        certain_lower=max(sure - sample.floor, 0.0),
        certain_upper=max(loose + sample.floor, 0.0),
    )


def _dip(down: np.ndarray, up: np.ndarray) -> tuple[float, tuple[int, int, int]]:
    """The deepest point between higher ones: its depth, and the numbers of the three points.

    Args:
        down: J(α₁) − J(α₂), rows α₁, columns α₂.
        up: J(α₂) − J(α₁).
    """
    left, right = down.max(axis=0), up.max(axis=1)
    depth = np.minimum(left, right)
    bottom = int(np.argmax(depth))
    return float(depth[bottom]), (
        int(np.argmax(down[:, bottom])),
        bottom,
        int(np.argmax(up[bottom])),
    )


def _nonconvex(sample: Sample, limit: float, kind: str, level: float) -> Bounds:
    """A point above the chord of two others, at distances of 1, 2, 4, … points."""
    return _single(sample, _bends(sample), limit, level)


def _above_a_level(sample: Sample, kind: str) -> Family:
    """Each point against the mean of the ends, or against the chord between them."""
    alpha = sample.profile.alpha
    inner = np.arange(1, len(alpha) - 1)
    weights = np.zeros((len(inner), len(alpha)))
    weights[np.arange(len(inner)), inner] = 1
    share = np.full(len(inner), 0.5) if kind == "mean" else alpha[inner]
    weights[:, 0] -= 1 - share
    weights[:, -1] -= share
    return sample.contrasts(weights, inner)


def _bends(sample: Sample) -> Family:
    alpha = sample.profile.alpha
    count = len(alpha)
    steps = 2 ** np.arange(int(np.log2(max((count - 1) // 2, 1))) + 1)
    rows, tops = [], []
    for step in steps:
        middle = np.arange(step, count - step)
        low, high = middle - step, middle + step
        share = (alpha[middle] - alpha[low]) / (alpha[high] - alpha[low])
        weights = np.zeros((len(middle), count))
        own = np.arange(len(middle))
        weights[own, middle] = 1
        weights[own, low] -= 1 - share
        weights[own, high] -= share
        rows.append(weights)
        tops.append(middle)
    return sample.contrasts(np.concatenate(rows), np.concatenate(tops))


def _single(sample: Sample, of: Family, limit: float, level: float) -> Bounds:
    """The largest of one family of differences."""
    times, back = critical(of.highest, level, sample), critical(of.lowest, level, sample)
    lower = of.value - of.doubt - times_errors(times, of.stderr)
    upper = of.value + of.doubt + _margin(sample, of, back, level)
    place, bound, top = (int(np.argmax(one)) for one in (lower, upper, of.value))
    deciding = place if lower[place] > limit else bound
    # without an error it is infinite, or 0/0, which nanmax leaves out
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        observed = float(np.nanmax((of.value - limit) / of.stderr, initial=-np.inf))
    return Bounds(
        value=float(of.value[top]),
        lower=float(lower[place]),
        upper=float(upper[bound]),
        p=_p(of.highest, observed),
        at=float(of.top[top]),
        stderr=float(of.stderr[top]),
        widest=float(of.stderr.max()),
        times=times,
        skew=harm(of.skew[deciding], below=float(lower[place]) > limit),
        certain_lower=float(np.max(of.value - of.doubt)) - sample.floor,
        certain_upper=float(np.max(of.value + of.doubt)) + sample.floor,
    )


#: Question → what it comes to, from a sample, the height asked about, the kind of barrier and
#: the level.
QUESTIONS: Final = {
    "barrier": _barrier,
    "rise": _rise,
    "minimum": _minimum,
    "nonconvex": _nonconvex,
}


def critical(suprema: np.ndarray, level: float, sample: Sample) -> float:
    """How many standard errors a bound is away: the supremum's quantile, more for few examples."""
    times = max(_quantile(suprema, level), float(-special.ndtri(level)))
    freedom = _freedom(sample)
    # of Student's t as far out as the normal's
    return float(-special.stdtrit(freedom, special.ndtr(-times))) if freedom >= 1 else np.inf


def _freedom(sample: Sample) -> float:
    """Degrees of freedom of a standard error: as of its groups, halved for tails above a normal's.

    By simulation: with the full number, 5 % become 6 to 7 % at 300 examples and 9 to 11 % at 30.
    """
    units = sample.profile.units
    groups = max(sample.deviations.shape[1], 1)
    return 0.5 * units / (1 + units / groups) - 1


def _quantile(drawn: np.ndarray, level: float) -> float:
    """The drawn value that at most ``level`` of draws exceed, this one counted among them."""
    ordered = np.sort(drawn)
    rank = int(np.ceil((1 - level) * (len(ordered) + 1))) - 1
    return float(ordered[rank]) if rank < len(ordered) else np.inf


def _p(drawn: np.ndarray, observed: float) -> float:
    # what was observed counts as a draw: no number of draws makes p zero
    return (1 + int((drawn >= observed).sum())) / (len(drawn) + 1)


def _margin(sample: Sample, of: Family, times: float, level: float) -> np.ndarray:
    margin = upper_margin(times, of.stderr, of.spread, sample.floor)
    return np.maximum(margin, _binomial(sample, level))


def _real(height: float, sample: Sample) -> float:
    """A height that is not below 0, nor the last bits of two equal means."""
    largest = float(np.abs(sample.profile.value).max(initial=0.0))
    return height if height > LAST_BITS * largest else 0.0


def _binomial(sample: Sample, level: float) -> float:
    """No flip seen is not no flip: the bound on a share of which none was seen."""
    profile = sample.profile
    return -np.log(level) / max(profile.units, 1) if profile.is_share else 0.0


def harm(skew: float, *, below: bool) -> float:
    """How much a skewness counts: whole where it brings the bound too near, else a part of it.

    A long tail upwards leaves the mean of most samples, and their spread with it, too low: bounds
    from below are then too far away, which is no error, and bounds from above too near.

    Args:
        skew: of the mean difference.
        below: whether the bound is from below.
    """
    towards = -skew if below else skew
    return float(np.maximum(towards, -_HARMLESS * towards))


def worse_skew(one: float, other: float) -> float:
    """The larger of two skewnesses; one that is not known counts as none."""
    return one if abs(one) > abs(other) or np.isnan(other) else other


def _skew_between(sample: Sample, one: int, other: int) -> float:
    weights = np.zeros((1, len(sample.profile.alpha)))
    weights[0, other], weights[0, one] = 1, -1
    return float(np.nan_to_num(sample.contrasts(weights, np.array([other])).skew[0]))
