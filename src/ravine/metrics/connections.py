"""Connections: the barriers of several lines, and which points are linearly mode-connected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import xarray as xr

from ravine.errors import InputError
from ravine.metrics.decisions import decide
from ravine.metrics.obstacles import BARRIERS, BarrierKind, barrier
from ravine.metrics.profile import Estimate
from ravine.result.schema import lines_of, quantities

#: A barrier up to this height does not keep two points apart: two points of error rate, where
#: training twice from one point differs by as much (Frankle et al. 2020), or 2 % of perplexity.
TOLERABLE = 0.02


@dataclass(frozen=True)
class Barriers:
    """The barriers of one quantity on one split, on several lines.

    Attributes:
        heights: name of the line → kind of barrier → its height and place.
        quantity: which quantity.
        split: which split.
    """

    heights: Mapping[str, Mapping[str, Estimate]]
    quantity: str
    split: str

    def of(self, kind: BarrierKind = "end") -> dict[str, Estimate]:
        """Name of the line → the barrier of one kind."""
        return {name: kinds[kind] for name, kinds in self.heights.items()}


def barriers(result: xr.Dataset, *, quantity: str = "loss", split: str | None = None) -> Barriers:
    """The barrier on every line of a result, by each of the three definitions (``BARRIERS``).

    Args:
        result: of several lines, as ``evaluate`` gives it for a dict of lines; each must cover [0,
            1].
        quantity: of what.
        split: by default the first.

    Returns:
        Heights with standard errors and positions. Paired: all lines saw the same examples.

    Raises:
        InputError: a result of something else, or no such quantity or split.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> double_well = lambda model, batch: ((model(batch[0]) ** 2 - 1) ** 2).flatten()
        >>> J = ravine.Objective(model, double_well, (torch.ones(2, 1),))
        >>> places = {"a": -1.0, "b": 1.0, "c": 0.5}
        >>> points = {name: {"weight": torch.tensor([[w]])} for name, w in places.items()}
        >>> lines = ravine.pairs(points)
        >>> found = barriers(ravine.evaluate(J, along=lines, at=[0, 0.25, 0.5, 0.75, 1]))
        >>> found.of("end")["a – b"].value, found.of("end")["b – c"].value
        (1.0, 0.0)

    References:
        Frankle et al. 2020; Entezari et al. 2021; Goodfellow and Vinyals 2014, section 3.
    """
    lines = lines_of(result)
    kinds = cast("tuple[BarrierKind, ...]", tuple(BARRIERS))
    heights = {}
    for name, line in lines.items():
        asked = partial(barrier, line, quantity=quantity, split=split)
        heights[name] = {kind: asked(kind) for kind in kinds}
    return Barriers(heights, quantity, str(result["split"].values[0]) if split is None else split)


def connected(
    result: xr.Dataset,
    *,
    tolerance: float = TOLERABLE,
    quantity: str | None = None,
    split: str | None = None,
) -> list[tuple[str, ...]]:
    """The largest linearly mode-connected sets: between any two points a barrier is excluded.

    Args:
        result: of ``pairs``.
        tolerance: height of a barrier of kind "end", in the quantity's unit, that has to be
            excluded: that nothing is shown does not permit averaging.
        quantity: by default ``"error"`` where it was measured, else ``"loss"``.
        split: by default the first.

    Returns:
        Names of the points, largest set first; every point is in one at least, if only by itself.

    Raises:
        InputError: a result of something else.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> double_well = lambda model, batch: ((model(batch[0]) ** 2 - 1) ** 2).flatten()
        >>> J = ravine.Objective(model, double_well, (torch.ones(12, 1),))
        >>> places = {"a": -1.0, "b": 1.0, "c": 0.5}
        >>> points = {name: {"weight": torch.tensor([[w]])} for name, w in places.items()}
        >>> connected(ravine.evaluate(J, along=ravine.pairs(points), at=[0, 0.25, 0.5, 0.75, 1]))
        [('b', 'c'), ('a',)]
    """
    if not is_of_pairs(result):
        msg = (
            "expected the result of evaluate(J, along=ravine.pairs(points), at=…), which has every "
            "pair of some points"
        )
        raise InputError(msg)
    names = points_of(result)
    judged = quantity or ("error" if "error" in quantities(result) else "loss")
    decisions = decide(result, "barrier", above=tolerance, quantity=judged, split=split)
    ends = zip(result["start"].values, result["end"].values, result["line"].values, strict=True)
    linked = {
        frozenset((str(one), str(other)))
        for one, other, name in ends
        if decisions[str(name)].answer == "excluded"
    }
    cliques = _cliques(names, linked)
    ordered = [tuple(sorted(clique, key=names.index)) for clique in cliques]
    return sorted(ordered, key=lambda clique: (-len(clique), names.index(clique[0])))


def _cliques(names: list[str], linked: set[frozenset[str]]) -> list[list[str]]:
    """The largest sets of points that are all linked to each other."""
    import networkx  # takes a while to import, and few results need it

    graph = networkx.Graph()
    graph.add_nodes_from(names)
    for one, other in map(sorted, linked):
        graph.add_edge(one, other)
    return list(networkx.find_cliques(graph))


def is_of_pairs(result: xr.Dataset) -> bool:
    """Whether a result of several lines has one for every pair of some points."""
    if "start" not in result.coords or result["start"].dims != ("line",):
        return False
    ends = [
        frozenset(map(str, pair))
        for pair in zip(result["start"].values, result["end"].values, strict=True)
    ]
    count = len(points_of(result))
    return len(set(ends)) == len(ends) == count * (count - 1) // 2


def points_of(result: xr.Dataset) -> list[str]:
    """The names of the points that lines end at, in order."""
    return list(dict.fromkeys(map(str, [*result["start"].values, *result["end"].values])))
