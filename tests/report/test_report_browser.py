"""The report in a browser: from disk, network off, pointed at, copied, on a phone, in the dark."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

import ravine
from ravine.metrics.profile import with_error
from runs import seen

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright: pip install playwright"
)

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium")

#: A machine without a graphics card draws the surface in software.
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

WIDTHS = {"desk": (1100, 900), "phone": (360, 740)}


@pytest.fixture(scope="session")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """Name → the page: all kinds of results, a line, and a line whose library must be fetched."""
    folder = tmp_path_factory.mktemp("reports")
    return {
        "all": ravine.write_report(folder / "all", *seen()),
        "line": ravine.write_report(folder / "line", seen().line),
        "cdn": ravine.write_report(folder / "cdn", seen().line, plotlyjs="cdn"),
    }


@pytest.fixture(scope="session")
def opened(browser, reports):
    """Opens a report, once for each way of looking at it, and keeps what went wrong on it."""
    pages = {}

    def open_(name, width="desk", scheme="light", **options):
        key = (name, width, scheme, *options.items())
        if key not in pages:
            w, h = WIDTHS[width]
            touch = {"is_mobile": True, "has_touch": True} if width == "phone" else {}
            context = browser.new_context(
                viewport={"width": w, "height": h},
                color_scheme=scheme,
                offline=True,
                **touch,
                **options,
            )
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = context.new_page()
            page.wrong = wrong = []
            page.on(
                "console", lambda said: wrong.append(said.text) if said.type == "error" else None
            )
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("requestfailed", lambda request: wrong.append(request.url))
            page.on(
                "request",
                lambda asked: (
                    None
                    if asked.url[:5] in ("file:", "data:", "blob:")
                    else wrong.append(asked.url)
                ),
            )
            page.goto(reports[name].as_uri())
            if options.get("java_script_enabled", True) and name != "cdn":
                page.wait_for_selector("html[data-ready]", timeout=20000)
            pages[key] = page
        return pages[key]

    return open_


def slider(page, section, number=0):
    return page.locator(f"#{section} input[type=range]").nth(number)


def place(page, section):
    return page.locator(f"#{section} .slider output").first.inner_text()


def readings(page, section):
    """What is read out in a section, by name."""
    pairs = page.locator(f"#{section} .readings > div").evaluate_all(
        "all => all.map((one) => [one.querySelector('dt').textContent, "
        "one.querySelector('dd').textContent])"
    )
    return dict(pairs)


def scrub(page, section, stop, number=0):
    slider(page, section, number).evaluate(
        "(one, stop) => { one.value = stop; one.dispatchEvent(new Event('input', { bubbles: true "
        "})); }",
        stop,
    )
    settled(page)


def said(page, words):
    """Wait until a screen reader was told these words."""
    sync_api.expect(page.locator("#told")).to_contain_text(words)


def settled(page):
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def rules(page, panel):
    """Where the vertical lines of the sliders stand in a panel, and whether they are faint."""
    return page.evaluate(
        "id => document.getElementById(id).layout.shapes.filter((s) => s.type === 'line' && s.yref "
        "=== 'paper')"
        ".map((s) => [s.x0, s.line.dash])",
        panel,
    )


def rings(page, panel):
    return page.evaluate(
        "id => document.getElementById(id).layout.shapes.filter((s) => s.type === 'path')"
        ".map((s) => [s.xanchor, s.yanchor])",
        panel,
    )


def ball(page, panel):
    return page.evaluate(
        "id => ((t) => [t.x[0], t.y[0], t.z[0]])(document.getElementById(id).data.at(-1))", panel
    )


def point_at(page, panel, x, y):
    """Hover over a place in a panel's own coordinates."""
    page.locator(f"#{panel}").scroll_into_view_if_needed()
    spot = page.evaluate(
        """([id, x, y]) => {
          const panel = document.getElementById(id), { xaxis, yaxis } = panel._fullLayout;
          const box = panel.querySelector(".nsewdrag").getBoundingClientRect();
          panel.scrollIntoView({ block: "center" });
          const moved = panel.querySelector(".nsewdrag").getBoundingClientRect();
          return [moved.left + xaxis.d2p(x), moved.top + yaxis.d2p(y)];
        }""",
        [panel, x, y],
    )
    page.mouse.move(spot[0] - 2, spot[1] - 2)
    page.mouse.move(*spot)
    page.wait_for_timeout(150)  # Plotly waits a little before it calls a pause a hover
    settled(page)


# opening


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("all", "desk", "light"),
        ("all", "phone", "dark"),
        ("line", "desk", "light"),
    ],
)
def test_it_opens_from_disk_without_a_network_and_without_an_error(opened, name, width, scheme):
    page = opened(name, width, scheme)
    panels = page.locator(".ravine-panel")
    drawn = panels.evaluate_all(
        "all => all.filter((one) => one.querySelector('.main-svg, canvas')).length"
    )
    assert drawn == panels.count() > 0
    assert page.wrong == []


