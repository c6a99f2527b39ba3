"""Form. The kind: a file that is sound as netCDF, and holds something else than a result does."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import ravine
from oracles import of_w, point


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("form")
    J = of_w(lambda w, x: w[0] ** 2 + w[1])
    ends = point(0.0, 0.0), point(1.0, 0.0), point(0.0, 1.0)
    line = ravine.Line(*ends[:2])
    results = {
        "line": ravine.evaluate(J, along=line, at=[0, 0.5, 1]),
        "resolved": ravine.resolve(J, along=line),
        "lines": ravine.evaluate(J, along={"one": line, "two": ravine.Line(*ends[1:])}, at=[0, 1]),
        "plane": ravine.evaluate(
            J, along=ravine.Plane(*ends), at={"alpha": [0, 1], "beta": [0, 1]}
        ),
    }
    return {name: ravine.save_result(one, folder / f"{name}.nc") for name, one in results.items()}


def lose(name):
    return lambda file: file.pop(name)


def put(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def say(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("line", lose("distance"), "'distance' is missing"),
        ("line", lose("loss"), "not a ravine result"),
        ("line", put("loss_replicates", np.zeros((3, 1))), "'loss_replicates' has the dims"),
        ("line", lambda f: f["alpha"].__setitem__(2, 0.5), "holds a value twice"),
        ("line", lambda f: f["alpha"].__setitem__(2, np.inf), "'alpha' is not finite"),
        ("line", lambda f: f["n_examples"].__setitem__(0, 0), "fewer examples than one"),
        ("line", say("length", "far"), "has 'length' = 'far'; expected a number"),
        ("line", say("length", np.zeros(3)), "has 'length' = .*; expected a number"),
        ("line", say("title", 3), "has 'title' = '3'; expected a text"),
        ("line", say("examples_of", "["), "'examples_of' is no JSON object"),
        ("line", lambda f: f.attrs.__delitem__("end"), "the attribute 'end' is missing"),
        ("line", lambda f: f["loss"].attrs.__setitem__("counted", "x"), "'loss' has 'counted'"),
        ("resolved", lose("piece_degree"), "'piece_degree' is missing"),
        (
            "resolved",
            lambda f: f["piece_degree"].__setitem__(0, 9999),
            "no intervals one after the other",
        ),
        ("resolved", lambda f: f["piece_high"].__setitem__(-1, 7.0), "lacks points of its piece"),
        ("resolved", lambda f: f.attrs.__delitem__("tolerance"), "'tolerance' is missing"),
        ("lines", lose("start"), "'start' is missing"),
        ("plane", lambda f: f.attrs.__delitem__("cosine"), "the attribute 'cosine' is missing"),
    ],
)  # fmt: skip
def test_another_form_is_refused(written, kind, change, said, tmp_path):
    file = tmp_path / "changed.nc"
    file.write_bytes(written[kind].read_bytes())
    with h5py.File(file, "r+") as opened:
        change(opened)
    with pytest.raises(ravine.InputError, match=said):
        ravine.open_result(file)


def test_values_too_large_to_be_interpolated_are_said_to_be(written):
    curve = ravine.open_result(written["resolved"])
    curve["loss"][curve["alpha"].values > 0.5] = 1e308
    said = str(ravine.metrics.verdict(curve))
    assert "is finite at its" in said
    assert "too large to be interpolated" in said


def test_every_kind_that_is_written_is_read(written):
    for file in written.values():
        assert str(ravine.metrics.verdict(ravine.open_result(file)))


def test_results_that_are_kept_open():
    """The paper's measurements, those of earlier versions among them."""
    kept = sorted(Path(__file__).parents[2].glob("docs/paper/results/measurements/*.nc"))
    if not kept:
        pytest.skip("the documentation is not part of the source archive")
    assert all(
        ravine.open_result(file).attrs["schema_version"]
        for file in kept[:: max(1, len(kept) // 12)]
    )
    for name in ("fig7-start-desk", "fig7-plane-path-desk"):  # pieces apart; a loss without splits
        (file,) = (file for file in kept if file.name.startswith(name))
        assert "loss" in ravine.open_result(file)
