"""Recordings. The kind: what a folder of snapshots says of itself, and who writes to it.

Siblings tried: buffers of a codebook, saved and unsaved, in recordings of today and of before;
flipped bits; two trainings in one folder, in one process and in two, one after the other; folders
of other checkpoints; a folder that vanishes; a full disk; models that ZeRO-3 or FSDP shards.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from killing import killed_until_done
from ravine import InputError, Line, Trajectory, project
from ravine.points import recorder as recorder_module
from ravine.points.lock import FolderLock
from ravine.points.recorder import TrajectoryRecorder


class Codebook(nn.Module):
    def __init__(self, value=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value, 0.0]))
        self.register_buffer("counts", torch.full((4,), 100.0 * value))
        self.register_buffer("passing", torch.full((2,), value), persistent=False)


def record(folder, values=(0.0, 1.0, 3.0), model=Codebook):
    recorder = TrajectoryRecorder(folder)
    for step, value in enumerate(values):
        recorder.record(step, model(value))
    return recorder


def unmarked(folder):
    """As ravine wrote recordings before 0.2: no word of the buffers."""
    for path in folder.glob("*.safetensors"):
        save_file(load_file(path), path)
    return folder


def test_buffers_are_no_part_of_the_geometry(tmp_path):
    record(tmp_path)
    run = Trajectory.open(tmp_path)
    assert Line(run[0], run[-1]).length == 3.0
    assert run[-1].tensors.keys() == {"w", "counts"}
    assert run.at(step=2).keys() == {"w"}
    path = project(run, onto=Line(run[0], run[-1]))
    assert path.attrs["length"] == 3.0
    # a file alone says it, too
    assert Line(tmp_path / "step-000000000.safetensors", run[1]).length == 1.0


def test_old_recordings_are_read_rightly_through_their_model(tmp_path):
    record(tmp_path)
    unmarked(tmp_path)
    run = Trajectory.open(tmp_path, model=Codebook())
    assert Line(run[0], run[-1]).length == 3.0
    assert run[1:].at(step=2).keys() == {"w"}
    assert Line(Codebook(), Trajectory.open(tmp_path)[-1]).length == 3.0


def test_a_recording_is_continued_whether_or_not_its_buffers_are_marked(tmp_path):
    record(tmp_path)
    unmarked(tmp_path)
    TrajectoryRecorder(tmp_path).record(5, Codebook(5.0))
    assert Line(Codebook(), Trajectory.open(tmp_path, model=Codebook())[-1]).length == 5.0


@pytest.mark.parametrize("read", ["run[1]", "run.at(step=1)", "Line(run[0], run[1])", "list(run)"])
def test_a_flipped_bit_is_found_where_a_snapshot_is_read(tmp_path, read):
    recorder = record(tmp_path)
    path = tmp_path / recorder.snapshots[1].file
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    run = Trajectory.open(tmp_path)
    with pytest.raises(InputError, match=r"snapshot of step 1, .* is damaged"):
        eval(read, {"run": run, "Line": Line})


def test_a_snapshot_is_hashed_once(tmp_path, monkeypatch):
    record(tmp_path)
    run = Trajectory.open(tmp_path)
    list(run)
    monkeypatch.setattr("ravine.points.trajectory.is_content", lambda *_: pytest.fail("again"))
    list(run)


class TestOneWriter:
    def test_two_recorders_of_one_process_do_not_mix(self, tmp_path):
        one, two = TrajectoryRecorder(tmp_path), TrajectoryRecorder(tmp_path)
        one.record(0, Codebook())
        with pytest.raises(InputError, match="another training has recorded into"):
            two.record(1, Codebook(1.0))
        one.record(2, Codebook(2.0))
        assert Trajectory.open(tmp_path).steps == (0, 2)

    def test_one_after_the_other_is_a_continuation(self, tmp_path):
        one = record(tmp_path)
        TrajectoryRecorder(tmp_path).record(7, Codebook(7.0))
        with pytest.raises(InputError, match="another training has recorded into"):
            one.record(8, Codebook(8.0))
        assert Trajectory.open(tmp_path).steps == (0, 1, 2, 7)

    def test_another_process_is_kept_out(self, tmp_path):
        held = record(tmp_path)
        script = (  # a recorder takes this lock before it writes; without torch it is quick
            "import sys, pathlib\n"
            "from ravine.points.lock import FolderLock\n"
            "try: FolderLock.on(pathlib.Path(sys.argv[1]))\n"
            "except ValueError as problem: print(problem)\n"
        )

        def other():
            command = [sys.executable, "-c", script, tmp_path]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        assert f"process {os.getpid()} on" in (said := other())
        assert "records into" in said
        del held
        assert not (tmp_path / "trajectory.lock").exists()
        assert other() == ""
        assert not (tmp_path / "trajectory.lock").exists()
        TrajectoryRecorder(tmp_path).record(9, Codebook(9.0))

    def test_a_forked_worker_has_no_lock_and_takes_none_away(self, tmp_path, monkeypatch):
        held = record(tmp_path)
        own = os.getpid()
        monkeypatch.setattr("os.getpid", lambda: own + 1)
        assert FolderLock._held[tmp_path.resolve()].owner == own
        held._lock._end()  # as at the worker's end
        assert (tmp_path / "trajectory.lock").exists()

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "epoch=3.ckpt", "checkpoint-5/model.safetensors"]
    )
    def test_a_folder_of_other_checkpoints_is_refused(self, tmp_path, name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match="it holds other checkpoints .* a folder of its own"):
            TrajectoryRecorder(tmp_path)

    def test_other_files_and_what_a_kill_leaves_do_no_harm(self, tmp_path):
        for name in ("config.json", "log.txt", "step-000000000.safetensors"):
            (tmp_path / name).write_text("")
        record(tmp_path)
        assert Trajectory.open(tmp_path).steps == (0, 1, 2)

    def test_a_folder_that_vanished_is_said(self, tmp_path):
        recorder = record(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(InputError, match="is gone, with 3 snapshots that were recorded"):
            recorder.record(3, Codebook(3.0))
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left"), safetensors.SafetensorError("full")]
)
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, problem):
    recorder = record(tmp_path)

    def full(*_):
        raise problem

    monkeypatch.setattr(recorder_module, "save_file", full)
    with pytest.raises(InputError, match="cannot write .*step-000000003.*Make room"):
        recorder.record(3, Codebook(3.0))
    assert Trajectory.open(tmp_path).steps == (0, 1, 2)


def test_a_model_that_zero_3_left_in_parts_is_refused(tmp_path):
    model = nn.Linear(4, 3)
    for parameter in model.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    for use in (Line, lambda one, _: TrajectoryRecorder(tmp_path).record(0, one)):
        with pytest.raises(InputError, match=r"sharded by DeepSpeed ZeRO-3.*GatheredParameters"):
            use(model, {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)})


SHARDED = """
import os, sys, torch, warnings
import torch.distributed as dist, torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, fully_shard
import ravine
from ravine.points.recorder import Pace

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

