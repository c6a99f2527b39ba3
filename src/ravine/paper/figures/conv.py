"""Figure 6: a convolutional maxout network on CIFAR-10, and its barrier near the initial point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

import ravine
from ravine import metrics
from ravine.paper import training
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.study import Outcome, Study
from ravine.paper.recipe import Profile
from ravine.paper.tasks.classification import class_of
from ravine.plot import Axis, Band, Curve, Figure, Panel, Rule

#: What "near the initial point" is: ours, the paper has no number.
NEAR: Final = 0.1

#: How far the zoom goes: far enough for J to be back below J(0) where the top is near.
WINDOW: Final = 0.2

#: Of the zoomed curve, whose values are all near ln 10: what a barrier of 1e-4 nats takes.
TOLERANCE: Final = 1e-5

#: Points of each resolved curve, at most, and with masks. J itself takes fewer than 129; the error
#: rate, of which nothing is read here, is a step function of α, steepest where the network says
#: next to nothing. ``full`` is for one large GPU: a point of all 50,000 images takes 73 TFLOP in
#: float32, and all curves together took an H100 80 seconds; with 25 points a part of the line did
#: not resolve.
MOST: Final[dict[Profile, int]] = {"quick": 129, "desk": 33, "full": 65}
MASKED: Final[dict[Profile, int]] = {"quick": 21, "desk": 21, "full": 11}

#: How standard errors take the examples to be drawn, where each class has as many: told apart
#: from measurements that were made before there were strata.
_DRAWN: Final = "by class"

#: What a profile changed of the paper's experiment, to stand beside the figure.
CHANGED: Final[dict[Profile, str]] = {
    "full": "",
    "desk": (
        "This is a scaled arm: a twelfth of the channels and units (8, 16, 16, 40), a quarter of "
        "the examples, 30 epochs; above the first layer initial intervals 8 times as wide, because "
        "the paper's ± 0.005 lets no signal through layers so narrow; 0.8 of the hidden numbers "
        "kept by dropout, not 0.5; kernels learn at 0.2 of the rate, not at 0.05. So the height of "
        "its barrier is not the paper's."
    ),
    "quick": (
        "This is a toy on 8 × 8 digits, to try the code: channels 8, 12, 12, small kernels, "
        "initial intervals 20 and 40 times as wide. It says nothing about the paper's network."
    ),
}


@dataclass(frozen=True)
class Barrier:
    """The largest rise of J near θ_i, as ``ravine.metrics`` measures and decides it.

    Attributes:
        rise: how far, from where, and how wide.
        found: whether it is there for other examples like these.
        here: whether it is there on these examples.
    """

    rise: metrics.Rise
    found: metrics.Decision
    here: metrics.Decision

    @property
    def end(self) -> float:
        """α from which on J is back at its foot's level; NaN if never, or if no rise is shown."""
        if self.here.answer != "shown" or not self.rise.returns:
            return np.nan
        return self.rise.foot + self.rise.width.value

    def __str__(self) -> str:
        bounds = f"95 % bounds [{self.found.lower:.2g}, {self.found.upper:.2g}]"
        others = f"for others drawn like them a rise is {self.found.answer} ({bounds})"
        if self.here.answer == "shown":
            return (
                f"J rises by {self.here.value:.2g} nats on these examples, {self._place}; {others}"
            )
        least = f"{self.here.above:.2g} nats on these examples"
        if self.here.answer == "excluded":
            return f"J does not rise by more than {least}; {others}"
        return f"whether J rises by more than {least} is undecided; {others}"

    @property
    def _place(self) -> str:
        back = f"is back from α = {self.end:.3g} on" if np.isfinite(self.end) else "is not back"
        return f"highest at α = {self.rise.height.at:.3g}, and {back}"


def barrier(curve: xr.Dataset, split: str = "train") -> Barrier:
    """The barrier near the initial point.

    Args:
        curve: a line from α = 0 on, as far as is near.
        split: of which split.

    Returns:
        The largest rise, and whether it is there.
    """
    return Barrier(
        metrics.rise(curve, split=split),
        metrics.decide(curve, "rise", split=split),
        metrics.decide(curve, "rise", split=split, scope="examples"),
    )


