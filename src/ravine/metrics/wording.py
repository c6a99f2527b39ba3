"""The verdict: every measure of a curve, and a few plain sentences that say what they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

import numpy as np
import xarray as xr

from ravine.metrics.inference import FEWEST_UNITS, Answer, Decision, Scope, changes
from ravine.metrics.obstacles import (
    BARRIERS,
    BarrierKind,
    Minimum,
    Rise,
    barrier_of,
    minima_of,
    rise_of,
)
from ravine.metrics.profile import Estimate, Profile, minus, with_error
from ravine.metrics.shape import Convexity, convexity_of, half_drop_of, plateau_of
from ravine.result.interpolant import is_resolved
from ravine.result.schema import is_plane, quantities, validate

#: The unit of a language model's loss, whose exponential is the perplexity.
PER_TOKEN: Final = "nats per token"


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
        decisions: whether there is a barrier, a rise and a fall, for other examples and for these.
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
    decisions: dict[tuple[str, Scope], Decision]

    @property
    def monotone(self) -> bool | None:
        """Whether the curve only falls, or only rises, up to the threshold; None where it is unknown."""
        if self.undefined or np.isnan(self.rise.height.value):
            return None
        return min(self.rise.height.value, self.drop.height.value) <= self.threshold

    @property
    def convex(self) -> bool | None:
        """Whether the curve is convex everywhere in [0, 1], up to the noise floor; None where it is undefined."""
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
        few = self.profile.units < FEWEST_UNITS
        found = self.decisions.get((what, "examples" if few else "population"))
        return None if found is None else found.answer


@dataclass(frozen=True)
class Row:
    """One line of the table of measures.

    Attributes:
        split: which split.
        quantity: which quantity.
        measure: what is measured, in words.
        value: NaN where undefined.
        stderr: standard error over the examples, NaN where unknown.
        at: where on the line, in words; empty where that means nothing.
        note: the definition.
    """

    split: str
    quantity: str
    measure: str
    value: float
    stderr: float
    at: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """What a result says. Printed, it is its sentences.

    Attributes:
        headline: the first quantity on the first split, in one sentence.
        sentences: the rest, in order of importance, the resolution they hold at last.
        rows: every measure as a table.
        measures: (split, quantity) → the numbers: ``Measures`` of a line, ``Relief`` of a plane.
        decisions: what was asked, and the answers.
    """

    headline: str
    sentences: tuple[str, ...]
    rows: tuple[Row, ...]
    measures: Mapping[tuple[str, str], Any]
    decisions: tuple[Decision, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict for a program: plain numbers and strings, None where something is undefined.

        Returns:
            ``headline``, ``sentences``, ``measures`` (a dict for each row) and ``decisions``.
        """
        return {
            "headline": self.headline,
            "sentences": list(self.sentences),
            "measures": [_plain(asdict(row)) for row in self.rows],
            "decisions": [_plain(asdict(decision)) for decision in self.decisions],
        }

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.sentences])


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has; None for those it has not."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in row.items()
    }


def line_verdict(curve: xr.Dataset, tolerance: float = 1e-3) -> Verdict:
    """``verdict`` of a line."""
    splits = [str(name) for name in validate(curve)["split"].values]
    measured = {
        (profile.split, profile.quantity): _measure(profile, tolerance)
        for quantity in quantities(curve)
        for profile in (Profile.of(curve, quantity, split) for split in splits)
    }
    way = "curve" if curve.attrs.get("curved", 0) else "straight line"
    first, *others = measured.values()
    main = _Wording(first, way)
    sentences = [*main.details()]
    sentences += [_Wording(other, way).summary() for other in others]
    sentences += [
        _perplexities(measured),
        policies(curve),
        _resolution(curve, first),
    ]
    rows = tuple(row for one in measured.values() for row in _rows(one))
    decisions = tuple(found for one in measured.values() for found in one.decisions.values())
    said = tuple(sentence for sentence in sentences if sentence)
    return Verdict(main.summary(), said, rows, measured, decisions)


def _measure(profile: Profile, tolerance: float) -> Measures:
    part = profile.between(0, 1)
    finite = part.value[np.isfinite(part.value)]
    extent = float(np.ptp(finite)) if finite.size else 0.0
    floor = float(np.nan_to_num(part.floor).max(initial=0.0))
    turned = part.part(slice(None, None, -1))
    backward = replace(turned, alpha=-turned.alpha)
    threshold = max(tolerance * extent, floor)
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
        decisions=changes(profile, threshold),
    )


