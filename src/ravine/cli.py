"""The command line: the public face, one command per question.

Bad input ends with one sentence on standard error and exit code 2; RAVINE_DEBUG=1 shows the
traceback too.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import numpy as np
import typer

import ravine
from ravine.paper import cli as wing

_TOLD_APART = 6  # curves in one panel
_SIDE = 31  # points along each axis of a plane
_LEDGER = "measured.sqlite"
_REQUEST = "command.txt"
#: Options that change no number: with a value, and without.
_TELLING_NOTHING = ("--out", "--store", "--title", "--plotlyjs", "--jobs", "--executor", "--report")
_SWITCHES = ("--fresh", "--overwrite", "--json")
_AXES = (None, "extrema", "pca", "random")

app = typer.Typer(
    help="What lies between two points of a network's parameter space.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
kept = typer.Typer(help="List or delete what a store holds.", no_args_is_help=True)
app.add_typer(kept, name="store")
app.add_typer(wing.paper, name="paper")
app.add_typer(wing.data, name="data")

_OBJECTIVE = typer.Argument(
    help="file.py:function or package.module:function; the function takes no arguments and "
    "returns a ravine.Objective"
)
_START = typer.Argument(
    help="checkpoint at alpha = 0: a file (.safetensors, .pt, .pth, .ckpt) or a folder"
)
_END = typer.Argument(help="checkpoint at alpha = 1")
_OUT = typer.Option(help="output folder; created if it does not exist")
_DRIVE = typer.Option(
    metavar="NAMES",
    help="with --tolerance: the quantities to resolve, separated by commas, or all  [default: "
    "loss]",
)
_TITLE = typer.Option(help="title of the result")
_ALPHA = typer.Option(help="points: FROM:TO:COUNT, both ends included, or a list such as 0,0.5,1")
_PLOTLYJS = typer.Option(
    "--plotlyjs",
    callback=wing.known_plotlyjs,
    help="inline: the report contains Plotly (5 MB) and opens offline; cdn: it loads Plotly when "
    "opened",
)
_DEVICE = typer.Option(
    help="where to measure, such as cuda, cuda:1 or cpu  [default: the objective's]"
)
_BUFFERS = typer.Option(
    help="policy for running statistics (BatchNorm): recompute, interpolate, start or end  "
    "[default: the objective's]"
)
_JSON = typer.Option("--json", help="print one JSON document and nothing else")
_STORE = typer.Option(
    help="file that keeps every measured point, or 'none'  [default: OUT/measured.sqlite]"
)
_STORE_FILE = typer.Argument(help="the store, such as OUT/measured.sqlite")
_FRESH = typer.Option("--fresh", help="measure every point again, also those in the store")
_OVERWRITE = typer.Option("--overwrite", help="replace another command's results in OUT")
_JOBS = typer.Option(
    help="number of processes, of one thread each; with --executor, its number of workers"
)
_EXECUTOR = typer.Option(
    help="file.py:function or package.module:function; the function takes no arguments and returns "
    "an executor (Dask, submitit, Ray …) that measures"
)
_FILE = typer.Option(
    "--out",
    help="file to write, .safetensors or .pt; without an extension, a folder in Hugging Face's "
    "format",
)
_REPLACE = typer.Option("--overwrite", help="replace an existing file or folder")
_METHOD = typer.Option(
    help="weights: smallest distance of the parameters; activations: highest correlation on a batch"
)
_RUN = typer.Argument(help="folder of a TrajectoryRecorder, or of numbered checkpoints")


def main() -> None:
    """Run the command line; every bad input ends with one sentence and exit code 2."""
    try:
        app()
    except ravine.InputError as problem:
        where = [note for note in _notes(problem) if note.startswith("at ")]
        _fail(f"{problem} ({where[0]})" if where else str(problem))
    except SystemExit as done:
        interrupt = _interrupt_behind(done)
        if interrupt is None:
            raise
        kept = _notes(interrupt)
        said = f"{kept[0]}: the same command continues" if kept else "no incomplete file is left"
        _fail(f"interrupted; {said}", code=130)
    except Exception as problem:
        note = "; ".join(_notes(problem))
        _fail(
            f"{type(problem).__name__}: {problem}{f' ({note})' if note else ''}. RAVINE_DEBUG=1 "
            "shows where."
        )


def _notes(problem: BaseException) -> list[str]:
    return getattr(problem, "__notes__", [])


def _interrupt_behind(problem: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C that typer made an exit of, if it was one."""
    while problem is not None and not isinstance(problem, KeyboardInterrupt):
        problem = problem.__cause__ or problem.__context__
    return problem


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
def demo(
    out: Annotated[Path, _OUT] = Path("ravine-demo"),
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Train two small networks on digits and write a report on them.

    Measures the lines between them. Takes under a minute; needs the extra ravine[demo].
    """
    from ravine import demo as tour

    _require_writable(out)
    made = tour.run(out, lambda stage: typer.echo(f"· {stage}", err=True), plotlyjs)
    results = {"descent": made.descent, "crossing": made.crossing, "path": made.path}
    if as_json:
        _print_json(out, results, made.report)
        return
    for curve in results.values():
        _print_verdict(curve)
    typer.echo(f"\nReport: {made.report}")


def _objective(name: str, device: str | None, buffers: Any) -> ravine.Objective:
    """The objective of a command, under the policies that the command changes."""
    made = ravine.load_objective(name)
    if buffers is not None:
        made = made.with_buffers(buffers)
    return made if device is None else made.with_device(device)


def _questions(above: float | None, decide: str | None, stderr: float | None) -> dict[str, Any]:
    """What `ravine.resolve` is to stop at, as soon as it is answered or reached."""
    asked: dict[str, Any] = {}
    if above is not None or decide is not None:
        asked |= {"decide": decide or "barrier", "above": above}
    if stderr is not None:
        asked["stderr"] = stderr
    return asked


def _flag_of(questions: dict[str, Any]) -> str:
    """The option that asks for a resolved curve."""
    if "decide" in questions:
        return "--above"
    return "--stderr" if questions else "--tolerance"


def _require_tolerance(tolerance: float | None, drive: str | None) -> None:
    if drive is not None and tolerance is None:
        msg = "--drive says what points are added for, and goes with --tolerance"
        raise ravine.InputError(msg)


def _asked(tolerance: float, drive: str | None) -> dict[str, Any]:
    """What `ravine.resolve` is asked for."""
    names = "loss" if drive is None else drive.strip()
    several = [name.strip() for name in names.split(",")]
    return {"tolerance": tolerance, "drive": names if names == "all" else several}


@app.command()
def line(
    context: typer.Context,
    objective: Annotated[str, _OBJECTIVE],
    start: Annotated[str, _START],
    end: Annotated[str, _END],
    alpha: Annotated[str, _ALPHA] = "0:1:201",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="adaptive sampling between the ends of --alpha: target relative interpolation "
            "error, such as 1e-3"
        ),
    ] = None,
    drive: Annotated[str | None, _DRIVE] = None,
    above: Annotated[
        float | None,
        typer.Option(
            help="decide whether there is a barrier higher than this, in the unit of the loss, "
            "with as few examples as possible"
        ),
    ] = None,
    decide: Annotated[
        str | None,
        typer.Option(
            help="with --above: what to decide, barrier, rise, minimum or nonconvex  [default: "
            "barrier]"
        ),
    ] = None,
    stderr: Annotated[
        float | None,
        typer.Option(
            help="use as many examples as are needed for a standard error of J(α) − J(start) below "
            "this, in the unit of the loss"
        ),
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(
            help="move only the parameters whose names match, such as 'encoder.*' or '*.bias'; "
            "repeat it for further lines, or give 'modules' for one line per module"
        ),
    ] = None,
    hold: Annotated[
        str,
        typer.Option(help="with --groups: where the other parameters are held, start or end"),
    ] = "start",
    compare_buffers: Annotated[
        bool,
        typer.Option(
            "--compare-buffers",
            help="measure the line under each policy for running statistics (BatchNorm)",
        ),
    ] = False,
    out: Annotated[Path, _OUT] = Path("ravine-line"),
    device: Annotated[str | None, _DEVICE] = None,
    buffers: Annotated[str | None, _BUFFERS] = None,
    store: Annotated[str | None, _STORE] = None,
    fresh: Annotated[bool, _FRESH] = False,
    overwrite: Annotated[bool, _OVERWRITE] = False,
    jobs: Annotated[int | None, _JOBS] = None,
    executor: Annotated[str | None, _EXECUTOR] = None,
    title: Annotated[str, _TITLE] = "",
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure the straight line between two checkpoints.

    Prints a verdict, and writes the result, figures and a report. Example:

    ravine line objective.py:make init.pt final.pt --tolerance 1e-3 --out out
    """
    points = parse_alpha(alpha)
    several = [
        flag
        for flag, given in (("--groups", groups), ("--compare-buffers", compare_buffers))
        if given
    ]
    questions = _questions(above, decide, stderr)
    tolerance = 1e-3 if questions and tolerance is None else tolerance
    if tolerance is not None:
        several.append(_flag_of(questions))
    if len(several) > 1:
        msg = f"{' and '.join(several[:2])} do not go together; give one of them"
        raise ravine.InputError(msg)
    _require_tolerance(tolerance, drive)
    J = _objective(objective, device, buffers)  # noqa: N806
    walk = ravine.Line(start, end)
    _require_own(out, overwrite=overwrite)
    about: dict[str, Any] = {
        "title": title or None,
        "command": _command(),
        "progress": _on_terminal(),
        **_kept(J, store, fresh, out),
        **_spread(context, jobs, executor),
    }
    told = f"· {walk.start.label} → {walk.end.label}"
    if compare_buffers:
        typer.echo(f"{told}: {len(points)} points under each of four policies", err=True)
        curve = ravine.compare_buffers(J, walk, points, **about)
    elif groups:
        chosen = None if groups == ["modules"] else groups
        parts = ravine.by_group(
            walk,
            chosen,
            hold=hold,  # pyright: ignore[reportArgumentType]
        )
        typer.echo(f"{told}: {len(parts)} groups, {len(points)} points each", err=True)
        curve = ravine.evaluate(J, along=parts, at=points, **about)
    elif tolerance is None:
        noun = "point" if len(points) == 1 else "points"
        typer.echo(f"{told}: {len(points)} {noun}", err=True)
        curve = ravine.evaluate(J, along=walk, at=points, **about)
    else:
        interval = float(points.min()), float(points.max())
        typer.echo(f"{told}: to {tolerance:g} of the local value", err=True)
        asked = _asked(tolerance, drive) | questions
        curve = ravine.resolve(J, along=walk, interval=interval, **asked, **about)
    figures = (
        {"line": ravine.plot.line(curve)} if "line" not in curve.dims else _figures_of_lines(curve)
    )
    _deliver(out, {"line": curve}, figures, plotlyjs, as_json)


@app.command()
def barriers(
    context: typer.Context,
    objective: Annotated[str, _OBJECTIVE],
    points: Annotated[
        list[str], typer.Argument(help="checkpoints, or two runs: folders of numbered checkpoints")
    ],
    alpha: Annotated[str, _ALPHA] = "0:1:25",
    align: Annotated[
        bool,
        typer.Option(
            "--align",
            help="measure each line also with permuted units (aligned), and with repaired "
            "statistics",
        ),
    ] = False,
    method: Annotated[str, _METHOD] = "weights",
    seed: Annotated[int, typer.Option(help="random seed of the alignment")] = 0,
    out: Annotated[Path, _OUT] = Path("ravine-barriers"),
    device: Annotated[str | None, _DEVICE] = None,
    buffers: Annotated[str | None, _BUFFERS] = None,
    store: Annotated[str | None, _STORE] = None,
    fresh: Annotated[bool, _FRESH] = False,
    overwrite: Annotated[bool, _OVERWRITE] = False,
    jobs: Annotated[int | None, _JOBS] = None,
    executor: Annotated[str | None, _EXECUTOR] = None,
    title: Annotated[str, _TITLE] = "",
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure the barriers between several checkpoints or two runs.

    Tells which checkpoints are linearly mode-connected. For two runs, measures a line for every
    step that both have.
    """
    at = parse_alpha(alpha)
    J = _objective(objective, device, buffers)  # noqa: N806
    runs = [point for point in points if _is_run(point)]
    if runs and (len(runs) != len(points) or len(runs) != 2):
        msg = (
            f"expected checkpoints, or two runs; got {len(points)} points, of which {len(runs)} "
            f"are runs ({runs[0]!r})"
        )
        raise ravine.InputError(msg)
    if align:
        _require_no_runs(runs)
        if store not in (None, "none") or fresh:
            msg = (
                "--align keeps no store: leave --store and --fresh out, or measure without --align"
            )
            raise ravine.InputError(msg)
        if jobs is not None or executor is not None:
            msg = "--align measures in one process: leave --jobs and --executor out"
            raise ravine.InputError(msg)
        _require_own(out, overwrite=overwrite)
        found = _aligned_barriers(J, points, at, method, seed, title)
        _deliver(out, {"barriers": found}, _figures_of_lines(found, "barriers"), plotlyjs, as_json)
        return
    along = ravine.between_runs(*runs) if runs else ravine.pairs(points)
    _require_own(out, overwrite=overwrite)
    keeping = _kept(J, store, fresh, out) | _spread(context, jobs, executor)
    what = (
        f"{len(along)} steps of two runs"
        if runs
        else f"{_counted(len(along), 'pair')} of {len(points)} checkpoints"
    )
    typer.echo(f"· {what}, {len(at)} points each", err=True)
    asked: dict[str, Any] = {"title": title or None, "progress": _on_terminal(), **keeping}
    found = ravine.evaluate(J, along=along, at=at, command=_command(), **asked)
    _deliver(out, {"barriers": found}, _figures_of_lines(found, "barriers"), plotlyjs, as_json)
    if not runs and not as_json:
        _print_averages(
            J, dict(zip(_ends(found), points, strict=True)), ravine.metrics.connected(found)
        )


def _require_no_runs(runs: list[str]) -> None:
    if runs:
        msg = f"--align is for checkpoints; {runs[0]!r} is a run"
        raise ravine.InputError(msg)


def _aligned_barriers(
    J: ravine.Objective,  # noqa: N803
    points: list[str],
    at: np.ndarray,
    method: Any,
    seed: int,
    title: str,
) -> Any:
    """Lines as they are, aligned, and repaired, in one result."""
    pairs = len(points) * (len(points) - 1) // 2
    typer.echo(f"· {pairs} pairs, as they are and aligned, {len(at)} points each", err=True)
    return ravine.compare_alignment(
        J,
        points,
        at,
        method=method,
        seed=seed,
        title=title or None,
        command=_command(),
        progress=_on_terminal(),
    )


@app.command()
def align(
    objective: Annotated[str, _OBJECTIVE],
    a: Annotated[str, typer.Argument(help="the checkpoint to match")],
    b: Annotated[str, typer.Argument(help="the checkpoint whose units are permuted")],
    out: Annotated[Path, _FILE],
    method: Annotated[str, _METHOD] = "weights",
    seed: Annotated[int, typer.Option(help="random seed of the search")] = 0,
    overwrite: Annotated[bool, _REPLACE] = False,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Permute the units of one network to match another.

    Checks on a batch that B still computes the same function, and writes it.
    """
    _require_free(out, [a, b], overwrite=overwrite)
    J = ravine.load_objective(objective)  # noqa: N806
    found = ravine.align(
        b,
        to=a,
        objective=J,
        method=method,  # pyright: ignore[reportArgumentType]
        seed=seed,
    )
    saved = ravine.save_checkpoint(found, out, like=b)
    if as_json:
        numbers = ("method", "before", "after", "permuted", "error", "rounding", "kept")
        said = {name: getattr(found, name) for name in numbers}
        typer.echo(json.dumps({"file": str(saved), **said}))
        return
    typer.echo(
        f"{_counted(found.permuted, 'set')} of units matched by {found.method}. Distance to {a}: "
        f"{found.before:.4g} before, {found.after:.4g} after. Outputs on the batch agree to "
        f"{found.error:.2g} (rounding: up to {found.rounding:.2g})."
    )
    for name, why in found.kept.items():
        typer.echo(f"Not permuted: {name} ({why})")
    typer.echo(f"Aligned checkpoint: {saved}")


@app.command()
def soup(
    objective: Annotated[str, _OBJECTIVE],
    points: Annotated[list[str], typer.Argument(help="checkpoints")],
    out: Annotated[Path, _FILE],
    method: Annotated[str, typer.Option(help="uniform, greedy or learned")] = "greedy",
    select: Annotated[str, typer.Option(help="split on which members are chosen")] = "valid",
    judge: Annotated[str, typer.Option(help="split on which the average is judged")] = "test",
    tolerance: Annotated[
        float | None,
        typer.Option(help="tolerated increase of the loss  [default: 1 % of the best member's]"),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            help="decided: an increase above the tolerance is excluded; best: the mean is not "
            "worse, as published"
        ),
    ] = "decided",
    report_in: Annotated[
        Path | None,
        typer.Option("--report", help="folder for a report of all decisions"),
    ] = None,
    overwrite: Annotated[bool, _REPLACE] = False,
    title: Annotated[str, _TITLE] = "",
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Average checkpoints, and decide whether that helps.

    Members are chosen on one split, and the average is judged on another.
    """
    _require_free(out, points, overwrite=overwrite)
    J = ravine.load_objective(objective)  # noqa: N806
    if report_in is not None:
        _require_own(report_in, overwrite=overwrite)
    asked: dict[str, Any] = {"method": method, "rule": rule, "tolerance": tolerance}
    asked |= {"select": select, "judge": judge, "title": title or None, "command": _command()}
    named = dict(zip(points, points, strict=True)) if len(set(points)) == len(points) else points
    found = ravine.soup(J, named, **asked)
    saved = ravine.save_checkpoint(found, out, like=points[0])
    said = json.dumps({"file": str(saved), "command": _command(), **_souped(found)})
    decisions = saved.with_name(f"{saved.name}.decisions.json")
    decisions.write_text(f"{said}\n", encoding="utf-8")
    page = None if report_in is None else _reported(found, saved, report_in, plotlyjs)
    if as_json:
        typer.echo(said)
        return
    for step in _souped(found)["steps"]:
        mark = "+" if step["accepted"] else "−"
        typer.echo(f"{mark} {step['step']}: {step['value']:.4g} on {select} ({step['reason']})")
    judged: Any = found.judgement
    typer.echo(
        f"On {judge}, against the best member: {judged.answer}; difference {judged.difference:.4g} "
        f"± {judged.stderr:.2g} [{judged.lower:.4g}, {judged.upper:.4g}] ({judged.reason})."
    )
    typer.echo(f"The soup: {saved}; its decisions: {decisions}")
    if page is not None:
        typer.echo(f"Report: {page}")


def _reported(found: Any, saved: Path, folder: Path, plotlyjs: str) -> Path:
    """Write a soup's history and its report, with the file that was written."""
    history = found.history.assign_attrs(file=str(saved))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _REQUEST).write_text(_request(), encoding="utf-8")
    ravine.save_result(history, folder / "soup.nc")
    return _page(folder, [history], plotlyjs)


def _page(folder: Path, results: Iterable[Any], plotlyjs: str) -> Path:
    """Write the report; the results themselves are in the folder already."""
    return ravine.write_report(
        folder,
        *results,
        plotlyjs=plotlyjs,  # pyright: ignore[reportArgumentType]  its callback has seen to that
        keep=False,
    )


def _souped(found: Any) -> dict[str, Any]:
    """A soup's decisions in plain values; None for a number that JSON has not."""
    table = found.history.drop_dims("member").to_dataframe().reset_index()
    steps = json.loads(table.to_json(orient="records"))
    return {"weights": found.weights, "steps": steps, "judgement": asdict(found.judgement)}


@app.command()
def average(
    points: Annotated[
        list[str], typer.Argument(help="checkpoints; with --decay the earliest first")
    ],
    out: Annotated[Path, _FILE],
    weights: Annotated[
        str | None,
        typer.Option(
            help="one weight per checkpoint, with sum 1, such as 0.25,0.75  [default: equal]"
        ),
    ] = None,
    decay: Annotated[
        str | None,
        typer.Option(
            help="weights that approximate a decay of the learning rate: linear, cosine or sqrt"
        ),
    ] = None,
    overwrite: Annotated[bool, _REPLACE] = False,
) -> None:
    """Write the weighted mean of checkpoints, without measuring it."""
    if weights is not None and decay is not None:
        msg = "--weights and --decay do not go together; give one of them"
        raise ravine.InputError(msg)
    _require_free(out, points, overwrite=overwrite)
    shares = None if weights is None else _numbers(weights)
    if decay is not None:
        shares = ravine.decay_weights(len(points), decay)  # pyright: ignore[reportArgumentType]
    mean = ravine.average(points, shares)
    saved = ravine.save_checkpoint(mean, out, like=points[0])
    if any(name.endswith("running_mean") for name in mean):
        typer.echo(
            "Running statistics are averaged like parameters; re-estimate them on data, or use "
            "ravine soup with an objective of buffers='recompute'.",
            err=True,
        )
    typer.echo(f"The average of {_counted(len(points), 'checkpoint')}: {saved}")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="rebasin or repair")],
    profile: Annotated[
        str, typer.Option(help="quick (a minute, embedded digits) or desk (MNIST, CIFAR-10)")
    ] = "quick",
    out: Annotated[Path, _OUT] = Path("ravine-study"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="folder with mnist/ and so on  [default: $RAVINE_DATA, or the cache, or a "
            "download]",
        ),
    ] = None,
) -> None:
    """Reproduce published numbers on aligned and repaired networks.

    Prints each published number beside ours, with its error and the differences.
    """
    from ravine.studies.study import measured, plan_of

    plan = plan_of(name, profile)
    _require_writable(out)
    rows = measured(
        plan, out / f"{name}-{profile}", data, lambda said: typer.echo(f"· {said}", err=True)
    )
    typer.echo(
        "test loss at α = ½ minus the mean of the ends (nats); is a barrier above 0.02 shown?"
    )
    for row in rows:
        beside = f"  published: {row.published}" if row.published else ""
        typer.echo(
            f"{row.arm:24} {row.stage:21} {row.loss:8.4f} ± {row.loss_stderr:<7.2g} accuracy "
            f"{row.accuracy:5.1f} %  {', '.join(row.decisions)}{beside}"
        )
        if row.differs:
            typer.echo(f"{'':24} differs: {row.differs}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as problem:
        msg = f"--weights must be numbers such as 0.25,0.75; got {text!r}"
        raise ravine.InputError(msg) from problem


@app.command()
def project(
    context: typer.Context,
    objective: Annotated[str, _OBJECTIVE],
    run: Annotated[str, _RUN],
    alpha: Annotated[str, _ALPHA] = "0:1:101",
    out: Annotated[Path, _OUT] = Path("ravine-project"),
    device: Annotated[str | None, _DEVICE] = None,
    buffers: Annotated[str | None, _BUFFERS] = None,
    store: Annotated[str | None, _STORE] = None,
    fresh: Annotated[bool, _FRESH] = False,
    overwrite: Annotated[bool, _OVERWRITE] = False,
    jobs: Annotated[int | None, _JOBS] = None,
    executor: Annotated[str | None, _EXECUTOR] = None,
    title: Annotated[str, _TITLE] = "",
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure how far a run deviates from its straight line.

    The line leads from the first snapshot to the last. The report also has the learning curve.
    """
    points = parse_alpha(alpha)
    J = _objective(objective, device, buffers)  # noqa: N806
    taken = _open_run(run, J.model)
    walk = ravine.Line(taken[0], taken[-1])
    _require_own(out, overwrite=overwrite)
    keeping = _kept(J, store, fresh, out) | _spread(context, jobs, executor)
    typer.echo(f"· {walk.start.label} → {walk.end.label}: {len(points)} points", err=True)
    about: dict[str, Any] = {"command": _command()}
    curve = ravine.evaluate(
        J, along=walk, at=points, title=title or None, progress=_on_terminal(), **about, **keeping
    )
    typer.echo(f"· {len(taken)} snapshots on that line", err=True)
    path = ravine.project(taken, onto=walk, objective=J, **keeping)
    path = path.assign_attrs(
        title=f"{title}: training" if title else "Deviation of training from its line", **about
    )
    figures = {"line": ravine.plot.line(curve), "path": ravine.plot.path(path)}
    _deliver(out, {"line": curve, "path": path}, figures, plotlyjs, as_json)


@app.command()
def plane(
    context: typer.Context,
    objective: Annotated[str, _OBJECTIVE],
    points: Annotated[
        list[str],
        typer.Argument(
            help="three checkpoints: origin, a, b; with --axes extrema or pca a run, "
            "with --axes random a checkpoint or a run"
        ),
    ],
    axes: Annotated[
        str | None,
        typer.Option(
            help="extrema: the run's line and its farthest snapshot; pca: principal axes; random: "
            "filter-normalised"
        ),
    ] = None,
    alpha: Annotated[str | None, _ALPHA] = None,
    beta: Annotated[
        str | None, typer.Option(help="the same as --alpha, along the second axis")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="adaptive sampling: target relative interpolation error, such as 3e-3"),
    ] = None,
    drive: Annotated[str | None, _DRIVE] = None,
    seed: Annotated[int, typer.Option(help="random seed of random axes")] = 0,
    out: Annotated[Path, _OUT] = Path("ravine-plane"),
    device: Annotated[str | None, _DEVICE] = None,
    buffers: Annotated[str | None, _BUFFERS] = None,
    store: Annotated[str | None, _STORE] = None,
    fresh: Annotated[bool, _FRESH] = False,
    overwrite: Annotated[bool, _OVERWRITE] = False,
    jobs: Annotated[int | None, _JOBS] = None,
    executor: Annotated[str | None, _EXECUTOR] = None,
    title: Annotated[str, _TITLE] = "",
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Measure the loss surface over a plane.

    The plane goes through three checkpoints, or is spanned by a run, whose path is drawn on it.
    """
    _require_tolerance(tolerance, drive)
    J = _objective(objective, device, buffers)  # noqa: N806
    sheet, taken, explained = _spanned(axes, points, seed)
    _require_own(out, overwrite=overwrite)
    keeping = _kept(J, store, fresh, out) | _spread(context, jobs, executor)
    about: dict[str, Any] = {"command": _command()}
    path = None
    if taken is not None:
        typer.echo(f"· {len(taken)} snapshots on the plane", err=True)
        path = ravine.project(taken, onto=sheet, objective=J, **keeping)
        named = f"{title}: training" if title else "Deviation of training from the plane"
        path = path.assign_attrs(title=named, **about)
    at = {
        dim: parse_alpha(given) if given else _around(path, dim, axes)
        for dim, given in (("alpha", alpha), ("beta", beta))
    }
    size = " × ".join(str(len(values)) for values in at.values())
    typer.echo(
        f"· {sheet}: {size} points" if tolerance is None else f"· {sheet}: to {tolerance:g}",
        err=True,
    )
    asked: dict[str, Any] = {"title": title or None, "progress": _on_terminal(), **about, **keeping}
    if tolerance is None:
        surface = ravine.evaluate(J, along=sheet, at=at, **asked)
    else:
        interval = {dim: (float(values.min()), float(values.max())) for dim, values in at.items()}
        surface = ravine.resolve(
            J, along=sheet, interval=interval, **_asked(tolerance, drive), **asked
        )
    figures = {
        "plane": ravine.plot.surface(surface, path),
        "plane-3d": ravine.plot.surface(surface, path, view="3d"),
    }
    if path is not None:
        figures["path"] = ravine.plot.path(path)
    found = {"plane": surface} | ({"path": path} if path is not None else {})
    _deliver(out, found, figures, plotlyjs, as_json)
    if explained is not None and not as_json:
        shares = " and ".join(f"{100 * share:.1f} %" for share in explained[:2])
        walk = " and ".join(f"{100 * share:.1f} %" for share in (6 / np.pi**2, 6 / np.pi**2 / 4))
        typer.echo(
            f"The axes explain {shares} of the run's variance about its mean (random walk: {walk})."
        )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="a folder with results (*.nc)")],
    plotlyjs: Annotated[str, _PLOTLYJS] = "inline",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Write report.html from the results (*.nc) in a folder.

    Measures nothing, and needs no model.
    """
    files = sorted(folder.glob("*.nc"))
    if not files:
        what = "has no results (*.nc)" if folder.is_dir() else "is not a folder"
        msg = f"{str(folder)!r} {what}; expected a folder with results that ravine wrote"
        raise ravine.InputError(msg)
    results = sorted(
        (ravine.open_result(file) for file in files),
        key=lambda result: str(result.attrs["created"]),
    )
    page = _page(folder, results, plotlyjs)
    typer.echo(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


@kept.command("list")
def list_store(file: Annotated[Path, _STORE_FILE], as_json: Annotated[bool, _JSON] = False) -> None:
    """List what a store holds.

    Prints the number of points, the size and the dates for each objective.
    """
    found = ravine.store.contents(file)
    if as_json:
        typer.echo(json.dumps({"file": str(file), "objectives": found}))
        return
    for one in found:
        typer.echo(
            f"{one['objective'][:8]}  {one['model']}: {one['points']:,} points, "
            f"{one['bytes'] / 1e6:.1f} MB, measured {one['first'][:10]} to {one['last'][:10]}"
        )
    if not found:
        typer.echo("The store is empty.")


@kept.command("clean")
def clean_store(
    file: Annotated[Path, _STORE_FILE],
    objective: Annotated[
        str | None,
        typer.Option(
            help="delete only this objective: the first characters of its name in the list"
        ),
    ] = None,
) -> None:
    """Delete what a store holds."""
    points = ravine.store.clean(file, objective)
    typer.echo(f"{points:,} points deleted")


@app.command()
def inspect(
    start: Annotated[str, _START],
    end: Annotated[str, _END],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Compare two checkpoints before measuring.

    Prints names, ties, norms, distance, NaN and running statistics. The exit code is 2 if no line
    can join them.
    """
    found = ravine.inspect(start, end)
    typer.echo(json.dumps(_inspected(found)) if as_json else str(found))
    if found.problem or any(end.non_finite for end in found.ends):
        raise typer.Exit(2)


