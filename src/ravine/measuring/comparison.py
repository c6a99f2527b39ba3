"""Comparison: two points, measured on the same examples, and whether one is better."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from ravine.errors import InputError
from ravine.metrics.bounds import harm
from ravine.metrics.inference import (
    FEWEST_UNITS,
    LEVEL,
    LOPSIDED,
    require_asked,
    rounded_up,
    too_few,
    widened,
    with_more,
)
from ravine.metrics.profile import minus
from ravine.objective.moments import Moments
from ravine.objective.objective import Objective
from ravine.points.checkpoint import Checkpoint
from ravine.store.executors import workers_of
from ravine.store.ledger import ledger_at

Answer = Literal["better", "worse", "tied", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """The difference J(b) − J(a), paired: both points saw the same examples.

    Attributes:
        answer: "better" or "worse", of b; "tied", where a difference of more than ``above`` is
            excluded; else "undecided".
        reason: in a few words.
        difference: J(b) − J(a) on these examples, in the quantity's unit; less is better.
        stderr: its standard error.
        lower: the interval's lower end: the difference lies below it in at most half of ``level``.
        upper: its upper end.
        p: two-sided, of no difference; 1 where the interval is unbounded.
        above: differences up to this are none.
        examples: about how many would decide; None where none are needed, or hardly any would.
        is_no_worse: whether b being worse by more than ``above`` is excluded.
        quantity: which quantity.
        split: which split.
        level: of the interval: both of its ends together.
    """

    answer: Answer
    reason: str
    difference: float
    stderr: float
    lower: float
    upper: float
    p: float
    above: float
    examples: int | None
    is_no_worse: bool
    quantity: str
    split: str
    level: float


def compare(
    objective: Objective,
    a: Any,
    b: Any,
    *,
    above: float = 0.0,
    quantity: str = "loss",
    split: str | None = None,
    level: float = LEVEL,
    store: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    executor: Any = None,
) -> Comparison:
    """Whether b is better than a: the paired difference of two points.

    Args:
        objective: what is measured; less is better.
        a: a point, in any of the forms that an end of a ``Line`` may take.
        b: another.
        above: differences up to this, in the quantity's unit, are none.
        quantity: of what.
        split: by default the first.
        level: the largest share of wrong answers: the interval is two-sided, half of it
            at either end.
        store: as in ``evaluate``.
        fresh: likewise.
        executor: likewise.

    Returns:
        The comparison.

    Raises:
        InputError: a point does not fit the model, there is no such quantity or split, ``above`` is
            negative or not finite, or ``level`` does not lie between 0 and 0.5.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.linspace(-1, 1, 40)[:, None]
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss), (x, 2 * x))
        >>> found = compare(J, {"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> found.answer, round(found.difference, 3)  # 3 ∫ x² over the examples less than before
        ('better', -1.051)
    """
    require_asked(above, level)
    points = [Checkpoint.read(point) for point in (a, b)]
    with ledger_at(store, fresh=fresh) as ledger, workers_of(executor) as crew:
        ends = [(1.0, 0.0), (0.0, 1.0)]
        measured = objective.measure(points, ends, store=ledger, crew=crew)
    chosen = next(iter(measured.moments)) if split is None else split
    known = {name: list(found) for name, found in measured.moments.items()}
    if chosen not in known or quantity not in known[chosen]:
        msg = f"the objective has the quantities {known}; got {quantity!r} on {chosen!r}"
        raise InputError(msg)
    moments, units = measured.moments[chosen][quantity], measured.units[chosen]
    return _compared(moments, units, above, quantity, chosen, level)


def _compared(
    moments: Moments, units: int, above: float, quantity: str, split: str, level: float
) -> Comparison:
    difference = float(moments.mean[1] - moments.mean[0])
    moved = moments.deviations[1] - moments.deviations[0]
    interval = _Interval(moved, units, moments, level / 2)
    below, above_it = interval.margin_towards(-1), interval.margin_towards(1)
    lower, upper = difference - below, difference + above_it
    if moments.is_share:  # two shares differ by 1 at most
        lower, upper = max(lower, -1.0), min(upper, 1.0)
    answer, reason, examples = "undecided", interval.problem, interval.examples
    if not np.isfinite(difference):
        lower, upper = -np.inf, np.inf
        reason, examples = "a point is not finite", None
    elif np.isfinite(max(below, above_it)):
        answer, reason = _answer(lower, upper, above)
        examples = None
        if answer == "undecided":
            gap = abs(abs(difference) - above)
            needed = interval.needed(gap) if gap else np.inf
            reason, examples = with_more(reason, needed, interval.units)
    return Comparison(
        answer=answer,
        reason=reason,
        difference=difference,
        stderr=interval.stderr,
        lower=lower,
        upper=upper,
        p=interval.p(difference),
        above=above,
        examples=examples,
        is_no_worse=bool(upper <= above),
        quantity=quantity,
        split=split,
        level=level,
    )


def _answer(lower: float, upper: float, above: float) -> tuple[Answer, str]:
    """What an interval says of differences beyond ±above, and why."""
    least, most = (minus(f"{end:.3g}") for end in (-above + 0.0, above))
    if upper < -above:
        return "better", f"the interval lies below {least}"
    if lower > above:
        return "worse", f"the interval lies above {most}"
    if -above <= lower and upper <= above:
        return "tied", f"the interval lies within ±{most}"
    crossed = [text for text, end in ((least, -above), (most, above)) if lower <= end <= upper]
    return "undecided", f"the interval reaches across {' and '.join(dict.fromkeys(crossed))}"


@dataclass(frozen=True)
class _Interval:
    """How far a mean difference may lie from what was read, to either side.

    Attributes:
        moved: (groups,) what each random group adds to its error.
        units: independent examples.
        moments: of both points.
        tail: the share of draws in which each end may be passed.
    """

    moved: np.ndarray
    units: int
    moments: Moments
    tail: float

    @property
    def stderr(self) -> float:
        return float(np.sqrt((self.moved**2).sum()))

    @property
    def skew(self) -> float:
        """Of the mean difference."""
        return float((self.moved**3).sum()) / self.stderr**3 if self.stderr else 0.0

    @property
    def freedom(self) -> int:
        """Degrees of freedom: the units, less one for the mean of each stratum."""
        return max(self.units - len(self.moments.strata), 1)

    @property
    def margin(self) -> float:
        """How far, to the side where that is more; infinite where nobody knows."""
        return max(self.margin_towards(-1), self.margin_towards(1))

    def margin_towards(self, side: int) -> float:
        """How far to one side, −1 below and 1 above.

        A tail to that side hides what would move the mean there.
        """
        if self.units < FEWEST_UNITS or not np.isfinite(self.stderr):
            return np.inf
        times = float(stats.t.isf(self.tail, self.freedom))
        wide = widened(times, harm(self.skew, below=side < 0))
        if not self.moments.is_share:
            return times * self.stderr * wide if np.isfinite(wide) else np.inf
        if not np.isfinite(wide):
            return np.inf if self.moments.clustered else self._bernstein
        unseen = -float(np.log(self.tail)) / self.units  # no flip seen is not no flip
        return max(times * self.stderr * wide, unseen)

    @property
    def _bernstein(self) -> float:
        """What no mean of numbers in [−1, 1] exceeds, however lopsided.

        References:
            Maurer and Pontil 2009, theorem 4.
        """
        log = float(np.log(2 / self.tail))
        return self.stderr * (2 * log) ** 0.5 + 14 * log / (3 * (self.units - 1))

    @property
    def problem(self) -> str:
        """Why there is no margin."""
        if self.units < FEWEST_UNITS:
            return too_few(self.units)
        if not np.isfinite(self.stderr):
            return "the standard error over examples is not known"
        return f"a few examples decide the difference (skewness {self.skew:.2g} of its mean)"

    @property
    def examples(self) -> int | None:
        """About how many would have a margin."""
        if self.units < FEWEST_UNITS:
            return FEWEST_UNITS
        if not np.isfinite(self.stderr):
            return None
        return rounded_up(self.units * (self.skew / LOPSIDED) ** 2)

    def needed(self, gap: float) -> float:
        """About how many examples bring the interval within a distance.

        What is not seen falls with their number alone.
        """
        share = self.margin / gap
        return max(self.units * share**2, self.units + 1)

    def p(self, difference: float) -> float:
        """Two-sided, of no difference; 1 where nothing is known, 0 where all examples agree."""
        if not np.isfinite(self.margin) or not np.isfinite(difference):
            return 1.0
        if not self.stderr:
            return float(difference == 0)
        wide = max(self.margin / (float(stats.t.isf(self.tail, self.freedom)) * self.stderr), 1.0)
        return float(2 * stats.t.sf(abs(difference) / (wide * self.stderr), self.freedom))
