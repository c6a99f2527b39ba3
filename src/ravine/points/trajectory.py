"""Trajectories: the recorded points of one training run, opened lazily."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ravine.errors import InputError
from ravine.points.checkpoint import Checkpoint, matched
from ravine.points.params import Params

MANIFEST: Final = "trajectory.json"

FORMAT: Final = "ravine trajectory"
VERSION: Final = 1
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
        snapshots = read_manifest(place)
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
            else matched(Checkpoint.read(self.folder / first.file), found)
        )

    def __iter__(self) -> Iterator[Checkpoint]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        steps = f"steps {self.steps[0]} … {self.steps[-1]}" if self.snapshots else "empty"
        return f"Trajectory({str(self.folder)!r}, {len(self)} snapshots, {steps})"


def read_manifest(folder: Path) -> tuple[Snapshot, ...]:
    """The snapshots that a folder's manifest names.

    Raises:
        InputError: it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != FORMAT or held["version"] > VERSION:
            msg = (
                f"format {held['format']!r}, version {held['version']}; this ravine reads up to "
                f"{VERSION}"
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
