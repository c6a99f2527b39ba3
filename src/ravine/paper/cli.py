"""The paper's part of the command line: ``ravine paper`` and ``ravine data``.

What needs torch is imported inside the commands, so that the rest of the command line starts
without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

import ravine

if TYPE_CHECKING:
    from ravine.paper.claims import Finding
    from ravine.paper.figures import Study

paper = typer.Typer(
    help="Reproduce Goodfellow and Vinyals 2014.", no_args_is_help=True, rich_markup_mode=None
)
data = typer.Typer(help="The paper's data sets.", no_args_is_help=True, rich_markup_mode=None)

_FOLDER = typer.Option(
    "--data",
    help="has DIR/mnist/… and so on; by default RAVINE_DATA, then the cache, then the network",
)


def known_plotlyjs(given: str) -> str:
    """An option's value, refused before the work and not after it.

    Raises:
        ravine.InputError: it is neither.
    """
    if given not in ("inline", "cdn"):
        msg = (
            "--plotlyjs must be inline (the report holds the library) or cdn (it fetches it); got "
            f"{given!r}"
        )
        raise ravine.InputError(msg)
    return given


_PROFILE = typer.Option(
    help="quick (a minute, embedded digits), desk (within an hour), or full: the paper's"
)
_OUT = typer.Option(
    help="where trainings, measurements and figures are kept; what is there is not done again"
)


@paper.command("list")
def list_experiments() -> None:
    """List the figures that `ravine paper run` makes, and the recipes that `ravine paper train` knows."""
    from ravine.paper.figures import FIGURES
    from ravine.paper.recipes import NAMES, recipe

    for name, make in FIGURES.items():
        typer.echo(f"{name:18} {(make.__doc__ or '').splitlines()[0]}")
    typer.echo()
    for name in NAMES:
        what = recipe(name)
        typer.echo(f"{name:18} {what.network.about}, on {what.data}")


@paper.command()
def train(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="a name that `ravine paper list` shows")
    ],
    profile: Annotated[str, _PROFILE] = "desk",
    seed: Annotated[int, typer.Option(help="another seed gives another solution")] = 0,
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
) -> None:
    """Train by a recipe, or go on where it was stopped; what is done is not done again."""
    from ravine.paper import recipes, training

    wanted: Any = profile  # recipe() says so if it is none
    run = training.train(
        recipes.recipe(name, wanted, seed), out, folder, lambda line: typer.echo(line, err=True)
    )
    typer.echo(f"{run.folder}: {run.tested}")


@paper.command()
def run(
    names: Annotated[
        list[str],
        typer.Argument(metavar="FIGURE...", help="as `ravine paper list` has them, or all"),
    ],
    profile: Annotated[str, _PROFILE] = "desk",
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
    plotlyjs: Annotated[
        str,
        typer.Option(
            callback=known_plotlyjs,
            help="inline: reports hold the library that draws, 5 MB; or cdn",
        ),
    ] = "inline",
) -> None:
    """Make figures of the paper again: train, measure, draw, and judge the paper's claims about them.

    Each goes to a folder of its own under OUT/figures: PNG, PDF, an interactive page, the report on
    every curve, and the claims. A run that was stopped goes on where it was.
    """
    from ravine.paper.figures import FIGURES
    from ravine.paper.publish import publish

    chosen = list(FIGURES) if names == ["all"] else names
    unknown = [name for name in chosen if name not in FIGURES]
    if unknown:
        msg = f"there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}, and all"
        raise ravine.InputError(msg)
    study = _study(profile, folder, out)
    for name in chosen:
        made, findings = publish(name, study, plotlyjs)
        typer.echo(f"{name}, profile {profile}: {made}")
        _print_findings(findings)


@paper.command()
def check(
    profile: Annotated[
        str | None, typer.Option(help="judge this one; by default the fullest that was run")
    ] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
    docs: Annotated[
        Path | None,
        typer.Option(
            help="also write a page with every figure that was run, and claims.json, here"
        ),
    ] = None,
) -> None:
    """List every testable sentence of the paper: the number found, its bounds, and whether it holds.

    A training that is smaller or shorter than the paper's decides nothing about the paper's network: what it says
    stands beside the sentence.

    Judges what `ravine paper run` has left under OUT; nothing is trained or measured.
    """
    from ravine.paper.publish import checked, write_page

    profiles = ("full", "desk", "quick") if profile is None else (profile,)
    studies = [_study(name, None, out, fresh=False) for name in profiles]
    findings = checked(studies)
    _print_findings(findings)
    counts = Counter(found.status for found in findings)
    typer.echo(
        f"\n{len(findings)} claims: "
        + ", ".join(f"{counts[word]} {word}" for word in sorted(counts))
    )
    if docs is not None:
        typer.echo("written: " + ", ".join(str(path) for path in write_page(docs, studies)))


@data.command("list")
def list_data() -> None:
    """List the data sets, and where they are."""
    from ravine.paper import data as sources

    for name, known in sources.SOURCES.items():
        place = sources.locate(name) if known.files else "embedded"
        typer.echo(f"{name:8} {known.about}: {place or 'not here'}")


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a name that `ravine data list` shows")],
) -> None:
    """Fetch a data set into the cache; every file is checked by its SHA-256."""
    from ravine.paper import data as sources

    embedded = not sources.source(name).files
    typer.echo(f"{name} is embedded" if embedded else str(sources.fetch(name)))


def _study(profile: str, folder: Path | None, out: Path, *, fresh: bool = True) -> Study:
    from ravine.paper.figures import Study
    from ravine.paper.recipe import Profile

    if profile not in get_args(Profile):
        msg = f"there is no profile {profile!r}; there are {', '.join(get_args(Profile))}"
        raise ravine.InputError(msg)
    known: Any = profile
    return Study(known, out, folder, lambda line: typer.echo(line, err=True), fresh)


def _print_findings(findings: Sequence[Finding]) -> None:
    for found in findings:
        where = (
            f"{found.claim.figure or '—'}{f' ({found.profile})' if found.profile else ''}, "
            f"{found.claim.section}"
        )
        said = f"{where}: “{found.claim.sentence}”"
        typer.echo(
            fill(said, 110, initial_indent=f"\n{found.status:14}", subsequent_indent=" " * 20)
        )
        lines = (
            [found.verdict, found.words, found.about]
            if found.claim.figure
            else [found.claim.reason]
        )
        for line in dict.fromkeys(lines):
            if line and line != found.status:
                typer.echo(fill(line, 110, initial_indent=" " * 20, subsequent_indent=" " * 20))