def _inspected(found: Any) -> dict[str, Any]:
    """An inspection in plain values; None for a number that JSON has not."""
    written = json.dumps(asdict(found) | {"distance": float(found.distance)})
    return json.loads(written, parse_constant=lambda _: None)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def parse_alpha(text: str) -> np.ndarray:
    """Read ``FROM:TO:COUNT`` (evenly spaced, both ends included) or ``a,b,c``.

    Raises:
        ravine.InputError: it is neither.

    Examples:
        >>> parse_alpha("0:1:5"), parse_alpha("-0.5,0,1")
        (array([0.  , 0.25, 0.5 , 0.75, 1.  ]), array([-0.5,  0. ,  1. ]))
    """
    try:
        if ":" not in text:
            return np.array([float(part) for part in text.split(",")])
        low, high, count = text.split(":")
        first, last = float(low), float(high)
        if int(count) < 1 or not math.isfinite(first) or not math.isfinite(last):
            raise ValueError
        return np.linspace(first, last, int(count))
    except ValueError as problem:
        msg = (
            "--alpha must be FROM:TO:COUNT, such as 0:1:201, or a list such as 0,0.5,1; got "
            f"{text!r}"
        )
        raise ravine.InputError(msg) from problem


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
        msg = (
            f"cannot write to {str(out)!r}: {problem.strerror or problem}. Choose another folder "
            "with --out."
        )
        raise ravine.InputError(msg) from problem


