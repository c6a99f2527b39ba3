"""A resolved result between its points: polynomial interpolants, from the saved result.

A resolved line holds *pieces*, each with the degree of an interpolant through Leja points, which
are among the measured ones (Chebyshev points in results of earlier versions). A resolved plane is
one *patch*, the product of a piece through Chebyshev points on each axis. Where J is positive and
spans decades its logarithm is interpolated instead. The misfit is the largest error with which
measured points were predicted by an interpolant that did not go through them: a figure that was
measured, not hoped for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args

import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev
from scipy.interpolate import BarycentricInterpolator
from scipy.spatial.distance import cdist

from ravine.errors import InputError
from ravine.result.schema import dims_of


def chebyshev_points(low: float, high: float, degree: int) -> np.ndarray:
    """(degree + 1,) ascending (low + high)/2 − (high − low)/2 · cos(πk/degree), both ends exact.

    Doubling the degree keeps every point.

    Examples:
        >>> chebyshev_points(0.0, 1.0, 2)
        array([0. , 0.5, 1. ])
    """
    # sin is odd, so the points are symmetric to the last bit, which cos of angles near π is not
    unit = np.sin(np.pi * np.arange(-degree, degree + 1, 2) / (2 * degree))
    points = low + (high - low) * (unit + 1) / 2
    points[0], points[-1] = low, high
    return points


#: Which points an interpolant goes through.
Nodes = Literal["chebyshev", "leja"]

#: Leja points are chosen among the Chebyshev points of this degree, which is fine enough.
_CANDIDATES: Final = 2048


def leja_points(low: float, high: float, degree: int) -> np.ndarray:
    """(degree + 1,) ascending: the first of a sequence that begins with both ends and the middle.

    Then come symmetric pairs, each where the product of the distances to all points before it and
    of the pair's own is largest. Interpolants through the first points are nearly as good as those
    through Chebyshev points, at every even degree and not only at each doubled one.

    Examples:
        >>> leja_points(-1.0, 1.0, 4).round(2)
        array([-1.  , -0.65,  0.  ,  0.65,  1.  ])
        >>> set(leja_points(0.0, 1.0, 8)) < set(leja_points(0.0, 1.0, 12))
        True

    References:
        De Marchi 2004, On Leja sequences: some results and applications.
    """
    unit = np.sort(_leja_sequence(degree + 1))
    points = low + (high - low) * (unit + 1) / 2
    points[0], points[-1] = low, high
    return points


@cache
def _leja_sequence(count: int) -> np.ndarray:
    """Its first points (count,), in its own order: −1, 1, 0, x, −x and so on."""
    right = chebyshev_points(-1.0, 1.0, _CANDIDATES)[_CANDIDATES // 2 + 1 :]
    sequence = [-1.0, 1.0, 0.0]
    while len(sequence) < count:
        with np.errstate(divide="ignore"):
            apart = np.log(np.abs(right[:, None] - np.array(sequence))).sum(axis=1)
        farthest = float(right[(2 * apart + np.log(2 * right)).argmax()])
        sequence += [farthest, -farthest]
    return np.array(sequence[:count])


@dataclass(frozen=True)
class Piece:
    """One interval of a resolved curve, and the degree and the points of the interpolant on it."""

    low: float
    high: float
    degree: int
    nodes: Nodes = "chebyshev"

    @property
    def points(self) -> np.ndarray:
        """The interpolant's points."""
        return _POINTS[self.nodes](self.low, self.high, self.degree)

    @property
    def unit(self) -> np.ndarray:
        """The same on [−1, 1]."""
        return _POINTS[self.nodes](-1.0, 1.0, self.degree)

    def rows(self, alpha: np.ndarray) -> np.ndarray:
        """Where the interpolant's points stand in an ascending array of measured ones.

        Raises:
            InputError: one of them is missing.
        """
        points = self.points
        near = np.clip(np.searchsorted(alpha, points), 1, len(alpha) - 1)
        rows = np.where(points - alpha[near - 1] < alpha[near] - points, near - 1, near)
        if np.abs(alpha[rows] - points).max() > 1e-9 * (self.high - self.low):
            msg = (
                f"the result lacks points of its piece [{self.low:g}, {self.high:g}]; it was cut "
                "after it was resolved"
            )
            raise InputError(msg)
        return rows

    def read(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The interpolant through ``values`` (points, …) at some places, (places, …)."""
        places = (2 * at - self.low - self.high) / (self.high - self.low)
        weights = _WEIGHTS[self.nodes](self.degree)
        # of values near the largest number: then NaN
        with np.errstate(over="ignore", invalid="ignore"):
            return BarycentricInterpolator(self.unit, values, wi=weights)(places)


def _chebyshev_weights(degree: int) -> np.ndarray:
    weights = (-1.0) ** np.arange(degree + 1)
    weights[[0, -1]] /= 2
    return weights


@cache
def _leja_weights(degree: int) -> np.ndarray:
    unit = leja_points(-1.0, 1.0, degree)
    apart = 2 * (unit[:, None] - unit)  # twice: products of as many as there are then stay moderate
    np.fill_diagonal(apart, 1.0)
    return 1 / apart.prod(axis=1)


_POINTS: Final = {"chebyshev": chebyshev_points, "leja": leja_points}
_WEIGHTS: Final = {"chebyshev": _chebyshev_weights, "leja": _leja_weights}


@dataclass(frozen=True)
class Patch:
    """The product of one piece on each axis: an interval of a line, a rectangle of a plane."""

    pieces: tuple[Piece, ...]

    def read(
        self, values: np.ndarray, at: Sequence[np.ndarray], *, log: bool = False
    ) -> np.ndarray:
        """The tensor-product interpolant, or the exponential of that of the logarithm.

        Args:
            values: (points of the first axis, …, points of the last, …) at the pieces' points.
            at: places on each axis, whose combinations are read.
            log: interpolate the logarithm.

        Returns:
            (places on the first axis, …, places on the last, …); NaN where a value is not finite.
        """
        if not np.isfinite(values).all():
            return np.full((*map(len, at), *values.shape[len(at) :]), np.nan)
        read = np.log(values) if log else values
        for axis, (piece, places) in enumerate(zip(self.pieces, at, strict=True)):
            read = np.moveaxis(piece.read(np.moveaxis(read, axis, 0), places), 0, axis)
        return np.exp(read) if log else read

    def read_scattered(
        self, values: np.ndarray, at: np.ndarray, *, log: bool = False
    ) -> np.ndarray:
        """``read`` at places (places, axes) that are on no grid, one value each."""
        if not np.isfinite(values).all():
            return np.full(len(at), np.nan)
        read = np.log(values) if log else values
        weights = [
            piece.read(np.eye(piece.degree + 1), place)
            for piece, place in zip(self.pieces, at.T, strict=True)
        ]
        read = np.einsum("pi,i...->p...", weights[0], read)
        for weight in weights[1:]:
            read = np.einsum("pi,pi...->p...", weight, read)
        return np.exp(read) if log else read


def spread_floor(points: np.ndarray, places: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """A noise floor known at some places, everywhere: the largest of the places around a point.

    Rounding does not vary smoothly: a loss saturates at one point and not at the next. So nothing
    finer is claimed between two places than at the worse of them.

    Args:
        points: (points, dims) where it is wanted.
        places: (places, dims) where it was estimated.
        floors: (places,) the estimates; what is not finite is left out.

    Returns:
        (points,): at a place its own; on a line the larger of the two places beside a point, on a
        plane the largest of the four nearest. NaN if nothing is known.

    Examples:
        >>> line = np.array([[0.0], [0.5], [1.0]])
        >>> spread_floor(line, line[[0, 2]], np.array([1e-8, 1e-6])).tolist()
        [1e-08, 1e-06, 1e-06]
    """
    known = np.isfinite(floors)
    if not known.any():
        return np.full(len(points), np.nan)
    places, floors = places[known], floors[known]
    if places.shape[1] == 1:
        order = np.argsort(places[:, 0])
        ladder, sorted_floors = places[order, 0], floors[order]
        after = np.searchsorted(ladder, points[:, 0], side="left")
        before = np.searchsorted(ladder, points[:, 0], side="right") - 1
        last = len(ladder) - 1
        return np.maximum(sorted_floors[before.clip(0)], sorted_floors[after.clip(max=last)])
    apart = cdist(points, places)
    nearest = np.argsort(apart, axis=1)[:, : 2 ** places.shape[1]]
    own = floors[nearest[:, 0]]
    return np.where(apart.min(axis=1) == 0, own, floors[nearest].max(axis=1))


def stationary(piece: Piece, values: np.ndarray, order: int = 1) -> np.ndarray:
    """Where the interpolant of a piece is stationary inside it: roots of its derivative.

    Args:
        piece: the piece.
        values: (degree + 1,) at its points.
        order: of the derivative; 2 for inflections.

    Examples:
        >>> piece = Piece(0.0, 1.0, 2)
        >>> stationary(piece, (piece.points - 0.25) ** 2).round(12)
        array([0.25])
    """
    with np.errstate(over="ignore", invalid="ignore"):
        series = chebyshev.chebder(chebyshev.chebfit(piece.unit, values, piece.degree), order)
    if not np.isfinite(series).all():
        return np.zeros(0)  # of values near the largest number that there is
    # coefficients that are rounding alone would have roots of their own
    found = chebyshev.chebroots(chebyshev.chebtrim(series, 1e-12 * np.ptp(values)))
    # a double root may come out as a pair just off the real line
    real = found[np.abs(found.imag) < 1e-8].real
    return (piece.low + piece.high + (piece.high - piece.low) * real[np.abs(real) < 1]) / 2


def is_resolved(result: xr.Dataset) -> bool:
    """Whether a result carries interpolants."""
    return "piece" in result.dims or "check" in result.dims


def is_surface(plane: xr.Dataset, quantity: str) -> bool:
    """Whether a quantity of a plane may be read between its points.

    What drove the refinement, and the quantity itself, must be resolved.
    """
    whole = is_resolved(plane) and plane.attrs.get("resolved") == 1
    return whole and plane[quantity].attrs.get("resolved", 1) == 1


def patches_of(result: xr.Dataset) -> list[Patch]:
    """The patches of a resolved result: the pieces of a line in order, or the one of a plane.

    Raises:
        InputError: the result was measured on a grid.
    """
    if not is_resolved(result):
        msg = (
            "this result was measured on a grid, so it cannot be read between its points; use "
            "ravine.resolve"
        )
        raise InputError(msg)
    if "check" in result.dims:
        axes = [np.sort(result[dim].values) for dim in dims_of(result)]
        return [
            Patch(tuple(Piece(float(axis[0]), float(axis[-1]), len(axis) - 1) for axis in axes))
        ]
    low, high, degree = (result[f"piece_{name}"].values for name in ("low", "high", "degree"))
    nodes = nodes_of(result)
    return [
        Patch((Piece(float(a), float(b), int(n), nodes),))
        for a, b, n in zip(low, high, degree, strict=True)
    ]


def nodes_of(curve: xr.Dataset) -> Nodes:
    """What points the interpolants of a resolved line go through.

    Raises:
        InputError: they are of no kind that is known.
    """
    said = curve.attrs.get("nodes", "chebyshev")  # as in results of version 0.1
    if said not in get_args(Nodes):
        msg = f"nodes is {said!r}; expected one of {', '.join(get_args(Nodes))}"
        raise InputError(msg)
    return said


def pieces_of(curve: xr.Dataset) -> list[Piece]:
    """The pieces of a resolved line, in order.

    Raises:
        InputError: the result was measured on a grid.
    """
    return [piece for patch in patches_of(curve) for piece in patch.pieces]
