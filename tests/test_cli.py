"""The command line: what is typed, good and bad; every bad input is a sentence and code 2."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oracles import blobs, mlp, trained
from ravine import (
    Line,
    Plane,
    Trajectory,
    TrajectoryRecorder,
    by_group,
    cli,
    evaluate,
    load_objective,
    metrics,
    open_result,
    pairs,
    project,
    reconstruct,
    save_result,
)
from sketches import painted, sketched  # noqa: F401  pytest's way to share fixtures

OBJECTIVE = """
import torch
from torch import nn
from torch.nn import functional as F
import ravine

def make():
    x, y = torch.load("data.pt")
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    return ravine.Objective(model, ravine.supervised(F.cross_entropy), {"train": (x, y)})

def normed():
    x, y = torch.load("data.pt")
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    data = {"train": (x, y)}
    return ravine.Objective(model, ravine.supervised(F.cross_entropy), data, buffers="end")

def from_one():
    x, y = torch.load("data.pt")
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    return ravine.Objective(model, ravine.supervised(F.cross_entropy), {"train": (x, y + 1)})

def empty():
    x, y = torch.load("data.pt")
    data = {"train": (x[:0], y[:0])}
    return ravine.Objective(nn.Linear(6, 4), ravine.supervised(F.cross_entropy), data)

def scalar():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    data = {"train": torch.load("data.pt")}
    return ravine.Objective(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), data)

def broken():
    return undefined_name

def crashing():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    return ravine.Objective(model, lambda m, b: m(b[1]), {"train": torch.load("data.pt")})

def wrong():
    return 3

def thin(count=12, scale=1.0, **groups):
    x, y = torch.load("data.pt")
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    loss = lambda m, b: scale * F.cross_entropy(m(b[0]), b[1], reduction="none")
    return ravine.Objective(model, loss, {"train": (x[:count], y[:count])}, **groups)

def one():
    return thin(1)

def one_cluster():
    return thin(clusters=[7] * 12)

def strata_of_one():
    return thin(strata=list(range(12)))

def undefined():
    return thin(scale=float("nan"))

def ids_short():
    return thin(clusters=list(range(11)))
"""


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start, end = trained(mlp(), blobs())
    save_file(start, "start.safetensors")
    torch.save({"state_dict": {f"module.{n}": t for n, t in end.items()}}, "end.pt")
    torch.save(blobs(), "data.pt")
    save_file({**end, "0.bias": end["0.bias"] * float("nan")}, "nan.safetensors")
    save_file({"other": torch.ones(2)}, "other.safetensors")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "vacant").mkdir()
    TrajectoryRecorder("single").record(0, start)
    for name in ("run", "damaged"):
        recorder = TrajectoryRecorder(name)
        for step, point in enumerate((start, mlp(1), end)):
            recorder.record(step, point)
    (tmp_path / "damaged" / "step-000000001.safetensors").write_bytes(b"half")
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    (tmp_path / "syntax.py").write_text("def make(:")
    return tmp_path


def ravine(*words):
    """Run the command as a user's shell does, in this process."""
    try:
        sys.argv = ["ravine", *words]
        cli.main()
    except SystemExit as done:
        return done.code
    return 0


def test_a_line_from_two_files(folder, capsys):
    assert (
        ravine(
            "line",
            "objective.py:make",
            "start.safetensors",
            "end.pt",
            "--alpha",
            "-0.5:1.5:41",
            "--out",
            "o",
        )
        == 0
    )
    said = capsys.readouterr()
    assert "The train loss" in said.out
    assert "o/report.html" in said.out
    assert {p.name for p in (folder / "o").iterdir()} == {
        "command.txt",
        "measured.sqlite",
        "line.nc",
        "line.png",
        "line.pdf",
        "report.html",
    }
    curve = open_result("o/line.nc")
    np.testing.assert_array_equal(curve["alpha"], np.linspace(-0.5, 1.5, 41))
    assert curve.attrs["command"].startswith(
        "ravine line objective.py:make start.safetensors end.pt"
    )
    page = (folder / "o" / "report.html").read_bytes()
    (folder / "o" / "report.html").unlink()
    assert ravine("report", "o") == 0
    assert (folder / "o" / "report.html").read_bytes() == page


