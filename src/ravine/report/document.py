"""The whole page: sections, contents, and the file."""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.plot.render import page
from ravine.report.scrub import embedded
from ravine.report.sections import Section
from ravine.report.views import views_of
from ravine.result.schema import kind_of
from ravine.result.storage import holding, save_result


def write_report(
    out: str | os.PathLike[str],
    *results: xr.Dataset,
    title: str | None = None,
    tolerance: float = 1e-3,
    plotlyjs: page.Plotlyjs = "inline",
    keep: bool = True,
) -> Path:
    """Write ``report.html``: for each result its verdict, figures, measures, points and provenance.

    The page is one file that fetches nothing, so it opens offline and can be passed on. Under the
    figures stands a slider that reads out every quantity at a place; results that show the same
    thing move together: a line and a run that was projected on it, a plane and a run that was
    projected on it, which is then drawn on the surface. The results are left beside the page, where
    `ravine report` finds them: those that no file in the folder holds yet go to
    ``report-1-line.nc`` and so on.

    Args:
        out: the folder to write into; made if need be. A report that is there is replaced, with the
            ``report-*.nc`` that belong to it.
        results: measured lines and planes, projected runs and soups' histories, in the order in
            which they are to stand.
        title: the page's heading; None takes the only result's title, or counts the results.
        tolerance: as in ``ravine.metrics.verdict``: the share of a curve's range up to which a rise
            is no bump.
        plotlyjs: ``"inline"``: the page holds the library that draws its figures, about 5 MB;
            ``"cdn"``: it fetches just that from cdn.plot.ly, and shows still pictures where it
            cannot.
        keep: whether the results are left beside the page.

    Returns:
        The path of the page.

    Raises:
        InputError: no result, one that is none of these, a folder that cannot be written, or no
            such ``plotlyjs``.
    """
    if not results:
        msg = "there is nothing to report: expected at least one result"
        raise InputError(msg)
    scripts, policy = page.scripts(plotlyjs), page.policy(plotlyjs)
    views, scrubs = views_of(results)
    try:
        sections = [Section.of(view, tolerance) for view in views]
    except InputError:
        raise
    except Exception:  # whatever cannot be drawn, the results are kept
        if keep:
            _leave(results, Path(out))
        raise
    if keep:
        _leave(results, Path(out))
    heading = title or (sections[0].title if len(sections) == 1 else _count(sections))
    text = _template().render(
        title=heading,
        sections=sections,
        scrubs=scrubs,
        css=page.css() + _asset("report.css"),
        scripts=scripts + Markup("\n<script>{}</script>").format(_asset("report.js")),
        policy=policy,
        fetches=plotlyjs == "cdn",
    )
    target = Path(out) / "report.html"
    with written_whole(target) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return target


def _leave(results: Sequence[xr.Dataset], folder: Path) -> None:
    """Keep the results beside the page; what a file holds already stays there."""
    there = holding(sorted(folder.glob("*.nc")), results)
    wanted = {path for path in there if path is not None}
    for number, (result, path) in enumerate(zip(results, there, strict=True), 1):
        if path is None:
            wanted.add(save_result(result, _free(folder, number, kind_of(result), wanted)))
    for path in folder.glob("report-*-*.nc"):
        if path not in wanted:
            path.unlink()


def _free(folder: Path, number: int, kind: str, taken: set[Path]) -> Path:
    """The first name from this number on that none of the results has."""
    names = (folder / f"report-{one}-{kind}.nc" for one in itertools.count(number))
    return next(path for path in names if path not in taken)


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ravine.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    return environment.get_template("report.html.j2")


@functools.cache
def _asset(name: str) -> Markup:
    return Markup(resources.files("ravine.report").joinpath(name).read_text(encoding="utf-8"))


def _count(sections: list[Section]) -> str:
    found = Counter(section.anchor.partition("-")[0] for section in sections)
    names = {"line": "line", "lines": "set of lines", "plane": "plane", "path": "path"}
    names["soup"] = "soup"
    counts = {name: found[kind] for kind, name in names.items()}
    plural = {
        name: name.replace("set", "sets") if name.startswith("set") else f"{name}s"
        for name in names.values()
    }
    return " and ".join(
        f"{count} {plural[name] if count > 1 else name}" for name, count in counts.items() if count
    )
