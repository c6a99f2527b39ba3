"""A claim: one sentence of the paper made testable, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

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
        found: finds it in the figure's outcome.
        bound: "at most" or "at least" …
        threshold: … this much is what the sentence amounts to.
        reason: why that threshold; for a claim without a figure, what deciding it would take.
        ends: whether it is about how the training ends, so that a stopped one says nothing.
    """

    name: str
    section: str
    sentence: str
    figure: str
    asks: str
    found: Callable[[Outcome], float]
    bound: Literal["at most", "at least"]
    threshold: float
    reason: str
    ends: bool = False

    def judged(self, outcome: Outcome | None, profile: str = "") -> Finding:
        """The claim's number in an outcome of its figure, if there is one.

        Args:
            outcome: None where the figure was not run.
            profile: in which it was.

        Returns:
            What was found.
        """
        if self.ends and outcome is not None:
            early = [run.stopped for run in outcome.runs if run.stopped]
            if early:
                note = f"it is about the end of a training that was stopped: {early[0]}"
                return Finding(self, float("nan"), "not run", profile, note)
        number = float("nan") if outcome is None or not self.figure else self.found(outcome)
        if np.isnan(number):
            status = "not run"
        else:
            holds = (
                number <= self.threshold if self.bound == "at most" else number >= self.threshold
            )
            status = "holds" if holds else "does not hold"
        return Finding(self, number, status, profile if self.figure else "")


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Attributes:
        claim: which.
        number: NaN where it was not run.
        status: in words.
        profile: of the measurements; "" where there are none.
        note: why it was not run, where the figure was.
    """

    claim: Claim
    number: float
    status: str
    profile: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """The number beside its threshold, in words.

        Examples:
            >>> claim = Claim("half", "§1", "…", "fig1", "a number", lambda outcome: 0.25, "at most", 0.5, "…")
            >>> Finding(claim, 0.25, "holds").verdict
            'a number: 0.25 (at most 0.5)'
        """
        bound = f"{self.claim.bound} {self.claim.threshold:g}"
        found = "" if np.isnan(self.number) else f": {self.number:.3g}"
        said = f"{self.claim.asks}{found} ({bound})" if self.claim.figure else self.claim.asks
        return f"{said}; {self.note}" if self.note else said


def as_json(findings: Iterable[Finding], **about: Any) -> str:
    """Findings as JSON, for a file.

    Args:
        findings: in the order in which they are to stand.
        about: what else the file says, such as the profile.

    Returns:
        The text, one claim an object; a number that was not found is null.
    """
    rows = [
        {key: value for key, value in asdict(found.claim).items() if key not in ("found", "ends")}
        | {
            "number": None if np.isnan(found.number) else float(f"{found.number:.6g}"),
            "status": found.status,
            "profile": found.profile,
        }
        | ({"note": found.note} if found.note else {})
        for found in findings
    ]
    return json.dumps(about | {"claims": rows}, indent=1, ensure_ascii=False) + "\n"


def as_markdown(findings: Iterable[Finding]) -> str:
    """Findings as a table for a page."""
    head = (
        "| | The paper says | What is measured | Found | Holds if | Why | Profile "
        "|\n|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for found in findings:
        claim = found.claim
        number = "—" if np.isnan(found.number) else f"{found.number:.3g}"
        bound = f"{claim.bound} {claim.threshold:g}" if claim.figure else "—"
        cells = (
            f"**{found.status}**",
            f"“{claim.sentence}” ({claim.section})",
            claim.asks,
            number,
            bound,
            found.note or claim.reason,
            found.profile or "—",
        )
        rows.append(f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |\n")
    return head + "".join(rows)
