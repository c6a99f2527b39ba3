"""One line under every policy for BatchNorm's running statistics: the choice changes the answer."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import ravine


def trained(seed: int) -> dict[str, torch.Tensor]:
    """The solution that one seed leads to."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(300):
        rows = torch.randint(len(inputs), (100,))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


def network() -> nn.Module:
    """Two hidden layers, each behind a BatchNorm."""
    hidden = [
        nn.Linear(20, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
    ]
    return nn.Sequential(*hidden, nn.Linear(64, 5))


torch.manual_seed(0)
inputs = torch.randn(1_500, 20)
targets = (inputs @ torch.randn(20, 64)).relu().matmul(torch.randn(64, 5)).argmax(1)

J = ravine.Objective(
    network(), ravine.supervised(F.cross_entropy), (inputs, targets), buffers="recompute"
)
line = ravine.Line(trained(1), trained(2))
curves = ravine.compare_buffers(J, line, at=torch.linspace(0, 1, 41))
for policy, height in ravine.metrics.barriers(curves).of("end").items():
    print(f"{policy:12} barrier {height} nats, at α = {height.at:.2f}")
print(ravine.write_report("out/batchnorm", curves))
