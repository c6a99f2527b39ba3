"""Verdict: what a result says, for a reader, a notebook and a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Final

import numpy as np

from ravine.metrics.findings import Finding
from ravine.metrics.inference import Decision
from ravine.metrics.measures import Row

_COLUMNS: Final = ("", "finding", "height [95 % bounds]", "at")
_LISTED: Final = 8  # rows of a printed verdict; more are counted below it


@dataclass(frozen=True)
class Verdict:
    """What a result says. Printed, it is its headline, the table of its findings and its sentences.

    Attributes:
        headline: the first quantity on the first split, in one sentence.
        sentences: the rest, in order of importance, the resolution they hold at last.
        rows: every measure as a table.
        measures: (split, quantity) → the numbers: ``Measures`` of a line, ``Relief`` of a plane.
        decisions: what was asked, and the answers.
        findings: one for each quantity and split (of several lines, for each line too), their level
            adjusted so that it holds for all of them together.
    """

    headline: str
    sentences: tuple[str, ...]
    rows: tuple[Row, ...]
    measures: Mapping[tuple[str, str], Any]
    decisions: tuple[Decision, ...] = ()
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The verdict for a program: plain numbers and strings, None where something is undefined.

        Returns:
            ``headline``, ``sentences``, ``findings``, ``measures`` (a dict for each
            row) and ``decisions``.
        """
        return {
            "headline": self.headline,
            "sentences": list(self.sentences),
            "findings": [_plain(asdict(finding)) for finding in self.findings],
            "measures": [_plain(asdict(row)) for row in self.rows],
            "decisions": [_plain(asdict(decision)) for decision in self.decisions],
        }

    def __str__(self) -> str:
        return "\n".join([self.headline, *self._table(), *self.sentences])

    def __repr__(self) -> str:
        return f"Verdict({self.headline!r}, {len(self.findings)} findings)"

    def _repr_html_(self) -> str:
        """For a notebook."""
        head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
        body = "".join(_row(one) for one in self.findings)
        table = f"<table><tr>{head}</tr>{body}</table>" if self.findings else ""
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences)
        return f"<p><b>{escape(self.headline)}</b></p>{table}{said}"

    def _table(self) -> list[str]:
        """The findings as lines of text, columns below each other; of many only the first."""
        if not self.findings:
            return []
        rows = [_COLUMNS, *(cells(one) for one in self.findings[:_LISTED])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_aligned(row, widths) for row in rows]
        more = len(self.findings) - _LISTED
        return ["", *lines, *([f"… and {more} more"] if more > 0 else []), ""]


def cells(finding: Finding) -> tuple[str, str, str, str]:
    """A finding as a row of text."""
    return finding.subject, finding.finding, finding.height, finding.place


def _row(finding: Finding) -> str:
    """A finding as a row of HTML."""
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(finding))}</tr>"


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that JSON has; None for those it has not."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in row.items()
    }
