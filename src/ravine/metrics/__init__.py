"""Numbers and words about a result. No torch here: a saved result is enough.

Every standard error comes from the same measure of each half-sample replicate, so that a difference
between two points, which see the same examples, is as certain as the pairing makes it
(``ravine.result.schema``).
"""

from ravine.metrics.connections import Barriers, barriers, connected
from ravine.metrics.decisions import decide
from ravine.metrics.ends import EndChanges, end_changes, shared_end
from ravine.metrics.findings import Finding
from ravine.metrics.inference import Decision
from ravine.metrics.judgement import verdict
from ravine.metrics.measures import Measures, Row
from ravine.metrics.obstacles import BARRIERS, Minimum, Rise, barrier, minima, rise
from ravine.metrics.profile import Estimate, Profile
from ravine.metrics.relief import Relief, Spot
from ravine.metrics.shape import Convexity, convexity, half_drop, plateau
from ravine.metrics.verdicts import Verdict
from ravine.metrics.wording import policies

__all__ = [
    "BARRIERS",
    "Barriers",
    "Convexity",
    "Decision",
    "EndChanges",
    "Estimate",
    "Finding",
    "Measures",
    "Minimum",
    "Profile",
    "Relief",
    "Rise",
    "Row",
    "Spot",
    "Verdict",
    "barrier",
    "barriers",
    "connected",
    "convexity",
    "decide",
    "end_changes",
    "half_drop",
    "minima",
    "plateau",
    "policies",
    "rise",
    "shared_end",
    "verdict",
]
