import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import xarray as xr

from ravine import metrics, plot
from ravine.errors import InputError
from ravine.metrics.profile import with_error
from ravine.report import write_report
from ravine.result.schema import CORNERS, PROVENANCE
from ravine.result.storage import open_result, save_result
from runs import seen
from sketches import painted, sketched  # noqa: F401  pytest's way to share fixtures

ALPHA = np.linspace(0, 1, 33)
FALL = np.stack([2.3 * (1 - ALPHA) ** 2 + 0.01, 2.1 * (1 - ALPHA) ** 2 + 0.2 + 0.1 * ALPHA**8], 1)
HUMP = np.stack([4 * ALPHA * (1 - ALPHA) - 0.25, 3 * ALPHA * (1 - ALPHA) ** 2], 1)


def measured(loss, splits=("train", "valid"), alpha=ALPHA, **attrs):
    """A result of the whole schema, with an error rate beside the loss."""
    loss = np.asarray(loss, dtype=float).reshape(len(alpha), len(splits))
    data = {}
    for name, values, unit in (("loss", loss, "nats"), ("error", loss / 3, "1")):
        wobble = (
            0.01
            * np.random.default_rng(4).normal(size=(1, len(splits), 20))
            * np.abs(values[..., None])
        )
        wobble = np.where(np.isfinite(wobble), wobble, np.nan)
        data[name] = ("alpha", "split"), values, {"long_name": name, "units": unit}
        data[f"{name}_stderr"] = ("alpha", "split"), np.abs(values) / 64
        data[f"{name}_replicates"] = ("alpha", "split", "replicate"), wobble
        data[f"{name}_noise_floor"] = ("alpha", "split"), np.full(loss.shape, 1e-7)
    data["n_examples"] = ("split",), np.array([5000, 1000])[: len(splits)]
    numbers = {"length": 1.0, "seed": 0, "running_statistics": 0, "wall_seconds": 1.0}
    about = (
        dict.fromkeys({**CORNERS["line"], **PROVENANCE}, "")
        | numbers
        | {
            "schema_version": 1,
            "start": "init.safetensors",
            "end": "final.pt",
            "start_hash": "a1" * 32,
            "data_hash": json.dumps({"train": "b2" * 32, "valid": "c3" * 32}),
            "command": "ravine line objective.py:make init.safetensors final.pt",
            "length": 23.48123456,
            "seed": 0,
            "versions": json.dumps({"ravine": "0.1.0", "torch": "2.5.1"}),
        }
    )
    places = {"alpha": alpha, "distance": ("alpha", 23.5 * np.abs(alpha)), "split": list(splits)}
    return xr.Dataset(data, coords=places, attrs=about | attrs)


