"""What of a result is drawn on the page, and its slider; results of one run or line are linked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from ravine import metrics, plot
from ravine.metrics.ends import end_changes, shared_end
from ravine.metrics.profile import minus, with_error
from ravine.plot.curves import title
from ravine.plot.figure import Figure
from ravine.plot.layers import Curve, Panel
from ravine.plot.paths import distances
from ravine.plot.render.interactive_field import lifted
from ravine.plot.surfaces import TRAIL
from ravine.plot.words import axis_label
from ravine.report.scrub import Mark, Reading, Scrub, Stops
from ravine.result.interpolant import is_resolved
from ravine.result.reading import densely
from ravine.result.schema import kind_of, lines_of, quantities, validate

#: Stops of a slider along a line, at most: finer than a finger or the pixels of a phone.
MOST_STOPS: Final = 801

#: And of each of the two sliders of a plane.
MOST_STOPS_A_SIDE: Final = 51

#: Curves in one panel that a reader can tell apart.
TOLD_APART: Final = 6


@dataclass(frozen=True, eq=False)
class View:
    """A result on the page.

    Attributes:
        result: what was measured.
        kind: as ``results.kind_of`` says.
        anchor: its section's id; its panels are ``<anchor>-0``, ``<anchor>-1``, ….
        figures: what is drawn.
        scrub: the name of the slider that stands under them; "" for none.
    """

    result: xr.Dataset
    kind: str
    anchor: str
    figures: tuple[Figure, ...]
    scrub: str = ""

    @property
    def caption(self) -> str:
        """How to read the figures; what goes for several of them is said once."""
        sentences = [
            one for figure in self.figures for one in re.split(r"(?<=\.) ", figure.caption)
        ]
        return " ".join(dict.fromkeys(sentences))

    @property
    def panels(self) -> list[tuple[str, Panel]]:
        """The panels and their elements' ids."""
        panels = (panel for figure in self.figures for panel in figure.panels)
        return [(f"{self.anchor}-{number}", panel) for number, panel in enumerate(panels)]


def views_of(results: Sequence[xr.Dataset]) -> tuple[list[View], list[Scrub]]:
    """The views of all results of a page in their order, and the sliders that move over them."""
    kinds = [kind_of(validate(result, history=True)) for result in results]
    results = [_of_one_pair(result) for result in results]
    anchors = [f"{kind}-{number}" for number, kind in enumerate(kinds, 1)]
    views: list[View] = []
    for result, kind, anchor in zip(results, kinds, anchors, strict=True):
        trail = next(
            (n for n, other in enumerate(results) if kind == "plane" and _lies_on(other, result)),
            None,
        )
        run = None if trail is None else results[trail]
        # one slider for a run, wherever it is shown; a soup has none
        name = anchor if trail is None else anchors[trail]
        scrub = "" if kind == "soup" else f"at-{name}"
        views.append(View(result, kind, anchor, _figures(result, kind, run), scrub))
    return views, [_scrub(view, views) for view in views if view.scrub == f"at-{view.anchor}"]


def _of_one_pair(result: xr.Dataset) -> xr.Dataset:
    """A result on one pair, aligned, its lines called by what was done, the pair in its title."""
    names = [str(name) for name in result["line"].values] if "line" in result.dims else []
    if "alignment" not in result.attrs or not all(one.startswith(names[0]) for one in names):
        return result
    short = [one.removeprefix(f"{names[0]}, ") for one in names]
    called = np.array(["as it is", *short[1:]])
    return result.assign_coords(line=called).assign_attrs(title=title(result))


def _figures(result: xr.Dataset, kind: str, run: xr.Dataset | None) -> tuple[Figure, ...]:
    if kind == "path":
        return (plot.path(result),)
    if kind == "soup":
        return (plot.soup(result),)
    if kind == "lines":
        first = plot.end_changes(result) if shared_end(result) else plot.barriers(result)
        return (first, *_curves(result))
    if kind == "plane":
        sides = tuple(plot.surface(result, run, view=view) for view in ("flat", "3d"))
        return sides if run is None else (*sides, plot.path(run))
    return (plot.line(result),)


