"""The figure of a projected run: how far it deviates from its line, compared with a random walk."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.metrics.walks import random_walk, straightness
from ravine.plot.curves import BAND, spans_decades
from ravine.plot.figure import Figure
from ravine.plot.layers import Axis, Band, Curve, Layer, Markers, Panel
from ravine.plot.render.palette import REFERENCE
from ravine.plot.words import axis_label, padded
from ravine.result import schema


def path(result: xr.Dataset) -> Figure:
    """Distance from the slice against distance along it: a mark a snapshot, and a random walk's.

    Args:
        result: what ``project`` returned, or its saved file opened.

    Returns:
        The figure. The caption says in words whether training went straighter than a random walk.

    Raises:
        InputError: it is another kind of result.

    Examples:
        >>> import ravine, torch
        >>> run = [{"w": torch.tensor(w)} for w in ([0.0, 0.0], [3.0, 2.0], [8.0, 0.0])]
        >>> figure = path(ravine.project(run))
        >>> [layer.label for layer in figure.panels[0].layers if getattr(layer, "label", "")]
        ['random walk', 'training']

    References:
        Goodfellow and Vinyals 2014, figure 5.
    """
    if schema.kind_of(schema.validate(result)) != "path":
        msg = f"expected what project() returns; got a measured {schema.kind_of(result)}"
        raise InputError(msg)
    along, away, steps = (result[name].values for name in ("distance", "residual", "step"))
    marks = Markers(along, away, hover=tuple(f"step {int(step):,}" for step in steps))
    null = _null(result)
    layers: tuple[Layer, ...] = (*null, Curve(along, away, "training", style=0), marks)
    heights = [away, *(layer.y for layer in null if isinstance(layer, Curve))]
    places = [along, *(layer.x for layer in null if isinstance(layer, Curve))]
    horizontal, vertical = distances(result)
    panel = Panel(
        Axis(horizontal, limits=padded(np.concatenate(places))),
        Axis(vertical, limits=padded(np.concatenate([[0.0], *heights]))),
        layers,
    )
    reading = (
        "The shaded part is where it would be straighter than a random walk in as many dimensions."
        if null
        else ""
    )
    caption = " ".join(
        filter(
            None,
            [
                f"Each mark is one of {len(steps)} snapshots of training.",
                reading,
                straightness(result),
            ],
        )
    )
    panels = (panel, *_learning(result))
    return Figure(
        panels,
        str(result.attrs.get("title", ""))
        or f"Deviation of training from its {'plane' if 'beta' in result else 'line'}",
        caption,
    )


def distances(result: xr.Dataset) -> tuple[str, str]:
    """What a run's ``distance`` and ``residual`` are called: a plane has no along.

    Examples:
        >>> distances(xr.Dataset())
        ('distance along the line', 'distance from the line')
    """
    if "beta" in result:
        return "distance within the plane", "distance from the plane"
    return "distance along the line", "distance from the line"


def _learning(result: xr.Dataset) -> list[Panel]:
    """J at the snapshots, one panel a quantity, where it was measured."""
    panels = []
    for name in schema.quantities(result) if "loss" in result else []:
        layers: list[Layer] = []
        values = result[name].transpose("step", "split").values
        finite = values[np.isfinite(values)]
        log = spans_decades(finite)
        spans = [finite]
        for style, split in enumerate(map(str, result["split"].values)):
            one, stderr = values[:, style], result[f"{name}_stderr"].sel(split=split).values
            if not log:
                layers.append(
                    Band(result["step"].values, one - BAND * stderr, one + BAND * stderr, style)
                )
                spans += [one - BAND * stderr, one + BAND * stderr]
            label = split if result.sizes["split"] > 1 else ""
            layers.append(
                Curve(
                    result["step"].values,
                    np.where(np.isfinite(one), one, np.nan),
                    label,
                    stderr,
                    style,
                )
            )
        limits = (
            (float(finite.min()) / 1.6, float(finite.max()) * 1.6)
            if log
            else padded(np.concatenate(spans))
        )
        y = Axis(axis_label(result, name), "log" if log else "linear", limits)
        panels.append(Panel(Axis("step", limits=padded(result["step"].values)), y, tuple(layers)))
    return panels


def _null(result: xr.Dataset) -> tuple[Layer, ...]:
    """The random walk's semicircle, and its tail where training went on past the line's end."""
    if "null_residual" not in result:
        return ()
    length = float(result.attrs["length"])
    share = np.sin(np.linspace(0, np.pi / 2, 201)) ** 2  # even steps along the arc
    last = float(result["null_residual"].values[-1]) / length
    x, r = random_walk(np.append(share, np.linspace(1, 1 + last**2, 21)[1:]) if last > 0 else share)
    inside = slice(0, len(share))
    return (
        Band(length * x[inside], 0 * x[inside], length * r[inside], REFERENCE),
        Curve(length * x, length * r, "random walk", style=REFERENCE),
    )
