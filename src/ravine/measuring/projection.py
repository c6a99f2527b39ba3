"""Projection: where a training run goes, seen from a slice: along it, and how far from it."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

from ravine.errors import InputError
from ravine.measuring.labelling import corner_attrs, provenance, quantity_variables, split_names
from ravine.measuring.rounds import with_reuse
from ravine.metrics.walks import random_walk, shares
from ravine.objective.measurement import Measured
from ravine.objective.moments import Moments
from ravine.objective.objective import Objective
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, blocks, content_hash, content_hashes, gram
from ravine.points.slices import Line, Slice, corner_params
from ravine.points.trajectory import Trajectory
from ravine.result.schema import SCHEMA_VERSION
from ravine.store.executors import Workers, workers_of
from ravine.store.ledger import Ledger, ledger_at

_AT_ONCE: Final = 8  # snapshots whose J is measured in one pass over the data
SAME: Final = 1e-6  # a snapshot this close to a corner, in lengths of the line, is the corner

Run = Trajectory | Sequence[Any] | str | os.PathLike[str]


def project(
    run: Run,
    onto: Slice | None = None,
    *,
    objective: Objective | None = None,
    store: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    executor: Any = None,
) -> xr.Dataset:
    """Project a run onto a line or another slice: θ_t − θ₀ = Σ x_j a_j + residual.

    The axes a_j lead from the slice's first corner θ₀ to the others; they need not be orthogonal.
    Sums are taken in float64. Snapshots stream past: beside the corners, three are held at a time.

    Args:
        run: a ``Trajectory``, the folder of one, or a sequence of points (steps 0, 1, …).
        onto: a ``Line``, or any slice whose coordinates are the coefficients of its corners after
            the first. By default the line from the run's first snapshot to its last.
        objective: measured at every snapshot too, if given: the learning curve on the very examples
            of a line's curve.
        store: of what the objective measures, as in ``evaluate``.
        fresh: likewise.
        executor: likewise, of that of an objective.

    Returns:
        A Dataset with the dim ``step``:

        - ``alpha`` (and ``beta`` …): coordinates in the slice, dimensionless;
        - ``distance``: displacement within the slice, ‖Σ x_j a_j‖, with alpha's sign on a line;
        - ``residual``: distance from the slice, so that distance² + residual² = ‖θ_t − θ₀‖² =
          ``displacement``²;
        - ``cosine``: of the angle between θ_t − θ₀ and the slice, NaN where θ_t = θ₀;
        - ``step_length`` ‖θ_t − θ_{t−1}‖ and ``path_length``, its sum so far; from snapshot to
          snapshot, so each is at least what training walked;
        - ``step_cosine``: of the angle between the displacement from the snapshot before and the
          one before that, NaN at the first two;

        lengths in the parameters' own unit. With the dim ``walk`` ("run", "random walk"):
        ``captured`` = L/(L + max residual), ``captured_squares`` = Σ distance² / Σ displacement²,
        ``max_residual`` / L, and ``directness``, L / path length up to the line's end; the random
        walk has as many updates between snapshots, and is described in ``ravine.metrics.walks``.
        With it come ``null_alpha`` and ``null_residual`` (step), where such a walk would be. Its
        steps are independent; ``ravine.straightness`` sets the run beside one with the run's own
        step correlation too. Where the line does not join the run's first snapshot to a later one,
        there is no walk to compare with, and they are absent. With an objective ``loss`` (step,
        split), its standard error and so on, as ``evaluate`` gives them; running statistics follow
        the objective's policy, as on the line.

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
    between = _axes_gram(corners)
    digest = hashlib.sha256()
    rows: list[_Row] = []
    earlier: list[Params] = []
    for step, point in zip(steps, aligned(points, along.corners[0]), strict=True):
        digest.update(f"{step}:{content_hash(point.tensors)};".encode())
        here = {name: point.tensors[name] for name in corners[0]}
        rows.append(_row(corners, between, here, earlier))
        earlier = [*earlier[-1:], here]
    path = _geometry(np.array(steps), rows, along, math.sqrt(between[0, 0]))
    path = _beside_a_random_walk(path)
    hashes = content_hashes([corner.tensors for corner in along.corners])
    path = path.assign_attrs(
        schema_version=SCHEMA_VERSION,
        title="",
        run=str(points.folder) if isinstance(points, Trajectory) else "",
        run_hash=digest.hexdigest(),
        **corner_attrs(along, hashes),
        **provenance("", time.perf_counter() - began),
    )
    if objective is None:
        return path
    with ledger_at(store, fresh=fresh) as ledger, workers_of(executor) as crew:
        curve = _learning_curve(objective, points, steps, along, ledger, crew)
        return with_reuse(path.merge(curve), ledger, progress=None)


