"""The paper's part of the command line: ``ravine paper`` and ``ravine data``.

What needs torch is imported inside the commands, so that the rest of the command line starts without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

paper = typer.Typer(help="Reproduce Goodfellow and Vinyals 2014.", no_args_is_help=True, rich_markup_mode=None)
data = typer.Typer(help="The paper's data sets.", no_args_is_help=True, rich_markup_mode=None)

_FOLDER = typer.Option(
    "--data", help="has DIR/mnist/… and so on; by default RAVINE_DATA, then the cache, then the network"
)


@paper.command("list")
def list_recipes() -> None:
    """List the recipes that `ravine paper train` knows."""
    from ravine.paper.recipes import NAMES, recipe

    for name in NAMES:
        what = recipe(name)
        typer.echo(f"{name:18} {what.network.about}, on {what.data}")


@paper.command()
def train(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="a name that `ravine paper list` shows")],
    profile: Annotated[str, typer.Option(help="quick (seconds, embedded digits), desk, or full: the paper's")] = "desk",
    seed: Annotated[int, typer.Option(help="another seed gives another solution")] = 0,
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path, typer.Option(help="where runs are kept, each in a folder of its own")] = Path("ravine-paper"),
) -> None:
    """Train by a recipe, or go on where it was stopped; what is done is not done again."""
    from ravine.paper import recipes, training

    wanted: Any = profile  # recipe() says so if it is none
    run = training.train(recipes.recipe(name, wanted, seed), out, folder, lambda line: typer.echo(line, err=True))
    typer.echo(f"{run.folder}: {run.tested}")


@data.command("list")
def list_data() -> None:
    """List the data sets, and where they are."""
    from ravine.paper import data as sources

    for name, known in sources.SOURCES.items():
        place = sources.locate(name) if known.files else "embedded"
        typer.echo(f"{name:8} {known.about}: {place or 'not here'}")


@data.command()
def fetch(name: Annotated[str, typer.Argument(help="a name that `ravine data list` shows")]) -> None:
    """Fetch a data set into the cache; every file is checked by its SHA-256."""
    from ravine.paper import data as sources

    embedded = not sources.source(name).files
    typer.echo(f"{name} is embedded" if embedded else str(sources.fetch(name)))
