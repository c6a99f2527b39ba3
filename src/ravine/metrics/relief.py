"""The relief of a plane: its lowest and highest point, its corners, and sentences about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import xarray as xr

from ravine.metrics.bounds import LAST_BITS
from ravine.metrics.inference import FEWEST_UNITS, LEVEL, Decision, Scope, decided
from ravine.metrics.measures import Row, bounded
from ravine.metrics.profile import Estimate, Profile, minus, number, spread, with_error, within
from ravine.metrics.verdicts import Verdict
from ravine.metrics.wording import examples, policies
from ravine.result.interpolant import is_resolved, is_surface
from ravine.result.reading import densely
from ravine.result.schema import name_of, quantities, unit_of

#: Evenly spaced positions on each axis at which a resolved plane is searched, beside those that
#: were measured.
_SEARCHED: Final = 81

#: Where the corners are.
CORNERS: Final[dict[str, tuple[float, float]]] = {
    "origin": (0.0, 0.0),
    "a": (1.0, 0.0),
    "b": (0.0, 1.0),
}


@dataclass(frozen=True)
class Spot:
    """A value on a plane and where it is.

    Attributes:
        value: in the quantity's unit, with its standard error over the examples; ``value.at`` is α.
        beta: position β.
        beta_stderr: its standard error. The spacing of the points limits it too.
        on_rim: whether it lies on the edge of what was measured, so that what is beyond it may be
            more extreme.
    """

    value: Estimate
    beta: float
    beta_stderr: float = np.nan
    on_rim: bool = False

    @property
    def place(self) -> str:
        """The position in words."""
        alpha, beta = (
            with_error(self.value.at, self.value.at_stderr),
            with_error(self.beta, self.beta_stderr),
        )
        return f"α = {alpha}, β = {beta}"


@dataclass(frozen=True)
class Relief:
    """What a plane amounts to, for one quantity on one split.

    Attributes:
        split: which split.
        quantity: which quantity.
        lowest: the lowest point found; None where nothing is finite.
        highest: the highest.
        corners: those that were measured, by name.
        below: whether a point lies below every corner that was measured, and how far, by paired
            differences; None without corners.
        undefined: how many of the points are not finite.
        points: how many there are.
        name: the quantity in words.
        unit: that stands behind its numbers.
        rounding: how far rounding may move its values.
    """

    split: str
    quantity: str
    lowest: Spot | None
    highest: Spot | None
    corners: dict[str, Spot]
    below: Decision | None
    undefined: int
    points: int
    name: str
    unit: str
    rounding: float = 0.0


def plane_verdict(plane: xr.Dataset) -> Verdict:
    """``verdict`` of a plane."""
    points = plane.sortby(["alpha", "beta"])
    whole = plane.attrs.get("resolved") == 1 and is_resolved(plane)
    surface = densely(plane, _SEARCHED).sortby(["alpha", "beta"]) if whole else points
    splits = [str(name) for name in plane["split"].values]
    reliefs = {
        (split, quantity): _relief(
            surface if is_surface(plane, quantity) else points, plane, quantity, split
        )
        for quantity in quantities(plane)
        for split in splits
    }
    first, *others = reliefs.values()
    sentences = [_corners(first, plane), *(_lowest(other) for other in others)]
    sentences += [policies(plane), _resolution(plane, first)]
    rows = tuple(row for relief in reliefs.values() for row in _rows(relief))
    return Verdict(_lowest(first), tuple(filter(None, sentences)), rows, reliefs)


def _relief(read: xr.Dataset, plane: xr.Dataset, quantity: str, split: str) -> Relief:
    one = read.sel(split=split)
    value = one[quantity].transpose("alpha", "beta").values
    replicates = (
        one[f"{quantity}_replicates"].transpose("alpha", "beta", ...).values.astype(np.float64)
    )
    axes = one["alpha"].values, one["beta"].values
    measured = plane[quantity].sel(split=split).values
    if plane[quantity].attrs.get("counted", 0) and np.isfinite(measured).all():
        # the interpolant of a staircase swings about it
        value = value.clip(measured.min(), measured.max())
    undefined = int((~np.isfinite(measured)).sum())
    corners = {}
    for name, place in CORNERS.items():
        i, j = _nearest(axes, place)
        if abs(axes[0][i] - place[0]) < 1e-9 and abs(axes[1][j] - place[1]) < 1e-9:
            corners[name] = Spot(_at(one, quantity, i, j, place), place[1])
    words = name_of(plane, quantity), unit_of(plane, quantity)
    lost = undefined, measured.size, *words
    if not np.isfinite(value).any():
        return Relief(split, quantity, None, None, corners, None, *lost)
    lowest, highest = (_extreme(value, replicates, axes, sign) for sign in (1, -1))
    points = _in_a_row(one, plane, quantity, value)
    below = _below_all(points, [_row_of(axes, spot) for spot in corners.values()])
    rounding = max(
        float(np.nan_to_num(points.floor).max(initial=0.0)),
        LAST_BITS * float(np.nanmax(np.abs(np.where(np.isfinite(value), value, np.nan)))),
    )
    return Relief(split, quantity, lowest, highest, corners, below, *lost, rounding)


def _at(one: xr.Dataset, quantity: str, i: int, j: int, place: tuple[float, float]) -> Estimate:
    value, stderr = (
        float(one[name].transpose("alpha", "beta").values[i, j]) for name in _with_stderr(quantity)
    )
    return Estimate(value, stderr, place[0])


def _with_stderr(quantity: str) -> tuple[str, str]:
    return quantity, f"{quantity}_stderr"


def _extreme(
    value: np.ndarray, replicates: np.ndarray, axes: tuple[np.ndarray, np.ndarray], sign: int
) -> Spot:
    """The lowest point (or with −1 the highest), and how it moves between halves of the data."""
    filled = np.where(np.isfinite(value), sign * value, np.inf)

    def find(field: np.ndarray) -> tuple[float, tuple[int, int]]:
        i, j = divmod(int(np.argmin(field)), field.shape[1])
        return sign * float(field[i, j]), (i, j)

    height, (i, j) = find(filled)
    drawn = [
        find(filled + sign * np.nan_to_num(replicates[..., k])) for k in range(replicates.shape[-1])
    ]
    known = bool(np.isfinite(replicates[i, j]).all())  # one example alone has no halves
    rows, columns = np.array([at for _, at in drawn] or np.empty((0, 2), int)).T
    doubt = _moved(axes[0], i, rows), _moved(axes[1], j, columns)
    stderr = spread(np.array([found[0] for found in drawn])) if known else np.nan
    rim = i in (0, len(axes[0]) - 1) or j in (0, len(axes[1]) - 1)
    return Spot(
        Estimate(height, stderr, float(axes[0][i]), doubt[0]), float(axes[1][j]), doubt[1], rim
    )


def _moved(axis: np.ndarray, here: int, drawn: np.ndarray) -> float:
    """The standard error of a position; the spacing of the points limits it too."""
    return float(np.hypot(np.nan_to_num(spread(axis[drawn])), _spacing(axis, here) / 12**0.5))


def _nearest(axes: tuple[np.ndarray, np.ndarray], place: tuple[float, float]) -> tuple[int, int]:
    """The numbers of the point that is nearest to a place."""
    i, j = (int(np.argmin(np.abs(axis - x))) for axis, x in zip(axes, place, strict=True))
    return i, j


def _spacing(axis: np.ndarray, at: int) -> float:
    return float(np.diff(axis)[max(0, at - 1) : at + 1].max(initial=0.0))


def _in_a_row(read: xr.Dataset, plane: xr.Dataset, quantity: str, value: np.ndarray) -> Profile:
    """The points of a plane one after the other, as if along a line."""
    known = [np.isin(read[axis].values, plane[axis].values) for axis in ("alpha", "beta")]
    doubt = np.zeros(value.shape)
    if "check" not in read.dims and f"{quantity}_misfit" in read:
        doubt = read[f"{quantity}_misfit"].transpose("alpha", "beta").fillna(np.inf).values
    doubt[np.ix_(*known)] = 0.0
    row = read.stack(place=("alpha", "beta")).reset_index("place", drop=True)
    row = row.rename(place="alpha").assign_coords(alpha=np.arange(value.size, dtype=float))
    return replace(Profile.of_points(row, plane, quantity, doubt.ravel()), value=value.ravel())


def _row_of(axes: tuple[np.ndarray, np.ndarray], spot: Spot) -> int:
    """The number of a corner among the points in a row."""
    i, j = _nearest(axes, (spot.value.at, spot.beta))
    return i * len(axes[1]) + j


def _below_all(points: Profile, corners: list[int]) -> Decision | None:
    """Whether a point lies below every corner.

    Of each corner it is asked whether a point lies below it: turned over, that is a barrier between
    this corner and itself. A point lies below all where one lies below the lowest.
    """
    turned = replace(points, value=-points.value, replicates=-points.replicates)
    scope: Scope = "examples" if points.units < FEWEST_UNITS else "population"
    asked = []
    for corner in corners:
        if np.isfinite(points.value[corner]):
            others = np.delete(np.arange(len(points.alpha)), corner)
            line = turned.part(np.array([corner, *others, corner]))
            line = replace(line, alpha=np.linspace(0, 1, len(line.alpha)))
            level = LEVEL / len(corners)
            asked.append(decided(line, "barrier", level=level, scope=scope, joint=False))
    if not asked:
        return None
    least = min(asked, key=lambda one: one.value)
    lower, upper = min(one.lower for one in asked), min(one.upper for one in asked)
    found = next((one for one in asked if one.answer == "excluded"), least)
    if found.answer == "shown" and lower <= found.above:
        found = next(one for one in asked if one.answer != "shown")
    found = replace(found, what="below", value=least.value, lower=lower, upper=upper)
    rounding = float(np.nan_to_num(points.floor).max(initial=0.0))
    if lower > rounding:  # however little: that asks for no bump
        reason = "the lower bound is above what rounding may do"
        return replace(found, answer="shown", above=rounding, reason=reason)
    return found


def _name(relief: Relief) -> str:
    return f"{relief.split} {relief.name}"


def _number(estimate: Estimate, relief: Relief) -> str:
    return f"{estimate}{relief.unit}"


def _lowest(of: Relief) -> str:
    if of.lowest is None or of.highest is None:
        return f"The {_name(of)} is undefined: none of its {of.points} points is finite."
    rim = ", on the edge of what was measured" if of.lowest.on_rim else ""
    low, high = (f"{number(spot.value.value)}{of.unit}" for spot in (of.lowest, of.highest))
    lost = f" It is undefined at {of.undefined} of {of.points} points." if of.undefined else ""
    if of.highest.value.value - of.lowest.value.value <= of.rounding:
        within_rounding = f"its values differ by no more than rounding, {number(of.rounding)}"
        return f"On these examples the {_name(of)} is flat at {low}: {within_rounding}.{lost}"
    top = f"α = {number(of.highest.value.at)}, β = {number(of.highest.beta)}"
    return (
        f"On these examples the {_name(of)} is lowest at {of.lowest.place}{rim}: {low}; "
        f"it goes up to {high} at {top}.{lost}"
    )


def _corners(of: Relief, plane: xr.Dataset) -> str:
    if not of.corners:
        return ""
    listed = ", ".join(
        f"{_number(spot.value, of)} at {name} ({plane.attrs.get(name, '')})".replace(" ()", "")
        for name, spot in of.corners.items()
    )
    return f"The {_name(of)} is {listed}. {_compared(of)}".rstrip()


def _compared(of: Relief) -> str:
    """Whether a point lies below every corner."""
    found = of.below
    if found is None:
        return ""
    finite = {n: s for n, s in of.corners.items() if np.isfinite(s.value.value)}
    best = min(finite, key=lambda name: finite[name].value.value)
    height = f"{number(found.value)} {within(found.lower, found.upper)}{of.unit}"
    if found.answer == "shown":
        return f"A point lies below all of them: {height} below {best}."
    if found.answer == "excluded":
        return (
            f"No point lies below all of them by more than {number(found.above)}{of.unit}: "
            f"{height}."
        )
    return f"Whether a point lies below all of them is undecided: {height} ({found.reason})."


def _resolution(plane: xr.Dataset, first: Relief) -> str:
    gaps = [
        float(np.diff(np.sort(plane[axis].values)).max(initial=0.0)) for axis in ("alpha", "beta")
    ]
    ranges = " and ".join(
        f"{symbol} = {minus(f'{plane[axis].values.min():.4g}')} to "
        f"{minus(f'{plane[axis].values.max():.4g}')}"
        for axis, symbol in (("alpha", "α"), ("beta", "β"))
    )
    size = f"{plane.sizes['alpha']} × {plane.sizes['beta']} points"
    narrow = f"at most {gaps[0]:.2g} apart in α and {gaps[1]:.2g} in β"
    over = f"± is one standard error over {examples(plane)}."
    if not is_resolved(plane):
        return (
            f"Measured at {size}, {ranges}, {narrow}; features narrower than the grid spacing "
            f"cannot be ruled out. {over}"
        )
    misfit = plane[f"{first.quantity}_misfit"].sel(split=first.split).values
    worst = float(np.nanmax(misfit)) if np.isfinite(misfit).any() else np.nan
    where = f"Measured at {size} and {plane.sizes['check']} check points off that grid, {ranges}"
    if not is_surface(plane, first.quantity):
        off = f"errs by up to {worst:.1g}" if np.isfinite(worst) else "does not exist"
        return (
            f"{where}, but not resolved to {plane.attrs['tolerance']:g}: the interpolant {off} at "
            f"the check points, and the surface is unknown between the points, {narrow}. {over}"
        )
    return (
        f"{where}, and interpolated; max. interpolation error of the {_name(first)} at check "
        f"points {worst:.0e} (requested: {plane.attrs['tolerance']:g} of the local value); "
        f"features narrower than the gaps, {narrow}, may be missed. {over}"
    )


def _rows(of: Relief) -> list[Row]:
    rows = []
    for name, spot in (("lowest point", of.lowest), ("highest point", of.highest)):
        if spot is None:
            continue
        where = "on the edge of what was measured" if spot.on_rim else "of the measured plane"
        note = f"{where}, on these examples"
        rows.append(Row(of.split, of.quantity, name, spot.value.value, np.nan, spot.place, note))
    for name, spot in of.corners.items():
        note = f"the value at α = {CORNERS[name][0]:g}, β = {CORNERS[name][1]:g}"
        rows.append(Row(of.split, of.quantity, name, spot.value.value, spot.value.stderr, "", note))
    if of.below is not None:
        note = "how far the lowest point lies below the lowest corner, by paired differences"
        row = Row(of.split, of.quantity, "below the corners", of.below.value, np.nan, "", note)
        rows.append(bounded(row, of.below))
    return rows
