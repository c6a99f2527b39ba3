import io
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr

from ravine import plot
from ravine.errors import InputError
from ravine.plot.figure import SUFFIXES
from ravine.plot.render import palette, static

MAGIC = {".png": b"\x89PNG\r\n", ".pdf": b"%PDF-", ".svg": b"<?xml", ".html": b"<!DOCTYPE html>"}


def measured(alpha, loss, splits=("train",), *, stderr=0.125, error=None, **attrs):
    """A result of the schema; ``loss`` has a column for each split."""
    alpha = np.asarray(alpha, dtype=float)
    values = {"loss": np.asarray(loss, dtype=float).reshape(alpha.size, len(splits))}
    if error is not None:
        values["error"] = np.asarray(error, dtype=float).reshape(alpha.size, len(splits))
    data = {}
    for name, value in values.items():
        about = {
            "loss": {"long_name": "loss", "units": "nats"},
            "error": {"long_name": "error rate", "units": "1"},
        }
        data[name] = ("alpha", "split"), value, about[name]
        data[f"{name}_stderr"] = (
            ("alpha", "split"),
            np.broadcast_to(stderr, value.shape).astype(float),
        )
    data["n_examples"] = ("split",), np.array([1200, 340, 56, 7][: len(splits)])
    return xr.Dataset(
        data, coords={"alpha": alpha, "split": list(splits)}, attrs={"schema_version": 1, **attrs}
    )


def layers(figure, kind, panel=0):
    return [layer for layer in figure.panels[panel].layers if isinstance(layer, kind)]


def crosses(figure, panel=0):
    return [layer for layer in layers(figure, plot.Markers, panel) if layer.symbol == "cross"]


ALPHA = np.linspace(0, 1, 5)
TWO = measured(ALPHA, np.stack([(1 - ALPHA) ** 2, (1 - ALPHA) ** 2 - 0.5], 1), ("train", "valid"))

AWKWARD = {
    "all NaN": measured(ALPHA, np.full(5, np.nan), stderr=np.nan),
    "all infinite": measured(ALPHA, np.full(5, np.inf), stderr=np.inf),
    "one point": measured([0.5], [2.0]),
    "one NaN point": measured([0.5], [np.nan], stderr=np.nan),
    "no standard error": measured(ALPHA, ALPHA, stderr=np.nan),
    "flat": measured(ALPHA, np.full(5, 1e9), stderr=0),
    "huge": measured(ALPHA, [-1e308, 0, 1e308, 1e308, 1e308], stderr=1e307),
    "gaps": measured(ALPHA, [1, np.nan, 1000, np.inf, -np.inf]),
    "log with a band below zero": measured(ALPHA, np.geomspace(1e-3, 10, 5), stderr=1.0),
    "names as markup": measured(ALPHA, TWO["loss"], ("<b>$\\frac{</b>", "_hidden"), title="<i>$x"),
    "four splits": measured(ALPHA, np.arange(20.0), ("a", "b", "c", "d")),
}


# figures as data


def test_band_is_two_standard_errors_on_either_side_of_the_curve():
    stderr = np.linspace(0.01, 0.2, 10).reshape(5, 2)
    result = measured(ALPHA, TWO["loss"], ("train", "valid"), stderr=stderr)
    for column, band in enumerate(layers(plot.line(result), plot.Band)):
        value = result["loss"].values[:, column]
        np.testing.assert_array_equal(band.low, value - 2 * stderr[:, column])
        np.testing.assert_array_equal(band.high, value + 2 * stderr[:, column])
    assert "± 2 standard errors" in plot.line(result).caption


def test_curves_hold_the_values_and_standard_errors_of_each_split():
    first, second = layers(plot.line(TWO), plot.Curve)
    assert (first.label, second.label) == ("train", "valid")
    assert first.style != second.style
    np.testing.assert_array_equal(second.y, TWO["loss"].sel(split="valid"))
    np.testing.assert_array_equal(second.stderr, TWO["loss_stderr"].sel(split="valid"))


