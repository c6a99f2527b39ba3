"""Alignment compared: the lines between points as they are, aligned, and aligned and repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from ravine.alignment.align import Aligned, Method, align
from ravine.errors import InputError
from ravine.measuring.evaluation import evaluate
from ravine.measuring.several import bundled
from ravine.objective.objective import Objective
from ravine.points.families import pairs
from ravine.points.slices import Line


def compare_alignment(
    objective: Objective,
    points: Mapping[str, Any] | Sequence[Any],
    at: Any = None,
    *,
    method: Method = "weights",
    seed: int = 0,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
) -> xr.Dataset:
    """The line between every two points: as they are, the second aligned, and repaired too.

    All are measured on the same examples, so that differences between them are paired.

    Args:
        objective: what is measured; its model and first batch show the structure and
            prove the alignment.
        points: two or more, as in ``pairs``.
        at: positions, as in ``evaluate``; by default 25 from 0 to 1.
        method: as in ``align``.
        seed: as in ``align``.
        title: what to call the result.
        command: what reproduces it, kept in the result.
        progress: as in ``evaluate``.

    Returns:
        A result of several lines: "a – b", "a – b, aligned" and "a – b, aligned and repaired"
        (under ``Objective.repaired``; left out where the objective recomputes running statistics
        anyway). The attribute ``alignment`` says what was permuted and what could not be followed.

    Raises:
        InputError: as ``align`` and ``evaluate``; or two points are one network with
            its units permuted.
    """
    where = np.linspace(0, 1, 25) if at is None else at
    repaired = objective.repaired()
    is_repaired = (repaired.buffers, repaired.correction) != (
        objective.buffers,
        objective.correction,
    )
    curves: dict[str, xr.Dataset] = {}
    said: list[str] = []

    def measure(name: str, asked: Objective, line: Line) -> None:
        about = {"title": title, "command": command, "progress": progress}
        curves[name] = evaluate(asked, along=line, at=where, **about)

    for name, line in pairs(points).items():
        moved = align(line.end, to=line.start, objective=objective, method=method, seed=seed)
        if moved.after == 0:
            msg = (
                f"{name}: aligned, the two are one network to the last bit (each is the other with "
                "its units permuted), so there is no line between them to measure; leave one of "
                "them out"
            )
            raise InputError(msg)
        said.append(f"{name}: {described(moved)}")
        aligned = replace(moved, label=f"{line.end.label}, aligned")
        measure(name, objective, line)
        measure(f"{name}, aligned", objective, Line(line.start, aligned))
        if is_repaired:
            start = replace(line.start, label=f"{line.start.label}, repaired")
            end = replace(aligned, label=f"{aligned.label} and repaired")
            measure(f"{name}, aligned and repaired", repaired, Line(start, end))
    return bundled(curves).assign_attrs(alignment=" ".join(said))


def described(moved: Aligned) -> str:
    """What was done, in a sentence or two."""
    kept = ""
    if moved.kept:
        listed = "; ".join(f"{name} ({why})" for name, why in list(moved.kept.items())[:3])
        more = f"; and {len(moved.kept) - 3} more" if len(moved.kept) > 3 else ""
        kept = f" Left in place: {listed}{more}."
    return (
        f"{moved.permuted} sets of units matched by {moved.method}; distance {moved.before:.4g} "
        f"before, {moved.after:.4g} after; outputs on the batch agree to {moved.error:.2g} "
        f"(rounding: up to {moved.rounding:.2g}).{kept}"
    )
