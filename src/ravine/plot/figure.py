"""Figures: panels, and the words that go with them, written to a file of any kind."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.plot.layers import Panel

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

#: What ``Figure.save`` can write.
SUFFIXES: Final = (".png", ".pdf", ".svg", ".html")


@dataclass(frozen=True, eq=False)
class Figure:
    """Panels, and the words that go with them.

    Attributes:
        panels: drawn in rows of two.
        title: what it shows. A page has it as its heading, the other files in their metadata.
        caption: how to read it, ready for a paper. A page prints it, the other files have it in
            their metadata.

    Examples:
        >>> import numpy as np
        >>> from ravine.plot import Axis, Curve
        >>> x = np.linspace(0, 1, 5)
        >>> panel = Panel(Axis("x"), Axis("height (m)"), (Curve(x, x**2, label="parabola"),))
        >>> Figure((panel,)).save("figure.gif")
        Traceback (most recent call last):
        ravine.errors.InputError: cannot save a figure as 'figure.gif': expected a name that ends
        in .png, .pdf, .svg or .html
    """

    panels: tuple[Panel, ...]
    title: str = ""
    caption: str = ""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure, whole or not at all.

        Args:
            path: the file to write; its suffix chooses the format. ``.pdf`` and ``.svg`` keep their
                text editable, ``.png`` has 200 dots per inch, ``.html`` is one page that opens
                offline.

        Returns:
            The path written.

        Raises:
            InputError: another suffix, or the file cannot be written.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        if suffix not in SUFFIXES:
            expected = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
            msg = (
                f"cannot save a figure as {str(target)!r}: expected a name that ends in {expected}"
            )
            raise InputError(msg)
        with written_whole(target) as partial:
            partial.write_bytes(self._encoded(suffix[1:]))
        return target

    def to_matplotlib(self) -> matplotlib.figure.Figure:
        """The figure as matplotlib's, to be changed by hand."""
        from ravine.plot.render import static

        return static.drawn(self.panels)

    def to_plotly(self) -> plotly.graph_objects.Figure:
        """The figure as Plotly's, to be changed by hand or explored in a notebook."""
        from ravine.plot.render import interactive

        return interactive.drawn(self.panels)

    def __repr__(self) -> str:
        count = len(self.panels)
        return f"Figure({self.title!r}, {count} panel{'s' if count != 1 else ''})"

    def _repr_png_(self) -> bytes:
        return self._encoded("png")

    def _repr_html_(self) -> str:
        """For a notebook: the picture with its caption; it needs no script and stays in it."""
        picture = base64.b64encode(self._encoded("png")).decode()
        words = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        source = f"data:image/png;base64,{picture}"
        return (
            f'<figure><img src="{source}" alt="{escape(self.title)}" style="max-width: 100%">'
            f"{words}</figure>"
        )

    def _encoded(self, kind: str) -> bytes:
        if kind == "html":
            from ravine.plot.render import page

            return page.whole(self.panels, self.title, self.caption).encode()
        from ravine.plot.render import static

        return static.encoded(self.panels, kind, self.title, self.caption)
