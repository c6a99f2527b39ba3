"""Walks: how much of a training run its straight line captures, beside a random walk's share.

Needs no torch: it reads what ``project`` wrote.

A random walk in D dimensions takes n equal steps, each in a fresh random direction. For D ≫ n its
steps are orthogonal, so after a share s of them |θ_s − θ_0|² = s L², where L is the distance from
first to last, and the inner product with the last displacement is s L² too. Hence the coordinate
along the line is x = s L, and the residual is r = √(s L² − s² L²) = L √(s (1 − s)): a semicircle,
whatever the walk. Its height is L/2, so that L/(L + max r) is exactly 2/3; and Σx² / Σ|θ − θ_0|² is
∫s² / ∫s = 2/3 as well. A training that goes on past the line's end stands at x = L with r = L √(s −
1), s > 1.

Steps of a run with momentum are not independent, and a walk of such steps is straighter although it
heads nowhere. So there is a second null: steps whose correlation h steps apart is φʰ, as momentum φ
makes them of fresh gradients. The expected square of the way after m of them is V(m) = m (1 + φ)/(1
− φ) − 2φ (1 − φᵐ)/(1 − φ)², and the inner product of the places after s and t is (V(s) + V(t) −
V(|t − s|))/2; the rest is as above. φ is the one with which the displacements from snapshot to
snapshot have the mean cosine that the run's have.

In D dimensions these cosines scatter by (1 − c²)/√D about their mean c, which tells
D: few for a run that turns in few directions, however many parameters it has. L/(L
+ max r) then scatters by about 0.2/√D about what is expected of very many
dimensions (simulated for D from 10 to 1,000, and φ of 0 and 0.9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from scipy.optimize import brentq

from ravine.errors import InputError

#: Two shares of captured movement closer than this are called alike, and closer than a
#: walk scatters.
_ALIKE: Final = 0.01

#: −ln φ is at least this over the longest stretch: further on, a walk is a straight line.
_STRAIGHT: Final = 1e-4

#: Turns that a correlation is estimated from, at least: of fewer, the null would follow the
#: run itself.
_FEWEST: Final = 10

#: Standard deviation of L/(L + max r) times √D: 0.18 to 0.24, and D comes out up to 1.7 times
#: too large.
_SPREAD: Final = 0.27


def random_walk(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a random walk in very many dimensions stands, seen from its line.

    Args:
        share: of the walk's steps up to the line's end; above 1 after it.

    Returns:
        x / L along the line and r / L away from it, both dimensionless.

    Examples:
        >>> random_walk(np.array([0.0, 0.5, 1.0, 2.0]))
        (array([0. , 0.5, 1. , 1. ]), array([0. , 0.5, 0. , 1. ]))

    References:
        Goodfellow and Vinyals 2014, section 3: "the same shape for ... random walks".
    """
    along = np.minimum(share, 1)
    return along, np.sqrt((share - along**2).clip(0))


