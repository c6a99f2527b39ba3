"""Second minima of a line: what is searched for, what was found, and how near training came."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr

from ravine import metrics

#: What is searched for a second minimum; the error is a step function, with minima of its own
#: making.
SEARCHED: Final = ("loss", "pixels", "label", "class_loss")


@dataclass(frozen=True)
class Anomaly:
    """A local minimum on [0, 1] that is not the lowest point there.

    Attributes:
        curve: name of the measurement.
        quantity: of what.
        split: of which examples.
        alpha: where.
        value: how high it lies.
        prominence: how far one must climb out of it.
        share: the same over the curve's range on [0, 1].
    """

    curve: str
    quantity: str
    split: str
    alpha: float
    value: float
    prominence: float
    share: float

    @property
    def words(self) -> str:
        """In words."""
        return (
            f"one of {self.quantity} ({self.split}, {self.curve}) at α = {self.alpha:.3g}, "
            f"{self.value:.4g} high and {self.prominence:.2g} deep"
        )


def anomalies(
    curves: dict[str, xr.Dataset],
    quantities: Iterable[str] = SEARCHED,
    splits: Iterable[str] = ("train", "valid"),
) -> list[Anomaly]:
    """Second minima of curves, the most prominent first.

    Args:
        curves: name → line.
        quantities: what is searched.
        splits: of these, where a curve has them.

    Returns:
        All that are deeper than a thousandth of their curve's range and than its noise.
    """
    found: list[Anomaly] = []
    for quantity in quantities:
        for split in splits:
            there = {
                name: curve.sel(alpha=(curve["alpha"] >= 0) & (curve["alpha"] <= 1))
                for name, curve in curves.items()
                if split in curve["split"].values and quantity in curve
            }
            found += _anomalies(there, quantity, split)
    return sorted(found, key=lambda one: -one.share)


def _anomalies(curves: dict[str, xr.Dataset], quantity: str, split: str) -> Iterator[Anomaly]:
    """Of one quantity and split.

    What is lowest, a curve of a part of the line hears from the first of the whole.
    """
    profiles = {name: metrics.Profile.of(curve, quantity, split) for name, curve in curves.items()}
    whole = next((part for part in profiles.values() if part.covers_both_ends), None)
    for name, part in profiles.items():
        judge = whole if whole is not None and not part.covers_both_ends else part
        lowest, extent = float(np.nanmin(judge.value)), float(np.ptp(judge.value))
        for one in metrics.minima(curves[name], quantity=quantity, split=split):
            place, value, depth = one.value.at, one.value.value, one.prominence.value
            if 0 < place < 1 and value > lowest + (0.0 if judge is part else depth):
                yield Anomaly(name, quantity, split, place, value, depth, depth / extent)


def closest_approach(path: xr.Dataset, alpha: float) -> tuple[float, int]:
    """How near training came to a point of the line, once it had begun: its start is on the line.

    Args:
        path: of the run, projected on the line.
        alpha: the point.

    Returns:
        The smallest distance of a later snapshot, over the line's length, and its step.
    """
    length = float(path.attrs["length"])
    away = np.hypot(path["distance"].values - alpha * length, path["residual"].values)[1:] / length
    return float(away.min()), int(path["step"].values[1 + int(away.argmin())])


def said(found: list[Anomaly], path: xr.Dataset, results: dict[str, xr.Dataset]) -> str:
    """What the search for a second minimum came to, in words: J itself first, then the rest.

    Args:
        found: by ``anomalies``.
        path: of the run, projected on the line.
        results: what was searched.

    Returns:
        Sentences.
    """
    of_objective = [one for one in found if one.quantity == "loss"]
    others = [one for one in found if one.quantity != "loss"]
    words = [
        f"A second local minimum was looked for on [0, 1] ({', '.join(results)}; "
        f"{', '.join(SEARCHED)}). J has {_counted(of_objective)}."
    ]
    if others:
        words.append(f"Of the rest, {_counted(others)}.")
    if found:
        nearest = (of_objective or others)[0]
        near, step = closest_approach(path, nearest.alpha)
        words.append(
            "After its start training came no nearer to the point of the line at α = "
            f"{nearest.alpha:.3g} than {near:.2g} of the line's length, after {step:,} updates."
        )
    return " ".join(words)


def _counted(found: list[Anomaly]) -> str:
    if not found:
        return "none"
    more = f"; {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].words}{more}"
