"""The convolutional network: shapes, arithmetic by another route, constraints; figure 6."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import ravine
from oracles import of_w, point
from ravine.paper.claims import CLAIMS
from ravine.paper.claims.curves import tops
from ravine.paper.figures import FIGURES, NotThere, Study
from ravine.paper.figures.conv import WINDOW, Barrier, barrier
from ravine.paper.models import CONV, ConvNetwork, Convolution, Layer
from ravine.paper.recipes import recipe
from ravine.paper.tasks.by_network import task_for
from ravine.paper.tasks.classification import class_of
from ravine.paper.training import Training

SMALL = ConvNetwork(
    channels=2,
    side=7,
    convolutions=(
        Convolution(
            3,
            2,
            kernel=3,
            pad=2,
            pool=4,
            stride=2,
            init=0.4,
            cap=0.5,
            keep=0.8,
            scale=1.0,
            rate=0.25,
        ),
        Convolution(
            4,
            3,
            kernel=2,
            pad=1,
            pool=2,
            stride=2,
            init=0.4,
            cap=0.6,
            keep=0.5,
            scale=2.0,
            rate=0.5,
        ),
    ),
    layers=(
        Layer(5, pieces=2, init=0.4, cap=0.7, keep=0.5, scale=2.0),
        Layer(10, init=0.4, cap=0.7, keep=1, scale=1),
    ),
)


@pytest.fixture(scope="module")
def whole():
    return CONV.build(0)


class TestNetwork:
    def test_its_parameters(self, whole):
        count = {name: p.numel() for name, p in whole.named_parameters()}
        assert list(count.values()) == [
            36_864,
            192,
            2_359_296,
            384,
            1_843_200,
            384,
            12_000_000,
            2_500,
            5_000,
            10,
        ]
        assert sum(count.values()) == 16_247_830

    def test_its_shapes(self, whole):
        seen = {}
        x = torch.zeros(2, 3072)
        for name, layer in whole.eval().named_children():
            x = layer(x)
            seen[name] = tuple(x.shape[1:])
        assert seen["layer0"] == (192, 33, 33)
        assert seen["pool0"] == (96, 16, 16)
        assert seen["layer1"] == (384, 15, 15)
        assert seen["pool1"] == (192, 7, 7)
        assert seen["layer2"] == (384, 9, 9)
        assert seen["pool2"] == (192, 5, 5)
        assert seen["flat"] == (4800,)
        assert seen["maxout3"] == (500,)
        assert seen["layer4"] == (10,)

    def test_its_start(self, whole):
        for name, p in whole.named_parameters():
            if name.endswith("bias"):
                assert not p.any()
            else:
                assert float(p.detach().abs().max()) <= 0.005
                assert float(p.detach().std()) == pytest.approx(0.005 / 3**0.5, rel=0.02)
        again = CONV.build(0)
        assert all(
            torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)
        )
        assert not torch.equal(SMALL.build(0)[2].weight, SMALL.build(1)[2].weight)

    def test_its_constraints_and_rates(self):
        assert CONV.caps == {
            "layer0.weight": 0.9,
            "layer1.weight": 1.9365,
            "layer2.weight": 1.9365,
            "layer3.weight": 1.9,
            "layer4.weight": 1.9365,
        }
        kernels = {f"layer{n}.{kind}" for n in range(3) for kind in ("weight", "bias")}
        assert CONV.rate_scales == dict.fromkeys(kernels, 0.05)
        assert [(x.keep, x.scale) for x in (*CONV.convolutions, *CONV.layers)] == [
            (0.8, 1.0)
        ] + 4 * [(0.5, 2.0)]
        assert CONV.about == "convolutional maxout 32×32×3–96×2–192×2–192×2–500×5–10"

    def test_its_arithmetic_by_another_route(self):
        """pylearn2's: pad, slide, add the bias, largest of pieces, largest of squares (or less)."""
        model = SMALL.build(3).double().eval()
        images = torch.randn(
            5, 2 * 7 * 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.linspace(-0.1, 0.1, p.numel(), dtype=torch.float64).reshape(p.shape))
            found = model(images).numpy()
        params = {name: p.detach().numpy() for name, p in model.named_parameters()}
        maps = images.numpy().reshape(5, 2, 7, 7)
        for number, layer in enumerate(SMALL.convolutions):
            maps = convolved(
                maps, params[f"layer{number}.weight"], params[f"layer{number}.bias"], layer
            )
        hidden = maps.reshape(5, -1)
        hidden = hidden @ params["layer2.weight"].T + params["layer2.bias"]
        hidden = np.stack([hidden[:, [unit, unit + 5]].max(1) for unit in range(5)], 1)
        np.testing.assert_allclose(
            found, hidden @ params["layer3.weight"].T + params["layer3.bias"], rtol=1e-12
        )

    def test_dropout_is_per_pixel_and_channel(self):
        model = SMALL.build(0).train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            masked = model.dropout0(torch.ones(400, 2, 7, 7))
        assert set(masked.unique().tolist()) == {0.0, 1.0}  # scale 1: what is kept is not doubled
        assert float(masked.mean()) == pytest.approx(0.8, abs=0.01)
        for axis in (1, 2, 3):  # no channel, row or column goes as a whole
            others = [a for a in (1, 2, 3) if a != axis]
            assert float(masked.mean(others).std()) < 0.2
        assert float(torch.corrcoef(masked.flatten(1).T)[0, 1:].abs().max()) < 0.2


