"""Soups: which of several points to average, each step decided by measurement."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.measuring.comparison import Comparison, compare
from ravine.measuring.labelling import provenance
from ravine.merging.average import average, require_sequence, task_arithmetic
from ravine.merging.learning import learned_weights
from ravine.metrics.inference import LEVEL
from ravine.objective.measurement import statistics_at
from ravine.objective.objective import Objective
from ravine.objective.replica import running_norms
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import content_hash
from ravine.result.schema import PROVENANCE, SCHEMA_VERSION

Method = Literal["uniform", "greedy", "learned"]
Rule = Literal["decided", "best"]

_TOLERANCE: Final = 0.01  # of the best member's own value


@dataclass(frozen=True)
class Soup(Checkpoint):
    """An average of points, and how it came about.

    Attributes:
        history: what was tried, in order (dim ``step``), and the members' weights (dim ``member``):
            a result without torch, which ``write_report`` and ``save_result`` take. Its attributes
            hold the comparison with the best member on the split that judges.
        weights: of the members that are in it, by name.
        judgement: the soup against the member that is best on the split that selects, on the
            split that judges.
    """

    history: xr.Dataset = field(default_factory=xr.Dataset)
    weights: dict[str, float] = field(default_factory=dict)
    judgement: Comparison | None = None


@dataclass(frozen=True)
class _Step:
    """One thing that was tried, against what there was before it."""

    tried: str
    value: float
    found: Comparison | None
    accepted: bool
    reason: str


@dataclass(frozen=True)
class _Kitchen:
    """What the methods share: the members, best first, and how two points are compared.

    They are compared on the split that selects.
    """

    objective: Objective
    members: dict[str, Checkpoint]
    values: dict[str, float]
    select: str
    tolerance: float
    quantity: str
    level: float
    rule: Rule

    @property
    def best(self) -> str:
        return next(iter(self.members))

    def compared(self, one: Any, other: Any) -> Comparison:
        return compare(
            self.objective,
            one,
            other,
            above=self.tolerance,
            quantity=self.quantity,
            split=self.select,
            level=self.level,
        )

    def accepts(self, found: Comparison) -> tuple[bool, str]:
        """Whether a candidate may stand, and why."""
        if self.rule == "best":
            kept = found.difference <= 0
            return kept, "its mean is no higher" if kept else "its mean is higher"
        above = f"{self.tolerance:.3g}"
        if found.is_no_worse:
            return True, f"worse by more than {above} is excluded"
        if found.answer == "worse":
            return False, f"worse by more than {above}"
        return False, f"worse by more than {above} is not excluded: {found.reason}"


def soup(
    objective: Objective,
    points: Mapping[str, Any] | Sequence[Any],
    *,
    method: Method = "uniform",
    select: str = "valid",
    judge: str = "test",
    tolerance: float | None = None,
    rule: Rule = "decided",
    quantity: str = "loss",
    level: float = LEVEL,
    seed: int = 0,
    title: str | None = None,
    command: str = "",
) -> Soup:
    """An average of some points, chosen on one split and judged on another.

    Args:
        objective: what is measured; less is better. It has both splits.
        points: by name, or a sequence, whose members are called by their labels. Each anything that
            an end of a ``Line`` may be.
        method: ``"uniform"`` averages all. ``"greedy"`` starts from the best member and takes in
            the others one by one, best first, where ``rule`` accepts the average with them.
            ``"learned"`` minimises the loss on ``select`` over the members' weights (which are
            positive and sum to 1), and takes that average under the same rule.
        select: the split on which members are ranked and averages accepted.
        judge: the split on which the outcome is compared with the best member; nothing is
            chosen on it.
        tolerance: how much worse, in the quantity's unit, is not worse. By default a hundredth of
            the best member's value on ``select``.
        rule: ``"decided"`` accepts an average if it is excluded that it is worse by more than
            ``tolerance``; all acceptances together hold at ``level``. ``"best"`` is the published
            rule: the mean on ``select`` is not worse, whatever its error.
        quantity: which of the objective's quantities counts.
        level: of the bounds.
        seed: of the order of the batches, where weights are learned.
        title: what to call the history.
        command: what reproduces it, kept in the history.

    Returns:
        The average as a point, with its history. Under ``buffers="recompute"`` it has the running
        statistics that were estimated for it.

    Raises:
        InputError: fewer than two points, no such split, method or rule, or selecting and judging
            on one split.

    Examples:
        Four points on a line through the minimum of (w − x)²; the two far ones would
        spoil the average.

        >>> import torch
        >>> from torch import nn
        >>> from torch.nn import functional as F
        >>> from ravine import supervised
        >>> x = torch.linspace(-1, 1, 60)[:, None]
        >>> data = {"valid": (torch.ones(60, 1), x), "test": (torch.ones(60, 1), 0.9 * x)}
        >>> J = Objective(nn.Linear(1, 1, bias=False), supervised(F.mse_loss), data)
        >>> points = {f"w = {w}": {"weight": torch.tensor([[w]])} for w in (-0.5, 0.4, 3.0, 5.0)}
        >>> found = soup(J, points, method="greedy")
        >>> found.weights
        {'w = 0.4': 0.5, 'w = -0.5': 0.5}
        >>> [bool(kept) for kept in found.history["accepted"]]
        [True, True, False, False]

    References:
        Wortsman et al. 2022 (model soups), whose recipe is ``rule="best"``.
    """
    began = time.perf_counter()
    _require(objective, method, rule, select, judge)
    members = _members(objective, points)
    kitchen = _ranked(objective, members, select, tolerance, quantity, level, rule)
    shares, steps = _cooked(kitchen, method, seed)
    made = _averaged(kitchen.members, shares)
    judged = compare(
        objective.on(judge),
        kitchen.members[kitchen.best],
        made,
        above=kitchen.tolerance,
        quantity=quantity,
        split=judge,
        level=level,
    )
    if objective.buffers == "recompute":  # what was judged is what is written
        made = {**made, **statistics_at(objective, Checkpoint.read(made))}
    about = {"method": method, "rule": rule, "select": select, "judge": judge, "level": level}
    point = replace(Checkpoint.read(made), label=f"soup of {len(shares)}", versions={})
    about |= _source(objective, point, title or "A soup", command, began)
    history = _history(kitchen, shares, steps, judged, about)
    return _soup(point, history, shares, judged)


def task_soup(
    objective: Objective,
    base: Any,
    points: Mapping[str, Any] | Sequence[Any],
    *,
    scales: Sequence[float],
    select: str = "valid",
    judge: str = "test",
    quantity: str = "loss",
    level: float = LEVEL,
) -> Soup:
    """A base plus a multiple of its fine-tuned copies' changes.

    The multiple is chosen on one split, and judged on another.

    Args:
        objective: as in ``soup``.
        base: what the points were fine-tuned from.
        points: the fine-tuned copies.
        scales: the multiples to try, λ in base + λ Σ (θᵢ − base).
        select: the split on which λ is chosen.
        judge: the split on which the outcome is compared with the base.
        quantity: which of the objective's quantities counts.
        level: of the bounds.

    Returns:
        The point at the best λ, with one step of history for each λ.

    Raises:
        InputError: as ``soup``, or no scale.

    References:
        Ilharco et al. 2023 (task arithmetic).
    """
    began = time.perf_counter()
    _require(objective, "greedy", "best", select, judge)
    if isinstance(scales, str) or not len(scales) or not all(map(_is_number, scales)):
        msg = f"scales must be the multiples to try, such as [0.1, 0.2, 0.3]; got {scales!r}"
        raise InputError(msg)
    named = _members(objective, points, least=1)
    origin = matched(Checkpoint.read(objective.model), Checkpoint.read(base))
    fitted = list(named.values())
    candidates = {
        f"scale {scale:g}": Checkpoint.read(task_arithmetic(origin, fitted, float(scale)))
        for scale in scales
    }
    kitchen = _ranked(objective, candidates, select, 0.0, quantity, level, "best")
    steps = [
        _Step(
            name,
            kitchen.values[name],
            None,
            name == kitchen.best,
            "lowest mean" if name == kitchen.best else "",
        )
        for name in candidates
    ]
    made = kitchen.members[kitchen.best]
    judged = compare(objective.on(judge), origin, made, quantity=quantity, split=judge, level=level)
    about = {"method": "task arithmetic", "rule": "best", "select": select, "judge": judge}
    point = replace(made, label=f"{origin.label} + task vectors, {kitchen.best}", versions={})
    about |= _source(objective, point, "Task vectors", "", began)
    history = _history(kitchen, {kitchen.best: 1.0}, steps, judged, about)
    return _soup(point, history, {kitchen.best: 1.0}, judged)


def _is_number(value: Any) -> bool:
    return not isinstance(value, str) and math.isfinite(float(value))


def _soup(
    point: Checkpoint, history: xr.Dataset, shares: dict[str, float], judged: Comparison
) -> Soup:
    held = {name: getattr(point, name) for name in Checkpoint.__dataclass_fields__}
    return Soup(**held, history=history, weights=shares, judgement=judged)


def _require(objective: Objective, method: str, rule: str, select: str, judge: str) -> None:
    if method not in get_args(Method):
        msg = f"method must be one of {', '.join(map(repr, get_args(Method)))}; got {method!r}"
        raise InputError(msg)
    if rule not in get_args(Rule):
        msg = f"rule must be 'decided' or 'best'; got {rule!r}"
        raise InputError(msg)
    if select == judge:
        msg = (
            f"select and judge are both {select!r}: what was chosen on a split looks better there "
            "than it is. Give the objective two splits."
        )
        raise InputError(msg)
    one, other = objective.on(select, judge).splits[-2:]
    if objective.check_data and len(one) == len(other) and one.holds_the_same_as(other):
        msg = (
            f"the splits {select!r} and {judge!r} hold the same examples: what was chosen on them "
            "looks better there than it is. Judge on others."
        )
        raise InputError(msg)
    if method == "learned" and (running_norms(objective.model) or objective.is_stateful):
        msg = (
            "method='learned' needs a model without running statistics and a loss without state: "
            "their values follow no gradient. Use method='greedy'."
        )
        raise InputError(msg)


def _members(
    objective: Objective, points: Mapping[str, Any] | Sequence[Any], least: int = 2
) -> dict[str, Checkpoint]:
    """The points under the model's names."""
    is_named = isinstance(points, Mapping)
    if not is_named:
        require_sequence(points)
    if len(points) < least:
        msg = f"a soup needs {least} points or more; got {len(points)}"
        raise InputError(msg)
    own = Checkpoint.read(objective.model)
    if is_named:
        return {str(name): matched(own, _named(str(name), one)) for name, one in points.items()}
    read = [matched(own, Checkpoint.read(one)) for one in points]
    labels = [one.label for one in read]
    if len(set(labels)) < len(labels):
        labels = [f"{number}: {label}" for number, label in enumerate(labels, 1)]
    return dict(zip(labels, read, strict=True))


