"""The README's lines and plane: a ReLU network on MNIST, an initialisation, two solutions.

``RAVINE_DATA=FOLDER python benchmarks/mnist.py`` trains two seeds (some two minutes), prints the
verdicts and draws docs/images.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ravine
from ravine.paper.data import load

IMAGES = Path(__file__).parents[1] / "docs" / "images"
EPOCHS = 8


def network() -> nn.Sequential:
    """784–512–512–10, as PyTorch initialises it."""
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def trained(seed: int, inputs: Tensor, targets: Tensor) -> tuple[dict, dict]:
    """Initialisation and solution of SGD with momentum 0.9, rate 0.05, batches of 100."""
    torch.manual_seed(seed)
    model = network()
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return start, copy.deepcopy(model.state_dict())


def main() -> None:
    """Train, measure, print, draw."""
    inputs, targets = load("mnist")["train"]
    train, valid = (
        (inputs[part], targets[part]) for part in (slice(None, 50_000), slice(50_000, None))
    )
    J = ravine.Objective(  # noqa: N806
        network(), ravine.supervised(F.cross_entropy), {"train": train, "valid": valid}
    )
    torch.set_num_threads(1)  # so that the same numbers come back, however many cores there are
    began = time.perf_counter()
    (start, one), (_, other) = (trained(seed, *train) for seed in (0, 1))
    print(f"trained in {time.perf_counter() - began:.0f} s")
    for name, line in (("descent", ravine.Line(start, one)), ("crossing", ravine.Line(one, other))):
        began = time.perf_counter()
        curve = ravine.resolve(J, along=line, title=f"MNIST, {name}")
        print(f"\n{name}: {time.perf_counter() - began:.0f} s, {curve.sizes['alpha']} points")
        print(ravine.metrics.verdict(curve))
        ravine.plot.line(curve).save(IMAGES / f"mnist-{name}.png")
    began, around = time.perf_counter(), (-0.1, 1.1)
    surface = ravine.resolve(
        J.on("train"),
        along=ravine.Plane(start, one, other),
        interval={"alpha": around, "beta": around},
        tolerance=3e-3,
        title="MNIST, a plane through two solutions",
    )
    print(f"\nplane: {time.perf_counter() - began:.0f} s")
    print(ravine.metrics.verdict(surface))
    ravine.plot.surface(surface).save(IMAGES / "plane.png")


if __name__ == "__main__":
    main()