def test_labels_carry_units_and_a_pure_number_has_none():
    figure = plot.line(measured(ALPHA, ALPHA, error=ALPHA))
    assert [panel.y.label for panel in figure.panels] == ["loss (nats)", "error rate"]
    assert {panel.x.label for panel in figure.panels} == {"α"}


def test_an_unknown_quantity_is_drawn_under_its_own_name():
    result = TWO.assign(margin=TWO["loss"].drop_attrs(), margin_stderr=TWO["loss_stderr"])
    assert plot.line(result).panels[1].y.label == "margin"


def test_one_curve_needs_no_legend_and_the_caption_names_its_split():
    figure = plot.line(TWO, splits="valid")
    assert [curve.label for curve in layers(figure, plot.Curve)] == [""]
    assert "valid (340)" in figure.caption


def test_points_in_any_order_come_out_sorted_with_their_values():
    order = [3, 0, 4, 1, 2]
    shuffled, sorted_ = plot.line(TWO.isel(alpha=order)), plot.line(TWO)
    for kind, fields in ((plot.Curve, ("x", "y", "stderr")), (plot.Band, ("x", "low", "high"))):
        for left, right in zip(layers(shuffled, kind), layers(sorted_, kind), strict=True):
            for field in fields:
                np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 1.01 * 10**2.5], "log"),
        ([1, 0.99 * 10**2.5], "linear"),
        ([1e-5, 1], "log"),
        ([0, 1e6], "linear"),
        ([-1e-9, 1e6], "linear"),
        ([np.nan, 1, 1e6], "log"),
        ([1, np.inf], "linear"),
        ([1e-6], "linear"),
    ],
)
def test_scale_is_logarithmic_exactly_beyond_two_and_a_half_positive_decades(values, scale):
    figure = plot.line(measured(np.arange(len(values)), values))
    assert figure.panels[0].y.scale == scale
    assert ("Logarithmic scale: loss (nats)" in figure.caption) == (scale == "log")


def test_all_values_lie_within_the_limits():
    for result in AWKWARD.values():
        for panel in plot.line(result).panels:
            low, high = panel.y.limits
            y = np.concatenate([layer.y for layer in panel.layers if isinstance(layer, plot.Curve)])
            assert np.isfinite([low, high]).all()
            assert low < high
            inside = np.abs(y) <= 1e300
            assert ((low <= y[inside]) & (y[inside] <= high)).all()


def test_values_that_are_not_finite_leave_a_gap_and_a_cross():
    figure = plot.line(measured(ALPHA, [1, np.nan, 2, np.inf, -np.inf]))
    (curve,), (lost,) = layers(figure, plot.Curve), crosses(figure)
    np.testing.assert_array_equal(curve.y, [1, np.nan, 2, np.nan, np.nan])
    np.testing.assert_array_equal(lost.x, [0.25, 0.75, 1])
    np.testing.assert_array_equal(lost.y, [0, 1, 0])
    assert (lost.frame, lost.label) == ("panel", "not finite")
    assert lost.hover == ("train: nan", "train: inf", "train: -inf")
    assert "not finite" in figure.caption
    assert not crosses(plot.line(TWO))


def test_curves_lost_at_the_same_place_share_a_cross_that_names_both():
    figure = plot.line(measured(ALPHA[:2], [[1, 1], [np.nan, np.nan]], ("train", "valid")))
    assert [mark.hover for mark in crosses(figure)] == [("train: nan, valid: nan",)]