def convolved(maps, kernels, biases, layer):
    count, _, side, _ = maps.shape
    padded = np.pad(maps, ((0, 0), (0, 0), (layer.pad, layer.pad), (layer.pad, layer.pad)))
    places = side + 2 * layer.pad - layer.kernel + 1
    detector = np.empty((count, len(kernels), places, places))
    for i in range(places):
        for j in range(places):
            window = padded[:, :, i : i + layer.kernel, j : j + layer.kernel]
            detector[:, :, i, j] = np.einsum("nchw,kchw->nk", window, kernels) + biases
    best = np.stack(
        [
            np.max([detector[:, c + piece * layer.channels] for piece in range(layer.pieces)], 0)
            for c in range(layer.channels)
        ],
        1,
    )
    squares = int(np.ceil((places - layer.pool) / layer.stride)) + 1
    out = np.empty((count, layer.channels, squares, squares))
    for i in range(squares):
        for j in range(squares):
            top, left = i * layer.stride, j * layer.stride
            out[:, :, i, j] = best[:, :, top : top + layer.pool, left : left + layer.pool].max(
                (2, 3)
            )
    return out


class TestTraining:
    def test_kernels_are_cut_to_their_cap_and_learn_at_their_own_rate(self, tmp_path):
        quick = recipe("conv-cifar10", "quick")
        job = Training(
            replace(quick, network=SMALL, train=64, valid=16, batch_size=64),
            {k: made_up() for k in ("train", "test")},
            tmp_path,
        )
        job.task.constrain = lambda params: None  # the bare step first
        before = {name: p.detach().clone() for name, p in job.params.items()}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            (objective,) = job.task.epoch(job.model.eval(), 0, job.order)
        gradient = torch.autograd.grad(objective, list(job.params.values()), retain_graph=True)
        job.step(objective, rate=0.1, momentum=0.5)
        for (name, p), slope in zip(job.params.items(), gradient, strict=True):
            scale = {"layer0": 0.25, "layer1": 0.5}.get(name.split(".")[0], 1.0)
            torch.testing.assert_close(p.detach(), before[name] - 0.1 * scale * slope)
        del job.task.constrain
        long = {
            name: float(p.detach().flatten(1).norm(dim=1).max())
            for name, p in job.params.items()
            if p.ndim > 1
        }
        assert long["layer0.weight"] > 0.5
        with torch.no_grad():
            job.task.constrain(job.params)
        for name, cap in SMALL.caps.items():
            norms = job.params[name].detach().flatten(1).norm(dim=1)
            assert float(norms.max()) <= cap * (1 + 1e-6)

    def test_the_desk_arm_says_what_it_changed(self):
        full, desk = recipe("conv-cifar10"), recipe("conv-cifar10", "desk")
        for big, small in zip(full.network.convolutions, desk.network.convolutions, strict=True):
            assert big.channels == 12 * small.channels
            kept = ("pieces", "kernel", "pad", "pool", "stride", "cap")
            assert all(getattr(big, name) == getattr(small, name) for name in kept)
        first, *others = desk.network.convolutions
        assert (first.init, first.keep, first.scale) == (0.005, 0.8, 1.0)
        assert all(
            (x.init, x.keep, x.scale) == (0.04, 0.8, 1.25) for x in (*others, *desk.network.layers)
        )
        assert {x.rate for x in desk.network.convolutions} == {0.2}
        assert replace(desk.phases[0], epochs=None) == full.phases[0]
        assert desk.batch_size == full.batch_size

    @pytest.mark.parametrize(("even", "batches", "watched"), [(True, 2, 16), (False, 3, 20)])
    def test_what_fills_no_batch_is_left_out_where_the_recipe_says_so(
        self, even, batches, watched, tmp_path
    ):
        """As the original's iterators do: 312 batches of 128 of 40,000 images, 9,984 to check."""
        quick = recipe("conv-cifar10", "quick")
        job = replace(quick, network=SMALL, train=60, valid=20, batch_size=24, even=even)
        parts = {k: made_up() for k in ("train", "test")}
        model = SMALL.build(0)
        task = task_for(job.network, job, parts)
        order = torch.Generator().manual_seed(0)
        assert len(list(task.epoch(model, 0, order))) == batches
        eight = task_for(job.network, replace(job, batch_size=8), parts)
        images, labels = (part[60 : 60 + watched] for part in parts["train"])
        with torch.no_grad():
            wanted = float(F.cross_entropy(model.eval()(images), labels))
        assert eight.monitor(model, "valid", 0, 0)["loss"] == pytest.approx(wanted)
        assert recipe("conv-cifar10").even


