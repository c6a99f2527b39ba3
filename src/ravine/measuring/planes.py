"""Resolved planes: an interpolant refined on the axis that needs it, checked off its grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xarray as xr

from ravine.measuring.labelling import on_axes
from ravine.measuring.refinement import (
    Candidate,
    allowed_error,
    best_reading,
    drivers,
    is_counted,
    joined,
    rounding_of,
    tail,
)
from ravine.result.interpolant import Patch, Piece, chebyshev_points
from ravine.result.schema import quantities

FIRST_DEGREE: Final = 8
LAST_DEGREE: Final = 64
_FINEST: Final = (
    2 * LAST_DEGREE
)  # the nodes of every degree, and the checks between them, are among its nodes
_AXES: Final = ("alpha", "beta")

#: A point: the numbers of its coordinates among ``_Ruler.ticks``. Integers, so that it is known
#: again exactly.
_Key = tuple[int, int]


@dataclass(frozen=True)
class _Ruler:
    """The coordinates that points may have on one axis: the finest nodes, then 0 and 1."""

    low: float
    high: float

    @property
    def ticks(self) -> np.ndarray:
        return np.concatenate([chebyshev_points(self.low, self.high, _FINEST), [0.0, 1.0]])

    def nodes(self, degree: int) -> list[int]:
        return list(range(0, _FINEST + 1, _FINEST // degree))

    def between(self, degree: int) -> list[int]:
        """What the next degree adds."""
        return list(range(_FINEST // degree // 2, _FINEST, _FINEST // degree))

    def tick_at(self, corner: int) -> int | None:
        """The tick at 0 or 1, or the node that is there; None if that is off the interval."""
        if not self.low <= corner <= self.high:
            return None
        near = int(np.argmin(np.abs(self.ticks[: _FINEST + 1] - corner)))
        return (
            near
            if abs(self.ticks[near] - corner) <= 1e-12 * (self.high - self.low)
            else _FINEST + 1 + corner
        )


@dataclass(frozen=True)
class _Grid:
    """The nodes of an interpolant, and the points that check it."""

    rulers: tuple[_Ruler, _Ruler]
    degrees: tuple[int, int]

    @property
    def patch(self) -> Patch:
        pieces = [
            Piece(ruler.low, ruler.high, n)
            for ruler, n in zip(self.rulers, self.degrees, strict=True)
        ]
        return Patch(tuple(pieces))

    @property
    def ladders(self) -> list[list[int]]:
        return [
            ruler.nodes(degree) for ruler, degree in zip(self.rulers, self.degrees, strict=True)
        ]

    @property
    def nodes(self) -> list[_Key]:
        one, other = self.ladders
        return [(i, j) for i in one for j in other]

    @property
    def checks(self) -> Iterator[_Key]:
        """Points between the nodes of one axis or both, all over the plane: the next degrees' own.

        Those on a line of nodes see the error along one axis alone, and so tell which one needs
        more points.
        """
        draw = np.random.default_rng(
            [*self.degrees, *(int(1e6 * abs(ruler.low)) for ruler in self.rulers)]
        )
        (nodes_a, nodes_b), (between_a, between_b) = (
            self.ladders,
            [
                ruler.between(degree)
                for ruler, degree in zip(self.rulers, self.degrees, strict=True)
            ],
        )
        for first, second, count in (
            (between_a, nodes_b, 4),
            (nodes_a, between_b, 4),
            (between_a, between_b, 8),
        ):
            partners = draw.permutation(count)
            for number, partner in enumerate(partners):
                stretches = (
                    np.array_split(first, count)[number],
                    np.array_split(second, count)[partner],
                )
                i, j = (int(draw.choice(stretch)) for stretch in stretches)
                yield i, j

    @property
    def corners(self) -> Iterator[_Key]:
        """Origin, a and b, where they lie on the plane's measured part: what is asked for first."""
        for corner in ((0, 0), (1, 0), (0, 1)):
            i, j = (ruler.tick_at(place) for ruler, place in zip(self.rulers, corner, strict=True))
            if i is not None and j is not None:
                yield i, j

    def refined(self, axes: tuple[int, ...]) -> _Grid:
        doubled = [
            2 * degree if axis in axes else degree for axis, degree in enumerate(self.degrees)
        ]
        return _Grid(self.rulers, (doubled[0], doubled[1]))

    def refinable(self, axes: tuple[int, ...]) -> bool:
        return all(self.degrees[axis] < LAST_DEGREE for axis in axes)