def _scrub(view: View, views: Sequence[View]) -> Scrub:
    return {"line": _along, "lines": _along_all, "plane": _over, "path": _through}[view.kind](
        view, views
    )


# --- a line ---------------------------------------------------------------------------------------


def _along(view: View, views: Sequence[View]) -> Scrub:
    """α along one line; a vertical rule in the figure of a run that was projected on it."""
    read = _read(view.result)
    alpha = read["alpha"].values
    splits = [str(name) for name in read["split"].values]
    home = np.flatnonzero(np.abs(alpha) < 1e-9)
    readings = []
    for name in quantities(read):
        for split in splits:
            value, stderr = _column(read, name, split), _column(read, f"{name}_stderr", split)
            notes = _differences(read, name, split, int(home[0])) if home.size else ()
            readings.append(
                Reading(f"{split} {axis_label(read, name)}", _told(value, stderr), notes)
            )
    if "distance" in read.coords:
        readings.append(
            Reading("distance from the start", tuple(_plain(d) for d in read["distance"].values))
        )
    marks = []
    for (panel, _), name in zip(view.panels, quantities(read), strict=True):
        heights = tuple(_column(read, name, split) for split in splits)
        marks.append(Mark(panel, "rule", alpha, heights))
    length = float(read.attrs.get("length") or np.nan)
    marks += [
        Mark(panel, "hint", alpha * length)
        for other in views
        if other.kind == "path" and _same_ends(other.result, view.result)
        for panel, _ in other.panels[:1]
    ]
    stops = Stops("α", tuple(_plain(place) for place in alpha))
    return Scrub(
        view.scrub, (stops,), tuple(readings), tuple(marks), "from α = 0: " if home.size else ""
    )


def _read(result: xr.Dataset) -> xr.Dataset:
    """Where the slider stops: at a line's measured points, or as densely as it is drawn."""
    read = (densely(result) if is_resolved(result) else result).sortby("alpha")
    return read.isel(alpha=_few(read.sizes["alpha"], MOST_STOPS))


def _differences(read: xr.Dataset, name: str, split: str, home: int) -> tuple[str, ...]:
    """How far J is from that at α = 0, by paired replicates: all points saw the same examples."""
    one = read.sel(split=split)
    values = one[name].values
    # of values that are not finite no change is told
    with np.errstate(invalid="ignore", over="ignore"):
        moved = values - values[home]
        if f"{name}_replicates" in one:
            drawn = one[f"{name}_replicates"].transpose("alpha", ...).values.astype(float)
            stderr = (
                (drawn - drawn[home]).std(axis=1, ddof=1)
                if drawn.shape[1] > 1
                else np.full(len(drawn), np.nan)
            )
        else:
            stderr = np.full(len(values), np.nan)
    texts = [_signed(change, error) for change, error in zip(moved, stderr, strict=True)]
    texts[home] = ""
    return tuple(texts)


def _signed(change: float, stderr: float) -> str:
    """A change with its sign and standard error; nothing where it is not finite."""
    if not np.isfinite(change):
        return ""
    sign = "+" if change > 0 else ""
    return f"{sign}{with_error(change, stderr)}"


# --- several lines --------------------------------------------------------------------------------


def _curves(result: xr.Dataset) -> tuple[Figure, ...]:
    """The curves themselves, a panel a quantity; of many lines, those with the highest barriers."""
    shown = _told_apart(result)
    whole = result.sizes["line"]
    figures = [plot.lines(shown, name) for name in quantities(result)]
    chosen = "the largest changes" if shared_end(result) else "the highest barriers"
    words = ""
    if len(shown) < whole:
        words = f"The curves are the {len(shown)} of {whole} with {chosen}. "
    panels = tuple(panel for figure in figures for panel in figure.panels)
    return (Figure(panels, figures[0].title, f"{words}{figures[0].caption}"),)


def _told_apart(result: xr.Dataset) -> dict[str, xr.Dataset]:
    curves = lines_of(result)
    if len(curves) <= TOLD_APART:
        return curves
    highest = _by_interest(result)[:TOLD_APART]
    return {name: curve for name, curve in curves.items() if name in highest}