def test_a_library_that_cannot_be_fetched_leaves_pictures_and_no_dead_slider(opened):
    page = opened("cdn")
    page.wait_for_selector(".ravine-figure img")
    assert page.locator(".ravine-figure img").evaluate("one => one.naturalWidth") > 100
    assert page.locator(".scrub:visible").count() == 0
    assert page.locator(".copies:visible").count() > 0
    assert {fault for fault in page.wrong if fault.startswith("https://")} == {
        fault for fault in page.wrong if "cdn.plot.ly/plotly-" in fault
    }
    assert not any("Error:" in fault for fault in page.wrong)


def test_a_reader_without_scripts_sees_pictures_and_tables_and_nothing_dead(opened):
    page = opened("line", java_script_enabled=False)
    assert page.locator("noscript img").is_visible()
    for dead in (".scrub", ".theme", ".copies", ".ravine-panel"):
        assert not page.locator(dead).first.is_visible()
    assert page.locator("table").first.is_visible()


# the slider


def test_arrow_keys_move_the_rule_and_read_out_every_quantity_with_its_error(opened):
    page, line = opened("line"), seen().line
    one = slider(page, "line-1")
    one.focus()
    one.press("Home")
    for _ in range(7):
        one.press("ArrowRight")
    settled(page)
    alpha = float(line["alpha"][7])
    value, stderr = (float(line[name][7, 0]) for name in ("loss", "loss_stderr"))
    assert place(page, "line-1") == f"{alpha:.4g}"
    told = readings(page, "line-1")
    assert told["data loss"].startswith(with_error(value, stderr))
    assert told["distance from the start"] == f"{float(line['distance'][7]):.4g}"
    assert "from α = 0" in told["data loss"]
    np.testing.assert_allclose(rules(page, "line-1-0")[0][0], alpha, rtol=1e-6)
    np.testing.assert_allclose(rings(page, "line-1-0"), [[alpha, value]], rtol=1e-6)
    assert one.get_attribute("aria-valuetext") == f"α {alpha:.4g}"
    one.press("End")
    assert place(page, "line-1") == "1.25"


def test_hovering_over_a_figure_moves_the_slider_and_leaves_its_label_up(opened):
    page, line = opened("line"), seen().line
    point_at(page, "line-1-0", float(line["alpha"][20]), float(line["loss"][20, 0]))
    assert place(page, "line-1") == f"{float(line['alpha'][20]):.4g}"
    assert slider(page, "line-1").input_value() == "20"
    assert page.locator("#line-1-0 .hoverlayer text").count() > 0


def test_what_is_read_out_is_said_once_the_slider_rests(opened):
    page = opened("line")
    scrub(page, "line-1", 3)
    scrub(page, "line-1", 4)
    said(page, f"data loss {readings(page, 'line-1')['data loss'].split('from')[0]}")
    assert page.locator("#told").get_attribute("aria-live") == "polite"


def test_a_run_is_marked_in_its_straying_and_moves_its_line(opened):
    page, (line, path, *_) = opened("all"), seen()
    scrub(page, "path-2", 4)
    assert place(page, "path-2") == "4"
    along, away = (float(path[name][4]) for name in ("distance", "residual"))
    np.testing.assert_allclose(rings(page, "path-2-0"), [[along, away]], rtol=1e-6)
    assert rules(page, "path-2-1")[0][0] == 4
    nearest = int(np.argmin(np.abs(line["alpha"].values - float(path["alpha"][4]))))
    assert slider(page, "line-1").input_value() == str(nearest)
    ((hint, dash),) = rules(page, "path-2-0")
    np.testing.assert_allclose(
        hint, float(line["alpha"][nearest]) * line.attrs["length"], rtol=1e-6
    )
    assert dash == "dot"


def test_a_run_on_a_plane_is_marked_on_the_surface_and_in_its_straying_at_once(opened):
    page, flight = opened("all"), seen().flight
    for section, stop in (("plane-3", 3), ("path-4", 6)):
        scrub(page, section, stop)
        assert [slider(page, one).input_value() for one in ("plane-3", "path-4")] == [str(stop)] * 2
        x, y, away, along, height = (
            float(flight[n].values.ravel()[stop])
            for n in ("alpha", "beta", "residual", "distance", "loss")
        )
        np.testing.assert_allclose(rings(page, "plane-3-0"), [[x, y]], rtol=1e-6, atol=1e-9)
        assert ball(page, "plane-3-1")[:2] == pytest.approx([x, y], rel=1e-6, abs=1e-9)
        assert ball(page, "plane-3-1")[2] >= (np.log10(height) if height < 0 else -10)
        for panel in ("plane-3-2", "path-4-0"):
            np.testing.assert_allclose(rings(page, panel), [[along, away]], rtol=1e-6, atol=1e-9)
    assert "on the plane" in readings(page, "plane-3")["data loss"]


def test_hovering_over_a_snapshot_moves_the_run_and_between_them_does_not(opened):
    page, flight = opened("all"), seen().flight
    scrub(page, "plane-3", 0)
    point_at(page, "plane-3-0", float(flight["alpha"][5]), float(flight["beta"][5]))
    assert place(page, "plane-3") == "5"
    point_at(page, "plane-3-0", 0.05, 1.4)
    assert place(page, "plane-3") == "5"


