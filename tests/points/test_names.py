"""Wrappers' names. The kind: what wraps a model puts words of its own into parameters' names.

Siblings tried: AveragedModel (module, state dict, file), Lightning with a criterion's weight or a
metric's count beside the model, activation checkpointing, FSDP and ``torch.compile`` in the middle
of a name, EMA wrappers that hold one copy or two, a teacher beside the student, wrapped on both
sides by different wrappers.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ravine import Checkpoint, InputError, Line
from ravine.points.checkpoint import matched


def state(value=1.0):
    return {"enc.weight": torch.full((2, 3), value), "head.bias": torch.tensor([value])}


def under(prefix, value=1.0):
    return {prefix + name: tensor for name, tensor in state(value).items()}


def agree(reference, other):
    found = matched(Checkpoint.read(reference), Checkpoint.read(other)).tensors
    return {name: float(found[name].flatten()[0]) for name in found}


BESIDE = {
    "AveragedModel": under("module.") | {"n_averaged": torch.tensor(3)},
    "a float count": under("module.") | {"n_averaged": torch.tensor(3.0)},
    "a criterion": under("model.") | {"criterion.weight": torch.ones(3)},
    "a metric": under("model.") | {"val_acc.total": torch.tensor(3), "val_acc.sum": torch.ones(1)},
    "ema": under("ema_model.") | {"initted": torch.tensor([True]), "step": torch.tensor([7.0])},
    "two wrappers": under("module.model.") | {"module.loss.scale": torch.ones(1)},
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_wrapped_model_is_left_out(name):
    expected = {"enc.weight": 1.0, "head.bias": 1.0}
    assert agree(state(0.0), BESIDE[name]) == expected
    assert agree(under("_orig_mod.", 0.0), BESIDE[name]) == {
        f"_orig_mod.{name}": value for name, value in expected.items()
    }


@pytest.mark.parametrize(
    "wrapper",
    [
        *("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
        *("_forward_module", "_dmp_wrapped_module", "module", "model"),
    ],
)
def test_a_wrapper_inside_a_name_is_stripped_on_either_side(wrapper):
    inside = {n.replace("enc.", f"enc.{wrapper}."): t for n, t in state().items()}
    assert agree(state(), inside).keys() == state().keys()
    assert agree(inside, state()).keys() == inside.keys()


def test_a_checkpointed_module_has_the_names_of_its_state_dict():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.Sequential(checkpoint_wrapper(nn.Linear(2, 2)), nn.Linear(2, 1))
    saved = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    assert Line(model, saved).length == pytest.approx(9**0.5)  # of nine parameters, each moved by 1


def test_an_averaged_model_is_looked_through():
    model = nn.Linear(2, 1)
    averaged = AveragedModel(model)
    assert Checkpoint.read(averaged).tensors.keys() == {"weight", "bias"}
    start = {name: tensor + 2 for name, tensor in copy.deepcopy(model.state_dict()).items()}
    assert Line(start, averaged).length == pytest.approx(12**0.5)


@pytest.mark.parametrize(
    "held",
    [
        under("online_model.", 0.0) | under("ema_model."),
        under("model.") | under("teacher.", 2.0),
        under("model.") | under("model_ema.", 2.0),
        under("module.") | under("old.module.", 2.0),
    ],
)
def test_several_copies_of_the_model_are_no_stray_names(held):
    with pytest.raises(InputError, match=r"holds several models of these names, under .*Name one"):
        matched(Checkpoint.read(state()), Checkpoint.read(held))


def test_nothing_is_left_out_without_a_wrapper():
    with pytest.raises(InputError, match=r"only in a state dict \(the second\): 'extra'"):
        Line(state(), state() | {"extra": torch.ones(1)})
    with pytest.raises(InputError, match=r"only in a state dict \(the second\): 'model.extra'"):
        Line(state(), under("model.") | {"model.extra": torch.ones(1)})
    with pytest.raises(InputError, match=r"missing in a state dict \(the second\): 'extra'"):
        Line(state() | {"extra": torch.ones(1)}, under("model."))


def test_names_that_become_one_are_left_alone():
    held = {"model.a": torch.zeros(1), "a": torch.ones(1)}
    with pytest.raises(InputError, match="'model.a'"):
        Line({"a": torch.zeros(1)}, held)


def test_a_part_under_another_name_is_pointed_out(tmp_path):
    torch.save({"state_dict": under("net.")}, tmp_path / "lit.ckpt")
    with pytest.raises(InputError, match="holds such a model under 'net': .*FILE::net"):
        Line(state(0.0), tmp_path / "lit.ckpt")
    assert Line(state(0.0), f"{tmp_path / 'lit.ckpt'}::net").length == pytest.approx(7**0.5)


def test_a_model_with_an_adapter_around_it_is_told_what_to_do():
    """Names as peft gives them to what it puts its layers around."""
    held = {
        "base_model.model.0.base_layer.weight": torch.ones(2, 2),
        "base_model.model.0.lora_A.default.weight": torch.ones(1, 2),
    }
    for ends in ((state(), held), (held, state())):
        with pytest.raises(InputError, match=r"holds an adapter .*merge_and_unload\(\)"):
            Line(*ends)
