"""The curve on a GPU: is it right, and how long does it take beside a tight loop on the same card.

    python benchmarks/gpu.py [--points 201] [--rounds 3] [--only maxout lstm] [--device cpu]
        [--examples N] [--layers 24] [--profile FILE]

First, every network's curve in float32 there against a loop in float64 on the CPU. Then times, all
data resident on the card: the tight loop, the same loop as a CUDA graph (which costs one capture),
evaluate and resolve. Last, a transformer of 354.8 million parameters, dense. With ``--device cpu``
the same runs where there is no GPU, and says nothing about one.
"""

from __future__ import annotations

import cProfile
import io
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problems import Problem, best_batch, criterion, problem, tight_loop
from size import per_token, transformer
from tables import median, parser, save, table, timed
from torch import Tensor

import ravine

NETWORKS = ("digits", "maxout", "relu", "conv", "lstm")
BATCHES = {"lstm": (16, 64, 128), "digits": (512, 1797)}
MORE_BATCHES = (512, 2048, 8192, 32768)
CHECKED = np.array([-0.2, 0.0, 0.3, 0.7, 1.0, 1.3])  # where curves are compared with float64
TOKENS, SEQUENCES, FEW = 512, 16, 21  # of the transformer, and its points


def synchronise(device: str) -> None:
    """Wait for what the device still does."""
    if device == "cuda":
        torch.cuda.synchronize()


def clocked(call: Callable[[], Any], device: str) -> float:
    """Seconds of a call, begun with an idle device and done when the device is."""

    def done() -> None:
        call()
        synchronise(device)

    synchronise(device)
    return timed(done)[0]


def matrix_rate(device: str, size: int = 8192) -> float:
    """FLOP/s of a square float32 matrix product, without TF32."""
    size = size if device == "cuda" else 1024
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 2.0 * size**3 / min(clocked(lambda: a @ b, device) for _ in range(5))


def checked(name: str, examples: int | None, device: str) -> dict[str, Any]:
    """A network's curve on the device against float64 on the CPU, and the stated rounding."""
    of = problem(name, examples)
    truth = tight_loop(of, CHECKED, 256, torch.float64)
    there = of.to(device)
    J, line = there.objective(device=device), there.line
    grid = ravine.evaluate(J, along=line, at=CHECKED, progress=False)
    curve = ravine.resolve(J, along=line, progress=False)
    inside = (CHECKED >= 0) & (CHECKED <= 1)
    drawn = ravine.reconstruct(curve, CHECKED[inside])["loss"].values[:, 0]
    return {
        "network": name,
        "title": of.recipe.title,
        "examples": len(of.data[1]),
        "error": float((np.abs(grid["loss"].values[:, 0] - truth) / truth).max()),
        "floor": float(np.nanmax(grid["loss_noise_floor"].values)),
        "largest": float(truth.max()),
        "drawn": float(np.abs(drawn - truth[inside]).max() / np.ptp(truth[inside])),
    }


@torch.no_grad()
def graphed_loop(of: Problem, alphas: np.ndarray, batch: int) -> np.ndarray:
    """The tight loop with all of a point's launches in one CUDA graph."""
    start, end = list(of.start.values()), list(of.end.values())
    here = [tensor.clone() for tensor in start]
    batches = list(zip(*(tensor.split(batch) for tensor in of.data), strict=True))

    def total() -> Tensor:
        sums = [
            criterion(of.recipe.tight(here, inputs), targets, reduction="sum")
            for inputs, targets in batches
        ]
        return torch.stack(sums).double().sum()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        total()  # libraries choose their kernels outside a capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = total()
    losses = []
    for alpha in alphas:
        torch._foreach_copy_(here, start)
        torch._foreach_lerp_(here, end, float(alpha))
        graph.replay()
        losses.append(result.item() / of.data[1].numel())
    return np.array(losses)


