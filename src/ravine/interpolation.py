"""Reading a resolved result between its points: Chebyshev interpolants, from the saved result alone.

A resolved line holds *pieces*, each with the degree of an interpolant through the Chebyshev points
cos(πk/n), which are among the measured ones; a resolved plane is one *patch*, the product of a
piece on each axis. Where J is positive and spans decades its logarithm is interpolated instead. The
misfit is the largest error that an interpolant made at measured points that it does not go through:
a figure that was measured, not hoped for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev
from scipy.interpolate import BarycentricInterpolator, RBFInterpolator

from ravine.axes import read_axes
from ravine.errors import InputError
from ravine.results import dims_of, quantities, validate


def chebyshev_points(low: float, high: float, degree: int) -> np.ndarray:
    """(degree + 1,) ascending points (low + high)/2 − (high − low)/2 · cos(πk/degree), both ends exactly.

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


@dataclass(frozen=True)
class Piece:
    """One interval of a resolved curve and the degree of the interpolant on it."""

    low: float
    high: float
    degree: int

    @property
    def points(self) -> np.ndarray:
        """The interpolant's points."""
        return chebyshev_points(self.low, self.high, self.degree)

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
        unit = chebyshev_points(-1.0, 1.0, self.degree)
        places = (2 * at - self.low - self.high) / (self.high - self.low)
        weights = (-1.0) ** np.arange(self.degree + 1)
        weights[[0, -1]] /= 2
        return BarycentricInterpolator(unit, values, wi=weights)(places)


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
    """A noise floor known at some places, everywhere: its logarithm is interpolated, as it spans decades.

    Args:
        points: (points, dims) where it is wanted.
        places: (places, dims) where it was estimated.
        floors: (places,) the estimates; what is not finite is left out.

    Returns:
        (points,): on a line straight from place to place, on a plane by the cones of the distances,
        never outside the range of what is known. NaN if nothing is.

    Examples:
        >>> line = np.array([[0.0], [0.5], [1.0]])
        >>> spread_floor(line, line[[0, 2]], np.array([1e-8, 1e-6])).round(9)
        array([1.e-08, 1.e-07, 1.e-06])
    """
    known = np.isfinite(floors)
    if not known.any():
        return np.full(len(points), np.nan)
    logs = np.log(np.maximum(floors[known], np.finfo(np.float64).tiny))
    # the linear kernel with a constant is straight interpolation on a line, and takes scattered
    # places on a plane
    spread = RBFInterpolator(places[known], logs, kernel="linear", degree=0)(points)
    return np.exp(spread.clip(logs.min(), logs.max()))


def is_resolved(result: xr.Dataset) -> bool:
    """Whether a result carries interpolants."""
    return "piece" in result.dims or "check" in result.dims


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
    return [
        Patch((Piece(float(a), float(b), int(n)),))
        for a, b, n in zip(low, high, degree, strict=True)
    ]


def pieces_of(curve: xr.Dataset) -> list[Piece]:
    """The pieces of a resolved line, in order.

    Raises:
        InputError: the result was measured on a grid.
    """
    return [piece for patch in patches_of(curve) for piece in patch.pieces]


def reconstruct(result: xr.Dataset, at: Any) -> xr.Dataset:
    """Read a resolved line or plane anywhere in its interval; no model is needed.

    Args:
        result: what ``resolve`` returned, or the same from its file.
        at: positions within the resolved interval, each once: values of α for a line,
            ``{"alpha": …, "beta": …}`` for a plane.

    Returns:
        A result at those points, with ``q_misfit`` (slice dims…, split) for every quantity: the
        largest error that was measured on the piece which the value was read from. Where a piece is
        not finite, NaN.

    Raises:
        InputError: the result was not resolved, or a point lies outside its interval.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss),
        ...                      (torch.ones(4, 1), torch.zeros(4, 1)), dtype=torch.float64)
        >>> line = ravine.Line({"weight": torch.tensor([[4.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> curve = ravine.resolve(J, along=line)
        >>> float(reconstruct(curve, at=[0.25])["loss"].round(9).item())  # (4 - 3 alpha)^2
        10.5625
    """
    patches = patches_of(validate(result))
    dims = dims_of(result)
    axes = read_axes(at, dims)
    for number, dim in enumerate(dims):
        low, high = patches[0].pieces[number].low, patches[-1].pieces[number].high
        if not ((axes[dim] >= low) & (axes[dim] <= high)).all():
            msg = f"at must be points within the resolved interval [{low:g}, {high:g}] of {dim}"
            raise InputError(msg)
    result = result.sortby(list(dims))
    measured = [result[dim].values for dim in dims]
    homes = [_homes(patches, number, axes[dim]) for number, dim in enumerate(dims)]
    variables: dict[str, Any] = {"n_examples": result["n_examples"]}
    for name in quantities(result):
        held = {key: result[key].transpose(*dims, "split", ...) for key in _parts(name)}
        shape = tuple(map(len, axes.values()))
        out = {
            key: np.full((*shape, *array.shape[len(dims) :]), np.nan) for key, array in held.items()
        }
        errors = np.full(out[name].shape, np.nan)
        for number, patch in enumerate(patches):
            here = [np.flatnonzero(home == number) for home in homes]
            if not all(map(len, here)):
                continue
            rows = np.ix_(
                *(piece.rows(axis) for piece, axis in zip(patch.pieces, measured, strict=True))
            )
            logs, misfits = _chosen(result, name, number)
            errors[np.ix_(*here)] = misfits
            places = [axis[part] for axis, part in zip(axes.values(), here, strict=True)]
            for split, log in enumerate(logs):
                values = {
                    key: array.values[(*rows, split)].astype(np.float64)
                    for key, array in held.items()
                }
                for key, found in _read(patch, name, values, places, log=bool(log)):
                    out[key][(*np.ix_(*here), split)] = found
        for key, array in held.items():
            variables[key] = (array.dims, out[key], array.attrs)
        variables[f"{name}_misfit"] = ((*dims, "split"), errors)
    return xr.Dataset(
        variables,
        coords={
            **{dim: (dim, axis, result[dim].attrs) for dim, axis in axes.items()},
            "distance": (dims, _distance(result.attrs, axes), result["distance"].attrs),
            "split": result["split"],
        },
        attrs={**result.attrs, "sampling": "reconstructed"},
    )


