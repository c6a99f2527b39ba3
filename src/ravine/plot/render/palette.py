"""Colours and dashes that both renderers share."""

from __future__ import annotations

from typing import Final

#: Okabe and Ito's colours, which stay apart for colour-blind readers (Okabe & Ito 2008, "Color
#: Universal Design"), without the two that vanish on white or on black.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

#: Ink and gap lengths in units of the line's width, so that lines differ in grey print as well.
#: There are as many as a reader can tell apart; () is solid.
DASHES: Final[tuple[tuple[float, ...], ...]] = (
    (),
    (5, 2),
    (1.2, 1.4),
    (6, 2, 1.2, 2),
    (9, 2),
    (4, 1.5, 1, 1.5, 1, 1.5),
)

#: Colours of a field, by the name that both renderers know: even steps look even, to colour-blind
#: readers and in grey print too (van der Walt and Smith 2015).
RAMP: Final = "viridis"

#: Colours of the cells of a table, light where there is little: one hue, so that ink is legible on
#: its light half.
CELLS: Final = "Blues"

#: What lies on a field, and the rim that sets it off.
INK: Final = "#111111"
PAPER: Final = "#ffffff"

#: What is wrong.
ALARM: Final = "#E0322B"

#: Furniture: legible on white and on black.
GREY: Final = "#808080"

#: The style of what is drawn only to compare with: solid and grey.
REFERENCE: Final = -1


def colour(style: int) -> str:
    """The colour of a style, as ``#rrggbb``."""
    return GREY if style == REFERENCE else COLOURS[style % len(COLOURS)]


def dash(style: int) -> tuple[float, ...]:
    """The dash of a style, as lengths of ink and gap."""
    return () if style == REFERENCE else DASHES[style % len(DASHES)]


def dash_in_pixels(style: int) -> str:
    """The dash of a style as Plotly writes it, for a line two pixels wide.

    Examples:
        >>> dash_in_pixels(0), dash_in_pixels(1)
        ('solid', '10px,4px')
    """
    return ",".join(f"{2 * length:g}px" for length in dash(style)) or "solid"
