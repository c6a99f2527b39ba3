"""Numbers and words about a result. No torch here: a saved result is enough.

Every standard error comes from the same measure of each half-sample replicate, so that a difference
between two points, which see the same examples, is as certain as the pairing makes it
(``ravine.result.schema``).
"""

from ravine.metrics.connections import Barriers, barriers, connected
from ravine.metrics.decisions import decide
from ravine.metrics.ends import EndChanges, end_changes, shared_end
from ravine.metrics.findings import Finding
from ravine.metrics.inference import FLAT, Decision, threshold_of
from ravine.metrics.judgement import verdict
from ravine.metrics.measures import Measures, Row
from ravine.metrics.obstacles import BARRIERS, Minimum, Rise, barrier, minima, rise, rise_of
from ravine.metrics.profile import Estimate, Profile
from ravine.metrics.relief import Relief, Spot
from ravine.metrics.shape import Convexity, convexity, half_drop, plateau
from ravine.metrics.verdicts import Verdict
from ravine.metrics.walks import correlated_walk
from ravine.metrics.wording import policies

__all__ = [
    "BARRIERS",
    "FLAT",
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
    "correlated_walk",
    "decide",
    "end_changes",
    "half_drop",
    "minima",
    "plateau",
    "policies",
    "rise",
    "rise_of",
    "shared_end",
    "threshold_of",
    "verdict",
]