@dataclass(frozen=True)
class _Wording:
    """Sentences about one quantity on one split."""

    measures: Measures
    way: str

    @property
    def name(self) -> str:
        return f"{self.measures.profile.split} {self.measures.profile.name}"

    def number(self, estimate: Estimate) -> str:
        return f"{estimate}{self.measures.profile.unit}"

    def summary(self) -> str:
        """One sentence: does it fall, and if not, where does it rise?"""
        of = self.measures
        part = of.profile.between(0, 1)
        if not part.alpha.size:
            return f"The {self.name} was not measured between the two points."
        if of.undefined and len(of.undefined) == len(part.alpha):
            return f"The {self.name} is undefined: none of its {len(part.alpha)} points is finite."
        if of.undefined:
            many = f"{len(of.undefined)} of {len(part.alpha)} points"
            return (
                f"The {self.name} is undefined on part of the line: {many} are not finite, the "
                "first at "
                f"α = {of.undefined[0]:.4g}."
            )
        start, end = part.at_end(0), part.at_end(-1)
        if len(part.alpha) == 1:
            return f"At α = {_number(part.alpha[0])} the {self.name} is {self.number(start)}."
        span = f"from {start} to {end}"
        whole = of.profile.covers_both_ends
        where = f"along the {self.way}" if whole else f"over the measured {_interval(part)}"
        falls = of.rise.height.value <= of.drop.height.value
        back = of.rise if falls else of.drop
        if max(of.rise.height.value, of.drop.height.value) <= of.threshold:
            extent = float(np.ptp(part.value))
            flat = f"The {self.name} is flat {where}, at {self.number(start)}; it moves by {extent:.1g} in all"
            return f"{flat}{self.others('rise', 'fall')}."
        against = "rise" if falls else "fall"
        if of.monotone:
            way = "falls" if falls else "rises"
            if back.height.value <= float(np.nan_to_num(part.floor).max(initial=0.0)):
                clear = f"The {self.name} {way} all the way {span} {where}, with no bump"
                return f"{clear}{self.others(against)}."
            largest = f"(largest {against} {self.number(back.height)})"
            clear = f"The {self.name} {way} {span} {where}, with no bump above tolerance {largest}"
            return f"{clear}{self.others(against)}."
        if of.answer("barrier") == "shown":
            tallest = of.barriers["end"]
            return (
                f"A barrier in the {self.name} of {self.number(tallest)} stands between the two "
                f"points, at α = {with_error(tallest.at, tallest.at_stderr)}; the ends are at {start} "
                f"and {end}."
            )
        low, high = back.foot, back.height.at
        low, high = sorted(map(abs, (low, high))) if whole else sorted((low, high))
        change = (
            f"{'rises' if falls else 'falls'} by {self.number(back.height)} between "
            f"α = {_number(low)} and {_number(high)}"
        )
        if of.answer(against) == "shown":
            barrier = {"excluded": " with no barrier above the ends, but"}.get(
                of.answer("barrier") or "", ","
            )
            return f"The {self.name} goes {span} {where}{barrier} not monotonically: it {change}."
        return (
            f"The {self.name} goes {span} {where}; whether monotonically is undecided: on these examples it "
            f"{change}{self.bounds(against)}."
        )

    def others(self, *whats: str) -> str:
        """What the examples do not exclude for others like them; "" where they do, or are too few to say."""
        of = self.measures
        asked = [
            of.decisions[what, "population"]
            for what in whats
            if (what, "population") in of.decisions
        ]
        if of.profile.units < FEWEST_UNITS or all(found.answer == "excluded" for found in asked):
            return ""
        upper = max(found.upper for found in asked)
        change = " or ".join(whats)
        if np.isinf(upper):
            return "; between points of a part that did not resolve the curve is unknown"
        return f"; for other examples a {change} of up to {_number(upper)} is not excluded"

    def bounds(self, what: str) -> str:
        """What is known of a change for other examples, and what would decide it."""
        found = self.measures.decisions.get((what, "population"))
        if found is None or not np.isfinite(found.upper):
            return "" if found is None else f"; {found.reason}"
        needed = f"; about {found.examples:,} examples would decide" if found.examples else ""
        span = f"for others 95 % bounds are {_number(found.lower)} and {_number(found.upper)}"
        return f" ({span}; {found.reason}{needed})"

    def details(self) -> list[str]:
        """Shape, and what lies outside [0, 1]."""
        of = self.measures
        if of.undefined or not of.profile.covers_both_ends:
            return []
        said = []
        bend = of.convexity
        if of.convex:
            said.append("It is convex at this resolution.")
        elif np.isfinite(bend.share.value):
            parts = (
                ", ".join(
                    f"{a:.2g} to {b:.2g}" if a < b else f"{a:.2g}" for a, b in bend.concave[:3]
                )
                or "any"
            )
            more = ", …" if len(bend.concave) > 3 else ""
            above = of.barriers["chord"]
            height = (
                f"stands up to {self.number(above)} above"
                if above.value > 0
                else "nowhere stands above"
            )
            said.append(
                f"It is convex on {100 * bend.share.value:.0f} % of the interval (not for α = "
                f"{parts}{more}), and "
                f"{height} the chord between its ends."
            )
        if np.isfinite(of.half_drop.value):
            said.append(
                f"It stays within 10 % of its drop until α = {of.plateau}; half of the drop is "
                "done at "
                f"α = {of.half_drop}."
            )
        return [*said, *self.minima()]

    def minima(self) -> list[str]:
        """The local minima, and the lowest point where it lies elsewhere."""
        of = self.measures
        low, high = of.profile.alpha[[0, -1]]
        if not of.minima and low >= 0 and high <= 1:
            return []
        listed = "; ".join(
            f"{self.number(m.value)} at α = {with_error(m.value.at, m.value.at_stderr)}"
            for m in of.minima[:4]
        )
        count = {0: "no local minimum", 1: "one local minimum"}.get(
            len(of.minima), f"{len(of.minima)} local minima"
        )
        said = (
            f"Between α = {_number(low)} and {_number(high)} it has {count} deeper than "
            f"{of.threshold:.1g}"
            f"{f': {listed}' if listed else ''}."
        )
        finite = np.isfinite(of.profile.value)
        bottom = int(np.flatnonzero(finite)[np.argmin(of.profile.value[finite])])
        place = float(of.profile.alpha[bottom])
        if all(abs(place - m.value.at) > 1e-9 for m in of.minima) and (place < 0 or place > 1):
            said += f" Its lowest value, {self.number(of.profile.at_end(bottom))}, is at α = {_number(place)}."
        return [said]


