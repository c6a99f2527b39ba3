"""Findings: one word for each quantity and split, at a level that holds for the whole table.

The kind of fault: a sentence that says more than its decision. Siblings tried: a rise that these
examples exclude and others do not; an unresolved piece; a 0-1 quantity read between its points; a
bounded quantity with lopsided differences; many rows of which one is shown by chance; groups of
parameters whose lines have no barrier.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ravine
from made import ALPHA, flips, profile_of, rough
from ravine import InputError, metrics
from ravine.metrics.findings import findings_of
from ravine.metrics.inference import decided
from ravine.metrics.measures import measures_of, rows_of

NOISE = rough(5)


def at(weight):
    return {"weight": torch.tensor([[weight]])}


def found(mean, examples=300, noise=NOISE, seed=0):
    values = noise(np.random.default_rng(seed), examples) + mean
    return measures_of(profile_of(values), 1e-3)


@pytest.mark.parametrize(
    ("mean", "finding", "what"),
    [
        (20 * (1 - ALPHA), "falls monotonically", "rise"),
        (20 * ALPHA, "rises monotonically", "fall"),
        (5 * np.sin(np.pi * ALPHA), "barrier", "barrier"),
        (5 - 5 * np.sin(np.pi * ALPHA) - 3 * ALPHA, "not monotone", "rise"),
    ],
)
def test_a_curve_has_one_word_and_the_height_of_what_would_contradict_it(mean, finding, what):
    (row,) = findings_of([found(mean)])
    assert (row.finding, row.what) == (finding, what)
    assert row.lower <= row.value <= row.upper


def test_a_curve_is_called_flat_where_its_examples_do_not_move():
    assert findings_of([found(0 * ALPHA)])[0].finding == "undecided"
    still = profile_of(np.full((300, len(ALPHA)), 2.5))
    assert findings_of([measures_of(still, 1e-3)])[0].finding == "flat"


def test_rows_of_one_table_share_their_level():
    rows = findings_of([found(20 * (1 - ALPHA), seed=seed) for seed in range(4)])
    assert sorted(row.level for row in rows) == pytest.approx([0.05 / n for n in (4, 3, 2, 1)])
    open_ = findings_of([found(0 * ALPHA, seed=seed) for seed in range(4)])
    assert {row.level for row in open_} == {0.05 / 4}  # none was decided, so none is asked at more


@pytest.mark.calibration
def test_a_table_of_flat_truths_shows_nothing_more_often_than_one_row_may():
    wrong = 0
    for seed in range(30):
        rows = findings_of([found(0 * ALPHA, 100, rough(20), 10 * seed + row) for row in range(6)])
        wrong += any(row.finding in ("barrier", "not monotone") for row in rows)
    assert wrong / 30 <= 0.05 + 2.6 * (0.05 * 0.95 / 30) ** 0.5


def test_what_these_examples_exclude_is_not_said_of_others():
    verdict = metrics.verdict(_shallow(0.0))
    assert verdict.headline.startswith("On these examples the data loss falls monotonically")
    assert "for other examples a rise of up to" in verdict.headline
    assert verdict.findings[0].finding == "undecided"
    assert metrics.verdict(_shallow(3.0)).findings[0].finding == "falls monotonically"


def _shallow(slope):
    """J(w) = mean of x_i² w² + slope w, slopes by example: from 0 to 1 it falls on average."""
    torch.manual_seed(0)
    tilt = torch.randn(40, 1)
    tilt -= tilt.mean() + 0.01 + slope
    model = torch.nn.Linear(1, 1, bias=False)
    J = ravine.Objective(model, lambda m, b: m(b[0]).flatten(), (tilt,))
    line = ravine.Line(at(0.0), at(1.0))
    return ravine.evaluate(J, along=line, at=np.linspace(0, 1, 11))


def test_a_count_of_examples_is_judged_at_its_measured_points():
    """Between them it is read monotonically: no reading makes a rise that no two points have."""
    steps = torch.linspace(0.05, 0.95, 40)[:, None]

    def per_example(model, batch):
        moved = model(batch[0] * 0 + 1).flatten()
        return {"loss": (moved - 1) ** 2, "error": (moved < batch[0].flatten()).float()}

    J = ravine.Objective(torch.nn.Linear(1, 1, bias=False), per_example, (steps,))
    curve = ravine.resolve(J, along=ravine.Line(at(0.0), at(1.0)))
    profile = metrics.Profile.of(curve, "error")
    assert np.isin(profile.alpha, curve["alpha"].values).all()
    rise = decided(profile, "rise", scope="examples")
    assert (rise.value, rise.answer) == (0.0, "excluded")


def test_a_bound_on_a_share_is_finite_however_lopsided_and_holds():
    rng = np.random.default_rng(0)
    over = 0
    for _ in range(40):  # a hundredth of the examples flips to wrong along the line
        place = rng.uniform(0, 1, 400)
        wrong = (rng.uniform(size=400) < 0.01)[:, None] & (place[:, None] < ALPHA)
        rise = decided(profile_of(wrong.astype(float)), "rise")
        assert np.isfinite(rise.upper)
        over += rise.upper < 0.01 * 1.0
    assert over / 40 <= 0.05 + 2.6 * (0.05 * 0.95 / 40) ** 0.5


def test_an_error_rate_may_be_undecided_but_is_never_unbounded():
    rise = decided(profile_of(flips(np.random.default_rng(0), 300)), "rise")
    assert 0 <= rise.lower <= rise.upper <= 1


# --- groups of parameters -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def groups():
    """J = mean (a x − 1)² + 4 (b x − 1)² with x = 1: b moved back costs four times a."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)

    def per_example(model, batch):
        x = batch[0]
        return ((model.a(x) - 1) ** 2 + 4 * (model.b(x) - 1) ** 2).flatten()

    torch.manual_seed(0)
    x = 1 + 0.05 * torch.randn(200, 1)
    J = ravine.Objective(Two(), per_example, (x,))
    zero, one = (
        {f"{name}.weight": torch.tensor([[value]]) for name in "ab"} for value in (0.0, 1.0)
    )
    line = ravine.Line(zero, one)
    return ravine.evaluate(J, along=ravine.by_group(line, hold="end"), at=np.linspace(0, 1, 11))


