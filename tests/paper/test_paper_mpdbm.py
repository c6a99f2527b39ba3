"""The MP-DBM: equations, objective, training, figure, by closed forms and second routes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

import ravine
from ravine.paper import claims, data
from ravine.paper.figures import FIGURES, Study
from ravine.paper.figures.mpdbm_measures import CUT, RAW, WIDE, projected_start
from ravine.paper.figures.mpdbm_plane import detour
from ravine.paper.figures.second_minima import Anomaly, anomalies, closest_approach, said
from ravine.paper.models import MPDBM_MNIST
from ravine.paper.models.mpdbm import Boltzmann
from ravine.paper.recipes import recipe
from ravine.paper.tasks.by_network import task_for
from ravine.paper.tasks.prediction import alone, in_parts, per_example, prediction_costs
from ravine.paper.training import Training, train
from ravine.plot import Markers

TINY = replace(
    MPDBM_MNIST, inputs=12, hidden=(7, 9), classes=3, incoming=(4, 5), init=0.3, passes=5
)


def made(sizes=TINY, seed: int = 0):
    """A machine in float64 with nothing at 0."""
    model = sizes.build(seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return model


def asked(sizes=TINY, examples: int = 6, share: float = 0.5):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(examples, sizes.inputs, generator=generator, dtype=torch.float64)
    labels = torch.arange(examples) % sizes.classes
    dropped = torch.rand(examples, sizes.inputs, generator=generator) < share
    return images, labels, dropped, torch.arange(examples) % 2 == 0


def by_hand(model, images, labels, dropped, unlabelled, prior):
    """The equations one by one, from inference_procedure.py and costs/dbm.py; (below, above).

    ``prior`` is the bias of the pixels' first guess, through which no gradient goes.
    """
    p = {name: tensor for name, tensor in model.items()}
    W1, W2, U = p["W1"].T, p["W2"].T, p["U"].T  # noqa: N806  the paper's
    sigmoid = lambda x: 1 / (1 + torch.exp(-x))  # noqa: E731
    softmax = lambda x: torch.exp(x) / torch.exp(x).sum(1, keepdim=True)  # noqa: E731
    m, m_y = dropped.double(), unlabelled.double()[:, None]
    one_hot = torch.eye(len(p["b_y"]), dtype=torch.float64)[labels]
    v = m * sigmoid(prior) + (1 - m) * images
    h1 = sigmoid(2 * v @ W1 + p["b1"])
    guess = softmax(p["b_y"].expand_as(one_hot))
    y = m_y * guess + (1 - m_y) * one_hot
    h2 = sigmoid(h1 @ W2 + p["b2"] + y @ U.T)
    z = p["b_v"].expand_as(images)
    for _ in range(TINY.passes - 1):
        h1 = sigmoid(v @ W1 + p["b1"] + h2 @ W2.T)
        guess = softmax(h2 @ U + p["b_y"])
        y = m_y * guess + (1 - m_y) * one_hot
        z = h1 @ W1.T + p["b_v"]
        v = m * sigmoid(z) + (1 - m) * images
        h2 = sigmoid(h1 @ W2 + p["b2"] + y @ U.T)
    cost = m * (images * torch.log1p(torch.exp(-z)) + (1 - images) * torch.log1p(torch.exp(z)))
    named = -torch.log(guess[torch.arange(len(labels)), labels])
    return cost.sum() / images.numel() + (m_y[:, 0] * named).sum() / images.numel()


def mean_cost(model, *batch):
    return sum(prediction_costs(model, *batch)).mean()


class TestMachine:
    def test_sizes_are_those_of_the_published_machines(self):
        with torch.device("meta"):
            sizes = [MPDBM_MNIST, replace(MPDBM_MNIST, hidden=(500, 1000))]
            assert [sum(p.numel() for p in Boltzmann(one).parameters()) for one in sizes] == [
                8_352_689,
                904_294,
            ]

    def test_the_start_is_sparse_and_large(self):
        model = MPDBM_MNIST.build(0)
        assert bool(((model.W1 != 0).sum(1) == 15).all())
        assert bool(((model.U != 0).sum(1) == 23).all())
        # each pixel feeds 2087 · 15/784 units, ± binomial spread
        placed = (model.W1 != 0).sum(0).double()
        assert float(placed.mean()) == pytest.approx(2087 * 15 / 784)
        assert float(placed.std()) == pytest.approx(
            math.sqrt(2087 * 15 / 784 * (1 - 15 / 784)), rel=0.15
        )
        chi = math.sqrt(2) * math.gamma(8) / math.gamma(7.5)  # mean norm of 15 normal numbers
        assert float(model.W1.detach().norm(dim=1).mean()) == pytest.approx(chi, rel=0.02)
        assert float(model.W2.detach().abs().max()) <= MPDBM_MNIST.init * (1 + 1e-6)

    def test_the_objective_is_the_equations(self):
        model, batch = made(), asked()
        theirs = by_hand(dict(model.named_parameters()), *batch, prior=model.b_v)
        torch.testing.assert_close(mean_cost(model, *batch), theirs, rtol=1e-12, atol=0)

    def test_the_gradient_is_that_of_the_equations_with_the_first_guess_held(self):
        model, batch = made(), asked()
        names, tensors = zip(*model.named_parameters(), strict=True)
        held = model.b_v.detach().clone()

        def cost(*values):
            return by_hand(dict(zip(names, values, strict=True)), *batch, prior=held)

        fresh = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)
        assert torch.autograd.gradcheck(cost, fresh)
        ours = torch.autograd.grad(mean_cost(model, *batch), tensors)
        for name, one, other in zip(
            names, ours, torch.autograd.grad(cost(*fresh), fresh), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14, msg=name)

    def test_gradcheck_of_the_module_itself(self):
        """Every parameter but the pixels' biases, whose first use is no part of the gradient."""
        model, batch = made(), asked()
        names = [name for name, _ in model.named_parameters() if name != "b_v"]

        class Costs(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.machine = model

            def forward(self):
                return mean_cost(self.machine, *batch)

        whole = Costs()

        def total(*values):
            return torch.func.functional_call(
                whole,
                {f"machine.{name}": value for name, value in zip(names, values, strict=True)},
                (),
            )

        params = dict(model.named_parameters())
        assert torch.autograd.gradcheck(
            total, tuple(params[name].detach().clone().requires_grad_() for name in names)
        )

    def test_nothing_dropped_costs_nothing(self):
        images, labels, dropped, unlabelled = asked()
        pixels, label = prediction_costs(
            made(), images, labels, dropped & False, unlabelled & False
        )
        assert not pixels.any()
        assert not label.any()

    def test_without_connections_every_pixel_is_its_bias(self):
        model, (images, labels, dropped, unlabelled) = made(), asked()
        with torch.no_grad():
            for matrix in (model.W1, model.W2, model.U):
                matrix.zero_()
        for passes in (1, 2, 9):
            model.passes = passes
            pixels, classes = model.fill_in(images, labels, dropped, unlabelled)
            torch.testing.assert_close(pixels, model.b_v.expand_as(pixels))
            torch.testing.assert_close(classes, model.b_y.expand_as(classes))

    def test_a_machine_with_one_layer_is_an_rbm(self):
        """Two passes: doubled from the first guess no longer matters, since h2 tells h1 nothing."""
        model, (images, labels, dropped, unlabelled) = made(), asked()
        with torch.no_grad():
            model.W2.zero_()
            model.U.zero_()
        model.passes = 2
        mask = dropped.double()
        v = mask * model.b_v.sigmoid() + (1 - mask) * images
        h1 = torch.sigmoid(v @ model.W1.T + model.b1)
        pixels, _ = model.fill_in(images, labels, dropped, unlabelled)
        torch.testing.assert_close(pixels, h1 @ model.W1 + model.b_v)

    def test_examples_do_not_see_each_other(self):
        model, batch = made(), asked()
        together = sum(prediction_costs(model, *batch))
        alone = [
            sum(prediction_costs(model, *(part[i : i + 1] for part in batch))) for i in range(6)
        ]
        torch.testing.assert_close(together, torch.cat(alone))

    @pytest.mark.parametrize("averaged", [False, True])
    def test_classification_is_mean_field(self, averaged):
        model, (images, *_) = made(), asked()
        W1, W2, U = model.W1.T, model.W2.T, model.U.T  # noqa: N806  the paper's
        v = 0.5 * images + 0.5 * model.b_v.sigmoid() if averaged else images
        h1 = torch.sigmoid(2 * v @ W1 + model.b1)
        h2 = torch.sigmoid(2 * h1 @ W2 + model.b2)
        z = h2 @ U + model.b_y
        for _ in range(TINY.passes - 1):
            h1 = torch.sigmoid(v @ W1 + model.b1 + h2 @ W2.T)
            z = h2 @ U + model.b_y
            v = 0.5 * images + 0.5 * torch.sigmoid(h1 @ W1.T + model.b_v) if averaged else images
            h2 = torch.sigmoid(h1 @ W2 + model.b2 + z.softmax(1) @ U.T)
        torch.testing.assert_close(model.classify(images, averaged=averaged), z)

    def test_mean_field_goes_down_its_own_free_energy(self):
        """At a fixed point of full updates the variational free energy is stationary."""
        sizes = replace(TINY, passes=400)
        model, (images, *_) = made(sizes), asked(sizes)
        with torch.no_grad():
            for matrix in (model.W1, model.W2, model.U):
                matrix.mul_(0.3)  # so that the updates contract
            v = images
            h1, h2 = torch.full((6, 7), 0.5).double(), torch.full((6, 9), 0.5).double()
            y = torch.full((6, 3), 1 / 3).double()
            for _ in range(400):
                h1 = torch.sigmoid(v @ model.W1.T + model.b1 + h2 @ model.W2)
                y = (h2 @ model.U.T + model.b_y).softmax(1)
                h2 = torch.sigmoid(h1 @ model.W2.T + model.b2 + y @ model.U)
        z1, z2, zy = (
            h1.logit().requires_grad_(),
            h2.logit().requires_grad_(),
            y.log().requires_grad_(),
        )
        a, b, c = z1.sigmoid(), z2.sigmoid(), zy.softmax(1)
        energy = -((v @ model.W1.T + model.b1) * a).sum() - ((a @ model.W2.T + model.b2) * b).sum()
        energy = energy - ((b @ model.U.T + model.b_y) * c).sum()
        entropy = (
            sum(-(q * q.log() + (1 - q) * (1 - q).log()).sum() for q in (a, b))
            - (c * c.log()).sum()
        )
        for slope in torch.autograd.grad(energy - entropy, (z1, z2, zy)):
            assert float(slope.abs().max()) < 1e-9
        torch.testing.assert_close(model.classify(images).softmax(1), y)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def short(epochs: int = 2):
    quick = recipe("mpdbm-mnist", "quick")
    phase = replace(quick.phases[0], epochs=epochs)
    network = replace(quick.network, hidden=(20, 30), passes=4)
    return replace(quick, train=210, valid=90, network=network, phases=(phase,))


class Killed(Exception):
    pass


class TestTraining:
    def test_one_pass_with_all_dropped_is_the_entropy_of_the_pixels(self, digits, tmp_path):
        """An image as the mean of its binary ones: mean_j H(p_j); ln 10 / pixels for the label."""
        job = Training(short(), digits, tmp_path)
        job.model.passes = 1
        images, labels = job.task.trained_on
        share = images.double().mean(0)
        entropy = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean()
        everything = torch.ones_like(images), torch.ones(len(images))
        pixels, label = prediction_costs(job.model, images, labels, *everything)
        assert float(pixels.double().mean().detach()) == pytest.approx(float(entropy), rel=1e-5)
        assert float(label.double().mean().detach()) == pytest.approx(math.log(10) / 64, rel=1e-6)

    def test_an_epoch_is_the_loop_of_the_original(self, digits, tmp_path):
        """A second route: torch's SGD is v ← mv + g, θ ← θ − rate·v, and columns are then cut."""
        job = Training(short(), digits, tmp_path)
        mirror = job.recipe.network.build(0)
        mirror.load_state_dict(job.model.state_dict())
        rate, momentum = job.phase.rate.at(0, 1), job.phase.momentum.at(1)
        assert momentum == 0.5
        optimiser = torch.optim.SGD(mirror.parameters(), rate, momentum)
        masks = job.masks.clone()
        order = torch.Generator()
        order.set_state(job.order.get_state())
        job.epoch()
        images, labels = job.task.trained_on
        with torch.random.fork_rng():
            torch.set_rng_state(masks)
            for some in torch.randperm(210, generator=order).split(20):
                binary = torch.bernoulli(images[some])
                dropped, unlabelled = torch.rand(len(some), 64) < 0.5, torch.rand(len(some)) < 0.5
                optimiser.zero_grad()
                mean_cost(mirror, binary, labels[some], dropped, unlabelled).backward()
                optimiser.step()
                with torch.no_grad():
                    for matrix, cap in zip(
                        (mirror.W1, mirror.W2, mirror.U), MPDBM_MNIST.caps, strict=True
                    ):
                        matrix *= (cap / matrix.norm(dim=1, keepdim=True)).clamp(max=1)
        assert job.state.update == 11
        for (name, ours), theirs in zip(
            job.model.named_parameters(), mirror.parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)

    @pytest.mark.parametrize("after", [1, 2])
    def test_killed_and_resumed_gives_the_same_bits(self, after, tmp_path):
        whole = train(short(), tmp_path / "whole")
        lines = itertools.count(1)

        def say(_):
            if next(lines) == after:
                raise Killed

        with pytest.raises(Killed):
            train(short(), tmp_path / "cut", say=say)
        resumed = train(short(), tmp_path / "cut")
        ours, theirs = load_file(resumed.solution), load_file(whole.solution)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert resumed.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))

    def test_ravine_measures_what_the_trainer_saw(self, digits, tmp_path):
        run = train(short(), tmp_path)
        task = task_for(run.recipe.network, run.recipe, digits)
        J = task.objective(["train", "valid"])
        curve = ravine.evaluate(J, along=ravine.Line(run.start, run.solution), at=[0.0, 1.0])
        seen = run.history.swap_dims(record="step").sel(step=[0, run.best_step])
        for name in ("loss", "error"):
            np.testing.assert_allclose(
                curve[name].transpose("alpha", "split"), seen[name], rtol=1e-5, atol=1e-12
            )
        np.testing.assert_allclose(curve["loss"], curve["pixels"] + curve["label"], rtol=1e-6)
        assert curve["loss"].attrs["units"] == "nats per pixel"
        again = ravine.evaluate(J, along=ravine.Line(run.start, run.solution), at=[0.0, 1.0])
        assert np.array_equal(again["loss"], curve["loss"])  # masks stay

    def test_more_draws_hold_the_first_and_lie_near(self, digits, tmp_path):
        task = Training(short(), digits, tmp_path).task
        one, other = task.drawn("train", 0), task.drawn("train", 1)
        assert not torch.equal(one[2], other[2])
        assert 0.45 < float(one[2].double().mean()) < 0.55
        # validation images stay grey
        assert torch.equal(task.drawn("valid", 0)[0], task.watched["valid"][0])
        assert set(one[0].unique().tolist()) == {0.0, 1.0}
        start = task.network.build(0)
        task.start(start)
        few = task.measured(["train"], examples=30, costs=alone)(start)["train"]
        with torch.no_grad():
            assert few == pytest.approx(
                float(per_example(start, one)["loss"][:30].double().mean()), rel=1e-5
            )
        several = task.measured(["train"], draws=2)(start)["train"]
        with torch.no_grad():
            means = [
                float(per_example(start, task.drawn("train", k))["loss"].double().mean())
                for k in (0, 1)
            ]
        assert several == pytest.approx(sum(means) / 2, rel=1e-6)

    def test_the_first_pass_is_doubled_by_default(self, digits, tmp_path):
        task = Training(short(), digits, tmp_path).task
        start = task.network.build(0)
        task.start(start)
        assert task.measured(["train"])(start) == task.objective(["train"])(start)
        assert task.measured(["train"], costs=alone)(start) == task.measured(
            ["train"], costs=in_parts
        )(start)
        assert task.measured(["train"], doubled=False)(start) != task.objective(["train"])(start)

    def test_masks_of_each_point_are_refused(self, digits, tmp_path):
        task = Training(short(), digits, tmp_path).task
        with pytest.raises(ravine.InputError, match="masks are the same at every point"):
            task.objective(["train"], dropout="resample")

    def test_too_few_examples_are_refused(self, digits, tmp_path):
        with pytest.raises(
            ravine.InputError, match=r"takes 9999 \+ 90 examples of digits; got 1437"
        ):
            Training(replace(short(), train=9_999), digits, tmp_path)

    @pytest.mark.long
    def test_it_learns(self, digits, tmp_path):
        run = train(recipe("mpdbm-mnist", "quick"), tmp_path)
        history = run.history
        images, _ = digits["train"]
        share = images[:1200].double().mean(0)
        guess = 0.5 * float(-(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)).mean())
        last = history["loss"].sel(split="valid").values[-1]
        assert last < 0.95 * (guess + 0.5 * math.log(10) / 64)  # better than marginals
        assert history["error"].sel(split="valid").min() < 0.4
        assert run.test_errors[0] < 0.4 * 360


