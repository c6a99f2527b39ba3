"""The laws that any curve obeys, and oracles whose curves are known in closed form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from oracles import blobs, direct, mlp, of_w, point, trained, values
from ravine import InputError, Line, Objective, evaluate, metrics, supervised

GRID = np.linspace(-0.5, 1.5, 41)
DATA = blobs()
CE = supervised(F.cross_entropy)


@pytest.fixture(scope="module")
def ends():
    return trained(mlp(), DATA)


# --- closed forms ---------------------------------------------------------------------------------


def test_an_affine_loss_comes_back_affine():
    J = of_w(lambda w, x: 3 * w[0] - 2 * w[1] + x, torch.tensor([-7.0, 1.0], dtype=torch.float64))
    curve = evaluate(J, along=Line(point(2.0, 1.0), point(-1.0, 5.0)), at=GRID)
    np.testing.assert_allclose(values(curve), (6 - 2 - 3) + GRID * (-9 - 8), atol=1e-13)


def test_a_quadratic_is_known_from_gradient_and_hessian():
    H = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    J = of_w(lambda w, x: w @ H @ w / 2 + w.sum())
    w0, w1 = (
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        torch.tensor([-3.0, 0.5], dtype=torch.float64),
    )
    d = w1 - w0
    expected = [
        float(w0 @ H @ w0 / 2 + w0.sum() + a * ((H @ w0 + 1) @ d) + a**2 / 2 * (d @ H @ d))
        for a in GRID
    ]
    curve = evaluate(J, along=Line({"w": w0}, {"w": w1}), at=GRID)
    np.testing.assert_allclose(values(curve), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(curve["distance"], np.abs(GRID) * float(d.norm()), rtol=1e-13)


def test_a_double_well_has_its_barrier():
    J = of_w(lambda w, x: (w[0] ** 2 - 1) ** 2, size=1)
    curve = evaluate(J, along=Line(point(-1.0), point(1.0)), at=np.linspace(0, 1, 101))
    found = metrics.barrier(curve)
    assert (found.value, found.at) == (pytest.approx(1.0, abs=1e-12), 0.5)


@pytest.mark.parametrize(
    ("a", "b"), [((2.0, 0.5), (0.5, 2.0)), ((1.0, 1.0), (-1.0, -1.0)), ((0.3, -1.0), (2.0, 1.0))]
)
def test_two_weights_in_a_row(a, b):
    """J = (w₁w₂ − 1)²: a quartic in α with the barrier (s − t)⁴ / 16 s²t² between two minima.

    The minima are (s, 1/s) and (t, 1/t).
    """
    J = of_w(lambda w, x: (w[0] * w[1] - 1) ** 2)
    curve = evaluate(J, along=Line(point(*a), point(*b)), at=GRID)
    products = [((1 - t) * a[0] + t * b[0]) * ((1 - t) * a[1] + t * b[1]) for t in GRID]
    np.testing.assert_allclose(values(curve), (np.array(products) - 1) ** 2, atol=1e-13)
    if a == (2.0, 0.5):
        assert metrics.barrier(curve).value == pytest.approx(0.31640625, abs=1e-13)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_deep_linear_net_is_a_polynomial_of_degree_2d(depth):
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(depth)]).double()
    start = copy.deepcopy(model.state_dict())
    end = {n: t + torch.randn_like(t) for n, t in start.items()}
    data = (torch.randn(17, 3), torch.randn(17, 3))
    J = Objective(model, supervised(F.mse_loss), data, batch_size=5)
    nodes = np.cos(np.pi * (np.arange(2 * depth + 1) + 0.5) / (2 * depth + 1)) / 2 + 0.5
    fit = np.polynomial.Polynomial.fit(
        nodes, values(evaluate(J, along=Line(start, end), at=nodes)), 2 * depth
    )
    curve = values(evaluate(J, along=Line(start, end), at=np.linspace(0, 1, 23)))
    np.testing.assert_allclose(fit(np.linspace(0, 1, 23)), curve, rtol=1e-11)
    short = np.polynomial.Polynomial.fit(nodes[1:], fit(nodes[1:]), 2 * depth - 1)
    assert np.abs(short(np.linspace(0, 1, 23)) / curve - 1).max() > 1e-5


def test_the_plateau_of_a_chain_ends_in_its_inflection():
    """Origin → minimum of (w₁…w_d − 1)²: J = (α^d − 1)², inflection at ((d−1)/(2d−1))^(1/d)."""
    for depth, inflection in {2: 0.5774, 3: 0.7368, 5: 0.8503}.items():
        J = of_w(lambda w, x: (w.prod() - 1) ** 2, size=depth)
        curve = evaluate(
            J, along=Line(point(*[0.0] * depth), point(*[1.0] * depth)), at=np.linspace(0, 1, 401)
        )
        bends = metrics.convexity(curve)
        assert bends.concave[-1][1] == pytest.approx(inflection, abs=0.01)
        assert bends.share.value == pytest.approx(1 - inflection, abs=0.02)
        assert metrics.plateau(curve).value == pytest.approx(
            (1 - 0.9**0.5) ** (1 / depth), abs=1e-3
        )
        assert metrics.half_drop(curve).value == pytest.approx(
            (1 - 0.5**0.5) ** (1 / depth), abs=1e-3
        )


def test_softmax_regression_is_convex_on_every_line():
    model = nn.Linear(6, 4)
    J = Objective(model, CE, DATA)
    for seed in range(3):
        torch.manual_seed(seed)
        start, end = (
            {n: 3 * torch.randn_like(t) for n, t in model.state_dict().items()} for _ in range(2)
        )
        curve = evaluate(J, along=Line(start, end), at=np.linspace(0, 1, 101))
        verdict = metrics.verdict(curve).measures["data", "loss"]
        assert verdict.convex
        assert not verdict.has_barrier


def test_a_bias_free_relu_net_from_the_origin_has_constant_error():
    """logits(αθ) = α^L logits(θ), so the error is the same for all α > 0 and the loss is known."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 4, bias=False)
    ).double()
    end = model.state_dict()
    curve = evaluate(
        Objective(model, CE, DATA),
        along=Line({n: 0 * t for n, t in end.items()}, end),
        at=[0.1, 0.4, 1.0, 1.7],
    )
    assert len(set(values(curve, "error"))) == 1
    logits = model(DATA[0].double()).detach()
    expected = [F.cross_entropy(a**2 * logits, DATA[1]).item() for a in (0.1, 0.4, 1.0, 1.7)]
    np.testing.assert_allclose(values(curve), expected, rtol=1e-12)


