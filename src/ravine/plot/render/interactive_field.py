"""Panels with a field, for the screen: Plotly's contours, or its surface from the side."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go

from ravine.plot.layers import Axis, Curve, Field, Markers, Panel
from ravine.plot.render.palette import ALARM, GREY, INK, PAPER, RAMP, dash, dash_in_pixels

HEIGHT: Final = 480  # pixels

#: The ground, where a field does not cover it.
MISSING: Final = "rgba(128, 128, 128, 0.25)"


def drawn(panel: Panel, axis: dict[str, dict[str, Any]]) -> go.Figure:
    """One panel that has a field.

    Args:
        panel: the panel.
        axis: "x" and "y" → how such an axis is drawn in other panels.
    """
    sheet = go.Figure()
    solid = not any(isinstance(layer, Curve) for layer in panel.layers)
    names: list[dict[str, Any]] = []
    z = panel.z or Axis("")
    for layer in panel.layers:
        match layer:
            case Field():
                sheet.add_trace(
                    _surface(layer, panel, z, solid=solid)
                    if panel.view == "3d"
                    else _contours(layer, panel, z)
                )
            case Curve():
                sheet.add_traces(list(_trail(layer, z, side=panel.view == "3d")))
            case Markers():
                sheet.add_trace(_marks(layer, z, side=panel.view == "3d"))
                names += _names(layer, z, side=panel.view == "3d")
            case _:
                pass
    sheet.update_layout(height=HEIGHT, showlegend=False)
    if panel.view == "3d":
        sheet.update_layout(scene={**_scene(panel, z), "annotations": names})
        return sheet
    sheet.update_layout(annotations=names)
    sheet.update_layout(
        xaxis={**axis["x"], "constrain": "domain", "constraintoward": "right"},
        yaxis={**axis["y"], "constrain": "domain"},
    )
    if panel.aspect:
        sheet.update_layout(yaxis={"scaleanchor": "x", "scaleratio": panel.aspect})
    return sheet


def _contours(field: Field, panel: Panel, z: Axis) -> go.Contour:
    levels = z.scaled(field.levels)
    return go.Contour(
        x=field.x,
        y=field.y,
        z=_short(z.scaled(field.z)),
        customdata=_short(field.z),
        zmin=levels[0],
        zmax=levels[-1],
        contours={"start": levels[0], "end": levels[-1], "size": levels[1] - levels[0]},
        line={"width": 0.6, "color": "rgba(255, 255, 255, 0.6)"},
        colorscale=RAMP,
        colorbar=_bar(z),
        hovertemplate=_told(panel, z),
        connectgaps=False,
    )


def _surface(field: Field, panel: Panel, z: Axis, *, solid: bool) -> go.Surface:
    levels = z.scaled(field.levels)
    lines = {"show": True, "start": levels[0], "end": levels[-1], "size": levels[1] - levels[0]}
    return go.Surface(
        x=field.x,
        y=field.y,
        z=_short(z.scaled(field.z)),
        customdata=_short(field.z),
        cmin=levels[0],
        cmax=levels[-1],
        colorscale=RAMP,
        colorbar=_bar(z),
        contours={"z": {**lines, "color": "rgba(255, 255, 255, 0.6)", "width": 1}},
        hovertemplate=_told(panel, z),
        opacity=1 if solid else 0.8,  # a path has heights of its own, and may be below
        lighting={"ambient": 0.75, "diffuse": 0.4, "specular": 0.05},
    )


def _short(values: np.ndarray) -> np.ndarray:
    """As Plotly has it, rows of y; half the size where seven digits show the relief as well."""
    rows = values.T
    # beyond float32's range as much is lost as can be, and the rows stay as they are
    with np.errstate(over="ignore", invalid="ignore"):
        short = rows.astype(np.float32)
        lost = np.nanmax(np.abs(short - rows), initial=0.0)
        relief = np.nanmax(rows, initial=-np.inf) - np.nanmin(rows, initial=np.inf)
    return short if lost <= 1e-4 * relief else rows


def _told(panel: Panel, z: Axis) -> str:
    x, y, name = (_text(axis.label) for axis in (panel.x, panel.y, z))
    return f"{x} = %{{x:.4~g}}, {y} = %{{y:.4~g}}<br>{name}: %{{customdata:.4g}}<extra></extra>"


def _bar(z: Axis) -> dict[str, Any]:
    places, words = z.ticks()
    title = {"text": _text(z.label), "side": "right"}
    return {
        "title": title,
        "tickvals": places,
        "ticktext": words,
        "outlinewidth": 0,
        "thickness": 18,
        "len": 0.95,
    }


def _scene(panel: Panel, z: Axis) -> dict[str, Any]:
    (left, right), (near, far) = panel.x.limits or (0.0, 1.0), panel.y.limits or (0.0, 1.0)
    deep = (panel.aspect or (right - left) / (far - near)) * (far - near) / (right - left)
    shape = np.array([1.2, 1.2 * deep, 0.7])
    eye = (
        0.5 * np.linalg.norm(shape) * np.array([1.5 * panel.facing[0], 2.0 * panel.facing[1], 1.4])
    )
    places, words = z.ticks()
    low, high = z.scaled(np.array(z.limits or (0.0, 1.0)))
    plain = {
        "showbackground": False,
        "gridcolor": "#a0a0a0",
        "zeroline": False,
        "showline": True,
        "linecolor": GREY,
        "nticks": 6,
    }
    return {
        "xaxis": {**plain, "title": {"text": _text(panel.x.label)}, "range": [left, right]},
        "yaxis": {**plain, "title": {"text": _text(panel.y.label)}, "range": [near, far]},
        "zaxis": {
            **plain,
            "title": {"text": ""},  # the colour bar has the words, and the same ticks
            "range": [low, high],
            "tickvals": places,
            "ticktext": words,
        },
        "aspectmode": "manual",
        "aspectratio": dict(zip("xyz", shape, strict=True)),
        "camera": {"eye": dict(zip("xyz", eye, strict=True))},
        "dragmode": "orbit",
    }


def _trail(curve: Curve, z: Axis, *, side: bool) -> Iterator[go.Scatter | go.Scatter3d]:
    """The path in black over a wider one in white, so that it is seen on any colour."""
    told = {
        "hovertext": [_text(words) for words in curve.hover],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    for width, ink in ((5, PAPER), (2, INK)):
        hover = told if ink == INK and curve.hover else {"hoverinfo": "skip"}
        dotted = "lines" if dash(curve.style) else "lines+markers"  # dots would fill the gaps
        look = {"mode": dotted, "name": _text(curve.label), **hover}
        line: dict[str, Any] = {"color": ink, "width": width}
        marker = {"color": ink, "size": width + 2}
        if side:
            heights = lifted(curve.z, z)
            # in 3-D it knows a few names only
            line["dash"] = "dash" if dash(curve.style) and ink == INK else "solid"
            if ink == PAPER:
                look["mode"] = "lines"  # its dots would lie over the black ones
            yield go.Scatter3d(
                x=curve.x, y=curve.y, z=heights, line=line, marker={**marker, "size": 3}, **look
            )
        else:
            line["dash"] = dash_in_pixels(curve.style)
            yield go.Scatter(x=curve.x, y=curve.y, line=line, marker=marker, **look)


def _marks(marks: Markers, z: Axis, *, side: bool) -> go.Scatter | go.Scatter3d:
    cross = marks.symbol == "cross"
    look: dict[str, Any] = {
        "hovertext": [_text(words) for words in marks.hover],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "name": _text(marks.label),
    }
    if side:
        heights = lifted(marks.z, z)
        marker = {"color": INK, "size": 4, "symbol": "circle"}
        if cross:
            marker |= {"color": ALARM, "symbol": "x"}
        return go.Scatter3d(x=marks.x, y=marks.y, z=heights, mode="markers", marker=marker, **look)
    marker = {"symbol": "circle", "size": 9, "color": INK, "line": {"width": 1.5, "color": PAPER}}
    if cross:
        marker |= {"symbol": "x-thin", "size": 7, "color": ALARM}
        marker["line"] = {"width": 1.5, "color": ALARM}
    return go.Scatter(x=marks.x, y=marks.y, mode="markers", marker=marker, cliponaxis=False, **look)


def lifted(heights: np.ndarray | None, z: Axis) -> np.ndarray | None:
    """Just above the surface, which would swallow half of what lies on it."""
    low, high = z.scaled(np.array(z.limits or (0.0, 1.0)))
    return None if heights is None else z.scaled(heights) + 0.012 * (high - low)


def _names(marks: Markers, z: Axis, *, side: bool) -> Iterator[dict[str, Any]]:
    """Words on a light ground, legible on any colour of the field."""
    heights = lifted(marks.z, z) if side else None
    for number, name in enumerate(marks.names):
        place = {"x": marks.x[number], "y": marks.y[number]}
        if heights is not None:
            place["z"] = heights[number]
        yield {
            **place,
            "text": _text(name),
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "bottom",
            "xshift": 6,
            "yshift": 4,
            "bgcolor": "rgba(255, 255, 255, 0.8)",
            "font": {"color": INK, "size": 12},
        }


def _text(label: str) -> str:
    return html.escape(label, quote=False)
