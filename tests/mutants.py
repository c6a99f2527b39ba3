"""Mutants: honest files of every format that is read, changed at random, and what becomes of each.

As a program, it is a process that reads mutants: one line of JSON in, a kind, a folder and a seed;
one out, the outcome. Whoever asks can end it where it hangs. ``outcomes`` asks.

Outcomes: ``same``, what is read is what was written; ``other``, it is something else, as a format
without checksums cannot tell; ``refused``, by an InputError; else what was raised, or ``ended``
(with the process) or ``hung``.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import queue
import random
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import ravine
from ravine import Checkpoint, InputError, Line, Trajectory
from ravine.points.recorder import TrajectoryRecorder

TOO_LONG = 10.0  # seconds of a processor, with those of the processes that were ended
_BUSY = 10.0  # times as long on the clock: other programs may have the processor
TOO_MUCH = 1 << 30  # bytes of memory that a mutant may take
_PATIENCE = 180.0  # seconds until a process that does not answer is ended

VALUES = [
    None, True, False, 0, -1, 1.5, 1e308, 10**30, 2**63, "", "²", "false", "\x00", "\ud800", "../x",
    "/etc/passwd",
    "x" * 5000, [], {}, [1, "a"], {"a": None}, [[[[[]]]]], "(a+)+$",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
]
STATE = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3), "b": torch.arange(3)}


# --- changes ---


def changed(rng: random.Random, held: bytes) -> bytes:
    """Bytes with one to four changes: flips, cuts, copies, zeros, huge lengths, lost ends."""
    found = bytearray(held)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not found:
            return b""
        at, size = rng.randrange(len(found)), rng.choice((1, 4, 20, 200))
        match rng.randrange(9):
            case 0 | 1:
                found[at] ^= 1 << rng.randrange(8)
            case 2:
                found[at] = rng.randrange(256)
            case 3:
                del found[at : at + size]
            case 4:
                found[at:at] = found[at : at + size]
            case 5:
                other = rng.randrange(len(found))
                part = found[other : other + size]
                found[at : at + len(part)] = part
            case 6:
                found[at : at + size] = bytes(min(size, len(found) - at))
            case 7:
                wide = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) & ((1 << 8 * wide) - 1)
                found[at : at + wide] = number.to_bytes(wide, rng.choice(("little", "big")))
            case _:
                found = rng.choice((found[:at], found[at:], found + found[:at]))
    return bytes(found)


def places(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value may be replaced in parsed JSON."""
    keys = held.keys() if isinstance(held, dict) else range(len(held)) if _is_list(held) else ()
    for key in keys:
        yield (*path, key)
        yield from places(held[key], (*path, key))


def _is_list(held: Any) -> bool:
    return isinstance(held, list)


def changed_json(rng: random.Random, text: bytes) -> bytes:
    """JSON with a value replaced, a key lost, doubled or renamed, very deep; or bytes changed."""
    way = rng.randrange(10)
    if way < 2:
        return changed(rng, text)
    if way == 2:
        deep = rng.choice((50, 5000, 200_000))
        return rng.choice((b"[" * deep, b'{"a":' * deep, text[:-1] + b',"x":' + b"[" * deep))
    held = copy.deepcopy(json.loads(text))
    for _ in range(rng.choice((1, 1, 2))):
        found = list(places(held))
        if not found:
            break
        *outer, last = rng.choice(found)
        here = held
        for key in outer:
            here = here[key]
        if way == 3:
            del here[last]
        elif way == 4 and isinstance(here, dict):
            here[str(rng.choice(VALUES))] = here.pop(last)
        elif way == 5:
            other = held
            for key in rng.choice(found):
                other = other[key]
            here[last] = copy.deepcopy(other)
        else:
            here[last] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(held).encode()


