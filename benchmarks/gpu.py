"""The curve on a GPU: evaluate and resolve beside the tight loop, all data resident there.

    python benchmarks/gpu.py [--points 201] [--examples N] [--rounds 3]

Where there is no CUDA device nothing is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from problems import best_batch, problem, tight_loop
from tables import median, parser, save, table, timed

import ravine

NETWORKS = ("digits", "maxout", "conv")
BATCHES = (512, 2048, 8192, 32768)


def synchronised(call: Any) -> Any:
    """The call, begun with an idle device and done when the device is."""

    def done() -> Any:
        found = call()
        torch.cuda.synchronize()
        return found

    torch.cuda.synchronize()
    return done


def measure(name: str, examples: int | None, points: int, rounds: int) -> dict[str, Any]:
    """Time one network, everything in turn; the first round warms up."""
    of = problem(name, examples).to("cuda")
    batch = best_batch(of, BATCHES)
    J = of.objective(device="cuda")
    matched = of.objective(device="cuda", batch_size=batch)
    line, alphas = of.line, np.linspace(0, 1, points)
    calls = {
        "tight": lambda: tight_loop(of, alphas, batch),
        "evaluate": lambda: ravine.evaluate(J, along=line, at=alphas, progress=False),
        "evaluate, same batch": lambda: ravine.evaluate(
            matched, along=line, at=alphas, progress=False
        ),
        "resolve": lambda: ravine.resolve(J, along=line, progress=False),
    }
    times = [
        {label: timed(synchronised(call))[0] for label, call in calls.items()}
        for _ in range(rounds + 1)
    ]
    return {
        "network": name,
        "title": of.recipe.title,
        "data": of.about,
        "examples": len(of.data[1]),
        "batch": batch,
        "rounds": times[1:],
    }


def tables(rows: list[dict[str, Any]], points: int) -> str:
    """The table."""
    columns = ["network", "examples", "tight loop"]
    others = ("evaluate", "evaluate, same batch", "resolve")
    lines = []
    for row in rows:
        cells = [f"{median(row['rounds'], 'tight'):.3f} s"]
        for name in others:
            ratio = median(row["rounds"], "tight", over=name)
            cells += [f"{median(row['rounds'], name):.3f} s", f"{ratio:.2f}×"]
        lines.append([row["title"], f"{row['examples']:,}", *cells])
    return "\n\n".join(
        [
            f"## On {torch.cuda.get_device_name()}: a curve of {points} points",
            f"Medians of {len(rows[0]['rounds'])} alternating rounds, after one to warm up. The "
            "tight loop has its "
            "best batch size; *same batch* gives it to ravine too, whose default is 256.",
            table([*columns, *(c for name in others for c in (name, "× tight"))], lines),
        ]
    )


def main() -> None:
    """Read the command line, measure, save and print."""
    read = parser(__doc__)
    read.add_argument("--points", type=int, default=201)
    read.add_argument("--examples", type=int, help="at most so many")
    read.add_argument("--rounds", type=int, default=3)
    given = read.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    rows = [measure(name, given.examples, given.points, given.rounds) for name in NETWORKS]
    text = tables(rows, given.points)
    settings = {key: getattr(given, key) for key in ("points", "examples", "rounds")}
    save(given.out, "gpu", settings, rows, text)
    print(text)


if __name__ == "__main__":
    main()
