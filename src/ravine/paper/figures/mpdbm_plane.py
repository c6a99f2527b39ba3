"""Figure 7, right: training on the plane that holds the line and the snapshot farthest from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import xarray as xr

import ravine
from ravine import metrics
from ravine.paper import training
from ravine.paper.figures.mpdbm_measures import (
    CHANGED,
    EFFORT,
    SIZES,
    UNIT,
    ends_of,
    line_of,
    task_of,
)
from ravine.paper.figures.parts import described
from ravine.paper.figures.second_minima import Anomaly, anomalies
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.tasks.prediction import alone
from ravine.plot import Axis, Curve, Figure, Layer, Markers, Panel, Rule

#: Of the plane: a hundredth of the local value is less than a picture shows.
TOLERANCE: Final = 1e-2

_OFF: Final = "distance / length of the line"

_CORNERS: Final = {
    "origin": "initial parameters",
    "a": "solution",
    "b": "beside the origin, orthogonal to the line",
}


@dataclass(frozen=True)
class _OnPlane:
    """What the three pictures of training on its own plane are made from."""

    run: training.Run
    line: xr.Dataset
    plane: xr.Dataset
    path: xr.Dataset

    @property
    def found(self) -> list[Anomaly]:
        """Second minima of the line."""
        return anomalies({"line": self.line}, ("loss",), ("train",))

    @property
    def results(self) -> dict[str, xr.Dataset]:
        """By name."""
        return {"plane": self.plane, "path": self.path, "line": self.line}

    def words(self, study: Study) -> str:
        """What is said below each of the pictures."""
        kept = "a snapshot" if self.run.recipe.is_lean else "an epoch"
        return (
            f"β leads to the snapshot farthest from the line; every point of the path is {kept} at "
            f"its own J. {detour(self.plane, self.path, self.found, self.run)} "
            f"{CHANGED[study.profile]} {described(self.run)}"
        )


def _on_plane(study: Study) -> _OnPlane:
    run = study.trained(SIZES[study.profile])
    effort = EFFORT[study.profile]
    what = (run.identity, effort.on_plane)

    # only where there is something to measure: what was carried here from elsewhere has
    # no snapshots
    def plane() -> ravine.Plane:
        farthest = ravine.black_sheep(run.trajectory, ravine.Line(*ends_of(run)))
        return ravine.Plane(run.start, run.solution, farthest)

    def objective() -> ravine.Objective:
        return task_of(study, run).measured(("train",), examples=effort.on_plane, costs=alone)

    path = study.kept("fig7-plane-path", what, lambda: _measured_path(run, plane(), objective()))

    def measure() -> xr.Dataset:
        reach = {axis: _margin(path[axis].values) for axis in ("alpha", "beta")}
        measured = ravine.resolve(
            objective(),
            along=plane(),
            interval=reach,
            tolerance=TOLERANCE,
            max_points=effort.plane,
            title="MP-DBM, training's own plane",
        )
        return measured.assign_attrs(_CORNERS)

    surface = study.kept("fig7-plane", (*what, TOLERANCE, effort.plane), measure)
    return _OnPlane(run, line_of(study, run), surface, path)


def fig7_plane(study: Study) -> Outcome:
    """Right: J on the plane of the line and the snapshot farthest from it, with training's J."""
    seen = _on_plane(study)
    drawn = ravine.plot.surface(seen.plane, seen.path, view="3d")
    figure = Figure(
        (_plane_panel(drawn.panels[0], seen.found),),
        "Figure 7, right: training on the plane of its extrema, MP-DBM on MNIST",
        f"The objective over the plane that holds the line (α), from the side. {seen.words(study)} "
        f"{drawn.caption}",
    )
    return Outcome("fig7-plane", figure, seen.results, (seen.run,))


def fig7_above(study: Study) -> Outcome:
    """The same plane from above, with contour lines."""
    seen = _on_plane(study)
    drawn = ravine.plot.surface(seen.plane, seen.path)
    figure = Figure(
        (_plane_panel(drawn.panels[0], seen.found),),
        "Figure 7, right, from above",
        f"The plane of the figure before, with contour lines. {drawn.caption}",
    )
    return Outcome("fig7-above", figure, seen.results, (seen.run,))


