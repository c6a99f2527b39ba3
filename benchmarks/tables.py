"""What benchmarks share: the clock, the machine's rate and description, and saved tables."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the call returned."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def median(rounds: Iterable[Mapping[str, float]], name: str, over: str | None = None) -> float:
    """The median over the rounds of one time, or of its ratio to another time of the same round."""
    return statistics.median(one[name] / (one[over] if over else 1) for one in rounds)


def matrix_rate(size: int = 2048, repeats: int = 5) -> float:
    """FLOP/s of a square float32 matrix product, the best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(timed(lambda: a @ b)[0] for _ in range(repeats + 1))
    return 2.0 * size**3 / best


@functools.cache
def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    commit = _git("rev-parse", "--short", "HEAD")
    changed = (
        " with changes" if commit and _git("status", "--porcelain", "src", "benchmarks") else ""
    )
    peers = ("loss-landscapes", "loss-landscape-3d", "nngeom")
    packages = ("ravine", "torch", "numpy", "transformers", *peers)
    return {
        "processor": processor,
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "commit": commit + changed,
        **{name: _version(name) for name in packages},
    }


def _git(*arguments: str) -> str:
    """What git says; nothing where there is no git."""
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parser(about: str | None) -> argparse.ArgumentParser:
    """A command line with what every script takes: where the tables go."""
    made = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    made.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder for the tables"
    )
    return made


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers to the right."""
    lines = [list(columns), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    cells = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]])


def judged(value: float, goal: float, text: str, *, least: bool = True) -> str:
    """A number with its goal, met or not."""
    met = value >= goal if least else value <= goal
    sign = "≥" if least else "≤"
    return f"{text} ({sign} {goal:g}: {'met' if met else 'NOT met'})"


def save(
    out: Path, name: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], text: str
) -> None:
    """Write the numbers with the environment as JSON, and the tables as Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    about = environment()
    held = {"environment": about, "settings": dict(settings), "rows": list(rows)}
    (out / f"{name}.json").write_text(
        json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    machine = (
        f"{about['processor']}, {about['threads']} threads, {about['instructions']}; PyTorch "
        f"{about['torch']}"
    )
    (out / f"{name}.md").write_text(
        f"<!-- written by benchmarks/{name}.py -->\n\n{text}\n\n*{machine}; commit "
        f"{about['commit']}.*\n",
        encoding="utf-8",
    )


def saved_rows(out: Path, name: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier run with these settings, in this environment; none if they differ."""
    file = out / f"{name}.json"
    if not file.is_file():
        return []
    held = json.loads(file.read_text(encoding="utf-8"))
    same = held["environment"] == environment() and held["settings"] == json.loads(
        json.dumps(settings)
    )
    return held["rows"] if same else []


def fresh(script: str, *arguments: object) -> dict[str, Any]:
    """Run a script in a fresh process, and read the JSON that it prints last."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
