"""Figure 7: an MP-DBM on MNIST, along the line and on the plane that holds most of its training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

import ravine
from ravine import metrics
from ravine.paper import data, training
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.models import MPDBM
from ravine.paper.models.mpdbm import Prediction
from ravine.paper.tasks import cut_rows
from ravine.plot import Curve, Figure, Panel

#: Draws of masks and binary images for each example, where the curve is to depend less on one of them: ours.
DRAWS: Final = 4

#: What is searched for a second minimum; the error is a step function, with minima of its own making.
SEARCHED: Final = ("loss", "pixels", "label", "class_loss")

#: The plane's tolerance, and its points at most: ours. A point costs seconds on two cores.
TOLERANCE: Final = 1e-2
POINTS: Final = 400

_UNIT: Final = "J (nats per pixel)"


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
            f"{self.quantity} ({self.split}, {self.curve}) has one at α = {self.alpha:.3g}, {self.value:.4g} high and "
            f"{self.prominence:.2g} deep"
        )


def anomalies(
    curves: dict[str, xr.Dataset], quantities: Iterable[str] = SEARCHED, splits: Iterable[str] = ("train", "valid")
) -> list[Anomaly]:
    """Second minima of curves, the most prominent first.

    Args:
        curves: name → line.
        quantities: what is searched.
        splits: of these, where a curve has them.

    Returns:
        All that are deeper than a thousandth of their curve's range and than its noise.
    """
    searched = [(name, quantity, split) for name in curves for quantity in quantities for split in splits]
    found = [one for what in searched for one in _anomalies(curves[what[0]], *what)]
    return sorted(found, key=lambda one: -one.share)


def _anomalies(curve: xr.Dataset, name: str, quantity: str, split: str) -> Iterator[Anomaly]:
    if split not in curve["split"].values:
        return
    part = metrics.Profile.of(curve, quantity, split).between(0, 1)
    lowest, extent = float(np.nanmin(part.value)), float(np.ptp(part.value))
    inside = curve.sel(alpha=(curve["alpha"] >= part.alpha[0]) & (curve["alpha"] <= part.alpha[-1]))
    for one in metrics.minima(inside, quantity=quantity, split=split):
        place, value, depth = one.value.at, one.value.value, one.prominence.value
        if 0 < place < 1 and value > lowest:
            yield Anomaly(name, quantity, split, place, value, depth, depth / extent)


def closest_approach(path: xr.Dataset, alpha: float) -> tuple[float, int]:
    """How near training came to a point of the line.

    Args:
        path: of the run, projected on the line.
        alpha: the point.

    Returns:
        The smallest distance of a snapshot, over the line's length, and its step.
    """
    length = float(path.attrs["length"])
    away = np.hypot(path["distance"].values - alpha * length, path["residual"].values) / length
    return float(away.min()), int(path["step"].values[int(away.argmin())])


def fig7(study: Study) -> Outcome:
    """Left: the line, and the places where a second minimum may be."""
    run = study.trained("mpdbm-mnist")
    nearest, outside = projected_start(run)
    line = study.curve("fig7-line", run, interval=(0.0, 1.0), title="MP-DBM")
    coarse = study.curve("fig7-coarse", run, at=COARSE, title="MP-DBM, the original's 20 values of α")
    results = {
        "line": line,
        "coarse": coarse,
        "projected": study.curve(
            "fig7-projected",
            run,
            interval=(0.0, 1.0),
            ends=(nearest, run.solution),
            about=("projected",),
            title="MP-DBM, from the nearest start that the caps allow",
        ),
        "several draws": _varied(study, run, "fig7-draws", f"MP-DBM, {DRAWS} draws of masks", draws=DRAWS),
        "undoubled": _varied(study, run, "fig7-undoubled", "MP-DBM, first pass not doubled", doubled=False),
    }
    for name, window in (("start", (0.0, 0.01)), ("end", (0.99, 1.0))):
        results[name] = study.curve(
            f"fig7-{name}",
            run,
            interval=window,
            splits=("train",),
            dtype=torch.float64,  # what changes in a hundredth of the line is small
            title=f"MP-DBM, α in [{window[0]:g}, {window[1]:g}]",
        )
    found = anomalies(results)
    path = study.kept(
        "fig7-path",
        (run.recipe.hash,),
        lambda: ravine.project(run.trajectory, onto=ravine.Line(run.start, run.solution)),
    )
    panels = (
        with_points(panel(line, "the line", label=_UNIT), coarse, within=(0.0, 1.0)),
        with_points(panel(coarse, "on beyond the solution", "log", label=_UNIT), coarse),
        panel(results["projected"], "from the nearest start that the caps allow", label=_UNIT),
        panel(line, "the label's part of J", quantity="label", label=_UNIT),
        panel(line, "label by mean field, all pixels seen", quantity="class_loss", label="cross-entropy (nats)"),
        _per_pixel(learning_curve(run)),
    )
    figure = Figure(
        panels,
        "Figure 7, left: from initialisation to solution, MP-DBM on MNIST",
        "The multi-prediction objective along the line from initial (α = 0) to final parameters (α = 1), with one draw "
        "of masks and binary images for all α; training images, the first "
        f"{line['n_examples'].values[0]:,}, and validation images. Points are the original experiment's 20 values "
        f"of α. The initial parameters lie {outside:.3g} outside the set that the caps allow, of {_length(path):.3g} "
        f"to the solution. {said(found, path, results)} {described(run)}",
    )
    return Outcome("fig7", figure, results | {"path": path}, (run,))


def fig7_plane(study: Study) -> Outcome:
    """Right: J on the plane of the line and the snapshot farthest from it, and training at its own J."""
    run = study.trained("mpdbm-mnist")
    line = ravine.Line(run.start, run.solution)
    corner = ravine.black_sheep(run.trajectory, line)
    plane = ravine.Plane(run.start, run.solution, corner)
    J = _task(study, run).measured(("train",), classified=False)
    path = study.kept("fig7-plane-path", (run.recipe.hash,), lambda: _measured_path(run, plane, J))

    def measure() -> xr.Dataset:
        reach = {axis: _margin(path[axis].values) for axis in ("alpha", "beta")}
        return ravine.resolve(
            J, along=plane, interval=reach, tolerance=TOLERANCE, max_points=POINTS, title="MP-DBM, training's own plane"
        )

    surface = study.kept("fig7-plane", (run.recipe.hash, TOLERANCE, POINTS), measure)
    drawn = ravine.plot.surface(surface, path, view="3d")
    length = float(surface.attrs["length_a"])
    off = path["residual"].values
    above = path["loss"].values - _on_plane(surface, path)
    figure = Figure(
        drawn.panels,
        "Figure 7, right: training on the plane of its extrema, MP-DBM on MNIST",
        "The objective over the plane that holds the line (α) and the epoch farthest from it (β); every point of the "
        "path is an epoch at its own J. "
        f"Epochs lie up to {off.max() / length:.2g} of the line's length off the plane, half of them more than "
        f"{np.median(off) / length:.2g}; their J differs from the plane's by {np.nanmax(np.abs(above)):.2g} at most. "
        f"{drawn.caption} {described(run)}",
    )
    return Outcome("fig7-plane", figure, {"plane": surface, "path": path}, (run,))


def projected_start(run: training.Run) -> tuple[dict[str, torch.Tensor], float]:
    """The point nearest to the initial parameters that the caps allow, and how far it is from them.

    The caps bound each row for itself, so the nearest point is each row cut to its cap.
    """
    network: Any = run.recipe.network
    start = run.trajectory[0].params
    nearest = {name: tensor.clone() for name, tensor in start.items()}
    cut_rows(nearest, network.row_caps)
    away = [torch.linalg.vector_norm((nearest[name] - start[name]).double()) for name in start]
    return nearest, float(torch.stack(away).norm())


def said(found: list[Anomaly], path: xr.Dataset, results: dict[str, xr.Dataset]) -> str:
    """What the search for a second minimum came to, in words."""
    if not found:
        looked = f"{', '.join(results)}; {', '.join(SEARCHED)}"
        return f"A second local minimum was looked for in ({looked}), on [0, 1]: none found."
    near, step = closest_approach(path, found[0].alpha)
    more = f"; {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"Second local minima: {found[0].words}{more}. Training came no nearer to that point of the line than "
        f"{near:.2g} of the line's length, after {step:,} updates."
    )


def performance(run: training.Run) -> float:
    """The solution's error on validation images; NaN for what is not the whole training."""
    if run.recipe.profile != "full" or not isinstance(run.recipe.network, MPDBM):
        return float("nan")
    history = run.history
    return float(history["error"].sel(split="valid").values[history["step"].values == run.best_step][0])


