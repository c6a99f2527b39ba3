"""From a measured line to the figure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.metrics import policies
from ravine.metrics.connections import is_of_pairs, points_of
from ravine.metrics.ends import shared_end
from ravine.plot.figure import Figure
from ravine.plot.layers import Axis, Band, Curve, Layer, Markers, Panel, Rule, Scale
from ravine.plot.words import axis_label, listed, padded, pick, with_count
from ravine.result import schema
from ravine.result.interpolant import is_resolved
from ravine.result.reading import densely

#: Half-width of a band in standard errors: about 95 % of a normal distribution lies within.
BAND: Final = 2.0

#: A y axis is logarithmic where its values span more decades than this. Below, a linear axis still
#: shows the smallest values and keeps convexity and barriers to scale.
DECADES: Final = 2.5

#: From this many points on a dot at each would merge into the line.
DOTTED_BELOW: Final = 60


#: Names in a title.
_NAMED: Final = 4


def line(
    curve: xr.Dataset,
    quantities: str | Sequence[str] | None = None,
    *,
    splits: str | Sequence[str] | None = None,
    scale: Scale | None = None,
) -> Figure:
    """A figure of a line: one panel for each quantity, one curve for each split.

    Args:
        curve: a result with the dim ``alpha``, from ``evaluate``, ``resolve`` or ``reconstruct``.
            Its points may stand in any order.
        quantities: which quantities, in order; None draws all of them, the loss first.
        splits: which splits, in order; None draws all of them.
        scale: of the y axes; None makes one logarithmic where the values are positive and span more
            than 2.5 decades.

    Returns:
        The figure. Bands are ± 2 standard errors, on a log axis those of the logarithm. A value
        that is not finite leaves a gap and a cross: at the top for +∞, at the bottom for NaN and
        −∞.

    Raises:
        InputError: not a measured line, or no such quantity or split.

    Examples:
        >>> alpha, split = np.linspace(0, 1, 5), ["train"]
        >>> loss = ("alpha", "split"), (1 - alpha[:, None]) ** 2, {"units": "nats"}
        >>> stderr = ("alpha", "split"), np.full((5, 1), 0.01)
        >>> curve = xr.Dataset(
        ...     {"loss": loss, "loss_stderr": stderr},
        ...     coords={"alpha": alpha, "split": split},
        ...     attrs={"schema_version": 1},
        ... )
        >>> figure = line(curve)
        >>> figure.panels[0].y.label
        'loss (nats)'
    """
    measured = _line_of_points(curve)
    names = pick("quantity", quantities, schema.quantities(measured))
    shown = pick("split", splits, [str(name) for name in measured["split"].values])
    panels = []
    for name in names:
        traces = [_trace(measured, name, split, split) for split in shown]
        panels.append(_panel(traces, axis_label(measured, name), scale))
    start, end = (str(measured.attrs.get(name, "")) for name in ("start", "end"))
    ends = f"α = 0: {start}; α = 1: {end}. " if start and end and start != end else ""
    mean = f"Mean over the examples of {listed([with_count(measured, split) for split in shown])}."
    chosen = policies(measured)
    return Figure(
        tuple(panels),
        title=title(measured),
        caption=" ".join(filter(None, [f"{ends}{mean}", chosen, _reading(panels)])),
    )


def lines(
    curves: Mapping[str, xr.Dataset] | xr.Dataset, quantity: str = "loss", split: str | None = None
) -> Figure:
    """A figure of several lines in one panel.

    Args:
        curves: label → a result with the dim ``alpha``; or one result of several lines.
        quantity: what is drawn.
        split: the split that is drawn; None takes the first split of the first curve.

    Returns:
        The figure; bands, scale and crosses as in ``line``.

    Raises:
        InputError: no curve, one that is not a measured line, or one without that quantity or
            split.
    """
    if not len(curves):
        msg = "there is no curve to draw: expected at least one label and its result"
        raise InputError(msg)
    named = schema.lines_of(curves) if isinstance(curves, xr.Dataset) else curves
    measured = {label: _line_of_points(curve) for label, curve in named.items()}
    first = next(iter(measured.values()))
    chosen = str(first["split"].values[0]) if split is None else split
    for curve in measured.values():
        pick("quantity", quantity, schema.quantities(curve))
        pick("split", chosen, [str(name) for name in curve["split"].values])
    traces = [_trace(curve, quantity, chosen, label) for label, curve in measured.items()]
    panels = (_panel(traces, axis_label(first, quantity)),)
    mean = f"Mean over the examples of {with_count(first, chosen)}."
    return Figure(panels, title=listed(list(measured)), caption=f"{mean} {_reading(panels)}")


def title(curve: xr.Dataset) -> str:
    """What a result calls itself: its attribute ``title``, else its lines or its corners."""
    own = str(curve.attrs.get("title", ""))
    if own:
        return own
    if "line" in curve.dims:
        return _title_of_lines(curve)
    if "end" in curve.attrs:
        start, end = _told_apart(curve, ("start", "end"))
        return f"{start} → {end}"
    return ", ".join(_told_apart(curve, ("origin", "a", "b")))


def _told_apart(curve: xr.Dataset, corners: Sequence[str]) -> list[str]:
    """What the corners are called; "start" and "end" where all were given without a name."""
    labels = [str(curve.attrs[corner]) for corner in corners if corner in curve.attrs]
    return labels if len(set(labels)) > 1 else [c for c in corners if c in curve.attrs]


def _title_of_lines(result: xr.Dataset) -> str:
    names = [str(name) for name in result["line"].values]
    if "alignment" in result.attrs:
        pairs = [name for name in names if f"{name}, aligned" in names]
        first = "as they are" if len(pairs) > 1 else "as it is"
        stages = [
            name.removeprefix(f"{pairs[0]}, ") for name in names if name.startswith(f"{pairs[0]}, ")
        ]
        return f"{_few(pairs)}: {'; '.join([first, *stages])}"
    if is_of_pairs(result):
        return f"{_few(points_of(result))}: all pairs"
    if shared_end(result):
        return f"One group at a time: {_few(names)}"
    return _few(names)


def _few(names: Sequence[str]) -> str:
    return (
        listed(names) if len(names) <= _NAMED else f"{', '.join(names[:_NAMED])}, … ({len(names)})"
    )


@dataclass(frozen=True, eq=False)
class _Trace:
    """One quantity of one split in the order of alpha: what is drawn, and where it was measured."""

    label: str
    alpha: np.ndarray
    values: np.ndarray
    stderr: np.ndarray
    points: np.ndarray
    heights: np.ndarray


def _trace(curve: xr.Dataset, quantity: str, split: str, label: str) -> _Trace:
    drawn = densely(curve) if is_resolved(curve) else curve

    def column(result: xr.Dataset, name: str) -> np.ndarray:
        return np.asarray(result.sel(split=split).sortby("alpha")[name].values, dtype=float)

    return _Trace(
        label,
        column(drawn, "alpha"),
        column(drawn, quantity),
        column(drawn, f"{quantity}_stderr"),
        column(curve, "alpha"),
        column(curve, quantity),
    )


def _panel(traces: Sequence[_Trace], y_label: str, scale: Scale | None = None) -> Panel:
    alpha = np.concatenate([trace.alpha for trace in traces])
    values = np.concatenate([trace.values for trace in traces])
    finite = values[np.isfinite(values)]
    log = (spans_decades(finite) if scale is None else scale == "log") and bool(
        finite.size and finite.min() > 0
    )
    bands = [_band(trace, style, log=log) for style, trace in enumerate(traces)]
    named = len(traces) > 1
    drawn = [layer for style, trace in enumerate(traces) for layer in _curve(trace, style, named)]
    x = Axis("α", limits=padded(alpha, margin=0.02))
    if log:
        # A band may reach below zero, so a log axis takes its limits from the curves alone.
        y = Axis(y_label, "log", (float(finite.min()) / 1.6, float(finite.max()) * 1.6))
    else:
        y = Axis(
            y_label,
            limits=padded(np.concatenate([finite, *(e for b in bands for e in (b.low, b.high))])),
        )
    layers: tuple[Layer, ...] = (*_ends(x), *bands, *drawn, *_crosses(traces))
    return Panel(x, y, layers, title="" if finite.size else "no finite value")


def _band(trace: _Trace, style: int, *, log: bool) -> Band:
    """On a log axis the band of log J, whose standard error is J's over J: even on both sides."""
    if log:
        relative = trace.stderr / np.where(trace.values > 0, trace.values, np.nan)
        factor = np.exp(np.minimum(BAND * relative, 23.0))  # ten decades are off any axis
        return Band(trace.alpha, trace.values / factor, trace.values * factor, style)
    # infinite values are looked for where it is drawn
    with np.errstate(invalid="ignore", over="ignore"):
        return Band(
            trace.alpha,
            trace.values - BAND * trace.stderr,
            trace.values + BAND * trace.stderr,
            style,
        )


