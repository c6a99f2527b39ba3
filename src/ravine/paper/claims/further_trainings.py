"""The sentences that take trainings of their own: a higher rate, no dropout, pairs that part."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import xarray as xr

from ravine import metrics
from ravine.paper.claims.claim import Claim
from ravine.paper.claims.curves import barriers, train
from ravine.paper.claims.found import Found, estimated, given, least, missing
from ravine.paper.figures.branches import APART, FACTORS, INITIAL, RAISED, epoch_of, parted, raised
from ravine.paper.figures.study import Outcome

#: Epochs in which essentially all is learnt, after which a higher rate is asked about: as in
#: figure 1.
FIRST: Final = 5


def change(profile: metrics.Profile) -> Found:
    """J at the end of a line less J at its start, from the same examples."""
    return difference(profile.part(np.array([0])), profile.part(np.array([-1])))


def difference(one: metrics.Profile, other: metrics.Profile) -> Found:
    """J at a second point less J at a first one, from the same examples.

    Args:
        one: the first point, a profile of one value.
        other: the second.

    Returns:
        The difference in nats.
    """
    both = replace(
        one,
        alpha=np.array([0.0, 1.0]),
        value=np.concatenate([one.value, other.value]),
        replicates=np.concatenate([one.replicates, other.replicates]),
    )
    found = both.estimate(lambda alpha, value: (float(value[1] - value[0]), 1.0))
    doubt = float(np.nan_to_num(one.floor[0]) + np.nan_to_num(other.floor[0]))
    return estimated(found.value, found.stderr, doubt, one.units)


def _raised(outcome: Outcome) -> dict[tuple[int, float], xr.Dataset]:
    """Step and factor → line, from where essentially all is learnt."""
    run = outcome.runs[0]
    return {
        (step, factor): outcome.results[raised(step, factor)]
        for step in RAISED[run.recipe.profile]
        for factor in FACTORS
        if epoch_of(run, step) > FIRST
    }


def error_at_higher_rate(outcome: Outcome) -> Found:
    """What an epoch at ten times the rate adds to J of the training examples, at least."""
    lines = _raised(outcome)
    found = least(change(train(line)) for (_, factor), line in lines.items() if factor == 10)
    return replace(found, remark=_changes(outcome, lines))


def speed_at_higher_rate(outcome: Outcome) -> Found:
    """J after an epoch at three or ten times the rate less J after one at the rate, at least."""
    lines = _raised(outcome)
    ends = {key: _end(line) for key, line in lines.items()}
    found = least(
        difference(ends[step, 1.0], end) for (step, factor), end in ends.items() if factor != 1
    )
    return replace(found, remark=_changes(outcome, lines))


def _end(line: xr.Dataset) -> metrics.Profile:
    return train(line).part(np.array([-1]))


def _changes(outcome: Outcome, lines: dict[tuple[int, float], xr.Dataset]) -> str:
    """What each epoch added, in words."""
    said = []
    for (step, factor), line in lines.items():
        epoch = epoch_of(outcome.runs[0], step)
        said.append(f"{change(train(line)).number:+.2g} at × {factor:g} from epoch {epoch:.3g}")
    return f"J changes by {', '.join(said)}"


def overfits(outcome: Outcome) -> Found:
    """How far validation J rises from its lowest to the end, while the training J falls."""
    line = outcome.results["from the lowest"]
    trained = change(train(line))
    found = change(metrics.Profile.of(line, split="valid"))
    remark = f"on the training examples J changes by {trained.number:.2g}"
    if trained.upper >= 0:
        return replace(missing("J of the training examples does not fall there"), remark=remark)
    return replace(found, remark=remark)


def gone_when_parted(outcome: Outcome) -> Found:
    """The share of the barrier between other starts that pairs lack if they part after an epoch."""
    whole = barriers(outcome.results[APART])
    profile = outcome.runs[0].recipe.profile
    left = barriers(outcome.results[parted(INITIAL[profile])])
    found = given(whole, _share(left, whole), "other starts have no barrier between them")
    return replace(found, remark=_heights(outcome))


def _share(left: Found, whole: Found) -> Found:
    """One less a ratio of two heights; each bound is wrong where either's is."""
    here = None
    if left.here is not None and whole.here is not None:
        here = _share(left.here, whole.here)
    lower = 1 - max(left.upper, 0.0) / whole.lower if whole.lower > 0 else np.nan
    upper = 1 - max(left.lower, 0.0) / whole.upper
    return replace(left, number=1 - left.number / whole.number, lower=lower, upper=upper, here=here)


def _heights(outcome: Outcome) -> str:
    found = {name: barriers(line).number for name, line in outcome.results.items()}
    said = ", ".join(f"{name} {number:.3g}" for name, number in found.items())
    return f"barriers in nats: {said}"


CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "higher-rate",
        "figure 1",
        (
            "A higher learning rate results in increasing error, because some directions are still "
            "uphill"
        ),
        "higher-rate",
        "what an epoch at ten times the rate adds to J of the training examples, the least of the "
        "epochs after the fifth from which it was tried, in nats",
        error_at_higher_rate,
        "at least",
        0,
        "an increase is more than none; three times the rate stands beside it",
    ),
    Claim(
        "no-faster",
        "figure 1",
        "we cannot increase the speed by increasing the learning rate",
        "higher-rate",
        "J after an epoch at three or ten times the rate less J after an epoch at the rate itself, "
        "the least of those, in nats",
        speed_at_higher_rate,
        "at least",
        0,
        "below 0 a higher rate was faster",
    ),
    Claim(
        "overfits",
        "§3",
        "Maxout tends to overfit on MNIST if used without dropout",
        "overfitting",
        "how far J of the validation examples rises from its lowest to the end of training, in "
        "nats; not run where J of the training examples does not fall there",
        overfits,
        "at least",
        0,
        "to overfit is to get worse on others while getting better on these",
        ends=True,
    ),
    Claim(
        "symmetry-breaking",
        "§3",
        "local minima are rare and seem to correspond mostly to initial symmetry breaking",
        "parting",
        "of the barrier between trainings from other starts, the share that is gone between "
        "trainings that part after the first epoch",
        gone_when_parted,
        "at least",
        0.5,
        "ours: mostly is more than half, and initial the first epoch",
        ends=True,
    ),
)