def start_over_cap(run: training.Run) -> float:
    """The mean norm of what feeds a unit of the first layer at the start, over its cap."""
    network: Any = run.recipe.network
    return float(torch.linalg.vector_norm(run.trajectory[0].params["W1"], dim=1).mean()) / network.caps[0]


def _varied(study: Study, run: training.Run, name: str, title: str, **how: Any) -> xr.Dataset:
    def measure() -> xr.Dataset:
        J = _task(study, run).measured(("train",), **how)
        return ravine.evaluate(J, along=ravine.Line(run.start, run.solution), at=COARSE, title=title)

    return study.kept(name, (run.recipe.hash, *sorted(how.items())), measure)


def _task(study: Study, run: training.Run) -> Prediction:
    network: Any = run.recipe.network
    return network.task(run.recipe, data.load(run.recipe.data, study.folder))


def _measured_path(run: training.Run, plane: ravine.Plane, J: ravine.Objective) -> xr.Dataset:
    path = ravine.project(run.trajectory, onto=plane)
    heights = [J(point)["train"] for point in run.trajectory]
    return path.assign(loss=("step", np.array(heights), {"units": "nats per pixel"}))


def _on_plane(plane: xr.Dataset, path: xr.Dataset) -> np.ndarray:
    """The plane's J at the projections of the snapshots, as it is drawn: linear between positions."""
    (panel,) = ravine.plot.surface(plane, path.drop_vars("loss"), view="3d").panels
    (trail,) = (layer for layer in panel.layers if isinstance(layer, Curve) and layer.label == "training path")
    return np.asarray(trail.z)


def _margin(places: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest, with a tenth of that more on either side."""
    low, high = float(min(places.min(), 0.0)), float(max(places.max(), 1.0))
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


def _length(path: xr.Dataset) -> float:
    return float(path.attrs["length"])


def _per_pixel(drawn: Panel) -> Panel:
    return replace(drawn, y=replace(drawn.y, label="objective as trained (nats per pixel)"))
