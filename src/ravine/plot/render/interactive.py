"""Figures for the screen: Plotly, legible on a light and on a dark page alike."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ravine.plot.layers import Axis, Band, Cells, Curve, Field, Layer, Markers, Panel, Rule
from ravine.plot.render import interactive_field
from ravine.plot.render.palette import ALARM, CELLS, GREY, colour, dash_in_pixels

ROW_HEIGHT: Final = 340  # pixels
NAME_HEIGHT: Final = 22  # of a name on an upright axis

_FONT: Final = "system-ui, sans-serif"
_GRID: Final = "rgba(128, 128, 128, 0.22)"


def drawn(panels: Sequence[Panel]) -> go.Figure:
    """The panels as Plotly's figure.

    Backgrounds are clear and inks are mid-grey, so it can lie on any page.
    """
    if panels[0].z is not None:  # a field has its panel to itself
        panel = panels[0]
        sheet = interactive_field.drawn(panel, {"x": _axis(panel.x), "y": _axis(panel.y)})
        # a box has its axes' words inside
        left, bottom = (8, 8) if panel.view == "3d" else (64, 48)
        return _dressed(sheet).update_layout(
            plot_bgcolor=interactive_field.MISSING,
            hovermode="closest",
            margin={"l": left, "r": 16, "t": 24, "b": bottom},
        )
    columns = min(len(panels), 2)
    rows = -(-len(panels) // 2)
    sheet = make_subplots(
        rows,
        columns,
        subplot_titles=[_text(panel.title) for panel in panels],
        specs=[[{"secondary_y": True}] * columns for _ in range(rows)],
        horizontal_spacing=0.12,
        vertical_spacing=0.16,
    )
    named: set[str] = set()
    for index, panel in enumerate(panels):
        row, column = index // 2 + 1, index % 2 + 1
        _set_axes(sheet, panel, row, column)
        for layer in panel.layers:
            _draw_layer(sheet, panel, layer, row, column, named)
    tallest = max(len(panel.y.names) for panel in panels)
    return _dressed(sheet).update_layout(height=max(ROW_HEIGHT, NAME_HEIGHT * tallest + 120) * rows)


def _dressed(sheet: go.Figure) -> go.Figure:
    return sheet.update_layout(
        template="none",
        margin={"l": 64, "r": 16, "t": 48, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13, "color": GREY},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": colour(0)},
        hovermode="x unified",
        # above the plot, which makes room for as many rows as there are, and below the buttons
        legend={"orientation": "h", "y": 1.07, "yanchor": "bottom", "x": 0},
    )


def _set_axes(sheet: go.Figure, panel: Panel, row: int, column: int) -> None:
    x, y = _axis(panel.x), _axis(panel.y)
    sheet.update_xaxes(**x, unifiedhovertitle_text=_position(panel), row=row, col=column)
    sheet.update_yaxes(**y, row=row, col=column, secondary_y=False)
    # The second y axis is the panel's own frame, from 0 at the bottom to 1 at the top.
    sheet.update_yaxes(
        range=[0, 1], visible=False, fixedrange=True, row=row, col=column, secondary_y=True
    )


def _axis(axis: Axis) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "title": {"text": _text(axis.label), "standoff": 8},
        "type": axis.scale,
        "gridcolor": _GRID,
        "linecolor": GREY,
        "showline": True,
        "ticks": "outside",
        "tickcolor": GREY,
        "ticklen": 4,
        "zeroline": False,
        "exponentformat": "power",
        "automargin": True,
    }
    if axis.names:
        settings |= {
            "tickvals": list(range(len(axis.names))),
            "ticktext": [_text(name) for name in axis.names],
        }
    if axis.limits:
        settings["range"] = np.log10(axis.limits) if axis.scale == "log" else axis.limits
    if axis.scale == "log":
        settings["tickfont"] = {"size": 11}  # Plotly enlarges powers of ten by a quarter
    if axis.scale == "log" and axis.limits:
        low, high = np.log10(axis.limits)
        settings["dtick"] = max(1, round((high - low) / 6))
    return settings


def _draw_layer(
    sheet: go.Figure, panel: Panel, layer: Layer, row: int, column: int, named: set[str]
) -> None:
    if isinstance(layer, Field):
        return  # of a panel with a scale for it, which is drawn elsewhere
    if isinstance(layer, Rule):
        if (panel.x if layer.on == "x" else panel.y).shows(layer.at):
            _draw_rule(sheet, layer, row, column)
        return
    if isinstance(layer, Cells):
        sheet.add_trace(_cells(layer), row=row, col=column, secondary_y=False)
        return
    match layer:
        case Curve():
            trace = _curve(layer, "" if _hovers_together(panel) else f" at {_position(panel)}")
        case Band():
            trace = _band(layer, panel.y)
        case Markers():
            trace = _markers(layer)
    label = "" if isinstance(layer, Band) else layer.label
    # What belongs together appears and disappears together when its name is clicked.
    alarm = isinstance(layer, Markers) and layer.symbol == "cross"
    group = "alarm" if alarm else f"style {layer.style}"
    trace.update(
        name=_text(label), showlegend=bool(label) and label not in named, legendgroup=group
    )
    named.add(label)
    framed = isinstance(layer, Markers) and layer.frame == "panel"
    sheet.add_trace(trace, row=row, col=column, secondary_y=framed)


def _position(panel: Panel) -> str:
    return f"{_text(panel.x.label)} = %{{x:.4~g}}"


def _hovers_together(panel: Panel) -> bool:
    """Whether all curves have a value at the same places.

    Where one has none, Plotly shows its nearest value under the others' position: then each must
    name its own.
    """
    curves = [layer for layer in panel.layers if isinstance(layer, Curve)]
    return all(
        np.array_equal(curve.x, curves[0].x) and bool(np.isfinite(curve.y).all())
        for curve in curves
    )


def _curve(curve: Curve, at: str) -> go.Scatter:
    told = "%{y:.4g}" if curve.stderr is None else "%{y:.4g} ± %{customdata:.2g}"
    return go.Scatter(
        x=curve.x,
        y=curve.y,
        customdata=curve.stderr,
        mode="lines",
        line={
            "color": colour(curve.style),
            "width": 2,
            "dash": dash_in_pixels(curve.style),
            "simplify": False,
        },
        connectgaps=False,
        hovertemplate=f"{told}{at}<extra>{_text(curve.label)}</extra>",
    )


def _band(band: Band, y: Axis) -> go.Scatter:
    """One closed outline for each stretch without a gap: Plotly's own fill leaks over gaps."""
    outline_x: list[np.ndarray] = []
    outline_y: list[np.ndarray] = []
    low, high = y.drawable(band.low), y.drawable(band.high)
    finite = np.isfinite(low) & np.isfinite(high)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]])))
    for begin, stop in edges.reshape(-1, 2):
        run = slice(begin, stop)
        outline_x += [band.x[run], band.x[run][::-1], np.array([np.nan])]
        outline_y += [low[run], high[run][::-1], np.array([np.nan])]
    red, green, blue = (int(colour(band.style)[at : at + 2], 16) for at in (1, 3, 5))
    nothing = np.empty(0)
    return go.Scatter(
        x=np.concatenate([nothing, *outline_x])[:-1],
        y=np.concatenate([nothing, *outline_y])[:-1],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.25)",
        hoverinfo="skip",
    )


