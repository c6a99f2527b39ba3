"""Figure 7: an MP-DBM on MNIST, along the line and on the plane that holds most of its training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

import ravine
from ravine import metrics
from ravine.paper import training
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.models import MPDBM
from ravine.paper.recipe import Profile
from ravine.paper.tasks.prediction import Prediction, alone, in_parts
from ravine.paper.tasks.task import cut_rows
from ravine.plot import Axis, Curve, Figure, Layer, Markers, Panel, Rule


@dataclass(frozen=True)
class Effort:
    """What a profile spends on measuring: ours.

    Attributes:
        examples: of each split, the first; None takes all that training watched.
        line: points of a resolved line, at most.
        plane: points of the plane, at most.
        on_plane: as ``examples``, for the plane.
    """

    examples: int | None
    line: int
    plane: int
    on_plane: int | None


#: ``full`` is for one large GPU: an example takes 0.47 GFLOP at a point, as much again where it is
#: classified. At 30 TFLOP/s in float32 (assumed, not measured) the whole is some 3 minutes, the
#: plane a third of it.
EFFORT: Final[dict[Profile, Effort]] = {
    "quick": Effort(None, 73, 400, None),
    "desk": Effort(400, 97, 700, 250),
    "full": Effort(None, 65, 441, None),
}

#: Draws of masks and binary images for each example, where the curve is to depend less on one of
#: them: ours.
DRAWS: Final = 4

#: α where a curve is not resolved but searched.
GRID: Final = np.linspace(0, 1, 17)

#: What is searched for a second minimum; the error is a step function, with minima of its own
#: making.
SEARCHED: Final = ("loss", "pixels", "label", "class_loss")

#: Names of the two wide lines.
RAW: Final = "from the start as drawn"
CUT: Final = "from the start cut to the caps"

#: What is looked at again near either end: ours, the paper has no number.
NEAR: Final = 0.05

#: Of the plane: a hundredth of the local value is less than a picture shows.
TOLERANCE: Final = 1e-2

#: Which machine in which profile: the small one, of 500 and 1,000 hidden units, fits a desk.
SIZES: Final[dict[Profile, str]] = {
    "quick": "mpdbm-mnist",
    "desk": "mpdbm-small-mnist",
    "full": "mpdbm-mnist",
}

#: A machine so small that three seeds take minutes on a desk.
SMALL: Final = "mpdbm-tiny-mnist"
SEEDS: Final = (0, 1, 2)

#: The line beyond both its ends: ours, the paper does not say what it drew.
WIDE: Final = (-1.5, 2.0)

#: Points of it at which images are classified too.
WIDE_POINTS: Final = 36

#: What a profile changed of the paper's experiment, to stand beside the figure.
CHANGED: Final[dict[Profile, str]] = {
    "full": "",
    "desk": "This is a scaled arm: a machine of 500 and 1,000 hidden units, not 2,087 and 3,200, on a tenth of the "
    "images, for 24 epochs.",
    "quick": "This is a toy on 8 × 8 digits, to try the code: 60 and 90 hidden units. It says nothing about the "
    "paper's network.",
}

#: A panel is logarithmic where its values span more than this factor.
DECADE: Final = 10.0

_UNIT: Final = "J (nats per pixel)"
_OFF: Final = "distance / length of the line"
_BOTH: Final = ("train", "valid")
_CORNERS: Final = {
    "origin": "initial parameters",
    "a": "solution",
    "b": "beside the origin, orthogonal to the line",
}


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
            f"{self.value:.4g} high and "
            f"{self.prominence:.2g} deep"
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
    """Of one quantity and split. What is lowest, a curve of a part of the line hears from the first of the whole."""
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


def fig7(study: Study) -> Outcome:
    """Left: the line, on beyond both ends, from the start as drawn and from the start cut to the caps."""
    run = study.trained(SIZES[study.profile])
    line, path = _line(study, run), _path(study, run)
    coarse = _measured(
        study,
        run,
        "coarse",
        "MP-DBM, the original's 20 values of α",
        at=COARSE,
        splits=_BOTH,
        costs=in_parts,
    )
    results = {
        "line": line,
        "coarse": coarse,
        **_wide(study, run, "wide", RAW, cut=False),
        **_wide(study, run, "wide-cut", CUT, cut=True),
        "several draws": _measured(
            study,
            run,
            "draws",
            f"MP-DBM, {DRAWS} draws of masks",
            at=GRID,
            draws=DRAWS,
            costs=in_parts,
        ),
        "undoubled": _measured(
            study, run, "undoubled", "MP-DBM, first pass not doubled", at=GRID, doubled=False
        ),
    }
    for name, window in (("start", (0.0, NEAR)), ("end", (1 - NEAR, 1.0))):
        results[name] = _measured(
            study,
            run,
            name,
            f"MP-DBM, α in [{window[0]:g}, {window[1]:g}]",
            interval=window,
            costs=in_parts,
            dtype=torch.float64,  # what changes so near to an end is small
        )
    wide = {RAW, CUT, with_error(RAW), with_error(CUT)}
    searched = {name: curve for name, curve in results.items() if name not in wide}
    found = anomalies(searched)
    low, high = WIDE
    panels = (
        with_points(panel(line, "the line", label=_UNIT), coarse, within=(0.0, 1.0)),
        with_points(_scaled(results[RAW], RAW), coarse, within=WIDE),
        _scaled(results[CUT], CUT),
        _zoomed(panel(results[CUT], "the same, left of the solution", label=_UNIT), results[CUT]),
        _errors({name: results[with_error(name)] for name in (RAW, CUT)}, first=2),
        _per_pixel(learning_curve(run)),
    )
    counts, doubt = line["n_examples"].values, float(metrics.Profile.of(line).doubt.max())
    known = f"J is known to {doubt:.1g}" if np.isfinite(doubt) else "J did not resolve everywhere"
    figure = Figure(
        panels,
        "Figure 7, left: from initialisation to solution, MP-DBM on MNIST",
        "The multi-prediction objective along the line from initial (α = 0) to final parameters (α "
        "= 1), with one draw of masks and binary images for all α, of the first "
        f"{counts[0]:,} training and {counts[1]:,} validation images; between the points that were "
        f"measured {known}. Points are the original experiment's 20 values of α. The initial "
        f"parameters lie {path.attrs['outside']:.3g} outside the set that the caps allow, of "
        f"{float(path.attrs['length']):.3g} to the solution; so the line is drawn from the nearest "
        f"point of that set too, and on [{low:g}, {high:g}]. {said(found, path, searched)} "
        f"{' '.join(said_left(name, results[name]) for name in (RAW, CUT))} "
        f"{CHANGED[study.profile]} {described(run)}",
    )
    remark = (
        "The paper says neither which range of α it drew nor which minimum it means. Each reading of "
        "its sentence is decided for itself: between the start and the solution, and to the left of "
        "the start, each from the start as it was drawn and from the start cut to the caps."
    )
    return Outcome("fig7", figure, results | {"path": path}, (run,), remark)


def left_minimum(curve: xr.Dataset) -> metrics.Decision:
    """Whether J has a minimum to the left of its lowest point on [0, 1], by the height that would count there."""
    profile = metrics.Profile.of(curve, split="train")
    whole = profile.between(0, 1)
    lowest = float(whole.alpha[int(np.argmin(whole.value))])
    above = metrics.threshold_of(whole)
    return metrics.decide(profile.between(WIDE[0], lowest), "minimum", above=above)


def said_left(name: str, curve: xr.Dataset) -> str:
    """The same in words."""
    found = left_minimum(curve)
    where = f"To the left of the solution on the line {name}"
    if not found.value > 0:
        return f"{where}, J has no second minimum."
    bounds = f"[{found.lower:.2g}, {found.upper:.2g}] at 95 % each"
    return (
        f"{where}, a second minimum at α = {found.at:.3g} is {found.answer}: prominence "
        f"{found.value:.2g} nats per pixel {bounds}."
    )


def fig7_small(study: Study) -> Outcome:
    """A small machine, by three seeds: the line on beyond both ends, from the start cut to the caps."""
    runs = [study.trained(SMALL, seed) for seed in SEEDS]
    results: dict[str, xr.Dataset] = {}
    for run in runs:
        seed = run.recipe.seed
        wide = _wide(study, run, f"small-{seed}", CUT, cut=True)
        results |= {of_seed(name, seed): curve for name, curve in wide.items()}
    lines = [results[of_seed(CUT, seed)] for seed in SEEDS]
    errors = {f"seed {seed}": results[of_seed(with_error(CUT), seed)] for seed in SEEDS}
    panels = (
        _of_seeds(lines, CUT),
        _zoomed(_of_seeds(lines, "the same, left of the start"), lines[0]),
        _errors(errors),
        _per_pixel(learning_curve(runs[0])),
    )
    words = " ".join(
        said_left(f"of seed {seed}", line) for seed, line in zip(SEEDS, lines, strict=True)
    )
    figure = Figure(
        panels,
        "Figure 7: a small MP-DBM, which may have a second minimum",
        f"The multi-prediction objective on [{WIDE[0]:g}, {WIDE[1]:g}] along the line {CUT}, for a "
        f"machine of 150 and 250 hidden units on 2,000 images; three seeds. {words} {described(runs[0])}",
    )
    return Outcome("fig7-small", figure, results, tuple(runs))


def of_seed(name: str, seed: int) -> str:
    """The name of a result of ``fig7_small``."""
    return f"{name}, seed {seed}"


def _of_seeds(lines: Sequence[xr.Dataset], title: str) -> Panel:
    curves = []
    for style, line in enumerate(lines):
        profile = metrics.Profile.of(line)
        curves.append(Curve(profile.alpha, profile.value, f"seed {style}", style=style))
    rules = (Rule(0.0, "start"), Rule(1.0, "solution"))
    return Panel(Axis("α"), Axis(_UNIT, "log"), (*rules, *curves), title)


def _scaled(curve: xr.Dataset, title: str) -> Panel:
    """The panel of a line, logarithmic where its values span more than a decade."""
    wide = float(curve["loss"].max() / curve["loss"].min()) > DECADE
    return panel(curve, title, "log" if wide else "linear", label=_UNIT)


def _zoomed(drawn: Panel, curve: xr.Dataset) -> Panel:
    """The panel from its left end to the start, and no higher than a second minimum there may be climbed out of."""
    profile = metrics.Profile.of(curve)
    shown = profile.between(WIDE[0], 0.0).value
    low, start = float(shown.min()), float(shown[-1])
    high = start if start > low else float(shown.max())
    room = 0.1 * (high - low)
    x = replace(drawn.x, limits=(WIDE[0], 0.05))
    y = replace(drawn.y, scale="linear", limits=(low - room, high + 2 * room))
    return replace(drawn, x=x, y=y)


def _errors(lines: dict[str, xr.Dataset], first: int = 0) -> Panel:
    """The share of training images given another label, along wide lines; ``first`` is the first one's style."""
    curves = []
    for style, (name, line) in enumerate(lines.items(), start=first):
        profile = metrics.Profile.of(line, "error")
        curves.append(Curve(profile.alpha, profile.value, name, style=style))
    return Panel(Axis("α"), Axis("share given another label"), tuple(curves), "error by mean field")


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

    # only where there is something to measure: what was carried here from elsewhere has no snapshots
    def plane() -> ravine.Plane:
        farthest = ravine.black_sheep(run.trajectory, ravine.Line(*_ends(run)))
        return ravine.Plane(run.start, run.solution, farthest)

    def objective() -> ravine.Objective:
        return _task(study, run).measured(("train",), examples=effort.on_plane, costs=alone)

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
    return _OnPlane(run, _line(study, run), surface, path)