def _curve(trace: _Trace, style: int, named: bool) -> list[Layer]:
    heights = np.where(np.isfinite(trace.values), trace.values, np.nan)
    layers: list[Layer] = [
        Curve(trace.alpha, heights, trace.label if named else "", trace.stderr, style)
    ]
    finite = np.isfinite(trace.heights)
    # A finite value between two gaps is on no segment of the line; only a dot shows it.
    neighbours = np.convolve(finite, [1, 0, 1], mode="same") if finite.size > 1 else np.zeros(1)
    dotted = finite if finite.size < DOTTED_BELOW else finite & (neighbours == 0)
    if dotted.any():
        layers.append(Markers(trace.points[dotted], trace.heights[dotted], style=style))
    return layers


def _crosses(traces: Sequence[_Trace]) -> list[Layer]:
    """One cross for each place at the top or bottom edge, however many curves are lost there."""
    lost: dict[tuple[float, float], list[str]] = {}
    for trace in traces:
        for i in np.flatnonzero(~np.isfinite(trace.heights)):
            place = float(trace.points[i]), 1.0 if np.isposinf(trace.heights[i]) else 0.0
            lost.setdefault(place, []).append(f"{trace.label}: {trace.heights[i]}")
    if not lost:
        return []
    alpha, edge = np.array(sorted(lost)).T
    texts = tuple(", ".join(lost[place]) for place in sorted(lost))
    return [Markers(alpha, edge, "not finite", "cross", hover=texts, frame="panel")]


