"""The paper's figures, whole, on embedded digits; and the claims about them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from markupsafe import escape

import ravine
from ravine.paper import claims, publish
from ravine.paper.claims import numbers
from ravine.paper.figures import FIGURES, NotThere, Study


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every figure in the profile quick, and what was said while it was made."""
    said = []
    study = Study("quick", tmp_path_factory.mktemp("paper"), say=said.append)
    folders = {name: publish.publish(name, study) for name in FIGURES}
    return SimpleNamespace(study=study, said=said, folders=folders)


def curve(alpha, value, split="train"):
    """A result with the given values and no uncertainty."""
    alpha, value = np.asarray(alpha, float), np.asarray(value, float)
    dims = ("alpha", "split")
    shaped = value[:, None]
    return xr.Dataset(
        {
            "loss": (dims, shaped, {"units": "nats"}),
            "loss_stderr": (dims, 0 * shaped),
            "loss_replicates": ((*dims, "replicate"), np.zeros((*shaped.shape, 64))),
            "loss_noise_floor": (dims, 0 * shaped),
            "n_examples": ("split", [100]),
        },
        {"alpha": alpha, "split": [split]},
        {"schema_version": 1},
    )


class TestFigures:
    @pytest.mark.parametrize("name", FIGURES)
    def test_each_is_drawn_and_written(self, made, name):
        folder, _ = made.folders[name]
        there = {path.name for path in folder.iterdir()}
        assert there == {
            f"{name}.png",
            f"{name}.pdf",
            f"{name}.html",
            "report.html",
            "outcome.json",
        }
        outcome = json.loads((folder / "outcome.json").read_text())
        assert outcome["command"] == f"ravine paper run {name} --profile quick"
        assert bool(outcome["claims"]) == name.startswith(
            "fig"
        )  # the others are not in the paper's first version
        assert all(
            row["status"] in {"holds", "does not hold", "not run"} for row in outcome["claims"]
        )
        assert str(escape(outcome["title"])) in (folder / "report.html").read_text()

    def test_what_is_there_is_not_done_again(self, made):
        before = len(made.said)
        again = FIGURES["fig3"](made.study)
        assert len(made.said) == before
        assert again.results["whole"].sizes["alpha"] == 200

    def test_nothing_is_made_where_nothing_is_to_be_made(self, tmp_path):
        with pytest.raises(NotThere, match="maxout-mnist-quick"):
            FIGURES["fig5"](Study("quick", tmp_path, fresh=False))
        assert list(tmp_path.iterdir()) == []

    def test_the_axes_are_the_originals(self, made):
        fig1 = FIGURES["fig1"](made.study)
        assert fig1.results["coarse"]["alpha"].values == pytest.approx(np.arange(20) / 9)
        fig3 = FIGURES["fig3"](made.study)
        for name, window in (("whole", (0, 1)), ("start", (0, 0.01)), ("end", (0.99, 1))):
            alpha = fig3.results[name]["alpha"].values
            assert (len(alpha), alpha[0], alpha[-1]) == (200, *window)

    def test_the_resolved_line_passes_through_the_grid(self, made):
        fig1 = FIGURES["fig1"](made.study)
        plain, coarse = fig1.results["deterministic"], fig1.results["coarse"]
        read = ravine.reconstruct(plain, at=coarse["alpha"].values)["loss"]
        assert float(abs(read / coarse["loss"] - 1).max()) < 5e-3

    def test_two_solutions_are_two(self, made):
        curve = FIGURES["fig4"](made.study).results["solutions"]
        assert curve.attrs["start_hash"] != curve.attrs["end_hash"]
        assert ravine.metrics.barrier(curve, split="train").value > 0


