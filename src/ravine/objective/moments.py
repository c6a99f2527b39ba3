"""Moments: float64 sums over examples, merged by tile; standard errors are made of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from scipy.linalg import hadamard
from scipy.sparse import csr_array
from torch import Tensor

from ravine.objective.randomness import splitmix64, stable_seed

#: Random groups of examples whose sums are kept, and balanced half-samples of them. A power of two.
REPLICATES: Final = 256

_MEMBERS: Final = 1 << 16  # values whose places are held as a matrix at once
#: Degrees of freedom without which no error of strata is told: as many as ten examples without
#: strata have.
_FEWEST_FREE: Final = 9


@dataclass(frozen=True)
class Membership:
    """Which random group, and which stratum, each value of a block belongs to.

    Attributes:
        group: (values,) integers below ``REPLICATES``.
        stratum: (values,) places in ``strata``.
        strata: what the strata are called, sorted; one, None, where there are none.
        clustered: whether groups are of whole clusters of values.
    """

    group: np.ndarray
    stratum: np.ndarray
    strata: tuple[Hashable, ...] = (None,)
    clustered: bool = False

    @classmethod
    def of(cls, numbers: np.ndarray, *, clustered: bool = False) -> Membership:
        """By the values' own numbers, without strata."""
        # the highest 8 bits: one of 256 groups
        group = (splitmix64(numbers.astype(np.uint64)) >> np.uint64(56)).astype(np.int64)
        return cls(group, np.zeros(len(group), dtype=np.int64), clustered=clustered)

    def within(self, strata: Sequence[Hashable]) -> Membership:
        """The same in strata: the id of each value's stratum."""
        known = sorted(set(strata), key=repr)
        place = {stratum: number for number, stratum in enumerate(known)}
        found = np.array([place[stratum] for stratum in strata], dtype=np.int64)
        return replace(self, stratum=found, strata=tuple(known))


