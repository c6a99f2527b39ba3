"""Trajectories: the recorded points of one training run, written while it trains and opened lazily after.

A trajectory is a folder: one safetensors file per snapshot and ``trajectory.json``, the manifest,
which is rewritten (whole or not at all) after each snapshot. A kill loses at most the snapshot in
hand.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from ravine.checkpoints import Checkpoint, align, differences, unwrap
from ravine.errors import InputError
from ravine.params import Params, content_hash
from ravine.results import written_whole

MANIFEST: Final = "trajectory.json"

_FORMAT: Final = "ravine trajectory"
_VERSION: Final = 1
_SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Snapshot:
    """One recorded point: where it stands in training, and where it is kept.

    Attributes:
        step: optimiser updates before it.
        file: its name in the trajectory's folder.
        hash: SHA-256 of its tensors' names, types, shapes and bytes; "" where nobody wrote it down.
    """

    step: int
    file: str
    hash: str = ""


class TrajectoryRecorder:
    """Writes a model's parameters to a folder while it trains: one line in a training loop.

    ``recorder.record(step, model)``, or ``recorder(step, model)`` where a callback is wanted.
    Called every step it keeps those that ``every`` or ``per_decade`` ask for; called once an epoch
    with the default it keeps every epoch. The model is only read. A folder that holds a trajectory
    is continued. Of several processes that train together (``torch.distributed``) only the first
    writes.

    Args:
        folder: where to write; made if need be.
        every: keep the steps divisible by it.
        per_decade: instead, keep step 0 and steps evenly spaced in log(step), about so many per
            factor of 10.

    Raises:
        InputError: the folder holds something else, ``every`` or ``per_decade`` is below 1, or both
            are given.

    Examples:
        >>> import tempfile
        >>> from torch import nn
        >>> folder = tempfile.mkdtemp()
        >>> model = nn.Linear(1, 1)
        >>> recorder = TrajectoryRecorder(folder, every=2)
        >>> for step in range(5):
        ...     _ = nn.init.constant_(model.weight, step)
        ...     recorder.record(step, model)
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
            list(_read_manifest(self.folder)) if (self.folder / MANIFEST).exists() else []
        )
        if not self.snapshots and self.folder.exists() and not self.folder.is_dir():
            msg = f"cannot record into {str(self.folder)!r}: it is a file. Choose another folder."
            raise InputError(msg)
        self._shape: Checkpoint | None = None  # the first snapshot, for comparing names and shapes

    def record(self, step: int, model: Any) -> None:
        """Keep the model's parameters (and buffers) as they are after ``step`` updates, if this step is wanted.

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

    def keep(self, step: int, model: Any) -> None:
        """Keep this step whether or not ``every`` or ``per_decade`` ask for it; otherwise as ``record``."""
        if not _is_first_process():
            return
        point = Checkpoint.read(model)
        if self._shape is None and self.snapshots:
            self._shape = Checkpoint.read(self.folder / self.snapshots[0].file)
        if self._shape is not None and (found := list(differences(self._shape, point))):
            msg = (
                f"step {step} is no point of the trajectory in {str(self.folder)!r}: {found[0]} "
                f"({len(found)} in all)."
                " Record each model in a folder of its own."
            )
            raise InputError(msg)
        passing = _passing_buffers(model)
        tensors = {
            name: _own(tensor)
            for name, tensor in point.tensors.items()
            if name not in point.ties and name not in passing
        }
        snapshot = Snapshot(step, f"step-{step:09d}.safetensors", content_hash(tensors))
        if snapshot in self.snapshots:
            return
        if self.snapshots and step <= self.snapshots[-1].step:
            msg = (
                f"step {step} comes after step {self.snapshots[-1].step} in {str(self.folder)!r}, "
                "with other values. "
                f"If training went back, recorder.rewind({step}) forgets what came after; else "
                "choose another folder."
            )
            raise InputError(msg)
        path = self.folder / snapshot.file
        with written_whole(path) as partial:
            save_file(tensors, partial)
        self._keep([*self.snapshots, snapshot])
        if self._shape is None:
            self._shape = Checkpoint.read(path)

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
        return any(
            round(10 ** (place / self.per_decade)) == step
            for place in (nearest - 1, nearest, nearest + 1)
        )

    def rewind(self, step: int) -> None:
        """Forget the snapshots from ``step`` on, because training went back to before it.

        Args:
            step: the first step to forget.
        """
        kept = [snapshot for snapshot in self.snapshots if snapshot.step < step]
        lost = [snapshot for snapshot in self.snapshots if snapshot.step >= step]
        self._keep(kept)
        for snapshot in lost:
            (self.folder / snapshot.file).unlink(missing_ok=True)

    def _keep(self, snapshots: list[Snapshot]) -> None:
        listed = ",\n  ".join(json.dumps(asdict(snapshot)) for snapshot in snapshots)
        text = f'{{"format": "{_FORMAT}", "version": {_VERSION}, "snapshots": [\n  {listed}\n]}}\n'
        with written_whole(self.folder / MANIFEST) as partial:
            partial.write_text(text, encoding="utf-8")
        self.snapshots = snapshots


class Trajectory(Sequence[Checkpoint]):
    """The points of one training run in the order of their steps; files are read when they are looked at.

    ``run[0]`` and ``run[-1]`` are checkpoints, fit for ``Line(run[0], run[-1])``; all are under the
    names of the first. ``Trajectory.open`` makes one from a folder.

    Args:
        folder: where the snapshots are.
        snapshots: them, in order.

    Examples:
        >>> import tempfile, torch
        >>> folder = Path(tempfile.mkdtemp())
        >>> for step in (9, 10):
        ...     torch.save({"w": torch.full((2,), float(step))}, folder / f"step_{step}.pt")
        >>> run = Trajectory.open(folder)
        >>> run.steps, len(run), run.at(step=10)
        ((9, 10), 2, {'w': tensor([10., 10.])})
    """

    dims: tuple[str, ...] = ("step",)

    def __init__(self, folder: Path, snapshots: Sequence[Snapshot]) -> None:
        self.folder = folder
        self.snapshots = tuple(snapshots)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Trajectory:
        """Open a folder that a ``TrajectoryRecorder`` wrote, or one of ordinary checkpoints with numbered names.

        Args:
            folder: with ``trajectory.json``; or with checkpoints (``Checkpoint.read`` lists the
                formats, a folder of shards counts as one) whose names hold the step: the number
                after ``step`` if there is one (``epoch=3-step=500.ckpt``), else the last number
                (``model_12.pt``). Files without a number (``best.pt``) are passed over.

        Raises:
            InputError: there is no such folder, it holds no snapshot, two of one step, or a
                snapshot that its manifest names is missing.
        """
        place = Path(folder)
        if not place.is_dir():
            msg = (
                f"there is no folder {str(place)!r}; expected one that a TrajectoryRecorder wrote, "
                "or of checkpoints"
            )
            raise InputError(msg)
        if not (place / MANIFEST).exists():
            return cls(place, _numbered(place))
        snapshots = _read_manifest(place)
        lost = [snapshot.file for snapshot in snapshots if not (place / snapshot.file).is_file()]
        if lost or not snapshots:
            what = (
                f"lacks {lost[0]!r}, which its manifest names ({len(lost)} in all)"
                if lost
                else "has no snapshot yet"
            )
            msg = (
                f"the trajectory in {str(place)!r} {what}. Copy the folder whole, or record the "
                "run again."
            )
            raise InputError(msg)
        return cls(place, snapshots)

    @property
    def steps(self) -> tuple[int, ...]:
        """The optimiser steps of the snapshots, in order."""
        return tuple(snapshot.step for snapshot in self.snapshots)

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Neighbouring steps farther apart than most are, where the snapshots are evenly spaced: some may be lost.

        Examples:
            >>> steps = (0, 100, 200, 400, 500)
            >>> Trajectory(Path(), [Snapshot(step, f"{step}.pt") for step in steps]).gaps
            ((200, 400),)
        """
        spans = [after - step for step, after in itertools.pairwise(self.steps)]
        usual = max(set(spans), key=spans.count, default=0)
        if 2 * spans.count(usual) <= len(spans):
            return ()
        return tuple(pair for pair in itertools.pairwise(self.steps) if pair[1] - pair[0] > usual)

    def at(self, step: int) -> Params:
        """The parameters after ``step`` updates.

        Args:
            step: one of ``steps``.

        Returns:
            Tensors by name, mapped from the file; buffers are left out.

        Raises:
            InputError: that step was not recorded; the message names the nearest that were.
        """
        if step not in self.steps:
            near = sorted(sorted(self.steps, key=lambda other: abs(other - step))[:2])
            msg = (
                f"step {step} was not recorded in {str(self.folder)!r}; the nearest "
                f"{'are' if len(near) > 1 else 'is'} {' and '.join(map(str, near))}"
            )
            raise InputError(msg)
        return self[self.steps.index(step)].params

    def __len__(self) -> int:
        return len(self.snapshots)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Trajectory(self.folder, self.snapshots[index])
        found = Checkpoint.read(self.folder / self.snapshots[index].file)
        first = self.snapshots[0]
        if found.adapter is not None:
            return found  # a change to a base that only a slice knows
        return (
            found
            if self.snapshots[index] is first
            else align(Checkpoint.read(self.folder / first.file), found)
        )

    def __iter__(self) -> Iterator[Checkpoint]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        steps = f"steps {self.steps[0]} … {self.steps[-1]}" if self.snapshots else "empty"
        return f"Trajectory({str(self.folder)!r}, {len(self)} snapshots, {steps})"