def densely(result: xr.Dataset, points: int = 601) -> xr.Dataset:
    """A resolved result at many evenly spaced points, and at those that were measured: to draw it, or to search it."""
    patches, axes = patches_of(result), {}
    for number, dim in enumerate(dims_of(result)):
        low, high = patches[0].pieces[number].low, patches[-1].pieces[number].high
        places = np.concatenate([np.linspace(low, high, points), result[dim].values, [0.0, 1.0]])
        axes[dim] = np.unique(places[(places >= low) & (places <= high)])
    return reconstruct(result, axes)


def _homes(patches: Sequence[Patch], axis: int, places: np.ndarray) -> np.ndarray:
    """The number of the patch that each place on an axis is read from."""
    lows = [patch.pieces[axis].low for patch in patches]
    return np.clip(np.searchsorted(lows, places, side="right") - 1, 0, len(patches) - 1)


def _chosen(result: xr.Dataset, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """For every split, whether the logarithm is interpolated on a patch, and the largest error that was measured."""
    logs, misfits = result[f"{name}_log"].values, result[f"{name}_misfit"].values
    return (
        (logs, misfits.max(axis=0)) if "check" in result.dims else (logs[number], misfits[number])
    )


def _read(
    patch: Patch,
    name: str,
    values: Mapping[str, np.ndarray],
    places: Sequence[np.ndarray],
    *,
    log: bool,
) -> Iterator[tuple[str, np.ndarray]]:
    """A quantity on one split with its parts, which follow its scale where the logarithm is interpolated."""
    mean = values[name]
    read = patch.read(mean, places, log=log)
    yield name, read
    for key in _parts(name)[1:]:
        extra = [1] * (values[key].ndim - mean.ndim)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = values[key] / mean.reshape(*mean.shape, *extra) if log else values[key]
        found = patch.read(spread, places) * (read.reshape(*read.shape, *extra) if log else 1.0)
        yield (
            key,
            found if key.endswith("_replicates") else found.clip(min=0),
        )  # an interpolant may swing below 0


def _distance(attrs: Mapping[Any, Any], axes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Distance from the slice's first corner, from the lengths and the angle in a result's attributes."""
    if "beta" not in axes:
        return np.abs(axes["alpha"]) * float(attrs["length"])
    a, b = (
        axes["alpha"][:, None] * float(attrs["length_a"]),
        axes["beta"] * float(attrs["length_b"]),
    )
    return np.sqrt((a**2 + b**2 + 2 * a * b * float(attrs["cosine"])).clip(0))


def _parts(name: str) -> list[str]:
    return [name, f"{name}_stderr", f"{name}_replicates", f"{name}_noise_floor"]


def critical_points(curve: xr.Dataset, quantity: str, split: str) -> np.ndarray:
    """Where the interpolant of one quantity on one split is stationary or bends: roots of its two derivatives."""
    curve = curve.sortby("alpha")
    values = curve[quantity].sel(split=split).values
    return np.array(sorted(_roots(curve, values)))


def _roots(curve: xr.Dataset, values: np.ndarray) -> Iterator[float]:
    for piece in pieces_of(curve):
        there = values[piece.rows(curve["alpha"].values)]
        if not np.isfinite(there).all():
            continue
        unit = chebyshev_points(-1.0, 1.0, piece.degree)
        series = chebyshev.chebfit(unit, there, piece.degree)
        for order in (1, 2):
            found = chebyshev.chebroots(
                chebyshev.chebtrim(chebyshev.chebder(series, order), 1e-12 * np.ptp(there))
            )
            real = found[np.abs(found.imag) < 1e-8].real
            yield from (
                piece.low + piece.high + (piece.high - piece.low) * real[np.abs(real) < 1]
            ) / 2
