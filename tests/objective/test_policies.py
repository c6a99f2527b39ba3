"""What happens to buffers, dropout, precision and state; the caller's things stay as they were."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from oracles import blobs, direct, mlp, of_model, point, trained, values
from ravine import InputError, Line, Objective, evaluate, stateful, supervised
from ravine.metrics import verdict

DATA = blobs()
CE = supervised(F.cross_entropy)
AT = np.linspace(0, 1, 9)


@pytest.fixture(scope="module")
def norm_ends():
    model = mlp(norm=True)
    start, end = trained(model, DATA)
    model.load_state_dict(start)
    model.train()
    with torch.no_grad():
        model(DATA[0])  # an initialisation whose statistics have seen something
    return copy.deepcopy(model.state_dict()), end


# --- running statistics ---------------------------------------------------------------------------


def test_running_statistics_without_a_policy_are_refused_with_the_choices():
    with pytest.raises(InputError) as caught:
        Objective(mlp(norm=True), CE, DATA)
    for said in ("'start'", "'end'", "'interpolate'", "'recompute'", "'1'"):
        assert said in str(caught.value)


@pytest.mark.parametrize("policy", ["start", "end", "interpolate"])
def test_running_statistics_by_policy(norm_ends, policy):
    start, end = copy.deepcopy(norm_ends)
    statistics = [n for n in start if ".running" in f".{n}"]
    if policy != "interpolate":
        kept = {"start": start, "end": end}[policy]
        for state in (start, end):
            state.update({n: kept[n] for n in statistics})
    curve = evaluate(
        Objective(mlp(norm=True), CE, DATA, buffers=policy, dtype=torch.float64),
        along=Line(*norm_ends),
        at=AT,
    )
    np.testing.assert_allclose(
        values(curve), direct(mlp(norm=True), start, end, AT, DATA), rtol=1e-12
    )
    assert curve.attrs["buffers"] == policy


def test_recomputed_statistics_are_those_of_the_data(norm_ends):
    """One norm layer, one batch: its statistics at α are those of the first layer's output."""
    start, end = norm_ends
    J = Objective(
        mlp(norm=True), CE, DATA, buffers="recompute", dtype=torch.float64, batch_size=1000
    )
    curve = evaluate(J, along=Line(start, end), at=AT)
    expected = []
    for alpha in AT:
        model = mlp(norm=True).double()
        model.load_state_dict(
            {
                n: (1 - alpha) * t + alpha * end[n] if t.is_floating_point() else t
                for n, t in start.items()
            }
        )
        hidden = model[0](DATA[0].double())
        model[1].running_mean, model[1].running_var = (
            hidden.mean(0).detach(),
            hidden.var(0).detach(),
        )
        expected.append(F.cross_entropy(model.eval()(DATA[0].double()), DATA[1]).item())
    np.testing.assert_allclose(values(curve), expected, rtol=1e-6)  # the states are float32


def test_recomputed_statistics_weigh_batches_by_size(norm_ends):
    """203 examples in batches of 200 and 3: a mean of batch means would weigh the 3 too much."""
    seen = {}
    for size in (200, 1000):

        def spy(model, batch, size=size):
            seen[size] = (model[1].running_mean.clone(), model.training, model[1].training)
            return CE(model, batch)

        J = Objective(
            mlp(norm=True), spy, DATA, buffers="recompute", dtype=torch.float64, batch_size=size
        )
        evaluate(J, along=Line(*norm_ends), at=[0.5])
    torch.testing.assert_close(seen[200][0], seen[1000][0], rtol=1e-10, atol=1e-12)
    assert seen[200][1:] == (False, False)


def test_the_barrier_of_a_norm_net_depends_on_the_policy():
    """NEIGHBOURS T1: the choice alone changes the answer, so it stands in the result."""
    states = []
    for seed in (0, 1):
        states.append(trained(mlp(seed, norm=True), DATA)[1])
    found = {
        policy: values(
            evaluate(
                Objective(mlp(norm=True), CE, DATA, buffers=policy),
                along=Line(*states),
                at=[0, 0.5, 1],
            )
        )
        for policy in ("start", "end", "interpolate", "recompute")
    }
    assert found["start"][0] == found["interpolate"][0]
    assert found["end"][2] == found["interpolate"][2]
    assert found["start"][2] != pytest.approx(found["end"][2], rel=1e-3)
    middles = [curve[1] for curve in found.values()]
    assert np.diff(np.sort(middles)).min() > 1e-3


