"""Steps from names. The kind: a name holds several numbers, and one of them is the step.

Siblings tried: metrics (decimal and whole), seeds, versions, dates, sizes
(``resnet18``, ``7b``), units (``10k``, ``1.5M``), scientific notation, negative and
broken steps, parts (``1-of-4``), words before and behind, epochs with and without
steps. Each is read rightly, passed over, or refused with what was read.
"""

from __future__ import annotations

import pytest

from ravine import InputError
from ravine.points.steps import steps_of


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        ([f"run-epoch={i:02d}-val_loss=0.{9 - i}1" for i in range(3)], [0, 1, 2]),
        (["model_epoch_0_acc_71.3", "model_epoch_1_acc_80.1"], [0, 1]),
        (["checkpoint_5_loss_3", "checkpoint_6_loss_2"], [5, 6]),
        (["ckpt_10k", "ckpt_1.5M", "ckpt_2M"], [10_000, 1_500_000, 2_000_000]),
        (["ckpt-1e5"], [100_000]),
        (["rl_model_100_steps_seed3", "rl_model_200_steps_seed1"], [100, 200]),
        (["seed3_step10", "seed3_step20"], [10, 20]),
        (["epoch=3-step=500"], [500]),
        (["epoch_3_step_500"], [500]),
        (["step=100-v1"], [100]),
        (["100steps", "200steps"], [100, 200]),
        (["global_step500"], [500]),
        (["resnet50_12"], [12]),
        (["pythia-70m_1000", "pythia-70m_2000"], [1000, 2000]),
        (["2024-01-05_model_10", "2024-01-05_model_20"], [10, 20]),
        (["gpt-2-100", "gpt-2-200"], [100, 200]),
        (["epoch_3_500", "epoch_4_500"], [3, 4]),
        (["weights.05-0.31", "weights.06-0.29"], [5, 6]),
        (["lr0.1_model_5", "lr0.01_model_6"], [5, 6]),
        (["100", "20"], [100, 20]),
    ],
)
def test_the_step_is_told_from_what_stands_beside_it(names, steps):
    assert steps_of(names) == dict(zip(names, steps, strict=True))


@pytest.mark.parametrize(
    "name",
    ["best", "resnet18_init", "vgg16", "llama_7b", "best-v1", "model-00001-of-00002", "val_loss=3"],
)
def test_names_without_a_step_are_passed_over(name):
    assert steps_of([name, "step_3"]) == {"step_3": 3}
    assert steps_of([name]) == {}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["a_1_2", "a_2_4"],
            r"which number of 'a_1_2' is the step\? There are 'a_1' \(1\), '2' \(2\)",
        ),
        (["epoch_3_500"], r"'epoch_3' \(3\), '500' \(500\)"),
        (["2024-01-05_model_10"], "which number"),
        (["model_100_steps_5"], r"'model_100' \(100\), 'steps_5' \(5\)"),
        (["step_-1"], "reads as -1"),
        (["step_1.5"], "reads as 1.5"),
        (["model_1e99"], "expected a whole number"),
        (["epoch_1", "model_500"], "epochs and steps"),
        (["step_10", "model_20"], "'model_20' has another number"),
    ],
)
def test_what_stays_open_is_refused_with_what_was_read(names, said):
    with pytest.raises(InputError, match=said) as caught:
        steps_of(names)
    assert "steps={" in str(caught.value)


def test_steps_may_be_said():
    names = ["a_1_2", "a_2_4", "best"]
    assert steps_of(names, {"a_1_2": 7}) == {"a_1_2": 7}
    assert steps_of(names, lambda name: int(name[-1]) if name[-1].isdigit() else None) == {
        "a_1_2": 2,
        "a_2_4": 4,
    }
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(InputError, match="expected a whole number from 0, or None"):
            steps_of(names, {"best": wrong})
