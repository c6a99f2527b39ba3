"""What the page says about one result, as data for the template."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import xarray as xr
from markupsafe import Markup

from ravine import metrics
from ravine.files import harmless_cell
from ravine.metrics.profile import number, with_error
from ravine.plot.curves import title
from ravine.plot.render import page
from ravine.report.scrub import embedded
from ravine.report.tables import Cell, Measure, copies
from ravine.report.views import View
from ravine.result.schema import CORNERS, PROVENANCE, dims_of, kind_of, quantities

#: Rows of the table of points that are shown at its beginning and at its end; the rest is in the
#: download.
SHOWN_POINTS: Final = 6

#: Findings that are shown at once.
SHOWN_FINDINGS: Final = 12

_MEANINGS: Final = {
    **CORNERS["line"],
    **CORNERS["path"],
    **CORNERS["plane"],
    **PROVENANCE,
    "corners": "what the slice's corners are called",
    "curved": "whether the slice bends: 1, or 0 for a straight line or a plane",
    "correction": (
        "what is corrected between the ends: repair sets each unit's statistics to the ends'"
    ),
    "statistics_from": "the examples from which statistics were estimated at every point",
    "per_example": "the function that is measured for every example",
    "running_statistics": "how many layers have running statistics",
    "method": "uniform, greedy, learned or task arithmetic",
    "rule": "decided: worse by more than the tolerance is excluded; best: the mean is no worse",
    "select": "the split on which members were ranked and averages accepted",
    "judge": "the split on which the outcome was compared; nothing was chosen on it",
    "tolerance": "how much worse, in the quantity's unit, is not worse",
    "level": "of all decisions together",
    "quantity": "what decides; less is better",
    "judged_answer": "of the average against the best member, where nothing was chosen",
    "file": "where the average was written",
    "point_hash": "content hash of the average's tensors",
    "alignment": (
        "which units were permuted, how far apart the points are then, and what stays in place"
    ),
}

#: Said elsewhere on the page, or of no interest to its reader.
_ELSEWHERE: Final = frozenset({"title", "command", "schema_version"})


@dataclass(frozen=True)
class Fact:
    """A line of the provenance; ``parts`` instead of ``value`` where it has names of its own."""

    term: str
    meaning: str
    value: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    mono: bool = False


@dataclass(frozen=True)
class Points:
    """The measured points: columns, some rows, how many are omitted, and a download of all."""

    columns: tuple[str, ...]
    first: tuple[tuple[str, ...], ...]
    omitted: int
    last: tuple[tuple[str, ...], ...]
    count: int
    href: str


@dataclass(frozen=True)
class Table:
    """The measures of one quantity, and what each of its buttons copies, as JSON."""

    quantity: str
    measures: tuple[Measure, ...]
    copies: Markup


@dataclass(frozen=True)
class Found:
    """A finding as the page shows it; ``answer`` is "shown", "excluded" or "undecided"."""

    subject: str
    finding: str
    answer: str
    what: str
    height: str
    bounds: str
    place: str

    @classmethod
    def of(cls, finding: metrics.Finding) -> Found:
        """From the verdict's."""
        return cls(
            subject=finding.subject,
            finding=finding.finding,
            answer=finding.answer,
            what=finding.what,
            height=f"{number(finding.value)}{finding.unit}",
            bounds=f"{number(finding.lower)} to {number(finding.upper)}",
            place=finding.place,
        )


@dataclass(frozen=True)
class Findings:
    """The findings that stand on the page, and those behind a fold."""

    first: tuple[Found, ...]
    rest: tuple[Found, ...]

    @classmethod
    def of(cls, verdict: metrics.Verdict) -> Findings:
        """Of a verdict."""
        found = tuple(Found.of(one) for one in verdict.findings)
        return cls(found[:SHOWN_FINDINGS], found[SHOWN_FINDINGS:])