class TestClaims:
    def test_a_check_finds_what_the_runs_found(self, made):
        found = {finding.claim.name: finding for finding in publish.checked([made.study])}
        for _, findings in made.folders.values():
            for finding in findings:
                again = found[finding.claim.name]
                assert (again.number, again.status) == pytest.approx(
                    (finding.number, finding.status), nan_ok=True
                )
        assert found["higher-rate"].status == "not run"
        assert (
            found["maxout-94"].status == "not run"
        )  # on other data than MNIST the count means nothing

    def test_nothing_run_is_nothing_found(self, tmp_path):
        findings = publish.checked([Study("quick", tmp_path)])
        assert {finding.status for finding in findings} == {"not run"}
        assert len(findings) == len(claims.CLAIMS)

    def test_the_fullest_profile_is_judged(self, made, tmp_path):
        empty = replace(made.study, profile="full", out=tmp_path)
        assert {f.profile for f in publish.checked([empty, made.study])} == {"quick", ""}

    def test_they_are_written_as_json_and_as_a_page(self, made, tmp_path):
        written = publish.write_page(tmp_path / "docs", [made.study])
        assert {path.name for path in written} == {
            "README.md",
            "claims.json",
            *(f"{name}.png" for name in FIGURES),
        }
        rows = json.loads((tmp_path / "docs" / "claims.json").read_text())["claims"]
        assert [row["name"] for row in rows] == [claim.name for claim in claims.CLAIMS]
        page = (tmp_path / "docs" / "README.md").read_text()
        assert all(claim.sentence in page for claim in claims.CLAIMS)
        assert all(f"ravine paper run {name} --profile quick" in page for name in FIGURES)

    def test_a_threshold_decides(self):
        claim = claims.Claim(
            "c", "§", "s", "fig1", "a number", lambda outcome: outcome, "at most", 0.5, "r"
        )
        assert [claim.judged(x).status for x in (0.4, 0.5, 0.6)] == [
            "holds",
            "holds",
            "does not hold",
        ]
        above = replace(claim, bound="at least")
        assert [above.judged(x).status for x in (0.4, 0.5, 0.6)] == [
            "does not hold",
            "holds",
            "holds",
        ]
        assert claim.judged(None).status == "not run"

    def test_names_are_unique(self):
        names = [claim.name for claim in claims.CLAIMS]
        assert len(set(names)) == len(names)
        assert {claim.figure for claim in claims.CLAIMS} <= {*FIGURES, ""}


class TestNumbers:
    x = np.linspace(0, 1, 201)

    def test_a_rise_is_a_share_of_the_range(self):
        bumped = 1 - self.x + 0.3 * np.exp(-(((self.x - 0.5) / 0.02) ** 2))
        top = int(np.argmax(bumped[100:])) + 100
        height = (bumped[: top + 1][:, None] - bumped[: top + 1][None]).T  # γ(α₂) − γ(α₁)
        expected = np.triu(height).max() / np.ptp(bumped)
        assert numbers.relative_rise(curve(self.x, bumped)) == pytest.approx(expected)
        assert numbers.relative_rise(curve(self.x, 1 - self.x)) == 0

    def test_a_convex_curve_touches_its_hull_and_a_step_does_not(self):
        assert numbers.above_hull(curve(self.x, (1 - self.x) ** 3)) == pytest.approx(0, abs=1e-12)
        step = np.where(self.x <= 0.5, 1.0, 0.0)  # its hull is the chord to the foot of the step
        assert numbers.above_hull(curve(self.x, step)) == pytest.approx(0.5 / 0.505)
        cosine = (1 + np.cos(np.pi * self.x)) / 2
        late = numbers.above_hull(curve(self.x, cosine), start=0.5)
        assert late == pytest.approx(0, abs=1e-4)  # convex from its middle on
        assert numbers.above_hull(curve(self.x, cosine)) > 0.1

    def test_a_hump_must_be_climbed_from_both_sides(self):
        valley = (self.x - 0.3) ** 2
        assert numbers.relative_hump(curve(self.x, valley)) == 0
        assert numbers.relative_hump(curve(self.x, -valley)) == pytest.approx(0.09 / 0.49)

    def test_a_line_search_in_a_valley_leaves_what_its_step_misses(self):
        x = np.linspace(0, 2, 20001)
        left = numbers.line_search_regret(curve(x, (x - 1) ** 2), steps=(0.3, 0.3))
        assert left == pytest.approx(0.1**2, rel=1e-3)  # it keeps 0.9

    def test_a_line_search_stops_at_a_ridge(self):
        x = np.linspace(0, 1, 2001)
        ridge = np.interp(x, [0, 0.2, 0.4, 1], [1, 0.8, 0.9, 0])
        assert numbers.line_search_regret(curve(x, ridge), steps=(0.1, 0.1)) == pytest.approx(0.8)

    def test_turns_are_counted(self):
        assert numbers.turns(curve(self.x, np.cos(6 * np.pi * self.x))) == 5
        assert numbers.turns(curve(self.x, self.x)) == 0