def measure(name: str, examples: int | None, points: int, rounds: int, device: str) -> dict:
    """Time one network, everything in turn; the first round warms up."""
    of = problem(name, examples).to(device)
    sizes = BATCHES.get(name, MORE_BATCHES)
    batch = best_batch(of, [size for size in sizes if size <= 2 * len(of.data[1])])
    J, both = of.objective(device=device), None
    line, alphas = of.line, np.linspace(0, 1, points)
    calls = {
        "tight": lambda: tight_loop(of, alphas, batch),
        "graph": lambda: graphed_loop(of, alphas, batch),
        "evaluate": lambda: ravine.evaluate(J, along=line, at=alphas, progress=False),
        "resolve": lambda: ravine.resolve(J, along=line, progress=False),
    }
    if of.data[1].ndim == 1:  # classes
        both = of.objective(device=device, error=True)
        calls["resolve with error"] = lambda: ravine.resolve(both, along=line, progress=False)
    if device != "cuda":
        del calls["graph"]
    times = [
        {label: clocked(call, device) for label, call in calls.items()} for _ in range(rounds + 1)
    ]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    calls["evaluate"]()
    peak = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    first, rest = of.products[0], sum(of.products[1:])
    return {
        "network": name,
        "title": of.recipe.title,
        "data": of.about,
        "examples": len(of.data[1]),
        "batch": batch,
        "rounds": times[1:],
        "plain_flops": points * (first + rest),
        "peak": peak,
    }


