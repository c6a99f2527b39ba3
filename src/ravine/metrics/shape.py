"""The shape of a curve: how convex it is, how long its plateau, where half of the drop lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from scipy.integrate import trapezoid

from ravine.metrics.profile import Estimate, Profile

_STENCIL = 0.01  # of the interval: closer than this, second differences drown in rounding
_LEAST_DROP = 0.1  # of the curve's range: two solutions at the same height have no drop to speak of


@dataclass(frozen=True)
class Convexity:
    """How convex a curve is over [0, 1].

    Attributes:
        share: of the interval on which the curve lies on or below the chord of its neighbours
            (within the noise floor); 1 for a convex curve. Dimensionless.
        excess: ∫ max(0, γ − chord) dα, the area by which the curve stands above the straight line
            between its ends, in the quantity's unit; 0 for a convex curve.
        concave: the parts (from, to) of the interval where it is not convex.
    """

    share: Estimate
    excess: Estimate
    concave: tuple[tuple[float, float], ...]


def convexity(curve: xr.Dataset, *, quantity: str = "loss", split: str | None = None) -> Convexity:
    """How convex the curve is between its ends; the paper says "nearly convex".

    The curve is compared with the middle of the chord from α − h to α + h, with h the spacing of
    the points or 1 % of the interval, whichever is larger. Noise moves the share towards ½;
    ``decide(curve, "nonconvex")`` is the question that it does not bias.

    Args:
        curve: a line.
        quantity: of what.
        split: by default the first.

    References:
        Goodfellow and Vinyals 2014, figure 1.
    """
    return convexity_of(Profile.of(curve, quantity, split))


def convexity_of(profile: Profile) -> Convexity:
    """``convexity`` of a profile."""
    part = profile.between(0, 1)
    if len(part.alpha) < 3 or not np.isfinite(part.value).all():
        return Convexity(Estimate(np.nan), Estimate(np.nan), ())

    def convex_share(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        _, bent, length = _concave(alpha, value, part.floor)
        return 1 - float(np.average(bent, weights=length)), np.nan

    share = part.estimate(convex_share)
    places, bent, _ = _concave(part.alpha, part.value, part.floor)
    excess = part.estimate(_area_above_chord) if profile.covers_both_ends else Estimate(np.nan)
    return Convexity(share, excess, _runs(places, bent))


def _concave(
    alpha: np.ndarray, value: np.ndarray, floor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, whether the curve is above its neighbours' chord there, and each one's length."""
    width, gap = float(alpha[-1] - alpha[0]), float(np.diff(alpha).max())
    step = max(gap, _STENCIL * width)
    if step > width / 8:  # few or uneven points: the points themselves, between their neighbours
        low, places, high = alpha[:-2], alpha[1:-1], alpha[2:]
        share = (places - low) / (high - low)
        # of three values that are each off by the floor: once, and by shares that sum to one
        bend = value[1:-1] - ((1 - share) * value[:-2] + share * value[2:])
        return places, bend > 2 * np.nan_to_num(floor[1:-1]), (high - low) / 2
    places = np.linspace(alpha[0] + step, alpha[-1] - step, round(width / step) - 1)
    ends = np.interp(places - step, alpha, value) + np.interp(places + step, alpha, value)
    bend = np.interp(places, alpha, value) - ends / 2
    return places, bend > 2 * np.interp(places, alpha, np.nan_to_num(floor)), np.ones(places.size)


def _runs(places: np.ndarray, bent: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The stretches where ``bent`` holds, as (from, to)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bent, [False]]).astype(int)))
    return tuple(
        (float(places[i]), float(places[j - 1]))
        for i, j in zip(edges[::2], edges[1::2], strict=True)
    )


def _area_above_chord(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
    above = value - ((1 - alpha) * value[0] + alpha * value[-1])
    return float(trapezoid(np.maximum(above, 0), alpha)), np.nan


def plateau(
    curve: xr.Dataset, *, share: float = 0.1, quantity: str = "loss", split: str | None = None
) -> Estimate:
    """How long the curve stays near its start: sup{α in [0, 1]: γ(α) ≥ γ(0) − share (γ(0) − γ(1))}.

    Args:
        curve: a line that covers [0, 1] and ends lower than it starts.
        share: of the whole drop that still counts as plateau.
        quantity: of what.
        split: by default the first.

    Returns:
        A length in α, between 0 and 1; undefined (NaN) where the drop is less than a tenth of the
        curve's range.

    References:
        Frankle 2020 (2012.06898); Wang et al. 2023.
    """
    return plateau_of(Profile.of(curve, quantity, split), share)


def plateau_of(profile: Profile, share: float = 0.1) -> Estimate:
    """``plateau`` of a profile."""

    def measure(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        level = value[0] - share * (value[0] - value[-1])
        return _crossing_after(alpha, value, level, np.flatnonzero(value >= level)[-1]), np.nan

    return _of_drop(profile, measure)


def half_drop(curve: xr.Dataset, *, quantity: str = "loss", split: str | None = None) -> Estimate:
    """The first α in [0, 1] at which half of the drop γ(0) − γ(1) is done.

    Undefined where ``plateau`` is.

    Args:
        curve: a line that covers [0, 1] and ends lower than it starts.
        quantity: of what.
        split: by default the first.
    """
    return half_drop_of(Profile.of(curve, quantity, split))


def half_drop_of(profile: Profile) -> Estimate:
    """``half_drop`` of a profile."""

    def measure(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        level = (value[0] + value[-1]) / 2
        return _crossing_after(
            alpha, value, level, int(np.flatnonzero(value <= level)[0]) - 1
        ), np.nan

    return _of_drop(profile, measure)


def _of_drop(
    profile: Profile, measure: Callable[[np.ndarray, np.ndarray], tuple[float, float]]
) -> Estimate:
    if not profile.covers_both_ends:
        return Estimate(np.nan)
    part = profile.between(0, 1)
    if not np.isfinite(part.value).all():
        return Estimate(np.nan)
    if not part.value[0] - part.value[-1] > _LEAST_DROP * np.ptp(part.value):
        return Estimate(np.nan)
    # a replicate may not drop although the curve does; it then says nothing about where
    found = part.estimate(lambda a, v: measure(a, v) if v[0] > v[-1] else (np.nan, np.nan))
    if not np.isfinite(found.value):
        return found
    return replace(
        found, stderr=float(np.hypot(found.stderr, part.spacing_at(found.value) / 12**0.5))
    )


def _crossing_after(alpha: np.ndarray, value: np.ndarray, level: float, before: int) -> float:
    """Where the straight piece after point ``before`` falls to ``level``."""
    if before + 1 >= len(alpha):
        return float(alpha[-1])
    high, low = value[before], value[before + 1]
    return float(
        alpha[before] + (high - level) / (high - low) * (alpha[before + 1] - alpha[before])
    )