@dataclass(frozen=True)
class Section:
    """One result on the page."""

    anchor: str
    title: str
    verdict: metrics.Verdict
    findings: Findings
    figure: Markup
    caption: str
    scrub: str
    splits: tuple[str, ...]
    tables: tuple[Table, ...]
    points: Points
    facts: tuple[Fact, ...]
    command: str
    is_soup: bool = False

    @classmethod
    def of(cls, view: View, tolerance: float) -> Section:
        """The section for a result that is drawn like this."""
        result = view.result
        verdict = metrics.verdict(result, tolerance)
        is_soup = view.kind == "soup"
        splits = _columns(result, view.kind)
        name = title(result) or view.anchor.replace("-", " ")
        return cls(
            anchor=view.anchor,
            title=name,
            verdict=verdict,
            findings=Findings.of(verdict),
            figure=page.fragment(
                *((figure.panels, figure.caption or figure.title) for figure in view.figures),
                name=view.anchor,
            ),
            caption=view.caption,
            scrub=view.scrub,
            splits=splits,
            tables=tuple(
                Table(quantity, measures, embedded(copies(f"{name}: {quantity}", splits, measures)))
                for quantity, measures in _measures(verdict.rows, splits).items()
            ),
            points=_table_of(result, view.kind),
            facts=_facts(result),
            command=str(result.attrs.get("command", "")),
            is_soup=is_soup,
        )


def _columns(result: xr.Dataset, kind: str) -> tuple[str, ...]:
    """Of the table of measures."""
    if kind == "soup":
        return (str(result.attrs["select"]),)
    return tuple(str(name) for name in result["walk" if kind == "path" else "split"].values)


def _table_of(result: xr.Dataset, kind: str) -> Points:
    """The measured points, a run's snapshots, or a soup's members."""
    if kind == "path":
        return _steps(result)
    return _in_soup(result) if kind == "soup" else _points(result)


def _measures(
    rows: Sequence[metrics.Row], splits: tuple[str, ...]
) -> dict[str, tuple[Measure, ...]]:
    """Quantity → measures, each with a cell for every split."""
    tables: dict[str, list[str]] = {}
    found: dict[tuple[str, str], dict[str, metrics.Row]] = {}
    before = ("", "", "")
    for row in rows:
        names = tables.setdefault(row.quantity, [])
        if row.measure not in names:
            # What only a later split has comes right after what it follows there.
            follows = before[:2] == (row.quantity, row.split)
            names.insert(names.index(before[2]) + 1 if follows else len(names), row.measure)
        found.setdefault((row.quantity, row.measure), {})[row.split] = row
        before = (row.quantity, row.split, row.measure)
    told = {}
    for quantity, names in tables.items():
        told[quantity] = tuple(_measure(name, found[quantity, name], splits) for name in names)
    return told


def _measure(name: str, by_split: dict[str, metrics.Row], splits: tuple[str, ...]) -> Measure:
    note = next(iter(by_split.values())).note
    cells = tuple(_cell(by_split[split], note) if split in by_split else None for split in splits)
    return Measure(name, note, cells)


def _cell(row: metrics.Row, note: str) -> Cell:
    numbers = (repr(float(of)) for of in (row.value, row.stderr, row.lower, row.upper))
    return Cell(tuple(numbers), row.text, row.at, row.note if row.note != note else "")


def _points(result: xr.Dataset) -> Points:
    dims = tuple(reversed(dims_of(result))) if kind_of(result) == "lines" else dims_of(result)
    ordered = result.sortby(list(dims))
    mesh = np.meshgrid(*(ordered[dim].values for dim in dims), indexing="ij")
    coordinates = {dim: column.ravel() for dim, column in zip(dims, mesh, strict=True)}
    if "distance" in ordered.coords:
        # lines may share theirs
        away = ordered["distance"].broadcast_like(ordered["loss"].isel(split=0, drop=True))
        coordinates["distance"] = away.transpose(*dims).values.ravel()
    values = {}
    for quantity, split in itertools.product(quantities(result), ordered["split"].values):
        one = ordered.sel(split=split).transpose(*dims, ...)
        columns = one[quantity], one[f"{quantity}_stderr"]
        values[quantity, str(split)] = tuple(column.values.ravel() for column in columns)
    return _table(coordinates, values)