def test_integer_buffers_are_never_interpolated(norm_ends):
    start, end = copy.deepcopy(norm_ends)
    start["1.num_batches_tracked"], end["1.num_batches_tracked"] = (
        torch.tensor(10),
        torch.tensor(21),
    )
    seen = []

    def spy(model, batch):
        seen.append(int(model[1].num_batches_tracked))
        return CE(model, batch)

    evaluate(
        Objective(mlp(norm=True), spy, DATA, buffers="interpolate"),
        along=Line(start, end),
        at=[0.5],
    )
    assert set(seen) == {10}
    seen.clear()
    evaluate(Objective(mlp(norm=True), spy, DATA, buffers="end"), along=Line(start, end), at=[0.5])
    assert set(seen) == {21}


def test_a_policy_needs_the_statistics_it_names(norm_ends):
    start, end = norm_ends
    bare = {n: t for n, t in start.items() if "running" not in n and "tracked" not in n}
    with pytest.raises(InputError, match="whole state dict"):
        evaluate(
            Objective(mlp(norm=True), CE, DATA, buffers="start"), along=Line(bare, end), at=[0.5]
        )
    J = Objective(mlp(norm=True), CE, DATA, buffers="recompute", batch_size=1000)
    np.testing.assert_allclose(
        values(evaluate(J, along=Line(bare, end), at=AT)),
        values(evaluate(J, along=Line(start, end), at=AT)),
    )


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.linear(x) * self.scale


def test_other_buffers_that_differ_need_a_policy():
    model = WithBuffer()
    start = copy.deepcopy(model.state_dict())
    end = {n: t + 1 for n, t in start.items()}
    with pytest.raises(InputError, match="'scale'"):
        evaluate(Objective(model, CE, DATA), along=Line(start, end), at=[0.5])
    curve = evaluate(
        Objective(model, CE, DATA, buffers="interpolate", dtype=torch.float64),
        along=Line(start, end),
        at=AT,
    )
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, DATA), rtol=1e-12)
    same = {**end, "scale": torch.tensor(5.0)}
    curve = evaluate(
        Objective(model, CE, DATA, dtype=torch.float64),
        along=Line({**start, "scale": torch.tensor(5.0)}, same),
        at=[1],
    )
    np.testing.assert_allclose(values(curve), direct(model, same, same, [1], DATA), rtol=1e-12)


# --- dropout --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dropped():
    model = mlp(dropout=0.5)
    return model, trained(model, DATA)


def test_dropout_is_off_by_default(dropped):
    model, ends = dropped
    model.train()
    curve = evaluate(Objective(model, CE, DATA, dtype=torch.float64), along=Line(*ends), at=AT)
    np.testing.assert_allclose(values(curve), direct(model, *ends, AT, DATA), rtol=1e-12)


def test_fixed_masks_are_the_same_at_every_point(dropped):
    model, ends = dropped
    masks = []
    handle = model[2].register_forward_hook(
        lambda module, inputs, output: masks.append((output == 0).clone())
    )
    try:
        J = Objective(model, CE, DATA, dropout="fixed", batch_size=1000)
        # one and the same point approached from two sides: only the masks could differ
        line = Line(
            ends[1],
            {n: t + 1e-12 for n, t in ends[1].items()} | {"0.bias": ends[1]["0.bias"] + 1e-6},
        )
        curve = evaluate(J, along=line, at=[0, 0.5, 1])
    finally:
        handle.remove()
    assert all(torch.equal(mask, masks[-1]) for mask in masks[-3:])
    assert np.ptp(values(curve)) < 1e-5
    again = evaluate(J, along=line, at=[0, 0.5, 1])
    np.testing.assert_array_equal(values(curve), values(again))
    other = evaluate(
        Objective(model, CE, DATA, dropout="fixed", batch_size=1000, seed=1),
        along=line,
        at=[0, 0.5, 1],
    )
    assert np.abs(values(curve) - values(other)).min() > 1e-4


def test_resampled_masks_differ_between_points_and_repeat_with_the_seed(dropped):
    model, ends = dropped
    line = Line(
        ends[1], {n: t + 1e-9 for n, t in ends[1].items()} | {"0.bias": ends[1]["0.bias"] + 1e-6}
    )
    J = Objective(model, CE, DATA, dropout="resample")
    curve = evaluate(J, along=line, at=AT)
    assert np.ptp(values(curve)) > 1e-3
    np.testing.assert_array_equal(values(curve), values(evaluate(J, along=line, at=AT)))
    np.testing.assert_array_equal(values(curve)[[5]], values(evaluate(J, along=line, at=AT[[5]])))


