"""Resuming: the same command goes on after whatever stopped it, and ends with the same bits."""

import os
import random
import signal
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from killing import in_a_child, killed_until_done
from ravine import TrajectoryRecorder, cli, open_result
from sketches import painted, sketched  # noqa: F401  pytest's way to share fixtures

OBJECTIVE = """
import os
import time
import torch
from torch import nn
from torch.nn import functional as F
import ravine

def losses(model, batch):
    with open("calls", "ab") as calls:
        calls.write(b".")
    time.sleep(0.002)
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

def carried(model, batch, state):
    return losses(model, batch), state

def data():
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(500, 3, generator=drawn), torch.randint(0, 2, (500,), generator=drawn)

def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

def make():
    return ravine.Objective(model(), losses, data(), batch_size=50)

def stateful():
    return ravine.Objective(model(), ravine.stateful(carried), [data()], batch_size=50)
"""

COMMANDS = {
    "line": ("line", "objective.py:make", "0.pt", "1.pt", "--alpha", "0:1:41"),
    "resolve": ("line", "objective.py:make", "0.pt", "1.pt", "--tolerance", "1e-3"),
    "plane": (
        "plane",
        "objective.py:make",
        "0.pt",
        "1.pt",
        "2.pt",
        "--alpha",
        "0:1:5",
        "--beta",
        "0:1:5",
    ),
    "barriers": ("barriers", "objective.py:make", "0.pt", "1.pt", "2.pt", "--alpha", "0:1:9"),
    "project": ("project", "objective.py:make", "run", "--alpha", "0:1:21"),
}


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    states = [net().state_dict() for _ in range(3)]
    recorder = TrajectoryRecorder("run")
    for number, state in enumerate(states):
        torch.save(state, f"{number}.pt")
        recorder.record(number, state)
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    (tmp_path / "calls").touch()
    return tmp_path


def ravine(*words):
    """Run the command as a user's shell does, in this process."""
    try:
        sys.argv = ["ravine", *words]
        cli.main()
    except SystemExit as done:
        return done.code
    return 0


def calls():
    return os.path.getsize("calls")


def same(one, other):
    for file in sorted(one.glob("*.nc")):
        a, b = open_result(file), open_result(other / file.name)
        assert set(a.variables) == set(b.variables)
        for name in a.variables:
            np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


def test_the_same_command_goes_on_and_another_is_refused(folder, capsys):
    assert ravine(*COMMANDS["line"], "--out", "o") == 0
    before = calls()
    assert ravine(*COMMANDS["line"], "--out", "o", "--title", "Again") == 0
    assert calls() - before < 41  # the looks before measuring
    assert "41 of 41 points from o/measured.sqlite" in open_result("o/line.nc").attrs["reused"]
    assert ravine(*COMMANDS["resolve"], "--out", "o") == 2
    said = capsys.readouterr().err
    assert "'o' holds the results of another command (ravine line objective.py:make 0.pt" in said
    assert ravine(*COMMANDS["resolve"], "--out", "o", "--overwrite", "--fresh") == 0
    assert "reused" not in open_result("o/line.nc").attrs


def test_a_store_elsewhere_none_and_one_that_cannot_be(folder, capsys):
    line = COMMANDS["line"][:4]
    assert ravine(*line, "--alpha", "0:1:3", "--out", "a", "--store", "kept.sqlite") == 0
    assert not (folder / "a/measured.sqlite").exists()
    assert (
        ravine("barriers", *line[1:], "--alpha", "0:1:5", "--out", "b", "--store", "kept.sqlite")
        == 0
    )
    assert open_result("b/barriers.nc").attrs["reused"].startswith("3 of 5")
    assert ravine(*line, "--alpha", "0:1:3", "--out", "c", "--store", "none") == 0
    assert not list(folder.glob("c/*.sqlite"))
    capsys.readouterr()
    assert ravine("line", "objective.py:stateful", *line[2:], "--alpha", "0:1:3", "--out", "d") == 0
    assert "measured points are not kept: per_example carries state" in capsys.readouterr().err
    assert ravine("store", "list", "kept.sqlite") == 0
    assert "Sequential: 5 points" in capsys.readouterr().out
    assert ravine("store", "clean", "kept.sqlite") == 0
    assert "5 points deleted" in capsys.readouterr().out
    assert ravine("store", "list", "missing") == 2


def test_control_c_says_what_is_kept(folder):
    line = partial(ravine, *COMMANDS["line"][:4], "--alpha", "0:1:401", "--out", "o")
    busy = in_a_child(line, killed_after=lambda _: calls() > 1500, by=signal.SIGINT)
    assert busy == 130
    said = (folder / "said").read_text()
    assert "interrupted; what was measured is kept in o/measured.sqlite: the same command" in said


def test_control_c_before_anything_was_measured_claims_nothing(folder):
    line = partial(ravine, *COMMANDS["line"], "--out", "o")
    busy = in_a_child(line, killed_after=lambda _: calls() > 0, by=signal.SIGINT)
    assert busy == 130
    said = (folder / "said").read_text()
    assert ("kept in" in said) == (folder / "o/measured.sqlite").exists()


@pytest.mark.kills
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("painted")
def test_kills_at_random_moments(folder, command):
    words, drawn = COMMANDS[command], random.Random(command)
    whole_run = partial(ravine, *words, "--out", "whole")
    began = time.perf_counter()
    assert in_a_child(whole_run) == 0
    seconds, whole = time.perf_counter() - began, calls()
    assert in_a_child(whole_run) == 0
    looks = calls() - whole
    wanted = int(os.environ.get("RAVINE_KILLS", "10"))
    kills = repeated = 0
    before = calls()
    while kills < wanted:
        out = folder / f"o{kills}"
        own = killed_until_done(partial(ravine, *words, "--out", out.name), seconds, drawn)
        same(folder / "whole", out)
        kills += own
        repeated = max(repeated, calls() - before - whole - own * looks)
        before = calls()
    print(  # noqa: T201  with -s: the figures of docs/how-to/resuming.md
        f"{command}: {kills} kills; at most {max(repeated, 0)} of {whole} calls repeated in four"
    )
    # the looks before measuring are taken off, though a kill may come before them: what is left
    # loses half a second
    assert repeated <= 4 * (250 + 10 * 10)
