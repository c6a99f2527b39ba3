"""The paper's claims: each sentence that can be tested, as one number beside a threshold and the reason for it.

A claim holds, or does not, by a comparison that is fixed here; nobody judges by eye. What needs an
experiment that is not among the figures is listed as not run, with what it would take.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import xarray as xr

from ravine import metrics
from ravine.paper.figures.conv import NEAR, barrier
from ravine.paper.figures.lstm import beside_published
from ravine.paper.figures.mpdbm import (
    anomalies,
    closest_approach,
    nearest_as_drawn,
    performance,
    start_over_cap,
)
from ravine.paper.figures.study import Outcome

#: Lucas et al. 2021 call a line monotone if it never rises by more than this share of its range.
FLAT: Final = 1e-3


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper, made testable.

    Attributes:
        name: short, unique.
        section: of the paper, or the figure's caption.
        sentence: the paper's words.
        figure: whose measurements decide it; "" if none does.
        asks: what number is looked at.
        found: finds it in the figure's outcome.
        bound: "at most" or "at least" …
        threshold: … this much is what the sentence amounts to.
        reason: why that threshold; for a claim without a figure, what deciding it would take.
    """

    name: str
    section: str
    sentence: str
    figure: str
    asks: str
    found: Callable[[Outcome], float]
    bound: Literal["at most", "at least"]
    threshold: float
    reason: str

    def judged(self, outcome: Outcome | None, profile: str = "") -> Finding:
        """The claim's number in an outcome of its figure, if there is one.

        Args:
            outcome: None where the figure was not run.
            profile: in which it was.

        Returns:
            What was found.
        """
        number = float("nan") if outcome is None or not self.figure else self.found(outcome)
        if np.isnan(number):
            status = "not run"
        else:
            holds = (
                number <= self.threshold if self.bound == "at most" else number >= self.threshold
            )
            status = "holds" if holds else "does not hold"
        return Finding(self, number, status, profile if self.figure else "")


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Attributes:
        claim: which.
        number: NaN where it was not run.
        status: in words.
        profile: of the measurements; "" where there are none.
    """

    claim: Claim
    number: float
    status: str
    profile: str = ""

    @property
    def verdict(self) -> str:
        """The number beside its threshold, in words.

        Examples:
            >>> claim = Claim("half", "§1", "…", "fig1", "a number", lambda outcome: 0.25, "at most", 0.5, "…")
            >>> Finding(claim, 0.25, "holds").verdict
            'a number: 0.25 (at most 0.5)'
        """
        bound = f"{self.claim.bound} {self.claim.threshold:g}"
        found = "" if np.isnan(self.number) else f": {self.number:.3g}"
        return f"{self.claim.asks}{found} ({bound})" if self.claim.figure else self.claim.asks


def as_json(findings: Iterable[Finding], **about: Any) -> str:
    """Findings as JSON, for a file.

    Args:
        findings: in the order in which they are to stand.
        about: what else the file says, such as the profile.

    Returns:
        The text, one claim an object; a number that was not found is null.
    """
    rows = [
        {key: value for key, value in asdict(found.claim).items() if key != "found"}
        | {
            "number": None if np.isnan(found.number) else float(f"{found.number:.6g}"),
            "status": found.status,
            "profile": found.profile,
        }
        for found in findings
    ]
    return json.dumps(about | {"claims": rows}, indent=1, ensure_ascii=False) + "\n"


def as_markdown(findings: Iterable[Finding]) -> str:
    """Findings as a table for a page."""
    head = (
        "| | The paper says | What is measured | Found | Holds if | Why | Profile "
        "|\n|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for found in findings:
        claim = found.claim
        number = "—" if np.isnan(found.number) else f"{found.number:.3g}"
        bound = f"{claim.bound} {claim.threshold:g}" if claim.figure else "—"
        cells = (
            f"**{found.status}**",
            f"“{claim.sentence}” ({claim.section})",
            claim.asks,
            number,
            bound,
            claim.reason,
            found.profile or "—",
        )
        rows.append(f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |\n")
    return head + "".join(rows)


# --- numbers ---------------------------------------------------------------------------------------------


def _train(curve: xr.Dataset) -> metrics.Profile:
    return metrics.Profile.of(curve, split="train")


def _range(curve: xr.Dataset) -> float:
    return float(np.ptp(_train(curve).between(0, 1).value))


def relative_rise(curve: xr.Dataset) -> float:
    """The largest rise of the training loss on [0, 1], as a share of its range there; noise does not count."""
    part = _train(curve).between(0, 1)
    height = metrics.rise(curve, split="train").height.value
    return 0.0 if height <= 2 * float(np.nanmax(part.doubt)) else height / float(np.ptp(part.value))


def hump(alpha: np.ndarray, value: np.ndarray) -> float:
    """The highest hump: what must be climbed, whichever way one comes; 0 for a slope and for a single valley.

    Examples:
        >>> x = np.linspace(0, 1, 101)
        >>> hump(x, (x - 0.5) ** 2), round(hump(x, 3 * np.sin(np.pi * x) + x), 2)
        (0.0, 2.52)
    """
    from_left, from_right = np.minimum.accumulate(value), np.minimum.accumulate(value[::-1])[::-1]
    return float((value - np.maximum(from_left, from_right)).max())


def relative_hump(curve: xr.Dataset) -> float:
    """The highest hump of the training loss over the range of what was measured; noise does not count."""
    profile = _train(curve)
    height = hump(profile.alpha, profile.value)
    return (
        0.0
        if height <= 2 * float(np.nanmax(profile.doubt))
        else height / float(np.ptp(profile.value))
    )


def above_hull(curve: xr.Dataset, start: float = 0.0) -> float:
    """How far the training loss stands above its lower convex hull on [start, 1], over its range on [0, 1].

    0 for a convex curve; a step from 1 to 0 halfway stands 1/2 above.
    """
    part = _train(curve).between(start, 1)
    hull = [0]
    for i in range(1, len(part.alpha)):  # Andrew's monotone chain
        while len(hull) > 1 and _left_turn(part, hull[-2], hull[-1], i) <= 0:
            hull.pop()
        hull.append(i)
    below = np.interp(part.alpha, part.alpha[hull], part.value[hull])
    return float((part.value - below).max()) / _range(curve)


def _left_turn(part: metrics.Profile, a: int, b: int, c: int) -> float:
    x, y = part.alpha, part.value
    return float((x[b] - x[a]) * (y[c] - y[a]) - (y[b] - y[a]) * (x[c] - x[a]))


def line_search_regret(curve: xr.Dataset, steps: tuple[float, float] = (0.05, 0.25)) -> float:
    """What a coarse line search leaves: it walks in equal steps until the training loss rises, and keeps the best.

    Returns:
        The worst excess over the lowest loss of the line, for any step length between the two, as a
        share of J(0) less that lowest loss.
    """
    profile = _train(curve)
    lowest = float(profile.value.min())
    start = float(np.interp(0.0, profile.alpha, profile.value))
    left = []
    for step in np.linspace(*steps, 81):
        walked = np.interp(
            np.arange(0, float(profile.alpha[-1]), step), profile.alpha, profile.value
        )
        rises = np.flatnonzero(np.diff(walked) > 0)
        left.append(float(walked[: rises[0] + 1 if rises.size else None].min()) - lowest)
    return max(left) / (start - lowest)


def turns(curve: xr.Dataset) -> int:
    """How often the training loss turns from falling to rising or back, from one measured point to the next."""
    steps = np.sign(np.diff(curve.sortby("alpha")["loss"].sel(split="train").values))
    steps = steps[steps != 0]
    return int((steps[1:] != steps[:-1]).sum())


def _hidden(outcome: Outcome) -> float:
    """The worst error of the resolved windows at their checks, as a share of each window's range."""
    worst = 0.0
    for name in ("whole", "start", "end"):
        worst = max(worst, _misfit(outcome.results[f"{name} resolved"]))
    return worst


