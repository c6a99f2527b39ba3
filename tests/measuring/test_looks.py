"""As few examples as an answer needs, and no more wrong answers than were allowed."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import ravine
from oracles import of_model, point
from ravine import metrics
from ravine.measuring.looks import sizes

LINE = ravine.Line(point(0.0), point(1.0))
ABOVE = 0.1


def barrier_of(height, noise, **policies):
    """J = height · sin²(πα) on average; each example has a slope, a bend and a bump of its own."""
    rows = torch.as_tensor(noise, dtype=torch.float64)

    def per_example(model, batch):
        a = model.w[0]
        bump = torch.sin(torch.pi * a) ** 2
        own = batch[0]
        return 1 + (height + own[:, 0]) * bump + own[:, 1] * a + own[:, 2] * a * a

    return of_model(per_example, rows, **policies)


def noise_of(kind, count, seed):
    """(count, 3) numbers with mean 0 and a spread of 0.5."""
    stream = np.random.default_rng(seed)
    if kind == "normal":
        return 0.5 * stream.normal(size=(count, 3))
    if kind == "heavy":
        return 0.5 * stream.standard_t(3, size=(count, 3)) / 3**0.5
    if kind == "lopsided":
        return 0.5 * (stream.lognormal(0, 1, size=(count, 3)) - np.exp(0.5)) / 2.16
    rows = 0.5 * stream.normal(size=(count, 3))
    return rows[np.argsort(rows[:, 0])]  # sorted: the first examples have the lowest bumps


def seen(curve):
    return int(curve["n_examples"].item())


def asked(J, what="barrier", **options):
    curve = ravine.resolve(J, along=LINE, decide=what, above=ABOVE, **options)
    return curve, metrics.decide(curve, what, above=ABOVE)


class TestDecide:
    def test_looks_grow_fourfold_up_to_all(self):
        assert sizes(50_000) == [500, 2000, 8000, 50_000]
        assert sizes(4000) == [500, 2000, 4000]
        assert sizes(999) == [999]
        assert sizes(1) == [1]

    @pytest.mark.parametrize(("height", "answer"), [(0.6, "shown"), (0.0, "excluded")])
    def test_a_clear_answer_takes_few_examples(self, height, answer):
        J = barrier_of(height, noise_of("normal", 20_000, 0))
        curve, found = asked(J)
        assert found.answer == answer
        assert seen(curve) == 500
        assert curve.attrs["looks"] == 1
        assert json.loads(curve.attrs["examples_of"]) == {"data": 20_000}
        assert json.loads(curve.attrs["asked"]) == {
            "what": "barrier",
            "above": ABOVE,
            "level": 0.05,
        }
        # 500 of 20,000 examples at as many points as a whole curve takes
        whole = ravine.resolve(J, along=LINE)
        assert 500 * curve.sizes["alpha"] < 0.05 * 20_000 * whole.sizes["alpha"]

    def test_a_close_one_takes_more(self):
        J = barrier_of(1.25 * ABOVE, noise_of("normal", 20_000, 1))
        curve, found = asked(J)
        assert found.answer == "shown"
        assert 500 < seen(curve) <= 20_000

    def test_what_is_not_answered_has_seen_all(self):
        J = barrier_of(ABOVE, noise_of("normal", 4000, 2))
        curve, found = asked(J)
        assert found.answer == "undecided"
        assert seen(curve) == 4000
        assert curve.attrs["looks"] == 3

    def test_decide_keeps_the_level_of_the_looks(self, tmp_path):
        """What is asked of the result later has the share of the level that its look had."""
        J = barrier_of(0.3, noise_of("normal", 20_000, 3))
        curve, found = asked(J, level=0.2)
        ravine.save_result(curve, tmp_path / "asked.nc")
        again = ravine.open_result(tmp_path / "asked.nc")
        for result in (curve, again):
            repeated = metrics.decide(result, "barrier", above=ABOVE, level=0.2)
            alone = metrics.decide(
                result.assign_attrs(level_share=1.0), "barrier", above=ABOVE, level=0.2 / 4
            )
            assert repeated.level == 0.2
            assert (repeated.lower, repeated.upper) == (alone.lower, alone.upper)
            assert repeated.p == pytest.approx(min(1.0, 4 * alone.p))
        assert found.answer == "shown"

    def test_all_examples_of_a_small_set_are_one_look_at_the_whole_level(self):
        J = barrier_of(0.6, noise_of("normal", 700, 4))
        curve, found = asked(J)
        assert curve.attrs["level_share"] == 1.0
        plain = metrics.decide(ravine.resolve(J, along=LINE), "barrier", above=ABOVE)
        assert found.answer == plain.answer == "shown"
        assert found.lower == pytest.approx(plain.lower, abs=ABOVE / 4)

    def test_data_in_any_order_give_a_fair_part(self):
        """The first 500 of sorted examples would show what is not there."""
        noise = noise_of("sorted", 20_000, 5)
        assert abs(noise[:500, 0].mean()) > 0.5
        _, found = asked(barrier_of(0.0, noise))
        assert found.answer == "excluded"

    @pytest.mark.parametrize("height", [0.99 * ABOVE, 1.01 * ABOVE])
    def test_wrong_answers_are_rare(self, height):
        """A small part of the calibration below, where a wrong answer has 1 chance in 20."""
        wrong = sum(wrong_answers(kind, height, range(2), 3000) for kind in ("heavy", "sorted"))
        assert wrong <= 2  # 3 of 4 have a chance of 5e-4

    @pytest.mark.calibration
    @pytest.mark.parametrize("kind", ["normal", "heavy", "lopsided", "sorted"])
    def test_the_level_is_kept_over_all_looks(self, kind):
        repeats = range(250)
        wrong = {
            height: wrong_answers(kind, height, repeats, 9000)
            for height in (0.99 * ABOVE, 1.01 * ABOVE)
        }
        print(f"\n{kind}: {wrong} wrong of {len(repeats)} each")  # noqa: T201
        assert max(wrong.values()) <= 250 * 0.05 + 2 * (250 * 0.05 * 0.95) ** 0.5


def wrong_answers(kind, height, seeds, count):
    """In how many draws a barrier just below ``ABOVE`` is said above it, or one above is not."""
    wrong = 0
    lie = "shown" if height < ABOVE else "excluded"
    for seed in seeds:
        _, found = asked(barrier_of(height, noise_of(kind, count, 100 + seed)), level=0.05)
        wrong += found.answer == lie
    return wrong


class TestStderr:
    def test_as_many_examples_as_it_needs(self):
        J = barrier_of(0.3, noise_of("normal", 50_000, 0))
        curve = ravine.resolve(J, along=LINE, stderr=0.01)
        # at α = 1 the difference is u₁ + u₂, of variance 0.5; at the top the bump's adds 0.25
        needed = 0.5 / 0.01**2
        assert needed < seen(curve) < 1.6 * needed
        assert curve.attrs["stderr_reached"] <= 0.01
        assert curve.attrs["stderr_asked"] == 0.01
        told = (
            r"J\(start\) is at most 0\.0\d+ \(requested: 0\.01\), with \d,\d+ of 50,000 data "
            "examples"
        )
        assert re.search(told, str(metrics.verdict(curve)))
        profile = metrics.Profile.of(curve)
        apart = (profile.drawn - profile.drawn[0]).std(axis=1, ddof=1)
        assert apart.max() == pytest.approx(curve.attrs["stderr_reached"])

    def test_where_all_do_not_suffice_it_says_what_was_reached(self):
        J = barrier_of(0.3, noise_of("normal", 1500, 0))
        curve = ravine.resolve(J, along=LINE, stderr=1e-4)
        assert seen(curve) == 1500
        assert curve.attrs["stderr_reached"] > 1e-3
        np.testing.assert_array_equal(curve["loss"], ravine.resolve(J, along=LINE)["loss"])

    def test_each_split_has_its_own_number(self):
        model = torch.nn.Linear(1, 1, bias=False)
        stream = torch.Generator().manual_seed(0)
        calm, wild = (
            (torch.ones(30_000, 1), spread * torch.randn(30_000, 1, generator=stream))
            for spread in (0.2, 1.0)
        )
        J = ravine.Objective(
            model, ravine.supervised(torch.nn.functional.mse_loss), {"calm": calm, "wild": wild}
        )
        line = ravine.Line({"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[1.0]])})
        curve = ravine.resolve(J, along=line, stderr=0.02)
        few, many = curve["n_examples"].values
        assert few == 500
        # the difference at the end is 1 − 2 y, of variance 4
        assert 4 / 0.02**2 < many < 1.6 * 4 / 0.02**2


BAD = {
    "no height": ({"decide": "barrier"}, "needs the height that is asked about"),
    "no question": ({"above": 0.1}, "give decide='barrier', say, too"),
    "another question": ({"decide": "saddle", "above": 0.1}, "decide must be one of 'barrier'"),
    "a negative height": ({"decide": "rise", "above": -1.0}, "above must be 0 or larger"),
    "no height at all": ({"decide": "rise", "above": 0}, "above must be larger than 0"),
    "a level that is none": ({"decide": "rise", "above": 0.1, "level": 0.5}, "level must be"),
    "both": ({"decide": "rise", "above": 0.1, "stderr": 0.1}, "give one of them"),
    "no error": ({"stderr": 0.0}, "stderr must be a positive number"),
    "no number": ({"stderr": float("nan")}, "stderr must be a positive number"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_what_makes_no_sense_is_refused(case):
    options, reason = BAD[case]
    with pytest.raises(ravine.InputError, match=reason):
        ravine.resolve(barrier_of(0.3, noise_of("normal", 20, 0)), along=LINE, **options)


def test_planes_workers_and_streams_are_refused():
    J = barrier_of(0.3, noise_of("normal", 20, 0))
    plane = ravine.Plane(point(0.0, 0.0), point(1.0, 0.0), point(0.0, 1.0))
    with pytest.raises(ravine.InputError, match="decide= is for lines"):
        ravine.resolve(J, along=plane, decide="barrier", above=0.1)
    with pytest.raises(ravine.InputError, match="which workers do not have"):
        ravine.resolve(J, along=LINE, stderr=0.1, executor=object())
    stream = ravine.Objective(
        J.model, J.per_example, [(torch.zeros(4, 3, dtype=torch.float64),)] * 3
    )
    with pytest.raises(ravine.InputError, match="cannot be drawn one by one"):
        ravine.resolve(stream, along=LINE, decide="barrier", above=0.1)


def test_too_few_examples_have_no_standard_error():
    with pytest.raises(ravine.InputError, match="standard error on split 'data' is not known"):
        ravine.resolve(barrier_of(0.3, noise_of("normal", 1, 0)), along=LINE, stderr=0.1)
