"""What an adversary found: ways to a wrong number without a word; refused now, or right."""

from __future__ import annotations

import copy
import functools
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from oracles import blobs, direct, mlp, of_model, of_w, point, trained, values
from ravine import (
    InputError,
    Line,
    Objective,
    evaluate,
    metrics,
    open_result,
    save_result,
    stateful,
    supervised,
    write_report,
)

AT = np.linspace(0, 1, 6)
CE = supervised(F.cross_entropy)
DATA = blobs()


def ends_of(model, scale=1.0):
    torch.manual_seed(1)
    start = copy.deepcopy(model.state_dict())
    return start, {
        n: t + scale * torch.randn_like(t) if t.is_floating_point() else t for n, t in start.items()
    }


def test_an_embedding_that_renormalises_its_table_is_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(2000, 8, max_norm=1.0), nn.Linear(8, 4))
    words, targets = torch.randint(0, 2000, (203,)), DATA[1]
    start, end = ends_of(model, 2.0)
    before = {n: t.clone() for n, t in start.items()}
    curve = evaluate(
        Objective(model, CE, (words, targets), dtype=torch.float64), along=Line(start, end), at=AT
    )
    assert all(torch.equal(start[n], t) for n, t in before.items())
    expected = []
    for alpha in AT:
        there = copy.deepcopy(model).double()
        there.load_state_dict(
            {n: (1 - alpha) * start[n].double() + alpha * end[n].double() for n in start}
        )
        expected.append(F.cross_entropy(there(words), targets).item())
    np.testing.assert_allclose(values(curve), expected, rtol=1e-10)


