"""A small run seen from everywhere: measured on its line and plane, projected on both."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

import ravine
from oracles import of_w, point


class Seen(NamedTuple):
    line: xr.Dataset
    path: xr.Dataset
    plane: xr.Dataset
    flight: xr.Dataset
    """The same run, projected on the plane."""
    pairs: xr.Dataset
    """The lines between three of its points."""
    elsewhere: xr.Dataset
    """A plane that nothing was projected on."""


@functools.cache
def seen() -> Seen:
    """J(w) = mean over x of |w − x|²/2, and a run that spirals in from (3, 1, 0), off its plane."""
    rng = np.random.default_rng(8)
    x = torch.tensor(rng.normal(size=(40, 3)) * [1.0, 0.5, 0.2])
    turn = np.linspace(0, 2.5, 9)
    run = [
        point(*(3 * np.exp(-t) * np.array([np.cos(t), np.sin(t) + 0.3, 0.2 * t * (t - 2.5)])))
        for t in turn
    ]
    J = of_w(lambda w, x: ((w - x) ** 2).sum() / 2, x, size=3)  # noqa: N806  the paper's name
    line = ravine.Line(run[0], run[-1])
    plane = ravine.Plane(run[0], run[-1], run[3])
    return Seen(
        ravine.evaluate(J, along=line, at=np.linspace(-0.25, 1.25, 31), title="the line"),
        ravine.project(run, onto=line, objective=J).assign_attrs(title="the run"),
        ravine.evaluate(
            J,
            along=plane,
            at={"alpha": np.linspace(-0.2, 1.2, 8), "beta": np.linspace(-0.4, 1.6, 6)},
            title="the plane",
        ),
        ravine.project(run, onto=plane, objective=J).assign_attrs(title="the run on the plane"),
        ravine.evaluate(
            J,
            along=ravine.pairs(dict(zip("abc", (run[0], run[3], run[-1]), strict=True))),
            at=np.linspace(0, 1, 7),
        ),
        ravine.evaluate(
            J,
            along=ravine.Plane(run[1], run[4], run[-1]),
            at={"alpha": np.linspace(-0.2, 1.2, 7), "beta": np.linspace(-0.4, 1.6, 5)},
            title="another plane",
        ),
    )
