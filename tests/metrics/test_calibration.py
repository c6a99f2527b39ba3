"""How often decisions, bounds and errors are wrong: the tables of docs/how-to/decisions.md.

``pytest -m calibration -s tests/metrics/test_calibration.py`` prints them; without the marker, a
small part is run. ``RAVINE_REPEATS=0.5`` before it draws half as many curves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from scipy.interpolate import BarycentricInterpolator

from made import ALPHA, Noise, bumps, flips, profile_of, rough, share, varying
from ravine.metrics import Profile
from ravine.metrics.decisions import _together
from ravine.metrics.inference import decided

LEVEL = 0.05
HILL = np.sin(np.pi * ALPHA) ** 2
MANY = float(os.environ.get("RAVINE_REPEATS", "1"))
REPEATS = {n: round(MANY * repeats) for n, repeats in ((30, 200), (300, 200), (3000, 100))}

#: From per-example curves to what measuring them gives.
Measured = Callable[[np.ndarray], Profile]


def in_clusters(values: np.ndarray) -> Profile:
    """Each example stands three times: only a third of the values are independent."""
    ids = np.repeat(np.arange(len(values)), 3)
    return profile_of(np.repeat(values, 3, axis=0), clusters=ids)


def in_strata(values: np.ndarray) -> Profile:
    """Ten classes whose curves differ by far more than the noise, in equal numbers."""
    label = np.arange(len(values)) % 10
    offset = np.resize(np.arange(10) - 4.5, len(values))
    return profile_of(values + offset[:, None] * np.cos(3 * ALPHA), strata=label)


def resolved(values: np.ndarray) -> Profile:
    """Measured at 17 places and read between them from a polynomial, replicates as well."""
    places = np.unique(np.round(50 - 50 * np.cos(np.pi * np.arange(17) / 16)).astype(int))
    whole = profile_of(values)
    part = whole.part(places)
    read = BarycentricInterpolator(part.alpha, np.column_stack([part.value, part.replicates]))
    dense = read(ALPHA)
    error = np.where(np.isin(np.arange(len(ALPHA)), places), 0.0, 1e-6)
    return replace(whole, value=dense[:, 0], replicates=dense[:, 1:], misfit=error)


@dataclass(frozen=True)
class Family:
    """Made curves without a rise, and the questions they are asked.

    Attributes:
        noise: per-example curves whose mean is ``truth`` everywhere.
        mean: what is added to them; no barrier and no rise.
        measured: how they are measured.
        kinds: of barriers that are asked about; "end" comes with the rise.
        truth: 0, or the rate of a 0-1 quantity.
    """

    noise: Noise
    mean: np.ndarray | float = 0.0
    measured: Measured = profile_of
    kinds: tuple[str, ...] = ("end",)
    truth: float = 0.0


FAMILIES = {
    "smooth, 5 modes": Family(rough(5)),
    "20 modes": Family(rough(20)),
    "60 modes": Family(rough(60)),
    "ten times as noisy beside one place": Family(varying(rough(20))),
    "error rate 1/2": Family(share(1 / 2), truth=1 / 2),
    "error rate 1/4": Family(flips, truth=1 / 4),
    "error rate 1/20": Family(share(1 / 20), truth=1 / 20),
    "error rate 1/4, most examples never flip": Family(share(1 / 4, still=0.9), truth=1 / 4),
    "Student t₃": Family(rough(20, "t3")),
    "log-normal, σ = 1": Family(rough(20, "lognormal1")),
    "log-normal, σ = 2": Family(rough(20, "lognormal2")),
    "a bump in each example, log-normal, σ = 2": Family(bumps("lognormal2")),
    "a fall": Family(rough(20), 1 - ALPHA),
    "a lower end": Family(rough(20), -0.3 * ALPHA**8),
    "clusters of three": Family(rough(20), measured=in_clusters),
    "ten strata": Family(rough(20), measured=in_strata),
    "resolved from 17 points": Family(rough(5), measured=resolved),
    "barriers by the mean and the chord": Family(rough(20), kinds=("mean", "chord")),
}


def seeded(name: str, examples: int) -> np.random.Generator:
    return np.random.default_rng([list(FAMILIES).index(name), examples])


def allowed(repeats: int, level: float = LEVEL) -> float:
    """The level, and what counting so many may add to it."""
    return level + 2.6 * (level * (1 - level) / repeats) ** 0.5


def false_alarms(name: str, examples: int, repeats: int) -> float:
    """The share of curves with a barrier or a rise shown; a barrier shown is a rise shown."""
    family, rng = FAMILIES[name], seeded(name, examples)
    wrong = 0
    for _ in range(repeats):
        profile = family.measured(family.noise(rng, examples) + family.mean)
        if family.kinds == ("end",):
            answers = [decided(profile, "rise").answer]
        else:
            answers = [decided(profile, "barrier", kind=kind).answer for kind in family.kinds]
        wrong += "shown" in answers
    return wrong / repeats


@dataclass(frozen=True)
class Coverage:
    """Of the bounds of a barrier whose height is known.

    Attributes:
        above: the share of upper bounds that are below it: of wrong exclusions.
        below: the share of lower bounds that are above it.
        shown: the share of curves of which it is shown, asked against 0.
        width: of the upper bound above the height, in units of the ideal one.
    """

    above: float
    below: float
    shown: float
    width: float


@cache
def covered(name: str, examples: int, repeats: int) -> Coverage:
    """Bounds of a barrier that is ten standard errors high, over many draws."""
    family, rng = FAMILIES[name], seeded(name, examples)
    large = family.noise(np.random.default_rng(1), 4000)
    error = (large[:, 1:-1] - large[:, :1]).std(axis=0).max() / examples**0.5
    height = 10 * error
    above = below = shown = 0
    margins, suprema = [], []
    for _ in range(repeats):
        noise = family.noise(rng, examples)
        found = decided(family.measured(noise + height * HILL), "barrier", above=0.0)
        above += found.upper < height
        below += found.lower > height
        shown += found.answer == "shown"
        margins.append(found.upper - height)
        off = noise.mean(axis=0)
        against = np.concatenate([off[1:-1] - off[0], off[1:-1] - off[-1]])
        suprema.append(np.abs(against).max())
    ideal = float(np.quantile(suprema, 1 - LEVEL))
    width = float(np.median(margins)) / ideal
    return Coverage(above / repeats, below / repeats, shown / repeats, width)


def misses(name: str, examples: int, repeats: int) -> float:
    """The share of points that are more than 1.96 printed standard errors off."""
    family, rng = FAMILIES[name], seeded(name, examples)
    off = []
    for _ in range(repeats):
        profile = family.measured(family.noise(rng, examples))
        away = np.abs(profile.value - family.truth) / profile.stderr
        off.append(float((away > 1.96).mean()))
    return float(np.mean(off))


def any_of_several(lines: int, examples: int, repeats: int) -> float:
    """The share of sets of lines of which any is wrongly said to have a barrier."""
    rng, wrong = np.random.default_rng(lines), 0
    for _ in range(repeats):
        profiles = {str(k): profile_of(rough(20)(rng, examples)) for k in range(lines)}
        found = _together(profiles, "barrier", LEVEL, {})
        wrong += any(one.answer == "shown" for one in found.values())
    return wrong / repeats


# --- small, in every run --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a lower end", "clusters of three", "ten strata"])
def test_the_level_holds(name):
    assert false_alarms(name, 300, 20) <= allowed(20)


@pytest.mark.parametrize("name", ["20 modes", "resolved from 17 points"])
def test_bounds_cover_a_known_height(name):
    found = covered(name, 300, 20)
    assert found.above <= allowed(20)
    assert found.below <= allowed(20)
    assert found.shown >= 0.9
    assert found.width <= 1.5


@pytest.mark.parametrize("name", ["20 modes", "clusters of three", "error rate 1/4"])
def test_a_printed_standard_error_covers(name):
    assert 0.03 <= misses(name, 300, 60) <= 0.07


def row(name: str, numbers: Iterable[float]) -> str:
    """A row of a table, to be copied."""
    return f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |"


# --- large, the tables ----------------------------------------------------------------------------


@pytest.mark.calibration
@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_of_false_alarms(name):
    found = {n: false_alarms(name, n, repeats) for n, repeats in REPEATS.items()}
    print("\nALARMS", row(name, found.values()))  # noqa: T201  the table
    assert all(rate <= allowed(REPEATS[n]) for n, rate in found.items())


SHIFTED = [name for name, of in FAMILIES.items() if not of.truth and "end" in of.kinds]


@pytest.mark.calibration
@pytest.mark.parametrize("name", SHIFTED)
def test_the_table_of_bounds(name):
    repeats = REPEATS[300]
    found, wide = covered(name, 300, repeats), misses(name, 300, repeats)
    numbers = (found.above, found.below, found.shown, found.width, wide)
    print("\nBOUNDS", row(name, numbers))  # noqa: T201  the table
    assert found.above <= allowed(repeats)
    assert found.below <= allowed(repeats)


@pytest.mark.calibration
@pytest.mark.parametrize("lines", [3, 10])
def test_several_lines_together(lines):
    repeats = REPEATS[300] // 2
    found = any_of_several(lines, 300, repeats)
    print("\nLINES", row(f"{lines}, {repeats} sets", [found]))  # noqa: T201  the table
    assert found <= allowed(repeats)
