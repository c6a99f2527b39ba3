"""On a CUDA device every number is what float64 on the CPU gives, up to the rounding that is said.

Where there is no such device these are skipped; what of it runs on a CPU as well is in
``objective/test_stack.py`` and ``objective/test_moments.py``.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ravine
from oracles import blobs, mlp, trained, values

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

AT = np.linspace(-0.25, 1.25, 13)
CE = ravine.supervised(F.cross_entropy)
FLAT = blobs(1003)
IMAGES = (torch.randn(301, 3, 12, 12, generator=torch.Generator().manual_seed(4)), FLAT[1][:301])


class Conv(nn.Module):
    """Convolution, BatchNorm, dropout, linear."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(32 * 36, 4)

    def forward(self, x):
        return self.head(self.drop(F.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)))


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(36, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.lstm(x.flatten(2).view(len(x), 12, 36))[0][:, -1])


class Attending(nn.Module):
    """A transformer layer over twelve rows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(36, 4, 64, 0.0, batch_first=True)
        self.head = nn.Linear(36, 4)

    def forward(self, x):
        return self.head(self.layer(x.flatten(2).view(len(x), 12, 36)).mean(1))


class Maxout(nn.Module):
    """A wide first layer, so that the affine prefix has something to do."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(432, 5 * 48), nn.Linear(48, 4)

    def forward(self, x):
        return self.head(self.first(x.flatten(1)).view(len(x), 5, 48).amax(1))


def pair(make, data):
    torch.manual_seed(0)
    model = make()
    return (model, *trained(model, data))


def objective(model, data, **policies):
    """J of the examples; running statistics, where there are any, are the end's."""
    kept = {"buffers": "end"} if isinstance(model, Conv) else {}
    return ravine.Objective(model, CE, data, **(kept | policies))


CASES = {
    "mlp": (mlp, FLAT),
    "conv": (Conv, IMAGES),
    "recurrent": (Recurrent, IMAGES),
    "attending": (Attending, IMAGES),
    "maxout": (Maxout, IMAGES),
}


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("name", CASES)
def test_a_curve_in_float32_is_that_of_float64_on_the_cpu(name, where):
    make, data = CASES[name]
    model, start, end = pair(make, data)
    line = ravine.Line(start, end)
    truth = ravine.evaluate(
        objective(model, data, dtype=torch.float64), along=line, at=AT, progress=False
    )
    there = tuple(tensor.to(where) for tensor in data)
    J = objective(model, there, device="cuda")
    found = ravine.evaluate(J, along=line, at=AT, progress=False)
    scale = float(values(truth).max())
    assert np.abs(values(found) - values(truth)).max() < 2e-6 * scale
    np.testing.assert_allclose(found["loss_stderr"], truth["loss_stderr"], rtol=1e-4)
    np.testing.assert_allclose(
        found["loss_replicates"], truth["loss_replicates"], atol=2e-6 * scale
    )


@pytest.mark.parametrize("name", CASES)
def test_float64_on_the_device_is_float64_on_the_cpu(name):
    make, data = CASES[name]
    model, start, end = pair(make, data)
    line = ravine.Line(start, end)
    one, other = (
        ravine.evaluate(
            objective(model, data, dtype=torch.float64, device=device),
            along=line,
            at=AT,
            progress=False,
        )
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(values(other), values(one), rtol=1e-12)
    np.testing.assert_allclose(values(other, "error"), values(one, "error"), rtol=1e-12)


def test_the_same_command_gives_the_same_bits():
    model, start, end = pair(Conv, IMAGES)
    line = ravine.Line(start, end)
    J = objective(model, IMAGES, device="cuda", batch_size=64)
    one, other = (ravine.evaluate(J, along=line, at=AT, progress=False) for _ in range(2))
    assert np.array_equal(values(one), values(other))


def test_statistics_that_are_estimated_anew():
    model, start, end = pair(Conv, IMAGES)
    line = ravine.Line(start, end)
    one, other = (
        ravine.evaluate(
            objective(model, IMAGES, buffers="recompute", **where),
            along=line,
            at=AT,
            progress=False,
        )
        for where in ({"dtype": torch.float64}, {"device": "cuda"})
    )
    np.testing.assert_allclose(values(other), values(one), rtol=1e-5)


def test_masks_are_the_same_at_every_point():
    model, start, _ = pair(Conv, IMAGES)
    near = copy.deepcopy(start)
    near["head.bias"] = near["head.bias"] + 1e-4
    J = objective(model, IMAGES, dropout="fixed", device="cuda")
    found = values(ravine.evaluate(J, along=ravine.Line(start, near), at=AT, progress=False))
    assert np.ptp(found) < 1e-3  # other masks would move it by a hundredth
    undropped = objective(model, IMAGES, device="cuda")
    plain = values(ravine.evaluate(undropped, along=ravine.Line(start, near), at=[0.0, 1.0]))
    assert np.abs(found[0] - plain[0]) > 1e-4  # there are masks


def test_a_resolved_curve_and_a_plane():
    model, start, end = pair(mlp, FLAT)
    torch.manual_seed(7)
    third = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in end.items()}
    J = objective(model, FLAT, device="cuda")
    exact = objective(model, FLAT, dtype=torch.float64)
    line = ravine.Line(start, end)
    resolved = ravine.resolve(J, along=line, progress=False)
    truth = ravine.evaluate(exact, along=line, at=np.linspace(0, 1, 41), progress=False)
    drawn = ravine.reconstruct(resolved, np.linspace(0, 1, 41))["loss"].values.ravel()
    assert np.abs(drawn - values(truth).ravel()).max() < 1e-3 * np.ptp(values(truth))
    plane = ravine.Plane(start, end, third)
    grid = {"alpha": [0.0, 0.5, 1.0], "beta": [0.0, 0.5, 1.0]}
    one, other = (
        ravine.evaluate(of, along=plane, at=grid, progress=False)["loss"].values
        for of in (exact, J)
    )
    np.testing.assert_allclose(other, one, rtol=1e-5)


def test_a_store_goes_on(tmp_path):
    model, start, end = pair(mlp, FLAT)
    line = ravine.Line(start, end)
    J = objective(model, FLAT, device="cuda", batch_size=100)
    one = ravine.evaluate(J, along=line, at=AT, store=tmp_path / "store.db", progress=False)
    other = ravine.evaluate(J, along=line, at=AT, store=tmp_path / "store.db", progress=False)
    assert np.array_equal(values(one), values(other))


def test_corners_and_data_may_be_on_the_device_or_not():
    model, start, end = pair(mlp, FLAT)
    there = [{n: t.cuda() for n, t in point.items()} for point in (start, end)]
    J = objective(copy.deepcopy(model).cuda(), FLAT, device="cuda")
    found = [
        values(ravine.evaluate(J, along=ravine.Line(*ends), at=AT, progress=False))
        for ends in ((start, end), there)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_the_noise_floor_covers_tf32_where_it_is_asked_for(monkeypatch):
    model, start, end = pair(Conv, IMAGES)
    line = ravine.Line(start, end)
    exact = objective(model, IMAGES, dtype=torch.float64)
    truth = values(ravine.evaluate(exact, along=line, at=[0.0, 0.5, 1.0], progress=False))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        J = objective(model, IMAGES, device="cuda")
        found = ravine.evaluate(J, along=line, at=[0.0, 0.5, 1.0], progress=False)
    finally:
        torch.set_float32_matmul_precision(before)
    floor = np.nanmax(found["loss_noise_floor"].values)
    assert np.abs(values(found) - truth).max() < 3 * floor
    assert "high" in found.attrs["versions"]
