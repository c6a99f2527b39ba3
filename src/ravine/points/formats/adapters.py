"""Adapters: low-rank changes to a base model, as peft saves them, and the change to each parameter they amount to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats.safetensors_files import read_file

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?$")


def reads(path: Path) -> bool:
    """Whether it is a folder with an adapter's configuration."""
    return path.is_dir() and (path / CONFIG).is_file()


def read(path: Path) -> Adapter:
    """The adapter.

    Raises:
        InputError: its weights are missing, or its configuration is damaged.
    """
    if not (path / WEIGHTS).is_file():
        msg = f"the adapter in {str(path)!r} lacks {WEIGHTS!r}; save it with save_pretrained()"
        raise InputError(msg)
    return Adapter(read_file(path / WEIGHTS), _read_config(path), str(path))


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: W + s B A for some matrices W of a base, and new values for some other tensors.

    Attributes:
        tensors: as stored.
        config: as stored.
        label: where it came from.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    label: str

    def applied_to(self, base: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
        """The tensors of the adapted model; those that the adapter leaves alone are the base's own.

        Args:
            base: the base model's tensors by name.
            owner: what to call it in messages.

        Returns:
            Name → tensor, under the base's names.

        Raises:
            InputError: the adapter is for another model, or of a kind whose change is no sum.
        """
        low_rank = self._factors()
        adapted = dict(base)
        for name, tensor in self.tensors.items():
            if _FACTOR.match(name):
                continue
            plain = name.removeprefix(_PREFIX).replace(
                ".base_layer.", "."
            )  # peft keeps embeddings whole, too
            target = self._find(plain, base, owner)
            self._require_shape(target, base[target], tensor.shape, owner)
            adapted[target] = tensor
        for module, factors in low_rank.items():
            adapted |= self._changed(module, factors, adapted, owner)
        return adapted

    def _factors(self) -> dict[str, dict[str, Tensor]]:
        kind = str(self.config.get("peft_type", "")).upper()
        if kind != "LORA":
            found = f"an adapter of type {kind or 'unknown'}"
            raise self._unknown(found)
        if self.config.get("use_dora"):
            found = "a DoRA adapter, whose change is no sum"
            raise self._unknown(found)
        factors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            if factor := _FACTOR.match(name):
                factors.setdefault(factor[1].removeprefix(_PREFIX), {})[factor[2]] = tensor
            elif "lora_" in name:
                found = f"an adapter with {name!r}"
                raise self._unknown(found)
        if not factors:
            found = "an adapter without lora_A and lora_B"
            raise self._unknown(found)
        return factors

    def _unknown(self, what: str) -> InputError:
        return InputError(
            f"{self.label} holds {what}; expected LoRA. Merge it with peft's merge_and_unload() "
            "and save the model."
        )

    def _changed(
        self, module: str, factors: Mapping[str, Tensor], base: Mapping[str, Tensor], owner: str
    ) -> dict[str, Tensor]:
        embedding = "lora_embedding_A" in factors
        down, up = (factors.get(f"lora_{'embedding_' if embedding else ''}{part}") for part in "AB")
        if down is None or up is None:
            msg = f"{self.label} has only one of the two factors for {module!r}; is it complete?"
            raise InputError(msg)
        target = self._find(f"{module}.weight", base, owner)
        weight = base[target]
        wide = torch.promote_types(weight.dtype, torch.float32)
        down, up = down.to(wide), up.to(wide)
        rank = down.shape[0]
        change = torch.einsum(
            "or,r...->o...", up.flatten(1), down
        )  # of a convolution: B is one of 1 × 1
        if embedding or self.config.get("fan_in_fan_out"):
            change = change.T
        self._require_shape(target, weight, change.shape, owner)
        return {target: weight.to(wide) + self._scale(module, rank) * change}

    def _scale(self, module: str, rank: int) -> float:
        alpha = self._for(module, "alpha_pattern", self.config.get("lora_alpha", 1))
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _for(self, module: str, patterns: str, default: Any) -> Any:
        found = self.config.get(patterns) or {}
        hits = (
            value for pattern, value in found.items() if re.match(rf"(.*\.)?({pattern})$", module)
        )
        return next(hits, default)

    def _find(self, name: str, base: Mapping[str, Tensor], owner: str) -> str:
        """The base's own name for a parameter, which may stand under another prefix there."""
        if name in base:
            return name
        near = list(self._alike(name, base))
        if len(near) == 1:
            return near[0]
        what = f"{len(near)} parameters that end in it" if near else "no such parameter"
        msg = (
            f"{self.label} changes {name!r}, and {owner} has {what}: is it the model that the "
            "adapter was trained on"
            f"{self._trained_on()}?"
        )
        raise InputError(msg)

    @staticmethod
    def _alike(name: str, base: Mapping[str, Tensor]) -> Iterator[str]:
        return (other for other in base if other.endswith(f".{name}") or name.endswith(f".{other}"))

    def _trained_on(self) -> str:
        base = self.config.get("base_model_name_or_path")
        return f", {base!r}" if base else ""

    def _require_shape(self, name: str, tensor: Tensor, shape: torch.Size, owner: str) -> None:
        if tensor.shape != shape:
            msg = (
                f"{self.label} changes {name!r} by a tensor of shape {tuple(shape)}, and in "
                f"{owner} it has "
                f"{tuple(tensor.shape)}: is it the model that the adapter was trained "
                f"on{self._trained_on()}?"
            )
            raise InputError(msg)


def _read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        held = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise TypeError(type(held).__name__)
    except (OSError, ValueError, TypeError) as problem:
        msg = f"{str(folder / CONFIG)!r} is not an adapter's configuration ({problem})"
        raise InputError(msg) from problem
    return held