class Page(HTMLParser):
    """The page as a browser takes it apart: elements, words shown, numbers in full."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.numbers, self._open = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "link", "input"}:
            self._open.append(tag)
        if tag == "data":
            self.numbers.append(dict(attrs)["value"])

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.words += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def written(tmp_path):
    """Writes a report alone and reads it back."""
    return lambda *results, **options: Page(
        write_report(tmp_path / "out", *results, keep=False, **options).read_text("utf-8")
    )


@pytest.mark.usefixtures("painted")
def test_the_page_is_one_small_file_of_that_name(tmp_path):
    path = write_report(str(tmp_path / "out"), measured(FALL))
    assert path == tmp_path / "out" / "report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "report-1-line.nc",
        "report.html",
    ]
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert path.stat().st_size < 6e6


@pytest.mark.usefixtures("painted")
def test_four_dense_lines_fit_too_and_share_one_library(tmp_path):
    alpha = np.linspace(0, 1, 201)
    dense = measured(np.stack([alpha**2, alpha**3], 1), alpha=alpha)
    path = write_report(tmp_path, *[dense] * 4)
    assert path.stat().st_size < 6e6
    assert path.read_text("utf-8").count("* plotly.js v") == 1


def test_the_verdict_stands_first_in_its_own_words(written):
    result = measured(HUMP)
    verdict, words = metrics.verdict(result), written(result).words
    assert 0 < words.index(verdict.headline) < words.index("Measures") < words.index("Provenance")
    assert all(sentence in words for sentence in verdict.sentences)


@pytest.mark.parametrize("loss", [FALL, HUMP], ids=["fall", "hump"])
def test_every_number_of_the_verdict_is_in_the_tables_in_full_and_rounded(written, loss):
    result = measured(loss)
    rows, page = metrics.verdict(result).rows, written(result)
    assert sorted(page.numbers) == sorted(repr(float(row.value)) for row in rows)
    for row in rows:
        assert row.text in page.words
        assert row.measure in page.words
        assert row.note in page.words
        assert row.at in page.words


def test_the_tolerance_is_the_verdicts(written):
    wave = measured(FALL + 0.05 * np.sin(20 * ALPHA)[:, None])
    strict, lenient = (metrics.verdict(wave, tolerance).headline for tolerance in (1e-3, 0.5))
    assert strict != lenient
    assert lenient in written(wave, tolerance=0.5).words
    assert strict in written(wave).words


def test_the_download_holds_every_point(written):
    result = measured(HUMP)
    (link,) = [attrs for attrs in written(result).all("a") if "download" in attrs]
    kind, _, text = link["href"].partition(",")
    rows = list(csv.DictReader(io.StringIO(unquote(text))))
    assert kind == "data:text/csv;charset=utf-8"
    assert len(rows) == 33
    np.testing.assert_allclose(
        [float(row["valid loss"]) for row in rows], HUMP[:, 1], rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(
        [float(row["train error_stderr"]) for row in rows], np.abs(HUMP[:, 0]) / 192, rtol=1e-8
    )
    np.testing.assert_allclose([float(row["alpha"]) for row in rows], ALPHA)


@pytest.mark.parametrize(("count", "omitted"), [(14, 0), (15, 3), (33, 21)])
def test_the_table_of_points_leaves_out_the_middle_only(written, count, omitted):
    words = written(measured(HUMP[:count], alpha=ALPHA[:count])).words
    assert ("more in the download" in words) == bool(omitted)
    assert f"{omitted} more in the download" in words or not omitted
    assert words.count("0.03125") >= 1


def test_provenance_explains_itself_and_leaves_out_what_is_empty(written):
    words = written(measured(FALL, tolerance=0.125)).words
    for shown in (
        "a1" * 32,
        "b2" * 32,
        "c3" * 32,
        "23.4812",
        "torch: 2.5.1",
        PROVENANCE["seed"],
        "0.125",
    ):
        assert shown in words
    assert PROVENANCE["dropout"] not in words
    assert "schema version" not in words


def copied(path):
    """What the buttons of a page copy, by the group's place on it."""
    blocks = re.findall(
        r'<script type="application/json" class="copied">(.*?)</script>',
        path.read_text("utf-8"),
        re.S,
    )
    return [json.loads(block) for block in blocks]


def test_the_command_can_be_copied(tmp_path):
    command = "ravine line objective.py:make init.safetensors final.pt"
    path = write_report(tmp_path, measured(FALL))
    assert command in Page(path.read_text("utf-8")).words
    assert copied(path)[-1] == {"Copy": command}
    assert not any(
        "Copy" in block for block in copied(write_report(tmp_path, measured(FALL, command="")))
    )


def test_every_measure_is_in_the_text_that_a_table_copies(tmp_path):
    result = measured(HUMP)
    tables = copied(write_report(tmp_path, result))[:2]
    for quantity, table in zip(("loss", "error"), tables, strict=True):
        rows = [row for row in metrics.verdict(result).rows if row.quantity == quantity]
        sheet = list(csv.DictReader(io.StringIO(table["TSV"]), delimiter="\t"))
        assert [row["measure"] for row in sheet] == list(
            dict.fromkeys(row.measure for row in sheet_of(rows))
        )
        found = {(row["measure"], split): row for row in sheet for split in ("train", "valid")}
        for row in rows:
            full = found[row.measure, row.split]
            assert full[row.split] == repr(float(row.value))
            assert full[f"{row.split} stderr"] == (
                "" if np.isnan(row.stderr) else repr(float(row.stderr))
            )
            for part, value in (("lower", row.lower), ("upper", row.upper)):
                assert full[f"{row.split} {part}"] == (
                    "" if np.isnan(value) else repr(float(value))
                )
            assert row.text in table["Markdown"]
            parts = row.text.replace(" ± ", r" \pm ").replace("−", "-").split(" [")
            assert all(part.strip("]").split(", ")[0] in table["LaTeX"] for part in parts)
        assert table["LaTeX"].count(r"\\") == 1 + len(sheet)
        assert all(line.count("|") == 4 for line in table["Markdown"].splitlines())


