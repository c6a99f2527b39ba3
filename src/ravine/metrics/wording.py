"""The wording of a verdict on a line: a headline, and a few plain sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import xarray as xr

from ravine.metrics.bounds import LAST_BITS
from ravine.metrics.findings import Finding, finding_of, findings_of
from ravine.metrics.inference import FEWEST_UNITS, LEVEL, Decision, decided
from ravine.metrics.measures import Measures, measures_of, rows_of
from ravine.metrics.profile import Estimate, Profile, minus, number, with_error, within
from ravine.metrics.verdicts import Verdict
from ravine.result.interpolant import is_resolved
from ravine.result.schema import is_plane, quantities, validate

#: The unit of a language model's loss, whose exponential is the perplexity.
PER_TOKEN: Final = "nats per token"


#: What is asked about, in words.
_NOUN: Final = {"nonconvex": "bend upwards"} | {
    what: what for what in ("barrier", "rise", "minimum")
}

#: A noise floor that is read more easily without an exponent.
_LARGE_FLOOR: Final = 0.01
_NARROW: Final = ("float32", "bfloat16", "float16")


def line_verdict(curve: xr.Dataset, tolerance: float = 1e-3) -> Verdict:
    """``verdict`` of a line."""
    splits = [str(name) for name in validate(curve)["split"].values]
    measured = {}
    for quantity, split in product(quantities(curve), splits):
        measured[split, quantity] = measures_of(Profile.of(curve, quantity, split), tolerance)
    way = "curve" if curve.attrs.get("curved", 0) else "straight line"
    first = next(iter(measured.values()))
    main = Wording(first, way)
    findings = findings_of([*measured.values()])
    sentences = [_answer(curve, first.profile), *main.details()]
    sentences += [
        _open(findings[1:], "clusters" if first.profile.clustered else "examples"),
        _perplexities(measured),
        policies(curve),
        _resolution(curve, first),
    ]
    rows = tuple(row for one in measured.values() for row in rows_of(one))
    decisions = tuple(found for one in measured.values() for found in one.decisions.values())
    said = tuple(sentence for sentence in sentences if sentence)
    return Verdict(main.headline(), said, rows, measured, decisions, findings)


def _answer(curve: xr.Dataset, profile: Profile) -> str:
    """What was asked of the examples, or wanted of their number, and how many it took."""
    if "examples_of" not in curve.attrs:
        return ""
    whole = json.loads(curve.attrs["examples_of"])
    taken = zip(curve["split"].values, curve["n_examples"].values, strict=True)
    counts = [f"{int(count):,} of {whole[split]:,} {split}" for split, count in taken]
    seen = f"{' and '.join(counts)} examples"
    if "asked" not in curve.attrs:
        reached, wanted = (float(curve.attrs[f"stderr_{of}"]) for of in ("reached", "asked"))
        short = "" if reached <= wanted else ", which is all there are"
        return (
            f"The standard error of J(α) − J(start) is at most {reached:.2g} (requested: "
            f"{wanted:g}), with {seen}{short}."
        )
    asked = json.loads(curve.attrs["asked"])
    found = decided(profile, asked["what"], above=asked["above"], level=asked["level"])
    bounds = f"{number(found.value)} [{number(found.lower)}, {number(found.upper)}]"
    return (
        f"A {_NOUN[asked['what']]} above {asked['above']:g}{profile.unit} in the {profile.split} "
        f"{profile.name} is {found.answer}: {bounds}, with {seen}."
    )


def _open(findings: Sequence[Finding], noun: str) -> str:
    """Why rows of the table are undecided, and about how many examples or clusters would decide."""
    told = []
    for one in findings:
        if one.answer == "undecided":
            needed = f"; about {one.examples:,} {noun} would decide" if one.examples else ""
            told.append(f"{one.subject} ({one.reason}{needed})")
    return f"Undecided: {', '.join(told)}." if told else ""


@dataclass(frozen=True)
class Wording:
    """Sentences about one quantity on one split.

    Attributes:
        measures: what was measured.
        way: what it was measured along, in words.
    """

    measures: Measures
    way: str

    @property
    def name(self) -> str:
        """The quantity and its split, in words."""
        return f"{self.measures.profile.split} {self.measures.profile.name}"

    def number(self, value: Estimate | float) -> str:
        """A number with its unit."""
        shown = value if isinstance(value, Estimate) else number(value)
        return f"{shown}{self.measures.profile.unit}"

    def headline(self) -> str:
        """One sentence: does it fall, and if not, where does it rise? Of too few, of them alone."""
        said = self._headline()
        few = self.measures.scope == "examples" and not self.measures.undefined
        return f"On these examples {said[0].lower()}{said[1:]}" if few else said

    def _headline(self) -> str:
        of = self.measures
        part = of.profile.between(0, 1)
        if not part.alpha.size:
            return f"The {self.name} was not measured between the two points."
        if of.undefined:
            return self._undefined(part)
        start, end = part.at_end(0), part.at_end(-1)
        if len(part.alpha) == 1:
            return f"At α = {number(part.alpha[0])} the {self.name} is {self.number(start)}."
        found = finding_of(of, of.decisions, LEVEL)
        first, last = _told_apart(start, end)
        span = f"from {first} to {last}"
        where = f"along the {self.way}"
        if not of.profile.covers_both_ends:
            where = f"over the measured {_interval(part)}"
        if found.finding == "barrier":
            tallest = of.barriers["end"]
            place = with_error(tallest.at, tallest.at_stderr)
            return (
                f"The {self.name} has a barrier of {self.number(tallest)} between the two points, "
                f"at α = {place}; the ends are at {first} and {last}."
            )
        if found.finding == "flat":
            extent = number(float(np.ptp(part.value)))
            return (
                f"The {self.name} is flat {where}, at {self.number(start)}; its range is {extent}."
            )
        if found.finding in ("falls monotonically", "rises monotonically"):
            return f"The {self.name} {found.finding} {span} {where}{self._slack()}."
        if found.finding == "not monotone":
            barrier = {"excluded": " with no barrier above the ends, but"}
            between = barrier.get(of.answer("barrier") or "", ",")
            return (
                f"The {self.name} goes {span} {where}{between} not monotonically: "
                f"it {self._change()}."
            )
        return self._undecided(found, span, where)

    def _undefined(self, part: Profile) -> str:
        points, lost = len(part.measured), part.measured[~np.isfinite(part.value[part.is_measured])]
        if len(lost) == points:
            return f"The {self.name} is undefined: none of its {points} points is finite."
        if not len(lost):
            return (
                f"The {self.name} is finite at its {points} points, and too large to be "
                "interpolated between some of them."
            )
        return (
            f"The {self.name} is undefined on part of the line: {len(lost)} of {points} points are "
            f"not finite, the first at α = {lost[0]:.4g}."
        )

    def _undecided(self, found: Finding, span: str, where: str) -> str:
        of = self.measures
        if not found.what:
            return f"The {self.name} goes {span} {where}; {found.reason}."
        here = {what for what in ("rise", "fall") if self._excluded_here(what)}
        if found.what in here:
            way = "falls" if of.falls else "rises"
            told = f"{way} monotonically {span}"
            if len(here) == 2:
                told = f"is flat at {of.profile.between(0, 1).at_end(0)}"
            return f"On these examples the {self.name} {told} {where}{self._for_others(found)}."
        if np.isinf(found.upper):
            return (
                f"The {self.name} goes {span} {where}; whether monotonically is undecided: "
                f"{found.reason}."
            )
        return (
            f"The {self.name} goes {span} {where}; whether monotonically is undecided: on "
            f"these examples it {self._change()}{self._for_others(found)}."
        )

    def _excluded_here(self, what: str) -> bool:
        """Whether a change is excluded on these examples, whatever it is for others."""
        found = self.measures.decisions.get((what, "examples"))
        return found is not None and found.answer == "excluded"

    def _change(self) -> str:
        """The change against the trend, as it was read."""
        of = self.measures
        back = of.rise if of.falls else of.drop
        low, high = sorted(map(abs, (back.foot, back.height.at)))
        verb = "rises" if of.falls else "falls"
        return (
            f"{verb} by {self.number(back.height.value)} between α = {number(low)} and "
            f"{number(high)}"
        )

    def _slack(self) -> str:
        """The largest change against the trend, where there is one that is no bump."""
        of = self.measures
        back = of.rise if of.falls else of.drop
        floor = float(np.nan_to_num(of.profile.between(0, 1).floor).max(initial=0.0))
        if back.height.value <= floor:
            return ""
        against = "rise" if of.falls else "fall"
        return (
            f" (largest {against} {self.number(back.height.value)}, below {number(of.threshold)})"
        )

    def _for_others(self, found: Finding) -> str:
        """What is not known of other examples, and about how many would decide it."""
        if np.isinf(found.upper):
            return f"; {found.reason}"
        needed = f"; about {found.examples:,} would decide" if found.examples else ""
        return (
            f"; for other examples a {found.what} of up to {number(found.upper)} is not excluded"
            f" ({found.reason}{needed})"
        )

    def details(self) -> list[str]:
        """Shape, and what lies outside [0, 1]."""
        of = self.measures
        if of.undefined or not of.profile.covers_both_ends:
            return []
        said = [self.shape()]
        if of.drops:
            said.append(
                f"The first 10 % of the decrease is reached at α = {of.plateau}, half of it at "
                f"α = {of.half_drop}."
            )
        return [*said, *self.minima()]

    def shape(self) -> str:
        """Whether it is convex, and how it lies to the chord between its ends."""
        of = self.measures
        if len(of.profile.between(0, 1).alpha) < 3:
            return ""
        bend = decided(of.profile, "nonconvex", above=of.threshold, scope=of.scope)
        chord = of.changes.barrier("chord", of.scope)
        limit = self.number(of.threshold)
        convex = {
            "excluded": f"It is convex to within {limit}",
            "shown": "It is not convex",
            "undecided": f"Whether it is convex to within {limit} is undecided",
        }[bend.answer]
        if chord is not None and chord.answer == "shown":
            height = self._height(chord)
            return f"{convex}; it exceeds the chord between its ends by up to {height}."
        if bend.answer == "shown":
            return f"{convex}: it exceeds a chord of two of its points by {self._height(bend)}."
        return f"{convex}."

    def _height(self, found: Decision) -> str:
        place = f"α = {number(found.at)}"
        return f"{self.number(found.value)} at {place} {within(found.lower, found.upper)}"

    def minima(self) -> list[str]:
        """The local minima, and the lowest point where it lies elsewhere."""
        of = self.measures
        low, high = of.profile.alpha[[0, -1]]
        if not of.minima and low >= 0 and high <= 1:
            return []
        listed = "; ".join(
            f"{self.number(m.value.value)} at α = {with_error(m.value.at, m.value.at_stderr)}"
            for m in of.minima[:4]
        )
        count = {0: "no local minimum", 1: "one local minimum"}.get(
            len(of.minima), f"{len(of.minima)} local minima"
        )
        said = (
            f"Between α = {number(low)} and {number(high)} it has {count} deeper than "
            f"{of.threshold:.1g} on these examples{f': {listed}' if listed else ''}."
        )
        finite = np.isfinite(of.profile.value)
        bottom = int(np.flatnonzero(finite)[np.argmin(of.profile.value[finite])])
        place = float(of.profile.alpha[bottom])
        if all(abs(place - m.value.at) > 1e-9 for m in of.minima) and (place < 0 or place > 1):
            lowest = self.number(float(of.profile.value[bottom]))
            said += f" Its lowest value on them, {lowest}, is at α = {number(place)}."
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
        start, end = (_perplexity(part.at_end(place)) for place in (0, -1))
        least = _perplexity(of.profile.at_end(lowest))
        place = number(float(of.profile.alpha[lowest]))
        said.append(f"{split} from {start} to {end}, lowest {least} at α = {place}")
    return f"Perplexity: {'; '.join(said)}." if said else ""


def _perplexity(loss: Estimate) -> Estimate:
    with np.errstate(over="ignore"):  # beyond 709 nats it is infinite
        found = float(np.exp(loss.value))
    return Estimate(found, found * loss.stderr)


def policies(curve: xr.Dataset) -> str:
    """What a reader must know of the objective to read its curve; "" if nothing is unusual."""
    first, last, corners = ("start", "end", "ends")
    if is_plane(curve):
        first, last, corners = ("origin", "corner b", "corners")
    differ = "differ from those of the saved checkpoints"
    batches = f"batches of {curve.attrs.get('batch_size', '?')}"  # results of old say no more
    batches = curve.attrs.get("statistics_from", batches)
    buffers = {
        "start": (
            f"Running statistics are the {first}'s at every point, so values elsewhere {differ}."
        ),
        "end": f"Running statistics are the {last}'s at every point, so values elsewhere {differ}.",
        "interpolate": "Running statistics are interpolated like parameters.",
        "recompute": (
            f"Running statistics are estimated anew at every point, from {batches}, so values at "
            f"the {corners} {differ} too."
        ),
    }.get(str(curve.attrs.get("buffers", "")), "")
    if not curve.attrs.get("running_statistics", 1):
        buffers = ""  # the model has none
    dropout = {
        "fixed": "Dropout is on, with the same masks at every point.",
        "resample": "Dropout is on, with other masks at every point, whose noise is in the curve.",
    }.get(str(curve.attrs.get("dropout", "")), "")
    correction = {
        "repair": (
            "Between the ends, each unit's mean and standard deviation are set to the "
            "interpolation of the ends' (REPAIR), estimated on "
            f"{curve.attrs.get('statistics_from', 'the first split')}."
        ),
    }.get(str(curve.attrs.get("correction", "")), "")
    return " ".join(filter(None, [buffers, dropout, correction]))


def _told_apart(start: Estimate, end: Estimate) -> tuple[str, str]:
    """Two values as text; without an error, to the digits in which they differ.

    Examples:
        >>> _told_apart(Estimate(1e6, 0.0), Estimate(1e6 + 1, 0.0))
        ('1000000', '1000001')
        >>> _told_apart(Estimate(1.0, 0.1), Estimate(1.0001, 0.1))
        ('1.00 ± 0.10', '1.00 ± 0.10')
    """
    shown = str(start), str(end)
    gap, largest = abs(end.value - start.value), max(abs(start.value), abs(end.value))
    has_error = start.stderr > 0 or end.stderr > 0
    if shown[0] != shown[1] or has_error or not gap > LAST_BITS * largest:
        return shown
    digits = min(int(np.ceil(np.log10(largest / gap))) + 1, 15)
    return minus(f"{start.value:.{digits}g}"), minus(f"{end.value:.{digits}g}")


def _interval(part: Profile) -> str:
    return f"part α = {minus(f'{part.alpha[0]:.4g}')} to {minus(f'{part.alpha[-1]:.4g}')}"


def _resolution(curve: xr.Dataset, first: Measures) -> str:
    alpha = first.profile.alpha
    if curve.sizes["alpha"] == 1:
        return "There is a single point, so nothing is said about its surroundings."
    interval = f"from α = {minus(f'{alpha[0]:.4g}')} to {minus(f'{alpha[-1]:.4g}')}"
    measured = f"Measured at {curve.sizes['alpha']} points {interval}"
    return f"{measured}{_spacing(curve, first)}. {_errors(curve, first)}"


def _spacing(curve: xr.Dataset, first: Measures) -> str:
    """What was read between the points, and how narrow a feature may be missed."""
    split, quantity = first.profile.split, first.profile.quantity
    if not is_resolved(curve):
        gap = float(np.diff(first.profile.alpha).max())
        return (
            f", at most {gap:.2g} apart; features narrower than the grid spacing cannot be ruled "
            "out"
        )
    tolerance, gap = curve.attrs["tolerance"], float(curve.attrs["largest_gap"])
    if not curve.attrs["resolved"]:
        bad = int((curve["piece_resolved"].values == 0).sum())
        return (
            f" and interpolated; {bad} of {curve.sizes['piece']} pieces did not resolve to "
            f"{tolerance:g}, and the curve is unknown between their points"
        )
    misfits = curve[f"{quantity}_misfit"].sel(split=split).values
    known = misfits[np.isfinite(misfits)]
    if not known.size:
        return f"; the {split} {quantity} is unknown between its points"
    misfit = f"{known.max():.0e}"
    return (
        f" and interpolated; max. interpolation error of the {split} {quantity} at check points "
        f"{misfit} (requested: {tolerance:g} of the local value{_loosely(curve)}); features "
        f"narrower than the largest gap, {gap:.2g}, may be missed"
    )


def _loosely(curve: xr.Dataset) -> str:
    """The error that was allowed in any case, where a question was asked that needs no better."""
    least = float(curve.attrs.get("allowed_error", 0.0))
    return f", or {least:.1g}" if least else ""


def _errors(curve: xr.Dataset, first: Measures) -> str:
    """What counts as a bump, what rounding does, and what ± is."""
    of = first.profile
    floors = curve[f"{of.quantity}_noise_floor"].sel(split=of.split).values
    known = floors[np.isfinite(floors)]
    rounding = "the effect of rounding is unknown"
    advice = ""
    if known.size:
        largest = float(known.max())
        said = f"{largest:.0e}" if largest < _LARGE_FLOOR else f"{largest:.2g}"
        rounding = f"rounding moves the {of.split} {of.quantity} by less than {said}"
        if largest >= first.threshold and curve.attrs.get("dtype") in _NARROW:
            advice = " Measure with dtype=torch.float64 for what is smaller."
    few = ""
    if of.units < FEWEST_UNITS:
        noun = "example" if of.units == 1 else "examples"
        few = f" With {of.units} independent {noun} nothing is said about others."
    return (
        f"A bump is a rise of more than {first.threshold:.2g}{of.unit}; {rounding}.{advice} ± is "
        f"one standard error over {examples(curve)}.{few}"
    )


def examples(curve: xr.Dataset) -> str:
    """How many examples a result's splits have, and in how many clusters, in words."""
    counts = [
        f"{int(n):,} {split}"
        for split, n in zip(curve["split"].values, curve["n_examples"].values, strict=True)
    ]
    said = f"{' and '.join(counts)} examples"
    if "n_units" in curve and (curve["n_units"] < curve["n_examples"]).any():
        said += f" in {' and '.join(f'{int(n):,}' for n in curve['n_units'].values)} clusters"
    return said
