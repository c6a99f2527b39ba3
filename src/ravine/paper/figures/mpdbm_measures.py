"""What is measured of the MP-DBM: lines from two starts, training's path, and the effort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

import ravine
from ravine.paper import training
from ravine.paper.figures.study import Study
from ravine.paper.models import MPDBM
from ravine.paper.recipe import Profile
from ravine.paper.tasks.prediction import Prediction, alone
from ravine.paper.tasks.task import cut_rows


@dataclass(frozen=True)
class Effort:
    """What a profile spends on measuring: ours.

    Attributes:
        examples: of each split, the first; None takes all that training watched.
        line: points of a resolved line, at most.
        plane: points of the plane, at most.
        on_plane: as ``examples``, for the plane.
    """

    examples: int | None
    line: int
    plane: int
    on_plane: int | None


#: ``full`` is for one large GPU: an example takes 0.47 GFLOP at a point, as much again where it is
#: classified. At 30 TFLOP/s in float32 (assumed, not measured) the whole is some 3 minutes, the
#: plane a third of it.
EFFORT: Final[dict[Profile, Effort]] = {
    "quick": Effort(None, 73, 400, None),
    "desk": Effort(400, 97, 700, 250),
    "full": Effort(None, 65, 441, None),
}

#: Draws of masks and binary images for each example, where the curve is to depend less on one of
#: them: ours.
DRAWS: Final = 4

#: Names of the two wide lines.
RAW: Final = "from the start as drawn"
CUT: Final = "from the start cut to the caps"

#: Which machine in which profile: the small one, of 500 and 1,000 hidden units, fits a desk.
SIZES: Final[dict[Profile, str]] = {
    "quick": "mpdbm-mnist",
    "desk": "mpdbm-small-mnist",
    "full": "mpdbm-mnist",
}

#: The line beyond both its ends: ours, the paper does not say what it drew.
WIDE: Final = (-1.5, 2.0)

#: Points of it, 0.05 apart: what is narrower cannot be ruled out there.
WIDE_POINTS: Final = 71

#: What a profile changed of the paper's experiment, to stand beside the figure.
CHANGED: Final[dict[Profile, str]] = {
    "full": "",
    "desk": (
        "This is a scaled arm: a machine of 500 and 1,000 hidden units, not 2,087 and 3,200, on a "
        "tenth of the images, for 24 epochs."
    ),
    "quick": (
        "This is a toy on 8 × 8 digits, to try the code: 60 and 90 hidden units. It says nothing "
        "about the paper's network."
    ),
}

UNIT: Final = "J (nats per pixel)"

BOTH: Final = ("train", "valid")


def projected_start(run: training.Run) -> tuple[dict[str, torch.Tensor], float]:
    """The point nearest to the initial parameters that the caps allow, and how far it is from them.

    The caps bound each row for itself, so the nearest point is each row cut to its cap.
    """
    network: Any = run.recipe.network
    start = run.trajectory[0].params
    nearest = {name: tensor.clone() for name, tensor in start.items()}
    cut_rows(nearest, network.row_caps)
    away = [torch.linalg.vector_norm((nearest[name] - start[name]).double()) for name in start]
    return nearest, float(torch.stack(away).norm())


def performance(run: training.Run) -> float:
    """The solution's error on validation images; NaN for what is not the whole training."""
    if run.recipe.profile != "full" or not isinstance(run.recipe.network, MPDBM):
        return float("nan")
    history = run.history
    return float(
        history["error"].sel(split="valid").values[history["step"].values == run.best_step][0]
    )


def start_over_cap(run: training.Run) -> float:
    """The mean norm of what feeds a unit of the first layer at the start, over its cap."""
    network: Any = run.recipe.network
    norms = torch.linalg.vector_norm(run.trajectory[0].params["W1"], dim=1)
    return float(norms.mean()) / network.caps[0]


def line_of(study: Study, run: training.Run) -> xr.Dataset:
    """J on [0, 1], resolved."""
    return measured(study, run, "line", "MP-DBM", interval=(0.0, 1.0), splits=BOTH, costs=alone)


def wide_of(study: Study, run: training.Run, name: str, title: str, *, cut: bool) -> xr.Dataset:
    """J and the error rate and beyond both ends, at evenly spaced points, the ends among them."""
    at = np.linspace(*WIDE, WIDE_POINTS)
    return measured(study, run, name, f"MP-DBM, {title}", at=at, cut=cut)


def path_of(study: Study, run: training.Run) -> xr.Dataset:
    """Training seen from the line, with what its start is like beside it."""

    def measure() -> xr.Dataset:
        nearest, outside = projected_start(run)
        path = ravine.project(run.trajectory, onto=ravine.Line(*ends_of(run)))
        from_cut = ravine.project(run.trajectory, onto=ravine.Line(nearest, run.solution))
        seen = {"cut_alpha": from_cut["alpha"], "cut_residual": from_cut["residual"]}
        about = {"outside": outside, "start_over_cap": start_over_cap(run)}
        about["cut_length"] = float(from_cut.attrs["length"])
        return path.assign(
            {name: ("step", found.values) for name, found in seen.items()}
        ).assign_attrs(about)

    return study.kept("fig7-path", (run.identity, "with its start"), measure)


def ends_of(run: training.Run) -> tuple[Any, Any]:
    """The initial parameters and the solution."""
    return run.start, run.solution


def measured(
    study: Study,
    run: training.Run,
    name: str,
    title: str,
    *,
    at: np.ndarray | None = None,
    interval: tuple[float, float] | None = None,
    cut: bool = False,
    splits: tuple[str, ...] = ("train",),
    **how: Any,
) -> xr.Dataset:
    """J along a line, at some points or resolved, on the profile's examples.

    ``how`` is as ``measured`` has it.

    With ``cut`` it is from the nearest start that the caps allow.
    """
    effort = EFFORT[study.profile]
    grid = None if at is None else (len(at), float(at[0]), float(at[-1]))
    what = (
        run.identity,
        effort.examples,
        grid,
        interval,
        effort.line,
        splits,
        *sorted((key, getattr(value, "__name__", str(value))) for key, value in how.items()),
        *(("cut",) if cut else ()),
    )

    def measure() -> xr.Dataset:
        J = task_of(study, run).measured(splits, examples=effort.examples, **how)
        start = projected_start(run)[0] if cut else run.start
        line = ravine.Line(start, run.solution)
        if interval is None:
            return ravine.evaluate(J, along=line, at=at, title=title)
        return ravine.resolve(J, along=line, interval=interval, max_points=effort.line, title=title)

    return study.kept(f"fig7-{name}", what, measure)


def task_of(study: Study, run: training.Run) -> Prediction:
    """What the machine was trained for."""
    task: Any = study.task(run)
    return task