def sheet_of(rows):
    """Rows in the table's order: what only a later split has follows what it follows there."""
    names = []
    before = None
    for row in rows:
        if row.measure not in names:
            same = before is not None and before.split == row.split
            names.insert(names.index(before.measure) + 1 if same else len(names), row.measure)
        before = row
    return [next(row for row in rows if row.measure == name) for name in names]


def scrubs(path):
    """The sliders of a page, by name."""
    blocks = re.findall(
        r'<script type="application/json" id="(at-.*?)">(.*?)</script>',
        path.read_text("utf-8"),
        re.S,
    )
    return {name: json.loads(block) for name, block in blocks}


def test_the_slider_reads_every_quantity_with_its_error_at_every_point(tmp_path):
    result = measured(HUMP)
    (scrub,) = scrubs(write_report(tmp_path, result)).values()
    assert scrub["stops"][0]["places"][8] == "0.25"
    told = {reading["name"]: reading for reading in scrub["readings"]}
    for quantity, unit in (("loss", " (nats)"), ("error", "")):
        for split in ("train", "valid"):
            one = result.sel(split=split)
            expected = [
                with_error(*pair)
                for pair in zip(one[quantity].values, one[f"{quantity}_stderr"].values, strict=True)
            ]
            assert told[f"{split} {quantity}{unit}"]["texts"] == expected
            moved = one[quantity].values[8] - one[quantity].values[0]
            spread = (
                one[f"{quantity}_replicates"].values[8] - one[f"{quantity}_replicates"].values[0]
            ).std(ddof=1)
            assert told[f"{split} {quantity}{unit}"]["notes"][8] == f"+{with_error(moved, spread)}"
    ids = {
        attrs["id"]
        for attrs in Page((tmp_path / "report.html").read_text("utf-8")).all("div")
        if "id" in attrs
    }
    assert {mark["panel"] for mark in scrub["marks"]} == ids


@pytest.mark.parametrize(("points", "stops"), [(1, 1), (33, 33), (2000, 801)])
def test_a_slider_has_no_more_stops_than_a_finger_can_find(tmp_path, points, stops):
    alpha = np.linspace(0, 1, points)
    (scrub,) = scrubs(
        write_report(tmp_path, measured(np.stack([alpha, alpha], 1), alpha=alpha))
    ).values()
    assert len(scrub["stops"][0]["places"]) == stops
    assert {len(reading["texts"]) for reading in scrub["readings"]} == {stops}
    assert {len(mark["x"]) for mark in scrub["marks"]} == {stops}


def test_values_that_are_not_finite_are_said_and_not_marked(tmp_path):
    (scrub,) = scrubs(
        write_report(tmp_path, measured(np.where(ALPHA[:, None] > 0.5, np.inf, FALL)))
    ).values()
    assert scrub["readings"][0]["texts"][-1] == "inf"
    assert scrub["marks"][0]["y"][0][-1] is None


@pytest.mark.usefixtures("painted")
def test_a_run_is_linked_with_its_line_and_with_its_plane_and_drawn_on_it(tmp_path):
    line, path, _, flight, *_ = seen()
    found = scrubs(write_report(tmp_path, *seen(), keep=False))
    assert list(found) == ["at-line-1", "at-path-2", "at-path-4", "at-lines-5", "at-plane-6"]
    marked = {name: {mark["panel"] for mark in scrub["marks"]} for name, scrub in found.items()}
    assert marked["at-line-1"] == {"line-1-0", "path-2-0"}
    assert {f"plane-3-{n}" for n in range(4)} | {"path-4-0", "path-4-1"} == marked["at-path-4"]
    drives = found["at-path-2"]["drives"]["at-line-1"]
    nearest = [
        float(found["at-line-1"]["stops"][0]["places"][at].replace("−", "-")) for at in drives
    ]
    np.testing.assert_allclose(nearest, path["alpha"], atol=0.025)
    np.testing.assert_allclose(found["at-path-4"]["marks"][-1]["x"], flight["alpha"], atol=1e-8)
    measured_there = flight["alpha"].values >= -0.2
    assert 0 < measured_there.sum() < len(measured_there)
    notes = found["at-path-4"]["readings"][0]["notes"]
    assert [note.endswith("on the plane") for note in notes] == list(measured_there)
    (before,) = scrubs(
        write_report(tmp_path, line.assign_attrs(end_hash="another"), path, keep=False)
    ).keys() - {"at-line-1"}
    assert before == "at-path-2"
    assert not scrubs(tmp_path / "report.html")["at-path-2"]["drives"]


