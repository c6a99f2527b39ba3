"""Axes: where on each dim of a slice. No torch here: saved results are read this way too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ravine.errors import InputError


def read_axes(at: Any, dims: Sequence[str]) -> dict[str, np.ndarray]:
    """The positions on every axis, checked: finite, each once, in the order given.

    Args:
        at: dim → a number or a sequence of numbers; for a single dim also those alone.
        dims: of the slice, all of which must be there.

    Returns:
        Dim → (positions,) float64, in the order of ``dims``.

    Raises:
        InputError: other keys, or what stands under them is no such sequence.

    Examples:
        >>> read_axes({"beta": 1, "alpha": [0, 0.5]}, ("alpha", "beta"))
        {'alpha': array([0. , 0.5]), 'beta': array([1.])}
    """
    if not isinstance(at, Mapping):
        if len(dims) == 1:
            return {dims[0]: _positions(at, dims[0], "at")}
        msg = f"at must say where on each axis, {_example(dims)}; got {_kind(at)}"
        raise InputError(msg)
    if set(at) != set(dims):
        msg = (
            f"at must have the keys {', '.join(map(repr, dims))}, {_example(dims)}; got "
            f"{sorted(map(str, at))}"
        )
        raise InputError(msg)
    return {dim: _positions(at[dim], dim, f"at[{dim!r}]") for dim in dims}


def read_intervals(interval: Any, dims: Sequence[str]) -> dict[str, tuple[float, float]]:
    """From and to on every axis.

    Args:
        interval: dim → (from, to), or one pair for all the axes.
        dims: of the slice.

    Returns:
        Dim → (from, to), in the order of ``dims``.

    Raises:
        InputError: other keys, or what stands under them are no two finite numbers in order.

    Examples:
        >>> read_intervals((0, 1), ("alpha", "beta"))
        {'alpha': (0.0, 1.0), 'beta': (0.0, 1.0)}
    """
    if isinstance(interval, Mapping) and set(interval) != set(dims):
        keys = ", ".join(map(repr, dims))
        msg = f"interval must be one pair or have the keys {keys}; got {sorted(map(str, interval))}"
        raise InputError(msg)
    given = interval if isinstance(interval, Mapping) else dict.fromkeys(dims, interval)
    return {dim: _pair(given[dim]) for dim in dims}


def _pair(given: Any) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        msg = f"interval must be two finite numbers, the smaller one first; got {given!r}"
        raise InputError(msg)
    return low, high


def _positions(given: Any, dim: str, name: str) -> np.ndarray:
    try:
        # a tensor's own way out
        array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
        if array.dtype.kind not in "iufb":
            raise TypeError
        positions = np.atleast_1d(array.astype(np.float64))
    except (TypeError, ValueError, OverflowError) as problem:
        msg = f"{name} must be numbers; got {given!r}"
        raise InputError(msg) from problem
    if positions.ndim != 1 or positions.size == 0:
        mesh = "; give each axis alone, not a mesh" if positions.ndim > 1 else ""
        msg = (
            f"{name} must be a number or a non-empty sequence of numbers; got an array of shape "
            f"{positions.shape}{mesh}"
        )
        raise InputError(msg)
    finite = np.isfinite(positions)
    if not finite.all():
        msg = (
            f"{name} must be finite; got {positions[~finite][0]} at index {int(np.argmin(finite))}"
        )
        raise InputError(msg)
    values, counts = np.unique(positions, return_counts=True)
    if (counts > 1).any():
        msg = (
            f"{name} names each point once; {dim} = {values[counts > 1][0]:g} stands there "
            f"{counts.max()} times"
        )
        raise InputError(msg)
    return positions


def _example(dims: Sequence[str]) -> str:
    return "such as {" + ", ".join(f'"{dim}": [0, 0.5, 1]' for dim in dims) + "}"


def _kind(at: Any) -> str:
    shape = getattr(at, "shape", None)
    return f"{type(at).__name__} of shape {tuple(shape)}" if shape is not None else repr(at)