def _by_interest(result: xr.Dataset) -> list[str]:
    """The lines that matter most, first: by the free end's change, or the barrier's height."""
    shared = shared_end(result)
    if shared is not None:
        split = str(result["split"].values[0])
        return [one.line for one in end_changes(result, shared, "loss", split).findings]
    heights = {name: barrier.value for name, barrier in metrics.barriers(result).of("end").items()}
    return sorted(heights, key=lambda name: -np.nan_to_num(heights[name], nan=np.inf))


def _along_all(view: View, views: Sequence[View]) -> Scrub:  # noqa: ARG001  as its siblings
    """The same α on every line that is drawn."""
    curves = {name: _read(curve) for name, curve in _told_apart(view.result).items()}
    first = next(iter(curves.values()))
    alpha, split = first["alpha"].values, str(first["split"].values[0])
    names = quantities(first)
    readings = [
        Reading(
            f"{label}: {axis_label(curve, name)}",
            _told(_column(curve, name, split), _column(curve, f"{name}_stderr", split)),
        )
        for name in names
        for label, curve in curves.items()
    ]
    panels = [panel for panel, _ in view.panels][-len(names) :]
    marks = []
    for panel, name in zip(panels, names, strict=True):
        heights = tuple(_column(curve, name, split) for curve in curves.values())
        marks.append(Mark(panel, "rule", alpha, heights))
    stops = Stops("α", tuple(_plain(place) for place in alpha))
    return Scrub(view.scrub, (stops,), tuple(readings), tuple(marks))


# --- a plane --------------------------------------------------------------------------------------


def _over(view: View, views: Sequence[View]) -> Scrub:  # noqa: ARG001  as its siblings
    """α and β over the measured points of a plane."""
    read = view.result.sortby(["alpha", "beta"])
    read = read.isel({dim: _few(read.sizes[dim], MOST_STOPS_A_SIDE) for dim in ("alpha", "beta")})
    alpha, beta = (read[dim].values for dim in ("alpha", "beta"))
    splits = [str(name) for name in read["split"].values]
    readings = [
        Reading(
            f"{split} {axis_label(read, name)}",
            _told(_column(read, name, split), _column(read, f"{name}_stderr", split)),
        )
        for name in quantities(read)
        for split in splits
    ]
    if "distance" in read.coords:
        away = read["distance"].transpose("alpha", "beta").values.ravel()
        readings.append(Reading("distance from the origin", tuple(_plain(d) for d in away)))
    x, y = (mesh.ravel() for mesh in np.meshgrid(alpha, beta, indexing="ij"))
    heights = _column(read, "loss", splits[0])
    marks = [Mark(name, "point", x, (y,), _height(heights, panel)) for name, panel in view.panels]
    stops = Stops("α", tuple(map(_plain, alpha))), Stops("β", tuple(map(_plain, beta)))
    return Scrub(view.scrub, stops, tuple(readings), tuple(marks))


def _height(values: np.ndarray, panel: Panel) -> np.ndarray | None:
    """Of marks in a panel that is seen from the side."""
    return lifted(values, panel.z) if panel.view == "3d" and panel.z is not None else None


# --- a run ----------------------------------------------------------------------------------------


def _through(view: View, views: Sequence[View]) -> Scrub:
    """The snapshots of a run, in its own figure, and on its planes and its line."""
    run = view.result
    planes = [other for other in views if other.kind == "plane" and other.scrub == view.scrub]
    readings = _state(run, planes[0].result if planes else None)
    marks = _snapshots(view.panels, run)
    for plane in planes:
        marks += _snapshots(plane.panels[2:], run)
        for name, panel in plane.panels[:2]:
            trail = next(
                layer for layer in panel.layers if isinstance(layer, Curve) and layer.label == TRAIL
            )
            height = None if trail.z is None else _height(trail.z, panel)
            marks.append(Mark(name, "point", trail.x, (trail.y,), height, exact=True))
    drives = {}
    for line in views:
        if line.kind == "line" and _same_ends(run, line.result):
            alpha = _read(line.result)["alpha"].values
            drives[line.scrub] = tuple(
                int(np.argmin(np.abs(alpha - place))) for place in run["alpha"].values
            )
    stops = Stops("step", tuple(f"{int(step):,}" for step in run["step"].values))
    return Scrub(view.scrub, (stops,), readings, tuple(marks), drives=drives)


