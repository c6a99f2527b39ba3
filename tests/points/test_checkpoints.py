"""Every form of a checkpoint, every way in which two of them differ, and no code from a file."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ravine import Checkpoint, InputError, Line, inspect
from ravine.points.checkpoint import matched


def state():
    return {"fc1.weight": torch.arange(6.0).reshape(2, 3), "fc1.bias": torch.tensor([1.0, -1.0])}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], expected[n]) for n in expected
    )


def lightning(path):
    torch.save(
        {"state_dict": {f"model.{n}": t for n, t in state().items()}, "epoch": 3, "global_step": 7},
        path,
    )


def sharded(path):
    path.mkdir()
    tensors = state()
    for number, name in enumerate(tensors):
        save_file({name: tensors[name]}, path / f"model-{number}.safetensors")
    index = {"weight_map": {n: f"model-{i}.safetensors" for i, n in enumerate(tensors)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def old_format(path):
    torch.save(state(), path, _use_new_zipfile_serialization=False)


FILES = {
    "a.safetensors": lambda path: save_file(state(), path),
    "a.pt": lambda path: torch.save(state(), path),
    "old.pth": old_format,
    "nested.pt": lambda path: torch.save(
        {"model_state_dict": state(), "optimizer": {"lr": 0.1}}, path
    ),
    "a.ckpt": lightning,
    "shards": sharded,
}


@pytest.mark.parametrize("name", FILES)
def test_files_hold_what_was_saved(tmp_path, name):
    FILES[name](tmp_path / name)
    found = matched(Checkpoint.read(state()), Checkpoint.read(tmp_path / name))
    assert same(found.tensors, state())
    assert same(
        matched(Checkpoint.read(state()), Checkpoint.read(str(tmp_path / name))).tensors, state()
    )


def test_a_folder_with_one_file(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    assert same(Checkpoint.read(tmp_path).tensors, state())


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module."],
)
def test_prefixes_are_stripped_on_either_side(prefix):
    wrapped = {prefix + n: t for n, t in state().items()}
    assert same(matched(Checkpoint.read(state()), Checkpoint.read(wrapped)).tensors, state())
    assert same(matched(Checkpoint.read(wrapped), Checkpoint.read(state())).tensors, wrapped)


def test_a_compiled_submodule_has_its_prefix_inside():
    wrapped = {n.replace("fc1.", "fc1._orig_mod."): t for n, t in state().items()}
    assert same(matched(Checkpoint.read(state()), Checkpoint.read(wrapped)).tensors, state())


def test_a_prefix_that_belongs_to_the_architecture_stays():
    own = {"model.a": torch.zeros(1), "head": torch.ones(1)}
    assert same(matched(Checkpoint.read(own), Checkpoint.read(dict(own))).tensors, own)
    with pytest.raises(InputError, match="head"):
        matched(Checkpoint.read(own), Checkpoint.read({"a": torch.zeros(1)}))


def test_wrapped_modules_are_looked_through():
    model = nn.Linear(3, 2)
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert Checkpoint.read(wrapped).tensors.keys() == {"weight", "bias"}


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


@pytest.mark.parametrize("zipped", [True, False])
def test_no_file_runs_code(tmp_path, zipped):
    marker = str(tmp_path / "executed")
    payload = {"w": torch.ones(2), "x": Evil(marker)}
    torch.save(payload, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(payload["x"]))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(InputError, match="was not loaded"):
            Checkpoint.read(tmp_path / name)
    assert not os.path.exists(marker)  # noqa: PTH110
    with warnings.catch_warnings():  # the marker is what loading would have made
        warnings.simplefilter("ignore")
        torch.load(tmp_path / "evil.pt", weights_only=False)
    assert os.path.exists(marker)  # noqa: PTH110


def test_a_whole_pickled_module_is_refused_with_the_conversion(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"state_dict\(\)"):
        Checkpoint.read(tmp_path / "module.pt")


def test_a_result_given_for_a_checkpoint_is_no_pickle(tmp_path):
    (tmp_path / "line.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="is not a checkpoint"):
        Checkpoint.read(tmp_path / "line.nc")


@pytest.mark.parametrize(
    "name", ["text.pt", "text.safetensors", "empty.pt", "empty.safetensors", "text.ckpt"]
)
def test_a_file_that_is_no_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("hello world" if name.startswith("text") else "")
    with pytest.raises(InputError, match=name):
        Checkpoint.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "old.pth"])
def test_a_truncated_file(tmp_path, name):
    FILES[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=name):
        Checkpoint.read(tmp_path / name)


def test_damaged_shards(tmp_path):
    sharded(tmp_path / "shards")
    (tmp_path / "shards" / "model-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-1\.safetensors"):
        Checkpoint.read(tmp_path / "shards")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"fc1.weight": "../shards/model-0.safetensors"}}))
    with pytest.raises(InputError, match="not in its folder"):
        Checkpoint.read(tmp_path / "shards")
    index.write_text(json.dumps({"weight_map": {"elsewhere": "model-0.safetensors"}}))
    with pytest.raises(InputError, match="elsewhere"):
        Checkpoint.read(tmp_path / "shards")
    index.write_text("{}")
    with pytest.raises(InputError, match="weight_map"):
        Checkpoint.read(tmp_path / "shards")


@pytest.mark.parametrize(
    "source", [{}, {"epoch": 3}, {"state_dict": {}}, 3, None, [torch.ones(2)], {"w": [1.0]}]
)
def test_things_that_are_no_point(source):
    with pytest.raises(InputError):
        Checkpoint.read(source)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint"):
        Checkpoint.read(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match="folder"):
        Checkpoint.read(tmp_path)


def test_every_difference_is_listed_by_name():
    other = {
        "fc1.weight": torch.zeros(2, 4),
        "fc1.extra": torch.zeros(1),
    }
    with pytest.raises(InputError) as caught:
        Line(state(), other)
    for said in ("'fc1.bias'", "'fc1.extra'", "(2, 3) and (2, 4)", "3 differences"):
        assert said in str(caught.value)
    with pytest.raises(InputError, match=r"type at 'fc1.bias': torch.float32 and torch.int64"):
        Line(state(), {**state(), "fc1.bias": torch.tensor([1, 2])})


def tied():
    weight = torch.arange(4.0)
    return {"embed": weight, "head": weight}


def test_ties_are_found_and_stand_once():
    assert Checkpoint.read(tied()).ties == {"head": "embed"}
    line = Line(tied(), {"embed": torch.ones(4), "head": torch.ones(4)})
    assert line.at(0.5).keys() == {"embed"}
    assert line.length == pytest.approx(float((torch.arange(4.0) - 1).norm()))


def test_ends_that_disagree_on_ties_are_refused():
    untied = {"embed": torch.ones(4), "head": torch.zeros(4)}
    for ends in ((tied(), untied), (untied, tied())):
        with pytest.raises(InputError, match="tied"):
            Line(*ends)


def test_a_file_may_hold_a_tied_tensor_under_one_name(tmp_path):
    for kept in ("embed", "head"):
        save_file({kept: torch.ones(4)}, tmp_path / f"{kept}.safetensors")
        line = Line(tied(), tmp_path / f"{kept}.safetensors")
        assert torch.equal(line.at(1)["embed"], torch.ones(4))


def test_views_of_one_storage_are_not_ties():
    flat = torch.arange(4.0)
    assert Checkpoint.read({"a": flat[:2], "b": flat[2:]}).ties == {}


def test_ends_that_change_after_they_were_read_are_refused():
    model = nn.Linear(2, 1)
    line = Line(model.state_dict(), {n: t + 1 for n, t in model.state_dict().items()})
    line.at(0.5)
    with torch.no_grad():
        model.weight += 1
    with pytest.raises(InputError, match="has changed since it was read"):
        line.at(0.5)


def test_running_statistics_are_no_parameters():
    norm = nn.BatchNorm1d(3)
    for source in (norm, norm.state_dict()):
        assert set(Checkpoint.read(source).params) == {"weight", "bias"}
    line = Line(norm.state_dict(), {n: t + 1 for n, t in norm.state_dict().items()})
    assert set(line.at(0.5)) == {"weight", "bias"}
    assert line.length == pytest.approx(6**0.5)


def test_safetensors_at_rest_are_mapped_not_read(tmp_path):
    save_file({"w": torch.zeros(25_000_000)}, tmp_path / "big.safetensors")  # 100 MB
    os.utime(tmp_path / "big.safetensors", (0, 0))  # nobody has written to it for long

    def resident():
        with open("/proc/self/statm") as about:
            return int(about.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    found = Checkpoint.read(tmp_path / "big.safetensors")
    assert resident() - before < 20e6
    assert float(found.tensors["w"][-1]) == 0


def test_inspect_says_what_differs():
    start = {"a": torch.zeros(3), "b": torch.ones(2), "bn.running_mean": torch.zeros(1)}
    end = {"a": torch.tensor([3.0, 0.0, 4.0]), "b": torch.ones(2), "bn.running_mean": torch.ones(1)}
    found = inspect(start, end)
    assert (found.distance, found.moving[0][0], found.unmoved) == (5.0, "a", ("b",))
    assert found.ends[0].statistics == ("bn.running_mean",)
    assert "buffers=" in str(found)
    assert inspect(start, {"a": torch.zeros(2)}).problem
    assert inspect(start, {**end, "b": torch.full((2,), float("nan"))}).ends[1].non_finite == ("b",)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    assert inspect(model, {n: t + 1 for n, t in model.state_dict().items()}).dropout == ("1",)
