"""Resolve: as many points as the curve needs, and the error of what lies between them, measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final, get_args

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.measuring.labelling import on_axes
from ravine.measuring.looks import Question, answered, precise
from ravine.measuring.planes import FIRST_DEGREE, resolve_plane
from ravine.measuring.refinement import (
    CAUTION,
    Candidate,
    allowed_error,
    best_reading,
    degree_for,
    drivers,
    is_counted,
    joined,
    rounding_of,
    tail,
)
from ravine.measuring.rounds import Rounds, require_objective, require_slice, with_reuse
from ravine.metrics.inference import LEVEL, What, require_asked
from ravine.objective.objective import Objective
from ravine.points.slices import Slice
from ravine.result.axes import read_intervals
from ravine.result.interpolant import Patch, Piece, stationary
from ravine.result.schema import quantities
from ravine.store.executors import workers_of
from ravine.store.ledger import ledger_at

#: Degrees that an interpolant goes through → how many of its points are predicted by the
#: others, the last of the sequence. A curve that needs many terms may have kinks: it is
#: checked at more points.
_HELD_OUT: Final = {
    **dict.fromkeys((12, 16), 4),
    **dict.fromkeys(range(20, 52, 4), 8),
    **dict.fromkeys((52, 56, 60, 64, 80, 96), 12),
}
_DEGREES: Final = tuple(_HELD_OUT)
_LEAST_DEGREE: Final = _DEGREES[0]  # of a piece that was split off, and of a question's curve
#: Networks' curves hardly ever pass with fewer points: a second pass over the data is saved.
_FIRST_DEGREE: Final = _DEGREES[1]
_LAST_DEGREE: Final = _DEGREES[-1]
_TELLING_DEGREE: Final = 48  # from here on, how a series decays tells whether more terms will do
#: A curve that passes gets more points, up to this degree, until the error is so small a share of
#: its range that decisions do not suffer: a bump is a thousandth of it.
_AMPLE_DEGREE: Final = 24
_FINE: Final = 2e-4
_EXTREMA_ROUNDS: Final = 3  # passes in which extremes of the interpolant are measured
_NARROWEST: Final = 1e-3  # of the interval: a piece is not split further

#: Points from which the number of examples is foretold that a standard error needs.
_PILOT: Final = 9

#: Kind of slice, by its number of dims → at least and at most how many points are measured; a plane
#: at most what a grid of 51 × 51 costs.
_POINTS: Final = {
    1: (_LEAST_DEGREE + 1, 513),
    2: ((FIRST_DEGREE + 1) ** 2 + 16 + 3, 2601),
}


@dataclass
class _Open:
    """A piece that is being resolved."""

    low: float
    high: float
    degree: int

    @property
    def piece(self) -> Piece:
        return Piece(self.low, self.high, self.degree, "leja")


def resolve(
    objective: Objective,
    *,
    along: Slice,
    tolerance: float = 1e-3,
    interval: tuple[float, float] | Mapping[str, tuple[float, float]] = (0.0, 1.0),
    max_points: int | None = None,
    drive: str | Sequence[str] = "loss",
    decide: What | None = None,
    above: float | None = None,
    level: float = LEVEL,
    stderr: float | None = None,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
    store: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    executor: Any = None,
) -> xr.Dataset:
    """Measure a line or a plane adaptively, to a target interpolation error.

    A line is measured at 17 Leja points of the interval, at first: 13, and four more that the
    interpolant through the 13 has to predict before they join it. Where it does not, more points
    follow, up to 97, each of which is predicted by the interpolant of those before it; as many at a
    time as the decay of the series calls for. Where more terms would not do, the interval is split
    where the prediction is worst. Both ends of the line are measured wherever the interval holds
    them, and check the interpolant too. An interpolant of the logarithm is taken where that is the
    better one. The loss has to pass on every split: |Ĵ − J| ≤ tolerance · max(|J(α)|, range/1000),
    or the noise floor where that is larger. Another quantity has to where it drives the refinement
    too (``drive``); a 0-1 quantity, which is a step function of α, to twice its standard error. One
    that does not drive is measured at the same points, and keeps its own error; where that is more
    than is asked for it is unknown between them. Predictions have to come to 0.4 of that, since
    they are few; and the series must have decayed, so that a kink between all points is seen. A
    curve that passes early gets up to 25 points, until predictions err by 2e-4 of its range at
    most: a bump is 1e-3 of it. Where the interpolant then has an extreme between two points, that
    place is measured too: the height of a barrier is a measured one. What was measured is the error
    of predictions: four where the series decays at once, then eight, twelve in the end. Between the
    points the error is usually smaller, as the interpolant goes through the predicted points too;
    on networks with few examples, whose ReLU kinks do not average out, it is up to twice the
    tolerance in about one curve of a hundred.

    A plane is measured at 9 × 9 Chebyshev points, at 16 checks between them and at its corners. The
    same is asked of the product of the two interpolants, and of the series along every line of
    points; the axis that fails is doubled, up to degree 64. It is never split: what has a kink or a
    value that is not finite stays unresolved.

    **As few examples as the answer needs.** With ``decide`` the loss of the first split is asked
    one question, as ``metrics.decide`` asks it, of a random part of the examples: 500, then four
    times as many, in the end all. The first part that shows or excludes it is the result, and says
    how many examples it has seen (``n_examples``, of ``examples_of``). Each look has its share of
    ``level``, so that at most ``level`` of curves are told otherwise over all looks;
    ``metrics.decide`` of the result keeps to that. Interpolation may err by a quarter of ``above``,
    by half as much at each later look. With ``stderr`` there are as many examples as keep the
    paired standard error of J(α) − J(start) below it. A part is drawn by the examples' own numbers
    and the objective's seed (``Objective.sampled``): whatever their order, the same at all points.

    Features narrower than the gap between neighbouring points may be missed: the result's attribute
    ``largest_gap`` says how wide that is.

    Args:
        objective: what to measure.
        along: a ``Line`` or a ``Plane``.
        tolerance: relative to the local value, dimensionless.
        interval: from and to, in the slice's coordinates, inside or outside [0, 1]; one pair for
            all axes, or ``{"alpha": (0, 1), "beta": (-0.5, 1.5)}``.
        max_points: stop here, by default at 513 on a line and at 2601 on a plane, which is what a
            grid of 51 × 51 costs. What does not resolve by then is said so (``resolved`` = 0, and
            ``piece_resolved`` on a line), never smoothed over.
        drive: the quantities that points are added for: a name, several, or ``"all"``. Steps of an
            error rate take some forty points where the loss takes 17.
        decide: "barrier", "rise", "minimum" or "nonconvex": stop as soon as it is
            shown or excluded.
        above: the height that ``decide`` asks about, in the loss's unit.
        level: the largest share of wrong answers of ``decide``.
        stderr: the largest paired standard error of J(α) − J(start) over the interval, in
            the loss's unit.
        title: what to call the result in figures and reports.
        command: what reproduces it, kept in the result.
        progress: as in ``evaluate``.
        store: likewise.
        fresh: likewise.
        executor: likewise.

    Returns:
        A result as of ``evaluate``, at the points that were measured, with what ``reconstruct``
        reads; ``ravine.result.schema`` describes it.

    Raises:
        InputError: as ``evaluate``; or the interval or the tolerance make no sense, or the
            objective has no such quantity to drive; or ``decide`` and ``stderr`` are given
            together, for a plane, with an executor, or for an objective no part of whose examples
            can be measured by itself.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss),
        ...                      (torch.ones(4, 1), torch.zeros(4, 1)), dtype=torch.float64)
        >>> line = ravine.Line({"weight": torch.tensor([[4.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> curve = resolve(J, along=line)
        >>> curve.sizes["alpha"], curve.attrs["resolved"]
        (17, 1)

    References:
        Trefethen 2013, Approximation Theory and Approximation Practice; De Marchi 2004,
        On Leja sequences.
    """
    require_objective(objective)
    require_slice(along)
    intervals = read_intervals(interval, along.dims)
    if not isinstance(tolerance, Real) or not 0 < tolerance < 1:
        msg = f"tolerance must lie between 0 and 1; got {tolerance!r}"
        raise InputError(msg)
    least, most = _POINTS[len(along.dims)]
    if len(along.dims) == 1:
        least += len(_ends_within(*intervals["alpha"]))
    most = most if max_points is None else max_points
    if most < least:
        msg = f"max_points must be at least {least}; got {max_points!r}"
        raise InputError(msg)

    question = _question(decide, above, level)
    _require_parts(question, stderr, along, executor)

    with ledger_at(store, fresh=fresh) as ledger, workers_of(executor) as crew:

        def rounds(part: Objective) -> Callable[[np.ndarray], xr.Dataset]:
            return Rounds(part, along, title, command, progress, ledger, crew).measure

        def line_of(part: Objective, least: float = 0.0) -> xr.Dataset:
            return _resolve_line(rounds(part), *intervals["alpha"], tolerance, most, drive, least)

        def few_points(part: Objective, _: float) -> xr.Dataset:
            places = np.union1d(np.linspace(*intervals["alpha"], _PILOT), [0.0])
            return on_axes(rounds(part)(places[:, None]), {"alpha": places})

        if len(along.dims) == 2:
            found = resolve_plane(rounds(objective), intervals, tolerance, most, drive)
        elif question is not None:
            found = answered(question, objective, line_of)
        elif stderr is not None:
            found = precise(stderr, objective, line_of, few_points)
        else:
            found = line_of(objective)
        return with_reuse(found, ledger, progress)


def _question(what: What | None, above: float | None, level: float) -> Question | None:
    if what is None:
        if above is not None:
            msg = "above is the height that decide= asks about; give decide='barrier', say, too"
            raise InputError(msg)
        return None
    if what not in get_args(What):
        msg = f"decide must be one of {', '.join(map(repr, get_args(What)))}; got {what!r}"
        raise InputError(msg)
    if above is None:
        msg = (
            f"decide={what!r} needs the height that is asked about, in the loss's unit: "
            "above=0.02, say"
        )
        raise InputError(msg)
    require_asked(above, level)
    if above == 0:
        msg = "above must be larger than 0: no number of examples excludes every height"
        raise InputError(msg)
    return Question(what, above, level)


def _require_parts(
    question: Question | None, stderr: float | None, along: Slice, executor: Any
) -> None:
    """Refuse what cannot be measured part by part.

    Raises:
        InputError: as ``resolve``.
    """
    if question is None and stderr is None:
        return
    if question is not None and stderr is not None:
        msg = "decide= and stderr= both choose how many examples are seen; give one of them"
        raise InputError(msg)
    if stderr is not None and not (isinstance(stderr, Real) and 0 < stderr < np.inf):
        msg = f"stderr must be a positive number, in the loss's unit; got {stderr!r}"
        raise InputError(msg)
    name = "decide=" if question is not None else "stderr="
    if len(along.dims) > 1:
        msg = f"{name} is for lines; this slice has the dims {', '.join(along.dims)}"
        raise InputError(msg)
    if executor is not None:
        msg = (
            f"{name} measures a part of the examples, which workers do not have; leave executor= "
            "out"
        )
        raise InputError(msg)


def _resolve_line(
    measure: Callable[[np.ndarray], xr.Dataset],
    low: float,
    high: float,
    tolerance: float,
    max_points: int,
    drive: str | Sequence[str],
    least: float,
) -> xr.Dataset:
    extra, rounds = _ends_within(low, high), 0
    few = least > 0 or _FIRST_DEGREE + 1 + len(extra) > max_points
    opened = [_Open(low, high, _LEAST_DEGREE if few else _FIRST_DEGREE)]
    closed: list[tuple[Piece, _Fit]] = []
    result: xr.Dataset | None = None
    while opened:
        known = result["alpha"].values if result is not None else np.array([])
        wanted = _new(np.concatenate([*(one.piece.points for one in opened), extra]), known)
        if wanted.size and len(known) + len(wanted) > max_points and result is not None:
            break
        if wanted.size:
            fresh = on_axes(measure(wanted[:, None]), {"alpha": wanted})
            result = (
                fresh
                if result is None
                else joined(result, fresh, "alpha", ("alpha",)).sortby("alpha")
            )
        assert result is not None  # the first round always measures
        judge = _Judge(result, tolerance, least, drivers(result, drive))
        opened, done = _judged(opened, judge, high - low)
        closed += done
        if not opened and rounds < _EXTREMA_ROUNDS:
            rounds += 1
            opened, closed, extra = _with_extrema(closed, judge)
    assert result is not None
    judge = _Judge(result, tolerance, least, drivers(result, drive))
    closed += [
        (piece, _fit(piece, judge)) for one in opened for piece in _measured_pieces(one, result)
    ]
    return _labelled(closed, judge)


def _ends_within(low: float, high: float) -> np.ndarray:
    """The line's ends, where they lie inside: every question about a line compares it with them."""
    return np.array([end for end in (0.0, 1.0) if low < end < high])


@dataclass(frozen=True)
class _Judge:
    """What was measured, and what is asked of an interpolant through it.

    Attributes:
        result: measured points, in order.
        tolerance: as in ``resolve``.
        least: an error that is allowed anyway, in the loss's unit.
        drive: the quantities that have to pass.
    """

    result: xr.Dataset
    tolerance: float
    least: float
    drive: tuple[str, ...]


def _with_extrema(
    closed: list[tuple[Piece, _Fit]], judge: _Judge
) -> tuple[list[_Open], list[tuple[Piece, _Fit]], np.ndarray]:
    """Open the pieces whose interpolants have unmeasured extremes, and the places of these.

    An extreme that only the interpolant has is what a barrier is read from: there the
    curve is checked.
    """
    opened: list[_Open] = []
    still: list[tuple[Piece, _Fit]] = []
    places: list[np.ndarray] = []
    for piece, fit in closed:
        found = _extrema(piece, fit, judge) if _is_resolved(piece, fit) else np.array([])
        places.append(found)
        if found.size:
            opened.append(_Open(piece.low, piece.high, piece.degree))
        else:
            still.append((piece, fit))
    return opened, still, np.concatenate(places)


def _extrema(piece: Piece, fit: _Fit, judge: _Judge) -> np.ndarray:
    """Where an interpolant leaves its measured neighbours by more than its misfit, by gap."""
    result = judge.result
    alpha = result["alpha"].values
    rows, patch = piece.rows(alpha), Patch((piece,))
    worst: dict[int, tuple[float, float]] = {}
    for name in judge.drive:
        floor = np.nan_to_num(result[f"{name}_noise_floor"].values).max(initial=0.0)
        for split in range(result.sizes["split"]):
            values, misfit = result[name].values[:, split], fit.misfit[name][split]
            if is_counted(result, name) or not np.isfinite(misfit):
                continue
            log = bool(fit.log[name][split])
            places = stationary(piece, np.log(values[rows]) if log else values[rows])
            gaps = np.clip(np.searchsorted(alpha, places), 1, len(alpha) - 1)
            ends = np.stack([values[gaps - 1], values[gaps]])
            read = patch.read(values[rows], [places], log=log)
            excess = np.maximum(read - ends.max(0), ends.min(0) - read)
            allowed = max(misfit, floor)
            for place, gap, height in zip(places, gaps, excess / allowed, strict=True):
                if height > max(1.0, worst.get(int(gap), (0.0, 0.0))[0]):
                    worst[int(gap)] = (float(height), float(place))
    return np.array(sorted(place for _, place in worst.values()))


@dataclass
class _Fit:
    """How well the interpolants of a piece do at the measured points that they do not go through.

    Attributes:
        ratio: the worst error of what drives, in units of what is allowed; inf where the piece
            holds both finite and other values.
        worst: where that is.
        needed: the degree at which what drives would pass, by how its series decays.
        log: quantity → per split, whether the logarithm is interpolated.
        misfit: quantity → per split, the largest error, in the quantity's unit; NaN where it is
            more than is allowed of one that does not drive, and of no count.
        finite: whether all measured values on the piece of what drives are finite; None if none is.
    """

    ratio: float
    worst: float
    needed: float
    log: dict[str, np.ndarray]
    misfit: dict[str, np.ndarray]
    finite: bool | None


def _before(piece: Piece) -> Piece | None:
    """The interpolant that predicts the last points of another; None of a straight line."""
    held_out = _HELD_OUT.get(piece.degree)
    return None if held_out is None else replace(piece, degree=piece.degree - held_out)


def _inside(piece: Piece, alpha: np.ndarray) -> np.ndarray:
    return np.flatnonzero((alpha >= piece.low) & (alpha <= piece.high))


def _checks(piece: Piece, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the points that the interpolant before predicts, and of those in neither."""
    rows, before = piece.rows(alpha), _before(piece)
    new = rows[:0] if before is None else np.setdiff1d(rows, before.rows(alpha))
    return new, np.setdiff1d(_inside(piece, alpha), rows)


def _fit(piece: Piece, judge: _Judge) -> _Fit:
    result = judge.result
    alpha = result["alpha"].values
    inside = _inside(piece, alpha)
    checks = np.concatenate(_checks(piece, alpha))
    splits = range(result.sizes["split"])
    fit = _Fit(0.0, np.nan, 0.0, {}, {}, finite=True)
    for name in quantities(result):
        fit.log[name] = np.zeros(len(splits), dtype=np.int8)
        fit.misfit[name] = np.full(len(splits), np.nan)
        for split in splits:
            if not checks.size or not np.isfinite(result[name].values[inside, split]).all():
                continue
            found = _candidate(piece, judge, name, split)
            fit.log[name][split] = found.log
            drives = name in judge.drive
            if drives or found.worst <= 1 or is_counted(result, name):
                fit.misfit[name][split] = found.errors.max()
            if drives and found.worst > 1:
                values = result[name].values[piece.rows(alpha), split]
                needed = degree_for(piece, values, found.ratios.max(), log=found.log)
                fit.needed = max(fit.needed, needed)
            if drives and (found.worst > fit.ratio or np.isnan(fit.worst)):
                fit.ratio = found.worst
                fit.worst = float(alpha[checks][np.argmax(found.ratios)])
    finite = np.stack([np.isfinite(result[name].values[inside]) for name in judge.drive])
    if not finite.any():
        fit.finite = None
    elif not finite.all():
        fit.finite, fit.ratio = False, np.inf
        fit.worst = _edge(alpha[inside], np.asarray(finite.all(axis=(0, 2))))
    return fit


def _candidate(piece: Piece, judge: _Judge, name: str, split: int) -> Candidate:
    """The better interpolant of one quantity on one split, by the points measured on the piece."""
    result = judge.result
    least = judge.least if name == "loss" else 0.0
    alpha, values = result["alpha"].values, result[name].values[:, split]
    allowed = allowed_error(result, name, split, judge.tolerance, least)
    floor = rounding_of(result, name, split, judge.tolerance)
    rows, (new, others) = piece.rows(alpha), _checks(piece, alpha)
    column = [of[rows][:, None] for of in (values, allowed, floor)]

    def read(log: bool) -> np.ndarray:
        """What is predicted at the checks; at new points, by the interpolant before them."""
        parts = [(piece, others)] if not new.size else [(_before(piece), new), (piece, others)]
        found = [
            Patch((one,)).read(values[one.rows(alpha)], [alpha[at]], log=log)
            for one, at in parts
            if one is not None
        ]
        return np.concatenate(found)

    checks = np.concatenate([new, others])
    return best_reading(
        values[checks],
        allowed[checks],
        positive=bool((values[_inside(piece, alpha)] > 0).all()),
        counted=is_counted(result, name),
        read=read,
        tails=lambda log: (tail(piece, *column, log=log),),
    )


def _edge(alpha: np.ndarray, finite: np.ndarray) -> float:
    """Where finite values meet others: between the first two of which only one is finite."""
    changes = np.flatnonzero(finite[1:] != finite[:-1])
    place = int(changes[0]) if changes.size else len(alpha) // 2 - 1
    return float(alpha[place : place + 2].mean())


def _judged(
    opened: list[_Open], judge: _Judge, whole: float
) -> tuple[list[_Open], list[tuple[Piece, _Fit]]]:
    """Which pieces of an interval of some width go on (finer, or split), and which are done."""
    still: list[_Open] = []
    done: list[tuple[Piece, _Fit]] = []
    for one in opened:
        fit, width = _fit(one.piece, judge), one.high - one.low
        passes = fit.ratio <= 1 or fit.finite is None
        few = width == whole and one.degree < _AMPLE_DEGREE
        if passes and few and fit.finite and not _is_fine(fit, judge):
            still.append(replace(one, degree=_next_degree(one.degree, 0.0)))
        elif passes or width <= _NARROWEST * whole:
            done.append((one.piece, fit))
        elif fit.finite and (degree := _next_degree(one.degree, fit.needed)):
            still.append(replace(one, degree=degree))
        else:
            margin = 0.1 * (one.high - one.low)
            cut = float(np.clip(fit.worst, one.low + margin, one.high - margin))
            still += [_Open(one.low, cut, _LEAST_DEGREE), _Open(cut, one.high, _LEAST_DEGREE)]
    return still, done


def _is_fine(fit: _Fit, judge: _Judge) -> bool:
    """Whether interpolation errs far less than counts as a bump, or no more than it may."""
    result = judge.result
    for name in judge.drive:
        if is_counted(result, name):
            continue
        values = result[name].values
        enough = np.maximum(_FINE * np.ptp(values, axis=0), CAUTION * judge.least)
        floor = 2 * np.nan_to_num(result[f"{name}_noise_floor"].values).max(axis=0)
        if (fit.misfit[name] > np.maximum(enough, floor)).any():
            return False
    return True


def _next_degree(degree: int, needed: float) -> int:
    """The next degree to try: what is needed, it seems, at most the double; 0 to split instead."""
    if degree == _LAST_DEGREE or (degree >= _TELLING_DEGREE and needed > _LAST_DEGREE):
        return 0
    wanted = min(needed, 2 * degree, _LAST_DEGREE)
    return next(more for more in _DEGREES if more > degree and more >= wanted)


def _new(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The wanted points that have not been measured, each once."""
    fresh: list[float] = []
    taken = np.sort(known)
    for point in np.unique(wanted):
        near = (
            taken[np.clip(np.searchsorted(taken, point) + np.array([-1, 0]), 0, len(taken) - 1)]
            if taken.size
            else []
        )
        close = 1e-12 * max(1.0, abs(point))
        if all(abs(point - other) > close for other in near) and (
            not fresh or point - fresh[-1] > close
        ):
            fresh.append(float(point))
    return np.array(fresh)


def _has(piece: Piece, result: xr.Dataset) -> bool:
    try:
        piece.rows(result["alpha"].values)
    except InputError:
        return False
    return True


def _measured_pieces(one: _Open, result: xr.Dataset) -> list[Piece]:
    """What stands for an unfinished piece: the degree before, or straight lines."""
    whole = one.piece
    for piece in (whole, _before(whole)):
        if piece is not None and piece.degree >= _LEAST_DEGREE and _has(piece, result):
            return [piece]
    alpha = result["alpha"].values
    inside = alpha[(alpha >= one.low) & (alpha <= one.high)]
    places = np.unique(np.concatenate([[one.low], inside, [one.high]]))
    lines = [
        Piece(float(low), float(high), 1) for low, high in zip(places, places[1:], strict=False)
    ]
    return [line for line in lines if _has(line, result)]


def _labelled(closed: list[tuple[Piece, _Fit]], judge: _Judge) -> xr.Dataset:
    result = judge.result.sortby("alpha")
    closed = sorted(closed, key=lambda entry: entry[0].low)
    variables: dict[str, Any] = {
        "piece_low": ("piece", np.array([piece.low for piece, _ in closed])),
        "piece_high": ("piece", np.array([piece.high for piece, _ in closed])),
        "piece_degree": ("piece", np.array([piece.degree for piece, _ in closed])),
        "piece_resolved": (
            "piece",
            np.array([int(_is_resolved(piece, fit)) for piece, fit in closed]),
        ),
    }
    for name in quantities(result):
        variables[f"{name}_log"] = (
            ("piece", "split"),
            np.stack([fit.log[name] for _, fit in closed]),
        )
        variables[f"{name}_misfit"] = (
            ("piece", "split"),
            np.stack([fit.misfit[name] for _, fit in closed]),
        )
    resolved = int(variables["piece_resolved"][1].all())
    loose = {"allowed_error": judge.least} if judge.least else {}
    return result.assign(variables).assign_attrs(
        **loose,
        sampling="resolved",
        nodes="leja",
        tolerance=judge.tolerance,
        drive=", ".join(judge.drive),
        resolved=resolved,
        largest_gap=float(np.diff(result["alpha"].values).max()),
    )


def _is_resolved(piece: Piece, fit: _Fit) -> bool:
    """Straight lines stand for what was not resolved, and have no check of their own."""
    return piece.degree > 1 and (fit.ratio <= 1 or fit.finite is None)
