"""Rounds: a slice measured at some points, and then at more."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from ravine.errors import InputError
from ravine.measuring.labelling import labelled
from ravine.objective.measurement import Measured
from ravine.objective.objective import Objective
from ravine.points.slices import Slice, bends
from ravine.store.executors import Workers
from ravine.store.ledger import Ledger


@dataclass
class Rounds:
    """Measures points of one slice, round after round: planned once, always on the same examples.

    Attributes:
        objective: what to measure.
        along: the slice.
        title: what to call the result.
        command: what reproduces it.
        progress: as in ``evaluate``.
        store: where finished tiles are kept.
        crew: workers that measure.
        latest: what the last round gave.
    """

    objective: Objective
    along: Slice
    title: str | None = None
    command: str = ""
    progress: bool | None = None
    store: Ledger | None = None
    crew: Workers | None = None
    latest: Measured | None = None

    def measure(self, places: np.ndarray) -> xr.Dataset:
        """Measure points that need be on no grid.

        Args:
            places: (points, dims of the slice) their coordinates.

        Returns:
            A result with the one dim ``point``, as ``labelling.labelled`` makes it. Noise floors
            are estimated in the first round, and NaN in later ones.

        Raises:
            InputError: as ``evaluate``.
        """
        began = time.perf_counter()
        along = self.along
        coefficients = [along.coefficients(*map(float, place)) for place in places]
        total = expected_work(self.objective, len(places))
        with progress_bar(self.title, total, self.progress) as bar:
            self.latest = self.objective.measure(
                along.corners,
                coefficients,
                ticker(bar),
                labels=[_label(along.dims, place) for place in places],
                probes=() if self.latest else probes_of(places),
                joined=joined_by(along, range(len(along.corners))),
                earlier=self.latest,
                store=self.store,
                crew=self.crew,
            )
        seconds = time.perf_counter() - began
        about = {"title": self.title, "command": self.command, "seconds": seconds}
        return labelled(self.objective, along, places, np.array(coefficients), self.latest, about)


def joined_by(along: Slice, corners: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of a slice's corners that must be different points; a curve may return to one.

    Args:
        along: the slice.
        corners: numbers of its corners among those of all slices.
    """
    return [] if bends(along) else list(combinations(corners, 2))


def with_reuse(result: xr.Dataset, store: Ledger | None, progress: bool | None) -> xr.Dataset:
    """The result, with what was not measured now in its attribute ``reused``; said aloud, too."""
    if store is None or not store.summary:
        return result
    if progress is not False:
        tqdm.write(store.summary, file=sys.stderr)
    return result.assign_attrs(reused=store.summary)


def probes_of(places: np.ndarray) -> list[int]:
    """Numbers of a few points, evenly over a slice with its rim, whose rounding is looked at.

    Args:
        places: (points, dims) their coordinates.

    Returns:
        Five of a line, three where it has few points; 3 × 3 of a plane.
    """
    count = 5 if places.shape[1] == 1 and len(places) > 12 else 3
    ladders = [_rungs(np.unique(axis), count) for axis in places.T]
    wanted = np.stack(np.meshgrid(*ladders), -1).reshape(-1, places.shape[1])
    return sorted({int(np.argmin(((places - place) ** 2).sum(1))) for place in wanted})


def _rungs(axis: np.ndarray, count: int) -> np.ndarray:
    """So many of an axis's places, evenly spread, both ends among them."""
    return axis[np.linspace(0, len(axis) - 1, count).round().astype(int)]


def require_objective(objective: Any) -> None:
    """Refuse what is no objective.

    Raises:
        InputError: naming what was given instead.
    """
    if not isinstance(objective, Objective):
        msg = (
            "expected a ravine.Objective(model, per_example, data) to measure; got "
            f"{type(objective).__name__}"
        )
        raise InputError(msg)


def require_slice(along: Any) -> None:
    """Refuse what is no slice.

    Raises:
        InputError: naming what was given instead.
    """
    if not hasattr(along, "dims") or not hasattr(along, "corners"):
        msg = (
            "along must be a slice, such as ravine.Line(start, end), or several by name, "
            f"{{name: line, …}}; got {type(along).__name__}"
        )
        raise InputError(msg)


def expected_work(objective: Objective, points: int) -> int | None:
    """Examples × points that a measurement takes; None where a split does not say how many."""
    again = objective.splits[:1] if objective.buffers == "recompute" else ()
    counts = [len(split) for split in (*objective.splits, *again)]
    return sum(counts) * points if all(counts) else None


def progress_bar(title: str | None, total: int | None, progress: bool | None) -> tqdm:
    """A bar that shows itself after the first second, by default only on a terminal."""
    hidden = None if progress is None else not progress  # tqdm's None: where there is no terminal
    return tqdm(
        total=total,
        desc=title or "evaluate",
        unit=" examples",
        delay=1,
        disable=hidden,
        unit_scale=True,
    )


def ticker(bar: tqdm) -> Callable[[int], None]:
    """Moves a bar on."""

    def tick(done: int) -> None:
        bar.update(done)

    return tick


def _label(dims: tuple[str, ...], place: np.ndarray) -> str:
    return ", ".join(f"{dim} = {x:g}" for dim, x in zip(dims, place, strict=True))
