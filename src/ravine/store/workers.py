"""Workers: what runs in another process, with an objective that it built once and keeps."""

from __future__ import annotations

import copy
import os
import pickle
import platform
import signal
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from multiprocessing import current_process, parent_process
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.data import DataLoader

from ravine.errors import InputError
from ravine.objective.data import Split
from ravine.objective.loading import Origin
from ravine.objective.measurement import Request, Setup
from ravine.objective.objective import Objective
from ravine.objective.seat import Seat
from ravine.objective.tiles import Done, Estimate, Order

_KEPT: Final = 2  # objectives, and requests: what an alternation of two needs
_LOCK: Final = threading.Lock()
_OBJECTIVES: Final[OrderedDict[str, Objective]] = OrderedDict()
_SEATS: Final[OrderedDict[str, Seat]] = OrderedDict()

#: Of an objective: what a copy that was made of it in the caller (``with_buffers``, ``on``) may
#: have changed.
POLICIES: Final = (
    "dropout",
    "buffers",
    "seed",
    "dtype",
    "batch_size",
    "check_data",
    "version",
    "correction",
)


@dataclass
class _Self:
    """What a process of ravine's own pools knows of itself: its number, and the devices of all."""

    number: int | None = None
    devices: Sequence[str] | None = None


_SELF: Final = _Self()


@dataclass(frozen=True)
class Call:
    """What is sent to a worker.

    Attributes:
        caller: host and process that it is from.
        versions: of ravine and of PyTorch there.
        path: where modules are looked up there; a worker looks there too, after its own places.
        objective: key of the objective.
        request: key of the request.
        order: the order, pickled.
        parts: key → what it stands for, pickled; left out where the worker is thought to have it.
    """

    caller: tuple[str, int]
    versions: tuple[str, str]
    path: tuple[str, ...]
    objective: str
    request: str
    order: bytes
    parts: Mapping[str, bytes]


