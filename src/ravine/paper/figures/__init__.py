"""The paper's figures: each a function from a study to what was measured, and its drawing.

A new figure is one more function in a module here, and its name in ``FIGURES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ravine.paper.figures.branches import higher_rate, overfitting, parting
from ravine.paper.figures.conv import fig6
from ravine.paper.figures.linear import linear_dynamics, linear_lines, linear_plane
from ravine.paper.figures.lstm import SIZES as LSTMS
from ravine.paper.figures.lstm import fig8
from ravine.paper.figures.mnist import fig1, fig2, fig3, fig4, fig5
from ravine.paper.figures.mpdbm import SEEDS, SMALL, fig7, fig7_small
from ravine.paper.figures.mpdbm_measures import SIZES as MACHINES
from ravine.paper.figures.mpdbm_plane import fig7_above, fig7_path, fig7_plane
from ravine.paper.figures.seeds import seeds
from ravine.paper.figures.study import NotThere, Outcome, OutOfTime, Study
from ravine.paper.figures.walk import random_walk
from ravine.paper.recipe import Profile

__all__ = ["FIGURES", "NotThere", "OutOfTime", "Outcome", "Study", "trainings"]

#: Name → the function that makes it.
FIGURES: Final[dict[str, Callable[[Study], Outcome]]] = {
    "fig1": fig1,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "seeds": seeds,
    "fig6": fig6,
    "fig7": fig7,
    "fig7-plane": fig7_plane,
    "fig7-above": fig7_above,
    "fig7-path": fig7_path,
    "fig7-small": fig7_small,
    "fig8": fig8,
    "higher-rate": higher_rate,
    "overfitting": overfitting,
    "parting": parting,
    "linear-lines": linear_lines,
    "linear-plane": linear_plane,
    "linear-dynamics": linear_dynamics,
    "random-walk": random_walk,
}

#: Name → recipe and seed of each training that it is made from, but for figures whose network
#: depends on the profile, and for the branches of these. A budget is divided by it.
_TRAININGS: Final[dict[str, tuple[tuple[str, int], ...]]] = {
    "fig1": (("maxout-mnist", 0),),
    "fig2": (("sigmoid-mnist", 0), ("relu-mnist", 0)),
    "fig3": (("relu-plain-mnist", 0), ("relu-mnist", 0)),
    "fig4": (("maxout-mnist", 0), ("maxout-mnist", 1)),
    "fig5": (("maxout-mnist", 0),),
    "seeds": (("maxout-mnist", 0),),
    "fig6": (("conv-cifar10", 0),),
    "higher-rate": (("maxout-mnist", 0),),
    "overfitting": (("maxout-plain-mnist", 0), ("maxout-mnist", 0)),
    "parting": (("maxout-trunk-mnist", 0), ("maxout-trunk-mnist", 1)),
}


def trainings(name: str, profile: Profile) -> tuple[tuple[str, int], ...]:
    """The trainings behind a figure: recipe and seed.

    Args:
        name: of the figure.
        profile: "quick", "desk" or "full".

    Returns:
        Nothing for a figure without any.

    Examples:
        >>> trainings("fig4", "desk")
        (('maxout-mnist', 0), ('maxout-mnist', 1))
    """
    if name == "fig7-small":
        return tuple((SMALL, seed) for seed in SEEDS)
    if name.startswith("fig7"):
        return ((MACHINES[profile], 0),)
    return ((LSTMS[profile], 0),) if name == "fig8" else _TRAININGS.get(name, ())
