"""Storage: results in netCDF-4 files, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.result.schema import kind_of, quantities, validate


def save_result(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a result as netCDF-4, whole or not at all.

    Args:
        result: what ``evaluate``, ``resolve`` or ``project`` returned.
        path: the file to write, by custom ``*.nc``. Its folder is made if need be; a file that is
            there is replaced only once the new one is complete.

    Returns:
        The path written.

    Raises:
        InputError: not a ravine result, or the file cannot be written.
    """
    validate(result)
    target = Path(path)
    packed = {
        str(name): {"zlib": True, "complevel": 4}
        for name in result.data_vars
        if result[name].size > 1000
    }
    with written_whole(target) as partial:
        result.to_netcdf(partial, engine="h5netcdf", encoding=packed)
    return target


def open_result(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a result back into memory; needs no torch.

    Raises:
        InputError: there is no such file, or it is not a ravine result.
    """
    source = Path(path)
    if not source.is_file():
        msg = (
            f"there is no result file {str(source)!r}; expected one written by save_result or "
            "`ravine line`"
        )
        raise InputError(msg)
    try:
        with xr.open_dataset(source, engine="h5netcdf") as opened:
            result = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        msg = (
            f"{str(source)!r} cannot be read as netCDF-4 ({problem}); expected a file written by "
            "save_result"
        )
        raise InputError(msg) from problem
    for name in result.coords:
        if result[name].dtype.kind == "O":  # netCDF strings come back as objects
            result[name] = result[name].astype(np.str_)
    validate(result)
    lacking = [
        f"{name}_{part}"
        for name in quantities(result)
        for part in ("stderr", "replicates", "noise_floor")
        if f"{name}_{part}" not in result.data_vars
    ]
    if lacking or ("n_examples" not in result.data_vars and kind_of(result) != "path"):
        msg = (
            f"this result lacks {', '.join(lacking) or 'n_examples'}, which its schema has; was it "
            "edited?"
        )
        raise InputError(msg)
    return result