def _perplexities(measured: Mapping[tuple[str, str], Measures]) -> str:
    """The loss of a language model as its users know it."""
    said = []
    for (split, quantity), of in measured.items():
        finite = of.profile.value[np.isfinite(of.profile.value)]
        per_token = quantity == "loss" and of.profile.unit.strip() == PER_TOKEN
        if not per_token or not of.profile.covers_both_ends or not finite.size:
            continue
        part = of.profile.between(0, 1)
        lowest = int(np.nanargmin(of.profile.value))
        ends, least = (
            [_perplexity(of.profile.at_end(place)) for place in places]
            for places in (
                [int(np.flatnonzero(of.profile.alpha == part.alpha[i])[0]) for i in (0, -1)],
                [lowest],
            )
        )
        place = _number(float(of.profile.alpha[lowest]))
        said.append(f"{split} from {ends[0]} to {ends[1]}, lowest {least[0]} at α = {place}")
    return f"Perplexity: {'; '.join(said)}." if said else ""


def _perplexity(loss: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        found = float(np.exp(loss.value))
    return Estimate(found, found * loss.stderr)


def _number(value: float) -> str:
    return minus(f"{value:.3g}")


def policies(curve: xr.Dataset) -> str:
    """What a reader must know about the objective to read its curve; "" where nothing out of the way was chosen."""
    plane = is_plane(curve)
    first, last = ("origin", "corner b") if plane else ("start", "end")
    not_first, not_last = (
        ("the other corners are not their own checkpoints",) * 2
        if plane
        else (
            "the start is not its own checkpoint",
            "the end is not its own checkpoint",
        )
    )
    buffers = {
        "start": f"Running statistics are the {first}'s at every point, so {not_last}.",
        "end": f"Running statistics are the {last}'s at every point, so {not_first}.",
        "interpolate": "Running statistics are interpolated like parameters.",
        "recompute": (
            "Running statistics are estimated anew at every point, in batches of "
            f"{curve.attrs.get('batch_size', '?')}, so the {'corners' if plane else 'ends'} are "
            "not their own "
            "checkpoints either."
        ),
    }.get(str(curve.attrs.get("buffers", "")), "")
    if not curve.attrs.get("running_statistics", 1):
        buffers = ""  # the model has none
    dropout = {
        "fixed": "Dropout is on, with the same masks at every point.",
        "resample": "Dropout is on, with other masks at every point, whose noise is in the curve.",
    }.get(str(curve.attrs.get("dropout", "")), "")
    return " ".join(filter(None, [buffers, dropout]))


def _interval(part: Profile) -> str:
    return f"part α = {minus(f'{part.alpha[0]:.4g}')} to {minus(f'{part.alpha[-1]:.4g}')}"


def _resolution(curve: xr.Dataset, first: Measures) -> str:
    alpha = first.profile.alpha
    if curve.sizes["alpha"] == 1:
        return "There is a single point, so nothing is said about what lies around it."
    floors = curve[f"{first.profile.quantity}_noise_floor"].sel(split=first.profile.split).values
    known = floors[np.isfinite(floors)]
    name = f"the {first.profile.split} {first.profile.quantity}"
    rounding = (
        f"rounding moves {name} by less than {known.max():.0e}"
        if known.size
        else "what rounding does is unknown"
    )
    few = first.profile.units
    others = (
        f" With {few} independent examples nothing is said about others."
        if few < FEWEST_UNITS
        else ""
    )
    bump = (
        f"A bump is a rise of more than {first.threshold:.2g}{first.profile.unit}; {rounding}. ± is one "
        f"standard error over {examples(curve)}.{others}"
    )
    interval = f"from α = {minus(f'{alpha[0]:.4g}')} to {minus(f'{alpha[-1]:.4g}')}"
    if not is_resolved(curve):
        gap = float(np.diff(alpha).max())
        return (
            f"This holds at {len(alpha)} points {interval}, at most {gap:.2g} apart: what is "
            "narrower than that was "
            f"not looked for. {bump}"
        )
    gap, measured = float(curve.attrs["largest_gap"]), curve.sizes["alpha"]
    where = (
        f"The curve was measured at {measured} points {interval} and read between them by "
        "interpolation"
    )
    if not curve.attrs["resolved"]:
        bad = int((curve["piece_resolved"].values == 0).sum())
        return (
            f"{where}, but {bad} of {curve.sizes['piece']} pieces did not resolve to "
            f"{curve.attrs['tolerance']:g}: "
            f"there the curve between the points is not known. {bump}"
        )
    misfit = float(
        np.nanmax(curve[f"{first.profile.quantity}_misfit"].sel(split=first.profile.split))
    )
    return (
        f"{where}, which misses the measured {first.profile.split} {first.profile.quantity} by at "
        f"most {misfit:.0e} "
        f"(asked for: {curve.attrs['tolerance']:g} of the local value); what is narrower than the "
        "largest gap, "
        f"{gap:.2g}, could hide. {bump}"
    )


def examples(curve: xr.Dataset) -> str:
    """How many examples a result's splits have, in words."""
    counts = [
        f"{int(n):,} {split}"
        for split, n in zip(curve["split"].values, curve["n_examples"].values, strict=True)
    ]
    return f"{' and '.join(counts)} examples"


def _rows(of: Measures) -> list[Row]:
    split, quantity = of.profile.split, of.profile.quantity

    def row(measure: str, estimate: Estimate, note: str, at: str | None = None) -> Row:
        place = at if at is not None else _place(estimate)
        return Row(split, quantity, measure, estimate.value, estimate.stderr, place, note)

    part = of.profile.between(0, 1)
    rows = []
    if of.profile.covers_both_ends:
        rows.append(row("start", part.at_end(0), "the value at α = 0", ""))
        rows.append(row("end", part.at_end(-1), "the value at α = 1", ""))
    rows += [
        row(f"barrier ({kind})", of.barriers[kind], meaning) for kind, meaning in BARRIERS.items()
    ]
    up = of.rise
    span = f"α = {up.foot:.3g} to {up.height.at:.3g}" if np.isfinite(up.foot) else ""
    rows.append(
        row(
            "largest rise",
            up.height,
            "max γ(α₂) − γ(α₁) for α₁ < α₂ in [0, 1]: Δ-monotonicity",
            span,
        )
    )
    ending = "" if up.returns else "; it does not return within [0, 1]"
    if up.height.value > 0:
        rows.append(
            row(
                "width of that rise",
                up.width,
                f"in α, from its foot to the return to the foot's level{ending}",
            )
        )
    for number, minimum in enumerate(of.minima[:5], 1):
        rows.append(
            row(
                f"local minimum {number}",
                minimum.value,
                "inside the measured interval, deepest first",
            )
        )
        rows.append(
            row(
                f"prominence of minimum {number}",
                minimum.prominence,
                "the climb to lower ground or the rim",
            )
        )
    rows += [
        row(
            "convex share",
            of.convexity.share,
            "of [0, 1] on which the curve lies on or under its neighbours' chord",
        ),
        row("area above the chord", of.convexity.excess, "∫ max(0, γ − chord) dα over [0, 1]"),
        row("plateau", of.plateau, "largest α in [0, 1] with γ(α) ≥ γ(0) − 0.1 (γ(0) − γ(1))"),
        row("half-drop position", of.half_drop, "first α with γ(α) ≤ ½ (γ(0) + γ(1))"),
    ]
    return rows


def _place(estimate: Estimate) -> str:
    return f"α = {with_error(estimate.at, estimate.at_stderr)}" if np.isfinite(estimate.at) else ""
