"""The loss drives refinement; what does not drive has its own error, and may be unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import ravine
from oracles import blobs, mlp, of_model, point, trained, values
from ravine import metrics

CE = ravine.supervised(F.cross_entropy)
FLAT = blobs(203)


def kinked(model, batch):
    """A smooth loss, and beside it a spike that no few points catch."""
    w = model.w[0]
    loss = (w - 0.5) ** 2
    beside = torch.exp(-((w - 0.371) ** 2) / 2e-5)
    return {"loss": loss.expand(len(batch[0])), "beside": beside.expand(len(batch[0]))}


@pytest.fixture(scope="module")
def spiked():
    return of_model(kinked, (torch.zeros(4, 1), torch.zeros(4)), dtype=torch.float64)


LINE = ravine.Line(point(0.0), point(1.0))


class TestOnALine:
    def test_the_error_rate_costs_no_points(self):
        model = mlp()
        line = ravine.Line(*trained(model, FLAT))
        J = ravine.Objective(model, CE, FLAT)
        alone = ravine.Objective(
            model, lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none"), FLAT
        )
        both = ravine.resolve(J, along=line, progress=False)
        assert both.attrs["drive"] == "loss"
        assert both.sizes["alpha"] == ravine.resolve(alone, along=line).sizes["alpha"]
        driven = ravine.resolve(J, along=line, drive="all", progress=False)
        assert driven.attrs["drive"] == "loss, error"
        assert driven.sizes["alpha"] >= both.sizes["alpha"]
        # what is read of the error rate between two points stays between them, and says how far it
        # may be off
        read = ravine.reconstruct(both, np.linspace(0, 1, 301))
        truth = ravine.evaluate(J, along=line, at=np.linspace(0, 1, 301), progress=False)
        off = np.abs(values(read, "error") - values(truth, "error"))
        assert (off <= read["error_misfit"].isel(split=0).values + 2 / len(FLAT[1])).all()

    def test_what_does_not_drive_is_unknown_where_it_fails(self, spiked):
        found = ravine.resolve(spiked, along=LINE, progress=False)
        assert found.sizes["alpha"] == 17
        assert found.attrs["resolved"] == 1
        truth = np.exp(-((found["alpha"].values - 0.371) ** 2) / 2e-5)
        np.testing.assert_allclose(values(found, "beside"), truth, atol=1e-12)
        if truth.max() > 1e-3:  # a point stands on the spike, so its interpolant is seen to fail
            assert np.isnan(found["beside_misfit"].values).all()
        read = ravine.reconstruct(found, [0.3])
        assert np.isfinite(read["loss_misfit"].values).all()

    def test_it_drives_when_asked(self, spiked):
        found = ravine.resolve(spiked, along=LINE, drive=["loss", "beside"], max_points=513)
        at = np.linspace(0, 1, 997)
        read = ravine.reconstruct(found, at)
        off = np.abs(values(read, "beside") - np.exp(-((at - 0.371) ** 2) / 2e-5))
        known = np.isfinite(values(read, "beside_misfit"))
        assert found.sizes["alpha"] > 25
        assert off[known].max() < 2e-3

    def test_the_verdict_holds_without(self, spiked):
        told = str(metrics.verdict(ravine.resolve(spiked, along=LINE, progress=False)))
        assert "loss" in told

    @pytest.mark.parametrize("drive", ["accuracy", [], ["loss", "accuracy"]], ids=repr)
    def test_there_must_be_such_a_quantity(self, spiked, drive):
        with pytest.raises(ravine.InputError, match="drive must be 'all' or among"):
            ravine.resolve(spiked, along=LINE, drive=drive, progress=False)


class TestOnAPlane:
    def test_a_surface_that_did_not_resolve_is_its_points(self):
        def per_example(model, batch):
            a, b = model.w
            loss = (a - 0.5) ** 2 + (b - 0.2) ** 2
            beside = torch.exp(-((a - 0.5) ** 2 + (b - 0.5) ** 2) / 1e-4)
            return {"loss": loss.expand(3), "beside": beside.expand(3)}

        J = of_model(per_example, (torch.zeros(3, 1), torch.zeros(3)), size=2, dtype=torch.float64)
        plane = ravine.Plane(point(0.0, 0.0), point(1.0, 0.0), point(0.0, 1.0))
        found = ravine.resolve(J, along=plane, progress=False)
        assert found.attrs["resolved"] == 1
        assert found["loss"].attrs["resolved"] == 1
        assert found["beside"].attrs["resolved"] == 0
        smooth = ravine.plot.surface(found, quantity="loss").panels[0].layers[0].z
        points = ravine.plot.surface(found, quantity="beside").panels[0].layers[0].z
        assert smooth.shape > points.shape
        assert points.shape == (found.sizes["alpha"], found.sizes["beta"])
        assert ravine.resolve(J, along=plane, drive="all", progress=False).sizes["alpha"] > 9
