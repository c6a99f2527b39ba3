"""The paper's figures: for each one a function from a study to what was measured, and how it is drawn.

A new figure is one more function in a module here, and its name in ``FIGURES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ravine.paper.figures.conv import fig6
from ravine.paper.figures.linear import linear_dynamics, linear_lines, linear_plane
from ravine.paper.figures.lstm import fig8
from ravine.paper.figures.mnist import fig1, fig2, fig3, fig4, fig5
from ravine.paper.figures.mpdbm import fig7, fig7_plane
from ravine.paper.figures.study import NotThere, Outcome, Study
from ravine.paper.figures.walk import random_walk

__all__ = ["FIGURES", "NotThere", "Outcome", "Study"]

#: Name → the function that makes it.
FIGURES: Final[dict[str, Callable[[Study], Outcome]]] = {
    "fig1": fig1,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
    "fig7-plane": fig7_plane,
    "fig8": fig8,
    "linear-lines": linear_lines,
    "linear-plane": linear_plane,
    "linear-dynamics": linear_dynamics,
    "random-walk": random_walk,
}
