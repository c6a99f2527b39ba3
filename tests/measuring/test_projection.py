"""Projection: made trajectories show how they were made, random walks what theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import ravine
from ravine import (
    InputError,
    black_sheep,
    metrics,
    open_result,
    plot,
    principal_axes,
    project,
    save_result,
    write_report,
)
from ravine.measuring.projection import Run
from ravine.metrics.walks import CorrelatedWalk, correlated_walk, random_walk, straightness
from ravine.points.recorder import TrajectoryRecorder
from ravine.points.slices import Line
from ravine.points.trajectory import Trajectory


def point(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64)}


def directions(count: int, seed: int = 0, *, orthonormal: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(40, count, generator=generator, dtype=torch.float64)
    return list((torch.linalg.qr(drawn)[0] if orthonormal else drawn).T)


def split(flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """40 numbers as a matrix and a vector, so that more than one tensor is summed over."""
    return {"m": flat[:28].reshape(4, 7), "v": flat[28:]}


def walk(steps: int, dimensions: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    here, run = torch.zeros(dimensions), []
    for _ in range(steps + 1):
        run.append({"w": here.clone()})
        here = here + torch.randn(dimensions, generator=generator)
    return run


class Spanned:
    """Any three corners: what a plane is to project()."""

    dims = ("alpha", "beta")

    def __init__(self, *corners):
        self.corners = tuple(ravine.Checkpoint.read(corner) for corner in corners)

    def coefficients(self, alpha, beta):
        return (1 - alpha - beta, alpha, beta)


class TestMadeTrajectories:
    def test_a_line_gives_back_alpha_and_residual(self):
        u, v = directions(2)
        origin = torch.linspace(-3, 5, 40, dtype=torch.float64)  # not 0
        made = [(0.0, 0.0), (1.5, -2.0), (-0.5, 4.0), (6.0, 1.0), (4.0, 0.0), (4.5, 0.5)]
        run = [split(origin + x * u + r * v) for x, r in made]
        path = project(run, onto=Line(run[0], run[4]))
        np.testing.assert_allclose(path["distance"], [x for x, _ in made], atol=1e-13)
        np.testing.assert_allclose(path["alpha"], [x / 4 for x, _ in made], atol=1e-13)
        np.testing.assert_allclose(path["residual"], [abs(r) for _, r in made], atol=1e-13)
        np.testing.assert_allclose(
            path["displacement"], [math.hypot(x, r) for x, r in made], atol=1e-13
        )
        steps = [0.0, *(math.dist(a, b) for a, b in zip(made, made[1:], strict=False))]
        np.testing.assert_allclose(path["step_length"], steps, atol=1e-13)
        np.testing.assert_allclose(path["path_length"], np.cumsum(steps), atol=1e-13)
        np.testing.assert_allclose(
            path["cosine"][1:], [x / math.hypot(x, r) for x, r in made[1:]], atol=1e-13
        )
        assert math.isnan(path["cosine"][0])
        assert path.attrs["length"] == pytest.approx(4.0)

    def test_axes_need_not_be_orthogonal(self):
        a, b, out = directions(3, orthonormal=False)
        axes = torch.linalg.qr(torch.stack([a, b, out], 1))[0]
        out = axes[:, 2]  # orthogonal to a and b, which are not to each other
        b = b * 100 + a  # nor of one length
        origin = torch.full((40,), 0.7, dtype=torch.float64)
        made = [(0.0, 0.0, 0.0), (0.5, -0.25, 2.0), (1.0, 0.0, 0.0), (-1.0, 3.0, 1.0)]
        run = [split(origin + x * a + y * b + r * out) for x, y, r in made]
        path = project(run, onto=Spanned(split(origin), split(origin + a), split(origin + b)))
        np.testing.assert_allclose(path["alpha"], [x for x, _, _ in made], atol=1e-11)
        np.testing.assert_allclose(path["beta"], [y for _, y, _ in made], atol=1e-11)
        np.testing.assert_allclose(path["residual"], [r for _, _, r in made], atol=1e-11)
        squares = path["distance"] ** 2 + path["residual"] ** 2
        np.testing.assert_allclose(squares, path["displacement"] ** 2, rtol=1e-12)
        assert list(path["walk"].values) == ["run"]

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4), min_size=3, max_size=8))
    def test_pythagoras(self, values):
        run = [point(*row) for row in values]
        if math.dist(values[0], values[-1]) < 1e-3:
            return
        path = project(run)
        squares = path["distance"] ** 2 + path["residual"] ** 2
        np.testing.assert_allclose(squares, path["displacement"] ** 2, rtol=1e-9, atol=1e-9)
        assert float(path["residual"][0]) == 0
        assert float(path["residual"][-1]) <= 1e-12 * path.attrs["length"]

    def test_a_small_residual_keeps_its_digits(self):
        """√(‖d‖² − x²) would give 0 or 0.02 here."""
        run = [point(0.0, 0.0), point(1e6, 1e-3), point(2e6, 0.0)]
        assert float(project(run)["residual"][1]) == pytest.approx(1e-3, rel=1e-9)

    def test_float32_is_summed_in_float64(self):
        run = [
            {"w": torch.zeros(300_001)},
            {"w": torch.full((300_001,), 0.1)},
            {"w": torch.full((300_001,), 0.2)},
        ]
        path = project(run)
        exact = float(torch.tensor(0.1)) * math.sqrt(300_001)
        assert float(path["distance"][1]) == pytest.approx(exact, rel=1e-12)

    def test_complex_parameters_count_as_pairs(self):
        run = [{"w": torch.tensor([z], dtype=torch.complex128)} for z in (0, 3 + 4j, 10)]
        path = project(run)
        np.testing.assert_allclose(path["distance"], [0, 3, 10])
        np.testing.assert_allclose(path["residual"], [0, 4, 0])

    def test_pieces_of_a_large_tensor_add_up(self):
        size = (1 << 20) + 3
        run = [{"w": torch.zeros(size)}, {"w": torch.ones(size)}, {"w": torch.full((size,), 2.0)}]
        path = project(run)
        assert float(path["displacement"][1]) == pytest.approx(math.sqrt(size), rel=1e-12)
        assert float(path["residual"].max()) == 0

    def test_the_path_is_at_least_the_displacement(self):
        path = project(walk(20, 50))
        assert bool((path["path_length"] >= path["displacement"] - 1e-9).all())


def carried(folder, momentum, every, *, drift=0.0):
    """A run of 120 snapshots: momentum's steps, of fresh gradients and of a constant one."""
    stream, recorder = np.random.default_rng(7), TrajectoryRecorder(folder)
    place = np.zeros(10_000)
    velocity = stream.normal(size=len(place)) / (1 - momentum**2) ** 0.5
    recorder.record(0, {"w": torch.from_numpy(place)})
    for snapshot in range(120):
        for _ in range(every):
            velocity = momentum * velocity + stream.normal(size=len(place))
            place = place + velocity + drift
        recorder.record((snapshot + 1) * every, {"w": torch.from_numpy(place)})
    return project(folder)


