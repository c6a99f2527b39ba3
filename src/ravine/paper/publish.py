"""From a figure's outcome to files: pictures, pages, and what became of the claims."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ravine
from ravine.paper import claims
from ravine.paper.figures import FIGURES, NotThere, Outcome, Study


def publish(name: str, study: Study, plotlyjs: str = "inline") -> tuple[Path, list[claims.Finding]]:
    """Make a figure and write it: ``<name>.png``, ``.pdf``, ``.html``, ``report.html`` and ``outcome.json``.

    Without plotly the two pages are left out, and that is said.

    Args:
        name: of the figure.
        study: where its parts are kept, and how much of them is done.
        plotlyjs: as in ``ravine.write_report``.

    Returns:
        The folder, and what became of the claims about the figure.

    Raises:
        ravine.InputError: the data cannot be had, or the files cannot be written.
        OutOfTime: the study's budget was spent before all was measured.
    """
    outcome = FIGURES[name](study)
    folder = study.out / "figures" / f"{name}-{study.variant}"
    for suffix in ("png", "pdf"):
        outcome.figure.save(folder / f"{name}.{suffix}")
    if find_spec("plotly") is None:
        study.say(f"{name}: plotly is not installed, so there are no pages, only pictures")
    else:
        outcome.figure.save(folder / f"{name}.html")
        ravine.write_report(
            folder,
            *outcome.results.values(),
            title=outcome.figure.title,
            plotlyjs=plotlyjs,  # pyright: ignore[reportArgumentType]
        )
    asked = [claim for claim in claims.CLAIMS if claim.figure == name]
    others = _outcomes({figure for claim in asked for figure in claim.beside}, [study])
    findings = [claim.judged(outcome, study.variant, others) for claim in asked]
    recipes = {
        run.recipe.folder: json.loads((run.folder / "recipe.json").read_text())
        for run in outcome.runs
    }
    about = _about(outcome, study.variant) | {"recipes": recipes}
    (folder / "outcome.json").write_text(claims.as_json(findings, **about), encoding="utf-8")
    return folder, findings


def checked(studies: Sequence[Study]) -> list[claims.Finding]:
    """What became of every claim, by what is there already.

    Args:
        studies: for each figure, the first in which it was run is judged. Nothing is made afresh.

    Returns:
        A finding for every claim, in the paper's order.
    """
    kept = {name: _kept(name, studies) for name in FIGURES}
    others = {name: outcome for name, (outcome, _) in kept.items() if outcome is not None}
    return [claim.judged(*kept.get(claim.figure, (None, "")), others) for claim in claims.CLAIMS]


def _outcomes(names: Collection[str], studies: Sequence[Study]) -> dict[str, Outcome]:
    """The outcomes of these figures, as far as they were run."""
    kept = {name: _kept(name, studies)[0] for name in names}
    return {name: outcome for name, outcome in kept.items() if outcome is not None}


def write_page(folder: Path, studies: Sequence[Study]) -> list[Path]:
    """Write the evidence: ``README.md`` with every figure that was run, its picture, and ``claims.json``.

    Args:
        folder: to write into.
        studies: as in ``checked``.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    findings = checked(studies)
    counts = Counter(found.status for found in findings)
    parts = [
        "# The paper's figures, made again\n",
        "Written by `ravine paper check --docs`: every number on this page is computed, by the "
        "commands beside the "
        "figures. The sentences are those of Goodfellow and Vinyals 2014 (arXiv:1412.6544v1); the "
        "thresholds stand "
        "with their reasons in `src/ravine/paper/claims/`.\n",
        f"Of {len(findings)} sentences that can be tested, {counts['holds']} hold, "
        f"{counts['does not hold']} do not, {counts['undecided']} are undecided, and "
        f"{counts['not run']} are not run in the paper's own configuration. Where a smaller or shorter "
        "arm was run instead, its answer stands beside the sentence and decides nothing about the full "
        "network. Bounds are one-sided at 95 %; a claim holds, or does not, where a bound says so.\n",
    ]
    written = []
    for name in FIGURES:
        outcome, profile = _kept(name, studies)
        if outcome is None:
            continue
        written.append(outcome.figure.save(folder / f"{name}.png"))
        parts += _section(
            outcome, profile, [found for found in findings if found.claim.figure == name]
        )
    left = [found for found in findings if found.answer == "not run"]
    if left:
        parts += ["## Not run\n", claims.as_markdown(left)]
    page, numbers = folder / "README.md", folder / "claims.json"
    page.write_text("\n".join(parts), encoding="utf-8")
    numbers.write_text(claims.as_json(findings), encoding="utf-8")
    return [page, numbers, *written]


def _kept(name: str, studies: Sequence[Study]) -> tuple[Outcome | None, str]:
    """A figure's outcome and its variant."""
    for study in studies:
        with contextlib.suppress(NotThere):
            return FIGURES[name](replace(study, fresh=False)), study.variant
    return None, ""


def command(outcome: Outcome, variant: str) -> str:
    """What makes a figure again.

    Args:
        outcome: the figure.
        variant: of the study: the profile, and how its trainings differ from the recipes' own.

    Returns:
        Such as "ravine paper run fig6 --profile full --lean --precision tf32 --device cuda".
    """
    profile, *others = variant.split("-")
    words = [f"ravine paper run {outcome.name} --profile {profile}"]
    words += ["--lean" if other == "lean" else f"--precision {other}" for other in others]
    devices = {run.device_type for run in outcome.runs}
    words += [f"--device {device}" for device in sorted(devices - {"cpu"})]
    return " ".join(words)


def _about(outcome: Outcome, variant: str) -> dict[str, Any]:
    """What a figure is, what makes it again, and how long that took."""
    return {
        "figure": outcome.name,
        "profile": variant,
        "title": outcome.figure.title,
        "caption": outcome.figure.caption,
        "command": command(outcome, variant),
        "trained_on": {run.recipe.folder: run.device for run in outcome.runs},
        "stopped": {run.recipe.folder: run.stopped for run in outcome.runs if run.stopped},
        "training_seconds": {
            run.recipe.folder: round(float(run.history["seconds"].sum()), 1) for run in outcome.runs
        },
        "measuring_seconds": {
            title: float(result.attrs["wall_seconds"]) for title, result in outcome.results.items()
        },
    }


def _section(outcome: Outcome, variant: str, findings: Sequence[claims.Finding]) -> list[str]:
    about = _about(outcome, variant)
    found = [finding for finding in findings if finding.answer != "not run"]
    trained, measured = (
        sum(about[f"{what}_seconds"].values()) for what in ("training", "measuring")
    )
    took = f"`{about['command']}`: {_minutes(trained)} of training"
    if outcome.runs:
        took += f" on {' and '.join(sorted({run.device for run in outcome.runs}))}"
    return [
        f"## {outcome.figure.title}\n",
        f"![{outcome.figure.title}]({outcome.name}.png)\n",
        f"{outcome.figure.caption}\n",
        *([f"{outcome.remark}\n"] if outcome.remark else []),
        f"{took}, {_minutes(measured)} of measuring.{_short_of_full(outcome, variant)}\n",
        *([claims.as_markdown(found)] if found else []),
    ]


def _short_of_full(outcome: Outcome, variant: str) -> str:
    """What the figure's trainings lack of the paper's own, if anything."""
    stopped = [run.stopped for run in outcome.runs if run.stopped]
    if stopped:
        return f" The training is not at its end: {stopped[0]}."
    if outcome.runs and not variant.startswith("full"):
        return (
            " That is what was run. The paper's own training is not: "
            f"`ravine paper run {outcome.name} --profile full`."
        )
    return ""


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
