"""Is docs/scale.md's cost model right? CPU seconds of one, two and four workers, and predicted.

    python benchmarks/scale.py

CPU seconds, not seconds: they say what is computed whatever else the machine does, and four workers
on two cores too.
"""

from __future__ import annotations

import resource
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import ravine

EXAMPLES, INPUTS, WIDTH = 16_384, 256, 512
POINTS, FEW = 61, 3


def make():
    """An objective: a network of three layers."""
    torch.manual_seed(0)
    data = torch.randn(EXAMPLES, INPUTS), torch.randint(0, 10, (EXAMPLES,))
    sizes = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)
    model = nn.Sequential(nn.Tanh(), sizes[0], nn.Tanh(), sizes[1], nn.Tanh(), sizes[2])
    return ravine.Objective(model, ravine.supervised(F.cross_entropy), data, batch_size=256)


def ends():
    """Two random networks."""
    first = make().model.state_dict()
    torch.manual_seed(1)
    return first, {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in first.items()}


def cpu(J, line, points, workers):
    """CPU seconds of this process, and of all workers, started and ended."""
    own, began = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    grid = np.linspace(0, 1, points)
    if workers:
        with ravine.Workers(workers) as crew:
            ravine.evaluate(J, along=line, at=grid, executor=crew, progress=False)
    else:
        ravine.evaluate(J, along=line, at=grid, progress=False)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return time.process_time() - own, theirs


def main():
    """A table, a row a number of workers; the two constants are found with none and with one."""
    torch.set_num_threads(1)
    J, line = ravine.load_objective(f"{__file__}:make"), ravine.Line(*ends())
    cpu(J, line, FEW, 0)
    few, _ = cpu(J, line, FEW, 0)
    many, _ = cpu(J, line, POINTS, 0)
    each = (many - few) / ((POINTS - FEW) * EXAMPLES)
    _, one = cpu(J, line, FEW, 1)
    start = one - FEW * EXAMPLES * each
    print(f"c = {each * 1e6:.2f} µs a point and example; s = {start:.1f} s a worker\n")
    print("| workers | CPU s of the workers | predicted, W·s + P·N·c | of the caller |")
    print("|---:|---:|---:|---:|")
    for workers in (1, 2, 4):
        own, theirs = cpu(J, line, POINTS, workers)
        predicted = workers * start + POINTS * EXAMPLES * each
        print(f"| {workers} | {theirs:.1f} | {predicted:.1f} | {own:.1f} |", flush=True)


if __name__ == "__main__":
    main()
