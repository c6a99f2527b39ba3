"""Policies compared: one line under each policy for running statistics."""

from __future__ import annotations

import os
from typing import Any, get_args

import xarray as xr

from ravine.measuring.evaluation import evaluate
from ravine.measuring.several import bundled
from ravine.objective.buffers import Buffers
from ravine.objective.objective import Objective
from ravine.points.slices import Line
from ravine.store.executors import workers_of


def compare_buffers(
    objective: Objective,
    line: Line,
    at: Any,
    *,
    title: str | None = None,
    command: str = "",
    progress: bool | None = None,
    store: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    executor: Any = None,
) -> xr.Dataset:
    """One line under each of the four policies for running statistics: the choice matters.

    Args:
        objective: whose model has running statistics; its own policy does not matter.
        line: where.
        at: positions, as in ``evaluate``.
        title: what to call the result.
        command: what reproduces it, kept in the result.
        progress: as in ``evaluate``.
        store: likewise.
        fresh: likewise.
        executor: likewise.

    Returns:
        A result of several lines, called by their policies.

    Raises:
        InputError: the model has no running statistics, or as ``evaluate``.
    """
    with workers_of(executor) as workers:
        return bundled(
            {
                policy: evaluate(
                    objective.with_buffers(policy),
                    along=line,
                    at=at,
                    title=title,
                    command=command,
                    progress=progress,
                    store=store,
                    fresh=fresh,
                    executor=workers,
                )
                for policy in get_args(Buffers)
            }
        )
