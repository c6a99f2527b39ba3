"""What a projected run says: how straight it went, beside a random walk."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ravine.metrics.measures import Row
from ravine.metrics.profile import minus
from ravine.metrics.verdicts import Verdict
from ravine.metrics.walks import correlated_walk, straightness

_DEFINITIONS = {
    "captured": "L / (L + the largest residual), L the length from start to end",
    "captured_squares": "Σ distance² / Σ displacement², over the snapshots",
    "max_residual": "the largest distance from the slice, over L",
    "directness": "L over the length of the path from snapshot to snapshot, up to the line's end",
}


def path_verdict(path: xr.Dataset) -> Verdict:
    """``verdict`` of a projected run."""
    steps, residual = path["step"].values, path["residual"].values
    sentences = [_farthest(path), _last(path)]
    sentences.append(
        f"{len(steps)} snapshots from step {int(steps[0]):,} to {int(steps[-1]):,}; path lengths "
        "are lower bounds, as what happened between snapshots is not seen."
    )
    rows = tuple(
        Row(who, "path", name.replace("_", " "), walk[name], np.nan, "", definition)
        for who, walk in _walks(path).items()
        for name, definition in _DEFINITIONS.items()
    )
    known = sentences if np.isfinite(residual).all() else sentences[-1:]
    return Verdict(straightness(path), tuple(filter(None, known)), rows, {})


def _walks(path: xr.Dataset) -> dict[str, dict[str, float]]:
    """The run and what it is set beside: name → measures."""
    found = {}
    for walk in path["walk"].values:
        one = path.sel(walk=walk)
        found[str(walk)] = {name: float(one[name]) for name in _DEFINITIONS}
    own = correlated_walk(path)
    if own is not None:
        found[f"random walk, steps correlated as the run's (φ = {own[0].momentum:.3g})"] = own[1]
    return found


def _farthest(path: xr.Dataset) -> str:
    widest = int(np.argmax(path["residual"].values))
    place = " and ".join(
        f"{symbol} = {minus(format(float(path[dim].values[widest]), '.3g'))}"
        for dim, symbol in (("alpha", "α"), ("beta", "β"))
        if dim in path
    )
    what = "plane" if "beta" in path else "line"
    return (
        f"It is farthest from the {what} at step {int(path['step'].values[widest]):,}, where "
        f"{place}."
    )


def _last(path: xr.Dataset) -> str:
    """What came after the line's end: the best epoch's parameters, where training stopped early."""
    length, residual = float(path.attrs["length"]), float(path["residual"].values[-1])
    if residual < 1e-6 * length or "beta" in path:
        return ""
    return (
        f"The run goes on past the line's end, to α = "
        f"{minus(format(float(path['alpha'].values[-1]), '.3g'))} and "
        f"{residual / length:.3g} of the line's length away from it."
    )
