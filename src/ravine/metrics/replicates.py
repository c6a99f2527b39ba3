"""Replicates of a curve, and the differences between its points, studentised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from scipy.linalg import hadamard

from ravine.metrics.profile import Profile

DRAWS: Final = 999  # replicates that a quantile is taken from, at a level of 5 %
_MOST_POINTS: Final = 257  # that pairs are formed of


@dataclass(frozen=True)
class Family:
    """Differences that a question is about: each a contrast of a few points.

    Attributes:
        value: (differences,) as read.
        stderr: (differences,) paired, with a floor from rounding.
        spread: (differences,) paired, of the examples alone.
        doubt: (differences,) what interpolation may do; inf where that is unknown.
        drawn: (differences, draws) centred replicates, each divided by its standard error.
        top: (differences,) α of the point that is asked about.
        skew: (differences,) skewness of the mean difference; NaN where it is not known.
    """

    value: np.ndarray
    stderr: np.ndarray
    spread: np.ndarray
    doubt: np.ndarray
    drawn: np.ndarray
    top: np.ndarray
    skew: np.ndarray

    @cached_property
    def highest(self) -> np.ndarray:
        """(draws,) the supremum over the differences."""
        return self.drawn.max(axis=0, initial=-np.inf)

    @cached_property
    def lowest(self) -> np.ndarray:
        """(draws,) the supremum of the differences turned round."""
        return (-self.drawn).max(axis=0, initial=-np.inf)


@cache
def _normal(groups: int, draws: int) -> np.ndarray:
    """(groups, draws) the same normal numbers for every curve, so that an answer is repeated."""
    return np.random.default_rng(0).normal(size=(groups, draws))


class Sample:
    """A curve at the points that decide, and replicates of it.

    Args:
        profile: the points.
        draws: how many replicates.
        joint: whether bounds of barriers are to hold together with those of rises.
    """

    def __init__(self, profile: Profile, draws: int = DRAWS, *, joint: bool = True) -> None:
        self.joint = joint
        # pairs of points and draws cost as much together, however many draws there are
        self.profile = _fewer(profile, int(_MOST_POINTS * (DRAWS / draws) ** 0.5))
        held = np.nan_to_num(self.profile.replicates)
        # half-samples by a Hadamard matrix: the groups' deviations can be had back
        if profile.balanced:
            groups = held.shape[1]
            self.deviations = held @ hadamard(groups).astype(np.float64) / groups
            self.replicates = self.deviations @ _normal(groups, draws)
        else:  # halves drawn at random, as results of schema 1 have them
            self.deviations = held / max(held.shape[1], 1) ** 0.5
            self.replicates = held
        # a noise floor is three standard deviations of rounding
        self.rounding = np.nan_to_num(self.profile.floor) / 3
        self.floor = float(np.nan_to_num(self.profile.floor).max(initial=0.0))

    @property
    def draws(self) -> int:
        """How many replicates there are."""
        return self.replicates.shape[1]

    @property
    def is_uncertain(self) -> bool:
        """Whether the error over examples is known at all."""
        return bool(self.draws) and bool(np.isfinite(self.profile.replicates).all())

    @cached_property
    def ends(self) -> tuple[Family, Family]:
        """The differences of the points between the ends from the first, and from the last."""
        last = len(self.profile.alpha) - 1
        inner = np.arange(1, last)
        return self.against(0, inner), self.against(last, inner)

    @cached_property
    def lopsided(self) -> float:
        """The typical skewness of the mean difference from an end; NaN where it is not known."""
        if not self.profile.balanced:
            return np.nan
        skews = [of.skew for of in self.ends]
        return float(np.median(np.abs(np.nan_to_num(np.concatenate(skews)))))

    def contrasts(self, weights: np.ndarray, top: np.ndarray) -> Family:
        """Differences as weighted sums of points.

        Args:
            weights: (differences, points), each row summing to 0.
            top: (differences,) numbers of the points that are asked about.
        """
        moved = weights @ self.deviations
        variance = (moved**2).sum(axis=1)
        rounding = np.sqrt((weights**2) @ self.rounding**2)
        stderr = np.sqrt(variance + rounding**2)
        # 0/0 where nothing varies: no draw is beyond such a difference
        with np.errstate(invalid="ignore", divide="ignore"):
            skew = (moved**3).sum(axis=1) / stderr**3
            drawn = (weights @ self.replicates) / stderr[:, None]
        return Family(
            value=weights @ self.profile.value,
            stderr=stderr,
            spread=np.sqrt(variance),
            doubt=_weighted(np.abs(weights), self.profile.misfit),
            drawn=np.nan_to_num(drawn),
            top=self.profile.alpha[top],
            skew=skew if self.profile.balanced else np.full(len(weights), np.nan),
        )

    def against(self, point: int, others: np.ndarray) -> Family:
        """The differences J(others) − J(point)."""
        weights = np.zeros((len(others), len(self.profile.alpha)))
        weights[np.arange(len(others)), others] = 1
        weights[:, point] -= 1
        return self.contrasts(weights, others)

    @cached_property
    def pairs(self) -> Pairs:
        """The differences J(α₂) − J(α₁) for all α₁ < α₂."""
        return Pairs(self)


class Pairs:
    """All differences J(α₂) − J(α₁) with α₁ < α₂, as matrices: rows are α₁, columns α₂.

    Args:
        sample: the curve.
    """

    def __init__(self, sample: Sample) -> None:
        profile, moved = sample.profile, sample.deviations
        inner = moved @ moved.T
        own, rounding = np.diagonal(inner), sample.rounding**2
        # |x|² + |y|² − 2 x·y, which rounding may take below 0 where two points are alike
        square = np.maximum(own[:, None] + own[None, :] - 2 * inner, 0)
        self.sample = sample
        self.later = np.triu(np.ones(inner.shape, dtype=bool), 1)
        self.value = profile.value[None, :] - profile.value[:, None]
        self.spread = np.sqrt(square)
        self.stderr = np.sqrt(square + rounding[:, None] + rounding[None, :])
        self.doubt = profile.misfit[None, :] + profile.misfit[:, None]
        self.highest, self.lowest = self._suprema()

    def bounds(self, times: float, *, upper: bool, turned: bool = False) -> np.ndarray:
        """(points, points) bounds so many standard errors away; −inf where α₁ is not before α₂.

        Args:
            times: how many.
            upper: from above, or from below.
            turned: of J(α₁) − J(α₂) instead.
        """
        value = -self.value if turned else self.value
        if not upper:
            margin = times_errors(times, self.stderr) + self.doubt
            return np.where(self.later, value - margin, -np.inf)
        margin = upper_margin(times, self.stderr, self.spread, self.sample.floor) + self.doubt
        return np.where(self.later, value + margin, -np.inf)

    def raw(self, *, turned: bool) -> np.ndarray:
        """(points, points) the differences as read, where both points are known; −inf elsewhere."""
        known = self.later & np.isfinite(self.doubt)
        return np.where(known, -self.value if turned else self.value, -np.inf)

    def _suprema(self) -> tuple[np.ndarray, np.ndarray]:
        """(draws,) the largest studentised difference, and the largest one turned round."""
        # float32 halves the memory that the loop reads; in this unit nothing overflows it
        unit = float(self.stderr.max(initial=0.0)) or 1.0
        drawn = (self.sample.replicates / unit).astype(np.float32)
        highest = np.full(drawn.shape[1], -np.inf, dtype=np.float32)
        lowest = -highest
        with np.errstate(divide="ignore", over="ignore"):
            scale = 1 / (self.stderr / unit).astype(np.float32)
        scale[~np.isfinite(scale)] = 0  # of a difference that does not vary
        step = np.empty_like(drawn)
        for first in range(len(drawn) - 1):
            rest = slice(first + 1, None)
            np.subtract(drawn[rest], drawn[first], out=step[rest])
            step[rest] *= scale[first, rest, None]
            np.maximum(highest, step[rest].max(axis=0), out=highest)
            np.minimum(lowest, step[rest].min(axis=0), out=lowest)
        return highest.astype(np.float64), -lowest.astype(np.float64)


def upper_margin(times: float, stderr: np.ndarray, spread: np.ndarray, floor: float) -> np.ndarray:
    """How far above what was read a difference may lie; rounding adds at most the noise floor.

    Args:
        times: how many standard errors.
        stderr: of the examples and of rounding together.
        spread: of the examples alone.
        floor: the largest noise floor, three standard errors of rounding.
    """
    return np.minimum(times_errors(times, stderr), times_errors(times, spread) + floor)


def times_errors(times: float, stderr: np.ndarray) -> np.ndarray:
    """So many standard errors; of none, when nobody knows how many, an unknown number."""
    return times * stderr if np.isfinite(times) else np.full_like(stderr, np.inf)


def _weighted(weights: np.ndarray, misfit: np.ndarray) -> np.ndarray:
    """Σ |w| misfit; an unknown one is no concern of a difference that leaves its point out."""
    known = np.where(np.isfinite(misfit), misfit, 0.0)
    unknown = (weights[:, ~np.isfinite(misfit)] > 0).any(axis=1)
    return np.where(unknown, np.inf, weights @ known)


def _fewer(profile: Profile, most: int) -> Profile:
    """At most as many points as their pairs are affordable.

    Turning points, measured ones, and others evenly spread.
    """
    count, share = len(profile.alpha), most // 3
    if count <= most:
        return profile
    turns = np.flatnonzero(np.diff(np.sign(np.diff(profile.value)))) + 1
    if len(turns) > share:  # the highest and the lowest of them
        turns = turns[np.argsort(profile.value[turns])]
        turns = np.concatenate([turns[: share // 2], turns[-share // 2 :]])
    measured = _spread(np.flatnonzero(profile.misfit == 0), share)
    even = _spread(np.arange(count), share)
    return profile.part(np.unique(np.concatenate([turns, measured, even])))


def _spread(numbers: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly spread, both ends among them."""
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)]
