"""Several seeds at once, and updates that are launched whole: the same training, to rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ravine
from ravine.paper.data import load
from ravine.paper.recipes import recipe
from ravine.paper.training import Budget, Training, train, train_together
from ravine.paper.training.updates import Updates

#: Without masks, so that nothing but rounding tells a stack from one training after the other.
PLAIN = replace(
    recipe("maxout-plain-mnist", "quick"),
    train=200,
    valid=60,
    phases=recipe("maxout-mnist", "quick").phases,
)


def short(epochs=(3, 2), **changed):
    phases = tuple(
        replace(phase, epochs=count) for phase, count in zip(PLAIN.phases, epochs, strict=False)
    )
    return replace(PLAIN, phases=phases, **changed)


def seeds_of(job, count):
    return [replace(job, seed=seed) for seed in range(count)]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def launched(job, capture):
    """The training's updates, launched whole."""
    return Updates.of(job.task, job.model, job.velocity, 0, "float32", capture)


class TestUpdates:
    def captured(self, compute):
        """Like a graph: tried before, and launched on the same tensors."""
        self.tried += 1
        compute()
        compute()
        return compute

    @pytest.mark.parametrize("name", ["maxout-mnist", "mpdbm-mnist", "conv-cifar10"])
    def test_an_epoch_is_the_steppers(self, name, digits, tmp_path):
        """The same draws and parameters, to rounding; first tries leave no trace; a short last."""
        self.tried = 0
        job = replace(recipe(name, "quick"), train=130, valid=20, even=False)
        stepped, whole = (Training(job, digits, tmp_path / place) for place in "ab")
        whole.updates = launched(whole, self.captured)
        stepped.epoch()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Training, "_launches", True)
            whole.epoch()
        assert self.tried == 1
        assert torch.equal(stepped.masks, whole.masks)
        for name, tensor in stepped.params.items():
            torch.testing.assert_close(whole.params[name], tensor, rtol=2e-5, atol=2e-6)

    def test_what_cannot_be_captured_is_computed_as_it_is(self, digits, tmp_path):
        def refused(compute):
            compute()
            msg = "operation not permitted when stream is capturing\nand more"
            raise RuntimeError(msg)

        stepped, whole = (Training(short(), digits, tmp_path / place) for place in "ab")
        whole.updates = launched(whole, refused)
        stepped.epoch()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Training, "_launches", True)
            whole.epoch()
        assert whole.updates.trouble == "operation not permitted when stream is capturing"
        for name, tensor in stepped.params.items():
            torch.testing.assert_close(whole.params[name], tensor, rtol=2e-5, atol=2e-6)


class TestTogether:
    def test_each_seed_is_trained_as_if_alone(self, tmp_path):
        jobs = seeds_of(short(), 3)
        runs = train_together(jobs, tmp_path / "together")
        for job, run in zip(jobs, runs, strict=True):
            alone = train(job, tmp_path / "alone")
            assert run.best_step == alone.best_step
            assert run.trajectory.steps == alone.trajectory.steps
            for file in ("solution", "final"):
                ours = load_file(run.folder / f"{file}.safetensors")
                for name, tensor in load_file(alone.folder / f"{file}.safetensors").items():
                    torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
            watched = run.history["loss"].values
            np.testing.assert_allclose(watched, alone.history["loss"].values, rtol=1e-4)

    def test_seeds_end_their_phases_each_in_its_time(self, tmp_path):
        phase = replace(PLAIN.phases[0], patience=4, epochs=None)
        jobs = seeds_of(replace(short(), train=60, phases=(phase, short().phases[1])), 5)
        runs = train_together(jobs, tmp_path)
        lengths = [int((run.history["phase"].values == 1).sum()) for run in runs]
        assert len(set(lengths)) > 1
        for job, run in zip(jobs, runs, strict=True):
            alone = train(job, tmp_path / "alone")
            assert run.history.sizes == alone.history.sizes
            assert run.best_step == alone.best_step

    def test_masks_are_each_seeds_own(self, digits, tmp_path):
        """Two seeds with one start and one order part because of their masks alone."""
        job = replace(recipe("maxout-mnist", "quick"), train=200, valid=60)
        phases = tuple(replace(phase, epochs=1) for phase in job.phases[:1])
        runs = train_together(seeds_of(replace(job, phases=phases), 2), tmp_path)
        one, other = (load_file(run.solution) for run in runs)
        assert not any(torch.equal(one[name], other[name]) for name in one)
        from ravine.paper.training.stack import Stack

        pair = [Training(replace(job, phases=phases), digits, tmp_path / place) for place in "ab"]
        Stack(pair).epoch()
        first, second = (dict(training.params) for training in pair)
        assert not torch.equal(first["layer0.weight"], second["layer0.weight"])

    def test_a_stopped_stack_is_gone_on_with(self, tmp_path):
        jobs = seeds_of(short(), 2)
        ticks = iter(range(1000))
        budget = Budget(0.2, share=1.0, clock=lambda: float(next(ticks)))
        stopped = train_together(jobs, tmp_path / "cut", until=budget.training())
        assert all("was spent after" in run.stopped for run in stopped)
        resumed = train_together(jobs, tmp_path / "cut")
        whole = train_together(jobs, tmp_path / "whole")
        for ours, theirs in zip(resumed, whole, strict=True):
            assert ours.done
            expected = load_file(theirs.final)
            found = load_file(ours.final)
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_what_is_done_is_left_alone(self, tmp_path):
        jobs = seeds_of(short(epochs=(1, 1)), 2)
        alone = train(jobs[0], tmp_path)
        written = alone.solution.stat().st_mtime_ns
        lines = []
        runs = train_together(jobs, tmp_path, say=lines.append)
        assert runs[0].solution.stat().st_mtime_ns == written
        assert runs[1].done
        assert lines
        assert train_together(jobs, tmp_path, say=lines.clear)[0].done

    def test_what_cannot_be_stacked_is_refused(self, tmp_path):
        one = short()
        with pytest.raises(ravine.InputError, match="differ in their seeds, and in nothing else"):
            train_together([one, replace(one, seed=1, batch_size=10)], tmp_path)
        with pytest.raises(ravine.InputError, match=r"got the seeds \[0, 0\]"):
            train_together([one, one], tmp_path)
        with pytest.raises(ravine.InputError, match="got none"):
            train_together([], tmp_path)
        words = recipe("lstm-small-ptb", "quick")
        with pytest.raises(ravine.InputError, match="carries something from one minibatch"):
            train_together(seeds_of(words, 2), tmp_path)