def _snapshots(panels: Sequence[tuple[str, Panel]], run: xr.Dataset) -> list[Mark]:
    """In the figure of a run: the point of its first panel, and a rule in its learning curves."""
    straying, *learning = [name for name, _ in panels]
    splits = [str(name) for name in run["split"].values] if learning else []
    marks = [Mark(straying, "point", run["distance"].values, (run["residual"].values,), exact=True)]
    for name, quantity in zip(learning, quantities(run), strict=True):
        values = tuple(_column(run, quantity, split, "step") for split in splits)
        marks.append(Mark(name, "rule", run["step"].values.astype(float), values))
    return marks


def _state(run: xr.Dataset, plane: xr.Dataset | None) -> tuple[Reading, ...]:
    readings = []
    for name in quantities(run) if "loss" in run else []:
        for split in map(str, run["split"].values):
            told = _told(
                _column(run, name, split, "step"), _column(run, f"{name}_stderr", split, "step")
            )
            below = () if plane is None else _below(run, plane, name, split)
            readings.append(Reading(f"{split} {axis_label(run, name)}", told, below))
    along, away = distances(run)
    names = {
        "alpha": "α",
        "beta": "β",
        "distance": along,
        "residual": away,
        "path_length": "length of the path",
    }
    for name, label in names.items():
        if name in run:
            readings.append(Reading(label, tuple(_plain(value) for value in run[name].values)))
    return tuple(readings)


def _below(run: xr.Dataset, plane: xr.Dataset, name: str, split: str) -> tuple[str, ...]:
    """J where the snapshot is projected to, read off the plane: its own J is another number."""
    if name not in plane or split not in plane["split"].values:
        return ()
    one = plane.sel(split=split).sortby(["alpha", "beta"])
    values = one[name].transpose("alpha", "beta").values
    read = RegularGridInterpolator(
        (one["alpha"].values, one["beta"].values), values, bounds_error=False
    )
    found = read(np.stack([run["alpha"].values, run["beta"].values], 1))
    return tuple(
        f"{minus(f'{value:.3g}')} on the plane" if np.isfinite(value) else "" for value in found
    )


# --- what belongs together ------------------------------------------------------------------------


def _same(one: xr.Dataset, other: xr.Dataset, corners: tuple[str, ...]) -> bool:
    keys = [f"{corner}_hash" for corner in corners]
    return all(one.attrs.get(key) and one.attrs.get(key) == other.attrs.get(key) for key in keys)


def _same_ends(path: xr.Dataset, line: xr.Dataset) -> bool:
    """Whether a run was projected on this very line."""
    return _same(path, line, ("start", "end"))


def _lies_on(path: xr.Dataset, plane: xr.Dataset) -> bool:
    """Whether this is a run that was projected on this very plane."""
    if kind_of(path) != "path" or not {"alpha", "beta"} <= set(path):
        return False
    known = all(bool(np.isfinite(path[dim].values).all()) for dim in ("alpha", "beta"))
    return known and _same(path, plane, ("origin", "a", "b"))


# --- numbers --------------------------------------------------------------------------------------


def _few(count: int, most: int) -> np.ndarray:
    """Evenly many of the points, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _column(result: xr.Dataset, name: str, split: str, *dims: str) -> np.ndarray:
    """One quantity on one split, in the order of the slider."""
    one = result[name].sel(split=split)
    order = dims or tuple(dim for dim in ("alpha", "beta") if dim in one.dims)
    return one.transpose(*order).values.astype(float).ravel()


def _told(values: np.ndarray, stderr: np.ndarray) -> tuple[str, ...]:
    return tuple(
        with_error(value, error) if np.isfinite(value) else _plain(value)
        for value, error in zip(values, stderr, strict=True)
    )


def _plain(value: float) -> str:
    return minus(f"{value:.4g}")
