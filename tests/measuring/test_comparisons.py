"""Several lines in one pass: each as alone, barriers as in closed form, groups by themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ravine
from oracles import blobs, direct, mlp, of_w, point, trained, values
from ravine import InputError, Line, metrics, plot
from ravine.result import schema

DATA = blobs()
CE = ravine.supervised(F.cross_entropy)
AT = np.linspace(0, 1, 9)


def objective(**policies) -> ravine.Objective:
    norm = "buffers" in policies
    return ravine.Objective(mlp(norm=norm), CE, DATA, dtype=torch.float64, **policies)


@pytest.fixture(scope="module")
def solutions():
    return {name: trained(mlp(seed), DATA)[1] for seed, name in enumerate("abc")}


@pytest.fixture(scope="module")
def norm_ends():
    return {name: trained(mlp(seed, norm=True), DATA)[1] for seed, name in enumerate("abc")}


@pytest.fixture(scope="module")
def measured(solutions):
    return ravine.evaluate(objective(), along=ravine.pairs(solutions), at=AT, title="three seeds")


def double_well(w, x):
    return (w[0] ** 2 - 1) ** 2 + w[1] ** 2 + 0 * x


# --- several lines at once ------------------------------------------------------------------------


def test_every_line_is_what_it_is_alone(solutions, measured):
    for name, line in ravine.pairs(solutions).items():
        alone = ravine.evaluate(objective(), along=line, at=AT)
        one = schema.lines_of(measured)[name]
        for quantity in ("loss", "error", "loss_stderr", "error_stderr"):
            np.testing.assert_allclose(values(one, quantity), values(alone, quantity), rtol=1e-12)
        np.testing.assert_allclose(one["loss_replicates"], alone["loss_replicates"], atol=1e-12)
        np.testing.assert_allclose(one["distance"], alone["distance"], rtol=1e-9)
        assert {
            k: one.attrs[k]
            for k in ("start", "end", "start_hash", "end_hash", "data_hash", "objective_hash")
        } == {
            k: alone.attrs[k]
            for k in ("start", "end", "start_hash", "end_hash", "data_hash", "objective_hash")
        }
        assert one.attrs["length"] == pytest.approx(alone.attrs["length"], rel=1e-12)
        assert np.isfinite(one["loss_noise_floor"]).all()


def test_it_agrees_with_another_route(solutions, measured):
    found = schema.lines_of(measured)["b – c"]
    expected = direct(mlp(), solutions["b"], solutions["c"], AT, DATA)
    np.testing.assert_allclose(values(found), expected, rtol=1e-12)


@pytest.mark.parametrize("policy", ["start", "end", "interpolate", "recompute"])
def test_running_statistics_are_each_lines_own(norm_ends, policy):
    J = objective(buffers=policy)
    lines = ravine.pairs(norm_ends)
    together = ravine.evaluate(J, along=lines, at=AT)
    for name, line in lines.items():
        alone = ravine.evaluate(J, along=line, at=AT)
        np.testing.assert_allclose(values(together.sel(line=name)), values(alone), rtol=1e-11)


def test_points_that_lines_share_are_measured_once(solutions):
    seen = []

    def counting(model, batch):
        seen.append(1)
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    J = ravine.Objective(mlp(), counting, DATA, batch_size=len(DATA[0]), check_data=False)
    for at in ([0.0, 1.0], [0.0, 0.5, 1.0]):
        seen.clear()
        ravine.evaluate(J, along=ravine.pairs(solutions), at=at, progress=False)
        count = len(seen)
        if len(at) == 2:
            ends_only = count
    assert count - ends_only < 3 * 9  # three midpoints, and what probes and checks add to each


def test_lines_without_an_end_in_common_are_measured_too(solutions):
    a, b, c = solutions.values()
    start = mlp(7).state_dict()
    lines = {"one": Line(a, b), "other": Line(start, c)}
    found = ravine.evaluate(objective(), along=lines, at=AT)
    for name, line in lines.items():
        np.testing.assert_allclose(
            values(found.sel(line=name)),
            values(ravine.evaluate(objective(), along=line, at=AT)),
            rtol=1e-12,
        )


def test_what_is_no_dict_of_lines_is_refused(solutions):
    with pytest.raises(InputError, match="there is none"):
        ravine.evaluate(objective(), along={}, at=AT)
    with pytest.raises(InputError, match="'x' is a OrderedDict"):
        ravine.evaluate(objective(), along={"x": solutions["a"]}, at=AT)
    with pytest.raises(InputError, match="two points or more; got 1"):
        ravine.pairs({"a": solutions["a"]})
    with pytest.raises(InputError, match="same point"):
        ravine.evaluate(
            objective(), along=ravine.pairs([solutions["a"], copy.deepcopy(solutions["a"])]), at=AT
        )
    with pytest.raises(InputError, match="shape at '0.weight'"):
        ravine.pairs([solutions["a"], mlp(width=8).state_dict()])


@pytest.mark.parametrize("at", [[0, 1], [0, 0.5, 1]])
def test_two_of_the_points_being_one_is_refused_before_anything_is_measured(solutions, at):
    twice = {
        **solutions,
        "again": solutions["b"],
    }  # neither is the first, from which distances are counted
    with pytest.raises(InputError, match="b and .*again are the same point"):
        ravine.evaluate(objective(), along=ravine.pairs(twice), at=at)


def test_a_file_of_several_lines_comes_back(measured, tmp_path):
    back = ravine.open_result(ravine.save_result(measured, tmp_path / "lines.nc"))
    assert schema.kind_of(back) == "lines"
    np.testing.assert_array_equal(back["loss"], measured["loss"])
    assert [str(name) for name in back["start"].values] == ["a", "a", "b"]
    assert str(ravine.metrics.verdict(back)) == str(ravine.metrics.verdict(measured))


# --- barriers -------------------------------------------------------------------------------------


def test_barriers_of_a_double_well():
    points = {"left": point(-1.0, 0.0), "right": point(1.0, 0.0), "near": point(0.8, 0.0)}
    found = ravine.evaluate(
        of_w(double_well), along=ravine.pairs(points), at=np.linspace(0, 1, 401)
    )
    table = metrics.barriers(found)
    end, mean, chord = (table.of(kind) for kind in ("end", "mean", "chord"))
    height = (0.8**2 - 1) ** 2  # at "near"
    assert end["left – right"].value == pytest.approx(1.0)
    assert end["left – near"].value == pytest.approx(1 - height, abs=1e-4)
    assert end["right – near"].value == 0
    assert mean["left – near"].value == pytest.approx(1 - height / 2, abs=1e-4)
    assert chord["left – near"].value == pytest.approx(1 - height * 1 / 1.8, abs=2e-3)
    assert end["left – right"].at == pytest.approx(0.5)


def test_sets_that_may_be_averaged_are_connected_pair_by_pair():
    """b reaches both, a and c do not reach each other: {a, b} and {b, c}, never all three."""
    places = {"a": (-1.0, 1.0), "b": (-0.05, -0.1), "c": (1.0, 1.0), "d": (9.0, 0.0)}

    def bowl(w, x):  # a hill at (0, 1) between a and c; a wall on the way to d
        return (
            torch.exp(-8 * (w[0] ** 2 + (w[1] - 1) ** 2))
            + 5 * torch.exp(-((w[0] - 5) ** 2))
            + 0 * x
        )

    found = ravine.evaluate(
        of_w(bowl, torch.zeros(12, dtype=torch.float64)),
        along=ravine.pairs({n: point(*p) for n, p in places.items()}),
        at=np.linspace(0, 1, 101),
    )
    assert metrics.connected(found) == [("a", "b"), ("b", "c"), ("d",)]
    said = metrics.verdict(found)
    assert "Linearly mode-connected" in str(said)
    assert "a, b; b, c" in str(said)
    assert metrics.connected(found, tolerance=10.0) == [("a", "b", "c", "d")]


def test_the_average_is_measured_where_it_lies(solutions):
    mean = ravine.average(list(solutions.values()))
    stacked = torch.stack([state["0.weight"].double() for state in solutions.values()]).mean(0)
    torch.testing.assert_close(mean["0.weight"].double(), stacked, rtol=0, atol=1e-7)
    both = ravine.average([solutions["a"], solutions["b"]])
    curve = ravine.evaluate(objective(), along=Line(solutions["a"], solutions["b"]), at=[0.5])
    assert objective()(both)["data"] == pytest.approx(float(curve["loss"][0, 0]), rel=1e-6)
    with pytest.raises(InputError, match="nothing to average"):
        ravine.average([])


def test_barriers_ask_for_several_lines(measured):
    with pytest.raises(InputError, match="expected several lines"):
        metrics.barriers(schema.lines_of(measured)["a – b"])
    part = measured.isel(line=[0, 1])
    with pytest.raises(InputError, match="every pair"):
        metrics.connected(part)


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", ["start", "end"])
def test_a_group_moves_alone(solutions, hold):
    a, b = solutions["a"], solutions["b"]
    lines = ravine.by_group(Line(a, b), hold=hold)
    assert list(lines) == ["0", "2"]
    still = a if hold == "start" else b
    for name, line in lines.items():
        for alpha, end in ((0.0, a), (1.0, b)):
            for key, tensor in line.at(alpha).items():
                expected = end[key] if key.startswith(f"{name}.") else still[key]
                assert torch.equal(tensor, expected), (name, alpha, key)
    found = ravine.evaluate(objective(), along=lines, at=AT)
    for name, line in lines.items():
        start, end = line.at(0.0), line.at(1.0)
        np.testing.assert_allclose(
            values(found.sel(line=name)), direct(mlp(), start, end, AT, DATA), rtol=1e-12
        )


def test_groups_by_pattern(solutions):
    line = Line(solutions["a"], solutions["b"])
    lines = ravine.by_group(line, {"biases": "*.bias", "rest": ["*.weight"], "all": "*"})
    assert [
        name for name, t in lines["biases"].at(1.0).items() if torch.equal(t, solutions["b"][name])
    ] == [
        "0.bias",
        "2.bias",
    ]
    assert all(torch.equal(t, solutions["b"][name]) for name, t in lines["all"].at(1.0).items())
    assert list(ravine.by_group(line, ["0.*"])) == ["0.*"]


def test_tied_tensors_move_together():
    class Tied(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    with torch.random.fork_rng():
        one, other = Tied(0), Tied(1)
    (line,) = ravine.by_group(Line(one, other), ["head.*"]).values()
    assert torch.equal(line.end.tensors["embed.weight"], other.embed.weight)
    assert torch.equal(line.end.tensors["head.weight"], other.embed.weight)


def test_bad_groups_are_refused(solutions):
    line = Line(solutions["a"], solutions["b"])
    with pytest.raises(InputError, match=r"'conv\*' matches no parameter; there are 0.weight"):
        ravine.by_group(line, ["conv*"])
    with pytest.raises(InputError, match="hold must be 'start' or 'end'; got 'middle'"):
        ravine.by_group(line, hold="middle")
    with pytest.raises(InputError, match="must be patterns"):
        ravine.by_group(line, "0.*")
    half = {**solutions["a"], "2.bias": solutions["b"]["2.bias"]}
    with pytest.raises(InputError, match=r"'0\.\*' \(2\) are the same at both ends"):
        ravine.by_group(Line(solutions["a"], half), ["0.*"])
    assert list(ravine.by_group(Line(solutions["a"], half))) == [
        "2"
    ]  # what does not move has no line


# --- runs and policies ----------------------------------------------------------------------------


def record(folder, values_by_step):
    recorder = ravine.TrajectoryRecorder(folder)
    for step, value in values_by_step.items():
        recorder.record(step, point(*value))
    return folder


def test_between_runs_step_by_step(tmp_path):
    one = record(tmp_path / "a", {0: (0.0, 1.0), 5: (-0.5, 0.0), 10: (-1.0, 0.0), 12: (-1.0, 0.1)})
    other = record(tmp_path / "b", {0: (0.0, 1.0), 5: (0.5, 0.0), 10: (1.0, 0.0), 20: (1.0, 0.1)})
    lines = ravine.between_runs(one, other)
    assert list(lines) == ["5", "10"]  # the same point at 0, one run only at 12 and 20
    measured = ravine.evaluate(of_w(double_well), along=lines, at=np.linspace(0, 1, 101))
    assert "step 5, step 10" in metrics.verdict(measured).headline
    found = metrics.barriers(measured).of("end")
    assert found["5"].value == pytest.approx(1 - 0.75**2)
    assert found["10"].value == pytest.approx(1.0)
    apart = record(tmp_path / "c", {3: (0.0, 1.0), 4: (0.0, 2.0)})
    with pytest.raises(InputError, match="no step in common; steps 0, 5, 10, 12 and 3, 4"):
        ravine.between_runs(one, apart)


def test_every_policy_for_running_statistics(norm_ends):
    line = Line(norm_ends["a"], norm_ends["b"])
    J = objective(buffers="start")
    found = ravine.compare_buffers(J, line, AT)
    assert [str(name) for name in found["line"].values] == [
        "start",
        "end",
        "interpolate",
        "recompute",
    ]
    assert J.buffers == "start"
    for policy in ("start", "end", "interpolate", "recompute"):
        alone = ravine.evaluate(objective(buffers=policy), along=line, at=AT)
        one = schema.lines_of(found)[policy]
        np.testing.assert_array_equal(values(one), values(alone))
        assert one.attrs["buffers"] == policy
    spread = np.ptp(found["loss"].sel(split="data").values, axis=0)
    assert spread[4] > 0.1  # the choice matters: that is why it is shown
    with pytest.raises(InputError, match="no running statistics"):
        ravine.compare_buffers(objective(), Line(mlp(0), mlp(1)), AT)


def test_a_run_with_its_learning_curve(tmp_path, norm_ends):
    recorder = ravine.TrajectoryRecorder(tmp_path)
    states = list(norm_ends.values()) * 4  # more than are held at a time
    for step, state in enumerate(states):
        recorder.record(step, state)
    J = objective(buffers="interpolate")  # of one snapshot, that is its own
    path = ravine.project(tmp_path, ravine.Line(states[0], states[-1]), objective=J)
    for step, state in enumerate(states[:3]):
        model = mlp(norm=True)
        model.load_state_dict(state)
        with torch.no_grad():
            expected = F.cross_entropy(model.double().eval()(DATA[0].double()), DATA[1])
        assert float(path["loss"][step, 0]) == pytest.approx(float(expected), rel=1e-10)
        assert float(path["loss"][step + 9, 0]) == float(path["loss"][step, 0])
    back = ravine.open_result(ravine.save_result(path, tmp_path / "path.nc"))
    figure = plot.path(back)
    assert [panel.y.label for panel in figure.panels[1:]] == ["loss (nats)", "error rate"]
    figure.save(tmp_path / "path.png")


@pytest.mark.parametrize("policy", ["start", "end", "interpolate", "recompute"])
def test_a_run_is_measured_under_the_policy_of_its_line(norm_ends, policy):
    states = list(norm_ends.values())
    line, J = ravine.Line(states[0], states[-1]), objective(buffers=policy)
    path = ravine.project(states, line, objective=J)
    curve = ravine.evaluate(J, along=line, at=[0.0, 1.0])
    np.testing.assert_allclose(values(path)[[0, -1]], values(curve), rtol=1e-10)


# --- figures and report ---------------------------------------------------------------------------


def test_the_matrix_reads_like_a_table(measured, tmp_path):
    figure = plot.barriers(measured)
    assert [panel.title for panel in figure.panels] == [
        "barrier in loss (nats)",
        "barrier in error rate",
    ]
    cells = figure.panels[0].layers[0]
    table = metrics.barriers(measured).of("end")
    assert figure.panels[0].x.names == ("a", "b", "c")
    assert figure.panels[0].y.names == ("c", "b", "a")
    assert (
        cells.z[0, 1] == cells.z[1, 2] == max(table["a – b"].value, 0)
    )  # column a, row b; column b, row a
    assert np.isnan([cells.z[0, 2], cells.z[1, 1], cells.z[2, 0]]).all()
    for suffix in ("png", "html"):
        figure.save(tmp_path / f"matrix.{suffix}")


def test_numbers_make_a_curve_and_names_make_marks(solutions, tmp_path):
    line = Line(solutions["a"], solutions["b"])
    found = ravine.evaluate(
        objective(), along=ravine.by_group(line, {"first": "0.*", "last": "2.*"}), at=AT
    )
    figure = plot.barriers(found, "loss")
    assert figure.panels[0].y.names == ("last", "first")
    figure.save(tmp_path / "groups.pdf")
    figure.save(tmp_path / "groups.html")
    renamed = found.assign_coords(line=["100", "20"])
    curve = plot.barriers(renamed, "loss").panels[0].layers[1]
    assert list(curve.x) == [20.0, 100.0]


def test_the_report_has_every_barrier(measured, tmp_path):
    page = ravine.write_report(tmp_path, measured).read_text()
    for name in ("a – b", "a – c", "b – c"):
        assert f"{name}: barrier (end)" in page
    assert "three seeds" in page


# --- random axes ----------------------------------------------------------------------------------


def test_random_axes_are_filter_normalized_and_orthogonal():
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(45, 7), nn.Linear(7, 1)
    )
    one, other = ravine.random_axes(model, seed=3)
    dot = 0.0
    for name, tensor in model.named_parameters():
        first, second = (
            corner[name].double() - tensor.detach().double() for corner in (one, other)
        )
        if tensor.ndim == 1:
            assert not first.any()
            assert not second.any()
            continue
        for direction in (first, second):  # Li et al.: d_ij / ‖d_ij‖ · ‖θ_ij‖
            lengths = direction.flatten(1).norm(dim=1)
            torch.testing.assert_close(
                lengths, tensor.detach().double().flatten(1).norm(dim=1), rtol=1e-5, atol=1e-7
            )
        dot += float((first * second).sum())
    assert abs(dot) < 1e-5
    again = ravine.random_axes(model, seed=3)[0]
    assert all(torch.equal(again[name], one[name]) for name in one)
    assert not torch.equal(ravine.random_axes(model, seed=4)[0]["0.weight"], one["0.weight"])
    assert ravine.Plane(model, one, other).cosine == pytest.approx(0, abs=1e-6)


def test_random_axes_of_no_filters_are_refused():
    with pytest.raises(InputError, match="no parameter has two dims"):
        ravine.random_axes({"w": torch.ones(3)})
    with pytest.raises(InputError, match="count = 0"):
        ravine.random_axes(mlp(), count=0)


def test_planes_that_are_not_square_and_not_at_zero_are_exactly_affine():
    """An affine loss comes back affine, on a grid of nx ≠ ny points and an origin away from 0."""
    slope = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64)
    J = of_w(lambda w, x: w @ slope + x, size=3)
    corners = [point(4.0, 1.0, -2.0), point(5.0, 3.0, -2.0), point(4.0, 1.5, 7.0)]
    at = {"alpha": np.linspace(-1, 2, 5), "beta": np.linspace(0, 3, 4)}
    found = ravine.evaluate(J, along=ravine.Plane(*corners), at=at)["loss"].sel(split="data")
    o, a, b = (float(c["w"] @ slope) for c in corners)
    expected = o + np.add.outer(at["alpha"] * (a - o), at["beta"] * (b - o))
    np.testing.assert_allclose(found.transpose("alpha", "beta"), expected, atol=1e-12)
