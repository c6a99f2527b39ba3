"""Evaluate: an objective measured along a slice, as a labelled result."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from ravine.errors import InputError
from ravine.objective.objective import Measured, Objective
from ravine.points.slices import Line, Slice
from ravine.result.axes import read_axes
from ravine.result.interpolant import spread_floor
from ravine.result.schema import CORNERS, PROVENANCE, SCHEMA_VERSION, quantities

_LONG_NAMES: Final = {"loss": "loss", "error": "error rate"}
_SYMBOLS: Final = {"alpha": "α", "beta": "β"}


def evaluate(
    objective: Objective,
    *,
    along: Slice | Mapping[str, Line],
    at: Any,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
) -> xr.Dataset:
    """Measure J at every given point of a line, of a plane, or of several lines.

    Each split is read once for all points. Every point is computed fresh from the slice's corners,
    and a corner is the checkpoint itself, bit for bit. The caller's model and random generators are
    left as they were.

    Lines that share ends (``ravine.pairs`` of many checkpoints, ``ravine.by_group`` of one line)
    are measured together: each split is read once for all of them, and what they have in common is
    computed once.

    Args:
        objective: what to measure.
        along: where, a ``Line`` or a ``Plane``, or several lines by name.
        at: positions on each axis, dimensionless, finite, each once, in any order; inside or
            outside [0, 1]. For a line values of α; for a plane ``{"alpha": …, "beta": …}``, all of
            whose combinations are measured.
        title: what to call the result in figures and reports.
        command: what reproduces it, kept in the result.
        progress: show a bar after the first second. By default only on a terminal.

    Returns:
        A Dataset with the dims of the slice and ``split``; ``ravine.result.schema`` describes it. The
        positions stand in the order in which they were given. Of several lines it has the dim
        ``line`` too, their names; each ``result.sel(line=name)`` is the result of that line.

    Raises:
        InputError: the positions are no numbers or do not name the slice's axes, the corners do not
            fit the model or are one point, or the data cannot be measured.

    Examples:
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
    if isinstance(along, Mapping):
        return _of_lines(objective, along, at, title, command, progress)
    axes = read_axes(at, along.dims)
    places = np.stack(np.meshgrid(*axes.values(), indexing="ij"), -1).reshape(-1, len(axes))
    return on_axes(
        measured_at(objective, along, places, title=title, command=command, progress=progress), axes
    )


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
        As ``evaluate``, but with the one dim ``point`` for those of the slice, whose names are
        coordinates on it.
    """
    began = time.perf_counter()
    coefficients = [along.coefficients(*map(float, place)) for place in places]
    passes = [
        *objective.splits,
        *(objective.splits[:1] if objective.buffers == "recompute" else []),
    ]
    expected = sum(map(len, passes)) * len(places) if all(map(len, passes)) else None
    hidden = (
        None if progress is None else not progress
    )  # tqdm's None: hidden where there is no terminal
    bar = tqdm(
        total=expected,
        desc=title or "evaluate",
        unit=" examples",
        delay=1,
        disable=hidden,
        unit_scale=True,
    )
    with bar:
        measured = objective.measure(
            along.corners,
            coefficients,
            _ticker(bar.update),
            labels=[
                ", ".join(f"{dim} = {x:g}" for dim, x in zip(along.dims, place, strict=True))
                for place in places
            ],
            probes=_probes(places) if probing else (),
            joined=combinations(range(len(along.corners)), 2),
        )
    seconds = time.perf_counter() - began
    return _labelled(
        objective, along, places, np.array(coefficients), measured, title, command, seconds
    )


def _of_lines(
    objective: Objective,
    lines: Mapping[str, Line],
    at: Any,
    title: str | None,
    command: str,
    progress: bool | None,
) -> xr.Dataset:
    strange = [name for name, line in lines.items() if not isinstance(line, Line)]
    if strange or not lines:
        found = (
            f"{strange[0]!r} is a {type(lines[strange[0]]).__name__}"
            if strange
            else "there is none"
        )
        msg = f"several lines are given as a dict of names and Line objects; {found}"
        raise InputError(msg)
    axes = read_axes(at, Line.dims)
    passes = [
        *objective.splits,
        *(objective.splits[:1] if objective.buffers == "recompute" else []),
    ]
    examples = sum(map(len, passes)) if all(map(len, passes)) else None
    total = examples * len(lines) * len(axes["alpha"]) if examples else None
    hidden = None if progress is None else not progress
    curves: dict[str, xr.Dataset] = {}
    bar = tqdm(
        total=total,
        desc=title or "evaluate",
        unit=" examples",
        delay=1,
        disable=hidden,
        unit_scale=True,
    )
    with bar:
        for together in _sharing(lines, objective.buffers):
            curves |= _in_one_pass(objective, together, axes, title, command, _ticker(bar.update))
        bar.update((bar.total or bar.n) - bar.n)  # a point that lines share is measured once
    return bundled({name: curves[name] for name in lines})


def _sharing(lines: Mapping[str, Line], buffers: str | None) -> list[dict[str, Line]]:
    """Groups of lines that are best measured together: those with an end in common.

    Where all points have the running statistics of one end, that end has to be the same one.
    """
    groups: list[tuple[set[int], dict[str, Line]]] = []
    for name, line in lines.items():
        ends = {"start": {id(line.start)}, "end": {id(line.end)}}.get(
            buffers or "", set(map(id, line.corners))
        )
        touching = [group for group in groups if group[0] & ends]
        merged = (
            ends.union(*(group[0] for group in touching)),
            {k: v for g in touching for k, v in g[1].items()},
        )
        groups = [group for group in groups if group not in touching] + [
            (merged[0], {**merged[1], name: line})
        ]
    return [group for _, group in groups]


def _in_one_pass(
    objective: Objective,
    lines: Mapping[str, Line],
    axes: Mapping[str, np.ndarray],
    title: str | None,
    command: str,
    tick: Callable[[int], None],
) -> dict[str, xr.Dataset]:
    began = time.perf_counter()
    corners = list(
        {
            id(c): c for c in [*(x.start for x in lines.values()), *(x.end for x in lines.values())]
        }.values()
    )
    number = {id(corner): place for place, corner in enumerate(corners)}
    points: dict[tuple[float, ...], int] = {}  # each once, though lines meet at their ends
    labels: list[str] = []
    rows: dict[str, np.ndarray] = {}
    probes: set[int] = set()
    places = axes["alpha"][:, None]
    for name, line in lines.items():
        found = []
        for place in axes["alpha"]:
            mixed = [0.0] * len(corners)
            for corner, coefficient in zip(
                line.corners, line.coefficients(float(place)), strict=True
            ):
                mixed[number[id(corner)]] += coefficient
            found.append(points.setdefault(tuple(mixed), len(points)))
            labels += [f"{name}, alpha = {place:g}"] * (len(points) - len(labels))
        rows[name] = np.array(found)
        probes |= {found[probe] for probe in _probes(places)}
    joined = [(number[id(line.start)], number[id(line.end)]) for line in lines.values()]
    measured = objective.measure(
        corners, list(points), tick, labels=labels, probes=sorted(probes), joined=joined
    )
    seconds = (time.perf_counter() - began) / len(lines)
    alpha = axes["alpha"]
    coefficients = np.stack([1 - alpha, alpha], 1)
    return {
        name: on_axes(
            _labelled(
                objective,
                line,
                places,
                coefficients,
                measured.on_line(rows[name], *(number[id(corner)] for corner in line.corners)),
                title,
                command,
                seconds,
            ),
            axes,
        )
        for name, line in lines.items()
    }


def bundled(curves: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Results of lines at the same points as one, with the dim ``line``.

    What says where each comes from (``start``, ``end``, their hashes, ``length``) becomes a
    coordinate of that dim; the other attributes are the first one's, and ``wall_seconds`` is the
    sum.
    """
    own = [
        *CORNERS["line"],
        *(name for name in PROVENANCE if len({str(c.attrs[name]) for c in curves.values()}) > 1),
    ]
    kept = [name for name in own if name not in ("wall_seconds", "created")]
    together = xr.concat(
        [curve.drop_attrs(deep=False) for curve in curves.values()],
        dim=xr.Variable("line", np.array(list(curves), dtype=np.str_)),
        data_vars="all",
        coords="different",
        compat="equals",
        join="exact",
        combine_attrs="drop",
    )
    together = together.assign_coords(
        {
            name: ("line", np.array([curve.attrs[name] for curve in curves.values()]))
            for name in kept
        }
    )
    first = next(iter(curves.values()))
    together["n_examples"] = first["n_examples"]
    for name in quantities(first):
        together[name].attrs = dict(first[name].attrs)
    return together.assign_attrs(
        {name: value for name, value in first.attrs.items() if name not in kept}
        | {
            "wall_seconds": round(
                sum(float(curve.attrs["wall_seconds"]) for curve in curves.values()), 3
            )
        }
    )


