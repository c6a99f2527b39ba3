"""Moments: float64 sums over examples, merged tile by tile, and what standard errors are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ravine.objective.randomness import splitmix64

REPLICATES: Final = 64  # random halves of the examples; one bit each of an example's word


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
        half_sum: (points, replicates) sums over random halves of the examples.
        half_count: (replicates,) values in each half.
    """

    count: int
    counted: bool
    mean: np.ndarray
    square: np.ndarray
    half_sum: np.ndarray
    half_count: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, halves: np.ndarray) -> Moments:
        """The moments of one tile.

        Args:
            values: (points, values) float64.
            halves: (values, replicates) of 0 and 1: which halves each value belongs to.

        Examples:
            >>> found = Moments.of(np.array([[1.0, 2.0, 6.0]]), halves_of(np.arange(3)))
            >>> found.mean, found.square, found.count
            (array([3.]), array([14.]), 3)
        """
        points, count = values.shape
        if not count:
            return cls.of_nothing(points)
        with np.errstate(invalid="ignore", over="ignore"):  # a diverged point is NaN, and stays so
            mean = values.mean(axis=1)
            square = ((values - mean[:, None]) ** 2).sum(axis=1)
            half_sum = values @ halves
        counted = bool((values == np.round(values)).all())
        return cls(count, counted, mean, square, half_sum, halves.sum(axis=0))

    @classmethod
    def of_nothing(cls, points: int) -> Moments:
        """The moments of no examples."""
        sums = np.zeros((points, REPLICATES))
        return cls(0, True, np.zeros(points), np.zeros(points), sums, np.zeros(REPLICATES))

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of examples, at the same points.

        Args:
            other: of other examples.

        References:
            Chan, Golub and LeVeque 1979 (updating sums of squares).
        """
        if not self.count or not other.count:
            return self if self.count else other
        total = self.count + other.count
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            between = delta**2 * (self.count * other.count / total)
            return Moments(
                count=total,
                counted=self.counted and other.counted,
                mean=self.mean + delta * (other.count / total),
                square=self.square + other.square + between,
                half_sum=self.half_sum + other.half_sum,
                half_count=self.half_count + other.half_count,
            )

    @classmethod
    def joined(cls, groups: Sequence[Moments]) -> Moments:
        """The moments of the same examples at several groups of points, one group after the other."""
        first = groups[0]
        return cls(
            count=first.count,
            counted=all(group.counted for group in groups),
            mean=np.concatenate([group.mean for group in groups]),
            square=np.concatenate([group.square for group in groups]),
            half_sum=np.concatenate([group.half_sum for group in groups]),
            half_count=first.half_count,
        )

    def at(self, points: np.ndarray) -> Moments:
        """The moments at some of the points, in the order given."""
        return replace(
            self,
            mean=self.mean[points],
            square=self.square[points],
            half_sum=self.half_sum[points],
        )

    @property
    def stderr(self) -> np.ndarray:
        """(points,) standard error of the mean; NaN for fewer than two values."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return np.sqrt(self.square / (self.count - 1) / self.count)

    @property
    def replicates(self) -> np.ndarray:
        """(points, replicates) mean over a random half, minus the mean over all."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.half_sum / self.half_count - self.mean[:, None]


def numbers_of_values(examples: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A number for each value that a batch gave, from its example's own number and its place in it.

    The halves that a value belongs to follow from this number, so they are the same whatever the
    order, the batching or the sharding of the examples. Values that cannot be told apart by example
    (targets that are left out leave a flat list) are numbered from the batch's first example on:
    their halves depend on the batching.

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


def halves_of(numbers: np.ndarray) -> np.ndarray:
    """(values, replicates) of 0 and 1: which random halves the values with these numbers belong to."""
    words = splitmix64(numbers.astype(np.uint64))
    bits = np.unpackbits(words.view(np.uint8).reshape(len(words), 8), axis=1)
    return bits.astype(np.float64)
