"""Results small enough for a repository: what the page is made from, without trainings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr

import ravine
from ravine.paper import training
from ravine.paper.figures import FIGURES, NotThere, Study
from ravine.paper.training.files import whole

#: Where ``Study`` keeps measurements under its output root.
MEASUREMENTS: Final = "measurements"


#: Measurements that are drawn or searched, and that no bound is read from.
WITHOUT_BOUNDS: Final = (
    "fig1-coarse",
    "fig1-masks",
    "fig1-fresh-masks",
    "fig6-coarse",
    "fig6-biases",
    "fig7-coarse",
    "fig7-draws",
    "fig7-undoubled",
    "fig7-start",
    "fig7-end",
)

#: Of a result that bounds are read from: what else is measured along a line is searched elsewhere.
QUANTITIES: Final = ("loss", "error")


def commit(studies: Iterable[Study], folder: Path) -> list[Path]:
    """Copy what figures of trainings were made from, made small, into another output root.

    From there ``ravine paper check`` makes their page without any training: measurements, histories
    and recipes are there, parameters are not. What takes no training is made again in seconds.

    Args:
        studies: in each of which figures are looked for; nothing is made afresh.
        folder: the other root; measurements there that no figure takes any more are removed.

    Returns:
        What was written.

    Raises:
        ravine.InputError: it cannot be written.
    """
    written: list[Path] = []
    for study in studies:
        for make in FIGURES.values():
            looked = replace(study, fresh=False, runs={}, measured=[])
            try:
                outcome = make(looked)
            except NotThere:
                continue
            if outcome.runs:
                written += _copied_all(looked, folder)
    for path in (folder / MEASUREMENTS).glob("*.nc"):
        if path not in written:
            path.unlink()
    return list(dict.fromkeys(written))


def _copied_all(study: Study, folder: Path) -> list[Path]:
    """What a study was asked for by a figure."""
    written: list[Path] = []
    for path in study.measured:
        bounds = not path.name.startswith(WITHOUT_BOUNDS)
        result = small(ravine.open_result(path), bounds=bounds)
        written.append(ravine.save_result(result, folder / MEASUREMENTS / path.name))
    for run in study.runs.values():
        written += _copied_run(run, folder / run.recipe.folder)
    return written


def small(result: xr.Dataset, *, bounds: bool = True) -> xr.Dataset:
    """A result in a fraction of the space: replicates of a line's loss alone, single precision.

    Others are set to NaN, an error that is not known; standard errors stay. Where bounds are to be
    read, quantities other than the loss and the error rate are left out.

    Args:
        result: of any kind.
        bounds: whether any are to be read from it; else no replicates are kept.

    Returns:
        A copy.
    """
    if bounds:
        result = result.drop_vars(
            [name for name in result.data_vars if _is_other(str(name), result)]
        )
    names = [str(name) for name in result.data_vars if str(name).endswith("_replicates")]
    kept = {"loss_replicates"} if bounds and "beta" not in result.dims else set[str]()
    changed = {}
    for name in names:
        values = result[name].astype(np.float32)
        changed[name] = values if name in kept else xr.full_like(values, np.nan)
    return result.assign(changed)


def _is_other(name: str, result: xr.Dataset) -> bool:
    """Whether a variable belongs to a quantity that is left out."""
    others = {
        str(one).removesuffix("_stderr") for one in result.data_vars if str(one).endswith("_stderr")
    }
    return any(name == one or name.startswith(f"{one}_") for one in others - set(QUANTITIES))


def _copied_run(run: training.Run, target: Path) -> list[Path]:
    """A training's recipe and its history, as netCDF-3: an eighth of the space for so little."""
    note, history = target / "recipe.json", target / "history.nc"
    with whole(note) as partial:
        partial.write_text(
            (run.folder / "recipe.json").read_text(encoding="utf-8"), encoding="utf-8"
        )
    found = run.history
    with whole(history) as partial:
        found.to_netcdf(partial, engine="scipy")
    return [note, history]
