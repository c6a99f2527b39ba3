"""Families of lines with ends in common: all pairs, two runs by step, one group at a time."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, get_args

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import same_values
from ravine.points.slices import Line
from ravine.points.trajectory import Trajectory

Hold = Literal["start", "end"]

_BETWEEN: Final = " – "


def pairs(points: Mapping[str, Any] | Sequence[Any]) -> dict[str, Line]:
    """The lines between all pairs of some points, by name: "a – b".

    ``evaluate(J, along=pairs(points), at=…)`` measures them in one pass over the data, and
    ``metrics.barriers`` reads the checkpoint × checkpoint matrix from the result.

    Args:
        points: two or more, by name; or a sequence of them, which are called by their file names.
            Each anything that an end of a ``Line`` may be.

    Returns:
        Name → line.

    Raises:
        InputError: fewer than two points, or they are not of one space.

    Examples:
        >>> import torch
        >>> values = {"a": 0.0, "b": 1.0, "c": -1.0}
        >>> points = {name: {"w": torch.tensor([value])} for name, value in values.items()}
        >>> list(pairs(points))
        ['a – b', 'a – c', 'b – c']
    """
    named = {name: Checkpoint.read(point) for name, point in _named(points).items()}
    if len(named) < 2:
        msg = f"a comparison needs two points or more; got {len(named)}"
        raise InputError(msg)
    first = next(iter(named.values()))
    held = {name: replace(matched(first, point), label=name) for name, point in named.items()}
    return {
        f"{one}{_BETWEEN}{other}": Line(held[one], held[other])
        for one, other in itertools.combinations(held, 2)
    }


def _named(points: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(points, Mapping):
        return {str(name): point for name, point in points.items()}
    labels = [Checkpoint.read(point).label for point in points]
    short = [label.replace("\\", "/").rstrip("/").rpartition("/")[2] for label in labels]
    chosen = short if len(set(short)) == len(short) else labels
    if len(set(chosen)) < len(chosen):
        chosen = [f"{number}: {label}" for number, label in enumerate(chosen, 1)]
    return dict(zip(chosen, points, strict=True))


def between_runs(one: Any, other: Any) -> dict[str, Line]:
    """The lines between two runs at every step that both recorded, by step.

    Two runs that were branched off one at step k, with other data orders, are linearly connected
    from the step on at which training has become stable to that noise; their barrier against the
    step is the instability curve.

    Args:
        one: a ``Trajectory`` or the folder of one.
        other: another.

    Returns:
        Step → line, from ``one`` to ``other``. Steps at which they are the same point, as where
        they branch, are left out.

    Raises:
        InputError: no such run, or no step in common at which they differ.

    References:
        Frankle et al. 2020, section 2.
    """
    runs = [run if isinstance(run, Trajectory) else Trajectory.open(run) for run in (one, other)]
    common = sorted(set(runs[0].steps) & set(runs[1].steps))
    lines: dict[str, Line] = {}
    for step in common:
        line = Line(*(run[run.steps.index(step)] for run in runs))
        if _moving(line):
            lines[str(step)] = line
    if not lines:
        what = (
            f"are the same at all of their {len(common)} common steps"
            if common
            else "have no step in common"
        )
        msg = (
            f"the runs in {str(runs[0].folder)!r} and {str(runs[1].folder)!r} {what}; steps "
            f"{_few(runs[0].steps)} and {_few(runs[1].steps)}"
        )
        raise InputError(msg)
    return lines


def by_group(
    line: Line,
    groups: Mapping[str, str | Sequence[str]] | Sequence[str] | None = None,
    *,
    hold: Hold = "start",
) -> dict[str, Line]:
    """The lines on which only some parameters move, the rest held at one end: by layer, by kind.

    Args:
        line: between which two points.
        groups: name → pattern or patterns of parameter names, with ``*`` for any characters:
            ``{"biases": "*.bias", "attention": "*.attn.*"}``; or patterns, which are their own
            names. None makes one group of each module that has parameters of its own and moves.
        hold: the end at which the others stay. "start": from the start itself to the start with the
            group's parameters taken from the end. "end": from the end with the group's parameters
            of the start to the end.

    Returns:
        Name → line. Buffers whose names match move too.

    Raises:
        InputError: a pattern matches no parameter, or a group is the same at both ends.

    Examples:
        >>> import torch
        >>> line = Line({"in.weight": torch.zeros(1), "out.weight": torch.zeros(1)},
        ...             {"in.weight": torch.ones(1), "out.weight": torch.ones(1)})
        >>> by_group(line)["out"].at(1.0)
        {'in.weight': tensor([0.]), 'out.weight': tensor([1.])}

    References:
        Adilova et al. 2024 (layer-wise linear mode connectivity); Zhang et al. 2019
        (re-initialising one layer).
    """
    if hold not in get_args(Hold):
        msg = f"hold must be 'start' or 'end'; got {hold!r}"
        raise InputError(msg)
    moving = _moving(line)
    found = _by_module(line, moving) if groups is None else _by_pattern(line, groups)
    lines: dict[str, Line] = {}
    for name, members in found.items():
        if not moving & members:
            msg = (
                f"the parameters of the group {name!r} ({len(members)}) are the same at both ends, "
                "so nothing moves"
            )
            raise InputError(msg)
        if hold == "start":
            base, source = line.start, line.end
        else:
            base, source = line.end, line.start
        mixed = replace(
            base,
            tensors={
                n: source.tensors[n] if n in members and n in source.tensors else t
                for n, t in base.tensors.items()
            },
            label=f"{base.label} with {name} of {source.label}",
            files=base.files + source.files,
            versions={
                n: (source if n in members else base).versions.get(n, 0) for n in base.versions
            },
        )
        lines[name] = Line(base, mixed) if hold == "start" else Line(mixed, base)
    return lines


def _moving(line: Line) -> set[str]:
    return {
        n for n in line.start.params if not same_values(line.start.tensors[n], line.end.tensors[n])
    }


def _by_module(line: Line, moving: set[str]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for name in line.start.tensors:
        owner = line.start.ties.get(name, name).rpartition(".")[0] or name
        groups.setdefault(owner, set()).add(name)
    return {name: members for name, members in groups.items() if members & moving}


def _by_pattern(
    line: Line, groups: Mapping[str, str | Sequence[str]] | Sequence[str]
) -> dict[str, set[str]]:
    given = groups if isinstance(groups, Mapping) else {pattern: pattern for pattern in groups}
    if isinstance(groups, str) or not given:
        msg = (
            "groups must be patterns of parameter names, such as ['encoder.*', '*.bias']; got "
            f"{groups!r}"
        )
        raise InputError(msg)
    names, ties = list(line.start.tensors), line.start.ties
    found: dict[str, set[str]] = {}
    for name, patterns in given.items():
        members: set[str] = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            hit = {n for n in names if fnmatch.fnmatchcase(n, pattern)}
            if not hit:
                msg = f"the pattern {pattern!r} matches no parameter; there are {_few(names)}"
                raise InputError(msg)
            members |= hit
        roots = {ties.get(n, n) for n in members}  # tied tensors are one and move as one
        found[str(name)] = {n for n in names if ties.get(n, n) in roots}
    return found


def _few(names: Sequence[Any]) -> str:
    shown = [str(name) for name in names]
    return (
        ", ".join(shown)
        if len(shown) <= 6
        else f"{', '.join(shown[:3])}, …, {', '.join(shown[-2:])} ({len(shown)})"
    )