class TestSearch:
    @staticmethod
    def line(value, alpha):
        values = value(alpha)[:, None]
        return xr.Dataset(
            {
                "loss": (("alpha", "split"), values, {"units": "nats"}),
                "loss_stderr": (("alpha", "split"), 0 * values),
                "loss_noise_floor": (("alpha", "split"), 0 * values),
                "loss_replicates": (
                    ("alpha", "split", "replicate"),
                    np.repeat(values[..., None], 2, axis=2),
                ),
            },
            coords={"alpha": alpha, "split": ["train"]},
            attrs={"schema_version": 1},
        )

    def test_a_second_minimum_is_found_where_it_is(self):
        """(α − 0.3)²(α − 1)² − 0.1 α: two valleys, the higher one near 0.3."""
        alpha = np.linspace(0, 1.2, 1201)
        polynomial = np.poly1d([1, -2.6, 2.29, -0.78, 0.09]) - np.poly1d([0.02, 0])
        curve = self.line(polynomial, alpha)
        roots = sorted(root.real for root in polynomial.deriv().roots)
        found = anomalies({"made": curve}, ("loss",), ("train",))
        assert [one.alpha for one in found] == [pytest.approx(roots[0], abs=1e-3)]
        assert found[0].prominence == pytest.approx(
            polynomial(roots[1]) - polynomial(roots[0]), abs=1e-5
        )

    def test_a_look_at_a_part_of_the_line_is_judged_by_the_whole(self):
        def wave(alpha):
            return 2 - 2 * alpha + 0.2 * np.cos(40 * alpha)  # falls from dip to dip

        whole = self.line(wave, np.linspace(0, 1, 1001))
        near, far = (self.line(wave, np.linspace(*ends, 401)) for ends in ((0, 0.1), (0.9, 1)))
        dips = [np.pi / 40 + np.arcsin(0.25) / 40, np.pi / 40 * 25 + np.arcsin(0.25) / 40]
        found = {
            one.curve: one
            for one in anomalies({"whole": whole, "near": near}, ("loss",), ("train",))
        }
        assert found["near"].alpha == pytest.approx(dips[0], abs=1e-3)
        of_whole = [one for one in anomalies({"whole": whole}, ("loss",)) if one.alpha < 0.1]
        assert found["near"].value == pytest.approx(of_whole[0].value, abs=1e-5)
        assert found["near"].share < of_whole[0].share + 1e-6  # of the whole range
        assert not [
            one for one in anomalies({"whole": whole, "far": far}, ("loss",)) if one.alpha > 0.95
        ]

    def test_a_valley_and_a_slope_have_none(self):
        alpha = np.linspace(0, 1.2, 121)
        assert anomalies({"a": self.line(lambda a: (a - 0.8) ** 2, alpha)}, ("loss",)) == []
        assert anomalies({"a": self.line(lambda a: -a, alpha)}, ("loss",)) == []

    def test_what_j_has_and_what_only_a_part_of_it_has_are_told_apart(self):
        path = ravine.project(
            [{"w": torch.tensor(w)} for w in ([0.0, 0.0], [4.0, 3.0], [10.0, 0.0])]
        )
        label, loss = (
            Anomaly("line", name, "train", alpha, 0.2, 0.1, 0.5)
            for name, alpha in (("label", 0.1), ("loss", 0.5))
        )
        assert said([], path, {}).endswith("J has none.")
        only = said([label], path, {})
        assert (
            "J has none. Of the rest, one of label (train, line) at α = 0.1, 0.2 high and 0.1 deep."
            in only
        )
        both = said([label, loss], path, {})
        assert "J has one of loss (train, line) at α = 0.5" in both
        assert "α = 0.5 than 0.32 of the line's length, after 1 updates" in both  # hypot(1, 3) / 10

    def test_the_way_around_is_told_in_words(self):
        """J = α² + 3β² on a plane of lengths 10 and 4: every number can be read from the points."""
        line = {"w": torch.tensor([0.0, 0.0, 0.0])}, {"w": torch.tensor([10.0, 0.0, 0.0])}
        plane = ravine.Plane(*line, {"w": torch.tensor([0.0, 4.0, 0.0])})
        model = torch.nn.Module()
        model.w = torch.nn.Parameter(torch.zeros(3))
        J = ravine.Objective(
            model,
            lambda model, batch: {
                "loss": (model.w[0] / 10) ** 2 + 3 * (model.w[1] / 4) ** 2 + 0 * batch[0]
            },
            (torch.zeros(4),),
        )
        at = {"alpha": np.linspace(-0.2, 1.2, 15), "beta": np.linspace(-0.2, 1.2, 29)}
        surface = ravine.evaluate(J, along=plane, at=at)
        run = [{"w": torch.tensor(w)} for w in ([0.0, 0.0, 0.0], [5.0, 4.0, 2.0], [10.0, 0.0, 0.0])]
        path = ravine.project(run, onto=plane).assign(loss=("step", np.array([0.0, 0.15, 1.0])))
        found = Anomaly("line", "loss", "train", 0.5, 0.25, 0.1, 0.1)
        told = detour(surface, path, [found])
        assert (
            "strays 0.45 of the line's length from the line, farthest at epoch 1, whose J is 0.15"
            in told
        )
        assert "at the same α the line's is 0.25" in told
        assert (
            "on the line at the same α is -0.1 to -0.1 at the 1 epochs in between, and negative at "
            "1 of them" in told
        )
        assert "up to 0.2 of the line's length off the plane" in told
        assert "J differs from the plane's by 3.1 at most" in told  # 0.25 + 3 − 0.15
        assert (
            "second minimum at α = 0.5; after its start training came no nearer to it than 0.45 of "
            "the line's length" in told
        )
        assert "at epoch 1, and as drawn no nearer than 0.4." in told
        assert "no second minimum" in detour(surface, path, [])

    def test_the_closest_approach(self):
        run = [{"w": torch.tensor(w)} for w in ([0.0, 0.0], [4.0, 3.0], [10.0, 0.0])]
        path = ravine.project(run)
        away, step = closest_approach(path, 0.5)
        assert (away, step) == (pytest.approx(math.hypot(1, 3) / 10), 1)