def _named(name: str, point: Any) -> Checkpoint:
    """A point that says which member it is when something is wrong with it."""
    read = Checkpoint.read(point)
    return read if read.label == name else replace(read, label=f"{name} ({read.label})")


def _ranked(
    objective: Objective,
    members: dict[str, Checkpoint],
    select: str,
    tolerance: float | None,
    quantity: str,
    level: float,
    rule: Rule,
) -> _Kitchen:
    """The members from best to worst on the split that selects, all measured in one pass."""
    corners = list(members.values())
    single = np.eye(len(corners))
    selecting = objective.on(select)
    measured = selecting.measure(corners, [tuple(row) for row in single.tolist()])
    known = measured.moments[select]
    if quantity not in known:
        msg = f"the objective has the quantities {list(known)}; got {quantity!r}"
        raise InputError(msg)
    means = dict(zip(members, map(float, known[quantity].mean), strict=True))
    # NaN compares with nothing: a member without a mean comes last
    order = sorted(members, key=lambda name: (np.isnan(means[name]), means[name]))
    chosen = _TOLERANCE * abs(means[order[0]]) if tolerance is None else float(tolerance)
    return _Kitchen(
        objective=selecting,
        members={name: members[name] for name in order},
        values={name: means[name] for name in order},
        select=select,
        tolerance=chosen,
        quantity=quantity,
        # so that all acceptances hold together; twice, as each looks at one end of an interval
        # of two
        level=2 * level / max(len(members) - 1, 1),
        rule=rule,
    )


