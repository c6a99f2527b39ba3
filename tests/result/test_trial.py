"""A damaged file costs another process, and is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

import ravine
from oracles import of_w, point
from ravine.result import trial

KEPT = Path(__file__).parent.parent / "kept"


@pytest.fixture
def result(tmp_path):
    curve = ravine.evaluate(
        of_w(lambda w, x: w[0] ** 2), along=ravine.Line(point(0.0, 0.0), point(1.0, 0.0)), at=[0, 1]
    )
    return ravine.save_result(curve, tmp_path / "curve.nc")


def test_an_honest_file_is_read_and_known(result):
    os.utime(result, ns=(1, 1))  # not as it was written here
    assert trial.wrong_with(result) == ""
    began = time.perf_counter()
    assert trial.wrong_with(result) == ""
    assert time.perf_counter() - began < 0.05
    assert np.array_equal(ravine.open_result(result)["loss"].values[:, 0], [0.0, 1.0])


@pytest.mark.parametrize("name", ["endless-1.nc", "endless-2.nc"])
def test_a_file_that_is_read_for_ever_is_refused(name, monkeypatch):
    monkeypatch.setattr(trial, "_CPU_SECONDS", 1)
    with pytest.raises(
        ravine.InputError, match="cannot be read as netCDF-4 .reading it takes more than"
    ):
        ravine.open_result(KEPT / name)


def test_the_next_file_is_read_all_the_same(result):
    os.utime(result, ns=(2, 2))
    trial._RUNNING[0].end() if trial._RUNNING else None
    assert trial.wrong_with(result) == ""


def test_what_is_no_hdf5_is_said(tmp_path):
    file = tmp_path / "text.nc"
    file.write_text("no such thing")
    with pytest.raises(ravine.InputError, match="cannot be read as netCDF-4"):
        ravine.open_result(file)
