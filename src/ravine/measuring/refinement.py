"""How far an interpolant may err, how far it is known to, and measured points put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev

from ravine.errors import InputError
from ravine.result.interpolant import Piece, spread_floor
from ravine.result.schema import quantities

#: Of what is allowed, at the checks: they are few, and the worst place is another.
CAUTION = 0.4

#: A noise floor that is so many times what a quarter of the points have comes from a jump.
_JUMP = 100


def drivers(result: xr.Dataset, drive: str | Sequence[str]) -> tuple[str, ...]:
    """The quantities that points are added for.

    Args:
        result: measured points.
        drive: a quantity's name, several, or ``"all"``.

    Returns:
        Their names.

    Raises:
        InputError: there is no such quantity, or none is named.
    """
    known = quantities(result)
    if drive == "all":
        return tuple(known)
    asked = (drive,) if isinstance(drive, str) else tuple(drive)
    if not asked or not set(asked) <= set(known):
        msg = f"drive must be 'all' or among the objective's quantities, {known}; got {drive!r}"
        raise InputError(msg)
    return asked


def allowed_error(
    result: xr.Dataset, name: str, split: int, tolerance: float, least: float = 0.0
) -> np.ndarray:
    """The error allowed at each measured point: relative to the local value, or what noise may do.

    Args:
        result: measured points on one dim.
        name: of the quantity.
        split: number of the split.
        tolerance: relative to max(|J|, range/1000).
        least: what is allowed anyway, in the quantity's unit.

    Returns:
        (points,), in the quantity's unit.
    """
    values = result[name].values[:, split]
    extent = _extent(values)
    allowed = np.maximum(tolerance * np.maximum(np.abs(values), extent / 1000), least)
    floor = rounding_of(result, name, split, tolerance)
    if is_counted(result, name):
        floor = np.maximum(
            floor, np.nan_to_num(result[f"{name}_stderr"].values[:, split]).max()
        )  # doubled below
    return np.maximum(np.maximum(allowed, 2 * floor), np.finfo(float).tiny)


def rounding_of(result: xr.Dataset, name: str, split: int, tolerance: float) -> np.ndarray:
    """The noise floor, without what a jump of the curve did to it.

    Beside a jump the rounding of the parameters decides on which side a point lies: there the
    estimate is the height of the jump, and it is spread up to the next places where rounding was
    estimated. Rounding itself is about as large elsewhere, in absolute terms or in relative ones.

    Args:
        result: measured points on one dim.
        name: of the quantity.
        split: number of the split.
        tolerance: of the range; floors up to there are taken as they are.

    Returns:
        (points,), in the quantity's unit; 0 where nothing is known.
    """
    floor = np.nan_to_num(result[f"{name}_noise_floor"].values[:, split])
    values = result[name].values[:, split]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = _usual(floor / np.abs(values)) * np.abs(values)
    return np.minimum(floor, np.fmax(max(_usual(floor), tolerance * _extent(values)), relative))


def _extent(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if finite.size else 0.0


def _usual(floor: np.ndarray) -> float:
    """What a noise floor may be where it is not from a jump: many times what most points have."""
    finite = floor[np.isfinite(floor)]
    return _JUMP * float(np.quantile(finite, 0.25)) if finite.size else 0.0


def is_counted(result: xr.Dataset, name: str) -> bool:
    """Whether a quantity is a count of examples, whose curve is a staircase."""
    return bool(result[name].attrs.get("counted", 0))


def tail(
    piece: Piece, values: np.ndarray, allowed: np.ndarray, floor: np.ndarray, *, log: bool
) -> float:
    """What the terms beyond the degree may add to some curves, in units of what is allowed.

    The series of a smooth curve decays geometrically, that of a kink or of a spike seen in passing
    hardly at all. The decay from the third to the last quarter of the coefficients is taken to go
    on; so this sees what lies between all checks. Several curves along one axis have one decay,
    that of their largest coefficients: from each alone it would be a matter of chance. A curve
    whose coefficients are within the noise floor says nothing about decay.

    Args:
        piece: of the interpolants.
        values: (degree + 1, curves) at its points.
        allowed: of that shape.
        floor: of that shape; the noise floor.
        log: whether the logarithm is interpolated.
    """
    scale = values if log else np.ones_like(values)
    most, noise = (allowed / scale).min(axis=0), 2 * (floor / scale).max(axis=0)
    degree = piece.degree
    terms = np.abs(chebyshev.chebfit(piece.unit, np.log(values) if log else values, degree))
    third, fourth = slice(degree // 2, 3 * degree // 4), slice(3 * degree // 4, None)
    quiet = terms[fourth].max(axis=0) <= noise
    least = float((terms[fourth] / most).max())
    if quiet.all():
        return least
    before, last = ((terms[part] / most)[:, ~quiet].max() for part in (third, fourth))
    decay = min(last / before, 0.999) if before > 0 else 0.999
    return float(max(least, last * decay / (1 - decay) * (degree / 4) ** 0.5))


def degree_for(piece: Piece, values: np.ndarray, worst: float, *, log: bool) -> float:
    """The degree at which a curve would pass, if its series went on decaying as it does.

    Args:
        piece: of the interpolant.
        values: (degree + 1,) at its points.
        worst: its worst error at a check, in units of what is allowed.
        log: whether the logarithm is interpolated.

    Returns:
        It, with a fraction; many times the piece's where the series does not decay.
    """
    degree = piece.degree
    terms = np.abs(chebyshev.chebfit(piece.unit, np.log(values) if log else values, degree))
    second, fourth = terms[degree // 4 : degree // 2].max(), terms[3 * degree // 4 :].max()
    halved = min(fourth / second, 0.999) if second > 0 else 0.999  # over half of the terms
    return degree * (1 + np.log(max(worst, 1.0)) / np.log(1 / max(halved, 1e-9)) / 2)


@dataclass(frozen=True)
class Candidate:
    """One way to read a quantity between its points, and how it does at the others.

    Attributes:
        log: whether the logarithm is interpolated.
        errors: (checks,) in the quantity's unit.
        ratios: (checks,) the errors in units of what may be made.
        tails: along each axis, what the terms beyond the degree may add, in the same units.
    """

    log: bool
    errors: np.ndarray
    ratios: np.ndarray
    tails: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The worst of them all: up to 1 is good."""
        return max(float(self.ratios.max()), *self.tails)


