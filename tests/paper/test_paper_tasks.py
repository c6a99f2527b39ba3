"""The trainer serves any task: one with an objective, noise, constraint and rates of its own."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import ravine
from killing import killed_until_done
from ravine.paper.recipe import Momentum, PerEpoch, Phase, Recipe
from ravine.paper.tasks.by_network import task_for
from ravine.paper.tasks.task import Task
from ravine.paper.training import train


@dataclass(frozen=True)
class Denoiser:
    """x ← W (x · mask), on embedded digits; no column of W may be longer than its cap."""

    width: int
    keep: float
    cap: float

    @property
    def about(self):
        return f"denoiser {self.width}"

    def build(self, seed):
        model = nn.Linear(self.width, self.width, bias=False)
        with torch.no_grad():
            model.weight.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(seed))
        return model


class Denoising(Task):
    criterion = "loss"
    rate_scales = {"weight": 0.5}

    def __init__(self, network, recipe, parts):
        self.network, self.recipe = network, recipe
        images = parts["train"][0]
        self.parts = {
            "train": images[: recipe.train],
            "valid": images[recipe.train : recipe.train + recipe.valid],
        }

    def epoch(self, model, phase, order):
        images = self.parts["train"]
        last = torch.zeros(self.network.width)  # carried from batch to batch
        for batch in torch.randperm(len(images), generator=order).split(self.recipe.batch_size):
            clean = images[batch]
            noisy = clean * (torch.rand_like(clean) < self.network.keep) + 0.01 * last
            last = model(noisy).detach().mean(0)
            yield F.mse_loss(model(noisy), clean)

    def constrain(self, params):
        params["weight"].renorm_(2, 1, self.network.cap)

    def monitor(self, model, split, phase, seed):
        images = self.parts[split]
        with torch.no_grad():
            loss = float(F.mse_loss(model(images), images))
        return {"objective": loss, "loss": loss, "sharpness": 1 / loss}

    def test(self, model):
        return {"norm": float(model.weight.detach().norm())}

    def objective(self, splits, *, dropout="off", dtype=None):
        return ravine.Objective(
            self.network.build(0),
            ravine.supervised(nn.MSELoss()),
            {split: (self.parts[split], self.parts[split]) for split in splits},
            dtype=dtype,
        )


@task_for.register
def _(network: Denoiser, recipe: Recipe, parts: dict):
    return Denoising(network, recipe, parts)


JOB = Recipe(
    "denoiser",
    "quick",
    "digits",
    train=205,
    valid=60,
    network=Denoiser(64, keep=0.7, cap=0.8),
    batch_size=50,
    phases=(Phase(PerEpoch(0.5, 0.5, 4), Momentum(0.5, 0.5, 1), patience=None, epochs=4),),
)


class Killed(Exception):
    pass


def test_another_task_is_trained_killed_resumed_and_measured(tmp_path):
    whole = train(JOB, tmp_path / "whole")
    lines = []

    def say(line):
        lines.append(line)
        if len(lines) == 2:
            raise Killed

    with pytest.raises(Killed):
        train(JOB, tmp_path / "cut", say=say)
    resumed = train(JOB, tmp_path / "cut")
    ours, theirs = load_file(resumed.solution)["weight"], load_file(whole.solution)["weight"]
    assert torch.equal(ours, theirs)
    assert resumed.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))
    assert lines[1].startswith("phase 1 epoch 2: objective")
    assert "valid loss" in lines[1]
    assert set(whole.history.data_vars) == {"objective", "loss", "sharpness"}
    assert whole.test["norm"] == pytest.approx([float(theirs.norm())])
    assert whole.tested.startswith("norm on the test part ")
    assert float(theirs.norm(dim=0).max()) <= 0.8 * (1 + 1e-6)
    assert whole.history["rate"].values[-1] == 0.25

    from ravine.paper.data import load

    J = task_for(JOB.network, JOB, load("digits")).objective(["valid"])
    curve = ravine.evaluate(J, along=ravine.Line(whole.start, whole.solution), at=[0.0, 1.0])
    seen = whole.history["loss"].sel(split="valid").values
    assert curve["loss"].sel(split="valid").values == pytest.approx(seen[[0, -1]], rel=1e-5)


def test_the_hash_sees_another_architectures_numbers():
    from dataclasses import replace

    other = replace(JOB, network=replace(JOB.network, keep=0.8))
    assert other.hash != JOB.hash


def test_a_network_without_a_task_is_refused():
    with pytest.raises(ravine.InputError, match="no task is registered for a network of type int"):
        task_for(3, JOB, {})


@pytest.mark.kills
def test_a_training_that_is_killed_at_random_moments_gives_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schedule = Phase(PerEpoch(0.5, 0.5, 4), Momentum(0.5, 0.5, 1), patience=None, epochs=60)
    job, drawn = replace(JOB, phases=(schedule,)), random.Random(1)
    began = time.perf_counter()
    whole = train(job, tmp_path / "whole")
    seconds, kills = time.perf_counter() - began, 0
    while kills < int(os.environ.get("RAVINE_KILLS", "10")):
        place = tmp_path / f"cut{kills}"
        # it is done at once, before the loop's variables change
        kills += killed_until_done(lambda: train(job, place) and None, seconds, drawn)  # noqa: B023
        ours = train(job, place)
        assert torch.equal(load_file(ours.solution)["weight"], load_file(whole.solution)["weight"])
        assert ours.history.drop_vars("seconds").identical(whole.history.drop_vars("seconds"))
        assert ours.trajectory.snapshots == whole.trajectory.snapshots
    print(f"training: {kills} kills")  # noqa: T201  with -s: the figures of docs/how-to/resuming.md
