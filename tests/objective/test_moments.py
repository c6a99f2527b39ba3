"""Moments: the same numbers however the examples are cut, ordered or shared out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravine.objective.moments import Moments, halves_of, numbers_of_values


def moments(values: np.ndarray, numbers: np.ndarray) -> Moments:
    return Moments.of(values[:, numbers], halves_of(numbers))


def same(one: Moments, other: Moments) -> None:
    assert (one.count, one.counted) == (other.count, other.counted)
    np.testing.assert_array_equal(one.half_count, other.half_count)
    for name in ("mean", "square", "half_sum", "stderr", "replicates"):
        found, expected = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg=name)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 60),
    shards=st.lists(st.integers(0, 60), max_size=6),
)
def test_any_sharding_in_any_order_gives_the_whole(seed, count, shards):
    rng = np.random.default_rng(seed)
    values = 5 + rng.normal(size=(3, count))
    order = rng.permutation(count)
    parts = np.split(order, sorted(min(cut, count) for cut in shards))
    merged = Moments.of_nothing(3)
    for number in rng.permutation(len(parts)):
        merged = merged.merged(moments(values, parts[number]))
    same(merged, moments(values, np.arange(count)))


def test_merging_is_associative_to_rounding():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 90)) * 1e6
    a, b, c = (moments(values, part) for part in np.split(np.arange(90), [7, 50]))
    same(a.merged(b).merged(c), a.merged(b.merged(c)))


def test_groups_of_points_are_joined():
    values = np.random.default_rng(2).normal(size=(5, 20))
    numbers = np.arange(20)
    groups = [moments(values[:2], numbers), moments(values[2:], numbers)]
    same(Moments.joined(groups), moments(values, numbers))


def test_the_standard_error_is_the_sample_deviation_over_root_n():
    values = np.array([[1.0, 2.0, 6.0, 9.0]])
    found = moments(values, np.arange(4))
    assert found.stderr[0] == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-14)
    assert np.isnan(moments(values[:, :1], np.arange(1)).stderr[0])


def test_a_point_that_is_not_finite_stays_so_and_leaves_the_others():
    values = np.array([[1.0, np.inf, 2.0], [1.0, 2.0, 3.0]])
    found = moments(values, np.array([0, 1])).merged(moments(values, np.array([2])))
    assert not np.isfinite(found.mean[0])
    assert found.mean[1] == 2


class TestNumbers:
    def test_one_value_an_example_has_the_examples_number(self):
        assert numbers_of_values(np.array([9, 4]), (2,)).tolist() == [9, 4]
        assert numbers_of_values(np.array([9, 4]), (2, 1)).tolist() == [9, 4]

    def test_rows_of_values_keep_their_numbers_whatever_the_batch(self):
        whole = numbers_of_values(np.arange(6), (6, 3)).reshape(6, 3)
        part = numbers_of_values(np.array([4, 1]), (2, 3)).reshape(2, 3)
        np.testing.assert_array_equal(part, whole[[4, 1]])
        assert len(np.unique(whole)) == 18

    def test_values_of_no_example_are_numbered_from_the_batchs_first(self):
        flat = numbers_of_values(np.array([8, 9, 10]), (5,))
        assert len(np.unique(flat)) == 5
        np.testing.assert_array_equal(flat, numbers_of_values(np.array([8, 3]), (5,)))

    def test_no_values(self):
        assert numbers_of_values(np.array([0, 1]), (0,)).size == 0

    def test_halves_are_halves_and_differ(self):
        halves = halves_of(np.arange(4000))
        assert abs(halves.mean(0) - 0.5).max() < 0.04
        inner = np.corrcoef(halves.T) - np.eye(halves.shape[1])
        assert abs(inner).max() < 0.08
