"""Formats. The kind: weights lie in files and folders that other tools wrote, in their own ways.

Siblings tried: shards of both kinds, the index itself, DCP with and without an optimiser,
DeepSpeed's stages, one file in a folder, archives that were compressed again, files saved on a GPU
or by another pickle protocol, files of thirteen other tools, float8, complex and quantised weights,
tensors larger than their data, files that change while they are read from.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ravine import Checkpoint, InputError, Line, Trajectory, TrajectoryRecorder


def state(value=1.0):
    return {"fc.weight": torch.full((2, 3), value), "fc.bias": torch.arange(2.0)}


def same(source, expected=None):
    found = Checkpoint.read(source).tensors
    expected = state() if expected is None else expected
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], expected[n]) for n in found
    )


def sharded(folder, ending):
    folder.mkdir()
    names, save = list(state()), save_file if ending == "safetensors" else torch.save
    files = {name: f"model-{number}.{ending}" for number, name in enumerate(names)}
    for name, file in files.items():
        save({name: state()[name]}, folder / file)
    (folder / f"model.{ending}.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_shards_are_read_by_folder_and_by_index(tmp_path, ending):
    folder = sharded(tmp_path / "shards", ending)
    assert same(folder)
    assert same(folder / f"model.{ending}.index.json")


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"weight_map": {}},
        {"weight_map": []},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": None}},
        {"weight_map": "model-0.bin"},
        [],
        3,
        None,
        {"weight_map": {"a": "../model-0.bin"}},
        {"weight_map": {"a": "missing.bin"}},
        {"weight_map": {"a": "model-0.bin"}},
    ],
)
def test_a_damaged_index_is_refused(tmp_path, held):
    folder = sharded(tmp_path / "shards", "bin")
    (folder / "model.bin.index.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"model\.bin\.index\.json"):
        Checkpoint.read(folder)


def test_the_file_of_transformers_beside_others(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    save_file(state(2.0), tmp_path / "consolidated.safetensors")
    assert same(tmp_path)


def test_one_file_of_transformers_in_a_folder(tmp_path):
    torch.save(state(), tmp_path / "pytorch_model.bin")
    torch.save({"lr": 0.1}, tmp_path / "training_args.bin")
    assert same(tmp_path)


def distributed(folder, held):
    from torch.distributed import checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process saves
        dcp.save(held, checkpoint_id=folder)
    return folder


class TestDistributed:
    def test_it_is_read_without_processes(self, tmp_path):
        assert same(distributed(tmp_path / "plain", state()))
        held = {"model": state(), "optimizer": {"fc.weight": torch.zeros(2, 3)}, "epoch": 3}
        assert same(distributed(tmp_path / "nested", held))
        both = distributed(tmp_path / "both", {"model": state(), "ema": state(2.0)})
        with pytest.raises(InputError, match="holds 2 state dicts: 'model', 'ema'"):
            Checkpoint.read(both)
        assert same(f"{both}::ema", state(2.0))

    def test_its_metadata_runs_no_code(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "executed"),))

        folder = distributed(tmp_path / "dcp", state())
        (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
        with pytest.raises(
            InputError, match=r"pickled objects beyond tensors.* names posix\.mkdir"
        ):
            Checkpoint.read(folder)
        assert not (tmp_path / "executed").exists()

    def test_entries_that_are_no_tensors_are_not_read(self, tmp_path):
        folder = distributed(tmp_path / "dcp", {"model": state(), "extra": {"note": "text"}})
        assert same(folder)

    def test_a_part_that_is_lost_or_elsewhere_is_named(self, tmp_path):
        folder = distributed(tmp_path / "dcp", state())
        data = folder / "__0_0.distcp"
        data.write_bytes(data.read_bytes()[:20])
        with pytest.raises(InputError, match="promises 32 bytes of tensors, and its files hold 20"):
            Checkpoint.read(folder)
        data.unlink()
        with pytest.raises(InputError, match=r"names '__0_0\.distcp', which is not in its folder"):
            Checkpoint.read(folder)


class TestDeepSpeed:
    def saved(self, folder, name="mp_rank_00_model_states.pt", held=None):
        (folder / "global_step5").mkdir(parents=True)
        (folder / "latest").write_text("global_step5")
        torch.save({"module": state()} if held is None else held, folder / "global_step5" / name)
        return folder

    def test_folder_step_and_file(self, tmp_path):
        folder = self.saved(tmp_path)
        for source in (folder, folder / "global_step5", *folder.glob("*/*.pt")):
            assert same(source)

    @pytest.mark.parametrize(
        ("name", "held"),
        [
            ("zero_pp_rank_0_mp_rank_00_model_states.pt", None),
            ("mp_rank_00_model_states.pt", {"module": None, "param_shapes": [1]}),
        ],
    )
    def test_parts_are_refused_with_the_conversion(self, tmp_path, name, held):
        folder = self.saved(tmp_path, name, held)
        for source in (folder, folder / "global_step5", *folder.glob("*/*.pt")):
            with pytest.raises(InputError, match=r"ZeRO-3\).*zero_to_fp32\.py|of ZeRO-3\. Join"):
                Checkpoint.read(source)

    @pytest.mark.parametrize("text", ["", "../elsewhere", "global_step6", "\0"])
    def test_a_wrong_latest(self, tmp_path, text):
        folder = self.saved(tmp_path)
        (folder / "latest").write_text(text)
        with pytest.raises(InputError, match=r"there are: global_step5"):
            Checkpoint.read(folder)


def zipped(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


FOREIGN = {
    "model.gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0"), "GGUF.*gguf_file"),
    "model.pt": (zipped("model/code/__torch__.py", "model/data.pkl"), r"TorchScript.*jit\.load"),
    "model.pt2": (zipped("a/serialized_exported_program.json"), r"torch\.export"),
    "flax_model.msgpack": (lambda path: path.write_bytes(b"\x81\xa1a"), "Flax.*from_flax"),
    "model.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5"),
    "model.keras": (zipped("model.weights.h5"), "Keras"),
    "a.npz": (lambda path: np.savez(path, a=np.zeros(2)), r"npz.*from_numpy"),
    "a.npy": (lambda path: np.save(path, np.zeros(2)), "NumPy"),
    "model.onnx": (lambda path: path.write_bytes(b"\x08\x07"), "ONNX"),
    "lfs.safetensors.txt": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "page.pt": (lambda path: path.write_text("<!DOCTYPE html>"), "HTML"),
    "model.pt.gz": (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "gunzip"),
    "config.json": (lambda path: path.write_text("{}"), "JSON"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_tools_are_refused_with_the_way_on(name, tmp_path):
    write, said = FOREIGN[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=said) as caught:
        Checkpoint.read(tmp_path / name)
    assert "weights_only=False" not in str(caught.value)


def test_a_pointer_in_place_of_safetensors(tmp_path):
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(InputError, match="git lfs pull"):
        Checkpoint.read(tmp_path / "a.safetensors")


def test_an_unknown_folder_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"is no checkpoint: expected .* found notes\.txt"):
        Checkpoint.read(tmp_path)


def rewritten(source, target, method=zipfile.ZIP_STORED, change=None):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for member in old.infolist():
            held = old.read(member)
            new.writestr(
                member.filename,
                change(held) if change and member.filename.endswith("data.pkl") else held,
            )


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_an_archive_that_was_packed_again(tmp_path, method):
    torch.save(state(), tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", method)
    os.utime(tmp_path / "b.pt", (0, 0))
    assert same(tmp_path / "b.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_a_gpu_saved_open_anywhere(tmp_path, zipped):
    torch.save(state(), tmp_path / "cpu.pt", _use_new_zipfile_serialization=zipped)
    there = b"X\x06\0\0\0cuda:3"
    if zipped:
        rewritten(
            tmp_path / "cpu.pt",
            tmp_path / "gpu.pt",
            change=lambda held: held.replace(b"X\3\0\0\0cpu", there),
        )
    else:
        held = (tmp_path / "cpu.pt").read_bytes()
        assert b"X\3\0\0\0cpu" in held
        (tmp_path / "gpu.pt").write_bytes(held.replace(b"X\3\0\0\0cpu", there))
    assert same(tmp_path / "gpu.pt")


def test_another_pickle_protocol_is_named(tmp_path):
    torch.save(state(), tmp_path / "a.pt", pickle_protocol=4)
    with pytest.raises(InputError, match=r"pickle protocol.*pickle_protocol=2"):
        Checkpoint.read(tmp_path / "a.pt")


def test_reading_in_threads_leaves_the_warning_filters(tmp_path):
    torch.save(state(), tmp_path / "a.pt", pickle_protocol=3)  # torch warns of it
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [Checkpoint.read(tmp_path / "a.pt") for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_a_few_bytes_that_unpack_to_many_are_refused(tmp_path):
    torch.save({"w": torch.ones(1 << 26)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(InputError, match=r"unpacks to 268,43\d,\d\d\d; weights do not shrink so"):
        Checkpoint.read(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name", ["a.safetensors", "m.safetensors.index.json", "latest", "pytorch_model.bin"]
)
def test_what_is_no_plain_file_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError):
        Checkpoint.read(tmp_path)
    with pytest.raises(InputError):
        Checkpoint.read(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000, "\0", "\ud800", "..", ".", "/etc/passwd"])
def test_strange_names_of_other_files_are_refused(tmp_path, name):
    (tmp_path / "latest").write_text(name, "utf-8", "replace")
    with pytest.raises(InputError, match="is no folder of DeepSpeed's"):
        Checkpoint.read(tmp_path)
    (tmp_path / "m.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match="not in its folder"):
        Checkpoint.read(tmp_path)
    held = {"step": 0, "file": name, "hash": ""}
    known = {"format": "ravine trajectory", "version": 1, "snapshots": [held]}
    (tmp_path / "trajectory.json").write_text(json.dumps(known))
    with pytest.raises(InputError, match="lacks|outside its folder"):
        Trajectory.open(tmp_path)


@pytest.mark.parametrize("name", ["a.pt", "old.pt", "a.safetensors"])
def test_the_callers_meta_device_takes_no_values_away(tmp_path, name):
    if name.endswith(".pt"):
        torch.save(state(), tmp_path / name, _use_new_zipfile_serialization=name == "a.pt")
    else:
        save_file(state(), tmp_path / name)
    plain = Line(state(), tmp_path / name).length
    with torch.device("meta"):
        found = Checkpoint.read(tmp_path / name)
        assert Line(tmp_path / name, {n: t + 1 for n, t in found.tensors.items()}).length > 0
        assert Line(found, tmp_path / name).length == plain == 0
    assert not any(tensor.is_meta for tensor in found.tensors.values())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_small_floats_have_a_line(tmp_path, dtype):
    ends = [{"w": torch.tensor([value, -1.0]).to(dtype)} for value in (0.5, 2.0)]
    torch.save(ends[1], tmp_path / "end.pt")
    save_file(ends[1], tmp_path / "end.safetensors")
    for end in (ends[1], tmp_path / "end.pt", tmp_path / "end.safetensors"):
        line = Line(ends[0], end)
        assert line.length == 1.5
        assert line.at(0.5)["w"].tolist() == [1.25, -1.0]
        assert line.at(1.0)["w"].float().tolist() == [2.0, -1.0]


def test_complex_numbers_have_a_line(tmp_path):
    start = {"w": torch.tensor([1 + 1j, 0j])}
    torch.save({"w": torch.tensor([1 - 3j, 3 + 0j]).conj().conj()}, tmp_path / "end.pt")
    line = Line(start, tmp_path / "end.pt")
    assert line.length == 5.0
    assert line.at(0.5)["w"].tolist() == [1 - 1j, 1.5 + 0j]
    conjugate = Line(start, {"w": torch.tensor([1 + 3j, 3 + 0j]).conj()})
    assert conjugate.at(1.0)["w"].tolist() == [1 - 3j, 3 + 0j]


@pytest.mark.parametrize(
    "held",
    [
        {"fc.qweight": torch.zeros(2, 3, dtype=torch.int32), "fc.scales": torch.ones(3)},
        {"fc.weight": torch.zeros(2, 3, dtype=torch.int8), "fc.weight_scale": torch.ones(1)},
        {"fc.weight": torch.zeros(2, 3, dtype=torch.uint8), "fc.weight.absmax": torch.ones(1)},
        {"mlp.gate_up_proj_blocks": torch.zeros(2, dtype=torch.uint8), "n": torch.ones(1)},
    ],
    ids=["GPTQ", "int8", "bitsandbytes", "MXFP4"],
)
def test_codes_are_no_numbers(tmp_path, held):
    save_file(held, tmp_path / "q.safetensors")
    for source in (held, tmp_path / "q.safetensors"):
        other = {name: (tensor.float() + 1).to(tensor.dtype) for name, tensor in held.items()}
        with pytest.raises(InputError, match="quantised weights at .*codes cannot be mixed"):
            Line(source, other)


def test_float8_with_scales_is_no_number():
    weight = torch.zeros(2, 3).to(torch.float8_e4m3fn)
    with pytest.raises(InputError, match="float8 weights with scales beside them"):
        Checkpoint.read({"fc.weight": weight, "fc.weight_scale_inv": torch.ones(1)})


def test_points_without_values_are_refused(tmp_path):
    shapes = {"w": torch.zeros(2, device="meta")}
    with pytest.raises(InputError, match="names and shapes only, no values"):
        Line(shapes, {"w": torch.ones(2)}).at(0.5)
    with pytest.raises(InputError, match="names and shapes only, no values"):
        TrajectoryRecorder(tmp_path).record(0, shapes)


def test_packed_floats_are_refused():
    packed = torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(InputError, match="packed"):
        Checkpoint.read({"w": packed})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "empty"),
        ("::ema", "empty"),
        ("x" * 5000, "there is no checkpoint"),
        ("a\0.pt", "there is no checkpoint"),
        ("/dev/null", "neither a file nor a folder"),
        ("nowhere.pt::ema", r"no checkpoint 'nowhere\.pt'"),
    ],
)
def test_paths_that_name_nothing(source, said):
    with pytest.raises(InputError, match=said):
        Checkpoint.read(source)


def test_what_was_trained_beside_quantised_weights_has_a_line():
    frozen = {"fc.weight": torch.zeros(2, 3, dtype=torch.uint8), "fc.weight.absmax": torch.ones(1)}
    line = Line(frozen | {"lora": torch.zeros(2)}, frozen | {"lora": torch.ones(2)})
    assert line.length == pytest.approx(2**0.5)


def test_blocks_and_scales_of_an_architecture_are_numbers():
    held = {
        "blocks.0.weight": torch.ones(2, 2),
        "norm.weight_scale": torch.ones(2),
        "ids": torch.arange(3),
    }
    assert Checkpoint.read(held).params.keys() == {"blocks.0.weight", "norm.weight_scale"}


def test_a_kilobyte_does_not_ask_for_a_terabyte(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 38)}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match=r"'w' of shape \(274877906944,\) with 4 bytes behind it"):
        Checkpoint.read(tmp_path / "bomb.pt")
    torch.save({"w": torch.zeros(1).to(torch.float8_e5m2).expand(1 << 38)}, tmp_path / "small.pt")
    with pytest.raises(InputError, match=r"with 1 bytes behind it"):
        Checkpoint.read(tmp_path / "small.pt")
    torch.save({"ids": torch.arange(4.0).expand(2, 4), "w": torch.ones(2)}, tmp_path / "fine.pt")
    assert Checkpoint.read(tmp_path / "fine.pt").tensors["ids"].shape == (2, 4)


SAVING = {"pt": torch.save, "safetensors": save_file}


def copied(path, other):
    shutil.copyfile(other, path)


def truncated(path, _):
    path.write_bytes(b"")


@pytest.mark.parametrize("ending", SAVING)
@pytest.mark.parametrize("change", [copied, truncated])
class TestAFileThatChanges:
    def test_a_fresh_one_is_a_copy(self, tmp_path, ending, change):
        path, other = tmp_path / f"last.{ending}", tmp_path / f"next.{ending}"
        SAVING[ending](state(), path)
        SAVING[ending](state(5.0), other)
        line = Line(state(0.0), path)
        change(path, other)
        assert float(line.at(1.0)["fc.weight"][0, 0]) == 1.0

    def test_one_at_rest_is_mapped_and_found_out(self, tmp_path, ending, change):
        path, other = tmp_path / f"last.{ending}", tmp_path / f"next.{ending}"
        SAVING[ending](state(), path)
        SAVING[ending](state(5.0), other)
        os.utime(path, (0, 0))
        line = Line(state(0.0), path)
        change(path, other)
        with pytest.raises(
            InputError, match="has changed since it was read: something writes to it"
        ):
            line.at(0.5)


def test_a_new_file_under_the_name_leaves_the_old_one_whole(tmp_path):
    for name, value in (("last.pt", 1.0), ("next.pt", 5.0)):
        torch.save(state(value), tmp_path / name)
    os.utime(tmp_path / "last.pt", (0, 0))
    line = Line(state(0.0), tmp_path / "last.pt")
    (tmp_path / "next.pt").replace(tmp_path / "last.pt")
    assert float(line.at(1.0)["fc.weight"][0, 0]) == 1.0
    (tmp_path / "last.pt").unlink()
    assert float(line.at(1.0)["fc.weight"][0, 0]) == 1.0


_CUT = """
import os, torch, ravine
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
model = nn.Sequential(nn.Linear(300, 600), nn.ReLU(), nn.Linear(600, 3))
start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
x = torch.randn(40, 300)

