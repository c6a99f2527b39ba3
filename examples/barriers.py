"""Three seeds: what stands between each two, which layers make it, what may be averaged."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import ravine

torch.manual_seed(0)
inputs = torch.randn(2_000, 20)
targets = (inputs @ torch.randn(20, 64)).relu().matmul(torch.randn(64, 5)).argmax(1)
train, valid = (inputs[:1_500], targets[:1_500]), (inputs[1_500:], targets[1_500:])
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))


def trained(seed: int, start: dict[str, torch.Tensor], steps: int = 400) -> dict[str, torch.Tensor]:
    """Where training leads from a start, by one order of the examples."""
    model.load_state_dict(start)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(len(train[0]), (100,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


start = copy.deepcopy(model.state_dict())
shared = trained(
    0, start
)  # two runs that part here have much in common; one from another start has nothing
other = {name: tensor[torch.randperm(len(tensor))] for name, tensor in start.items()}
points = {
    "branch 1": trained(1, shared),
    "branch 2": trained(2, shared),
    "other start": trained(3, other),
}

J = ravine.Objective(model, ravine.supervised(F.cross_entropy), {"train": train, "valid": valid})
between = ravine.evaluate(
    J, along=ravine.pairs(points), at=torch.linspace(0, 1, 25), title="three solutions"
)
for pair, height in ravine.metrics.barriers(between).of("end").items():
    print(f"{pair:24} barrier {height} nats")
print("may be averaged:", ravine.metrics.connected(between))

mean = ravine.average([points["branch 1"], points["branch 2"]])
print("mean of the branches:", J(mean))

line = ravine.Line(points["branch 1"], points["other start"])
groups = ravine.evaluate(
    J, along=ravine.by_group(line), at=torch.linspace(0, 1, 25), title="one layer moves"
)
for layer in groups["line"].values:
    loss = groups["loss"].sel(line=layer, split="train")
    print(
        f"layer {layer}: loss {loss[0].item():.3f} → {loss[-1].item():.3f} where it alone is the "
        "other's"
    )
print(ravine.write_report("out/barriers", between, groups))
