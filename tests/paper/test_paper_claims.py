"""The claims' rules, on numbers and made curves: what holds, what does not, what is open."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from made import ALPHA, profile_of, rough
from ravine import metrics
from ravine.paper import claims
from ravine.paper.claims import curves, obstacles, runs
from ravine.paper.claims.found import Found, estimated, exactly, given, measured, worst
from ravine.paper.claims.other_networks import TALL
from ravine.paper.figures import FIGURES, study

RNG = np.random.default_rng


def curve(alpha, value, split="train", misfit=None):
    """A result of 100 examples with the given values and no spread."""
    alpha, value = np.asarray(alpha, float), np.asarray(value, float)
    dims = ("alpha", "split")
    shaped = value[:, None]
    variables = {
        "loss": (dims, shaped, {"units": "nats"}),
        "loss_stderr": (dims, 0 * shaped),
        "loss_replicates": ((*dims, "replicate"), np.zeros((*shaped.shape, 64))),
        "loss_noise_floor": (dims, 0 * shaped),
        "n_examples": ("split", [100]),
    }
    found = xr.Dataset(variables, {"alpha": alpha, "split": [split]}, {"schema_version": 1})
    return found if misfit is None else found.assign(loss_misfit=(dims, misfit[:, None]))


def outcome(whole=True, seeds=(0,)):
    return SimpleNamespace(seeds=seeds, is_scaled=not whole, results={}, runs=())


def claim(answer, bound="at most", threshold=0.5):
    return claims.Claim("c", "§", "s", "fig1", "a number", lambda _: answer, bound, threshold, "r")


class TestAnswers:
    def test_a_bound_decides(self):
        for number, answer in ((0.3, "holds"), (0.5, "undecided"), (0.7, "does not hold")):
            judged = claim(estimated(number, 0.1)).judged(outcome())
            assert judged.status == answer
            assert judged.here == ("holds" if number <= 0.5 else "does not hold")
        above = claim(estimated(0.7, 0.1), "at least").judged(outcome())
        assert above.status == "holds"
        assert claim(exactly(0.5)).judged(outcome()).status == "holds"
        assert claim(exactly(0.5), "at least").judged(outcome()).status == "holds"

    def test_what_was_not_run_is_not_run(self):
        judged = claim(exactly(0.1)).judged(None)
        assert (judged.status, judged.arm) == ("not run", None)
        assert np.isnan(judged.number)

    @pytest.mark.parametrize("number", [0.1, 0.9])
    def test_a_scaled_arm_decides_nothing(self, number):
        judged = claim(exactly(number)).judged(outcome(whole=False, seeds=(0, 3)), "desk")
        own = "holds" if number < 0.5 else "does not hold"
        assert (judged.status, judged.arm) == ("not run", own)
        assert judged.words == f"not run (this arm: {own})"
        (row,) = json.loads(claims.as_json([judged]))["claims"]
        assert (row["status"], row["arm"], row["seeds"]) == ("not run", own, [0, 3])

    def test_unknown_bounds_decide_nothing(self):
        assert claim(Found(0.1, np.nan, np.nan)).judged(outcome()).status == "undecided"
        assert claim(estimated(0.1, np.nan)).judged(outcome()).status == "undecided"
        assert claim(estimated(0.1, 0.01, np.inf)).judged(outcome()).here == "undecided"
        few = claim(estimated(0.1, 0.01, units=9)).judged(outcome())
        assert (few.status, few.here) == ("undecided", "holds")

    def test_a_finding_is_written_with_its_bounds_and_scope(self):
        judged = claim(estimated(0.4, 0.1)).judged(outcome(), "full")
        (row,) = json.loads(claims.as_json([judged], figure="fig1"))["claims"]
        times = stats.t.isf(0.05, 127)  # an error is of 256 groups, taken as half as many
        assert row["lower"] == pytest.approx(0.4 - times * 0.1, rel=1e-3)
        assert row["upper"] == pytest.approx(0.4 + times * 0.1, rel=1e-3)
        assert (row["scope"], row["status"], row["examples"]["status"]) == (
            "population",
            "undecided",
            "holds",
        )
        table = claims.as_markdown([judged])
        assert "**undecided; on these examples: holds**" in table
        assert "[0.234, 0.566]" in table
        assert "for other examples like these, seed 0" in table

    def test_what_is_said_of_a_thing_presupposes_it(self):
        then = exactly(0.1)
        shown, excluded, open_ = (
            Found(1.0, low, high, threshold=1.0)
            for low, high in ((1.5, 2.0), (0.0, 0.5), (0.5, 2.0))
        )
        assert claim(given(shown, then, "none")).judged(outcome()).status == "holds"
        assert claim(given(open_, then, "none")).judged(outcome()).status == "undecided"
        gone = claim(given(excluded, then, "none")).judged(outcome())
        assert (gone.status, gone.about) == ("not run", "none")

    def test_the_worst_is_known_from_above_only_where_each_is(self):
        one, other = Found(1.0, 0.5, 1.5), Found(2.0, np.nan, np.nan)
        assert np.isnan(worst((one, other)).upper)
        assert worst((one, other)).lower == 0.5
        assert worst((one, replace(other, lower=1.8, upper=2.2))).upper == 2.2

    def test_names_are_unique_and_thresholds_are_shared(self):
        names = [one.name for one in claims.CLAIMS]
        assert len(set(names)) == len(names)
        assert {one.figure for one in claims.CLAIMS} <= {*FIGURES, ""}
        obstacle = ("no-obstacle", "a-barrier", "well-behaved", "second-minimum", "one-valley")
        asked = [one for one in claims.CLAIMS if one.name.endswith(obstacle)]
        assert len(asked) == 9
        assert {one.threshold for one in asked} == {None}

    def test_whole_is_the_papers_own_recipe_in_any_profile(self):
        from ravine.paper.recipes import recipe

        def is_whole(recipe, solved=True):
            return study.is_whole(SimpleNamespace(recipe=recipe, solved=solved))

        assert not is_whole(recipe("maxout-mnist", "desk"))
        assert is_whole(recipe("maxout-mnist", seed=3))
        assert is_whole(recipe("lstm-small-ptb", "desk"))
        assert is_whole(replace(recipe("maxout-mnist").lean, precision="bf16"))
        assert not is_whole(recipe("maxout-mnist"), solved=False)
        assert not is_whole(recipe("mpdbm-tiny-mnist"))  # the paper has no such machine


class TestNumbers:
    x = np.linspace(0, 1, 201)

    def test_a_rise_is_told_between_bounds(self):
        bumped = 1 - self.x + 0.3 * np.exp(-(((self.x - 0.5) / 0.02) ** 2))
        top = int(np.argmax(bumped[100:])) + 100
        rise = (bumped[: top + 1][:, None] - bumped[: top + 1][None]).T  # γ(α₂) − γ(α₁)
        expected = np.triu(rise).max()
        told = curves.rises(curve(self.x, bumped))
        assert told.number == told.lower == told.upper == pytest.approx(expected)
        assert claim(told, threshold=None).judged(outcome()).status == "does not hold"
        slope = curves.rises(curve(self.x, 1 - self.x))
        assert claim(slope, threshold=None).judged(outcome()).status == "holds"

    def test_a_hump_must_be_climbed_from_both_sides(self):
        valley = (self.x - 0.3) ** 2
        assert curves.humps(curve(self.x, valley)).number == 0
        assert curves.humps(curve(self.x, -valley)).number == pytest.approx(0.09)
        assert curves.humps(curve(self.x, 1 - self.x)).number == 0

    def test_one_valley_has_its_bottom_at_the_solution(self):
        x = np.arange(20) / 9
        made = SimpleNamespace(runs=())
        assert curves.one_valley(curve(x, (x - 1) ** 2), made).upper == pytest.approx(0, abs=1e-12)
        beyond = curves.one_valley(curve(x, (x - 10 / 9) ** 2), made)
        assert beyond.lower == pytest.approx(1 / 81)
        twice = curves.one_valley(curve(x, (x - 1) ** 2 * ((x - 2) ** 2 + 0.1)), made)
        assert twice.lower > twice.threshold

    def test_a_convex_curve_touches_its_hull_and_a_step_does_not(self):
        assert curves.above_hull(curve(self.x, (1 - self.x) ** 3)).number == pytest.approx(
            0, abs=1e-12
        )
        step = np.where(self.x <= 0.5, 1.0, 0.0)  # its hull is the chord to the foot of the step
        assert curves.above_hull(curve(self.x, step)).number == pytest.approx(0.5 / 0.505)
        cosine = (1 + np.cos(np.pi * self.x)) / 2
        late = curves.above_hull(curve(self.x, cosine), start=0.5).number
        assert late == pytest.approx(0, abs=1e-4)  # convex from its middle on
        assert curves.above_hull(curve(self.x, cosine)).number > 0.1

    def test_a_line_search_in_a_valley_leaves_what_its_step_misses(self):
        x = np.linspace(0, 2, 20001)
        left = curves.line_search_regret(curve(x, (x - 1) ** 2), steps=(0.3, 0.3))
        assert left.number == pytest.approx(0.1**2, rel=1e-3)  # it keeps 0.9

    def test_a_line_search_stops_at_a_ridge(self):
        x = np.linspace(0, 1, 2001)
        ridge = np.interp(x, [0, 0.2, 0.4, 1], [1, 0.8, 0.9, 0])
        left = curves.line_search_regret(curve(x, ridge), steps=(0.1, 0.1))
        assert left.number == pytest.approx(0.8)

    def test_bumps_are_counted(self):
        wave = curve(self.x, np.cos(6 * np.pi * self.x))  # tops at 1/3 and 2/3, none at the ends
        assert curves.bumps(wave).number == 2
        assert curves.bumps(curve(self.x, self.x)).number == 0

    def test_a_comparison_is_compared(self):
        cosine, line = (1 + np.cos(np.pi * self.x)) / 2, 1 - self.x
        bent, straight = curve(self.x, cosine), curve(self.x, line)
        more = curves.more_above_hull(bent, {"a": straight, "b": straight}, wanted=2)
        assert more.lower > 0.1
        assert curves.more_above_hull(straight, {"a": bent}, wanted=1).upper < -0.1
        lacking = curves.more_above_hull(bent, {"a": straight}, wanted=2)
        assert np.isnan(lacking.lower)
        assert "1 more not run" in lacking.remark
        assert curves.more_above_hull(bent, {}, wanted=2).status == "not run"

    def test_a_second_minimum_is_not_the_lowest(self):
        one = curve(self.x, (self.x - 0.8) ** 2)
        assert curves.inner(one).value.min() == pytest.approx(0, abs=1e-9)
        assert obstacles.second_minimum(one).number == 0
        two = curve(self.x, np.cos(4 * np.pi * self.x) - self.x)  # valleys near 1/4 and 3/4
        deep = obstacles.second_minimum(two)
        assert deep.lower > 1
        assert obstacles.second_place(two) == pytest.approx(0.25, abs=0.01)

    def test_a_thousandth_of_a_random_points_height_is_no_measure(self):
        """From 6,800 nats down, a barrier of 3 is below a thousandth; training gained 2.3."""
        x = np.linspace(0, 1, 401)
        fall = 6_800 * (1 - x) ** 8 + 3 * np.exp(-(((x - 0.9) / 0.02) ** 2))
        loss = xr.DataArray([[2.3, 0.1]], dims=("split", "record"), coords={"split": ["train"]})
        history = xr.Dataset({"loss": loss.T, "phase": ("record", [1, 1])})
        made = SimpleNamespace(runs=(SimpleNamespace(history=history),))
        found = curves.rises(curve(x, fall), made)
        assert found.threshold == pytest.approx(0.0022)
        assert claim(found, threshold=None).judged(outcome()).status == "does not hold"
        assert metrics.threshold_of(curves.train(curve(x, fall))) > 6  # which would let it through

    def test_a_count_is_beside_another_count(self):
        judged = claim(runs.beside_count([112.0], 94), threshold=0).judged(outcome())
        assert judged.status == "undecided"  # 18 more, two binomial errors of the difference are 29
        assert (
            claim(runs.beside_count([140.0], 94), threshold=0).judged(outcome()).status
            == "does not hold"
        )
        assert claim(runs.beside_count([60.0], 94), threshold=0).judged(outcome()).status == "holds"
        many = runs.beside_count([112.0] * 30, 94)
        assert many.lower > 0  # the published count is one run's, whatever is done here
        assert many.upper - many.lower > 2 * 1.64 * 94**0.5


class TestUnknown:
    """An error that is not known is unknown, and no 0."""

    def resolved(self, value, unknown):
        x = np.linspace(0, 1, 21)
        profile = curves.train(curve(x, value(x)))
        inside = np.ones(21)
        inside[::4] = 0  # measured
        misfit = np.where(
            inside.astype(bool), np.where(x > 0.5, np.inf if unknown else 1e-9, 1e-9), 0
        )
        return replace(profile, misfit=misfit)

    @pytest.mark.parametrize("unknown", [False, True])
    def test_nothing_hides_only_where_every_piece_resolved(self, unknown, monkeypatch):
        profile = self.resolved(lambda x: 1 - x, unknown)
        monkeypatch.setattr(curves, "train", lambda _: profile)
        found = curves.hidden({"whole": curve([0, 1], [1, 0])})
        judged = claim(found, threshold=1).judged(outcome())
        assert judged.status == ("undecided" if unknown else "holds")
        assert found.number < 1e-3
        assert ("not resolved everywhere: whole" in judged.about) == unknown

    @pytest.mark.parametrize(
        "asked",
        [curves.rises, curves.barriers, curves.humps, curves.above_hull, curves.line_search_regret],
    )
    def test_no_number_of_a_curve_is_bounded_where_a_piece_did_not_resolve(
        self, asked, monkeypatch
    ):
        profile = self.resolved(lambda x: 1 - x, unknown=True)
        monkeypatch.setattr(curves, "train", lambda _: profile)
        found = asked(curve([0, 1], [1, 0]))
        for one in (found, found.here):
            assert not np.isfinite(one.upper)
            assert claim(one, threshold=0.1).judged(outcome()).status == "undecided"


class TestWalks:
    """A random walk captures 2/3 in a shape of its own: a sentence must be about more."""

    def path(self, alpha, residual, captured, null=2 / 3):
        walk = {"walk": ["run", "random walk"]}
        data = {
            "alpha": ("step", alpha),
            "residual": ("step", residual),
            "captured": ("walk", [captured, null]),
        }
        return xr.Dataset(data, {"step": np.arange(len(alpha)), **walk}, {"length": 1.0})

    def test_a_walk_fails_two_thirds(self):
        share = np.linspace(0, 1, 41)
        walk = self.path(share, np.sqrt(share * (1 - share)), 2 / 3)
        (two_thirds,) = (one for one in claims.CLAIMS if one.name == "two-thirds")
        asked = replace(two_thirds, found=lambda o: runs.captured(walk))
        judged = asked.judged(outcome())
        assert judged.status == "undecided"
        assert judged.number == pytest.approx(0)
        more = replace(two_thirds, found=lambda o: runs.captured(self.path(share, share, 0.73)))
        assert more.judged(outcome()).status == "holds"
        less = replace(two_thirds, found=lambda o: runs.captured(self.path(share, share, 0.6)))
        assert less.judged(outcome()).status == "does not hold"
        straight = replace(two_thirds, found=lambda o: runs.captured(self.path(share, share, 0.95)))
        assert straight.judged(outcome()).status == "does not hold"  # it is not about 2/3

    def test_the_shape_is_a_walks_for_a_walk_and_not_for_a_straight_run(self):
        share = np.linspace(0, 1, 41)
        semicircle = np.sqrt(share * (1 - share))
        assert runs.walk_or_line(self.path(share, semicircle, 0.5)).number == 0
        assert runs.walk_or_line(self.path(share, 0 * share, 0.5)).number == 1
        assert runs.walk_or_line(self.path(share, 0.5 * semicircle, 0.5)).number == pytest.approx(
            0.5
        )


# --- figure 6 -------------------------------------------------------------------------------------


def near_and_whole(rng, count, height, noise=None):
    """A fall of 1 with a barrier at 0.05, seen near the start and whole, by the same examples."""
    values = 0.1 * (noise or rough(8))(rng, count) * np.exp(-ALPHA)
    x = ALPHA * 0.2
    slope = -((x / 0.2) ** 3) * 0.05
    shape = height * np.exp(-(((x - 0.05) / 0.02) ** 2))
    near = replace(profile_of(slope + shape + values), alpha=x)
    whole = profile_of(-ALPHA + 0.01 * values)
    return near, whole


def sentences(near, whole):
    """What the five sentences about a barrier come to, by name."""
    found = {
        "conv-a-barrier": obstacles.near_barrier(near),
        "conv-near-the-start": obstacles.barrier_within(near),
        "conv-wide": obstacles.barrier_width(near),
        "conv-not-tall": obstacles.barrier_height(near, whole, TALL),
        "conv-a-single-barrier": obstacles.second_barrier(near, whole),
    }
    asked = {one.name: one for one in claims.CLAIMS if one.name in found}
    return {
        name: replace(asked[name], found=lambda o, name=name: found[name]).judged(outcome())
        for name in found
    }


def held(repeats, seed, count):
    """In how many draws without a barrier any sentence holds: only where the first does."""
    rng, times = RNG(seed), 0
    for _ in range(repeats):
        near, whole = near_and_whole(rng, count, 0.0)
        gate = obstacles.near_barrier(near)
        if gate.answers("at least", gate.threshold) == "holds":
            times += any(one.status == "holds" for one in sentences(near, whole).values())
    return times


def at_most(share, repeats):
    """That share of draws, and twice its counting error."""
    return repeats * share + 2 * (repeats * share * (1 - share)) ** 0.5


class TestFigureSix:
    def test_without_a_barrier_no_sentence_holds(self):
        assert held(15, 0, 300) <= at_most(0.05, 15)

    def test_a_rise_of_less_than_its_error_holds_on_these_examples_only(self):
        """Noise makes a rise of these examples, which is a fact about them and about no others."""
        near, whole = near_and_whole(RNG(1), 300, 0.0)
        told = sentences(near, whole)
        first = told["conv-a-barrier"]
        assert (first.status, first.here) == ("undecided", "holds")
        assert first.words == "undecided; on these examples: holds"
        assert (first.found.scope, first.found.here.scope) == ("population", "examples")
        assert {one.status for one in told.values()} == {"undecided"}

    def test_a_barrier_is_found_and_described(self):
        found = sentences(*near_and_whole(RNG(2), 1000, 0.03))
        assert {name for name, one in found.items() if one.status == "holds"} == set(found)

    @pytest.mark.calibration
    @pytest.mark.parametrize("count", [100, 1000])
    def test_the_level_holds(self, count):
        assert held(300, count, count) <= at_most(0.05, 300)


class TestNoise:
    """What noise makes larger is corrected, and its bounds keep their level."""

    def bounds(self, truth, repeats, count, seed=0):
        rng, outside = RNG(seed), np.zeros(2, int)
        exact = curves.hull_distance(ALPHA, truth)
        numbers = []
        for _ in range(repeats):
            profile = profile_of(truth + rough(20)(rng, count))
            found = measured(profile, curves.hull_distance)
            numbers.append(found.number)
            outside += [found.lower > exact, found.upper < exact]
        return outside, np.mean(numbers) - exact

    def test_a_distance_from_the_hull_keeps_its_bounds(self):
        bent = (1 + np.cos(np.pi * ALPHA)) / 2
        outside, bias = self.bounds(bent, 12, 300)
        assert outside.max() <= at_most(0.05, 12)
        assert abs(bias) < 0.03

    def test_a_convex_curve_is_not_shown_to_be_anything_else(self):
        outside, _ = self.bounds((1 - ALPHA) ** 2, 12, 300)
        assert outside[0] <= at_most(0.05, 12)

    @pytest.mark.calibration
    @pytest.mark.parametrize("bent", [False, True])
    def test_the_level_holds(self, bent):
        truth = (1 + np.cos(np.pi * ALPHA)) / 2 if bent else 1 - ALPHA
        outside, _ = self.bounds(truth, 200, 300, seed=5)
        assert outside.max() <= at_most(0.05, 200)