@dataclass(frozen=True)
class Lacking:
    """A worker's answer when it has not been told yet what a key stands for."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """A worker's answer when an order cannot be measured.

    Attributes:
        problem: the exception, pickled; None where that cannot be.
        said: its type and message.
        notes: what was added to it: the point, the split and the batch.
        trace: where it was raised.
    """

    problem: bytes | None
    said: str
    notes: tuple[str, ...]
    trace: str


def this_process() -> tuple[str, int]:
    """Host and number of the process."""
    return platform.node(), os.getpid()


def search_path() -> tuple[str, ...]:
    """Where modules are looked up, whatever folder a process is in."""
    return tuple(str(Path(place).absolute()) for place in sys.path)


@cache
def versions() -> tuple[str, str]:
    """Of what has to be the same in all processes."""
    return version("ravine"), str(torch.__version__)


def work(call: Call) -> Done | Lacking | Failed:
    """Measure an order: what an executor runs in a worker."""
    try:
        if call.caller == this_process():
            msg = (
                "executor= has workers that are threads of the calling process, which measure "
                "nothing at the same time: give one whose workers are processes, such as "
                "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn')) or "
                "LocalCluster(processes=True)"
            )
            raise InputError(msg)  # noqa: TRY301  as every other problem
        if call.versions != versions():
            told = [
                f"ravine {one} and PyTorch {other}" for one, other in (versions(), call.versions)
            ]
            msg = f"a worker has {told[0]}, and the caller {told[1]}; expected the same ones"
            raise InputError(msg)  # noqa: TRY301
        with _LOCK:
            sys.path.extend(place for place in call.path if place not in sys.path)
            found = _seat(call)
            if isinstance(found, Lacking):
                return found
            torch.set_num_threads(found.threads)
            order: Order | Estimate = pickle.loads(call.order)
            return found.measured(order) if isinstance(order, Order) else found.estimated(order)
    except Exception as problem:
        return _failed(problem)


def _seat(call: Call) -> Seat | Lacking:
    """The seat of a request: the one that is there, or a new one."""
    seat = _recent(_SEATS, call.request)
    if seat is not None:
        return seat
    objective = _recent(_OBJECTIVES, call.objective)
    needed = [call.request] + ([call.objective] if objective is None else [])
    lacking = tuple(key for key in needed if key not in call.parts)
    if lacking:
        return Lacking(lacking)
    if objective is None:
        made = pickle.loads(call.parts[call.objective])
        objective = made.load() if isinstance(made, Origin) else made
        _keep(_OBJECTIVES, call.objective, objective)
    assert objective is not None  # it was there, or was made
    said: Told = pickle.loads(call.parts[call.request])
    seat = Seat(said.request(objective))
    _keep(_SEATS, call.request, seat)
    return seat


@dataclass(frozen=True)
class Told:
    """A request, as it is sent: without the objective, which the worker has.

    Attributes:
        policies: of the objective.
        splits: the names of those that are measured.
        device: of the caller's objective.
        rest: the request, its objective left out.
    """

    policies: Mapping[str, Any]
    splits: Sequence[str]
    device: str
    rest: Mapping[str, Any]

    @classmethod
    def of(cls, request: Request) -> Told:
        """What is to be sent of a request, its tensors in main memory and each by itself."""
        setup = request.setup
        copies: dict[int, torch.Tensor] = {}

        def alone(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.detach().cpu().clone()
            return copies[id(tensor)]

        spanned = [{n: alone(t) for n, t in corner.items()} for corner in request.spanned]
        return cls(
            policies={name: getattr(setup, name) for name in POLICIES},
            splits=[split.name for split in setup.splits],
            device=str(setup.device),
            rest={
                "hashes": list(request.hashes),
                "spanned": spanned,
                "dtype": request.dtype,
                "threads": request.threads,
            },
        )

    def request(self, objective: Objective) -> Request:
        """The request with the worker's own objective, on its own device.

        Raises:
            InputError: its objective has other splits.
        """
        known = {split.name: split for split in objective.splits}
        strange = [name for name in self.splits if name not in known]
        if strange:
            msg = (
                f"a worker's objective has the splits {list(known)}, and the caller's has "
                f"{strange[0]!r} too: what builds it has to give the same one in every process"
            )
            raise InputError(msg)
        device = torch.device(device_of(self.device, _SELF.number, _SELF.devices))
        splits = tuple(_readable(known[name]) for name in self.splits)
        changed = {**self.policies, "splits": splits}
        setup = replace(_setup(objective), **changed, device=device)
        return Request(setup=setup, **self.rest)


def _readable(split: Split) -> Split:
    """The split, read by this process alone if it may have no children, as a Dask worker."""
    loader = split.source
    if not current_process().daemon or not isinstance(loader, DataLoader) or not loader.num_workers:
        return split
    alone = copy.copy(loader)
    vars(alone).update(num_workers=0, prefetch_factor=None, timeout=0, persistent_workers=False)
    vars(alone)["_DataLoader__multiprocessing_context"] = None
    return replace(split, source=alone)


def _setup(objective: Objective) -> Setup:
    names = Setup.__dataclass_fields__
    return Setup(**{name: getattr(objective, name) for name in names})


def _recent(kept: OrderedDict[str, Any], key: str) -> Any:
    if key in kept:
        kept.move_to_end(key)
    return kept.get(key)


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)


def _failed(problem: Exception) -> Failed:
    """An exception as something that can be sent, whatever it holds."""
    trace = "".join(traceback.format_exception(problem))
    notes = tuple(getattr(problem, "__notes__", ()))
    kept = None
    with suppress(Exception):
        kept = pickle.dumps(problem)
        pickle.loads(kept)  # some can be written, and not read again
        return Failed(kept, _said(problem), notes, trace)
    return Failed(None, _said(problem), notes, trace)


def _said(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"


# --- processes of ravine's own --------------------------------------------------------------------


def begin(numbers: Any, devices: Sequence[str] | None) -> None:
    """Get a process of a pool ready: it leaves Ctrl-C to the caller, and ends with it.

    Args:
        numbers: a shared counter of the pool's processes.
        devices: of the processes, in turn; None: the objective's, and of several GPUs each in turn.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with numbers.get_lock():
        _SELF.number = numbers.value
        numbers.value += 1
    _SELF.devices = devices


def device_of(
    own: str,
    number: int | None,
    devices: Sequence[str] | None,
    gpus: Callable[[], int] = torch.cuda.device_count,
) -> str:
    """The device that a process computes on.

    Args:
        own: of the caller's objective.
        number: of the process in its pool; None where that is not known.
        devices: what the caller chose, for the processes in turn.
        gpus: how many there are.

    Examples:
        >>> [device_of("cpu", number, ["cuda:0", "cuda:1"]) for number in range(3)]
        ['cuda:0', 'cuda:1', 'cuda:0']
        >>> # one worker for each GPU
        >>> [device_of("cuda:0", number, None, lambda: 2) for number in range(3)]
        ['cuda:0', 'cuda:1', 'cuda:0']
        >>> device_of("cpu", 1, None)
        'cpu'
    """
    if number is None or (devices is None and not own.startswith("cuda")):
        return own
    chosen = devices or [f"cuda:{gpu}" for gpu in range(gpus())] or [own]
    return chosen[number % len(chosen)]


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
