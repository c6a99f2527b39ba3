"""The sentences of the paper that can be tested, each as a number, a threshold, and its reason.

A claim holds, does not hold, or is undecided, by a comparison that is fixed here and by the bounds
of the number; nobody judges by eye.
"""

from __future__ import annotations

from typing import Final

from ravine.paper.claims import fully_connected, further_trainings, other_networks
from ravine.paper.claims.claim import Claim

CLAIMS: Final[tuple[Claim, ...]] = (
    *fully_connected.CLAIMS,
    *further_trainings.CLAIMS,
    *other_networks.CLAIMS,
)
