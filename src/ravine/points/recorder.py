"""Recording: a training run written to a folder while it trains.

A trajectory is a folder: one safetensors file per snapshot and ``trajectory.json``, the
manifest, which is rewritten (whole or not at all) after each snapshot. A kill loses at most the
snapshot in hand.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor, distributed

from ravine.errors import InputError
from ravine.files import written_whole
from ravine.points.checkpoint import Checkpoint, differences, from_path
from ravine.points.formats.safetensors_files import BUFFERS
from ravine.points.formats.stamps import Stamp
from ravine.points.lock import FolderLock
from ravine.points.modules import is_split, passing_buffers
from ravine.points.params import content_hash
from ravine.points.trajectory import (
    FORMAT,
    MANIFEST,
    VERSION,
    Snapshot,
    other_checkpoints,
    read_manifest,
)


class TrajectoryRecorder:
    """Writes a model's parameters to a folder while it trains: one line in a training loop.

    ``recorder.record(step, model)``, or ``recorder(step, model)`` where a callback is wanted.
    Called every step it keeps those that ``every`` or ``per_decade`` ask for; called once an epoch
    with the default it keeps every epoch. The model is only read. A folder that holds a trajectory
    is continued, by one process at a time. Of several processes that train together
    (``torch.distributed``) only the first writes; call it in each of them, because a model that is
    sharded (FSDP) is gathered first.

    Args:
        folder: where to write; made if need be.
        every: keep the steps divisible by it.
        per_decade: instead, keep step 0 and steps evenly spaced in log(step), about so many per
            factor of 10.

    Raises:
        InputError: the folder holds other checkpoints, ``every`` or ``per_decade`` is below 1, or
            both are given.

    Examples:
        >>> import tempfile
        >>> from torch import nn
        >>> folder = tempfile.mkdtemp()
        >>> model = nn.Linear(1, 1)
        >>> recorder = TrajectoryRecorder(folder, every=2)
        >>> for step in range(5):
        ...     _ = nn.init.constant_(model.weight, step)
        ...     recorder.record(step, model)
        >>> from ravine import Trajectory
        >>> run = Trajectory.open(folder)
        >>> run.steps, float(run.at(step=4)["weight"])
        ((0, 2, 4), 4.0)
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, every: int = 1, per_decade: int | None = None
    ) -> None:
        if per_decade is not None and every != 1:
            msg = "a recorder keeps steps by every= or by per_decade=; give one of them"
            raise InputError(msg)
        for name, value in (
            ("every", every),
            ("per_decade", 1 if per_decade is None else per_decade),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                msg = f"{name} must be a whole number from 1; got {value!r}"
                raise InputError(msg)
        self.folder = Path(folder)
        self.every = every
        self.per_decade = per_decade
        self.snapshots = (
            list(read_manifest(self.folder)) if (self.folder / MANIFEST).exists() else []
        )
        if self.folder.exists() and not self.folder.is_dir():
            msg = f"cannot record into {str(self.folder)!r}: it is a file. Choose another folder."
            raise InputError(msg)
        strange = [] if self.snapshots else other_checkpoints(self.folder)
        if strange:
            msg = (
                f"cannot record into {str(self.folder)!r}: it holds other checkpoints "
                f"({strange[0]!r}). Choose a folder of its own."
            )
            raise InputError(msg)
        self._manifest = self._stamp()
        self._lock: FolderLock | None = None
        self._shape: Checkpoint | None = None  # the first snapshot, for comparing names and shapes

    def record(self, step: int, model: Any) -> None:
        """Keep the model's parameters (and buffers) after ``step`` updates, if it is wanted.

        Args:
            step: optimiser updates so far, counted from 0; they must grow. The same step with the
                same values, as a resumed training gives, is no error and changes nothing.
            model: a module (DDP and ``torch.compile`` wrappers are looked through), a state dict,
                or anything that ``Checkpoint.read`` takes.

        Raises:
            InputError: the step is not after the last one, the model has other names or shapes than
                before, or the folder cannot be written.
        """
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            msg = f"step must be a whole number from 0; got {step!r}"
            raise InputError(msg)
        if self.wants(step):
            self.keep(step, model)

    def keep(self, step: int, model: Any, *, late: bool = False) -> None:
        """Keep this step, whatever ``every`` and ``per_decade`` ask; otherwise as ``record``.

        Args:
            step: as in ``record``.
            model: as in ``record``.
            late: the step may lie before others that were kept, as the best epoch's does, which is
                known only afterwards.
        """
        if not _is_first_process() and not is_split(model):
            return
        point = Checkpoint.read(model)  # gathered from all processes, if it is split between them
        if not _is_first_process():
            return
        point.require_unchanged()  # and has values
        self._require_own()
        self._require_alike(step, point)
        passing = passing_buffers(model)
        tensors = {
            name: _own(tensor)
            for name, tensor in point.tensors.items()
            if name not in point.ties and name not in passing
        }
        snapshot = Snapshot(step, f"step-{step:09d}.safetensors", content_hash(tensors))
        if snapshot in self.snapshots:
            return
        taken = {other.step for other in self.snapshots}
        is_early = bool(taken) and step <= max(taken)
        if step in taken or (is_early and not late):
            msg = (
                f"step {step} comes after step {self.snapshots[-1].step} in {str(self.folder)!r}, "
                f"with other values. If training went back, recorder.rewind({step}) forgets what "
                "came after; else choose another folder."
            )
            raise InputError(msg)
        path = self.folder / snapshot.file
        with written_whole(path) as partial:
            _write(tensors, sorted(point.buffers & tensors.keys()), partial, path)
        # after its file: a kill in between leaves a file that is not listed, and not the reverse
        self._keep(sorted([*self.snapshots, snapshot], key=lambda kept: kept.step))
        if self._shape is None:
            self._shape = from_path(path, settled=True)

    __call__ = record

    def wants(self, step: int) -> bool:
        """Whether this step would be kept.

        Examples:
            >>> import tempfile
            >>> recorder = TrajectoryRecorder(tempfile.mkdtemp(), per_decade=3)
            >>> [step for step in range(101) if recorder.wants(step)]
            [0, 1, 2, 5, 10, 22, 46, 100]
        """
        if self.per_decade is None or step == 0:
            return step % self.every == 0
        nearest = round(math.log10(step) * self.per_decade)
        # neighbours too: rounding a small step may have taken it half a place from its own
        return any(
            round(10 ** (place / self.per_decade)) == step
            for place in (nearest - 1, nearest, nearest + 1)
        )

    def rewind(self, step: int) -> None:
        """Forget the snapshots from ``step`` on, because training went back to before it.

        Args:
            step: the first step to forget.
        """
        self.forget(snapshot.step for snapshot in self.snapshots if snapshot.step >= step)

    def forget(self, steps: Iterable[int]) -> None:
        """Remove the snapshots of these steps; others are left alone.

        Args:
            steps: in any order; one that was not kept is passed over.
        """
        if not _is_first_process():
            return
        gone = set(steps)
        lost = [snapshot for snapshot in self.snapshots if snapshot.step in gone]
        # before the files: a kill in between leaves some that are not listed, and not the reverse
        self._keep([snapshot for snapshot in self.snapshots if snapshot.step not in gone])
        for snapshot in lost:
            (self.folder / snapshot.file).unlink(missing_ok=True)

    def _require_alike(self, step: int, point: Checkpoint) -> None:
        if self._shape is None and self.snapshots:
            self._shape = from_path(self.folder / self.snapshots[0].file, settled=True)
        if self._shape is not None and (found := list(differences(self._shape, point))):
            msg = (
                f"step {step} is no point of the trajectory in {str(self.folder)!r}: {found[0]} "
                f"({len(found)} in all). Record each model in a folder of its own."
            )
            raise InputError(msg)

    def _require_own(self) -> None:
        """Refuse a folder that another training writes to, wrote to since, or that was taken away.

        Raises:
            InputError: so that two runs do not become one.
        """
        if self._manifest is not None and self._stamp() is None:
            msg = (
                f"the trajectory in {str(self.folder)!r} is gone, with {len(self.snapshots)} "
                "snapshots that were recorded. Choose another folder for what follows."
            )
            raise InputError(msg)
        self._lock = FolderLock.on(self.folder)
        if self._stamp() != self._manifest:
            msg = (
                f"another training has recorded into {str(self.folder)!r} since this one looked. "
                "Choose another folder."
            )
            raise InputError(msg)

    def _stamp(self) -> Stamp | None:
        path = self.folder / MANIFEST
        return Stamp.of(path) if path.exists() else None

    def _keep(self, snapshots: list[Snapshot]) -> None:
        self._lock = FolderLock.on(self.folder)
        listed = ",\n  ".join(json.dumps(asdict(snapshot)) for snapshot in snapshots)
        text = f'{{"format": "{FORMAT}", "version": {VERSION}, "snapshots": [\n  {listed}\n]}}\n'
        with written_whole(self.folder / MANIFEST) as partial:
            partial.write_text(text, encoding="utf-8")
        self.snapshots, self._manifest = snapshots, self._stamp()


def _write(tensors: dict[str, Tensor], buffers: list[str], partial: Path, target: Path) -> None:
    """The tensors in a file, with the names of those that are no parameters in its metadata.

    Raises:
        InputError: it cannot be written, as on a full disk.
    """
    try:
        save_file(tensors, partial, {BUFFERS: json.dumps(buffers)} if buffers else None)
    except (safetensors.SafetensorError, OSError) as problem:
        msg = f"cannot write {str(target)!r}: {problem}. Make room, or choose another folder."
        raise InputError(msg) from problem


def _is_first_process() -> bool:
    return (
        not (distributed.is_available() and distributed.is_initialized())
        or distributed.get_rank() == 0
    )


def _as_the_first_says(answer: bool, model: Any) -> bool:
    """The first process's answer, if a model is split: all take part in gathering, or none."""
    if not (distributed.is_available() and distributed.is_initialized() and is_split(model)):
        return answer
    answers = [answer]
    distributed.broadcast_object_list(answers, src=0)
    return answers[0]


def _own(tensor: Tensor) -> Tensor:
    """The tensor in host memory of its own, for safetensors; copied only if it is not."""
    local = tensor.detach().cpu().contiguous()
    return local.clone() if local.untyped_storage().nbytes() != local.nbytes else local


class Pace:
    """A recorder that is told of starts, steps, epochs and ends, and keeps the wanted steps.

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
        self._split: bool | None = None  # not known before there is a model

    def takes_part(self, is_first: bool, model: Any) -> bool:
        """Whether a process has to call: the first one, and all if the model is split."""
        if self._split is None:
            self._split = is_split(model)
        return is_first or self._split

    def start(self, step: int, model: Any) -> None:
        """Training starts, or goes on, after ``step`` updates.

        Raises:
            InputError: a new training in a folder that holds a run.
        """
        recorded = [snapshot.step for snapshot in self.recorder.snapshots]
        if step == 0 and recorded and recorded[-1] > 0:
            msg = (
                f"{str(self.recorder.folder)!r} holds a run up to step {recorded[-1]}, and this "
                "training starts anew. Choose another folder, remove that one, or resume the "
                "training from its checkpoint."
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
        is_new = all(snapshot.step != step for snapshot in self.recorder.snapshots)
        if _as_the_first_says(is_new, model):
            self.recorder.keep(step, model)
