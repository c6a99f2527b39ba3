"""Resolved curves: right everywhere to what they say, from few points, or else honest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn import functional as F

from oracles import blobs, direct, mlp, of_w, point, trained, values
from ravine import (
    InputError,
    Line,
    Objective,
    evaluate,
    metrics,
    open_result,
    plot,
    reconstruct,
    resolve,
    save_result,
    supervised,
)
from ravine.measuring.resolution import _DEGREES
from ravine.result.interpolant import Piece, chebyshev_points, leja_points

FINE = np.linspace(0, 1, 2001)
UNIT = Line(point(0.0), point(1.0))


def resolved(function, **options):
    """resolve of J(α) = function(α), α as a float64 tensor."""
    return resolve(
        of_w(lambda w, x: function(w[0]), size=1), along=options.pop("along", UNIT), **options
    )


def worst(curve, function, at=FINE):
    """Largest error of the reconstruction in units of max(|J|, range/1000)."""
    truth = np.array([float(function(torch.tensor(a, dtype=torch.float64))) for a in at])
    found = values(reconstruct(curve, at))
    return np.nanmax(np.abs(found - truth) / np.maximum(np.abs(truth), np.ptp(truth) / 1000))


def test_chebyshev_points_nest_and_are_symmetric():
    coarse, fine = chebyshev_points(-0.5, 1.5, 16), chebyshev_points(-0.5, 1.5, 32)
    np.testing.assert_allclose(fine[::2], coarse, rtol=0, atol=1e-15)
    np.testing.assert_allclose(coarse + coarse[::-1], 1, atol=1e-15)
    assert (coarse[0], coarse[-1]) == (-0.5, 1.5)


def test_leja_points_nest_are_symmetric_and_enlarge_no_error_much():
    for degree in [8, *_DEGREES]:
        fewer, points = leja_points(-0.5, 1.5, degree - 4), leja_points(-0.5, 1.5, degree)
        assert set(fewer) < set(points)
        assert len(points) == degree + 1
        np.testing.assert_allclose(points + points[::-1], 1, atol=1e-15)
        # the Lebesgue constant: how much an interpolant may enlarge an error at its points
        piece = Piece(-0.5, 1.5, degree, "leja")
        enlarged = np.abs(piece.read(np.eye(degree + 1), np.linspace(-0.5, 1.5, 3001))).sum(axis=1)
        assert enlarged.max() < 20


@pytest.mark.parametrize("nodes", ["leja", "chebyshev"])
@pytest.mark.parametrize("degree", [12, 16, 64, 96])
def test_a_piece_gives_back_a_polynomial_of_its_degree(nodes, degree):
    piece = Piece(-0.5, 1.5, degree, nodes)
    chosen = np.random.default_rng(degree).standard_normal(degree + 1)
    series = np.polynomial.Chebyshev(chosen, domain=(-0.5, 1.5))
    at = np.linspace(-0.5, 1.5, 501)
    np.testing.assert_allclose(piece.read(series(piece.points), at), series(at), atol=1e-11)


def test_a_jump_under_a_probe_of_rounding_is_not_taken_for_rounding():
    """The noise floor beside a jump is its height: spread to neighbours, it let anything pass."""
    for place in (0.5, 0.25, 1 / 3):
        curve = resolved(lambda a, c=place: 1.5 + (a > c).double() * 0.25, max_points=200)
        read = reconstruct(curve, FINE)
        sure = np.isfinite(values(read, "loss_misfit")) & (
            np.abs(FINE - place) > curve.attrs["largest_gap"]
        )
        truth = 1.5 + (place < FINE) * 0.25
        np.testing.assert_allclose(values(read)[sure], truth[sure], atol=3e-3)


SMOOTH = {
    "quartic": lambda a: (a**2 - 1) ** 2,
    "decades": lambda a: 800 * torch.exp(-14 * a**2) + 1e-3,
    "negative": lambda a: -5 + torch.sin(7 * a),
    "oscillation": lambda a: 2 + torch.sin(60 * a),
    "barrier": lambda a: 0.002 + torch.exp(-(((a - 0.5) / 0.15) ** 2)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_curves_resolve_to_their_tolerance_from_few_points(name):
    curve = resolved(SMOOTH[name])
    assert curve.attrs["resolved"] == 1
    truth = SMOOTH[name](torch.linspace(0, 1, 20001, dtype=torch.float64)).diff().sign()
    extremes = int((truth[1:] != truth[:-1]).sum())  # each is a point of its own
    assert curve.sizes["alpha"] <= 75 + extremes
    assert worst(curve, SMOOTH[name]) <= 1e-3


@pytest.mark.parametrize("place", [0.2, 0.3, 0.5, 0.777])
@pytest.mark.parametrize("shape", ["kink", "wall", "step"])
def test_what_does_not_resolve_is_either_split_or_said(shape, place):
    function = {
        "kink": lambda a: (a - place).abs() + 0.1,
        "wall": lambda a: torch.exp(30 * torch.relu(a - place)),
        "step": lambda a: 1.5 + (a > place).double() * 0.25,
    }[shape]
    curve = resolved(function, max_points=400)
    gap = curve.attrs["largest_gap"]
    sound = np.zeros(FINE.shape, dtype=bool)
    for low, high, good in zip(
        *(curve[f"piece_{n}"].values for n in ("low", "high", "resolved")), strict=True
    ):
        sound |= (low <= FINE) & (high >= FINE) & bool(good)
    away = FINE[sound & (np.abs(FINE - place) > gap)]
    assert not away.size or worst(curve, function, away) <= 2e-3
    if not curve.attrs["resolved"]:
        assert "did not resolve" in str(metrics.verdict(curve))
    assert curve.sizes["alpha"] <= 400


def test_noise_never_resolves():
    curve = resolved(lambda a: 1 + 0.1 * torch.sin(1e6 * a), max_points=150)
    assert curve.attrs["resolved"] == 0
    assert curve.sizes["alpha"] <= 150


@pytest.mark.parametrize("width", [0.3, 0.1, 0.05])
def test_a_spike_as_wide_as_the_largest_gap_is_not_missed(width):
    """The docs say that what is narrower than the largest gap can hide; nothing wider may."""
    for centre in np.linspace(0.2, 0.8, 7):
        curve = resolved(lambda a, c=centre: 1 + torch.exp(-(((a - c) / (width / 2)) ** 2)))
        if curve.attrs["largest_gap"] > width:
            continue  # this is what may hide
        assert (
            worst(curve, lambda a, c=centre: 1 + torch.exp(-(((a - c) / (width / 2)) ** 2))) < 2e-3
        )


def test_a_region_that_is_not_finite_stays_so():
    curve = resolved(lambda a: torch.sqrt(a - 0.3) + 1, max_points=300)
    found = values(reconstruct(curve, FINE))
    assert np.isnan(found[FINE < 0.25]).all()
    right = FINE > 0.5
    np.testing.assert_allclose(found[right], np.sqrt(FINE[right] - 0.3) + 1, rtol=1e-2)
    assert "undefined" in metrics.verdict(curve).headline


@pytest.fixture(scope="module")
def net():
    data = blobs(400)
    model = mlp(width=32)
    return model, trained(model, data), {"train": data, "valid": blobs(150, seed=1)}


@pytest.mark.parametrize("interval", [(0, 1), (-0.5, 1.5), (0, 0.01), (0.99, 1)])
def test_every_interval_every_split_every_quantity(net, interval):
    model, ends, data = net
    J = Objective(model, supervised(F.cross_entropy), data, dtype=torch.float64)
    curve = resolve(J, along=Line(*ends), interval=interval)
    assert curve.attrs["resolved"] == 1
    at = np.linspace(*interval, 41)
    again = reconstruct(curve, at)
    for split, source in data.items():
        truth = direct(model, *ends, at, source)
        scale = np.maximum(truth, np.ptp(truth) / 1000)
        assert (np.abs(values(again, split=split) - truth) / scale).max() <= 1e-3
    grid = evaluate(J, along=Line(*ends), at=at)
    allowed = 2 * float(grid["error_stderr"].max())
    assert np.abs(again["error"] - grid["error"]).max() <= allowed
    np.testing.assert_allclose(again["loss_stderr"], grid["loss_stderr"], rtol=0.02, atol=1e-6)


@pytest.mark.calibration
def test_errors_of_curves_with_kinks_are_rarely_more_than_asked_for():
    """100 lines between networks trained on few examples, whose ReLU kinks do not average out."""
    beyond = []
    for seed in range(100):
        torch.manual_seed(seed)
        data = blobs(60, seed=seed)
        model = mlp(width=16)
        J = Objective(model, supervised(F.cross_entropy), data, dtype=torch.float64)
        ends = trained(model, data)
        curve = resolve(J, along=Line(*ends))
        read = reconstruct(curve, np.linspace(0, 1, 401))
        truth = direct(model, *ends, np.linspace(0, 1, 401), data)
        allowed = 1e-3 * np.maximum(truth, np.ptp(truth) / 1000)
        known = np.isfinite(values(read, "loss_misfit"))
        beyond.append((np.abs(values(read) - truth) / allowed)[known].max(initial=0))
    assert np.mean(np.array(beyond) > 1) <= 0.05
    assert max(beyond) < 4


def test_fixed_masks_resolve():
    data = blobs(2000)
    model = mlp(dropout=0.5, width=32)
    ends = trained(model, data)
    J = Objective(model, supervised(F.cross_entropy), data, dropout="fixed", dtype=torch.float64)
    curve = resolve(J, along=Line(*ends))
    grid = evaluate(J, along=Line(*ends), at=np.linspace(0, 1, 31))
    assert curve.attrs["resolved"] == 1
    np.testing.assert_allclose(
        values(reconstruct(curve, grid["alpha"].values)), values(grid), rtol=1e-3
    )


def test_measured_points_are_what_evaluate_gives(net):
    model, ends, data = net
    J = Objective(model, supervised(F.cross_entropy), data)
    curve = resolve(J, along=Line(*ends))
    grid = evaluate(J, along=Line(*ends), at=curve["alpha"].values)
    np.testing.assert_array_equal(curve["loss"], grid["loss"])
    assert len(np.unique(curve["alpha"])) == curve.sizes["alpha"]


def test_a_saved_resolved_curve_is_read_verdict_and_figure_and_all(net, tmp_path):
    model, ends, data = net
    curve = resolve(Objective(model, supervised(F.cross_entropy), data), along=Line(*ends))
    again = open_result(save_result(curve, tmp_path / "curve.nc"))
    xr.testing.assert_identical(reconstruct(again, FINE), reconstruct(curve, FINE))
    assert str(metrics.verdict(again)) == str(metrics.verdict(curve))
    assert "max. interpolation error of the train loss at check points" in str(
        metrics.verdict(curve)
    )
    figure = plot.line(again)
    drawn = figure.panels[0].layers
    longest = max(len(layer.x) for layer in drawn if hasattr(layer, "x"))
    assert longest > 600
    marked = [layer for layer in drawn if type(layer).__name__ == "Markers"]
    assert all(len(layer.x) == curve.sizes["alpha"] for layer in marked)


def test_what_interpolation_may_do_is_no_bump(net):
    """The 0-1 error is a staircase, read along straight lines: no swing beyond any of them."""
    model, ends, data = net
    curve = resolve(Objective(model, supervised(F.cross_entropy), data), along=Line(*ends))
    grid = evaluate(
        Objective(model, supervised(F.cross_entropy), data),
        along=Line(*ends),
        at=np.linspace(0, 1, 401),
    )
    for split in data:
        said = metrics.verdict(curve).measures[split, "error"]
        measured = curve["error"].sel(split=split)
        assert measured.min() <= said.profile.value.min()
        assert said.profile.value.max() <= measured.max()
        truth = metrics.verdict(grid).measures[split, "error"]
        assert said.rise.height.value <= truth.rise.height.value + said.threshold


def test_extremes_come_from_the_interpolant_not_from_a_grid():
    centre = 0.512345678
    curve = resolved(lambda a: 1 + torch.exp(-(((a - centre) / 0.3) ** 2)))
    found = metrics.barrier(curve, "mean")
    assert found.at == pytest.approx(centre, abs=1e-6)
    assert found.value == pytest.approx(
        2 - 1 - np.exp(-((centre / 0.3) ** 2)) / 2 - np.exp(-(((1 - centre) / 0.3) ** 2)) / 2,
        rel=1e-6,
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interval": (1, 0)}, "interval"),
        ({"interval": (0, float("nan"))}, "interval"),
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": 2}, "tolerance"),
        ({"max_points": 3}, "max_points"),
    ],
)
def test_senseless_requests_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        resolved(lambda a: a, **options)


def test_reading_where_nothing_was_resolved_is_refused(net):
    model, ends, data = net
    curve = resolved(lambda a: a**2)
    for at, said in (
        ([1.5], "within"),
        ([-0.1], "within"),
        ([], "non-empty"),
        ([float("nan")], "finite"),
    ):
        with pytest.raises(InputError, match=said):
            reconstruct(curve, at)
    grid = evaluate(
        Objective(model, supervised(F.cross_entropy), data), along=Line(*ends), at=[0, 1]
    )
    with pytest.raises(InputError, match="measured on a grid"):
        reconstruct(grid, [0.5])
    with pytest.raises(InputError, match="was cut"):
        reconstruct(curve.isel(alpha=slice(0, 9)), [0.5])


def test_a_standard_error_read_between_points_is_never_negative():
    """It falls to 0 where the examples agree: the interpolant through its points swings about 0."""
    spread = torch.linspace(-1, 1, 64, dtype=torch.float64)

    def losses(w, x):
        return 1 + spread * torch.sigmoid(60 * (0.3 - w[0]))

    curve = resolve(of_w(losses, size=1), along=UNIT, max_points=25)
    assert float(curve["loss_stderr"].min()) < 1e-9
    read = reconstruct(curve, FINE)
    assert float(read["loss_stderr"].min()) == 0
    assert float(read["loss_noise_floor"].min()) >= 0


def outside(curve, points=4001):
    """How far the reading leaves the two measured points beside it, beyond its misfit, at worst."""
    read = reconstruct(curve, np.linspace(*curve["alpha"].values[[0, -1]], points))
    alpha, held = curve["alpha"].values, curve["loss"].values
    right = np.clip(np.searchsorted(alpha, read["alpha"].values), 1, len(alpha) - 1)
    low, high = (edge(held[right - 1], held[right]) for edge in (np.minimum, np.maximum))
    found = read["loss"].values
    excess = np.maximum(found - high, low - found) - read["loss_misfit"].values
    return float(np.nanmax(excess))


@pytest.mark.parametrize("tilt", [0.0, 0.3, -0.7])
def test_an_extreme_of_the_interpolant_is_measured(tilt):
    def tilted(model, batch):
        w = model(batch[0]).flatten()
        return (w**2 - 1) ** 2 + tilt * w

    line = Line({"weight": torch.tensor([[-1.2]])}, {"weight": torch.tensor([[1.1]])})
    J = Objective(
        torch.nn.Linear(1, 1, bias=False), tilted, (torch.ones(12, 1),), dtype=torch.float64
    )
    curve = resolve(J, along=line, interval=(-0.1, 1.1))
    # where 4 w³ − 4 w + tilt = 0
    roots = np.roots([4.0, 0.0, -4.0, tilt])
    places = (roots.real[np.abs(roots.imag) < 1e-9] + 1.2) / 2.3
    inside = places[(places > -0.1) & (places < 1.1)]
    assert inside.size >= 1
    assert np.abs(curve["alpha"].values[:, None] - inside).min(0).max() < 1e-6
    assert curve.sizes["alpha"] <= 25 + 2 + len(inside)  # both ends of the line lie inside
    assert outside(curve) <= 1e-12


@pytest.mark.parametrize("interval", [(-0.5, 1.5), (-0.013, 1.2), (0, 1.7), (-0.3, 1)])
def test_both_ends_are_measured_wherever_the_interval_holds_them(interval):
    """So that what is not resolved beside an end hides no barrier that was measured."""

    def rough(a):
        # kinks by the hundred, and a barrier of 1 in the middle
        return 0.05 * torch.abs(torch.sin(800 * a)) + torch.exp(-(((a - 0.5) / 0.15) ** 2))

    curve = resolved(rough, interval=interval, max_points=100)
    assert curve.attrs["resolved"] == 0
    assert {0.0, 1.0} <= set(curve["alpha"].values)
    found = metrics.decide(curve, "barrier", above=0.3, scope="examples")
    assert found.answer == "shown", str(found)
    assert found.lower > 0.8


def test_the_ends_count_among_the_points():
    with pytest.raises(InputError, match="at least 15; got 14"):
        resolved(SMOOTH["quartic"], interval=(-0.5, 1.5), max_points=14)
    assert resolved(SMOOTH["quartic"], interval=(-0.5, 1.5), max_points=15).sizes["alpha"] <= 15


def test_no_reading_makes_an_extreme_that_no_point_has():
    """A result whose extremes were not measured says so in its misfit."""
    line = Line({"weight": torch.tensor([[-1.2]])}, {"weight": torch.tensor([[1.1]])})

    def well(model, batch):
        return ((model(batch[0]) ** 2 - 1) ** 2).flatten()

    J = Objective(
        torch.nn.Linear(1, 1, bias=False), well, (torch.ones(12, 1),), dtype=torch.float64
    )
    curve = resolve(J, along=line)
    top = np.abs(curve["alpha"].values - 1.2 / 2.3).argmin()
    older = curve.isel(alpha=np.delete(np.arange(curve.sizes["alpha"]), top))
    assert outside(older) <= 1e-12
    misfit = reconstruct(older, [1.2 / 2.3])["loss_misfit"].item()
    read = reconstruct(older, [1.2 / 2.3])["loss"].item()
    beside = older["loss"].interp(alpha=1.2 / 2.3, method="nearest").item()
    assert 0 < read - beside <= misfit + 1e-12
