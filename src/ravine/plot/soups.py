"""The figure of a soup: what each step changed, and which steps were taken."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.plot.figure import Figure
from ravine.plot.layers import Axis, Curve, Layer, Markers, Panel, Rule
from ravine.plot.words import axis_label, padded
from ravine.result.schema import kind_of, validate


def soup(history: xr.Dataset) -> Figure:
    """What each step of a soup changed on the split that selects, the first on top.

    Args:
        history: of a soup, as ``ravine.soup(…).history`` has it.

    Returns:
        The figure. A dot is a step that was taken, a cross one that was not; bars are the
        bounds that decided.

    Raises:
        InputError: it is no history of a soup.
    """
    if kind_of(validate(history, history=True)) != "soup":
        msg = f"expected the history of a soup; got a measured {kind_of(history)}"
        raise InputError(msg)
    compared = history.isel(step=np.isfinite(history["difference"].values))
    is_compared = compared.sizes["step"] > 0
    shown = compared if is_compared else history
    x = shown["difference" if is_compared else "value"].values
    place = np.arange(len(x))[::-1].astype(float)
    ends, layers = [x], list[Layer]()
    if is_compared:
        layers.append(Rule(0.0))
        ends.append(np.zeros(1))
    if is_compared and history.attrs["rule"] == "decided":
        tolerance = float(history.attrs["tolerance"])
        layers.append(Rule(tolerance, "tolerance", align="left"))
        ends.append(np.array([tolerance]))
    for low, high, height in zip(shown["lower"].values, shown["upper"].values, place, strict=True):
        reach = np.array([low, high])
        if np.isfinite(reach).all():
            layers.append(Curve(reach, np.array([height, height])))
            ends.append(reach)
    accepted = shown["accepted"].values.astype(bool)
    told = [
        f"{one}: {why}"
        for one, why in zip(shown["step"].values, shown["reason"].values, strict=True)
    ]
    for symbol, label, chosen in (("dot", "taken", accepted), ("cross", "left out", ~accepted)):
        if chosen.any():
            hover = tuple(text for text, one in zip(told, chosen, strict=True) if one)
            layers.append(
                Markers(
                    x[chosen],
                    place[chosen],
                    label,
                    symbol,  # pyright: ignore[reportArgumentType]
                    hover=hover,
                )
            )
    names = tuple(str(name) for name in reversed(shown["step"].values))
    label = f"{axis_label(history, 'value')} on {history.attrs['select']}"
    said = f"change in {label}" if is_compared else label
    y = Axis("", limits=(-0.6, len(names) - 0.4), names=names)
    panel = Panel(Axis(said, limits=padded(np.concatenate(ends))), y, tuple(layers))
    caption = "A dot is taken, a cross is left out." + (
        " Each step against the average before it; bars are the bounds that decided."
        if is_compared
        else ""
    )
    return Figure((panel,), str(history.attrs.get("title", "")) or "Soup", caption)
