"""One figure of the whole paper: a panel of each of its findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import xarray as xr

from ravine import metrics
from ravine.paper.figures.study import Outcome
from ravine.plot import Axis, Band, Curve, Figure, Panel

#: Figure → name of a line from initial to final parameters → the network.
LINES: Final[dict[str, dict[str, str]]] = {
    "fig1": {"deterministic": "maxout"},
    "fig2": {"sigmoid": "sigmoid", "relu": "ReLU"},
    "fig6": {"whole": "convolutional maxout"},
    "fig7": {"line": "MP-DBM"},
    "fig8": {"deterministic": "LSTM"},
}

#: Figure → which of its panels, what stands above it here, and what the caption says of it.
SHOWN: Final[dict[str, tuple[int, str, str]]] = {
    "fig6": (
        1,
        "convolutional maxout near the start",
        "J near the start of the convolutional network",
    ),
    "fig7-small": (
        0,
        "small MP-DBM, from the start cut to the caps",
        "J of a small MP-DBM along the line and beyond both ends, by three seeds",
    ),
    "fig5": (
        0,
        "maxout: how far training strays",
        "training's distance from the line, beside a random walk's",
    ),
    "higher-rate": (
        -1,
        "maxout: an epoch at a higher rate",
        "J on the way of an epoch at 1, 3 and 10 times the learning rate",
    ),
    "parting": (
        1,
        "maxout: pairs that part after k updates",
        "the barrier between two trainings against the updates that they share",
    ),
}

_LINES_SAID: Final = (
    "J of the training examples along the straight line from initial to final parameters, less its "
    "end value, over its decrease"
)

#: What stands before a curve's own name where all panels share a legend.
_NAMED: Final = {"higher-rate": "learning rate", "fig7-small": "small MP-DBM,"}


def summary(outcomes: Mapping[str, Outcome]) -> Figure:
    """What was found, in one picture.

    Args:
        outcomes: by the figure's name; those that are missing leave their panel out.

    Returns:
        The figure. Its caption names the networks that are not the paper's own.

    Examples:
        >>> summary({}).panels
        ()
    """
    lines = _lines(outcomes)
    panels = [_normalised(lines)] if lines else []
    said = [_LINES_SAID] if lines else []
    for name, (_, _, about) in SHOWN.items():
        if name in outcomes:
            # one legend stands for all panels: no two networks look alike
            panels.append(_panel(outcomes[name], name, len(lines) if name in _NAMED else 0))
            said.append(about)
    shown = [name for name in outcomes if name in {*LINES, *SHOWN}]
    scaled = [name for name in shown if outcomes[name].is_scaled]
    arms = (
        f" Of smaller or shorter trainings than the paper's: {', '.join(scaled)}." if scaled else ""
    )
    return Figure(
        tuple(panels),
        "The paper in one figure",
        f"From left to right and top to bottom: {'; '.join(said)}.{arms}",
    )


def _lines(outcomes: Mapping[str, Outcome]) -> dict[str, xr.Dataset]:
    return {
        network: outcomes[figure].results[name]
        for figure, named in LINES.items()
        if figure in outcomes
        for name, network in named.items()
    }


def _normalised(lines: Mapping[str, xr.Dataset]) -> Panel:
    curves = []
    for style, (network, line) in enumerate(lines.items()):
        profile = metrics.Profile.of(line, split="train").between(0, 1)
        fall = profile.value[0] - profile.value[-1]
        curves.append(
            Curve(profile.alpha, (profile.value - profile.value[-1]) / fall, network, style=style)
        )
    y = Axis("(J − J(1)) / (J(0) − J(1))")
    return Panel(Axis("α"), y, tuple(curves), "from initial to final parameters")


def _panel(outcome: Outcome, name: str, first_style: int) -> Panel:
    """A panel without its bands, which are legible only at its own size."""
    place, title, _ = SHOWN[name]
    panel = outcome.figure.panels[place]
    layers = []
    for layer in panel.layers:
        if isinstance(layer, Curve) and name in _NAMED:
            label = f"{_NAMED[name]} {layer.label}"
            layers.append(replace(layer, label=label, style=first_style + layer.style))
        elif name in {"fig5", "parting"} or not isinstance(layer, Band):
            layers.append(layer)
    return replace(panel, layers=tuple(layers), title=title)
