"""Soups: spoiled members are left out, nothing is chosen on the split that judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ravine

SIZE = 6


def objective(count: int = 400, **given: Any) -> ravine.Objective:
    """A linear regression with noise; the best point is w = 1."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(count, SIZE, generator=generator)
        return x, x.sum(1, keepdim=True) + 0.3 * torch.randn(count, 1, generator=generator)

    data = {"train": drawn(), "valid": drawn(), "test": drawn()}
    model = nn.Linear(SIZE, 1, bias=False)
    return ravine.Objective(model, ravine.supervised(F.mse_loss), data, **given)


def fine_tuned(spoiled: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    """Ten copies near the best point, each with an error of its own; some are far from it."""
    generator = torch.Generator().manual_seed(1)
    points = {}
    for number in range(10):
        noise = 2.0 if number < spoiled else 0.2
        off = noise * torch.randn(1, SIZE, generator=generator)
        points[f"copy {number}"] = {"weight": 1 + off}
    return points


def test_greedy_leaves_spoiled_members_out_and_gains_on_unseen_data() -> None:
    found = ravine.soup(objective(), fine_tuned(), method="greedy")
    assert not {"copy 0", "copy 1"} & found.weights.keys()
    assert len(found.weights) >= 2
    judged = found.judgement
    assert judged is not None
    assert judged.answer == "better"
    assert judged.split == "test"
    assert 0 < judged.stderr < abs(judged.difference)
    mean = ravine.average([fine_tuned()[name] for name in found.weights])
    assert torch.equal(found.params["weight"], mean["weight"])


def test_the_history_says_every_step() -> None:
    found = ravine.soup(objective(), fine_tuned(), method="greedy")
    history = found.history
    assert list(history["step"].values) == list(history["member"].values)
    accepted = [str(name) for name in history["step"].values[history["accepted"].values]]
    assert accepted == list(found.weights)
    assert np.all(np.diff(history["member_value"]) >= 0), "tried from the best to the worst"
    assert "excluded" not in str(history["reason"].sel(step="copy 0").item())
    assert history["weight"].sum() == pytest.approx(1)
    assert found.judgement is not None
    assert history.attrs["judged_difference"] == found.judgement.difference


def test_the_history_is_a_result_that_is_kept_and_reported(tmp_path: Path) -> None:
    history = ravine.soup(objective(), fine_tuned(), method="greedy").history
    said = ravine.metrics.verdict(history)
    taken = int((history["weight"] > 0).sum())
    assert f"average of {taken} of 10 members is better than the best" in said.headline
    assert "Left out:" in said.sentences[0]
    assert "copy 0" in said.sentences[0].partition("Left out:")[2]
    page = ravine.write_report(tmp_path, history).read_text(encoding="utf-8")
    for reason in map(str, history["reason"].values):
        assert reason in page
    assert str(history["member_hash"].values[0]) in page
    kept = ravine.open_result(tmp_path / "report-1-soup.nc")
    assert kept.identical(history)
    with pytest.raises(ravine.InputError, match="history of a soup"):
        ravine.plot.line(history)
    with pytest.raises(ravine.InputError, match="history of a soup"):
        ravine.metrics.decide(history, "barrier", above=0.02)


def test_the_figure_of_a_soup_marks_what_was_taken() -> None:
    history = ravine.soup(objective(), fine_tuned(), method="greedy").history
    marks = {
        one.label: one
        for one in ravine.plot.soup(history).panels[0].layers
        if hasattr(one, "symbol")
    }
    compared = history.isel(step=slice(1, None))
    taken = compared["accepted"].values
    np.testing.assert_array_equal(marks["taken"].x, compared["difference"].values[taken])
    np.testing.assert_array_equal(marks["left out"].x, compared["difference"].values[~taken])
    assert marks["left out"].symbol == "cross"


def test_the_mean_of_all_is_given_as_asked_and_judged() -> None:
    points = fine_tuned(spoiled=4)
    found = ravine.soup(objective(), points)
    assert torch.equal(
        found.params["weight"], ravine.average(list(found_order(points, found)))["weight"]
    )
    assert found.judgement is not None
    assert found.judgement.answer == "worse"


def found_order(points: dict[str, Any], found: Any) -> list[Any]:
    return [points[name] for name in found.weights]


def test_learned_weights_are_the_best_mixture() -> None:
    """Two points on opposite sides of the best one: weights 3/4 and 1/4 hit it."""
    points = {
        "near": {"weight": torch.full((1, SIZE), 0.9)},
        "far": {"weight": torch.full((1, SIZE), 1.3)},
    }
    found = ravine.soup(objective(), points, method="learned")
    assert found.weights["near"] == pytest.approx(0.75, abs=0.05)
    assert sum(found.weights.values()) == pytest.approx(1)


def test_the_published_rule_takes_what_the_decided_one_does_not() -> None:
    """On few examples nothing is excluded, and the mean is lower by luck."""
    J = objective(count=40)  # noqa: N806
    points = fine_tuned(spoiled=0)
    decided = ravine.soup(J, points, method="greedy")
    best = ravine.soup(J, points, method="greedy", rule="best")
    assert len(decided.weights) < len(best.weights)
    assert best.history.attrs["rule"] == "best"


def test_the_scale_of_task_vectors_is_chosen_on_one_split_and_judged_on_another() -> None:
    base = {"weight": torch.zeros(1, SIZE)}
    tasks = [{"weight": torch.eye(SIZE)[k : k + 1] * 2} for k in range(SIZE)]
    found = ravine.task_soup(objective(), base, tasks, scales=[0.1, 0.5, 1.0])
    torch.testing.assert_close(found.params["weight"], torch.ones(1, SIZE))
    assert list(found.weights) == ["scale 0.5"]
    assert found.judgement is not None
    assert found.judgement.answer == "better"


def test_nothing_is_measured_on_the_judging_split_before_the_end() -> None:
    data = objective().splits
    sources = {split.name: split.tensors for split in data}
    poisoned = sources | {"test": (sources["test"][0], torch.zeros(400, 1))}
    model = nn.Linear(SIZE, 1, bias=False)
    J = ravine.Objective(model, ravine.supervised(F.mse_loss), poisoned)  # noqa: N806
    one = ravine.soup(objective(), fine_tuned(), method="greedy")
    other = ravine.soup(J, fine_tuned(), method="greedy")
    assert one.weights == other.weights
    assert one.judgement != other.judgement


def test_one_set_of_examples_under_two_names_is_refused():
    x, y = torch.randn(40, SIZE), torch.randn(40, 1)
    twice = {"valid": (x, y), "test": (x.flip(0), y.flip(0))}
    model = nn.Linear(SIZE, 1, bias=False)
    J = ravine.Objective(model, ravine.supervised(F.mse_loss), twice)  # noqa: N806
    with pytest.raises(ravine.InputError, match="'valid' and 'test' hold the same examples"):
        ravine.soup(J, fine_tuned(), method="greedy")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"select": "test"}, "select and judge are both 'test'"),
        ({"select": "dev"}, "the objective has the splits"),
        ({"method": "best"}, "method must be one of"),
        ({"rule": "lucky"}, "rule must be"),
        ({"quantity": "error"}, "the objective has the quantities"),
    ],
)
def test_bad_input_is_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ravine.InputError, match=match):
        ravine.soup(objective(), fine_tuned(), **given)
    with pytest.raises(ravine.InputError, match="2 points or more; got 1"):
        ravine.soup(objective(), {"a": {"weight": torch.ones(1, SIZE)}})
    with pytest.raises(ravine.InputError, match="the one path 'a.pt'"):
        ravine.soup(objective(), "a.pt")
    with pytest.raises(ravine.InputError, match=r"broken \(a state dict\) holds NaN"):
        ravine.soup(
            objective(), fine_tuned() | {"broken": {"weight": torch.full((1, SIZE), torch.nan)}}
        )
    with pytest.raises(ravine.InputError, match="scales must be the multiples"):
        ravine.task_soup(objective(), fine_tuned()["copy 3"], fine_tuned(), scales=["a"])
    with pytest.raises(ravine.InputError, match="not points of the same space"):
        ravine.soup(
            objective(), {"a": {"weight": torch.ones(1, 2)}, "b": {"weight": torch.ones(1, 2)}}
        )


def test_learned_weights_and_running_statistics_do_not_go_together() -> None:
    model = nn.Sequential(nn.Linear(SIZE, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    data = {split.name: split.tensors for split in objective().splits}
    squared = ravine.supervised(F.mse_loss)
    J = ravine.Objective(model, squared, data, buffers="recompute")  # noqa: N806
    with pytest.raises(ravine.InputError, match="without running statistics"):
        ravine.soup(J, [model, model], method="learned")
    other = nn.Sequential(nn.Linear(SIZE, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    found = ravine.soup(J, [model, other], method="uniform")
    x = data["train"][0]  # pyright: ignore[reportOptionalSubscript]
    hidden = x @ found.params["0.weight"].T + found.params["0.bias"]
    # what is written are the statistics of the average itself, on the first split
    torch.testing.assert_close(
        found.tensors["1.running_mean"], hidden.mean(0), atol=1e-5, rtol=1e-4
    )
    assert found.judgement is not None
    written = J.with_buffers("start").on("test")(found)["test"]
    assert written == pytest.approx(J.on("test")(found)["test"], rel=1e-5)
