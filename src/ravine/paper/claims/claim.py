"""A claim: one sentence of the paper made testable, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ravine.paper.claims.found import Bound, Found, Status, missing
from ravine.paper.figures.study import Outcome


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, made testable.

    Attributes:
        name: short, unique.
        section: of the paper, or the figure's caption.
        sentence: the paper's words.
        figure: whose measurements decide it; "" if none does.
        asks: what number is looked at.
        found: finds it, with its bounds, in the figure's outcome; given the outcomes of the figures
            ``beside`` too, by name, where there are any.
        bound: "at most" or "at least" …
        threshold: … this much is what the sentence amounts to; None where it is the one threshold
            for what counts as a bump on the curve in question.
        reason: why that threshold; for a claim without a figure, what deciding it would take.
        beside: figures that it is compared with.
        ends: whether it is about how a training ends, of which one that was stopped says nothing.
    """

    name: str
    section: str
    sentence: str
    figure: str
    asks: str
    found: Callable[..., Found]
    bound: Bound
    threshold: float | None
    reason: str
    beside: tuple[str, ...] = ()
    ends: bool = False

    def judged(
        self,
        outcome: Outcome | None,
        profile: str = "",
        others: Mapping[str, Outcome] | None = None,
    ) -> Finding:
        """The claim's number in an outcome of its figure, if there is one.

        Args:
            outcome: None where the figure was not run.
            profile: in which it was.
            others: outcomes of other figures, by name.

        Returns:
            What was found.
        """
        if outcome is None or not self.figure:
            return Finding(self, profile=profile if self.figure else "")
        with_them = {name: one for name, one in (others or {}).items() if name in self.beside}
        every = [outcome, *with_them.values()]
        early = [run.stopped for one in every for run in one.runs if run.stopped]
        if early and self.ends:
            found = missing(f"it is about the end of a training that was stopped: {early[0]}")
        else:
            found = self.found(outcome, with_them) if self.beside else self.found(outcome)
        seeds = tuple(dict.fromkeys(seed for one in every for seed in one.seeds))
        scaled = any(one.is_scaled for one in every)
        return Finding(self, found, profile, seeds, scaled=scaled)


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Attributes:
        claim: which.
        found: its number; None where the figure was not run.
        profile: of the measurements; "" where there are none.
        seeds: of the trainings behind it.
        scaled: whether a training is smaller or shorter than the paper's own. It decides
            nothing about that.
    """

    claim: Claim
    found: Found | None = field(default=None)
    profile: str = ""
    seeds: tuple[int, ...] = ()
    scaled: bool = False

    @property
    def answer(self) -> Status:
        """Of what was run, be it the paper's own configuration or a smaller one."""
        return "not run" if self.found is None else self._answer(self.found)

    @property
    def status(self) -> Status:
        """Of the paper's own configuration."""
        return "not run" if self.scaled else self.answer

    @property
    def arm(self) -> Status | None:
        """A smaller or shorter arm's answer, which stands beside the claim; None without one."""
        return self.answer if self.scaled and self.answer != "not run" else None

    @property
    def here(self) -> Status | None:
        """The answer on these examples alone, where ``answer`` speaks of others like them."""
        inner = None if self.found is None else self.found.here
        return None if inner is None else self._answer(inner)

    @property
    def number(self) -> float:
        """NaN where there is none."""
        return np.nan if self.found is None else self.found.number

    @property
    def threshold(self) -> float:
        """What the number is compared with; NaN if that takes measurements not made."""
        if self.claim.threshold is not None:
            return self.claim.threshold
        return np.nan if self.found is None else self.found.threshold

    @property
    def verdict(self) -> str:
        """The number between its bounds, beside its threshold, in words.

        Examples:
            >>> from ravine.paper.claims.found import estimated
            >>> found = lambda outcome: estimated(0.25, 0.1)
            >>> claim = Claim("half", "§1", "…", "fig1", "a number", found, "at most", 0.5, "…")
            >>> Finding(claim, claim.found(None)).verdict
            'a number: 0.25 [0.0843, 0.416] (holds if at most 0.5)'
        """
        if not self.claim.figure:
            return self.claim.asks
        if self.found is None or np.isnan(self.number):
            return f"{self.claim.asks} ({self.condition})"
        return f"{self.claim.asks}: {shown(self.number)} {self.interval} ({self.condition})"

    @property
    def interval(self) -> str:
        """The bounds, in words; an unknown one is a dash."""
        if self.found is None:
            return "—"
        return f"[{shown(self.found.lower)}, {shown(self.found.upper)}]"

    @property
    def condition(self) -> str:
        """When the claim holds, in words."""
        known = shown(self.threshold) if np.isfinite(self.threshold) else "what counts as a bump"
        return f"holds if {self.claim.bound} {known}"

    @property
    def words(self) -> str:
        """The answer, and what it is of: the paper's network or a smaller arm; which examples."""
        said = f"{self.status} (this arm: {self.arm})" if self.arm else self.status
        if self.here is None or self.here == self.answer:
            return said
        return f"{said}; on these examples: {self.here}"

    @property
    def about(self) -> str:
        """What the bounds are of, and what stands beside the number, in words."""
        if self.found is None or self.answer == "not run":
            return "" if self.found is None else self.found.remark
        of = {
            "population": "for other examples like these",
            "examples": "on these examples",
            "run": "of this training",
        }[self.found.scope]
        seeds = f", seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        remark = f"; {self.found.remark}" if self.found.remark else ""
        return f"{of}{seeds if self.seeds else ''}{remark}"

    def _answer(self, found: Found) -> Status:
        return found.answers(self.claim.bound, self.threshold)