def _misfit(curve: xr.Dataset) -> float:
    """The worst error of the training loss's interpolant at its checks, as a share of its range."""
    worst = float(np.nanmax(curve["loss_misfit"].sel(split="train").values))
    return worst / float(np.ptp(curve["loss"].sel(split="train").values))


def _learnt(outcome: Outcome, epochs: int) -> float:
    """The share of the whole fall of the training objective that is done after so many epochs."""
    history = outcome.runs[0].history
    first = history.isel(record=np.flatnonzero(history["phase"].values == 1))
    objective = first["objective"].sel(split="train").values
    return float((objective[0] - objective[epochs]) / (objective[0] - objective.min()))


def _epochs_in_the_flat(outcome: Outcome) -> float:
    """The share of epochs that end with the training objective within a tenth of its fall from the bottom."""
    history = outcome.runs[0].history
    first = history.isel(record=np.flatnonzero(history["phase"].values == 1))
    objective = first["objective"].sel(split="train").values
    bottom = objective.min() + 0.1 * (objective[0] - objective.min())
    return float((objective[1:] <= bottom).mean())


def _separation(outcome: Outcome) -> float:
    """Validation above training loss at the solution, over the range of the training loss in [0.99, 1]."""
    whole, window = outcome.results["whole"], outcome.results["end"]
    at = whole["loss"].sel(alpha=1.0, method="nearest")
    return float(at.sel(split="valid") - at.sel(split="train")) / float(
        np.ptp(window["loss"].sel(split="train").values)
    )