def fig7_plane(study: Study) -> Outcome:
    """Right: J on the plane of the line and the snapshot farthest from it, and training at its own J."""
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
            _by_update(seen, seen.path["loss"].values, _UNIT),
        ),
        "Figure 7: how training left the line, MP-DBM on MNIST",
        "Above: the snapshots by their distance from the line, those of the first epoch marked; and J at "
        "the snapshots, and on the line at the same α. Below: the same against the update, from the "
        f"first one on. The first snapshot after the start, of update {int(seen.path['step'][1]):,}, is at "
        f"α = {float(seen.path['alpha'][1]):.3g}: the first update cuts what feeds each unit to its cap. "
        f"{seen.words(study)}",
    )
    return Outcome("fig7-path", figure, seen.results, (seen.run,))


def _plane_panel(drawn: Panel, found: Sequence[Anomaly]) -> Panel:
    layers = _renamed(drawn.layers, found)
    return replace(drawn, z=replace(drawn.z or Axis(""), label=_UNIT), layers=layers)


def _first_epoch(plane: xr.Dataset, path: xr.Dataset, run: training.Run) -> Panel:
    """How far from the line each snapshot lies, over the line's length; those of the first epoch are marked."""
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
    return Panel(Axis("α"), Axis(_UNIT), layers, "J on the path and on the line")


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
    """How near training comes to a point of the line on the two axes of the plane, whatever it is off the plane.

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
        f"{what.capitalize()} lie up to {off.max() / length:.2g} of the line's length off the plane, half "
        "of them more than "
        f"{np.median(off) / length:.2g}; their J differs from the plane's by "
        f"{np.nanmax(np.abs(own - on_plane)):.2g} at most."
    )
    for one in found[:1]:
        away = np.hypot(from_line, alpha - one.alpha)[1:]
        words.append(
            f"The line has a second minimum at α = {one.alpha:.3g}; after its start training came "
            "no nearer to it than "
            f"{away.min():.2g} of the line's length, at {moments[1 + int(away.argmin())]}, and as "
            "drawn no nearer than "
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
    """What the search for a second minimum came to, in words: of J itself first, and then of what else was searched.

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
        f"{', '.join(SEARCHED)}). "
        f"J has {_counted(of_objective)}."
    ]
    if others:
        words.append(f"Of the rest, {_counted(others)}.")
    if found:
        nearest = (of_objective or others)[0]
        near, step = closest_approach(path, nearest.alpha)
        words.append(
            f"After its start training came no nearer to the point of the line at α = "
            f"{nearest.alpha:.3g} than "
            f"{near:.2g} of the line's length, after {step:,} updates."
        )
    return " ".join(words)


