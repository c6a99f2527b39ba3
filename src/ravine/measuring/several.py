"""Several slices in one pass: what they have in common is measured once."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.measuring.labelling import labelled, on_axes
from ravine.measuring.rounds import (
    expected_work,
    joined_by,
    probes_of,
    progress_bar,
    ticker,
)
from ravine.objective.objective import Objective
from ravine.points.slices import Slice
from ravine.result.axes import read_axes
from ravine.result.schema import quantities
from ravine.store.executors import Workers
from ravine.store.ledger import Ledger

_DIMS: Final = ("alpha",)
_SUMMED: Final = ("wall_seconds", "created")


def evaluate_several(
    objective: Objective,
    slices: Mapping[str, Slice],
    at: Any,
    title: str | None,
    command: str,
    progress: bool | None,
    store: Ledger | None = None,
    crew: Workers | None = None,
) -> xr.Dataset:
    """``evaluate`` along several lines or curves, by name."""
    _require_lines(slices)
    alpha = read_axes(at, _DIMS)["alpha"]
    curves: dict[str, xr.Dataset] = {}
    total = expected_work(objective, len(slices) * len(alpha))
    with progress_bar(title, total, progress) as bar:
        for together in _sharing(slices, objective.buffers):
            curves |= _in_one_pass(
                objective, together, alpha, title, command, ticker(bar), store, crew
            )
        bar.update((bar.total or bar.n) - bar.n)  # a point that lines share is measured once
    return bundled({name: curves[name] for name in slices})


class PointSet:
    """Points of several slices, each held once, though slices meet at their corners.

    Args:
        slices: by name.

    Attributes:
        corners: of all of them, each once.
        coefficients: of every point, one number per corner.
        labels: what each point is called: after the first slice that has it.
    """

    def __init__(self, slices: Mapping[str, Slice]) -> None:
        starts = [one.corners[0] for one in slices.values()]
        between = [corner for one in slices.values() for corner in one.corners[1:-1]]
        ends = [one.corners[-1] for one in slices.values()]
        # a policy for running statistics takes those of the first corner or of the last one
        every = [*starts, *between, *ends]
        self.corners = list({id(corner): corner for corner in every}.values())
        self.coefficients: list[tuple[float, ...]] = []
        self.labels: list[str] = []
        self._numbers: dict[tuple[float, ...], int] = {}

    def add(self, name: str, along: Slice, alpha: np.ndarray) -> np.ndarray:
        """Take in a slice's points.

        Args:
            name: of the slice.
            along: it.
            alpha: (points,) where on it.

        Returns:
            (points,) their numbers.
        """
        places = self.places(along)
        numbers = []
        for place in alpha:
            mixed = [0.0] * len(self.corners)
            for corner, share in zip(places, along.coefficients(float(place)), strict=True):
                mixed[corner] += share
            point = tuple(mixed)
            if point not in self._numbers:
                self._numbers[point] = len(self.coefficients)
                self.coefficients.append(point)
                self.labels.append(f"{name}, alpha = {place:g}")
            numbers.append(self._numbers[point])
        return np.array(numbers)

    def places(self, along: Slice) -> list[int]:
        """The numbers of a slice's corners."""
        numbers = {id(corner): number for number, corner in enumerate(self.corners)}
        return [numbers[id(corner)] for corner in along.corners]


def _in_one_pass(
    objective: Objective,
    slices: Mapping[str, Slice],
    alpha: np.ndarray,
    title: str | None,
    command: str,
    tick: Callable[[int], None],
    store: Ledger | None,
    crew: Workers | None,
) -> dict[str, xr.Dataset]:
    began = time.perf_counter()
    points, places = PointSet(slices), alpha[:, None]
    rows = {name: points.add(name, along, alpha) for name, along in slices.items()}
    probed = probes_of(places)
    measured = objective.measure(
        points.corners,
        points.coefficients,
        tick,
        labels=points.labels,
        probes=sorted({int(numbers[probe]) for numbers in rows.values() for probe in probed}),
        joined={pair for one in slices.values() for pair in joined_by(one, points.places(one))},
        store=store,
        crew=crew,
    )
    seconds = (time.perf_counter() - began) / len(slices)
    about = {"title": title, "command": command, "seconds": seconds}
    curves: dict[str, xr.Dataset] = {}
    for name, along in slices.items():
        own = measured.part(rows[name], points.places(along))
        coefficients = np.array([along.coefficients(float(place)) for place in alpha])
        curve = labelled(objective, along, places, coefficients, own, about)
        curves[name] = on_axes(curve, {"alpha": alpha})
    return curves


