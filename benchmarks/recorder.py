"""What recording costs a training: one snapshot per epoch of 500 updates, against none.

    python benchmarks/recorder.py [--rounds 7]

The two take turns, epoch by epoch, on copies of one network; a round's ratio is of two neighbours
in time.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from problems import relu_network
from tables import judged, median, parser, save, table, timed
from torch import nn
from torch.nn import functional as F

import ravine

UPDATES = 500

#: Name → the network and how many examples a batch has.
TRAININGS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "784-512-512-10, batches of 100": (lambda: relu_network(784, 512, 512, 10), 784, 100),
    "64-64-10, batches of 10: nearly nothing to do": (lambda: relu_network(64, 64, 10), 64, 10),
    "1024-2048-2048-10, batches of 32: large for its work": (
        lambda: relu_network(1024, 2048, 2048, 10),
        1024,
        32,
    ),
}


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, targets: torch.Tensor
) -> None:
    """One epoch over the same batch, as a plain loop takes it."""
    for _ in range(UPDATES):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Time epochs with and without a recorder in turn."""
    build, width, batch = TRAININGS[name]
    torch.manual_seed(0)
    plain = build()
    kept = copy.deepcopy(plain)
    inputs, targets = torch.randn(batch, width), torch.randint(10, (batch,))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (plain, kept)]
    times = []
    with tempfile.TemporaryDirectory() as folder:
        recorder = ravine.TrajectoryRecorder(folder, every=UPDATES)

        def recorded(done: int) -> float:
            inside = 0.0
            for update in range(UPDATES):
                optimizers[1].zero_grad()
                F.cross_entropy(kept(inputs), targets).backward()
                optimizers[1].step()
                inside += timed(lambda step=done + update + 1: recorder.record(step, kept))[0]
            return inside

        for turn in range(rounds + 1):
            one: dict[str, float] = {}
            calls = {
                "plain": lambda: epoch(plain, optimizers[0], inputs, targets),
                "recorded": lambda turn=turn: recorded(turn * UPDATES),
            }
            for label in sorted(calls, reverse=bool(turn % 2)):
                one[label], inside = timed(calls[label])
                if inside is not None:
                    one["inside"] = inside
            times.append(one)
        same = all(
            torch.equal(a, b) for a, b in zip(plain.parameters(), kept.parameters(), strict=True)
        )
    return {
        "name": name,
        "parameters": sum(p.numel() for p in plain.parameters()),
        "same": same,
        "rounds": times[1:],  # the first warms up
    }


def tables(rows: list[dict[str, Any]]) -> str:
    """The table: seconds an epoch, and what recording adds."""
    lines = []
    for row in rows:
        rounds = row["rounds"]
        adds = 100 * (median(rounds, "recorded", over="plain") - 1)
        inside = 100 * median(rounds, "inside", over="plain")
        size, seconds = f"{row['parameters']:,}", f"{median(rounds, 'plain'):.2f}"
        lines.append(
            [
                row["name"],
                size,
                seconds,
                judged(inside, 2, f"{inside:.2f}", least=False),
                f"{adds:+.1f}",
            ]
        )
    columns = ["", "parameters", "epoch, s", "in the recorder, %", "longer than without, %"]
    return "\n\n".join(
        [
            f"## Recording: one snapshot an epoch of {UPDATES} updates",
            f"Medians of {len(rows[0]['rounds'])} pairs of epochs, one with a recorder and one "
            "without, in alternating "
            "order. The third number is the time spent in `record` over an epoch without it; the "
            "last, all that an "
            "epoch takes longer, moves with whatever else the machine does. Both trainings end at "
            "the same bits.",
            table(columns, lines),
        ]
    )


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    given = arguments.parse_args()
    found = [measure(name, given.rounds) for name in TRAININGS]
    if not all(row["same"] for row in found):
        message = "recording changed the training"
        raise SystemExit(message)
    text = tables(found)
    print(text)
    save(given.out, "recorder", {"rounds": given.rounds}, found, text)
