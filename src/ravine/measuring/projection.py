"""Projection: where a training run goes, seen from a slice: along it, and how far from it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ravine.errors import InputError
from ravine.metrics.walks import random_walk, shares
from ravine.objective.objective import Objective
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, content_hash, pieces
from ravine.points.slices import Line, Slice
from ravine.points.trajectory import Trajectory
from ravine.result.schema import SCHEMA_VERSION

_ROLES: Final = {2: ("start", "end"), 3: ("origin", "a", "b")}
_AT_ONCE: Final = 8  # snapshots whose J is measured in one pass over the data
SAME: Final = 1e-6  # a snapshot this close to a corner, in lengths of the line, is the corner

Run = Trajectory | Sequence[Any] | str | os.PathLike[str]


def project(
    run: Run, onto: Slice | None = None, *, objective: Objective | None = None
) -> xr.Dataset:
    """Project a run onto a line or another slice: θ_t − θ₀ = Σ x_j a_j + residual, by least squares.

    The axes a_j lead from the slice's first corner θ₀ to the others; they need not be orthogonal.
    Sums are taken in float64. Snapshots stream past: beside the corners, two are held at a time.

    Args:
        run: a ``Trajectory``, the folder of one, or a sequence of points (steps 0, 1, …).
        onto: a ``Line``, or any slice whose coordinates are the coefficients of its corners after
            the first. By default the line from the run's first snapshot to its last.
        objective: measured at every snapshot too, if given: the learning curve on the very examples
            of a line's curve.

    Returns:
        A Dataset with the dim ``step``:

        - ``alpha`` (and ``beta`` …): coordinates in the slice, dimensionless;
        - ``distance``: displacement within the slice, ‖Σ x_j a_j‖, with alpha's sign on a line;
        - ``residual``: distance from the slice, so that distance² + residual² = ‖θ_t − θ₀‖² =
          ``displacement``²;
        - ``cosine``: of the angle between θ_t − θ₀ and the slice, NaN where θ_t = θ₀;
        - ``step_length`` ‖θ_t − θ_{t−1}‖ and ``path_length``, its sum so far; from snapshot to
          snapshot, so each is at least what training walked;

        lengths in the parameters' own unit. With the dim ``walk`` ("run", "random walk"):
        ``captured`` = L/(L + max residual), ``captured_squares`` = Σ distance² / Σ displacement²,
        ``max_residual`` / L, and ``directness``, L / path length up to the line's end; the random
        walk has as many updates between snapshots, and is described in ``ravine.metrics.walks``. With it
        come ``null_alpha`` and ``null_residual`` (step), where such a walk would be. Where the line
        does not join the run's first snapshot to a later one, there is no walk to compare with, and
        they are absent. With an objective ``loss`` (step, split), its standard error and so on, as
        ``evaluate`` gives them; each snapshot has its own running statistics.

    Raises:
        InputError: fewer than two snapshots, a damaged one, one of another shape, or corners that
            coincide.

    Examples:
        >>> path = project([{"w": torch.tensor(w)} for w in ([0.0, 0.0], [3.0, 2.0], [8.0, 0.0])])
        >>> path["alpha"].values, path["residual"].values, path["distance"].values
        (array([0.   , 0.375, 1.   ]), array([0., 2., 0.]), array([0., 3., 8.]))
        >>> float(path["captured"].sel(walk="run"))
        0.8

    References:
        Goodfellow and Vinyals 2014, figure 5 and section 3.
    """
    began = time.perf_counter()
    points, steps = opened(run)
    along: Slice = Line(points[0], points[-1]) if onto is None else onto
    corners = corners_of(along)
    between = _gram(corners)
    digest = hashlib.sha256()
    rows: list[_Row] = []
    previous: Params | None = None
    for index, (step, point) in enumerate(
        zip(steps, aligned(points, along.corners[0]), strict=True)
    ):
        found = content_hash(point.tensors)
        _require_hash(points, index, found)
        digest.update(f"{step}:{found};".encode())
        here = {name: point.tensors[name] for name in corners[0]}
        rows.append(_row(corners, between, here, previous))
        previous = here
    learnt = {} if objective is None else _learning_curve(objective, points)
    path = _labelled(
        np.array(steps),
        rows,
        along,
        between,
        points,
        digest.hexdigest(),
        time.perf_counter() - began,
    )
    if objective is None:
        return path
    splits = [split.name for split in objective.splits]
    return path.assign_coords(split=("split", np.array(splits, dtype=np.str_))).assign(learnt)


# --- the run ---------------------------------------------------------------------------------------------


def opened(run: Run) -> tuple[Sequence[Any], tuple[int, ...]]:
    """A run's points and their steps.

    Args:
        run: a trajectory, its folder, or a sequence of points.

    Returns:
        Both, of one length.

    Raises:
        InputError: there is no such trajectory, or it has fewer than two points.
    """
    found = Trajectory.open(run) if isinstance(run, str | os.PathLike) else run
    steps = found.steps if isinstance(found, Trajectory) else tuple(range(len(found)))
    if len(steps) < 2:
        msg = f"a run needs two snapshots or more to have a direction; got {len(steps)}"
        raise InputError(msg)
    return found, steps


def aligned(points: Sequence[Any], reference: Checkpoint) -> Iterator[Checkpoint]:
    """Each point, read when its turn comes, under the names of the reference."""
    return (matched(reference, Checkpoint.read(point)) for point in points)


def _require_hash(run: Sequence[Any], index: int, found: str) -> None:
    if isinstance(run, Trajectory) and run.snapshots[index].hash not in ("", found):
        snapshot = run.snapshots[index]
        msg = (
            f"the snapshot of step {snapshot.step}, {str(run.folder / snapshot.file)!r}, is "
            "damaged: its hash is not "
            "the one in the manifest. Copy the folder again, or record the run again."
        )
        raise InputError(msg)


def _learning_curve(objective: Objective, points: Sequence[Any]) -> dict[str, Any]:
    """J at the snapshots themselves, a few of which are in memory at a time."""
    own = (
        objective.with_buffers("interpolate") if objective.buffers else objective
    )  # of one snapshot: its own
    parts = []
    for first in range(0, len(points), _AT_ONCE):
        held = [
            Checkpoint.read(points[i]) for i in range(first, min(first + _AT_ONCE, len(points)))
        ]
        measured = own.measure(held, [tuple(map(float, row)) for row in np.eye(len(held))])
        parts.append(list(measured.moments.values()))
    variables: dict[str, Any] = {}
    for name in parts[0][0]:
        about = {
            "long_name": {"error": "error rate"}.get(name, name),
            "units": objective.units.get(name, ""),
        }
        for suffix, of in (("", "mean"), ("_stderr", "stderr"), ("_replicates", "replicates")):
            column = np.concatenate(
                [np.stack([getattr(m[name], of) for m in part], 1) for part in parts]
            )
            dims = ("step", "split", "replicate")[: column.ndim]
            variables[f"{name}{suffix}"] = (dims, column, {} if suffix else about)
        variables[f"{name}_noise_floor"] = (
            ("step", "split"),
            np.full((len(points), len(parts[0])), np.nan),
        )
    return variables | {
        "n_examples": ("split", np.array([moments["loss"].count for moments in parts[0]]))
    }


# --- the slice -------------------------------------------------------------------------------------------


def corners_of(onto: Slice) -> list[Params]:
    """The parameters of a slice's corners: what none of them knows to be a buffer.

    Args:
        onto: the slice.

    Returns:
        As many points, with the same names.

    Raises:
        InputError: its coordinates are not the coefficients of its corners, or a corner has changed
            since.
    """
    first, *others = onto.corners
    for corner in onto.corners:
        corner.require_unchanged()
    units = [tuple(float(i == j) for i in range(len(others))) for j in range(len(others))]
    if len(onto.dims) != len(others) or any(
        tuple(onto.coefficients(*unit))[1:] != unit for unit in units
    ):
        msg = (
            "project() needs a slice whose coordinates are the coefficients of its corners after "
            "the first, "
            f"as Line and Plane have; got {type(onto).__name__} with dims {onto.dims}"
        )
        raise InputError(msg)
    names = [name for name in first.params if not any(name in other.buffers for other in others)]
    return [{name: corner.tensors[name] for name in names} for corner in onto.corners]


def _gram(corners: Sequence[Params]) -> np.ndarray:
    """Inner products of the axes, in float64."""
    total = np.zeros((len(corners) - 1,) * 2)
    for _, block in blocks(corners, list(corners[0])):
        axes = block[1:] - block[0]
        total += (axes @ axes.T).numpy()
    size = np.sqrt(np.diagonal(total))
    if np.isfinite(total).all() and (
        not size.all()
        or np.linalg.eigvalsh(total / np.outer(size, size))[0] < 1e-12  # of the axes' directions
    ):
        msg = (
            "the slice is flat: its corners coincide or lie on a line. Choose corners that differ."
        )
        raise InputError(msg)
    return total


@dataclass(frozen=True)
class _Row:
    coordinates: np.ndarray
    within: float
    residual: float
    displacement: float
    step_length: float


def _row(
    corners: Sequence[Params], between: np.ndarray, point: Params, previous: Params | None
) -> _Row:
    names = list(corners[0])
    inner, displacement, moved = np.zeros(len(between)), 0.0, 0.0
    held = [*corners, point] if previous is None else [*corners, point, previous]
    for _, block in blocks(held, names):
        offsets = block[1:] - block[0]
        away = offsets[len(between)]
        inner += (offsets[: len(between)] @ away).numpy()
        displacement += float(away @ away)
        if previous is not None:
            last = block[-2] - block[-1]
            moved += float(last @ last)
    coordinates = np.linalg.solve(between, inner)  # NaN where a corner is
    residual = (
        0.0  # a second pass, because the difference of two squares would lose half of the digits
    )
    weights = torch.from_numpy(coordinates)
    for _, block in blocks([*corners, point], names):
        offsets = block[1:] - block[0]
        left = offsets[-1] - weights @ offsets[:-1]
        residual += float(left @ left)
    within = math.sqrt(max(float(coordinates @ between @ coordinates), 0.0))
    return _Row(coordinates, within, math.sqrt(residual), math.sqrt(displacement), math.sqrt(moved))


def _labelled(
    steps: np.ndarray,
    rows: list[_Row],
    along: Slice,
    between: np.ndarray,
    run: Sequence[Any],
    run_hash: str,
    seconds: float,
) -> xr.Dataset:
    length = math.sqrt(between[0, 0])
    coordinates = np.array([row.coordinates for row in rows])
    residual, displacement, step_length = (
        np.array([getattr(row, name) for row in rows])
        for name in ("residual", "displacement", "step_length")
    )
    within = np.array([row.within for row in rows])
    if len(between) == 1:
        within = np.copysign(within, coordinates[:, 0])
    path_length = step_length.cumsum()
    unit = {"units": ""}  # the parameters' own
    variables: dict[str, Any] = {
        dim: (
            "step",
            coordinates[:, number],
            {"long_name": f"coordinate {dim} in the slice", "units": "1"},
        )
        for number, dim in enumerate(along.dims)
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = within / displacement
        end = _reached(coordinates, residual, length)
        directness = float(length / path_length[-1 if end is None else end])
    variables |= {
        "distance": ("step", within, {"long_name": "displacement within the slice", **unit}),
        "residual": ("step", residual, {"long_name": "distance from the slice", **unit}),
        "displacement": ("step", displacement, {"long_name": "distance from the start", **unit}),
        "cosine": ("step", cosine, {"long_name": "cosine of the angle to the slice", "units": "1"}),
        "step_length": (
            "step",
            step_length,
            {"long_name": "distance from the snapshot before", **unit},
        ),
        "path_length": ("step", path_length, {"long_name": "length of the path so far", **unit}),
    }
    walks = {"run": shares(within, residual, length) | {"directness": directness}}
    if end is not None and displacement[0] <= SAME * length:
        share = (steps - steps[0]) / (steps[end] - steps[0])
        null_alpha, null_residual = random_walk(share)
        walks["random walk"] = shares(null_alpha, null_residual, 1.0) | {
            "directness": 1 / float(np.sqrt(np.diff(share[: end + 1])).sum())
        }
        variables |= {
            "null_alpha": (
                "step",
                null_alpha,
                {"long_name": "alpha of a random walk", "units": "1"},
            ),
            "null_residual": (
                "step",
                length * null_residual,
                {"long_name": "residual of a random walk", **unit},
            ),
        }
    variables |= {
        name: ("walk", np.array([walk[name] for walk in walks.values()]), {"units": "1"})
        for name in walks["run"]
    }
    roles = _ROLES.get(
        len(along.corners), tuple(f"corner{number}" for number in range(len(along.corners)))
    )
    return xr.Dataset(
        variables,
        coords={
            "step": ("step", steps, {"long_name": "optimiser updates", "units": "1"}),
            "walk": ("walk", np.array(list(walks), dtype=np.str_)),
        },
        attrs={
            "schema_version": SCHEMA_VERSION,
            "title": "",
            "run": str(run.folder) if isinstance(run, Trajectory) else "",
            "run_hash": run_hash,
            **{role: corner.label for role, corner in zip(roles, along.corners, strict=True)},
            **{
                f"{role}_hash": content_hash(corner.tensors)
                for role, corner in zip(roles, along.corners, strict=True)
            },
            "length": length,
            "command": "",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(seconds, 3),
            "versions": json.dumps(
                {
                    "ravine": version("ravine"),
                    "torch": str(torch.__version__),
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                }
            ),
        },
    )


def _reached(coordinates: np.ndarray, residual: np.ndarray, length: float) -> int | None:
    """The snapshot that is the line's end, if one is."""
    if coordinates.shape[1] != 1:
        return None
    left = np.hypot(length * (coordinates[:, 0] - 1), residual)
    left[0] = np.nan
    if np.isnan(left).all():
        return None
    nearest = int(np.nanargmin(left))
    return nearest if left[nearest] <= SAME * length else None


# --- arithmetic ------------------------------------------------------------------------------------------


def exact(tensor: Tensor) -> Tensor:
    """In float64 on the CPU (complex128 where it is complex)."""
    return tensor.detach().to("cpu", torch.complex128 if tensor.is_complex() else torch.float64)


def blocks(points: Sequence[Params], names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and (points, elements) in float64, 2 MiB at a time (a cache's size); complex numbers as pairs."""
    for name in names:
        for parts in zip(*(pieces(point[name]) for point in points), strict=True):
            few = max((1 << 18) // len(points), 1)
            for cut in zip(*(part.split(few) for part in parts), strict=True):
                stacked = torch.stack([exact(part) for part in cut])
                yield (
                    name,
                    torch.view_as_real(stacked).flatten(1) if stacked.is_complex() else stacked,
                )