def _kept(
    J: ravine.Objective,  # noqa: N803
    store: str | None,
    fresh: bool,
    out: Path,
) -> dict[str, Any]:
    """Where what is measured is kept: in OUT, unless another place or none was named."""
    if store == "none":
        return {}
    if store is None:
        problem = ravine.store.why_not(J)
        if problem:
            typer.echo(f"· measured points are not kept: {problem}", err=True)
            return {}
    return {"store": out / _LEDGER if store is None else Path(store), "fresh": fresh}


def _spread(context: typer.Context, jobs: int | None, executor: str | None) -> dict[str, Any]:
    """Who measures: workers that end with the command, if some are asked for."""
    if executor is not None:
        workers = ravine.Workers.named(executor, count=jobs)
    elif jobs is not None:
        workers = ravine.Workers(jobs)
    else:
        return {}
    return {"executor": context.with_resource(workers)}


def _require_own(out: Path, *, overwrite: bool) -> None:
    """Find out before the work that its outcome can be written, and writes over no other's."""
    _require_writable(out)
    if overwrite or not any(out.glob("*.nc")):
        return
    earlier = _text(out / _REQUEST)
    if earlier != _request():
        whose = "unknown" if earlier is None else earlier
        msg = (
            f"{str(out)!r} holds the results of another command ({whose}). Choose another folder "
            "with --out, or replace them with --overwrite."
        )
        raise ravine.InputError(msg)