def test_the_group_that_hurts_most_is_named_though_no_line_has_a_barrier(groups):
    assert metrics.shared_end(groups) == "end"
    changes = metrics.end_changes(groups, "end", "loss", "data")
    assert [one.line for one in changes.findings] == ["b", "a"]
    assert [one.finding for one in changes.findings] == ["raises it", "raises it"]
    assert [one.value for one in changes.findings] == pytest.approx([4, 1], abs=0.05)
    assert changes.is_largest
    verdict = metrics.verdict(groups)
    assert verdict.headline.startswith("b changes the data loss most, by 3.9")
    assert "next is a (0.99" in verdict.headline
    assert any("excluded on all 2 lines" in sentence for sentence in verdict.sentences)


def test_equal_groups_are_not_ranked(groups):
    twin = groups.sel(line="b")
    both = groups.copy(deep=True)
    for name in ("loss", "loss_replicates", "loss_stderr"):
        both[name].loc[{"line": "a"}] = twin[name].values
    changes = metrics.end_changes(both, "end", "loss", "data")
    assert not changes.is_largest
    assert "not significantly more than" in metrics.verdict(both).headline


def test_bounds_of_all_groups_hold_together():
    """Simulated: of ten groups that change nothing, one is named in a twentieth of draws."""
    from ravine.metrics import ends
    from ravine.metrics.replicates import Sample

    rng, wrong = np.random.default_rng(0), 0
    for _ in range(60):
        values = rng.normal(size=(200, 1)) + rng.normal(size=(200, len(ALPHA)))
        sample = Sample(profile_of(values).part(slice(0, 11)), joint=False)
        family = sample.against(0, np.arange(1, 11))
        lows = [low for low, _ in ends._bounds(family, sample, 0.05)]
        wrong += max(lows) > 0
    assert wrong / 60 <= 0.05 + 2.6 * (0.05 * 0.95 / 60) ** 0.5


def test_lines_without_a_common_end_have_no_end_changes(groups):
    pair = groups.assign_coords(end_hash=("line", np.array(["x", "y"])))
    assert metrics.shared_end(pair) is None
    with pytest.raises(InputError, match="share one end"):
        ravine.plot.end_changes(pair)


# --- the verdict as an object ---------------------------------------------------------------------


def test_a_verdict_prints_its_table_and_shows_it_in_a_notebook(groups):
    verdict = metrics.verdict(groups)
    lines = str(verdict).splitlines()
    assert lines[0] == verdict.headline
    assert lines[2].split() == ["finding", "height", "[95", "%", "bounds]", "at"]
    assert lines[3].startswith("b: data loss")
    page = verdict._repr_html_()
    assert page.count("<tr>") == 1 + len(verdict.findings)
    assert "<b>b changes" in page
    assert len(repr(verdict)) < 300
    told = verdict.to_dict()["findings"]
    assert [one["finding"] for one in told[:2]] == ["raises it", "raises it"]


def test_text_in_a_notebook_is_escaped(groups):
    named = groups.assign_coords(line=np.array(["<script>", "a"]))
    assert "<script>" not in metrics.verdict(named)._repr_html_()
    for decision in metrics.decide(named, "barrier").values():
        page = decision._repr_html_()
        assert "barrier above" in page
        assert "<script>" not in page
    looked = ravine.inspect({"<script>": torch.zeros(1)}, {"<script>": torch.ones(1)})
    assert "&lt;script&gt;" in looked._repr_html_()
    assert "<script>" not in looked._repr_html_()


def test_no_row_of_a_maximum_claims_what_noise_gives():
    """On flat rough curves the largest rise is some errors high: with bounds, and no ±."""
    rng, high, wrong = np.random.default_rng(3), 0, 0
    for _ in range(12):
        profile = profile_of(rough(20)(rng, 300))
        of = measures_of(profile, 1e-3)
        rows = {row.measure: row for row in rows_of(of)}
        high += of.rise.height.value > 2 * of.rise.height.stderr
        for measure in ("largest rise", "barrier (end)", "barrier (chord)"):
            row = rows[measure]
            assert np.isnan(row.stderr)
            assert row.lower <= row.value <= row.upper
            wrong += row.lower > 0
        assert np.isnan(rows["local minimum 1"].stderr)
    assert high >= 10
    assert wrong <= 3


def test_a_mean_barrier_whose_top_is_an_end_is_one_difference():
    profile = profile_of(rough(20)(np.random.default_rng(4), 300) + 5 * (1 - ALPHA))
    row = next(r for r in rows_of(measures_of(profile, 1e-3)) if r.measure == "barrier (mean)")
    assert row.value == pytest.approx(2.5, abs=0.5)
    assert row.stderr > 0
    assert np.isnan(row.upper)
