"""Slices that bend: distances as measured, several in one call, and no word of a straight line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ravine
from oracles import of_model, point, values
from ravine.points.slices import bends, roles_of


class Bend:
    """The quadratic Bézier curve through two ends, drawn to a third point."""

    dims = ("alpha",)
    roles = ("start", "bend", "end")

    def __init__(self, *points):
        self.corners = tuple(ravine.Checkpoint.read(one) for one in points)

    def coefficients(self, alpha):
        return ((1 - alpha) ** 2, 2 * alpha * (1 - alpha), alpha**2)

    def geometry(self, between):
        return {"length": float(between[1, 1] ** 0.5)}


class Slow:
    """A line walked at a pace that grows: straight as a set of points, curved in α."""

    dims = ("alpha",)

    def __init__(self, start, end):
        self.corners = ravine.Line(start, end).corners

    def coefficients(self, alpha):
        return (1 - alpha**2, alpha**2)

    def geometry(self, between):
        return {"length": float(between[0, 0] ** 0.5)}


WEST, NORTH, EAST = point(-1.0, 0.0), point(0.0, 2.0), point(1.0, 0.0)


def ring() -> ravine.Objective:
    """J(w) = (|w|² − 1)²: zero on the unit circle."""
    return of_model(
        lambda model, batch: (model.w.square().sum() - 1) ** 2 + 0 * batch[0],
        torch.zeros(3, dtype=torch.float64),
        size=2,
    )


def exact(alpha):
    """Points of the bend through west, north and east."""
    alpha = np.asarray(alpha)
    return np.stack([2 * alpha - 1, 4 * alpha * (1 - alpha)])


AT = np.linspace(0, 1, 9)


def test_values_and_distances_are_those_of_the_curve():
    curve = ravine.evaluate(ring(), along=Bend(WEST, NORTH, EAST), at=AT)
    where = exact(AT)
    np.testing.assert_allclose(values(curve), ((where**2).sum(0) - 1) ** 2, atol=1e-14)
    away = np.sqrt(((where - exact(0)[:, None]) ** 2).sum(0))
    np.testing.assert_allclose(curve["distance"], away, atol=1e-14)
    assert curve.attrs["corners"] == "start, bend, end"
    assert curve.attrs["curved"] == 1


@pytest.mark.parametrize("interval", [(0, 1), (-0.3, 1.4)])
def test_distances_are_read_back_as_they_are(interval, tmp_path):
    curve = ravine.resolve(ring(), along=Bend(WEST, NORTH, EAST), interval=interval)
    kept = ravine.open_result(ravine.save_result(curve, tmp_path / "curve.nc"))
    at = np.linspace(*interval, 31)
    read = ravine.reconstruct(kept, at)["distance"].values
    np.testing.assert_allclose(
        read, np.sqrt(((exact(at) - exact(0)[:, None]) ** 2).sum(0)), atol=1e-7
    )


def test_a_line_at_another_pace_is_read_back_too():
    curve = ravine.resolve(ring(), along=Slow(WEST, EAST))
    read = ravine.reconstruct(curve, [0.25, 0.5])["distance"].values
    np.testing.assert_allclose(read, [2 * 0.0625, 2 * 0.25], atol=1e-7)


@pytest.mark.parametrize("measure", [ravine.evaluate, ravine.resolve])
def test_no_word_of_a_straight_line(measure):
    options = {"at": AT} if measure is ravine.evaluate else {}
    eastward = of_model(
        lambda model, batch: 2 - model.w[0] + 0 * batch[0],
        torch.zeros(3, dtype=torch.float64),
        size=2,
    )
    for objective in (eastward, ring()):
        curve = measure(objective, along=Bend(WEST, NORTH, EAST), **options)
        assert "straight" not in str(ravine.metrics.verdict(curve))
    falls = str(ravine.metrics.verdict(measure(eastward, along=ravine.Line(WEST, EAST), **options)))
    assert "along the straight line" in falls


def test_it_is_drawn_and_reported(tmp_path):
    curve = ravine.resolve(ring(), along=Bend(WEST, NORTH, EAST))
    page = ravine.write_report(tmp_path, curve).read_text()
    assert "straight" not in page[page.index("<body") :].split("<script")[0]
    assert ravine.plot.line(curve).save(tmp_path / "curve.png").stat().st_size > 5000


def test_several_curves_and_lines_go_in_one_call():
    slices = {
        "over": Bend(WEST, NORTH, EAST),
        "under": Bend(WEST, point(0.0, -2.0), EAST),
        "straight": ravine.Line(WEST, EAST),
    }
    together = ravine.evaluate(ring(), along=slices, at=AT)
    for name, along in slices.items():
        alone = ravine.evaluate(ring(), along=along, at=AT)
        one = together.sel(line=name)
        np.testing.assert_allclose(values(one), values(alone), atol=1e-14)
        np.testing.assert_allclose(one["distance"], alone["distance"], atol=1e-14)
    barriers = ravine.metrics.barriers(together).of("end")
    assert barriers["straight"].value == pytest.approx(1.0)  # through the middle of the ring
    assert barriers["over"].value == pytest.approx(barriers["under"].value)
    assert list(together["curved"].values) == [1, 1, 0]
    assert "bend" not in together.attrs


def test_curves_with_an_end_in_common_are_measured_once_there():
    seen = []

    def counting(model, batch):
        seen.append(tuple(model.w.tolist()))
        return model.w.sum() * batch[0]

    J = of_model(counting, torch.ones(4, dtype=torch.float64), size=2, check_data=False)
    west, east = (ravine.Checkpoint.read(one) for one in (WEST, EAST))
    bends = {name: Bend(west, point(0.0, y), east) for name, y in (("a", 1.0), ("b", 2.0))}
    ravine.evaluate(J, along=bends, at=[0.0, 0.5, 1.0], progress=False)
    assert len(set(seen[-4:])) == 4  # two ends once, and a middle each


def test_what_bends_is_told_by_its_coefficients():
    assert bends(Bend(WEST, NORTH, EAST))
    assert bends(Slow(WEST, EAST))
    assert not bends(ravine.Line(WEST, EAST))
    assert not bends(ravine.Plane(WEST, NORTH, EAST))


def test_a_slice_that_does_not_name_its_corners_gets_the_usual_names():
    assert roles_of(Slow(WEST, EAST)) == ("start", "end")
    curve = ravine.evaluate(ring(), along=Slow(WEST, EAST), at=AT)
    assert curve.attrs["corners"] == "start, end"


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ({}, "there is none"),
        ({"a": 3}, "'a' is a int"),
        ({"a": ravine.Plane(WEST, NORTH, EAST)}, "'a' is a Plane"),
        ({"a": WEST}, "'a' is a dict"),
    ],
)
def test_what_is_no_line_is_refused(slices, said):
    with pytest.raises(ravine.InputError, match=said):
        ravine.evaluate(ring(), along=slices, at=AT)


def test_an_old_result_is_taken_for_straight():
    curve = ravine.resolve(ring(), along=ravine.Line(WEST, EAST))
    del curve.attrs["curved"], curve.attrs["corners"]
    assert float(ravine.reconstruct(curve, [0.25])["distance"].item()) == 0.5
