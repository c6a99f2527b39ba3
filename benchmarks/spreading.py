"""What workers cost and gain on the maxout network's line: one beside none, two beside one.

    python benchmarks/spreading.py [--points 201] [--rounds 5] [--examples 50000]

Every process has one thread. The workers are started, and know the objective, before the clock
runs. Beside the seconds stand the processor's, of this process and the workers together: where
others use the machine too, those of one round can be compared.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problems import problem
from tables import median, parser, save, table, timed

import ravine

SAME = ("loss", "loss_stderr")


def processor_seconds(workers: ravine.Workers | None) -> list[float]:
    """Seconds of the processor that this process and each worker have used."""
    pids = [] if workers is None else list(workers._pool._processes)
    used = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    tick = os.sysconf("SC_CLK_TCK")
    return [time.process_time(), *((int(of[11]) + int(of[12])) / tick for of in used)]


def measure(points: int, rounds: int, examples: int | None) -> dict[str, Any]:
    """Time a curve by this process, by one worker, with a store too, and by two, in turn."""
    torch.set_num_threads(1)
    of = problem("maxout", examples)
    J, at = of.objective(batch_size=1024), np.linspace(0, 1, points)
    times = []
    with ravine.Workers(1) as one, ravine.Workers(2) as two, tempfile.TemporaryDirectory() as place:

        def evaluate(
            row: dict[str, float], name: str, workers: ravine.Workers | None, **options: Any
        ) -> Any:
            before = processor_seconds(workers)
            asked = {"along": of.line, "at": at, "progress": False, "executor": workers}
            row[name], found = timed(lambda: ravine.evaluate(J, **asked, **options))
            used = np.subtract(processor_seconds(workers), before)
            row[f"{name}, processor"], row[f"{name}, busiest"] = used.sum(), used.max()
            return found

        for workers in (one, two):
            ravine.evaluate(J, along=of.line, at=at[:: points // 4], executor=workers)
        for number in range(rounds):
            store = Path(place) / f"{number}.sqlite"
            row: dict[str, float] = {}
            whole = evaluate(row, "none", None)
            others = [
                evaluate(row, "one", one),
                evaluate(row, "kept", one, store=store),
                evaluate(row, "two", two),
            ]
            for name in SAME:
                for other in others[::2]:
                    np.testing.assert_array_equal(whole[name], other[name])
            times.append(row)
    return {"examples": len(of.data[1]), "about": of.about, "rounds": times}


def tables(row: dict[str, Any], points: int) -> str:
    """The table: seconds, and the ratios within a round."""
    titles = {
        "none": "this process",
        "one": "one worker",
        "kept": "one worker, and a store",
        "two": "two workers",
    }
    lines = [
        [
            title,
            f"{median(row['rounds'], name):.1f}",
            f"{median(row['rounds'], name, over='none'):.2f}",
            f"{median(row['rounds'], f'{name}, processor'):.1f}",
            f"{median(row['rounds'], f'{name}, processor', over='none, processor'):.3f}",
            f"{median(row['rounds'], f'{name}, busiest'):.1f}",
        ]
        for name, title in titles.items()
    ]
    columns = [
        "",
        "seconds",
        "of this process's",
        "processor's seconds",
        "of this process's",
        "of the busiest process",
    ]
    return "\n\n".join(
        [
            f"## Workers: maxout 784–240×5–240×5–10, {points} points, {row['examples']:,} examples",
            f"{row['about']}. Medians of {len(row['rounds'])} alternating rounds; one thread a "
            "process, the workers started. All numbers are the same bits.",
            table(columns, lines),
        ]
    )


def main() -> None:
    """Read the command line, measure, save and print."""
    read = parser(__doc__)
    read.add_argument("--points", type=int, default=201)
    read.add_argument("--rounds", type=int, default=5)
    read.add_argument("--examples", type=int, default=None)
    given = read.parse_args()
    row = measure(given.points, given.rounds, given.examples)
    text = tables(row, given.points)
    settings = {"points": given.points, "rounds": given.rounds, "examples": given.examples}
    save(given.out, "spreading", settings, [row], text)
    print(text)


if __name__ == "__main__":
    main()