def _steps(path: xr.Dataset) -> Points:
    """A projected run's snapshots."""
    return _table(
        {"step": path["step"].values}
        | {str(n): path[n].values for n in path.data_vars if path[n].dims == ("step",)},
        {},
    )


def _in_soup(history: xr.Dataset) -> Points:
    """A soup's members."""
    value = f"{history.attrs['select']} {history.attrs['quantity']}"
    columns = {"member": "member", value: "member_value", "weight": "weight", "hash": "member_hash"}
    return _table({name: history[key].values for name, key in columns.items()}, {})


def _table(
    coordinates: dict[str, np.ndarray], values: dict[tuple[str, str], tuple[np.ndarray, ...]]
) -> Points:
    """Columns of numbers, and of values with their standard errors by (quantity, split)."""
    count = len(next(iter(coordinates.values())))

    def row(i: int) -> tuple[str, ...]:
        places = [_place(column[i]) for column in coordinates.values()]
        return (*places, *(_value(mean[i], stderr[i]) for mean, stderr in values.values()))

    letters = {"alpha": "α", "beta": "β"}
    heads = [letters.get(name, name.replace("_", " ")) for name in coordinates]
    heads += [f"{split} {quantity}" for quantity, split in values]
    first, last = range(SHOWN_POINTS), range(count - SHOWN_POINTS, count)
    if count <= 2 * SHOWN_POINTS + 2:  # too few to be worth leaving some out
        first, last = range(count), range(0)
    return Points(
        columns=tuple(heads),
        first=tuple(map(row, first)),
        omitted=count - len(first) - len(last),
        last=tuple(map(row, last)),
        count=count,
        href=_download(coordinates, values),
    )


def _place(value: Any) -> str:
    return str(value) if isinstance(value, str) else f"{value:.6g}"


def _value(mean: float, stderr: float) -> str:
    return with_error(mean, stderr) if np.isfinite(mean) else str(float(mean))


def _download(
    coordinates: dict[str, np.ndarray], values: dict[tuple[str, str], tuple[np.ndarray, ...]]
) -> str:
    """All points as CSV, inside a link."""
    columns = dict(coordinates)
    for (quantity, split), (mean, stderr) in values.items():
        columns |= {f"{split} {quantity}": mean, f"{split} {quantity}_stderr": stderr}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(harmless_cell, columns))
    writer.writerows(map(_written, row) for row in zip(*columns.values(), strict=True))
    return "data:text/csv;charset=utf-8," + quote(text.getvalue(), safe=",+")


def _written(value: str | float) -> str:
    return harmless_cell(value) if isinstance(value, str) else f"{value:.9g}"


def _facts(result: xr.Dataset) -> tuple[Fact, ...]:
    """Where the result comes from: all that the schema names, then what else it carries."""
    named = [name for name in _MEANINGS if name not in _ELSEWHERE]
    others = sorted(
        str(name) for name in result.attrs if name not in _MEANINGS and name not in _ELSEWHERE
    )
    facts = (_fact(name, result.attrs[name]) for name in [*named, *others] if name in result.attrs)
    return tuple(fact for fact in facts if fact.value or fact.parts)


def _fact(name: str, value: object) -> Fact:
    term, meaning, mono = name.replace("_", " "), _MEANINGS.get(name, ""), name.endswith("_hash")
    if isinstance(value, str) and value.startswith("{"):
        try:
            parts = json.loads(value)
        except json.JSONDecodeError:
            return Fact(term, meaning, value, mono=mono)
        return Fact(
            term,
            meaning,
            parts=tuple((str(key), str(part)) for key, part in parts.items()),
            mono=mono,
        )
    text = f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)
    return Fact(term, meaning, text, mono=mono)