def cut():
    os.truncate("b.safetensors", 1000)

def measured(a, b):
    calls = []

    def per_example(model, batch):
        calls.append(1)
        if len(calls) == 12:
            cut()
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    J = ravine.Objective(model, per_example, (x, torch.zeros(40).long()), batch_size=10)
    ravine.evaluate(J, along=ravine.Line(a, b), at=[i / 20 for i in range(21)])

uses = {
    "measured": measured,
    "line": lambda a, b: (cut(), ravine.Line(a, b).at(0.5)),
    "average": lambda a, b: (cut(), ravine.average([a, b])),
    "align": lambda a, b: (cut(), ravine.align(b, to=a, model=model, batch=x[:4])),
    "save": lambda a, b: (cut(), ravine.save_checkpoint(b, "c.safetensors")),
    "inspect": lambda a, b: (cut(), ravine.inspect(a, b)),
}
for name, use in uses.items():
    for file in ("a.safetensors", "b.safetensors"):
        if os.path.exists(file):
            os.unlink(file)
        save_file({key: tensor + torch.rand(()) for key, tensor in start.items()}, file)
        os.utime(file, (1e9, 1e9))  # an old file, which is mapped
    points = [ravine.Checkpoint.read(file) for file in ("a.safetensors", "b.safetensors")]
    try:
        use(*points)
        print(name, "went on")
    except ravine.InputError as refused:
        print(name, refused)
"""


def test_a_file_that_is_cut_short_while_it_is_mapped_ends_no_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _CUT], capture_output=True, text=True, cwd=tmp_path, timeout=240
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 6
    assert all("'b.safetensors' has changed since it was read" in line for line in said)
