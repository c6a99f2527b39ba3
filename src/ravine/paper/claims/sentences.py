"""The sentences of the paper that can be tested, each as one number beside a threshold and the reason for it.

A claim holds, does not hold, or is undecided, by a comparison that is fixed here and by the bounds of the number;
nobody judges by eye. What needs an experiment that is not among the figures is listed as not run, with what it would
take.
"""

from __future__ import annotations

from typing import Final

from ravine.paper.claims import fully_connected, other_networks
from ravine.paper.claims.claim import Claim
from ravine.paper.claims.found import missing

CLAIMS: Final[tuple[Claim, ...]] = (
    *fully_connected.CLAIMS,
    *other_networks.CLAIMS,
    *(
        Claim(name, section, sentence, "", "—", lambda outcome: missing(""), "at most", 0, reason)
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