def _require_free(out: Path, sources: list[str], *, overwrite: bool) -> None:
    """Find out before the work that no checkpoint is lost to its outcome."""
    if any(out.resolve() == Path(source).resolve() for source in sources):
        msg = f"{str(out)!r} is one of the input checkpoints; choose another file with --out"
        raise ravine.InputError(msg)
    is_there = any(out.iterdir()) if out.is_dir() else out.exists()
    if is_there and not overwrite:
        msg = f"{str(out)!r} already exists; choose another file with --out, or give --overwrite"
        raise ravine.InputError(msg)


def _text(place: Path) -> str | None:
    try:
        return place.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _request() -> str:
    """The command without what does not change its numbers."""
    words = iter(sys.argv[1:])
    kept: list[str] = []
    for word in words:
        name, has_value, _ = word.partition("=")
        if name in _TELLING_NOTHING:
            if not has_value:
                next(words, None)
        elif name not in _SWITCHES:
            kept.append(word)
    return shlex.join(["ravine", *kept])


def _deliver(
    out: Path, results: dict[str, Any], figures: dict[str, Any], plotlyjs: str, as_json: bool
) -> None:
    """Write results, figures and the report, and print the verdicts."""
    out.mkdir(parents=True, exist_ok=True)
    (out / _REQUEST).write_text(_request(), encoding="utf-8")
    for name, result in results.items():
        ravine.save_result(result, out / f"{name}.nc")
    try:
        for name, figure in figures.items():
            for suffix in ("png", "pdf"):
                figure.save(out / f"{name}.{suffix}")
        page = _page(out, results.values(), plotlyjs)
    except Exception as problem:  # hours of measuring are worth more than a picture
        said = str(problem) if isinstance(problem, ravine.InputError) else repr(problem)
        kept = ", ".join(str(out / f"{name}.nc") for name in results)
        msg = (
            f"the measurement is complete and kept in {kept}, but a figure or the report could not "
            f"be written: {said} Then run: ravine report {shlex.quote(str(out))}"
        )
        raise ravine.InputError(msg) from problem
    if as_json:
        _print_json(out, results, page)
        return
    for result in results.values():
        _print_verdict(result)
    typer.echo(f"\nReport: {page}")


