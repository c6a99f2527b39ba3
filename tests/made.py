"""Made curves for the statistics: per-example curves whose mean is known, without a model."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from ravine.metrics import Profile
from ravine.objective.moments import Membership, Moments

ALPHA = np.linspace(0, 1, 101)

#: From a generator and a number of examples to (examples, points) of per-example curves with
#: mean 0.
Noise = Callable[[np.random.Generator, int], np.ndarray]


def rough(modes: int, draw: str = "normal") -> Noise:
    """Curves of so many cosines, their amplitudes drawn from a distribution."""

    def noise(rng: np.random.Generator, count: int) -> np.ndarray:
        k = np.arange(1, modes + 1)[:, None] * np.pi
        amplitude = 0.3 * (2 / modes) ** 0.5 * drawn(rng, (count, modes), draw)
        phase = rng.uniform(0, 2 * np.pi, (count, modes))
        wave = np.cos(k * ALPHA), np.sin(k * ALPHA)
        return (amplitude * np.cos(phase)) @ wave[0] - (amplitude * np.sin(phase)) @ wave[1]

    return noise


def drawn(rng: np.random.Generator, shape: tuple[int, ...], draw: str) -> np.ndarray:
    """Numbers of mean 0 and variance 1 (t₃: 3)."""
    if draw == "t3":
        return rng.standard_t(3, shape)
    if draw.startswith("lognormal"):
        sigma = float(draw.removeprefix("lognormal"))
        mean, scale = np.exp(sigma**2 / 2), ((np.exp(sigma**2) - 1) * np.exp(sigma**2)) ** 0.5
        return (rng.lognormal(0, sigma, shape) - mean) / scale
    return rng.normal(size=shape)


def bumps(draw: str) -> Noise:
    """Each example has its own bump at a random place: differences are as lopsided as the draw."""

    def noise(rng: np.random.Generator, count: int) -> np.ndarray:
        place, height = rng.uniform(0, 1, (count, 1)), drawn(rng, (count, 1), draw)
        shape = np.exp(-(((ALPHA - place) / 0.1) ** 2))
        return 0.3 * height * shape

    return noise


def varying(noise: Noise, where: float = 0.8) -> Noise:
    """Ten times as noisy beside one place as elsewhere."""

    def scaled(rng: np.random.Generator, count: int) -> np.ndarray:
        return noise(rng, count) * (0.1 + np.exp(-(((ALPHA - where) / 0.1) ** 2)))

    return scaled


def share(rate: float, still: float = 0.0) -> Noise:
    """A 0-1 error of the same rate everywhere, each example flipping as a smooth random field.

    Args:
        rate: of errors.
        still: the part of each field's variance that does not vary along the line: with more,
            fewer examples flip.
    """
    from_errors = NormalDist().inv_cdf(1 - rate)

    def noise(rng: np.random.Generator, count: int) -> np.ndarray:
        k = np.arange(1, 13)[:, None] * np.pi
        one, two = rng.normal(size=(2, count, 12))
        field = (one @ np.cos(k * ALPHA) + two @ np.sin(k * ALPHA)) / 12**0.5
        if still:
            field = (1 - still) ** 0.5 * field + still**0.5 * rng.normal(size=(count, 1))
        return (field > from_errors).astype(float)

    return noise


#: A 0-1 error of rate 1/4.
flips = share(1 / 4)


def profile_of(values: np.ndarray, clusters: np.ndarray | None = None, strata=None) -> Profile:
    """What measuring (examples, points) of per-example curves gives."""
    numbers = np.arange(len(values)) if clusters is None else clusters
    members = Membership.of(numbers, clustered=clusters is not None)
    if strata is not None:
        members = members.within(list(strata))
    moments = Moments.of(np.ascontiguousarray(values.T), members)
    units = len(values) if clusters is None else len(np.unique(clusters))
    return Profile(
        alpha=ALPHA,
        value=moments.mean,
        replicates=moments.replicates,
        floor=np.full(len(ALPHA), 1e-12 if not moments.counted else 1 / len(values)),
        stderr=moments.stderr,
        misfit=np.zeros(len(ALPHA)),
        units=units,
        counted=moments.counted,
        is_share=moments.is_share,
        balanced=True,
    )
