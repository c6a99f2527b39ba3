"""Profile: one quantity on one split along a line, with what its uncertainty is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.result.interpolant import is_resolved
from ravine.result.reading import critical_points, densely, reconstruct
from ravine.result.schema import name_of, quantities, unit_of, validate

_CLOSE = 1e-9  # of α: what rounding may leave between a point of a grid and a round number


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error over the examples, and where on the line it was found.

    Attributes:
        value: NaN where it is undefined: a point of the curve that it needs is not finite, or was
            not measured.
        stderr: from the paired half-sample replicates; NaN where there are too few examples.
        at: position α, NaN if there is none.
        at_stderr: its standard error. The spacing of the points limits it too.
    """

    value: float
    stderr: float = np.nan
    at: float = np.nan
    at_stderr: float = np.nan

    def __str__(self) -> str:
        return with_error(self.value, self.stderr)


@dataclass(frozen=True)
class Profile:
    """A curve γ(α) of one quantity on one split.

    Attributes:
        alpha: (points,) ascending.
        value: (points,) γ.
        replicates: (points, replicates) γ over a random half of the examples minus γ.
        floor: (points,) how far rounding alone moves γ.
        stderr: (points,) standard error of γ.
        misfit: (points,) how far γ may be off where it was interpolated; 0 where it was measured,
            inf where the interpolant failed or its error is not known.
        split: which split.
        quantity: which quantity.
        name: the quantity in words.
        unit: that stands behind its numbers.
        units: how many independent examples, or clusters of them, it is a mean over.
        clustered: whether these are clusters.
        counted: whether it is of whole numbers, so that its curve is a staircase.
        is_share: whether every example's value is 0 or 1.
        balanced: whether the replicates are balanced half-samples; of schema 1 they
            were random ones.
        level_share: of the level of any question, because the examples were looked at several times
            and measuring stopped when one look had answered; 1 where it was not so.
    """

    alpha: np.ndarray
    value: np.ndarray
    replicates: np.ndarray
    floor: np.ndarray
    stderr: np.ndarray
    misfit: np.ndarray
    split: str = "data"
    quantity: str = "loss"
    name: str = "loss"
    unit: str = ""
    units: int = 0
    clustered: bool = False
    counted: bool = False
    is_share: bool = False
    balanced: bool = False
    level_share: float = 1.0

    @classmethod
    def of(cls, curve: xr.Dataset, quantity: str = "loss", split: str | None = None) -> Profile:
        """Read one profile from a result; a resolved one is read from its interpolant.

        Args:
            curve: a result with the dim ``alpha``.
            quantity: ``"loss"`` or another that was measured.
            split: by default the first.

        Raises:
            InputError: the result is no line, or has no such quantity or split.
        """
        validate(curve)
        if "alpha" not in curve.dims or "beta" in curve.dims:
            msg = (
                "this measure is of a line, with the dim 'alpha'; the result has "
                f"{sorted(map(str, curve.dims))}. For a plane there is metrics.verdict; for a line "
                "between two of its points, measure a Line"
            )
            raise InputError(msg)
        splits = [str(name) for name in curve["split"].values]
        split = splits[0] if split is None else split
        if quantity not in quantities(curve) or split not in splits:
            msg = (
                f"the result has the quantities {quantities(curve)} on {splits}; got {quantity!r} "
                f"on {split!r}"
            )
            raise InputError(msg)
        _require_whole(curve, quantity)
        measured, counted = curve, bool(curve[quantity].attrs.get("counted", 0))
        if is_resolved(curve):
            curve = (
                _staircase(curve, quantity, split) if counted else _smooth(curve, quantity, split)
            )
        one = curve.sel(split=split).sortby("alpha")
        return cls.of_points(one, measured, quantity, _misfit(one, measured, quantity))

    @classmethod
    def of_points(
        cls, one: xr.Dataset, measured: xr.Dataset, quantity: str, misfit: np.ndarray
    ) -> Profile:
        """From values that have been read.

        Args:
            one: of one split, with the dim ``alpha``.
            measured: the result that they are of.
            quantity: which.
            misfit: (points,) how far each may be off.
        """
        return cls(
            alpha=one["alpha"].values,
            value=one[quantity].values,
            replicates=one[f"{quantity}_replicates"].transpose("alpha", ...).values.astype(float),
            floor=one[f"{quantity}_noise_floor"].values,
            stderr=one[f"{quantity}_stderr"].values,
            misfit=misfit,
            split=str(one["split"].item()),
            quantity=quantity,
            name=name_of(measured, quantity),
            unit=unit_of(measured, quantity),
            units=_units(one),
            clustered="n_units" in one and int(one["n_units"]) < int(one["n_examples"]),
            counted=bool(measured[quantity].attrs.get("counted", 0)),
            is_share=_is_share(measured, quantity),
            balanced=int(measured.attrs["schema_version"]) > 1,
            level_share=float(measured.attrs.get("level_share", 1.0)),
        )

    def between(self, low: float, high: float) -> Profile:
        """The measured points with α in [low, high]; a bound is met to 1e-9, a grid's rounding."""
        return self.part((self.alpha > low - _CLOSE) & (self.alpha < high + _CLOSE))

    def part(self, kept: np.ndarray | slice) -> Profile:
        """Some of the points."""
        return replace(
            self,
            alpha=self.alpha[kept],
            value=self.value[kept],
            replicates=self.replicates[kept],
            floor=self.floor[kept],
            stderr=self.stderr[kept],
            misfit=self.misfit[kept],
        )

    @property
    def doubt(self) -> np.ndarray:
        """(points,) below this a rise or dip is nothing: what rounding and interpolation may do."""
        return np.maximum(np.nan_to_num(self.floor), self.misfit)

    @property
    def is_measured(self) -> np.ndarray:
        """(points,) whether a point was measured, not read from an interpolant."""
        return self.misfit == 0

    @property
    def measured(self) -> np.ndarray:
        """The points that were measured."""
        return self.alpha[self.is_measured]

    @property
    def drawn(self) -> np.ndarray:
        """(points, 255) the replicates; the first balanced one is none."""
        return self.replicates[:, 1:] if self.balanced else self.replicates

    @property
    def covers_both_ends(self) -> bool:
        """Whether both ends, α = 0 and 1, were measured."""
        return all(bool((np.abs(self.alpha - end) < _CLOSE).any()) for end in (0, 1))

    def spacing_at(self, alpha: float) -> float:
        """The larger gap from a position to the points beside it; 0 for a single point."""
        gaps = np.diff(self.alpha)
        if not gaps.size:
            return 0.0
        place = int(np.searchsorted(self.alpha, alpha))
        return float(gaps[max(0, place - 2) : place + 1].max(initial=0.0))

    def estimate(
        self, measure: Callable[[np.ndarray, np.ndarray], tuple[float, float]]
    ) -> Estimate:
        """A measure of the curve, with standard errors from the same measure of every replicate.

        Args:
            measure: ``(alpha, value)`` → (number, position), both NaN where undefined.
        """
        if not self.alpha.size or not np.isfinite(self.value).all():
            return Estimate(np.nan)
        value, at = measure(self.alpha, self.value)
        with np.errstate(invalid="ignore", over="ignore"):
            drawn = np.array([measure(self.alpha, self.value + column) for column in self.drawn.T])
        height, place = (spread(drawn[:, i]) if drawn.size else np.nan for i in range(2))
        if np.isfinite(at):  # a grid knows a position no better than its spacing
            # anywhere in a gap alike: a uniform distribution has its width over √12
            place = float(np.hypot(np.nan_to_num(place), self.spacing_at(at) / 12**0.5))
        return Estimate(value, height, at, place if np.isfinite(at) else np.nan)

    def at_end(self, index: int) -> Estimate:
        """The value at one of the points, whatever the others are."""
        return Estimate(float(self.value[index]), float(self.stderr[index]))


