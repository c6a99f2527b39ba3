"""What was found of a sentence: a number between bounds, and which examples it speaks of.

The rules are those of ``ravine.metrics.decide``: each bound is one-sided and wrong in at
most one case of twenty, what is not known makes no bound, and an answer that neither bound
gives is *undecided*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from scipy import stats

from ravine import metrics

Status = Literal["holds", "does not hold", "undecided", "not run"]
Bound = Literal["at most", "at least"]
Scope = Literal["population", "examples", "run"]

#: The largest share of wrong answers, either way: that of ``metrics.decide``.
LEVEL: Final = 0.05

#: Of examples, that half-samples are taken of.
_GROUPS: Final = 256

#: As ``metrics.decide`` has it: of fewer, nothing is said of others.
_FEWEST: Final = 10

#: A maximum of noise grows with the noise itself, by √2 where a replicate adds as much again: so
#: its bias is this many times what the replicates show of it, at most.
_BIAS: Final = 1 / (2**0.5 - 1)


@dataclass(frozen=True)
class Found:
    """A number that a sentence amounts to, and its bounds.

    Attributes:
        number: NaN where there is none.
        lower: one-sided bound; NaN where none is known.
        upper: the same from above.
        scope: "population": bounds of what other examples, drawn like these, would give;
            "examples": of these alone; "run": of this training, where no examples come in.
        threshold: what it is compared with, where the claim has no threshold of its own.
        status: where the bounds alone do not say it; "" where they do.
        remark: what stands beside it: why it is undecided, or its null.
        here: the same of these examples alone, where ``scope`` is "population".
    """

    number: float
    lower: float
    upper: float
    scope: Scope = "run"
    threshold: float = np.nan
    status: Status | Literal[""] = ""
    remark: str = ""
    here: Found | None = None

    def answers(self, bound: Bound, threshold: float) -> Status:
        """Whether the number is on the side of the threshold that the sentence asks for.

        Args:
            bound: "at most" or "at least" …
            threshold: … this much.

        Examples:
            >>> bounds = (0, 1), (0, 2), (1.5, 2)
            >>> [Found(0.5, low, high).answers("at most", 1.0) for low, high in bounds]
            ['holds', 'undecided', 'does not hold']
            >>> Found(0.5, float("nan"), float("nan")).answers("at most", 1.0)
            'undecided'
        """
        if self.status:
            return self.status
        if bound == "at most":
            holds, fails = self.upper <= threshold, self.lower > threshold
        else:
            holds, fails = self.lower >= threshold, self.upper < threshold
        if holds:
            return "holds"
        return "does not hold" if fails else "undecided"


def exactly(number: float, scope: Scope = "run", remark: str = "") -> Found:
    """A number without an error: a count, or a length."""
    return Found(number, number, number, scope, remark=remark)


def missing(remark: str) -> Found:
    """There is nothing to measure, and why."""
    return Found(np.nan, np.nan, np.nan, status="not run", remark=remark)


def decided(
    profile: metrics.Profile,
    what: Literal["barrier", "rise", "minimum"],
    above: float,
    unit: float = 1.0,
) -> Found:
    """What ``metrics.decide`` finds of a curve, for other examples and for these.

    Args:
        profile: the curve, or a part of it.
        what: the question.
        above: the height that is asked about.
        unit: what the height is given in units of.

    Returns:
        The height, with ``above`` as its threshold.
    """
    of_these = _of(metrics.decide(profile, what, above=above, scope="examples"), unit)
    return replace(_of(metrics.decide(profile, what, above=above), unit), here=of_these)


def _of(decision: metrics.Decision, unit: float) -> Found:
    lower, upper, answer = decision.lower, decision.upper, decision.answer
    if answer == "undecided" and (lower > decision.above or upper <= decision.above):
        lower = upper = np.nan  # too few examples for the bounds to mean anything
    more = f"; about {decision.examples:,} examples would decide" if decision.examples else ""
    return Found(
        decision.value / unit,
        lower / unit,
        upper / unit,
        "examples" if decision.scope == "examples" else "population",
        decision.above / unit,
        "undecided" if np.isnan(decision.value) else "",
        f"{decision.reason}{more}" if answer == "undecided" else "",
    )


def estimated(value: float, stderr: float, doubt: float = 0.0, units: int = 10**6) -> Found:
    """A number with a standard error over the examples.

    Args:
        value: the number.
        stderr: NaN where it is not known.
        doubt: what rounding, interpolation and the spacing of points may do to it; inf where that
            is not known.
        units: independent examples, or clusters.

    Examples:
        >>> found = estimated(1.0, 0.1)
        >>> round(found.lower, 3), round(found.upper, 3), found.here
        (0.834, 1.166, Found(number=1.0, lower=1.0, upper=1.0, scope='examples', ...))
    """
    here = Found(value, *_around(value, doubt, doubt), "examples")
    margin = doubt + _times(units) * stderr if units >= _FEWEST else np.nan
    few = "" if units >= _FEWEST else f"{units} independent examples are too few to speak of others"
    return Found(value, *_around(value, margin, margin), "population", remark=few, here=here)


def _times(units: int) -> float:
    """How many standard errors a bound is away, as ``metrics.decide`` has it: more of few examples.

    An error is of 256 groups of examples at most, and tails may be above the normal's.
    """
    freedom = 0.5 * units / (1 + units / _GROUPS) - 1
    return float(stats.t.isf(LEVEL, max(freedom, 1)))


def _around(value: float, below: float, above: float) -> tuple[float, float]:
    """A bound that is infinitely far away is none."""
    lower, upper = value - below, value + above
    return _finite(lower), _finite(upper)


def _finite(bound: float) -> float:
    return bound if np.isfinite(bound) else np.nan


def measured(
    profile: metrics.Profile,
    measure: Callable[[np.ndarray, np.ndarray], float],
    doubt: float = 0.0,
    *,
    subadditive: bool = True,
) -> Found:
    """A measure of a curve that noise makes larger, as a distance or a maximum; corrected for that.

    Args:
        profile: the curve.
        measure: (alpha, value) → the number.
        doubt: as in ``estimated``.
        subadditive: whether the measure of a sum of two curves is at most the sum of theirs, as it
            is for the largest of some differences. Then the curve's own is at least what was
            measured less that of the noise alone.

    Returns:
        The number less the bias that the replicates show. The upper bound takes nothing off for it.
    """
    if not np.isfinite(profile.value).all():
        return Found(np.nan, np.nan, np.nan, "population", status="undecided", remark="not finite")
    value, noise = measure(profile.alpha, profile.value), profile.drawn.T
    here = Found(value, *_around(value, doubt, doubt), "examples")
    drawn = np.array([measure(profile.alpha, profile.value + column) for column in noise])
    known = drawn[np.isfinite(drawn)]
    if profile.units < _FEWEST or len(known) < max(2, len(drawn) // 2) or not np.isfinite(value):
        few = "the error over other examples is not known"
        return Found(value, np.nan, np.nan, "population", remark=few, here=here)
    bias = max(float(known.mean()) - value, 0.0)
    margin = _times(profile.units) * float(known.std(ddof=1))
    below = margin + _BIAS * bias
    if subadditive:
        every = profile.replicates[:, 1:] if profile.balanced else profile.replicates
        # a quantile needs more than an error does
        alone = [measure(profile.alpha, column) for column in every.T]
        few = _times(profile.units) / float(stats.norm.isf(LEVEL))
        below = few * float(np.quantile(alone, 1 - LEVEL, method="higher"))
    return Found(
        value - bias, *_around(value, doubt + below, doubt + margin), "population", here=here
    )


def worst(found: Iterable[Found]) -> Found:
    """The largest of numbers that should all be small: known from above only where each is."""
    every = list(found)
    top = max(every, key=lambda one: -np.inf if np.isnan(one.number) else one.number)
    lower = np.array([one.lower for one in every])
    inner = [one.here for one in every if one.here is not None]
    return replace(
        top,
        lower=float(np.nanmax(lower)) if np.isfinite(lower).any() else np.nan,
        upper=float(np.max([one.upper for one in every])),
        remark="; ".join(dict.fromkeys(one.remark for one in every if one.remark)),
        here=worst(inner) if len(inner) == len(every) else None,
    )


def least(found: Iterable[Found]) -> Found:
    """The smallest of numbers that should all be large: known, from below, only where each is."""
    every = list(found)
    uppers = [one.upper for one in every if not math.isnan(one.upper)]
    inner = [one.here for one in every if one.here is not None]
    return replace(
        min(every, key=lambda one: (not math.isnan(one.number), one.number)),
        lower=float(np.min([one.lower for one in every])),
        upper=min(uppers, default=math.nan),
        here=least(inner) if len(inner) == len(every) else None,
    )


def given(gate: Found, then: Found, otherwise: str) -> Found:
    """What is said of a thing presupposes that the thing is there.

    Args:
        gate: the height of the thing, with its threshold.
        then: what is said of it.
        otherwise: in words, where it is not there.

    Returns:
        ``then`` where the thing is shown; undecided where it is not known; not run where
        it is excluded.
    """
    there = gate.answers("at least", gate.threshold)
    here = None
    if gate.here is not None and then.here is not None:
        here = given(gate.here, then.here, otherwise)
    if there == "holds":
        return replace(then, here=here)
    if there == "does not hold":
        return replace(missing(otherwise), scope=then.scope, here=here)
    unknown = f"whether there is one at all is undecided: {gate.remark}"
    return replace(then, lower=np.nan, upper=np.nan, status="undecided", remark=unknown, here=here)