def worker(rank, folder):
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    one = FSDP(net(), use_orig_params=True, device_id=torch.device("cpu"))
    two = net()
    fully_shard(two, mesh=init_device_mesh("cpu", (2,)))
    for name, model in (("one", one), ("two", two)):
        recorder = ravine.TrajectoryRecorder(f"{folder}/{name}")
        for step in range(2):
            recorder.record(step, model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1)
    pace = Pace(f"{folder}/paced")
    pace.start(0, one)
    pace.after_epoch(3, one)
    pace.end(3, one)  # the same step: the first process skips it, and none may wait for it
    try:
        ravine.Checkpoint.read(one.module)
    except ravine.InputError as problem:
        assert "inside an FSDP model" in str(problem)
    else:
        raise AssertionError("a part was taken for the whole")
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(worker, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.calibration
def test_sharded_models_are_recorded_whole(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SHARDED)
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=300, capture_output=True)
    assert Trajectory.open(tmp_path / "paced").steps == (0, 3)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    for name in ("one", "two"):
        run = Trajectory.open(tmp_path / name)
        assert run[0].tensors.keys() == plain.state_dict().keys()
        assert all(torch.equal(run[0].tensors[n], t) for n, t in plain.state_dict().items())
        assert run.at(step=1).keys() == dict(plain.named_parameters()).keys()
        assert Line(plain, run[1]).length == pytest.approx(21**0.5)


@pytest.mark.parametrize(
    "entry",
    [
        {"step": "²", "file": "a.safetensors", "hash": ""},
        {"step": 1.5, "file": "a.safetensors", "hash": ""},
        {"step": True, "file": "a.safetensors", "hash": ""},
        {"step": -1, "file": "a.safetensors", "hash": ""},
        {"step": 10**40, "file": "a.safetensors", "hash": ""},
        {"step": 1, "file": "", "hash": ""},
        {"step": 1, "file": None, "hash": ""},
        {"step": 1},
        None,
        [],
        3,
    ],
)
def test_a_manifest_whose_entries_make_no_sense(tmp_path, entry):
    held = {"format": "ravine trajectory", "version": 1, "snapshots": [entry]}
    (tmp_path / "trajectory.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match="is not the manifest of a trajectory"):
        Trajectory.open(tmp_path)


def test_a_name_that_leaves_the_step_open(tmp_path):
    for number in (1, 2):
        torch.save({"w": torch.tensor([float(number)])}, tmp_path / f"a_{number}_{2 * number}.pt")
    with pytest.raises(InputError, match="which number of 'a_1_2' is the step"):
        Trajectory.open(tmp_path)
    assert Trajectory.open(tmp_path, steps={"a_1_2": 2, "a_2_4": 4}).steps == (2, 4)
    assert Trajectory.open(tmp_path, steps=lambda name: int(name[2])).steps == (1, 2)


@pytest.mark.kills
def test_a_recording_that_is_killed_at_random_moments_has_every_step(tmp_path, monkeypatch):
    """A loop that goes on after the last step that was recorded."""
    monkeypatch.chdir(tmp_path)
    drawn, kills, count = random.Random(2), 0, 150

    def at(step):
        return {"weight": torch.randn(40, 50, generator=torch.Generator().manual_seed(step))}

    def loop(place):
        recorder = TrajectoryRecorder(place)
        known = Trajectory.open(place).steps if (place / "trajectory.json").exists() else []
        for step in range(max(known, default=-1) + 1, count):
            recorder.record(step, at(step))

    began = time.perf_counter()
    loop(tmp_path / "whole")
    seconds = time.perf_counter() - began
    while kills < int(os.environ.get("RAVINE_KILLS", "10")):
        place = tmp_path / f"cut{kills}"
        kills += killed_until_done(partial(loop, place), seconds, drawn)
        run = Trajectory.open(place)
        assert list(run.steps) == list(range(count))
        assert all(
            torch.equal(run[step].tensors["weight"], at(step)["weight"]) for step in (0, 75, 149)
        )
        assert not list(place.glob("*.part"))
    # with -s: the figures of docs/how-to/resuming.md
    print(f"recording: {kills} kills")  # noqa: T201
