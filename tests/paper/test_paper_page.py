"""The page of the paper: what stands in the repository is what the committed results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ravine.paper import claims, publish
from ravine.paper.figures import FIGURES, Study

PAGE = Path(__file__).parents[2] / "docs" / "paper"
ROWS = json.loads((PAGE / "claims.json").read_text(encoding="utf-8"))["claims"]


def test_every_sentence_has_an_answer_bounds_and_seeds():
    assert [row["name"] for row in ROWS] == [claim.name for claim in claims.CLAIMS]
    for row in ROWS:
        assert row["status"] in {"holds", "does not hold", "undecided", "not run"}
        decided = row["status"] in {"holds", "does not hold"}
        assert not decided or not (row["lower"] is None and row["upper"] is None)
        assert row["seeds"] or row["status"] == "not run"
        if row["arm"]:  # a smaller or shorter training decides nothing
            assert row["status"] == "not run"


def test_pictures_and_results_are_there_and_small():
    page = (PAGE / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\(([\w/-]+\.(?:png|pdf))\)", page)
    assert "summary.png" in pictures
    assert all((PAGE / name).is_file() for name in pictures)
    kept = [path for path in (PAGE / "results").rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} <= {".nc", ".json"}
    assert sum(path.stat().st_size for path in kept) < 8_000_000


@pytest.mark.calibration
def test_the_committed_results_give_the_committed_answers():
    studies = [
        Study(profile, PAGE / "results", fresh=False, lean=lean)
        for profile in ("full", "desk", "quick")
        for lean in (False, True)
    ]
    for row, found in zip(ROWS, publish.checked(studies), strict=True):
        assert (found.status, found.arm, list(found.seeds)) == (
            row["status"],
            row["arm"],
            row["seeds"],
        )
        number = None if row["number"] is None else pytest.approx(row["number"], rel=1e-4, abs=1e-9)
        assert number is None or found.number == number
    made = {row["figure"] for row in ROWS if row["arm"] or row["status"] != "not run"}
    assert made <= set(FIGURES)