def test_dropout_leaves_running_statistics_alone():
    model = mlp(norm=True, dropout=0.5)
    start, end = trained(model, DATA)
    J = Objective(model, CE, DATA, dropout="fixed", buffers="end")
    two, one = (
        evaluate(J, along=Line(start, end), at=[0.5, 1]),
        evaluate(J, along=Line(start, end), at=[1]),
    )
    assert values(two)[1] == values(one)[0]


class AlwaysDropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        return self.linear(F.dropout(x, 0.5))  # training=True is the default of the function


def test_a_model_that_is_random_in_evaluation_mode_is_refused():
    model = AlwaysDropping()
    end = {n: t + 1 for n, t in model.state_dict().items()}
    with pytest.raises(InputError, match="random, or depends on what was computed before"):
        evaluate(Objective(model, CE, DATA), along=Line(model, end), at=AT)
    assert np.isfinite(
        values(evaluate(Objective(model, CE, DATA, dropout="fixed"), along=Line(model, end), at=AT))
    ).all()


# --- per-example functions and batches ------------------------------------------------------------


def test_dictionary_batches_are_measured_not_skipped():
    model = mlp()
    start, end = trained(model, DATA)
    batches = [
        {"input": DATA[0][i : i + 50], "label": DATA[1][i : i + 50]} for i in range(0, 203, 50)
    ]

    def per_example(model, batch):
        return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")

    curve = evaluate(
        Objective(model, per_example, batches, dtype=torch.float64), along=Line(start, end), at=AT
    )
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, DATA), rtol=1e-12)
    assert int(curve["n_examples"][0]) == 203
    with pytest.raises(InputError, match="this batch is a dict"):
        evaluate(Objective(model, CE, batches), along=Line(start, end), at=AT)


def test_several_quantities_and_splits_come_from_one_pass():
    calls = []

    def per_example(model, batch):
        calls.append(len(batch[0]))
        found = CE(model, batch)
        return {**found, "confidence": torch.exp(-found["loss"])}

    model = mlp()
    start, end = trained(model, DATA)
    splits = {"train": DATA, "valid": blobs(40, seed=1)}
    curve = evaluate(
        Objective(model, per_example, splits, batch_size=1000), along=Line(start, end), at=AT
    )
    assert list(curve["split"].values) == ["train", "valid"]
    assert {"loss", "error", "confidence"} <= set(curve.data_vars)
    np.testing.assert_array_equal(curve["n_examples"], [203, 40])
    small = evaluate(Objective(model, CE, splits["valid"]), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(small), values(curve, split="valid"), rtol=1e-6)
    # the function is the user's own, so its unit is not known
    assert curve["loss"].attrs["units"] == ""
    assert small["loss"].attrs["units"] == "nats"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda loss: loss.mean(), "reduction='none'"),
        (lambda loss: loss.mean().item(), "float"),
        (lambda loss: loss.mean(0, keepdim=True), "reduction='none'"),
        (lambda loss: {"nll": loss}, "without 'loss'"),
        (lambda loss: {"loss": loss, "error": 0.5}, "'error'"),
        (lambda loss: None, "NoneType"),
    ],
)
def test_answers_that_are_not_per_example_are_refused(answer, said):
    model = mlp()

    def per_example(model, batch):
        return answer(F.cross_entropy(model(batch[0]), batch[1], reduction="none"))

    with pytest.raises(InputError, match=said):
        Objective(model, per_example, DATA)(model)


def test_a_function_that_uses_another_model_is_refused():
    model = mlp()
    start, end = trained(model, DATA)

    def per_example(_, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    with pytest.raises(InputError, match="Use the first argument"):
        evaluate(Objective(model, per_example, DATA), along=Line(start, end), at=AT)


def test_a_failure_names_its_place():
    def per_example(model, batch):
        if float(model.w[0]) > 0.4:
            raise RuntimeError("out of cheese")
        return batch[0] + model.w[0]

    model_ends = Line(point(0.0), point(1.0))
    J = of_model(per_example, torch.zeros(1, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="cheese") as caught:
        evaluate(J, along=model_ends, at=[0, 0.5])
    assert any("alpha = 0.5" in note for note in caught.value.__notes__)


def test_tokens_are_counted_and_ignored_ones_are_not():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7))
    tokens = torch.randint(0, 7, (9, 4))
    targets = torch.randint(0, 7, (9, 4))
    targets[2, 1:] = -100

    class Flip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x).transpose(1, 2)

    flip = Flip()
    expected = F.cross_entropy(flip(tokens), targets).item()
    J = Objective(flip, CE, (tokens, targets), batch_size=2)
    assert J(flip)["data"] == pytest.approx(expected, rel=1e-6)
    curve = evaluate(J, along=Line(flip, {n: t + 1 for n, t in flip.state_dict().items()}), at=[0])
    assert int(curve["n_examples"][0]) == 33