def _print_json(out: Path, results: dict[str, Any], page: Path) -> None:
    """What was found, for a program: the files and the verdicts."""
    found = {
        name: {
            "file": str(out / f"{name}.nc"),
            "title": str(result.attrs.get("title", "")),
            "verdict": ravine.metrics.verdict(result).to_dict(),
        }
        for name, result in results.items()
    }
    typer.echo(json.dumps({"report": str(page), "results": found}, ensure_ascii=False))


def _figures_of_lines(result: Any, name: str = "line") -> dict[str, Any]:
    """What the lines come to, and the curves where there are few enough to be told apart."""
    shared = ravine.metrics.shared_end(result) is not None
    figures = {name: ravine.plot.end_changes(result) if shared else ravine.plot.barriers(result)}
    if result.sizes["line"] <= _TOLD_APART:
        figures["curves"] = ravine.plot.lines(result)
    return figures


def _ends(result: Any) -> list[str]:
    return list(dict.fromkeys(map(str, [*result["start"].values, *result["end"].values])))


def _print_averages(
    J: ravine.Objective, points: dict[str, str], groups: list[tuple[str, ...]]
) -> None:  # noqa: N803
    """J at the mean of every set that may be averaged, measured, beside the best of its members."""
    for group in groups:
        if len(group) < 2:
            continue
        at = J(ravine.average([points[name] for name in group]))
        alone = [J(points[name]) for name in group]
        said = []
        for split, loss in at.items():
            best = min(one[split] for one in alone)
            said.append(f"{split} {loss:.4g} (best alone {best:.4g})")
        typer.echo(f"The average of {', '.join(group)}: loss {', '.join(said)}.")