class TestRandomWalk:
    def test_the_closed_form_is_a_semicircle_and_two_thirds(self):
        share = np.linspace(0, 1, 100_001)
        along, residual = random_walk(share)
        np.testing.assert_allclose((along - 0.5) ** 2 + residual**2, 0.25, atol=1e-12)
        assert 1 / (1 + residual.max()) == 2 / 3
        assert (along**2).sum() / share.sum() == pytest.approx(2 / 3, abs=1e-5)

    def test_a_walk_in_many_dimensions_is_its_own_null(self):
        path = project(walk(100, 100_000))
        run, null = path.sel(walk="run"), path.sel(walk="random walk")
        assert float(run["max_residual"]) == pytest.approx(0.5, abs=0.01)
        assert float(run["captured"]) == pytest.approx(2 / 3, abs=0.01)
        assert float(run["captured_squares"]) == pytest.approx(2 / 3, abs=0.01)
        assert float(run["directness"]) == pytest.approx(0.1, rel=0.01)
        assert float(null["captured"]) == 2 / 3
        assert float(null["captured_squares"]) == pytest.approx(
            2 / 3, abs=0.005
        )  # Σ over 101 points, no integral
        assert float(null["directness"]) == pytest.approx(0.1)
        np.testing.assert_allclose(path["alpha"], path["null_alpha"], atol=0.02)
        np.testing.assert_allclose(
            path["residual"], path["null_residual"], atol=0.02 * path.attrs["length"]
        )
        assert straightness(path).startswith("Training went about as straight as a random walk")

    def test_a_walk_past_the_lines_end(self):
        run = walk(100, 50_000, seed=1)
        path = project(run, onto=Line(run[0], run[60]))
        assert float(path["null_residual"][-1]) == pytest.approx(
            path.attrs["length"] * math.sqrt(40 / 60)
        )
        np.testing.assert_allclose(
            path["residual"], path["null_residual"], atol=0.03 * path.attrs["length"]
        )
        captured = path["captured"]
        assert float(captured.sel(walk="random walk")) == pytest.approx(
            1 / (1 + math.sqrt(40 / 60))
        )
        assert float(captured.sel(walk="run")) == pytest.approx(
            float(captured.sel(walk="random walk")), abs=0.01
        )

    def test_uneven_snapshots_count_by_their_steps(self, tmp_path):
        run, recorder = walk(100, 50_000, seed=2), TrajectoryRecorder(tmp_path)
        for step in (0, 1, 2, 5, 10, 20, 50, 100):
            recorder.record(step, run[step])
        path = project(tmp_path)
        assert list(path["step"].values) == [0, 1, 2, 5, 10, 20, 50, 100]
        np.testing.assert_allclose(
            path["residual"], path["null_residual"], atol=0.03 * path.attrs["length"]
        )
        directness = path["directness"]
        assert float(directness.sel(walk="run")) == pytest.approx(
            float(directness.sel(walk="random walk")), rel=0.02
        )

    @pytest.mark.parametrize(("momentum", "every"), [(0.0, 1), (0.9, 1), (0.9, 10), (0.97, 20)])
    def test_momentum_without_a_signal_is_its_own_null(self, momentum, every, tmp_path):
        path = carried(tmp_path, momentum, every)
        found = correlated_walk(path)
        assert found is not None
        own, captured = found[1], float(path["captured"].sel(walk="run"))
        assert captured == pytest.approx(own["captured"], abs=0.01)
        assert float(path["directness"].sel(walk="run")) == pytest.approx(
            own["directness"], rel=0.05
        )
        assert straightness(path).startswith(
            "Training went about as straight as a random walk with its own step"
        )

    def test_momentum_is_straighter_than_independent_steps(self, tmp_path):
        path = carried(tmp_path, 0.9, 1)
        found = correlated_walk(path)
        assert found is not None
        assert found[0].momentum == pytest.approx(0.9, abs=0.02)
        assert float(path["captured"].sel(walk="run")) > 2 / 3 + 0.01
        assert "one with independent steps 0.667" in straightness(path)

    def test_a_drift_is_straighter_than_its_own_step_correlation(self, tmp_path):
        path = carried(tmp_path, 0.9, 10, drift=0.5)
        assert straightness(path).startswith(
            "Training went straighter than a random walk with its own step"
        )

    def test_the_square_of_a_correlated_way_is_the_sum_of_all_correlations(self):
        steps = np.arange(7)
        expected = (0.8 ** np.abs(steps[:, None] - steps[None])).sum()
        assert float(CorrelatedWalk(0.8).squares(7)) == pytest.approx(expected, rel=1e-12)
        crossed = (0.8 ** np.abs(np.arange(3)[:, None] - steps[None])).sum()
        assert float(CorrelatedWalk(0.8).products(np.array([3]), 7)[0]) == pytest.approx(crossed)

    @pytest.mark.parametrize("dimensions", [20, 200])
    def test_a_walk_in_few_dimensions_is_called_a_walk(self, dimensions):
        """It scatters about what is expected in very many, by as much as its own turns tell."""
        called = 0
        for seed in range(20):
            path = project(walk(60, dimensions, seed=seed))
            found = correlated_walk(path)
            assert found is not None
            assert dimensions / 3 < found[0].dimensions < 3 * dimensions
            called += "about as straight" in straightness(path)
        assert called >= 17  # two standard deviations: 19 of 20

    def test_how_a_run_turns(self):
        path = project([point(0, 0), point(1, 0), point(1, 2), point(4, 2)])
        np.testing.assert_allclose(path["step_cosine"][2:], [0, 0], atol=1e-15)
        assert bool(path["step_cosine"][:2].isnull().all())
        back = project([point(0, 0), point(2, 2), point(1, 1)])
        assert float(back["step_cosine"][2]) == pytest.approx(-1)

    def test_the_first_component_of_a_walk(self):
        found = principal_axes(walk(99, 20_000, seed=3), count=2)
        assert found.explained[0] == pytest.approx(6 / math.pi**2, abs=0.02)
        assert found.explained.sum() == pytest.approx(1)


