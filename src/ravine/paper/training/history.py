"""History: what was monitored while training, from rows to labelled arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

#: What was noted at one moment: phase, epoch, step, … and split_quantity.
Row = dict[str, float]


def solution_among(rows: Sequence[Row], patience: int | None, criterion: str) -> Row:
    """What was noted where the solution is, as far as phase 1 has come.

    Args:
        rows: of any phases.
        patience: of phase 1; without it the last epoch is the solution, else the best.
        criterion: the quantity of the validation examples that tells the best; less is better.

    Returns:
        The row.
    """
    first = [row for row in rows if row["phase"] == 1]
    if patience is None:
        return first[-1]
    return min(first, key=lambda row: _or_infinite(row[f"valid_{criterion}"]))


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def as_dataset(rows: Sequence[Row], attrs: Mapping[str, Any]) -> xr.Dataset:
    """Rows as ``Run.history`` describes them.

    Args:
        rows: in order; what a row lacks was not watched then, and is NaN.
        attrs: of the dataset.

    Returns:
        dims ("record", "split").
    """
    columns = {name: [row.get(name, math.nan) for row in rows] for name in rows[0]}
    watched = [name.removeprefix("train_") for name in columns if name.startswith("train_")]
    per_split = {
        name: (
            ("record", "split"),
            np.array([columns.pop(f"train_{name}"), columns.pop(f"valid_{name}")]).T,
        )
        for name in watched
    }
    along = {name: ("record", column) for name, column in columns.items()}
    return xr.Dataset(per_split, {"split": ["train", "valid"], **along}, dict(attrs))


def as_line(last: Row, best: Row, criterion: str) -> str:
    """An epoch in a line for who waits.

    Args:
        last: what was noted of it.
        best: what was noted where the solution is.
        criterion: as in ``solution_among``.

    Returns:
        Words and numbers.
    """
    train = f"{last['train_objective']:.5f} train, " if "train_objective" in last else ""
    return (
        f"phase {last['phase']} epoch {last['epoch']}: objective {train}"
        f"{last['valid_objective']:.5f} valid; valid {criterion} "
        f"{last[f'valid_{criterion}']:.5g} "
        f"(solution so far {best[f'valid_{criterion}']:.5g}, epoch {best['epoch']}); "
        f"{last['seconds']:.1f} s"
    )