@dataclass(frozen=True)
class CorrelatedWalk:
    """A random walk in very many dimensions, its steps correlated as momentum correlates them.

    Attributes:
        momentum: φ: steps h apart have the correlation φʰ; from 0 to below 1.
        dimensions: that it turns in, as if all of them alike; infinite where that is not known.

    Examples:
        >>> walk = CorrelatedWalk(0.9)
        >>> round(float(walk.squares(1)), 9), round(float(walk.squares(100)), 1)
        (1.0, 1720.0)
        >>> along, away = walk.places(np.array([0, 50, 100]), 100)
        >>> along.round(3).tolist(), away.round(3).tolist()
        ([0.0, 0.5, 1.0], [0.0, 0.445, 0.0])
    """

    momentum: float
    dimensions: float = np.inf

    @property
    def scatter(self) -> float:
        """Standard deviation of L/(L + max r), from one such walk to another."""
        return _SPREAD / float(np.sqrt(self.dimensions))

    @classmethod
    def of(cls, gaps: np.ndarray, cosines: np.ndarray) -> CorrelatedWalk:
        """The walk whose displacements turn as a run's do, from one snapshot to the next.

        Args:
            gaps: (snapshots − 1,) updates from each to the next.
            cosines: (snapshots − 2,) of the angles between successive displacements.

        Returns:
            The walk; with independent steps where the cosines are not positive on average.
        """
        known = np.isfinite(cosines)
        wanted = float(cosines[known].mean()) if known.any() else 0.0
        dimensions = _dimensions(cosines[known])
        if wanted <= 0:
            return cls(0.0, dimensions)
        before, after = gaps[:-1][known], gaps[1:][known]

        def missing(rate: float) -> float:
            return float(cls(float(np.exp(-rate))).cosines(before, after).mean()) - wanted

        straight = _STRAIGHT / float(gaps.max())
        if missing(straight) <= 0:
            return cls(float(np.exp(-straight)), dimensions)
        # at 40 the correlation e⁻⁴⁰ is below float64's last bit: the steps are independent
        rate: Any = brentq(missing, straight, 40.0)
        return cls(float(np.exp(-rate)), dimensions)

    def squares(self, steps: np.ndarray | float) -> np.ndarray:
        """The expected square of the way after so many steps, of squared length 1 each."""
        left = 1 - self.momentum
        turned = 2 * self.momentum * (1 - self.momentum ** np.asarray(steps, float)) / left**2
        return np.asarray(steps * (1 + self.momentum) / left - turned)

    def products(self, steps: np.ndarray, others: np.ndarray | float) -> np.ndarray:
        """The expected inner product of the places after so many steps and after so many others."""
        apart = self.squares(np.abs(steps - others))
        return (self.squares(steps) + self.squares(others) - apart) / 2

    def cosines(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Of the angles between a displacement of so many steps and the next one."""
        both = self.squares(before + after) - self.squares(before) - self.squares(after)
        return both / 2 / np.sqrt(self.squares(before) * self.squares(after))

    def places(self, steps: np.ndarray, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Where it stands, relative to the line from its start to its place after ``end`` steps.

        Args:
            steps: (snapshots,) since the start.
            end: steps to the line's end.

        Returns:
            x / L along the line and r / L away from it, both dimensionless.
        """
        whole = float(self.squares(end))
        along = self.products(steps, end) / whole
        return along, np.sqrt((self.squares(steps) / whole - along**2).clip(0))


def _dimensions(cosines: np.ndarray) -> float:
    """How many dimensions a walk turns in, by the scatter of its cosines; a trend is none."""
    if len(cosines) < 2:
        return np.inf
    variance = float((np.diff(cosines) ** 2).mean()) / 2
    mean = float(cosines.mean())
    turned = (1 - mean**2) ** 2
    return turned / variance if variance > 0 < turned else np.inf


def correlated_walk(path: xr.Dataset) -> tuple[CorrelatedWalk, dict[str, float]] | None:
    """A random walk with the run's own step correlation, and how much of it the line captures.

    Args:
        path: what ``project`` gave for a line.

    Returns:
        The walk and its ``shares``, ``directness`` among them; None where the line does not join
        two snapshots of the run, where the run has fewer than ten turns up to its end to estimate a
        correlation from, or where the result does not tell them (as results of version 0.1 do not).
    """
    if "step_cosine" not in path or "random walk" not in path["walk"]:
        return None
    steps = path["step"].values - int(path["step"].values[0])
    away = path["residual"].values / float(path.attrs["length"])
    end = int(np.argmin(np.hypot(path["alpha"].values - 1, away)))
    turns = path["step_cosine"].values[2 : end + 1]
    if np.isfinite(turns).sum() < _FEWEST:
        return None
    gaps = np.diff(steps[: end + 1]).astype(float)
    walk = CorrelatedWalk.of(gaps, turns)
    found = shares(*walk.places(steps.astype(float), float(steps[end])), 1.0)
    straight = float(walk.squares(float(steps[end]))) ** 0.5
    return walk, found | {"directness": straight / float(np.sqrt(walk.squares(gaps)).sum())}


def shares(along: np.ndarray, residual: np.ndarray, length: float) -> dict[str, float]:
    """How much of a run the straight line captures.

    The paper says "about 2/3 the variation" and gives no formula; the sentence before names the
    length within the line and the largest residual, which is ``captured``.

    Args:
        along: (steps,) displacement within the line or slice, as a length.
        residual: (steps,) distance from it.
        length: L, of the line.

    Returns:
        ``captured`` L/(L + max r), ``captured_squares`` Σx²/Σ(x² + r²), and ``max_residual`` max r
        / L.

    Examples:
        >>> found = shares(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0]), 2.0)
        >>> {name: round(value, 3) for name, value in found.items()}
        {'captured': 0.667, 'captured_squares': 0.833, 'max_residual': 0.5}

    References:
        Goodfellow and Vinyals 2014, section 3 and figure 5.
    """
    widest = float(residual.max())
    squares = float((along**2).sum())
    # a run that goes nowhere has no shares: 0/0 is NaN
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "captured": float(np.divide(length, length + widest)),
            "captured_squares": float(np.divide(squares, squares + float((residual**2).sum()))),
            "max_residual": float(np.divide(widest, length)),
        }


