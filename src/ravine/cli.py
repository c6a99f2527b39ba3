"""The command line: the public face, one command per question.

Bad input ends with one sentence on standard error and exit code 2; RAVINE_DEBUG=1 shows the traceback too.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import ravine
from ravine.paper import cli as wing

app = typer.Typer(
    help="What lies between two points of a network's parameter space.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(wing.paper, name="paper")
app.add_typer(wing.data, name="data")

_OBJECTIVE = typer.Argument(
    help="file.py:function or package.module:function, a function without arguments that returns a ravine.Objective"
)
_START = typer.Argument(help="checkpoint at alpha = 0: .safetensors, .pt, .pth, .ckpt, or a folder of shards")
_END = typer.Argument(help="checkpoint at alpha = 1")
_OUT = typer.Option(help="folder to write; made if need be")


def main() -> None:
    """Run the command line; every bad input ends with one sentence and exit code 2."""
    try:
        app()
    except ravine.InputError as problem:
        _fail(str(problem))
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written was left behind", code=130)
    except Exception as problem:
        note = "; ".join(getattr(problem, "__notes__", []))
        _fail(f"{type(problem).__name__}: {problem}{f' ({note})' if note else ''}. RAVINE_DEBUG=1 shows where.")


def _fail(message: str, code: int = 2) -> None:
    if os.environ.get("RAVINE_DEBUG"):
        raise  # noqa: PLE0704  called from an except block
    typer.echo(f"ravine: {message}", err=True)
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def about(
    *,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """What lies between two points of a network's parameter space."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"ravine {installed('ravine')}")
        raise typer.Exit


@app.command()
def demo(out: Annotated[Path, _OUT] = Path("ravine-demo")) -> None:
    """Train two small networks on digits, walk the lines between them, and write a report. Under a minute."""
    from ravine import demo as tour

    _require_writable(out)
    made = tour.run(out, lambda stage: typer.echo(f"· {stage}", err=True))
    for curve in (made.descent, made.crossing, made.path):
        _print_verdict(curve)
    typer.echo(f"\nThe report: {made.report}")


