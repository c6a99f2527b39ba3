"""Trainings that leave another one, and the sentences that take them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

import ravine
from ravine.metrics import Profile
from ravine.paper import recipes
from ravine.paper.claims import obstacles
from ravine.paper.claims.found import Found, least
from ravine.paper.claims.further_trainings import change, difference, overfits
from ravine.paper.committed import small as made_small
from ravine.paper.figures import FIGURES, Study
from ravine.paper.figures.branches import INITIAL, PARTED, RAISED
from ravine.paper.figures.study import is_whole
from ravine.paper.recipe import Later, PerEpoch, PerUpdate
from ravine.paper.recipes import branch, recipe
from ravine.paper.training import train


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """Three epochs of the maxout network on digits, and the root that it lies in."""
    job = recipe("maxout-trunk-mnist", "quick")
    job = replace(job, phases=(replace(job.phases[0], epochs=3),))
    out = tmp_path_factory.mktemp("out")
    return SimpleNamespace(run=train(job, out), out=out)


class TestBranches:
    def test_it_starts_at_the_trunks_snapshot_and_goes_its_own_way(self, trunk):
        one, two = (
            train(branch(trunk.run.recipe, 50, seed=seed, epochs=1), trunk.out) for seed in (1, 2)
        )
        left = trunk.run.trajectory.at(step=50)
        for child in (one, two):
            start = load_file(child.start)
            assert all(torch.equal(start[name], left[name]) for name in left)
        ours, theirs = load_file(one.solution), load_file(two.solution)
        assert not any(torch.equal(ours[name], theirs[name]) for name in ours if "weight" in name)

    def test_a_snapshot_that_is_not_there_is_refused(self, trunk, tmp_path):
        with pytest.raises(ravine.InputError, match="step 49 was not recorded"):
            train(branch(trunk.run.recipe, 49, epochs=1), trunk.out)
        with pytest.raises(ravine.InputError, match="train maxout-trunk-mnist into that folder"):
            train(branch(trunk.run.recipe, 50, epochs=1), tmp_path)

    def test_its_rate_is_the_trunks_from_there_on_multiplied(self):
        whole = recipe("maxout-mnist")
        child = branch(whole, 10_000, factor=3.0, epochs=1).phases[0]
        assert child.rate.at(7, 1) == pytest.approx(3 * whole.phases[0].rate.at(10_007, 21))
        assert child.momentum.at(1) == whole.phases[0].momentum.at(21)
        assert Later(PerEpoch(1.0, 0.5, 10), 0, 4).at(99, 1) == PerEpoch(1.0, 0.5, 10).at(0, 5)
        assert Later(PerUpdate(1.0, 2.0, 0.1), 50, 0).at(0, 1) == 0.1

    def test_the_hash_sees_where_it_leaves_and_what(self):
        whole = recipe("maxout-mnist")
        jobs = [
            whole,
            branch(whole, 1_000, epochs=1),
            branch(whole, 10_000, epochs=1),
            branch(whole, 1_000, epochs=1, factor=3.0),
            branch(whole, 1_000, epochs=1, seed=1),
            branch(whole.lean, 1_000, epochs=1),
        ]
        assert len({job.hash for job in jobs}) == len(jobs)

    @pytest.mark.parametrize(("profile", "whole"), [("full", True), ("desk", False)])
    def test_it_is_as_whole_as_its_trunk(self, profile, whole):
        for name in ("maxout-mnist", "maxout-trunk-mnist"):
            for job in (recipe(name, profile), recipe(name, profile).lean):
                child = branch(job, 1_000, epochs=1)
                found = SimpleNamespace(recipe=child, solved=True)
                assert is_whole(found) is whole

    def test_steps_are_among_the_snapshots(self):
        """Each epoch's of a training that keeps them all, ten a decade of one that is lean."""
        decades = {round(10 ** (place / 10)) for place in range(60)} | {0}
        for profile in ("full", "desk"):
            assert all(step % 500 == 0 and step in decades for step in RAISED[profile])
            assert set(PARTED[profile]) <= decades
            job = recipe("maxout-trunk-mnist", profile)
            assert INITIAL[profile] <= job.train / job.batch_size + 1
            assert INITIAL[profile] in PARTED[profile]

    def test_a_branch_has_no_recipe_by_name(self):
        child = branch(recipe("maxout-mnist"), 1_000, epochs=1)
        assert recipes.named(child.folder) is None


def profile(values, noise, floor=0.0) -> Profile:
    """Points of a line, with replicates of so much noise."""
    values, noise = np.asarray(values, float), np.asarray(noise, float)
    return Profile(
        alpha=np.linspace(0, 1, len(values)),
        value=values,
        replicates=noise,
        floor=np.full(len(values), floor),
        stderr=noise.std(axis=1),
        misfit=np.zeros(len(values)),
        units=1000,
    )


