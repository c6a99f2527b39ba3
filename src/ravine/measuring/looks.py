"""Looks: a curve on as few examples as a question, or a standard error, needs.

Each look takes a larger random part of the examples, which holds those before. A question may be
asked at every look, because each look has its share of the level: whatever the looks have to do
with one another, at most ``level`` of curves are told otherwise (Bonferroni).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.metrics.decisions import decide
from ravine.metrics.inference import What
from ravine.metrics.profile import Profile
from ravine.objective.objective import Objective
from ravine.objective.sampling import count_of

#: Examples of the first look, of each split: fewer leave most questions undecided.
FIRST: Final = 500

#: Times as many in the next one: all earlier looks together then cost a third of the last.
GROWTH: Final = 4

#: Of the height that is asked about: what interpolation may do at the first look; half of it at
#: the next.
_SHARE: Final = 1 / 4

#: Room for the standard error of a standard error, when the number of examples is foretold.
_ROOM: Final = 1.2

#: An objective and the error that its interpolant may make anyway → its curve.
Measure = Callable[[Objective, float], xr.Dataset]


@dataclass(frozen=True)
class Question:
    """What is asked of the loss on the first split: as ``metrics.decide``.

    Attributes:
        what: "barrier", "rise", "minimum" or "nonconvex".
        above: the height that is asked about.
        level: the largest share of wrong answers, over all looks.
    """

    what: What
    above: float
    level: float


def sizes(largest: int) -> list[int]:
    """How many examples each look takes: fourfold from 500 on, and in the end all.

    Examples:
        >>> sizes(50_000), sizes(700)
        ([500, 2000, 8000, 50000], [700])
    """
    found, size = [], FIRST
    while 2 * size <= largest:  # a look at more than half may as well see all
        found.append(size)
        size *= GROWTH
    return [*found, largest]


def answered(question: Question, objective: Objective, measure: Measure) -> xr.Dataset:
    """The curve of the first look that answers the question, or of all examples.

    Args:
        question: what is asked.
        objective: of all examples.
        measure: makes a curve.

    Returns:
        The result, which says what was asked, how many looks there were, and of how many examples.

    Raises:
        InputError: no part of the examples can be drawn.
    """
    counts = _counts(objective)
    planned = sizes(max(counts.values()))
    share = 1 / len(planned)
    curve = xr.Dataset()
    for look, size in enumerate(planned, 1):
        wanted = {name: min(size, count) for name, count in counts.items()}
        curve = measure(_part(objective, wanted, counts), question.above * _SHARE / 2 ** (look - 1))
        curve = curve.assign_attrs(
            asked=json.dumps(vars(question)),
            looks=look,
            level_share=share,
            examples_of=json.dumps(counts),
        )
        found = decide(curve, question.what, above=question.above, level=question.level)
        if found.answer != "undecided":
            break
    return curve


def precise(stderr: float, objective: Objective, measure: Measure, pilot: Measure) -> xr.Dataset:
    """The curve on as many examples as keep every difference's standard error below a number.

    Args:
        stderr: of J(α) − J(start), paired, in J's unit: the largest over the interval
            and the splits.
        objective: of all examples.
        measure: makes a curve.
        pilot: measures a few points, from which the number of examples is foretold.

    Returns:
        The result, which says what standard error was asked for and reached, and of
        how many examples.

    Raises:
        InputError: no part of the examples can be drawn, or there are too few for a standard error.
    """
    counts = _counts(objective)
    wanted = {name: min(FIRST, count) for name, count in counts.items()}
    for make in (pilot, measure):
        while True:
            curve = make(_part(objective, wanted, counts), 0.0)
            reached = {name: largest_stderr(curve, name) for name in counts}
            more = {name: _foretold(wanted[name], reached[name], stderr) for name in counts}
            short = [name for name in counts if more[name] > wanted[name] < counts[name]]
            wanted |= {name: min(more[name], counts[name]) for name in short}
            if make is pilot or not short:
                break
    return curve.assign_attrs(
        stderr_asked=stderr,
        stderr_reached=max(reached.values()),
        examples_of=json.dumps(counts),
    )


def largest_stderr(curve: xr.Dataset, split: str) -> float:
    """The largest paired standard error of J(α) − J(start) on a split.

    The start is the point nearest to α = 0.

    Raises:
        InputError: there are too few examples to tell.
    """
    profile = Profile.of(curve, split=split)
    start = int(np.argmin(np.abs(profile.alpha)))
    errors = (profile.drawn - profile.drawn[start]).std(axis=1, ddof=1)
    if not errors.size or not np.isfinite(errors).all():
        msg = (
            f"the standard error on split {split!r} is not known ({profile.units} independent "
            "examples, or a value that is not finite), so no number of examples can be chosen by it"
        )
        raise InputError(msg)
    return float(errors.max())


def _foretold(count: int, reached: float, wanted: float) -> int:
    """About how many examples have the wanted standard error; as many where it is reached."""
    if reached <= wanted:
        return count
    return int(np.ceil(_ROOM * count * (reached / wanted) ** 2))


def _counts(objective: Objective) -> dict[str, int]:
    return {split.name: count_of(split) for split in objective.splits}


def _part(objective: Objective, wanted: dict[str, int], counts: dict[str, int]) -> Objective:
    return objective if wanted == counts else objective.sampled(wanted)
