"""Figure 6: a convolutional maxout network on CIFAR-10, and its barrier near the initial point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import xarray as xr

import ravine
from ravine import metrics
from ravine.paper import training
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.recipe import Profile
from ravine.plot import Band, Figure, Panel, Rule

#: What "near the initial point" is: ours, the paper has no number.
NEAR: Final = 0.1

#: How far the zoom goes: far enough for J to be back below J(0) where the top is near.
WINDOW: Final = 0.2

#: Of the zoomed curve, whose values are all near ln 10: what a barrier of 1e-4 nats takes.
TOLERANCE: Final = 1e-5

#: Points of each resolved curve, at most, and with masks. J itself takes fewer than 129; the error
#: rate, of which nothing is read here, is a step function of α, steepest where the network says next
#: to nothing. ``full`` is for one large GPU: a point of all 50,000 images takes 73 TFLOP, so all
#: curves 6 PFLOP: some three and a half minutes at 30 TFLOP/s in float32 (assumed, not measured).
MOST: Final[dict[Profile, int]] = {"quick": 129, "desk": 129, "full": 25}
MASKED: Final[dict[Profile, int]] = {"quick": 21, "desk": 21, "full": 11}

#: What a profile changed of the paper's experiment, to stand beside the figure.
CHANGED: Final[dict[Profile, str]] = {
    "full": "",
    "desk": "This is a scaled arm: an eighth of the channels and units (12, 24, 24, 60), a quarter of the examples; "
    "above the first layer initial intervals 8 times as wide, because the paper's ± 0.005 lets no "
    "signal through "
    "layers so narrow; 0.8 of the hidden numbers kept by dropout, not 0.5; kernels learn at 0.5 of "
    "the rate, not at "
    "0.05. So the height of its barrier is not the paper's.",
    "quick": "This is a toy on 8 × 8 digits, to try the code: channels 8, 12, 12, small kernels, initial intervals 20 "
    "and 40 times as wide. It says nothing about the paper's network.",
}


@dataclass(frozen=True)
class Barrier:
    """The rise of J near θ_i.

    Attributes:
        height: max J − J(0) within ``WINDOW``, with its place; 0 where J does not rise beyond
            doubt.
        end: the α where J is back below J(0), which is the barrier's width; 0 where there is none,
            NaN where J is not back within ``WINDOW``.
    """

    height: metrics.Estimate
    end: metrics.Estimate

    def __str__(self) -> str:
        if self.height.value == 0:
            return (
                "J does not rise by more than rounding, interpolation and, where there are masks, "
                "their noise may do"
            )
        back = (
            f"is below J(0) again from α = {self.end} on"
            if np.isfinite(self.end.value)
            else "stays above J(0)"
        )
        return f"J rises by {self.height} nats, highest at α = {self.height.at:.3g}, and {back}"


def barrier(curve: xr.Dataset, split: str = "train") -> Barrier:
    """The barrier near the initial point.

    Args:
        curve: a line that covers [0, WINDOW].
        split: of which split.

    Returns:
        Height and width, with standard errors over the examples, which all points share.
    """
    part = metrics.Profile.of(curve, split=split).between(0, WINDOW)

    def height(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        top = int(np.argmax(value))
        return float(value[top] - value[0]), float(alpha[top])

    def end(alpha: np.ndarray, value: np.ndarray) -> tuple[float, float]:
        top = int(np.argmax(value))
        below = np.flatnonzero(value[top:] <= value[0])
        if top == 0 or not below.size:
            return (0.0 if top == 0 else np.nan), np.nan
        after = top + int(below[0])
        above = value[after - 1] - value[0]
        share = above / (above + value[0] - value[after]) if above else 0.0
        return float(alpha[after - 1] + share * (alpha[after] - alpha[after - 1])), np.nan

    found = part.estimate(height)
    if found.value <= 2 * float(np.nanmax(part.doubt)):  # what rounding and interpolation may do
        return Barrier(metrics.Estimate(0.0, found.stderr, 0.0), metrics.Estimate(0.0))
    return Barrier(found, part.estimate(end))


def fig6(study: Study) -> Outcome:
    """The line, resolved, and again near the initial point, without masks and with."""
    run = study.trained("conv-cifar10")
    title = "convolutional maxout, deterministic objective"
    whole = _resolved(study, run, "fig6-whole", title, 1.0, ("train", "valid"), 1e-3)
    coarse = study.curve(
        "fig6-coarse", run, at=COARSE, title="convolutional maxout, the original's 20 values of α"
    )
    title = f"convolutional maxout, α in [0, {WINDOW:g}]"
    near = _resolved(study, run, "fig6-near", title, WINDOW, ("train",), TOLERANCE)
    masks = study.curve(
        "fig6-near-masks",
        run,
        at=np.linspace(0, WINDOW, MASKED[study.profile]),
        splits=("train",),
        dropout="fixed",
        title=f"convolutional maxout, the same dropout masks at each α in [0, {WINDOW:g}]",
    )
    plain, noisy = barrier(near), barrier(masks)
    panels = (
        with_points(panel(whole, "from initial to final parameters"), coarse, within=(0.0, 1.0)),
        _marked(panel(near, "near the initial point"), near, plain),
        _marked(
            with_points(panel(masks, "the same with dropout masks, as trained"), masks),
            masks,
            noisy,
        ),
        learning_curve(run),
    )
    figure = Figure(
        panels,
        "Figure 6: a convolutional maxout network on CIFAR-10",
        "The deterministic objective from initial (α = 0) to final parameters (α = 1), resolved; "
        "points are the "
        f"original experiment's 20 values of α. Near the initial point {plain}. With dropout, by "
        "the same masks at "
        f"every α, {noisy}. ± is one standard error over the examples; all points share them, so "
        "these differences are "
        "far more certain than the points, and bands are left out there. "
        f"{CHANGED[study.profile]} {described(run)}",
    )
    results = {"whole": whole, "coarse": coarse, "near": near, "near, masks": masks}
    return Outcome("fig6", figure, results, (run,))


def _resolved(
    study: Study,
    run: training.Run,
    name: str,
    title: str,
    end: float,
    splits: tuple[str, ...],
    tolerance: float,
) -> xr.Dataset:
    """J on [0, end], at so many points as the profile pays for; what is left unresolved is said in the result."""
    most = MOST[study.profile]

    def measure() -> xr.Dataset:
        return ravine.resolve(
            study.objective(run, splits),
            along=ravine.Line(run.start, run.solution),
            interval=(0.0, end),
            tolerance=tolerance,
            max_points=most,
            title=title,
        )

    return study.kept(name, (run.identity, end, splits, tolerance, most), measure)


def _marked(drawn: Panel, curve: xr.Dataset, found: Barrier) -> Panel:
    """The panel on an axis of its own, with the level of J(0), and where J is back there."""
    profile = metrics.Profile.of(curve, split="train")
    end = 1.2 * found.end.value if found.end.value > 0 else float(profile.alpha[-1])
    shown = profile.between(0, min(end, float(profile.alpha[-1]))).value
    room = 0.08 * float(np.ptp(shown))
    rules = [Rule(float(shown[0]), "J(0)", on="y")]
    if found.end.value > 0:
        rules.append(Rule(found.end.value, f"α = {found.end.value:.3g}"))
    x = replace(drawn.x, limits=(-0.02 * end, end))
    y = replace(drawn.y, limits=(float(shown.min()) - room, float(shown.max()) + room))
    layers = [layer for layer in drawn.layers if not isinstance(layer, Band)]
    return Panel(x, y, (*rules, *layers), drawn.title)
