"""Points and their combinations: the ends bitwise, α → 1 − α, at least float32."""

from __future__ import annotations

import hashlib

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ravine.points import params
from ravine.points.params import (
    all_finite,
    combine,
    content_hash,
    content_hashes,
    distance,
    is_content,
    norm,
)

ODD = torch.tensor([-0.0, 0.0, 1e-45, -1e-40, 3.4e38, -3.4e38, 1.0, 1 / 3])


def line(start, end, alpha, dtype=None):
    return combine(
        [start, end], [1 - alpha, alpha], torch.empty_like(start, dtype=dtype or start.dtype)
    )


@pytest.mark.parametrize("alpha", [0, 1])
def test_ends_are_bitwise_the_points(alpha):
    other = ODD.flip(0).neg()
    found = line(ODD, other, alpha)
    assert torch.equal(found.view(torch.int32), (other if alpha else ODD).view(torch.int32))


@settings(deadline=None)  # the first call pays for imports
@given(st.floats(-2, 3))
def test_reversed_line_is_the_same_line(alpha):
    # 1 − (1 − α) is α only where the subtraction is exact, so choose such an α
    alpha = round(alpha * 1024) / 1024
    generator = torch.Generator().manual_seed(1)
    start, end = torch.randn(100, generator=generator), torch.randn(100, generator=generator)
    torch.testing.assert_close(
        line(start, end, alpha), line(end, start, 1 - alpha), rtol=0, atol=2e-6
    )


def test_low_precision_is_combined_in_float32():
    start, end = (
        torch.tensor([1.0], dtype=torch.bfloat16),
        torch.tensor([1.0078125], dtype=torch.bfloat16),
    )
    found = line(start, end, 0.25, torch.float32)
    assert found.item() == 1.0 + 0.0078125 / 4  # bfloat16 has nothing between these two


def test_combination_of_three_points():
    points = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([5.0, 5.0])]
    found = combine(points, [-0.5, 0.5, 1.0], torch.empty(2))
    torch.testing.assert_close(found, torch.tensor([4.5, 5.5]))
    assert torch.equal(combine(points, [0, 1.0, 0], torch.empty(2)), points[1])


def test_hash_tells_values_names_shapes_and_types_apart():
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).double(), "b": torch.ones(2)},
        {"a": torch.arange(6.0) + 1e-7, "b": torch.ones(2)},
    ]
    assert len({content_hash(tensors) for tensors in [base, *others]}) == 5
    assert content_hashes([base, *others]) == [content_hash(tensors) for tensors in [base, *others]]
    assert content_hash(base) == content_hash({"b": torch.ones(2), "a": torch.arange(6.0)})
    assert content_hash({"a": torch.arange(6.0).reshape(2, 3).T}) == content_hash(
        {"a": torch.arange(6.0).reshape(2, 3).T.contiguous()}
    )


def test_a_hash_is_blake3_of_what_the_bytes_mean():
    zeros = b"w|torch.float32|(2,)|" + bytes(8)
    assert content_hash({"w": torch.zeros(2)}) == blake3(zeros).hexdigest()


def test_hashes_of_version_0_1_are_still_compared():
    point = {"w": torch.zeros(2)}
    earlier = hashlib.sha256(b"w|torch.float32|(2,)|" + bytes(8)).hexdigest()
    assert is_content(point, earlier)
    assert is_content(point, content_hash(point))
    assert not is_content({"w": torch.ones(2)}, earlier)


def test_norms_over_several_pieces():
    # more than one piece; float32 sums would be off by 1e-4
    big = {"w": torch.full((5_000_000,), 0.1)}
    assert norm(big) == pytest.approx(float(torch.tensor(0.1)) * 5_000_000**0.5, rel=1e-12)
    assert distance(big, {"w": torch.zeros(5_000_000)}) == norm(big)
    assert not all_finite(torch.cat([big["w"], torch.tensor([float("nan")])]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_what_is_not_finite_is_found_and_what_only_sums_to_infinity_is_not(dtype):
    largest = torch.full((7,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(largest)
    assert all_finite(torch.zeros(0, dtype=dtype))
    for broken in ([float("nan")], [float("inf")], [float("inf"), -float("inf")]):
        assert not all_finite(torch.cat([largest, torch.tensor(broken, dtype=dtype)]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_points_of_another_precision_are_combined_piece_by_piece(monkeypatch, dtype):
    monkeypatch.setattr(params, "_PIECE", 5)
    a, b = torch.randn(3, 4).to(dtype), torch.randn(3, 4).to(dtype)
    out = params.combine([a, b], (0.25, 0.75), torch.empty(3, 4))
    torch.testing.assert_close(out, torch.lerp(a.float(), b.float(), 0.75), rtol=0, atol=0)
    third = params.combine([a, b, a], (0.5, 0.75, -0.25), torch.empty(3, 4))
    torch.testing.assert_close(third, 0.25 * a.float() + 0.75 * b.float())