class TestWords:
    def test_a_straight_run_is_straighter(self):
        run = [point(0, 0), point(1, 0.1), point(2, 0)]
        assert straightness(project(run)).startswith(
            "Training went straighter than a random walk with independent steps: fraction captured "
            "by the line 0.952"
        )

    def test_a_detour_is_less_straight(self):
        run = [point(0, 0), point(1, 3), point(2, 0)]
        assert straightness(project(run)).startswith(
            "Training went less straight than a random walk"
        )

    def test_a_line_to_elsewhere_has_no_null(self):
        run = [point(0, 0), point(1, 3), point(2, 0)]
        path = project(run, onto=Line(run[0], point(5, 5)))
        assert "null_residual" not in path
        assert "no random walk to compare with" in straightness(path)

    def test_not_finite_is_undefined(self):
        run = [point(0, 0), point(math.nan, 3), point(2, 0)]
        path = project(run)
        assert math.isnan(path["residual"][1])
        assert float(path["residual"][2]) == 0
        assert "undefined" in straightness(path)

    def test_other_results_are_refused(self):
        with pytest.raises(ravine.InputError, match=r"expected a result of project\(\)"):
            straightness(project([point(0, 0), point(1, 0)]).drop_vars("residual"))


class TestCorners:
    def test_the_black_sheep_spans_a_plane_with_the_farthest_snapshot(self):
        u, v, w = directions(3)
        origin = torch.full((40,), 2.0, dtype=torch.float64)
        run = [
            split(origin),
            split(origin + u + 0.5 * v),
            split(origin + 2 * u - 3 * w),
            split(origin + 8 * u),
        ]
        line = Line(run[0], run[-1])
        corner = black_sheep(run, line)
        torch.testing.assert_close(corner, split(origin - 3 * w))
        path = project(run, onto=Spanned(run[0], run[-1], corner))
        np.testing.assert_allclose(path["residual"], [0, 0.5, 0, 0], atol=1e-12)
        np.testing.assert_allclose(path["beta"], [0, 0, 1, 0], atol=1e-12)

    def test_a_walk_is_better_captured_with_a_second_axis(self):
        """In the plane with its farthest snapshot: y/L = min(s, 1 − s), so that F is 5/6."""
        run = walk(100, 50_000, seed=4)
        line = Line(run[0], run[-1])
        path = project(run, onto=Spanned(run[0], run[-1], black_sheep(run, line)))
        assert float(path["captured_squares"].sel(walk="run")) == pytest.approx(5 / 6, abs=0.01)

    def test_principal_axes_of_a_made_run(self):
        u, v = directions(2, seed=5)
        origin = torch.full((40,), -1.0, dtype=torch.float64)
        made = np.array(
            [(-3.0, 1.0), (3.0, 1.0), (3.0, -1.0), (-3.0, -1.0), (4.0, 0.0), (-4.0, 0.0)]
        )
        found = principal_axes([split(origin + x * u + y * v) for x, y in made], count=2)
        torch.testing.assert_close(dict(found.origin), split(origin))
        torch.testing.assert_close(
            dict(found.corners[0]), split(origin - 4 * u)
        )  # the last snapshot is on its side
        np.testing.assert_allclose(found.explained, [68 / 72, 4 / 72, 0, 0, 0, 0], atol=1e-12)
        np.testing.assert_allclose(found.coordinates[:, 0], -made[:, 0] / 4, atol=1e-12)
        np.testing.assert_allclose(np.abs(found.coordinates[:, 1]), np.abs(made[:, 1]), atol=1e-7)

    def test_coordinates_are_those_of_the_plane(self):
        run = walk(12, 200, seed=6)
        found = principal_axes(run, count=2)
        path = project(run, onto=Spanned(found.origin, *found.corners))
        np.testing.assert_allclose(
            np.stack([path["alpha"], path["beta"]], 1), found.coordinates, atol=1e-5
        )
        assert np.abs(found.coordinates).max() == pytest.approx(1)