def _cooked(kitchen: _Kitchen, method: Method, seed: int) -> tuple[dict[str, float], list[_Step]]:
    """The members' weights, and what was tried."""
    first = _Step(
        kitchen.best, kitchen.values[kitchen.best], None, accepted=True, reason="the best member"
    )
    if method == "greedy":
        return _greedy(kitchen, first)
    names = list(kitchen.members)
    if method == "uniform":
        shares, tried = {name: 1 / len(names) for name in names}, "the mean of all"
    else:
        found = learned_weights(
            kitchen.objective,
            list(kitchen.members.values()),
            kitchen.select,
            kitchen.quantity,
            seed,
        )
        shares, tried = dict(zip(names, found, strict=True)), "learned weights"
    made = _averaged(kitchen.members, shares)
    against = kitchen.compared(kitchen.members[kitchen.best], made)
    accepted, reason = kitchen.accepts(against)
    value = kitchen.values[kitchen.best] + against.difference
    if method == "uniform":
        accepted, reason = True, f"asked for ({reason})"
    step = _Step(tried, value, against, accepted, reason)
    return (shares if accepted else {kitchen.best: 1.0}), [first, step]


def _greedy(kitchen: _Kitchen, first: _Step) -> tuple[dict[str, float], list[_Step]]:
    """Members taken in one by one, the best first."""
    taken, steps = [kitchen.best], [first]
    made: Any = kitchen.members[kitchen.best]
    value = kitchen.values[kitchen.best]
    for name in list(kitchen.members)[1:]:
        candidate = average([kitchen.members[one] for one in (*taken, name)])
        found = kitchen.compared(made, candidate)
        accepted, reason = kitchen.accepts(found)
        steps.append(_Step(name, value + found.difference, found, accepted, reason))
        if accepted:
            taken.append(name)
            made, value = candidate, value + found.difference
    return {name: 1 / len(taken) for name in taken}, steps


