"""Averages: weights, schedules, task vectors."""

from __future__ import annotations

import pytest
import torch

import ravine


def at(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([float(value), -float(value)])}


def test_weights_are_taken_as_given() -> None:
    found = ravine.average([at(1), at(2), at(10)], weights=[0.5, 0.75, -0.25])
    torch.testing.assert_close(found["w"], torch.tensor([-0.5, 0.5]))


def test_a_weight_of_one_is_that_point_bit_for_bit() -> None:
    found = ravine.average([at(0.1), at(0.3)], weights=[0, 1])
    assert torch.equal(found["w"], at(0.3)["w"])


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([1.0], "one weight a point, 2; got 1"),
        ([2.0, 1.0], "sum to 1; they sum to 3"),
        ([1, float("nan")], "sum to nan"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list[float], match: str) -> None:
    with pytest.raises(ravine.InputError, match=match):
        ravine.average([at(1), at(2)], weights=weights)


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt"])
def test_snapshots_merged_are_the_run_with_a_decayed_rate(shape: str) -> None:
    """A run of constant rate on fixed gradients: the mean is what decayed steps would give."""
    torch.manual_seed(0)
    steps = torch.randn(7, 3)
    snapshots = [{"w": steps[: i + 1].sum(0)} for i in range(7)]
    weights = ravine.decay_weights(7, shape)  # pyright: ignore[reportArgumentType]
    assert sum(weights) == pytest.approx(1)
    rate = [1.0]
    for weight in weights:
        rate.append(rate[-1] - weight)
    decayed = sum((rate[i] * steps[i] for i in range(1, 7)), start=steps[0])
    torch.testing.assert_close(ravine.average(snapshots, weights=weights)["w"], decayed)


def test_schedules_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ravine.InputError, match="shape must be one of"):
        ravine.decay_weights(3, "stairs")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ravine.InputError, match="at least 1"):
        ravine.decay_weights(0)


def test_task_vectors_add_up_and_come_off() -> None:
    found = ravine.task_arithmetic(at(1), [at(2), at(5)], 1.0)
    torch.testing.assert_close(found["w"], torch.tensor([6.0, -6.0]))  # 1 + 1 + 4
    gone = ravine.task_arithmetic(at(1), [at(2)], -1.0)
    torch.testing.assert_close(gone["w"], torch.tensor([0.0, 0.0]))
    with pytest.raises(ravine.InputError, match="no task vectors"):
        ravine.task_arithmetic(at(1), [], 0.3)