# --- the run --------------------------------------------------------------------------------------


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


def _learning_curve(
    objective: Objective,
    points: Sequence[Any],
    steps: Sequence[int],
    along: Slice,
    store: Ledger | None,
    crew: Workers | None,
) -> xr.Dataset:
    """J at the snapshots, under the objective's policies, a few of them in memory at a time."""
    # a policy takes running statistics from the first corner or from the last one: those of
    # the slice
    ends = objective.buffers in ("start", "end")
    before = list(along.corners[:1]) if ends else []
    after = list(along.corners[-1:]) if ends else []
    parts: list[Measured] = []
    for first in range(0, len(points), _AT_ONCE):
        last = min(first + _AT_ONCE, len(points))
        held = [
            matched(along.corners[0], Checkpoint.read(points[index]))
            for index in range(first, last)
        ]
        each = np.eye(len(held) + 2 * ends)[len(before) : len(before) + len(held)]
        corners = [*before, *held, *after]
        rows = [tuple(row) for row in each.tolist()]
        earlier = parts[-1] if parts else None
        found = objective.measure(corners, rows, earlier=earlier, store=store, crew=crew)
        parts.append(found)
    moments = {}
    for split in parts[0].moments:
        moments[split] = Moments.joined_each([part.moments[split] for part in parts])
    variables = quantity_variables(moments, parts[0].units, objective.units, "step")
    unknown = ("step", "split"), np.full((len(points), len(moments)), np.nan)
    floors = {f"{name}_noise_floor": unknown for name in next(iter(moments.values()))}
    coords = {"step": np.array(steps), "split": split_names(list(moments))}
    return xr.Dataset(variables | floors, coords=coords)


# --- the slice ------------------------------------------------------------------------------------


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
    axes = len(onto.corners) - 1
    units = [tuple(row) for row in np.eye(axes).tolist()]
    straight = len(onto.dims) == axes
    if not straight or any(tuple(onto.coefficients(*unit))[1:] != unit for unit in units):
        msg = (
            "project() needs a slice whose coordinates are the coefficients of its corners after "
            f"the first, as Line and Plane have; got {type(onto).__name__} with dims {onto.dims}"
        )
        raise InputError(msg)
    return corner_params(onto.corners)


def _axes_gram(corners: Sequence[Params]) -> np.ndarray:
    """Inner products of the axes, in float64."""
    total = gram(corners)
    size = np.sqrt(np.diagonal(total))
    with np.errstate(invalid="ignore", divide="ignore"):
        directions = total / np.outer(size, size)
    flat = not size.all() or not np.isfinite(directions).all()
    if np.isfinite(total).all() and (flat or np.linalg.eigvalsh(directions)[0] < 1e-12):
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
    step_cosine: float


def _row(
    corners: Sequence[Params], between: np.ndarray, point: Params, earlier: Sequence[Params]
) -> _Row:
    """Where a snapshot is; ``earlier`` are the one or two before it, the older one first."""
    names = list(corners[0])
    inner, displacement = np.zeros(len(between)), 0.0
    moved = np.zeros((2, 2))
    for _, block in blocks([*corners, point, *reversed(earlier)], names):
        offsets = block[1:] - block[0]
        away = offsets[len(between)]
        inner += (offsets[: len(between)] @ away).numpy()
        displacement += float(away @ away)
        steps = -block[len(corners) :].diff(dim=0)  # the last one first
        moved[: len(steps), : len(steps)] += (steps @ steps.T).numpy()
    coordinates = np.linalg.solve(between, inner)  # NaN where a corner is
    # a second pass, because the difference of two squares would lose half of the digits
    residual = 0.0
    weights = torch.from_numpy(coordinates)
    for _, block in blocks([*corners, point], names):
        offsets = block[1:] - block[0]
        left = offsets[-1] - weights @ offsets[:-1]
        residual += float(left @ left)
    within = math.sqrt(max(float(coordinates @ between @ coordinates), 0.0))
    lengths = np.sqrt(np.diagonal(moved))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = float(moved[0, 1] / lengths.prod())
    return _Row(
        coordinates,
        within,
        math.sqrt(residual),
        math.sqrt(displacement),
        float(lengths[0]),
        cosine,
    )


