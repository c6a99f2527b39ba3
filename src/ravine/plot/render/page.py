"""Figures in a page that opens offline: the pieces, and a whole page for one figure."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Final, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from ravine.errors import InputError
from ravine.plot.layers import Panel
from ravine.plot.render import interactive, static

#: Where a page has Plotly's library from: ``"inline"``, it is in the page, or ``"cdn"``, the
#: browser fetches it.
Plotlyjs = Literal["inline", "cdn"]

_CDN: Final = "https://cdn.plot.ly"


def whole(panels: Sequence[Panel], title: str, caption: str) -> str:
    """One self-contained page with one figure."""
    return _template().render(
        title=title or "figure",
        caption=caption,
        figure=fragment((panels, caption or title)),
        css=css(),
        scripts=scripts(),
        policy=policy(),
    )


def fragment(*figures: tuple[Sequence[Panel], str], name: str = "figure") -> Markup:
    """Figures side by side for a page that has ``css`` and ``scripts``.

    Each panel is a drawing of its own, so that a narrow page can set them one under the other. A
    reader without scripts gets pictures.

    Args:
        figures: what is drawn, in order: panels, and what to say to a reader who sees no picture.
        name: the panels' elements have the ids ``<name>-0``, ``<name>-1``, …, unique on the page.
    """
    pieces = [Markup('<div class="ravine-figure">')]
    for number, panel in enumerate(panel for panels, _ in figures for panel in panels):
        # JSON has "<" in strings only, where the escape means the same and cannot end the script
        # element.
        drawing = interactive.drawn((panel,)).to_json() or ""
        data = Markup(drawing.replace("<", "\\u003c"))
        over = f"{panel.x.label} and {panel.y.label}" if panel.z else panel.x.label
        label = (
            f"{(panel.z or panel.y).label} over "
            f"{over}{', from the side' if panel.view == '3d' else ''}"
        )
        place = Markup('<div class="ravine-panel" id="{}-{}" role="group" aria-label="{}"></div>')
        pieces.append(place.format(name, number, label))
        pieces.append(Markup('<script type="application/json">{}</script>').format(data))
    image = Markup('<img alt="{}" src="data:image/webp;base64,{}">')
    pictures = (
        image.format(words, base64.b64encode(static.picture(panels)).decode())
        for panels, words in figures
    )
    pieces.append(Markup("<noscript>{}</noscript>").format(Markup("").join(pictures)))
    return Markup("\n").join([*pieces, Markup("</div>")])


def scripts(plotlyjs: Plotlyjs = "inline") -> Markup:
    """Plotly's library and what draws the figures with it; once a page, after the last figure."""
    if _chosen(plotlyjs) == "inline":
        library = Markup("<script>{}</script>").format(Markup(get_plotlyjs()))
    else:
        address = f"{_CDN}/plotly-{get_plotlyjs_version()}.min.js"
        library = Markup(
            '<script src="{}" integrity="{}" crossorigin="anonymous"></script>'
        ).format(address, _digest())
    return Markup("{}\n<script>{}</script>").format(library, _asset("mount.js"))


def policy(plotlyjs: Plotlyjs = "inline") -> str:
    """The page's content security policy: the browser sees to it that nothing is fetched."""
    library = "" if _chosen(plotlyjs) == "inline" else f" {_CDN}"
    return (
        f"default-src 'none'; script-src 'unsafe-inline'{library}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _chosen(plotlyjs: str) -> str:
    if plotlyjs not in get_args(Plotlyjs):
        msg = (
            "plotlyjs must be 'inline' (the page holds the library) or 'cdn' (it fetches it); got "
            f"{plotlyjs!r}"
        )
        raise InputError(msg)
    return plotlyjs


@functools.cache
def _digest() -> str:
    """Of the library that the page was made for: another one is refused by the browser."""
    return "sha256-" + base64.b64encode(hashlib.sha256(get_plotlyjs().encode()).digest()).decode()


def css() -> Markup:
    """The style of a page with figures."""
    return _asset("figure.css")


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ravine.plot.render", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("figure.html.j2")


@functools.cache
def _asset(name: str) -> Markup:
    return Markup(resources.files("ravine.plot.render").joinpath(name).read_text(encoding="utf-8"))
