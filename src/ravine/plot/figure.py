"""What a figure says, as plain data: panels of layers on two axes. How it looks is the renderers' affair."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from ravine.errors import InputError
from ravine.results import written_whole

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

#: What ``Figure.save`` can write.
SUFFIXES: Final = (".png", ".pdf", ".svg", ".html")


Scale = Literal["linear", "log"]


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a panel.

    Attributes:
        label: what is measured along it, with the unit in brackets.
        scale: ``"linear"`` or ``"log"``.
        limits: lowest and highest coordinate shown; None leaves it to the renderer.
    """

    label: str
    scale: Scale = "linear"
    limits: tuple[float, float] | None = None

    def drawable(self, values: np.ndarray) -> np.ndarray:
        """The values with those that a log axis has no place for moved just below its lower end.

        Example:
            >>> Axis("loss", "log", (0.1, 10.0)).drawable(np.array([-1.0, 0.5]))
            array([0.05, 0.5 ])
        """
        if self.scale == "linear":
            return values
        positive = values[values > 0]
        lowest = self.limits[0] if self.limits else float(positive.min()) if positive.size else 1.0
        return np.where(values <= 0, lowest / 2, values)


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through points in order; it has a gap wherever ``y`` is NaN.

    Attributes:
        x: positions, shape (points,).
        y: heights, shape (points,).
        label: its name in the legend; "" leaves it out.
        stderr: standard error of ``y``, shape (points,), told on hovering; None if there is none.
        style: number of the colour and dash, the same for all the layers that belong together.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    stderr: np.ndarray | None = None
    style: int = 0


@dataclass(frozen=True, eq=False)
class Band:
    """A shaded region between two heights; interrupted wherever one of them is not finite.

    Attributes:
        x: positions, shape (points,).
        low: lower edge, shape (points,).
        high: upper edge, shape (points,).
        style: as in ``Curve``.
    """

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    style: int = 0


@dataclass(frozen=True, eq=False)
class Markers:
    """Marks at single points.

    Attributes:
        x: positions, shape (points,).
        y: heights, shape (points,), on the y axis or as a fraction of the panel, as ``frame`` says.
        label: its name in the legend; "" leaves it out.
        symbol: ``"dot"`` in the colour of ``style``, or ``"cross"`` in the colour of an alarm.
        style: as in ``Curve``.
        hover: what hovering tells, one text a point; () tells nothing.
        frame: ``"data"``: ``y`` is on the y axis; ``"panel"``: 0 is the panel's bottom and 1 its top.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    symbol: Literal["dot", "cross"] = "dot"
    style: int = 0
    hover: tuple[str, ...] = ()
    frame: Literal["data", "panel"] = "data"


@dataclass(frozen=True)
class Rule:
    """A thin line right across the panel.

    Attributes:
        at: where it stands, on the axis that ``on`` names.
        label: the word at its end.
        on: the axis on which it stands: ``"x"`` makes it vertical.
        align: which part of the word is at the line; ``"right"`` puts the word to its left.
    """

    at: float
    label: str = ""
    on: Literal["x", "y"] = "x"
    align: Literal["left", "center", "right"] = "center"


Layer = Curve | Band | Markers | Rule


@dataclass(frozen=True, eq=False)
class Panel:
    """Layers on a common pair of axes; later layers lie on top.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        layers: what is drawn.
        title: a word above the panel, "" for none.
    """

    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Figure:
    """Panels, and the words that go with them.

    Attributes:
        panels: drawn in rows of two.
        title: what it shows. A page has it as its heading, the other files in their metadata.
        caption: how to read it, ready for a paper. A page prints it, the other files have it in their metadata.

    Example:
        >>> x = np.linspace(0, 1, 5)
        >>> panel = Panel(Axis("x"), Axis("height (m)"), (Curve(x, x**2, label="parabola"),))
        >>> Figure((panel,)).save("figure.gif")
        Traceback (most recent call last):
        ravine.errors.InputError: cannot save a figure as 'figure.gif': expected a name that ends in .png, .pdf,
        .svg or .html
    """

    panels: tuple[Panel, ...]
    title: str = ""
    caption: str = ""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure, whole or not at all.

        Args:
            path: the file to write; its suffix chooses the format. ``.pdf`` and ``.svg`` keep their text
                editable, ``.png`` has 200 dots per inch, ``.html`` is one page that opens offline.

        Returns:
            The path written.

        Raises:
            InputError: another suffix, or the file cannot be written.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in SUFFIXES:
            expected = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
            msg = f"cannot save a figure as {str(target)!r}: expected a name that ends in {expected}"
            raise InputError(msg)
        with written_whole(target) as partial:
            partial.write_bytes(self._encoded(suffix[1:]))
        return target

    def to_matplotlib(self) -> matplotlib.figure.Figure:
        """The figure as matplotlib's, to be changed by hand."""
        from ravine.plot import static

        return static.drawn(self)

    def to_plotly(self) -> plotly.graph_objects.Figure:
        """The figure as Plotly's, to be changed by hand or explored in a notebook."""
        from ravine.plot import interactive

        return interactive.drawn(self)

    def _repr_png_(self) -> bytes:
        return self._encoded("png")

    def _encoded(self, kind: str) -> bytes:
        if kind == "html":
            from ravine.plot import page

            return page.whole(self).encode()
        from ravine.plot import static

        return static.encoded(self, kind)
