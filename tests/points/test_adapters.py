"""Adapters. The kind: a configuration says what the tensors mean, perhaps something unknown.

Siblings tried: every switch as another type, a missing alpha, ranks that disagree, patterns as text
and as expressions that do not end, starts that change the base, entries of other versions, biases,
factors that do not fit. Against peft's own merging: ``tests/integrations``. Here W + s B A is
computed by hand, and peft is out of reach.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from ravine import InputError, Line
from ravine.points.formats.adapter_configs import _ends_soon

BASE = {"model.q.weight": torch.arange(6.0).reshape(3, 2), "model.norm": torch.ones(2)}
DOWN, UP = (
    torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
    torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 1.0]]),
)
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q"]}


@pytest.fixture(autouse=True)
def without_peft(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


def adapter(folder, config, down=DOWN, up=UP, more=None):
    factors = {"lora_A": down, "lora_B": up}
    tensors = {
        f"base_model.model.model.q.{n}.weight": t for n, t in factors.items() if t is not None
    }
    save_file(tensors | (more or {}), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def scale_of(folder, config):
    change = Line(BASE, adapter(folder, config)).at(1.0)["model.q.weight"] - BASE["model.q.weight"]
    scales = change[UP @ DOWN != 0] / (UP @ DOWN)[UP @ DOWN != 0]
    torch.testing.assert_close(scales, scales[:1].expand_as(scales))
    return float(scales[0])


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, 3.0),
        ({"lora_alpha": 5}, 2.5),
        ({"use_rslora": True}, 6 / math.sqrt(2)),
        ({"use_rslora": False, "use_dora": None, "bias": "none"}, 3.0),
        ({"alpha_pattern": {"q": 10}}, 5.0),
        ({"alpha_pattern": {"model.q": 10, "q": 4}}, 5.0),
        ({"alpha_pattern": {"other": 10}}, 3.0),
        ({"alpha_pattern": {r".*\.q": 10}}, 5.0),
        ({"rank_pattern": {"q": 2}, "r": 9}, 3.0),
        ({"target_modules": r".*\.q"}, 3.0),
        ({"init_lora_weights": "gaussian"}, 3.0),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, 3.0),
        ({"base_model_name_or_path": "a/b", "peft_version": "1", "lora_dropout": 0.1}, 3.0),
    ],
)
def test_the_change_is_s_times_b_a(tmp_path, changes, scale):
    assert scale_of(tmp_path, PLAIN | changes) == pytest.approx(scale)


def test_without_an_alpha_it_is_8_as_in_peft(tmp_path):
    config = {name: value for name, value in PLAIN.items() if name != "lora_alpha"}
    assert scale_of(tmp_path, config) == pytest.approx(4.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": "false"},
        {"use_rslora": 0},
        {"use_dora": "no"},
        {"fan_in_fan_out": []},
        {"lora_alpha": None},
        {"lora_alpha": "8"},
        {"lora_alpha": True},
        {"lora_alpha": 1e308},
        {"r": 2.0},
        {"r": -1},
        {"r": 10**9},
        {"r": None},
        {"alpha_pattern": ["q"]},
        {"alpha_pattern": {"q": None}},
        {"rank_pattern": {"q": "2"}},
        {"target_modules": 3},
        {"target_modules": [3]},
        {"modules_to_save": {"q": 1}},
        {"init_lora_weights": 1.5},
        {"peft_type": None},
        {"peft_type": ["LORA"]},
    ],
)
def test_an_entry_of_another_type_is_refused_by_name(tmp_path, changes):
    name = next(iter(changes))
    with pytest.raises(InputError, match=rf"adapter_config\.json' has {name} = .*; expected"):
        Line(BASE, adapter(tmp_path, PLAIN | changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, "\ud800"])
def test_a_configuration_that_is_none(tmp_path, text):
    adapter(tmp_path, PLAIN)
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(InputError, match="is not an adapter's configuration"):
        Line(BASE, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "lora_ga"},
        {"use_dora": True},
        {"use_qalora": True},
        {"lora_bias": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"alora_invocation_tokens": [1]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["w"]},
        {"layers_to_transform": [1]},
        {"exclude_modules": ["k"]},
        {"megatron_config": {"a": 1}},
        {"of_tomorrow": "yes"},
        {"peft_type": "VERA"},
        {"r": 4},
        {"rank_pattern": {"q": 1}},
        {"target_modules": ["k"]},
    ],
)
def test_what_is_more_than_plain_is_refused_without_peft(tmp_path, changes):
    with pytest.raises(
        InputError, match=r"not plain LoRA; .*merge_and_unload\(\), and save the model"
    ):
        Line(BASE, adapter(tmp_path, PLAIN | changes))


@pytest.mark.parametrize(
    ("down", "up", "more"),
    [
        (DOWN, None, {}),
        (DOWN, UP[:, :1].contiguous(), {}),
        (DOWN, UP[:2].contiguous(), {}),
        (DOWN[:1, :1].contiguous(), UP, {}),
        (DOWN, UP, {"base_model.model.model.q.lora_magnitude_vector": torch.ones(3)}),
        (DOWN, UP, {"base_model.model.model.norm": torch.ones(5)}),
        (DOWN, UP, {"base_model.model.elsewhere.weight": torch.ones(2)}),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, down, up, more):
    with pytest.raises(InputError):
        Line(BASE, adapter(tmp_path, PLAIN, down, up, more))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(.*)*x",
        r"(x+x+)+y",
        "(?=a)b",
        r"(a)\1",
        ".*" * 8,
        "(",
        "[",
        "a{2,1}",
        "(?P<n>a)(?P<n>b)",
    ],
)
@pytest.mark.parametrize(
    "entry", ["target_modules", "alpha_pattern", "rank_pattern", "exclude_modules"]
)
def test_a_pattern_whose_search_may_not_end_is_refused(tmp_path, pattern, entry):
    value = {pattern: 2} if entry.endswith("pattern") else pattern
    base = BASE | {"a" * 60: torch.ones(1)}
    base |= {f"{'a.' * 30}weight": torch.ones(1)}
    with pytest.raises(InputError, match="whose search may not end"):
        Line(base, adapter(tmp_path, PLAIN | {entry: value}))


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        r".*\.layers\.(0|1|2)\.self_attn\.(q|v)_proj",
        r"^model\.layers\.\d+\.mlp\.down_proj$",
        r"(?:.*?(?:vision|language).*?(?:attn|mlp).*?(?:q_proj|fc).*?)"
        r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:q|k))",
    ],
)
def test_patterns_that_people_write_are_taken(pattern):
    assert _ends_soon(pattern, 40)
