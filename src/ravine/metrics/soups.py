"""What a soup's history says: what was taken in, and whether it beats what there was."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

from ravine.metrics.measures import Row
from ravine.metrics.profile import number, with_error
from ravine.metrics.verdicts import Verdict
from ravine.result.schema import name_of, unit_of

_TASKS: Final = "task arithmetic"

#: Words for the answers, of the outcome against what there was.
_ANSWERS: Final = {
    "better": "is better than",
    "worse": "is worse than",
    "tied": "is as good as",
    "undecided": "is neither shown to be better nor to be worse than",
}


def soup_verdict(history: xr.Dataset) -> Verdict:
    """``verdict`` of a soup's history."""
    sentences = [_members(history), _rule(history), _nothing(history), _file(history)]
    return Verdict(_headline(history), tuple(filter(None, sentences)), _rows(history), {})


def _headline(history: xr.Dataset) -> str:
    about = history.attrs
    answer = _ANSWERS[str(about["judged_answer"])]
    lower, upper = number(about["judged_lower"]), number(about["judged_upper"])
    change = (
        f"the {name_of(history, 'value')} differs by "
        f"{with_error(about['judged_difference'], about['judged_stderr'])} [{lower}, {upper}]"
        f"{unit_of(history, 'value')}"
    )
    taken = _taken(history)
    if about["method"] == _TASKS:
        return (
            f"On {about['judge']} the base with its task vectors at {taken[0]} {answer} the base: "
            f"{change}."
        )
    if len(taken) == 1:
        return f"Nothing was averaged: the best member, {taken[0]}, stays alone."
    count = f"{len(taken)} of {history.sizes['member']} members"
    return f"On {about['judge']} the average of {count} {answer} the best of them: {change}."


def _taken(history: xr.Dataset) -> list[str]:
    return [str(name) for name in history["member"].values[history["weight"].values > 0]]


def _members(history: xr.Dataset) -> str:
    """What is in it, with which weight, and what is not."""
    if history.attrs["method"] == _TASKS:
        return ""
    weights = dict(zip(map(str, history["member"].values), history["weight"].values, strict=True))
    inside = {name: weight for name, weight in weights.items() if weight > 0}
    alike = np.ptp(list(inside.values())) < 1e-9
    listed = ", ".join(
        name if alike else f"{name} ({number(weight)})" for name, weight in inside.items()
    )
    outside = ", ".join(name for name in weights if name not in inside)
    shared = f", each with weight 1/{len(inside)}" if alike and len(inside) > 1 else ""
    return f"In it: {listed}{shared}." + (f" Left out: {outside}." if outside else "")


def _rule(history: xr.Dataset) -> str:
    """What was chosen where, and by which rule."""
    about = history.attrs
    chosen = f"Chosen on {about['select']}, judged on {about['judge']}, where nothing was chosen."
    if about["method"] == _TASKS:
        return f"{chosen} Of the scales the one with the lowest mean was taken."
    if about["method"] == "uniform":
        return f"{chosen} All members were asked for."
    if about["rule"] == "best":
        return f"{chosen} An average was taken where its mean is no higher, whatever its error."
    sure = f"{100 * (1 - float(about.get('level', 0.05))):g} %"
    return (
        f"{chosen} An average was taken where it is excluded that it is worse by more than "
        f"{number(about['tolerance'])}{unit_of(history, 'value')}; all acceptances together hold "
        f"at {sure}."
    )


def _nothing(history: xr.Dataset) -> str:
    """Which differences count as none where the outcome is judged."""
    above = float(history.attrs["tolerance"])
    unit = unit_of(history, "value")
    return f"Differences of up to {number(above)}{unit} count as none." if above else ""


def _file(history: xr.Dataset) -> str:
    file = str(history.attrs.get("file", ""))
    return f"It is written to {file}." if file else ""


def _rows(history: xr.Dataset) -> tuple[Row, ...]:
    """One for each thing that was tried."""
    steps = [history.isel(step=place) for place in range(history.sizes["step"])]
    return tuple(
        Row(
            split=str(history.attrs["select"]),
            quantity=name_of(history, "value"),
            measure=str(one["step"].item()),
            value=float(one["value"]),
            stderr=np.nan,
            at=_outcome(one),
            note=str(one["reason"].item()),
        )
        for one in steps
    )


def _outcome(step: xr.Dataset) -> str:
    """Whether a step was taken, and what it changed."""
    said = "taken" if bool(step["accepted"]) else "left out"
    change = float(step["difference"])
    if not np.isfinite(change):
        return said
    return f"{said}; change {with_error(change, float(step['stderr']))}"