@dataclass(frozen=True)
class Moments:
    """Float64 sums of one quantity over some examples, at some points.

    Moments of disjoint examples are merged in any order, and of disjoint points joined, to the same
    numbers up to rounding.

    Attributes:
        count: values taken in.
        counted: whether every value was a whole number, as of an error count.
        mean: (points,) mean over the examples.
        square: (points,) sum of squared deviations from the mean.
        group_sum: (points, groups) sums over random groups of the examples.
        stratum_sum: (points, strata) sums over the strata.
        sizes: (strata, groups) values in each.
        strata: what the strata are called, sorted.
        clustered: whether groups are of whole clusters of values.
    """

    count: int
    counted: bool
    mean: np.ndarray
    square: np.ndarray
    group_sum: np.ndarray
    stratum_sum: np.ndarray
    sizes: np.ndarray
    strata: tuple[Hashable, ...] = (None,)
    clustered: bool = False

    @classmethod
    def of(cls, values: np.ndarray, members: Membership) -> Moments:
        """The moments of one tile.

        Args:
            values: (points, values) float64.
            members: where each value belongs.

        Examples:
            >>> found = Moments.of(np.array([[1.0, 2.0, 6.0]]), Membership.of(np.arange(3)))
            >>> found.mean, found.square, found.count
            (array([3.]), array([14.]), 3)
        """
        points, count = values.shape
        if not count:
            return cls.of_nothing(points)
        with np.errstate(invalid="ignore", over="ignore"):  # a diverged point is NaN, and stays so
            mean = values.mean(axis=1)
            square = ((values - mean[:, None]) ** 2).sum(axis=1)
            group_sum = _sums(values, members.group, REPLICATES)
            stratum_sum = _sums(values, members.stratum, len(members.strata))
            counted = bool((values - np.round(values) == 0).all())  # ∞ is no whole number
        sizes = np.zeros((len(members.strata), REPLICATES))
        np.add.at(sizes, (members.stratum, members.group), 1)
        return cls(
            count=count,
            counted=counted,
            mean=mean,
            square=square,
            group_sum=group_sum,
            stratum_sum=stratum_sum,
            sizes=sizes,
            strata=members.strata,
            clustered=members.clustered,
        )

    @classmethod
    def of_tensor(cls, values: Tensor, members: Membership) -> Moments:
        """The moments of one tile, summed where its values are: as ``of``, up to rounding.

        Args:
            values: (points, values) float64.
            members: where each value belongs.

        Examples:
            >>> import torch
            >>> values = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
            >>> found = Moments.of_tensor(values, Membership.of(np.arange(3)))
            >>> found.mean, found.square, found.count
            (array([3.]), array([14.]), 3)
        """
        points, count = values.shape
        if not count:
            return cls.of_nothing(points)
        mean = values.mean(dim=1)
        sizes = np.zeros((len(members.strata), REPLICATES))
        np.add.at(sizes, (members.stratum, members.group), 1)
        return cls(
            count=count,
            counted=bool((values - values.round() == 0).all()),
            mean=mean.cpu().numpy(),
            square=((values - mean[:, None]) ** 2).sum(dim=1).cpu().numpy(),
            group_sum=_tensor_sums(values, members.group, REPLICATES),
            stratum_sum=_tensor_sums(values, members.stratum, len(members.strata)),
            sizes=sizes,
            strata=members.strata,
            clustered=members.clustered,
        )

    @classmethod
    def of_nothing(cls, points: int) -> Moments:
        """The moments of no examples."""
        none = np.zeros(points)
        groups, strata = np.zeros((points, REPLICATES)), np.zeros((points, 1))
        return cls(0, True, none, none, groups, strata, np.zeros((1, REPLICATES)))

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of examples, at the same points.

        Args:
            other: of other examples.

        References:
            Chan, Golub and LeVeque 1979 (updating sums of squares).
        """
        if not self.count or not other.count:
            return self if self.count else other
        strata = tuple(sorted({*self.strata, *other.strata}, key=repr))
        one, two = self._among(strata), other._among(strata)
        total = self.count + other.count
        with np.errstate(invalid="ignore", over="ignore"):
            # Chan, Golub and LeVeque 1979: no difference of two large sums of squares
            delta = other.mean - self.mean
            between = delta**2 * (self.count * other.count / total)
            return Moments(
                count=total,
                counted=self.counted and other.counted,
                mean=self.mean + delta * (other.count / total),
                square=self.square + other.square + between,
                group_sum=self.group_sum + other.group_sum,
                stratum_sum=one.stratum_sum + two.stratum_sum,
                sizes=one.sizes + two.sizes,
                strata=strata,
                clustered=self.clustered or other.clustered,
            )

    @classmethod
    def joined(cls, groups: Sequence[Moments]) -> Moments:
        """The same examples' moments at several groups of points, one group after the other."""
        return replace(
            groups[0],
            counted=all(group.counted for group in groups),
            mean=np.concatenate([group.mean for group in groups]),
            square=np.concatenate([group.square for group in groups]),
            group_sum=np.concatenate([group.group_sum for group in groups]),
            stratum_sum=np.concatenate([group.stratum_sum for group in groups]),
        )

    @staticmethod
    def joined_each(groups: Sequence[Mapping[str, Moments]]) -> dict[str, Moments]:
        """``joined``, of every quantity."""
        return {name: Moments.joined([group[name] for group in groups]) for name in groups[0]}

    def at(self, points: np.ndarray) -> Moments:
        """The moments at some of the points, in the order given."""
        return replace(
            self,
            mean=self.mean[points],
            square=self.square[points],
            group_sum=self.group_sum[points],
            stratum_sum=self.stratum_sum[points],
        )

    @property
    def is_share(self) -> bool:
        """Whether every value was 0 or 1: whole, with squares that sum to what they sum to."""
        if not self.counted:
            return False
        # x² ≥ x for every whole number, and both are alike for 0 and 1 only
        squares = self.square + self.count * self.mean**2
        return bool((np.abs(squares - self.count * self.mean) < 0.5).all())  # else 2 apart, or more

    @property
    def stderr(self) -> np.ndarray:
        """(points,) standard error of the mean; NaN for fewer than two values."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        if self.clustered or len(self.strata) > 1:
            return np.sqrt((self.deviations**2).sum(axis=1))
        return np.sqrt(self.square / (self.count - 1) / self.count)

    @property
    def deviations(self) -> np.ndarray:
        """(points, groups) a group's share of the mean's error; squared, they sum to its variance.

        The sum over a group of deviations from the stratum's mean, over the number of values.
        """
        sizes = self.sizes.sum(axis=1)
        groups = int((self.sizes.sum(axis=0) > 0).sum())
        units = groups if self.clustered and 2 * groups < REPLICATES else self.count
        freedom = units - len(self.strata)
        if freedom < 1 or (len(self.strata) > 1 and not self._varies_within(freedom)):
            return np.full_like(self.group_sum, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.stratum_sum / sizes
            expected = means @ self.sizes
            return (self.group_sum - expected) / self.count * np.sqrt(units / freedom)

    def _varies_within(self, freedom: int) -> bool:
        """Whether strata hold enough to tell their scatter: a stratum of one example tells none.

        Args:
            freedom: how many independent draws there are beyond the strata's means.
        """
        alone = (self.sizes > 0).sum(axis=1) == 1
        return freedom >= _FEWEST_FREE and 2 * self.sizes[alone].sum() <= self.count

    @property
    def replicates(self) -> np.ndarray:
        """(points, replicates) the mean over a half of the groups, minus the mean over all.

        The halves are balanced: half-sample b counts group g with the sign of a Hadamard matrix, so
        that the mean square over the replicates is the variance of any difference between points,
        without a sampling error of its own, and the groups' deviations can be had back.

        References:
            McCarthy 1969 (balanced half-samples).
        """
        return self.deviations @ hadamard(REPLICATES).astype(np.float64)

    def _among(self, strata: tuple[Hashable, ...]) -> Moments:
        """The same with strata that none of its values belongs to."""
        if strata == self.strata:
            return self
        places = [strata.index(stratum) for stratum in self.strata]
        sums = np.zeros((len(self.mean), len(strata)))
        sizes = np.zeros((len(strata), REPLICATES))
        sums[:, places], sizes[places] = self.stratum_sum, self.sizes
        return replace(self, stratum_sum=sums, sizes=sizes, strata=strata)


def _sums(values: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """(points, count) sums over the values that belong to each place."""
    if count == 1:
        return values.sum(axis=1, keepdims=True)
    rows = np.arange(len(place))
    # a sparse product adds each value once; a loop over groups would read all of them each time
    members = csr_array((np.ones(len(place)), (place, rows)), shape=(count, len(place)))
    return np.ascontiguousarray((members @ values.T).T)


def _tensor_sums(values: Tensor, place: np.ndarray, count: int) -> np.ndarray:
    """``_sums`` by matrix products: their order is always the same, that of atomic adds is not."""
    if count == 1:
        return values.sum(dim=1, keepdim=True).cpu().numpy()
    where = torch.as_tensor(place, device=values.device)
    found = values.new_zeros(len(values), count)
    for first in range(0, len(where), _MEMBERS):
        part = slice(first, first + _MEMBERS)
        members = torch.nn.functional.one_hot(where[part], count).to(values.dtype)
        found += values[:, part] @ members
    return found.cpu().numpy()


def numbers_of_values(examples: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A number for each value that a batch gave, from its example's own number and its place in it.

    The group that a value belongs to follows from this number, so it is the same whatever the
    order, the batching or the sharding of the examples. Values that cannot be told apart by example
    (targets that are left out leave a flat list) are numbered from the batch's first example on:
    their groups depend on the batching.

    Args:
        examples: (rows,) the examples' own numbers.
        shape: of the values; one example's values stand in one row.

    Returns:
        (values,) uint64.

    Examples:
        >>> numbers_of_values(np.array([7, 3]), (2,))
        array([7, 3], dtype=uint64)
    """
    count = int(np.prod(shape))
    owners = examples.astype(np.uint64)
    by_row = bool(shape) and shape[0] == len(owners)
    if by_row and count == len(owners):
        return owners
    if not count or not len(owners):
        return np.arange(count, dtype=np.uint64)
    rows, each = (owners, count // len(owners)) if by_row else (owners[:1], count)
    return (splitmix64(rows)[:, None] + np.arange(each, dtype=np.uint64)).ravel()


def numbers_of_ids(ids: Sequence[Hashable]) -> np.ndarray:
    """(values,) uint64: a number for each id, the same for equal ids and on every machine."""
    known = {
        one: one if isinstance(one, int) and 0 <= one < 1 << 64 else stable_seed(one)
        for one in set(ids)
    }
    return np.array([known[one] for one in ids], dtype=np.uint64)
