"""A slider over what was measured, as the page's data: stops, readings, marks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from markupsafe import Markup


@dataclass(frozen=True)
class Stops:
    """The places of one slider, in order, as they are read."""

    label: str
    places: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """A quantity at every place: in words with its uncertainty, and a note to it (() for none)."""

    name: str
    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Mark:
    """What shows the place in one panel.

    Attributes:
        panel: the id of the panel's element.
        kind: ``"rule"``, a vertical line with dots on the curves; ``"hint"``, such a line, faint,
            in a figure that has a slider of its own; ``"point"``, a ring, or a ball where the panel
            is seen from the side.
        x: positions (places,).
        y: heights of the dots (places,), one array a curve; of a point only one.
        z: as in ``plot.Curve``.
        exact: whether hovering must hit a point, or takes the nearest.
    """

    panel: str
    kind: Literal["rule", "hint", "point"]
    x: np.ndarray
    y: tuple[np.ndarray, ...] = ()
    z: np.ndarray | None = None
    exact: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "panel": self.panel,
            "kind": self.kind,
            "x": _numbers(self.x),
            "y": list(map(_numbers, self.y)),
            "z": None if self.z is None else _numbers(self.z),
            "exact": self.exact,
        }


@dataclass(frozen=True, eq=False)
class Scrub:
    """One slider, or one for each dim; places are numbered with the last dim fastest.

    Attributes:
        name: the id of its element.
        stops: by dim.
        readings: what is read out.
        marks: in the panels.
        against: what stands before a note that is not "".
        drives: name of another slider → its place for every place of this one.
    """

    name: str
    stops: tuple[Stops, ...]
    readings: tuple[Reading, ...]
    marks: tuple[Mark, ...]
    against: str = ""
    drives: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def json(self) -> Markup:
        """For a script element."""
        data: dict[str, Any] = {
            "stops": [{"label": stops.label, "places": stops.places} for stops in self.stops],
            "readings": [
                {"name": reading.name, "texts": reading.texts, "notes": reading.notes}
                for reading in self.readings
            ],
            "against": self.against,
            "marks": [mark.data for mark in self.marks],
            "drives": self.drives,
        }
        return embedded(data)


def embedded(data: Any) -> Markup:
    """JSON that can stand in a script element.

    "<" is in strings only, where the escape means the same.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.9g}") if np.isfinite(value) else None for value in values]