def _markers(markers: Markers) -> go.Scatter:
    look: dict[str, Any] = {"symbol": "circle", "size": 5, "color": colour(markers.style)}
    if markers.symbol == "cross":
        look = {"symbol": "x-thin", "size": 9, "color": ALARM}
        look["line"] = {"width": 2, "color": ALARM}
    return go.Scatter(
        x=markers.x,
        y=markers.y,
        mode="markers",
        marker=look,
        cliponaxis=markers.frame != "panel",
        hoverinfo="skip" if not markers.hover else None,
        hovertext=[_text(told) for told in markers.hover] or None,
        hovertemplate="%{hovertext}<extra></extra>" if markers.hover else None,
    )


def _texts(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """The words of a matrix, row by row."""
    return [list(map(_text, row)) for row in zip(*columns, strict=True)]


def _cells(cells: Cells) -> go.Heatmap:
    top = float(np.nanmax(cells.z, initial=0.0)) or 1.0
    return go.Heatmap(
        z=cells.z.T,
        text=_texts(cells.texts),
        customdata=_texts(cells.hover),
        texttemplate="%{text}",
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        colorscale=CELLS,
        zmin=0,
        zmax=1.25 * top,
        showscale=False,
        xgap=1,
        ygap=1,
    )


def _draw_rule(sheet: go.Figure, rule: Rule, row: int, column: int) -> None:
    stroke = {"color": GREY, "width": 1}
    # Rules lie below everything, so they come when the panel is still empty.
    subplot = {
        "opacity": 0.7,
        "layer": "below",
        "row": row,
        "col": column,
        "exclude_empty_subplots": False,
    }
    if rule.on == "x":
        sheet.add_vline(rule.at, line=stroke, **subplot)
        place = {
            "x": rule.at,
            "xanchor": rule.align,
            "y": 1,
            "yref": "y domain",
            "yanchor": "bottom",
        }
    else:
        sheet.add_hline(rule.at, line=stroke, **subplot)
        place = {"x": 1, "xref": "x domain", "xanchor": "left", "y": rule.at, "yanchor": "middle"}
    if rule.label:
        sheet.add_annotation(
            text=_text(rule.label), showarrow=False, font_size=11, row=row, col=column, **place
        )


def _text(label: str) -> str:
    """Plotly reads a few HTML tags in its texts; a name is never one."""
    return html.escape(label, quote=False)