def straightness(path: xr.Dataset) -> str:
    """One sentence: whether training went straighter than a random walk, with the numbers.

    It is set beside the walk with the run's own step correlation, where the result says what that
    is: a run with momentum that heads nowhere is straighter than a walk of independent steps.

    Args:
        path: what ``project`` gave for a line.

    Returns:
        The sentence; it says which random walk is meant.

    Raises:
        InputError: it is no such result.

    Examples:
        >>> captured = xr.DataArray([0.724, 2 / 3], coords={"walk": ["run", "random walk"]})
        >>> path = xr.Dataset({"captured": captured, "max_residual": 0.7 * captured})
        >>> path["residual"] = "step", [0.0]
        >>> print(straightness(path))
        Training went straighter than a random walk with independent steps: fraction captured by the
        line 0.724 (L/(L + max residual); such a walk 0.667); max. deviation from the line 0.507 of
        its length (0.467).
    """
    if not {"residual", "captured", "max_residual"} <= set(path.data_vars):
        msg = f"expected a result of project(); got variables {sorted(map(str, path.data_vars))}"
        raise InputError(msg)
    run = {name: float(path[name].sel(walk="run")) for name in ("captured", "max_residual")}
    if not np.isfinite(run["captured"]):
        return "How straight training went is undefined: a snapshot is not finite."
    if "random walk" not in path["walk"]:
        return (
            f"Fraction of training captured by the slice {run['captured']:.3f} (L/(L + max "
            f"residual)); max. deviation {run['max_residual']:.3f} of its length. The slice does "
            "not join two snapshots, so there is no random walk to compare with."
        )
    own = correlated_walk(path)
    nulls = _nulls(path, own)
    (which, nearest), *others = nulls.items()
    ahead = run["captured"] - nearest["captured"]
    how = "less straight than"
    if abs(ahead) <= (_ALIKE if own is None else max(_ALIKE, 2 * own[0].scatter)):
        how = "about as straight as"
    elif ahead > 0:
        how = "straighter than"
    captured = [f"such a walk {nearest['captured']:.3f}"]
    captured += [f"one with {words} {null['captured']:.3f}" for words, null in others]
    strayed = ", ".join(f"{null['max_residual']:.3f}" for null in nulls.values())
    return (
        f"Training went {how} a random walk with {which}: fraction captured by the line "
        f"{run['captured']:.3f} (L/(L + max residual); {', '.join(captured)}); max. deviation from "
        f"the line {run['max_residual']:.3f} of its length ({strayed})."
    )


def _nulls(
    path: xr.Dataset, own: tuple[CorrelatedWalk, dict[str, float]] | None
) -> dict[str, dict[str, float]]:
    """The random walks to compare with, in words, the straighter one first where there are two."""
    independent = {
        name: float(path[name].sel(walk="random walk")) for name in ("captured", "max_residual")
    }
    nulls = {} if own is None else {"its own step correlation": own[1]}
    return nulls | {"independent steps": independent}
