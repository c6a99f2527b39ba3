"""The verdict on any result: which sentences a line, several lines, a plane or a path deserve."""

from __future__ import annotations

import xarray as xr

from ravine.errors import InputError
from ravine.metrics.relief import plane_verdict
from ravine.metrics.several import lines_verdict
from ravine.metrics.soups import soup_verdict
from ravine.metrics.straying import path_verdict
from ravine.metrics.verdicts import Verdict
from ravine.metrics.wording import line_verdict
from ravine.result.schema import kind_of, validate


def verdict(result: xr.Dataset, tolerance: float = 1e-3) -> Verdict:
    """What a result says, in words, with the numbers and what they hold at.

    Of a line: is it monotone? Is there a barrier? Is it convex, has it a plateau? Of a plane: where
    is it lowest and how high is it at its corners? Of several lines: on which does a barrier stand,
    and which points may be averaged? Of a projected run: did it go straighter than a random walk?
    Of a soup's history: is the soup better than the best of its members?

    Args:
        result: a line, several or a plane, as ``evaluate`` or ``resolve`` returns it, or what
            ``project`` returns, or a soup's ``history``.
        tolerance: a rise of less than this share of a curve's range over [0, 1] is not called a
            bump (Lucas et al. 2021 use 1e-3). Nothing below the noise floor ever is. Only lines
            have a use for it.

    Returns:
        The verdict; ``print`` it.

    Raises:
        InputError: the result is none of them, or the tolerance makes no sense.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss),
        ...                      (torch.ones(4, 1), torch.zeros(4, 1)))
        >>> line = ravine.Line({"weight": torch.tensor([[4.0]])}, {"weight": torch.tensor([[0.0]])})
        >>> found = verdict(ravine.evaluate(J, along=line, at=[i / 20 for i in range(21)]))
        >>> print(found.headline)
        On these examples the data loss falls monotonically from 16 to 0 along the straight line.
    """
    if not 0 < tolerance < 1:
        msg = f"tolerance must lie between 0 and 1; got {tolerance!r}"
        raise InputError(msg)
    kind = kind_of(validate(result, history=True))
    if kind == "soup":
        return soup_verdict(result)
    if kind == "line":
        return line_verdict(result, tolerance)
    if kind == "lines":
        return lines_verdict(result)
    return plane_verdict(result) if kind == "plane" else path_verdict(result)
