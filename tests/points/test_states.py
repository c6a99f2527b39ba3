"""State dicts in a file. The kind: scripts save a dict of many things, several of them weights.

Siblings tried: a model and its average, nested dicts, ensembles in a list, optimisers with
tensors by name, one dict under two keys, flat files of several parts, metrics as tensors, dicts
that hold themselves.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ravine import Checkpoint, InputError


def state(value=1.0):
    return {"weight": torch.full((2, 3), value), "bias": torch.tensor([value, value])}


def value_of(source):
    return float(Checkpoint.read(source).tensors["weight"][0, 0])


def adam():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


ALONE = {
    "one under any key": {"model_state": state()},
    "with its optimiser": {"net": state(), "optimizer": adam(), "epoch": 3, "args": {"lr": 0.1}},
    "an optimiser by any name": {"net": state(), "opt": adam()},
    "an optimiser by the weights' names": {
        "m": state(), "optim_state": {"weight": {"exp_avg": torch.ones(2)}},
    },
    "deeper": {"model": {"state_dict": state(), "args": {"width": 3}}, "trainer": [1, 2]},
    "twice the same": (lambda s: {"state_dict": s, "model": s})(state()),
    "with metrics": {"model": state(), "metrics": {"loss": torch.tensor(0.3)}},
    "with random states": {
        "model": state(), "rng_states": {"cpu": torch.zeros(8, dtype=torch.uint8)},
    },
    "DeepSpeed's": {"module": state(), "ds_version": "0.1", "optimizer": None},
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_the_one_state_dict_is_found(name, tmp_path):
    torch.save(ALONE[name], tmp_path / "a.pt")
    for source in (ALONE[name], tmp_path / "a.pt"):
        assert Checkpoint.read(source).tensors.keys() == {"weight", "bias"}


SEVERAL = {
    "model and ema": {"model": state(), "ema": state(2.0)},
    "state_dict and state_dict_ema": {"state_dict": state(), "state_dict_ema": state(2.0)},
    "generator and discriminator": {"G": state(), "D": state(2.0), "iter": 5},
    "an ensemble": {"models": [state(), state(2.0)]},
    "deeper": {"ema": {"shadow": state(2.0)}, "model": {"params": state()}},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_of_several_one_has_to_be_named(name, tmp_path):
    torch.save(SEVERAL[name], tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds 2 state dicts: .* Name one: as a path 'FILE::"):
        Checkpoint.read(tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds 2 state dicts"):
        Checkpoint.read(SEVERAL[name])


@pytest.mark.parametrize(
    ("name", "wanted", "value"),
    [
        ("model and ema", "ema", 2.0),
        ("model and ema", "model", 1.0),
        ("an ensemble", "models.1", 2.0),
        ("deeper", "ema.shadow", 2.0),
        ("deeper", "model", 1.0),
    ],
)
def test_a_name_chooses(name, wanted, value, tmp_path):
    torch.save(SEVERAL[name], tmp_path / "a.pt")
    source = f"{tmp_path / 'a.pt'}::{wanted}"
    assert value_of(source) == value
    assert Checkpoint.read(source).label == source


def test_a_name_chooses_a_part_of_a_flat_file(tmp_path):
    flat = {
        f"{part}.{n}": t for part, v in (("unet", 1.0), ("vae", 2.0)) for n, t in state(v).items()
    }
    torch.save({"state_dict": flat}, tmp_path / "sd.ckpt")
    assert value_of(f"{tmp_path / 'sd.ckpt'}::vae") == 2.0


@pytest.mark.parametrize(
    "held", [{**state(), "extra": state()}, {"model": {**state(), "sub": state()}, "epoch": 3}]
)
def test_weights_beside_a_state_dict_are_not_passed_over(held):
    with pytest.raises(
        InputError, match=r"holds tensors \('weight', 2 in all\) beside the state dict"
    ):
        Checkpoint.read(held)


def test_names_that_become_one_are_refused():
    with pytest.raises(InputError, match="differ in their type only"):
        Checkpoint.read({0: torch.ones(2), "0": torch.zeros(2)})


def test_a_name_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    torch.save(SEVERAL["model and ema"], tmp_path / "a.pt")
    with pytest.raises(InputError, match="no state dict 'swa' .*there are 'model', 'ema'"):
        Checkpoint.read(f"{tmp_path / 'a.pt'}::swa")
    with pytest.raises(InputError, match=r"there is no checkpoint '.*b\.pt'"):
        Checkpoint.read(f"{tmp_path / 'b.pt'}::swa")


def test_a_file_that_exists_wins(tmp_path):
    torch.save(state(3.0), tmp_path / "a.pt::ema")
    torch.save(SEVERAL["model and ema"], tmp_path / "a.pt")
    assert value_of(tmp_path / "a.pt::ema") == 3.0


def test_a_dict_that_holds_itself_ends():
    held = {"epoch": 3}
    held["self"], held["list"] = held, [held] * 64
    with pytest.raises(InputError, match="is not a mapping of names to tensors"):
        Checkpoint.read(held)
    assert Checkpoint.read({**held, "model": state()}).tensors.keys() == {"weight", "bias"}
