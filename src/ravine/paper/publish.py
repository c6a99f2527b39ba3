"""From a figure's outcome to files: pictures, pages, and what became of the claims."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ravine
from ravine.paper import claims
from ravine.paper.figures import FIGURES, NotThere, Outcome, Study


def publish(name: str, study: Study) -> tuple[Path, list[claims.Finding]]:
    """Make a figure and write it: ``<name>.png``, ``.pdf``, ``.html``, ``report.html`` and ``outcome.json``.

    Args:
        name: of the figure.
        study: where its parts are kept, and how much of them is done.

    Returns:
        The folder, and what became of the claims about the figure.

    Raises:
        ravine.InputError: the data cannot be had, or the files cannot be written.
    """
    began = time.perf_counter()
    outcome = FIGURES[name](study)
    seconds = time.perf_counter() - began
    folder = study.out / "figures" / f"{name}-{study.profile}"
    for suffix in ("png", "pdf", "html"):
        outcome.figure.save(folder / f"{name}.{suffix}")
    ravine.write_report(folder, *outcome.results.values(), title=outcome.figure.title)
    findings = [claim.judged(outcome, study.profile) for claim in claims.CLAIMS if claim.figure == name]
    about = {
        "figure": name,
        "profile": study.profile,
        "title": outcome.figure.title,
        "caption": outcome.figure.caption,
        "command": f"ravine paper run {name} --profile {study.profile}",
        "seconds": round(seconds, 1),
        "training_seconds": {run.recipe.folder: round(float(run.history["seconds"].sum()), 1) for run in outcome.runs},
        "measuring_seconds": {title: float(result.attrs["wall_seconds"]) for title, result in outcome.results.items()},
        "recipes": {run.recipe.folder: json.loads((run.folder / "recipe.json").read_text()) for run in outcome.runs},
    }
    (folder / "outcome.json").write_text(claims.as_json(findings, **about), encoding="utf-8")
    return folder, findings


def checked(studies: Sequence[Study]) -> list[claims.Finding]:
    """What became of every claim, by what is there already.

    Args:
        studies: for each figure, the first in which it was run is judged. Nothing is made afresh.

    Returns:
        A finding for every claim, in the paper's order.
    """
    outcomes = {name: _kept(name, studies) for name in FIGURES}
    return [claim.judged(*outcomes.get(claim.figure, (None, ""))) for claim in claims.CLAIMS]


def _kept(name: str, studies: Sequence[Study]) -> tuple[Outcome | None, str]:
    """A figure's outcome and its profile."""
    for study in studies:
        with contextlib.suppress(NotThere):
            return FIGURES[name](replace(study, fresh=False)), study.profile
    return None, ""


def write_claims(folder: Path, findings: Sequence[claims.Finding]) -> None:
    """Write ``claims.json`` and ``claims.md``.

    Args:
        folder: to write into.
        findings: what to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "claims.json").write_text(claims.as_json(findings), encoding="utf-8")
    text = f"# The paper's claims\n\nWritten by `ravine paper check --docs`.\n\n{claims.as_markdown(findings)}"
    (folder / "claims.md").write_text(text, encoding="utf-8")