def large(layers: int, rounds: int, device: str) -> dict[str, Any]:
    """A transformer between two points on the device: its own loop, and ravine's, same batches."""
    torch.manual_seed(0)
    model = transformer(layers).to(device)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    end = {name: p + 1e-3 * torch.randn_like(p) for name, p in start.items()}
    count, length = (SEQUENCES, TOKENS) if device == "cuda" else (2, 16)
    words = torch.randint(0, 50257, (count, length), device=device)
    J = ravine.Objective(model, per_token, (words,), batch_size=4, device=device)
    line, alphas = ravine.Line(start, end), np.linspace(0, 1, FEW)
    targets = list(model.parameters())

    @torch.no_grad()
    def loop(at: np.ndarray) -> list[float]:
        losses = []
        for alpha in at:
            for target, a, b in zip(targets, start.values(), end.values(), strict=True):
                torch.lerp(a, b, float(alpha), out=target)
            sums = [per_token(model, (rows,)).double().sum() for rows in words.split(4)]
            losses.append(float(torch.stack(sums).sum()) / (count * (length - 1)))
        return losses

    def grid(at: np.ndarray) -> Any:
        return ravine.evaluate(J, along=line, at=at, progress=False)

    found, truth = grid(alphas)["loss"].values[:, 0], loop(alphas)
    np.testing.assert_allclose(found, truth, rtol=1e-4)
    five = alphas[:: FEW // 4]
    times = [
        {
            "tight": clocked(lambda: loop(alphas), device),
            "tight, 5": clocked(lambda: loop(five), device),
            "evaluate": clocked(lambda: grid(alphas), device),
            "evaluate, 5": clocked(lambda: grid(five), device),
        }
        for _ in range(rounds)
    ]
    return {
        "parameters": sum(p.numel() for p in targets),
        "tokens": words.numel(),
        "apart": float(np.abs(found - truth).max()),
        "rounds": times,
    }


def tables(
    known: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    big: dict[str, Any] | None,
    points: int,
    rate: float,
    device: str,
) -> str:
    """All tables."""
    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU, a trial run"
    right = [
        [
            row["title"],
            f"{row['examples']:,}",
            f"{row['error']:.1e}",
            f"{row['floor'] / row['largest']:.1e}",
            f"{row['drawn']:.1e}",
        ]
        for row in known
    ]
    parts = [
        f"## On {where}: a curve of {points} points",
        "Against a loop in float64 on the CPU, at six points from -0.2 to 1.3: the largest "
        "relative error of the loss, the noise floor over the loss, and the error of the resolved "
        "curve over its range.",
        table(["network", "examples", "error", "noise floor", "resolved"], right),
        f"Medians of {len(rows[0]['rounds'])} alternating rounds, after one to warm up. The tight "
        "loop has its best batch size; × is how many times as fast as it. *Rate* is the share of "
        f"the card's float32 matrix rate, {rate / 1e12:.0f} TFLOP/s, if every layer were computed "
        "at every point.",
        _times(rows),
    ]
    if big is not None:
        ratio = median(big["rounds"], "tight", over="evaluate")
        five = median(big["rounds"], "tight, 5", over="evaluate, 5")
        parts.append(
            f"A transformer of {big['parameters'] / 1e6:.1f} million parameters, {big['tokens']:,} "
            f"tokens: {FEW} points in {median(big['rounds'], 'evaluate'):.2f} s, {ratio:.2f} times "
            f"as fast as its own loop; 5 points {five:.2f} times."
        )
    return "\n\n".join(parts)


def _times(rows: list[dict[str, Any]]) -> str:
    names = ("graph", "evaluate", "resolve", "resolve with error")
    lines = []
    for row in rows:
        cells = [f"{1e3 * median(row['rounds'], 'tight'):.1f} ms"]
        for name in names:
            if name not in row["rounds"][0]:
                cells.append("")
                continue
            ratio = median(row["rounds"], "tight", over=name)
            cells.append(f"{1e3 * median(row['rounds'], name):.1f} ms, {ratio:.2f}×")
        cells.append(f"{row['peak'] / 2**20:,.0f} MiB")
        lines.append([row["title"], f"{row['examples']:,}", *cells])
    return table(["network", "examples", "tight loop", *names, "peak of evaluate"], lines)


def profiled(name: str, examples: int | None, points: int, device: str) -> str:
    """Where evaluate's time goes on the host, for one network."""
    of = problem(name, examples).to(device)
    J, at = of.objective(device=device), np.linspace(0, 1, points)
    ravine.evaluate(J, along=of.line, at=at, progress=False)
    profile = cProfile.Profile()
    profile.runcall(ravine.evaluate, J, along=of.line, at=at, progress=False)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
    pstats.Stats(profile, stream=text).sort_stats("cumtime").print_stats(60)
    return f"# {name}\n{text.getvalue()}"


def main() -> None:
    """Read the command line, measure, save and print."""
    read = parser(__doc__)
    read.add_argument("--points", type=int, default=201)
    read.add_argument("--examples", type=int, help="at most so many")
    read.add_argument("--rounds", type=int, default=3)
    read.add_argument("--only", nargs="+", default=NETWORKS, choices=NETWORKS)
    read.add_argument("--layers", type=int, default=24, help="of the transformer; 0 leaves it out")
    read.add_argument("--device", default="cuda")
    read.add_argument("--profile", type=Path, help="also write where the host's time goes")
    given = read.parse_args()
    device = given.device
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    known = [checked(name, given.examples, device) for name in given.only]
    for row in known:
        print(row, flush=True)
    rate, rows = matrix_rate(device), []
    for name in given.only:
        rows.append(measure(name, given.examples, given.points, given.rounds, device))
        print(rows[-1], flush=True)
    big = large(given.layers, given.rounds, device) if given.layers else None
    text = tables(known, rows, big, given.points, rate, device)
    settings = {key: getattr(given, key) for key in ("points", "examples", "rounds", "layers")}
    held = [*known, *rows, *([] if big is None else [big])]
    save(given.out, "gpu", settings, held, text)
    print(text)
    if given.profile is not None:
        names = [name for name in ("digits", "maxout", "lstm") if name in given.only]
        texts = [profiled(name, given.examples, given.points, device) for name in names]
        given.profile.write_text("\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