class TestProvenance:
    def test_a_path_is_a_result(self, tmp_path):
        path = project([point(0, 0), point(1, 3), point(2, 0)])
        again = ravine.open_result(ravine.save_result(path, tmp_path / "path.nc"))
        assert again.identical(path)
        assert again.attrs["schema_version"] == 2

    def test_hashes_match_a_curves(self, tmp_path):
        run = [point(0, 0), point(1, 3), point(2, 0)]
        line = Line(run[0], run[-1])

        def losses(model, batch):
            return batch[0] * model.w.sum()

        model = torch.nn.Module()
        model.w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        curve = ravine.evaluate(
            ravine.Objective(model, losses, (torch.ones(2, dtype=torch.float64),)),
            along=line,
            at=[0, 1],
        )
        path = project(run, onto=line)
        for name in ("start_hash", "end_hash"):
            assert path.attrs[name] == curve.attrs[name]

    def test_the_runs_hash_follows_its_content(self):
        run = [point(0, 0), point(1, 3), point(2, 0)]
        assert project(run).attrs["run_hash"] == project(run).attrs["run_hash"]
        assert (
            project(run).attrs["run_hash"]
            != project([*run[:1], point(1, 4), *run[2:]]).attrs["run_hash"]
        )


class TestBadInput:
    def refused(self, run: Run, said: str, **more):
        with pytest.raises(ravine.InputError, match=said):
            project(run, **more)

    def test_too_short(self):
        self.refused([point(0, 0)], "two snapshots or more .* got 1")

    def test_a_flat_slice(self):
        self.refused([point(1, 0), point(2, 0), point(1, 0)], "the slice is flat")
        run = [point(0, 0), point(1, 3)]
        self.refused(run, "the slice is flat", onto=Spanned(point(0, 0), point(1, 1), point(3, 3)))

    def test_other_shapes(self):
        self.refused([point(0, 0), point(0, 1, 2), point(2, 0)], "shape at 'w'")

    def test_coordinates_of_another_kind(self):
        class Curved(Spanned):
            def coefficients(self, alpha, beta):
                return (1 - alpha**2, alpha**2 - beta, beta)

        run = [point(0, 0), point(1, 3)]
        self.refused(
            run,
            "needs a slice whose coordinates",
            onto=Curved(point(0, 0), point(1, 0), point(0, 1)),
        )

    def test_a_damaged_snapshot_is_named(self, tmp_path):
        recorder = TrajectoryRecorder(tmp_path)
        for step, run in enumerate([point(0, 0), point(1, 3), point(2, 0)]):
            recorder.record(step, run)
        path = tmp_path / recorder.snapshots[1].file
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(bytes(content))
        self.refused(Trajectory.open(tmp_path), "the snapshot of step 1, .* is damaged")
        self.refused(tmp_path, "the snapshot of step 1, .* is damaged")

    def test_nothing_to_span(self):
        run = [point(0, 0), point(1, 0), point(2, 0)]
        with pytest.raises(ravine.InputError, match="no snapshot leaves the slice"):
            black_sheep(run, Line(run[0], run[-1]))

    def test_too_many_axes(self):
        run = [point(0, 0), point(1, 0), point(2, 0)]
        for count in (0, 2):
            with pytest.raises(ravine.InputError, match="the run varies in 1 directions"):
                principal_axes(run, count=count)
        with pytest.raises(ravine.InputError, match="the run varies in 0 directions"):
            principal_axes([run[0], run[0]])
        with pytest.raises(ravine.InputError, match="snapshot 1 of the run is not finite"):
            principal_axes([run[0], point(math.inf, 0), run[1]])

    def test_a_corner_that_is_not_finite_makes_all_of_it_undefined(self):
        path = project([point(0, 0), point(1, 3), point(math.nan, 0)])
        assert math.isnan(float(path["captured"].sel(walk="run")))
        assert np.isnan(path["alpha"][1:]).all()
        assert "undefined" in straightness(path)

    def test_a_run_that_stands_still(self):
        run = [point(0, 0), point(0, 0)]
        path = project(run, onto=Line(run[0], point(3, 4)))
        assert float(path["captured"].sel(walk="run")) == 1.0
        assert "no random walk" in straightness(path)