def shown(number: float) -> str:
    """A number in three digits; a dash where it is not known."""
    return f"{number:.3g}" if np.isfinite(number) else "—"


def as_json(findings: Iterable[Finding], **about: Any) -> str:
    """Findings as JSON, for a file.

    Args:
        findings: in the order in which they are to stand.
        about: what else the file says, such as the profile.

    Returns:
        The text, one claim an object. ``status`` is of the paper's own configuration, ``arm`` of a
        smaller or shorter one that was run instead; ``examples`` is the answer for these examples
        alone, where ``scope`` is "population". A number or a bound that is not known is null.
    """
    return (
        json.dumps(
            about | {"claims": [_row(found) for found in findings]}, indent=1, ensure_ascii=False
        )
        + "\n"
    )


def _row(finding: Finding) -> dict[str, Any]:
    claim, found, inner = finding.claim, finding.found, None
    if found is not None and found.here is not None:
        inner = _numbers(found.here) | {"status": finding.here, "remark": found.here.remark}
    return {
        "name": claim.name,
        "section": claim.section,
        "sentence": claim.sentence,
        "figure": claim.figure,
        "asks": claim.asks,
        "bound": claim.bound,
        "threshold": _plain(finding.threshold),
        "reason": claim.reason,
        **_numbers(found),
        "status": finding.status,
        "arm": finding.arm,
        "scope": None if found is None else found.scope,
        "examples": inner,
        "remark": "" if found is None else found.remark,
        "seeds": list(finding.seeds),
        "profile": finding.profile,
    }


def _numbers(found: Found | None) -> dict[str, float | None]:
    if found is None:
        return {"number": None, "lower": None, "upper": None}
    return {name: _plain(getattr(found, name)) for name in ("number", "lower", "upper")}


def _plain(number: float) -> float | None:
    return float(f"{number:.6g}") if np.isfinite(number) else None


def as_table(findings: Iterable[Finding]) -> str:
    """Findings as a table for a terminal: a line each, those of a smaller arm in brackets."""
    heads = ("answer", "figure", "claim", "found", "95 % bounds", "holds if", "seeds", "profile")
    rows = [heads, *(_cells(found) for found in findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(found: Finding) -> tuple[str, ...]:
    arm = f" (arm: {found.arm})" if found.arm else ""
    return (
        f"{found.status}{arm}",
        found.claim.figure,
        found.claim.name,
        shown(found.number),
        found.interval if np.isfinite(found.number) else "—",
        found.condition.removeprefix("holds if "),
        ", ".join(map(str, found.seeds)) or "—",
        found.profile or "—",
    )


def as_markdown(findings: Iterable[Finding]) -> str:
    """Findings as a table for a page."""
    heads = (
        "",
        "The paper says",
        "What is measured",
        "Found",
        "95 % bounds",
        "Holds if",
        "Why",
        "Of what",
        "Profile",
    )
    rows = [_line(heads), f"|{'---|' * len(heads)}\n"]
    for found in findings:
        claim = found.claim
        rows.append(
            _line(
                (
                    f"**{found.words}**",
                    f"“{claim.sentence}” ({claim.section})",
                    claim.asks,
                    shown(found.number),
                    found.interval if np.isfinite(found.number) else "—",
                    found.condition.removeprefix("holds if ") if claim.figure else "—",
                    claim.reason,
                    found.about or "—",
                    found.profile or "—",
                )
            )
        )
    return "".join(rows)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |\n"
