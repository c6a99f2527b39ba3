"""Comparison: two points, measured on the same examples, and whether one is better."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from ravine.errors import InputError
from ravine.metrics.inference import FEWEST_UNITS, LEVEL, LOPSIDED
from ravine.objective.moments import Moments
from ravine.objective.objective import Objective
from ravine.points.checkpoint import Checkpoint
from ravine.store.ledger import ledger_at


@dataclass(frozen=True)
class Comparison:
    """The difference J(b) − J(a), paired: both points saw the same examples.

    Attributes:
        answer: "better" or "worse", of b; "tied", where a difference of more than ``above`` is excluded; else
            "undecided".
        reason: in a few words.
        difference: J(b) − J(a) on these examples, in the quantity's unit; less is better.
        stderr: its standard error.
        lower: one-sided bound at ``level``.
        upper: one-sided bound at ``level``.
        p: two-sided, of no difference.
        above: differences up to this are none.
        examples: about how many would decide; None where none are needed.
        is_no_worse: whether b being worse by more than ``above`` is excluded.
        quantity: which quantity.
        split: which split.
        level: of each bound.
    """

    answer: Literal["better", "worse", "tied", "undecided"]
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
) -> Comparison:
    """Whether b is better than a: the paired difference of two points.

    Args:
        objective: what is measured; less is better.
        a: a point, in any of the forms that an end of a ``Line`` may take.
        b: another.
        above: differences up to this, in the quantity's unit, are none.
        quantity: of what.
        split: by default the first.
        level: of each one-sided bound.
        store: as in ``evaluate``.
        fresh: likewise.

    Returns:
        The comparison.

    Raises:
        InputError: a point does not fit the model, or there is no such quantity or split.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x = torch.linspace(-1, 1, 40)[:, None]
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss), (x, 2 * x))
        >>> found = compare(J, {"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> found.answer, round(found.difference, 3)  # 3 ∫ x² over the examples less than before
        ('better', -1.051)
    """
    points = [Checkpoint.read(point) for point in (a, b)]
    with ledger_at(store, fresh=fresh) as ledger:
        measured = objective.measure(points, [(1.0, 0.0), (0.0, 1.0)], store=ledger)
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
    stderr = float(np.sqrt((moved**2).sum()))
    freedom = max(units - 1, 1)
    margin = float(stats.t.isf(level, freedom)) * stderr
    skew = float((moved**3).sum()) / stderr**3 if stderr else 0.0
    times = float(stats.t.isf(level, freedom))
    margin *= 1 + abs(skew) * (2 * times**2 + 1) / (3 * times)  # as for decisions
    if moments.counted:  # no flip seen is not no flip
        margin = max(margin, -float(np.log(level)) / max(units, 1))
    lower, upper = difference - margin, difference + margin
    away = abs(difference) / stderr if stderr else np.inf if difference else 0.0
    answer, reason, examples = "undecided", "the bounds lie on both sides", None
    can_speak = np.isfinite(difference) and units >= FEWEST_UNITS and not abs(skew) >= LOPSIDED
    if not np.isfinite(difference):
        reason = "a point is not finite"
    elif units < FEWEST_UNITS:
        reason = (
            f"{units} independent examples are too few to speak of others (at least {FEWEST_UNITS})"
        )
        examples = FEWEST_UNITS
    elif abs(skew) >= LOPSIDED:
        reason = f"a few examples decide the difference (skewness {skew:.2g} of its mean)"
        examples = int(np.ceil(units * (skew / LOPSIDED) ** 2))
    elif upper < -above:
        answer, reason = "better", "the upper bound is below it"
    elif lower > above:
        answer, reason = "worse", "the lower bound is above it"
    elif max(-lower, upper) <= above:
        answer, reason = "tied", f"a difference of more than {above:g} is excluded"
    elif abs(difference) != above:
        examples = int(np.ceil(units * (margin / (abs(difference) - above)) ** 2))
    return Comparison(
        answer=answer,
        reason=reason,
        difference=difference,
        stderr=stderr,
        lower=lower,
        upper=upper,
        p=float(2 * stats.t.sf(away, freedom)),
        above=above,
        examples=examples,
        is_no_worse=bool(can_speak and upper <= above),
        quantity=quantity,
        split=split,
        level=level,
    )
