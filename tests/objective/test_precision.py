"""Float32 products are computed in float32 unless the caller asks for less; it is recorded."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ravine.objective.precision import full_convolutions, of_products


@pytest.fixture
def asked():
    """The switch, put back afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_convolutions_are_in_float32_where_nothing_is_said(asked):
    with full_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_whoever_asks_for_less_has_it_in_both(asked):
    asked("high")
    with full_convolutions():
        assert torch.backends.cudnn.allow_tf32
        assert of_products() == "high"
    torch.backends.cudnn.allow_tf32 = False
    with full_convolutions():
        assert not torch.backends.cudnn.allow_tf32
    assert of_products() == "high, convolutions highest"


def test_the_newer_switches_are_left_alone_and_recorded():
    told = """
import torch, ravine
from torch import nn
torch.backends.cuda.matmul.fp32_precision = "tf32"
torch.backends.cudnn.conv.fp32_precision = "ieee"
model = nn.Linear(3, 2)
end = {name: tensor + 1 for name, tensor in model.state_dict().items()}
data = (torch.randn(9, 3), torch.zeros(9).long())
J = ravine.Objective(model, ravine.supervised(nn.functional.cross_entropy), data)
curve = ravine.evaluate(J, along=ravine.Line(model, end), at=[0, 1], progress=False)
print(curve.attrs["versions"])
print(torch.backends.cudnn.conv.fp32_precision)
"""
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "matmul tf32, convolution ieee" in done.stdout
    assert done.stdout.split()[-1] == "ieee"
