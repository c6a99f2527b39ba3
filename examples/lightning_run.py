"""A Lightning training, recorded by a callback. Needs the extra `lightning`."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ravine
from ravine.integrations.lightning import LightningRecorder


class Classifier(pl.LightningModule):
    """A network with its loss and its optimizer, as Lightning wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.network(inputs)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """The loss of a batch."""
        inputs, targets = batch
        return F.cross_entropy(self(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


pl.seed_everything(0, verbose=False)
inputs = torch.randn(1_500, 20)
data = TensorDataset(inputs, (inputs @ torch.randn(20, 5)).argmax(1))
trainer = pl.Trainer(
    max_epochs=20,
    accelerator="cpu",
    callbacks=[
        LightningRecorder("out/lightning/run")
    ],  # every epoch; every=100 for every hundredth update
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
module = Classifier()
trainer.fit(module, DataLoader(data, batch_size=100, shuffle=True))

run = ravine.Trajectory.open("out/lightning/run")
J = ravine.Objective(module, ravine.supervised(F.cross_entropy), {"train": data.tensors})
line = ravine.Line(run[0], run[-1])
curve = ravine.resolve(J, along=line, tolerance=1e-3)
path = ravine.project(run, onto=line, objective=J)
print(ravine.metrics.verdict(curve))
print(ravine.straightness(path))
print(ravine.write_report("out/lightning", curve, path))