def _geometry(steps: np.ndarray, rows: list[_Row], along: Slice, length: float) -> xr.Dataset:
    """Where the run is at every step, seen from the slice."""
    coordinates = np.array([row.coordinates for row in rows])
    within = np.array([row.within for row in rows])
    if len(along.dims) == 1:
        within = np.copysign(within, coordinates[:, 0])
    displacement = np.array([row.displacement for row in rows])
    step_length = np.array([row.step_length for row in rows])
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = within / displacement
    own = {"units": ""}  # the parameters' own
    variables = {
        "distance": (within, {"long_name": "displacement within the slice", **own}),
        "residual": (
            np.array([row.residual for row in rows]),
            {"long_name": "distance from the slice", **own},
        ),
        "displacement": (displacement, {"long_name": "distance from the start", **own}),
        "cosine": (cosine, {"long_name": "cosine of the angle to the slice", "units": "1"}),
        "step_length": (step_length, {"long_name": "distance from the snapshot before", **own}),
        "step_cosine": (
            np.array([row.step_cosine for row in rows]),
            {"long_name": "cosine of the angle between successive displacements", "units": "1"},
        ),
        "path_length": (step_length.cumsum(), {"long_name": "length of the path so far", **own}),
    }
    for dim, column in zip(along.dims, coordinates.T, strict=True):
        variables[dim] = column, {"long_name": f"coordinate {dim} in the slice", "units": "1"}
    about = {"long_name": "optimiser updates", "units": "1"}
    return xr.Dataset(
        {name: ("step", *found) for name, found in variables.items()},
        coords={"step": ("step", steps, about)},
        attrs={"length": length},
    )


def _beside_a_random_walk(path: xr.Dataset) -> xr.Dataset:
    """How much of the run the slice captures, and of a random walk between the same ends."""
    length, steps = float(path.attrs["length"]), path["step"].values
    residual, path_length = path["residual"].values, path["path_length"].values
    end = _reached(path)
    with np.errstate(invalid="ignore", divide="ignore"):
        directness = float(length / path_length[-1 if end is None else end])
    run = shares(path["distance"].values, residual, length)
    walks = {"run": run | {"directness": directness}}
    if end is not None and float(path["displacement"][0]) <= SAME * length:
        share = (steps - steps[0]) / (steps[end] - steps[0])
        alpha, away = random_walk(share)
        direct = 1 / float(np.sqrt(np.diff(share[: end + 1])).sum())
        walks["random walk"] = shares(alpha, away, 1.0) | {"directness": direct}
        about = {"long_name": "alpha of a random walk", "units": "1"}
        beside = {"long_name": "residual of a random walk", "units": ""}
        path = path.assign(
            null_alpha=("step", alpha, about), null_residual=("step", length * away, beside)
        )
    measures = {}
    for name in walks["run"]:
        values = np.array([walk[name] for walk in walks.values()])
        measures[name] = ("walk", values, {"units": "1"})
    names = np.array(list(walks), dtype=np.str_)
    return path.assign_coords(walk=("walk", names)).assign(measures)


def _reached(path: xr.Dataset) -> int | None:
    """The snapshot that is the line's end, if one is."""
    if "beta" in path:
        return None
    length = float(path.attrs["length"])
    left = np.hypot(length * (path["alpha"].values - 1), path["residual"].values)
    left[0] = np.nan
    if np.isnan(left).all():
        return None
    nearest = int(np.nanargmin(left))
    return nearest if left[nearest] <= SAME * length else None
