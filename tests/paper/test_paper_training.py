"""The trainer: its steps and schedules against closed forms and the recipes; its memory."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import ravine
from ravine.paper.models import MAXOUT, RELU, SIGMOID, Dropout, Layer, Maxout, Network
from ravine.paper.recipe import Momentum, PerEpoch, PerUpdate, Phase, Recipe
from ravine.paper.recipes import recipe
from ravine.paper.training import Training, train

SMALL = Network(
    64,
    "maxout",
    (
        Layer(8, pieces=3, init=0.3, cap=0.9, keep=0.8, scale=1.0),
        Layer(10, init=0.3, cap=0.7, keep=0.5, scale=2.0),
    ),
)


def small(epochs: int = 4, second: int | None = None, **changes) -> Recipe:
    phases = (
        Phase(PerUpdate(0.1, 1.001, 1e-6), Momentum(0.5, 0.9, 4), patience=100, epochs=epochs),
    )
    if second is not None:
        phases += (
            Phase(
                PerUpdate(0.05, 1.001, 1e-6), Momentum(0.6, 0.6, 1), patience=None, epochs=second
            ),
        )
    # 310 / 50: an uneven last batch
    return replace(Recipe("small", "quick", "digits", 310, 100, SMALL, 50, phases), **changes)


def linear(cap: float = 1e9, keep: float = 1.0) -> Network:
    return Network(64, "relu", (Layer(10, init=0.1, cap=cap, keep=keep, scale=1 / keep),))


def sum_of(job: Training) -> torch.Tensor:
    """J = the sum of all parameters: every slope is 1."""
    return torch.stack([tensor.sum() for tensor in job.params.values()]).sum()


@pytest.fixture(scope="module")
def digits():
    from ravine.paper.data import load

    return load("digits")


class TestSchedules:
    def test_the_rate_per_update_is_a_power(self):
        rate = PerUpdate(0.1, 1.000004, 1e-6)
        assert rate.at(0, 1) == 0.1
        assert rate.at(1, 1) == 0.1 / 1.000004
        # the original's phase 2 starts where its phase 1 was after 243 epochs of 500 updates
        assert rate.at(121_500, 243) == pytest.approx(0.0615082606673, abs=1e-7)
        assert rate.at(10**8, 1) == 1e-6

    def test_the_momentum_is_linear_and_stays(self):
        momentum = Momentum(0.5, 0.7, 250)
        assert [momentum.at(epoch) for epoch in (1, 250, 1000)] == pytest.approx([0.5, 0.7, 0.7])
        assert momentum.at(243) == pytest.approx(0.694376766682, abs=1e-6)  # theirs was a float32

    def test_the_rate_per_epoch_is_linear_and_stays(self):
        rate = PerEpoch(0.097259, 0.022292, 560)
        assert rate.at(0, 1) == pytest.approx(0.097259 * (1 - 0.977708 / 560))
        assert rate.at(0, 560) == rate.at(0, 900) == pytest.approx(0.097259 * 0.022292)


class TestSteps:
    def test_constant_gradient_gives_the_closed_form_of_momentum(self, digits, tmp_path):
        job = Training(small(network=linear()), digits, tmp_path)
        before = {name: tensor.detach().double().clone() for name, tensor in job.params.items()}
        rate, momentum, steps = 0.01, 0.6, 7
        for _ in range(steps):
            job.step(sum_of(job), rate, momentum)
        # v_t = −rate (1 − mᵗ)/(1 − m), θ_n − θ_0 = Σ v_t
        moved = -rate * sum((1 - momentum**t) / (1 - momentum) for t in range(1, steps + 1))
        for name, tensor in job.params.items():
            torch.testing.assert_close(
                tensor.detach().double(), before[name] + moved, atol=1e-6, rtol=0
            )

    @pytest.mark.parametrize("clip", [2.0, 1e3])
    def test_a_gradient_longer_than_the_clip_is_shortened_to_it(self, clip, digits, tmp_path):
        phase = replace(small().phases[0], clip=clip)
        job = Training(small(network=linear(), phases=(phase,)), digits, tmp_path)
        before = {name: tensor.detach().double().clone() for name, tensor in job.params.items()}
        job.step(sum_of(job), 0.5, 0.0)
        norm = math.sqrt(650)  # of 64 · 10 + 10 ones
        for name, tensor in job.params.items():
            expected = before[name] - 0.5 * min(1, clip / norm)
            torch.testing.assert_close(tensor.detach().double(), expected, atol=1e-6, rtol=0)

    def test_a_parameters_rate_is_scaled_by_its_factor(self, digits, tmp_path):
        job = Training(small(network=linear()), digits, tmp_path)
        job.task.rate_scales = {"layer0.bias": 0.05}
        before = {name: tensor.detach().double().clone() for name, tensor in job.params.items()}
        for _ in range(3):
            job.step(sum_of(job), 0.1, 0.0)
        moved = {
            name: tensor.detach().double() - before[name] for name, tensor in job.params.items()
        }
        for name, expected in (("layer0.weight", -0.3), ("layer0.bias", -0.015)):
            torch.testing.assert_close(
                moved[name], torch.full_like(moved[name], expected), atol=1e-6, rtol=0
            )

    def test_a_kernels_norm_is_over_all_but_its_first_axis(self, digits, tmp_path):
        task = Training(small(network=linear(cap=2.0)), digits, tmp_path).task
        kernels = torch.ones(3, 2, 4, 4).to(memory_format=torch.channels_last)  # each of norm √32
        kernels[1] *= 0.1
        task.constrain({"layer0.weight": kernels})
        norms = kernels.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.tensor([2.0, 0.1 * math.sqrt(32), 2.0]))

    def test_an_epoch_is_torchs_own_sgd_where_nothing_else_is_asked(self, digits, tmp_path):
        """torch's SGD with a constant rate is the same iteration: v' = −rate · buffer."""
        phase = Phase(PerEpoch(0.05, 1.0, 1), Momentum(0.6, 0.6, 1), patience=5, epochs=1)
        job = Training(small(network=linear(), phases=(phase,)), digits, tmp_path)
        mirror = job.recipe.network.build(job.recipe.seed)
        sgd = torch.optim.SGD(mirror.parameters(), lr=0.05, momentum=0.6)
        inputs, labels = digits["train"]
        order = torch.Generator().set_state(job.order.get_state())
        job.epoch()
        for batch in torch.randperm(310, generator=order).split(50):
            sgd.zero_grad()
            F.cross_entropy(mirror(inputs[batch]), labels[batch]).backward()
            sgd.step()
        for ours, theirs in zip(job.model.parameters(), mirror.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert job.state.update == 7

    def test_caps_are_never_exceeded_and_reached(self, digits, tmp_path):
        job = Training(small(), digits, tmp_path)
        reached = False
        for number in range(40):
            batch = torch.arange(number * 10, number * 10 + 50) % 310
            job.model.train()
            job.step(
                F.cross_entropy(job.model(digits["train"][0][batch]), digits["train"][1][batch]),
                0.5,
                0.5,
            )
            for name, cap in SMALL.caps.items():
                norms = torch.linalg.vector_norm(job.params[name].detach().double(), dim=1)
                assert float(norms.max()) <= cap * (1 + 1e-6)
                reached |= float(norms.max()) > cap * (1 - 1e-6)
        assert reached

    def test_a_row_within_its_cap_keeps_its_bits(self, digits, tmp_path):
        job = Training(small(network=linear(cap=2.0)), digits, tmp_path)
        with torch.no_grad():
            job.params["layer0.weight"][0] *= 100
        before = job.params["layer0.weight"].detach().clone()
        job.step(sum_of(job), 0.0, 0.0)
        after = job.params["layer0.weight"].detach()
        assert torch.equal(after[1:], before[1:])
        assert float(after[0].norm()) == pytest.approx(2.0)


class TestNetworks:
    def test_sizes_are_the_papers(self):
        sizes = {name: sum(p.numel() for p in net.build(0).parameters()) for name, net in
                 {"maxout": MAXOUT, "relu": RELU, "sigmoid": SIGMOID}.items()}  # fmt: skip
        assert sizes == {"maxout": 1_233_610, "relu": 2_097_528, "sigmoid": 2_097_528}

    @pytest.mark.parametrize("network", [RELU, SIGMOID], ids=["relu", "sigmoid"])
    @pytest.mark.parametrize("training", [False, True])
    def test_a_zero_last_layer_makes_the_start_ln_10_exactly(self, network, training):
        model = network.build(0).train(training)
        inputs, labels = torch.rand(32, 784), torch.arange(32) % 10
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = F.cross_entropy(model(inputs).detach().double(), labels)
        assert float(loss) == pytest.approx(math.log(10), abs=1e-14)

    def test_maxout_starts_near_ln_10(self):
        model = MAXOUT.build(0).eval()
        inputs, labels = torch.rand(32, 784), torch.arange(32) % 10
        loss = F.cross_entropy(model(inputs).detach(), labels)
        assert float(loss) == pytest.approx(math.log(10), abs=1e-4)

    def test_initial_parameters_fill_their_interval(self):
        for layer, linear in zip(
            MAXOUT.layers, [m for m in MAXOUT.build(3) if hasattr(m, "weight")], strict=True
        ):
            weight = linear.weight.detach()
            assert float(weight.abs().max()) <= layer.init
            assert float(weight.std()) == pytest.approx(layer.init / math.sqrt(3), rel=0.03)
            assert not linear.bias.detach().any()

    def test_dropout_keeps_its_share_times_its_scale(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ones = torch.ones(1000, 1000)
            for keep, scale in ((0.8, 1.0), (0.8, 1.25), (0.5, 2.0)):
                layer = Dropout(keep, scale)
                out = layer(ones)
                assert set(out.unique().tolist()) == {0.0, scale}
                # five standard errors of a mean of 10⁶ Bernoulli draws
                assert float(out.mean()) == pytest.approx(
                    keep * scale, abs=5 * scale * math.sqrt(keep * (1 - keep) / 1e6)
                )
                assert layer.eval()(ones) is ones

    def test_dropout_stands_where_the_recipe_says(self):
        stands = {
            name: [(m.keep, m.scale) for m in network.build(0) if isinstance(m, Dropout)]
            for name, network in (("maxout", MAXOUT), ("relu", RELU))
        }
        hidden = [(0.5, 2.0), (0.5, 2.0)]
        assert stands == {"maxout": [(0.8, 1.0), *hidden], "relu": [(0.8, 1.25), *hidden]}
        assert not any(isinstance(m, Dropout) for m in recipe("relu-plain-mnist").network.build(0))

    def test_maxout_takes_the_largest_piece(self):
        inputs = torch.arange(24.0).reshape(2, 12).flip(1)
        assert torch.equal(Maxout(3)(inputs), inputs.reshape(2, 3, 4).max(1).values)


class Killed(Exception):
    pass


def killer(after: int):
    """Raises in the middle of the work that follows so many epochs."""
    lines = []

    def say(line):
        lines.append(line)
        if len(lines) == after:
            raise Killed

    return say


class TestMemory:
    @pytest.mark.parametrize("after", [1, 3, 5, 6])
    def test_killed_and_resumed_gives_the_same_bits(self, after, tmp_path):
        job = small(epochs=4, second=3)
        whole = train(job, tmp_path / "whole")
        with pytest.raises(Killed):
            train(job, tmp_path / "cut", say=killer(after))
        resumed = train(job, tmp_path / "cut")
        for file in ("solution", "final"):
            ours, theirs = (
                load_file(resumed.folder / f"{file}.safetensors"),
                load_file(whole.folder / f"{file}.safetensors"),
            )
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert resumed.trajectory.steps == whole.trajectory.steps == (0, 7, 14, 21, 28)
        assert [s.hash for s in resumed.trajectory.snapshots] == [
            s.hash for s in whole.trajectory.snapshots
        ]
        again = resumed.history.drop_vars("seconds")
        assert again.identical(whole.history.drop_vars("seconds"))

    def test_done_work_is_not_done_again(self, tmp_path):
        train(small(epochs=1), tmp_path)
        lines = []
        train(small(epochs=1), tmp_path, say=lines.append)
        assert lines == []

    def test_the_solution_is_the_best_epochs_snapshot(self, tmp_path):
        run = train(small(epochs=6), tmp_path)
        errors = run.history["error"].sel(split="valid").values
        best = int(np.argmin(errors))
        assert run.history.attrs["best_step"] == best * 7
        solution, snapshot = load_file(run.solution), run.trajectory.at(step=best * 7)
        assert all(torch.equal(solution[name], snapshot[name]) for name in solution)

    def test_without_patience_the_last_epoch_is_the_solution(self, tmp_path):
        # uphill
        phase = Phase(PerUpdate(-0.1, 1.0, -1.0), Momentum(0.0, 0.0, 1), patience=None, epochs=3)
        run = train(small(network=linear(), phases=(phase,)), tmp_path)
        errors = run.history["error"].sel(split="valid").values
        assert errors[-1] > errors.min()
        assert run.trajectory.steps == (0, 7, 14, 21)
        assert run.best_step == 21
        solution, last = load_file(run.solution), run.trajectory[-1].tensors
        assert all(torch.equal(solution[name], last[name]) for name in solution)

    def test_a_first_phase_without_an_end_is_refused(self):
        with pytest.raises(ravine.InputError, match="phase 1 of small has no end"):
            small(phases=(Phase(PerUpdate(0.1, 1, 0), Momentum(0.5, 0.5, 1), patience=None),))

    def test_a_state_of_the_time_before_tasks_is_gone_on_with(self, tmp_path):
        """Such a file also tells the best epoch, and counts test errors without their name."""
        job = small(epochs=2, second=2)
        whole = train(job, tmp_path / "whole")
        with pytest.raises(Killed):
            train(job, tmp_path / "cut", say=killer(4))  # in phase 2
        state = tmp_path / "cut" / job.folder / "state.safetensors"
        with safe_open(state, "pt") as held:
            kept = json.loads(held.metadata()["state"])
        kept["test_errors"] = [test["errors"] for test in kept.pop("tests")]
        kept |= {"best_epoch": 1, "best_error": 0.5, "best_objective": 1.0}
        save_file(load_file(state), state, {"state": json.dumps(kept)})
        resumed = train(job, tmp_path / "cut")
        assert resumed.test_errors == whole.test_errors
        assert len(resumed.test_errors) == 2
        assert resumed.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))

    def test_patience_counts_from_the_last_strict_improvement(self, tmp_path):
        phase = Phase(PerUpdate(0.0, 1.0, 0.0), Momentum(0.5, 0.5, 1), patience=3)
        # nothing moves, so nothing improves on epoch 0
        run = train(small(network=linear(), phases=(phase,)), tmp_path)
        assert run.trajectory.steps == (0, 7, 14, 21)
        assert run.history.attrs["best_step"] == 0

    def test_phase_2_ends_when_the_validation_objective_matches(self, tmp_path):
        run = train(small(epochs=4, second=30), tmp_path)
        history = run.history
        first, second = (
            history.where(history.phase == 1, drop=True),
            history.where(history.phase == 2, drop=True),
        )
        best = int(np.argmin(first["error"].sel(split="valid").values))
        target = float(first["objective"].sel(split="train")[best])
        reached = second["objective"].sel(split="valid").values
        assert (reached[:-1] > target).all()
        assert reached[-1] <= target or len(reached) == 31
        assert len(history.attrs["test_errors"]) == 2

    def test_watching_does_not_change_what_is_watched(self, digits, tmp_path):
        watched, unwatched = (Training(small(), digits, tmp_path / name) for name in "ab")
        for _ in range(2):
            watched.epoch()
            watched._note(0.0)
            unwatched.epoch()
        for one, other in zip(
            watched.model.parameters(), unwatched.model.parameters(), strict=True
        ):
            assert torch.equal(one, other)

    def test_the_callers_random_stream_is_left_alone(self, tmp_path):
        before = torch.get_rng_state()
        train(small(epochs=1), tmp_path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_another_recipes_folder_is_refused(self, tmp_path):
        one, other = small(epochs=1), small(epochs=1, seed=1)
        run = train(one, tmp_path)
        run.folder.rename(tmp_path / other.folder)
        with pytest.raises(ravine.InputError, match="another recipe"):
            train(other, tmp_path)

    def test_a_damaged_state_is_refused(self, tmp_path):
        job = small()
        with pytest.raises(Killed):
            train(job, tmp_path, say=killer(1))
        state = tmp_path / job.folder / "state.safetensors"
        with pytest.raises(Killed):
            train(job, tmp_path, say=killer(2))
        state.write_bytes(state.read_bytes()[:-100])
        with pytest.raises(ravine.InputError, match="damaged"):
            train(job, tmp_path)

    def test_too_few_examples_are_refused(self, tmp_path):
        with pytest.raises(
            ravine.InputError, match=r"takes 1400 \+ 100 examples of digits; got 1437"
        ):
            train(small(train=1400), tmp_path)

    def test_the_recipe_is_kept_beside_its_outcome(self, tmp_path):
        run = train(small(epochs=1), tmp_path)
        assert json.loads((run.folder / "recipe.json").read_text())["name"] == "small"
        assert isinstance(run.folder, Path)
