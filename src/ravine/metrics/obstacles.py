"""What stands in the way: barriers, rises and local minima of a curve."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import xarray as xr
from scipy.signal import find_peaks

from ravine.errors import InputError
from ravine.metrics.profile import Estimate, Profile, spread

BarrierKind = Literal["end", "mean", "chord"]

_MEASURED: Final = 20  # minima whose standard errors are worked out; a noisy curve has thousands

#: The three things that the literature calls a barrier; γ is the curve, over [0, 1].
BARRIERS: Final[dict[str, str]] = {
    "end": "max γ − max(γ(0), γ(1)): what a descent from either end would have to climb",
    "mean": "max γ − ½(γ(0) + γ(1)) (Frankle et al. 2020)",
    "chord": "max [γ(α) − ((1−α) γ(0) + α γ(1))] (Entezari et al. 2021)",
}


@dataclass(frozen=True)
class Rise:
    """The worst bump: the largest γ(α₂) − γ(α₁) with α₁ < α₂.

    Attributes:
        height: how far it rises; 0 for a curve that never does. ``height.at`` is the top, α₂.
        foot: where it starts, α₁.
        width: from the foot to where the curve is back at the foot's level; if it never is, to the
            interval's end.
        returns: whether it comes back.
    """

    height: Estimate
    foot: float
    width: Estimate
    returns: bool


@dataclass(frozen=True)
class Minimum:
    """A local minimum between the ends of the measured interval.

    Attributes:
        value: γ there, with its position.
        prominence: how far one must climb to get to lower ground or to the interval's end.
    """

    value: Estimate
    prominence: Estimate


def barrier(
    curve: xr.Dataset,
    kind: BarrierKind = "end",
    *,
    quantity: str = "loss",
    split: str | None = None,
) -> Estimate:
    """Height and position of the barrier between the two ends, over α in [0, 1].

    Args:
        curve: a line that covers [0, 1].
        kind: ``"end"``, ``"mean"`` or ``"chord"``; ``BARRIERS`` says what each means.
        quantity: of what.
        split: by default the first.

    Returns:
        Height in the quantity's unit, with its position. By their definitions "end" and
        "chord" are never negative, and "mean" never less than half the difference of
        the ends. The largest of many noisy values is large by chance, which its
        standard error does not tell: ``decide`` has bounds that do.

    Raises:
        InputError: no such kind, quantity or split.

    References:
        Goodfellow and Vinyals 2014, section 3; Frankle et al. 2020; Entezari et al. 2021.
    """
    return barrier_of(Profile.of(curve, quantity, split), kind)


def barrier_of(profile: Profile, kind: BarrierKind = "end") -> Estimate:
    """``barrier`` of a profile."""
    if kind not in BARRIERS:
        msg = f"kind must be one of {', '.join(map(repr, BARRIERS))}; got {kind!r}"
        raise InputError(msg)
    if not profile.covers_both_ends:
        return Estimate(np.nan)

    def measure(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        level = _level(kind, alpha, value)
        top = int(np.argmax(value - level))
        height = float(value[top] - level[top])
        return height, float(alpha[top]) if 0 < top < len(alpha) - 1 else np.nan

    return profile.between(0, 1).estimate(measure)


def _level(kind: BarrierKind, alpha: np.ndarray, value: np.ndarray) -> np.ndarray:
    """What a barrier stands above, at every point."""
    if kind == "end":
        return np.full_like(value, max(value[0], value[-1]))
    if kind == "mean":
        return np.full_like(value, (value[0] + value[-1]) / 2)
    return (1 - alpha) * value[0] + alpha * value[-1]


def rise(curve: xr.Dataset, *, quantity: str = "loss", split: str | None = None) -> Rise:
    """The worst violation of monotone descent over [0, 1] (or the part of it that was measured).

    Args:
        curve: a line.
        quantity: of what.
        split: by default the first.

    Returns:
        Height (the smallest Δ for which the curve is Δ-monotone), foot, top and width.

    References:
        Lucas et al. 2021 (Δ-monotonicity).
    """
    return rise_of(Profile.of(curve, quantity, split).between(0, 1))


def rise_of(profile: Profile) -> Rise:
    """``rise`` of a profile, over all of it."""
    found: list[tuple[float, float, float, float, bool]] = []  # of the curve, then its replicates

    def measure(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        found.append(_worst(alpha, value))
        return found[-1][:2]

    height = profile.estimate(measure)
    if not np.isfinite(height.value):
        return Rise(height, np.nan, Estimate(np.nan), returns=False)
    _, _, foot, width, returns = found[0]
    again = iter(found)
    spread = profile.estimate(lambda alpha, value: (next(again)[3], np.nan))
    return Rise(height, foot, Estimate(width, spread.stderr), returns)


def _worst(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float, float, float, bool]:
    """Height, top, foot and width of the largest rise, and whether the curve falls back."""
    lowest = np.minimum.accumulate(value)
    top = int(np.argmax(value - lowest))
    if value[top] == lowest[top]:
        return 0.0, np.nan, np.nan, 0.0, True
    foot = int(np.argmin(value[: top + 1]))
    below = np.flatnonzero(value[top:] <= value[foot])
    if below.size:
        after = top + int(below[0])
        end = _crossing(alpha, value, after - 1, value[foot])
    else:
        end = float(alpha[-1])
    return (
        float(value[top] - value[foot]),
        float(alpha[top]),
        float(alpha[foot]),
        end - float(alpha[foot]),
        bool(below.size),
    )


def minima(
    curve: xr.Dataset,
    *,
    prominence: float | None = None,
    quantity: str = "loss",
    split: str | None = None,
) -> list[Minimum]:
    """Local minima strictly inside the measured interval, deepest first.

    Extrapolated parts count.

    Args:
        curve: a line.
        prominence: smallest prominence that counts, in the quantity's unit; by default 1e-3 of the
            curve's range. Nothing under the noise floor counts in any case.
        quantity: of what.
        split: by default the first.

    Returns:
        The deepest minima, 20 at most; an empty list where there is none.
    """
    return minima_of(Profile.of(curve, quantity, split), prominence)


def minima_of(profile: Profile, prominence: float | None = None) -> list[Minimum]:
    """``minima`` of a profile."""
    finite = np.isfinite(profile.value)
    if prominence is None:
        prominence = 1e-3 * float(np.ptp(profile.value[finite])) if finite.any() else 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]]).astype(int)))
    found = [
        dip
        for first, last in zip(
            edges[::2], edges[1::2], strict=True
        )  # a stretch without NaN or infinity
        for dip in _dips(profile, slice(int(first), int(last)), prominence)
    ]
    found.sort(key=lambda dip: profile.value[dip.place])
    return [_measured(profile, dip) for dip in found[:_MEASURED]]


@dataclass(frozen=True)
class _Dip:
    place: int
    depth: float
    left: int
    right: int
    basin: slice  # between its tops on either side: lower ground or a twin beyond one is another's


def _dips(profile: Profile, stretch: slice, prominence: float) -> list[_Dip]:
    value, floor = profile.value[stretch], profile.doubt[stretch]
    if len(value) < 3:
        return []
    places, about = find_peaks(
        -value, prominence=max(prominence, np.finfo(float).tiny), plateau_size=1
    )
    deep = about["prominences"] > 2 * floor[
        np.stack([places, about["left_bases"], about["right_bases"]])
    ].max(0)
    places = places[deep]
    if not len(places):
        return []
    tops = [low + int(np.argmax(value[low:high])) for low, high in itertools.pairwise(places)]
    bases = zip(
        about["left_bases"][deep],
        about["right_bases"][deep],
        [0, *tops],
        [*tops, len(value) - 1],
        strict=True,
    )
    first = stretch.start
    return [
        _Dip(
            first + int(place),
            float(depth),
            first + int(left),
            first + int(right),
            slice(first + int(max(left, before)), first + int(min(right, behind)) + 1),
        )
        for place, depth, (left, right, before, behind) in zip(
            places, about["prominences"][deep], bases, strict=True
        )
    ]


def _measured(profile: Profile, dip: _Dip) -> Minimum:
    def lowest(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        bottom = int(np.argmin(value))
        return float(value[bottom]), float(alpha[bottom])

    rim = dip.left if profile.value[dip.left] <= profile.value[dip.right] else dip.right
    climb = profile.replicates[rim] - profile.replicates[dip.place]
    prominence = Estimate(
        dip.depth, spread(climb) if climb.size else np.nan, float(profile.alpha[dip.place])
    )
    return Minimum(profile.part(dip.basin).estimate(lowest), prominence)


def _crossing(alpha: np.ndarray, value: np.ndarray, before: int, level: float) -> float:
    """Where the straight piece from point ``before`` to the next meets a level between them."""
    high, low = value[before], value[before + 1]
    part = 1.0 if high == low else (high - level) / (high - low)
    return float(alpha[before] + part * (alpha[before + 1] - alpha[before]))