def test_a_question_is_answered_first(folder, capsys):
    words = ["line", "objective.py:make", "start.safetensors", "end.pt"]
    assert ravine(*words, "--above", "5", "--out", "o") == 0
    said = capsys.readouterr().out
    assert "A barrier above 5 nats in the train loss is excluded" in said
    curve = open_result("o/line.nc")
    assert json.loads(curve.attrs["asked"])["what"] == "barrier"
    for wrong, reason in (
        (["--decide", "rise"], "needs the height that is asked about"),
        (["--above", "1", "--stderr", "1"], "give one of them"),
        (["--above", "1", "--groups", "modules"], "--groups and --above do not go together"),
        (["--above", "1", "--decide", "hill"], "decide must be one of 'barrier'"),
        (["--stderr", "-1"], "stderr must be a positive number"),
    ):
        assert ravine(*words, *wrong, "--out", "q") == 2
        assert reason in capsys.readouterr().err


def test_several_lines_need_no_title_and_the_library_may_be_left_out(folder, capsys):
    words = [
        "barriers",
        "objective.py:make",
        "start.safetensors",
        "end.pt",
        "--alpha",
        "0:1:5",
        "--out",
        "o",
    ]
    assert ravine(*words, "--plotlyjs", "cdn") == 0
    assert "\nVerdict\n" in capsys.readouterr().out
    page = folder / "o" / "report.html"
    assert page.stat().st_size < 1e6
    assert ravine("report", "o") == 0
    assert page.stat().st_size > 4e6


