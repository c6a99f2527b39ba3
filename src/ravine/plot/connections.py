"""The figure of several lines and their barriers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.metrics import BARRIERS, policies
from ravine.metrics import barriers as measured_barriers
from ravine.metrics.connections import is_of_pairs
from ravine.metrics.ends import end_changes as measured_changes
from ravine.metrics.ends import shared_end
from ravine.metrics.findings import Finding
from ravine.metrics.obstacles import BarrierKind
from ravine.metrics.profile import Estimate, minus
from ravine.plot.curves import BAND
from ravine.plot.figure import Figure
from ravine.plot.layers import Axis, Band, Cells, Curve, Layer, Markers, Panel, Rule
from ravine.plot.words import axis_label, listed, padded, pick, with_count
from ravine.result import schema


def barriers(
    result: xr.Dataset,
    quantity: str | None = None,
    *,
    split: str | None = None,
    kind: BarrierKind = "end",
) -> Figure:
    """The barriers on several lines: the checkpoint × checkpoint matrix, a curve, or marks.

    Args:
        result: of several lines. For all ``pairs`` of some points it is drawn as a matrix; where
            the lines are called by numbers, as those of ``between_runs`` are by their steps,
            against these; else as one mark a line.
        quantity: which; None draws all of them, the loss first.
        split: of which split; None takes the first for a matrix and otherwise draws all.
        kind: of barrier, as in ``metrics.BARRIERS``.

    Returns:
        The figure; one panel a quantity. Bars and bands are ± 2 standard errors.

    Raises:
        InputError: not a result of several lines, or no such quantity, split or kind.
    """
    schema.lines_of(schema.validate(result))
    names = pick("quantity", quantity, schema.quantities(result))
    splits = [str(name) for name in result["split"].values]
    matrix = is_of_pairs(result) and result.sizes["line"] > 1
    alone = splits[:1] if matrix else None
    shown = pick("split", alone if split is None else split, splits)
    panels = []
    for name in names:
        found = {one: measured_barriers(result, quantity=name, split=one).of(kind) for one in shown}
        label = f"barrier in {axis_label(result, name)}"
        panels.append(
            _matrix(result, found[shown[0]], label) if matrix else _marks(result, found, label)
        )
    caption = [
        f"Barrier: {BARRIERS[kind]}.",
        f"Mean over the examples of {listed([with_count(result, one) for one in shown])}.",
        policies(result),
        "" if matrix else f"± {BAND:g} standard errors.",
    ]
    return Figure(
        tuple(panels),
        str(result.attrs.get("title", "")) or "Barriers",
        " ".join(filter(None, caption)),
    )


def end_changes(result: xr.Dataset, quantity: str | None = None) -> Figure:
    """How far the free end of each line lies from the end that all share, one mark a line.

    Args:
        result: of several lines with one end in common, such as those of ``by_group``.
        quantity: which; None draws all of them, the loss first.

    Returns:
        The figure; one panel a quantity, the largest change of the first on top. Bars are
        simultaneous 95 % bounds.

    Raises:
        InputError: the lines share no end, or there is no such quantity.
    """
    schema.lines_of(schema.validate(result))
    shared = shared_end(result)
    if shared is None:
        msg = "expected lines that share one end, such as ravine.by_group gives; these do not"
        raise InputError(msg)
    splits = [str(name) for name in result["split"].values]
    shown = pick("quantity", quantity, schema.quantities(result))
    order = [one.line for one in measured_changes(result, shared, shown[0], splits[0]).findings]
    panels = []
    for name in shown:
        found = [measured_changes(result, shared, name, split).findings for split in splits]
        panels.append(_changes(found, order, f"change in {axis_label(result, name)}"))
    free = "end" if shared == "start" else "start"
    caption = (
        f"J at each line's {free} minus J at the {shared} that all share, on the examples of "
        f"{listed([with_count(result, split) for split in splits])}. Bars: simultaneous 95 % "
        "bounds."
    )
    return Figure(
        tuple(panels),
        str(result.attrs.get("title", "")) or "Changes at the free ends",
        " ".join(filter(None, [caption, policies(result)])),
    )


def _changes(found: Sequence[Sequence[Finding]], names: Sequence[str], label: str) -> Panel:
    """A mark and a bar for each line, the first name on top."""
    layers: list[Layer] = []
    ends: list[float] = [0.0]
    for style, findings in enumerate(found):
        by_line = {one.line: one for one in findings}
        drawn = [by_line[name] for name in names]
        place = np.arange(len(names))[::-1] + 0.16 * (0.5 * (len(found) - 1) - style)
        for one, height in zip(drawn, place, strict=True):
            reach = np.array([one.lower, one.upper])
            if np.isfinite(reach).all():
                layers.append(Curve(reach, np.array([height, height]), style=style))
                ends += reach.tolist()
        values = np.array([one.value for one in drawn])
        told = tuple(f"{one.subject}: {one.height}" for one in drawn)
        split = drawn[0].split if len(found) > 1 else ""
        layers.append(Markers(values, place, split, style=style, hover=told))
        ends += values.tolist()
    y = Axis("", limits=(-0.6, len(names) - 0.4), names=tuple(reversed(names)))
    return Panel(Axis(label, limits=padded(np.array(ends))), y, (Rule(0.0), *layers))


def _matrix(result: xr.Dataset, found: dict[str, Estimate], label: str) -> Panel:
    ends = {
        str(name): (str(one), str(other))
        for name, one, other in zip(
            result["line"].values, result["start"].values, result["end"].values, strict=True
        )
    }
    points = tuple(
        dict.fromkeys([*(one for one, _ in ends.values()), *(other for _, other in ends.values())])
    )
    z = np.full((len(points),) * 2, np.nan)
    texts = [[""] * len(points) for _ in points]
    told = [[""] * len(points) for _ in points]
    for name, pair in ends.items():
        for i, j in (map(points.index, pair), map(points.index, pair[::-1])):
            i, j = int(i), len(points) - 1 - int(j)  # the first point on top, as in a table
            z[i, j] = max(found[name].value, 0.0)
            texts[i][j], told[i][j] = minus(f"{found[name].value:.2g}"), f"{name}: {found[name]}"
    edge = (-0.5, len(points) - 0.5)
    cells = Cells(z, tuple(map(tuple, texts)), tuple(map(tuple, told)))
    return Panel(
        Axis("", limits=edge, names=points),
        Axis("", limits=edge, names=points[::-1]),
        (cells,),
        title=label,
    )


def _marks(result: xr.Dataset, found: dict[str, dict[str, Estimate]], label: str) -> Panel:
    names = [str(name) for name in result["line"].values]
    numbers = _numbers(names)
    many = len(found) > 1
    layers: list[Layer] = []
    spans = []
    for style, (split, by_line) in enumerate(found.items()):
        height = np.array([by_line[name].value for name in names])
        reach = BAND * np.nan_to_num([by_line[name].stderr for name in names])
        told = tuple(f"{split}, {name}: {by_line[name]}" for name in names)
        spans += [height - reach, height + reach]
        if numbers is not None:
            order = np.argsort(numbers)
            x, y = numbers[order], height[order]
            layers += [
                Band(x, y - reach[order], y + reach[order], style),
                Curve(x, y, split if many else "", reach[order] / BAND, style),
                Markers(x, y, style=style),
            ]
            continue
        place = np.arange(len(names))[::-1] + 0.16 * (0.5 * (len(found) - 1) - style)
        layers += [
            Curve(np.array([h - r, h + r]), np.array([p, p]), style=style)
            for h, r, p in zip(height, reach, place, strict=True)
        ]
        layers.append(Markers(height, place, split if many else "", style=style, hover=told))
    heights = padded(np.concatenate([[0.0], *spans]))
    if numbers is not None:
        wide = numbers.min() > 0 and numbers.max() > 100 * numbers.min()
        x = Axis("step", "log") if wide else Axis("step", limits=padded(numbers))
        return Panel(x, Axis(label, limits=heights), tuple(layers))
    y = Axis("", limits=(-0.6, len(names) - 0.4), names=tuple(names[::-1]))
    return Panel(Axis(label, limits=heights), y, (Rule(0.0), *layers))


def _numbers(names: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(name) for name in names])
    except ValueError:
        return None