def _counted(found: list[Anomaly]) -> str:
    if not found:
        return "none"
    more = f"; {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].words}{more}"


def performance(run: training.Run) -> float:
    """The solution's error on validation images; NaN for what is not the whole training."""
    if run.recipe.profile != "full" or not isinstance(run.recipe.network, MPDBM):
        return float("nan")
    history = run.history
    return float(
        history["error"].sel(split="valid").values[history["step"].values == run.best_step][0]
    )


def start_over_cap(run: training.Run) -> float:
    """The mean norm of what feeds a unit of the first layer at the start, over its cap."""
    network: Any = run.recipe.network
    norms = torch.linalg.vector_norm(run.trajectory[0].params["W1"], dim=1)
    return float(norms.mean()) / network.caps[0]


def _line(study: Study, run: training.Run) -> xr.Dataset:
    return _measured(
        study, run, "line", "MP-DBM", interval=(0.0, 1.0), splits=_BOTH, costs=in_parts
    )


def _wide(
    study: Study, run: training.Run, name: str, title: str, *, cut: bool
) -> dict[str, xr.Dataset]:
    """J on beyond both ends, resolved; and its error rate, which is a step function, at evenly spaced points."""
    told = f"MP-DBM, {title}"
    line = _measured(study, run, name, told, interval=WIDE, cut=cut, costs=alone)
    at = np.linspace(*WIDE, WIDE_POINTS)
    return {
        title: line,
        with_error(title): _measured(study, run, f"{name}-error", told, at=at, cut=cut),
    }


