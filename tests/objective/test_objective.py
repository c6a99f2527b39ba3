"""An objective is immutable, and measuring leaves no trace in it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ravine
from oracles import blobs, mlp, trained

DATA = blobs(603)
CE = ravine.supervised(F.cross_entropy)


def snapshot(objective: ravine.Objective) -> dict:
    """Everything that an objective holds, compared by value where it has one."""
    held = dict(vars(objective))
    splits = held.pop("splits")
    model = held.pop("model")
    return {
        **{name: repr(value) for name, value in held.items()},
        "splits": [{n: id(v) for n, v in vars(split).items()} for split in splits],
        "sources": [dict(getattr(split.source, "__dict__", {})) for split in splits],
        "model": {n: (id(t), t._version) for n, t in model.state_dict(keep_vars=True).items()},
        "training": [module.training for module in model.modules()],
    }


SOURCES = {
    "tensors": DATA,
    "dataset": TensorDataset(*DATA),
    "loader": DataLoader(TensorDataset(*DATA), batch_size=50, shuffle=True),
    "list": [tuple(part[i : i + 100] for part in DATA) for i in range(0, 603, 100)],
}


@pytest.mark.parametrize("source", SOURCES)
def test_measuring_leaves_no_trace(source):
    model = mlp(norm=True)
    start, end = trained(model, DATA)
    J = ravine.Objective(model, CE, {"a": SOURCES[source], "b": DATA}, buffers="end")
    before = snapshot(J)
    line = ravine.Line(start, end)
    J(start)
    ravine.evaluate(J, along=line, at=np.linspace(0, 1, 5))
    ravine.resolve(J, along=line, tolerance=0.1, max_points=30)
    ravine.evaluate(J, along={"x": line, "y": ravine.Line(end, start)}, at=[0, 1])
    ravine.compare_buffers(J, line, [0, 0.5, 1])
    ravine.project([start, end], objective=J)
    assert snapshot(J) == before


def test_a_policy_gives_one_number_whatever_was_measured_before():
    model = mlp(norm=True)
    start, end = trained(model, DATA)
    many = tuple(part.repeat(30, *[1] * (part.ndim - 1)) for part in DATA)
    line = ravine.Line(start, end)
    fresh = ravine.Objective(model, CE, many, buffers="recompute")
    expected = ravine.evaluate(fresh, along=line, at=[0.0, 0.5, 1.0])["loss"].values
    used = ravine.Objective(model, CE, many, buffers="interpolate")
    ravine.evaluate(used, along=line, at=np.linspace(0, 1, 41))
    again = ravine.evaluate(used.with_buffers("recompute"), along=line, at=[0.0, 0.5, 1.0])
    np.testing.assert_array_equal(again["loss"].values, expected)


def test_it_cannot_be_changed():
    J = ravine.Objective(mlp(), CE, DATA)
    for name in ("per_example", "buffers", "splits", "batch_size"):
        with pytest.raises(AttributeError, match=name):
            setattr(J, name, None)


def test_another_policy_makes_another_objective():
    J = ravine.Objective(mlp(norm=True), CE, DATA, buffers="end")
    assert J.with_buffers("start").buffers == "start"
    assert J.buffers == "end"


def test_it_is_shown_in_a_line():
    assert repr(ravine.Objective(mlp(), CE, {"a": DATA, "b": [DATA]})) == (
        "Objective(Sequential, examples: {'a': 603, 'b': 603})"
    )


def test_the_callers_tensors_are_not_copied():
    J = ravine.Objective(mlp(), CE, DATA)
    assert J.splits[0].tensors is not None
    assert J.splits[0].tensors[0] is DATA[0]
    assert copy.copy(J).splits is J.splits
    assert isinstance(J.splits[0].tensors[1], torch.Tensor)