def on_axes(points: xr.Dataset, axes: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The points of ``measured_at``, which must be all combinations of the axes' positions in order, as a grid.

    Examples:
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


def _probes(places: np.ndarray) -> list[int]:
    """Numbers of a few points spread evenly over the slice: five of a line, 3 × 3 of a plane, the rim among them."""
    count = 5 if places.shape[1] == 1 else 3
    ladders = [
        [axis[round(i * (len(axis) - 1) / (count - 1))] for i in range(count)]
        for axis in map(np.unique, places.T)
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
            "per_example gives other quantities on other splits: "
            f"{ {s: list(m) for s, m in measured.moments.items()} }"
        )
        raise InputError(msg)
    for name in names:
        of = [moments[name] for moments in by_split]
        about = {
            "long_name": _LONG_NAMES.get(name, name),
            "units": objective.units.get(name, ""),
            "counted": int(
                all(m.counted for m in of)
            ),  # only whole numbers: a step function of the place
        }
        variables[name] = (("point", "split"), np.stack([m.mean for m in of], 1), about)
        variables[f"{name}_stderr"] = (("point", "split"), np.stack([m.stderr for m in of], 1))
        replicates = np.stack([m.replicates for m in of], 1)
        variables[f"{name}_replicates"] = (("point", "split", "replicate"), replicates)
        probed = [measured.floors[split].get(name, {}) for split in splits]
        floors = [
            spread_floor(places, places[list(found)], np.array(list(found.values())))
            for found in probed
        ]
        if about["counted"]:  # a curve of counts moves by whole examples
            floors = [np.fmax(floor, 1 / m.count) for floor, m in zip(floors, of, strict=True)]
        variables[f"{name}_noise_floor"] = (("point", "split"), np.stack(floors, 1))
    variables["n_examples"] = (("split",), np.array([m["loss"].count for m in by_split]))
    moved = coefficients[:, 1:]
    distance = np.sqrt(np.einsum("pi,ij,pj->p", moved, measured.gram, moved).clip(0))
    axes = {
        dim: ("point", places[:, i], {"long_name": _SYMBOLS[dim], "units": "1"})
        for i, dim in enumerate(along.dims)
    }
    return xr.Dataset(
        variables,
        coords={
            **axes,
            "distance": (
                "point",
                distance,
                {"long_name": f"distance from the {along.roles[0]}", "units": ""},
            ),
            "split": ("split", np.array(splits, dtype=np.str_)),
        },
        attrs={
            "schema_version": SCHEMA_VERSION,
            "title": title or "",
            **objective.describe(),
            "dtype": measured.dtype,
            **{role: corner.label for role, corner in zip(along.roles, along.corners, strict=True)},
            **{
                f"{role}_hash": found
                for role, found in zip(along.roles, measured.hashes, strict=True)
            },
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
