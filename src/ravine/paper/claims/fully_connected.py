"""The sentences on fully connected networks: sections 1 to 3, figures 1 to 5."""

from __future__ import annotations

from typing import Final

import numpy as np

from ravine.paper.claims.claim import Claim
from ravine.paper.claims.curves import (
    above_hull,
    barriers,
    bumps,
    ends_of_minima,
    flattening,
    hidden,
    humps,
    line_search_regret,
    one_valley,
    rises,
    separation,
    start_above,
)
from ravine.paper.claims.found import Found, least, missing, worst
from ravine.paper.claims.runs import (
    beside_count,
    captured,
    epochs_in_the_flat,
    learnt,
    strayed,
    walk_or_line,
)
from ravine.paper.figures.seeds import lines_of, paths_of
from ravine.paper.figures.study import Outcome

#: Why a threshold is the one of ``metrics.threshold_of``.
_NO_BUMP: Final = (
    "a thousandth of the curve's range, as Lucas et al. 2021 call a line monotone, or the noise "
    "floor"
)
_GAINED: Final = "; a random start lies so high that it is a thousandth of what training gained"
_CONVEX: Final = "ours: a convex curve has 0, a step halfway 0.5"


def mistakes(outcome: Outcome) -> Found:
    """Errors of every seed on MNIST's test part, after the last phase, beside the paper's 94."""
    counts = [float(run.test_errors[-1]) for run in outcome.runs if run.recipe.data == "mnist"]
    if not counts:
        return missing("on other data than MNIST the count means nothing")
    return beside_count(counts, 94)


CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "maxout-no-obstacle",
        "abstract, §3 and figure 1",
        "on a straight path from initialization to solution, a variety of state of the art neural "
        "networks never encounter any significant obstacles",
        "fig1",
        "largest rise of J on [0, 1] in nats, maxout, no masks",
        lambda o: rises(o.results["deterministic"]),
        "at most",
        None,
        _NO_BUMP,
    ),
    Claim(
        "maxout-start",
        "§2",
        "These are initialized to some set of small, random, initial parameters",
        "fig1",
        "|J(θ_i) − ln 10| in nats: so small that all classes are equally likely",
        lambda o: start_above(o.results["deterministic"], np.log(10)),
        "at most",
        None,
        "initial weights of ± 0.005 make logits of about 1e-6, and ten equal classes cost ln 10; "
        + _NO_BUMP,
    ),
    Claim(
        "maxout-convex",
        "§2",
        "the objective function has a simple, approximately convex shape along this cross-section",
        "fig1",
        "how far J stands above its lower convex hull on [0, 1], over its range",
        lambda o: above_hull(o.results["deterministic"]),
        "at most",
        0.05,
        _CONVEX,
    ),
    Claim(
        "maxout-flattening",
        "figure 1",
        "the flattening near α = 0",
        "fig1",
        "α at which a tenth of the decrease is reached",
        lambda o: flattening(o.results["deterministic"]),
        "at least",
        0.1,
        "a linear curve reaches a tenth of its decrease at α = 0.1, a convex one sooner",
    ),
    Claim(
        "maxout-convex-apart",
        "figure 1",
        "Apart from the flattening near α = 0, it is nearly convex in this subspace",
        "fig1",
        "the same distance from the hull on [end of the flattening, 1]",
        lambda o: above_hull(
            o.results["deterministic"],
            flattening(o.results["deterministic"]).number,
        ),
        "at most",
        0.05,
        "as above; the flattening ends where a tenth of the decrease is reached",
    ),
    Claim(
        "maxout-line-search",
        "§2 and figure 1",
        "if we knew the correct direction, a single coarse line search could do a good job of "
        "training",
        "fig1",
        "share of the decrease that the worst line search with steps of 0.05 to 0.25 misses",
        lambda o: line_search_regret(o.results["deterministic"]),
        "at most",
        0.01,
        "ours: all but a hundredth of the possible decrease",
    ),
    Claim(
        "maxout-first-epochs",
        "figure 1",
        "Essentially all of learning happens in the first few epochs",
        "fig1",
        "share of the decrease of the training objective that is reached after 5 epochs",
        lambda o: learnt(o, 5),
        "at least",
        0.9,
        "ours: “essentially all” is nine tenths, “a few” is five",
        ends=True,
    ),
    Claim(
        "maxout-flat-bottom",
        "§3",
        "SGD spends most of its time exploring the flat region at the bottom of the valley",
        "fig1",
        "share of epochs that end within a tenth of the decrease above the lowest objective",
        epochs_in_the_flat,
        "at least",
        0.5,
        "“most” is more than half",
        ends=True,
    ),
    Claim(
        "maxout-94",
        "§3",
        "This configuration results in only 94 mistakes on the MNIST test set",
        "seeds",
        "errors on the test part after phase 2, less the paper's 94",
        mistakes,
        "at most",
        0,
        "no more than the paper's; each count has its binomial error, 14 together",
        ends=True,
    ),
    Claim(
        "seeds-no-obstacle",
        "abstract, §3 and figure 1",
        "on a straight path from initialization to solution, a variety of state of the art neural "
        "networks never encounter any significant obstacles",
        "seeds",
        "largest rise of J on [0, 1] in nats, the most of all seeds",
        lambda o: worst(map(rises, lines_of(o))),
        "at most",
        None,
        _NO_BUMP,
    ),
    Claim(
        "seeds-convex",
        "§2",
        "the objective function has a simple, approximately convex shape along this cross-section",
        "seeds",
        (
            "how far J stands above its lower convex hull on [0, 1], over its range, the most of "
            "all seeds"
        ),
        lambda o: worst(map(above_hull, lines_of(o))),
        "at most",
        0.05,
        _CONVEX,
    ),
    Claim(
        "seeds-two-thirds",
        "§3 and figure 5",
        "the linear subspace captures about 2/3 the variation in the parameters during learning",
        "seeds",
        "as for figure 5, the least of all seeds",
        lambda o: least(map(captured, paths_of(o))),
        "at least",
        0,
        "2/3 is what a line captures of any random walk: only what is beyond that says something "
        "of learning",
    ),
    *(
        Claim(
            f"{name}-no-obstacle",
            "§3 and figure 2",
            "the 1-D subspace spanning the initial and final parameters contains no difficult, "
            "exotic structures",
            "fig2",
            f"largest rise of J on [0, 1] in nats, {word}",
            lambda o, name=name: rises(o.results[name]),
            "at most",
            None,
            _NO_BUMP,
        )
        for name, word in (("sigmoid", "sigmoid"), ("relu", "ReLU"))
    ),
    *(
        Claim(
            f"fine-{name}",
            "§3 and figure 3",
            "increased resolution did not expose any small, difficult structures",
            "fig3",
            f"highest local maximum of J at 200 values of α in {window}, in nats",
            lambda o, name=name: humps(o.results[name]),
            "at most",
            None,
            "a monotone curve and a single valley have none; " + _NO_BUMP,
        )
        for name, window in (("whole", "[0, 1]"), ("start", "[0, 0.01]"), ("end", "[0.99, 1]"))
    ),
    Claim(
        "fine-nothing-hides",
        "§3 and figure 3",
        "we have explored α with too coarse of a resolution to expose local non-convex structures "
        "(the objection)",
        "fig3",
        "largest error of the resolved windows' interpolants at points they do not go through, "
        "over what counts as a bump there",
        lambda o: hidden(
            {name: o.results[f"{name} resolved"] for name in ("whole", "start", "end")}
        ),
        "at most",
        1,
        "no more than what counts as a bump can hide between the points, down to their spacing",
    ),
    Claim(
        "fine-masks",
        "§3",
        "the choice of dropout mask has a large enough effect on the objective function to cause "
        "visible bumpiness at this resolution",
        "fig3",
        "how many local maxima J has at 200 values of α on [0, 1] with fresh masks at each, higher "
        "than what counts as a bump",
        lambda o: bumps(o.results["masks"]),
        "at least",
        2,
        "ours: bumpiness is more than one bump; a monotone curve and a single valley have none",
    ),
    Claim(
        "fine-validation-apart",
        "figure 3",
        "it is too widely separated from the training set objective and would require zooming out "
        "the plot too far",
        "fig3",
        "validation above training loss at α = 1, over the range of the training loss in [0.99, 1]",
        separation,
        "at least",
        1,
        "drawn together, the training curve would fill less than half of the panel",
    ),
    Claim(
        "two-solutions",
        "§3 and figure 4",
        "by interpolating between two different SGD solutions, we show that each solution is a "
        "different local minimum",
        "fig4",
        "barrier between the two in nats",
        lambda o: barriers(o.results["solutions"]),
        "at least",
        None,
        "what is lower would not count as an obstacle elsewhere; " + _NO_BUMP,
    ),
    Claim(
        "two-minima",
        "§3 and figure 4",
        "each solution is a different local minimum",
        "fig4",
        "how far the two local minima near α = 0 and 1 lie below the solutions themselves, in "
        "nats; not run where there is no barrier between",
        lambda o: ends_of_minima(o.results["solutions"]),
        "at most",
        None,
        "training by minibatches with dropout stops near a minimum of this line, not in it",
        ends=True,
    ),
    Claim(
        "random-no-barrier",
        "§3 and figure 4",
        "if we interpolate between a solution and a randomly selected point we do not find "
        "evidence of barriers",
        "fig4",
        "largest rise of J on [0, 1] in nats, from a random point",
        lambda o: rises(o.results["random"], o),
        "at most",
        None,
        _NO_BUMP + _GAINED,
    ),
    Claim(
        "random-one-minimum",
        "figure 4",
        "we find no local minima besides the SGD solution",
        "fig4",
        (
            "at the original's 20 values of α: highest local maximum of J, or how far J goes below "
            "J(1), in nats"
        ),
        lambda o: one_valley(o.results["random coarse"], o),
        "at most",
        None,
        "a single valley has no local maximum, and its minimum at the solution; "
        + _NO_BUMP
        + _GAINED,
    ),
    Claim(
        "strays",
        "§3",
        "Of course, SGD does not operate in this linear subspace",
        "fig5",
        "largest distance from the line, over its length",
        lambda o: strayed(o.results["path"]),
        "at least",
        0.1,
        "ours: far more than rounding; a random walk deviates by 0.5",
    ),
    Claim(
        "two-thirds",
        "§3 and figure 5",
        "the linear subspace captures about 2/3 the variation in the parameters during learning",
        "fig5",
        "what the line captures, L/(L + largest residual), beyond what it would of a random walk "
        "with the run's own step correlation; not where it is more than 0.1 away from 2/3",
        lambda o: captured(o.results["path"]),
        "at least",
        0,
        "2/3 is what a line captures of any random walk: only what is beyond that says something "
        "of learning",
    ),
    Claim(
        "same-shape",
        "§3",
        "These plots are practically guaranteed to have more or less the same shape for almost any "
        "kind of exploration of a high dimensional space, including random walks",
        "fig5",
        "how near the residuals are to a straight run's and not to a random walk's at the same α: "
        "0 is a walk, 1 a straight run",
        lambda o: walk_or_line(o.results["path"]),
        "at most",
        0.5,
        "more or less the same shape is nearer to the walk's than to none at all",
    ),
)