@dataclass
class _Fit:
    """How well the interpolants do at the points that they do not go through.

    Attributes:
        ratio: the worst error of what drives, in units of what is allowed.
        along: the same for what each axis alone is to blame for.
        finite: whether all measured values of what drives are.
        log: quantity → (split,) whether the logarithm is interpolated.
        misfit: quantity → (checks, split) error at each check.
        drive: the quantities that have to pass.
        unknown: the others that do not.
    """

    ratio: float
    along: tuple[float, float]
    finite: bool
    log: dict[str, np.ndarray]
    misfit: dict[str, np.ndarray]
    drive: tuple[str, ...]
    unknown: set[str] = field(default_factory=set)

    @property
    def good(self) -> bool:
        return self.ratio <= 1

    @property
    def choices(self) -> list[tuple[int, ...]]:
        """Which axes to refine, the best choice first: all that need it, else the worse one."""
        worse = int(self.along[1] > self.along[0])
        both = all(ratio > 1 for ratio in self.along)
        return [(0, 1), (worse,), (1 - worse,)] if both else [(worse,)]


class Points:
    """The measured points of a plane, each found again by its key."""

    def __init__(
        self, measure: Callable[[np.ndarray], xr.Dataset], rulers: tuple[_Ruler, _Ruler]
    ) -> None:
        self.measure = measure
        self.rulers = rulers
        self.keys: list[_Key] = []
        self.result = xr.Dataset()

    def lacking(self, keys: list[_Key]) -> list[_Key]:
        """Those of the keys that were not measured yet, each once."""
        known = set(self.keys)
        return [key for key in dict.fromkeys(keys) if key not in known]

    def add(self, keys: list[_Key]) -> None:
        """Measure some more."""
        if not keys:
            return
        ticks = [ruler.ticks for ruler in self.rulers]
        places = np.array([[ticks[0][i], ticks[1][j]] for i, j in keys])
        fresh = self.measure(places)
        self.result = joined(self.result, fresh, "point", _AXES) if self.keys else fresh
        self.keys += keys

    def rows(self, grid: _Grid) -> tuple[np.ndarray, np.ndarray]:
        """(α points, β points) rows of the grid's nodes, and (checks,) all the others'."""
        row = {key: number for number, key in enumerate(self.keys)}
        nodes = np.array([row[key] for key in grid.nodes]).reshape(*(n + 1 for n in grid.degrees))
        return nodes, np.setdiff1d(np.arange(len(self.keys)), nodes)


def resolve_plane(
    measure: Callable[[np.ndarray], xr.Dataset],
    intervals: dict[str, tuple[float, float]],
    tolerance: float,
    max_points: int,
    drive: str | Sequence[str],
) -> xr.Dataset:
    """``resolve`` on a plane.

    Args:
        measure: ``Rounds.measure`` of an objective along a plane: (points, 2) places → result.
        intervals: from and to on each axis.
        tolerance: as in ``resolve``.
        max_points: as in ``resolve``.
        drive: as in ``resolve``.

    Returns:
        The resolved plane.
    """
    rulers = (_Ruler(*intervals["alpha"]), _Ruler(*intervals["beta"]))
    grid = _Grid(rulers, (FIRST_DEGREE, FIRST_DEGREE))
    points = Points(measure, rulers)
    points.add(points.lacking([*grid.nodes, *grid.checks, *grid.corners]))
    while True:
        fit = _fit(grid, points, tolerance, drivers(points.result, drive))
        finer = [grid.refined(axes) for axes in fit.choices if grid.refinable(axes)]
        wanted = [(one, points.lacking([*one.nodes, *one.checks])) for one in finer]
        affordable = [
            (one, new) for one, new in wanted if len(points.keys) + len(new) <= max_points
        ]
        if fit.good or not affordable:
            return _labelled(grid, points, fit, tolerance)
        grid, new = affordable[0]
        points.add(new)


