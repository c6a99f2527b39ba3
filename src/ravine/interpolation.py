"""Reading a resolved curve between its points: Chebyshev interpolants, from the saved result alone.

A resolved result holds *pieces*, each with the degree of an interpolant through the Chebyshev points
cos(πk/n), which are among the measured ones. Where the curve is positive and spans decades its logarithm is
interpolated instead. The misfit of a piece is the largest error that its interpolant made at measured points
that it does not go through: a figure that was measured, not hoped for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev
from scipy.interpolate import BarycentricInterpolator

from ravine.errors import InputError
from ravine.results import quantities, validate


def chebyshev_points(low: float, high: float, degree: int) -> np.ndarray:
    """(degree + 1,) ascending points (low + high)/2 − (high − low)/2 · cos(πk/degree), both ends exactly.

    Doubling the degree keeps every point.

    Example:
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
                f"the result lacks points of its piece [{self.low:g}, {self.high:g}]; it was cut after it was resolved"
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


def read_values(piece: Piece, values: np.ndarray, at: np.ndarray, *, log: bool) -> np.ndarray:
    """One quantity between its points, through its logarithm if so chosen."""
    if not np.isfinite(values).all():
        return np.full(at.shape, np.nan)
    return np.exp(piece.read(np.log(values), at)) if log else piece.read(values, at)


def spread_floor(alpha: np.ndarray, places: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """A noise floor known at some places, everywhere: read off log-linearly between them, as it spans decades.

    Example:
        >>> spread_floor(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0]), np.array([1e-8, 1e-6]))
        array([1.e-08, 1.e-07, 1.e-06])
    """
    known = np.isfinite(floors)
    if not known.any():
        return np.full_like(alpha, np.nan)
    order = np.argsort(places[known])
    logs = np.log(np.maximum(floors[known], np.finfo(np.float64).tiny))
    return np.exp(np.interp(alpha, places[known][order], logs[order]))


def is_resolved(curve: xr.Dataset) -> bool:
    """Whether a result carries interpolants."""
    return "piece" in curve.dims


def pieces_of(curve: xr.Dataset) -> list[Piece]:
    """The pieces of a resolved result, in order.

    Raises:
        InputError: the result was measured on a grid.
    """
    if not is_resolved(curve):
        msg = "this result was measured on a grid, so it cannot be read between its points; use ravine.resolve"
        raise InputError(msg)
    low, high, degree = (curve[f"piece_{name}"].values for name in ("low", "high", "degree"))
    return [Piece(float(a), float(b), int(n)) for a, b, n in zip(low, high, degree, strict=True)]


def reconstruct(curve: xr.Dataset, at: Any) -> xr.Dataset:
    """Read a resolved curve anywhere in its interval; no model is needed.

    Args:
        curve: what ``resolve`` returned, or the same from its file.
        at: values of α within the resolved interval, each once.

    Returns:
        A result at those points, with ``q_misfit`` (alpha, split) for every quantity: the largest error that
        was measured on the piece which the value was read from. Where a piece is not finite, NaN.

    Raises:
        InputError: the result was not resolved, or a point lies outside its interval.

    Example:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss),
        ...                      (torch.ones(4, 1), torch.zeros(4, 1)), dtype=torch.float64)
        >>> line = ravine.Line({"weight": torch.tensor([[4.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> curve = ravine.resolve(J, along=line)
        >>> float(reconstruct(curve, at=[0.25])["loss"].round(9).item())  # (4 - 3 alpha)^2
        10.5625
    """
    validate(curve)
    pieces = pieces_of(curve)
    places = np.atleast_1d(np.asarray(at, dtype=np.float64))
    low, high = pieces[0].low, pieces[-1].high
    if places.ndim != 1 or not places.size or not ((places >= low) & (places <= high)).all():
        msg = f"at must be points within the resolved interval [{low:g}, {high:g}]"
        raise InputError(msg)
    curve = curve.sortby("alpha")
    measured = curve["alpha"].values
    which = np.clip(np.searchsorted([p.low for p in pieces], places, side="right") - 1, 0, len(pieces) - 1)
    variables: dict[str, Any] = {"n_examples": curve["n_examples"]}
    for name in quantities(curve):
        out = {key: np.full((len(places), *curve[key].shape[1:]), np.nan) for key in _parts(name)}
        errors = np.full(out[name].shape, np.nan)
        for number, piece in enumerate(pieces):
            here = np.flatnonzero(which == number)
            if not here.size:
                continue
            rows = piece.rows(measured)
            errors[here] = curve[f"{name}_misfit"].values[number]
            for split in range(curve.sizes["split"]):
                log = bool(curve[f"{name}_log"].values[number, split])
                values = curve[name].values[rows, split]
                read = read_values(piece, values, places[here], log=log)
                out[name][here, split] = read
                for key in _parts(name)[1:]:
                    spread = curve[key].values[rows, split].astype(np.float64)
                    if not np.isfinite(spread).all() or not np.isfinite(values).all():
                        continue
                    scale = values.reshape(-1, *[1] * (spread.ndim - 1)) if log else 1.0
                    found = piece.read(spread / scale, places[here])
                    out[key][here, split] = found * (read.reshape(-1, *[1] * (spread.ndim - 1)) if log else 1.0)
        for key in _parts(name):
            variables[key] = (curve[key].dims, out[key], curve[key].attrs)
        variables[f"{name}_misfit"] = (("alpha", "split"), errors)
    length = float(curve.attrs["length"])
    return xr.Dataset(
        variables,
        coords={
            "alpha": ("alpha", places, curve["alpha"].attrs),
            "distance": ("alpha", np.abs(places) * length, curve["distance"].attrs),
            "split": curve["split"],
        },
        attrs={**curve.attrs, "sampling": "reconstructed"},
    )


def densely(curve: xr.Dataset, points: int = 601) -> xr.Dataset:
    """A resolved curve at many evenly spaced points, and at those that were measured: to draw it, or to search it."""
    pieces, measured = pieces_of(curve), curve["alpha"].values
    low, high = pieces[0].low, pieces[-1].high
    places = np.concatenate([np.linspace(low, high, points), measured, [0.0, 1.0]])
    return reconstruct(curve, np.unique(places[(places >= low) & (places <= high)]))


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
            found = chebyshev.chebroots(chebyshev.chebtrim(chebyshev.chebder(series, order), 1e-12 * np.ptp(there)))
            real = found[np.abs(found.imag) < 1e-8].real
            yield from (piece.low + piece.high + (piece.high - piece.low) * real[np.abs(real) < 1]) / 2
