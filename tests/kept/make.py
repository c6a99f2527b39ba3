"""Made once, by ravine 0.1.0: results of every kind of schema 1, a run, a quick paper run.

    python tests/kept/make.py FOLDER

What is in ``tests/kept/schema-1`` is never made again: later versions have to read it with the same
means, and to measure the same means anew. Every value is a dyadic rational and every sum is exact,
so the bits are any machine's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import ravine

#: α = k/16, outside [0, 1] too.
GRID = np.arange(-4, 21) / 16


class Point(nn.Module):
    """A model that is nothing but a parameter vector."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))


def point(*values: float) -> dict[str, Tensor]:
    """A point of its parameter space."""
    return {"w": torch.tensor(values, dtype=torch.float64)}


def examples(count: int, period: int) -> Tensor:
    """(count, 2) multiples of 1/4 in [−2, 2), the same every ``period`` rows."""
    rows = np.arange(count) % period
    return torch.tensor(np.stack([(7 * rows) % 16, (11 * rows + 3) % 16], 1) / 4 - 2)


def per_example(model: nn.Module, batch: tuple[Tensor]) -> dict[str, Tensor]:
    """(w₁ − x₁)² + (w₂ − x₂)² + (w₁² − 1)², and whether w₁ is left of x₁."""
    w, x = model.w, batch[0]
    double_well = (w[0] ** 2 - 1) ** 2
    return {"loss": ((w - x) ** 2).sum(1) + double_well, "error": (w[0] < x[:, 0]).to(x.dtype)}


per_example.units = {"loss": "nats", "error": "1"}  # pyright: ignore[reportFunctionMemberAccess]


def objective() -> ravine.Objective:
    """Two splits of 40 and 23 examples."""
    data = {"train": (examples(40, 40),), "valid": (examples(23, 23),)}
    return ravine.Objective(Point(), per_example, data, seed=3)


def long_objective() -> ravine.Objective:
    """One split of 20,000 examples: several blocks."""
    return ravine.Objective(Point(), per_example, (examples(20_000, 97),), seed=3)


def record(folder: Path) -> None:
    """A run that turns on its way from (−1, 0) to (1, ½)."""
    recorder = ravine.TrajectoryRecorder(folder, every=10)
    model = Point()
    for number, (x, y) in enumerate(
        [(-1, 0), (-0.75, 0.5), (-0.25, 1), (0.5, 1.25), (0.75, 0.75), (1, 0.5)]
    ):
        with torch.no_grad():
            model.w.copy_(torch.tensor([x, y]))
        recorder.record(10 * number, model)


def measurements(run: Path) -> dict[str, xr.Dataset]:
    """Every kind of result, by name."""
    J, a, b, c = objective(), point(-1, 0), point(1, 0.5), point(0, 1)
    line, plane = ravine.Line(a, b), ravine.Plane(a, b, c)
    places = {"alpha": np.arange(-1, 6) / 4, "beta": np.arange(0, 5) / 4}
    return {
        "line": ravine.evaluate(J, along=line, at=GRID, title="a line"),
        "long": ravine.evaluate(
            long_objective(), along=line, at=GRID[::6], title="20,000 examples"
        ),
        "resolved": ravine.resolve(J, along=line, interval=(-0.25, 1.25)),
        "lines": ravine.evaluate(J, along=ravine.pairs({"a": a, "b": b, "c": c}), at=GRID[4:21:2]),
        "plane": ravine.evaluate(J, along=plane, at=places, title="a plane"),
        "resolved-plane": ravine.resolve(J, along=plane),
        "path": ravine.project(run, objective=J),
        "path-on-plane": ravine.project(run, onto=plane),
    }


if __name__ == "__main__":
    out = Path(sys.argv[1])
    record(out / "run")
    for name, result in measurements(out / "run").items():
        ravine.save_result(result, out / f"{name}.nc")
