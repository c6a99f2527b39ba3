"""The paper's part of the command line: ``ravine paper`` and ``ravine data``.

What needs torch is imported inside the commands, so that the rest of the command line starts
without it.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
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
data = typer.Typer(
    help="List or download the paper's data sets.", no_args_is_help=True, rich_markup_mode=None
)

_FOLDER = typer.Option(
    "--data",
    help="folder with mnist/ and so on  [default: $RAVINE_DATA, or the cache, or a download]",
)


def known_plotlyjs(given: str) -> str:
    """An option's value, refused before the work and not after it.

    Raises:
        ravine.InputError: it is neither.
    """
    if given not in ("inline", "cdn"):
        msg = (
            "--plotlyjs must be inline (the report contains Plotly) or cdn (it loads Plotly); got "
            f"{given!r}"
        )
        raise ravine.InputError(msg)
    return given


_PROFILE = typer.Option(
    help="quick (a minute, embedded digits), desk (within an hour, fig8 within two), "
    "or full (the paper's own)"
)
_DEVICE = typer.Option(help="device for training and measuring: cpu, cuda, cuda:1 …")
_LEAN = typer.Option(
    "--lean",
    help="monitor the training examples less often, and keep ten snapshots per factor of 10 of "
    "updates; the steps are the same, but it counts as another training",
)
_PRECISION = typer.Option(
    help="precision of products while training: float32, tf32 or bf16 (autocast); another "
    "precision is another training. Measurements are always in float32"
)
_BUDGET = typer.Option(
    metavar="MINUTES",
    help="time limit for training and measuring; a training takes at least one epoch. Everything "
    "is kept, and the next command continues",
)
_OUT = typer.Option(
    help="folder of trainings, measurements and figures; finished work there is not repeated"
)


@paper.command("list")
def list_experiments() -> None:
    """List the figures and the recipes.

    The figures are for `ravine paper run`, the recipes for `ravine paper train`.
    """
    from ravine.paper.figures import FIGURES
    from ravine.paper.recipes import NAMES, recipe

    for name, make in FIGURES.items():
        typer.echo(_entry(name, (make.__doc__ or "").splitlines()[0]))
    typer.echo()
    for name in NAMES:
        what = recipe(name)
        phases = f"{len(what.phases)} phases" if len(what.phases) > 1 else "1 phase"
        typer.echo(_entry(name, f"{what.network.about}, on {what.data}, {phases}"))


def _entry(name: str, about: str) -> str:
    """A line of the list, which goes on under its own text where a terminal is narrow."""
    entry = f"{name:18} {about}"
    if not sys.stdout.isatty():
        return entry
    width = max(shutil.get_terminal_size().columns, 60)
    return fill(entry, width, subsequent_indent=19 * " ", break_long_words=False)


@paper.command()
def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="a name from `ravine paper list`")],
    profile: Annotated[str, _PROFILE] = "desk",
    seed: Annotated[int, typer.Option(help="random seed of the training")] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="number of seeds, from --seed on, that are trained at once",
        ),
    ] = 1,
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
    device: Annotated[str, _DEVICE] = "cpu",
    lean: Annotated[bool, _LEAN] = False,
    precision: Annotated[str, _PRECISION] = "float32",
    budget: Annotated[float | None, _BUDGET] = None,
) -> None:
    """Train a network by its recipe.

    Continues a training that was stopped. A finished training is not repeated.
    """
    from ravine.paper.training import Budget

    _require_storage()
    study = _study(profile, folder, out, device=device, lean=lean, precision=precision)
    if budget is not None:
        study = replace(study, budget=Budget(budget, share=1.0))
    for run in study.trained_together(name, range(seed, seed + seeds)):
        stopped = f"; stopped: {run.stopped}" if run.stopped else ""
        typer.echo(f"{run.folder}: {run.tested}{stopped}")


@paper.command()
def run(
    names: Annotated[
        list[str],
        typer.Argument(metavar="FIGURE...", help="names from `ravine paper list`, or all"),
    ],
    profile: Annotated[str, _PROFILE] = "desk",
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
    plotlyjs: Annotated[
        str,
        typer.Option(
            callback=known_plotlyjs,
            help="inline: reports contain Plotly (5 MB) and open offline; cdn: they load it",
        ),
    ] = "inline",
    device: Annotated[str, _DEVICE] = "cpu",
    lean: Annotated[bool, _LEAN] = False,
    precision: Annotated[str, _PRECISION] = "float32",
    budget: Annotated[float | None, _BUDGET] = None,
    share: Annotated[
        float,
        typer.Option(help="share of the budget for training; with 0 nothing more is trained"),
    ] = 0.6,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="also write the results in a form to copy: results.zip, each solution in pieces "
            "of 15 MB, and a log",
        ),
    ] = None,
) -> None:
    """Reproduce figures of the paper.

    Trains, measures, draws, and decides the paper's claims. Each figure has its own folder under
    OUT/figures, with
    PNG, PDF, an interactive page, a report on every curve, and the claims. A run that was stopped
    continues.
    """
    from ravine.paper import export as exporting
    from ravine.paper.figures import FIGURES, OutOfTime
    from ravine.paper.publish import publish

    chosen = list(FIGURES) if names == ["all"] else names
    unknown = [name for name in chosen if name not in FIGURES]
    if unknown:
        msg = f"there is no figure {unknown[0]!r}; there are {', '.join(FIGURES)}, and all"
        raise ravine.InputError(msg)
    _require_storage()
    log = exporting.Log(lambda line: typer.echo(line, err=True))
    study = _study(profile, folder, out, device=device, lean=lean, precision=precision, say=log)
    begun = f"{' '.join(chosen)}, {study.variant}, {_machine(device)}"
    log.lines.append(begun)
    if device != "cpu" or export is not None:
        typer.echo(begun, err=True)
    study = _within(study, budget, share, chosen)
    folders: list[Path] = []
    unfinished: list[str] = []
    try:
        for name in chosen:
            try:
                made, findings = publish(name, study, plotlyjs)
            except OutOfTime as stop:
                unfinished.append(f"{name} is not finished: {stop}")
                log(unfinished[-1])
                continue
            folders.append(made)
            typer.echo(f"{name}, profile {study.variant}: {made}")
            _print_findings(findings)
    finally:  # whatever happens, the results so far are exported
        if export is not None:
            for path in exporting.export(export, study, folders, log.lines):
                typer.echo(f"{path}: {path.stat().st_size:,} bytes")
    if unfinished:
        msg = f"{'; '.join(unfinished)}. With --share 0 the same command measures the rest."
        raise ravine.InputError(msg)


@paper.command()
def unpack(
    exported: Annotated[
        Path, typer.Argument(metavar="DIR", help="what `ravine paper run --export DIR` wrote")
    ],
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
) -> None:
    """Restore exported results and solutions.

    Puts them where `ravine paper check` finds them.
    """
    from ravine.paper import export as exporting
    from ravine.paper.recipes import named
    from ravine.paper.training import Run, restart

    for place in exporting.unpack(exported, out):
        recipe = named(place.name)
        if recipe is not None:
            restart(Run(recipe, place), folder)
        typer.echo(str(place))


@paper.command()
def check(
    profile: Annotated[
        str | None, typer.Option(help="the profile to judge  [default: the fullest that was run]")
    ] = None,
    out: Annotated[Path, _OUT] = Path("ravine-paper"),
    docs: Annotated[
        Path | None,
        typer.Option(help="folder for a page with every figure that was run, and for claims.json"),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="folder for a small copy of the results, which a later check can take as --out"
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="print the paper's sentences, and what was found")
    ] = False,
) -> None:
    """Print which sentences of the paper hold.

    Lists every testable sentence, with the number found, its bounds, and whether it holds. A
    training that is smaller
    or shorter than the paper's decides nothing about the paper's network; its answer is shown
    beside the sentence.

    Uses the results of `ravine paper run` under OUT; nothing is trained or measured.
    """
    from ravine.paper.claims import as_table
    from ravine.paper.committed import commit
    from ravine.paper.publish import checked, write_page

    profiles = ("full", "desk", "quick") if profile is None else (profile,)
    studies = [
        _study(name, None, out, fresh=False, lean=lean, precision=precision)
        for name in profiles
        for precision in ("float32", "tf32", "bf16")
        for lean in (False, True)
    ]
    findings = checked(studies)
    if words:
        _print_findings(findings)
    else:
        typer.echo(as_table(findings))
    counts = Counter(found.status for found in findings)
    typer.echo(
        f"\n{len(findings)} claims: "
        + ", ".join(f"{counts[word]} {word}" for word in sorted(counts))
    )
    if docs is not None:
        typer.echo("written: " + ", ".join(str(path) for path in write_page(docs, studies)))
    if keep is not None:
        size = sum(path.stat().st_size for path in commit(studies, keep))
        typer.echo(f"kept in {keep}: {size:,} bytes")


@data.command("list")
def list_data() -> None:
    """List the data sets and their folders."""
    from ravine.paper import data as sources

    for name, known in sources.SOURCES.items():
        place = sources.locate(name) if known.files else "embedded"
        typer.echo(f"{name:8} {known.about}: {place or 'not here'}")


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a name from `ravine data list`")],
) -> None:
    """Download a data set into the cache.

    Every file is checked by its SHA-256.
    """
    from ravine.paper import data as sources

    embedded = not sources.source(name).files
    typer.echo(f"{name} is embedded" if embedded else str(sources.fetch(name)))


def _study(
    profile: str,
    folder: Path | None,
    out: Path,
    *,
    fresh: bool = True,
    device: str = "cpu",
    lean: bool = False,
    precision: str = "float32",
    say: Callable[[str], Any] = lambda line: typer.echo(line, err=True),
) -> Study:
    from ravine.paper.device import Precision, usable
    from ravine.paper.figures import Study
    from ravine.paper.recipe import Profile

    for what, given, choices in (
        ("profile", profile, get_args(Profile)),
        ("precision", precision, get_args(Precision)),
    ):
        if given not in choices:
            msg = f"there is no {what} {given!r}; there are {', '.join(choices)}"
            raise ravine.InputError(msg)
    usable(device)
    known: Any = profile
    rounded: Any = precision
    return Study(known, out, folder, say, fresh, device, lean, rounded)


def _within(study: Study, minutes: float | None, share: float, chosen: Sequence[str]) -> Study:
    """The study with a budget, which the trainings that are still to do share."""
    from ravine.paper.figures import trainings
    from ravine.paper.training import Budget

    if minutes is None:
        return study
    wanted = dict.fromkeys(pair for name in chosen for pair in trainings(name, study.profile))
    pending = [pair for pair in wanted if not study.run_of(*pair).done]
    return replace(study, budget=Budget(minutes, len(pending), share))


def _machine(device: str) -> str:
    from ravine.paper.device import machine, usable

    return machine(usable(device))


def _require_storage() -> None:
    """What results are kept with is asked for before the work, not after it."""
    lacking = [name for name in ("h5netcdf", "h5py") if find_spec(name) is None]
    if lacking:
        msg = (
            f"results are netCDF-4 files, which need {' and '.join(lacking)}: pip install h5netcdf "
            "h5py; without a network, bring the wheels"
        )
        raise ravine.InputError(msg)


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