def changed_inside(rng: random.Random, held: bytes) -> bytes:
    """A zip archive, sound in itself, of which one member is changed, lost, or packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(held)) as source, zipfile.ZipFile(out, "w") as target:
        members = source.namelist()
        chosen = rng.choice(
            [*members, *[name for name in members if name.endswith("data.pkl")] * 3]
        )
        way = rng.random()
        for name in members:
            content = source.read(name)
            if name == chosen and way > 0.1:
                content = changed(rng, content)
            elif name == chosen and way > 0.05:
                continue
            packing = zipfile.ZIP_DEFLATED if way < 0.05 or way > 0.95 else zipfile.ZIP_STORED
            target.writestr(zipfile.ZipInfo(name), content, packing)
    return out.getvalue()


def changed_header(rng: random.Random, held: bytes) -> bytes:
    """A safetensors file whose header is changed as JSON, with its right length or another."""
    (size,) = struct.unpack("<Q", held[:8])
    header = changed_json(rng, held[8 : 8 + size])
    length = rng.choice((len(header),) * 9 + (rng.choice(NUMBERS),))
    return struct.pack("<Q", length & (1 << 64) - 1) + header + held[8 + size :]


def changed_hdf5(rng: random.Random, held: bytes) -> bytes:
    """An HDF5 file, sound in itself, of which variables or attributes are lost, or other ones."""
    kept = io.BytesIO(held)
    with h5py.File(kept, "r+") as file:
        for _ in range(rng.choice((1, 1, 2))):
            _change_item(rng, file)
    return kept.getvalue()


def _change_item(rng: random.Random, file: Any) -> None:
    name = rng.choice(list(file))
    item = file[name]
    match rng.randrange(8):
        case 0:
            del file[name]
        case 1:
            with contextlib.suppress(ValueError):  # it is there already
                file.move(name, rng.choice(("x", "loss", "alpha", "split", "loss_stderr", "step")))
        case 2:
            _change_attribute(rng, item if rng.random() < 0.3 and item.attrs else file)
        case 3 | 4:
            _change_attribute(rng, file)
        case 5 if item.shape and item.dtype.kind in "fiu":
            values = np.array(item[()])
            drawn = rng.choice((0, -1, 1, 7)) if values.dtype.kind in "iu" else None
            strange = rng.choice((np.nan, np.inf, -np.inf, 1e308, -1.0, 0.0))
            values.flat[rng.randrange(max(values.size, 1)) :: rng.choice((1, 2, 10**6))] = (
                strange if drawn is None else drawn
            )
            item[()] = values
        case 6:
            values = rng.choice((np.zeros(3), np.array(1.0), np.zeros((2, 2), int), np.zeros(0)))
            del file[name]
            file[name] = values
        case _:
            texts = ["a", "b", "\u00e9"]
            del file[name]
            file[name] = np.array(texts, dtype=h5py.string_dtype())


def _change_attribute(rng: random.Random, item: Any) -> None:
    names = [name for name in item.attrs if not name.startswith(("_N", "DIM", "REF", "CLASS"))]
    if not names:
        return
    name = rng.choice(names)
    if rng.random() < 0.2:
        del item.attrs[name]
        return
    kinds = [
        1.5,
        -1,
        float("nan"),
        "",
        "x",
        "1",
        "[",
        "{}",
        "[1]",
        '{"train": 1}',
        np.zeros(3),
        np.zeros(0),
        True,
    ]
    item.attrs[name] = rng.choice(kinds)


# --- kinds ---


@dataclasses.dataclass
class Honest:
    """A file that is right, how it is changed, and how it is read.

    Attributes:
        file: to change.
        look: reads it; what was read, as a text or bytes.
        change: makes a mutant's bytes.
        reset: sets right what a look may have left.
        has_check: whether anything else than what was written has to be refused.
    """

    file: Path
    look: Callable[[], Any]
    change: Callable[[random.Random, bytes], bytes] = changed
    reset: Callable[[], Any] = lambda: None
    has_check: bool = False


def _tensors(tensors: Any) -> Any:
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous().flatten()
        content = whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b""
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode("utf-8", "replace"))
        found.update(content)
    return found.hexdigest()


def _point(source: Any) -> Callable[[], Any]:
    def look() -> Any:
        found = Checkpoint.read(source)
        float(Line(found, found).length)
        found.require_unchanged()
        return _tensors(found.tensors)

    return look


def zipped(folder: Path) -> Honest:
    torch.save({"model": STATE, "step": 3}, folder / "a.pt")
    return Honest(folder / "a.pt", _point(folder / "a.pt"))


def zipped_inside(folder: Path) -> Honest:
    return dataclasses.replace(zipped(folder), change=changed_inside)


def old(folder: Path) -> Honest:
    path = folder / "a.pth"
    torch.save({"model": STATE, "step": 3}, path, _use_new_zipfile_serialization=False)
    return Honest(path, _point(path))


def lightning(folder: Path) -> Honest:
    held = {"state_dict": STATE, "optimizer_states": [{"state": {0: {"m": torch.ones(2)}}}]}
    torch.save({**held, "callbacks": {}, "epoch": 3}, folder / "a.ckpt")
    return Honest(folder / "a.ckpt", _point(folder / "a.ckpt"), changed_inside)


def weights_bin(folder: Path) -> Honest:
    torch.save(STATE, folder / "pytorch_model.bin")
    return Honest(folder / "pytorch_model.bin", _point(folder))


def safetensors(folder: Path) -> Honest:
    save_file(STATE, folder / "a.safetensors", {"ravine.buffers": '["b"]'})
    return Honest(folder / "a.safetensors", _point(folder / "a.safetensors"))


def safetensors_header(folder: Path) -> Honest:
    return dataclasses.replace(safetensors(folder), change=changed_header)


def index(folder: Path) -> Honest:
    save_file(STATE, folder / "m-1.safetensors")
    held = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(STATE, "m-1.safetensors")}
    (folder / "m.safetensors.index.json").write_text(json.dumps(held))
    return Honest(folder / "m.safetensors.index.json", _point(folder), changed_json)


def index_bin(folder: Path) -> Honest:
    torch.save(STATE, folder / "m-1.bin")
    held = {"weight_map": dict.fromkeys(STATE, "m-1.bin")}
    (folder / "m.bin.index.json").write_text(json.dumps(held))
    return Honest(folder / "m.bin.index.json", _point(folder), changed_json)


def shard(folder: Path) -> Honest:
    index(folder)
    return Honest(folder / "m-1.safetensors", _point(folder), changed_header)


def adapter(folder: Path) -> Honest:
    factors = {"lora_A": torch.ones(2, 2), "lora_B": torch.ones(3, 2)}
    save_file(
        {f"base_model.model.a.{n}.weight": t for n, t in factors.items()},
        folder / "adapter_model.safetensors",
    )
    if "RAVINE_MUTANTS" not in os.environ:
        # as if it were not there: importing it takes seconds
        sys.modules["peft"] = None  # type: ignore[assignment]
    elif importlib.util.find_spec("peft"):
        importlib.import_module("peft")
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["a"], "bias": "none",
        "use_rslora": False, "alpha_pattern": {"a": 3}, "rank_pattern": {"a": 2},
        "modules_to_save": None,
        "init_lora_weights": True, "use_dora": False, "exclude_modules": None, "lora_dropout": 0.0,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Honest(folder / "adapter_config.json", _adapted(folder), changed_json)


def _adapted(folder: Path) -> Callable[[], Any]:
    def look() -> Any:
        line = Line(STATE, folder)
        float(line.length)
        return _tensors(line.end.tensors)

    return look


def adapter_weights(folder: Path) -> Honest:
    adapter(folder)
    return Honest(folder / "adapter_model.safetensors", _adapted(folder), changed_header)


def adapter_old(folder: Path) -> Honest:
    adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    factors = {"lora_A": torch.ones(2, 2), "lora_B": torch.ones(3, 2)}
    held = {f"base_model.model.a.{n}.weight": t for n, t in factors.items()}
    torch.save(held, folder / "adapter_model.bin")
    return Honest(folder / "adapter_model.bin", _adapted(folder), changed_inside)


def manifest(folder: Path) -> Honest:
    recorder = TrajectoryRecorder(folder)
    for step in range(3):
        recorder.record(step, {n: t + step for n, t in STATE.items()})
    del recorder
    return Honest(folder / "trajectory.json", _run(folder), changed_json)


def snapshot(folder: Path) -> Honest:
    manifest(folder)
    file = sorted(folder.glob("*.safetensors"))[-1]
    return Honest(file, _run(folder), changed_header, has_check=True)


def snapshot_bytes(folder: Path) -> Honest:
    return dataclasses.replace(snapshot(folder), change=changed)


def _run(folder: Path) -> Callable[[], Any]:
    def look() -> Any:
        run = Trajectory.open(folder)
        return [run.steps, *(_tensors(found.tensors) for found in run)]

    return look


def distributed(folder: Path) -> Honest:
    from torch.distributed import checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": STATE, "epoch": 3}, checkpoint_id=folder)
    return Honest(folder / ".metadata", _point(folder))


def distributed_part(folder: Path) -> Honest:
    distributed(folder)
    return Honest(next(folder.glob("*.distcp")), _point(folder))


def deepspeed(folder: Path) -> Honest:
    (folder / "global_step5").mkdir()
    torch.save({"module": STATE}, folder / "global_step5" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("global_step5")
    return Honest(folder / "latest", _point(folder))


def deepspeed_states(folder: Path) -> Honest:
    deepspeed(folder)
    file = folder / "global_step5" / "mp_rank_00_model_states.pt"
    return Honest(file, _point(folder), changed_inside)


# --- results ---


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def losses(model: nn.Module, batch: Any) -> Any:
    out = model(batch[0])
    wrong = (out.argmax(1) != batch[1]).double()
    return {"loss": F.cross_entropy(out, batch[1], reduction="none"), "error": wrong}


def objective() -> ravine.Objective:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=drawn)
    torch.manual_seed(0)
    return ravine.Objective(net(), losses, (x, (x[:, 0] > 0).long()), batch_size=20)


def ends(count: int = 2) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [net().state_dict() for _ in range(count)]


def _result(
    make: Callable[[], Any], change: Callable[..., bytes] = changed
) -> Callable[[Path], Honest]:
    def made(folder: Path) -> Honest:
        path = ravine.save_result(make(), folder / "result.nc")
        return Honest(path, lambda: _said(path), change)

    return made


def _said(path: Path) -> Any:
    found = ravine.open_result(path)
    said = str(ravine.metrics.verdict(found))
    numbers = [(name, one.dtype.str, one.values.tobytes()) for name, one in found.variables.items()]
    return hashlib.sha256(repr((said, numbers, found.attrs)).encode("utf-8", "replace")).hexdigest()


def grid() -> Any:
    return ravine.evaluate(objective(), along=Line(*ends()), at=np.linspace(0, 1, 9))


def resolved() -> Any:
    return ravine.resolve(objective(), along=Line(*ends()), tolerance=0.01)


def plane() -> Any:
    return ravine.evaluate(
        objective(), along=ravine.Plane(*ends(3)), at={"alpha": [0, 1], "beta": [0, 0.5, 1]}
    )


def several() -> Any:
    one, two, three = ends(3)
    lines = {"a": Line(one, two), "b": Line(one, three)}
    return ravine.evaluate(objective(), along=lines, at=np.linspace(0, 1, 5))


def path() -> Any:
    held = Path(os.environ["RAVINE_MUTANTS_FOLDER"]) / "run"
    shutil.rmtree(held, ignore_errors=True)
    recorder = TrajectoryRecorder(held)
    for step, point in enumerate(ends(4)):
        recorder.record(step, point)
    run = Trajectory.open(held)
    return ravine.project(run, onto=Line(run[0], run[-1]))


def soup() -> Any:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    data = {"valid": (x, y), "test": (-x, y)}
    parted = ravine.Objective(net(), losses, data, batch_size=20)
    members = {str(number): one for number, one in enumerate(ends(3))}
    return ravine.soup(parted, members, method="greedy").history


# --- stores ---


def store(folder: Path) -> Honest:
    """A store of which any byte may be another: it gives the same numbers, or it is refused."""
    place = folder / "measured.sqlite"
    J, line, at = objective(), Line(*ends()), np.linspace(0, 1, 5)
    ravine.evaluate(J, along=line, at=at, store=place)

    def look() -> Any:
        found = ravine.evaluate(J, along=line, at=at, store=place)
        return found["loss"].values.tobytes(), found["loss_replicates"].values.tobytes()

    def reset() -> None:
        for extra in folder.glob("measured.sqlite-*"):
            extra.unlink()

    return Honest(place, look, reset=reset, has_check=True)


def store_list(folder: Path) -> Honest:
    """The same, asked what it holds."""
    kept = store(folder)
    from ravine.store.ledger import contents

    return dataclasses.replace(kept, look=lambda: contents(kept.file), has_check=False)


def store_log(folder: Path) -> Honest:
    """What a killed process leaves beside a store: its write-ahead log."""
    kept = store(folder)
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA journal_mode = WAL')\n"
        "c.execute('UPDATE tiles SET used = used + 1'); c.commit(); os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(kept.file)], check=True)
    whole = kept.file.read_bytes()
    log = folder / "measured.sqlite-wal"

    def reset() -> None:
        kept.file.write_bytes(whole)
        (folder / "measured.sqlite-shm").unlink(missing_ok=True)

    return Honest(log, kept.look, reset=reset, has_check=True)


# --- the paper wing ---


def training_state(folder: Path) -> Honest:
    from ravine.paper.training.memory import STATE as NAME
    from ravine.paper.training.memory import State, Streams, restore, save

    groups = {"params": {"w": torch.ones(3)}, "velocity": {"w": torch.zeros(3)}}
    streams = Streams(torch.get_rng_state(), torch.get_rng_state())
    save(folder, State(epoch=1, history=[{"loss": 1.0}]), groups, streams)

    def look() -> Any:
        held = {group: {"w": torch.empty(3)} for group in groups}
        state, found = restore(folder, held, "cpu")
        return state, _tensors({"order": found.order, "masks": found.masks}), held

    return Honest(folder / NAME, look, changed_header)


def training_history(folder: Path) -> Honest:
    return _history(folder, "h5netcdf")


def training_history_old(folder: Path) -> Honest:
    return _history(folder, "scipy")


def _history(folder: Path, engine: str) -> Honest:
    from ravine.paper.recipes import NAMES, recipe
    from ravine.paper.training.history import as_dataset
    from ravine.paper.training.run import Run

    run = Run(recipe(NAMES[0]), folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "phase": 1,
            "epoch": epoch,
            "step": 9 * epoch,
            "seconds": 0.5,
            "train_loss": 1.0,
            "valid_loss": 2.0,
        }
        for epoch in range(3)
    ]
    held = as_dataset(rows, {"best_step": 9, "device": "cpu", "test_errors": [3, 4]})
    held.to_netcdf(run.folder / "history.nc", engine=engine)

    def look() -> Any:
        found = Run(run.recipe, folder)
        return str(found.history), found.device_type, found.best_step, found.test

    return Honest(run.folder / "history.nc", look)


def exported(folder: Path) -> Honest:
    from ravine.paper.export import RESULTS, unpack

    content = b"solution" * 9
    known = {"net": {"pieces": ["net.1of1"], "sha256": hashlib.sha256(content).hexdigest()}}
    (folder / "net.1of1").write_bytes(content)
    with zipfile.ZipFile(folder / RESULTS, "w") as packed:
        packed.writestr("export.json", json.dumps(known))
        packed.writestr("net/recipe.json", "{}")
    out = folder / "out"

    def look() -> Any:
        unpack(folder, out)
        return sorted(
            (str(p.relative_to(out)), p.read_bytes()) for p in out.rglob("*") if p.is_file()
        )

    def reset() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def change(rng: random.Random, held: bytes) -> bytes:
        return rng.choice((changed, changed_inside, _changed_contents))(rng, held)

    return Honest(folder / RESULTS, look, change, reset)


def _changed_contents(rng: random.Random, held: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(held)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            text = source.read(name)
            target.writestr(name, changed_json(rng, text) if name == "export.json" else text)
    return out.getvalue()


def idx(folder: Path) -> Honest:
    import gzip

    from ravine.paper.data import _idx

    place = folder / "images.gz"
    plain = struct.pack(">4B3I", 0, 0, 8, 3, 2, 4, 4) + bytes(32)
    place.write_bytes(gzip.compress(plain))

    def change(rng: random.Random, held: bytes) -> bytes:
        return changed(rng, held) if rng.random() < 0.5 else gzip.compress(changed(rng, plain), 1)

    return Honest(place, lambda: _idx(place, 3).tobytes(), change)


def whitening(folder: Path) -> Honest:
    from ravine.paper.data import _hash_of, read_whitening

    place = folder / "whitening.safetensors"
    held = {"mean": torch.ones(4), "matrix": torch.eye(4)}
    save_file(held, place, {"sha256": _hash_of(*held.values())})

    def look() -> Any:
        found = read_whitening(place)
        if found is None:  # it is made anew
            raise InputError
        return _tensors(dict(zip("ab", found, strict=True)))

    return Honest(place, look, changed_header, has_check=True)


KINDS: dict[str, Callable[[Path], Honest]] = {
    one.__name__: one
    for one in (
        zipped, zipped_inside, old, lightning, weights_bin, safetensors, safetensors_header, index,
        index_bin, shard, adapter, adapter_weights, adapter_old, manifest, snapshot, snapshot_bytes,
        distributed, distributed_part, deepspeed, deepspeed_states, store, store_list, store_log,
        training_state, training_history, training_history_old, exported, idx, whitening,
    )
}  # fmt: skip
for _make in (grid, resolved, plane, several, path, soup):
    KINDS[f"result_{_make.__name__}"] = _result(_make)
    KINDS[f"result_{_make.__name__}_inside"] = _result(_make, changed_hdf5)


# --- the harness itself ---


def _itself(act: Callable[[], Any]) -> Callable[[Path], Honest]:
    """A file that is read well until it is changed: then something else happens than should."""

    def made(folder: Path) -> Honest:
        place = folder / "file"
        place.write_bytes(b"right")
        return Honest(place, lambda: None if place.read_bytes() == b"right" else act(), _wrong)

    return made


def _wrong(rng: random.Random, held: bytes) -> bytes:
    return held + rng.randbytes(1)


def _grown() -> None:
    np.ones((TOO_MUCH >> 3) + (1 << 23))


_ITSELF = {
    "self_raises": _itself(lambda: 1 / 0),
    "self_ends": _itself(lambda: os.kill(os.getpid(), 9)),
    "self_sleeps": _itself(lambda: time.sleep(1000)),
    "self_grows": _itself(_grown),
}


# --- the process that reads ---


def _serve() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library says is no answer
    honest, whole, right, known = None, b"", None, ""
    for line in sys.stdin:
        kind, folder, seed = json.loads(line)
        if kind != known:
            place = Path(folder) / kind
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            os.environ["RAVINE_MUTANTS_FOLDER"] = folder
            honest, known = {**KINDS, **_ITSELF}[kind](place), kind
            whole = honest.file.read_bytes()
            right = honest.look()
        assert honest is not None
        answer = _tried(honest, whole, right, seed)
        if answer["outcome"].startswith("too long"):  # once more: something may have been loaded
            answer = _tried(honest, whole, right, seed)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _tried(honest: Honest, whole: bytes, right: Any, seed: int) -> dict[str, Any]:
    honest.reset()
    content = honest.change(random.Random(seed), whole)
    honest.file.write_bytes(content)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, began, used = _peak(), time.monotonic(), _seconds()
    said = ""
    try:
        found = honest.look()
        outcome = "same" if repr(found) == repr(right) else "other"
        if outcome == "other" and honest.has_check:
            outcome = "read wrongly"
    except InputError as problem:
        outcome, said = "refused", str(problem)
    except BaseException as problem:
        outcome, said = f"{type(problem).__name__}", _where(problem)
    took, rise = _seconds() - used, _peak() - before
    if took > TOO_LONG or time.monotonic() - began > _BUSY * TOO_LONG:
        outcome = f"too long ({outcome})"
    if rise > TOO_MUCH:
        outcome = f"too much memory ({outcome})"
    return {"outcome": outcome, "seconds": took, "bytes": rise, "said": said[:300]}


def _where(problem: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(problem.__traceback__)
    own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "ravine" in f.filename]
    return f"{problem!s:.120} @ {' < '.join(reversed(own[-4:]))}"


def _seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    found = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in found)


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


# --- who asks ---


class _Reader:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OMP_NUM_THREADS": "1",
            },
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def ask(self, *question: Any, patience: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            answer = self.answers.get(timeout=patience)
        except queue.Empty:
            return {"outcome": "hung", "seconds": patience, "bytes": 0, "said": ""}
        except OSError:
            answer = ""
        if not answer:
            return {
                "outcome": f"ended ({-self.process.wait()})",
                "seconds": 0.0,
                "bytes": 0,
                "said": "",
            }
        return json.loads(answer)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close() if pipe else None


@dataclasses.dataclass
class Outcomes:
    """What became of the mutants of one kind."""

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0


def outcomes(kind: str, folder: Path, seeds: range) -> Outcomes:
    """What becomes of the mutants of a kind.

    Args:
        kind: one of ``KINDS``.
        folder: to write them into.
        seeds: one for each mutant.
    """
    found = Outcomes()
    for seed in seeds:
        if not _READERS:
            _READERS.append(_Reader())
        answer = _READERS[0].ask(kind, str(folder), seed, patience=_PATIENCE)
        outcome = answer["outcome"]
        found.counts[outcome] += 1
        found.seconds = max(found.seconds, answer["seconds"])
        found.bytes = max(found.bytes, answer["bytes"])
        if outcome not in ("same", "other", "refused"):
            found.bad.append((seed, outcome, answer["said"]))
        if outcome.startswith(("hung", "ended")):
            end()
            if len(found.bad) > 20:
                break
    return found


def line_of(found: Outcomes) -> str:
    """What became of them, in a line."""
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.counts.items()))
    return f"{counted}; at most {found.seconds:.2f} s and {found.bytes >> 20} MB"


_READERS: list[_Reader] = []


def end() -> None:
    """End the process that reads."""
    while _READERS:
        _READERS.pop().end()


def main() -> None:
    """By hand: ``python tests/mutants.py FOLDER COUNT KIND …``, a line for every kind."""
    os.environ["RAVINE_MUTANTS"] = sys.argv[2]
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    for kind in sys.argv[3:] or KINDS:
        began = time.monotonic()
        found = outcomes(kind, folder, range(count))
        took = time.monotonic() - began
        print(f"{kind}: {line_of(found)}; {took:.0f} s in all", flush=True)  # noqa: T201
        for _, group in _grouped(found.bad):
            print(f"    {len(group)} x {group[0]}", flush=True)  # noqa: T201


def _grouped(bad: list[tuple[int, str, str]]) -> Any:
    groups: dict[str, list[tuple[int, str, str]]] = {}
    for one in bad:
        groups.setdefault(f"{one[1]}{one[2].rpartition('@')[2]}", []).append(one)
    return groups.items()


if __name__ == "__main__":
    main() if len(sys.argv) > 1 else _serve()
    end()
