"""Memory: everything that the rest of a training depends on, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import ravine
from ravine.paper.training.files import whole

STATE: Final = "state.safetensors"

#: What is kept of each parameter: its values, its velocity, and its values where the solution is.
Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass
class State:
    """How far a training is, and what was noted.

    Attributes:
        phase: counted from 0.
        epoch: finished ones, in this phase.
        update: finished ones, in this phase.
        history: what was monitored, a row before each phase and after its every epoch.
        tests: what the test part said at the end of each phase.
        done: whether it is over.
        generator: the kind of device whose generator the masks are drawn from.
    """

    phase: int = 0
    epoch: int = 0
    update: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    tests: list[dict[str, float]] = field(default_factory=list)
    done: bool = False
    generator: str = "cpu"

    @classmethod
    def read(cls, text: str) -> State:
        """From JSON; also from before there were other tasks than classification, and GPUs."""
        kept = json.loads(text)
        kept.setdefault("tests", [{"errors": count} for count in kept.get("test_errors", [])])
        kept.setdefault("generator", "cpu")
        return cls(**{known.name: kept[known.name] for known in fields(cls)})


@dataclass(frozen=True)
class Streams:
    """The random streams of a training, as their generators' states.

    Attributes:
        order: of the examples; the CPU's.
        masks: of whatever else is drawn while training; the device's.
    """

    order: Tensor
    masks: Tensor


def save(folder: Path, state: State, groups: Groups, streams: Streams) -> None:
    """Write the whole state to one file, in place of the last one.

    Args:
        folder: of the run.
        state: how far it is.
        groups: "params", "velocity" and "best" → parameter name → tensor, on any device.
        streams: of random numbers.
    """
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, held in groups.items()
        for name, tensor in held.items()
    }
    tensors |= {"random/order": streams.order, "random/masks": streams.masks}
    with whole(folder / STATE) as partial:
        save_file(tensors, partial, {"state": json.dumps(asdict(state))})


def restore(folder: Path, groups: Groups, generator: str) -> tuple[State, Streams]:
    """Read the state back; the tensors are overwritten, on the device that they are on.

    Args:
        folder: of the run.
        groups: as in ``save``.
        generator: the kind of device that the training goes on on.

    Returns:
        How far it was, and the random streams.

    Raises:
        ravine.InputError: the file is damaged, or the masks come from another kind of device.
    """
    path = folder / STATE
    try:
        with safe_open(path, framework="pt", device="cpu") as held:
            notes = held.metadata() or {}
            names = held.keys()
            tensors = {name: held.get_tensor(name) for name in names}
        state = State.read(notes["state"])
        with torch.no_grad():
            for group, targets in groups.items():
                for name, target in targets.items():
                    target.copy_(tensors[f"{group}/{name}"])
        streams = Streams(tensors["random/order"], tensors["random/masks"])
    except (
        SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError,
        RecursionError,
    ) as problem:  # fmt: skip
        msg = f"{str(path)!r} is damaged ({problem}); delete it to train from the start"
        raise ravine.InputError(msg) from problem
    if state.generator != generator:
        msg = (
            f"{str(folder)!r} was begun on a device of type {state.generator!r}, whose random "
            f"numbers {generator!r} cannot go on with: choose --device {state.generator}, or "
            "another --out to begin anew"
        )
        raise ravine.InputError(msg)
    return state, streams


def save_params(path: Path, params: Mapping[str, Tensor]) -> None:
    """Write parameters alone.

    Args:
        path: the file to write, whole or not at all.
        params: by name, on any device.
    """
    with whole(path) as partial:
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in params.items()}
        save_file(kept, partial)
