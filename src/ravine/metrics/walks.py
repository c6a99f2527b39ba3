"""Walks: how much of a training run its straight line captures, beside how much of a random walk's it would.

Needs no torch: it reads what ``project`` wrote.

A random walk in D dimensions takes n equal steps, each in a fresh random direction. For D ≫ n its
steps are orthogonal, so after a share s of them |θ_s − θ_0|² = s L², where L is the distance from
first to last, and the inner product with the last displacement is s L² too. Hence the coordinate
along the line is x = s L, and the residual is r = √(s L² − s² L²) = L √(s (1 − s)): a semicircle,
whatever the walk. Its height is L/2, so that L/(L + max r) is exactly 2/3; and Σx² / Σ|θ − θ_0|² is
∫s² / ∫s = 2/3 as well. A training that goes on past the line's end stands at x = L with r = L √(s −
1), s > 1.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from ravine.errors import InputError

#: Two shares of captured movement closer than this are called alike; walks in 10⁵ dimensions
#: scatter by less.
_ALIKE = 0.01


def random_walk(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a random walk in very many dimensions stands, relative to the line from its start to its place at 1.

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
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "captured": float(np.divide(length, length + widest)),
            "captured_squares": float(np.divide(squares, squares + float((residual**2).sum()))),
            "max_residual": float(np.divide(widest, length)),
        }


def straightness(path: xr.Dataset) -> str:
    """One sentence: whether training went straighter than a random walk, with the numbers.

    Args:
        path: what ``project`` gave for a line.

    Returns:
        The sentence.

    Raises:
        InputError: it is no such result.

    Examples:
        >>> captured = xr.DataArray([0.724, 2 / 3], coords={"walk": ["run", "random walk"]})
        >>> path = xr.Dataset({"residual": ("step", [0.0]), "captured": captured, "max_residual": 0.7 * captured})
        >>> print(straightness(path))
        Training went straighter than a random walk: the line captures 0.724 of it (L/(L + max residual); a random
        walk 0.667), and it strayed by up to 0.507 of the line's length (0.467).
    """
    if not {"residual", "captured", "max_residual"} <= set(path.data_vars):
        msg = f"expected a result of project(); got variables {sorted(map(str, path.data_vars))}"
        raise InputError(msg)
    run = {name: float(path[name].sel(walk="run")) for name in ("captured", "max_residual")}
    if not np.isfinite(run["captured"]):
        return "How straight training went is undefined: a snapshot is not finite."
    if "random walk" not in path["walk"]:
        return (
            f"The slice captures {run['captured']:.3f} of training (L/(L + max residual)), which "
            "strayed by up to "
            f"{run['max_residual']:.3f} of its length. It does not join two of its snapshots, so "
            "there is no random "
            "walk to compare with."
        )
    null = {name: float(path[name].sel(walk="random walk")) for name in run}
    ahead = run["captured"] - null["captured"]
    how = (
        "about as straight as"
        if abs(ahead) <= _ALIKE
        else "straighter than"
        if ahead > 0
        else "less straight than"
    )
    return (
        f"Training went {how} a random walk: the line captures {run['captured']:.3f} of it (L/(L + "
        "max residual); a "
        f"random walk {null['captured']:.3f}), and it strayed by up to {run['max_residual']:.3f} "
        "of the line's "
        f"length ({null['max_residual']:.3f})."
    )
