"""How time and memory grow with points, examples and parameters, each over two decades.

    python benchmarks/growth.py [--rounds 3] [--scale 1.0]

Every run is a fresh process: a ReLU network with two hidden layers, random ends, random data.
Memory is the peak of anonymous memory while evaluate runs, over what the process held before:
imports, the model, its ends, the data, and what a first small evaluation needs once. ``--scale
0.1`` is a quick trial.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from memory import Watch
from problems import relu_network
from tables import fresh, parser, save, table, timed
from torch.nn import functional as F

import ravine

#: what grows → points, examples and hidden units of the runs
SERIES: Final[dict[str, list[tuple[int, int, int]]]] = {
    "points": [(points, 2000, 256) for points in (4, 13, 40, 126, 400)],
    "examples": [(21, examples, 256) for examples in (500, 1581, 5000, 15811, 50000)],
    "parameters": [(21, 500, width) for width in (224, 448, 867, 1600, 2950)],
}
INPUTS: Final = 128


def one_run(points: int, examples: int, width: int) -> dict[str, float]:
    """In a fresh process: seconds and peak bytes of one curve."""
    torch.manual_seed(0)
    model = relu_network(INPUTS, width, width, 10)
    start = {n: t.clone() for n, t in model.state_dict().items()}
    line = ravine.Line(start, {n: t + 0.01 * torch.randn_like(t) for n, t in start.items()})
    data = (torch.randn(examples, INPUTS), torch.randint(0, 10, (examples,)))
    per_example = ravine.supervised(F.cross_entropy)
    warm = (data[0][:64], data[1][:64])
    ravine.evaluate(
        ravine.Objective(model, per_example, warm), along=line, at=[0, 1], progress=False
    )
    J, at = ravine.Objective(model, per_example, data), np.linspace(0, 1, points)
    with Watch(interval=0.002) as watch:
        seconds, _ = timed(lambda: ravine.evaluate(J, along=line, at=at, progress=False))
    return {
        "points": points,
        "examples": examples,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": seconds,
        "bytes": watch.peak["anonymous"],
    }


def measure(rounds: int, scale: float) -> list[dict[str, Any]]:
    """Every run of every series, in rounds; the median time and memory of each."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for grows, runs in SERIES.items():
            for number, (points, examples, width) in enumerate(runs):
                sizes = (points, max(100, round(examples * scale)), width)
                found.setdefault((grows, number), []).append(fresh(__file__, "--one", *sizes))
    rows = []
    for (grows, _), several in found.items():
        middle = {
            key: statistics.median(one[key] for one in several) for key in ("seconds", "bytes")
        }
        rows.append({"grows": grows, **several[0], **middle})
    return rows


def slopes(rows: list[dict[str, Any]], grows: str, key: str) -> tuple[float, float]:
    """Of the logarithm over that of what grows: over both decades, and over the last step alone."""
    of = [row for row in rows if row["grows"] == grows]
    x, y = (
        np.log([row[grows] for row in of]),
        np.log([max(row[key], 1) if key == "bytes" else row[key] for row in of]),
    )
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Three panels: time and memory against what grows, both beside a line of slope 1."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  the runs in fresh processes do not draw

    figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for panel, grows in zip(panels, SERIES, strict=True):
        of = [row for row in rows if row["grows"] == grows]
        x = np.array([row[grows] for row in of], dtype=float)
        for key, label, marker in (("seconds", "time", "o"), ("bytes", "memory", "s")):
            y = np.array([row[key] for row in of]) / (of[0][key] or 1)
            slope, last = slopes(rows, grows, key)
            panel.loglog(
                x, y, marker=marker, label=f"{label}: slope {slope:.2f} (last step {last:.2f})"
            )
        panel.loglog(x, x / x[0], color="0.6", linestyle="--", label="slope 1")
        panel.set_xlabel(grows)
        panel.legend(frameon=False)
    panels[0].set_ylabel("times the smallest")
    figure.savefig(file, dpi=150)


def tables(rows: list[dict[str, Any]], rounds: int) -> str:
    """The numbers, and the slopes."""
    columns = ["grows", "points", "examples", "parameters", "seconds", "peak memory, MB"]
    numbers = [
        [
            row["grows"],
            f"{row['points']:,}",
            f"{row['examples']:,}",
            f"{row['parameters']:,}",
            f"{row['seconds']:.3f}",
            f"{row['bytes'] / 1e6:.1f}",
        ]
        for row in rows
    ]
    fitted = [
        [
            grows,
            *(f"{slope:.2f}" for key in ("seconds", "bytes") for slope in slopes(rows, grows, key)),
        ]
        for grows in SERIES
    ]
    return "\n\n".join(
        [
            "## Growth",
            f"Medians of {rounds} rounds of fresh processes; memory is what evaluate adds at its "
            "peak.",
            table(
                ["slope against", "time", "time, last step", "memory", "memory, last step"], fitted
            ),
            table(columns, numbers),
        ]
    )


def main() -> None:
    """Read the command line, measure, save, draw and print."""
    read = parser(__doc__)
    read.add_argument("--rounds", type=int, default=3)
    read.add_argument("--scale", type=float, default=1.0, help="of the numbers of examples")
    read.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    given = read.parse_args()
    if given.one:
        print(json.dumps(one_run(*given.one)))
        return
    rows = measure(given.rounds, given.scale)
    text = tables(rows, given.rounds)
    save(given.out, "growth", {"rounds": given.rounds, "scale": given.scale}, rows, text)
    with (given.out / "growth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, given.out / "growth.png")
    print(text)


if __name__ == "__main__":
    main()
