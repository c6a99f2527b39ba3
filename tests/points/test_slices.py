"""Bézier curves: their ends, what lies between, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ravine import Bezier, InputError, Line, Objective, evaluate, metrics, resolve


def points(count, names=("w", "b")):
    rng = torch.Generator().manual_seed(0)
    return [{name: torch.randn(3, generator=rng) for name in names} for _ in range(count)]


@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_curve_is_what_repeated_lines_give(count):
    """De Casteljau's construction."""
    given = points(count)
    for alpha in (-0.3, 0.0, 0.25, 0.7, 1.0):
        left = [{n: t.double() for n, t in point.items()} for point in given]
        while len(left) > 1:
            pairs = zip(left, left[1:], strict=False)
            left = [{n: (1 - alpha) * a[n] + alpha * b[n] for n in a} for a, b in pairs]
        found = Bezier(*given).at(alpha)
        for name, expected in left[0].items():
            torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-5)


def test_ends_are_bitwise_the_points():
    given = points(4)
    curve = Bezier(*given)
    assert all(torch.equal(curve.at(0.0)[n], t) for n, t in given[0].items())
    assert all(torch.equal(curve.at(1.0)[n], t) for n, t in given[-1].items())
    assert curve.roles == ("start", "bend1", "bend2", "end")


def test_an_arc_of_low_loss_joins_minima_that_a_line_does_not():
    def ring(model, batch):
        return ((model(batch[0]) ** 2).sum(1) - 1) ** 2

    model = nn.Linear(1, 2, bias=False)
    J = Objective(model, ring, (torch.ones(20, 1),), dtype=torch.float64)
    west, north, east = (
        {"weight": torch.tensor(w)} for w in ([[-1.0], [0.0]], [[0.0], [2.0]], [[1.0], [0.0]])
    )
    at = np.linspace(0, 1, 11)
    over = evaluate(J, along=Bezier(west, north, east), at=at)
    radius = (2 * at - 1) ** 2 + (4 * at * (1 - at)) ** 2
    np.testing.assert_allclose(over["loss"].values.ravel(), (radius - 1) ** 2, atol=1e-12)
    both = {"over": Bezier(west, north, east), "straight": Line(west, east)}
    found = metrics.decide(evaluate(J, along=both, at=at), "barrier", above=0.1)
    assert [found[name].answer for name in both] == ["excluded", "shown"]
    assert resolve(J, along=both["over"]).attrs["resolved"] == 1


def test_too_few_and_other_points_are_refused():
    one, other, _ = points(3)
    with pytest.raises(InputError, match="one or more control points"):
        Bezier(one, other)
    with pytest.raises(InputError, match="not points of the same space"):
        Bezier(one, {"w": torch.ones(3)}, other)


def test_a_curve_may_return_to_where_it_began():
    def square(model, batch):
        return (model(batch[0]) ** 2).flatten()

    J = Objective(nn.Linear(1, 1, bias=False), square, (torch.ones(20, 1),), dtype=torch.float64)
    here, there = ({"weight": torch.tensor([[w]])} for w in (0.0, 2.0))
    at = np.linspace(0, 1, 5)
    loop, line = Bezier(here, there, here), Line(here, there)
    for found in (
        evaluate(J, along=loop, at=at),
        evaluate(J, along={"loop": loop, "line": line}, at=at).sel(line="loop"),
    ):
        np.testing.assert_allclose(found["loss"].values.ravel(), (4 * at * (1 - at)) ** 2)
        np.testing.assert_allclose(found["distance"].values, 4 * at * (1 - at), atol=1e-12)
