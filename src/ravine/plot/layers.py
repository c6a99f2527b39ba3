"""What a figure says, as plain data: panels of layers. Renderers decide its looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Scale = Literal["linear", "log"]


def nice_step(least: float) -> float:
    """The smallest of …, 0.1, 0.2, 0.25, 0.5, 1, 2, … that is no less.

    Examples:
        >>> nice_step(0.13), nice_step(3.0)
        (0.2, 5.0)
    """
    decade = 10.0 ** np.floor(np.log10(least))
    # least may be above a step by rounding alone: 3 · 0.1 > 0.3
    return float(
        next(step * decade for step in (1, 2, 2.5, 5, 10) if step * decade >= least * (1 - 1e-9))
    )


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a panel.

    Attributes:
        label: what is measured along it, with the unit in brackets.
        scale: ``"linear"`` or ``"log"``.
        limits: lowest and highest coordinate shown; None leaves it to the renderer.
        names: what stands at 0, 1, 2, … instead of numbers; () for numbers.
    """

    label: str
    scale: Scale = "linear"
    limits: tuple[float, float] | None = None
    names: tuple[str, ...] = ()

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """The values on the axis's own scale: on a log axis log10, NaN where there is none.

        Examples:
            >>> Axis("loss", "log").scaled(np.array([0.01, 1000.0]))
            array([-2.,  3.])
        """
        # what has no logarithm is drawn as missing
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.log10(values) if self.scale == "log" else np.asarray(values, dtype=float)
        return np.where(np.isfinite(scaled), scaled, np.nan)

    def ticks(self, most: int = 7) -> tuple[np.ndarray, tuple[str, ...]]:
        """Places on the scale of ``scaled``, and what stands there: no logarithms are needed."""
        low, high = self.scaled(np.array(self.limits or (0.0, 1.0)))
        if self.scale == "linear":
            step = nice_step((high - low) / most)
            places = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
            return places, tuple(f"{place:.10g}".replace("-", "−") for place in places)
        every = max(1, int(np.ceil((high - low) / most)))
        decades = range(int(np.floor(low)), int(np.ceil(high)) + 1, every)
        room = most / (high - low) if high > low else np.inf
        digits = next(few for least, few in _DIGITS if room >= least)
        values = np.array([digit * 10.0**decade for decade in decades for digit in digits])
        places = np.log10(values)
        shown = (places >= low - 1e-9) & (places <= high + 1e-9)
        return places[shown], tuple(f"{value:g}" for value in values[shown])

    def shows(self, value: float) -> bool:
        """Whether a value lies within the limits."""
        return self.limits is None or self.limits[0] <= value <= self.limits[1]

    def drawable(self, values: np.ndarray) -> np.ndarray:
        """The values with those that a log axis has no place for moved just below its lower end.

        Examples:
            >>> Axis("loss", "log", (0.1, 10.0)).drawable(np.array([-1.0, 0.5]))
            array([0.05, 0.5 ])
        """
        if self.scale == "linear":
            return values
        positive = values[values > 0]
        lowest = float(positive.min(initial=np.inf)) if positive.size else 1.0
        if self.limits:
            lowest = self.limits[0]
        return np.where(values <= 0, lowest / 2, values)


#: The digits of a decade that have a tick, by how many ticks a decade has room for.
_DIGITS: Final = ((3, (1, 2, 5)), (2, (1, 3)), (0, (1,)))


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through points in order; it has a gap wherever ``y`` is NaN.

    Attributes:
        x: positions, shape (points,).
        y: heights, shape (points,).
        label: its name in the legend; "" leaves it out.
        stderr: standard error of ``y``, shape (points,), told on hovering; None if there is none.
        style: number of the colour and dash, the same for all the layers that belong together;
            ``palette.REFERENCE`` is grey, for what is drawn only to compare with.
        z: heights over a field, shape (points,), where a panel is seen from the side; None
            elsewhere.
        hover: what hovering tells, one text a point; () tells the coordinates.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    stderr: np.ndarray | None = None
    style: int = 0
    z: np.ndarray | None = None
    hover: tuple[str, ...] = ()


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
        frame: ``"data"``: ``y`` is on the y axis; ``"panel"``: 0 is the panel's bottom and 1 its
            top.
        names: words beside the marks, one a point; () for none.
        z: as in ``Curve``.
    """

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    symbol: Literal["dot", "cross"] = "dot"
    style: int = 0
    hover: tuple[str, ...] = ()
    frame: Literal["data", "panel"] = "data"
    names: tuple[str, ...] = ()
    z: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Field:
    """A quantity over a plane: colours and contour lines, or a surface seen from the side.

    Attributes:
        x: positions, shape (columns,), ascending.
        y: positions, shape (rows,), ascending.
        z: values, shape (columns, rows): ``z[i, j]`` stands at ``x[i]``, ``y[j]``. NaN is drawn as
            missing.
        levels: of the contour lines, evenly spaced on the scale of the panel's ``z``.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True, eq=False)
class Cells:
    """A table drawn: a coloured cell with its number at every pair of an x name and a y name.

    Attributes:
        z: values, shape (columns, rows), 0 and above: ``z[i, j]`` stands at x = i, y = j. NaN is
            left blank.
        texts: what stands in the cells, row by row of ``z``.
        hover: what hovering tells, likewise.
    """

    z: np.ndarray
    texts: tuple[tuple[str, ...], ...]
    hover: tuple[tuple[str, ...], ...]


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


Layer = Curve | Band | Markers | Rule | Field | Cells


@dataclass(frozen=True, eq=False)
class Panel:
    """Layers on a common pair of axes; later layers lie on top.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        layers: what is drawn.
        title: a word above the panel, "" for none.
        z: the scale of a field's colours and heights; None where there is no field. What lies on a
            field is drawn in black with a white rim, in the dash of its style.
        aspect: how long a unit of y is drawn, in units of x; None leaves it to the renderer.
        view: a field from above, ``"flat"``, or from the side, ``"3d"``.
        facing: the corner that is nearest when it is seen from the side: (−1, 1) is low x, high y.
    """

    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    title: str = ""
    z: Axis | None = None
    aspect: float | None = None
    view: Literal["flat", "3d"] = "flat"
    facing: tuple[int, int] = (-1, -1)
