"""Tidy: a result as a table of pandas, one row for each point, split and quantity."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from ravine.result.schema import quantities, validate


def to_dataframe(result: xr.Dataset) -> pd.DataFrame:
    """A result as a tidy table.

    Args:
        result: of a line, several, a plane or a path.

    Returns:
        One row for each point, split and quantity: the coordinates, ``quantity``, ``value``,
        ``stderr`` and ``noise_floor``. A path without an objective has one row for each step.

    Raises:
        InputError: not a ravine result.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> squares = ravine.supervised(torch.nn.functional.mse_loss)
        >>> J = ravine.Objective(model, squares, (torch.ones(2, 1), torch.zeros(2, 1)))
        >>> line = ravine.Line({"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)})
        >>> table = to_dataframe(ravine.evaluate(J, along=line, at=[0, 1]))
        >>> table[["alpha", "split", "quantity", "value"]].values.tolist()
        [[0.0, 'data', 'loss', 0.0], [1.0, 'data', 'loss', 1.0]]
    """
    validate(result)
    names = quantities(result)
    if not names:
        return result.drop_dims("walk", errors="ignore").to_dataframe().reset_index()
    parts = []
    for name in names:
        held = {"value": result[name], "stderr": result[f"{name}_stderr"]}
        held["noise_floor"] = result[f"{name}_noise_floor"]
        table = xr.Dataset(held).to_dataframe().reset_index()
        parts.append(table.assign(quantity=name))
    return pd.concat(parts, ignore_index=True)
