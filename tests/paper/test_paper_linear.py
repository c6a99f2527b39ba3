"""Deep linear networks and random walks against closed forms, and the figures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ravine
from ravine.paper.figures import FIGURES, Study
from ravine.paper.figures import linear as drawn
from ravine.paper.figures.walk import SOLUTION, STEPS, walked
from ravine.paper.models import Maxout, linear

ROUNDING = 1e-13  # of the largest value: a hundred or so operations in float64


def apart(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def measured(J, start, end, alpha) -> np.ndarray:
    return ravine.evaluate(J, along=ravine.Line(start, end), at=alpha)["loss"].values[:, 0]


class TestLines:
    ALPHA = np.linspace(-0.4, 1.6, 41)

    @pytest.mark.parametrize("seed", range(5))
    def test_two_weights_give_the_quartic(self, seed):
        start, end = np.random.default_rng(seed).normal(0, 2, (2, 2))
        d = end - start
        p0, p1, p2 = start[0] * start[1], start[0] * d[1] + start[1] * d[0], d[0] * d[1]
        coefficients = [
            (p0 - 1) ** 2,
            2 * p1 * (p0 - 1),
            p1**2 + 2 * p2 * (p0 - 1),
            2 * p1 * p2,
            p2**2,
        ]
        exact = np.polynomial.Polynomial(coefficients)(self.ALPHA)
        found = measured(linear.chain(2), linear.point(*start), linear.point(*end), self.ALPHA)
        assert apart(found, exact) < ROUNDING
        assert apart(linear.two_weights(tuple(start), tuple(end), self.ALPHA), exact) < ROUNDING

    @pytest.mark.parametrize("depth", [2, 3, 4, 5])
    def test_the_saddle_flattens_with_depth(self, depth):
        line = ravine.Line(linear.point(*[0.0] * depth), linear.point(*[1.0] * depth))
        curve = ravine.resolve(linear.chain(depth), along=line, interval=(0.0, 1.3))
        alpha = np.linspace(0, 1.3, 101)
        read = ravine.reconstruct(curve, at=alpha)["loss"].values[:, 0]
        assert apart(read, (alpha**depth - 1) ** 2) < ROUNDING
        ((low, high),) = ravine.metrics.convexity(curve).concave
        # the stencil
        assert high == pytest.approx(((depth - 1) / (2 * depth - 1)) ** (1 / depth), abs=0.01)
        (minimum,) = ravine.metrics.minima(curve)
        assert minimum.value.at == pytest.approx(1, abs=1e-3)
        assert ravine.metrics.rise(curve).height.value < ROUNDING
        flat = ravine.metrics.plateau(curve, share=0.1).value
        assert flat == pytest.approx((1 - 0.9**0.5) ** (1 / depth), abs=0.01)

    @pytest.mark.parametrize(("s", "t"), [(2.0, 0.5), (3.0, 0.25), (0.5, -0.5), (1.0, -2.0)])
    def test_the_barrier_between_solutions(self, s, t):
        line = ravine.Line(linear.point(s, 1 / s), linear.point(t, 1 / t))
        curve = ravine.resolve(linear.chain(2), along=line, interval=(-0.2, 1.2))
        found = ravine.metrics.barrier(curve)
        assert found.value == pytest.approx((s - t) ** 4 / (16 * s**2 * t**2), rel=1e-12)
        assert found.at == pytest.approx(0.5, abs=1e-9)
        product = 1 + self.ALPHA * (1 - self.ALPHA) * (s - t) ** 2 / (s * t)
        found = measured(linear.chain(2), line.start, line.end, self.ALPHA)
        assert apart(found, (product - 1) ** 2) < ROUNDING

    def test_the_opposite_solutions_meet_the_saddle(self):
        line = ravine.Line(linear.point(3, 1 / 3), linear.point(-3, -1 / 3))
        assert measured(linear.chain(2), line.start, line.end, [0.5])[0] == pytest.approx(
            1, abs=1e-15
        )

    def test_one_branch_of_solutions_is_connected(self):
        J = linear.chain(2)
        assert max(J(linear.point(s, 1 / s))["data"] for s in np.linspace(0.5, 2, 31)) < 1e-30

    def test_no_barrier_from_far_away(self):
        end = linear.flow_end(*drawn.SMALL)
        for start in (drawn.SMALL, drawn.LARGE):
            line = ravine.Line(linear.point(*start), linear.point(*end))
            curve = ravine.resolve(linear.chain(2), along=line)
            assert ravine.metrics.rise(curve).height.value < ROUNDING


class TestMatrices:
    @pytest.mark.parametrize("depth", [2, 3, 4])
    def test_j_is_a_polynomial_of_twice_the_depth(self, depth):
        widths = (3, 4, 5, 4, 2)[-depth - 1 :]
        stream = np.random.default_rng(depth)
        inputs, targets = (
            torch.from_numpy(stream.normal(size=(17, n))) for n in (widths[0], widths[-1])
        )
        start, end = (
            linear.point(
                *[stream.normal(size=(b, a)) for a, b in zip(widths[:-1], widths[1:], strict=True)]
            )
            for _ in range(2)
        )
        J = linear.objective(widths, inputs, targets)
        alpha = np.linspace(-0.5, 1.5, 57)

        def left_over(degree: int) -> float:
            nodes = 0.5 + np.cos(np.pi * np.arange(degree + 1) / degree)
            fitted = np.polynomial.Chebyshev.fit(nodes, measured(J, start, end, nodes), degree)
            return apart(fitted(alpha), measured(J, start, end, alpha))

        assert left_over(2 * depth) < 1e-12
        assert left_over(2 * depth - 1) > 1e-4

    def test_the_transformed_solution_is_joined_without_loss(self):
        inputs, targets, points = drawn.matrix_problem()
        J = linear.objective(drawn.WIDTHS, inputs, targets)
        assert J(points["solution"])["data"] < 1e-25
        assert J(points["transformed"])["data"] < 1e-25
        one, other = points["solution"]["layer0.weight"], points["transformed"]["layer0.weight"]
        # G₁: 5 × 5, but known on 4 dims only
        mixing = torch.linalg.lstsq(one.T, other.T).solution.T
        assert not torch.allclose(one, other)
        torch.testing.assert_close(mixing @ one, other)
        assert measured(J, points["solution"], points["transformed"], [0.5])[0] > 1


class TestWithoutBiases:
    """J(aθ) is the mean cross-entropy of a^L z, and the error does not change, for every a > 0."""

    NETS = {
        "linear": lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 4, bias=False)),
        "relu": lambda: nn.Sequential(
            nn.Linear(6, 8, bias=False),
            nn.ReLU(),
            nn.Linear(8, 8, bias=False),
            nn.ReLU(),
            nn.Linear(8, 4, bias=False),
        ),
        "maxout": lambda: nn.Sequential(
            nn.Linear(6, 24, bias=False), Maxout(3), nn.Linear(8, 4, bias=False)
        ),
    }

    @pytest.mark.parametrize("kind", NETS)
    def test_scaling_scales_the_logits(self, kind):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.NETS[kind]().double()
            inputs, labels = torch.randn(203, 6, dtype=torch.float64), torch.arange(203) % 4
        depth = sum(isinstance(layer, nn.Linear) for layer in model)
        zero = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
        J = ravine.Objective(model, ravine.supervised(F.cross_entropy), (inputs, labels))
        scales = np.array([0.3, 1.0, 2.5])
        curve = ravine.evaluate(J, along=ravine.Line(zero, model), at=scales)
        with torch.no_grad():
            logits = model(inputs)
            exact = [float(F.cross_entropy(a**depth * logits, labels)) for a in scales]
        assert apart(curve["loss"].values[:, 0], np.array(exact)) < ROUNDING
        assert len(set(curve["error"].values[:, 0])) == 1


def descended(start, time, rate, folder):
    """Two weights under gradient descent: w₁ and w₂ at every snapshot, by way of a recorded run."""
    one = torch.ones(1, 1, dtype=torch.float64)
    model = linear.deep_linear(1, 1, 1)
    model.load_state_dict(linear.point(*start))
    steps = round(time / rate)
    recorder = ravine.TrajectoryRecorder(folder, every=steps // 10)
    linear.descend(model, one, one, rate=rate, steps=steps, recorder=recorder)
    path = ravine.project(
        ravine.Trajectory.open(folder),
        ravine.Plane(linear.point(0, 0), linear.point(1, 0), linear.point(0, 1)),
    )
    assert float(path["residual"].max()) < 1e-15
    return path["step"].values * rate, path["alpha"].values, path["beta"].values


class TestDynamics:
    @pytest.mark.parametrize("start", [(1.0, -0.8), (-0.2, -0.9), (0.4, 0.3)])
    def test_the_flow_keeps_its_hyperbola_and_ends_where_it_must(self, start, tmp_path):
        drift, miss = [], []
        for number, rate in enumerate((8e-3, 4e-3)):
            _, first, second = descended(start, 12.0, rate, tmp_path / str(number))
            c = first**2 - second**2
            drift.append(float(np.abs(c - c[0]).max()))
            miss.append(
                float(np.hypot(*(np.array([first[-1], second[-1]]) - linear.flow_end(*start))))
            )
        # a step multiplies c by 1 − rate²(1 − w₁w₂)², and |1 − w₁w₂| only falls
        assert drift[0] <= abs(c[0]) * 12.0 * 8e-3 * (1 - start[0] * start[1]) ** 2
        assert drift[0] / drift[1] == pytest.approx(2, rel=0.02)  # of first order in the rate
        assert miss[0] / miss[1] == pytest.approx(2, rel=0.05)
        a, b = linear.flow_end(*start)
        assert a * b == pytest.approx(1, rel=1e-14)
        assert a**2 - b**2 == pytest.approx(start[0] ** 2 - start[1] ** 2, rel=1e-12)

    def test_a_balanced_start_follows_saxes_formula(self, tmp_path):
        error = []
        for number, rate in enumerate((4e-3, 2e-3)):
            time, first, second = descended((0.1, 0.1), 5.0, rate, tmp_path / str(number))
            np.testing.assert_allclose(first, second, rtol=1e-13)
            grown = np.exp(2 * time)
            exact = grown / (grown - 1 + 100)
            error.append(float(np.abs(first * second - exact).max()))
            np.testing.assert_allclose(linear.mode_strength(1.0, 0.01, time), exact, rtol=1e-12)
        assert error[1] < 1e-3
        assert error[0] / error[1] == pytest.approx(2, rel=0.02)

    def test_matrices_learn_their_modes_one_by_one_and_keep_their_balance(self, tmp_path):
        strengths, u0, rate = (3.0, 1.0), 1e-3, 1e-3
        inputs, targets, plane, start = drawn.mode_problem(strengths, u0)
        model = linear.deep_linear(4, 3, 5)
        model.load_state_dict(dict(start))
        recorder = ravine.TrajectoryRecorder(tmp_path, every=500)
        linear.descend(model, inputs, targets, rate=rate, steps=5_000, recorder=recorder)
        run = ravine.Trajectory.open(tmp_path)
        path = ravine.project(run, onto=plane)
        assert float((path["residual"] / path["displacement"].max()).max()) < 1e-13
        for step in run.steps:
            W1, W2 = run.at(step=step).values()
            modes = torch.linalg.svdvals(W2 @ W1)[:2].numpy()  # a second route to the strengths
            projected = np.sort([float(path[x].sel(step=step)) ** 2 for x in ("alpha", "beta")])[
                ::-1
            ]
            np.testing.assert_allclose(projected, modes, rtol=1e-9)
            exact = np.sort(
                [linear.mode_strength(s, u0, np.array(step * rate)) for s in strengths]
            )[::-1]
            np.testing.assert_allclose(modes, exact, atol=0.01)
            balance = W2.T @ W2 - W1 @ W1.T
            assert float(balance.abs().max()) < 1e-12


class TestRandomWalk:
    def test_in_very_many_dimensions_it_is_the_null(self):
        path = walked(30_000)
        length = path.attrs["length"]
        share = path["step"].values / SOLUTION
        along, away = path["alpha"].values, path["residual"].values / length
        scatter = 5 / np.sqrt(30_000)  # five standard errors of a mean over so many coordinates
        np.testing.assert_allclose(along, np.minimum(share, 1), atol=scatter)
        np.testing.assert_allclose(
            away**2, np.where(share < 1, share * (1 - share), share - 1), atol=2 * scatter
        )
        assert away[-1] == pytest.approx(np.sqrt((STEPS - SOLUTION) / SOLUTION), abs=scatter)
        assert float(path["captured"].sel(walk="run")) == pytest.approx(2 / 3, abs=scatter)
        assert float(path["residual"].sel(step=SOLUTION)) == 0
        assert path["null_residual"].values / length == pytest.approx(away, abs=0.02)
        assert length == pytest.approx(np.sqrt(SOLUTION * 30_000), rel=scatter)

    def test_in_few_dimensions_it_is_not(self):
        path = walked(3)
        assert (
            float(np.abs(path["residual"] - path["null_residual"]).max())
            > 0.1 * path.attrs["length"]
        )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study("quick", tmp_path_factory.mktemp("linear"))


@pytest.mark.long
class TestFigures:
    def test_lines(self, study):
        outcome = FIGURES["linear-lines"](study)
        assert len(outcome.results) == 11
        for name in ("on one branch", "across the saddle"):
            exact = 0.31640625 if name == "on one branch" else 1
            assert ravine.metrics.barrier(outcome.results[name]).value == pytest.approx(
                exact, rel=1e-12
            )
        kept = sorted(Path(study.out, "measurements").iterdir())
        again = FIGURES["linear-lines"](Study("quick", study.out, fresh=False))
        assert again.figure.caption == outcome.figure.caption
        assert sorted(Path(study.out, "measurements").iterdir()) == kept

    def test_plane(self, study, tmp_path):
        outcome = FIGURES["linear-plane"](study)
        plane = outcome.results["plane"]
        exact = (np.outer(plane["alpha"].values, plane["beta"].values) - 1) ** 2
        assert (
            apart(plane["loss"].isel(split=0).transpose("alpha", "beta").values, exact) < ROUNDING
        )
        assert outcome.figure.save(tmp_path / "plane.png").stat().st_size > 10_000

    def test_dynamics(self, study):
        outcome = FIGURES["linear-dynamics"](study)
        path = outcome.results["path"]
        J = linear.objective(
            (4, 3, 5), *drawn.mode_problem(drawn.STRENGTHS, drawn.FIRST_STRENGTH)[:2]
        )
        *_, plane, start = drawn.mode_problem(drawn.STRENGTHS, drawn.FIRST_STRENGTH)
        a, b = (float(path[x][-1]) for x in ("alpha", "beta"))
        assert J(plane.at(a, b))["data"] == pytest.approx(
            (3 - a**2) ** 2 + (1 - b**2) ** 2, rel=1e-9
        )
        assert J(start)["data"] == pytest.approx((3 - 1e-3) ** 2 + (1 - 1e-3) ** 2, rel=1e-12)
        (shown,) = [
            layer
            for layer in outcome.figure.panels[1].layers
            if getattr(layer, "label", "") == "J of the run"
        ]
        assert shown.y[0] == pytest.approx(J(start)["data"], rel=1e-12)
        modes = [path[x].values ** 2 for x in ("alpha", "beta")]
        np.testing.assert_allclose(
            shown.y, (3 - modes[0]) ** 2 + (1 - modes[1]) ** 2, rtol=1e-9, atol=1e-12
        )
