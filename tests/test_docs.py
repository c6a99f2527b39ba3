"""What the documentation says is run: every snippet of every page, in order, and every example.

A page's Python blocks share one namespace and one folder. The text block behind a block is what it
prints: its words are compared, its numbers are not, because training on another machine rounds
otherwise and ends a little elsewhere; a sentence that hangs on such a number may differ too. With
RAVINE_WRITE_DOCS=1 in the environment these blocks are written anew. A block with a title is a
file; lines of an sh block are run as commands of ravine. What cannot be run has a comment before it
that says why: <!-- not run: … -->
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from difflib import SequenceMatcher
from pathlib import Path

import pytest
import torch

import ravine
from oracles import blobs, mlp, trained
from ravine import cli
from sketches import sketched  # noqa: F401  pytest's way to share fixtures

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
)
#: Half a minute each, and more on a busy machine.
LONG = {
    "barriers.py",
    "batchnorm.py",
    "language_model.py",
    "lightning_run.py",
    "own_loop.py",
    "wise_ft.py",
}
EXAMPLES = [
    pytest.param(name, marks=pytest.mark.long) if name in LONG else name
    for name in sorted(path.name for path in ROOT.glob("examples/*.py"))
]
FENCE = re.compile(
    r"^(?P<aside><!--[^\n]*-->\n)?```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"[-−+]?(\d[\d,]*\.?\d*(e[-−+]?\d+)?|nan|inf)")
NEEDS = {
    "lightning": "lightning",
    "transformers": "transformers",
    "peft": "peft",
    "sklearn": "sklearn",
}

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "docs").is_dir(), reason="the documentation is not part of the source archive"
    ),
    pytest.mark.filterwarnings("ignore"),  # of the frameworks about themselves and each other
]


def likeness(one: str, other: str) -> float:
    """Share of words that agree, but for numbers and line breaks: 1 if the texts say the same."""
    return SequenceMatcher(
        None, *(NUMBER.sub("#", text).split() for text in (one, other)), autojunk=False
    ).ratio()


def run_examples_of(info: str) -> str | None:
    """What an example prints, for a page that shows it."""
    found = re.fullmatch(r'text file="(.+)"', info)
    return None if found is None else here(Path(found[1]).name)


def here(name: str) -> str:
    """What an example prints, in this process: starting another one takes longer than most."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), torch.random.fork_rng():
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    return printed.getvalue()


def example(name: str, folder: Path) -> str:
    """What an example prints in a process of its own."""
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {
        key: value for key, value in os.environ.items() if key != "RAVINE_DATA"
    } | threads
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / name)]
    found = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def skip_without(text: str) -> None:
    for module, package in NEEDS.items():
        if re.search(
            rf"^\s*(from|import) {module}\b|ravine\.integrations\.{module}", text, re.MULTILINE
        ):
            pytest.importorskip(package)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("my_project", None)


def readers_own(folder: Path) -> dict[str, object]:
    """What the front page takes its reader to have: model, data, checkpoints, run, project."""
    data = blobs(24)  # the front page's plane has 2,091 points
    start, end = trained(mlp(0, width=4), data, epochs=3)
    _, other = trained(mlp(1, width=4), data, epochs=3)
    torch.save(end, "final.pt")
    torch.save(start, "init.pt")
    torch.save(end, "solution-a.pt")
    torch.save(other, "solution-b.pt")
    from safetensors.torch import save_file

    save_file(start, "init.safetensors")
    ravine.TrajectoryRecorder("runs/mine").record(0, other)
    source = (
        "import sys; sys.path.insert(0, {!r})\nfrom oracles import blobs, mlp\n"
        "Net = lambda: mlp(width=4)\nload_data = lambda: blobs(24)\n"
    )
    Path("my_project.py").write_text(source.format(str(Path(__file__).parent)))
    return {"model": mlp(0, width=4), "X": data[0], "y": data[1], "valid_loader": data, "step": 900}


def block(info: str, body: str, namespace: dict[str, object]) -> str:
    """Run one block; what it printed."""
    kind, _, rest = info.strip().partition(" ")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if kind == "python":
            first = re.match(r"# (\w+\.py)\n", body)
            name = re.search(r'title="([^"]+)"', rest) or first
            if name:
                Path(name[1]).write_text(body)
            source = f"<{name[1] if name else 'page'}>"
            exec(compile(body, source, "exec"), namespace)  # noqa: S102
        elif kind == "sh":
            for line in body.splitlines():
                command = shlex.split(line, comments=True)
                if command:
                    assert command[0] == "ravine", line
                    cli.app(command[1:], standalone_mode=False)
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_can_be_done(page, folder):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    if "--8<--" not in text:
        skip_without(text)
    namespace: dict[str, object] = {"__name__": "page"}
    if page == "README.md":
        namespace |= readers_own(folder)
    torch.manual_seed(0)
    said, pieces, place = "", [], 0
    for fence in FENCE.finditer(text):
        info, body = fence["info"], fence["body"]
        shown = body
        if info.startswith("text"):
            own = run_examples_of(info)
            shown = said if own is None else own
            if not os.environ.get("RAVINE_WRITE_DOCS"):
                assert likeness(shown, body) > 0.8, shown
        elif not fence["aside"] and not body.startswith("--8<--"):
            said = block(info, body, namespace)
        pieces += [text[place : fence.start("body")], shown]
        place = fence.end("body")
    if os.environ.get("RAVINE_WRITE_DOCS"):
        path.write_text("".join([*pieces, text[place:]]), encoding="utf-8")


def test_another_text_is_not_taken_for_the_one_shown():
    shown = (
        "The train loss falls all the way from 2.3 ± 0.1 to 0.1 along the straight line, with no "
        "bump."
    )
    assert (
        likeness(
            shown,
            "The train loss falls all the way from 1.7 ± 0.2 to\n0.02 along the straight line, "
            "with no bump.",
        )
        == 1
    )
    assert (
        likeness(
            shown,
            "A barrier in the train loss of 0.9 ± 0.1 stands between the two points, at α = 0.5.",
        )
        < 0.8
    )


def test_hardly_anything_is_left_out():
    asides = [
        a[1]
        for page in PAGES
        for a in re.finditer(r"<!-- not run: ([^\n]+) -->", (ROOT / page).read_text("utf-8"))
    ]
    machines = [aside for aside in asides if aside.startswith("it needs ")]  # that no desk has
    assert all(asides)
    assert len(asides) - len(machines) <= 3


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_stands(name, folder):
    source = (ROOT / "examples" / name).read_text(encoding="utf-8")
    skip_without(source)
    printed = example(name, folder)
    reports = re.findall(r"^out/\S+report\.html$", printed, re.MULTILINE)
    assert reports
    assert all((folder / report).stat().st_size > 10_000 for report in reports)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if not re.match(r"[a-z]+:|#", link):
            assert (path.parent / link.split("#")[0]).exists(), link
    for included in re.findall(r'--8<-- "([^"]+)"', path.read_text(encoding="utf-8")):
        assert (ROOT / included).is_file(), included
