"""Configurations of adapters as peft writes them: checked; plain LoRA or anything else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ravine.errors import InputError

#: peft's own, where a configuration says nothing.
ALPHA: Final = 8
RANK: Final = 8

_LARGEST: Final = 1 << 16  # rank: peft makes tensors of it before it looks at the file's
_HUGE: Final = 1e30  # float32 ends at 3e38: weights that are scaled by more than this leave it
_STEPS: Final = 5e6  # of a pattern's search, by which it ends in about a second

#: What says nothing of the change: where it was trained and how, and which modules it is for, which
#: the tensors tell.
_SAYS_NOTHING: Final = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout",
        "megatron_core", "peft_type", "peft_version", "qalora_group_size", "revision",
        "runtime_config", "task_type", "loftq_config", "eva_config",
    }
)  # fmt: skip
#: What the change follows from, as is computed here.
_KNOWN: Final = frozenset(
    {
        "alpha_pattern", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "modules_to_save",
        "r", "rank_pattern", "target_modules", "use_rslora",
    }
)  # fmt: skip
#: Starts that leave the base as it is; the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA …) take
#: something out of it.
_STARTS: Final = (None, True, False, "gaussian", "eva", "orthogonal")

_SWITCHES: Final = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "use_qalora")
_PATTERNS: Final = ("rank_pattern", "alpha_pattern")


def read_config(path: Path) -> dict[str, Any]:
    """An adapter's configuration, with every entry of the type that peft gives it.

    Raises:
        InputError: it is no JSON object, or an entry of it makes no sense.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise TypeError(type(held).__name__)
    except (OSError, ValueError, TypeError, RecursionError) as problem:
        msg = f"{str(path)!r} is not an adapter's configuration ({problem})"
        raise InputError(msg) from problem
    for name, value, expected in _problems(held):
        msg = f"{str(path)!r} has {name} = {json.dumps(value)[:80]}; expected {expected}"
        raise InputError(msg)
    return held


def _problems(held: Mapping[str, Any]) -> Iterable[tuple[str, Any, str]]:
    """Name, value and what was expected, for every entry that is of another type than peft's."""
    kind = held.get("peft_type")
    if not isinstance(kind, str):
        yield "peft_type", kind, "a name such as 'LORA'"
    for name in _SWITCHES:
        if not isinstance(held.get(name, False), bool | None):
            yield name, held[name], "true or false"
    if "r" in held and not _is_rank(held["r"]):
        yield "r", held["r"], f"a rank of at most {_LARGEST}"
    if "lora_alpha" in held and not _is_number(held["lora_alpha"]):
        yield "lora_alpha", held["lora_alpha"], "a number"
    for name, is_right in zip(_PATTERNS, (_is_rank, _is_number), strict=True):
        found = held.get(name)
        if found is None:
            continue
        if not isinstance(found, dict) or not all(map(is_right, found.values())):
            yield name, found, "a mapping from modules to numbers"
    start = held.get("init_lora_weights")
    if not isinstance(start, bool | str | None):
        yield "init_lora_weights", start, "true, false or a name"
    for name in ("target_modules", "modules_to_save", "exclude_modules"):
        if not _is_names(held.get(name)):
            yield name, held[name], "a list of names, or a pattern"


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and abs(value) < _HUGE and math.isfinite(value)


def _is_names(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return value is None or isinstance(value, str) or is_list


def beyond_plain(config: Mapping[str, Any]) -> str:
    """What a configuration asks for beyond W + s B A; "" if nothing.

    Examples:
        >>> beyond_plain({"peft_type": "LORA", "r": 4, "use_dora": False, "bias": "none"})
        ''
        >>> beyond_plain({"peft_type": "LORA", "init_lora_weights": "pissa"})
        "init_lora_weights = 'pissa'"
    """
    kind = str(config["peft_type"]).upper()
    if kind != "LORA":
        return f"an adapter of type {kind}"
    start = config.get("init_lora_weights")
    if start not in _STARTS:
        return f"init_lora_weights = {start!r}"
    if config.get("bias", "none") not in ("none", None):
        return f"bias = {config['bias']!r}"
    for name, value in config.items():
        if name not in _SAYS_NOTHING | _KNOWN | {"bias"} and value not in (None, False, [], {}):
            return f"{name} = {str(value)[:60]}"
    return ""


def require_bounded(config: Mapping[str, Any], modules: Iterable[str], label: str) -> None:
    """Refuse patterns whose search may not end.

    They come from a file, and peft runs them on every module's name.

    Raises:
        InputError: naming the pattern.
    """
    longest = max(map(len, modules), default=0)
    texts = [config.get(name) for name in ("target_modules", "exclude_modules")]
    patterns = [text for text in texts if isinstance(text, str)]
    for name in (*_PATTERNS, "layers_pattern"):
        found = config.get(name) or ()
        ends = [found] if isinstance(found, str) else map(str, found)
        patterns.extend(f"(.*\\.)?({end})" for end in ends)  # as peft puts them
    for pattern in patterns:
        if not _ends_soon(pattern, longest):
            msg = (
                f"the configuration of {label} has the pattern {pattern[:80]!r}, whose search may "
                "not end. List the modules' names instead, or merge the adapter with peft and save "
                "the model."
            )
            raise InputError(msg)


def _ends_soon(pattern: str, longest: int) -> bool:
    """Whether a regular expression is valid, with no repeated group and few repetitions."""
    bare = re.sub(r"\\.", "x", re.sub(r"\[(?:\\.|[^\]\\])*\]", "x", pattern))
    if re.search(r"\)[*+{]|\(\?(?:[^:]|$)", bare) or re.search(r"\\[1-9]", pattern):
        return False
    steps = 0
    for branch in _branches(bare):
        repetitions = len(re.findall(r"[*+{]", branch))
        steps += math.comb(longest + repetitions, repetitions)
    if steps > _STEPS:
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _branches(pattern: str) -> list[str]:
    """The alternatives of a pattern, outside all groups."""
    found, depth = [""], 0
    for character in pattern:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return found


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """S of W + s B A for a module.

    Examples:
        >>> scale({"lora_alpha": 8, "use_rslora": True}, "q_proj", 16)
        2.0
    """
    alpha = _for(module, config.get("alpha_pattern"), config.get("lora_alpha", ALPHA))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank that a configuration gives a module."""
    return int(_for(module, config.get("rank_pattern"), config.get("r", RANK)))


def _for(module: str, found: Mapping[str, Any] | None, default: Any) -> Any:
    """As peft does: the first key that is the end of the module's name, as a pattern."""
    hits = (v for key, v in (found or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(hits, default)


def keeps_copy(config: Mapping[str, Any], name: str) -> bool:
    """Whether a parameter belongs to ``modules_to_save``.

    Then peft trains a copy of its module, tied to nothing.
    """
    module = name.rpartition(".")[0]
    wanted = config.get("modules_to_save") or ()
    listed = [wanted] if isinstance(wanted, str) else wanted
    return any(module == own or module.endswith(f".{own}") for own in listed)


def is_target(config: Mapping[str, Any], module: str) -> bool:
    """Whether a configuration's ``target_modules`` take in a module, as peft has it."""
    wanted = config.get("target_modules")
    if wanted is None or wanted == "all-linear":
        return True
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)
