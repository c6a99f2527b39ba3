"""Trainings that leave another one: at a higher learning rate, and in pairs that part."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr

import ravine
from ravine import metrics
from ravine.paper import recipes, training
from ravine.paper.figures.parts import described
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.recipe import Profile
from ravine.plot import Axis, Band, Curve, Figure, Markers, Panel, Rule

#: Factors of the rate that training has at that moment: ours, the paper names none.
FACTORS: Final = (1.0, 3.0, 10.0)

#: Updates after which the rate is raised for an epoch: ours. Epochs 2, 20 and 200 of the paper's
#: training, of which a lean training keeps snapshots too.
RAISED: Final[dict[Profile, tuple[int, ...]]] = {
    "full": (1_000, 10_000, 100_000),
    "desk": (1_000, 10_000),
    "quick": (108, 1_080),
}

#: Updates after which pairs part: ours. Those of which the trunk keeps snapshots.
PARTED: Final[dict[Profile, tuple[int, ...]]] = {
    "full": (0, 10, 100, 501, 1_000, 5_012),
    "desk": (0, 10, 100, 1_000),
    "quick": (0, 10, 50),
}

#: The last of them within the first epoch, which is what "initial" is taken to be: ours.
INITIAL: Final[dict[Profile, int]] = {"full": 501, "desk": 100, "quick": 50}

#: Values of α between two points, and from before an epoch to after it: ours.
GRID: Final = np.linspace(0, 1, 21)
WAY: Final = np.linspace(0, 1, 11)

#: Name of the pair that has nothing in common.
APART: Final = "other starts"


def higher_rate(study: Study) -> Outcome:
    """From the middle of the maxout training, an epoch at 1, 3 and 10 times its learning rate."""
    trunk = study.trained("maxout-mnist")
    runs: list[training.Run] = [trunk]
    results: dict[str, xr.Dataset] = {}
    panels: list[Panel] = []
    for step in RAISED[study.profile]:
        along: dict[str, xr.Dataset] = {}
        for factor in FACTORS:
            recipe = recipes.branch(trunk.recipe, step, factor=factor, epochs=1)
            child = study.trained_by(recipe)
            name = raised(step, factor)
            along[f"× {factor:g}"] = results[name] = study.curve(
                f"higher-rate-{step}x{factor:g}",
                child,
                at=WAY,
                splits=("train",),
                title=f"maxout, one epoch at {factor:g} times the rate, {name}",
            )
            runs.append(child)
        panels.append(_ways(along, f"one epoch from epoch {epoch_of(trunk, step):g}"))
    figure = Figure(
        tuple(panels),
        "A higher learning rate from mid-run, maxout on MNIST",
        "The deterministic objective of the training examples along the straight line from the "
        "parameters before (0) to those after (1) one epoch of training with dropout, at 1, 3 and "
        "10 times the learning rate that the training has there. Where a curve ends above its "
        f"start, that epoch has increased the error. {described(trunk)}",
    )
    return Outcome("higher-rate", figure, results, tuple(runs))


def raised(step: int, factor: float) -> str:
    """The name of a result of ``higher_rate``."""
    return f"after {step} updates, x {factor:g}"


def epoch_of(run: training.Run, step: int) -> float:
    """How many epochs so many updates of phase 1 are.

    Examples:
        >>> from pathlib import Path
        >>> epoch_of(training.Run(recipes.recipe("maxout-mnist"), Path()), 1_000)
        2.0
    """
    return step / -(-run.recipe.train // run.recipe.batch_size)


def _ways(along: dict[str, xr.Dataset], title: str) -> Panel:
    """J from before to after, a curve for each rate."""
    curves = []
    for style, (name, curve) in enumerate(along.items()):
        profile = metrics.Profile.of(curve)
        curves.append(Curve(profile.alpha, profile.value, name, style=style))
    highest = max(float(curve.y.max()) for curve in curves)
    lowest = min(float(curve.y.min()) for curve in curves)
    scale = "log" if highest > 10 * lowest else "linear"
    start = Rule(float(curves[0].y[0]), "before", on="y")
    return Panel(
        Axis("from before (0) to after (1)"), Axis("J (nats)", scale), (start, *curves), title
    )


def parting(study: Study) -> Outcome:
    """Pairs of trainings that part after k updates, and the barrier between their solutions."""
    trunk, other = (study.trained("maxout-trunk-mnist", seed) for seed in (0, 1))
    runs: list[training.Run] = [trunk, other]
    results = {APART: _between(study, "parting-apart", trunk, other, APART)}
    for step in PARTED[study.profile]:
        one, two = (
            study.trained_by(recipes.branch(trunk.recipe, step, seed=seed)) for seed in (1, 2)
        )
        name = parted(step)
        results[name] = _between(study, f"parting-{step}", one, two, name)
        runs += [one, two]
    panels = (_curves(results), _barriers(results, epoch_of(trunk, 1)))
    figure = Figure(
        panels,
        "Pairs of trainings that part, maxout on MNIST",
        "Left: the deterministic objective of the training examples between the solutions of two "
        "trainings that share their first k updates and then have another order and other masks. "
        f"{APART.capitalize()} have other initial parameters too. Right: the barrier, how far J "
        f"rises above the higher end, with bounds at 95 % each. {_answers(results)} "
        f"{described(trunk)}",
    )
    return Outcome("parting", figure, results, tuple(runs))


def _answers(results: dict[str, xr.Dataset]) -> str:
    """Which of the barriers are there, in words."""
    found = {name: metrics.decide(curve, "barrier").answer for name, curve in results.items()}
    named: dict[str, list[str]] = {}
    for name, answer in found.items():
        named.setdefault(answer, []).append(name)
    said = [f"{answer} for {', '.join(names)}" for answer, names in named.items()]
    return f"A barrier is {'; '.join(said)}."


def parted(step: int) -> str:
    """The name of a result of ``parting``."""
    return f"k = {step}"


def _between(
    study: Study, name: str, one: training.Run, two: training.Run, title: str
) -> xr.Dataset:
    return study.curve(
        name,
        one,
        at=GRID,
        ends=(one.solution, two.solution),
        splits=("train",),
        about=(two.identity,),
        title=f"maxout, two solutions, {title}",
    )


def _curves(results: dict[str, xr.Dataset]) -> Panel:
    curves = []
    for style, (name, curve) in enumerate(results.items()):
        profile = metrics.Profile.of(curve)
        curves.append(Curve(profile.alpha, profile.value, name, style=style))
    return Panel(Axis("α"), Axis("J (nats)"), tuple(curves), "between the two solutions")


def _barriers(results: dict[str, xr.Dataset], epoch: float) -> Panel:
    """Barrier against k, evenly spaced, with its bounds."""
    found = {name: metrics.decide(curve, "barrier") for name, curve in results.items()}
    apart = found.pop(APART)
    places = np.arange(len(found), dtype=float)
    numbers = [(one.value, one.lower, one.upper) for one in found.values()]
    value, low, high = np.array(numbers).T
    names = tuple(name.removeprefix("k = ") for name in found)
    room = 1.15 * max(apart.upper, float(high.max()))
    layers = (
        Rule(apart.value, APART, on="y"),
        Band(places, low.clip(min=0), high),
        Curve(places, value),
        Markers(places, value),
    )
    return Panel(
        Axis(f"k, shared updates ({1 / epoch:g} an epoch)", names=names),
        Axis("barrier (nats)", limits=(-0.03 * room, room)),
        layers,
        "barrier against k",
    )


def overfitting(study: Study) -> Outcome:
    """The maxout network without dropout: training and validation J, beside the one with it."""
    plain, masked = study.trained("maxout-plain-mnist"), study.trained("maxout-mnist")
    results = {"from the lowest": _from_lowest(study, plain)}
    panels = (_losses(plain, "without dropout"), _losses(masked, "with dropout"))
    figure = Figure(
        panels,
        "Maxout on MNIST without dropout",
        "The deterministic objective on training and validation examples, after each epoch in "
        "which it was watched. Without dropout it goes on falling on the training examples long "
        f"after it has begun to rise on the others. {described(plain)} {described(masked)}",
    )
    return Outcome("overfitting", figure, results, (plain, masked))


def _from_lowest(study: Study, run: training.Run) -> xr.Dataset:
    """J from a snapshot near the lowest validation loss (α = 0) to the last one (α = 1)."""

    def measure() -> xr.Dataset:
        first = run.history.isel(record=np.flatnonzero(run.history["phase"].values == 1))
        lowest = int(first["step"].values[np.nanargmin(first["loss"].sel(split="valid").values)])
        *steps, last = run.trajectory.steps
        nearest = min(steps, key=lambda step: abs(step - lowest))
        line = ravine.Line(run.after(nearest), run.trajectory[-1])
        title = f"from update {nearest:,} (lowest validation loss) to update {last:,}"
        return ravine.evaluate(study.objective(run), along=line, at=GRID, title=title)

    return study.kept("overfitting", (run.identity, len(GRID)), measure)


def _losses(run: training.Run, title: str) -> Panel:
    first = run.history.isel(record=np.flatnonzero(run.history["phase"].values == 1))
    epochs = first["epoch"].values.astype(float)
    curves = []
    for style, split in enumerate(("train", "valid")):
        values = first["loss"].sel(split=split).values
        seen = np.isfinite(values)
        curves.append(Curve(epochs[seen], values[seen], split, style=style))
    return Panel(Axis("epoch"), Axis("J without masks (nats)", "log"), tuple(curves), title)