class TestShown:
    """The figure, the verdict and the report of a projected run."""

    def test_the_null_is_drawn_through_its_snapshots(self):
        run = walk(100, 20_000, seed=4)
        path = project(run, onto=Line(run[0], run[80]))
        panel = plot.path(path).panels[0]
        null, training = [layer for layer in panel.layers if isinstance(layer, plot.Curve)]
        assert (null.label, training.label) == ("random walk", "training")
        length = path.attrs["length"]
        inside = path["null_alpha"].values < 1
        read = np.interp(path["null_alpha"].values[inside] * length, null.x[:201], null.y[:201])
        np.testing.assert_allclose(read, path["null_residual"].values[inside], atol=1e-3 * length)
        assert null.y[-1] == pytest.approx(
            float(path["null_residual"][-1])
        )  # on past the line's end
        assert null.x[-1] == pytest.approx(length)

    def test_without_a_null_there_is_none_to_see(self):
        path = project([point(0, 0), point(1, 3), point(2, 0)], onto=Line(point(0, 0), point(5, 5)))
        layers = plot.path(path).panels[0].layers
        assert [layer.label for layer in layers if isinstance(layer, plot.Curve)] == ["training"]

    def test_the_verdict_says_where_it_was_farthest(self):
        found = metrics.verdict(
            project(
                [point(0, 0), point(3, 2), point(8, 0), point(8, 1)], Line(point(0, 0), point(8, 0))
            )
        )
        assert found.headline.startswith(
            "Training went straighter than a random walk with independent steps: fraction captured "
            "by the line 0.800"
        )
        assert "farthest from the line at step 1, where α = 0.375" in str(found)
        assert "past the line's end, to α = 1 and 0.125 of the line's length away" in str(found)
        row = next(row for row in found.rows if row.measure == "captured" and row.split == "run")
        assert row.value == 0.8

    def test_the_report_has_every_snapshot(self, tmp_path):
        path = project([point(0, 0), point(3, 2), point(8, 0)])
        text = write_report(tmp_path, path).read_text()
        assert metrics.verdict(path).headline.replace("'", "&#39;") in text
        assert 'id="path-1"' in text
        assert "Download all 3 points" in text
        again = open_result(save_result(path, tmp_path / "path.nc"))
        assert metrics.verdict(again).headline == metrics.verdict(path).headline

    def test_a_curve_is_no_path(self):
        variables = {name: (("alpha", "split"), [[0.0]]) for name in ("loss", "loss_stderr")}
        curve = xr.Dataset(variables, attrs={"schema_version": 1})
        with pytest.raises(InputError, match="expected what project"):
            plot.path(curve)