def _is_run(place: str) -> bool:
    folder = Path(place)
    return (
        folder.is_dir()
        and not any(folder.glob("*.safetensors.index.json"))
        and _numbered_checkpoints(folder)
    )


def _numbered_checkpoints(folder: Path) -> bool:
    try:
        return len(ravine.Trajectory.open(folder)) > 0
    except ravine.InputError:
        return False


def _open_run(place: str, model: Any) -> ravine.Trajectory:
    run = ravine.Trajectory.open(place, model=model)
    if len(run) < 2:
        msg = (
            f"{place!r} holds one snapshot, of step {run.steps[0]}; a line from first to last "
            "needs two or more"
        )
        raise ravine.InputError(msg)
    for gap in run.gaps:
        typer.echo(f"· no snapshot between steps {gap[0]} and {gap[1]}", err=True)
    return run


def _spanned(
    axes: str | None, points: list[str], seed: int
) -> tuple[ravine.Plane, ravine.Trajectory | None, np.ndarray | None]:
    """The plane some points span, the run if there is one, and how much its axes explain."""
    if axes not in _AXES:
        msg = (
            f"--axes must be {', '.join(_AXES[1:])}, or left out for a plane through three points; "
            f"got {axes!r}"
        )
        raise ravine.InputError(msg)
    if axes is None:
        _require_count(points, 3, "three checkpoints: origin, a, b")
        return ravine.Plane(*points), None, None
    _require_count(points, 1, "one point or run" if axes == "random" else "one run")
    if axes == "random":
        run = ravine.Trajectory.open(points[0]) if _numbered_checkpoints(Path(points[0])) else None
        origin = ravine.Checkpoint.read(points[0] if run is None else run[-1])
        return ravine.Plane(origin, *ravine.random_axes(origin, seed=seed)), run, None
    run = ravine.Trajectory.open(points[0])
    if axes == "pca":
        found = ravine.principal_axes(run)
        return ravine.Plane(found.origin, *found.corners), run, found.explained
    walk = ravine.Line(run[0], run[-1])
    return ravine.Plane(walk.start, walk.end, ravine.black_sheep(run, walk)), run, None