def test_the_projected_start_is_the_nearest_that_is_allowed(tmp_path):
    run = train(short(), tmp_path)
    nearest, away = projected_start(run)
    start = run.trajectory[0].params
    norms = start["W1"].double().norm(dim=1)
    assert bool((norms > MPDBM_MNIST.caps[0]).any())
    over = [
        (start[name].double().norm(dim=1) - cap).clamp(min=0)
        for name, cap in zip(("W1", "W2", "U"), MPDBM_MNIST.caps, strict=True)
    ]
    assert away == pytest.approx(float(torch.cat(over).norm()), rel=1e-5)
    assert all(torch.equal(nearest[name], start[name]) for name in ("b_v", "b1", "b2", "b_y"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    study = Study("quick", tmp_path_factory.mktemp("fig7"))
    names = ("fig7", "fig7-plane", "fig7-above", "fig7-path")
    return study, {name: FIGURES[name](study) for name in names}


@pytest.mark.long
def test_figure_7_is_drawn_and_its_claims_are_judged(drawn, tmp_path):
    study, outcomes = drawn
    line = outcomes["fig7"]
    wide = {RAW, CUT}
    assert wide | {"line", "several draws", "undoubled", "start", "end"} <= set(line.results)
    assert len(line.figure.panels) == 6
    searched = set(line.results) - wide - {"path"}
    found = anomalies({name: line.results[name] for name in searched})
    for name in (RAW, CUT):
        alpha = line.results[name]["alpha"].values
        assert (alpha.min(), alpha.max()) == pytest.approx(WIDE)
        read = line.results[name]["loss"].sel(split="train").sel(alpha=1, method="nearest")
        assert float(read) == pytest.approx(
            float(line.results["line"]["loss"].sel(split="train").sel(alpha=1, method="nearest")),
            rel=0.2,
        )
    nearest, outside = projected_start(line.runs[0])
    assert line.results["path"].attrs["outside"] == pytest.approx(outside)
    away = [nearest[name].double() - load_file(line.runs[0].solution)[name] for name in nearest]
    length = math.hypot(*(float(torch.linalg.vector_norm(one)) for one in away))
    assert line.results["path"].attrs["cut_length"] == pytest.approx(length, rel=1e-6)
    assert ("J has none" in line.figure.caption) == (
        not [one for one in found if one.quantity == "loss"]
    )
    judged = {claim.name: claim.judged(line) for claim in claims.CLAIMS if claim.figure == "fig7"}
    assert {one.status for one in judged.values()} == {"not run"}  # it is no whole training
    second = judged["mpdbm-second-minimum"]
    around = {"does not hold": "not run", "undecided": "undecided"}
    assert judged["mpdbm-passed-around"].answer == around.get(second.answer, "holds")
    assert judged["mpdbm-large-start"].arm == "holds"
    assert judged["mpdbm-performs"].answer == "not run"
    alone = judged["mpdbm-more-non-convex"]
    assert alone.about == "none of the networks that it is compared with was run"
    again = FIGURES["fig7"](Study("quick", study.out, fresh=False))
    assert again.figure.caption == line.figure.caption
    line.figure.save(tmp_path / "fig7.pdf")


@pytest.mark.long
def test_every_epoch_stands_at_its_own_objective(drawn, tmp_path):
    study, outcomes = drawn
    outcome = outcomes["fig7-plane"]
    path, plane = outcome.results["path"], outcome.results["plane"]
    run = outcome.runs[0]
    seen = run.history["loss"].sel(split="train").values
    np.testing.assert_allclose(path["loss"], seen, rtol=1e-5)
    at = path.swap_dims(step="step")
    np.testing.assert_allclose(at["alpha"].sel(step=[0, run.best_step]), [0, 1], atol=1e-6)
    farthest = ravine.project(run.trajectory, onto=ravine.Line(run.start, run.solution))[
        "residual"
    ].values.argmax()
    assert float(path["beta"][int(farthest)]) == pytest.approx(1, abs=1e-5)
    assert float(path["residual"][int(farthest)]) == pytest.approx(
        0, abs=1e-3 * plane.attrs["length_a"]
    )
    assert abs(plane.attrs["cosine"]) < 1e-5
    assert len(path["step"]) == len(run.history["step"])
    (claim,) = (claim for claim in claims.CLAIMS if claim.figure == "fig7-plane")
    (depth,) = (claim for claim in claims.CLAIMS if claim.name == "mpdbm-second-minimum")
    if depth.judged(outcomes["fig7"]).answer == "does not hold":  # nothing to keep away from
        assert claim.judged(outcome).answer in ("not run", "undecided")
    (panel,) = outcome.figure.panels
    names = [name for layer in panel.layers if isinstance(layer, Markers) for name in layer.names]
    # the corner beside the start is no network that was trained
    assert names == [
        "start",
        "solution",
    ]
    assert str(study.out) not in outcome.figure.caption
    labels = {getattr(layer, "label", "") for layer in panel.layers}
    assert {"straight line", "training path", "distance in height from the plane"} <= labels
    for suffix in ("png", "html"):
        outcome.figure.save(tmp_path / f"fig7-plane.{suffix}")
