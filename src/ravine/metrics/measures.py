"""Measures: every measure of one quantity on one split of a line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, cast

import numpy as np

from ravine.metrics.inference import (
    FEWEST_UNITS,
    LEVEL,
    Answer,
    Changes,
    Decision,
    Scope,
    threshold_of,
)
from ravine.metrics.obstacles import (
    BARRIERS,
    BarrierKind,
    Minimum,
    Rise,
    barrier_of,
    minima_of,
    rise_of,
)
from ravine.metrics.profile import Estimate, Profile, number, with_error, within
from ravine.metrics.shape import Convexity, convexity_of, half_drop_of, plateau_of

_CLEAR: Final = (
    1.645  # standard errors of one difference that was chosen beforehand, one-sided at 5 %
)


@dataclass(frozen=True)
class Row:
    """One line of the table of measures.

    Attributes:
        split: which split.
        quantity: which quantity.
        measure: what is measured, in words.
        value: NaN where undefined.
        stderr: standard error over the examples; NaN where unknown, and of a maximum or a minimum,
            which noise moves one way: that has bounds.
        at: where on the line, in words; empty where that means nothing.
        note: the definition.
        lower: bound of a maximum, one-sided at 5 %, as ``decide`` has it; NaN where there is none.
        upper: the other bound.
    """

    split: str
    quantity: str
    measure: str
    value: float
    stderr: float
    at: str
    note: str
    lower: float = np.nan
    upper: float = np.nan

    @property
    def text(self) -> str:
        """The number with its standard error or its bounds."""
        if np.isnan(self.lower) or np.isnan(self.upper):
            return with_error(self.value, self.stderr)
        return f"{number(self.value)} {within(self.lower, self.upper)}"


@dataclass(frozen=True)
class Measures:
    """Every measure of one quantity on one split; each is explained by the function of its name.

    Attributes:
        profile: what was measured.
        threshold: rises up to this are not called bumps: the tolerance times the curve's range over
            [0, 1], or the noise floor, whichever is larger.
        undefined: values of α in [0, 1] at which the curve is not finite.
        barriers: by kind.
        rise: the worst rise over [0, 1].
        drop: the worst rise of the reversed curve, from α = 1 to 0.
        minima: inside the whole measured interval, extrapolated parts included.
        convexity: over [0, 1].
        plateau: of 10 %.
        half_drop: first α at which half of the drop is done.
        changes: whether there is a barrier, a rise and a fall, to be asked at any level.
    """

    profile: Profile
    threshold: float
    undefined: tuple[float, ...]
    barriers: dict[str, Estimate]
    rise: Rise
    drop: Rise
    minima: list[Minimum]
    convexity: Convexity
    plateau: Estimate
    half_drop: Estimate
    changes: Changes = field(repr=False)

    @property
    def monotone(self) -> bool | None:
        """Whether the curve only falls, or only rises, up to the threshold; None if unknown."""
        if self.undefined or np.isnan(self.rise.height.value):
            return None
        return min(self.rise.height.value, self.drop.height.value) <= self.threshold

    @property
    def convex(self) -> bool | None:
        """Whether the curve is convex all over [0, 1], up to the noise floor; None if undefined."""
        share = self.convexity.share.value
        return None if np.isnan(share) else share == 1

    @property
    def has_barrier(self) -> bool | None:
        """Whether a barrier of kind "end" is shown; None where the curve is undefined."""
        return None if np.isnan(self.barriers["end"].value) else self.answer("barrier") == "shown"

    def answer(self, what: str) -> Answer | None:
        """Whether there is a "barrier", "rise" or "fall"; None where that was not asked.

        Of other examples like these; of these alone, where they are too few to speak of others.
        """
        found = self.decisions.get((what, self.scope))
        return None if found is None else found.answer

    @cached_property
    def decisions(self) -> dict[tuple[str, Scope], Decision]:
        """("barrier", "rise" or "fall", scope) → the answer, each at a level of 5 %."""
        return self.changes.at(LEVEL)

    @property
    def scope(self) -> Scope:
        """Of which examples its answers speak: others like these, or, of too few, these alone."""
        return "examples" if self.profile.units < FEWEST_UNITS else "population"

    @property
    def drops(self) -> bool:
        """Whether it ends lower than it starts, by a tenth of its range and by more than noise."""
        if np.isnan(self.half_drop.value):
            return False
        part = self.profile.between(0, 1)
        drop = part.estimate(lambda _, value: (float(value[0] - value[-1]), np.nan))
        return np.isnan(drop.stderr) or drop.value > _CLEAR * drop.stderr

    @property
    def falls(self) -> bool:
        """Whether it falls by more than it rises."""
        return self.rise.height.value <= self.drop.height.value


def measures_of(profile: Profile, tolerance: float) -> Measures:
    """Every measure of a profile.

    Args:
        profile: of a line.
        tolerance: the share of its range over [0, 1] up to which a rise is no bump.
    """
    part = profile.between(0, 1)
    turned = part.part(slice(None, None, -1))
    # a fall is a rise on the way back; −α rises there, as every profile's α has to
    backward = replace(turned, alpha=-turned.alpha)
    threshold = threshold_of(profile, tolerance)
    return Measures(
        profile=profile,
        threshold=threshold,
        undefined=tuple(float(a) for a in part.alpha[~np.isfinite(part.value)]),
        barriers={kind: barrier_of(profile, cast(BarrierKind, kind)) for kind in BARRIERS},
        rise=rise_of(part),
        drop=rise_of(backward),
        minima=minima_of(profile, threshold),
        convexity=convexity_of(profile),
        plateau=plateau_of(profile),
        half_drop=half_drop_of(profile),
        changes=Changes(profile, threshold),
    )


def rows_of(of: Measures) -> list[Row]:
    """Every measure as a table."""
    split, quantity = of.profile.split, of.profile.quantity

    def row(measure: str, estimate: Estimate, note: str, at: str | None = None) -> Row:
        place = at if at is not None else _place(estimate)
        return Row(split, quantity, measure, estimate.value, estimate.stderr, place, note)

    part = of.profile.between(0, 1)
    rows = []
    if of.profile.covers_both_ends:
        rows.append(row("start", part.at_end(0), "the value at α = 0", ""))
        rows.append(row("end", part.at_end(-1), "the value at α = 1", ""))
    for kind, meaning in BARRIERS.items():
        height = of.barriers[kind]
        own = row(f"barrier ({kind})", height, meaning)
        at_an_end = kind == "mean" and np.isnan(height.at)  # no maximum of many noisy values
        rows.append(own if at_an_end else bounded(own, of.changes.barrier(kind, of.scope)))
    up = of.rise
    span = f"α = {up.foot:.3g} to {up.height.at:.3g}" if np.isfinite(up.foot) else ""
    meaning = "max γ(α₂) − γ(α₁) for α₁ < α₂ in [0, 1]: Δ-monotonicity"
    decided = of.decisions.get(("rise", of.scope))
    rows.append(bounded(row("largest rise", up.height, meaning, span), decided))
    ending = "" if up.returns else "; it does not return within [0, 1]"
    if up.height.value > 0:
        meaning = f"in α, from its foot to the return to the foot's level{ending}"
        rows.append(bounded(row("width of that rise", up.width, meaning)))
    for place, minimum in enumerate(of.minima[:5], 1):
        meaning = "inside the measured interval, deepest first, on these examples"
        rows.append(bounded(row(f"local minimum {place}", minimum.value, meaning)))
        meaning = "the climb to lower ground or the rim, on these examples"
        rows.append(bounded(row(f"prominence of minimum {place}", minimum.prominence, meaning)))
    rows += [
        row("area above the chord", of.convexity.excess, "∫ max(0, γ − chord) dα over [0, 1]"),
        row("plateau", of.plateau, "largest α in [0, 1] with γ(α) ≥ γ(0) − 0.1 (γ(0) − γ(1))"),
        row("half-drop position", of.half_drop, "first α with γ(α) ≤ ½ (γ(0) + γ(1))"),
    ]
    return rows


def bounded(row: Row, decided: Decision | None = None) -> Row:
    """A maximum or a minimum, without the standard error of a value at a place chosen beforehand.

    Args:
        row: with that standard error.
        decided: what was asked of it, for its bounds.
    """
    if decided is None:
        return replace(row, stderr=np.nan)
    return replace(row, stderr=np.nan, lower=decided.lower, upper=decided.upper)


def _place(estimate: Estimate) -> str:
    return f"α = {with_error(estimate.at, estimate.at_stderr)}" if np.isfinite(estimate.at) else ""
