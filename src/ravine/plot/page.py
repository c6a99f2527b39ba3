"""Figures in a page that opens offline: the pieces, and a whole page for one figure."""

from __future__ import annotations

import base64
import functools
from importlib import resources
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ravine.plot import interactive, static
from ravine.plot.figure import Figure

#: The browser itself sees to it that a page fetches nothing.
POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)


def whole(figure: Figure) -> str:
    """One self-contained page with one figure."""
    environment = Environment(
        loader=PackageLoader("ravine.plot", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("figure.html.j2").render(
        title=figure.title or "figure",
        caption=figure.caption,
        figure=fragment(figure),
        css=css(),
        scripts=scripts(),
        policy=POLICY,
    )


def fragment(figure: Figure) -> Markup:
    """The figure for a page that has ``css`` and ``scripts``.

    Each panel is a drawing of its own, so that a narrow page can set them one under the other. A reader without
    scripts gets a picture.
    """
    pieces = [Markup('<div class="ravine-figure">')]
    for panel in figure.panels:
        # JSON has "<" in strings only, where the escape means the same and cannot end the script element.
        drawing = interactive.drawn(Figure((panel,))).to_json() or ""
        data = Markup(drawing.replace("<", "\\u003c"))
        over = f"{panel.x.label} and {panel.y.label}" if panel.z else panel.x.label
        label = f"{(panel.z or panel.y).label} over {over}"
        pieces.append(Markup('<div class="ravine-panel" role="group" aria-label="{}"></div>').format(label))
        pieces.append(Markup('<script type="application/json">{}</script>').format(data))
    picture = base64.b64encode(static.encoded(figure, "png")).decode()
    image = Markup('<noscript><img alt="{}" src="data:image/png;base64,{}"></noscript>')
    pieces.append(image.format(figure.caption or figure.title, picture))
    return Markup("\n").join([*pieces, Markup("</div>")])


def scripts() -> Markup:
    """Plotly's library and what draws the figures with it; once a page, after the last figure."""
    return Markup("<script>{}</script>\n<script>{}</script>").format(Markup(get_plotlyjs()), _asset("mount.js"))


def css() -> Markup:
    """The style of a page with figures."""
    return _asset("figure.css")


@functools.cache
def _asset(name: str) -> Markup:
    return Markup(resources.files("ravine.plot").joinpath(name).read_text(encoding="utf-8"))
