"""Directions: corners of planes that take in what a line misses of a run, or that lead anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.measuring.projection import SAME, Run, aligned, corners_of, opened, project
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params, all_finite, blocks, exact, gram
from ravine.points.slices import Slice


def black_sheep(run: Run, onto: Slice) -> Params:
    """The corner that takes in the snapshot farthest from a line: θ₀ plus its residual.

    ``Plane(line.start, line.end, black_sheep(run, line))`` is the plane of the paper's figure 7: it
    holds the whole line and the farthest snapshot, and its axes are orthogonal.

    Args:
        run: as in ``project``.
        onto: the line, or a slice.

    Returns:
        Tensors by name, in at least float32.

    Raises:
        InputError: as ``project``, or no snapshot leaves the slice.

    Examples:
        >>> from ravine import Line
        >>> run = [{"w": torch.tensor(w)} for w in ([1.0, 0.0], [3.0, 2.0], [9.0, 0.0])]
        >>> black_sheep(run, Line(run[0], run[-1]))
        {'w': tensor([1., 2.])}

    References:
        Goodfellow and Vinyals 2014, figure 7; the name is their code's.
    """
    path = project(run, onto)
    farthest = int(np.argmax(np.nan_to_num(path["residual"].values, nan=-1.0)))
    if not float(path["residual"][farthest]) > SAME * path.attrs["length"]:
        msg = (
            "no snapshot leaves the slice, so none spans a plane with it; record more of the run, "
            "or another slice"
        )
        raise InputError(msg)
    points, _ = opened(run)
    corners = corners_of(onto)
    point = matched(onto.corners[0], Checkpoint.read(points[farthest])).tensors
    coordinates = [float(path[dim][farthest]) for dim in onto.dims]
    corner: dict[str, Tensor] = {}
    for name, tensor in corners[0].items():
        found = exact(point[name])
        for coordinate, other in zip(coordinates, corners[1:], strict=True):
            found = found - coordinate * (exact(other[name]) - exact(tensor))
        corner[name] = found.to(torch.promote_types(tensor.dtype, torch.float32))
    return corner


@dataclass(frozen=True)
class PrincipalAxes:
    """The directions in which a run varied most.

    Attributes:
        origin: the mean of the snapshots.
        corners: one per axis: origin + axis, as long as the run reaches along it, so that the run's
            coordinates in ``Plane(origin, *corners)`` lie in [−1, 1]; it ends on the positive side.
        explained: share of the variance about the mean, for every component, largest first; they
            sum to 1.
        coordinates: (steps, axes) of the snapshots, with ``origin`` and ``corners`` as unit.
    """

    origin: Params
    corners: tuple[Params, ...]
    explained: np.ndarray
    coordinates: np.ndarray


def principal_axes(run: Run, count: int = 2) -> PrincipalAxes:
    """Principal component analysis of a run's snapshots, from their inner products.

    The (steps × steps) Gram matrix is summed in float64 over small blocks of parameters, so that no
    copy of steps × parameters is ever made. For a random walk the first component explains 6/π² =
    0.608.

    Args:
        run: as in ``project``.
        count: how many axes.

    Returns:
        Origin, corners, explained variance and coordinates.

    Raises:
        InputError: as ``project``; or the run does not vary in ``count`` directions, or is not
            finite.

    Examples:
        >>> run = [{"w": torch.tensor([x, 1.0])} for x in (0.0, 1.0, 2.0)]
        >>> found = principal_axes(run, count=1)
        >>> found.explained.round(6), found.corners[0]
        (array([1., 0., 0.]), {'w': tensor([2., 1.])})

    References:
        Li et al. 2018, section 7; the explained variance of a random walk: Antognini and
        Sohl-Dickstein 2018.
    """
    points, _ = opened(run)
    held = [point.tensors for point in aligned(points, Checkpoint.read(points[0]))]
    names = list(Checkpoint.read(points[0]).params)
    snapshots = [{name: point[name] for name in names} for point in held]
    between = np.pad(gram(snapshots), ((1, 0), (1, 0)))
    if not np.isfinite(between).all():
        lost = next(number for number, one in enumerate(snapshots) if not _is_finite(one))
        msg = f"snapshot {lost} of the run is not finite; leave it out: run[a:b]"
        raise InputError(msg)
    centred = between - between.mean(0) - between.mean(1)[:, None] + between.mean()
    variances, vectors = np.linalg.eigh(centred)
    variances, vectors = variances[::-1].clip(0), vectors[:, ::-1]
    varied = int((variances > 1e-12 * variances[0]).sum()) if variances[0] > 0 else 0
    if not 1 <= count <= varied:
        msg = f"the run varies in {varied} directions; expected count from 1 to that, got {count}"
        raise InputError(msg)
    scores = vectors[:, :count] * np.sqrt(variances[:count])  # (steps, axes), as lengths
    reach = np.abs(scores).max(0)
    signs = np.where(scores[-1] < 0, -1.0, 1.0)
    # the unit axis is Σ_t v_t (θ_t − mean) / √λ; times the reach and the sign it is the corner's
    # displacement
    mixing = torch.from_numpy(vectors[:, :count] / np.sqrt(variances[:count]) * reach * signs)
    origin, corners = _combined(held, names, mixing)
    return PrincipalAxes(origin, corners, variances / variances.sum(), scores / reach * signs)


def random_axes(origin: Any, *, seed: int = 0, count: int = 2) -> tuple[Params, ...]:
    """Corners along filter-normalized random directions: ``Plane(origin, *random_axes(origin))``.

    d is Gaussian, and each of its filters (a slice of a tensor along its first dim: a row of a
    linear layer, a filter of a convolution) is as long as the same filter of the origin, so that a
    step means the same in every layer. What has fewer than two dims (biases, the scales of
    normalisation layers) does not move. Beyond the definition, the directions are orthogonal to
    each other, filter by filter; for that a filter of one number moves in the first only.

    Args:
        origin: anything that an end of a ``Line`` may be.
        seed: of the directions; the same on every machine and device.
        count: how many.

    Returns:
        As many points, in at least float32.

    Raises:
        InputError: no parameter has two dims or more, or ``count`` is not positive.

    Examples:
        >>> centre = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.ones(2)}
        >>> (corner,) = random_axes(centre, count=1)
        >>> moved = corner["w"] - centre["w"]
        >>> moved.norm(dim=1), corner["b"]
        (tensor([5., 0.]), tensor([1., 1.]))

    References:
        Li et al. 2018, section 4, whose code leaves out biases and normalisation layers too.
    """
    point = Checkpoint.read(origin)
    if count < 1 or not any(tensor.ndim > 1 for tensor in point.params.values()):
        what = (
            f"count = {count}"
            if count < 1
            else f"{point.label}, where no parameter has two dims or more"
        )
        msg = f"random_axes() needs a count from 1 and parameters with filters; got {what}"
        raise InputError(msg)
    generator = torch.Generator().manual_seed(seed)
    made: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(count))
    for name, tensor in point.params.items():
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        if tensor.ndim < 2:
            for corner in made:
                corner[name] = tensor.to("cpu", dtype, copy=True)
            continue
        filters = exact(tensor).flatten(1)
        real = torch.view_as_real(filters).flatten(1) if filters.is_complex() else filters
        lengths = real.norm(dim=1, keepdim=True)
        earlier: list[Tensor] = []
        for corner in made:
            drawn = torch.randn(real.shape, dtype=torch.float64, generator=generator)
            for other in earlier:
                drawn -= (drawn * other).sum(1, keepdim=True) * other
            size = drawn.norm(dim=1, keepdim=True)
            unit = torch.where(
                size > 1e-9, drawn / size, 0.0
            )  # a filter of one number has no second direction
            earlier.append(unit)
            moved = real + unit * lengths
            shaped = (
                torch.view_as_complex(moved.unflatten(1, (-1, 2)))
                if filters.is_complex()
                else moved
            )
            corner[name] = shaped.reshape(tensor.shape).to(dtype)
    return made


def _is_finite(snapshot: Params) -> bool:
    return all(map(all_finite, snapshot.values()))


def _combined(
    held: Sequence[Params], names: Sequence[str], mixing: Tensor
) -> tuple[Params, tuple[Params, ...]]:
    """The mean of the points, and the mean plus each column's combination of them."""
    made: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, block in blocks(held, names):
        mean = block.mean(0)
        precise = torch.finfo(held[0][name].dtype).eps < 1e-10
        both = torch.cat([mean[None], mean + mixing.T @ (block - mean)])
        made[name].append(both if precise else both.to(torch.float32))

    def shaped(flat: Tensor, name: str) -> Tensor:
        like = held[0][name]
        return (
            torch.view_as_complex(flat.reshape(-1, 2)) if like.is_complex() else flat.clone()
        ).reshape(like.shape)

    whole = {name: torch.cat(parts, 1) for name, parts in made.items()}

    def corner(at: int) -> Params:
        return {name: shaped(rows[at], name) for name, rows in whole.items()}

    origin, *corners = map(corner, range(1 + mixing.shape[1]))
    return origin, tuple(corners)