def test_a_permuted_copy_has_equal_ends():
    model = mlp()
    state, order = (
        model.state_dict(),
        torch.randperm(16, generator=torch.Generator().manual_seed(0)),
    )
    other = {**state, "0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order]}
    other["2.weight"] = state["2.weight"][:, order]
    curve = evaluate(
        Objective(model, CE, DATA, dtype=torch.float64), along=Line(state, other), at=[0, 0.5, 1]
    )
    found = values(curve)
    assert found[0] == pytest.approx(found[2], rel=1e-14)
    assert found[1] != pytest.approx(found[0], rel=1e-3)


# --- laws -----------------------------------------------------------------------------------------


def test_the_ends_are_bitwise_the_checkpoints(ends):
    model = mlp()
    curve = evaluate(Objective(model, CE, DATA), along=Line(*ends), at=[0, 0.3, 1])
    J = Objective(model, CE, DATA)
    assert values(curve)[0] == J(ends[0])["data"]
    assert values(curve)[2] == J(ends[1])["data"]


@pytest.mark.parametrize("end", [0, 1])
def test_parameters_seen_by_the_model_are_bitwise_the_ends(ends, end):
    seen = []

    def spy(model, batch):
        seen.append({n: t.clone() for n, t in model.state_dict().items()})
        return CE(model, batch)

    evaluate(Objective(mlp(), spy, DATA, batch_size=1000), along=Line(*ends), at=[end])
    assert all(torch.equal(seen[-1][n], t) for n, t in ends[end].items())


def test_the_curve_agrees_with_another_route(ends):
    model = mlp()
    curve = evaluate(
        Objective(model, CE, DATA, dtype=torch.float64, batch_size=50), along=Line(*ends), at=GRID
    )
    np.testing.assert_allclose(values(curve), direct(model, *ends, GRID, DATA), rtol=1e-13)
    single = evaluate(Objective(model, CE, DATA), along=Line(*ends), at=GRID)
    assert np.abs(values(single) - values(curve)).max() < single["loss_noise_floor"].max() < 1e-5


def test_reversing_the_line_reverses_the_curve(ends):
    J = Objective(mlp(), CE, DATA, dtype=torch.float64)
    there = evaluate(J, along=Line(*ends), at=GRID)
    back = evaluate(J, along=Line(*reversed(ends)), at=1 - GRID)
    np.testing.assert_allclose(values(there), values(back), rtol=1e-14)


def test_points_may_come_in_any_order(ends):
    J = Objective(mlp(), CE, DATA)
    order = np.random.default_rng(0).permutation(41)
    shuffled = evaluate(J, along=Line(*ends), at=GRID[order])
    assert list(shuffled["alpha"]) == list(GRID[order])
    np.testing.assert_array_equal(
        values(shuffled.sortby("alpha")), values(evaluate(J, along=Line(*ends), at=GRID))
    )
    alone = [values(evaluate(J, along=Line(*ends), at=a))[0] for a in GRID[:3]]
    np.testing.assert_array_equal(alone, values(evaluate(J, along=Line(*ends), at=GRID))[:3])


def test_batching_order_and_sharding_do_not_matter(ends):
    x, y = DATA
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    sources = [
        (x, y),
        (x[order], y[order]),
        (x.numpy(), y.numpy()),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=13),
        DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True),
        [(x[:1], y[:1]), (x[1:150], y[1:150]), (x[150:], y[150:])],
    ]
    curves = [
        evaluate(
            Objective(mlp(), CE, source, dtype=torch.float64, batch_size=size),
            along=Line(*ends),
            at=GRID,
        )
        for size, source in zip([1000, 7, 1, 64, 64, 64, 64], sources, strict=True)
    ]
    for curve in curves[1:]:
        np.testing.assert_allclose(values(curve), values(curves[0]), rtol=1e-13)
        np.testing.assert_allclose(values(curve, "error"), values(curves[0], "error"), rtol=1e-13)
        np.testing.assert_allclose(
            values(curve, "loss_stderr"), values(curves[0], "loss_stderr"), rtol=1e-10
        )
        assert curve.attrs["data_hash"] == curves[0].attrs["data_hash"]
    # the whole is the sum of its shards, weighted by their counts
    shards = [
        evaluate(
            Objective(mlp(), CE, (x[s], y[s]), dtype=torch.float64), along=Line(*ends), at=GRID
        )
        for s in (slice(0, 60), slice(60, None))
    ]
    weighted = sum(values(s) * int(s["n_examples"][0]) for s in shards) / len(y)
    np.testing.assert_allclose(weighted, values(curves[0]), rtol=1e-13)