def best_reading(
    values: np.ndarray,
    allowed: np.ndarray,
    *,
    positive: bool,
    counted: bool,
    read: Callable[[bool], np.ndarray],
    tails: Callable[[bool], tuple[float, ...]],
) -> Candidate:
    """The better of two interpolants: of the values, or, if positive, of their logarithm.

    Args:
        values: (checks,) measured, where the interpolants do not go through the points.
        allowed: (checks,) the error that is allowed.
        positive: whether all values are, at the checks and elsewhere.
        counted: whether it is a count of examples: steps have no series to speak of.
        read: whether the logarithm is interpolated → (checks,) what the interpolant gives.
        tails: the same → what the terms beyond the degree may add along each axis.

    Returns:
        The one whose worst is least.
    """
    share = 1.0 if counted else CAUTION
    found = []
    for log in (False, True) if positive else (False,):
        errors = np.abs(read(log) - values)
        ends = (0.0,) if counted else tails(log)
        found.append(Candidate(log, errors, errors / (share * allowed), ends))
    return min(found, key=lambda candidate: candidate.worst)


def joined(result: xr.Dataset, fresh: xr.Dataset, dim: str, axes: Sequence[str]) -> xr.Dataset:
    """Two sets of measured points as one.

    Noise floors are estimated in the first, and spread over the second.

    Args:
        result: what was measured before.
        fresh: what was measured now, of the same objective.
        dim: the dim that the points stand on.
        axes: names of their coordinates.
    """
    both = xr.concat(
        [result, fresh],
        dim=dim,
        data_vars="minimal",
        combine_attrs="override",
        join="override",
        coords="minimal",
        compat="override",
    )
    places, known = (np.stack([part[axis].values for axis in axes], 1) for part in (fresh, result))
    first = result.sizes[dim]
    for name in quantities(both):
        counted = [is_counted(part, name) for part in (result, fresh)]
        if any(counted) and not all(
            counted
        ):  # whole numbers by chance so far: neither a count nor a floor of one
            both[name].attrs["counted"] = 0
            both[f"{name}_noise_floor"][:] = np.nan
        shares = [bool(part[name].attrs.get("share", 0)) for part in (result, fresh)]
        both[name].attrs["share"] = int(all(shares))
        floor = both[f"{name}_noise_floor"]
        for split in range(both.sizes["split"]):
            floor[first:, split] = spread_floor(places, known, floor.values[:first, split])
    seconds = float(result.attrs["wall_seconds"]) + float(fresh.attrs["wall_seconds"])
    return both.assign_attrs({**result.attrs, "wall_seconds": round(seconds, 3)})