def made_up():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(80, 2 * 7 * 7, generator=generator), torch.arange(80) % 10


def bump(rise: float, fall: float, **data) -> ravine.Objective:
    """J(w) = mean over x of 2 + x (rise w − fall w²).

    Highest at rise/2fall, back at the start's level at rise/fall.
    """
    x = torch.tensor([0.5, 1.0, 1.5, 1.0], dtype=torch.float64)
    return of_w(lambda w, x: 2 + x * (rise * w[0] - fall * w[0] ** 2), x, size=1, **data)


def near(J):
    line = ravine.Line(point(0.0), point(1.0))
    return ravine.resolve(J, along=line, interval=(0.0, WINDOW), tolerance=1e-5)


class TestBarrier:
    def test_height_and_width_are_the_closed_form(self):
        found = barrier(near(bump(0.06, 1.0)), split="data")
        assert found.rise.height.value == pytest.approx(0.06**2 / 4, rel=1e-9)
        assert found.rise.height.at == pytest.approx(0.03, abs=1e-9)
        assert found.rise.foot == 0
        # read from a dense grid by straight pieces
        assert found.end == pytest.approx(0.06, abs=2e-5)
        of_the_mean = np.std([0.5, 1.0, 1.5, 1.0], ddof=1) / 2
        assert found.rise.height.stderr == pytest.approx(0.0009 * of_the_mean, rel=0.05)

    def test_four_examples_say_nothing_of_others(self):
        found = barrier(near(bump(0.06, 1.0)), split="data")
        assert (found.found.answer, found.here.answer) == ("undecided", "shown")
        assert "for others drawn like them a rise is undecided" in str(found)
        on_these = "J rises by 0.0009 nats on these examples, highest at α = 0.03, and is back from"
        assert str(found).startswith(f"{on_these} α = 0.06 on")

    def test_many_examples_show_it(self):
        x = torch.linspace(0.5, 1.5, 400, dtype=torch.float64)
        J = of_w(lambda w, x: 2 + x * (0.06 * w[0] - w[0] ** 2), x, size=1)
        found = barrier(near(J), split="data")
        assert found.found.answer == "shown"
        assert found.found.lower < 0.06**2 / 4 < found.found.upper
        assert "for others drawn like them a rise is shown (95 % bounds [0.000" in str(found)

    def test_the_standard_error_is_of_the_difference(self):
        """By example the height is x · rise²/4fall, and 2 cancels: its error is the mean x's."""
        x = torch.linspace(0, 2, 401, dtype=torch.float64)
        J = of_w(lambda w, x: 2 + 5 * torch.sin(7 * x) + x * (0.06 * w[0] - w[0] ** 2), x, size=1)
        found = barrier(near(J), split="data")
        height = 0.06**2 / 4
        # from 64 halves
        assert found.rise.height.stderr == pytest.approx(
            height * float(x.std()) / 401**0.5, rel=0.3
        )

    def test_no_barrier(self):
        x = torch.linspace(0.5, 1.5, 400, dtype=torch.float64)
        J = of_w(lambda w, x: 2 - x * (0.06 * w[0] + w[0] ** 2), x, size=1)
        found = barrier(near(J), split="data")
        assert found.found.answer == "excluded"
        assert np.isnan(found.end)
        assert str(found).startswith("J does not rise by more than 5.2e-05 nats on these examples")

    def test_a_barrier_that_does_not_end_nearby(self):
        found = barrier(near(bump(0.6, 1.0)), split="data")
        assert isinstance(found, Barrier)
        assert found.rise.height.at == pytest.approx(WINDOW)
        assert np.isnan(found.end)
        assert "is not back" in str(found)

    @pytest.mark.parametrize(
        ("value", "places"),
        [
            ([3, 2, 1, 0], []),
            ([0, 1, 2, 3], []),  # climbed, never descended from
            ([1, 2, 1, 0], [1]),
            ([1, 2, 1.95, 2.5, 0, 1, 0], [3, 5]),  # a dip of less than 0.1 is none
            ([0, 0.05, 0], []),
        ],
    )
    def test_tops(self, value, places):
        assert tops(np.arange(len(value)), np.array(value, float), 0.1) == places