class Window(nn.Module):
    """Uses its weight by name and through a view that it made once, behind the watcher's back."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 100))

    def forward(self, x):
        if not hasattr(self, "kept"):
            self.kept = self.w.t()
        return F.linear(x, self.w) + x[:, :4].tanh() @ self.kept[:4]


def test_a_stale_parameter_is_found_before_the_prefix_is_trusted():
    torch.manual_seed(0)
    model = Window()
    x = torch.randn(50, 100, dtype=torch.float64)
    targets = torch.randint(0, 4, (50,))
    start, end = ends_of(model)
    curve = evaluate(
        Objective(model, CE, (x, targets), dtype=torch.float64), along=Line(start, end), at=AT
    )
    expected = []
    for alpha in AT:
        w = (1 - alpha) * start["w"].double() + alpha * end["w"].double()
        expected.append(
            F.cross_entropy(F.linear(x, w) + x[:, :4].tanh() @ w.t()[:4], targets).item()
        )
    np.testing.assert_allclose(values(curve), expected, rtol=1e-10)


def wrapped_forward():
    model = mlp()
    forward = model.forward

    @functools.wraps(forward)
    def timed(*args):
        return forward(*args)

    model.forward = timed
    return model


def with_lambda():
    model = nn.Module()
    model.a, model.k = nn.Linear(6, 6), nn.Linear(6, 4)
    model.head = lambda h: h @ model.k.weight.T
    model.forward = lambda x: model.head(model.a(x))
    return model


class KeepsView(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Parameter(torch.randn(24))
        self.w = self.flat.detach().view(4, 6)

    def forward(self, x):
        return x @ self.w.T


class CopiesItself(nn.Linear):
    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (wrapped_forward, "reaches the parameter"),
        (with_lambda, "reaches the parameter"),
        (lambda: CopiesItself(6, 4), "__deepcopy__"),
    ],
)
def test_a_model_whose_copy_is_not_independent_is_refused(build, said):
    model = build()
    with pytest.raises(InputError, match=said):
        evaluate(Objective(model, CE, DATA), along=Line(*ends_of(model)), at=AT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_that_uses_the_model_outside_is_refused_whatever_the_type(dtype):
    """In float64 the model outside and the batch have two types, which torch refuses first."""
    model = mlp()

    def per_example(_, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    with pytest.raises(InputError, match="reaches the parameter"):
        evaluate(
            Objective(model, per_example, DATA, dtype=dtype), along=Line(*ends_of(model)), at=AT
        )


def test_a_view_of_a_parameter_moves_with_it():
    model = KeepsView()
    start, end = ends_of(model)
    found = evaluate(Objective(model, CE, DATA), along=Line(start, end), at=AT)
    weights = [((1 - a) * start["flat"] + a * end["flat"]).view(4, 6) for a in AT]
    truth = [float(F.cross_entropy(DATA[0] @ w.T, DATA[1])) for w in weights]
    np.testing.assert_allclose(found["loss"].values[:, 0], truth, rtol=1e-5)


def test_a_stateful_function_that_uses_another_model_is_refused():
    model = mlp()

    @stateful
    def per_example(_, batch, state):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none"), state

    with pytest.raises(InputError, match="reaches the parameter"):
        evaluate(Objective(model, per_example, DATA), along=Line(*ends_of(model)), at=AT)


class Counting(nn.Module):
    """A buffer that every forward pass replaces or writes to, and that the outcome depends on."""

    def __init__(self, in_place):
        super().__init__()
        self.linear, self.in_place = nn.Linear(6, 4), in_place
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.n += 1
        else:
            self.n = self.n + 1
        return self.linear(x) * (1 + 0.1 * self.n)


@pytest.mark.parametrize("in_place", [True, False])
def test_buffers_that_a_forward_pass_changes_do_not_leak_between_batches_and_points(in_place):
    model = Counting(in_place)
    start, end = ends_of(model)
    end["n"] = start["n"]
    curves = [
        values(
            evaluate(
                Objective(model, CE, DATA, batch_size=size, dtype=torch.float64),
                along=Line(start, end),
                at=AT,
            )
        )
        for size in (10, 50, 1000)
    ]
    np.testing.assert_allclose(curves[0], curves[2], rtol=1e-12)
    np.testing.assert_allclose(curves[1], curves[2], rtol=1e-12)


@pytest.mark.parametrize("answer", ["ignored", "empty"])
def test_no_values_at_all_are_no_loss_of_zero(answer):
    model = mlp()
    function = (
        CE
        if answer == "ignored"
        else lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none")[:0]
    )
    data = (DATA[0], torch.full((203,), -100)) if answer == "ignored" else DATA
    with pytest.raises(InputError, match="gave no values"):
        Objective(model, function, data)(model)


@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss, lambda o, t: (o - t) ** 2])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_and_targets_that_broadcast_are_refused(loss):
    model = nn.Linear(6, 1)
    for targets in (torch.randn(203), torch.randint(0, 3, (203,))):
        with pytest.raises(InputError, match="broadcast"):
            Objective(model, supervised(loss), (DATA[0], targets))(model)


def test_a_shared_norm_layer_takes_in_both_of_its_batches():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.bn, self.b, self.c = (
                nn.Linear(6, 8),
                nn.BatchNorm1d(8),
                nn.Linear(8, 8),
                nn.Linear(8, 4),
            )

        def forward(self, x):
            return self.c(self.bn(self.b(torch.relu(self.bn(self.a(x))))))

    torch.manual_seed(0)
    model = Twice()
    start, end = ends_of(model)
    end = {n: start[n] if "running" in n or "tracked" in n else t for n, t in end.items()}
    data = (DATA[0][:200], DATA[1][:200])
    J = Objective(model, CE, data, buffers="recompute", batch_size=50, dtype=torch.float64)
    curve = evaluate(J, along=Line(start, end), at=[0.5])
    there = copy.deepcopy(model).double()
    there.load_state_dict(
        {n: (start[n] + end[n]) / 2 if start[n].is_floating_point() else start[n] for n in start}
    )
    batches = [data[0].double()[i : i + 50] for i in range(0, 200, 50)]
    torch.optim.swa_utils.update_bn(batches, there)
    expected = F.cross_entropy(there.eval()(data[0].double()), data[1]).item()
    assert values(curve)[0] == pytest.approx(expected, rel=1e-6)


def test_statistics_of_an_unknown_kind_are_not_recomputed():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 4)
            self.register_buffer("running_mean", torch.zeros(6))

        def forward(self, x):
            return self.linear(x - self.running_mean)

    model = Own()
    with pytest.raises(InputError, match="of its own"):
        evaluate(
            Objective(model, CE, DATA, buffers="recompute"), along=Line(*ends_of(model)), at=AT
        )


def test_ends_that_were_not_measured_are_not_invented():
    J = of_w(lambda w, x: 1 / (w[0].abs() + 0.01), size=1)
    curve = evaluate(J, along=Line(point(0.0), point(1.0)), at=np.linspace(-0.5, 1.5, 10))
    found = metrics.verdict(curve)
    assert np.isnan(found.measures["data", "loss"].barriers["end"].value)
    assert "over the measured part" in found.headline
    assert "start" not in {row.measure for row in found.rows}
    wide = metrics.verdict(evaluate(J, along=Line(point(0.0), point(1.0)), at=[-1, 2]))
    assert "was not measured between" in wide.headline
    inner = metrics.verdict(
        evaluate(
            of_w(lambda w, x: w[0] * (1 - w[0]), size=1),
            along=Line(point(0.0), point(1.0)),
            at=AT[1:-1],
        )
    )
    assert "barrier" not in inner.headline


@pytest.mark.parametrize(
    "name", ["loss_stderr", "loss_noise_floor", "n_examples", "alpha", "split", "top/5", "", 3]
)
def test_quantities_may_not_take_the_results_own_names(name):
    model = mlp()

    def per_example(model, batch):
        return {**CE(model, batch), name: CE(model, batch)["loss"]}

    with pytest.raises(InputError, match="invalid quantity name"):
        Objective(model, per_example, DATA)(model)


def test_counts_that_differ_between_points_are_refused(monkeypatch):
    monkeypatch.setattr("ravine.objective.tuning._GROUP", 2)

    def per_example(model, batch):
        losses = model.w[0] + batch[0]
        return losses[: 3 if float(model.w[0]) > 0.7 else 5]

    J = of_model(per_example, torch.randn(5, dtype=torch.float64))
    with pytest.raises(InputError, match="same ones at every point"):
        evaluate(J, along=Line(point(0.0), point(1.0)), at=AT)


def test_fixed_draws_include_those_of_numpy_and_python():
    model = nn.Linear(6, 4)

    def per_example(model, batch):
        noise = np.random.rand() + random.random()  # noqa: NPY002
        return CE(model, (batch[0] * noise, batch[1]))

    start = copy.deepcopy(model.state_dict())
    end = {n: t + 1e-9 for n, t in start.items()}
    end["bias"] = start["bias"] + 1e-6
    curve = evaluate(
        Objective(model, per_example, DATA, dropout="fixed"), along=Line(start, end), at=AT
    )
    assert np.ptp(values(curve)) < 1e-5


def test_ends_that_only_float64_tells_apart_are_measured_in_float64():
    model = nn.Linear(6, 4)
    start = {n: t.double() for n, t in model.state_dict().items()}
    end = {n: t + 1e-10 for n, t in start.items()}
    end["weight"] = end["weight"] + 1e-9 * torch.randn(
        4, 6, generator=torch.Generator().manual_seed(0)
    )
    curve = evaluate(Objective(model, CE, DATA), along=Line(start, end), at=AT)
    assert curve.attrs["dtype"] == "float64"
    np.testing.assert_allclose(
        values(curve) - values(curve)[0],
        direct(model, start, end, AT, DATA) - values(curve)[0],
        atol=1e-14,
    )
    assert np.ptp(values(curve)) > 1e-12


def test_minus_zero_is_an_end_of_its_own():
    seen = []

    def spy(model, batch):
        seen.append(model.w.clone())
        return model.w.sum() * 0 + batch[0]

    J = of_model(spy, torch.zeros(3, dtype=torch.float64), size=2)
    evaluate(J, along=Line(point(0.0, 1.0), point(-0.0, 2.0)), at=[1])
    assert torch.signbit(seen[-1][0])


def test_splits_of_one_name_and_complex_losses_are_refused():
    model = mlp()
    with pytest.raises(InputError, match="two splits have one name"):
        Objective(model, CE, {1: DATA, "1": DATA})
    with pytest.raises(InputError, match="real, dense"):
        Objective(model, lambda m, b: CE(m, b)["loss"] * 1j, DATA)(model)


def test_the_commonest_slips_have_their_sentence():
    model = mlp()
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy):
        with pytest.raises(
            InputError, match=r"call the model; got the loss .*Write ravine\.supervised\("
        ):
            Objective(model, loss, DATA)
    with pytest.raises(InputError, match="reduction='none'"):
        Objective(model, supervised(lambda o, t: F.cross_entropy(o, t)), DATA)(model)
    with pytest.raises(InputError, match="reduction='sum'"):
        supervised(nn.MSELoss(reduction="sum"))
    with pytest.raises(InputError, match="empty"):
        Line("", model)
    with pytest.raises(InputError, match="without a shape"):
        Line(nn.LazyLinear(3), model)
    with pytest.raises(InputError, match="sparse"):
        Line({"w": torch.eye(3).to_sparse()}, {"w": torch.eye(3)})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": None}, "seed must be an integer"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"device": "foo"}, "device 'foo'"),
        ({"dtype": torch.int32}, "dtype must be one of"),
        ({"dtype": "float64"}, "dtype must be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Objective(mlp(), CE, DATA, **options)
    assert Objective(mlp(), CE, DATA, seed=np.int64(3), batch_size=np.int64(5)).seed == 3


def test_inference_tensors_are_data_like_any_other():
    with torch.inference_mode():
        data = (DATA[0].clone(), DATA[1].clone())
        model = mlp()
        curve = evaluate(Objective(model, CE, data), along=Line(*trained_ends()), at=AT)
    np.testing.assert_array_equal(
        values(curve),
        values(evaluate(Objective(mlp(), CE, DATA), along=Line(*trained_ends()), at=AT)),
    )


@functools.cache
def trained_ends():
    with torch.inference_mode(mode=False), torch.enable_grad():
        return trained(mlp(), blobs())


def test_scripted_submodules_are_measured():
    class Script(nn.Module):
        def forward(self, x):
            return torch.relu(x)

    model = nn.Sequential(nn.Linear(6, 8), torch.jit.script(Script()), nn.Linear(8, 4))
    start, end = ends_of(model)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    curve = evaluate(Objective(model, CE, DATA, dtype=torch.float64), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), direct(plain, start, end, AT, DATA), rtol=1e-10)


def test_the_callers_own_generator_is_left_alone():
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(TensorDataset(*DATA), batch_size=20, shuffle=True, generator=generator)
    before = generator.get_state()
    evaluate(Objective(mlp(), CE, loader), along=Line(*trained_ends()), at=AT)
    assert torch.equal(generator.get_state(), before)


def test_writes_behind_the_version_counter_do_not_reach_the_caller():
    x, y = blobs()
    before = x.clone()

    def per_example(model, batch):
        batch[0].data.mul_(0.5)
        return CE(model, batch)

    curve = evaluate(Objective(mlp(), per_example, (x, y)), along=Line(*trained_ends()), at=AT)
    assert torch.equal(x, before)
    expected = evaluate(Objective(mlp(), CE, (x / 2, y)), along=Line(*trained_ends()), at=AT)
    np.testing.assert_allclose(values(curve), values(expected), rtol=1e-6)


def test_one_strided_row_is_a_batch_like_any_other():
    targets = torch.randn(257, 3)
    model = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    J = Objective(
        model, supervised(F.mse_loss), (torch.randn(257, 6), targets[:, 0]), batch_size=256
    )
    assert np.isfinite(J(model)["data"])


def test_huge_and_tiny_losses_keep_their_standard_errors():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(100, dtype=torch.float64, generator=rng)
    for scale in (1e-45, 1e40):
        J = of_w(lambda w, x, scale=scale: scale * (w[0] - x) ** 2, x, size=1)
        curve = evaluate(J, along=Line(point(3.0), point(0.5)), at=np.linspace(0, 1, 21))
        half = metrics.half_drop(curve)
        assert 0 < half.stderr < 0.1
        assert metrics.verdict(curve).measures["data", "loss"].rise.height.value <= scale


def test_verdicts_say_what_was_chosen_and_what_is_inside():
    J = of_w(lambda w, x: 1 - 0.2 * w[0] + 0.3 * torch.sin(12 * w[0]), size=1)
    found = str(
        metrics.verdict(evaluate(J, along=Line(point(0.0), point(1.0)), at=np.linspace(0, 1, 201)))
    )
    assert "local minim" in found
    model = mlp(norm=True)
    ends = trained(model, DATA)
    for policy, said in (("recompute", "estimated anew"), ("end", "the end's at every point")):
        curve = evaluate(Objective(model, CE, DATA, buffers=policy), along=Line(*ends), at=AT)
        assert said in str(metrics.verdict(curve))
    with pytest.raises(InputError, match="tolerance"):
        metrics.verdict(curve, tolerance=float("nan"))


def test_a_result_takes_nothing_from_other_files(tmp_path):
    saved = save_result(small_curve(), tmp_path / "saved.nc")
    (tmp_path / "secret").write_bytes(np.arange(3.0).tobytes())
    ways = {
        "external storage": lambda f: f.create_dataset(
            "loss", shape=(3, 1), dtype="f8", external=[(str(tmp_path / "secret"), 0, 24)]
        ),
        "an external link": lambda f: f.__setitem__(
            "loss", h5py.ExternalLink(str(saved), "/loss_stderr")
        ),
        "a virtual dataset": lambda f: f.create_virtual_dataset("loss", virtual(saved)),
    }
    for way, change in ways.items():
        path = tmp_path / f"{way}.nc"
        path.write_bytes(saved.read_bytes())
        with h5py.File(path, "r+") as opened:
            del opened["loss"]
            change(opened)
        with pytest.raises(InputError, match="holds all of its numbers itself"):
            open_result(path)


def virtual(source):
    layout = h5py.VirtualLayout(shape=(3, 1), dtype="f8")
    layout[:] = h5py.VirtualSource(str(source), "loss_stderr", shape=(3, 1))
    return layout


def test_a_small_file_that_declares_gigabytes_is_refused(tmp_path):
    saved = save_result(small_curve(), tmp_path / "saved.nc")
    with h5py.File(saved, "r+") as opened:
        opened.create_dataset("flood", shape=(1 << 30,), dtype="f8", chunks=True)
    with pytest.raises(InputError, match="more than a file of its size can"):
        open_result(saved)


def test_a_disk_that_fills_is_one_sentence_and_leaves_nothing(tmp_path):
    saved = save_result(small_curve(), tmp_path / "saved.nc")
    script = (
        "import resource, signal, sys, ravine\n"
        "found = ravine.open_result(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    ravine.save_result(found, sys.argv[2])\n"
        "except ravine.InputError as problem:\n"
        "    print(problem)\n"
    )
    target = tmp_path / "full.nc"
    ran = subprocess.run(
        [sys.executable, "-c", script, str(saved), str(target)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert "cannot write" in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["saved.nc"]


def test_a_title_that_is_no_utf8_is_saved(tmp_path):
    titled = small_curve().assign_attrs(title="caf\udce9")
    saved = save_result(titled, tmp_path / "saved.nc")
    assert open_result(saved).attrs["title"] == "caf?"
    assert write_report(tmp_path, titled).is_file()


def test_a_schema_version_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="has schema ²"):
        metrics.verdict(small_curve().assign_attrs(schema_version="²"))


@pytest.mark.parametrize("dropout", ["fixed", "resample"])
def test_threads_measure_what_one_does(dropout):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3))
    data = torch.randn(200, 6), torch.randint(0, 3, (200,))
    moved = {name: p.detach() + 0.3 * torch.randn_like(p) for name, p in model.named_parameters()}
    J = Objective(model, supervised(F.cross_entropy), data, dropout=dropout, batch_size=20)

    def curve(_):
        ends = Line(model.state_dict(), moved)
        return evaluate(J, along=ends, at=np.linspace(0, 1, 11))["loss"].values

    alone, state = curve(0), torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(curve, range(8)))
    assert all(np.array_equal(one, alone) for one in found)
    assert torch.equal(torch.get_rng_state(), state)


def small_curve():
    model = nn.Linear(2, 2)
    J = Objective(model, supervised(F.mse_loss), (torch.randn(20, 2), torch.randn(20, 2)))
    moved = {name: p.detach() + 1 for name, p in model.named_parameters()}
    return evaluate(J, along=Line(model, moved), at=[0, 0.5, 1])