def _require_lines(slices: Mapping[str, Any]) -> None:
    expected = (
        "several lines are given as a dict of names and Line objects, or other slices with the dim "
        "'alpha'"
    )
    if not slices:
        msg = f"{expected}; there is none"
        raise InputError(msg)
    for name, along in slices.items():
        if tuple(getattr(along, "dims", ())) != _DIMS or not hasattr(along, "coefficients"):
            msg = f"{expected}; {name!r} is a {type(along).__name__}"
            raise InputError(msg)


def _sharing(slices: Mapping[str, Slice], buffers: str | None) -> list[dict[str, Slice]]:
    """Groups of slices that are best measured together: those with a corner in common.

    Where all points have the running statistics of one end, that end has to be the same one.
    """
    groups: list[tuple[set[int], dict[str, Slice]]] = []
    for name, along in slices.items():
        deciding = {"start": along.corners[:1], "end": along.corners[-1:]}
        corners = set(map(id, deciding.get(buffers or "", along.corners)))
        members: dict[str, Slice] = {}
        apart = []
        for group in groups:
            if group[0] & corners:
                corners |= group[0]
                members |= group[1]
            else:
                apart.append(group)
        groups = [*apart, (corners, {**members, name: along})]
    return [members for _, members in groups]


def _own_attributes(curves: Sequence[xr.Dataset]) -> list[str]:
    """Names of the attributes that tell curves apart: their corners, and whatever differs."""
    first, *others = curves
    roles = [role for curve in curves for role in str(curve.attrs["corners"]).split(", ")]
    corners = [*dict.fromkeys(roles), *(f"{role}_hash" for role in dict.fromkeys(roles))]
    differing = [str(name) for name in first.attrs if not _agrees(name, first, others)]
    names = dict.fromkeys([*corners, "length", *differing])
    shared = _shared_attributes(curves)
    return [name for name in names if name in shared and name not in _SUMMED]


def _agrees(name: Hashable, first: xr.Dataset, others: Sequence[xr.Dataset]) -> bool:
    return all(other.attrs.get(name) == first.attrs[name] for other in others)


def _shared_attributes(curves: Iterable[xr.Dataset]) -> set[Hashable]:
    """Names of the attributes that all of them have."""
    return set.intersection(*(set(curve.attrs) for curve in curves))


def bundled(curves: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Results of lines at the same points as one, with the dim ``line``.

    What says where each comes from (``start``, ``end``, their hashes, ``length``) becomes a
    coordinate of that dim; the other attributes are the first one's, and ``wall_seconds`` is the
    sum.
    """
    first, own = next(iter(curves.values())), _own_attributes(list(curves.values()))
    together = xr.concat(
        [curve.drop_attrs(deep=False) for curve in curves.values()],
        dim=xr.Variable("line", np.array(list(curves), dtype=np.str_)),
        data_vars="all",
        coords="different",
        compat="equals",
        join="exact",
        combine_attrs="drop",
    )
    for name in own:
        values = np.array([curve.attrs[name] for curve in curves.values()])
        together = together.assign_coords({name: ("line", values)})
    for name in ("n_examples", "n_units"):
        together[name] = first[name]
    for name in quantities(first):
        together[name].attrs = dict(first[name].attrs)
    common = _shared_attributes(curves.values())
    attrs = {name: value for name, value in first.attrs.items() if name in common - set(own)}
    seconds = sum(float(curve.attrs["wall_seconds"]) for curve in curves.values())
    return together.assign_attrs(attrs | {"wall_seconds": round(seconds, 3)})
