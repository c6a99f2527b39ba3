"""Results: saved whole or not at all, read back the same, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from torch.nn import functional as F

from oracles import blobs, mlp, trained
from ravine import (
    InputError,
    Line,
    Objective,
    evaluate,
    metrics,
    open_result,
    save_result,
    supervised,
)
from ravine.result.schema import CORNERS, PROVENANCE


@pytest.fixture(scope="module")
def curve():
    model = mlp()
    J = Objective(
        model, supervised(F.cross_entropy), {"train": blobs(), "valid": blobs(50, seed=1)}
    )
    return evaluate(
        J, along=Line(*trained(model, blobs())), at=np.linspace(-0.5, 1.5, 41), title="π → θ"
    )


def test_a_saved_result_comes_back_the_same(curve, tmp_path):
    path = save_result(curve, tmp_path / "deep" / "curve.nc")
    again = open_result(path)
    xr.testing.assert_identical(again, curve)
    assert str(metrics.verdict(again)) == str(metrics.verdict(curve))
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "deep", path]


def test_every_result_says_where_it_comes_from(curve):
    assert {*PROVENANCE, *CORNERS["line"]} <= set(curve.attrs)
    assert len(curve.attrs["start_hash"]) == 64
    assert curve.attrs["start_hash"] != curve.attrs["end_hash"]


def test_hashes_change_with_what_they_stand_for():
    model = mlp()
    ends = trained(model, blobs())

    def attrs(data=None, batch_end=None, **policies):
        J = Objective(model, supervised(F.cross_entropy), data or blobs(), **policies)
        return evaluate(J, along=Line(ends[0], batch_end or ends[1]), at=[0]).attrs

    base = attrs()
    assert attrs(blobs(seed=1))["data_hash"] != base["data_hash"]
    assert attrs(dropout="fixed")["objective_hash"] != base["objective_hash"]
    other = {**ends[1], "2.bias": ends[1]["2.bias"] + 1e-6}
    assert attrs(batch_end=other)["end_hash"] != base["end_hash"]
    assert {k: v for k, v in attrs().items() if k.endswith("hash")} == {
        k: v for k, v in base.items() if k.endswith("hash")
    }


def test_nan_and_infinity_survive_the_file(curve, tmp_path):
    broken = curve.copy(deep=True)
    broken["loss"][3], broken["loss"][4] = np.nan, np.inf
    again = open_result(save_result(broken, tmp_path / "curve.nc"))
    np.testing.assert_array_equal(again["loss"], broken["loss"])


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(curve, tmp_path, monkeypatch):
    path = save_result(curve, tmp_path / "curve.nc")
    before = path.read_bytes()

    def broken(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(KeyboardInterrupt):
        save_result(curve, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written(curve, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        save_result(curve, tmp_path / "file" / "curve.nc")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n broken"])
def test_files_that_are_no_result(tmp_path, content):
    (tmp_path / "x.nc").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.nc"):
        open_result(tmp_path / "x.nc")


def test_other_netcdf_files_and_newer_schemas_are_refused(curve, tmp_path):
    xr.Dataset({"t": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="not a ravine result"):
        open_result(tmp_path / "other.nc")
    with pytest.raises(InputError, match="Update ravine"):
        save_result(curve.assign_attrs(schema_version=99), tmp_path / "new.nc")
    with pytest.raises(InputError, match="no result file"):
        open_result(tmp_path / "missing.nc")


WITHOUT_TORCH = """
import importlib.abc, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
import ravine
curve = ravine.open_result(sys.argv[1])
print(ravine.metrics.verdict(curve).headline)
ravine.plot.line(curve).save(sys.argv[2] + "/figure.png")
ravine.write_report(sys.argv[2], curve)
"""


def test_a_result_opens_plots_and_reports_without_torch(curve, tmp_path):
    path = save_result(curve, tmp_path / "curve.nc")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, path, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == metrics.verdict(curve).headline
    assert (tmp_path / "report.html").stat().st_size > 1e6
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_importing_ravine_imports_nothing_heavy():
    code = (
        "import sys, ravine; print([m for m in 'torch matplotlib plotly xarray sklearn'.split() if "
        "m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["curve.csv", "curve.JSON", "curve.png"])
def test_a_name_of_another_format_is_refused(curve, tmp_path, name):
    with pytest.raises(InputError, match=r"expected \*.nc.*to_dataframe"):
        save_result(curve, tmp_path / name)
    assert not list(tmp_path.iterdir())
