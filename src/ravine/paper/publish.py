"""From a figure's outcome to files: pictures, pages, and what became of the claims."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import ravine
from ravine.paper import claims, recipes
from ravine.paper.figures import FIGURES, NotThere, Outcome, Study
from ravine.paper.figures.summary import summary
from ravine.plot import Figure


def publish(name: str, study: Study, plotlyjs: str = "inline") -> tuple[Path, list[claims.Finding]]:
    """Make a figure: ``<name>.png``, ``.pdf``, ``.html``, ``report.html`` and ``outcome.json``.

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
            keep=False,
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
    """Write the evidence: ``README.md`` with each figure that was run, and ``claims.json``.

    Args:
        folder: to write into.
        studies: as in ``checked``.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: _kept(name, studies) for name in FIGURES}
    made = {name: (one, variant) for name, (one, variant) in kept.items() if one is not None}
    findings = checked(studies)
    parts = [_INTRODUCTION, _counted(findings)]
    written: list[Path] = []
    whole = summary({name: outcome for name, (outcome, _) in made.items()})
    if whole.panels:
        written += _saved(whole, folder, "summary")
        parts += [f"![{whole.title}](summary.png)\n", f"{whole.caption}\n"]
    for name, (outcome, variant) in made.items():
        written += _saved(outcome.figure, folder, name)
        about = [found for found in findings if found.claim.figure == name]
        parts += _section(outcome, variant, about)
    left = [found for found in findings if found.answer == "not run"]
    if left:
        parts += ["## Not run\n", claims.as_markdown(left)]
    earlier = folder / EARLIER
    if earlier.exists():
        parts += [earlier.read_text(encoding="utf-8")]
    page, numbers = folder / "README.md", folder / "claims.json"
    page.write_text("\n".join(parts), encoding="utf-8")
    numbers.write_text(claims.as_json(findings), encoding="utf-8")
    return [page, numbers, *written]


#: What stands at the end of a page, if it is in the folder: figures whose measurements were
#: not kept.
EARLIER: Final = "earlier.md"

_INTRODUCTION: Final = (
    "# The paper's figures, reproduced\n\nWritten by `ravine paper check --docs`: every number on "
    "this page is computed, by the commands beside the figures. The sentences are those of "
    "Goodfellow and Vinyals 2014 (arXiv:1412.6544v1); the thresholds stand with their reasons in "
    "`src/ravine/paper/claims/`.\n"
)


def _counted(findings: Sequence[claims.Finding]) -> str:
    counts = Counter(found.status for found in findings)
    arms = Counter(found.arm for found in findings if found.arm)
    beside = ", ".join(f"{arms[word]} {word}" for word in ("holds", "does not hold", "undecided"))
    return (
        f"Of {len(findings)} sentences and readings that can be tested, {counts['holds']} hold, "
        f"{counts['does not hold']} do not, {counts['undecided']} are undecided, and "
        f"{counts['not run']} are not run in the paper's own configuration. Of those, "
        f"{sum(arms.values())} were asked of a smaller or shorter arm: {beside}. That stands "
        "beside the sentence and decides nothing about the paper's network. Bounds are one-sided "
        "at 95 % each; a claim holds, or does not, where a bound says so.\n"
    )


def _saved(figure: Figure, folder: Path, name: str) -> list[Path]:
    return [figure.save(folder / f"{name}.{kind}") for kind in ("png", "pdf")]


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
    found = [finding for finding in findings if finding.answer != "not run"]
    said = dict.fromkeys(f"“{one.claim.sentence}” ({one.claim.section})" for one in findings)
    sentences = f"**The paper:** {'; '.join(said)}.\n" if said else ""
    name, title = outcome.name, outcome.figure.title
    parts = [
        f"## {title}\n",
        sentences,
        f"**Here:** {_standing(outcome, variant)}\n",
        f"![{title}]({name}.png)\n",
        f"{outcome.figure.caption} ([PDF]({name}.pdf))\n",
        f"{outcome.remark}\n" if outcome.remark else "",
        claims.as_markdown(found) if found else "",
    ]
    return [part for part in parts if part]


def _standing(outcome: Outcome, variant: str) -> str:
    """What was run, next to the paper's own; the command, and the time that it took."""
    about = _about(outcome, variant)
    trained, measured = (
        sum(about[f"{what}_seconds"].values()) for what in ("training", "measuring")
    )
    took = f"`{about['command']}`, {_minutes(measured)} of measuring"
    if not outcome.runs:
        return f"closed forms and walks, the same in every profile. {took}."
    where = " and ".join(sorted({run.device for run in outcome.runs}))
    took = f"{took} after {_minutes(trained)} of training on {where}"
    guessed = [run.recipe.name for run in outcome.runs if run.recipe.name in recipes.GUESSED]
    if not outcome.is_scaled and guessed:
        return (
            f"a published training, {' and '.join(guessed)}, to its end; the paper does not say "
            f"how large its network was. {took}."
        )
    if not outcome.is_scaled:
        return f"the paper's own training, to its end. {took}."
    stopped = [run.stopped for run in outcome.runs if run.stopped]
    why = f" The training is not at its end: {stopped[0]}." if stopped else ""
    return (
        f"a smaller or shorter arm, which decides nothing about the paper's network. {took}.{why} "
        f"The paper's own: `ravine paper run {outcome.name} --profile full`."
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