def _smooth(curve: xr.Dataset, quantity: str, split: str) -> xr.Dataset:
    """A resolved curve, densely read: its extremes and inflections are points of it."""
    read = densely(curve)
    extra = np.setdiff1d(critical_points(curve, quantity, split), read["alpha"].values)
    if not extra.size:
        return read
    both = [read, reconstruct(curve, extra)]
    return xr.concat(both, dim="alpha", data_vars="minimal")


def _staircase(curve: xr.Dataset, quantity: str, split: str) -> xr.Dataset:
    """A count of examples, read monotonically between its points: only they have to be looked at.

    Where a piece did not resolve nothing is known between two points; there the reading stays,
    to say so.
    """
    read = densely(curve)
    unknown = read[f"{quantity}_misfit"].sel(split=split).isnull().values
    return read.isel(alpha=np.isin(read["alpha"].values, curve["alpha"].values) | unknown)


def _misfit(one: xr.Dataset, measured: xr.Dataset, quantity: str) -> np.ndarray:
    """What interpolation may do at each point: 0 where it was measured, inf where it failed."""
    alpha = one["alpha"].values
    if f"{quantity}_misfit" not in one:
        return np.zeros(len(alpha))
    found = one[f"{quantity}_misfit"].fillna(np.inf).values
    return np.where(np.isin(alpha, measured["alpha"].values), 0.0, found)