def _ends_of_minima(outcome: Outcome) -> float:
    """How far below the solutions the nearest local minima lie, over the barrier; infinite without one for each."""
    curve = outcome.results["solutions"]
    minima = metrics.minima(curve, split="train")
    barrier = metrics.barrier(curve, split="train").value
    profile = _train(curve)
    worst = 0.0
    for end in (0.0, 1.0):
        near = [m for m in minima if abs(m.value.at - end) < 0.5]
        if not near:
            return float("inf")
        worst = max(
            worst,
            float(np.interp(end, profile.alpha, profile.value)) - min(m.value.value for m in near),
        )
    return worst / barrier


def _grid_minima(outcome: Outcome) -> float:
    """Local minima other than the one at α = 1 on the original grid from a random point."""
    value = outcome.results["random coarse"].sortby("alpha")["loss"].sel(split="train").values
    inner = np.flatnonzero((value[1:-1] < value[:-2]) & (value[1:-1] <= value[2:])) + 1
    return float(
        sum(int(i) != 9 for i in inner) + (9 not in inner)
    )  # α = i/9, so the solution is number 9


def humps(alpha: np.ndarray, value: np.ndarray, least: float) -> list[float]:
    """Where the tops are that must be climbed by more than ``least`` and descended from by more than that.

    Examples:
        >>> x = np.linspace(0, 1, 101)
        >>> [round(top, 2) for top in humps(x, np.sin(4 * np.pi * x), 0.1)]
        [0.12, 0.62]
    """
    tops: list[float] = []
    low, high = 0, 0  # the lowest since the last top, and the highest since then
    for i in range(len(value)):
        if value[i] > value[high]:
            high = i
        if value[high] - value[low] > least and value[high] - value[i] > least:
            tops.append(float(alpha[high]))
            low = high = i
        elif value[i] < value[low]:
            low = high = i
    return tops


def _conv_humps(outcome: Outcome) -> list[float]:
    """Where J has its humps on [0, 1]: read from the zoom as far as that goes; noise does not count."""
    near, whole = (_train(outcome.results[name]).between(0, 1) for name in ("near", "whole"))
    far = whole.part(whole.alpha > near.alpha[-1])
    alpha, value, doubt = (
        np.concatenate([getattr(near, name), getattr(far, name)])
        for name in ("alpha", "value", "doubt")
    )
    return humps(alpha, value, 2 * float(np.nanmax(doubt)))


def _conv_place(outcome: Outcome) -> float:
    """Where the first hump is; infinite without one."""
    return next(iter(_conv_humps(outcome)), float("inf"))


def _conv_height(outcome: Outcome) -> float:
    """The barrier's height over the whole fall of J."""
    part = _train(outcome.results["whole"]).between(0, 1)
    return barrier(outcome.results["near"]).height.value / float(part.value[0] - part.value[-1])


