"""A callback that records a run of Hugging Face's Trainer: ``callbacks=[TrainerRecorder(…)]``."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback

from ravine.points.recorder import Pace


class TrainerRecorder(TrainerCallback):
    """Records the model's parameters and buffers while the Trainer trains it.

    A step is an optimiser update (``state.global_step``), whatever the accumulation of gradients.
    Only the first process of several writes; a model that FSDP shards is gathered first. When
    training resumes from a checkpoint, what was recorded after that checkpoint is forgotten and
    recorded again.

    Args:
        folder: where to write; a folder for each run.
        every: keep the steps divisible by it. Alone or with ``per_decade`` missing, every epoch is
            kept.
        per_decade: keep so many steps per factor of 10.

    Raises:
        InputError: as ``TrajectoryRecorder``; or a new training starts in a folder that holds a
            run.

    Examples:
        >>> recorder = TrainerRecorder("runs/mine", every=100)  # doctest: +SKIP
        >>> trainer = Trainer(model, args, callbacks=[recorder])  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        per_decade: int | None = None,
    ) -> None:
        self.pace = Pace(folder, every=every, per_decade=per_decade)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record where training starts."""
        if self.pace.takes_part(state.is_world_process_zero, kwargs["model"]):
            self.pace.start(state.global_step, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step if it is wanted."""
        if self.pace.takes_part(state.is_world_process_zero, kwargs["model"]):
            self.pace.after_step(state.global_step, kwargs["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the epoch if epochs are wanted."""
        if self.pace.takes_part(state.is_world_process_zero, kwargs["model"]):
            self.pace.after_epoch(state.global_step, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record where training ends."""
        if self.pace.takes_part(state.is_world_process_zero, kwargs["model"]):
            self.pace.end(state.global_step, kwargs["model"])