def fig6(study: Study) -> Outcome:
    """The line, resolved, and again near the initial point, without masks and with."""
    run = study.trained("conv-cifar10")
    title = "convolutional maxout, deterministic objective"
    whole = _resolved(study, run, "fig6-whole", title, 1.0, ("train", "valid"), 1e-3)
    coarse = study.curve(
        "fig6-coarse",
        run,
        at=COARSE,
        about=(_DRAWN,),
        title="convolutional maxout, the original's 20 values of α",
    )
    title = f"convolutional maxout, α in [0, {WINDOW:g}]"
    near = _resolved(study, run, "fig6-near", title, WINDOW, ("train",), TOLERANCE)
    masks = study.curve(
        "fig6-near-masks",
        run,
        at=np.linspace(0, WINDOW, MASKED[study.profile]),
        splits=("train",),
        dropout="fixed",
        about=(_DRAWN,),
        title=f"convolutional maxout, the same dropout masks at each α in [0, {WINDOW:g}]",
    )
    biases = study.kept("fig6-biases", (run.identity, WINDOW), lambda: _of_biases(study, run))
    plain, noisy = barrier(near), barrier(masks)
    panels = (
        with_points(panel(whole, "from initial to final parameters"), coarse, within=(0.0, 1.0)),
        _marked(panel(near, "near the initial point"), near, plain),
        _marked(
            with_points(panel(masks, "the same with dropout masks, as trained"), masks),
            masks,
            noisy,
        ),
        _beside(near, biases),
        learning_curve(run),
    )
    figure = Figure(
        panels,
        "Figure 6: a convolutional maxout network on CIFAR-10",
        "The deterministic objective from initial (α = 0) to final parameters (α = 1), resolved; "
        "points are the original experiment's 20 values of α. Near the initial point, by all of "
        f"the {int(near['n_examples'].values[0]):,} training examples: {plain}. With dropout, by "
        f"the same masks at every α: {noisy}. {said_of_biases(near, biases)} "
        f"{CHANGED[study.profile]} {described(run)}",
    )
    results = {
        "whole": whole,
        "coarse": coarse,
        "near": near,
        "near, masks": masks,
        "output biases": biases,
    }
    return Outcome("fig6", figure, results, (run,))


def _of_biases(study: Study, run: training.Run) -> xr.Dataset:
    """J of the output biases alone, on the way from 0 to the solution's: logits α b, any image."""
    network: Any = run.recipe.network
    task: Any = study.task(run)
    _, labels = task.trained_on[0]
    last = len(network.convolutions) + len(network.layers) - 1
    biases = load_file(run.solution)[f"layer{last}.bias"]
    weights = torch.zeros(len(biases), 1)
    J = ravine.Objective(
        nn.Linear(1, len(biases)),
        ravine.supervised(F.cross_entropy),
        {"train": (torch.zeros(len(labels), 1), labels.cpu())},
        dtype=torch.float64,
        strata=class_of if task.balanced else None,
    )
    line = ravine.Line(
        {"weight": weights, "bias": torch.zeros_like(biases)}, {"weight": weights, "bias": biases}
    )
    found = ravine.evaluate(
        J, along=line, at=np.linspace(0, WINDOW, 41), title="output biases alone"
    )
    return found.assign_attrs(variance=float(biases.double().var(correction=0)))


def _beside(near: xr.Dataset, biases: xr.Dataset) -> Panel:
    """What J adds to J(0), beside what the output biases alone add.

    And what they would add with as many examples of each class.
    """
    profile = metrics.Profile.of(near, split="train")
    alpha = biases["alpha"].values
    alone = biases["loss"].sel(split="train").values
    balanced = 0.5 * alpha**2 * float(biases.attrs["variance"])
    curves = (
        Curve(profile.alpha, profile.value - profile.value[0], "train"),
        Curve(alpha, alone - alone[0], "output biases alone", style=2),
        Curve(alpha, balanced, "½ α² Var(b)", style=3),
    )
    most = 1.3 * float(max(balanced.max(), (alone - alone[0]).max()))
    y = Axis("J − J(0) (nats)", limits=(-most, most))
    return Panel(Axis("α"), y, curves, "beside the output biases alone")


def said_of_biases(near: xr.Dataset, biases: xr.Dataset) -> str:
    """What the output biases alone would do to J, in words."""
    profile = metrics.Profile.of(near, split="train")
    place = metrics.rise_of(profile).height.at
    at = place if np.isfinite(place) else WINDOW
    alone = biases["loss"].sel(split="train").values
    adds = float(np.interp(at, biases["alpha"].values, alone) - alone[0])
    there = float(np.interp(at, profile.alpha, profile.value) - profile.value[0])
    return (
        "Near the start the output biases b alone, logits α b whatever the image, would make J "
        "rise: with as many examples of each class by ½ α² Var(b), where Var(b) = "
        f"{float(biases.attrs['variance']):.3g}. At α = {at:.3g} they alone would add {adds:.2g} "
        f"nats, and J is {there:+.2g} from J(0): the rest of the network takes away the difference."
    )


def _resolved(
    study: Study,
    run: training.Run,
    name: str,
    title: str,
    end: float,
    splits: tuple[str, ...],
    tolerance: float,
) -> xr.Dataset:
    """J on [0, end], at as many points as the profile pays for.

    What is left unresolved is said in the result.
    """
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

    return study.kept(name, (run.identity, end, splits, tolerance, most, _DRAWN), measure)


def _marked(drawn: Panel, curve: xr.Dataset, found: Barrier) -> Panel:
    """The panel on an axis of its own, with the level of J(0), and where J is back there."""
    profile = metrics.Profile.of(curve, split="train")
    end = 1.2 * found.end if np.isfinite(found.end) else float(profile.alpha[-1])
    shown = profile.between(0, min(end, float(profile.alpha[-1]))).value
    room = 0.08 * float(np.ptp(shown))
    rules = [Rule(float(shown[0]), "J(0)", on="y")]
    if np.isfinite(found.end):
        rules.append(Rule(found.end, f"α = {found.end:.3g}"))
    x = replace(drawn.x, limits=(-0.02 * end, end))
    y = replace(drawn.y, limits=(float(shown.min()) - room, float(shown.max()) + room))
    layers = [layer for layer in drawn.layers if not isinstance(layer, Band)]
    return Panel(x, y, (*rules, *layers), drawn.title)
