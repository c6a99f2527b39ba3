"""The command line of merging: align, soup, average, and barriers with aligned lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ravine as library
from oracles import blobs, mlp, trained
from sketches import painted, sketched  # noqa: F401
from test_cli import folder as folder  # noqa: PLC0414  pytest's way to share a fixture
from test_cli import ravine

OBJECTIVE = """

def split():
    x, y = torch.load("data.pt")
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    parts = {"valid": (x[::2], y[::2]), "test": (x[1::2], y[1::2])}
    return ravine.Objective(model, ravine.supervised(F.cross_entropy), parts)
"""


@pytest.fixture
def made(folder: Path) -> Path:
    """Two solutions from different starts, and one that is spoiled."""
    source = folder / "objective.py"
    source.write_text(source.read_text() + OBJECTIVE)
    for seed in (1, 2):
        _, end = trained(mlp(seed), blobs())
        torch.save(end, folder / f"seed{seed}.pt")
    torch.manual_seed(0)
    spoiled = {name: p + 3 * torch.randn_like(p) for name, p in end.items()}
    torch.save(spoiled, folder / "spoiled.pt")
    return folder


def test_an_aligned_checkpoint_is_that_of_python(made: Path, capsys: Any) -> None:
    words = ["align", "objective.py:make", "seed1.pt", "seed2.pt", "--out", "aligned.pt"]
    assert ravine(*words) == 0
    assert "Outputs on the batch agree" in capsys.readouterr().out
    found = torch.load("aligned.pt")
    model = mlp(1)
    expected = library.align("seed2.pt", to="seed1.pt", model=model, batch=blobs()[0])
    assert all(torch.equal(found[name], expected.tensors[name]) for name in found)


@pytest.mark.usefixtures("painted")
def test_barriers_with_aligned_and_repaired_lines(made: Path, capsys: Any) -> None:
    words = ["barriers", "objective.py:make", "seed1.pt", "seed2.pt", "--align", "--alpha", "0:1:7"]
    assert ravine(*words, "--out", "o") == 0
    assert "aligned and repaired" in capsys.readouterr().out
    found = library.open_result(made / "o" / "barriers.nc")
    names = [str(name) for name in found["line"].values]
    raw = "seed1.pt – seed2.pt"
    assert names == [raw, f"{raw}, aligned", f"{raw}, aligned and repaired"]
    ends = found["loss"].isel(split=0).sel(alpha=1.0).values
    np.testing.assert_allclose(ends, ends[0], rtol=1e-5)
    assert "distance" in str(found.attrs["alignment"])
    page = (made / "o" / "report.html").read_text(encoding="utf-8")
    assert "aligned and repaired" in page


def test_a_greedy_soup_says_each_decision(made: Path, capsys: Any) -> None:
    words = ["soup", "objective.py:split", "seed1.pt", "spoiled.pt", "--out", "soup.safetensors"]
    assert ravine(*words, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["weights"]) == ["seed1.pt"]
    assert [step["accepted"] for step in said["steps"]] == [True, False]
    assert said["judgement"]["answer"] == "tied"
    assert json.loads((made / "soup.safetensors.decisions.json").read_text()) == said
    kept = library.Checkpoint.read("soup.safetensors").tensors
    assert all(torch.equal(kept[n], tensor) for n, tensor in torch.load("seed1.pt").items())
    assert ravine(*words) == 2
    assert "already exists" in capsys.readouterr().err
    assert ravine(*words, "--report", "o", "--overwrite") == 0
    assert str(Path("o") / "report.html") in capsys.readouterr().out
    page = (made / "o" / "report.html").read_text(encoding="utf-8")
    assert "It is written to soup.safetensors." in page
    assert "the best member, seed1.pt, stays alone" in page
    assert library.open_result(made / "o" / "soup.nc").attrs["file"] == "soup.safetensors"
    assert ravine("report", "o") == 0
    capsys.readouterr()
    uniform = [*words[:-1], "uniform.pt", "--method", "uniform"]
    assert ravine(*uniform, "--report", "o") == 2
    assert "another command" in capsys.readouterr().err
    assert ravine(*uniform) == 0
    assert "On test, against the best member: worse" in capsys.readouterr().out


def test_averages_take_weights_or_a_decay(made: Path, capsys: Any) -> None:
    both = ["seed1.pt", "seed2.pt"]
    assert ravine("average", *both, "--weights", "0.25,0.75", "--out", "a.pt") == 0
    expected = library.average(both, [0.25, 0.75])
    assert all(torch.equal(t, expected[n]) for n, t in torch.load("a.pt").items())
    assert ravine("average", *both, "--decay", "sqrt", "--out", "model") == 0
    assert (made / "model" / "model.safetensors").is_file()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["align", "objective.py:make", "seed1.pt", "other.safetensors", "--out", "x.pt"], "other"),
        (
            [
                "align",
                "objective.py:make",
                "seed1.pt",
                "seed2.pt",
                "--out",
                "x.pt",
                "--method",
                "magic",
            ],
            "method",
        ),
        (["soup", "objective.py:make", "seed1.pt", "seed2.pt", "--out", "x.pt"], "splits"),
        (
            [
                "soup",
                "objective.py:split",
                "seed1.pt",
                "seed2.pt",
                "--out",
                "x.pt",
                "--select",
                "test",
            ],
            "both",
        ),
        (["soup", "objective.py:split", "seed1.pt", "--out", "x.pt"], "2 points"),
        (["average", "seed1.pt", "seed2.pt", "--out", "x.pt", "--weights", "1,1"], "sum to 1"),
        (["average", "seed1.pt", "seed2.pt", "--out", "x.pt", "--weights", "a,b"], "numbers"),
        (
            ["average", "seed1.pt", "--out", "x.pt", "--weights", "1", "--decay", "linear"],
            "together",
        ),
        (["average", "seed1.pt", "--out", "x.npz"], "format"),
        (["barriers", "objective.py:make", "run", "run", "--align"], "is a run"),
        (["average", "seed1.pt", "seed2.pt", "--out", "seed2.pt"], "one of the input checkpoints"),
        (["average", "seed1.pt", "seed2.pt", "--out", "spoiled.pt"], "already exists"),
        (
            ["align", "objective.py:make", "seed1.pt", "seed2.pt", "--out", "seed1.pt"],
            "one of the input checkpoints",
        ),
    ],
)
def test_bad_input_is_one_sentence(made: Path, capsys: Any, words: list[str], said: str) -> None:
    assert ravine(*words) == 2
    out, err = capsys.readouterr()
    assert said in err.replace("\n", " ")
    assert "Traceback" not in out + err
    assert not (made / "x.pt").exists()
