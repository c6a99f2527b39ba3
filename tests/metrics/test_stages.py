"""The verdict on aligned pairs: the barrier as it is, aligned, and repaired, in a sentence."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

import ravine
from ravine.plot.curves import title


def pairs_of(count: int):
    """Lines between permuted copies of one network, each a little off: aligned they are near."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1))
    x = torch.randn(40, 2)
    with torch.no_grad():
        y = model(x)
    J = ravine.Objective(model, ravine.supervised(nn.functional.mse_loss), (x, y))  # noqa: N806
    points = {f"p{k}": permuted(model.state_dict(), k) for k in range(count)}
    return ravine.compare_alignment(J, points, [0, 0.5, 1])


def permuted(tensors: dict[str, Tensor], shift: int) -> dict[str, Tensor]:
    order = torch.arange(6).roll(shift)
    rows = {name: tensors[name][order] for name in ("0.weight", "0.bias")}
    moved = {**tensors, **rows, "2.weight": tensors["2.weight"][:, order]}
    return {name: tensor + 0.01 * shift for name, tensor in moved.items()}


def test_one_pair_is_told_stage_by_stage() -> None:
    found = pairs_of(2)
    assert title(found) == "p0 – p1: as it is; aligned; aligned and repaired"
    said = ravine.metrics.verdict(found)
    start, aligned, repaired = said.headline.removesuffix(".").split("; ")
    assert start.startswith("The barrier in the data loss is ")
    assert aligned.startswith("aligned, ")
    assert repaired.startswith("aligned and repaired, ")
    heights = [float(re.findall(r"\d[\de.-]*", one)[0]) for one in (start, aligned)]
    assert heights[1] < heights[0] / 10
    assert any("1 sets of units matched by weights" in one for one in said.sentences)


def test_several_pairs_are_counted() -> None:
    found = pairs_of(3)
    assert title(found).startswith("p0 – p1, p0 – p2 and p1 – p2: as they are; aligned")
    headline = ravine.metrics.verdict(found).headline
    assert headline.startswith("The highest barrier in the data loss is ")
    assert re.search(r"\(\d of 3 shown\)", headline.split("; ")[1])


def test_a_page_of_one_pair_calls_its_lines_by_what_was_done(tmp_path) -> None:
    page = ravine.write_report(tmp_path, pairs_of(2)).read_text(encoding="utf-8")
    assert "<h1>p0 – p1: as it is; aligned; aligned and repaired</h1>" in page
    assert "p0 – p1, aligned" not in page