def with_error(name: str) -> str:
    """The name of the result that has the error rate along a wide line."""
    return f"{name}, with errors"


def _path(study: Study, run: training.Run) -> xr.Dataset:
    """Training seen from the line, with what its start is like beside it."""

    def measure() -> xr.Dataset:
        nearest, outside = projected_start(run)
        path = ravine.project(run.trajectory, onto=ravine.Line(*_ends(run)))
        from_cut = ravine.project(run.trajectory, onto=ravine.Line(nearest, run.solution))
        seen = {"cut_alpha": from_cut["alpha"], "cut_residual": from_cut["residual"]}
        about = {"outside": outside, "start_over_cap": start_over_cap(run)}
        about["cut_length"] = float(from_cut.attrs["length"])
        return path.assign(
            {name: ("step", found.values) for name, found in seen.items()}
        ).assign_attrs(about)

    return study.kept("fig7-path", (run.identity, "with its start"), measure)


def _ends(run: training.Run) -> tuple[Any, Any]:
    return run.start, run.solution


def _measured(
    study: Study,
    run: training.Run,
    name: str,
    title: str,
    *,
    at: np.ndarray | None = None,
    interval: tuple[float, float] | None = None,
    cut: bool = False,
    splits: tuple[str, ...] = ("train",),
    **how: Any,
) -> xr.Dataset:
    """J along a line, at some points or resolved, on as many examples as the profile spends; ``how`` as measured.

    With ``cut`` it is from the nearest start that the caps allow.
    """
    effort = EFFORT[study.profile]
    grid = None if at is None else (len(at), float(at[0]), float(at[-1]))
    what = (
        run.identity,
        effort.examples,
        grid,
        interval,
        effort.line,
        splits,
        *sorted((key, getattr(value, "__name__", str(value))) for key, value in how.items()),
        *(("cut",) if cut else ()),
    )

    def measure() -> xr.Dataset:
        J = _task(study, run).measured(splits, examples=effort.examples, **how)
        start = projected_start(run)[0] if cut else run.start
        line = ravine.Line(start, run.solution)
        if interval is None:
            return ravine.evaluate(J, along=line, at=at, title=title)
        return ravine.resolve(J, along=line, interval=interval, max_points=effort.line, title=title)

    return study.kept(f"fig7-{name}", what, measure)


def _task(study: Study, run: training.Run) -> Prediction:
    task: Any = study.task(run)
    return task


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
        (places,) from the interpolant where there is one, else by straight lines between measured points; NaN off the
        plane.
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
    """The marks are of the two ends, which are networks, and not of the corner that only spans the plane."""

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


def _per_pixel(drawn: Panel) -> Panel:
    return replace(drawn, y=replace(drawn.y, label="J, fresh masks (nats per pixel)"))
