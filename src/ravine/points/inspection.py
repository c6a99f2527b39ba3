"""Inspect: what two checkpoints hold, and whether a line can join them."""

from __future__ import annotations

import itertools
import textwrap
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from torch import nn

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, all_finite, distance, norm, same_values

_WIDE: Final = 80  # characters of a page


@dataclass(frozen=True)
class End:
    """What one checkpoint holds.

    Attributes:
        label: where it came from.
        tensors: how many tensors are parameters, tied ones once.
        parameters: how many numbers they hold.
        norm: their Euclidean norm.
        dtypes: their types.
        ties: alias → the name that stands for it, as far as the format tells.
        statistics: names of running statistics.
        other_buffers: names of other tensors that are no parameters.
        non_finite: names of parameters with NaN or infinity.
    """

    label: str
    tensors: int
    parameters: int
    norm: float
    dtypes: tuple[str, ...]
    ties: dict[str, str]
    statistics: tuple[str, ...]
    other_buffers: tuple[str, ...]
    non_finite: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """Two checkpoints side by side. Printed, it is a page of text.

    Attributes:
        ends: start and end.
        problem: why there is no line between them; empty if there is.
        distance: Euclidean distance between the parameters, NaN if there is no line.
        moving: (name, distance, its share of the whole squared distance), the largest first.
        unmoved: names of parameters that are the same at both ends.
        dropout: names of modules with dropout, where a module was given.
    """

    ends: tuple[End, End]
    problem: str
    distance: float
    moving: tuple[tuple[str, float, float], ...]
    unmoved: tuple[str, ...]
    dropout: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        """For a notebook: the page of text."""
        return f"<pre>{escape(str(self))}</pre>"


def inspect(start: Any, end: Any) -> Inspection:
    """Compare two checkpoints before measuring the line between them; nothing is evaluated.

    Args:
        start: a module, a state dict, a mapping of tensors or a path.
        end: another.

    Returns:
        What they hold, how they differ, and whether a ``Line`` between them exists.

    Raises:
        InputError: one of them cannot be read at all.

    Examples:
        >>> import torch
        >>> found = inspect({"w": torch.zeros(2)}, {"module.w": torch.tensor([3.0, 4.0])})
        >>> found.distance, found.problem
        (5.0, '')
    """
    points = (Checkpoint.read(start), Checkpoint.read(end))
    for point in points:
        point.require_files()
    ends = (_look(points[0]), _look(points[1]))
    dropout = _stochastic(start) or _stochastic(end)
    try:
        aligned = matched(*points)
    except InputError as problem:
        return Inspection(ends, str(problem), float("nan"), (), (), dropout)
    first = {n: t for n, t in points[0].params.items() if n not in aligned.buffers}
    lengths = {
        name: distance({"": tensor}, {"": aligned.tensors[name]}) for name, tensor in first.items()
    }
    total = sum(length**2 for length in lengths.values())
    moving = sorted(
        ((n, d, d**2 / total) for n, d in lengths.items() if d), key=lambda entry: -entry[1]
    )
    unmoved = tuple(n for n, t in first.items() if same_values(t, aligned.tensors[n]))
    problem = "" if total else "start and end are the same point"
    return Inspection(ends, problem, total**0.5, tuple(moving), unmoved, dropout)


def _look(point: Checkpoint) -> End:
    params: Params = point.params
    finite = {name: all_finite(tensor) for name, tensor in params.items()}
    return End(
        label=point.label,
        tensors=len(params),
        parameters=sum(t.numel() for t in params.values()),
        norm=norm(params),
        dtypes=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in params.values()})),
        ties=dict(point.ties),
        statistics=tuple(n for n in point.tensors if n in point.buffers and ".running_" in f".{n}"),
        other_buffers=tuple(
            n for n in point.tensors if n in point.buffers and ".running_" not in f".{n}"
        ),
        non_finite=tuple(name for name, good in finite.items() if not good),
    )


