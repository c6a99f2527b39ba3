"""What a 201-point curve costs beside a tight hand-written loop, and how much memory it takes.

    python benchmarks/line.py [--points 201] [--examples 10000] [--rounds 3]

Ratios are of runs taken in turn, tight loop and ravine, in one process; the median over the rounds is printed.
Memory is the peak of a fresh process over what it held before, for a line between two safetensors files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from problems import PROBLEMS, matrix_rate, problem, tight_loop, timed
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import ravine

BATCHES = (128, 256, 512, 1024)


def speed(points: int, examples: int, rounds: int) -> None:
    """Print the table of speed."""
    rate = matrix_rate()
    print(
        f"{points} points, {examples:,} examples; matrix product {rate / 1e9:.0f} GFLOP/s; seconds, and times as fast\n"
    )
    columns = ("tight loop", "evaluate", "", "resolve", "", "points", "largest error")
    print(
        f"{'network':28} {columns[0]:>10} {columns[1]:>9} {columns[2]:>7} {columns[3]:>8} {columns[4]:>7} "
        f"{columns[5]:>7} {columns[6]:>14}"
    )
    for name in PROBLEMS:
        print(row(name, points, examples, rounds), flush=True)


def row(name: str, points: int, examples: int, rounds: int) -> str:
    """Time one network: the tight loop, the grid and the resolved curve in turn, the median of the rounds."""
    alphas = np.linspace(0, 1, points)
    of = problem(name, examples)
    J = ravine.Objective(of.model, ravine.supervised(F.cross_entropy), {"train": of.data})
    exact = ravine.Objective(of.model, J.per_example, {"train": of.data}, dtype=torch.float64)
    line = ravine.Line(of.start, of.end)
    short = {size: timed(lambda size=size: tight_loop(of, alphas[:8], size))[0] for size in 2 * BATCHES}
    batch = min(short, key=lambda size: short[size])
    seconds = []
    for _ in range(rounds):
        tight, _ = timed(lambda: tight_loop(of, alphas, batch))
        grid, _ = timed(lambda: ravine.evaluate(J, along=line, at=alphas, progress=False))
        resolved, curve = timed(lambda: ravine.resolve(J, along=line, progress=False))
        seconds.append((tight, grid, resolved))
    times = np.array(seconds)
    tight, grid, resolved = np.median(times, axis=0)
    ratios = np.median(times[:, :1] / times, axis=0)
    some = alphas[:: max(1, points // 40)]
    truth = ravine.evaluate(exact, along=line, at=some, progress=False)["loss"].values
    error = np.abs(ravine.reconstruct(curve, some)["loss"].values - truth).max() / np.ptp(truth)
    return (
        f"{name:28} {tight:9.2f}s {grid:8.2f}s {ratios[1]:6.2f}x {resolved:7.2f}s {ratios[2]:6.1f}x "
        f"{curve.sizes['alpha']:7d} {error:9.1e} of range"
    )


def measure_memory(folder: str, examples: int) -> None:
    """In a fresh process: print the bytes that a line through a wide network takes at its peak."""
    torch.set_num_threads(2)
    with torch.device("meta"):
        model = wide()
    data = (torch.randn(examples, 2048), torch.randint(0, 10, (examples,)))
    J = ravine.Objective(model, ravine.supervised(F.cross_entropy), data, batch_size=256)
    # what any evaluation needs once: imports, thread pools, libraries
    warm = nn.Linear(2048, 10)
    warm_line = ravine.Line(warm, {n: t + 1 for n, t in warm.state_dict().items()})
    ravine.evaluate(ravine.Objective(warm, J.per_example, data), along=warm_line, at=[0, 1])
    before = resident("VmRSS")
    ravine.evaluate(
        J, along=ravine.Line(f"{folder}/start.safetensors", f"{folder}/end.safetensors"), at=np.linspace(0, 1, 5)
    )
    print(resident("VmHWM") - before)


def resident(field: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(field)


def wide() -> nn.Module:
    """2048–6144–6144–6144–10: 88 million parameters, 352 MB."""
    sizes = [2048, 6144, 6144, 6144]
    layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(6144, 10))


def memory() -> None:
    """Print the table of memory."""
    with tempfile.TemporaryDirectory() as folder:
        model = wide()
        size = sum(p.nbytes for p in model.parameters())
        for name in ("start", "end"):
            save_file(
                {n: t.clone() + (name == "end") * 1e-3 for n, t in model.state_dict().items()},
                f"{folder}/{name}.safetensors",
            )
        del model
        activations = 256 * 6144 * 4 * 2
        command = [sys.executable, __file__, "--measure-memory", folder]
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    share = activations / size
    print(f"\nmemory of a line between two files of {size / 1e6:.0f} MB: {peak / 1e6:.0f} MB at the peak")
    print(f"  = {peak / size:.2f} models; two ends and a working copy are 3.00, a batch's activations {share:.2f}")


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=201)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure-memory", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure_memory:
        measure_memory(given.measure_memory, 512)
        return
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }
    print(json.dumps(about))
    speed(given.points, given.examples, given.rounds)
    memory()


if __name__ == "__main__":
    main()
