"""Findings: what each quantity does along a line, in one word with bounds; a verdict's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ravine.metrics.inference import LEVEL, Decision, Scope
from ravine.metrics.measures import Measures
from ravine.metrics.profile import number, within

_OPEN: Final = ("undecided", "undefined")
_NOTHING: Final = (
    "falls monotonically",
    "rises monotonically",
    "flat",
    "no barrier",
    "no change",
)

#: Words for the answers about a barrier between two points.
_BARRIER: Final = {"shown": "barrier", "excluded": "no barrier", "undecided": "undecided"}


@dataclass(frozen=True)
class Finding:
    """A row of the table: what one quantity does on one split.

    Attributes:
        split: which split.
        quantity: which quantity.
        name: the quantity in words.
        finding: "falls monotonically", "rises monotonically", "flat", "barrier", "no barrier",
            "not monotone", "undecided" or "undefined".
        what: "barrier", "rise" or "fall": the change whose height is given, the one that would
            contradict a monotone curve; "" where nothing was asked.
        value: its height as it was read, in the quantity's unit.
        lower: one-sided bound at ``level``.
        upper: one-sided bound at ``level``.
        place: where on the line, in words.
        reason: of the answer.
        examples: about how many would decide; None as in ``Decision``.
        level: of each bound, after Holm's adjustment for the table.
        scope: "population", or "examples" where these are too few to speak of others.
        line: its name, where the result has several.
        unit: that stands behind its numbers.
    """

    split: str
    quantity: str
    name: str
    finding: str
    what: str = ""
    value: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    place: str = ""
    reason: str = ""
    examples: int | None = None
    level: float = LEVEL
    scope: Scope = "population"
    line: str = ""
    unit: str = ""

    @property
    def subject(self) -> str:
        """What it is about."""
        return (
            f"{self.line}: {self.split} {self.name}" if self.line else f"{self.split} {self.name}"
        )

    @property
    def answer(self) -> str:
        """In one of three: a change is "shown", or "excluded", or "undecided"."""
        if self.finding in _OPEN:
            return "undecided"
        return "excluded" if self.finding in _NOTHING else "shown"

    @property
    def height(self) -> str:
        """The change with its bounds, "rise 0.0069 [0, 0.0247]"; "" where nothing was asked."""
        if not self.what:
            return ""
        here = " on these examples" if self.scope == "examples" else ""
        return f"{self.what} {number(self.value)} {within(self.lower, self.upper)}{here}"


def findings_of(measured: Sequence[Measures], level: float = LEVEL) -> tuple[Finding, ...]:
    """The findings of a table, with Holm's method: the level holds for all rows together."""
    rows = [finding_of(one, one.decisions, level) for one in measured]
    surest = sorted(range(len(rows)), key=lambda number: _surety(rows[number]))
    share = level / max(len(rows), 1)
    decided = True
    for done, place in enumerate(surest):
        if decided:  # from the first undecided row on, the level stays as it is
            share = level / (len(rows) - done)
        one = measured[place]
        rows[place] = finding_of(one, one.changes.at(share), share)
        decided = decided and rows[place].finding != "undecided"
    return tuple(rows)


def finding_of(
    of: Measures, decisions: Mapping[tuple[str, Scope], Decision], level: float
) -> Finding:
    """What a curve does, by decisions at some level."""
    profile = of.profile
    about: dict[str, Any] = {
        "split": profile.split,
        "quantity": profile.quantity,
        "name": profile.name,
    }
    if of.undefined:
        many = f"{len(of.undefined)} points are not finite"
        return Finding(**about, finding="undefined", reason=many, level=level)
    asked = {what: found for (what, scope), found in decisions.items() if scope == of.scope}
    if not asked:
        few = "fewer than three points were measured between the two"
        return Finding(**about, finding="undecided", reason=few, level=level)
    finding, what = _classified(of, asked)
    found = asked[what]
    return Finding(
        **about,
        finding=finding,
        what=what,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        place=_place(of, what, found),
        reason=found.reason,
        examples=found.examples if found.answer == "undecided" else None,
        level=level,
        scope=of.scope,
        unit=profile.unit,
    )


def barrier_finding(decision: Decision, line: str) -> Finding:
    """What was decided about the barrier on one of several lines."""
    known = not np.isnan(decision.upper)
    return Finding(
        split=decision.split,
        quantity=decision.quantity,
        name=decision.name,
        finding=_BARRIER[decision.answer] if known else "undefined",
        what="barrier" if known else "",
        value=decision.value,
        lower=decision.lower,
        upper=decision.upper,
        place=f"α = {number(decision.at)}" if np.isfinite(decision.at) else "",
        reason=decision.reason,
        examples=decision.examples if decision.answer == "undecided" else None,
        level=decision.level,
        scope="examples" if decision.scope == "examples" else "population",
        line=line,
        unit=decision.unit,
    )


def _classified(of: Measures, asked: Mapping[str, Decision]) -> tuple[str, str]:
    """The word for a curve, and the change whose height goes with it."""
    along, against = ("fall", "rise") if of.falls else ("rise", "fall")
    if "barrier" in asked and asked["barrier"].answer == "shown":
        return "barrier", "barrier"
    if asked[against].answer == "shown":
        return "not monotone", against
    if asked[against].answer == "undecided":
        return "undecided", against
    if asked[along].answer == "excluded":
        return "flat", along
    if asked[along].answer == "shown":
        return ("falls monotonically" if of.falls else "rises monotonically"), against
    return "undecided", along


def _place(of: Measures, what: str, found: Decision) -> str:
    """Where the change lies: a barrier's top, or from foot to top."""
    if found.value <= 0:
        return ""
    if what == "barrier":
        return f"α = {number(found.at)}"
    change = of.rise if what == "rise" else of.drop
    ends = sorted((abs(change.foot), abs(change.height.at)))
    return f"α = {number(ends[0])} to {number(ends[1])}" if np.isfinite(ends).all() else ""


def _surety(finding: Finding) -> float:
    """Small for a sure answer: how near the bounds come to each other, against the height."""
    if finding.finding in ("undecided", "undefined"):
        return np.inf
    width = max(finding.upper - finding.lower, 1e-300)
    return width / max(abs(finding.value), width)
