"""Measures against curves whose answer can be read off, and verdicts that say no more."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from ravine import InputError, metrics


def curve(function, alpha=None, *, floor=1e-12, splits=("train",), examples=None, quantity="loss"):
    """A result: γ(α) = function(α), or values (examples, points) whose mean it is."""
    alpha = np.linspace(0, 1, 201) if alpha is None else np.asarray(alpha, dtype=float)
    value = np.asarray(function(alpha), dtype=float)
    dims = ("alpha", "split")
    shape = (len(alpha), len(splits))
    replicates = np.zeros((*shape, 64), dtype=np.float32)
    stderr = np.zeros(shape)
    n = 1000
    if examples is not None:
        n = len(examples)
        value = examples.mean(0)
        member = np.random.default_rng(0).integers(0, 2, (n, 64)).astype(float)
        replicates[:, 0] = (examples.T @ member) / member.sum(0) - value[:, None]
        stderr[:, 0] = examples.std(0, ddof=1) / n**0.5
    filled = np.repeat(value[:, None], len(splits), 1)
    variables = {}
    for name in dict.fromkeys(["loss", quantity]):
        variables[name] = (
            dims,
            filled,
            {"long_name": name, "units": "nats" if name == "loss" else "1"},
        )
        variables[f"{name}_stderr"] = (dims, stderr)
        variables[f"{name}_replicates"] = ((*dims, "replicate"), replicates)
        variables[f"{name}_noise_floor"] = (dims, np.full(shape, floor))
    variables["n_examples"] = (("split",), np.full(len(splits), n))
    return xr.Dataset(
        variables,
        coords={"alpha": alpha, "split": np.array(splits, dtype=np.str_)},
        attrs={"schema_version": 1, "title": "", "start": "a.pt", "end": "b.pt"},
    )


def test_the_three_barriers_of_a_tilted_bump():
    bump = curve(lambda a: 1 + a + 4 * a * (1 - a))  # γ(0) = 1, γ(1) = 2, top at 5/8
    assert metrics.barrier(bump, "end").value == pytest.approx(1 + 5 / 8 + 15 / 16 - 2, abs=1e-12)
    assert metrics.barrier(bump, "mean").value == pytest.approx(
        1 + 5 / 8 + 15 / 16 - 1.5, abs=1e-12
    )
    assert metrics.barrier(bump, "chord").value == pytest.approx(1, abs=1e-12)
    assert metrics.barrier(bump, "end").at == pytest.approx(0.625)
    assert metrics.barrier(bump, "chord").at == pytest.approx(0.5)


def test_a_barrier_at_negative_losses_and_outside_of_which_nothing_counts():
    bump = curve(
        lambda a: -10 + 3 * np.exp(-(((a - 0.25) / 0.05) ** 2)) + 100 * (a > 1) + 100 * (a < 0),
        np.linspace(-1, 2, 601),
    )
    found = metrics.barrier(bump)
    assert (found.value, found.at) == (pytest.approx(3, abs=1e-9), pytest.approx(0.25))


def test_no_barrier_on_a_descent():
    down = curve(lambda a: np.exp(-5 * a))
    assert metrics.barrier(down).value == 0
    assert np.isnan(metrics.barrier(down).at)
    assert metrics.barrier(down, "chord").value == 0
    assert metrics.barrier(down, "mean").value == pytest.approx((1 - np.exp(-5)) / 2)


@pytest.mark.parametrize("kind", ["END", "max", None])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(InputError, match="kind must be one of"):
        metrics.barrier(curve(lambda a: a), kind)


def test_the_worst_rise_its_foot_top_and_width():
    """To 1 at 0.2, up to 1.5 at 0.3, through 1 at 0.4, to 0 at 0.6, up by 0.3 at the very end."""
    places, heights = [0, 0.2, 0.3, 0.4, 0.6, 1], [2, 1, 1.5, 1, 0, 0.3]
    found = metrics.rise(curve(lambda a: np.interp(a, places, heights), np.linspace(0, 1, 101)))
    assert found.height.value == pytest.approx(0.5)
    assert (found.foot, found.height.at) == (pytest.approx(0.2), pytest.approx(0.3))
    assert found.width.value == pytest.approx(0.2)
    assert found.returns


@pytest.mark.parametrize(
    ("heights", "rise"), [([3, 2, 1, 1.5], 0.5), ([1, 2], 1), ([3, 2, 1], 0), ([5], 0)]
)
def test_a_rise_in_the_last_step_counts(heights, rise):
    found = metrics.rise(curve(lambda a: heights, np.linspace(0, 1, len(heights))))
    assert found.height.value == rise
    assert found.returns == (rise == 0)


def test_minima_with_their_prominence_also_outside():
    alpha = np.linspace(-0.5, 1.5, 401)
    found = metrics.minima(curve(lambda a: (a**2 - a) ** 2 - 0.01 * a, alpha))
    assert [m.value.at for m in found] == pytest.approx([1.005, 0.005], abs=0.0051)
    deep, shallow = found
    assert deep.value.value < shallow.value.value
    top = ((0.5**2 - 0.5) ** 2) - 0.005
    assert shallow.prominence.value == pytest.approx(top - shallow.value.value, rel=1e-2)


def test_a_minimum_is_not_taken_for_its_twin():
    """Examples lean to either side: half-samples disagree which of two equal minima is deeper."""
    alpha = np.linspace(-1.5, 1.5, 301)
    lean = np.linspace(-1, 1, 400)[:, None]
    found = metrics.minima(
        curve(lambda a: a, alpha, examples=(alpha**2 - 1) ** 2 + 0.3 * lean * alpha)
    )
    assert sorted(minimum.value.at for minimum in found) == pytest.approx([-1, 1], abs=0.01)
    assert all(minimum.value.at_stderr < 0.02 for minimum in found)


def test_a_minimum_before_lower_ground_is_where_it_is():
    (found,) = metrics.minima(
        curve(lambda a: (a - 0.3) ** 2 * (a - 1) ** 2 - 0.02 * a, np.linspace(0, 1, 1001))
    )
    root = min(np.roots(np.polyder(np.polysub([1, -2.6, 2.29, -0.78, 0.09], [0.02, 0]))).real)
    assert found.value.at == pytest.approx(root, abs=1e-3)


def test_no_minimum_below_the_noise_floor():
    wiggle = curve(lambda a: a + 1e-7 * np.cos(2000 * a), floor=1e-7)
    assert metrics.minima(wiggle, prominence=0) == []
    # too shallow to turn
    assert (
        len(metrics.minima(curve(lambda a: a + 1e-7 * np.cos(2000 * a), floor=1e-12), prominence=0))
        == 0
    )
    assert (
        metrics.minima(
            curve(lambda a: 1e-4 * a + 1e-5 * np.cos(100 * a), floor=1e-12), prominence=0
        )
        != []
    )
    assert (
        metrics.minima(curve(lambda a: 1e-4 * a + 1e-5 * np.cos(100 * a), floor=1e-4), prominence=0)
        == []
    )


def test_convexity_of_known_shapes():
    assert metrics.convexity(curve(lambda a: (a - 0.3) ** 2)).share.value == 1
    assert metrics.convexity(curve(lambda a: -((a - 0.3) ** 2))).share.value == 0
    cubic = metrics.convexity(curve(lambda a: (a - 0.25) ** 3, floor=1e-15))
    assert cubic.share.value == pytest.approx(0.75, abs=0.01)
    assert cubic.concave[0] == (pytest.approx(0.01, abs=0.006), pytest.approx(0.25, abs=0.011))
    assert metrics.convexity(curve(lambda a: a * (1 - a))).excess.value == pytest.approx(
        1 / 6, rel=1e-4
    )
    assert metrics.convexity(curve(lambda a: a**2)).excess.value == 0


def test_convexity_does_not_depend_on_the_resolution():
    shares = [
        metrics.convexity(curve(lambda a: np.cos(3 * a), np.linspace(0, 1, n))).share.value
        for n in (101, 1001, 20001)
    ]
    assert np.ptp(shares) < 0.02
    assert shares[0] == pytest.approx(1 - np.pi / 6, abs=0.02)


def test_plateau_and_half_drop_of_a_known_fall():
    fall = curve(lambda a: np.minimum(2, 4 * (1 - a)))  # flat until ½, then straight down
    assert metrics.plateau(fall).value == pytest.approx(0.55)
    assert metrics.plateau(fall, share=0.5).value == pytest.approx(0.75)
    assert metrics.half_drop(fall).value == pytest.approx(0.75)
    assert np.isnan(metrics.plateau(curve(lambda a: a)).value)
    assert np.isnan(metrics.half_drop(curve(lambda a: 4 * a * (1 - a) - 0.01 * a)).value)


def test_standard_errors_are_paired():
    """Every example has the same bump plus a constant: the barrier is certain, the ends are not."""
    rng = np.random.default_rng(1)
    alpha = np.linspace(0, 1, 51)
    bump = np.sin(np.pi * alpha)
    examples = bump + rng.normal(0, 5, (4000, 1))
    shifted = metrics.barrier(curve(lambda a: bump, alpha, examples=examples))
    assert shifted.value == pytest.approx(1)
    assert shifted.stderr < 1e-6
    scaled = bump * (1 + rng.normal(0, 2, (4000, 1)))
    found = metrics.barrier(curve(lambda a: bump, alpha, examples=scaled))
    assert found.stderr == pytest.approx(2 / 4000**0.5, rel=4 / (2 * 63) ** 0.5)


def test_standard_errors_cover_repeated_draws():
    """Barriers of 100 data sets scatter as the standard error of one of them says, position too."""
    alpha = np.linspace(0, 1, 401)

    def draw(seed):
        rng = np.random.default_rng(seed)
        centre, height = rng.normal(0.5, 0.1, (500, 1)), rng.normal(1, 0.5, (500, 1))
        return curve(lambda a: a, alpha, examples=height * np.exp(-(((alpha - centre) / 0.3) ** 2)))

    found = [metrics.barrier(draw(seed)) for seed in range(100)]
    heights = np.array([f.value for f in found])
    assert np.mean([f.stderr for f in found]) == pytest.approx(heights.std(ddof=1), rel=0.3)
    places = np.array([f.at for f in found])
    assert np.mean([f.at_stderr for f in found]) == pytest.approx(
        places.std(ddof=1), rel=0.5, abs=0.005
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_undefined_not_smoothed(bad):
    broken = curve(lambda a: np.where(np.abs(a - 0.5) < 0.1, bad, 1 - a))
    for measure in (metrics.barrier, metrics.plateau, metrics.half_drop):
        assert np.isnan(measure(broken).value)
    assert np.isnan(metrics.rise(broken).height.value)
    found = metrics.verdict(broken)
    assert "undefined" in found.headline
    assert "the first at α = 0.4" in found.headline
    assert found.measures["train", "loss"].monotone is None
    outside = curve(lambda a: np.where(a > 1.2, bad, 1 - a), np.linspace(0, 1.5, 301))
    assert metrics.verdict(outside).measures["train", "loss"].monotone is True


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda a: 2 * np.exp(-5 * a), "falls monotonically from 2 to"),
        (lambda a: 2 * np.exp(5 * a), "rises monotonically from 2 to"),
        (lambda a: np.exp(-5 * a) + 4e-4 * np.sin(200 * a), "(largest rise 0.0"),
        (lambda a: 1 + np.sin(np.pi * a), "The train loss has a barrier of 1 nats"),
        (lambda a: 2 - a - 0.3 * np.sin(12 * a), "not monotonically"),
        (lambda a: 0 * a + 3, "is flat"),
    ],
)
def test_headlines_say_what_the_curve_does(function, said):
    assert said in metrics.verdict(curve(function)).headline


def test_a_verdict_holds_at_a_stated_resolution_and_tolerance():
    found = metrics.verdict(curve(lambda a: 1 - a - 0.05 * np.sin(30 * a)))
    assert "not monotonically" in found.headline
    lenient = metrics.verdict(curve(lambda a: 1 - a - 0.05 * np.sin(30 * a)), tolerance=0.05)
    assert "falls monotonically" in lenient.headline
    assert "below 0.0476" in lenient.headline
    assert "201 points" in lenient.sentences[-1]
    assert "A bump is a rise of more than 0.048 nats" in lenient.sentences[-1]
    assert "1,000 train examples" in lenient.sentences[-1]


def test_noise_under_the_floor_is_no_bump():
    noise = np.random.default_rng(0).normal(0, 1e-7, 201)
    assert (
        "falls monotonically"
        in metrics.verdict(curve(lambda a: 1 - a + noise * (a > 0.9) * 10, floor=4e-6)).headline
    )
    assert (
        metrics.verdict(curve(lambda a: 0 * a + 1 + noise, floor=1e-6))
        .measures["train", "loss"]
        .has_barrier
        is False
    )


def test_a_zoom_is_judged_on_what_it_covers():
    zoom = metrics.verdict(curve(lambda a: 1 - a, np.linspace(0.99, 1, 200)))
    assert "over the measured part α = 0.99 to 1" in zoom.headline
    assert np.isnan(zoom.measures["train", "loss"].barriers["end"].value)
    outside = metrics.verdict(curve(lambda a: a, np.linspace(2, 3, 5)))
    assert "was not measured between" in outside.headline
    single = metrics.verdict(curve(lambda a: a, [0.5]))
    assert "single point" in single.sentences[-1]


def test_every_quantity_on_every_split_has_its_sentence_and_rows():
    found = metrics.verdict(curve(lambda a: 1 - a, splits=("train", "valid"), quantity="error"))
    assert {(row.split, row.quantity) for row in found.rows} == {
        (s, q) for s in ("train", "valid") for q in ("loss", "error")
    }
    text = str(found)
    for name in ("train loss", "valid loss", "train error rate", "valid error rate"):
        assert name in text
    measures = {row.measure for row in found.rows}
    assert {
        "barrier (end)",
        "barrier (mean)",
        "barrier (chord)",
        "largest rise",
        "half-drop position",
        "plateau",
    } <= measures


def test_results_that_are_no_line_are_refused():
    plane = curve(lambda a: a).expand_dims(beta=[0.0, 1.0])
    with pytest.raises(InputError, match="beta"):
        metrics.barrier(plane)
    with pytest.raises(InputError, match="not a ravine result"):
        metrics.verdict(xr.Dataset({"x": 1}))
    with pytest.raises(InputError, match="'accuracy'"):
        metrics.barrier(curve(lambda a: a), quantity="accuracy")
    with pytest.raises(InputError, match="'test'"):
        metrics.barrier(curve(lambda a: a), split="test")