def _of_steps(steps: Sequence[_Step], name: str) -> list[float]:
    """A number of the comparison at each step; NaN where nothing was compared."""
    nothing = float("nan")
    return [nothing if step.found is None else getattr(step.found, name) for step in steps]


def _meaning(kitchen: _Kitchen) -> dict[str, str]:
    """What the values are, in words and with their unit."""
    unit = kitchen.objective.units.get(kitchen.quantity, "")
    return {"long_name": kitchen.quantity, "units": unit}


def _source(
    objective: Objective, point: Checkpoint, title: str, command: str, began: float
) -> dict[str, Any]:
    """Where a history comes from, as in every result."""
    return {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        **dict.fromkeys(PROVENANCE, ""),
        **objective.describe(),
        "point_hash": content_hash(point.tensors),
        **provenance(command, time.perf_counter() - began),
    }


def _averaged(members: Mapping[str, Checkpoint], shares: Mapping[str, float]) -> Any:
    return average([members[name] for name in shares], list(shares.values()))


def _history(
    kitchen: _Kitchen,
    shares: Mapping[str, float],
    steps: Sequence[_Step],
    judged: Comparison,
    about: Mapping[str, Any],
) -> xr.Dataset:
    """What was tried, as labelled arrays."""
    changes = {name: _of_steps(steps, name) for name in ("difference", "stderr", "lower", "upper")}
    names = list(kitchen.members)
    return xr.Dataset(
        {
            "value": ("step", [step.value for step in steps], _meaning(kitchen)),
            **{name: ("step", values) for name, values in changes.items()},
            "accepted": ("step", [step.accepted for step in steps]),
            "reason": ("step", np.array([step.reason for step in steps], dtype=np.str_)),
            "member_value": ("member", [kitchen.values[name] for name in names]),
            "weight": ("member", [shares.get(name, 0.0) for name in names]),
            "member_hash": ("member", [content_hash(kitchen.members[n].tensors) for n in names]),
        },
        {
            "step": np.array([step.tried for step in steps], dtype=np.str_),
            "member": np.array(names, dtype=np.str_),
        },
        {
            **about,
            "quantity": kitchen.quantity,
            "tolerance": kitchen.tolerance,
            "judged_answer": judged.answer,
            "judged_reason": judged.reason,
            "judged_difference": judged.difference,
            "judged_stderr": judged.stderr,
            "judged_lower": judged.lower,
            "judged_upper": judged.upper,
        },
    )