def test_a_balanced_set_is_stratified_by_class():
    study_of = recipe("conv-cifar10", "desk")
    small = replace(study_of, train=40, valid=20, data="made up")
    labels = torch.arange(80) % 10
    images = torch.zeros(80, 3, 32, 32)
    for of, strata in ((labels, class_of), (labels.clamp(max=8), None)):
        task = task_for(small.network, small, {"train": (images, of), "test": (images, of)})
        assert task.objective(("train",)).grouping.strata is strata


@pytest.mark.long
def test_figure_6_and_its_claims(tmp_path):
    study = Study("quick", tmp_path)
    outcome = FIGURES["fig6"](study)
    assert set(outcome.results) == {"whole", "coarse", "near", "near, masks", "output biases"}
    biases = outcome.results["output biases"]
    run = outcome.runs[0]
    (last,) = (tensor for name, tensor in load_file(run.solution).items() if name == "layer4.bias")
    labels = study.task(run).trained_on[0][1]
    logits = 0.2 * last.double().expand(len(labels), -1)
    alone = float(biases["loss"].sel(split="train", alpha=0.2, method="nearest"))
    assert alone == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-9)
    assert biases.attrs["variance"] == pytest.approx(float(last.double().var(correction=0)))
    assert outcome.results["near"].attrs["resolved"] == 1
    assert outcome.runs[0].test_errors[0] < 0.3 * 360
    assert "This is a toy" in outcome.figure.caption
    found = {claim.name: claim.judged(outcome) for claim in CLAIMS if claim.figure == "fig6"}
    assert len(found) == 6
    assert {one.status for one in found.values()} == {"not run"}  # a toy decides nothing
    plain = barrier(outcome.results["near"])
    there = {"shown": "holds", "excluded": "does not hold", "undecided": "undecided"}
    assert found["conv-a-barrier"].arm == there[plain.found.answer]
    about_it = ("conv-a-single-barrier", "conv-near-the-start", "conv-wide", "conv-not-tall")
    if plain.found.answer == "excluded":
        assert {found[name].arm for name in about_it} == {None}
        assert found["conv-wide"].about == "there is no barrier"
    again = FIGURES["fig6"](Study("quick", tmp_path, fresh=False))
    assert again.figure.caption == outcome.figure.caption
    with pytest.raises(NotThere):
        FIGURES["fig6"](Study("quick", tmp_path / "elsewhere", fresh=False))
