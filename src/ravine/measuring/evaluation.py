"""Evaluate: an objective measured along a slice, as a labelled result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ravine.measuring.labelling import on_axes
from ravine.measuring.rounds import Rounds, require_objective, require_slice, with_reuse
from ravine.measuring.several import evaluate_several
from ravine.objective.objective import Objective
from ravine.points.slices import Slice
from ravine.result.axes import read_axes
from ravine.store.executors import workers_of
from ravine.store.ledger import ledger_at


def evaluate(
    objective: Objective,
    *,
    along: Slice | Mapping[str, Slice],
    at: Any,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
    store: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    executor: Any = None,
) -> xr.Dataset:
    """Measure J at every given point of a line, of a plane, or of several lines.

    Each split is read once for all points. Every point is computed fresh from the slice's corners,
    and a corner is the checkpoint itself, bit for bit. The caller's model and random generators are
    left as they were.

    Lines that share ends (``ravine.pairs`` of many checkpoints, ``ravine.by_group`` of one line)
    are measured together: each split is read once for all of them, and what they have in common is
    computed once.

    Args:
        objective: what to measure.
        along: where, a ``Line`` or a ``Plane``, or several lines by name.
        at: positions on each axis, dimensionless, finite, each once, in any order; inside or
            outside [0, 1]. For a line values of α; for a plane ``{"alpha": …, "beta": …}``, all of
            whose combinations are measured.
        title: what to call the result in figures and reports.
        command: what reproduces it, kept in the result.
        progress: show a bar after the first second. By default only on a terminal.
        store: a file that keeps what was measured, point by point: an SQLite file, made
            if need be. What it has already is not measured again, so that a measurement
            that was interrupted goes on, and a finer one measures only what is new; the
            attribute ``reused`` says so. None keeps nothing.
        fresh: measure everything anew, and replace what the store has.
        executor: who measures: a number of processes on this machine; what has the
            interface of ``concurrent.futures``, such as a ``ProcessPoolExecutor``
            (spawn), an executor of Dask, submitit or Ray; or ``ravine.Workers``, which
            says more. The numbers are those of one process with one thread, bit for
            bit, whatever workers are lost. By default this process.

    Returns:
        A Dataset with the dims of the slice and ``split``; ``ravine.result.schema`` describes it.
        The positions stand in the order in which they were given. Of several lines it has the dim
        ``line`` too, their names; each ``result.sel(line=name)`` is the result of that line.

    Raises:
        InputError: the positions are no numbers or do not name the slice's axes, the corners do not
            fit the model or are one point, or the data cannot be measured; or the store is another
            file, is in use, or cannot tell by content what is measured; or the workers cannot build
            the same objective, or are lost again and again.

    Examples:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from ravine import Line, Objective, supervised
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = Objective(model, supervised(F.mse_loss), (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> line = Line({"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[3.0]])})
        >>> curve = evaluate(J, along=line, at=[0, 0.5, 1])
        >>> curve["loss"].sel(split="data").values  # (1 + 2 alpha)^2
        array([1., 4., 9.])

    References:
        Goodfellow and Vinyals 2014, section 2 and figure 7.
    """
    require_objective(objective)
    if isinstance(along, Mapping):
        with ledger_at(store, fresh=fresh) as ledger, workers_of(executor) as crew:
            found = evaluate_several(objective, along, at, title, command, progress, ledger, crew)
            return with_reuse(found, ledger, progress)
    require_slice(along)
    axes = read_axes(at, along.dims)
    places = np.stack(np.meshgrid(*axes.values(), indexing="ij"), -1).reshape(-1, len(axes))
    with ledger_at(store, fresh=fresh) as ledger, workers_of(executor) as crew:
        rounds = Rounds(objective, along, title, command, progress, ledger, crew)
        return with_reuse(on_axes(rounds.measure(places), axes), ledger, progress)
