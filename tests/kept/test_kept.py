"""What 0.1.0 wrote still opens with the same means, and its request still gives them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import make
import numpy as np
import pytest
import safetensors.torch
import xarray as xr

import ravine
from ravine.paper.recipe import canonical
from ravine.paper.recipes import recipe
from ravine.points.params import is_content

KEPT = Path(__file__).parent
RUN = KEPT / "schema-1" / "run"
PROJECTED = ("alpha", "beta", "distance", "residual")
KINDS = ("line", "long", "resolved", "lines", "plane", "resolved-plane", "path", "path-on-plane")


@functools.cache
def measured() -> dict[str, xr.Dataset]:
    return make.measurements(RUN)


def held(kind: str) -> xr.Dataset:
    return ravine.open_result(KEPT / "schema-1" / f"{kind}.nc")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_request_gives_the_same_means(kind):
    before, now = held(kind), measured()[kind]
    if kind == "resolved":  # at Chebyshev points, then
        line = ravine.Line(make.point(-1, 0), make.point(1, 0.5))
        now = ravine.evaluate(make.objective(), along=line, at=before["alpha"].values)
    compared = [name for name in ("loss", "error", "residual") if name in before]
    assert compared
    hashes = [name for name in before.coords if str(name).endswith("_hash")]  # SHA-256, then
    before, now = before.drop_vars(hashes), now.drop_vars(hashes)
    for name in [*compared, *before.coords]:
        one, other = before[name].drop_attrs(), now[name].drop_attrs()
        # by LAPACK, whose last bits are the machine's
        if kind.startswith("path") and name in PROJECTED:
            xr.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
        else:
            xr.testing.assert_identical(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_result_is_judged(kind):
    assert ravine.metrics.verdict(held(kind)).headline


@pytest.mark.parametrize("kind", ["resolved", "resolved-plane"])
def test_an_old_result_is_read_between_its_points(kind):
    at = [0.375] if kind == "resolved" else {"alpha": [0.375], "beta": [0.625]}
    before, now = (ravine.reconstruct(result, at) for result in (held(kind), measured()[kind]))
    np.testing.assert_allclose(before["loss"].values, now["loss"].values, rtol=1e-14)


def test_a_mean_is_the_one_worked_out_by_hand():
    at_start = held("line").sel(alpha=0.0, split="train")
    # w = (−1, 0): the well is 0, and Σ (w − x)² is 137.5
    assert float(at_start["loss"]) == 137.5 / 40


def test_an_old_run_is_read_and_recorded_the_same(tmp_path):
    run = ravine.Trajectory.open(RUN)
    assert run.steps == (0, 10, 20, 30, 40, 50)
    assert run.at(step=30)["w"].tolist() == [0.5, 1.25]
    make.record(tmp_path / "again")
    again = ravine.Trajectory.open(tmp_path / "again")
    for one, other in zip(run.snapshots, again.snapshots, strict=True):
        held = safetensors.torch.load_file(tmp_path / "again" / other.file)
        assert is_content(held, one.hash)  # SHA-256, then
        assert is_content(held, other.hash)
        assert one.hash != other.hash


def test_a_paper_run_of_the_quick_profile_is_read():
    folder = KEPT / "paper-quick"
    path = ravine.open_result(folder / "fig5-path-quick-4d835194a7fa.nc")
    numbers = {
        c["name"]: c["number"] for c in json.loads((folder / "outcome.json").read_text())["claims"]
    }
    assert round(path["max_residual"].sel(walk="run").item(), 6) == numbers["strays"]
    assert (folder / "recipe.json").read_text().strip() == canonical(
        recipe("maxout-mnist", "quick")
    ).strip()
