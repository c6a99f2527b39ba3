"""The sentences of the paper that can be tested, each as one number beside a threshold and the reason for it.

A claim holds, or does not, by a comparison that is fixed here; nobody judges by eye. What needs an experiment that is
not among the figures is listed as not run, with what it would take.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ravine import metrics
from ravine.paper.claims.claim import Claim
from ravine.paper.claims.numbers import (
    above_hull,
    conv_height,
    conv_humps,
    conv_place,
    ends_of_minima,
    epochs_in_the_flat,
    grid_minima,
    hidden,
    in_errors,
    learnt,
    line_search_regret,
    misfit,
    of_path,
    passed_as_drawn,
    passed_at,
    relative_hump,
    relative_rise,
    second_minimum,
    separation,
    shape_distance,
    train,
    turns,
)
from ravine.paper.figures.conv import NEAR, barrier
from ravine.paper.figures.lstm import beside_published
from ravine.paper.figures.mpdbm import performance, start_over_cap

#: Lucas et al. 2021 call a line monotone if it never rises by more than this share of its range.
FLAT: Final = 1e-3


_NO_BUMP = "Lucas et al. 2021 call a line monotone up to this share of its range"
_CONVEX = "ours: a convex curve has 0, a step halfway 0.5"

CLAIMS: Final[tuple[Claim, ...]] = (
    Claim(
        "maxout-no-obstacle",
        "abstract, §3 and figure 1",
        "on a straight path from initialization to solution, a variety of state of the art neural "
        "networks never "
        "encounter any significant obstacles",
        "fig1",
        "largest rise of J on [0, 1] over its range, maxout, no masks",
        lambda o: relative_rise(o.results["deterministic"]),
        "at most",
        FLAT,
        _NO_BUMP,
    ),
    Claim(
        "maxout-start",
        "§2",
        "These are initialized to some set of small, random, initial parameters",
        "fig1",
        "|J(θ_i) − ln 10| in nats: so small that the network says nothing yet",
        lambda o: abs(float(train(o.results["deterministic"]).between(0, 1).value[0]) - np.log(10)),
        "at most",
        1e-3,
        "initial weights of ± 0.005 make logits of about 1e-6, and ten equal classes cost ln 10",
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
        "α at which the first tenth of the drop is done",
        lambda o: metrics.plateau(o.results["deterministic"], split="train").value,
        "at least",
        0.1,
        "a straight slope does the first tenth of its drop by α = 0.1, a convex one sooner",
    ),
    Claim(
        "maxout-convex-apart",
        "figure 1",
        "Apart from the flattening near α = 0, it is nearly convex in this subspace",
        "fig1",
        "the same distance from the hull on [end of the flattening, 1]",
        lambda o: above_hull(
            o.results["deterministic"],
            metrics.plateau(o.results["deterministic"], split="train").value,
        ),
        "at most",
        0.05,
        "as above; the flattening ends where a tenth of the drop is done",
    ),
    Claim(
        "maxout-line-search",
        "§2 and figure 1",
        "if we knew the correct direction, a single coarse line search could do a good job of "
        "training",
        "fig1",
        "what the worst line search with steps of 0.05 to 0.25 leaves of the drop",
        lambda o: line_search_regret(o.results["deterministic"]),
        "at most",
        0.01,
        "ours: all but a hundredth of what there is to gain",
    ),
    Claim(
        "maxout-first-epochs",
        "figure 1",
        "Essentially all of learning happens in the first few epochs",
        "fig1",
        "share of the fall of the training objective that is done after 5 epochs",
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
        "share of epochs that end within a tenth of the fall from the lowest objective",
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
        "fig1",
        "errors on the test part after phase 2, by one seed",
        lambda o: (
            float(o.runs[0].test_errors[-1]) if o.runs[0].recipe.data == "mnist" else float("nan")
        ),
        "at most",
        94,
        "the paper's count; two binomial standard deviations of it are 19",
        ends=True,
    ),
    *(
        Claim(
            f"{name}-no-obstacle",
            "§3 and figure 2",
            "the 1-D subspace spanning the initial and final parameters contains no difficult, "
            "exotic structures",
            "fig2",
            f"largest rise of J on [0, 1] over its range, {word}",
            lambda o, name=name: relative_rise(o.results[name]),
            "at most",
            FLAT,
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
            f"highest hump of J at 200 values of α in {window}, over its range there",
            lambda o, name=name: relative_hump(o.results[name]),
            "at most",
            FLAT,
            "a slope and a single valley have none; " + _NO_BUMP,
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
        "over each range",
        hidden,
        "at most",
        FLAT,
        "no more than what counts as a bump can hide between the points, down to their spacing",
    ),
    Claim(
        "fine-masks",
        "§3",
        "the choice of dropout mask has a large enough effect on the objective function to cause "
        "visible bumpiness at "
        "this resolution",
        "fig3",
        "how often J turns at 200 values of α on [0, 1] with fresh masks at each",
        lambda o: float(turns(o.results["masks"])),
        "at least",
        10,
        "ours: a smooth slope or valley turns once at most",
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
        "barrier between the two in nats, over its standard error",
        lambda o: in_errors(metrics.barrier(o.results["solutions"], split="train")),
        "at least",
        5,
        "five standard errors over the examples",
    ),
    Claim(
        "two-minima",
        "§3 and figure 4",
        "each solution is a different local minimum",
        "fig4",
        "how far the two local minima near α = 0 and 1 lie below the solutions themselves, over "
        "the barrier",
        ends_of_minima,
        "at most",
        0.01,
        "ours: training by minibatches with dropout stops near a minimum of this line, not in it",
        ends=True,
    ),
    Claim(
        "random-no-barrier",
        "§3 and figure 4",
        "if we interpolate between a solution and a randomly selected point we do not find "
        "evidence of barriers",
        "fig4",
        "largest rise of J on [0, 1] over its range, from a random point",
        lambda o: relative_rise(o.results["random"]),
        "at most",
        FLAT,
        _NO_BUMP,
    ),
    Claim(
        "random-one-minimum",
        "figure 4",
        "we find no local minima besides the SGD solution",
        "fig4",
        "local minima at other values of the original's grid than α = 1, or a missing one there",
        grid_minima,
        "at most",
        0,
        "a count",
    ),
    Claim(
        "strays",
        "§3",
        "Of course, SGD does not operate in this linear subspace",
        "fig5",
        "largest distance from the line, over its length",
        lambda o: of_path(o, "max_residual"),
        "at least",
        0.1,
        "ours: far more than rounding, or a line with wiggles",
    ),
    Claim(
        "two-thirds",
        "§3 and figure 5",
        "the linear subspace captures about 2/3 the variation in the parameters during learning",
        "fig5",
        "|L/(L + largest residual) − 2/3|; the paper has no formula, and a random walk gives 2/3 "
        "exactly",
        lambda o: abs(of_path(o, "captured") - 2 / 3),
        "at most",
        0.1,
        "ours: “about”; three quarters would still pass, four fifths not",
    ),
    Claim(
        "same-shape",
        "§3",
        "These plots are practically guaranteed to have more or less the same shape for almost any "
        "kind of exploration "
        "of a high dimensional space, including random walks",
        "fig5",
        "root mean square between the residuals and a random walk's at the same α, over the line's "
        "length",
        shape_distance,
        "at most",
        0.1,
        "ours: a fifth of the semicircle's height",
    ),
    Claim(
        "conv-well-behaved",
        "§4 and figure 6",
        "At a global scale, the curve looks very well-behaved",
        "fig6",
        "largest rise of J on [0, 1] over its range, convolutional maxout, no masks",
        lambda o: relative_rise(o.results["whole"]),
        "at most",
        0.01,
        "ours: a hundredth of the range is less than a line's width in a figure",
    ),
    Claim(
        "conv-a-barrier",
        "§4 and figure 6",
        "we find that there is a single barrier in the objective function",
        "fig6",
        "how many tops J has on [0, 1] beyond what rounding and interpolation may do",
        lambda o: float(len(conv_humps(o))),
        "at least",
        1,
        "a count",
    ),
    Claim(
        "conv-a-single-barrier",
        "§4 and figure 6",
        "we find that there is a single barrier in the objective function",
        "fig6",
        "the same count",
        lambda o: float(len(conv_humps(o))),
        "at most",
        1,
        "a count",
    ),
    Claim(
        "conv-near-the-start",
        "§4 and figure 6",
        "near where the network is initialized",
        "fig6",
        "α of the first top",
        conv_place,
        "at most",
        NEAR,
        "ours: a tenth of the way",
    ),
    Claim(
        "conv-wide",
        "§4 and figure 6",
        "This barrier is reasonably wide",
        "fig6",
        "the α at which J is back below J(0)",
        lambda o: barrier(o.results["near"]).end.value,
        "at least",
        0.01,
        "ours: twice the finest step of the original's grids, 1/199",
    ),
    Claim(
        "conv-not-tall",
        "§4 and figure 6",
        "but not very tall",
        "fig6",
        "max J − J(0) near the start, over J(0) − J(1)",
        conv_height,
        "at most",
        0.05,
        "ours: a twentieth of the whole fall",
    ),
    Claim(
        "mpdbm-second-minimum",
        "§4 and figure 7",
        "Here we find a secondary local minimum with high error",
        "fig7",
        "prominence of the second minimum of J on [0, 1] over its range, 0 where there is none, "
        "MP-DBM",
        second_minimum,
        "at least",
        FLAT,
        "what is shallower would not count as an obstacle elsewhere; " + _NO_BUMP,
    ),
    Claim(
        "mpdbm-passed-around",
        "§4 and figure 7",
        "SGD passed far enough around the anomaly to avoid having it affect learning",
        "fig7",
        "nearest that any epoch came to the second minimum, over the line's length; not run where "
        "there is none",
        passed_at,
        "at least",
        0.1,
        "ours: as far as what counts as straying from the line elsewhere",
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
        "ours: as far as what counts as straying from the line elsewhere",
    ),
    Claim(
        "mpdbm-large-start",
        "§4",
        "The MP-DBM was initialized with very large, sparse, weights",
        "fig7",
        "mean norm at the start of what feeds a unit of the first layer, over the largest that "
        "training allows",
        lambda o: start_over_cap(o.runs[0]),
        "at least",
        1,
        "above 1 the start lies outside the set that training stays in",
    ),
    Claim(
        "mpdbm-more-non-convex",
        "§4",
        "this model having more non-convex behavior than the others",
        "fig7",
        "how far J stands above its lower convex hull on [0, 1], over its range",
        lambda o: above_hull(o.results["line"]),
        "at least",
        0.05,
        "what passes for approximately convex elsewhere; " + _CONVEX,
    ),
    Claim(
        "mpdbm-performs",
        "§4",
        "it gets good performance as a generative model and as a classifier",
        "fig7",
        "error of the solution on validation images, by mean field; the whole training only",
        lambda o: performance(o.runs[0]),
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
        "largest rise of J on [0, 1] over its range, LSTM, no masks",
        lambda o: relative_rise(o.results["deterministic"]),
        "at most",
        FLAT,
        _NO_BUMP,
    ),
    Claim(
        "lstm-nothing-hides",
        "§4 and figure 8",
        "This experiment did not find any difficult structures",
        "fig8",
        "largest error of the resolved curve's interpolant at points it does not go through, over "
        "its range",
        lambda o: misfit(o.results["deterministic"]),
        "at most",
        FLAT,
        "no more than what counts as a bump can hide between the points, down to their spacing",
    ),
    Claim(
        "lstm-one-valley",
        "§4 and figure 8",
        "the exotic features of non-convex optimization do not appear to cause difficulty even for "
        "recurrent models of "
        "sequences",
        "fig8",
        "highest hump of J at the original's 20 values of α, on beyond the solution, over its "
        "range",
        lambda o: relative_hump(o.results["coarse"]),
        "at most",
        FLAT,
        "a slope and a single valley have none; " + _NO_BUMP,
    ),
    Claim(
        "lstm-performs",
        "§5",
        "This work has only considered neural networks that perform very well",
        "fig8",
        "perplexity on the test part over the published one of this configuration, by one seed",
        lambda o: beside_published(o.runs[0]),
        "at most",
        1.05,
        "ours: the published one is one run's, and a twentieth is what seeds and a rounded number "
        "may make",
        ends=True,
    ),
    *(
        Claim(name, section, sentence, "", "—", lambda o: float("nan"), "at most", 0, reason)
        for name, section, sentence, reason in (
            (
                "higher-rate",
                "figure 1",
                "A higher learning rate results in increasing error, because some directions are "
                "still uphill",
                "needs trainings from mid-run at several rates",
            ),
            (
                "overfits",
                "§3",
                "Maxout tends to overfit on MNIST if used without dropout",
                "needs a training of the maxout network without dropout",
            ),
            (
                "symmetry-breaking",
                "§3",
                "local minima are rare and seem to correspond mostly to initial symmetry breaking",
                "needs pairs of trainings that part after k steps, and their barriers against k",
            ),
        )
    ),
)
