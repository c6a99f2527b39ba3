"""Moments: the same numbers however the examples are cut, ordered or shared out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ravine.objective.moments import (
    REPLICATES,
    Membership,
    Moments,
    numbers_of_ids,
    numbers_of_values,
)


def moments(values: np.ndarray, numbers: np.ndarray, strata=None) -> Moments:
    members = Membership.of(numbers)
    if strata is not None:
        members = members.within([strata[number] for number in numbers])
    return Moments.of(values[:, numbers], members)


def same(one: Moments, other: Moments) -> None:
    assert (one.count, one.counted, one.strata) == (other.count, other.counted, other.strata)
    np.testing.assert_array_equal(one.sizes, other.sizes)
    for name in ("mean", "square", "group_sum", "stratum_sum", "stderr", "replicates"):
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
    strata = rng.integers(0, 3, count).tolist()
    for by in (None, strata):
        merged = Moments.of_nothing(3)
        for number in rng.permutation(len(parts)):
            merged = merged.merged(moments(values, parts[number], by))
        same(merged, moments(values, np.arange(count), by))


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

    def test_ids_are_numbers_that_stay(self):
        assert numbers_of_ids([7, "a", 7, ("b", 1)]).tolist()[0] == 7
        one, other = numbers_of_ids(["a", "b", "a"]), numbers_of_ids(["b", "a"])
        assert one[0] == one[2] == other[1]
        assert one[1] == other[0] != one[0]


class TestErrors:
    """Standard errors against the variances that the draw has in truth."""

    def test_balanced_halves_give_the_variance_of_any_difference(self):
        rng = np.random.default_rng(3)
        values = rng.normal(size=(2, 20_000)) + rng.normal(size=20_000)
        found = moments(values, np.arange(20_000))
        difference = found.replicates[1] - found.replicates[0]
        exact = np.std(values[1] - values[0], ddof=1) / 20_000**0.5
        assert np.sqrt((difference**2).mean()) == pytest.approx(exact, rel=0.1)
        apart = found.deviations[1] - found.deviations[0]
        assert (difference**2).mean() == pytest.approx((apart**2).sum(), rel=1e-10)

    def test_few_examples_are_their_own_groups(self):
        values = np.random.default_rng(4).normal(size=(1, 40))
        found = moments(values, np.arange(40))
        assert np.sqrt((found.replicates**2).mean()) == pytest.approx(found.stderr[0], rel=0.25)

    @pytest.mark.parametrize(("clusters", "size"), [(30, 20), (600, 5)])
    def test_clusters_count_as_one_draw_each(self, clusters, size):
        """Within a cluster all values are the same, so the error is that of the clusters."""
        rng = np.random.default_rng(5)
        errors, truth = [], 1 / clusters**0.5
        for _ in range(60):
            values = np.repeat(rng.normal(size=clusters), size)[None]
            ids = np.repeat(np.arange(clusters), size)
            errors.append(Moments.of(values, Membership.of(ids, clustered=True)).stderr[0])
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(truth, rel=0.05)

    def test_what_is_between_strata_is_no_error(self):
        """Ten classes with means 0 … 9 and spread 1: a balanced draw errs by the spread alone."""
        rng = np.random.default_rng(6)
        label = np.arange(2000) % 10
        values = (label + rng.normal(size=2000))[None]
        plain, within = (moments(values, np.arange(2000), by) for by in (None, label.tolist()))
        assert within.stderr[0] == pytest.approx(1 / 2000**0.5, rel=0.15)
        assert plain.stderr[0] == pytest.approx(np.std(values) / 2000**0.5, rel=0.01)

    def test_a_stratum_each_leaves_nothing_to_tell_an_error_by(self):
        values = np.arange(5.0)[None]
        assert np.isnan(moments(values, np.arange(5), list("abcde")).stderr).all()

    def test_there_are_as_many_replicates_as_groups(self):
        assert moments(np.ones((2, 9)), np.arange(9)).replicates.shape == (2, REPLICATES)


@pytest.mark.parametrize("values", [[np.inf, 1.0], [np.inf, np.inf], [np.nan, 2.0]], ids=repr)
def test_what_is_not_finite_is_no_count(values):
    members = Membership.of(np.arange(2))
    of_array = Moments.of(np.array([values]), members)
    of_tensor = Moments.of_tensor(torch.tensor([values], dtype=torch.float64), members)
    assert not of_array.counted
    assert not of_tensor.counted