@pytest.mark.parametrize("loss", [F.mse_loss, nn.MSELoss(), nn.L1Loss(), F.smooth_l1_loss])
def test_regression_losses_agree_with_torch(loss):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    data = (torch.randn(11, 3), torch.randn(11, 2))
    J = Objective(model, supervised(loss), data, batch_size=4)
    assert J(model)["data"] == pytest.approx(loss(model(data[0]), data[1]).item(), rel=1e-6)
    assert getattr(loss, "reduction", "mean") == "mean"  # the caller's module is not changed


def test_class_weights_are_refused():
    with pytest.raises(InputError, match="class weights"):
        supervised(nn.CrossEntropyLoss(weight=torch.ones(4)))


def test_state_is_carried_per_point_along_the_stream():
    """h ← a h + x: with state carried, the curve does not depend on how the stream is cut."""
    x = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    @stateful
    def per_example(model, batch, state):
        h = torch.zeros((), dtype=torch.float64) if state is None else state
        out = []
        for value in batch[0]:
            h = model.w[0] * h + value
            out.append(h**2)
        return torch.stack(out), h

    curves = []
    for size in (1, 5, 12):
        J = of_model(per_example, x, batch_size=size)
        curves.append(values(evaluate(J, along=Line(point(0.2), point(0.9)), at=AT)))
    np.testing.assert_allclose(curves[0], curves[2], rtol=1e-13)
    np.testing.assert_allclose(curves[1], curves[2], rtol=1e-13)
    h, total = 0.0, 0.0
    for value in x.tolist():
        h = 0.2 * h + value
        total += h**2
    assert curves[0][0] == pytest.approx(total / 12, rel=1e-13)


# --- precision, ties, devices ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_checkpoints_are_interpolated_in_float32(dtype):
    start, end = ({n: t.to(dtype) for n, t in state.items()} for state in trained(mlp(), DATA))
    curve = evaluate(Objective(mlp().to(dtype), CE, DATA), along=Line(start, end), at=AT)
    assert curve.attrs["dtype"] == "float32"
    np.testing.assert_allclose(values(curve), direct(mlp(), start, end, AT, DATA), rtol=1e-5)


def test_low_precision_is_used_when_asked_for_with_its_noise_stated():
    start, end = trained(mlp(), DATA)
    curve = evaluate(
        Objective(mlp(), CE, DATA, dtype=torch.bfloat16), along=Line(start, end), at=AT
    )
    error = np.abs(values(curve) - direct(mlp(), start, end, AT, DATA))
    assert 1e-5 < error.max() < 10 * float(curve["loss_noise_floor"].max()) < 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))


def test_tied_weights_move_once(tmp_path):
    torch.manual_seed(0)
    start, end = Tied(), Tied()
    tokens = torch.arange(4)
    J = Objective(Tied(), CE, (tokens, tokens))
    curve = evaluate(J, along=Line(start.state_dict(), end.state_dict()), at=[0, 0.5, 1])
    half = Tied()
    with torch.no_grad():
        half.embed.weight.copy_((start.embed.weight + end.embed.weight) / 2)
    assert values(curve)[1] == pytest.approx(F.cross_entropy(half(tokens), tokens).item(), rel=1e-6)
    assert curve.attrs["length"] == pytest.approx(
        (start.embed.weight - end.embed.weight).norm().item(), rel=1e-6
    )
    assert curve.attrs["model"] == "Tied, 12 parameters"
    untied = {"embed.weight": torch.zeros(4, 3), "head.weight": torch.ones(4, 3)}
    with pytest.raises(InputError, match="tied"):
        J(untied)