def _stochastic(source: Any) -> tuple[str, ...]:
    if not isinstance(source, nn.Module):
        return ()
    return tuple(
        name
        for name, module in source.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd)
        or getattr(module, "dropout", 0.0) not in (0.0, None)
        if not isinstance(getattr(module, "dropout", None), nn.Module)
    )


def _lines(found: Inspection) -> list[str]:
    start, end = found.ends
    rows = [
        ("", "start", "end"),
        ("from", start.label, end.label),
        (
            "parameters",
            f"{start.parameters:,} in {start.tensors}",
            f"{end.parameters:,} in {end.tensors}",
        ),
        ("precision", ", ".join(start.dtypes), ", ".join(end.dtypes)),
        ("norm", f"{start.norm:.6g}", f"{end.norm:.6g}"),
        ("tied", _names(start.ties), _names(end.ties)),
        ("NaN or infinite", _names(start.non_finite), _names(end.non_finite)),
        ("running statistics", _names(start.statistics), _names(end.statistics)),
        ("other buffers", _names(start.other_buffers), _names(end.other_buffers)),
    ]
    lines = [*_table(rows), ""]
    if found.problem:
        return [*lines, *_folded(f"No line: {found.problem}")]
    if start.non_finite or end.non_finite:
        return [*lines, "No line: a checkpoint with NaN or infinity is refused."]
    lines += _folded(
        f"The distance is {found.distance:.6g}, {found.distance / (start.norm or 1):.3g} times the "
        "norm of the start."
    )
    for name, length, share in found.moving[:8]:
        short = _short(name, _WIDE - 50)
        lines.append(f"  {short}: {length:.4g}, {100 * share:.1f} % of the squared distance")
    if len(found.moving) > 8:
        lines.append(f"  … and {len(found.moving) - 8} more with smaller distances")
    if found.unmoved:
        lines += _folded(f"The same at both ends: {_names(found.unmoved)}.")
    if start.statistics or end.statistics:
        lines += _folded(
            "Running statistics are undefined for interpolated weights: choose a buffers= policy "
            "for the Objective."
        )
    if found.dropout:
        lines += _folded(
            f"Dropout in {_names(found.dropout)}: off by default; dropout='fixed' keeps one set of "
            "masks."
        )
    return lines


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    """The rows as text, folded where a cell is long, so that a page stays as wide as a page."""
    first = max(len(row[0]) for row in rows)
    most = (_WIDE - first - 4) // 2
    lines: list[str] = []
    cells = [[name, _cell(left, most), _cell(right, most)] for name, left, right in rows]
    second = max(len(part) for _, left, _ in cells for part in left)
    for name, left, right in cells:
        for number, (a, b) in enumerate(itertools.zip_longest(left, right, fillvalue="")):
            head = name if number == 0 else ""
            lines.append(f"{head:<{first}}  {a:<{second}}  {b}".rstrip())
    return lines


def _cell(text: str, most: int) -> list[str]:
    """A cell's lines; a long path is folded, a long name loses its middle."""
    items = text.split(", ")
    if len(items) == 1:
        return textwrap.wrap(text, most, break_on_hyphens=False) or [""]
    return textwrap.wrap(", ".join(_short(item, most - 1) for item in items), most)


def _short(name: str, most: int) -> str:
    front = most // 2
    return name if len(name) <= most else f"{name[:front]}…{name[front + 1 - most :]}"


def _folded(text: str) -> list[str]:
    folded = (
        textwrap.wrap(line, _WIDE, subsequent_indent="  ") or [""] for line in text.splitlines()
    )
    return list(itertools.chain.from_iterable(folded))


def _names(names: Any) -> str:
    listed = list(names)
    if not listed:
        return "none"
    more = f" … ({len(listed)})" if len(listed) > 4 else ""
    return ", ".join(listed[:4]) + more
