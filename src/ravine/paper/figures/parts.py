"""What figures share: curves as the paper draws them, the learning curve, words of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import numpy as np
import xarray as xr

import ravine
from ravine.paper import training
from ravine.plot import Axis, Curve, Markers, Panel, Rule

#: α = i/9 for i = 0 … 19, of the original experiment: and beyond the solution at 1.
#: Source: github.com/goodfeli/galatea @ 002a9f2, warm_start/lin_interp.py.
COARSE: Final = np.arange(20) / 9


def panel(
    curve: xr.Dataset,
    title: str,
    scale: Literal["linear", "log"] = "linear",
    quantity: str = "loss",
    label: str = "J (nats)",
) -> Panel:
    """The loss as the paper draws it: on a linear axis by default, without a dot at every point."""
    drawn = ravine.plot.line(curve, quantity, scale=scale).panels[0]
    layers = tuple(
        layer for layer in drawn.layers if not isinstance(layer, Markers) or layer.symbol == "cross"
    )
    return replace(drawn, layers=layers, title=title, y=replace(drawn.y, label=label))


def with_points(
    panel: Panel, curve: xr.Dataset, within: tuple[float, float] | None = None
) -> Panel:
    """The panel with a dot at every measured point of another curve, of the same splits."""
    alpha = curve["alpha"].values
    shown = (
        np.ones(len(alpha), bool) if within is None else (alpha >= within[0]) & (alpha <= within[1])
    )
    dots = tuple(
        Markers(alpha[shown], curve["loss"].sel(split=split).values[shown], style=style)
        for style, split in enumerate(curve["split"].values)
    )
    return replace(panel, layers=(*panel.layers, *dots))


def learning_curve(run: training.Run) -> Panel:
    """Objective against epoch, on training and validation examples, phase 1."""
    history = run.history
    first = history.isel(record=np.flatnonzero(history["phase"].values == 1))
    epochs = first["epoch"].values.astype(float)
    best = float(epochs[first["step"].values == run.best_step][0])
    training_curve = first["objective"].sel(split="train").values
    diverged = np.nanmax(training_curve) > 10 * training_curve[0]
    curves = []
    for style, split in enumerate(("train", "valid")):
        values = first["objective"].sel(split=split).values
        # a lean training does not watch every epoch's training examples
        seen = np.isfinite(values) if run.recipe.is_lean else np.ones(len(values), bool)
        curves.append(Curve(epochs[seen], values[seen], split, style=style))
    layers = (Rule(best, "solution"), *curves)
    return Panel(
        Axis("epoch"),
        Axis("objective as trained (nats)", "log" if diverged else "linear"),
        layers,
        "learning curve",
    )


def described(run: training.Run) -> str:
    """Which training it was, in words."""
    recipe, history = run.recipe, run.history
    phase = history["phase"].values
    epochs = int(history["epoch"].values[phase == 1].max())
    best = int(history["epoch"].values[(phase == 1) & (history["step"].values == run.best_step)][0])
    return (
        f"{recipe.name}, profile {recipe.profile}: {recipe.train:,} + {recipe.valid:,} examples, "
        f"the solution is epoch {best} of {epochs}; {run.tested}.{_circumstances(run)}"
    )


def _circumstances(run: training.Run) -> str:
    """What is not as everywhere: the device, the precision, an early stop."""
    said = ""
    if run.device_type != "cpu":
        said += f" Trained on {run.device}."
    if run.precision:
        said += f" Products while training: {run.precision}."
    if run.stopped:
        said += f" Not trained to its end: {run.stopped}."
    return said