def test_a_wrapped_checkpoint_does_not_give_a_flat_line():
    start, end = trained(mlp(), DATA)
    plain = evaluate(Objective(mlp(), CE, DATA), along=Line(start, end), at=AT)
    for prefix in ("module.", "_orig_mod.", "model."):
        wrapped = {prefix + n: t for n, t in end.items()}
        for line in (
            Line(start, wrapped),
            Line({prefix + n: t for n, t in start.items()}, wrapped),
        ):
            np.testing.assert_array_equal(
                values(evaluate(Objective(mlp(), CE, DATA), along=line, at=AT)), values(plain)
            )
    assert np.ptp(values(plain)) > 0.5


def test_a_missing_layer_or_an_extra_head_is_refused():
    start, end = trained(mlp(), DATA)
    with pytest.raises(InputError, match="missing"):
        evaluate(
            Objective(mlp(), CE, DATA),
            along=Line(*({"0.weight": s["0.weight"]} for s in (start, end))),
            at=AT,
        )
    with pytest.raises(InputError, match="'head'"):
        evaluate(
            Objective(mlp(), CE, DATA),
            along=Line(*({**s, "head": torch.ones(1)} for s in (start, end))),
            at=AT,
        )


def test_nan_in_a_checkpoint_is_refused_by_name():
    start, end = trained(mlp(), DATA)
    end["2.bias"][1] = float("nan")
    with pytest.raises(InputError, match=r"NaN or infinity in '2\.bias'"):
        evaluate(Objective(mlp(), CE, DATA), along=Line(start, end), at=AT)


def test_the_model_may_live_on_the_meta_device():
    start, end = trained(mlp(), DATA)
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    curve = evaluate(Objective(model, CE, DATA), along=Line(start, end), at=AT)
    np.testing.assert_array_equal(
        values(curve), values(evaluate(Objective(mlp(), CE, DATA), along=Line(start, end), at=AT))
    )


@pytest.mark.parametrize(
    "build", [lambda m: m, lambda m: torch.compile(m, backend="eager"), nn.DataParallel]
)
def test_wrapped_models_are_measured_like_bare_ones(build):
    start, end = trained(mlp(), DATA)
    curve = evaluate(Objective(build(mlp()), CE, DATA), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), direct(mlp(), start, end, AT, DATA), rtol=1e-5)


@pytest.mark.parametrize("build", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights(build):
    torch.manual_seed(0)
    model = nn.Sequential(build(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4)).eval()
    start = copy.deepcopy(model.state_dict())
    end = {
        n: t + 0.3 * torch.randn_like(t) if "original" in n or n.startswith("2") else t
        for n, t in start.items()
    }
    curve = evaluate(Objective(model, CE, DATA, dtype=torch.float64), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, DATA), rtol=1e-12)


def test_old_weight_norm_keeps_its_product_in_an_attribute():
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(6, 4)))
    start = copy.deepcopy(model.state_dict())
    end = {n: t + 0.5 for n, t in start.items()}
    curve = evaluate(Objective(model, CE, DATA), along=Line(start, end), at=[0, 1])
    model.load_state_dict(end)
    assert values(curve)[1] == pytest.approx(
        F.cross_entropy(model(DATA[0]), DATA[1]).item(), rel=1e-5
    )


def test_recurrent_layers_are_copied_whole():
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = (
                nn.LSTM(2, 5, num_layers=2, batch_first=True, dropout=0.5),
                nn.Linear(5, 4),
            )

        def forward(self, x):
            return self.head(self.rnn(x.reshape(-1, 3, 2))[0][:, -1])

    model = Last()
    start = copy.deepcopy(model.state_dict())
    end = {n: t + 0.5 * torch.randn_like(t) for n, t in start.items()}
    curve = evaluate(Objective(model, CE, DATA, dtype=torch.float64), along=Line(start, end), at=AT)
    np.testing.assert_allclose(values(curve), direct(model, start, end, AT, DATA), rtol=1e-12)


# --- the caller's things --------------------------------------------------------------------------


def everything(model):
    """What a caller could notice."""
    return (
        {n: t.clone() for n, t in model.state_dict().items()},
        [
            (n, p.requires_grad, p.data_ptr(), None if p.grad is None else p.grad.clone())
            for n, p in model.named_parameters()
        ],
        [
            (n, m.training, list(m._forward_hooks), list(m._forward_pre_hooks))
            for n, m in model.named_modules()
        ],
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
    )


def equal(one, two):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