def _shape_distance(outcome: Outcome) -> float:
    """Root mean square of the difference between the residuals and a random walk's at the same α, over L."""
    path = outcome.results["path"]
    inside = path["alpha"].values <= 1
    alpha = path["alpha"].values[inside].clip(0, 1)
    walk = np.sqrt(alpha * (1 - alpha))
    residual = path["residual"].values[inside] / float(path.attrs["length"])
    return float(np.sqrt(((residual - walk) ** 2).mean()))


def _of_path(outcome: Outcome, name: str, walk: str = "run") -> float:
    return float(outcome.results["path"][name].sel(walk=walk))


def _second_minimum(outcome: Outcome) -> float:
    """The prominence of the second minimum of the training objective on the line, over its range; 0 without one."""
    found = anomalies({"line": outcome.results["line"]}, ("loss",), ("train",))
    return found[0].share if found else 0.0


def _passed_at(outcome: Outcome) -> float:
    """How near training came to that minimum, over the line's length; NaN without one."""
    found = anomalies({"line": outcome.results["line"]}, ("loss",), ("train",))
    return closest_approach(outcome.results["path"], found[0].alpha)[0] if found else float("nan")


def _passed_as_drawn(outcome: Outcome) -> float:
    """The same on the two axes of the figure."""
    found = anomalies({"line": outcome.results["line"]}, ("loss",), ("train",))
    plane, path = (outcome.results[name] for name in ("plane", "path"))
    return nearest_as_drawn(plane, path, found[0].alpha) if found else float("nan")


# --- the claims ------------------------------------------------------------------------------------------

_NO_BUMP = "Lucas et al. 2021 call a line monotone up to this share of its range"
_CONVEX = "ours: a convex curve has 0, a step halfway 0.5"

CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "maxout-no-obstacle",
        "abstract, §3 and figure 1",
        "on a straight path from initialization to solution, a variety of state of the art neural "
        "networks never "
        "encounter any significant obstacles",
        "fig1",
        "largest rise of J on [0, 1] over its range, maxout, no masks",
        lambda o: relative_rise(o.results["deterministic"]),
        "at most",
        FLAT,
        _NO_BUMP,
    ),
    Claim(
        "maxout-start",
        "§2",
        "These are initialized to some set of small, random, initial parameters",
        "fig1",
        "|J(θ_i) − ln 10| in nats: so small that the network says nothing yet",
        lambda o: abs(
            float(_train(o.results["deterministic"]).between(0, 1).value[0]) - np.log(10)
        ),
        "at most",
        1e-3,
        "initial weights of ± 0.005 make logits of about 1e-6, and ten equal classes cost ln 10",
    ),
    Claim(
        "maxout-convex",
        "§2",
        "the objective function has a simple, approximately convex shape along this cross-section",
        "fig1",
        "how far J stands above its lower convex hull on [0, 1], over its range",
        lambda o: above_hull(o.results["deterministic"]),
        "at most",
        0.05,
        _CONVEX,
    ),
    Claim(
        "maxout-flattening",
        "figure 1",
        "the flattening near α = 0",
        "fig1",
        "α at which the first tenth of the drop is done",
        lambda o: metrics.plateau(o.results["deterministic"], split="train").value,
        "at least",
        0.1,
        "a straight slope does the first tenth of its drop by α = 0.1, a convex one sooner",
    ),
    Claim(
        "maxout-convex-apart",
        "figure 1",
        "Apart from the flattening near α = 0, it is nearly convex in this subspace",
        "fig1",
        "the same distance from the hull on [end of the flattening, 1]",
        lambda o: above_hull(
            o.results["deterministic"],
            metrics.plateau(o.results["deterministic"], split="train").value,
        ),
        "at most",
        0.05,
        "as above; the flattening ends where a tenth of the drop is done",
    ),
    Claim(
        "maxout-line-search",
        "§2 and figure 1",
        "if we knew the correct direction, a single coarse line search could do a good job of "
        "training",
        "fig1",
        "what the worst line search with steps of 0.05 to 0.25 leaves of the drop",
        lambda o: line_search_regret(o.results["deterministic"]),
        "at most",
        0.01,
        "ours: all but a hundredth of what there is to gain",
    ),
    Claim(
        "maxout-first-epochs",
        "figure 1",
        "Essentially all of learning happens in the first few epochs",
        "fig1",
        "share of the fall of the training objective that is done after 5 epochs",
        lambda o: _learnt(o, 5),
        "at least",
        0.9,
        "ours: “essentially all” is nine tenths, “a few” is five",
    ),
    Claim(
        "maxout-flat-bottom",
        "§3",
        "SGD spends most of its time exploring the flat region at the bottom of the valley",
        "fig1",
        "share of epochs that end within a tenth of the fall from the lowest objective",
        _epochs_in_the_flat,
        "at least",
        0.5,
        "“most” is more than half",
    ),
    Claim(
        "maxout-94",
        "§3",
        "This configuration results in only 94 mistakes on the MNIST test set",
        "fig1",
        "errors on the test part after phase 2, by one seed",
        lambda o: (
            float(o.runs[0].test_errors[-1]) if o.runs[0].recipe.data == "mnist" else float("nan")
        ),
        "at most",
        94,
        "the paper's count; two binomial standard deviations of it are 19",
    ),
    *(
        Claim(
            f"{name}-no-obstacle",
            "§3 and figure 2",
            "the 1-D subspace spanning the initial and final parameters contains no difficult, "
            "exotic structures",
            "fig2",
            f"largest rise of J on [0, 1] over its range, {word}",
            lambda o, name=name: relative_rise(o.results[name]),
            "at most",
            FLAT,
            _NO_BUMP,
        )
        for name, word in (("sigmoid", "sigmoid"), ("relu", "ReLU"))
    ),
    *(
        Claim(
            f"fine-{name}",
            "§3 and figure 3",
            "increased resolution did not expose any small, difficult structures",
            "fig3",
            f"highest hump of J at 200 values of α in {window}, over its range there",
            lambda o, name=name: relative_hump(o.results[name]),
            "at most",
            FLAT,
            "a slope and a single valley have none; " + _NO_BUMP,
        )
        for name, window in (("whole", "[0, 1]"), ("start", "[0, 0.01]"), ("end", "[0.99, 1]"))
    ),
    Claim(
        "fine-nothing-hides",
        "§3 and figure 3",
        "we have explored α with too coarse of a resolution to expose local non-convex structures "
        "(the objection)",
        "fig3",
        "largest error of the resolved windows' interpolants at points they do not go through, "
        "over each range",
        _hidden,
        "at most",
        FLAT,
        "no more than what counts as a bump can hide between the points, down to their spacing",
    ),
    Claim(
        "fine-masks",
        "§3",
        "the choice of dropout mask has a large enough effect on the objective function to cause "
        "visible bumpiness at "
        "this resolution",
        "fig3",
        "how often J turns at 200 values of α on [0, 1] with fresh masks at each",
        lambda o: float(turns(o.results["masks"])),
        "at least",
        10,
        "ours: a smooth slope or valley turns once at most",
    ),
    Claim(
        "fine-validation-apart",
        "figure 3",
        "it is too widely separated from the training set objective and would require zooming out "
        "the plot too far",
        "fig3",
        "validation above training loss at α = 1, over the range of the training loss in [0.99, 1]",
        _separation,
        "at least",
        1,
        "drawn together, the training curve would fill less than half of the panel",
    ),
    Claim(
        "two-solutions",
        "§3 and figure 4",
        "by interpolating between two different SGD solutions, we show that each solution is a "
        "different local minimum",
        "fig4",
        "barrier between the two in nats, over its standard error",
        lambda o: _in_errors(metrics.barrier(o.results["solutions"], split="train")),
        "at least",
        5,
        "five standard errors over the examples",
    ),
    Claim(
        "two-minima",
        "§3 and figure 4",
        "each solution is a different local minimum",
        "fig4",
        "how far the two local minima near α = 0 and 1 lie below the solutions themselves, over "
        "the barrier",
        _ends_of_minima,
        "at most",
        0.01,
        "ours: training by minibatches with dropout stops near a minimum of this line, not in it",
    ),
    Claim(
        "random-no-barrier",
        "§3 and figure 4",
        "if we interpolate between a solution and a randomly selected point we do not find "
        "evidence of barriers",
        "fig4",
        "largest rise of J on [0, 1] over its range, from a random point",
        lambda o: relative_rise(o.results["random"]),
        "at most",
        FLAT,
        _NO_BUMP,
    ),
    Claim(
        "random-one-minimum",
        "figure 4",
        "we find no local minima besides the SGD solution",
        "fig4",
        "local minima at other values of the original's grid than α = 1, or a missing one there",
        _grid_minima,
        "at most",
        0,
        "a count",
    ),
    Claim(
        "strays",
        "§3",
        "Of course, SGD does not operate in this linear subspace",
        "fig5",
        "largest distance from the line, over its length",
        lambda o: _of_path(o, "max_residual"),
        "at least",
        0.1,
        "ours: far more than rounding, or a line with wiggles",
    ),
    Claim(
        "two-thirds",
        "§3 and figure 5",
        "the linear subspace captures about 2/3 the variation in the parameters during learning",
        "fig5",
        "|L/(L + largest residual) − 2/3|; the paper has no formula, and a random walk gives 2/3 "
        "exactly",
        lambda o: abs(_of_path(o, "captured") - 2 / 3),
        "at most",
        0.1,
        "ours: “about”; three quarters would still pass, four fifths not",
    ),
    Claim(
        "same-shape",
        "§3",
        "These plots are practically guaranteed to have more or less the same shape for almost any "
        "kind of exploration "
        "of a high dimensional space, including random walks",
        "fig5",
        "root mean square between the residuals and a random walk's at the same α, over the line's "
        "length",
        _shape_distance,
        "at most",
        0.1,
        "ours: a fifth of the semicircle's height",
    ),
    Claim(
        "conv-well-behaved",
        "§4 and figure 6",
        "At a global scale, the curve looks very well-behaved",
        "fig6",
        "largest rise of J on [0, 1] over its range, convolutional maxout, no masks",
        lambda o: relative_rise(o.results["whole"]),
        "at most",
        0.01,
        "ours: a hundredth of the range is less than a line's width in a figure",
    ),
    Claim(
        "conv-a-barrier",
        "§4 and figure 6",
        "we find that there is a single barrier in the objective function",
        "fig6",
        "how many tops J has on [0, 1] beyond what rounding and interpolation may do",
        lambda o: float(len(_conv_humps(o))),
        "at least",
        1,
        "a count",
    ),
    Claim(
        "conv-a-single-barrier",
        "§4 and figure 6",
        "we find that there is a single barrier in the objective function",
        "fig6",
        "the same count",
        lambda o: float(len(_conv_humps(o))),
        "at most",
        1,
        "a count",
    ),
    Claim(
        "conv-near-the-start",
        "§4 and figure 6",
        "near where the network is initialized",
        "fig6",
        "α of the first top",
        _conv_place,
        "at most",
        NEAR,
        "ours: a tenth of the way",
    ),
    Claim(
        "conv-wide",
        "§4 and figure 6",
        "This barrier is reasonably wide",
        "fig6",
        "the α at which J is back below J(0)",
        lambda o: barrier(o.results["near"]).end.value,
        "at least",
        0.01,
        "ours: twice the finest step of the original's grids, 1/199",
    ),
    Claim(
        "conv-not-tall",
        "§4 and figure 6",
        "but not very tall",
        "fig6",
        "max J − J(0) near the start, over J(0) − J(1)",
        _conv_height,
        "at most",
        0.05,
        "ours: a twentieth of the whole fall",
    ),
    Claim(
        "mpdbm-second-minimum",
        "§4 and figure 7",
        "Here we find a secondary local minimum with high error",
        "fig7",
        "prominence of the second minimum of J on [0, 1] over its range, 0 where there is none, "
        "MP-DBM",
        _second_minimum,
        "at least",
        FLAT,
        "what is shallower would not count as an obstacle elsewhere; " + _NO_BUMP,
    ),
    Claim(
        "mpdbm-passed-around",
        "§4 and figure 7",
        "SGD passed far enough around the anomaly to avoid having it affect learning",
        "fig7",
        "nearest that any epoch came to the second minimum, over the line's length; not run where "
        "there is none",
        _passed_at,
        "at least",
        0.1,
        "ours: as far as what counts as straying from the line elsewhere",
    ),
    Claim(
        "mpdbm-not-near",
        "figure 7",
        "This plot allows us to see that SGD did not pass near this anomaly",
        "fig7-plane",
        "the same on the figure's two axes; not run where there is no second minimum",
        _passed_as_drawn,
        "at least",
        0.1,
        "ours: as far as what counts as straying from the line elsewhere",
    ),
    Claim(
        "mpdbm-large-start",
        "§4",
        "The MP-DBM was initialized with very large, sparse, weights",
        "fig7",
        "mean norm at the start of what feeds a unit of the first layer, over the largest that "
        "training allows",
        lambda o: start_over_cap(o.runs[0]),
        "at least",
        1,
        "above 1 the start lies outside the set that training stays in",
    ),
    Claim(
        "mpdbm-more-non-convex",
        "§4",
        "this model having more non-convex behavior than the others",
        "fig7",
        "how far J stands above its lower convex hull on [0, 1], over its range",
        lambda o: above_hull(o.results["line"]),
        "at least",
        0.05,
        "what passes for approximately convex elsewhere; " + _CONVEX,
    ),
    Claim(
        "mpdbm-performs",
        "§4",
        "it gets good performance as a generative model and as a classifier",
        "fig7",
        "error of the solution on validation images, by mean field; the whole training only",
        lambda o: performance(o.runs[0]),
        "at most",
        0.01,
        "ours: one in a hundred, about what the other networks of the paper reach",
    ),
    Claim(
        "lstm-no-obstacle",
        "§4 and figure 8",
        "This experiment did not find any difficult structures",
        "fig8",
        "largest rise of J on [0, 1] over its range, LSTM, no masks",
        lambda o: relative_rise(o.results["deterministic"]),
        "at most",
        FLAT,
        _NO_BUMP,
    ),
    Claim(
        "lstm-nothing-hides",
        "§4 and figure 8",
        "This experiment did not find any difficult structures",
        "fig8",
        "largest error of the resolved curve's interpolant at points it does not go through, over "
        "its range",
        lambda o: _misfit(o.results["deterministic"]),
        "at most",
        FLAT,
        "no more than what counts as a bump can hide between the points, down to their spacing",
    ),
    Claim(
        "lstm-one-valley",
        "§4 and figure 8",
        "the exotic features of non-convex optimization do not appear to cause difficulty even for "
        "recurrent models of "
        "sequences",
        "fig8",
        "highest hump of J at the original's 20 values of α, on beyond the solution, over its "
        "range",
        lambda o: relative_hump(o.results["coarse"]),
        "at most",
        FLAT,
        "a slope and a single valley have none; " + _NO_BUMP,
    ),
    Claim(
        "lstm-performs",
        "§5",
        "This work has only considered neural networks that perform very well",
        "fig8",
        "perplexity on the test part over the published one of this configuration, by one seed",
        lambda o: beside_published(o.runs[0]),
        "at most",
        1.05,
        "ours: the published one is one run's, and a twentieth is what seeds and a rounded number "
        "may make",
    ),
    *(
        Claim(name, section, sentence, "", "—", lambda o: float("nan"), "at most", 0, reason)
        for name, section, sentence, reason in (
            (
                "higher-rate",
                "figure 1",
                "A higher learning rate results in increasing error, because some directions are "
                "still uphill",
                "needs trainings from mid-run at several rates",
            ),
            (
                "overfits",
                "§3",
                "Maxout tends to overfit on MNIST if used without dropout",
                "needs a training of the maxout network without dropout",
            ),
            (
                "symmetry-breaking",
                "§3",
                "local minima are rare and seem to correspond mostly to initial symmetry breaking",
                "needs pairs of trainings that part after k steps, and their barriers against k",
            ),
        )
    ),
)


def _in_errors(barrier: metrics.Estimate) -> float:
    return barrier.value / barrier.stderr
