"""Storage: results in netCDF-4 files, written whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.result.form import problem_of
from ravine.result.schema import kind_of, quantities, validate
from ravine.result.trial import trust, wrong_with

#: Deflate makes at most so many bytes of one; a few are read whatever the file's size.
_MOST_DENSE: Final = 1100
_ALWAYS_READ: Final = 16 << 20
#: Names that say what a file holds, and it is no netCDF.
_OF_OTHERS: Final = frozenset(
    (
        *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".feather", ".xlsx", ".pkl"),
        *(".npy", ".npz", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".zarr"),
        *(".png", ".pdf", ".svg", ".html", ".md"),
    )
)


def save_result(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a result as netCDF-4, whole or not at all.

    Args:
        result: what ``evaluate``, ``resolve`` or ``project`` returned, or a soup's history.
        path: the file to write, by custom ``*.nc``. Its folder is made if need be; a file that is
            there is replaced only once the new one is complete.

    Returns:
        The path written.

    Raises:
        InputError: not a ravine result, or the file cannot be written, or its name says that it
            holds something else.
    """
    validate(result, history=True)
    target = Path(path)
    if target.suffix.lower() in _OF_OTHERS:
        msg = (
            f"a result is written as netCDF-4, and {target.name!r} is the name of something else: "
            "expected *.nc. For a table take ravine.to_dataframe(result)."
        )
        raise InputError(msg)
    content = _encoded(result)  # a disk that fills while the library writes a file ends the process
    with written_whole(target) as partial:
        partial.write_bytes(content)
    trust(target)
    return target


def holding(files: Sequence[Path], results: Sequence[xr.Dataset]) -> list[Path | None]:
    """For each result the first file that holds just it, as it is after it was saved and read.

    Every file is opened once, and every result saved once.
    """
    saved = [_decoded(io.BytesIO(_encoded(result))) for result in results] if files else []
    found: list[Path | None] = [None] * len(results)
    for path in files:
        try:
            kept = open_result(path)
        except InputError:  # whatever it is, it is no result
            continue
        for number, result in enumerate(saved):
            if found[number] is None and kept.identical(result):
                found[number] = path
    return found


def _encoded(result: xr.Dataset) -> memoryview:
    """A result as the bytes of a netCDF-4 file."""
    packed = {
        str(name): {"zlib": True, "complevel": 4}
        for name in result.data_vars
        if result[name].size > 1000
    }
    return _readable(result).to_netcdf(None, engine="h5netcdf", encoding=packed)


def _decoded(source: Path | io.BytesIO) -> xr.Dataset:
    with xr.open_dataset(source, engine="h5netcdf") as opened:
        result = opened.load()
    for name in result.coords:
        if result[name].dtype.kind == "O":  # netCDF strings come back as objects
            result[name] = result[name].astype(np.str_)
    return result


def _readable(result: xr.Dataset) -> xr.Dataset:
    """The result with attributes that UTF-8 can hold; a title from a file name may not be."""
    texts = {name: text for name, text in result.attrs.items() if isinstance(text, str)}
    mended = {name: text.encode("utf-8", "replace").decode("utf-8") for name, text in texts.items()}
    return result.assign_attrs(mended)


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
    result = validate(read_netcdf(source), history=True)
    lacking = [
        f"{name}_{part}"
        for name in quantities(result)
        for part in ("stderr", "replicates", "noise_floor")
        if f"{name}_{part}" not in result.data_vars
    ]
    counted = "n_examples" in result.data_vars or kind_of(result) in ("path", "soup")
    if lacking or not counted:
        msg = (
            f"this result lacks {', '.join(lacking) or 'n_examples'}, which its schema has; was it "
            "edited?"
        )
        raise InputError(msg)
    if wrong := problem_of(result):
        msg = f"{str(source)!r} is no result as ravine writes it: {wrong}. Was it edited?"
        raise InputError(msg)
    return result


def read_netcdf(source: Path) -> xr.Dataset:
    """What is in a file of netCDF-4, of which any byte may be wrong.

    Raises:
        InputError: it is damaged, takes numbers from elsewhere, or claims more than it can hold.
    """
    try:
        if wrong := wrong_with(source):
            raise OSError(wrong)
        _require_harmless(source)
        return _decoded(source)
    except InputError:
        raise
    except (
        Exception
    ) as problem:  # a stranger's bytes: the library raises whatever they make it raise
        said = (str(problem).splitlines() or [type(problem).__name__])[0]
        msg = (
            f"{str(source)!r} cannot be read as netCDF-4 ({said}); expected a file written by "
            "save_result"
        )
        raise InputError(msg) from problem


def _require_harmless(source: Path) -> None:
    """A file whose numbers are all in itself, and no more of them than it can hold."""
    with h5py.File(source, "r") as opened:
        for name, place in _outside(opened).items():
            msg = (
                f"{str(source)!r} takes {name!r} from {place}; a result holds all of its numbers "
                "itself, so this file is not read"
            )
            raise InputError(msg)
        declared = sum(part.nbytes for part in _datasets(opened))
    most = _MOST_DENSE * source.stat().st_size + _ALWAYS_READ
    if declared > most:
        msg = (
            f"{str(source)!r} says that it holds {declared:.3g} bytes, more than a file of its "
            "size can; it is damaged"
        )
        raise InputError(msg)


def _datasets(opened: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    opened.visititems(
        lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None
    )
    return found


def _outside(opened: h5py.File) -> dict[str, str]:
    """Name → the other place, of what a file would read elsewhere."""
    found: dict[str, str] = {}

    def look(name: str, link: object) -> None:
        if isinstance(link, h5py.ExternalLink):
            found[name] = repr(link.filename)

    opened.visititems_links(look)
    for part in _datasets(opened):
        if part.is_virtual:
            found[str(part.name)] = "other files"
        elif part.external:
            found[str(part.name)] = repr(part.external[0][0])
    return found
