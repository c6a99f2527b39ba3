"""``ravine paper`` and ``ravine data``: what is typed, and a sentence where it cannot be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from ravine import cli
from ravine.paper import data, recipes
from sketches import sketched  # noqa: F401  pytest's way to share fixtures


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAVINE_DATA", raising=False)


def ravine(*words):
    try:
        sys.argv = ["ravine", *words]
        cli.main()
    except SystemExit as done:
        return done.code
    return 0


def test_recipes_are_listed(capsys):
    assert ravine("paper", "list") == 0
    said = capsys.readouterr().out
    assert "maxout-mnist       maxout 784–240×5–240×5–10, on mnist, 2 phases\n" in said
    told = [line.partition(" ")[2].strip() for line in said.splitlines() if line]
    assert len(set(told)) == len(told)  # no two are described alike


@pytest.fixture
def shortened(monkeypatch):
    """Makes every recipe's phases so long, in epochs."""
    full = recipes.recipe

    def shorten(*epochs):
        def short(*given):
            recipe = full(*given)
            pairs = zip(recipe.phases, epochs, strict=False)
            phases = tuple(replace(phase, epochs=few) for phase, few in pairs)
            return replace(recipe, phases=phases)

        monkeypatch.setattr(recipes, "recipe", short)

    return shorten


def test_training_is_done_once(capsys, shortened):
    shortened(1, 1)
    command = ("paper", "train", "maxout-mnist", "--profile", "quick", "--seed", "3", "--out", "o")
    assert ravine(*command) == 0
    said = capsys.readouterr()
    assert "phase 1 epoch 1: objective" in said.err
    assert "errors on the test part" in said.out
    assert "after phase 2" in said.out
    assert ravine(*command) == 0
    again = capsys.readouterr()
    assert again.out == said.out
    assert again.err == ""


def test_data_is_listed(capsys):
    assert ravine("data", "list") == 0
    said = capsys.readouterr().out
    assert "not here" in said
    assert "digits" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("paper", "train", "vgg"), "there is no recipe 'vgg'"),
        (("paper", "train", "relu-mnist", "--profile", "fast"), "there is no profile 'fast'"),
        (("paper", "train", "relu-mnist", "--data", "."), "lacks mnist/train-images-idx3-ubyte.gz"),
        (("paper", "run", "fig5", "fig99"), "there is no figure 'fig99'; there are fig1"),
        (("paper", "run", "fig5", "--profile", "fast"), "there is no profile 'fast'"),
        (("paper", "run", "fig5", "--data", "."), "lacks mnist/train-images-idx3-ubyte.gz"),
        (("paper", "check", "--profile", "fast"), "there is no profile 'fast'"),
        (("data", "fetch", "cifar"), "there is no data set 'cifar'"),
        (("data", "fetch", "mnist"), "could not be fetched: no mirror"),
    ],
)
def test_bad_input_is_one_sentence(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(data.SOURCES, "mnist", replace(data.SOURCES["mnist"], mirrors=()))
    assert ravine(*words) == 2
    message = capsys.readouterr().err
    assert message.startswith("ravine: ")
    assert said.removesuffix(": no mirror") in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("ravine-paper*"))  # nothing was begun


def test_the_command_line_starts_without_torch():
    code = "import sys, ravine.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_figure_is_run_checked_and_put_on_a_page(capsys, shortened):
    shortened(8, 2)
    assert ravine("paper", "run", "fig5", "--profile", "quick", "--out", "o") == 0
    said = capsys.readouterr()
    assert "measuring fig5-path" in said.err
    assert "fig5, profile quick: o/figures/fig5-quick" in said.out
    assert "fig5 (quick), §3: “Of course, SGD does not operate in this linear subspace”" in said.out
    assert ravine("paper", "check", "--out", "o", "--docs", "page", "--keep", "small") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "not run (arm: holds)" in said.out
    assert "written: page/README.md, page/claims.json, page/summary.png" in said.out
    assert "kept in small: " in said.out
    assert ravine("paper", "check", "--out", "small", "--words") == 0
    again = capsys.readouterr().out
    assert "fig5 (quick), §3: “Of course, SGD does not operate in this linear subspace”" in again


def test_where_nothing_was_run_nothing_is_claimed(capsys):
    assert ravine("paper", "check") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("not run")
    assert "holds" not in last


def test_figures_are_listed(capsys):
    assert ravine("paper", "list") == 0
    assert (
        "fig5               How far training strays from the line, beside a random walk."
        in capsys.readouterr().out
    )
