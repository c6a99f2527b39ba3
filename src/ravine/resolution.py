"""Resolve: as many points as the curve needs, and the error of what lies between them, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.polynomial import chebyshev

from ravine.errors import InputError
from ravine.evaluation import measured_at
from ravine.interpolation import Piece, chebyshev_points, read_values, spread_floor
from ravine.objective import Objective
from ravine.results import quantities
from ravine.slices import Slice

_FIRST_DEGREE: Final = 16
_LAST_DEGREE: Final = 64
_CHECKS: Final = 8
_CAUTION: Final = 1 / 3  # of what is allowed, at the checks: they are few, and the worst place is another
_NARROWEST: Final = 1e-3  # of the interval: a piece is not split further


@dataclass
class _Open:
    """A piece that is being resolved."""

    low: float
    high: float
    degree: int

    @property
    def piece(self) -> Piece:
        return Piece(self.low, self.high, self.degree)

    @property
    def checks(self) -> np.ndarray:
        """A few of the points that the next degree adds, one from each stretch: nothing measured is wasted."""
        finer = chebyshev_points(self.low, self.high, 2 * self.degree)[1::2]
        stretches = np.array_split(np.arange(self.degree), min(_CHECKS, self.degree))
        draw = np.random.default_rng([self.degree, int(1e6 * abs(self.low)), int(1e6 * abs(self.high))])
        return finer[[int(draw.choice(stretch)) for stretch in stretches]]

    @property
    def wanted(self) -> np.ndarray:
        return np.concatenate([self.piece.points, self.checks])


def resolve(
    objective: Objective,
    *,
    along: Slice,
    tolerance: float = 1e-3,
    interval: tuple[float, float] = (0.0, 1.0),
    max_points: int = 513,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
) -> xr.Dataset:
    """Measure the curve at as few points as its interpolant needs to be right everywhere in an interval.

    The curve is measured at the 17 Chebyshev points of the interval and at 8 more; if the interpolant through the
    17 misses one of the 8 (or any other measured point), the degree is doubled, up to 64, and then the interval is
    split where it is worst. An interpolant of the logarithm is taken where that is the better one. Every quantity
    on every split has to pass: |Ĵ − J| ≤ tolerance · max(|J(α)|, range/1000), or the noise floor where that is
    larger, or for a 0-1 quantity, which is a step function of α, twice its standard error. At the checks a third of
    that is asked for, since they are few; and the series must have decayed, so that a kink between all checks is seen.
    What was measured is the error at the checks; between them it is larger at times, about threefold on networks
    with few examples, whose ReLU kinks do not average out.

    What is narrower than the gap between neighbouring points can hide: the result's attribute ``largest_gap``
    says how wide that is.

    Args:
        objective: what to measure.
        along: a ``Line``.
        tolerance: relative to the local value, dimensionless.
        interval: from and to, in α; inside or outside [0, 1].
        max_points: stop here. What does not resolve by then is said so (``resolved`` = 0, and ``piece_resolved``),
            never smoothed over.
        title: what to call the result in figures and reports.
        command: what reproduces it, kept in the result.
        progress: as in ``evaluate``.

    Returns:
        A result as of ``evaluate``, at the points that were measured, with the pieces that ``reconstruct`` reads.

    Raises:
        InputError: as ``evaluate``; or the interval or the tolerance make no sense.

    Example:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss),
        ...                      (torch.ones(4, 1), torch.zeros(4, 1)), dtype=torch.float64)
        >>> line = ravine.Line({"weight": torch.tensor([[4.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> curve = resolve(J, along=line)
        >>> curve.sizes["alpha"], curve.attrs["resolved"]
        (25, 1)

    References:
        Trefethen 2013, Approximation Theory and Approximation Practice.
    """
    low, high = _checked(tolerance, interval, max_points)
    opened = [_Open(low, high, _FIRST_DEGREE)]
    closed: list[tuple[Piece, _Fit]] = []
    result: xr.Dataset | None = None
    while opened:
        known = result["alpha"].values if result is not None else np.array([])
        wanted = _new(np.concatenate([one.wanted for one in opened]), known)
        if wanted.size and len(known) + len(wanted) > max_points and result is not None:
            break
        if wanted.size:
            fresh = measured_at(
                objective, along, wanted, title=title, command=command, progress=progress, probing=result is None
            )
            result = fresh if result is None else _joined(result, fresh)
        assert result is not None  # the first round always measures
        opened, done = _judged(opened, result, tolerance, _NARROWEST * (high - low))
        closed += done
    assert result is not None
    closed += [(piece, _fit(piece, result, tolerance)) for one in opened for piece in _measured_pieces(one, result)]
    return _labelled(result, closed, tolerance)


def _checked(tolerance: float, interval: tuple[float, float], max_points: int) -> tuple[float, float]:
    low, high = map(float, interval)
    if not (np.isfinite([low, high]).all() and low < high):
        msg = f"interval must be two finite numbers, the smaller one first; got {interval!r}"
        raise InputError(msg)
    if not 0 < tolerance < 1:
        msg = f"tolerance must lie between 0 and 1; got {tolerance!r}"
        raise InputError(msg)
    least = _FIRST_DEGREE + 1 + _CHECKS
    if max_points < least:
        msg = f"max_points must be at least {least}; got {max_points!r}"
        raise InputError(msg)
    return low, high


@dataclass
class _Fit:
    """How well the interpolants of a piece do at the measured points that they do not go through.

    Attributes:
        ratio: the worst error in units of what is allowed; inf where the piece holds both finite and other values.
        worst: where that is.
        log: quantity → per split, whether the logarithm is interpolated.
        misfit: quantity → per split, the largest error, in the quantity's unit.
        finite: whether all measured values on the piece are finite; None if none is.
    """

    ratio: float
    worst: float
    log: dict[str, np.ndarray]
    misfit: dict[str, np.ndarray]
    finite: bool | None


def _fit(piece: Piece, result: xr.Dataset, tolerance: float) -> _Fit:
    alpha = result["alpha"].values
    rows = piece.rows(alpha)
    inside = np.flatnonzero((alpha >= piece.low) & (alpha <= piece.high))
    others = np.setdiff1d(inside, rows)
    splits = range(result.sizes["split"])
    fit = _Fit(0.0, np.nan, {}, {}, finite=True)
    everything = np.stack([np.isfinite(result[name].values[inside]) for name in quantities(result)])
    for name in quantities(result):
        fit.log[name] = np.zeros(len(splits), dtype=np.int8)
        fit.misfit[name] = np.full(len(splits), np.nan)
        for split in splits:
            values, allowed = result[name].values[:, split], _allowed(result, name, split, tolerance)
            if not np.isfinite(values[inside]).all() or not others.size:
                continue
            ways = [False, True] if (values[inside] > 0).all() else [False]
            errors = [np.abs(read_values(piece, values[rows], alpha[others], log=log) - values[others]) for log in ways]
            floor = _floor(result, name, split, rows)
            tails = [_tail(piece, values[rows], allowed[rows], floor, log=log) for log in ways]
            tails = [0.0] * len(ways) if _counted(result, name) else tails  # steps have no series to speak of
            share = 1.0 if _counted(result, name) else _CAUTION
            ratios = [
                np.maximum(error / (share * allowed[others]), tail) for error, tail in zip(errors, tails, strict=True)
            ]
            best = int(np.argmin([ratio.max() for ratio in ratios]))
            fit.log[name][split] = best
            fit.misfit[name][split] = errors[best].max()
            if ratios[best].max() > fit.ratio or np.isnan(fit.worst):
                fit.ratio = float(ratios[best].max())
                fit.worst = float(alpha[others][np.argmax(errors[best] / allowed[others])])
    if not everything.any():
        fit.finite = None
    elif not everything.all():
        fit.finite, fit.ratio = False, np.inf
        good = np.asarray(everything.all(axis=(0, 2)))
        changes = np.flatnonzero(good[1:] != good[:-1])
        edge = int(changes[0]) if changes.size else len(inside) // 2 - 1
        fit.worst = float(alpha[inside][edge : edge + 2].mean())
    return fit


def _tail(piece: Piece, values: np.ndarray, allowed: np.ndarray, floor: float, *, log: bool) -> float:
    """What the terms beyond the degree may add, in units of what is allowed.

    The series of a smooth curve decays geometrically, that of a kink or of a spike seen in passing hardly at all.
    The decay from the third to the last quarter of the coefficients is taken to go on; so this sees what lies between
    all checks. Coefficients within the noise floor say nothing about decay.
    """
    series = np.log(values) if log else values
    most = (allowed / values).min() if log else allowed.min()
    unit = chebyshev_points(-1.0, 1.0, piece.degree)
    terms = np.abs(chebyshev.chebfit(unit, series, piece.degree))
    before, last = terms[piece.degree // 2 : 3 * piece.degree // 4].max(), terms[3 * piece.degree // 4 :].max()
    if last <= 2 * floor / (values.min() if log else 1.0):
        return float(last / most)
    decay = min(last / before, 0.999) if before > 0 else 0.999
    return float(max(last, last * decay / (1 - decay) * (piece.degree / 4) ** 0.5) / most)


def _counted(result: xr.Dataset, name: str) -> bool:
    return bool(result[name].attrs.get("counted", 0))


def _floor(result: xr.Dataset, name: str, split: int, rows: np.ndarray) -> float:
    return float(np.nan_to_num(result[f"{name}_noise_floor"].values[rows, split]).max())


def _allowed(result: xr.Dataset, name: str, split: int, tolerance: float) -> np.ndarray:
    """The error that is allowed at each measured point."""
    values = result[name].values[:, split]
    finite = values[np.isfinite(values)]
    extent = float(np.ptp(finite)) if finite.size else 0.0
    allowed = tolerance * np.maximum(np.abs(values), extent / 1000)
    floor = np.nan_to_num(result[f"{name}_noise_floor"].values[:, split])
    if _counted(result, name):
        floor = np.maximum(floor, np.nan_to_num(result[f"{name}_stderr"].values[:, split]).max())  # doubled below
    return np.maximum(np.maximum(allowed, 2 * floor), np.finfo(float).tiny)


def _judged(
    opened: list[_Open], result: xr.Dataset, tolerance: float, narrowest: float
) -> tuple[list[_Open], list[tuple[Piece, _Fit]]]:
    """Which pieces go on (finer, or split), and which are done."""
    still: list[_Open] = []
    done: list[tuple[Piece, _Fit]] = []
    for one in opened:
        fit = _fit(one.piece, result, tolerance)
        if fit.ratio <= 1 or fit.finite is None or one.high - one.low <= narrowest:
            done.append((one.piece, fit))
        elif fit.finite and one.degree < _LAST_DEGREE:
            still.append(_Open(one.low, one.high, 2 * one.degree))
        else:
            margin = 0.1 * (one.high - one.low)
            cut = float(np.clip(fit.worst, one.low + margin, one.high - margin))
            still += [_Open(one.low, cut, _FIRST_DEGREE), _Open(cut, one.high, _FIRST_DEGREE)]
    return still, done


def _new(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The wanted points that have not been measured, each once."""
    fresh: list[float] = []
    taken = np.sort(known)
    for point in np.unique(wanted):
        near = (
            taken[np.clip(np.searchsorted(taken, point) + np.array([-1, 0]), 0, len(taken) - 1)] if taken.size else []
        )
        close = 1e-12 * max(1.0, abs(point))
        if all(abs(point - other) > close for other in near) and (not fresh or point - fresh[-1] > close):
            fresh.append(float(point))
    return np.array(fresh)


def _has(piece: Piece, result: xr.Dataset) -> bool:
    try:
        piece.rows(result["alpha"].values)
    except InputError:
        return False
    return True


def _measured_pieces(one: _Open, result: xr.Dataset) -> list[Piece]:
    """What stands for a piece that was not finished: its interpolant of the degree before, or straight lines."""
    for degree in (one.degree, one.degree // 2):
        if _has(Piece(one.low, one.high, degree), result):
            return [Piece(one.low, one.high, degree)]
    alpha = result["alpha"].values
    inside = alpha[(alpha >= one.low) & (alpha <= one.high)]
    places = np.unique(np.concatenate([[one.low], inside, [one.high]]))
    lines = [Piece(float(low), float(high), 1) for low, high in zip(places, places[1:], strict=False)]
    return [line for line in lines if _has(line, result)]


def _joined(result: xr.Dataset, fresh: xr.Dataset) -> xr.Dataset:
    joined = xr.concat(
        [result, fresh],
        dim="alpha",
        data_vars="minimal",
        combine_attrs="override",
        join="override",
        coords="minimal",
        compat="override",
    ).sortby("alpha")
    alpha = joined["alpha"].values
    for name in quantities(joined):
        both = [bool(part[name].attrs.get("counted", 0)) for part in (result, fresh)]
        if any(both) and not all(both):  # whole numbers by chance so far: neither a count nor a floor of one example
            joined[name].attrs["counted"] = 0
            joined[f"{name}_noise_floor"][:] = np.nan
        floor = joined[f"{name}_noise_floor"]
        for split in range(joined.sizes["split"]):
            floor[:, split] = spread_floor(alpha, alpha, floor.values[:, split])
    seconds = float(result.attrs["wall_seconds"]) + float(fresh.attrs["wall_seconds"])
    return joined.assign_attrs({**result.attrs, "wall_seconds": round(seconds, 3)})


def _labelled(result: xr.Dataset, closed: list[tuple[Piece, _Fit]], tolerance: float) -> xr.Dataset:
    result = result.sortby("alpha")
    closed = sorted(closed, key=lambda entry: entry[0].low)
    variables: dict[str, Any] = {
        "piece_low": ("piece", np.array([piece.low for piece, _ in closed])),
        "piece_high": ("piece", np.array([piece.high for piece, _ in closed])),
        "piece_degree": ("piece", np.array([piece.degree for piece, _ in closed])),
        "piece_resolved": ("piece", np.array([int(_is_resolved(piece, fit)) for piece, fit in closed])),
    }
    for name in quantities(result):
        variables[f"{name}_log"] = (("piece", "split"), np.stack([fit.log[name] for _, fit in closed]))
        variables[f"{name}_misfit"] = (("piece", "split"), np.stack([fit.misfit[name] for _, fit in closed]))
    resolved = int(variables["piece_resolved"][1].all())
    return result.assign(variables).assign_attrs(
        sampling="resolved",
        tolerance=tolerance,
        resolved=resolved,
        largest_gap=float(np.diff(result["alpha"].values).max()),
    )


def _is_resolved(piece: Piece, fit: _Fit) -> bool:
    """Straight lines stand for what was not resolved, and have no check of their own."""
    return piece.degree > 1 and (fit.ratio <= 1 or fit.finite is None)
