"""Adapters: changes to a base model as peft saves them, and the adapted model's tensors.

Plain LoRA, W + s B A, is computed here, in at least float32 and without a model. What is anything
else is left to peft itself, which made it, or refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ravine.errors import InputError
from ravine.points.formats import peft_merge, safetensors_files, torch_files
from ravine.points.formats.adapter_configs import (
    beyond_plain,
    is_target,
    keeps_copy,
    rank_of,
    read_config,
    require_bounded,
    scale,
)
from ravine.points.formats.stamps import Stamp

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_OLD: Final = "adapter_model.bin"

_PREFIX: Final = "base_model.model."
_FACTOR: Final = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?$")


def reads(path: Path) -> bool:
    """Whether it is a folder with an adapter's configuration."""
    return path.is_dir() and (path / CONFIG).is_file()


def read(path: Path, *, settled: bool = False) -> Adapter:
    """The adapter.

    Raises:
        InputError: its weights are missing, or its configuration is damaged.
    """
    config = read_config(path / CONFIG)
    if (path / WEIGHTS).is_file():
        stored = safetensors_files.read_file(path / WEIGHTS, settled=settled)
    elif (path / _OLD).is_file():
        stored = torch_files.read(path / _OLD, settled=settled)
    else:
        msg = f"the adapter in {str(path)!r} lacks {WEIGHTS!r}; save it with save_pretrained()"
        raise InputError(msg)
    strange = [name for name, value in stored.held.items() if not isinstance(value, Tensor)]
    if strange:
        msg = f"the adapter in {str(path)!r} holds {strange[0]!r}, which is no tensor"
        raise InputError(msg)
    tensors = {str(name): tensor for name, tensor in stored.held.items()}
    return Adapter(tensors, config, str(path), stored.files)


@dataclass(frozen=True)
class Adapter:
    """A change to a base model, in peft's format.

    Attributes:
        tensors: as stored.
        config: as stored.
        label: the folder it came from.
        files: those that its tensors are mapped from, as they were.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    label: str
    files: tuple[Stamp, ...] = ()

    def applied_to(self, base: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
        """The tensors of the adapted model; those that the adapter leaves alone are the base's own.

        Args:
            base: the base model's tensors by name.
            owner: what to call it in messages.

        Returns:
            Name → tensor, under the base's names.

        Raises:
            InputError: the adapter is for another model, or of a kind that cannot be merged.
        """
        modules = {name.rpartition(".")[0] for name in base}
        require_bounded(self.config, modules, self.label)
        beyond = beyond_plain(self.config) or self._unlike()
        if beyond:
            return self._by_peft(beyond, base, owner)
        adapted = dict(base)
        for name, tensor in self._whole().items():
            target = self._find(name, base, owner)
            self._require_shape(target, base[target], tensor.shape, owner)
            adapted[target] = tensor
        for module, factors in self._factors().items():
            adapted |= self._changed(module, factors, adapted, owner)
        return adapted

    def retied(
        self, adapted: dict[str, Tensor], base: Mapping[str, Tensor], ties: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """The adapted tensors, where a change to one of several tied ones is a change to each.

        Raises:
            InputError: the adapter unties them.
        """
        for alias, name in ties.items():
            changed = [n for n in (name, alias) if adapted[n] is not base[n]]
            apart = len(changed) == 2 and not torch.equal(adapted[name], adapted[alias])
            if apart or (len(changed) == 1 and keeps_copy(self.config, changed[0])):
                msg = (
                    f"{self.label} has its own {changed[-1]!r} (modules_to_save), which is tied to "
                    f"{name if changed[-1] == alias else alias!r} in the base: its model is no "
                    "point of the base's space. Untie them in the base, and save it so."
                )
                raise InputError(msg)
            if changed:
                adapted[alias] = adapted[name] = adapted[changed[0]]
        return adapted

    def _whole(self) -> dict[str, Tensor]:
        """The tensors that replace the base's: of ``modules_to_save``, and embeddings."""
        return {
            name.removeprefix(_PREFIX).replace(".base_layer.", "."): tensor
            for name, tensor in self.tensors.items()
            if not _FACTOR.match(name)
        }

    def _factors(self) -> dict[str, dict[str, Tensor]]:
        factors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            if factor := _FACTOR.match(name):
                factors.setdefault(factor[1].removeprefix(_PREFIX), {})[factor[2]] = tensor
        return factors

    def _unlike(self) -> str:
        """What in the tensors is no plain LoRA, or not as configured; "" if nothing."""
        factors = self._factors()
        if not factors:
            return "no lora_A and lora_B"
        for name in self._whole():
            if "lora_" in name or "trainable_tokens" in name:
                return f"the tensor {name!r}"
        for module, parts in factors.items():
            ranks = {
                t.shape[0] if n.endswith("A") else t.shape[-1]
                for n, t in parts.items()
                if t.dim() == 2
            }
            if not is_target(self.config, module):
                return f"factors for {module!r}, which is no target module"
            if ranks - {rank_of(self.config, module)}:
                return (
                    f"factors of rank {max(ranks)} for {module!r}, where r = "
                    f"{rank_of(self.config, module)}"
                )
        return ""

    def _by_peft(self, beyond: str, base: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
        merge = peft_merge.Merge(Path(self.label), self.config, self.tensors, beyond)
        merge.require_possible()
        fronts = {self._front(module, base, owner) for module in self._factors()}
        if len(fronts) > 1:
            msg = f"{self.label} names its modules in several ways; is it for {owner}?"
            raise InputError(msg)
        return merge.onto(base, *(fronts or {("", "")}).pop())

    def _front(self, module: str, base: Mapping[str, Tensor], owner: str) -> tuple[str, str]:
        """What stands before the base's names and not the adapter's, and the other way round."""
        name = f"{module}.weight"
        found = self._find(name, base, owner)
        if found.endswith(name):
            return found.removesuffix(name), ""
        return "", name.removesuffix(found)

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
        # in half precision the product of two small factors would lose most of its digits
        wide = torch.promote_types(weight.dtype, torch.float32)
        down, up = down.to(wide), up.to(wide).flatten(1)  # of a convolution: B is one of 1 × 1
        rank = down.shape[0]
        if up.dim() != 2 or up.shape[1] != rank:
            msg = (
                f"{self.label} has factors for {module!r} of shapes {tuple(down.shape)} and "
                f"{tuple(up.shape)}"
            )
            raise InputError(msg)
        change = torch.einsum("or,r...->o...", up, down)
        if embedding or self.config.get("fan_in_fan_out"):
            # GPT-2's Conv1D keeps its weight transposed, and embeddings their factors
            change = change.T
        self._require_shape(target, weight, change.shape, owner)
        return {target: weight.to(wide) + scale(self.config, module, rank) * change}

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
            f"adapter was trained on{self._trained_on()}?"
        )
        raise InputError(msg)

    @staticmethod
    def _alike(name: str, base: Mapping[str, Tensor]) -> Iterator[str]:
        return (other for other in base if other.endswith(f".{name}") or name.endswith(f".{other}"))

    def _trained_on(self) -> str:
        base = self.config.get("base_model_name_or_path")
        return f", {str(base)[:200]!r}" if base else ""

    def _require_shape(self, name: str, tensor: Tensor, shape: torch.Size, owner: str) -> None:
        if tensor.shape != shape:
            msg = (
                f"{self.label} changes {name!r} by a tensor of shape {tuple(shape)}, and in "
                f"{owner} it has {tuple(tensor.shape)}: is it the model that the adapter was "
                f"trained on{self._trained_on()}?"
            )
            raise InputError(msg)
