"""Params: a point of parameter space, and the arithmetic of points.

A point is a plain ``Mapping[str, Tensor]``: floating-point parameters by name, tied tensors once,
no buffers. Everything here works tensor by tensor, and in pieces inside a tensor, so that nothing
needs a second copy of a model in memory. Of a tensor that several processes hold between them (a
DTensor) each works on its own part, and sums are over all parts: there, every process has to take
part.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from ravine.points.parts import Owners, is_sharded, local, owners, summed, whole

Params = Mapping[str, Tensor]

_PIECE = 1 << 20  # elements; reductions here hold a few pieces of 8 MiB in float64


def is_float(tensor: Tensor) -> bool:
    """Whether the tensor holds real or complex floating-point numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor's elements in order, flat, 1 Mi at a time; of a shared one, this process's."""
    return iter(local(tensor).detach().reshape(-1).split(_PIECE))


def combine(points: Sequence[Tensor], coefficients: Sequence[float], out: Tensor) -> Tensor:
    """Write Σ cᵢ θᵢ into ``out``, for one tensor of every point; the coefficients sum to 1.

    Points with the coefficient 0 are left out. Where one is left it is copied, so that the ends of
    a line are the stored tensors bit for bit (no formula does that: −0.0 + 0·d is +0.0). Otherwise
    the sum is taken in at least float32 whatever the points' precision.

    Args:
        points: the same tensor at each point, one shape.
        coefficients: as many real numbers, summing to 1.
        out: where to write; its dtype and device are kept.

    Returns:
        ``out``.

    Examples:
        >>> a, b = torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])
        >>> combine([a, b], [0.75, 0.25], torch.empty(2))
        tensor([1., 2.])
    """
    if is_sharded(out):
        combine([local(point) for point in points], coefficients, local(out))
        return out
    points, coefficients = zip(
        *((point, c) for point, c in zip(points, coefficients, strict=True) if c != 0), strict=True
    )
    if len(points) == 1:
        return out.copy_(points[0])
    dtype = torch.promote_types(out.dtype, torch.float32)
    here = (
        all(point.dtype == dtype and point.device == out.device for point in points)
        and dtype == out.dtype
    )
    if here or not out.is_contiguous():
        return _combined(
            [point.to(out.device, dtype) for point in points], coefficients, out, dtype
        )
    # no copy of a whole point
    for part, *parts in zip(out.view(-1).split(_PIECE), *map(pieces, points), strict=True):
        _combined([piece.to(out.device, dtype) for piece in parts], coefficients, part, dtype)
    return out


def _combined(
    points: Sequence[Tensor], coefficients: Sequence[float], out: Tensor, dtype: torch.dtype
) -> Tensor:
    start, *others = points
    if len(others) == 1:  # lerp is exact in α → 1 − α, and needs no temporary
        if dtype == out.dtype:
            return torch.lerp(start, others[0], coefficients[1], out=out)
        return out.copy_(torch.lerp(start, others[0], coefficients[1]))
    # start + Σ c (θ − start), as the coefficients sum to 1: where points are alike, exactly that
    total = start.clone()
    for other, coefficient in zip(others, coefficients[1:], strict=True):
        total.add_(other - start, alpha=coefficient)
    return out.copy_(total)


def norm(params: Params) -> float:
    """Euclidean norm over all tensors, summed in float64.

    Examples:
        >>> norm({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])})
        5.0
    """
    totals: dict[Owners, np.ndarray] = {}
    for tensor in params.values():
        total = totals.setdefault(owners(tensor), np.zeros(()))
        for piece in pieces(tensor):
            total += _square_sum(piece)
    return math.sqrt(float(summed(totals))) if totals else 0.0


def distance(start: Params, end: Params) -> float:
    """Euclidean distance ‖end − start‖₂ over all tensors, summed in float64.

    Args:
        start: one point.
        end: another, with the same names and shapes.

    Returns:
        The distance, in the parameters' own unit.

    Examples:
        >>> distance({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([4.0, 6.0])})
        5.0
    """
    totals: dict[Owners, np.ndarray] = {}
    for name, tensor in start.items():
        total = totals.setdefault(owners(tensor), np.zeros(()))
        for piece, other in zip(pieces(tensor), pieces(end[name]), strict=True):
            total += _square_sum(_wide(other) - _wide(piece.to(other.device)))
    return math.sqrt(float(summed(totals))) if totals else 0.0


def gram(points: Sequence[Params]) -> np.ndarray:
    """Inner products of differences from the first point, in float64: lengths and angles.

    Args:
        points: all with the same names and shapes.

    Returns:
        (points − 1, points − 1), in the parameters' own unit squared.

    Examples:
        >>> places = [1.0, 1.0], [4.0, 1.0], [3.0, 2.0]
        >>> gram([{"w": torch.tensor(place)} for place in places])
        array([[9., 6.],
               [6., 5.]])
    """
    first, *others = points
    totals: dict[Owners, np.ndarray] = {(): np.zeros((len(others), len(others)))}
    for name, tensor in first.items() if others else ():
        total = totals.setdefault(owners(tensor), np.zeros((len(others), len(others))))
        for start, *ends in zip(
            pieces(tensor), *(pieces(other[name]) for other in others), strict=True
        ):
            few = max(_PIECE // len(ends), 1)
            for here, *others_here in zip(
                start.split(few), *(end.split(few) for end in ends), strict=True
            ):
                differences = torch.stack(
                    [_wide(other.to(here.device)) - here for other in others_here]
                )
                total += (differences.conj() @ differences.T).real.cpu().numpy()
    return summed(totals)


def exact(tensor: Tensor) -> Tensor:
    """In float64 on the CPU (complex128 where it is complex)."""
    return tensor.detach().to("cpu", torch.complex128 if tensor.is_complex() else torch.float64)


def blocks(points: Sequence[Params], names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and (points, elements) in float64, 2 MiB (a cache) at a time; complex as pairs."""
    for name in names:
        for parts in zip(*(pieces(point[name]) for point in points), strict=True):
            few = max((1 << 18) // len(points), 1)
            for cut in zip(*(part.split(few) for part in parts), strict=True):
                stacked = torch.stack([exact(part) for part in cut])
                yield (
                    name,
                    torch.view_as_real(stacked).flatten(1) if stacked.is_complex() else stacked,
                )


def content_hash(tensors: Params) -> str:
    """BLAKE3 over names, dtypes, shapes and bytes; the order of the names does not matter.

    A tensor that several processes share is put together for it, one tensor at a time.

    Examples:
        >>> a = {"w": torch.zeros(2), "b": torch.ones(1)}
        >>> b = {"b": torch.ones(1), "w": torch.zeros(2)}
        >>> content_hash(a) == content_hash(b)
        True
    """
    return _digest(tensors, blake3())


def is_content(tensors: Params, known: str) -> bool:
    """Whether a hash is that of some tensors; one of version 0.1 is a SHA-256.

    Args:
        tensors: by name.
        known: what ``content_hash`` gave, of this version or an earlier one.

    Examples:
        >>> point = {"w": torch.zeros(2)}
        >>> is_content(point, content_hash(point)), is_content(point, content_hash({}))
        (True, False)
    """
    return known == content_hash(tensors) or known == _digest(tensors, hashlib.sha256())


def _digest(tensors: Params, digest: Any) -> str:
    for name in sorted(tensors):
        tensor = whole(tensors[name].detach())
        # with what the bytes mean: under another name or shape they are another point
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        for piece in pieces(tensor):
            digest.update(bytes_of(piece))
    return digest.hexdigest()


def content_hashes(points: Sequence[Params]) -> list[str]:
    """``content_hash`` of each, at once: hashing leaves the interpreter to other threads.

    Where processes share a tensor they have to put it together in the same order: there one after
    the other.
    """
    if any(is_sharded(tensor) for point in points for tensor in point.values()):
        return [content_hash(point) for point in points]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(content_hash, points))


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The tensor's memory in order, as a flat array of bytes."""
    flat = tensor.detach().cpu().reshape(-1)
    if flat.stride() != (1,):  # one element may have any stride and still be called contiguous
        flat = torch.empty(flat.shape, dtype=flat.dtype).copy_(flat)
    return flat.view(torch.uint8).numpy()


def version_of(tensor: Tensor) -> int:
    """How often the tensor was written to in place; 0 for inference tensors, which do not tell."""
    tensor = local(tensor)
    return 0 if tensor.is_inference() else tensor._version


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    One that is makes a sum that is; a sum that overflows says nothing, and the elements are looked
    at. (The sum is ten times as fast.)
    """
    return all(
        bool(torch.isfinite(piece.sum())) or bool(torch.isfinite(piece).all())
        for piece in pieces(tensor)
    )


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same object in memory, or equal element by element."""
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    one, other = local(one), local(other)
    if (
        one.shape != other.shape
        or one.dtype != other.dtype
        or not torch.equal(one, other.to(one.device))
    ):
        return False
    # −0.0 equals 0.0, but is not the same end
    return not one.is_floating_point() or torch.equal(
        torch.signbit(one), torch.signbit(other.to(one.device))
    )


def _wide(piece: Tensor) -> Tensor:
    return piece.to(torch.complex128 if piece.is_complex() else torch.float64)


def _square_sum(piece: Tensor) -> float:
    return float(_wide(piece).abs().square().sum())