def test_a_run_on_a_plane_is_not_said_to_be_on_a_line():
    flight = seen().flight
    assert plot.path(flight).panels[0].y.label == "distance from the plane"
    assert "line" not in plot.path(flight).title
    assert (
        metrics.verdict(flight).sentences[0].startswith("It is farthest from the plane at step 1")
    )
    assert " and β = " in metrics.verdict(flight).sentences[0]


def test_of_many_lines_the_highest_barriers_are_drawn_and_the_page_says_so(written):
    pairs = seen().pairs
    names = [f"{name} {n}" for n in range(3) for name in pairs["line"].values]
    many = pairs.isel(line=[0, 1, 2] * 3).assign_coords(line=names)
    assert "The curves are the 6 of 9 with the highest barriers." in written(many).words
    assert "highest barriers" not in written(pairs).words


@pytest.mark.usefixtures("painted")
def test_the_library_can_be_left_to_the_network_and_nothing_else(tmp_path):
    from plotly.offline import get_plotlyjs

    whole = write_report(tmp_path / "inline", measured(FALL)).stat().st_size
    path = write_report(tmp_path / "cdn", measured(FALL), plotlyjs="cdn")
    page = Page(path.read_text("utf-8"))
    (library,) = [attrs for attrs in page.all("script") if "src" in attrs]
    assert re.fullmatch(r"https://cdn\.plot\.ly/plotly-\d+\.\d+\.\d+\.min\.js", library["src"])
    digest = base64.b64encode(hashlib.sha256(get_plotlyjs().encode()).digest()).decode()
    assert library["integrity"] == f"sha256-{digest}"
    (policy,) = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv")]
    assert "script-src 'unsafe-inline' https://cdn.plot.ly;" in policy
    assert policy.count("https:") == 1
    assert path.stat().st_size < 5e5 < whole
    assert "cdn.plot.ly" in page.words


def test_another_library_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"'inline'.*'cdn'.*'local'"):
        write_report(tmp_path / "out", measured(FALL), plotlyjs="local")
    assert not list(tmp_path.iterdir())


def test_nothing_is_fetched(written):
    page = written(measured(FALL), measured(HUMP))
    assert not page.all("link")
    assert not any("src" in attrs for attrs in page.all("script"))
    references = [
        attrs[name]
        for _, attrs in page.elements
        for name in ("src", "href", "srcset")
        if name in attrs
    ]
    assert len(references) >= 6
    assert all(reference.startswith(("data:", "#")) for reference in references)
    policies = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")


@pytest.mark.usefixtures("painted")
def test_a_reader_without_scripts_gets_a_picture(tmp_path):
    text = write_report(tmp_path, measured(FALL)).read_text("utf-8")
    assert re.search(r'<noscript><img alt="[^"]+" src="data:image/webp;base64,UklGR', text)


def test_the_drawings_are_data_that_a_browser_can_read(tmp_path):
    text = write_report(tmp_path, measured(FALL)).read_text("utf-8")
    drawings = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert [json.loads(drawing)["layout"]["yaxis"]["title"]["text"] for drawing in drawings] == [
        "loss (nats)",
        "error",
    ]


def test_names_are_never_markup(tmp_path):
    evil = "<b>&'\"</script><script>alert(1)</script>"
    result = measured(FALL, splits=(evil, "valid"), start=evil, command=evil, model=evil, note=evil)
    for options in ({}, {"title": evil}):
        text = write_report(tmp_path, result, result, keep=False, **options).read_text("utf-8")
        assert "alert(1)" in text
        assert "<script>alert" not in text
        assert "<b>&" not in text
        assert evil in Page(text).words