@pytest.mark.parametrize("ending", [None, RuntimeError("broken"), KeyboardInterrupt()])
def test_the_caller_finds_everything_as_it_was(ending):
    model = mlp(norm=True, dropout=0.5)
    start, end = trained(model, DATA)
    model.train()
    model[0].eval()
    model[0].weight.requires_grad_(False)
    model[4].register_forward_hook(lambda *_: None)
    F.cross_entropy(model(DATA[0]), DATA[1]).backward()
    before = everything(model)
    calls = []

    def per_example(model, batch):
        calls.append(1)
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        if ending is not None and len(calls) > 20:
            raise ending
        return CE(model, batch)

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*DATA), batch_size=20, shuffle=True
    )
    J = Objective(model, per_example, loader, dropout="fixed", buffers="recompute")
    if ending is None:
        evaluate(J, along=Line(start, end), at=AT)
    else:
        with pytest.raises(type(ending)):
            evaluate(J, along=Line(start, end), at=AT)
    assert len(calls) > 20
    assert equal(everything(model), before)


def test_frozen_parameters_move_with_the_checkpoints():
    """An end's frozen weights are part of that end; what is the same at both ends moves nowhere."""
    model = mlp()
    start, end = trained(model, DATA)
    model.requires_grad_(False)
    np.testing.assert_allclose(
        values(
            evaluate(Objective(model, CE, DATA, dtype=torch.float64), along=Line(start, end), at=AT)
        ),
        direct(model, start, end, AT, DATA),
        rtol=1e-12,
    )
    half = {**start, "2.weight": end["2.weight"]}
    curve = evaluate(
        Objective(model, CE, DATA, dtype=torch.float64), along=Line(start, half), at=AT
    )
    np.testing.assert_allclose(values(curve), direct(model, start, half, AT, DATA), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dropout": "on"}, "dropout must be one of"),
        ({"buffers": "mean"}, "buffers must be one of"),
        ({"batch_size": 0}, "positive integer"),
        ({"batch_size": 2.5}, "positive integer"),
    ],
)
def test_unknown_policies_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        Objective(mlp(), CE, DATA, **arguments)


def test_things_that_are_no_objective_are_refused():
    with pytest.raises(InputError, match="Module"):
        Objective(lambda x: x, CE, DATA)
    with pytest.raises(InputError, match="function of"):
        Objective(mlp(), "cross_entropy", DATA)
    with pytest.raises(InputError, match="no floating-point parameters"):
        Objective(nn.ReLU(), CE, DATA)
    with pytest.raises(InputError, match="data is empty"):
        Objective(mlp(), CE, {})


def many(count: int = 4096):
    torch.manual_seed(5)
    return torch.randn(count, 6), torch.randint(0, 4, (count,))