def test_many_points_have_no_dots_except_a_lone_one_between_gaps():
    alpha, loss = np.linspace(0, 1, 60), np.ones(60)
    assert not layers(plot.line(measured(alpha, loss)), plot.Markers)
    assert len(layers(plot.line(measured(alpha[:-1], loss[:-1])), plot.Markers)[0].x) == 59
    loss[[29, 31]] = np.nan
    dots = next(
        m for m in layers(plot.line(measured(alpha, loss)), plot.Markers) if m.symbol == "dot"
    )
    np.testing.assert_array_equal(dots.x, alpha[[30]])


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["start", "end"]),
        (-0.5, 1.5, ["start", "end"]),
        (0, 0.5, ["start"]),
        (0.25, 0.75, []),
    ],
)
def test_start_and_end_are_marked_where_they_are_in_view(low, high, labels):
    rules = layers(plot.line(measured(np.linspace(low, high, 5), ALPHA)), plot.Rule)
    assert [rule.label for rule in rules] == labels
    assert all(rule.at == {"start": 0, "end": 1}[rule.label] for rule in rules)


def test_lines_puts_one_split_of_several_results_into_one_panel():
    other = measured(np.linspace(-1, 2, 7), np.arange(7.0), ("valid",))
    figure = plot.lines({"there": TWO, "back": other}, split="valid")
    assert [curve.label for curve in layers(figure, plot.Curve)] == ["there", "back"]
    np.testing.assert_array_equal(layers(figure, plot.Curve)[1].y, np.arange(7.0))
    assert len(figure.panels) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plot.line(TWO, "accuracy"), ["accuracy", "loss"]),
        (lambda: plot.line(TWO, splits=["test"]), ["test", "train", "valid"]),
        (lambda: plot.line(TWO, []), ["quantity", "none"]),
        (lambda: plot.line(TWO.expand_dims(beta=3)), ["not a line", "beta"]),
        (lambda: plot.line(TWO.isel(alpha=slice(0))), ["no points"]),
        (lambda: plot.line(xr.Dataset()), ["not a ravine result"]),
        (lambda: plot.lines({}), ["no curve"]),
        (lambda: plot.lines({"there": TWO}, split="test"), ["test", "train"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)


# files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_gives_a_file_of_its_kind(tmp_path, suffix):
    path = plot.line(measured(ALPHA, ALPHA, error=ALPHA)).save(
        tmp_path / "new" / f"figure{suffix.upper()}"
    )
    assert path.read_bytes().startswith(MAGIC[suffix])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_awkward_results_are_drawn_on_paper(name, suffix):
    assert plot.line(AWKWARD[name])._encoded(suffix[1:]).startswith(MAGIC[suffix])


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_results_are_drawn_on_screen(name):
    figure = plot.line(AWKWARD[name])
    sheet = figure.to_plotly()
    assert len(sheet.data) == len(figure.panels[0].layers) - len(layers(figure, plot.Rule))
    assert sheet.to_json()


@pytest.mark.parametrize("name", ["figure.gif", "figure", ".png.d/figure.jpeg"])
def test_another_suffix_is_refused_with_the_four(tmp_path, name):
    with pytest.raises(InputError, match=r"\.png, \.pdf, \.svg or \.html"):
        plot.line(TWO).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_cannot_be_written_is_refused_and_left_alone(tmp_path, suffix):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match="cannot write"):
        plot.line(TWO).save(blocked / f"figure{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert blocked.read_text() == "not a folder"


def test_a_target_that_is_a_folder_is_refused_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "figure.svg").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        plot.line(TWO).save(tmp_path / "figure.svg")
    assert [file.name for file in tmp_path.iterdir()] == ["figure.svg"]


# paper


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_figure_gives_the_same_bytes(kind):
    assert plot.line(TWO)._encoded(kind) == plot.line(TWO)._encoded(kind)


def test_text_in_an_svg_stays_text():
    text = plot.line(TWO)._encoded("svg").decode()
    assert ">loss (nats)</text>" in text
    assert ">train</text>" in text
    assert "± 2 standard errors" in text


def test_one_panel_is_a_column_wide_and_two_are_a_page_wide():
    assert plot.line(TWO).to_matplotlib().get_figwidth() == static.COLUMN_WIDTH
    assert (
        plot.line(measured(ALPHA, ALPHA, error=ALPHA)).to_matplotlib().get_figwidth()
        == static.PAGE_WIDTH
    )


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    plot.line(TWO)._encoded("png")
    assert dict(matplotlib.rcParams) == before


