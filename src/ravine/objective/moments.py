"""Moments: float64 sums over examples, merged block by block, with what standard errors are computed from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ravine.objective.randomness import splitmix64

REPLICATES: Final = 64  # random halves of the examples; one bit each of an example's word


@dataclass
class Moments:
    """Float64 sums over the examples of one split, for one quantity at every point.

    Attributes:
        count: examples taken in.
        counted: whether every value was a whole number, as of an error count.
        mean: (points,) mean over the examples.
        square: (points,) sum of squared deviations from the mean (merged by Chan et al. 1979).
        half_count: (replicates,) examples in each random half.
        half_sum: (points, replicates) sums over those halves.
    """

    mean: np.ndarray
    square: np.ndarray
    half_sum: np.ndarray
    half_count: np.ndarray = field(default_factory=lambda: np.zeros(REPLICATES))
    count: int = 0
    counted: bool = True

    @classmethod
    def empty(cls, points: int) -> Moments:
        """Of nothing yet."""
        return cls(np.zeros(points), np.zeros(points), np.zeros((points, REPLICATES)))

    def add(self, group: slice, values: np.ndarray, *, last: bool) -> None:
        """Take in one block for a group of points.

        Args:
            group: which points.
            values: (points in the group, examples) float64.
            last: whether these are the block's last points, after which the examples count.
        """
        new = values.shape[1]
        if new:
            member = _halves(self.count, new)
            self.counted = self.counted and bool((values == np.round(values)).all())
            with np.errstate(
                invalid="ignore", over="ignore"
            ):  # a diverged point is NaN or infinite, and stays so
                mean = values.mean(axis=1)
                delta = mean - self.mean[group]
                total = self.count + new
                self.square[group] += ((values - mean[:, None]) ** 2).sum(axis=1)
                self.square[group] += delta**2 * (self.count * new / total)
                self.mean[group] = (
                    mean if self.count == 0 else self.mean[group] + delta * (new / total)
                )
                self.half_sum[group] += values @ member
            if last:
                self.half_count += member.sum(axis=0)
        if last:
            self.count += new

    def of_points(self, points: np.ndarray) -> Moments:
        """The sums at some of the points, in the order given."""
        return replace(
            self, mean=self.mean[points], square=self.square[points], half_sum=self.half_sum[points]
        )

    @property
    def stderr(self) -> np.ndarray:
        """(points,) standard error of the mean; NaN for fewer than two examples."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return np.sqrt(self.square / (self.count - 1) / self.count)

    @property
    def replicates(self) -> np.ndarray:
        """(points, replicates) mean over a random half, minus the mean over all."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.half_sum / self.half_count - self.mean[:, None]


def _halves(first: int, count: int) -> np.ndarray:
    """(examples, replicates) of 0 and 1: which halves the examples number first, first + 1, … belong to."""
    words = splitmix64(np.arange(first, first + count, dtype=np.uint64))
    bits = np.unpackbits(words.view(np.uint8).reshape(count, 8), axis=1)
    return bits.astype(np.float64)