def _ends(x: Axis) -> list[Rule]:
    low, high = x.limits or (0.0, 1.0)
    wide = high - low > 5  # the words would run into each other
    start = Rule(0.0, "start", align="right" if wide else "center")
    end = Rule(1.0, "end", align="left" if wide else "center")
    return [rule for rule in (start, end) if low <= rule.at <= high]


def spans_decades(values: np.ndarray) -> bool:
    """Whether values are positive and reach over more decades than a linear axis can show."""
    if not values.size or values.min() <= 0:
        return False
    return bool(np.log10(values.max()) - np.log10(values.min()) > DECADES)


def _reading(panels: Sequence[Panel]) -> str:
    """How to read what is drawn; only what is in these panels."""
    words = [
        f"Bands: ± {BAND:g} standard errors. All points share their examples, so paired "
        "differences have smaller errors than the bands suggest."
    ]
    logs = [panel.y.label for panel in panels if panel.y.scale == "log"]
    if logs:
        words.append(f"Logarithmic scale: {listed(logs)}.")
    layers = [layer for panel in panels for layer in panel.layers if isinstance(layer, Markers)]
    if any(layer.symbol == "cross" for layer in layers):
        words.append("Crosses: measured and not finite (top: +∞; bottom: NaN or −∞).")
    return " ".join(words)


def _line_of_points(curve: xr.Dataset) -> xr.Dataset:
    """The result itself if it is a line with a point on it."""
    dims = tuple(map(str, schema.validate(curve)["loss"].dims))
    if set(dims) != {"alpha", "split"}:
        msg = f"this result is not a line: expected the dims ('alpha', 'split'), got {dims}"
        raise InputError(msg)
    if not curve.sizes["alpha"]:
        msg = "this line has no points; evaluate it at one alpha at least"
        raise InputError(msg)
    return curve