def test_a_gap_is_a_gap_on_paper():
    sheet = plot.line(measured(ALPHA, [1, np.nan, 2, 3, 4])).to_matplotlib()
    heights = [np.asarray(stroke.get_ydata(), dtype=float) for stroke in sheet.axes[0].lines]
    assert any(np.array_equal(y, [1, np.nan, 2, 3, 4], equal_nan=True) for y in heights)


def test_legend_shows_every_name_as_it_is_written():
    result = AWKWARD["names as markup"]
    (legend,) = plot.line(result).to_matplotlib().legends
    assert [text.get_text() for text in legend.get_texts()] == list(result["split"].values)
    assert not plot.line(result, splits="_hidden").to_matplotlib().legends


def test_a_picture_is_not_empty():
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(plot.line(TWO)._encoded("png")))
    assert pixels.shape[1] == static.COLUMN_WIDTH * static.DOTS_PER_INCH
    blue = np.array([int(palette.colour(0)[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    assert (np.abs(pixels[..., :3] - blue).max(axis=-1) < 0.02).sum() > 100


# screen


def test_hovering_tells_each_value_with_its_standard_error():
    curve = next(trace for trace in plot.line(TWO).to_plotly().data if trace.name == "valid")
    assert "±" in curve.hovertemplate
    np.testing.assert_array_equal(curve.customdata, TWO["loss_stderr"].sel(split="valid"))
    np.testing.assert_array_equal(curve.y, TWO["loss"].sel(split="valid"))


def test_hovering_names_the_position_of_every_value_where_curves_have_gaps():
    gappy = plot.line(AWKWARD["gaps"]).to_plotly()
    assert any("at α = %{x" in (trace.hovertemplate or "") for trace in gappy.data)
    assert not any(
        "at α = %{x" in (trace.hovertemplate or "") for trace in plot.line(TWO).to_plotly().data
    )


def test_a_band_with_a_gap_is_two_outlines():
    sheet = plot.line(measured(ALPHA, [1, 1, np.nan, 1, 1])).to_plotly()
    band = next(trace for trace in sheet.data if trace.fill)
    np.testing.assert_array_equal(band.x, [0, 0.25, 0.25, 0, np.nan, 0.75, 1, 1, 0.75])
    np.testing.assert_array_equal(band.y, [0.75, 0.75, 1.25, 1.25, np.nan, 0.75, 0.75, 1.25, 1.25])


def test_rules_are_drawn_on_screen():
    sheet = plot.line(TWO).to_plotly()
    assert sorted(shape.x0 for shape in sheet.layout.shapes) == [0, 1]
    assert {note.text for note in sheet.layout.annotations} == {"start", "end"}


def test_names_are_never_markup_on_screen(tmp_path):
    names = [trace.name for trace in plot.line(AWKWARD["names as markup"]).to_plotly().data]
    assert "&lt;b&gt;$\\frac{&lt;/b&gt;" in names
    page = (
        plot.line(AWKWARD["names as markup"])
        .save(tmp_path / "figure.html")
        .read_text(encoding="utf-8")
    )
    assert "<h1>&lt;i&gt;$x</h1>" in page
    assert "<b>$" not in page


# imports


def test_describing_a_figure_imports_no_renderer_and_no_torch():
    source = Path(plot.__file__).parents[2]
    code = (
        "import sys, ravine.plot, ravine.plot.figure\n"
        "loaded = {'matplotlib', 'plotly', 'torch', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(loaded)}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_figure_in_a_notebook_is_a_picture_with_its_caption():
    panel = plot.Panel(plot.Axis("x"), plot.Axis("y"), (plot.Curve(ALPHA, ALPHA),))
    page = plot.Figure((panel,), "a <title>", "a <caption>")._repr_html_()
    assert page.startswith('<figure><img src="data:image/png;base64,')
    assert "a &lt;caption&gt;" in page
    assert "<title>" not in page
    assert repr(plot.Figure((panel,), "t")) == "Figure('t', 1 panel)"
