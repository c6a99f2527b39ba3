"""Decisions: one question asked of a result, and its answer."""

from __future__ import annotations

from typing import Any, get_args

import xarray as xr

from ravine.errors import InputError
from ravine.metrics.inference import LEVEL, Decision, Scope, What, decided, require_asked
from ravine.metrics.obstacles import BARRIERS
from ravine.metrics.profile import Profile
from ravine.result.schema import kind_of, lines_of, validate


def decide(
    result: xr.Dataset | Profile,
    what: What,
    *,
    above: float | None = None,
    kind: str = "end",
    quantity: str = "loss",
    split: str | None = None,
    level: float = LEVEL,
    scope: Scope = "population",
) -> Any:
    """Whether a line has a barrier, a rise, a minimum or a bend: shown, excluded or undecided.

    Every difference between two points is divided by its own paired standard error, and bounded by
    the largest such quotient that centred replicates of the whole curve have. So at most ``level``
    of curves in which there is nothing are told otherwise, however many points they have.

    Args:
        result: of a line, or of several; or a ``Profile``, a part of a line, say, with a quantity
            and a split of its own.
        what: ``"barrier"``: between the ends, above both (or by ``kind`` above their mean or
            chord);
            ``"rise"``: anywhere in [0, 1], from a point to a later one;
            ``"minimum"``: a point of the measured interval that is below one on either side;
            ``"nonconvex"``: a point of [0, 1] above the chord of two others.
        above: the height that is asked about, in the quantity's unit; by default a thousandth of
            the curve's range over [0, 1], or the noise floor where that is larger.
        kind: which barrier: "end", "mean" or "chord".
        quantity: of what.
        split: by default the first.
        level: the largest share of wrong answers, for each of *shown* and *excluded*.
        scope: "population": of other examples drawn like these. "examples": of these alone, where
            only rounding and interpolation leave anything open.

    Returns:
        A ``Decision``; of several lines one by name, adjusted by Holm's method so that the level
        holds for all of them together.

    Raises:
        InputError: a plane or a path, or no such question, kind, quantity, split, scope or level.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> double_well = lambda model, batch: ((model(batch[0]) ** 2 - 1) ** 2).flatten()
        >>> J = ravine.Objective(model, double_well, (torch.ones(12, 1),), dtype=torch.float64)
        >>> start, end = {"weight": torch.tensor([[-1.0]])}, {"weight": torch.tensor([[1.0]])}
        >>> line = ravine.Line(start, end)
        >>> found = decide(ravine.resolve(J, along=line), "barrier", above=0.5)
        >>> found.answer, round(found.value, 6), round(found.at, 6)
        ('shown', 1.0, 0.5)

    References:
        Holm 1979; Chernozhukov, Chetverikov and Kato 2013 (suprema of studentised
        sums); McCarthy 1969.
    """
    _require("what", what, get_args(What))
    _require("kind", kind, tuple(BARRIERS))
    _require("scope", scope, get_args(Scope))
    require_asked(0.0 if above is None else above, level)
    asked: dict[str, Any] = {"above": above, "kind": kind, "scope": scope}
    if isinstance(result, Profile):
        return decided(result, what, level=level, **asked)
    found = kind_of(validate(result))
    if found in ("plane", "path"):
        msg = (
            f"decide() is for lines; this result is of a {found}. Measure a Line between two of "
            "its points."
        )
        raise InputError(msg)
    if found == "line":
        return decided(Profile.of(result, quantity, split), what, level=level, **asked)
    profiles = {name: Profile.of(line, quantity, split) for name, line in lines_of(result).items()}
    return _together(profiles, what, level, asked)


def _together(
    profiles: dict[str, Profile], what: What, level: float, asked: dict[str, Any]
) -> dict[str, Decision]:
    """Holm's method: the surest line is asked at level/m, the next at level/(m − 1), and so on.

    It stops at the first that is undecided.
    """
    alone = {
        name: decided(profile, what, level=level, joint=False, **asked)
        for name, profile in profiles.items()
    }
    found: dict[str, Decision] = {}
    share = level / len(profiles)
    left = sorted(alone, key=lambda name: _surety(alone[name]))
    for done, name in enumerate(left):
        share = level / (len(profiles) - done)
        found[name] = decided(profiles[name], what, level=share, joint=False, **asked)
        if found[name].answer == "undecided":
            break
    for name in left[len(found) :]:
        found[name] = decided(profiles[name], what, level=share, joint=False, **asked)
    return {name: found[name] for name in profiles}


def _surety(decision: Decision) -> float:
    """Small for a sure answer, either way."""
    if decision.answer == "undecided":
        return 1.0
    width = max(decision.upper - decision.lower, 1e-300)  # bounds that coincide are the surest
    away = decision.lower if decision.answer == "shown" else decision.upper
    return 1 / (1 + abs(away - decision.above) / width)


def _require(what: str, value: object, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        msg = f"{what} must be one of {', '.join(map(repr, choices))}; got {value!r}"
        raise InputError(msg)
