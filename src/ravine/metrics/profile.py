"""Profile: one quantity on one split along a line, in order of α, with what its uncertainty is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.interpolation import critical_points, densely, is_resolved, reconstruct
from ravine.results import quantities, validate


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error over the examples, and where on the line it was found.

    Attributes:
        value: NaN where it is undefined: a point of the curve that it needs is not finite, or was not measured.
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
        split: which split.
        quantity: which quantity.
    """

    alpha: np.ndarray
    value: np.ndarray
    replicates: np.ndarray
    floor: np.ndarray
    split: str = "data"
    quantity: str = "loss"

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
            msg = f"this measure is of a line, with the dim 'alpha'; the result has {sorted(map(str, curve.dims))}"
            raise InputError(msg)
        splits = [str(name) for name in curve["split"].values]
        split = splits[0] if split is None else split
        if quantity not in quantities(curve) or split not in splits:
            msg = f"the result has the quantities {quantities(curve)} on {splits}; got {quantity!r} on {split!r}"
            raise InputError(msg)
        if is_resolved(curve):  # extremes and inflections of the interpolant are points of the profile
            measured, curve = curve, densely(curve)
            found = critical_points(measured, quantity, split)
            extra = np.setdiff1d(found, curve["alpha"].values)
            if extra.size:
                curve = xr.concat([curve, reconstruct(measured, extra)], dim="alpha", data_vars="minimal")
        one = curve.sel(split=split).sortby("alpha")
        return cls(
            one["alpha"].values,
            one[quantity].values,
            one[f"{quantity}_replicates"].transpose("alpha", ...).values.astype(np.float64),
            one[f"{quantity}_noise_floor"].values,
            split,
            quantity,
        )

    def between(self, low: float, high: float) -> Profile:
        """The part with α in [low, high]; its ends are read off linearly if no point stands there."""
        inside = (self.alpha > low) & (self.alpha < high)
        ends = [end for end in (low, high) if self.alpha[0] <= end <= self.alpha[-1]]
        places = np.unique(np.concatenate([ends[:1], self.alpha[inside], ends[1:]]))
        if low == high or not places.size:
            places = np.array(ends[:1])
        return self._at(places)

    def _at(self, places: np.ndarray) -> Profile:
        replicates = [np.interp(places, self.alpha, column) for column in self.replicates.T]
        return Profile(
            places,
            np.interp(places, self.alpha, self.value),
            np.stack(replicates, 1) if replicates else np.empty((places.size, 0)),
            np.interp(places, self.alpha, self.floor),
            self.split,
            self.quantity,
        )

    @property
    def covers_both_ends(self) -> bool:
        """Whether the measured interval holds [0, 1]."""
        return bool(self.alpha.size and self.alpha[0] <= 0 and self.alpha[-1] >= 1)

    def estimate(self, measure: Callable[[np.ndarray, np.ndarray], tuple[float, float]]) -> Estimate:
        """A measure of the curve, with standard errors from the same measure of every replicate.

        Args:
            measure: ``(alpha, value)`` → (number, position), both NaN where undefined.
        """
        if not self.alpha.size or not np.isfinite(self.value).all():
            return Estimate(np.nan)
        value, at = measure(self.alpha, self.value)
        drawn = np.array([measure(self.alpha, self.value + column) for column in self.replicates.T])
        height, place = (spread(drawn[:, i]) if drawn.size else np.nan for i in range(2))
        # replicates are stored in float32: what they cannot resolve is no spread
        unit = 4 * np.finfo(np.float32).eps * float(np.abs(self.replicates).max(initial=0))
        return Estimate(value, 0.0 if height <= unit else height, at, place if np.isfinite(at) else np.nan)

    def at_end(self, index: int) -> Estimate:
        """The value at one of the points, whatever the others are."""
        return Estimate(float(self.value[index]), spread(self.value[index] + self.replicates[index]))


def spread(drawn: np.ndarray) -> float:
    """Standard deviation of the replicates, NaN when most of them are undefined."""
    known = drawn[np.isfinite(drawn)]
    if known.size <= max(1, len(drawn) // 2):
        return np.nan
    found = float(known.std(ddof=1))
    return found if found > 1e-12 * np.abs(known).max() else 0.0  # equal numbers, but for their last bits


def with_error(value: float, stderr: float) -> str:
    """The number to the digits that its standard error leaves, and the error to two.

    Example:
        >>> with_error(0.33416, 0.0123), with_error(0.25, float("nan")), with_error(float("nan"), 1.0)
        ('0.334 ± 0.012', '0.25', 'undefined')
    """
    if not np.isfinite(value):
        return "undefined"
    if not np.isfinite(stderr) or stderr == 0:
        return f"{value:.4g}"
    digits = int(np.floor(np.log10(stderr)))
    if digits < -4 or digits > 4:
        return f"{value:.4g} ± {stderr:.1e}"
    places = max(0, 1 - digits)
    return f"{value:.{places}f} ± {stderr:.{places}f}"
