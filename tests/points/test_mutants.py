"""Mutants. The kind: a file from a stranger, or from a disk that failed, of which any byte may be another.

Every mutant is read, or refused by an InputError: no other error, no code run, no hang. Siblings: zipped, old, nested
files of torch, safetensors, an index of shards, an adapter's configuration, a recording's manifest, a distributed
checkpoint's metadata; bytes changed, cut out, doubled, or swapped, and JSON values replaced by values of other types.
"""

from __future__ import annotations

import copy
import json
import random
import warnings

import pytest
import torch
from safetensors.torch import save_file

from ravine import Checkpoint, InputError, Line, Trajectory
from ravine.points.recorder import TrajectoryRecorder

VALUES = [
    None, True, False, 0, -1, 1.5, 1e308, 10**30, "", "²", "false", [], {}, [1, "a"], {"a": None}, "(a+)+$",
]  # fmt: skip
STATE = {"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3), "b": torch.arange(3)}


def mutated(rng: random.Random, held: bytes) -> bytes:
    found = bytearray(held)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = rng.randrange(256)
            case 1:
                del found[at : at + rng.randint(1, 20)]
            case 2:
                found[at:at] = found[at : at + rng.randint(1, 20)]
            case _:
                other = rng.randrange(len(found))
                found[at], found[other] = found[other], found[at]
        if not found:
            return b""
    return bytes(found)


def places(held, path=()):
    """Where a value may be replaced in parsed JSON."""
    entries = (
        held.items()
        if isinstance(held, dict)
        else enumerate(held)
        if isinstance(held, list)
        else ()
    )
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated_json(rng: random.Random, text: str) -> bytes:
    if rng.random() < 0.3:
        return mutated(rng, text.encode())
    held = copy.deepcopy(json.loads(text))
    *outer, last = rng.choice(list(places(held)))
    here = held
    for key in outer:
        here = here[key]
    here[last] = rng.choice(VALUES)
    return json.dumps(held).encode()


def zipped(folder):
    torch.save({"model": STATE, "step": 3}, folder / "a.pt")
    return folder / "a.pt", folder / "a.pt"


def old(folder):
    torch.save({"model": STATE, "step": 3}, folder / "a.pth", _use_new_zipfile_serialization=False)
    return folder / "a.pth", folder / "a.pth"


def lightning(folder):
    held = {"state_dict": STATE, "optimizer_states": [{"state": {0: {"m": torch.ones(2)}}}]}
    torch.save({**held, "callbacks": {}, "epoch": 3}, folder / "a.ckpt")
    return folder / "a.ckpt", folder / "a.ckpt"


def safetensors(folder):
    save_file(STATE, folder / "a.safetensors", {"ravine.buffers": '["b"]'})
    return folder / "a.safetensors", folder / "a.safetensors"


def index(folder):
    save_file(STATE, folder / "m-1.safetensors")
    held = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(STATE, "m-1.safetensors")}
    (folder / "m.safetensors.index.json").write_text(json.dumps(held))
    return folder / "m.safetensors.index.json", folder


def adapter(folder):
    factors = {"lora_A": torch.ones(2, 2), "lora_B": torch.ones(3, 2)}
    save_file(
        {f"base_model.model.a.{n}.weight": t for n, t in factors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["a"], "bias": "none",
        "use_rslora": False, "alpha_pattern": {"a": 3}, "rank_pattern": {"a": 2}, "modules_to_save": None,
        "init_lora_weights": True, "use_dora": False, "exclude_modules": None, "lora_dropout": 0.0,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter_config.json", folder


def manifest(folder):
    recorder = TrajectoryRecorder(folder)
    for step in range(3):
        recorder.record(step, {n: t + step for n, t in STATE.items()})
    return folder / "trajectory.json", folder


def distributed(folder):
    from torch.distributed import checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": STATE, "epoch": 3}, checkpoint_id=folder)
    return folder / ".metadata", folder


MAKERS = [zipped, old, lightning, safetensors, index, adapter, manifest, distributed]


def look(source, make):
    if make is manifest:
        run = Trajectory.open(source)
        return [run[0], run[-1]]
    if make is adapter:
        return Line(STATE, source).length
    found = Checkpoint.read(source)
    return Line(found, found).length


def tried(make, folder, seeds):
    """The mutants that raised something else than an InputError."""
    file, source = make(folder)
    whole = file.read_bytes()
    look(source, make)  # before it is changed it is right
    bad = []
    for seed in seeds:
        rng = random.Random(seed)
        change = (
            mutated_json(rng, whole.decode()) if file.suffix == ".json" else mutated(rng, whole)
        )
        file.write_bytes(change)
        try:
            look(source, make)
        except InputError:
            continue
        except Exception as problem:
            bad.append((seed, repr(problem)[:200]))
    return bad


@pytest.mark.parametrize("make", MAKERS)
def test_a_mutant_is_read_or_refused(make, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda _: None
    )  # peft takes seconds to import; see below
    assert not tried(make, tmp_path, range(60))


@pytest.mark.calibration
@pytest.mark.parametrize("make", MAKERS)
def test_many_mutants_are_read_or_refused(make, tmp_path):
    assert not tried(make, tmp_path, range(1000, 7000))