def test_a_plane_alone_has_a_slider_for_each_axis(opened):
    page, plane = opened("all"), seen().elsewhere
    scrub(page, "plane-6", 2)
    scrub(page, "plane-6", 4, number=1)
    alpha, beta = float(plane["alpha"][2]), float(plane["beta"][4])
    np.testing.assert_allclose(rings(page, "plane-6-0"), [[alpha, beta]], rtol=1e-6)
    assert ball(page, "plane-6-1")[:2] == pytest.approx([alpha, beta], rel=1e-6, abs=1e-9)
    value, stderr = (float(plane[name][2, 4, 0]) for name in ("loss", "loss_stderr"))
    assert readings(page, "plane-6")["data loss"] == with_error(value, stderr)


def test_several_lines_share_a_rule(opened):
    page = opened("all")
    scrub(page, "lines-5", 3)
    panels = page.locator("#lines-5 .ravine-panel").count() // 2
    for number in range(panels, 2 * panels):
        assert rules(page, f"lines-5-{number}")[0][0] == pytest.approx(0.5)
        assert len(rings(page, f"lines-5-{number}")) == 3
    assert len(readings(page, "lines-5")) == 3 * panels


# light, dark, small


def test_nothing_scrolls_sideways_on_a_phone(opened):
    page = opened("all", "phone", "dark")
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    wide, screen = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= screen == WIDTHS["phone"][0]
    within = page.locator(".scroll").evaluate_all(
        "all => all.map((one) => one.scrollWidth - one.clientWidth)"
    )
    assert max(within) <= 0


def test_on_a_phone_the_slider_stays_in_view_and_leaves_room(opened):
    page = opened("all", "phone", "dark")
    page.locator("#plane-3-1").evaluate("one => one.scrollIntoView({ block: 'start' })")
    box = page.locator("#plane-3 .scrub").bounding_box()
    height = WIDTHS["phone"][1]
    assert box["y"] + box["height"] <= height + 1
    assert box["height"] <= 0.45 * height + 1


def brightness(colour):
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_the_page_follows_the_readers_scheme_and_the_button_overrules_it(opened):
    page = opened("line", scheme="dark", reduced_motion="reduce")
    look = "one => [getComputedStyle(one).backgroundColor, getComputedStyle(one).color]"
    ground, ink = map(brightness, page.locator("body").evaluate(look))
    assert ground < 60
    assert ink > 180
    button = page.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    settled(page)
    ground, ink = map(brightness, page.locator("body").evaluate(look))
    assert ground > 200
    assert ink < 60
    assert button.get_attribute("aria-pressed") == "false"
    font = page.evaluate("document.getElementById('line-1-0').layout.font.color")
    assert brightness(font) < 60
    rule = page.evaluate(
        "document.getElementById('line-1-0').layout.shapes.find((s) => s.yref === "
        "'paper').line.color"
    )
    assert brightness(rule) < 60
    page.emulate_media(color_scheme="light")
    assert brightness(page.locator("body").evaluate(look)[0]) > 200
    assert page.wrong == []


def test_nothing_moves_by_itself(opened):
    page = opened("line", scheme="dark", reduced_motion="reduce")
    scrub(page, "line-1", 9)
    assert page.evaluate("document.getAnimations().length") == 0


# the keyboard


def test_the_tab_key_reaches_everything_that_does_something_and_each_has_a_name_and_a_mark(opened):
    page = opened("line", scheme="dark", reduced_motion="reduce")
    kinds = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        about = page.evaluate(
            """() => {
              const one = document.activeElement, style = getComputedStyle(one);
              if (one === document.body) return null;
              return [one.type || one.tagName.toLowerCase(),
                one.labels?.[0]?.textContent || one.ariaLabel || one.textContent,
                style.outlineStyle, style.outlineWidth];
            }"""
        )
        if about is None:
            break
        kind, name, outline, width = about
        assert name.strip()
        assert outline != "none"
        assert float(width[:-2]) >= 1
        kinds.add(kind)
    assert {"button", "a", "range", "summary"} <= kinds
    assert page.wrong == []


# copying


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("LaTeX", [r"\begin{tabular}{ll}", r"\pm", r"\bottomrule"]),
        ("Markdown", ["| data |", "|---|---|"]),
        ("TSV", ["\t"]),
    ],
)
def test_a_table_is_copied_as_text(opened, kind, words):
    page = opened("line")
    button = page.locator("#line-1 .copies").first.get_by_role("button", name=kind)
    button.click()
    said(page, f"the table as {kind}")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert all(word in copied for word in words)
    assert "barrier (end)" in copied
    assert page.wrong == []


def test_where_the_clipboard_is_closed_to_scripts_a_selection_is_copied(opened):
    page = opened("line")
    page.evaluate(
        "void (navigator.clipboard.writeText = () => Promise.reject(new Error('closed')))"
    )
    page.locator("#line-1 .copies").first.get_by_role("button", name="Markdown").click()
    said(page, "the table as Markdown")
    assert "| barrier (end) |" in page.evaluate("navigator.clipboard.readText()")
    page.evaluate("void delete navigator.clipboard.writeText")
