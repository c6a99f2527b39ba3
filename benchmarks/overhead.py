"""What a point costs on a network so small that overhead shows: 85,002 parameters, 1,797 digits.

    python benchmarks/overhead.py [--points 201] [--rounds 5]

A curve's seconds are taken as fixed + points × slope, from two counts of points, for the tight loop
and for evaluate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from problems import best_batch, problem, tight_loop
from tables import median, parser, save, table, timed

import ravine

FEW = 5  # as many as evaluate probes for rounding, so that this cost is in the fixed part


def measure(points: int, rounds: int) -> dict[str, Any]:
    """Time the tight loop and evaluate at a few points and at many, in turn."""
    of = problem("digits")
    J, line, batch = of.objective(), of.line, best_batch(of)
    few, many = np.linspace(0, 1, FEW), np.linspace(0, 1, points)
    times = []
    for _ in range(rounds + 1):
        one: dict[str, float] = {}
        for label, at in (("few", few), ("many", many)):
            one[f"tight, {label}"], _ = timed(lambda at=at: tight_loop(of, at, batch))
            one[f"evaluate, {label}"], _ = timed(
                lambda at=at: ravine.evaluate(J, along=line, at=at, progress=False)
            )
        one["resolve"], curve = timed(lambda: ravine.resolve(J, along=line, progress=False))
        for name in ("tight", "evaluate"):
            one[f"{name} per point"] = (one[f"{name}, many"] - one[f"{name}, few"]) / (points - FEW)
            one[f"{name} fixed"] = one[f"{name}, few"] - FEW * one[f"{name} per point"]
        times.append(one)
    return {
        "batch": batch,
        "examples": len(of.data[1]),
        "parameters": sum(p.numel() for p in of.model.parameters()),
        "resolve_points": int(curve.sizes["alpha"]),
        "rounds": times[1:],  # the first warms up
    }


def tables(row: dict[str, Any], points: int) -> str:
    """The table: per point and fixed."""
    rounds = row["rounds"]
    lines = []
    for name, title in (("tight", "tight loop"), ("evaluate", "evaluate")):
        cells = [median(rounds, f"{name} {part}") for part in ("per point", "fixed")]
        whole = median(rounds, f"{name}, many")
        slower = median(rounds, f"{name} per point", over="tight per point")
        lines.append(
            [
                title,
                f"{1e6 * cells[0]:,.0f}",
                f"{slower:.2f}",
                f"{1e3 * cells[1]:.1f}",
                f"{1e3 * whole:.0f}",
            ]
        )
    of = row["resolve_points"]
    lines.append([f"resolve ({of} points)", "", "", "", f"{1e3 * median(rounds, 'resolve'):.0f}"])
    columns = [
        "",
        "µs per point",
        "of the tight loop's",
        "fixed, ms",
        f"curve of {points} points, ms",
    ]
    return "\n\n".join(
        [
            f"## Overhead: {row['parameters']:,} parameters, {row['examples']:,} digits",
            f"Medians of {len(rounds)} alternating rounds; the tight loop in batches of "
            f"{row['batch']}. A curve takes "
            f"fixed + points × slope, from {FEW} and {points} points.",
            table(columns, lines),
        ]
    )


def main() -> None:
    """Read the command line, measure, save and print."""
    read = parser(__doc__)
    read.add_argument("--points", type=int, default=201)
    read.add_argument("--rounds", type=int, default=5)
    given = read.parse_args()
    row = measure(given.points, given.rounds)
    text = tables(row, given.points)
    save(given.out, "overhead", {"points": given.points, "rounds": given.rounds}, [row], text)
    print(text)


if __name__ == "__main__":
    main()
