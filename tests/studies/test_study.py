"""Studies: networks are trained once, and each stage has its number and its answer."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

import ravine
from ravine.studies.networks import mlp
from ravine.studies.study import STAGES, Arm, measured, plan_of


@pytest.mark.calibration
def test_a_study_measures_each_stage_and_resumes(tmp_path: Path) -> None:
    arms = (Arm("MLP 2×32", lambda: mlp(64, 32, 2), {"aligned": "0"}, "other data"),)
    plan = replace(plan_of("rebasin", "quick"), arms=arms, pairs=2, epochs=20)
    said: list[str] = []
    rows = measured(plan, tmp_path, None, said.append)
    assert [row.stage for row in rows] == list(STAGES)
    raw, aligned, _ = rows
    assert raw.decisions == ("shown", "shown")
    assert aligned.loss < raw.loss / 2
    assert aligned.loss_stderr > 0
    assert (aligned.published, aligned.differs) == ("0", "other data")
    assert (raw.published, raw.differs) == ("", "")
    trained = [one for one in said if "seed" in one]
    assert len(trained) == 4
    again = measured(plan, tmp_path, None, said.append)
    assert again == rows
    assert len([one for one in said if "seed" in one]) == 4
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        assert [row["stage"] for row in csv.DictReader(file)] == list(STAGES)


def test_published_numbers_stand_beside_their_own_data_only() -> None:
    assert any(arm.published for arm in plan_of("rebasin", "desk").arms)
    assert not any(arm.published for arm in plan_of("rebasin", "quick").arms)
    assert plan_of("repair", "desk").data == "cifar10"


def test_bad_input_is_refused() -> None:
    with pytest.raises(
        ravine.InputError, match="there is no study 'magic'; there are rebasin, repair"
    ):
        plan_of("magic", "quick")
    with pytest.raises(ravine.InputError, match="there is no profile"):
        plan_of("repair", "full")
