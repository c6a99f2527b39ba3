"""What the engine chooses by measurement, batch size and memory layout: never another number, never a broken model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from ravine import Line, Objective, evaluate, supervised
from ravine.objective import tuning
from ravine.objective.replica import Replica


class Convolutions(nn.Module):
    """Two convolutions and a linear layer; ``rigid`` code can do with the usual layout only."""

    def __init__(self, *, rigid=False):
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(128, 5)
        self.rigid = rigid

    def forward(self, x):
        h = self.two(self.one(x).relu())
        return self.out(h.view(len(h), -1) if self.rigid else h.flatten(1))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(2000, 3, 8, 8), torch.randint(5, (2000,))


def walked(model, data, at=21, **options):
    torch.manual_seed(1)
    ends = [
        {name: torch.randn_like(p) * 0.2 for name, p in model.named_parameters()} for _ in range(2)
    ]
    J = Objective(model, supervised(F.cross_entropy), data, **options)
    return evaluate(J, along=Line(*ends), at=np.linspace(0, 1, at))


def clock(monkeypatch, seconds):
    """Passes take what ``seconds(examples, channels_last)`` says."""

    def taken(forward, batch, point):
        return seconds(batch.size, forward.replica.channels_last)

    monkeypatch.setattr(tuning, "_seconds", taken)


class TestBatchSize:
    def test_the_one_that_leaves_no_cache_is_chosen(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-3 + 1e-5 * n * (1 if n <= 128 else 3))
        curve = walked(Convolutions(), images)
        assert curve.attrs["batch_size"] == 128

    def test_a_short_measurement_is_not_delayed(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-8 * n)
        curve = walked(Convolutions(), images)
        assert curve.attrs["batch_size"] == 256

    def test_a_given_one_stays(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-3 + 1e-5 * n)
        curve = walked(Convolutions(), images, batch_size=100)
        assert curve.attrs["batch_size"] == 100

    def test_a_loss_that_depends_on_its_batch_keeps_the_default(self, images, monkeypatch):
        clock(monkeypatch, lambda n, _: 1e-3 + 1e-5 * n)
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, 5),
            nn.BatchNorm1d(5, affine=False, track_running_stats=False),
        )
        curve = walked(model, images)
        assert curve.attrs["batch_size"] == 256


class TestLayout:
    def test_channels_last_gives_the_same_curve(self, images, monkeypatch):
        usual = walked(Convolutions(), images, batch_size=100)
        laid = []
        monkeypatch.setattr(
            Replica,
            "lay_out",
            lambda self, *, channels_last, was=Replica.lay_out: (
                laid.append(channels_last),
                was(self, channels_last=channels_last),
            ),
        )
        clock(monkeypatch, lambda n, last: 1e-4 * n * (0.5 if last else 1))
        fast = walked(Convolutions(), images, batch_size=100)
        assert laid == [True]
        np.testing.assert_allclose(fast["loss"], usual["loss"], rtol=2e-6)
        np.testing.assert_array_equal(fast["error"], usual["error"])
        assert (
            float(fast["loss_noise_floor"].min()) > 0
        )  # the probes' tiny changes reach these weights too

    def test_code_that_cannot_have_it_is_left_alone(self, images, monkeypatch):
        usual = walked(Convolutions(rigid=True), images, batch_size=100)
        clock(monkeypatch, lambda n, last: 1e-4 * n * (0.5 if last else 1))
        same = walked(Convolutions(rigid=True), images, batch_size=100)
        np.testing.assert_array_equal(same["loss"], usual["loss"])

    def test_no_gain_no_change(self, images, monkeypatch):
        usual = walked(Convolutions(), images, batch_size=100)
        clock(monkeypatch, lambda n, last: 1e-4 * n)
        same = walked(Convolutions(), images, batch_size=100)
        np.testing.assert_array_equal(same["loss"], usual["loss"])

    def test_the_callers_model_keeps_its_layout(self, images, monkeypatch):
        clock(monkeypatch, lambda n, last: 1e-4 * n * (0.5 if last else 1))
        model = Convolutions()
        strides = {name: p.stride() for name, p in model.named_parameters()}
        walked(model, images, batch_size=100)
        assert {name: p.stride() for name, p in model.named_parameters()} == strides

    def test_a_perturbation_reaches_weights_of_either_layout(self):
        replica = Replica(Convolutions(), torch.float32, torch.device("cpu"))
        zero, one = (
            {n: torch.full_like(p, v) for n, p in replica.params.items()} for v in (1.0, 2.0)
        )
        replica.span([zero, one])
        for last in (False, True):
            replica.lay_out(channels_last=last)
            replica.move_to((0.5, 0.5))
            assert all(bool((p == 1.5).all()) for p in replica.params.values())
            replica.perturb(torch.Generator().manual_seed(0))
            assert all(bool((p != 1.5).any()) for p in replica.params.values())
