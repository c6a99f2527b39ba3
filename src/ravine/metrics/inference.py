"""Inference: what may be said of a curve that is known at some points, on some examples.

A maximum over α is not a number at one α: the largest of many noisy differences is large even where
nothing is there. So every difference is studentised, divided by its own paired standard error, and
compared with the largest studentised difference of centred replicates of the whole curve. An answer
is one of three: shown, where the lower bound is above what was asked; excluded, where the upper
bound is below it; undecided, with what would decide it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from numbers import Real
from typing import Final, Literal, get_args

import numpy as np

from ravine.errors import InputError
from ravine.metrics.bounds import LAST_BITS, QUESTIONS, Bounds, worse_skew
from ravine.metrics.profile import Profile, number, within
from ravine.metrics.replicates import DRAWS, Sample

What = Literal["barrier", "rise", "minimum", "nonconvex"]
Answer = Literal["shown", "excluded", "undecided"]
Scope = Literal["population", "examples"]

LEVEL: Final = 0.05  # the largest share of wrong answers, if no other is asked for
FLAT: Final = 1e-3  # of a curve's range: below, nothing is called a bump

#: Of an undecided answer that is too close to what was asked, or whose examples differ too much.
HOPELESS: Final = "more examples of this kind will hardly decide it"

FEWEST_UNITS: Final = 10  # independent examples; of fewer, the population is not decided upon
LOPSIDED: Final = 0.5  # skewness of a difference's mean: beyond, no bound keeps its level
_FAIR: Final = 0.15  # up to this skewness the expansion of the bound holds
_STEEP: Final = 12.0  # and beyond, it grows so fast with the skewness
_HOPELESS: Final = 1_000  # times the examples there are: nobody gets so many of the same kind


@dataclass(frozen=True)
class Decision:
    """An answer to a question about a curve, and what it rests on.

    Attributes:
        what: the question: "barrier", "rise", "minimum" or "nonconvex".
        answer: "shown", "excluded" or "undecided".
        reason: in a few words.
        value: the height as it was read, in the quantity's unit.
        lower: one-sided bound at ``level``.
        upper: one-sided bound at ``level``.
        above: what the height is compared with.
        p: of the height being no more than that, and no less than ``level`` unless it is shown; NaN
            where only these examples are asked about.
        at: α of the top (of a minimum, of the bottom); NaN where there is none.
        examples: about how many would decide; None where none are needed, and where more cannot or
            a thousand times as many would not.
        kind: which barrier: "end", "mean" or "chord".
        quantity: which quantity.
        split: which split.
        level: of each bound.
        scope: "population" or "examples".
        name: the quantity in words.
        unit: that stands behind its numbers.
    """

    what: str
    answer: Answer
    reason: str
    value: float
    lower: float
    upper: float
    above: float
    p: float = np.nan
    at: float = np.nan
    examples: int | None = None
    kind: str = "end"
    quantity: str = "loss"
    split: str = "data"
    level: float = LEVEL
    scope: str = "population"
    name: str = field(default="loss", repr=False)
    unit: str = field(default="", repr=False)

    def __str__(self) -> str:
        kind = f" ({self.kind})" if self.what == "barrier" and self.kind != "end" else ""
        height = f"{number(self.value)} {within(self.lower, self.upper)}{self.unit}"
        return (
            f"{self.what}{kind} above {number(self.above)} in the {self.split} {self.name}: "
            f"{self.answer}; height {height}; {self.reason}"
        )

    def _repr_html_(self) -> str:
        """For a notebook: the sentence."""
        return f"<p>{escape(str(self))}</p>"


def decided(
    profile: Profile,
    what: What,
    *,
    above: float | None = None,
    kind: str = "end",
    level: float = LEVEL,
    scope: Scope = "population",
    joint: bool = True,
) -> Decision:
    """``decide`` of a profile.

    Args:
        profile: of the line.
        what: the question.
        above: the height that is asked about; None for the one threshold, ``threshold_of``.
        kind: of a barrier.
        level: of each bound.
        scope: whether it is asked of others like these examples, or of these alone.
        joint: whether a barrier that is shown is to be a rise that is shown.

    Returns:
        The answer.
    """
    part = profile if what == "minimum" else profile.between(0, 1)
    limit = threshold_of(profile) if above is None else above
    own = level * profile.level_share
    asked = _asked(profile, what, limit, kind, own, scope)
    problem = _unanswerable(profile, part, what)
    if problem:
        return replace(asked, reason=problem, level=level)
    sample = Sample(_finite(part), _draws_for(own), joint=joint)
    found = _answer(asked, _bounds(asked, what, sample), sample)
    return _over_all_looks(_with_the_rest(found, part), level)


class Changes:
    """Whether a line has a barrier, rises and falls, at any level: what a curve is asked most.

    Args:
        profile: of the line.
        above: the height that is asked about.
    """

    def __init__(self, profile: Profile, above: float) -> None:
        self.profile = profile
        self.above = above

    def at(self, level: float = LEVEL) -> dict[tuple[str, Scope], Decision]:
        """Of other examples like these, and of these alone.

        Args:
            level: of each bound.

        Returns:
            ("barrier", "rise" or "fall", scope) → the answer; empty where there is nothing to ask.
        """
        part = self.profile.between(0, 1)
        if _unanswerable(self.profile, part, "rise"):
            return {}
        found: dict[tuple[str, Scope], Decision] = {}
        for what, (question, sample) in self._asked.items():
            own = level * self.profile.level_share
            others = _asked(self.profile, what, self.above, "end", own, "population")
            bounds = _bounds(others, question, sample)
            for scope in get_args(Scope):
                told = _answer(replace(others, scope=scope), bounds, sample)
                found[what, scope] = _over_all_looks(_with_the_rest(told, part), level)
        return found

    def barrier(self, kind: str, scope: Scope) -> Decision | None:
        """Of any kind, at a level of 5 %; None where an end was not measured."""
        part = self.profile.between(0, 1)
        if _unanswerable(self.profile, part, "barrier"):
            return None
        own = LEVEL * self.profile.level_share
        asked = _asked(self.profile, "barrier", self.above, kind, own, scope)
        _, sample = self._asked["barrier"]
        told = _answer(asked, _bounds(asked, "barrier", sample), sample)
        return _over_all_looks(_with_the_rest(told, part), LEVEL)

    @cached_property
    def _asked(self) -> dict[str, tuple[What, Sample]]:
        part = _finite(self.profile.between(0, 1))
        forward, backward = Sample(part), Sample(_turned(part))
        asked: dict[str, tuple[What, Sample]] = {
            "rise": ("rise", forward),
            "fall": ("rise", backward),
        }
        if self.profile.covers_both_ends:
            asked["barrier"] = ("barrier", forward)
        return asked


def _over_all_looks(found: Decision, level: float) -> Decision:
    """An answer of one look, at the level that holds for all of them."""
    return replace(found, level=level, p=min(1.0, found.p * level / found.level))


def _turned(profile: Profile) -> Profile:
    """The line walked the other way."""
    turned = profile.part(slice(None, None, -1))
    return replace(turned, alpha=-turned.alpha)


def _asked(
    profile: Profile, what: str, above: float, kind: str, level: float, scope: Scope
) -> Decision:
    return Decision(
        what=what,
        answer="undecided",
        reason="",
        value=np.nan,
        lower=np.nan,
        upper=np.nan,
        above=above,
        kind=kind,
        quantity=profile.quantity,
        split=profile.split,
        level=level,
        scope=scope,
        name=profile.name,
        unit=profile.unit,
    )


def _bounds(asked: Decision, question: What, sample: Sample) -> tuple[Bounds, ...]:
    """Of what is asked about; of a rise, also of a barrier where both hold together."""
    found = QUESTIONS[question](sample, asked.above, asked.kind, asked.level)
    if question == "rise" and sample.joint:
        return found, QUESTIONS["barrier"](sample, asked.above, "end", asked.level)
    return (found,)


def _answer(asked: Decision, found: tuple[Bounds, ...], sample: Sample) -> Decision:
    if asked.scope == "examples":
        return _of_these(asked, found[0])
    own, *others = (_of_others(asked, bounds, sample.profile, sample) for bounds in found)
    for barrier in others:  # which is a rise, and one that few examples may decide less
        if barrier.answer == "shown" and barrier.lower > own.lower:
            told = {"answer": "shown", "lower": barrier.lower, "reason": barrier.reason}
            own = replace(own, **told, p=min(own.p, barrier.p), examples=None)
    # few and lopsided examples widen bounds, not p: it never says more than the answer does
    agreed = min if own.answer == "shown" else max
    return replace(own, p=agreed(own.p, own.level))


def too_few(units: int) -> str:
    """Why so many examples say nothing of others."""
    examples = "example is" if units == 1 else "examples are"
    return f"{units} independent {examples} too few to speak of others (at least {FEWEST_UNITS})"


def require_asked(above: float, level: float) -> None:
    """Refuse a height or a level that is none.

    Raises:
        InputError: ``above`` is not a finite number of at least 0, or ``level`` does not lie
            between 0 and 0.5.
    """
    if not isinstance(level, Real) or not 0 < level < 0.5:
        msg = f"level must be a number between 0 and 0.5; got {level!r}"
        raise InputError(msg)
    if not isinstance(above, Real) or not 0 <= above < np.inf:
        msg = f"above must be 0 or larger, in the unit of the quantity, and finite; got {above!r}"
        raise InputError(msg)


def threshold_of(profile: Profile, share: float = FLAT) -> float:
    """What counts as a bump: more than a share of the curve's range, and than rounding may do.

    Where nothing was measured there, the range of what was counts. Rounding is the noise floor, and
    at least the last bits of the largest value.
    """
    inside = profile.between(0, 1)
    part = inside if len(inside.alpha) else profile
    finite = part.value[np.isfinite(part.value)]
    extent = float(np.ptp(finite)) if finite.size else 0.0
    floor = float(np.nan_to_num(part.floor).max(initial=0.0))
    return max(share * extent, floor, LAST_BITS * float(np.abs(finite).max(initial=0.0)))


def _unanswerable(profile: Profile, part: Profile, what: str) -> str:
    if what in ("barrier", "nonconvex") and not profile.covers_both_ends:
        return "the line's ends were not measured"
    if len(part.alpha) < 3:
        return _nothing_between(part)
    known = np.isfinite(part.value)
    if known.sum() < 3:
        return _not_finite(part)
    if what == "barrier" and not known[[0, -1]].all():
        return f"{_not_finite(part)}, an end among them"
    return ""


def _nothing_between(part: Profile) -> str:
    count = len(part.alpha)
    if not count:
        return "no point between the line's ends was measured"
    return (
        "a single point has nothing beside it"
        if count == 1
        else "2 points have nothing between them"
    )


def _finite(part: Profile) -> Profile:
    """The points at which the curve is finite: what they show is shown, whatever the others are."""
    return part.part(np.isfinite(part.value))


def _not_finite(part: Profile) -> str:
    values = part.value[part.is_measured]
    lost = int((~np.isfinite(values)).sum())
    if not lost and not np.isfinite(part.value).all():
        return "what lies between the points is not finite"
    return f"{lost} of {len(values)} points are not finite" if lost else ""


def _with_the_rest(found: Decision, part: Profile) -> Decision:
    """An answer from the finite points, where the others may hold anything: nothing is excluded."""
    lost = _not_finite(part)
    if not lost:
        return found
    if found.answer == "shown":
        return replace(found, upper=np.inf, reason=f"{found.reason}; {lost}")
    return replace(found, answer="undecided", upper=np.inf, reason=lost, examples=None)


def _of_these(asked: Decision, found: Bounds) -> Decision:
    lower, upper = min(found.certain_lower, found.value), found.certain_upper
    told = replace(asked, value=found.value, lower=lower, upper=upper, at=found.at)
    if lower > asked.above:
        return replace(
            told, answer="shown", reason="on these examples, beyond rounding and interpolation"
        )
    if upper <= asked.above:
        return replace(
            told, answer="excluded", reason="on these examples, beyond rounding and interpolation"
        )
    return replace(told, reason=_interpolation(upper))


def _interpolation(upper: float) -> str:
    if np.isinf(upper):
        return "a part of the curve did not resolve"
    return "what interpolation or rounding may do is larger than the difference"


def _of_others(asked: Decision, found: Bounds, profile: Profile, sample: Sample) -> Decision:
    told = replace(
        asked, value=found.value, lower=found.lower, upper=found.upper, at=found.at, p=found.p
    )
    unbounded = replace(told, lower=-np.inf, upper=np.inf, p=1.0)
    if profile.units < FEWEST_UNITS:
        return replace(unbounded, reason=too_few(profile.units), examples=FEWEST_UNITS)
    if not sample.is_uncertain:
        return replace(unbounded, reason="the standard error over examples is not known")
    skew = worse_skew(abs(found.skew), sample.lopsided)
    told = replace(told, **_honest(found, profile, skew, asked.level))
    if told.lower > asked.above:
        return replace(
            told, answer="shown", reason=f"the lower bound is above {number(asked.above)}"
        )
    if told.upper <= asked.above:
        return replace(
            told, answer="excluded", reason=f"the upper bound is below {number(asked.above)}"
        )
    would_decide = found.lower > asked.above or found.upper <= asked.above
    lost_by_skewness = np.isfinite(found.upper) and np.isinf(told.upper)
    if would_decide or lost_by_skewness:
        lopsided = f"a few examples decide the difference (skewness {skew:.2g} of its mean)"
        needed = _for_skewness(profile, found, skew, asked.above)
        return _with_more(replace(told, reason=lopsided), needed, profile.units)
    # a share is rounded to whole examples, which more examples mend
    rounded = profile.is_share and not sample.profile.misfit.any()
    if not rounded and found.certain_lower <= asked.above < found.certain_upper:
        return replace(told, reason=_interpolation(found.certain_upper))
    needed = _for_precision(profile, found, asked.above, 1.0)
    return _with_more(replace(told, reason="the bounds lie on both sides"), needed, profile.units)


def _with_more(told: Decision, needed: float, units: int) -> Decision:
    """An undecided answer with the number of examples that would decide, or that none will."""
    reason, examples = with_more(told.reason, needed, units)
    return replace(told, reason=reason, examples=examples)


def with_more(reason: str, needed: float, units: int) -> tuple[str, int | None]:
    """Why something is undecided, and how many examples would decide; or that hardly any will.

    Args:
        reason: why.
        needed: about how many examples would decide.
        units: how many independent ones there are.
    """
    if needed <= _HOPELESS * units:
        return reason, rounded_up(needed)
    return f"{reason}; {HOPELESS}", None


def _honest(found: Bounds, profile: Profile, skew: float, level: float) -> dict[str, float]:
    """The bounds, wider where few examples decide; no height below 0 unless bounded so."""
    wide = widened(found.times, skew)
    least = min(found.lower, 0.0)
    # no mean of zeros and ones is above another by more than 1
    most = 1.0 if profile.is_share else np.inf
    if np.isfinite(wide):
        lower = found.value - wide * (found.value - found.lower)
        upper = found.value + wide * (found.upper - found.value)
        return {"lower": max(lower, least), "upper": min(upper, most)}
    bounded = profile.is_share and not profile.clustered and np.isfinite(found.upper)
    margin = _bernstein(found, profile, level) if bounded else np.inf
    return {
        "lower": max(found.value - margin, least),
        "upper": min(max(found.value + margin, found.upper), most),
    }


def _bernstein(found: Bounds, profile: Profile, level: float) -> float:
    """What no difference of a 0-1 quantity exceeds, however lopsided.

    It is a mean of numbers in [−1, 1].

    References:
        Maurer and Pontil 2009, theorem 4, for every pair of points together.
    """
    pairs = len(profile.alpha) ** 2 / 2
    log = float(np.log(2 * pairs / level))
    return found.widest * (2 * log) ** 0.5 + 14 * log / (3 * max(profile.units - 1, 1))


def widened(times: float, skew: float) -> float:
    """How much wider bounds are where few examples decide: twice what Edgeworth's expansion asks.

    A one-sided bound c standard errors away needs s (2 c² + 1) / 6 more at a skewness s of
    the mean (Johnson 1978); s itself is estimated from few, so that is doubled. Beyond 0.15
    the largest examples decide, and the larger ones that were not drawn are missing: bounds
    grow by exp(12 (s − 0.15)), with which a single difference of log-normal numbers (σ from
    1 to 2.5, 15 to 3,000 examples) is wrong in at most 5 % by simulation; without it, in up
    to 23 %. Beyond ``LOPSIDED`` nothing is said.

    Args:
        times: c, how many standard errors a bound is away.
        skew: s; NaN where it is not known.
    """
    if np.isnan(skew):
        return 1.0
    if abs(skew) >= LOPSIDED or not np.isfinite(times):
        return np.inf
    expansion = 1 + abs(skew) * (2 * times**2 + 1) / (3 * times)
    return expansion * float(np.exp(_STEEP * max(abs(skew) - _FAIR, 0.0)))


def _for_skewness(profile: Profile, found: Bounds, skew: float, above: float) -> float:
    """About how many examples leave so little skewness that the bounds, wider by it, decide."""
    wide = widened(found.times, skew)
    # a skewness falls with the root of their number
    fair = profile.units * (skew / _FAIR) ** 2
    if not np.isfinite(wide):
        return fair
    as_lopsided, as_fair = (
        _for_precision(profile, found, above, of) for of in (wide, widened(found.times, _FAIR))
    )
    return min(as_lopsided, max(as_fair, fair))


def _for_precision(profile: Profile, found: Bounds, above: float, wide: float) -> float:
    """About how many examples would bring the bound to the limit: more than there are, or inf.

    A standard error falls with the root of their number; what a share may hide in flips that were
    not seen, with it.
    """
    gap = abs(found.value - above)
    if not gap or not np.isfinite(found.stderr):
        return np.inf
    needed = max(profile.units * (wide * found.times * found.stderr / gap) ** 2, profile.units + 1)
    if profile.is_share and found.value < above:
        needed = max(needed, profile.units * (found.upper - found.value) / gap)
    return needed


def rounded_up(count: float) -> int:
    """A number of examples to two digits: it is known to no more."""
    unit = 10 ** max(int(np.log10(max(count, 1.0))) - 1, 0)
    return int(np.ceil(count / unit)) * unit


def _draws_for(level: float) -> int:
    # of n draws a p-value has steps of 1/(n + 1): ten of them below the level
    return int(np.clip(round(10 / level) - 1, DRAWS, 4_999))