def test_many_blocks_and_many_points_agree_with_one(ends, monkeypatch):
    J = Objective(mlp(), CE, DATA, dtype=torch.float64, batch_size=10)
    whole = evaluate(J, along=Line(*ends), at=GRID)
    monkeypatch.setattr("ravine.objective.engine.BLOCK_EXAMPLES", 30)
    monkeypatch.setattr("ravine.objective.tuning._GROUP", 7)
    parts = evaluate(J, along=Line(*ends), at=GRID)
    for name in ("loss", "error", "loss_stderr", "loss_replicates"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6, atol=1e-9)


def test_the_derivative_agrees_with_forward_mode(ends):
    model = mlp().double()
    step = 1e-5
    curve = values(
        evaluate(
            Objective(model, CE, DATA, dtype=torch.float64),
            along=Line(*ends),
            at=[0.3 - step, 0.3 + step],
        )
    )
    start, end = ({n: t.double() for n, t in state.items()} for state in ends)
    here = {n: 0.7 * start[n] + 0.3 * end[n] for n in start}
    along = {n: end[n] - start[n] for n in start}

    def J(params):
        return F.cross_entropy(
            torch.func.functional_call(model, params, (DATA[0].double(),)), DATA[1]
        )

    _, slope = torch.func.jvp(J, (here,), (along,))
    assert (curve[1] - curve[0]) / (2 * step) == pytest.approx(float(slope), rel=1e-8)


def test_standard_errors_are_those_of_paired_differences(ends):
    x, y = blobs(4000, seed=3)
    curve = evaluate(
        Objective(mlp(), CE, (x, y), dtype=torch.float64), along=Line(*ends), at=[0.0, 0.5, 1.0]
    )
    per_point = []
    for state in ends:
        model = mlp().double()
        model.load_state_dict(state)
        per_point.append(F.cross_entropy(model(x.double()), y, reduction="none").detach())
    start, end = per_point
    assert values(curve, "loss_stderr")[0] == pytest.approx(
        float(start.std()) / 4000**0.5, rel=1e-10
    )
    replicates = values(curve, "loss_replicates")
    drawn = (replicates[2] - replicates[0]).std(ddof=1)
    paired = float((end - start).std()) / 4000**0.5
    assert drawn == pytest.approx(
        paired, rel=4 / (2 * 63) ** 0.5
    )  # four standard errors of a deviation of 64


def test_a_mean_of_batch_means_it_is_not():
    """Ten examples of loss 0 and one of loss 11 have the mean 1, whatever the batches."""
    targets = torch.zeros(11, 1)
    targets[10] = 11**0.5
    for size in (1, 3, 10, 11):
        J = Objective(
            nn.Linear(1, 1), supervised(F.mse_loss), (torch.ones(11, 1), targets), batch_size=size
        )
        assert J({"weight": torch.zeros(1, 1), "bias": torch.zeros(1)})["data"] == pytest.approx(
            1.0, rel=1e-6
        )


@pytest.mark.parametrize(
    "at", [[], "middle", [0, "x"], [0, float("nan")], [float("inf")], [0, 0.5, 0.5], [[0, 1]], None]
)
def test_alpha_that_is_no_list_of_numbers_is_refused(ends, at):
    with pytest.raises(InputError, match="at "):
        evaluate(Objective(mlp(), CE, DATA), along=Line(*ends), at=at)


def test_two_equal_ends_are_refused():
    model = mlp()
    with pytest.raises(InputError, match="same point"):
        evaluate(Objective(model, CE, DATA), along=Line(model, model.state_dict()), at=[0, 1])


def test_a_diverged_point_stays_in_the_result():
    J = of_w(lambda w, x: torch.log(w[0]), size=1)
    curve = evaluate(J, along=Line(point(-1.0), point(1.0)), at=[0, 0.5, 1])
    found = values(curve)
    assert np.isnan(found[0])
    assert found[1] == -np.inf
    assert found[2] == 0
    assert metrics.verdict(curve).headline.startswith(
        "The data loss is undefined on part of the line"
    )
