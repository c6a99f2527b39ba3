"""Pace: when a framework's run is recorded, whatever the framework."""

from __future__ import annotations

import os
from typing import Any

from ravine.errors import InputError
from ravine.trajectory import TrajectoryRecorder


class Pace:
    """A recorder that is told of starts, steps, epochs and ends, and keeps the steps that were asked for.

    The first and the last step are always kept; between them every epoch, or the steps that
    ``every`` or ``per_decade`` name.

    Args:
        folder: where to write.
        every: keep the steps divisible by it; None with ``per_decade`` None keeps epochs.
        per_decade: keep so many steps per factor of 10.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int | None = None,
        per_decade: int | None = None,
    ) -> None:
        self.by_epoch = every is None and per_decade is None
        self.recorder = TrajectoryRecorder(
            folder, every=1 if every is None else every, per_decade=per_decade
        )
        self._last = -1

    def start(self, step: int, model: Any) -> None:
        """Training starts, or goes on, after ``step`` updates.

        Raises:
            InputError: a new training in a folder that holds a run.
        """
        recorded = [snapshot.step for snapshot in self.recorder.snapshots]
        if step == 0 and recorded and recorded[-1] > 0:
            msg = (
                f"{str(self.recorder.folder)!r} holds a run up to step {recorded[-1]}, and this "
                "training starts anew. "
                "Choose another folder, remove that one, or resume the training from its "
                "checkpoint."
            )
            raise InputError(msg)
        if any(found > step for found in recorded):
            self.recorder.rewind(step + 1)
        self._last = step
        self._keep(step, model)

    def after_step(self, step: int, model: Any) -> None:
        """A batch is done; ``step`` counts updates, so several batches may share it."""
        if step != self._last and not self.by_epoch and self.recorder.wants(step):
            self._keep(step, model)
        self._last = step

    def after_epoch(self, step: int, model: Any) -> None:
        """An epoch is done."""
        if self.by_epoch:
            self._keep(step, model)

    def end(self, step: int, model: Any) -> None:
        """Training is over."""
        self._keep(step, model)

    def _keep(self, step: int, model: Any) -> None:
        if all(snapshot.step != step for snapshot in self.recorder.snapshots):
            self.recorder.keep(step, model)
