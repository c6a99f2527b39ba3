"""The demo: two small networks trained on scans of digits, and the lines between their ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import ravine

_HELD_OUT = 360  # a fifth of the 1,797
_EPOCHS = 40  # the train loss is 0.002 then, and both networks fit all scans they train on
_POINTS = 201


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        descent: the line from an initialisation to its solution.
        crossing: the line between the solutions of two seeds, out to α = −0.5 and 1.5.
        path: the first network's training, epoch by epoch, seen from its line.
        report: the page.
    """

    descent: xr.Dataset
    crossing: xr.Dataset
    path: xr.Dataset
    report: Path


def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """scikit-learn's digits: 1,437 training and 360 held-out scans of 8 × 8 pixels, ten classes.

    Pixels are in [0, 1].

    Raises:
        ravine.InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as problem:
        msg = "the demo's digits come with scikit-learn: pip install 'ravine[demo]'"
        raise ravine.InputError(msg) from problem
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(images, dtype=torch.float32)[order] / 16
    targets = torch.tensor(labels)[order]
    return {
        "train": (inputs[:-_HELD_OUT], targets[:-_HELD_OUT]),
        "held-out": (inputs[-_HELD_OUT:], targets[-_HELD_OUT:]),
    }


def network() -> nn.Sequential:
    """64–256–256–10 with ReLU, 85,002 parameters."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def objective() -> ravine.Objective:
    """Cross-entropy and error of the network on the digits: an OBJECTIVE for the command line."""
    return ravine.Objective(network(), ravine.supervised(F.cross_entropy), dict(digits()), seed=0)


def train(
    seed: int, data: tuple[Tensor, Tensor], folder: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train one network by SGD with momentum, and record it after every epoch.

    Args:
        seed: of the initialisation and of the order of the examples.
        data: inputs and targets.
        folder: where to record.

    Returns:
        Its parameters before and after.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
        start = copy.deepcopy(model.state_dict())
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        inputs, targets = data
        recorder = ravine.TrajectoryRecorder(folder)
        recorder.rewind(0)  # the demo may have been here before
        recorder.record(0, model)
        for epoch in range(1, _EPOCHS + 1):
            for batch in torch.randperm(len(targets)).split(50):
                optimiser.zero_grad()
                F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
                optimiser.step()
            recorder.record(epoch, model)
        return start, copy.deepcopy(model.state_dict())


def run(out: Path, say: Callable[[str], Any], plotlyjs: str = "inline") -> Demo:
    """Train, measure both lines, and write checkpoints, results, figures and the report.

    Args:
        out: the folder to write.
        say: told of each stage in a line.
        plotlyjs: as in ``ravine.write_report``.

    Returns:
        The results and the report's path.
    """
    threads = torch.get_num_threads()
    # batches of 50 are too small to be shared: threads cost more than they bring
    torch.set_num_threads(1)
    try:
        return _made(out, say, plotlyjs)
    finally:
        torch.set_num_threads(threads)


def _made(out: Path, say: Callable[[str], Any], plotlyjs: str) -> Demo:
    data = digits()
    out.mkdir(parents=True, exist_ok=True)
    solutions = []
    for seed, name in enumerate("ab"):
        say(f"training network {name} on 1,437 scans of digits, {_EPOCHS} epochs")
        start, end = train(seed, data["train"], out / f"run-{name}")
        ravine.save_checkpoint(start, out / f"init-{name}.safetensors")
        ravine.save_checkpoint(end, out / f"solution-{name}.safetensors")
        solutions.append(end)
    J = objective()  # noqa: N806  the paper's name for it
    again = f"ravine line ravine.demo:objective {out}/{{}} {out}/{{}} --alpha {{}}:{_POINTS}"
    say(f"measuring from initialisation to solution, {_POINTS} points")
    descent = ravine.evaluate(
        J,
        along=ravine.Line(out / "init-a.safetensors", out / "solution-a.safetensors"),
        at=np.linspace(0, 1, _POINTS),
        title="Initialisation to solution",
        command=again.format("init-a.safetensors", "solution-a.safetensors", "0:1"),
    )
    say(f"measuring from one solution to another, {_POINTS} points")
    crossing = ravine.evaluate(
        J,
        along=ravine.Line(out / "solution-a.safetensors", out / "solution-b.safetensors"),
        at=np.linspace(-0.5, 1.5, _POINTS),
        title="Between the solutions of two seeds",
        command=again.format("solution-a.safetensors", "solution-b.safetensors", "-0.5:1.5"),
    )
    say("projecting the training of network a onto its line")
    path = ravine.project(out / "run-a").assign_attrs(title="Deviation of training from its line")
    figures = {
        "descent": ravine.plot.line(descent),
        "crossing": ravine.plot.line(crossing),
        "path": ravine.plot.path(path),
    }
    for (name, figure), result in zip(figures.items(), (descent, crossing, path), strict=True):
        ravine.save_result(result, out / f"{name}.nc")
        figure.save(out / f"{name}.png")
        figure.save(out / f"{name}.pdf")
    report = ravine.write_report(
        out,
        descent,
        crossing,
        path,
        title="ravine demo: digits",
        plotlyjs=plotlyjs,  # pyright: ignore[reportArgumentType]
        keep=False,
    )
    return Demo(descent, crossing, path, report)
