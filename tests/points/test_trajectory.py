"""Trajectories: read as written, a kill loses one snapshot at most, bad folders are refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ravine
from ravine.points import recorder as recorder_module
from ravine.points.recorder import TrajectoryRecorder
from ravine.points.trajectory import Trajectory


def constant(value: float, size: int = 3) -> dict[str, torch.Tensor]:
    return {"w": torch.full((size,), value), "b": torch.tensor([-value])}


def record(folder, steps, **options) -> TrajectoryRecorder:
    recorder = TrajectoryRecorder(folder, **options)
    for step in steps:
        recorder.record(step, constant(float(step)))
    return recorder


class TestRecording:
    def test_what_was_recorded_is_read_back(self, tmp_path):
        record(tmp_path, [0, 7, 30])
        run = Trajectory.open(tmp_path)
        assert run.steps == (0, 7, 30)
        assert len(run) == 3
        for step, point in zip(run.steps, run, strict=True):
            assert torch.equal(point.params["w"], torch.full((3,), float(step)))
        assert torch.equal(run.at(step=7)["b"], torch.tensor([-7.0]))
        assert torch.equal(run[-1].params["w"], run.at(step=30)["w"])
        assert run[1:].steps == (7, 30)

    def test_a_line_goes_from_first_to_last(self, tmp_path):
        record(tmp_path, [0, 1, 4])
        run = Trajectory.open(tmp_path)
        assert torch.equal(ravine.Line(run[0], run[-1]).at(0.5)["w"], torch.full((3,), 2.0))

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ({}, list(range(13))),
            ({"every": 5}, [0, 5, 10]),
            ({"per_decade": 2}, [0, 1, 3, 10]),
        ],
    )
    def test_only_the_wanted_steps_are_kept(self, options, kept, tmp_path):
        assert [s.step for s in record(tmp_path, range(13), **options).snapshots] == kept

    def test_log_spacing_is_even(self, tmp_path):
        recorder = TrajectoryRecorder(tmp_path, per_decade=4)
        kept = [step for step in range(1, 100_001) if recorder.wants(step)]
        assert kept[:8] == [1, 2, 3, 6, 10, 18, 32, 56]
        assert len(kept) == 21

    def test_a_recorder_is_a_callback(self, tmp_path):
        TrajectoryRecorder(tmp_path)(0, nn.Linear(2, 1))
        assert Trajectory.open(tmp_path).steps == (0,)

    def test_the_model_is_left_alone_and_wrappers_are_looked_through(self, tmp_path):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        before = {
            name: (tensor.clone(), tensor._version) for name, tensor in model.state_dict().items()
        }
        recorder = TrajectoryRecorder(tmp_path)
        recorder.record(0, nn.DataParallel(model))
        recorder.record(1, model)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name][0])
            assert tensor._version == before[name][1]
        run = Trajectory.open(tmp_path)
        assert set(run.at(step=0)) == {"0.weight", "0.bias", "1.weight", "1.bias"}
        # kept, because a point of such a model is not whole without
        assert "1.running_mean" in run[0].tensors

    def test_later_updates_do_not_reach_a_snapshot(self, tmp_path):
        model = nn.Linear(2, 1)
        recorder = TrajectoryRecorder(tmp_path)
        recorder.record(0, model)
        before = model.weight.detach().clone()
        with torch.no_grad():
            model.weight += 1
        assert torch.equal(Trajectory.open(tmp_path).at(step=0)["weight"], before)

    def test_tied_shared_and_strided_tensors_are_written(self, tmp_path):
        model = nn.Sequential(
            nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        )
        model[1].weight = model[0].weight
        flat = torch.arange(18.0)
        model[0].weight.data = flat[:9].view(3, 3)
        model[2].weight.data = flat[9:].view(3, 3).t()
        recorder = TrajectoryRecorder(tmp_path)
        recorder.record(0, model)
        point = Trajectory.open(tmp_path).at(step=0)
        assert set(point) == {"0.weight", "2.weight"}
        assert torch.equal(point["2.weight"], model[2].weight)

    def test_it_is_continued(self, tmp_path):
        record(tmp_path, [0, 1])
        # step 1 again, with the same values, as a resumed training gives it
        record(tmp_path, [1, 2])
        assert Trajectory.open(tmp_path).steps == (0, 1, 2)

    def test_going_back_needs_a_word(self, tmp_path):
        recorder = record(tmp_path, [0, 1, 2, 3])
        with pytest.raises(
            ravine.InputError, match=r"step 2 comes after step 3 .* recorder.rewind\(2\)"
        ):
            recorder.record(2, constant(-5.0))
        recorder.rewind(2)
        recorder.record(2, constant(-5.0))
        run = Trajectory.open(tmp_path)
        assert run.steps == (0, 1, 2)
        assert float(run.at(step=2)["b"]) == 5.0
        assert sorted(
            path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"
        ) == [f"step-{step:09d}.safetensors" for step in (0, 1, 2)]

    def test_a_step_may_be_kept_late_and_forgotten_again(self, tmp_path):
        """The best epoch is known only when training is over."""
        recorder = record(tmp_path, [0, 10, 100])
        recorder.keep(40, constant(40.0), late=True)
        assert Trajectory.open(tmp_path).steps == (0, 10, 40, 100)
        with pytest.raises(ravine.InputError, match="step 40 comes after step 100"):
            recorder.keep(40, constant(7.0), late=True)
        with pytest.raises(ravine.InputError, match="step 50 comes after step 100"):
            recorder.keep(50, constant(50.0))
        recorder.forget([40, 41])
        assert Trajectory.open(tmp_path).steps == (0, 10, 100)
        assert not (tmp_path / "step-000000040.safetensors").exists()

    @pytest.mark.parametrize("place", ["snapshot", "manifest"])
    def test_a_kill_loses_the_snapshot_in_hand_only(self, place, tmp_path, monkeypatch):
        recorder = record(tmp_path, [0, 1])
        kept = recorder.snapshots

        def killed(tensors, path, metadata):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        if place == "snapshot":
            monkeypatch.setattr(recorder_module, "save_file", killed)
        else:
            monkeypatch.setattr(
                TrajectoryRecorder, "_keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
            )
        with pytest.raises(KeyboardInterrupt):
            recorder.record(2, constant(2.0))
        monkeypatch.undo()
        assert list(Trajectory.open(tmp_path).snapshots) == kept
        record(tmp_path, [2, 3])
        assert Trajectory.open(tmp_path).steps == (0, 1, 2, 3)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"every": 0}, "every must be a whole number from 1; got 0"),
            ({"every": 2.5}, "got 2.5"),
            ({"per_decade": 0}, "per_decade must be a whole number from 1; got 0"),
            ({"every": 2, "per_decade": 2}, "give one of them"),
        ],
    )
    def test_impossible_spacings_are_refused(self, options, said, tmp_path):
        with pytest.raises(ravine.InputError, match=said):
            TrajectoryRecorder(tmp_path, **options)

    def test_impossible_steps_and_models_are_refused(self, tmp_path):
        recorder = record(tmp_path, [0])
        with pytest.raises(ravine.InputError, match="whole number from 0; got -1"):
            recorder.record(-1, constant(0.0))
        with pytest.raises(ravine.InputError, match="whole number from 0; got 1.5"):
            recorder.record(1.5, constant(0.0))
        with pytest.raises(
            ravine.InputError, match=r"step 1 is no point of the trajectory .*shape at 'w'"
        ):
            recorder.record(1, constant(0.0, size=4))
        assert Trajectory.open(tmp_path).steps == (0,)

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "taken").write_text("")
        with pytest.raises(ravine.InputError, match="it is a file"):
            TrajectoryRecorder(tmp_path / "taken")


class TestOrdinaryCheckpoints:
    def test_they_are_ordered_by_step_not_by_name(self, tmp_path):
        for step in (100, 9, 10):
            torch.save({"state_dict": constant(float(step))}, tmp_path / f"step_{step}.pt")
        run = Trajectory.open(tmp_path)
        assert run.steps == (9, 10, 100)
        assert float(run[-1].params["w"][0]) == 100.0

    @pytest.mark.parametrize(
        ("name", "step"),
        [
            ("epoch=3-step=500.ckpt", 500),
            ("resnet50_12.pth", 12),
            ("checkpoint-0.safetensors", 0),
            ("Step7.bin", 7),
            ("step-000123.pt", 123),
        ],
    )
    def test_the_step_is_read_from_the_name(self, name, step, tmp_path):
        if name.endswith(".safetensors"):
            save_file(constant(1.0), tmp_path / name)
        else:
            torch.save(constant(1.0), tmp_path / name)
        torch.save(constant(2.0), tmp_path / "best.pt")
        (tmp_path / "log_99.txt").write_text("no checkpoint")
        assert Trajectory.open(tmp_path).steps == (step,)

    def test_folders_of_shards_count(self, tmp_path):
        for step in (20, 3):
            (tmp_path / f"checkpoint-{step}").mkdir()
            save_file(constant(float(step)), tmp_path / f"checkpoint-{step}" / "model.safetensors")
        (tmp_path / "logs-4").mkdir()
        run = Trajectory.open(tmp_path)
        assert run.steps == (3, 20)
        assert float(run[0].params["w"][0]) == 3.0

    def test_wrapper_prefixes_are_looked_through(self, tmp_path):
        torch.save(constant(0.0), tmp_path / "step_0.pt")
        torch.save(
            {f"module.{name}": tensor for name, tensor in constant(1.0).items()},
            tmp_path / "step_1.pt",
        )
        assert set(Trajectory.open(tmp_path).at(step=1)) == {"w", "b"}


class TestBadInput:
    def test_no_folder(self, tmp_path):
        with pytest.raises(ravine.InputError, match="there is no folder"):
            Trajectory.open(tmp_path / "nowhere")

    def test_empty_folder(self, tmp_path):
        with pytest.raises(
            ravine.InputError, match=r"holds no trajectory: expected trajectory.json"
        ):
            Trajectory.open(tmp_path)

    def test_two_files_of_one_step(self, tmp_path):
        torch.save(constant(0.0), tmp_path / "step_5.pt")
        save_file(constant(0.0), tmp_path / "step_05.safetensors")
        with pytest.raises(
            ravine.InputError, match=r"'step_05.safetensors' and 'step_5.pt' .* both of step 5"
        ):
            Trajectory.open(tmp_path)

    def test_a_truncated_snapshot(self, tmp_path):
        recorder = record(tmp_path, [0, 1])
        path = tmp_path / recorder.snapshots[1].file
        path.write_bytes(path.read_bytes()[:-3])
        run = Trajectory.open(tmp_path)
        with pytest.raises(
            ravine.InputError, match=r"step-000000001.safetensors' is not a complete safetensors"
        ):
            run.at(step=1)

    def test_a_missing_snapshot(self, tmp_path):
        recorder = record(tmp_path, [0, 1])
        (tmp_path / recorder.snapshots[0].file).unlink()
        with pytest.raises(
            ravine.InputError, match=r"lacks 'step-000000000.safetensors', which its manifest names"
        ):
            Trajectory.open(tmp_path)

    def test_snapshots_of_other_shapes(self, tmp_path):
        torch.save(constant(0.0), tmp_path / "step_0.pt")
        torch.save(constant(0.0, size=4), tmp_path / "step_1.pt")
        with pytest.raises(ravine.InputError, match=r"shape at 'w': \(3,\) and \(4,\)"):
            Trajectory.open(tmp_path).at(step=1)

    def test_a_step_that_was_not_recorded(self, tmp_path):
        record(tmp_path, [0, 10, 20])
        with pytest.raises(
            ravine.InputError, match="step 12 was not recorded .* the nearest are 10 and 20"
        ):
            Trajectory.open(tmp_path).at(step=12)

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            json.dumps({"format": "another"}),
            json.dumps({"format": "ravine trajectory", "version": 99, "snapshots": []}),
            json.dumps({"format": "ravine trajectory", "version": 1, "snapshots": [{"step": 0}]}),
        ],
    )
    def test_a_strange_manifest(self, text, tmp_path):
        (tmp_path / "trajectory.json").write_text(text)
        for opening in (Trajectory.open, TrajectoryRecorder):
            with pytest.raises(ravine.InputError, match="is not the manifest of a trajectory"):
                opening(tmp_path)

    def test_an_edited_manifest(self, tmp_path):
        record(tmp_path, [0, 1])
        path = tmp_path / "trajectory.json"
        text = path.read_text()
        path.write_text(text.replace('"file": "step', '"file": "../step', 1))
        with pytest.raises(ravine.InputError, match="a file outside its folder"):
            Trajectory.open(tmp_path)
        path.write_text(text.replace('"step": 0,', '"step": 9,'))
        with pytest.raises(ravine.InputError, match="steps that do not grow"):
            Trajectory.open(tmp_path)

    def test_an_unfinished_one(self, tmp_path):
        TrajectoryRecorder(tmp_path)._keep([])
        with pytest.raises(ravine.InputError, match="has no snapshot yet"):
            Trajectory.open(tmp_path)

    def test_no_code_is_run(self, tmp_path):
        (tmp_path / "step_1.pt").write_bytes(pickle.dumps(nn.Linear(1, 1)))
        with pytest.raises(ravine.InputError):
            Trajectory.open(tmp_path)[0]