class TestNumbers:
    def test_a_change_is_between_paired_points(self):
        """What both ends share cancels: the difference is known far better than either."""
        common = np.random.default_rng(0).normal(size=256)
        own = 0.01 * np.random.default_rng(1).normal(size=256)
        found = change(profile([2.0, 5.0, 1.5], [common, common, common + own]))
        assert found.number == pytest.approx(-0.5)
        assert found.upper - found.lower == pytest.approx(2 * 1.66 * 0.01, rel=0.2)
        assert found.here is not None
        assert (found.here.lower, found.here.upper) == (-0.5, -0.5)

    def test_a_difference_of_two_lines_ends(self):
        noise = np.zeros((1, 256))
        found = difference(profile([2.0], noise, floor=0.1), profile([2.5], noise, floor=0.2))
        assert (found.number, found.lower, found.upper) == pytest.approx((0.5, 0.2, 0.8))

    def test_the_least_is_known_from_below_only_where_each_is(self):
        sure, doubtful = Found(2.0, 1.0, 3.0), Found(1.5, np.nan, 4.0)
        both = least([sure, doubtful])
        assert (both.number, both.upper) == (1.5, 3.0)
        assert np.isnan(both.lower)

    def test_without_a_fall_on_the_training_examples_nothing_overfits(self):
        values = np.array([[1.0, 1.0], [1.5, 2.0]])
        line = xr.Dataset(
            {
                "loss": (("alpha", "split"), values, {"units": "nats"}),
                "loss_stderr": (("alpha", "split"), 0 * values),
                "loss_noise_floor": (("alpha", "split"), 0 * values),
                "loss_replicates": (("alpha", "split", "replicate"), np.zeros((2, 2, 256))),
                "n_examples": ("split", [1000, 1000]),
                "n_units": ("split", [1000, 1000]),
            },
            {"alpha": [0.0, 1.0], "split": ["train", "valid"]},
            {"schema_version": 2},
        )
        found = overfits(SimpleNamespace(results={"from the lowest": line}))
        assert found.status == "not run"
        falling = line.assign(loss=line["loss"] * np.array([[1, 1], [0.1, 1]]))
        found = overfits(SimpleNamespace(results={"from the lowest": falling}))
        assert (found.number, found.lower) == (1.0, 1.0)
        assert found.answers("at least", 0) == "holds"


class TestSecondMinimum:
    @staticmethod
    def line(polynomial) -> xr.Dataset:
        alpha = np.linspace(-1.5, 2, 351)
        values = np.asarray(polynomial(alpha))[:, None]
        return xr.Dataset(
            {
                "loss": (("alpha", "split"), values, {"units": "nats per pixel"}),
                "loss_stderr": (("alpha", "split"), 0 * values),
                "loss_noise_floor": (("alpha", "split"), 0 * values),
                "loss_replicates": (("alpha", "split", "replicate"), np.zeros((351, 1, 256))),
                "n_examples": ("split", [400]),
                "n_units": ("split", [400]),
            },
            {"alpha": alpha, "split": ["train"]},
            {"schema_version": 2},
        )

    def test_to_the_left_of_the_start_it_is_another_reading(self):
        """((α + 0.8)(α − 1))² − α/10: two valleys, the higher left of 0; none on [0, 1]."""
        valleys = np.poly1d([1, -0.2, -0.8]) ** 2 - np.poly1d([0.1, 0])
        curve = self.line(valleys)
        place, top, _ = sorted(root.real for root in valleys.deriv().roots)
        left = obstacles.second_minimum(curve, -1.5, 0.0)
        assert left.answers("at least", left.threshold) == "holds"
        assert obstacles.second_place(curve, -1.5, 0.0) == pytest.approx(place, abs=0.01)
        assert left.number <= valleys(top) - valleys(place)
        # the solution's own valley is no second one
        right = obstacles.second_minimum(curve, 1.0, 2.0)
        assert right.answers("at least", right.threshold) == "does not hold"
        within = obstacles.second_minimum(curve)
        assert within.answers("at least", within.threshold) == "does not hold"


@pytest.mark.long
def test_made_small_a_line_keeps_what_its_loss_is_decided_by(tmp_path):
    run = FIGURES["random-walk"](Study("quick", tmp_path)).results["3 dimensions"]
    assert made_small(run).equals(run)  # a path has no replicates
    curve = TestSecondMinimum.line(np.poly1d([1, 0, 0]))
    other = {f"error{part}": curve[f"loss{part}"] for part in ("", "_stderr", "_replicates")}
    found = made_small(curve.assign(other))
    assert found["loss_replicates"].dtype == np.float32
    assert np.isnan(found["error_replicates"]).all()
    assert found["loss"].identical(curve["loss"])
