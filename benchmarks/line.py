"""What a 201-point curve costs: a hand-written loop, three other packages, evaluate, resolve.

    python benchmarks/line.py [--points 201] [--examples N] [--rounds 3] [--only maxout relu]
    [--keep]

All run in turn in one process, round after round; ratios are taken within a round, and the median
is printed. The tight loop and the other packages cost the same at every point, so they are timed on
a few points and scaled to all; the third table shows the cost of a point at two counts. Each
network's row is saved as soon as it is measured.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from problems import RECIPES, Problem, best_batch, problem, tight_loop
from tables import judged, matrix_rate, median, parser, save, saved_rows, table, timed

import ravine

try:
    from peers import PEERS
except ImportError:  # only the extra `bench` brings them
    PEERS = {}

#: network → least times as fast as the tight loop: on the grid, and resolved
GOALS = {"maxout": (2.7, 25.0), "relu": (1.0, 18.0), "conv": (1.0, 12.0)}
OTHER_GOALS = (1.0, 8.0)
PEER_GOAL = 30.0  # resolve, over the fastest of the other packages, on maxout
#: network → points of a short grid → least times as fast as the tight loop
FEW_GOALS = {"transformer": {21: 0.9, 5: 0.6}}
ERROR_GOAL = 1e-4  # of the range, on maxout
RATE_GOAL = 0.6  # of the machine's matrix product, on maxout and ReLU
RATED = ("maxout", "relu")


def measure(
    name: str, examples: int | None, points: int, rounds: int, truth: int
) -> dict[str, Any]:
    """Time one network, everything in turn, and compare the resolved curve with float64."""
    of = problem(name, examples)
    J, line, alphas = of.objective(), of.line, np.linspace(0, 1, points)
    batch = best_batch(of)
    few, fewer = min(21, points), min(11, points)
    calls = {
        "tight": lambda: tight_loop(of, np.linspace(0, 1, few), batch),
        "tight, fewer": lambda: tight_loop(of, np.linspace(0, 1, fewer), batch),
        "evaluate": lambda: ravine.evaluate(J, along=line, at=alphas, progress=False),
        "resolve": lambda: ravine.resolve(J, along=line, progress=False),
    }
    if of.data[1].ndim == 1:  # classes
        both = of.objective(error=True)
        calls["resolve with error"] = lambda: ravine.resolve(both, along=line, progress=False)
    counts = {"tight": few, "tight, fewer": fewer}
    for count in FEW_GOALS.get(name, ()):
        label, at = f"evaluate, {count} points", np.linspace(0, 1, count)
        calls[label] = lambda at=at: ravine.evaluate(J, along=line, at=at, progress=False)
        counts[label] = count
    for peer, curve_of in PEERS.items():
        for label, count in ((peer, 4), (f"{peer}, fewer", 2)):
            calls[label] = lambda curve_of=curve_of, count=count: curve_of(of, count, batch)
            counts[label] = count
    times, rates, found = [], [], {}
    for _ in range(rounds):
        one = {}
        rates.append(matrix_rate())
        for label, call in calls.items():
            seconds, found[label] = timed(call)
            one[label] = seconds * points / counts.get(label, points)  # of the whole curve
        one["faster peer"] = min((one[peer] for peer in PEERS), default=float("nan"))
        times.append(one)
    _require_agreement(of, found, batch)
    curve, rate = found["resolve"], max(rates)
    first, rest = of.products[0], sum(of.products[1:])
    plain, needed = points * (first + rest), points * rest + 2 * first
    return {
        "network": name,
        "title": of.recipe.title,
        "data": of.about,
        "examples": of.data[1].numel(),
        "parameters": sum(p.numel() for p in of.model.parameters()),
        "batch": batch,
        "counts": counts,
        "rounds": times,
        "points": int(curve.sizes["alpha"]),
        "points_with_error": int(found["resolve with error"].sizes["alpha"])
        if "resolve with error" in found
        else 0,
        "resolved": int(curve.attrs["resolved"]),
        "matrix_rate": rate,
        "plain_flops": plain,
        "needed_flops": needed,
        **_errors(of, curve, truth, batch),
    }


def _errors(of: Problem, curve: Any, count: int, batch: int) -> dict[str, float]:
    """The resolved loss beside a float64 loop, halfway between measured points and at the ends."""
    measured = curve["alpha"].values
    between = (measured[1:] + measured[:-1]) / 2
    places = between[np.unique(np.linspace(0, len(between) - 1, count).round().astype(int))]
    places = np.concatenate([[0.0], places, [1.0]])
    truth = tight_loop(of, places, batch, torch.float64)
    miss = np.abs(ravine.reconstruct(curve, places)["loss"].values[:, 0] - truth)
    return {
        "error_of_range": float(miss.max() / np.ptp(truth)),
        "error_of_local": float((miss / np.abs(truth)).max()),
        "truth_points": len(places),
    }


def _require_agreement(of: Problem, found: dict[str, Any], batch: int) -> None:
    """What is timed must be one and the same curve."""
    grid = found["evaluate"]
    curves = {name: found[name] for name in PEERS}
    curves["evaluate"] = (grid["alpha"].values[:: max(1, len(grid["alpha"]) // 4)],)
    for name, (at, *losses) in curves.items():
        here = losses[0] if losses else grid["loss"].sel(alpha=at).values[:, 0]
        np.testing.assert_allclose(
            here, tight_loop(of, at, batch), rtol=1e-3, err_msg=f"{name} gives another curve"
        )


def tables(rows: list[dict[str, Any]], points: int) -> str:
    """The four tables."""
    peers = [name for name in PEERS if all(name in row["rounds"][0] for row in rows)]
    speed = table(
        [
            *(
                "network",
                "examples",
                "tight loop",
                *peers,
                "evaluate",
                "× tight",
                "resolve",
                "× tight",
                "× faster peer",
            ),
            "resolve with error rate",
        ],
        [
            [
                row["title"],
                f"{row['examples']:,}",
                *(f"{median(row['rounds'], name):.2f} s" for name in ("tight", *peers)),
                *_beside_tight(row, "evaluate", 0),
                *_beside_tight(row, "resolve", 1),
                _beside_peers(row) if peers else "not installed",
                _with_error(row),
            ]
            for row in rows
        ],
    )
    accuracy = table(
        [
            "network",
            "points measured",
            "resolved",
            "largest error, of the range",
            "of the local value",
        ],
        [
            [
                row["title"],
                row["points"],
                "yes" if row["resolved"] else "no",
                _beside_goal(
                    row, ("maxout",), ERROR_GOAL, row["error_of_range"], ".1e", least=False
                ),
                f"{row['error_of_local']:.1e}",
            ]
            for row in rows
        ],
    )
    shown = [
        "tight, fewer",
        "tight",
        *(label for peer in peers for label in (f"{peer}, fewer", peer)),
    ]
    linear = table(
        [
            "network",
            "batch",
            *(f"{label.partition(',')[0]}, {rows[0]['counts'][label]}" for label in shown),
        ],
        [
            [
                row["title"],
                row["batch"],
                *(f"{1e3 * median(row['rounds'], label) / points:.4g} ms" for label in shown),
            ]
            for row in rows
        ],
    )
    rates = table(
        [
            "network",
            "machine, GFLOP/s",
            "tight loop",
            "evaluate, plain-equivalent",
            "evaluate, needed only",
        ],
        [
            [
                row["title"],
                f"{row['matrix_rate'] / 1e9:.0f}",
                f"{_share(row, 'tight', 'plain'):.0%}",
                f"{_share(row, 'evaluate', 'plain'):.0%}",
                _beside_goal(row, RATED, RATE_GOAL, _share(row, "evaluate", "needed"), ".0%"),
            ]
            for row in rows
        ],
    )
    rounds = len(rows[0]["rounds"])
    data = "; ".join(
        f"{row['title']}: {row['data']}, {row['parameters']:,} parameters" for row in rows
    )
    return "\n\n".join(
        [
            f"## A curve of {points} points, initialisation → trained solution",
            f"Seconds, medians of {rounds} alternating rounds; ratios are medians of the rounds' "
            "own ratios, goals in "
            f"brackets. The tight loop and the other packages are scaled from fewer points. "
            f"{data}.",
            speed,
            *(_few_points(row) for row in rows if row["network"] in FEW_GOALS),
            "### What resolve gives, beside float64",
            "Between the measured points, where an interpolant is worst, and at the ends; truth is "
            "a tight loop in "
            "float64.",
            accuracy,
            "### Cost of a point, timed at two counts of points",
            "Equal columns mean that the cost is linear in the points, so that scaling is fair.",
            linear,
            "### Share of the machine's matrix-product rate",
            "The machine's rate is a 2048 × 2048 float32 product. *Plain-equivalent* counts the "
            "products that a plain "
            "loop would do, so it passes 100 % where the affine prefix saves work; *needed only* "
            "counts the first "
            "layer at the two ends, and the others at every point.",
            rates,
        ]
    )


def _beside_tight(row: dict[str, Any], name: str, which: int) -> list[str]:
    ratio = median(row["rounds"], "tight", over=name)
    goal = GOALS.get(row["network"], OTHER_GOALS)[which]
    return [f"{median(row['rounds'], name):.2f} s", judged(ratio, goal, f"{ratio:.2f}×")]


def _with_error(row: dict[str, Any]) -> str:
    """The same with the error rate of classes, which no other contestant measures."""
    if not row["points_with_error"]:
        return "–"
    ratio = median(row["rounds"], "tight", over="resolve with error")
    goal = GOALS.get(row["network"], OTHER_GOALS)[1]
    return (
        f"{median(row['rounds'], 'resolve with error'):.2f} s, {row['points_with_error']} points, "
        f"{judged(ratio, goal, f'{ratio:.1f}× tight')}"
    )


def _few_points(row: dict[str, Any]) -> str:
    """Short grids beside the tight loop, where preparations are a large part of the time."""
    said = []
    for count, goal in FEW_GOALS[row["network"]].items():
        ratio = median(row["rounds"], "tight", over=f"evaluate, {count} points")
        said.append(f"{count} points {judged(ratio, goal, f'{ratio:.2f}×')}")
    return f"{row['title']}, evaluate beside the tight loop: {', '.join(said)}."


def _beside_peers(row: dict[str, Any]) -> str:
    return _beside_goal(
        row,
        ("maxout",),
        PEER_GOAL,
        median(row["rounds"], "faster peer", over="resolve"),
        ".1f",
        "×",
    )


def _beside_goal(
    row: dict[str, Any],
    networks: tuple[str, ...],
    goal: float,
    value: float,
    form: str,
    unit: str = "",
    *,
    least=True,
) -> str:
    text = f"{value:{form}}{unit}"
    return judged(value, goal, text, least=least) if row["network"] in networks else text


def _share(row: dict[str, Any], name: str, flops: str) -> float:
    return row[f"{flops}_flops"] / median(row["rounds"], name) / row["matrix_rate"]


def main() -> None:
    """Read the command line, measure, save and print."""
    read = parser(__doc__)
    read.add_argument("--points", type=int, default=201)
    read.add_argument(
        "--examples", type=int, help="at most so many (windows of 35 tokens, for language models)"
    )
    read.add_argument("--rounds", type=int, default=3)
    read.add_argument(
        "--truth", type=int, default=24, help="places between points that are compared with float64"
    )
    read.add_argument(
        "--only", nargs="+", choices=RECIPES, default=list(RECIPES), help="measure only these"
    )
    read.add_argument(
        "--keep",
        action="store_true",
        help="skip what the file holds from the same settings and machine",
    )
    given = read.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    settings = {key: getattr(given, key) for key in ("points", "examples", "rounds", "truth")}
    rows = {row["network"]: row for row in saved_rows(given.out, "line", settings)}
    for name in given.only:
        if given.keep and name in rows:
            continue
        seconds, rows[name] = timed(
            lambda name=name: measure(name, given.examples, given.points, given.rounds, given.truth)
        )
        print(f"{name}: measured in {seconds:.0f} s", flush=True)
        in_order = [rows[known] for known in RECIPES if known in rows]
        save(given.out, "line", settings, in_order, tables(in_order, given.points))
    print(tables([rows[name] for name in RECIPES if name in rows], given.points))


if __name__ == "__main__":
    main()
