"""Several points at once give what one at a time gives; else one at a time it is.

On a CPU the stack is never chosen, since it gains nothing there; the tests choose it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oracles import blobs, mlp, trained, values
from ravine import Line, Objective, evaluate, supervised
from ravine.objective import engine, members, moments, stack, tuning

AT = np.linspace(-0.2, 1.3, 19)
CE = supervised(F.cross_entropy)
FLAT = blobs(37)


@pytest.fixture
def stacks(monkeypatch):
    """Stack on the CPU, and count the calls."""
    calls = []
    run = stack.Stack.__call__

    def counted(self, batch):
        calls.append(1)
        return run(self, batch)

    monkeypatch.setattr(stack.Stack, "__call__", counted)
    monkeypatch.setattr(tuning, "STACKED_ON", {"cpu"})
    return calls


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(48, 4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        return self.outer(self.inner(x).tanh())[:, :4]


class Branching(nn.Module):
    """Looks at a number, which no vectorised map can."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x) * (2 if float(self.layer.weight.sum()) > 0 else 1)


IMAGES = (torch.randn(37, 2, 6, 6, generator=torch.Generator().manual_seed(0)), FLAT[1])
ZOO = {
    "mlp": (mlp, FLAT, {}, True),
    "norm, interpolated": (lambda: mlp(norm=True), FLAT, {"buffers": "interpolate"}, True),
    "conv": (Conv, IMAGES, {"buffers": "end"}, True),
    "tied": (Tied, FLAT, {}, True),
    "fixed masks": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)),
        FLAT,
        {"dropout": "fixed"},
        True,
    ),
    "branching": (Branching, FLAT, {}, False),
    "recomputed": (lambda: mlp(norm=True), FLAT, {"buffers": "recompute"}, False),
}


@pytest.mark.parametrize("name", ZOO)
def test_stacked_points_give_what_one_at_a_time_gives(stacks, monkeypatch, name):
    build, data, policies, applies = ZOO[name]
    torch.manual_seed(3)
    model = build()
    start = {n: t.clone() for n, t in model.state_dict().items()}
    end = {n: 0.3 - 1.2 * t if t.is_floating_point() else t for n, t in start.items()}
    end = {n: t.abs() if "running_var" in n else t for n, t in end.items()}

    def curve():
        J = Objective(model, CE, data, dtype=torch.float64, batch_size=10, **policies)
        return evaluate(J, along=Line(start, end), at=AT)

    together = curve()
    assert (len(stacks) > 4 * 3) == applies  # four batches, three groups of points
    monkeypatch.setattr(tuning, "STACKED_ON", set())
    alone = curve()
    np.testing.assert_allclose(values(together), values(alone), rtol=1e-10)
    np.testing.assert_allclose(together["error"], alone["error"])
    np.testing.assert_allclose(together["loss_stderr"], alone["loss_stderr"], rtol=1e-9)


def test_ignored_targets_are_left_out_of_stacked_points_too(stacks):
    model = mlp()
    start, end = trained(model, FLAT)
    targets = FLAT[1].clone()
    targets[::3] = -100
    curve = evaluate(Objective(model, CE, (FLAT[0], targets)), along=Line(start, end), at=AT)
    assert curve["n_examples"].item() == int((targets != -100).sum())


def test_values_are_summed_where_they_are_to_the_same_numbers(monkeypatch):
    model = mlp()
    start, end = trained(model, FLAT)
    strata = [n % 3 for n in range(37)]
    J = Objective(model, CE, FLAT, strata=strata, batch_size=10)
    here = evaluate(J, along=Line(start, end), at=AT, progress=False)
    monkeypatch.setattr(members, "SUMMED_ON", {"cpu"})
    monkeypatch.setattr(engine, "SUMMED_ON", {"cpu"})
    monkeypatch.setattr(moments, "_MEMBERS", 8)
    there = evaluate(J, along=Line(start, end), at=AT, progress=False)
    for name in ("loss", "error", "loss_stderr", "loss_replicates"):
        np.testing.assert_allclose(there[name].values, here[name].values, rtol=1e-10, atol=1e-14)
