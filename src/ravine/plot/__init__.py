"""Drawings of results: a figure is data first, then rendered.

``line``, ``lines``, ``barriers``, ``surface``, ``path`` and ``soup`` turn results into a
``Figure``; ``Figure.save`` writes it for a paper (PDF, SVG, PNG) or for a browser (HTML).
matplotlib and Plotly are imported only when something is rendered.
"""

from ravine.plot.connections import barriers, end_changes
from ravine.plot.curves import line, lines
from ravine.plot.figure import Figure
from ravine.plot.layers import Axis, Band, Cells, Curve, Field, Layer, Markers, Panel, Rule
from ravine.plot.paths import path
from ravine.plot.soups import soup
from ravine.plot.surfaces import surface

__all__ = [
    "Axis",
    "Band",
    "Cells",
    "Curve",
    "Field",
    "Figure",
    "Layer",
    "Markers",
    "Panel",
    "Rule",
    "barriers",
    "end_changes",
    "line",
    "lines",
    "path",
    "soup",
    "surface",
    "end_changes",
]
