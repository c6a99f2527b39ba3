"""A Lightning callback that records a run: ``Trainer(callbacks=[LightningRecorder("runs/a")])``."""

from __future__ import annotations

import os
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:  # the same classes under their older name
    from pytorch_lightning import (  # pyright: ignore[reportMissingImports, reportAssignmentType]
        Callback,
        LightningModule,
        Trainer,
    )

from ravine.points.modules import is_fsdp
from ravine.points.recorder import Pace


class LightningRecorder(Callback):  # pyright: ignore[reportGeneralTypeIssues]
    """Records the module's parameters and buffers while Lightning trains it.

    A step is an optimiser update, whatever the accumulation of gradients. Only the first process of
    several writes; a module that FSDP shards is gathered first. When training resumes from a
    checkpoint, what was recorded after that checkpoint is forgotten and recorded again.

    Args:
        folder: where to write; a folder for each run.
        every: keep the steps divisible by it. Alone or with ``per_decade`` missing, every epoch is
            kept.
        per_decade: keep so many steps per factor of 10.

    Raises:
        InputError: as ``TrajectoryRecorder``; or a new training starts in a folder that holds a
            run.

    Examples:
        >>> recorder = LightningRecorder("runs/mine", every=100)  # doctest: +SKIP
        >>> trainer = Trainer(callbacks=[recorder])  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        per_decade: int | None = None,
    ) -> None:
        self.pace = Pace(folder, every=every, per_decade=per_decade)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training starts."""
        model = _whole(trainer, pl_module)
        if self.pace.takes_part(trainer.is_global_zero, model):
            self.pace.start(trainer.global_step, model)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Record the step if it is wanted."""
        model = _whole(trainer, pl_module)
        if self.pace.takes_part(trainer.is_global_zero, model):
            self.pace.after_step(trainer.global_step, model)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch if epochs are wanted."""
        model = _whole(trainer, pl_module)
        if self.pace.takes_part(trainer.is_global_zero, model):
            self.pace.after_epoch(trainer.global_step, model)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record where training ends."""
        model = _whole(trainer, pl_module)
        if self.pace.takes_part(trainer.is_global_zero, model):
            self.pace.end(trainer.global_step, model)


def _whole(trainer: Trainer, module: LightningModule) -> Any:
    """What can be gathered: FSDP's wrapper, where the strategy put one around the module."""
    wrapped = getattr(trainer, "model", None)
    return wrapped if wrapped is not None and is_fsdp(wrapped) else module