def test_the_batch_size_is_measured_once_and_recorded():
    sizes = []

    def spy(model, batch):
        sizes.append(len(batch[0]))
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    model = nn.Linear(6, 4)
    ends = Line(model, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    J = Objective(model, spy, many(), dtype=torch.float64)
    first = evaluate(J, along=ends, at=np.linspace(0, 1, 41))
    assert len(set(sizes)) > 3
    chosen = first.attrs["batch_size"]
    assert chosen in sizes
    sizes.clear()
    again = evaluate(J, along=ends, at=np.linspace(0, 1, 41))
    assert again.attrs["batch_size"] == chosen
    assert max(sizes[-10:]) <= chosen
    given = evaluate(
        Objective(model, spy, many(), dtype=torch.float64, batch_size=77), along=ends, at=[0, 0.5]
    )
    assert given.attrs["batch_size"] == 77
    np.testing.assert_allclose(first["loss"].sel(alpha=[0, 0.5]), given["loss"], rtol=1e-12)
    assert (
        first.attrs["objective_hash"]
        == again.attrs["objective_hash"]
        != given.attrs["objective_hash"]
    )


def against_the_batch(model, batch):
    outputs = model(batch[0])
    return (outputs - outputs.mean(0)).square().sum(1)


def contrastive(model, batch):
    outputs = F.normalize(model(batch[0]), dim=1)
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")


def ranked(model, batch):
    scores = model(batch[0]).sum(1)
    return scores.argsort().argsort().float()


def normed(model, batch):
    """As nn.BatchNorm1d(track_running_stats=False) does it in evaluation mode too."""
    outputs = F.batch_norm(model(batch[0]), None, None, training=True)
    return F.cross_entropy(outputs, batch[1], reduction="none")


@pytest.mark.parametrize("per_example", [against_the_batch, contrastive, ranked, normed])
def test_no_batch_size_is_chosen_for_a_loss_that_depends_on_it(per_example):
    """J is another function for each size: one that was chosen here would be nobody's."""
    model, data = nn.Linear(6, 4), many()
    ends = Line(model, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    with pytest.raises(InputError, match=r"depends on which others are in its batch: .*batch_size"):
        evaluate(Objective(model, per_example, many()), along=ends, at=AT)
    found = evaluate(Objective(model, per_example, many(), batch_size=50), along=ends, at=[0])
    with torch.no_grad():
        batches = zip(*(tensor.split(50) for tensor in data), strict=True)
        truth = torch.cat([per_example(model, batch) for batch in batches]).mean()
    np.testing.assert_allclose(values(found), [float(truth)], rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_order_in_which_values_come_is_no_dependence_on_the_batch(axis):
    """Positions first, or examples first: the halves of a batch have other places then."""

    def by_position(model, batch):
        return model(batch[0]).square().transpose(0, axis).flatten()

    model = nn.Linear(6, 4)
    ends = Line(model, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    found = evaluate(Objective(model, by_position, many()), along=ends, at=[0])
    with torch.no_grad():
        truth = by_position(model, many()).mean()
    np.testing.assert_allclose(values(found), [float(truth)], rtol=1e-5)


class Slow(torch.utils.data.IterableDataset):
    """Batches that take a while to read, and tell when they were."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at, self.readers = count, fail_at, set()

    def __iter__(self):
        for number in range(self.count):
            if number == self.fail_at:
                raise OSError("disk on fire")
            self.readers.add(threading.current_thread().name.split("_")[0])
            generator = torch.Generator().manual_seed(number)
            yield (
                torch.randn(5000, 6, generator=generator),
                torch.randint(0, 4, (5000,), generator=generator),
            )


def test_a_source_is_read_ahead_and_gives_what_a_list_gives():
    model = nn.Linear(6, 4)
    ends = Line(model, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    source = Slow(5)
    ahead = evaluate(Objective(model, CE, source, check_data=False), along=ends, at=AT)
    assert "ravine-reader" in source.readers
    at_hand = evaluate(Objective(model, CE, list(Slow(5))), along=ends, at=AT)
    np.testing.assert_array_equal(ahead["loss"], at_hand["loss"])
    assert ahead.attrs["data_hash"] == at_hand.attrs["data_hash"]
    assert not [t for t in threading.enumerate() if t.name.startswith("ravine-reader")]


def test_a_failure_while_reading_ahead_is_the_callers_own():
    model = nn.Linear(6, 4)
    ends = Line(model, {name: tensor + 1 for name, tensor in model.state_dict().items()})
    with pytest.raises(OSError, match="disk on fire"):
        evaluate(Objective(model, CE, Slow(5, fail_at=4), check_data=False), along=ends, at=AT)


class Turning(nn.Module):
    """Keeps a table that is computed, not saved, as rotary embeddings do."""

    def __init__(self, start=1.0):
        super().__init__()
        self.linear = nn.Linear(1, 1, bias=False)
        self.register_buffer("table", torch.tensor([start]), persistent=False)

    def forward(self, x):
        return self.linear(x) + self.table


def test_a_buffer_that_is_never_saved_is_no_difference_between_a_state_dict_and_a_module():
    model = Turning()
    start = {"linear.weight": torch.zeros(1, 1)}
    J = Objective(model, supervised(F.mse_loss), (torch.ones(3, 1), torch.zeros(3, 1)))
    with torch.no_grad():
        model.linear.weight.fill_(2.0)
    for line, expected in (
        (Line(start, model), [1.0, 4.0, 9.0]),
        (Line(model, start), [9.0, 4.0, 1.0]),
    ):
        assert evaluate(J, along=line, at=[0, 0.5, 1])["loss"].values.ravel().tolist() == expected
    with pytest.raises(InputError, match="differ in the buffer 'table'"):
        evaluate(J, along=Line(start, Turning(start=2.0)), at=[0, 1])


# --- reduced precision ----------------------------------------------------------------------------


def test_an_autocast_around_the_measurement_changes_nothing():
    model = mlp()
    start, end = trained(model, DATA)
    J = Objective(model, CE, DATA)
    plain = evaluate(J, along=Line(start, end), at=AT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = evaluate(J, along=Line(start, end), at=AT)
        assert torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(values(inside), values(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_floor_with_fixed_masks_is_that_of_rounding(dtype):
    """Each look at rounding drew masks of its own: the floor was a tenth of the loss."""
    model = mlp(dropout=0.5)
    start, end = trained(model, DATA)
    J = Objective(model, CE, DATA, dropout="fixed", dtype=dtype)
    curve = evaluate(J, along=Line(start, end), at=AT)
    unit = torch.finfo(dtype).eps
    assert (values(curve, "loss_noise_floor") <= 100 * unit * values(curve)).all()
    resampled = Objective(model, CE, DATA, dropout="resample", dtype=dtype)
    drawn = evaluate(resampled, along=Line(start, end), at=AT)
    assert (values(drawn, "loss_noise_floor") > 1e-3 * values(drawn)).all()


def test_the_noise_floor_sees_an_autocast_of_the_callers_function():
    model = mlp()
    start, end = trained(model, DATA)

    def narrow(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[0])
        return F.cross_entropy(logits.float(), batch[1], reduction="none")

    plain = evaluate(Objective(model, CE, DATA), along=Line(start, end), at=AT)
    rough = evaluate(Objective(model, narrow, DATA), along=Line(start, end), at=AT)
    error = np.abs(values(rough) - values(plain))
    assert (values(rough, "loss_noise_floor") > 100 * values(plain, "loss_noise_floor")).all()
    assert (error <= 3 * values(rough, "loss_noise_floor")).all()


CANCELLING = {
    "a large number added and taken away": lambda v: (v + 1e6) - 1e6,
    "a product that is divided again": lambda v: (v + 3e5).square() / (v + 3e5) - 3e5,
    "a logarithm beside one": lambda v: torch.log1p(v * 1e-6).exp().sub(1).mul(1e6),
    "a half-precision detour": lambda v: v.half().float(),
    "nothing": lambda v: v,
}


@pytest.mark.parametrize("name", CANCELLING)
def test_the_noise_floor_sees_what_cancels_inside_the_loss(name):
    """A unit of rounding in the parameters does not show it; the same examples in float64 do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    inputs, targets = torch.randn(600, 8), torch.randint(0, 4, (600,))
    lost = CANCELLING[name]

    def per_example(model, batch):
        return lost(F.cross_entropy(model(batch[0]), batch[1], reduction="none"))

    def truth(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    line = Line(start, {n: p + 0.5 * torch.randn_like(p) for n, p in start.items()})
    at = np.linspace(0, 1, 11)
    curve = evaluate(Objective(model, per_example, (inputs, targets)), along=line, at=at)
    exact = Objective(model, truth, (inputs, targets), dtype=torch.float64)
    error = np.abs(values(curve) - values(evaluate(exact, along=line, at=at)))
    floor = values(curve, "loss_noise_floor")
    assert (error <= 1.5 * floor).all()
    assert (floor < 1e-6).all() == (name == "nothing")


@pytest.mark.calibration
@pytest.mark.parametrize(("with_float64", "most"), [(True, 0.01), (False, 0.1)])
def test_noise_floors_cover_the_errors_of_short_trainings(monkeypatch, with_float64, most):
    """J in float32 beside float64, at 23 points of 40 lines: a floor is three deviations."""
    if not with_float64:
        monkeypatch.setattr("ravine.objective.measurement._EXACT_UP_TO", 0)
    above = []
    for seed in range(40):
        model, data, at = mlp(seed=seed), blobs(20 + 10 * seed, seed=seed), np.linspace(0, 1, 23)
        line = Line(*trained(model, data))
        found = evaluate(Objective(model, CE, data), along=line, at=at)
        truth = evaluate(Objective(model, CE, data, dtype=torch.float64), along=line, at=at)
        above.append(abs(values(found) - values(truth)) > values(found, "loss_noise_floor"))
    assert np.mean(above) <= most


def test_the_noise_floor_holds_between_the_points_that_were_looked_at():
    """A probability that saturates in float32: a logarithm cut off, away from a probed point."""
    inputs = torch.linspace(0.5, 1.5, 200)[:, None]
    model = nn.Linear(1, 1, bias=False)

    def per_example(model, batch):
        likely = torch.sigmoid(model(batch[0]).flatten())
        return F.binary_cross_entropy(likely, torch.zeros_like(likely), reduction="none")

    ends = Line({"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[60.0]])})
    at = np.linspace(0, 1, 11)
    found = evaluate(Objective(model, per_example, (inputs,)), along=ends, at=at)
    wide = Objective(model, per_example, (inputs,), dtype=torch.float64)
    error = np.abs(values(found) - values(evaluate(wide, along=ends, at=at)))
    assert error.max() > 10
    assert (error <= 3 * values(found, "loss_noise_floor")).all()
    assert "dtype=torch.float64" in str(verdict(found))
