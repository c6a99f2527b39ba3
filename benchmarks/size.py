"""A line between two files of a transformer of 354,823,168 parameters: its memory and time.

    python benchmarks/size.py [--folder DIR] [--sequences 4] [--length 128]

GPT-2 medium from its config (nothing is downloaded), random, and a perturbed copy, as two mapped
safetensors files. Each figure comes from a fresh process: the plain forward passes of one point,
with the parameters mapped from a file, give the activations and the time of a pass; then ravine
walks 5 points with the caller's model on the meta device.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import Watch
from safetensors.torch import load_file, save_file
from tables import fresh, judged, parser, save, table, timed
from torch import Tensor, nn
from torch.nn import functional as F

import ravine

POINTS = 5
BATCH = 1
BUFFERS = 64 << 20  # what else ravine may hold, whatever the model's size


def transformer(layers: int) -> nn.Module:
    """GPT-2 medium, or fewer of its layers, from a config."""
    from transformers import GPT2Config, GPT2LMHeadModel  # the extra `bench` brings it

    return (
        GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=layers, n_head=16))
        .eval()
        .requires_grad_(False)
    )


def per_token(model: nn.Module, batch: Any) -> Tensor:
    """The loss of every token but the first of each sequence."""
    logits = model(batch[0], use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch[0][:, 1:].flatten(), reduction="none")


def sequences(count: int, length: int) -> tuple[Tensor]:
    """Random tokens."""
    return (torch.randint(0, 50257, (count, length), generator=torch.Generator().manual_seed(1)),)


def make_files(folder: Path, layers: int) -> dict[str, int]:
    """Write both ends, and say how large one is."""
    torch.manual_seed(0)
    model = transformer(layers)
    params = {name: p.detach() for name, p in model.named_parameters()}  # tied ones once
    save_file(params, folder / "start.safetensors")
    for p in params.values():
        p.add_(torch.randn_like(p), alpha=1e-3)
    save_file(params, folder / "end.safetensors")
    return {
        "parameters": sum(p.numel() for p in params.values()),
        "bytes": sum(p.nbytes for p in params.values()),
    }


def plain(folder: Path, layers: int, count: int, length: int) -> dict[str, float]:
    """Forward passes at one end, parameters mapped from its file: only activations are new."""
    with torch.device("meta"):
        model = transformer(layers)
    model.load_state_dict(load_file(folder / "start.safetensors"), strict=False, assign=True)
    model.tie_weights()
    (x,) = sequences(count, length)

    def whole() -> float:
        return float(torch.cat([per_token(model, (rows,)) for rows in x.split(BATCH)]).mean())

    with torch.no_grad():
        with Watch() as watch:
            whole()
        seconds, loss = timed(whole)
    return {"bytes": watch.peak["anonymous"], "seconds": seconds, "loss": loss}


def walk(folder: Path, layers: int, count: int, length: int) -> dict[str, float]:
    """Ravine's line of a few points between the two files."""
    with torch.device("meta"):
        model = transformer(layers)
    # what any evaluation needs once: imports, thread pools, libraries
    small = nn.Linear(8, 2)
    quick = ravine.Objective(
        small, ravine.supervised(F.cross_entropy), (torch.randn(4, 8), torch.zeros(4).long())
    )
    ends = ravine.Line(small, {n: t + 1 for n, t in small.state_dict().items()})
    ravine.evaluate(quick, along=ends, at=[0, 1], progress=False)
    J = ravine.Objective(model, per_token, sequences(count, length), batch_size=BATCH)
    with Watch() as watch:
        line = ravine.Line(folder / "start.safetensors", folder / "end.safetensors")
        at = np.linspace(0, 1, POINTS)
        seconds, curve = timed(lambda: ravine.evaluate(J, along=line, at=at, progress=False))
    return {
        "bytes": watch.peak["anonymous"],
        "file_bytes": watch.peak["file"],
        "seconds": seconds,
        "loss": float(curve["loss"].values[0, 0]),
    }


def tables(row: dict[str, Any], count: int, length: int) -> str:
    """The table, in units of the model's size."""
    size, activations = row["bytes"], row["plain"]["bytes"]
    found, goal = row["ravine"], size + activations + BUFFERS
    seconds, forward = found["seconds"], row["plain"]["seconds"]
    passes = f"{seconds / forward:.1f} forward passes over the data, for {POINTS} points"
    lines = [
        ["one model", f"{size / 1e6:,.0f} MB", "1.00"],
        [
            "activations of a plain pass",
            f"{activations / 1e6:,.0f} MB",
            f"{activations / size:.2f}",
        ],
        [
            "peak, anonymous",
            f"{found['bytes'] / 1e6:,.0f} MB",
            judged(
                found["bytes"] / size,
                round(goal / size, 3),
                f"{found['bytes'] / size:.2f}",
                least=False,
            ),
        ],
        [
            "peak, mapped files (the system may drop it)",
            f"{found['file_bytes'] / 1e6:,.0f} MB",
            f"{found['file_bytes'] / size:.2f}",
        ],
        ["a plain pass over the data", f"{forward:.1f} s", ""],
        [f"ravine, {POINTS} points", f"{seconds:.1f} s", passes],
    ]
    return "\n\n".join(
        [
            f"## Size: a line between two files of {row['parameters']:,} parameters",
            f"GPT-2 medium from its config, random, float32; {count} sequences of {length} tokens, "
            f"{BATCH} at a time. "
            f"The goal is one working copy, a pass's activations and {BUFFERS >> 20} MiB of "
            "buffers.",
            table(["", "measured", "in models"], lines),
        ]
    )


def main() -> None:
    """Read the command line, measure, save and print."""
    read = parser(__doc__)
    read.add_argument(
        "--folder", type=Path, help="where the two files go for the time being (2.9 GB)"
    )
    read.add_argument("--layers", type=int, default=24, help="fewer for a quick trial")
    read.add_argument("--sequences", type=int, default=4)
    read.add_argument("--length", type=int, default=128)
    read.add_argument("--step", choices=("files", "plain", "ravine"), help=argparse.SUPPRESS)
    given = read.parse_args()
    if given.step == "files":
        print(json.dumps(make_files(given.folder, given.layers)))
        return
    if given.step:
        one = {"plain": plain, "ravine": walk}[given.step]
        print(json.dumps(one(given.folder, given.layers, given.sequences, given.length)))
        return
    sizes = ("--layers", given.layers, "--sequences", given.sequences, "--length", given.length)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        steps = [
            fresh(__file__, "--folder", folder, *sizes, "--step", step)
            for step in ("files", "plain", "ravine")
        ]
    row = {**steps[0], "plain": steps[1], "ravine": steps[2]}
    np.testing.assert_allclose(row["ravine"]["loss"], row["plain"]["loss"], rtol=1e-4)
    text = tables(row, given.sequences, given.length)
    settings = {key: getattr(given, key) for key in ("layers", "sequences", "length")}
    save(given.out, "size", settings, [row], text)
    print(text)


if __name__ == "__main__":
    main()
