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
from ravine.points.checkpoint import Checkpoint, from_path, matched
from ravine.points.formats import registry, safetensors_files
from ravine.points.formats.inside import is_inside
from ravine.points.formats.stamps import Stamp
from ravine.points.params import Params, is_content
from ravine.points.steps import Steps, steps_of

MANIFEST: Final = "trajectory.json"

FORMAT: Final = "ravine trajectory"
VERSION: Final = 1
# what a kill may leave without a manifest
_RECORDED: Final = re.compile(r"step-[0-9]{9,}\.safetensors")
_SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class Snapshot:
    """One recorded point: where it stands in training, and where it is kept.

    Attributes:
        step: optimiser updates before it.
        file: its name in the trajectory's folder.
        hash: BLAKE3 of its tensors' names, types, shapes and bytes; "" where nobody wrote it down.
    """

    step: int
    file: str
    hash: str = ""


class Trajectory(Sequence[Checkpoint]):
    """The points of a training run in the order of their steps; files are read when looked at.

    ``run[0]`` and ``run[-1]`` are checkpoints, fit for ``Line(run[0], run[-1])``; all are under the
    names of the first. ``Trajectory.open`` makes one from a folder.

    Args:
        folder: where the snapshots are.
        snapshots: them, in order.
        model: of the architecture, if it is to say which tensors are buffers.

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

    def __init__(
        self, folder: Path, snapshots: Sequence[Snapshot], model: Checkpoint | None = None
    ) -> None:
        self.folder = folder
        self.snapshots = tuple(snapshots)
        self._model = model
        self._checked: dict[str, Stamp] = {}  # the files whose hash was compared, as they were then

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, steps: Steps | None = None, model: Any = None
    ) -> Trajectory:
        """Open a folder of a ``TrajectoryRecorder``, or one of checkpoints with numbered names.

        Args:
            folder: with ``trajectory.json``; or with checkpoints (``Checkpoint.read`` lists the
                formats, a folder of shards counts as one) whose names hold the step: the number at
                ``step`` or ``iteration`` (``epoch=3-step=500.ckpt``), else that at ``epoch``, which
                then is the step, else the plain number (``model_12.pt``, ``ckpt_10k.pt``) that is
                not the same in all names. Metrics, seeds, versions and sizes are passed over, and
                so are files without such a number (``best.pt``).
            steps: name without its ending → step, or a function from one to the other (None passes
                a file over), where the names leave it open.
            model: a module of the architecture, which says what is a buffer. Recordings of before
                ravine 0.2 do not say it of floating-point buffers other than running statistics,
                nor do ordinary checkpoints; those would count as parameters.

        Raises:
            InputError: there is no such folder, it holds no snapshot, the names leave open which
                number is the step, two are of one step, or a snapshot that its manifest names is
                missing.
        """
        place = Path(folder)
        if not place.is_dir():
            msg = (
                f"there is no folder {str(place)!r}; expected one that a TrajectoryRecorder wrote, "
                "or of checkpoints"
            )
            raise InputError(msg)
        known = None if model is None else Checkpoint.read(model)
        if not (place / MANIFEST).exists():
            return cls(place, _numbered(place, steps), known)
        snapshots = read_manifest(place)
        lost = [known.file for known in snapshots if not is_inside(place, known.file)]
        if lost or not snapshots:
            what = (
                f"lacks {lost[0][:80]!r}, which its manifest names ({len(lost)} in all)"
                if lost
                else "has no snapshot yet"
            )
            msg = (
                f"the trajectory in {str(place)!r} {what}. Copy the folder whole, or record the "
                "run again."
            )
            raise InputError(msg)
        return cls(place, snapshots, known)

    @property
    def steps(self) -> tuple[int, ...]:
        """The optimiser steps of the snapshots, in order."""
        return tuple(snapshot.step for snapshot in self.snapshots)

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Neighbouring steps too far apart for evenly spaced snapshots: some may be lost.

        Examples:
            >>> steps = (0, 100, 200, 400, 500)
            >>> Trajectory(Path(), [Snapshot(step, f"{step}.pt") for step in steps]).gaps
            ((200, 400),)
        """
        spans = [after - step for step, after in itertools.pairwise(self.steps)]
        # a run that kept steps evenly in log(step) has no usual span, and no gaps
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
            part = Trajectory(self.folder, self.snapshots[index], self._model)
            part._checked = self._checked
            return part
        found, first = self._read(self.snapshots[index]), self.snapshots[0]
        if found.adapter is not None:
            return found  # a change to a base that only a slice knows
        if self._model is not None:
            return matched(self._model, found)
        return found if self.snapshots[index] is first else matched(self._read(first), found)

    def _read(self, snapshot: Snapshot) -> Checkpoint:
        """A snapshot as it is stored, compared with its hash once.

        Raises:
            InputError: it is not what was recorded.
        """
        path = self.folder / snapshot.file
        found = from_path(path, settled=True)
        if snapshot.hash and self._checked.get(snapshot.file) != found.files[0]:
            if not is_content(safetensors_files.read_file(path, settled=True).held, snapshot.hash):
                msg = (
                    f"the snapshot of step {snapshot.step}, {str(path)!r}, is damaged: its content "
                    "is not what was recorded. Copy it again, or leave it out."
                )
                raise InputError(msg)
            self._checked[snapshot.file] = found.files[0]
        return found

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
        snapshots = tuple(map(_snapshot, held["snapshots"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        msg = (
            f"{str(path)!r} is not the manifest of a trajectory ({type(problem).__name__}: "
            f"{problem})"
        )
        raise InputError(msg) from problem
    # a manifest is a stranger's text: it must not name files elsewhere
    strange = [s.file for s in snapshots if Path(s.file).name != s.file]
    steps = [snapshot.step for snapshot in snapshots]
    if strange or any(step >= after for step, after in zip(steps, steps[1:], strict=False)):
        what = f"a file outside its folder, {strange[0]!r}" if strange else "steps that do not grow"
        msg = f"{str(path)!r} names {what}; was it edited?"
        raise InputError(msg)
    return snapshots


def _snapshot(held: Any) -> Snapshot:
    """An entry of the manifest.

    Raises:
        TypeError: it is none.
    """
    step, file, digest = held["step"], held["file"], held["hash"]
    if type(step) is not int or not 0 <= step < 2**63 or not isinstance(file, str) or not file:
        msg = f"a snapshot of step {str(step)[:40]}, file {str(file)[:80]!r}"
        raise TypeError(msg)
    return Snapshot(step, file, str(digest))


def _numbered(folder: Path, said: Steps | None) -> list[Snapshot]:
    files = {path.name: _name_of(path) for path in sorted(folder.iterdir())}
    named = {file: name for file, name in files.items() if name is not None}
    steps = steps_of(sorted(set(named.values())), said)
    found: dict[int, str] = {}
    for file, name in named.items():
        step = steps.get(name)
        if step is None:
            continue
        if step in found:
            msg = (
                f"{found[step]!r} and {file!r} in {str(folder)!r} are both of step {step}. Leave "
                "one checkpoint per step."
            )
            raise InputError(msg)
        found[step] = file
    if not found:
        read = f"; no step in {', '.join(map(repr, list(named)[:5]))}" if named else ""
        msg = (
            f"the folder {str(folder)!r} holds no trajectory: expected {MANIFEST}, or checkpoints "
            f"({', '.join(_SUFFIXES)}) with the step in their names, such as step_500.pt{read}"
        )
        raise InputError(msg)
    return [Snapshot(step, found[step]) for step in sorted(found)]


def other_checkpoints(folder: Path) -> list[str]:
    """The checkpoints in a folder that no recorder wrote, by their names."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    held = [path.name for path in found if _name_of(path) is not None]
    return [name for name in held if not _RECORDED.fullmatch(name)]


def _name_of(path: Path) -> str | None:
    """What a checkpoint is called without its ending; None of what is no checkpoint."""
    if path.name.startswith("."):
        return None
    if registry.knows(path):
        return path.name
    return path.stem if path.is_file() and path.suffix in _SUFFIXES else None
