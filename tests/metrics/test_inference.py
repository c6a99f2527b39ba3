"""Decisions by simulation: wrong as seldom as the level asks, right where there is something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import ravine
from made import ALPHA, bumps, drawn, flips, profile_of, rough, share, varying
from oracles import of_model, point
from ravine import metrics
from ravine.measuring.comparison import _compared
from ravine.metrics.inference import Changes, decided, threshold_of
from ravine.objective.moments import Membership, Moments

FLAT = 0 * ALPHA
FALL = 1 - ALPHA
REPEATS = 40


def counts(noise, mean, examples, *, seed=0, repeats=REPEATS, what=("barrier", "rise"), **options):
    """The share of curves in which any of the questions is answered so."""
    rng = np.random.default_rng([seed, examples])
    found = {"shown": 0, "excluded": 0, "undecided": 0}
    for _ in range(repeats):
        profile = profile_of(noise(rng, examples) + mean, **options.get("groups", {}))
        above = options.get("above")
        answers = {decided(profile, one, above=above).answer for one in what}
        for answer in answers:
            found[answer] += 1
    return {answer: number / repeats for answer, number in found.items()}


def allowed(repeats=REPEATS, level=0.05):
    return level + 2.6 * (level * (1 - level) / repeats) ** 0.5


FAMILIES = {
    "5 modes": rough(5),
    "20 modes": rough(20),
    "60 modes": rough(60),
    "heavy tails": rough(20, "t3"),
    "log-normal": rough(20, "lognormal1"),
    "lopsided bumps": bumps("lognormal2"),
    "noisy valley": varying(rough(20)),
    "error rate": flips,
}


@pytest.mark.parametrize(
    ("family", "examples"),
    [("20 modes", 30), ("20 modes", 300), ("lopsided bumps", 300), ("error rate", 300)],
)
def test_nothing_is_shown_where_nothing_is(family, examples):
    assert counts(FAMILIES[family], FLAT, examples)["shown"] <= allowed()


@pytest.mark.calibration
@pytest.mark.parametrize("examples", [30, 300, 3000])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_level_holds(family, examples):
    assert counts(FAMILIES[family], FLAT, examples, repeats=300)["shown"] <= allowed(300)


@pytest.mark.calibration
@pytest.mark.parametrize("family", FAMILIES)
def test_the_level_of_an_exclusion_holds(family):
    hill = 0.1 * np.sin(np.pi * ALPHA) ** 2
    found = counts(FAMILIES[family], hill, 300, what=("barrier",), above=0.1 - 1e-6, repeats=300)
    assert found["excluded"] <= allowed(300)


def test_no_rise_is_shown_on_a_fall():
    assert counts(FAMILIES["heavy tails"], FALL, 300)["shown"] <= allowed()


def test_a_barrier_five_errors_high_is_shown():
    error = 0.3 * 2**0.5 / 300**0.5  # of a difference between two points
    hill = 5 * error * np.sin(np.pi * ALPHA) ** 2
    assert counts(rough(20), hill, 300, what=("barrier",))["shown"] >= 0.9
    assert counts(rough(20), hill, 300, what=("rise",))["shown"] >= 0.9


def test_a_real_barrier_is_not_excluded():
    hill = 0.1 * np.sin(np.pi * ALPHA) ** 2
    found = counts(FAMILIES["error rate"], hill, 300, what=("barrier",), above=0.1 - 1e-6)
    assert found["excluded"] <= allowed()


def test_a_small_barrier_is_excluded_with_many_examples():
    hill = 0.02 * np.sin(np.pi * ALPHA) ** 2
    assert counts(rough(5), hill, 3000, what=("barrier",), above=0.2, repeats=20)["excluded"] >= 0.9


def test_clusters_and_strata_keep_the_level():
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(REPEATS):
        ids = np.repeat(np.arange(60), 5)
        profile = profile_of(np.repeat(rough(20)(rng, 60), 5, axis=0), clusters=ids)
        found += decided(profile, "rise").answer == "shown"
    assert found / REPEATS <= allowed()
    label = np.arange(300) % 10
    between = label[:, None] * np.sin(np.pi * ALPHA)  # of a balanced draw no error at all
    hill = np.mean(between, axis=0)
    shown = 0
    for _ in range(20):
        profile = profile_of(rough(5)(rng, 300) + between, strata=label)
        shown += decided(profile, "barrier", above=float(hill.max()) - 0.5).answer == "shown"
    assert shown >= 18


def test_a_barrier_shown_is_a_rise_shown():
    rng = np.random.default_rng(4)
    seen = 0
    for height in np.linspace(0.05, 0.3, 40):
        profile = profile_of(rough(20)(rng, 100) + height * np.sin(np.pi * ALPHA) ** 2)
        if decided(profile, "barrier").answer == "shown":
            seen += 1
            assert decided(profile, "rise").answer == "shown"
    assert seen > 5


def test_a_barrier_shown_is_a_rise_shown_where_few_examples_flip():
    """The rise's own deciding pair may be lopsided where the barrier's is not."""
    noise, rng = share(1 / 4, still=0.9), np.random.default_rng(20)
    seen = 0
    for height in np.linspace(0.04, 0.12, 24):
        values = noise(rng, 300)
        wrong = rng.uniform(size=(300, 1)) < height * np.sin(np.pi * ALPHA) ** 2
        profile = profile_of(np.maximum(values, wrong))
        found = {what: decided(profile, what) for what in ("barrier", "rise")}
        if found["barrier"].answer == "shown":
            seen += 1
            assert found["rise"].answer == "shown"
            assert found["rise"].lower >= found["barrier"].lower
    assert seen > 5


def test_an_endless_bound_has_its_own_reason():
    """Bounds that skewness makes infinite are not said to lie on both sides, as finite ones do."""
    noise, rng, reasons = bumps("lognormal2"), np.random.default_rng(21), set()
    for height in np.linspace(0.0, 0.2, 24):
        profile = profile_of(noise(rng, 60) + height * ALPHA**2)
        found = decided(profile, "rise", above=0.1)
        if np.isinf(found.upper):
            reasons.add(found.reason.split(" (")[0])
    assert reasons == {"a few examples decide the difference"}


def test_minimum_and_bend():
    rng = np.random.default_rng(5)
    valley = profile_of(rough(5)(rng, 1000) + 2 * (ALPHA - 0.4) ** 2)
    assert decided(valley, "minimum").answer == "shown"
    assert decided(valley, "minimum").at == pytest.approx(0.4, abs=0.1)
    hill = profile_of(rough(5)(rng, 1000) - 2 * (ALPHA - 0.4) ** 2)
    assert decided(hill, "nonconvex").answer == "shown"
    assert decided(hill, "minimum").answer != "shown"


class TestScope:
    def test_what_is_on_these_examples_is_said_of_them(self):
        rng = np.random.default_rng(6)
        profile = profile_of(rough(20)(rng, 30))
        found = Changes(profile, 1e-4).at()
        assert found["rise", "population"].answer == "undecided"
        assert found["rise", "examples"].answer == "shown"

    def test_few_examples_say_nothing_of_others(self):
        profile = profile_of(rough(5)(np.random.default_rng(7), 9) + np.sin(np.pi * ALPHA))
        found = decided(profile, "barrier")
        assert found.answer == "undecided"
        assert "9 independent examples" in found.reason
        assert found.examples == 10
        assert decided(profile, "barrier", scope="examples").answer == "shown"

    def test_no_flip_seen_is_not_no_flip(self):
        """0 errors of 200 leave 3/200 open."""
        profile = profile_of(np.zeros((200, len(ALPHA))))
        found = decided(profile, "barrier", above=0.01)
        assert found.answer == "undecided"
        assert found.upper == pytest.approx(-np.log(0.05) / 200)
        assert decided(profile, "barrier", above=0.02).answer == "excluded"


class TestDecide:
    def objective(self, function, count=40):
        return of_model(
            lambda model, batch: function(model.w[0]) + 0 * batch[0],
            torch.zeros(count, dtype=torch.float64),
        )

    line = ravine.Line(point(0.0), point(1.0))

    def test_an_answer_has_all_that_it_rests_on(self):
        J = self.objective(lambda a: (a * np.pi).sin())
        found = metrics.decide(ravine.resolve(J, along=self.line), "barrier", above=0.3)
        assert (found.answer, found.what, found.kind, found.split) == (
            "shown",
            "barrier",
            "end",
            "data",
        )
        assert found.lower <= found.value <= found.upper
        assert found.value == pytest.approx(1, abs=1e-3)
        assert found.at == pytest.approx(0.5)
        assert found.p == pytest.approx(1 / 1000)
        assert "barrier above 0.3 in the data loss: shown" in str(found)

    def test_an_unresolved_piece_is_unknown_there_and_only_there(self):
        J = self.objective(
            lambda a: 1 - a + 0.1 * torch.exp(-(((a - 0.2) / 0.05) ** 2)) - 0.5 * (a > 0.7)
        )
        curve = ravine.resolve(J, along=self.line, max_points=120)
        assert curve.attrs["resolved"] == 0
        assert metrics.decide(curve, "rise", scope="examples").answer == "shown"  # at 0.2
        falls = self.objective(lambda a: 1 - a - 0.5 * (a > 0.7))
        curve = ravine.resolve(falls, along=self.line, max_points=120)
        found = metrics.decide(curve, "rise", scope="examples")
        assert found.answer == "undecided"
        assert "did not resolve" in found.reason

    def test_several_lines_are_adjusted_together(self):
        J = self.objective(lambda a: (a**2 - 1) ** 2)
        points = {name: point(at) for name, at in (("a", -1.0), ("b", 1.0), ("c", 0.9))}
        found = metrics.decide(
            ravine.evaluate(J, along=ravine.pairs(points), at=np.linspace(0, 1, 11)),
            "barrier",
            above=0.1,
        )
        assert {name: one.answer for name, one in found.items()} == {
            "a – b": "shown",
            "a – c": "shown",
            "b – c": "excluded",
        }
        assert sorted(one.level for one in found.values()) == pytest.approx(
            [0.05 / 3, 0.05 / 2, 0.05]
        )

    @pytest.mark.parametrize(
        ("at", "reason"),
        [([0.2, 0.5, 0.7], "ends were not measured"), ([0.0, 1.0], "nothing between")],
    )
    def test_what_cannot_be_asked_is_undecided_with_a_reason(self, at, reason):
        curve = ravine.evaluate(self.objective(lambda a: a), along=self.line, at=at)
        assert reason in metrics.decide(curve, "barrier").reason

    def test_not_finite(self):
        curve = ravine.evaluate(self.objective(lambda a: a / 0), along=self.line, at=[0, 0.5, 1])
        found = metrics.decide(curve, "rise")
        assert found.answer == "undecided"
        assert "not finite" in found.reason

    @pytest.mark.parametrize(
        ("what", "options", "said"),
        [
            ("hill", {}, "what must be one of 'barrier'"),
            ("barrier", {"kind": "top"}, "kind must be one of"),
            ("barrier", {"scope": "all"}, "scope must be one of"),
            ("barrier", {"level": 0}, "level must be a number between"),
            ("barrier", {"quantity": "x"}, "got 'x'"),
        ],
    )
    def test_bad_input(self, what, options, said):
        curve = ravine.evaluate(self.objective(lambda a: a), along=self.line, at=[0, 0.5, 1])
        with pytest.raises(ravine.InputError, match=said):
            metrics.decide(curve, what, **options)

    def test_of_a_plane_or_a_path_nothing_is_asked(self):
        J = of_model(
            lambda model, batch: model.w.sum() + batch[0],
            torch.zeros(12, dtype=torch.float64),
            size=2,
        )
        plane = ravine.evaluate(
            J,
            along=ravine.Plane(point(0.0, 0.0), point(1.0, 0.0), point(0.0, 1.0)),
            at={"alpha": [0, 1], "beta": [0, 0.5, 1]},
        )
        for result in (plane, ravine.project([point(0.0), point(1.0)])):
            with pytest.raises(ravine.InputError, match="decide\\(\\) is for lines"):
                metrics.decide(result, "barrier")


@pytest.mark.parametrize("what", ["barrier", "rise", "minimum", "nonconvex"])
def test_a_p_is_below_the_level_only_where_it_is_shown(what):
    rng = np.random.default_rng(5)
    answers = set()
    for height in (-0.3, 0.02, 0.06, 0.12, 0.3):
        found = decided(profile_of(rough(8)(rng, 150) + height * np.sin(np.pi * ALPHA) ** 2), what)
        answers.add(found.answer)
        assert (found.p < found.level) <= (found.answer == "shown") <= (found.p <= found.level)
    assert answers >= {"shown", "undecided"}


class TestThinInput:
    """What can hardly be asked has one clear answer, here and in the verdict."""

    line = ravine.Line(point(0.0), point(1.0))

    def objective(self, count=40, scale=1.0, **groups):
        x = torch.linspace(0.9, 1.1, count, dtype=torch.float64)
        return of_model(
            lambda model, batch: (model.w[0] * np.pi).sin() * batch[0] * scale, x, **groups
        )

    def measured(self, at=(0, 0.25, 0.5, 0.75, 1), **options):
        return ravine.evaluate(self.objective(**options), along=self.line, at=at)

    @pytest.mark.parametrize(
        ("at", "what", "reason"),
        [
            ([0.2, 0.5, 0.7], "barrier", "the line's ends were not measured"),
            ([0.5], "barrier", "the line's ends were not measured"),
            ([0.5], "rise", "a single point has nothing beside it"),
            ([1.2, 1.5, 1.7], "rise", "no point between the line's ends was measured"),
        ],
    )
    def test_points_that_do_not_suffice(self, at, what, reason):
        curve = self.measured(at)
        for scope in ("population", "examples"):
            found = metrics.decide(curve, what, scope=scope)
            assert (found.answer, found.reason) == ("undecided", reason)
        assert metrics.verdict(curve).headline

    def test_outside_the_ends_what_was_measured_there_sets_the_threshold(self):
        found = metrics.decide(self.measured([1.2, 1.5, 1.7]), "minimum")
        assert found.above == pytest.approx(1e-3 * (1 - np.sin(0.2 * np.pi)), rel=1e-3)

    @pytest.mark.parametrize("scale", [float("nan"), float("inf")], ids=["nan", "inf"])
    def test_nothing_is_finite(self, scale):
        resolved = ravine.resolve(self.objective(scale=scale), along=self.line, max_points=25)
        for curve in (self.measured([0.2, 0.5, 0.8], scale=scale), resolved):
            found = metrics.decide(curve, "rise", scope="examples")
            assert found.answer == "undecided"
            assert found.reason.endswith("points are not finite")
            assert "undefined" in metrics.verdict(curve).headline

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"count": 1}, "1 independent example is too few to speak of others (at least 10)"),
            ({"clusters": [7] * 40}, "1 independent example is too few"),
            ({"strata": list(range(40))}, "the standard error over examples is not known"),
            ({"strata": [0, 0, *range(38)]}, "the standard error over examples is not known"),
        ],
        ids=["one example", "one cluster", "strata of one", "most strata of one"],
    )
    def test_examples_that_do_not_suffice(self, options, reason):
        curve = self.measured(**options)
        found = metrics.decide(curve, "barrier", above=0.1)
        assert found.answer == "undecided"
        assert found.reason.startswith(reason)
        assert (found.lower, found.upper) == (-np.inf, np.inf)
        assert metrics.decide(curve, "barrier", above=0.1, scope="examples").answer == "shown"
        compared = ravine.compare(self.objective(**options), point(0.0), point(0.5))
        assert (compared.answer, compared.reason.startswith(reason)) == ("undecided", True)

    def test_clusters_of_one_are_examples(self):
        alone = metrics.decide(self.measured(), "barrier", above=0.1)
        clustered = metrics.decide(self.measured(clusters=list(range(40))), "barrier", above=0.1)
        assert clustered.answer == alone.answer == "shown"
        assert clustered.lower == pytest.approx(alone.lower, rel=1e-4)

    def test_a_verdict_says_in_how_many_clusters_its_examples_are(self):
        said = str(metrics.verdict(self.measured(clusters=[row // 2 for row in range(40)])))
        assert "over 40 data examples in 20 clusters" in said
        assert "clusters" not in str(metrics.verdict(self.measured()))

    @pytest.mark.parametrize("name", ["clusters", "strata"])
    @pytest.mark.parametrize("count", [0, 39, 41])
    def test_ids_of_the_wrong_length(self, name, count):
        said = f"{name} has {count} ids for the 40 examples of split 'data'; expected one each"
        with pytest.raises(ravine.InputError, match=said):
            self.measured(**{name: list(range(count))})


class TestCompare:
    def objective(self, noise=0.1, count=400):
        rng = np.random.default_rng(8)
        x = torch.tensor(1 + noise * rng.normal(size=count))
        return of_model(lambda model, batch: (model.w[0] - batch[0]) ** 2, x)

    @pytest.mark.parametrize(
        ("a", "b", "above", "answer"),
        [
            (0.0, 0.9, 0.0, "better"),
            (0.9, 0.0, 0.0, "worse"),
            (0.9, 0.9, 1e-6, "tied"),
            (0.98, 1.02, 0.0, "undecided"),
        ],
    )
    def test_points_are_told_apart(self, a, b, above, answer):
        found = ravine.compare(self.objective(), point(a), point(b), above=above)
        assert found.answer == answer
        assert found.lower <= found.difference <= found.upper

    def test_the_difference_is_paired(self):
        """Both points err together: the difference is known far better than either."""
        J = self.objective(noise=3.0)
        found = ravine.compare(J, point(1.0), point(1.01))
        alone = ravine.evaluate(J, along=ravine.Line(point(1.0), point(2.0)), at=[0.0])[
            "loss_stderr"
        ].item()
        assert found.stderr < alone / 50

    def test_few_examples(self):
        found = ravine.compare(self.objective(count=5), point(0.0), point(1.0))
        assert found.answer == "undecided"
        assert found.examples == 10

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"quantity": "error"}, "got 'error'"),
            ({"level": 0.5}, "level must be a number between"),
            ({"level": 0}, "level must be a number between"),
            ({"above": -0.1}, "above must be 0 or larger"),
            ({"above": float("nan")}, "above must be 0 or larger"),
        ],
    )
    def test_bad_input(self, options, said):
        with pytest.raises(ravine.InputError, match=said):
            ravine.compare(self.objective(), point(0.0), point(1.0), **options)

    def test_the_reason_says_where_the_interval_lies(self):
        found = ravine.compare(self.objective(), point(0.0), point(0.9))
        assert found.reason == "the interval lies below 0"
        found = ravine.compare(self.objective(), point(0.98), point(1.02), above=1e-6)
        assert found.reason == "the interval reaches across −1e-06 and 1e-06"
        assert found.examples > 400

    def test_no_number_of_examples_is_named_that_nobody_has(self):
        apart = ravine.compare(self.objective(), point(0.0), point(0.9)).difference
        for above in (-apart, -apart + 1e-9):
            found = ravine.compare(self.objective(), point(0.0), point(0.9), above=above)
            assert (found.answer, found.examples) == ("undecided", None)
            assert found.reason.endswith("more examples of this kind will hardly decide it")

    def test_a_point_that_is_not_finite(self):
        J = of_model(lambda model, batch: batch[0] / (1 - model.w[0]), torch.ones(40).double())
        found = ravine.compare(J, point(0.0), point(1.0))
        assert (found.answer, found.reason) == ("undecided", "a point is not finite")
        assert (found.lower, found.upper, found.is_no_worse) == (-np.inf, np.inf, False)

    @pytest.mark.parametrize("count", [30, 300])
    @pytest.mark.parametrize("draw", ["normal", "t3", "lognormal1", "lognormal2", "share"])
    def test_equal_points_are_told_apart_no_more_often_than_the_level_allows(self, draw, count):
        rng = np.random.default_rng([9, count])
        repeats, apart = 200, 0
        for _ in range(repeats):
            one, other = rng.uniform(size=(2, count)) < 0.1
            values = np.array([one, other], dtype=float)
            if draw != "share":
                values = np.array([np.zeros(count), drawn(rng, (count,), draw)])
            moments = Moments.of(values, Membership.of(np.arange(count)))
            found = _compared(moments, count, 0.0, "loss", "data", 0.05)
            apart += found.answer in ("better", "worse")
        assert apart / repeats <= allowed(repeats)

    def test_an_equal_share_is_tied_only_as_far_as_the_examples_reach(self):
        """No flip among n: at 2.5 % at either end, log(40) / n is open."""
        values = np.zeros((2, 200))
        moments = Moments.of(values, Membership.of(np.arange(200)))
        found = _compared(moments, 200, 0.02, "error", "data", 0.05)
        assert found.upper == pytest.approx(np.log(40) / 200)
        assert found.answer == "tied"
        near = _compared(moments, 200, 0.01, "error", "data", 0.05)
        # 200 · 1.8444² = 681, to two digits
        assert (near.answer, near.examples) == (
            "undecided",
            690,
        )


class TestWhatTheBoundsRestOn:
    def test_a_share_is_of_zeros_and_ones(self):
        members = Membership.of(np.arange(50))
        zeros = np.zeros((1, 50))
        ones, cut = zeros.copy(), zeros.copy()
        ones[0, :3], cut[0, 0] = 1, 2
        assert Moments.of(zeros, members).is_share
        assert Moments.of(ones, members).is_share
        assert not Moments.of(cut, members).is_share
        assert not Moments.of(ones / 2, members).is_share
        assert not Moments.of(-ones, members).is_share

    def test_a_loss_of_whole_numbers_has_no_bounds_of_a_share(self):
        """A loss of 0 or 100 is no share: nothing bounds how large the next may be."""
        values = np.zeros((200, len(ALPHA)))
        values[0, 50] = 100.0
        loss, share = (
            decided(profile_of(of), "barrier", above=1.0) for of in (values, values / 100)
        )
        assert (loss.answer, loss.upper) == ("undecided", np.inf)
        assert (share.answer, share.upper < 0.5) == ("excluded", True)

    @pytest.mark.parametrize("lost", [np.nan, np.inf])
    def test_what_is_not_finite_excludes_nothing(self, lost):
        rng = np.random.default_rng(10)
        values = rough(5)(rng, 400) + np.sin(np.pi * ALPHA)
        values[3, 20] = lost
        profile = profile_of(values)
        high = decided(profile, "barrier", above=0.5)
        assert (high.answer, high.upper) == ("shown", np.inf)
        assert high.reason.endswith("1 of 101 points are not finite")
        for scope in ("population", "examples"):
            found = decided(profile, "barrier", above=5.0, scope=scope)
            assert (found.answer, found.reason) == (
                "undecided",
                "1 of 101 points are not finite",
            )
        values[3, 0] = lost
        found = decided(profile_of(values), "barrier", above=0.5)
        assert found.reason == "2 of 101 points are not finite, an end among them"
        assert decided(profile_of(values), "rise", above=0.5).answer == "shown"

    def test_flips_that_were_not_seen_are_counted_among_what_would_decide(self):
        """3/n is below 0.001 at about 3,000 examples: log(20) / 0.001, to two digits."""
        profile = profile_of(np.zeros((200, len(ALPHA))))
        assert decided(profile, "barrier", above=0.001).examples == pytest.approx(3000, rel=0.1)

    @pytest.mark.parametrize(("off", "told"), [(3e-3, True), (1e-5, False)])
    def test_a_number_that_nobody_will_have_is_not_printed(self, off, told):
        """A height so near to what is asked that only a thousand times as many would tell."""
        profile = profile_of(rough(5)(np.random.default_rng(13), 400) + np.sin(np.pi * ALPHA))
        height = decided(profile, "barrier", above=0.5).value
        for above in (height - off, height + off):
            found = decided(profile, "barrier", above=above)
            assert found.answer == "undecided"
            assert (found.examples is not None) == told
            assert found.reason.endswith("hardly decide it") != told
            assert found.examples is None or 400 < found.examples <= 400_000

    def test_an_error_that_is_not_known_bounds_nothing(self):
        profile = profile_of(rough(5)(np.random.default_rng(11), 40) + np.sin(np.pi * ALPHA))
        unknown = replace(profile, replicates=np.full_like(profile.replicates, np.nan))
        found = decided(unknown, "barrier", above=0.1)
        assert found.reason == "the standard error over examples is not known"
        assert (found.answer, found.lower, found.upper) == ("undecided", -np.inf, np.inf)
        assert found.examples is None

    def test_a_flat_curve_has_no_bump_in_its_last_bits(self):
        noise = 1e-16 * np.random.default_rng(12).normal(size=len(ALPHA))
        flat = replace(
            profile_of(np.full((40, len(ALPHA)), 7.0) * (1 + noise)), floor=np.zeros(len(ALPHA))
        )
        assert threshold_of(flat) >= 7e-13
        for what in ("barrier", "rise", "minimum"):
            found = decided(flat, what, scope="examples")
            assert found.answer == "excluded"
            assert 0 <= found.lower <= found.value < threshold_of(flat)

    def test_a_single_lopsided_difference_is_seldom_excluded_wrongly(self):
        rng = np.random.default_rng(13)
        wrong, repeats = 0, 60
        for _ in range(repeats):
            values = np.zeros((100, len(ALPHA)))
            values[:, 50] = 1 + drawn(rng, (100,), "lognormal2")
            found = decided(profile_of(values), "barrier", above=1 - 1e-9)
            wrong += found.answer == "excluded"
        assert wrong / repeats <= allowed(repeats)


def single(function):
    """A loss that is the same function of the one parameter for every example."""
    return lambda model, batch: function(model.w[0]).expand(len(batch[0]))


class TestWhatIsAsked:
    """Bad questions are refused, and few examples speak of themselves alone."""

    @pytest.fixture
    def curve(self):
        J = of_model(single(lambda w: (w - 0.5) ** 2), (torch.zeros(20, 1),))
        return ravine.evaluate(J, along=ravine.Line(point(0.0), point(1.0)), at=[0, 0.5, 1])

    @pytest.mark.parametrize("above", [-1, float("nan"), float("inf"), "0.1"])
    def test_a_height_is_no_less_than_nothing(self, curve, above):
        with pytest.raises(ravine.InputError, match="above must be 0 or larger"):
            metrics.decide(curve, "barrier", above=above)

    @pytest.mark.parametrize("level", [0, 0.5, "5 %", None])
    def test_a_level_is_a_number(self, curve, level):
        with pytest.raises(ravine.InputError, match="level must be a number"):
            metrics.decide(curve, "barrier", level=level)

    @pytest.mark.parametrize("result", [None, {}, "curve.nc", 3], ids=repr)
    def test_a_result_is_a_dataset(self, result):
        for ask in (metrics.verdict, lambda given: metrics.decide(given, "barrier")):
            with pytest.raises(ravine.InputError, match="expected a ravine result"):
                ask(result)

    def test_few_examples_speak_of_themselves(self):
        J = of_model(single(lambda w: torch.sin(3 * w)), (torch.zeros(2, 1),))
        along = ravine.Line(point(0.0), point(1.0))
        told = metrics.verdict(ravine.evaluate(J, along=along, at=np.linspace(0, 1, 9)))
        assert told.headline.startswith("On these examples the data loss")
        assert "on these examples" in told.findings[0].height
        assert told.findings[0].scope == "examples"

    def test_points_that_are_not_finite_are_counted_among_the_measured(self):
        J = of_model(single(lambda w: w / 0.0), (torch.zeros(20, 1),))
        told = metrics.verdict(ravine.resolve(J, along=ravine.Line(point(1.0), point(2.0))))
        assert "none of its 17 points is finite" in told.headline
