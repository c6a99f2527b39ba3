"""The verdict on several lines: barriers, what may be averaged, which parameters hurt most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import xarray as xr

from ravine.metrics.connections import (
    TOLERABLE,
    Barriers,
    barriers,
    connected,
    is_of_pairs,
    points_of,
)
from ravine.metrics.decisions import decide
from ravine.metrics.ends import EndChanges, end_changes, end_sentence, shared_end
from ravine.metrics.findings import Finding, barrier_finding
from ravine.metrics.inference import Decision
from ravine.metrics.measures import Row
from ravine.metrics.verdicts import Verdict
from ravine.metrics.wording import examples, policies
from ravine.result.schema import lines_of, name_of, quantities, unit_of

_LISTED: Final = 8  # names or sets in one sentence, at most
_STAGES: Final = ("aligned and repaired", "aligned")  # how the names of such lines end
_LONG: Final = 700  # characters on what was permuted; more are with the facts of the result


def lines_verdict(result: xr.Dataset) -> Verdict:
    """``verdict`` of several lines."""
    tables = {
        (str(split), quantity): barriers(result, quantity=quantity, split=str(split))
        for quantity in quantities(result)
        for split in result["split"].values
    }
    decisions = {
        key: decide(result, "barrier", quantity=table.quantity, split=table.split)
        for key, table in tables.items()
    }
    shared = shared_end(result)
    steps = shared is None and all(str(name).isdigit() for name in result["line"].values)
    ends = {}
    if shared is not None:
        ends = {key: end_changes(result, shared, key[1], key[0]) for key in tables}
    if "alignment" in result.attrs:
        said = [_stages(tables[key], decisions[key], result) for key in tables]
    else:
        said = [_barriers(tables[key], decisions[key], result, steps=steps) for key in tables]
    line = next(iter(lines_of(result).values()))
    if ends:
        said = [*map(end_sentence, ends.values()), *said]
    headline, *rest = said
    moved = _moved(result)
    sentences = [_averaging(result), *rest, moved, policies(line), _resolution(result, line)]
    return Verdict(
        headline,
        tuple(filter(None, sentences)),
        tuple(_rows(tables.values())),
        tables,
        tuple(one for found in decisions.values() for one in found.values()),
        tuple(_findings(ends.values(), decisions.values(), steps=steps)),
    )


def _findings(
    ends: Iterable[EndChanges], decisions: Iterable[dict[str, Decision]], *, steps: bool
) -> Iterable[Finding]:
    """What each line does: to the free end where they share one, and whether it has a barrier."""
    for changes in ends:
        yield from changes.findings
    for found in decisions:
        highest = sorted(found, key=lambda name: -np.nan_to_num(found[name].value))
        yield from (barrier_finding(found[name], _called(name, steps)) for name in highest)


def _called(name: str, steps: bool) -> str:
    """A line's name; those between two runs are called by their steps."""
    return f"step {name}" if steps else name


def _resolution(result: xr.Dataset, line: xr.Dataset) -> str:
    places = np.sort(result["alpha"].values)
    apart = f", at most {np.diff(places).max():.2g} apart" if places.size > 1 else ""
    return (
        f"Each line was measured at {places.size} points{apart}; features narrower than the grid "
        f"spacing cannot be ruled out. ± is one standard error over {examples(line)}; all lines "
        "saw the same examples."
    )


def _rows(tables: Iterable[Barriers]) -> Iterable[Row]:
    for table in tables:
        for name, kinds in table.heights.items():
            for kind, at in kinds.items():
                place = f"α = {at.at:.3g}" if np.isfinite(at.at) else ""
                measure = f"{name}: barrier ({kind})"
                yield Row(table.split, table.quantity, measure, at.value, at.stderr, place, "")


def _barriers(
    table: Barriers, decisions: dict[str, Decision], result: xr.Dataset, *, steps: bool
) -> str:
    """On how many lines a barrier is shown, excluded or undecided, and where it is highest."""
    unit, of = unit_of(result, table.quantity), f"{table.split} {name_of(result, table.quantity)}"
    heights = table.of("end")
    lost = [name for name, found in heights.items() if not np.isfinite(found.value)]
    by: dict[str, list[str]] = {"shown": [], "excluded": [], "undecided": []}
    for name, found in decisions.items():
        if name not in lost:
            by[found.answer].append(name)
    count = len(heights) - len(lost)
    if not count:
        return f"The barriers in the {of} are undefined on all {len(heights)} lines."
    rest = "".join(
        f" {word.capitalize()}: {_few_names([_called(name, steps) for name in names])}."
        for word, names in (("undecided", by["undecided"]), ("undefined", lost))
        if names
    )
    if by["shown"]:
        top = max(by["shown"], key=lambda name: heights[name].value)
        place = f" at α = {heights[top].at:.2g}" if np.isfinite(heights[top].at) else ""
        shown = f"{len(by['shown'])} of {count} lines" if count > 1 else "The line"
        have = "have" if len(by["shown"]) > 1 else "has"
        highest = f", the highest, {heights[top]}{unit}, on {_called(top, steps)}{place}"
        if count == 1:
            highest = f": {heights[top]}{unit}{place}"
        return f"{shown} {have} a significant barrier in the {of}{highest}.{rest}"
    if not by["excluded"]:
        return f"Whether there is a barrier in the {of} is undecided on every line.{rest}"
    where = "all" if len(by["excluded"]) == count else f"{len(by['excluded'])} of"
    lines = f"{where} {count} lines" if count > 1 else _called(next(iter(heights)), steps)
    return f"A barrier in the {of} is excluded on {lines}.{rest}"


def _stages(table: Barriers, decisions: dict[str, Decision], result: xr.Dataset) -> str:
    """The highest barrier of the lines as they are, aligned, repaired, and where it is shown."""
    unit, of = unit_of(result, table.quantity), f"{table.split} {name_of(result, table.quantity)}"
    heights, by = table.of("end"), dict[str, list[str]]()
    for name in heights:
        stage = next((stage for stage in _STAGES if name.endswith(stage)), "")
        by.setdefault(stage, []).append(name)
    several = len(by.get("", ())) > 1
    parts: list[str] = []
    for stage, names in by.items():
        top = max(names, key=lambda name: np.nan_to_num(heights[name].value, nan=-np.inf))
        answers = [decisions[name].answer for name in names]
        answer = f"{answers.count('shown')} of {len(names)} shown" if several else answers[0]
        known = np.isfinite(heights[top].value)
        height = f"{heights[top]}{unit} ({answer})" if known else "undefined"
        parts.append(f"{stage}, {height}" if stage else f"is {height}")
    which = "highest barrier" if several else "barrier"
    return f"The {which} in the {of} {'; '.join(parts)}."


def _moved(result: xr.Dataset) -> str:
    """What was permuted and what stays in place, where that is short."""
    said = str(result.attrs.get("alignment", ""))
    return said if len(said) <= _LONG else "What was permuted is listed below."


def _few_names(names: list[str]) -> str:
    return f"{', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''}"


def _averaging(result: xr.Dataset) -> str:
    if not is_of_pairs(result):
        return ""
    judged = "error" if "error" in quantities(result) else "loss"
    sets = [", ".join(group) for group in connected(result) if len(group) > 1]
    split = str(result["split"].values[0])
    barrier = f"a barrier above {TOLERABLE:g} in the {split} {name_of(result, judged)}"
    if not sets:
        return f"For no two of the {len(points_of(result))} points is {barrier} excluded (95 %)."
    return f"Linearly mode-connected ({barrier} is excluded at 95 %): {'; '.join(sets[:_LISTED])}."
