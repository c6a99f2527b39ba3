"""The sentences on other networks: section 4 and after, figures 6 to 8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from ravine.paper.claims.claim import Claim
from ravine.paper.claims.curves import hidden, humps, more_above_hull, rises, train
from ravine.paper.claims.found import Found, exactly, least, missing
from ravine.paper.claims.obstacles import (
    LEFT,
    barrier_height,
    barrier_width,
    barrier_within,
    error_there,
    near_barrier,
    passed_as_drawn,
    passed_at,
    passed_left,
    placed_minimum,
    second_barrier,
)
from ravine.paper.claims.runs import share_wrong
from ravine.paper.figures.lstm import beside_published
from ravine.paper.figures.mpdbm_measures import CUT, RAW, WIDE, performance
from ravine.paper.figures.study import Outcome

#: Why a threshold is the one of ``metrics.threshold_of``.
_NO_BUMP: Final = (
    "a thousandth of the curve's range, as Lucas et al. 2021 call a line monotone, or the noise "
    "floor"
)
_CONVEX: Final = "ours: a convex curve has 0, a step halfway 0.5"

_FAR: Final = "ours: as far as what counts as straying from the line elsewhere"

#: What the sentence on the second minimum may mean: name, line, part of it, in words.
READINGS: Final = (
    ("", RAW, (0.0, 1.0), f"on [0, 1], {RAW}"),
    ("-cut", CUT, (0.0, 1.0), f"on [0, 1], {CUT}"),
    ("-left", RAW, LEFT, f"on [{LEFT[0]:g}, 0], {RAW}"),
    ("-left-cut", CUT, LEFT, f"on [{LEFT[0]:g}, 0], {CUT}"),
    ("-right", RAW, (1.0, WIDE[1]), f"on [1, {WIDE[1]:g}], {RAW}"),
)

#: What is not very tall: ours, a twentieth of the whole fall.
TALL: Final = 0.05

#: The other networks, by figure, and the names of their lines: what the MP-DBM is said to be less
#: convex than.
OTHERS: Final[dict[str, dict[str, str]]] = {
    "fig1": {"maxout": "deterministic"},
    "fig2": {"sigmoid": "sigmoid", "ReLU": "relu"},
    "fig6": {"convolutional maxout": "whole"},
    "fig8": {"LSTM": "deterministic"},
}


def more_non_convex(outcome: Outcome, others: Mapping[str, Outcome]) -> Found:
    """How much farther above its hull the MP-DBM's line is than any other network's line."""
    lines = {
        network: others[figure].results[name]
        for figure, named in OTHERS.items()
        if figure in others
        for network, name in named.items()
    }
    return more_above_hull(outcome.results["line"], lines, sum(map(len, OTHERS.values())))


def performs(outcome: Outcome) -> Found:
    """The solution's error on validation images, of the whole training."""
    run = outcome.runs[0]
    error = performance(run)
    if np.isnan(error):
        return missing("it takes the whole training")
    return share_wrong(error, run.recipe.valid)


def perplexity(outcome: Outcome) -> Found:
    """The test part's perplexity over the published one."""
    found = beside_published(outcome.runs[0])
    if np.isnan(found):
        return missing("on another text, or after a part of the training, the number means nothing")
    return exactly(found, "examples")


CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "conv-well-behaved",
        "§4 and figure 6",
        "At a global scale, the curve looks very well-behaved",
        "fig6",
        "largest rise of J on [0, 1] in nats, convolutional maxout, no masks",
        lambda o: rises(o.results["whole"]),
        "at most",
        None,
        _NO_BUMP,
    ),
    Claim(
        "conv-a-barrier",
        "§4 and figure 6",
        "we find that there is a single barrier in the objective function",
        "fig6",
        "largest rise of J near the start, on [0, 0.2], in nats",
        lambda o: near_barrier(train(o.results["near"])),
        "at least",
        None,
        _NO_BUMP,
    ),
    Claim(
        "conv-a-single-barrier",
        "§4 and figure 6",
        "we find that there is a single barrier in the objective function",
        "fig6",
        "largest rise of J after the top of that barrier, up to α = 1, in nats; not run where "
        "there is no barrier",
        lambda o: second_barrier(train(o.results["near"]), train(o.results["whole"])),
        "at most",
        None,
        _NO_BUMP,
    ),
    Claim(
        "conv-near-the-start",
        "§4 and figure 6",
        "near where the network is initialized",
        "fig6",
        "largest rise of J on [0, 0.1], in nats; not run where there is no barrier",
        lambda o: barrier_within(train(o.results["near"])),
        "at least",
        None,
        "ours: near is a tenth of the way; " + _NO_BUMP,
    ),
    Claim(
        "conv-wide",
        "§4 and figure 6",
        "This barrier is reasonably wide",
        "fig6",
        "how far it is in α from the foot of that barrier to where J is back at its level; not run "
        "where there is no barrier",
        lambda o: barrier_width(train(o.results["near"])),
        "at least",
        0.01,
        "ours: twice the finest step of the original's grids, 1/199",
    ),
    Claim(
        "conv-not-tall",
        "§4 and figure 6",
        "but not very tall",
        "fig6",
        "height of that barrier over J(0) − J(1); not run where there is no barrier",
        lambda o: barrier_height(train(o.results["near"]), train(o.results["whole"]), TALL),
        "at most",
        TALL,
        "ours: a twentieth of the whole decrease",
    ),
    *(
        Claim(
            f"mpdbm-second-minimum{name}",
            "§4 and figure 7",
            "Here we find a secondary local minimum with high error",
            "fig7",
            f"depth of the second minimum of J {where} in nats per pixel, MP-DBM",
            lambda o, line=line, part=part: placed_minimum(o.results[line], part),
            "at least",
            None,
            "what is shallower would not count as an obstacle elsewhere; " + _NO_BUMP,
        )
        for name, line, part, where in READINGS
    ),
    Claim(
        "mpdbm-high-error",
        "§4 and figure 7",
        "a secondary local minimum with high error",
        "fig7",
        "share of training images given another label at the second minimum to the left of the "
        "start that is cut to the caps; not run where there is none",
        lambda o: error_there(o.results[CUT], LEFT),
        "at least",
        0.5,
        "ours: more are wrong than right",
    ),
    Claim(
        "mpdbm-second-minimum-small",
        "§4 and figure 7",
        "Here we find a secondary local minimum with high error",
        "fig7-small",
        f"depth of the second minimum of J on [{LEFT[0]:g}, 0], {CUT} in nats per pixel, a machine "
        "of 150 and 250 units; the least of three seeds",
        lambda o: least(placed_minimum(line, LEFT) for line in o.results.values()),
        "at least",
        None,
        "what is shallower would not count as an obstacle elsewhere; " + _NO_BUMP,
    ),
    Claim(
        "mpdbm-high-error-small",
        "§4 and figure 7",
        "a secondary local minimum with high error",
        "fig7-small",
        "share of training images given another label there; the least of three seeds",
        lambda o: least(error_there(line, LEFT) for line in o.results.values()),
        "at least",
        0.5,
        "ours: more are wrong than right",
    ),
    Claim(
        "mpdbm-passed-around",
        "§4 and figure 7",
        "SGD passed far enough around the anomaly to avoid having it affect learning",
        "fig7",
        "nearest that any snapshot came to the second minimum on [0, 1], over the line's length; "
        "not run where there is none",
        passed_at,
        "at least",
        0.1,
        _FAR,
    ),
    Claim(
        "mpdbm-passed-left",
        "§4 and figure 7",
        "SGD passed far enough around the anomaly to avoid having it affect learning",
        "fig7",
        "the same of the second minimum to the left of the start that is cut to the caps",
        passed_left,
        "at least",
        0.1,
        _FAR,
    ),
    Claim(
        "mpdbm-not-near",
        "figure 7",
        "This plot allows us to see that SGD did not pass near this anomaly",
        "fig7-plane",
        "the same on the figure's two axes; not run where there is no second minimum",
        passed_as_drawn,
        "at least",
        0.1,
        _FAR,
    ),
    Claim(
        "mpdbm-large-start",
        "§4",
        "The MP-DBM was initialized with very large, sparse, weights",
        "fig7",
        "mean norm at the start of what feeds a unit of the first layer, over the largest that "
        "training allows",
        lambda o: exactly(float(o.results["path"].attrs["start_over_cap"])),
        "at least",
        1,
        "above 1 the start lies outside the set that training stays in",
    ),
    Claim(
        "mpdbm-more-non-convex",
        "§4",
        "this model having more non-convex behavior than the others",
        "fig7",
        "how far J stands above its lower convex hull on [0, 1], over its range; less the largest "
        "such distance of the other networks",
        more_non_convex,
        "at least",
        0,
        _CONVEX,
        tuple(OTHERS),
    ),
    Claim(
        "mpdbm-performs",
        "§4",
        "it gets good performance as a generative model and as a classifier",
        "fig7",
        "error of the solution on validation images, by mean field; the whole training only",
        performs,
        "at most",
        0.01,
        "ours: one in a hundred, about what the other networks of the paper reach",
        ends=True,
    ),
    Claim(
        "lstm-no-obstacle",
        "§4 and figure 8",
        "This experiment did not find any difficult structures",
        "fig8",
        "largest rise of J on [0, 1] in nats per word, LSTM, no masks",
        lambda o: rises(o.results["deterministic"]),
        "at most",
        None,
        _NO_BUMP,
    ),
    Claim(
        "lstm-nothing-hides",
        "§4 and figure 8",
        "This experiment did not find any difficult structures",
        "fig8",
        "largest error of the resolved curve's interpolant at points it does not go through, over "
        "what counts as a bump",
        lambda o: hidden({"line": o.results["deterministic"]}),
        "at most",
        1,
        "no more than what counts as a bump can hide between the points, down to their spacing",
    ),
    Claim(
        "lstm-one-valley",
        "§4 and figure 8",
        "the exotic features of non-convex optimization do not appear to cause difficulty even for "
        "recurrent models of sequences",
        "fig8",
        "highest local maximum of J at the original's 20 values of α, and beyond the solution, "
        "in nats per word",
        lambda o: humps(o.results["coarse"]),
        "at most",
        None,
        "a monotone curve and a single valley have none; " + _NO_BUMP,
    ),
    Claim(
        "lstm-performs",
        "§5",
        "This work has only considered neural networks that perform very well",
        "fig8",
        "perplexity on the test part over the published one of this configuration, by one seed",
        perplexity,
        "at most",
        1.05,
        "ours: the published one is one run's, and a twentieth is what seeds and a rounded number "
        "may make",
        ends=True,
    ),
)
