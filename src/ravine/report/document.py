"""The whole page: sections, contents, and the file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.plot.render import page
from ravine.report.scrub import embedded
from ravine.report.sections import Section
from ravine.report.views import views_of
from ravine.result.schema import kind_of
from ravine.result.storage import holds, save_result


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
    environment = Environment(
        loader=PackageLoader("ravine.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    text = environment.get_template("report.html.j2").render(
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
    """Keep the results beside the page."""
    there = sorted(folder.glob("*.nc"))
    wanted: set[Path] = set()
    for number, result in enumerate(results, 1):
        same = [path for path in there if holds(path, result)]
        path = same[0] if same else folder / f"report-{number}-{kind_of(result)}.nc"
        if not same:
            save_result(result, path)
        wanted.add(path)
    for path in folder.glob("report-*-*.nc"):
        if path not in wanted:
            path.unlink()


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