@app.command()
def line(
    objective: Annotated[str, _OBJECTIVE],
    start: Annotated[str, _START],
    end: Annotated[str, _END],
    alpha: Annotated[
        str, typer.Option(help="points: FROM:TO:COUNT, both ends included, or a list such as 0,0.5,1")
    ] = "0:1:201",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="instead of every point of --alpha, as few points between its ends as give the curve everywhere "
            "to this share of the local value, such as 1e-3"
        ),
    ] = None,
    out: Annotated[Path, _OUT] = Path("ravine-line"),
    title: Annotated[str, typer.Option(help="what to call the result")] = "",
) -> None:
    """Walk the straight line from START to END; write the result, figures and a report."""
    points = parse_alpha(alpha)
    J = load_objective(objective)  # noqa: N806
    walk = ravine.Line(start, end)
    _require_writable(out)
    about: dict[str, Any] = {"title": title or None, "command": _command(), "progress": _on_terminal()}
    if tolerance is None:
        typer.echo(f"· {walk.start.label} → {walk.end.label}: {len(points)} points", err=True)
        curve = ravine.evaluate(J, along=walk, at=points, **about)
    else:
        interval = float(points.min()), float(points.max())
        typer.echo(f"· {walk.start.label} → {walk.end.label}: to {tolerance:g} of the local value", err=True)
        curve = ravine.resolve(J, along=walk, interval=interval, tolerance=tolerance, **about)
    ravine.save_result(curve, out / "line.nc")
    figure = ravine.plot.line(curve)
    for suffix in ("png", "pdf"):
        figure.save(out / f"line.{suffix}")
    page = ravine.write_report(out, curve)
    _print_verdict(curve)
    typer.echo(f"\nThe report: {page}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="a folder with results (*.nc)")]) -> None:
    """Write report.html anew from the results (*.nc) in a folder; needs no model."""
    files = sorted(folder.glob("*.nc"))
    if not files:
        what = "has no results (*.nc)" if folder.is_dir() else "is not a folder"
        msg = f"{str(folder)!r} {what}; expected a folder with results that ravine wrote"
        raise ravine.InputError(msg)
    results = sorted((ravine.open_result(file) for file in files), key=lambda result: str(result.attrs["created"]))
    page = ravine.write_report(folder, *results)
    typer.echo(f"The report: {page}")


@app.command()
def inspect(start: Annotated[str, _START], end: Annotated[str, _END]) -> None:
    """Compare two checkpoints before walking: names, ties, norms, distance, NaN, running statistics."""
    found = ravine.inspect(start, end)
    typer.echo(str(found))
    if found.problem or any(end.non_finite for end in found.ends):
        raise typer.Exit(2)


def parse_alpha(text: str) -> np.ndarray:
    """Read ``FROM:TO:COUNT`` (evenly spaced, both ends included) or ``a,b,c``.

    Raises:
        ravine.InputError: it is neither.

    Example:
        >>> parse_alpha("0:1:5"), parse_alpha("-0.5,0,1")
        (array([0.  , 0.25, 0.5 , 0.75, 1.  ]), array([-0.5,  0. ,  1. ]))
    """
    try:
        if ":" not in text:
            return np.array([float(part) for part in text.split(",")])
        low, high, count = text.split(":")
        if int(count) < 1:
            raise ValueError
        return np.linspace(float(low), float(high), int(count))
    except ValueError as problem:
        msg = f"--alpha must be FROM:TO:COUNT, such as 0:1:201, or a list such as 0,0.5,1; got {text!r}"
        raise ravine.InputError(msg) from problem


def load_objective(name: str) -> ravine.Objective:
    """Call the function that ``file.py:function`` or ``package.module:function`` names.

    Raises:
        ravine.InputError: there is no such file, module or function, it fails, or it returns something else.
    """
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        msg = f"OBJECTIVE must be file.py:function or package.module:function; got {name!r}"
        raise ravine.InputError(msg)
    module = _import(place)
    make = getattr(module, function, None)
    if not callable(make):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        known = ", ".join(own)
        msg = f"{place!r} has no function {function!r}; it has {known or 'none'}"
        raise ravine.InputError(msg)
    try:
        made = make()
    except ravine.InputError:
        raise
    except (Exception, SystemExit) as problem:
        msg = f"{name!r} failed: {type(problem).__name__}: {problem}. RAVINE_DEBUG=1 shows where."
        raise ravine.InputError(msg) from problem
    if not isinstance(made, ravine.Objective):
        msg = f"{name!r} must return a ravine.Objective; it returned {type(made).__name__}"
        raise ravine.InputError(msg)
    return made


def _import(place: str) -> Any:
    try:
        if not place.endswith(".py"):
            sys.path.append(str(Path.cwd()))  # so that a module beside the caller is found
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            msg = f"there is no file {place!r}"
            raise ravine.InputError(msg)
        name = f"_ravine_objective_{path.stem}"  # not the file's own name, which may be another module's
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # a path that ends in .py always has one
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.append(str(path.resolve().parent))  # so that it can import its neighbours
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except ravine.InputError:
        raise
    except (Exception, SystemExit) as problem:
        msg = f"{place!r} cannot be imported: {type(problem).__name__}: {problem}"
        raise ravine.InputError(msg) from problem
    return module


def _require_writable(out: Path) -> None:
    """Find out before the work that its outcome can be written."""
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".ravine-{os.getpid()}"
        probe.touch()
        probe.unlink()
        if made:
            out.rmdir()  # made again when there is something to write
    except OSError as problem:
        msg = f"cannot write to {str(out)!r}: {problem.strerror or problem}. Choose another folder with --out."
        raise ravine.InputError(msg) from problem


def _print_verdict(curve: Any) -> None:
    found = ravine.metrics.verdict(curve)
    heading = str(curve.attrs["title"] or f"{curve.attrs['start']} → {curve.attrs['end']}")
    typer.echo(f"\n{heading}\n{'─' * len(heading)}")
    for sentence in (found.headline, *found.sentences):
        typer.echo(sentence)


def _on_terminal() -> bool | None:
    return None if sys.stderr.isatty() else False


def _command() -> str:
    return shlex.join(["ravine", *sys.argv[1:]])