def test_several_results_have_contents_that_lead_to_them(written):
    page = written(measured(FALL, title="down"), measured(HUMP))
    targets = [attrs["href"] for attrs in page.all("a") if attrs["href"].startswith("#")]
    assert targets == [f"#{attrs['id']}" for attrs in page.all("section")]
    assert len(targets) == 2
    assert "down" in page.words
    assert "init.safetensors → final.pt" in page.words
    assert not written(measured(FALL)).all("nav")


@pytest.mark.parametrize(
    "loss",
    [np.full((33, 2), np.nan), np.where(ALPHA[:, None] > 0.5, np.inf, FALL), np.zeros((33, 2))],
    ids=["NaN", "infinite in part", "flat"],
)
@pytest.mark.parametrize("points", [1, 2, 33])
@pytest.mark.usefixtures("painted")
def test_awkward_results_are_reported(written, loss, points):
    result = measured(loss[:points], alpha=ALPHA[:points])
    page = written(result)
    verdict = metrics.verdict(result)
    assert verdict.headline in page.words
    assert page.words.count("undefined") >= sum(np.isnan(row.value) for row in verdict.rows)
    assert page.numbers.count("nan") == sum(np.isnan(row.value) for row in verdict.rows)


def test_what_is_no_line_is_refused_and_nothing_is_written(tmp_path):
    solid = measured(FALL).expand_dims(gamma=3)
    for results, words in (((), "nothing to report"), ((measured(FALL), solid), "gamma")):
        with pytest.raises(InputError, match=words):
            write_report(tmp_path / "out", *results)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot write"):
        write_report(tmp_path / "file", measured(FALL))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_reporting_imports_no_torch():
    source = Path(metrics.__file__).parents[2]
    code = "import sys, ravine.report; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, check=False
    )
    assert done.returncode == 0


def test_the_results_are_left_beside_the_page(tmp_path):
    one, other = (
        measured(np.cos(3 * np.stack([ALPHA, ALPHA], 1))),
        measured(np.sin(3 * np.stack([ALPHA, ALPHA], 1))),
    )
    write_report(tmp_path, one, other)
    left = sorted(path.name for path in tmp_path.glob("*.nc"))
    assert left == ["report-1-line.nc", "report-2-line.nc"]
    assert np.array_equal(open_result(tmp_path / left[1])["loss"], other["loss"])
    # as `ravine report` does
    write_report(tmp_path, *(open_result(tmp_path / name) for name in left))
    assert sorted(path.name for path in tmp_path.glob("*.nc")) == left
    write_report(tmp_path, other)  # a report that is there is replaced
    assert [path.name for path in tmp_path.glob("*.nc")] == ["report-2-line.nc"]


def test_no_result_is_left_where_another_one_is(tmp_path, monkeypatch):
    monkeypatch.setattr("ravine.report.document.Section.of", lambda *_: 1 / 0)  # a page takes time
    one, two, new = (measured(FALL, title=name) for name in ("one", "two", "new"))
    for order in ((one, two), (two, new)):
        with pytest.raises(ZeroDivisionError):
            write_report(tmp_path, *order)
        kept = [open_result(path).attrs["title"] for path in tmp_path.glob("*.nc")]
        assert sorted(kept) == sorted(result.attrs["title"] for result in order)


def test_results_that_are_there_already_are_not_copied(tmp_path):
    one = measured(np.cos(3 * np.stack([ALPHA, ALPHA], 1)))
    save_result(one, tmp_path / "mine.nc")
    (tmp_path / "other.nc").write_text("no result")
    write_report(tmp_path, one)
    assert sorted(path.name for path in tmp_path.glob("*.nc")) == ["mine.nc", "other.nc"]


def test_results_outlive_a_page_that_cannot_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("ravine.report.document.Section.of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path, measured(np.cos(3 * np.stack([ALPHA, ALPHA], 1))))
    assert (tmp_path / "report-1-line.nc").is_file()


def test_no_cell_of_the_download_is_a_formula(tmp_path):
    loss = measured(np.stack([np.cos(3 * ALPHA)] * 2, 1), splits=("=1+1", "@valid"))
    page = write_report(tmp_path, loss).read_text("utf-8")
    (link,) = re.findall(r'href="(data:text/csv[^"]*)"', page)
    head = unquote(link.partition(",")[2]).splitlines()[0]
    assert "'=1+1 loss" in head
    assert "'@valid loss" in head
