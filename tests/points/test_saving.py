"""Saving: what the training code wrote is what it gets back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import ravine


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(5, 3), nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_names_types_and_buffers_are_those_of_the_pattern(tmp_path: Path) -> None:
    model = Tied()
    wrapped = {
        f"module.{n}": t.to(torch.bfloat16) if t.is_floating_point() else t
        for n, t in model.state_dict().items()
    }
    torch.save(wrapped, tmp_path / "a.pt")
    soup = ravine.average([model, model])
    saved = ravine.save_checkpoint(soup, tmp_path / "soup.safetensors", like=tmp_path / "a.pt")
    found = load_file(saved)
    assert list(sorted(found)) == sorted(wrapped)
    assert all(found[name].dtype == wrapped[name].dtype for name in wrapped)
    torch.testing.assert_close(found["module.head.weight"], model.head.weight.detach().bfloat16())


def test_training_code_loads_each_format(tmp_path: Path) -> None:
    model = Tied()
    soup = ravine.average([model, Tied()])
    for name in ("soup.pt", "soup.safetensors"):
        saved = ravine.save_checkpoint(soup, tmp_path / name, like=model)
        state = torch.load(saved) if name.endswith("pt") else load_file(saved)
        fresh = Tied()
        fresh.load_state_dict(state)
        assert torch.equal(fresh.embed.weight, soup["embed.weight"])
        assert fresh.head.weight is fresh.embed.weight


def test_ties_stay_ties_in_torch_s_format(tmp_path: Path) -> None:
    saved = ravine.save_checkpoint(Tied(), tmp_path / "one.pt")
    assert ravine.Checkpoint.read(saved).ties == {"head.weight": "embed.weight"}


def test_a_folder_is_sharded_where_it_is_large_and_reads_back(tmp_path: Path) -> None:
    point = {f"layer.{k}": torch.full((4,), float(k)) for k in range(5)}
    ravine.save_checkpoint(point, tmp_path / "model", shard_bytes=40)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 80
    assert len(set(index["weight_map"].values())) == 3
    found = ravine.Checkpoint.read(tmp_path / "model")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in point.items())
    ravine.save_checkpoint(point, tmp_path / "small")
    assert (tmp_path / "small" / "model.safetensors").is_file()


def test_transformers_loads_what_was_saved(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 20, "n_positions": 16}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    one, other = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    one.save_pretrained(tmp_path / "one")
    soup = ravine.average([one, other])
    ravine.save_checkpoint(soup, tmp_path / "soup", like=tmp_path / "one")
    config.save_pretrained(tmp_path / "soup")
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "soup")
    found = dict(loaded.named_parameters())
    assert all(torch.equal(found[name], soup[name]) for name in found)


def test_a_type_as_asked(tmp_path: Path) -> None:
    saved = ravine.save_checkpoint(
        {"w": torch.ones(2)}, tmp_path / "h.safetensors", dtype=torch.float16
    )
    assert load_file(saved)["w"].dtype == torch.float16
    with pytest.raises(ravine.InputError, match="cannot hold"):
        ravine.save_checkpoint(
            {"w": torch.full((2,), 1e6)}, tmp_path / "i.safetensors", dtype=torch.float16
        )
    assert not (tmp_path / "i.safetensors").exists()


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ravine.InputError, match="cannot tell the format"):
        ravine.save_checkpoint({"w": torch.ones(2)}, tmp_path / "x.npz")
    save_file({"v": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ravine.InputError, match="not points of the same space"):
        ravine.save_checkpoint(
            {"w": torch.ones(2)}, tmp_path / "x.pt", like=tmp_path / "other.safetensors"
        )
    with pytest.raises(ravine.InputError, match="shard_bytes"):
        ravine.save_checkpoint({"w": torch.ones(2)}, tmp_path / "x", shard_bytes=0)