def _require_whole(curve: xr.Dataset, quantity: str) -> None:
    """A result may have been edited; what an error is told by has to be there still."""
    names = [f"{quantity}_{suffix}" for suffix in ("stderr", "replicates", "noise_floor")]
    lost = [name for name in names if name not in curve]
    if lost:
        msg = (
            f"the result lacks {', '.join(map(repr, lost))}, by which the error of {quantity!r} is "
            "told. Keep them with it."
        )
        raise InputError(msg)
    alpha = curve["alpha"].values
    if not alpha.size or len(np.unique(alpha)) < alpha.size:
        what = "one alpha twice" if alpha.size else "no points"
        msg = f"the result has {what}; expected one or more points, each once"
        raise InputError(msg)


def _is_share(measured: xr.Dataset, quantity: str) -> bool:
    """Whether every value was 0 or 1.

    Older results do not say: there, whether they count and no mean leaves [0, 1].
    """
    about = measured[quantity].attrs
    within = bool(((measured[quantity] >= 0) & (measured[quantity] <= 1)).all())
    return within and bool(about.get("share", about.get("counted", 0)))


def _units(one: xr.Dataset) -> int:
    """Independent draws; of a result of schema 1 its examples."""
    name = "n_units" if "n_units" in one else "n_examples"
    return int(one[name]) if name in one else 0


def spread(drawn: np.ndarray) -> float:
    """Standard deviation of the replicates, NaN when most of them are undefined."""
    known = drawn[np.isfinite(drawn)]
    if known.size <= max(1, len(drawn) // 2):
        return np.nan
    found = float(known.std(ddof=1))
    # equal numbers, but for their last bits
    return found if found > 1e-12 * np.abs(known).max() else 0.0


def with_error(value: float, stderr: float) -> str:
    """The number to the digits that its standard error leaves, and the error to two.

    Examples:
        >>> unknown = float("nan")
        >>> with_error(0.33416, 0.0123), with_error(-0.25, unknown), with_error(unknown, 1.0)
        ('0.334 ± 0.012', '−0.25', 'undefined')
        >>> with_error(2.3, 0.000002)
        '2.3000000 ± 0.0000020'
    """
    if not np.isfinite(value):
        return "undefined"
    if not np.isfinite(stderr) or stderr == 0:
        return minus(f"{value:.4g}")
    digits = int(np.floor(np.log10(stderr)))
    if digits < -6 or digits > 4:
        shown = max(2, int(np.floor(np.log10(abs(value)))) - digits + 2) if value else 2
        return minus(f"{value:.{min(shown, 12)}g} ± {stderr:.1e}")
    places = max(0, 1 - digits)
    return minus(f"{round(value, places) + 0.0:.{places}f} ± {stderr:.{places}f}")


def number(value: float) -> str:
    """Three digits, with a minus sign for a hyphen.

    Examples:
        >>> number(-0.12345), number(-np.inf), number(np.inf), number(np.nan)
        ('−0.123', '−∞', '∞', 'unknown')
    """
    if np.isnan(value):
        return "unknown"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return minus(f"{value:.3g}")


def within(lower: float, upper: float) -> str:
    """Bounds in brackets.

    Examples:
        >>> within(-0.25, float("inf"))
        '[−0.25, ∞]'
    """
    return f"[{number(lower)}, {number(upper)}]"


def minus(text: str) -> str:
    """The text of a number with a minus sign for a hyphen."""
    return f"−{text[1:]}" if text.startswith("-") else text
