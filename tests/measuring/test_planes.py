"""Planes: coordinates mean what they say; resolved ones are right, or say that they are not.

No two sizes or intervals of the axes are the same here, so that a swapped axis or a transposed
surface fails.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn import functional as F

from oracles import blobs, mlp, of_model, of_w, point, trained, values
from ravine import (
    InputError,
    Line,
    Objective,
    Plane,
    evaluate,
    metrics,
    open_result,
    plot,
    reconstruct,
    resolve,
    save_result,
    supervised,
    write_report,
)
from ravine.plot.figure import SUFFIXES
from ravine.plot.render import static_field

U, V = np.linspace(-0.5, 1.25, 7), np.linspace(0.0, 2.0, 5)
UNIT = Plane(point(0.0, 0.0), point(1.0, 0.0), point(0.0, 1.0))


def on(function, **options):
    """resolve of J(α, β) = function(α, β), as float64 tensors."""
    return resolve(
        of_w(lambda w, x: function(w[0], w[1])), along=options.pop("along", UNIT), **options
    )


def truth(function, u, v):
    grid = np.meshgrid(u, v, indexing="ij")
    return function(*(torch.tensor(axis) for axis in grid)).numpy()


# the slice


def test_a_point_is_the_origin_and_its_share_of_both_axes():
    plane = Plane(point(1.0, 2.0), point(4.0, 2.0), point(1.0, 0.0))
    np.testing.assert_allclose(plane.at(0.5, -1.0)["w"], [2.5, 4.0])
    assert (plane.lengths, plane.cosine) == ((3.0, 2.0), 0.0)
    assert repr(plane) == "Plane(origin: a state dict, a: a state dict, b: a state dict)"


def test_corners_are_bit_for_bit_and_in_their_own_type():
    corners = [
        {"w": torch.tensor(w, dtype=torch.float16)} for w in ([-0.0, 0.1], [0.3, 7.0], [1e-3, -2.0])
    ]
    plane = Plane(*corners)
    for corner, place in zip(corners, [(0, 0), (1, 0), (0, 1)], strict=True):
        found = plane.at(*place)["w"]
        assert found.dtype == torch.float16
        assert torch.equal(found.view(torch.int16), corner["w"].view(torch.int16))


def test_files_and_modules_are_corners_too(tmp_path):
    model = mlp()
    torch.save({f"module.{n}": t + 1 for n, t in model.state_dict().items()}, tmp_path / "a.pt")
    plane = Plane(mlp(1), tmp_path / "a.pt", {n: t * 2 for n, t in model.state_dict().items()})
    np.testing.assert_array_equal(plane.at(1, 0)["0.weight"], model.state_dict()["0.weight"] + 1)
    assert "a.pt" in repr(plane)


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        ((point(1.0, 0.0), point(1.0, 0.0), point(0.0, 1.0)), "origin .* and a .* same point"),
        ((point(1.0, 0.0), point(0.0, 1.0), point(1.0, 0.0)), "origin .* and b .* same point"),
        ((point(0.0, 0.0), point(0.0, 1.0), point(0.0, 1.0)), "a .* and b .* same point"),
        (
            (point(0.0, 0.0), point(1.0, 1.0), point(2.0, 2.0 + 1e-6)),
            r"on a line: the sine .* is \d.\de-07",
        ),
        ((point(0.0, 0.0), point(1.0, 1.0), point(1.0, 1.0, 1.0)), "shape at 'w'"),
    ],
)
def test_corners_that_span_no_plane_are_refused(corners, said):
    with pytest.raises(InputError, match=said):
        Plane(*corners)


# evaluate


def test_a_quadratic_comes_back_at_every_place_of_a_skewed_plane():
    w0, a, b = (
        torch.tensor(w, dtype=torch.float64)
        for w in ([1.0, -2.0, 0.5], [-3.0, 0.5, 1.0], [0.0, 4.0, -1.0])
    )
    J = of_w(lambda w, x: 3 * w[0] - w[1] * w[2] + w[0] ** 2 + x, size=3)
    plane = evaluate(J, along=Plane({"w": w0}, {"w": a}, {"w": b}), at={"beta": V, "alpha": U})
    assert plane["loss"].dims == ("alpha", "beta", "split")
    for i, u in enumerate(U):
        for j, v in enumerate(V):
            w = w0 + u * (a - w0) + v * (b - w0)
            assert plane["loss"].values[i, j, 0] == pytest.approx(
                float(3 * w[0] - w[1] * w[2] + w[0] ** 2), abs=1e-12
            )
            assert plane["distance"].values[i, j] == pytest.approx(
                float((w - w0).norm()), rel=1e-12
            )
    assert plane.attrs["cosine"] == pytest.approx(float(F.cosine_similarity(a - w0, b - w0, dim=0)))
    assert (plane.attrs["length_a"], plane.attrs["length_b"]) == pytest.approx(
        Plane(*({"w": w} for w in (w0, a, b))).lengths
    )


def test_positions_stand_in_the_order_in_which_they_were_given():
    J = of_w(lambda w, x: w[0] + 10 * w[1])
    found = evaluate(J, along=UNIT, at={"alpha": [2, 0, 1], "beta": [5, 3]})
    np.testing.assert_allclose(values(found), [[52, 32], [50, 30], [51, 31]])
    assert found["alpha"].values.tolist() == [2, 0, 1]
    assert (
        evaluate(J, along=UNIT, at={"alpha": 0.5, "beta": torch.tensor([1.0])}).sizes["alpha"] == 1
    )


@pytest.fixture(scope="module")
def nets():
    data = blobs()
    first, second = mlp(), mlp(1)
    start, a = trained(first, data)
    return Objective(
        first, supervised(F.cross_entropy), {"train": data, "valid": blobs(90, seed=1)}
    ), (
        start,
        a,
        trained(second, data)[1],
    )


@pytest.fixture(scope="module")
def grid(nets):
    return evaluate(
        nets[0], along=Plane(*nets[1]), at={"alpha": U, "beta": [0, 0.5, 1]}, title="three points"
    )


def test_a_line_in_the_plane_is_that_line(nets):
    J, (origin, a, b) = nets
    plane = evaluate(J, along=Plane(origin, a, b), at={"alpha": [0, 0.25, 1], "beta": [0, 1]})
    edge, other = (
        evaluate(J, along=Line(origin, a), at=[0, 0.25, 1]),
        evaluate(J, along=Line(origin, b), at=[0, 1]),
    )
    for name in ("loss", "loss_stderr", "loss_replicates", "error"):
        np.testing.assert_allclose(plane[name].sel(beta=0), edge[name], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(plane[name].sel(alpha=0), other[name], rtol=1e-5, atol=1e-7)
    for corner, place in ((origin, (0, 0)), (a, (1, 0)), (b, (0, 1))):
        here = plane["loss"].sel(alpha=place[0], beta=place[1])
        assert dict(zip(plane["split"].values, here.values, strict=True)) == pytest.approx(
            J(corner), rel=1e-12
        )
    np.testing.assert_allclose(plane["distance"].sel(beta=0), edge["distance"], rtol=1e-12)


def test_a_plane_says_where_it_comes_from_and_has_floors_everywhere(grid, nets):
    edge = evaluate(nets[0], along=Line(*nets[1][:2]), at=[0, 1])
    assert (grid.attrs["origin_hash"], grid.attrs["a_hash"]) == (
        edge.attrs["start_hash"],
        edge.attrs["end_hash"],
    )
    assert grid.attrs["length_a"] == pytest.approx(edge.attrs["length"])
    assert len({grid.attrs[f"{name}_hash"] for name in ("origin", "a", "b")}) == 3
    assert (grid["loss_noise_floor"] > 0).all()
    assert float(grid["loss_noise_floor"].max()) < 1e-4


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ([0, 1], "on each axis"),
        (np.zeros((3, 2)), r"shape \(3, 2\)"),
        ({"alpha": [0]}, r"keys 'alpha', 'beta'.*got \['alpha'\]"),
        ({"alpha": [0], "gamma": [1]}, "gamma"),
        ({"alpha": [0], "beta": []}, r"at\['beta'\] .* non-empty"),
        ({"alpha": [0], "beta": [0, np.nan]}, r"at\['beta'\] must be finite; got nan at index 1"),
        ({"alpha": [0, 0], "beta": [1]}, "alpha = 0 stands there 2 times"),
        ({"alpha": np.zeros((2, 3)), "beta": [1]}, "not a mesh"),
        ({"alpha": "0:1:5", "beta": [1]}, r"at\['alpha'\] must be numbers"),
    ],
)
def test_positions_that_name_no_place_are_refused(at, said):
    with pytest.raises(InputError, match=said):
        evaluate(of_w(lambda w, x: w[0]), along=UNIT, at=at)


def test_a_line_takes_its_axis_by_name_and_no_other():
    line, J = Line(point(0.0, 0.0), point(1.0, 0.0)), of_w(lambda w, x: w[0])
    xr.testing.assert_equal(
        evaluate(J, along=line, at={"alpha": [0, 2]}), evaluate(J, along=line, at=[0, 2])
    )
    with pytest.raises(InputError, match="keys 'alpha'"):
        evaluate(J, along=line, at={"alpha": [0], "beta": [0]})


def test_corners_that_are_no_finite_point_are_refused_by_name():
    plane = Plane(point(0.0, 0.0), point(float("nan"), 1.0), point(0.0, 1.0))
    with pytest.raises(InputError, match="NaN or infinity in 'w'"):
        evaluate(of_w(lambda w, x: w[0]), along=plane, at={"alpha": [0], "beta": [0]})


# resolve and reconstruct


SMOOTH = {
    "polynomial": lambda a, b: 1 + a - 3 * a * b + a**3 * b**2 + (b - 0.3) ** 4,
    "decades": lambda a, b: 500 * torch.exp(-9 * (a - b) ** 2 - 3 * b) + 1e-3,
    "negative": lambda a, b: -5 + torch.sin(6 * a) * torch.cos(2 * b),
    "barrier": lambda a, b: 0.01 + torch.exp(-(((a - 0.5) / 0.2) ** 2) - b**2),
}
RECTANGLE = {"alpha": (0.0, 1.0), "beta": (-0.5, 1.5)}
FINE = {"alpha": np.linspace(0, 1, 61), "beta": np.linspace(-0.5, 1.5, 53)}


def worst(plane, function, at=FINE):
    exact = truth(function, at["alpha"], at["beta"])
    found = values(reconstruct(plane, at))
    return float((np.abs(found - exact) / np.maximum(np.abs(exact), np.ptp(exact) / 1000)).max())


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_surfaces_resolve_to_their_tolerance(name):
    plane = on(SMOOTH[name], interval=RECTANGLE)
    assert plane.attrs["resolved"] == 1
    assert plane.sizes["alpha"] * plane.sizes["beta"] + plane.sizes["check"] <= 1400
    assert worst(plane, SMOOTH[name]) <= 1e-3
    assert (
        float(plane["loss_misfit"].max())
        <= worst(plane, SMOOTH[name]) * np.abs(plane["loss"].values).max()
    )


def test_a_polynomial_is_read_to_rounding_from_few_points():
    plane = on(SMOOTH["polynomial"], interval=RECTANGLE)
    assert plane.sizes["alpha"] == plane.sizes["beta"] == 9
    assert worst(plane, SMOOTH["polynomial"]) < 1e-12


@pytest.mark.parametrize(("axis", "other"), [("alpha", "beta"), ("beta", "alpha")])
def test_only_the_axis_that_needs_it_is_refined(axis, other):
    def ripple(a, b):
        fast, slow = (a, b) if axis == "alpha" else (b, a)
        return 3 + torch.sin(25 * fast) + slow

    plane = on(ripple, interval=(0.0, 1.0))
    assert plane.attrs["resolved"] == 1
    assert (plane.sizes[axis] >= 33, plane.sizes[other]) == (True, 9)


UNRESOLVED = {
    "step": lambda a, b: 1.5 + (a + 0.31 * b > 0.52).double() * 0.25,
    "noise": lambda a, b: 1 + 0.1 * torch.sin(1e6 * a + 1e5 * b),
    "kink": lambda a, b: (a - 0.37 * b - 0.2).abs() + 0.05,
    "hole": lambda a, b: torch.sqrt(a - 0.3) + b + 1,
}


@pytest.mark.parametrize("name", UNRESOLVED)
def test_what_does_not_resolve_is_said(name):
    plane = on(UNRESOLVED[name], max_points=700)
    assert plane.attrs["resolved"] == 0
    assert plane.sizes["alpha"] * plane.sizes["beta"] + plane.sizes["check"] <= 700
    assert "not resolved to" in str(metrics.verdict(plane))
    assert "did not resolve" in plot.surface(plane).caption
    drawn = plot.surface(plane).panels[0].layers[0]
    np.testing.assert_array_equal(
        drawn.x, plane["alpha"]
    )  # measured points, nothing read between them
    if name == "hole":
        assert "undefined" in metrics.verdict(plane).headline
        assert np.isnan(values(reconstruct(plane, {"alpha": [0.5], "beta": [0.5]}))).all()


@pytest.mark.parametrize("width", [0.5, 0.25, 0.12])
def test_a_spike_as_wide_as_the_largest_gap_is_not_missed(width):
    for x, y in np.random.default_rng(3).uniform(0.2, 0.8, (5, 2)):

        def spike(a, b, x=x, y=y):
            return 1 + torch.exp(-((a - x) ** 2 + (b - y) ** 2) / (width / 2) ** 2)

        plane = on(spike)
        if plane.attrs["resolved"] == 0 or plane.attrs["largest_gap"] > width:
            continue
        assert (
            worst(plane, spike, {"alpha": np.linspace(0, 1, 41), "beta": np.linspace(0, 1, 37)})
            < 2e-3
        )


def test_a_count_is_resolved_to_its_sampling_error_and_measured_points_are_evaluates(nets):
    J, corners = nets
    plane = resolve(
        J, along=Plane(*corners), interval={"alpha": (0, 1), "beta": (0, 0.5)}, tolerance=0.02
    )
    assert plane.attrs["resolved"] == 1
    grid = evaluate(
        J, along=Plane(*corners), at={"alpha": np.linspace(0, 1, 9), "beta": np.linspace(0, 0.5, 6)}
    )
    again = reconstruct(plane, {axis: grid[axis].values for axis in ("alpha", "beta")})
    assert np.abs(again["error"] - grid["error"]).max() <= 3 * float(grid["error_stderr"].max())
    assert (np.abs(again["loss"] - grid["loss"]) <= 0.02 * grid["loss"]).all()
    np.testing.assert_allclose(again["distance"], grid["distance"], rtol=1e-9, atol=1e-9)
    some = evaluate(
        J,
        along=Plane(*corners),
        at={axis: plane[axis].values[[0, 3, -1]] for axis in ("alpha", "beta")},
    )
    np.testing.assert_allclose(
        plane["loss"].isel(alpha=[0, 3, -1], beta=[0, 3, -1]), some["loss"], rtol=1e-12
    )


def test_the_checks_are_in_the_file_with_what_they_found(tmp_path):
    plane = on(SMOOTH["barrier"], interval=RECTANGLE)
    again = open_result(save_result(plane, tmp_path / "plane.nc"))
    xr.testing.assert_identical(again, plane)
    xr.testing.assert_identical(reconstruct(again, FINE), reconstruct(plane, FINE))
    assert str(metrics.verdict(again)) == str(metrics.verdict(plane))
    places = list(zip(again["check_alpha"].values, again["check_beta"].values, strict=True))
    for place, measured, misfit in zip(
        places, values(again, "loss_checked"), values(again, "loss_misfit"), strict=True
    ):
        assert measured == pytest.approx(
            float(SMOOTH["barrier"](*map(torch.tensor, place))), rel=1e-12
        )
        read = reconstruct(again, {"alpha": [place[0]], "beta": [place[1]]})
        assert abs(float(read["loss"].item()) - measured) == pytest.approx(misfit, abs=1e-12)
        assert float(read["loss_misfit"].item()) == float(again["loss_misfit"].max())
    assert (0.0, 0.0) in places or (0.0 in again["alpha"] and 0.0 in again["beta"])


def test_corners_are_measured_wherever_they_lie_in_the_interval():
    plane = on(SMOOTH["polynomial"], interval={"alpha": (-0.3, 1.2), "beta": (-0.1, 0.9)})
    places = set(zip(plane["check_alpha"].values, plane["check_beta"].values, strict=True))
    assert {(0.0, 0.0), (1.0, 0.0)} <= places
    assert (0.0, 1.0) not in places


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interval": {"alpha": (0, 1)}}, "keys 'alpha', 'beta'"),
        ({"interval": {"alpha": (0, 1), "beta": (1, 0)}}, "smaller one first"),
        ({"interval": 3}, "two finite numbers"),
        ({"tolerance": 0}, "tolerance"),
        ({"max_points": 80}, "max_points must be at least 100"),
    ],
)
def test_senseless_requests_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        on(lambda a, b: a + b, **options)


def test_reading_where_nothing_was_resolved_is_refused(grid):
    plane = on(SMOOTH["polynomial"], interval=RECTANGLE)
    for at, said in (
        ({"alpha": [1.5], "beta": [0]}, r"\[0, 1\] of alpha"),
        ({"alpha": [0.5], "beta": [-0.6]}, r"\[-0.5, 1.5\] of beta"),
        ([0.5], "on each axis"),
    ):
        with pytest.raises(InputError, match=said):
            reconstruct(plane, at)
    with pytest.raises(InputError, match="measured on a grid"):
        reconstruct(grid, {"alpha": [0.5], "beta": [0.5]})
    with pytest.raises(InputError, match="was cut"):
        reconstruct(plane.isel(alpha=slice(0, 5)), {"alpha": [0.1], "beta": [0.5]})


# metrics


def test_the_verdict_finds_the_lowest_point_and_names_the_corners():
    def bowl(a, b):
        return 2 + (a - 0.4) ** 2 + 3 * (b - 0.75) ** 2

    for plane in (
        on(bowl, interval=RECTANGLE),
        evaluate(
            of_w(lambda w, x: bowl(w[0], w[1])),
            along=UNIT,
            at={"alpha": np.linspace(0, 1, 41), "beta": V},
        ),
    ):
        found = metrics.verdict(plane).measures["data", "loss"]
        tolerance = 0.03 if plane.attrs["sampling"] == "resolved" else 0.26
        assert found.lowest.value.at == pytest.approx(0.4, abs=0.03)
        assert found.lowest.beta == pytest.approx(0.75, abs=tolerance)
        assert not found.lowest.on_rim
        assert found.corners["a"].value.value == pytest.approx(2 + 0.36 + 3 * 0.75**2)
        assert found.below.value == pytest.approx(
            min(s.value.value for s in found.corners.values()) - found.lowest.value.value
        )
        assert "below b" in str(metrics.verdict(plane))


def test_the_lowest_of_many_noisy_points_is_not_shown_to_lie_below_the_corners():
    """A surface of noise: the lowest of 81 points lies low by chance, mostly two errors low."""

    def ripple(model, batch):
        return torch.cos(batch[0][:, :2] @ model.w + batch[0][:, 2])

    shown, apart = 0, 0
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        waves = 8 * torch.randn(200, 2, generator=draw, dtype=torch.float64)
        phase = 6.28 * torch.rand(200, generator=draw, dtype=torch.float64)
        J = of_model(ripple, torch.column_stack([waves, phase]), size=2)
        grid = {"alpha": np.linspace(0, 1, 9), "beta": np.linspace(0, 1, 9)}
        found = metrics.verdict(evaluate(J, along=UNIT, at=grid)).measures["data", "loss"]
        shown += found.below.answer == "shown"
        apart += found.lowest.value.value < -2 * found.lowest.value.stderr
    assert shown <= 3
    assert apart >= 10


def test_a_difference_to_a_corner_is_paired():
    """Examples that differ by a constant shift the surface: the difference has no error."""
    J = of_w(lambda w, x: (w[0] - 0.5) ** 2 + w[1] ** 2 + x, torch.randn(40, dtype=torch.float64))
    found = metrics.verdict(
        evaluate(J, along=UNIT, at={"alpha": [0, 0.5, 1], "beta": [-1, 0]})
    ).measures["data", "loss"]
    assert found.lowest.value.stderr > 0.05
    below = found.below
    assert (below.value, below.lower, below.upper) == pytest.approx((0.25,) * 3, abs=1e-12)
    assert below.answer == "shown"


def test_measures_of_a_line_refuse_a_plane(grid):
    for measure in (
        metrics.barrier,
        metrics.rise,
        metrics.minima,
        metrics.convexity,
        metrics.plateau,
    ):
        with pytest.raises(InputError, match=r"of a line.*metrics\.verdict"):
            measure(grid)


# figures


def test_a_figure_holds_the_surface_unturned(grid):
    figure = plot.surface(grid, split="valid", quantity="error")
    field = figure.panels[0].layers[0]
    np.testing.assert_array_equal(field.z, grid["error"].sel(split="valid"))
    assert field.z.shape == (7, 3)
    assert figure.panels[0].aspect == pytest.approx(grid.attrs["length_b"] / grid.attrs["length_a"])
    on_paper = figure.to_matplotlib().axes[0]
    assert (on_paper.get_xlim(), on_paper.get_ylim()) == ((-0.5, 1.25), (0, 1))
    on_screen = figure.to_plotly().data[0]
    np.testing.assert_allclose(on_screen.customdata, field.z.T, rtol=1e-7)
    shuffled = plot.surface(
        grid.isel(alpha=[3, 0, 1, 2, 6, 5, 4], beta=[2, 0, 1]).transpose("beta", ...), split="valid"
    )
    np.testing.assert_array_equal(shuffled.panels[0].layers[0].z, grid["loss"].sel(split="valid"))


def test_colours_are_logarithmic_where_values_span_decades():
    def figure(function):
        return plot.surface(on(function, tolerance=0.05))

    steep, flat = figure(lambda a, b: torch.exp(5 * a + b)), figure(lambda a, b: 1 + a + b)
    assert (steep.panels[0].z.scale, flat.panels[0].z.scale) == ("log", "linear")
    assert "a factor of" in steep.caption
    for one in (steep, flat):
        field, scale = one.panels[0].layers[0], one.panels[0].z
        gaps = np.diff(scale.scaled(field.levels))
        np.testing.assert_allclose(gaps, gaps[0])
        assert (
            field.levels[0]
            <= np.nanmin(field.z)
            <= np.nanmax(field.z)
            <= field.levels[-1] * (1 + 1e-9)
        )
        assert 4 <= len(field.levels) <= 17


def test_corners_are_named_where_they_are_in_view(grid):
    (marks,) = [
        layer for layer in plot.surface(grid).panels[0].layers if isinstance(layer, plot.Markers)
    ]
    assert marks.names == ("origin", "a", "b")
    (fewer,) = [
        layer
        for layer in plot.surface(grid.isel(beta=[0, 1])).panels[0].layers
        if isinstance(layer, plot.Markers)
    ]
    assert fewer.names == ("origin", "a")


STEPS = np.linspace(0, 1, 6)
PATH = xr.Dataset(
    {
        "alpha": ("step", STEPS),
        "beta": ("step", STEPS**2 / 2),
        "residual": ("step", STEPS),
        "loss": ("step", 2 - STEPS),
    },
    coords={"step": np.arange(6) * 100},
)


@pytest.mark.parametrize("view", ["flat", "3d"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_view_is_written_in_every_format(grid, tmp_path, view, suffix):
    path = plot.surface(grid, PATH, view=view).save(tmp_path / f"plane{suffix}")
    assert path.stat().st_size > 5000


def test_a_path_lies_at_its_own_height_and_tells_how_far_off_it_is(grid):
    figure = plot.surface(grid, PATH, view="3d")
    curves = {
        layer.label: layer for layer in figure.panels[0].layers if isinstance(layer, plot.Curve)
    }
    assert list(curves) == ["straight line", "distance in height from the plane", "training path"]
    trail, straight = curves["training path"], curves["straight line"]
    np.testing.assert_array_equal(trail.z, 2 - STEPS)
    assert (straight.x[0], straight.x[-1], np.ptp(straight.y)) == (0, 1, 0)
    uprights = np.asarray(curves["distance in height from the plane"].z).reshape(6, 3)
    np.testing.assert_array_equal(uprights[:, 0], trail.z)
    field = next(layer for layer in figure.panels[0].layers if isinstance(layer, plot.Field))
    across = np.array([np.interp(trail.y, field.y, row) for row in field.z])
    below = [np.interp(x, field.x, column) for x, column in zip(trail.x, across.T, strict=True)]
    np.testing.assert_allclose(uprights[:, 1], below)
    assert np.isnan(uprights[:, 2]).all()
    limits = figure.panels[0].z.limits
    assert limits[0] <= 1 <= 2 <= limits[1]  # room for the path's own heights
    assert trail.hover[1] == "step 100, loss 1.8, distance from the plane 0.2"
    assert "up to 1 off it" in figure.caption
    outside = plot.surface(grid, PATH.assign(alpha=PATH["alpha"] * 3)[["alpha", "beta"]])
    assert "3 of 6 lie outside" in outside.caption


def test_a_name_stands_where_the_fewest_lines_run():
    mark = np.array([100.0, 100.0])
    line = np.stack(
        [np.linspace(100, 150, 51), np.linspace(100, 130, 51)], 1
    )  # up and to the right
    assert static_field._beside("name", mark, np.empty((0, 2))) == (4, 6)
    assert static_field._beside("name", mark, line) == (-4, -6)
    assert static_field._beside("name", mark, np.concatenate([line, 200 - line])) == (-4, 6)


AWKWARD = {
    "NaN in part": lambda z: np.where(z > np.median(z), np.nan, z),
    "infinite in part": lambda z: np.where(z > np.median(z), np.inf, z),
    "all NaN": lambda z: np.full_like(z, np.nan),
    "flat": lambda z: np.full_like(z, 3.0),
    "zero": np.zeros_like,
    "negative": lambda z: -z,
    "huge": lambda z: z * 1e100,
}


@pytest.mark.parametrize("view", ["flat", "3d"])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_planes_are_drawn_and_reported(grid, name, view, tmp_path):
    plane = grid.copy(deep=True)
    plane["loss"].values[:] = AWKWARD[name](grid["loss"].values)
    figure = plot.surface(plane, view=view)
    crosses = [
        m for m in figure.panels[0].layers if isinstance(m, plot.Markers) and m.symbol == "cross"
    ]
    assert bool(crosses) == (not np.isfinite(plane["loss"].isel(split=0)).all())
    assert figure._encoded("png").startswith(b"\x89PNG")
    assert figure.to_plotly().to_json()
    assert ("undefined" in metrics.verdict(plane).headline) == bool(crosses)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: plot.line(p), "not a line"),
        (lambda p: plot.surface(p.isel(beta=0)), "not a plane"),
        (lambda p: plot.surface(p.isel(beta=[0])), "2 × 2"),
        (lambda p: plot.surface(p, quantity="accuracy"), "accuracy"),
        (lambda p: plot.surface(p, split="test"), "test"),
        (lambda p: plot.surface(p, view="top"), "'flat' or '3d'"),
        (lambda p: plot.surface(p, PATH[["alpha"]]), "lacks beta"),
        (lambda p: plot.surface(p, PATH.assign(beta=PATH["beta"] * np.nan)), "finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(grid, call, said):
    with pytest.raises(InputError, match=said):
        call(grid)


def test_a_report_holds_planes_and_lines(grid, nets, tmp_path):
    line = evaluate(nets[0], along=Line(*nets[1][:2]), at=np.linspace(0, 1, 5))
    text = write_report(tmp_path, grid, line).read_text(encoding="utf-8")
    assert "1 line and 1 plane" in text
    assert metrics.verdict(grid).headline in text
    assert "21 points (CSV)" in text
    assert "Euclidean distance from the origin to b" in text
    for corner in ("origin", "a", "b"):
        assert grid.attrs[f"{corner}_hash"] in text


def test_running_statistics_are_recomputed_on_a_plane_too():
    data, model = blobs(), mlp(norm=True)
    start, end = trained(model, data)
    J = Objective(model, supervised(F.cross_entropy), data, buffers="recompute")
    plane = evaluate(
        J, along=Plane(start, end, mlp(1, norm=True)), at={"alpha": [0, 1], "beta": [0, 0.5, 1]}
    )
    line = evaluate(J, along=Line(start, end), at=[0, 1])
    np.testing.assert_allclose(plane["loss"].sel(beta=0), line["loss"], rtol=1e-5)
    assert "values at the corners differ from those of the saved checkpoints too" in str(
        metrics.verdict(plane)
    )
    fixed = evaluate(
        Objective(model, supervised(F.cross_entropy), data, buffers="end"),
        along=Plane(start, end, mlp(1, norm=True)),
        at={"alpha": [0, 1], "beta": [0, 1]},
    )
    assert "are the corner b's at every point, so values elsewhere differ" in str(
        metrics.verdict(fixed)
    )
