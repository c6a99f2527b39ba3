"""Reading a resolved result between its points, from the saved result alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ravine.errors import InputError
from ravine.result.axes import read_axes
from ravine.result.interpolant import Patch, patches_of, pieces_of, stationary
from ravine.result.schema import dims_of, quantities, validate


def reconstruct(result: xr.Dataset, at: Any) -> xr.Dataset:
    """Read a resolved line or plane anywhere in its interval; no model is needed.

    Args:
        result: what ``resolve`` returned, or the same from its file.
        at: positions within the resolved interval, each once: values of α for a line,
            ``{"alpha": …, "beta": …}`` for a plane.

    Returns:
        A result at those points, with ``q_misfit`` (slice dims…, split) for every quantity: the
        largest error that was measured on the piece which the value was read from, or if that is
        more, how far the value lies outside the range of the two measured points beside it: no
        extremum is made up. Where a piece is not finite or did not resolve, NaN. A count of
        examples, such as ``error``, is read along straight lines between measured points, and its
        misfit is the step between them.

    Raises:
        InputError: the result was not resolved, or a point lies outside its interval.

    Examples:
        >>> import ravine, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> J = ravine.Objective(model, ravine.supervised(torch.nn.functional.mse_loss),
        ...                      (torch.ones(4, 1), torch.zeros(4, 1)), dtype=torch.float64)
        >>> line = ravine.Line({"weight": torch.tensor([[4.0]])}, {"weight": torch.tensor([[1.0]])})
        >>> curve = ravine.resolve(J, along=line)
        >>> float(reconstruct(curve, at=[0.25])["loss"].round(9).item())  # (4 - 3 alpha)^2
        10.5625
    """
    patches = patches_of(validate(result))
    dims = dims_of(result)
    axes = read_axes(at, dims)
    for number, dim in enumerate(dims):
        low, high = patches[0].pieces[number].low, patches[-1].pieces[number].high
        if not ((axes[dim] >= low) & (axes[dim] <= high)).all():
            msg = f"at must be points within the resolved interval [{low:g}, {high:g}] of {dim}"
            raise InputError(msg)
    result = result.sortby(list(dims))
    measured = [result[dim].values for dim in dims]
    homes = [_homes(patches, number, axes[dim]) for number, dim in enumerate(dims)]
    counts = [name for name in ("n_examples", "n_units") if name in result]
    variables: dict[str, Any] = {name: result[name] for name in counts}
    for name in quantities(result):
        held = {key: result[key].transpose(*dims, "split", ...) for key in _parts(name)}
        shape = tuple(map(len, axes.values()))
        out = {
            key: np.full((*shape, *array.shape[len(dims) :]), np.nan) for key, array in held.items()
        }
        errors = np.full(out[name].shape, np.nan)
        for number, patch in enumerate(patches):
            here = [np.flatnonzero(home == number) for home in homes]
            if not all(map(len, here)):
                continue
            rows = np.ix_(*_rows(patch, measured))
            logs, misfits = _chosen(result, name, number)
            errors[np.ix_(*here)] = misfits
            places = [axis[part] for axis, part in zip(axes.values(), here, strict=True)]
            for split, log in enumerate(logs):
                values = {
                    key: array.values[(*rows, split)].astype(np.float64)
                    for key, array in held.items()
                }
                for key, found in _read(patch, name, values, places, log=bool(log)):
                    out[key][(*np.ix_(*here), split)] = found
        if "piece" in result.dims:
            _as_measured(result, name, axes["alpha"], homes[0], held, out, errors)
        for key, array in held.items():
            variables[key] = (array.dims, out[key], array.attrs)
        variables[f"{name}_misfit"] = ((*dims, "split"), errors)
    return xr.Dataset(
        variables,
        coords={
            **{dim: (dim, axis, result[dim].attrs) for dim, axis in axes.items()},
            "distance": (dims, _distance(result, axes, patches), result["distance"].attrs),
            "split": result["split"],
        },
        attrs={**result.attrs, "sampling": "reconstructed"},
    )


def _as_measured(
    result: xr.Dataset,
    name: str,
    places: np.ndarray,
    homes: np.ndarray,
    held: Mapping[str, xr.DataArray],
    out: Mapping[str, np.ndarray],
    errors: np.ndarray,
) -> None:
    """Put measured values at measured points; straight lines where no interpolant holds.

    A count of examples is a staircase, and on a piece that did not resolve nothing is known between
    two points: a line between them leaves neither's range.

    Args:
        result: the resolved line, in order.
        name: of the quantity.
        places: (places,) where it is read.
        homes: (places,) the number of the piece that each is read from.
        held: the quantity and its parts, measured.
        out: the same as read; changed in place.
        errors: (places, splits) misfits; NaN where nothing is known; changed in place.
    """
    alpha = result["alpha"].values
    known = np.isfinite(result[f"{name}_misfit"].values).all(axis=1)
    resolved = ((result["piece_resolved"].values == 1) & known)[homes]
    staircase = bool(result[name].attrs.get("counted", 0))
    straight = np.flatnonzero(~resolved | staircase | np.isin(places, alpha))
    errors[~resolved] = np.nan
    after = np.clip(np.searchsorted(alpha, places[straight]), 1, len(alpha) - 1)
    share = (places[straight] - alpha[after - 1]) / (alpha[after] - alpha[after - 1])
    for key, array in held.items():
        values = array.values
        part = share.reshape(-1, *[1] * (values.ndim - 1))
        with np.errstate(invalid="ignore"):  # ∞ − ∞: nothing is known between the two
            between = values[after - 1] + part * (values[after] - values[after - 1])
        # bit for bit what was measured there, also beside a point that is not finite
        exact = np.where(part == 0, values[after - 1], between)
        out[key][straight] = np.where(part == 1, values[after], exact)
    between = np.flatnonzero(resolved & ~np.isin(places, alpha) & (not staircase))
    right = np.clip(np.searchsorted(alpha, places[between]), 1, len(alpha) - 1)
    low, high = (
        edge(held[name].values[right - 1], held[name].values[right])
        for edge in (np.minimum, np.maximum)
    )
    read = out[name][between]
    outside = np.maximum(np.maximum(read - high, low - read), 0)
    errors[between] = np.where(
        np.isnan(errors[between]), np.nan, np.maximum(errors[between], outside)
    )
    if staircase:  # it may step anywhere between two points
        known = np.flatnonzero(resolved)
        step = np.clip(np.searchsorted(alpha, places[known]), 1, len(alpha) - 1)
        errors[known] = np.abs(held[name].values[step] - held[name].values[step - 1])


def densely(result: xr.Dataset, points: int = 601) -> xr.Dataset:
    """A resolved result at many even points, and at the measured ones: to draw or search it."""
    patches, axes = patches_of(result), {}
    for number, dim in enumerate(dims_of(result)):
        low, high = patches[0].pieces[number].low, patches[-1].pieces[number].high
        places = np.concatenate([np.linspace(low, high, points), result[dim].values, [0.0, 1.0]])
        axes[dim] = np.unique(places[(places >= low) & (places <= high)])
    return reconstruct(result, axes)


def _homes(patches: Sequence[Patch], axis: int, places: np.ndarray) -> np.ndarray:
    """The number of the patch that each place on an axis is read from."""
    lows = [patch.pieces[axis].low for patch in patches]
    return np.clip(np.searchsorted(lows, places, side="right") - 1, 0, len(patches) - 1)


def _chosen(result: xr.Dataset, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """For every split, whether a patch interpolates the logarithm, and its largest error."""
    logs, misfits = result[f"{name}_log"].values, result[f"{name}_misfit"].values
    return (
        (logs, misfits.max(axis=0)) if "check" in result.dims else (logs[number], misfits[number])
    )


def _read(
    patch: Patch,
    name: str,
    values: Mapping[str, np.ndarray],
    places: Sequence[np.ndarray],
    *,
    log: bool,
) -> Iterator[tuple[str, np.ndarray]]:
    """A quantity on one split with its parts, which follow its scale if that is the logarithm."""
    mean = values[name]
    read = patch.read(mean, places, log=log)
    yield name, read
    for key in _parts(name)[1:]:
        extra = [1] * (values[key].ndim - mean.ndim)
        with np.errstate(divide="ignore", invalid="ignore"):
            # what is interpolated is log J, and a small change of it is that of J over J
            spread = values[key] / mean.reshape(*mean.shape, *extra) if log else values[key]
        found = patch.read(spread, places) * (read.reshape(*read.shape, *extra) if log else 1.0)
        # an interpolant may swing below 0
        yield (
            key,
            found if key.endswith("_replicates") else found.clip(min=0),
        )


def _distance(
    result: xr.Dataset, axes: Mapping[str, np.ndarray], patches: Sequence[Patch]
) -> np.ndarray:
    """Distance from the slice's first corner, from its lengths and angle.

    Of a slice that bends, as it was measured.
    """
    attrs = result.attrs
    if attrs.get("curved", 0):
        return _read_distance(result, axes, patches)
    if "beta" not in axes:
        return np.abs(axes["alpha"]) * float(attrs["length"])
    a = axes["alpha"][:, None] * float(attrs["length_a"])
    b = axes["beta"] * float(attrs["length_b"])
    return np.sqrt((a**2 + b**2 + 2 * a * b * float(attrs["cosine"])).clip(0))


def _read_distance(
    result: xr.Dataset, axes: Mapping[str, np.ndarray], patches: Sequence[Patch]
) -> np.ndarray:
    """The measured distance between its points; its square is as smooth as the slice."""
    dims = list(axes)
    measured = [result[dim].values for dim in dims]
    square = result["distance"].transpose(*dims).values ** 2
    out = np.full(tuple(map(len, axes.values())), np.nan)
    homes = [_homes(patches, number, axes[dim]) for number, dim in enumerate(dims)]
    for number, patch in enumerate(patches):
        here = [np.flatnonzero(home == number) for home in homes]
        if all(map(len, here)):
            rows = np.ix_(*_rows(patch, measured))
            places = [axis[part] for axis, part in zip(axes.values(), here, strict=True)]
            out[np.ix_(*here)] = patch.read(square[rows], places)
    return np.sqrt(out.clip(0))


def _rows(patch: Patch, measured: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Where a patch's points stand on each axis."""
    return [piece.rows(axis) for piece, axis in zip(patch.pieces, measured, strict=True)]


def _parts(name: str) -> list[str]:
    return [name, f"{name}_stderr", f"{name}_replicates", f"{name}_noise_floor"]


def critical_points(curve: xr.Dataset, quantity: str, split: str) -> np.ndarray:
    """Where one quantity's interpolant is stationary or bends: roots of its two derivatives."""
    curve = curve.sortby("alpha")
    values = curve[quantity].sel(split=split).values
    return np.array(sorted(_roots(curve, values)))


def _roots(curve: xr.Dataset, values: np.ndarray) -> Iterator[float]:
    for piece in pieces_of(curve):
        there = values[piece.rows(curve["alpha"].values)]
        if not np.isfinite(there).all():
            continue
        for order in (1, 2):
            yield from stationary(piece, there, order)
