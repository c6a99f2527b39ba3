"""Evaluate: an objective measured along a slice, as a labelled result."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from ravine.errors import InputError
from ravine.interpolation import spread_floor
from ravine.objective import Measured, Objective
from ravine.results import SCHEMA_VERSION
from ravine.slices import Slice

_LONG_NAMES: Final = {"loss": "loss", "error": "error rate"}


def evaluate(
    objective: Objective,
    *,
    along: Slice,
    at: Any,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
) -> xr.Dataset:
    """Measure J at every given point of a slice.

    Each split is read once for all points. θ(α) is computed fresh from the ends at every point, and is the end
    itself, bit for bit, at α = 0 and 1. The caller's model and random generators are left as they were.

    Args:
        objective: what to measure.
        along: where, a ``Line``.
        at: values of α, dimensionless, finite, each once, in any order; inside or outside [0, 1].
        title: what to call the result in figures and reports.
        command: what reproduces it, kept in the result.
        progress: show a bar after the first second. By default only on a terminal.

    Returns:
        A Dataset with the dims of the slice and ``split``; ``ravine.results`` describes it. The points stand in
        the order in which they were given.

    Raises:
        InputError: the points are no numbers, the ends do not fit the model or are one point, or the data
            cannot be measured.

    Example:
        >>> from torch.nn import functional as F
        >>> from ravine import Line, Objective, supervised
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = Objective(model, supervised(F.mse_loss), (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> line = Line({"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[3.0]])})
        >>> evaluate(J, along=line, at=[0, 0.5, 1])["loss"].sel(split="data").values  # (1 + 2 alpha)^2
        array([1., 4., 9.])

    References:
        Goodfellow and Vinyals 2014, section 2.
    """
    return measured_at(objective, along, _checked(at), title=title, command=command, progress=progress)


def measured_at(
    objective: Objective,
    along: Slice,
    alpha: np.ndarray,
    *,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
    probing: bool = True,
) -> xr.Dataset:
    """``evaluate`` at points that are known to be good; without ``probing`` the noise floors are NaN."""
    began = time.perf_counter()
    coefficients = [along.coefficients(float(a)) for a in alpha]
    passes = [*objective.splits, *(objective.splits[:1] if objective.buffers == "recompute" else [])]
    expected = sum(map(len, passes)) * len(alpha) if all(map(len, passes)) else None
    hidden = None if progress is None else not progress  # tqdm's None: hidden where there is no terminal
    bar = tqdm(total=expected, desc=title or "evaluate", unit=" examples", delay=1, disable=hidden, unit_scale=True)
    with bar:
        measured = objective.measure(
            along.corners,
            coefficients,
            _ticker(bar.update),
            labels=[f"alpha = {a:g}" for a in alpha],
            probes=_probes(alpha) if probing else (),
        )
    return _labelled(objective, along, alpha, measured, title, command, time.perf_counter() - began)


def _checked(at: Any) -> np.ndarray:
    try:
        given = np.asarray(at.detach().cpu() if isinstance(at, torch.Tensor) else at)
        if given.dtype.kind not in "iufb":
            raise TypeError
        alpha = np.atleast_1d(given.astype(np.float64))
    except (TypeError, ValueError, OverflowError) as problem:
        msg = f"at must be numbers; got {at!r}"
        raise InputError(msg) from problem
    if alpha.ndim != 1 or alpha.size == 0:
        msg = f"at must be a number or a non-empty sequence of numbers; got an array of shape {alpha.shape}"
        raise InputError(msg)
    if not np.isfinite(alpha).all():
        msg = f"at must be finite; got {alpha[~np.isfinite(alpha)][0]} at index {int(np.argmin(np.isfinite(alpha)))}"
        raise InputError(msg)
    values, counts = np.unique(alpha, return_counts=True)
    if (counts > 1).any():
        msg = f"at names each point once; alpha = {values[counts > 1][0]:g} stands there {counts.max()} times"
        raise InputError(msg)
    return alpha


def _probes(alpha: np.ndarray, count: int = 5) -> list[int]:
    """Numbers of a few points spread evenly over the curve, its ends among them."""
    order = np.argsort(alpha)
    return [int(order[i]) for i in sorted({round(i * (len(order) - 1) / (count - 1)) for i in range(count)})]


def _ticker(update: Callable[[int], object]) -> Callable[[int], None]:
    return lambda done: None if update(done) else None


def _labelled(
    objective: Objective,
    along: Slice,
    alpha: np.ndarray,
    measured: Measured,
    title: str | None,
    command: str,
    seconds: float,
) -> xr.Dataset:
    splits = list(measured.moments)
    by_split = list(measured.moments.values())
    variables: dict[str, Any] = {}
    names = list(by_split[0])
    if any(list(found) != names for found in by_split):
        msg = (
            f"per_example gives other quantities on other splits: { {s: list(m) for s, m in measured.moments.items()} }"
        )
        raise InputError(msg)
    for name in names:
        of = [moments[name] for moments in by_split]
        about = {
            "long_name": _LONG_NAMES.get(name, name),
            "units": objective.units.get(name, ""),
            "counted": int(all(m.counted for m in of)),  # only whole numbers: a step function of α
        }
        variables[name] = (("alpha", "split"), np.stack([m.mean for m in of], 1), about)
        variables[f"{name}_stderr"] = (("alpha", "split"), np.stack([m.stderr for m in of], 1))
        replicates = np.stack([m.replicates for m in of], 1)
        variables[f"{name}_replicates"] = (("alpha", "split", "replicate"), replicates)
        probed = [measured.floors[split].get(name, {}) for split in splits]
        floors = [spread_floor(alpha, alpha[list(found)], np.array(list(found.values()))) for found in probed]
        if about["counted"]:  # a curve of counts moves by whole examples
            floors = [np.fmax(floor, 1 / m.count) for floor, m in zip(floors, of, strict=True)]
        variables[f"{name}_noise_floor"] = (("alpha", "split"), np.stack(floors, 1))
    variables["n_examples"] = (("split",), np.array([m["loss"].count for m in by_split]))
    distance = {"long_name": "distance from the start", "units": ""}
    return xr.Dataset(
        variables,
        coords={
            "alpha": ("alpha", alpha, {"long_name": "α", "units": "1"}),
            "distance": ("alpha", np.abs(alpha) * measured.length, distance),
            "split": ("split", np.array(splits, dtype=np.str_)),
        },
        attrs={
            "schema_version": SCHEMA_VERSION,
            "title": title or "",
            **objective.describe(),
            "dtype": measured.dtype,
            "start": along.corners[0].label,
            "end": along.corners[-1].label,
            "start_hash": measured.hashes[0],
            "end_hash": measured.hashes[-1],
            "length": measured.length,
            "data_hash": json.dumps(measured.fingerprints),
            "sampling": "grid",
            "command": command,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": round(seconds, 3),
            "versions": json.dumps(_versions()),
        },
    )


def _versions() -> Mapping[str, str]:
    return {
        "ravine": version("ravine"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
