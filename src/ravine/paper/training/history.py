"""History: what was monitored while training, from rows to labelled arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

import ravine
from ravine.paper.training.files import whole
from ravine.result.storage import read_netcdf

#: What was noted at one moment: phase, epoch, step, … and split_quantity.
Row = dict[str, float]


#: What every history has along ``record``, and what is said of it as a whole.
_ALONG: Final = ("phase", "epoch", "step", "seconds")
_OLD: Final = b"CDF"  # netCDF-3 begins so


def write(path: Path, history: xr.Dataset) -> None:
    """Write a history, whole or not at all.

    Args:
        path: of the file.
        history: as ``as_dataset`` makes it.

    Raises:
        ravine.InputError: it cannot be written.
    """
    content = history.to_netcdf(None, engine="h5netcdf")  # a full disk would end the process there
    with whole(path) as partial:
        partial.write_bytes(content)


def read(path: Path) -> xr.Dataset:
    """Read a history back.

    Args:
        path: of the file, netCDF-4 or netCDF-3.

    Returns:
        It, in memory.

    Raises:
        ravine.InputError: the file is damaged, or holds no history.
    """
    try:
        with path.open("rb") as file:
            is_old = file.read(3) == _OLD
        history = _read_old(path) if is_old else read_netcdf(path)
    except ravine.InputError:
        raise
    except Exception as problem:  # damaged bytes: the library raises whatever they make it raise
        msg = (
            f"{str(path)!r} is damaged ({type(problem).__name__}: {problem}). Copy it again, or "
            "train anew."
        )
        raise ravine.InputError(msg) from problem
    shapes = {name: history[name].dims for name in _ALONG if name in history.variables}
    numbers = all(history[name].dtype.kind in "iuf" for name in shapes)
    best = history.attrs.get("best_step")
    is_whole = shapes == dict.fromkeys(_ALONG, ("record",)) and history.sizes["record"] > 0
    if not is_whole or not numbers or not isinstance(best, int | np.integer):
        msg = (
            f"{str(path)!r} is no history of a training: expected {', '.join(_ALONG)} along "
            "'record', and best_step"
        )
        raise ravine.InputError(msg)
    return history


def _read_old(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="scipy") as opened:
        return opened.load()


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
    per_split = {}
    for name in watched:
        both = columns.pop(f"train_{name}"), columns.pop(f"valid_{name}")
        per_split[name] = ("record", "split"), np.array(both).T
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
