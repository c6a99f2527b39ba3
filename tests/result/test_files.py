"""Files are written whole or not at all; what killed processes left is swept; errors are plain."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from safetensors import SafetensorError

import ravine
from oracles import of_w, point
from ravine import files
from ravine.files import written_whole


def test_what_a_killed_process_left_is_swept(tmp_path):
    files._swept.discard(tmp_path)
    stray, live, own = (
        tmp_path / name for name in (".curve.nc.ab12cd34", ".curve.nc.zz99zz99", ".notes.nc.mine")
    )
    for file in (stray, live, own):
        file.write_text("half")
    day_before = time.time() - 2 * 24 * 3600
    for file in (stray, own):
        os.utime(file, (day_before, day_before))
    with written_whole(tmp_path / "curve.nc") as partial:
        partial.write_text("whole")
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == [".curve.nc.zz99zz99", ".notes.nc.mine", "curve.nc"]


def test_an_error_of_safetensors_is_one_sentence(tmp_path):
    with (
        pytest.raises(ravine.InputError, match="cannot write .*a.safetensors': it is full"),
        written_whole(tmp_path / "a.safetensors"),
    ):
        raise SafetensorError("it is full")
    assert not list(tmp_path.iterdir())


def test_results_outlive_figures_that_cannot_be_drawn(tmp_path, monkeypatch):
    from ravine import cli  # noqa: PLC0415  it needs no torch to start

    curve = ravine.evaluate(
        of_w(lambda w, x: w[0] ** 2), along=ravine.Line(point(0.0, 0.0), point(1.0, 0.0)), at=[0, 1]
    )

    class Broken:
        def save(self, path):
            raise ZeroDivisionError

    with pytest.raises(ravine.InputError, match="kept in .*line.nc.*Then run: ravine report"):
        cli._deliver(tmp_path, {"line": curve}, {"line": Broken()}, "cdn", as_json=False)
    assert np.array_equal(ravine.open_result(tmp_path / "line.nc")["loss"], curve["loss"])
