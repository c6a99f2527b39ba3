"""Merging by peft itself, for the adapters that are more than W + s B A.

peft changes modules, and a base is tensors by name here. So it is given modules of the same names
that hold nothing else: what a layer computes plays no part in merging, its weight does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from torch import Tensor, nn

from ravine.errors import InputError
from ravine.points.formats.quiet import quiet

_PREFIX: Final = "base_model.model."

#: Starts that another load cannot make again: of random draws, and of data that the adapter's
#: folder does not have.
_LOST: Final = {
    "pissa_niter": "its start was drawn at random",
    "corda": "its start follows from data that are not with it",
    "lora_ga": "its start follows from gradients that are not with it",
}


@dataclass(frozen=True)
class Merge:
    """An adapter that peft is to merge.

    Attributes:
        folder: where it lies.
        config: as stored.
        tensors: as stored.
        beyond: what it asks for beyond plain LoRA.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    beyond: str

    def onto(self, base: Mapping[str, Tensor], before: str, instead: str) -> dict[str, Tensor]:
        """The tensors of the adapted model.

        Args:
            base: the base model's tensors by name.
            before: what stands before their names, and not before the adapter's.
            instead: what stands before the adapter's names, and not before theirs.

        Returns:
            Name → tensor, under the base's names; what is not changed is the base's own.

        Raises:
            InputError: peft is not installed, or it cannot merge the adapter onto this base.
        """
        names = {name: f"{instead}{name.removeprefix(before)}" for name in base}
        wide = {names[name]: _wide(tensor) for name, tensor in base.items()}
        try:
            with _undisturbed():
                merged = self._merged(wide)
        except InputError:
            raise
        except Exception as problem:  # peft raises what its layers raise
            said = (str(problem).strip().splitlines() or [""])[0][:200].rstrip(".")
            self._refuse(f"peft: {said or type(problem).__name__}")
        lost = [name for name, inner in names.items() if inner not in merged]
        if lost:
            self._refuse(f"peft leaves no {lost[0]!r} behind")
        return {
            name: tensor if _same(merged[names[name]], wide[names[name]]) else merged[names[name]]
            for name, tensor in base.items()
        }

    def require_possible(self) -> None:
        """Refuse what peft cannot rebuild from the folder, and everything where there is no peft.

        Raises:
            InputError: saying why.
        """
        if self.config.get("layer_replication"):
            self._refuse("it makes other layers than the base has")
        start = str(self.config.get("init_lora_weights")).lower()
        for lost, why in _LOST.items():
            if start.startswith(lost):
                self._refuse(why)
        if importlib.util.find_spec("peft") is None:
            reason = (
                "only peft can merge it, and it is not installed: pip install "
                "'ravine[transformers]'"
            )
            self._refuse(reason)

    def _refuse(self, why: str) -> NoReturn:
        msg = (
            f"{self.folder} holds {self.beyond}, not plain LoRA; {why}. Merge it where it was "
            "trained, with peft's merge_and_unload(), and save the model."
        )
        raise InputError(msg)

    def _merged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import peft
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kinds: dict[Any, Any] = dict(PEFT_TYPE_TO_CONFIG_MAPPING)
        kind = kinds.get(str(self.config["peft_type"]).upper())
        if kind is None:
            self._refuse("this version of peft does not know it")
        known = {field.name for field in fields(kind)} | {"peft_version"}
        unknown = [
            n for n, v in self.config.items() if n not in known and v not in (None, False, [], {})
        ]
        if unknown:
            self._refuse(f"this version of peft does not know its {unknown[0]!r}")
        config = kind.from_pretrained(str(self.folder))
        if config.is_prompt_learning:
            self._refuse("it changes what the model is given, and no weights")
        config.inference_mode = True
        modules: Any = self._modules(tensors)
        model = peft.PeftModel(modules, config)
        found = model.load_adapter(str(self.folder), "default")
        strange = [*found.missing_keys, *found.unexpected_keys]
        if strange:
            self._refuse(f"it does not fit: {strange[0]!r} ({len(strange)} in all)")
        merged = model.merge_and_unload(safe_merge=True)  # pyright: ignore[reportCallIssue]
        return {name: p.detach() for name, p in merged.named_parameters(remove_duplicate=False)}

    def _modules(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Modules of the names that the tensors have, each of the kind that its weight is of."""
        owned: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            place, _, own = name.rpartition(".")
            owned.setdefault(place, {})[own] = tensor
        root = nn.Module()
        for place in sorted(owned, key=lambda place: place.count(".")):
            module = root if not place else self._module(place, owned[place])
            _put(root, place, module)
            for own, tensor in owned[place].items():
                module.register_parameter(own, nn.Parameter(tensor.clone(), requires_grad=False))
        return root

    def _module(self, place: str, held: Mapping[str, Tensor]) -> nn.Module:
        weight = held.get("weight")
        if weight is None or weight.dim() < 2 or weight.dim() > 5:
            return nn.Module()
        with torch.device("meta"):
            if weight.dim() > 2:
                kind = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[weight.dim()]
                sizes = weight.shape[2:]
                return kind(weight.shape[1], weight.shape[0], tuple(sizes), bias="bias" in held)
            if self._has(place, "lora_embedding_A") or self._has(place, "trainable_tokens_delta"):
                return nn.Embedding(weight.shape[0], weight.shape[1])
            if self._is_turned(place, weight):
                from transformers.pytorch_utils import Conv1D

                return Conv1D(weight.shape[1], weight.shape[0])
            return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in held)

    def _has(self, place: str, part: str) -> bool:
        return any(name.startswith(f"{_PREFIX}{place}.{part}") for name in self.tensors)

    def _is_turned(self, place: str, weight: Tensor) -> bool:
        """Whether a weight is (in, out), as in GPT-2."""
        down = self.tensors.get(f"{_PREFIX}{place}.lora_A.weight")
        if down is not None and weight.shape[0] != weight.shape[1]:
            return down.shape[1] == weight.shape[0]
        return bool(self.config.get("fan_in_fan_out"))


def _put(root: nn.Module, place: str, module: nn.Module) -> None:
    if not place:
        return
    *outer, own = place.split(".")
    here = root
    for part in outer:
        if part not in here._modules:
            here.add_module(part, nn.Module())
        here = here.get_submodule(part)
    here.add_module(own, module)


def _wide(tensor: Tensor) -> Tensor:
    is_narrow = tensor.is_floating_point() and tensor.element_size() < 4
    return tensor.detach().float() if is_narrow else tensor.detach()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave the caller's random generators as they were, and peft's warnings aside."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet(Warning):
        yield