def test_sentences_are_broken_between_words_on_a_terminal_and_only_there(monkeypatch):
    row = f"train loss  falls monotonically  {'x' * 60}"
    sentence = " ".join(["measured"] * 12)
    text = f"{sentence}\n\n{row}"
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert cli._wrapped(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    *broken, blank, kept = cli._wrapped(text).split("\n")
    assert (blank, kept) == ("", row)
    assert max(map(len, broken)) <= 50
    assert " ".join(broken) == sentence


def test_a_report_on_a_folder_that_holds_a_plane(folder, capsys):
    objective = load_objective("objective.py:make")
    plane = Plane("start.safetensors", "end.pt", mlp(1))
    save_result(
        evaluate(objective, along=plane, at={"alpha": [0, 0.5, 1], "beta": [0, 1]}), "o/plane.nc"
    )
    assert ravine("report", "o") == 0
    assert "is lowest at" in (folder / "o" / "report.html").read_text(encoding="utf-8")


def test_a_resolved_line(folder, capsys):
    assert (
        ravine(
            "line",
            "objective.py:make",
            "start.safetensors",
            "end.pt",
            "--tolerance",
            "1e-2",
            "--out",
            "o",
        )
        == 0
    )
    assert "max. interpolation error of the train loss" in capsys.readouterr().out
    curve = open_result("o/line.nc")
    assert curve.attrs["sampling"] == "resolved"
    assert reconstruct(curve, [0.123]).sizes["alpha"] == 1
    assert (
        ravine(
            "line",
            "objective.py:make",
            "start.safetensors",
            "end.pt",
            "--tolerance",
            "7",
            "--out",
            "p",
        )
        == 2
    )
    assert "tolerance must lie between 0 and 1" in capsys.readouterr().err
    assert not (folder / "p").exists()


@pytest.mark.parametrize("hold", ["start", "end"])
def test_groups_are_those_of_python(folder, capsys, hold):
    words = [
        "line",
        *GOOD,
        "--alpha",
        "0:1:5",
        "--groups",
        "*.bias",
        "--groups",
        "2.*",
        "--hold",
        hold,
        "--out",
        "o",
    ]
    assert ravine(*words) == 0
    assert "2 lines" in capsys.readouterr().out
    lines = by_group(Line("start.safetensors", "end.pt"), ["*.bias", "2.*"], hold=hold)
    expected = evaluate(load_objective("objective.py:make"), along=lines, at=np.linspace(0, 1, 5))
    (file,) = (folder / "o").glob("*.nc")
    found = open_result(file)
    assert list(found["line"].values) == ["*.bias", "2.*"]
    np.testing.assert_array_equal(found["loss"], expected["loss"])


def test_every_policy_for_running_statistics_is_a_row(folder, capsys):
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.save(trained(mlp(seed, norm=True), blobs())[1], name)
    words = [
        "line",
        "objective.py:normed",
        "a.pt",
        "b.pt",
        "--alpha",
        "0:1:5",
        "--compare-buffers",
        "--out",
        "o",
    ]
    assert ravine(*words) == 0
    (file,) = (folder / "o").glob("*.nc")
    found = open_result(file)
    assert sorted(found["line"].values) == ["end", "interpolate", "recompute", "start"]
    assert (
        len({round(float(value), 9) for value in found["loss"].sel(alpha=0.5, split="train")}) == 4
    )


@pytest.mark.parametrize("command", ["line", "barriers"])
def test_a_policy_and_a_device_in_place_of_the_objective_s(folder, capsys, command):
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.save(trained(mlp(seed, norm=True), blobs())[1], name)
    words = [command, "objective.py:normed", "a.pt", "b.pt", "--alpha", "0:1:3", "--out", "o"]
    jobs = ["--jobs", "1"] if command == "line" else []  # a worker is told of both, too
    assert ravine(*words, "--buffers", "start", "--device", "cpu", *jobs) == 0
    (file,) = (folder / "o").glob("*.nc")
    found = open_result(file)
    J = load_objective("objective.py:normed").with_buffers("start")
    expected = evaluate(J, along=Line("a.pt", "b.pt"), at=np.linspace(0, 1, 3))
    assert (found.attrs["buffers"], found.attrs["device"]) == ("start", "cpu")
    np.testing.assert_allclose(found["loss"].squeeze(), expected["loss"].squeeze(), rtol=1e-6)


def test_barriers_are_those_of_python(folder, capsys):
    torch.save(mlp(1).state_dict(), "third.pt")
    assert ravine("barriers", *GOOD, "third.pt", "--alpha", "0:1:9", "--out", "o") == 0
    assert "lines" in capsys.readouterr().out
    (file,) = (folder / "o").glob("*.nc")
    found = metrics.barriers(open_result(file)).of("end")
    points = {"start": "start.safetensors", "end": "end.pt", "third": "third.pt"}
    J = load_objective("objective.py:make")
    expected = metrics.barriers(evaluate(J, along=pairs(points), at=np.linspace(0, 1, 9))).of("end")
    assert [height.value for height in found.values()] == [
        height.value for height in expected.values()
    ]


def test_a_run_projected(folder, capsys):
    assert ravine("project", "objective.py:make", "run", "--alpha", "0:1:5", "--out", "o") == 0
    assert "random walk" in capsys.readouterr().out
    kept = [open_result(file) for file in sorted((folder / "o").glob("*.nc"))]
    path = next(result for result in kept if "residual" in result)
    run = Trajectory.open("run")
    expected = project(run, Line(run[0], run[-1]), objective=load_objective("objective.py:make"))
    for name in ("alpha", "residual", "loss"):
        np.testing.assert_allclose(path[name], expected[name], rtol=1e-12)


@pytest.mark.parametrize(
    "points",
    [
        ["start.safetensors", "end.pt", "third.pt"],
        ["run", "--axes", "extrema"],
        ["run", "--axes", "pca"],
        ["end.pt", "--axes", "random", "--seed", "3"],
    ],
    ids=["three", "extrema", "pca", "random"],
)
def test_planes(folder, capsys, points):
    torch.save(mlp(1).state_dict(), "third.pt")
    words = [
        "plane",
        "objective.py:make",
        *points,
        "--alpha",
        "0:1:3",
        "--beta",
        "-0.5,0,0.5,1",
        "--out",
        "o",
    ]
    assert ravine(*words) == 0
    out = capsys.readouterr().out
    kept = [open_result(file) for file in sorted((folder / "o").glob("*.nc"))]
    (surface,) = [result for result in kept if {"alpha", "beta"} <= set(result.dims)]
    assert (surface.sizes["alpha"], surface.sizes["beta"]) == (3, 4)
    assert ("variance" in out) == ("pca" in points)
    assert len(kept) == (2 if "run" in points else 1)  # a run's path with it
    J = load_objective("objective.py:make")
    if points[0] == "start.safetensors":
        for place, file in (((0, 0), points[0]), ((1, 0), points[1]), ((0, 1), points[2])):
            measured = float(surface["loss"].sel(alpha=place[0], beta=place[1], split="train"))
            assert measured == pytest.approx(J(file)["train"], rel=1e-12)
    elif points[0] == "end.pt":
        assert float(surface["loss"].sel(alpha=0, beta=0, split="train")) == pytest.approx(
            J("end.pt")["train"], rel=1e-12
        )


def test_the_objective_may_be_in_a_module(folder, capsys):
    assert (
        ravine(
            "line", "objective:make", "start.safetensors", "end.pt", "--alpha", "0,1", "--out", "o"
        )
        == 0
    )
    assert len(open_result("o/line.nc")["alpha"]) == 2


GOOD = ["objective.py:make", "start.safetensors", "end.pt"]
BAD = {
    "no such group": (["line", *GOOD, "--groups", "attention.*"], "attention.*"),
    "hold the middle": (
        ["line", *GOOD, "--groups", "modules", "--hold", "middle"],
        "'start' or 'end'",
    ),
    "no running statistics": (["line", *GOOD, "--compare-buffers"], "running statistics"),
    "barriers of one": (["barriers", "objective.py:make", "end.pt"], "two"),
    "barriers of twins": (
        ["barriers", "objective.py:make", "end.pt", "end.pt", "start.safetensors"],
        "end.pt",
    ),
    "barriers, other model": (["barriers", *GOOD, "other.safetensors"], "other"),
    "no run": (["project", "objective.py:make", "nowhere"], "nowhere"),
    "an empty run": (["project", "objective.py:make", "vacant"], "vacant"),
    "a run of one snapshot": (["project", "objective.py:make", "single"], "two or more"),
    "a file for a run": (["project", "objective.py:make", "end.pt"], "end.pt"),
    "two corners": (["plane", *GOOD], "three"),
    "no such axes": (["plane", "objective.py:make", "run", "--axes", "tsne"], "tsne"),
    "axes of a checkpoint": (["plane", "objective.py:make", "end.pt", "--axes", "pca"], "end.pt"),
    "a damaged run": (["project", "objective.py:make", "damaged"], "step-"),
    "no such file": (
        ["line", "objective.py:make", "start.safetensors", "nowhere.pt"],
        "nowhere.pt",
    ),
    "other model": (
        ["line", "objective.py:make", "start.safetensors", "other.safetensors"],
        "'other'",
    ),
    "NaN": (
        ["line", "objective.py:make", "start.safetensors", "nan.safetensors"],
        "NaN or infinity in '0.bias'",
    ),
    "no checkpoint": (
        ["line", "objective.py:make", "start.safetensors", "text.pt"],
        "not a checkpoint",
    ),
    "malicious": (["line", "objective.py:make", "start.safetensors", "evil.pt"], "running code"),
    "same end": (
        ["line", "objective.py:make", "start.safetensors", "start.safetensors"],
        "same point",
    ),
    "alpha word": (["line", *GOOD, "--alpha", "middle"], "--alpha must be"),
    "alpha two parts": (["line", *GOOD, "--alpha", "0:1"], "--alpha must be"),
    "alpha count 0": (["line", *GOOD, "--alpha", "0:1:0"], "--alpha must be"),
    "alpha nan": (["line", *GOOD, "--alpha", "0,nan"], "must be finite"),
    "alpha twice": (["line", *GOOD, "--alpha", "0,1,1"], "once"),
    "out is a file": (["line", *GOOD, "--out", "file"], "cannot write"),
    "out under a file": (["line", *GOOD, "--out", "file/deep"], "cannot write"),
    "no objective": (["line", "objective.py", *GOOD[1:]], "file.py:function"),
    "no objective file": (["line", "absent.py:make", *GOOD[1:]], "absent.py"),
    "no objective module": (["line", "absent:make", *GOOD[1:]], "absent"),
    "no function": (["line", "objective.py:absent", *GOOD[1:]], "it has"),
    "broken function": (["line", "objective.py:broken", *GOOD[1:]], "undefined_name"),
    "broken file": (["line", "syntax.py:make", *GOOD[1:]], "SyntaxError"),
    "no Objective": (["line", "objective.py:wrong", *GOOD[1:]], "returned int"),
    "empty data": (["line", "objective.py:empty", *GOOD[1:]], "empty"),
    "ids of another length": (
        ["line", "objective.py:ids_short", *GOOD[1:]],
        "clusters has 11 ids for the 12 examples of split 'train'",
    ),
    "scalar loss": (["line", "objective.py:scalar", *GOOD[1:]], "reduction='none'"),
    "labels out of range": (
        ["line", "objective.py:from_one", *GOOD[1:]],
        "from 0 to 3. (at alpha = 0, split 'train', batch 0)",
    ),
    "no such device": (["line", *GOOD, "--device", "gpu"], "device 'gpu' cannot be used here"),
    "no such policy": (
        ["line", "objective.py:normed", *GOOD[1:], "--buffers", "middle"],
        "buffers must be one of 'start'",
    ),
    "a policy for nothing": (["project", *GOOD[:1], "run", "--buffers", "end"], "no running stat"),
    "crash in the model": (["line", "objective.py:crashing", *GOOD[1:]], "alpha ="),
    "report of nothing": (["report", "."], "no results"),
    "report of no folder": (["report", "nowhere"], "not a folder"),
    "another library": (["line", *GOOD, "--plotlyjs", "local"], "inline"),
    "inspect nothing": (["inspect", "start.safetensors", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, capsys, case):
    words, said = BAD[case]
    before = {
        p.relative_to(folder): p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if "__pycache__" not in str(p)
    }
    assert ravine(*words) == 2
    out, err = capsys.readouterr()
    assert said in err.replace("\n", " ")
    assert "Traceback" not in out + err
    assert err.splitlines()[-1].strip()
    made = [
        p
        for p in folder.rglob("*")
        if "__pycache__" not in str(p) and p.is_file() and p.relative_to(folder) not in before
    ]
    if case == "a damaged run":  # its line was measured, and is kept for when the run is mended
        made = [p for p in made if p.name != "measured.sqlite"]
    assert made == []
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("function", "alpha", "said"),
    [
        ("one", "0:1:3", "1 independent example nothing is said about others"),
        ("one_cluster", "0:1:3", "1 independent example nothing is said about others"),
        ("strata_of_one", "0:1:3", "the standard error over examples is not known"),
        ("undefined", "0:1:3", "none of its 3 points is finite"),
        ("make", "0.5:0.5:1", "There is a single point"),
        ("make", "0.2:0.8:3", "part α = 0.2 to 0.8"),
    ],
)
def test_what_can_hardly_be_asked_has_an_answer(folder, capsys, function, alpha, said):
    words = ["line", f"objective.py:{function}", *GOOD[1:], "--alpha", alpha, "--out", "o"]
    assert ravine(*words) == 0
    out, err = capsys.readouterr()
    assert said in " ".join(out.split())
    assert "Warning" not in out + err


@pytest.mark.parametrize(
    "words", [["line"], ["line", "a", "b"], ["unknown"], ["line", *GOOD, "--alhpa", "1"]]
)
def test_wrong_usage_is_exit_code_2(folder, capsys, words):
    assert ravine(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_inspect(folder, capsys):
    assert ravine("inspect", "start.safetensors", "end.pt") == 0
    assert "The distance is" in capsys.readouterr().out
    assert ravine("inspect", "start.safetensors", "other.safetensors") == 2
    assert "missing in other.safetensors" in capsys.readouterr().out


def test_help_and_version():
    for words, said in (
        (["--help"], "demo"),
        (["line", "--help"], "--alpha"),
        (["--version"], "ravine 0."),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ravine", *words], capture_output=True, text=True, check=True
        )
        assert said in done.stdout


@pytest.mark.usefixtures("painted")
def test_the_demo_shows_a_descent_and_a_barrier(tmp_path, capsys):
    """The positive control: two seeds' solutions must have a barrier, or the detector is blind."""
    from ravine import metrics

    assert ravine("demo", "--out", str(tmp_path / "demo")) == 0
    out, _ = capsys.readouterr()
    assert "report.html" in out
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {
        "report.html",
        "descent.nc",
        "descent.png",
        "crossing.nc",
        "crossing.png",
        "init-a.safetensors",
    } <= names
    descent = metrics.verdict(open_result(tmp_path / "demo" / "descent.nc")).measures[
        "train", "loss"
    ]
    crossing = metrics.verdict(open_result(tmp_path / "demo" / "crossing.nc")).measures[
        "train", "loss"
    ]
    assert descent.monotone
    assert not descent.has_barrier
    assert crossing.has_barrier
    height = crossing.barriers["end"]
    assert height.value > max(0.05, 10 * height.stderr)
    assert 0.3 < height.at < 0.7
    again = open_result(tmp_path / "demo" / "descent.nc")
    assert again.sizes["alpha"] == 201
    assert float(again["loss"].sel(alpha=0, split="train")) == pytest.approx(np.log(10), rel=0.05)


@pytest.mark.parametrize(
    ("words", "results"),
    [
        (
            ["line", "objective.py:make", "start.safetensors", "end.pt", "--alpha", "0:1:9"],
            {"line"},
        ),
        (["barriers", "objective.py:make", "start.safetensors", "end.pt"], {"barriers"}),
        (["project", "objective.py:make", "run", "--alpha", "0:1:5"], {"line", "path"}),
        (
            ["plane", "objective.py:make", "run", "--axes", "pca"]
            + ["--alpha", "0:1:3", "--beta", "0:1:3"],
            {"plane", "path"},
        ),
    ],
    ids=["line", "barriers", "project", "plane"],
)
@pytest.mark.usefixtures("painted")  # a page of every kind, as a user has it
def test_json_is_all_that_is_printed_and_names_every_file(folder, capsys, words, results):
    assert ravine(*words, "--out", "o", "--json") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["report"] == "o/report.html"
    assert set(found["results"]) == results
    for name, one in found["results"].items():
        assert one["file"] == f"o/{name}.nc"
        assert one["verdict"] == metrics.verdict(open_result(one["file"])).to_dict()


@pytest.mark.parametrize(("end", "code"), [("end.pt", 0), ("nan.safetensors", 2)])
def test_inspect_as_json(folder, capsys, end, code):
    assert ravine("inspect", "start.safetensors", end, "--json") == code
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["distance"] is None) == (code == 2)