def _fit(grid: _Grid, points: Points, tolerance: float, drive: tuple[str, ...]) -> _Fit:
    result = points.result
    _, checks = points.rows(grid)
    sides = _sides(grid, points, checks)
    splits = range(result.sizes["split"])
    fit = _Fit(0.0, (0.0, 0.0), True, {}, {}, drive)
    for name in quantities(result):
        fit.log[name] = np.zeros(len(splits), dtype=np.int8)
        fit.misfit[name] = np.full((len(checks), len(splits)), np.nan)
        for split in splits:
            drives = name in drive
            if not np.isfinite(result[name].values[:, split]).all():
                fit.unknown.add(name)
                # it has no interpolant; the others are still worth refining for
                fit.finite = fit.finite and not drives
                continue
            found = _candidate(grid, points, name, split, tolerance)
            fit.log[name][split], fit.misfit[name][:, split] = found.log, found.errors
            if not drives:
                if found.worst > 1:
                    fit.unknown.add(name)
                continue
            fit.ratio = max(fit.ratio, found.worst)
            ends = found.tails if len(found.tails) == 2 else (0.0, 0.0)
            alone = [float(found.ratios[side].max(initial=0.0)) for side in sides]
            fit.along = (
                max(fit.along[0], ends[0], alone[0]),
                max(fit.along[1], ends[1], alone[1]),
            )
    return fit


def _sides(grid: _Grid, points: Points, checks: np.ndarray) -> list[np.ndarray]:
    """For each axis, which checks lie between nodes of that axis alone, and so see its error."""
    keys = np.array([points.keys[row] for row in checks])
    on_a, on_b = (
        np.isin(column, ladder) for column, ladder in zip(keys.T, grid.ladders, strict=True)
    )
    return [on_b & ~on_a, on_a & ~on_b]


def _candidate(grid: _Grid, points: Points, name: str, split: int, tolerance: float) -> Candidate:
    """The better interpolant of one quantity on one split."""
    result, patch = points.result, grid.patch
    nodes, checks = points.rows(grid)
    places = np.stack([result[axis].values[checks] for axis in _AXES], 1)
    values = result[name].values[:, split]
    allowed = allowed_error(result, name, split, tolerance)
    floor = rounding_of(result, name, split, tolerance)

    def tails(log: bool) -> tuple[float, ...]:
        """Every line of nodes is a curve whose series must have decayed."""
        axes = zip(patch.pieces, (nodes, nodes.T), strict=True)
        return tuple(
            tail(piece, values[rows], allowed[rows], floor[rows], log=log) for piece, rows in axes
        )

    return best_reading(
        values[checks],
        allowed[checks],
        positive=bool((values > 0).all()),
        counted=is_counted(result, name),
        read=lambda log: patch.read_scattered(values[nodes], places, log=log),
        tails=tails,
    )


def _labelled(grid: _Grid, points: Points, fit: _Fit, tolerance: float) -> xr.Dataset:
    result = points.result
    nodes, others = points.rows(grid)
    axes = {
        axis: ruler.ticks[ladder]
        for axis, ruler, ladder in zip(_AXES, grid.rulers, grid.ladders, strict=True)
    }
    plane = on_axes(result.isel(point=nodes.ravel()), axes)
    checks: dict[str, Any] = {}
    for name in quantities(result):
        checks[f"{name}_checked"] = (("check", "split"), result[name].values[others])
        checks[f"{name}_misfit"] = (("check", "split"), fit.misfit[name])
        checks[f"{name}_log"] = ("split", fit.log[name])
        plane[name].attrs["resolved"] = int(fit.good and name not in fit.unknown)
    return (
        plane.assign(checks)
        .assign_coords({f"check_{axis}": ("check", result[axis].values[others]) for axis in _AXES})
        .assign_attrs(
            sampling="resolved",
            tolerance=tolerance,
            drive=", ".join(fit.drive),
            resolved=int(fit.good and fit.finite),
            largest_gap=float(max(np.diff(axis).max() for axis in axes.values())),
        )
    )
