"""Labelling: what was measured, as a Dataset of the schema."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

from ravine.errors import InputError
from ravine.objective.measurement import Measured
from ravine.objective.moments import Moments
from ravine.objective.objective import Objective
from ravine.objective.precision import of_products
from ravine.points.slices import Slice, bends, roles_of
from ravine.result.interpolant import spread_floor
from ravine.result.schema import LONG_NAMES, SCHEMA_VERSION

_SYMBOLS: Final = {"alpha": "α", "beta": "β"}


def labelled(
    objective: Objective,
    along: Slice,
    places: np.ndarray,
    coefficients: np.ndarray,
    measured: Measured,
    about: Mapping[str, Any],
) -> xr.Dataset:
    """Measured points of a slice as a result.

    Args:
        objective: what was measured.
        along: the slice.
        places: (points, dims of the slice) their coordinates.
        coefficients: (points, corners) of each point.
        measured: what came of it.
        about: further attributes: title, command, seconds.

    Returns:
        A result with the one dim ``point`` for those of the slice, whose names are
        coordinates on it.

    Raises:
        InputError: the caller's function gives other quantities on other splits.
    """
    variables = quantity_variables(measured.moments, measured.units, objective.units, "point")
    for name in next(iter(measured.moments.values())):
        floors = [
            _floor(places, found[name], measured.floors[split].get(name, {}))
            for split, found in measured.moments.items()
        ]
        variables[f"{name}_noise_floor"] = (("point", "split"), np.stack(floors, 1))
    axes = {
        dim: ("point", column, {"long_name": _SYMBOLS.get(dim, dim), "units": "1"})
        for dim, column in zip(along.dims, places.T, strict=True)
    }
    moved = coefficients[:, 1:]
    square = np.einsum("pi,ij,pj->p", moved, measured.gram, moved)
    from_first = {"long_name": f"distance from the {roles_of(along)[0]}", "units": ""}
    distance = ("point", np.sqrt(square.clip(0)), from_first)
    return xr.Dataset(
        variables,
        coords={**axes, "distance": distance, "split": split_names(list(measured.moments))},
        attrs={
            "schema_version": SCHEMA_VERSION,
            "title": about["title"] or "",
            **objective.describe(),
            "batch_size": next(iter(measured.batches.values())),
            **({"statistics_from": measured.statistics_from} if measured.statistics_from else {}),
            "dtype": measured.dtype,
            **corner_attrs(along, measured.hashes),
            **along.geometry(measured.gram),
            "curved": int(bends(along)),
            "data_hash": json.dumps({s: str(f) for s, f in measured.fingerprints.items()}),
            "sampling": "grid",
            **provenance(about["command"], about["seconds"]),
        },
    )


def quantity_variables(
    moments: Mapping[str, Mapping[str, Moments]],
    units_drawn: Mapping[str, int],
    units: Mapping[str, str],
    dim: str,
) -> dict[str, Any]:
    """The variables of every quantity, but for the noise floor, and the number of examples.

    Args:
        moments: split → quantity → its sums at every point.
        units_drawn: split → how many independent draws it has.
        units: quantity → its unit, where that is known.
        dim: what the points stand on.

    Returns:
        Name → dims, values and attributes.

    Raises:
        InputError: the caller's function gives other quantities on other splits.
    """
    by_split = list(moments.values())
    names = list(by_split[0])
    if any(list(found) != names for found in by_split):
        given = {split: list(found) for split, found in moments.items()}
        msg = f"per_example gives other quantities on other splits: {given}"
        raise InputError(msg)
    variables: dict[str, Any] = {}
    for name in names:
        of = [found[name] for found in by_split]
        about = {
            "long_name": LONG_NAMES.get(name, name),
            "units": units.get(name, ""),
            # only whole numbers: a step function of the place
            "counted": int(all(found.counted for found in of)),
            "share": int(all(found.is_share for found in of)),  # only 0 and 1
        }
        dims = (dim, "split")
        variables[name] = (dims, np.stack([found.mean for found in of], 1), about)
        variables[f"{name}_stderr"] = (dims, np.stack([found.stderr for found in of], 1))
        replicates = np.stack([found.replicates for found in of], 1)
        variables[f"{name}_replicates"] = ((*dims, "replicate"), replicates)
    counts = np.array([found["loss"].count for found in by_split])
    return variables | {
        "n_examples": ("split", counts),
        "n_units": ("split", np.array([units_drawn[split] for split in moments])),
    }


def split_names(names: Sequence[str]) -> tuple[str, np.ndarray]:
    """The coordinate ``split``."""
    return "split", np.array(names, dtype=np.str_)


def corner_attrs(along: Slice, hashes: Sequence[str]) -> dict[str, str]:
    """Which checkpoints a slice runs between: the label and the hash of each, under its role."""
    roles = roles_of(along)
    labels = dict(zip(roles, (corner.label for corner in along.corners), strict=True))
    named = {f"{role}_hash": found for role, found in zip(roles, hashes, strict=True)}
    return {"corners": ", ".join(roles), **labels, **named}


def provenance(command: str, seconds: float) -> dict[str, str | float]:
    """When a result was made, how, and by what."""
    versions = {
        "ravine": version("ravine"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "float32 matrix products": of_products(),
    }
    return {
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(seconds, 3),
        "versions": json.dumps(versions),
    }


def on_axes(points: xr.Dataset, axes: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The points of ``measured_at`` as a grid: all combinations of the axes' positions, in order.

    Examples:
        >>> points = xr.Dataset({"loss": ("point", np.arange(6.0))})
        >>> axes = {"alpha": np.array([0.0, 1.0]), "beta": np.array([0.0, 1.0, 2.0])}
        >>> on_axes(points, axes)["loss"].values
        array([[0., 1., 2.],
               [3., 4., 5.]])
    """
    shape = tuple(map(len, axes.values()))

    def folded(variable: xr.Variable) -> xr.Variable:
        if "point" not in variable.dims:
            return variable
        return xr.Variable(
            (*axes, *variable.dims[1:]),
            variable.values.reshape(*shape, *variable.shape[1:]),
            variable.attrs,
        )

    coords = {name: folded(points[name].variable) for name in points.coords if name not in axes}
    own = {
        dim: xr.Variable(dim, axis, points[dim].attrs if dim in points.coords else None)
        for dim, axis in axes.items()
    }
    variables = {name: folded(points[name].variable) for name in points.data_vars}
    return xr.Dataset(variables, coords={**own, **coords}, attrs=points.attrs)


def _floor(places: np.ndarray, moments: Moments, probed: Mapping[int, float]) -> np.ndarray:
    """The noise floor of one quantity at every point, from the points where it was looked at."""
    floor = spread_floor(places, places[list(probed)], np.array(list(probed.values())))
    if not moments.counted:
        return floor
    return np.fmax(floor, 1 / moments.count)  # a curve of counts moves by whole examples
