"""What lies between two points of a network's parameter space.

>>> import ravine, torch
>>> model = torch.nn.Linear(2, 1)
>>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss), (torch.ones(3, 2), torch.zeros(3, 1)))
>>> line = ravine.Line({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)},
...                    {"weight": torch.ones(1, 2), "bias": torch.ones(1)})
>>> curve = ravine.evaluate(J, along=line, at=[0.0, 0.5, 1.0])
>>> [float(value) for value in curve["loss"].sel(split="data")]  # (3 alpha)^2
[0.0, 2.25, 9.0]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ravine import metrics, plot
    from ravine.checkpoints import Checkpoint
    from ravine.comparisons import average, between_runs, by_group, compare_buffers, pairs
    from ravine.directions import black_sheep, principal_axes, random_axes
    from ravine.errors import InputError
    from ravine.evaluation import evaluate
    from ravine.inspection import inspect
    from ravine.interpolation import reconstruct
    from ravine.losses import causal_lm, contexts, stateful, supervised
    from ravine.objective import Objective
    from ravine.params import Params
    from ravine.projection import project
    from ravine.report import write_report
    from ravine.resolution import resolve
    from ravine.results import open_result, save_result
    from ravine.slices import Line, Plane
    from ravine.trajectory import Trajectory, TrajectoryRecorder
    from ravine.walks import straightness

#: Public name → where it lives. Looked up on first use, so that a result opens where there is no
#: torch.
_HOMES = {
    "Checkpoint": "checkpoints",
    "InputError": "errors",
    "Line": "slices",
    "Objective": "objective",
    "Params": "params",
    "Plane": "slices",
    "Trajectory": "trajectory",
    "TrajectoryRecorder": "trajectory",
    "average": "comparisons",
    "between_runs": "comparisons",
    "black_sheep": "directions",
    "by_group": "comparisons",
    "causal_lm": "losses",
    "compare_buffers": "comparisons",
    "contexts": "losses",
    "evaluate": "evaluation",
    "inspect": "inspection",
    "metrics": "metrics",
    "open_result": "results",
    "pairs": "comparisons",
    "plot": "plot",
    "principal_axes": "directions",
    "project": "projection",
    "random_axes": "directions",
    "reconstruct": "interpolation",
    "resolve": "resolution",
    "save_result": "results",
    "stateful": "losses",
    "straightness": "walks",
    "supervised": "losses",
    "write_report": "report",
}

__all__ = [
    "Checkpoint",
    "InputError",
    "Line",
    "Objective",
    "Params",
    "Plane",
    "Trajectory",
    "TrajectoryRecorder",
    "average",
    "between_runs",
    "black_sheep",
    "by_group",
    "causal_lm",
    "compare_buffers",
    "contexts",
    "evaluate",
    "inspect",
    "metrics",
    "open_result",
    "pairs",
    "plot",
    "principal_axes",
    "project",
    "random_axes",
    "reconstruct",
    "resolve",
    "save_result",
    "stateful",
    "straightness",
    "supervised",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'ravine' has no attribute {name!r}"
        raise AttributeError(msg)
    module = importlib.import_module(f"ravine.{_HOMES[name]}")
    found = module if _HOMES[name] == name else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
