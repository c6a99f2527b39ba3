"""Figures for paper: matplotlib, by its object interface, without touching anybody's settings."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.text import Text

from ravine.plot.layers import Axis, Band, Cells, Curve, Field, Layer, Markers, Panel, Rule
from ravine.plot.render import static_field
from ravine.plot.render.palette import ALARM, CELLS, GREY, INK, PAPER, colour, dash

if TYPE_CHECKING:
    from matplotlib.axis import Axis as Ruler

#: Widths of one column and of a page between margins in most journals and proceedings, and a row's
#: height, in inches.
COLUMN_WIDTH: Final = 3.4
PAGE_WIDTH: Final = 7.0
ROW_HEIGHT: Final = 2.5

#: What a name on an upright axis needs, in inches.
NAME_HEIGHT: Final = 0.16

DOTS_PER_INCH: Final = 200

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": [
        "DejaVu Sans"
    ],  # comes with matplotlib, so a figure looks the same everywhere
    "font.size": 8,
    "axes.labelsize": 9,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "0.3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.useoffset": False,  # a tick says the whole number
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": None,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "lines.scale_dashes": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "text.usetex": False,
    "pdf.fonttype": 42,  # whole TrueType fonts: text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "ravine",  # else the ids inside an SVG differ from run to run
}

#: The names under which each format keeps a title, a caption, and the date that would make two runs
#: differ.
_METADATA: Final = {
    "png": ("Title", "Description", None),
    "pdf": ("Title", "Subject", "CreationDate"),
    "svg": ("Title", "Description", "Date"),
}


def drawn(panels: Sequence[Panel]) -> Sheet:
    """The panels on a matplotlib sheet: one column wide with one panel, a page wide with more."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // 2)
    with matplotlib.rc_context(_STYLE):
        if panels[0].z is not None:  # a field has its figure to itself
            return static_field.drawn(panels[0], COLUMN_WIDTH)
        width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
        tallest = max(len(panel.y.names) for panel in panels)
        height = max(ROW_HEIGHT, NAME_HEIGHT * tallest + 0.8)
        sheet = Sheet(figsize=(width, height * rows), layout="constrained")
        named: dict[str, Artist] = {}
        for place, panel in enumerate(panels, start=1):
            _draw_panel(sheet.add_subplot(rows, columns, place), panel, named)
        if named:
            _draw_legend(sheet, named)
    return sheet


