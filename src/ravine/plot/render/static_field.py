"""Panels with a field, for paper: colours and contours from above, or a surface."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure as Sheet
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.proj3d import proj_transform

from ravine.plot.layers import Axis, Curve, Field, Markers, Panel
from ravine.plot.render.palette import ALARM, INK, PAPER, RAMP, dash

#: From this many steps on a dot at each would merge into the path.
DOTTED_BELOW: Final = 60

#: Room for labels around a panel seen from above, in inches.
_LEFT, _RIGHT, _BELOW, _ABOVE = 0.55, 0.85, 0.42, 0.12

_RIM: Final = withStroke(linewidth=2.2, foreground=PAPER)


def drawn(panel: Panel, width: float) -> Sheet:
    """A sheet with one panel that has a field, and its colour bar; as high as it needs to be.

    Places are set by hand: matplotlib's layout engines know neither the labels of a 3-D panel nor a
    fixed aspect.
    """
    if panel.view == "3d":
        sheet = Sheet(figsize=(width, 0.78 * width))
        axes = sheet.add_axes((0.0, 0.03, 0.93, 0.97), projection="3d")
        _draw_side(axes, panel)
        return sheet
    (west, east), (south, north) = panel.x.limits or (0.0, 1.0), panel.y.limits or (0.0, 1.0)
    wide = width - _LEFT - _RIGHT
    shape = panel.aspect * (north - south) / (east - west) if panel.aspect else 0.9
    high = wide * float(np.clip(shape, 0.4, 2.0))
    sheet = Sheet(figsize=(width, high + _BELOW + _ABOVE))
    up, across = high + _BELOW + _ABOVE, width
    axes = sheet.add_axes((_LEFT / across, _BELOW / up, wide / across, high / up))
    bar = sheet.add_axes(((_LEFT + wide + 0.1) / across, _BELOW / up, 0.1 / across, high / up))
    _draw_flat(sheet, axes, bar, panel)
    return sheet


def _draw_flat(sheet: Sheet, axes: Axes, bar: Axes, panel: Panel) -> None:
    for axis, ruler, limit in (
        (panel.x, axes.xaxis, axes.set_xlim),
        (panel.y, axes.yaxis, axes.set_ylim),
    ):
        limit(*(axis.limits or (0.0, 1.0)))
        ruler.set_label_text(axis.label)
    axes.set_aspect(panel.aspect or "auto")
    axes.spines[["top", "right"]].set_visible(True)
    # what a field does not cover
    axes.patch.set(facecolor="0.88", hatch="////", edgecolor="0.65", linewidth=0)
    for order, layer in enumerate(panel.layers, start=2):
        match layer:
            case Field():
                _draw_contours(sheet, axes, bar, panel, layer)
            case Curve():
                _draw_trail(axes, layer, (layer.x, layer.y), order)
            case Markers():
                _draw_marks(axes, layer, (layer.x, layer.y), order)
            case _:
                pass


def _draw_contours(sheet: Sheet, axes: Axes, beside: Axes, panel: Panel, field: Field) -> None:
    z = _scale(panel)
    levels, heights = z.scaled(field.levels), np.ma.masked_invalid(z.scaled(field.z).T)
    shades = BoundaryNorm(levels, colormaps[RAMP].N)
    if heights.count():
        filled = axes.contourf(field.x, field.y, heights, levels=levels, cmap=RAMP, norm=shades)
        filled.set_edgecolor("face")  # else a viewer shows the page between two bands of a PDF
        axes.contour(
            field.x,
            field.y,
            heights,
            levels=levels,
            colors=PAPER,
            linewidths=0.35,
            linestyles="solid",
            alpha=0.7,
        )
    bar = sheet.colorbar(ScalarMappable(shades, RAMP), cax=beside)
    places, words = z.ticks()
    bar.set_ticks(list(places), labels=list(words))
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
    _plain(bar.ax.yaxis.set_label_text(z.label))


def _draw_side(axes: Any, panel: Panel) -> None:
    z = _scale(panel)
    low, high = z.scaled(np.array(z.limits or (0.0, 1.0)))
    azimuth = float(np.degrees(np.arctan2(panel.facing[1], 0.7 * panel.facing[0])))
    (left, right), (near, far) = panel.x.limits or (0.0, 1.0), panel.y.limits or (0.0, 1.0)
    axes.set(xlim=(left, right), ylim=(near, far), zlim=(low, high))
    deep = (panel.aspect or (right - left) / (far - near)) * (far - near) / (right - left)
    axes.set_box_aspect((1, deep, 0.65), zoom=0.95)
    axes.view_init(elev=35, azim=azimuth)
    axes.computed_zorder = False  # a path on a surface is drawn over it, not in part behind it
    for layer in panel.layers:
        match layer:
            case Field():
                shades = Normalize(low, high)
                heights = z.scaled(layer.z)
                colours = colormaps[RAMP](shades(np.nan_to_num(heights, nan=low)))
                colours[..., :3] *= _light(layer, heights, high - low)[..., None]
                across, along = np.meshgrid(layer.x, layer.y, indexing="ij")
                drawn = axes.plot_surface(
                    across,
                    along,
                    heights,
                    facecolors=colours,
                    rcount=90,
                    ccount=90,
                    linewidth=0,
                    antialiased=False,
                    shade=False,  # matplotlib's own shades hide the colours
                )
                drawn.set_rasterized(True)  # thousands of facets make a PDF slow
            case Curve() if layer.z is not None:
                _draw_trail(axes, layer, (layer.x, layer.y, z.scaled(layer.z)), 20)
            case Markers() if layer.z is not None:
                _draw_marks(
                    axes, layer, (layer.x, layer.y, z.scaled(layer.z)), 21, _trails(axes, panel)
                )
            case _:
                pass
    places, words = z.ticks()
    axes.set_zticks(places, words)
    axes.set_xlabel(panel.x.label, labelpad=-6)
    axes.set_ylabel(panel.y.label, labelpad=-6)
    _plain(axes.set_zlabel(z.label, labelpad=-2) or axes.zaxis.label)
    axes.tick_params(pad=-3, labelsize=7)
    axes.tick_params(axis="z", pad=0)
    for ruler in (axes.xaxis, axes.yaxis):
        ruler.set_major_locator(MaxNLocator(4))
    for ruler in (axes.xaxis, axes.yaxis, axes.zaxis):
        ruler.set_pane_color((1, 1, 1, 0))
        ruler._axinfo["grid"].update(color="0.85", linewidth=0.5)  # there is no other way


def _light(field: Field, heights: np.ndarray, extent: float) -> np.ndarray:
    """Light from above, soft enough to leave the colours readable: 1 where the surface is flat."""
    across, along = (axis / np.ptp(axis) for axis in (field.x, field.y))
    slopes = np.gradient(heights / extent, across, along)
    return np.nan_to_num(0.7 + 0.3 / np.sqrt(1 + sum(slope**2 for slope in slopes)), nan=1.0)


def _draw_trail(axes: Any, curve: Curve, places: tuple[np.ndarray, ...], order: float) -> None:
    few = len(curve.x) < DOTTED_BELOW and not dash(curve.style)  # dots would fill the gaps
    strokes = (0, dash(curve.style)) if dash(curve.style) else "-"
    look = {"color": INK, "linewidth": 0.9, "linestyle": strokes, "zorder": order}
    look |= {"marker": "o" if few else "", "markersize": 1.6}
    axes.plot(*places, path_effects=[_RIM], **look)


def _trails(axes: Any, panel: Panel) -> np.ndarray:
    """(points, 2) where a panel's lines run in the picture, seen from the side, in points."""
    z = _scale(panel)
    curves = [layer for layer in panel.layers if isinstance(layer, Curve) and layer.z is not None]
    places = [_densely(curve.x, curve.y, z.scaled(np.asarray(curve.z, float))) for curve in curves]
    return _seen(axes, np.concatenate([np.empty((0, 3)), *places]))


