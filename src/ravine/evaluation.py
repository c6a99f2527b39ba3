"""Evaluate: an objective measured along a slice, as a labelled result."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from ravine.axes import read_axes
from ravine.errors import InputError
from ravine.interpolation import spread_floor
from ravine.objective import Measured, Objective
from ravine.results import SCHEMA_VERSION
from ravine.slices import Slice

_LONG_NAMES: Final = {"loss": "loss", "error": "error rate"}
_SYMBOLS: Final = {"alpha": "α", "beta": "β"}


def evaluate(
    objective: Objective,
    *,
    along: Slice,
    at: Any,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
) -> xr.Dataset:
    """Measure J at every given point of a line or a plane.

    Each split is read once for all points. Every point is computed fresh from the slice's corners, and a corner
    is the checkpoint itself, bit for bit. The caller's model and random generators are left as they were.

    Args:
        objective: what to measure.
        along: where, a ``Line`` or a ``Plane``.
        at: positions on each axis, dimensionless, finite, each once, in any order; inside or outside [0, 1]. For a
            line values of α; for a plane ``{"alpha": …, "beta": …}``, all of whose combinations are measured.
        title: what to call the result in figures and reports.
        command: what reproduces it, kept in the result.
        progress: show a bar after the first second. By default only on a terminal.

    Returns:
        A Dataset with the dims of the slice and ``split``; ``ravine.results`` describes it. The positions stand in
        the order in which they were given.

    Raises:
        InputError: the positions are no numbers or do not name the slice's axes, the corners do not fit the model or
            are one point, or the data cannot be measured.

    Example:
        >>> from torch.nn import functional as F
        >>> from ravine import Line, Objective, supervised
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = Objective(model, supervised(F.mse_loss), (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> line = Line({"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[3.0]])})
        >>> evaluate(J, along=line, at=[0, 0.5, 1])["loss"].sel(split="data").values  # (1 + 2 alpha)^2
        array([1., 4., 9.])

    References:
        Goodfellow and Vinyals 2014, section 2 and figure 7.
    """
    axes = read_axes(at, along.dims)
    places = np.stack(np.meshgrid(*axes.values(), indexing="ij"), -1).reshape(-1, len(axes))
    return on_axes(measured_at(objective, along, places, title=title, command=command, progress=progress), axes)


def measured_at(
    objective: Objective,
    along: Slice,
    places: np.ndarray,
    *,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
    probing: bool = True,
) -> xr.Dataset:
    """Measure points that need be on no grid.

    Args:
        objective: what to measure.
        along: the slice.
        places: (points, dims of the slice) their coordinates.
        title: as in ``evaluate``.
        command: as in ``evaluate``.
        progress: as in ``evaluate``.
        probing: whether to estimate noise floors; they are NaN otherwise.

    Returns:
        As ``evaluate``, but with the one dim ``point`` for those of the slice, whose names are coordinates on it.
    """
    began = time.perf_counter()
    coefficients = [along.coefficients(*map(float, place)) for place in places]
    passes = [*objective.splits, *(objective.splits[:1] if objective.buffers == "recompute" else [])]
    expected = sum(map(len, passes)) * len(places) if all(map(len, passes)) else None
    hidden = None if progress is None else not progress  # tqdm's None: hidden where there is no terminal
    bar = tqdm(total=expected, desc=title or "evaluate", unit=" examples", delay=1, disable=hidden, unit_scale=True)
    with bar:
        measured = objective.measure(
            along.corners,
            coefficients,
            _ticker(bar.update),
            labels=[", ".join(f"{dim} = {x:g}" for dim, x in zip(along.dims, place, strict=True)) for place in places],
            probes=_probes(places) if probing else (),
        )
    seconds = time.perf_counter() - began
    return _labelled(objective, along, places, np.array(coefficients), measured, title, command, seconds)


def on_axes(points: xr.Dataset, axes: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The points of ``measured_at``, which must be all combinations of the axes' positions in order, as a grid.

    Example:
        >>> points = xr.Dataset({"loss": ("point", np.arange(6.0))})
        >>> on_axes(points, {"alpha": np.array([0.0, 1.0]), "beta": np.array([0.0, 1.0, 2.0])})["loss"].values
        array([[0., 1., 2.],
               [3., 4., 5.]])
    """
    shape = tuple(map(len, axes.values()))

    def folded(variable: xr.Variable) -> xr.Variable:
        if "point" not in variable.dims:
            return variable
        return xr.Variable(
            (*axes, *variable.dims[1:]), variable.values.reshape(*shape, *variable.shape[1:]), variable.attrs
        )

    coords = {name: folded(points[name].variable) for name in points.coords if name not in axes}
    own = {
        dim: xr.Variable(dim, axis, points[dim].attrs if dim in points.coords else None) for dim, axis in axes.items()
    }
    variables = {name: folded(points[name].variable) for name in points.data_vars}
    return xr.Dataset(variables, coords={**own, **coords}, attrs=points.attrs)


def _probes(places: np.ndarray) -> list[int]:
    """Numbers of a few points spread evenly over the slice: five of a line, 3 × 3 of a plane, the rim among them."""
    count = 5 if places.shape[1] == 1 else 3
    ladders = [
        [axis[round(i * (len(axis) - 1) / (count - 1))] for i in range(count)] for axis in map(np.unique, places.T)
    ]
    wanted = np.stack(np.meshgrid(*ladders), -1).reshape(-1, places.shape[1])
    return sorted({int(np.argmin(((places - place) ** 2).sum(1))) for place in wanted})


def _ticker(update: Callable[[int], object]) -> Callable[[int], None]:
    return lambda done: None if update(done) else None


def _labelled(
    objective: Objective,
    along: Slice,
    places: np.ndarray,
    coefficients: np.ndarray,
    measured: Measured,
    title: str | None,
    command: str,
    seconds: float,
) -> xr.Dataset:
    splits = list(measured.moments)
    by_split = list(measured.moments.values())
    variables: dict[str, Any] = {}
    names = list(by_split[0])
    if any(list(found) != names for found in by_split):
        msg = (
            f"per_example gives other quantities on other splits: { {s: list(m) for s, m in measured.moments.items()} }"
        )
        raise InputError(msg)
    for name in names:
        of = [moments[name] for moments in by_split]
        about = {
            "long_name": _LONG_NAMES.get(name, name),
            "units": objective.units.get(name, ""),
            "counted": int(all(m.counted for m in of)),  # only whole numbers: a step function of the place
        }
        variables[name] = (("point", "split"), np.stack([m.mean for m in of], 1), about)
        variables[f"{name}_stderr"] = (("point", "split"), np.stack([m.stderr for m in of], 1))
        replicates = np.stack([m.replicates for m in of], 1)
        variables[f"{name}_replicates"] = (("point", "split", "replicate"), replicates)
        probed = [measured.floors[split].get(name, {}) for split in splits]
        floors = [spread_floor(places, places[list(found)], np.array(list(found.values()))) for found in probed]
        if about["counted"]:  # a curve of counts moves by whole examples
            floors = [np.fmax(floor, 1 / m.count) for floor, m in zip(floors, of, strict=True)]
        variables[f"{name}_noise_floor"] = (("point", "split"), np.stack(floors, 1))
    variables["n_examples"] = (("split",), np.array([m["loss"].count for m in by_split]))
    moved = coefficients[:, 1:]
    distance = np.sqrt(np.einsum("pi,ij,pj->p", moved, measured.gram, moved).clip(0))
    axes = {
        dim: ("point", places[:, i], {"long_name": _SYMBOLS[dim], "units": "1"}) for i, dim in enumerate(along.dims)
    }
    return xr.Dataset(
        variables,
        coords={
            **axes,
            "distance": ("point", distance, {"long_name": f"distance from the {along.roles[0]}", "units": ""}),
            "split": ("split", np.array(splits, dtype=np.str_)),
        },
        attrs={
            "schema_version": SCHEMA_VERSION,
            "title": title or "",
            **objective.describe(),
            "dtype": measured.dtype,
            **{role: corner.label for role, corner in zip(along.roles, along.corners, strict=True)},
            **{f"{role}_hash": found for role, found in zip(along.roles, measured.hashes, strict=True)},
            **along.geometry(measured.gram),
            "data_hash": json.dumps(measured.fingerprints),
            "sampling": "grid",
            "command": command,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(seconds, 3),
            "versions": json.dumps(_versions()),
        },
    )


def _versions() -> Mapping[str, str]:
    return {
        "ravine": version("ravine"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
