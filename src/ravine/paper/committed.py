"""Results small enough to stand in a repository: what the page is made from, without the trainings themselves."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

import ravine
from ravine.paper.figures import Study

#: Where ``Study`` keeps measurements under its output root.
MEASUREMENTS = "measurements"


def commit(studies: Iterable[Study], folder: Path) -> list[Path]:
    """Copy what figures were made from, made small, into another output root.

    From there ``ravine paper check`` makes the same page without any training: measurements,
    histories and recipes are there, parameters are not.

    Args:
        studies: that have been asked for their figures.
        folder: the other root; measurements there that no figure takes any more are removed.

    Returns:
        What was written.

    Raises:
        ravine.InputError: it cannot be written.
    """
    written: list[Path] = []
    for study in studies:
        for path in dict.fromkeys(study.measured):
            target = folder / MEASUREMENTS / path.name
            written.append(ravine.save_result(small(ravine.open_result(path)), target))
        for run in study.runs.values():
            written += [
                _copied(run.folder / name, folder / run.recipe.folder / name) for name in _KEPT
            ]
    for path in (folder / MEASUREMENTS).glob("*.nc"):
        if path not in written:
            path.unlink()
    return written


_KEPT = ("history.nc", "recipe.json")


def small(result: xr.Dataset) -> xr.Dataset:
    """A result in a tenth of the space, with the replicates of a line's loss alone, in single precision.

    The others are set to NaN: an error that is not known. Standard errors stay.

    Args:
        result: of any kind.

    Returns:
        A copy.
    """
    names = [str(name) for name in result.data_vars if str(name).endswith("_replicates")]
    kept = {} if "beta" in result.dims else {"loss_replicates"}
    changed = {}
    for name in names:
        values = result[name].astype(np.float32)
        changed[name] = values if name in kept else xr.full_like(values, np.nan)
    return result.assign(changed)


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
    return target