def _densely(*line: np.ndarray) -> np.ndarray:
    """(501, 3) a line in space at evenly many places."""
    wanted, given = np.linspace(0, 1, 501), np.linspace(0, 1, len(line[0]))
    return np.stack([np.interp(wanted, given, one) for one in line], 1)


def _seen(axes: Any, places: np.ndarray) -> np.ndarray:
    """Places in three dimensions → in the picture, in typographic points."""
    axes.apply_aspect()
    flat = np.stack(
        proj_transform(places[:, 0], places[:, 1], places[:, 2], axes.get_proj())[:2], 1
    )
    return axes.transData.transform(flat) * 72 / axes.figure.dpi


def _beside(name: str, mark: np.ndarray, taken: np.ndarray) -> tuple[int, int]:
    """From a mark to its name's near corner, in points: where the fewest lines run behind it."""
    wide, high = 5 * len(name), 10

    def covered(offset: tuple[int, int]) -> int:
        away = (taken - mark - offset) * np.sign(offset)
        return int(((away > -1) & (away < (wide, high))).all(axis=1).sum())

    # what is low and to the right are often ticks
    return min(((4, 6), (-4, -6), (-4, 6), (4, -6)), key=covered)


def _draw_marks(
    axes: Any,
    marks: Markers,
    places: tuple[np.ndarray, ...],
    order: float,
    taken: np.ndarray | None = None,
) -> None:
    if marks.symbol == "cross":
        axes.plot(*places, linestyle="none", marker="x", markersize=3, color=ALARM, zorder=order)
        return
    axes.plot(
        *places,
        linestyle="none",
        marker="o",
        markersize=4.5,
        color=INK,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
        zorder=order,
        clip_on=False,
    )
    for *place, name in zip(*places, marks.names, strict=True):
        if not np.isfinite(place).all():
            continue
        if taken is not None:
            x, y, _ = proj_transform(place[0], place[1], place[2], axes.get_proj())
            beside = _beside(name, _seen(axes, np.array([place]))[0], taken)
        else:
            x, y = place
            # a word points inwards, so that it stays in the picture
            right = x <= np.mean(axes.get_xlim())
            up = y <= np.mean(axes.get_ylim())
            beside = (5 if right else -5, 5 if up else -5)
        sideways, upwards = beside
        ha = "left" if sideways > 0 else "right"
        va = "bottom" if upwards > 0 else "top"
        axes.annotate(
            name,
            (x, y),
            xytext=beside,
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=8,
            path_effects=[_RIM],
            zorder=order + 1,
        )


def _scale(panel: Panel) -> Axis:
    return panel.z or Axis("")


def _plain(text: Any) -> None:
    text.set_parse_math(False)
