"""The paper's figures, whole, on embedded digits; and the claims about them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from markupsafe import escape

import ravine
from ravine.paper import claims, committed, publish
from ravine.paper.figures import FIGURES, NotThere, Study

#: Made in the usual run. The others are drawn in the tests of their networks; whole, with their
#: reports and claims on one page, in the long run: ``pytest -m long``.
SOME = ("fig1", "fig5", "seeds")


#: Epochs of each phase in the usual run.
FEW = (8, 2)


class Brief(Study):
    """A study whose trainings are a fifth as long."""

    def recipe(self, name, seed=0):
        whole = super().recipe(name, seed)
        pairs = zip(whole.phases, FEW, strict=False)
        return replace(whole, phases=tuple(replace(phase, epochs=few) for phase, few in pairs))


def made_of(names, folder, kind=Study):
    """Figures in the profile quick, and what was said while they were made."""
    said = []
    study = kind("quick", folder, say=said.append)
    folders = {name: publish.publish(name, study) for name in names}
    checked = publish.checked([study])
    return SimpleNamespace(study=study, said=said, folders=folders, checked=checked)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_of(SOME, tmp_path_factory.mktemp("paper"), Brief)


@pytest.fixture(scope="module")
def all_made(tmp_path_factory):
    return made_of(FIGURES, tmp_path_factory.mktemp("paper"))


class TestFigures:
    @pytest.mark.parametrize("name", SOME)
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
        asked = {claim.figure for claim in claims.CLAIMS}
        assert bool(outcome["claims"]) == (name in asked)
        assert {row["status"] for row in outcome["claims"]} <= {"not run"}  # toys decide nothing
        answers = {"holds", "does not hold", "undecided", None}
        assert {row["arm"] for row in outcome["claims"]} <= answers
        assert str(escape(outcome["title"])) in (folder / "report.html").read_text()

    def test_what_is_there_is_not_done_again(self, made):
        before = len(made.said)
        again = FIGURES["fig1"](made.study)
        assert len(made.said) == before
        assert again.results["coarse"].sizes["alpha"] == 20

    def test_nothing_is_made_where_nothing_is_to_be_made(self, tmp_path):
        with pytest.raises(NotThere, match="maxout-mnist-quick"):
            FIGURES["fig5"](Study("quick", tmp_path, fresh=False))
        assert list(tmp_path.iterdir()) == []

    def test_the_axes_are_the_originals(self, made):
        fig1 = FIGURES["fig1"](made.study)
        assert fig1.results["coarse"]["alpha"].values == pytest.approx(np.arange(20) / 9)

    def test_the_resolved_line_passes_through_the_grid(self, made):
        fig1 = FIGURES["fig1"](made.study)
        plain, coarse = fig1.results["deterministic"], fig1.results["coarse"]
        read = ravine.reconstruct(plain, at=coarse["alpha"].values)["loss"]
        assert float(abs(read / coarse["loss"] - 1).max()) < 5e-3


class TestClaims:
    def test_a_check_finds_what_the_runs_found(self, made):
        found = {finding.claim.name: finding for finding in made.checked}
        for _, findings in made.folders.values():
            for finding in findings:
                again = found[finding.claim.name]
                if finding.claim.beside:
                    continue  # compared with whatever had been run by then
                assert again.answer == finding.answer
                assert again.number == pytest.approx(finding.number, nan_ok=True)
        assert found["maxout-94"].answer == "not run"
        assert found["maxout-94"].about == "on other data than MNIST the count means nothing"

    def test_a_toy_decides_nothing_about_the_papers_network(self, made):
        findings = made.checked
        assert {finding.status for finding in findings} == {"not run"}
        judged = {finding.claim.name for finding in findings if finding.arm is not None}
        asked = {claim.name for claim in claims.CLAIMS if claim.figure in made.folders}
        # what a digit toy cannot tell is not told
        assert len(judged & asked) > 0.8 * len(asked)
        said = next(f for f in findings if f.claim.name == "strays")
        assert said.words == "not run (this arm: holds)"

    def test_nothing_run_is_nothing_found(self, tmp_path):
        findings = publish.checked([Study("quick", tmp_path)])
        assert {finding.status for finding in findings} == {"not run"}
        assert len(findings) == len(claims.CLAIMS)

    def test_the_fullest_profile_is_judged(self, made, tmp_path):
        empty = replace(made.study, profile="full", out=tmp_path)
        found = publish.checked([empty, made.study])
        assert {f.profile for f in found if f.claim.figure in made.folders} == {"quick"}

    @pytest.mark.long
    def test_they_are_written_as_json_and_as_a_page(self, made, tmp_path):
        written = publish.write_page(tmp_path / "docs", [made.study])
        assert {path.name for path in written} == {
            "README.md",
            "claims.json",
            *(f"{name}.{kind}" for name in (*made.folders, "summary") for kind in ("png", "pdf")),
        }
        rows = json.loads((tmp_path / "docs" / "claims.json").read_text())["claims"]
        needed = {"number", "lower", "upper", "status", "arm", "scope", "examples", "seeds"}
        assert all(needed <= set(row) for row in rows)
        assert [row["name"] for row in rows] == [claim.name for claim in claims.CLAIMS]
        page = (tmp_path / "docs" / "README.md").read_text()
        assert all(claim.sentence in page for claim in claims.CLAIMS)
        assert "are not run in the paper's own configuration" in page
        assert all(f"ravine paper run {name} --profile quick" in page for name in made.folders)

    @pytest.mark.long
    def test_kept_small_they_give_the_same_page_without_any_training(self, made, tmp_path):
        committed.commit([made.study], tmp_path / "kept")
        again = type(made.study)("quick", tmp_path / "kept", fresh=False)
        for before, after in zip(made.checked, publish.checked([again]), strict=True):
            assert (after.answer, after.seeds) == (before.answer, before.seeds)
            assert after.number == pytest.approx(before.number, rel=1e-4, abs=1e-9, nan_ok=True)
        kept = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
        assert not any(name.endswith(".safetensors") for name in kept)
        (tmp_path / "kept" / "measurements" / "of-old.nc").touch()
        committed.commit([made.study], tmp_path / "kept")
        assert not (tmp_path / "kept" / "measurements" / "of-old.nc").exists()

    def test_the_table_has_a_line_for_each(self, made):
        head, *lines = claims.as_table(made.checked).splitlines()
        assert head.split()[:3] == ["answer", "figure", "claim"]
        assert len(lines) == len(claims.CLAIMS)
        (line,) = [line for line in lines if " strays " in line]
        assert line.split("  ")[0] == "not run (arm: holds)"
        assert line.split()[4] == "fig5"
        assert "at least 0.1" in line

    def test_names_are_unique(self):
        names = [claim.name for claim in claims.CLAIMS]
        assert len(set(names)) == len(names)
        assert {claim.figure for claim in claims.CLAIMS} <= {*FIGURES, ""}


@pytest.mark.long
class TestEveryFigure(TestFigures):
    @pytest.fixture
    def made(self, all_made):
        return all_made

    @pytest.mark.parametrize("name", FIGURES)
    def test_each_is_drawn_and_written(self, made, name):
        super().test_each_is_drawn_and_written(made, name)

    def test_the_windows_are_the_originals(self, made):
        fig3 = FIGURES["fig3"](made.study)
        for name, window in (("whole", (0, 1)), ("start", (0, 0.01)), ("end", (0.99, 1))):
            alpha = fig3.results[name]["alpha"].values
            assert (len(alpha), alpha[0], alpha[-1]) == (200, *window)

    def test_two_solutions_are_two(self, made):
        curve = FIGURES["fig4"](made.study).results["solutions"]
        assert curve.attrs["start_hash"] != curve.attrs["end_hash"]
        assert ravine.metrics.barrier(curve, split="train").value > 0


@pytest.mark.long
class TestEveryClaim(TestClaims):
    @pytest.fixture
    def made(self, all_made):
        return all_made

    def test_the_networks_are_compared(self, made):
        found = {finding.claim.name: finding for finding in made.checked}
        assert found["mpdbm-more-non-convex"].answer in {"holds", "does not hold", "undecided"}
        assert sum(finding.arm is not None for finding in made.checked) > 30
        assert found["higher-rate"].arm == "holds"  # at ten times the rate a toy diverges too
        assert found["two-solutions"].seeds == (0, 1)
