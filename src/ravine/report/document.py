"""The whole page: sections, contents, and the file."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined

from ravine.errors import InputError
from ravine.plot import page
from ravine.report.sections import Section
from ravine.results import written_whole


def write_report(
    out: str | os.PathLike[str],
    *results: xr.Dataset,
    title: str | None = None,
    tolerance: float = 1e-3,
) -> Path:
    """Write ``report.html``: for each result its verdict, figure, measures, points and provenance.

    The page is one file that fetches nothing, so it opens offline and can be passed on.

    Args:
        out: the folder to write into; made if need be. A report that is there is replaced.
        results: measured lines and planes and projected runs, in the order in which they are to stand.
        title: the page's heading; None takes the only result's title, or counts the results.
        tolerance: as in ``ravine.metrics.verdict``: the share of a curve's range up to which a rise is no bump.

    Returns:
        The path of the page.

    Raises:
        InputError: no result, one that is none of these, or a folder that cannot be written.
    """
    if not results:
        msg = "there is nothing to report: expected at least one result"
        raise InputError(msg)
    sections = [Section.of(result, number, tolerance) for number, result in enumerate(results, 1)]
    heading = title or (sections[0].title if len(sections) == 1 else _count(sections))
    environment = Environment(
        loader=PackageLoader("ravine.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        title=heading, sections=sections, css=page.css(), scripts=page.scripts(), policy=page.POLICY
    )
    target = Path(out) / "report.html"
    with written_whole(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def _count(sections: list[Section]) -> str:
    found = Counter(section.anchor.partition("-")[0] for section in sections)
    counts = {kind: found[kind] for kind in ("line", "plane", "path")}
    return " and ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count)
