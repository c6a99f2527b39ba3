"""Decisions by simulation: wrong answers as often as the level allows, and right ones where there is something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ravine
from made import ALPHA, bumps, flips, profile_of, rough, varying
from oracles import of_model, point
from ravine import metrics
from ravine.metrics.inference import Changes, decided

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
            ("barrier", {"level": 0}, "level must lie between"),
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

    def test_bad_input(self):
        with pytest.raises(ravine.InputError, match="got 'error'"):
            ravine.compare(self.objective(), point(0.0), point(1.0), quantity="error")