def encoded(panels: Sequence[Panel], kind: str, title: str, caption: str) -> bytes:
    """The bytes of a file, ``"png"``, ``"pdf"`` or ``"svg"``; equal panels give equal bytes."""
    named_title, named_caption, date = _METADATA[kind]
    metadata: dict[str, str | None] = {named_title: title, named_caption: caption}
    if date:
        metadata[date] = None
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        drawn(panels).savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def picture(panels: Sequence[Panel]) -> bytes:
    """A lossless WebP, less than half as large as the PNG, for inside a page."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        drawn(panels).savefig(
            buffer, format="webp", dpi=DOTS_PER_INCH, pil_kwargs={"lossless": True}
        )
    return buffer.getvalue()


def _draw_panel(axes: Axes, panel: Panel, named: dict[str, Artist]) -> None:
    _set_axis(panel.x, axes.xaxis, axes.set_xscale, axes.set_xlim)
    _set_axis(panel.y, axes.yaxis, axes.set_yscale, axes.set_ylim)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.set_axisbelow(True)
    ruled = any(
        isinstance(layer, Rule) and layer.label and layer.on == "x" for layer in panel.layers
    )
    if panel.title:
        _plain(axes.set_title(panel.title, pad=15 if ruled else 6))
    for order, layer in enumerate(panel.layers, start=2):
        artist = _draw_layer(axes, panel, layer, order)
        label = getattr(layer, "label", "")
        if label and artist is not None:
            named.setdefault(label, artist)


def _set_axis(
    axis: Axis, ruler: Ruler, scale: Callable[..., Any], limit: Callable[..., Any]
) -> None:
    scale(axis.scale)
    if axis.names:
        ruler.set_ticks(range(len(axis.names)), axis.names)
        for text in ruler.get_ticklabels():
            _plain(text)
    if axis.limits:
        limit(*axis.limits)
    _plain(ruler.set_label_text(axis.label))


def _draw_layer(axes: Axes, panel: Panel, layer: Layer, order: int) -> Artist | None:
    """The artist drawn, if it belongs into the legend when it has a label."""
    match layer:
        case Curve():
            strokes = (0, dash(layer.style)) if dash(layer.style) else "-"
            (stroke,) = axes.plot(
                layer.x,
                layer.y,
                color=colour(layer.style),
                linestyle=strokes,
                linewidth=1.3,
                zorder=order,
            )
            return stroke
        case Band():
            low, high = (
                panel.y.drawable(np.where(np.isfinite(e), e, np.nan))
                for e in (layer.low, layer.high)
            )
            shade = colour(layer.style)
            axes.fill_between(layer.x, low, high, color=shade, alpha=0.2, linewidth=0, zorder=order)
            return None
        case Markers():
            return _draw_markers(axes, layer, order)
        case Rule():
            # its word would stand beside the panel
            if (panel.x if layer.on == "x" else panel.y).shows(layer.at):
                _draw_rule(axes, layer)
            return None
        case Cells():
            _draw_cells(axes, layer)
            return None
        case Field():
            return None  # of a panel with a scale for it, which is drawn elsewhere


def _draw_markers(axes: Axes, layer: Markers, order: int) -> Artist:
    look: dict[str, Any] = {"marker": "o", "markersize": 2.6, "markeredgewidth": 0}
    if layer.symbol == "cross":
        look = {"marker": "x", "markersize": 5, "markeredgewidth": 1.2}
    (marks,) = axes.plot(
        layer.x,
        layer.y,
        linestyle="none",
        **look,
        color=ALARM if layer.symbol == "cross" else colour(layer.style),
        transform=axes.get_xaxis_transform() if layer.frame == "panel" else axes.transData,
        clip_on=layer.frame != "panel",  # marks on the panel's edge are drawn whole
        zorder=order,
    )
    return marks


def _draw_cells(axes: Axes, layer: Cells) -> None:
    top = float(np.nanmax(layer.z, initial=0.0)) or 1.0
    columns, rows = layer.z.shape
    axes.grid(visible=False)
    axes.imshow(
        np.ma.masked_invalid(layer.z.T),
        cmap=CELLS,
        vmin=0,
        vmax=1.25 * top,  # the darkest quarter would swallow its number
        origin="lower",
        extent=(-0.5, columns - 0.5, -0.5, rows - 0.5),
        aspect="auto",
        zorder=1,
    )
    for (i, j), value in np.ndenumerate(layer.z):
        if layer.texts[i][j]:
            shade = PAPER if value > 0.75 * top else INK
            size = 7 if max(columns, rows) <= 6 else 5
            _plain(
                axes.text(
                    i, j, layer.texts[i][j], ha="center", va="center", fontsize=size, color=shade
                )
            )


def _draw_rule(axes: Axes, rule: Rule) -> None:
    # a rule's label stands outside the panel: above an upright one, at the right of a level one
    place: dict[str, Any]
    if rule.on == "x":
        across = axes.axvline
        place = {"xy": (rule.at, 1), "xycoords": axes.get_xaxis_transform(), "xytext": (0, 3)}
        place |= {"ha": rule.align, "va": "bottom"}
    else:
        across = axes.axhline
        place = {"xy": (1, rule.at), "xycoords": axes.get_yaxis_transform(), "xytext": (3, 0)}
        place |= {"ha": "left", "va": "center"}
    across(rule.at, color="0.7", linewidth=0.6, zorder=1)
    if not rule.label:
        return
    text = axes.annotate(
        "",
        **place,
        textcoords="offset points",
        fontsize=7,
        color=GREY,
        annotation_clip=False,
    )
    text.set_text(rule.label)
    _plain(text)


def _draw_legend(sheet: Sheet, named: dict[str, Artist]) -> None:
    # matplotlib drops labels that begin with "_", so the legend is made first and then named.
    legend = sheet.legend(
        list(named.values()),
        ["-"] * len(named),
        loc="outside upper center",
        ncols=min(len(named), 4),
    )
    for text, label in zip(legend.get_texts(), named, strict=True):
        text.set_text(label)
        _plain(text)


def _plain(text: Text) -> None:
    """A dollar sign in a name is a dollar sign, not mathematics that may fail to parse."""
    text.set_parse_math(False)