def fig7_path(study: Study) -> Outcome:
    """How training left the line in its first epoch, and J on its path beside J on the line."""
    seen = _on_plane(study)
    figure = Figure(
        (
            _first_epoch(seen.plane, seen.path, seen.run),
            _along_training(seen),
            _by_update(seen, off_line(seen.plane, seen.path), _OFF),
            _by_update(seen, seen.path["loss"].values, UNIT),
        ),
        "Figure 7: how training left the line, MP-DBM on MNIST",
        "Above: the snapshots by their distance from the line, those of the first epoch marked; "
        "and J at the snapshots, and on the line at the same α. Below: the same against the "
        "update, from the first one on. The first snapshot after the start, of update "
        f"{int(seen.path['step'][1]):,}, is at α = {float(seen.path['alpha'][1]):.3g}: the first "
        f"update cuts what feeds each unit to its cap. {seen.words(study)}",
    )
    return Outcome("fig7-path", figure, seen.results, (seen.run,))


def _plane_panel(drawn: Panel, found: Sequence[Anomaly]) -> Panel:
    layers = _renamed(drawn.layers, found)
    return replace(drawn, z=replace(drawn.z or Axis(""), label=UNIT), layers=layers)


def _first_epoch(plane: xr.Dataset, path: xr.Dataset, run: training.Run) -> Panel:
    """How far from the line each snapshot lies, relatively; those of the first epoch are marked."""
    alpha, away = path["alpha"].values, off_line(plane, path)
    first = path["step"].values <= -(-run.recipe.train // run.recipe.batch_size)
    layers = (
        Curve(alpha, away, "training"),
        Markers(alpha[~first], away[~first], label="snapshots after the first epoch"),
        Markers(alpha[first], away[first], label="snapshots of the first epoch", style=1),
    )
    return Panel(Axis("α"), Axis(_OFF), layers, "how training left the line")


def off_line(plane: xr.Dataset, path: xr.Dataset) -> np.ndarray:
    """How far each snapshot lies from the line, over the line's length.

    Args:
        plane: of the line and of a direction at right angles to it.
        path: training on it.

    Returns:
        (snapshots,).
    """
    length, other = (float(plane.attrs[f"length_{axis}"]) for axis in "ab")
    return np.hypot(path["beta"].values * other, path["residual"].values) / length


def _along_training(seen: _OnPlane) -> Panel:
    """J at the snapshots, and on the line at the same α."""
    whole = metrics.Profile.of(seen.line)
    alpha, own = seen.path["alpha"].values, seen.path["loss"].values
    layers = (
        Curve(whole.alpha, whole.value, "on the line", style=2),
        Curve(alpha, own, "training"),
        Markers(alpha, own),
    )
    return Panel(Axis("α"), Axis(UNIT), layers, "J on the path and on the line")


def _by_update(seen: _OnPlane, values: np.ndarray, label: str) -> Panel:
    """What snapshots are like, against the update that each was taken after, without the start."""
    step = seen.path["step"].values.astype(float)
    epoch = float(-(-seen.run.recipe.train // seen.run.recipe.batch_size))
    layers = (
        Rule(epoch, "epoch 1"),
        Curve(step[1:], values[1:], "training"),
        Markers(step[1:], values[1:]),
    )
    return Panel(Axis("update", "log"), Axis(label), layers, "update by update")


def nearest_as_drawn(plane: xr.Dataset, path: xr.Dataset, alpha: float) -> float:
    """How near training comes to a point of the line, seen on the two axes of the plane.

    Its start, which is on the line, does not count.

    Args:
        plane: of the line and of the epoch farthest from it, at right angles.
        path: training on it.
        alpha: the point.

    Returns:
        A distance over the line's length.
    """
    unit = float(plane.attrs["length_b"]) / float(plane.attrs["length_a"])
    return float(np.hypot(path["alpha"].values - alpha, path["beta"].values * unit)[1:].min())


def detour(
    plane: xr.Dataset,
    path: xr.Dataset,
    found: Sequence[Anomaly],
    run: training.Run | None = None,
) -> str:
    """How training went around, in words.

    Args:
        plane: of the line and of the epoch farthest from it, at right angles.
        path: training on it, with its own ``loss``.
        found: second minima of the line.
        run: the training; without it every snapshot is an epoch's.

    Returns:
        Sentences.
    """
    moments = _moments(path, run)
    what = "snapshots" if run is not None and run.recipe.is_lean else "epochs"
    length = float(plane.attrs["length_a"])
    alpha, beta, off, own = (path[name].values for name in ("alpha", "beta", "residual", "loss"))
    from_line = off_line(plane, path)
    far = int(from_line.argmax())
    on_line, on_plane = heights(plane, alpha, np.zeros_like(beta)), heights(plane, alpha, beta)
    on_line[(alpha < 0) | (alpha > 1)] = np.nan
    between = np.flatnonzero((alpha > 0) & (alpha < 1))
    apart = own[between] - on_line[between]
    words = [
        f"Training strays {from_line[far]:.2g} of the line's length from the line, farthest at "
        f"{moments[far]}, whose J is "
        f"{own[far]:.3g}; at the same α the line's is {on_line[far]:.3g}."
    ]
    if between.size:
        words.append(
            f"J on the path less J on the line at the same α is {apart.min():.2g} to "
            f"{apart.max():.2g} at the "
            f"{between.size} {what} in between, and negative at {int((apart < 0).sum())} of them."
        )
    words.append(
        f"{what.capitalize()} lie up to {off.max() / length:.2g} of the line's length off the "
        f"plane, half of them more than {np.median(off) / length:.2g}; their J differs from the "
        f"plane's by {np.nanmax(np.abs(own - on_plane)):.2g} at most."
    )
    for one in found[:1]:
        away = np.hypot(from_line, alpha - one.alpha)[1:]
        words.append(
            f"The line has a second minimum at α = {one.alpha:.3g}; after its start training came "
            f"no nearer to it than {away.min():.2g} of the line's length, at "
            f"{moments[1 + int(away.argmin())]}, and as drawn no nearer than "
            f"{nearest_as_drawn(plane, path, one.alpha):.2g}."
        )
    if not found:
        words.append("The line has no second minimum to go around.")
    return " ".join(words)


def _moments(path: xr.Dataset, run: training.Run | None) -> list[str]:
    """When each snapshot was taken, in words."""
    if run is None:
        return [f"epoch {place}" for place in range(path.sizes["step"])]
    return [run.moment(int(step)) for step in path["step"].values]


def _measured_path(run: training.Run, plane: ravine.Plane, J: ravine.Objective) -> xr.Dataset:
    path = ravine.project(run.trajectory, onto=plane)
    heights = [J(point)["train"] for point in run.trajectory]
    return path.assign(loss=("step", np.array(heights), {"units": "nats per pixel"}))


def heights(plane: xr.Dataset, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The training loss of a plane at some places.

    Args:
        plane: measured on a grid, or resolved.
        alpha: (places,).
        beta: (places,).

    Returns:
        (places,) from the interpolant where there is one, else by straight lines between measured
        points; NaN off the plane.
    """
    inside = np.ones(len(alpha), bool)
    for dim, at in (("alpha", alpha), ("beta", beta)):
        inside &= (at >= float(plane[dim].min())) & (at <= float(plane[dim].max()))
    places = {"alpha": np.unique(alpha[inside]), "beta": np.unique(beta[inside])}
    whole = bool(plane.attrs.get("resolved", 0)) and inside.any()
    read = ravine.reconstruct(plane, at=places) if whole else plane.sortby(["alpha", "beta"])
    field = (
        read["loss"].sel(split="train") if "train" in read["split"] else read["loss"].isel(split=0)
    )
    found = np.full(len(alpha), np.nan)
    wanted = {"alpha": ("place", alpha[inside]), "beta": ("place", beta[inside])}
    kept = {dim: xr.DataArray(at, dims=place) for dim, (place, at) in wanted.items()}
    found[inside] = (field.sel(kept) if whole else field.interp(kept)).values
    return found


def _renamed(layers: Iterable[Layer], found: Sequence[Anomaly]) -> tuple[Layer, ...]:
    """The marks are of the two ends, which are networks, not of the corner that spans the plane."""

    def renamed(layer: Layer) -> Layer:
        if not isinstance(layer, Markers) or not layer.names:
            return layer
        kept = [place for place, name in enumerate(layer.names) if name in ("origin", "a")]
        names = tuple({"origin": "start", "a": "solution"}[layer.names[place]] for place in kept)
        hover = tuple(layer.hover[place] for place in kept)
        return replace(
            layer,
            x=layer.x[kept],
            y=layer.y[kept],
            z=np.asarray(layer.z)[kept],
            names=names,
            hover=hover,
        )

    minima = (
        Markers(
            np.array([one.alpha]), np.zeros(1), names=("second minimum",), z=np.array([one.value])
        )
        for one in found[:1]
    )
    return (*map(renamed, layers), *minima)


def _margin(places: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest, with a tenth of that more on either side."""
    low, high = float(min(places.min(), 0.0)), float(max(places.max(), 1.0))
    return low - 0.1 * (high - low), high + 0.1 * (high - low)