def _passing_buffers(model: Any) -> set[str]:
    """The buffers that a module says are no part of its state; a file of it would take them for parameters."""
    if not isinstance(model, nn.Module):
        return set()
    return {
        f"{place}.{name}".lstrip(".")
        for place, module in unwrap(model).named_modules()
        for name in module._non_persistent_buffers_set
    }


def _is_first_process() -> bool:
    return (
        not (distributed.is_available() and distributed.is_initialized())
        or distributed.get_rank() == 0
    )


def _own(tensor: Tensor) -> Tensor:
    """The tensor in host memory of its own, as safetensors wants it; copied only where it is not."""
    local = tensor.detach().cpu().contiguous()
    return local.clone() if local.untyped_storage().nbytes() != local.nbytes else local


def _read_manifest(folder: Path) -> tuple[Snapshot, ...]:
    path = folder / MANIFEST
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != _FORMAT or held["version"] > _VERSION:
            msg = (
                f"format {held['format']!r}, version {held['version']}; this ravine reads up to "
                f"{_VERSION}"
            )
            raise ValueError(msg)
        snapshots = tuple(
            Snapshot(int(s["step"]), str(s["file"]), str(s["hash"])) for s in held["snapshots"]
        )
    except (OSError, ValueError, KeyError, TypeError) as problem:
        msg = (
            f"{str(path)!r} is not the manifest of a trajectory ({type(problem).__name__}: "
            f"{problem})"
        )
        raise InputError(msg) from problem
    strange = [s.file for s in snapshots if Path(s.file).name != s.file]
    steps = [snapshot.step for snapshot in snapshots]
    if strange or any(step >= after for step, after in zip(steps, steps[1:], strict=False)):
        what = f"a file outside its folder, {strange[0]!r}" if strange else "steps that do not grow"
        msg = f"{str(path)!r} names {what}; was it edited?"
        raise InputError(msg)
    return snapshots


def _numbered(folder: Path) -> list[Snapshot]:
    found: dict[int, str] = {}
    for path in sorted(folder.iterdir()):
        step = _step_of(path)
        if step is None:
            continue
        if step in found:
            msg = (
                f"{found[step]!r} and {path.name!r} in {str(folder)!r} are both of step {step}. "
                "Leave one checkpoint per step."
            )
            raise InputError(msg)
        found[step] = path.name
    if not found:
        msg = (
            f"the folder {str(folder)!r} holds no trajectory: expected {MANIFEST}, or checkpoints "
            f"({', '.join(_SUFFIXES)}) with the step in their names, such as step_500.pt"
        )
        raise InputError(msg)
    return [Snapshot(step, found[step]) for step in sorted(found)]


def _step_of(path: Path) -> int | None:
    if path.name.startswith("."):
        return None
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            return None
        name = path.name
    elif path.suffix in _SUFFIXES:
        name = path.stem
    else:
        return None
    after_step = re.findall(r"step[=_\-]?(\d+)", name, flags=re.IGNORECASE)
    numbers = after_step or re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else None
