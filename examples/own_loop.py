"""A loop of your own, recorded: what the run looks like from the line between its ends."""

import torch
from torch import nn
from torch.nn import functional as F

import ravine

torch.manual_seed(0)
inputs = torch.randn(2_000, 20)
targets = (inputs @ torch.randn(20, 64)).relu().matmul(torch.randn(64, 5)).argmax(1)
train, valid = (inputs[:1_500], targets[:1_500]), (inputs[1_500:], targets[1_500:])

model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
recorder = ravine.TrajectoryRecorder(
    "out/own-loop/run", every=30
)  # every 30 updates; per_decade=10 for log spacing
recorder.record(0, model)
for step in range(1, 601):
    rows = torch.randint(len(train[0]), (100,))
    optimizer.zero_grad()
    F.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
    optimizer.step()
    recorder.record(step, model)  # writes only where the step is wanted

run = ravine.Trajectory.open("out/own-loop/run")
J = ravine.Objective(model, ravine.supervised(F.cross_entropy), {"train": train, "valid": valid})
line = ravine.Line(run[0], run[-1])
curve = ravine.resolve(J, along=line, tolerance=1e-3)
path = ravine.project(
    run, onto=line, objective=J
)  # where training went, seen from the line, and its learning curve
print(ravine.metrics.verdict(curve))
print(ravine.metrics.verdict(path))
print(ravine.write_report("out/own-loop", curve, path))
