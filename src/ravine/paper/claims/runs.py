"""The numbers that a training decides: its learning curve, its path, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import xarray as xr
from scipy import stats

from ravine import metrics
from ravine.paper import training
from ravine.paper.claims.found import LEVEL, Found, exactly, missing
from ravine.paper.figures.study import Outcome

#: Walks in 10⁵ dimensions scatter by less than this about what is expected of them in very many.
_LEAST: Final = 0.01


def learnt(outcome: Outcome, epochs: int) -> Found:
    """The share of the whole fall of the training objective that is done after so many epochs."""
    run = outcome.runs[0]
    objective = _objective(run)
    done = objective[0] - objective[min(epochs, len(objective) - 1)]
    if run.recipe.is_lean and np.isnan(done):
        return missing("a lean training did not watch the training examples after that epoch")
    return exactly(float(done / (objective[0] - np.nanmin(objective))))


def epochs_in_the_flat(outcome: Outcome) -> Found:
    """The share of epochs that end with training's objective within a tenth of its fall."""
    objective = _objective(outcome.runs[0])
    if outcome.runs[0].recipe.is_lean:  # what was not watched lies between its neighbours
        epochs, seen = np.arange(len(objective)), np.isfinite(objective)
        objective = np.interp(epochs, epochs[seen], objective[seen])
    bottom = objective.min() + 0.1 * (objective[0] - objective.min())
    return exactly(float((objective[1:] <= bottom).mean()))


def _objective(run: training.Run) -> np.ndarray:
    history = run.history
    first = history.isel(record=np.flatnonzero(history["phase"].values == 1))
    return first["objective"].sel(split="train").values


def beside_count(counts: Sequence[float], published: int) -> Found:
    """How many more errors there are than the published ones, of so many trainings on average.

    Either count is binomial, and the published one is of a single training. Both are of the same
    examples, some of which are hard for every network; so their difference scatters by no more than
    that of independent counts.

    Args:
        counts: of errors, one for each seed.
        published: the count that they are set beside.

    Examples:
        >>> found = beside_count([112.0], 94)
        >>> found.number, round(found.lower, 1), round(found.upper, 1), found.answers("at most", 0)
        (18.0, -5.6, 41.6, 'undecided')
    """
    number = float(np.mean(counts) - published)
    seeds = float(np.var(counts, ddof=1)) if len(counts) > 1 else 0.0
    each = max(float(np.mean(counts)), seeds)
    margin = float(stats.norm.isf(LEVEL)) * (each / len(counts) + published) ** 0.5
    remark = f"{np.mean(counts):.4g} errors against {published}, each with its binomial error"
    return Found(number, number - margin, number + margin, "population", remark=remark)


def share_wrong(error: float, count: int) -> Found:
    """An error rate with its exact binomial bounds (Clopper and Pearson).

    Examples:
        >>> found = share_wrong(0.0, 100)
        >>> found.lower, round(found.upper, 3)
        (0.0, 0.03)
    """
    wrong = round(error * count)
    lower = float(stats.beta.ppf(LEVEL, wrong, count - wrong + 1)) if wrong else 0.0
    upper = float(stats.beta.isf(LEVEL, wrong + 1, count - wrong)) if wrong < count else 1.0
    return Found(error, lower, upper, "population", here=exactly(error, "examples"))


# --- the path -------------------------------------------------------------------------------------


def strayed(path: xr.Dataset) -> Found:
    """The largest distance from the line, over its length."""
    return exactly(float(path["max_residual"].sel(walk="run")))


def captured(path: xr.Dataset, about: float = 2 / 3, within: float = 0.1) -> Found:
    """What the line captures beyond a random walk's share, where it is about what is said.

    Args:
        path: the run, projected on the line.
        about: the share that is said to be captured.
        within: how far off it may be.

    Returns:
        L/(L + largest residual), the run's less the walk's: of the walk with the run's own step
        correlation where that is known. A random walk has 0, but for its scatter: the bounds are
        those of walks in as many directions.
    """
    run = float(path["captured"].sel(walk="run"))
    null, scatter, which = _null(path)
    remark = f"the line captures {run:.3f} of the run, and {null:.3f} of a random walk with {which}"
    ahead = run - null
    margin = max(_LEAST, float(stats.norm.isf(LEVEL)) * scatter)
    found = Found(ahead, ahead - margin, ahead + margin, remark=remark)
    return found if abs(run - about) <= within else replace(found, status="does not hold")


def _null(path: xr.Dataset) -> tuple[float, float, str]:
    """What is captured of a random walk, how that scatters, and which walk it is."""
    own = metrics.correlated_walk(path)
    if own is not None:
        walk, shares = own
        which = f"its step correlation, turning in {walk.dimensions:.2g} dimensions"
        return shares["captured"], walk.scatter, which
    return float(path["captured"].sel(walk="random walk")), 0.0, "independent steps"


def walk_or_line(path: xr.Dataset) -> Found:
    """How much nearer a run's residuals are to a straight line's than to a random walk's.

    Returns:
        The root mean square distance from the walk, over the sum of that and the one from the line:
        0 for a random walk in very many dimensions, 1 for a run along the line; 1/2 is as near to
        the one as to the other.
    """
    residual = path["residual"].values / float(path.attrs["length"])
    last = int(np.argmin(np.hypot(path["alpha"].values - 1, residual)))  # the line's end
    alpha, residual = path["alpha"].values[: last + 1].clip(0, 1), residual[: last + 1]
    walk = float(np.sqrt(((residual - np.sqrt(alpha * (1 - alpha))) ** 2).mean()))
    line = float(np.sqrt((residual**2).mean()))
    if not np.isfinite(walk + line):
        return missing("a snapshot is not finite")
    if not walk + line:
        return missing("no snapshot was taken between the line's ends")
    remark = f"root mean square distance {walk:.3g} from a random walk's and {line:.3g} from none"
    return exactly(walk / (walk + line), remark=f"{remark}, over the line's length")