def _require_count(points: list[str], count: int, what: str) -> None:
    if len(points) != count:
        msg = f"expected {what}; got {len(points)}"
        raise ravine.InputError(msg)


def _around(path: Any, dim: str, axes: str | None) -> np.ndarray:
    """Where to look if nobody says: the corners, or the path, with a margin."""
    low, high = (-1.0, 1.0) if axes in ("pca", "random") else (0.0, 1.0)
    if path is not None:
        low, high = min(low, float(path[dim].min())), max(high, float(path[dim].max()))
    margin = 0.0 if axes == "random" else 0.2 * (high - low)
    return np.linspace(low - margin, high + margin, _SIDE)


def _print_verdict(curve: Any) -> None:
    found = ravine.metrics.verdict(curve)
    start, end = (str(curve.attrs.get(name, "")) for name in ("start", "end"))
    heading = str(curve.attrs["title"]) or (f"{start} → {end}" if start and end else "Verdict")
    typer.echo(f"\n{heading}\n{'─' * len(heading)}")
    typer.echo(_wrapped(str(found)))


def _wrapped(text: str) -> str:
    """Sentences broken between words on a terminal; a file or a pipe gets each in one line."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    is_row = re.compile(r"\S {2,}\S").search  # a table's columns stay where they are
    lines = (line if is_row(line) else fill(line, width) for line in text.splitlines())
    return "\n".join(lines)


def _on_terminal() -> bool | None:
    return None if sys.stderr.isatty() else False


def _command() -> str:
    return shlex.join(["ravine", *sys.argv[1:]])
